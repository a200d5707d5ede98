"""The breakout: a pure function of forecast, position and context."""

from __future__ import annotations

from dataclasses import replace

import pytest

from strategies.base import Position, Signal, StrategyContext
from strategies.quantile_breakout import quantile_breakout
from tests.accuracy.test_trust import make_losses, trusted
from tests.forecast_builders import make_forecast


@pytest.fixture
def forecast():
    return make_forecast()


def context_at(forecast, level, trust=None):
    """A last close that the next close exceeds with probability 1 - level."""
    return StrategyContext(float(forecast.quantile(level)[0]), trust)


@pytest.mark.parametrize(("level", "weight"), [(0.2, 1.0), (0.35, 1.0), (0.65, -1.0), (0.9, -1.0)])
def test_conviction_takes_a_side(forecast, level, weight):
    signal = quantile_breakout(forecast, Position(), context_at(forecast, level))

    assert signal.weight == weight
    assert "the next close is" in signal.reason


@pytest.mark.parametrize("held", [-1.0, 0.0, 0.5])
def test_undecided_keeps_the_position(forecast, held):
    signal = quantile_breakout(forecast, Position(held), context_at(forecast, 0.5))

    assert signal.weight == held
    assert "undecided" in signal.reason


def test_more_conviction_can_be_asked_for(forecast):
    context = context_at(forecast, 0.3)

    assert quantile_breakout(forecast, Position(), context, min_probability=0.8).weight == 0.0
    assert quantile_breakout(forecast, Position(), context, min_probability=0.6).weight == 1.0


def test_trust_that_is_not_enough_closes(forecast):
    """Half the trust is less than 0.9, and none known is none."""
    found = replace(trusted(make_losses()), value=0.5)
    cases = {0.0: 1.0, 0.4: 1.0, 0.5: 1.0, 0.9: 0.0}

    for least, weight in cases.items():
        context = context_at(forecast, 0.2, found)

        assert quantile_breakout(forecast, Position(1.0), context, min_trust=least).weight == weight
    unknown = quantile_breakout(forecast, Position(1.0), context_at(forecast, 0.2), min_trust=0.1)

    assert unknown.weight == 0.0
    assert "trust is 0.00" in unknown.reason
    assert quantile_breakout(forecast, Position(), context_at(forecast, 0.2)).weight == 1.0


def test_same_arguments_same_signal(forecast):
    first, second = (quantile_breakout(forecast, Position(0.3), context_at(forecast, 0.4)) for _ in range(2))

    assert first == second


@pytest.mark.parametrize("weight", [-1.1, 1.1])
def test_share_out_of_range(weight):
    with pytest.raises(ValueError, match="expected -1 to 1"):
        Signal(weight, "leverage")
