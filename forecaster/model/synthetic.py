"""Simulate OHLC bars that behave like a market: the training data of the bundled checkpoint.

Each bar is cut from a simulated intrabar path, so that open, high, low and close agree by
construction. What is drawn per series: volatility that clusters on two time scales, leverage,
fat tails, jumps, a daily season of volatility, overnight gaps, weak momentum or reversion,
ticks, a price level between 1e-6 and 1e6, and missing bars. Drift stays near zero.

Shapes: S series, T bars, U intrabar steps, F fields (open, high, low, close).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTRABAR_STEPS = 12
WARM_UP_BARS = 64
SHARE_WITH_MISSING_BARS = 0.2


@dataclass(frozen=True)
class Market:
    """What a batch of series has in common with nothing but itself: one draw per series, each (S, 1)."""

    volatility: NDArray[np.float64]
    slow_size: NDArray[np.float64]
    slow_decay: NDArray[np.float64]
    fast_size: NDArray[np.float64]
    fast_decay: NDArray[np.float64]
    leverage: NDArray[np.float64]
    tail_df: NDArray[np.float64]
    jump_rate: NDArray[np.float64]
    gap_size: NDArray[np.float64]
    momentum: NDArray[np.float64]
    season_size: NDArray[np.float64]
    season_bars: NDArray[np.float64]
    level: NDArray[np.float64]


def simulate_ohlc(rng: np.random.Generator, n_series: int, n_bars: int) -> NDArray[np.float64]:
    """Draw `n_series` independent OHLC series; returns prices of shape (S, F=4, T), missing bars as NaN."""
    market = _draw_market(rng, n_series)
    total = n_bars + WARM_UP_BARS
    log_volatility_ST = _draw_log_volatility(rng, market, total)
    path_STU = _draw_paths(rng, market, log_volatility_ST)
    ohlc_SFT = _cut_bars(path_STU)[:, :, WARM_UP_BARS:]
    prices_SFT = market.level[:, :, None] * np.exp(ohlc_SFT - ohlc_SFT[:, 3:, :1])
    return _drop_bars(rng, _round_to_ticks(rng, prices_SFT))


def _draw_market(rng: np.random.Generator, n: int) -> Market:
    def some(share: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Keep `values` for a share of the series, zero for the others."""
        return np.where(rng.random((n, 1)) < share, values, 0.0)

    return Market(
        volatility=np.exp(rng.uniform(np.log(5e-4), np.log(6e-2), (n, 1))),
        slow_size=rng.uniform(0.0, 0.6, (n, 1)),
        slow_decay=np.exp(-1.0 / np.exp(rng.uniform(np.log(40), np.log(400), (n, 1)))),
        fast_size=rng.uniform(0.0, 0.6, (n, 1)),
        fast_decay=np.exp(-1.0 / np.exp(rng.uniform(np.log(2), np.log(30), (n, 1)))),
        leverage=some(0.5, rng.uniform(0.0, 0.8, (n, 1))),
        tail_df=np.exp(rng.uniform(np.log(3.0), np.log(40.0), (n, 1))),
        jump_rate=some(0.3, np.exp(rng.uniform(np.log(1e-3), np.log(2e-2), (n, 1)))),
        gap_size=some(0.5, rng.uniform(0.1, 1.0, (n, 1))),
        momentum=some(0.25, rng.normal(0.0, 0.08, (n, 1))),
        season_size=some(0.3, rng.uniform(0.1, 0.8, (n, 1))),
        season_bars=rng.choice([5.0, 6.0, 7.0, 24.0, 48.0, 96.0], (n, 1)),
        level=np.exp(rng.uniform(np.log(1e-6), np.log(1e6), (n, 1))),
    )


def _draw_log_volatility(rng: np.random.Generator, market: Market, n_bars: int) -> NDArray[np.float64]:
    """Two Ornstein-Uhlenbeck processes and a season, (S, T); shocks are shared with returns by leverage."""
    n = market.level.shape[0]
    season = market.season_size * np.sin(
        2 * np.pi * (np.arange(n_bars)[None] / market.season_bars + rng.random((n, 1)))
    )
    slow = _autoregression(rng, market.slow_size, market.slow_decay, n_bars)
    fast = _autoregression(rng, market.fast_size, market.fast_decay, n_bars)
    return np.log(market.volatility) + slow + fast + season


def _autoregression(
    rng: np.random.Generator, size: NDArray[np.float64], decay: NDArray[np.float64], n_bars: int
) -> NDArray[np.float64]:
    """AR(1) of stationary standard deviation `size`, (S, T)."""
    shocks = rng.standard_normal((size.shape[0], n_bars)) * size * np.sqrt(1 - decay**2)
    shocks[:, :1] = rng.standard_normal(size.shape) * size
    out = shocks
    for t in range(1, n_bars):
        out[:, t] += decay[:, 0] * out[:, t - 1]
    return out


def _draw_paths(
    rng: np.random.Generator, market: Market, log_volatility_ST: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Log prices inside each bar, (S, T, U + 1): the first is the open, the last the close."""
    n, n_bars = log_volatility_ST.shape
    noise_STU = rng.standard_normal((n, n_bars, INTRABAR_STEPS))
    scale_ST = np.exp(log_volatility_ST) * _fat_tails(rng, market, n_bars)
    scale_ST = scale_ST * _leverage(noise_STU.sum(axis=2) / np.sqrt(INTRABAR_STEPS), market)
    steps_STU = noise_STU * scale_ST[:, :, None] / np.sqrt(INTRABAR_STEPS)
    steps_STU[:, :, 0] += _jumps(rng, market, n_bars)
    gaps_ST = rng.standard_normal((n, n_bars)) * np.exp(log_volatility_ST) * market.gap_size
    returns_ST = steps_STU.sum(axis=2) + gaps_ST
    drift_ST = market.momentum * np.pad(returns_ST, ((0, 0), (1, 0)))[:, :-1]
    steps_STU += drift_ST[:, :, None] / INTRABAR_STEPS
    inside_STU = np.cumsum(steps_STU, axis=2)
    opens_ST = np.cumsum(gaps_ST + np.pad(inside_STU[:, :-1, -1], ((0, 0), (1, 0))), axis=1)
    return np.concatenate([opens_ST[:, :, None], opens_ST[:, :, None] + inside_STU], axis=2)


def _fat_tails(rng: np.random.Generator, market: Market, n_bars: int) -> NDArray[np.float64]:
    """The random scale that turns a normal into a Student t of unit variance, (S, T)."""
    df = market.tail_df
    chi_square = rng.chisquare(np.broadcast_to(df, (df.shape[0], n_bars)))
    return np.sqrt(np.maximum(df - 2.0, 0.5) / np.maximum(chi_square, 1e-3))


def _leverage(returns_ST: NDArray[np.float64], market: Market) -> NDArray[np.float64]:
    """Raise volatility after falls: exp(-leverage · a decaying sum of past standardised returns), (S, T)."""
    memory = np.zeros_like(returns_ST)
    for t in range(1, returns_ST.shape[1]):
        memory[:, t] = 0.9 * memory[:, t - 1] + 0.1 * returns_ST[:, t - 1]
    return np.exp(-market.leverage * memory)


def _jumps(rng: np.random.Generator, market: Market, n_bars: int) -> NDArray[np.float64]:
    n = market.level.shape[0]
    hit = rng.random((n, n_bars)) < market.jump_rate
    return np.where(hit, rng.standard_normal((n, n_bars)) * 5.0 * market.volatility, 0.0)


def _cut_bars(path_STU: NDArray[np.float64]) -> NDArray[np.float64]:
    """Open, high, low, close of each path, (S, F, T)."""
    bars = (path_STU[:, :, 0], path_STU.max(axis=2), path_STU.min(axis=2), path_STU[:, :, -1])
    return np.stack(bars, axis=1)


def _round_to_ticks(rng: np.random.Generator, prices_SFT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round a third of the series to a tick between 1e-5 and 1e-3 of their first price: flat bars appear."""
    n = prices_SFT.shape[0]
    tick = prices_SFT[:, 3:, :1] * 10.0 ** rng.uniform(-5, -3, (n, 1, 1))
    rounded = np.maximum(np.round(prices_SFT / tick), 1.0) * tick
    return np.where(rng.random((n, 1, 1)) < 1 / 3, rounded, prices_SFT)


def _drop_bars(rng: np.random.Generator, prices_SFT: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lose up to 5 % of the bars of a fifth of the series, all four fields at once."""
    n, _, n_bars = prices_SFT.shape
    share = np.where(rng.random((n, 1, 1)) < SHARE_WITH_MISSING_BARS, rng.uniform(0.0, 0.05, (n, 1, 1)), 0.0)
    return np.where(rng.random((n, 1, n_bars)) < share, np.nan, prices_SFT)
