"""The simulation: fills, costs and marks by hand, against a loop that counts cash, and against buy-and-hold."""

from __future__ import annotations

import sys
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from forecaster.bars import Bars
from forecaster.errors import InvalidArgument
from forecaster.replay.backtest import combine_accounts, run_backtest, simulate, simulate_buy_and_hold
from forecaster.replay.strategy import Decision, TradingRules
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.replay.test_strategy import Planned, forecasts_of

FREE = TradingRules(fee_bps=0, slippage_bps=0, threshold=0)
START = utc_ms("2024-01-01")
OPENS = (100.0, 100.0, 110.0, 120.0, 90.0)
CLOSES = (100.0, 110.0, 120.0, 96.0, 100.0)


def bars_of(opens, closes, start=START):
    """Bars of these opens and closes, with nothing above or below."""
    key = make_key(timeframe="1d")
    rows = [(o, max(o, c), min(o, c), c, 1.0) for o, c in zip(opens, closes, strict=True)]
    return Bars(key, start + key.timeframe.ms * np.arange(len(rows)), np.array(rows))


def orders(bars, shares):
    """A decision for the open of each bar but the first; None for none."""
    return [
        Decision(int(opens) - 1, int(opens), int(opens), weight, f"aim at {weight}")
        for opens, weight in zip(bars.open_time[1:], shares, strict=False)
        if weight is not None
    ]


def five(shares=(1.0, 1.0, -0.5, 0.0), rules=FREE):
    bars = bars_of(OPENS, CLOSES)
    return simulate(orders(bars, shares), bars, rules)


def counted(bars, shares, rules):
    """Cash and units, bar by bar: how many units, is found by halving. Gives the equity at each close."""
    cash, units, equity = rules.capital, 0.0, []
    for open_price, close, weight in zip(bars.ohlcv_TF[1:, 0].tolist(), bars.close[1:].tolist(), shares, strict=True):
        worth = cash + units * open_price
        held = units * open_price / worth
        if abs(weight - held) > max(rules.threshold, 1e-9) or (held and weight * held <= 0):
            low, high = -2 * worth / open_price, 2 * worth / open_price
            for _ in range(200):
                middle = (low + high) / 2
                left = cash - paid(middle - units, open_price, rules) + middle * open_price
                low, high = (middle, high) if middle * open_price < weight * left else (low, middle)
            low = low if weight else 0.0
            cash, units = cash - paid(low - units, open_price, rules), low
        equity.append(cash + units * close)
    return equity


def paid(units, open_price, rules):
    """What buying costs, or less than nothing for selling: the price is worse, and the fee is on what is paid."""
    price = open_price * (1 + np.sign(units) * rules.slippage_bps / 1e4)
    return units * price + abs(units) * price * rules.fee_bps / 1e4


def test_five_bars_by_hand():
    """100 units at 100, sold short down to -50 at 120, bought back at 90."""
    account = five()

    assert account.start == utc_ms("2024-01-02")
    assert account.close_time_T.tolist() == [utc_ms(f"2024-01-0{day}") for day in (3, 4, 5, 6)]
    np.testing.assert_allclose(account.equity_T, [11_000, 12_000, 13_200, 13_500], rtol=1e-12)
    np.testing.assert_allclose(account.net_T, [11_000, 12_000, -4_800, 0], rtol=1e-12)
    np.testing.assert_allclose(account.gross_T, [11_000, 12_000, 4_800, 0], rtol=1e-12)
    assert [(fill.weight_before, fill.weight_after) for fill in account.fills] == [
        (0.0, 1.0),
        (pytest.approx(1.0), -0.5),
        (pytest.approx(-1 / 3), 0.0),
    ]
    assert [fill.notional for fill in account.fills] == pytest.approx([10_000, 18_000, 4_500])
    assert account.profits == pytest.approx((2_000, 1_500))


def test_fees_and_slippage_to_the_cent():
    """Buying 10,000 at 100 with 20 bps of slippage and 10 bps of fees, selling it at 120."""
    account = five((1.0, 1.0, 0.0, 0.0), TradingRules(fee_bps=10, slippage_bps=20))
    units = Decimal(10_000) / (Decimal("100.2") * Decimal("1.001"))
    got = units * Decimal("119.76") * Decimal("0.999")
    bought, sold = account.fills

    assert (bought.price, sold.price) == pytest.approx((100.2, 119.76))
    assert bought.cost == pytest.approx(float(Decimal(10_000) - units * 100), abs=1e-6)
    assert sold.cost == pytest.approx(float(units * 120 - got), abs=1e-6)
    assert account.equity_T[0] == pytest.approx(float(units * 110), abs=1e-6)
    assert account.equity_T[-1] == pytest.approx(float(got), abs=1e-6)
    assert account.profits == pytest.approx((float(got) - 10_000,), abs=1e-6)
    assert round(account.equity_T[-1], 2) == 11_928.22


def test_costs_of_going_short_to_the_cent():
    """Half the equity is sold at 100: 20 bps less come in, and the fee is on what comes in."""
    account = five((-0.5, -0.5, 0.0, 0.0), TradingRules(fee_bps=10, slippage_bps=20, threshold=0.3))
    (sold, bought), rate = account.fills, Decimal("0.002") + Decimal("0.001") * Decimal("0.998")
    short = Decimal("-0.5") * 10_000 / (1 + rate / 2)
    left = 10_000 + short * rate + short / 100 * (120 - 100)
    back = -short / 100 * 120 * (Decimal("0.002") + Decimal("0.001") * Decimal("1.002"))

    assert sold.price == pytest.approx(99.8)
    assert sold.cost == pytest.approx(float(-short * rate), abs=1e-6)
    assert bought.cost == pytest.approx(float(back), abs=1e-6)
    assert account.equity_T[-1] == pytest.approx(float(left - back), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    fee=st.sampled_from([0.0, 10.0, 200.0]),
    slippage=st.sampled_from([0.0, 5.0, 150.0]),
    threshold=st.sampled_from([0.0, 0.05, 0.4]),
)
@example(seed=0, fee=10.0, slippage=5.0, threshold=0.05)
def test_against_a_loop_that_counts_cash(seed, fee, slippage, threshold):
    """Whatever is aimed at, long, short or nothing, at any cost: the same equity at every close."""
    bars = make_bars(make_key(timeframe="1d"), count=30, seed=seed)
    random = np.random.default_rng(seed)
    shares = random.choice([-1.0, -0.3, 0.0, 0.2, 0.9, 1.0, *random.uniform(-1, 1, 3)], 29).tolist()
    rules = TradingRules(fee_bps=fee, slippage_bps=slippage, threshold=threshold)
    account = simulate(orders(bars, shares), bars, rules)

    np.testing.assert_allclose(account.equity_T, counted(bars, shares, rules), rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_profits_add_up_to_what_was_earned(seed):
    """Every fee belongs to one trade, also where a single fill ends one and begins another."""
    bars = make_bars(make_key(timeframe="1d"), count=30, seed=seed)
    shares = np.random.default_rng(seed).choice([-1.0, -0.5, 0.0, 0.5, 1.0], 29).tolist()
    account = simulate(orders(bars, shares), bars, TradingRules(fee_bps=30))
    sides = np.sign(shares).tolist()
    entries = sum(side not in {0, before} for side, before in zip(sides, [0, *sides], strict=False))

    assert sum(account.profits) == pytest.approx(account.equity_T[-1] - account.capital)
    assert len(account.profits) == entries


def test_a_flip_is_the_end_of_one_trade_and_the_begin_of_another():
    """From all long to half short, two thirds of the cost are the first trade's: 12,000 of the 18,000 traded."""
    free, account = five(), five(rules=TradingRules(fee_bps=10, slippage_bps=0, threshold=0))
    flip = account.fills[1]
    long_part = abs(flip.weight_before) * flip.equity / flip.notional

    assert len(account.profits) == len(free.profits) == 2
    assert long_part == pytest.approx(2 / 3, abs=1e-3)
    assert account.profits[0] == pytest.approx(flip.equity - flip.cost * long_part - 10_000)


def test_a_constant_share_is_buy_and_hold():
    """All of the equity, from the first decision on: one fill, the same equity, to the last bit."""
    bars = make_bars(count=200)
    found = run_backtest(Planned(1.0), forecasts_of(bars, 4000), bars, TradingRules())

    assert len(found.account.fills) == len(found.benchmark.fills) == 1
    assert np.array_equal(found.account.equity_T, found.benchmark.equity_T)
    assert found.account.fills[0].cost == found.benchmark.fills[0].cost > 0


def test_holding_is_bought_at_the_first_chance_and_kept():
    """It begins and ends with the strategy, whatever that does, and is not rebalanced."""
    bars = bars_of(OPENS, CLOSES)
    held = simulate_buy_and_hold(
        orders(bars, [0.0, -1.0, 0.5, 0.0]), bars, TradingRules(fee_bps=0, slippage_bps=0, max_weight=0.5)
    )

    np.testing.assert_allclose(held.equity_T, 5_000 + 5_000 * np.array(CLOSES[1:]) / 100)
    assert len(held.fills) == 1


def test_the_span_ends_with_the_last_decision():
    """Bars behind it belong to nobody's decision."""
    bars = make_bars(count=50)
    account = simulate(orders(bars, [None] * 9 + [1.0] + [None] * 4 + [0.5]), bars, TradingRules())

    assert account.start == bars.open_time[10]
    assert account.close_time_T.tolist() == bars.close_time[10:16].tolist()


def test_small_changes_are_left_alone():
    """0.5 to 0.52 is within the threshold; a way out and a change of side never are."""
    shares = [0.5, 0.52, 0.45, 0.6, 0.04, -0.03, 0.0]
    bars = bars_of([100.0] * 8, [100.0] * 8)
    account = simulate(orders(bars, shares), bars, TradingRules(fee_bps=0, slippage_bps=0, threshold=0.06))
    small = simulate(orders(bars, [0.05, 0.05]), bars, TradingRules(threshold=0.06))

    assert [fill.weight_after for fill in account.fills] == [0.5, 0.6, 0.04, -0.03, 0.0]
    assert small.fills == ()


def test_a_share_that_drifts_is_brought_back():
    """Half in a price that triples is three quarters: back to half, once it is worth it."""
    bars = bars_of([100.0, 100.0, 300.0], [100.0, 300.0, 300.0])
    account = simulate(orders(bars, [0.5, 0.5]), bars, FREE)

    assert account.fills[1].weight_before == pytest.approx(0.75)
    assert account.fills[1].notional == pytest.approx(5_000)


def test_a_fill_says_that_it_waited():
    bars = make_bars(count=12)
    there = bars[np.delete(np.arange(12), [5, 6])]
    found = run_backtest(Planned(1.0), forecasts_of(bars, 0, [4]), there, TradingRules())

    assert [(fill.open_time, fill.missing_bars) for fill in found.account.fills] == [(bars.open_time[7], 2)]
    assert found.account.fills[0].decided_at == bars.close_time[4]
    assert found.account.fills[0].reason == "plan 1"


@pytest.mark.parametrize("latency", [0, 4000, 2 * HOUR_MS])
def test_the_open_that_is_paid_is_that_of_the_fill(latency):
    bars = make_bars(count=30)
    found = run_backtest(Planned(1.0), forecasts_of(bars, latency, [10]), bars, FREE)
    place = {0: 11, 4000: 12, 2 * HOUR_MS: 13}[latency]

    assert found.account.fills[0].price == bars.ohlcv_TF[place, 0]
    assert found.account.equity_T[0] == pytest.approx(10_000 * bars.close[place] / bars.ohlcv_TF[place, 0])


def test_a_short_that_loses_everything_is_closed():
    """100 units short at 100: at 250 more is owed than there is. Nothing comes back when the price does."""
    bars = bars_of([100.0, 100.0, 150.0, 250.0, 100.0, 50.0], [100.0, 150.0, 250.0, 100.0, 50.0, 50.0])
    account = simulate(orders(bars, [-1.0, None, None, -1.0, -1.0]), bars, FREE)

    assert account.equity_T.tolist() == [5_000, 0, 0, 0, 0]
    assert account.ruined_at == bars.close_time[2]
    assert len(account.fills) == 1
    assert account.profits == (-10_000,)


def test_everything_may_be_lost_overnight():
    """At the open of a fill nothing is left, though the close before looked well."""
    bars = bars_of([100.0, 100.0, 250.0, 90.0], [100.0, 100.0, 90.0, 90.0])
    account = simulate(orders(bars, [-1.0, -1.0, 1.0]), bars, FREE)

    assert account.equity_T.tolist() == [10_000, 0, 0]
    assert len(account.fills) == 1


def test_two_series_are_one_portfolio():
    """Each keeps its capital: before its first open it waits, after its last close it stays."""
    hours = make_bars(count=60)
    days = make_bars(make_key(symbol="ETH/USDT", timeframe="1d"), count=4, seed=3)
    accounts = [simulate(orders(one, [1.0, None, -0.5]), one, TradingRules()) for one in (hours, days)]
    whole = combine_accounts(accounts)
    expected = []
    for at in whole.close_time_T.tolist():
        marks = [[10_000, *one.equity_T[one.close_time_T <= at].tolist()][-1] for one in accounts]
        expected.append(sum(marks))

    assert whole.close_time_T.tolist() == sorted({*accounts[0].close_time_T, *accounts[1].close_time_T})
    np.testing.assert_allclose(whole.equity_T, expected, rtol=1e-12)
    assert (whole.capital, whole.start) == (20_000, accounts[0].start)
    assert whole.net_T[-1] == pytest.approx(accounts[0].net_T[-1] + accounts[1].net_T[-1])
    assert whole.gross_T[-1] == pytest.approx(accounts[0].gross_T[-1] + accounts[1].gross_T[-1])
    assert [fill.open_time for fill in whole.fills] == sorted(fill.open_time for one in accounts for fill in one.fills)
    assert sum(whole.profits) == pytest.approx(whole.equity_T[-1] - 20_000)


def test_nothing_to_fill():
    bars = make_bars(count=12)

    with pytest.raises(InvalidArgument, match="can fill"):
        run_backtest(Planned(1.0), forecasts_of(bars, 0, [11]), bars)
    with pytest.raises(InvalidArgument, match="can fill"):
        run_backtest(Planned(1.0), [], bars)


def test_the_same_again():
    bars = make_bars(count=300)
    one, other = (
        run_backtest(Planned(0.3, -1.0, 0.0, 0.7), forecasts_of(bars, 4000), bars, TradingRules(close_after=2))
        for _ in range(2)
    )

    assert one.decisions == other.decisions
    assert one.account.fills == other.account.fills
    assert np.array_equal(one.account.equity_T, other.account.equity_T)


def test_later_bars_do_not_change_what_was_there():
    """Poison behind the last fill's bar: the same account, to the last bit."""
    bars = make_bars(count=60)
    values = bars.ohlcv_TF.copy()
    values[31:] *= 1e6
    perturbed = Bars(bars.key, bars.open_time, values)
    one, other = (
        run_backtest(Planned(0.3, -1.0, 0.5), forecasts_of(bars, 0, range(30)), given, TradingRules())
        for given in (bars, perturbed)
    )

    assert np.array_equal(one.account.equity_T, other.account.equity_T)
    assert one.account.fills == other.account.fills


def test_twice_the_bars_are_twice_the_work():
    """Counted in calls of Python and of C, whatever the machine."""

    def calls(count):
        bars = make_bars(count=count)
        forecasts = forecasts_of(bars, count // 5)
        made = [0]

        def tell(*_):
            made[0] += 1

        sys.setprofile(tell)
        try:
            run_backtest(Planned(0.3, -1.0, 0.0, 0.7), forecasts, bars, TradingRules())
        finally:
            sys.setprofile(None)
        return made[0]

    few, many = calls(500), calls(1000)

    assert 1.5 * few < many < 2.2 * few
