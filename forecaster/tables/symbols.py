"""The symbols of a table: their column, their rows, and their names at venues."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from forecaster.errors import Ambiguous, BadPayload, UnknownSymbol
from forecaster.tables.column_cells import count_distinct, factorize, has_letters, sample
from forecaster.tables.column_names import (
    AMBIGUOUS_SYMBOL_RANK,
    AMBIGUOUS_TIME_NAMES,
    CLOSE_TIME_NAMES,
    SYMBOL_RANKS,
    TIME_RANKS,
    TIMEFRAME_NAMES,
    find_position,
    normalize_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from forecaster.tables import ParseOptions, Rows, Table
    from forecaster.tables.columns import Columns

QUOTES: Final = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USD", "EUR", "GBP", "JPY", "BTC", "ETH")
"""Quote currencies at the end of a symbol."""

_DOLLARS: Final = tuple(quote for quote in QUOTES if "USD" in quote)

_KRAKEN: Final = re.compile(r"X([A-Z]{3,4})Z([A-Z]{3})")
"""Kraken's own name of a pair: `XXBTZUSD`."""

_COUNTRY: Final = re.compile(r"(?:US|HK|SH|SZ|BJ)\.(?=\w{3})")
"""The country prefix of Chinese programs: `SH.600000`."""

_MAX_TIMEFRAMES: Final = 8
_MAX_SYMBOLS: Final = 5_000
"""In one column: all stocks of New York and NASDAQ. Reading one takes milliseconds."""
_OTHER_NAMES: Final = (
    TIMEFRAME_NAMES | CLOSE_TIME_NAMES | AMBIGUOUS_TIME_NAMES | TIME_RANKS.keys() | {"timezone", "tz", "currency"}
)
_DECIMAL: Final = re.compile(r"[-+]?\d+[.,]\d+")
_SYMBOL: Final = re.compile(r"(?!\d{4}[-QW])(?=.*[^\W\d_])[\w.:/^=-]{1,15}")
_NOT_A_SYMBOL: Final = re.compile(
    r"[A-Z]{1,3}T|UTC|true|false|yes|no|[yntf]|[ap]m|up|down|buy|sell|long|short|open|closed?"
    r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun)[a-z]*",
    re.IGNORECASE,
)


def rows_by_symbol(table: Table, columns: Columns) -> dict[str, NDArray[np.intp]]:
    """Return the positions of the rows of each symbol, in order of first appearance.

    Raises:
        BadPayload: for too many symbols, or a row without one.
    """
    all_rows = np.arange(len(table.cells))
    if columns.by_symbol:
        return dict.fromkeys(columns.by_symbol, all_rows)
    if columns.symbol is None:
        return {table.symbol: all_rows}
    cell_codes, cells = factorize(table.cells[columns.symbol])
    symbol_codes, symbols = pd.factorize(np.array([*(str(cell).strip() for cell in cells), ""], object))
    if len(symbols) > _MAX_SYMBOLS:
        expected = f"at most {_MAX_SYMBOLS:,} symbols in column {table.names[columns.symbol]!r}"
        raise BadPayload(table.source, expected, f"{len(symbols):,}: divide the file, or say which column holds them")
    codes = symbol_codes[cell_codes]  # an empty cell is -1, the last
    if not symbols[codes].all():
        expected = f"a symbol in column {table.names[columns.symbol]!r}"
        raise table.cell_error(expected, int(np.argmin(symbols[codes] != "")), "an empty cell")
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    return {str(symbol): part for symbol, part in zip(symbols, parts, strict=False)}


def find_symbol(table: Table, options: ParseOptions, taken: set[int]) -> int | None:
    """Return the position of the column of symbols; None if the table has none.

    Args:
        table: the table.
        options: may name the column.
        taken: positions of the columns of times, prices and volume.

    Raises:
        Ambiguous: for a column that may hold symbols; names `symbol_column`.
    """
    if options.symbol_column is not None:
        return find_position(table, options.symbol_column) if options.symbol_column else None
    ranks = {
        place: SYMBOL_RANKS[key]
        for place, key in enumerate(map(normalize_name, table.names))
        if SYMBOL_RANKS.get(key, AMBIGUOUS_SYMBOL_RANK + 1) <= AMBIGUOUS_SYMBOL_RANK and place not in taken
    }
    by_rank = sorted(ranks, key=ranks.__getitem__)
    symbol = next((place for place in by_rank if _are_symbols(table.cells[place], ranks[place])), None)
    if symbol is None:
        _check_no_symbols(table, taken)
    return symbol


def check_one_timeframe(table: Table, taken: set[int | None]) -> None:
    """Raise BadPayload for a column with several timeframes."""
    for place, name in enumerate(table.names):
        if normalize_name(name) in TIMEFRAME_NAMES and place not in taken:
            timeframes = factorize(table.cells[place])[1]
            if 1 < len(timeframes) < min(_MAX_TIMEFRAMES, len(table.cells)):
                found = f"{', '.join(map(str, timeframes))} in column {name!r}"
                raise BadPayload(table.source, "rows of one timeframe", found)


def select_rows(source: str, rows_by_symbol: Mapping[str, Rows], symbol: str, options: ParseOptions) -> Rows:
    """Return the rows of a unified symbol; all rows of a table without symbols.

    Raises:
        UnknownSymbol: for a symbol that is not in the table.
    """
    if len(rows_by_symbol) == 1 and ("" in rows_by_symbol or options.symbol_column == ""):
        return next(iter(rows_by_symbol.values()))
    base, _, quote = symbol.partition(":")[0].upper().partition("/")
    candidates = [_letters(f"{base}{quote}"), _letters(base)]
    if len(rows_by_symbol) == 1 and quote in _DOLLARS:  # venues use many names for the dollar
        candidates += [_letters(f"{base}{dollar}") for dollar in _DOLLARS]
    for spell in (_full_name, _before_dot):  # `ABC` matches `ABC.US`, unless `ABC.DE` is there as well
        for candidate in candidates:
            matches = [name for name in rows_by_symbol if candidate == spell(name)]
            if len(matches) == 1:
                return rows_by_symbol[matches[0]]
    first = next(iter(rows_by_symbol))
    hint = f"if {first!r} is no symbol: `symbol_column` (--symbol-column '')" if len(rows_by_symbol) == 1 else ""
    raise UnknownSymbol(source, symbol, list(rows_by_symbol), hint)


def normalize_symbol(name: str) -> str:
    """Remove what is specific to a venue: `BTCUSD` for `X:BTCUSD` and for Kraken's `XXBTZUSD`."""
    return _KRAKEN.sub(r"\1\2", name.upper().rpartition(":")[2].strip()).replace("XBT", "BTC")


def _check_no_symbols(table: Table, taken: set[int]) -> None:
    """Raise Ambiguous for a column that may hold symbols under another name."""
    for place, name in enumerate(table.names):
        if place in taken or normalize_name(name) in _OTHER_NAMES:
            continue
        cells = table.cells[place]
        is_part = SYMBOL_RANKS.get(normalize_name(name), 0) > AMBIGUOUS_SYMBOL_RANK and count_distinct(cells) > 1
        if is_part or _come_in_blocks(cells):
            first, second = factorize(cells)[1][:2]
            found = (
                f"{first} and {second} in column {name!r}, which may be symbols (--symbol-column '' if they are not)"
            )
            raise Ambiguous(table.source, "symbol_column", name, found)


def _come_in_blocks(cells: pd.Series) -> bool:
    """Return whether cells look like the symbols of concatenated files: all rows of the first, then of the next."""
    if pd.api.types.is_numeric_dtype(cells) or cells.isna().any():
        return False
    if not all(_SYMBOL.fullmatch(text) and not _NOT_A_SYMBOL.fullmatch(text) for text in set(sample(cells))):
        return False
    codes, _ = factorize(cells)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=len(codes))
    return len(starts) > 1 and len(starts) == codes.max() + 1 and bool((lengths > 1).all())


def _are_symbols(cells: pd.Series, rank: int) -> bool:
    """Return whether cells are symbols: not decimals; where the column name is ambiguous, words that repeat."""
    if not cells.notna().any() or any(map(_DECIMAL.fullmatch, sample(cells))):
        return False
    if rank < AMBIGUOUS_SYMBOL_RANK:
        return True
    return bool(cells.notna().all() and has_letters(cells) and count_distinct(cells) < len(cells))


def _full_name(name: str) -> str:
    return _letters(normalize_symbol(name))


def _before_dot(name: str) -> str:
    """Return the name up to a dot, without the share class or country."""
    return _letters(_COUNTRY.sub("", normalize_symbol(name)).partition(".")[0])


def _letters(name: str) -> str:
    """Remove separators."""
    return re.sub(r"[\W_]", "", name)
