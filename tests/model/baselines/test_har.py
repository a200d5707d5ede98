"""The autoregression of ranges: compared with statsmodels and slow loops, and calibrated on series of long memory.

Shapes: N series, T bars, C price fields, H steps.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.accuracy.metrics import covered, pinball
from forecaster.bars import FIELDS, Bars
from forecaster.context import Context
from forecaster.errors import InvalidArgument, InvalidContext
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.model.baselines import create_baseline
from forecaster.model.baselines.har import HarRange
from forecaster.model.baselines.random_walk import RandomWalk
from tests.builders import make_bars, make_key, utc_ms

START = utc_ms("2024-01-01")
LEVELS = np.array(CHRONOS_LEVELS)
UPPER = CHRONOS_LEVELS.index(0.9)


def simulated_prices(count: int, length: int, seed: int) -> np.ndarray:
    """Open, high, low and close (N, C, T): walks of 25 steps per bar, whose log volatility is the autoregression."""
    random = np.random.default_rng(seed)
    log_sigma = np.zeros((count, 22))
    for _ in range(length + 100):
        known = 0.35 * log_sigma[:, -1] + 0.35 * log_sigma[:, -5:].mean(axis=1) + 0.25 * log_sigma[:, -22:].mean(axis=1)
        log_sigma = np.column_stack([log_sigma, known + random.normal(0, 0.25, count)])
    sigma_NT = 0.01 * np.exp(log_sigma[:, -length:])
    path = np.cumsum(random.normal(size=(count, length, 25)) * sigma_NT[:, :, None] / 5, axis=2)
    before = np.concatenate([np.zeros((count, 1)), np.cumsum(path[:, :-1, -1], axis=1)], axis=1)
    inside = np.concatenate([before[:, :, None], path + before[:, :, None]], axis=2)
    reach = sigma_NT * random.exponential(0.3, (2, count, length))  # so that few highs are the close before
    high, low = inside.max(axis=2) + reach[0], inside.min(axis=2) - reach[1]
    return 100 * np.exp(np.stack([before, high, low, inside[:, :, -1]], axis=1))


def make_context(prices_CT: np.ndarray, symbol: str = "BTC/USDT") -> Context:
    return Context(make_key(symbol=symbol), START, np.asarray(prices_CT, np.float64))


def simulated_context(length: int, seed: int = 0) -> Context:
    return make_context(simulated_prices(1, length, seed)[0])


def with_gaps(context: Context, at: list[int]) -> Context:
    """The same bars, with slots without a bar inserted before these positions."""
    return make_context(np.insert(context.ohlc_CT, at, np.nan, axis=1))


def steady_context(moves: np.ndarray, reach: float | np.ndarray = 0.01) -> Context:
    """Closes with these log returns, from 100 on; each bar ranges as far above its close as below."""
    close = 100 * np.exp(np.concatenate([[0.0], np.cumsum(moves)]))
    return make_context([close, close * np.exp(reach), close * np.exp(-np.asarray(reach)), close])


def forecast(context: Context, horizon: int = 3):
    (made,) = HarRange().predict([context], horizon)
    return made


def slow_sigma(ranges: list[float], horizon: int) -> list[list[float]]:
    """Volatility expected after each bar, over 1 to `horizon` bars: a regression by statsmodels, iterated in a loop."""
    narrowest = 0.1 * np.median([one for one in ranges if one > 0])
    logs = [math.log(max(one, narrowest)) for one in ranges]
    early = [float(np.mean(logs[:22]))] * 21

    def known(past: list[float]) -> list[float]:
        return [1.0, past[-1], float(np.mean(past[-5:])), float(np.mean(past[-22:]))]

    rows = [known(logs[: t + 1]) for t in range(21, len(logs) - 1)]
    fitted = sm.OLS(logs[22:], np.array(rows)).fit().params
    size = sum(abs(fitted[1:]))
    if size > 0.999:
        fitted[1:] *= 0.999 / size
        fitted[0] = np.mean(logs[22:]) - fitted[1:] @ np.mean(rows, axis=0)[1:]
    found = []
    for t in range(len(logs)):
        past = early + logs[: t + 1]
        for _ in range(horizon):
            past.append(float(fitted @ known(past)))
        path = past[-horizon:]
        found.append([math.sqrt(sum(math.exp(2 * one) for one in path[: h + 1])) for h in range(horizon)])
    return found


def slow_forecast(context: Context, horizon: int) -> np.ndarray:
    """Quantiles (F, H, Q) as in the docstring, with NumPy's own quantile."""
    slots = [tuple(slot) for slot in context.ohlc_CT.T.tolist()][-500:]
    real = [i for i, slot in enumerate(slots) if not math.isnan(slot[3])]
    found = slow_sigma([math.log(slots[i][1] / slots[i][2]) for i in real], horizon)
    sigma = dict(zip(real, found, strict=True))
    values = np.empty((4, horizon, len(CHRONOS_LEVELS)))
    for f in range(4):
        for h in range(horizon):
            moves = [
                math.log(slots[i + h + 1][f] / slots[i][3]) * min(found[-1][h] / sigma[i][h], 10)
                for i in real
                if i + h + 1 in sigma
            ]
            values[f, h] = context.last_close * np.exp(np.quantile(moves, CHRONOS_LEVELS))
    return values


@pytest.mark.parametrize("length", [64, 200, 600])
def test_it_agrees_with_statsmodels_and_a_slow_loop(length):
    context = simulated_context(length, seed=length)

    np.testing.assert_allclose(forecast(context, 6).raw_FHQ, slow_forecast(context, 6), rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_with_gaps_it_agrees_with_a_slow_loop(seed):
    """The regression skips slots without a bar; a return needs both its ends, over slots."""
    at = np.random.default_rng(seed).integers(1, 200, 20).tolist()
    context = with_gaps(simulated_context(200, seed), at)

    np.testing.assert_allclose(forecast(context, 6).raw_FHQ, slow_forecast(context, 6), rtol=1e-9)


def test_with_bars_without_a_range_it_agrees_with_a_slow_loop():
    """They count as a tenth of the median range."""
    context = simulated_context(200, seed=3)
    flat = np.random.default_rng(3).integers(0, 199, 60)
    context.ohlc_CT[:3, flat] = context.ohlc_CT[3, flat]

    np.testing.assert_allclose(forecast(context, 6).raw_FHQ, slow_forecast(context, 6), rtol=1e-9)


def test_growing_ranges_do_not_explode():
    """The plain regression would explode; a slow loop that scales its weights down agrees."""
    random = np.random.default_rng(1)
    reach = 0.001 * np.exp(np.arange(200) / 50 + random.normal(0, 0.02, 200))
    context = steady_context(random.normal(0, 0.01, 199), reach)

    np.testing.assert_allclose(forecast(context, 30).raw_FHQ, slow_forecast(context, 30), rtol=1e-8)


def test_with_constant_ranges_returns_are_not_rescaled():
    """One each from -5 % to 5 % by a tenth: quantiles by hand."""
    moves = np.random.default_rng(0).permutation(np.arange(-50, 51)) / 1000
    context = steady_context(moves)

    close_Q = forecast(context, 1).raw_FHQ[3, 0]

    expected_Q = [context.last_close * math.exp((100 * level - 50) / 1000) for level in CHRONOS_LEVELS]
    np.testing.assert_allclose(close_Q, expected_Q, rtol=1e-9)


def test_wide_ranges_widen_the_forecast():
    """Less so further ahead, as the range reverts to its mean."""
    prices_CT = simulated_prices(1, 500, seed=4)[0]
    calm, wild = prices_CT.copy(), prices_CT.copy()
    calm[1:3, -5:] = calm[3, -5:] * np.exp([[0.004], [-0.004]])
    wild[1:3, -5:] = wild[3, -5:] * np.exp([[0.03], [-0.03]])

    lower, upper = (np.log(np.divide(*forecast(make_context(one), 20).interval(0.8)[::-1])) for one in (calm, wild))

    wider = upper / lower
    assert wider[0] > 1.8
    assert wider[19] < 0.8 * wider[0]


@pytest.fixture(scope="module")
def scored() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Coverage at 80 % and pinball loss by field and step (F, H), over 200 series of long memory."""
    prices_NCT = simulated_prices(200, 508, seed=21)
    contexts = [make_context(one[:, :500]) for one in prices_NCT]
    last_N = prices_NCT[:, 3, 499]
    actual_NFH = np.log(prices_NCT[:, :, 500:] / last_N[:, None, None])
    found = {}
    for model in (HarRange(), RandomWalk()):
        values_NFHQ = np.stack([made.raw_FHQ for made in model.predict(contexts, 8)])
        log_MQ = np.log(values_NFHQ / last_N[:, None, None, None]).reshape(-1, len(LEVELS))
        inside_M = covered(log_MQ[:, 2], log_MQ[:, UPPER], actual_NFH.reshape(-1))
        losses_M = pinball(log_MQ, LEVELS, actual_NFH.reshape(-1))
        found[model.name] = tuple(one.reshape(actual_NFH.shape).mean(axis=0) for one in (inside_M, losses_M))
    return found


@pytest.mark.parametrize("step", [1, 8])
@pytest.mark.parametrize("field", ["high", "low", "close"])
def test_intervals_are_calibrated(scored, field, step):
    """200 outcomes: two standard deviations of a true 80 % are six points, and returns over 8 bars are few."""
    inside_FH, _ = scored["har_range"]

    assert abs(inside_FH[FIELDS.index(field), step - 1] - 0.8) < 0.07


@pytest.mark.parametrize("step", [1, 8])
@pytest.mark.parametrize("field", ["high", "low"])
def test_it_beats_the_random_walk_where_ranges_have_memory(scored, field, step):
    (_, losses_FH), (_, of_walk_FH) = scored["har_range"], scored["random_walk"]
    case = FIELDS.index(field), step - 1

    assert losses_FH[case] < of_walk_FH[case]


def test_no_return_is_rescaled_more_than_tenfold():
    """The first bars have a hundredth of the range; their returns of 0.1 % become 1 %."""
    reach = np.where(np.arange(200) < 100, 0.0001, 0.01) * np.exp(np.random.default_rng(0).normal(0, 0.01, 200))
    moves = np.where(np.arange(199) < 99, 0.001, 0.0)

    made = forecast(steady_context(moves, reach), 1)

    assert math.log(made.quantile(0.95)[0] / steady_context(moves).last_close) == pytest.approx(0.01, rel=0.01)


def test_bars_without_a_range_are_not_rescaled():
    """No bar has a volatility, so past returns are not rescaled."""
    moves = np.random.default_rng(0).permutation(np.arange(-50, 51)) / 1000

    made = forecast(steady_context(moves, 0.0), 1)

    assert made.quantile(0.9)[0] == pytest.approx(steady_context(moves).last_close * math.exp(0.04), rel=1e-9)


def test_prices_that_never_move_leave_no_uncertainty():
    assert (forecast(make_context(np.full((4, 100), 5.0))).values_FHQ == 5.0).all()


def test_one_bar_with_a_range_is_enough():
    prices_CT = np.full((4, 100), 5.0)
    prices_CT[1, 40] = 5.1

    made = forecast(make_context(prices_CT))

    assert (made.median("high") == 5.0).all()


@pytest.mark.parametrize("at", [150, 199])
def test_a_jump_of_thirteen_digits_leaves_a_finite_forecast(at):
    moves = np.random.default_rng(0).normal(0, 0.01, 199)
    reach = np.full(200, 0.01)
    moves[at - 1] = reach[at] = 30.0

    assert np.isfinite(forecast(steady_context(moves, reach), 64).raw_FHQ).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-9, 0.001, -0.01, 0.02, -0.5, 3.0]), min_size=80, max_size=180),
    st.lists(st.sampled_from([0.0, 0.0, 1e-12, 0.01, 2.0]), min_size=7, max_size=7),
    st.lists(st.integers(0, 30), max_size=2),
)
def test_unusual_series_have_forecasts(moves, reaches, gaps):
    """For flat, jumping and gappy bars: the constructor of the forecast checks that it is finite and in order."""
    prices_CT = steady_context(np.array(moves), np.resize(reaches, len(moves) + 1)).ohlc_CT.copy()
    prices_CT[:, gaps] = np.nan

    assert forecast(make_context(prices_CT), 16).horizon == 16


@pytest.mark.parametrize("count", [51, 22, 1])
def test_fewer_than_52_bars_are_refused(count):
    with pytest.raises(InvalidContext, match=f"BTC/USDT 1h: expected 52 bars or more, found {count}"):
        forecast(simulated_context(count), 1)


def test_52_bars_are_enough():
    assert forecast(simulated_context(52), 22).horizon == 22


def test_slots_do_not_count_as_bars():
    with pytest.raises(InvalidContext, match="expected 52 bars or more, found 51"):
        forecast(with_gaps(simulated_context(51), [5, 6, 7]), 1)


@pytest.mark.parametrize(("count", "horizon", "found"), [(52, 23, 29), (64, 35, 29), (64, 64, 0)])
def test_fewer_than_30_returns_are_refused(count, horizon, found):
    with pytest.raises(InvalidContext, match=f"expected 30 returns or more over {horizon} bars, found {found}"):
        forecast(simulated_context(count), horizon)


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_below_1_is_refused(horizon):
    with pytest.raises(InvalidArgument, match="horizon: expected 1 or more"):
        forecast(simulated_context(64), horizon)


def test_no_contexts_give_no_forecasts():
    assert HarRange().predict([], 3) == []


@pytest.mark.parametrize("factor", [1e-6, 3.7, 1e6])
@pytest.mark.parametrize("seed", range(3))
def test_the_unit_of_prices_does_not_matter(seed, factor):
    context = make_context(simulated_prices(1, 300, seed)[0].round(2))
    scaled = make_context(context.ohlc_CT * factor)

    np.testing.assert_allclose(forecast(scaled, 64).raw_FHQ, forecast(context, 64).raw_FHQ * factor, rtol=1e-9)


def test_500_slots_are_used():
    """Earlier bars do not change the last bit; the first of the 500 does."""
    prices_CT = simulated_prices(1, 520, seed=5)[0]
    long, just, short = (make_context(prices_CT[:, -length:]) for length in (520, 500, 499))

    assert forecast(long).raw_FHQ.tobytes() == forecast(just).raw_FHQ.tobytes()
    assert forecast(long).raw_FHQ.tobytes() != forecast(short).raw_FHQ.tobytes()


def test_a_forecast_does_not_depend_on_its_neighbours():
    """Nor on their order."""
    contexts = [make_context(one, f"COIN{i}/USDT") for i, one in enumerate(simulated_prices(4, 300, seed=7))]

    together = HarRange().predict(contexts[::-1], 3)

    alone = [forecast(context).raw_FHQ.tobytes() for context in contexts]
    assert [made.raw_FHQ.tobytes() for made in together[::-1]] == alone


def test_bars_after_the_cutoff_change_nothing():
    bars = make_bars(count=300)
    later = np.where(np.arange(300)[:, None] >= 200, 2 * bars.ohlcv_TF, bars.ohlcv_TF)
    cutoff = int(bars.close_time[199])

    seen, changed = (Context.ending_at(one, cutoff, 512, 64) for one in (bars, Bars(bars.key, bars.open_time, later)))

    assert forecast(seen).raw_FHQ.tobytes() == forecast(changed).raw_FHQ.tobytes()


def test_a_longer_horizon_starts_with_the_same():
    context = simulated_context(300)

    np.testing.assert_allclose(forecast(context, 64).raw_FHQ[:, :5], forecast(context, 5).raw_FHQ, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_it_needs_no_repair(seed):
    """Each past bar's high was above its open and close, and one scale for all fields keeps that order."""
    assert forecast(simulated_context(200, seed), 12).repairs == 0


def test_provenance():
    context = simulated_context(100)

    made = forecast(context)

    assert (made.key, made.cutoff, made.horizon) == (context.key, context.cutoff, 3)
    assert made.quantile_levels == CHRONOS_LEVELS
    assert made.provenance.ledger_id == "har_range@1"
    assert made.provenance.input_sha256 == context.sha256
    assert made.provenance.library_versions == f"numpy {np.__version__}"


def test_it_is_created_by_its_name():
    made = create_baseline("har_range")

    assert (made.name, made.engine, made.engine_reason) == ("har_range", "numpy", "least squares on log ranges")
