"""The report's figures, in plotly: what a page draws, with the words that say the same to who cannot see it.

A trace's `meta` names the choices of the page's controls under which it is shown: `field`, `steps` and `prices`.
Colours are told apart by the colour-blind and stand on light and on dark; `page` sets those of text and grid.

Shapes: H steps, Q quantile levels, T bars, U cutoffs.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from html import escape
from math import floor, isfinite, log10
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go

from forecaster.accuracy.drift import COVERAGE, SKILL
from forecaster.accuracy.losses import PIT_BINS
from forecaster.accuracy.report.content import ANY_FIELD, FEWEST_ROLLING, NEXT_BAR, null_band
from forecaster.accuracy.scores import RAW, SERVED
from forecaster.bars import FIELDS
from forecaster.forecast import ModelId, interpolate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.accuracy.report.content import ChartPanel, Reliability, SeriesEvidence
    from forecaster.accuracy.trust import Verdict
    from forecaster.bars import Bars
    from forecaster.timeframe import Timeframe

ALL_FIELDS: Final = "all fields"
STEPS: Final = {NEXT_BAR: "next bar", None: "all steps"}
PRICES: Final = {SERVED: "as served", RAW: "the model's own"}
BANDS: Final = ((0.98, 0.10), (0.80, 0.18), (0.50, 0.28))
"""Central intervals of a fan, and how dark each is."""
FONT: Final = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'
BLUE: Final = "#3987d6"
_BLUE_RGB: Final = "57, 135, 214"
_OTHERS: Final = ("#d9822b", "#2a9d78", "#b36ab0", "#a08a2c", "#5aa9c9")
_GREY, _FAINT, _MARK = "#808894", "rgba(128, 136, 148, 0.16)", "#d1603d"
_TICKS: Final = 3
"""How many times stand below a fan: a telephone has room for no more."""


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure under its title, and `label`, the words for who cannot see it; no figure: `label` says why."""

    title: str
    label: str
    figure: Any = None
    wide: bool = False


def fan(scene: ChartPanel) -> CaptionedFigure:
    """Candles with the quantiles that were forecast over them: the central 50, 80 and 98 % of each field."""
    bars, one = scene.bars, scene.fan
    timeframe = bars.key.timeframe
    opens = np.union1d(bars.open_time, one.target_open_H)
    place = {time: i for i, time in enumerate(opens.tolist())}
    x_H = [place[time] for time in one.target_open_H.tolist()]
    times = clock(one.target_open_H, timeframe)
    forms = {SERVED: one.served_FHQ} | ({RAW: one.raw_FHQ} if one.is_calibrated else {})
    traces = []
    for variant, prices_FHQ in forms.items():
        for name, prices_HQ in zip(FIELDS, prices_FHQ, strict=True):
            traces += _bands(name, variant, x_H, prices_HQ, one.quantile_levels)
            heads = [f"{name} forecast for {time}" for time in times]
            traces.append(_median(heads, x_H, prices_HQ, one.quantile_levels, _fan_meta(name, variant)))
    traces.append(candles(bars, [place[time] for time in bars.open_time.tolist()]))
    ticks = np.unique(np.arange(1, 2 * _TICKS, 2) * (len(opens) - 1) // (2 * _TICKS)).tolist()
    figure = figure_of(traces, y_title="price")
    figure.update_xaxes(tickvals=ticks, ticktext=[_tick(opens[i], timeframe) for i in ticks], range=[-1, len(opens)])
    figure.update_xaxes(tickangle=0, rangeslider_visible=False)
    figure.add_vline(x=x_H[0] - 0.5, line={"color": _GREY, "width": 1, "dash": "dot"})
    close_HQ = one.served_FHQ[FIELDS.index("close")]
    lower, upper = (price(float(interpolate(close_HQ, one.quantile_levels, level)[-1])) for level in (0.1, 0.9))
    came = int(np.isin(one.target_open_H, bars.open_time).sum())
    label = (
        f"{scene.title}, made at {instant(one.cutoff)} for {len(x_H)} bars, of which {came} have come. "
        f"The central 80 % of the last close reaches from {lower} to {upper}."
    )
    return CaptionedFigure(scene.title, label, figure)


def skill_by_step(evidence: SeriesEvidence) -> CaptionedFigure:
    """Skill of each model at each step with its 95 % interval; the random walk is the line at 0."""
    title = "Skill by step"
    found = [one for one in evidence.by_step if one.skill is not None]
    if not found:
        return CaptionedFigure(title, "Nothing that the random walk forecast as well has settled yet.")
    lines = list(dict.fromkeys((one.model_id, one.variant) for one in found))
    names = short_names([model_id for model_id, _ in lines])
    traces = []
    for i, (model_id, variant) in enumerate(lines):
        colour = _colour(model_id, evidence.model_id, names)
        shift = 0.12 * (i - (len(lines) - 1) / 2)
        name = escape(names[model_id]) + ("" if (model_id, RAW) not in lines else f", {PRICES[variant]}")
        for field in ANY_FIELD:
            of_line = [one for one in found if (one.model_id, one.variant, one.field) == (model_id, variant, field)]
            traces.append(_skill_line(of_line, name, colour, shift))
    figure = figure_of(traces, x_title="step", y_title="skill")
    figure.update_yaxes(tickformat="+.2f", autorangeoptions={"include": [0], "clipmin": -1, "clipmax": 1})
    figure.update_xaxes(tickformat="d", dtick=max(1, round(max(one.step or 1 for one in found) / 12)))
    figure.add_hline(y=0, line={"color": _GREY, "width": 1.5})
    own = [one for one in found if (one.model_id, one.variant, one.field) == (evidence.model_id, SERVED, None)]
    said = "; ".join(f"step {one.step}: {signed(one.skill)}" for one in own)
    return CaptionedFigure(
        title,
        f"Skill over all fields beside the random walk, {names.get(evidence.model_id)}: {said}.",
        figure,
        wide=True,
    )


def reliability(evidence: SeriesEvidence) -> CaptionedFigure:
    """Share of outcomes at or below each quantile over its level; on the diagonal where quantiles are true."""
    title = "Reliability"
    if not evidence.reliability:
        return CaptionedFigure(title, "No forecast that came in time has settled yet.")
    traces: list[Any] = []
    for one in evidence.reliability:
        if one.variant == SERVED:
            traces.append(_luck_about_diagonal(one))
        traces.append(_reliability_line(one, with_raw=any(other.variant == RAW for other in evidence.reliability)))
    figure = figure_of(traces, x_title="quantile level", y_title="outcomes at or below it")
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"color": _GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[0, 1], dtick=0.25, tickformat=".0%")
    figure.update_yaxes(range=[0, 1], dtick=0.25, tickformat=".0%")
    one = evidence.reliability[0]
    said = ", ".join(f"{level:.0%}: {below:.1%}" for level, below in zip(one.quantile_levels, one.below_Q, strict=True))
    return CaptionedFigure(title, f"Share of outcomes of the next bar, all fields, at or below each quantile: {said}.", figure)


def pit(evidence: SeriesEvidence) -> CaptionedFigure:
    """Share of outcomes in each tenth of the forecast distribution; a tenth each where it is true."""
    title = "Where outcomes fell in the forecast distribution"
    if not evidence.reliability:
        return CaptionedFigure(title, "No forecast that came in time has settled yet.")
    x = [(i + 0.5) / PIT_BINS for i in range(PIT_BINS)]
    traces: list[Any] = []
    for one in evidence.reliability:
        meta = _meta(field=one.field, steps=STEPS[one.step])
        hover = "%{y:.1%} of outcomes<extra>" + PRICES[one.variant] + "</extra>"
        if one.variant == SERVED:
            lower, upper = null_band(1 / PIT_BINS, one.n)
            traces.append(_band([0, 1], [lower] * 2, [upper] * 2, meta))
            traces.append(
                go.Bar(x=x, y=one.pit, width=0.088, name="outcomes", marker={"color": BLUE, "opacity": 0.75},
                       meta=meta, hovertemplate=hover, showlegend=False)
            )  # fmt: skip
        else:
            traces.append(
                go.Scatter(x=x, y=one.pit, mode="markers", name=PRICES[RAW], meta=meta, hovertemplate=hover,
                           marker={"color": _OTHERS[0], "symbol": "diamond-open", "size": 9, "line": {"width": 2}})
            )  # fmt: skip
    figure = figure_of(traces, x_title="tenth of the forecast distribution", y_title="outcomes")
    figure.add_hline(y=1 / PIT_BINS, line={"color": _GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[0, 1], dtick=0.25, tickformat=".0%")
    figure.update_yaxes(rangemode="tozero", tickformat=".0%")
    shares = ", ".join(f"{share:.1%}" for share in evidence.reliability[0].pit)
    return CaptionedFigure(title, f"Share of outcomes of the next bar, all fields, in each tenth: {shares}.", figure)


def coverage_over_time(evidence: SeriesEvidence) -> CaptionedFigure:
    """Rolling share of outcomes of the next bar inside the 80 % interval, with the band that luck allows."""
    title = "Inside the 80 % interval, over time"
    if not evidence.rolling:
        return CaptionedFigure(title, _too_few(evidence))
    whole = evidence.rolling[0]
    span = [date_of(whole.cutoff_U[0]), date_of(whole.cutoff_U[-1])]
    lower, upper = null_band(0.8, evidence.window)
    traces = [_band(span, [lower] * 2, [upper] * 2, {})]
    traces += [_over_time(one.cutoff_U, one.coverage_U, one.field, "%{y:.1%} inside") for one in evidence.rolling]
    figure = figure_of([*traces, *_marks(evidence, COVERAGE, 0.8)], y_title=f"over {evidence.window} cutoffs")
    figure.add_hline(y=0.8, line={"color": _GREY, "width": 1, "dash": "dot"})
    figure.update_yaxes(tickformat=".0%")
    label = (
        f"Share of outcomes of the next bar, all fields, inside the 80 % interval, rolling over {evidence.window} "
        f"cutoffs: between {np.min(whole.coverage_U):.1%} and {np.max(whole.coverage_U):.1%}, "
        f"at last {whole.coverage_U[-1]:.1%}."
    )
    return CaptionedFigure(title, label, figure)


def skill_over_time(evidence: SeriesEvidence) -> CaptionedFigure:
    """Rolling skill of the next bar."""
    title = "Skill of the next bar, over time"
    if not evidence.rolling:
        return CaptionedFigure(title, _too_few(evidence))
    traces = [_over_time(one.cutoff_U, one.skill_U, one.field, "skill %{y:+.3f}") for one in evidence.rolling]
    figure = figure_of([*traces, *_marks(evidence, SKILL, 0.0)], y_title=f"over {evidence.window} cutoffs")
    figure.add_hline(y=0, line={"color": _GREY, "width": 1.5})
    figure.update_yaxes(tickformat="+.2f")
    last = evidence.rolling[0].skill_U[-1]
    return CaptionedFigure(title, f"Rolling skill over {evidence.window} cutoffs, all fields: at last {last:+.3f}.", figure)


def short_names(model_ids: Sequence[str]) -> dict[str, str]:
    """Names without their revisions, where those are not needed to tell two models apart."""
    names = {model_id: ModelId(model_id).name for model_id in model_ids}
    shared = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {model_id: model_id if name in shared else name for model_id, name in names.items()}


def price(value: float) -> str:
    """A price with six digits that count, and no fewer than two after the point from 0.01 up to 10,000."""
    digits = 5 - floor(log10(abs(value))) if value else 2
    return f"{value:,.{min(max(digits, 0), 12)}f}"


def signed(value: float | None) -> str:
    """A skill, or a dash for none."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def instant(time_ms: int) -> str:
    """A time as people read it: UTC, to the minute."""
    return f"{np.datetime_as_string(np.datetime64(time_ms, 'ms'), unit='m').replace('T', ' ')} UTC"


def share(value: float | None) -> str:
    """A share in percent, or a dash for none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def clock(opens: NDArray[np.int64], timeframe: Timeframe) -> list[str]:
    """Open times of bars: dates where bars are days."""
    texts = np.datetime_as_string(opens.astype("datetime64[ms]"), unit="D" if timeframe.is_daily else "m")
    return [str(text).replace("T", " ") for text in texts]


def _bands(
    name: str, variant: str, x_H: list[int], prices_HQ: NDArray[np.float64], levels: tuple[float, ...]
) -> list[Any]:
    """One closed band for each interval whose ends the levels hold."""
    found = []
    for coverage, opacity in BANDS:
        tail = round((1 - coverage) / 2, 12)
        if not levels[0] <= tail <= 1 - tail <= levels[-1]:
            continue
        lower, upper = (interpolate(prices_HQ, levels, level).tolist() for level in (tail, round(1 - tail, 12)))
        # One step alone has no area: the band is as wide as its bar.
        ends = [x_H[0] - 0.5, *x_H[1:-1], x_H[-1] + 0.5] if len(x_H) > 1 else [x_H[0] - 0.5, x_H[0] + 0.5]
        lower, upper = (one if len(x_H) > 1 else one * 2 for one in (lower, upper))
        found.append(
            go.Scatter(x=[*ends, *ends[::-1]], y=[*lower, *upper[::-1]], fill="toself", mode="lines",
                       line={"width": 0}, fillcolor=f"rgba({_BLUE_RGB}, {opacity})", hoverinfo="skip",
                       name=f"{coverage:.0%}", meta=_fan_meta(name, variant))
        )  # fmt: skip
    return found


def _median(
    heads: list[str],
    x_H: list[int],
    prices_HQ: NDArray[np.float64],
    levels: tuple[float, ...],
    meta: dict[str, list[str]],
) -> Any:
    texts = [_intervals_text(head, values_Q, levels) for head, values_Q in zip(heads, prices_HQ, strict=True)]
    return go.Scatter(
        x=x_H, y=interpolate(prices_HQ, levels, 0.5).tolist(), mode="lines+markers", name="median",
        line={"color": BLUE, "width": 2}, marker={"size": 4}, text=texts, hoverinfo="text", meta=meta,
    )  # fmt: skip


def _intervals_text(head: str, values_Q: NDArray[np.float64], levels: tuple[float, ...]) -> str:
    lines = [f"<b>{head}</b>", f"median {price(float(interpolate(values_Q, levels, 0.5)))}"]
    for coverage, _ in reversed(BANDS):
        tail = round((1 - coverage) / 2, 12)
        if levels[0] <= tail <= 1 - tail <= levels[-1]:
            ends = (price(float(interpolate(values_Q, levels, level))) for level in (tail, round(1 - tail, 12)))
            lines.append(f"{coverage:.0%} in {' – '.join(ends)}")
    return "<br>".join(lines)


def candles(bars: Bars, x_T: list[int]) -> Any:
    """Bars, hollow where they rose: no colour is needed to tell."""
    open_, high, low, close, _ = bars.ohlcv_TF.T.tolist()
    texts = [
        f"<b>{time}</b><br>open {price(o)}<br>high {price(h)}<br>low {price(lo)}<br>close {price(c)}"
        for time, o, h, lo, c in zip(clock(bars.open_time, bars.key.timeframe), open_, high, low, close, strict=True)
    ]
    return go.Candlestick(
        x=x_T, open=open_, high=high, low=low, close=close, name="bars", text=texts, hoverinfo="text",
        increasing={"line": {"color": _GREY, "width": 1.3}, "fillcolor": "rgba(0, 0, 0, 0)"},
        decreasing={"line": {"color": _GREY, "width": 1.3}, "fillcolor": _GREY},
    )  # fmt: skip


def _skill_line(of_line: list[Verdict], name: str, colour: str, shift: float) -> Any:
    skill = [one.skill for one in of_line]
    reach = [_reach(one) for one in of_line]
    texts = [
        f"{name}, step {one.step}<br>skill {signed(one.skill)}{_interval_text(one)}<br>{one.summary}" for one in of_line
    ]
    own = colour == BLUE
    return go.Scatter(
        x=[(one.step or 0) + shift for one in of_line], y=skill, name=name, mode="lines+markers", text=texts,
        hoverinfo="text", meta=_meta(field=of_line[0].field if of_line else None),
        line={"color": colour, "width": 2.2 if own else 1.4, "dash": "dash" if name.endswith(PRICES[RAW]) else "solid"},
        marker={"size": 6 if own else 4},
        error_y={"type": "data", "symmetric": False, "array": [up for _, up in reach], "thickness": 1.2, "width": 3,
                 "arrayminus": [down for down, _ in reach]},
    )  # fmt: skip


def _reach(verdict: Verdict) -> tuple[float | None, float | None]:
    """How far the interval reaches below and above the skill; nothing is drawn where it is not known."""
    if verdict.skill is None or verdict.lower is None or verdict.upper is None or not isfinite(verdict.lower):
        return None, None
    return verdict.skill - verdict.lower, verdict.upper - verdict.skill


def _interval_text(verdict: Verdict) -> str:
    if verdict.lower is None or verdict.upper is None:
        return ""
    return f", 95 % interval {signed(verdict.lower)} to {signed(verdict.upper)}"


def _colour(model_id: str, own: str, names: dict[str, str]) -> str:
    if model_id == own:
        return BLUE
    others = [name for name in names if name != own]
    return _OTHERS[others.index(model_id) % len(_OTHERS)]


def _luck_about_diagonal(one: Reliability) -> Any:
    levels = [0.0, *one.quantile_levels, 1.0]
    lower, upper = zip(*(null_band(level, one.n) for level in levels), strict=True)
    return _band(levels, list(lower), list(upper), _meta(field=one.field, steps=STEPS[one.step]))


def _reliability_line(one: Reliability, *, with_raw: bool) -> Any:
    colour = BLUE if one.variant == SERVED else _OTHERS[0]
    return go.Scatter(
        x=one.quantile_levels, y=one.below_Q.tolist(), mode="lines+markers", name=PRICES[one.variant],
        showlegend=with_raw, line={"color": colour, "width": 2, "dash": "solid" if one.variant == SERVED else "dash"},
        marker={"size": 5}, meta=_meta(field=one.field, steps=STEPS[one.step]),
        hovertemplate="level %{x:.0%}: %{y:.1%} at or below<extra></extra>",
    )  # fmt: skip


def _over_time(cutoff_U: NDArray[np.int64], values_U: NDArray[np.float64], field: str | None, hover: str) -> Any:
    return go.Scatter(
        x=[date_of(time) for time in cutoff_U], y=values_U.tolist(), mode="lines", line={"color": BLUE, "width": 2},
        name=field or ALL_FIELDS, showlegend=False, meta=_meta(field=field),
        hovertemplate=f"%{{x|%Y-%m-%d %H:%M}}<br>{hover}<extra></extra>",
    )  # fmt: skip


def _marks(evidence: SeriesEvidence, what: str, y: float) -> list[Any]:
    """Where a change was found."""
    found = [one for one in evidence.drifts if one.what == what]
    texts = [f"{what} changed: {one.before:.3f} → {one.now:.3f}<br>found at {instant(one.cutoff)}" for one in found]
    return [
        go.Scatter(x=[date_of(one.cutoff) for one in found], y=[y] * len(found), mode="markers", name="change found",
                   marker={"symbol": "triangle-down", "size": 12, "color": _MARK}, text=texts, hoverinfo="text")
    ] if found else []  # fmt: skip


def _band(x: Sequence[Any], lower: list[float], upper: list[float], meta: dict[str, list[str]]) -> Any:
    """What luck allows."""
    return go.Scatter(
        x=[*x, *list(x)[::-1]], y=[*lower, *upper[::-1]], fill="toself", mode="lines", line={"width": 0},
        fillcolor=_FAINT, hoverinfo="skip", name="what luck allows", meta=meta,
    )  # fmt: skip


def figure_of(traces: list[Any], x_title: str = "", y_title: str = "") -> Any:
    """A figure in the style of the page."""
    figure = go.Figure(traces)
    figure.update_layout(
        template="none", autosize=True, hovermode="closest", dragmode="zoom", font={"family": FONT, "size": 12},
        margin={"l": 62, "r": 10, "t": 8, "b": 52 if x_title else 40}, paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        hoverlabel={"font": {"family": FONT}},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0, "itemclick": False, "itemdoubleclick": False},
    )  # fmt: skip
    figure.update_xaxes(title_text=x_title, title_standoff=8, zeroline=False)
    figure.update_yaxes(title_text=y_title, zeroline=False, automargin=True)
    return figure


def _meta(field: str | None = None, steps: str | None = None) -> dict[str, list[str]]:
    """The choices under which a trace is shown; a name that is not there does not matter."""
    return {"field": [field or ALL_FIELDS]} | ({"steps": [steps]} if steps else {})


def _fan_meta(name: str, variant: str) -> dict[str, list[str]]:
    """A fan is of one field: of the close where all are asked for."""
    return {"field": [name, ALL_FIELDS] if name == "close" else [name], "prices": [PRICES[variant]]}


def date_of(time_ms: int) -> str:
    """A time (UTC ms) as figures take it."""
    return str(np.datetime_as_string(np.datetime64(int(time_ms), "ms"), unit="m"))


def _tick(time_ms: int, timeframe: Timeframe) -> str:
    """A time in two short lines."""
    time = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    return f"{time:%d %b<br>%Y}" if timeframe.is_daily else f"{time:%d %b<br>%H:%M}"


def _too_few(evidence: SeriesEvidence) -> str:
    return (
        f"Too few cutoffs beside the random walk for a line over time: {evidence.verdicts[0].n}, "
        f"of {2 * FEWEST_ROLLING} that are needed."
    )
