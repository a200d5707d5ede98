"""What the report shows: records of numbers. `evidence` computes them, `figures` draws them, `page` prints them.

Shapes: F fields, H steps of one forecast, Q quantile levels, U cutoffs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.bars import FIELDS
from forecaster.forecast import repair
from forecaster.ledger import LIVE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.accuracy.drift import Drift
    from forecaster.accuracy.trust import Trust, Verdict
    from forecaster.bars import Bars, SeriesKey
    from forecaster.forecast import ModelId, OHLCForecast
    from forecaster.ledger import AccuracyReport

ANY_FIELD: Final = (None, *FIELDS)
"""All fields together, then each."""
NEXT_BAR: Final = 1
MIN_ROLLING: Final = 20
"""Smallest window of rolling scores, in cutoffs."""
PREDICTION: Final = "predict"
"""Kind of runs that hold single predictions."""


@dataclass(frozen=True)
class Scope:
    """Which forecasts a report covers.

    Args:
        model_name: the model.
        run_id: the run.
        as_of: UTC ms: what could be read then.
        since: UTC ms: only what settled after it; None for no limit.
        kind: how the run was made: `live`, `replay` or `predict`.
    """

    model_name: str
    run_id: str
    as_of: int
    since: int | None = None
    kind: str = LIVE

    @property
    def is_replay(self) -> bool:
        """Whether the times of its forecasts were set, not measured: of all but live forecasts and predictions."""
        return self.run_id != LIVE and self.kind != PREDICTION


@dataclass(frozen=True, eq=False)
class FanChart:
    """One forecast: prices as served, and raw but sorted.

    Args:
        cutoff: UTC ms.
        quantile_levels: (Q,).
        target_open_H: UTC ms.
        served_FHQ: prices as served.
        raw_FHQ: prices before calibration, sorted.
    """

    cutoff: int
    quantile_levels: tuple[float, ...]
    target_open_H: NDArray[np.int64]
    served_FHQ: NDArray[np.float64]
    raw_FHQ: NDArray[np.float64]

    @classmethod
    def from_forecast(cls, forecast: OHLCForecast) -> FanChart:
        """Take the prices of a forecast."""
        opens_H = forecast.target_opens()
        return cls(forecast.cutoff, forecast.quantile_levels, opens_H, forecast.values_FHQ, repair(forecast.raw_FHQ))

    @property
    def is_calibrated(self) -> bool:
        """Whether the served prices differ from the raw ones."""
        return not np.array_equal(self.served_FHQ, self.raw_FHQ)


@dataclass(frozen=True, eq=False)
class ChartPanel:
    """A fan chart over the bars before and after its cutoff."""

    title: str
    fan: FanChart
    bars: Bars


@dataclass(frozen=True)
class Miss:
    """An outcome, its central 80 % interval as served, and its pinball loss over the last close."""

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
    """How often outcomes fell below the quantiles.

    Args:
        variant: `served` or `raw`.
        field: one field; None for all.
        step: the next bar; None for all steps.
        n: number of cases that do not overlap; the four fields of a bar count as one.
        quantile_levels: (Q,).
        below_Q: fraction of outcomes at or below each quantile.
        pit: fraction of outcomes in each tenth of the probability integral transform.
    """

    variant: str
    field: str | None
    step: int | None
    n: int
    quantile_levels: tuple[float, ...]
    below_Q: NDArray[np.float64]
    pit: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class RollingScores:
    """Coverage of the 80 % interval and skill, of the next bar, over a window that ends at each cutoff."""

    field: str | None
    cutoff_U: NDArray[np.int64]
    coverage_U: NDArray[np.float64]
    skill_U: NDArray[np.float64]


@dataclass(frozen=True)
class ServiceStats:
    """Engines and latency of the settled forecasts.

    Args:
        forecasts: number of them.
        late: number that were issued after their first target bar had closed; they count in no score.
        on_time: number that were available before the first of their settled bars had closed.
        engines: number by engine.
        latency_median: from issue to availability, ms.
        latency_99: the 99th percentile, ms.
    """

    forecasts: int
    late: int
    on_time: int
    engines: dict[str, int]
    latency_median: float
    latency_99: float


@dataclass(frozen=True)
class SeriesEvidence:
    """Scores of the settled forecasts of a model on a series.

    Args:
        model_id: the latest revision of the model.
        verdicts: over all steps and fields: of this model first, then of other models, as served, and raw where that
            differs.
        by_step: the same by step, for all fields and each.
        coverage80: fraction of outcomes inside the 80 % interval, over all steps and fields.
        coverage80_interval: 95 % confidence interval of the true fraction.
        reliability: by variant, field and step.
        window: number of cutoffs in each point of `rolling`.
        rolling: by field; empty with too few cutoffs.
        drifts: detected changes.
        service: engines and latency.
        misses: outcomes with the largest loss.
        reports: every score of every model.
        first: first cutoff, UTC ms.
        last: last cutoff, UTC ms.
        seen_at: when the latest outcome was seen, UTC ms.
    """

    model_id: ModelId
    verdicts: list[Verdict]
    by_step: list[Verdict]
    coverage80: float | None
    coverage80_interval: tuple[float, float]
    reliability: list[Reliability]
    window: int
    rolling: list[RollingScores]
    drifts: list[Drift]
    service: ServiceStats
    misses: list[Miss]
    reports: list[AccuracyReport]
    first: int
    last: int
    seen_at: int


@dataclass(frozen=True, eq=False)
class SeriesSection:
    """All that the report shows of one series; `evidence` and `trust` are None until a forecast has settled."""

    key: SeriesKey
    latest: OHLCForecast | None
    trust: Trust | None
    evidence: SeriesEvidence | None
    panels: tuple[ChartPanel, ...]


def null_band(fraction: float, n: int) -> tuple[float, float]:
    """Return the range that the observed fraction of `n` independent cases is in with 95 %, if `fraction` is true.

    Normal approximation: a fraction inside has a Wilson interval that contains `fraction`.
    """
    half = NormalDist().inv_cdf(0.975) * sqrt(fraction * (1 - fraction) / n) if n else 1.0
    return max(fraction - half, 0.0), min(fraction + half, 1.0)
