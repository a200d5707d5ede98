"""Convert the times of a table to instants: find their time zone and apply it.

Priority: an offset in a cell, `ParseOptions.timezone`, a header such as `time (UTC)`, a column of zones, the zone of
the table. Programs that write local times without a zone are recognised by their format; their zone must be given. All
other times are UTC, unless `utc_evidence` contradicts that. `dates` reads the formats of dates.

Shapes: T rows of a table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import Ambiguous, BadPayload
from forecaster.tables.column_names import normalize_name
from forecaster.tables.dates import read_dates
from forecaster.tables.utc_evidence import find_utc_conflict
from forecaster.tables.zone_names import mentions_zone, parse_clock, parse_zone_cell
from forecaster.timeframe import DAY_MS, MINUTE_MS
from forecaster.zones import UNWRITTEN, Labels, get_clock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from forecaster.tables import ParseOptions, Table, ZoneSource
    from forecaster.tables.dates import Dates
    from forecaster.zones import Clock

_EXAMPLE: Final = "America/New_York"
_UTC: Final = get_clock("UTC")
_TICK_VOLUME_NAMES: Final = frozenset(("tickvol", "tickvolume"))
_METATRADER_NAMES: Final = frozenset(("spread", "realvolume"))
_ZONE_NAMES: Final = frozenset(("timezone", "tz", "tzname", "tzinfo", "utcoffset", "gmtoffset", "tzoffset"))
_FIRST_IDEOGRAPH: Final = "\u2e80"
_METATRADER_DATE: Final = "YYYY.MM.DD"
_HISTDATA_TIME: Final = "YYYYMMDD HHMMSS"
_MAX_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Times:
    """The times of a table.

    Args:
        labels: (T,); arbitrary at unreadable positions.
        unreadable: positions of times that are no instant, with the reason.
        format: the format for messages.
        zone_source: where the time zone comes from.
        zone_text: the time zone, for messages.
        utc_conflict: why times assumed to be UTC are probably not; empty if nothing contradicts UTC.
    """

    labels: Labels
    unreadable: dict[int, str]
    format: str
    zone_source: ZoneSource
    zone_text: str
    utc_conflict: str = ""


@dataclass(frozen=True, slots=True)
class _Zone:
    """The zone of times without an offset, where it comes from, and its text for messages."""

    clock: Clock
    source: ZoneSource
    text: str


def read_times(table: Table, places: tuple[int, ...], options: ParseOptions) -> Times:
    """Read the times in one column; or in two, the dates and the times of day.

    Raises:
        Ambiguous: if day and month may be swapped, or a zone abbreviation is ambiguous; names the option.
        BadPayload: for a cell that is not a time, or not a time of its zone; names the line.
        ConfigError: if `timezone` is not a zone.
    """
    return to_instants(table, places, read_dates(table, places, options), options)


def to_instants(table: Table, places: tuple[int, ...], dates: Dates, options: ParseOptions) -> Times:
    """Convert written times to instants; `dates` are those of the rows of one symbol, in table order.

    Raises:
        Ambiguous: if a zone abbreviation is ambiguous; names `timezone`.
        BadPayload: for a time that does not exist in its zone; names the line.
        ConfigError: if `timezone` is not a zone.
    """
    if _is_metatrader(table):
        dates = dates.with_epochs_as_local()
    zone = _find_zone(table, places, dates, options)
    instant = dates.wall_ms - np.nan_to_num(dates.offset_ms).astype(np.int64)
    bare = np.flatnonzero(np.isnan(dates.offset_ms))
    wall_ms = dates.wall_ms[bare]
    is_nonexistent = zone.clock.nonexistent(wall_ms)
    if is_nonexistent.any() and (wall_ms % DAY_MS).any():  # a date without a time of day may have no midnight
        row = int(bare[np.argmax(is_nonexistent)])
        cells = " ".join(str(table.cells.iloc[row, place]) for place in places)
        raise table.cell_error(f"a time that exists in {zone.clock.name}", row, cells)
    unreadable: dict[int, str]
    instant[bare], unreadable = zone.clock.to_utc(wall_ms)
    written = np.where(dates.is_epoch, UNWRITTEN, dates.wall_ms)
    return Times(
        labels=Labels(instant, written),
        unreadable={int(bare[index]): reason for index, reason in unreadable.items()},
        format=dates.format,
        zone_source=zone.source,
        zone_text=zone.text + _unused_note(dates, instant, options),
        utc_conflict=find_utc_conflict(table, wall_ms) if zone.source == "assumed" and (wall_ms % DAY_MS).any() else "",
    )


def _find_zone(table: Table, places: tuple[int, ...], dates: Dates, options: ParseOptions) -> _Zone:
    """Return the zone of the times."""
    bare = np.isnan(dates.offset_ms)
    if dates.is_epoch.all():
        return _Zone(_UTC, "written", "UTC, as epochs are")
    given = None if options.timezone is None else get_clock(options.timezone)
    if dates.abbreviation and not given:
        raise Ambiguous(table.source, "timezone", _EXAMPLE, f"{dates.abbreviation}, whose zone may be one of several")
    if dates.zone:
        clock = parse_clock(dates.zone)
        if clock is None:
            raise BadPayload(table.source, "an IANA zone after each time", dates.zone)
        return _Zone(clock, "written", f"written: {clock.name}")
    if not bare.all():
        remainder = f"; {(given or _UTC).name} where nothing is written" if bare.any() else ""
        return _Zone(given or _UTC, "written", f"written: {_show_offsets(dates)}{remainder}")
    if given:
        return _Zone(given, "given", f"{given.name}, as given")
    return _zone_of_table(table, places) or _zone_by_format(table, dates)


def _show_offsets(dates: Dates) -> str:
    """Return the written offsets for messages."""
    minutes = np.unique(dates.offset_ms[~np.isnan(dates.offset_ms)] / MINUTE_MS).astype(int).tolist()
    shown = [
        f"{'-' if minute < 0 else '+'}{abs(minute) // 60:02}:{abs(minute) % 60:02}" if minute else "UTC"
        for minute in minutes
    ]
    return " and ".join(shown) if len(shown) <= _MAX_SHOWN else f"{shown[0]} to {shown[-1]}"


def _unused_note(dates: Dates, instant: NDArray[np.int64], options: ParseOptions) -> str:
    """Return the note that the given zone is not used, because every time has another one."""
    if options.timezone is None or (np.isnan(dates.offset_ms).any() and not dates.zone):
        return ""
    given = get_clock(options.timezone)
    is_other = (given.to_wall(instant) != dates.wall_ms).any()
    return f"; {given.name}, as given, is not used" if is_other else ""


def _zone_of_table(table: Table, places: tuple[int, ...]) -> _Zone | None:
    """Return the zone from the headers of the times, a column of zones, or the table; None if none is written."""
    headers = [name for name in (table.names[place] for place in places if table.has_header) if mentions_zone(name)]
    clocks = {parse_clock(name) for name in headers}
    clock = clocks.pop() if len(clocks) == 1 else None
    if clock:
        return _Zone(clock, "written", f"{clock.name}, as the column `{headers[0]}` says")
    for name, texts in _written_zones(table, places):
        clock = parse_zone_cell(texts[0]) if len(texts) == 1 else None
        if clock:
            return _Zone(clock, "written", f"{clock.name}, as {name} says")
        return _zone_required(", ".join(texts[:_MAX_SHOWN]))
    return _zone_required(headers[0]) if headers else None


def _written_zones(table: Table, places: tuple[int, ...]) -> Iterator[tuple[str, list[str]]]:
    """Yield the zones in each column of zones and that of the table, each after its name for messages."""
    for place, name in enumerate(table.names):
        if table.has_header and place not in places and normalize_name(name) in _ZONE_NAMES:
            cells = table.cells[place]
            written = cells.astype(str).where(cells.notna(), "").str.strip().unique().tolist()
            if written != [""]:
                yield f"the column `{name}`", [text or "nothing" for text in written]
    if table.timezone:
        yield "the table", [table.timezone]


def _zone_by_format(table: Table, dates: Dates) -> _Zone:
    """Return the zone by format: local times for known programs, else UTC."""
    names = {name.strip().casefold() for name in table.names}
    has_times_of_day = bool((dates.wall_ms % DAY_MS).any())
    # East Asian programs write session dates in this format.
    is_east_asian = any(letter >= _FIRST_IDEOGRAPH for name in names for letter in name)
    is_dotted = dates.format.startswith(_METATRADER_DATE) and (has_times_of_day or not is_east_asian)
    if is_dotted or _is_metatrader(table):
        return _Zone(_UTC, "required", "not written: the zone of a MetaTrader broker")
    if dates.format == _HISTDATA_TIME and not table.has_header:
        return _Zone(_UTC, "required", "not written: HistData uses -05:00 all year")
    if "<time>" in names and has_times_of_day:
        return _Zone(_UTC, "required", "not written: such as Europe/Moscow of Finam, or Europe/Warsaw of Stooq")
    return _Zone(_UTC, "assumed", "UTC, as no zone is written")


def _is_metatrader(table: Table) -> bool:
    """Return whether the columns are MetaTrader's, whose times and epochs are in the broker's zone."""
    names = {name.strip().casefold() for name in table.names}
    keys = {normalize_name(name) for name in names}
    has_tick_volume = not _TICK_VOLUME_NAMES.isdisjoint(keys)
    return (has_tick_volume and not _METATRADER_NAMES.isdisjoint(keys)) or (
        "<date>" in names and (has_tick_volume or "<spread>" in names)
    )


def _zone_required(written: str) -> _Zone:
    return _Zone(_UTC, "required", f"not in `{written}`")
