"""What a strategy is: a pure function of a forecast and a position. It orders nothing and remembers nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from forecaster import OHLCForecast


@dataclass(frozen=True, slots=True)
class Position:
    """What is held: `share` of the equity, -1 (all short) to 1 (all long), entered at `price`."""

    share: float = 0.0
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Signal:
    """What to hold next: `share` of the equity, -1 to 1, and why, in one sentence.

    Raises:
        ValueError: for a share outside [-1, 1].
    """

    share: float
    reason: str

    def __post_init__(self) -> None:
        """Check the share."""
        if not -1 <= self.share <= 1:
            msg = f"share: expected -1 to 1, found {self.share}"
            raise ValueError(msg)


class Strategy(Protocol):
    """Turns a forecast into a signal; the same arguments always give the same signal."""

    def __call__(self, forecast: OHLCForecast, position: Position, last_close: float) -> Signal:
        """Decide what to hold from the first target bar on; `last_close` is the close at the cutoff."""
