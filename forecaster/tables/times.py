"""The times of a table as instants: which clock they are of, and what that makes of them.

What is written wins: an offset of a cell, then what the user says, a header such as `time (UTC)`, a column of zones,
and what the table says as a whole. Programs that write local times without saying so are known by their form; their
zone must be said. Everything else is taken for UTC, unless its times show another clock. How a date is written is left
to `dates`.

Shapes: T rows of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.calendars import UNWRITTEN, Labels
from forecaster.errors import Ambiguous, BadPayload
from forecaster.tables.clocknames import clock_of_cell, speaks_of_a_clock, told_clock
from forecaster.tables.dates import read_dates
from forecaster.tables.doubts import doubt_utc
from forecaster.tables.words import plain
from forecaster.timeframe import DAY_MS, MINUTE_MS
from forecaster.zones import clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from forecaster.tables import Reading, Table, ZoneKind
    from forecaster.tables.dates import Dates
    from forecaster.zones import Clock

_EXAMPLE: Final = "America/New_York"
_UTC: Final = clock("UTC")
_TICKS: Final = frozenset(("tickvol", "tickvolume"))
_BESIDE_TICKS: Final = frozenset(("spread", "realvolume"))
_OF_ZONES: Final = frozenset(("timezone", "tz", "tzname", "tzinfo", "utcoffset", "gmtoffset", "tzoffset"))
_FIRST_IDEOGRAPH: Final = "\u2e80"
_METATRADER: Final = "YYYY.MM.DD"
_HISTDATA: Final = "YYYYMMDD HHMMSS"
_SHOWN_OFFSETS: Final = 3


@dataclass(frozen=True, slots=True)
class Times:
    """The times of a table.

    Args:
        labels: (T,); those of unreadable positions may be anything.
        unreadable: positions of times that stand for no instant, with the reason.
        form: how they are written, for people.
        zone: where their zone comes from.
        zone_text: which zone, for people.
        doubt: why times that are taken for UTC are probably not; empty when nothing speaks against it.
    """

    labels: Labels
    unreadable: dict[int, str]
    form: str
    zone: ZoneKind
    zone_text: str
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class _Zone:
    """The clock of times without an offset, where it comes from, and that for people."""

    clock: Clock
    kind: ZoneKind
    text: str


def read_times(table: Table, places: tuple[int, ...], reading: Reading) -> Times:
    """Read the times in one column, or in two: the dates and the times of day.

    Raises:
        Ambiguous: days are not told from months, or the letters of a zone name several; names the option.
        BadPayload: a cell is no time, or one that its clock does not show; names the line.
        ConfigError: `timezone` is no clock.
    """
    return times_of(table, places, read_dates(table, places, reading), reading)


def times_of(table: Table, places: tuple[int, ...], dates: Dates, reading: Reading) -> Times:
    """Give written times as instants; they are those of the table's rows, which are one symbol's, in their order.

    Raises:
        Ambiguous: the letters of a zone name several.
        BadPayload: a time is one that its clock does not show; names the line.
        ConfigError: `timezone` is no clock.
    """
    if _is_of_metatrader(table):
        dates = dates.by_a_clock()
    zone = _zone_of(table, places, dates, reading)
    instant = dates.wall_ms - np.nan_to_num(dates.offset_ms).astype(np.int64)
    bare = np.flatnonzero(np.isnan(dates.offset_ms))
    wall_ms = dates.wall_ms[bare]
    skipped = zone.clock.skips(wall_ms)
    if skipped.any() and (wall_ms % DAY_MS).any():  # the midnight of a day may be left out
        row = int(bare[np.argmax(skipped)])
        cells = " ".join(str(table.cells.iloc[row, place]) for place in places)
        raise table.fault(f"a time that the clock of {zone.clock.name} shows", row, cells)
    unreadable: dict[int, str]
    instant[bare], unreadable = zone.clock.instants(wall_ms)
    written = np.where(dates.is_epoch, UNWRITTEN, dates.wall_ms)
    return Times(
        labels=Labels(instant, written),
        unreadable={int(bare[at]): reason for at, reason in unreadable.items()},
        form=dates.form,
        zone=zone.kind,
        zone_text=zone.text + _unused(dates, instant, reading),
        doubt=doubt_utc(table, wall_ms) if zone.kind == "assumed" and (wall_ms % DAY_MS).any() else "",
    )


def _zone_of(table: Table, places: tuple[int, ...], dates: Dates, reading: Reading) -> _Zone:
    """Find the clock of the times."""
    bare = np.isnan(dates.offset_ms)
    if dates.is_epoch.all():
        return _Zone(_UTC, "written", "UTC, as epochs are")
    said = None if reading.timezone is None else clock(reading.timezone)
    if dates.letters and not said:
        raise Ambiguous(table.source, "timezone", _EXAMPLE, f"{dates.letters}, whose zone may be one of several")
    if dates.zone:
        known = told_clock(dates.zone)
        if known is None:
            raise BadPayload(table.source, "an IANA zone after each time", dates.zone)
        return _Zone(known, "written", f"written: {known.name}")
    if not bare.all():
        rest = f"; {(said or _UTC).name} where nothing is written" if bare.any() else ""
        return _Zone(said or _UTC, "written", f"written: {_offsets(dates)}{rest}")
    if said:
        return _Zone(said, "said", f"{said.name}, as said")
    return _zone_of_table(table, places) or _zone_of_form(table, dates)


def _offsets(dates: Dates) -> str:
    """Show people the offsets that are written."""
    minutes = np.unique(dates.offset_ms[~np.isnan(dates.offset_ms)] / MINUTE_MS).astype(int).tolist()
    shown = [f"{'-' if one < 0 else '+'}{abs(one) // 60:02}:{abs(one) % 60:02}" if one else "UTC" for one in minutes]
    return " and ".join(shown) if len(shown) <= _SHOWN_OFFSETS else f"{shown[0]} to {shown[-1]}"


def _unused(dates: Dates, instant: NDArray[np.int64], reading: Reading) -> str:
    """Say that the clock which the user says is not used, where every time has another one."""
    if reading.timezone is None or (np.isnan(dates.offset_ms).any() and not dates.zone):
        return ""
    said = clock(reading.timezone)
    is_other = (said.wall(instant) != dates.wall_ms).any()
    return f"; {said.name}, as said, is not used" if is_other else ""


def _zone_of_table(table: Table, places: tuple[int, ...]) -> _Zone | None:
    """Find the clock in the headers of the times, in a column of zones, or in what the table says as a whole."""
    speaking = [
        name for name in (table.names[place] for place in places if table.has_header) if speaks_of_a_clock(name)
    ]
    told = {told_clock(name) for name in speaking}
    known = told.pop() if len(told) == 1 else None
    if known:
        return _Zone(known, "written", f"{known.name}, as the column `{speaking[0]}` says")
    for name, texts in _said_of_all(table, places):
        known = clock_of_cell(texts[0]) if len(texts) == 1 else None
        if known:
            return _Zone(known, "written", f"{known.name}, as {name} says")
        return _required(", ".join(texts[:_SHOWN_OFFSETS]))
    return _required(speaking[0]) if speaking else None


def _said_of_all(table: Table, places: tuple[int, ...]) -> Iterator[tuple[str, list[str]]]:
    """Give what a column of zones says, and what the table says as a whole, each after its name for people."""
    for place, name in enumerate(table.names):
        if table.has_header and place not in places and plain(name) in _OF_ZONES:
            cells = table.cells[place]
            written = cells.astype(str).where(cells.notna(), "").str.strip().unique().tolist()
            if written != [""]:
                yield f"the column `{name}`", [text or "nothing" for text in written]
    if table.timezone:
        yield "the table", [table.timezone]


def _zone_of_form(table: Table, dates: Dates) -> _Zone:
    """Tell by their form the tables of programs that write local times."""
    names = {name.strip().casefold() for name in table.names}
    has_times_of_day = bool((dates.wall_ms % DAY_MS).any())
    # In East Asia such dates are those of sessions.
    is_east_asian = any(letter >= _FIRST_IDEOGRAPH for name in names for letter in name)
    is_dotted = dates.form.startswith(_METATRADER) and (has_times_of_day or not is_east_asian)
    if is_dotted or _is_of_metatrader(table):
        return _Zone(_UTC, "required", "not written: the clock of a MetaTrader broker")
    if dates.form == _HISTDATA and not table.has_header:
        return _Zone(_UTC, "required", "not written: HistData's clock is -05:00 all the year")
    if "<time>" in names and has_times_of_day:
        return _Zone(_UTC, "required", "not written: such as Europe/Moscow of Finam, or Europe/Warsaw of Stooq")
    return _Zone(_UTC, "assumed", "UTC, as no zone is written")


def _is_of_metatrader(table: Table) -> bool:
    """Whether it has the columns that MetaTrader writes: its times, and its epochs too, are of the broker's clock."""
    names = {name.strip().casefold() for name in table.names}
    keys = {plain(name) for name in names}
    has_ticks = not _TICKS.isdisjoint(keys)
    return (has_ticks and not _BESIDE_TICKS.isdisjoint(keys)) or (
        "<date>" in names and (has_ticks or "<spread>" in names)
    )


def _required(written: str) -> _Zone:
    return _Zone(_UTC, "required", f"not told by `{written}`")
