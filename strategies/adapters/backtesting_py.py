"""Forecasts as columns of a backtesting.py frame.

backtesting.py fills an order of `next` at the open of the next bar. On a market without pauses that is the instant at
which the bar closed. The forecast of this close is available seconds later, so the first possible fill is one bar
later. Therefore forecasts are moved down by one row by default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from strategies.adapters.align import align

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from forecaster import OHLCForecast, SeriesKey
    from strategies.adapters.align import ForecastQuery, Ledger


def add_forecasts(
    frame: pd.DataFrame,
    key: SeriesKey,
    forecasts: Ledger | Sequence[OHLCForecast],
    query: ForecastQuery,
    *,
    shift: int = 1,
) -> pd.DataFrame:
    """Add forecasts to the bars of a backtest; read them as `self.data.fc_close_q50_1`.

    Args:
        frame: Open, High, Low, Close, Volume, indexed by the open of each bar.
        key: the series.
        forecasts: a ledger, or recorded forecasts in hand.
        query: selects forecasts and columns.
        shift: 1 fills orders at the open of the second bar after the cutoff. 0 fills at the first: right for markets
            with a pause between a close and the next open, and too early for others.

    Returns:
        The same rows and columns, and those of `align`.

    Raises:
        ValueError: as `align` does.
    """
    return align(frame, forecasts, query, key=key, shift=shift)
