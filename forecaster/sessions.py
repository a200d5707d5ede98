"""Which bars should exist: the 24/7 grid of crypto venues, or the sessions of a stock exchange.

A calendar answers in open and close times (UTC ms); it knows nothing of prices. On an exchange
calendar a daily bar opens and closes with its session, and an intraday bar starts at the session's
open and ends at its close at the latest.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from forecaster.errors import ConfigError
from forecaster.timeframe import DAY_MS, Timeframe

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from numpy.typing import NDArray

ALWAYS_OPEN = "24/7"
_FIRST_SESSION = "1990-01-02"
_NANOS_PER_MS = 1_000_000
_YEAR_MS = 366 * DAY_MS


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
    return _Sessions(lambda end: _open_calendar(exchange_calendars, name, end))


class _Times(NamedTuple):
    """When sessions open and close, and their dates: rising arrays, one entry each per session."""

    opens: NDArray[np.int64]
    closes: NDArray[np.int64]
    dates: NDArray[np.int64]


def _open_calendar(library: ModuleType, name: str, end: str | None) -> _Times:
    """Open a calendar from 1990 on, or from where it begins; a year ahead, or until `end`. Some cannot be computed."""
    until = {} if end is None else {"end": end}
    for more in ({"start": _FIRST_SESSION}, {}):
        try:
            found = library.get_calendar(name, **more, **until)
        except (ValueError, NotImplementedError) as error:
            fault = error
            continue
        spans = (found.opens_nanos, found.closes_nanos, found.sessions_nanos)
        return _Times(*(nanos // _NANOS_PER_MS for nanos in spans))
    raise ConfigError("calendar", "one that exchange_calendars can compute", f"{name}: {fault}") from fault


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
    """The sessions of an exchange. `read` gives them up to a date; they are read on when time has come near the end."""

    def __init__(self, read: Callable[[str | None], _Times]) -> None:
        self._read = read
        self._times = read(None)
        self._grids: dict[tuple[Timeframe, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def _reach(self, time: int) -> None:
        """Have sessions until a year after `time` (UTC ms), where the calendar goes so far."""
        if time > self._times.closes[-1]:
            end = np.datetime64(time + _YEAR_MS, "ms").astype("datetime64[D]")
            self._times = self._read(str(end))

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        opens, _ = self._grid(timeframe)
        first, last = np.searchsorted(opens, [start, end])
        return opens[first:last]

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        self._reach(as_of)
        opens, closes = self._grid(timeframe)
        last = int(np.searchsorted(closes, as_of, side="right"))
        return opens[max(0, last - count) : last]

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        opens, _ = self._grid(timeframe)
        first = int(np.searchsorted(opens, after))
        if first + count > len(opens):
            self._reach(int(self._times.closes[-1]) + 1)
            opens, _ = self._grid(timeframe)
        if first + count > len(opens):
            raise _end_of_calendar(after, opens)
        return opens[first : first + count]

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        self._reach(after + 1)
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
        opens, _, dates = self._times
        days = labels - labels % DAY_MS
        at = np.minimum(np.searchsorted(dates, days), len(dates) - 1)
        is_date = (dates[at] == days) & ~np.isin(labels, opens)
        return np.where(is_date, opens[at], labels)

    def _grid(self, timeframe: Timeframe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Opens and closes of all bars of a timeframe, made once."""
        times = self._times
        if timeframe.is_daily:
            return times.opens, times.closes
        name = (timeframe, len(times.opens))
        if name not in self._grids:
            self._grids[name] = _cut(times, timeframe.ms)
        return self._grids[name]


def _cut(times: _Times, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Opens and closes of bars of `step` ms, from each session's open to its close at the latest."""
    counts = -(-(times.closes - times.opens) // step)
    position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    opens = np.repeat(times.opens, counts) + position * step
    return opens, np.minimum(opens + step, np.repeat(times.closes, counts))


def _end_of_calendar(after: int, times: NDArray[np.int64]) -> ConfigError:
    return ConfigError("calendar", f"sessions after {after}", f"a calendar that ends at {times[-1]}")
