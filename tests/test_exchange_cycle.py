"""A full cycle on a real ccxt client: bars from a loopback exchange, forecasts in the ledger, then their outcomes."""

from __future__ import annotations

import pytest
import structlog

from forecaster import Forecaster
from forecaster.config import Config
from forecaster.errors import StoreUnavailable
from forecaster.store.sql import SqlStore
from forecaster.timeframe import Timeframe
from tests.builders import utc_ms
from tests.faults.exchange import LoopbackExchange, by_hand, unhurried

HOUR = Timeframe("1h")
NOW = utc_ms("2024-03-01 12:00") + 7_000
HORIZON = 4


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """No test waits, and none is late."""
    unhurried(monkeypatch)
    return by_hand(monkeypatch)


@pytest.fixture
def exchange():
    """Plays both venues; `exchange` is Kraken's server where a fault concerns it alone."""
    with LoopbackExchange(now=NOW) as exchange:
        yield exchange


@pytest.fixture
def other_exchange():
    with LoopbackExchange(now=NOW) as exchange:
        yield exchange


def make_config(exchange, tmp_path, *symbols, binance=None):
    servers = {"binance": binance or exchange, "kraken": exchange}
    return Config.model_validate(
        {
            "exchanges": {name: server.config(name).model_dump() for name, server in servers.items()},
            "series": [
                {"exchange": name, "symbol": symbol, "timeframe": "1h"}
                for name, symbol in (("binance", "BTC/USDT"), ("kraken", "BTC/USD"), *symbols)
            ],
            "model": {"id": "nano", "compile": "off", "context": 128, "horizon": HORIZON},
            "store": {"url": f"sqlite:///{tmp_path}/ledger.db"},
        }
    )


def test_bars_are_pulled_forecast_and_settled(exchange, tmp_path):
    """Binance and Kraken: the forming bar is left out, both are forecast, and the next bars settle them."""
    with Forecaster(make_config(exchange, tmp_path)) as forecaster:
        first = forecaster.run_cycle(HOUR, NOW)
        binance, kraken = forecaster.series
        newest = int(forecaster.store.bars(binance).close_time[-1])
        exchange.now = NOW + 2 * HOUR.ms
        second = forecaster.run_cycle(HOUR, exchange.now)
        held = forecaster.store.bars(kraken)

    assert first.skipped == {}
    assert first.bars_added == 2 * 128
    assert {one.key for one in first.forecasts} == {binance, kraken}
    assert newest == utc_ms("2024-03-01 12:00")
    assert second.bars_added == 4
    assert second.settled_rows == 2 * 2 * 2 * 4  # series, models, steps that closed, fields
    (of_kraken,) = (one.steps for one in second.settled if one.steps.key == kraken)
    assert set(of_kraken.actual_NF[:, 3]) <= set(held.close)


def test_ledger_holds_the_forecasts_for_another_process(exchange, tmp_path):
    config = make_config(exchange, tmp_path)
    with Forecaster(config) as forecaster:
        made = forecaster.run_cycle(HOUR, NOW).forecasts
    with Forecaster(config) as reader:
        read = [reader.latest(one.key.exchange, one.key.symbol, "1h") for one in made]

    for one, other in zip(made, read, strict=True):
        assert one.cutoff == other.cutoff
        assert one.values_FHQ.tobytes() == other.values_FHQ.tobytes()


@pytest.mark.parametrize("fault", ["html", "reset"])
def test_a_broken_exchange_skips_its_series_alone(exchange, other_exchange, tmp_path, clock, fault):
    """Kraken fails in the way named, however often it is asked; it is back at a later cycle."""
    with Forecaster(make_config(exchange, tmp_path, binance=other_exchange)) as forecaster:
        forecaster.run_cycle(HOUR, NOW)
        exchange.now = other_exchange.now = NOW + HOUR.ms
        exchange.fail_next(fault, times=1000, at="bars", status=503)
        second = forecaster.run_cycle(HOUR, exchange.now)
        exchange.recover()
        clock.seconds += forecaster._sources[forecaster.series[1]].seconds_held
        third = forecaster.run_cycle(HOUR, exchange.now + 60_000)

    assert [str(key) for key in second.skipped] == ["kraken BTC/USD 1h"]
    assert second.given_up == frozenset()
    assert [str(one.key) for one in second.forecasts] == ["binance BTC/USDT 1h"]
    assert third.skipped == {}
    assert [str(one.key) for one in third.forecasts] == ["kraken BTC/USD 1h"]


def test_wait_that_the_store_cannot_keep_fails_no_series(exchange, other_exchange, tmp_path, monkeypatch):
    """Kraken asks for patience, and the disk is full: it is waited for all the same, and both series are forecast."""
    kept = []

    def fail(_, name, until, *__):
        kept.append((name, until))
        raise StoreUnavailable("sqlite:///ledger.db", "database or disk is full")

    monkeypatch.setattr(SqlStore, "hold", fail)
    exchange.fail_next("status", at="bars", status=429, headers={"Retry-After": "1"})
    with (
        structlog.testing.capture_logs() as logs,
        Forecaster(make_config(exchange, tmp_path, binance=other_exchange)) as forecaster,
    ):
        report = forecaster.run_cycle(HOUR, NOW)

    assert report.skipped == {}
    assert len(report.forecasts) == 2
    assert [name for name, _ in kept] == ["kraken"]
    assert [one["exchange"] for one in logs if one["event"] == "hold.not_written"] == ["kraken"]


def test_unknown_symbol_is_named(exchange, tmp_path):
    with Forecaster(make_config(exchange, tmp_path, ("binance", "NO/SUCH"))) as forecaster:
        report = forecaster.run_cycle(HOUR, NOW)

    ((key, reason),) = report.skipped.items()
    assert str(key) == "binance NO/SUCH 1h"
    assert reason.startswith("UnknownSymbol")
    assert report.given_up == {key}
    assert len(report.forecasts) == 2
