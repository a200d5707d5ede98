"""A newer version of a calendar has an additional closure, and the ledger has bars of that day."""

from __future__ import annotations

from contextlib import closing

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
import structlog
from exchange_calendars.calendar_utils import global_calendar_dispatcher
from exchange_calendars.exchange_calendar_xnys import XNYSExchangeCalendar

from forecaster.bars import Bars
from forecaster.calendars import get_calendar
from forecaster.context import Context
from forecaster.errors import InvalidBars
from forecaster.ledger import LIVE, Run
from forecaster.store import open_database, open_reader, open_store
from forecaster.store.memory import MemoryStore
from forecaster.store.records import read_bars
from forecaster.store.verify import verify_ledger
from tests.builders import DAY_MS, HOUR_MS, make_bars, make_key, utc_ms
from tests.forecast_builders import make_forecast

NAME = "XTEST"
CLOSED = utc_ms("2024-05-15 13:30")


class Closed(XNYSExchangeCalendar):
    """New York, closed on a Wednesday."""

    @property
    def adhoc_holidays(self):
        return [*super().adhoc_holidays, pd.Timestamp("2024-05-15")]


@pytest.fixture
def close_one_day():
    """A calendar of New York, and a function that removes one session."""

    def become(kind):
        exchange_calendars.register_calendar_type(NAME, kind, force=True)
        global_calendar_dispatcher._factory_output_cache.pop(NAME, None)
        get_calendar.cache_clear()

    become(XNYSExchangeCalendar)
    yield lambda: become(Closed)
    exchange_calendars.deregister_calendar(NAME)
    get_calendar.cache_clear()


def bars_of(timeframe: str, symbol: str) -> Bars:
    return make_bars(make_key("file", symbol, timeframe, NAME), 40, utc_ms("2024-05-13"))


@pytest.mark.parametrize(("timeframe", "lost"), [("1d", 1), ("1h", 7)])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_bars_of_a_removed_session_are_left_out(tmp_path, close_one_day, kind, timeframe, lost):
    """With one warning and their number; all others stay."""
    bars = bars_of(timeframe, f"{kind.upper()}/USD")
    url = f"sqlite:///{tmp_path}/ledger.db"
    store = MemoryStore() if kind == "memory" else open_store(url)
    store.add_bars(bars)
    reader = store if kind == "memory" else open_reader(url)

    with structlog.testing.capture_logs() as before:
        assert len(reader.bars(bars.key)) == 40

    close_one_day()
    with structlog.testing.capture_logs() as told:
        read = [reader.bars(bars.key, end=end) for end in (None, CLOSED + HOUR_MS, None)][-1]
    reader.close()
    store.close()
    kept = bars.open_time // DAY_MS != CLOSED // DAY_MS

    assert (~kept).sum() == lost
    assert read.open_time.tolist() == bars.open_time[kept].tolist()
    assert read.ohlcv_TF.tolist() == bars.ohlcv_TF[kept].tolist()
    assert before == []
    warning = {"event": "bars.off_calendar", "log_level": "warning"}
    assert told == [warning | {"series": str(bars.key), "calendar": "XTEST", "bars": lost}]


def test_a_context_skips_the_removed_day(close_one_day):
    """The slot is gone, not empty."""
    bars = bars_of("1d", "CONTEXT/USD")
    close_one_day()
    with pytest.raises(InvalidBars, match="open time must be on the 1d grid of XTEST"):
        Bars(bars.key, bars.open_time, bars.ohlcv_TF)
    columns = (bars.open_time, bars.ohlcv_TF, bars.first_seen_at, bars.revision)
    read = read_bars(bars.key, *columns)
    context = Context.ending_at(read, int(read.close_time[-1]), 20, 20)

    assert len(read) == 39
    assert context.ohlc_CT.shape == (4, 20)
    assert not np.isnan(context.ohlc_CT).any()


def test_bars_on_the_calendar_are_unchanged():
    bars = make_bars(make_key("file", "A/USD", "1d", "XNYS"), 20)
    with structlog.testing.capture_logs() as logs:
        read = read_bars(bars.key, bars.open_time, bars.ohlcv_TF, np.arange(20), np.arange(20) % 2)

    assert read.open_time.tolist() == bars.open_time.tolist()
    assert (read.first_seen_at.tolist(), read.revision.tolist()) == (list(range(20)), [0, 1] * 10)
    assert logs == []


def test_targets_of_a_forecast_stay_what_they_were(tmp_path, close_one_day):
    """The ledger has their open times, whatever the calendar says now."""
    key = make_key("file", "KEPT/USD", "1d", NAME)
    cutoff = utc_ms("2024-05-14 20:00")
    url = f"sqlite:///{tmp_path}/ledger.db"
    with closing(open_store(url)) as store:
        store.add_run(Run(LIVE, LIVE, cutoff))
        store.add_forecasts([make_forecast(key, cutoff)], LIVE)
    close_one_day()
    with closing(open_reader(url)) as reader, closing(open_database(url)) as database:
        read = reader.latest(key, "nano")
        check = verify_ledger(database)

    assert [read.target_time(step) for step in (1, 2, 3)] == [CLOSED + i * DAY_MS for i in range(3)]
    assert not read.is_stale(cutoff + 1)
    assert read.is_stale(CLOSED + 2 * DAY_MS)
    assert check.errors == []
    assert check.notes == [f"{key} on {NAME}: 1 forecast has targets that its calendar no longer has"]
