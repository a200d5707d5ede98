"""Pictures: what `page` shows of a series as PNGs, and the demo's own page around a PNG of candles and forecasts.

Shapes: T bars, H steps.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from forecaster.accuracy.drift import COVERAGE
from forecaster.accuracy.losses import PIT_BINS
from forecaster.accuracy.report.content import NEXT_BAR, null_band
from forecaster.accuracy.scores import RAW, SERVED
from forecaster.bars import FIELDS
from forecaster.errors import ConfigError
from forecaster.forecast import interpolate
from forecaster.output_files import atomic_write, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from forecaster.accuracy.report.content import ChartPanel, SeriesEvidence, SeriesSection
    from forecaster.accuracy.trust import Verdict
    from forecaster.bars import Bars, SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import AccuracyReport, SettledRow
    from forecaster.timeframe import Timeframe

BARS_SHOWN = 60
_INK, _FAINT, _CANDLE, _FAN, _MISS = "#1f2430", "#9aa1ad", "#6b7380", "#3b6fb6", "#d1603d"
_OTHERS = ("#d9822b", "#2a9d78", "#b36ab0", "#a08a2c", "#5aa9c9")


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
        with atomic_write(path, "png") as file:
            figure.savefig(file, dpi=110, format="png")


def draw_pictures(sections: Sequence[SeriesSection], folder: Path) -> list[Path]:
    """Draw each series into files of its own in `folder`: fans, and once something has settled, how good they were.

    Raises:
        ConfigError: when they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [path for section in sections for path in _draw_section(section, folder)]
    except OSError as error:
        raise ConfigError("png", "a folder that can be written", str(error)) from error


def write_page(page: Page, picture: Path, path: Path) -> None:
    """Write the page with its picture inside: one file, no script, nothing fetched."""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    write_text(_TEMPLATE.render(page=page, picture=encoded), path)


def _draw_intervals(axes: Axes, chart: Chart) -> None:
    """Candles, and over each the 80 % interval that had been forecast for its close one bar before."""
    bars = chart.bars[-BARS_SHOWN:]
    draw_candles(axes, bars, np.arange(len(bars)))
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
        title = f"{chart.bars.key}: each close, as forecast one bar before ({share:.0%} inside)"
        axes.set_title(title, loc="left", parse_math=False)
        axes.legend(loc="best", frameon=False)
    label_times(axes, np.arange(len(bars)), bars.open_time, bars.key.timeframe)


def _draw_fan(axes: Axes, chart: Chart) -> None:
    """The last bars before a cutoff, the forecast's fan, and the candles that came."""
    forecast = chart.forecast
    first = int(np.searchsorted(chart.bars.close_time, forecast.cutoff, side="right"))
    bars = chart.bars[max(0, first - BARS_SHOWN // 2) : first + forecast.horizon]
    start = min(first, BARS_SHOWN // 2)
    x_H = np.arange(start - 1, start + forecast.horizon)
    last_close = chart.bars.close[first - 1]
    for level, alpha in ((0.01, 0.10), (0.1, 0.18), (0.25, 0.28)):
        lower_H, upper_H = (_from_cutoff(last_close, forecast.quantile(q)) for q in (level, 1 - level))
        label = f"{1 - 2 * level:.0%} interval of the close"
        axes.fill_between(x_H, lower_H, upper_H, color=_FAN, alpha=alpha, linewidth=0, label=label)
    axes.plot(x_H, _from_cutoff(last_close, forecast.median()), color=_FAN, linewidth=1.2, label="median")
    draw_candles(axes, bars, np.arange(len(bars)))
    axes.axvline(start - 0.5, color=_FAINT, linewidth=0.8, linestyle=":")
    axes.set_title(f"{chart.bars.key}: fan of {forecast.horizon} bars over what came", loc="left", parse_math=False)
    axes.legend(loc="best", frameon=False)
    label_times(axes, np.arange(len(bars)), bars.open_time, bars.key.timeframe)


def _draw_section(section: SeriesSection, folder: Path) -> list[Path]:
    key, paths = section.key, []

    def draw(name: str, drawings: Sequence[Callable[[Axes], None]]) -> None:
        with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
            figure = Figure(figsize=(6.5 * len(drawings), 4.2), layout="constrained")
            FigureCanvasAgg(figure)
            for axes, one in zip(figure.subplots(1, len(drawings), squeeze=False)[0], drawings, strict=True):
                one(axes)
            figure.suptitle(str(key), x=0.01, ha="left", fontweight="bold", parse_math=False)
            paths.append(folder / f"{file_name(key)}-{name}.png")
            with atomic_write(paths[-1], "png") as file:
                figure.savefig(file, dpi=130, format="png")

    if section.scenes:
        draw("fan", [lambda axes, scene=scene: _draw_scene(axes, scene) for scene in section.scenes])  # type: ignore[misc]
    if section.evidence is not None:
        evidence = section.evidence
        draw("skill", [lambda axes: _draw_skill(axes, evidence)])
        draw("reliability", [lambda axes: _draw_reliability(axes, evidence), lambda axes: _draw_pit(axes, evidence)])
        draw("coverage", [lambda axes: _draw_coverage(axes, evidence)])
    return paths


def file_name(key: SeriesKey) -> str:
    """The name of a series with nothing in it that a path could not hold."""
    return re.sub(r"[^\w.]+", "-", str(key)).strip("-.")


def _draw_scene(axes: Axes, scene: ChartPanel) -> None:
    """Candles, and the fan of the close over them."""
    fan, bars = scene.fan, scene.bars
    opens = np.union1d(bars.open_time, fan.target_open_H)
    x_H = np.searchsorted(opens, fan.target_open_H)
    close_HQ = fan.served_FHQ[FIELDS.index("close")]
    for level, alpha in ((0.01, 0.10), (0.1, 0.18), (0.25, 0.28)):
        if fan.quantile_levels[0] <= level <= 1 - level <= fan.quantile_levels[-1]:
            lower_H, upper_H = (interpolate(close_HQ, fan.quantile_levels, q) for q in (level, round(1 - level, 12)))
            label = f"{1 - 2 * level:.0%}"
            axes.fill_between(x_H, lower_H, upper_H, color=_FAN, alpha=alpha, linewidth=0, label=label)
    axes.plot(
        x_H, interpolate(close_HQ, fan.quantile_levels, 0.5), color=_FAN, linewidth=1.2, label="median of the close"
    )
    if len(bars):
        draw_candles(axes, bars, np.searchsorted(opens, bars.open_time))
    axes.axvline(x_H[0] - 0.5, color=_FAINT, linewidth=0.8, linestyle=":")
    axes.set_title(scene.title, loc="left")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, frameon=False)
    label_times(axes, np.arange(len(opens)), opens, bars.key.timeframe)


def _draw_skill(axes: Axes, evidence: SeriesEvidence) -> None:
    """Skill of each model at each step, over all fields; the random walk is the line at 0."""
    found = [one for one in evidence.by_step if one.field is None and one.skill is not None]
    lines = list(dict.fromkeys((one.model_id, one.variant) for one in found))
    for i, (model_id, variant) in enumerate(lines):
        of_line = [one for one in found if (one.model_id, one.variant) == (model_id, variant)]
        x = np.array([one.step or 0 for one in of_line]) + 0.12 * (i - (len(lines) - 1) / 2)
        name = f"{model_id.name}, {variant}" if (model_id, RAW) in lines else model_id.name
        own = model_id == evidence.model_id
        axes.errorbar(
            x, [one.skill or 0.0 for one in of_line], yerr=np.array([_reach(one) for one in of_line]).T,
            label=name.replace("$", r"\$"), linestyle="--" if variant == RAW else "-", marker="o", markersize=3, capsize=2,
            linewidth=1.6 if own else 1.0, color=_FAN if own else _OTHERS[i % len(_OTHERS)],
        )  # fmt: skip
    axes.axhline(0, color=_INK, linewidth=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="step", ylabel="skill beside the random walk")
    axes.set_title("Skill by step, with 95 % intervals", loc="left")
    _legend(axes)


def _reach(verdict: Verdict) -> tuple[float, float]:
    """How far the interval reaches below and above the skill; nothing where it is not known."""
    if verdict.skill is None or verdict.lower is None or verdict.upper is None or not isfinite(verdict.lower):
        return 0.0, 0.0
    return verdict.skill - verdict.lower, verdict.upper - verdict.skill


def _draw_reliability(axes: Axes, evidence: SeriesEvidence) -> None:
    for one in evidence.reliability:
        if (one.field, one.step) != (None, NEXT_BAR):
            continue
        if one.variant == SERVED:
            lower, upper = zip(*(null_band(level, one.n) for level in one.quantile_levels), strict=True)
            axes.fill_between(one.quantile_levels, lower, upper, color=_FAINT, alpha=0.25, linewidth=0)
        colour, style = (_FAN, "-") if one.variant == SERVED else (_MISS, "--")
        axes.plot(
            one.quantile_levels,
            one.below_Q,
            style,
            color=colour,
            marker="o",
            markersize=3,
            linewidth=1.2,
            label=one.variant,
        )
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.7, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="quantile level", ylabel="outcomes at or below it")
    axes.set_title("Reliability of the next bar", loc="left")
    _legend(axes)


def _draw_pit(axes: Axes, evidence: SeriesEvidence) -> None:
    x = (np.arange(PIT_BINS) + 0.5) / PIT_BINS
    for one in evidence.reliability:
        if (one.field, one.step) != (None, NEXT_BAR):
            continue
        if one.variant == SERVED:
            axes.axhspan(*null_band(1 / PIT_BINS, one.n), color=_FAINT, alpha=0.25, linewidth=0)
            axes.bar(x, one.pit, width=0.088, color=_FAN, alpha=0.75, label=one.variant)
        else:
            axes.plot(x, one.pit, "D", color=_MISS, markerfacecolor="none", label=one.variant)
    axes.axhline(1 / PIT_BINS, color=_INK, linewidth=0.7, linestyle=":")
    axes.set(xlim=(0, 1), xlabel="tenth of the forecast distribution", ylabel="share of outcomes")
    axes.set_title("Where outcomes of the next bar fell", loc="left")


def _draw_coverage(axes: Axes, evidence: SeriesEvidence) -> None:
    if not evidence.rolling:
        axes.text(0.5, 0.5, "too few cutoffs for a line over time", ha="center", transform=axes.transAxes)
    for one in evidence.rolling[:1]:
        axes.axhspan(*null_band(0.8, evidence.window), color=_FAINT, alpha=0.25, linewidth=0, label="what luck allows")
        axes.plot(one.cutoff_U, one.coverage_U, color=_FAN, linewidth=1.4)
        label_times(axes, one.cutoff_U, one.cutoff_U, evidence.verdicts[0].key.timeframe)
    for drift in evidence.drifts:
        if drift.what == COVERAGE:
            axes.axvline(drift.cutoff, color=_MISS, linewidth=0.9, linestyle="--")
    axes.axhline(0.8, color=_INK, linewidth=0.7, linestyle=":")
    axes.set_ylabel(f"share of outcomes, over {evidence.window} cutoffs")
    axes.set_title("Inside the 80 % interval, next bar; dashed: a change was found", loc="left")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Name what is drawn where there is more than one name."""
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(loc="best", frameon=False)


def _from_cutoff(last_close: float, values_H: NDArray[np.float64]) -> NDArray[np.float64]:
    """A line that starts at the last close."""
    return np.concatenate([[last_close], values_H])


def draw_candles(axes: Axes, bars: Bars, x_T: NDArray[np.int64]) -> None:
    """Bars, hollow where they rose: no colour is needed to tell."""
    open_, high, low, close, _ = bars.ohlcv_TF.T
    lower, upper = np.minimum(open_, close), np.maximum(open_, close)
    axes.vlines([x_T, x_T], [low, upper], [lower, high], color=_CANDLE, linewidth=0.8)
    body = np.maximum(upper - lower, (high.max() - low.min()) * 1e-3)
    colours = np.where(close >= open_, "none", _CANDLE).tolist()
    axes.bar(x_T, body, bottom=lower, color=colours, edgecolor=_CANDLE, linewidth=0.8, width=0.65)


def label_times(axes: Axes, x: NDArray[np.int64], times: NDArray[np.int64], timeframe: Timeframe) -> None:
    """Five of the times (UTC ms) at the places `x`."""
    places = np.linspace(0, len(times) - 1, 5).astype(int)
    texts = np.datetime_as_string(times[places].astype("datetime64[ms]"), unit="D" if timeframe.is_daily else "m")
    axes.set_xticks(x[places], [str(text).replace("T", "\n") for text in texts])
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
