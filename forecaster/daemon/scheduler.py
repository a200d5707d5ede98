"""The daemon: APScheduler says when, a queue carries the work, one worker runs the cycles.

Jobs only queue, so that no job can block the scheduler; cycles run in the thread that called `run`.
The job store is memory: what is owed is derived from calendar and ledger, never from stored jobs.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from forecaster.daemon.clock import Clock, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecaster.config import Config
    from forecaster.engine import CycleReport, Forecaster
    from forecaster.timeframe import Timeframe

_log = structlog.get_logger(__name__)
_JOB_DEFAULTS = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}


@dataclass(frozen=True, slots=True)
class Due:
    """A cycle that is owed."""

    timeframe: Timeframe
    as_of: int


class Daemon:
    """Runs a cycle at every bar close until it is stopped.

    Args:
        forecaster: the path.
        clock: real or sped up.
        on_cycle: called with each report, in the worker's thread.
    """

    def __init__(
        self, forecaster: Forecaster, clock: Clock, on_cycle: Callable[[CycleReport], None] | None = None
    ) -> None:
        self._forecaster = forecaster
        self._clock = clock
        self._on_cycle = on_cycle
        self._queue: queue.SimpleQueue[Due | None] = queue.SimpleQueue()  # its put may run in a signal handler
        self._pending = 0
        self._turn = threading.Lock()

    def run(self, cycles: int | None = None) -> int:
        """Run until `stop`, or for so many cycles; returns how many were run."""
        _ = self._forecaster.models  # loaded before the first close is due
        scheduler = _GuardedScheduler(job_defaults=_JOB_DEFAULTS, timezone="UTC")
        for schedule in schedules(self._forecaster.config):
            scheduler.add_job(self._queue_due, self._clock.trigger(schedule), args=[schedule], id=str(schedule))
        scheduler.start()
        _log.info("daemon.started", series=len(self._forecaster.series))
        try:
            return self._work(cycles)
        finally:
            scheduler.shutdown(wait=False)
            _log.info("daemon.stopped")

    def stop(self) -> None:
        """Finish what is queued and leave; safe to call from a signal handler or another thread."""
        self._queue.put(None)

    def queue_now(self) -> None:
        """Owe one cycle of every timeframe at once: what may have closed while nobody was here."""
        with self._turn:
            for timeframe in self._forecaster.timeframes:
                self._put(Due(timeframe, self._clock.now()))

    def _queue_due(self, schedule: Schedule) -> None:
        with self._turn:
            as_of = self._clock.due(schedule, self._pending)
            if as_of is not None:
                self._put(Due(schedule.timeframe, as_of))

    def _put(self, due: Due) -> None:
        """Queue a cycle; called with the turn in hand."""
        self._pending += 1
        self._queue.put(due)

    def _work(self, cycles: int | None) -> int:
        done = 0
        while done != cycles and (due := self._queue.get()) is not None:
            report = self._forecaster.run_cycle(due.timeframe, due.as_of, self._clock.now())
            if self._on_cycle is not None:
                self._on_cycle(report)
            done += 1
            with self._turn:
                self._pending -= 1
        return done


def schedules(config: Config) -> list[Schedule]:
    """One schedule for each timeframe and calendar that the series need."""
    settle_ms = round(config.settle_seconds * 1000)
    keys = [one.key for one in config.series]
    return list(dict.fromkeys(Schedule(key.timeframe, key.calendar, settle_ms) for key in keys))


class _GuardedScheduler(BackgroundScheduler):  # type: ignore[misc]  # APScheduler is not typed
    """APScheduler whose loop outlives a fault: one exception in `_process_jobs` would end it in silence."""

    def _process_jobs(self) -> float | None:
        try:
            seconds: float | None = super()._process_jobs()
        except Exception:  # noqa: BLE001 - whatever a trigger or store raises, closes must go on
            _log.exception("scheduler.faulted")
            return 1.0
        return seconds
