"""Open/high/low/close forecasts at every bar close, recorded before the outcome and scored after it.

Names are imported when they are first used, so that `import forecaster` takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forecaster.accuracy.trust import Trust
    from forecaster.bars import Bars, SeriesKey
    from forecaster.client import LedgerClient
    from forecaster.context import Context
    from forecaster.cycle.run import CycleReport
    from forecaster.engine import Forecaster
    from forecaster.errors import (
        Ambiguous,
        BadPayload,
        Banned,
        BarNotClosed,
        BarsError,
        CalendarEnds,
        ConfigError,
        ForecasterError,
        InferenceError,
        InvalidArgument,
        InvalidBars,
        InvalidContext,
        LeaseLost,
        LedgerConflict,
        LedgerMissing,
        MissingBars,
        ModelError,
        ModelLoadError,
        NonFiniteForecast,
        NotEnoughBars,
        RateLimited,
        SchemaTooNew,
        SourceError,
        SourceUnavailable,
        StaleForecast,
        StoreError,
        StoreTaken,
        StoreUnavailable,
        UnknownSymbol,
    )
    from forecaster.forecast import FieldForecast, ModelId, OHLCForecast, Provenance
    from forecaster.ledger import AccuracyReport, LedgerRow, Run, RunId, SettledRow
    from forecaster.model import Model, ModelSuite
    from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper
    from forecaster.replay.backtest import Account, BacktestResult, Fill, run_backtest
    from forecaster.replay.histories import HistoryLoader
    from forecaster.replay.replay import ReplayPlan, run_replay
    from forecaster.replay.strategy import Position, Signal, Strategy, StrategyContext, TradingRules
    from forecaster.sources.memory import MemorySource
    from forecaster.store.memory import MemoryStore
    from forecaster.timeframe import Timeframe

__version__ = "0.1.0"

_MODULES = {
    "accuracy.trust": ["Trust"],
    "bars": ["Bars", "SeriesKey"],
    "client": ["LedgerClient"],
    "context": ["Context"],
    "cycle.run": ["CycleReport"],
    "engine": ["Forecaster"],
    "errors": [
        "Ambiguous",
        "BadPayload",
        "Banned",
        "BarNotClosed",
        "BarsError",
        "CalendarEnds",
        "ConfigError",
        "ForecasterError",
        "InferenceError",
        "InvalidArgument",
        "InvalidBars",
        "InvalidContext",
        "LeaseLost",
        "LedgerConflict",
        "LedgerMissing",
        "MissingBars",
        "ModelError",
        "ModelLoadError",
        "NonFiniteForecast",
        "NotEnoughBars",
        "RateLimited",
        "SchemaTooNew",
        "SourceError",
        "SourceUnavailable",
        "StaleForecast",
        "StoreError",
        "StoreTaken",
        "StoreUnavailable",
        "UnknownSymbol",
    ],
    "forecast": ["FieldForecast", "ModelId", "OHLCForecast", "Provenance"],
    "ledger": ["AccuracyReport", "LedgerRow", "Run", "RunId", "SettledRow"],
    "model": ["Model", "ModelSuite"],
    "model.chronos2.wrapper": ["Chronos2OHLCWrapper"],
    "replay.backtest": ["Account", "BacktestResult", "Fill", "run_backtest"],
    "replay.histories": ["HistoryLoader"],
    "replay.replay": ["ReplayPlan", "run_replay"],
    "replay.strategy": ["Position", "Signal", "Strategy", "StrategyContext", "TradingRules"],
    "sources.memory": ["MemorySource"],
    "store.memory": ["MemoryStore"],
    "timeframe": ["Timeframe"],
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Account",
    "AccuracyReport",
    "Ambiguous",
    "BacktestResult",
    "BadPayload",
    "Banned",
    "BarNotClosed",
    "Bars",
    "BarsError",
    "CalendarEnds",
    "Chronos2OHLCWrapper",
    "ConfigError",
    "Context",
    "CycleReport",
    "FieldForecast",
    "Fill",
    "Forecaster",
    "ForecasterError",
    "HistoryLoader",
    "InferenceError",
    "InvalidArgument",
    "InvalidBars",
    "InvalidContext",
    "LeaseLost",
    "LedgerClient",
    "LedgerConflict",
    "LedgerMissing",
    "LedgerRow",
    "MemorySource",
    "MemoryStore",
    "MissingBars",
    "Model",
    "ModelError",
    "ModelId",
    "ModelLoadError",
    "ModelSuite",
    "NonFiniteForecast",
    "NotEnoughBars",
    "OHLCForecast",
    "Position",
    "Provenance",
    "RateLimited",
    "ReplayPlan",
    "Run",
    "RunId",
    "SchemaTooNew",
    "SeriesKey",
    "SettledRow",
    "Signal",
    "SourceError",
    "SourceUnavailable",
    "StaleForecast",
    "StoreError",
    "StoreTaken",
    "StoreUnavailable",
    "Strategy",
    "StrategyContext",
    "Timeframe",
    "TradingRules",
    "Trust",
    "UnknownSymbol",
    "__version__",
    "run_backtest",
    "run_replay",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in _MODULE_OF:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
