"""The report of `model eval`: the figures of an evaluation as records, and the verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecaster.accuracy.significance import SIGNIFICANCE_LEVEL
from forecaster.bars import FIELDS
from forecaster.formatting import format_date
from forecaster.replay.evaluate import SIMULATION, WALK, evaluate
from forecaster.sources.summary import count_reasons

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecaster.bars import ValidatedRows
    from forecaster.model import Model
    from forecaster.replay.evaluate import Evaluation, EvaluationPlan
    from forecaster.sources.summary import FileError


@dataclass(frozen=True)
class StepResult:
    """One field of one step. Ratios: pinball to the filtered historical simulation, MAE to the random walk."""

    field: str
    step: int
    pinball: float
    pinball_ratio: float | None
    pinball_p: float | None
    mae: float
    mae_ratio: float | None
    coverage50: float
    coverage80: float
    coverage90: float
    coverage98: float


@dataclass(frozen=True)
class SeriesResult:
    """One file. Losses are in units of the last close; coverage is by field, over all steps.

    `pinball_ratio` and `pinball_p` compare with the filtered historical simulation, `pinball_ratio_walk` and
    `mae_close_*` with the random walk; a ratio below 1 is better. p-values are two-sided (Diebold-Mariano).
    `rejected` counts invalid rows of the file by `reasons`; `later` counts rows that had not closed yet.
    """

    name: str
    cutoffs: int
    start: str
    end: str
    timeframe: str
    calendar: str
    rejected: int
    reasons: dict[str, int]
    unclosed: int
    pinball_ratio: float | None
    pinball_p: float | None
    pinball_ratio_walk: float | None
    mae_close_ratio: float | None
    mae_close_p: float | None
    coverage50: dict[str, float]
    coverage80: dict[str, float]
    coverage90: dict[str, float]
    coverage98: dict[str, float]
    invalid_before_repair: float
    steps: list[StepResult]


@dataclass(frozen=True)
class EvaluationReport:
    """All files of a call, and the mean of their `pinball_ratio`s; None if there are none."""

    model: str
    series: list[SeriesResult]
    mean_pinball_ratio: float | None
    errors: list[FileError]

    @property
    def verdict(self) -> str:
        """The result in words."""
        rated = [(file.pinball_ratio, file.pinball_p) for file in self.series if file.pinball_ratio is not None]
        if not rated or self.mean_pinball_ratio is None:
            return "no series was evaluated"
        better = sum(ratio < 1 and _is_significant(p) for ratio, p in rated)
        worse = sum(ratio > 1 and _is_significant(p) for ratio, p in rated)
        gain = 1 - self.mean_pinball_ratio
        word = "lower" if gain > 0 else "higher"
        return (
            f"{self.model}: {abs(gain):.1%} {word} pinball loss than the filtered historical simulation, "
            f"on {len(rated)} series: significantly better on {better}, significantly worse on {worse}, "
            f"no significant difference on {len(rated) - better - worse} (p < {SIGNIFICANCE_LEVEL})"
        )


def report_of(model: str, series: list[SeriesResult], errors: list[FileError]) -> EvaluationReport:
    """Combine the results of all files."""
    ratios = [file.pinball_ratio for file in series if file.pinball_ratio is not None]
    return EvaluationReport(model, series, sum(ratios) / len(ratios) if ratios else None, errors)


def evaluate_series(
    rows: ValidatedRows, model: Model, plan: EvaluationPlan, on_batch: Callable[[int], None]
) -> SeriesResult:
    """Evaluate a model on the bars of one series of a file.

    Raises:
        ForecasterError: if there are too few bars, or they cannot be forecast.
    """
    evaluation = evaluate(model, rows.bars, plan, on_batch)
    key, cutoffs_N = evaluation.key, evaluation.cutoffs_N
    verdict = evaluation.verdict(SIMULATION)
    return SeriesResult(
        name=key.symbol,
        cutoffs=len(cutoffs_N),
        start=format_date(int(cutoffs_N[0])),
        end=format_date(int(cutoffs_N[-1])),
        timeframe=str(key.timeframe),
        calendar=key.calendar,
        rejected=len(rows.rejected),
        reasons=count_reasons(rows.rejected),
        unclosed=rows.unclosed,
        pinball_ratio=_ratio(verdict.skill),
        pinball_p=verdict.p_value,
        pinball_ratio_walk=_ratio(evaluation.verdict(WALK).skill),
        mae_close_ratio=_ratio(evaluation.totals("close").skill("absolute_error")),
        mae_close_p=evaluation.close_error_p_value(),
        coverage50=_coverages(evaluation, 50),
        coverage80=_coverages(evaluation, 80),
        coverage90=_coverages(evaluation, 90),
        coverage98=_coverages(evaluation, 98),
        invalid_before_repair=evaluation.invalid_before_repair,
        steps=[_step(evaluation, field, step) for field in FIELDS for step in range(1, evaluation.horizon + 1)],
    )


def _coverages(evaluation: Evaluation, percent: int) -> dict[str, float]:
    return {field: _or_nan(evaluation.totals(field).coverage(percent)) for field in FIELDS}


def _step(evaluation: Evaluation, field: str, step: int) -> StepResult:
    totals, verdict = evaluation.totals(field, step), evaluation.verdict(SIMULATION, field, step)
    return StepResult(
        field=field,
        step=step,
        pinball=_or_nan(totals.mean("common_pinball", "common_n")),
        pinball_ratio=_ratio(verdict.skill),
        pinball_p=verdict.p_value,
        mae=_or_nan(totals.mean("common_absolute_error", "common_n")),
        mae_ratio=_ratio(totals.skill("absolute_error")),
        coverage50=_or_nan(totals.coverage(50)),
        coverage80=_or_nan(totals.coverage(80)),
        coverage90=_or_nan(totals.coverage(90)),
        coverage98=_or_nan(totals.coverage(98)),
    )


def _ratio(skill: float | None) -> float | None:
    """Return the loss as a multiple of the reference's, from the skill."""
    return None if skill is None else 1 - skill


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _is_significant(p_value: float | None) -> bool:
    return p_value is not None and p_value < SIGNIFICANCE_LEVEL
