"""The reference patch: an extra input patch after the last bar, for checkpoints trained with it.

Chronos-2 standardises each row of a group separately, and rows have no names. The model can hardly see the distance
between the fields, or which row is which. The scale of one return also differs by a factor of twenty between contexts.
The reference patch adds three things to every row. First, the last close, with one missing slot whose position
identifies the row. Then two marks around the last close, whose distance sets the scale by the range of the latest bars.
Last, the last close moved by quantiles of the field's past returns.

Shapes: C the four price fields, T bars, p time slots of a patch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.model.chronos2.architecture import Chronos2

REFERENCE_PATCH = "reference_patch"
"""Key of `config.json`; true for a model trained with reference patches."""

LATEST_BARS = 16
MARK_IN_RANGES = 3.0
MOVES_ENLARGED = 8.0


def reference_bars(model: Chronos2) -> int:
    """Return the slots of a checkpoint's reference patch: those of one patch, or 0."""
    patch: int = model.chronos_config.input_patch_size
    return patch if getattr(model.config, REFERENCE_PATCH, False) else 0


def reference_patch(ohlc_CT: NDArray[np.float64], slots: int) -> NDArray[np.float64]:
    """Return the patch (…, C, p) after bars (…, C, T), the last of which is known; an empty one for 0 slots.

    Leading axes are batch axes. A slot without a known value is NaN.
    """
    if not slots:
        return ohlc_CT[..., :0]
    fields = ohlc_CT.shape[-2]
    names = slots // fields
    last = ohlc_CT[..., -1:, -1:]
    named = np.where(np.eye(fields, names, dtype=bool), np.nan, last)
    moves = ohlc_CT[..., 1:] / ohlc_CT[..., -1:, :-1] - 1
    bars = (~np.isnan(ohlc_CT[..., -1:, :])).sum(axis=-1, keepdims=True)
    mark = MARK_IN_RANGES * ((bars + slots) / 2) ** 0.5 * _latest_range(moves)  # scaled to the spread of that many bars
    marks = np.broadcast_to(mark * (-1.0, 1.0), (*moves.shape[:-1], 2))
    ranked = MOVES_ENLARGED * _ranked(moves, slots - names - 2)
    return np.concatenate([named, last * (1 + marks), last * (1 + ranked)], axis=-1)


def _latest_range(moves: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean true range of the latest bars over the close before each, (…, 1, 1); 0 where none is known."""
    newest = moves[..., -LATEST_BARS:]
    ranges = np.maximum(newest[..., 1:2, :], 0) - np.minimum(newest[..., 2:3, :], 0)
    known = ~np.isnan(ranges)
    mean: NDArray[np.float64] = np.where(known, ranges, 0).sum(axis=-1) / np.maximum(1, known.sum(axis=-1))
    return mean[..., None]


def _ranked(moves: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return `count` past returns of each field in ascending order, at the midpoints of equal parts."""
    known = (~np.isnan(moves)).sum(axis=-1, keepdims=True)
    at = ((np.arange(count) + 0.5) / count * known).astype(int)
    return np.take_along_axis(np.sort(moves, axis=-1), at, axis=-1)
