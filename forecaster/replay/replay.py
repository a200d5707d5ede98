"""Rolling-origin evaluation: contexts of many cutoffs, in batches, through `Forecaster.forecast`.

A replay has its own run in the ledger, so it can be judged by itself and never passes for live.
A cutoff sees only bars that had closed by then; each is a group of its own in the model.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import Context
from forecaster.errors import NotEnoughBars
from forecaster.ledger import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Bars
    from forecaster.engine import Forecaster

CUTOFFS_PER_BATCH = 256
_NEVER = 2**62


def replay(
    forecaster: Forecaster,
    bars: Bars,
    cutoffs: Sequence[int] | NDArray[np.int64] | None = None,
    *,
    batch: int = CUTOFFS_PER_BATCH,
    on_batch: Callable[[int], None] | None = None,
) -> Run:
    """Forecast from every cutoff in history, and record it under a run named by the model's configuration.

    Args:
        forecaster: the path; its store keeps `bars` and the forecasts.
        bars: the history, past the last cutoff too: those bars are the outcomes.
        cutoffs: close times (UTC ms); every one that has enough bars before it when left out.
        batch: cutoffs that go through the model at once.
        on_batch: called with the number of cutoffs done after each batch.

    Returns:
        The run; `forecaster.accuracy(run_id=run.id)` scores it. A replay that is repeated adds nothing.

    Raises:
        BarsError: when a cutoff is not a close of `bars`, or has too few of them before it.
    """
    model = forecaster.config.model
    chosen = choose_cutoffs(bars, model.min_context) if cutoffs is None else np.asarray(cutoffs, np.int64)
    if not len(chosen):
        raise NotEnoughBars(bars.key, model.min_context, len(bars))
    _ = forecaster.models  # a model that cannot be loaded stops the replay before anything is written
    run = Run(replay_id(forecaster), "replay", int(chosen[0]))
    forecaster.store.add_bars(bars)
    for first in range(0, len(chosen), batch):
        some = chosen[first : first + batch].tolist()
        contexts = [Context.ending_at(bars, cutoff, model.context, model.min_context) for cutoff in some]
        forecaster.forecast(contexts, issued_at=some, run=run, latency_ms=0)
        if on_batch is not None:
            on_batch(len(some))
    return run


def choose_cutoffs(bars: Bars, min_context: int, start: int = 0, end: int = _NEVER) -> NDArray[np.int64]:
    """Close times in [start, end) of all bars but the first `min_context` - 1."""
    closes = bars.close_time[min_context - 1 :]
    first, last = np.searchsorted(closes, [start, end])
    return closes[first:last]


def replay_id(forecaster: Forecaster) -> str:
    """Name the run by all that decides its numbers, besides bars and weights."""
    return "replay-" + hashlib.sha256(forecaster.config.model.model_dump_json().encode()).hexdigest()[:12]
