"""The random walk: quantiles by hand, and how often its intervals contain the outcome."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecaster.bars import FIELDS, Bars
from forecaster.context import Context
from forecaster.errors import InvalidArgument, InvalidContext
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.model.baselines.random_walk import RandomWalk
from tests.builders import make_bars, make_key, utc_ms

START = utc_ms("2024-01-01")
Z90 = 1.2815515655446004  # the 0.9 quantile of the standard normal distribution
MIDDLE = CHRONOS_LEVELS.index(0.5)

# Three bars whose closes rise by a tenth and fall by a tenth: open, high, low, close, volume.
TINY = [(100.0, 120.0, 80.0, 100.0, 1.0), (101.0, 115.0, 95.0, 110.0, 1.0), (108.0, 112.0, 90.0, 99.0, 1.0)]


def make_context(rows=TINY) -> Context:
    """A context of these bars, one an hour."""
    key = make_key()
    bars = Bars(key, key.trading_calendar.next_opens(key.timeframe, START, len(rows)), rows)
    return Context.ending_at(bars, int(bars.close_time[-1]), len(rows), 1)


def context_of(bars: Bars) -> Context:
    return Context.ending_at(bars, int(bars.close_time[-1]), 10_000, 1)


def with_gaps(context: Context, at: list[int]) -> Context:
    """The same bars, with slots without a bar inserted before these positions."""
    return Context(context.key, context.cutoff, np.insert(context.ohlc_CT, at, np.nan, axis=1))


def walk(context: Context, horizon: int = 3):
    (forecast,) = RandomWalk().predict([context], horizon)
    return forecast


def mean_and_variance(*values: float) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / len(values)


def test_the_close_by_hand():
    """Log moves of a tenth up and down, a mean taken as 0, and the variance once per step."""
    _, variance = mean_and_variance(math.log(1.1), math.log(0.9))

    upper = walk(make_context(), 4).raw_FHQ[3, :, CHRONOS_LEVELS.index(0.9)]

    np.testing.assert_allclose(upper, [99 * math.exp(Z90 * math.sqrt(h * variance)) for h in (1, 2, 3, 4)], rtol=1e-12)


@pytest.mark.parametrize(
    ("field", "moves"),
    [("high", (115 / 100, 112 / 110)), ("low", (95 / 100, 90 / 110))],
    ids=["high", "low"],
)
def test_high_and_low_by_hand(field, moves):
    """They keep their mean distance from the close before; the steps between add the close's variance."""
    mean, own = mean_and_variance(*(math.log(move) for move in moves))
    _, of_close = mean_and_variance(math.log(1.1), math.log(0.9))
    f = FIELDS.index(field)

    raw_HQ = walk(make_context()).raw_FHQ[f]

    np.testing.assert_allclose(raw_HQ[:, MIDDLE], 99 * math.exp(mean), rtol=1e-12)
    np.testing.assert_allclose(
        raw_HQ[:, CHRONOS_LEVELS.index(0.9)],
        [99 * math.exp(mean + Z90 * math.sqrt(own + (h - 1) * of_close)) for h in (1, 2, 3)],
        rtol=1e-12,
    )


def test_the_open_by_hand():
    """Around the last close, with the variance of gaps between close and open."""
    _, own = mean_and_variance(math.log(101 / 100), math.log(108 / 110))

    forecast = walk(make_context(), 1)

    assert forecast.raw_FHQ[0, 0, MIDDLE] == 99.0
    assert forecast.raw_FHQ[0, 0, 2] == pytest.approx(99 * math.exp(-Z90 * math.sqrt(own)), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_median_of_the_close_is_the_last_close(seed):
    """Exactly, at every step: that is what a random walk says."""
    context = context_of(make_bars(count=60, seed=seed))

    assert walk(context, 12).median().tolist() == [context.last_close] * 12


def test_uncertainty_grows_with_the_root_of_time():
    forecast = walk(context_of(make_bars(count=60)), 16)

    lower, upper = forecast.interval(0.8)
    spread = np.log(upper / lower)

    np.testing.assert_allclose(spread / spread[0], np.sqrt(np.arange(1, 17)), rtol=1e-9)


def test_intervals_are_calibrated():
    """Over 400 true random walks the 80 % interval of the fifth step contains four outcomes of five."""
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, 205)))
        context = Context(make_key(), START, np.tile(close[:200], (4, 1)))
        lower, upper = walk(context, 5).interval(0.8)
        inside += bool(lower[4] <= close[204] <= upper[4])

    assert 0.75 < inside / 400 < 0.85


def test_slots_without_a_bar_are_skipped():
    """A move leads from one real bar to the next, whatever lies between."""
    context = context_of(make_bars(count=30))

    gappy = walk(with_gaps(context, [5, 5, 17]))

    assert gappy.raw_FHQ.tobytes() == walk(context).raw_FHQ.tobytes()


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_bars_are_refused(count):
    """Two moves are the fewest that have a variance."""
    with pytest.raises(InvalidContext, match=f"context of binance BTC/USDT 1h: expected 3 bars or more, found {count}"):
        walk(make_context(TINY[:count]))


def test_slots_do_not_count_as_bars():
    with pytest.raises(InvalidContext, match="found 2"):
        walk(with_gaps(make_context(TINY[:2]), [1, 1, 1, 1]))


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_below_1_is_refused(horizon):
    with pytest.raises(InvalidArgument, match="horizon: expected 1 or more"):
        walk(make_context(), horizon)


def test_prices_that_never_move_leave_no_uncertainty():
    """And no division by zero."""
    flat = walk(make_context([(5.0, 5.0, 5.0, 5.0, 0.0)] * 4))

    assert (flat.values_FHQ == 5.0).all()


def test_a_forecast_does_not_depend_on_its_neighbours():
    contexts = [context_of(make_bars(count=40, seed=seed)) for seed in range(3)]

    batch = RandomWalk().predict(contexts, 3)

    assert [forecast.raw_FHQ.tobytes() for forecast in batch] == [
        walk(context).raw_FHQ.tobytes() for context in contexts
    ]


def test_contexts_of_several_lengths():
    """With and without gaps, each bit for bit as in a batch of its own, and in the order of the contexts."""
    bars = [make_bars(count=count, seed=count) for count in (40, 60, 40, 50)]
    contexts = [with_gaps(context_of(one), [5, 20]) if i % 2 else context_of(one) for i, one in enumerate(bars)]

    for context, forecast in zip(contexts, RandomWalk().predict(contexts, 3), strict=True):
        assert forecast.cutoff == context.cutoff
        assert np.array_equal(forecast.raw_FHQ, walk(context).raw_FHQ)


def test_the_context_that_is_too_short_is_named():
    short = make_context(TINY[:2])
    named = Context(make_key(symbol="ETH/USDT"), short.cutoff, short.ohlc_CT)
    with pytest.raises(InvalidContext, match=r"ETH/USDT.*3 bars or more.*2"):
        RandomWalk().predict([make_context(), named], 3)


def test_no_contexts_give_no_forecasts():
    assert RandomWalk().predict([], 3) == []


def test_provenance():
    context = make_context()

    forecast = walk(context)

    assert (forecast.key, forecast.cutoff, forecast.horizon) == (context.key, context.cutoff, 3)
    assert forecast.quantile_levels == CHRONOS_LEVELS
    assert forecast.provenance.ledger_id == "random_walk@1"
    assert forecast.provenance.input_sha256 == context.sha256
    assert forecast.issued_at is None
