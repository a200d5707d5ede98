"""Evidence that times without a zone are not UTC: daylight saving changes, the market's hours, the start of days.

Shapes: T rows of a table.
"""

from __future__ import annotations

import zoneinfo
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.tables.market_hours import find_hours_conflict
from forecaster.timeframe import DAY_MS, MINUTE_MS
from forecaster.zones import get_clock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.tables import Table

_HOUR_MS: Final = 60 * MINUTE_MS
_COMMON_ZONES: Final = (  # one for each common daylight saving rule; named first
    "America/New_York",
    "Europe/London",
    "Europe/Berlin",
    "Europe/Athens",
    "America/New_York+07:00",
    "Australia/Sydney",
    "Pacific/Auckland",
)
_DAY_ZONES: Final = ("Asia/Seoul", "Asia/Shanghai", "Asia/Kolkata", *_COMMON_ZONES)
_TRANSITIONS_MS: Final = (_HOUR_MS // 2, _HOUR_MS, 2 * _HOUR_MS)
_MAX_HOLES_A_YEAR: Final = 4
_YEAR_MS: Final = 365 * DAY_MS
_FEW: Final = 0.1


def find_utc_conflict(table: Table, wall_ms: NDArray[np.int64]) -> str:
    """Return why times are not UTC; empty if nothing contradicts UTC.

    When clocks go back, an hour occurs twice with different values, and hardly any other time does. When clocks go
    forward, that hour is missing, and fewer others are. Bars longer than two hours show neither.
    """
    times = np.unique(wall_ms)
    if len(times) < 2:  # noqa: PLR2004 - a distance needs two
        return ""
    step = int(np.median(np.diff(times)))
    if step == DAY_MS:
        return _day_start_conflict(times)
    conflict = _transition_conflict(table, wall_ms, times, step) if step <= _TRANSITIONS_MS[-1] else ""
    return conflict or find_hours_conflict(times, step)


def _day_start_conflict(times: NDArray[np.int64]) -> str:
    """Return the zone in which days that begin at another hour begin at midnight UTC."""
    name = next((name for name in _DAY_ZONES if not (get_clock(name).to_utc(times)[0] % DAY_MS).any()), None)
    if name is None or not (times % DAY_MS).any():
        return ""
    first = np.datetime64(int(times[0]), "ms").item()
    return f"days begin at {first:%H:%M}, which is midnight UTC on {name}'s clock"


def _transition_conflict(table: Table, wall_ms: NDArray[np.int64], times: NDArray[np.int64], step: int) -> str:
    """Return the date on which times change as a zone changes to or from daylight saving time."""
    holes = np.diff(times) - step
    years = 1 + int(times[-1] - times[0]) / _YEAR_MS
    # Clocks that go forward leave a hole of that length, and hardly any others are there. Islands skip a day.
    has_hole = (
        bool(np.isin(holes, (*_TRANSITIONS_MS, DAY_MS)).any()) and int((holes > 0).sum()) <= _MAX_HOLES_A_YEAR * years
    )
    has_twins = len(times) < len(wall_ms)
    for name in (*_COMMON_ZONES, *_other_zones()) if has_hole or has_twins else ():
        transitions = [
            transition
            for transition in get_clock(name).transitions(times)
            if times[0] < transition.span[0] and transition.span[1] <= times[-1] + step
        ]
        forward = [
            transition.span
            for transition in transitions
            if transition.before < transition.after and transition.span[1] <= times[-1]
        ]
        back = [transition.span for transition in transitions if transition.before > transition.after]
        begins, ends = (np.searchsorted(times, [span[at] for span in forward]) for at in (0, 1))
        if (begins < ends).any():
            continue  # this zone does not have such a time
        conflict = has_hole and _missing_hour(times, step, forward)
        conflict = conflict or (has_twins and _repeated_hour(table, wall_ms, back))
        if conflict:
            return f"{conflict}, as on {name}'s clock"
    return _repeated_block(table, wall_ms, step) if has_twins else ""


@cache
def _other_zones() -> tuple[str, ...]:
    """Return the names of all other zones."""
    return tuple(sorted(zoneinfo.available_timezones() - {*_COMMON_ZONES, "Factory", "localtime", "posixrules"}))


def _missing_hour(times: NDArray[np.int64], step: int, forward: list[tuple[int, int]]) -> str:
    """Return the hour that is missing because clocks go forward; empty if other hours are missing as well."""
    begin, end = np.array(forward, np.int64).reshape(-1, 2).T
    after = np.searchsorted(times, begin)
    is_hole = (times[after] - times[after - 1] == end - begin + step) & (times[after - 1] >= begin - step)
    holes, at_jumps = int((np.diff(times) > step).sum()), int(is_hole.sum())
    if not at_jumps or holes - at_jumps >= at_jumps:
        return ""
    return f"{_span(*forward[int(np.argmax(is_hole))])} are missing"


def _repeated_hour(table: Table, wall_ms: NDArray[np.int64], back: list[tuple[int, int]]) -> str:
    """Return the hour that occurs twice because clocks go back; empty if others do, or if its rows are equal."""
    times, counts = np.unique(wall_ms, return_counts=True)
    is_back = np.zeros(len(times), bool)
    for begin, end in back:
        is_back |= (begin <= times) & (times < end)
    if (counts[~is_back] > 1).sum() > _FEW * (counts[is_back] == 2).sum():  # noqa: PLR2004 - twice
        return ""
    for begin, end in back:
        is_inside = (begin <= times) & (times < end)
        if 2 * (counts[is_inside] == 2).sum() > is_inside.sum() and _rows_differ(table, wall_ms, begin, end):  # noqa: PLR2004
            return f"{_span(begin, end)} come twice"
    return ""


def _repeated_block(table: Table, wall_ms: NDArray[np.int64], step: int) -> str:
    """Return the hour or half hour that occurs twice as a whole, in two rows or more, while no other time does."""
    times, counts = np.unique(wall_ms, return_counts=True)
    twins = times[counts > 1]
    begin, end = int(twins[0]), int(twins[-1]) + step
    is_whole = len(twins) > 1 and (np.diff(twins) == step).all() and (counts <= 2).all()  # noqa: PLR2004 - twice
    if (
        not is_whole
        or end - begin not in _TRANSITIONS_MS
        or begin % _TRANSITIONS_MS[0]
        or not _rows_differ(table, wall_ms, begin, end)
    ):
        return ""
    return f"{_span(begin, end)} come twice, as on a clock that is put back"


def _rows_differ(table: Table, wall_ms: NDArray[np.int64], begin: int, end: int) -> bool:
    """Return whether all rows of these times are different."""
    rows = table.cells.iloc[np.flatnonzero((begin <= wall_ms) & (wall_ms < end))].astype(str)
    return not rows.duplicated(keep=False).any()


def _span(begin: int, end: int) -> str:
    """Show the minutes from `begin` to before `end`."""
    first, last = (np.datetime64(time, "ms").item() for time in (begin, end - MINUTE_MS))
    return f"{first:%H:%M} to {last:%H:%M} of {first:%Y-%m-%d}"
