"""The honest competition: models without weights, recorded and scored beside Chronos-2.

Shapes: T bars, F fields, H steps, Q quantile levels.
"""

from __future__ import annotations

import time
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from forecaster.errors import ConfigError, InvalidContext
from forecaster.forecast import CHRONOS_LEVELS, OHLCForecast, Provenance, repair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Context
    from forecaster.model import Model

_Z_Q = np.array([NormalDist().inv_cdf(level) for level in CHRONOS_LEVELS])


class RandomWalk:
    """The random walk: the last close stays the best guess, and doubt grows with the root of time.

    With x = log(field / previous close) over the context, step h of a field is log-normal around
    last close · exp(mean x), with variance var x + (h - 1) · var of the close's x; the mean of open and
    close is taken as 0, which is what makes it a random walk. High and low keep their mean distance.
    """

    name = "random_walk"
    engine = "numpy"
    engine_reason = "a closed formula"

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context.

        Raises:
            InvalidContext: for a context of fewer than three bars, or a horizon below 1.
        """
        if horizon < 1:
            raise InvalidContext("horizon", "1 or more", horizon)
        return [self._predict_one(context, horizon) for context in contexts]

    def _predict_one(self, context: Context, horizon: int) -> OHLCForecast:
        started = time.perf_counter()
        mean_F, variance_F = _moves(context)
        steps_H = np.arange(horizon)
        sigma_FH = np.sqrt(variance_F[:, None] + steps_H * variance_F[3])
        log_FHQ = mean_F[:, None, None] + sigma_FH[:, :, None] * _Z_Q
        raw_FHQ = context.last_close * np.exp(log_FHQ)
        provenance = Provenance(
            model_id=self.name,
            revision="1",
            weights_sha256="",
            dtype="float64",
            device="cpu",
            engine=self.engine,
            engine_reason=self.engine_reason,
            input_sha256=context.sha256,
            batch_shape=(1, context.ohlc_CT.shape[1]),
            library_versions=f"numpy {np.__version__}",
            seconds=time.perf_counter() - started,
        )
        return OHLCForecast(context.key, context.cutoff, CHRONOS_LEVELS, raw_FHQ, repair(raw_FHQ), provenance)


def baseline(name: str) -> Model:
    """Give the baseline of this name.

    Raises:
        ConfigError: for an unknown one.
    """
    known = {RandomWalk.name: RandomWalk}
    if name not in known:
        raise ConfigError("model.baselines", f"any of {', '.join(known)}", name)
    return known[name]()


def _moves(context: Context) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of log(field / previous close) over the context's real bars, (F,) each."""
    real_CT = context.ohlc_CT[:, ~np.isnan(context.ohlc_CT[3])]
    if real_CT.shape[1] < 3:  # noqa: PLR2004 - two moves, the fewest that have a variance
        raise InvalidContext(f"context of {context.key}", "3 bars or more", real_CT.shape[1])
    moves_FT = np.log(real_CT[:, 1:] / real_CT[3, :-1])
    mean_F = moves_FT.mean(axis=1)
    mean_F[[0, 3]] = 0.0
    return mean_F, moves_FT.var(axis=1)
