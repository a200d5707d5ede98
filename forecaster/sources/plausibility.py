"""Whether an answer about bars is to be believed at once, beside the bars that are there already.

An exchange may serve for a moment what looks like bars and is none: of another symbol or timeframe, or with one price
that is a slip. Such an answer waits for a second one, and what both say is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.bars import Bars

_FAR_IN_RANGES: Final = 20.0
"""A price that is further from the close before it than so many typical ranges of a bar is far."""

_LEAST_FAR: Final = 0.01
"""What is nearer than this, as the logarithm of a ratio of prices, is never far: ranges of quiet bars are tiny."""

_FEWEST_BARS: Final = 8
_FEW_CHANGED: Final = 2
_SHARE_CHANGED: Final = 0.25
_FEWEST_COARSE: Final = 3


class Compared(NamedTuple):
    """What an answer says otherwise than the bars that are there.

    Args:
        changed: open times (UTC ms) of bars whose prices differ.
        doubted: open times of bars that are to be confirmed by a second answer.
    """

    changed: list[int]
    doubted: list[int]


def compare(bars: Bars, there: Bars) -> Compared:
    """Compare an answer with the bars that are there, which begin before it where any do.

    Bars are in doubt that are new or differ, and lie far from the close before them; and all that differ, where these
    are more than a few.
    """
    changed = _changed(bars, there)
    news = np.isin(bars.open_time, changed) | ~np.isin(bars.open_time, there.open_time)
    doubted = set(bars.open_time[news & _far(bars, there)].tolist())
    overlap = int(np.isin(bars.open_time, there.open_time).sum())
    if len(changed) > max(_FEW_CHANGED, _SHARE_CHANGED * overlap):
        doubted.update(changed)
    return Compared(changed, sorted(doubted))


def agree(first: Bars, second: Bars, opens: list[int]) -> bool:
    """Whether two answers say the same of the bars that open at these times."""
    one, other = first[np.isin(first.open_time, opens)], second[np.isin(second.open_time, opens)]
    return (
        len(one) == len(opens)
        and bool(np.array_equal(one.open_time, other.open_time))
        and bool(np.array_equal(one.ohlcv_TF, other.ohlcv_TF, equal_nan=True))
    )


def coarser_ms(bars: Bars, there: Bars) -> int | None:
    """How far apart (ms) the rows of an answer are, where they are those of a coarser timeframe; None where not.

    They are when all of them lie on a coarser grid, and there are bars between any two of them, on average.
    """
    if len(bars) < _FEWEST_COARSE:
        return None
    apart = int(np.gcd.reduce(np.diff(bars.open_time)))
    first, last = bars.open_time[0], bars.open_time[-1]
    between = (there.open_time > first) & (there.open_time < last) & ~np.isin(there.open_time, bars.open_time)
    is_coarser = apart >= 2 * bars.key.timeframe.ms and int(between.sum()) >= len(bars) - 1
    return apart if is_coarser else None


def _changed(bars: Bars, there: Bars) -> list[int]:
    """Open times of bars that are there with another price; a volume may still be counted."""
    both, mine, theirs = np.intersect1d(bars.open_time, there.open_time, assume_unique=True, return_indices=True)
    differs = (bars.ohlcv_TF[mine, :4] != there.ohlcv_TF[theirs, :4]).any(axis=1)
    changed: list[int] = both[differs].tolist()
    return changed


def _far(bars: Bars, there: Bars) -> NDArray[np.bool_]:
    """Which bars of an answer have a price that is far from the close before them."""
    before = there[there.open_time < (bars.open_time[0] if len(bars) else 0)]
    log_TF = np.log(np.concatenate([before.ohlcv_TF[:, :4], bars.ohlcv_TF[:, :4]]))
    if len(log_TF) <= _FEWEST_BARS:
        return np.zeros(len(bars), np.bool_)
    closes = np.concatenate([log_TF[:1, 0], log_TF[:-1, 3]])
    usual = np.median(np.maximum(log_TF[:, 1], closes) - np.minimum(log_TF[:, 2], closes))
    away = np.abs(log_TF - closes[:, None]).max(axis=1)
    far: NDArray[np.bool_] = away > max(_LEAST_FAR, _FAR_IN_RANGES * float(usual))
    return far[len(before) :]
