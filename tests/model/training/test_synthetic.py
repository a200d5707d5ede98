"""Simulated bars keep the rules of bars, and show what markets show."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.model.training.synthetic import drop_bars, simulate_futures, simulate_ohlc


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


def test_last_bar_is_never_missing(prices_SFT):
    """A forecast starts from a close."""
    assert np.isfinite(prices_SFT[:, :, -1]).all()
    assert np.isfinite(drop_bars(np.random.default_rng(1), np.ones((500, 4, 1)))).all()


@pytest.fixture(scope="module")
def past_and_futures():
    return simulate_futures(np.random.default_rng(3), 300, 120, 8, 6)


def test_futures_are_bars(past_and_futures):
    """Low ≤ open, close ≤ high in every future."""
    _, futures_SKFH = past_and_futures
    open_, high, low, close = np.moveaxis(futures_SKFH, 2, 0)

    assert futures_SKFH.shape == (300, 6, 4, 8)
    assert (low <= np.minimum(open_, close)).all()
    assert (high >= np.maximum(open_, close)).all()


def test_futures_go_on_where_the_past_ended(past_and_futures):
    """Where a market knows no gaps, every future opens at the last close; moves are of the past's size."""
    past_SFT, futures_SKFH = past_and_futures
    gap_SK = np.log(futures_SKFH[:, :, 0, 0] / past_SFT[:, None, 3, -1])
    gaps_ST = np.log(past_SFT[:, 0, 1:] / past_SFT[:, 3, :-1])
    without = (gaps_ST == 0).all(axis=1)
    moves_S, ahead_S = (
        np.median(np.abs(np.log(ohlc[3] / ohlc[0])), axis=-1)
        for ohlc in (np.moveaxis(past_SFT, 1, 0), np.moveaxis(futures_SKFH, 2, 0).reshape(4, 300, -1))
    )

    assert without.sum() > 30
    assert (gap_SK[without] == 0).all()
    assert 0.8 < np.median(ahead_S / np.maximum(moves_S, 1e-9)) < 1.25


def test_futures_of_one_past_differ_and_are_mirrored(past_and_futures):
    """The second half reverses the moves of the first, so that their mean hardly leaves the last close."""
    past_SFT, futures_SKFH = past_and_futures
    moves_SK = np.log(futures_SKFH[:, :, 3, 0] / past_SFT[:, None, 3, -1])
    one, other = moves_SK[:, :3], moves_SK[:, 3:]
    moving = np.abs(one) > 1e-6

    assert np.corrcoef(one[moving], other[moving])[0, 1] < -0.95
    assert np.abs(np.corrcoef(moves_SK[:, 0], moves_SK[:, 1])[0, 1]) < 0.2


def test_past_does_not_depend_on_its_futures():
    """However many bars are asked for ahead, the past is the same."""
    short, long = (simulate_futures(np.random.default_rng(5), 4, 60, ahead, 2)[0] for ahead in (0, 30))

    assert np.array_equal(short, long)


def test_high_lies_beyond_the_ends_of_a_path(prices_SFT):
    """Paths are looked at between their steps: few bars open or close at their high, as in real markets."""
    open_, high, _, close = np.moveaxis(prices_SFT, 1, 0)
    moving = np.nanmedian(high > np.minimum(open_, close), axis=1) > 0

    assert np.nanmean((high == np.maximum(open_, close))[moving]) < 0.25


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
