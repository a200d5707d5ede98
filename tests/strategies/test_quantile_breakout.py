"""The breakout: a pure function of forecast and position."""

from __future__ import annotations

import pytest

from strategies.base import Position, Signal
from strategies.quantile_breakout import quantile_breakout
from tests.forecast_builders import make_forecast


@pytest.fixture
def forecast():
    return make_forecast()


def close_at(forecast, level):
    """A last close that the next close exceeds with probability 1 - level."""
    return float(forecast.quantile("close", level)[0])


@pytest.mark.parametrize(("level", "share"), [(0.2, 1.0), (0.35, 1.0), (0.65, -1.0), (0.9, -1.0)])
def test_conviction_takes_a_side(forecast, level, share):
    signal = quantile_breakout(forecast, Position(), close_at(forecast, level))

    assert signal.share == share
    assert "the next close is" in signal.reason


@pytest.mark.parametrize("held", [-1.0, 0.0, 0.5])
def test_doubt_keeps_the_position(forecast, held):
    signal = quantile_breakout(forecast, Position(held), close_at(forecast, 0.5))

    assert signal.share == held
    assert "no conviction" in signal.reason


def test_same_arguments_same_signal(forecast):
    first, second = (quantile_breakout(forecast, Position(0.3), close_at(forecast, 0.4)) for _ in range(2))

    assert first == second


@pytest.mark.parametrize("share", [-1.1, 1.1])
def test_share_out_of_range(share):
    with pytest.raises(ValueError, match="expected -1 to 1"):
        Signal(share, "leverage")
