"""The backtest of a strategy as one HTML file: equity, drawdown, exposure, fills and figures, beside buy-and-hold.

The page fetches nothing: plotly is inlined. Names and reasons are escaped.

Shapes: T bars, P points that are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go

from forecaster.accuracy.report.fan_chart import (
    BLUE,
    CaptionedFigure,
    draw_candles,
    format_opens,
    make_figure,
    plotly_time,
)
from forecaster.accuracy.report.page import SummaryCard, figure_json, render
from forecaster.errors import format_time
from forecaster.formatting import MISSING, format_percent, format_price
from forecaster.output_files import write_text
from forecaster.replay.backtest import combine_accounts
from forecaster.replay.performance import compute_performance, drawdown_of, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from forecaster.bars import Bars
    from forecaster.replay.backtest import Account, BacktestResult, Fill
    from forecaster.replay.performance import Performance
    from forecaster.replay.strategy import TradingRules

STRATEGY: Final = "strategy"
BENCHMARK: Final = "buy and hold"
_COLOURS: Final = {STRATEGY: BLUE, BENCHMARK: "#d9822b"}
_MAX_POINTS: Final = 1500
"""Most points of a line: a screen has no more columns."""
_CANDLES: Final = 160
_TICKS: Final = 5


@dataclass(frozen=True, eq=False)
class BacktestReport:
    """The backtests of a strategy on the forecasts of a run, one for each series, under the same rules.

    Args:
        strategy: dotted name.
        run_id: the run.
        rules: of all backtests.
        results: one for each series.
    """

    strategy: str
    run_id: str
    rules: TradingRules
    results: Sequence[BacktestResult]


@dataclass(frozen=True, eq=False)
class _Part:
    """An account and its benchmark; `bars` is None for the portfolio."""

    account: Account
    benchmark: Account
    bars: Bars | None = None

    @property
    def named(self) -> dict[str, Account]:
        return {BENCHMARK: self.benchmark, STRATEGY: self.account}


def write_backtest_report(report: BacktestReport, path: Path) -> int:
    """Write the page; return its size in bytes.

    Raises:
        ConfigError: when the file cannot be written.
    """
    parts = [_section(part, report.rules) for part in _parts(report)]
    return write_text(render("backtest.html", report=report, parts=parts), path, "page")


def describe_limits(account: Account, performance: Performance, rules: TradingRules) -> list[str]:
    """Return the assumptions and limits of a backtest, as sentences."""
    sentences = [
        f"Every trade pays {rules.fee_bps:g} bps and is {rules.slippage_bps:g} bps worse than the open.",
        f"Total costs: {performance.costs:.1%} of the capital.",
        _describe_rules(rules),
        f"{performance.trades} trades in {performance.years:.1f} years: {verdict(performance)}.",
        "Not simulated: funding, borrowing costs, partial fills, market impact.",
        "This is one strategy on one history. Of twenty strategies without skill, one looks good by chance.",
    ]
    if performance.years < 1:
        sentences.insert(4, "Less than a year: annualised figures are unreliable.")
    if performance.delayed_fills:
        sentences.append(f"{performance.delayed_fills} fills were delayed by a missing bar.")
    if account.ruined_at is not None:
        sentences.insert(0, f"The capital was lost at {format_time(account.ruined_at)}.")
    return sentences


def _describe_rules(rules: TradingRules) -> str:
    side = "long or short" if rules.shorting else "never short"
    bars = "a bar" if rules.close_after == 1 else f"{rules.close_after} bars"
    missing = "kept" if rules.close_after is None else f"closed after {bars}"
    return f"Position: at most {rules.max_weight:.0%} of the equity, {side}; without a new forecast it is {missing}."


def _parts(report: BacktestReport) -> list[_Part]:
    """The portfolio first, if there are several series."""
    parts = [_Part(result.account, result.benchmark, result.bars) for result in report.results]
    if len(parts) == 1:
        return parts
    own, benchmark = ([getattr(part, name) for part in parts] for name in ("account", "benchmark"))
    return [_Part(combine_accounts(own), combine_accounts(benchmark)), *parts]


def _weight(account: Account) -> NDArray[np.float64]:
    """Position / equity at each close, negative when short."""
    weight_T = np.zeros(len(account.equity_T))
    np.divide(account.net_T, account.equity_T, out=weight_T, where=account.equity_T > 0)
    return weight_T


def _section(part: _Part, rules: TradingRules) -> dict[str, Any]:
    """What the template shows of an account."""
    own, benchmark = compute_performance(part.account), compute_performance(part.benchmark)
    drawings = [_draw_equity(part), _draw_drawdown(part), _draw_position(part)]
    if part.bars is not None:
        drawings.append(_draw_fills(part.bars, part.account))
    return {
        "name": part.account.name,
        "cards": _cards(own, benchmark),
        "drawings": [(drawing, figure_json(drawing)) for drawing in drawings],
        "rows": _rows(own, benchmark),
        "notes": describe_limits(part.account, own, rules),
        "span": f"{format_time(part.account.start)} to {format_time(int(part.account.close_time_T[-1]))}",
    }


def _cards(own: Performance, benchmark: Performance) -> list[SummaryCard]:
    text = verdict(own)
    short = text.partition(":")[0].partition(" (")[0]
    mood = "better" if text.startswith("profitable") else "worse" if text.startswith("unprofitable") else ""
    interval = "too few bars for an interval"
    if own.sharpe_lower is not None and own.sharpe_upper is not None:
        interval = f"95 % interval {own.sharpe_lower:+.2f} to {own.sharpe_upper:+.2f}"
    returns, drawdowns = (
        [format_percent(getattr(performance, name)) for performance in (own, benchmark)]
        for name in ("total_return", "max_drawdown")
    )
    sharpe = f"{interval}; {BENCHMARK}: {_format_ratio(benchmark.sharpe)}"
    return [
        SummaryCard("Verdict", short, text.removeprefix(short).strip(": ()"), mood),
        SummaryCard("Return after costs", returns[0], f"{BENCHMARK}: {returns[1]}"),
        SummaryCard("Sharpe ratio, annualised", _format_ratio(own.sharpe), sharpe),
        SummaryCard("Maximum drawdown", drawdowns[0], f"{BENCHMARK}: {drawdowns[1]}"),
        SummaryCard("Trades", f"{own.trades:,}", f"{format_percent(own.hit_rate)} profitable after costs"),
        SummaryCard("Costs", format_percent(own.costs), "of the capital, fees and slippage"),
    ]


def _rows(own: Performance, benchmark: Performance) -> list[tuple[str, str, str]]:
    """The table: name, strategy, benchmark."""
    columns: dict[str, Callable[[Performance], str]] = {
        "return": lambda p: format_percent(p.total_return),
        "annual return (CAGR)": lambda p: format_percent(p.cagr),
        "volatility, annualised": lambda p: format_percent(p.volatility),
        "Sharpe ratio, annualised": lambda p: _format_ratio(p.sharpe),
        "… 95 % interval": lambda p: f"{_format_ratio(p.sharpe_lower)} to {_format_ratio(p.sharpe_upper)}",
        "Sortino ratio, annualised": lambda p: _format_ratio(p.sortino),
        "maximum drawdown": lambda p: format_percent(p.max_drawdown),
        "… days to recovery, or to the end": lambda p: f"{p.drawdown_days:,.1f}",
        "annual turnover / equity": lambda p: f"{p.turnover:,.1f}",
        "mean exposure": lambda p: format_percent(p.exposure),
        "costs / capital": lambda p: format_percent(p.costs),
        "fills": lambda p: f"{p.fills:,}",
        "trades": lambda p: f"{p.trades:,}",
        "profitable trades": lambda p: format_percent(p.hit_rate),
        "bars": lambda p: f"{p.bars:,}",
    }
    return [(name, text(own), text(benchmark)) for name, text in columns.items()]


def _format_ratio(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _draw_equity(part: _Part) -> CaptionedFigure:
    accounts = part.named.items()
    lines = [_line(name, account.close_time_T, account.equity_T, "%{y:,.2f}") for name, account in accounts]
    ends = "; ".join(f"{name} {account.equity_T[-1]:,.2f}" for name, account in accounts)
    label = f"Capital {part.account.capital:,.2f}. Final equity: {ends}."
    return CaptionedFigure("Equity at each close, after costs", label, make_figure(lines, y_title="equity"), wide=True)


def _draw_drawdown(part: _Part) -> CaptionedFigure:
    drawdowns = {name: (account, drawdown_of(account)) for name, account in part.named.items()}
    lines = [_line(name, account.close_time_T, fall_T, "%{y:.1%}") for name, (account, fall_T) in drawdowns.items()]
    figure = make_figure(lines, y_title="below the peak")
    figure.update_yaxes(tickformat=".0%")
    values = "; ".join(f"{name} {fall_T.min():.1%}" for name, (_, fall_T) in drawdowns.items())
    return CaptionedFigure("Drawdown", f"Maximum drawdown: {values}.", figure)


def _draw_position(part: _Part) -> CaptionedFigure:
    weight_T = _weight(part.account)
    lines = [_line(STRATEGY, part.account.close_time_T, weight_T, "%{y:.0%} of the equity")]
    figure = make_figure(lines, y_title="position / equity")
    figure.update_yaxes(tickformat=".0%")
    label = f"Position / equity, negative when short: between {weight_T.min():.0%} and {weight_T.max():.0%}."
    return CaptionedFigure("Position", label, figure)


def _line(name: str, time_T: NDArray[np.int64], values_T: NDArray[np.float64], hover: str) -> Any:
    shown_P = np.unique(np.linspace(0, len(time_T) - 1, _MAX_POINTS).round().astype(int))
    return go.Scatter(
        x=[plotly_time(time) for time in time_T[shown_P]], y=values_T[shown_P].tolist(), mode="lines", name=name,
        line={"color": _COLOURS[name], "width": 2 if name == STRATEGY else 1.4},
        hovertemplate=f"%{{x|%Y-%m-%d %H:%M}}<br>{name} {hover}<extra></extra>",
    )  # fmt: skip


def _draw_fills(bars: Bars, account: Account) -> CaptionedFigure:
    """Draw the last bars of an account as candles, with the fills at their opens."""
    end = int(np.searchsorted(bars.close_time, account.close_time_T[-1], side="right"))
    last = bars[max(0, end - _CANDLES) : end]
    fills = [fill for fill in account.fills if fill.open_time >= last.open_time[0]]
    position = {time: i for i, time in enumerate(last.open_time.tolist())}
    traces = [draw_candles(last, list(position.values()))]
    for name, symbol, sign in (("bought", "triangle-up", 1), ("sold", "triangle-down", -1)):
        chosen = [fill for fill in fills if (fill.weight_after - fill.weight_before) * sign > 0]
        traces.append(
            go.Scatter(
                x=[position[fill.open_time] for fill in chosen], y=[fill.price for fill in chosen], mode="markers",
                name=name, marker={"symbol": symbol, "size": 10, "color": BLUE if sign > 0 else _COLOURS[BENCHMARK]},
                text=[_fill_text(fill) for fill in chosen], hoverinfo="text",
            )
        )  # fmt: skip
    figure = make_figure(traces, y_title="price")
    times = [text.replace(" ", "<br>") for text in format_opens(last.open_time, last.key.timeframe)]
    ticks = np.unique(np.linspace(0, len(last) - 1, _TICKS).astype(int)).tolist()
    figure.update_xaxes(tickvals=ticks, ticktext=[times[i] for i in ticks], rangeslider_visible=False, tickangle=0)
    label = f"{len(fills)} fills in the last {len(last)} bars."
    return CaptionedFigure(f"Fills in the last {len(last)} bars", label, figure, wide=True)


def _fill_text(fill: Fill) -> str:
    """The hover text of a fill; its reason is escaped."""
    delay = f"<br>delayed by {fill.missing_bars} missing bars" if fill.missing_bars else ""
    return (
        f"<b>{format_time(fill.open_time)}</b><br>"
        f"{fill.weight_before:+.0%} → {fill.weight_after:+.0%} at {format_price(fill.price)}"
        f"<br>cost {fill.cost:,.2f}<br>{escape(fill.reason)}{delay}"
    )
