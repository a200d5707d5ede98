"""Which bars should exist: the 24/7 grid of crypto venues, or the sessions of a stock exchange.

A calendar answers in open and close times (UTC ms); it knows nothing of prices. On an exchange
calendar a daily bar opens and closes with its session, and an intraday bar starts at the session's
open and ends at its close at the latest.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from forecaster.errors import ConfigError
from forecaster.timeframe import DAY_MS, Timeframe

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

ALWAYS_OPEN = "24/7"
_FIRST_SESSION = "1990-01-02"
_NANOS_PER_MS = 1_000_000


class Calendar(Protocol):
    """Which bars of a timeframe should exist, and when each closes."""

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        """Open times in [start, end), rising."""

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        """Open times of the last `count` bars that closed at or before `as_of`, rising."""

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        """Open times of the first `count` bars that open at or after `after`, rising."""

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        """First close time later than `after`."""

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Close times of bars on the grid; -1 for an open time that is not on it."""

    def opens_of_labels(self, timeframe: Timeframe, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Open times for the times that files carry: a session's date stands for its open."""


@cache
def calendar(name: str) -> Calendar:
    """Give the calendar of this name: `24/7`, or an exchange_calendars code such as `XNYS`.

    Raises:
        ConfigError: for an unknown name.
    """
    if name == ALWAYS_OPEN:
        return _AlwaysOpen()
    import exchange_calendars  # noqa: PLC0415 - loads pandas; crypto series never need it

    known = exchange_calendars.get_calendar_names(include_aliases=False)
    if name not in known:
        raise ConfigError("calendar", f"{ALWAYS_OPEN} or an exchange_calendars code such as XNYS", name)
    sessions = _open_calendar(exchange_calendars, name)
    return _Sessions(
        sessions.opens_nanos // _NANOS_PER_MS,
        sessions.closes_nanos // _NANOS_PER_MS,
        sessions.sessions_nanos // _NANOS_PER_MS,
    )


def _open_calendar(library: ModuleType, name: str) -> Any:
    """Open a calendar from 1990 on, or from where it begins; some cannot be computed at all."""
    try:
        return library.get_calendar(name, start=_FIRST_SESSION)
    except (ValueError, NotImplementedError):
        pass
    try:
        return library.get_calendar(name)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError("calendar", "one that exchange_calendars can compute", f"{name}: {error}") from error


class _AlwaysOpen:
    """A bar in every slot of the grid that starts at the epoch."""

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        return np.arange(-(-start // timeframe.ms) * timeframe.ms, end, timeframe.ms, dtype=np.int64)

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        end = timeframe.floor(as_of)
        return np.arange(end - count * timeframe.ms, end, timeframe.ms, dtype=np.int64)

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        start = -(-after // timeframe.ms) * timeframe.ms
        return np.arange(start, start + count * timeframe.ms, timeframe.ms, dtype=np.int64)

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        return timeframe.floor(after) + timeframe.ms

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(opens % timeframe.ms == 0, opens + timeframe.ms, -1)

    def opens_of_labels(self, timeframe: Timeframe, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        del timeframe
        return labels


class _Sessions:
    """The sessions of an exchange: three rising arrays, one entry each per session."""

    def __init__(self, opens: NDArray[np.int64], closes: NDArray[np.int64], dates: NDArray[np.int64]) -> None:
        self._opens = opens
        self._closes = closes
        self._dates = dates
        self._grids: dict[Timeframe, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        opens, _ = self._grid(timeframe)
        first, last = np.searchsorted(opens, [start, end])
        return opens[first:last]

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        opens, closes = self._grid(timeframe)
        last = int(np.searchsorted(closes, as_of, side="right"))
        return opens[max(0, last - count) : last]

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        opens, _ = self._grid(timeframe)
        first = int(np.searchsorted(opens, after))
        if first + count > len(opens):
            raise _end_of_calendar(after, opens)
        return opens[first : first + count]

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        _, closes = self._grid(timeframe)
        first = int(np.searchsorted(closes, after, side="right"))
        if first == len(closes):
            raise _end_of_calendar(after, closes)
        return int(closes[first])

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        grid, closes = self._grid(timeframe)
        at = np.minimum(np.searchsorted(grid, opens), len(grid) - 1)
        return np.where(grid[at] == opens, closes[at], -1)

    def opens_of_labels(self, timeframe: Timeframe, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        if not timeframe.is_daily:
            return labels
        days = labels - labels % DAY_MS
        at = np.minimum(np.searchsorted(self._dates, days), len(self._dates) - 1)
        is_date = (self._dates[at] == days) & ~np.isin(labels, self._opens)
        return np.where(is_date, self._opens[at], labels)

    def _grid(self, timeframe: Timeframe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Opens and closes of all bars of a timeframe, made once."""
        if timeframe.is_daily:
            return self._opens, self._closes
        if timeframe not in self._grids:
            self._grids[timeframe] = self._cut(timeframe.ms)
        return self._grids[timeframe]

    def _cut(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        counts = -(-(self._closes - self._opens) // step)
        position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        opens = np.repeat(self._opens, counts) + position * step
        return opens, np.minimum(opens + step, np.repeat(self._closes, counts))


def _end_of_calendar(after: int, times: NDArray[np.int64]) -> ConfigError:
    return ConfigError("calendar", f"sessions after {after}", f"a calendar that ends at {times[-1]}")
