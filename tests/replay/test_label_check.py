"""Labels as people write them: what is honest passes, and a label that is read into another session is found."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.bars import Bars
from forecaster.replay.label_check import CHECKS, EXCHANGES, FORMS, verify_labels
from forecaster.sources.files import FileSource
from tests.replay import leaks

EAST = {"XNZE", "XTKS", "XHKG", "XETR", "XLON"}


def _half(later_TF, random):
    return np.where(np.arange(len(later_TF))[:, np.newaxis] % 2, later_TF, np.nan)


def exchange_of(failure):
    return failure.series.split()[-1]


def test_honest_labels_pass(tmp_path):
    heard = []
    report = verify_labels(tmp_path, 1, lambda done, total: heard.append((done, total)))

    assert report.failures == []
    assert (report.checked, report.identical, report.ok) == (CHECKS, CHECKS, True)
    assert heard[-1] == (CHECKS, CHECKS)
    assert len(heard) == len(EXCHANGES)


@pytest.mark.parametrize("form", FORMS)
def test_poisons_of_later_rows_are_no_fault_of_honest_labels(tmp_path, monkeypatch, form):
    """Whatever the poison leaves of them: every second row, which is another timeframe's, or none."""
    monkeypatch.setattr("forecaster.replay.label_check.FORMS", {form: FORMS[form]})
    monkeypatch.setattr("forecaster.replay.label_check.POISONS", {"every second row is gone": _half})
    report = verify_labels(tmp_path)

    assert report.failures == []


def test_dates_taken_from_utc_are_found(tmp_path, monkeypatch):
    """East of Greenwich, in files and frames: as a whole, and as of a cutoff that sees a later row; not in the west."""
    monkeypatch.setattr("forecaster.calendars._Sessions.opens_of_labels", leaks.utc_dates)
    report = verify_labels(tmp_path)
    local = [one for one in report.failures if "local" in one.what]

    assert not report.ok
    assert {exchange_of(one) for one in local} == EAST
    assert {one.what for one in local} == {f"labels: {form}" for form in FORMS if "local" in form}
    assert {exchange_of(one) for one in report.failures if "+14:00" in one.what} == set(EXCHANGES)
    assert {one.poison for one in local} > {"none", "x1e6"}
    assert not [one for one in report.failures if "of dates" in one.what or "-12:00" in one.what]


def test_rows_of_the_next_session_are_found_by_their_poison(tmp_path, monkeypatch):
    """A source that gives each row one session early has the right sessions; what they hold is of later rows."""
    fetch = FileSource.fetch

    def early(self, key, since, as_of):
        fetched = fetch(self, key, None, 2**60)
        bars = fetched.bars
        moved = Bars(key, bars.open_time[:-1], bars.ohlcv_TF[1:]) if len(bars) else bars
        return fetched._replace(bars=moved.known_at(as_of))

    monkeypatch.setattr(FileSource, "fetch", early)
    report = verify_labels(tmp_path)

    assert {one.what for one in report.failures} == {f"labels: {form}" for form in FORMS if "frame" not in form}
    assert len(report.failures) == 2 * len(EXCHANGES) * sum("frame" not in form for form in FORMS)


def test_another_seed_takes_other_cutoffs(tmp_path, monkeypatch):
    monkeypatch.setattr("forecaster.calendars._Sessions.opens_of_labels", leaks.utc_dates)
    one, other = ({failure.cutoff for failure in verify_labels(tmp_path, seed).failures} for seed in (3, 4))

    assert one != other
