"""Simulated bars keep the rules of bars, and show what markets show."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.model.synthetic import simulate_ohlc


@pytest.fixture(scope="module")
def prices_SFT():
    return simulate_ohlc(np.random.default_rng(0), 400, 400)


def test_fields_agree(prices_SFT):
    """Low ≤ open, close ≤ high, all above zero, wherever there is a bar."""
    open_, high, low, close = np.nan_to_num(np.moveaxis(prices_SFT, 1, 0), nan=1.0)

    assert (low > 0).all()
    assert (low <= np.minimum(open_, close)).all()
    assert (high >= np.maximum(open_, close)).all()


def test_bars_are_missing_whole(prices_SFT):
    missing_SFT = np.isnan(prices_SFT)

    assert 0 < missing_SFT.mean() < 0.02
    assert (missing_SFT.all(axis=1) == missing_SFT.any(axis=1)).all()


def test_same_seed_same_bars():
    first, second = (simulate_ohlc(np.random.default_rng(7), 3, 50) for _ in range(2))

    assert np.array_equal(first, second, equal_nan=True)


def test_stylised_facts(prices_SFT):
    """Returns are fat-tailed and uncorrelated on average; their squares are correlated."""
    returns_ST = np.diff(np.log(prices_SFT[:, 3]), axis=1)
    returns_ST = returns_ST[np.isfinite(returns_ST).all(axis=1)]
    scaled_ST = (returns_ST - returns_ST.mean(axis=1, keepdims=True)) / returns_ST.std(axis=1, keepdims=True)
    squares_ST = scaled_ST**2 - 1
    of_returns = (scaled_ST[:, 1:] * scaled_ST[:, :-1]).mean()
    of_squares = (squares_ST[:, 1:] * squares_ST[:, :-1]).mean() / (squares_ST**2).mean()
    drift = returns_ST.mean(axis=1) / returns_ST.std(axis=1)

    assert np.median((scaled_ST**4).mean(axis=1)) > 3.5
    assert abs(of_returns) < 0.02
    assert of_squares > 0.03
    assert abs(np.median(drift)) < 0.02


def test_levels_span_many_decades(prices_SFT):
    first = np.nanmedian(prices_SFT[:, 3], axis=1)

    assert first.min() < 1e-4
    assert first.max() > 1e4
