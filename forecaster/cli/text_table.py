"""Tables for a terminal: as wide as they need to be, never wider than the terminal, no cell cut."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final, Literal

from forecaster.cli.printing import say, terminal_width, wrapped
from forecaster.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_GAP: Final = 2
_FIXED_SPACE: Final = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: its heading.
        align: `left` for text, `right` for numbers.
        wraps: whether its cells may take several lines.
        optional: whether it is left out where the terminal is too narrow.
    """

    name: str
    align: Literal["left", "right"] = "right"
    wraps: bool = False
    optional: bool = False


def text(name: str, *, wraps: bool = False, optional: bool = False) -> Column:
    """Make a column of text."""
    return Column(name, "left", wraps, optional)


class TextTable:
    """A table that fits the terminal.

    Where it is too wide, rows are grouped under the first column, then optional columns are left out, the last ones
    first. If that is not enough, cells wrap. At last each row becomes a block.

    Args:
        title: printed above it; empty for none.
        columns: its columns.
        grouped: whether equal neighbours in the first column may become a heading.
    """

    def __init__(self, title: str, columns: Sequence[Column | str], *, grouped: bool = False) -> None:
        self._title = printable(title)
        self._columns = [Column(column) if isinstance(column, str) else column for column in columns]
        self._grouped = grouped
        self._rows: list[tuple[str, ...]] = []

    def add(self, *cells: object) -> None:
        """Add a row."""
        self._rows.append(tuple(map(printable, cells)))

    def show(self) -> None:
        """Print the table in the first layout that fits."""
        width = terminal_width()
        if self._title:
            say(self._title)
        places = self._layout(width)
        if not places:
            for line in self._blocks(width):
                say(line)
            return
        if places[0] == 0:
            self._print_rows(places, self._rows, width)
        else:
            for heading, rows in groupby(self._rows, key=lambda row: row[0]):
                say(heading, bold=True)
                self._print_rows(places, list(rows), width)
        hidden = [column.name for place, column in enumerate(self._columns) if column.optional and place not in places]
        if hidden:
            say(f"a wider terminal also shows: {', '.join(hidden)}")

    def _layout(self, width: int) -> list[int]:
        """Return the columns of the first layout that fits; none when none fits."""
        layouts = self._layouts()
        for wraps in (False, True):
            for places in layouts:
                if sum(self._min_width(place, wraps=wraps) + _GAP for place in places) - _GAP <= width:
                    return places
        return []

    def _layouts(self) -> list[list[int]]:
        """Return the columns of all layouts: all, those below group headings, and these with fewer optional ones."""
        layouts = [list(range(len(self._columns)))]
        places = layouts[0][self._grouped :]
        layouts.append(places)
        for optional in reversed([place for place in places if self._columns[place].optional]):
            places = [place for place in places if place != optional]
            layouts.append(places)
        return layouts

    def _min_width(self, place: int, *, wraps: bool) -> int:
        """Return the smallest width of a column that cuts no cell, or no word where its cells wrap."""
        cells = self._cells(place)
        words = [word for cell in cells for word in cell.split()] if wraps and self._columns[place].wraps else cells
        return max(map(_length, words), default=0)

    def _cells(self, place: int) -> list[str]:
        return [self._columns[place].name, *(row[place] for row in self._rows)]

    def _widths(self, places: Sequence[int], width: int) -> list[int]:
        """Return the widths of columns: the widest of those that wrap give way."""
        widths = {place: max(map(_length, self._cells(place))) for place in places}
        while sum(widths.values()) + _GAP * (len(places) - 1) > width:
            place = max(
                (place for place in places if widths[place] > self._min_width(place, wraps=True)),
                key=widths.__getitem__,
            )
            widths[place] -= 1
        return list(widths.values())

    def _print_rows(self, places: Sequence[int], rows: Sequence[tuple[str, ...]], width: int) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), show_edge=False, pad_edge=False)
        for place, wide in zip(places, self._widths(places, width), strict=True):
            column = self._columns[place]
            table.add_column(column.name, justify=column.align, width=wide, overflow="fold")
        for row in rows:
            table.add_row(*(row[place] for place in places))
        Console(markup=False, emoji=False, highlight=False, width=width).print(table)

    def _blocks(self, width: int) -> Iterator[str]:
        """Write each row as its texts, and below them its numbers, each after the name of its column."""
        for row in self._rows:
            texts: list[str] = []
            figures: list[str] = []
            for column, cell in zip(self._columns, row, strict=True):
                if column.align == "left":
                    texts.append(cell.strip())
                else:
                    figures.append(f"{column.name} {cell}".replace(" ", _FIXED_SPACE))
            yield from wrapped("  ".join(texts), width, "  ")
            for line in wrapped(f"  {'  '.join(figures)}", width, "  "):
                yield line.replace(_FIXED_SPACE, " ")


def _length(cell: str) -> int:
    from rich.cells import cell_len

    return cell_len(cell)
