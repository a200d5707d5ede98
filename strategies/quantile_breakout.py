"""Breakout: follow a forecast with most of its probability on one side of the last close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.base import Position, Signal, StrategyContext, probability_above

if TYPE_CHECKING:
    from forecaster import OHLCForecast

MIN_PROBABILITY = 0.65
MIN_TRUST = 0.0


def quantile_breakout(
    forecast: OHLCForecast,
    position: Position,
    context: StrategyContext,
    min_probability: float = MIN_PROBABILITY,
    min_trust: float = MIN_TRUST,
) -> Signal:
    """Go long if the next close is above the last with at least 65 %, short if below, else keep the position.

    Hold nothing while trust is below `min_trust`; unknown trust counts as 0.
    """
    trust = 0.0 if context.trust is None else context.trust.value
    if trust < min_trust:
        return Signal(0.0, f"trust is {trust:.2f}, below {min_trust:g}")
    above = probability_above(forecast, context.last_close)
    if above >= min_probability:
        return Signal(1.0, f"the next close is above {context.last_close:g} with {above:.0%}")
    if 1 - above >= min_probability:
        return Signal(-1.0, f"the next close is below {context.last_close:g} with {1 - above:.0%}")
    return Signal(position.weight, f"undecided: above {context.last_close:g} with {above:.0%}")
