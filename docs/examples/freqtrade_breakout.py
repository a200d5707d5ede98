"""freqtrade: hold while the next bar is likely to close higher.

FORECASTER_CONFIG=config/live.toml freqtrade backtesting --strategy ForecastBreakout --strategy-path docs/examples
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from freqtrade.strategy import IStrategy

from forecaster import Forecaster
from strategies.adapters.align import ForecastQuery
from strategies.adapters.freqtrade import add_forecasts

if TYPE_CHECKING:
    from pandas import DataFrame

LONG, EXIT = 0.65, 0.35


class ForecastBreakout(IStrategy):
    """Enter long at a probability of 65 % for a higher close, exit at 35 %."""

    timeframe = "1h"
    startup_candle_count = 0  # the forecasts need no start-up bars here
    process_only_new_candles = False  # a forecast is available seconds after its bar: the next loop reads it
    minimal_roi: ClassVar = {}
    stoploss = -0.99

    def bot_start(self, **_: Any) -> None:
        """Open the ledger that FORECASTER_CONFIG names, for reading."""
        self.ledger = Forecaster.from_config().reader

    def populate_indicators(self, frame: DataFrame, metadata: dict[str, str]) -> DataFrame:
        """Add forecasts to the bars."""
        query = ForecastQuery(model="nano", run_id=self.config.get("forecast_run", "live"))
        exchange = self.config["exchange"]["name"]
        return add_forecasts(frame, metadata, self.ledger, query, exchange=exchange, timeframe=self.timeframe)

    def populate_entry_trend(self, frame: DataFrame, metadata: dict[str, str]) -> DataFrame:  # noqa: ARG002 - freqtrade's
        """Go long; without a forecast in time the comparison with NaN is False."""
        frame.loc[frame["fc_prob_up_1"] >= LONG, "enter_long"] = 1
        return frame

    def populate_exit_trend(self, frame: DataFrame, metadata: dict[str, str]) -> DataFrame:  # noqa: ARG002 - freqtrade's
        """Exit."""
        frame.loc[frame["fc_prob_up_1"] <= EXIT, "exit_long"] = 1
        return frame
