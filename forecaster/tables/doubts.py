"""What speaks against times being UTC: they jump on the days on which a clock does.

Shapes: T rows of a table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.timeframe import MINUTE_MS
from forecaster.zones import clock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.tables import Table

_HOUR_MS: Final = 60 * MINUTE_MS
_CLOCKS: Final = (  # one for each rule by which clocks jump
    "America/New_York",
    "Europe/London",
    "Europe/Berlin",
    "Europe/Athens",
    "America/New_York+07:00",
    "Australia/Sydney",
    "Pacific/Auckland",
)
_FEW: Final = 0.1


def doubt_utc(table: Table, wall_ms: NDArray[np.int64]) -> str:
    """Say why times are those of a clock that jumps; empty when nothing shows that.

    On the day on which a clock is put back an hour comes twice, with other values, and hardly any time does elsewhere;
    or on days on which it is put forward just the hour is missing that it leaves out, and fewer holes are elsewhere.
    Bars of more than an hour show neither.
    """
    times = np.unique(wall_ms)
    if len(times) < 2 or (step := int(np.median(np.diff(times)))) > _HOUR_MS:  # noqa: PLR2004 - a distance needs two
        return ""
    for name in _CLOCKS:
        jumps = [jump for jump in clock(name).jumps(times) if times[0] < jump.span[0] and jump.span[1] <= times[-1]]
        forward, back = (
            [jump.span for jump in jumps if (jump.before < jump.after) == is_forward] for is_forward in (True, False)
        )
        if any(np.searchsorted(times, begin) < np.searchsorted(times, end) for begin, end in forward):
            continue  # this clock never shows such a time
        said = _missing(times, step, forward) or _twice(table, wall_ms, back)
        if said:
            return f"{said}, as on {name}'s clock"
    return ""


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
    for begin, end in back:
        is_inside = (begin <= times) & (times < end)
        pairs = int((counts[is_inside] == 2).sum())  # noqa: PLR2004 - twice
        elsewhere = int((counts[~is_inside] > 1).sum())
        if 2 * pairs <= is_inside.sum() or elsewhere > _FEW * pairs:
            continue
        rows = table.cells.iloc[np.flatnonzero((begin <= wall_ms) & (wall_ms < end))].astype(str)
        if not rows.duplicated(keep=False).any():
            return f"{_span(begin, end)} come twice"
    return ""


def _span(begin: int, end: int) -> str:
    """Show the minutes from `begin` to before `end`."""
    first, last = (np.datetime64(time, "ms").item() for time in (begin, end - MINUTE_MS))
    return f"{first:%H:%M} to {last:%H:%M} of {first:%Y-%m-%d}"
