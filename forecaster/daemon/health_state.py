"""The health of the daemon: written by its threads, read by health endpoint, metrics, alerts and service manager.

*Alive* asks: does every component (scheduler, workers, main thread) make progress, and do cycles end where closes are
due? If not, a restart helps. *Ready* asks: does every series have a fresh forecast, and is the ledger whole and
writable? If not, a restart need not help, but strategies should know.

Answers come from what was recorded here and from clocks. Nothing is fetched, and the ledger is not read.
"""

from __future__ import annotations

import shutil
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.clock import now_ms
from forecaster.config import AlertsConfig
from forecaster.daemon import conditions
from forecaster.daemon.conditions import MAX_REASON_CHARACTERS, Condition
from forecaster.daemon.freshness import Freshness, StaleSeries, nth_last_close
from forecaster.daemon.prometheus import Metrics
from forecaster.errors import format_time
from forecaster.urls import sqlite_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from forecaster.accuracy.trust import Trust
    from forecaster.bars import SeriesKey
    from forecaster.config import Config
    from forecaster.cycle.run import CycleReport
    from forecaster.ledger import Hold
    from forecaster.model.chronos2.compiled import ModelStatus
    from forecaster.timeframe import Timeframe

DRIFT_ACTIVE_SECONDS: Final = 24 * 3600.0
"""How long a detected change of skill or coverage stays a condition: it has a start, but no end."""

REVISED_ACTIVE_SECONDS: Final = 3600.0
"""The same for revised bars, so that later revisions fire again."""

MISSED_CLOSES: Final = 3
"""Closes of an exchange and timeframe without an ended cycle, after which the daemon is not alive."""

IDLE_SECONDS: Final = 1200.0
"""Minimum time without an ended cycle before the daemon is not alive: two cycles of at most 10 minutes each."""


class Phase(StrEnum):
    """The phases of the daemon, in order."""

    STARTING = "starting"
    WAITING = "waiting"
    CHECKING = "checking"
    CATCHING_UP = "catching_up"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


_WORKING: Final = frozenset({Phase.CATCHING_UP, Phase.READY})


class _Component(NamedTuple):
    """A component that must send a heartbeat every `timeout` seconds, and its last one (monotonic seconds)."""

    timeout: float
    at: float


class _Failing(NamedTuple):
    """Consecutive failed cycles of one exchange and timeframe."""

    times: int
    since: int
    reason: str


class _Moment(NamedTuple):
    """UTC ms and monotonic seconds of one moment."""

    at: int
    seconds: float


class _Change(NamedTuple):
    """A detected change, and when it was recorded (monotonic seconds)."""

    text: str
    at: float


class HealthState:
    """What the daemon knows about itself. Every method is thread-safe and returns at once.

    Args:
        config: the series that must be forecast.
        now: the wall clock in UTC ms.
        monotonic: monotonic clock in seconds.
    """

    def __init__(
        self, config: Config, now: Callable[[], int] = now_ms, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._metrics_lock = threading.Lock()
        self._metrics = Metrics(config)
        self._freshness = Freshness()
        self._phase = Phase.STARTING
        self._components: dict[str, _Component] = {}
        self._failing: dict[tuple[str, str], _Failing] = {}
        self._holds: dict[str, Hold] = {}
        self._drifts: dict[tuple[SeriesKey, str], _Change] = {}
        self._revised: dict[SeriesKey, _Change] = {}
        self._without_skill: dict[SeriesKey, str] = {}
        self._model_status: ModelStatus | None = None
        self._cycle_ends: dict[tuple[str | None, Timeframe], _Moment] = {}
        self._ledger_faults: dict[str, str] = {}
        self._last_cycle = "none yet"
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Use a configuration from now on; forget series that it does not have."""
        with self._metrics_lock:
            self._metrics.configure(config)
        with self._lock:
            self._config = config
            self._freshness.configure(config)
            self._keys = keys = dict.fromkeys(series.key for series in config.series)
            self._exchanges = {key.exchange for key in keys}
            groups = {self._metrics.labels(name, key.timeframe) for key in keys for name in (key.exchange, None)}
            self._without_skill = {key: text for key, text in self._without_skill.items() if key in keys}
            self._drifts = {about: change for about, change in self._drifts.items() if about[0] in keys}
            self._revised = {key: change for key, change in self._revised.items() if key in keys}
            self._failing = {group: failing for group, failing in self._failing.items() if group in groups}
            self._holds = {name: hold for name, hold in self._holds.items() if name in self._exchanges}

    @property
    def phase(self) -> Phase:
        """The current phase."""
        return self._phase

    def enter_phase(self, phase: Phase) -> None:
        """Enter a phase. From `CATCHING_UP` on, cycles are expected to end."""
        with self._lock:
            self._phase = phase
            if phase is Phase.CATCHING_UP:
                self._cycle_ends = {(key.exchange, key.timeframe): self._moment() for key in self._keys}

    def register(self, component: str, timeout: float) -> None:
        """Expect a heartbeat of this component at least every `timeout` seconds from now on."""
        with self._lock:
            self._components[component] = _Component(timeout, self._monotonic())

    def heartbeat(self, component: str) -> None:
        """Record that this component made progress."""
        with self._lock:
            if component in self._components:
                self._components[component] = self._components[component]._replace(at=self._monotonic())

    def unregister(self, component: str) -> None:
        """Expect no more heartbeats of this component."""
        with self._lock:
            self._components.pop(component, None)

    def record_cycle(self, report: CycleReport, status: ModelStatus | None, holds: Iterable[Hold]) -> None:
        """Record a completed cycle.

        Args:
            report: what the cycle did.
            status: the engines that serve; None for a model without a choice of engines.
            holds: the latest hold of each exchange that has ever refused requests.
        """
        labels = self._metrics.labels(report.exchange, report.timeframe)
        with self._lock:
            self._cycle_ends[report.exchange, report.timeframe] = self._moment()
            for forecast in report.forecasts:
                self._freshness.record_forecast(forecast.key, forecast.cutoff)
            for key, opens in report.revised_bars.items():
                text = f"{key}, {len(opens)} bars, the first of {format_time(opens[0])}"
                self._revised[key] = _Change(text, self._monotonic())
            self._freshness.record_seconds(report.exchange, report.timeframe, report.seconds)
            self._failing.pop(labels, None)
            self._holds |= {hold.exchange: hold for hold in holds if hold.exchange in self._exchanges}
            as_of = format_time(report.as_of)
            self._last_cycle = f"{' '.join(labels)} as of {as_of}, {len(report.forecasts)} forecasts"
            self._model_status = status or self._model_status
        with self._metrics_lock:
            self._metrics.count_cycle(report)
            if status is not None:
                self._metrics.count_fallbacks(status)

    def record_cycle_failure(self, exchange: str | None, timeframe: Timeframe, error: BaseException) -> None:
        """Record a cycle that ended with an exception."""
        labels = self._metrics.labels(exchange, timeframe)
        with self._lock:
            before = self._failing.get(labels, _Failing(0, self._now(), ""))
            self._cycle_ends[exchange, timeframe] = self._moment()
            reason = f"{type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS]
            self._failing[labels] = _Failing(before.times + 1, before.since, reason)
            self._metrics.add("forecaster_cycles_total", *labels, "failed")

    def record_latest_forecast(self, key: SeriesKey, cutoff: int) -> None:
        """Record the latest forecast of a series in the ledger."""
        with self._lock:
            self._freshness.record_forecast(key, cutoff)

    def set_queue_length(self, waiting: int) -> None:
        """Set the number of queued cycles."""
        self._metrics.set("forecaster_queue_length", waiting)

    def set_lease(self, held: bool, epoch: int) -> None:  # noqa: FBT001 - always passed by name
        """Set whether this process may write the ledger."""
        self._metrics.set("forecaster_lease_held", held)
        self._metrics.set("forecaster_lease_epoch", epoch)

    def set_ledger_fault(self, kind: str, reason: str | None) -> None:
        """Set why the ledger is `ledger_unavailable` or `ledger_damaged`; None clears it."""
        with self._lock:
            self._ledger_faults.pop(kind, None)
            if reason is not None:
                self._ledger_faults[kind] = reason
            self._metrics.set("forecaster_ledger_healthy", not self._ledger_faults)

    def record_scheduler_fault(self) -> None:
        """Count an exception that the scheduler survived."""
        self._metrics.add("forecaster_scheduler_faults_total")

    def record_drift(self, key: SeriesKey, measure: str, before: float, now: float) -> None:
        """Record a change of the model's skill or coverage on a series."""
        with self._lock:
            self._drifts[key, measure] = _Change(f"{key}, {measure} {before:.3f} → {now:.3f}", self._monotonic())
            self._metrics.add("forecaster_drifts_total", measure)

    def record_trust(self, key: SeriesKey, trust: Trust | None) -> None:
        """Record the verdict on the model's skill on a series; None where nothing has settled."""
        with self._lock:
            self._without_skill.pop(key, None)
            if trust is not None and "worse than" in trust.verdict.summary:
                self._without_skill[key] = f"{key}, {trust.verdict.summary}, {trust.verdict.n} closes"

    def record_alert(self, kind: str, outcome: str) -> None:
        """Count an alert of a kind that was `sent` or has `failed`."""
        self._metrics.count_alert(kind, outcome)

    def unhealthy(self) -> list[str]:
        """Return why the daemon is not alive; empty when it is."""
        return [f"{subject}: {reason}" for subject, reason in self._hanging().items()]

    def not_ready_reasons(self) -> list[str]:
        """Return why the daemon is not ready: phase, ledger, what is not alive, stale series; empty when it is."""
        phase = [] if self._phase is Phase.READY else [f"phase: {self._phase}"]
        with self._lock:
            ledger = [f"{kind}: {reason}" for kind, reason in self._ledger_faults.items()]
        return [*phase, *ledger, *self.unhealthy(), *(f"{stale.key}: {stale.reason}" for stale in self._stale())]

    def conditions(self) -> list[Condition]:
        """Return what an operator should know now; series are grouped by exchange and timeframe."""
        active = [
            Condition("not_alive", subject, f"{subject}: {reason}", "critical")
            for subject, reason in self._hanging().items()
        ]
        if self._phase is Phase.READY:  # during catch-up and standby, stale series are expected
            stale = [(stale.key, f"{stale.key}, {stale.reason}") for stale in self._stale()]
            active += conditions.by_group("stale_series", "no fresh forecast", stale, "critical")
        with self._lock:
            active += self._recorded_conditions()
            status = self._model_status
        active += conditions.fallback(status) if status is not None else []
        return [conditions.sanitized(condition) for condition in active + self._low_disk()]

    def _recorded_conditions(self) -> list[Condition]:
        now, seconds = self._now(), self._monotonic()
        active = [Condition(kind, "ledger", reason, "critical") for kind, reason in self._ledger_faults.items()]
        if self._phase in _WORKING:
            active += [conditions.failing_cycle(labels, *failing) for labels, failing in self._failing.items()]
        active += [conditions.ban(hold) for hold in self._holds.values() if hold.until > now]
        self._drifts = {
            about: drift for about, drift in self._drifts.items() if drift.at > seconds - DRIFT_ACTIVE_SECONDS
        }
        self._revised = {key: rev for key, rev in self._revised.items() if rev.at > seconds - REVISED_ACTIVE_SECONDS}
        revised = [(key, revision.text) for key, revision in self._revised.items()]
        active += conditions.by_group("revised", "bars were revised after they were final", revised)
        drifts = [(key, drift.text) for (key, _), drift in self._drifts.items()]
        active += conditions.by_group("drift", "skill or coverage changed", drifts)
        return active + conditions.by_group("no_skill", "worse than the random walk", self._without_skill.items())

    def metrics_text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        with self._metrics_lock:
            self._update_gauges()
            return self._metrics.text()

    def summary(self) -> str:
        """Return phase, series and the last cycle in one line; it changes only when one of them does."""
        series = f"{len(self._keys)} series, {len(self._stale())} stale"
        return f"{self._phase}; {series}; last cycle: {self._last_cycle}"

    def _hanging(self) -> dict[str, str]:
        return self._overdue() | self._idle()

    def _overdue(self) -> dict[str, str]:
        """Components whose last heartbeat is too long ago."""
        with self._lock:
            now = self._monotonic()
            return {
                name: f"no progress for {now - component.at:.0f} s, expected within {component.timeout:g} s"
                for name, component in sorted(self._components.items())
                if now - component.at > component.timeout
            }

    def _idle(self) -> dict[str, str]:
        """Exchanges and timeframes without an ended cycle, failed or not, while several closes have passed.

        While an exchange is down its cycles still end, with every series skipped. Without a close in the calendar no
        cycle is due. A standby runs none.
        """
        idle = {}
        with self._lock:
            ends = self._cycle_ends if self._phase in _WORKING else {}
            for key in self._keys:
                last = ends.get((key.exchange, key.timeframe))
                allowed = max(MISSED_CLOSES * key.timeframe.ms / 1000, IDLE_SECONDS)
                if last is None or self._monotonic() - last.seconds <= allowed:
                    continue
                if nth_last_close(key, self._now() - self._freshness.grace_ms(key), MISSED_CLOSES) > last.at:
                    reason = f"no cycle has ended for {self._monotonic() - last.seconds:.0f} s"
                    idle[f"{key.exchange} {key.timeframe}"] = f"{reason}, though {MISSED_CLOSES} closes have passed"
        return idle

    def _moment(self) -> _Moment:
        return _Moment(self._now(), self._monotonic())

    def _stale(self) -> list[StaleSeries]:
        with self._lock:
            return self._freshness.stale(self._now())

    def _low_disk(self) -> list[Condition]:
        needed = (self._config.alerts or AlertsConfig()).disk_free_mib << 20
        free = self._disk_free()
        if free is None or free >= needed:
            return []
        text = f"{_ledger_folder(self._config)}: {free >> 20} MiB free, expected {needed >> 20} MiB or more"
        return [Condition("disk", "ledger", text, "critical")]

    def _disk_free(self) -> int | None:
        """Free bytes beside the ledger; None when the system cannot say."""
        try:
            return shutil.disk_usage(_ledger_folder(self._config)).free
        except OSError:
            return None

    def _update_gauges(self) -> None:
        metrics, free, ready = self._metrics, self._disk_free(), not self.not_ready_reasons()
        stale = [(stale.key.exchange, stale.key.timeframe) for stale in self._stale()]
        with self._lock:
            metrics.clear_gauges()
            metrics.set("forecaster_ready", ready)
            metrics.set("forecaster_disk_free_bytes", float("nan") if free is None else free)
            for name in self._exchanges:
                hold = self._holds.get(name)
                metrics.set("forecaster_breaker_open", hold is not None and hold.until > self._now(), name)
            for group, lag_ms in self._freshness.lags_ms(self._now()).items():
                labels = metrics.labels(*group)
                metrics.set("forecaster_stale_series", stale.count(group), *labels)
                if lag_ms is not None:
                    metrics.set("forecaster_forecast_lag_seconds", lag_ms / 1000, *labels)
            if self._model_status is not None:
                metrics.set_engines(self._model_status)
            metrics.set_accuracy()


def _ledger_folder(config: Config) -> Path:
    """The nearest existing folder of an SQLite ledger; the working folder for another database."""
    path = (sqlite_path(config.store.url.reveal()) or Path()).absolute()
    return next(folder for folder in (path.parent, *path.parents) if folder.exists())
