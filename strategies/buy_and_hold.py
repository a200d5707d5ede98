"""Buy and hold: the benchmark of the other strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.base import Position, Signal, StrategyContext

if TYPE_CHECKING:
    from forecaster import OHLCForecast


def buy_and_hold(forecast: OHLCForecast, position: Position, context: StrategyContext, weight: float = 1.0) -> Signal:
    """Hold the same weight at all times."""
    del forecast, position, context
    return Signal(weight, f"hold {weight:.0%}")
