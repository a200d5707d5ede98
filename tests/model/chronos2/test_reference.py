"""The reference patch: row markers, marks and past returns."""

import numpy as np
import pytest

from forecaster.model.chronos2.reference import MARK_IN_RANGES, MOVES_ENLARGED, reference_patch

SLOTS = 16
NAMES, MARKS, MOVES = slice(0, 4), slice(4, 6), slice(6, 16)


def make_ohlc(bars=100, gap=0.0, move=0.01, seed=0):
    """Random closes, opens with a random gap after the close before, and a range of 1 % above and below."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(move * rng.standard_normal(bars)))
    open_ = np.concatenate([close[:1], close[:-1]]) * np.exp(gap * rng.standard_normal(bars))
    return np.stack([open_, 1.01 * np.maximum(open_, close), 0.99 * np.minimum(open_, close), close])


def test_one_missing_slot_identifies_the_row():
    ohlc_CT = make_ohlc()
    names_CC = reference_patch(ohlc_CT, SLOTS)[:, NAMES]

    assert np.array_equal(np.isnan(names_CC), np.eye(4, dtype=bool))
    assert (names_CC[~np.eye(4, dtype=bool)] == ohlc_CT[3, -1]).all()


def test_marks_follow_the_latest_ranges():
    """By hand: bars that open at the close before, range 2 % up and 1 % down, and close at their open."""
    ohlc_CT = np.tile([[100.0], [102.0], [99.0], [100.0]], 50)
    marks_C2 = reference_patch(ohlc_CT, SLOTS)[:, MARKS]
    away = 100 * MARK_IN_RANGES * 0.03 * np.sqrt((50 + SLOTS) / 2)

    assert marks_C2 == pytest.approx(np.tile([100 - away, 100 + away], (4, 1)), rel=1e-12)


@pytest.mark.parametrize("bars", [32, 100, 500])
def test_marks_set_the_scale(bars):
    """At any length, the deviation of a quiet context with its patch is that many ranges, or slightly more."""
    ohlc_CT = make_ohlc(bars, move=1e-4)
    rows_CT = np.concatenate([ohlc_CT, reference_patch(ohlc_CT, SLOTS)], axis=1)
    newest_range = np.ptp(ohlc_CT[1:3, -16:], axis=0).mean()

    assert (np.abs(np.nanstd(rows_CT, axis=1) / newest_range / MARK_IN_RANGES - 1.06) < 0.07).all()


def test_returns_are_ranked_and_enlarged():
    """By hand for ten closes each 1, 2, … 10 % above the one before."""
    close_T = 100 * np.cumprod([1.0, 1.03, 1.01, 1.02, 1.1, 1.05, 1.04, 1.09, 1.08, 1.06, 1.07])
    moves_Cp = reference_patch(np.tile(close_T, (4, 1)), SLOTS)[:, MOVES]

    assert moves_Cp[3] == pytest.approx(close_T[-1] * (1 + MOVES_ENLARGED * np.arange(0.01, 0.101, 0.01)), rel=1e-12)


def test_gaps_show_in_the_row_of_opens():
    """None where each bar opens at the close before; as wide as they are where it does not."""
    widths = [np.ptp(reference_patch(make_ohlc(400, gap=gap), SLOTS)[0, MOVES]) for gap in (0.0, 0.001, 0.01)]

    assert widths[0] == 0
    assert widths[2] == pytest.approx(10 * widths[1], rel=0.1)


@pytest.mark.parametrize("level", [1e-6, 1e6])
def test_level_does_not_matter(level):
    ohlc_CT = make_ohlc(gap=0.002)

    assert reference_patch(ohlc_CT * level, SLOTS) == pytest.approx(
        reference_patch(ohlc_CT, SLOTS) * level, rel=1e-9, nan_ok=True
    )


def test_missing_bars_give_no_returns():
    """A missing bar removes its own return and the next one; padding removes none."""
    ohlc_CT = make_ohlc(gap=0.002)
    padded_CT = np.concatenate([np.full((4, 30), np.nan), ohlc_CT], axis=1)
    gappy_CT, cut_CT = ohlc_CT.copy(), np.concatenate([np.full((4, 1), np.nan), ohlc_CT[:, 81:]], axis=1)
    gappy_CT[:, :81] = np.nan

    assert np.array_equal(reference_patch(padded_CT, SLOTS), reference_patch(ohlc_CT, SLOTS), equal_nan=True)
    assert np.array_equal(reference_patch(gappy_CT, SLOTS), reference_patch(cut_CT, SLOTS), equal_nan=True)


def test_constant_market():
    """Every slot is the last close; one bar after a long gap leaves the returns unknown."""
    still_CT, lonely_CT = np.full((4, 40), 7.0), np.full((4, 40), np.nan)
    lonely_CT[:, -1] = 7.0

    assert np.nan_to_num(reference_patch(still_CT, SLOTS), nan=7.0).tolist() == [[7.0] * SLOTS] * 4
    assert np.isnan(reference_patch(lonely_CT, SLOTS)[:, MOVES]).all()
    assert (reference_patch(lonely_CT, SLOTS)[:, MARKS] == 7.0).all()


def test_many_contexts_at_once():
    contexts = np.stack([make_ohlc(gap=0.002, seed=seed) for seed in range(3)])
    alone = np.stack([reference_patch(one, SLOTS) for one in contexts])

    assert np.array_equal(reference_patch(contexts, SLOTS), alone, equal_nan=True)
    assert reference_patch(contexts, 0).shape == (3, 4, 0)
