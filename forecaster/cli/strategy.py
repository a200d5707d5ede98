"""What commands need of strategies: one by its dotted name, its decision now, and what it would have come to."""

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

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from forecaster.bars import SeriesKey
    from forecaster.engine import Forecaster
    from forecaster.replay.backtest import Account, Trading
    from forecaster.replay.strategy import Rules, Strategy

StrategyOption = Annotated[
    str, typer.Option("--strategy", help="Dotted name, such as strategies.trend or package.module:function.")
]
_EXPECTED = "a module with a function of its own name, or package.module:function; known are"
_IMPORTABLE = "a module that can be imported"
_ARGUMENTS = "a function of forecast, position and outlook"


@dataclasses.dataclass(frozen=True)
class TradePlan:
    """Who trades on a replay's forecasts, and how.

    Args:
        strategy: dotted name.
        rules: what trading costs and allows.
        span: cutoffs in [start, end), UTC ms.
        out: the page to write; None writes none. `png` in the same way.
    """

    strategy: str
    rules: Rules
    span: tuple[int, int]
    out: Path | None = None
    png: Path | None = None


def load_strategy(name: str) -> Strategy:
    """Find a strategy by its dotted name, in what is installed or in the folder where the command runs.

    Raises:
        ConfigError: when there is none of that name, or its module cannot be imported.
    """
    module_name, _, function = name.partition(":")
    function = function or module_name.rpartition(".")[2]
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, ValueError, TypeError) as error:
        raise ConfigError("--strategy", _expected_module(module_name, error), f"{name}: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        there = listed(function, _deciders(module)) or "none"
        raise ConfigError("--strategy", f"a function {function} in {module_name}; there is {there}", name)
    if not _decides(found):
        raise ConfigError("--strategy", _ARGUMENTS, name)
    return cast("Strategy", found)


def _expected_module(name: str, error: Exception) -> str:
    """What was expected where importing a module of this name failed: another name, or a module without a fault."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    is_there = isinstance(error, ImportError | SyntaxError) and (
        missing is None or not f"{name}.".startswith(f"{missing}.")
    )
    return _IMPORTABLE if is_there else f"{_EXPECTED} {listed(name, known_strategies())}"


def known_strategies() -> list[str]:
    """Dotted names of the strategies that can be found: modules of `strategies` with a function of their own name.

    Modules are read, not imported.
    """
    try:
        places = importlib.import_module("strategies").__path__
    except ImportError:
        return []
    modules = [module for module in pkgutil.iter_modules(places) if not module.ispkg]
    return [f"strategies.{module.name}" for module in modules if _has_own_function(module)]


def _has_own_function(module: pkgutil.ModuleInfo) -> bool:
    """Whether a module's text defines a function of the module's name."""
    spec = module.module_finder.find_spec(module.name, None)
    if spec is None or spec.origin is None:
        return False
    text = Path(spec.origin).read_text(encoding="utf-8", errors="replace")
    return re.search(rf"^def {re.escape(module.name)}\(", text, re.MULTILINE) is not None


def _deciders(module: ModuleType) -> list[str]:
    """Names of a module's own functions that take forecast, position and outlook."""
    own = {name: found for name, found in inspect.getmembers(module, inspect.isfunction) if name[0] != "_"}
    return [name for name, found in own.items() if found.__module__ == module.__name__ and _decides(found)]


def _decides(found: Callable[..., object]) -> bool:
    try:
        inspect.signature(found).bind(None, None, None)
    except (TypeError, ValueError):
        return False
    return True


def live_signal(  # noqa: PLR0913, PLR0917 - one parameter for each option
    strategy: StrategyOption,
    config: ConfigOption = None,
    series: SeriesOption = None,
    share: Annotated[float, typer.Option(min=-1, max=1, help="Share of the equity that is held now.")] = 0.0,
    as_of: AsOfOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Say what a strategy holds next, from the newest forecast of each series: no network, no model, no order.

    With --as-of, from the newest forecast that was there at that time, with the close and the trust as known then.
    `state` is `fresh`, or `stale` when the first bar that was forecast has closed and a newer forecast should exist, or
    `missing`. Then the strategy is not asked, and `share` stays what is held.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    chosen, until = load_strategy(strategy), as_of_ms(as_of, now_ms())
    with Forecaster.from_config(config, store) as forecaster:
        found = [_signal(forecaster, key, chosen, share, until) for key in forecaster.chosen(series)]
    if json_:
        typer.echo(json.dumps({"strategy": strategy, "as_of": until, "signals": found}))
        return
    for record in found:
        print_record(record, json_=False)


def trade_replay(
    forecaster: Forecaster, keys: Sequence[SeriesKey], run_id: str, plan: TradePlan, as_of: int
) -> dict[str, object]:
    """Let a strategy trade on the forecasts of a replay, write page and picture, and say what it came to.

    Each series begins with the same capital; of several, `portfolio` is the whole. Figures are those of
    `performance.Figures`, for the strategy and for buy-and-hold at the same costs.

    Raises:
        ConfigError: for a strategy that is not there, or files that cannot be written.
        InvalidContext: for a series without a forecast in the span.
    """
    from forecaster.replay.backtest import together
    from forecaster.replay.backtest_report import TradeReport, draw_trades, write_trade_report

    strategy = load_strategy(plan.strategy)
    traded = [_trade(forecaster, key, run_id, (strategy, plan), as_of) for key in keys]
    report = TradeReport(plan.strategy, run_id, plan.rules, traded)
    accounts = {one.account.name: (one.account, one.holding) for one in traded}
    if len(traded) > 1:
        whole = (together([one.account for one in traded]), together([one.holding for one in traded]))
        accounts["portfolio"] = whole
    if plan.out is not None:
        write_trade_report(report, plan.out)
    if plan.png is not None:
        draw_trades(report, plan.png)
    return {
        "strategy": plan.strategy,
        "run": run_id,
        "rules": dataclasses.asdict(plan.rules),
        "accounts": {name: _figures(*pair) for name, pair in accounts.items()},
        "report": None if plan.out is None else str(plan.out),
        "picture": None if plan.png is None else str(plan.png),
    }


def print_trades(record: dict[str, object]) -> None:
    """Print what `trade_replay` says, one paragraph for each account."""
    accounts = cast("dict[str, dict[str, object]]", record["accounts"])
    for name, told in accounts.items():
        own, held = (cast("dict[str, float | None]", told[who]) for who in ("strategy", "buy_and_hold"))
        say(f"{name}: {told['verdict']}", bold=True)
        for figure, value in own.items():
            say(f"  {figure:16} {_number(value):>14}   buy and hold {_number(held[figure]):>14}")
    for what in ("report", "picture"):
        if record[what] is not None:
            say(f"{what}: {record[what]}")


def _trade(forecaster: Forecaster, key: SeriesKey, run_id: str, by: tuple[Strategy, TradePlan], as_of: int) -> Trading:
    from forecaster.replay.backtest import trade
    from forecaster.replay.recorded import Trusted, recorded

    strategy, plan = by
    reader, name = forecaster.reader, forecaster.model_name
    bars = reader.bars(key, run_id=run_id)
    if not len(bars):
        raise MissingBars(key, plan.span[0], None)
    span = (max(plan.span[0], int(bars.close_time[0])), min(plan.span[1], int(bars.close_time[-1]) + 1))
    trust = Trusted(reader.settled(key, as_of, run_id=run_id), bars, name)
    return trade(strategy, recorded(reader, key, name, run_id, span), bars, plan.rules, trust.at)


def _figures(account: Account, holding: Account) -> dict[str, object]:
    from forecaster.replay.performance import figures_of, verdict

    own, held = figures_of(account), figures_of(holding)
    return {
        "verdict": verdict(own),
        "strategy": dataclasses.asdict(own),
        "buy_and_hold": dataclasses.asdict(held),
        "ruined_at": account.ruined_at,
    }


def _signal(forecaster: Forecaster, key: SeriesKey, strategy: Strategy, share: float, as_of: int) -> dict[str, object]:
    """The decision on one series as a record."""
    from forecaster.replay.strategy import Outlook, Position, Signal

    name = (key.exchange, key.symbol, str(key.timeframe))
    newest = forecaster.latest(*name, as_of=as_of)
    if newest is None:
        state, found = "missing", Signal(share, "there is no forecast: what is held is kept")
    elif newest.is_stale(as_of):
        state, found = "stale", Signal(share, "the newest forecast is stale: what is held is kept")
    else:
        open_time = int(key.sessions.last_opens(key.timeframe, newest.cutoff, 1)[0])
        bars = forecaster.reader.bars(key, open_time, open_time + 1, as_of)
        if not len(bars):
            raise MissingBars(key, newest.cutoff, None)
        outlook = Outlook(float(bars.close[-1]), forecaster.trust(*name, as_of=as_of))
        state, found = "fresh", strategy(newest, Position(share), outlook)
    return {
        "series": str(key),
        "state": state,
        "share": found.share,
        "reason": found.reason,
        "cutoff": None if newest is None else newest.cutoff,
        "available_at": None if newest is None else newest.available_at,
        "revised": [] if newest is None else list(newest.revised),
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
