"""Filtered historical simulation: quantiles of past returns, rescaled to the current volatility.

Shapes: C price fields, F the same as a forecast's, T time slots, H steps.
"""

from __future__ import annotations

import time
from itertools import accumulate
from math import log
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.arguments import check_integer
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

_DECAY: Final = 0.94


class FilteredHistoricalSimulation:
    """Forecast with the past returns of the series, rescaled from the volatility then to the volatility now.

    A past return of a field is log(field at t + h / close at t). It is divided by the volatility known at t, and
    multiplied by the volatility known at the cutoff. All past returns over h bars are one sample. Step h of a field is
    last close · exp of that sample's quantiles, linear between order statistics. No drift is estimated.

    Volatility is the root of an exponentially weighted mean, with 0.94 per bar, of Parkinson's log(high / low)² /
    (4 ln 2). Slots without a bar add nothing to it. Returns with a missing end are left out. Only the last 500 slots
    are used.

    Barone-Adesi, Giannopoulos and Vosper, 1999, "VaR without correlations for portfolios of derivative
    securities". Decay: J.P. Morgan, 1996, "RiskMetrics Technical Document". Range: Parkinson, 1980, "The extreme
    value method for estimating the variance of the rate of return".
    """

    name = "filtered_historical_simulation"
    version = "1"
    engine = "numpy"
    engine_reason = "quantiles of past returns"
    max_context = 500
    min_returns = 30

    @property
    def id(self) -> ModelId:
        """Its name and the version of its arithmetic."""
        return ModelId.of(self.name, self.version)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context.

        Raises:
            InvalidArgument: for a horizon below 1.
            InvalidContext: for a context with fewer than 30 returns over any number of bars up to `horizon`.
        """
        horizon = check_integer("horizon", horizon)
        return [self._predict_context(context, horizon) for context in contexts]

    def _predict_context(self, context: Context, horizon: int) -> OHLCForecast:
        started = time.perf_counter()
        log_CT = np.log(context.ohlc_CT[:, -self.max_context :])
        return_FHT = past_returns(log_CT, horizon) * _volatility_scale(log_CT)
        log_FHQ = empirical_quantiles(return_FHT, context, self.min_returns)
        return forecast_of(context, log_FHQ, provenance_of(self, context, started))


def _volatility_scale(log_CT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return volatility at the cutoff / volatility known at each slot, (T,), at most `MAX_SCALE`.

    The limit is for bars without a range: their volatility is 0. Where no bar has a range, the scale is 1.
    """
    variance_T = (log_CT[1] - log_CT[2]) ** 2 / (4 * log(2))
    real_T = ~np.isnan(variance_T)
    sums_T = np.array(list(accumulate(variance_T[real_T].tolist(), lambda past, now: _DECAY * past + now)))
    weights_T = (1 - _DECAY ** np.arange(1, len(sums_T) + 1)) / (1 - _DECAY)
    sigma_T = np.full(len(variance_T), np.nan)
    sigma_T[real_T] = np.sqrt(sums_T / weights_T)
    if sigma_T[-1] == 0:
        return np.ones_like(sigma_T)
    scale_T: NDArray[np.float64] = sigma_T[-1] / np.maximum(sigma_T, sigma_T[-1] / MAX_SCALE)
    return scale_T
