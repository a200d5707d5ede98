"""The role of each column of a table: by the user's options, by its name, or by its cells.

`time_columns` finds the times and `symbols` the symbols; `field_order` checks the prices of a table without
names. Columns of one field that hold different cells raise `Ambiguous`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from forecaster.errors import Ambiguous, BadPayload, ConfigError
from forecaster.tables import COLUMNS, FIELDS
from forecaster.tables.column_cells import are_identical, are_written_times, cell_kind, check_identical, has_letters
from forecaster.tables.column_names import (
    AMBIGUOUS_TIME_NAMES,
    CLOSE_TIME_NAMES,
    TIME_RANKS,
    find_position,
    match_field,
    match_fields,
    normalize_name,
    prefer_lowercase,
    wide_columns,
)
from forecaster.tables.symbols import check_one_timeframe, find_symbol
from forecaster.tables.time_columns import EXPECTED_COLUMNS, find_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from forecaster.tables import ParseOptions, Table

_COLUMN_ORDER: Final = ("open_time", *COLUMNS)
_TIME_ROLES: Final = ("date", "open_time", "time")
_FIRST_COLUMNS: Final = 4
_WORDS: Final = re.compile(r"\W*(?:[^\W\d_]+\W+){3}")  # no date begins with three words


@dataclass(frozen=True, slots=True)
class Columns:
    """Positions of the columns of a table.

    Args:
        time: one column; or two, of the dates and of the times of day.
        fields: of open, high, low, close and, if there is one, volume; empty for a table in wide format.
        symbol: of the column that holds the symbol of each row.
        by_symbol: the fields of each symbol of a table in wide format.
    """

    time: tuple[int, ...]
    fields: dict[str, int] = field(default_factory=dict)
    symbol: int | None = None
    by_symbol: dict[str, dict[str, int]] = field(default_factory=dict)


def is_bar_header(names: Sequence[str]) -> bool:
    """Return whether these column names include a time and open, high, low and close."""
    keys = list(map(normalize_name, names))
    if not any(key in TIME_RANKS or key in AMBIGUOUS_TIME_NAMES or key in CLOSE_TIME_NAMES for key in keys):
        return False
    prices = {name for fields in match_fields(names).values() for name in fields}
    return set(FIELDS) <= prices or bool(wide_columns(names))


def find_columns(table: Table, options: ParseOptions) -> Columns:
    """Find the role of each column.

    Raises:
        Ambiguous: for columns with more than one meaning; names the option.
        BadPayload: for a table without times or prices, or without a column that an option names.
    """
    columns = _find_times_and_fields(table, options)
    taken = {*columns.time, *columns.fields.values()}
    if table.has_header or options.symbol_column is not None:
        columns = replace(columns, symbol=find_symbol(table, options, taken))
    check_one_timeframe(table, {*taken, columns.symbol})
    return columns


def infer_columns(table: Table) -> Columns:
    """Infer the columns of a table without names: an optional symbol, a time, then the prices.

    Raises:
        Ambiguous: for other columns; names `columns`.
    """
    kinds = [cell_kind(table.cells[place]) for place in range(min(len(table.names), _FIRST_COLUMNS))]
    first = next((place for place, kind in enumerate(kinds) if kind in {"moment", "date"}), len(table.names))
    second = first + 1
    has_clock = kinds[first:second] == ["date"] and second < len(table.names) and are_written_times(table.cells[second])
    time = (first, second) if has_clock else (first,)
    places = range(time[-1] + 1, min(time[-1] + 1 + len(COLUMNS), len(table.names)))
    if len(places) < len(FIELDS) or not all(has_letters(table.cells[place]) for place in range(first)):
        row = table.cells.iloc[0].tolist() if len(table.cells) else []
        found = f"no names of columns, and a first row of {row}"
        raise Ambiguous(table.source, "columns", ",".join(_COLUMN_ORDER), found)
    return Columns(time, dict(zip(COLUMNS, places, strict=False)), 0 if first else None)


def non_bar_rows(table: Table, columns: Columns) -> NDArray[np.intp]:
    """Return positions of rows without a price and without a time: footers, totals, units, repeated headers."""
    places = [
        place
        for fields in (columns.fields, *columns.by_symbol.values())
        for name, place in fields.items()
        if name in FIELDS
    ]
    rows = np.arange(len(table.cells))
    for place in places:
        cells = table.cells[place].iloc[rows]
        if isinstance(cells.dtype, pd.StringDtype):
            is_empty = ~cells.str.contains("[0-9]", na=False).to_numpy(bool)
            rows, cells = rows[is_empty], cells[is_empty]
        has_price = cells.notna().to_numpy(bool)
        if not pd.api.types.is_numeric_dtype(cells):
            has_digits = (_has_number(cell, table.names[place]) for cell in cells)
            has_price = has_price & np.fromiter(has_digits, bool, len(cells))
        rows = rows[~has_price]
    times = table.cells[columns.time[0]].iloc[rows]
    has_no_time: NDArray[np.bool_] = times.isna().to_numpy(bool) | np.fromiter(map(_is_words, times), bool, len(rows))
    return rows[has_no_time]


def _find_times_and_fields(table: Table, options: ParseOptions) -> Columns:
    given = _given_columns(table, options)
    if not table.has_header and not (given.time or given.fields):
        return infer_columns(table)
    time = given.time or find_time(table, options)
    if set(FIELDS) <= given.fields.keys():
        return Columns(time, given.fields)
    fields = _find_fields(table, given.fields)
    if fields:
        return Columns(time, fields)
    by_symbol = wide_columns(table.names)
    if not by_symbol:
        raise BadPayload(table.source, EXPECTED_COLUMNS, table.names)
    return Columns(time, by_symbol=by_symbol)


def _given_columns(table: Table, options: ParseOptions) -> Columns:
    """Return the columns that the user gives, by position or by name."""
    if not options.columns:
        return Columns(())
    if isinstance(options.columns, Mapping):
        return _assign_roles((role, find_position(table, name)) for role, name in options.columns.items())
    if len(options.columns) > len(table.names):
        expected = f"at least {len(options.columns)} columns, as many as `columns` says"
        raise BadPayload(table.source, expected, f"{len(table.names)}: {table.names}")
    given = _assign_roles((role, place) for place, role in enumerate(options.columns) if role.strip() not in {"", "-"})
    missing = [name for name in FIELDS if name not in given.fields] + ["open_time"] * (not given.time)
    if missing:
        raise ConfigError("columns", f"a place for each of open_time, {', '.join(FIELDS)}", list(options.columns))
    return given


def _assign_roles(roles: Iterable[tuple[str, int]]) -> Columns:
    time, fields = [], {}
    for role, place in roles:
        name = role.strip().lower()
        if name in _TIME_ROLES:
            time.append((_TIME_ROLES.index(name), place))
        elif name in COLUMNS:
            fields[name] = place
        else:
            raise ConfigError("columns", f"some of {', '.join(_COLUMN_ORDER)}", role)
    return Columns(tuple(place for _, place in sorted(time)), fields)


def _find_fields(table: Table, given: Mapping[str, int]) -> dict[str, int]:
    """Find the prices and the volume by name; empty unless all prices are there."""
    by_side = match_fields(table.names)
    for ranks_by_field in by_side.values():
        ranks_by_field.update({name: {-1: [place]} for name, place in given.items()})
    complete = [side for side, fields in by_side.items() if set(FIELDS) <= fields.keys()]
    if "" not in complete:
        _check_one_side(table, by_side, complete)
    if not complete:
        return {}
    side = "" if "" in complete else complete[0]
    candidates = {"volume": by_side[""].get("volume", {}), **by_side[side]}
    fields = {name: _best_column(table, name, by_rank) for name, by_rank in candidates.items() if by_rank}
    return {name: place for name, place in fields.items() if place is not None}


def _check_one_side(table: Table, by_side: Mapping[str, Mapping[str, object]], complete: list[str]) -> None:
    """Raise Ambiguous for both bid and ask prices, and for an adjusted close beside prices that are not adjusted."""
    if len(complete) > 1:
        found = f"prices of {' and '.join(complete)}"
        fields = match_fields(table.names)[complete[0]]
        example = ",".join(f"{name}={table.names[min(fields[name].items())[1][0]]}" for name in FIELDS)
        raise Ambiguous(table.source, "columns", example, found)
    adjusted = by_side.get("adjusted", {})
    if not complete and "close" in adjusted and set(FIELDS) - by_side[""].keys() == {"close"}:
        name = next(name for name in table.names if _is_adjusted_close(name))
        raise Ambiguous(table.source, "columns", f"close={name}", f"{name!r} beside prices that are not adjusted")


def _is_adjusted_close(name: str) -> bool:
    match = match_field(name)
    return match is not None and bool(match.side) and match.field == "close"


def _best_column(table: Table, name: str, by_rank: Mapping[int, list[int]]) -> int | None:
    """Return the column with the most specific name; None for a volume of which two columns differ."""
    places = prefer_lowercase(table, by_rank[min(by_rank)])
    if name in FIELDS:
        check_identical(table, name, places)
    elif not are_identical(table, places):
        return None
    return places[0]


def _has_number(cell: object, name: str) -> bool:
    if not isinstance(cell, str):
        return True
    return cell.strip() != name.strip() and any(map(str.isdigit, cell))


def _is_words(cell: object) -> bool:
    """Distinguish words from times in any format."""
    return isinstance(cell, str) and (not any(map(str.isdigit, cell)) or bool(_WORDS.match(cell)))
