"""Verdicts on the skill of a model on a series, and trust: how far a strategy may rely on the model now.

Trust is a product of four factors in [0, 1]. Each of them alone can take it to 0.

- Skill: 1 - p of the test against the random walk if the model's loss is lower. Else, and with too few cases, 0.
- Calibration: 1 - 10 · the distance of 0.8 from the 95 % interval of the coverage of the 80 % interval, at least 0.
- Drift: 0 at the cutoff where a change of skill or coverage was detected, back to 1 over 200 cutoffs.
- Freshness: 1 until the first target bar of the latest forecast has closed, then 0.

The skill factor of a model without skill is 0.5 on average, and 0.95 or more in one of forty cases.

Shapes: U cutoffs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy import metrics
from forecaster.accuracy.drift import DriftDetector
from forecaster.accuracy.loss_series import align
from forecaster.accuracy.losses import RANDOM_WALK
from forecaster.accuracy.scores import SERVED
from forecaster.accuracy.significance import (
    confidence_set,
    describe_skill,
    diebold_mariano,
    min_cases,
    skill_interval,
)
from forecaster.errors import InvalidArgument

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.accuracy.drift import Drift
    from forecaster.accuracy.loss_series import LossHistory, LossSeries, LossTrace
    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId

TRUSTED_CUTOFFS: Final = 500
"""Number of latest cutoffs that trust is computed from."""
_RECOVERY_CUTOFFS: Final = 200
_NOMINAL_COVERAGE: Final = 0.8
_MAX_DISTANCE: Final = 0.1


@dataclass(frozen=True)
class Verdict:
    """Pinball loss of a model on a series against that of a reference model, over `n` cutoffs.

    Args:
        key: the series.
        model_id: the model.
        variant: `served` or `raw`.
        reference: name of the reference model, by default the random walk.
        field: one field; None for all.
        step: one step; None for all.
        n: number of cutoffs.
        skill: 1 - loss / the reference's, in units of the last close; None if the reference made no error.
        lower: lower end of the 95 % confidence interval of the skill; None with too few cases.
        upper: upper end of that interval.
        p_value: two-sided, of the Diebold-Mariano test; None with too few cases.
        summary: the result in words.
    """

    key: SeriesKey
    model_id: ModelId
    variant: str
    reference: str
    field: str | None
    step: int | None
    n: int
    skill: float | None
    lower: float | None
    upper: float | None
    p_value: float | None
    summary: str


@dataclass(frozen=True)
class Trust:
    """How far a strategy may rely on a model on a series at a step: `value` in [0, 1], the product of four factors."""

    value: float
    skill: float
    calibration: float
    drift: float
    freshness: float
    verdict: Verdict
    drifts: tuple[Drift, ...]


def compute_verdict(
    history: LossHistory,
    pair: tuple[SeriesKey, ModelId],
    variant: str = SERVED,
    field: str | None = None,
    step: int | None = None,
    reference: ModelId | None = None,
) -> Verdict:
    """Compare a model on a series with a reference model as served, by default with the random walk.

    Args:
        history: losses of both.
        pair: series and model.
        variant: `served` or `raw`.
        field: one field; None for all.
        step: one step; None for all.
        reference: id of the reference model.
    """
    series = history.trace(*pair, variant).select(field, step)
    other_U = series.walk_U
    if reference is not None:
        series, other = align(series, history.trace(pair[0], reference).select(field, step))
        other_U = other.loss_U
    n, lag = len(series.cutoff_U), series.lag
    skill = metrics.skill(float(series.loss_U.sum()), float(other_U.sum())) if n else None
    p_value = lower = upper = None
    if n >= min_cases(lag):
        p_value = diebold_mariano(series.loss_U, other_U, lag).p_value
        lower, upper = skill_interval(series.loss_U, other_U, lag)
    name = RANDOM_WALK if reference is None else reference.name
    summary = describe_skill(skill, p_value, n, lag, f"the {name.replace('_', ' ')}")
    return Verdict(*pair, variant, name, field, step, n, skill, lower, upper, p_value, summary)


def model_confidence_set(
    history: LossHistory, key: SeriesKey, field: str | None = None, step: int | None = None
) -> frozenset[str]:
    """Return the ids of the models of a series that no other model beats significantly; see `confidence_set`.

    The cutoffs are those that all models forecast, as served. With too few of them, all models are returned.
    """
    models = {
        model_id: history.trace(key, model_id).select(field, step)
        for of_key, model_id in history.pairs
        if of_key == key
    }
    shared_U = reduce(np.intersect1d, [series.cutoff_U for series in models.values()])
    lag = max(series.lag for series in models.values())
    if len(shared_U) < min_cases(lag):
        return frozenset(models)
    losses: dict[str, NDArray[np.float64]] = {
        model_id: series.loss_U[np.searchsorted(series.cutoff_U, shared_U)] for model_id, series in models.items()
    }
    return confidence_set(losses, lag)


def compute_trust(history: LossHistory, key: SeriesKey, model_id: ModelId, step: int, *, is_fresh: bool) -> Trust:
    """Compute the trust in a model on a series at a step, from the latest 500 cutoffs in `history`.

    Raises:
        InvalidArgument: for a step below 1.
    """
    if step < 1:
        raise InvalidArgument("step", "1 or more", step)
    verdict = compute_verdict(history, (key, model_id), step=step)
    trace = history.trace(key, model_id)
    drifts = tuple(DriftDetector().update(trace))
    skill = 0.0 if verdict.p_value is None or not (verdict.skill or 0) > 0 else 1 - verdict.p_value
    factors = (skill, _calibration(trace.select(step=step)), _recovery(trace, drifts), float(is_fresh))
    value = 1.0
    for factor in factors:
        value *= factor
    return Trust(value, *factors, verdict=verdict, drifts=drifts)


def _calibration(series: LossSeries) -> float:
    """1 while 80 % coverage is plausible, falling to 0; cutoffs that overlap count as one."""
    n = len(series.cutoff_U) // (series.lag + 1)
    lower, upper = metrics.wilson_interval(float(series.covered_U.mean() * n) if n else 0.0, n)
    distance = max(lower - _NOMINAL_COVERAGE, _NOMINAL_COVERAGE - upper, 0.0)
    return max(1 - distance / _MAX_DISTANCE, 0.0)


def _recovery(trace: LossTrace, drifts: tuple[Drift, ...]) -> float:
    """0 at the last drift, 1 after 200 cutoffs without another."""
    if not drifts:
        return 1.0
    cutoff_U = trace.select(step=1).cutoff_U
    return min(int((cutoff_U > drifts[-1].cutoff).sum()) / _RECOVERY_CUTOFFS, 1.0)
