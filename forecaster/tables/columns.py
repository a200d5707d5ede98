"""Which column of a table is what: by the names, and by the cells where the names leave it open.

What a table says twice in different cells is refused. How a cell is read is left to `times` and `numbers`, in which
order prices without names stand to `order`.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import pandas as pd

from forecaster.errors import Ambiguous, BadPayload, ConfigError
from forecaster.tables import COLUMNS, FIELDS
from forecaster.tables.dates import read_dates
from forecaster.tables.words import (
    CLOCKS,
    CLOSE_TIMES,
    IS_SURE,
    SYMBOL_RANKS,
    TIME_RANKS,
    TIMEFRAMES,
    UNSURE_TIMES,
    claim,
    claims,
    plain,
    side_by_side,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from forecaster.tables import Reading, Table

_Kind: TypeAlias = Literal["moment", "date", "clock", "other"]

_EXPECTED: Final = (
    f"columns {', '.join(FIELDS)} and a time such as open_time, timestamp or date (or `columns` that names them)"
)
_BY_PLACE: Final = ("open_time", *COLUMNS)
_TIME_ROLES: Final = ("date", "open_time", "time")
_BARE: Final[tuple[_Kind, ...]] = ("date", "clock")
_SAMPLED: Final = 600
_FIRST_COLUMNS: Final = 4
_YEARS: Final = range(1900, 2101)
_HOURS, _MINUTES = 24, 60
_HOUR_DIGITS, _MINUTE_DIGITS = 2, 4
_DAY: Final = (
    r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/. ]\d{1,2}[-/. ]\d{2,4}"
    r"|(?:[^\W\d]{2,9}\.?,? )?(?:[^\W\d]{3,9}\.? \d{1,2},? \d{4}|\d{1,2}\.?[- ]?[^\W\d]{3,9}\.?[- ,]{0,2}\d{2,4})"
)
_WORDS: Final = re.compile(r"\W*(?:[^\W\d_]+\W+){3}")  # no date begins with three
_DECIMAL: Final = re.compile(r"[-+]?\d+[.,]\d+")
_DATE: Final = re.compile(rf"(?:{_DAY}|(\d{{8}}))(?:[T ]00:00(?::00(?:\.0+)?)?)?")
_MOMENT: Final = re.compile(rf"(?:{_DAY}|\d{{8}})[T ,-]\s*\S.*|\d{{9,19}}(?:\.\d+)?")
_CLOCK: Final = re.compile(r"(?:0 days )?\d{1,2}(?::\d{2}){1,2}(?:\.\d+)?(?: ?[AaPp]\.?[Mm]\.?)?|(\d{1,6})")

_MOST: Final = 0.5
_MOST_TIMEFRAMES: Final = 8
_MOST_SYMBOLS: Final = 5_000
"""In one column: all shares of New York and NASDAQ; each is read on its own, which takes milliseconds."""
_CHECKED: Final = 200
_NO_PARTS: Final = TIMEFRAMES | CLOSE_TIMES | UNSURE_TIMES | TIME_RANKS.keys() | {"timezone", "tz", "currency"}
_QUARTER_MS: Final = 15 * 60_000
_MOST_AHEAD_MS: Final = 14 * 3_600_000
_MOST_OFFSETS: Final = 2  # of one clock, in winter and in summer
_SECOND_MS: Final = 1000
_OPENS: Final = 0
"""The rank of names that say that a bar opens."""
_UTC_NAME: Final = re.compile(r"utc|gmt", re.IGNORECASE)
_NOT_UTC_NAME: Final = re.compile(r"not|(?:utc|gmt)[ /a-z]*[-+−–]? ?\d", re.IGNORECASE)
_SYMBOL: Final = re.compile(r"(?!\d{4}[-QW])(?=.*[^\W\d_])[\w.:/^=-]{1,15}")
_NO_SYMBOL: Final = re.compile(
    r"[A-Z]{1,3}T|UTC|true|false|yes|no|[yntf]|[ap]m|up|down|buy|sell|long|short|open|closed?"
    r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun)[a-z]*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a table holds what, by position.

    Args:
        time: one column, or two: a date, and a time of day to be joined to it.
        fields: of open, high, low, close and, where there is one, volume; empty where symbols stand side by side.
        symbol: of the column that tells whose row it is.
        several: the fields of each symbol, where symbols stand side by side.
    """

    time: tuple[int, ...]
    fields: dict[str, int] = field(default_factory=dict)
    symbol: int | None = None
    several: dict[str, dict[str, int]] = field(default_factory=dict)


def names_bars(names: Sequence[str]) -> bool:
    """Tell whether these names hold a time and open, high, low and close."""
    timed = any(name in TIME_RANKS or name in UNSURE_TIMES or name in CLOSE_TIMES for name in map(plain, names))
    if not timed:
        return False
    prices = {name for side in claims(names).values() for name in side}
    return set(FIELDS) <= prices or bool(side_by_side(names))


def find_columns(table: Table, reading: Reading) -> Columns:
    """Find what each column is.

    Raises:
        Ambiguous: names the option which settles it.
        BadPayload: it holds no times or not all of the prices; or it has no column of a name that was said.
    """
    said = _said(table, reading)
    if not table.has_header and not said:
        return _with_symbol(table, reading, columns_by_content(table))
    time = said.time or _find_time(table, reading)
    if set(FIELDS) <= said.fields.keys():
        return _with_symbol(table, reading, Columns(time, said.fields))
    fields = _find_fields(table, said.fields)
    if fields:
        return _with_symbol(table, reading, Columns(time, fields))
    several = side_by_side(table.names)
    if not several:
        raise BadPayload(table.source, _EXPECTED, table.names)
    return Columns(time, several=several)


def split_symbols(table: Table, columns: Columns) -> dict[str, NDArray[np.intp]]:
    """Give the positions of the rows of each symbol, in order of first appearance."""
    everything = np.arange(len(table.cells))
    if columns.several:
        return dict.fromkeys(columns.several, everything)
    if columns.symbol is None:
        return {table.symbol: everything}
    written, cells = _factorize(table.cells[columns.symbol])
    names, symbols = pd.factorize(np.array([*(str(cell).strip() for cell in cells), ""], object))
    if len(symbols) > _MOST_SYMBOLS:
        expected = f"at most {_MOST_SYMBOLS:,} symbols in column {table.names[columns.symbol]!r}"
        raise BadPayload(table.source, expected, f"{len(symbols):,}: divide the file, or say which column holds them")
    codes = names[written]  # an empty cell is -1, the last
    if not symbols[codes].all():
        expected = f"a symbol in column {table.names[columns.symbol]!r}"
        raise table.fault(expected, int(np.argmin(symbols[codes] != "")), "an empty cell")
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    return {str(symbol): part for symbol, part in zip(symbols, parts, strict=False)}


# What the user says.


@dataclass(frozen=True, slots=True)
class _Said:
    time: tuple[int, ...] = ()
    fields: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.time or self.fields)


def _said(table: Table, reading: Reading) -> _Said:
    """Give the positions of the columns that the user names, by place or by name."""
    if not reading.columns:
        return _Said()
    if isinstance(reading.columns, Mapping):
        return _placed({role: _position(table, name) for role, name in reading.columns.items()}.items())
    if len(reading.columns) > len(table.names):
        expected = f"at least {len(reading.columns)} columns, as many as `columns` says"
        raise BadPayload(table.source, expected, f"{len(table.names)}: {table.names}")
    said = _placed((role, place) for place, role in enumerate(reading.columns) if role.strip() not in {"", "-"})
    missing = [name for name in FIELDS if name not in said.fields] + ["open_time"] * (not said.time)
    if missing:
        raise ConfigError("columns", f"a place for each of open_time, {', '.join(FIELDS)}", list(reading.columns))
    return said


def _placed(roles: Iterable[tuple[str, int]]) -> _Said:
    time, fields = [], {}
    for role, place in roles:
        name = role.strip().lower()
        if name in _TIME_ROLES:
            time.append((_TIME_ROLES.index(name), place))
        elif name in COLUMNS:
            fields[name] = place
        else:
            raise ConfigError("columns", f"some of {', '.join(_BY_PLACE)}", role)
    return _Said(tuple(place for _, place in sorted(time)), fields)


def _position(table: Table, name: str) -> int:
    """Find a column by its name as it is written, or else without regard to case and marks."""
    for write in (str, str.casefold, plain):
        found = [place for place, other in enumerate(table.names) if write(other.strip()) == write(name.strip())]
        if found:
            return found[0]
    raise BadPayload(table.source, f"a column named one of {table.names}", name)


# What the names say.


def _find_time(table: Table, reading: Reading) -> tuple[int, ...]:
    """Find the times: moments, or dates, with a time of day beside them where there is one."""
    keys = [plain(name) for name in table.names]
    named = [place for place, key in enumerate(keys) if key in TIME_RANKS]
    named.sort(key=lambda at: (TIME_RANKS[keys[at]], not _is_small(table.names[at])))
    unsure = [place for place, key in enumerate(keys) if key in UNSURE_TIMES]
    kinds = {place: _kind(table.cells[place]) for place in [*named, *unsure]}
    full = [place for place, kind in kinds.items() if kind in {"moment", "date"}]
    clocks = [place for place in named if kinds[place] == "clock" and keys[place] in CLOCKS]
    if full:
        _refuse_two(table, "open_time", _small([place for place in full if keys[place] == keys[full[0]]], table))
        time = _finest(table, full, kinds, clocks)
        others = [place for place in named if kinds[place] == "moment" and keys[place] != keys[time[0]]]
        is_whole = len(time) > 1 or kinds[time[0]] == "moment"
        return _agreed(table, reading, time, others) if others and is_whole else time
    if clocks:
        expected = f"a date beside the time of day in column {table.names[clocks[0]]!r}"
        raise BadPayload(table.source, expected, table.names)
    if named:
        return (named[0],)
    closes = [name for name, key in zip(table.names, keys, strict=True) if key in CLOSE_TIMES]
    if closes:
        raise BadPayload(table.source, "a column of open times", f"close times alone: {closes[0]}")
    raise BadPayload(table.source, _EXPECTED, table.names)


def _finest(table: Table, full: list[int], kinds: Mapping[int, _Kind], clocks: list[int]) -> tuple[int, ...]:
    """Take the first of the full times; bare dates with a time of day, or moments instead where dates repeat."""
    first = full[0]
    if kinds[first] == "moment":
        return (first,)
    if clocks:
        return first, clocks[0]
    moments = [place for place in full if kinds[place] == "moment"]
    if moments and _distinct(table.cells[moments[0]]) > _distinct(table.cells[first]):
        return (moments[0],)
    return (first,)


@dataclass(frozen=True, slots=True)
class _Read:
    """Some of the times of columns: as instants, or as they are written where no zone is."""

    places: tuple[int, ...]
    ms: NDArray[np.int64]
    is_instant: bool


def _agreed(table: Table, reading: Reading, time: tuple[int, ...], others: list[int]) -> tuple[int, ...]:
    """Take instants rather than the local times of the same bars, whatever their names.

    Raises:
        Ambiguous: the columns tell different times, and nothing says which are those of the opens.
    """
    read = [one for one in (_read(table, reading, places) for places in [time, *((place,) for place in others)]) if one]
    instant = next((one for one in read if one.is_instant), None)
    first = read[0] if read and read[0].places == time else None
    if first is None:
        return instant.places if instant else time
    opens = TIME_RANKS.get(plain(table.names[time[0]])) == _OPENS
    if instant is None or instant is first:
        alike = (one for one in read if one.is_instant == first.is_instant)
        rival = next((one for one in alike if not _is_same(one, first)), None)
    elif _is_same(first, instant) or _is_local(first, instant):
        return instant.places
    else:
        rival = instant
    if rival and not opens:
        raise _two_times(table, first, rival)
    return time


def _read(table: Table, reading: Reading, places: tuple[int, ...]) -> _Read | None:
    """Read the first times and some of the others; None where they cannot be."""
    count = len(table.cells)
    rows = np.unique([*range(min(count, _CHECKED)), *np.linspace(0, count - 1, _CHECKED).astype(int)])
    try:
        dates = read_dates(replace(table, cells=table.cells.iloc[rows]), places, reading)
    except BadPayload:
        return None
    if dates.zone or dates.letters:
        return None
    is_bare = np.isnan(dates.offset_ms)
    names = " ".join(table.names[place] for place in places)
    is_utc = bool(_UTC_NAME.search(names)) and not _NOT_UTC_NAME.search(names)
    ms = dates.wall_ms - np.nan_to_num(dates.offset_ms).astype(np.int64)
    return _Read(places, ms, is_utc or not is_bare.any())


def _is_same(one: _Read, other: _Read) -> bool:
    return bool((np.abs(one.ms - other.ms) < _SECOND_MS).all())


def _is_local(local: _Read, instant: _Read) -> bool:
    """Whether times are what some clock shows at these instants, and those are not the closes of the same bars."""
    ahead = np.unique(local.ms - instant.ms)
    steps = np.diff(np.unique(local.ms[:_CHECKED]))
    is_offset = (ahead % _QUARTER_MS == 0) & (np.abs(ahead) <= _MOST_AHEAD_MS)
    is_close = len(ahead) == 1 and len(steps) > 0 and -ahead[0] == steps.min()
    return bool(is_offset.all() and len(ahead) <= _MOST_OFFSETS and not is_close)


def _two_times(table: Table, one: _Read, other: _Read) -> Ambiguous:
    names = [" and ".join(table.names[place] for place in read.places) for read in (one, other)]
    found = f"different times in columns {names}, each of which may be open_time"
    return Ambiguous(table.source, "columns", f"open_time={names[0]}", found)


def _is_small(name: str) -> bool:
    """Whether a name is one small letter, as `t`, beside which `T` has another meaning."""
    return len(name.strip()) == 1 and name.strip().islower()


def _small(places: list[int], table: Table) -> list[int]:
    """Of columns named t and T take the small letter."""
    return [place for place in places if _is_small(table.names[place])] or places


def _find_fields(table: Table, said: Mapping[str, int]) -> dict[str, int]:
    """Find the prices and the volume; nothing unless all the prices are there."""
    by_side = claims(table.names)
    for one in by_side.values():
        one.update({name: {-1: [place]} for name, place in said.items()})
    complete = [side for side, fields in by_side.items() if set(FIELDS) <= fields.keys()]
    if "" not in complete:
        _refuse_mixed(table, by_side, complete)
    if not complete:
        return {}
    side = "" if "" in complete else complete[0]
    wanted = {"volume": by_side[""].get("volume", {}), **by_side[side]}
    found = {name: _trusted(table, name, by_rank) for name, by_rank in wanted.items() if by_rank}
    return {name: place for name, place in found.items() if place is not None}


def _refuse_mixed(table: Table, by_side: Mapping[str, Mapping[str, object]], complete: list[str]) -> None:
    """Refuse prices of two sides of the market, and adjusted closes beside other prices that are not adjusted."""
    if len(complete) > 1:
        found = f"prices of {' and '.join(complete)}"
        sides = claims(table.names)[complete[0]]
        example = ",".join(f"{name}={table.names[min(sides[name].items())[1][0]]}" for name in FIELDS)
        raise Ambiguous(table.source, "columns", example, found)
    adjusted = by_side.get("adjusted", {})
    if not complete and "close" in adjusted and set(FIELDS) - by_side[""].keys() == {"close"}:
        name = next(name for name in table.names if (one := claim(name)) and one.side and one.field == "close")
        raise Ambiguous(table.source, "columns", f"close={name}", f"{name!r} beside prices that are not adjusted")


def _trusted(table: Table, name: str, by_rank: Mapping[int, list[int]]) -> int | None:
    """Take the column of the most trusted name; None for a volume that two columns say in different ways."""
    places = _small(by_rank[min(by_rank)], table)
    if name in FIELDS:
        _refuse_two(table, name, places)
    elif not _are_alike(table, places):
        return None
    return places[0]


def _are_alike(table: Table, places: list[int]) -> bool:
    return all(table.cells[places[0]].equals(table.cells[place]) for place in places[1:])


def _refuse_two(table: Table, name: str, places: list[int]) -> None:
    if not _are_alike(table, places):
        found = f"different cells in columns {[table.names[place] for place in places]}, each of which is {name}"
        raise Ambiguous(table.source, "columns", f"{name}={table.names[places[0]]}", found)


def _with_symbol(table: Table, reading: Reading, columns: Columns) -> Columns:
    """Add the column that tells whose row it is.

    Raises:
        Ambiguous: for a column that may be it.
        BadPayload: for rows of several timeframes.
    """
    with_symbol = _find_symbol(table, reading, columns)
    _refuse_timeframes(table, with_symbol)
    return with_symbol


def _find_symbol(table: Table, reading: Reading, columns: Columns) -> Columns:
    if reading.symbol_column is not None:
        said = _position(table, reading.symbol_column) if reading.symbol_column else None
        return replace(columns, symbol=said)
    if not table.has_header:
        return columns
    taken = {*columns.time, *columns.fields.values()}
    ranks = {
        place: SYMBOL_RANKS[key]
        for place, key in enumerate(map(plain, table.names))
        if SYMBOL_RANKS.get(key, IS_SURE + 1) <= IS_SURE and place not in taken
    }
    found = (place for place in sorted(ranks, key=ranks.__getitem__) if _are_symbols(table.cells[place], ranks[place]))
    symbol = next(found, None)
    if symbol is None:
        _refuse_parts(table, taken)
    return replace(columns, symbol=symbol)


def _refuse_parts(table: Table, taken: set[int]) -> None:
    """Refuse rows that a column may part into several symbols, though its name does not say so."""
    for place, name in enumerate(table.names):
        if place in taken or plain(name) in _NO_PARTS:
            continue
        cells = table.cells[place]
        is_part = SYMBOL_RANKS.get(plain(name), 0) > IS_SURE and _distinct(cells) > 1
        if is_part or _come_in_blocks(cells):
            one, other = _factorize(cells)[1][:2]
            found = f"{one} and {other} in column {name!r}, which may be symbols (--symbol-column '' if they are not)"
            raise Ambiguous(table.source, "symbol_column", name, found)


def _come_in_blocks(cells: pd.Series) -> bool:
    """Tell whether a column looks as symbols do in files put one behind another: all rows of one, then of the next."""
    if pd.api.types.is_numeric_dtype(cells) or cells.isna().any():
        return False
    if not all(_SYMBOL.fullmatch(text) and not _NO_SYMBOL.fullmatch(text) for text in set(_sample(cells))):
        return False
    codes, _ = _factorize(cells)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=len(codes))
    return len(starts) > 1 and len(starts) == codes.max() + 1 and bool((lengths > 1).all())


def _refuse_timeframes(table: Table, columns: Columns) -> None:
    """Refuse rows of several timeframes, by a column that tells them."""
    taken = {*columns.time, *columns.fields.values(), columns.symbol}
    for place, name in enumerate(table.names):
        if plain(name) in TIMEFRAMES and place not in taken:
            values = _factorize(table.cells[place])[1]
            if 1 < len(values) < min(_MOST_TIMEFRAMES, len(table.cells)):
                found = f"{', '.join(map(str, values))} in column {name!r}"
                raise BadPayload(table.source, "rows of one timeframe", found)


def _are_symbols(cells: pd.Series, rank: int) -> bool:
    """Tell whether cells are symbols: no decimals; and words that repeat, where the name may mean something else."""
    if not cells.notna().any() or any(map(_DECIMAL.fullmatch, _sample(cells))):
        return False
    return rank < IS_SURE or bool(cells.notna().all() and _is_text(cells) and _distinct(cells) < len(cells))


# What the cells say.


def columns_by_content(table: Table) -> Columns:
    """Find the columns of a table without names: a time, after a symbol at most, and then the prices."""
    kinds = [_kind(table.cells[place]) for place in range(min(len(table.names), _FIRST_COLUMNS))]
    first = next((place for place, kind in enumerate(kinds) if kind in {"moment", "date"}), len(table.names))
    is_joined = kinds[first : first + 1] == ["date"] and _is_written_clock(table, first + 1)
    time = (first, first + 1) if is_joined else (first,)
    places = range(time[-1] + 1, min(time[-1] + 1 + len(COLUMNS), len(table.names)))
    if len(places) < len(FIELDS) or not all(_is_text(table.cells[place]) for place in range(first)):
        row = table.cells.iloc[0].tolist() if len(table.cells) else []
        found = f"no names of columns, and a first row of {row}"
        raise Ambiguous(table.source, "columns", ",".join(_BY_PLACE), found)
    return Columns(time, dict(zip(COLUMNS, places, strict=False)), 0 if first else None)


def _is_text(cells: pd.Series) -> bool:
    return any(any(map(str.isalpha, text)) for text in _sample(cells))


def _is_written_clock(table: Table, place: int) -> bool:
    """Tell times of day from prices: they have colons, or four or six digits of which the first is 0 somewhere."""
    sample = _sample(table.cells[place]) if place < len(table.names) else []
    if not sample or any(_kind_of(text) != "clock" for text in sample):
        return False
    widths = {len(text) for text in sample}
    return all(":" in text for text in sample) or (widths in ({4}, {6}) and any(text[0] == "0" for text in sample))


def _kind(cells: pd.Series) -> _Kind:
    """Tell moments from bare dates and from times of day."""
    sample = _sample(cells)
    counts = Counter(map(_kind_of, sample))
    enough = _MOST * len(sample)
    if counts["moment"] and counts["moment"] + counts["date"] > enough:
        return "moment"
    return next((kind for kind in _BARE if counts[kind] > enough), "other")


def _kind_of(text: str) -> _Kind:
    if match := _DATE.fullmatch(text):
        return "date" if not match[1] or _is_date(match[1]) else "other"
    if _MOMENT.fullmatch(text):
        return "moment"
    match = _CLOCK.fullmatch(text)
    return "clock" if match and (not match[1] or _is_clock(match[1])) else "other"


def _is_date(digits: str) -> bool:
    try:
        return dt.date.fromisoformat(digits).year in _YEARS
    except ValueError:
        return False


def _is_clock(digits: str) -> bool:
    """Tell whether digits are an hour, hhmm or hhmmss; leading zeros may be lost."""
    if len(digits) <= _HOUR_DIGITS:
        return int(digits) <= _HOURS
    whole = digits.zfill(4 if len(digits) <= _MINUTE_DIGITS else 6)
    return int(whole[:2]) <= _HOURS and all(int(part) < _MINUTES for part in (whole[2:4], whole[4:] or "0"))


def _sample(cells: pd.Series) -> list[str]:
    """Give some of the cells as text, from all over the column."""
    known = cells.dropna()
    part = known.iloc[:: max(1, len(known) // _SAMPLED)]
    if pd.api.types.is_datetime64_any_dtype(part) or pd.api.types.is_timedelta64_dtype(part):
        try:
            return part.astype(str).tolist()
        except (NotImplementedError, ValueError):  # a year that no calendar has
            return part.astype("int64").astype(str).tolist()
    return [f"{cell:.0f}" if isinstance(cell, float) and cell.is_integer() else str(cell).strip() for cell in part]


def _factorize(cells: pd.Series) -> tuple[NDArray[np.intp], pd.Index]:
    """Number the distinct cells; an empty one is -1."""
    try:
        return pd.factorize(cells)
    except (TypeError, ValueError):  # json may hold lists
        return pd.factorize(pd.Series(list(map(str, cells)), dtype=object))


def _distinct(cells: pd.Series) -> int:
    return len(_factorize(cells)[1])


# Rows that are none.


def no_rows(table: Table, columns: Columns) -> NDArray[np.intp]:
    """Give the positions of rows without a price and without a time: footers, totals, units, a header once more."""
    places = [
        place
        for fields in (columns.fields, *columns.several.values())
        for name, place in fields.items()
        if name in FIELDS
    ]
    rows = np.arange(len(table.cells))
    for place in places:
        cells = table.cells[place].iloc[rows]
        if isinstance(cells.dtype, pd.StringDtype):
            is_empty = ~cells.str.contains("[0-9]", na=False).to_numpy(bool)
            rows, cells = rows[is_empty], cells[is_empty]
        is_known = cells.notna().to_numpy(bool)
        if not pd.api.types.is_numeric_dtype(cells):
            holds = (_holds_number(cell, table.names[place]) for cell in cells)
            is_known = is_known & np.fromiter(holds, bool, len(cells))
        rows = rows[~is_known]
    times = table.cells[columns.time[0]].iloc[rows]
    is_none: NDArray[np.bool_] = times.isna().to_numpy(bool) | np.fromiter(map(_is_no_time, times), bool, len(rows))
    return rows[is_none]


def _holds_number(cell: object, name: str) -> bool:
    if not isinstance(cell, str):
        return True
    return cell.strip() != name.strip() and any(map(str.isdigit, cell))


def _is_no_time(cell: object) -> bool:
    """Tell words from times, however they are written."""
    return isinstance(cell, str) and (not any(map(str.isdigit, cell)) or bool(_WORDS.match(cell)))
