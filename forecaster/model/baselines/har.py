"""A heterogeneous autoregression of the range, which tells past moves apart by the volatility that lay ahead of them.

Shapes: C price fields, T slots, B bars (slots that are not empty), L lags, oldest first, H steps, F fields.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import InvalidContext
from forecaster.forecast import ModelId
from forecaster.model.baselines.returns import LONGEST_STRETCH, forecast_of, past_moves, provenance_of, quantiles, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Context
    from forecaster.forecast import OHLCForecast

_SPANS: Final = (1, 5, 22)
_LAGS: Final = _SPANS[-1]
_NARROWEST: Final = 0.1
_LONGEST_MEMORY: Final = 0.999


class HarRange:
    """Past moves, stretched from the volatility that was to be expected then to the one expected now, step by step.

    The logarithm of log(high / low) is regressed by least squares on its last value, and its means over the last 5
    and 22 bars. Weights that add up to more than 0.999 in size leave no mean to come back to, and are scaled down to
    that. Iterated, the regression gives a path of ranges from every past bar and from the cutoff; the volatility over
    h bars is the root of the sum of their squares. A past move of a field, log(field at t + h / close at t), divided
    by the volatility then ahead of it and times the one ahead now, is one of a sample; step h of a field is last
    close · exp of that sample's quantiles. A factor that turns ranges into volatility, such as Parkinson's, would
    cancel.

    A bar without a range, or with less than a tenth of the median one, counts as that tenth, and no move is
    stretched more than tenfold; where no bar has a range, moves stay as they are. A slot without a bar is passed
    over by the regression, and a move with a missing end is left out. Only the last 500 slots are used.

    Corsi, 2009, "A Simple Approximate Long-Memory Model of Realized Volatility".
    """

    name = "har_range"
    version = "1"
    engine = "numpy"
    engine_reason = "least squares on log ranges"
    slots = 500
    fewest_bars = 52
    fewest_moves = 30

    @property
    def id(self) -> ModelId:
        """Its name, and the version of its arithmetic."""
        return ModelId.of(self.name, self.version)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context.

        Raises:
            InvalidContext: for a context of fewer than 52 bars, or with fewer than 30 moves over some number of bars
                up to `horizon`, or a horizon below 1.
        """
        horizon = whole("horizon", horizon)
        return [self._predict_one(context, horizon) for context in contexts]

    def _predict_one(self, context: Context, horizon: int) -> OHLCForecast:
        started = time.perf_counter()
        log_CT = np.log(context.ohlc_CT[:, -self.slots :])
        real_T = ~np.isnan(log_CT[3])
        if real_T.sum() < self.fewest_bars:
            raise InvalidContext(f"context of {context.key}", f"{self.fewest_bars} bars or more", int(real_T.sum()))
        moves_FHT = past_moves(log_CT, horizon)
        moves_FHT[:, :, real_T] *= _stretch(log_CT[1, real_T] - log_CT[2, real_T], horizon)
        log_FHQ = quantiles(moves_FHT, context, self.fewest_moves)
        return forecast_of(context, log_FHQ, provenance_of(self, context, started))


def _stretch(range_B: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Give volatility expected at the cutoff / volatility expected at each bar, over 1 to `horizon` bars, (H, B)."""
    if not range_B.any():
        return np.ones((horizon, len(range_B)))
    log_B = np.log(np.maximum(range_B, _NARROWEST * np.median(range_B[range_B > 0])))
    # Before the first bar stands the mean of the first ones, so that every bar has its lags.
    padded_B = np.concatenate([np.full(_LAGS - 1, log_B[:_LAGS].mean()), log_B])
    lags_BL = np.lib.stride_tricks.sliding_window_view(padded_B, _LAGS)
    ahead_HB = _paths(lags_BL, _weights(lags_BL, log_B), horizon)
    sigma_HB = np.sqrt(np.cumsum(np.exp(2 * ahead_HB), axis=0))
    stretch_HB: NDArray[np.float64] = np.minimum(sigma_HB[:, -1:] / sigma_HB, LONGEST_STRETCH)
    return stretch_HB


def _weights(lags_BL: NDArray[np.float64], log_B: NDArray[np.float64]) -> NDArray[np.float64]:
    """Estimate by how much the next log range follows each lag, and its constant, which comes last, (L + 1,)."""
    means_LS = np.array([[(lag > _LAGS - 1 - span) / span for span in _SPANS] for lag in range(_LAGS)])
    known_BS = lags_BL[_LAGS - 1 : -1] @ means_LS
    centre_S = known_BS.mean(axis=0)
    centre = log_B[_LAGS:].mean()
    slope_S = np.linalg.lstsq(known_BS - centre_S, log_B[_LAGS:] - centre, rcond=None)[0]
    slope_S *= _LONGEST_MEMORY / max(np.abs(slope_S).sum(), _LONGEST_MEMORY)
    return np.append(means_LS @ slope_S, centre - centre_S @ slope_S)


def _paths(lags_BL: NDArray[np.float64], weights: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Iterate the regression from every bar, (H, B). Each step is linear in the lags, so they are multiplied once."""
    lines = np.eye(_LAGS + horizon, _LAGS + 1)
    for step in range(horizon):
        lines[_LAGS + step] = weights[:-1] @ lines[step : _LAGS + step]
        lines[_LAGS + step, -1] += weights[-1]
    paths_HB: NDArray[np.float64] = lines[_LAGS:, :-1] @ lags_BL.T + lines[_LAGS:, -1:]
    return paths_HB
