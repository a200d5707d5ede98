"""Whether one model forecasts better than another, over several series at once.

Shapes: M models, N cutoffs, F fields, H steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.significance import SIGNIFICANT, diebold_mariano
from forecaster.errors import InvalidContext
from forecaster.replay.evaluate import SIMULATION, WALK, ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.replay.evaluate import Evaluation

BASELINES: Final = (WALK, SIMULATION)


@dataclass(frozen=True)
class Comparison:
    """Pinball losses of a model at `cutoffs` cutoffs, each ratio the model's over another's: below 1 is better.

    Args:
        cutoffs: cutoffs that had an outcome.
        ratio: to the original's loss.
        p_value: chance of losses at least so different if the two were equally good (Diebold-Mariano, two-sided).
        to_baselines: the model's ratio to each baseline, by its name; None for one that made no error.
        original_to_baselines: the original's, beside it.
    """

    cutoffs: int
    ratio: float
    p_value: float
    to_baselines: dict[str, float | None]
    original_to_baselines: dict[str, float | None]

    @property
    def wins(self) -> bool:
        """Whether the model lost less than the original, by more than luck."""
        return self.ratio < 1 and self.p_value < SIGNIFICANT


def compare(made: Sequence[Evaluation], original: Sequence[Evaluation]) -> Comparison:
    """Compare the models under test of two rows of evaluations: the same series at the same cutoffs, one for one.

    A loss is the mean over fields and steps at one cutoff. Those of a series are divided by the original's mean
    there, so that a series counts by its cutoffs, not by how much it moves.

    Markets move together, and two series at one cutoff are not two proofs. So losses of all series stand in one row
    in the order of time, and the test's lag is how many later cutoffs there are, of whichever series, before a
    cutoff's last target has closed. Of one series, that is the usual lag.

    Raises:
        InvalidContext: for evaluations of other series or cutoffs, or too few cutoffs for the test.
    """
    pairs = [_Pair(one, other) for one, other in zip(made, original, strict=True)]
    losses_MN = np.concatenate([one.losses_MN for one in pairs], axis=1)
    cutoffs_N = np.concatenate([one.cutoffs_N for one in pairs])
    ends_N = np.concatenate([one.ends_N for one in pairs])
    order_N = np.argsort(cutoffs_N, kind="stable")
    lag = int((np.searchsorted(cutoffs_N[order_N], ends_N[order_N]) - np.arange(len(order_N)) - 1).max())
    loss_N, original_N = losses_MN[:2, order_N]
    mean, original_mean, *baselines = losses_MN.mean(axis=1).tolist()
    return Comparison(
        cutoffs=len(cutoffs_N),
        ratio=mean / original_mean,
        p_value=diebold_mariano(loss_N, original_N, lag).p_value,
        to_baselines={name: ratio(mean, other) for name, other in zip(BASELINES, baselines, strict=True)},
        original_to_baselines={
            name: ratio(original_mean, other) for name, other in zip(BASELINES, baselines, strict=True)
        },
    )


class _Pair:
    """One series: losses (M, N) of the model, the original and the baselines, at cutoffs that had an outcome."""

    def __init__(self, one: Evaluation, other: Evaluation) -> None:
        if one.key != other.key or not np.array_equal(one.cutoffs_N, other.cutoffs_N):
            raise InvalidContext("evaluations", f"the cutoffs of {other.key}", f"others, of {one.key}")
        came_N = ~np.isnan(one.losses[one.model].pinball_NFH).all(axis=(1, 2))
        rows = (one.losses[one.model], other.losses[other.model], *(one.losses[name] for name in BASELINES))
        losses_MN = np.stack([np.nanmean(row.pinball_NFH[came_N], axis=(1, 2)) for row in rows])
        unit = float(losses_MN[1].mean())
        if not unit > 0:
            raise InvalidContext(f"losses of {other.model} on {other.key}", "a mean above 0, to divide by", unit)
        self.losses_MN: NDArray[np.float64] = losses_MN / unit
        self.cutoffs_N = one.cutoffs_N[came_N]
        sessions, timeframe = one.key.sessions, one.key.timeframe
        targets = [sessions.next_opens(timeframe, int(cutoff), one.horizon)[-1] for cutoff in self.cutoffs_N]
        self.ends_N = sessions.closes_of(timeframe, np.array(targets, np.int64))
