"""What baselines share: past moves of a series, their quantiles, and the forecast that log moves make.

Shapes: C price fields, F the same as a forecast's, T slots, H steps, Q quantile levels.
"""

from __future__ import annotations

import time
from numbers import Integral
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import InvalidContext
from forecaster.forecast import CHRONOS_LEVELS, OHLCForecast, Provenance, repair

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.bars import Context
    from forecaster.model import Model

LEVELS_Q: Final = np.array(CHRONOS_LEVELS)
LONGEST_STRETCH: Final = 10
"""How much wider than it was a past move is made at most: the volatility of bars that never moved is 0."""


def whole(what: str, value: object, least: int = 1, most: int | None = None) -> int:
    """Give a count that a caller chose as an `int`; numpy's integers are whole numbers too, booleans are none.

    Raises:
        InvalidContext: for anything that is not a whole number from `least` to `most`; names what it should be.
    """
    limits = f"{least} or more" if most is None else f"{least} to {most}"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidContext(what, f"a whole number, {limits}", f"{value!r:.100}")
    count = int(value)
    if count < least or (most is not None and count > most):
        raise InvalidContext(what, limits, count)
    return count


def past_moves(log_CT: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Give log(field at t + h / close at t) by the slot t it leaves, (F, H, T); NaN where an end is missing."""
    moves_FHT = np.full((len(log_CT), horizon, log_CT.shape[1]), np.nan)
    for step in range(1, horizon + 1):
        moves_FHT[:, step - 1, :-step] = log_CT[:, step:] - log_CT[3, :-step]
    return moves_FHT


def quantiles(moves_FHT: NDArray[np.float64], context: Context, fewest: int) -> NDArray[np.float64]:
    """Give the quantiles at all levels of the moves that are not NaN, (F, H, Q), linear between order statistics.

    Raises:
        InvalidContext: for fewer than `fewest` moves over some number of bars; two are needed in any case.
    """
    counts_H = (~np.isnan(moves_FHT[3])).sum(axis=1)
    if counts_H.min() < fewest:
        expected = f"{fewest} moves or more over {int(counts_H.argmin()) + 1} bars"
        raise InvalidContext(f"context of {context.key}", expected, int(counts_H.min()))
    ranked_FHT = np.sort(moves_FHT, axis=2)  # NaN comes last
    position_HQ = LEVELS_Q * (counts_H[:, None] - 1)
    below_HQ = np.floor(position_HQ).astype(np.int64)
    weight_HQ = position_HQ - below_HQ
    lower_FHQ = np.take_along_axis(ranked_FHT, below_HQ[None], axis=2)
    upper_FHQ = np.take_along_axis(ranked_FHT, below_HQ[None] + 1, axis=2)
    quantiles_FHQ: NDArray[np.float64] = (1 - weight_HQ) * lower_FHQ + weight_HQ * upper_FHQ
    return quantiles_FHQ


def provenance_of(model: Model, context: Context, started: float) -> Provenance:
    """Say who forecast this context, in the time since `started`, a reading of `time.perf_counter`."""
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
