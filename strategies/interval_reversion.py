"""Fade a close that lies at an extreme of where its own forecast puts the price a few bars on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.base import Outlook, Position, Signal, chance_above

if TYPE_CHECKING:
    from forecaster import OHLCForecast

EXTREME = 0.4
CALM = 0.45


def interval_reversion(
    forecast: OHLCForecast, position: Position, outlook: Outlook, extreme: float = EXTREME, calm: float = CALM
) -> Signal:
    """Buy a close below the central 20 % interval of the last step's close, sell one above it, leave inside 10 %.

    The level of the close is the share of the forecast that lies below it, 0.5 at the median. It is low up to
    `extreme`, high from 1 - `extreme` on, and calm between `calm` and 1 - `calm`. What was bought low is kept until the
    level is calm or high, what was sold high until it is calm or low.
    """
    level = 1 - chance_above(forecast, outlook.last_close, forecast.horizon)
    where = f"{outlook.last_close:g} is at the {level:.0%} quantile of the close in {forecast.horizon} bars"
    if level <= extreme:
        return Signal(1.0, f"low: {where}")
    if level >= 1 - extreme:
        return Signal(-1.0, f"high: {where}")
    if (position.share > 0 and level < calm) or (position.share < 0 and level > 1 - calm):
        return Signal(position.share, f"not calm yet: {where}")
    return Signal(0.0, f"no extreme: {where}")
