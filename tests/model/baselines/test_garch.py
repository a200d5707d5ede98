"""GARCH(1,1) with Student's t: compared with arch, SciPy and slow loops, and calibrated on simulated series.

Shapes: N series, T bars, C price fields, H steps.
"""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from zlib import crc32

import arch
import numpy as np
import pytest
import scipy.stats
from arch.univariate import GARCH, StudentsT, ZeroMean
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.accuracy.metrics import covered, pinball
from forecaster.bars import FIELDS, Bars
from forecaster.context import Context
from forecaster.errors import InvalidArgument, InvalidContext
from forecaster.forecast import CHRONOS_LEVELS
from forecaster.model.baselines import create_baseline
from forecaster.model.baselines.garch import Garch
from forecaster.model.baselines.random_walk import RandomWalk
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms

START = utc_ms("2024-01-01")
LEVELS = np.array(CHRONOS_LEVELS)
UPPER = CHRONOS_LEVELS.index(0.9)
OMEGA, ALPHA, BETA, FREEDOM = 2e-6, 0.12, 0.83, 5.0


def simulated_prices(count: int, length: int, seed: int) -> np.ndarray:
    """Open, high, low and close (N, C, T) of series simulated with the constants above."""
    random = np.random.default_rng(seed)
    shocks = scipy.stats.t.rvs(FREEDOM, size=(length, count), random_state=random) * math.sqrt(1 - 2 / FREEDOM)
    variance, close = np.full(count, OMEGA / (1 - ALPHA - BETA)), np.zeros(count)
    bars = []
    for shock in shocks:
        before, sigma = close, np.sqrt(variance)
        close = before + sigma * shock
        reach = sigma * random.exponential(0.4, (2, count))
        bars.append((before, np.maximum(before, close) + reach[0], np.minimum(before, close) - reach[1], close))
        variance = OMEGA + (ALPHA * shock**2 + BETA) * variance
    return 100 * np.exp(np.array(bars).transpose(2, 1, 0))


def make_context(prices_CT: np.ndarray, cutoff: int = START, symbol: str = "BTC/USDT") -> Context:
    return Context(make_key(symbol=symbol), cutoff, np.asarray(prices_CT, np.float64))


def moving_context(returns: np.ndarray, reach: float = 0.01) -> Context:
    """Closes with these log returns, from 100 on; each bar ranges as far above its close as below."""
    close = 100 * np.exp(np.concatenate([[0.0], np.cumsum(returns)]))
    return make_context([close, close * np.exp(reach), close * np.exp(-reach), close])


def forecast(context: Context, horizon: int = 3):
    (made,) = Garch().predict([context], horizon)
    return made


def reason(context: Context) -> str:
    return forecast(context).provenance.engine_reason


def log_close(context: Context, horizon: int) -> np.ndarray:
    """Quantiles of log(close / last close), (H, Q)."""
    return np.log(forecast(context, horizon).raw_FHQ[3] / context.last_close)


def settled_returns(context: Context) -> np.ndarray:
    """The estimation sample, bar by bar: whole blocks of 48 hours among the last 960."""
    close = context.ohlc_CT[3]
    hours = [context.cutoff // HOUR_MS - age for age in range(len(close), 0, -1)]
    stagger = crc32(str(context.key).encode()) % 48
    blocks = [(hour + stagger) // 48 for hour in hours]
    first, now = blocks[-960:][0], (context.cutoff // HOUR_MS + stagger) // 48
    ends = [i for i in range(len(close)) if first < blocks[i] < now]
    moves = np.array([math.log(close[i] / close[i - 1]) for i in ends])
    return moves[~np.isnan(moves)]


def parameters(context: Context) -> tuple[float, float, float, float]:
    """The parameters (omega, alpha, beta, degrees of freedom) as estimated by arch, in percent."""
    model = ZeroMean(100 * settled_returns(context), volatility=GARCH(1, 0, 1), distribution=StudentsT(), rescale=False)
    omega, alpha, beta, freedom = model.fit(disp="off").params
    return omega / 1e4, alpha, beta, freedom


def slow_variances(returns: np.ndarray, omega: float, alpha: float, beta: float) -> list[float]:
    """The variance of each return and of the next one, by the published recursion."""
    variances = [float(np.nanmean(returns**2))]
    for move in returns:
        expected = variances[-1] if math.isnan(move) else move**2
        variances.append(omega + alpha * expected + beta * variances[-1])
    return variances


@pytest.mark.parametrize("length", [300, 700, 1500])
def test_the_first_close_agrees_with_arch_and_scipy(length):
    """Parameters from whole blocks alone, the variance from all bars up to the cutoff, quantiles of Student's t."""
    context = make_context(simulated_prices(1, length, seed=length)[0])
    omega, alpha, beta, freedom = parameters(context)
    sigma = math.sqrt(slow_variances(np.diff(np.log(context.ohlc_CT[3, -960:])), omega, alpha, beta)[-1])

    expected = sigma * math.sqrt(1 - 2 / freedom) * scipy.stats.t.ppf(CHRONOS_LEVELS, freedom)

    np.testing.assert_allclose(log_close(context, 1)[0], expected, rtol=1e-2, atol=1e-9)


def test_parameters_come_from_the_past_of_the_block():
    """The reason names them, to three digits."""
    context = make_context(simulated_prices(1, 700, seed=4)[0])

    _, alpha, beta, freedom = parameters(context)

    assert reason(context) == f"stationary: alpha {alpha:.3f}, beta {beta:.3f}, t({freedom:.1f})"


def test_later_closes_agree_with_plain_simulation():
    """400,000 random draws from the recursion: a thousand even ones are within 6 %, and 10 % in the extreme tails."""
    context = make_context(simulated_prices(1, 900, seed=2)[0])
    omega, alpha, beta, freedom = parameters(context)
    random = np.random.default_rng(0)
    variance = np.full(200_000, slow_variances(np.diff(np.log(context.ohlc_CT[3])), omega, alpha, beta)[-1])
    close, expected = np.zeros(200_000), []
    for _ in range(24):
        shock = random.standard_t(freedom, 200_000) * math.sqrt(1 - 2 / freedom)
        close = close + np.sqrt(variance) * shock
        variance = omega + (alpha * shock**2 + beta) * variance
        expected.append(np.quantile(np.abs(close), [0.5, 0.6, 0.7, 0.8, 0.9, 0.98]))

    made_HQ = log_close(context, 24)[:, [15, 16, 17, 18, 19, 20]]

    np.testing.assert_allclose(made_HQ[:, :-1], np.array(expected)[:, :-1], rtol=0.06)
    np.testing.assert_allclose(made_HQ[:, -1], np.array(expected)[:, -1], rtol=0.1)


def test_open_high_and_low_keep_their_past_offsets():
    """Of the first step: quantiles of log(field / close before) / volatility then, times the volatility now."""
    context = make_context(simulated_prices(1, 700, seed=6)[0])
    omega, alpha, beta, _ = parameters(context)
    log_CT = np.log(context.ohlc_CT)
    sigma = np.sqrt(slow_variances(np.diff(log_CT[3]), omega, alpha, beta))
    distances = (log_CT[:3, 1:] - log_CT[3, :-1]) / sigma[:-1]

    made = np.log(forecast(context, 1).raw_FHQ[:3, 0] / context.last_close)

    expected = sigma[-1] * np.quantile(distances, CHRONOS_LEVELS, axis=1, method="hazen").T
    np.testing.assert_allclose(made, expected, rtol=2e-2, atol=1e-5)


def test_high_and_low_of_later_steps_start_from_the_close_before():
    """With constant offsets, the high of step h is the close of step h - 1 plus that offset."""
    random = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(np.where(random.permutation(400) % 2, 0.01, -0.01)))
    before = np.concatenate([[100.0], close[:-1]])
    context = make_context([before, before * math.exp(0.02), before * math.exp(-0.02), close])

    high_HQ, low_HQ, close_HQ = np.log(forecast(context, 6).raw_FHQ[1:] / context.last_close)

    np.testing.assert_allclose(high_HQ[1:, UPPER], close_HQ[:-1, UPPER] + 0.02, atol=2e-3)
    np.testing.assert_allclose(low_HQ[1:, 2], close_HQ[:-1, 2] - 0.02, atol=2e-3)


def test_the_median_of_the_close_is_the_last_close():
    """Exactly, at every step: no drift is estimated."""
    context = make_context(simulated_prices(1, 400, seed=1)[0])

    assert forecast(context, 12).median().tolist() == [context.last_close] * 12


def test_a_longer_horizon_starts_with_the_same():
    context = make_context(simulated_prices(1, 400, seed=1)[0])

    assert forecast(context, 64).raw_FHQ[:, :5].tobytes() == forecast(context, 5).raw_FHQ.tobytes()


@pytest.fixture(scope="module")
def scored() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Coverage at 80 % and pinball loss of the close at eight steps, over 100 series with known parameters."""
    prices_NCT = simulated_prices(100, 708, seed=11)
    contexts = [make_context(one[:, :700]) for one in prices_NCT]
    found = {}
    for model in (Garch(), RandomWalk()):
        log_NHQ = np.log([made.raw_FHQ[3] / made.median()[0] for made in model.predict(contexts, 8)])
        actual_NH = np.log(prices_NCT[:, 3, 700:] / prices_NCT[:, 3, 699:700])
        inside = [covered(log_NHQ[:, h, 2], log_NHQ[:, h, UPPER], actual_NH[:, h]).mean() for h in range(8)]
        losses = [pinball(log_NHQ[:, h], LEVELS, actual_NH[:, h]).mean() for h in range(8)]
        found[model.name] = (np.array(inside), np.array(losses))
    return found


@pytest.mark.parametrize("step", [1, 8])
def test_intervals_are_calibrated(scored, step):
    """100 outcomes: two standard deviations of a true 80 % are eight points, and parameters are estimated."""
    inside, _ = scored["garch"]

    assert abs(inside[step - 1] - 0.8) < 0.09


@pytest.mark.parametrize("step", [1, 8])
def test_it_beats_the_random_walk_where_volatility_clusters(scored, step):
    (_, losses), (_, of_walk) = scored["garch"], scored["random_walk"]

    assert losses[step - 1] < of_walk[step - 1]


def test_a_slot_without_a_bar_counts_as_its_expected_value():
    """Both returns of a gap are left out of the sample and of the recursion."""
    prices_CT = simulated_prices(1, 600, seed=8)[0]
    prices_CT[:, [3, 250, 251, 400, 597]] = np.nan
    context = make_context(prices_CT)
    omega, alpha, beta, freedom = parameters(context)
    sigma = math.sqrt(slow_variances(np.diff(np.log(context.ohlc_CT[3])), omega, alpha, beta)[-1])

    upper = log_close(context, 1)[0, UPPER]

    assert upper == pytest.approx(sigma * math.sqrt(1 - 2 / freedom) * scipy.stats.t.ppf(0.9, freedom), rel=1e-2)


def hourly_bars(length: int, seed: int = 5) -> Bars:
    key = make_key()
    prices_CT = simulated_prices(1, length, seed)[0]
    opens = key.trading_calendar.next_opens(key.timeframe, START, length)
    return Bars(key, opens, np.column_stack([prices_CT.T, np.ones(length)]))


def contexts_of(bars: Bars, cutoffs: np.ndarray, length: int = 512) -> list[Context]:
    return [Context.ending_at(bars, int(cutoff), length, 64) for cutoff in cutoffs]


@pytest.mark.parametrize(("length", "estimates"), [(256, 5), (512, 5), (8192, 3)])
def test_parameters_change_only_with_the_blocks(length, estimates):
    """96 consecutive cutoffs include the ends of two blocks and, with a limited context, two starts."""
    bars = hourly_bars(1200)

    reasons = [
        made.provenance.engine_reason for made in Garch().predict(contexts_of(bars, bars.close_time[-96:], length), 1)
    ]

    changes = [i for i in range(1, 96) if reasons[i] != reasons[i - 1]]
    assert 2 <= len(changes) < estimates
    assert len({i % 48 for i in changes}) <= 2


def test_blocks_of_different_series_end_at_different_times():
    """So that estimates are spread over cycles: of 16 series, fewer than 4 in any of 48."""
    bars = hourly_bars(560)
    change_at = []
    for number in range(16):
        renamed = Bars(make_key(symbol=f"COIN{number}/USDT"), bars.open_time, bars.ohlcv_TF)
        made = Garch().predict(contexts_of(renamed, bars.close_time[-48:], 8192), 1)
        reasons = [one.provenance.engine_reason for one in made]
        change_at += [i for i in range(1, 48) if reasons[i] != reasons[i - 1]]

    assert len(change_at) > 10
    assert max(np.bincount(change_at)) < 4


def test_a_forecast_does_not_depend_on_those_before_it():
    """A model used at every cutoff, in either direction, equals a new one to the last bit."""
    bars = hourly_bars(700)
    contexts = contexts_of(bars, bars.close_time[-60::6])
    alone = [forecast(context).raw_FHQ.tobytes() for context in contexts]
    model = Garch()

    forwards = [made.raw_FHQ.tobytes() for made in model.predict(contexts, 3)]
    backwards = [made.raw_FHQ.tobytes() for made in model.predict(contexts[::-1], 3)]

    assert forwards == alone
    assert backwards[::-1] == alone


def test_estimates_of_other_bars_are_not_used():
    """The same series at the same cutoff, with its prices revised."""
    context, other = (make_context(one) for one in simulated_prices(2, 400, seed=3))
    model = Garch()
    model.predict([other], 3)

    (made,) = model.predict([context], 3)

    assert made.raw_FHQ.tobytes() == forecast(context).raw_FHQ.tobytes()


def test_bars_after_the_cutoff_change_nothing():
    bars = hourly_bars(700)
    later = np.where(np.arange(700)[:, None] >= 600, 2 * bars.ohlcv_TF, bars.ohlcv_TF)
    cutoff = int(bars.close_time[599])

    seen, changed = (Context.ending_at(one, cutoff, 512, 64) for one in (bars, Bars(bars.key, bars.open_time, later)))

    assert forecast(seen).raw_FHQ.tobytes() == forecast(changed).raw_FHQ.tobytes()


def test_a_forecast_does_not_depend_on_its_neighbours():
    """Nor on their order."""
    prices_NCT = simulated_prices(4, 300, seed=7)
    contexts = [make_context(one, symbol=f"COIN{i}/USDT") for i, one in enumerate(prices_NCT)]
    alone = [forecast(context).raw_FHQ.tobytes() for context in contexts]

    together = Garch().predict(contexts[::-1], 3)

    assert [made.raw_FHQ.tobytes() for made in together[::-1]] == alone


def test_threads_may_share_a_model():
    prices_NCT = simulated_prices(6, 300, seed=9)
    contexts = [make_context(one, symbol=f"COIN{i % 3}/USDT") for i, one in enumerate(prices_NCT)]
    alone = [forecast(context).raw_FHQ.tobytes() for context in contexts]
    model = Garch()

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda context: model.predict([context], 3)[0].raw_FHQ.tobytes(), contexts * 4))

    assert made == alone * 4


def test_the_search_restores_warning_filters():
    """The library arch changes those of the process."""
    filters = list(warnings.filters)

    forecast(make_context(simulated_prices(1, 300, seed=7)[0]))

    assert warnings.filters == filters


@pytest.mark.parametrize(("seed", "factor"), [(0, 1e-6), (1, 3.7), (2, 1e6)])
def test_the_unit_of_prices_does_not_matter(seed, factor):
    """Rounding changes the last bits of every return; the result of the search must not change."""
    context = make_context(simulated_prices(1, 500, seed)[0].round(2))
    scaled = make_context(context.ohlc_CT * factor)

    np.testing.assert_allclose(forecast(scaled, 8).raw_FHQ, forecast(context, 8).raw_FHQ * factor, rtol=1e-9)


def test_960_slots_are_used():
    """Earlier bars do not change the last bit."""
    prices_CT = simulated_prices(1, 1100, seed=5)[0]
    long, just, short = (make_context(prices_CT[:, -length:]) for length in (1100, 960, 800))

    assert forecast(long).raw_FHQ.tobytes() == forecast(just).raw_FHQ.tobytes()
    assert forecast(long).raw_FHQ.tobytes() != forecast(short).raw_FHQ.tobytes()


def test_bars_of_a_stock_exchange():
    """Blocks are spans of time, with as many bars as the sessions have."""
    key = make_key("file", "AAPL/USD", "1h", "XNYS")
    bars = make_bars(key, count=600, start=START)

    made = forecast(Context.ending_at(bars, int(bars.close_time[-1]), 512, 64))

    assert made.engine == "arch"


@pytest.mark.parametrize("count", [31, 64, 100])
def test_few_returns_are_smoothed(count):
    """Below 100, the variance is RiskMetrics' and the shocks t(5): too few to estimate four parameters."""
    returns = np.random.default_rng(0).normal(0, 0.01, count - 1)
    context = moving_context(returns)
    sigma = math.sqrt(slow_variances(returns, 0.0, 0.06, 0.94)[-1])

    upper = log_close(context, 1)[0, UPPER]

    assert upper == pytest.approx(sigma * math.sqrt(0.6) * scipy.stats.t.ppf(0.9, 5), rel=1e-3)
    assert forecast(context).engine == "numpy"
    assert reason(context) == "fewer than 100 returns: variance smoothed by 0.94, t(5)"


def test_100_returns_are_estimated():
    context = moving_context(np.diff(np.log(simulated_prices(1, 101, seed=1)[0, 3])))

    assert forecast(context).engine == "arch"


@pytest.mark.parametrize(("count", "found"), [(30, 29), (1, 0), (2, 1)])
def test_fewer_than_30_returns_are_refused(count, found):
    with pytest.raises(InvalidContext, match=f"BTC/USDT 1h: expected 30 returns or more, found {found}"):
        forecast(moving_context(np.full(count - 1, 0.01)))


def test_30_returns_are_enough_at_any_horizon():
    assert forecast(moving_context(np.random.default_rng(0).normal(0, 0.01, 30)), 64).horizon == 64


def test_returns_with_a_missing_end_do_not_count():
    """Bars in every other slot are never one slot apart."""
    prices_CT = simulated_prices(1, 400, seed=1)[0]
    prices_CT[:, ::2] = np.nan

    with pytest.raises(InvalidContext, match="expected 30 returns or more, found 0"):
        forecast(make_context(prices_CT))


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_below_1_is_refused(horizon):
    with pytest.raises(InvalidArgument, match="horizon: expected 1 or more"):
        forecast(moving_context(np.zeros(50)), horizon)


def test_no_contexts_give_no_forecasts():
    assert Garch().predict([], 3) == []


def test_prices_that_never_move_leave_no_uncertainty():
    made = forecast(make_context(np.full((4, 300), 5.0)))

    assert (made.values_FHQ == 5.0).all()
    assert made.provenance.engine_reason == "all closes are equal"


def test_constant_closes_still_have_ranges():
    """High and low repeat their past offsets, and the close is constant."""
    close = np.full(200, 100.0)
    reach = np.linspace(0.01, 0.02, 200)
    context = make_context([close, close * np.exp(reach), close * np.exp(-reach), close])

    made = forecast(context, 4)

    assert (made.raw_FHQ[3] == 100.0).all()
    np.testing.assert_allclose(np.log(made.median("high") / 100), 0.01 + 100 / 199 * 0.01, rtol=1e-9)


def test_closes_that_move_only_at_the_end():
    """All closes of the sample are equal; the smoothed variance follows the last bars."""
    returns = np.zeros(300)
    returns[-2:] = 0.01
    sigma = math.sqrt(slow_variances(returns, 0.0, 0.06, 0.94)[-1])
    context = make_context(moving_context(returns).ohlc_CT, START + 9 * HOUR_MS)
    assert not settled_returns(context).any()

    made = log_close(context, 1)[0, UPPER]

    assert made == pytest.approx(sigma * math.sqrt(0.6) * scipy.stats.t.ppf(0.9, 5), rel=1e-3)
    assert reason(context).startswith("all closes of the sample are equal: variance smoothed")


def test_a_failed_search_is_reported():
    """One return in a year of equal closes has no maximum likelihood."""
    returns = np.zeros(300)
    returns[100] = 0.01

    assert reason(moving_context(returns)).startswith("no maximum of the likelihood was found: variance smoothed")


def test_a_variance_without_a_mean_is_reported():
    """Growing volatility drives alpha + beta to 1, the bound of arch. The forecast is still made."""
    growth = np.exp(np.arange(400) / 150)
    context = moving_context(np.random.default_rng(2).normal(size=400) * 1e-3 * growth)
    _, alpha, beta, _ = parameters(context)
    assert alpha + beta == pytest.approx(1.0, abs=1e-4)

    assert reason(context).startswith("integrated: alpha ")
    assert forecast(context, 64).engine == "arch"


@pytest.mark.parametrize("jump", [30.0, -30.0])
@pytest.mark.parametrize("at", [250, 299])
def test_a_jump_of_thirteen_digits_leaves_a_finite_forecast(jump, at):
    """Bars hold prices up to 1e15; one series must not stop the forecasts of the others."""
    returns = np.random.default_rng(0).normal(0, 0.01, 300)
    returns[at] = jump

    assert np.isfinite(forecast(moving_context(returns), 64).raw_FHQ).all()


def test_prices_stay_finite():
    """Jumps of seventeen digits: the smoothed variance would give infinite quantiles."""
    returns = np.where(np.arange(60) % 2, 40.0, -40.0)

    made = forecast(moving_context(returns), 64)

    assert made.raw_FHQ.max() == pytest.approx(100 * math.exp(100), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-9, 0.001, -0.01, 0.02, -0.5, 3.0]), min_size=40, max_size=180),
    st.lists(st.integers(0, 30), max_size=3),
    st.sampled_from([0.0, 1e-6, 0.01]),
)
def test_unusual_series_have_forecasts(returns, gaps, reach):
    """For flat, jumping and gappy closes: the constructor of the forecast checks that it is finite and in order."""
    prices_CT = moving_context(np.array(returns), reach).ohlc_CT.copy()
    prices_CT[:, gaps] = np.nan
    context = make_context(prices_CT)
    if (~np.isnan(np.diff(prices_CT[3]))).sum() < 30:
        return

    assert forecast(context, 16).horizon == 16


def test_past_volatility_is_at_least_a_tenth_of_the_current_one():
    """Ranges of 1 % at constant closes are scaled by ten, not by twenty."""
    returns = np.concatenate([np.zeros(80), np.where(np.arange(19) % 2, 0.05, -0.05)])
    sigma = np.sqrt(slow_variances(returns, 0.0, 0.06, 0.94))
    assert sigma.min() < sigma[-1] / 20

    upper = forecast(moving_context(returns), 1).quantile(0.95, "high")

    assert math.log(upper[0] / moving_context(returns).last_close) == pytest.approx(0.1, rel=1e-6)


def test_provenance():
    context = make_context(simulated_prices(1, 300, seed=0)[0])

    made = forecast(context)

    assert (made.key, made.cutoff, made.horizon) == (context.key, context.cutoff, 3)
    assert made.quantile_levels == CHRONOS_LEVELS
    assert made.provenance.ledger_id == "garch@1"
    assert made.provenance.input_sha256 == context.sha256
    assert made.provenance.library_versions == f"numpy {np.__version__}, arch {arch.__version__}"
    assert made.raw_FHQ.shape == (len(FIELDS), 3, len(CHRONOS_LEVELS))


def test_it_is_created_by_its_name():
    made = create_baseline("garch")

    assert (made.name, made.engine, made.engine_reason) == ("garch", "arch", "maximum likelihood")


@pytest.mark.processes
def test_the_baselines_load_without_arch():
    """Nor scipy or pandas, which it imports."""
    module = "forecaster.model.baselines"
    code = f"import sys, {module}; print({{'arch', 'scipy', 'pandas', 'statsmodels'}} & set(sys.modules))"

    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert printed.strip() == "set()"
