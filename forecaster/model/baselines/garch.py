"""Volatility that clusters, with tails that are fat: GARCH(1,1) with Student's t, and high and low around its closes.

Shapes: C price fields, T slots, F fields, N draws, P paths (each draw and its mirror image), H steps,
Q quantile levels.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from math import isnan
from threading import Lock
from typing import TYPE_CHECKING, Final
from zlib import crc32

import numpy as np

from forecaster.errors import InvalidContext
from forecaster.forecast import ModelId
from forecaster.model.baselines.returns import LEVELS_Q, LONGEST_STRETCH, forecast_of, provenance_of, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Context, SeriesKey
    from forecaster.forecast import OHLCForecast

_DRAWS: Final = 1000
_SEED: Final = 1986
_DIGITS: Final = 6
_FURTHEST: Final = 100.0
_LONGEST_MEMORY: Final = 0.9999
_FITTING: Final = Lock()
_SMOOTHING: Final = (0.0, 0.06, 0.94, 5.0)


@dataclass(frozen=True, eq=False)
class _Law:
    """How a series moves: variance of the next return = omega + alpha · return² + beta · variance of this one.

    Args:
        omega: in squared log returns.
        alpha: weight of the last squared return.
        beta: weight of the last variance.
        shock_N: returns / their volatility: equally likely values of the distribution, rising.
        engine: what estimated it.
        reason: why that.
        library: its version, empty for none.
    """

    omega: float
    alpha: float
    beta: float
    shock_N: NDArray[np.float64]
    engine: str
    reason: str
    library: str = ""


class Garch:
    """A random walk whose volatility follows GARCH(1,1), with shocks of Student's t of unit variance and no drift.

    Bollerslev, 1986, "Generalized Autoregressive Conditional Heteroskedasticity"; 1987, "A Conditionally
    Heteroskedastic Time Series Model for Speculative Prices and Rates of Return".

    The close of step h is simulated: 1000 draws and their mirror images, so that its median is the last close. The
    shocks of a step are the thousand equally likely values of the distribution, in an order that is the same for
    every forecast and spreads them evenly over the closes before (L'Ecuyer, Lécot and Tuffin, 2008, "A Randomized
    Quasi-Monte Carlo Simulation Method for Markov Chains"). Open, high and low are the close before + volatility ·
    one of the past values of log(field / close before) / volatility then, drawn in the same way.

    Parameters are those of greatest likelihood on whole blocks of `refit_every` bar lengths that lie between the
    block in which the last 960 slots begin and the one of the cutoff; blocks of different series end at different
    times. What was estimated is kept, and estimated again once those bars differ: that saves time and changes no bit.
    Blocks with fewer than 100 returns give way to all slots. Where these have fewer too, or no maximum is found,
    variance is smoothed by 0.94 per bar and shocks are t of 5 degrees of freedom (J.P. Morgan, 1996, "RiskMetrics
    Technical Document"). Where alpha + beta reaches 1, its bound, variance has no mean, which the next bars do not
    need (Nelson, 1990, "Stationarity and Persistence in the GARCH(1,1) Model"). Provenance says so in both cases.

    A return with a missing end is left out, and counts as what was expected of it in the variance after it.
    """

    name = "garch"
    version = "1"
    engine = "arch"
    engine_reason = "greatest likelihood"
    slots = 960
    refit_every = 48
    fewest_returns = 30
    fewest_fitted = 100

    def __init__(self) -> None:
        self._fitted: dict[SeriesKey, tuple[bytes, _Law]] = {}

    @property
    def id(self) -> ModelId:
        """Its name, and the version of its arithmetic."""
        return ModelId.of(self.name, self.version)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context.

        Raises:
            InvalidContext: for a context with fewer than 30 returns, or a horizon below 1.
        """
        horizon = whole("horizon", horizon)
        return [self._predict_one(context, horizon) for context in contexts]

    def _predict_one(self, context: Context, horizon: int) -> OHLCForecast:
        started = time.perf_counter()
        price_CT = context.ohlc_CT[:, -self.slots :]
        distance_FT = np.log(price_CT[:, 1:] / price_CT[3, :-1])
        found = int((~np.isnan(distance_FT[3])).sum())
        if found < self.fewest_returns:
            raise InvalidContext(f"context of {context.key}", f"{self.fewest_returns} returns or more", found)
        law = self._law(context, distance_FT[3])
        variance_T = _variances(law, distance_FT[3])
        sigma_T = np.sqrt(np.maximum(variance_T, variance_T[-1] / LONGEST_STRETCH**2))
        log_FHQ = _simulate(law, variance_T[-1], distance_FT[:3] / sigma_T[:-1], horizon)
        provenance = provenance_of(self, context, started)
        versions = ", ".join(filter(None, (provenance.library_versions, law.library)))
        made_by = replace(provenance, engine=law.engine, engine_reason=law.reason, library_versions=versions)
        return forecast_of(context, log_FHQ, made_by)

    def _law(self, context: Context, return_T: NDArray[np.float64]) -> _Law:
        """Estimate the law of a series, or recall it."""
        real_T = ~np.isnan(return_T)
        if not return_T[real_T].any():
            return _Law(1.0, 0.0, 0.0, np.zeros(_DRAWS), "numpy", "closes that never moved")
        settled_T = real_T & self._in_whole_blocks(context, len(return_T) + 1)[1:]
        chosen = return_T[settled_T if settled_T.sum() >= self.fewest_fitted else real_T]
        if len(chosen) < self.fewest_fitted:
            return _smoothed(f"fewer than {self.fewest_fitted} returns")
        size = float(np.sqrt((chosen**2).mean()))
        if size == 0:
            return _smoothed("closes that did not move before")
        # Rounded, so that the unit of prices, which is in the last bits, leads no search elsewhere.
        returns = np.round(chosen / size, _DIGITS)
        seen, law = self._fitted.get(context.key, (b"", None))
        if law is None or seen != returns.tobytes():
            law = _fit(returns)
            self._fitted[context.key] = (returns.tobytes(), law)
        return replace(law, omega=law.omega * size**2)

    def _in_whole_blocks(self, context: Context, count: int) -> NDArray[np.bool_]:
        """Tell which of the last `count` slots lie in blocks that ended by the cutoff and began inside of them."""
        key = context.key
        stagger = crc32(str(key).encode()) % self.refit_every
        opens_T = key.sessions.last_opens(key.timeframe, context.cutoff, count)
        block_T, (now,) = (
            (times // key.timeframe.ms + stagger) // self.refit_every for times in (opens_T, np.array([context.cutoff]))
        )
        whole_T: NDArray[np.bool_] = (block_T > block_T[0]) & (block_T < now)
        return whole_T


def _fit(returns: NDArray[np.float64]) -> _Law:
    """Estimate the law of returns whose mean square is 1."""
    import arch  # noqa: PLC0415 - it loads pandas, scipy and statsmodels
    from arch.univariate import GARCH, StudentsT, ZeroMean  # noqa: PLC0415 - the same

    model = ZeroMean(returns, rescale=False, volatility=GARCH(1, 0, 1), distribution=StudentsT())
    # It sets warning filters, which are the whole program's, and leaves them behind.
    with _FITTING, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = model.fit(update_freq=0, disp="off", show_warning=False)
    omega, alpha, beta, freedom = found.params.to_numpy().tolist()
    if found.convergence_flag != 0 or not np.isfinite([omega, alpha, beta, freedom]).all():
        return _smoothed("no greatest likelihood was found")
    kind = "integrated" if alpha + beta > _LONGEST_MEMORY else "stationary"
    reason = f"{kind}: alpha {alpha:.3f}, beta {beta:.3f}, t({freedom:.1f})"
    return _Law(omega, alpha, beta, _shocks(freedom), "arch", reason, f"arch {arch.__version__}")


def _smoothed(reason: str) -> _Law:
    omega, alpha, beta, freedom = _SMOOTHING
    return _Law(omega, alpha, beta, _shocks(freedom), "numpy", f"{reason}: variance smoothed by {beta}, t(5)")


def _shocks(freedom: float) -> NDArray[np.float64]:
    """Give the quantiles of Student's t of unit variance in the middle of equal shares, (N,)."""
    from scipy.special import stdtrit  # noqa: PLC0415 - only who forecasts pays for scipy

    shock_N: NDArray[np.float64] = np.sqrt((freedom - 2) / freedom) * stdtrit(
        freedom, (np.arange(_DRAWS) + 0.5) / _DRAWS
    )
    return shock_N


def _variances(law: _Law, return_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the variance of each return as known before it, and of the next one, (T + 1,).

    The first is the mean square, or omega where nothing moved.
    """

    def following(variance: float, square: float) -> float:
        expected = variance if isnan(square) else square
        return law.omega + law.alpha * expected + law.beta * variance

    square_T = return_T**2
    first = float(np.nanmean(square_T)) or law.omega
    return np.array(list(accumulate(square_T.tolist(), following, initial=first)))


def _simulate(law: _Law, variance: float, distance_FT: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Give the quantiles of log(field / last close), (F, H, Q), from the next variance on.

    `distance_FT` are the past values of open, high and low from the close before, in units of volatility.
    """
    order_HN, order_HP = _orders(horizon)
    close_N, variance_N = np.zeros(_DRAWS), np.full(_DRAWS, variance)
    before_HP, sigma_HP, close_HP = (np.empty(order_HP.shape) for _ in range(3))
    for step in range(horizon):
        shock_N = law.shock_N[order_HN[step]]
        sigma_N = np.sqrt(variance_N)
        before_HP[step] = np.concatenate([close_N, -close_N])
        sigma_HP[step] = np.concatenate([sigma_N, sigma_N])
        close_N = close_N + sigma_N * shock_N
        close_HP[step] = np.concatenate([close_N, -close_N])
        variance_N = law.omega + (law.alpha * shock_N**2 + law.beta) * variance_N
    fields = [before_HP + sigma_HP * _spread(distance_T)[order_HP] for distance_T in distance_FT]
    ranked_FHP = np.sort(np.stack([*fields, close_HP]), axis=2)
    above_Q = np.rint(LEVELS_Q * 2 * _DRAWS).astype(np.int64)
    log_FHQ: NDArray[np.float64] = (ranked_FHP[..., above_Q - 1] + ranked_FHP[..., above_Q]) / 2
    return np.clip(log_FHQ, -_FURTHEST, _FURTHEST)


def _spread(distance_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the quantiles of those that are not NaN in the middle of equal shares, (P,), linear between them."""
    ranked = np.sort(distance_T[~np.isnan(distance_T)])
    shares_P = (np.arange(2 * _DRAWS) + 0.5) / (2 * _DRAWS)
    return np.interp(shares_P, (np.arange(len(ranked)) + 0.5) / len(ranked), ranked)


@cache
def _orders(horizon: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the order of shocks (H, N) and of distances (H, P) in each step; a longer horizon begins with the same.

    Draws whose closes would be neighbours under t(5) of constant volatility get shocks that are far apart.
    """
    random = np.random.default_rng(_SEED)
    shock_N, close_N = _shocks(_SMOOTHING[-1]), np.zeros(_DRAWS)
    shocks, distances = [], []
    for _ in range(horizon):
        distances.append(_scattered(np.concatenate([close_N, -close_N]), random.random()))
        shocks.append(_scattered(close_N, random.random()))
        close_N = close_N + shock_N[shocks[-1]]
    return np.array(shocks), np.array(distances)


def _scattered(values: NDArray[np.float64], shift: float) -> NDArray[np.int64]:
    """Give each value a place: over neighbours in size, places jump by the golden section of all."""
    section = (np.sqrt(5) - 1) / 2
    places = np.empty(len(values), np.int64)
    jumps = (np.arange(len(values)) * section + shift) % 1
    places[np.argsort(values, kind="stable")] = np.argsort(np.argsort(jumps))
    return places
