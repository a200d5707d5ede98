"""The random walk and the filtered historical simulation: by hand, and honest about their doubt."""

from __future__ import annotations

import math

import numpy as np
import pytest

from forecaster.bars import FIELDS, Bars, Context
from forecaster.errors import ConfigError, InvalidContext
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.model.baselines.simple import FilteredHistoricalSimulation, RandomWalk, baseline
from tests.builders import make_bars, make_key, utc_ms

START = utc_ms("2024-01-01")
Z90 = 1.2815515655446004  # the 0.9 quantile of the standard normal distribution
MIDDLE = CHRONOS_LEVELS.index(0.5)

# Three bars whose closes rise by a tenth and fall by a tenth: open, high, low, close, volume.
TINY = [(100.0, 120.0, 80.0, 100.0, 1.0), (101.0, 115.0, 95.0, 110.0, 1.0), (108.0, 112.0, 90.0, 99.0, 1.0)]


def make_context(rows=TINY) -> Context:
    """A context of these bars, one an hour."""
    key = make_key()
    bars = Bars(key, key.sessions.next_opens(key.timeframe, START, len(rows)), rows)
    return Context.ending_at(bars, int(bars.close_time[-1]), len(rows), 1)


def context_of(bars: Bars) -> Context:
    return Context.ending_at(bars, int(bars.close_time[-1]), 10_000, 1)


def with_gaps(context: Context, at: list[int]) -> Context:
    """The same bars, with slots without a bar before these positions."""
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
    """Around the last close, with the doubt of gaps between close and open."""
    _, own = mean_and_variance(math.log(101 / 100), math.log(108 / 110))

    forecast = walk(make_context(), 1)

    assert forecast.raw_FHQ[0, 0, MIDDLE] == 99.0
    assert forecast.raw_FHQ[0, 0, 2] == pytest.approx(99 * math.exp(-Z90 * math.sqrt(own)), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_median_of_the_close_is_the_last_close(seed):
    """Exactly, at every step: that is what a random walk says."""
    context = context_of(make_bars(count=60, seed=seed))

    assert walk(context, 12).median().tolist() == [context.last_close] * 12


def test_doubt_grows_with_the_root_of_time():
    forecast = walk(context_of(make_bars(count=60)), 16)

    lower, upper = forecast.interval(0.8)
    spread = np.log(upper / lower)

    np.testing.assert_allclose(spread / spread[0], np.sqrt(np.arange(1, 17)), rtol=1e-9)


def test_its_intervals_hold_what_they_say():
    """Over 400 true random walks the 80 % interval of the fifth step holds four outcomes of five."""
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, 205)))
        context = Context(make_key(), START, np.tile(close[:200], (4, 1)))
        lower, upper = walk(context, 5).interval(0.8)
        inside += bool(lower[4] <= close[204] <= upper[4])

    assert 0.75 < inside / 400 < 0.85


def test_slots_without_a_bar_are_passed_over():
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
def test_a_horizon_of_nothing_is_refused(horizon):
    with pytest.raises(InvalidContext, match="horizon: expected 1 or more"):
        walk(make_context(), horizon)


def test_prices_that_never_move_leave_no_doubt():
    """And no division by zero."""
    flat = walk(make_context([(5.0, 5.0, 5.0, 5.0, 0.0)] * 4))

    assert (flat.values_FHQ == 5.0).all()


def test_a_forecast_does_not_depend_on_its_neighbours():
    contexts = [context_of(make_bars(count=40, seed=seed)) for seed in range(3)]

    together = RandomWalk().predict(contexts, 3)

    assert [one.raw_FHQ.tobytes() for one in together] == [walk(context).raw_FHQ.tobytes() for context in contexts]


def test_walks_of_all_lengths_at_once():
    """With and without gaps, each bit by bit as if it were alone, and in the order of the contexts."""
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


def test_no_contexts_are_no_forecasts():
    assert RandomWalk().predict([], 3) == []


def test_a_forecast_says_what_it_is_of_and_who_made_it():
    context = make_context()

    forecast = walk(context)

    assert (forecast.key, forecast.cutoff, forecast.horizon) == (context.key, context.cutoff, 3)
    assert forecast.quantile_levels == CHRONOS_LEVELS
    assert forecast.provenance.ledger_id == "random_walk@1"
    assert forecast.provenance.input_sha256 == context.sha256
    assert forecast.issued_at is None


def simulate(context: Context, horizon: int = 3):
    (forecast,) = FilteredHistoricalSimulation().predict([context], horizon)
    return forecast


def slow_simulation(context: Context, horizon: int) -> np.ndarray:
    """Quantiles (F, H, Q) as the docstring tells them: every bar and every age in a loop, NumPy's own quantile."""
    bars = [tuple(slot) for slot in context.ohlc_CT.T.tolist()][-500:]
    ranges, sigma = [], []
    for _, high, low, close in bars:
        if not math.isnan(close):
            ranges.append(math.log(high / low) ** 2 / (4 * math.log(2)))
        weights = [0.94**age for age in range(len(ranges))]
        sigma.append(math.sqrt(sum(w * r for w, r in zip(weights, reversed(ranges), strict=True)) / sum(weights)))
    values = np.empty((4, horizon, len(CHRONOS_LEVELS)))
    for f in range(4):
        for h in range(1, horizon + 1):
            ends = [(t, bars[t][3], bars[t + h][f]) for t in range(len(bars) - h)]
            moves = [
                math.log(then / close) / sigma[t] * sigma[-1]
                for t, close, then in ends
                if not math.isnan(close) and not math.isnan(then)
            ]
            values[f, h - 1] = context.last_close * np.exp(np.quantile(moves, CHRONOS_LEVELS))
    return values


def steady_context(moves: np.ndarray, spread: float | np.ndarray = 0.01) -> Context:
    """Closes that move by these logarithms from 100 on; each bar reaches as far above its close as below."""
    close = 100 * np.exp(np.concatenate([[0.0], np.cumsum(moves)]))
    return Context(make_key(), START, np.array([close, close * np.exp(spread), close * np.exp(-spread), close]))


@pytest.mark.parametrize("seed", range(3))
def test_the_simulation_agrees_with_a_slow_one(seed):
    context = context_of(make_bars(count=150, seed=seed))

    np.testing.assert_allclose(simulate(context, 6).raw_FHQ, slow_simulation(context, 6), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_simulation_with_gaps_agrees_with_a_slow_one(seed):
    """A move needs both its ends, over slots and not over bars; volatility carries on."""
    at = np.random.default_rng(seed).integers(1, 150, 20).tolist()
    context = with_gaps(context_of(make_bars(count=150, seed=seed)), at)

    np.testing.assert_allclose(simulate(context, 6).raw_FHQ, slow_simulation(context, 6), rtol=1e-12)


def test_the_simulation_by_hand():
    """Under a steady volatility the quantiles are those of past moves: one each from -5 % to 5 % by a tenth."""
    moves = np.random.default_rng(0).permutation(np.arange(-50, 51)) / 1000
    context = steady_context(moves)

    close_Q = simulate(context, 1).raw_FHQ[3, 0]

    expected_Q = [context.last_close * math.exp((100 * level - 50) / 1000) for level in CHRONOS_LEVELS]
    np.testing.assert_allclose(close_Q, expected_Q, rtol=1e-12)


def test_past_moves_are_stretched_to_the_volatility_of_now():
    """Ranges that double double what calm days moved: one step holds 2 %, not the 1 % that most moves were."""
    moves = np.where(np.arange(450) % 2, 0.01, -0.01)
    calm = np.arange(451) < 350
    moves[~calm[:-1]] *= 2

    upper = simulate(steady_context(moves, np.where(calm, 0.005, 0.01)), 1).quantile("close", 0.9)

    assert upper[0] == pytest.approx(simulate(steady_context(2 * moves[:350]), 1).quantile("close", 0.9)[0], rel=0.1)
    assert math.log(upper[0] / steady_context(moves).last_close) == pytest.approx(0.02, rel=0.02)


def test_recent_ranges_weigh_more():
    """One wide bar at the end stretches moves by the root of what it adds: 6 % of the weight, nine times the square."""
    spread = np.full(400, 0.01)
    spread[-1] = 0.03
    moves = np.random.default_rng(2).normal(0, 0.01, 399)
    steady = simulate(steady_context(moves), 1).raw_FHQ[3] / steady_context(moves).last_close

    wide = simulate(steady_context(moves, spread), 1).raw_FHQ[3] / steady_context(moves).last_close

    np.testing.assert_allclose(np.log(wide), math.sqrt(0.94 + 0.06 * 9) * np.log(steady), rtol=1e-6)


def test_the_unit_of_prices_does_not_matter_to_the_simulation():
    context = context_of(make_bars(count=80))
    scaled = Context(context.key, context.cutoff, context.ohlc_CT * 1e-4)

    np.testing.assert_allclose(simulate(scaled).raw_FHQ, simulate(context).raw_FHQ * 1e-4, rtol=1e-10)


def test_the_simulation_uses_500_slots():
    """What lies before them changes nothing, not even the last bit; the first of them does count."""
    long = context_of(make_bars(count=520))
    last_500 = Context(long.key, long.cutoff, long.ohlc_CT[:, -500:])
    last_499 = Context(long.key, long.cutoff, long.ohlc_CT[:, -499:])

    assert simulate(long).raw_FHQ.tobytes() == simulate(last_500).raw_FHQ.tobytes()
    assert simulate(long).raw_FHQ.tobytes() != simulate(last_499).raw_FHQ.tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_the_simulation_needs_no_repair(seed):
    """Each past bar's high was above its open and close, and quantiles keep that order to the last bit."""
    assert simulate(context_of(make_bars(count=200, seed=seed)), 12).repairs == 0


def test_the_simulations_intervals_hold_what_they_say():
    """Though volatility swings threefold, the 80 % interval of the third step holds four outcomes of five."""
    random = np.random.default_rng(5)
    inside = 0
    for phase in range(300):
        sigma = 0.01 * np.exp(np.sin(np.arange(403) / 60 + phase))
        path = np.cumsum(sigma[:, None] / 5 * random.normal(size=(403, 25)), axis=1)
        path += np.concatenate([[0.0], np.cumsum(path[:-1, -1])])[:, None]
        ohlc_CT = 100 * np.exp([path[:, 0], path.max(axis=1), path.min(axis=1), path[:, -1]])
        lower, upper = simulate(Context(make_key(), START, ohlc_CT[:, :400])).interval(0.8)
        inside += bool(lower[2] <= ohlc_CT[3, 402] <= upper[2])

    assert 0.74 < inside / 300 < 0.86


@pytest.mark.parametrize(("count", "horizon", "found"), [(30, 1, 29), (37, 8, 29), (20, 40, 0)])
def test_fewer_than_30_moves_are_refused(count, horizon, found):
    with pytest.raises(InvalidContext, match=f"expected 30 moves or more over .* bars, found {found}"):
        simulate(context_of(make_bars(count=count)), horizon)


def test_30_moves_will_do():
    assert simulate(context_of(make_bars(count=38)), 8).horizon == 8


def test_moves_that_gaps_took_do_not_count():
    """Bars in every other slot are never one slot apart."""
    context = with_gaps(context_of(make_bars(count=60)), list(range(1, 60)))

    with pytest.raises(InvalidContext, match="expected 30 moves or more over 1 bars, found 0"):
        simulate(context)


def test_the_simulation_refuses_a_horizon_of_nothing():
    with pytest.raises(InvalidContext, match="horizon: expected 1 or more"):
        simulate(context_of(make_bars(count=60)), 0)


def test_the_simulation_of_prices_that_never_move_leaves_no_doubt():
    assert (simulate(Context(make_key(), START, np.full((4, 60), 5.0))).values_FHQ == 5.0).all()


def test_bars_without_a_range_are_not_stretched():
    """No bar says how volatile it was, so past moves stand as they are."""
    moves = np.random.default_rng(0).permutation(np.arange(-50, 51)) / 1000
    flat, wide = steady_context(moves, 0.0), steady_context(moves, 0.01)

    np.testing.assert_allclose(simulate(flat).raw_FHQ[3], simulate(wide).raw_FHQ[3], rtol=1e-12)


def test_no_move_is_stretched_more_than_tenfold():
    """The first bars have no range, so the volatility then was 0; a move of 0.1 % becomes one of 1 %."""
    spread = np.where(np.arange(101) < 50, 0.0, 0.01)
    moves = np.where(np.arange(100) < 49, 0.001, 0.0)

    upper = simulate(steady_context(moves, spread), 1).quantile("close", 0.95)

    assert upper[0] == pytest.approx(steady_context(moves).last_close * math.exp(0.01), rel=1e-12)


def test_a_simulation_says_what_it_is_of_and_who_made_it():
    context = context_of(make_bars(count=60))

    forecast = simulate(context)

    assert (forecast.key, forecast.cutoff, forecast.horizon) == (context.key, context.cutoff, 3)
    assert forecast.quantile_levels == CHRONOS_LEVELS
    assert forecast.provenance.ledger_id == "filtered_historical_simulation@1"
    assert forecast.provenance.input_sha256 == context.sha256


@pytest.mark.parametrize("name", ["random_walk", "filtered_historical_simulation"])
def test_a_baseline_is_made_by_its_name(name):
    made = baseline(name)

    assert made.name == name
    assert made.engine == "numpy"
    assert made.engine_reason


def test_an_unknown_name_is_refused_with_those_known():
    known = "random_walk, filtered_historical_simulation, garch, har_range"
    with pytest.raises(ConfigError, match=rf"model\.baselines: expected any of {known}, found 'theta'"):
        baseline("theta")


NUMBERS = {
    "random_walk@1": [40615.21, 40365.2138, 40615.21, 40472.3315, 40284.5132, 40155.1797, 40365.2138, 40262.1133],
    "filtered_historical_simulation@1": [
        *(40615.21, 40376.212, 40634.3004, 40453.915, 40273.4387, 40189.3945, 40377.2608, 40265.2492),
    ],
    "garch@1": [40615.21, 40366.1272, 40634.4454, 40481.4968, 40257.7377, 40152.7169, 40366.1272, 40265.9821],
    "har_range@1": [40615.21, 40360.4162, 40635.0454, 40443.709, 40256.2303, 40150.2994, 40359.7704, 40240.3431],
}
"""The 0.1 quantiles of open, high, low and close, of two steps each, of bars that are always the same."""


@pytest.mark.parametrize("name", ["random_walk", "filtered_historical_simulation", "garch", "har_range"])
def test_a_version_of_a_baseline_always_forecasts_the_same(name):
    """Where this fails, the arithmetic has changed: raise `version`, and add its numbers. It is another model."""
    made = baseline(name)
    (forecast,) = made.predict([context_of(make_bars(count=200))], 2)

    found = np.concatenate([forecast.quantile(field, 0.1) for field in FIELDS])

    assert forecast.provenance.ledger_id == made.id == f"{name}@{made.version}"
    np.testing.assert_allclose(found, NUMBERS[made.id], rtol=1e-5)
