"""From settled rows to accuracy: sums and counts first, means last, so that parts add up.

Skill compares a model with the random walk on common cases only: the same series, run, cutoff, step
and field, settled for both.

Shapes: N cases, G groups of them, Q quantile levels, L losses.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy import metrics
from forecaster.forecast import interpolate
from forecaster.ledger import AccuracyReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.ledger import LedgerRow, SettledRow

RANDOM_WALK = "random_walk@1"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over cases; those of `common_*` only over cases that the random walk forecast as well."""

    n: int
    absolute_error: float
    pinball: float
    covered80: int
    width80: float
    common_absolute_error: float
    common_pinball: float
    walk_absolute_error: float
    walk_pinball: float

    @classmethod
    def of(cls, sums: NDArray[np.float64]) -> Totals:
        """Name the sums of `Scores`."""
        n, absolute_error, pinball, covered80, *rest = sums.tolist()
        return cls(int(n), absolute_error, pinball, int(covered80), *rest)

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


_SUMS: Final = len(fields(Totals))


class Scores:
    """Accuracy by series, model, step and field, grown row by row."""

    def __init__(self, rows: Iterable[SettledRow] = ()) -> None:
        self._groups: dict[tuple[SeriesKey, str, int, str], int] = {}
        self._sums_GL = np.zeros((0, _SUMS))
        self.add(list(rows))

    def add(self, rows: Sequence[SettledRow]) -> None:
        """Count further rows. Rows of one case must come together with the random walk's."""
        if not rows:
            return
        losses_NL = _losses(rows)
        walks = {_case(one.row): i for i, one in enumerate(rows) if one.row.model_id == RANDOM_WALK}
        terms_NL = np.zeros((len(rows), _SUMS))
        terms_NL[:, :5] = losses_NL
        pairs = [(i, walks[_case(one.row)]) for i, one in enumerate(rows) if walks and _case(one.row) in walks]
        if pairs:
            row, walk = np.array(pairs).T
            terms_NL[row, 5:7] = losses_NL[row, 1:3]
            terms_NL[row, 7:] = losses_NL[walk, 1:3]
        groups = [self._groups.setdefault(_group(one.row), len(self._groups)) for one in rows]
        self._sums_GL = np.concatenate([self._sums_GL, np.zeros((len(self._groups) - len(self._sums_GL), _SUMS))])
        np.add.at(self._sums_GL, groups, terms_NL)

    def reports(self) -> list[AccuracyReport]:
        """One report per series, model, step and field, in that order."""
        ordered = sorted(self._groups.items(), key=lambda item: (str(item[0][0]), *item[0][1:]))
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
            for (key, model_id, step, field), totals in ((name, Totals.of(self._sums_GL[i])) for name, i in ordered)
        ]

    def total(self, model_name: str, field: str, step: int | None = 1, key: SeriesKey | None = None) -> Totals:
        """Sums of one model and field over series (all unless `key`) and steps (all if `step` is None)."""
        chosen = [
            i
            for (of_key, model_id, of_step, of_field), i in self._groups.items()
            if model_id.partition("@")[0] == model_name
            and of_field == field
            and step in (None, of_step)
            and key in (None, of_key)
        ]
        return Totals.of(self._sums_GL[chosen].sum(axis=0))


def _group(row: LedgerRow) -> tuple[SeriesKey, str, int, str]:
    return row.key, row.model_id, row.step, row.field


def _case(row: LedgerRow) -> tuple[SeriesKey, str, int, int, str]:
    return row.key, row.run_id, row.cutoff, row.step, row.field


def _losses(rows: Sequence[SettledRow]) -> NDArray[np.float64]:
    """One line per row: 1 and its losses, in the order of the first fields of `Totals`.

    Rows that share quantile levels are computed together.
    """
    losses_NL = np.ones((len(rows), 5))
    by_levels: dict[tuple[float, ...], list[int]] = defaultdict(list)
    for i, one in enumerate(rows):
        by_levels[one.row.quantile_levels].append(i)
    for levels, positions in by_levels.items():
        values_NQ = np.stack([rows[i].row.values_Q for i in positions])
        actual_N = np.array([rows[i].actual for i in positions])
        lower_N, median_N, upper_N = (interpolate(values_NQ, levels, level) for level in (0.1, 0.5, 0.9))
        losses_NL[positions, 1] = metrics.absolute_error(median_N, actual_N)
        losses_NL[positions, 2] = metrics.pinball(values_NQ, np.array(levels), actual_N)
        losses_NL[positions, 3] = metrics.covered(lower_N, upper_N, actual_N)
        losses_NL[positions, 4] = upper_N - lower_N
    return losses_NL
