"""Which bars should exist: the 24/7 grid of crypto venues, or the sessions of a stock exchange.

A calendar answers in open and close times (UTC ms) and knows no prices. Days of a 24/7 market begin at midnight UTC, or
at an anchor: `24/7@16:00`, `24/7@17:00 America/New_York`. On an exchange calendar a daily bar is a session, and
intraday bars are counted from its open (`sessions`). Venues that count them from the full hour are not on this grid.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache, partial
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from forecaster.errors import ConfigError
from forecaster.sessions import (
    LAST_COMPUTED_DATE,
    SessionCalendar,
    SlotCalendar,
    daily_slots,
    load_sessions,
    weekday_sessions,
)
from forecaster.timeframe import DAY_MS, MINUTE_MS, Timeframe
from forecaster.zones import UNWRITTEN, get_clock, wall_to_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.zones import Labels

ALWAYS_OPEN: Final = "24/7"
WEEKDAYS: Final = "24/5"
"""Monday to Friday in whole days of UTC; with an anchor, as in `24/5@17:00 America/New_York`, foreign exchange."""

_UTC: Final = "UTC"
_NAMES_OF_UTC: Final = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Etc/Zulu", "UCT", "Etc/UCT", "Universal")
_ANCHOR: Final = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?: (.+))?")


class Calendar(Protocol):
    """The bars of a timeframe that should exist, and when each closes; `zone` is the market's time zone."""

    zone: str

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        """Return the open times in [start, end), rising."""

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        """Return the open times of the last `count` bars that closed at or before `as_of`, rising."""

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        """Return the open times of the first `count` bars that open at or after `after`, rising.

        Raises:
            CalendarEnds: when the calendar is not known so far ahead.
        """

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        """Return the first close time later than `after`.

        Raises:
            CalendarEnds: when the calendar is not known so far ahead.
        """

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the close times of bars; -1 for an open time that is not on the grid."""

    def opens_of_labels(self, timeframe: Timeframe, labels: Labels) -> NDArray[np.int64]:
        """Return the open times that labels stand for; one that stands for no bar gets a time off the grid.

        On 24/7, and for intraday bars, a label is an instant. A daily label on an exchange calendar is a session:

        - A date or a midnight in any zone is the session of the written date.
        - Another label that is a session's open is that session.
        - Any other label is the session of its written date, if that is also its date on the exchange's clock, and
          at midnight UTC also that date.
        - An epoch has no written date. Its date on the exchange's clock counts only at midnight.

        A label with two such dates, or none, stands for no bar.
        """


@cache
def get_calendar(name: str) -> Calendar:
    """Return a calendar by name: `24/7`, also with an anchor, or a code of exchange_calendars.

    Raises:
        ConfigError: for an unknown name, or an alias: two names of one calendar would make one series two.
    """
    base, _, anchor = name.partition("@")
    if base == ALWAYS_OPEN:
        return _ContinuousCalendar(*_parse_anchor(anchor or "0:00"))
    if base == WEEKDAYS and anchor:
        return SessionCalendar(name, partial(weekday_sessions, *_parse_anchor(anchor)))
    if canonical_name(name) != name:
        raise ConfigError("calendar", f"{canonical_name(name)}, which is the name of that calendar here", name)
    import exchange_calendars  # noqa: PLC0415 - loads pandas; crypto series never need it

    return SessionCalendar(name, partial(load_sessions, exchange_calendars, name))


def is_continuous(name: str) -> bool:
    """Whether the market of a calendar never closes, wherever its days begin."""
    return name.partition("@")[0] == ALWAYS_OPEN


@cache
def canonical_name(name: str) -> str:
    """Return the one name of a calendar that has several: exchange_calendars resolves NASDAQ to XNYS.

    Raises:
        ConfigError: for an unknown name.
    """
    if is_continuous(name) or name.startswith(f"{WEEKDAYS}@"):
        return name
    import exchange_calendars  # noqa: PLC0415 - loads pandas; crypto series never need it

    known: list[str] = exchange_calendars.get_calendar_names(include_aliases=True)
    code = next((spelling for spelling in (name, name.upper()) if spelling in known), None)
    if code is None:
        similar = get_close_matches(name.upper(), set(known) - {ALWAYS_OPEN}, n=3)
        expected = f"{ALWAYS_OPEN} or an exchange_calendars code such as {', '.join(similar) or 'XNYS'}"
        raise ConfigError("calendar", expected, name)
    return str(exchange_calendars.resolve_alias(code))


def anchored_name(day_anchor: str | None, timezone: str | None, timeframe: Timeframe, base: str = ALWAYS_OPEN) -> str:
    """Return the name of the calendar whose days begin at an anchor.

    Args:
        day_anchor: `16:00`, or with its own zone, `17:00 America/New_York`; midnight when left out.
        timezone: the zone of an anchor without one; UTC when left out.
        timeframe: of the bars. Where the anchor moves none of them, as with bars of a minute, the name is `24/7`.
        base: `24/7`; or `24/5`, where a day that begins at noon or later is the next weekday.

    Raises:
        ConfigError: for an invalid time of day or zone.
    """
    minute, zone = _parse_anchor(day_anchor or "0:00", timezone or _UTC)
    is_unmoved = (
        (minute, zone) == (0, _UTC) if base == WEEKDAYS else _ContinuousCalendar(minute, zone).phase_of(timeframe) == 0
    )
    if is_unmoved:
        return base
    time = f"{minute // 60:02}:{minute % 60:02}"
    return f"{base}@{time}" if zone == _UTC else f"{base}@{time} {zone}"


def _parse_anchor(text: str, timezone: str = _UTC) -> tuple[int, str]:
    """Return the minute of the day at which days begin, and its IANA zone."""
    match = _ANCHOR.fullmatch(text.strip())
    if match is None:
        raise ConfigError("day_anchor", "a time of day such as 16:00, or 17:00 America/New_York", text)
    clock = get_clock(match[3] or timezone)
    minute = (60 * int(match[1]) + int(match[2]) - clock.shift_ms // MINUTE_MS) % (24 * 60)
    return minute, _UTC if str(clock.zone) in _NAMES_OF_UTC else str(clock.zone)


class _EvenGrid:
    """A `Calendar` with a bar in every slot of an even grid, `phase` ms after that of the epoch."""

    zone = _UTC

    def __init__(self, phase: int) -> None:
        self._phase = phase

    def opens_between(self, timeframe: Timeframe, start: int, end: int) -> NDArray[np.int64]:
        return np.arange(self._ceil(timeframe, start), end, timeframe.ms, dtype=np.int64)

    def last_opens(self, timeframe: Timeframe, as_of: int, count: int) -> NDArray[np.int64]:
        end = self._floor(timeframe, as_of)
        return np.arange(end - count * timeframe.ms, end, timeframe.ms, dtype=np.int64)

    def next_opens(self, timeframe: Timeframe, after: int, count: int) -> NDArray[np.int64]:
        start = self._ceil(timeframe, after)
        return np.arange(start, start + count * timeframe.ms, timeframe.ms, dtype=np.int64)

    def next_close(self, timeframe: Timeframe, after: int) -> int:
        return self._floor(timeframe, after) + timeframe.ms

    def closes_of(self, timeframe: Timeframe, opens: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where((opens - self._phase) % timeframe.ms == 0, opens + timeframe.ms, -1)

    def _floor(self, timeframe: Timeframe, time: int) -> int:
        return timeframe.floor(time - self._phase) + self._phase

    def _ceil(self, timeframe: Timeframe, time: int) -> int:
        return -timeframe.floor(self._phase - time) + self._phase


class _ContinuousCalendar:
    """A `Calendar` of a market that never closes, whose days begin at a minute of the day in a zone.

    Bars longer than an hour follow the zone's clock: at a transition one of them is shorter or longer.
    """

    def __init__(self, minute: int, zone: str) -> None:
        self.zone = zone
        self._anchor = minute * MINUTE_MS
        self._grids: dict[Timeframe, _EvenGrid | SlotCalendar] = {}

    def phase_of(self, timeframe: Timeframe) -> int | None:
        """Return by how many ms the grid is later than that of the epoch; None where transitions change that."""
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
        """Return the instants; a date alone is the day of this zone, where its days begin at midnight."""
        if not timeframe.is_daily or self._anchor or self.zone == _UTC:
            return labels.instant
        is_date = (labels.written != UNWRITTEN) & (labels.written % DAY_MS == 0)
        is_open = self.closes_of(timeframe, labels.instant) >= 0
        return np.where(is_date & ~is_open, wall_to_utc(labels.written, self.zone), labels.instant)

    def _grid(self, timeframe: Timeframe) -> _EvenGrid | SlotCalendar:
        if timeframe not in self._grids:
            phase = self.phase_of(timeframe)
            load = partial(daily_slots, self._anchor, self.zone, timeframe.ms)
            self._grids[timeframe] = SlotCalendar(self.zone, load) if phase is None else _EvenGrid(phase)
        return self._grids[timeframe]


@cache
def _offsets_of(zone: str) -> frozenset[int]:
    """Return the UTC offsets (ms) of a zone since 1970, and those to come."""
    if zone == _UTC:
        return frozenset({0})
    days = np.arange(np.datetime64(0, "D"), np.datetime64(LAST_COMPUTED_DATE, "D"))
    instant = days.astype("datetime64[ms]").astype(np.int64)
    return frozenset(np.unique(get_clock(zone).to_wall(instant) - instant).tolist())
