"""Go with a forecast whose bulk lies on one side of the last close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.base import Position, Signal

if TYPE_CHECKING:
    from forecaster import OHLCForecast

CONVICTION = 0.65


def quantile_breakout(forecast: OHLCForecast, position: Position, last_close: float) -> Signal:
    """Hold long when the next close is above the last with 65 % or more, short when below, else keep the position."""
    above = forecast.prob_above(last_close, step=1)
    if above >= CONVICTION:
        return Signal(1.0, f"the next close is above {last_close:g} with {above:.0%}")
    if above <= 1 - CONVICTION:
        return Signal(-1.0, f"the next close is below {last_close:g} with {1 - above:.0%}")
    return Signal(position.share, f"no conviction: above {last_close:g} with {above:.0%}")
