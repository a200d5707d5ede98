"""Each loss against an independent library on random cases, and once by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import scoringrules
import statsmodels.api as sm
from utilsforecast import losses

from forecaster.accuracy import metrics
from forecaster.errors import InvalidContext

LEVELS = np.array([0.01, 0.1, 0.35, 0.5, 0.9, 0.99])


def random_cases(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles (N, Q) that rise, and outcomes (N,) inside and outside of them."""
    random = np.random.default_rng(seed)
    values_NQ = np.sort(100 + 10 * random.normal(size=(n, len(LEVELS))), axis=1)
    return values_NQ, 100 + 15 * random.normal(size=n)


def frame(actual_N: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
    """One series per case, as utilsforecast wants it to give one loss per case."""
    return pd.DataFrame({"unique_id": np.arange(len(actual_N)), "y": actual_N, **columns})


@pytest.mark.parametrize("seed", range(3))
def test_absolute_error_agrees_with_utilsforecast(seed):
    values_NQ, actual_N = random_cases(seed)

    theirs = losses.mae(frame(actual_N, median=values_NQ[:, 3]), models=["median"])

    np.testing.assert_allclose(metrics.absolute_error(values_NQ[:, 3], actual_N), theirs["median"], rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_pinball_agrees_with_scoringrules(seed):
    values_NQ, actual_N = random_cases(seed)

    theirs_NQ = scoringrules.quantile_score(actual_N[:, None], values_NQ, LEVELS)

    np.testing.assert_allclose(metrics.pinball(values_NQ, LEVELS, actual_N), theirs_NQ.mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_pinball_agrees_with_utilsforecast(seed):
    values_NQ, actual_N = random_cases(seed)
    columns = {f"q{i}": values_NQ[:, i] for i in range(len(LEVELS))}

    theirs = losses.mqloss(frame(actual_N, **columns), models={"model": list(columns)}, quantiles=LEVELS)

    np.testing.assert_allclose(metrics.pinball(values_NQ, LEVELS, actual_N), theirs["model"], rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_coverage_agrees_with_utilsforecast(seed):
    values_NQ, actual_N = random_cases(seed)
    columns = {"model-lo-80": values_NQ[:, 1], "model-hi-80": values_NQ[:, 4]}

    theirs = losses.coverage(frame(actual_N, **columns), models=["model"], level=80)
    ours = metrics.covered(values_NQ[:, 1], values_NQ[:, 4], actual_N)

    assert 0 < ours.sum() < len(ours)
    assert ours.tolist() == theirs["model"].astype(bool).tolist()


def test_absolute_error_by_hand():
    """Too low and too high cost the same."""
    errors = metrics.absolute_error(np.array([100.0, 100.0, 100.0]), np.array([103.0, 97.0, 100.0]))

    assert errors.tolist() == [3.0, 3.0, 0.0]


def test_pinball_by_hand():
    """An outcome 10 above its 0.9 quantile costs 9, one 10 below costs 1; both with a median that is 10 off."""
    values_NQ = np.array([[100.0, 100.0], [100.0, 100.0]])

    losses_N = metrics.pinball(values_NQ, np.array([0.5, 0.9]), np.array([110.0, 90.0]))

    np.testing.assert_allclose(losses_N, [(5 + 9) / 2, (5 + 1) / 2], rtol=1e-12)


def test_pinball_of_the_median_is_half_the_absolute_error():
    values_NQ, actual_N = random_cases(9)
    median_N1 = values_NQ[:, 3:4]

    np.testing.assert_allclose(
        2 * metrics.pinball(median_N1, np.array([0.5]), actual_N),
        metrics.absolute_error(median_N1[:, 0], actual_N),
        rtol=1e-12,
    )


def test_the_true_quantile_has_the_least_pinball_loss():
    """That is what makes the loss honest: no other answer pays."""
    actual_N = np.random.default_rng(4).exponential(size=20_000)
    level = np.array([0.9])
    truth = -np.log(0.1)

    best, low, high = (
        metrics.pinball(np.full((len(actual_N), 1), truth * factor), level, actual_N).mean() for factor in (1, 0.9, 1.1)
    )

    assert best < min(low, high)


def test_an_interval_includes_its_ends():
    actual_N = np.array([89.99, 90.0, 100.0, 110.0, 110.01])

    inside = metrics.covered(np.full(5, 90.0), np.full(5, 110.0), actual_N)

    assert inside.tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(("loss", "reference", "expected"), [(5.0, 10.0, 0.5), (10.0, 10.0, 0.0), (15.0, 10.0, -0.5)])
def test_skill_by_hand(loss, reference, expected):
    """Half the loss is a skill of a half, the same is none, more is negative."""
    assert metrics.skill(loss, reference) == expected


def test_a_perfect_forecast_has_skill_one():
    assert metrics.skill(0.0, 10.0) == 1.0


def test_against_a_reference_without_error_there_is_no_skill():
    """Flat prices: neither a division by zero nor a number that means nothing."""
    assert metrics.skill(0.0, 0.0) is None
    assert metrics.skill(1.0, 0.0) is None


def overlapping(random: np.random.Generator, ahead: int, n: int) -> np.ndarray:
    """Differences as forecasts `ahead` bars ahead leave them: each shares all but one of its terms with the next."""
    return np.convolve(random.normal(size=n + ahead - 1), np.ones(ahead), "valid")


@pytest.mark.parametrize(("lag", "kernel"), [(0, "uniform"), (3, "uniform"), (7, "uniform"), (1, "bartlett")])
@pytest.mark.parametrize("seed", range(3))
def test_diebold_mariano_agrees_with_statsmodels(seed, lag, kernel):
    """A regression on a constant with the same kernel, times Harvey's factor. Losses that swing need Bartlett's."""
    random = np.random.default_rng(seed)
    difference_N = overlapping(random, lag + 1, 60) + 0.3
    if kernel == "bartlett":
        difference_N = np.diff(random.normal(size=61)) + 0.3 * random.normal() + 3 * (-1.0) ** np.arange(60)
    other_N = random.exponential(size=60)

    made = metrics.diebold_mariano(other_N + difference_N, other_N, lag)

    options = {"maxlags": lag, "kernel": kernel, "use_correction": False}
    theirs = sm.OLS(difference_N, np.ones(60)).fit(cov_type="HAC", cov_kwds=options).tvalues[0]
    expected = theirs * np.sqrt((60 + 1 - 2 * (lag + 1) + (lag + 1) * lag / 60) / 60)
    assert made.statistic == pytest.approx(expected, rel=1e-9)
    assert made.p_value == pytest.approx(2 * scipy.stats.t.sf(abs(expected), 59), rel=1e-9)


def test_diebold_mariano_by_hand():
    """Losses 3 and 1 larger by turns: mean 2, variance 1, and Harvey's factor 9 / 10 make 2 · √10 · √0.9 = 6."""
    made = metrics.diebold_mariano(np.tile([4.0, 2.0], 5), np.ones(10), 0)

    assert made.statistic == pytest.approx(6.0, rel=1e-12)
    assert made.p_value == pytest.approx(0.000202, abs=1e-6)


def test_a_variance_that_would_be_negative_by_hand():
    """The same with a lag: 1 - 2 · 0.9 is below 0, Bartlett's 1 - 0.9 = 0.1 is not; 2 · √100 · √0.72."""
    made = metrics.diebold_mariano(np.tile([4.0, 2.0], 5), np.ones(10), 1)

    assert made.statistic == pytest.approx(20 * np.sqrt(0.72), rel=1e-12)


def test_diebold_mariano_has_two_sides():
    """Below 0 the first lost less; which is first does not change p."""
    values_NQ, actual_N = random_cases(3)
    better_N, worse_N = np.abs(values_NQ[:, 3] - 100), np.abs(actual_N - 100)

    one, other = metrics.diebold_mariano(better_N, worse_N, 2), metrics.diebold_mariano(worse_N, better_N, 2)

    assert one.statistic < 0
    assert one.statistic == -other.statistic
    assert one.p_value == other.p_value < 0.01


@pytest.mark.parametrize(("ahead", "n"), [(1, 20), (1, 200), (4, 200)])
def test_equal_forecasters_are_told_apart_one_time_in_twenty(ahead, n):
    """That is what p below 0.05 promises; without the lag it would be broken several times as often."""
    random = np.random.default_rng(7)
    p_values = [
        metrics.diebold_mariano(overlapping(random, ahead, n), np.zeros(n), ahead - 1).p_value for _ in range(2000)
    ]

    assert 0.035 < np.mean(np.array(p_values) < 0.05) < 0.085


def test_equal_losses_are_no_evidence():
    losses_N = np.random.default_rng(0).exponential(size=30)

    assert metrics.diebold_mariano(losses_N, losses_N, 3) == (0.0, 1.0)


@pytest.mark.parametrize(("gap", "statistic"), [(1.0, np.inf), (-1.0, -np.inf)])
def test_a_difference_that_never_varies_is_certain(gap, statistic):
    assert metrics.diebold_mariano(np.full(12, 2.0 + gap), np.full(12, 2.0), 1) == (statistic, 0.0)


@pytest.mark.parametrize(("n", "lag", "needed"), [(9, 0, 10), (15, 7, 16)])
def test_too_few_cases_are_refused(n, lag, needed):
    with pytest.raises(InvalidContext, match=f"losses: expected {needed} cases or more, found {n}"):
        metrics.diebold_mariano(np.arange(n), np.zeros(n), lag)


def test_losses_of_other_cases_are_refused():
    with pytest.raises(InvalidContext, match="losses: expected 20 cases of both, found 19"):
        metrics.diebold_mariano(np.arange(20), np.zeros(19), 0)
