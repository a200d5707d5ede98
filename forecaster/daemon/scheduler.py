"""APScheduler behind a guard: it calls for cycles, and neither a fault nor a clock that jumps ends that.

Jobs only call, in well under a millisecond, and know nothing of the work: which closes are owed is derived from
calendar and ledger. So the job store is memory, a call too many does no harm, and one too few is made up for by the
next. Left to itself APScheduler would end in silence at one exception in its loop, sleep through a clock that was set
forward, and stand still for as long as one was set back. A trigger that fails would keep all jobs after it from being
looked at; here a fault of one schedule stays its own, and that one is called for again and again until it is mended.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from apscheduler.events import EVENT_JOB_ERROR
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from forecaster.clock import now_ms
from forecaster.daemon.time_source import Clock, Schedule
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apscheduler.events import JobExecutionEvent

    from forecaster.config import Config

SCHEDULER: Final = "scheduler"
WAKE_SECONDS: Final = 5.0
WEDGED_AFTER: Final = 6 * WAKE_SECONDS
"""Seconds without a turn of the scheduler's loop after which it counts as wedged."""

JUMP_MS: Final = 2000
_JOB_DEFAULTS: Final = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 60.0
_log = get_logger(__name__)


class Scheduler:
    """Calls for a cycle at every close of every schedule, from `start` to `stop`.

    Args:
        schedules: what to call for.
        clock: real or sped up.
        call: what is called, on a thread of APScheduler's; it must not wait.
        on_turn: called at each turn of the loop that went well.
        on_fault: called at each fault, which the scheduler outlives, and the other schedules do not notice.
    """

    def __init__(
        self,
        schedules: list[Schedule],
        clock: Clock,
        call: Callable[[Schedule], None],
        on_turn: Callable[[], None] = lambda: None,
        on_fault: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._schedules = schedules
        self._clock = clock
        self._call = call
        self._on_fault = on_fault
        self._loop = _GuardedScheduler(on_turn, self._faulted)
        self._ended = threading.Event()
        self._waker = threading.Thread(target=self._keep_awake, name="scheduler-waker", daemon=True)

    def start(self) -> None:
        """Begin to call."""
        self._loop.add_listener(self._told, EVENT_JOB_ERROR)
        self._add_jobs()
        self._loop.start()
        self._waker.start()

    def stop(self) -> None:
        """Call no more; a call under way is not waited for."""
        self._ended.set()
        if self._loop.running:
            self._loop.shutdown(wait=False)

    def _add_jobs(self) -> None:
        for schedule in self._schedules:
            faulted = partial(self._faulted, schedule=str(schedule))
            trigger = _GuardedTrigger(partial(self._clock.trigger, schedule), faulted)
            with self._outliving(schedule):
                self._loop.add_job(self._call, trigger, args=[schedule], id=str(schedule), replace_existing=True)

    @contextmanager
    def _outliving(self, schedule: Schedule) -> Iterator[None]:
        """Tell what one schedule raises, and go on with the next."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - as in APScheduler's jobs: whatever it is, others must go on
            self._faulted(error, schedule=str(schedule))

    def _faulted(self, error: BaseException, **about: str) -> None:
        with suppress(Exception):  # a log that cannot be written must not end what it tells of
            _log.error("scheduler.faulted", exc_info=error, **about)
        with suppress(Exception):
            self._on_fault(error)

    def _told(self, event: JobExecutionEvent) -> None:
        """Tell of a call that raised; any `BaseException`, `SystemExit` too, stays that call's."""
        self._on_fault(event.exception)
        _log.error("scheduler.call_failed", schedule=event.job_id, reason=repr(event.exception))

    def _keep_awake(self) -> None:
        """Have the clock looked at every few seconds, and begin anew when it has jumped."""
        apart = _apart()
        while not self._ended.wait(WAKE_SECONDS):
            jumped = _apart() - apart
            apart += jumped
            try:
                if abs(jumped) > JUMP_MS:
                    _log.warning("clock.jumped", seconds=round(jumped / 1000, 3))
                    self._add_jobs()
                    for schedule in self._schedules:
                        with self._outliving(schedule):
                            self._call(schedule)
                self._loop.wakeup()
            except Exception as error:  # noqa: BLE001 - whatever it is, closes must go on
                self._faulted(error)


class _GuardedScheduler(BackgroundScheduler):  # type: ignore[misc]  # APScheduler is not typed
    """APScheduler whose loop outlives a fault: one exception in `_process_jobs` would end it in silence."""

    def __init__(self, on_turn: Callable[[], None], on_fault: Callable[[BaseException], None]) -> None:
        super().__init__(job_defaults=_JOB_DEFAULTS, timezone="UTC")
        self._on_turn = on_turn
        self._on_fault = on_fault

    def _process_jobs(self) -> float | None:
        try:
            seconds: float | None = super()._process_jobs()
            self._on_turn()
        except Exception as error:  # noqa: BLE001 - as above
            self._on_fault(error)
            return _RETRY_SECONDS
        return seconds


class _GuardedTrigger(BaseTrigger):  # type: ignore[misc]  # as above
    """A trigger that never raises: one that fails fires within a minute instead, since a call too many does no harm.

    Args:
        make: makes the trigger; it may fail as well.
        on_fault: called at each fault.
    """

    def __init__(self, make: Callable[[], BaseTrigger], on_fault: Callable[[BaseException], None]) -> None:
        self._make = make
        self._on_fault = on_fault
        self._trigger: BaseTrigger | None = None
        self._faults = 0

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """When the trigger fires next; after a fault soon, and later each time."""
        try:
            if self._trigger is None:
                self._trigger = self._make()
            fires: datetime | None = self._trigger.get_next_fire_time(previous_fire_time, now)
        except Exception as error:  # noqa: BLE001 - as above
            self._on_fault(error)
            self._faults += 1
            seconds = min(_RETRY_SECONDS * 2 ** min(self._faults - 1, 10), _LONGEST_RETRY_SECONDS)
            return now + timedelta(seconds=seconds)
        self._faults = 0
        return fires


def schedules_of(config: Config) -> list[Schedule]:
    """One schedule for each exchange, timeframe and calendar that the series need."""
    settle_ms = round(config.settle_seconds * 1000)
    keys = [one.key for one in config.series]
    return list(dict.fromkeys(Schedule(key.exchange, key.timeframe, key.calendar, settle_ms) for key in keys))


def _apart() -> int:
    """How far the wall clock is from the monotonic one, in ms: it changes only when somebody sets the clock."""
    return now_ms() - time.monotonic_ns() // 1_000_000
