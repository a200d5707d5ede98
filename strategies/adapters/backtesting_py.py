"""Forecasts as columns of a backtesting.py frame.

backtesting.py fills an order of `next` at the open of the next bar. Where bars have no break between them, that is the
instant at which the bar closed. A forecast is made from this close and is there some seconds behind it, so at the
earliest it can trade at the open of the bar after. Therefore forecasts stand one row lower by default.
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
    wanted: ForecastQuery,
    *,
    shift: int = 1,
) -> pd.DataFrame:
    """Put forecasts beside the bars of a backtest, to be read as `self.data.fc_close_q50_1`.

    Args:
        frame: Open, High, Low, Close, Volume, indexed by the open of each bar.
        key: the series.
        forecasts: a ledger, or recorded forecasts in hand.
        wanted: which forecasts, and which columns of them.
        shift: 1 lets orders fill at the open of the second bar behind the cutoff. 0, at that of the first, is right
            where markets rest between a close and the next open, and too good to be true where they do not.

    Returns:
        The same rows and columns, and those of `align`.

    Raises:
        ValueError: as `align` does.
    """
    return align(frame, forecasts, wanted, key=key, shift=shift)
