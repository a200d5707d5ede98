"""Rows on the grid of a calendar: which opens they stand for, and whether a table is of this timeframe at all.

What a whole table shows to be misunderstood is an error. Which rows are bars is left to `Bars`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.calendars import calendar, is_continuous
from forecaster.errors import BadPayload, utc_text
from forecaster.tables.fit import check_ends, check_zone, keeps_to_sessions
from forecaster.tables.spacing import check_spacing, other_timeframes
from forecaster.timeframe import DAY_MS, Timeframe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.tables import Rows

_DAY: Final = Timeframe("1d")
_FIRST_YEARS_MS: Final = 50 * 366 * DAY_MS
_BEFORE: Final = "open time is before the time for which {name} is known"
_TWO_HOURS_MS: Final = DAY_MS // 12
_FEW_REPEATED: Final = 3
_SHARE_REPEATED: Final = 0.01
_FEW_REPLACED: Final = 5
_SHARE_REPLACED: Final = 0.05


@dataclass(frozen=True, slots=True)
class Placed:
    """Rows that had closed, (T,) each in the order of the table.

    Args:
        opens: UTC ms; on the grid where a bar opens then.
        ohlcv_TF: (T, 5) values.
        reasons: why a row is of another timeframe; empty for the others.
        later: how many rows had not closed.
        notes: what should be known of the table, for people.
        ahead: at how many later times rows open.
    """

    opens: NDArray[np.int64]
    ohlcv_TF: NDArray[np.float64]
    reasons: NDArray[np.object_]
    later: int
    notes: list[str]
    ahead: int = 0


def place(source: str, timeframe: Timeframe, name: str, rows: Rows, as_of: int | None = None) -> Placed:
    """Place the rows of one symbol on the calendar `name`: those that had closed by `as_of` (UTC ms), or all.

    What comes after `as_of` changes nothing.

    Raises:
        Ambiguous: for times without a zone that are not UTC.
        BadPayload: for rows of another timeframe, for labels that are closes, for many rows of one time.
    """
    sessions = calendar(name)
    opens = sessions.opens_of_labels(timeframe, rows.labels)
    later, ahead, begun = 0, 0, rows.labels.instant
    if as_of is not None:
        ahead = len(np.unique(opens[opens > as_of]))
        begun = begun[begun <= as_of]  # what has begun to form tells how far rows are apart
        closes = sessions.closes_of(timeframe, opens)
        # A row off the grid has no close; it is reported once its length has passed.
        closed = np.where(closes < 0, opens + timeframe.ms, closes) <= as_of
        later = int((~closed).sum())
        rows, opens = rows[closed], opens[closed]
    if is_newest_first(rows.labels.instant):
        rows, opens = rows[::-1], opens[::-1]
    check_zone(source, timeframe, name, rows)
    if not len(opens):
        return Placed(opens, rows.ohlcv_TF, np.empty(0, object), later, [], ahead)
    if not is_continuous(name):
        check_ends(source, timeframe, sessions, opens)
    check_spacing(source, timeframe, sessions, begun)
    _check_repeated(source, timeframe, opens, rows)
    is_before = opens < sessions.opens_between(_DAY, 0, _FIRST_YEARS_MS).min(initial=_FIRST_YEARS_MS)
    reasons, notes = other_timeframes(timeframe, sessions, opens)
    if is_before.any():
        reasons[is_before] = _BEFORE.format(name=name)
        notes.append(f"{int(is_before.sum())} rows are from before the time for which {name} is known, and refused")
    if is_continuous(name) and keeps_to_sessions(timeframe, opens):
        notes.append(f"rows keep to a part of the day: is {name} their calendar?")
    return Placed(opens, rows.ohlcv_TF, reasons, later, notes, ahead)


def is_newest_first(instant: NDArray[np.int64]) -> bool:
    """Whether a table runs backwards: it grows at its top, and of two rows for one time the upper one stands."""
    steps = np.diff(instant)
    return bool((steps < 0).sum() > (steps > 0).sum())


def _check_repeated(source: str, timeframe: Timeframe, opens: NDArray[np.int64], rows: Rows) -> None:
    """Refuse times that come more than once with other prices, unless they are few: then the later row stands.

    Raises:
        BadPayload: names the first such time and its lines.
    """
    times, place = np.unique(opens, return_inverse=True)
    if len(times) == len(opens):
        return
    first = np.full(len(times), len(opens))
    np.minimum.at(first, place, np.arange(len(opens)))
    prices_TF = rows.ohlcv_TF[:, :4]
    same = (prices_TF == prices_TF[first[place]]) | np.isnan(prices_TF)
    differ = np.zeros(len(times), bool)
    np.logical_or.at(differ, place, ~same.all(axis=1))
    is_many = differ.sum() > max(_FEW_REPEATED, _SHARE_REPEATED * len(times))
    # A few revisions are anywhere; a good part of one hour's rows are those of a clock that was put back.
    is_hour = 4 * differ.sum() * timeframe.ms >= DAY_MS // 24
    within = np.ptp(times[differ]) if differ.any() else 0
    is_put_back = rows.zone == "assumed" and is_hour and differ.sum() > _FEW_REPEATED and within < _TWO_HOURS_MS
    if is_put_back or is_many or (~same.all(axis=1)).sum() > max(_FEW_REPLACED, _SHARE_REPLACED * len(opens)):
        at = int(np.flatnonzero(differ)[0])
        lines = ", ".join(map(str, sorted(rows.lines[place == at].tolist())[:3]))
        expected = (
            "one row for each time; where rows are of several symbols, `symbol_column` (--symbol-column) tells them "
            "apart, and where clocks are put back, `timezone` (--timezone)"
        )
        found = f"{int(differ.sum())} times with rows that differ, the first {utc_text(int(times[at]))} in {lines}"
        raise BadPayload(source, expected, found)
