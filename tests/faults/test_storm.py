"""What must hold while everything goes wrong: a sample of what `python -m tests.faults.storm` plays at length."""

from __future__ import annotations

import json

import pytest

from forecaster.bars import Bars
from forecaster.sources.exchange import source as exchange_source
from tests.faults import storm
from tests.faults.exchange import unhurried
from tests.faults.storm import FAULTS, Case, play
from tests.faults.venues import VENUES

pytestmark = pytest.mark.processes
HANGS = 60.0
"""Seconds by which only a pull that hangs is longer than told; the harness itself measures it closely."""

CASES = [Case(venue, fault, seed) for seed, fault in enumerate(FAULTS) for venue in [list(VENUES)[seed % len(VENUES)]]]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    unhurried(monkeypatch)
    monkeypatch.setattr(exchange_source, "MARKETS_RELOAD_SECONDS", 0.0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.venue} {case.fault}")
def test_every_fault_once(case):
    assert play(case, HANGS).broken == []


def test_bars_that_are_stored_wrong_would_be_seen(monkeypatch):
    """One of an answer's bars has another volume than it had."""
    fetched = Bars.validate_rows

    def spoil(key, opens, values, *more):
        bars, rejected = fetched(key, opens, values, *more)
        if len(bars) < 20:
            return bars, rejected
        changed = bars.ohlcv_TF.copy()
        changed[5, 4] += 1
        return Bars(key, bars.open_time, changed, bars.first_seen_at), rejected

    monkeypatch.setattr(Bars, "validate_rows", spoil)

    assert any("that never were" in text for text in play(Case("binance", "duplicates", 1)).broken)


def test_bars_that_are_missing_would_be_seen(monkeypatch):
    """Every slot that was ever empty is taken for a gap at once."""
    monkeypatch.setattr("forecaster.cycle.refetch._is_gap", lambda *_: True)

    assert any("are missing" in text for seed in range(4) for text in play(Case("binance", "gap", seed)).broken)


def test_requests_that_come_too_early_would_be_seen(monkeypatch):
    monkeypatch.setattr("forecaster.sources.exchange.breaker.Breaker._check_permitted", lambda *_: None)
    broken = [text for seed in range(3) for text in play(Case("binance", "status 429", seed)).broken]

    assert any("before Retry-After" in text for text in broken)


def test_command_plays_and_counts(monkeypatch, capsys):
    arguments = ["storm", "--venues", "binance", "--faults", "html", "late", "--processes", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        storm.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert ended.value.code == 0
    assert (record["cases"], record["broken"]) == (2, 0)
    assert record["slowest_pull"] > 0
