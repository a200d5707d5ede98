"""Losses in the order of time: what tests of skill, drift and the report need, and sums have lost.

Shapes: N steps, F fields, U cutoffs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from forecaster.accuracy.losses import PLACE, Losses
from forecaster.accuracy.scores import RAW, SERVED
from forecaster.bars import FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId


@dataclass(frozen=True, eq=False)
class Trace:
    """One model on one series: its steps that the random walk forecast as well, by cutoff and step, none late.

    Args:
        cutoff_N: UTC ms.
        step_N: 1 to the horizon.
        target_open_N: UTC ms.
        pinball_NF: loss in units of the last close; `walk_pinball_NF` the random walk's.
        covered80_NF: 1 where the outcome lay inside the central 80 % interval, else 0.
    """

    cutoff_N: NDArray[np.int64]
    step_N: NDArray[np.int64]
    target_open_N: NDArray[np.int64]
    pinball_NF: NDArray[np.float64]
    walk_pinball_NF: NDArray[np.float64]
    covered80_NF: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step_N)

    def of(self, field: str | None = None, step: int | None = None) -> Course:
        """Mean losses of each cutoff, over one field or all, one step or all."""
        chosen = np.flatnonzero(np.ones(len(self), bool) if step is None else self.step_N == step)
        column = slice(None) if field is None else [FIELDS.index(field)]
        cutoff_U, start_U, count_U = np.unique(self.cutoff_N[chosen], return_index=True, return_counts=True)
        last_U = self.target_open_N[chosen][start_U + count_U - 1]
        loss_U, walk_U, covered_U = (
            np.add.reduceat(one_NF[chosen][:, column].mean(axis=1), start_U) / count_U if len(chosen) else np.zeros(0)
            for one_NF in (self.pinball_NF, self.walk_pinball_NF, self.covered80_NF)
        )
        following_U = np.searchsorted(cutoff_U, last_U, side="right") - np.arange(len(cutoff_U)) - 1
        return Course(cutoff_U, loss_U, walk_U, covered_U, int(following_U.max(initial=0)))


@dataclass(frozen=True, eq=False)
class Course:
    """One number for each cutoff. `lag` further cutoffs come before the last target of one has closed.

    Args:
        cutoff_U: UTC ms, rising.
        loss_U: mean pinball loss in units of the last close; `walk_U` the random walk's.
        covered_U: share of outcomes inside the 80 % interval.
    """

    cutoff_U: NDArray[np.int64]
    loss_U: NDArray[np.float64]
    walk_U: NDArray[np.float64]
    covered_U: NDArray[np.float64]
    lag: int

    def __getitem__(self, chosen: NDArray[np.int64]) -> Course:
        """Give some of the cutoffs."""
        rows = (self.cutoff_U[chosen], self.loss_U[chosen], self.walk_U[chosen], self.covered_U[chosen])
        return Course(*rows, self.lag)


def in_common(one: Course, other: Course) -> tuple[Course, Course]:
    """The cutoffs that two courses share."""
    _, of_one, of_other = np.intersect1d(one.cutoff_U, other.cutoff_U, assume_unique=True, return_indices=True)
    return one[of_one], other[of_other]


class Traces:
    """Traces of many models and series, grown loss by loss, in the order of time."""

    def __init__(self, losses: Iterable[Losses] = ()) -> None:
        self._parts: dict[tuple[SeriesKey, ModelId, str], list[Trace]] = defaultdict(list)
        for one in losses:
            self.add(one)

    def add(self, losses: Losses) -> None:
        """Keep further losses; those of a series must come in the order of cutoffs."""
        steps = losses.steps
        for m, model_id in enumerate(steps.models):
            there_N = (steps.model_N == m) & ~steps.late_N & (losses.served_NGC[:, 0, PLACE["common_n"]] > 0)
            chosen = np.flatnonzero(there_N)
            for form, terms_NGC in ((SERVED, losses.served_NGC), (RAW, losses.raw_NGC)):
                # Copies: a view would keep all the columns of all the losses.
                own_NF, walk_NF, covered_NF = (
                    terms_NGC[chosen, : len(FIELDS), PLACE[name]]
                    for name in ("common_pinball", "walk_pinball", "covered80")
                )
                trace = Trace(
                    cutoff_N=steps.cutoff_N[chosen],
                    step_N=steps.step_N[chosen],
                    target_open_N=steps.target_open_N[chosen],
                    pinball_NF=own_NF,
                    walk_pinball_NF=walk_NF,
                    covered80_NF=covered_NF,
                )
                self._parts[steps.key, model_id, form].append(trace)

    @property
    def names(self) -> list[tuple[SeriesKey, ModelId]]:
        """Series and models that there are."""
        return list(dict.fromkeys((key, model_id) for key, model_id, _ in self._parts))

    def of(self, key: SeriesKey, model_id: ModelId, form: str = SERVED) -> Trace:
        """The whole trace of one model on one series."""
        parts = self._parts[key, model_id, form]
        if len(parts) > 1:
            columns = {one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Trace)}
            parts[:] = [Trace(**columns)]
        return parts[0]
