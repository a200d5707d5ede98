"""Lean to the side on which the forecast's mass lies, the less, the more the price is expected to move."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from strategies.base import Outlook, Position, Signal, chance_above, clipped, return_deviation

if TYPE_CHECKING:
    from forecaster import OHLCForecast

TARGET_VOLATILITY = 0.2
LEAST_LEAN = 0.1
_YEAR_MS = 365.25 * 86_400_000


def trend(
    forecast: OHLCForecast,
    position: Position,
    outlook: Outlook,
    target: float = TARGET_VOLATILITY,
    least_lean: float = LEAST_LEAN,
) -> Signal:
    """Hold lean · target / volatility, at most everything; nothing where the forecast hardly leans.

    The lean is the mean over the steps of P(close above the last) - P(below), -1 to 1. The volatility is the deviation
    of the return that is forecast over the whole horizon, a year's by the square root of time. What is held follows
    the forecast alone.
    """
    del position
    steps = range(1, forecast.horizon + 1)
    lean = sum(2 * chance_above(forecast, outlook.last_close, step) - 1 for step in steps) / forecast.horizon
    volatility = yearly_volatility(forecast, outlook.last_close)
    words = f"{lean:+.0%} lean over {forecast.horizon} bars, volatility {volatility:.0%} a year, target {target:.0%}"
    if abs(lean) < least_lean:
        return Signal(0.0, f"hardly any lean: {words}")
    return Signal(clipped(lean * target / volatility) if volatility else clipped(lean / abs(lean)), words)


def yearly_volatility(forecast: OHLCForecast, last_close: float) -> float:
    """Deviation of the return over the horizon, times the root of how many horizons make a year by the clock."""
    last_close_time = forecast.key.sessions.closes_of(forecast.key.timeframe, forecast.target_opens()[-1:])[0]
    years = (int(last_close_time) - forecast.cutoff) / _YEAR_MS
    return return_deviation(forecast, last_close, forecast.horizon) / sqrt(years)
