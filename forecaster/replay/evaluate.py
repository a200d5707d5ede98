"""Score a model on one series beside baselines, at cutoffs spread over its history.

The forecasts take the one path: `Forecaster.forecast` records them in a ledger in memory, and `accuracy` scores what
settled there. The served values count, in units of the close at the cutoff. Left to this module are the choice of
cutoffs and two figures that `accuracy` does not have: the p-value of absolute errors, and the share of impossible bars.

Shapes: N cutoffs, F fields, H steps, Q quantile levels, T bars, U cutoffs that settled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.losses import COLUMN_INDEX, SCORED_FIELDS
from forecaster.accuracy.scores import SERVED, Scores, Totals
from forecaster.accuracy.significance import MIN_CASES, diebold_mariano, min_cases
from forecaster.accuracy.trust import compute_verdict
from forecaster.arguments import check_integer
from forecaster.config import Config
from forecaster.context import Context
from forecaster.cycle.settle import settled_losses
from forecaster.engine import Forecaster
from forecaster.errors import InvalidArgument, NotEnoughBars
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.ledger import Run
from forecaster.model import ModelSuite
from forecaster.model.baselines.historical_simulation import FilteredHistoricalSimulation
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.replay.cutoffs import bars_in_context
from forecaster.replay.replay import CUTOFFS_PER_BATCH, open_run
from forecaster.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from forecaster.accuracy.loss_series import LossSeries
    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.trust import Verdict
    from forecaster.bars import Bars, SeriesKey
    from forecaster.forecast import ModelId, OHLCForecast
    from forecaster.model import Model

BASELINE_CONTEXT: Final = FilteredHistoricalSimulation.max_context
WALK: Final = RandomWalk.name
SIMULATION: Final = FilteredHistoricalSimulation.name

_NEVER = 2**62


@dataclass(frozen=True)
class EvaluationPlan:
    """Number and span of the cutoffs, and the input of each.

    Args:
        cutoffs: how many; all that are eligible if a series has fewer.
        horizon: bars to forecast.
        context: bars that the model sees; the baselines always see 500.
        start: UTC ms; no cutoff before it.
        end: UTC ms; every cutoff is before it.
        min_context: bars needed before a cutoff if too few cutoffs have 500.

    Raises:
        InvalidArgument: for a count that is not a whole number above 0.
    """

    cutoffs: int = 200
    horizon: int = 8
    context: int = 256
    start: int = 0
    end: int = _NEVER
    min_context: int = 64

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("cutoffs", "horizon", "context", "min_context"):
            check_integer(name, getattr(self, name))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Losses of a model and the baselines at the same cutoffs. `field` and `step` narrow a figure; None means all.

    Args:
        key: the series.
        cutoffs_N: close times, UTC ms.
        horizon: number of steps.
        model: name of the model under test.
        losses: of all models, in the order of cutoffs.
        invalid_before_repair: share of the model's bars, cutoff × step, that were impossible before repair: quantiles
            fall with their level, or fields cross.
    """

    key: SeriesKey
    cutoffs_N: NDArray[np.int64]
    horizon: int
    model: str
    losses: Sequence[Losses]
    invalid_before_repair: float

    def totals(self, field: str | None = None, step: int | None = None) -> Totals:
        """Sum the losses and hits of the model."""
        return self._scores.total(self.model, field, step)

    def verdict(self, reference: str, field: str | None = None, step: int | None = None) -> Verdict:
        """Compare the model's pinball loss with that of a baseline."""
        return compute_verdict(self._history, self._named(self.model), SERVED, field, step, self._named(reference)[1])

    def loss_series(self, name: str) -> LossSeries:
        """Return the mean pinball loss of a model at each cutoff that settled."""
        return self._history.trace(*self._named(name)).select()

    def close_error_p_value(self) -> float | None:
        """Test the absolute errors of the close against the random walk's; None with too few cutoffs.

        By Diebold and Mariano, on the mean error of each cutoff.
        """
        close = SCORED_FIELDS.index("close")
        columns = [COLUMN_INDEX["common_absolute_error"], COLUMN_INDEX["walk_absolute_error"]]
        model_id = self._named(self.model)[1]
        chosen = [(losses, losses.steps.model_N == losses.steps.models.index(model_id)) for losses in self.losses]
        cutoff_N = np.concatenate([losses.steps.cutoff_N[own] for losses, own in chosen])
        error_N2 = np.concatenate([losses.served_NGC[own, close][:, columns] for losses, own in chosen])
        _, start_U, count_U = np.unique(cutoff_N, return_index=True, return_counts=True)
        own_U, walk_U = (np.add.reduceat(error_N2, start_U) / count_U[:, None]).T
        lag = self.loss_series(self.model).lag
        return diebold_mariano(own_U, walk_U, lag).p_value if len(own_U) >= min_cases(lag) else None

    @cached_property
    def _scores(self) -> Scores:
        return Scores(self.losses)

    @cached_property
    def _history(self) -> LossHistory:
        return LossHistory(self.losses)

    def _named(self, name: str) -> tuple[SeriesKey, ModelId]:
        return next(pair for pair in self._history.pairs if pair[1].name == name)


def evaluate(
    model: Model, bars: Bars, plan: EvaluationPlan, on_batch: Callable[[int], None] | None = None
) -> Evaluation:
    """Forecast from cutoffs spread over `bars`, and score the model beside the baselines.

    Args:
        model: the model under test; it has another name than the baselines.
        bars: the history and its outcomes.
        plan: cutoffs, context and horizon.
        on_batch: called with the number of cutoffs done after each batch.

    Raises:
        NotEnoughBars: if fewer than twice `horizon`, or 10, cutoffs have enough bars around them.
        InvalidArgument: if the plan leaves so few; for a model with the name of a baseline; for levels that are not
            Chronos-2's.
        InvalidContext: by a model, for bars that it cannot use.
    """
    baselines = ModelSuite(FilteredHistoricalSimulation(), [RandomWalk()])
    if model.name in {baseline.name for baseline in baselines}:
        raise InvalidArgument("model", "another name than a baseline's", model.name)
    cutoffs_N = bars.close_time[choose_spread_cutoffs(bars, plan)]
    store, config = MemoryStore(), _config(bars.key)
    run = open_run(store, Run("evaluation", "evaluate", 0), [bars])
    pairs = [(Forecaster(config, store, models=ModelSuite(model)), plan.context)]
    pairs.append((Forecaster(config, store, models=baselines), BASELINE_CONTEXT))
    invalid = 0
    for first in range(0, len(cutoffs_N), CUTOFFS_PER_BATCH):
        batch = cutoffs_N[first : first + CUTOFFS_PER_BATCH].tolist()
        for forecaster, length in pairs:
            contexts = [Context.ending_at(bars, cutoff, length, min(plan.min_context, length)) for cutoff in batch]
            made = forecaster.forecast(contexts, issued_at=batch, run=run, horizon=plan.horizon, is_replay=True)
            if forecaster.models.primary is model:
                invalid += sum(map(_count_impossible, made))
        if on_batch is not None:
            on_batch(len(batch))
    as_of = int(bars.close_time[-1])
    losses = list(settled_losses(store, [bars.key], as_of, run_id=run.id))
    share = invalid / (len(cutoffs_N) * plan.horizon)
    return Evaluation(bars.key, cutoffs_N, plan.horizon, model.name, losses, share)


def choose_spread_cutoffs(bars: Bars, plan: EvaluationPlan) -> NDArray[np.int64]:
    """Return the positions of bars whose closes are cutoffs, spread evenly over the eligible ones, ends included.

    An eligible bar closes in [start, end) and has `horizon` bars after it and 500 up to it. If too few have 500,
    `min_context` bars are enough, and the latest are taken.

    Raises:
        NotEnoughBars: if fewer than twice `horizon`, or 10, have enough bars around them.
        InvalidArgument: if the plan leaves so few.
    """
    position_T = np.arange(len(bars))
    inside_T = (bars.close_time >= plan.start) & (bars.close_time < plan.end)
    inside_T &= position_T + plan.horizon < len(bars)
    inside_T &= bars_in_context(bars, plan.context) >= min(plan.min_context, plan.context)
    short = np.flatnonzero(inside_T & (position_T + 1 >= plan.min_context))
    full = short[short + 1 >= BASELINE_CONTEXT]
    eligible = full if len(full) >= plan.cutoffs else short[max(0, len(short) - plan.cutoffs) :]
    fewest = max(2 * plan.horizon, MIN_CASES)
    needed = plan.min_context + plan.horizon + fewest - 1
    if len(bars) < needed:
        raise NotEnoughBars(bars.key, needed, len(bars))
    count = min(plan.cutoffs, len(eligible))
    if count < fewest:
        raise InvalidArgument(f"cutoffs of {bars.key}", f"{fewest} or more, both asked for and there", count)
    return eligible[np.linspace(0, len(eligible) - 1, count).round().astype(np.int64)]


def _config(key: SeriesKey) -> Config:
    """Configure one series without calibration. Its bars are in memory: the file that it must name is not opened."""
    series = {"exchange": key.exchange, "symbol": key.symbol, "timeframe": str(key.timeframe), "file": Path()}
    return Config.model_validate({"series": [series | {"calendar": key.calendar}], "model": {"calibrate": False}})


def _count_impossible(forecast: OHLCForecast) -> int:
    """Count the steps whose raw quantiles fall, or whose low or high lies on the wrong side of open or close.

    Raises:
        InvalidArgument: for other levels than Chronos-2's: a mean over other levels is another loss.
    """
    if forecast.quantile_levels != CHRONOS_LEVELS:
        raise InvalidArgument(
            f"levels of {forecast.provenance.model_id}", str(CHRONOS_LEVELS), forecast.quantile_levels
        )
    open_HQ, high_HQ, low_HQ, close_HQ = forecast.raw_FHQ
    falls_H = (np.diff(forecast.raw_FHQ, axis=2) < 0).any(axis=(0, 2))
    crosses_HQ = (low_HQ > np.minimum(open_HQ, close_HQ)) | (high_HQ < np.maximum(open_HQ, close_HQ))
    return int((falls_H | crosses_HQ.any(axis=1)).sum())
