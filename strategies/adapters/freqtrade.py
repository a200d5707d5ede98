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
    wanted: ForecastQuery,
    *,
    exchange: str,
    timeframe: str,
) -> pd.DataFrame:
    """Put forecasts beside the bars that `populate_indicators` is given.

    Args:
        frame: as it came; it has a column `date`.
        metadata: as it came; `pair` is the symbol.
        forecasts: a ledger, or recorded forecasts in hand.
        wanted: which forecasts, and which columns of them.
        exchange: as the forecaster's configuration calls it, which is ccxt's and freqtrade's name.
        timeframe: the strategy's.

    Returns:
        The same rows and columns, and those of `align`.

    Raises:
        ValueError: as `align` does.
    """
    return align(frame, forecasts, wanted, key=SeriesKey(exchange, metadata["pair"], timeframe))
