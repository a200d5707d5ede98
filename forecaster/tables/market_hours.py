"""Evidence against UTC from market hours: when the week begins, and a daily break of one hour.

Currencies and futures trade around the clock from Sunday to Friday, in New York time. Their weeks begin at 17:00 or
18:00, and futures pause for the hour before 18:00. Times that do not show this as UTC are of another zone.

Shapes: T times, W weeks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.timeframe import DAY_MS, MINUTE_MS
from forecaster.zones import get_clock

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.zones import Transition

_HOUR_MS: Final = 60 * MINUTE_MS
_WEEK_MS: Final = 7 * DAY_MS
_SUNDAY_MS: Final = 4 * DAY_MS  # the epoch is a Thursday; with this shift weeks begin on Sunday
_NEW_YORK: Final = "America/New_York"
_ZONES: Final = (
    *(_NEW_YORK, "America/Chicago", "America/New_York+07:00", "Europe/London", "Europe/Berlin", "Europe/Athens"),
    *("Europe/Moscow", "Asia/Kolkata", "Asia/Shanghai", "Asia/Tokyo", "Australia/Sydney", "Pacific/Auckland", "-05:00"),
)
_DST_ZONES: Final = ("Europe/London", "Europe/Berlin", "Europe/Athens", "Australia/Sydney", "Pacific/Auckland")
_WEEKEND_MS: Final = (46 * _HOUR_MS, 50 * _HOUR_MS)
_FIRST_HOURS_MS: Final = (12 * _HOUR_MS, 36 * _HOUR_MS)  # from Sunday noon to Monday noon
_AFTER_WEEKEND_MS: Final = 17 * _HOUR_MS  # in New York; where there are breaks, later
_AFTER_BREAK_MS: Final = 18 * _HOUR_MS
_BREAK_MS: Final = (55 * MINUTE_MS, 65 * MINUTE_MS)
_MAX_STEP_MS: Final = 4 * _HOUR_MS
_NEAR_MS: Final = 15 * MINUTE_MS
_MIN_BREAKS: Final = 3
_HALF, _NEARLY_ALL, _FEW = 0.5, 0.9, 0.1
_MANY: Final = 0.4  # in UTC the hour is different in summer


def find_hours_conflict(times: NDArray[np.int64], step: int) -> str:
    """Return why sorted times (T,) are not UTC, by the hours without rows; empty if nothing contradicts UTC."""
    if step > _MAX_STEP_MS:
        return ""
    pauses, opens = np.diff(times) - step, times[1:]
    weeks, breaks = opens[_are_weekends(pauses, opens)], _daily_breaks(times, pauses, step)
    sundays = (times[-1] + _SUNDAY_MS) // _WEEK_MS - (times[0] + _SUNDAY_MS) // _WEEK_MS
    if len(weeks) and len(weeks) >= _HALF * sundays:
        start = _unlikely_start(weeks, _AFTER_BREAK_MS if len(breaks) else _AFTER_WEEKEND_MS, step)
        return f"the week begins at {start}" if start else _transition_conflict(weeks)
    others = pauses[~_between(pauses, _BREAK_MS) & ~_are_weekends(pauses, opens)]
    if len(breaks) and others.sum() <= _FEW * len(times) * step:
        start = _unlikely_start(breaks, _AFTER_BREAK_MS, step)
        return start and f"an hour without rows ends at {start}"
    return ""


def _daily_breaks(times: NDArray[np.int64], pauses: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """Return the first times after a break of one hour that most days have; empty if they have none."""
    opens = times[1:][_between(pauses, _BREAK_MS)]
    if not len(opens) or step > _HOUR_MS:
        return np.zeros(0, np.int64)
    days = 1 + int((np.diff(times // DAY_MS) > 0).sum())
    breaks = opens[opens % DAY_MS == _most_common(opens % DAY_MS)]
    return breaks if len(breaks) >= max(_MIN_BREAKS, _MANY * (days - 1)) else np.zeros(0, np.int64)


def _unlikely_start(opens: NDArray[np.int64], first: int, step: int) -> str:
    """Return time and date of the first rows after a pause (W,) if no market resumes then in UTC."""
    earliest = first - _NEAR_MS - (step if step > _HOUR_MS else 0)
    in_new_york = get_clock(_NEW_YORK).to_wall(opens) % DAY_MS
    typical = _most_common(in_new_york)
    if earliest <= typical <= _AFTER_BREAK_MS + _NEAR_MS:
        return ""
    at = int(opens[np.argmax(in_new_york == typical)])
    return f"{_format_clock(at)} of {_format_date(at)}{_zone_hint(opens, first)}"


def _transition_conflict(weeks: NDArray[np.int64]) -> str:
    """Return why the first times of weeks (W,) are not UTC, by their changes around daylight saving changes."""
    begins = (weeks + _SUNDAY_MS) % _WEEK_MS
    zone_hint = _zone_hint(weeks, _AFTER_WEEKEND_MS) or _zone_hint(weeks, _AFTER_BREAK_MS)
    in_new_york = get_clock(_NEW_YORK).transitions(weeks)
    unmoved = _shifted_weeks(weeks, in_new_york, 0)
    if len(unmoved) > len(_shifted_weeks(weeks, in_new_york, -1)):
        transition, at = unmoved[0]
        start, date = _format_clock(int(begins[at])), _format_date(transition.instant)
        return f"the week begins at {start} on both sides of {date}{zone_hint}"
    for name in _DST_ZONES:
        transitions = [
            transition
            for transition in get_clock(name).transitions(weeks)
            if all(abs(transition.instant - other.instant) > 2 * DAY_MS for other in in_new_york)
        ]
        moved = _shifted_weeks(weeks, transitions, 1)
        if len(moved) > len(_shifted_weeks(weeks, transitions, 0)):
            transition, at = moved[0]
            before, after = _format_clock(int(begins[at])), _format_clock(int(begins[at + 1]))
            zone_hint = zone_hint or f", as on {name}'s clock"
            date = _format_date(transition.instant)
            return f"the week begins at {before} before {date} and at {after} afterwards{zone_hint}"
    return ""


def _shifted_weeks(weeks: NDArray[np.int64], transitions: list[Transition], by: int) -> list[tuple[Transition, int]]:
    """Return the transitions at which weeks begin later by `by` times the change, with the week before each."""
    shifted = []
    for transition in transitions:
        at = int(np.searchsorted(weeks, transition.instant)) - 1
        if at < 0 or at + 1 == len(weeks) or weeks[at + 1] - weeks[at] > _WEEK_MS + 2 * _HOUR_MS:
            continue
        later = int(weeks[at + 1] - weeks[at]) - _WEEK_MS
        if abs(later - by * (transition.after - transition.before)) <= _NEAR_MS:
            shifted.append((transition, at))
    return shifted


def _zone_hint(opens: NDArray[np.int64], first: int) -> str:
    """Return the zone in which trading resumes at this time of New York."""
    new_york = get_clock(_NEW_YORK)
    for name in _ZONES:
        shown = new_york.to_wall(get_clock(name).to_utc(opens)[0]) % DAY_MS
        if (abs(shown - first) <= _NEAR_MS).mean() >= _NEARLY_ALL:
            return f", as on {name}'s clock"
    return ""


def _are_weekends(pauses: NDArray[np.int64], opens: NDArray[np.int64]) -> NDArray[np.bool_]:
    return _between(pauses, _WEEKEND_MS) & _between((opens + _SUNDAY_MS) % _WEEK_MS, _FIRST_HOURS_MS)


def _between(times: NDArray[np.int64], limits: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray((limits[0] <= times) & (times <= limits[1]))


def _most_common(times: NDArray[np.int64]) -> int:
    values, counts = np.unique(times, return_counts=True)
    return int(values[np.argmax(counts)])


def _format_clock(ms: int) -> str:
    return f"{ms // _HOUR_MS % 24:02}:{ms // MINUTE_MS % 60:02}"


def _format_date(instant: int) -> str:
    return str(np.datetime64(instant, "ms").astype("datetime64[D]"))
