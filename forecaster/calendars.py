"""Which bars should exist: the 24/7 grid of crypto venues, or the sessions of a stock exchange.

A calendar answers in open and close times (UTC ms); it knows nothing of prices. The days of a 24/7 market begin at
midnight of UTC, or at its anchor: `24/7@16:00`, `24/7@17:00 America/New_York`. On an exchange
calendar a daily bar opens and closes with its session. Intraday bars are counted from the session's
open, and again from the end of its lunch break, where it has one; the last bar before the break or the
close ends there. Venues that count intraday bars from the full hour, or through the break, are not on this grid.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from forecaster.errors import CalendarEnds, ConfigError
from forecaster.timeframe import DAY_MS, MINUTE_MS, Timeframe
from forecaster.zones import clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo
    from types import ModuleType

    import pandas as pd
    from numpy.typing import NDArray

ALWAYS_OPEN: Final = "24/7"
WEEKDAYS: Final = "24/5"
"""Monday to Friday, whole days of UTC; behind an @, days that begin at an anchor, as those of foreign exchange."""

UNWRITTEN: Final = -1
"""In place of a written time: the label is an epoch, and no date is written."""

_UTC: Final = "UTC"
_NAMES_OF_UTC: Final = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Etc/Zulu", "UCT", "Etc/UCT", "Universal")
_ANCHOR: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?: (.+))?")
_ZONES_KNOWN_UNTIL: Final = "2037-01-01"  # what is computed from a zone's rules is read on when time comes near it
_FIRST_SESSION: Final = "1990-01-02"
_FEW_SESSIONS: Final = 64
_NOON: Final = 12 * 60
_SATURDAY: Final = 5
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
    """Which bars of a timeframe should exist, and when each closes; `zone` is that of its market's own clock."""

    zone: str

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
    """Give the calendar of this name: `24/7`, also with an anchor, or a code of exchange_calendars.

    Raises:
        ConfigError: for an unknown name, and for an alias: two names for one calendar would make two series of one.
    """
    base, _, anchor = name.partition("@")
    if base == ALWAYS_OPEN:
        return _Anchored(*_read_anchor(anchor or "0:00"))
    if base == WEEKDAYS and anchor:
        return _Sessions(name, partial(_read_weekdays, *_read_anchor(anchor)))
    if canonical(name) != name:
        raise ConfigError("calendar", f"{canonical(name)}, which is the name of that calendar here", name)
    import exchange_calendars  # noqa: PLC0415 - loads pandas; crypto series never need it

    return _Sessions(name, lambda end: _open_calendar(exchange_calendars, name, end))


def is_continuous(name: str) -> bool:
    """Whether a calendar's market never closes, wherever its days begin."""
    return name.partition("@")[0] == ALWAYS_OPEN


def is_weekend(times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether times (ms) are of a Saturday or a Sunday."""
    return np.asarray((times // DAY_MS + 3) % 7 >= _SATURDAY)  # the epoch began on a Thursday


@cache
def canonical(name: str) -> str:
    """Give the one name of a calendar that has several: exchange_calendars calls NASDAQ's by that of XNYS.

    Raises:
        ConfigError: for an unknown name.
    """
    if is_continuous(name) or name.startswith(f"{WEEKDAYS}@"):
        return name
    import exchange_calendars  # noqa: PLC0415 - loads pandas; crypto series never need it

    known: list[str] = exchange_calendars.get_calendar_names(include_aliases=True)
    code = next((one for one in (name, name.upper()) if one in known), None)
    if code is None:
        similar = get_close_matches(name.upper(), set(known) - {ALWAYS_OPEN}, n=3)
        expected = f"{ALWAYS_OPEN} or an exchange_calendars code such as {', '.join(similar) or 'XNYS'}"
        raise ConfigError("calendar", expected, name)
    return str(exchange_calendars.resolve_alias(code))


def anchored(day_anchor: str | None, timezone: str | None, timeframe: Timeframe, base: str = ALWAYS_OPEN) -> str:
    """Name the calendar whose days begin at an anchor.

    Args:
        day_anchor: `16:00`, or with a clock of its own, `17:00 America/New_York`; midnight when left out.
        timezone: the clock of an anchor without one; UTC when left out.
        timeframe: of the bars. Where no anchor moves those of `24/7`, as with bars of a minute, it is plain `24/7`.
        base: `24/7`; or `24/5`, whose day that begins at noon or later is the next weekday.

    Raises:
        ConfigError: for what is no time of day, or no clock.
    """
    minute, zone = _read_anchor(day_anchor or "0:00", timezone or _UTC)
    is_plain = (minute, zone) == (0, _UTC) if base == WEEKDAYS else _Anchored(minute, zone).phase_of(timeframe) == 0
    if is_plain:
        return base
    time = f"{minute // 60:02}:{minute % 60:02}"
    return f"{base}@{time}" if zone == _UTC else f"{base}@{time} {zone}"


def _read_anchor(text: str, timezone: str = _UTC) -> tuple[int, str]:
    """The minute of the day at which days begin, and the zone of the IANA database by whose clock."""
    found = _ANCHOR.fullmatch(text.strip())
    if found is None:
        raise ConfigError("day_anchor", "a time of day such as 16:00, or 17:00 America/New_York", text)
    by = clock(found[3] or timezone)
    minute = (60 * int(found[1]) + int(found[2]) - by.shift_ms // MINUTE_MS) % (24 * 60)
    return minute, _UTC if str(by.zone) in _NAMES_OF_UTC else str(by.zone)


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

    def part(self, first: int, last: int) -> _Times:
        """Take some of the sessions, by position."""
        opens, closes, dates, break_starts, break_ends = (marks[first:last] for marks in self[:5])
        return _Times(opens, closes, dates, break_starts, break_ends, self.zone)


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


def _read_weekdays(minute: int, zone: str, end: str | None) -> _Times:
    """Days from Monday to Friday that begin at a minute of the day on a zone's clock, up to a date.

    One that begins at noon or later is the next weekday: the week of foreign exchange begins on Sunday.
    """
    days = np.arange(np.datetime64(_FIRST_SESSION, "D"), np.datetime64(end or _ZONES_KNOWN_UNTIL, "D"))
    dates = days.astype("datetime64[ms]").astype(np.int64)
    dates = dates[~is_weekend(dates)]
    starts = dates + minute * MINUTE_MS - (DAY_MS if minute >= _NOON else 0)
    never = np.full(len(dates), -1, np.int64)
    return _Times(on_utc(starts, zone), on_utc(starts + DAY_MS, zone), dates, never, never, zone)


class _Steps:
    """A bar in every slot of an even grid, so many ms behind that of the epoch."""

    zone = _UTC

    def __init__(self, phase: int) -> None:
        self._phase = phase

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        return np.arange(self._ceil(timeframe, start), end, timeframe.ms, dtype=np.int64)

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        end = timeframe.floor(as_of - self._phase) + self._phase
        return np.arange(end - count * timeframe.ms, end, timeframe.ms, dtype=np.int64)

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        start = self._ceil(timeframe, after)
        return np.arange(start, start + count * timeframe.ms, timeframe.ms, dtype=np.int64)

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        return timeframe.floor(after - self._phase) + self._phase + timeframe.ms

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where((opens - self._phase) % timeframe.ms == 0, opens + timeframe.ms, -1)

    def _ceil(self, timeframe: Timeframe, time: int) -> int:
        return -timeframe.floor(self._phase - time) + self._phase


class _Anchored:
    """A bar in every slot of a market that never closes, whose days begin at a minute of the day on a zone's clock.

    Bars longer than an hour are cut from the clock: where it is put forward or back, one is shorter or longer.
    """

    def __init__(self, minute: int, zone: str) -> None:
        self.zone = zone
        self._anchor = minute * MINUTE_MS
        self._grids: dict[Timeframe, _Steps | _Days] = {}

    def phase_of(self, timeframe: Timeframe) -> int | None:
        """How far the grid is behind that of the epoch, ms; None where that changes with the clock."""
        phases = {(self._anchor - offset) % timeframe.ms for offset in _offsets_of(self.zone)}
        return phases.pop() if len(phases) == 1 else None

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        return self._grid(timeframe).opens_between(timeframe, start, end)

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        return self._grid(timeframe).last_opens(timeframe, as_of, count)

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        return self._grid(timeframe).next_opens(timeframe, after, count)

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        return self._grid(timeframe).next_close(timeframe, after)

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._grid(timeframe).closes_of(timeframe, opens)

    def opens_of_labels(self, timeframe: Timeframe, labels: Labels) -> NDArray[np.int64]:
        """Instants; a bare date is the day of this clock, where its days begin at midnight."""
        if not timeframe.is_daily or self._anchor or self.zone == _UTC:
            return labels.instant
        is_date = (labels.written != UNWRITTEN) & (labels.written % DAY_MS == 0)
        is_open = self.closes_of(timeframe, labels.instant) >= 0
        return np.where(is_date & ~is_open, on_utc(labels.written, self.zone), labels.instant)

    def _grid(self, timeframe: Timeframe) -> _Steps | _Days:
        if timeframe not in self._grids:
            phase = self.phase_of(timeframe)
            self._grids[timeframe] = _Days(self.zone, self._read(timeframe)) if phase is None else _Steps(phase)
        return self._grids[timeframe]

    def _read(self, timeframe: Timeframe) -> Callable[[str | None], _Times]:
        """What gives the opens and closes of all bars up to a date."""

        def read(end: str | None) -> _Times:
            days = np.arange(np.datetime64(0, "D"), np.datetime64(end or _ZONES_KNOWN_UNTIL, "D") + 2)
            starts = days.astype("datetime64[ms]").astype(np.int64) + self._anchor
            wall = (starts[:, np.newaxis] + np.arange(0, DAY_MS, timeframe.ms)).ravel()
            instant = on_utc(wall, self.zone)
            never = np.full(len(wall) - 1, -1, np.int64)
            return _Times(instant[:-1], instant[1:], wall[:-1], never, never, self.zone)

        return read


class _Cut(NamedTuple):
    """Bars of the sessions from position `first` on, up to `last`: their opens and closes, rising."""

    times: _Times
    first: int
    last: int
    opens: NDArray[np.int64]
    closes: NDArray[np.int64]


class _Sessions:
    """The sessions of an exchange. `read` gives them up to a date; they are read on when time has come near the end.

    Bars are cut from the sessions that are asked for, and from some about them: all minutes since 1990 are many.
    """

    def __init__(self, name: str, read: Callable[[str | None], _Times]) -> None:
        self._name = name
        self._read = read
        self._times = read(None)
        self.zone = str(self._times.zone)
        self._is_all = False
        self._cuts: dict[Timeframe, _Cut] = {}

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
        times = self._times
        first = int(np.searchsorted(times.closes, start, side="right"))
        opens = self._bars(times, timeframe, first, int(np.searchsorted(times.opens, end))).opens
        return opens[slice(*np.searchsorted(opens, [start, end]))]

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        self._reach(as_of)
        times = self._times
        end, width = int(np.searchsorted(times.opens, as_of, side="right")), _FEW_SESSIONS
        while True:
            first = max(0, end - width)
            bars = self._bars(times, timeframe, first, end)
            last = int(np.searchsorted(bars.closes, as_of, side="right"))
            if last >= count or first == 0:
                return bars.opens[max(0, last - count) : last]
            width *= 4

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        width, is_read_on = _FEW_SESSIONS, False
        while True:
            times = self._times
            first = int(np.searchsorted(times.closes, after, side="right"))
            opens = self._bars(times, timeframe, first, min(first + width, len(times.opens))).opens
            at = int(np.searchsorted(opens, after))
            if at + count <= len(opens):
                return opens[at : at + count]
            if first + width >= len(times.opens):
                if is_read_on:
                    raise CalendarEnds(self._name, after, int(times.closes[-1]))
                self._reach(max(after, int(times.closes[-1])) + 1)
                is_read_on = True
            width *= 4

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        self._reach(after + 1)
        times = self._times
        first = int(np.searchsorted(times.closes, after, side="right"))
        if first == len(times.closes):
            raise CalendarEnds(self._name, after, int(times.closes[-1]))
        closes = self._bars(times, timeframe, first, first + 1).closes
        return int(closes[np.searchsorted(closes, after, side="right")])

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(opens):
            return np.empty(0, np.int64)
        times = self._times
        first = int(np.searchsorted(times.closes, opens.min(), side="right"))
        bars = self._bars(times, timeframe, first, int(np.searchsorted(times.opens, opens.max(), side="right")))
        if not len(bars.opens):
            return np.full(len(opens), -1, np.int64)
        at = np.minimum(np.searchsorted(bars.opens, opens), len(bars.opens) - 1)
        return np.where(bars.opens[at] == opens, bars.closes[at], -1)

    def _bars(self, times: _Times, timeframe: Timeframe, first: int, last: int) -> _Cut:
        """Bars of the sessions from position `first` on, up to `last`, and of some about them."""
        if timeframe.is_daily:
            return _Cut(times, 0, len(times.opens), times.opens, times.closes)
        held = self._cuts.get(timeframe)
        if held is None or held.times is not times or first < held.first or last > held.last:
            if held is not None and held.times is times:
                first, last = min(first, held.first), max(last, held.last)
            first, last = max(0, first - _FEW_SESSIONS), min(len(times.opens), last + _FEW_SESSIONS)
            held = _Cut(times, first, last, *_cut(times.part(first, last), timeframe.ms))
            self._cuts[timeframe] = held
        return held

    def opens_of_labels(self, timeframe: Timeframe, labels: Labels) -> NDArray[np.int64]:
        if not timeframe.is_daily:
            return labels.instant
        times = self._times
        opens, dates = times.opens, times.dates
        is_date = (labels.written % DAY_MS == 0) & (labels.written != UNWRITTEN)
        is_open = np.isin(labels.instant, opens) & ~is_date
        date = self._dates_of(labels, is_date)
        at = np.minimum(np.searchsorted(dates, date), len(dates) - 1)
        otherwise = np.where(is_date, labels.written, labels.instant)
        return np.where((dates[at] == date) & ~is_open, opens[at], otherwise)

    def _dates_of(self, labels: Labels, is_date: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The date that each label stands for, as UTC ms; `UNWRITTEN` where its readings are two, or there is none."""
        is_written = labels.written != UNWRITTEN
        local = on_clock(labels.instant, self._times.zone)
        readings = np.stack([labels.written - labels.written % DAY_MS, local - local % DAY_MS, labels.instant])
        by_clock = ~is_date & (is_written | (local % DAY_MS == 0))
        holds = np.stack([is_written, by_clock, ~is_date & (labels.instant % DAY_MS == 0)])
        least = np.where(holds, readings, np.iinfo(np.int64).max).min(axis=0)
        most = np.where(holds, readings, np.iinfo(np.int64).min).max(axis=0)
        return np.where(least == most, least, UNWRITTEN)


class _Days(_Sessions):
    """Bars of one timeframe, whatever it is, each of which is a session of its own."""

    def _bars(self, times: _Times, timeframe: Timeframe, first: int, last: int) -> _Cut:
        del timeframe, first, last
        return _Cut(times, 0, len(times.opens), times.opens, times.closes)


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


def on_clock(instant: NDArray[np.int64], zone: str | tzinfo) -> NDArray[np.int64]:
    """What the clocks of a zone show at these instants (UTC ms), as if it were UTC."""
    import pandas as pd  # noqa: PLC0415 - the calendar of an exchange has loaded it

    return _ms(pd.DatetimeIndex(instant.astype("datetime64[ms]"), tz="UTC").tz_convert(zone).tz_localize(None))


def on_utc(wall: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """The instants (UTC ms) at which the clocks of a zone show these times: the first, where there are two.

    A time that is left out when clocks are put forward is the moment at which they are.
    """
    import pandas as pd  # noqa: PLC0415 - most calendars need none

    index = pd.DatetimeIndex(wall.astype("datetime64[ms]"))
    first = np.ones(len(index), bool)
    return _ms(index.tz_localize(zone, ambiguous=first, nonexistent="shift_forward").tz_convert(None))


@cache
def _offsets_of(zone: str) -> frozenset[int]:
    """By how many ms the clocks of a zone have been ahead of UTC since 1970, and will be."""
    if zone == _UTC:
        return frozenset({0})
    hours = np.arange(np.datetime64(0, "D"), np.datetime64(_ZONES_KNOWN_UNTIL, "D")).astype("datetime64[ms]")
    instant = hours.astype(np.int64)
    return frozenset(np.unique(on_clock(instant, zone) - instant).tolist())
