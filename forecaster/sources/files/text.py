"""Texts of bars: the encoding of a file, the sign between its cells, and where its header ends.

Every cell stays text, so that no release of pandas changes how a number is read; an empty one is missing.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import pandas as pd

from forecaster.errors import BadPayload
from forecaster.sources.files import bounds
from forecaster.tables import FIELDS, Table
from forecaster.tables.columns import names_bars
from forecaster.tables.frames import join_levels

if TYPE_CHECKING:
    from collections.abc import Iterable

_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before utf-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_PACKED: Final = {
    b"\x1f\x8b": "data that gzip packed",
    b"BZh": "data that bzip2 packed",
    b"\xfd7zXZ": "data that xz packed",
    b"PK\3\4": "a zip, or a workbook of Excel",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel",
    b"PAR1": "a Parquet file",
    b"ARROW1": "a feather file",
}
"""How the content of other files begins, which may have the name of a text."""
_MOST: Final = 0.7  # the part of a text's bytes at every other place that are NUL in UTF-16
_FIRST_BYTES: Final = 4000
_FIRST_LINES: Final = 100
_FOREIGN_LINES: Final = 50
_LONGEST_BANNER: Final = 20
_USUAL: Final = ("cp1252", "cp1250", "cp1251")
"""What programs on Windows wrote before they wrote Unicode, in most of the languages whose names we know."""

# A comma comes last: it stands within numbers as well.
_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
_FEWEST_CELLS: Final = 1 + len(FIELDS)
_END_OF_FILE: Final = "\x1a"  # of DOS
_PAGE: Final = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_ZONE: Final = re.compile(  # `times are in EST`, `Timezone: Asia/Tokyo`
    r"\btime(?:s|stamps?)? (?:are (?:in )?|in )(?P<plain>[^\s,;|]+)|\b(?:time ?zone|tz)\b[\s:=,;|]*(?P<named>[^,;|]+)",
    re.IGNORECASE,
)
_BEGINS_A_TIME: Final = re.compile(r"\d")
_UNITS: Final = re.compile(
    r"[$€£¥]|usd[tc]?|eur|gbp|gbx|jpy|chf|cad|aud|inr|pln|units?|lots?|shares?|contracts?|points?|price|float|int|number",
    re.IGNORECASE,
)
_YFINANCE: Final = {"Price", "Ticker"}
_NUMBER: Final = re.compile(
    r"[^\w.]*(?:\d[\d\W]*)?\d(?:[eE][+-]?\d+)?[kKmMbBtTzZ]?\W*|nan|null|none|n/?a|-", re.IGNORECASE
)


class _Head(NamedTuple):
    """What stands above the rows of a text: the names of their columns, and how many lines it takes."""

    names: list[str]
    lines: int
    has_header: bool = True
    symbol: str = ""


class _Record(NamedTuple):
    """The cells of one row, and the number of the line on which it ends."""

    cells: list[str]
    line: int


def decode(content: bytes) -> tuple[str, str]:
    """Give the text, and the name of its encoding.

    Raises:
        ValueError: it is no text.
    """
    packed = next((kind for mark, kind in _PACKED.items() if content.startswith(mark)), None)
    if packed:
        raise ValueError(packed)
    encoding = _encoding(content)
    return content.decode(encoding), encoding.removesuffix("-sig")


def _encoding(content: bytes) -> str:
    marked = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), None)
    if marked:
        return marked
    first = content[:_FIRST_BYTES]
    if b"\0" in first:
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if first[start::2].count(0) > _MOST * len(first[start::2]):
                return encoding
    if b"\0" in content:
        raise ValueError("NUL bytes, which no text holds")
    try:
        content.decode()
    except UnicodeDecodeError:
        return _detect(content)
    return "utf-8"


def _detect(content: bytes) -> str:
    """Find the encoding of a text that is not Unicode: one in which a line names bars, else the likeliest."""
    lines = (line for line in content.splitlines() if not line.isascii())
    foreign = b"\n".join(islice(lines, _FOREIGN_LINES))
    for encoding in _USUAL:
        if _names_bars_somewhere(foreign.decode(encoding, errors="replace")):
            content.decode(encoding)
            return encoding
    from charset_normalizer import from_bytes  # noqa: PLC0415 - few files need it, and it takes a while to import

    found = from_bytes(foreign)
    likeliest = found.best()
    if likeliest is None:
        raise ValueError("bytes of no known encoding")
    return next((match.encoding for match in found if _names_bars_somewhere(str(match))), likeliest.encoding)


def _names_bars_somewhere(text: str) -> bool:
    lines = text.splitlines()
    return any(names_bars(record.cells) for separator in _SEPARATORS for record in _records(lines, separator))


def csv_tables(source: str, content: bytes, kind: str) -> list[Table]:
    """Read a text of rows.

    Raises:
        BadPayload: a row has more cells than it should, or a quoted cell does not end on its line.
        ValueError: it cannot be read.
    """
    text, encoding = decode(content)
    text = text.rstrip(_END_OF_FILE)
    longest = _longest_line(text.encode())
    bounds.check_text(source, "lines", longest, bounds.LONGEST_LINE)
    lines = list(islice(io.StringIO(text[: bounds.LONGEST_LINE], newline=""), _FIRST_LINES))
    separator, width = _find_separator(lines)
    _refuse_other_texts(source, lines, separator)
    head = _find_head(list(_records(lines[:_LONGEST_BANNER], separator)), width)
    cells = _cells_below(source, text[sum(map(len, lines[: head.lines])) :], separator, head)
    if longest > bounds.LONGEST_CELL:
        longest = max(int(column.str.len().max()) for _, column in cells.fillna("").items())
        bounds.check_text(source, "cells", longest, bounds.LONGEST_CELL)
    form = f"{kind}, {encoding}, separated by {_SEPARATORS[separator]}"
    zone = _zone_above(lines[: head.lines - head.has_header])
    table = Table(source, head.names, cells.dropna(how="all"), "line", form, head.has_header, head.symbol, zone)
    _refuse_overlong(table, separator)
    del table.cells[len(head.names)]
    return [table]


def _cells_below(source: str, body: str, separator: str, head: _Head) -> pd.DataFrame:
    """Read the cells below the head; their index counts lines.

    Raises:
        BadPayload: a row has more cells than it should, or a quoted cell does not end on its line.
    """
    count = _count_lines(body)
    bounds.check_shape(source, count, len(head.names))
    top = io.StringIO(body[: bounds.LONGEST_LINE], newline="")
    first = next(csv.reader(top, delimiter=separator, skipinitialspace=True), [])
    if len(first) > len(head.names) + 1:  # pandas would take the width from it
        raise BadPayload(source, f"{len(head.names)} cells in line {head.lines + 1}", f"{len(first)} cells")
    try:
        cells = _read_cells(body, separator, len(head.names))
    except pd.errors.ParserError as error:
        raise _mend_line(source, head, str(error)) from error
    if len(cells) != count:
        raise BadPayload(source, "each row on a line of its own", "a quoted cell that goes on in the next line")
    cells.index += head.lines + 1
    return cells


def _longest_line(content: bytes) -> int:
    octets = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero((octets == ord("\n")) | (octets == ord("\r")))
    return int(np.diff(ends, prepend=-1, append=len(octets)).max()) - 1


def _refuse_other_texts(source: str, lines: list[str], separator: str) -> None:
    """Refuse a page of the web, or a message where bars should be, by its first line."""
    first = next((line.strip() for line in lines if line.strip()), "")
    if _PAGE.match(first):
        raise BadPayload(source, "a table of bars", f"a page of the web: {first}")
    if first and not any(len(cells) > 1 for cells, _ in _records(lines, separator)):
        expected = f"a table of bars, its cells separated by {', '.join(_SEPARATORS.values())}"
        raise BadPayload(source, expected, f"a first line of {first}")


def _zone_above(banner: list[str]) -> str:
    """Give what the lines above the header say of the zone of all times."""
    said = (_ZONE.search(line) for line in banner)
    return next(((match["plain"] or match["named"]).strip(" \t\r\n\"'.") for match in said if match), "")


def _records(lines: Iterable[str], separator: str) -> list[_Record]:
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [_Record(cells, reader.line_num) for cells in reader]


def _find_separator(lines: list[str]) -> tuple[str, int]:
    """Find the sign that splits most of the lines into equally many cells, as many as a bar needs; and their number."""
    commonest = {}
    for separator in _SEPARATORS:
        widths = Counter(len(cells) for cells, _ in _records(lines, separator) if len(cells) >= _FEWEST_CELLS)
        commonest[separator] = max(widths.items(), key=itemgetter(1), default=(0, 0))
    most = max(count for _, count in commonest.values())
    separator = next(one for one in _SEPARATORS if 2 * commonest[one][1] >= most) if most else ","
    return separator, commonest[separator][0]


def _find_head(records: list[_Record], width: int) -> _Head:
    """Find the header below any banner: known names, or else the first whole row, unless a cell of it is a number."""
    levels = _two_levels(records)
    if levels:
        return levels
    for cells, line in records:
        if names_bars(cells):
            return _Head(cells, line)
        if sum(map(_is_number, cells)) >= len(FIELDS):  # the row of a bar: what follows it is no header
            break
    above = 0
    for cells, line in records:
        if cells and (len(cells) >= (_FEWEST_CELLS if width else 2) or _is_number(cells[0])):
            break
        above = line
    else:
        return _Head(max((cells for cells, _ in records), key=len, default=[]), above)
    if not any(map(_is_number, cells)):
        return _Head(cells, line)
    is_numbered = list(filter(None, cells)) == list(map(str, range(len(cells) - cells.count(""))))  # pandas' numbers
    names = [f"column {number}" for number in range(1, max(width, 1) + 1)]
    return _Head(names, line if is_numbered else above, has_header=False)


def _two_levels(records: list[_Record]) -> _Head | None:
    """Read the head that pandas writes of columns of two levels, as yfinance has them: fields and tickers.

    A third line names the index, where that has a name.
    """
    if len(records) < 2 or len(records[0].cells) != len(records[1].cells):  # noqa: PLR2004 - two levels
        return None
    (first, _), (second, lines) = records[:2]
    is_named = {*first[:1], *second[:1]} == _YFINANCE
    if not is_named and (any(map(_is_number, first + second)) or _BEGINS_A_TIME.match(second[0])):
        return None
    if names_bars(first) and all(map(_UNITS.fullmatch, filter(None, second))):
        return None
    names, symbol = join_levels(list(zip(first[1:], second[1:], strict=True)))
    if not symbol and not names_bars(["time", *names]):
        return None
    time = "" if is_named else first[0]
    third = records[2].cells if len(records) > 2 else []  # noqa: PLR2004 - the line after two
    if third and third[0] and not _BEGINS_A_TIME.match(third[0]) and not any(third[1:]):
        time, lines = third[0], records[2].line
    return _Head([time, *names], lines, symbol=symbol)


def _is_number(cell: str) -> bool:
    """Tell whether a cell is a number, a time in digits, or a word for none: what no column is called."""
    return bool(_NUMBER.fullmatch(cell.strip()))


def _read_cells(body: str, separator: str, width: int) -> pd.DataFrame:
    """Read every cell as text, and one column more than there should be: pandas would cut a row that is too long."""
    return pd.read_csv(
        io.BytesIO(body.encode()),
        sep=separator,
        header=None,
        names=list(range(width + 1)),
        index_col=False,
        dtype=str,
        skip_blank_lines=False,
        skipinitialspace=True,
        keep_default_na=False,
        na_values=[""],
    )


def _mend_line(source: str, head: _Head, message: str) -> BadPayload:
    """Say which line of the file pandas means, which counts from below the header."""
    wide = re.search(r"in line (\d+), saw (\d+)", message)
    if wide:
        return BadPayload(source, f"{len(head.names)} cells in line {head.lines + int(wide[1])}", f"{wide[2]} cells")
    unended = re.search(r"EOF inside string starting at row (\d+)", message)
    if unended:
        expected = f"a closing quote for the cell in line {head.lines + int(unended[1]) + 1}"
        return BadPayload(source, expected, "the end of the file")
    return BadPayload(source, "a readable csv file", message.strip())


def _count_lines(text: str) -> int:
    ends = text.count("\n") + text.count("\r") - text.count("\r\n")
    return ends + (not text.endswith(("\n", "\r")) if text else 0)


def _refuse_overlong(table: Table, separator: str) -> None:
    overlong = table.cells[len(table.names)].notna().to_numpy()
    if overlong.any():
        row = int(overlong.argmax())
        raise table.fault(
            f"{len(table.names)} cells", row, separator.join(table.cells.iloc[row].fillna("").astype(str))
        )
