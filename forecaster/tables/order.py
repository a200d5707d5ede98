"""In which order prices without names stand: high holds the others, low is below them, an open is near the last close.

Shapes: T rows of a table; four prices of a row are open, high, low, close.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import Ambiguous
from forecaster.tables import FIELDS
from forecaster.tables.columns import columns_by_content

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.tables import Table

_MOST: Final = 0.5
_NEARLY_ALL: Final = 0.95
_ROUNDING: Final = 1e-9
_ENOUGH, _FEWEST = 10, 5
_HIGH, _LOW = FIELDS.index("high"), FIELDS.index("low")


def check_order(table: Table, ohlc_T4: NDArray[np.float64], lines: NDArray[np.int64]) -> None:
    """Verify that prices without names are open, high, low, close, but for a few broken rows.

    Args:
        table: a table without names.
        ohlc_T4: its prices, in the order of its columns, the oldest row first; NaN where a cell says nothing.
        lines: (T,) what people call each row.

    Raises:
        Ambiguous: another order of the four holds in all rows, or this one in few.
    """
    is_told = np.isfinite(ohlc_T4).all(axis=1) & (np.ptp(ohlc_T4, axis=1) > 0)
    prices = ohlc_T4[is_told]
    held = _holds(prices, _HIGH, _LOW)
    if held.all():
        if _order(prices, _HIGH, _LOW) != FIELDS:
            raise _other_order(table, "an open that is the close of the next bar", ("close", "high", "low", "open"))
        return
    shares = {(high, low): float(_holds(prices, high, low).mean()) for high, low in permutations(range(4), 2)}
    best = max(shares, key=shares.__getitem__)
    is_rare = held.mean() < _MOST
    if not (shares[best] == 1 or is_rare):
        return
    found = f"prices which are not {', '.join(FIELDS)} in {table.place} {lines[is_told][np.argmin(held)]}"
    is_found = shares[best] >= _NEARLY_ALL and np.median(np.ptp(prices, axis=1) / np.abs(prices).max(axis=1)) < _MOST
    raise _other_order(table, found, _order(prices, *best) if is_found else ())


def _other_order(table: Table, found: str, order: Sequence[str]) -> Ambiguous:
    guess = f": their order may be {', '.join(order)}" if order else ""
    return Ambiguous(
        table.source, "columns", _written(table, order or FIELDS), f"no names of columns, and {found}{guess}"
    )


def _written(table: Table, order: Sequence[str]) -> str:
    """Write the columns of a table without names as `Reading.columns` has them."""
    columns = columns_by_content(table)
    roles = dict.fromkeys(columns.time, "open_time")
    roles |= {place: order[FIELDS.index(name)] if name in FIELDS else name for name, place in columns.fields.items()}
    return ",".join(roles.get(place, "") for place in range(max(roles) + 1))


def _holds(prices: NDArray[np.float64], high: int, low: int) -> NDArray[np.bool_]:
    """Tell in which rows one price is the highest and another the lowest, but for a rounding."""
    near = _ROUNDING * np.abs(prices).max(axis=1)
    is_high: NDArray[np.bool_] = prices[:, high] >= prices.max(axis=1) - near
    is_low: NDArray[np.bool_] = prices[:, low] <= prices.min(axis=1) + near
    return is_high & is_low


def _order(prices: NDArray[np.float64], high: int, low: int) -> tuple[str, ...]:
    """Name the four prices; of the two between high and low the first is the open, unless the rows tell otherwise."""
    first, second = (place for place in range(4) if place not in {high, low})
    names = {high: "high", low: "low", first: "open", second: "close"}
    if _is_swapped(*prices[:, [first, second]].T):
        names |= {first: "close", second: "open"}
    return tuple(names[place] for place in range(4))


def _is_swapped(opens: NDArray[np.float64], closes: NDArray[np.float64]) -> bool:
    """Tell whether each open is near the close of the next bar rather than of the one before; in few rows, of all."""
    if len(opens) < _FEWEST:
        return False
    near_next, near_last = np.abs(closes[1:] - opens[:-1]), np.abs(opens[1:] - closes[:-1])
    is_clear = bool(np.median(near_next) < np.median(near_last) / 4)
    return is_clear and (len(opens) >= _ENOUGH or bool((near_next <= near_last).all()))
