"""freqtrade: hold what the next bar is likely to close above.

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

LONG, OUT = 0.65, 0.35


class ForecastBreakout(IStrategy):
    """Long at 65 % or more for a higher close, out at 35 % or less, else as before."""

    timeframe = "1h"
    startup_candle_count = 0  # the forecasts were made from bars of their own
    process_only_new_candles = False  # a forecast is there seconds behind its bar: the next loop sees it
    minimal_roi: ClassVar = {}
    stoploss = -0.99

    def bot_start(self, **_: Any) -> None:
        """Open the ledger that FORECASTER_CONFIG names, to be read."""
        self.ledger = Forecaster.from_config().reader

    def populate_indicators(self, frame: DataFrame, metadata: dict[str, str]) -> DataFrame:
        """Put forecasts beside the bars."""
        wanted = ForecastQuery(model="nano", run_id=self.config.get("forecast_run", "live"))
        exchange = self.config["exchange"]["name"]
        return add_forecasts(frame, metadata, self.ledger, wanted, exchange=exchange, timeframe=self.timeframe)

    def populate_entry_trend(self, frame: DataFrame, metadata: dict[str, str]) -> DataFrame:  # noqa: ARG002 - freqtrade's
        """Go long; where there is no forecast in time, the comparison with NaN is False."""
        frame.loc[frame["fc_prob_up_1"] >= LONG, "enter_long"] = 1
        return frame

    def populate_exit_trend(self, frame: DataFrame, metadata: dict[str, str]) -> DataFrame:  # noqa: ARG002 - freqtrade's
        """Go out."""
        frame.loc[frame["fc_prob_up_1"] <= OUT, "exit_long"] = 1
        return frame
