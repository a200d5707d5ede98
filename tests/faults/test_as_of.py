"""Questions as of a time have the same answer later; and the test sees it where they have not."""

from __future__ import annotations

import pytest

from forecaster.cycle import record
from forecaster.cycle.ingest import BarIngestor
from forecaster.stopwatch import CommitTimes
from forecaster.store.queries import LedgerQueries
from tests.faults.as_of import play

PAIRS = 120


def test_no_answer_changes_when_the_ledger_has_grown(tmp_path):
    """All reads, as of any time, asked in the middle of cycles too."""
    growing = play(PAIRS, 1, tmp_path)

    assert growing.differences == []
    assert growing.counts.total() > PAIRS
    assert len(growing.counts) == 13


def bars_seen_before_they_came(monkeypatch):
    """As if bars had been there when the cycle began."""
    monkeypatch.setattr(
        BarIngestor,
        "_write_in_time",
        lambda _, watch, write, stamps: [write(watch._start), stamps.append(watch._start)][0],
    )


def forecasts_there_before_their_commit(monkeypatch):
    """Stamped when they were asked for."""
    stamp = record.stamp
    monkeypatch.setattr(record, "stamp", lambda *given: stamp(*given[:3], 0))
    monkeypatch.setattr(CommitTimes, "allowance_ms", 0)


def newest_forecast_whenever_it_is_asked(monkeypatch):
    """Whatever the time asked for."""
    latest = LedgerQueries.latest
    monkeypatch.setattr(LedgerQueries, "latest", lambda self, key, model, *_, as_of=None: latest(self, key, model))


FAULTS = [bars_seen_before_they_came, forecasts_there_before_their_commit, newest_forecast_whenever_it_is_asked]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_planted_fault_is_seen(fault, tmp_path, monkeypatch):
    fault(monkeypatch)

    assert play(PAIRS, 1, tmp_path).differences
