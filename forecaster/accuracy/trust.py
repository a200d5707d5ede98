"""What the past of a model on a series proves: verdicts on its skill, and how far a strategy may trust it now.

Trust is a product of four numbers in [0, 1], so that each alone can take it to nothing:

    skill        1 - p of the test against the random walk, where the model lost less; 0 where it lost more, or where
                 there are too few cases. Luck alone gives 0.5 on average, and 0.95 in one of forty cases.
    calibration  1 - 10 · the distance from 0.8 to the interval that holds the true share of outcomes inside the 80 %
                 interval, not below 0: 1 while 0.8 is possible, 0 once it is 10 points away from that.
    drift        0 at the cutoff at which skill or coverage was found to have changed, and back to 1 over 200 cutoffs.
    freshness    1 while the newest forecast's first bar has not closed, else 0.

Shapes: U cutoffs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy import metrics
from forecaster.accuracy.drift import Watch
from forecaster.accuracy.loss_series import in_common
from forecaster.accuracy.losses import RANDOM_WALK
from forecaster.accuracy.scores import SERVED
from forecaster.accuracy.significance import confidence_set, diebold_mariano, fewest_cases, skill_interval, verdict
from forecaster.errors import InvalidArgument

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.accuracy.drift import Drift
    from forecaster.accuracy.loss_series import Course, Trace, Traces
    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId

TRUSTED_CUTOFFS: Final = 500
"""How many of the newest cutoffs trust looks at."""
_FORGETTING: Final = 200
_NOMINAL: Final = 0.8
_WORST: Final = 0.1


@dataclass(frozen=True)
class Verdict:
    """Pinball loss of one model on one series beside a rival's, over `n` cutoffs.

    Args:
        rival: name of the model that it is compared with, mostly the random walk.
        step: one step; all of them when None. `field` in the same way.
        skill: 1 - loss / the rival's, in units of the last close; None where that made no error.
        lower: end of the interval that holds the true skill with 95 %; None where there are too few cases, and `upper`.
        p_value: chance of losses at least so different if both were equally good (Diebold-Mariano); None as `lower`.
        words: what that comes to.
    """

    key: SeriesKey
    model_id: ModelId
    form: str
    rival: str
    field: str | None
    step: int | None
    n: int
    skill: float | None
    lower: float | None
    upper: float | None
    p_value: float | None
    words: str


@dataclass(frozen=True)
class Trust:
    """How far a strategy may trust a model on a series at a step, `value` in [0, 1], and the four factors of it."""

    value: float
    skill: float
    calibration: float
    drift: float
    freshness: float
    verdict: Verdict
    drifts: tuple[Drift, ...]


def judge(
    traces: Traces,
    name: tuple[SeriesKey, ModelId],
    form: str = SERVED,
    field: str | None = None,
    step: int | None = None,
    rival: ModelId | None = None,
) -> Verdict:
    """Compare a model on a series, given by name, with a rival, one field or all, one step or all.

    The rival is another model's id, as it was served; the random walk when left out.
    """
    course = traces.of(*name, form).of(field, step)
    other_U = course.walk_U
    if rival is not None:
        course, other = in_common(course, traces.of(name[0], rival).of(field, step))
        other_U = other.loss_U
    n, lag = len(course.cutoff_U), course.lag
    skill = metrics.skill(float(course.loss_U.sum()), float(other_U.sum())) if n else None
    p_value = lower = upper = None
    if n >= fewest_cases(lag):
        p_value = diebold_mariano(course.loss_U, other_U, lag).p_value
        lower, upper = skill_interval(course.loss_U, other_U, lag)
    beside = RANDOM_WALK if rival is None else rival.name
    words = verdict(skill, p_value, n, lag, f"the {beside.replace('_', ' ')}")
    return Verdict(*name, form, beside, field, step, n, skill, lower, upper, p_value, words)


def may_be_best(traces: Traces, key: SeriesKey, field: str | None = None, step: int | None = None) -> frozenset[str]:
    """Ids of the models of which none is surely worse than another on a series; all, where there are too few cutoffs.

    Judged on the cutoffs that all of them forecast, as they were served.
    """
    courses = {model_id: traces.of(key, model_id).of(field, step) for of_key, model_id in traces.names if of_key == key}
    shared_U = reduce(np.intersect1d, [one.cutoff_U for one in courses.values()])
    lag = max(one.lag for one in courses.values())
    if len(shared_U) < fewest_cases(lag):
        return frozenset(courses)
    losses: dict[str, NDArray[np.float64]] = {
        name: one.loss_U[np.searchsorted(one.cutoff_U, shared_U)] for name, one in courses.items()
    }
    return confidence_set(losses, lag)


def trust(traces: Traces, key: SeriesKey, model_id: ModelId, step: int, *, is_fresh: bool) -> Trust:
    """Say how far a model can be trusted on a series at a step, from the newest 500 cutoffs in `traces`.

    Raises:
        InvalidArgument: for a step that is below 1.
    """
    if step < 1:
        raise InvalidArgument("step", "1 or more", step)
    found = judge(traces, (key, model_id), step=step)
    trace = traces.of(key, model_id)
    drifts = tuple(Watch().look(trace))
    skill = 0.0 if found.p_value is None or not (found.skill or 0) > 0 else 1 - found.p_value
    factors = (skill, _calibration(trace.of(step=step)), _steadiness(trace, drifts), float(is_fresh))
    value = 1.0
    for factor in factors:
        value *= factor
    return Trust(value, *factors, verdict=found, drifts=drifts)


def _calibration(course: Course) -> float:
    """1 while 80 % coverage is possible, falling to 0; cutoffs that overlap count as one."""
    n = len(course.cutoff_U) // (course.lag + 1)
    lower, upper = metrics.share_interval(float(course.covered_U.mean() * n) if n else 0.0, n)
    distance = max(lower - _NOMINAL, _NOMINAL - upper, 0.0)
    return max(1 - distance / _WORST, 0.0)


def _steadiness(trace: Trace, drifts: tuple[Drift, ...]) -> float:
    """0 at the last change, 1 after 200 cutoffs without another."""
    if not drifts:
        return 1.0
    cutoffs = trace.of(step=1).cutoff_U
    return min(int((cutoffs > drifts[-1].cutoff).sum()) / _FORGETTING, 1.0)
