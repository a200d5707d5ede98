"""backtesting.py: hold while the next bar is likely to close higher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backtesting import Backtest, Strategy

from strategies.adapters.align import ForecastQuery
from strategies.adapters.backtesting_py import add_forecasts

if TYPE_CHECKING:
    import pandas as pd

    from forecaster import SeriesKey
    from strategies.adapters.align import Ledger

LONG, EXIT = 0.65, 0.35


class ForecastBreakout(Strategy):
    """Enter long at a probability of 65 % for a higher close, exit at 35 %."""

    def init(self) -> None:
        """Make the column an indicator."""
        self.prob_up = self.I(lambda: self.data.fc_prob_up_1, name="prob_up")

    def next(self) -> None:
        """Order; it fills at the next open."""
        if self.prob_up[-1] >= LONG and not self.position:
            self.buy()
        elif self.prob_up[-1] <= EXIT and self.position:
            self.position.close()


def backtest(frame: pd.DataFrame, key: SeriesKey, ledger: Ledger, shift: int = 1) -> pd.Series:
    """Run the strategy on bars (Open, High, Low, Close, Volume by open time) and the live forecasts of a ledger."""
    with_forecasts = add_forecasts(frame, key, ledger, ForecastQuery(model="nano"), shift=shift)
    return Backtest(with_forecasts, ForecastBreakout, cash=1_000_000).run()
