"""Test whether one model forecasts better than another, over several series at once.

Shapes: M models, N cutoffs, F fields, H steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.significance import SIGNIFICANCE_LEVEL, diebold_mariano
from forecaster.errors import InvalidArgument
from forecaster.replay.evaluate import SIMULATION, WALK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.replay.evaluate import Evaluation

BASELINES: Final = (WALK, SIMULATION)


@dataclass(frozen=True)
class Comparison:
    """Pinball losses of a model at `cutoffs` cutoffs, as ratios to the losses of others: below 1 is better.

    Args:
        cutoffs: cutoffs that settled.
        ratio: to the original's loss.
        p_value: of the test that both are equally good (Diebold-Mariano, two-sided).
        to_baselines: the model's ratio to each baseline, by name; None for one that made no error.
        original_to_baselines: the original's ratios.
    """

    cutoffs: int
    ratio: float
    p_value: float
    to_baselines: dict[str, float | None]
    original_to_baselines: dict[str, float | None]

    @property
    def is_better(self) -> bool:
        """Whether the model's loss is significantly smaller than the original's."""
        return self.ratio < 1 and self.p_value < SIGNIFICANCE_LEVEL


def compare(made: Sequence[Evaluation], original: Sequence[Evaluation]) -> Comparison:
    """Compare two models on the same series, at the same cutoffs: one evaluation of each per series.

    A loss is the mean over fields and steps at one cutoff. It is divided by the original's mean loss on the series, so
    that a volatile series counts no more than a calm one.

    Series move together, so two of them at one cutoff are not independent. The losses of all series therefore form one
    row in time order. The lag of the test is the largest number of later cutoffs, of any series, before the last target
    of a cutoff closes. For a single series that is the usual lag.

    Raises:
        InvalidArgument: for evaluations of other series or cutoffs, or too few cutoffs for the test.
    """
    pairs = [_Pair(*pair) for pair in zip(made, original, strict=True)]
    losses_MN = np.concatenate([pair.losses_MN for pair in pairs], axis=1)
    cutoffs_N = np.concatenate([pair.cutoffs_N for pair in pairs])
    ends_N = np.concatenate([pair.ends_N for pair in pairs])
    order_N = np.argsort(cutoffs_N, kind="stable")
    lag = int((np.searchsorted(cutoffs_N[order_N], ends_N[order_N]) - np.arange(len(order_N)) - 1).max())
    loss_N, original_N = losses_MN[:2, order_N]
    mean, original_mean, *baselines = losses_MN.mean(axis=1).tolist()
    named = list(zip(BASELINES, baselines, strict=True))
    return Comparison(
        cutoffs=len(cutoffs_N),
        ratio=mean / original_mean,
        p_value=diebold_mariano(loss_N, original_N, lag).p_value,
        to_baselines={name: _ratio(mean, loss) for name, loss in named},
        original_to_baselines={name: _ratio(original_mean, loss) for name, loss in named},
    )


class _Pair:
    """Losses (M, N) of the model, the original and the baselines on one series, at the cutoffs that settled."""

    def __init__(self, made: Evaluation, original: Evaluation) -> None:
        if made.key != original.key or not np.array_equal(made.cutoffs_N, original.cutoffs_N):
            raise InvalidArgument("evaluations", f"the cutoffs of {original.key}", f"others, of {made.key}")
        rows = [made.loss_series(made.model), original.loss_series(original.model)]
        rows += [made.loss_series(name) for name in BASELINES]
        losses_MN = np.stack([row.loss_U for row in rows])
        unit = float(losses_MN[1].mean())
        if not unit > 0:
            raise InvalidArgument(f"losses of {original.model} on {original.key}", "a mean above 0", unit)
        self.losses_MN: NDArray[np.float64] = losses_MN / unit
        self.cutoffs_N = rows[0].cutoff_U
        sessions, timeframe = made.key.trading_calendar, made.key.timeframe
        targets = [sessions.next_opens(timeframe, int(cutoff), made.horizon)[-1] for cutoff in self.cutoffs_N]
        self.ends_N = sessions.closes_of(timeframe, np.array(targets, np.int64))


def _ratio(loss: float, reference_loss: float) -> float | None:
    """Return loss / reference loss; None if the reference made no error."""
    return None if reference_loss == 0 else loss / reference_loss
