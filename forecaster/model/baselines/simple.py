"""The honest competition: models without weights, recorded and scored beside Chronos-2.

A change that moves a baseline's numbers raises its `version`: it is another model then, with a record of its own.

The random walk and the filtered historical simulation are here; `garch` and `har` hold one more each.

Shapes: S contexts, T bars, C price fields, F the same as a forecast's, H steps, Q quantile levels.
"""

from __future__ import annotations

import time
from difflib import get_close_matches
from itertools import accumulate
from math import log
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import FIELDS
from forecaster.errors import ConfigError, InvalidContext
from forecaster.forecast import CHRONOS_LEVELS, ModelId, OHLCForecast, repair
from forecaster.model.baselines.garch import Garch
from forecaster.model.baselines.har import HarRange
from forecaster.model.baselines.returns import LONGEST_STRETCH, forecast_of, past_moves, provenance_of, quantiles, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Context
    from forecaster.model import Model

_DECAY = 0.94
_Z_Q = np.array([NormalDist().inv_cdf(level) for level in CHRONOS_LEVELS])


class RandomWalk:
    """The random walk: the last close stays the best guess, and doubt grows with the root of time.

    With x = log(field / previous close) over the context, step h of a field is log-normal around
    last close · exp(mean x), with variance var x + (h - 1) · var of the close's x; the mean of open and
    close is taken as 0, which is what makes it a random walk. High and low keep their mean distance.
    """

    name = "random_walk"
    version = "1"
    engine = "numpy"
    engine_reason = "a closed formula"

    @property
    def id(self) -> ModelId:
        """Its name, and the version of its arithmetic."""
        return ModelId.of(self.name, self.version)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context.

        Raises:
            InvalidContext: for a context of fewer than three bars, or a horizon below 1.
        """
        horizon = whole("horizon", horizon)
        started = time.perf_counter()
        mean_SF, variance_SF = _moves(contexts)
        sigma_SFH = np.sqrt(variance_SF[:, :, None] + np.arange(horizon) * variance_SF[:, 3:, None])
        log_SFHQ = mean_SF[:, :, None, None] + sigma_SFH[:, :, :, None] * _Z_Q
        raw_SFHQ = np.array([one.last_close for one in contexts])[:, None, None, None] * np.exp(log_SFHQ)
        return [
            OHLCForecast(one.key, one.cutoff, CHRONOS_LEVELS, raw_FHQ, values_FHQ, provenance_of(self, one, started))
            for one, raw_FHQ, values_FHQ in zip(contexts, raw_SFHQ, repair(raw_SFHQ), strict=True)
        ]


class FilteredHistoricalSimulation:
    """A random walk whose doubt is what the past moved, stretched from the volatility then to that now.

    A past move of a field is log(field at t + h / close at t). Divided by the volatility known at t and times
    the one known at the cutoff, all past moves over h bars are one sample; step h of a field is last close · exp
    of that sample's quantiles (linear between order statistics). No drift is estimated beyond what they hold.

    Volatility is the root of a weighted mean, by 0.94 per bar, of Parkinson's log(high / low)² / (4 ln 2). A slot
    without a bar adds nothing to it, and a move with a missing end is left out. Only the last 500 slots are used.

    Barone-Adesi, Giannopoulos and Vosper, 1999, "VaR without correlations for portfolios of derivative
    securities". Decay: J.P. Morgan, 1996, "RiskMetrics Technical Document". Range: Parkinson, 1980, "The extreme
    value method for estimating the variance of the rate of return".
    """

    name = "filtered_historical_simulation"
    version = "1"
    engine = "numpy"
    engine_reason = "quantiles of past moves"
    slots = 500
    fewest_moves = 30

    @property
    def id(self) -> ModelId:
        """Its name, and the version of its arithmetic."""
        return ModelId.of(self.name, self.version)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context.

        Raises:
            InvalidContext: for a context with fewer than 30 moves over some number of bars up to `horizon`, or a
                horizon below 1.
        """
        horizon = whole("horizon", horizon)
        return [self._predict_one(context, horizon) for context in contexts]

    def _predict_one(self, context: Context, horizon: int) -> OHLCForecast:
        started = time.perf_counter()
        log_CT = np.log(context.ohlc_CT[:, -self.slots :])
        moves_FHT = past_moves(log_CT, horizon) * _stretch(log_CT)
        log_FHQ = quantiles(moves_FHT, context, self.fewest_moves)
        return forecast_of(context, log_FHQ, provenance_of(self, context, started))


def baseline(name: str) -> Model:
    """Give the baseline of this name.

    Raises:
        ConfigError: for an unknown one.
    """
    models = (RandomWalk, FilteredHistoricalSimulation, Garch, HarRange)
    known: dict[str, type[Model]] = {one.name: one for one in models}
    if name not in known:
        near = get_close_matches(name, known)
        raise ConfigError("model.baselines", f"any of {', '.join(dict.fromkeys([*near, *known]))}", name)
    return known[name]()


def _moves(contexts: Sequence[Context]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of log(field / previous close) over the real bars of each context, (S, F) each.

    T leads, so sums over bars have one order in any batch.
    """
    mean_SF, variance_SF = np.zeros((2, len(contexts), len(FIELDS)))
    reals = [one.ohlc_CT.T[~np.isnan(one.ohlc_CT[3])] for one in contexts]
    for bars in {len(one) for one in reals}:
        alike = [i for i, one in enumerate(reals) if len(one) == bars]
        if bars < 3:  # noqa: PLR2004 - two moves, the fewest that have a variance
            raise InvalidContext(f"context of {contexts[alike[0]].key}", "3 bars or more", bars)
        real_TSC = np.stack([reals[i] for i in alike], axis=1)
        moves_TSF = np.log(real_TSC[1:] / real_TSC[:-1, :, 3:])
        mean_SF[alike], variance_SF[alike] = moves_TSF.mean(axis=0), moves_TSF.var(axis=0)
    mean_SF[:, [0, 3]] = 0.0
    return mean_SF, variance_SF


def _stretch(log_CT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give volatility at the cutoff / volatility known at each slot, (T,), at most 10.

    The limit is for bars without a range: their volatility is 0. Where no bar has one, moves stay as they are.
    """
    variance_T = (log_CT[1] - log_CT[2]) ** 2 / (4 * log(2))
    real_T = ~np.isnan(variance_T)
    sums_T = np.array(list(accumulate(variance_T[real_T].tolist(), lambda past, now: _DECAY * past + now)))
    weights_T = (1 - _DECAY ** np.arange(1, len(sums_T) + 1)) / (1 - _DECAY)
    sigma_T = np.full(len(variance_T), np.nan)
    sigma_T[real_T] = np.sqrt(sums_T / weights_T)
    if sigma_T[-1] == 0:
        return np.ones_like(sigma_T)
    stretch_T: NDArray[np.float64] = sigma_T[-1] / np.maximum(sigma_T, sigma_T[-1] / LONGEST_STRETCH)
    return stretch_T
