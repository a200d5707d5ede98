"""Decisions: when they can be had, what the strategy is told, and that nothing later changes them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import InvalidArgument
from forecaster.replay.strategy import Position, Signal, StrategyContext, TradingRules, run_strategy
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import make_forecast

NEW_YORK = make_key("arch", "SPX/USD", "1d", "XNYS")


def forecasts_of(bars, latency=0, places=None):
    """A forecast at each close, there `latency` ms later; one for all, or by place."""
    base = make_forecast(bars.key, issued_at=0)
    chosen = range(len(bars)) if places is None else places
    late = dict.fromkeys(chosen, latency) if isinstance(latency, int) else latency
    return [
        dataclasses.replace(base, cutoff=close, issued_at=close, available_at=close + late.get(i, 0))
        for i, close in ((i, int(bars.close_time[i])) for i in chosen)
    ]


class Planned:
    """A strategy that gives shares from a list, and keeps what it was told."""

    def __init__(self, *shares):
        self.shares = list(shares)
        self.told = []

    def __call__(self, forecast, position, context):
        self.told.append((forecast, position, context))
        return Signal(self.shares[(len(self.told) - 1) % len(self.shares)], f"plan {len(self.told)}")


@pytest.fixture
def bars():
    return make_bars(count=12)


@pytest.mark.parametrize(
    ("latency", "bars_later"),
    [(0, 1), (1, 2), (4000, 2), (HOUR_MS - 1, 2), (HOUR_MS, 2), (HOUR_MS + 1, 3), (2 * HOUR_MS, 3)],
)
def test_first_open_at_or_after_the_forecast(bars, latency, bars_later):
    """Four seconds behind a close the next bar has opened already: the bar after it is the first to be had."""
    (decision,) = run_strategy(Planned(1.0), forecasts_of(bars, latency, [4]), bars)

    assert decision.decided_at == bars.close_time[4] + latency
    assert decision.fill_open == bars.open_time[4 + bars_later]
    assert decision.missing_bars == 0


def test_a_session_opens_in_the_morning():
    """After a stock exchange's close four seconds cost nothing."""
    bars = make_bars(NEW_YORK, count=5)
    (decision,) = run_strategy(Planned(1.0), forecasts_of(bars, 4000, [2]), bars)

    assert decision.fill_open == bars.open_time[3]
    assert decision.missing_bars == 0


@pytest.mark.parametrize(
    ("latency", "missing", "missing_bars"), [(0, [5, 6], 2), (4000, [5, 6], 1), (4000, [5], 0), (0, [6], 0)]
)
def test_a_missing_bar_is_waited_for(bars, latency, missing, missing_bars):
    """The next bar that there is fills, and the decision says how many slots it waited."""
    there = bars[np.delete(np.arange(len(bars)), missing)]
    (decision,) = run_strategy(Planned(1.0), forecasts_of(bars, latency, [4]), there)
    first = next(i for i in range(5 if latency == 0 else 6, 12) if i not in missing)

    assert decision.fill_open == bars.open_time[first]
    assert decision.missing_bars == missing_bars


def test_nothing_opens_after_the_last_bar(bars):
    (decision,) = run_strategy(Planned(1.0), forecasts_of(bars, 0, [11]), bars)

    assert (decision.fill_open, decision.missing_bars) == (None, 0)


def test_what_the_strategy_is_told(bars):
    """The close at the cutoff, the trust there, and the position that was had by then, at the open it was had at."""
    plan = Planned(0.5, 0.5, -1.0, 0.0, 1.0)
    run_strategy(plan, forecasts_of(bars, 0, range(5)), bars, trust_at=lambda cutoff: cutoff)
    opens = bars.ohlcv_TF[:, 0]

    assert [one.cutoff for one, _, _ in plan.told] == bars.close_time[:5].tolist()
    assert [one for _, _, one in plan.told] == [
        StrategyContext(bars.close[i], int(bars.close_time[i])) for i in range(5)
    ]
    assert [one for _, one, _ in plan.told] == [
        Position(),
        Position(0.5, opens[1]),
        Position(0.5, opens[1]),
        Position(-1.0, opens[3]),
        Position(0.0, None),
    ]


def test_an_order_that_waits_is_not_a_position(bars):
    """While the bar is missing nothing is held, and the newer decision is filled instead of the older."""
    there = bars[np.delete(np.arange(12), [6])]
    plan = Planned(1.0, -1.0, 0.5, 0.25)
    made = run_strategy(plan, forecasts_of(bars, {4: 4000, 5: 30_000, 7: 4000}, [4, 5, 7]), there)

    assert [one.fill_open for one in made] == [bars.open_time[i] for i in (7, 7, 9)]
    assert [one.weight for _, one, _ in plan.told] == [0.0, 0.0, -1.0]


def test_an_order_is_no_position_at_its_own_open(bars):
    """Four seconds behind one close, and at once behind the next: both wait for the same open, the newer is filled."""
    plan = Planned(1.0, -1.0)
    made = run_strategy(plan, forecasts_of(bars, {4: 4000, 5: 0}, [4, 5]), bars)

    assert {one.fill_open for one in made} == {bars.open_time[6]}
    assert [one.weight for _, one, _ in plan.told] == [0.0, 0.0]


def test_a_late_forecast_is_passed_over(bars):
    """Nobody acts on the forecast of an older close once there is a newer one."""
    late = {3: 3 * HOUR_MS, 4: 4000, 5: 4000}
    made = run_strategy(Planned(1.0), forecasts_of(bars, late, [3, 4, 5]), bars)

    assert [one.cutoff for one in made] == bars.close_time[4:6].tolist()


def test_caught_up_at_once(bars):
    """Several closes whose forecasts arrive together: all are asked, the newest is filled."""
    at = int(bars.close_time[6]) + 4000
    together = {i: at - int(bars.close_time[i]) for i in (3, 4, 5, 6)}
    made = run_strategy(Planned(0.1, 0.2, 0.3, 0.4), forecasts_of(bars, together, [3, 4, 5, 6]), bars)

    assert {one.fill_open for one in made} == {bars.open_time[8]}
    assert [one.weight for one in made] == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(("close_after", "closed_at"), [(1, 6), (2, 7), (3, 8), (4, None), (None, None)])
def test_closed_when_no_forecast_comes(bars, close_after, closed_at):
    """Filled at bar 5, the next decision at bar 9: closed at the open of the bar by which one should have come."""
    plan = Planned(1.0, 0.5)
    made = run_strategy(plan, forecasts_of(bars, 0, [4, 8]), bars, TradingRules(close_after=close_after))
    closed = [one for one in made if one.weight == 0]

    assert [one.fill_open for one in closed] == ([] if closed_at is None else [bars.open_time[closed_at]])
    assert len(plan.told) == 2
    assert plan.told[1][1].weight == (1.0 if closed_at is None else 0.0)
    assert all("no forecast for" in one.reason for one in closed)


def test_nothing_is_closed_while_forecasts_come(bars):
    made = run_strategy(Planned(1.0), forecasts_of(bars, 4000), bars, TradingRules(close_after=1))

    assert len(made) == 12


@pytest.mark.parametrize(
    ("rules", "weight", "aimed"),
    [
        (TradingRules(max_weight=0.4), 1.0, 0.4),
        (TradingRules(max_weight=0.4), -1.0, -0.4),
        (TradingRules(shorting=False), -1.0, 0.0),
        (TradingRules(), -1.0, -1.0),
    ],
)
def test_limits(bars, rules, weight, aimed):
    """The strategy is told what it holds, and not what it asked for."""
    plan = Planned(weight)
    made = run_strategy(plan, forecasts_of(bars, 0, [3, 4]), bars, rules)

    assert [one.weight for one in made] == [aimed, aimed]
    assert plan.told[1][1].weight == aimed
    assert ("limited to" in made[0].reason) == (aimed != weight)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), latency=st.sampled_from([0, 4000, HOUR_MS]), until=st.integers(1, 39))
def test_later_bars_and_forecasts_change_no_decision(seed, latency, until):
    """Cut off all bars that open when the decision is made or later: what was decided by then stays bit-identical."""
    bars = make_bars(count=40, seed=seed)
    forecasts = forecasts_of(bars, latency)

    def follow(forecast, position, context):
        side = 1.0 if context.last_close > (position.price or context.last_close) else -0.5
        return Signal(side, f"{position} {context} {forecast.cutoff}")

    whole = run_strategy(follow, forecasts, bars, TradingRules(close_after=2))
    decided_at = whole[until].decided_at
    some = bars[bars.open_time < decided_at]
    cut = run_strategy(
        follow, [one for one in forecasts if one.available_at <= decided_at], some, TradingRules(close_after=2)
    )

    assert [(one.cutoff, one.weight, one.reason) for one in cut] == [
        (one.cutoff, one.weight, one.reason) for one in whole[: until + 1]
    ]


def test_a_strategy_that_cheats_is_found_by_cutting_the_bars():
    """A strategy that holds bars itself decides differently on fewer of them."""

    def cheat(bars):
        def strategy(forecast, position, context):
            later = bars.close[bars.close_time > forecast.cutoff]
            return Signal(1.0 if len(later) and later[0] > context.last_close else -1.0, "I know")

        return strategy

    def honest(bars):
        return Planned(1.0, 0.5)

    bars = make_bars(count=60)
    names = []
    for name, make in (("cheat", cheat), ("honest", honest)):
        whole = run_strategy(make(bars), forecasts_of(bars), bars)
        for i in range(20, 40):
            some = bars[: i + 1]
            last = run_strategy(make(some), forecasts_of(some), some)[-1]
            if (last.weight, last.reason) != (whole[i].weight, whole[i].reason):
                names.append(name)

    assert set(names) == {"cheat"}


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda made, bars: [dataclasses.replace(one, key=make_key(symbol="ETH/USDT")) for one in made], "ETH/USDT"),
        (lambda made, bars: [dataclasses.replace(one, available_at=None) for one in made], "available_at"),
        (lambda made, bars: made[::-1], "rising cutoffs"),
        (lambda made, bars: [dataclasses.replace(made[0], cutoff=int(bars.open_time[0]))], "a close of the bars"),
    ],
)
def test_what_is_refused(bars, broken, words):
    with pytest.raises(InvalidArgument, match=words):
        run_strategy(Planned(1.0), broken(forecasts_of(bars, 0, [3, 4]), bars), bars)


@pytest.mark.parametrize("value", [0.5, None, (1.0, "buy")])
def test_a_strategy_that_returns_no_signal(bars, value):
    """The error names the strategy and what it returned."""

    def careless(forecast, position, context):
        return value

    with pytest.raises(InvalidArgument, match=r"strategy tests\.replay\.test_strategy:\S*careless: expected a Signal"):
        run_strategy(careless, forecasts_of(bars, 0, [3, 4]), bars)


@pytest.mark.parametrize("weight", [-1.01, 1.01, float("nan")])
def test_a_weight_is_between_all_short_and_all_long(weight):
    with pytest.raises(InvalidArgument, match="expected -1 to 1"):
        Signal(weight, "leverage")


@pytest.mark.parametrize(
    "wrong",
    [
        {"fee_bps": -1.0},
        {"fee_bps": float("nan")},
        {"slippage_bps": 1001.0},
        {"max_weight": 0.0},
        {"max_weight": 1.5},
        {"threshold": 1.0},
        {"threshold": -0.1},
        {"close_after": 0},
        {"capital": 0.0},
        {"capital": float("inf")},
    ],
)
def test_rules_that_cannot_be(wrong):
    (name,) = wrong

    with pytest.raises(InvalidArgument, match=name):
        TradingRules(**wrong)
