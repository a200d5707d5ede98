"""freqtrade itself, offline: its own backtest on its own files, through the strategy of the documents."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from freqtrade.enums import RunMode
from freqtrade.exchange import Exchange
from freqtrade.optimize.backtesting import Backtesting

from tests.adapters.scene import LAG_MS, decisions, make_scene, write_ledger
from tests.builders import HOUR_MS

pytestmark = [
    pytest.mark.adapters,
    pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning"),  # its own, on pandas 3.1
]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
MARKET = {
    "id": "BTCUSDT",
    "symbol": "BTC/USDT",
    "base": "BTC",
    "quote": "USDT",
    "type": "spot",
    "spot": True,
    "active": True,
    "precision": {"amount": 1e-8, "price": 0.01},
    "limits": {"amount": {"min": 1e-8}, "price": {}, "cost": {}, "leverage": {}},
}


@pytest.fixture
def scene():
    return make_scene()


@pytest.fixture
def backtesting(tmp_path, monkeypatch, scene):
    """Set a backtest up on bars in its own format, a ledger, and markets that nobody has to fetch."""
    bars, made = scene
    monkeypatch.setenv("FORECASTER_CONFIG", str(write_ledger(tmp_path, made)))
    monkeypatch.setattr(Exchange, "_load_async_markets", lambda self, reload: self._api_async.set_markets([MARKET]))
    bars.frame.reset_index(names="date").to_feather(tmp_path / "BTC_USDT-1h.feather")
    made = Backtesting(
        {
            "runmode": RunMode.BACKTEST,
            "strategy": "ForecastBreakout",
            "strategy_path": str(EXAMPLES),
            "user_data_dir": tmp_path,
            "datadir": tmp_path,
            "dataformat_ohlcv": "feather",
            "exchange": {"name": "binance", "pair_whitelist": ["BTC/USDT"]},
            "pairlists": [{"method": "StaticPairList"}],
            "timeframe": "1h",
            "stake_currency": "USDT",
            "stake_amount": 1000,
            "dry_run": True,
            "dry_run_wallet": 1_000_000,
            "max_open_trades": 1,
            "fee": 0.0,
            "entry_pricing": {"price_side": "same"},
            "exit_pricing": {"price_side": "same"},
        }
    )
    yield made
    made.exchange.close()
    made.cleanup()


def trades_of(backtesting):
    strategy = backtesting.strategylist[0]
    backtesting.backtest_one_strategy(strategy, *backtesting.load_bt_data())
    return backtesting.all_bt_content[strategy.get_strategy_name()]["results"]


def to_ms(dates):
    return [int(date.timestamp() * 1000) for date in dates]


def test_decisions_of_the_rule(backtesting, scene):
    """It opens and closes behind the closes of the reference: at the next open, a bar before a forecast can trade."""
    expected = decisions(*scene)
    trades = trades_of(backtesting)
    found = sorted([*to_ms(trades.open_date), *to_ms(trades.close_date)])

    assert len(expected) > 40
    assert [one.long for one in expected] == [True, False] * len(trades)
    assert found == [one.cutoff for one in expected]
    assert found == [one.fill_open - HOUR_MS for one in expected]
    assert set(trades.exit_reason) == {"exit_signal"}


def test_prices_are_the_next_opens(backtesting, scene):
    trades = trades_of(backtesting)
    opens = dict(zip(scene[0].open_time.tolist(), scene[0].ohlcv_TF[:, 0].tolist(), strict=True))

    assert trades.open_rate.tolist() == [opens[time] for time in to_ms(trades.open_date)]
    assert trades.close_rate.tolist() == [opens[time] for time in to_ms(trades.close_date)]


def test_live_decides_as_the_backtest(backtesting, scene):
    """Bar by bar, on the last 30 bars and what had been forecast by then, the last row has the backtest's signal."""
    bars, made = scene
    strategy = backtesting.strategylist[0]
    strategy.ft_bot_start()
    frame = bars.frame.reset_index(names="date")
    signals = ["enter_long", "exit_long"]
    whole = strategy.analyze_ticker(frame, {"pair": "BTC/USDT"})[signals].fillna(0)
    for i in range(100, 160):
        strategy.ledger = [one for one in made if one.available_at <= bars.close_time[i] + LAG_MS]
        seen = strategy.analyze_ticker(frame[i - 29 : i + 1].reset_index(drop=True), {"pair": "BTC/USDT"})

        assert seen[signals].fillna(0).iloc[-1].tolist() == whole.iloc[i].tolist()


def test_frame_as_freqtrade_loads_it(backtesting):
    """Its rows, its OHLCV and their types are left alone."""
    loaded, _ = backtesting.load_bt_data()
    strategy = backtesting.strategylist[0]
    strategy.ft_bot_start()
    frame = loaded["BTC/USDT"]
    seen = strategy.populate_indicators(frame.copy(), {"pair": "BTC/USDT"})

    pd.testing.assert_frame_equal(seen[frame.columns], frame)
    assert (seen["fc_status"] == "ok").sum() > 250
