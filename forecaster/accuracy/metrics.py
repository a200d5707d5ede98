"""Losses of quantile forecasts: pure functions of arrays, one value per case. The caller takes means.

A case without a value is NaN; the caller leaves it out of sum and count. The functions of sums (`skill`,
`weighted_quantile_loss`, the rates) come last. `significance` tests differences.

Shapes: N cases, Q quantile levels, T bars of a context.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def error(median_N: NDArray[np.float64], actual_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return median - actual, (N,), in price: above 0 the forecast was too high. Its mean is the bias."""
    return median_N - actual_N


def absolute_error(median_N: NDArray[np.float64], actual_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |actual - median|, (N,), in price. The median minimises its mean."""
    return np.abs(actual_N - median_N)


def squared_error(median_N: NDArray[np.float64], actual_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (actual - median)², (N,), in price². The root of its mean is the RMSE."""
    return np.square(actual_N - median_N)


def log_error(median_N: NDArray[np.float64], actual_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log median - log actual, (N,): the error of the log-return, since the last close cancels out.

    Of ranges, high - low, it is the error of the log range. NaN where either is not above 0.
    """
    return _log(median_N) - _log(actual_N)


def scaled_error(
    median_N: NDArray[np.float64], actual_N: NDArray[np.float64], scale_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return |actual - median| / `naive_scale` of the context, (N,); NaN where that is. The mean is the MASE.

    Hyndman and Koehler, 2006, "Another look at measures of forecast accuracy".
    """
    return absolute_error(median_N, actual_N) / scale_N


def naive_scale(closes_NT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean |close - previous close| of each context, (N,), in price, for `scaled_error`.

    A change with a missing end (NaN) is left out. NaN where no change is left or prices never moved: scaled errors
    would be infinite, and one such case would determine the mean.
    """
    changes_NT = np.abs(np.diff(closes_NT, axis=1))
    is_known_NT = ~np.isnan(changes_NT)
    count_N, sum_N = is_known_NT.sum(axis=1), np.where(is_known_NT, changes_NT, 0.0).sum(axis=1)
    return np.where(sum_N > 0, sum_N / np.maximum(count_N, 1), np.nan)


def pinball_by_level(
    values_NQ: NDArray[np.float64], levels_Q: NDArray[np.float64], actual_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the pinball loss of each level, (N, Q), in price: max(q·(y - x), (q - 1)·(y - x)).

    Koenker and Bassett, 1978, "Regression Quantiles".
    """
    excess_NQ = actual_N[:, None] - values_NQ
    losses_NQ: NDArray[np.float64] = np.maximum(levels_Q * excess_NQ, (levels_Q - 1) * excess_NQ)
    return losses_NQ


def pinball(
    values_NQ: NDArray[np.float64], levels_Q: NDArray[np.float64], actual_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the pinball loss, the plain mean over the levels, (N,), in price; see `pinball_by_level`."""
    mean_N: NDArray[np.float64] = pinball_by_level(values_NQ, levels_Q, actual_N).mean(axis=1)
    return mean_N


def crps(by_level_NQ: NDArray[np.float64], levels_Q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the continuous ranked probability score, (N,), in price: 2 ∫ pinball dq, by `level_weights`.

    `by_level_NQ` is from `pinball_by_level`. With the true quantiles of a normal, Student's t (5) or log-normal at
    Chronos-2's levels, its mean is 0.2 % below the closed form; a plain mean over the levels is 4 % below. For a point
    forecast it is the absolute error, exactly.

    Gneiting and Ranjan, 2011, "Comparing density forecasts using threshold- and quantile-weighted scoring rules".
    """
    score_N: NDArray[np.float64] = by_level_NQ @ (2 * level_weights(levels_Q))
    return score_N


def level_weights(levels_Q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the part of (0, 1) that is nearer to each level than to any other, (Q,), sum 1.

    Between the levels that is the trapezoid rule. Beyond the outermost level its loss is used, as if the distribution
    ended at that quantile.
    """
    edges = np.concatenate([[0.0], (levels_Q[1:] + levels_Q[:-1]) / 2, [1.0]])
    return np.diff(edges)


def covered(
    lower_N: NDArray[np.float64], upper_N: NDArray[np.float64], actual_N: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return whether the outcome is inside the interval, ends included, (N,)."""
    return (lower_N <= actual_N) & (actual_N <= upper_N)


def width(lower_N: NDArray[np.float64], upper_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return upper - lower end of the interval, (N,), in price."""
    return upper_N - lower_N


def interval_score(
    lower_N: NDArray[np.float64], upper_N: NDArray[np.float64], actual_N: NDArray[np.float64], coverage: float
) -> NDArray[np.float64]:
    """Return the interval score, (N,), in price: width + 2 / (1 - coverage) · distance of an outcome outside.

    The interval is the central one of probability `coverage`.

    Gneiting and Raftery, 2007, "Strictly proper scoring rules, prediction, and estimation", equation 43.
    """
    distance_N = np.maximum(lower_N - actual_N, 0) + np.maximum(actual_N - upper_N, 0)
    return width(lower_N, upper_N) + 2 / (1 - coverage) * distance_N


def pit(
    values_NQ: NDArray[np.float64], levels_Q: NDArray[np.float64], actual_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the probability integral transform, (N,): the level of the outcome, linear between the quantiles.

    If the quantiles are true it is uniform over bins whose edges are levels, such as 10 or 20 bins on Chronos-2's
    levels; inside a bin it need not be. An outcome beyond the outermost quantile gets half the first level, or the
    middle between the last level and 1. An outcome on several equal quantiles gets the middle of their levels.

    Dawid, 1984, "Statistical theory: the prequential approach".
    """
    count = len(levels_Q)
    below_N = (values_NQ < actual_N[:, None]).sum(axis=1)
    upto_N = (values_NQ <= actual_N[:, None]).sum(axis=1)
    lower_N, upper_N = np.maximum(below_N - 1, 0), np.minimum(below_N, count - 1)
    lowest_N, highest_N = (np.take_along_axis(values_NQ, index_N[:, None], 1)[:, 0] for index_N in (lower_N, upper_N))
    gap_N = np.where(highest_N > lowest_N, highest_N - lowest_N, 1.0)
    fraction_N = (actual_N - lowest_N) / gap_N
    between_N = levels_Q[lower_N] + fraction_N * (levels_Q[upper_N] - levels_Q[lower_N])
    hit_N = (levels_Q[upper_N] + levels_Q[np.maximum(upto_N - 1, 0)]) / 2
    return np.select(
        [upto_N > below_N, below_N == 0, below_N == count],
        [hit_N, np.full(len(actual_N), levels_Q[0] / 2), np.full(len(actual_N), (1 + levels_Q[-1]) / 2)],
        between_N,
    )


def direction(
    median_N: NDArray[np.float64], actual_N: NDArray[np.float64], last_close_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return 1 where median and outcome are on the same side of the last close, 0 where on different sides, (N,).

    0.5 for a median at the last close, which predicts no direction. NaN for an outcome at the last close.
    """
    forecast_N, outcome_N = np.sign(median_N - last_close_N), np.sign(actual_N - last_close_N)
    return np.where(outcome_N == 0, np.nan, (1 + forecast_N * outcome_N) / 2)


def range_variance(high_N: NDArray[np.float64], low_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variance of a bar's log-return by its range, (N,): log(high / low)² / (4 ln 2).

    Parkinson, 1980, "The extreme value method for estimating the variance of the rate of return".
    """
    variance_N: NDArray[np.float64] = np.square(np.log(high_N / low_N)) / (4 * np.log(2))
    return variance_N


def qlike(variance_N: NDArray[np.float64], realised_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the QLIKE loss, (N,): r - log r - 1 with r = realised / forecast variance. 0 is perfect.

    A forecast that is too small costs more than one that is too large. NaN where either variance is not above 0.

    Patton, 2011, "Volatility forecast comparison using imperfect volatility proxies".
    """
    log_ratio_N = log_error(realised_N, variance_N)
    return np.expm1(log_ratio_N) - log_ratio_N


def skill(loss: float, reference_loss: float) -> float | None:
    """Return 1 - loss / reference loss: 0 is no better, 1 is perfect; None if the reference made no error."""
    return None if reference_loss == 0 else 1 - loss / reference_loss


def weighted_quantile_loss(pinball_sum: float, absolute_actual_sum: float) -> float | None:
    """Return 2 · sum of `pinball` / sum of |actual|, the pinball loss relative to the price; None if that sum is 0.

    Park, Maddix and others, 2022, "Learning quantile functions without quantile crossing for distribution-free time
    series forecasting".
    """
    return None if absolute_actual_sum == 0 else 2 * pinball_sum / absolute_actual_sum


def majority_rate(ups: int, downs: int) -> float | None:
    """Return the hit rate of always forecasting the more frequent direction; None if nothing ever moved.

    `direction` must beat this rate, not one half. It is known only afterwards, so it is never below one half.
    """
    return None if ups + downs == 0 else max(ups, downs) / (ups + downs)


def wilson_interval(hits: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of a proportion: `hits` of `n` independent cases; (0, 1) without cases.

    Wilson, 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if n == 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    rate = hits / n
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 * (rate * (1 - rate) / n + z2 / (4 * n * n))) ** 0.5 / (1 + z2 / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _log(positive_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of values above 0, else NaN."""
    logs_N: NDArray[np.float64] = np.log(np.where(positive_N > 0, positive_N, np.nan))
    return logs_N
