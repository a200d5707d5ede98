"""nautilus_trader: hold while the next bar is likely to close higher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nautilus_trader.backtest.config import BacktestEngineConfig
from nautilus_trader.backtest.engine import BacktestEngine
from nautilus_trader.config import LoggingConfig
from nautilus_trader.core.data import Data
from nautilus_trader.model.currencies import USDT
from nautilus_trader.model.data import Bar, BarType, CustomData, DataType
from nautilus_trader.model.enums import AccountType, OmsType, OrderSide
from nautilus_trader.model.identifiers import ClientId
from nautilus_trader.model.objects import Money
from nautilus_trader.trading.strategy import Strategy

from strategies.adapters.align import ForecastQuery
from strategies.adapters.nautilus import bar_records, forecast_records

if TYPE_CHECKING:
    import pandas as pd
    from nautilus_trader.model.instruments import Instrument

    from forecaster import SeriesKey
    from strategies.adapters.align import Ledger

LONG, EXIT = 0.65, 0.35
FORECASTER = ClientId("FORECASTER")


class Forecast(Data):
    """A record of `forecast_records` as nautilus data."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    ts_event = property(lambda self: self.record["ts_event"])
    ts_init = property(lambda self: self.record["ts_init"])


FORECASTS = DataType(Forecast)


def bar_of(record: dict[str, Any], bar_type: BarType, instrument: Instrument) -> Bar:
    """Make a bar of a record of `bar_records`."""
    prices = [instrument.make_price(record[name]) for name in ("open", "high", "low", "close")]
    return Bar(bar_type, *prices, instrument.make_qty(record["volume"]), record["ts_event"], record["ts_init"])


class ForecastBreakout(Strategy):
    """Enter long at a probability of 65 % for a higher close, exit at 35 %."""

    def __init__(self, instrument: Instrument) -> None:
        super().__init__()
        self.instrument = instrument

    def on_start(self) -> None:
        """Subscribe to forecasts."""
        self.subscribe_data(FORECASTS, client_id=FORECASTER)

    def on_data(self, forecast: Forecast) -> None:
        """Order when a forecast arrives."""
        prob_up = forecast.record["fc_prob_up_1"]
        is_long = self.portfolio.is_net_long(self.instrument.id)
        if prob_up >= LONG and not is_long:
            self.order(OrderSide.BUY)
        elif prob_up <= EXIT and is_long:
            self.order(OrderSide.SELL)

    def order(self, side: OrderSide) -> None:
        """Trade one unit at the market."""
        quantity = self.instrument.make_qty(1)
        self.submit_order(self.order_factory.market(self.instrument.id, side, quantity))


def backtest(frame: pd.DataFrame, key: SeriesKey, ledger: Ledger, instrument: Instrument) -> BacktestEngine:
    """Run the strategy on bars and the live forecasts of a ledger; return the engine, which holds orders and fills."""
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True)))
    engine.add_venue(instrument.venue, OmsType.NETTING, AccountType.CASH, [Money(1_000_000, USDT)])
    engine.add_instrument(instrument)
    bar_type = BarType.from_str(f"{instrument.id}-1-HOUR-LAST-EXTERNAL")
    engine.add_data([bar_of(record, bar_type, instrument) for record in bar_records(frame, key)])
    records = forecast_records(frame, key, ledger, ForecastQuery(model="nano"))
    engine.add_data([CustomData(FORECASTS, Forecast(record)) for record in records], client_id=FORECASTER)
    engine.add_strategy(ForecastBreakout(instrument))
    engine.run()
    return engine
