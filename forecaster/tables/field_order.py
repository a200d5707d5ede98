"""The order of prices without names: high is the largest, low the smallest, an open is near the last close.

Shapes: T rows of a table; four prices of a row are open, high, low, close.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import Ambiguous
from forecaster.tables import FIELDS
from forecaster.tables.columns import infer_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.tables import Table

_MAJORITY: Final = 0.5
_NEARLY_ALL: Final = 0.95
_ROUNDING_TOLERANCE: Final = 1e-9
_MANY_ROWS, _MIN_ROWS = 10, 5
_HIGH, _LOW = FIELDS.index("high"), FIELDS.index("low")


def check_field_order(table: Table, ohlc_T4: NDArray[np.float64], lines: NDArray[np.int64]) -> None:
    """Check that prices without names are open, high, low, close, except in a few broken rows.

    Args:
        table: a table without names.
        ohlc_T4: its prices in column order, the oldest row first; NaN for empty cells.
        lines: (T,) line or row numbers.

    Raises:
        Ambiguous: if all rows fit another order, or few fit this one; names `columns`.
    """
    is_priced = np.isfinite(ohlc_T4).all(axis=1) & (np.ptp(ohlc_T4, axis=1) > 0)
    prices = ohlc_T4[is_priced]
    fits = _fit_order(prices, _HIGH, _LOW)
    if fits.all():
        if _name_fields(prices, _HIGH, _LOW) != FIELDS:
            raise _ambiguous_order(table, "an open that is the close of the next bar", ("close", "high", "low", "open"))
        return
    fractions = {(high, low): float(_fit_order(prices, high, low).mean()) for high, low in permutations(range(4), 2)}
    best = max(fractions, key=fractions.__getitem__)
    is_rare = fits.mean() < _MAJORITY
    if not (fractions[best] == 1 or is_rare):
        return
    reason = f"prices which are not {', '.join(FIELDS)} in {table.row_unit} {lines[is_priced][np.argmin(fits)]}"
    is_clear = (
        fractions[best] >= _NEARLY_ALL and np.median(np.ptp(prices, axis=1) / np.abs(prices).max(axis=1)) < _MAJORITY
    )
    raise _ambiguous_order(table, reason, _name_fields(prices, *best) if is_clear else ())


def _ambiguous_order(table: Table, reason: str, order: Sequence[str]) -> Ambiguous:
    suggestion = f": their order may be {', '.join(order)}" if order else ""
    return Ambiguous(
        table.source,
        "columns",
        _columns_option(table, order or FIELDS),
        f"no names of columns, and {reason}{suggestion}",
    )


def _columns_option(table: Table, order: Sequence[str]) -> str:
    """Return the columns of a table without names in the form of `ParseOptions.columns`."""
    columns = infer_columns(table)
    roles = dict.fromkeys(columns.time, "open_time")
    roles |= {place: order[FIELDS.index(name)] if name in FIELDS else name for name, place in columns.fields.items()}
    return ",".join(roles.get(place, "") for place in range(max(roles) + 1))


def _fit_order(prices: NDArray[np.float64], high: int, low: int) -> NDArray[np.bool_]:
    """Return in which rows one price is the highest and another the lowest, within rounding."""
    near = _ROUNDING_TOLERANCE * np.abs(prices).max(axis=1)
    is_high: NDArray[np.bool_] = prices[:, high] >= prices.max(axis=1) - near
    is_low: NDArray[np.bool_] = prices[:, low] <= prices.min(axis=1) + near
    return is_high & is_low


def _name_fields(prices: NDArray[np.float64], high: int, low: int) -> tuple[str, ...]:
    """Name the four prices; of the two between high and low the first is the open, unless the rows contradict that."""
    first, second = (place for place in range(4) if place not in {high, low})
    names = {high: "high", low: "low", first: "open", second: "close"}
    if _is_swapped(*prices[:, [first, second]].T):
        names |= {first: "close", second: "open"}
    return tuple(names[place] for place in range(4))


def _is_swapped(opens: NDArray[np.float64], closes: NDArray[np.float64]) -> bool:
    """Return whether opens are near the next close rather than the last one; few rows must all agree."""
    if len(opens) < _MIN_ROWS:
        return False
    near_next, near_last = np.abs(closes[1:] - opens[:-1]), np.abs(opens[1:] - closes[:-1])
    is_clear = bool(np.median(near_next) < np.median(near_last) / 4)
    return is_clear and (len(opens) >= _MANY_ROWS or bool((near_next <= near_last).all()))
