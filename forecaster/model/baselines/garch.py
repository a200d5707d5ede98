"""GARCH(1,1) with Student's t, with open, high and low simulated around the closes.

Shapes: C price fields, T time slots, F fields, N draws, P paths (each draw and its mirror image), H steps,
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

from forecaster.arguments import check_integer
from forecaster.errors import InvalidContext
from forecaster.forecast import ModelId
from forecaster.model.baselines.returns import LEVELS_Q, MAX_SCALE, forecast_of, provenance_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.context import Context
    from forecaster.forecast import OHLCForecast

_DRAWS: Final = 1000
_SEED: Final = 1986
_DIGITS: Final = 6
_MAX_LOG_RETURN: Final = 100.0
_MAX_PERSISTENCE: Final = 0.9999
_FIT_LOCK: Final = Lock()
_RISKMETRICS: Final = (0.0, 0.06, 0.94, 5.0)


@dataclass(frozen=True, eq=False)
class _Fit:
    """Fitted parameters: variance of the next return = omega + alpha · return² + beta · variance of this one.

    Args:
        omega: in squared log returns.
        alpha: weight of the last squared return.
        beta: weight of the last variance.
        shock_N: equally likely values of return / volatility, in ascending order.
        engine: what estimated the parameters.
        reason: why that engine.
        library: name and version of the library, empty for none.
    """

    omega: float
    alpha: float
    beta: float
    shock_N: NDArray[np.float64]
    engine: str
    reason: str
    library: str = ""


class Garch:
    """Forecast a random walk without drift, with GARCH(1,1) volatility and Student's t shocks of unit variance.

    Bollerslev, 1986, "Generalized Autoregressive Conditional Heteroskedasticity"; 1987, "A Conditionally
    Heteroskedastic Time Series Model for Speculative Prices and Rates of Return".

    The close of step h is simulated with 1000 draws and their mirror images, so that its median is the last close.
    The shocks of a step are the thousand equally likely values of the distribution. Their order is the same for every
    forecast, and spreads them evenly over the closes before (L'Ecuyer, Lécot and Tuffin, 2008, "A Randomized
    Quasi-Monte Carlo Simulation Method for Markov Chains"). Open, high and low are the close before + volatility ·
    one of the past values of log(field / close before) / volatility then, drawn in the same way.

    Parameters are maximum likelihood estimates. The sample is whole blocks of `refit_every` bar lengths, between the
    block in which the last 960 slots begin and the block of the cutoff. Blocks of different series end at different
    times. An estimate is cached and repeated once its sample differs; the cache changes no bit. Where the blocks have
    fewer than 100 returns, the sample is all slots. Where these have fewer too, or no maximum is found, variance is
    smoothed by 0.94 per bar and shocks are t of 5 degrees of freedom (J.P. Morgan, 1996, "RiskMetrics Technical
    Document"). Where alpha + beta reaches its bound of 1, variance has no mean, which the next bars do not need
    (Nelson, 1990, "Stationarity and Persistence in the GARCH(1,1) Model"). Provenance reports both cases.

    A return with a missing end is left out. In the variance after it, it counts as its expected value.
    """

    name = "garch"
    version = "1"
    engine = "arch"
    engine_reason = "maximum likelihood"
    max_context = 960
    refit_every = 48
    min_returns = 30
    min_fitted = 100

    def __init__(self) -> None:
        self._cache: dict[SeriesKey, tuple[bytes, _Fit]] = {}

    @property
    def id(self) -> ModelId:
        """Its name and the version of its arithmetic."""
        return ModelId.of(self.name, self.version)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast `horizon` bars after each context.

        Raises:
            InvalidArgument: for a horizon below 1.
            InvalidContext: for a context with fewer than 30 returns.
        """
        horizon = check_integer("horizon", horizon)
        return [self._predict_context(context, horizon) for context in contexts]

    def _predict_context(self, context: Context, horizon: int) -> OHLCForecast:
        started = time.perf_counter()
        price_CT = context.ohlc_CT[:, -self.max_context :]
        offset_FT = np.log(price_CT[:, 1:] / price_CT[3, :-1])
        returns = int((~np.isnan(offset_FT[3])).sum())
        if returns < self.min_returns:
            raise InvalidContext(f"context of {context.key}", f"{self.min_returns} returns or more", returns)
        fit = self._fit(context, offset_FT[3])
        variance_T = _variances(fit, offset_FT[3])
        sigma_T = np.sqrt(np.maximum(variance_T, variance_T[-1] / MAX_SCALE**2))
        log_FHQ = _simulate(fit, variance_T[-1], offset_FT[:3] / sigma_T[:-1], horizon)
        provenance = provenance_of(self, context, started)
        versions = ", ".join(filter(None, (provenance.library_versions, fit.library)))
        provenance = replace(provenance, engine=fit.engine, engine_reason=fit.reason, library_versions=versions)
        return forecast_of(context, log_FHQ, provenance)

    def _fit(self, context: Context, return_T: NDArray[np.float64]) -> _Fit:
        """Return the fit of a series, from the cache where its sample is the same."""
        real_T = ~np.isnan(return_T)
        if not return_T[real_T].any():
            return _Fit(1.0, 0.0, 0.0, np.zeros(_DRAWS), "numpy", "all closes are equal")
        in_blocks_T = real_T & self._in_whole_blocks(context, len(return_T) + 1)[1:]
        sample_N = return_T[in_blocks_T if in_blocks_T.sum() >= self.min_fitted else real_T]
        if len(sample_N) < self.min_fitted:
            return _smoothed(f"fewer than {self.min_fitted} returns")
        scale = float(np.sqrt((sample_N**2).mean()))
        if scale == 0:
            return _smoothed("all closes of the sample are equal")
        # Rounded: the unit of prices changes the last bits, which must not change the result of the search.
        returns = np.round(sample_N / scale, _DIGITS)
        fitted_to, fit = self._cache.get(context.key, (b"", None))
        if fit is None or fitted_to != returns.tobytes():
            fit = _estimate(returns)
            self._cache[context.key] = (returns.tobytes(), fit)
        return replace(fit, omega=fit.omega * scale**2)

    def _in_whole_blocks(self, context: Context, count: int) -> NDArray[np.bool_]:
        """Return a mask of the last `count` slots, (T,): those of blocks that start and end within them."""
        key = context.key
        stagger = crc32(str(key).encode()) % self.refit_every
        opens_T = key.trading_calendar.last_opens(key.timeframe, context.cutoff, count)
        block_T, (now,) = (
            (times // key.timeframe.ms + stagger) // self.refit_every for times in (opens_T, np.array([context.cutoff]))
        )
        whole_T: NDArray[np.bool_] = (block_T > block_T[0]) & (block_T < now)
        return whole_T


def _estimate(returns: NDArray[np.float64]) -> _Fit:
    """Estimate the parameters from returns whose mean square is 1."""
    import arch  # noqa: PLC0415 - it loads pandas, scipy and statsmodels
    from arch.univariate import GARCH, StudentsT, ZeroMean  # noqa: PLC0415 - the same

    model = ZeroMean(returns, rescale=False, volatility=GARCH(1, 0, 1), distribution=StudentsT())
    # arch changes the warning filters of the whole process and does not restore them.
    with _FIT_LOCK, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result = model.fit(update_freq=0, disp="off", show_warning=False)
    omega, alpha, beta, freedom = result.params.to_numpy().tolist()
    if result.convergence_flag != 0 or not np.isfinite([omega, alpha, beta, freedom]).all():
        return _smoothed("no maximum of the likelihood was found")
    kind = "integrated" if alpha + beta > _MAX_PERSISTENCE else "stationary"
    reason = f"{kind}: alpha {alpha:.3f}, beta {beta:.3f}, t({freedom:.1f})"
    return _Fit(omega, alpha, beta, _shocks(freedom), "arch", reason, f"arch {arch.__version__}")


def _smoothed(reason: str) -> _Fit:
    omega, alpha, beta, freedom = _RISKMETRICS
    return _Fit(omega, alpha, beta, _shocks(freedom), "numpy", f"{reason}: variance smoothed by {beta}, t(5)")


def _shocks(freedom: float) -> NDArray[np.float64]:
    """Return quantiles of Student's t of unit variance at the midpoints of N equal parts of probability, (N,)."""
    from scipy.special import stdtrit  # noqa: PLC0415 - slow to import

    shock_N: NDArray[np.float64] = np.sqrt((freedom - 2) / freedom) * stdtrit(
        freedom, (np.arange(_DRAWS) + 0.5) / _DRAWS
    )
    return shock_N


def _variances(fit: _Fit, return_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the conditional variance of each return and of the next one, (T + 1,).

    The first is the mean square, or omega where that is 0.
    """

    def next_variance(variance: float, square: float) -> float:
        expected = variance if isnan(square) else square
        return fit.omega + fit.alpha * expected + fit.beta * variance

    square_T = return_T**2
    first = float(np.nanmean(square_T)) or fit.omega
    return np.array(list(accumulate(square_T.tolist(), next_variance, initial=first)))


def _simulate(fit: _Fit, variance: float, offset_FT: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Simulate from the next variance on, and return the quantiles of log(field / last close), (F, H, Q).

    `offset_FT`: past log(open, high and low / close before), in units of volatility.
    """
    order_HN, order_HP = _orders(horizon)
    close_N, variance_N = np.zeros(_DRAWS), np.full(_DRAWS, variance)
    before_HP, sigma_HP, close_HP = (np.empty(order_HP.shape) for _ in range(3))
    for step in range(horizon):
        shock_N = fit.shock_N[order_HN[step]]
        sigma_N = np.sqrt(variance_N)
        before_HP[step] = np.concatenate([close_N, -close_N])
        sigma_HP[step] = np.concatenate([sigma_N, sigma_N])
        close_N = close_N + sigma_N * shock_N
        close_HP[step] = np.concatenate([close_N, -close_N])
        variance_N = fit.omega + (fit.alpha * shock_N**2 + fit.beta) * variance_N
    fields = [before_HP + sigma_HP * _resample(offset_T)[order_HP] for offset_T in offset_FT]
    ranked_FHP = np.sort(np.stack([*fields, close_HP]), axis=2)
    above_Q = np.rint(LEVELS_Q * 2 * _DRAWS).astype(np.int64)
    log_FHQ: NDArray[np.float64] = (ranked_FHP[..., above_Q - 1] + ranked_FHP[..., above_Q]) / 2
    return np.clip(log_FHQ, -_MAX_LOG_RETURN, _MAX_LOG_RETURN)


def _resample(offset_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantiles of the known values at the midpoints of P equal parts of probability, (P,)."""
    ranked = np.sort(offset_T[~np.isnan(offset_T)])
    probability_P = (np.arange(2 * _DRAWS) + 0.5) / (2 * _DRAWS)
    return np.interp(probability_P, (np.arange(len(ranked)) + 0.5) / len(ranked), ranked)


@cache
def _orders(horizon: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the order of shocks (H, N) and of offsets (H, P) in each step; a longer horizon starts with the same.

    Draws whose closes would be neighbours under t(5) of constant volatility get shocks that are far apart.
    """
    random = np.random.default_rng(_SEED)
    shock_N, close_N = _shocks(_RISKMETRICS[-1]), np.zeros(_DRAWS)
    shocks, offsets = [], []
    for _ in range(horizon):
        offsets.append(_permutation(np.concatenate([close_N, -close_N]), random.random()))
        shocks.append(_permutation(close_N, random.random()))
        close_N = close_N + shock_N[shocks[-1]]
    return np.array(shocks), np.array(offsets)


def _permutation(values: NDArray[np.float64], shift: float) -> NDArray[np.int64]:
    """Return a place for each value; the places of values close in size are far apart, by the golden ratio."""
    ratio = (np.sqrt(5) - 1) / 2
    places = np.empty(len(values), np.int64)
    jumps = (np.arange(len(values)) * ratio + shift) % 1
    places[np.argsort(values, kind="stable")] = np.argsort(np.argsort(jumps))
    return places
