"""Figures of an account: by hand on five bars, and against pandas, statsmodels and loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from forecaster.replay.backtest import Account, simulate
from forecaster.replay.performance import (
    MIN_TRADES,
    compute_performance,
    drawdown_of,
    exposure_of,
    returns_of,
    sharpe_interval,
    verdict,
)
from forecaster.replay.strategy import TradingRules
from tests.builders import DAY_MS, make_bars, make_key, utc_ms
from tests.replay.test_backtest import CLOSES, FREE, OPENS, bars_of, five, orders

START = utc_ms("2024-01-01")


def account_of(equity, start=START, step=DAY_MS, profits=(1.0,)):
    """An account with these marks, 100 before the first, half of it held."""
    equity_T = np.array(equity, np.float64)
    times_T = start + step * np.arange(1, len(equity_T) + 1)
    half_T = equity_T / 2
    return Account("A", start, 100.0, times_T, equity_T, half_T, half_T, (), profits)


def wander(n=400, seed=0, drift=0.0005):
    """An account of many days, and its returns: heavy tails, each return partly the one before."""
    random = np.random.default_rng(seed)
    noise = random.standard_t(4, n + 1) * 0.01
    returns = drift + noise[1:] + 0.3 * noise[:-1]
    return account_of(100 * np.cumprod(1 + returns)), returns


def test_five_bars_by_hand():
    """Two trades, 32,500 traded; held are 1, 1, 0.3636 and 0 of the equity."""
    found = compute_performance(five())

    assert found.bars == 4
    assert found.years == pytest.approx(4 / 365.25)
    assert found.total_return == pytest.approx(0.35)
    assert found.turnover == pytest.approx(32_500 / 12_425 * 365.25 / 4)
    assert found.exposure == pytest.approx((1 + 1 + 4_800 / 13_200 + 0) / 4)
    assert (found.costs, found.fills, found.trades, found.hit_rate, found.delayed_fills) == (0.0, 3, 2, 1.0, 0)
    assert (found.max_drawdown, found.drawdown_days) == (0.0, 0.0)
    assert (found.cagr, found.sharpe_lower, found.sharpe_upper) == (None, None, None)


def test_volatility_sharpe_and_sortino_by_hand():
    """Returns of +10, -10, +20 and -5 %, on 365.25 bars of a year."""
    found = compute_performance(account_of([110.0, 99.0, 118.8, 112.86]))
    mean, a_year = 0.15 / 4, 365.25
    deviation = np.sqrt(sum((one - mean) ** 2 for one in (0.1, -0.1, 0.2, -0.05)) / 3)
    downside = np.sqrt((0.1**2 + 0.05**2) / 4)

    assert found.volatility == pytest.approx(deviation * np.sqrt(a_year))
    assert found.sharpe == pytest.approx(mean / deviation * np.sqrt(a_year))
    assert found.sortino == pytest.approx(mean * a_year / (downside * np.sqrt(a_year)))
    assert found.max_drawdown == pytest.approx(-0.1)


def test_costs_by_hand():
    """What fees and slippage took from 10,000 is a share of it."""
    bars = bars_of(OPENS, CLOSES)
    account = simulate(orders(bars, [1.0, 1.0, 0.0, 0.0]), bars, TradingRules(fee_bps=10, slippage_bps=20))
    found = compute_performance(account)

    assert found.costs == pytest.approx(sum(fill.cost for fill in account.fills) / 10_000)
    assert found.total_return == pytest.approx(0.192822, abs=1e-6)


def test_growth_is_that_of_a_year():
    """Four years by the clock, doubled: 2 ** (1 / 4) - 1."""
    account = account_of(np.linspace(100, 200, 1461), step=DAY_MS)
    found = compute_performance(account)

    assert found.years == pytest.approx(4.0)
    assert found.cagr == pytest.approx(2**0.25 - 1, rel=1e-12)


def test_a_year_has_its_own_bars():
    """The same returns on hours are 24 times as many in a year, and so is their variance."""
    equity = wander()[0].equity_T
    daily, hourly = (compute_performance(account_of(equity, step=step)) for step in (DAY_MS, DAY_MS // 24))

    assert hourly.volatility == pytest.approx(daily.volatility * np.sqrt(24))
    assert hourly.sharpe == pytest.approx(daily.sharpe * np.sqrt(24))
    assert hourly.sharpe_lower == pytest.approx(daily.sharpe_lower * np.sqrt(24))


def test_against_pandas():
    account, returns = wander()
    series = pd.Series(account.equity_T)
    whole = pd.concat([pd.Series([100.0]), series], ignore_index=True)
    below = (whole / whole.cummax() - 1)[1:]
    found = compute_performance(account)

    np.testing.assert_allclose(returns_of(account), returns, rtol=1e-9)
    np.testing.assert_allclose(drawdown_of(account), below, rtol=1e-9, atol=1e-15)
    assert found.max_drawdown == pytest.approx(below.min())
    assert found.volatility == pytest.approx(whole.pct_change().std() * np.sqrt(365.25))
    assert found.exposure == 0.5


def test_the_deepest_drawdown_ends_when_its_peak_is_back():
    """From 120 down to 90 and up to 121: days 2 to 7. The longer but flatter one behind it does not count."""
    account = account_of([110, 120, 100, 90, 95, 119, 121, 120, 119, 120, 120, 120, 120, 120])

    assert compute_performance(account).drawdown_days == 5.0
    assert compute_performance(account).max_drawdown == pytest.approx(-0.25)


def test_a_drawdown_from_the_first_capital_to_the_end():
    account = account_of([99, 80, 85])

    assert compute_performance(account).drawdown_days == 3.0
    assert drawdown_of(account).tolist() == pytest.approx([-0.01, -0.2, -0.15])


def test_a_peak_that_is_met_twice_begins_at_the_second():
    assert compute_performance(account_of([120, 110, 120, 90, 130])).drawdown_days == 2.0


@pytest.mark.parametrize("n", [30, 99, 400, 1500])
def test_the_interval_of_the_sharpe_ratio_against_statsmodels(n):
    """The error of the mean influence, by their Newey-West, with as many lags as the rule gives."""
    _, returns = wander(n)
    ratio = returns.mean() / returns.std()
    z = (returns - returns.mean()) / returns.std()
    influence = ratio + z - ratio / 2 * (z**2 - 1)
    lags = int(np.floor(4 * (n / 100) ** (2 / 9)))
    fit = sm.OLS(influence, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    lower, upper = sharpe_interval(returns, 252.0)

    assert (lower, upper) == pytest.approx(fit.conf_int()[0] * np.sqrt(252), rel=1e-9)


@pytest.mark.parametrize("dependence", [0.0, 0.3])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(dependence):
    """400 pasts of 1,000 returns with heavy tails, whether or not one depends on the one before."""
    random = np.random.default_rng(7)
    noise = random.standard_t(6, (400, 1001)) / np.sqrt(1.5)
    pasts = 0.05 + noise[:, 1:] + dependence * noise[:, :-1]
    truth = 0.05 / np.sqrt(1 + dependence**2)
    ends = [sharpe_interval(one, 1.0) for one in pasts]
    held = np.mean([lower <= truth <= upper for lower, upper in ends])

    assert 0.92 <= held <= 0.97


def test_an_interval_without_autocovariances_would_be_too_narrow():
    """The case above can fail: where returns depend on each other, independence holds the truth less often."""
    _, returns = wander(5000, drift=0.0)
    shuffled = np.random.default_rng(1).permutation(returns)
    lower, upper = sharpe_interval(returns, 1.0)
    narrow_lower, narrow_upper = sharpe_interval(shuffled, 1.0)

    assert upper - lower > 1.15 * (narrow_upper - narrow_lower)


@pytest.mark.parametrize("returns", [np.full(100, 0.01), np.zeros(50), np.random.default_rng(0).normal(0, 1, 29)])
def test_no_interval_where_nothing_can_be_said(returns):
    assert sharpe_interval(returns, 252.0) == (None, None)


def test_nothing_held():
    """Figures that do not exist are None, and none of them warns."""
    bars = make_bars(make_key(timeframe="1d"), count=80)
    found = compute_performance(simulate(orders(bars, [0.0] * 79), bars, FREE))

    assert (found.total_return, found.cagr, found.exposure, found.turnover, found.max_drawdown) == (0, 0, 0, 0, 0)
    assert (found.sharpe, found.sortino, found.hit_rate, found.sharpe_lower) == (None, None, None, None)
    assert found.trades == 0


def test_a_single_bar():
    found = compute_performance(account_of([101.0]))

    assert (found.bars, found.volatility, found.sharpe, found.cagr) == (1, None, None, None)
    assert found.total_return == pytest.approx(0.01)


def test_everything_lost():
    """Once nothing is left, no bar has a return, and nothing is held."""
    lost = account_of([50.0, 0.0, 0.0])
    found = compute_performance(lost)

    assert returns_of(lost).tolist() == [-0.5, -1.0, 0.0]
    assert exposure_of(lost).tolist() == [0.5, 0.0, 0.0]
    assert (found.total_return, found.max_drawdown, found.drawdown_days) == (-1.0, -1.0, 3.0)


def test_gains_alone_have_no_sortino_ratio():
    assert compute_performance(account_of([101.0, 103.0, 104.0])).sortino is None


def test_hit_rate_counts_what_brought_something():
    assert compute_performance(account_of([101.0, 103.0], profits=(2.0, -1.0, 0.0, 5.0))).hit_rate == 0.5


def test_verdicts():
    """Below 30 trades there is no verdict; above, the interval decides."""
    base = compute_performance(wander()[0])
    cases = {
        "too few trades": {"trades": MIN_TRADES - 1, "sharpe_lower": 1.0},
        "too few bars": {"sharpe_lower": None},
        "profitable": {"sharpe_lower": 0.1, "sharpe_upper": 2.0},
        "unprofitable": {"sharpe_lower": -2.0, "sharpe_upper": -0.1},
        "no significant profit": {"sharpe_lower": -0.1, "sharpe_upper": 0.1},
    }

    for words, changes in cases.items():
        assert verdict(dataclasses.replace(base, **{"trades": MIN_TRADES} | changes)).startswith(words)
