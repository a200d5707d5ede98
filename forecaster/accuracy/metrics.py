"""Losses of quantile forecasts: pure functions of arrays, one value per case, means are taken by the caller.

`diebold_mariano` says whether two rows of losses differ by more than luck.

Shapes: N cases, Q quantile levels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from forecaster.errors import InvalidContext

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEWEST_CASES = 10


def absolute_error(median_N: NDArray[np.float64], actual_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """|actual - median|, (N,), in price. The median minimises its mean."""
    return np.abs(actual_N - median_N)


def pinball(
    values_NQ: NDArray[np.float64], levels_Q: NDArray[np.float64], actual_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pinball loss, mean over the levels, (N,), in price: max(q·(y - x), (q - 1)·(y - x)).

    Koenker and Bassett, 1978, "Regression Quantiles".
    """
    excess_NQ = actual_N[:, None] - values_NQ
    losses_NQ: NDArray[np.float64] = np.maximum(levels_Q * excess_NQ, (levels_Q - 1) * excess_NQ)
    mean_N: NDArray[np.float64] = losses_NQ.mean(axis=1)
    return mean_N


def covered(
    lower_N: NDArray[np.float64], upper_N: NDArray[np.float64], actual_N: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether the outcome lies inside the interval, ends included, (N,)."""
    return (lower_N <= actual_N) & (actual_N <= upper_N)


def skill(loss: float, reference_loss: float) -> float | None:
    """1 - loss / reference loss: 0 is no better, 1 is perfect; None when the reference made no error."""
    return None if reference_loss == 0 else 1 - loss / reference_loss


class DieboldMariano(NamedTuple):
    """Whether two forecasters differ: below 0 the first lost less, and how likely so much is by luck alone."""

    statistic: float
    p_value: float


def diebold_mariano(loss_N: NDArray[np.float64], other_N: NDArray[np.float64], lag: int) -> DieboldMariano:
    """Test, two-sided, whether two rows of losses at the same cutoffs, in time order, have the same mean.

    The variance of the mean difference counts `lag` autocovariances: h - 1 for forecasts h bars ahead from every
    bar, 0 where targets never overlap. They weigh the same (Diebold and Mariano, 1995, "Comparing Predictive
    Accuracy"), or fall by Bartlett's weights where the variance would not be above 0. Statistic and Student's t
    with N - 1 degrees of freedom by Harvey, Leybourne and Newbold, 1997, "Testing the equality of prediction mean
    squared errors".

    Raises:
        InvalidContext: for rows of different length, or fewer cases than 2 · (lag + 1), or than 10.
    """
    from scipy.special import stdtr  # noqa: PLC0415 - the daemon scores every cycle and never tests

    n, ahead = len(loss_N), lag + 1
    if len(other_N) != n:
        raise InvalidContext("losses", f"{n} cases of both", len(other_N))
    if n < max(2 * ahead, FEWEST_CASES):
        raise InvalidContext("losses", f"{max(2 * ahead, FEWEST_CASES)} cases or more", n)
    difference_N = loss_N - other_N
    mean = float(difference_N.mean())
    variance = _long_run_variance(difference_N - mean, lag)
    if variance == 0:
        return DieboldMariano(0.0, 1.0) if mean == 0 else DieboldMariano(float(np.copysign(np.inf, mean)), 0.0)
    small_sample = (n + 1 - 2 * ahead + ahead * (ahead - 1) / n) / n
    statistic = mean / np.sqrt(variance / n) * np.sqrt(small_sample)
    return DieboldMariano(float(statistic), float(2 * stdtr(n - 1, -abs(statistic))))


def _long_run_variance(centred_N: NDArray[np.float64], lag: int) -> float:
    """Sum the autocovariances from -lag to lag, with Bartlett's weights where that is not above 0."""
    n = len(centred_N)
    covariances = np.array([centred_N[k:] @ centred_N[: n - k] / n for k in range(1, lag + 1)])
    own = float(centred_N @ centred_N / n)
    plain = own + 2 * float(covariances.sum())
    if plain > 0:
        return plain
    return max(own + 2 * float((1 - np.arange(1, lag + 1) / (lag + 1)) @ covariances), 0.0)
