"""What speaks against times being UTC: they jump as a clock does, or their market rests or begins days by another one.

Shapes: T rows of a table.
"""

from __future__ import annotations

import zoneinfo
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.tables.rests import doubt_rests
from forecaster.timeframe import DAY_MS, MINUTE_MS
from forecaster.zones import clock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.tables import Table

_HOUR_MS: Final = 60 * MINUTE_MS
_CLOCKS: Final = (  # one for each rule by which many clocks jump; these are named first
    "America/New_York",
    "Europe/London",
    "Europe/Berlin",
    "Europe/Athens",
    "America/New_York+07:00",
    "Australia/Sydney",
    "Pacific/Auckland",
)
_WITH_DAYS: Final = ("Asia/Seoul", "Asia/Shanghai", "Asia/Kolkata", *_CLOCKS)
_JUMPS_MS: Final = (_HOUR_MS // 2, _HOUR_MS, 2 * _HOUR_MS)
_A_YEAR: Final = 4
_YEAR_MS: Final = 365 * DAY_MS
_FEW: Final = 0.1


def doubt_utc(table: Table, wall_ms: NDArray[np.int64]) -> str:
    """Say why times are not UTC; empty when nothing shows that.

    On the day on which a clock is put back an hour comes twice, with other values, and hardly any time does elsewhere;
    or on days on which it is put forward just the hour is missing that it leaves out, and fewer holes are elsewhere.
    Bars of more than two hours show neither.
    """
    times = np.unique(wall_ms)
    if len(times) < 2:  # noqa: PLR2004 - a distance needs two
        return ""
    step = int(np.median(np.diff(times)))
    if step == DAY_MS:
        return _doubt_days(times)
    said = _doubt_jumps(table, wall_ms, times, step) if step <= _JUMPS_MS[-1] else ""
    return said or doubt_rests(times, step)


def _doubt_days(times: NDArray[np.int64]) -> str:
    """Say on which clock days that begin at another hour than midnight begin at the midnight of UTC."""
    name = next((name for name in _WITH_DAYS if not (clock(name).instants(times)[0] % DAY_MS).any()), None)
    if name is None or not (times % DAY_MS).any():
        return ""
    first = np.datetime64(int(times[0]), "ms").item()
    return f"days begin at {first:%H:%M}, which is midnight UTC on {name}'s clock"


def _doubt_jumps(table: Table, wall_ms: NDArray[np.int64], times: NDArray[np.int64], step: int) -> str:
    """Say at which date times jump as those of a clock do."""
    holes = np.diff(times) - step
    years = 1 + int(times[-1] - times[0]) / _YEAR_MS
    # A clock that is put forward leaves a hole of that length, and hardly any others are there. Islands skip a day.
    has_hole = bool(np.isin(holes, (*_JUMPS_MS, DAY_MS)).any()) and int((holes > 0).sum()) <= _A_YEAR * years
    has_twins = len(times) < len(wall_ms)
    for name in (*_CLOCKS, *_other_clocks()) if has_hole or has_twins else ():
        jumps = [
            jump for jump in clock(name).jumps(times) if times[0] < jump.span[0] and jump.span[1] <= times[-1] + step
        ]
        forward = [jump.span for jump in jumps if jump.before < jump.after and jump.span[1] <= times[-1]]
        back = [jump.span for jump in jumps if jump.before > jump.after]
        begins, ends = (np.searchsorted(times, [span[at] for span in forward]) for at in (0, 1))
        if (begins < ends).any():
            continue  # this clock never shows such a time
        said = has_hole and _missing(times, step, forward)
        said = said or (has_twins and _twice(table, wall_ms, back))
        if said:
            return f"{said}, as on {name}'s clock"
    return _put_back(table, wall_ms, step) if has_twins else ""


@cache
def _other_clocks() -> tuple[str, ...]:
    """The names of all other zones."""
    return tuple(sorted(zoneinfo.available_timezones() - {*_CLOCKS, "Factory", "localtime", "posixrules"}))


def _missing(times: NDArray[np.int64], step: int, forward: list[tuple[int, int]]) -> str:
    """Say which hour is missing that a clock leaves out; empty where holes are elsewhere as well."""
    begin, end = np.array(forward, np.int64).reshape(-1, 2).T
    after = np.searchsorted(times, begin)
    is_hole = (times[after] - times[after - 1] == end - begin + step) & (times[after - 1] >= begin - step)
    holes, at_jumps = int((np.diff(times) > step).sum()), int(is_hole.sum())
    if not at_jumps or holes - at_jumps >= at_jumps:
        return ""
    return f"{_span(*forward[int(np.argmax(is_hole))])} are missing"


def _twice(table: Table, wall_ms: NDArray[np.int64], back: list[tuple[int, int]]) -> str:
    """Say which hour comes twice as a clock is put back; empty where times do elsewhere as well, or rows are alike."""
    times, counts = np.unique(wall_ms, return_counts=True)
    is_back = np.zeros(len(times), bool)
    for begin, end in back:
        is_back |= (begin <= times) & (times < end)
    if (counts[~is_back] > 1).sum() > _FEW * (counts[is_back] == 2).sum():  # noqa: PLR2004 - twice
        return ""
    for begin, end in back:
        is_inside = (begin <= times) & (times < end)
        if 2 * (counts[is_inside] == 2).sum() > is_inside.sum() and _differ(table, wall_ms, begin, end):  # noqa: PLR2004
            return f"{_span(begin, end)} come twice"
    return ""


def _put_back(table: Table, wall_ms: NDArray[np.int64], step: int) -> str:
    """Say which hour, or half of one, comes twice as a whole, in two rows or more, and no time elsewhere."""
    times, counts = np.unique(wall_ms, return_counts=True)
    twins = times[counts > 1]
    begin, end = int(twins[0]), int(twins[-1]) + step
    is_whole = len(twins) > 1 and (np.diff(twins) == step).all() and (counts <= 2).all()  # noqa: PLR2004 - twice
    if not is_whole or end - begin not in _JUMPS_MS or begin % _JUMPS_MS[0] or not _differ(table, wall_ms, begin, end):
        return ""
    return f"{_span(begin, end)} come twice, as on a clock that is put back"


def _differ(table: Table, wall_ms: NDArray[np.int64], begin: int, end: int) -> bool:
    """Whether the rows of some times are all different."""
    rows = table.cells.iloc[np.flatnonzero((begin <= wall_ms) & (wall_ms < end))].astype(str)
    return not rows.duplicated(keep=False).any()


def _span(begin: int, end: int) -> str:
    """Show the minutes from `begin` to before `end`."""
    first, last = (np.datetime64(time, "ms").item() for time in (begin, end - MINUTE_MS))
    return f"{first:%H:%M} to {last:%H:%M} of {first:%Y-%m-%d}"
