"""How far rows are apart: that of their timeframe, or another's, in a whole table or in a part of it.

Nothing here looks at prices. A row of another timeframe that opens where a bar should open is no bar all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import BadPayload, ConfigError, duration_text, utc_text
from forecaster.timeframe import DAY_MS, MINUTE_MS, Timeframe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from forecaster.calendars import Calendar

_FEW: Final = 8
_MOSTLY: Final = 0.5
_COARSE: Final = "rows are farther apart here than {timeframe}: they are bars of another timeframe"
_FINE: Final = "rows are closer together here than {timeframe}: they are bars of another timeframe"
_FEWEST_CLOSE: Final = 3
_FEWEST_FAR: Final = 12
_FEWEST_FAR_AT_AN_END: Final = 6
_FEWEST_FAR_OF_COMPLETE: Final = 3
_FAR: Final = 4
_COMPLETE: Final = 0.95
_ALIKE: Final = 0.7
_NEARLY: Final = 0.1
_LONGER: Final = (
    (3 * DAY_MS, 3 * DAY_MS, "3d"),
    (7 * DAY_MS, 7 * DAY_MS, "1w"),
    (14 * DAY_MS, 14 * DAY_MS, "2w"),
    (28 * DAY_MS, 31 * DAY_MS, "1M"),
    (89 * DAY_MS, 92 * DAY_MS, "3M"),
    (181 * DAY_MS, 184 * DAY_MS, "6M"),
    (365 * DAY_MS, 366 * DAY_MS, "1y"),
)


def guess_timeframe(source: str, times: NDArray[np.int64]) -> Timeframe:
    """Name the commonest distance between neighbours of distinct times in their order (UTC ms).

    Raises:
        BadPayload: for distances of no timeframe; those of weeks and months are named.
    """
    times = np.unique(times)
    distances, counts = np.unique(np.diff(times), return_counts=True)
    if not len(distances):
        raise BadPayload(source, "rows of two times or more, to tell the timeframe", len(times))
    commonest = int(distances[np.argmax(counts)])
    name = next((name for low, high, name in _LONGER if low <= commonest <= high), None)
    if name is not None:
        found = f"rows {duration_text(commonest)} apart: {name} is not supported"
        raise BadPayload(source, "rows that are a minute to a day apart", found)
    if commonest % MINUTE_MS:
        raise BadPayload(source, "times apart by whole minutes", f"{commonest / 1000:g} s")
    try:
        return Timeframe.of_minutes(commonest // MINUTE_MS)
    except ConfigError as error:
        raise BadPayload(source, f"times apart by {error.expected}", duration_text(commonest)) from error


def check_spacing(source: str, timeframe: Timeframe, calendar: Calendar, opens: NDArray[np.int64]) -> None:
    """Refuse rows whose commonest distance is not one that bars of this timeframe have.

    Raises:
        BadPayload: says how far they are apart.
    """
    times = np.unique(opens)
    distances, counts = np.unique(np.diff(times), return_counts=True)
    if not len(distances):
        return
    grid = calendar.opens_between(timeframe, int(times[0]), int(times[-1]) + 1)
    usual, often = np.unique(np.diff(grid), return_counts=True)
    expected = np.isin(distances, [timeframe.ms, *usual[often >= often.max(initial=1) / 2]])
    most, total = counts.max(), counts.sum()
    is_one = most >= 2 and (2 * most >= total or total >= _FEW)  # noqa: PLR2004 - a distance that comes again
    is_other = is_one and not expected[np.argmax(counts)] and most > 3 * counts[expected].sum()
    shortest = min(timeframe.ms, int(usual.min(initial=timeframe.ms)))  # a session may end with a shorter bar
    is_finer = counts[distances < shortest].sum() >= max(2, _MOSTLY * total)
    if is_other or is_finer:
        apart = duration_text(int(distances[np.argmax(counts)]))
        raise BadPayload(source, f"rows {timeframe} apart", f"rows {apart} apart")


def other_timeframes(
    timeframe: Timeframe, calendar: Calendar, opens: NDArray[np.int64]
) -> tuple[NDArray[np.object_], list[str]]:
    """Find parts of a table whose rows are of another timeframe, such as the older half of a broker's history.

    Returns:
        (T,) why a row is none of this timeframe, empty for the others; and a note for people on each part.
    """
    times, place = np.unique(opens, return_inverse=True)
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
    return reasons[place], notes


def _close_runs(
    timeframe: Timeframe, times: NDArray[np.int64], is_on: NDArray[np.bool_]
) -> Iterator[NDArray[np.int64]]:
    """Rows that follow each other, more than a few, closer than bars do; the last bar of a session may be short."""
    is_close = (np.diff(times) < timeframe.ms) & ~(is_on[:-1] & is_on[1:])
    for first, last in _runs(is_close):
        if last - first >= _FEWEST_CLOSE:
            yield np.arange(first, last + 1)


def _far_runs(steps: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First row, and the one behind the last, of each part in which rows are always the same number of slots apart.

    Bars that nobody traded are missing here and there, and at random: the fewer are missing elsewhere, the shorter
    may a part be that tells. What comes later may show that the newest rows were such, so it takes as many of them
    as in the middle, unless they are far apart.
    """
    ones = int((steps == 1).sum())
    for first, last in _runs(steps > 1):
        length, others = last - first, len(steps) - (last - first)
        if length < _FEWEST_FAR_OF_COMPLETE:
            continue
        middle = np.median(steps[first:last])
        is_complete = others >= 2 * length and ones >= _COMPLETE * others
        is_sure = first == 0 or (last == len(steps) and middle >= _FAR)
        if is_complete:
            fewest = _FEWEST_FAR_OF_COMPLETE if is_sure else _FEWEST_FAR_AT_AN_END
        else:
            fewest = (_FEWEST_FAR_AT_AN_END if first == 0 else _FEWEST_FAR) * (1 if middle >= _FAR else 2)
        alike = np.abs(steps[first:last] - middle) <= _NEARLY * middle
        if length >= fewest and alike.mean() >= _ALIKE:
            # A part that ends the table ends with a row of its own; otherwise what follows at once is of the timeframe.
            yield first, last + (last == len(steps))


def _runs(holds: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Where each run of true begins, and the place behind its end."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(np.int8)))
    return [(first, last) for first, last in edges.reshape(-1, 2).tolist()]


def _note(timeframe: Timeframe, times: NDArray[np.int64], following: int | None = None) -> str:
    apart = duration_text(int(np.median(np.diff(times)))) if len(times) > 1 else "on their own"
    then = "" if following is None else f"; {timeframe} apart from {utc_text(int(following))} on"
    span = f"{utc_text(int(times[0]))} to {utc_text(int(times[-1]))}"
    return f"{len(times)} rows are {apart} apart, {span}, and refused{then}"
