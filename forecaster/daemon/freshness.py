"""How old the latest forecast of each series is, and how old it may be.

A close is due once its bar was fetched and the cycle has had its usual time. The calendar says which closes exist, so
nothing is due while an exchange is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from forecaster.config import HealthConfig
from forecaster.errors import format_time

if TYPE_CHECKING:
    from forecaster.bars import SeriesKey
    from forecaster.config import Config
    from forecaster.timeframe import Timeframe


class StaleSeries(NamedTuple):
    """A series without a fresh forecast, and why."""

    key: SeriesKey
    reason: str


class Freshness:
    """Latest cutoffs and cycle durations of the configured series. Not thread-safe: the caller holds a lock."""

    def __init__(self) -> None:
        self._latest: dict[SeriesKey, int] = {}
        self._seconds: dict[tuple[str | None, Timeframe], float] = {}

    def configure(self, config: Config) -> None:
        """Use a configuration from now on; forget series that it does not have."""
        self._config = config
        self._keys = dict.fromkeys(series.key for series in config.series)
        groups = {(exchange, key.timeframe) for key in self._keys for exchange in (key.exchange, None)}
        self._latest = {key: cutoff for key, cutoff in self._latest.items() if key in self._keys}
        self._seconds = {group: seconds for group, seconds in self._seconds.items() if group in groups}

    def record_forecast(self, key: SeriesKey, cutoff: int) -> None:
        """Record a forecast; one that was made during catch-up may be older than the latest."""
        if key in self._keys:
            self._latest[key] = max(cutoff, self._latest.get(key, cutoff))

    def record_seconds(self, exchange: str | None, timeframe: Timeframe, seconds: float) -> None:
        """Record how long the last cycle of an exchange and timeframe took."""
        self._seconds[exchange, timeframe] = seconds

    def stale(self, now: int) -> list[StaleSeries]:
        """Return the series whose latest forecast is older than allowed at `now` (UTC ms), or missing."""
        groups = {(key.exchange, key.timeframe, key.calendar): key for key in self._keys}
        oldest_allowed = {group: self._oldest_allowed(key, now) for group, key in groups.items()}
        stale = []
        for key in self._keys:
            oldest = oldest_allowed[key.exchange, key.timeframe, key.calendar]
            if key not in self._latest:
                stale.append(StaleSeries(key, "no forecast yet"))
            elif self._latest[key] < oldest:
                latest = format_time(self._latest[key])
                stale.append(StaleSeries(key, f"latest forecast of {latest}, expected {format_time(oldest)} or later"))
        return stale

    def lags_ms(self, now: int) -> dict[tuple[str, Timeframe], int | None]:
        """Return by exchange and timeframe how far any latest forecast is behind the last close; None without one."""
        closes: dict[tuple[Timeframe, str], int] = {}
        lags: dict[tuple[str, Timeframe], int | None] = {}
        for key in self._keys:
            sessions = (key.timeframe, key.calendar)
            if sessions not in closes:
                closes[sessions] = last_close(key, now)
            group = (key.exchange, key.timeframe)
            lag = max(closes[sessions] - self._latest[key], 0) if key in self._latest else None
            lags[group] = max((each for each in (lags.get(group), lag) if each is not None), default=None)
        return lags

    def grace_ms(self, key: SeriesKey) -> int:
        """How long after a close its forecast is waited for: the fetch delay and a cycle, but at most a bar."""
        exchange = self._config.exchanges.get(key.exchange)
        cycles = [self._seconds.get((name, key.timeframe), 0.0) for name in (key.exchange, None)]
        seconds = max(*cycles, 0.0 if exchange is None else exchange.deadline)
        return round(self._config.fetch_delay_seconds * 1000) + min(round(seconds * 1000), key.timeframe.ms)

    def _oldest_allowed(self, key: SeriesKey, now: int) -> int:
        """The oldest cutoff (UTC ms) that the latest forecast of a series may have at `now`."""
        bars = (self._config.health or HealthConfig()).stale_bars + 1
        return nth_last_close(key, now - self.grace_ms(key), bars)


def last_close(key: SeriesKey, now: int) -> int:
    """Return the last close of a series up to `now`, in UTC ms; 0 when there is none."""
    return nth_last_close(key, now, 1)


def nth_last_close(key: SeriesKey, now: int, n: int) -> int:
    """Return the n-th last close of a series up to `now`, in UTC ms; 0 when there are fewer."""
    opens = key.trading_calendar.last_opens(key.timeframe, now, n)
    return int(key.trading_calendar.closes_of(key.timeframe, opens)[0]) if len(opens) == n else 0
