"""When bar closes are due: by the wall clock, or by a simulated one that never waits.

A clock makes the trigger of a schedule, and names the time as of which its next cycle runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from forecaster.calendars import calendar
from forecaster.clock import now_ms
from forecaster.errors import CalendarEnds
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.timeframe import Timeframe

TICK_SECONDS: Final = 0.02
_NEVER: Final = 2**63 - 1
_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The closes of one exchange's series of a timeframe, on a calendar; `settle_ms` after each, bars are asked for."""

    exchange: str
    timeframe: Timeframe
    calendar: str
    settle_ms: int

    def next_due(self, after: int) -> int:
        """First time later than `after` at which a cycle is due.

        Raises:
            CalendarEnds: when the calendar is not known so far ahead.
        """
        return calendar(self.calendar).next_close(self.timeframe, after - self.settle_ms) + self.settle_ms


class Clock(Protocol):
    """Tells the daemon when, and as of what time."""

    def now(self) -> int:
        """UTC ms."""

    def trigger(self, schedule: Schedule) -> BaseTrigger:
        """What makes APScheduler fire for this schedule."""

    def due(self, schedule: Schedule, pending: int) -> int | None:
        """As-of time of the cycle to queue now, with `pending` cycles not finished yet; None for none."""


class WallClock:
    """Real time: fires at every close of the calendar."""

    def now(self) -> int:
        """UTC ms."""
        return now_ms()

    def trigger(self, schedule: Schedule) -> BaseTrigger:
        """Fire at each due time."""
        return _CloseTrigger(schedule)

    def due(self, schedule: Schedule, pending: int) -> int | None:
        """Now: the cycle finds the newest close by itself."""
        del schedule, pending
        return now_ms()


class SpedUpClock:
    """Simulated time that jumps from close to close, as soon as the cycle before is done.

    Args:
        start: UTC ms from which closes count.
        schedules: all that will be asked for; closes of several come in the order of time.
    """

    def __init__(self, start: int, schedules: Sequence[Schedule]) -> None:
        self._now = start
        self._next = {schedule: _due_or_never(schedule, start) for schedule in schedules}

    def now(self) -> int:
        """Simulated UTC ms."""
        return self._now

    def trigger(self, schedule: Schedule) -> BaseTrigger:
        """Ask again every few milliseconds of real time."""
        del schedule
        return IntervalTrigger(seconds=TICK_SECONDS, timezone=UTC)

    def due(self, schedule: Schedule, pending: int) -> int | None:
        """Advance to the next close, unless work is pending or another schedule's close comes first."""
        due = self._next[schedule]
        if pending or due == _NEVER or due > min(self._next.values()):
            return None
        self._now = due
        self._next[schedule] = _due_or_never(schedule, due)
        return due


class _CloseTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler is not typed
    """Fires when a schedule is due, computed from its calendar each time: it cannot drift, and knows no DST.

    Where the calendar ends it never fires again, and the other schedules go on.

    What it missed it does not make up for: after a jump of the clock APScheduler would ask for every close in between,
    one by one and with its lock held, 14 s for each year of minutes.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """First due time after the previous one, and after `now`."""
        after = round(max(previous_fire_time or now, now).timestamp() * 1000)
        due = _due_or_never(self._schedule, after)
        return None if due == _NEVER else datetime.fromtimestamp(due / 1000, UTC)

    def __str__(self) -> str:
        return f"close[{self._schedule.exchange} {self._schedule.timeframe} {self._schedule.calendar}]"


def _due_or_never(schedule: Schedule, after: int) -> int:
    """First time later than `after` at which a cycle is due; it is told when there will be none."""
    try:
        return schedule.next_due(after)
    except CalendarEnds as error:
        _log.warning("schedule.ended", exchange=schedule.exchange, timeframe=str(schedule.timeframe), reason=str(error))
        return _NEVER
