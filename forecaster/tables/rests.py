"""What the hours in which a market rests tell of the clock of its times: its weekend, and an hour of every day.

Currencies and futures trade around the clock from Sunday to Friday, by the clock of New York: their weeks begin there
at 17:00 or 18:00, and futures rest for the hour before 18:00. Times that do not show this as UTC are of another clock.

Shapes: T times, W weeks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.timeframe import DAY_MS, MINUTE_MS
from forecaster.zones import clock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.zones import Jump

_HOUR_MS: Final = 60 * MINUTE_MS
_WEEK_MS: Final = 7 * DAY_MS
_SUNDAY_MS: Final = 4 * DAY_MS  # the epoch began on a Thursday: with it, weeks begin on Sundays
_NEW_YORK: Final = "America/New_York"
_CLOCKS: Final = (
    *(_NEW_YORK, "America/Chicago", "America/New_York+07:00", "Europe/London", "Europe/Berlin", "Europe/Athens"),
    *("Europe/Moscow", "Asia/Kolkata", "Asia/Shanghai", "Asia/Tokyo", "Australia/Sydney", "Pacific/Auckland", "-05:00"),
)
_MOVING: Final = ("Europe/London", "Europe/Berlin", "Europe/Athens", "Australia/Sydney", "Pacific/Auckland")
_WEEKEND_MS: Final = (46 * _HOUR_MS, 50 * _HOUR_MS)
_FIRST_HOURS_MS: Final = (12 * _HOUR_MS, 36 * _HOUR_MS)  # from Sunday noon to Monday noon
_AFTER_WEEKEND_MS: Final = 17 * _HOUR_MS  # in New York; where there are breaks, later
_AFTER_BREAK_MS: Final = 18 * _HOUR_MS
_BREAK_MS: Final = (55 * MINUTE_MS, 65 * MINUTE_MS)
_LONGEST_MS: Final = 4 * _HOUR_MS
_NEAR_MS: Final = 15 * MINUTE_MS
_LEAST_BREAKS: Final = 3
_HALF, _NEARLY_ALL, _FEW = 0.5, 0.9, 0.1
_MANY: Final = 0.4  # in UTC the hour is another one in summer


def doubt_rests(times: NDArray[np.int64], step: int) -> str:
    """Say why times (T,), sorted, are not UTC by the hours without any; empty when nothing shows that."""
    if step > _LONGEST_MS:
        return ""
    pauses, opens = np.diff(times) - step, times[1:]
    weeks, breaks = opens[_are_weekends(pauses, opens)], _daily_breaks(times, pauses, step)
    sundays = (times[-1] + _SUNDAY_MS) // _WEEK_MS - (times[0] + _SUNDAY_MS) // _WEEK_MS
    if len(weeks) and len(weeks) >= _HALF * sundays:
        said = _unlikely(weeks, _AFTER_BREAK_MS if len(breaks) else _AFTER_WEEKEND_MS, step)
        return f"the week begins at {said}" if said else _doubt_moves(weeks)
    others = pauses[~_between(pauses, _BREAK_MS) & ~_are_weekends(pauses, opens)]
    if len(breaks) and others.sum() <= _FEW * len(times) * step:
        said = _unlikely(breaks, _AFTER_BREAK_MS, step)
        return said and f"an hour without rows ends at {said}"
    return ""


def _daily_breaks(times: NDArray[np.int64], pauses: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """Give the first times after an hour without any, which is the same hour on most days; none where it is not."""
    opens = times[1:][_between(pauses, _BREAK_MS)]
    if not len(opens) or step > _HOUR_MS:
        return np.zeros(0, np.int64)
    days = 1 + int((np.diff(times // DAY_MS) > 0).sum())
    breaks = opens[opens % DAY_MS == _commonest(opens % DAY_MS)]
    return breaks if len(breaks) >= max(_LEAST_BREAKS, _MANY * (days - 1)) else np.zeros(0, np.int64)


def _unlikely(opens: NDArray[np.int64], first: int, step: int) -> str:
    """Give the time and the date of the first rows after rests (W,), if no market goes on then in UTC."""
    earliest = first - _NEAR_MS - (step if step > _HOUR_MS else 0)
    in_new_york = clock(_NEW_YORK).wall(opens) % DAY_MS
    typical = _commonest(in_new_york)
    if earliest <= typical <= _AFTER_BREAK_MS + _NEAR_MS:
        return ""
    at = int(opens[np.argmax(in_new_york == typical)])
    return f"{_clock_time(at)} of {_date(at)}{_fitting(opens, first)}"


def _doubt_moves(weeks: NDArray[np.int64]) -> str:
    """Say why the first times of weeks (W,) are not UTC, by their moves as clocks jump."""
    begins = (weeks + _SUNDAY_MS) % _WEEK_MS
    fitting = _fitting(weeks, _AFTER_WEEKEND_MS) or _fitting(weeks, _AFTER_BREAK_MS)
    in_new_york = clock(_NEW_YORK).jumps(weeks)
    unmoved = _moves(weeks, in_new_york, 0)
    if len(unmoved) > len(_moves(weeks, in_new_york, -1)):
        jump, at = unmoved[0]
        return f"the week begins at {_clock_time(int(begins[at]))} on both sides of {_date(jump.instant)}{fitting}"
    for name in _MOVING:
        jumps = [
            jump
            for jump in clock(name).jumps(weeks)
            if all(abs(jump.instant - other.instant) > 2 * DAY_MS for other in in_new_york)
        ]
        moved = _moves(weeks, jumps, 1)
        if len(moved) > len(_moves(weeks, jumps, 0)):
            jump, at = moved[0]
            before, after = _clock_time(int(begins[at])), _clock_time(int(begins[at + 1]))
            fitting = fitting or f", as on {name}'s clock"
            return f"the week begins at {before} before {_date(jump.instant)} and at {after} afterwards{fitting}"
    return ""


def _moves(weeks: NDArray[np.int64], jumps: list[Jump], by: int) -> list[tuple[Jump, int]]:
    """Give the jumps at which weeks begin later by the length of the jump, `by` times; with the week before each."""
    found = []
    for jump in jumps:
        at = int(np.searchsorted(weeks, jump.instant)) - 1
        if at < 0 or at + 1 == len(weeks) or weeks[at + 1] - weeks[at] > _WEEK_MS + 2 * _HOUR_MS:
            continue
        later = int(weeks[at + 1] - weeks[at]) - _WEEK_MS
        if abs(later - by * (jump.after - jump.before)) <= _NEAR_MS:
            found.append((jump, at))
    return found


def _fitting(opens: NDArray[np.int64], first: int) -> str:
    """Name the clock by which it is this time in New York when rows go on after a rest."""
    new_york = clock(_NEW_YORK)
    for name in _CLOCKS:
        shown = new_york.wall(clock(name).instants(opens)[0]) % DAY_MS
        if (abs(shown - first) <= _NEAR_MS).mean() >= _NEARLY_ALL:
            return f", as on {name}'s clock"
    return ""


def _are_weekends(pauses: NDArray[np.int64], opens: NDArray[np.int64]) -> NDArray[np.bool_]:
    return _between(pauses, _WEEKEND_MS) & _between((opens + _SUNDAY_MS) % _WEEK_MS, _FIRST_HOURS_MS)


def _between(times: NDArray[np.int64], limits: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray((limits[0] <= times) & (times <= limits[1]))


def _commonest(times: NDArray[np.int64]) -> int:
    found, counts = np.unique(times, return_counts=True)
    return int(found[np.argmax(counts)])


def _clock_time(ms: int) -> str:
    return f"{ms // _HOUR_MS % 24:02}:{ms // MINUTE_MS % 60:02}"


def _date(instant: int) -> str:
    return str(np.datetime64(instant, "ms").astype("datetime64[D]"))
