"""Performance figures of an account: return, risk, activity, cost, and the uncertainty of the Sharpe ratio.

Growth, volatility, Sharpe ratio, Sortino ratio and maximum drawdown are empyrical's. The number of bars per year comes
from the account itself, by the clock: about 8,766 hours on a 24/7 market, 252 days on a stock exchange.

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

MIN_TRADES: Final = 30
"""With fewer trades there is no verdict."""
_FEWEST_RETURNS: Final = 30
_YEAR_MS: Final = 365.25 * DAY_MS
_SHORTEST_FOR_A_YEAR: Final = 30 * DAY_MS / _YEAR_MS
_TWO_SIDED_95: Final = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Performance:
    """Figures of an account; None if a figure is not defined.

    Args:
        bars: number of closes.
        years: from the first open to the last close, by the clock.
        total_return: last equity / capital - 1.
        cagr: the same per year; None below 30 days.
        volatility: annualised standard deviation of the bars' returns.
        sharpe: annualised mean return / deviation, with a riskless rate of 0; with its 95 % interval.
        sortino: annualised mean return / deviation of losses.
        max_drawdown: largest fall below an earlier peak, 0 or less.
        drawdown_days: from that peak until it was reached again, or to the end.
        turnover: traded value per year / mean equity.
        exposure: mean of |position| / equity.
        costs: fees and slippage / capital.
        fills: number of fills.
        trades: entries, each with its exit.
        hit_rate: fraction of the trades with a profit after costs.
        delayed_fills: fills that a missing bar delayed.
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
    delayed_fills: int


def compute_performance(account: Account) -> Performance:
    """Compute the performance figures of an account."""
    import empyrical  # noqa: PLC0415 - it takes a second to import

    returns_T = returns_of(account)
    years = (int(account.close_time_T[-1]) - account.start) / _YEAR_MS
    bars_per_year = len(returns_T) / years
    varies = _varies(returns_T)
    lower, upper = sharpe_interval(returns_T, bars_per_year)
    wins = [profit > 0 for profit in account.profits]
    mean_equity = float(account.equity_T.mean())
    return Performance(
        bars=len(returns_T),
        years=years,
        total_return=float(account.equity_T[-1]) / account.capital - 1,
        cagr=_finite(empyrical.annual_return(returns_T, annualization=bars_per_year)) if _is_long(years) else None,
        volatility=_finite(empyrical.annual_volatility(returns_T, annualization=bars_per_year)),
        sharpe=_finite(empyrical.sharpe_ratio(returns_T, annualization=bars_per_year)) if varies else None,
        sharpe_lower=lower,
        sharpe_upper=upper,
        sortino=_finite(empyrical.sortino_ratio(returns_T, annualization=bars_per_year)) if varies else None,
        max_drawdown=float(empyrical.max_drawdown(returns_T)),
        drawdown_days=_drawdown_days(account),
        turnover=sum(fill.notional for fill in account.fills) / mean_equity / years if mean_equity else 0.0,
        exposure=float(exposure_of(account).mean()),
        costs=sum(fill.cost for fill in account.fills) / account.capital,
        fills=len(account.fills),
        trades=len(wins),
        hit_rate=sum(wins) / len(wins) if wins else None,
        delayed_fills=sum(fill.missing_bars > 0 for fill in account.fills),
    )


def verdict(performance: Performance) -> str:
    """Say in words what the Sharpe ratio shows."""
    if performance.trades < MIN_TRADES:
        return f"too few trades ({performance.trades} of {MIN_TRADES})"
    if performance.sharpe_lower is None or performance.sharpe_upper is None:
        return f"too few bars ({performance.bars})"
    if performance.sharpe_lower > 0:
        return "profitable: the Sharpe ratio is significantly above 0"
    if performance.sharpe_upper < 0:
        return "unprofitable: the Sharpe ratio is significantly below 0"
    return "no significant profit: the 95 % interval of the Sharpe ratio contains 0"


def returns_of(account: Account) -> NDArray[np.float64]:
    """Return the return of each bar, (T,); 0 once the equity is 0."""
    before_T = np.concatenate([[account.capital], account.equity_T[:-1]])
    gained_T = np.zeros(len(before_T))
    np.divide(account.equity_T - before_T, before_T, out=gained_T, where=before_T > 0)
    return gained_T


def exposure_of(account: Account) -> NDArray[np.float64]:
    """Return |position| / equity at each close, (T,)."""
    weight_T = np.zeros(len(account.equity_T))
    np.divide(account.gross_T, account.equity_T, out=weight_T, where=account.equity_T > 0)
    return weight_T


def drawdown_of(account: Account) -> NDArray[np.float64]:
    """Return equity / running maximum - 1 at each close, (T,), 0 or less."""
    peak_T = np.maximum.accumulate(np.concatenate([[account.capital], account.equity_T]))[1:]
    below_T: NDArray[np.float64] = account.equity_T / peak_T - 1
    return below_T


def sharpe_interval(returns_T: NDArray[np.float64], bars_per_year: float) -> tuple[float | None, float | None]:
    """Return the ends of the 95 % interval of the annualised Sharpe ratio; None below 30 returns, or if all are equal.

    The variance of the ratio S of one bar is that of the mean of its influence, z - S / 2 · (z² - 1), where z is the
    standardised return (Lo, 2002, "The Statistics of Sharpe Ratios", by GMM). The autocovariances are summed by Newey
    and West (1987), with floor(4 (T / 100)^(2/9)) lags. It holds for skewed, heavy-tailed and autocorrelated returns;
    without the autocovariances it would be Mertens' (2002).
    """
    n, deviation = len(returns_T), float(returns_T.std())
    if n < _FEWEST_RETURNS or not _varies(returns_T):
        return None, None
    z_T = (returns_T - returns_T.mean()) / deviation
    ratio = float(returns_T.mean()) / deviation
    error = sqrt(bars_per_year * _long_run_variance(z_T - ratio / 2 * (np.square(z_T) - 1)) / n)
    return ratio * sqrt(bars_per_year) - _TWO_SIDED_95 * error, ratio * sqrt(bars_per_year) + _TWO_SIDED_95 * error


def _long_run_variance(influence_T: NDArray[np.float64]) -> float:
    """Sum the autocovariances with Bartlett weights."""
    n = len(influence_T)
    lags = int(4 * (n / 100) ** (2 / 9))
    covariances = [float(influence_T[lag:] @ influence_T[: n - lag]) / n for lag in range(lags + 1)]
    weighted = [(1 - lag / (lags + 1)) * covariance for lag, covariance in enumerate(covariances)]
    return 2 * sum(weighted) - weighted[0]


def _drawdown_days(account: Account) -> float:
    """Return the length of the largest drawdown, from its peak until it was reached again, or to the end."""
    equity = np.concatenate([[account.capital], account.equity_T])
    times = np.concatenate([[account.start], account.close_time_T])
    peak = np.maximum.accumulate(equity)
    deepest = int(np.argmin(equity / peak))
    if equity[deepest] == peak[deepest]:
        return 0.0
    start = int(np.flatnonzero(equity[: deepest + 1] == peak[deepest])[-1])
    recovered = np.flatnonzero(equity[deepest:] >= peak[deepest])
    end = deepest + int(recovered[0]) if len(recovered) else len(equity) - 1
    return float(times[end] - times[start]) / DAY_MS


def _varies(returns_T: NDArray[np.float64]) -> bool:
    """Return whether the returns differ."""
    return bool(np.ptp(returns_T) > 0)


def _is_long(years: float) -> bool:
    return years >= _SHORTEST_FOR_A_YEAR


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None
