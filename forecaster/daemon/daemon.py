"""The daemon's heart: a clock calls for cycles, an agenda puts them in order, and workers take one after another."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from forecaster.calendars import calendar
from forecaster.daemon.cycle_queue import Agenda, Due
from forecaster.daemon.scheduler import Scheduler, schedules_of
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecaster.bars import SeriesKey
    from forecaster.cycle.ingest import WaitsFor
    from forecaster.daemon.time_source import Clock, Schedule
    from forecaster.engine import CycleReport, Forecaster

_TOGETHER_SECONDS: Final = 0.25
"""How long what has come waits for what comes next to it."""

_log = get_logger(__name__)


class Daemon:
    """Calls for cycles and runs them. `run` works in the caller's thread; a service has workers of its own.

    Args:
        forecaster: the path.
        clock: real or sped up.
        on_turn: called at each turn of the scheduler that went well.
        on_fault: called at each fault that the scheduler outlived.
    """

    def __init__(
        self,
        forecaster: Forecaster,
        clock: Clock,
        on_turn: Callable[[], None] = lambda: None,
        on_fault: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self.agenda = Agenda()
        self._forecaster = forecaster
        self._clock = clock
        self._schedules = schedules_of(forecaster.config)
        self._scheduler = Scheduler(self._schedules, clock, self._call, on_turn, on_fault)
        self._turn = threading.Lock()

    def start(self) -> None:
        """Load the models, and begin to call for cycles.

        Raises:
            ConfigError: for a calendar that nobody knows.
            ModelLoadError: when a model cannot be loaded.
        """
        for schedule in self._schedules:
            calendar(schedule.calendar)
        _ = self._forecaster.models
        self._forecaster.on_straggler(self._arrived)
        self._scheduler.start()
        _log.info("daemon.started", series=len(self._forecaster.series), schedules=len(self._schedules))

    def stop(self) -> None:
        """Call for no more cycles, and give none out; what is left is owed, and the store knows it."""
        self._scheduler.stop()
        self.agenda.close()

    def owe_all(self) -> list[Due]:
        """Call for a cycle of everything at once: what may have closed while nobody was here."""
        now = self._clock.now()
        dues = list(dict.fromkeys(Due(one.exchange, one.timeframe, now) for one in self._schedules))
        for due in dues:
            self.agenda.put(due)
        return dues

    def cycle(self, due: Due) -> CycleReport:
        """Run a cycle that was taken from the agenda, as things stand now; series whose source takes long are left.

        What is tried again waits for nobody: the next close must not wait for it.
        """
        now = self._clock.now()
        if due.cause == "arrived":
            return self._forecaster.run_arrived(due.timeframe, now, now, due.exchange)
        waits_for: WaitsFor = "most" if due.cause == "close" else "nobody"
        return self._forecaster.run_cycle(due.timeframe, now, now, due.exchange, waits_for)

    def run(self, cycles: int | None = None, on_cycle: Callable[[CycleReport], None] = lambda _: None) -> int:
        """Work until `stop`, or for so many cycles, each of which is told; returns how many. A fault ends it."""
        done = 0
        self.start()
        try:
            while done != cycles and (due := self.agenda.take(threading.TIMEOUT_MAX)) is not None:
                now = self._clock.now()
                on_cycle(self._forecaster.run_cycle(due.timeframe, now, now, due.exchange))
                self.agenda.done(due)
                done += 1
        finally:
            self.stop()
        return done

    def _arrived(self, key: SeriesKey) -> None:
        self.agenda.put(Due(key.exchange, key.timeframe, self._clock.now(), "arrived"), _TOGETHER_SECONDS)

    def _call(self, schedule: Schedule) -> None:
        with self._turn:
            at = self._clock.due(schedule, self.agenda.unfinished())
            if at is not None:
                self.agenda.put(Due(schedule.exchange, schedule.timeframe, at))
