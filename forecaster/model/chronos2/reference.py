"""The reference patch: what a checkpoint that was trained with it is shown behind the last bar.

Chronos-2 standardises each row of a group by itself and gives rows no names. So a model of open, high, low and close
can hardly see how far the low lies below the close or how large the gap before an open is, nor which row is which; and
what one move is in its units differs twentyfold from one context to the next. One patch more shows it all, in every
row: the last close, but for one missing slot that names the row; two marks about the last close, so far apart that they
set the unit by the range of the newest bars; and where its field would be if the moves of the past came again.

Shapes: C the four price fields, T bars, p slots of a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.model.chronos2.architecture import Chronos2

REFERENCE_PATCH = "reference_patch"
"""A key of `config.json`, true where the model was trained so."""

NEWEST_BARS = 16
MARK_IN_RANGES = 3.0
MOVES_ENLARGED = 8.0


def reference_bars(model: Chronos2) -> int:
    """How many slots a checkpoint's reference patch has: those of a patch, or none."""
    patch: int = model.chronos_config.input_patch_size
    return patch if getattr(model.config, REFERENCE_PATCH, False) else 0


def reference_patch(ohlc_CT: NDArray[np.float64], slots: int) -> NDArray[np.float64]:
    """The patch (…, C, p) behind bars (…, C, T), the last of which is there; nothing for no slots.

    Leading axes are batch axes. A slot is NaN where the bars tell nothing of it.
    """
    if not slots:
        return ohlc_CT[..., :0]
    fields = ohlc_CT.shape[-2]
    names = slots // fields
    last = ohlc_CT[..., -1:, -1:]
    named = np.where(np.eye(fields, names, dtype=bool), np.nan, last)
    moves = ohlc_CT[..., 1:] / ohlc_CT[..., -1:, :-1] - 1
    bars = (~np.isnan(ohlc_CT[..., -1:, :])).sum(axis=-1, keepdims=True)
    mark = MARK_IN_RANGES * ((bars + slots) / 2) ** 0.5 * _newest_range(moves)  # by their number, a share of the spread
    marks = np.broadcast_to(mark * (-1.0, 1.0), (*moves.shape[:-1], 2))
    ranked = MOVES_ENLARGED * _ranked(moves, slots - names - 2)
    return np.concatenate([named, last * (1 + marks), last * (1 + ranked)], axis=-1)


def _newest_range(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean true range of the newest bars by the close before each, (…, 1, 1); 0 where none is known."""
    newest = moves[..., -NEWEST_BARS:]
    ranges = np.maximum(newest[..., 1:2, :], 0) - np.minimum(newest[..., 2:3, :], 0)
    known = ~np.isnan(ranges)
    mean: NDArray[np.float64] = np.where(known, ranges, 0).sum(axis=-1) / np.maximum(1, known.sum(axis=-1))
    return mean[..., None]


def _ranked(moves: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """`count` moves of each field from its lowest to its highest, in the middle of equal parts."""
    known = (~np.isnan(moves)).sum(axis=-1, keepdims=True)
    at = ((np.arange(count) + 0.5) / count * known).astype(int)
    return np.take_along_axis(np.sort(moves, axis=-1), at, axis=-1)
