"""Scores and verdicts of a run, from its losses."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.loss_series import Traces
from forecaster.accuracy.scores import RAW, SERVED, Scores
from forecaster.accuracy.trust import Verdict, judge, may_be_best

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.scores import Group
    from forecaster.bars import SeriesKey

FORMS: Final = (SERVED, RAW)


@dataclass(frozen=True)
class Assessment:
    """Scores and verdicts of a run.

    Args:
        scores: sums of losses.
        verdicts: of every model on every series.
        coverage80: by series, model and form, over the fields and steps of the verdicts.
        may_be_best: the models of each series that no other model beats significantly.
    """

    scores: Scores
    verdicts: list[Verdict]
    coverage80: dict[tuple[SeriesKey, str, str], float | None]
    may_be_best: dict[SeriesKey, frozenset[str]]


def assess(
    losses: Iterable[Losses], field: str | None = None, step: int | None = None, rival: str | None = None
) -> Assessment:
    """Score and judge every model on every series, as served, and as predicted where that differs.

    The rival is the name of another model, of which the newest revision counts; the random walk when left out. A series
    that the rival has not forecast has scores and no verdict.
    """
    scores, traces = Scores(), Traces()
    for portion in losses:
        scores.add(portion)
        traces.add(portion)
    groups: dict[tuple[SeriesKey, str, str], list[Group]] = defaultdict(list)
    for group in scores.groups:
        if not group.late:
            groups[group.key, group.model_id, group.form].append(group)
    rivals = {key: model_id for key, model_id in traces.names if model_id.name == rival}
    verdicts: list[Verdict] = []
    coverage: dict[tuple[SeriesKey, str, str], float | None] = {}
    for key, model_id in traces.names:
        totals = {form: scores.sum_of(groups[key, model_id, form], field, step) for form in FORMS}
        same = np.array_equal(totals[SERVED].sums_C, totals[RAW].sums_C, equal_nan=True)
        forms = FORMS[:1] if same else FORMS
        if rival is None or key in rivals:
            verdicts += [judge(traces, (key, model_id), form, field, step, rivals.get(key)) for form in forms]
        coverage |= {(key, model_id, form): totals[form].coverage(80) for form in forms}
    best = {key: may_be_best(traces, key, field, step) for key in dict.fromkeys(key for key, _ in traces.names)}
    return Assessment(scores, verdicts, coverage, best)
