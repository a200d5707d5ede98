"""Rolling-origin evaluation: contexts of many cutoffs, in batches, through the one path of `Forecaster`.

A replay has its own run in the ledger, with its own bars; neither its forecasts nor its bars enter a live series. A
cutoff sees only bars that had closed by then, as they are now or as they were known then. Each context is its own group
in the model. A batch is recorded before the next is forecast, so an interrupted replay resumes where its ledger ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from forecaster.arguments import check_integer
from forecaster.clock import now_ms
from forecaster.context import Context
from forecaster.errors import InvalidArgument, NotEnoughBars
from forecaster.ledger import Run, RunId
from forecaster.replay.cutoffs import ReplaySeries, bars_as_known, check_closed, check_cutoffs, choose_cutoffs
from forecaster.replay.run_identity import check_same_plan, describe_plan, make_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Bars, SeriesKey
    from forecaster.cycle.predict import Predictions
    from forecaster.engine import Forecaster
    from forecaster.forecast import ModelId
    from forecaster.store import Reader, Store

CUTOFFS_PER_BATCH: Final = 256


class Predictor(Protocol):
    """Forecasts batches of contexts, in their order: in this process or on other machines."""

    @property
    def model_ids(self) -> list[ModelId]:
        """Ids of the model and its baselines."""

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Predictions]:
        """Forecast each batch; a batch may be requested before the predictions of the one before are read."""


@dataclass(frozen=True)
class ReplayPlan:
    """Settings of a replay.

    Args:
        run: id and kind of the run; by default the id is the digest of everything that determines the forecasts.
        batch: cutoffs per batch of the model.
        latency_ms: time from a cutoff until its forecast is available. It changes no forecast: the returned run is the
            recorded one, read with this latency.
        known_within_ms: use the bars as they were known so long after each cutoff, instead of as they are now; cutoffs
            whose own bar was not known by then are left out.
        known_from: the ledger whose live series says what was known; the recording one by default.
        started_at: UTC ms at which it runs; now by default.
    """

    run: Run | None = None
    batch: int = CUTOFFS_PER_BATCH
    latency_ms: int = 0
    known_within_ms: int | None = None
    known_from: Reader | None = None
    started_at: int | None = None

    def __post_init__(self) -> None:
        """Check that numbers are whole and not negative."""
        check_integer("batch", self.batch)
        for name, value in (("latency_ms", self.latency_ms), ("known_within_ms", self.known_within_ms)):
            if value is not None:
                check_integer(name, value, 0)


def run_replay(
    forecaster: Forecaster,
    bars: Bars,
    cutoffs: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    plan: ReplayPlan | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
    predictor: Predictor | None = None,
) -> Run:
    """Forecast from every cutoff in history, in their order, and record the forecasts under a run of their own.

    Args:
        forecaster: its store keeps the run, its bars and its forecasts.
        bars: the history; the bars after the last cutoff are the outcomes.
        cutoffs: close times (UTC ms), increasing; by default all with enough bars before them. `cutoffs.choose_cutoffs`
            counts those that have too few.
        plan: settings; the defaults of `ReplayPlan` when omitted.
        on_batch: called after each batch with its number of cutoffs, and once with the number recorded before.
        predictor: makes the forecasts; by default the models of `forecaster`.

    Returns:
        The run; `forecaster.accuracy(run=run.id)` scores it. The same replay again is the same run and adds nothing.
        With other bars, models, settings, cutoffs or code it is another run.

    Raises:
        BarsError: if a cutoff is not a close of `bars`, has too few bars before it, or has not closed yet.
        ConfigError: if the plan names a run that was made from something else.
    """
    model = forecaster.config.model
    series = choose_cutoffs(bars, model) if cutoffs is None else check_cutoffs(bars, model, cutoffs)
    if not len(series.cutoffs):
        raise NotEnoughBars(bars.key, model.min_context, len(bars))
    report = lambda _, count, __: on_batch(count)  # noqa: E731
    return replay_all(forecaster, [series], plan=plan, on_batch=report, predictor=predictor)


def replay_all(
    forecaster: Forecaster,
    series: Sequence[ReplaySeries],
    *,
    plan: ReplayPlan | None = None,
    on_batch: Callable[[SeriesKey, int, int], None] = lambda *_: None,
    predictor: Predictor | None = None,
) -> Run:
    """Replay several series under one run; see `replay`.

    `on_batch` is called with the series, the number of its cutoffs that are done, and how many of them are new.
    """
    plan = plan or ReplayPlan()
    now = now_ms() if plan.started_at is None else plan.started_at
    for each in series:
        check_closed(each.bars, now)
    predictor = predictor or _LocalPredictor(forecaster)  # a model that does not load fails before anything is written
    prepared = [prepare(forecaster, each, plan) for each in series]
    if not any(len(each.cutoffs) for each in prepared):
        raise InvalidArgument("replay", "a cutoff of some series, whose bar was known in time", "none")
    facts = describe_plan(prepared, forecaster.config.model, predictor.model_ids, plan.known_within_ms)
    run = open_run(forecaster.store, make_run(plan.run, facts, now), [each.bars for each in prepared])
    for each in prepared:
        _replay_series(forecaster, each, run, predictor, plan.batch, on_batch)
    return replace(run, id=RunId(run.id).delayed(plan.latency_ms))


def prepare(forecaster: Forecaster, series: ReplaySeries, plan: ReplayPlan) -> ReplaySeries:
    """Look up what was known at each cutoff, if the plan asks for it and it was not done yet."""
    if plan.known_within_ms is None or series.known is not None:
        return series
    reader = plan.known_from or forecaster.store
    return bars_as_known(series, reader, plan.known_within_ms, forecaster.config.model)


def open_run(store: Store, run: Run, histories: Iterable[Bars]) -> Run:
    """Record a run and its bars, each as known since its close; return the run as the ledger has it.

    Raises:
        ConfigError: if the ledger has a run of this id that was made from something else.
    """
    recorded = {known.id: known for known in store.runs()}.get(run.id)
    if recorded is not None:
        check_same_plan(recorded, run.plan)
    with store.transaction():
        store.add_run(run)
        for bars in histories:
            store.add_bars(replace(bars, first_seen_at=bars.close_time, revision=np.zeros(1, np.int64)), run.id)
    return recorded or run


def _replay_series(
    forecaster: Forecaster,
    series: ReplaySeries,
    run: Run,
    predictor: Predictor,
    batch: int,
    on_batch: Callable[[SeriesKey, int, int], None],
) -> None:
    """Forecast and record the cutoffs that the run does not have yet."""
    done = forecaster.store.cutoffs(series.key, run.id)
    recorded = int(np.isin(series.cutoffs, done).sum())
    if recorded:
        on_batch(series.key, recorded, 0)
    for predictions in predictor(_contexts(forecaster, series, done, batch)):
        _check_models(predictions, predictor.model_ids, run)
        issued = [context.cutoff for context in predictions.contexts]
        forecaster.record(predictions, issued_at=issued, run=run)
        on_batch(series.key, len(issued), len(issued))


def _contexts(
    forecaster: Forecaster, series: ReplaySeries, done: NDArray[np.int64], batch: int
) -> Iterator[list[Context]]:
    """Cut the contexts of the remaining cutoffs, batch by batch."""
    model = forecaster.config.model
    for bars, cutoffs in series.spans:
        remaining = cutoffs[~np.isin(cutoffs, done)]
        for first in range(0, len(remaining), batch):
            cutoffs_of_batch = remaining[first : first + batch].tolist()
            yield [Context.ending_at(bars, cutoff, model.context, model.min_context) for cutoff in cutoffs_of_batch]


def _check_models(predictions: Predictions, expected: Sequence[ModelId], run: Run) -> None:
    """Refuse predictions of other models than the run's, such as other weights on another machine.

    Raises:
        InvalidArgument: names both.
    """
    pairs = zip(predictions.by_model, expected, strict=True)
    actual = [made[0].provenance.ledger_id if made else model_id for made, model_id in pairs]
    if actual != list(expected):
        raise InvalidArgument(f"models of run {run.id}", ", ".join(expected), ", ".join(actual))


class _LocalPredictor:
    """Forecasts with the models of this process."""

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster = forecaster
        self.model_ids = [model.id for model in forecaster.models]

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Predictions]:
        return map(self._forecaster.predict_contexts, batches)
