"""Labels as people write them: what is honest passes, and a label that is read into another session is found."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.bars import Bars
from forecaster.replay.session_labels import CALENDAR_ZONES, LABEL_FORMATS, TOTAL_CHECKS, verify_labels
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
    assert (report.checked, report.identical, report.ok) == (TOTAL_CHECKS, TOTAL_CHECKS, True)
    assert heard[-1] == (TOTAL_CHECKS, TOTAL_CHECKS)
    assert len(heard) == len(CALENDAR_ZONES)


@pytest.mark.parametrize("form", LABEL_FORMATS)
def test_perturbations_of_later_rows_are_no_fault_of_honest_labels(tmp_path, monkeypatch, form):
    """Whatever the perturbation leaves of them: every second row, which is another timeframe's, or none."""
    monkeypatch.setattr("forecaster.replay.session_labels.LABEL_FORMATS", {form: LABEL_FORMATS[form]})
    monkeypatch.setattr("forecaster.replay.session_labels.PERTURBATIONS", {"every second row is gone": _half})
    report = verify_labels(tmp_path)

    assert report.failures == []


def test_dates_taken_from_utc_are_found(tmp_path, monkeypatch):
    """East of Greenwich, in files and frames: as a whole, and as of a cutoff that sees a later row; not in the west."""
    monkeypatch.setattr("forecaster.sessions.SessionCalendar.opens_of_labels", leaks.utc_dates)
    report = verify_labels(tmp_path)
    local = [one for one in report.failures if "local" in one.component]

    assert not report.ok
    assert {exchange_of(one) for one in local} == EAST
    assert {one.component for one in local} == {f"labels: {form}" for form in LABEL_FORMATS if "local" in form}
    assert {exchange_of(one) for one in report.failures if "+14:00" in one.component} == set(CALENDAR_ZONES)
    assert {one.perturbation for one in local} > {"none", "x1e6"}
    assert not [one for one in report.failures if "of dates" in one.component or "-12:00" in one.component]


def test_rows_of_the_next_session_are_found_by_their_perturbation(tmp_path, monkeypatch):
    """A source that gives each row one session early has the right sessions; what they hold is of later rows."""
    fetch = FileSource.fetch

    def early(self, key, since, as_of):
        fetched = fetch(self, key, None, 2**60)
        bars = fetched.bars
        moved = Bars(key, bars.open_time[:-1], bars.ohlcv_TF[1:]) if len(bars) else bars
        return fetched._replace(bars=moved.closed_by(as_of))

    monkeypatch.setattr(FileSource, "fetch", early)
    report = verify_labels(tmp_path)

    assert {one.component for one in report.failures} == {
        f"labels: {form}" for form in LABEL_FORMATS if "frame" not in form
    }
    assert len(report.failures) == 2 * len(CALENDAR_ZONES) * sum("frame" not in form for form in LABEL_FORMATS)


def test_another_seed_takes_other_cutoffs(tmp_path, monkeypatch):
    monkeypatch.setattr("forecaster.sessions.SessionCalendar.opens_of_labels", leaks.utc_dates)
    one, other = ({failure.cutoff for failure in verify_labels(tmp_path, seed).failures} for seed in (3, 4))

    assert one != other
