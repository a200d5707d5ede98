"""Compute what the report shows of the settled forecasts of one series, portion by portion.

Shapes: N steps, F fields, H steps of one forecast, Q quantile levels, U cutoffs.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy import metrics
from forecaster.accuracy.assess import VARIANTS
from forecaster.accuracy.drift import DriftDetector
from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.losses import COLUMN_INDEX, RANDOM_WALK, uncalibrated_prices
from forecaster.accuracy.report.content import (
    ANY_FIELD,
    MIN_ROLLING,
    NEXT_BAR,
    FanChart,
    Miss,
    Reliability,
    RollingScores,
    SeriesEvidence,
    ServiceStats,
)
from forecaster.accuracy.scores import RAW, SERVED, Scores
from forecaster.accuracy.trust import compute_verdict
from forecaster.bars import FIELDS
from forecaster.forecast import interpolate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.accuracy.loss_series import LossSeries
    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.scores import Group
    from forecaster.accuracy.trust import Verdict
    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId
    from forecaster.ledger import SettledSteps

ROLLING_CUTOFFS: Final = 100
MISSES_SHOWN: Final = 10
_MAX_POINTS: Final = 400
"""Most points of a line over time."""


class ReportBuilder:
    """Collects the losses of one series, in the order of cutoffs.

    Args:
        model_name: the model that the report is about.
    """

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._scores, self._history = Scores(), LossHistory()
        self._revisions: dict[tuple[ModelId, tuple[float, ...]], _Revision] = {}

    def add(self, losses: Losses) -> None:
        """Add further losses."""
        self._scores.add(losses)
        self._history.add(losses)
        steps = losses.steps
        for m, model_id in enumerate(steps.models):
            if model_id.name == self._model_name:
                revision = self._revisions.setdefault((model_id, steps.quantile_levels), _Revision())
                revision.add(losses, np.flatnonzero(steps.model_N == m))

    @property
    def fan(self) -> FanChart | None:
        """The latest forecast whose whole horizon has settled."""
        return self._revisions[list(self._revisions)[-1]].fan if self._revisions else None

    def evidence(self, key: SeriesKey) -> SeriesEvidence | None:
        """Return the scores of the model's latest revision; None before its first forecast has settled."""
        if not self._revisions:
            return None
        model_id, levels = list(self._revisions)[-1]
        revision = self._revisions[model_id, levels]
        trace = self._history.trace(key, model_id)
        next_bar = {field: trace.select(field, NEXT_BAR) for field in ANY_FIELD}
        window = min(ROLLING_CUTOFFS, len(next_bar[None].cutoff_U) // 2)
        is_enough = window >= MIN_ROLLING
        whole = trace.select()
        compared = self._compared(key, model_id)
        n = len(whole.cutoff_U) // (whole.lag + 1)
        coverage = self._scores.sum_of(self._groups(model_id, SERVED)).coverage(80)
        return SeriesEvidence(
            model_id=model_id,
            verdicts=[compute_verdict(self._history, (key, name), variant) for name, variant in compared],
            by_step=self._by_step(key, compared),
            coverage80=coverage,
            coverage80_interval=metrics.wilson_interval((coverage or 0.0) * n, n),
            reliability=self._reliability(revision, model_id, levels),
            window=window,
            rolling=[_rolling(field, series, window) for field, series in next_bar.items()] if is_enough else [],
            drifts=DriftDetector().update(trace),
            service=revision.service(),
            misses=revision.misses,
            reports=self._scores.reports(),
            first=revision.first,
            last=revision.last,
            seen_at=revision.seen_at,
        )

    def _compared(self, key: SeriesKey, own_id: ModelId) -> list[tuple[ModelId, str]]:
        """List models and variants: this model first, without the random walk, which is the reference."""
        others = [model_id for of_key, model_id in self._history.pairs if of_key == key]
        models = dict.fromkeys([own_id, *(model_id for model_id in others if model_id.name != RANDOM_WALK)])
        return [(model_id, variant) for model_id in models for variant in self._variants(model_id)]

    def _variants(self, model_id: str) -> tuple[str, ...]:
        served, raw = (self._scores.sum_of(self._groups(model_id, variant)).sums_C for variant in VARIANTS)
        return VARIANTS[:1] if np.array_equal(served, raw, equal_nan=True) else VARIANTS

    def _groups(self, model_id: str, variant: str) -> list[Group]:
        wanted = (model_id, variant, False)
        return [group for group in self._scores.groups if (group.model_id, group.variant, group.late) == wanted]

    def _by_step(self, key: SeriesKey, compared: list[tuple[ModelId, str]]) -> list[Verdict]:
        return [
            compute_verdict(self._history, (key, model_id), variant, field, step)
            for model_id, variant in compared
            for step in np.unique(self._history.trace(key, model_id, variant).step_N).tolist()
            for field in ANY_FIELD
        ]

    def _reliability(self, revision: _Revision, model_id: str, levels: tuple[float, ...]) -> list[Reliability]:
        rows = []
        for variant in self._variants(model_id):
            groups = self._groups(model_id, variant)
            for field in ANY_FIELD:
                for step in (NEXT_BAR, None):
                    n, below_Q = revision.below(variant, field, step)
                    pit = self._scores.sum_of(groups, field, step).pit
                    if n:
                        rows.append(Reliability(variant, field, step, n, levels, below_Q, pit))
        return rows


class _Revision:
    """What is kept of one revision of the model beside sums and traces."""

    def __init__(self) -> None:
        self.fan: FanChart | None = None
        self.misses: list[Miss] = []
        self.first = self.last = self.seen_at = self._late = self._on_time = 0
        self._engines: Counter[str] = Counter()
        self._latencies: list[NDArray[np.int64]] = []
        self._below_HFQ: dict[str, NDArray[np.float64]] = {}
        self._cases_H = np.zeros(0)

    def add(self, losses: Losses, chosen: NDArray[np.int64]) -> None:
        """Add the steps of this revision, those at the positions `chosen`."""
        self._count_service(losses.steps, chosen)
        on_time = chosen[~losses.steps.late_N[chosen]]
        if len(on_time):
            self._count_below(losses.steps, on_time)
            self._keep_fan(losses.steps, on_time)
            self._keep_misses(losses, on_time)

    def service(self) -> ServiceStats:
        """Summarise engines and latency."""
        latency_U = np.concatenate(self._latencies)
        median, percentile_99 = np.quantile(latency_U, [0.5, 0.99]).tolist()
        engines = dict(self._engines.most_common())
        return ServiceStats(len(latency_U), self._late, self._on_time, engines, median, percentile_99)

    def below(self, variant: str, field: str | None, step: int | None) -> tuple[int, NDArray[np.float64]]:
        """Return the number of cases that do not overlap, and the fraction of outcomes up to each quantile, (Q,)."""
        if not self._cases_H.any():
            return 0, np.zeros(0)
        steps = slice(None) if step is None else slice(step - 1, step)
        fields = slice(None) if field is None else [FIELDS.index(field)]
        below_FQ = self._below_HFQ[variant][steps].sum(axis=0)[fields]
        cases = float(self._cases_H[steps].sum())
        n = int(self._cases_H[steps].max()) // len(self._cases_H[steps])
        return n, below_FQ.mean(axis=0) / max(cases, 1.0)

    def _count_service(self, steps: SettledSteps, chosen: NDArray[np.int64]) -> None:
        cutoff_U, start_U = np.unique(steps.cutoff_N[chosen], return_index=True)
        first_U = chosen[start_U]
        self.first, self.last = self.first or int(cutoff_U[0]), int(cutoff_U[-1])
        self.seen_at = max(self.seen_at, int(steps.seen_at_N[chosen].max()))
        self._late += int(steps.late_N[first_U].sum())
        close_U = steps.key.trading_calendar.closes_of(steps.key.timeframe, steps.target_open_N[first_U])
        self._on_time += int((steps.available_at_N[first_U] < close_U).sum())
        self._engines.update(steps.engines[e] for e in steps.engine_N[first_U].tolist())
        self._latencies.append(steps.available_at_N[first_U] - steps.issued_at_N[first_U])

    def _count_below(self, steps: SettledSteps, chosen: NDArray[np.int64]) -> None:
        h_N, actual_NF1 = steps.step_N[chosen] - 1, steps.actual_NF[chosen, :, None]
        horizon = max(int(h_N.max()) + 1, len(self._cases_H))
        self._cases_H = _extended(self._cases_H, horizon)
        self._cases_H += np.bincount(h_N, minlength=horizon)
        prices = {SERVED: steps.values_NFQ[chosen], RAW: uncalibrated_prices(steps, chosen)}
        for variant, prices_NFQ in prices.items():
            below_HFQ = _extended(self._below_HFQ.get(variant, np.zeros((0, *prices_NFQ.shape[1:]))), horizon)
            np.add.at(below_HFQ, h_N, (actual_NF1 <= prices_NFQ).astype(np.float64))
            self._below_HFQ[variant] = below_HFQ

    def _keep_fan(self, steps: SettledSteps, chosen: NDArray[np.int64]) -> None:
        _, start_U, count_U = np.unique(steps.cutoff_N[chosen], return_index=True, return_counts=True)
        complete = np.flatnonzero(count_U == len(self._cases_H))
        if len(complete):
            start, count = int(start_U[complete[-1]]), int(count_U[complete[-1]])
            positions = chosen[start : start + count]
            self.fan = FanChart(
                int(steps.cutoff_N[positions[0]]),
                steps.quantile_levels,
                steps.target_open_N[positions],
                steps.values_NFQ[positions].transpose(1, 0, 2),
                uncalibrated_prices(steps, positions).transpose(1, 0, 2),
            )

    def _keep_misses(self, losses: Losses, chosen: NDArray[np.int64]) -> None:
        """Keep the largest losses, one for each target bar."""
        steps = losses.steps
        known = chosen[~np.isnan(losses.last_close_N[chosen])]
        loss_NF = losses.served_NGC[known, : len(FIELDS), COLUMN_INDEX["pinball"]] / losses.last_close_N[known, None]
        worst_N = np.argsort(-loss_NF.max(axis=1), kind="stable")
        _, first = np.unique(steps.target_open_N[known][worst_N], return_index=True)
        worst = {miss.target_open: miss for miss in self.misses}
        for i in worst_N[np.sort(first)[:MISSES_SHOWN]].tolist():
            miss = _miss(steps, int(known[i]), int(loss_NF[i].argmax()), float(loss_NF[i].max()))
            previous = worst.get(miss.target_open)
            if previous is None or previous.loss < miss.loss:
                worst[miss.target_open] = miss
        self.misses = sorted(worst.values(), key=lambda miss: -miss.loss)[:MISSES_SHOWN]


def _miss(steps: SettledSteps, i: int, f: int, loss: float) -> Miss:
    levels, values_Q = steps.quantile_levels, steps.values_NFQ[i, f]
    lower, upper = (float(interpolate(values_Q, levels, level)) for level in (0.1, 0.9))
    return Miss(
        target_open=int(steps.target_open_N[i]),
        cutoff=int(steps.cutoff_N[i]),
        step=int(steps.step_N[i]),
        field=FIELDS[f],
        lower=lower,
        upper=upper,
        actual=float(steps.actual_NF[i, f]),
        loss=loss,
    )


def _extended(sums_H: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """Append zeros for further steps."""
    return np.concatenate([sums_H, np.zeros((horizon - len(sums_H), *sums_H.shape[1:]))])


def _rolling(field: str | None, series: LossSeries, window: int) -> RollingScores:
    columns = (series.covered_U, series.loss_U, series.walk_U)
    covered_U, loss_U, walk_U = (_rolling_sum(column_U, window) for column_U in columns)
    skill_U = 1 - loss_U / np.where(walk_U > 0, walk_U, np.nan)
    shown = np.unique(np.linspace(0, len(covered_U) - 1, _MAX_POINTS).round().astype(int))
    return RollingScores(field, series.cutoff_U[window - 1 :][shown], covered_U[shown] / window, skill_U[shown])


def _rolling_sum(values_U: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Sum each value and those before it, `window` of them."""
    sums_U = np.concatenate([[0.0], values_U.cumsum()])
    rolling_U: NDArray[np.float64] = sums_U[window:] - sums_U[:-window]
    return rolling_U
