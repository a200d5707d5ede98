"""Verdicts and trust: each factor by hand, and the error rate of verdicts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from forecaster.accuracy import trust as trust_module
from forecaster.accuracy.drift import COVERAGE
from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.losses import COLUMN_INDEX, compute_losses
from forecaster.accuracy.metrics import wilson_interval
from forecaster.accuracy.scores import RAW
from forecaster.accuracy.significance import diebold_mariano, skill_interval
from forecaster.accuracy.trust import compute_trust, compute_verdict, model_confidence_set
from forecaster.errors import InvalidArgument
from forecaster.forecast import ModelId
from tests.builders import HOUR_MS, make_key
from tests.forecast_builders import CUTOFF, make_past, make_steps

MODEL = ModelId("nano@1")
WALK = "random_walk@1"


def make_losses(n=400, skill=0.3, coverage=0.8, horizon=1, seed=0, key=None):
    """A model whose error is so much smaller than the walk's, and whose interval holds so many of the outcomes."""
    random = np.random.default_rng(seed)
    hour, step = (one.ravel() for one in np.meshgrid(np.arange(n), np.arange(1, horizon + 1), indexing="ij"))
    walk_N = np.abs(random.normal(0, 1, len(hour)))
    error_N2 = np.stack([(1 - skill) * walk_N * np.exp(random.normal(0, 0.3, len(hour))), walk_N], axis=1)
    reach_N = np.where(random.random(len(hour)) < coverage, 2.0, 0.5)
    values = 100 + error_N2[:, :, None] * (-1 + reach_N[:, None, None] * [-1, 0, 1])
    steps = make_steps(
        values.reshape(-1, 3),
        100.0,
        models=[MODEL, WALK] * len(hour),
        cutoff=CUTOFF + np.repeat(hour, 2) * HOUR_MS,
        step=np.repeat(step, 2),
        key=key,
    )
    return compute_losses(steps, make_past(np.full(n + 1, 100.0), key, CUTOFF + (n - 1) * HOUR_MS))


def trusted(losses, step=1, *, is_fresh=True):
    return compute_trust(LossHistory([losses]), make_key(), MODEL, step, is_fresh=is_fresh)


def judged(losses, model_id=MODEL, **of):
    return compute_verdict(LossHistory([losses]), (make_key(), model_id), **of)


@pytest.mark.parametrize(("field", "step"), [(None, None), ("close", 2), ("low", None), (None, 1)])
def test_a_verdict_is_that_of_its_course(field, step):
    """Skill, interval and p-value of the losses by cutoff, at their lag."""
    losses = make_losses(horizon=3, skill=0.2)
    found = judged(losses, field=field, step=step)
    course = LossHistory([losses]).trace(make_key(), MODEL).select(field, step)

    assert (found.key, found.model_id, found.field, found.step, found.n) == (make_key(), MODEL, field, step, 400)
    assert found.skill == pytest.approx(1 - course.loss_U.sum() / course.walk_U.sum())
    assert found.p_value == diebold_mariano(course.loss_U, course.walk_U, course.lag).p_value
    assert (found.lower, found.upper) == skill_interval(course.loss_U, course.walk_U, course.lag)
    assert found.summary == "significantly better than the random walk (p < 0.001)"


def test_a_worse_model_is_called_worse():
    found = judged(make_losses(skill=-0.3))

    assert found.skill < 0
    assert found.upper < 0
    assert found.summary.startswith("significantly worse than the random walk")


def test_the_walk_is_not_better_than_itself():
    found = judged(make_losses(), WALK)

    assert (found.skill, found.p_value, found.summary) == (0.0, 1.0, "no significant difference (p = 1.00)")


@pytest.mark.parametrize(("n", "tested"), [(0, False), (9, False), (10, True), (29, True)])
def test_too_few_cases_are_named(n, tested):
    """Fewer than ten are not even tested; with fewer than thirty there is no verdict."""
    losses = make_losses(30)
    found = judged(dataclasses.replace(losses, steps=losses.steps[: 2 * n], served_NGC=losses.served_NGC[: 2 * n]))

    assert (found.n, found.summary) == (n, f"too few cases ({n} of 30 needed)")
    assert (found.p_value is not None, found.lower is not None, found.upper is not None) == (tested,) * 3


def test_a_walk_without_error_leaves_no_skill():
    steps = make_steps([[90, 101, 110], [100, 100, 100]] * 40, 100.0, models=[MODEL, WALK] * 40, cutoff=hours(40))
    found = judged(compute_losses(steps, make_past(np.full(41, 100.0), cutoff=CUTOFF + 39 * HOUR_MS)))

    assert found.skill is None
    assert found.summary == "no comparison (the random walk made no error)"


def hours(n):
    """Cutoffs of both models."""
    return CUTOFF + np.repeat(np.arange(n), 2) * HOUR_MS


def test_what_was_served_is_judged_apart_from_what_the_model_gave():
    """It was 8 off, the walk 4, and served 2."""
    steps = make_steps(
        [[88, 98, 108], [86, 96, 106]] * 40,
        100.0,
        raw=[[82, 92, 102], [86, 96, 106]] * 40,
        models=[MODEL, WALK] * 40,
        cutoff=hours(40),
    )
    losses = compute_losses(steps, make_past(np.full(41, 100.0), cutoff=CUTOFF + 39 * HOUR_MS))

    assert judged(losses).skill > 0 > judged(losses, variant=RAW).skill


def three_models(n=120, garch_from=0):
    """A model that is good, one that is better from a cutoff on, and the walk: 2, 1 and 4 off."""
    hour, model = (one.ravel() for one in np.meshgrid(np.arange(n), [0, 1, 2], indexing="ij"))
    off = np.array([2.0, 1.0, 4.0])[model] * np.random.default_rng(0).uniform(0.5, 1.5, 3 * n)
    steps = make_steps(
        100 + off[:, None] * [0.5, 1, 1.5],
        100.0,
        models=np.array([MODEL, "garch@1", WALK])[model],
        cutoff=CUTOFF + hour * HOUR_MS,
    )
    steps = steps[(steps.model_N != steps.models.index("garch@1")) | (steps.cutoff_N >= CUTOFF + garch_from * HOUR_MS)]
    return LossHistory([compute_losses(steps, make_past(np.full(n, 100.0), cutoff=CUTOFF + (n - 1) * HOUR_MS))])


def test_a_reference_model_is_compared_on_common_cutoffs():
    """Skill is 1 - loss / the reference's loss; with the two swapped it is negative."""
    traces = three_models(garch_from=40)
    one, other = traces.trace(make_key(), MODEL).select(), traces.trace(make_key(), "garch@1").select()
    found = compute_verdict(traces, (make_key(), MODEL), reference=ModelId("garch@1"))
    back = compute_verdict(traces, (make_key(), "garch@1"), reference=MODEL)

    assert (found.n, found.reference) == (80, "garch")
    assert found.skill == pytest.approx(1 - one.loss_U[40:].sum() / other.loss_U.sum())
    assert found.p_value == diebold_mariano(one.loss_U[40:], other.loss_U, 0).p_value
    assert found.summary == "significantly worse than the garch (p < 0.001)"
    assert (back.skill, back.reference) == (pytest.approx(1 - other.loss_U.sum() / one.loss_U[40:].sum()), "nano")


def test_a_reference_name_with_an_at_sign_is_kept_whole():
    """A folder may hold one; the digest behind the last one may not."""
    steps = make_steps([[88, 98, 108], [86, 96, 106]] * 40, 100.0, models=[MODEL, "/me@home@1"] * 40, cutoff=hours(40))
    losses = compute_losses(steps, make_past(np.full(41, 100.0), cutoff=CUTOFF + 39 * HOUR_MS))

    assert (
        compute_verdict(LossHistory([losses]), (make_key(), MODEL), reference=ModelId("/me@home@1")).reference
        == "/me@home"
    )


def test_model_confidence_set():
    """The one that loses least, where there are cutoffs enough to tell; else all of them."""
    assert model_confidence_set(three_models(), make_key()) == {"garch@1"}
    assert model_confidence_set(three_models(garch_from=112), make_key()) == {MODEL, "garch@1", WALK}
    assert model_confidence_set(three_models(), make_key(), "low", 1) == {"garch@1"}


def equal_pair(seed):
    """Two forecasters of a path, four steps ahead from every bar, each wrong in its own way by as much."""
    random = np.random.default_rng(seed)
    n, horizon = 250, 4
    path = 1000 + random.normal(0, 1, n + horizon + 1).cumsum()
    hour, step = (one.ravel() for one in np.meshgrid(np.arange(n), np.arange(1, horizon + 1), indexing="ij"))
    centre_N2 = path[hour][:, None] + random.normal(0, 0.7, (n, 2))[hour]
    values = centre_N2[:, :, None] + 1.28 * np.sqrt(step)[:, None, None] * [-1, 0, 1]
    steps = make_steps(
        values.reshape(-1, 3),
        np.repeat(path[hour + step], 2),
        models=[MODEL, WALK] * len(hour),
        cutoff=CUTOFF + np.repeat(hour, 2) * HOUR_MS,
        step=np.repeat(step, 2),
    )
    return LossHistory([compute_losses(steps, make_past(path[:n], cutoff=CUTOFF + (n - 1) * HOUR_MS))])


def test_equal_pairs_are_rarely_significant():
    """Of 100 pairs that are equally good, at most nine are called better or worse: one in twenty is what is promised.

    Each is asked for one step alone, and for all four, whose cutoffs share targets.
    """
    pairs = [equal_pair(seed) for seed in range(100)]
    for step in (1, None):
        words = [compute_verdict(one, (make_key(), MODEL), step=step).summary for one in pairs]

        assert sum("than the random walk" in one for one in words) <= 9
        assert not any("too few" in one for one in words)


def test_trust_is_the_product_of_its_factors():
    """Each by its formula: 1 - p, a tenth of coverage for all of it, no drift, and a forecast that is fresh."""
    losses = make_losses(skill=0.06, coverage=0.72)
    found = trusted(losses)
    course = LossHistory([losses]).trace(make_key(), MODEL).select(step=1)
    upper = wilson_interval(course.covered_U.sum(), 400)[1]

    assert found.skill == 1 - diebold_mariano(course.loss_U, course.walk_U, 0).p_value
    assert 0 < found.skill < 1
    assert found.calibration == pytest.approx(1 - 10 * (0.8 - upper))
    assert 0 < found.calibration < 1
    assert (found.drift, found.freshness, found.drifts) == (1.0, 1.0, ())
    assert found.value == pytest.approx(found.skill * found.calibration)
    assert (found.verdict.step, found.verdict.p_value) == (1, 1 - found.skill)


def test_a_good_model_is_trusted():
    found = trusted(make_losses())

    assert found.value == found.skill > 0.999
    assert (found.calibration, found.drift, found.freshness) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("losses", "is_fresh", "factor"),
    [
        (make_losses(skill=-0.3), True, "skill"),
        (make_losses(9), True, "skill"),
        (make_losses(coverage=0.3), True, "calibration"),
        (make_losses(), False, "freshness"),
    ],
    ids=["worse", "too few", "too narrow", "stale"],
)
def test_one_factor_alone_takes_trust_to_nothing(losses, is_fresh, factor):
    found = trusted(losses, is_fresh=is_fresh)

    assert (found.value, getattr(found, factor)) == (0.0, 0.0)


def test_too_wide_is_no_better_than_too_narrow():
    """Of 400 outcomes all lie inside: the true share is 99 % at least, more than 10 points too many."""
    assert trusted(make_losses(coverage=1.0)).calibration == 0.0


@pytest.mark.parametrize(("n", "trusted_by"), [(10, 1.0), (40, 0.7), (400, 0.0)])
def test_the_fewer_cases_the_more_is_possible(n, trusted_by):
    """Half of the outcomes inside: plausible for ten, hardly for forty, not for four hundred."""
    course = LossHistory([make_losses(n, coverage=0.5, seed=3)]).trace(make_key(), MODEL).select(step=1)
    half = dataclasses.replace(course, covered_U=np.arange(n) % 2)

    upper = wilson_interval(n / 2, n)[1]
    assert trust_module._calibration(half) == pytest.approx(max(1 - 10 * max(0.8 - upper, 0), 0))
    assert trust_module._calibration(half) <= trusted_by


def test_cutoffs_that_overlap_count_as_one():
    """Of 400 cutoffs four steps ahead there are a hundred that do not: their share is less sure."""
    losses = make_losses(horizon=4, coverage=0.7)
    course = LossHistory([losses]).trace(make_key(), MODEL).select(step=4)
    upper = wilson_interval(course.covered_U.mean() * 100, 100)[1]

    assert course.lag == 3
    assert trusted(losses, step=4).calibration == pytest.approx(min(1 - 10 * (0.8 - upper), 1.0))


def changed_at(change, n=700):
    """Losses whose coverage falls from 95 % to 30 % at a cutoff."""
    losses = make_losses(n, coverage=0.95)
    outside = np.random.default_rng(9).random(2 * n) < np.where(np.arange(2 * n) < 2 * change, 0.0, 0.7)
    served_NGC = losses.served_NGC.copy()
    served_NGC[outside, :4, COLUMN_INDEX["covered80"]] = 0.0
    return dataclasses.replace(losses, served_NGC=served_NGC)


def test_trust_comes_back_over_200_cutoffs():
    """Nothing at the change, half of it a hundred cutoffs later, all of it after two hundred."""
    losses = changed_at(400)
    last = trusted(losses).drifts[-1]
    at = (last.cutoff - CUTOFF) // HOUR_MS

    assert last.measure == COVERAGE
    for later, steadiness in ((0, 0.0), (1, 1 / 200), (100, 0.5)):
        n = 2 * (at + 1 + later)
        part = dataclasses.replace(losses, steps=losses.steps[:n], served_NGC=losses.served_NGC[:n])
        assert trusted(part).drift == pytest.approx(steadiness)
    assert trust_module._recovery(LossHistory([make_losses(900)]).trace(make_key(), MODEL), (last,)) == 1.0


def test_trust_is_asked_for_a_step():
    """A series without forecasts has no trust."""
    losses = make_losses(horizon=2)

    assert trusted(losses, step=2).verdict.step == 2
    assert trusted(losses, step=3).value == 0.0
    with pytest.raises(InvalidArgument, match="expected 1 or more, found 0"):
        trusted(losses, step=0)


@pytest.mark.parametrize("seed", range(20))
def test_trust_and_its_factors_lie_between_0_and_1(seed):
    random = np.random.default_rng(seed)
    n, skill, coverage = int(random.integers(0, 300)), random.uniform(-0.5, 0.5), random.uniform(0, 1)
    found = trusted(make_losses(n or 1, skill, coverage, int(random.integers(1, 4)), seed))

    for factor in (found.value, found.skill, found.calibration, found.drift, found.freshness):
        assert 0.0 <= factor <= 1.0
