"""Read a table into rows: columns, symbols, times, numbers. `alignment` then puts them on the grid of a calendar."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from forecaster.errors import BadPayload
from forecaster.tables import FIELDS, Rows
from forecaster.tables.alignment import is_newest_first
from forecaster.tables.column_names import normalize_name
from forecaster.tables.columns import find_columns, non_bar_rows
from forecaster.tables.dates import read_dates
from forecaster.tables.field_order import check_field_order
from forecaster.tables.numbers import read_numbers
from forecaster.tables.symbols import rows_by_symbol
from forecaster.tables.times import read_times, to_instants

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from forecaster.tables import ParseOptions, Table
    from forecaster.tables.columns import Columns
    from forecaster.tables.numbers import Numbers
    from forecaster.tables.times import Times

_UNFINISHED: Final = "the row says that its bar is not complete"
_NOT_A_ROW: Final = "the row has neither a time nor a price"
_FINAL_FLAGS: Final = frozenset(
    ("complete", "completed", "iscomplete", "confirm", "confirmed", "closed", "isclosed", "isfinal", "final", "x")
)
_FORMING_FLAGS: Final = frozenset(
    ("incomplete", "isincomplete", "partial", "ispartial", "unclosed", "forming", "isforming")
)
_YES: Final = ("true", "1", "1.0", "yes")
_NO: Final = ("false", "0", "0.0", "no")
_TRUE_OR_FALSE: Final = {_YES[0], _NO[0]}


def read_table(table: Table, options: ParseOptions) -> dict[str, Rows]:
    """Read a table into rows by symbol; the symbol is empty if the table names none.

    Raises:
        BadPayload: for cells that cannot be read; names the line.
        Ambiguous: names the option that settles what the table leaves open.
    """
    if table.cells.empty:
        raise BadPayload(table.source, "at least one row of a bar", "none")
    columns = find_columns(table, options)
    dropped = non_bar_rows(table, columns)
    rejected = _rejected(table, columns, dict.fromkeys(dropped.tolist(), _NOT_A_ROW))
    if len(dropped):
        _check_rejected(table, Counter({_NOT_A_ROW: len(dropped)}))
        table = replace(table, cells=table.cells.drop(table.cells.index[dropped]))
    by_symbol = (_read_wide if columns.by_symbol else _read_long)(table, columns, options)
    if rejected:
        symbol, rows = next(iter(by_symbol.items()))
        by_symbol[symbol] = replace(rows, rejected=rejected + rows.rejected)
    return by_symbol


def _read_long(table: Table, columns: Columns, options: ParseOptions) -> dict[str, Rows]:
    """Read a table in long format: one symbol, or several of which each row names its own."""
    numbers = read_numbers(table, columns.fields, options)
    lines = np.asarray(table.cells.index, np.int64)
    positions, dates = rows_by_symbol(table, columns), read_dates(table, columns.time, options)
    times: dict[str, tuple[Table, Times]] = {}
    for symbol, rows in positions.items():
        part = table if len(rows) == len(lines) else replace(table, cells=table.cells.iloc[rows])
        times[symbol] = part, to_instants(part, columns.time, dates[rows], options)
    if not table.has_header and options.columns is None:
        oldest_first = np.concatenate(
            [rows[np.argsort(times[symbol][1].labels.instant, kind="stable")] for symbol, rows in positions.items()]
        )
        check_field_order(table, numbers.ohlcv_TF[oldest_first, : len(FIELDS)], lines[oldest_first])
    return {
        symbol: _make_rows(
            part, columns, part_times, replace(numbers, ohlcv_TF=numbers.ohlcv_TF[positions[symbol]]), options
        )
        for symbol, (part, part_times) in times.items()
    }


def _read_wide(table: Table, columns: Columns, options: ParseOptions) -> dict[str, Rows]:
    """Read a table in wide format: symbols side by side. A symbol has no bar where all its cells are empty."""
    times = read_times(table, columns.time, options)
    by_symbol = {}
    for symbol, part, part_columns in _split_columns(table, columns):
        numbers = read_numbers(part, part_columns.fields, options)
        has_price = np.asarray(~np.isnan(numbers.ohlcv_TF[:, : len(FIELDS)]).all(axis=1))
        by_symbol[symbol] = _make_rows(part, part_columns, times, numbers, options, has_price)
    return by_symbol


def _split_columns(table: Table, columns: Columns) -> Iterator[tuple[str, Table, Columns]]:
    """Yield the table of each symbol: its own columns and the common ones, so that none scans those of all others."""
    taken = {place for fields in columns.by_symbol.values() for place in fields.values()}
    common = [place for place in range(len(table.names)) if place not in taken]
    for symbol, fields in columns.by_symbol.items():
        kept = [*common, *fields.values()]
        renumbered = {place: number for number, place in enumerate(kept)}
        cells = table.cells[kept].set_axis(pd.RangeIndex(len(kept)), axis="columns")
        part_columns = replace(
            columns,
            time=tuple(renumbered[place] for place in columns.time),
            fields={field: renumbered[place] for field, place in fields.items()},
        )
        yield symbol, replace(table, names=[table.names[place] for place in kept], cells=cells), part_columns


def _make_rows(
    table: Table,
    columns: Columns,
    times: Times,
    numbers: Numbers,
    options: ParseOptions,
    has_price: NDArray[np.bool_] | None = None,
) -> Rows:
    """Combine the times and numbers of one symbol, in table order."""
    is_kept = np.ones(len(times.labels), bool) if has_price is None else has_price.copy()
    reasons = times.unreadable | dict.fromkeys(_unfinished(table), _UNFINISHED)
    is_kept[list(reasons)] = False
    _check_rejected(table, Counter(reasons.values()))
    kept = np.flatnonzero(is_kept)
    lines = np.asarray(table.cells.index, np.int64)
    return Rows(
        labels=times.labels[kept],
        ohlcv_TF=numbers.ohlcv_TF[kept],
        lines=lines[kept],
        zone_source=times.zone_source,
        utc_conflict=times.utc_conflict,
        rejected=_rejected(table, columns, reasons),
        parsed_as={
            "format": table.format,
            "columns": _describe_columns(table, columns, options),
            "times": times.format,
            "timezone": times.zone_text,
            "decimal": numbers.decimal_text,
            "order": "newest first" if is_newest_first(times.labels.instant[kept]) else "oldest first",
        },
    )


def _check_rejected(table: Table, reasons: Counter[str]) -> None:
    """Raise BadPayload if most rows are rejected."""
    count, total = reasons.total(), len(table.cells)
    if 2 * count > total:
        (reason, most), *_ = reasons.most_common(1)
        raise BadPayload(table.source, "rows that can be read", f"{count} of {total} not: {reason} ({most})")


def _rejected(table: Table, columns: Columns, reasons: Mapping[int, str]) -> tuple[tuple[str, str], ...]:
    """Return the time text and the reason of each rejected row."""
    written = [" ".join(str(table.cells.iloc[row, place]) for place in columns.time) for row in reasons]
    return tuple(zip(written, reasons.values(), strict=True))


def _unfinished(table: Table) -> list[int]:
    """Return rows whose flag says that the bar still forms, such as OANDA's `complete` and OKX's `confirm`."""
    for place, name in enumerate(table.names):
        key = normalize_name(name)
        if key in _FINAL_FLAGS or key in _FORMING_FLAGS:
            flags = [str(cell).strip().lower() for cell in table.cells[place]]
            if set(flags) <= {*_YES, *_NO} and (key != "x" or set(flags) <= _TRUE_OR_FALSE):
                forming = _NO if key in _FINAL_FLAGS else _YES
                return [row for row, flag in enumerate(flags) if flag in forming]
    return []


def _describe_columns(table: Table, columns: Columns, options: ParseOptions) -> str:
    """Describe the role of each column, and whether the user gave it."""
    time = " and ".join(table.names[place] for place in columns.time)
    fields = (f"{field} = {table.names[place]}" for field, place in columns.fields.items())
    symbol = () if columns.symbol is None else (f"symbol = {table.names[columns.symbol]}",)
    return ", ".join((f"open_time = {time}", *fields, *symbol)) + (", as given" if options.columns else "")
