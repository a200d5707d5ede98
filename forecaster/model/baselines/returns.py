"""Shared by the baselines: past returns of a series, their quantiles, and the forecast made from log returns.

Shapes: C price fields, F the same as a forecast's, T time slots, H steps, Q quantile levels.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import InvalidContext
from forecaster.forecast import CHRONOS_LEVELS, OHLCForecast, Provenance, repair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.context import Context
    from forecaster.model import Model

LEVELS_Q: Final = np.array(CHRONOS_LEVELS)
MAX_SCALE: Final = 10
"""Largest factor by which a past return is rescaled. Bars without a range have volatility 0."""


def past_returns(log_CT: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Return log(field at t + h / close at t) by the starting slot t, (F, H, T); NaN where an end is missing."""
    return_FHT = np.full((len(log_CT), horizon, log_CT.shape[1]), np.nan)
    for step in range(1, horizon + 1):
        return_FHT[:, step - 1, :-step] = log_CT[:, step:] - log_CT[3, :-step]
    return return_FHT


def empirical_quantiles(return_FHT: NDArray[np.float64], context: Context, min_returns: int) -> NDArray[np.float64]:
    """Return the quantiles at all levels of the returns that are not NaN, (F, H, Q), linear between order statistics.

    Raises:
        InvalidContext: for fewer than `min_returns`, which is at least 2, over any number of bars.
    """
    counts_H = (~np.isnan(return_FHT[3])).sum(axis=1)
    if counts_H.min() < min_returns:
        expected = f"{min_returns} returns or more over {int(counts_H.argmin()) + 1} bars"
        raise InvalidContext(f"context of {context.key}", expected, int(counts_H.min()))
    ranked_FHT = np.sort(return_FHT, axis=2)  # NaN comes last
    position_HQ = LEVELS_Q * (counts_H[:, None] - 1)
    below_HQ = np.floor(position_HQ).astype(np.int64)
    weight_HQ = position_HQ - below_HQ
    lower_FHQ = np.take_along_axis(ranked_FHT, below_HQ[None], axis=2)
    upper_FHQ = np.take_along_axis(ranked_FHT, below_HQ[None] + 1, axis=2)
    quantiles_FHQ: NDArray[np.float64] = (1 - weight_HQ) * lower_FHQ + weight_HQ * upper_FHQ
    return quantiles_FHQ


def provenance_of(model: Model, context: Context, started: float) -> Provenance:
    """Describe a forecast of `context` by `model`, begun at `started`, a reading of `time.perf_counter`."""
    return Provenance(
        model_id=model.name,
        revision=model.id.digest,
        weights_sha256="",
        dtype="float64",
        device="cpu",
        engine=model.engine,
        engine_reason=model.engine_reason,
        input_sha256=context.sha256,
        batch_shape=(1, context.ohlc_CT.shape[1]),
        library_versions=f"numpy {np.__version__}",
        seconds=time.perf_counter() - started,
    )


def forecast_of(context: Context, log_FHQ: NDArray[np.float64], provenance: Provenance) -> OHLCForecast:
    """Make the forecast whose quantiles are last close · exp(log_FHQ)."""
    raw_FHQ = context.last_close * np.exp(log_FHQ)
    return OHLCForecast(context.key, context.cutoff, CHRONOS_LEVELS, raw_FHQ, repair(raw_FHQ), provenance)
