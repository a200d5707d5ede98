"""Trend: hold the directional bias of the forecast, scaled to a target volatility."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from strategies.base import Position, Signal, StrategyContext, clip_weight, probability_above, return_deviation

if TYPE_CHECKING:
    from forecaster import OHLCForecast

TARGET_VOLATILITY = 0.2
MIN_BIAS = 0.1
_YEAR_MS = 365.25 * 86_400_000


def trend(
    forecast: OHLCForecast,
    position: Position,
    context: StrategyContext,
    target: float = TARGET_VOLATILITY,
    min_bias: float = MIN_BIAS,
) -> Signal:
    """Hold bias · target / volatility, at most everything; nothing if the bias is small.

    The bias is the mean over the steps of P(close above the last) - P(below), -1 to 1. The volatility is the deviation
    of the forecast return over the whole horizon, annualised by the square root of time. The position does not matter.
    """
    del position
    steps = range(1, forecast.horizon + 1)
    bias = sum(2 * probability_above(forecast, context.last_close, step) - 1 for step in steps) / forecast.horizon
    volatility = annual_volatility(forecast, context.last_close)
    words = f"{bias:+.0%} bias over {forecast.horizon} bars, volatility {volatility:.0%} a year, target {target:.0%}"
    if abs(bias) < min_bias:
        return Signal(0.0, f"too little bias: {words}")
    return Signal(clip_weight(bias * target / volatility) if volatility else clip_weight(bias / abs(bias)), words)


def annual_volatility(forecast: OHLCForecast, last_close: float) -> float:
    """Return the deviation of the return over the horizon, times the root of the number of horizons per year."""
    calendar = forecast.key.trading_calendar
    last_close_time = calendar.closes_of(forecast.key.timeframe, forecast.target_opens()[-1:])[0]
    years = (int(last_close_time) - forecast.cutoff) / _YEAR_MS
    return return_deviation(forecast, last_close, forecast.horizon) / sqrt(years)
