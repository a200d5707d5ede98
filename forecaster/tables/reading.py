"""From a table to rows: which columns, which symbols, which times, which numbers. `placing` puts them in order."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from forecaster.errors import BadPayload, UnknownSymbol
from forecaster.tables import FIELDS, Rows
from forecaster.tables.columns import find_columns, no_rows, split_symbols
from forecaster.tables.dates import read_dates
from forecaster.tables.numbers import read_numbers
from forecaster.tables.order import check_order
from forecaster.tables.placing import is_newest_first
from forecaster.tables.times import read_times, times_of
from forecaster.tables.words import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from forecaster.tables import Reading, Table
    from forecaster.tables.columns import Columns
    from forecaster.tables.numbers import Numbers
    from forecaster.tables.times import Times

_UNFINISHED: Final = "the row says that its bar is not complete"
_NO_ROW: Final = "the row has neither a time nor a price"
_SAYS_FINAL: Final = frozenset(
    ("complete", "completed", "iscomplete", "confirm", "confirmed", "closed", "isclosed", "isfinal", "final", "x")
)
_SAYS_FORMING: Final = frozenset(
    ("incomplete", "isincomplete", "partial", "ispartial", "unclosed", "forming", "isforming")
)
_YES: Final = ("true", "1", "1.0", "yes")
_NO: Final = ("false", "0", "0.0", "no")
_TRUE_OR_FALSE: Final = {_YES[0], _NO[0]}

QUOTES: Final = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USD", "EUR", "GBP", "JPY", "BTC", "ETH")
"""Currencies that names end in."""

_DOLLARS: Final = tuple(one for one in QUOTES if "USD" in one)

_KRAKEN: Final = re.compile(r"X([A-Z]{3,4})Z([A-Z]{3})")
"""Kraken's own name of a pair: `XXBTZUSD`."""

_COUNTRY: Final = re.compile(r"(?:US|HK|SH|SZ|BJ)\.(?=\w{3})")
"""What programs in China write before a stock: `SH.600000`."""


def read_table(table: Table, reading: Reading) -> dict[str, Rows]:
    """Read a whole table: its rows by symbol, whose name is empty where the table names none.

    Raises:
        BadPayload: says what was expected and found, and on which line.
        Ambiguous: names the option that settles what the table leaves open.
    """
    if table.cells.empty:
        raise BadPayload(table.source, "at least one row of a bar", "none")
    columns = find_columns(table, reading)
    left_out = no_rows(table, columns)
    refused = _refused(table, columns, dict.fromkeys(left_out.tolist(), _NO_ROW))
    if len(left_out):
        _refuse_many(table, Counter({_NO_ROW: len(left_out)}))
        table = replace(table, cells=table.cells.drop(table.cells.index[left_out]))
    found = (_read_beside if columns.several else _read_below)(table, columns, reading)
    if refused:
        first, rows = next(iter(found.items()))
        found[first] = replace(rows, refused=refused + rows.refused)
    return found


def _read_below(table: Table, columns: Columns, reading: Reading) -> dict[str, Rows]:
    """Read several symbols one below another, or one."""
    numbers = read_numbers(table, columns.fields, reading)
    lines = np.asarray(table.cells.index, np.int64)
    parts, dates, times = split_symbols(table, columns), read_dates(table, columns.time, reading), {}
    for symbol, places in parts.items():
        part = table if len(places) == len(lines) else replace(table, cells=table.cells.iloc[places])
        times[symbol] = part, times_of(part, columns.time, dates[places], reading)
    if not table.has_header and reading.columns is None:
        oldest_first = np.concatenate(
            [places[np.argsort(times[symbol][1].labels.instant, kind="stable")] for symbol, places in parts.items()]
        )
        check_order(table, numbers.ohlcv_TF[oldest_first, : len(FIELDS)], lines[oldest_first])
    return {
        symbol: _rows(part, columns, read, replace(numbers, ohlcv_TF=numbers.ohlcv_TF[parts[symbol]]), reading)
        for symbol, (part, read) in times.items()
    }


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
    for spell in (_whole, _before_dot):  # `ABC` is `ABC.US`, unless there is `ABC.DE` as well
        for one in wanted:
            named = [name for name in found if one == spell(name)]
            if len(named) == 1:
                return found[named[0]]
    hint = f"if {next(iter(found))!r} is no symbol: `symbol_column` (--symbol-column '')" if len(found) == 1 else ""
    raise UnknownSymbol(source, symbol, list(found), hint)


def plain_symbol(name: str) -> str:
    """A venue's name of a symbol without what is only its own: `BTCUSD` for `X:BTCUSD` and for Kraken's `XXBTZUSD`."""
    return _KRAKEN.sub(r"\1\2", name.upper().rpartition(":")[2].strip()).replace("XBT", "BTC")


def _whole(name: str) -> str:
    return _letters(plain_symbol(name))


def _before_dot(name: str) -> str:
    """A name without what is behind a dot: a class of shares or a country."""
    return _letters(_COUNTRY.sub("", plain_symbol(name)).partition(".")[0])


def _letters(name: str) -> str:
    """A name without what separates its parts."""
    return re.sub(r"[\W_]", "", name)


def _read_beside(table: Table, columns: Columns, reading: Reading) -> dict[str, Rows]:
    """Read several symbols side by side: one has no bar where all its cells are empty."""
    times = read_times(table, columns.time, reading)
    found = {}
    for symbol, part, own in _split_columns(table, columns):
        numbers = read_numbers(part, own.fields, reading)
        there = np.asarray(~np.isnan(numbers.ohlcv_TF[:, : len(FIELDS)]).all(axis=1))
        found[symbol] = _rows(part, own, times, numbers, reading, there)
    return found


def _split_columns(table: Table, columns: Columns) -> Iterator[tuple[str, Table, Columns]]:
    """Give each symbol the columns that are its own or nobody's: else each would look at those of all others."""
    taken = {place for fields in columns.several.values() for place in fields.values()}
    common = [place for place in range(len(table.names)) if place not in taken]
    for symbol, fields in columns.several.items():
        kept = [*common, *fields.values()]
        new = {place: number for number, place in enumerate(kept)}
        cells = table.cells[kept].set_axis(pd.RangeIndex(len(kept)), axis="columns")
        own = replace(
            columns,
            time=tuple(new[place] for place in columns.time),
            fields={field: new[place] for field, place in fields.items()},
        )
        yield symbol, replace(table, names=[table.names[place] for place in kept], cells=cells), own


def _rows(
    table: Table,
    columns: Columns,
    times: Times,
    numbers: Numbers,
    reading: Reading,
    there: NDArray[np.bool_] | None = None,
) -> Rows:
    """Put the rows of one symbol together, in the order of the table."""
    kept = np.ones(len(times.labels), bool) if there is None else there.copy()
    reasons = times.unreadable | dict.fromkeys(_unfinished(table), _UNFINISHED)
    kept[list(reasons)] = False
    _refuse_many(table, Counter(reasons.values()))
    at = np.flatnonzero(kept)
    lines = np.asarray(table.cells.index, np.int64)
    return Rows(
        labels=times.labels[at],
        ohlcv_TF=numbers.ohlcv_TF[at],
        lines=lines[at],
        zone=times.zone,
        doubt=times.doubt,
        refused=_refused(table, columns, reasons),
        understood={
            "form": table.form,
            "columns": _named(table, columns, reading),
            "times": times.form,
            "timezone": times.zone_text,
            "decimal": numbers.decimal_text,
            "order": "newest first" if is_newest_first(times.labels.instant[at]) else "oldest first",
        },
    )


def _refuse_many(table: Table, reasons: Counter[str]) -> None:
    """Refuse a table of which most rows are none."""
    count, total = reasons.total(), len(table.cells)
    if 2 * count > total:
        (reason, most), *_ = reasons.most_common(1)
        raise BadPayload(table.source, "rows that can be read", f"{count} of {total} not: {reason} ({most})")


def _refused(table: Table, columns: Columns, reasons: Mapping[int, str]) -> tuple[tuple[str, str], ...]:
    """Give refused rows as the text of their time, and the reason."""
    written = [" ".join(str(table.cells.iloc[row, place]) for place in columns.time) for row in reasons]
    return tuple(zip(written, reasons.values(), strict=True))


def _unfinished(table: Table) -> list[int]:
    """Rows that say of themselves that their bar still forms, as OANDA's `complete` and OKX's `confirm` do."""
    for place, name in enumerate(table.names):
        key = plain(name)
        if key in _SAYS_FINAL or key in _SAYS_FORMING:
            words = [str(cell).strip().lower() for cell in table.cells[place]]
            if set(words) <= {*_YES, *_NO} and (key != "x" or set(words) <= _TRUE_OR_FALSE):
                forming = _NO if key in _SAYS_FINAL else _YES
                return [row for row, word in enumerate(words) if word in forming]
    return []


def _named(table: Table, columns: Columns, reading: Reading) -> str:
    """Which column is what, for people, and whether that was said."""
    time = " and ".join(table.names[place] for place in columns.time)
    fields = (f"{field} = {table.names[place]}" for field, place in columns.fields.items())
    symbol = () if columns.symbol is None else (f"symbol = {table.names[columns.symbol]}",)
    return ", ".join((f"open_time = {time}", *fields, *symbol)) + (", as said" if reading.columns else "")
