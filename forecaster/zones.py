"""Clocks by their names: from local times to instants and back.

A clock may come by one hour twice, and leave one out. Of an hour that comes twice the order of rows tells which time is
meant, or nothing does; then the time stays unread.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
import zoneinfo
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from forecaster.errors import ConfigError
from forecaster.timeframe import DAY_MS, MINUTE_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SHIFTED: Final = re.compile(r"(?P<name>.*?) ?(?P<sign>[+-])(?P<hours>[0-9]{1,2})(?::?(?P<minutes>[0-5][0-9]))?")
_OF_THE_MACHINE: Final = frozenset(("factory", "localtime", "posixrules"))
_MOST_HOURS: Final = 14
_EXPECTED: Final = "an IANA name such as America/New_York, UTC, +02:00, or a name and a shift, America/New_York+07:00"
_WEEK_S: Final = 7 * 86_400
_NEIGHBOURS: Final = 2
_RARE: Final = 0.1
_YEARS: Final = (3, 9996)  # those of `datetime`, and some less on both sides: no clock is known elsewhere
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_ENDS: Final = tuple(int((dt.datetime(year, 1, 1, tzinfo=dt.UTC) - _EPOCH).total_seconds()) for year in _YEARS)
_UTC_NAMES: Final = frozenset(("UTC", "GMT"))


class Jump(NamedTuple):
    """When a clock is put forward or back (UTC ms), and by how many ms it is ahead of UTC before and after."""

    instant: int
    before: int
    after: int

    @property
    def span(self) -> tuple[int, int]:
        """The times from the first to before the second, as if they were UTC: they come twice, or never."""
        return self.instant + min(self.before, self.after), self.instant + max(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock on a wall: that of a zone, `shift_ms` ahead."""

    name: str
    zone: dt.tzinfo
    shift_ms: int = 0

    def instants(self, wall_ms: NDArray[np.int64]) -> tuple[NDArray[np.int64], dict[int, str]]:
        """Give the instants at which it shows these times, and why some of them cannot be told, by position.

        Rows are in the order of the file, which may run forwards or backwards. A time that comes twice is told by that
        order where rows come by the hour twice, one pass after the other; where rows are farther apart than the clock
        jumps, the first is meant. A time that the clock leaves out is the first one after.
        """
        first, second = self._offsets(wall_ms)
        instant = wall_ms - first
        unreadable = {}
        stretches = _stretches(first > second)
        step = _step(wall_ms, np.stack([first, second], axis=1)) if stretches else 0
        for start, stop in stretches:
            later = _second_pass(wall_ms, slice(start, stop), step, int(first[start] - second[start]))
            if later is None:
                unreadable.update({row: _twice(int(wall_ms[row])) for row in range(start, stop)})
            else:
                instant[later] = wall_ms[later] - second[later]
        return instant, unreadable

    def skips(self, wall_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the clock leaves these times out, as it is put forward."""
        first, second = self._offsets(wall_ms)
        return first < second

    def wall(self, instant_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the times that it shows at these instants."""
        jumps = self.jumps(instant_ms)
        at = np.searchsorted(np.array([jump.instant for jump in jumps], np.int64), instant_ms, side="right")
        return instant_ms + self._steps(jumps, instant_ms)[at]

    def jumps(self, times_ms: NDArray[np.int64]) -> list[Jump]:
        """Give its jumps in the years of these times, and in those about them."""
        if not len(times_ms) or not isinstance(self.zone, zoneinfo.ZoneInfo):
            return []
        ends = np.array([times_ms.min(), times_ms.max()]).astype("datetime64[ms]").astype("datetime64[Y]")
        first, last = np.clip(ends.astype(np.int64) + 1970, *_YEARS).tolist()
        jumps = (jump for year in range(first - 1, last + 2) for jump in _jumps_of(self.zone, year))
        return [Jump(jump.instant, jump.before + self.shift_ms, jump.after + self.shift_ms) for jump in jumps]

    def _offsets(self, wall_ms: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """By how much it is ahead of UTC when it shows these times, the first time and the second.

        They differ about a jump: the first is the one from before, the second the one from after.
        """
        jumps = self.jumps(wall_ms)
        steps = self._steps(jumps, wall_ms)
        begins, ends = np.array([jump.span for jump in jumps], np.int64).reshape(-1, 2).T
        first, second = (steps[np.searchsorted(times, wall_ms, side="right")] for times in (ends, begins))
        return first, second

    def _steps(self, jumps: list[Jump], times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """By how much it is ahead of UTC before the first jump about these times, and after each."""
        if jumps:
            start = jumps[0].before
        else:
            start = self.shift_ms + (_offset_ms(self.zone, int(times_ms[0]) // 1000) if len(times_ms) else 0)
        return np.array([start, *(jump.after for jump in jumps)], np.int64)


@cache
def clock(name: str) -> Clock:
    """Give the clock of this name: an IANA zone, `UTC`, `+02:00`, or a name and a shift, `America/New_York+07:00`.

    Raises:
        ConfigError: for any other name; says which are near.
    """
    name = name.strip()
    zone = _zone(name)
    if zone is not None:
        return Clock(str(zone), zone)
    shifted = _SHIFTED.fullmatch(name)
    zone = _zone(shifted["name"] or "UTC") if shifted else None
    if zone is None or shifted is None or int(shifted["hours"]) > _MOST_HOURS:
        near = _near(name)
        raise ConfigError("timezone", _EXPECTED + (f" (near: {', '.join(near)})" if near else ""), name)
    minutes = 60 * int(shifted["hours"]) + int(shifted["minutes"] or 0)
    shown = f"{shifted['sign']}{minutes // 60:02}:{minutes % 60:02}"
    shift_ms = (-1 if shifted["sign"] == "-" else 1) * minutes * MINUTE_MS
    return Clock(shown if str(zone) in _UTC_NAMES else f"{zone}{shown}", zone, shift_ms)


def _zone(name: str) -> zoneinfo.ZoneInfo | None:
    """Give the IANA zone of this name, in capitals or not; the machine's own is none."""
    if name.casefold() in _OF_THE_MACHINE:
        return None
    if name.casefold() in ("z", "utc"):
        return zoneinfo.ZoneInfo("UTC")
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        known = _names().get(name.casefold())
        return zoneinfo.ZoneInfo(known) if known else None


@cache
def _names() -> dict[str, str]:
    """The IANA names by their small letters."""
    names = {name.casefold(): name for name in sorted(zoneinfo.available_timezones())}
    return {small: name for small, name in names.items() if small not in _OF_THE_MACHINE}


def _near(name: str) -> list[str]:
    """IANA names that are spelled alike, as a whole or in their last part."""
    written = name.casefold().replace(" ", "_")
    names = {
        one: full for full in sorted(_names().values()) for one in (full.casefold(), full.casefold().rpartition("/")[2])
    }
    return list(dict.fromkeys(names[one] for one in difflib.get_close_matches(written, names, cutoff=0.8)))


@cache
def _jumps_of(zone: zoneinfo.ZoneInfo, year: int) -> tuple[Jump, ...]:
    """The jumps of a zone that begin in a year of UTC."""
    start, end = (int(np.datetime64(str(one), "s").astype(int)) for one in (year, year + 1))
    edges = [*range(start, end, _WEEK_S), end]
    offsets = [_offset_ms(zone, edge) for edge in edges]
    jumps = []
    for place in range(len(edges) - 1):
        before, after = offsets[place], offsets[place + 1]
        if before != after:
            jumps.append(Jump(1000 * _jump_between(zone, edges[place], edges[place + 1]), before, after))
    return tuple(jumps)


def _jump_between(zone: dt.tzinfo, start: int, end: int) -> int:
    """The second at which the clock jumps after `start`, until `end`."""
    before = _offset_ms(zone, start)
    while end - start > 1:
        middle = (start + end) // 2
        start, end = (middle, end) if _offset_ms(zone, middle) == before else (start, middle)
    return end


def _offset_ms(zone: dt.tzinfo, time: int) -> int:
    """By how much a zone is ahead of UTC at an instant, in s since the epoch."""
    known = min(max(time, _ENDS[0]), _ENDS[1])
    offset = (_EPOCH + dt.timedelta(seconds=known)).astimezone(zone).utcoffset()
    return 0 if offset is None else round(offset.total_seconds() * 1000)


def _stretches(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Starts and stops of what is true without a break."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _step(wall_ms: NDArray[np.int64], offsets: NDArray[np.int64]) -> int:
    """Give what divides all distances of rows; those over a jump count in a short table only, or where they are common.

    The commonest distance would not do: rows that are seldom without a gap are farther apart than their bars are long.
    """
    distances = np.abs(np.diff(wall_ms))
    is_over = (np.ptp(offsets, axis=1)[1:] > 0) | (offsets[1:] != offsets[:-1]).any(axis=1)
    if is_over.sum() < _RARE * len(distances):
        distances = distances[~is_over]
    return int(np.gcd.reduce(np.unique(distances)))


def _second_pass(wall_ms: NDArray[np.int64], stretch: slice, step: int, jump: int) -> slice | None:
    """Which rows of a stretch of times that come twice are of the second pass; None where nothing tells."""
    if step > jump:
        return _on_grid(wall_ms, stretch, step, jump)
    return _after_turn(wall_ms, stretch)


def _on_grid(wall_ms: NDArray[np.int64], stretch: slice, step: int, jump: int) -> slice | None:
    """Tell it by the distances to the rows about it, where the clock does not come by each pass.

    The first is meant where rows keep their distance on the clock, as a day does; otherwise the one that keeps it.
    """
    start, stop = stretch.start, stretch.stop
    rows = wall_ms[stretch]
    away = np.concatenate([wall_ms[max(0, start - 1) : start], wall_ms[stop : stop + 1]]) - rows[0]
    earlier, later = -away[away < 0], away[away > 0]
    if (rows != rows[0]).any() or (step < DAY_MS and not (len(earlier) and len(later))):
        return None
    if not (earlier % step).any() and (not (later % step).any() or not ((later + jump) % step).any()):
        return slice(start, start)
    is_second = not ((earlier + jump) % step).any() and not (later % step).any()
    return slice(start, stop) if is_second else None


def _after_turn(wall_ms: NDArray[np.int64], stretch: slice) -> slice | None:
    """Tell it by the order of rows: within the stretch the clock must go back once, and about it rows must not."""
    start, stop = stretch.start, stretch.stop
    before, after = wall_ms[max(0, start - _NEIGHBOURS) : start], wall_ms[stop : stop + _NEIGHBOURS]
    rows = wall_ms[stretch]
    steps = np.diff(np.concatenate([before, rows[:1], after]))
    way = 1 if (steps > 0).all() else -1
    back = np.flatnonzero(np.diff(rows) * way <= 0)
    is_clear = len(steps) and (steps * way > 0).all() and len(back) == 1 and len(np.unique(rows)) < len(rows)
    if not is_clear:
        return None
    turn = start + int(back[0]) + 1
    return slice(turn, stop) if way > 0 else slice(start, turn)


def _twice(wall_ms: int) -> str:
    """Say why a time of an hour that comes twice is not read."""
    return f"{np.datetime64(wall_ms, 'ms').item():%H:%M} comes twice on this clock, and the row does not say which"
