"""A sample of what `python -m tests.faults.one_victim` plays at length, and that others who wait would be seen."""

from __future__ import annotations

import json

import pytest

from tests.faults import one_victim
from tests.faults.exchange import LoopbackExchange
from tests.faults.one_victim import ALL_WELL, WELL_AGAIN, Forecasts, Outcome, Scene, late_or_missing, lost_time, play

SPEED = 10
WAITS_FOR_ALL = """
import time
from forecaster.sources.fetch_pool import FetchPool

FetchPool._is_ready = lambda self, keys, deadline, _: not self._unfinished(keys) or time.monotonic() >= deadline
"""
BELIEVES_AT_ONCE = """
from forecaster.cycle import refetch
from forecaster.sources.plausibility import Changes

find_changes = refetch.find_changes
refetch.find_changes = lambda bars, stored: Changes(find_changes(bars, stored).changed, [])
"""
LEAVES_ONE_OUT = """
from forecaster.cycle.ingest import BarIngestor

ask = BarIngestor._request
BarIngestor._request = lambda self, keys, as_of: ask(self, [key for key in keys if key.symbol != "COIN1/USDT"], as_of)
"""


def make_scene(name, *seconds, late=0, missing=0):
    return Scene(name, [0], Forecasts(list(seconds), late, missing), Forecasts([70.0], 1))


@pytest.mark.processes
def test_one_victim_costs_the_others_nothing():
    """The other scenes, and how long the others take, are for the harness itself: here no time is a limit."""
    found = play(5, 1, SPEED, [ALL_WELL, "no new bar", "answers by drops", "a price far off, once", WELL_AGAIN])

    assert found.wrong + late_or_missing(found.scenes) == []
    assert [len(one.others.seconds) for one in found.scenes] == [4] * 5
    assert [one.victim.missing for one in found.scenes] == [0] * 5


@pytest.mark.processes
def test_others_who_wait_would_be_seen():
    """A cycle that takes what has come only when all has."""
    found = play(3, 1, SPEED, [ALL_WELL, "answers by drops"], WAITS_FOR_ALL)

    assert any("answers by drops: the median" in text for text in lost_time(found.scenes)), found


@pytest.mark.processes
def test_price_that_is_believed_at_once_would_be_seen():
    found = play(3, 1, SPEED, [ALL_WELL, "a price far off, once"], BELIEVES_AT_ONCE)

    assert found.wrong == ["binance COIN0/USDT 1m: wrong bars: 1"]


@pytest.mark.processes
def test_missing_forecast_would_be_seen():
    """A series that is not one of those that go wrong, and is never asked for."""
    found = play(3, 1, SPEED, [ALL_WELL], LEAVES_ONE_OUT)

    assert any("1 missing" in text for text in late_or_missing(found.scenes)), found


def test_more_than_half_a_second_is_lost_time():
    """Against the better of the scenes in which all is well."""
    scenes = [
        make_scene(ALL_WELL, 6.0, 6.2, 9.0),
        make_scene("unknown", 6.4, 6.4, 6.75),
        make_scene("no new bar", 6.0, 6.8, 6.8),
        make_scene(WELL_AGAIN, 6.1, 6.3, 6.3),
    ]

    assert lost_time(scenes) == [
        "all well: the max of the others is 9.00 s, where all is well 6.30 s",
        "no new bar: the median of the others is 6.80 s, where all is well 6.20 s",
    ]


def test_scene_without_a_forecast_is_lost_time():
    assert len(lost_time([make_scene(ALL_WELL, 6.0), make_scene("unknown")])) == 2
    assert lost_time([make_scene(ALL_WELL), make_scene("unknown", 6.0)]) != []


def test_late_and_missing_forecasts_of_others_are_told_by_scene():
    scenes = [make_scene(ALL_WELL, 6.0), make_scene("unknown", 70.0, late=1), make_scene(WELL_AGAIN, missing=2)]

    assert [text.split(" {")[0] for text in late_or_missing(scenes)] == [
        "unknown: of the others 1 late, 0 missing",
        "all well again: of the others 0 late, 2 missing",
    ]


@pytest.mark.parametrize(("seconds", "code"), [(6.4, 0), (6.6, 1)])
def test_verdict_is_the_exit_code(monkeypatch, capsys, seconds, code):
    scenes = [make_scene(ALL_WELL, 6.0), make_scene("unknown", seconds)]
    monkeypatch.setattr(one_victim, "play", lambda *_, **__: Outcome(scenes, []))
    monkeypatch.setattr("sys.argv", ["one_victim", "--json"])
    with pytest.raises(SystemExit) as ended:
        one_victim.main()
    record = json.loads(capsys.readouterr().out)

    assert ended.value.code == code
    assert len(record["wrong"]) == 2 * code
    assert record["scenes"]["unknown"] == {
        "others": {"forecasts": 1, "late": 0, "missing": 0, "median": seconds, "max": seconds},
        "victim": {"forecasts": 1, "late": 1, "missing": 0, "median": 70.0, "max": 70.0},
    }


def test_fault_of_one_symbol_spares_the_others():
    """It waits for a request about bars of its symbol, and takes the fault that is meant for all after it."""
    now = 1_717_999_230_000
    with LoopbackExchange(now) as exchange:
        exchange.fail_next("status", status=500, times=2, symbol="ETH/USDT")
        exchange.fail_next("status", status=503)
        asked = ["BTCUSDT", "BTCUSDT", "ETHUSDT", "ETHUSDT", "ETHUSDT"]
        query = {"interval": "1m", "startTime": str(now - 60_000), "limit": "10"}
        statuses = [exchange.answer("/api/v3/klines", {"symbol": one} | query).status for one in asked]
        markets = exchange.answer("/api/v3/exchangeInfo", {})

    assert statuses == [503, 200, 500, 500, 200]
    assert markets.status == 200


def test_price_that_is_far_off_is_that_of_the_newest_bar_that_has_closed():
    now = 1_717_999_230_000
    with LoopbackExchange(now) as exchange:
        query = {"symbol": "BTCUSDT", "interval": "1m", "startTime": str(now - 150_000), "limit": "10"}
        exchange.fail_next("far", symbol="BTC/USDT")
        far, true = (json.loads(exchange.answer("/api/v3/klines", query).body) for _ in range(2))

    assert [one[0] for one, other in zip(far, true, strict=True) if one != other] == [now - 90_000]
    assert float(far[-2][4]) == pytest.approx(1.5 * float(true[-2][4]))
