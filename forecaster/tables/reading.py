"""From a table to rows: which columns, which symbols, which times, which numbers, in the direction of time."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import BadPayload, UnknownSymbol
from forecaster.tables import FIELDS, Rows
from forecaster.tables.columns import check_order, find_columns, split_symbols
from forecaster.tables.dates import read_dates
from forecaster.tables.numbers import read_numbers
from forecaster.tables.placing import is_newest_first
from forecaster.tables.times import read_times, times_of
from forecaster.tables.words import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from forecaster.tables import Reading, Table
    from forecaster.tables.columns import Columns
    from forecaster.tables.numbers import Numbers
    from forecaster.tables.times import Times

_UNFINISHED: Final = "the row says that its bar is not complete"
_SAYS_WHETHER_FINAL: Final = (
    "complete",
    "completed",
    "iscomplete",
    "confirm",
    "confirmed",
    "isclosed",
    "isfinal",
    "final",
)
_YES: Final = ("true", "1", "1.0", "yes")
_NO: Final = ("false", "0", "0.0", "no")

QUOTES: Final = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USD", "EUR", "GBP", "JPY", "BTC", "ETH")
"""Currencies that names end in."""

_DOLLARS: Final = tuple(one for one in QUOTES if "USD" in one)

_KRAKEN: Final = re.compile(r"X([A-Z]{3,4})Z([A-Z]{3})")
"""Kraken's own name of a pair: `XXBTZUSD`."""


def read_table(table: Table, reading: Reading) -> dict[str, Rows]:
    """Read a whole table: its rows by symbol, whose name is empty where the table names none.

    Raises:
        BadPayload: says what was expected and found, and on which line.
        Ambiguous: names the option that settles what the table leaves open.
    """
    if table.cells.empty:
        raise BadPayload(table.source, "at least one row of a bar", "none")
    columns = find_columns(table, reading)
    if columns.several:
        return _read_beside(table, columns, reading)
    numbers = read_numbers(table, columns.fields, reading)
    lines = np.asarray(table.cells.index, np.int64)
    if not table.has_header and reading.columns is None:
        check_order(table, numbers.ohlcv_TF[:, : len(FIELDS)], lines)
    found, dates = {}, read_dates(table, columns.time, reading)
    for symbol, places in split_symbols(table, columns).items():
        part = table if len(places) == len(lines) else replace(table, cells=table.cells.iloc[places])
        times = times_of(part, columns.time, dates[places], reading)
        found[symbol] = _rows(part, columns, times, replace(numbers, ohlcv_TF=numbers.ohlcv_TF[places]))
    return found


def rows_of(source: str, found: Mapping[str, Rows], symbol: str, reading: Reading) -> Rows:
    """Give the rows of a unified symbol, by the name that the table has for it; all of a table that names none.

    Raises:
        UnknownSymbol: for a symbol that is not there.
    """
    if len(found) == 1 and ("" in found or reading.symbol_column == ""):
        return next(iter(found.values()))
    base, _, quote = symbol.partition(":")[0].upper().partition("/")
    wanted = [_letters(f"{base}{quote}"), _letters(base)]
    if len(found) == 1 and quote in _DOLLARS:  # venues call a dollar by many names
        wanted += [_letters(f"{base}{one}") for one in _DOLLARS]
    for spell in (_whole, _parts):  # `ABC` is `ABC.US`, unless there is `ABC.DE` as well
        for one in wanted:
            named = [name for name in found if one in spell(name)]
            if len(named) == 1:
                return found[named[0]]
    hint = f"if {next(iter(found))!r} is no symbol: `symbol_column` (--symbol-column '')" if len(found) == 1 else ""
    raise UnknownSymbol(source, symbol, list(found), hint)


def plain_symbol(name: str) -> str:
    """A venue's name of a symbol without what is only its own: `BTCUSD` for `X:BTCUSD` and for Kraken's `XXBTZUSD`."""
    return _KRAKEN.sub(r"\1\2", name.upper().rpartition(":")[2].strip()).replace("XBT", "BTC")


def _whole(name: str) -> list[str]:
    return [_letters(plain_symbol(name))]


def _parts(name: str) -> list[str]:
    return [_letters(part) for part in plain_symbol(name).split(".")]


def _letters(name: str) -> str:
    """A name without what separates its parts."""
    return re.sub(r"[\W_]", "", name)


def _read_beside(table: Table, columns: Columns, reading: Reading) -> dict[str, Rows]:
    """Read several symbols side by side: one has no bar where all its cells are empty."""
    times = read_times(table, columns.time, reading)
    found = {}
    for symbol, fields in columns.several.items():
        numbers = read_numbers(table, fields, reading)
        there = np.asarray(~np.isnan(numbers.ohlcv_TF[:, : len(FIELDS)]).all(axis=1))
        found[symbol] = _rows(table, replace(columns, fields=fields), times, numbers, there)
    return found


def _rows(
    table: Table, columns: Columns, times: Times, numbers: Numbers, there: NDArray[np.bool_] | None = None
) -> Rows:
    """Put the rows of one symbol together."""
    kept = np.ones(len(times.labels), bool) if there is None else there.copy()
    refused = times.unreadable | dict.fromkeys(_unfinished(table), _UNFINISHED)
    kept[list(refused)] = False
    if 2 * len(refused) > len(kept):
        (reason, count), *_ = Counter(refused.values()).most_common(1)
        raise BadPayload(
            table.source, "rows that can be read", f"{len(refused)} of {len(kept)} not: {reason} ({count})"
        )
    at = np.flatnonzero(kept)
    lines = np.asarray(table.cells.index, np.int64)
    written = [" ".join(str(table.cells.iloc[row, place]) for place in columns.time) for row in refused]
    return Rows(
        labels=times.labels[at],
        ohlcv_TF=numbers.ohlcv_TF[at],
        lines=lines[at],
        zone=times.zone,
        doubt=times.doubt,
        refused=tuple(zip(written, refused.values(), strict=True)),
        understood={
            "form": table.form,
            "columns": _named(table, columns),
            "times": times.form,
            "timezone": times.zone_text,
            "decimal": numbers.decimal_text,
            "order": "newest first" if is_newest_first(times.labels.instant[at]) else "oldest first",
        },
    )


def _unfinished(table: Table) -> list[int]:
    """Rows that say of themselves that their bar still forms, as OANDA's `complete` and OKX's `confirm` do."""
    for place, name in enumerate(table.names):
        if plain(name) in _SAYS_WHETHER_FINAL:
            words = table.cells[place].astype(str).str.strip().str.lower()
            if words.isin((*_YES, *_NO)).all():
                return np.flatnonzero(words.isin(_NO)).tolist()
    return []


def _named(table: Table, columns: Columns) -> str:
    """Which column is what, for people."""
    time = " and ".join(table.names[place] for place in columns.time)
    fields = (f"{field} = {table.names[place]}" for field, place in columns.fields.items())
    symbol = () if columns.symbol is None else (f"symbol = {table.names[columns.symbol]}",)
    return ", ".join((f"open_time = {time}", *fields, *symbol))
