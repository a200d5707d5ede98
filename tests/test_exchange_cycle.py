"""A full cycle on a real ccxt client: bars from a loopback exchange, forecasts in the ledger, then their outcomes."""

from __future__ import annotations

import numpy as np
import pytest
import structlog

from forecaster import Forecaster
from forecaster.config import Config
from forecaster.errors import InvalidBars, StoreUnavailable
from forecaster.store.sql import SqlStore
from forecaster.timeframe import Timeframe
from tests.builders import utc_ms
from tests.faults.exchange import LoopbackExchange, by_hand, unhurried

HOUR, DAY = Timeframe("1h"), Timeframe("1d")
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


def make_cycle(exchange, tmp_path, symbol="BTC/USDT", timeframe="1h", **series):
    """Run one cycle of one series at Binance; the report, the bars stored and the rows refused."""
    config = Config.model_validate(
        {
            "exchanges": {"binance": exchange.config("binance").model_dump()},
            "series": [{"exchange": "binance", "symbol": symbol, "timeframe": timeframe, **series}],
            "model": {"id": "nano", "compile": "off", "context": 128, "horizon": HORIZON},
            "store": {"url": f"sqlite:///{tmp_path}/ledger.db"},
        }
    )
    with Forecaster(config) as forecaster:
        report = forecaster.run_cycle(Timeframe(timeframe), exchange.now)
        (key,) = forecaster.series
        return report, forecaster.store.bars(key), forecaster.store.rejected_rows(key)


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
        read = [reader.latest(one.key, max_age="any") for one in made]

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
        clock.seconds += forecaster._sources[forecaster.series[1]]._breaker.seconds_left
        third = forecaster.run_cycle(HOUR, exchange.now + 60_000)

    assert [str(key) for key in second.skipped] == ["kraken BTC/USD 1h"]
    assert second.permanent_failures == frozenset()
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
    assert [one["exchange"] for one in logs if one["event"] == "hold.write_failed"] == ["kraken"]


def test_unknown_symbol_is_named(exchange, tmp_path):
    with Forecaster(make_config(exchange, tmp_path, ("binance", "NO/SUCH"))) as forecaster:
        report = forecaster.run_cycle(HOUR, NOW)

    ((key, reason),) = report.skipped.items()
    assert str(key) == "binance NO/SUCH 1h"
    assert reason.startswith("UnknownSymbol")
    assert report.permanent_failures == {key}
    assert len(report.forecasts) == 2


def test_series_that_was_renamed_names_the_new_symbol(exchange, tmp_path):
    exchange.symbols.add("POL/USDT")
    report, _, _ = make_cycle(exchange, tmp_path, "MATIC/USDT")
    (reason,) = report.skipped.values()

    assert reason.startswith("UnknownSymbol: binance: expected one of its 4 symbols, found 'MATIC/USDT'; similar: ")
    assert "POL/USDT" in reason


def test_market_that_is_no_longer_traded_has_no_newest_bar(exchange, tmp_path):
    """Of the market's last days there may be bars; the newest is missing, and the dates say since when."""
    exchange.halt("BTC/USDT", NOW - 40 * DAY.ms)
    report, _, _ = make_cycle(exchange, tmp_path, timeframe="1d")
    (reason,) = report.skipped.values()

    assert report.forecasts == []
    assert reason == (
        "MissingBars: binance BTC/USDT 1d: expected a bar that closes at 2024-03-01 00:00 UTC, "
        "the newest closes at 2024-01-22 00:00 UTC"
    )


def test_bars_without_a_volume_are_forecast(exchange, tmp_path):
    exchange.knows_volume = False
    report, bars, rejected = make_cycle(exchange, tmp_path)

    assert (report.skipped, rejected) == ({}, [])
    assert len(report.forecasts) == 1
    assert len(bars) == 128
    assert np.isnan(bars.ohlcv_TF[:, 4]).all()


def test_days_off_the_grid_are_refused_with_their_count_and_the_key_that_settles_it(exchange, tmp_path):
    """Not one row is a bar; that is another thing than a bar which is late."""
    exchange.days_begin = 16 * HOUR.ms
    report, bars, rejected = make_cycle(exchange, tmp_path, timeframe="1d")
    (reason,) = report.skipped.values()

    assert len(bars) == 0
    assert reason == (
        f"InvalidBars: binance BTC/USDT 1d: {len(rejected)} of {len(rejected)} rows are not bars: open time must be on "
        f"the 1d grid of 24/7 ({len(rejected)}): all rows open at 16:00 UTC: `day_anchor` (--day-anchor '16:00 UTC')"
    )


def test_days_are_forecast_where_their_anchor_is_said(exchange, tmp_path):
    exchange.days_begin = 16 * HOUR.ms
    report, bars, rejected = make_cycle(exchange, tmp_path, timeframe="1d", day_anchor="16:00")
    (forecast,) = report.forecasts

    assert (report.skipped, rejected) == ({}, [])
    assert len(bars) == 128
    assert forecast.cutoff == utc_ms("2024-02-29 16:00")


def test_times_in_microseconds_are_told_by_one_reason(exchange, tmp_path):
    exchange.per_ms = 1000
    report, _, rejected = make_cycle(exchange, tmp_path)
    (reason,) = report.skipped.values()

    assert len({row.reason for row in rejected}) == 1
    assert reason.startswith("InvalidBars: binance BTC/USDT 1h: 129 of 129 rows are not bars: open time must be whole")


def test_newest_bar_that_is_refused_is_not_called_missing(exchange, tmp_path):
    """The others are stored; the next answer may mend it."""
    close = exchange.rows("BTC/USDT", "1h", NOW - 2 * HOUR.ms, NOW)[-2][0]
    exchange.revised[close] = 1e16
    first, bars, _ = make_cycle(exchange, tmp_path)
    exchange.revised.clear()
    second, mended, _ = make_cycle(exchange, tmp_path)

    assert list(first.skipped.values()) == [
        "InvalidBars: binance BTC/USDT 1h: 1 of 128 rows are not bars: prices must be below 1e+15 (1)"
    ]
    assert (len(bars), len(mended)) == (127, 128)
    assert second.skipped == {}
    assert len(second.forecasts) == 1


def test_history_of_rows_that_are_no_bars_ends_with_the_reason(exchange, tmp_path):
    """Part by part as well; what was refused is kept."""
    exchange.per_ms = 1000
    with Forecaster(make_config(exchange, tmp_path)) as forecaster:
        key = forecaster.series[0]
        with pytest.raises(InvalidBars, match="rows are not bars: open time must be whole milliseconds"):
            list(forecaster.backfill(key, NOW - 200 * HOUR.ms, NOW))
        kept = forecaster.store.rejected_rows(key)

    assert len(kept) > 100


def test_old_row_that_is_refused_keeps_no_series_out(exchange, tmp_path):
    old = exchange.rows("BTC/USDT", "1h", NOW - 20 * HOUR.ms, NOW)[0][0]
    exchange.revised[old] = 1e16
    report, bars, rejected = make_cycle(exchange, tmp_path)

    assert report.skipped == {}
    assert (len(bars), len(rejected)) == (127, 1)
