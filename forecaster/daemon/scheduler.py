"""APScheduler behind a guard: it calls for cycles, and neither a fault nor a clock that jumps ends that.

Jobs only call, in well under a millisecond, and know nothing of the work: which closes are owed is derived from
calendar and ledger. So the job store is memory, a call too many does no harm, and one too few is made up for by the
next. Left to itself APScheduler would end in silence at one exception in its loop, sleep through a clock that was set
forward, and stand still for as long as one was set back.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from apscheduler.events import EVENT_JOB_ERROR
from apscheduler.schedulers.background import BackgroundScheduler

from forecaster.clock import now_ms
from forecaster.daemon.clock import Clock, Schedule
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from apscheduler.events import JobExecutionEvent

    from forecaster.config import Config

SCHEDULER: Final = "scheduler"
WAKE_SECONDS: Final = 5.0
WEDGED_AFTER: Final = 6 * WAKE_SECONDS
"""Seconds without a turn of the scheduler's loop after which it counts as wedged."""

JUMP_MS: Final = 2000
_JOB_DEFAULTS: Final = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
_RETRY_SECONDS: Final = 1.0
_log = get_logger(__name__)


class Scheduler:
    """Calls for a cycle at every close of every schedule, from `start` to `stop`.

    Args:
        schedules: what to call for.
        clock: real or sped up.
        call: what is called, on a thread of APScheduler's; it must not wait.
        on_turn: called at each turn of the loop that went well.
        on_fault: called at each fault, which the scheduler outlives.
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
            trigger = self._clock.trigger(schedule)
            self._loop.add_job(self._call, trigger, args=[schedule], id=str(schedule), replace_existing=True)

    def _faulted(self, error: BaseException) -> None:
        with suppress(Exception):  # a log that cannot be written must not end what it tells of
            _log.error("scheduler.faulted", exc_info=error)
        self._on_fault(error)

    def _told(self, event: JobExecutionEvent) -> None:
        """A call that failed, `SystemExit` too, which APScheduler would swallow."""
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


def schedules_of(config: Config) -> list[Schedule]:
    """One schedule for each exchange, timeframe and calendar that the series need."""
    settle_ms = round(config.settle_seconds * 1000)
    keys = [one.key for one in config.series]
    return list(dict.fromkeys(Schedule(key.exchange, key.timeframe, key.calendar, settle_ms) for key in keys))


def _apart() -> int:
    """How far the wall clock is from the monotonic one, in ms: it changes only when somebody sets the clock."""
    return now_ms() - time.monotonic_ns() // 1_000_000
