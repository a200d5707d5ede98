"""Tables of bars, from files and from frames: names and cells, and how they become rows.

`columns` finds the role of each column. `dates`, `times` and `numbers` read cells. `rows` combines them. What a table
leaves open raises `Ambiguous`, which names the option of `ParseOptions` that settles it. `Bars` decides which rows are
bars; the calendar of the series decides what a date stands for.

Shapes: T rows of a table, F fields of `Bars` (open, high, low, close, volume).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from forecaster.errors import BadPayload

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from forecaster.zones import Labels

FIELDS: Final = ("open", "high", "low", "close")
COLUMNS: Final = (*FIELDS, "volume")

ZoneSource: TypeAlias = Literal["written", "given", "assumed", "required"]
"""Where the time zone comes from.

`written`: the cells, the header or the table. `given`: `ParseOptions.timezone`. `assumed`: UTC, since nothing is
written. `required`: the program that wrote the table writes local times, so the zone must be given.
"""


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """How to read what a table leaves open; None decides it by the table.

    Args:
        timezone: zone of times without one: an IANA name, `UTC`, `+02:00`, or a name and a shift, such as
            `America/New_York+07:00`.
        columns: fields by position: `open_time`, `open`, `high`, `low`, `close`, `volume`, or "" for other columns.
            Or a mapping from field to column name.
        decimal: the decimal sign.
        dayfirst: whether 01/02/2024 is 1 February.
        symbol_column: name of the column that holds the symbol; "" if none does.
    """

    timezone: str | None = None
    columns: tuple[str, ...] | Mapping[str, str] | None = None
    decimal: Literal[".", ","] | None = None
    dayfirst: bool | None = None
    symbol_column: str | None = None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all options."""
        return tuple(option.name for option in fields(cls))


@dataclass(frozen=True, slots=True)
class Table:
    """Names and cells of a table, before they are interpreted.

    Args:
        source: its name in errors: a path, or `frame`.
        names: column names as written; generated ones where it has no header.
        cells: (T, columns). Cells of a text are `str` or missing; those of a frame keep their types. Columns are
            numbered from 0; the index holds line or row numbers.
        row_unit: what messages call a row: `line` or `row`.
        format: the file format, for messages: `csv, utf-8, separated by semicolons`.
        has_header: whether `names` come from the table.
        symbol: the symbol of all rows; empty if the table names none.
        timezone: the time zone of the whole table; empty if the table names none.
    """

    source: str
    names: list[str]
    cells: pd.DataFrame
    row_unit: str
    format: str
    has_header: bool = True
    symbol: str = ""
    timezone: str = ""

    def cell_error(self, expected: str, row: int, found: object) -> BadPayload:
        """Return the error for one cell; `row` is a position in `cells`."""
        return BadPayload(self.source, f"{expected} in {self.row_unit} {self.cells.index[row]}", found)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one symbol, in table order.

    Args:
        labels: (T,) times.
        ohlcv_TF: (T, 5) values; NaN for empty cells.
        lines: (T,) line or row numbers.
        zone_source: where the time zone comes from.
        utc_conflict: why times assumed to be UTC are probably not; empty if nothing contradicts UTC.
        rejected: time text and reason of rows that are not among the T: unreadable times, unfinished bars.
        parsed_as: how the table was read, for messages: `format`, `columns`, `times`, `timezone`, …
    """

    labels: Labels
    ohlcv_TF: NDArray[np.float64]
    lines: NDArray[np.int64]
    zone_source: ZoneSource = "written"
    utc_conflict: str = ""
    rejected: tuple[tuple[str, str], ...] = ()
    parsed_as: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> Rows:
        """Select rows by a slice or a mask."""
        return replace(self, labels=self.labels[rows], ohlcv_TF=self.ohlcv_TF[rows], lines=self.lines[rows])
