"""Queue a cycle at every close, with APScheduler made safe against exceptions and clock jumps.

Jobs only queue a cycle, in well under a millisecond. Which closes need a forecast is derived from calendar and ledger,
so the job store is memory: an extra call does no harm, and a missed call is covered by the next one.

APScheduler alone would stop silently at an exception in its loop, sleep through a forward jump of the clock, and stand
still for the length of a backward jump. A trigger that raises would also keep later jobs from running. Here an
exception stays with its schedule, which is retried until it works again.
"""

from __future__ import annotations

import logging
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
STALLED_AFTER_SECONDS: Final = 6 * WAKE_SECONDS
"""Seconds without a turn of the scheduler's loop after which it counts as stalled."""

CLOCK_JUMP_MS: Final = 2000
_JOB_DEFAULTS: Final = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
_RETRY_SECONDS: Final = 1.0
_MAX_RETRY_SECONDS: Final = 60.0
_APSCHEDULER_LOGGER: Final = logging.getLogger("apscheduler")
_log = get_logger(__name__)


class Scheduler:
    """Calls `call` at every close of every schedule, from `start` to `stop`.

    Args:
        schedules: the closes to call at.
        clock: real or simulated.
        call: called on a thread of APScheduler; must return at once.
        on_tick: called after each successful turn of the loop.
        on_fault: called with each exception that the scheduler survives.
    """

    def __init__(
        self,
        schedules: list[Schedule],
        clock: Clock,
        call: Callable[[Schedule], None],
        on_tick: Callable[[], None] = lambda: None,
        on_fault: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._schedules = schedules
        self._clock = clock
        self._call = call
        self._on_fault = on_fault
        self._loop = _GuardedScheduler(on_tick, self._report_fault)
        self._stopped = threading.Event()
        self._previous_log_level = _APSCHEDULER_LOGGER.level
        self._clock_watcher = threading.Thread(target=self._watch_clock, name="scheduler-clock-watcher", daemon=True)

    def start(self) -> None:
        """Start calling. APScheduler's own log lines are off until `stop`: ours report every fault."""
        _APSCHEDULER_LOGGER.setLevel(logging.CRITICAL)
        self._loop.add_listener(self._on_job_error, EVENT_JOB_ERROR)
        self._add_jobs()
        self._loop.start()
        self._clock_watcher.start()

    def stop(self) -> None:
        """Stop calling, without waiting for a call in progress."""
        self._stopped.set()
        if self._loop.running:
            self._loop.shutdown(wait=False)
        _APSCHEDULER_LOGGER.setLevel(self._previous_log_level)

    def _add_jobs(self) -> None:
        for schedule in self._schedules:
            on_fault = partial(self._report_fault, schedule=str(schedule))
            trigger = _GuardedTrigger(partial(self._clock.trigger, schedule), on_fault)
            with self._isolated(schedule):
                self._loop.add_job(self._call, trigger, args=[schedule], id=str(schedule), replace_existing=True)

    @contextmanager
    def _isolated(self, schedule: Schedule) -> Iterator[None]:
        """Report an exception of one schedule and go on with the next."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - as in APScheduler's jobs: the other schedules must go on
            self._report_fault(error, schedule=str(schedule))

    def _report_fault(self, error: BaseException, **context: str) -> None:
        with suppress(Exception):  # a log that cannot be written must not stop the scheduler
            _log.error("scheduler.faulted", exc_info=error, **context)
        with suppress(Exception):
            self._on_fault(error)

    def _on_job_error(self, event: JobExecutionEvent) -> None:
        """Report a call that raised any `BaseException`, `SystemExit` included."""
        self._on_fault(event.exception)
        _log.error("scheduler.call_failed", schedule=event.job_id, reason=repr(event.exception))

    def _watch_clock(self) -> None:
        """Wake the loop every few seconds, and rebuild the jobs after a jump of the wall clock."""
        offset = _wall_clock_offset_ms()
        while not self._stopped.wait(WAKE_SECONDS):
            jump_ms = _wall_clock_offset_ms() - offset
            offset += jump_ms
            try:
                if abs(jump_ms) > CLOCK_JUMP_MS:
                    _log.warning("clock.jumped", seconds=round(jump_ms / 1000, 3))
                    self._add_jobs()
                    for schedule in self._schedules:
                        with self._isolated(schedule):
                            self._call(schedule)
                self._loop.wakeup()
            except Exception as error:  # noqa: BLE001 - scheduling must go on
                self._report_fault(error)


class _GuardedScheduler(BackgroundScheduler):  # type: ignore[misc]  # APScheduler is not typed
    """APScheduler whose loop survives an exception in `_process_jobs`, which would end it silently."""

    def __init__(self, on_tick: Callable[[], None], on_fault: Callable[[BaseException], None]) -> None:
        super().__init__(job_defaults=_JOB_DEFAULTS, timezone="UTC")
        self._on_tick = on_tick
        self._on_fault = on_fault

    def _process_jobs(self) -> float | None:
        try:
            seconds: float | None = super()._process_jobs()
            self._on_tick()
        except Exception as error:  # noqa: BLE001 - as above
            self._on_fault(error)
            return _RETRY_SECONDS
        return seconds


class _GuardedTrigger(BaseTrigger):  # type: ignore[misc]  # as above
    """A trigger that never raises: after an exception it fires within a minute, since an extra call does no harm.

    Args:
        make: makes the trigger; it may raise too.
        on_fault: called with each exception.
    """

    def __init__(self, make: Callable[[], BaseTrigger], on_fault: Callable[[BaseException], None]) -> None:
        self._make = make
        self._on_fault = on_fault
        self._trigger: BaseTrigger | None = None
        self._fault_count = 0

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the trigger's next time; after exceptions, a time that backs off from 1 s to 60 s."""
        try:
            if self._trigger is None:
                self._trigger = self._make()
            next_time: datetime | None = self._trigger.get_next_fire_time(previous_fire_time, now)
        except Exception as error:  # noqa: BLE001 - as above
            self._on_fault(error)
            self._fault_count += 1
            seconds = min(_RETRY_SECONDS * 2 ** min(self._fault_count - 1, 10), _MAX_RETRY_SECONDS)
            return now + timedelta(seconds=seconds)
        self._fault_count = 0
        return next_time


def schedules_of(config: Config) -> list[Schedule]:
    """Return one schedule for each exchange, timeframe and calendar of the configured series."""
    fetch_delay_ms = round(config.fetch_delay_seconds * 1000)
    keys = [series.key for series in config.series]
    return list(dict.fromkeys(Schedule(key.exchange, key.timeframe, key.calendar, fetch_delay_ms) for key in keys))


def _wall_clock_offset_ms() -> int:
    """Wall clock minus monotonic clock, in ms: it changes only when the wall clock is set."""
    return now_ms() - time.monotonic_ns() // 1_000_000
