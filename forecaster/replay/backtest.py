"""Backtest a strategy on forecasts: its decisions are filled at opens, with costs.

A decision is filled at the open of the first bar that opens at or after its forecast was available. If bars are missing
it waits for the next one. Every price is worse than the open by the slippage, and a fee is paid on the traded value.
Equity is marked at each close. Not simulated: partial fills, market impact, funding, borrowing costs, and stops inside
a bar. An account that has lost everything stays closed.

Shapes: T bars, K orders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import InvalidArgument
from forecaster.replay.strategy import Decision, TradingRules, run_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from forecaster.accuracy.trust import Trust
    from forecaster.bars import Bars
    from forecaster.forecast import OHLCForecast
    from forecaster.replay.strategy import Strategy

_BPS: Final = 1e-4
_NOTHING: Final = 1e-9
"""Weights that differ by less are equal: rounding does not trade."""


@dataclass(frozen=True, slots=True)
class Fill:
    """A change of the position at the open of a bar.

    Args:
        series: name of the account.
        open_time: of the bar, UTC ms.
        price: the open, worse by the slippage.
        weight_before: position / equity at the open, before the trade.
        weight_after: the target of the decision.
        notional: traded value at the open's price, in units of the capital.
        cost: fee and slippage, in units of the capital.
        equity: at the open, before the costs.
        decided_at: UTC ms.
        missing_bars: missing bars before this one.
        reason: the strategy's.
    """

    series: str
    open_time: int
    price: float
    weight_before: float
    weight_after: float
    notional: float
    cost: float
    equity: float
    decided_at: int
    missing_bars: int
    reason: str


@dataclass(frozen=True, eq=False)
class Account:
    """The course of an account.

    Args:
        name: the series, or `portfolio`.
        start: UTC ms, the first open at which the account could trade.
        capital: equity at the start.
        close_time_T: UTC ms.
        equity_T: at each close.
        net_T: value of the position at each close, below 0 when short; `gross_T` is its absolute value.
        fills: in time order.
        profits: of each trade, from entry to exit or change of side, after costs; an open trade is marked.
        ruined_at: close (UTC ms) at which the equity reached 0; None if it never did.
    """

    name: str
    start: int
    capital: float
    close_time_T: NDArray[np.int64]
    equity_T: NDArray[np.float64]
    net_T: NDArray[np.float64]
    gross_T: NDArray[np.float64]
    fills: tuple[Fill, ...]
    profits: tuple[float, ...]
    ruined_at: int | None = None


@dataclass(frozen=True, eq=False)
class BacktestResult:
    """A strategy on one series; `benchmark` buys and holds from the same open, with the same capital and costs."""

    bars: Bars
    decisions: tuple[Decision, ...]
    account: Account
    benchmark: Account


def run_backtest(
    strategy: Strategy,
    forecasts: Iterable[OHLCForecast],
    bars: Bars,
    rules: TradingRules | None = None,
    trust_at: Callable[[int], Trust | None] | None = None,
) -> BacktestResult:
    """Backtest a strategy on the forecasts of one series. For the arguments and errors see `run_strategy`.

    Raises:
        InvalidArgument: also if no bar opens at or after the first forecast was available.
    """
    rules = rules or TradingRules()
    decisions = run_strategy(strategy, forecasts, bars, rules, trust_at)
    return BacktestResult(
        bars, tuple(decisions), simulate(decisions, bars, rules), simulate_buy_and_hold(decisions, bars, rules)
    )


def simulate(decisions: Sequence[Decision], bars: Bars, rules: TradingRules) -> Account:
    """Fill decisions at opens, and mark the equity at each close from the first fill's bar to the last's.

    If several decisions have the same fill open, the last one counts. The final position is marked, not sold.

    Raises:
        InvalidArgument: if no decision can be filled.
    """
    orders = _orders(decisions, bars)
    return _run(orders, bars, _span(orders, bars), rules)


def simulate_buy_and_hold(decisions: Sequence[Decision], bars: Bars, rules: TradingRules) -> Account:
    """Buy the largest allowed position at the first fill open of `decisions` and keep it, over the same bars.

    Raises:
        InvalidArgument: if no decision can be filled.
    """
    orders = _orders(decisions, bars)
    first, weight = min(orders), rules.max_weight
    bought = replace(orders[first], weight=weight, reason=f"buy {weight:.0%} and hold")
    return _run({first: bought}, bars, _span(orders, bars), rules)


def combine_accounts(accounts: Sequence[Account]) -> Account:
    """Combine accounts into a portfolio; each keeps its capital, and nothing is rebalanced between them.

    It is marked at every close of any account. An account counts with its capital before its first open, and with its
    last equity after its last close.
    """
    times_T = np.unique(np.concatenate([account.close_time_T for account in accounts]))
    equity_T, net_T, gross_T = np.sum([_marked(account, times_T) for account in accounts], axis=0)
    fills = [fill for account in accounts for fill in account.fills]
    return Account(
        name="portfolio",
        start=min(account.start for account in accounts),
        capital=sum(account.capital for account in accounts),
        close_time_T=times_T,
        equity_T=equity_T,
        net_T=net_T,
        gross_T=gross_T,
        fills=tuple(sorted(fills, key=lambda fill: (fill.open_time, fill.series))),
        profits=tuple(profit for account in accounts for profit in account.profits),
    )


def _orders(decisions: Sequence[Decision], bars: Bars) -> dict[int, Decision]:
    """Map each fill open to the last decision that waits for it."""
    orders = {decision.fill_open: decision for decision in decisions if decision.fill_open is not None}
    if not orders:
        raise InvalidArgument("decisions", f"one that a bar of {bars.key} can fill", f"{len(decisions)}, and none")
    return orders


def _span(orders: dict[int, Decision], bars: Bars) -> slice:
    first, last = np.searchsorted(bars.open_time, [min(orders), max(orders)])
    return slice(int(first), int(last) + 1)


def _run(orders: dict[int, Decision], bars: Bars, span: slice, rules: TradingRules) -> Account:
    place_K = np.searchsorted(bars.open_time, np.array(list(orders)))
    portfolio, series = _Portfolio(rules), str(bars.key)
    opens_K = bars.ohlcv_TF[place_K, 0].tolist()
    pairs = zip(opens_K, orders.values(), strict=True)
    states = [portfolio.rebalance(series, price, order) for price, order in pairs]
    cash_T, units_T = np.repeat(np.array(states), np.diff(place_K, append=span.stop), axis=0).T
    net_T = units_T * bars.close[span]
    equity_T, fills = cash_T + net_T, portfolio.fills
    close_time_T, open_time_T = bars.close_time[span], bars.open_time[span]
    ruined_at = None
    if (equity_T <= 0).any():
        end = int(np.argmax(equity_T <= 0))
        equity_T[end:] = net_T[end:] = 0.0
        fills = [fill for fill in fills if fill.open_time <= open_time_T[end]]
        ruined_at = int(close_time_T[end])
    return Account(
        name=series,
        start=int(open_time_T[0]),
        capital=rules.capital,
        close_time_T=close_time_T,
        equity_T=equity_T,
        net_T=net_T,
        gross_T=np.abs(net_T),
        fills=tuple(fills),
        profits=_profits(fills, float(equity_T[-1])),
        ruined_at=ruined_at,
    )


class _Portfolio:
    """Cash and units of one series."""

    def __init__(self, rules: TradingRules) -> None:
        self._rules = rules
        self._cash, self._units = rules.capital, 0.0
        self.fills: list[Fill] = []

    def rebalance(self, series: str, price: float, order: Decision) -> tuple[float, float]:
        """Trade at an open until the position is `order.weight` of the equity after costs; return cash and units."""
        value = self._units * price
        equity = self._cash + value
        if equity <= 0:
            self._cash = self._units = 0.0
        elif self._exceeds_threshold(value / equity, order.weight):
            self._trade(series, price, order)
        return self._cash, self._units

    def _exceeds_threshold(self, current: float, target: float) -> bool:
        """Return whether a change of weight is traded; an exit and a change of side always are."""
        if current and target * current <= 0:
            return True
        return abs(target - current) > max(self._rules.threshold, _NOTHING)

    def _trade(self, series: str, price: float, order: Decision) -> None:
        """Solve for the target value: w = weight · (E - rate · |w - v|), where E is the equity and v the value held."""
        rules, value = self._rules, self._units * price
        equity = self._cash + value
        side = 1 if order.weight * equity > value else -1
        slippage = side * rules.slippage_bps * _BPS
        rate = side * (abs(slippage) + rules.fee_bps * _BPS * (1 + slippage))
        target = order.weight * (equity + rate * value) / (1 + rate * order.weight)
        notional, cost = abs(target - value), rate * (target - value)
        self._cash -= target - value + cost
        self._units = target / price
        self.fills.append(
            Fill(
                series=series,
                open_time=order.fill_open or 0,
                price=price * (1 + slippage),
                weight_before=value / equity,
                weight_after=order.weight,
                notional=notional,
                cost=cost,
                equity=equity,
                decided_at=order.decided_at,
                missing_bars=order.missing_bars,
                reason=order.reason,
            )
        )


def _profits(fills: Sequence[Fill], last_equity: float) -> tuple[float, ...]:
    """Return the profit of each trade after costs. A fill that changes side divides its cost between both trades."""
    profits: list[float] = []
    entered: float | None = None
    for fill in fills:
        if fill.weight_before * fill.weight_after > 0:
            continue
        between = fill.equity - fill.cost * abs(fill.weight_before) * fill.equity / fill.notional
        if entered is not None:
            profits.append(between - entered)
        entered = between if fill.weight_after else None
    return tuple(profits) if entered is None else (*profits, last_equity - entered)


def _marked(account: Account, times_T: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return equity, net and gross value at other times, (3, T)."""
    place_T = np.searchsorted(account.close_time_T, times_T, side="right") - 1
    marks = np.stack([account.equity_T, account.net_T, account.gross_T])[:, np.maximum(place_T, 0)]
    return np.where(place_T >= 0, marks, np.array([[account.capital], [0.0], [0.0]]))
