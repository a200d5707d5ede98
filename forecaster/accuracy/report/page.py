"""The report as one HTML file: nothing is fetched, plotly is inside, and names of series and models are text alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import jinja2
import numpy as np
from markupsafe import Markup
from plotly.io import to_json
from plotly.offline import get_plotlyjs

from forecaster.accuracy.report import figures
from forecaster.accuracy.report.figures import (
    ALL_FIELDS,
    FONT,
    PRICES,
    STEPS,
    clock,
    instant,
    price,
    share,
    short_names,
    signed,
)
from forecaster.bars import FIELDS
from forecaster.ledger import LIVE
from forecaster.output_files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from forecaster.accuracy.report.content import Scope, SeriesEvidence, SeriesSection
    from forecaster.accuracy.report.figures import CaptionedFigure
    from forecaster.accuracy.trust import Trust, Verdict

NOTHING: Final = "Nothing has settled yet: no forecast of this series has met its bar."
_REPLAY: Final = (
    "This run is a replay. Its forecasts were made later, from bars of the past, each from bars up to its cutoff alone "
    "(forecaster verify lookahead tests that). A replay does not prove that a forecast was available before its bar "
    "closed: its times are set, not measured. It does not prove that the model was not trained on these bars."
)
_LONG_AGO: Final = "nothing of it settled within the last 500 bars"


@dataclass(frozen=True)
class SummaryCard:
    """A headline figure: its name, its value, what it means; `mood` is better, worse or nothing."""

    name: str
    value: str
    meaning: str
    mood: str = ""


def write_report(sections: Sequence[SeriesSection], scope: Scope, path: Path) -> int:
    """Write the report; returns its size in bytes.

    Raises:
        ConfigError: when the file cannot be written.
    """
    page = _TEMPLATE.render(
        sections=[_shown(one, scope) for one in sections],
        scope=scope,
        proof=proof(sections, scope),
        as_of=instant(scope.as_of),
        since=None if scope.since is None else instant(scope.since),
        font=Markup(FONT),  # noqa: S704 - ours
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - plotly's own, from its package
    )
    return write_text(page, path)


def cards(section: SeriesSection, scope: Scope) -> list[SummaryCard]:
    """Headline figures of a series."""
    found = [] if section.evidence is None else _proven(section.evidence, scope)
    if scope.run_id == LIVE:
        found.append(_trust_card(section.trust))
    return [*found, _newest_card(section, scope)]


def proof(sections: Sequence[SeriesSection], scope: Scope) -> str:
    """Say what the times of the forecasts prove, in words that are true of this run."""
    if scope.is_replay:
        return _REPLAY
    services = [one.evidence.service for one in sections if one.evidence is not None]
    settled, on_time = sum(one.forecasts for one in services), sum(one.on_time for one in services)
    if not settled:
        return "No forecast has settled yet."
    counted = f"All {settled:,}" if on_time == settled else f"{on_time:,} of {settled:,}"
    late = " Those that were asked for after that are late, and count in no score." if on_time < settled else ""
    return f"{counted} settled forecasts were in the ledger before the first bar that they forecast had closed.{late}"


def _proven(evidence: SeriesEvidence, scope: Scope) -> list[SummaryCard]:
    in_time = "" if scope.is_replay else ", in time"
    verdict, (lower, upper) = evidence.verdicts[0], evidence.coverage80_interval
    better = verdict.summary.startswith("better")
    mood = "better" if better else "worse" if verdict.summary.startswith("worse") else ""
    return [
        SummaryCard("Verdict", verdict.summary.partition(" (")[0], verdict.summary.partition(" (")[2].rstrip(")"), mood),
        SummaryCard("Skill, all steps and fields", signed(verdict.skill), _interval_words(verdict), mood),
        SummaryCard(
            "Inside the 80 % interval",
            share(evidence.coverage80),
            f"the true share: {100 * lower:.0f} to {100 * upper:.0f}\N{NO-BREAK SPACE}%",
        ),
        SummaryCard("Settled cutoffs", f"{evidence.service.forecasts:,}", f"{verdict.n:,} beside the random walk{in_time}"),
    ]


def _interval_words(verdict: Verdict) -> str:
    if verdict.lower is None or verdict.upper is None:
        return "too few cases for an interval"
    if not isfinite(verdict.lower):
        return "the interval is unbounded"
    return f"95 % interval {signed(verdict.lower)} to {signed(verdict.upper)}; above 0 is better"


def _trust_card(trust: Trust | None) -> SummaryCard:
    if trust is None:
        return SummaryCard("Trust now, next bar", "–", _LONG_AGO)
    factors = {name: asdict(trust)[name] for name in ("skill", "calibration", "drift", "freshness")}
    return SummaryCard("Trust now, next bar", f"{trust.value:.2f}", " × ".join(f"{n} {v:.2f}" for n, v in factors.items()))


def _newest_card(section: SeriesSection, scope: Scope) -> SummaryCard:
    if section.newest is None:
        return SummaryCard("Newest forecast", "–", "there is none")
    if scope.run_id != LIVE:
        return SummaryCard("Newest forecast", instant(section.newest.cutoff), "the last cutoff of this run")
    stale = section.newest.is_stale(scope.as_of)
    means = "stale: its first bar has closed, a newer one should exist" if stale else "fresh: its first bar is open"
    return SummaryCard("Newest forecast", instant(section.newest.cutoff), means, "worse" if stale else "")


def _shown(section: SeriesSection, scope: Scope) -> dict[str, Any]:
    """What the template shows of a series."""
    evidence = section.evidence
    drawings = [figures.fan(scene) for scene in section.scenes]
    if evidence is not None:
        drawings += [
            figures.skill_by_step(evidence),
            figures.reliability(evidence),
            figures.pit(evidence),
            figures.coverage_over_time(evidence),
            figures.skill_over_time(evidence),
        ]
    return {
        "key": section.key,
        "cards": cards(section, scope),
        "drawings": [(one, json_of(one)) for one in drawings],
        "choices": _choices(drawings),
        "evidence": evidence,
        "nothing": NOTHING,
        "is_replay": scope.is_replay,
        "about": _about(section),
        "misses": _misses(section),
        "names": {} if evidence is None else short_names(list(dict.fromkeys(one.model_id for one in evidence.reports))),
    }


def json_of(drawing: CaptionedFigure) -> Markup | None:
    """A figure as JSON, in which plotly writes every < and > as an escape, so that no script ends early."""
    return None if drawing.figure is None else Markup(to_json(drawing.figure, validate=False))  # noqa: S704 - as above


def _choices(drawings: Sequence[CaptionedFigure]) -> list[tuple[str, str, list[str]]]:
    """The controls: name, what people read, and the choices, the first of which is made; one alone is no choice."""
    drawn = [one.figure for one in drawings if one.figure is not None]
    meta = [trace.meta or {} for figure in drawn for trace in figure.data]
    there = {name: {choice for one in meta for choice in one.get(name, [])} for name in ("field", "steps", "prices")}
    known = (
        ("field", "Field", [ALL_FIELDS, *FIELDS]),
        ("steps", "Reliability of", list(STEPS.values())),
        ("prices", "Fan of prices", list(PRICES.values())),
    )
    found = [(name, text, [one for one in choices if one in there[name]]) for name, text, choices in known]
    return [one for one in found if len(one[2]) > 1]


def _about(section: SeriesSection) -> list[str]:
    """The model, in short sentences."""
    lines, newest, evidence = [], section.newest, section.evidence
    if newest is not None:
        made = newest.provenance
        lines.append(f"Model {made.model_id}, revision {made.revision}, weights {made.weights_sha256[:16]}…")
        lines.append(f"on {made.device} in {made.dtype}, {made.library_versions}")
    if evidence is not None:
        lines.append(f"cutoffs from {instant(evidence.first)} to {instant(evidence.last)}")
        lines.append(f"newest outcome seen {instant(evidence.seen_at)}")
        if newest is not None and newest.provenance.ledger_id != evidence.model_id:
            lines.append(f"these figures are of {evidence.model_id}: nothing of the newest revision has settled")
    return lines


def _misses(section: SeriesSection) -> list[tuple[str, ...]]:
    """The worst outcomes as cells of a table."""
    if section.evidence is None:
        return []
    return [
        (
            clock(np.array([one.target_open]), section.key.timeframe)[0],
            str(one.step),
            one.field,
            f"{price(one.lower)} – {price(one.upper)}",
            price(one.actual),
            f"{100 * one.loss:.3f} %",
        )
        for one in section.evidence.misses
    ]


_TEMPLATE: Final = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
).from_string("""
{% macro share(value) %}{{ "–" if value is none else "%.1f %%" % (100 * value) }}{% endmacro %}
{% macro number(value) %}{{ "–" if value is none else "%.4g" % value }}{% endmacro %}
{% macro skill(value) %}
{% if value is none %}<td>–</td>{% else -%}
<td class="{{ 'better' if value > 0 else 'worse' if value < 0 }}">{{ ("%+.3f" % value).replace("-", "−") }}</td>
{%- endif %}
{% endmacro %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Forecasts and what came of them</title>
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
main, header, footer { max-width: 84rem; margin: 0 auto; padding: 0 1.25rem }
header { padding-top: 2rem } footer { padding-bottom: 3rem; color: var(--soft); font-size: .9rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem } h2 { font-size: 1.35rem; margin: 0 0 1rem }
h3 { font-size: 1rem; margin: 0 0 .5rem } p { margin: 0 0 .75rem; max-width: 46rem } .soft { color: var(--soft) }
nav { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1rem 0 }
nav a { color: inherit; border: 1px solid var(--line); border-radius: 1rem; padding: .2rem .8rem; text-decoration: none;
  background: var(--card) }
nav a:hover { border-color: var(--better) }
nav .better::before { content: "▲ " } nav .worse::before { content: "▼ " }
section { border-top: 1px solid var(--line); padding: 1.75rem 0 2.25rem }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: .75rem; margin: 0 0 1rem }
.card, figure, .panel { background: var(--card); border: 1px solid var(--line); border-radius: .6rem }
.card { padding: .7rem .9rem; margin: 0 } .card dt, .card dd + dd { color: var(--soft); font-size: .85rem }
.card dd { margin: 0; overflow-wrap: anywhere }
.card .value { font-size: 1.3rem; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums }
.better .value, td.better { color: var(--better) } .worse .value, td.worse { color: var(--worse) }
.controls { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .35rem 1.1rem;
  padding: .6rem 0; background: var(--ground); font-size: .9rem }
.controls label { color: var(--soft) }
select { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: .35rem; padding: .15rem .3rem }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: .75rem }
figure, .panel { margin: 0; padding: .9rem .9rem .6rem; min-width: 0 }
figcaption { font-weight: 600; margin: 0 0 .3rem }
figure.wide { grid-column: 1 / -1 } .plot { height: 22rem } .panels { margin-top: .75rem; display: grid; gap: .75rem }
.bar { display: flex; height: .5rem; border-radius: .25rem; overflow: hidden; margin: .2rem 0 .6rem; gap: 2px }
.bar i { background: #3987d6 } .bar i + i { background: #d9822b } .bar i + i + i { background: #2a9d78 }
.scroll { overflow-x: auto } summary { cursor: pointer; font-weight: 600 }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .28rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: 600 } .name { text-align: left }
@media (max-width: 30rem) { main, header, footer { padding-left: .75rem; padding-right: .75rem }
  .cards { grid-template-columns: 1fr 1fr } .card { padding: .6rem .7rem } .card .value { font-size: 1.1rem }
  figure, .panel { padding: .7rem .5rem .4rem } .plot { height: 19rem } }
</style></head><body>
<header><h1>Forecasts and what came of them</h1>
<p>{{ sections | length }} series, run “{{ scope.run_id }}”, as known at {{ as_of }}
{%- if since %}; only what settled after {{ since }}{% endif %}.</p>
<p class="soft">Skill is 1 − pinball loss / that of the random walk on the same cases: above 0 is better, and near 0
is what honest scoring of prices mostly shows.</p>
<p class="soft">{{ proof }}</p>
{% if sections | length > 1 %}<nav aria-label="Series">
{% for one in sections %}<a href="#series-{{ loop.index }}" class="{{ one.cards[0].mood }}">{{ one.key }}</a>
{% endfor %}</nav>{% endif %}
<noscript><p>The figures are drawn by a script inside this file; without one, read the tables.</p></noscript></header>
<main>
{% for one in sections %}
<section id="series-{{ loop.index }}" aria-labelledby="name-{{ loop.index }}">
<h2 id="name-{{ loop.index }}">{{ one.key }}</h2>
<div class="cards">
{% for card in one.cards %}<dl class="card {{ card.mood }}"><dt>{{ card.name }}</dt>
<dd class="value">{{ card.value }}</dd><dd>{{ card.meaning }}</dd></dl>
{% endfor %}</div>
{% if one.evidence is none %}<p class="soft">{{ one.nothing }}</p>{% endif %}
{% if one.choices %}<div class="controls" role="group" aria-label="What the figures show">
{% for name, text, choices in one.choices %}<label>{{ text }} <select data-choice="{{ name }}">
{% for choice in choices %}<option>{{ choice }}</option>{% endfor %}</select></label>
{% endfor %}</div>{% endif %}
<div class="figures">
{% for drawing, json in one.drawings %}<figure{% if drawing.wide %} class="wide"{% endif %}>
<figcaption>{{ drawing.title }}</figcaption>
{% if json is none %}<p class="soft">{{ drawing.label }}</p>{% else %}
<div class="plot" role="img" aria-label="{{ drawing.label }}"></div><script type="application/json">{{ json }}</script>
{% endif %}</figure>
{% endfor %}</div>
{% if one.evidence is not none %}{% set e = one.evidence %}{% set s = e.service %}
<div class="panels">
<div class="panel"><h3>How {{ "{:,}".format(s.forecasts) }} settled forecasts came about</h3>
<div class="bar" aria-hidden="true">{% for count in s.engines.values() %}<i style="flex: {{ count }}"></i>{% endfor %}
</div><p>Engine: {% for engine, count in s.engines.items() %}{{ engine }} {{ share(count / s.forecasts) }}
{{- ", " if not loop.last }}{% endfor %}.
{% if one.is_replay %}Available {{ "{:,.0f}".format(s.latency_median) }} ms after their cutoff, as this replay is read.
{%- else %}From asked for to available: {{ "{:,.0f}".format(s.latency_median) }} ms (median),
{{ "{:,.0f}".format(s.latency_99) }} ms (99th percentile). In time: {{ "{:,}".format(s.on_time) }}.
Too late to count: {{ "{:,}".format(s.late) }}.{% endif %}</p>
</div>
<div class="panel"><h3>Worst misses</h3>
{% if one.misses %}<p class="soft">The greatest pinball loss of each target bar, as a share of the last close.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Worst misses"><table><thead><tr><th class="name">bar</th>
<th>step</th><th class="name">field</th><th>forecast, 80 %</th><th>came</th><th>loss</th></tr></thead><tbody>
{% for cells in one.misses %}<tr>{% for cell in cells %}<td{% if loop.index in (1, 3) %} class="name"{% endif %}>
{{- cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% else %}<p class="soft">None yet.</p>{% endif %}</div>
<details class="panel"><summary>Scores by model, step and field</summary>
<p class="soft">MAE, CRPS and width are in price; the range is high − low.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Scores"><table><thead><tr><th class="name">model</th>
<th>step</th><th class="name">field</th><th>n</th><th>MAE</th><th>MASE</th><th>CRPS</th><th>skill (pinball)</th>
<th>skill (MAE)</th><th>in 50 %</th><th>in 80 %</th><th>in 98 %</th><th>width 80 %</th></tr></thead><tbody>
{% for r in e.reports %}<tr><td class="name">{{ one.names[r.model_id] }}</td><td>{{ r.step }}</td>
<td class="name">{{ r.field }}</td><td>{{ "{:,}".format(r.n) }}</td><td>{{ number(r.mae) }}</td>
<td>{{ number(r.mase) }}</td><td>{{ number(r.crps) }}</td>{{ skill(r.skill_pinball) }}{{ skill(r.skill_mae) }}
<td>{{ share(r.coverage50) }}</td><td>{{ share(r.coverage80) }}</td><td>{{ share(r.coverage98) }}</td>
<td>{{ number(r.width80) }}</td></tr>
{% endfor %}</tbody></table></div></details>
</div>{% endif %}
<p class="soft" style="margin: 1rem 0 0; font-size: .88rem; max-width: none">
{%- for line in one.about %}{{ line }}{{ "; " if not loop.last else "." }}{% endfor %}</p>
</section>
{% endfor %}
</main>
<footer><p>Made from the ledger as known at {{ as_of }}, run “{{ scope.run_id }}”, {{ sections | length }} series.
Intervals hold with 95 %. Bands show what luck allows with 95 %; cases that overlap count as one.</p></footer>
<script>{{ plotly }}</script>
<script>
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Set();
function theme() {
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const found = {"font.color": colour("--soft"), "hoverlabel.bgcolor": colour("--card"),
    "hoverlabel.bordercolor": colour("--line"), "hoverlabel.font.color": colour("--ink"), "hoverlabel.align": "left"};
  for (const axis of ["xaxis", "yaxis"])
    Object.assign(found, {[axis + ".gridcolor"]: colour("--line"), [axis + ".linecolor"]: colour("--line")});
  return found;
}
function choices(plot) {
  const found = {};
  for (const one of plot.closest("section").querySelectorAll("select")) found[one.dataset.choice] = one.value;
  return found;
}
function shown(traces, chosen) {
  return traces.map(one => Object.entries(one.meta || {}).every(
    ([name, values]) => !(name in chosen) || values.includes(chosen[name])));
}
function draw(plot) {
  const figure = JSON.parse(plot.parentElement.querySelector("script").textContent);
  shown(figure.data, choices(plot)).forEach((visible, i) => { figure.data[i].visible = visible; });
  // A finger that scrolls the page must not zoom into a figure.
  if (matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false;
  drawn.add(plot);
  Plotly.newPlot(plot, figure.data, figure.layout, {responsive: true, displayModeBar: false})
    .then(() => Plotly.relayout(plot, theme()));
}
const near = new IntersectionObserver(entries => entries.forEach(one => {
  if (one.isIntersecting) { near.unobserve(one.target); draw(one.target); }
}), {rootMargin: "600px"});
document.querySelectorAll(".plot").forEach(plot => near.observe(plot));
document.querySelectorAll("select").forEach(one => one.addEventListener("change", () => {
  for (const plot of one.closest("section").querySelectorAll(".plot"))
    if (drawn.has(plot)) Plotly.restyle(plot, {visible: shown(plot.data, choices(plot))});
}));
dark.addEventListener("change", () => drawn.forEach(plot => Plotly.relayout(plot, theme())));
addEventListener("beforeprint",
  () => document.querySelectorAll(".plot").forEach(plot => drawn.has(plot) || draw(plot)));
</script></body></html>
""")
