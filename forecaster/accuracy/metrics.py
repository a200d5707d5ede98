"""Losses of quantile forecasts: pure functions of arrays, one value per case, means are taken by the caller.

Shapes: N cases, Q quantile levels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
