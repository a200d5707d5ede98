"""What `model eval` reports of a file: the figures of an evaluation as records, and the verdict in words."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecaster.bars import FIELDS
from forecaster.replay.evaluate import SIMULATION, WALK, evaluate
from forecaster.sources.inspect import count_reasons

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecaster.bars import Sifted
    from forecaster.model import Model
    from forecaster.replay.evaluate import Evaluation, EvaluationPlan
    from forecaster.sources.inspect import FileError

_SURE = 0.05


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
    `mae_close_*` with the random walk; below 1 the model is better. p-values are two-sided, by Diebold-Mariano.
    `rejected` counts rows of the file that are no bars of its series, `reasons` says why; `later` counts rows that had
    not closed yet.
    """

    name: str
    cutoffs: int
    start: str
    end: str
    timeframe: str
    calendar: str
    rejected: int
    reasons: dict[str, int]
    later: int
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
    invalid_after_repair: float
    steps: list[StepResult]


@dataclass(frozen=True)
class EvaluationReport:
    """All files of a call, and the mean of their `pinball_ratio`s, None when there are none."""

    model: str
    series: list[SeriesResult]
    mean_pinball_ratio: float | None
    errors: list[FileError]

    @property
    def verdict(self) -> str:
        """What the figures come to, in words."""
        rated = [(one.pinball_ratio, one.pinball_p) for one in self.series if one.pinball_ratio is not None]
        if not rated or self.mean_pinball_ratio is None:
            return "nothing was evaluated"
        better = sum(ratio < 1 and _is_sure(p) for ratio, p in rated)
        worse = sum(ratio > 1 and _is_sure(p) for ratio, p in rated)
        gain = 1 - self.mean_pinball_ratio
        word = "less" if gain > 0 else "more"
        return (
            f"{self.model} loses {abs(gain):.1%} {word} than the filtered historical simulation: surely better on "
            f"{better} of {len(rated)} series, surely worse on {worse}, not to be told apart on "
            f"{len(rated) - better - worse} (pinball loss, p below {_SURE})"
        )


def report_of(model: str, series: list[SeriesResult], errors: list[FileError]) -> EvaluationReport:
    """Put files together."""
    ratios = [one.pinball_ratio for one in series if one.pinball_ratio is not None]
    return EvaluationReport(model, series, sum(ratios) / len(ratios) if ratios else None, errors)


def evaluate_series(
    sifted: Sifted, model: Model, plan: EvaluationPlan, on_batch: Callable[[int], None]
) -> SeriesResult:
    """Evaluate a model on the bars of one series of a file.

    Raises:
        ForecasterError: when there are too few bars, or they cannot be forecast.
    """
    return _result(sifted, evaluate([model], sifted.bars, plan, on_batch))


def _result(sifted: Sifted, evaluation: Evaluation) -> SeriesResult:
    model = evaluation.model
    first, last = (_iso_date(int(evaluation.cutoffs_N[at])) for at in (0, -1))
    return SeriesResult(
        name=evaluation.key.symbol,
        cutoffs=len(evaluation.cutoffs_N),
        start=first,
        end=last,
        timeframe=str(evaluation.key.timeframe),
        calendar=evaluation.key.calendar,
        rejected=len(sifted.rejected),
        reasons=count_reasons(sifted.rejected),
        later=sifted.later,
        pinball_ratio=evaluation.pinball_ratio(model, SIMULATION),
        pinball_p=evaluation.p_value(model, SIMULATION),
        pinball_ratio_walk=evaluation.pinball_ratio(model, WALK),
        mae_close_ratio=evaluation.mae_ratio("close", model, WALK),
        mae_close_p=evaluation.mae_p_value("close", model, WALK),
        coverage50=evaluation.coverage(model, 0.5),
        coverage80=evaluation.coverage(model, 0.8),
        coverage90=evaluation.coverage(model, 0.9),
        coverage98=evaluation.coverage(model, 0.98),
        invalid_before_repair=evaluation.invalid_before_repair(model),
        invalid_after_repair=evaluation.invalid_after_repair(model),
        steps=[_step(evaluation, field, step) for field in FIELDS for step in range(1, evaluation.horizon + 1)],
    )


def _step(evaluation: Evaluation, field: str, step: int) -> StepResult:
    model = evaluation.model
    return StepResult(
        field=field,
        step=step,
        pinball=evaluation.pinball(model, field, step),
        pinball_ratio=evaluation.pinball_ratio(model, SIMULATION, field, step),
        pinball_p=evaluation.p_value(model, SIMULATION, field, step),
        mae=evaluation.mae(field, model, step),
        mae_ratio=evaluation.mae_ratio(field, model, WALK, step),
        coverage50=evaluation.coverage(model, 0.5, step)[field],
        coverage80=evaluation.coverage(model, 0.8, step)[field],
        coverage90=evaluation.coverage(model, 0.9, step)[field],
        coverage98=evaluation.coverage(model, 0.98, step)[field],
    )


def _is_sure(p_value: float | None) -> bool:
    return p_value is not None and p_value < _SURE


def _iso_date(time_ms: int) -> str:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).date().isoformat()
