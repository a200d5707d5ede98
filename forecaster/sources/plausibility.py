"""Compare fetched bars with the stored ones, and find those that a second answer must confirm.

An exchange can serve bars of another symbol or timeframe for a moment, or one wrong price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.bars import Bars

_MAX_RANGES: Final = 20.0
"""An implausible price is further from the previous close than this many typical ranges of a bar."""

_MIN_LOG_DISTANCE: Final = 0.01
"""A log price ratio below this is plausible, however small the ranges of quiet bars are."""

_MIN_BARS: Final = 8
_MAX_CHANGED: Final = 2
_MAX_CHANGED_FRACTION: Final = 0.25
_MIN_COARSE_BARS: Final = 3


class Changes(NamedTuple):
    """How fetched bars differ from the stored ones.

    Args:
        changed: open times (UTC ms) of bars whose prices differ.
        implausible: open times of bars that a second answer must confirm.
    """

    changed: list[int]
    implausible: list[int]


def find_changes(bars: Bars, stored: Bars) -> Changes:
    """Compare fetched bars with the stored ones, which should begin before them.

    New or changed bars far from the previous close are implausible; so are all changed bars where they are many.
    """
    changed = _changed(bars, stored)
    is_new = np.isin(bars.open_time, changed) | ~np.isin(bars.open_time, stored.open_time)
    implausible = set(bars.open_time[is_new & _is_far(bars, stored)].tolist())
    overlap = int(np.isin(bars.open_time, stored.open_time).sum())
    if len(changed) > max(_MAX_CHANGED, _MAX_CHANGED_FRACTION * overlap):
        implausible.update(changed)
    return Changes(changed, sorted(implausible))


def confirms(first: Bars, second: Bars, opens: list[int]) -> bool:
    """Whether two answers have the same bars at these open times."""
    first, second = (bars[np.isin(bars.open_time, opens)] for bars in (first, second))
    return (
        len(first) == len(opens)
        and bool(np.array_equal(first.open_time, second.open_time))
        and bool(np.array_equal(first.ohlcv_TF, second.ohlcv_TF, equal_nan=True))
    )


def coarser_ms(bars: Bars, stored: Bars) -> int | None:
    """Return the spacing (ms) of fetched bars of a coarser timeframe; None when they are not.

    They are coarser when all lie on a coarser grid, with a stored bar between two of them on average.
    """
    if len(bars) < _MIN_COARSE_BARS:
        return None
    spacing = int(np.gcd.reduce(np.diff(bars.open_time)))
    first, last = bars.open_time[0], bars.open_time[-1]
    between = (stored.open_time > first) & (stored.open_time < last) & ~np.isin(stored.open_time, bars.open_time)
    is_coarser = spacing >= 2 * bars.key.timeframe.ms and int(between.sum()) >= len(bars) - 1
    return spacing if is_coarser else None


def _changed(bars: Bars, stored: Bars) -> list[int]:
    """Return the open times of stored bars with another price; a volume may still change."""
    both, i, j = np.intersect1d(bars.open_time, stored.open_time, assume_unique=True, return_indices=True)
    differs = (bars.ohlcv_TF[i, :4] != stored.ohlcv_TF[j, :4]).any(axis=1)
    changed: list[int] = both[differs].tolist()
    return changed


def _is_far(bars: Bars, stored: Bars) -> NDArray[np.bool_]:
    """Return which fetched bars have a price far from the previous close."""
    before = stored[stored.open_time < (bars.open_time[0] if len(bars) else 0)]
    log_TF = np.log(np.concatenate([before.ohlcv_TF[:, :4], bars.ohlcv_TF[:, :4]]))
    if len(log_TF) <= _MIN_BARS:
        return np.zeros(len(bars), np.bool_)
    closes = np.concatenate([log_TF[:1, 0], log_TF[:-1, 3]])
    typical_range = np.median(np.maximum(log_TF[:, 1], closes) - np.minimum(log_TF[:, 2], closes))
    distance = np.abs(log_TF - closes[:, None]).max(axis=1)
    far: NDArray[np.bool_] = distance > max(_MIN_LOG_DISTANCE, _MAX_RANGES * float(typical_range))
    return far[len(before) :]
