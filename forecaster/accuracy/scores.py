"""From losses to accuracy: sums and counts first, means last, so that parts from many machines add up.

Skill compares a model with the random walk on common cases only: the same series, run, cutoff, step and field,
settled for both, each in units of the last close. What was served and what the model gave before calibration are
counted apart, and so are engines and late forecasts.

Shapes: N steps, H numbers of steps, G fields and the range, C columns.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from forecaster.accuracy import metrics
from forecaster.accuracy.losses import COLUMNS, COUNTS, PIT_BINS, PLACE, SCORED, Losses
from forecaster.bars import FIELDS
from forecaster.ledger import AccuracyReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId

SERVED: Final = "served"
RAW: Final = "raw"
_NOTHING: Final = np.zeros((0, len(SCORED), len(COLUMNS)))
_KNOWN_SHARE: Final = 0.01
"""A field on which the random walk loses less than this share of its loss on the close is known in advance."""


class Group(NamedTuple):
    """What is counted apart. `form` is `served`, or `raw` for the model's own prices before calibration."""

    key: SeriesKey
    model_id: ModelId
    engine: str
    late: bool
    form: str

    @property
    def model_name(self) -> str:
        """What the configuration calls the model."""
        return self.model_id.name


@dataclass(frozen=True)
class Totals:
    """Sums of cases by column, and the means that follow from them: None where there was no case to take one of.

    Losses are in price; skills are of losses in units of the last close.
    """

    sums_C: NDArray[np.float64]

    def __getitem__(self, column: str) -> float:
        """One of the sums: see `losses.COLUMNS`."""
        return float(self.sums_C[PLACE[column]])

    @property
    def n(self) -> int:
        """Number of cases."""
        return int(self["n"])

    def mean(self, column: str, count: str = "n") -> float | None:
        """A column's sum over a count."""
        return self[column] / self[count] if self[count] else None

    def root_mean(self, column: str, count: str = "n") -> float | None:
        """The root of a column's mean."""
        mean = self.mean(column, count)
        return None if mean is None else sqrt(mean)

    def skill(self, loss: str) -> float | None:
        """1 - loss / the random walk's, on common cases; `loss` is absolute_error, pinball or crps."""
        return metrics.skill(self[f"common_{loss}"], self[f"walk_{loss}"])

    def coverage(self, percent: int) -> float | None:
        """Share of outcomes inside the central interval of 50, 80, 90 or 98 percent."""
        share = self.mean(f"covered{percent}", "quantile_n")
        return None if share is None or np.isnan(share) else share

    @property
    def mae(self) -> float | None:
        """Mean absolute error of the median, in price."""
        return self.mean("absolute_error")

    @property
    def pit(self) -> tuple[float, ...]:
        """Share of outcomes in each tenth of the probability integral transform; a tenth each where it is true."""
        counts = [self[f"pit{i}"] for i in range(PIT_BINS)]
        return tuple(one / sum(counts) for one in counts) if sum(counts) else ()

    @property
    def wql(self) -> float | None:
        """Weighted quantile loss."""
        return metrics.weighted_quantile_loss(self["pinball"], self["absolute_actual"]) if self["quantile_n"] else None

    @property
    def direction_majority(self) -> float | None:
        """Share of right directions of who always says the more frequent one."""
        return metrics.majority_share(int(self["ups"]), int(self["direction_n"] - self["ups"]))


class Scores:
    """Accuracy that grows loss by loss.

    Args:
        losses: what to count at once.
    """

    def __init__(self, losses: Iterable[Losses] = ()) -> None:
        self._sums: dict[Group, NDArray[np.float64]] = defaultdict(_NOTHING.copy)
        for one in losses:
            self.add(one)

    def add(self, losses: Losses) -> None:
        """Count further cases. A case comes together with the random walk's of the same cutoff."""
        steps = losses.steps
        code_N = (steps.model_N * len(steps.engines) + steps.engine_N) * 2 + steps.late_N
        for code in np.unique(code_N).tolist():
            chosen = np.flatnonzero(code_N == code)
            chosen = chosen[np.argsort(steps.step_N[chosen], kind="stable")]
            first = chosen[0]
            about = (steps.engines[steps.engine_N[first]], bool(steps.late_N[first]))
            for form, terms_NGC in ((SERVED, losses.served_NGC), (RAW, losses.raw_NGC)):
                group = Group(steps.key, steps.models[steps.model_N[first]], *about, form)
                self._count(group, _sum_by_step(terms_NGC[chosen], steps.step_N[chosen]))

    @classmethod
    def together(cls, parts: Iterable[Scores]) -> Self:
        """Put parts that counted different cases together."""
        whole = cls()
        for part in parts:
            whole.merge(part)
        return whole

    def merge(self, other: Scores) -> None:
        """Add what another has counted, of other cases."""
        for group, sums_HGC in other._sums.items():
            self._count(group, sums_HGC)

    def difference(self, other: Scores) -> float:
        """The largest difference of a sum from another's, relative to it; infinity where counts or groups differ.

        Signed sums, which may come to nothing, are compared with those of their absolute values.
        """
        if self._sums.keys() != other._sums.keys():
            return float("inf")
        return max((_difference(sums, other._sums[group]) for group, sums in self._sums.items()), default=0.0)

    @property
    def groups(self) -> list[Group]:
        """What has been counted, by series and model."""
        return sorted(self._sums, key=lambda group: (str(group.key), *group[1:]))

    def total(
        self, model_name: str, field: str | None = None, step: int | None = 1, key: SeriesKey | None = None
    ) -> Totals:
        """Sum what a model served, none of it late: one field or all four, one step or all, one series or all."""
        found = [one for one in self.groups if (one.model_name, one.form, one.late) == (model_name, SERVED, False)]
        return self.sum_of([one for one in found if key in (None, one.key)], field, step)

    def uncertain(self, model_name: str, key: SeriesKey) -> Totals:
        """Sum what a model served on a series, none of it late: all steps, and all fields but those known in advance.

        The open of a market without pauses is the last close: the random walk makes no error there, so no skill can
        be told of it.
        """
        found = [one for one in self.groups if (one.model_name, one.form, one.late) == (model_name, SERVED, False)]
        sums_HGC = _NOTHING
        for one in found:
            if one.key == key:
                sums_HGC = _added(sums_HGC, self._sums[one])
        fields_HFC = sums_HGC[:, : len(FIELDS)]
        return Totals(fields_HFC[~_known(sums_HGC)[:, : len(FIELDS)]].sum(axis=0))

    def sum_of(self, groups: Iterable[Group], field: str | None = None, step: int | None = None) -> Totals:
        """Sum over groups, one field or all four, one step or all."""
        fields = slice(0, len(FIELDS)) if field is None else slice(SCORED.index(field), SCORED.index(field) + 1)
        steps = slice(None) if step is None else slice(step - 1, step)
        parts = [self._sums[one][steps, fields].sum(axis=(0, 1)) for one in groups]
        return Totals(np.sum(parts, axis=0) if parts else np.zeros(len(COLUMNS)))

    def reports(self, form: str = SERVED, *, late: bool = False) -> list[AccuracyReport]:
        """One report per series, model, step and field, in that order, over engines, before and after the release."""
        sums: dict[tuple[SeriesKey, ModelId], NDArray[np.float64]] = {}
        for group in self.groups:
            if (group.form, group.late) == (form, late):
                name = group.key, group.model_id
                sums[name] = _added(sums.get(name, _NOTHING), self._sums[group])
        found = []
        for (key, model_id), sums_HGC in sums.items():
            for h, (sums_GC, known_G) in enumerate(zip(sums_HGC, _known(sums_HGC), strict=True)):
                of_fields = zip(SCORED, map(Totals, sums_GC), known_G.tolist(), strict=True)
                reports = [
                    _without_skill(_report(key, model_id, h + 1, field, one), known=known)
                    for field, one, known in of_fields
                    if one.n
                ]
                found += reports
        return found

    def _count(self, group: Group, sums_HGC: NDArray[np.float64]) -> None:
        self._sums[group] = _added(self._sums[group], sums_HGC)


def _sum_by_step(terms_NGC: NDArray[np.float64], step_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum cases of the same step, (H, G, C); they come in the order of steps."""
    starts = np.flatnonzero(np.diff(step_N, prepend=0))
    sums_HGC = np.zeros((int(step_N[-1]), *terms_NGC.shape[1:]))
    sums_HGC[step_N[starts] - 1] = np.add.reduceat(terms_NGC, starts, axis=0)
    return sums_HGC


def _added(one_HGC: NDArray[np.float64], other_HGC: NDArray[np.float64]) -> NDArray[np.float64]:
    longer, shorter = (one_HGC, other_HGC) if len(one_HGC) >= len(other_HGC) else (other_HGC, one_HGC)
    sums_HGC = longer.copy()
    sums_HGC[: len(shorter)] += shorter
    return sums_HGC


def _difference(one_HGC: NDArray[np.float64], other_HGC: NDArray[np.float64]) -> float:
    counts = [PLACE[name] for name in COUNTS]
    if one_HGC.shape != other_HGC.shape:
        return float("inf")
    if not np.array_equal(one_HGC[..., counts], other_HGC[..., counts], equal_nan=True):
        return float("inf")
    scale_HGC = np.abs(one_HGC)
    scale_HGC[..., PLACE["error"]] = one_HGC[..., PLACE["absolute_error"]]
    scale_HGC[..., PLACE["log_error"]] = one_HGC[..., PLACE["log_absolute_error"]]
    off_HGC = np.abs(one_HGC - other_HGC) / np.where(scale_HGC > 0, scale_HGC, 1.0)
    off_HGC[..., counts] = 0.0  # a coverage that the levels do not hold is NaN on both sides
    return float(np.nan_to_num(off_HGC, nan=np.inf).max(initial=0.0))


def _known(sums_HGC: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which steps and fields are known in advance, (H, G): the random walk errs by nearly nothing beside its close."""
    with np.errstate(invalid="ignore", divide="ignore"):
        walk_HG = sums_HGC[..., PLACE["walk_absolute_error"]] / sums_HGC[..., PLACE["common_n"]]
    close_H1 = walk_HG[:, [SCORED.index("close")]]
    return (walk_HG < _KNOWN_SHARE * close_H1) & (close_H1 > 0)


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
