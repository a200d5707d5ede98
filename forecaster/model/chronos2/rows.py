"""The rows of a batch: checks of contexts, padding, grouping by missing values, and anchoring.

Shapes: S series, C the four price fields, B = G·S rows, G rows per group, T bars, P patches of p bars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import FIELDS
from forecaster.config import SHORTEST_CONTEXT
from forecaster.errors import InvalidArgument, InvalidContext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.context import Context


def checked_prices(contexts: Sequence[Context]) -> NDArray[np.float64]:
    """Return the prices (S, C, T) of contexts of one shape.

    Raises:
        InvalidContext: for infinite prices, a missing last bar, or too few bars.
    """
    ohlc_SCT = np.stack([context.ohlc_CT for context in contexts])
    if ohlc_SCT.shape[1:-1] != (len(FIELDS),):
        raise InvalidContext(f"context of {contexts[0].key}", "shape (4, bars)", ohlc_SCT.shape[1:])
    finite_SCT = np.isfinite(ohlc_SCT)
    invalid_S = np.isinf(ohlc_SCT).any(axis=(1, 2)) | ~finite_SCT[:, :, -1:].all(axis=(1, 2))
    if invalid_S.any():
        raise InvalidContext(
            f"context of {contexts[int(invalid_S.argmax())].key}",
            "finite prices, NaN only where a bar is missing",
            "±inf or a missing last bar",
        )
    bars_S = finite_SCT.all(axis=1).sum(axis=1)
    fewest = int(bars_S.argmin())
    if bars_S[fewest] < SHORTEST_CONTEXT:
        raise InvalidContext(
            f"context of {contexts[fewest].key}", f"at least {SHORTEST_CONTEXT} bars", int(bars_S[fewest])
        )
    return ohlc_SCT


def masked_rows(rows_BT: NDArray[np.float64], group: int, known_BT: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Return the rows with NaN where they are not known.

    Raises:
        InvalidArgument: for a mask that does not match the values.
        InvalidContext: for rows of another shape, infinite values or too few values.
    """
    if rows_BT.ndim != 2 or group < 1 or not len(rows_BT) or len(rows_BT) % group:  # noqa: PLR2004 - (B, T)
        raise InvalidContext("rows", f"shape (rows, values), rows a multiple of the group, {group}", rows_BT.shape)
    if np.isinf(rows_BT).any():
        raise InvalidContext("rows", "finite values, NaN only for missing values", "±inf")
    if known_BT is not None:
        if known_BT.shape != rows_BT.shape:
            raise InvalidArgument("mask", f"shape {rows_BT.shape}, that of its values", known_BT.shape)
        if np.isnan(rows_BT[known_BT]).any():
            raise InvalidArgument("mask", "no NaN among known values", "NaN")
        rows_BT = np.where(known_BT, rows_BT, np.nan)
    fewest = int(np.isfinite(rows_BT).reshape(-1, group, rows_BT.shape[1]).any(axis=1).sum(axis=1).min())
    if fewest < SHORTEST_CONTEXT:
        raise InvalidContext("rows", f"at least {SHORTEST_CONTEXT} values in each group", fewest)
    return rows_BT


def padded_rows(groups: Sequence[NDArray[np.float64]], length: int) -> NDArray[np.float64]:
    """Return groups as rows (S, G, T), cut to the latest values or padded on the left with NaN."""
    rows_SGT = np.full((len(groups), len(groups[0]), length), np.nan)
    for rows_GT, padded_GT in zip(groups, rows_SGT, strict=True):
        padded_GT[:, max(0, length - rows_GT.shape[1]) :] = rows_GT[:, -length:]
    return rows_SGT


def split_by_missing(rows_SGT: NDArray[np.float64], patch: int) -> list[list[int]]:
    """Return positions of the groups without gaps, of those with missing values, and of those with missing patches."""
    missing_SPp = np.isnan(rows_SGT).reshape(len(rows_SGT), -1, patch)
    value_S, patch_S = np.any(missing_SPp, axis=(1, 2)), np.any(np.all(missing_SPp, axis=2), axis=1)
    return [np.flatnonzero(mask_S).tolist() for mask_S in (~value_S, value_S & ~patch_S, patch_S)]


def anchored(rows_SGT: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Subtract the last known value of each row; return the rows and that value, (S, G).

    The subtraction is in float64, before the cast to float32, so that small differences of large prices are kept.
    """
    last_SG1 = rows_SGT.shape[2] - 1 - np.isfinite(rows_SGT[:, :, ::-1]).argmax(axis=2, keepdims=True)
    anchor_SG1 = np.nan_to_num(np.take_along_axis(rows_SGT, last_SG1, axis=2))
    return (rows_SGT - anchor_SG1).astype(np.float32), anchor_SG1[:, :, 0]
