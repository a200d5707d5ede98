"""The Prometheus metrics of the daemon: names, labels, and how a cycle is counted.

Label values are names from the configuration or classes of our errors; any other value becomes `other`. So symbols and
answers of exchanges cannot create time series. Every counter is exported as 0 from the start, for each label value of
the configuration, because `increase` misses the first event of a new counter.

Shapes: N steps, G fields and the range, C columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from forecaster.accuracy.drift import COVERAGE, SKILL
from forecaster.accuracy.losses import COLUMNS, SCORED_FIELDS
from forecaster.accuracy.scores import Totals
from forecaster.daemon.conditions import REMEDIES
from forecaster.errors import BarsError, ForecasterError, ModelError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from prometheus_client.metrics_core import Metric

    from forecaster.accuracy.losses import Losses
    from forecaster.config import Config
    from forecaster.cycle.run import CycleReport
    from forecaster.model.chronos2.compiled import ModelStatus
    from forecaster.timeframe import Timeframe

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
KINDS: Final = tuple(REMEDIES)
"""The kinds of conditions."""

ALL: Final = "all"
"""The exchange label of a cycle over all exchanges."""
OTHER: Final = "other"
_GROUP: Final = ("exchange", "timeframe")

COUNTERS: Final = {
    "forecaster_cycles_total": ((*_GROUP, "outcome"), "Cycles that have ended."),
    "forecaster_source_wait_seconds_total": (_GROUP, "Seconds that cycles spent waiting for sources."),
    "forecaster_model_seconds_total": (_GROUP, "Seconds that cycles spent in models."),
    "forecaster_fetch_errors_total": (("exchange", "error"), "Series skipped because their source failed."),
    "forecaster_compile_fallbacks_total": ((), "Batches that eager forecast because compiled code failed."),
    "forecaster_forecasts_total": ((*_GROUP, "outcome"), "Forecasts written to the ledger."),
    "forecaster_missed_closes_total": (_GROUP, "Closes that were not forecast and will not be."),
    "forecaster_skipped_series_total": ((*_GROUP, "error"), "Series skipped, for any reason."),
    "forecaster_revised_bars_total": (_GROUP, "Bars that were revised after they were final."),
    "forecaster_unconfirmed_answers_total": (
        _GROUP,
        "Answers with implausible bars that a second request had to confirm.",
    ),
    "forecaster_baseline_failures_total": (("model",), "Cycles in which a baseline failed."),
    "forecaster_drifts_total": (("measure",), "Detected changes of skill or coverage."),
    "forecaster_scheduler_faults_total": ((), "Exceptions that the scheduler survived."),
    "forecaster_alerts_total": (("kind", "outcome"), "Alerts that were sent or could not be sent."),
}
HISTOGRAMS: Final = {
    "forecaster_cycle_duration_seconds": (_GROUP, "Duration of a cycle."),
    "forecaster_forecast_latency_seconds": (
        _GROUP,
        "Seconds from a close to its forecast in the ledger, on time only.",
    ),
}
GAUGES: Final = {
    "forecaster_forecast_lag_seconds": (
        _GROUP,
        "The largest lag of any series' latest forecast behind the last close.",
    ),
    "forecaster_stale_series": (_GROUP, "Series whose latest forecast is too old or missing."),
    "forecaster_series_awaiting_bars": (_GROUP, "Series whose bars are still being fetched."),
    "forecaster_exchange_clock_offset_seconds": (("exchange",), "The exchange's clock minus this machine's clock."),
    "forecaster_breaker_open": (("exchange",), "1 while the exchange must not be asked for bars."),
    "forecaster_engine_bucket": (("bucket", "engine"), "1 for the engine that serves this batch shape."),
    "forecaster_skill_ratio": (
        _GROUP,
        "1 - pinball loss / pinball loss of the random walk, next close, since the start.",
    ),
    "forecaster_coverage80_ratio": (_GROUP, "Fraction of next closes inside the 80 % interval, since the start."),
    "forecaster_queue_length": ((), "Cycles queued for a worker."),
    "forecaster_lease_held": ((), "1 while this process may write the ledger."),
    "forecaster_lease_epoch": ((), "Epoch of the last held lease."),
    "forecaster_ledger_healthy": ((), "1 while the ledger is there, writable and undamaged."),
    "forecaster_ready": ((), "1 when /readyz answers 200."),
    "forecaster_disk_free_bytes": ((), "Free bytes on the disk of the ledger."),
}
NAMES: Final = (*COUNTERS, *HISTOGRAMS, *GAUGES)

_SET_BY_CYCLES: Final = ("forecaster_series_awaiting_bars", "forecaster_exchange_clock_offset_seconds")
"""Gauges that cycles set; all other gauges with labels are set at each scrape."""
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 120, 300, 900)
_MAX_BUCKETS: Final = 64
_NEXT_CLOSE: Final = SCORED_FIELDS.index("close")


class Metrics:
    """The metrics, in their own registry.

    Args:
        config: its names are the allowed label values.
    """

    def __init__(self, config: Config) -> None:
        self._registry = registry = CollectorRegistry()
        self._counters = {
            name: Counter(name, text, labels, registry=registry) for name, (labels, text) in COUNTERS.items()
        }
        self._gauges = {name: Gauge(name, text, labels, registry=registry) for name, (labels, text) in GAUGES.items()}
        self._histograms = {
            name: Histogram(name, text, labels, registry=registry, buckets=_SECONDS)
            for name, (labels, text) in HISTOGRAMS.items()
        }
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._fetch_errors = {kind.__name__ for kind in _subclasses(SourceError)}
        self._errors = {kind.__name__ for root in (SourceError, BarsError, ModelError) for kind in _subclasses(root)}
        self.set("forecaster_ledger_healthy", np.nan)  # unknown before the first check
        self._fallbacks = 0
        self._model_name = config.model.id
        self._sums: dict[tuple[str, str], NDArray[np.float64]] = {}
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Use the names of a configuration from now on. Counts stay, except the accuracy of another model."""
        keys = [series.key for series in config.series]
        if config.model.id != self._model_name:
            self._sums.clear()
        self._model_name = config.model.id
        self._baselines = set(config.model.baselines)
        self._groups = {(exchange, str(key.timeframe)) for key in keys for exchange in (key.exchange, ALL)}
        configured = {(key.exchange, str(key.timeframe)) for key in keys}
        for name in _SET_BY_CYCLES:
            self._gauges[name].clear()
        for group in sorted(configured):
            self._init_group(group)
        for exchange in sorted({exchange for exchange, _ in configured}):
            self._init_exchange(exchange)
        for name in sorted(self._baselines):
            self.add("forecaster_baseline_failures_total", name, amount=0)
        for measure in (SKILL, COVERAGE):
            self.add("forecaster_drifts_total", measure, amount=0)
        for kind in KINDS:
            for outcome in ("sent", "failed"):
                self.add("forecaster_alerts_total", kind, outcome, amount=0)

    def _init_exchange(self, exchange: str) -> None:
        """Export the metrics of an exchange as 0."""
        self.set("forecaster_exchange_clock_offset_seconds", 0, exchange)
        for error in sorted(self._fetch_errors):
            self.add("forecaster_fetch_errors_total", exchange, error, amount=0)

    def _init_group(self, group: tuple[str, str]) -> None:
        """Export the metrics of an exchange and timeframe as 0."""
        self.set("forecaster_series_awaiting_bars", 0, *group)
        for error in sorted({*self._errors, OTHER}):
            self.add("forecaster_skipped_series_total", *group, error, amount=0)
        for outcome in ("completed", "failed"):
            self.add("forecaster_cycles_total", *group, outcome, amount=0)
        for outcome in ("on_time", "late"):
            self.add("forecaster_forecasts_total", *group, outcome, amount=0)
        for name, (labels, _) in COUNTERS.items():
            if labels == _GROUP:
                self.add(name, *group, amount=0)
        for histogram in self._histograms.values():
            histogram.labels(*group)

    def add(self, name: str, *labels: str, amount: float = 1) -> None:
        """Increase a counter."""
        counter = self._counters[name]
        (counter.labels(*labels) if labels else counter).inc(amount)

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        gauge = self._gauges[name]
        (gauge.labels(*labels) if labels else gauge).set(value)

    def clear_gauges(self) -> None:
        """Clear the gauges with labels that are set at each scrape: what they name may be gone."""
        for name, (labels, _) in GAUGES.items():
            if labels and name not in _SET_BY_CYCLES:
                self._gauges[name].clear()

    def labels(self, exchange: str | None, timeframe: Timeframe) -> tuple[str, str]:
        """Return the labels of a cycle: exchange, or `all` for None, and timeframe."""
        group = (ALL if exchange is None else exchange, str(timeframe))
        return group if group in self._groups else (OTHER, group[1])

    def count_cycle(self, report: CycleReport) -> None:
        """Count a completed cycle."""
        group = self.labels(report.exchange, report.timeframe)
        self.add("forecaster_cycles_total", *group, "completed")
        self.add("forecaster_source_wait_seconds_total", *group, amount=report.waited_seconds)
        self.add("forecaster_model_seconds_total", *group, amount=report.model_seconds)
        self.add("forecaster_missed_closes_total", *group, amount=report.missed)
        self._histograms["forecaster_cycle_duration_seconds"].labels(*group).observe(report.seconds)
        self.set("forecaster_series_awaiting_bars", len(report.awaiting_bars), *group)
        self.add("forecaster_revised_bars_total", *group, amount=sum(map(len, report.revised_bars.values())))
        self.add("forecaster_unconfirmed_answers_total", *group, amount=len(report.unconfirmed))
        for exchange, ahead_ms in report.exchange_clock_offsets_ms.items():
            self.set("forecaster_exchange_clock_offset_seconds", ahead_ms / 1000, exchange)
        for forecast in report.forecasts:
            group = self.labels(forecast.key.exchange, forecast.key.timeframe)
            self.add("forecaster_forecasts_total", *group, "late" if forecast.is_late else "on_time")
            if forecast.available_at is not None and not forecast.is_late:
                seconds = (forecast.available_at - forecast.cutoff) / 1000
                self._histograms["forecaster_forecast_latency_seconds"].labels(*group).observe(seconds)
        for key, reason in report.skipped.items():
            self._count_skipped(self.labels(key.exchange, key.timeframe), reason.partition(":")[0])
        for name in report.failed_baselines:
            self.add("forecaster_baseline_failures_total", name if name in self._baselines else OTHER)
        for losses in report.settled:
            self._add_accuracy(losses)

    def count_alert(self, kind: str, outcome: str) -> None:
        """Count an alert that was sent or could not be sent."""
        self.add("forecaster_alerts_total", kind if kind in KINDS else OTHER, outcome)

    def count_fallbacks(self, status: ModelStatus) -> None:
        """Count the batches that fell back to eager since the last call."""
        counted = self._fallbacks if status.fallbacks >= self._fallbacks else 0  # a reloaded model counts from 0
        self.add("forecaster_compile_fallbacks_total", amount=status.fallbacks - counted)
        self._fallbacks = status.fallbacks

    def set_engines(self, status: ModelStatus) -> None:
        """Set which engine serves each of the most used batch shapes."""
        by_calls = sorted(status.buckets, key=lambda each: each.eager_calls + each.compiled_calls, reverse=True)
        for bucket in by_calls[:_MAX_BUCKETS]:
            name = f"{bucket.rows}x{bucket.bars}x{bucket.patches} {bucket.missing} in {bucket.group}"
            self.set("forecaster_engine_bucket", 1, name, bucket.engine)

    def set_accuracy(self) -> None:
        """Set skill and coverage of next closes, where any have settled."""
        for group in self._groups & self._sums.keys():
            totals = Totals(self._sums[group])
            for name, value in (
                ("forecaster_skill_ratio", totals.skill("pinball")),
                ("forecaster_coverage80_ratio", totals.coverage(80)),
            ):
                if value is not None:
                    self.set(name, value, *group)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(_WithoutCreated(self._registry))

    def _count_skipped(self, group: tuple[str, str], error: str) -> None:
        self.add("forecaster_skipped_series_total", *group, error if error in self._errors else OTHER)
        if error in self._fetch_errors:
            self.add("forecaster_fetch_errors_total", group[0], error)

    def _add_accuracy(self, losses: Losses) -> None:
        """Add the losses of the model's settled next closes, late ones excluded."""
        steps = losses.steps
        model_indices = [i for i, name in enumerate(steps.models) if name.name == self._model_name]
        chosen_N = (steps.step_N == 1) & ~steps.late_N & np.isin(steps.model_N, model_indices)
        group = self.labels(steps.key.exchange, steps.key.timeframe)
        before_C = self._sums.get(group, np.zeros(len(COLUMNS)))
        self._sums[group] = before_C + losses.served_NGC[chosen_N, _NEXT_CLOSE].sum(axis=0)


class _WithoutCreated:
    """A registry without the `_created` series that prometheus-client adds to each counter."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def _subclasses(error: type[ForecasterError]) -> Iterator[type[ForecasterError]]:
    """Yield an error class and all its subclasses."""
    yield error
    for subclass in error.__subclasses__():
        yield from _subclasses(subclass)
