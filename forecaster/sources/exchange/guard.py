"""Checks of an exchange's answer before it is used: the body, its rows, and their entries.

A body is JSON of limited size and depth, or it is refused whole. A single row is rejected with its raw text and a
reason. A reason has no values in it, so that equal faults have equal reasons. A volume may be missing, a price may not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import numpy as np

from forecaster.bars import COLUMNS, NO_TIME, Bars, RejectedRow
from forecaster.calendars import is_continuous
from forecaster.errors import BadPayload, format_duration
from forecaster.sources import Fetched
from forecaster.tables.calendar_fit import off_grid_hint

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey

MAX_BYTES: Final = 4 << 20
"""The largest answer about bars: a hundred times a page."""

MAX_BODY_CHARACTERS: Final = 64 << 10
ANY_KEY: Final = "*"
MAX_DEPTH: Final = 16
_MIN_EVEN_ROWS: Final = 8

ROWS_PATHS: Final[dict[str, tuple[str, ...]]] = {
    "binance": (),
    "bitstamp": ("data", "ohlc"),
    "bybit": ("result", "list"),
    "coinbase": ("candles",),
    "coinbaseexchange": (),
    "kraken": ("result", ANY_KEY),
    "kucoin": ("data",),
    "okx": ("data",),
}
"""Path of the rows in an answer about bars, by ccxt's name of the exchange.

ccxt's parsers take an answer without that path for an empty page, and so do we for exchanges that are not listed here.
"""

_ENTRIES: Final = ("open time", *COLUMNS)
_YEAR_10000_MS: Final = 253_402_300_800_000
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DEPTHS: Final = np.zeros(256, np.int8)
_DEPTHS[list(b"[{")], _DEPTHS[list(b"]}")] = 1, -1


class Row(list[Any]):
    """A row parsed by ccxt, `[open time, open, high, low, close, volume]`, with the raw row.

    `fault` says why the raw row is invalid; empty when it is valid.
    """

    def __init__(self, entries: list[Any], raw: object = None, fault: str = "") -> None:
        super().__init__(entries)
        self.raw = raw
        self.fault = fault


def parse_body(source: str, text: str) -> object:
    """Parse the body of an answer: a JSON list or object of limited depth.

    Raises:
        BadPayload: with the first 64 Ki characters of the body.
    """
    body = text[:MAX_BODY_CHARACTERS]
    if text.lstrip()[:1] not in ("[", "{"):
        raise BadPayload(source, "a JSON list or object", text[:200], body)
    depth = int(_DEPTHS[np.frombuffer(_STRING.sub("", text).encode(), np.uint8)].cumsum(dtype=np.int64).max())
    if depth > MAX_DEPTH:
        raise BadPayload(source, f"lists and objects at most {MAX_DEPTH} deep", f"{depth} deep", body)
    try:
        answer: object = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise BadPayload(source, "JSON", f"{error}: {text[:100]}", body) from error
    return answer


def check_rows_path(source: str, answer: object, path: tuple[str, ...], body: str) -> None:
    """Refuse an answer that has no list at `path`; `ANY_KEY` matches every key.

    Raises:
        BadPayload: with the body.
    """
    values = [answer]
    for key in path:
        objects = [value for value in values if isinstance(value, dict)]
        values = [value for parent in objects for name, value in parent.items() if key in (name, ANY_KEY)]
    if not any(isinstance(value, list) for value in values):
        where = ".".join(path)
        raise BadPayload(source, f"a list of rows{where and f' at {where}'}", body[:200], body)


def parse_rows(source: str, rows: object, parse: Callable[[Any], list[Any]]) -> list[Row]:
    """Parse each raw row of an answer; a row of another length than most has a fault.

    Raises:
        BadPayload: when the answer is not a list of lists, or of objects.
    """
    if rows is None:
        return []
    if not isinstance(rows, list) or not all(isinstance(row, list | dict) for row in rows):
        raise BadPayload(source, "a list of rows", rows)
    if not rows:
        return []
    lengths = Counter(len(row) for row in rows)
    common = max(lengths, key=lambda length: (lengths[length], length))
    return [_parse_row(row, common, parse) for row in rows]


def bars_from_rows(source: str, key: SeriesKey, rows: object, first_seen_at: int) -> Fetched:
    """Make bars of rows `[open time, open, high, low, close, volume]`, and collect the rejected ones.

    Raises:
        BadPayload: when the answer is not a list of such rows; when no entry is a number, as in the letters of an
            HTML page; or when the rows are of another timeframe.
    """
    table = _check_table(source, key, rows)
    faults = [_find_fault(row) for row in table]
    readable = [row for row, fault in zip(table, faults, strict=True) if not fault]
    rejected = [_rejected_row(row, fault) for row, fault in zip(table, faults, strict=True) if fault]
    _check_spacing(source, key, [int(row[0]) for row in table if _is_open_time(row[0])])
    opens, values = [int(row[0]) for row in readable], [_values(row) for row in readable]
    bars, invalid = Bars.validate_rows(key, opens, values, first_seen_at)
    return Fetched(bars, rejected + invalid)


def anchor_hint(key: SeriesKey, opens: NDArray[np.int64]) -> str:
    """Return what rejected rows off the grid of a 24/7 market have in common, and an option that may help."""
    if not is_continuous(key.calendar):
        return ""
    opens = opens[opens != NO_TIME]
    return off_grid_hint(key.timeframe, key.calendar, opens, key.trading_calendar.closes_of(key.timeframe, opens) < 0)


def _refuse_constant(constant: str) -> None:
    msg = f"{constant} is not a number in JSON"
    raise ValueError(msg)


def _parse_row(raw: list[Any] | dict[str, Any], common: int, parse: Callable[[Any], list[Any]]) -> Row:
    entries = raw if isinstance(raw, list) else list(raw.values())
    if len(raw) != common:
        return Row([None] * len(_ENTRIES), raw, "a row must have as many entries as most rows")
    unreadable = [entry for entry in entries if _is_unreadable(entry)]
    fault = "every entry must be a text or a number" if unreadable else ""
    if any(isinstance(entry, list | dict) for entry in unreadable):
        return Row([None] * len(_ENTRIES), raw, fault)
    parsed = parse(raw)
    if not fault and isinstance(raw, list) and parsed[-1] is None and not any(entry in (None, "") for entry in raw):
        fault = "volume must be a number"  # present, but the parser could not read it
    return Row(parsed, raw, fault)


def _is_unreadable(entry: object) -> bool:
    """Whether an entry is a number for Python only: True, "NaN", "1_000"."""
    if not isinstance(entry, str):
        return isinstance(entry, list | dict | bool)
    try:
        float(entry)
    except ValueError:
        return False
    return not _NUMBER.fullmatch(entry)


def _check_table(source: str, key: SeriesKey, rows: object) -> list[list[Any]]:
    if not isinstance(rows, list):
        raise BadPayload(source, f"a list of rows for {key.symbol}", rows)
    for row in rows:
        if not isinstance(row, list) or len(row) != len(_ENTRIES):
            raise BadPayload(source, f"rows of {len(_ENTRIES)} entries for {key.symbol}", row)
    if rows and not any(_is_number(entry) for row in rows for entry in row):
        raise BadPayload(source, f"rows of numbers for {key.symbol}", getattr(rows[0], "raw", rows[0]))
    return rows


def _check_spacing(source: str, key: SeriesKey, times: list[int]) -> None:
    """Refuse rows of another timeframe, also where some of them are on the grid.

    They are of another one when more rows open within the previous bar than at its close, or when many are equally far
    apart, but not by the timeframe: some exchanges name timeframes wrongly.
    """
    opens = np.unique(np.array(times, np.int64))
    spacing = np.diff(opens)
    closes = key.trading_calendar.closes_of(key.timeframe, opens[:-1])
    expected = np.where(closes < 0, key.timeframe.ms, closes - opens[:-1])
    is_closer = spacing < expected
    is_even = len(times) >= _MIN_EVEN_ROWS and len(np.unique(spacing)) == 1 and is_continuous(key.calendar)
    wrong: NDArray[np.int64] = spacing[is_closer]
    if is_closer.sum() <= (spacing == expected).sum():
        if not is_even or spacing[0] % key.timeframe.ms or spacing[0] == key.timeframe.ms:
            return
        wrong = spacing
    most_common = Counter(wrong.tolist()).most_common(1)[0][0]
    raise BadPayload(source, f"rows {key.timeframe} apart for {key.symbol}", f"{format_duration(most_common)} apart")


def _find_fault(row: list[Any]) -> str:
    """Return why these entries are not a bar; empty when they may be."""
    if isinstance(row, Row) and row.fault:
        return row.fault
    for name, entry in zip(_ENTRIES, row, strict=True):
        if not _is_number(entry) and not (name == "volume" and entry in (None, "")):
            return f"{name} must be a number"
    return "" if _is_open_time(row[0]) else "open time must be whole milliseconds, 1970 to 9999"


def _rejected_row(row: list[Any], fault: str) -> RejectedRow:
    body = json.dumps(row.raw)[:MAX_BODY_CHARACTERS] if isinstance(row, Row) else ""
    return RejectedRow(int(row[0]) if _is_open_time(row[0]) else NO_TIME, tuple(_values(row)), fault, body)


def _values(row: list[Any]) -> list[float]:
    return [_float(entry) for entry in row[1:]]


def _is_number(entry: object) -> TypeGuard[float]:
    return isinstance(entry, Real) and not isinstance(entry, bool)


def _is_open_time(entry: object) -> bool:
    # The comparison comes first: NaN and infinity fail it, and `int` would raise for them.
    return _is_number(entry) and 0 <= entry < _YEAR_10000_MS and entry == int(entry)


def _float(entry: object) -> float:
    """Return an entry as a float: NaN for a non-number, infinity for an integer beyond the range of float."""
    if not _is_number(entry):
        return float("nan")
    try:
        return float(entry)
    except OverflowError:
        return float("inf")
