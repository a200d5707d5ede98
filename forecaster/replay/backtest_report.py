"""What became of a capital that a strategy traded, as one HTML file and as a PNG: beside buy-and-hold, costs paid.

The page fetches nothing: plotly is inside, and names and reasons are text alone.

Shapes: T bars, P points that are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

import jinja2
import matplotlib as mpl
import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from forecaster.accuracy.report.figures import (
    BLUE,
    FONT,
    CaptionedFigure,
    candles,
    clock,
    date_of,
    figure_of,
    instant,
    price,
    share,
)
from forecaster.accuracy.report.page import SummaryCard, json_of
from forecaster.accuracy.report.pictures import draw_candles, label_times
from forecaster.output_files import atomic_write, write_text
from forecaster.replay.backtest import combine_accounts
from forecaster.replay.performance import compute_performance, drawdown_of, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from forecaster.bars import Bars
    from forecaster.replay.backtest import Account, BacktestResult, Fill
    from forecaster.replay.performance import Performance
    from forecaster.replay.strategy import TradingRules

STRATEGY: Final = "strategy"
HOLDING: Final = "buy and hold"
_COLOURS: Final = {STRATEGY: BLUE, HOLDING: "#d9822b"}
_POINTS: Final = 1500
"""A line has no more points: a screen has no more columns."""
_CANDLES: Final = 160
_TICKS: Final = 5


@dataclass(frozen=True, eq=False)
class TradeReport:
    """A strategy by its dotted name, on the forecasts of a run, under the same rules on each series."""

    strategy: str
    run_id: str
    rules: TradingRules
    traded: Sequence[BacktestResult]


@dataclass(frozen=True, eq=False)
class _Part:
    """One account beside its buy-and-hold; `bars` of a series, None of the portfolio."""

    account: Account
    benchmark: Account
    bars: Bars | None = None


def write_trade_report(report: TradeReport, path: Path) -> int:
    """Write the page; returns its size in bytes.

    Raises:
        ConfigError: when the file cannot be written.
    """
    page = _TEMPLATE.render(
        report=report,
        parts=[_shown(one, report.rules) for one in _parts(report)],
        font=Markup(FONT),  # noqa: S704 - ours
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - plotly's own, from its package
    )
    return write_text(page, path, "page")


def draw_trades(report: TradeReport, path: Path) -> None:
    """Draw equity, drawdown and what is held of the whole, and the newest fills of each series, into one PNG.

    Raises:
        ConfigError: when the file cannot be written.
    """
    whole = _parts(report)[0]
    rows = 3 + len(report.traded)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        equity, drawdown, held, *candles = figure.subplots(rows, 1)
        for name, account in _named(whole).items():
            times_T = account.close_time_T.astype("datetime64[ms]")
            equity.plot(times_T, account.equity_T, color=_COLOURS[name], linewidth=1.2, label=name)
            drawdown.plot(times_T, 100 * drawdown_of(account), color=_COLOURS[name], linewidth=1.0)
            held.plot(times_T, 100 * _held(account), color=_COLOURS[name], linewidth=0.8)
        title = f"{report.strategy} on {whole.account.name}: equity, costs paid"
        equity.set_title(title, loc="left", parse_math=False)
        equity.legend(loc="best", frameon=False)
        drawdown.set_title("drawdown, %", loc="left")
        held.set_title("held, % of the equity", loc="left")
        for axes, one in zip(candles, report.traded, strict=True):
            _draw_fills(axes, one)
        with atomic_write(path, "png") as file:
            figure.savefig(file, dpi=110, format="png")


def notes(account: Account, figures: Performance, rules: TradingRules) -> list[str]:
    """What a reader has to know before believing the figures."""
    found = [
        f"Every trade pays {rules.fee_bps:g} bps and is {rules.slippage_bps:g} bps worse than the open.",
        f"All costs came to {figures.costs:.1%} of the capital.",
        _limits(rules),
        f"{figures.trades} trades in {figures.years:.1f} years: {verdict(figures)}.",
        "Not simulated: funding, the cost of borrowing, orders that are filled in part or move the market.",
        "One strategy on one past. Whoever tries twenty finds one that luck made.",
    ]
    if figures.years < 1:
        found.insert(4, "Less than a year: figures of a year say little.")
    if figures.delayed_fills:
        found.append(f"{figures.delayed_fills} fills waited for a bar that was missing.")
    if account.ruined_at is not None:
        found.insert(0, f"At {instant(account.ruined_at)} nothing was left.")
    return found


def _limits(rules: TradingRules) -> str:
    """What the rules let the strategy hold, and what happens when no forecast comes."""
    side = "long or short" if rules.shorting else "never short"
    bars = "a bar" if rules.close_after == 1 else f"{rules.close_after} bars"
    silence = "kept" if rules.close_after is None else f"closed after {bars}"
    return f"At most {rules.max_weight:.0%} of the equity is held, {side}; without a new forecast it is {silence}."


def _parts(report: TradeReport) -> list[_Part]:
    """The portfolio first, where there is more than one series."""
    parts = [_Part(one.account, one.benchmark, one.bars) for one in report.traded]
    if len(parts) == 1:
        return parts
    return [_Part(combine_accounts([one.account for one in parts]), combine_accounts([one.benchmark for one in parts])), *parts]


def _named(part: _Part) -> dict[str, Account]:
    return {HOLDING: part.benchmark, STRATEGY: part.account}


def _held(account: Account) -> NDArray[np.float64]:
    """Share of the equity that is held at each close, below 0 when short."""
    share_T = np.zeros(len(account.equity_T))
    np.divide(account.net_T, account.equity_T, out=share_T, where=account.equity_T > 0)
    return share_T


def _shown(part: _Part, rules: TradingRules) -> dict[str, Any]:
    """What the template shows of an account."""
    own, held = compute_performance(part.account), compute_performance(part.benchmark)
    drawings = [_equity(part), _drawdown(part), _exposure(part)]
    if part.bars is not None:
        drawings.append(_fills(part.bars, part.account))
    return {
        "name": part.account.name,
        "cards": _cards(own, held),
        "drawings": [(one, json_of(one)) for one in drawings],
        "rows": _rows(own, held),
        "notes": notes(part.account, own, rules),
        "span": f"{instant(part.account.start)} to {instant(int(part.account.close_time_T[-1]))}",
    }


def _cards(own: Performance, held: Performance) -> list[SummaryCard]:
    words = verdict(own)
    short = words.partition(":")[0].partition(" (")[0]
    mood = "better" if words.startswith("earns") else "worse" if words.startswith("loses") else ""
    interval = "too few bars for an interval"
    if own.sharpe_lower is not None and own.sharpe_upper is not None:
        interval = f"95 % interval {own.sharpe_lower:+.2f} to {own.sharpe_upper:+.2f}"
    return [
        SummaryCard("Verdict", short, words.removeprefix(short).strip(": ()"), mood),
        SummaryCard("Return, costs paid", share(own.total_return), f"{HOLDING}: {share(held.total_return)}"),
        SummaryCard("Sharpe ratio of a year", _ratio(own.sharpe), f"{interval}; {HOLDING}: {_ratio(held.sharpe)}"),
        SummaryCard("Deepest drawdown", share(own.max_drawdown), f"{HOLDING}: {share(held.max_drawdown)}"),
        SummaryCard("Trades", f"{own.trades:,}", f"{share(own.hit_rate)} brought something, costs paid"),
        SummaryCard("Costs", share(own.costs), "of the capital, fees and slippage"),
    ]


def _rows(own: Performance, held: Performance) -> list[tuple[str, str, str]]:
    """The table: a figure's name, the strategy's, and that of buy-and-hold."""
    shown: dict[str, Callable[[Performance], str]] = {
        "return": lambda one: share(one.total_return),
        "return of a year (CAGR)": lambda one: share(one.cagr),
        "volatility of a year": lambda one: share(one.volatility),
        "Sharpe ratio of a year": lambda one: _ratio(one.sharpe),
        "… 95 % interval": lambda one: f"{_ratio(one.sharpe_lower)} to {_ratio(one.sharpe_upper)}",
        "Sortino ratio of a year": lambda one: _ratio(one.sortino),
        "deepest drawdown": lambda one: share(one.max_drawdown),
        "… days until the peak was back, or the end": lambda one: f"{one.drawdown_days:,.1f}",
        "traded in a year, times the equity": lambda one: f"{one.turnover:,.1f}",
        "held, mean share of the equity": lambda one: share(one.exposure),
        "costs, share of the capital": lambda one: share(one.costs),
        "fills": lambda one: f"{one.fills:,}",
        "trades": lambda one: f"{one.trades:,}",
        "trades that brought something": lambda one: share(one.hit_rate),
        "bars": lambda one: f"{one.bars:,}",
    }
    return [(name, text(own), text(held)) for name, text in shown.items()]


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _equity(part: _Part) -> CaptionedFigure:
    lines = {name: _line(name, one.close_time_T, one.equity_T, "%{y:,.2f}") for name, one in _named(part).items()}
    said = "; ".join(f"{name} ends at {one.equity_T[-1]:,.2f}" for name, one in _named(part).items())
    figure = figure_of(list(lines.values()), y_title="equity")
    return CaptionedFigure("Equity at each close, costs paid", f"From {part.account.capital:,.2f}, {said}.", figure, wide=True)


def _drawdown(part: _Part) -> CaptionedFigure:
    lines = [_line(name, one.close_time_T, drawdown_of(one), "%{y:.1%}") for name, one in _named(part).items()]
    said = "; ".join(f"{name} {drawdown_of(one).min():.1%}" for name, one in _named(part).items())
    figure = figure_of(lines, y_title="below the peak")
    figure.update_yaxes(tickformat=".0%")
    return CaptionedFigure("Drawdown", f"At the deepest: {said}.", figure)


def _exposure(part: _Part) -> CaptionedFigure:
    account = part.account
    held_T = _held(account)
    figure = figure_of([_line(STRATEGY, account.close_time_T, held_T, "%{y:.0%} of the equity")], y_title="held")
    figure.update_yaxes(tickformat=".0%")
    label = f"Share of the equity that is held, short below 0: between {held_T.min():.0%} and {held_T.max():.0%}."
    return CaptionedFigure("What is held", label, figure)


def _line(name: str, time_T: NDArray[np.int64], values_T: NDArray[np.float64], hover: str) -> Any:
    shown_P = np.unique(np.linspace(0, len(time_T) - 1, _POINTS).round().astype(int))
    return go.Scatter(
        x=[date_of(time) for time in time_T[shown_P]], y=values_T[shown_P].tolist(), mode="lines", name=name,
        line={"color": _COLOURS[name], "width": 2 if name == STRATEGY else 1.4},
        hovertemplate=f"%{{x|%Y-%m-%d %H:%M}}<br>{name} {hover}<extra></extra>",
    )  # fmt: skip


def _newest(bars: Bars, account: Account) -> tuple[Bars, list[Fill]]:
    """The last bars of an account, and the fills at their opens."""
    end = int(np.searchsorted(bars.close_time, account.close_time_T[-1], side="right"))
    some = bars[max(0, end - _CANDLES) : end]
    return some, [one for one in account.fills if one.open_time >= some.open_time[0]]


def _fills(bars: Bars, account: Account) -> CaptionedFigure:
    """Candles of the last bars, and where the strategy bought and sold."""
    some, fills = _newest(bars, account)
    title = f"Fills on the last {len(some)} bars"
    place = {time: i for i, time in enumerate(some.open_time.tolist())}
    traces = [candles(some, list(place.values()))]
    for name, symbol, sign in (("bought", "triangle-up", 1), ("sold", "triangle-down", -1)):
        chosen = [one for one in fills if (one.weight_after - one.weight_before) * sign > 0]
        traces.append(
            go.Scatter(
                x=[place[one.open_time] for one in chosen], y=[one.price for one in chosen], mode="markers", name=name,
                marker={"symbol": symbol, "size": 10, "color": BLUE if sign > 0 else _COLOURS[HOLDING]},
                text=[_fill_text(one) for one in chosen], hoverinfo="text",
            )
        )  # fmt: skip
    figure = figure_of(traces, y_title="price")
    times = [text.replace(" ", "<br>") for text in clock(some.open_time, some.key.timeframe)]
    ticks = np.unique(np.linspace(0, len(some) - 1, _TICKS).astype(int)).tolist()
    figure.update_xaxes(tickvals=ticks, ticktext=[times[i] for i in ticks], rangeslider_visible=False, tickangle=0)
    return CaptionedFigure(title, f"{len(fills)} fills on the last {len(some)} bars.", figure, wide=True)


def _fill_text(fill: Fill) -> str:
    """What a fill says under the pointer; a reason is text alone."""
    missing_bars = f"<br>waited for {fill.missing_bars} missing bars" if fill.missing_bars else ""
    return (
        f"<b>{instant(fill.open_time)}</b><br>{fill.weight_before:+.0%} → {fill.weight_after:+.0%} at {price(fill.price)}"
        f"<br>cost {fill.cost:,.2f}<br>{escape(fill.reason)}{missing_bars}"
    )


def _draw_fills(axes: Axes, one: BacktestResult) -> None:
    some, fills = _newest(one.bars, one.account)
    place = {time: i for i, time in enumerate(some.open_time.tolist())}
    x_T = np.arange(len(some))
    draw_candles(axes, some, x_T)
    for marker, sign, colour in (("^", 1, BLUE), ("v", -1, _COLOURS[HOLDING])):
        chosen = [fill for fill in fills if (fill.weight_after - fill.weight_before) * sign > 0]
        x, y = [place[fill.open_time] for fill in chosen], [fill.price for fill in chosen]
        axes.scatter(x, y, marker=marker, s=36, color=colour, zorder=4, label="bought" if sign > 0 else "sold")
    axes.set_title(f"{one.account.name}: fills on the last {len(some)} bars", loc="left", parse_math=False)
    axes.legend(loc="best", frameon=False)
    label_times(axes, x_T, some.open_time, some.key.timeframe)


_TEMPLATE: Final = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ report.strategy }}: what it came to</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<style>
:root { color-scheme: light dark; --ink: #20242c; --soft: #5d6673; --line: #dfe3e9; --ground: #fbfbfc; --card: #fff;
  --better: #1d6fbf; --worse: #b3472a }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --soft: #9aa4b2; --line: #313843;
  --ground: #14171c; --card: #1b1f26; --better: #6fb1f2; --worse: #f08e6d } }
* { box-sizing: border-box }
body { font: 16px/1.5 {{ font }}; color: var(--ink); background: var(--ground); margin: 0 }
main, header { max-width: 84rem; margin: 0 auto; padding: 0 1.25rem }
header { padding-top: 2rem } h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem }
h2 { font-size: 1.35rem; margin: 0 0 1rem } p, li { max-width: 52rem } .soft { color: var(--soft) }
section { border-top: 1px solid var(--line); padding: 1.75rem 0 2.25rem }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: .75rem; margin: 0 0 1rem }
.card, figure, .panel { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; margin: 0 }
.card { padding: .7rem .9rem } .card dt, .card dd + dd { color: var(--soft); font-size: .85rem } .card dd { margin: 0 }
.card .value { font-size: 1.3rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums }
.better .value { color: var(--better) } .worse .value { color: var(--worse) }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: .75rem }
figure, .panel { padding: .9rem .9rem .6rem; min-width: 0 } figcaption { font-weight: 600; margin: 0 0 .3rem }
figure.wide { grid-column: 1 / -1 } .plot { height: 22rem } .panel { margin-top: .75rem; overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .28rem .6rem; border-bottom: 1px solid var(--line) } .name { text-align: left }
</style></head><body>
<header><h1>{{ report.strategy }}: what it came to</h1>
<p>On the forecasts of run “{{ report.run_id }}”, {{ report.traded | length }} series. A decision is filled at the open
of the first bar that opens once its forecast is there.</p>
<noscript><p>The figures are drawn by a script inside this file; without one, read the tables.</p></noscript></header>
<main>
{% for one in parts %}
<section aria-labelledby="name-{{ loop.index }}"><h2 id="name-{{ loop.index }}">{{ one.name }}</h2>
<p class="soft">{{ one.span }}</p>
<div class="cards">
{% for card in one.cards %}<dl class="card {{ card.mood }}"><dt>{{ card.name }}</dt>
<dd class="value">{{ card.value }}</dd><dd>{{ card.meaning }}</dd></dl>
{% endfor %}</div>
<ul>{% for note in one.notes %}<li>{{ note }}</li>{% endfor %}</ul>
<div class="figures">
{% for drawing, json in one.drawings %}<figure{% if drawing.wide %} class="wide"{% endif %}>
<figcaption>{{ drawing.title }}</figcaption>
<div class="plot" role="img" aria-label="{{ drawing.label }}"></div>
<script type="application/json">{{ json }}</script></figure>
{% endfor %}</div>
<div class="panel"><table><thead>
<tr><th class="name">figure</th><th>{{ report.strategy }}</th><th>buy and hold</th></tr></thead>
<tbody>{% for cells in one.rows %}<tr>{% for cell in cells %}<td{% if loop.first %} class="name"{% endif %}>
{{- cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
</section>
{% endfor %}
</main>
<script>{{ plotly }}</script>
<script>
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const plots = document.querySelectorAll(".plot");
function theme() {
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const found = {"font.color": colour("--soft"), "hoverlabel.bgcolor": colour("--card"),
    "hoverlabel.bordercolor": colour("--line"), "hoverlabel.font.color": colour("--ink"), "hoverlabel.align": "left"};
  for (const axis of ["xaxis", "yaxis"])
    Object.assign(found, {[axis + ".gridcolor"]: colour("--line"), [axis + ".linecolor"]: colour("--line")});
  return found;
}
plots.forEach(plot => {
  const figure = JSON.parse(plot.parentElement.querySelector("script").textContent);
  if (matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false;
  Plotly.newPlot(plot, figure.data, figure.layout, {responsive: true, displayModeBar: false})
    .then(() => Plotly.relayout(plot, theme()));
});
dark.addEventListener("change", () => plots.forEach(plot => Plotly.relayout(plot, theme())));
</script></body></html>
""")
