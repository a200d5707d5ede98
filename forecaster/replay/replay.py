"""Rolling-origin evaluation: contexts of many cutoffs, in batches, through the one path of `Forecaster`.

A replay has its own run in the ledger, so it can be judged by itself and never passes for live. A cutoff sees only bars
that had closed by then, as they are now or as they were known then; each is a group of its own in the model. A batch is
recorded before the next is taken, so a replay that was stopped goes on where its ledger ends.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from forecaster.bars import Bars, Context
from forecaster.errors import NotEnoughBars
from forecaster.ledger import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.ask import Answers
    from forecaster.bars import SeriesKey
    from forecaster.engine import Forecaster
    from forecaster.store import Reader

CUTOFFS_PER_BATCH: Final = 256
_NEVER: Final = 2**62


class Asker(Protocol):
    """Has contexts forecast, batch by batch, and gives the answers in the same order: here, or on other machines."""

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Answers]:
        """Ask for each batch; the next may be asked for before an answer is taken."""


@dataclass(frozen=True)
class ReplayPlan:
    """How a replay goes.

    Args:
        run: what its forecasts are recorded under; named by configuration and cutoffs when left out.
        batch: cutoffs that go through the model at once.
        latency_ms: time from a cutoff until a reader could have had its forecast.
        known_within_ms: give each cutoff the bars as they were known so long after it, and not as they are now; cutoffs
            whose own bar was not known by then are left out.
    """

    run: Run | None = None
    batch: int = CUTOFFS_PER_BATCH
    latency_ms: int = 0
    known_within_ms: int | None = None


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
        forecaster: the path; its store keeps `bars` and the forecasts.
        bars: the history, past the last cutoff too: those bars are the outcomes.
        cutoffs: close times (UTC ms), rising; every one that has enough bars before it when left out.
        plan: how; the defaults of `ReplayPlan` when left out.
        on_batch: called with the number of cutoffs done after each batch, and with those that were there before.
        ask: who forecasts; the models of `forecaster` when left out.

    Returns:
        The run; `forecaster.accuracy(run_id=run.id)` scores it. A replay that is repeated adds nothing.

    Raises:
        BarsError: when a cutoff is not a close of `bars`, or has too few of them before it.
    """
    plan = plan or ReplayPlan()
    min_context = forecaster.config.model.min_context
    chosen = choose_cutoffs(bars, min_context) if cutoffs is None else np.asarray(cutoffs, np.int64)
    if not len(chosen):
        raise NotEnoughBars(bars.key, min_context, len(bars))
    ask = ask or _Here(forecaster)  # a model that cannot be loaded stops the replay before anything is written
    run = plan.run or Run(replay_id(forecaster, chosen), "replay", int(chosen[0]))
    forecaster.store.add_bars(bars)
    forecaster.store.add_run(run)
    done = forecaster.store.cutoffs(bars.key, run.id)
    left = chosen[~np.isin(chosen, done)]
    if len(left) < len(chosen):
        on_batch(len(chosen) - len(left))
    for answers in ask(_contexts(forecaster, bars, left, plan)):
        issued = [one.cutoff for one in answers.contexts]
        forecaster.record(answers, issued_at=issued, run=run, latency=lambda: plan.latency_ms)
        on_batch(len(issued))
    return run


def choose_cutoffs(bars: Bars, min_context: int, start: int = 0, end: int = _NEVER) -> NDArray[np.int64]:
    """Close times in [start, end) of all bars but the first `min_context` - 1."""
    closes = bars.close_time[min_context - 1 :]
    first, last = np.searchsorted(closes, [start, end])
    return closes[first:last]


def replay_id(forecaster: Forecaster, *what: object) -> str:
    """Name a run by all that decides its numbers, besides bars and weights: the configuration, and which cutoffs."""
    digest = hashlib.sha256(forecaster.config.model.model_dump_json().encode())
    for one in what:
        digest.update(one.tobytes() if isinstance(one, np.ndarray) else str(one).encode())
    return f"replay-{digest.hexdigest()[:12]}"


class _Here:
    """Asks the models of this process."""

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster = forecaster
        _ = forecaster.models

    def __call__(self, batches: Iterable[list[Context]]) -> Iterator[Answers]:
        return map(self._forecaster.ask, batches)


def _contexts(
    forecaster: Forecaster, bars: Bars, cutoffs: NDArray[np.int64], plan: ReplayPlan
) -> Iterator[list[Context]]:
    """Cut the contexts of cutoffs, batch by batch."""
    model = forecaster.config.model
    spans = [(bars, cutoffs)]
    if plan.known_within_ms is not None:
        spans = _known(forecaster.store, bars.key, cutoffs, plan.known_within_ms)
    for known, some in spans:
        for first in range(0, len(some), plan.batch):
            batch = some[first : first + plan.batch].tolist()
            yield [Context.ending_at(known, cutoff, model.context, model.min_context) for cutoff in batch]


def _known(
    store: Reader, key: SeriesKey, cutoffs: NDArray[np.int64], within_ms: int
) -> list[tuple[Bars, NDArray[np.int64]]]:
    """Cutoffs beside the bars that were known `within_ms` after each: those change only where a past bar does."""
    open_time, revision, seen_at = store.versions(key)
    closes = key.sessions.closes_of(key.timeframe, open_time)
    changes = np.unique(seen_at[(revision > 0) | (seen_at > closes + within_ms)])
    edges = [0, *changes.tolist(), _NEVER]
    found = []
    for start, end in pairwise(edges):
        some = cutoffs[(cutoffs + within_ms >= start) & (cutoffs + within_ms < end)]
        known = store.bars(key, as_of=end - 1) if len(some) else None
        if known is not None and len(known):
            found.append((known, some[np.isin(some, known.close_time)]))
    return found
