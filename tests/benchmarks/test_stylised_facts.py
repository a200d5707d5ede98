"""The measures of tests/benchmarks/stylised_facts.py, against hand examples, scipy and series of known laws."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from tests.benchmarks.stylised_facts import (
    BARS,
    FACTS,
    LONG_LAGS,
    REAL_FILES,
    Comparison,
    Series,
    autocorrelation,
    compare,
    correlation,
    cut,
    deviation,
    draw,
    measure,
    on_the_grid,
    parkinson,
    read,
    season_share,
    slow_change,
    standard_moment,
    tail,
    variance_ratio,
    write_page,
)

BUNDLED = [file for file in REAL_FILES if file.key.exchange == "index"]
SIX_SLOTS = Series(
    np.array(
        [
            [10.0, 11.0, 12.0, 12.0, np.nan, 12.0],
            [11.0, 12.0, 13.0, 12.0, np.nan, 12.0],
            [10.0, 10.0, 11.0, 12.0, np.nan, 12.0],
            [11.0, 10.0, 11.5, 12.0, np.nan, 12.0],
        ]
    )
)
"""Rises end to end; falls; a gap, with ends apart; flat; missing; flat."""


def noise(n=20_000, seed=1):
    return np.random.default_rng(seed).standard_normal(n)


def autoregression(coefficient, n=20_000):
    x = noise(n)
    for t in range(1, n):
        x[t] += coefficient * x[t - 1]
    return x


def walk(n_series=12, steps=400, seed=3):
    """Bars of a random walk in small steps."""
    rng = np.random.default_rng(seed)
    path = np.cumsum(1e-3 * rng.standard_normal((n_series, BARS, steps)), axis=2)
    start = np.cumsum(np.pad(path[:, :-1, -1], ((0, 0), (1, 0))), axis=1)
    path = np.concatenate([np.zeros((n_series, BARS, 1)), path], axis=2) + start[:, :, None]
    fields = (path[:, :, 0], path.max(axis=2), path.min(axis=2), path[:, :, -1])
    return [Series(ohlc) for ohlc in np.exp(np.stack(fields, axis=1))]


def number(name, series, lag=None):
    """One fact of one series by its name."""
    (fact,) = (fact for fact in FACTS if (fact.name, fact.lag) == (name, lag))
    return fact.measure(series)


def test_moves_of_six_slots_by_hand():
    one = SIX_SLOTS

    np.testing.assert_allclose(one.returns, np.log([np.nan, 10 / 11, 1.15, 12 / 11.5, np.nan, np.nan]))
    np.testing.assert_allclose(one.gaps, np.log([np.nan, 1.0, 1.2, 12 / 11.5, np.nan, np.nan]))
    np.testing.assert_allclose(one.bodies, np.log([1.1, 10 / 11, 11.5 / 12, 1.0, np.nan, 1.0]))
    np.testing.assert_allclose(one.ranges, np.log([1.1, 1.2, 13 / 11, 1.0, np.nan, 1.0]))
    np.testing.assert_allclose(one.log_ranges[:3], np.log(one.ranges[:3]))
    assert np.isnan(one.log_ranges[3:]).all()


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("open is the close before", 1 / 3),
        ("close is the close before", 0.0),
        ("close is the open", 2 / 5),
        ("flat: high is low", 2 / 5),
        ("open is high or low", 3 / 5),
        ("close is high or low", 4 / 5),
        ("open and close are the ends", 3 / 5),
    ],
)
def test_equal_prices_by_hand(name, share):
    assert number(name, SIX_SLOTS) == pytest.approx(share)


def test_ratios_by_hand():
    one = SIX_SLOTS
    ranges, bodies = one.ranges[[0, 1, 2, 3, 5]], one.bodies[[0, 1, 2, 3, 5]]

    assert number("mean range / σ of returns", one) == pytest.approx(ranges.mean() / one.returns[1:4].std())
    assert number("mean range / σ of bodies", one) == pytest.approx(ranges.mean() / bodies.std())
    assert number("σ of gaps / σ of returns", one) == pytest.approx(one.gaps[1:4].std() / one.returns[1:4].std())
    assert number("mean body / range", one) == pytest.approx(np.mean(np.abs(bodies[:3]) / ranges[:3]))
    assert parkinson(one.ranges) == pytest.approx(np.sqrt(np.mean(ranges**2) / 2.772588722239781))


@pytest.mark.parametrize("lag", [1, 3, 50])
def test_an_autocorrelation_is_numpys_over_the_pairs_that_are_known(lag):
    x = autoregression(0.6, 500)
    x[::9] = np.nan
    pairs = [(x[t], x[t + lag]) for t in range(len(x) - lag) if not np.isnan(x[t] + x[t + lag])]

    assert autocorrelation(x, lag) == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1])


@pytest.mark.parametrize("coefficient", [0.0, 0.5, -0.3, 0.9])
def test_an_autoregression_has_the_autocorrelation_and_the_variance_ratio_of_its_law(coefficient):
    x = autoregression(coefficient)
    powers = np.array([coefficient**lag for lag in range(8)])
    ratio = 1 + 2 * np.sum((1 - np.arange(1, 8) / 8) * powers[1:])

    np.testing.assert_allclose([autocorrelation(x, lag) for lag in (1, 2, 5)], powers[[1, 2, 5]], atol=0.05)
    assert variance_ratio(x, 8) == pytest.approx(ratio, rel=0.08)


def test_too_few_pairs_or_no_movement_have_no_correlation():
    x = noise(29)

    assert np.isnan(correlation(x, x))
    assert np.isnan(correlation(noise(100), np.ones(100)))


@pytest.mark.parametrize("seed", [1, 2])
def test_moments_and_tails_are_scipys(seed):
    x = np.random.default_rng(seed).standard_t(5, 3_000)
    gappy = np.insert(x, [5, 50, 500], np.nan)

    assert standard_moment(gappy, 4) - 3 == pytest.approx(stats.kurtosis(x))
    assert standard_moment(gappy, 3) == pytest.approx(stats.skew(x))
    assert tail(gappy, 0.01) == pytest.approx(stats.scoreatpercentile(x, 1) / x.std())
    assert deviation(gappy) == pytest.approx(x.std())


def test_tails_of_a_normal_are_those_of_its_law():
    x = noise(200_000)

    assert [tail(x, 0.01), tail(x, 0.99)] == pytest.approx([-2.326, 2.326], abs=0.04)


def test_a_slow_change_is_that_of_means_that_do_not_overlap():
    x = autoregression(0.8, 300)
    x[40:45] = np.nan
    changes = [np.nanmean(x[t + 20 : t + 40]) - np.nanmean(x[t : t + 20]) for t in range(len(x) - 39)]

    assert slow_change(x, 20) == pytest.approx(np.std(changes))


def test_a_season_explains_its_share_of_the_variance():
    cycle = np.array([0.0, 1.0, 2.0, 1.0, 0.0, -1.0, -2.0])
    x = np.tile(cycle, 3_000) + 2 * noise(21_000)
    x[::11] = np.nan

    assert season_share(x, 7) == pytest.approx(cycle.var() / (cycle.var() + 4), abs=0.02)
    assert season_share(x, 5) < 0.002
    assert season_share(np.tile(cycle, 100), 7) == pytest.approx(1.0)
    assert np.isnan(season_share(np.ones(500), 7))


@pytest.mark.parametrize(
    ("name", "cycle"), [("cycle of 5", 5), ("cycle of 7", 7), ("cycle of 24", 24), ("strongest", 7)]
)
def test_seasons_are_those_of_the_log_range(name, cycle):
    x = np.arange(1_000) % 7 + noise(1_000)
    price = np.ones(1_000)
    one = Series(np.stack([price, np.exp(np.exp(x - 9)), price, price]))

    assert number(f"share explained, {name}", one) == pytest.approx(season_share(x, cycle))


def test_bars_of_a_random_walk_have_the_numbers_of_its_law():
    """Parkinson's volatility is that of the walk, a little less since it is seen in steps; nothing else is there."""
    found = dict(zip(map(str, FACTS), np.median(measure(walk()), axis=0), strict=True))

    assert found["Parkinson / σ of returns"] == pytest.approx(0.97, abs=0.04)
    assert found["mean range / σ of returns"] == pytest.approx(1.596, abs=0.08)
    assert found["open is the close before"] == 1.0
    assert found["σ of gaps / σ of returns"] == pytest.approx(0.0, abs=1e-9)
    assert found["variance ratio of 8 bars"] == pytest.approx(1.0, abs=0.1)
    assert found["excess kurtosis"] == pytest.approx(0.0, abs=0.3)
    for name in ("squared returns", "absolute returns", "log range"):
        assert [found[f"acf of {name}, lag {lag}"] for lag in LONG_LAGS] == pytest.approx([0.0] * 7, abs=0.06)
    assert found["share explained, strongest"] < 0.01


def test_each_acf_is_of_what_its_name_says():
    one = walk(1, steps=20)[0]
    ranges, moves = np.log(one.ohlc_CT[1] / one.ohlc_CT[2]), np.diff(np.log(one.ohlc_CT[3]))
    named = {
        "returns": moves,
        "squared returns": moves**2,
        "absolute returns": np.abs(moves),
        "log range": np.log(ranges),
    }

    for name, x in named.items():
        assert number(f"acf of {name}", one, 2) == pytest.approx(np.corrcoef(x[:-2], x[2:])[0, 1]), name


def test_falls_before_wide_bars_are_leverage():
    one = walk(1)[0]
    widths = np.exp(-20 * np.nan_to_num(np.concatenate([[0.0], one.returns[:-1]])))
    wide = replace(one, ohlc_CT=np.exp(widths * np.log(one.ohlc_CT / one.ohlc_CT[0])) * one.ohlc_CT[0])

    assert number("return with later log range", wide, 1) < -0.3
    assert abs(number("return with later log range", one, 1)) < 0.1


def test_a_series_that_never_moves_has_no_numbers_but_shares():
    found = dict(zip(map(str, FACTS), measure([Series(np.full((4, 600), 7.0))])[0], strict=True))

    assert found["flat: high is low"] == 1.0
    assert np.isnan([found["excess kurtosis"], found["acf of log range, lag 1"], found["mean body / range"]]).all()


def test_a_missing_bar_is_a_missing_slot():
    bars = read(BUNDLED[0])
    kept = np.arange(len(bars)) != 10

    ohlc_CT = on_the_grid(bars[kept])

    assert ohlc_CT.shape == (4, len(bars))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(ohlc_CT).any(axis=0)), [10])
    np.testing.assert_array_equal(ohlc_CT[:, 11], bars.ohlcv_TF[11, :4])


def test_indices_are_read_before_2014():
    last = np.array([read(file).open_time[-1] for file in BUNDLED]).astype("datetime64[ms]")

    assert (last.astype("datetime64[D]") == np.datetime64("2013-12-31")).all()


@pytest.mark.parametrize(("bars", "lengths"), [(2_400, [1_000, 1_000]), (2_500, [1_000, 1_000, 500]), (499, [])])
def test_pieces_leave_a_short_rest_out(bars, lengths):
    assert [piece.ohlc_CT.shape[1] for piece in cut(np.ones((4, bars)))] == lengths


def test_a_page_marks_what_lies_outside_and_says_what_is_skipped():
    simulated = np.tile(np.linspace(0.0, 1.0, 101)[:, None], len(FACTS))
    inside, outside = np.full((1, len(FACTS)), 0.5), np.full((3, len(FACTS)), 0.995)
    outside[0] = 0.3
    found = Comparison(simulated, BUNDLED, [read(file) for file in BUNDLED], [inside, outside])

    page = write_page(found, "the command", 5, None)

    quantiles = "0.050 | 0.250 | 0.500 | 0.750 | 0.950"
    assert page.startswith("# Simulated and real bars\n")
    assert page.count(f"| {quantiles} | 0.500 | **0.995** | 2 |") == len(FACTS)
    assert "Skipped: no real bars here of AAPL_1d.csv, " in page
    assert f"{len(FACTS)} of {2 * len(FACTS)} numbers of files lie outside" in page


def test_a_picture_is_drawn_of_what_was_compared(tmp_path):
    draw(compare(walk(8, steps=20), BUNDLED), tmp_path / "picture.png")

    picture = imread(tmp_path / "picture.png")
    assert picture.shape[1] == 1760
    assert 0.05 < (picture[:, :, :3].min(axis=2) < 0.95).mean() < 0.5
