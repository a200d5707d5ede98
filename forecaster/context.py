"""The input of a model: the bars of one series up to a cutoff, on the grid of its calendar.

Shapes: T slots, C the four price fields open, high, low, close.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from forecaster.arguments import check_integer
from forecaster.errors import MissingBars, NotEnoughBars
from forecaster.tables import FIELDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.bars import Bars, SeriesKey


@dataclass(frozen=True, eq=False)
class Context:
    """The last T slots of one series up to `cutoff`.

    `ohlc_CT` is (4, T) float64: open, high, low, close; a slot without a bar is NaN, never filled.
    """

    key: SeriesKey
    cutoff: int
    ohlc_CT: NDArray[np.float64]

    @classmethod
    def ending_at(cls, bars: Bars, cutoff: int, length: int, min_bars: int) -> Context:
        """Cut the context of at most `length` slots that ends with the bar closing at `cutoff`.

        Raises:
            InvalidArgument: for a length below 1, or not a whole number.
            MissingBars: when `bars` has no bar that closes at `cutoff`.
            NotEnoughBars: when those slots hold fewer than `min_bars` bars.
        """
        check_integer("length", length)
        slots = bars.key.trading_calendar.last_opens(bars.key.timeframe, cutoff, length)
        last = int(np.searchsorted(bars.close_time, cutoff, side="right"))
        if not len(slots) or not last or bars.close_time[last - 1] != cutoff:
            raise MissingBars(bars.key, cutoff, int(bars.close_time[last - 1]) if last else None)
        first = int(np.searchsorted(bars.open_time, slots[0]))
        if last - first < min_bars:
            raise NotEnoughBars(bars.key, min_bars, last - first)
        ohlc_CT = np.full((len(FIELDS), len(slots)), np.nan)
        positions = np.searchsorted(slots, bars.open_time[first:last])
        ohlc_CT[:, positions] = bars.ohlcv_TF[first:last, : len(FIELDS)].T
        ohlc_CT = ohlc_CT[:, positions[0] :]
        ohlc_CT.setflags(write=False)
        return cls(bars.key, cutoff, ohlc_CT)

    @property
    def last_close(self) -> float:
        """Close of the bar that ends at the cutoff."""
        return float(self.ohlc_CT[3, -1])

    @property
    def open_time(self) -> NDArray[np.int64]:
        """Open times of the slots, (T,) UTC ms."""
        return self.key.trading_calendar.last_opens(self.key.timeframe, self.cutoff, self.ohlc_CT.shape[1])

    @cached_property
    def sha256(self) -> str:
        """Digest of series, cutoff and every bit of the prices."""
        head = f"{self.key}|{self.key.calendar}|{self.cutoff}|".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.ohlc_CT).tobytes()).hexdigest()

    def target_opens(self, horizon: int) -> NDArray[np.int64]:
        """Return the open times (UTC ms) of the bars of steps 1 to `horizon`, (H,)."""
        return self.key.trading_calendar.next_opens(self.key.timeframe, self.cutoff, horizon)
