"""What the report says of one series: numbers alone, gathered loss by loss. `figures` draws them, `page` prints them.

Shapes: N steps, F fields, H steps of one forecast, Q quantile levels, U cutoffs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy import metrics
from forecaster.accuracy.drift import Watch
from forecaster.accuracy.loss_series import Traces
from forecaster.accuracy.losses import PLACE, RANDOM_WALK
from forecaster.accuracy.scores import RAW, SERVED, Scores
from forecaster.accuracy.trust import judge
from forecaster.bars import FIELDS
from forecaster.forecast import interpolate, repair
from forecaster.ledger import LIVE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.accuracy.drift import Drift
    from forecaster.accuracy.loss_series import Course
    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.scores import Group
    from forecaster.accuracy.trust import Trust, Verdict
    from forecaster.bars import Bars, SeriesKey
    from forecaster.forecast import ModelId, OHLCForecast
    from forecaster.ledger import AccuracyReport, SettledSteps

ANY_FIELD: Final = (None, *FIELDS)
"""All fields together, then each."""
NEXT_BAR: Final = 1
ROLLING_CUTOFFS: Final = 100
FEWEST_ROLLING: Final = 20
MISSES_SHOWN: Final = 10
PREDICTION: Final = "predict"
"""The door of runs whose forecasts were made afterwards."""
_POINTS: Final = 400
"""How many points of a line over time are kept."""


@dataclass(frozen=True)
class Scope:
    """Which forecasts a report is about: a run's, as known at `as_of`, settled after `since` (UTC ms; None: ever).

    `kind` says how the run was made: `live`, `replay` or `predict`.
    """

    model_name: str
    run_id: str
    as_of: int
    since: int | None = None
    kind: str = LIVE

    @property
    def is_replay(self) -> bool:
        """Whether its times are those of its bars: all that is neither live nor a prediction by hand."""
        return self.run_id != LIVE and self.kind != PREDICTION


@dataclass(frozen=True, eq=False)
class Fan:
    """One forecast: prices as served, and the model's own, sorted, before any calibration.

    Args:
        cutoff: UTC ms.
        quantile_levels: (Q,).
        target_open_H: UTC ms.
        served_FHQ: prices; `raw_FHQ` the model's own.
    """

    cutoff: int
    quantile_levels: tuple[float, ...]
    target_open_H: NDArray[np.int64]
    served_FHQ: NDArray[np.float64]
    raw_FHQ: NDArray[np.float64]

    @classmethod
    def of(cls, forecast: OHLCForecast) -> Fan:
        """The fan of a forecast."""
        opens_H = forecast.target_opens()
        return cls(forecast.cutoff, forecast.quantile_levels, opens_H, forecast.values_FHQ, repair(forecast.raw_FHQ))

    @property
    def is_calibrated(self) -> bool:
        """Whether what was served differs from the model's own."""
        return not np.array_equal(self.served_FHQ, self.raw_FHQ)


@dataclass(frozen=True, eq=False)
class Scene:
    """A fan over the bars before it and those that came."""

    title: str
    fan: Fan
    bars: Bars


@dataclass(frozen=True)
class Miss:
    """An outcome and the central 80 % interval that was served for it; `loss` is pinball loss over the last close."""

    target_open: int
    cutoff: int
    step: int
    field: str
    lower: float
    upper: float
    actual: float
    loss: float


@dataclass(frozen=True, eq=False)
class Reliability:
    """Where outcomes lay among the quantiles: of one form, one field or all, the next bar or all steps.

    Args:
        n: cases that do not overlap; the four fields of a bar count as one.
        quantile_levels: (Q,).
        below_Q: share of outcomes at or below each quantile.
        pit: share of outcomes in each tenth of the probability integral transform.
    """

    form: str
    field: str | None
    step: int | None
    n: int
    quantile_levels: tuple[float, ...]
    below_Q: NDArray[np.float64]
    pit: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Rolling:
    """Coverage of the 80 % interval, and skill, of the next bar, over the last cutoffs up to each one shown."""

    field: str | None
    cutoff_U: NDArray[np.int64]
    coverage_U: NDArray[np.float64]
    skill_U: NDArray[np.float64]


@dataclass(frozen=True)
class Service:
    """How forecasts came about: by which engine, how long after they were asked for (ms), how many in time.

    Args:
        late: how many were asked for after the first bar that they forecast had closed; they count in no score.
        on_time: how many were available before the first of their settled bars had closed.
    """

    forecasts: int
    late: int
    on_time: int
    engines: dict[str, int]
    latency_median: float
    latency_99: float


@dataclass(frozen=True)
class Evidence:
    """What settled forecasts of a model on a series prove.

    Args:
        verdicts: over all steps and fields: the model's own first, then other models', as served and raw if they
            differ; `by_step` the same by step, for all fields and each.
        coverage80: share inside the 80 % interval, over all steps and fields, and the interval of the true share.
        window: how many cutoffs each point of `rolling` is taken over.
        first, last: cutoffs; `seen_at` when the newest outcome came (UTC ms).
    """

    model_id: ModelId
    verdicts: list[Verdict]
    by_step: list[Verdict]
    coverage80: float | None
    coverage80_interval: tuple[float, float]
    reliability: list[Reliability]
    window: int
    rolling: list[Rolling]
    drifts: list[Drift]
    service: Service
    misses: list[Miss]
    reports: list[AccuracyReport]
    first: int
    last: int
    seen_at: int


@dataclass(frozen=True, eq=False)
class Section:
    """All that the report says of one series; `evidence` is None while nothing has settled, `trust` likewise."""

    key: SeriesKey
    newest: OHLCForecast | None
    trust: Trust | None
    evidence: Evidence | None
    scenes: tuple[Scene, ...]


def luck(share: float, n: int) -> tuple[float, float]:
    """Shares that `n` independent cases show with 95 % where `share` is true; those whose Wilson interval holds it."""
    half = NormalDist().inv_cdf(0.975) * sqrt(share * (1 - share) / n) if n else 1.0
    return max(share - half, 0.0), min(share + half, 1.0)


class Gathering:
    """Gathers the evidence of one series, loss by loss, in the order of cutoffs."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._scores, self._traces = Scores(), Traces()
        self._own: dict[tuple[ModelId, tuple[float, ...]], _Own] = {}

    def add(self, losses: Losses) -> None:
        """Take in further losses."""
        self._scores.add(losses)
        self._traces.add(losses)
        steps = losses.steps
        for m, model_id in enumerate(steps.models):
            if model_id.name == self._model_name:
                own = self._own.setdefault((model_id, steps.quantile_levels), _Own())
                own.add(losses, np.flatnonzero(steps.model_N == m))

    @property
    def fan(self) -> Fan | None:
        """The newest forecast whose whole horizon has settled."""
        return self._own[list(self._own)[-1]].fan if self._own else None

    def evidence(self, key: SeriesKey) -> Evidence | None:
        """What the model's newest revision has shown; None while none of its forecasts has settled."""
        if not self._own:
            return None
        model_id, levels = list(self._own)[-1]
        own = self._own[model_id, levels]
        trace = self._traces.of(key, model_id)
        courses = {field: trace.of(field, NEXT_BAR) for field in ANY_FIELD}
        window = min(ROLLING_CUTOFFS, len(courses[None].cutoff_U) // 2)
        whole = trace.of()
        compared = self._compared(key, model_id)
        n = len(whole.cutoff_U) // (whole.lag + 1)
        coverage = self._scores.sum_of(self._groups(model_id, SERVED)).coverage(80)
        return Evidence(
            model_id=model_id,
            verdicts=[judge(self._traces, (key, name), form) for name, form in compared],
            by_step=self._by_step(key, compared),
            coverage80=coverage,
            coverage80_interval=metrics.share_interval((coverage or 0.0) * n, n),
            reliability=self._reliability(own, model_id, levels),
            window=window,
            rolling=[_rolling(field, one, window) for field, one in courses.items()]
            if window >= FEWEST_ROLLING
            else [],
            drifts=Watch().look(trace),
            service=own.service(),
            misses=own.misses,
            reports=self._scores.reports(),
            first=own.first,
            last=own.last,
            seen_at=own.seen_at,
        )

    def _compared(self, key: SeriesKey, own_id: ModelId) -> list[tuple[ModelId, str]]:
        """Models and forms to judge: the model's own first, without the random walk, which is what all are beside."""
        names = [name for of, name in self._traces.names if of == key and name.name != RANDOM_WALK]
        return [(name, form) for name in dict.fromkeys([own_id, *names]) for form in self._forms(name)]

    def _forms(self, model_id: str) -> tuple[str, ...]:
        served, raw = (self._scores.sum_of(self._groups(model_id, form)).sums_C for form in (SERVED, RAW))
        return (SERVED,) if np.array_equal(served, raw, equal_nan=True) else (SERVED, RAW)

    def _groups(self, model_id: str, form: str) -> list[Group]:
        wanted = (model_id, form, False)
        return [one for one in self._scores.groups if (one.model_id, one.form, one.late) == wanted]

    def _by_step(self, key: SeriesKey, compared: list[tuple[ModelId, str]]) -> list[Verdict]:
        return [
            judge(self._traces, (key, model_id), form, field, step)
            for model_id, form in compared
            for step in np.unique(self._traces.of(key, model_id, form).step_N).tolist()
            for field in ANY_FIELD
        ]

    def _reliability(self, own: _Own, model_id: str, levels: tuple[float, ...]) -> list[Reliability]:
        found = []
        for form in self._forms(model_id):
            groups = self._groups(model_id, form)
            for field in ANY_FIELD:
                for step in (NEXT_BAR, None):
                    n, below_Q = own.below(form, field, step)
                    pit = self._scores.sum_of(groups, field, step).pit
                    if n:
                        found.append(Reliability(form, field, step, n, levels, below_Q, pit))
        return found


class _Own:
    """What is kept of one revision of the model beside sums and traces."""

    def __init__(self) -> None:
        self.fan: Fan | None = None
        self.misses: list[Miss] = []
        self.first = self.last = self.seen_at = self._late = self._on_time = 0
        self._engines: Counter[str] = Counter()
        self._latencies: list[NDArray[np.int64]] = []
        self._below_HFQ: dict[str, NDArray[np.float64]] = {}
        self._cases_H = np.zeros(0)

    def add(self, losses: Losses, chosen: NDArray[np.int64]) -> None:
        """Take in further steps of this revision, those at the places `chosen`."""
        self._count_service(losses.steps, chosen)
        on_time = chosen[~losses.steps.late_N[chosen]]
        if len(on_time):
            self._count_below(losses.steps, on_time)
            self._keep_fan(losses.steps, on_time)
            self._keep_misses(losses, on_time)

    def service(self) -> Service:
        """Sum up how forecasts came about."""
        latency_U = np.concatenate(self._latencies)
        median, ninety_nine = np.quantile(latency_U, [0.5, 0.99]).tolist()
        engines = dict(self._engines.most_common())
        return Service(len(latency_U), self._late, self._on_time, engines, median, ninety_nine)

    def below(self, form: str, field: str | None, step: int | None) -> tuple[int, NDArray[np.float64]]:
        """Cases that do not overlap, and the share of outcomes at or below each quantile, (Q,)."""
        if not self._cases_H.any():
            return 0, np.zeros(0)
        steps = slice(None) if step is None else slice(step - 1, step)
        fields = slice(None) if field is None else [FIELDS.index(field)]
        below_FQ = self._below_HFQ[form][steps].sum(axis=0)[fields]
        cases = float(self._cases_H[steps].sum())
        n = int(self._cases_H[steps].max()) // len(self._cases_H[steps])
        return n, below_FQ.mean(axis=0) / max(cases, 1.0)

    def _count_service(self, steps: SettledSteps, chosen: NDArray[np.int64]) -> None:
        cutoff_U, start_U = np.unique(steps.cutoff_N[chosen], return_index=True)
        ones = chosen[start_U]
        self.first, self.last = self.first or int(cutoff_U[0]), int(cutoff_U[-1])
        self.seen_at = max(self.seen_at, int(steps.seen_at_N[chosen].max()))
        self._late += int(steps.late_N[ones].sum())
        close_U = steps.key.trading_calendar.closes_of(steps.key.timeframe, steps.target_open_N[ones])
        self._on_time += int((steps.available_at_N[ones] < close_U).sum())
        self._engines.update(steps.engines[e] for e in steps.engine_N[ones].tolist())
        self._latencies.append(steps.available_at_N[ones] - steps.issued_at_N[ones])

    def _count_below(self, steps: SettledSteps, chosen: NDArray[np.int64]) -> None:
        h_N, actual_NF1 = steps.step_N[chosen] - 1, steps.actual_NF[chosen, :, None]
        horizon = max(int(h_N.max()) + 1, len(self._cases_H))
        self._cases_H = _lengthened(self._cases_H, horizon)
        self._cases_H += np.bincount(h_N, minlength=horizon)
        for form, prices_NFQ in ((SERVED, steps.values_NFQ[chosen]), (RAW, _own_prices(steps, chosen))):
            below_HFQ = _lengthened(self._below_HFQ.get(form, np.zeros((0, *prices_NFQ.shape[1:]))), horizon)
            np.add.at(below_HFQ, h_N, (actual_NF1 <= prices_NFQ).astype(np.float64))
            self._below_HFQ[form] = below_HFQ

    def _keep_fan(self, steps: SettledSteps, chosen: NDArray[np.int64]) -> None:
        _, start_U, count_U = np.unique(steps.cutoff_N[chosen], return_index=True, return_counts=True)
        whole = np.flatnonzero(count_U == len(self._cases_H))
        if len(whole):
            start, count = int(start_U[whole[-1]]), int(count_U[whole[-1]])
            places = chosen[start : start + count]
            self.fan = Fan(
                int(steps.cutoff_N[places[0]]),
                steps.quantile_levels,
                steps.target_open_N[places],
                steps.values_NFQ[places].transpose(1, 0, 2),
                _own_prices(steps, places).transpose(1, 0, 2),
            )

    def _keep_misses(self, losses: Losses, chosen: NDArray[np.int64]) -> None:
        """Keep the greatest losses, one of each target bar."""
        steps = losses.steps
        known = chosen[~np.isnan(losses.last_close_N[chosen])]
        loss_NF = losses.served_NGC[known, : len(FIELDS), PLACE["pinball"]] / losses.last_close_N[known, None]
        worst_N = np.argsort(-loss_NF.max(axis=1), kind="stable")
        _, first = np.unique(steps.target_open_N[known][worst_N], return_index=True)
        greatest = {one.target_open: one for one in self.misses}
        for i in worst_N[np.sort(first)[:MISSES_SHOWN]].tolist():
            miss = _miss(steps, int(known[i]), int(loss_NF[i].argmax()), float(loss_NF[i].max()))
            there = greatest.get(miss.target_open)
            if there is None or there.loss < miss.loss:
                greatest[miss.target_open] = miss
        self.misses = sorted(greatest.values(), key=lambda one: -one.loss)[:MISSES_SHOWN]


def _own_prices(steps: SettledSteps, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    """The model's own prices, sorted, before any calibration, (N, F, Q)."""
    sorted_NFQ: NDArray[np.float64] = repair(steps.raw_NFQ[chosen][:, :, None, :])[:, :, 0]
    return sorted_NFQ


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


def _lengthened(sums_H: NDArray[np.float64], horizon: int) -> NDArray[np.float64]:
    """The same sums, with zeros for steps that were not met before."""
    return np.concatenate([sums_H, np.zeros((horizon - len(sums_H), *sums_H.shape[1:]))])


def _rolling(field: str | None, course: Course, window: int) -> Rolling:
    covered_U, loss_U, walk_U = (_sums(one, window) for one in (course.covered_U, course.loss_U, course.walk_U))
    skill_U = 1 - loss_U / np.where(walk_U > 0, walk_U, np.nan)
    shown = np.unique(np.linspace(0, len(covered_U) - 1, _POINTS).round().astype(int))
    return Rolling(field, course.cutoff_U[window - 1 :][shown], covered_U[shown] / window, skill_U[shown])


def _sums(values_U: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Sum of each value and those before it, `window` of them."""
    sums_U = np.concatenate([[0.0], values_U.cumsum()])
    rolling_U: NDArray[np.float64] = sums_U[window:] - sums_U[:-window]
    return rolling_U
