"""Time zones by name: wall times to UTC and back.

At a transition a wall time can be ambiguous (it occurs twice) or nonexistent (it is skipped). The order of rows
decides what an ambiguous time means; where it does not, the time stays unread.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
import zoneinfo
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from forecaster.errors import ConfigError
from forecaster.timeframe import DAY_MS, MINUTE_MS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

UNWRITTEN: Final = -1
"""`Labels.written` of an epoch: no date is written."""

_SHIFTED: Final = re.compile(r"(?P<name>.*?) ?(?P<sign>[+-])(?P<hours>[0-9]{1,2})(?::?(?P<minutes>[0-5][0-9]))?")
_MACHINE_ZONES: Final = frozenset(("factory", "localtime", "posixrules"))
_MAX_SHIFT_HOURS: Final = 14
_EXPECTED: Final = "an IANA name such as America/New_York, UTC, +02:00, or a name and a shift, America/New_York+07:00"
_WEEK_S: Final = 7 * 86_400
_NEIGHBOURS: Final = 2
_RARE: Final = 0.1
_YEARS: Final = (3, 9996)  # the range of `datetime`, with a margin at both ends
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_BOUNDS_S: Final = tuple(int((dt.datetime(year, 1, 1, tzinfo=dt.UTC) - _EPOCH).total_seconds()) for year in _YEARS)
_UTC_NAMES: Final = frozenset(("UTC", "GMT"))


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Times of bars as a file or a frame has them.

    Args:
        instant: (T,) int64 UTC ms.
        written: (T,) int64 wall time as written, as if it were UTC ms; `UNWRITTEN` for an epoch.
    """

    instant: NDArray[np.int64]
    written: NDArray[np.int64]

    @classmethod
    def from_index(cls, times: pd.DatetimeIndex) -> Labels:
        """Make labels from a pandas index; times without a zone are UTC."""
        written = times.tz_localize(None)
        return cls(_to_ms(written if times.tz is None else times.tz_convert(None)), _to_ms(written))

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.instant)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Labels:
        """Select labels by slice, mask or positions."""
        return Labels(self.instant[rows], self.written[rows])


class Transition(NamedTuple):
    """A change of a zone's UTC offset: when (UTC ms), and the offsets in ms before and after it."""

    instant: int
    before: int
    after: int

    @property
    def span(self) -> tuple[int, int]:
        """Start and end of the wall times that are ambiguous or nonexistent, as if they were UTC."""
        return self.instant + min(self.before, self.after), self.instant + max(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Clock:
    """The wall clock of a zone, `shift_ms` ahead."""

    name: str
    zone: dt.tzinfo
    shift_ms: int = 0

    def to_utc(self, wall_ms: NDArray[np.int64]) -> tuple[NDArray[np.int64], dict[int, str]]:
        """Return the instants of wall times, and by position the reason why a time stays unread.

        Rows are in the order of the file, oldest or newest first. That order decides ambiguous times where the rows
        pass the hour twice. Where rows are farther apart than the offset change, the first instant is meant. A
        nonexistent time is read with the offset before the transition.
        """
        first, second = self._offsets(wall_ms)
        instant = wall_ms - first
        unread = {}
        runs = true_runs(first > second)
        step = _row_step(wall_ms, np.stack([first, second], axis=1)) if runs else 0
        for start, stop in runs:
            second_pass = _second_pass(wall_ms, slice(start, stop), step, int(first[start] - second[start]))
            if second_pass is None:
                unread.update({row: _ambiguous_reason(int(wall_ms[row])) for row in range(start, stop)})
            else:
                instant[second_pass] = wall_ms[second_pass] - second[second_pass]
        return instant, unread

    def nonexistent(self, wall_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which wall times the clock skips."""
        first, second = self._offsets(wall_ms)
        return first < second

    def to_wall(self, instant_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the wall times at instants."""
        transitions = self.transitions(instant_ms)
        starts = np.array([transition.instant for transition in transitions], np.int64)
        period = np.searchsorted(starts, instant_ms, side="right")
        return instant_ms + self._period_offsets(transitions, instant_ms)[period]

    def transitions(self, times_ms: NDArray[np.int64]) -> list[Transition]:
        """Return the transitions from the year before these times to the year after them."""
        if not len(times_ms) or not isinstance(self.zone, zoneinfo.ZoneInfo):
            return []
        ends = np.array([times_ms.min(), times_ms.max()]).astype("datetime64[ms]").astype("datetime64[Y]")
        first, last = np.clip(ends.astype(np.int64) + 1970, *_YEARS).tolist()
        years = range(first - 1, last + 2)
        return [
            Transition(instant, before + self.shift_ms, after + self.shift_ms)
            for year in years
            for instant, before, after in _transitions_in(self.zone, year)
        ]

    def _offsets(self, wall_ms: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the UTC offsets of the first and the second occurrence of each wall time.

        They differ only in the span of a transition: the offset before it, and the one after it.
        """
        transitions = self.transitions(wall_ms)
        offsets = self._period_offsets(transitions, wall_ms)
        starts, ends = np.array([transition.span for transition in transitions], np.int64).reshape(-1, 2).T
        first, second = (offsets[np.searchsorted(times, wall_ms, side="right")] for times in (ends, starts))
        return first, second

    def _period_offsets(self, transitions: list[Transition], times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the UTC offset before the first transition, and after each."""
        if transitions:
            initial = transitions[0].before
        else:
            initial = self.shift_ms + (_offset_ms(self.zone, int(times_ms[0]) // 1000) if len(times_ms) else 0)
        return np.array([initial, *(transition.after for transition in transitions)], np.int64)


@cache
def get_clock(name: str) -> Clock:
    """Return a clock by name: an IANA zone, `UTC`, `+02:00`, or a zone and a shift, `America/New_York+07:00`.

    Raises:
        ConfigError: for any other name; lists similar ones.
    """
    name = name.strip()
    zone = _find_zone(name)
    if zone is not None:
        return Clock(str(zone), zone)
    shifted = _SHIFTED.fullmatch(name)
    zone = _find_zone(shifted["name"] or "UTC") if shifted else None
    if zone is None or shifted is None or int(shifted["hours"]) > _MAX_SHIFT_HOURS:
        similar = _similar_names(name)
        raise ConfigError("timezone", _EXPECTED + (f" (near: {', '.join(similar)})" if similar else ""), name)
    minutes = 60 * int(shifted["hours"]) + int(shifted["minutes"] or 0)
    shown = f"{shifted['sign']}{minutes // 60:02}:{minutes % 60:02}"
    shift_ms = (-1 if shifted["sign"] == "-" else 1) * minutes * MINUTE_MS
    return Clock(shown if str(zone) in _UTC_NAMES else f"{zone}{shown}", zone, shift_ms)


def wall_to_utc(wall: NDArray[np.int64], zone: str) -> NDArray[np.int64]:
    """Return the instants (UTC ms) of wall times in a zone.

    Of an ambiguous time the first instant is meant, of a nonexistent one the transition.
    """
    import pandas as pd  # noqa: PLC0415 - most calendars need none

    index = pd.DatetimeIndex(wall.astype("datetime64[ms]"))
    first = np.ones(len(index), bool)
    return _to_ms(index.tz_localize(zone, ambiguous=first, nonexistent="shift_forward").tz_convert(None))


def _to_ms(times: pd.DatetimeIndex) -> NDArray[np.int64]:
    """Return times without a zone as ms."""
    ms: NDArray[np.int64] = times.to_numpy().astype("datetime64[ms]").astype(np.int64)
    return ms


def _find_zone(name: str) -> zoneinfo.ZoneInfo | None:
    """Return the IANA zone of a name in any case, or None; never the machine's own zone."""
    if name.casefold() in _MACHINE_ZONES:
        return None
    if name.casefold() in ("z", "utc"):
        return zoneinfo.ZoneInfo("UTC")
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        known = _names_by_casefold().get(name.casefold())
        return zoneinfo.ZoneInfo(known) if known else None


@cache
def _names_by_casefold() -> dict[str, str]:
    names = {name.casefold(): name for name in sorted(zoneinfo.available_timezones())}
    return {folded: name for folded, name in names.items() if folded not in _MACHINE_ZONES}


def _similar_names(name: str) -> list[str]:
    """Return IANA names that are spelled alike, as a whole or in their last part."""
    folded = name.casefold().replace(" ", "_")
    names = {
        part: full
        for full in sorted(_names_by_casefold().values())
        for part in (full.casefold(), full.casefold().rpartition("/")[2])
    }
    return list(dict.fromkeys(names[match] for match in difflib.get_close_matches(folded, names, cutoff=0.8)))


@cache
def _transitions_in(zone: zoneinfo.ZoneInfo, year: int) -> tuple[Transition, ...]:
    """Return the transitions of a zone in a UTC year."""
    start, end = (int(np.datetime64(str(bound), "s").astype(int)) for bound in (year, year + 1))
    edges = [*range(start, end, _WEEK_S), end]
    offsets = [_offset_ms(zone, edge) for edge in edges]
    return tuple(
        Transition(1000 * _transition_between(zone, edges[i], edges[i + 1]), offsets[i], offsets[i + 1])
        for i in range(len(edges) - 1)
        if offsets[i] != offsets[i + 1]
    )


def _transition_between(zone: dt.tzinfo, start: int, end: int) -> int:
    """Return the second of the transition after `start`, at `end` at the latest, by bisection."""
    before = _offset_ms(zone, start)
    while end - start > 1:
        middle = (start + end) // 2
        start, end = (middle, end) if _offset_ms(zone, middle) == before else (start, middle)
    return end


def _offset_ms(zone: dt.tzinfo, time_s: int) -> int:
    """Return the UTC offset of a zone, in ms, at an instant in seconds since the epoch."""
    clipped = min(max(time_s, _BOUNDS_S[0]), _BOUNDS_S[1])
    offset = (_EPOCH + dt.timedelta(seconds=clipped)).astimezone(zone).utcoffset()
    return 0 if offset is None else round(offset.total_seconds() * 1000)


def true_runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return start and stop of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _row_step(wall_ms: NDArray[np.int64], offsets: NDArray[np.int64]) -> int:
    """Return the greatest common divisor of the distances between rows, in ms.

    Distances across a transition count only where they are common, as in a short table. The most common distance
    would not do: rows with many gaps are farther apart than their bars are long.
    """
    distances = np.abs(np.diff(wall_ms))
    across = (np.ptp(offsets, axis=1)[1:] > 0) | (offsets[1:] != offsets[:-1]).any(axis=1)
    if across.sum() < _RARE * len(distances):
        distances = distances[~across]
    return int(np.gcd.reduce(np.unique(distances)))


def _second_pass(wall_ms: NDArray[np.int64], rows: slice, step: int, change: int) -> slice | None:
    """Return which rows of a run of ambiguous times are the second occurrence; None where it cannot be decided.

    `change` is by how many ms the clock is put back.
    """
    if step > change:
        return _second_by_distance(wall_ms, rows, step, change)
    return _second_by_order(wall_ms, rows)


def _second_by_distance(wall_ms: NDArray[np.int64], rows: slice, step: int, change: int) -> slice | None:
    """Decide by the distances to the neighbouring rows, for rows farther apart than the change.

    The first occurrence is meant where rows keep their distance in wall time, as days do; else the one that keeps it.
    """
    start, stop = rows.start, rows.stop
    times = wall_ms[rows]
    away = np.concatenate([wall_ms[max(0, start - 1) : start], wall_ms[stop : stop + 1]]) - times[0]
    earlier, later = -away[away < 0], away[away > 0]
    if (times != times[0]).any() or (step < DAY_MS and not (len(earlier) and len(later))):
        return None
    if not (earlier % step).any() and (not (later % step).any() or not ((later + change) % step).any()):
        return slice(start, start)
    is_second = not ((earlier + change) % step).any() and not (later % step).any()
    return slice(start, stop) if is_second else None


def _second_by_order(wall_ms: NDArray[np.int64], rows: slice) -> slice | None:
    """Decide by the order of rows: the clock must go back exactly once within the run, and not around it."""
    start, stop = rows.start, rows.stop
    before, after = wall_ms[max(0, start - _NEIGHBOURS) : start], wall_ms[stop : stop + _NEIGHBOURS]
    times = wall_ms[rows]
    steps = np.diff(np.concatenate([before, times[:1], after]))
    direction = 1 if (steps > 0).all() else -1
    backward = np.flatnonzero(np.diff(times) * direction <= 0)
    is_clear = (
        len(steps) and (steps * direction > 0).all() and len(backward) == 1 and len(np.unique(times)) < len(times)
    )
    if not is_clear:
        return None
    turn = start + int(backward[0]) + 1
    return slice(turn, stop) if direction > 0 else slice(start, turn)


def _ambiguous_reason(wall_ms: int) -> str:
    return f"{np.datetime64(wall_ms, 'ms').item():%H:%M} occurs twice on this clock, and the row does not say which"
