"""Scores: sums and counts of losses, and the means and skills that follow. Parts from several machines add up.

Skill compares a model with the random walk on common cases: the same series, run, cutoff, step and field, settled for
both, in units of the last close. Served and raw prices, engines and late forecasts are counted separately.

Shapes: N steps, H numbers of steps, G fields and the range, C columns.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from forecaster.accuracy import metrics
from forecaster.accuracy.losses import COLUMN_INDEX, COLUMNS, COUNT_COLUMNS, PIT_BINS, SCORED_FIELDS, Losses
from forecaster.bars import FIELDS
from forecaster.ledger import AccuracyReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId

SERVED: Final = "served"
RAW: Final = "raw"
_EMPTY: Final = np.zeros((0, len(SCORED_FIELDS), len(COLUMNS)))
_KNOWN_RATIO: Final = 0.01
"""A field is known in advance if the random walk's loss on it, over its loss on the close, is below this."""


class Group(NamedTuple):
    """What is counted separately. `variant` is `served`, or `raw` for prices before calibration."""

    key: SeriesKey
    model_id: ModelId
    engine: str
    late: bool
    variant: str

    @property
    def model_name(self) -> str:
        """Name of the model in the configuration."""
        return self.model_id.name


@dataclass(frozen=True)
class Totals:
    """Sums by column, and the means that follow: None without cases.

    Losses are in price; skills are of losses in units of the last close.
    """

    sums_C: NDArray[np.float64]

    def __getitem__(self, column: str) -> float:
        """Return the sum of a column, see `losses.COLUMNS`."""
        return float(self.sums_C[COLUMN_INDEX[column]])

    @property
    def n(self) -> int:
        """Number of cases."""
        return int(self["n"])

    def mean(self, column: str, count: str = "n") -> float | None:
        """Return a column's sum over a count."""
        return self[column] / self[count] if self[count] else None

    def root_mean(self, column: str, count: str = "n") -> float | None:
        """Return the square root of a column's mean."""
        mean = self.mean(column, count)
        return None if mean is None else sqrt(mean)

    def skill(self, loss: str) -> float | None:
        """Return 1 - loss / the random walk's loss, on common cases; `loss` is absolute_error, pinball or crps."""
        return metrics.skill(self[f"common_{loss}"], self[f"walk_{loss}"])

    def coverage(self, percent: int) -> float | None:
        """Return the fraction of outcomes inside the central interval of 50, 80, 90 or 98 percent."""
        fraction = self.mean(f"covered{percent}", "quantile_n")
        return None if fraction is None or np.isnan(fraction) else fraction

    @property
    def mae(self) -> float | None:
        """Mean absolute error of the median, in price."""
        return self.mean("absolute_error")

    @property
    def pit(self) -> tuple[float, ...]:
        """Fraction of outcomes in each tenth of the probability integral transform; 0.1 each for true quantiles."""
        counts = [self[f"pit{i}"] for i in range(PIT_BINS)]
        return tuple(count / sum(counts) for count in counts) if sum(counts) else ()

    @property
    def wql(self) -> float | None:
        """Weighted quantile loss."""
        return metrics.weighted_quantile_loss(self["pinball"], self["absolute_actual"]) if self["quantile_n"] else None

    @property
    def direction_majority(self) -> float | None:
        """Hit rate of always forecasting the more frequent direction."""
        return metrics.majority_rate(int(self["ups"]), int(self["direction_n"] - self["ups"]))


class Scores:
    """Sums of losses by series, model, variant, engine and lateness.

    Args:
        losses: added at once; see `add`.
    """

    def __init__(self, losses: Iterable[Losses] = ()) -> None:
        self._sums: dict[Group, NDArray[np.float64]] = defaultdict(_EMPTY.copy)
        for portion in losses:
            self.add(portion)

    def add(self, losses: Losses) -> None:
        """Add losses. A case and the random walk's case of the same cutoff are in the same portion."""
        steps = losses.steps
        code_N = (steps.model_N * len(steps.engines) + steps.engine_N) * 2 + steps.late_N
        for code in np.unique(code_N).tolist():
            chosen = np.flatnonzero(code_N == code)
            chosen = chosen[np.argsort(steps.step_N[chosen], kind="stable")]
            first = chosen[0]
            engine, late = steps.engines[steps.engine_N[first]], bool(steps.late_N[first])
            for variant, terms_NGC in ((SERVED, losses.served_NGC), (RAW, losses.raw_NGC)):
                group = Group(steps.key, steps.models[steps.model_N[first]], engine, late, variant)
                self._count(group, _sum_by_step(terms_NGC[chosen], steps.step_N[chosen]))

    @classmethod
    def combine(cls, parts: Iterable[Scores]) -> Self:
        """Add up scores of different cases."""
        total = cls()
        for part in parts:
            total.merge(part)
        return total

    def merge(self, other: Scores) -> None:
        """Add the scores of other cases."""
        for group, sums_HGC in other._sums.items():
            self._count(group, sums_HGC)

    def max_difference(self, other: Scores) -> float:
        """Return the largest relative difference of two sums; infinity where counts or groups differ.

        Differences of signed sums are relative to the sum of absolute values.
        """
        if self._sums.keys() != other._sums.keys():
            return float("inf")
        return max((_difference(sums, other._sums[group]) for group, sums in self._sums.items()), default=0.0)

    @property
    def groups(self) -> list[Group]:
        """The groups that have cases, by series and model."""
        return sorted(self._sums, key=lambda group: (str(group.key), *group[1:]))

    def total(
        self, model_name: str, field: str | None = None, step: int | None = 1, key: SeriesKey | None = None
    ) -> Totals:
        """Sum a model's served prices without late ones: one field or all four, one step or all, one series or all."""
        groups = self._served(model_name)
        return self.sum_of([group for group in groups if key in (None, group.key)], field, step)

    def total_unknown_fields(self, model_name: str, key: SeriesKey) -> Totals:
        """Sum a model's served prices on a series without late ones: all steps, all fields not known in advance.

        In a market without pauses the open is the last close. The random walk makes no error there, so that field has
        no skill.
        """
        sums_HGC = _EMPTY
        for group in self._served(model_name):
            if group.key == key:
                sums_HGC = _added(sums_HGC, self._sums[group])
        fields_HFC = sums_HGC[:, : len(FIELDS)]
        return Totals(fields_HFC[~_known(sums_HGC)[:, : len(FIELDS)]].sum(axis=0))

    def sum_of(self, groups: Iterable[Group], field: str | None = None, step: int | None = None) -> Totals:
        """Sum groups: one field or all four, one step or all."""
        fields = (
            slice(0, len(FIELDS))
            if field is None
            else slice(SCORED_FIELDS.index(field), SCORED_FIELDS.index(field) + 1)
        )
        steps = slice(None) if step is None else slice(step - 1, step)
        parts = [self._sums[group][steps, fields].sum(axis=(0, 1)) for group in groups]
        return Totals(np.sum(parts, axis=0) if parts else np.zeros(len(COLUMNS)))

    def reports(self, variant: str = SERVED, *, late: bool = False) -> list[AccuracyReport]:
        """Return one report per series, model, step and field, in that order, over all engines."""
        sums: dict[tuple[SeriesKey, ModelId], NDArray[np.float64]] = {}
        for group in self.groups:
            if (group.variant, group.late) == (variant, late):
                pair = group.key, group.model_id
                sums[pair] = _added(sums.get(pair, _EMPTY), self._sums[group])
        reports = []
        for (key, model_id), sums_HGC in sums.items():
            for h, (sums_GC, known_G) in enumerate(zip(sums_HGC, _known(sums_HGC), strict=True)):
                rows = zip(SCORED_FIELDS, map(Totals, sums_GC), known_G.tolist(), strict=True)
                reports += [
                    _without_skill(_report(key, model_id, h + 1, field, totals), known=known)
                    for field, totals, known in rows
                    if totals.n
                ]
        return reports

    def _served(self, model_name: str) -> list[Group]:
        wanted = (model_name, SERVED, False)
        return [group for group in self.groups if (group.model_name, group.variant, group.late) == wanted]

    def _count(self, group: Group, sums_HGC: NDArray[np.float64]) -> None:
        self._sums[group] = _added(self._sums[group], sums_HGC)


def _sum_by_step(terms_NGC: NDArray[np.float64], step_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum cases by step, (H, G, C); they are sorted by step."""
    starts = np.flatnonzero(np.diff(step_N, prepend=0))
    sums_HGC = np.zeros((int(step_N[-1]), *terms_NGC.shape[1:]))
    sums_HGC[step_N[starts] - 1] = np.add.reduceat(terms_NGC, starts, axis=0)
    return sums_HGC


def _added(left_HGC: NDArray[np.float64], right_HGC: NDArray[np.float64]) -> NDArray[np.float64]:
    longer, shorter = (left_HGC, right_HGC) if len(left_HGC) >= len(right_HGC) else (right_HGC, left_HGC)
    sums_HGC = longer.copy()
    sums_HGC[: len(shorter)] += shorter
    return sums_HGC


def _difference(left_HGC: NDArray[np.float64], right_HGC: NDArray[np.float64]) -> float:
    counts = [COLUMN_INDEX[name] for name in COUNT_COLUMNS]
    if left_HGC.shape != right_HGC.shape:
        return float("inf")
    if not np.array_equal(left_HGC[..., counts], right_HGC[..., counts], equal_nan=True):
        return float("inf")
    scale_HGC = np.abs(left_HGC)
    scale_HGC[..., COLUMN_INDEX["error"]] = left_HGC[..., COLUMN_INDEX["absolute_error"]]
    scale_HGC[..., COLUMN_INDEX["log_error"]] = left_HGC[..., COLUMN_INDEX["log_absolute_error"]]
    error_HGC = np.abs(left_HGC - right_HGC) / np.where(scale_HGC > 0, scale_HGC, 1.0)
    error_HGC[..., counts] = 0.0  # a coverage that the levels do not hold is NaN on both sides
    return float(np.nan_to_num(error_HGC, nan=np.inf).max(initial=0.0))


def _known(sums_HGC: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Steps and fields that are known in advance, (H, G): the random walk's loss on them is nearly 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        walk_HG = sums_HGC[..., COLUMN_INDEX["walk_absolute_error"]] / sums_HGC[..., COLUMN_INDEX["common_n"]]
    close_H1 = walk_HG[:, [SCORED_FIELDS.index("close")]]
    return (walk_HG < _KNOWN_RATIO * close_H1) & (close_H1 > 0)


def _without_skill(report: AccuracyReport, *, known: bool) -> AccuracyReport:
    return replace(report, skill_mae=None, skill_pinball=None, skill_crps=None) if known else report


def _report(key: SeriesKey, model_id: ModelId, step: int, field: str, totals: Totals) -> AccuracyReport:
    return AccuracyReport(
        key=key,
        model_id=model_id,
        step=step,
        field=field,
        n=totals.n,
        mae=totals["absolute_error"] / totals.n,
        rmse=sqrt(totals["squared_error"] / totals.n),
        bias=totals["error"] / totals.n,
        log_rmse=totals.root_mean("log_squared_error", "log_n"),
        log_bias=totals.mean("log_error", "log_n"),
        mase=totals.mean("scaled_error", "scaled_n"),
        pinball=totals.mean("pinball", "quantile_n"),
        wql=totals.wql,
        crps=totals.mean("crps", "quantile_n"),
        interval_score80=totals.mean("interval_score80", "quantile_n"),
        width80=totals.mean("width80", "quantile_n"),
        coverage50=totals.coverage(50),
        coverage80=totals.coverage(80),
        coverage90=totals.coverage(90),
        coverage98=totals.coverage(98),
        pit=totals.pit,
        direction=totals.mean("direction", "direction_n"),
        direction_majority=totals.direction_majority,
        qlike=totals.mean("qlike", "qlike_n"),
        n_common=int(totals["common_n"]),
        skill_mae=totals.skill("absolute_error"),
        skill_pinball=totals.skill("pinball"),
        skill_crps=totals.skill("crps"),
    )
