"""Tables of bars as people write them: what a cell, a column and a time mean; files and frames alike.

A table is names and cells. `columns` finds what each column is, `times` and `numbers` read cells, `reading` puts them
together to rows. Nothing is guessed: what a table leaves open is refused with the option of `Reading` that settles it.
Which rows are bars is left to `Bars`, what a date stands for to the calendar of the series.

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

    from forecaster.calendars import Labels

FIELDS: Final = ("open", "high", "low", "close")
COLUMNS: Final = (*FIELDS, "volume")

ZoneKind: TypeAlias = Literal["written", "said", "assumed", "required"]
"""Where the zone of times comes from: from the cells or the header, from `Reading.timezone`, from nowhere (then it is
UTC), or it must be said, since whoever writes such tables writes local times."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read a table where it does not say so itself; None leaves it to the table.

    Args:
        timezone: the clock of times that are written without a zone: an IANA name, `UTC`, `+02:00`, or a name and a
            shift, such as `America/New_York+07:00`.
        columns: the fields of unnamed columns, by place: `open_time`, `open`, `high`, `low`, `close`, `volume`, or ""
            for one that is none of them; or the name of the column of each field.
        decimal: the sign before decimals.
        dayfirst: whether 01/02/2024 is the first of February.
        symbol_column: the name of the column that tells whose row it is; "" if none does.
    """

    timezone: str | None = None
    columns: tuple[str, ...] | Mapping[str, str] | None = None
    decimal: Literal[".", ","] | None = None
    dayfirst: bool | None = None
    symbol_column: str | None = None

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of what can be said."""
        return tuple(one.name for one in fields(cls))


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it stands.

    Args:
        source: what errors call it: a path, or `the frame`.
        names: of its columns, as they are written; generated ones where it has no header.
        cells: (T, columns); a text's cells are `str` or missing, a frame's are what they are. Its columns are numbered
            from 0, its index counts lines or rows as people do.
        place: what people call a row of it: `line` or `row`.
        form: how it is written, for people: `csv, utf-8, separated by ;`.
        has_header: whether names are the table's own.
        symbol: whose rows it says they are, as a whole; empty when it does not.
        timezone: what it says of its times, as a whole; empty when it does not.
    """

    source: str
    names: list[str]
    cells: pd.DataFrame
    place: str
    form: str
    has_header: bool = True
    symbol: str = ""
    timezone: str = ""

    def fault(self, expected: str, row: int, found: object) -> BadPayload:
        """Make the error for one cell; `row` is a position in `cells`."""
        return BadPayload(self.source, f"{expected} in {self.place} {self.cells.index[row]}", found)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a table holds of one symbol, in its own order: T labels, and (T, 5) values.

    Args:
        labels: the times.
        ohlcv_TF: the values; NaN where a cell says nothing.
        lines: (T,) lines or rows of the table, as people count them.
        zone: where the zone of the times comes from.
        doubt: why times that are taken for UTC are probably not; empty when nothing speaks against it.
        refused: rows that are none by their time, or by their own word, as the text of that time and the reason; they
            are not among the T.
        understood: how the table was read, for people: `columns`, `times`, `zone`, `decimal`, …, in this order.
    """

    labels: Labels
    ohlcv_TF: NDArray[np.float64]
    lines: NDArray[np.int64]
    zone: ZoneKind = "written"
    doubt: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    understood: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> Rows:
        """Take some of the rows, by a slice or a mask."""
        return replace(self, labels=self.labels[rows], ohlcv_TF=self.ohlcv_TF[rows], lines=self.lines[rows])
