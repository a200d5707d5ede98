"""Things that tests need and do not want to spell out: series and bars with sane defaults.

The same arguments give the same values, in any order of tests and on any machine.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import Bars, SeriesKey

if TYPE_CHECKING:
    from forecaster.store import Reader

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def utc_ms(text: str) -> int:
    """Give UTC ms for an ISO date or time, read as UTC: `utc_ms("2024-01-01")`, `utc_ms("2024-01-01 09:30")`."""
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()) * 1000


def make_key(
    exchange: str = "binance", symbol: str = "BTC/USDT", timeframe: str = "1h", calendar: str = "24/7"
) -> SeriesKey:
    """Make a series."""
    return SeriesKey(exchange, symbol, timeframe, calendar)


def make_bars(key: SeriesKey | None = None, count: int = 100, start: int = utc_ms("2024-01-01"), seed: int = 0) -> Bars:
    """Make `count` bars, one in each slot of the key's calendar from `start` (UTC ms) on: a random walk in cents."""
    key = key or make_key()
    random = np.random.default_rng(seed)
    close = 40_000 * np.exp(np.cumsum(random.normal(0, 0.005, count)))
    open_ = np.concatenate([[40_000.0], close[:-1]])[:count]
    high = np.maximum(open_, close) * np.exp(random.exponential(0.002, count))
    low = np.minimum(open_, close) * np.exp(-random.exponential(0.002, count))
    # Rounding keeps the order of two prices, so low stays below and high above.
    ohlcv_TF = np.column_stack([open_, high, low, close, random.uniform(1, 1000, count)]).round(2)
    return Bars(key, key.trading_calendar.next_opens(key.timeframe, start, count), ohlcv_TF)


def held_until(reader: Reader, exchange: str) -> int | None:
    """Return the end of the latest hold of an exchange, or None."""
    return next((hold.until for hold in reader.holds() if hold.exchange == exchange), None)
