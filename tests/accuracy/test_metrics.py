"""Each loss against an independent library on random cases, and once by hand."""

from __future__ import annotations

from itertools import pairwise
from math import exp, log, sqrt

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import scoringrules
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint
from utilsforecast import losses

from forecaster.accuracy import metrics
from forecaster.forecast import CHRONOS_LEVELS

CHRONOS = np.array(CHRONOS_LEVELS)
LEVELS = np.array([0.01, 0.1, 0.35, 0.5, 0.9, 0.99])


def random_cases(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles (N, Q) that rise, and outcomes (N,) inside and outside of them."""
    random = np.random.default_rng(seed)
    values_NQ = np.sort(100 + 10 * random.normal(size=(n, len(LEVELS))), axis=1)
    return values_NQ, 100 + 15 * random.normal(size=n)


def frame(actual_N: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
    """One series per case, as utilsforecast wants it to give one loss per case."""
    return pd.DataFrame({"unique_id": np.arange(len(actual_N)), "y": actual_N, **columns})


def test_absolute_error_agrees_with_utilsforecast():
    values_NQ, actual_N = random_cases(0)

    theirs = losses.mae(frame(actual_N, median=values_NQ[:, 3]), models=["median"])

    np.testing.assert_allclose(metrics.absolute_error(values_NQ[:, 3], actual_N), theirs["median"], rtol=1e-12)


def test_pinball_agrees_with_scoringrules():
    values_NQ, actual_N = random_cases(0)

    theirs_NQ = scoringrules.quantile_score(actual_N[:, None], values_NQ, LEVELS)

    np.testing.assert_allclose(metrics.pinball(values_NQ, LEVELS, actual_N), theirs_NQ.mean(axis=1), rtol=1e-12)


def test_pinball_agrees_with_utilsforecast():
    values_NQ, actual_N = random_cases(0)
    columns = {f"q{i}": values_NQ[:, i] for i in range(len(LEVELS))}

    theirs = losses.mqloss(frame(actual_N, **columns), models={"model": list(columns)}, quantiles=LEVELS)

    np.testing.assert_allclose(metrics.pinball(values_NQ, LEVELS, actual_N), theirs["model"], rtol=1e-12)


def test_coverage_agrees_with_utilsforecast():
    values_NQ, actual_N = random_cases(0)
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


def test_no_skill_against_a_perfect_reference():
    """Flat prices: neither a division by zero nor a number that means nothing."""
    assert metrics.skill(0.0, 0.0) is None
    assert metrics.skill(1.0, 0.0) is None


@pytest.mark.parametrize(("ours", "theirs"), [(metrics.error, losses.bias), (metrics.squared_error, losses.mse)])
def test_errors_agree_with_utilsforecast(ours, theirs):
    values_NQ, actual_N = random_cases(0)

    expected = theirs(frame(actual_N, median=values_NQ[:, 3]), models=["median"])["median"]

    np.testing.assert_allclose(ours(values_NQ[:, 3], actual_N), expected, rtol=1e-12)


def test_errors_by_hand():
    """Too high is above 0."""
    median_N, actual_N = np.array([102.0, 97.0]), np.array([100.0, 100.0])

    assert metrics.error(median_N, actual_N).tolist() == [2.0, -3.0]
    assert metrics.squared_error(median_N, actual_N).tolist() == [4.0, 9.0]


def test_log_error_by_hand():
    """A tenth too high and a tenth too low differ: log 1.1 and log 0.9."""
    found_N = metrics.log_error(np.array([110.0, 90.0]), np.array([100.0, 100.0]))

    np.testing.assert_allclose(found_N, [log(1.1), log(0.9)], rtol=1e-12)


@pytest.mark.parametrize("last_close", [1e-8, 97.0, 1e8])
def test_log_error_is_that_of_log_returns_from_any_close(last_close):
    random = np.random.default_rng(0)
    median_N, actual_N = 100 * np.exp(random.normal(0, 0.1, (2, 50)))

    returns = frame(np.log(actual_N / last_close), median=np.log(median_N / last_close))

    np.testing.assert_allclose(
        metrics.log_error(median_N, actual_N), losses.bias(returns, models=["median"])["median"], atol=1e-12
    )


def test_a_range_of_nothing_has_no_log_error():
    """Either side: no warning, no infinity."""
    found_N = metrics.log_error(np.array([0.0, 2.0, 2.0]), np.array([1.0, 0.0, 1.0]))

    np.testing.assert_array_equal(found_N, [np.nan, np.nan, log(2)])


def test_scaled_error_agrees_with_utilsforecast():
    """Each case with a context of its own."""
    values_NQ, actual_N = random_cases(0, n=20)
    closes_NT = 100 + np.random.default_rng(0).normal(size=(20, 30)).cumsum(axis=1)
    train = pd.DataFrame({"unique_id": np.repeat(np.arange(20), 30), "y": closes_NT.ravel()})
    cases = frame(actual_N, median=values_NQ[:, 3])

    theirs = losses.mase(cases, models=["median"], seasonality=1, train_df=train)["median"]
    scale_N = metrics.naive_scale(closes_NT)

    np.testing.assert_allclose(metrics.scaled_error(values_NQ[:, 3], actual_N, scale_N), theirs, rtol=1e-12)


def test_naive_scale_with_gaps_agrees_with_a_loop():
    random = np.random.default_rng(0)
    closes_NT = 100 + random.normal(size=(50, 30)).cumsum(axis=1)
    closes_NT[random.random(closes_NT.shape) < 0.3] = np.nan

    theirs = [np.nanmean([abs(a - b) for a, b in pairwise(closes)]) for closes in closes_NT.tolist()]

    np.testing.assert_allclose(metrics.naive_scale(closes_NT), theirs, rtol=1e-12)


def test_naive_scale_by_hand():
    """Changes of 2, -1 and 3; those from and to the missing bar do not count, nor does the one across it."""
    closes_NT = np.array([[10.0, 12.0, 11.0, np.nan, 50.0, 53.0]])

    assert metrics.naive_scale(closes_NT).tolist() == [2.0]
    assert metrics.scaled_error(np.array([55.0]), np.array([52.0]), np.array([2.0])).tolist() == [1.5]


@pytest.mark.parametrize("closes", [[5.0, 5.0, 5.0], [5.0], [], [1.0, np.nan, 2.0]], ids=str)
def test_a_context_without_a_move_has_no_scale(closes):
    """And its cases no scaled error."""
    scale_N = metrics.naive_scale(np.array([closes]))

    assert np.isnan(scale_N).all()
    assert np.isnan(metrics.scaled_error(np.array([1.0]), np.array([2.0]), scale_N)).all()


def test_pinball_by_level_agrees_with_scoringrules():
    values_NQ, actual_N = random_cases(5)

    theirs_NQ = scoringrules.quantile_score(actual_N[:, None], values_NQ, LEVELS)

    np.testing.assert_allclose(metrics.pinball_by_level(values_NQ, LEVELS, actual_N), theirs_NQ, rtol=1e-12)


def test_weighted_quantile_loss_is_the_mean_over_levels_of_each_levels_own():
    values_NQ, actual_N = random_cases(6)

    each = [
        2 * scoringrules.quantile_score(actual_N, values_NQ[:, i], LEVELS[i]).sum() / np.abs(actual_N).sum()
        for i in range(len(LEVELS))
    ]
    made = metrics.weighted_quantile_loss(metrics.pinball(values_NQ, LEVELS, actual_N).sum(), np.abs(actual_N).sum())

    assert made == pytest.approx(np.mean(each), rel=1e-12)


def test_weighted_quantile_loss_by_hand():
    assert metrics.weighted_quantile_loss(5.0, 200.0) == 0.05
    assert metrics.weighted_quantile_loss(5.0, 0.0) is None


def crps(values_NQ: np.ndarray, levels_Q: np.ndarray, actual_N: np.ndarray) -> np.ndarray:
    return metrics.crps(metrics.pinball_by_level(values_NQ, levels_Q, actual_N), levels_Q)


DRAWS = (np.arange(20_000) + 0.5) / 20_000
TRUTHS = {
    "normal": (scipy.stats.norm(), lambda y: scoringrules.crps_normal(y, 0.0, 1.0)),
    "t": (scipy.stats.t(5), lambda y: scoringrules.crps_t(y, 5.0, 0.0, 1.0)),
    "log-normal": (scipy.stats.lognorm(1.0), lambda y: scoringrules.crps_lognormal(y, 0.0, 1.0)),
    "calm log-normal": (scipy.stats.lognorm(0.1), lambda y: scoringrules.crps_lognormal(y, 0.0, 0.1)),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_crps_of_true_quantiles_is_the_closed_form(name):
    """Within 0.3 % at Chronos-2's 21 levels, and never above; outcomes are spread evenly over the distribution."""
    truth, closed_form = TRUTHS[name]
    actual_N = truth.ppf(DRAWS)
    values_NQ = np.broadcast_to(truth.ppf(CHRONOS), (len(DRAWS), len(CHRONOS)))

    ratio = crps(values_NQ, CHRONOS, actual_N).mean() / closed_form(actual_N).mean()

    assert 0.997 < ratio < 1


@pytest.mark.parametrize(("centre", "spread"), [(0.5, 1.5), (0.0, 0.5), (-2.0, 1.0)])
def test_crps_of_wrong_quantiles_is_the_closed_form(centre, spread):
    """Outcomes that are not the forecast's: within 0.3 % as well."""
    actual_N = scipy.stats.norm(centre, spread).ppf(DRAWS)
    values_NQ = np.broadcast_to(scipy.stats.norm.ppf(CHRONOS), (len(DRAWS), len(CHRONOS)))

    ratio = crps(values_NQ, CHRONOS, actual_N).mean() / scoringrules.crps_normal(actual_N, 0.0, 1.0).mean()

    assert ratio == pytest.approx(1, abs=0.003)


def test_crps_of_a_point_is_its_absolute_error():
    actual_N = np.array([90.0, 100.0, 103.0])

    score_N = crps(np.full((3, 21), 100.0), CHRONOS, actual_N)

    np.testing.assert_allclose(score_N, [10.0, 0.0, 3.0], rtol=1e-12)


def test_crps_by_hand():
    """Levels 0.1 and 0.5 at 0 and 10, outcome 4: weights 0.3 and 0.7, losses 0.4 and 3."""
    levels = np.array([0.1, 0.5])

    score_N = crps(np.array([[0.0, 10.0]]), levels, np.array([4.0]))

    np.testing.assert_allclose(metrics.level_weights(levels), [0.3, 0.7], rtol=1e-12)
    np.testing.assert_allclose(score_N, [2 * (0.3 * 0.4 + 0.7 * 3)], rtol=1e-12)


def test_weights_of_levels_are_shares_of_all_levels():
    """Found by asking for the nearest level a hundred thousand times."""
    nearest = np.abs((np.arange(100_000) + 0.5)[:, None] / 100_000 - LEVELS).argmin(axis=1)

    np.testing.assert_allclose(metrics.level_weights(LEVELS), np.bincount(nearest) / 100_000, atol=2e-5)


prices = st.lists(st.floats(1, 1e6), min_size=len(LEVELS), max_size=len(LEVELS)).map(sorted)


@settings(deadline=None, max_examples=50)
@given(prices, st.floats(0.1, 1e6), st.floats(1e-3, 1e3))
def test_losses_grow_with_the_unit(values, actual, factor):
    """Prices in cents are a hundred times those in euros: so are these losses, and the others do not change."""
    values_NQ, actual_N, centre_N = np.array([values]), np.array([actual]), np.array([np.mean(values)])

    def scores(unit):
        x_NQ, y_N, last_N = unit * values_NQ, unit * actual_N, unit * centre_N
        in_price = [crps(x_NQ, LEVELS, y_N), metrics.pinball(x_NQ, LEVELS, y_N)]
        in_price += [metrics.absolute_error(x_NQ[:, 3], y_N), metrics.interval_score(x_NQ[:, 1], x_NQ[:, 4], y_N, 0.8)]
        without = [metrics.log_error(x_NQ[:, 3], y_N), metrics.range_variance(x_NQ[:, 4], x_NQ[:, 1])]
        without += [metrics.scaled_error(x_NQ[:, 3], y_N, last_N)]
        return np.concatenate(in_price), np.concatenate(without)

    (in_price, without), (scaled, same) = scores(1.0), scores(factor)
    tiny = 1e-9 * (actual + values[-1])
    np.testing.assert_allclose(scaled, factor * in_price, rtol=1e-9, atol=factor * tiny)
    np.testing.assert_allclose(same, without, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(40)))
def test_cases_do_not_know_each_other(order):
    values_NQ, actual_N = random_cases(8, n=40)

    for score in (metrics.pinball, crps, metrics.pit):
        whole_N = score(values_NQ, LEVELS, actual_N)

        np.testing.assert_allclose(score(values_NQ[order], LEVELS, actual_N[order]), whole_N[order], rtol=1e-14)


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.98])
def test_interval_score_agrees_with_scoringrules(coverage):
    values_NQ, actual_N = random_cases(2)

    theirs_N = scoringrules.interval_score(actual_N, values_NQ[:, 1], values_NQ[:, 4], 1 - coverage)

    made_N = metrics.interval_score(values_NQ[:, 1], values_NQ[:, 4], actual_N, coverage)
    np.testing.assert_allclose(made_N, theirs_N, rtol=1e-12)


def test_interval_score_agrees_with_utilsforecast():
    values_NQ, actual_N = random_cases(3)
    columns = {"model-lo-80": values_NQ[:, 1], "model-hi-80": values_NQ[:, 4]}

    theirs = losses.winkler_score(frame(actual_N, **columns), models=["model"], level=80)["model"]

    np.testing.assert_allclose(
        metrics.interval_score(values_NQ[:, 1], values_NQ[:, 4], actual_N, 0.8), theirs, rtol=1e-12
    )


def test_interval_score_by_hand():
    """An interval of 20 at 80 %: inside it costs 20, 3 below it 20 + 10 · 3, 1 above it 20 + 10 · 1."""
    lower_N, upper_N = np.full(3, 90.0), np.full(3, 110.0)

    assert metrics.width(lower_N, upper_N).tolist() == [20.0, 20.0, 20.0]
    np.testing.assert_allclose(
        metrics.interval_score(lower_N, upper_N, np.array([100.0, 87.0, 111.0]), 0.8), [20, 50, 30], rtol=1e-12
    )


def test_pit_agrees_with_numpy_row_by_row():
    values_NQ, actual_N = random_cases(0)

    theirs = [
        np.interp(actual, values_Q, LEVELS, left=0.005, right=0.995)
        for values_Q, actual in zip(values_NQ, actual_N, strict=True)
    ]

    np.testing.assert_allclose(metrics.pit(values_NQ, LEVELS, actual_N), theirs, rtol=1e-12)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [(9.0, 0.05), (10.0, 0.1), (12.0, 0.26), (15.0, 0.6), (17.5, 0.75), (20.0, 0.8), (21.0, 0.9)],
)
def test_pit_by_hand(actual, expected):
    """Quantiles 10, 15, 15 and 20 at 0.1, 0.5, 0.7 and 0.8: 12 is two fifths of the way from 0.1 to 0.5.

    Past the ends lie the middles of what is left; on the two equal quantiles, the middle of their levels.
    """
    levels = np.array([0.1, 0.5, 0.7, 0.8])

    found_N = metrics.pit(np.array([[10.0, 15.0, 15.0, 20.0]]), levels, np.array([actual]))

    np.testing.assert_allclose(found_N, [expected], rtol=1e-12)


@pytest.mark.parametrize("bins", [10, 20])
@pytest.mark.parametrize("name", TRUTHS)
def test_pit_of_true_quantiles_is_uniform(name, bins):
    """As many in each bin, at the edges too."""
    truth, _ = TRUTHS[name]
    values_NQ = np.broadcast_to(truth.ppf(CHRONOS), (len(DRAWS), len(CHRONOS)))

    found_N = metrics.pit(values_NQ, CHRONOS, truth.ppf(DRAWS))

    counts, _ = np.histogram(found_N, bins=bins, range=(0, 1))
    assert np.abs(counts - len(DRAWS) / bins).max() <= 1
    assert found_N.mean() == pytest.approx(0.5, abs=0.002)


def test_pit_of_too_narrow_quantiles_piles_up_at_the_ends():
    values_NQ = np.broadcast_to(0.5 * scipy.stats.norm.ppf(CHRONOS), (len(DRAWS), len(CHRONOS)))

    counts, _ = np.histogram(metrics.pit(values_NQ, CHRONOS, scipy.stats.norm.ppf(DRAWS)), bins=10, range=(0, 1))

    assert min(counts[0], counts[-1]) > 2 * counts[1:-1].max()


def test_pit_of_flat_prices_is_the_middle():
    """Quantiles that are all equal, and right."""
    assert metrics.pit(np.full((1, 21), 5.0), CHRONOS, np.array([5.0])).tolist() == [0.5]


def test_direction_by_hand():
    """Right, right, wrong, a forecast that says nothing, an outcome that did not move, neither."""
    median_N = np.array([101.0, 99.0, 101.0, 100.0, 101.0, 100.0])
    actual_N = np.array([105.0, 95.0, 95.0, 105.0, 100.0, 100.0])

    found_N = metrics.direction(median_N, actual_N, np.full(6, 100.0))

    np.testing.assert_array_equal(found_N, [1, 1, 0, 0.5, np.nan, np.nan])


def test_direction_agrees_with_a_loop():
    random = np.random.default_rng(0)
    median_N, actual_N, last_N = random.choice([98.0, 99.0, 100.0, 101.0], (3, 300))

    loop = [0.5 if m == c else float((m > c) == (a > c)) for m, a, c in zip(median_N, actual_N, last_N, strict=True)]

    moved_N = actual_N != last_N
    found_N = metrics.direction(median_N, actual_N, last_N)
    assert 0 < moved_N.sum() < 300
    assert np.isnan(found_N[~moved_N]).all()
    assert found_N[moved_N].tolist() == np.array(loop)[moved_N].tolist()


def test_range_variance_by_hand():
    """High e times low: 1 / (4 ln 2). No range: 0."""
    found_N = metrics.range_variance(np.array([exp(1), 5.0]), np.array([1.0, 5.0]))

    assert found_N.tolist() == pytest.approx([0.360673760222, 0.0], rel=1e-11)


def test_range_variance_is_the_variance_of_the_move():
    """Over simulated paths: each bar 4,000 small steps, so that the range misses little between them."""
    path_NT = np.random.default_rng(0).normal(0, 0.02 / sqrt(4000), (2000, 4000)).cumsum(axis=1)
    high_N, low_N = np.exp(np.maximum(path_NT.max(axis=1), 0)), np.exp(np.minimum(path_NT.min(axis=1), 0))

    assert metrics.range_variance(high_N, low_N).mean() == pytest.approx(0.02**2, rel=0.05)


def test_qlike_by_hand():
    """Right costs nothing; half of what came costs 2 - log 2 - 1, twice of it 1 / 2 + log 2 - 1: less."""
    found_N = metrics.qlike(np.array([4.0, 2.0, 8.0]), np.full(3, 4.0))

    np.testing.assert_allclose(found_N, [0.0, 1 - log(2), log(2) - 0.5], atol=1e-12)


def test_qlike_agrees_with_a_loop():
    variance_N, realised_N = np.random.default_rng(0).exponential(size=(2, 100))

    loop = [r / h - log(r / h) - 1 for h, r in zip(variance_N, realised_N, strict=True)]

    np.testing.assert_allclose(metrics.qlike(variance_N, realised_N), loop, rtol=1e-9)


def test_the_true_variance_has_the_least_qlike():
    """With ranges in the place of what cannot be seen, which is what it is for."""
    realised_N = np.random.default_rng(1).normal(0, 2, 20_000) ** 2

    best, low, high = (metrics.qlike(np.full(20_000, 4.0 * factor), realised_N).mean() for factor in (1, 0.9, 1.1))

    assert best < min(low, high)


def test_a_bar_without_range_has_no_qlike():
    found_N = metrics.qlike(np.array([0.0, 1.0]), np.array([1.0, 0.0]))

    assert np.isnan(found_N).all()


def test_majority_share_by_hand():
    """Who always says down where 6 of 10 fell is right 6 times in 10."""
    assert metrics.majority_rate(4, 6) == 0.6
    assert metrics.majority_rate(6, 4) == 0.6
    assert metrics.majority_rate(0, 0) is None


@pytest.mark.parametrize("level", [0.9, 0.95])
@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (7, 10), (530, 1000), (10.5, 20)])
def test_share_interval_agrees_with_statsmodels(hits, n, level):
    theirs = proportion_confint(hits, n, alpha=1 - level, method="wilson")

    assert metrics.wilson_interval(hits, n, level) == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_share_interval_by_hand():
    """Five of ten: Wilson's 0.2366 to 0.7634. Of none, anything may be true."""
    assert metrics.wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert metrics.wilson_interval(0, 0) == (0.0, 1.0)
