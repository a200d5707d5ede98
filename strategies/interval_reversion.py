"""Mean reversion: trade against a close at an extreme of the forecast distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.base import Position, Signal, StrategyContext, probability_above

if TYPE_CHECKING:
    from forecaster import OHLCForecast

EXTREME = 0.4
CALM = 0.45


def interval_reversion(
    forecast: OHLCForecast, position: Position, context: StrategyContext, extreme: float = EXTREME, calm: float = CALM
) -> Signal:
    """Buy a close below the central 20 % interval of the last step's close, sell one above it, exit inside 10 %.

    The level of the close is the probability below it, 0.5 at the median. It is low up to `extreme`, high from
    1 - `extreme` on, and calm between `calm` and 1 - `calm`. A long position is kept until the level is calm or high, a
    short position until it is calm or low.
    """
    level = 1 - probability_above(forecast, context.last_close, forecast.horizon)
    where = f"{context.last_close:g} is at the {level:.0%} quantile of the close in {forecast.horizon} bars"
    if level <= extreme:
        return Signal(1.0, f"low: {where}")
    if level >= 1 - extreme:
        return Signal(-1.0, f"high: {where}")
    if (position.weight > 0 and level < calm) or (position.weight < 0 and level > 1 - calm):
        return Signal(position.weight, f"not calm yet: {where}")
    return Signal(0.0, f"no extreme: {where}")
