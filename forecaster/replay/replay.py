"""Rolling-origin evaluation: contexts of many cutoffs, in batches, through the one path of `Forecaster`.

A replay has a run of its own in the ledger, and its bars are that run's: neither its forecasts nor its bars enter a
live series. A cutoff sees only bars that had closed by then, as they are now or as they were known then; each is a
group of its own in the model. A batch is recorded before the next is taken, so a replay that was stopped goes on where
its ledger ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from forecaster.bars import Bars, Context
from forecaster.clock import now_ms
from forecaster.errors import InvalidContext, NotEnoughBars
from forecaster.ledger import Run, RunId
from forecaster.model.baselines.returns import whole
from forecaster.replay.cutoffs import Chosen, as_known, check_closed, choose_cutoffs, named_cutoffs
from forecaster.replay.run_identity import check_same, facts_of, named_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.cycle.predict import Answers
    from forecaster.engine import Forecaster
    from forecaster.forecast import ModelId
    from forecaster.store import Reader, Store

CUTOFFS_PER_BATCH: Final = 256


class Asker(Protocol):
    """Has contexts forecast, batch by batch, and gives the answers in the same order: here, or on other machines."""

    @property
    def model_ids(self) -> list[ModelId]:
        """Who answers: the model, then its baselines."""

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Answers]:
        """Ask for each batch; the next may be asked for before an answer is taken."""


@dataclass(frozen=True)
class ReplayPlan:
    """How a replay goes.

    Args:
        run: an id and a door of the caller's own; the id is the digest of all that decides the forecasts when left out.
        batch: cutoffs that go through the model at once.
        latency_ms: time from a cutoff until a reader could have had its forecast. It moves no forecast: the run that is
            returned is the recorded one, read with this latency.
        known_within_ms: give each cutoff the bars as they were known so long after it, and not as they are now; cutoffs
            whose own bar was not known by then are left out.
        known_from: the ledger whose live series tells what was known; the one that is recorded to when left out.
        started_at: UTC ms at which it runs; now when left out.
    """

    run: Run | None = None
    batch: int = CUTOFFS_PER_BATCH
    latency_ms: int = 0
    known_within_ms: int | None = None
    known_from: Reader | None = None
    started_at: int | None = None

    def __post_init__(self) -> None:
        """Refuse times that run backwards, and what is no whole number."""
        whole("batch", self.batch)
        for name, value in (("latency_ms", self.latency_ms), ("known_within_ms", self.known_within_ms)):
            if value is not None:
                whole(name, value, 0)


def replay(
    forecaster: Forecaster,
    bars: Bars,
    cutoffs: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    plan: ReplayPlan | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
    ask: Asker | None = None,
) -> Run:
    """Forecast from every cutoff in history, in their order, and record it under a run of its own.

    Args:
        forecaster: the path; its store keeps the run, its bars and its forecasts.
        bars: the history, past the last cutoff too: those bars are the outcomes.
        cutoffs: close times (UTC ms), rising; every one that has enough bars before it when left out, and then
            `cutoffs.choose_cutoffs` tells how many lack them.
        plan: how; the defaults of `ReplayPlan` when left out.
        on_batch: called with the number of cutoffs done after each batch, and with those that were there before.
        ask: who forecasts; the models of `forecaster` when left out.

    Returns:
        The run; `forecaster.accuracy(run_id=run.id)` scores it. The same replay again is the same run and adds nothing;
        with other bars, models, settings, cutoffs or code it is another one.

    Raises:
        BarsError: when a cutoff is not a close of `bars`, has too few of them before it, or has not closed yet.
        ConfigError: when the plan names a run that was made of something else.
    """
    model = forecaster.config.model
    chosen = choose_cutoffs(bars, model) if cutoffs is None else named_cutoffs(bars, model, cutoffs)
    if not len(chosen.cutoffs):
        raise NotEnoughBars(bars.key, model.min_context, len(bars))
    return replay_all(forecaster, [chosen], plan=plan, on_batch=lambda _, count, __: on_batch(count), ask=ask)


def replay_all(
    forecaster: Forecaster,
    chosen: Sequence[Chosen],
    *,
    plan: ReplayPlan | None = None,
    on_batch: Callable[[SeriesKey, int, int], None] = lambda *_: None,
    ask: Asker | None = None,
) -> Run:
    """Replay several series under one run; see `replay`.

    `on_batch` is called with the series, how many of its cutoffs are done, and how many of these are new.
    """
    plan = plan or ReplayPlan()
    now = now_ms() if plan.started_at is None else plan.started_at
    for one in chosen:
        check_closed(one.bars, now)
    ask = ask or _Here(forecaster)  # a model that cannot be loaded stops the replay before anything is written
    prepared = [prepare(forecaster, one, plan) for one in chosen]
    if not any(len(one.cutoffs) for one in prepared):
        raise InvalidContext("replay", "a cutoff of some series, whose bar was known in time", "none")
    facts = facts_of(prepared, forecaster.config.model, ask.model_ids, plan.known_within_ms)
    run = _open_run(forecaster.store, named_run(plan.run, facts, now), [one.bars for one in prepared])
    for one in prepared:
        _replay_series(forecaster, one, run, ask, plan.batch, on_batch)
    return replace(run, id=RunId(run.id).delayed(plan.latency_ms))


def prepare(forecaster: Forecaster, chosen: Chosen, plan: ReplayPlan) -> Chosen:
    """Look what was known at each cutoff, where the plan asks for it and nobody has looked yet."""
    if plan.known_within_ms is None or chosen.known is not None:
        return chosen
    reader = plan.known_from or forecaster.store
    return as_known(chosen, reader, plan.known_within_ms, forecaster.config.model)


def _open_run(store: Store, run: Run, histories: Iterable[Bars]) -> Run:
    """Name the run and keep its bars, each as known since it closed; gives the run as the ledger has it.

    Raises:
        ConfigError: when the ledger has a run of this name that was made of something else.
    """
    known = {one.id: one for one in store.runs()}.get(run.id)
    if known is not None:
        check_same(known, run.plan)
    with store.together():
        store.add_run(run)
        for bars in histories:
            store.add_bars(replace(bars, first_seen_at=bars.close_time, revision=np.zeros(1, np.int64)), run.id)
    return known or run


def _replay_series(
    forecaster: Forecaster,
    chosen: Chosen,
    run: Run,
    ask: Asker,
    batch: int,
    on_batch: Callable[[SeriesKey, int, int], None],
) -> None:
    """Forecast and record the cutoffs that the run does not have yet."""
    done = forecaster.store.cutoffs(chosen.key, run.id)
    there = int(np.isin(chosen.cutoffs, done).sum())
    if there:
        on_batch(chosen.key, there, 0)
    for answers in ask(_contexts(forecaster, chosen, done, batch)):
        _check_models(answers, ask.model_ids, run)
        issued = [one.cutoff for one in answers.contexts]
        forecaster.record(answers, issued_at=issued, run=run)
        on_batch(chosen.key, len(issued), len(issued))


def _contexts(forecaster: Forecaster, chosen: Chosen, done: NDArray[np.int64], batch: int) -> Iterator[list[Context]]:
    """Cut the contexts of the cutoffs that are not done, batch by batch."""
    model = forecaster.config.model
    for bars, cutoffs in chosen.spans:
        left = cutoffs[~np.isin(cutoffs, done)]
        for first in range(0, len(left), batch):
            some = left[first : first + batch].tolist()
            yield [Context.ending_at(bars, cutoff, model.context, model.min_context) for cutoff in some]


def _check_models(answers: Answers, expected: Sequence[ModelId], run: Run) -> None:
    """Refuse answers of models that the run was not named by, such as other weights on another machine.

    Raises:
        InvalidContext: says which.
    """
    found = [made[0].provenance.ledger_id if made else name for made, name in zip(answers.made, expected, strict=True)]
    if found != list(expected):
        raise InvalidContext(f"models of run {run.id}", ", ".join(expected), ", ".join(found))


class _Here:
    """Asks the models of this process."""

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster = forecaster
        self.model_ids = [one.id for one in forecaster.models]

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Answers]:
        return map(self._forecaster.ask, batches)
