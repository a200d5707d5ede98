"""How commands print accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forecaster.cli.printing import say
from forecaster.cli.text_table import Column, TextTable, text
from forecaster.formatting import MISSING, format_decimal, format_percent, format_signed, format_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.accuracy.assess import Assessment
    from forecaster.accuracy.scores import Scores
    from forecaster.accuracy.trust import Verdict
    from forecaster.ledger import AccuracyReport


def print_scores(scores: Scores) -> None:
    """Print the accuracy of step 1."""
    print_reports([report for report in scores.reports() if report.step == 1])


def print_reports(reports: Sequence[AccuracyReport]) -> None:
    """Print accuracy as a table, one line for each report."""
    table = TextTable(
        "accuracy, losses in price; skill is 1 - loss / loss of the random walk; 50% to 98%: outcomes inside these "
        "intervals",
        [
            text("series"),
            text("model", wraps=True),
            "step",
            text("field"),
            "n",
            "MAE",
            Column("MASE", optional=True),
            Column("CRPS", optional=True),
            "skill MAE",
            Column("skill CRPS", optional=True),
            Column("50%", optional=True),
            "80%",
            Column("98%", optional=True),
        ],
        grouped=True,
    )
    for report in reports:
        is_known = report.skill_mae is None and report.n_common > 0
        skill_mae, skill_crps = (
            "known" if is_known else format_signed(skill) for skill in (report.skill_mae, report.skill_crps)
        )
        table.add(
            report.key,
            report.model_id.name,
            report.step,
            report.field,
            report.n,
            format_value(report.mae),
            format_decimal(report.mase),
            format_decimal(report.crps),
            skill_mae,
            skill_crps,
            format_percent(report.coverage50),
            format_percent(report.coverage80),
            format_percent(report.coverage98),
        )
    table.show()
    if any(report.skill_mae is None and report.n_common for report in reports):
        say("known: the price equals the last close, so there is no skill")


def print_verdicts(verdicts: Sequence[Verdict], assessment: Assessment, period: str = "all") -> None:
    """Print verdicts, one line for each series, model and variant.

    A star marks the models that no other model beats significantly on their series.
    """
    references = ", ".join(dict.fromkeys(verdict.reference.replace("_", " ") for verdict in verdicts))
    table = TextTable(
        f"{'' if period == 'all' else f'{period}: '}pinball loss compared with the {references}; skill above 0 is "
        "better; * no other model is significantly better",
        [
            text("series"),
            text("model"),
            text("variant"),
            "n",
            "skill",
            Column("in 80%", optional=True),
            Column("95% interval", optional=True),
            text("verdict", wraps=True),
        ],
        grouped=True,
    )
    for verdict in verdicts:
        model_id, is_served = verdict.model_id, verdict.variant == "served"
        star = "*" if is_served and model_id in assessment.model_confidence_set[verdict.key] else " "
        reference = f"the {verdict.reference.replace('_', ' ')}"
        has_interval = verdict.lower is not None and verdict.upper is not None
        table.add(
            verdict.key,
            f"{star} {model_id.name}",
            verdict.variant,
            f"{verdict.n:,}",
            format_signed(verdict.skill),
            format_percent(assessment.coverage80[verdict.key, model_id, verdict.variant]),
            f"{verdict.lower:+.3f} to {verdict.upper:+.3f}" if has_interval else MISSING,
            ""
            if is_served and model_id.name == verdict.reference
            else verdict.summary.replace(f" than {reference}", ""),
        )
    table.show()
