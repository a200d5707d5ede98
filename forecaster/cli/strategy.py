"""Strategies in commands: load one by its dotted name, get its signal now, and backtest it on a replay."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from forecaster.cli.options import AsOfOption, ConfigOption, JsonOption, SeriesOption, StoreOption, as_of_ms, listed
from forecaster.cli.printing import print_record, say
from forecaster.errors import ConfigError, MissingBars
from forecaster.formatting import format_value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from forecaster.bars import SeriesKey
    from forecaster.engine import Forecaster
    from forecaster.replay.backtest import Account, BacktestResult
    from forecaster.replay.strategy import Strategy, TradingRules

StrategyOption = Annotated[
    str, typer.Option("--strategy", help="Dotted name, such as strategies.trend or package.module:function.")
]
_EXPECTED = "a module with a function of its own name, or package.module:function; known are"
_IMPORTABLE = "a module that can be imported"
_ARGUMENTS = "a function of forecast, position and context"


@dataclasses.dataclass(frozen=True)
class TradePlan:
    """A strategy to backtest on a replay.

    Args:
        strategy: dotted name.
        rules: costs and limits.
        span: cutoffs in [start, end), UTC ms.
        out: the page to write, if any.
    """

    strategy: str
    rules: TradingRules
    span: tuple[int, int]
    out: Path | None = None


def load_strategy(name: str) -> Strategy:
    """Load a strategy by its dotted name, from the installed packages or the current folder.

    `strategies` is a namespace package: modules of a folder `strategies` in the current folder are found beside those
    that are installed.

    Raises:
        ConfigError: if there is none of that name, or its module cannot be imported.
    """
    module_name, _, function = name.partition(":")
    function = function or module_name.rpartition(".")[2]
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, ValueError, TypeError) as error:
        raise ConfigError("--strategy", _expected_module(module_name, error), f"{name}: {error}") from error
    strategy = getattr(module, function, None)
    if not callable(strategy):
        candidates = listed(function, _deciders(module)) or "none"
        raise ConfigError("--strategy", f"a function {function} in {module_name}; there is {candidates}", name)
    if not _decides(strategy):
        raise ConfigError("--strategy", _ARGUMENTS, name)
    return cast("Strategy", strategy)


def _expected_module(name: str, error: Exception) -> str:
    """Say what was expected when the import failed: another name, or a module without a fault."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    is_there = isinstance(error, ImportError | SyntaxError) and (
        missing is None or not f"{name}.".startswith(f"{missing}.")
    )
    return _IMPORTABLE if is_there else f"{_EXPECTED} {listed(name, known_strategies())}"


def known_strategies() -> list[str]:
    """Return the dotted names of the available strategies: modules of `strategies` with a function of their own name.

    Modules are read, not imported.
    """
    try:
        places = importlib.import_module("strategies").__path__
    except ImportError:
        return []
    modules = [module for module in pkgutil.iter_modules(places) if not module.ispkg]
    return [f"strategies.{module.name}" for module in modules if _has_own_function(module)]


def _has_own_function(module: pkgutil.ModuleInfo) -> bool:
    """Return whether a module's text defines a function of the module's name."""
    spec = module.module_finder.find_spec(module.name, None)
    if spec is None or spec.origin is None:
        return False
    text = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    return re.search(rf"^def {re.escape(module.name)}\(", text, re.MULTILINE) is not None


def _deciders(module: ModuleType) -> list[str]:
    """Return the names of a module's own functions that take forecast, position and context."""
    public = [pair for pair in inspect.getmembers(module, inspect.isfunction) if pair[0][0] != "_"]
    return [name for name, function in public if function.__module__ == module.__name__ and _decides(function)]


def _decides(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None, None, None)
    except (TypeError, ValueError):
        return False
    return True


def live_signal(  # noqa: PLR0913, PLR0917 - one parameter for each option
    strategy: StrategyOption,
    config: ConfigOption = None,
    series: SeriesOption = None,
    weight: Annotated[float, typer.Option(min=-1, max=1, help="Current position, as a fraction of the equity.")] = 0.0,
    as_of: AsOfOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Print a strategy's signal from the latest forecast of each series: no network, no model, no order.

    With --as-of, from the latest forecast that was available at that time, with the close and the trust as known then.
    `state` is `fresh`, or `stale` if the first target bar has closed and a newer forecast should exist, or `missing`.
    If it is not `fresh`, the strategy is not called and `weight` keeps the current position.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    chosen, until = load_strategy(strategy), as_of_ms(as_of, now_ms())
    with Forecaster.from_config(config, store) as forecaster:
        signals = [_signal(forecaster, key, chosen, weight, until) for key in forecaster.select(series)]
    if json_:
        typer.echo(json.dumps({"strategy": strategy, "as_of": until, "signals": signals}))
        return
    for record in signals:
        print_record(record, json_=False)


def trade_replay(
    forecaster: Forecaster, keys: Sequence[SeriesKey], run_id: str, plan: TradePlan, as_of: int
) -> dict[str, object]:
    """Backtest a strategy on the forecasts of a replay, write the page, and return the figures.

    Each series starts with the same capital; `portfolio` combines several. The figures are those of
    `performance.Performance`, for the strategy and for buy-and-hold at the same costs.

    Raises:
        ConfigError: for an unknown strategy, or files that cannot be written.
        InvalidArgument: for a series without a forecast in the span.
    """
    from forecaster.replay.backtest import combine_accounts
    from forecaster.replay.backtest_report import BacktestReport, write_backtest_report

    strategy = load_strategy(plan.strategy)
    results = [_trade(forecaster, key, run_id, (strategy, plan), as_of) for key in keys]
    report = BacktestReport(plan.strategy, run_id, plan.rules, results)
    accounts = {result.account.name: (result.account, result.benchmark) for result in results}
    if len(results) > 1:
        own = combine_accounts([result.account for result in results])
        accounts["portfolio"] = (own, combine_accounts([result.benchmark for result in results]))
    if plan.out is not None:
        write_backtest_report(report, plan.out)
    return {
        "strategy": plan.strategy,
        "run": run_id,
        "rules": dataclasses.asdict(plan.rules),
        "accounts": {name: _figures(*pair) for name, pair in accounts.items()},
        "report": None if plan.out is None else str(plan.out),
    }


def print_trades(record: dict[str, object]) -> None:
    """Print the figures of `trade_replay`, one paragraph per account."""
    accounts = cast("dict[str, dict[str, object]]", record["accounts"])
    for name, account in accounts.items():
        own, benchmark = (cast("dict[str, float | None]", account[key]) for key in ("strategy", "buy_and_hold"))
        say(f"{name}: {account['verdict']}", bold=True)
        for figure, value in own.items():
            say(f"  {figure:16} {format_value(value):>14}   buy and hold {format_value(benchmark[figure]):>14}")
    if record["report"] is not None:
        say(f"report: {record['report']}")


def _trade(
    forecaster: Forecaster, key: SeriesKey, run_id: str, by: tuple[Strategy, TradePlan], as_of: int
) -> BacktestResult:
    from forecaster.replay.backtest import run_backtest
    from forecaster.replay.run_forecasts import TrustHistory, read_forecasts

    strategy, plan = by
    reader, name = forecaster.reader, forecaster.model_name
    bars = reader.bars(key, run_id=run_id)
    if not len(bars):
        raise MissingBars(key, plan.span[0], None)
    span = (max(plan.span[0], int(bars.close_time[0])), min(plan.span[1], int(bars.close_time[-1]) + 1))
    trust = TrustHistory(reader.settled(key, as_of, run_id=run_id), bars, name)
    return run_backtest(strategy, read_forecasts(reader, key, name, run_id, span), bars, plan.rules, trust.at)


def _figures(account: Account, benchmark: Account) -> dict[str, object]:
    from forecaster.replay.performance import compute_performance, verdict

    own, benchmark_figures = compute_performance(account), compute_performance(benchmark)
    return {
        "verdict": verdict(own),
        "strategy": dataclasses.asdict(own),
        "buy_and_hold": dataclasses.asdict(benchmark_figures),
        "ruined_at": account.ruined_at,
    }


def _signal(forecaster: Forecaster, key: SeriesKey, strategy: Strategy, weight: float, as_of: int) -> dict[str, object]:
    """Return the signal of one series as a record."""
    from forecaster.replay.strategy import Position, Signal, StrategyContext, call_strategy

    name = (key.exchange, key.symbol, str(key.timeframe))
    latest = forecaster.latest(key, as_of=as_of, max_age="any")
    if latest is None:
        state, signal = "missing", Signal(weight, "no forecast: the position is kept")
    elif latest.is_stale(as_of):
        state, signal = "stale", Signal(weight, "the latest forecast is stale: the position is kept")
    else:
        open_time = int(key.trading_calendar.last_opens(key.timeframe, latest.cutoff, 1)[0])
        bars = forecaster.reader.bars(key, open_time, open_time + 1, as_of)
        if not len(bars):
            raise MissingBars(key, latest.cutoff, None)
        context = StrategyContext(float(bars.close[-1]), forecaster.trust(name, as_of=as_of))
        state, signal = "fresh", call_strategy(strategy, latest, Position(weight), context)
    return {
        "series": str(key),
        "state": state,
        "weight": signal.weight,
        "reason": signal.reason,
        "cutoff": None if latest is None else latest.cutoff,
        "available_at": None if latest is None else latest.available_at,
        "revised": [] if latest is None else list(latest.revised),
    }
