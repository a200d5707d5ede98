"""The distance between rows: that of their timeframe or of another one, in a whole table or in a part of it.

Prices are not used. A row of another timeframe is not a bar, even where a bar should open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import BadPayload, ConfigError, format_duration, format_time
from forecaster.timeframe import DAY_MS, MINUTE_MS, Timeframe
from forecaster.zones import true_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from forecaster.calendars import Calendar

_FEW_DISTANCES: Final = 8
_MAJORITY: Final = 0.5
_COARSE: Final = "rows are farther apart here than {timeframe}: they are bars of another timeframe"
_FINE: Final = "rows are closer together here than {timeframe}: they are bars of another timeframe"
_MIN_CLOSE: Final = 3
_MIN_FAR: Final = 12
_MIN_FAR_AT_END: Final = 6
_MIN_FAR_IN_COMPLETE: Final = 3
_FAR: Final = 4
_COMPLETE: Final = 0.95
_MIN_ALIKE: Final = 0.7
_NEARLY: Final = 0.1
_UNSUPPORTED: Final = (
    (3 * DAY_MS, 3 * DAY_MS, "3d"),
    (7 * DAY_MS, 7 * DAY_MS, "1w"),
    (14 * DAY_MS, 14 * DAY_MS, "2w"),
    (28 * DAY_MS, 31 * DAY_MS, "1M"),
    (89 * DAY_MS, 92 * DAY_MS, "3M"),
    (181 * DAY_MS, 184 * DAY_MS, "6M"),
    (365 * DAY_MS, 366 * DAY_MS, "1y"),
)


def infer_timeframe(source: str, times: NDArray[np.int64]) -> Timeframe:
    """Return the most common distance between distinct times (UTC ms).

    Raises:
        BadPayload: for a distance that is no timeframe; names weeks and months.
    """
    times = np.unique(times)
    distances, counts = np.unique(np.diff(times), return_counts=True)
    if not len(distances):
        raise BadPayload(source, "rows of two times or more, to tell the timeframe", len(times))
    most_common = int(distances[np.argmax(counts)])
    name = next((name for low, high, name in _UNSUPPORTED if low <= most_common <= high), None)
    if name is not None:
        found = f"rows {format_duration(most_common)} apart: {name} is not supported"
        raise BadPayload(source, "rows that are a minute to a day apart", found)
    if most_common % MINUTE_MS:
        raise BadPayload(source, "times apart by whole minutes", f"{most_common / 1000:g} s")
    try:
        return Timeframe.from_minutes(most_common // MINUTE_MS)
    except ConfigError as error:
        raise BadPayload(source, f"times apart by {error.expected}", format_duration(most_common)) from error


def check_spacing(source: str, timeframe: Timeframe, calendar: Calendar, opens: NDArray[np.int64]) -> None:
    """Check that the most common distance of rows is one of this timeframe.

    Raises:
        BadPayload: for another distance.
    """
    times = np.unique(opens)
    distances, counts = np.unique(np.diff(times), return_counts=True)
    if not len(distances):
        return
    grid = calendar.opens_between(timeframe, int(times[0]), int(times[-1]) + 1)
    usual, often = np.unique(np.diff(grid), return_counts=True)
    expected = np.isin(distances, [timeframe.ms, *usual[often >= often.max(initial=1) / 2]])
    most, total = counts.max(), counts.sum()
    is_common = most >= 2 and (2 * most >= total or total >= _FEW_DISTANCES)  # noqa: PLR2004 - a distance that comes again
    is_other = is_common and not expected[np.argmax(counts)] and most > 3 * counts[expected].sum()
    shortest = min(timeframe.ms, int(usual.min(initial=timeframe.ms)))  # a session may end with a shorter bar
    is_finer = counts[distances < shortest].sum() >= max(2, _MAJORITY * total)
    if is_other or is_finer:
        apart = format_duration(int(distances[np.argmax(counts)]))
        raise BadPayload(source, f"rows {timeframe} apart", f"rows {apart} apart")


def find_other_timeframes(
    timeframe: Timeframe, calendar: Calendar, opens: NDArray[np.int64]
) -> tuple[NDArray[np.object_], list[str]]:
    """Find parts of a table with another timeframe, such as the older half of a broker's history.

    Returns:
        (T,) why a row is of another timeframe, empty for the others; and a note on each part for messages.
    """
    times, inverse = np.unique(opens, return_inverse=True)
    reasons = np.full(len(times), "", object)
    notes: list[str] = []
    if len(times) > 1:
        grid = calendar.opens_between(timeframe, int(times[0]), int(times[-1]) + 1)
        at = np.searchsorted(grid, times)
        is_on = grid[np.minimum(at, len(grid) - 1)] == times if len(grid) else np.zeros(len(times), bool)
        for rows in _close_runs(timeframe, times, is_on):
            reasons[rows] = _FINE.format(timeframe=timeframe)
            notes.append(_note(timeframe, times[rows]))
        on_grid = np.flatnonzero(is_on & (reasons == ""))
        for first, last in _far_runs(np.diff(at[on_grid])):
            rows = on_grid[first:last]
            reasons[rows] = _COARSE.format(timeframe=timeframe)
            following = times[on_grid[last]] if last < len(on_grid) else None
            notes.append(_note(timeframe, times[rows], following))
    return reasons[inverse], notes


def _close_runs(
    timeframe: Timeframe, times: NDArray[np.int64], is_on: NDArray[np.bool_]
) -> Iterator[NDArray[np.int64]]:
    """Yield runs of several rows closer together than bars; the last bar of a session may be shorter."""
    is_close = (np.diff(times) < timeframe.ms) & ~(is_on[:-1] & is_on[1:])
    for first, last in true_runs(is_close):
        if last - first >= _MIN_CLOSE:
            yield np.arange(first, last + 1)


def _far_runs(steps: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield first row and end of each part in which rows are the same number of slots apart.

    Bars without trades are missing at random. The fewer are missing elsewhere, the shorter a part may be. A part of the
    newest rows must be as long as one in the middle, unless the rows are far apart: later rows may explain it.
    """
    adjacent = int((steps == 1).sum())
    for first, last in true_runs(steps > 1):
        length, others = last - first, len(steps) - (last - first)
        if length < _MIN_FAR_IN_COMPLETE:
            continue
        middle = np.median(steps[first:last])
        is_complete = others >= 2 * length and adjacent >= _COMPLETE * others
        is_certain = first == 0 or (last == len(steps) and middle >= _FAR)
        if is_complete:
            minimum = _MIN_FAR_IN_COMPLETE if is_certain else _MIN_FAR_AT_END
        else:
            minimum = (_MIN_FAR_AT_END if first == 0 else _MIN_FAR) * (1 if middle >= _FAR else 2)
        alike = np.abs(steps[first:last] - middle) <= _NEARLY * middle
        if length >= minimum and alike.mean() >= _MIN_ALIKE:
            # The last part includes its last row; any other part ends before a row of the timeframe.
            yield first, last + (last == len(steps))


def _note(timeframe: Timeframe, times: NDArray[np.int64], following: int | None = None) -> str:
    apart = format_duration(int(np.median(np.diff(times)))) if len(times) > 1 else "on their own"
    then = "" if following is None else f"; {timeframe} apart from {format_time(int(following))} on"
    span = f"{format_time(int(times[0]))} to {format_time(int(times[-1]))}"
    return f"{len(times)} rows are {apart} apart, {span}, and refused{then}"
