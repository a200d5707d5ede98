"""One cycle: one timeframe's pass over its series. `CycleRunner.run` reads as the list of its steps.

Claim what is due (`pending`), fetch and store bars (`ingest`), call models (`predict`), calibrate and write forecasts
(`record`), complete the claims, and score the forecasts whose target bars arrived (`settle`).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from forecaster.accuracy.drift import DriftMonitor
from forecaster.bars import FIELDS, SeriesKey
from forecaster.context import Context
from forecaster.cycle.ingest import SkippedSeries
from forecaster.cycle.pending import ClaimedWork, claim_due, complete
from forecaster.cycle.predict import predict_isolating_failures
from forecaster.cycle.settle import newly_settled_losses
from forecaster.errors import BarsError
from forecaster.ledger import LIVE, Run
from forecaster.log import get_logger
from forecaster.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from forecaster.accuracy.drift import Drift
    from forecaster.accuracy.losses import Losses
    from forecaster.bars import Bars
    from forecaster.config import Config
    from forecaster.cycle.ingest import BarIngestor, IngestResult, WaitPolicy
    from forecaster.cycle.record import Recorder
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import PendingForecast
    from forecaster.model import ModelSuite
    from forecaster.store import Store
    from forecaster.timeframe import Timeframe

_log = get_logger(__name__)


@dataclass(frozen=True)
class CycleReport:
    """The result of one cycle.

    Args:
        timeframe: of its series.
        exchange: None when the cycle covered all exchanges.
        as_of: UTC ms.
        series: number of series.
        bars_added: number of new bars.
        forecasts: the primary model's forecasts, in the order of the configuration.
        settled: losses of the forecasts whose target bars arrived.
        skipped: series that were left out, with reasons.
        permanent_failures: skipped series for which retrying does not help.
        failed_baselines: baselines that failed, with reasons.
        drifts: changes in the skill or coverage of the primary model.
        missed: number of closes that passed while no process ran.
        seconds: duration of the cycle; `waited_seconds` of it for sources, `model_seconds` for models.
        awaiting_bars: series whose bars are still fetched.
        revised_bars: open times of bars that were revised after they were stored as final.
        revised_forecasts: number of cutoffs that had been forecast from revised bars.
        unconfirmed: series whose answer must be confirmed by a second one.
        exchange_clock_offsets_ms: how far the clock of an exchange is ahead of this machine's.
    """

    timeframe: Timeframe
    exchange: str | None
    as_of: int
    series: int
    bars_added: int
    forecasts: list[OHLCForecast]
    settled: list[Losses]
    skipped: dict[SeriesKey, str]
    permanent_failures: frozenset[SeriesKey]
    failed_baselines: dict[str, str]
    drifts: list[tuple[SeriesKey, Drift]]
    missed: int
    seconds: float
    waited_seconds: float
    model_seconds: float
    awaiting_bars: frozenset[SeriesKey] = frozenset()
    revised_bars: dict[SeriesKey, Sequence[int]] = field(default_factory=dict)
    revised_forecasts: int = 0
    unconfirmed: frozenset[SeriesKey] = frozenset()
    exchange_clock_offsets_ms: dict[str, int] = field(default_factory=dict)

    @property
    def settled_rows(self) -> int:
        """Number of ledger rows that settled, without late ones."""
        return sum(int((~losses.steps.late_N).sum()) * len(FIELDS) for losses in self.settled)


class CycleRunner:
    """Runs cycles. Cycles of several exchanges may run at once: they wait for bars concurrently and predict in turn.

    Args:
        config: series, context and horizon.
        store: the ledger.
        ingestor: fetches and stores bars.
        models: the primary model and its baselines.
        recorder: writes forecasts.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        ingestor: BarIngestor,
        models: ModelSuite,
        recorder: Recorder,
    ) -> None:
        self._config = config
        self._store = store
        self._models = models
        self._recorder = recorder
        self._ingestor = ingestor
        self._drift_monitor = DriftMonitor()
        self._turn = threading.Lock()
        self._failed_permanently: dict[SeriesKey, tuple[int, str]] = {}

    def run(
        self, timeframe: Timeframe, as_of: int, started_at: int, exchange: str | None, waits_for: WaitPolicy
    ) -> CycleReport:
        """Run one cycle. See `Forecaster.run_cycle`."""
        keys = self._keys(timeframe, exchange)
        cycle = self._claim(keys, as_of, started_at)
        self._skip_failed_permanently(cycle)
        if cycle.skipped.reasons:
            claimed = {key: cycle.work.by_series[key] for key in cycle.skipped.reasons}
            complete(self._store, claimed, [], cycle.skipped.reasons, as_of)
        fetched = [key for key in keys if cycle.work.by_series[key] and key not in cycle.skipped.reasons]
        rounds = self._ingestor.rounds(fetched, as_of, cycle.skipped, cycle.watch, waits_for)
        return self._run_rounds(timeframe, exchange, cycle, rounds)

    def run_arrived(self, timeframe: Timeframe, as_of: int, started_at: int, exchange: str | None) -> CycleReport:
        """Run a cycle over series whose bars arrived after the cycle that requested them."""
        cycle = self._claim(self._ingestor.fetch_pool.completed(self._keys(timeframe, exchange)), as_of, started_at)
        rounds = self._ingestor.take(list(cycle.work.by_series), as_of, cycle.skipped, cycle.watch)
        return self._run_rounds(timeframe, exchange, cycle, rounds)

    def run_last(self, as_of: int, seconds: float) -> list[CycleReport]:
        """Run the last cycles before shutdown: wait some seconds for bars in flight, then skip the other series."""
        reports: list[CycleReport] = []
        for timeframe, exchange in dict.fromkeys((key.timeframe, key.exchange) for key in self._all_keys):
            keys = sorted(self._ingestor.fetch_pool.in_flight(self._keys(timeframe, exchange)), key=str)
            if keys:
                cycle = self._claim(keys, as_of, as_of)
                patience = 0.0 if reports else seconds  # the other series had the same time to arrive
                rounds = self._ingestor.drain(keys, as_of, cycle.skipped, cycle.watch, patience)
                reports.append(self._run_rounds(timeframe, exchange, cycle, rounds))
        return reports

    @property
    def _all_keys(self) -> list[SeriesKey]:
        return [series.key for series in self._config.series]

    def _keys(self, timeframe: Timeframe, exchange: str | None) -> list[SeriesKey]:
        return [key for key in self._all_keys if key.timeframe == timeframe and exchange in (None, key.exchange)]

    def _claim(self, keys: Sequence[SeriesKey], as_of: int, started_at: int) -> _Cycle:
        watch = Stopwatch(started_at)
        return _Cycle(as_of, watch, claim_due(self._store, keys, self._models.primary.name, as_of))

    def _skip_failed_permanently(self, cycle: _Cycle) -> None:
        """Skip series that failed permanently at this very close; they are retried at the next one."""
        for key, claimed in cycle.work.by_series.items():
            cutoff, reason = self._failed_permanently.get(key, (None, ""))
            if claimed and claimed[-1].cutoff == cutoff:
                cycle.skipped.reasons[key] = reason
                cycle.skipped.permanent.add(key)

    def _run_rounds(
        self, timeframe: Timeframe, exchange: str | None, cycle: _Cycle, rounds: Iterator[IngestResult]
    ) -> CycleReport:
        """Forecast round by round as bars arrive, and report."""
        for result in rounds:
            cycle.ingested.append(result)
            if result.all_keys:
                with self._turn:
                    self._run_round(cycle, result)
        with self._turn:
            self._remember_permanent(cycle)
            drifts = self._drifts(cycle.settled)
        awaiting = self._ingestor.fetch_pool.in_flight(self._keys(timeframe, exchange))
        self._complete_awaiting(cycle, awaiting)
        report = cycle.report(timeframe, exchange, drifts, awaiting)
        if cycle.work.by_series:
            _log_completed(report, self._models.primary.engine)
        return report

    def _run_round(self, cycle: _Cycle, result: IngestResult) -> None:
        """Forecast the series whose bars arrived, and score the forecasts that these bars settle."""
        work = {key: claimed for key, claimed in cycle.work.by_series.items() if claimed and key in result.all_keys}
        contexts, newest = self._contexts(work, result.keys, cycle.skipped)
        issued_at = max(cycle.watch.now, result.seen[1])  # the bars of a forecast were readable when it was issued
        watch = Stopwatch(0)
        predictions, failed, cycle_failed = predict_isolating_failures(
            self._models, contexts, self._config.model.horizon
        )
        for key, reason in failed.items():
            cycle.skipped.skip(key, reason)
        cycle.model_ms += watch.elapsed_ms
        cycle.failed_baselines |= cycle_failed
        # This machine's clock may be behind: a forecast is never issued before its own cutoff.
        issued = [max(issued_at, newest[context.key]) for context in predictions.contexts]
        forecasts: list[OHLCForecast] = []
        if issued:
            run, latency = Run(LIVE, LIVE, issued_at), lambda: watch.elapsed_ms
            forecasts = self._recorder.record(self._store, predictions, issued_at=issued, run=run, latency=latency)
        self._complete(cycle, work, result.keys, forecasts)
        with self._store.transaction(write=False):
            settled = newly_settled_losses(self._store, result.seen[1], since=result.seen[0] - 1)
        cycle.settled += [losses for losses in settled if losses.steps.key in result.all_keys]
        cycle.forecasts += forecasts

    def _contexts(
        self,
        work: Mapping[SeriesKey, Sequence[PendingForecast]],
        complete_keys: Collection[SeriesKey],
        skipped: SkippedSeries,
    ) -> tuple[list[Context], dict[SeriesKey, int]]:
        """Return the contexts of claimed work, and the newest stored close (UTC ms) of each series.

        A series whose newest context cannot be built is skipped, unless its bars are requested again.
        """
        with self._store.transaction(write=False):
            built = skipped.attempt(work, lambda key: self._contexts_of(work[key]))
        for key, of_key in built.items():
            if of_key.error is not None and key in complete_keys:
                skipped.fail(key, of_key.error)
        contexts = [context for of_key in built.values() for context in of_key.contexts]
        return contexts, {key: of_key.newest for key, of_key in built.items()}

    def _contexts_of(self, claimed: Sequence[PendingForecast]) -> _Contexts:
        """Build the contexts of one series."""
        key, latest, model = claimed[0].key, claimed[-1].cutoff, self._config.model
        bars = self._store.bars(key, start=self._ingestor.first_slot(key, claimed[0].cutoff))
        contexts, latest_error = [], None
        for pending in claimed:
            try:
                context = Context.ending_at(bars, pending.cutoff, model.context, model.min_context)
                context.target_opens(model.horizon)  # raises where the calendar ends
                contexts.append(context)
            except BarsError as error:
                latest_error = error if pending.cutoff == latest else latest_error
        return _Contexts(contexts, _newest_close(bars), latest_error)

    def _complete(
        self,
        cycle: _Cycle,
        work: Mapping[SeriesKey, Sequence[PendingForecast]],
        complete_keys: Collection[SeriesKey],
        forecasts: Sequence[OHLCForecast],
    ) -> None:
        """Complete the claims of a round; of series that are requested again, only those that are done."""
        done = {(forecast.key, forecast.cutoff) for forecast in forecasts}
        completed = {
            key: [pending for pending in claimed if key in complete_keys or (key, pending.cutoff) in done]
            for key, claimed in work.items()
        }
        complete(self._store, completed, forecasts, cycle.skipped.reasons, cycle.as_of)
        for key, claimed in work.items():
            left = [pending for pending in claimed if (key, pending.cutoff) not in done]
            cycle.work.by_series[key] = left or list(claimed[-1:])

    def _complete_awaiting(self, cycle: _Cycle, awaiting: Collection[SeriesKey]) -> None:
        """Record that claims wait for bars; they stay due, also after a restart."""
        claimed = {
            key: of_key
            for key, of_key in cycle.work.by_series.items()
            if key in awaiting and key not in cycle.skipped.reasons
        }
        if any(claimed.values()):
            complete(self._store, claimed, [], dict.fromkeys(claimed, "its bars had not come yet"), cycle.as_of)

    def _remember_permanent(self, cycle: _Cycle) -> None:
        by_series, skipped = cycle.work.by_series, cycle.skipped
        failed = {key: (by_series[key][-1].cutoff, skipped.reasons[key]) for key in skipped.permanent if by_series[key]}
        others = {key: at for key, at in self._failed_permanently.items() if key not in by_series}
        self._failed_permanently = others | failed

    def _drifts(self, settled: Sequence[Losses]) -> list[tuple[SeriesKey, Drift]]:
        """Return changes in the skill or coverage of the primary model since this process started."""
        drifts = []
        for key, model_id, drift in self._drift_monitor.update(settled):
            if model_id.name == self._models.primary.name:
                values = {"before": round(drift.before, 4), "now": round(drift.now, 4)}
                _log.warning("accuracy.drifted", series=str(key), model=model_id, measure=drift.measure, **values)
                drifts.append((key, drift))
        return drifts


@dataclass
class _Cycle:
    """The work of a cycle, and the results of its rounds so far."""

    as_of: int
    watch: Stopwatch
    work: ClaimedWork
    skipped: SkippedSeries = field(default_factory=SkippedSeries)
    ingested: list[IngestResult] = field(default_factory=list)
    forecasts: list[OHLCForecast] = field(default_factory=list)
    settled: list[Losses] = field(default_factory=list)
    failed_baselines: dict[str, str] = field(default_factory=dict)
    model_ms: int = 0

    def report(
        self,
        timeframe: Timeframe,
        exchange: str | None,
        drifts: list[tuple[SeriesKey, Drift]],
        awaiting: Collection[SeriesKey],
    ) -> CycleReport:
        """Summarise the rounds."""
        order = {key: number for number, key in enumerate(self.work.by_series)}
        return CycleReport(
            timeframe=timeframe,
            exchange=exchange,
            as_of=self.as_of,
            series=len(order),
            bars_added=sum(result.added for result in self.ingested),
            forecasts=sorted(self.forecasts, key=lambda forecast: order[forecast.key]),
            settled=self.settled,
            skipped=self.skipped.reasons,
            permanent_failures=frozenset(self.skipped.permanent),
            failed_baselines=self.failed_baselines,
            drifts=drifts,
            missed=self.work.missed,
            seconds=self.watch.elapsed_ms / 1000,
            waited_seconds=sum(result.waited_seconds for result in self.ingested),
            model_seconds=self.model_ms / 1000,
            awaiting_bars=frozenset(awaiting),
            revised_bars={key: opens for result in self.ingested for key, opens in result.revised.items()},
            revised_forecasts=sum(result.revised_forecasts for result in self.ingested),
            unconfirmed=frozenset[SeriesKey]().union(*(result.unconfirmed for result in self.ingested)),
            exchange_clock_offsets_ms={
                name: ahead for result in self.ingested for name, ahead in result.exchange_clock_offsets_ms.items()
            },
        )


class _Contexts(NamedTuple):
    """Contexts of one series, its newest stored close (UTC ms), and why the newest context cannot be built."""

    contexts: list[Context]
    newest: int
    error: BarsError | None


def _newest_close(bars: Bars) -> int:
    return int(bars.close_time[-1]) if len(bars) else 0


def _log_completed(report: CycleReport, engine: str) -> None:
    """Log the one line of a cycle."""
    _log.info(
        "cycle.completed",
        timeframe=str(report.timeframe),
        exchange=report.exchange,
        as_of=report.as_of,
        series=report.series,
        bars_added=report.bars_added,
        forecasts=len(report.forecasts),
        late=sum(forecast.is_late for forecast in report.forecasts),
        missed=report.missed,
        settled=report.settled_rows,
        awaiting_bars=len(report.awaiting_bars),
        skipped={str(key): reason for key, reason in report.skipped.items()},
        failed_baselines=report.failed_baselines,
        engine=engine,
        seconds=round(report.seconds, 3),
        waited_seconds=round(report.waited_seconds, 3),
        model_seconds=round(report.model_seconds, 3),
    )
