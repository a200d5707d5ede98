"""Drift detection: changes of skill or coverage, by ADWIN over one number per cutoff, of the next bar only.

Forecasts of further steps overlap, and a detector takes overlap for a change.

Bifet and Gavaldà, 2007, "Learning from time-changing data with adaptive windowing"; the detector is river's.

Shapes: U cutoffs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.loss_series import LossHistory, LossTrace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from river.drift import ADWIN

    from forecaster.accuracy.loss_series import LossSeries
    from forecaster.accuracy.losses import Losses
    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId

SKILL: Final = "skill"
COVERAGE: Final = "coverage"


@dataclass(frozen=True)
class Drift:
    """A detected change.

    Args:
        measure: `skill` or `coverage`.
        cutoff: where it was detected, UTC ms.
        before: mean over the cutoffs that the detector dropped. Of skill: walk loss / (own + walk loss); above 0.5
            the model lost less than the random walk.
        now: mean over the cutoffs that it keeps.
    """

    measure: str
    cutoff: int
    before: float
    now: float


class DriftDetector:
    """Detects changes of one model on one series. Cutoffs come in time order."""

    def __init__(self) -> None:
        from river.drift import ADWIN  # noqa: PLC0415 - a second to import, only where drift is detected

        self._detectors: dict[str, ADWIN] = {SKILL: ADWIN(), COVERAGE: ADWIN()}

    def update(self, trace: LossTrace) -> list[Drift]:
        """Add further cutoffs; return the changes that they show."""
        series = trace.select(step=1)
        values = {measure: values_U.tolist() for measure, values_U in _measures(series).items()}
        drifts = []
        for i, cutoff in enumerate(series.cutoff_U.tolist()):
            for measure, detector in self._detectors.items():
                n, total = detector.width + 1, detector.total + values[measure][i]
                detector.update(values[measure][i])
                if detector.drift_detected:
                    before = (total - detector.total) / (n - detector.width)
                    drifts.append(Drift(measure, cutoff, before, detector.estimation))
        return drifts


class DriftMonitor:
    """A drift detector for each model and series. A new detector starts without history."""

    def __init__(self) -> None:
        self._detectors: dict[tuple[SeriesKey, ModelId], DriftDetector] = {}

    def update(self, losses: Iterable[Losses]) -> list[tuple[SeriesKey, ModelId, Drift]]:
        """Add further losses; return the changes that they show, with series and model."""
        history = LossHistory(losses)
        drifts = []
        for key, model_id in history.pairs:
            detector = self._detectors.setdefault((key, model_id), DriftDetector())
            drifts += [(key, model_id, drift) for drift in detector.update(history.trace(key, model_id))]
        return drifts


def _measures(series: LossSeries) -> dict[str, NDArray[np.float64]]:
    """The two numbers of each cutoff, in [0, 1]."""
    both_U = series.loss_U + series.walk_U
    ratio_U = np.where(both_U > 0, series.walk_U / np.where(both_U > 0, both_U, 1.0), 0.5)
    return {SKILL: ratio_U, COVERAGE: series.covered_U}
