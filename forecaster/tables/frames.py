"""Frames of pandas as tables: levels of rows and columns become plain columns, and cells stay what they are.

What a column means is left to `columns`.
"""

from __future__ import annotations

import ast
import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TypeAlias

import pandas as pd

from forecaster.errors import BadPayload
from forecaster.tables import Table
from forecaster.tables.columns import names_bars

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

_Levels: TypeAlias = tuple[str, ...]
"""What a column is called on each level."""

_OTHER_KINDS: Final = "OV"  # of Arrow: lists, decimals and the like
_LONGEST_NAME: Final = 1_000
"""Characters of a text that is read as a tuple of Python: its parser may fail at more."""
_SMALLEST_TIME: Final = 10_000_000  # whole numbers below count rows; 20240102 is a date


def frame_table(frame: pd.DataFrame, source: str, place: str = "row", form: str = "frame") -> Table:
    """Make a table of a frame: the levels of its index first, then its columns.

    An index that only counts rows is no column. Where columns have two levels, one of fields and one of symbols, the
    names of several symbols are `AAPL:Close`; one symbol is the table's, and the names are plain. A frame whose columns
    are numbered has no header.

    Raises:
        BadPayload: it is no frame.
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
        cells[number] = _plain(cells[number])
    return Table(source, [*levels, *names], cells, place, form, not is_numbered, symbol)


def _plain(cells: pd.Series) -> pd.Series:
    """Write periods as the times of their beginnings, and without the NaN of `decimal` that raises when compared."""
    if isinstance(cells.dtype, pd.PeriodDtype):
        return pd.Series(pd.PeriodIndex(cells).to_timestamp())
    if isinstance(cells.dtype, pd.ArrowDtype) and cells.dtype.kind in _OTHER_KINDS:
        return cells.astype(object)
    if not pd.api.types.is_object_dtype(cells.dtype):
        return cells
    is_loud = [isinstance(cell, Decimal) and cell.is_snan() for cell in cells]
    if not any(is_loud):
        return cells
    quiet = [None if loud else cell for cell, loud in zip(cells, is_loud, strict=True)]
    return pd.Series(quiet, index=cells.index, dtype=object)


def join_levels(columns: Sequence[_Levels]) -> tuple[list[str], str]:
    """Give one name to each column, and the symbol of all of them where there is only one.

    The level that names bars is the one of fields; the other levels name symbols.
    """
    joined = [":".join(filter(None, levels)) for levels in columns]
    depth = max(map(len, columns), default=0)
    columns = [levels + ("",) * (depth - len(levels)) for levels in columns]
    fields = [level for level in range(depth) if depth > 1 and names_bars(["time", *{one[level] for one in columns}])]
    if len(fields) != 1:
        return joined, ""
    named = [(one[fields[0]], ":".join(filter(None, _without(one, fields[0])))) for one in columns]
    symbols = {symbol for field, symbol in named if field and symbol}
    if len(symbols) > 1:
        return [f"{symbol}:{field}" if field and symbol else field or symbol for field, symbol in named], ""
    return [field or symbol for field, symbol in named], next(iter(symbols), "")


def _without(levels: _Levels, level: int) -> _Levels:
    return levels[:level] + levels[level + 1 :]


def _levels(column: Hashable) -> _Levels:
    """Take a name apart: a tuple, or the text of one, such as "('Close', 'AAPL')", as pandas writes it to json."""
    if isinstance(column, str) and column.startswith("('") and column.endswith(")") and len(column) < _LONGEST_NAME:
        try:
            column = ast.literal_eval(column)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return (str(column),)
    return tuple(map(str, column)) if isinstance(column, tuple) else (str(column),)


def _index_columns(index: pd.Index, taken: Iterable[str]) -> dict[str, pd.Series]:
    """Give the levels of an index that say something; one without a name is named by what it holds."""
    columns: dict[str, pd.Series] = {}
    for number, name in enumerate(index.names):
        level = _plain(pd.Series(index.get_level_values(number)))
        if name is None or isinstance(index, pd.RangeIndex):
            if _counts_rows(level):
                continue
            holds = "timestamp" if _holds_times(level) else "symbol"
            name = name or (f"level_{number}" if holds in {*taken, *columns} else holds)  # noqa: PLW2901
        columns[str(name)] = level
    return columns


def _counts_rows(level: pd.Series) -> bool:
    return pd.api.types.is_integer_dtype(level) and not (level.abs() >= _SMALLEST_TIME).any()


def _holds_times(level: pd.Series) -> bool:
    if isinstance(level.dtype, pd.PeriodDtype) or pd.api.types.is_datetime64_any_dtype(level):
        return True
    first = next(iter(level.dropna()), "")
    return isinstance(first, int | float | dt.date) or str(first)[:1].isdigit()
