"""nautilus_trader itself, through the strategy of the documents."""

from __future__ import annotations

from dataclasses import replace

import pytest
from nautilus_trader.model.enums import OrderSide
from nautilus_trader.test_kit.providers import TestInstrumentProvider

from docs.examples.nautilus_breakout import backtest
from tests.adapters.scene import KEY, LATENCY_MS, decisions, make_scene

pytestmark = pytest.mark.adapters


@pytest.fixture
def scene():
    return make_scene()


def fills(bars, forecasts):
    """Time (UTC ms), side and price of all fills."""
    engine = backtest(bars.frame, KEY, forecasts, TestInstrumentProvider.btcusdt_binance())
    found = [
        (event.ts_event // 1_000_000, event.order_side == OrderSide.BUY, float(event.last_px.as_decimal()))
        for order in engine.cache.orders()
        for event in order.events
        if type(event).__name__ == "OrderFilled"
    ]
    engine.dispose()
    return sorted(found)


def test_decisions_of_the_rule(scene):
    """It trades when the forecast has come, at the last price that it knows: the close at the cutoff."""
    bars, made = scene
    closes = dict(zip(bars.close_time.tolist(), bars.close.tolist(), strict=True))
    expected = decisions(bars, made)

    assert len(expected) > 40
    assert fills(bars, made) == [(one.cutoff + LATENCY_MS, one.long, closes[one.cutoff]) for one in expected]


def test_forecasts_that_take_no_time(scene):
    """Bars come before forecasts of the same instant, so a replay without latency trades at the same closes."""
    bars, made = scene
    at_once = [replace(one, available_at=one.cutoff) for one in made if one.available_at < one.cutoff + 60_000]
    closes = dict(zip(bars.close_time.tolist(), bars.close.tolist(), strict=True))

    assert fills(bars, at_once) == [(one.cutoff, one.long, closes[one.cutoff]) for one in decisions(bars, at_once)]
