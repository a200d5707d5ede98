"""The scheduled job: a clock queues cycles, and workers run them one after another."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from forecaster.calendars import get_calendar
from forecaster.daemon.cycle_queue import CycleQueue, ScheduledCycle
from forecaster.daemon.scheduler import Scheduler, schedules_of
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecaster.bars import SeriesKey
    from forecaster.cycle.ingest import WaitPolicy
    from forecaster.cycle.run import CycleReport
    from forecaster.daemon.time_source import Clock, Schedule
    from forecaster.engine import Forecaster

_ARRIVAL_BATCH_SECONDS: Final = 0.25
"""How long arrived bars are collected before their cycle starts."""

_log = get_logger(__name__)


class Daemon:
    """Schedules cycles and runs them. `run` works in the caller's thread; a service uses its own workers.

    Args:
        forecaster: runs the cycles.
        clock: real or simulated.
        on_tick: called after each successful turn of the scheduler's loop.
        on_fault: called with each exception that the scheduler survives.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        clock: Clock,
        on_tick: Callable[[], None] = lambda: None,
        on_fault: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self.queue = CycleQueue()
        self._forecaster = forecaster
        self._clock = clock
        self._schedules = schedules_of(forecaster.config)
        self._scheduler = Scheduler(self._schedules, clock, self._enqueue, on_tick, on_fault)
        self._enqueue_lock = threading.Lock()

    def start(self) -> None:
        """Load the models and start the scheduler.

        Raises:
            ConfigError: for an unknown calendar.
            ModelLoadError: when a model cannot be loaded.
        """
        for schedule in self._schedules:
            get_calendar(schedule.calendar)
        _ = self._forecaster.models
        self._forecaster.on_straggler(self._enqueue_arrival)
        self._scheduler.start()
        _log.info("daemon.started", series=len(self._forecaster.series), schedules=len(self._schedules))

    def stop(self) -> None:
        """Stop the scheduler and close the queue. Queued forecasts stay pending in the store."""
        self._scheduler.stop()
        self.queue.close()

    def enqueue_all(self) -> list[ScheduledCycle]:
        """Queue a cycle of every exchange and timeframe now, to catch up after a stop."""
        now = self._clock.now()
        cycles = list(dict.fromkeys(ScheduledCycle(each.exchange, each.timeframe, now) for each in self._schedules))
        for cycle in cycles:
            self.queue.put(cycle)
        return cycles

    def run_cycle(self, cycle: ScheduledCycle) -> CycleReport:
        """Run a cycle that was taken from the queue, without waiting for series whose source is slow.

        A retry waits for no series, so that it does not delay the next close.
        """
        now = self._clock.now()
        if cycle.cause == "arrival":
            return self._forecaster.run_arrived(cycle.timeframe, now, now, cycle.exchange)
        waits_for: WaitPolicy = "most" if cycle.cause == "close" else "none"
        return self._forecaster.run_cycle(cycle.timeframe, now, now, cycle.exchange, waits_for)

    def run(self, cycles: int | None = None, on_cycle: Callable[[CycleReport], None] = lambda _: None) -> int:
        """Run cycles until `stop`, or until `cycles` have run; return their number. An exception ends the run."""
        count = 0
        self.start()
        try:
            while count != cycles and (cycle := self.queue.take(threading.TIMEOUT_MAX)) is not None:
                now = self._clock.now()
                on_cycle(self._forecaster.run_cycle(cycle.timeframe, now, now, cycle.exchange))
                self.queue.task_done(cycle)
                count += 1
        finally:
            self.stop()
        return count

    def _enqueue_arrival(self, key: SeriesKey) -> None:
        cycle = ScheduledCycle(key.exchange, key.timeframe, self._clock.now(), "arrival")
        self.queue.put(cycle, _ARRIVAL_BATCH_SECONDS)

    def _enqueue(self, schedule: Schedule) -> None:
        with self._enqueue_lock:
            as_of = self._clock.due(schedule, self.queue.unfinished())
            if as_of is not None:
                self.queue.put(ScheduledCycle(schedule.exchange, schedule.timeframe, as_of))
