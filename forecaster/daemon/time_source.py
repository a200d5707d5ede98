"""When bar closes are due: by the wall clock, or by a simulated clock that never waits.

A clock makes the trigger of a schedule and gives the as-of time of its next cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.interval import IntervalTrigger

from forecaster.calendars import get_calendar
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
    """The closes of one exchange, timeframe and calendar; bars are fetched `fetch_delay_ms` after each."""

    exchange: str
    timeframe: Timeframe
    calendar: str
    fetch_delay_ms: int

    def next_due(self, after: int) -> int:
        """Return the first time after `after` (UTC ms) at which a cycle is due.

        Raises:
            CalendarEnds: when the calendar is not recorded that far ahead.
        """
        return get_calendar(self.calendar).next_close(self.timeframe, after - self.fetch_delay_ms) + self.fetch_delay_ms


class Clock(Protocol):
    """Gives the daemon its current time and its triggers."""

    def now(self) -> int:
        """Return the current time in UTC ms."""

    def trigger(self, schedule: Schedule) -> BaseTrigger:
        """Return the APScheduler trigger of a schedule."""

    def due(self, schedule: Schedule, pending: int) -> int | None:
        """Return the as-of time of the cycle to queue now, or None. `pending` is the number of unfinished cycles."""


class WallClock:
    """Real time: fires at every close of the calendar."""

    def now(self) -> int:
        """Return the current time in UTC ms."""
        return now_ms()

    def trigger(self, schedule: Schedule) -> BaseTrigger:
        """Return a trigger that fires at each due time."""
        return _CloseTrigger(schedule)

    def due(self, schedule: Schedule, pending: int) -> int | None:
        """Return the current time; the cycle finds the latest close itself."""
        del schedule, pending
        return now_ms()


class SimulatedClock:
    """Simulated time that jumps from close to close as soon as the previous cycle is done.

    Args:
        start: UTC ms; only later closes are used.
        schedules: all schedules; their closes come in time order.
    """

    def __init__(self, start: int, schedules: Sequence[Schedule]) -> None:
        self._now = start
        self._next = {schedule: _due_or_never(schedule, start) for schedule in schedules}

    def now(self) -> int:
        """Return the simulated time in UTC ms."""
        return self._now

    def trigger(self, schedule: Schedule) -> BaseTrigger:
        """Return a trigger that fires every few milliseconds of real time."""
        del schedule
        return IntervalTrigger(seconds=TICK_SECONDS, timezone=UTC)

    def due(self, schedule: Schedule, pending: int) -> int | None:
        """Advance to the next close and return it, unless work is pending or another schedule comes first."""
        due = self._next[schedule]
        if pending or due == _NEVER or due > min(self._next.values()):
            return None
        self._now = due
        self._next[schedule] = _due_or_never(schedule, due)
        return due


class _CloseTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler is not typed
    """Fires when a schedule is due, computed from its calendar each time: no drift, no DST.

    It never fires again once the calendar ends; the other schedules go on.

    It skips missed times. After a clock jump APScheduler would otherwise enumerate every close in between with its lock
    held, 14 s for each year of minutes.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the first due time after both `previous_fire_time` and `now`."""
        after = round(max(previous_fire_time or now, now).timestamp() * 1000)
        due = _due_or_never(self._schedule, after)
        return None if due == _NEVER else datetime.fromtimestamp(due / 1000, UTC)

    def __str__(self) -> str:
        return f"close[{self._schedule.exchange} {self._schedule.timeframe} {self._schedule.calendar}]"


def _due_or_never(schedule: Schedule, after: int) -> int:
    """Return the first due time after `after`, or `_NEVER` with a log line when the calendar ends."""
    try:
        return schedule.next_due(after)
    except CalendarEnds as error:
        _log.warning("schedule.ended", exchange=schedule.exchange, timeframe=str(schedule.timeframe), reason=str(error))
        return _NEVER
