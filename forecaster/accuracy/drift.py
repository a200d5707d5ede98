"""Whether skill or coverage has changed: ADWIN over one number for each cutoff, of the next bar alone.

Forecasts of further steps overlap, and what overlaps looks like a change.

Bifet and Gavaldà, 2007, "Learning from time-changing data with adaptive windowing"; the detector is river's.

Shapes: U cutoffs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.loss_series import Trace, Traces

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from river.drift import ADWIN

    from forecaster.accuracy.loss_series import Course
    from forecaster.accuracy.losses import Losses
    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId

SKILL: Final = "skill"
COVERAGE: Final = "coverage"


@dataclass(frozen=True)
class Drift:
    """A change of `what`, skill or coverage, that was found at `cutoff` (UTC ms).

    `before` is its mean over the cutoffs that are no longer like the newest, `now` over those that may be.
    Of skill, that is the share of both losses that was the random walk's: above 0.5 the model lost less.
    """

    what: str
    cutoff: int
    before: float
    now: float


class Watch:
    """Looks for changes in one model on one series, cutoff by cutoff, in the order of time."""

    def __init__(self) -> None:
        from river.drift import ADWIN  # noqa: PLC0415 - a second to import, for who looks for drift

        self._detectors: dict[str, ADWIN] = {SKILL: ADWIN(), COVERAGE: ADWIN()}

    def look(self, trace: Trace) -> list[Drift]:
        """Take in further cutoffs; gives the changes that they show."""
        course = trace.of(step=1)
        watched = {what: values_U.tolist() for what, values_U in _watched(course).items()}
        found = []
        for i, cutoff in enumerate(course.cutoff_U.tolist()):
            for what, detector in self._detectors.items():
                n, total = detector.width + 1, detector.total + watched[what][i]
                detector.update(watched[what][i])
                if detector.drift_detected:
                    before = (total - detector.total) / (n - detector.width)
                    found.append(Drift(what, cutoff, before, detector.estimation))
        return found


class Watches:
    """A watch for each model and series that is met. A new one knows nothing of what came before it."""

    def __init__(self) -> None:
        self._watches: dict[tuple[SeriesKey, ModelId], Watch] = {}

    def look(self, losses: Iterable[Losses]) -> list[tuple[SeriesKey, ModelId, Drift]]:
        """Take in further losses; gives the changes that they show, with series and model."""
        traces = Traces(losses)
        found = []
        for key, model_id in traces.names:
            watch = self._watches.setdefault((key, model_id), Watch())
            found += [(key, model_id, one) for one in watch.look(traces.of(key, model_id))]
        return found


def _watched(course: Course) -> dict[str, NDArray[np.float64]]:
    """The two numbers of each cutoff, in [0, 1]."""
    both_U = course.loss_U + course.walk_U
    share_U = np.where(both_U > 0, course.walk_U / np.where(both_U > 0, both_U, 1.0), 0.5)
    return {SKILL: share_U, COVERAGE: course.covered_U}
