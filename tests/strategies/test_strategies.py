"""What holds for every strategy: shares within limits, no look at the price's scale, and nothing made of nothing."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.forecast import CHRONOS_LEVELS
from strategies.base import Position, StrategyContext, clip_weight, probability_above, return_deviation
from strategies.buy_and_hold import buy_and_hold
from strategies.interval_reversion import interval_reversion
from strategies.quantile_breakout import quantile_breakout
from strategies.trend import annual_volatility, trend
from tests.builders import make_key
from tests.forecast_builders import TENS, make_forecast

ALL = [buy_and_hold, interval_reversion, quantile_breakout, trend]
Z_Q = np.array([NormalDist().inv_cdf(level) for level in CHRONOS_LEVELS])
DAY = 1 / 365.25


def normal(centre=100.0, deviation=2.0, horizon=4, key=None, levels=CHRONOS_LEVELS):
    """A forecast whose closes are normal at every step; highs and lows around them."""
    z_Q = np.array([NormalDist().inv_cdf(level) for level in levels])
    close_HQ = np.broadcast_to(centre + deviation * z_Q, (horizon, len(levels)))
    values_FHQ = np.stack([close_HQ, close_HQ + 1, close_HQ - 1, close_HQ])
    return replace(make_forecast(key, horizon=horizon, levels=levels), raw_FHQ=values_FHQ, values_FHQ=values_FHQ)


def asked(strategy, forecast, last_close=100.0, held=0.0, **chosen):
    return strategy(forecast, Position(held, None), StrategyContext(last_close), **chosen)


@pytest.mark.parametrize("strategy", ALL)
@settings(deadline=None, max_examples=25)
@given(
    move=st.floats(-0.5, 0.5), spread=st.floats(0, 0.4), held=st.floats(-1, 1), scale=st.sampled_from([1e-8, 1.0, 1e8])
)
def test_share_is_in_range_and_knows_no_scale(strategy, move, spread, held, scale):
    """Prices a hundred million times as high are decided on alike; the same arguments give the same signal."""
    one = asked(strategy, normal(1 + move, spread), 1.0, held)
    other = asked(strategy, normal(1 + move, spread), 1.0, held)
    scaled = normal(1 + move, spread)
    values_FHQ = scaled.values_FHQ * scale
    far = asked(strategy, replace(scaled, raw_FHQ=values_FHQ, values_FHQ=values_FHQ), scale, held)

    assert one == other
    assert -1 <= one.weight <= 1
    assert far.weight == pytest.approx(one.weight, abs=1e-6)
    assert one.reason


@pytest.mark.parametrize("strategy", [interval_reversion, quantile_breakout, trend])
@pytest.mark.parametrize("held", [-1.0, 0.0, 1.0])
def test_a_higher_forecast_is_never_held_less(strategy, held):
    """With the same spread, the share rises with the probability of a higher close."""
    shares = [asked(strategy, normal(centre), held=held).weight for centre in np.linspace(90, 110, 41)]

    assert (np.diff(shares) >= -1e-12).all()
    assert shares[0] < 0 < shares[-1]


@pytest.mark.parametrize("strategy", [interval_reversion, quantile_breakout, trend])
@pytest.mark.parametrize("levels", [CHRONOS_LEVELS, TENS])
def test_up_is_the_mirror_of_down(strategy, levels):
    for move in (0.3, 0.5, 0.7, 1.1, 3.0):
        up, down = (asked(strategy, normal(100 + sign * move, levels=levels)) for sign in (1, -1))

        assert up.weight == pytest.approx(-down.weight, abs=1e-9)


@pytest.mark.parametrize("strategy", [interval_reversion, quantile_breakout, trend])
@pytest.mark.parametrize("levels", [CHRONOS_LEVELS, TENS])
def test_certainty_of_no_change_is_no_reason_to_trade(strategy, levels):
    """A forecast without any spread, at the last close: neither side is likelier, and nothing divides by 0."""
    assert asked(strategy, normal(100, 0.0, levels=levels)).weight == 0.0


@pytest.mark.parametrize("strategy", [interval_reversion, quantile_breakout, trend])
@pytest.mark.parametrize(("centre", "weight"), [(101.0, 1.0), (99.0, -1.0)])
def test_certainty_of_a_change_is_taken(strategy, centre, weight):
    assert asked(strategy, normal(centre, 0.0)).weight == weight


@settings(deadline=None, max_examples=30)
@given(level=st.floats(0.02, 0.98))
def test_chance_above_a_quantile(level):
    """Where the forecast does not heap, what `prob_above` says: 1 - level at the quantile of a level."""
    forecast = normal()
    quantile = float(forecast.quantile(level)[1])

    assert probability_above(forecast, quantile, 2) == pytest.approx(1 - level, abs=1e-9)
    assert probability_above(forecast, quantile, 2) == pytest.approx(forecast.prob_above(quantile, step=2), abs=1e-9)


def test_chance_above_a_heap_is_its_middle():
    """Levels 0.3 to 0.8 lie on one price: 0.2 lie above it, 0.7 not below."""
    levels = (0.1, 0.3, 0.5, 0.8, 0.9)
    close_HQ = np.array([[90.0, 100.0, 100.0, 100.0, 110.0]])
    values_FHQ = np.stack([close_HQ] * 4)
    forecast = replace(make_forecast(horizon=1, levels=levels), raw_FHQ=values_FHQ, values_FHQ=values_FHQ)

    assert probability_above(forecast, 100.0) == pytest.approx((0.2 + 0.7) / 2)


def test_deviation_of_a_normal_forecast():
    """2 on 100: nearly right, with 21 levels and with three."""
    assert return_deviation(normal(), 100.0, 3) / 0.02 == pytest.approx(1.003, abs=5e-4)
    assert return_deviation(normal(levels=TENS), 100.0, 3) / 0.02 == pytest.approx(0.993, abs=5e-4)
    assert return_deviation(normal(deviation=0.0), 100.0, 3) == 0.0


def test_deviation_against_a_loop():
    """Each quantile counts for the levels nearest to it."""
    forecast = make_forecast(levels=(0.1, 0.5, 0.8))
    values = forecast.values_FHQ[3, 1] / 40_000 - 1
    weights = (0.3, 0.35, 0.35)
    mean = sum(w * v for w, v in zip(weights, values, strict=True))
    square = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True))

    assert return_deviation(forecast, 40_000, 2) == pytest.approx(square**0.5)


@pytest.mark.parametrize(("weight", "near"), [(-3.0, -1.0), (-0.5, -0.5), (0.2, 0.2), (7.0, 1.0)])
def test_clipped(weight, near):
    assert clip_weight(weight) == near


@pytest.mark.parametrize(
    ("centre", "held", "weight"),
    [
        (100.6, 0.0, 1.0),  # the close lies at the 38 % quantile
        (100.4, 0.0, 0.0),  # at 42 %: low enough to keep, not to buy
        (100.4, 1.0, 1.0),
        (100.4, 0.5, 0.5),
        (100.2, 1.0, 0.0),  # at 46 %: calm
        (99.8, 1.0, 0.0),  # at 54 %: calm, on the other side
        (99.6, 1.0, 0.0),
        (99.4, 1.0, -1.0),  # at 62 %
        (99.6, -1.0, -1.0),
        (99.8, -1.0, 0.0),
        (100.4, -1.0, 0.0),
    ],
)
def test_reversion_goes_in_at_extremes_and_out_when_calm(centre, held, weight):
    assert asked(interval_reversion, normal(centre), held=held).weight == weight


def test_reversion_looks_at_the_last_step():
    forecast = normal(horizon=2)
    values_FHQ = forecast.values_FHQ.copy()
    values_FHQ[:, 1] += 3
    forecast = replace(forecast, raw_FHQ=values_FHQ, values_FHQ=values_FHQ)

    assert asked(interval_reversion, forecast).weight == 1.0
    assert "in 2 bars" in asked(interval_reversion, forecast).reason


def test_trend_is_the_smaller_the_wilder():
    """Lean times target over volatility, by hand: four days of 2 % are 19 % in a year, and an eighth more the lean."""
    key = make_key(timeframe="1d")
    forecast = normal(101, 2.0, key=key)
    bias = 2 * probability_above(forecast, 100.0, 4) - 1
    volatility = return_deviation(forecast, 100.0, 4) / (4 * DAY) ** 0.5

    assert annual_volatility(forecast, 100.0) == pytest.approx(volatility)
    assert asked(trend, forecast, target=0.1).weight == pytest.approx(bias * 0.1 / volatility)
    assert asked(trend, normal(102, 4.0, key=key), target=0.1).weight == pytest.approx(
        asked(trend, forecast, target=0.1).weight / 2, rel=1e-9
    )
    assert asked(trend, forecast, target=10.0).weight == 1.0


def test_trend_leaves_what_hardly_leans():
    assert asked(trend, normal(100.2)).weight == 0.0
    assert asked(trend, normal(100.4)).weight > 0.0
    assert asked(trend, normal(100.2), min_bias=0.0).weight > 0.0


def test_trend_takes_the_mean_of_all_steps():
    """Two steps up and two as far down: no lean."""
    forecast = normal()
    values_FHQ = forecast.values_FHQ + np.array([3.0, 3.0, -3.0, -3.0])[:, None]
    forecast = replace(forecast, raw_FHQ=values_FHQ, values_FHQ=values_FHQ)

    assert asked(trend, forecast, min_bias=0.0).weight == pytest.approx(0.0, abs=1e-12)


def test_a_year_of_a_stock_exchange_is_counted_by_the_clock():
    """From Thursday's close, four sessions end on the next Wednesday: six days."""
    forecast = normal(key=make_key("arch", "SPX/USD", "1d", "XNYS"))
    forecast = replace(
        forecast,
        cutoff=forecast.key.trading_calendar.closes_of(
            forecast.key.timeframe, forecast.key.trading_calendar.last_opens(forecast.key.timeframe, forecast.cutoff, 1)
        )[0],
    )

    assert annual_volatility(forecast, 100.0) == pytest.approx(return_deviation(forecast, 100.0, 4) / (6 * DAY) ** 0.5)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_holding(weight):
    assert asked(buy_and_hold, normal(50), held=-0.3, weight=weight).weight == weight
