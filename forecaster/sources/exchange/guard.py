"""What an exchange answered, looked at before anything trusts it: the body, its rows, their entries.

A body is JSON of bounded size and depth, or it is refused whole. A row is refused alone, with what it was made of and
its reason, which has no values in it: all rows of one fault have the same. A volume may be missing, a price may not.
What a bar is, `Bars.validate_rows` knows; what an exception of the exchange's client means, `exchange` knows.
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

MOST_BYTES: Final = 4 << 20
"""The largest answer about bars, a hundred times what a page of them takes."""

KEPT_CHARACTERS: Final = 64 << 10
ANY: Final = "*"
DEEPEST: Final = 16
_FEWEST_EVEN_ROWS: Final = 8

ROWS_AT: Final[dict[str, tuple[str, ...]]] = {
    "binance": (),
    "bitstamp": ("data", "ohlc"),
    "bybit": ("result", "list"),
    "coinbase": ("candles",),
    "coinbaseexchange": (),
    "kraken": ("result", ANY),
    "kucoin": ("data",),
    "okx": ("data",),
}
"""Where an answer about bars holds its rows, by ccxt's name of the exchange.

ccxt's parsers take an answer without that place for an empty page; of an exchange that is not named here, so do we.
"""

_ENTRIES: Final = ("open time", *COLUMNS)
_YEAR_10000: Final = 253_402_300_800_000
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_DEPTHS: Final = np.zeros(256, np.int8)
_DEPTHS[list(b"[{")], _DEPTHS[list(b"]}")] = 1, -1


class Row(list[Any]):
    """A row as ccxt's parser made it, `[open time, open, high, low, close, volume]`, with what it was made of.

    `fault` says why the raw row cannot have been one; empty when it can.
    """

    def __init__(self, entries: list[Any], raw: object = None, fault: str = "") -> None:
        super().__init__(entries)
        self.raw = raw
        self.fault = fault


def read_body(source: str, text: str) -> object:
    """Parse the body of an answer: a JSON list or object, nested no deeper than answers of exchanges are.

    Raises:
        BadPayload: with the body, its first 64 Ki characters.
    """
    body = text[:KEPT_CHARACTERS]
    if text.lstrip()[:1] not in ("[", "{"):
        raise BadPayload(source, "a JSON list or object", text[:200], body)
    deepest = int(_DEPTHS[np.frombuffer(_STRING.sub("", text).encode(), np.uint8)].cumsum(dtype=np.int64).max())
    if deepest > DEEPEST:
        raise BadPayload(source, f"lists and objects at most {DEEPEST} deep", f"{deepest} deep", body)
    try:
        answer: object = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise BadPayload(source, "JSON", f"{error}: {text[:100]}", body) from error
    return answer


def check_place(source: str, answer: object, path: tuple[str, ...], body: str) -> None:
    """Refuse an answer that has no list at `path`; ANY stands for whichever key holds one.

    Raises:
        BadPayload: with the body.
    """
    places = [answer]
    for key in path:
        inner = [place for place in places if isinstance(place, dict)]
        places = [found for place in inner for name, found in place.items() if key in (name, ANY)]
    if not any(isinstance(place, list) for place in places):
        where = ".".join(path)
        raise BadPayload(source, f"a list of rows{where and f' at {where}'}", body[:200], body)


def pair_rows(source: str, rows: object, parse: Callable[[Any], list[Any]]) -> list[Row]:
    """Parse each raw row of an answer, and keep the two together; a row unlike most others has a fault.

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
    usual = max(lengths, key=lambda length: (lengths[length], length))
    return [_paired(row, usual, parse) for row in rows]


def read_rows(source: str, key: SeriesKey, rows: object, first_seen_at: int) -> Fetched:
    """Make bars of `[open time, open, high, low, close, volume]` rows, and keep the refused ones apart.

    Raises:
        BadPayload: when the answer is not a list of such rows; when no entry of any row is a number: then it was
            not bars at all, such as the letters of an HTML page; or when the rows are of another timeframe.
    """
    table = _table(source, key, rows)
    faults = [_fault(row) for row in table]
    good = [row for row, fault in zip(table, faults, strict=True) if not fault]
    refused = [_refused(row, fault) for row, fault in zip(table, faults, strict=True) if fault]
    _check_spacing(source, key, [int(row[0]) for row in table if _is_time(row[0])])
    bars, broken = Bars.validate_rows(key, [int(row[0]) for row in good], [_values(row) for row in good], first_seen_at)
    return Fetched(bars, refused + broken)


def anchor_hint(key: SeriesKey, opens: NDArray[np.int64]) -> str:
    """Say what refused rows of a 24/7 market that are off its grid have in common, and what would put them on it."""
    if not is_continuous(key.calendar):
        return ""
    opens = opens[opens != NO_TIME]
    return off_grid_hint(key.timeframe, key.calendar, opens, key.trading_calendar.closes_of(key.timeframe, opens) < 0)


def _refuse(constant: str) -> None:
    msg = f"{constant} is no number of JSON"
    raise ValueError(msg)


def _paired(raw: list[Any] | dict[str, Any], usual: int, parse: Callable[[Any], list[Any]]) -> Row:
    entries = raw if isinstance(raw, list) else list(raw.values())
    if len(raw) != usual:
        return Row([None] * len(_ENTRIES), raw, "a row must have as many entries as most rows")
    odd = [entry for entry in entries if _is_odd(entry)]
    fault = "every entry must be a text or a number" if odd else ""
    if any(isinstance(entry, list | dict) for entry in odd):
        return Row([None] * len(_ENTRIES), raw, fault)
    parsed = parse(raw)
    if not fault and isinstance(raw, list) and parsed[-1] is None and not any(entry in (None, "") for entry in raw):
        fault = "volume must be a number"  # it is there, and the parser could not read it
    return Row(parsed, raw, fault)


def _is_odd(entry: object) -> bool:
    """Whether Python would read a number where JSON, and whoever wrote it, knows none: True, "NaN", "1_000"."""
    if not isinstance(entry, str):
        return isinstance(entry, list | dict | bool)
    try:
        float(entry)
    except ValueError:
        return False
    return not _NUMBER.fullmatch(entry)


def _table(source: str, key: SeriesKey, rows: object) -> list[list[Any]]:
    if not isinstance(rows, list):
        raise BadPayload(source, f"a list of rows for {key.symbol}", rows)
    for row in rows:
        if not isinstance(row, list) or len(row) != len(_ENTRIES):
            raise BadPayload(source, f"rows of {len(_ENTRIES)} entries for {key.symbol}", row)
    if rows and not any(_is_number(entry) for row in rows for entry in row):
        raise BadPayload(source, f"rows of numbers for {key.symbol}", getattr(rows[0], "raw", rows[0]))
    return rows


def _check_spacing(source: str, key: SeriesKey, times: list[int]) -> None:
    """Refuse rows of another timeframe whole, also where some of them open when a bar does.

    They are when more rows open within the bar before them than at its close, or when many are all equally far apart,
    but not by the timeframe: some venues' names for it are wrong.
    """
    opens = np.unique(np.array(times, np.int64))
    apart = np.diff(opens)
    closes = key.trading_calendar.closes_of(key.timeframe, opens[:-1])
    expected = np.where(closes < 0, key.timeframe.ms, closes - opens[:-1])
    is_closer = apart < expected
    is_even = len(times) >= _FEWEST_EVEN_ROWS and len(np.unique(apart)) == 1 and is_continuous(key.calendar)
    found: NDArray[np.int64] = apart[is_closer]
    if is_closer.sum() <= (apart == expected).sum():
        if not is_even or apart[0] % key.timeframe.ms or apart[0] == key.timeframe.ms:
            return
        found = apart
    commonest = Counter(found.tolist()).most_common(1)[0][0]
    raise BadPayload(source, f"rows {key.timeframe} apart for {key.symbol}", f"{format_duration(commonest)} apart")


def _fault(row: list[Any]) -> str:
    """Why these entries cannot be a bar; empty when they can."""
    if isinstance(row, Row) and row.fault:
        return row.fault
    for name, entry in zip(_ENTRIES, row, strict=True):
        if not _is_number(entry) and not (name == "volume" and entry in (None, "")):
            return f"{name} must be a number"
    return "" if _is_time(row[0]) else "open time must be whole milliseconds, 1970 to 9999"


def _refused(row: list[Any], fault: str) -> RejectedRow:
    body = json.dumps(row.raw)[:KEPT_CHARACTERS] if isinstance(row, Row) else ""
    return RejectedRow(int(row[0]) if _is_time(row[0]) else NO_TIME, tuple(_values(row)), fault, body)


def _values(row: list[Any]) -> list[float]:
    return [_float(entry) for entry in row[1:]]


def _is_number(entry: object) -> TypeGuard[float]:
    return isinstance(entry, Real) and not isinstance(entry, bool)


def _is_time(entry: object) -> bool:
    # The comparison comes first: NaN and infinity fail it, and have no whole part to ask for.
    return _is_number(entry) and 0 <= entry < _YEAR_10000 and entry == int(entry)


def _float(entry: object) -> float:
    """The entry as a float: NaN for what is not a number, infinity for an integer beyond float's range."""
    if not _is_number(entry):
        return float("nan")
    try:
        return float(entry)
    except OverflowError:
        return float("inf")
