"""Significance tests against independent libraries, by hand, and by their error rate on simulated losses."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
import scipy.optimize
import scipy.signal
import scipy.stats
from arch.bootstrap import MCS

from forecaster.accuracy.significance import (
    DieboldMariano,
    confidence_set,
    describe_skill,
    diebold_mariano,
    min_cases,
    skill_interval,
)
from forecaster.errors import InvalidArgument
from tests.benchmarks.significance import equal_losses, false_alarms, intervals_that_hold, overlapping, whole_sets

RUNS = 400
"""Enough to tell 5 % from 10 %; tests/benchmarks/significance.py has more, of every length and overlap."""


@pytest.mark.parametrize(("n", "ahead", "errors"), [(250, 1, True), (250, 24, False)])
def test_equal_forecasters_are_rejected_one_time_in_twenty(n, ahead, errors):
    """That is what p below 0.05 promises, within two and a half deviations of 400 runs."""
    assert 0.025 < false_alarms(ahead, n, RUNS, errors=errors) < 0.08


@pytest.mark.parametrize("ahead", [1, 24])
def test_the_fewest_cases_are_enough(ahead):
    """No more false alarms than with many."""
    assert 0.025 < false_alarms(ahead, min_cases(ahead - 1), RUNS) < 0.08


def test_autocorrelated_losses_are_not_significant():
    """Forecasts that share no target, but do well in the same weather: a lag of 0 does not say that all is chance."""
    random = np.random.default_rng(3)
    good_times = scipy.signal.lfilter([1], [1, -0.7], random.normal(size=(RUNS, 1000)))

    p_values = np.array([diebold_mariano(one, np.zeros(1000), 0).p_value for one in good_times])

    assert (p_values < 0.05).mean() < 0.07


def test_a_better_forecaster_is_found():
    """A tenth less loss, at 1,000 cases: nearly always one bar ahead, still often four."""
    found = [
        np.mean(
            [diebold_mariano(0.9 * one, other, ahead - 1).p_value < 0.05 for one, other in zip(*losses, strict=True)]
        )
        for ahead, losses in ((ahead, equal_losses(ahead, 1000, runs=RUNS)) for ahead in (1, 4))
    ]

    assert found[0] > 0.9
    assert found[1] > 0.5


@pytest.mark.parametrize(
    ("n", "lag", "m"), [(60, 0, 3), (64, 0, 4), (60, 3, 3), (60, 7, 1), (1000, 0, 10), (250, 23, 2)]
)
def test_diebold_mariano_agrees_with_scipy(n, lag, m):
    """With scipy's periodogram, whose one side counts both, and its t distribution."""
    random = np.random.default_rng(n)
    difference_N, other_N = overlapping(random, lag + 1, n)[0] + 0.3, random.exponential(size=n)

    made = diebold_mariano(other_N + difference_N, other_N, lag)

    _, density = scipy.signal.periodogram(difference_N)
    expected = difference_N.mean() / sqrt(density[1 : m + 1].mean() / 2 / n)
    assert made.statistic == pytest.approx(expected, rel=1e-9)
    assert made.p_value == pytest.approx(2 * scipy.stats.t.sf(abs(expected), 2 * m), rel=1e-9)


def test_diebold_mariano_by_hand():
    """Ten differences, of which a cosine of the lowest frequency: its square, over two frequencies, makes 5 / 4.

    So 1 / √(1.25 / 10) = √8, and Student's t with 4 degrees of freedom.
    """
    cosine_N = np.cos(2 * np.pi * np.arange(10) / 10)

    made = diebold_mariano(3 + cosine_N, np.full(10, 2.0), 0)

    assert made.statistic == pytest.approx(sqrt(8), rel=1e-12)
    assert made.p_value == pytest.approx(2 * (1 - scipy.stats.t(4).cdf(sqrt(8))), rel=1e-9)


def test_diebold_mariano_has_two_sides():
    """Below 0 the first lost less; which is first does not change p."""
    random = np.random.default_rng(3)
    better_N, worse_N = np.abs(random.normal(size=(2, 200))) * [[1], [2]]

    one, other = diebold_mariano(better_N, worse_N, 2), diebold_mariano(worse_N, better_N, 2)

    assert one.statistic < 0
    assert one.statistic == -other.statistic
    assert one.p_value == other.p_value < 0.01


def test_equal_losses_are_no_evidence():
    losses_N = np.random.default_rng(0).exponential(size=30)

    assert diebold_mariano(losses_N, losses_N, 3) == DieboldMariano(0.0, 1.0)


@pytest.mark.parametrize(("gap", "statistic"), [(1.0, inf), (-1.0, -inf)])
def test_a_difference_that_never_varies_is_certain(gap, statistic):
    assert diebold_mariano(np.full(12, 2.0 + gap), np.full(12, 2.0), 1) == (statistic, 0.0)


TESTS = [
    diebold_mariano,
    skill_interval,
    lambda loss_N, other_N, lag: confidence_set({"one": loss_N, "other": other_N}, lag),
]


@pytest.mark.parametrize("compare", TESTS, ids=["diebold_mariano", "skill_interval", "confidence_set"])
class TestRefusals:
    """What no verdict is given on."""

    @pytest.mark.parametrize(("n", "lag", "needed"), [(9, 0, 10), (11, 2, 12), (31, 7, 32)])
    def test_too_few_cases(self, compare, n, lag, needed):
        with pytest.raises(InvalidArgument, match=f"losses: expected {needed} cases or more, found {n}"):
            compare(np.arange(n), np.zeros(n), lag)

    def test_losses_of_other_cases(self, compare):
        with pytest.raises(InvalidArgument, match=r"losses: expected (20|19) cases of both, found (19|20)"):
            compare(np.arange(20.0), np.zeros(19), 0)

    @pytest.mark.parametrize("first", [True, False])
    def test_losses_that_are_no_numbers(self, compare, first):
        """One NaN would be a verdict of its own: no comparison with it is true."""
        good_N, bad_N = np.ones(20), np.r_[np.nan, np.ones(19)]

        with pytest.raises(InvalidArgument, match="losses: expected 20 finite numbers, found 19"):
            compare(*((bad_N, good_N) if first else (good_N, bad_N)), 0)


@pytest.mark.parametrize(("lag", "n"), [(0, 100), (3, 200), (23, 1000)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_ends_of_the_interval_are_skills_just_refused(level, n, lag):
    """Found by a search over skills with `diebold_mariano` alone."""
    loss_N, other_N = equal_losses(lag + 1, n, seed=2, runs=1)[:, 0]

    def p_of(skill):
        return diebold_mariano(loss_N, (1 - skill) * other_N, lag).p_value - (1 - level)

    made, estimate = skill_interval(loss_N, other_N, lag, level), 1 - loss_N.mean() / other_N.mean()
    assert made.lower < estimate < made.upper
    assert made.lower == pytest.approx(scipy.optimize.brentq(p_of, -9, estimate), abs=1e-6)
    assert made.upper == pytest.approx(scipy.optimize.brentq(p_of, estimate, 1), abs=1e-6)


def test_skill_interval_by_hand():
    """Against losses of 2 that never vary, 1 + cosine: 0.5 ± t(4) · √(1.25 / 10) / 2."""
    loss_N = 1 + np.cos(2 * np.pi * np.arange(10) / 10)

    made = skill_interval(loss_N, np.full(10, 2.0), 0)

    half = 2.776445105 * sqrt(0.125) / 2
    assert made == pytest.approx((0.5 - half, 0.5 + half), rel=1e-8)


@pytest.mark.parametrize(("ahead", "n"), [(1, 30), (24, 250)])
def test_the_interval_holds_the_true_skill_as_often_as_it_says(ahead, n):
    """At 95 %, a skill of exactly 0.1."""
    assert 0.92 < intervals_that_hold(ahead, n, RUNS) < 0.975


def test_an_interval_of_equal_losses_is_a_point():
    loss_N = np.random.default_rng(0).exponential(size=200)

    assert skill_interval(0.75 * loss_N, loss_N, 0) == pytest.approx((0.25, 0.25), abs=1e-6)


def test_no_skill_is_above_one():
    """Half the loss on average, so wild that none at all would be believed, nor even less than none."""
    random = np.random.default_rng(1)
    loss_N = random.pareto(1.1, 40)

    made = skill_interval(loss_N, np.full(40, 2 * loss_N.mean()), 0)

    assert made.upper == 1.0
    assert -inf < made.lower < 0.5


@pytest.mark.parametrize("other", [np.zeros(40), np.r_[np.zeros(20), 50.0, np.zeros(19)]], ids=["none", "one"])
def test_against_losses_that_may_be_nothing_no_skill_is_known(other):
    assert skill_interval(np.ones(40), other, 0) == (-inf, 1.0)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("scales", [(1.0, 1.6, 1.7), (1.0, 1.0, 2.0)], ids=["one best", "two best"])
def test_confidence_set_agrees_with_arch_on_clear_cases(scales, seed):
    """With the bootstrap of Hansen, Lunde and Nason, on losses that do not overlap; it is to leave out nearly none."""
    random = np.random.default_rng(seed)
    losses_MN = np.abs(random.normal(size=400) + random.normal(size=(3, 400))) * np.array(scales)[:, None]

    made = confidence_set(dict(zip("abc", losses_MN, strict=True)), 0, size=0.01)

    theirs = MCS(losses_MN.T, size=0.01, block_size=7, reps=500, seed=seed)
    theirs.compute()
    assert len(made) < 3
    assert made == {"abc"[i] for i in theirs.included}


def test_of_equal_models_none_is_left_out_nine_times_in_ten():
    """Of three; Bonferroni's bound may promise too little, but not much."""
    assert 0.86 < whole_sets(4, 250, RUNS) < 0.96


def test_the_best_of_several_stays_alone():
    """Without it, the next best does."""
    loss_N = np.random.default_rng(0).exponential(size=300)
    losses = {"best": loss_N, "worse": loss_N + 0.2 * np.abs(np.sin(np.arange(300))), "worst": 2 * loss_N}

    assert confidence_set(losses, 0) == {"best"}
    assert confidence_set({name: losses[name] for name in ("worst", "worse")}, 0) == {"worse"}


def test_a_model_that_is_its_twin_stays_with_it():
    """As raw and calibrated forecasts are before anything has been learnt."""
    loss_N = np.random.default_rng(0).exponential(size=100)

    assert confidence_set({"raw": loss_N, "calibrated": loss_N.copy(), "walk": 2 * loss_N}, 0) == {"raw", "calibrated"}


def test_a_larger_family_needs_a_clearer_case():
    """A p-value of 0.07 leaves one of two out at 0.1, but not one of three: there it must be below a third of that."""
    random = np.random.default_rng(0)
    one_N, noise_N = random.exponential(size=200), random.normal(size=200)
    other_N = next(
        one_N + shift + noise_N
        for shift in np.linspace(0, 1, 1000)
        if 0.05 < diebold_mariano(one_N + shift + noise_N, one_N, 0).p_value < 0.09 and (shift + noise_N).mean() > 0
    )

    assert confidence_set({"one": one_N, "other": other_N}, 0) == {"one"}
    assert confidence_set({"one": one_N, "other": other_N, "twin": one_N}, 0) == {"one", "other", "twin"}
    assert confidence_set({"one": one_N, "other": other_N}, 0, size=0.04) == {"one", "other"}


@pytest.mark.parametrize("losses", [{}, {"alone": np.ones(3)}], ids=["none", "one"])
def test_a_single_model_is_its_own_confidence_set(losses):
    assert confidence_set(losses, 0) == set(losses)


@pytest.mark.parametrize(("lag", "needed"), [(0, 10), (1, 10), (2, 12), (23, 96)])
def test_fewest_cases_by_hand(lag, needed):
    assert min_cases(lag) == needed


@pytest.mark.parametrize(
    ("skill", "p_value", "n", "lag", "expected"),
    [
        (0.05, 0.01, 100, 0, "significantly better than the random walk (p = 0.01)"),
        (0.05, 0.0499, 100, 0, "significantly better than the random walk (p = 0.05)"),
        (0.05, 0.0001, 100, 0, "significantly better than the random walk (p < 0.001)"),
        (0.05, 0.4, 100, 0, "no significant difference (p = 0.40)"),
        (0.05, 0.051, 100, 0, "no significant difference (p = 0.051)"),
        (0.05, 0.05, 100, 0, "no significant difference (p = 0.05)"),
        (-0.05, 0.4, 100, 0, "no significant difference (p = 0.40)"),
        (-0.05, 0.02, 100, 0, "significantly worse than the random walk (p = 0.02)"),
        (-0.05, 0.0013, 100, 0, "significantly worse than the random walk (p = 0.0013)"),
        (0.0, 0.001, 100, 0, "no significant difference (p = 0.001)"),
        (None, 1.0, 100, 0, "no comparison (the random walk made no error)"),
        (0.05, None, 100, 0, "no comparison (not tested)"),
        (0.05, None, 7, 0, "too few cases (7 of 30 needed)"),
        (0.05, 0.01, 29, 0, "too few cases (29 of 30 needed)"),
        (0.05, 0.01, 30, 0, "significantly better than the random walk (p = 0.01)"),
        (0.05, 0.01, 95, 23, "too few cases (95 of 96 needed)"),
        (0.05, 0.01, 96, 23, "significantly better than the random walk (p = 0.01)"),
    ],
)
def test_verdict(skill, p_value, n, lag, expected):
    """Skill is said only where there is proof, and not on a few cases, whatever p."""
    assert describe_skill(skill, p_value, n, lag) == expected
