"""The measures of stylised_facts.py: by hand, on series of known distributions, and in a small run."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from tests.benchmarks import stylised_facts
from tests.benchmarks.stylised_facts import (
    BARS,
    FACTS,
    LONG_LAGS,
    REAL_FILES,
    Series,
    autocorrelation,
    deviation,
    measure,
    read,
    season_share,
    split,
    standard_moment,
    tail,
    to_grid,
    variance_ratio,
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
"""Rises from low to high; falls; gap and shadows; flat; missing; flat."""
SHARES = {
    "open is the close before": 1 / 3,
    "close is the close before": 0.0,
    "close is the open": 2 / 5,
    "flat: high is low": 2 / 5,
    "open is high or low": 3 / 5,
    "close is high or low": 4 / 5,
    "open and close are the ends": 3 / 5,
}
"""The shares of the six bars, computed by hand."""


def random_walks(n_series, steps=50, seed=3):
    """Make bars of a random walk with small steps."""
    rng = np.random.default_rng(seed)
    path = np.cumsum(1e-3 * rng.standard_normal((n_series, BARS, steps)), axis=2)
    start = np.cumsum(np.pad(path[:, :-1, -1], ((0, 0), (1, 0))), axis=1)
    path = np.concatenate([np.zeros((n_series, BARS, 1)), path], axis=2) + start[:, :, None]
    fields = (path[:, :, 0], path.max(axis=2), path.min(axis=2), path[:, :, -1])
    return [Series(ohlc) for ohlc in np.exp(np.stack(fields, axis=1))]


def median_facts(series):
    """Return the median of each fact over the series, by name."""
    return dict(zip(map(str, FACTS), np.median(measure(series), axis=0), strict=True))


def test_six_slots_by_hand():
    series = SIX_SLOTS
    facts = {fact.name: fact.measure(series) for fact in FACTS if fact.name in SHARES}

    np.testing.assert_allclose(series.returns, np.log([np.nan, 10 / 11, 1.15, 12 / 11.5, np.nan, np.nan]))
    np.testing.assert_allclose(series.gaps, np.log([np.nan, 1.0, 1.2, 12 / 11.5, np.nan, np.nan]))
    np.testing.assert_allclose(series.bodies, np.log([1.1, 10 / 11, 11.5 / 12, 1.0, np.nan, 1.0]))
    np.testing.assert_allclose(series.ranges, np.log([1.1, 1.2, 13 / 11, 1.0, np.nan, 1.0]))
    assert facts == pytest.approx(SHARES)


def test_moments_and_tails_are_scipys():
    x = np.random.default_rng(1).standard_t(5, 3_000)
    gappy = np.insert(x, [5, 50, 500], np.nan)

    assert standard_moment(gappy, 4) - 3 == pytest.approx(stats.kurtosis(x))
    assert standard_moment(gappy, 3) == pytest.approx(stats.skew(x))
    assert tail(gappy, 0.01) == pytest.approx(stats.scoreatpercentile(x, 1) / x.std())
    assert deviation(gappy) == pytest.approx(x.std())


def test_autoregression_has_its_known_autocorrelation_and_variance_ratio():
    x = np.random.default_rng(1).standard_normal(20_000)
    for t in range(1, len(x)):
        x[t] += 0.5 * x[t - 1]
    powers = 0.5 ** np.arange(8)
    ratio = 1 + 2 * np.sum((1 - np.arange(1, 8) / 8) * powers[1:])

    np.testing.assert_allclose([autocorrelation(x, lag) for lag in (1, 2, 5)], powers[[1, 2, 5]], atol=0.05)
    assert variance_ratio(x, 8) == pytest.approx(ratio, rel=0.08)


def test_a_season_explains_its_share_of_the_variance():
    cycle = np.array([0.0, 1.0, 2.0, 1.0, 0.0, -1.0, -2.0])
    x = np.tile(cycle, 3_000) + 2 * np.random.default_rng(1).standard_normal(21_000)
    x[::11] = np.nan

    assert season_share(x, 7) == pytest.approx(cycle.var() / (cycle.var() + 4), abs=0.02)
    assert season_share(x, 5) < 0.002


def test_random_walk_bars_have_the_facts_of_a_random_walk():
    """Parkinson's volatility is slightly below the walk's, because of the steps; all other facts are zero."""
    facts = median_facts(random_walks(8))

    assert facts["Parkinson / σ of returns"] == pytest.approx(0.93, abs=0.05)
    assert facts["open is the close before"] == 1.0
    assert facts["σ of gaps / σ of returns"] == pytest.approx(0.0, abs=1e-9)
    assert facts["variance ratio of 8 bars"] == pytest.approx(1.0, abs=0.15)
    assert facts["excess kurtosis"] == pytest.approx(0.0, abs=0.3)
    for name in ("squared returns", "absolute returns", "log range"):
        assert [facts[f"acf of {name}, lag {lag}"] for lag in LONG_LAGS] == pytest.approx([0.0] * 7, abs=0.08)
    assert facts["share explained, strongest"] < 0.02


def test_missing_bar_is_nan_and_short_remainder_is_left_out():
    bars = read(BUNDLED[0])
    kept = np.arange(len(bars)) != 10
    ohlc_CT = to_grid(bars[kept])

    np.testing.assert_array_equal(np.flatnonzero(np.isnan(ohlc_CT).any(axis=0)), [10])
    np.testing.assert_array_equal(ohlc_CT[:, 11], bars.ohlcv_TF[11, :4])
    assert [piece.ohlc_CT.shape[1] for piece in split(np.ones((4, 2_400)))] == [1_000, 1_000]


def test_page_and_picture_are_written(tmp_path, monkeypatch, capsys):
    """A run with few facts and the two bundled files; missing files are named."""
    names = ("acf of returns", "return with later log range", "flat: high is low")
    monkeypatch.setattr(stylised_facts, "FACTS", [fact for fact in FACTS if fact.name in names])
    monkeypatch.setattr(stylised_facts, "REAL_FILES", [*BUNDLED, *(file for file in REAL_FILES if file not in BUNDLED)])
    monkeypatch.setattr(stylised_facts, "PAGE_FILE", tmp_path / "page.md")
    monkeypatch.setattr(stylised_facts, "PICTURE", tmp_path / "picture.png")
    monkeypatch.setattr("sys.argv", ["stylised_facts", "--series", "6"])
    code = stylised_facts.main()
    page = (tmp_path / "page.md").read_text(encoding="utf-8")

    assert code == 0
    assert page.startswith("# Simulated and real bars\n")
    assert "values of files lie outside" in page
    assert "values of files lie outside" in capsys.readouterr().err
    assert imread(tmp_path / "picture.png").shape[1] == 1760
