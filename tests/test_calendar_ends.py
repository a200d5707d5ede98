"""A calendar recorded to the end of this year: its series are skipped with the reason, the others go on."""

from __future__ import annotations

import pytest

from forecaster.config import Config
from forecaster.context import Context
from forecaster.engine import Forecaster
from forecaster.errors import CalendarEnds
from forecaster.model import ModelSuite
from forecaster.model.baselines.historical_simulation import FilteredHistoricalSimulation
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.sources.memory import MemorySource
from forecaster.store.memory import MemoryStore
from forecaster.timeframe import DAY_MS, Timeframe
from tests.builders import make_bars, make_key, utc_ms

DAILY = Timeframe("1d")
SHANGHAI = make_key("sse", "A/USD", "1d", "XSHG")
BOMBAY = make_key("bse", "B/USD", "1d", "XBOM")
CRYPTO = make_key("binance", "BTC/USDT", "1d")
NEW_YORK = make_key("nyse", "C/USD", "1d", "XNYS")


class Named(RandomWalk):
    """A model with the configured name."""

    name = "nano"


def bars_until(key, end: str, count: int = 60):
    """The last `count` bars of a series that had closed at `end`."""
    opens = key.trading_calendar.last_opens(key.timeframe, utc_ms(end), count)
    return make_bars(key, count, int(opens[0]))


def make_forecaster(end: str, *keys, horizon: int = 10) -> Forecaster:
    series = [
        {"exchange": key.exchange, "symbol": key.symbol, "timeframe": "1d", "calendar": key.calendar, "file": "x.csv"}
        for key in keys
    ]
    model = {"context": 40, "min_context": 20, "horizon": horizon}
    config = Config.model_validate({"series": series, "model": model, "store": {"url": "memory:"}})
    source = MemorySource([bars_until(key, end) for key in keys])
    return Forecaster(
        config, MemoryStore(), dict.fromkeys(keys, source), ModelSuite(Named(), [FilteredHistoricalSimulation()])
    )


@pytest.mark.parametrize("order", [[SHANGHAI, CRYPTO, BOMBAY, NEW_YORK], [NEW_YORK, BOMBAY, CRYPTO, SHANGHAI]])
@pytest.mark.parametrize("time", ["2026-12-24 23:00", "2026-12-31 23:00", "2027-01-06 23:00"])
def test_series_are_skipped_where_their_calendar_ends(order, time):
    """Ten sessions ahead are not recorded: before the end of the year, on its last day, and after it."""
    program = make_forecaster(time, *order)

    report = program.run_cycle(DAILY, utc_ms(time))

    assert {one.key for one in report.forecasts} == {CRYPTO, NEW_YORK}
    assert set(report.skipped) == {SHANGHAI, BOMBAY}
    for key, reason in report.skipped.items():
        assert reason.startswith(f"CalendarEnds: calendar {key.calendar}: ")
        assert reason.endswith("upgrade exchange_calendars")
    assert {row.model_id.name for row in program.store.history(NEW_YORK, 0, 2**60)} == {
        "nano",
        "filtered_historical_simulation",
    }


def test_series_are_forecast_up_to_the_end_of_the_record():
    """Two weeks before the year ends, and for one session two days before it."""
    for time, horizon in (("2026-12-11 23:00", 10), ("2026-12-29 23:00", 1)):
        report = make_forecaster(time, SHANGHAI, BOMBAY, CRYPTO, horizon=horizon).run_cycle(DAILY, utc_ms(time))

        assert {one.key for one in report.forecasts} == {SHANGHAI, BOMBAY, CRYPTO}
        assert report.skipped == {}


def test_cycles_go_on_after_the_end_of_the_record():
    """No cycle fails, and no close of another series is lost."""
    program = make_forecaster("2027-01-12", SHANGHAI, CRYPTO, NEW_YORK, horizon=3)
    days = range(utc_ms("2026-12-20 23:00"), utc_ms("2027-01-11"), DAY_MS)
    reports = [program.run_cycle(DAILY, day) for day in days]
    last = max(row.cutoff for row in program.store.history(SHANGHAI, 0, 2**60))
    cutoffs = {row.cutoff for row in program.store.history(CRYPTO, 0, 2**60)}

    assert last == utc_ms("2026-12-28 07:00")
    assert len(cutoffs) >= len(days)
    assert [SHANGHAI in one.skipped for one in reports] == [day > utc_ms("2026-12-29") for day in days]
    assert all(set(one.skipped) <= {SHANGHAI} for one in reports)


def test_prediction_is_refused_with_the_reason(monkeypatch):
    """Up to as many bars as there are sessions."""
    monkeypatch.setattr("forecaster.engine.now_ms", lambda: utc_ms("2026-12-24 23:00"))
    program = make_forecaster("2026-12-24 23:00", SHANGHAI)
    bars = bars_until(SHANGHAI, "2026-12-24 23:00")
    context = Context.ending_at(bars, int(bars.close_time[-1]), 40, 20)
    with pytest.raises(CalendarEnds, match=r"calendar XSHG: .* upgrade exchange_calendars"):
        context.target_opens(10)
    with pytest.raises(CalendarEnds, match="calendar XSHG"):
        program.predict(bars, record=False)

    assert program.predict(bars, 5, record=False).horizon == 5
