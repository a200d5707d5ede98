"""How `model eval` prints its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forecaster.cli.printing import say
from forecaster.cli.text_table import Column, TextTable, text
from forecaster.formatting import format_decimal, format_percent

if TYPE_CHECKING:
    from forecaster.cli.evaluation import EvaluationReport, SeriesResult


def print_evaluation(report: EvaluationReport, *, steps: bool) -> None:
    """Print the figures of each file as tables, and the verdict; with `steps` every field and step too."""
    table = TextTable(
        f"{report.model}: losses divided by those of a baseline; below 1 is better",
        [
            text("series", wraps=True),
            text("bars"),
            "cutoffs",
            "pinball",
            "p",
            "close MAE",
            "p",
            Column("invalid", optional=True),
        ],
    )
    for series in report.series:
        table.add(
            series.name,
            series.timeframe,
            series.cutoffs,
            format_decimal(series.pinball_ratio),
            format_decimal(series.pinball_p),
            format_decimal(series.mae_close_ratio),
            format_decimal(series.mae_close_p),
            format_percent(series.invalid_before_repair),
        )
    table.show()
    _print_coverage(report)
    if steps:
        for series in report.series:
            _print_steps(series)
    legend = (
        "pinball: divided by that of the filtered historical simulation; close MAE: by that of the random walk; "
        "p: Diebold-Mariano, two-sided; invalid: forecast bars that are impossible before repair"
    )
    say(legend)
    say(report.verdict, bold=True)


def _print_coverage(report: EvaluationReport) -> None:
    table = TextTable(
        "outcomes inside central intervals",
        [text("series", wraps=True), text("field"), "in 50%", "in 80%", "in 90%", "in 98%"],
    )
    for series in report.series:
        by_width = (series.coverage50, series.coverage80, series.coverage90, series.coverage98)
        for field in series.coverage50:
            table.add(series.name, field, *(format_percent(coverage[field]) for coverage in by_width))
    table.show()


def _print_steps(series: SeriesResult) -> None:
    table = TextTable(
        f"{series.name} by field and step: losses in units of the last close",
        [text("field"), "step", "pinball", "ratio", "p", "MAE", "ratio", "in 50%", "in 80%", "in 90%", "in 98%"],
    )
    for step in series.steps:
        losses = (f"{step.pinball:.3g}", format_decimal(step.pinball_ratio), format_decimal(step.pinball_p))
        errors = (f"{step.mae:.3g}", format_decimal(step.mae_ratio))
        coverages = (step.coverage50, step.coverage80, step.coverage90, step.coverage98)
        table.add(step.field, step.step, *losses, *errors, *map(format_percent, coverages))
    table.show()
