"""Trading sessions: their opens, closes, dates and breaks, and the bars cut from them.

Bars of a day or longer are whole sessions. Intraday bars are counted from the open of a session, and again from the
end of its lunch break; the last bar before the break or the close ends there.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from forecaster.errors import CalendarEnds, ConfigError
from forecaster.timeframe import DAY_MS, MINUTE_MS
from forecaster.zones import UNWRITTEN, get_clock, wall_to_utc

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo
    from types import ModuleType

    from numpy.typing import NDArray

    from forecaster.timeframe import Timeframe
    from forecaster.zones import Labels

LAST_COMPUTED_DATE: Final = "2037-01-01"
"""To this date sessions are computed from the rules of a zone at first; further when time comes near it."""

_FIRST_SESSION: Final = "1990-01-02"
_MARGIN_SESSIONS: Final = 64
_NOON: Final = 12 * 60
_SATURDAY: Final = 5
_NO_BOUND: Final = "9999-12-31"
_NANOS_PER_MS: Final = 1_000_000
_YEAR_MS: Final = 366 * DAY_MS


class SessionTable(NamedTuple):
    """Sessions as columns: (S,) int64 UTC ms, rising, and the time zone of the exchange.

    A session without a break has a time before its open as `break_starts` and `break_ends`.
    """

    opens: NDArray[np.int64]
    closes: NDArray[np.int64]
    dates: NDArray[np.int64]
    break_starts: NDArray[np.int64]
    break_ends: NDArray[np.int64]
    zone: str | tzinfo

    def part(self, first: int, last: int) -> SessionTable:
        """Select sessions by position."""
        opens, closes, dates, break_starts, break_ends = (column[first:last] for column in self[:5])
        return SessionTable(opens, closes, dates, break_starts, break_ends, self.zone)


def load_sessions(library: ModuleType, name: str, end: str | None) -> SessionTable:
    """Load a calendar of exchange_calendars from 1990 to `end`, or to a year from now.

    It begins later or ends earlier where its record does.

    Raises:
        ConfigError: for a calendar that cannot be computed.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # the library on a newer pandas
            start, last = _recorded_dates(library, name)
            until = {} if end is None else {"end": min(end, last)}
            loaded = library.get_calendar(name, start=start, **until)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError("calendar", "one that exchange_calendars can compute", f"{name}: {error}") from error
    return SessionTable(
        opens=loaded.opens_nanos // _NANOS_PER_MS,
        closes=loaded.closes_nanos // _NANOS_PER_MS,
        dates=loaded.sessions_nanos // _NANOS_PER_MS,
        break_starts=loaded.break_starts_nanos // _NANOS_PER_MS,
        break_ends=loaded.break_ends_nanos // _NANOS_PER_MS,
        zone=loaded.tz,
    )


def weekday_sessions(minute: int, zone: str, end: str | None) -> SessionTable:
    """Compute 24-hour sessions, Monday to Friday, that begin at a minute of the day in a zone, up to a date.

    A session that begins at noon or later has the date of the next day: the foreign exchange week begins on Sunday.
    """
    dates = _midnights(_FIRST_SESSION, end or LAST_COMPUTED_DATE)
    dates = dates[~is_weekend(dates)]
    starts = dates + minute * MINUTE_MS - (DAY_MS if minute >= _NOON else 0)
    no_break = np.full(len(dates), -1, np.int64)
    return SessionTable(wall_to_utc(starts, zone), wall_to_utc(starts + DAY_MS, zone), dates, no_break, no_break, zone)


def daily_slots(anchor_ms: int, zone: str, step_ms: int, end: str | None) -> SessionTable:
    """Compute one session per slot of `step_ms`, counted on a zone's clock from `anchor_ms` after midnight."""
    last = np.datetime64(end or LAST_COMPUTED_DATE, "D") + 2
    starts = _midnights("1970-01-01", str(last)) + anchor_ms
    wall = (starts[:, np.newaxis] + np.arange(0, DAY_MS, step_ms)).ravel()
    instant = wall_to_utc(wall, zone)
    no_break = np.full(len(wall) - 1, -1, np.int64)
    return SessionTable(instant[:-1], instant[1:], wall[:-1], no_break, no_break, zone)


def is_weekend(times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which times (ms) are on a Saturday or a Sunday."""
    return np.asarray((times // DAY_MS + 3) % 7 >= _SATURDAY)  # the epoch began on a Thursday


class _Bars(NamedTuple):
    """Opens and closes, rising, of the bars of sessions `first` to `last` of a table."""

    table: SessionTable
    first: int
    last: int
    opens: NDArray[np.int64]
    closes: NDArray[np.int64]


class SessionCalendar:
    """A `Calendar` of sessions, loaded by `load(end)` up to a date, and further as time comes near the end.

    Only the bars of the sessions asked for are cut, with a margin: all minutes since 1990 are too many.
    """

    def __init__(self, name: str, load: Callable[[str | None], SessionTable]) -> None:
        self._name = name
        self._load = load
        self._table = load(None)
        self.zone = str(self._table.zone)
        self._is_complete = False
        self._cut_bars: dict[Timeframe, _Bars] = {}

    def _extend_to(self, time: int) -> None:
        """Load sessions until a year after `time` (UTC ms), or all where the calendar ends before."""
        if time <= self._table.closes[-1] or self._is_complete:
            return
        end = np.datetime64(time + _YEAR_MS, "ms").astype("datetime64[D]")
        longer = self._load(str(end))
        if longer.closes[-1] > self._table.closes[-1]:
            self._table = longer
        self._is_complete = longer.closes[-1] <= time

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        """See `Calendar.opens_between`."""
        table = self._table
        first = int(np.searchsorted(table.closes, start, side="right"))
        opens = self._bars(table, timeframe, first, int(np.searchsorted(table.opens, end))).opens
        return opens[slice(*np.searchsorted(opens, [start, end]))]

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        """See `Calendar.last_opens`."""
        self._extend_to(as_of)
        table = self._table
        end, width = int(np.searchsorted(table.opens, as_of, side="right")), _MARGIN_SESSIONS
        while True:
            first = max(0, end - width)
            bars = self._bars(table, timeframe, first, end)
            last = int(np.searchsorted(bars.closes, as_of, side="right"))
            if last >= count or first == 0:
                return bars.opens[max(0, last - count) : last]
            width *= 4

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        """See `Calendar.next_opens`."""
        width, is_extended = _MARGIN_SESSIONS, False
        while True:
            table = self._table
            first = int(np.searchsorted(table.closes, after, side="right"))
            opens = self._bars(table, timeframe, first, min(first + width, len(table.opens))).opens
            start = int(np.searchsorted(opens, after))
            if start + count <= len(opens):
                return opens[start : start + count]
            if first + width >= len(table.opens):
                if is_extended:
                    raise CalendarEnds(self._name, after, int(table.closes[-1]))
                self._extend_to(max(after, int(table.closes[-1])) + 1)
                is_extended = True
            width *= 4

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        """See `Calendar.next_close`."""
        self._extend_to(after + 1)
        table = self._table
        first = int(np.searchsorted(table.closes, after, side="right"))
        if first == len(table.closes):
            raise CalendarEnds(self._name, after, int(table.closes[-1]))
        closes = self._bars(table, timeframe, first, first + 1).closes
        return int(closes[np.searchsorted(closes, after, side="right")])

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Calendar.closes_of`."""
        if not len(opens):
            return np.empty(0, np.int64)
        table = self._table
        first = int(np.searchsorted(table.closes, opens.min(), side="right"))
        bars = self._bars(table, timeframe, first, int(np.searchsorted(table.opens, opens.max(), side="right")))
        if not len(bars.opens):
            return np.full(len(opens), -1, np.int64)
        nearest = np.minimum(np.searchsorted(bars.opens, opens), len(bars.opens) - 1)
        return np.where(bars.opens[nearest] == opens, bars.closes[nearest], -1)

    def opens_of_labels(self, timeframe: Timeframe, labels: Labels) -> NDArray[np.int64]:
        """See `Calendar.opens_of_labels`."""
        if not timeframe.is_daily:
            return labels.instant
        opens, dates = self._table.opens, self._table.dates
        is_date = (labels.written % DAY_MS == 0) & (labels.written != UNWRITTEN)
        is_open = np.isin(labels.instant, opens) & ~is_date
        date = self._dates_of(labels, is_date)
        nearest = np.minimum(np.searchsorted(dates, date), len(dates) - 1)
        unmatched = np.where(is_date, labels.written, labels.instant)
        return np.where((dates[nearest] == date) & ~is_open, opens[nearest], unmatched)

    def _dates_of(self, labels: Labels, is_date: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the date (UTC ms) that each label stands for; `UNWRITTEN` where it is ambiguous or none.

        Candidates are the written date, the date on the exchange's clock, and midnight of UTC.
        """
        is_written = labels.written != UNWRITTEN
        local = get_clock(self.zone).to_wall(labels.instant)
        candidates = np.stack([labels.written - labels.written % DAY_MS, local - local % DAY_MS, labels.instant])
        by_exchange_clock = ~is_date & (is_written | (local % DAY_MS == 0))
        applies = np.stack([is_written, by_exchange_clock, ~is_date & (labels.instant % DAY_MS == 0)])
        earliest = np.where(applies, candidates, np.iinfo(np.int64).max).min(axis=0)
        latest = np.where(applies, candidates, np.iinfo(np.int64).min).max(axis=0)
        return np.where(earliest == latest, earliest, UNWRITTEN)

    def _bars(self, table: SessionTable, timeframe: Timeframe, first: int, last: int) -> _Bars:
        """Return the bars of at least the sessions from `first` to `last`."""
        if timeframe.is_daily:
            return _Bars(table, 0, len(table.opens), table.opens, table.closes)
        cached = self._cut_bars.get(timeframe)
        if cached is not None and cached.table is table:
            if cached.first <= first and last <= cached.last:
                return cached
            first, last = min(first, cached.first), max(last, cached.last)
        first, last = max(0, first - _MARGIN_SESSIONS), min(len(table.opens), last + _MARGIN_SESSIONS)
        bars = _Bars(table, first, last, *_cut(table.part(first, last), timeframe.ms))
        self._cut_bars[timeframe] = bars
        return bars


class SlotCalendar(SessionCalendar):
    """A `Calendar` of one timeframe, whose sessions are its bars."""

    def _bars(self, table: SessionTable, timeframe: Timeframe, first: int, last: int) -> _Bars:
        del timeframe, first, last
        return _Bars(table, 0, len(table.opens), table.opens, table.closes)


def _recorded_dates(library: ModuleType, name: str) -> tuple[str, str]:
    """Return the first and the last date to ask for; by default the library begins 20 years before today."""
    try:
        loaded = library.get_calendar(name, start=_FIRST_SESSION)
    except (ValueError, NotImplementedError):
        loaded = library.get_calendar(name)
    first, last = loaded.bound_min(), loaded.bound_max()
    start = _FIRST_SESSION if first is None else max(_FIRST_SESSION, str(first.date()))
    return start, _NO_BOUND if last is None else str(last.date())


def _midnights(start: str, end: str) -> NDArray[np.int64]:
    """Return the UTC midnights of the dates in [start, end)."""
    days = np.arange(np.datetime64(start, "D"), np.datetime64(end, "D"))
    return days.astype("datetime64[ms]").astype(np.int64)


def _cut(table: SessionTable, step_ms: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return opens and closes of bars of `step_ms`, cut off where trading pauses or ends."""
    starts, ends = _trading_periods(table)
    counts = -(-(ends - starts) // step_ms)
    position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    opens = np.repeat(starts, counts) + position * step_ms
    return opens, np.minimum(opens + step_ms, np.repeat(ends, counts))


def _trading_periods(table: SessionTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return starts and ends of trading without a pause: a session, or its parts before and after the break."""
    has_break = table.break_starts > table.opens
    resumes = has_break & (table.break_ends < table.closes)
    starts = np.concatenate([table.opens, table.break_ends[resumes]])
    first_ends = np.where(has_break, np.minimum(table.break_starts, table.closes), table.closes)
    ends = np.concatenate([first_ends, table.closes[resumes]])
    order = np.argsort(starts)
    return starts[order], ends[order]
