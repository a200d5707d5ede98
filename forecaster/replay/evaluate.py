"""How good models are on one series: cutoffs spread over its history, every loss kept, baselines beside them.

Forecasts go through `Forecaster.forecast` into a ledger in memory, and what is scored is what would be served:
the repaired values, in units of the close at the cutoff, so that years of different prices count alike.

Shapes: N cutoffs, F fields, H steps, Q quantile levels, T bars, W widths of intervals.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.metrics import absolute_error, covered, pinball
from forecaster.accuracy.significance import FEWEST_CASES, diebold_mariano, fewest_cases
from forecaster.bars import FIELDS, Context
from forecaster.config import Config
from forecaster.engine import Forecaster
from forecaster.errors import InvalidContext, NotEnoughBars
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.ledger import Run
from forecaster.model.baselines.returns import whole
from forecaster.model.baselines.simple import FilteredHistoricalSimulation, RandomWalk
from forecaster.replay.replay import CUTOFFS_PER_BATCH
from forecaster.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Bars, SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.model import Model

WIDTHS: Final = (0.5, 0.8, 0.9, 0.98)
BASELINE_CONTEXT: Final = FilteredHistoricalSimulation.slots
WALK: Final = RandomWalk.name
SIMULATION: Final = FilteredHistoricalSimulation.name

_LEVELS_Q = np.array(CHRONOS_LEVELS)
_NEVER = 2**62


@dataclass(frozen=True)
class EvaluationPlan:
    """Which cutoffs, and what is asked at each.

    Args:
        cutoffs: how many; all there are where a series has fewer.
        horizon: bars to forecast.
        context: bars that the models see; the baselines always see 500.
        start: UTC ms; no cutoff before it.
        end: UTC ms; every cutoff is before it.
        min_context: bars before a cutoff that will do where too few cutoffs have 500.

    Raises:
        InvalidContext: for a count that is not a whole number above 0.
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
            whole(name, getattr(self, name))


@dataclass(frozen=True, eq=False)
class Losses:
    """What one model's forecasts cost, cutoff by cutoff; NaN where no bar came.

    Args:
        pinball_NFH: mean over the 21 levels, in units of the last close.
        absolute_error_NFH: of the median, in units of the last close.
        covered_WNFH: 1.0 where the outcome lay inside the central interval of each of `WIDTHS`, else 0.0.
        invalid_NH: whether the bar was impossible before repair: quantiles that fall, or fields that cross.
        invalid_after_NH: the same after repair; never.
    """

    pinball_NFH: NDArray[np.float64]
    absolute_error_NFH: NDArray[np.float64]
    covered_WNFH: NDArray[np.float64]
    invalid_NH: NDArray[np.bool_]
    invalid_after_NH: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Losses of several models at the same cutoffs. `field` and `step` narrow a figure; all when left out.

    Args:
        key: the series.
        cutoffs_N: close times, UTC ms.
        lag: how many further cutoffs have target bars in common with one.
        losses: by the model's name, the model under test first, then further ones, then the baselines.
    """

    key: SeriesKey
    cutoffs_N: NDArray[np.int64]
    lag: int
    losses: Mapping[str, Losses]

    @property
    def model(self) -> str:
        """Name of the model under test."""
        return next(iter(self.losses))

    @property
    def horizon(self) -> int:
        """Number of steps."""
        return int(self.losses[self.model].pinball_NFH.shape[2])

    def pinball(self, model: str, field: str | None = None, step: int | None = None) -> float:
        """Mean pinball loss, in units of the last close."""
        return float(np.nanmean(_part(self.losses[model].pinball_NFH, field, step)))

    def mae(self, field: str, model: str, step: int | None = None) -> float:
        """Mean absolute error of the median, in units of the last close."""
        return float(np.nanmean(_part(self.losses[model].absolute_error_NFH, field, step)))

    def pinball_ratio(self, model: str, other: str, field: str | None = None, step: int | None = None) -> float | None:
        """Pinball loss of `model` / that of `other`: below 1 is better; None when `other` made no error."""
        return ratio(self.pinball(model, field, step), self.pinball(other, field, step))

    def mae_ratio(self, field: str, model: str, other: str, step: int | None = None) -> float | None:
        """Absolute error of `model` / that of `other`: below 1 is better; None when `other` made no error."""
        return ratio(self.mae(field, model, step), self.mae(field, other, step))

    def coverage(self, model: str, width: float, step: int | None = None) -> dict[str, float]:
        """Share of outcomes inside the central interval of `width`, by field.

        Raises:
            InvalidContext: for a width that is not one of `WIDTHS`.
        """
        if width not in WIDTHS:
            raise InvalidContext("width", f"one of {', '.join(map(str, WIDTHS))}", width)
        covered_NFH = self.losses[model].covered_WNFH[WIDTHS.index(width)]
        return {field: float(np.nanmean(_part(covered_NFH, field, step))) for field in FIELDS}

    def p_value(self, model: str, other: str, field: str | None = None, step: int | None = None) -> float | None:
        """Chance of pinball losses so different, or more, if the two models were equally good (Diebold-Mariano).

        Taken on the mean loss of each cutoff; None where too few of their bars came.
        """
        return self._p_value(
            _part(self.losses[model].pinball_NFH, field, step), _part(self.losses[other].pinball_NFH, field, step)
        )

    def mae_p_value(self, field: str, model: str, other: str, step: int | None = None) -> float | None:
        """Say the same of absolute errors."""
        return self._p_value(
            _part(self.losses[model].absolute_error_NFH, field, step),
            _part(self.losses[other].absolute_error_NFH, field, step),
        )

    def invalid_before_repair(self, model: str) -> float:
        """Share of forecast bars, cutoff × step, that were impossible as the model gave them."""
        return float(self.losses[model].invalid_NH.mean())

    def invalid_after_repair(self, model: str) -> float:
        """The same of the bars as served: 0."""
        return float(self.losses[model].invalid_after_NH.mean())

    def _p_value(self, loss_NFH: NDArray[np.float64], other_NFH: NDArray[np.float64]) -> float | None:
        came_N = ~np.isnan(loss_NFH).all(axis=(1, 2))
        if came_N.sum() < fewest_cases(self.lag):
            return None
        loss_N, other_N = (np.nanmean(one[came_N], axis=(1, 2)) for one in (loss_NFH, other_NFH))
        return diebold_mariano(loss_N, other_N, self.lag).p_value


def evaluate(
    models: Sequence[Model],
    bars: Bars,
    plan: EvaluationPlan,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Forecast from cutoffs spread over `bars`, and score every forecast beside the baselines'.

    Args:
        models: the one under test first; all have names of their own. The baselines need not be given.
        bars: the history, and its outcomes.
        plan: which cutoffs, and what is asked.
        on_batch: called with the number of cutoffs done after each batch.

    Raises:
        NotEnoughBars: when fewer than twice `horizon`, or 10, cutoffs have enough bars around them.
        InvalidContext: when the plan leaves so few; for two models of one name; for levels that are not Chronos-2's;
            by a model, for bars that it cannot use.
    """
    entrants = _entrants(models, bars.key, plan)
    chosen = choose_spread_cutoffs(bars, plan)
    cutoffs_N = bars.close_time[chosen]
    run = Run("evaluation", "evaluate", 0)  # of a store that ends with the evaluation
    parts: dict[str, list[Losses]] = defaultdict(list)
    for first in range(0, len(cutoffs_N), CUTOFFS_PER_BATCH):
        some = cutoffs_N[first : first + CUTOFFS_PER_BATCH].tolist()
        for forecaster, length in entrants:
            contexts = [Context.ending_at(bars, cutoff, length, min(plan.min_context, length)) for cutoff in some]
            made = forecaster.forecast(contexts, issued_at=some, run=run, horizon=plan.horizon, is_replay=True)
            last_N = np.array([context.last_close for context in contexts])
            parts[forecaster.model_name].append(_score(made, last_N, bars))
        if on_batch is not None:
            on_batch(len(some))
    lag = _shared_targets(_slots(bars)[chosen], plan.horizon)
    return Evaluation(bars.key, cutoffs_N, lag, {name: _joined(some) for name, some in parts.items()})


def choose_spread_cutoffs(bars: Bars, plan: EvaluationPlan) -> NDArray[np.int64]:
    """Give positions of bars whose closes are cutoffs, spread evenly over those that will do, first and last included.

    They close in [start, end), have `horizon` bars after them and 500 before, themselves counted. Where too few
    have 500, later ones come first and `min_context` bars will do.

    Raises:
        NotEnoughBars: when fewer than twice `horizon`, or 10, have enough bars around them.
        InvalidContext: when the plan leaves so few.
    """
    position_T = np.arange(len(bars))
    slots_T = _slots(bars)
    seen_T = position_T + 1 - np.searchsorted(slots_T, slots_T - plan.context, side="right")
    inside_T = (bars.close_time >= plan.start) & (bars.close_time < plan.end)
    inside_T &= (position_T + plan.horizon < len(bars)) & (seen_T >= min(plan.min_context, plan.context))
    able = np.flatnonzero(inside_T & (position_T + 1 >= plan.min_context))
    best = able[able + 1 >= BASELINE_CONTEXT]
    eligible = best if len(best) >= plan.cutoffs else able[max(0, len(able) - plan.cutoffs) :]
    fewest = max(2 * plan.horizon, FEWEST_CASES)
    needed = plan.min_context + plan.horizon + fewest - 1
    if len(bars) < needed:
        raise NotEnoughBars(bars.key, needed, len(bars))
    count = min(plan.cutoffs, len(eligible))
    if count < fewest:
        raise InvalidContext(f"cutoffs of {bars.key}", f"{fewest} or more, both asked for and there", count)
    return eligible[np.linspace(0, len(eligible) - 1, count).round().astype(np.int64)]


def _entrants(models: Sequence[Model], key: SeriesKey, plan: EvaluationPlan) -> list[tuple[Forecaster, int]]:
    """The models, each with a path and a ledger of its own, and how many bars it sees."""
    baselines: list[Model] = [RandomWalk(), FilteredHistoricalSimulation()]
    names = [one.name for one in (*models, *baselines)]
    if len(set(names)) < len(names):
        raise InvalidContext("models", "each name once, the baselines' included", ", ".join(names))
    lengths = [plan.context] * len(models) + [BASELINE_CONTEXT] * len(baselines)
    # The bars are in hand, so the file that a series must name is never opened.
    series = {"exchange": key.exchange, "symbol": key.symbol, "timeframe": str(key.timeframe), "file": Path()}
    config = Config.model_validate({"series": [series | {"calendar": key.calendar}], "model": {"calibrate": False}})
    paths = [Forecaster(config, MemoryStore(), models=[one]) for one in (*models, *baselines)]
    return list(zip(paths, lengths, strict=True))


def _slots(bars: Bars) -> NDArray[np.int64]:
    """Position of each bar on the calendar's grid, (T,), from the first bar on."""
    if not len(bars):
        return np.empty(0, np.int64)
    first, last = int(bars.open_time[0]), int(bars.open_time[-1])
    return np.searchsorted(bars.key.sessions.opens_between(bars.key.timeframe, first, last + 1), bars.open_time)


def _shared_targets(slots_N: NDArray[np.int64], horizon: int) -> int:
    """Most further cutoffs that lie less than `horizon` bars after one: their target bars overlap."""
    within_N = np.searchsorted(slots_N, slots_N + horizon) - 1
    return int((within_N - np.arange(len(slots_N))).max())


def _score(made: Sequence[OHLCForecast], last_N: NDArray[np.float64], bars: Bars) -> Losses:
    """Score forecasts by the bars that came, found by their open times."""
    for one in made:
        if one.quantile_levels != CHRONOS_LEVELS:
            raise InvalidContext(f"levels of {one.provenance.model_id}", str(CHRONOS_LEVELS), one.quantile_levels)
    unit_N11 = last_N[:, None, None]
    actual_NFH = _outcomes(bars, np.stack([one.target_opens() for one in made])) / unit_N11
    raw_NFHQ = np.stack([one.raw_FHQ for one in made])
    served_NFHQ = np.stack([one.values_FHQ for one in made])
    values_NFHQ = served_NFHQ / unit_N11[..., None]
    cases = actual_NFH.shape
    flat_N, flat_NQ = actual_NFH.reshape(-1), values_NFHQ.reshape(-1, len(_LEVELS_Q))
    median_N = flat_NQ[:, CHRONOS_LEVELS.index(0.5)]
    inside_WN = np.stack([covered(*_ends(flat_NQ, width), flat_N) for width in WIDTHS]).astype(np.float64)
    return Losses(
        pinball_NFH=pinball(flat_NQ, _LEVELS_Q, flat_N).reshape(cases),
        absolute_error_NFH=absolute_error(median_N, flat_N).reshape(cases),
        covered_WNFH=np.where(np.isnan(flat_N), np.nan, inside_WN).reshape(len(WIDTHS), *cases),
        invalid_NH=_impossible(raw_NFHQ),
        invalid_after_NH=_impossible(served_NFHQ),
    )


def _outcomes(bars: Bars, opens_NH: NDArray[np.int64]) -> NDArray[np.float64]:
    """Prices of the bars that opened at these times, (N, F, H); NaN where there is none."""
    at_NH = np.minimum(np.searchsorted(bars.open_time, opens_NH), len(bars) - 1)
    prices_NHF = bars.ohlcv_TF[at_NH, : len(FIELDS)]
    came_NH1 = (bars.open_time[at_NH] == opens_NH)[..., None]
    return np.moveaxis(np.where(came_NH1, prices_NHF, np.nan), 2, 1)


def _ends(values_NQ: NDArray[np.float64], width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper end of the central interval: all of `WIDTHS` end at levels that are there."""
    lower = CHRONOS_LEVELS.index(round((1 - width) / 2, 12))
    return values_NQ[:, lower], values_NQ[:, -1 - lower]


def _impossible(prices_NFHQ: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether quantiles fall with their level, or at one level low is above or high below open or close, (N, H)."""
    open_NHQ, high_NHQ, low_NHQ, close_NHQ = np.moveaxis(prices_NFHQ, 1, 0)
    falls_NH = (np.diff(prices_NFHQ, axis=3) < 0).any(axis=(1, 3))
    crosses_NHQ = (low_NHQ > np.minimum(open_NHQ, close_NHQ)) | (high_NHQ < np.maximum(open_NHQ, close_NHQ))
    impossible_NH: NDArray[np.bool_] = falls_NH | crosses_NHQ.any(axis=2)
    return impossible_NH


def _joined(parts: Sequence[Losses]) -> Losses:
    """One after the other."""
    return Losses(
        pinball_NFH=np.concatenate([one.pinball_NFH for one in parts]),
        absolute_error_NFH=np.concatenate([one.absolute_error_NFH for one in parts]),
        covered_WNFH=np.concatenate([one.covered_WNFH for one in parts], axis=1),
        invalid_NH=np.concatenate([one.invalid_NH for one in parts]),
        invalid_after_NH=np.concatenate([one.invalid_after_NH for one in parts]),
    )


def _part(values_NFH: NDArray[np.float64], field: str | None, step: int | None) -> NDArray[np.float64]:
    """Narrow to a field and a step; every axis stays."""
    fields = slice(None) if field is None else slice(FIELDS.index(field), FIELDS.index(field) + 1)
    steps = slice(None) if step is None else slice(step - 1, step)
    return values_NFH[:, fields, steps]


def ratio(loss: float, other: float) -> float | None:
    """Give loss / other; None when `other` made no error."""
    return None if other == 0 else loss / other
