"""The report that people look at: candles under their forecasts as a PNG, and tables around it as HTML.

Shapes: T bars, H steps.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from forecaster.forecast import interpolate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from forecaster.bars import Bars
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import AccuracyReport, SettledRow

BARS_SHOWN = 60
_INK, _FAINT, _RISE, _FALL, _FAN, _MISS = "#1f2430", "#9aa1ad", "#4b9b7a", "#c26a5a", "#3b6fb6", "#d1495b"


@dataclass(frozen=True)
class Chart:
    """One series of the picture: its bars, a forecast whose outcome is among them, its settled next-bar closes."""

    bars: Bars
    forecast: OHLCForecast
    next_closes: Sequence[SettledRow]


@dataclass(frozen=True)
class Page:
    """What the page says: a title, the headline figures as (name, value, meaning), and the scores."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str, str]]
    reports: Sequence[AccuracyReport]
    notes: Sequence[str]


def draw_charts(charts: Sequence[Chart], path: Path) -> None:
    """Draw a row for each series: next-bar intervals over the candles that came, and one fan over its outcome."""
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(13, 4.2 * len(charts)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(charts), 2, squeeze=False)
        for (left, right), chart in zip(grid, charts, strict=True):
            _draw_intervals(left, chart)
            _draw_fan(right, chart)
        figure.savefig(path, dpi=110)


def write_page(page: Page, picture: Path, path: Path) -> None:
    """Write the page with its picture inside: one file, no script, nothing fetched."""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    path.write_text(_TEMPLATE.render(page=page, picture=encoded), encoding="utf-8")


def _draw_intervals(axes: Axes, chart: Chart) -> None:
    """Candles, and over each the 80 % interval that had been forecast for its close one bar before."""
    bars = chart.bars[-BARS_SHOWN:]
    _draw_candles(axes, bars, np.arange(len(bars)))
    place = {int(time): i for i, time in enumerate(bars.open_time)}
    shown = [one for one in chart.next_closes if one.row.target_open in place]
    if shown:
        x = np.array([place[one.row.target_open] for one in shown])
        values = np.stack([one.row.values_Q for one in shown])
        levels = shown[0].row.quantile_levels
        lower, middle, upper = (interpolate(values, levels, level) for level in (0.1, 0.5, 0.9))
        actual = np.array([one.actual for one in shown])
        missed = (actual < lower) | (actual > upper)
        axes.fill_between(x, lower, upper, color=_FAN, alpha=0.18, linewidth=0, label="80% interval of the close")
        axes.plot(x, middle, color=_FAN, linewidth=0.9, label="median")
        axes.scatter(x[missed], actual[missed], s=16, color=_MISS, zorder=4, label="close outside")
        share = 1 - missed.mean()
        axes.set_title(f"{chart.bars.key}: each close, as forecast one bar before ({share:.0%} inside)", loc="left")
        axes.legend(loc="best", frameon=False)
    _label_times(axes, bars)


def _draw_fan(axes: Axes, chart: Chart) -> None:
    """The last bars before a cutoff, the forecast's fan, and the candles that came."""
    forecast = chart.forecast
    first = int(np.searchsorted(chart.bars.close_time, forecast.cutoff, side="right"))
    bars = chart.bars[max(0, first - BARS_SHOWN // 2) : first + forecast.horizon]
    start = min(first, BARS_SHOWN // 2)
    x_H = np.arange(start - 1, start + forecast.horizon)
    last_close = chart.bars.close[first - 1]
    for level, alpha in ((0.01, 0.10), (0.1, 0.18), (0.25, 0.28)):
        lower_H, upper_H = (_from_cutoff(last_close, forecast.quantile("close", q)) for q in (level, 1 - level))
        label = f"{1 - 2 * level:.0%} interval of the close"
        axes.fill_between(x_H, lower_H, upper_H, color=_FAN, alpha=alpha, linewidth=0, label=label)
    axes.plot(x_H, _from_cutoff(last_close, forecast.median()), color=_FAN, linewidth=1.2, label="median")
    _draw_candles(axes, bars, np.arange(len(bars)))
    axes.axvline(start - 0.5, color=_FAINT, linewidth=0.8, linestyle=":")
    axes.set_title(f"{chart.bars.key}: fan of {forecast.horizon} bars over what came", loc="left")
    axes.legend(loc="best", frameon=False)
    _label_times(axes, bars)


def _from_cutoff(last_close: float, values_H: NDArray[np.float64]) -> NDArray[np.float64]:
    """A line that starts at the last close."""
    return np.concatenate([[last_close], values_H])


def _draw_candles(axes: Axes, bars: Bars, x_T: NDArray[np.int64]) -> None:
    open_, high, low, close, _ = bars.ohlcv_TF.T
    colours = np.where(close >= open_, _RISE, _FALL).tolist()
    axes.vlines(x_T, low, high, color=colours, linewidth=0.8)
    body = np.maximum(np.abs(close - open_), (high.max() - low.min()) * 1e-3)
    axes.bar(x_T, body, bottom=np.minimum(open_, close), color=colours, width=0.65)


def _label_times(axes: Axes, bars: Bars) -> None:
    places = np.linspace(0, len(bars) - 1, 5).astype(int)
    times = bars.open_time[places].astype("datetime64[ms]")
    axes.set_xticks(places, np.datetime_as_string(times, unit="D" if bars.key.timeframe.is_daily else "m"))
    axes.tick_params(colors=_INK, length=2)


_TEMPLATE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string("""
{%- macro skill_cell(skill) %}{% if skill is none %}<td>–</td>{% else -%}
<td class="{{ 'better' if skill > 0 else 'worse' if skill < 0 }}">{{ "%+.3f" % skill }}</td>{% endif %}{% endmacro -%}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ page.title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2430; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0 }
.figure { border: 1px solid #dfe3ea; border-radius: .5rem; padding: .7rem 1rem; min-width: 10rem; flex: 1 }
.figure b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums }
.figure small { color: #5c6470 }
img { width: 100%; height: auto }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #e8ebf0 }
th { color: #5c6470; font-weight: 600 } .name { text-align: left; white-space: nowrap }
.better { color: #2d7a57 } .worse { color: #b0432f }
</style></head><body>
<h1>{{ page.title }}</h1><p>{{ page.lead }}</p>
<div class="figures">{% for name, value, meaning in page.figures %}
<div class="figure"><small>{{ name }}</small><b>{{ value }}</b><small>{{ meaning }}</small></div>{% endfor %}</div>
<img src="data:image/png;base64,{{ picture }}" alt="Candles of each series with the forecasts made before them">
<h2>Accuracy by series, model, step and field</h2>
<p>Skill is 1 − loss / loss of the random walk on the same cases: above 0 is better, below 0 worse.
MAE, pinball loss and width are in price.</p>
<div class="scroll"><table><thead><tr><th class="name">series</th><th class="name">model</th><th>step</th>
<th class="name">field</th><th>n</th><th>MAE</th><th>skill (MAE)</th><th>pinball</th><th>skill (pinball)</th>
<th>inside 80 %</th><th>width 80 %</th></tr></thead><tbody>
{% for r in page.reports %}<tr><td class="name">{{ r.key }}</td><td class="name">{{ r.model_id }}</td>
<td>{{ r.step }}</td><td class="name">{{ r.field }}</td><td>{{ r.n }}</td><td>{{ "%.4g" % r.mae }}</td>
{{ skill_cell(r.skill_mae) }}<td>{{ "%.4g" % r.pinball }}</td>
{{ skill_cell(r.skill_pinball) }}<td>{{ "%.1f" % (100 * r.coverage80) }} %</td><td>{{ "%.4g" % r.width80 }}</td></tr>
{% endfor %}</tbody></table></div>
{% for note in page.notes %}<p>{{ note }}</p>{% endfor %}
</body></html>
""")
