"""Forecasts as columns of a freqtrade frame.

freqtrade's `date` is the open of a bar in UTC, and its last row has closed; live, `populate_indicators` runs at every
bar, in a backtest once over all. Its pairs are ccxt's symbols, as ours are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from forecaster import SeriesKey
from strategies.adapters.align import align

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from forecaster import OHLCForecast
    from strategies.adapters.align import ForecastQuery, Ledger


def add_forecasts(
    frame: pd.DataFrame,
    metadata: Mapping[str, str],
    forecasts: Ledger | Sequence[OHLCForecast],
    query: ForecastQuery,
    *,
    exchange: str,
    timeframe: str,
) -> pd.DataFrame:
    """Add forecasts to the bars of `populate_indicators`.

    Args:
        frame: as passed by freqtrade, with a column `date`.
        metadata: as passed by freqtrade; `pair` is the symbol.
        forecasts: a ledger, or recorded forecasts in hand.
        query: selects forecasts and columns.
        exchange: its name in ccxt, freqtrade and the forecaster's configuration.
        timeframe: the strategy's.

    Returns:
        The same rows and columns, and those of `align`.

    Raises:
        ValueError: as `align` does.
    """
    return align(frame, forecasts, query, key=SeriesKey(exchange, metadata["pair"], timeframe))
