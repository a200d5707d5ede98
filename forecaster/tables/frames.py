"""Convert pandas frames to tables: levels of rows and columns become plain columns; cells keep their types."""

from __future__ import annotations

import ast
import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeAlias

import pandas as pd

from forecaster.errors import BadPayload
from forecaster.tables import Table
from forecaster.tables.columns import is_bar_header

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

_Levels: TypeAlias = tuple[str, ...]
"""The name of a column on each level."""

_ARROW_OBJECT_KINDS: Final = "OV"  # lists, decimals and others
_MAX_TUPLE_CHARS: Final = 1_000
"""Characters of a text that Python parses as a tuple."""
_MIN_TIME: Final = 10_000_000  # whole numbers below count rows; 20240102 is a date


def table_from_frame(frame: pd.DataFrame, source: str, row_unit: str = "row", file_format: str = "frame") -> Table:
    """Convert a frame to a table: the levels of its index first, then its columns.

    An index that only counts rows is left out. Two column levels hold fields and symbols: names are `AAPL:Close` for
    several symbols; one symbol becomes the table's. A frame with numbered columns has no header.

    Raises:
        BadPayload: for another type than a frame.
    """
    if not isinstance(frame, pd.DataFrame):
        raise BadPayload(source, "a pandas DataFrame", type(frame).__name__)
    names, symbol = join_levels([_levels(column) for column in frame.columns])
    is_numbered = bool(names) and all(isinstance(column, int) for column in frame.columns)
    if is_numbered:
        names = [f"column {number}" for number in range(1, len(names) + 1)]
    levels = _index_columns(frame.index, names)
    cells = pd.concat([*levels.values(), frame.reset_index(drop=True)], axis="columns")
    cells.columns = pd.RangeIndex(len(cells.columns))
    for number in cells.columns:
        cells[number] = _to_plain_cells(cells[number])
    return Table(source, [*levels, *names], cells, row_unit, file_format, not is_numbered, symbol)


def _to_plain_cells(cells: pd.Series) -> pd.Series:
    """Convert periods to their start times, and replace the signalling NaN of `decimal`, which raises when compared."""
    if isinstance(cells.dtype, pd.PeriodDtype):
        return pd.Series(pd.PeriodIndex(cells).to_timestamp())
    if isinstance(cells.dtype, pd.ArrowDtype) and cells.dtype.kind in _ARROW_OBJECT_KINDS:
        return cells.astype(object)
    if not pd.api.types.is_object_dtype(cells.dtype):
        return cells
    is_signalling = [isinstance(cell, Decimal) and cell.is_snan() for cell in cells]
    if not any(is_signalling):
        return cells
    quiet = [None if signalling else cell for cell, signalling in zip(cells, is_signalling, strict=True)]
    return pd.Series(quiet, index=cells.index, dtype=object)


def join_levels(columns: Sequence[_Levels]) -> tuple[list[str], str]:
    """Return one name for each column, and the symbol if all columns have the same.

    The level whose names are fields is the level of fields; the others name symbols.
    """
    joined = [":".join(filter(None, levels)) for levels in columns]
    depth = max(map(len, columns), default=0)
    columns = [levels + ("",) * (depth - len(levels)) for levels in columns]
    fields = [
        level for level in range(depth) if depth > 1 and is_bar_header(["time", *{levels[level] for levels in columns}])
    ]
    if len(fields) != 1:
        return joined, ""
    named = [(levels[fields[0]], ":".join(filter(None, _without(levels, fields[0])))) for levels in columns]
    symbols = {symbol for field, symbol in named if field and symbol}
    if len(symbols) > 1:
        return [f"{symbol}:{field}" if field and symbol else field or symbol for field, symbol in named], ""
    return [field or symbol for field, symbol in named], next(iter(symbols), "")


def _without(levels: _Levels, level: int) -> _Levels:
    return levels[:level] + levels[level + 1 :]


def _levels(column: Hashable) -> _Levels:
    """Split a name: a tuple, or its text, such as "('Close', 'AAPL')", as pandas writes it to json."""
    if isinstance(column, str) and column.startswith("('") and column.endswith(")") and len(column) < _MAX_TUPLE_CHARS:
        try:
            column = ast.literal_eval(column)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return (str(column),)
    return tuple(map(str, column)) if isinstance(column, tuple) else (str(column),)


def _index_columns(index: pd.Index, taken: Iterable[str]) -> dict[str, pd.Series]:
    """Return the levels of an index that hold values; one without a name is named by its content."""
    columns: dict[str, pd.Series] = {}
    for number, name in enumerate(index.names):
        level = _to_plain_cells(pd.Series(index.get_level_values(number)))
        if name is None or isinstance(index, pd.RangeIndex):
            if _counts_rows(level):
                continue
            holds = "timestamp" if _holds_times(level) else "symbol"
            name = name or (f"level_{number}" if holds in {*taken, *columns} else holds)  # noqa: PLW2901
        columns[str(name)] = level
    return columns


def _counts_rows(level: pd.Series) -> bool:
    return pd.api.types.is_integer_dtype(level) and not (level.abs() >= _MIN_TIME).any()


def _holds_times(level: pd.Series) -> bool:
    if isinstance(level.dtype, pd.PeriodDtype) or pd.api.types.is_datetime64_any_dtype(level):
        return True
    first = next(iter(level.dropna()), "")
    return isinstance(first, int | float | dt.date) or str(first)[:1].isdigit()
