"""The filtered historical simulation: against a slow one, by hand, and how often its intervals contain the outcome."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from forecaster.context import Context
from forecaster.errors import InvalidArgument, InvalidContext
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.model.baselines.historical_simulation import FilteredHistoricalSimulation
from tests.builders import make_bars, make_key, utc_ms

if TYPE_CHECKING:
    from forecaster.bars import Bars

START = utc_ms("2024-01-01")


def context_of(bars: Bars) -> Context:
    return Context.ending_at(bars, int(bars.close_time[-1]), 10_000, 1)


def with_gaps(context: Context, at: list[int]) -> Context:
    """The same bars, with slots without a bar inserted before these positions."""
    return Context(context.key, context.cutoff, np.insert(context.ohlc_CT, at, np.nan, axis=1))


def simulate(context: Context, horizon: int = 3):
    (forecast,) = FilteredHistoricalSimulation().predict([context], horizon)
    return forecast


def slow_simulation(context: Context, horizon: int) -> np.ndarray:
    """Quantiles (F, H, Q) as in the docstring: every bar and every age in a loop, NumPy's own quantile."""
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
    """Closes with these log returns, from 100 on; each bar ranges as far above its close as below."""
    close = 100 * np.exp(np.concatenate([[0.0], np.cumsum(moves)]))
    return Context(make_key(), START, np.array([close, close * np.exp(spread), close * np.exp(-spread), close]))


@pytest.mark.parametrize("seed", range(3))
def test_the_simulation_agrees_with_a_slow_one(seed):
    context = context_of(make_bars(count=150, seed=seed))

    np.testing.assert_allclose(simulate(context, 6).raw_FHQ, slow_simulation(context, 6), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_simulation_with_gaps_agrees_with_a_slow_one(seed):
    """A return needs both its ends, over slots and not over bars; volatility carries on."""
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


def test_past_returns_are_rescaled_to_the_current_volatility():
    """Ranges that double double what calm days moved: one step holds 2 %, not the 1 % that most moves were."""
    moves = np.where(np.arange(450) % 2, 0.01, -0.01)
    calm = np.arange(451) < 350
    moves[~calm[:-1]] *= 2

    upper = simulate(steady_context(moves, np.where(calm, 0.005, 0.01)), 1).quantile(0.9)

    assert upper[0] == pytest.approx(simulate(steady_context(2 * moves[:350]), 1).quantile(0.9)[0], rel=0.1)
    assert math.log(upper[0] / steady_context(moves).last_close) == pytest.approx(0.02, rel=0.02)


def test_recent_ranges_weigh_more():
    """One wide bar at the end widens returns by the root of what it adds: 6 % of the weight, nine times the square."""
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
    """Earlier bars do not change the last bit; the first of the 500 does."""
    long = context_of(make_bars(count=520))
    last_500 = Context(long.key, long.cutoff, long.ohlc_CT[:, -500:])
    last_499 = Context(long.key, long.cutoff, long.ohlc_CT[:, -499:])

    assert simulate(long).raw_FHQ.tobytes() == simulate(last_500).raw_FHQ.tobytes()
    assert simulate(long).raw_FHQ.tobytes() != simulate(last_499).raw_FHQ.tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_the_simulation_needs_no_repair(seed):
    """Each past bar's high was above its open and close, and quantiles keep that order to the last bit."""
    assert simulate(context_of(make_bars(count=200, seed=seed)), 12).repairs == 0


def test_intervals_are_calibrated():
    """Though volatility swings threefold, the 80 % interval of the third step contains four outcomes of five."""
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
def test_fewer_than_30_returns_are_refused(count, horizon, found):
    with pytest.raises(InvalidContext, match=f"expected 30 returns or more over .* bars, found {found}"):
        simulate(context_of(make_bars(count=count)), horizon)


def test_30_returns_are_enough():
    assert simulate(context_of(make_bars(count=38)), 8).horizon == 8


def test_returns_with_a_missing_end_do_not_count():
    """Bars in every other slot are never one slot apart."""
    context = with_gaps(context_of(make_bars(count=60)), list(range(1, 60)))

    with pytest.raises(InvalidContext, match="expected 30 returns or more over 1 bars, found 0"):
        simulate(context)


def test_the_simulation_refuses_a_horizon_below_1():
    with pytest.raises(InvalidArgument, match="horizon: expected 1 or more"):
        simulate(context_of(make_bars(count=60)), 0)


def test_the_simulation_of_prices_that_never_move_leaves_no_uncertainty():
    assert (simulate(Context(make_key(), START, np.full((4, 60), 5.0))).values_FHQ == 5.0).all()


def test_bars_without_a_range_are_not_rescaled():
    """No bar has a volatility, so past returns are not rescaled."""
    moves = np.random.default_rng(0).permutation(np.arange(-50, 51)) / 1000
    flat, wide = steady_context(moves, 0.0), steady_context(moves, 0.01)

    np.testing.assert_allclose(simulate(flat).raw_FHQ[3], simulate(wide).raw_FHQ[3], rtol=1e-12)


def test_no_return_is_rescaled_more_than_tenfold():
    """The first bars have no range, so the volatility then was 0; a move of 0.1 % becomes one of 1 %."""
    spread = np.where(np.arange(101) < 50, 0.0, 0.01)
    moves = np.where(np.arange(100) < 49, 0.001, 0.0)

    upper = simulate(steady_context(moves, spread), 1).quantile(0.95)

    assert upper[0] == pytest.approx(steady_context(moves).last_close * math.exp(0.01), rel=1e-12)


def test_provenance():
    context = context_of(make_bars(count=60))

    forecast = simulate(context)

    assert (forecast.key, forecast.cutoff, forecast.horizon) == (context.key, context.cutoff, 3)
    assert forecast.quantile_levels == CHRONOS_LEVELS
    assert forecast.provenance.ledger_id == "filtered_historical_simulation@1"
    assert forecast.provenance.input_sha256 == context.sha256
