"""One run of the service: worker threads around a daemon, from the lease to its release.

A fault ends the cycle it happened in, which is retried. Only a lost lease or a control signal ends the run.
"""

from __future__ import annotations

import threading
import time
from itertools import cycle as repeat_forever
from typing import TYPE_CHECKING, Final, Self

from forecaster.daemon.daemon import Daemon
from forecaster.daemon.integrity_check import LedgerCheck
from forecaster.daemon.scheduler import SCHEDULER, STALLED_AFTER_SECONDS
from forecaster.errors import (
    BarsError,
    ConfigError,
    ForecasterError,
    LeaseLost,
    StoreError,
    StoreUnavailable,
)
from forecaster.log import get_logger
from forecaster.model import CompilableModel
from forecaster.urls import sqlite_path

if TYPE_CHECKING:
    from forecaster.bars import SeriesKey
    from forecaster.config import Config
    from forecaster.cycle.run import CycleReport
    from forecaster.daemon.cycle_queue import ScheduledCycle
    from forecaster.daemon.health_state import HealthState
    from forecaster.daemon.time_source import Clock
    from forecaster.engine import Forecaster

MAX_WORKERS: Final = 8
STUCK_AFTER_SECONDS: Final = 600.0
"""Seconds without a heartbeat after which a worker, or the main thread, counts as stuck."""

UNAVAILABLE: Final = "ledger_unavailable"
RETRIES_PER_BAR: Final = 24
MIN_RETRY_SECONDS: Final = 15.0
_MAX_BACKOFF_EXPONENT: Final = 20
_TAKE_SECONDS: Final = 1.0
_log = get_logger(__name__)


class ServiceRun:
    """Workers around one daemon, from the first cycle to the last; a context manager."""

    def __init__(self, forecaster: Forecaster, clock: Clock, health: HealthState) -> None:
        self._forecaster = forecaster
        self._clock = clock
        self._health = health
        self.has_lost_lease = threading.Event()
        self._daemon = Daemon(
            forecaster, clock, lambda: health.heartbeat(SCHEDULER), lambda _: health.record_scheduler_fault()
        )
        exchanges = {key.exchange for key in forecaster.series}
        self._workers = [
            threading.Thread(target=self._work, args=[f"worker {i}"], name=f"worker-{i}", daemon=True)
            for i in range(min(MAX_WORKERS, len(exchanges)))
        ]
        self._catching_up: set[tuple[str, object]] = set()
        self._failures: dict[tuple[str, object], int] = {}
        self._with_skipped: dict[tuple[str, object], ScheduledCycle] = {}
        self._held_exchanges: set[str] = set()
        self._series = repeat_forever(forecaster.series)
        self._ledger_check = _ledger_check_of(forecaster.config, health)

    def __enter__(self) -> Self:
        for key in self._forecaster.series:
            self._record_latest(key)
        self._health.register(SCHEDULER, STALLED_AFTER_SECONDS)
        self._daemon.start()
        if self._ledger_check is not None:
            self._ledger_check.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the running cycles, for at most `daemon.drain_seconds`."""
        _log.info("daemon.draining", waiting=self._daemon.queue.waiting())
        self._daemon.stop()
        if self._ledger_check is not None:
            self._ledger_check.stop()
        self._health.unregister(SCHEDULER)
        until = time.monotonic() + self._forecaster.config.daemon.drain_seconds
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))
        unfinished = [worker.name for worker in self._workers if worker.is_alive()]
        if unfinished:
            _log.warning("daemon.drain_timed_out", workers=unfinished)
        elif not self.has_lost_lease.is_set():
            self._run_last()
        self._health.set_lease(held=False, epoch=self._forecaster.store.epoch)

    def _run_last(self) -> None:
        """Finish series that are still being fetched. What cannot be written stays pending for the next start."""
        try:
            reports = self._forecaster.run_last(self._clock.now())
        except StoreError as error:
            _log.warning("ledger.write_failed", reason=str(error))
            return
        except Exception:  # noqa: BLE001 - the fault of one source must not keep the service from stopping
            _log.exception("daemon.last_cycle_failed")
            return
        for report in reports:
            self._health.record_cycle(report, None, [])

    def catch_up(self) -> None:
        """Start the workers, with a cycle of every exchange and timeframe queued."""
        cycles = self._daemon.enqueue_all()
        self._catching_up = {(cycle.exchange, cycle.timeframe) for cycle in cycles}
        _log.info("catch_up.started", cycles=len(cycles))
        for worker in self._workers:
            worker.start()

    @property
    def has_caught_up(self) -> bool:
        """Whether every exchange and timeframe has had its first cycle."""
        return not self._catching_up

    def check(self) -> None:
        """Renew the lease, retry exchanges whose hold has ended, and update the trust of one more series."""
        key = next(self._series)
        try:
            self._forecaster.store.renew()
        except LeaseLost as error:
            self._on_lease_lost(error)
            return
        except StoreUnavailable as error:
            self._health.set_ledger_fault(UNAVAILABLE, str(error))
            _log.warning("ledger.write_failed", reason=str(error))
            return
        self._health.set_ledger_fault(UNAVAILABLE, None)
        try:
            self._retry_released_exchanges()
            trust = self._forecaster.trust(key)
        except ForecasterError as error:
            _log.warning("ledger.read_failed", series=str(key), reason=str(error))
            return
        self._health.record_trust(key, trust)

    def _retry_released_exchanges(self) -> None:
        """Queue the skipped series of an exchange as soon as its hold has ended or was lifted."""
        now, before = self._clock.now(), self._held_exchanges
        holds = self._forecaster.reader.holds()
        self._held_exchanges = {hold.exchange for hold in holds if now < min(hold.until, hold.probe_at)}
        for cycle in list(self._with_skipped.values()):
            if cycle.exchange in before - self._held_exchanges:
                self._daemon.queue.put(cycle)

    def _record_latest(self, key: SeriesKey) -> None:
        """Record the latest forecast in the ledger; a series with unusable rows counts as one without a forecast."""
        try:
            forecast = self._forecaster.latest(key, max_age="any")
        except BarsError as error:
            _log.warning("ledger.read_failed", series=str(key), reason=str(error))
            return
        if forecast is not None:
            self._health.record_latest_forecast(key, forecast.cutoff)

    def _work(self, component: str) -> None:
        """Run queued cycles until the queue is closed. A fault ends its cycle and nothing else."""
        queue = self._daemon.queue
        self._health.register(component, STUCK_AFTER_SECONDS)
        while not queue.is_closed:
            self._health.heartbeat(component)
            cycle = queue.take(_TAKE_SECONDS)
            if cycle is None:
                continue
            try:
                self._on_completed(cycle, self._daemon.run_cycle(cycle))
            except LeaseLost as error:
                self._on_lease_lost(error)
            except Exception as error:  # noqa: BLE001 - the entry point of all cycles: the next one may succeed
                _log.exception("cycle.failed", exchange=cycle.exchange, timeframe=str(cycle.timeframe))
                self._on_failed(cycle, error)
            finally:
                queue.task_done(cycle)
                self._health.set_queue_length(queue.waiting())
        self._health.unregister(component)

    def _on_lease_lost(self, error: LeaseLost) -> None:
        _log.error("lease.lost", reason=str(error))
        self._health.set_lease(held=False, epoch=error.epoch)
        self._health.set_ledger_fault(UNAVAILABLE, str(error))
        self.has_lost_lease.set()

    def _on_completed(self, cycle: ScheduledCycle, report: CycleReport) -> None:
        """Record a cycle. Skipped series are retried before the next close, unless their failure is permanent."""
        group = (cycle.exchange, cycle.timeframe)
        self._failures.pop(group, None)
        model = self._forecaster.models.primary
        status = model.status() if isinstance(model, CompilableModel) else None
        self._health.record_cycle(report, status, self._forecaster.reader.holds())
        for key, drift in report.drifts:
            self._health.record_drift(key, drift.measure, drift.before, drift.now)
        if report.skipped.keys() - report.permanent_failures:
            self._with_skipped[group] = cycle._replace(cause="retry")
            self._daemon.queue.put(self._with_skipped[group], self._retry_seconds(cycle))
        elif cycle.cause != "arrival":
            self._with_skipped.pop(group, None)
        self._mark_caught_up(cycle)

    def _on_failed(self, cycle: ScheduledCycle, error: Exception) -> None:
        """Retry a cycle with backoff, several times before the next close; a `ConfigError` is not retried."""
        group = (cycle.exchange, cycle.timeframe)
        self._failures[group] = self._failures.get(group, 0) + 1
        self._health.record_cycle_failure(cycle.exchange, cycle.timeframe, error)
        if not isinstance(error, ConfigError):
            backoff = float(1 << min(self._failures[group], _MAX_BACKOFF_EXPONENT))
            self._daemon.queue.put(cycle._replace(cause="retry"), min(backoff, self._retry_seconds(cycle)))
        self._mark_caught_up(cycle)

    def _retry_seconds(self, cycle: ScheduledCycle) -> float:
        """Seconds until skipped series are retried."""
        return max(MIN_RETRY_SECONDS, cycle.timeframe.ms / 1000 / RETRIES_PER_BAR)

    def _mark_caught_up(self, cycle: ScheduledCycle) -> None:
        group = (cycle.exchange, cycle.timeframe)
        if group in self._catching_up:
            self._catching_up.discard(group)
            remaining = len(self._catching_up)
            _log.info("catch_up.progress", exchange=cycle.exchange, timeframe=str(cycle.timeframe), remaining=remaining)
            if not remaining:
                _log.info("catch_up.completed")


def _ledger_check_of(config: Config, health: HealthState) -> LedgerCheck | None:
    """The scheduled integrity check, if the ledger is a file and `daemon.check_hours` is not 0."""
    path = sqlite_path(config.store.url.reveal())
    if path is None or not config.daemon.check_hours:
        return None
    return LedgerCheck(path, 3600 * config.daemon.check_hours, health)
