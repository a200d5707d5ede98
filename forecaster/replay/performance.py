"""Figures of an account: what it brought, how much it moved, what it cost, and how sure that is.

Growth, volatility, Sharpe and Sortino ratio and the deepest drawdown are empyrical's. A year has as many bars as the
account's own have, by the clock: about 8,766 hours on a 24/7 market, 252 days on a stock exchange.

Shapes: T bars.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.timeframe import DAY_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.replay.backtest import Account

FEWEST_TRADES: Final = 30
"""Fewer prove nothing."""
_FEWEST_RETURNS: Final = 30
_YEAR_MS: Final = 365.25 * DAY_MS
_SHORTEST_FOR_A_YEAR: Final = 30 * DAY_MS / _YEAR_MS
_TWO_SIDED_95: Final = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Figures:
    """What an account comes to; None where nothing can be said.

    Args:
        years: from the first open to the last close, by the clock.
        total_return: last equity / capital - 1; `cagr` the same for a year, not from less than 30 days.
        volatility: deviation of the bars' returns, of a year.
        sharpe: mean return / deviation, of a year, beside cash that earns nothing; with its 95 % interval.
        sortino: mean return / deviation of losses, of a year.
        max_drawdown: deepest fall below an earlier peak, 0 or less; `drawdown_days` from that peak until it was
            reached again, or to the end.
        turnover: what was traded in a year / mean equity.
        exposure: mean share of the equity that was held, long or short.
        costs: fees and slippage / capital.
        trades: ways in, each with its way out; `hit_rate` the share of them that brought something, costs paid.
        waited: fills that a missing bar delayed.
    """

    bars: int
    years: float
    total_return: float
    cagr: float | None
    volatility: float | None
    sharpe: float | None
    sharpe_lower: float | None
    sharpe_upper: float | None
    sortino: float | None
    max_drawdown: float
    drawdown_days: float
    turnover: float
    exposure: float
    costs: float
    fills: int
    trades: int
    hit_rate: float | None
    waited: int


def figures_of(account: Account) -> Figures:
    """Sum up an account."""
    import empyrical  # noqa: PLC0415 - a second to import, for who trades

    returns_T = returns_of(account)
    years = (int(account.close_time_T[-1]) - account.start) / _YEAR_MS
    a_year = len(returns_T) / years
    moves = _moves(returns_T)
    lower, upper = sharpe_interval(returns_T, a_year)
    won = [profit > 0 for profit in account.profits]
    mean_equity = float(account.equity_T.mean())
    return Figures(
        bars=len(returns_T),
        years=years,
        total_return=float(account.equity_T[-1]) / account.capital - 1,
        cagr=_known(empyrical.annual_return(returns_T, annualization=a_year)) if _is_long(years) else None,
        volatility=_known(empyrical.annual_volatility(returns_T, annualization=a_year)),
        sharpe=_known(empyrical.sharpe_ratio(returns_T, annualization=a_year)) if moves else None,
        sharpe_lower=lower,
        sharpe_upper=upper,
        sortino=_known(empyrical.sortino_ratio(returns_T, annualization=a_year)) if moves else None,
        max_drawdown=float(empyrical.max_drawdown(returns_T)),
        drawdown_days=_drawdown_days(account),
        turnover=sum(fill.notional for fill in account.fills) / mean_equity / years if mean_equity else 0.0,
        exposure=float(exposure_of(account).mean()),
        costs=sum(fill.cost for fill in account.fills) / account.capital,
        fills=len(account.fills),
        trades=len(won),
        hit_rate=sum(won) / len(won) if won else None,
        waited=sum(fill.waited > 0 for fill in account.fills),
    )


def verdict(figures: Figures) -> str:
    """What the figures prove, in words."""
    if figures.trades < FEWEST_TRADES:
        return f"too few trades to tell ({figures.trades} of {FEWEST_TRADES})"
    if figures.sharpe_lower is None or figures.sharpe_upper is None:
        return f"too few bars to tell ({figures.bars})"
    if figures.sharpe_lower > 0:
        return "earns: the Sharpe ratio is surely above 0"
    if figures.sharpe_upper < 0:
        return "loses: the Sharpe ratio is surely below 0"
    return "no profit shown: the Sharpe ratio may be 0"


def returns_of(account: Account) -> NDArray[np.float64]:
    """Return of each bar, (T,); 0 once nothing is left."""
    before_T = np.concatenate([[account.capital], account.equity_T[:-1]])
    gained_T = np.zeros(len(before_T))
    np.divide(account.equity_T - before_T, before_T, out=gained_T, where=before_T > 0)
    return gained_T


def exposure_of(account: Account) -> NDArray[np.float64]:
    """Share of the equity that is held at each close, without signs, (T,)."""
    share_T = np.zeros(len(account.equity_T))
    np.divide(account.gross_T, account.equity_T, out=share_T, where=account.equity_T > 0)
    return share_T


def drawdown_of(account: Account) -> NDArray[np.float64]:
    """How far the equity is below its highest so far, (T,), 0 or less."""
    peak_T = np.maximum.accumulate(np.concatenate([[account.capital], account.equity_T]))[1:]
    below_T: NDArray[np.float64] = account.equity_T / peak_T - 1
    return below_T


def sharpe_interval(returns_T: NDArray[np.float64], a_year: float) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval of the Sharpe ratio of a year; None with fewer than 30 returns, or all alike.

    The variance of the ratio S of one bar is that of the mean of its influence, z - S / 2 · (z² - 1), where z are the
    returns less their mean, over their deviation (Lo, 2002, "The Statistics of Sharpe Ratios", by GMM). Summed over
    autocovariances by Newey and West (1987), with floor(4 (T / 100)^(2/9)) lags, it holds for returns that are skewed,
    have heavy tails and depend on those before; without the autocovariances it would be Mertens' (2002).
    """
    n, deviation = len(returns_T), float(returns_T.std())
    if n < _FEWEST_RETURNS or not _moves(returns_T):
        return None, None
    z_T = (returns_T - returns_T.mean()) / deviation
    ratio = float(returns_T.mean()) / deviation
    error = sqrt(a_year * _long_run_variance(z_T - ratio / 2 * (np.square(z_T) - 1)) / n)
    return ratio * sqrt(a_year) - _TWO_SIDED_95 * error, ratio * sqrt(a_year) + _TWO_SIDED_95 * error


def _long_run_variance(influence_T: NDArray[np.float64]) -> float:
    """Bartlett's weights on the autocovariances."""
    n = len(influence_T)
    lags = int(4 * (n / 100) ** (2 / 9))
    covariances = [float(influence_T[lag:] @ influence_T[: n - lag]) / n for lag in range(lags + 1)]
    weighted = [(1 - lag / (lags + 1)) * covariance for lag, covariance in enumerate(covariances)]
    return 2 * sum(weighted) - weighted[0]


def _drawdown_days(account: Account) -> float:
    """How long the deepest drawdown took, from its peak until the peak was reached again, or to the end."""
    equity = np.concatenate([[account.capital], account.equity_T])
    times = np.concatenate([[account.start], account.close_time_T])
    peak = np.maximum.accumulate(equity)
    deepest = int(np.argmin(equity / peak))
    if equity[deepest] == peak[deepest]:
        return 0.0
    began = int(np.flatnonzero(equity[: deepest + 1] == peak[deepest])[-1])
    again = np.flatnonzero(equity[deepest:] >= peak[deepest])
    ended = deepest + int(again[0]) if len(again) else len(equity) - 1
    return float(times[ended] - times[began]) / DAY_MS


def _moves(returns_T: NDArray[np.float64]) -> bool:
    """Whether the deviation is more than rounding."""
    return bool(np.ptp(returns_T) > 0)


def _is_long(years: float) -> bool:
    return years >= _SHORTEST_FOR_A_YEAR


def _known(value: float) -> float | None:
    return float(value) if isfinite(value) else None
