"""Bars from memory: for tests of a strategy, and for bars that somebody else has fetched.

Behaves as every other source does. Which rows are bars was checked when the `Bars` were made.
"""

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
    """Bars of any number of series, to which more can be added.

    Args:
        bars: what it holds from the start; several `Bars` of one series are joined.
    """

    def __init__(self, bars: Iterable[Bars] = ()) -> None:
        self._bars: dict[SeriesKey, Bars] = {}
        self._adding = Lock()
        for one in bars:
            self.add(one)

    def add(self, bars: Bars) -> None:
        """Add bars of one series; one that is there already is replaced, but for its volume where that is not known."""
        with self._adding:
            held = self._bars.get(bars.key, Bars.empty(bars.key))
            joined, _ = Bars.validate_rows(
                bars.key,
                np.concatenate([held.open_time, bars.open_time]),
                np.concatenate([held.ohlcv_TF, _with_known_volumes(held, bars)]),
            )
            self._bars[bars.key] = joined

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Give the bars that open at or after `since` and have closed by `as_of` (UTC ms).

        Raises:
            UnknownSymbol: for a series that was never added.
        """
        if key not in self._bars:
            raise UnknownSymbol("memory", str(key), list(map(str, self._bars)))
        closed = self._bars[key].closed_by(as_of)
        asked = closed if since is None else closed[closed.open_time >= since]
        return Fetched(Bars(key, asked.open_time, asked.ohlcv_TF, np.full(1, as_of)))

    def close(self) -> None:
        """Do nothing: the bars stay, and so does the right to ask."""


def _with_known_volumes(held: Bars, bars: Bars) -> NDArray[np.float64]:
    """The values of bars, with the volumes of those held in place of unknown ones where all prices are the same."""
    ohlcv_TF = bars.ohlcv_TF.copy()
    _, old, new = np.intersect1d(held.open_time, bars.open_time, assume_unique=True, return_indices=True)
    same = np.isnan(ohlcv_TF[new, 4]) & (held.ohlcv_TF[old, :4] == ohlcv_TF[new, :4]).all(axis=1)
    ohlcv_TF[new[same], 4] = held.ohlcv_TF[old[same], 4]
    return ohlcv_TF
