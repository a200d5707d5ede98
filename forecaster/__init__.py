"""Open/high/low/close forecasts at every bar close, recorded before the outcome and scored after it.

The public names are loaded when they are first used: importing this package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forecaster.accuracy.trust import Trust
    from forecaster.bars import Bars, Context, SeriesKey
    from forecaster.engine import CycleReport, Forecaster
    from forecaster.errors import ForecasterError
    from forecaster.forecast import ModelId, OHLCForecast, Provenance
    from forecaster.ledger import AccuracyReport, LedgerRow, Run, RunId, SettledRow
    from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper
    from forecaster.replay.strategy import Outlook, Position, Signal, Strategy
    from forecaster.sources.memory import MemorySource
    from forecaster.store.memory import MemoryStore
    from forecaster.timeframe import Timeframe

_HOMES = {
    "AccuracyReport": "ledger",
    "Bars": "bars",
    "Chronos2OHLCWrapper": "model.chronos2.wrapper",
    "Context": "bars",
    "CycleReport": "engine",
    "Forecaster": "engine",
    "ForecasterError": "errors",
    "LedgerRow": "ledger",
    "MemorySource": "sources.memory",
    "MemoryStore": "store.memory",
    "ModelId": "forecast",
    "OHLCForecast": "forecast",
    "Outlook": "replay.strategy",
    "Position": "replay.strategy",
    "Provenance": "forecast",
    "Run": "ledger",
    "RunId": "ledger",
    "SeriesKey": "bars",
    "SettledRow": "ledger",
    "Signal": "replay.strategy",
    "Strategy": "replay.strategy",
    "Timeframe": "timeframe",
    "Trust": "accuracy.trust",
}

__all__ = [
    "AccuracyReport",
    "Bars",
    "Chronos2OHLCWrapper",
    "Context",
    "CycleReport",
    "Forecaster",
    "ForecasterError",
    "LedgerRow",
    "MemorySource",
    "MemoryStore",
    "ModelId",
    "OHLCForecast",
    "Outlook",
    "Position",
    "Provenance",
    "Run",
    "RunId",
    "SeriesKey",
    "SettledRow",
    "Signal",
    "Strategy",
    "Timeframe",
    "Trust",
]


def __getattr__(name: str) -> object:
    """Load a public name from the module it lives in."""
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
