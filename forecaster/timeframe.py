"""The length of a bar, and arithmetic on the 24/7 grid. Times are integer UTC milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from forecaster.errors import ConfigError

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000

_MINUTES: Final = {
    "1m": 1,
    "3m": 3,
    "5m": 5,
    "15m": 15,
    "30m": 30,
    "1h": 60,
    "2h": 120,
    "4h": 240,
    "6h": 360,
    "8h": 480,
    "12h": 720,
    "1d": 1440,
}
VARIABLE_LENGTH_NAMES: Final = ("3d", "1w", "2w", "1M", "3M", "6M", "1y")
"""Timeframes of exchanges whose bars begin on different days."""


@dataclass(frozen=True, slots=True)
class Timeframe:
    """A fixed bar length by its ccxt name, `1m` to `1d`.

    Weeks and months are refused: exchanges begin them on different days.

    Raises:
        ConfigError: for any other name.
    """

    name: str

    def __post_init__(self) -> None:
        """Refuse a name of variable length."""
        if self.name in VARIABLE_LENGTH_NAMES:
            known = f"{', '.join(_MINUTES)}; {self.name} is not supported, since venues begin it on different days"
            raise ConfigError("timeframe", f"one of {known}", self.name)
        if self.name not in _MINUTES:
            raise ConfigError("timeframe", f"one of {', '.join(_MINUTES)}", self.name)

    @property
    def ms(self) -> int:
        """Length in milliseconds."""
        return _MINUTES[self.name] * MINUTE_MS

    @property
    def is_daily(self) -> bool:
        """Whether one bar is one day, or one session of an exchange calendar."""
        return self.ms == DAY_MS

    @classmethod
    def from_minutes(cls, minutes: int) -> Timeframe:
        """Return the timeframe of a length.

        Raises:
            ConfigError: when there is none.
        """
        name = next((name for name, length in _MINUTES.items() if length == minutes), f"{minutes}m")
        return cls(name)

    def floor(self, time_ms: int) -> int:
        """Return the open time of the 24/7 bar that contains `time_ms`."""
        return time_ms - time_ms % self.ms

    def __str__(self) -> str:
        """Return the ccxt name."""
        return self.name
