"""The one path of a forecast: bars in, contexts cut, models asked, ledger written, outcomes settled.

`ask.py` is the only caller of a model, and `record` the only way into the ledger. All three doors end there:
the daemon through `run_cycle`, strategies through `predict`, a replay with contexts of its own.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple, Self

from forecaster.accuracy.drift import Watches
from forecaster.accuracy.scores import Scores
from forecaster.bars import FIELDS, Bars, Context, SeriesKey
from forecaster.clock import now_ms
from forecaster.code_version import code_digest
from forecaster.config import Config, default_config_path, load_config, with_store
from forecaster.cycle.calibrate import Calibrations
from forecaster.cycle.ingest import Intake, Pulled, Skipped, WaitsFor, raised
from forecaster.cycle.pending import Owed, end_owed, lease_owed
from forecaster.cycle.predict import Answers, ask_first, ask_sparing
from forecaster.cycle.settle import arrived_losses, check_run, settled_losses, start_of, trust_in
from forecaster.errors import BarNotClosed, BarsError, ConfigError, InvalidContext, NotEnoughBars, StoreError, utc_text
from forecaster.ledger import LIVE, AccuracyReport, CalibrationState, LedgerRow, Run, RunId, Slot
from forecaster.log import get_logger
from forecaster.model import Model, load_baselines, load_model
from forecaster.sources import BarSource, open_source
from forecaster.sources.fetch_pool import STRAGGLES_AFTER
from forecaster.stopwatch import CommitTimes, Stopwatch
from forecaster.store import Reader, Store, open_reader, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from forecaster.accuracy.drift import Drift
    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.trust import Trust
    from forecaster.forecast import OHLCForecast
    from forecaster.timeframe import Timeframe

_log = get_logger(__name__)


@dataclass(frozen=True)
class CycleReport:
    """What one cycle did. `settled` is what the forecasts cost whose target bars arrived in it.

    `given_up` are series that were skipped for reasons which waiting does not mend; `missed` counts closes that passed
    while nobody ran; `sat_out` names baselines that failed, with reasons; `drifts` are the changes of the model's skill
    or coverage that it showed; `waited_seconds` is the part of `seconds` in which sources were waited for,
    `model_seconds` that in which models were asked. `waiting` are series whose bars are still waited for; `revised`
    holds the open times of bars that were revised after they were taken for final, and `revised_forecasts` says how
    many forecasts were made from them; `doubted` are series whose answer waited for a second one; `clocks` says how far
    (ms) the clock of an exchange is ahead of this machine's.
    """

    timeframe: Timeframe
    exchange: str | None
    as_of: int
    series: int
    bars_added: int
    forecasts: list[OHLCForecast]
    settled: list[Losses]
    skipped: dict[SeriesKey, str]
    given_up: frozenset[SeriesKey]
    sat_out: dict[str, str]
    drifts: list[tuple[SeriesKey, Drift]]
    missed: int
    seconds: float
    waited_seconds: float
    model_seconds: float
    waiting: frozenset[SeriesKey] = frozenset()
    revised: dict[SeriesKey, Sequence[int]] = field(default_factory=dict)
    revised_forecasts: int = 0
    doubted: frozenset[SeriesKey] = frozenset()
    clocks: dict[str, int] = field(default_factory=dict)

    @property
    def settled_rows(self) -> int:
        """How many ledger rows met their bar, but for late ones."""
        return sum(int((~one.steps.late_N).sum()) * len(FIELDS) for one in self.settled)


class Forecaster:
    """Forecasts, records and scores the series of a configuration.

    Args:
        config: what to forecast and how.
        store: where bars and forecasts are kept; when left out, what the configuration names, opened to be written by
            the first call that writes.
        sources: where the bars of each series come from; what the configuration names when left out.
        models: the model, then its baselines; loaded at the first forecast when left out.
    """

    def __init__(
        self,
        config: Config,
        store: Store | None = None,
        sources: dict[SeriesKey, BarSource] | None = None,
        models: Sequence[Model] | None = None,
    ) -> None:
        self.config = config
        self._store = store
        self._given_sources = sources
        self._given_models = models
        self._turn = threading.Lock()
        self._given_up: dict[SeriesKey, tuple[int, str]] = {}

    @classmethod
    def from_config(cls, path: str | Path | None = None, store: str | Path | None = None) -> Forecaster:
        """Open what a configuration file names; `FORECASTER_CONFIG` or the embedded demo when left out.

        Args:
            path: of the configuration file.
            store: URL or path of another ledger than the configured one, as for a replay of its own.

        Raises:
            ConfigError: names the key, what was expected and found.
        """
        config = load_config(path or default_config_path())
        return cls(config if store is None else with_store(config, str(store)))

    @property
    def store(self) -> Store:
        """The store, to be written: no other process writes it until this is closed.

        Raises:
            StoreError: when it cannot be opened, or another process writes it.
        """
        if self._store is None:
            self._store = open_store(self.config.store.url.reveal())
        return self._store

    @property
    def reader(self) -> Reader:
        """The store, to be read, beside whoever writes it."""
        return self._opened_reader if self._store is None else self._store

    @cached_property
    def _opened_reader(self) -> Reader:
        return open_reader(self.config.store.url.reveal())

    @cached_property
    def _sources(self) -> dict[SeriesKey, BarSource]:
        """Where the bars of each series come from; what lies in one place is shared."""
        if self._given_sources is not None:
            return self._given_sources
        places: dict[object, BarSource] = {}
        for one in self.config.series:
            places[one.place] = places.get(one.place) or open_source(self.config, one, self.store)
        return {one.key: places[one.place] for one in self.config.series}

    @cached_property
    def models(self) -> list[Model]:
        """The model, then its baselines."""
        if self._given_models is not None:
            return list(self._given_models)
        return [load_model(self.config.model), *load_baselines(self.config.model)]

    def load(self) -> None:
        """Load the models and open the sources now, so that what is wrong with them shows before the first cycle.

        Raises:
            ConfigError: for an exchange that nobody knows, or a file that is not there.
            ModelLoadError: when a model cannot be loaded.
        """
        _ = self.models, self._sources

    @cached_property
    def _intake(self) -> Intake:
        return Intake(self.store, self._sources, self.config.model.context, self.config.daemon.requests_at_once)

    def on_straggler(self, told: Callable[[SeriesKey], None]) -> None:
        """Have it told, on some thread, when bars of a series have come that a cycle did not wait for."""
        self._intake.arrivals.on_straggler = told

    @cached_property
    def _watches(self) -> Watches:
        return Watches()

    @cached_property
    def _calibrations(self) -> Calibrations:
        return Calibrations(lambda: self.reader)

    @cached_property
    def _commits(self) -> CommitTimes:
        return CommitTimes()

    @property
    def model_name(self) -> str:
        """What the configuration calls the model; known without loading it."""
        return self._given_models[0].name if self._given_models else self.config.model.id

    @cached_property
    def series(self) -> list[SeriesKey]:
        """The configured series."""
        return [one.key for one in self.config.series]

    @cached_property
    def timeframes(self) -> list[Timeframe]:
        """The timeframes of the configured series, each once."""
        return list(dict.fromkeys(key.timeframe for key in self.series))

    def run_cycle(
        self,
        timeframe: Timeframe,
        as_of: int,
        started_at: int | None = None,
        exchange: str | None = None,
        waits_for: WaitsFor = "all",
    ) -> CycleReport:
        """Take one timeframe's pass over its series, as things stand at `as_of` (UTC ms).

        A cycle that is repeated changes nothing. A series whose bars cannot be had or used, or that the model cannot
        forecast, sits out, by name; so does a baseline. Any other fault is raised. Forecasts are stamped with
        `started_at` (`as_of` when left out) and the time that the cycle had taken by then, so waiting for bars is never
        hidden. Cycles of several exchanges may run at once: they wait for their bars side by side.

        What has come is forecast while other series are still waited for. With "most", series whose source takes long
        are left under way (`CycleReport.waiting`), with "nobody" all that have not come; `on_straggler` hears when they
        have, and `run_arrived` takes them.
        """
        _ = self.models  # a model that cannot be loaded stops the cycle before anything is written
        keys = self._of_place(timeframe, exchange)
        cycle = _Cycle(as_of, Stopwatch(as_of if started_at is None else started_at), self._lease(keys, as_of))
        skipped, slots = cycle.skipped, cycle.owed.slots
        self._pass_over(cycle.owed, skipped)
        if skipped.reasons:
            end_owed(self.store, {key: slots[key] for key in skipped.reasons}, [], skipped.reasons, as_of)
        asked = [key for key in keys if slots[key] and key not in skipped.reasons]
        rounds = self._intake.rounds(asked, as_of, skipped, cycle.watch, waits_for)
        return self._run(timeframe, exchange, cycle, rounds)

    def run_arrived(
        self, timeframe: Timeframe, as_of: int, started_at: int | None = None, exchange: str | None = None
    ) -> CycleReport:
        """Take what has come of series that a cycle did not wait for. Arguments as of `run_cycle`."""
        keys = self._intake.arrivals.arrived(self._of_place(timeframe, exchange))
        cycle = _Cycle(as_of, Stopwatch(as_of if started_at is None else started_at), self._lease(keys, as_of))
        return self._run(timeframe, exchange, cycle, self._intake.take(keys, as_of, cycle.skipped, cycle.watch))

    def run_last(self, as_of: int, seconds: float = STRAGGLES_AFTER) -> list[CycleReport]:
        """Before an end: take what still comes in some seconds, and write down of the rest why it was not forecast."""
        reports: list[CycleReport] = []
        for timeframe, exchange in dict.fromkeys((key.timeframe, key.exchange) for key in self.series):
            keys = sorted(self._intake.arrivals.under_way(self._of_place(timeframe, exchange)), key=str)
            if keys:
                cycle = _Cycle(as_of, Stopwatch(as_of), self._lease(keys, as_of))
                patience = 0.0 if reports else seconds  # the others have come meanwhile
                rounds = self._intake.last(keys, as_of, cycle.skipped, cycle.watch, patience)
                reports.append(self._run(timeframe, exchange, cycle, rounds))
        return reports

    def _of_place(self, timeframe: Timeframe, exchange: str | None) -> list[SeriesKey]:
        return [key for key in self.series if key.timeframe == timeframe and exchange in (None, key.exchange)]

    def _lease(self, keys: Sequence[SeriesKey], as_of: int) -> Owed:
        return lease_owed(self.store, keys, self.model_name, as_of)

    def _run(self, timeframe: Timeframe, exchange: str | None, cycle: _Cycle, rounds: Iterator[Pulled]) -> CycleReport:
        """Forecast round by round, and tell what was done."""
        skipped, slots = cycle.skipped, cycle.owed.slots
        for pulled in rounds:
            cycle.pulled.append(pulled)
            if pulled.all_keys:
                with self._turn:
                    self._forecast_round(cycle, pulled)
        given_up = {key: (slots[key][-1].cutoff, skipped.reasons[key]) for key in skipped.given_up if slots[key]}
        with self._turn:
            self._given_up = {key: at for key, at in self._given_up.items() if key not in slots} | given_up
            drifts = self._drifts(cycle.settled)
        waiting = self._intake.arrivals.under_way(self._of_place(timeframe, exchange))
        self._end_waiting(cycle, waiting)
        place = {key: number for number, key in enumerate(slots)}
        report = CycleReport(
            timeframe=timeframe,
            exchange=exchange,
            as_of=cycle.as_of,
            series=len(slots),
            bars_added=sum(one.added for one in cycle.pulled),
            forecasts=sorted(cycle.forecasts, key=lambda one: place[one.key]),
            settled=cycle.settled,
            skipped=skipped.reasons,
            given_up=frozenset(skipped.given_up),
            sat_out=cycle.sat_out,
            drifts=drifts,
            missed=cycle.owed.missed,
            seconds=cycle.watch.elapsed_ms / 1000,
            waited_seconds=sum(one.waited_seconds for one in cycle.pulled),
            model_seconds=cycle.model_ms / 1000,
            waiting=frozenset(waiting),
            revised={key: opens for one in cycle.pulled for key, opens in one.revised.items()},
            doubted=frozenset[SeriesKey]().union(*(one.doubted for one in cycle.pulled)),
            revised_forecasts=sum(one.revised_forecasts for one in cycle.pulled),
            clocks={name: ahead for one in cycle.pulled for name, ahead in one.clocks.items()},
        )
        if slots:
            self._log_cycle(report)
        return report

    def _forecast_round(self, cycle: _Cycle, pulled: Pulled) -> None:
        """Forecast what can be forecast once the bars of some series have come, and settle what they settle."""
        skipped, come = cycle.skipped, pulled.all_keys
        owed = {key: slots for key, slots in cycle.owed.slots.items() if slots and key in come}
        contexts, newest = self._contexts_of(owed, pulled.keys, skipped)
        issued_at = max(cycle.watch.now, pulled.seen[1])  # what a forecast saw could be read when it was issued
        asked = Stopwatch(0)
        answers, failed, sat_out = ask_sparing(self.models, contexts, self.config.model.horizon)
        for key, reason in failed.items():
            skipped.skip(key, reason)
        cycle.model_ms += asked.elapsed_ms
        cycle.sat_out |= sat_out
        # The clock of this machine may be behind: what has closed already was not to be forecast in time.
        issued = [max(issued_at, newest[one.key]) for one in answers.contexts]
        run = Run(LIVE, LIVE, issued_at)
        made = self.record(answers, issued_at=issued, run=run, latency=lambda: asked.elapsed_ms) if issued else []
        self._end(cycle, owed, pulled.keys, made)
        with self.store.together(write=False):
            arrived = arrived_losses(self.store, pulled.seen[1], since=pulled.seen[0] - 1)
        cycle.settled += [one for one in arrived if one.steps.key in come]
        cycle.forecasts += made

    def _end_waiting(self, cycle: _Cycle, waiting: Collection[SeriesKey]) -> None:
        """Write down of series that are waited for that they are: their closes are owed still, also after an end."""
        named = cycle.skipped.reasons
        slots = {key: of_key for key, of_key in cycle.owed.slots.items() if key in waiting and key not in named}
        if any(slots.values()):
            end_owed(self.store, slots, [], dict.fromkeys(slots, "its bars had not come yet"), cycle.as_of)

    def _end(
        self, cycle: _Cycle, owed: dict[SeriesKey, list[Slot]], over: Collection[SeriesKey], made: list[OHLCForecast]
    ) -> None:
        """Write down what became of the work; of series that are asked again, what is done already."""
        done = {(one.key, one.cutoff) for one in made}
        ended = {
            key: [slot for slot in slots if key in over or (key, slot.cutoff) in done] for key, slots in owed.items()
        }
        end_owed(self.store, ended, made, cycle.skipped.reasons, cycle.as_of)
        for key, slots in owed.items():
            cycle.owed.slots[key] = [slot for slot in slots if (key, slot.cutoff) not in done] or slots[-1:]

    def _pass_over(self, owed: Owed, skipped: Skipped) -> None:
        """Let series sit out that were given up at this very close: they are asked for again at the next one."""
        for key, slots in owed.slots.items():
            cutoff, reason = self._given_up.get(key, (None, ""))
            if slots and slots[-1].cutoff == cutoff:
                skipped.reasons[key] = reason
                skipped.given_up.add(key)

    def _contexts_of(
        self, owed: dict[SeriesKey, list[Slot]], over: Collection[SeriesKey], skipped: Skipped
    ) -> tuple[list[Context], dict[SeriesKey, int]]:
        """The contexts of what is owed and can be had, and the newest close in the store (UTC ms) of each series.

        A series of which the newest is missing sits out with that, if its bars are `over`, and not asked for again.
        """
        with self.store.together(write=False):
            found = skipped.trying(owed, lambda key: self._contexts(owed[key]))
        for key, one in found.items():
            if one.fault is not None and key in over:
                skipped.trying([key], partial(raised, one.fault))
        contexts = [context for one in found.values() for context in one.contexts]
        return contexts, {key: one.newest for key, one in found.items()}

    def backfill(self, key: SeriesKey, since: int, as_of: int, *, anew: bool = False) -> Iterator[tuple[int, int]]:
        """Fetch a series' history from `since` (UTC ms) on, part by part, each durable before the next is asked for.

        Yields how many bars of a part are new, and how far the history has come (UTC ms). Begins with the first slot
        that is still owed, so a run that was stopped goes on; with `anew`, stored bars are asked for again as well.

        Raises:
            SourceError: as its kind says; what came before is kept.
        """
        first = since if anew else max(since, self._intake.owed_since(key, since))
        yield from self._intake.parts(key, first, as_of)

    def pull(self, keys: Sequence[SeriesKey], as_of: int) -> tuple[int, dict[SeriesKey, str]]:
        """Fetch the bars after the last stored one, check and store them.

        Returns how many rows were added, and the series that could not be had, with the reason.
        """
        skipped = Skipped()
        return self._intake.pull(keys, as_of, skipped), skipped.reasons

    def forecast(
        self,
        contexts: Sequence[Context],
        *,
        issued_at: int | Sequence[int],
        run: Run | None = None,
        horizon: int | None = None,
        is_replay: bool = False,
        learned_in: str | None = None,
    ) -> list[OHLCForecast]:
        """Ask every model for every context and record the answers; returns the first model's, in order.

        Args:
            contexts: what to forecast from.
            issued_at: UTC ms at which the forecasts were asked for: one for all, or one each.
            run: the run that they belong to; the live one when left out.
            horizon: bars to forecast; the configured number when left out.
            is_replay: whether they count as there when they were issued; else the time until then is measured.
            learned_in: the run whose past calibrates them; their own, which learns from them, when left out.
        """
        if not contexts:
            return []
        watch = Stopwatch(0)
        answers = self.ask(contexts, horizon)
        run = run or Run(LIVE, LIVE, issued_at if isinstance(issued_at, int) else min(issued_at))
        latency = None if is_replay else lambda: watch.elapsed_ms
        return self.record(answers, issued_at=issued_at, run=run, latency=latency, learned_in=learned_in)

    def ask(self, contexts: Sequence[Context], horizon: int | None = None) -> Answers:
        """Ask every model for every context: nothing is read or written, so any process may do this part.

        The first model answers all; a baseline may leave contexts out that are too short for it.
        """
        steps = self.config.model.horizon if horizon is None else horizon
        return ask_first(self.models, contexts, steps)

    def record(
        self,
        answers: Answers,
        *,
        issued_at: int | Sequence[int],
        run: Run,
        latency: Callable[[], int] | None = None,
        learned_in: str | None = None,
    ) -> list[OHLCForecast]:
        """Calibrate, stamp and write answers; returns the first model's, in order. See `forecast`.

        `latency` gives the milliseconds since they were asked for; without it, as in a replay, they count as there when
        they were issued. `available_at` is never before the end of the commit: it allows for one as long as the last
        ones were, and is moved where it took longer.
        """
        store = self.store
        at = [issued_at] * len(answers.contexts) if isinstance(issued_at, int) else list(issued_at)
        served, learned = self._served(answers, run, learned_in)
        promised = 0 if latency is None else latency() + self._commits.allowance_ms
        stamped = _stamped(answers, served, at, promised)
        try:
            with self._commits.measured():
                store.add_run(run)
                store.add_forecasts([one for made in stamped for one in made], run.id, learned)
        except StoreError:
            self._calibrations.forget()
            raise
        if latency is not None and latency() > promised:
            stamped = _stamped(answers, served, at, latency() + self._commits.allowance_ms)
            store.postpone([one for made in stamped for one in made], run.id)
        return stamped[0]

    def _served(
        self, answers: Answers, run: Run, learned_in: str | None
    ) -> tuple[list[list[NDArray[np.float64]]], list[CalibrationState]]:
        """The prices to serve, for each model, and what calibration has learned by them."""
        served = [[one.values_FHQ for one in made] for made in answers.made]
        learned: list[CalibrationState] = []
        if self.config.model.calibrate and learned_in is None:
            served[0], learned = self._calibrations.apply(answers.contexts, answers.made[0], run.id)
        elif self.config.model.calibrate and learned_in is not None:
            served[0] = self._calibrations.look_up(answers.contexts, answers.made[0], learned_in)
        return served, learned

    def predict(
        self,
        bars: Bars | pd.DataFrame,
        horizon: int | None = None,
        key: SeriesKey | None = None,
        *,
        record: bool | None = None,
    ) -> OHLCForecast:
        """Forecast what follows bars in hand, by the same path.

        Args:
            bars: `Bars`, or a frame with open, high, low, close indexed by open time, for `key`.
            horizon: bars to forecast; the configured number when left out.
            key: the series of a frame; the only configured one when left out.
            record: whether to write it into the ledger under a run of its own, for which no other process may write
                there; when left out, only if this object writes the ledger already.

        Raises:
            BarsError: when the bars break a rule, are too few, or the last one has not closed yet.
            StoreTaken: when it is to be recorded and another process writes.
        """
        given = bars if isinstance(bars, Bars) else Bars.from_frame(key or self._only_series(), bars)
        if not len(given):
            raise NotEnoughBars(given.key, self.config.model.min_context, 0)
        now = now_ms()
        cutoff = int(given.close_time[-1])
        if cutoff > now:
            raise BarNotClosed(given.key, cutoff, now)
        context = self._cut(given, cutoff)
        watch = Stopwatch(0)
        answers = self.ask([context], horizon)
        run = self._prediction(context, answers.made[0][0].horizon, now)
        if self._store is not None if record is None else record:
            latency = lambda: watch.elapsed_ms  # noqa: E731
            return self.record(answers, issued_at=now, run=run, latency=latency, learned_in=LIVE)[0]
        served, _ = self._served(answers, run, LIVE)
        return _stamped(answers, served, [now], watch.elapsed_ms)[0][0]

    def _prediction(self, context: Context, horizon: int, now: int) -> Run:
        """The run of a prediction by hand, named by all that decides its numbers."""
        plan = {
            "bars": context.sha256,
            "horizon": horizon,
            "models": [model.id for model in self.models],
            "code": code_digest(),
        }
        text = json.dumps(plan)
        return Run(RunId.of("predict", text), "predict", now, text)

    def latest(self, exchange: str, symbol: str, timeframe: str, as_of: int | None = None) -> OHLCForecast | None:
        """Read the newest live forecast of a series from the ledger: no network, no model. None before the first.

        With `as_of` (UTC ms), the newest that could be read then. `OHLCForecast.revised` names the bars behind it that
        were revised later.

        Raises:
            LedgerMissing: when there is no ledger.
            InvalidContext: for a time that is still to come: the answer would change.
        """
        as_of = None if as_of is None else _passed(as_of)
        key = self._configured(exchange, symbol, timeframe)
        found = self.reader.latest(key, self.model_name, as_of=as_of)
        return None if found is None else self._marked(found, as_of)

    def _marked(self, forecast: OHLCForecast, as_of: int | None) -> OHLCForecast:
        """The forecast, with the bars that it was made from and that were revised later."""
        key, bars = forecast.key, forecast.provenance.batch_shape[-1]
        first = int(key.sessions.last_opens(key.timeframe, forecast.cutoff, bars)[0])
        since = forecast.cutoff if forecast.issued_at is None else forecast.issued_at
        revised = self.reader.revised(key, first, forecast.cutoff, since, as_of)
        return dataclasses.replace(forecast, revised=tuple(revised)) if revised else forecast

    def history(
        self, exchange: str, symbol: str, timeframe: str, start: int, end: int, as_of: int | None = None
    ) -> list[LedgerRow]:
        """Read the live rows of all models whose cutoff lies in [start, end), UTC ms; with `as_of`, as of then."""
        as_of = None if as_of is None else _passed(as_of)
        return self.reader.history(self._configured(exchange, symbol, timeframe), start, end, as_of=as_of)

    def accuracy(self, window: str | None = None, as_of: int | None = None, run_id: str = LIVE) -> list[AccuracyReport]:
        """Score a run's settled rows by series, model, step and field, as they were served, without late ones.

        Args:
            window: only rows that settled within so many days before `as_of`, such as `30d`.
            as_of: UTC ms; now when left out.
            run_id: which run; of a replay, `as_of` and `window` are times within it.

        Raises:
            ConfigError: for a run that is not in the ledger; names those that are.
            InvalidContext: for a time that is still to come.
        """
        return Scores(self.losses(window, as_of, run_id)).reports()

    def losses(
        self,
        window: str | None = None,
        as_of: int | None = None,
        run_id: str = LIVE,
        keys: Iterable[SeriesKey] | None = None,
    ) -> Iterator[Losses]:
        """Measure a run's settled rows, some at a time: what `Scores` and `Traces` take. Arguments as in `accuracy`."""
        until = _passed(as_of)
        since = start_of(window, until)
        check_run(self.reader, run_id)
        return settled_losses(self.reader, self.series if keys is None else keys, until, since, run_id)

    def trust(
        self, exchange: str, symbol: str, timeframe: str, step: int = 1, as_of: int | None = None
    ) -> Trust | None:
        """Say how far the live forecasts of a series can be trusted at a step; None when none has settled yet.

        Raises:
            InvalidContext: for a step beyond the horizon, or a time that is still to come.
        """
        key = self._configured(exchange, symbol, timeframe)
        if not 1 <= step <= self.config.model.horizon:
            raise InvalidContext("step", f"1 to {self.config.model.horizon}", step)
        return trust_in(self.reader, key, self.model_name, step, _passed(as_of))

    def chosen(self, name: str | None) -> list[SeriesKey]:
        """Give the configured series of this name, `EXCHANGE SYMBOL TIMEFRAME`; all when it is None.

        Raises:
            ConfigError: when there is none of that name.
        """
        found = [key for key in self.series if name in (None, str(key))]
        if not found:
            raise ConfigError("series", f"one of {', '.join(map(str, self.series))}", name)
        return found

    def close(self) -> None:
        """Let go of sources and store."""
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

    def _contexts(self, owed: Sequence[Slot]) -> _Found:
        """The contexts of what a series owes, of those that can be had.

        Raises:
            BarsError: when the newest cannot, and none before it.
        """
        key, newest = owed[0].key, owed[-1].cutoff
        bars = self.store.bars(key, start=self._intake.first_slot(key, owed[0].cutoff))
        contexts, fault = [], None
        for slot in owed:
            try:
                context = self._cut(bars, slot.cutoff)
                context.target_opens(self.config.model.horizon)  # where its calendar ends, this series sits out
                contexts.append(context)
            except BarsError as error:
                fault = error if slot.cutoff == newest else fault
        return _Found(contexts, int(bars.close_time[-1]) if len(bars) else 0, fault)

    def _cut(self, bars: Bars, cutoff: int) -> Context:
        return Context.ending_at(bars, cutoff, self.config.model.context, self.config.model.min_context)

    def _configured(self, exchange: str, symbol: str, timeframe: str) -> SeriesKey:
        return self.chosen(f"{exchange} {symbol} {timeframe}")[0]

    def _only_series(self) -> SeriesKey:
        if len(self.series) > 1:
            raise ConfigError("key", "the series of the frame, since several are configured", None)
        return self.series[0]

    def _log_cycle(self, report: CycleReport) -> None:
        late = sum(one.is_late for one in report.forecasts)
        _log.info(
            "cycle.completed",
            timeframe=str(report.timeframe),
            exchange=report.exchange,
            as_of=report.as_of,
            series=report.series,
            bars_added=report.bars_added,
            forecasts=len(report.forecasts),
            late=late,
            missed=report.missed,
            settled=report.settled_rows,
            waiting=len(report.waiting),
            skipped={str(key): reason for key, reason in report.skipped.items()},
            sat_out=report.sat_out,
            engine=self.models[0].engine,
            seconds=round(report.seconds, 3),
            waited_seconds=round(report.waited_seconds, 3),
            model_seconds=round(report.model_seconds, 3),
        )

    def _drifts(self, settled: Sequence[Losses]) -> list[tuple[SeriesKey, Drift]]:
        """Changes in the model's skill or coverage, seen since this process began to watch."""
        found = []
        for key, model_id, drift in self._watches.look(settled):
            if model_id.name == self.model_name:
                values = {"before": round(drift.before, 4), "now": round(drift.now, 4)}
                _log.warning("accuracy.drifted", series=str(key), model=model_id, of=drift.what, **values)
                found.append((key, drift))
        return found


@dataclass
class _Cycle:
    """What a cycle is about, and what its rounds have done so far."""

    as_of: int
    watch: Stopwatch
    owed: Owed
    skipped: Skipped = field(default_factory=Skipped)
    pulled: list[Pulled] = field(default_factory=list)
    forecasts: list[OHLCForecast] = field(default_factory=list)
    settled: list[Losses] = field(default_factory=list)
    sat_out: dict[str, str] = field(default_factory=dict)
    model_ms: int = 0


class _Found(NamedTuple):
    """Contexts that can be cut, the newest close that is stored (UTC ms), and why the newest context cannot be cut."""

    contexts: list[Context]
    newest: int
    fault: BarsError | None


def _passed(as_of: int | None) -> int:
    """A time that has passed, now when left out.

    Raises:
        InvalidContext: for one that is still to come: what is asked as of then would change.
    """
    now = now_ms()
    if as_of is not None and as_of > now:
        raise InvalidContext("as_of", f"a time that has passed, {utc_text(now)} at the latest", utc_text(as_of))
    return now if as_of is None else as_of


def _stamped(
    answers: Answers, served: Sequence[Sequence[NDArray[np.float64]]], issued_at: Sequence[int], latency_ms: int
) -> list[list[OHLCForecast]]:
    """Forecasts with the prices to serve and their times, for each model."""
    issued = {(one.key, one.cutoff): time for one, time in zip(answers.contexts, issued_at, strict=True)}
    times = [[issued[one.key, one.cutoff] for one in made] for made in answers.made]
    return [
        [
            dataclasses.replace(one, values_FHQ=values_FHQ, issued_at=at, available_at=at + latency_ms)
            for one, values_FHQ, at in zip(made, values, of_model, strict=True)
        ]
        for made, values, of_model in zip(answers.made, served, times, strict=True)
    ]
