"""Rows of an exchange's answer, made into bars or refused with a reason.

Here an answer is looked at entry by entry, before anything trusts its shape or its types. What a bar
is, `Bars.sift` knows; what an exception of the exchange's client means, `exchange` knows.
"""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from forecaster.bars import COLUMNS, Bars, RejectedRow
from forecaster.errors import BadPayload
from forecaster.sources import Fetched

if TYPE_CHECKING:
    from forecaster.bars import SeriesKey

NO_TIME: Final = -1
"""The open time of a rejected row that has no usable one."""

_ENTRIES: Final = ("open time", *COLUMNS)
_YEAR_10000: Final = 253_402_300_800_000


def read_rows(source: str, key: SeriesKey, rows: object, first_seen_at: int) -> Fetched:
    """Make bars of `[open time, open, high, low, close, volume]` rows, and keep the refused ones apart.

    Raises:
        BadPayload: when the answer is not a list of such rows, or when no entry of any row is a number:
            then it was not bars at all, such as the letters of an HTML page.
    """
    table = _table(source, key, rows)
    faults = [_fault(row) for row in table]
    good = [row for row, fault in zip(table, faults, strict=True) if not fault]
    refused = [_refused(row, fault) for row, fault in zip(table, faults, strict=True) if fault]
    times = [int(row[0]) for row in good]
    bars, broken = Bars.sift(key, times, [_values(row) for row in good], first_seen_at)
    return Fetched(bars, refused + broken)


def _table(source: str, key: SeriesKey, rows: object) -> list[list[Any]]:
    if not isinstance(rows, list):
        raise BadPayload(source, f"a list of rows for {key.symbol}", rows)
    for row in rows:
        if not isinstance(row, list) or len(row) != len(_ENTRIES):
            raise BadPayload(source, f"rows of {len(_ENTRIES)} entries for {key.symbol}", row)
    if rows and not any(_is_number(entry) for row in rows for entry in row):
        raise BadPayload(source, f"rows of numbers for {key.symbol}", rows[0])
    return rows


def _fault(row: list[Any]) -> str:
    """Why these entries cannot be a bar; empty when they can."""
    for name, entry in zip(_ENTRIES, row, strict=True):
        if not _is_number(entry):
            return f"{name} must be a number, found {entry!r:.40}"
    return "" if _is_time(row[0]) else f"open time must be whole milliseconds, 1970 to 9999, found {row[0]!r:.40}"


def _refused(row: list[Any], fault: str) -> RejectedRow:
    return RejectedRow(int(row[0]) if _is_time(row[0]) else NO_TIME, tuple(_values(row)), fault)


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
