"""The random walk: log-normal quantiles around the last close.

Shapes: S contexts, T bars, C price fields, F the same as a forecast's, H steps, Q quantile levels.
"""

from __future__ import annotations

import time
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from forecaster.arguments import check_integer
from forecaster.bars import FIELDS
from forecaster.errors import InvalidContext
from forecaster.forecast import CHRONOS_LEVELS, ModelId, OHLCForecast, repair
from forecaster.model.baselines.returns import provenance_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.context import Context

_Z_Q = np.array([NormalDist().inv_cdf(level) for level in CHRONOS_LEVELS])


class RandomWalk:
    """Forecast the last close, with a variance that grows linearly in time.

    With x = log(field / previous close) over the context, step h of a field is log-normal around
    last close · exp(mean x), with variance var x + (h - 1) · var of the close's x. The mean of open and
    close is taken as 0, which makes it a random walk. High and low keep their mean distance.
    """

    name = "random_walk"
    version = "1"
    engine = "numpy"
    engine_reason = "a closed formula"
    max_context = None

    @property
    def id(self) -> ModelId:
        """Its name and the version of its arithmetic."""
        return ModelId.of(self.name, self.version)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context.

        Raises:
            InvalidArgument: for a horizon below 1.
            InvalidContext: for a context of fewer than three bars.
        """
        horizon = check_integer("horizon", horizon)
        started = time.perf_counter()
        mean_SF, variance_SF = _moments(contexts)
        sigma_SFH = np.sqrt(variance_SF[:, :, None] + np.arange(horizon) * variance_SF[:, 3:, None])
        log_SFHQ = mean_SF[:, :, None, None] + sigma_SFH[:, :, :, None] * _Z_Q
        raw_SFHQ = np.array([context.last_close for context in contexts])[:, None, None, None] * np.exp(log_SFHQ)
        return [
            OHLCForecast(
                context.key, context.cutoff, CHRONOS_LEVELS, raw_FHQ, values_FHQ, provenance_of(self, context, started)
            )
            for context, raw_FHQ, values_FHQ in zip(contexts, raw_SFHQ, repair(raw_SFHQ), strict=True)
        ]


def _moments(contexts: Sequence[Context]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance of log(field / previous close) over the real bars of each context, (S, F) each.

    T leads, so sums over bars have the same order in any batch.
    """
    mean_SF, variance_SF = np.zeros((2, len(contexts), len(FIELDS)))
    prices = [context.ohlc_CT.T[~np.isnan(context.ohlc_CT[3])] for context in contexts]
    for bars in {len(price_TC) for price_TC in prices}:
        positions = [i for i, price_TC in enumerate(prices) if len(price_TC) == bars]
        if bars < 3:  # noqa: PLR2004 - two returns, the fewest that have a variance
            raise InvalidContext(f"context of {contexts[positions[0]].key}", "3 bars or more", bars)
        price_TSC = np.stack([prices[i] for i in positions], axis=1)
        return_TSF = np.log(price_TSC[1:] / price_TSC[:-1, :, 3:])
        mean_SF[positions], variance_SF[positions] = return_TSF.mean(axis=0), return_TSF.var(axis=0)
    mean_SF[:, [0, 3]] = 0.0
    return mean_SF, variance_SF
