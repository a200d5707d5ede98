"""backtesting.py itself, through the strategy of the documents."""

from __future__ import annotations

import pytest

from docs.examples.backtesting_breakout import backtest
from forecaster.bars import COLUMNS
from tests.adapters.scene import KEY, decisions, make_scene
from tests.builders import HOUR_MS

pytestmark = [
    pytest.mark.adapters,
    pytest.mark.filterwarnings("ignore:DatetimeIndex.dayofweek:DeprecationWarning"),  # its own, on pandas 3.1
]


@pytest.fixture
def scene():
    return make_scene()


def fills(scene, shift):
    """Open times at which its trades began and ended, and the prices that they had."""
    bars, made = scene
    frame = bars.frame.rename(columns={name: name.capitalize() for name in COLUMNS})
    trades = backtest(frame, KEY, made, shift)["_trades"]
    rows, prices = [*trades.EntryBar, *trades.ExitBar], [*trades.EntryPrice, *trades.ExitPrice]
    return sorted(zip(bars.open_time[rows].tolist(), prices, strict=True))


def test_fills_of_the_rule(scene):
    """By default they are the reference's: the open of the first bar that opens when the forecast was there."""
    expected = decisions(*scene)
    opens = dict(zip(scene[0].open_time.tolist(), scene[0].ohlcv_TF[:, 0].tolist(), strict=True))

    assert len(expected) > 40
    assert fills(scene, 1) == [(one.fill_open, opens[one.fill_open]) for one in expected]


def test_fills_without_the_shift(scene):
    """The same decisions are filled a bar before a forecast can trade: at the instant of its cutoff."""
    expected = decisions(*scene)
    found = [time for time, _ in fills(scene, 0)]

    assert found == [one.cutoff for one in expected]
    assert found == [one.fill_open - HOUR_MS for one in expected]
