"""Read text files: their encoding, their separator, and where the header ends.

Every cell stays text, so that no release of pandas changes how numbers are read; empty cells are missing.
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
from forecaster.sources.files import limits
from forecaster.tables import FIELDS, Table
from forecaster.tables.columns import is_bar_header
from forecaster.tables.frames import join_levels

if TYPE_CHECKING:
    from collections.abc import Iterable

_BYTE_ORDER_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before utf-16, whose mark is a prefix
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_FORMATS: Final = {
    b"\x1f\x8b": "data that gzip packed",
    b"BZh": "data that bzip2 packed",
    b"\xfd7zXZ": "data that xz packed",
    b"PK\3\4": "a zip, or a workbook of Excel",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel",
    b"PAR1": "a Parquet file",
    b"ARROW1": "a feather file",
}
"""How other files begin that may have the suffix of a text."""
_MIN_NUL_FRACTION: Final = 0.7  # fraction of every second byte that is NUL in UTF-16
_FIRST_BYTES: Final = 4000
_FIRST_LINES: Final = 100
_FOREIGN_LINES: Final = 50
_MAX_BANNER_LINES: Final = 20
_LEGACY_ENCODINGS: Final = ("cp1252", "cp1250", "cp1251")
"""Encodings of Windows before Unicode, in most languages of `column_names`."""

# Comma last: numbers contain it as well.
_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
_MIN_CELLS: Final = 1 + len(FIELDS)
_END_OF_FILE: Final = "\x1a"  # of DOS
_WEB_PAGE: Final = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)\b", re.IGNORECASE)
_ZONE: Final = re.compile(  # `times are in EST`, `Timezone: Asia/Tokyo`
    r"\btime(?:s|stamps?)? (?:are (?:in )?|in )(?P<plain>[^\s,;|]+)|\b(?:time ?zone|tz)\b[\s:=,;|]*(?P<named>[^,;|]+)",
    re.IGNORECASE,
)
_STARTS_WITH_DIGIT: Final = re.compile(r"\d")
_UNITS: Final = re.compile(
    r"[$€£¥]|usd[tc]?|eur|gbp|gbx|jpy|chf|cad|aud|inr|pln|units?|lots?|shares?|contracts?|points?|price|float|int|number",
    re.IGNORECASE,
)
_YFINANCE: Final = {"Price", "Ticker"}
_NUMBER: Final = re.compile(
    r"[^\w.]*(?:\d[\d\W]*)?\d(?:[eE][+-]?\d+)?[kKmMbBtTzZ]?\W*|nan|null|none|n/?a|-", re.IGNORECASE
)


class _Header(NamedTuple):
    """The names of the columns, and the number of lines above the rows."""

    names: list[str]
    lines: int
    has_header: bool = True
    symbol: str = ""


class _Record(NamedTuple):
    """The cells of a row, and the number of its last line."""

    cells: list[str]
    line: int


def decode(content: bytes) -> tuple[str, str]:
    """Return the text, and the name of its encoding.

    Raises:
        ValueError: for content that is not text.
    """
    packed = next((kind for mark, kind in _OTHER_FORMATS.items() if content.startswith(mark)), None)
    if packed:
        raise ValueError(packed)
    encoding = _encoding(content)
    return content.decode(encoding), encoding.removesuffix("-sig")


def _encoding(content: bytes) -> str:
    marked = next((encoding for mark, encoding in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), None)
    if marked:
        return marked
    first = content[:_FIRST_BYTES]
    if b"\0" in first:
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if first[start::2].count(0) > _MIN_NUL_FRACTION * len(first[start::2]):
                return encoding
    if b"\0" in content:
        raise ValueError("NUL bytes, which no text holds")
    try:
        content.decode()
    except UnicodeDecodeError:
        return _detect(content)
    return "utf-8"


def _detect(content: bytes) -> str:
    """Return the encoding of a text that is not Unicode: the first in which a line names bars, else the likeliest."""
    lines = (line for line in content.splitlines() if not line.isascii())
    foreign = b"\n".join(islice(lines, _FOREIGN_LINES))
    for encoding in _LEGACY_ENCODINGS:
        if _has_bar_header(foreign.decode(encoding, errors="replace")):
            content.decode(encoding)
            return encoding
    from charset_normalizer import from_bytes  # noqa: PLC0415 - few files need it, and it is slow to import

    matches = from_bytes(foreign)
    likeliest = matches.best()
    if likeliest is None:
        raise ValueError("bytes of no known encoding")
    return next((match.encoding for match in matches if _has_bar_header(str(match))), likeliest.encoding)


def _has_bar_header(text: str) -> bool:
    lines = text.splitlines()
    return any(is_bar_header(record.cells) for separator in _SEPARATORS for record in _records(lines, separator))


def csv_tables(source: str, content: bytes, kind: str) -> list[Table]:
    """Read a delimited text.

    Raises:
        BadPayload: for a row with too many cells, or a quoted cell that does not end on its line.
        ValueError: for content that is not text.
    """
    text, encoding = decode(content)
    text = text.rstrip(_END_OF_FILE)
    longest = _longest_line(text.encode())
    limits.check_text(source, "lines", longest, limits.MAX_LINE_CHARS)
    lines = list(islice(io.StringIO(text[: limits.MAX_LINE_CHARS], newline=""), _FIRST_LINES))
    separator, width = _find_separator(lines)
    _check_is_table(source, lines, separator)
    header = _find_header(list(_records(lines[:_MAX_BANNER_LINES], separator)), width)
    cells = _read_rows(source, text[sum(map(len, lines[: header.lines])) :], separator, header)
    if longest > limits.MAX_CELL_CHARS:
        longest = max(int(column.str.len().max()) for _, column in cells.fillna("").items())
        limits.check_text(source, "cells", longest, limits.MAX_CELL_CHARS)
    file_format = f"{kind}, {encoding}, separated by {_SEPARATORS[separator]}"
    zone = _zone_in_banner(lines[: header.lines - header.has_header])
    table = Table(
        source, header.names, cells.dropna(how="all"), "line", file_format, header.has_header, header.symbol, zone
    )
    _check_row_lengths(table, separator)
    del table.cells[len(header.names)]
    return [table]


def _read_rows(source: str, body: str, separator: str, header: _Header) -> pd.DataFrame:
    """Read the cells below the header; their index holds line numbers. Raises as `csv_tables`."""
    count = _count_lines(body)
    limits.check_shape(source, count, len(header.names))
    top = io.StringIO(body[: limits.MAX_LINE_CHARS], newline="")
    first = next(csv.reader(top, delimiter=separator, skipinitialspace=True), [])
    if len(first) > len(header.names) + 1:  # pandas would take its width
        raise BadPayload(source, f"{len(header.names)} cells in line {header.lines + 1}", f"{len(first)} cells")
    try:
        cells = _read_cells(body, separator, len(header.names))
    except pd.errors.ParserError as error:
        raise _parser_error(source, header, str(error)) from error
    if len(cells) != count:
        raise BadPayload(source, "each row on its own line", "a quoted cell over several lines")
    cells.index += header.lines + 1
    return cells


def _longest_line(content: bytes) -> int:
    octets = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero((octets == ord("\n")) | (octets == ord("\r")))
    return int(np.diff(ends, prepend=-1, append=len(octets)).max()) - 1


def _check_is_table(source: str, lines: list[str], separator: str) -> None:
    """Raise BadPayload for a web page, or a message in place of bars."""
    first = next((line.strip() for line in lines if line.strip()), "")
    if _WEB_PAGE.match(first):
        raise BadPayload(source, "a table of bars", f"a page of the web: {first}")
    if first and not any(len(cells) > 1 for cells, _ in _records(lines, separator)):
        expected = f"a table of bars, its cells separated by {', '.join(_SEPARATORS.values())}"
        raise BadPayload(source, expected, f"a first line of {first}")


def _zone_in_banner(banner: list[str]) -> str:
    """Return the time zone that the lines above the header name."""
    matches = (_ZONE.search(line) for line in banner)
    return next(((match["plain"] or match["named"]).strip(" \t\r\n\"'.") for match in matches if match), "")


def _records(lines: Iterable[str], separator: str) -> list[_Record]:
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    return [_Record(cells, reader.line_num) for cells in reader]


def _find_separator(lines: list[str]) -> tuple[str, int]:
    """Return the separator that splits most lines into equally many cells, enough for a bar; and their number."""
    commonest = {}
    for separator in _SEPARATORS:
        widths = Counter(len(cells) for cells, _ in _records(lines, separator) if len(cells) >= _MIN_CELLS)
        commonest[separator] = max(widths.items(), key=itemgetter(1), default=(0, 0))
    best_count = max(count for _, count in commonest.values())
    separator = (
        next(candidate for candidate in _SEPARATORS if 2 * commonest[candidate][1] >= best_count) if best_count else ","
    )
    return separator, commonest[separator][0]


def _find_header(records: list[_Record], width: int) -> _Header:
    """Find the header below any banner: known names, else the first full row without numbers."""
    levels = _two_level_header(records)
    if levels:
        return levels
    for cells, line in records:
        if is_bar_header(cells):
            return _Header(cells, line)
        if sum(map(_is_number, cells)) >= len(FIELDS):  # the row of a bar; no header follows
            break
    above = 0
    for cells, line in records:
        if cells and (len(cells) >= (_MIN_CELLS if width else 2) or _is_number(cells[0])):
            break
        above = line
    else:
        return _Header(max((cells for cells, _ in records), key=len, default=[]), above)
    if not any(map(_is_number, cells)):
        return _Header(cells, line)
    is_numbered = list(filter(None, cells)) == list(map(str, range(len(cells) - cells.count(""))))  # numbered by pandas
    names = [f"column {number}" for number in range(1, max(width, 1) + 1)]
    return _Header(names, line if is_numbered else above, has_header=False)


def _two_level_header(records: list[_Record]) -> _Header | None:
    """Read the header of two levels that pandas and yfinance write: fields and tickers.

    A third line names the index, if that has a name.
    """
    if len(records) < 2 or len(records[0].cells) != len(records[1].cells):  # noqa: PLR2004 - two levels
        return None
    (first, _), (second, lines) = records[:2]
    is_named = {*first[:1], *second[:1]} == _YFINANCE
    if not is_named and (any(map(_is_number, first + second)) or _STARTS_WITH_DIGIT.match(second[0])):
        return None
    if is_bar_header(first) and all(map(_UNITS.fullmatch, filter(None, second))):
        return None
    names, symbol = join_levels(list(zip(first[1:], second[1:], strict=True)))
    if not symbol and not is_bar_header(["time", *names]):
        return None
    time = "" if is_named else first[0]
    third = records[2].cells if len(records) > 2 else []  # noqa: PLR2004 - the line after two
    if third and third[0] and not _STARTS_WITH_DIGIT.match(third[0]) and not any(third[1:]):
        time, lines = third[0], records[2].line
    return _Header([time, *names], lines, symbol=symbol)


def _is_number(cell: str) -> bool:
    """Return whether a cell is a number, a time in digits, or a marker of a missing value: no column name."""
    return bool(_NUMBER.fullmatch(cell.strip()))


def _read_cells(body: str, separator: str, width: int) -> pd.DataFrame:
    """Read every cell as text, with one extra column: pandas would cut a row that is too long."""
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


def _parser_error(source: str, header: _Header, message: str) -> BadPayload:
    """Return the error of pandas with the line number of the file; pandas counts from below the header."""
    too_wide = re.search(r"in line (\d+), saw (\d+)", message)
    if too_wide:
        return BadPayload(
            source, f"{len(header.names)} cells in line {header.lines + int(too_wide[1])}", f"{too_wide[2]} cells"
        )
    unclosed = re.search(r"EOF inside string starting at row (\d+)", message)
    if unclosed:
        expected = f"a closing quote for the cell in line {header.lines + int(unclosed[1]) + 1}"
        return BadPayload(source, expected, "the end of the file")
    return BadPayload(source, "a readable csv file", message.strip())


def _count_lines(text: str) -> int:
    ends = text.count("\n") + text.count("\r") - text.count("\r\n")
    return ends + (not text.endswith(("\n", "\r")) if text else 0)


def _check_row_lengths(table: Table, separator: str) -> None:
    overlong = table.cells[len(table.names)].notna().to_numpy()
    if overlong.any():
        row = int(overlong.argmax())
        raise table.cell_error(
            f"{len(table.names)} cells", row, separator.join(table.cells.iloc[row].fillna("").astype(str))
        )
