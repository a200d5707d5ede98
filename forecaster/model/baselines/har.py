"""A heterogeneous autoregression (HAR) of the range: quantiles of past returns, rescaled to expected volatility.

Shapes: C price fields, T time slots, B bars (slots that are not empty), L lags, oldest first, H steps, F fields.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.arguments import check_integer
from forecaster.errors import InvalidContext
from forecaster.forecast import ModelId
from forecaster.model.baselines.returns import (
    MAX_SCALE,
    empirical_quantiles,
    forecast_of,
    past_returns,
    provenance_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.context import Context
    from forecaster.forecast import OHLCForecast

_SPANS: Final = (1, 5, 22)
_LAGS: Final = _SPANS[-1]
_MIN_RANGE: Final = 0.1
_MAX_PERSISTENCE: Final = 0.999


class HarRange:
    """Forecast with the past returns of the series, rescaled from the volatility expected then to that expected now.

    The logarithm of log(high / low) is regressed by least squares on its last value, and on its means over the last 5
    and 22 bars. Weights whose absolute sum exceeds 0.999 are scaled down to it, so that the mean exists. Iterated, the
    regression gives a path of ranges from every past bar and from the cutoff. Volatility over h bars is the root of
    the sum of their squares. A past return of a field, log(field at t + h / close at t), is divided by the volatility
    expected then, and multiplied by the volatility expected now. These returns are one sample. Step h of a field is
    last close · exp of that sample's quantiles. A factor from ranges to volatility, such as Parkinson's, would cancel.

    A range below a tenth of the median range, or of 0, counts as that tenth. No return is scaled by more than ten.
    Where no bar has a range, returns are not rescaled. The regression skips slots without a bar. Returns with a
    missing end are left out. Only the last 500 slots are used.

    Corsi, 2009, "A Simple Approximate Long-Memory Model of Realized Volatility".
    """

    name = "har_range"
    version = "1"
    engine = "numpy"
    engine_reason = "least squares on log ranges"
    max_context = 500
    min_bars = 52
    min_returns = 30

    @property
    def id(self) -> ModelId:
        """Its name and the version of its arithmetic."""
        return ModelId.of(self.name, self.version)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context.

        Raises:
            InvalidArgument: for a horizon below 1.
            InvalidContext: for a context of fewer than 52 bars, or with fewer than 30 returns over any number of bars
                up to `horizon`.
        """
        horizon = check_integer("horizon", horizon)
        return [self._predict_context(context, horizon) for context in contexts]

    def _predict_context(self, context: Context, horizon: int) -> OHLCForecast:
        started = time.perf_counter()
        log_CT = np.log(context.ohlc_CT[:, -self.max_context :])
        real_T = ~np.isnan(log_CT[3])
        if real_T.sum() < self.min_bars:
            raise InvalidContext(f"context of {context.key}", f"{self.min_bars} bars or more", int(real_T.sum()))
        return_FHT = past_returns(log_CT, horizon)
        return_FHT[:, :, real_T] *= _volatility_scale(log_CT[1, real_T] - log_CT[2, real_T], horizon)
        log_FHQ = empirical_quantiles(return_FHT, context, self.min_returns)
        return forecast_of(context, log_FHQ, provenance_of(self, context, started))


def _volatility_scale(range_B: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Return volatility expected at the cutoff / that expected at each bar, over 1 to `horizon` bars, (H, B)."""
    if not range_B.any():
        return np.ones((horizon, len(range_B)))
    log_B = np.log(np.maximum(range_B, _MIN_RANGE * np.median(range_B[range_B > 0])))
    # Padded with the mean of the first bars, so that every bar has its lags.
    padded_B = np.concatenate([np.full(_LAGS - 1, log_B[:_LAGS].mean()), log_B])
    lags_BL = np.lib.stride_tricks.sliding_window_view(padded_B, _LAGS)
    ahead_HB = _paths(lags_BL, _weights(lags_BL, log_B), horizon)
    sigma_HB = np.sqrt(np.cumsum(np.exp(2 * ahead_HB), axis=0))
    scale_HB: NDArray[np.float64] = np.minimum(sigma_HB[:, -1:] / sigma_HB, MAX_SCALE)
    return scale_HB


def _weights(lags_BL: NDArray[np.float64], log_B: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate the weight of each lag in the next log range, and the constant, which comes last, (L + 1,)."""
    means_LS = np.array([[(lag > _LAGS - 1 - span) / span for span in _SPANS] for lag in range(_LAGS)])
    known_BS = lags_BL[_LAGS - 1 : -1] @ means_LS
    centre_S = known_BS.mean(axis=0)
    centre = log_B[_LAGS:].mean()
    slope_S = np.linalg.lstsq(known_BS - centre_S, log_B[_LAGS:] - centre, rcond=None)[0]
    slope_S *= _MAX_PERSISTENCE / max(np.abs(slope_S).sum(), _MAX_PERSISTENCE)
    return np.append(means_LS @ slope_S, centre - centre_S @ slope_S)


def _paths(lags_BL: NDArray[np.float64], weights: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Iterate the regression from every bar, (H, B). Each step is linear in the lags: one product is enough."""
    coefficients = np.eye(_LAGS + horizon, _LAGS + 1)
    for step in range(horizon):
        coefficients[_LAGS + step] = weights[:-1] @ coefficients[step : _LAGS + step]
        coefficients[_LAGS + step, -1] += weights[-1]
    paths_HB: NDArray[np.float64] = coefficients[_LAGS:, :-1] @ lags_BL.T + coefficients[_LAGS:, -1:]
    return paths_HB
