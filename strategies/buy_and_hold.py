"""Hold everything, whatever is forecast: what the others have to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.base import Outlook, Position, Signal

if TYPE_CHECKING:
    from forecaster import OHLCForecast


def buy_and_hold(forecast: OHLCForecast, position: Position, outlook: Outlook, share: float = 1.0) -> Signal:
    """Hold the same share at all times."""
    del forecast, position, outlook
    return Signal(share, f"hold {share:.0%}")
