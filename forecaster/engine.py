"""`Forecaster`: the service of one configuration, for the daemon, for strategies and for replays.

A thin facade: reading is `client.py`, one cycle is `cycle/run.py`, writing is `cycle/record.py`.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Self

from forecaster.bars import Bars, SeriesKey
from forecaster.client import LedgerClient
from forecaster.clock import now_ms
from forecaster.code_version import code_digest
from forecaster.config_file import default_config_path, load_config, with_store
from forecaster.context import Context
from forecaster.cycle.ingest import BarIngestor, SkippedSeries
from forecaster.cycle.predict import predict_where_possible
from forecaster.cycle.record import Recorder, stamp
from forecaster.cycle.run import CycleReport, CycleRunner
from forecaster.errors import BarNotClosed, ConfigError, InvalidArgument, NotEnoughBars
from forecaster.ledger import LIVE, Run, RunId
from forecaster.model import ModelSuite, load_suite
from forecaster.sources import BarSource, open_source
from forecaster.sources.fetch_pool import STRAGGLER_SECONDS
from forecaster.stopwatch import Stopwatch
from forecaster.store import Reader, Store, open_reader, open_store
from forecaster.timeframe import Timeframe

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.trust import Trust
    from forecaster.client import Series
    from forecaster.config import Config
    from forecaster.cycle.ingest import WaitPolicy
    from forecaster.cycle.predict import Predictions
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import AccuracyReport, LedgerRow


class Forecaster:
    """Forecasts, records and scores the series of a configuration.

    Args:
        config: what to forecast and how.
        store: where bars and forecasts are stored. When left out: the configured ledger, opened for writing by the
            first call that writes.
        sources: the source of each series. When left out: the configured ones.
        models: the primary model and its baselines. When left out: the configured ones, loaded at the first forecast.
    """

    def __init__(
        self,
        config: Config,
        store: Store | None = None,
        sources: dict[SeriesKey, BarSource] | None = None,
        models: ModelSuite | None = None,
    ) -> None:
        if models is not None and not isinstance(models, ModelSuite):
            raise InvalidArgument("models", "a ModelSuite", f"{models!r:.100}")
        self.config = config
        self._store = store
        self._given_sources = sources
        self._given_models = models

    @classmethod
    def from_config(cls, path: str | Path | None = None, store: str | Path | None = None) -> Forecaster:
        """Open the configuration in a file.

        Args:
            path: of the file. When left out: `FORECASTER_CONFIG`, or the embedded demo.
            store: URL or path of another ledger than the configured one.

        Raises:
            ConfigError: names the key, what was expected and found.
        """
        config = load_config(path or default_config_path())
        return cls(config if store is None else with_store(config, str(store)))

    @property
    def store(self) -> Store:
        """The ledger, open for writing. No other process can write it until this object is closed.

        Raises:
            StoreError: when it cannot be opened, or another process writes it.
        """
        if self._store is None:
            self._store = open_store(self.config.store.url.reveal())
        return self._store

    @property
    def reader(self) -> Reader:
        """The ledger, open for reading."""
        return self._opened_reader if self._store is None else self._store

    @cached_property
    def _opened_reader(self) -> Reader:
        return open_reader(self.config.store.url.reveal())

    @property
    def client(self) -> LedgerClient:
        """Reads of the configured series and model."""
        return LedgerClient(self.reader, self.model_name, self.series)

    @cached_property
    def _sources(self) -> dict[SeriesKey, BarSource]:
        """The source of each series; series of one exchange or file share theirs."""
        if self._given_sources is not None:
            return self._given_sources
        places: dict[object, BarSource] = {}
        for series in self.config.series:
            places[series.place] = places.get(series.place) or open_source(self.config, series, self.store)
        return {series.key: places[series.place] for series in self.config.series}

    @cached_property
    def models(self) -> ModelSuite:
        """The primary model and its baselines.

        Raises:
            ModelLoadError: when one cannot be loaded.
        """
        return load_suite(self.config.model) if self._given_models is None else self._given_models

    def load(self) -> None:
        """Load the models and open the sources now, so that errors show before the first cycle.

        Raises:
            ConfigError: for an unknown exchange.
            ModelLoadError: when a model cannot be loaded.
        """
        _ = self.models, self._sources

    @cached_property
    def _ingestor(self) -> BarIngestor:
        return BarIngestor(self.store, self._sources, self.config.model.context, self.config.daemon.requests_at_once)

    @cached_property
    def _recorder(self) -> Recorder:
        return Recorder(lambda: self.reader, is_calibrated=self.config.model.calibrate)

    @cached_property
    def _runner(self) -> CycleRunner:
        return CycleRunner(self.config, self.store, self._ingestor, self.models, self._recorder)

    @property
    def model_name(self) -> str:
        """Name of the primary model; known without loading it."""
        return self.config.model.id if self._given_models is None else self._given_models.primary.name

    @cached_property
    def series(self) -> list[SeriesKey]:
        """The configured series."""
        return [series.key for series in self.config.series]

    @cached_property
    def timeframes(self) -> list[Timeframe]:
        """The timeframes of the configured series, without duplicates."""
        return list(dict.fromkeys(key.timeframe for key in self.series))

    def run_cycle(
        self,
        timeframe: Timeframe | str,
        as_of: int,
        started_at: int | None = None,
        exchange: str | None = None,
        waits_for: WaitPolicy = "all",
    ) -> CycleReport:
        """Run one timeframe's pass over its series, as of `as_of` (UTC ms).

        Idempotent. A series whose bars cannot be fetched or used, or that the model cannot forecast, is skipped with a
        reason; so is a baseline. Any other error is raised. Series that have answered are forecast while others are
        still fetched. Cycles of several exchanges may run at once.

        Args:
            timeframe: of the series.
            as_of: UTC ms.
            started_at: UTC ms at which the cycle started, for `issued_at`; `as_of` when left out. The time spent on
                waiting for bars is added.
            exchange: only its series; all when left out.
            waits_for: `all` series; `most`: slow ones stay in flight (`CycleReport.awaiting_bars`); or `none`.
                `on_straggler` is called when bars in flight have arrived, and `run_arrived` uses them.
        """
        started = as_of if started_at is None else started_at
        return self._runner.run(Timeframe(str(timeframe)), as_of, started, exchange, waits_for)

    def run_arrived(
        self, timeframe: Timeframe | str, as_of: int, started_at: int | None = None, exchange: str | None = None
    ) -> CycleReport:
        """Run a cycle over the series whose bars arrived after their cycle. Arguments as in `run_cycle`."""
        started = as_of if started_at is None else started_at
        return self._runner.run_arrived(Timeframe(str(timeframe)), as_of, started, exchange)

    def run_last(self, as_of: int, seconds: float = STRAGGLER_SECONDS) -> list[CycleReport]:
        """Run the last cycles before shutdown: wait for bars in flight, then record why the rest was skipped."""
        return self._runner.run_last(as_of, seconds)

    def on_straggler(self, callback: Callable[[SeriesKey], None]) -> None:
        """Call `callback`, on some thread, when bars have arrived that their cycle did not wait for."""
        self._ingestor.fetch_pool.on_straggler = callback

    def backfill(self, key: SeriesKey, since: int, as_of: int, *, refetch: bool = False) -> Iterator[tuple[int, int]]:
        """Fetch a series' history from `since` (UTC ms), part by part; each is durable before the next is requested.

        Yields the number of new bars of a part, and how far the history has come (UTC ms). Resumes at the first
        missing bar; with `refetch`, stored bars are requested again too.

        Raises:
            SourceError: when the source fails; earlier parts are kept.
        """
        yield from self._ingestor.backfill(key, since, as_of, again=refetch)

    def pull(self, keys: Sequence[SeriesKey], as_of: int) -> tuple[int, dict[SeriesKey, str]]:
        """Fetch, check and store the bars after the last stored ones.

        Returns the number of new bars, and the series that failed, with reasons.
        """
        skipped = SkippedSeries()
        return self._ingestor.pull(keys, as_of, skipped), skipped.reasons

    def forecast(
        self,
        contexts: Sequence[Context],
        *,
        issued_at: int | Sequence[int],
        run: Run | None = None,
        horizon: int | None = None,
        is_replay: bool = False,
        calibration_run_id: str | None = None,
    ) -> list[OHLCForecast]:
        """Call every model for every context and record the results; return the primary model's, in order.

        Args:
            contexts: input of the models.
            issued_at: UTC ms at which the forecasts count as issued: one for all, or one each.
            run: the run to which they belong; the live one when left out.
            horizon: number of bars to forecast; the configured one when left out.
            is_replay: whether they count as available when they were issued; otherwise the elapsed time is added.
            calibration_run_id: the run whose history calibrates them; their own when left out.
        """
        if not contexts:
            return []
        watch = Stopwatch(0)
        predictions = self.predict_contexts(contexts, horizon)
        run = run or Run(LIVE, LIVE, issued_at if isinstance(issued_at, int) else min(issued_at))
        latency = None if is_replay else lambda: watch.elapsed_ms
        return self.record(
            predictions, issued_at=issued_at, run=run, latency=latency, calibration_run_id=calibration_run_id
        )

    def predict_contexts(self, contexts: Sequence[Context], horizon: int | None = None) -> Predictions:
        """Call every model for every context. Reads and writes nothing, so any process may do it.

        The primary model covers all contexts; a baseline may leave out contexts that are too short for it.
        """
        return predict_where_possible(self.models, contexts, self.config.model.horizon if horizon is None else horizon)

    def record(
        self,
        predictions: Predictions,
        *,
        issued_at: int | Sequence[int],
        run: Run,
        latency: Callable[[], int] | None = None,
        calibration_run_id: str | None = None,
    ) -> list[OHLCForecast]:
        """Calibrate, stamp and write predictions; return the primary model's, in order. See `Recorder.record`."""
        return self._recorder.record(
            self.store,
            predictions,
            issued_at=issued_at,
            run=run,
            latency=latency,
            calibration_run_id=calibration_run_id,
        )

    def predict(
        self,
        bars: Bars | pd.DataFrame,
        horizon: int | None = None,
        key: SeriesKey | None = None,
        *,
        record: bool | None = None,
    ) -> OHLCForecast:
        """Forecast what follows the given bars, by the same path as the service.

        Args:
            bars: `Bars`, or a frame with open, high, low, close indexed by open time, for `key`.
            horizon: number of bars to forecast; the configured one when left out.
            key: the series of a frame; the only configured one when left out.
            record: whether to write it into the ledger under a run of its own, for which no other process may write
                there. When left out: only if this object writes the ledger already.

        Raises:
            BarsError: when the bars break a rule, are too few, or the last one has not closed yet.
            StoreTaken: when it is to be recorded and another process writes.
        """
        given = bars if isinstance(bars, Bars) else Bars.from_frame(key or self._only_series(), bars)
        model = self.config.model
        if not len(given):
            raise NotEnoughBars(given.key, model.min_context, 0)
        now, cutoff = now_ms(), int(given.close_time[-1])
        if cutoff > now:
            raise BarNotClosed(given.key, cutoff, now)
        context = Context.ending_at(given, cutoff, model.context, model.min_context)
        watch = Stopwatch(0)
        predictions = self.predict_contexts([context], horizon)
        run = self._prediction(context, predictions.by_model[0][0].horizon, now)
        if self._store is not None if record is None else record:
            latency = lambda: watch.elapsed_ms  # noqa: E731
            return self.record(predictions, issued_at=now, run=run, latency=latency, calibration_run_id=LIVE)[0]
        served, _ = self._recorder.served(predictions, run, LIVE)
        return stamp(predictions, served, [now], watch.elapsed_ms)[0][0]

    def _prediction(self, context: Context, horizon: int, now: int) -> Run:
        """Return the run of a prediction, identified by everything that decides its numbers."""
        plan = {
            "bars": context.sha256,
            "horizon": horizon,
            "models": [model.id for model in self.models],
            "code": code_digest(),
        }
        text = json.dumps(plan)
        return Run(RunId.of("predict", text), "predict", now, text)

    def latest(
        self, series: Series, *, run: str = LIVE, as_of: int | None = None, max_age: str | dt.timedelta = "fresh"
    ) -> OHLCForecast | None:
        """Return the latest forecast of a series from the ledger. See `LedgerClient.latest`."""
        return self.client.latest(series, run=run, as_of=as_of, max_age=max_age)

    def wait_for_next(self, series: Series, timeout: float) -> OHLCForecast:
        """Wait for the next forecast of a series. See `LedgerClient.wait_for_next`."""
        return self.client.wait_for_next(series, timeout)

    def history(
        self, series: Series, start: int, end: int, *, run: str = LIVE, as_of: int | None = None
    ) -> list[LedgerRow]:
        """Return the rows of all models with a cutoff in [start, end), UTC ms. See `LedgerClient.history`."""
        return self.client.history(series, start, end, run=run, as_of=as_of)

    def accuracy(self, window: str | None = None, as_of: int | None = None, run: str = LIVE) -> list[AccuracyReport]:
        """Score the settled rows of a run. See `LedgerClient.accuracy`."""
        return self.client.accuracy(window, as_of, run)

    def losses(
        self,
        window: str | None = None,
        as_of: int | None = None,
        run: str = LIVE,
        keys: Iterable[SeriesKey] | None = None,
    ) -> Iterator[Losses]:
        """Measure the settled rows of a run, in portions. See `LedgerClient.losses`."""
        return self.client.losses(window, as_of, run, keys)

    def trust(self, series: Series, step: int = 1, as_of: int | None = None) -> Trust | None:
        """Return how far the live forecasts of a series can be trusted at a step. See `LedgerClient.trust`."""
        return self.client.trust(series, step, as_of)

    def select(self, name: str | None) -> list[SeriesKey]:
        """Return the configured series of this name, `EXCHANGE SYMBOL TIMEFRAME`; all when it is None.

        Raises:
            ConfigError: for a series that is not configured; names those that are.
        """
        return self.series if name is None else [self.client.key(name)]

    def close(self) -> None:
        """Close sources and ledger."""
        if "_sources" in self.__dict__:
            for source in set(self._sources.values()):
                source.close()
        if "_opened_reader" in self.__dict__:
            self._opened_reader.close()
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _only_series(self) -> SeriesKey:
        if len(self.series) > 1:
            raise ConfigError("key", "the series of the frame, since several are configured", None)
        return self.series[0]
