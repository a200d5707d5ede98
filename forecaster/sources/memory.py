"""Bars from memory: for tests of a strategy, and for bars that were fetched elsewhere."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import Bars
from forecaster.errors import UnknownSymbol
from forecaster.sources import Fetched

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey


class MemorySource:
    """A `BarSource` of bars in memory.

    Args:
        bars: the initial bars; several `Bars` of one series are merged.
    """

    def __init__(self, bars: Iterable[Bars] = ()) -> None:
        self._bars: dict[SeriesKey, Bars] = {}
        self._lock = Lock()
        for part in bars:
            self.add(part)

    def add(self, bars: Bars) -> None:
        """Add bars of one series, replacing those of the same times; an unknown volume replaces no known one."""
        with self._lock:
            present = self._bars.get(bars.key, Bars.empty(bars.key))
            merged, _ = Bars.validate_rows(
                bars.key,
                np.concatenate([present.open_time, bars.open_time]),
                np.concatenate([present.ohlcv_TF, _with_known_volumes(present, bars)]),
            )
            self._bars[bars.key] = merged

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Return the bars that open at or after `since` and have closed by `as_of` (UTC ms).

        Raises:
            UnknownSymbol: for a series that was never added.
        """
        if key not in self._bars:
            raise UnknownSymbol("memory", str(key), list(map(str, self._bars)))
        closed = self._bars[key].closed_by(as_of)
        bars = closed if since is None else closed[closed.open_time >= since]
        return Fetched(Bars(key, bars.open_time, bars.ohlcv_TF, np.full(1, as_of)))

    def close(self) -> None:
        """Do nothing: the bars can still be fetched."""


def _with_known_volumes(present: Bars, bars: Bars) -> NDArray[np.float64]:
    """Return the values of bars, with unknown volumes taken from present bars of the same prices."""
    ohlcv_TF = bars.ohlcv_TF.copy()
    _, old, new = np.intersect1d(present.open_time, bars.open_time, assume_unique=True, return_indices=True)
    same = np.isnan(ohlcv_TF[new, 4]) & (present.ohlcv_TF[old, :4] == ohlcv_TF[new, :4]).all(axis=1)
    ohlcv_TF[new[same], 4] = present.ohlcv_TF[old[same], 4]
    return ohlcv_TF
