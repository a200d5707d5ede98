"""Go with a forecast whose bulk lies on one side of the last close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.base import Outlook, Position, Signal, chance_above

if TYPE_CHECKING:
    from forecaster import OHLCForecast

CONVICTION = 0.65
LEAST_TRUST = 0.0


def quantile_breakout(
    forecast: OHLCForecast,
    position: Position,
    outlook: Outlook,
    conviction: float = CONVICTION,
    least_trust: float = LEAST_TRUST,
) -> Signal:
    """Hold long when the next close is above the last with 65 % or more, short when below, else keep the position.

    Nothing is held while trust is below `least_trust`; where it is not known it counts as 0.
    """
    trust = 0.0 if outlook.trust is None else outlook.trust.value
    if trust < least_trust:
        return Signal(0.0, f"trust is {trust:.2f}, below {least_trust:g}")
    above = chance_above(forecast, outlook.last_close)
    if above >= conviction:
        return Signal(1.0, f"the next close is above {outlook.last_close:g} with {above:.0%}")
    if 1 - above >= conviction:
        return Signal(-1.0, f"the next close is below {outlook.last_close:g} with {1 - above:.0%}")
    return Signal(position.share, f"no conviction: above {outlook.last_close:g} with {above:.0%}")
