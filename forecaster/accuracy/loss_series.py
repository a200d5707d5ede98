"""Losses in time order: the input of significance tests, drift detection and the report.

Shapes: N steps, F fields, U cutoffs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from forecaster.accuracy.losses import COLUMN_INDEX, Losses
from forecaster.accuracy.scores import RAW, SERVED
from forecaster.bars import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId


@dataclass(frozen=True, eq=False)
class LossTrace:
    """Losses of one model on one series, by cutoff and step; late steps and those without a random walk are left out.

    Args:
        cutoff_N: UTC ms.
        step_N: 1 to the horizon.
        target_open_N: UTC ms.
        pinball_NF: loss in units of the last close.
        walk_pinball_NF: the random walk's loss, in the same units.
        covered80_NF: 1 if the outcome is inside the central 80 % interval, else 0.
    """

    cutoff_N: NDArray[np.int64]
    step_N: NDArray[np.int64]
    target_open_N: NDArray[np.int64]
    pinball_NF: NDArray[np.float64]
    walk_pinball_NF: NDArray[np.float64]
    covered80_NF: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step_N)

    def select(self, field: str | None = None, step: int | None = None) -> LossSeries:
        """Average the losses of each cutoff, over one field or all, one step or all."""
        chosen = np.flatnonzero(np.ones(len(self), bool) if step is None else self.step_N == step)
        column = slice(None) if field is None else [FIELDS.index(field)]
        cutoff_U, start_U, count_U = np.unique(self.cutoff_N[chosen], return_index=True, return_counts=True)
        last_U = self.target_open_N[chosen][start_U + count_U - 1]
        loss_U, walk_U, covered_U = (
            np.add.reduceat(values_NF[chosen][:, column].mean(axis=1), start_U) / count_U
            if len(chosen)
            else np.zeros(0)
            for values_NF in (self.pinball_NF, self.walk_pinball_NF, self.covered80_NF)
        )
        following_U = np.searchsorted(cutoff_U, last_U, side="right") - np.arange(len(cutoff_U)) - 1
        return LossSeries(cutoff_U, loss_U, walk_U, covered_U, int(following_U.max(initial=0)))


@dataclass(frozen=True, eq=False)
class LossSeries:
    """One mean loss for each cutoff.

    Args:
        cutoff_U: UTC ms, rising.
        loss_U: mean pinball loss in units of the last close.
        walk_U: the random walk's loss, in the same units.
        covered_U: fraction of outcomes inside the 80 % interval.
        lag: number of later cutoffs before the last target of a cutoff has closed.
    """

    cutoff_U: NDArray[np.int64]
    loss_U: NDArray[np.float64]
    walk_U: NDArray[np.float64]
    covered_U: NDArray[np.float64]
    lag: int

    def __getitem__(self, chosen: NDArray[np.int64]) -> LossSeries:
        """Select cutoffs by position."""
        rows = (self.cutoff_U[chosen], self.loss_U[chosen], self.walk_U[chosen], self.covered_U[chosen])
        return LossSeries(*rows, self.lag)


def align(left: LossSeries, right: LossSeries) -> tuple[LossSeries, LossSeries]:
    """Keep the cutoffs that both series have."""
    _, in_left, in_right = np.intersect1d(left.cutoff_U, right.cutoff_U, assume_unique=True, return_indices=True)
    return left[in_left], right[in_right]


class LossHistory:
    """The loss traces of several models and series.

    Args:
        losses: added at once; see `add`.
    """

    def __init__(self, losses: Iterable[Losses] = ()) -> None:
        self._parts: dict[tuple[SeriesKey, ModelId, str], list[LossTrace]] = defaultdict(list)
        for portion in losses:
            self.add(portion)

    def add(self, losses: Losses) -> None:
        """Add losses; those of a series must come in the order of cutoffs."""
        steps = losses.steps
        for m, model_id in enumerate(steps.models):
            is_own_N = (steps.model_N == m) & ~steps.late_N & (losses.served_NGC[:, 0, COLUMN_INDEX["common_n"]] > 0)
            chosen = np.flatnonzero(is_own_N)
            for variant, terms_NGC in ((SERVED, losses.served_NGC), (RAW, losses.raw_NGC)):
                # Indexing with an array copies: a view would keep all columns of all losses in memory.
                own_NF, walk_NF, covered_NF = (
                    terms_NGC[chosen, : len(FIELDS), COLUMN_INDEX[name]]
                    for name in ("common_pinball", "walk_pinball", "covered80")
                )
                trace = LossTrace(
                    cutoff_N=steps.cutoff_N[chosen],
                    step_N=steps.step_N[chosen],
                    target_open_N=steps.target_open_N[chosen],
                    pinball_NF=own_NF,
                    walk_pinball_NF=walk_NF,
                    covered80_NF=covered_NF,
                )
                self._parts[steps.key, model_id, variant].append(trace)

    @property
    def pairs(self) -> list[tuple[SeriesKey, ModelId]]:
        """The pairs of series and model that have losses."""
        return list(dict.fromkeys((key, model_id) for key, model_id, _ in self._parts))

    def trace(self, key: SeriesKey, model_id: ModelId, variant: str = SERVED) -> LossTrace:
        """Return the losses of one model on one series."""
        parts = self._parts[key, model_id, variant]
        if len(parts) > 1:
            names = [column.name for column in fields(LossTrace)]
            parts[:] = [LossTrace(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})]
        return parts[0]
