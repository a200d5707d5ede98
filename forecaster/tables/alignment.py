"""Align rows with the grid of a calendar: their open times, and whether the table is of this timeframe at all.

A table that is clearly misread raises an error. `Bars` decides which rows are bars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.calendars import get_calendar, is_continuous
from forecaster.errors import BadPayload, format_time
from forecaster.tables.calendar_fit import check_labels_are_opens, check_zone, has_session_hours
from forecaster.tables.spacing import check_spacing, find_other_timeframes
from forecaster.timeframe import DAY_MS, Timeframe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.tables import Rows

_DAY: Final = Timeframe("1d")
_FIRST_YEARS_MS: Final = 50 * 366 * DAY_MS
_BEFORE_CALENDAR: Final = "open time is before the time for which {name} is known"
_TWO_HOURS_MS: Final = DAY_MS // 12
_MAX_REPEATED: Final = 3
_MAX_REPEATED_FRACTION: Final = 0.01
_MAX_REPLACED: Final = 5
_MAX_REPLACED_FRACTION: Final = 0.05


@dataclass(frozen=True, slots=True)
class AlignedRows:
    """Rows that had closed, (T,) each, in table order.

    Args:
        opens: open times, UTC ms; on the grid where a bar opens then.
        ohlcv_TF: (T, 5) values.
        reasons: why a row is of another timeframe; empty for the others.
        unclosed: number of rows that had not closed.
        notes: remarks on the table, for messages.
        future_opens: number of distinct open times after `as_of`.
    """

    opens: NDArray[np.int64]
    ohlcv_TF: NDArray[np.float64]
    reasons: NDArray[np.object_]
    unclosed: int
    notes: list[str]
    future_opens: int = 0


def align_rows(source: str, timeframe: Timeframe, name: str, rows: Rows, as_of: int | None = None) -> AlignedRows:
    """Align the rows of one symbol with the calendar `name`: those closed by `as_of` (UTC ms), or all.

    Rows after `as_of` change nothing.

    Raises:
        Ambiguous: for times without a zone that are not UTC.
        BadPayload: for another timeframe, times of closes, or many different rows of one time.
    """
    sessions = get_calendar(name)
    opens = sessions.opens_of_labels(timeframe, rows.labels)
    unclosed, future_opens, started = 0, 0, rows.labels.instant
    if as_of is not None:
        future_opens = len(np.unique(opens[opens > as_of]))
        started = started[started <= as_of]  # bars that still form count for the spacing
        closes = sessions.closes_of(timeframe, opens)
        # A row off the grid has no close; it is reported once its length has passed.
        closed = np.where(closes < 0, opens + timeframe.ms, closes) <= as_of
        unclosed = int((~closed).sum())
        rows, opens = rows[closed], opens[closed]
    if is_newest_first(rows.labels.instant):
        rows, opens = rows[::-1], opens[::-1]
    check_zone(source, timeframe, name, rows)
    if not len(opens):
        return AlignedRows(opens, rows.ohlcv_TF, np.empty(0, object), unclosed, [], future_opens)
    if not is_continuous(name):
        check_labels_are_opens(source, timeframe, sessions, opens)
    check_spacing(source, timeframe, sessions, started)
    _check_repeated(source, timeframe, opens, rows)
    is_before = opens < sessions.opens_between(_DAY, 0, _FIRST_YEARS_MS).min(initial=_FIRST_YEARS_MS)
    reasons, notes = find_other_timeframes(timeframe, sessions, opens)
    if is_before.any():
        reasons[is_before] = _BEFORE_CALENDAR.format(name=name)
        notes.append(f"{int(is_before.sum())} rows are from before the time for which {name} is known, and refused")
    if is_continuous(name) and has_session_hours(timeframe, opens):
        notes.append(f"rows keep to a part of the day: is {name} their calendar?")
    return AlignedRows(opens, rows.ohlcv_TF, reasons, unclosed, notes, future_opens)


def is_newest_first(instant: NDArray[np.int64]) -> bool:
    """Return whether most rows are older than the row above; of two rows for one time, the upper one is then valid."""
    steps = np.diff(instant)
    return bool((steps < 0).sum() > (steps > 0).sum())


def _check_repeated(source: str, timeframe: Timeframe, opens: NDArray[np.int64], rows: Rows) -> None:
    """Raise BadPayload for more than a few times with different rows; of a few, the later row counts."""
    times, index = np.unique(opens, return_inverse=True)
    if len(times) == len(opens):
        return
    first = np.full(len(times), len(opens))
    np.minimum.at(first, index, np.arange(len(opens)))
    prices_TF = rows.ohlcv_TF[:, :4]
    same = (prices_TF == prices_TF[first[index]]) | np.isnan(prices_TF)
    differ = np.zeros(len(times), bool)
    np.logical_or.at(differ, index, ~same.all(axis=1))
    is_many = differ.sum() > max(_MAX_REPEATED, _MAX_REPEATED_FRACTION * len(times))
    # A few revisions are normal. Many within one hour mean that clocks went back.
    is_hour = 4 * differ.sum() * timeframe.ms >= DAY_MS // 24
    span = np.ptp(times[differ]) if differ.any() else 0
    is_put_back = rows.zone_source == "assumed" and is_hour and differ.sum() > _MAX_REPEATED and span < _TWO_HOURS_MS
    if is_put_back or is_many or (~same.all(axis=1)).sum() > max(_MAX_REPLACED, _MAX_REPLACED_FRACTION * len(opens)):
        at = int(np.flatnonzero(differ)[0])
        lines = ", ".join(map(str, sorted(rows.lines[index == at].tolist())[:3]))
        expected = (
            "one row for each time; where rows are of several symbols, `symbol_column` (--symbol-column) separates "
            "them; where clocks go back, `timezone` (--timezone) does"
        )
        found = f"{int(differ.sum())} times with rows that differ, the first {format_time(int(times[at]))} in {lines}"
        raise BadPayload(source, expected, found)
