"""What the daemon counts, as Prometheus reads it: names, labels, and how a cycle is counted.

Labels are names of the configuration or classes of our errors, and whatever else is given for one becomes `other`: a
symbol or an exchange's answer cannot make further time series. Every counter is exported as 0 from the start, for each
label value of the configuration: `increase` does not see the first event of a counter that did not exist before it.

Shapes: N steps, G fields and the range, C columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from forecaster.accuracy.drift import COVERAGE, SKILL
from forecaster.accuracy.losses import COLUMNS, SCORED
from forecaster.accuracy.scores import Totals
from forecaster.daemon.conditions import WHAT_TO_DO
from forecaster.errors import BarsError, ForecasterError, ModelError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from prometheus_client.metrics_core import Metric

    from forecaster.accuracy.losses import Losses
    from forecaster.config import Config
    from forecaster.engine import CycleReport
    from forecaster.model.chronos2.compiled import ModelStatus
    from forecaster.timeframe import Timeframe

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
KINDS: Final = tuple(WHAT_TO_DO)
"""What conditions are about."""

EVERY: Final = "all"
"""The label of a cycle over all exchanges."""
OTHER: Final = "other"
_PLACE: Final = ("exchange", "timeframe")

COUNTERS: Final = {
    "forecaster_cycles_total": ((*_PLACE, "outcome"), "Cycles that ended."),
    "forecaster_waited_seconds_total": (_PLACE, "Seconds of cycles in which sources were waited for."),
    "forecaster_model_seconds_total": (_PLACE, "Seconds of cycles in which models were asked."),
    "forecaster_fetch_errors_total": (("exchange", "error"), "Series skipped because their source failed."),
    "forecaster_fallbacks_total": ((), "Answers that eager gave because compiled code failed."),
    "forecaster_forecasts_total": ((*_PLACE, "outcome"), "Forecasts that went to the ledger."),
    "forecaster_missed_total": (_PLACE, "Closes that nobody forecast, and nobody will."),
    "forecaster_skipped_total": ((*_PLACE, "error"), "Series skipped, for any reason."),
    "forecaster_revised_bars_total": (_PLACE, "Bars that were revised after they were taken for final."),
    "forecaster_doubted_bars_total": (_PLACE, "Answers about a series that waited for a second one."),
    "forecaster_baseline_failures_total": (("model",), "Cycles in which a baseline failed."),
    "forecaster_drifts_total": (("of",), "Changes of skill or coverage that were found."),
    "forecaster_scheduler_faults_total": ((), "Faults that the scheduler outlived."),
    "forecaster_alerts_total": (("kind", "outcome"), "Alerts that were to be sent."),
}
HISTOGRAMS: Final = {
    "forecaster_cycle_seconds": (_PLACE, "Seconds that a cycle took."),
    "forecaster_close_to_stored_seconds": (
        _PLACE,
        "Seconds from a close to its forecast in the ledger, but late ones.",
    ),
}
GAUGES: Final = {
    "forecaster_bar_lag_seconds": (_PLACE, "The largest lag of any series' latest forecast behind the last close."),
    "forecaster_stale_series": (_PLACE, "Series whose newest forecast is too old, or that have none."),
    "forecaster_waiting_series": (_PLACE, "Series whose bars are still waited for."),
    "forecaster_exchange_clock_seconds": (("exchange",), "The exchange's clock minus this machine's."),
    "forecaster_breaker_open": (("exchange",), "1 while the exchange must not be asked."),
    "forecaster_engine_bucket": (("bucket", "engine"), "1 for the engine that serves this shape of a batch."),
    "forecaster_skill": (_PLACE, "1 - pinball loss / the random walk's, next close, settled since the start."),
    "forecaster_coverage80": (_PLACE, "Share inside the 80 % interval, next close, settled since the start."),
    "forecaster_queue_length": ((), "Cycles that wait for a worker."),
    "forecaster_lease_held": ((), "1 while this process may write the ledger."),
    "forecaster_lease_epoch": ((), "Epoch of the lease that was last held."),
    "forecaster_ledger_present": ((), "1 while the ledger that was opened is there."),
    "forecaster_ready": ((), "1 when /readyz answers 200."),
    "forecaster_disk_free_bytes": ((), "Bytes that are free beside the ledger."),
}
NAMES: Final = (*COUNTERS, *HISTOGRAMS, *GAUGES)

_KEPT: Final = ("forecaster_waiting_series", "forecaster_exchange_clock_seconds")
"""Gauges that cycles set; all others with labels are set anew whenever somebody asks."""
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 120, 300, 900)
_MOST_BUCKETS: Final = 64
_NEXT_CLOSE: Final = SCORED.index("close")


class Metrics:
    """Counts for Prometheus, in a registry of its own.

    Args:
        config: whose names labels may have.
    """

    def __init__(self, config: Config) -> None:
        self._registry = one = CollectorRegistry()
        self._counters = {name: Counter(name, text, labels, registry=one) for name, (labels, text) in COUNTERS.items()}
        self._gauges = {name: Gauge(name, text, labels, registry=one) for name, (labels, text) in GAUGES.items()}
        self._histograms = {
            name: Histogram(name, text, labels, registry=one, buckets=_SECONDS)
            for name, (labels, text) in HISTOGRAMS.items()
        }
        ProcessCollector(registry=one)
        PlatformCollector(registry=one)
        self._fetch_errors = {kind.__name__ for kind in _kinds_of(SourceError)}
        self._errors = {kind.__name__ for root in (SourceError, BarsError, ModelError) for kind in _kinds_of(root)}
        self.set("forecaster_ledger_present", np.nan)  # not known before somebody has looked
        self._fallbacks = 0
        self._model_name = config.model.id
        self._sums: dict[tuple[str, str], NDArray[np.float64]] = {}
        self.adopt(config)

    def adopt(self, config: Config) -> None:
        """Take the names of a configuration from here on; what was counted stays, but for another model's accuracy."""
        keys = [one.key for one in config.series]
        if config.model.id != self._model_name:
            self._sums.clear()
        self._model_name = config.model.id
        self._baselines = set(config.model.baselines)
        self._places = {(exchange, str(key.timeframe)) for key in keys for exchange in (key.exchange, EVERY)}
        configured = {(key.exchange, str(key.timeframe)) for key in keys}
        for name in _KEPT:
            self._gauges[name].clear()
        for place in sorted(configured):
            self._start_place(place)
        for exchange in sorted({exchange for exchange, _ in configured}):
            self._start_exchange(exchange)
        for name in sorted(self._baselines):
            self.add("forecaster_baseline_failures_total", name, amount=0)
        for of in (SKILL, COVERAGE):
            self.add("forecaster_drifts_total", of, amount=0)
        for kind in KINDS:
            for outcome in ("sent", "failed"):
                self.add("forecaster_alerts_total", kind, outcome, amount=0)

    def _start_exchange(self, exchange: str) -> None:
        """Start what is counted of an exchange at 0."""
        self.set("forecaster_exchange_clock_seconds", 0, exchange)
        for error in sorted(self._fetch_errors):
            self.add("forecaster_fetch_errors_total", exchange, error, amount=0)

    def _start_place(self, place: tuple[str, str]) -> None:
        """Start what is counted of an exchange and timeframe at 0."""
        self.set("forecaster_waiting_series", 0, *place)
        for error in sorted({*self._errors, OTHER}):
            self.add("forecaster_skipped_total", *place, error, amount=0)
        for outcome in ("completed", "failed"):
            self.add("forecaster_cycles_total", *place, outcome, amount=0)
        for outcome in ("on_time", "late"):
            self.add("forecaster_forecasts_total", *place, outcome, amount=0)
        for name, (labels, _) in COUNTERS.items():
            if labels == _PLACE:
                self.add(name, *place, amount=0)
        for histogram in self._histograms.values():
            histogram.labels(*place)

    def add(self, name: str, *labels: str, amount: float = 1) -> None:
        """Count something."""
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(amount)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Say how something stands."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def forget(self) -> None:
        """Let go of how things stood where there are labels: what they name may be gone."""
        for name, (labels, _) in GAUGES.items():
            if labels and name not in _KEPT:
                self._gauges[name].clear()

    def place(self, exchange: str | None, timeframe: Timeframe) -> tuple[str, str]:
        """Give the labels of a cycle."""
        found = (EVERY if exchange is None else exchange, str(timeframe))
        return found if found in self._places else (OTHER, found[1])

    def cycle(self, report: CycleReport) -> None:
        """Count a cycle that was completed."""
        place = self.place(report.exchange, report.timeframe)
        self.add("forecaster_cycles_total", *place, "completed")
        self.add("forecaster_waited_seconds_total", *place, amount=report.waited_seconds)
        self.add("forecaster_model_seconds_total", *place, amount=report.model_seconds)
        self.add("forecaster_missed_total", *place, amount=report.missed)
        self._histograms["forecaster_cycle_seconds"].labels(*place).observe(report.seconds)
        self.set("forecaster_waiting_series", len(report.waiting), *place)
        self.add("forecaster_revised_bars_total", *place, amount=sum(map(len, report.revised.values())))
        self.add("forecaster_doubted_bars_total", *place, amount=len(report.doubted))
        for exchange, ahead_ms in report.clocks.items():
            self.set("forecaster_exchange_clock_seconds", ahead_ms / 1000, exchange)
        for forecast in report.forecasts:
            place = self.place(forecast.key.exchange, forecast.key.timeframe)
            late = forecast.is_late
            self.add("forecaster_forecasts_total", *place, "late" if late else "on_time")
            if forecast.available_at is not None and not late:
                seconds = (forecast.available_at - forecast.cutoff) / 1000
                self._histograms["forecaster_close_to_stored_seconds"].labels(*place).observe(seconds)
        for key, reason in report.skipped.items():
            self._count_skipped(self.place(key.exchange, key.timeframe), reason.partition(":")[0])
        for name in report.sat_out:
            self.add("forecaster_baseline_failures_total", name if name in self._baselines else OTHER)
        for losses in report.settled:
            self._settle(losses)

    def alert(self, kind: str, outcome: str) -> None:
        """Count an alert that was to be sent."""
        self.add("forecaster_alerts_total", kind if kind in KINDS else OTHER, outcome)

    def engines(self, forward: ModelStatus) -> None:
        """Count answers that eager had to give, since the model was last asked."""
        since = self._fallbacks if forward.fallbacks >= self._fallbacks else 0  # a model loaded again counts from 0
        self.add("forecaster_fallbacks_total", amount=forward.fallbacks - since)
        self._fallbacks = forward.fallbacks

    def show_engines(self, forward: ModelStatus) -> None:
        """Say which engine serves each shape, of those that were asked most."""
        by_calls = sorted(forward.buckets, key=lambda one: one.eager_calls + one.compiled_calls, reverse=True)
        for one in by_calls[:_MOST_BUCKETS]:
            name = f"{one.rows}x{one.bars}x{one.patches} {one.missing} in {one.group}"
            self.set("forecaster_engine_bucket", 1, name, one.engine)

    def show_accuracy(self) -> None:
        """Say how good next closes were, where some have settled."""
        for place in self._places & self._sums.keys():
            totals = Totals(self._sums[place])
            for name, value in (
                ("forecaster_skill", totals.skill("pinball")),
                ("forecaster_coverage80", totals.coverage(80)),
            ):
                if value is not None:
                    self.set(name, value, *place)

    def text(self) -> bytes:
        """Give all of it as Prometheus text."""
        return generate_latest(_WithoutTimes(self._registry))

    def _count_skipped(self, place: tuple[str, str], error: str) -> None:
        self.add("forecaster_skipped_total", *place, error if error in self._errors else OTHER)
        if error in self._fetch_errors:
            self.add("forecaster_fetch_errors_total", place[0], error)

    def _settle(self, losses: Losses) -> None:
        """Add up the model's next closes that settled, none of them late."""
        steps = losses.steps
        ours = [i for i, name in enumerate(steps.models) if name.name == self._model_name]
        chosen_N = (steps.step_N == 1) & ~steps.late_N & np.isin(steps.model_N, ours)
        place = self.place(steps.key.exchange, steps.key.timeframe)
        before_C = self._sums.get(place, np.zeros(len(COLUMNS)))
        self._sums[place] = before_C + losses.served_NGC[chosen_N, _NEXT_CLOSE].sum(axis=0)


class _WithoutTimes:
    """A registry without the `_created` series that prometheus-client puts beside each counter."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [one for one in metric.samples if not one.name.endswith("_created")]
            yield metric


def _kinds_of(error: type[ForecasterError]) -> Iterator[type[ForecasterError]]:
    """An error and all that are kinds of it."""
    yield error
    for kind in error.__subclasses__():
        yield from _kinds_of(kind)
