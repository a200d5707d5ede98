"""From settled rows to accuracy: sums and counts first, means last, so that parts add up exactly.

Skill compares a model with the random walk on common cases only: the same series, run, cutoff, step
and field, settled for both.

Shapes: N cases, Q quantile levels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from forecaster.accuracy import metrics
from forecaster.forecast import interpolate
from forecaster.ledger import AccuracyReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from forecaster.bars import SeriesKey
    from forecaster.ledger import LedgerRow, SettledRow

RANDOM_WALK = "random_walk@1"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over cases; those of `common_*` only over cases that the random walk forecast as well."""

    n: int = 0
    absolute_error: float = 0.0
    pinball: float = 0.0
    covered80: int = 0
    width80: float = 0.0
    common_absolute_error: float = 0.0
    common_pinball: float = 0.0
    walk_absolute_error: float = 0.0
    walk_pinball: float = 0.0

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def mae(self) -> float:
        """Mean absolute error of the median, in price."""
        return self.absolute_error / self.n

    @property
    def coverage80(self) -> float:
        """Share of outcomes inside the central 80 % interval."""
        return self.covered80 / self.n

    @property
    def skill_mae(self) -> float | None:
        """1 - MAE / MAE of the random walk, on common cases."""
        return metrics.skill(self.common_absolute_error, self.walk_absolute_error)

    @property
    def skill_pinball(self) -> float | None:
        """1 - pinball loss / pinball loss of the random walk, on common cases."""
        return metrics.skill(self.common_pinball, self.walk_pinball)


@dataclass(frozen=True, slots=True)
class _Case:
    """The losses of one settled row."""

    absolute_error: float
    pinball: float
    covered80: bool
    width80: float


class Scores:
    """Accuracy by series, model, step and field, grown row by row."""

    def __init__(self, rows: Iterable[SettledRow] = ()) -> None:
        self._totals: dict[tuple[SeriesKey, str, int, str], Totals] = defaultdict(Totals)
        self.add(list(rows))

    def add(self, rows: Sequence[SettledRow]) -> None:
        """Count further rows. Rows of one case must come together with the random walk's."""
        cases = {_name(one.row): (one.row, case) for one, case in zip(rows, _cases(rows), strict=True)}
        for (of_case, model_id), (row, case) in cases.items():
            _, walk = cases.get((of_case, RANDOM_WALK), (row, None))
            self._totals[row.key, model_id, row.step, row.field] += _count(case, walk)

    def reports(self) -> list[AccuracyReport]:
        """One report per series, model, step and field, in that order."""
        ordered = sorted(self._totals.items(), key=lambda item: (str(item[0][0]), *item[0][1:]))
        return [
            AccuracyReport(
                key=key,
                model_id=model_id,
                step=step,
                field=field,
                n=totals.n,
                mae=totals.mae,
                pinball=totals.pinball / totals.n,
                coverage80=totals.coverage80,
                width80=totals.width80 / totals.n,
                skill_mae=totals.skill_mae,
                skill_pinball=totals.skill_pinball,
            )
            for (key, model_id, step, field), totals in ordered
        ]

    def total(self, model_name: str, field: str, step: int | None = 1, key: SeriesKey | None = None) -> Totals:
        """Sums of one model and field over series (all unless `key`) and steps (all if `step` is None)."""
        return sum(
            (
                totals
                for (of_key, model_id, of_step, of_field), totals in self._totals.items()
                if model_id.partition("@")[0] == model_name
                and of_field == field
                and step in (None, of_step)
                and key in (None, of_key)
            ),
            Totals(),
        )


def _name(row: LedgerRow) -> tuple[tuple[SeriesKey, str, int, int, str], str]:
    return (row.key, row.run_id, row.cutoff, row.step, row.field), row.model_id


def _cases(rows: Sequence[SettledRow]) -> list[_Case]:
    """Losses of every row, in order; rows that share quantile levels are computed together."""
    cases: dict[int, _Case] = {}
    by_levels: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for i, one in enumerate(rows):
        by_levels[one.row.quantile_levels].append(i)
    for levels, positions in by_levels.items():
        values_NQ = np.stack([rows[i].row.values_Q for i in positions])
        actual_N = np.array([rows[i].actual for i in positions])
        lower_N, median_N, upper_N = (interpolate(values_NQ, levels, level) for level in (0.1, 0.5, 0.9))
        columns = (
            metrics.absolute_error(median_N, actual_N).tolist(),
            metrics.pinball(values_NQ, np.array(levels), actual_N).tolist(),
            metrics.covered(lower_N, upper_N, actual_N).tolist(),
            (upper_N - lower_N).tolist(),
        )
        cases.update(zip(positions, (_Case(*one) for one in zip(*columns, strict=True)), strict=True))
    return [cases[i] for i in range(len(rows))]


def _count(case: _Case, walk: _Case | None) -> Totals:
    alone = Totals(1, case.absolute_error, case.pinball, int(case.covered80), case.width80)
    if walk is None:
        return alone
    return alone + Totals(0, 0.0, 0.0, 0, 0.0, case.absolute_error, case.pinball, walk.absolute_error, walk.pinball)
