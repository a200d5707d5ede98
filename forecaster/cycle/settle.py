"""Scoring: settled forecasts are read from the ledger in portions and measured.

Shapes: N steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.losses import MASE_SCALE_BARS, compute_losses, compute_losses_batch
from forecaster.accuracy.scores import Scores
from forecaster.ledger import LIVE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from forecaster.accuracy.losses import Losses
    from forecaster.bars import Bars, SeriesKey
    from forecaster.ledger import SettledSteps
    from forecaster.store import Reader

_SERIES_AT_ONCE: Final = 32
"""Number of series that are measured at once: the arrays of more do not fit into the processor's cache."""


def settled_losses(
    reader: Reader, keys: Iterable[SeriesKey], as_of: int, since: int | None = None, run_id: str = LIVE
) -> Iterator[Losses]:
    """Measure what settled of these series in (since, as_of] (UTC ms), series by series, in the order of cutoffs."""
    for key in keys:
        for steps in reader.settled(key, as_of, since, run_id):
            yield _measure(reader, steps, as_of)


def newly_settled_losses(reader: Reader, as_of: int, since: int) -> list[Losses]:
    """Measure the live forecasts, of all series, whose target bars arrived in (since, as_of] (UTC ms)."""
    pairs = [(steps, _bars_before(reader, steps, as_of)) for steps in reader.settled_between(as_of, since)]
    starts = range(0, len(pairs), _SERIES_AT_ONCE)
    return [losses for start in starts for losses in compute_losses_batch(pairs[start : start + _SERIES_AT_ONCE])]


def with_cutoffs(losses: Iterable[Losses], start: int, end: int) -> Iterator[Losses]:
    """Keep the losses of cutoffs in [start, end), UTC ms."""
    for portion in losses:
        yield portion[(portion.steps.cutoff_N >= start) & (portion.steps.cutoff_N < end)]


def rescore(
    reader: Reader, keys: Iterable[SeriesKey], as_of: int, since: int | None = None, run_id: str = LIVE
) -> Scores:
    """Score the same rows in another way, as a check: each cutoff read and measured alone, the last one first."""
    scores = Scores()
    for key in keys:
        for steps in reader.settled(key, as_of, since, run_id):
            for cutoff in np.unique(steps.cutoff_N)[::-1]:
                scores.merge(Scores([_measure(reader, steps[steps.cutoff_N == cutoff], as_of)]))
    return scores


def _measure(reader: Reader, steps: SettledSteps, as_of: int) -> Losses:
    return compute_losses(steps, _bars_before(reader, steps, as_of))


def _bars_before(reader: Reader, steps: SettledSteps, as_of: int) -> Bars:
    """Return the bars that `compute_losses` needs."""
    key, first, last = steps.key, int(steps.cutoff_N.min()), int(steps.cutoff_N.max())
    start = int(key.trading_calendar.last_opens(key.timeframe, first, MASE_SCALE_BARS + 1)[0])
    return reader.bars(key, start, last, as_of, steps.run_id)
