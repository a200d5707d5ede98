"""The report as one HTML file. It fetches nothing: plotly is inlined. Names are escaped.

The templates are in the folder `templates`: `base.html` has style and script, and `report.html` the page.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import jinja2
import numpy as np
from markupsafe import Markup
from plotly.io import to_json
from plotly.offline import get_plotlyjs

from forecaster.accuracy.report.fan_chart import ALL_FIELDS, FONT, VARIANT_LABELS, draw_fan, format_opens
from forecaster.accuracy.report.figures import STEPS, draw_all, short_names
from forecaster.bars import FIELDS
from forecaster.errors import format_time
from forecaster.formatting import format_percent, format_price, format_signed
from forecaster.ledger import LIVE
from forecaster.output_files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from forecaster.accuracy.report.content import Scope, SeriesEvidence, SeriesSection
    from forecaster.accuracy.report.fan_chart import CaptionedFigure
    from forecaster.accuracy.trust import Trust, Verdict

_REPLAY: Final = (
    "This run is a replay. Its forecasts were made later, each from the bars up to its cutoff only "
    "(forecaster verify lookahead tests that). Its times are set, not measured. So it does not prove that a forecast "
    "was available before its bar closed, nor that the model was not trained on these bars."
)


@dataclass(frozen=True)
class SummaryCard:
    """A headline figure: its name, its value, what it means; `mood` is `better`, `worse` or empty."""

    name: str
    value: str
    meaning: str
    mood: str = ""


def write_report(sections: Sequence[SeriesSection], scope: Scope, path: Path) -> int:
    """Write the report; return its size in bytes.

    Raises:
        ConfigError: when the file cannot be written.
    """
    page = render(
        "report.html",
        sections=[_section(section, scope) for section in sections],
        scope=scope,
        timing=describe_timing(sections, scope),
        as_of=format_time(scope.as_of),
        since=None if scope.since is None else format_time(scope.since),
    )
    return write_text(page, path)


def render(template: str, **values: Any) -> str:
    """Render a page that extends `base.html`."""
    font, plotly = Markup(FONT), Markup(get_plotlyjs())  # noqa: S704 - our own text, and plotly's from its package
    return _environment().get_template(template).render(font=font, plotly=plotly, **values)


def figure_json(drawing: CaptionedFigure) -> Markup | None:
    """Return a figure as JSON; plotly escapes every < and >, so that no script ends early."""
    return None if drawing.figure is None else Markup(to_json(drawing.figure, validate=False))  # noqa: S704 - as above


def summary_cards(section: SeriesSection, scope: Scope) -> list[SummaryCard]:
    """Return the headline figures of a series."""
    cards = [] if section.evidence is None else _evidence_cards(section.evidence)
    if scope.run_id == LIVE:
        cards.append(_trust_card(section.trust))
    return [*cards, _latest_card(section, scope)]


def describe_timing(sections: Sequence[SeriesSection], scope: Scope) -> str:
    """Describe how many forecasts were available in time, or why a replay cannot prove it."""
    if scope.is_replay:
        return _REPLAY
    services = [section.evidence.service for section in sections if section.evidence is not None]
    settled, on_time = sum(service.forecasts for service in services), sum(service.on_time for service in services)
    if not settled:
        return "No forecast has settled yet."
    counted = f"All {settled:,}" if on_time == settled else f"{on_time:,} of {settled:,}"
    late = " Forecasts that were issued after that are late and count in no score." if on_time < settled else ""
    return f"{counted} settled forecasts were in the ledger before their first target bar closed.{late}"


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("forecaster.accuracy.report")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _evidence_cards(evidence: SeriesEvidence) -> list[SummaryCard]:
    verdict, (lower, upper) = evidence.verdicts[0], evidence.coverage80_interval
    is_significant = verdict.summary.startswith("significantly")
    mood = "" if not is_significant else "better" if (verdict.skill or 0) > 0 else "worse"
    words, _, detail = verdict.summary.partition(" (")
    return [
        SummaryCard("Verdict", words, detail.rstrip(")"), mood),
        SummaryCard("Skill, all steps and fields", format_signed(verdict.skill), _interval_text(verdict), mood),
        SummaryCard(
            "Coverage of the 80 % interval",
            format_percent(evidence.coverage80),
            f"95 % interval {lower:.0%} to {upper:.0%}",
        ),
        SummaryCard(
            "Settled forecasts", f"{evidence.service.forecasts:,}", f"{verdict.n:,} compared with the random walk"
        ),
    ]


def _interval_text(verdict: Verdict) -> str:
    if verdict.lower is None or verdict.upper is None:
        return "too few cases for an interval"
    if not isfinite(verdict.lower):
        return "the interval is unbounded"
    return f"95 % interval {format_signed(verdict.lower)} to {format_signed(verdict.upper)}; above 0 is better"


def _trust_card(trust: Trust | None) -> SummaryCard:
    if trust is None:
        return SummaryCard("Trust, next bar", "–", "nothing settled within the last 500 bars")
    factors = {name: asdict(trust)[name] for name in ("skill", "calibration", "drift", "freshness")}
    product = " × ".join(f"{name} {factor:.2f}" for name, factor in factors.items())
    return SummaryCard("Trust, next bar", f"{trust.value:.2f}", product)


def _latest_card(section: SeriesSection, scope: Scope) -> SummaryCard:
    if section.latest is None:
        return SummaryCard("Latest forecast", "–", "none")
    cutoff = format_time(section.latest.cutoff)
    if scope.run_id != LIVE:
        return SummaryCard("Latest forecast", cutoff, "the last cutoff of this run")
    if section.latest.is_stale(scope.as_of):
        return SummaryCard("Latest forecast", cutoff, "stale: its first target bar has closed", "worse")
    return SummaryCard("Latest forecast", cutoff, "fresh: its first target bar is open")


def _section(section: SeriesSection, scope: Scope) -> dict[str, Any]:
    """What the template shows of a series."""
    evidence = section.evidence
    drawings = [draw_fan(panel) for panel in section.panels]
    models: list[str] = []
    if evidence is not None:
        drawings += draw_all(evidence)
        models = list(dict.fromkeys(report.model_id for report in evidence.reports))
    return {
        "key": section.key,
        "cards": summary_cards(section, scope),
        "drawings": [(drawing, figure_json(drawing)) for drawing in drawings],
        "controls": _controls(drawings),
        "evidence": evidence,
        "about": _about(section),
        "misses": _misses(section),
        "names": short_names(models),
    }


def _controls(drawings: Sequence[CaptionedFigure]) -> list[tuple[str, str, list[str]]]:
    """The controls: name, label and choices, the first of which is selected; a control needs two choices."""
    figures = [drawing.figure for drawing in drawings if drawing.figure is not None]
    meta = [trace.meta or {} for figure in figures for trace in figure.data]
    known = (
        ("field", "Field", [ALL_FIELDS, *FIELDS]),
        ("steps", "Reliability of", list(STEPS.values())),
        ("variant", "Fan of prices", list(VARIANT_LABELS.values())),
    )
    used = {name: {choice for choices in meta for choice in choices.get(name, [])} for name, _, _ in known}
    controls = [(name, text, [choice for choice in choices if choice in used[name]]) for name, text, choices in known]
    return [control for control in controls if len(control[2]) > 1]


def _about(section: SeriesSection) -> list[str]:
    """Describe the model."""
    lines, latest, evidence = [], section.latest, section.evidence
    if latest is not None:
        made = latest.provenance
        lines.append(f"Model {made.model_id}, revision {made.revision}, weights {made.weights_sha256[:16]}…")
        lines.append(f"on {made.device} in {made.dtype}, {made.library_versions}")
    if evidence is not None:
        lines.append(f"cutoffs from {format_time(evidence.first)} to {format_time(evidence.last)}")
        lines.append(f"latest outcome seen {format_time(evidence.seen_at)}")
        if latest is not None and latest.provenance.ledger_id != evidence.model_id:
            lines.append(f"these figures are of {evidence.model_id}: nothing of the latest revision has settled")
    return lines


def _misses(section: SeriesSection) -> list[tuple[str, ...]]:
    """The worst misses as table cells."""
    if section.evidence is None:
        return []
    return [
        (
            format_opens(np.array([miss.target_open]), section.key.timeframe)[0],
            str(miss.step),
            miss.field,
            f"{format_price(miss.lower)} – {format_price(miss.upper)}",
            format_price(miss.actual),
            f"{miss.loss:.3%}",
        )
        for miss in section.evidence.misses
    ]
