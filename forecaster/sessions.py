"""Which bars should exist: the 24/7 grid of crypto venues, or the sessions of a stock exchange.

A calendar answers in open and close times (UTC ms); it knows nothing of prices. On an exchange
calendar a daily bar opens and closes with its session. Intraday bars are counted from the session's
open, and again from the end of its lunch break, where it has one; the last bar before the break or the
close ends there. Venues that count intraday bars from the full hour, or through the break, are not on this grid.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from forecaster.errors import CalendarEnds, ConfigError
from forecaster.timeframe import DAY_MS, Timeframe

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo
    from types import ModuleType

    import pandas as pd
    from numpy.typing import NDArray

ALWAYS_OPEN: Final = "24/7"
UNWRITTEN: Final = -1
"""In place of a written time: the label is an epoch, and no date is written."""

_FIRST_SESSION: Final = "1990-01-02"
_NO_BOUND: Final = "9999-12-31"
_NANOS_PER_MS: Final = 1_000_000
_YEAR_MS: Final = 366 * DAY_MS


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Times of bars as a file or a frame has them, (T,) each.

    Args:
        instant: UTC ms.
        written: the date and the time of day that are written, as UTC ms, whatever offset stands behind them;
            `UNWRITTEN` for an epoch.
    """

    instant: NDArray[np.int64]
    written: NDArray[np.int64]

    @classmethod
    def of(cls, times: pd.DatetimeIndex) -> Labels:
        """Take pandas' times; without a zone they are UTC."""
        written = times.tz_localize(None)
        return cls(*(_ms(one) for one in (written if times.tz is None else times.tz_convert(None), written)))

    @classmethod
    def of_epochs(cls, instant: NDArray[np.int64]) -> Labels:
        """Take UTC ms, of which no date is written."""
        return cls(instant, np.full(len(instant), UNWRITTEN, np.int64))

    def __len__(self) -> int:
        """Count the labels."""
        return len(self.instant)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Labels:
        """Take some of the labels, by slice, mask or positions."""
        return Labels(self.instant[rows], self.written[rows])


def _ms(times: pd.DatetimeIndex) -> NDArray[np.int64]:
    """Times without a zone, as ms."""
    ms: NDArray[np.int64] = times.to_numpy().astype("datetime64[ms]").astype(np.int64)
    return ms


class Calendar(Protocol):
    """Which bars of a timeframe should exist, and when each closes."""

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        """Open times in [start, end), rising."""

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        """Open times of the last `count` bars that closed at or before `as_of`, rising."""

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        """Open times of the first `count` bars that open at or after `after`, rising.

        Raises:
            CalendarEnds: when it is not known so far ahead.
        """

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        """First close time later than `after`.

        Raises:
            CalendarEnds: when it is not known so far ahead.
        """

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Close times of bars on the grid; -1 for an open time that is not on it."""

    def opens_of_labels(self, timeframe: Timeframe, labels: Labels) -> NDArray[np.int64]:
        """Open times for the times that files carry; what stands for no bar gets a time that is not on the grid.

        An intraday label is an instant, and so is every label on 24/7. A daily label on the calendar of an exchange
        stands for a session. One that is written as a bare date or a midnight, in whatever zone, stands for the
        session of the written date. Any other that is a session's open time stands for that session. What is left
        stands for its written date, and for the date on the exchange's own clock; at midnight of UTC for that date too.
        An epoch has no written date, and stands for the exchange's only at midnight. Where these are two dates, or
        none, the label stands for nothing.
        """


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
    return _Sessions(name, lambda end: _open_calendar(exchange_calendars, name, end))


class _Times(NamedTuple):
    """When sessions open and close, their dates, and their lunch breaks: one entry each per session, UTC ms, rising.

    A session without a break has a time before it in place of one. `zone` is that of the exchange's own clock.
    """

    opens: NDArray[np.int64]
    closes: NDArray[np.int64]
    dates: NDArray[np.int64]
    break_starts: NDArray[np.int64]
    break_ends: NDArray[np.int64]
    zone: str | tzinfo


def _open_calendar(library: ModuleType, name: str, end: str | None) -> _Times:
    """Open a calendar from 1990 on, or from where its record begins; a year ahead of now, or until `end`.

    It ends where its record does. Some calendars cannot be computed.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # the library on a newer pandas
            start, last = _record(library, name)
            until = {} if end is None else {"end": min(end, last)}
            found = library.get_calendar(name, start=start, **until)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError("calendar", "one that exchange_calendars can compute", f"{name}: {error}") from error
    return _Times(
        opens=found.opens_nanos // _NANOS_PER_MS,
        closes=found.closes_nanos // _NANOS_PER_MS,
        dates=found.sessions_nanos // _NANOS_PER_MS,
        break_starts=found.break_starts_nanos // _NANOS_PER_MS,
        break_ends=found.break_ends_nanos // _NANOS_PER_MS,
        zone=found.tz,
    )


def _record(library: ModuleType, name: str) -> tuple[str, str]:
    """First and last date that can be asked for; left to itself the library begins 20 years before today."""
    try:
        found = library.get_calendar(name, start=_FIRST_SESSION)
    except (ValueError, NotImplementedError):
        found = library.get_calendar(name)
    first, last = found.bound_min(), found.bound_max()
    start = _FIRST_SESSION if first is None else max(_FIRST_SESSION, str(first.date()))
    return start, _NO_BOUND if last is None else str(last.date())


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

    def opens_of_labels(self, timeframe: Timeframe, labels: Labels) -> NDArray[np.int64]:
        del timeframe
        return labels.instant


class _Sessions:
    """The sessions of an exchange. `read` gives them up to a date; they are read on when time has come near the end."""

    def __init__(self, name: str, read: Callable[[str | None], _Times]) -> None:
        self._name = name
        self._read = read
        self._times = read(None)
        self._is_all = False
        self._grids: dict[tuple[Timeframe, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def _reach(self, time: int) -> None:
        """Have sessions until a year after `time` (UTC ms), or all where the calendar does not go so far."""
        if time <= self._times.closes[-1] or self._is_all:
            return
        end = np.datetime64(time + _YEAR_MS, "ms").astype("datetime64[D]")
        more = self._read(str(end))
        if more.closes[-1] > self._times.closes[-1]:
            self._times = more
        self._is_all = more.closes[-1] <= time

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
            self._reach(max(after, int(self._times.closes[-1])) + 1)
            opens, _ = self._grid(timeframe)
            first = int(np.searchsorted(opens, after))
        if first + count > len(opens):
            raise CalendarEnds(self._name, after, int(self._times.closes[-1]))
        return opens[first : first + count]

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        self._reach(after + 1)
        _, closes = self._grid(timeframe)
        first = int(np.searchsorted(closes, after, side="right"))
        if first == len(closes):
            raise CalendarEnds(self._name, after, int(self._times.closes[-1]))
        return int(closes[first])

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        grid, closes = self._grid(timeframe)
        at = np.minimum(np.searchsorted(grid, opens), len(grid) - 1)
        return np.where(grid[at] == opens, closes[at], -1)

    def opens_of_labels(self, timeframe: Timeframe, labels: Labels) -> NDArray[np.int64]:
        if not timeframe.is_daily:
            return labels.instant
        opens, dates = self._times.opens, self._times.dates
        is_date = (labels.written % DAY_MS == 0) & (labels.written != UNWRITTEN)
        is_open = np.isin(labels.instant, opens) & ~is_date
        date = self._dates_of(labels, is_date)
        at = np.minimum(np.searchsorted(dates, date), len(dates) - 1)
        otherwise = np.where(is_date, labels.written, labels.instant)
        return np.where((dates[at] == date) & ~is_open, opens[at], otherwise)

    def _dates_of(self, labels: Labels, is_date: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The date that each label stands for, as UTC ms; `UNWRITTEN` where its readings are two, or there is none."""
        is_written = labels.written != UNWRITTEN
        local = _on_clock(labels.instant, self._times.zone)
        readings = np.stack([labels.written - labels.written % DAY_MS, local - local % DAY_MS, labels.instant])
        on_clock = ~is_date & (is_written | (local % DAY_MS == 0))
        holds = np.stack([is_written, on_clock, ~is_date & (labels.instant % DAY_MS == 0)])
        least = np.where(holds, readings, np.iinfo(np.int64).max).min(axis=0)
        most = np.where(holds, readings, np.iinfo(np.int64).min).max(axis=0)
        return np.where(least == most, least, UNWRITTEN)

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
    """Opens and closes of bars of `step` ms, from where trading begins to where it pauses or ends at the latest."""
    starts, ends = _unbroken(times)
    counts = -(-(ends - starts) // step)
    position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    opens = np.repeat(starts, counts) + position * step
    return opens, np.minimum(opens + step, np.repeat(ends, counts))


def _unbroken(times: _Times) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of trading without a pause: a session, or what is before and after its lunch break."""
    has_break = times.break_starts > times.opens
    comes_back = has_break & (times.break_ends < times.closes)
    starts = np.concatenate([times.opens, times.break_ends[comes_back]])
    before = np.where(has_break, np.minimum(times.break_starts, times.closes), times.closes)
    ends = np.concatenate([before, times.closes[comes_back]])
    order = np.argsort(starts)
    return starts[order], ends[order]


def _on_clock(instant: NDArray[np.int64], zone: str | tzinfo) -> NDArray[np.int64]:
    """What the clocks of a zone show at these instants, as UTC ms."""
    import pandas as pd  # noqa: PLC0415 - the calendar of an exchange has loaded it

    return _ms(pd.DatetimeIndex(instant.astype("datetime64[ms]"), tz="UTC").tz_convert(zone).tz_localize(None))
