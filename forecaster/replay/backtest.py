"""Trading on forecasts, simulated: decisions of a strategy, filled at opens, with what that costs.

A decision is filled at the open of the first bar that opens at or after its forecast was there; where bars are missing
it waits for the next, and says so. Every price is worse than the open by the slippage, and a fee is paid on what is
traded. Equity is marked at each close. Not simulated: orders that are filled in part or move the market, funding and
the cost of borrowing, and a stop inside a bar. An account that has lost everything is closed there.

Shapes: T bars, K orders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import InvalidContext
from forecaster.replay.strategy import Decision, Rules, decisions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from forecaster.accuracy.trust import Trust
    from forecaster.bars import Bars
    from forecaster.forecast import OHLCForecast
    from forecaster.replay.strategy import Strategy

_BPS: Final = 1e-4
_NOTHING: Final = 1e-9
"""Shares that differ by less are the same: rounding buys nothing."""


@dataclass(frozen=True, slots=True)
class Fill:
    """A change of what is held, at the open of a bar.

    Args:
        series: of which account.
        open_time: of the bar, UTC ms.
        price: what was paid or got: the open, worse by the slippage.
        share_before: of the equity, at the open, and `share_after`.
        notional: what was traded, at the open's price, in units of the capital.
        cost: fee and slippage, in units of the capital.
        equity: at the open, before the costs.
        decided_at: UTC ms.
        waited: slots without a bar before this one.
        reason: the strategy's.
    """

    series: str
    open_time: int
    price: float
    share_before: float
    share_after: float
    notional: float
    cost: float
    equity: float
    decided_at: int
    waited: int
    reason: str


@dataclass(frozen=True, eq=False)
class Account:
    """What became of a capital.

    Args:
        name: the series, or `portfolio`.
        start: UTC ms, the first open at which something could be bought.
        capital: what was there then.
        close_time_T: UTC ms.
        equity_T: at each close.
        net_T: worth of what is held at each close, below 0 when short; `gross_T` without signs.
        fills: in the order of time.
        profits: of each trade, from the way in to the way out or to the other side; of one that is open, so far.
        ruined_at: close (UTC ms) at which nothing was left; None mostly.
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
class Trading:
    """A strategy on one series, and the same capital bought at its first chance and held, at the same costs."""

    bars: Bars
    decided: tuple[Decision, ...]
    account: Account
    holding: Account


def trade(
    strategy: Strategy,
    forecasts: Iterable[OHLCForecast],
    bars: Bars,
    rules: Rules | None = None,
    trust_at: Callable[[int], Trust | None] | None = None,
) -> Trading:
    """Let a strategy trade on forecasts; arguments and errors as in `decisions`.

    Raises:
        InvalidContext: also when no bar opens at or after the first forecast was there.
    """
    rules = rules or Rules()
    decided = decisions(strategy, forecasts, bars, rules, trust_at)
    return Trading(bars, tuple(decided), simulate(decided, bars, rules), hold(decided, bars, rules))


def simulate(decided: Sequence[Decision], bars: Bars, rules: Rules) -> Account:
    """Fill decisions at opens, and mark the equity at each close from the first fill's bar to the last's.

    Of decisions that wait for the same open, the last one counts. What is held at the end is marked, not sold.

    Raises:
        InvalidContext: when none can be filled.
    """
    orders = _orders(decided, bars)
    return _run(orders, bars, _span(orders, bars), rules)


def hold(decided: Sequence[Decision], bars: Bars, rules: Rules) -> Account:
    """Buy what the rules allow at the first open that `decided` had, and keep it over the same bars, at the same costs.

    Raises:
        InvalidContext: when there was none.
    """
    orders = _orders(decided, bars)
    first, share = min(orders), rules.max_share
    bought = replace(orders[first], share=share, reason=f"buy {share:.0%} and hold")
    return _run({first: bought}, bars, _span(orders, bars), rules)


def together(accounts: Sequence[Account]) -> Account:
    """Several accounts as one portfolio: each keeps its capital, and nothing is moved between them.

    Marked at every close of any of them. Before its first open a capital waits; after its last close it stays as it
    was.
    """
    times_T = np.unique(np.concatenate([one.close_time_T for one in accounts]))
    equity_T, net_T, gross_T = np.sum([_marked(one, times_T) for one in accounts], axis=0)
    fills = sorted((fill for one in accounts for fill in one.fills), key=lambda fill: (fill.open_time, fill.series))
    return Account(
        name="portfolio",
        start=min(one.start for one in accounts),
        capital=sum(one.capital for one in accounts),
        close_time_T=times_T,
        equity_T=equity_T,
        net_T=net_T,
        gross_T=gross_T,
        fills=tuple(fills),
        profits=tuple(profit for one in accounts for profit in one.profits),
    )


def _orders(decided: Sequence[Decision], bars: Bars) -> dict[int, Decision]:
    """The last decision that waits for each open, by that open."""
    orders = {one.fill_open: one for one in decided if one.fill_open is not None}
    if not orders:
        raise InvalidContext("decisions", f"one that a bar of {bars.key} can fill", f"{len(decided)}, and none")
    return orders


def _span(orders: dict[int, Decision], bars: Bars) -> slice:
    first, last = np.searchsorted(bars.open_time, [min(orders), max(orders)])
    return slice(int(first), int(last) + 1)


def _run(orders: dict[int, Decision], bars: Bars, span: slice, rules: Rules) -> Account:
    place_K = np.searchsorted(bars.open_time, np.array(list(orders)))
    purse, series = _Purse(rules), str(bars.key)
    opens_K = bars.ohlcv_TF[place_K, 0].tolist()
    states = [purse.rebalance(series, price, one) for price, one in zip(opens_K, orders.values(), strict=True)]
    cash_T, units_T = np.repeat(np.array(states), np.diff(place_K, append=span.stop), axis=0).T
    net_T = units_T * bars.close[span]
    equity_T, fills = cash_T + net_T, purse.fills
    close_time_T, open_time_T = bars.close_time[span], bars.open_time[span]
    ruined_at = None
    if (equity_T <= 0).any():
        end = int(np.argmax(equity_T <= 0))
        equity_T[end:] = net_T[end:] = 0.0
        fills = [one for one in fills if one.open_time <= open_time_T[end]]
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


class _Purse:
    """Cash and units of one series."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._cash, self._units = rules.capital, 0.0
        self.fills: list[Fill] = []

    def rebalance(self, series: str, price: float, order: Decision) -> tuple[float, float]:
        """Trade at an open until `order.share` of the equity is held, costs paid; gives cash and units."""
        held = self._units * price
        equity = self._cash + held
        if equity <= 0:
            self._cash = self._units = 0.0
        elif self._is_worth_it(held / equity, order.share):
            self._trade(series, price, order)
        return self._cash, self._units

    def _is_worth_it(self, held: float, share: float) -> bool:
        """A way out or to the other side always is; else only what is farther off than the threshold."""
        if held and share * held <= 0:
            return True
        return abs(share - held) > max(self._rules.threshold, _NOTHING)

    def _trade(self, series: str, price: float, order: Decision) -> None:
        """Costs are paid out of the equity E: what is aimed at is w = share · (E - rate · |w - v|), where v is held."""
        rules, held = self._rules, self._units * price
        equity = self._cash + held
        side = 1 if order.share * equity > held else -1
        slippage = side * rules.slippage_bps * _BPS
        rate = side * (abs(slippage) + rules.fee_bps * _BPS * (1 + slippage))
        aim = order.share * (equity + rate * held) / (1 + rate * order.share)
        notional, cost = abs(aim - held), rate * (aim - held)
        self._cash -= aim - held + cost
        self._units = aim / price
        self.fills.append(
            Fill(
                series=series,
                open_time=order.fill_open or 0,
                price=price * (1 + slippage),
                share_before=held / equity,
                share_after=order.share,
                notional=notional,
                cost=cost,
                equity=equity,
                decided_at=order.made_at,
                waited=order.waited,
                reason=order.reason,
            )
        )


def _profits(fills: Sequence[Fill], last_equity: float) -> tuple[float, ...]:
    """What each trade brought, costs paid. Where one fill ends a trade and begins another, its cost is shared."""
    profits: list[float] = []
    entered: float | None = None
    for fill in fills:
        if fill.share_before * fill.share_after > 0:
            continue
        between = fill.equity - fill.cost * abs(fill.share_before) * fill.equity / fill.notional
        if entered is not None:
            profits.append(between - entered)
        entered = between if fill.share_after else None
    return tuple(profits) if entered is None else (*profits, last_equity - entered)


def _marked(account: Account, times_T: NDArray[np.int64]) -> NDArray[np.float64]:
    """Equity, net and gross worth at other times, (3, T)."""
    place_T = np.searchsorted(account.close_time_T, times_T, side="right") - 1
    marks = np.stack([account.equity_T, account.net_T, account.gross_T])[:, np.maximum(place_T, 0)]
    return np.where(place_T >= 0, marks, np.array([[account.capital], [0.0], [0.0]]))
