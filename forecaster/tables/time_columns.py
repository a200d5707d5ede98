"""The columns of open times: by name, and by the cells where several columns hold times."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import Ambiguous, BadPayload
from forecaster.tables import FIELDS
from forecaster.tables.column_cells import cell_kind, check_identical, count_distinct
from forecaster.tables.column_names import (
    AMBIGUOUS_TIME_NAMES,
    CLOSE_TIME_NAMES,
    TIME_OF_DAY_NAMES,
    TIME_RANKS,
    is_lowercase_letter,
    normalize_name,
    prefer_lowercase,
)
from forecaster.tables.dates import read_dates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from forecaster.tables import ParseOptions, Table
    from forecaster.tables.column_cells import CellKind

EXPECTED_COLUMNS: Final = (
    f"columns {', '.join(FIELDS)} and a time such as open_time, timestamp or date (or `columns` that names them)"
)
_CHECKED_ROWS: Final = 200
_QUARTER_MS: Final = 15 * 60_000
_MAX_OFFSET_MS: Final = 14 * 3_600_000
_MAX_OFFSETS: Final = 2  # of one zone, in winter and in summer
_SECOND_MS: Final = 1000
_OPEN_RANK: Final = 0
"""The rank of names such as `open_time`."""
_UTC_NAME: Final = re.compile(r"utc|gmt", re.IGNORECASE)
_NOT_UTC_NAME: Final = re.compile(r"not|(?:utc|gmt)[ /a-z]*[-+−–]? ?\d", re.IGNORECASE)


def find_time(table: Table, options: ParseOptions) -> tuple[int, ...]:
    """Return the position of the times; or two positions, of the dates and of the times of day.

    Raises:
        Ambiguous: for columns that hold different times; names `columns`.
        BadPayload: for a table without open times.
    """
    keys = [normalize_name(name) for name in table.names]
    named = [place for place, key in enumerate(keys) if key in TIME_RANKS]
    named.sort(key=lambda place: (TIME_RANKS[keys[place]], not is_lowercase_letter(table.names[place])))
    unsure = [place for place, key in enumerate(keys) if key in AMBIGUOUS_TIME_NAMES]
    kinds = {place: cell_kind(table.cells[place]) for place in [*named, *unsure]}
    dated = [place for place, kind in kinds.items() if kind in {"moment", "date"}]
    clocks = [place for place in named if kinds[place] == "time_of_day" and keys[place] in TIME_OF_DAY_NAMES]
    if dated:
        same_name = [place for place in dated if keys[place] == keys[dated[0]]]
        check_identical(table, "open_time", prefer_lowercase(table, same_name))
        time = _finest(table, dated, kinds, clocks)
        others = [place for place in named if kinds[place] == "moment" and keys[place] != keys[time[0]]]
        is_moment = len(time) > 1 or kinds[time[0]] == "moment"
        return _prefer_instants(table, options, time, others) if others and is_moment else time
    if clocks:
        expected = f"a date beside the time of day in column {table.names[clocks[0]]!r}"
        raise BadPayload(table.source, expected, table.names)
    if named:
        return (named[0],)
    closes = [name for name, key in zip(table.names, keys, strict=True) if key in CLOSE_TIME_NAMES]
    if closes:
        raise BadPayload(table.source, "a column of open times", f"close times alone: {closes[0]}")
    raise BadPayload(table.source, EXPECTED_COLUMNS, table.names)


def _finest(table: Table, dated: list[int], kinds: Mapping[int, CellKind], clocks: list[int]) -> tuple[int, ...]:
    """Return the first dated column, joined with times of day; or moments where its dates repeat."""
    first = dated[0]
    if kinds[first] == "moment":
        return (first,)
    if clocks:
        return first, clocks[0]
    moments = [place for place in dated if kinds[place] == "moment"]
    if moments and count_distinct(table.cells[moments[0]]) > count_distinct(table.cells[first]):
        return (moments[0],)
    return (first,)


@dataclass(frozen=True, slots=True)
class _SampledTimes:
    """Times of some rows of a column: instants, or local times if no zone is written."""

    places: tuple[int, ...]
    ms: NDArray[np.int64]
    is_instant: bool


def _prefer_instants(table: Table, options: ParseOptions, time: tuple[int, ...], others: list[int]) -> tuple[int, ...]:
    """Prefer instants to the same times in local time; raise Ambiguous for different times not named as opens."""
    candidates = [time, *((place,) for place in others)]
    samples = [times for times in (_sample_times(table, options, places) for places in candidates) if times]
    instant = next((times for times in samples if times.is_instant), None)
    first = samples[0] if samples and samples[0].places == time else None
    if first is None:
        return instant.places if instant else time
    is_named_open = TIME_RANKS.get(normalize_name(table.names[time[0]])) == _OPEN_RANK
    if instant is None or instant is first:
        comparable = (times for times in samples if times.is_instant == first.is_instant)
        conflicting = next((times for times in comparable if not _is_same(times, first)), None)
    elif _is_same(first, instant) or _is_local(first, instant):
        return instant.places
    else:
        conflicting = instant
    if conflicting and not is_named_open:
        raise _conflict(table, first, conflicting)
    return time


def _sample_times(table: Table, options: ParseOptions, places: tuple[int, ...]) -> _SampledTimes | None:
    """Read the first times and some of the others; None if they cannot be read."""
    count = len(table.cells)
    rows = np.unique([*range(min(count, _CHECKED_ROWS)), *np.linspace(0, count - 1, _CHECKED_ROWS).astype(int)])
    try:
        dates = read_dates(replace(table, cells=table.cells.iloc[rows]), places, options)
    except BadPayload:
        return None
    if dates.zone or dates.abbreviation:
        return None
    is_bare = np.isnan(dates.offset_ms)
    names = " ".join(table.names[place] for place in places)
    is_utc = bool(_UTC_NAME.search(names)) and not _NOT_UTC_NAME.search(names)
    ms = dates.wall_ms - np.nan_to_num(dates.offset_ms).astype(np.int64)
    return _SampledTimes(places, ms, is_utc or not is_bare.any())


def _is_same(first: _SampledTimes, second: _SampledTimes) -> bool:
    return bool((np.abs(first.ms - second.ms) < _SECOND_MS).all())


def _is_local(local: _SampledTimes, instant: _SampledTimes) -> bool:
    """Return whether `local` is the local time of the same instants, and `instant` not the close of the same bars."""
    ahead = np.unique(local.ms - instant.ms)
    steps = np.diff(np.unique(local.ms[:_CHECKED_ROWS]))
    is_offset = (ahead % _QUARTER_MS == 0) & (np.abs(ahead) <= _MAX_OFFSET_MS)
    is_close = len(ahead) == 1 and len(steps) > 0 and -ahead[0] == steps.min()
    return bool(is_offset.all() and len(ahead) <= _MAX_OFFSETS and not is_close)


def _conflict(table: Table, first: _SampledTimes, second: _SampledTimes) -> Ambiguous:
    names = [" and ".join(table.names[place] for place in times.places) for times in (first, second)]
    found = f"different times in columns {names}, each of which may be open_time"
    return Ambiguous(table.source, "columns", f"open_time={names[0]}", found)
