"""The figures about the settled forecasts of a series, in plotly: skill, reliability, PIT, and lines over time.

Shapes: U cutoffs.
"""

from __future__ import annotations

from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go

from forecaster.accuracy.drift import COVERAGE, SKILL
from forecaster.accuracy.losses import PIT_BINS
from forecaster.accuracy.report.content import ANY_FIELD, MIN_ROLLING, NEXT_BAR, null_band
from forecaster.accuracy.report.fan_chart import (
    ALL_FIELDS,
    BLUE,
    GREY,
    VARIANT_LABELS,
    CaptionedFigure,
    make_figure,
    plotly_time,
)
from forecaster.accuracy.scores import RAW, SERVED
from forecaster.errors import format_time
from forecaster.forecast import ModelId
from forecaster.formatting import format_signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.accuracy.report.content import Reliability, SeriesEvidence
    from forecaster.accuracy.trust import Verdict

STEPS: Final = {NEXT_BAR: "next bar", None: "all steps"}
_OTHERS: Final = ("#d9822b", "#2a9d78", "#b36ab0", "#a08a2c", "#5aa9c9")
_FAINT, _MARK = "rgba(128, 136, 148, 0.16)", "#d1603d"
_NOT_SETTLED: Final = "No forecast that was issued in time has settled yet."


def draw_all(evidence: SeriesEvidence) -> list[CaptionedFigure]:
    """Draw every figure, in the order of the page."""
    drawings = (draw_skill, draw_reliability, draw_pit, draw_rolling_coverage, draw_rolling_skill)
    return [draw(evidence) for draw in drawings]


def draw_skill(evidence: SeriesEvidence) -> CaptionedFigure:
    """Draw the skill of each model at each step with its 95 % interval; the random walk is the line at 0."""
    title = "Skill by step"
    verdicts = [verdict for verdict in evidence.by_step if verdict.skill is not None]
    if not verdicts:
        return CaptionedFigure(title, "No forecast that can be compared with the random walk has settled yet.")
    lines = list(dict.fromkeys((verdict.model_id, verdict.variant) for verdict in verdicts))
    names = short_names([model_id for model_id, _ in lines])
    traces = []
    for i, (model_id, variant) in enumerate(lines):
        colour = _colour(model_id, evidence.model_id, names)
        shift = 0.12 * (i - (len(lines) - 1) / 2)
        name = escape(names[model_id]) + ("" if (model_id, RAW) not in lines else f", {VARIANT_LABELS[variant]}")
        for field in ANY_FIELD:
            points = [
                verdict
                for verdict in verdicts
                if (verdict.model_id, verdict.variant, verdict.field) == (model_id, variant, field)
            ]
            traces.append(_skill_line(points, name, colour, shift, is_raw=variant == RAW))
    figure = make_figure(traces, x_title="step", y_title="skill")
    figure.update_yaxes(tickformat="+.2f", autorangeoptions={"include": [0], "clipmin": -1, "clipmax": 1})
    figure.update_xaxes(tickformat="d", dtick=max(1, round(max(verdict.step or 1 for verdict in verdicts) / 12)))
    figure.add_hline(y=0, line={"color": GREY, "width": 1.5})
    values = "; ".join(
        f"step {verdict.step}: {format_signed(verdict.skill)}"
        for verdict in verdicts
        if (verdict.model_id, verdict.variant, verdict.field) == (evidence.model_id, SERVED, None)
    )
    label = f"Skill of {names.get(evidence.model_id)} over all fields, against the random walk: {values}."
    return CaptionedFigure(title, label, figure, wide=True)


def draw_reliability(evidence: SeriesEvidence) -> CaptionedFigure:
    """Draw the fraction of outcomes at or below each quantile over its level; the diagonal for true quantiles."""
    title = "Reliability"
    if not evidence.reliability:
        return CaptionedFigure(title, _NOT_SETTLED)
    with_raw = any(row.variant == RAW for row in evidence.reliability)
    traces: list[Any] = []
    for row in evidence.reliability:
        if row.variant == SERVED:
            traces.append(_diagonal_band(row))
        traces.append(_reliability_line(row, with_raw=with_raw))
    figure = make_figure(traces, x_title="quantile level", y_title="outcomes at or below it")
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[0, 1], dtick=0.25, tickformat=".0%")
    figure.update_yaxes(range=[0, 1], dtick=0.25, tickformat=".0%")
    first = evidence.reliability[0]
    pairs = zip(first.quantile_levels, first.below_Q, strict=True)
    values = ", ".join(f"{level:.0%}: {below:.1%}" for level, below in pairs)
    return CaptionedFigure(title, f"Outcomes of the next bar, all fields, at or below each quantile: {values}.", figure)


def draw_pit(evidence: SeriesEvidence) -> CaptionedFigure:
    """Draw the fraction of outcomes in each tenth of the forecast distribution; 0.1 each for true quantiles."""
    title = "Outcomes by tenth of the forecast distribution (PIT)"
    if not evidence.reliability:
        return CaptionedFigure(title, _NOT_SETTLED)
    x = [(i + 0.5) / PIT_BINS for i in range(PIT_BINS)]
    traces: list[Any] = []
    for row in evidence.reliability:
        meta = _choices(field=row.field, steps=STEPS[row.step])
        hover = "%{y:.1%} of outcomes<extra>" + VARIANT_LABELS[row.variant] + "</extra>"
        if row.variant == SERVED:
            lower, upper = null_band(1 / PIT_BINS, row.n)
            traces.append(_band([0, 1], [lower] * 2, [upper] * 2, meta))
            traces.append(
                go.Bar(x=x, y=row.pit, width=0.088, name="outcomes", marker={"color": BLUE, "opacity": 0.75},
                       meta=meta, hovertemplate=hover, showlegend=False)
            )  # fmt: skip
        else:
            traces.append(
                go.Scatter(x=x, y=row.pit, mode="markers", name=VARIANT_LABELS[RAW], meta=meta, hovertemplate=hover,
                           marker={"color": _OTHERS[0], "symbol": "diamond-open", "size": 9, "line": {"width": 2}})
            )  # fmt: skip
    figure = make_figure(traces, x_title="tenth of the forecast distribution", y_title="outcomes")
    figure.add_hline(y=1 / PIT_BINS, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(range=[0, 1], dtick=0.25, tickformat=".0%")
    figure.update_yaxes(rangemode="tozero", tickformat=".0%")
    values = ", ".join(f"{fraction:.1%}" for fraction in evidence.reliability[0].pit)
    return CaptionedFigure(title, f"Outcomes of the next bar, all fields, in each tenth: {values}.", figure)


def draw_rolling_coverage(evidence: SeriesEvidence) -> CaptionedFigure:
    """Draw the rolling coverage of the 80 % interval, next bar, with the band that is expected by chance."""
    title = "Coverage of the 80 % interval over time"
    if not evidence.rolling:
        return CaptionedFigure(title, _too_few_cutoffs(evidence))
    whole = evidence.rolling[0]
    span = [plotly_time(whole.cutoff_U[0]), plotly_time(whole.cutoff_U[-1])]
    lower, upper = null_band(0.8, evidence.window)
    traces = [_band(span, [lower] * 2, [upper] * 2, {})]
    traces += [_line(row.cutoff_U, row.coverage_U, row.field, "%{y:.1%} inside") for row in evidence.rolling]
    figure = make_figure([*traces, *_drift_marks(evidence, COVERAGE, 0.8)], y_title=f"over {evidence.window} cutoffs")
    figure.add_hline(y=0.8, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_yaxes(tickformat=".0%")
    label = (
        f"Coverage of the 80 % interval, next bar, all fields, rolling over {evidence.window} cutoffs: "
        f"between {np.min(whole.coverage_U):.1%} and {np.max(whole.coverage_U):.1%}, last {whole.coverage_U[-1]:.1%}."
    )
    return CaptionedFigure(title, label, figure)


def draw_rolling_skill(evidence: SeriesEvidence) -> CaptionedFigure:
    """Draw the rolling skill of the next bar."""
    title = "Skill of the next bar over time"
    if not evidence.rolling:
        return CaptionedFigure(title, _too_few_cutoffs(evidence))
    traces = [_line(row.cutoff_U, row.skill_U, row.field, "skill %{y:+.3f}") for row in evidence.rolling]
    figure = make_figure([*traces, *_drift_marks(evidence, SKILL, 0.0)], y_title=f"over {evidence.window} cutoffs")
    figure.add_hline(y=0, line={"color": GREY, "width": 1.5})
    figure.update_yaxes(tickformat="+.2f")
    last = evidence.rolling[0].skill_U[-1]
    return CaptionedFigure(title, f"Skill over {evidence.window} cutoffs, all fields: last {last:+.3f}.", figure)


def short_names(model_ids: Sequence[str]) -> dict[str, str]:
    """Return model names without revisions, except where two revisions of a model are shown."""
    names = {model_id: ModelId(model_id).name for model_id in model_ids}
    shared = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {model_id: model_id if name in shared else name for model_id, name in names.items()}


def _skill_line(points: list[Verdict], name: str, colour: str, shift: float, *, is_raw: bool) -> Any:
    errors = [_error_bar(verdict) for verdict in points]
    texts = [
        f"{name}, step {verdict.step}<br>skill {format_signed(verdict.skill)}{_interval_text(verdict)}"
        f"<br>{verdict.summary}"
        for verdict in points
    ]
    is_own = colour == BLUE
    return go.Scatter(
        x=[(verdict.step or 0) + shift for verdict in points], y=[verdict.skill for verdict in points], name=name,
        mode="lines+markers", text=texts, hoverinfo="text", meta=_choices(field=points[0].field if points else None),
        line={"color": colour, "width": 2.2 if is_own else 1.4, "dash": "dash" if is_raw else "solid"},
        marker={"size": 6 if is_own else 4},
        error_y={"type": "data", "symmetric": False, "array": [up for _, up in errors], "thickness": 1.2, "width": 3,
                 "arrayminus": [down for down, _ in errors]},
    )  # fmt: skip


def _error_bar(verdict: Verdict) -> tuple[float | None, float | None]:
    """Distances of the interval's ends below and above the skill; None if the interval is unknown or unbounded."""
    if verdict.skill is None or verdict.lower is None or verdict.upper is None or not isfinite(verdict.lower):
        return None, None
    return verdict.skill - verdict.lower, verdict.upper - verdict.skill


def _interval_text(verdict: Verdict) -> str:
    if verdict.lower is None or verdict.upper is None:
        return ""
    return f", 95 % interval {format_signed(verdict.lower)} to {format_signed(verdict.upper)}"


def _colour(model_id: str, own: str, names: dict[str, str]) -> str:
    if model_id == own:
        return BLUE
    others = [name for name in names if name != own]
    return _OTHERS[others.index(model_id) % len(_OTHERS)]


def _diagonal_band(row: Reliability) -> Any:
    levels = [0.0, *row.quantile_levels, 1.0]
    lower, upper = zip(*(null_band(level, row.n) for level in levels), strict=True)
    return _band(levels, list(lower), list(upper), _choices(field=row.field, steps=STEPS[row.step]))


def _reliability_line(row: Reliability, *, with_raw: bool) -> Any:
    colour, dash = (BLUE, "solid") if row.variant == SERVED else (_OTHERS[0], "dash")
    return go.Scatter(
        x=row.quantile_levels, y=row.below_Q.tolist(), mode="lines+markers", name=VARIANT_LABELS[row.variant],
        showlegend=with_raw, line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 5}, meta=_choices(field=row.field, steps=STEPS[row.step]),
        hovertemplate="level %{x:.0%}: %{y:.1%} at or below<extra></extra>",
    )  # fmt: skip


def _line(cutoff_U: NDArray[np.int64], values_U: NDArray[np.float64], field: str | None, hover: str) -> Any:
    return go.Scatter(
        x=[plotly_time(time) for time in cutoff_U], y=values_U.tolist(), mode="lines",
        line={"color": BLUE, "width": 2}, name=field or ALL_FIELDS, showlegend=False, meta=_choices(field=field),
        hovertemplate=f"%{{x|%Y-%m-%d %H:%M}}<br>{hover}<extra></extra>",
    )  # fmt: skip


def _drift_marks(evidence: SeriesEvidence, measure: str, y: float) -> list[Any]:
    """Mark detected changes."""
    drifts = [drift for drift in evidence.drifts if drift.measure == measure]
    texts = [
        f"{measure} changed: {drift.before:.3f} → {drift.now:.3f}<br>detected at {format_time(drift.cutoff)}"
        for drift in drifts
    ]
    return [
        go.Scatter(x=[plotly_time(drift.cutoff) for drift in drifts], y=[y] * len(drifts), mode="markers",
                   name="drift detected", marker={"symbol": "triangle-down", "size": 12, "color": _MARK}, text=texts,
                   hoverinfo="text")
    ] if drifts else []  # fmt: skip


def _band(x: Sequence[Any], lower: list[float], upper: list[float], meta: dict[str, list[str]]) -> Any:
    """Draw the band that is expected by chance."""
    return go.Scatter(
        x=[*x, *list(x)[::-1]], y=[*lower, *upper[::-1]], fill="toself", mode="lines", line={"width": 0},
        fillcolor=_FAINT, hoverinfo="skip", name="expected by chance", meta=meta,
    )  # fmt: skip


def _choices(field: str | None = None, steps: str | None = None) -> dict[str, list[str]]:
    """The choices under which a trace is shown; a control that is not named does not matter."""
    return {"field": [field or ALL_FIELDS]} | ({"steps": [steps]} if steps else {})


def _too_few_cutoffs(evidence: SeriesEvidence) -> str:
    return f"Too few cutoffs for a line over time: {evidence.verdicts[0].n} of {2 * MIN_ROLLING} needed."
