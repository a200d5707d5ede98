"""Scores and verdicts of a run, from its losses."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.scores import RAW, SERVED, Scores
from forecaster.accuracy.trust import Verdict, compute_verdict, model_confidence_set

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.scores import Group
    from forecaster.bars import SeriesKey

VARIANTS: Final = (SERVED, RAW)


@dataclass(frozen=True)
class Assessment:
    """Scores and verdicts of a run.

    Args:
        scores: sums of losses.
        verdicts: of every model on every series.
        coverage80: by series, model and variant, over the fields and steps of the verdicts.
        model_confidence_set: the models of each series that no other model beats significantly.
    """

    scores: Scores
    verdicts: list[Verdict]
    coverage80: dict[tuple[SeriesKey, str, str], float | None]
    model_confidence_set: dict[SeriesKey, frozenset[str]]


def assess(
    losses: Iterable[Losses], field: str | None = None, step: int | None = None, reference: str | None = None
) -> Assessment:
    """Compute scores and verdicts of every model on every series, as served, and raw where that differs.

    Args:
        losses: those of a series in the order of cutoffs.
        field: one field; None for all.
        step: one step; None for all.
        reference: name of the reference model, of which the latest revision counts; the random walk when left out. A
            series that it has not forecast has scores and no verdict.
    """
    scores, history = Scores(), LossHistory()
    for portion in losses:
        scores.add(portion)
        history.add(portion)
    groups: dict[tuple[SeriesKey, str, str], list[Group]] = defaultdict(list)
    for group in scores.groups:
        if not group.late:
            groups[group.key, group.model_id, group.variant].append(group)
    references = {key: model_id for key, model_id in history.pairs if model_id.name == reference}
    verdicts: list[Verdict] = []
    coverage: dict[tuple[SeriesKey, str, str], float | None] = {}
    for key, model_id in history.pairs:
        totals = {variant: scores.sum_of(groups[key, model_id, variant], field, step) for variant in VARIANTS}
        is_same = np.array_equal(totals[SERVED].sums_C, totals[RAW].sums_C, equal_nan=True)
        variants = VARIANTS[:1] if is_same else VARIANTS
        if reference is None or key in references:
            verdicts += [
                compute_verdict(history, (key, model_id), variant, field, step, references.get(key))
                for variant in variants
            ]
        coverage |= {(key, model_id, variant): totals[variant].coverage(80) for variant in variants}
    keys = dict.fromkeys(key for key, _ in history.pairs)
    best = {key: model_confidence_set(history, key, field, step) for key in keys}
    return Assessment(scores, verdicts, coverage, best)
