"""Read the forecasts of a run from the ledger, and the trust in them at each cutoff.

Shapes: F fields, H steps, Q quantile levels, N settled steps.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.losses import compute_losses
from forecaster.accuracy.trust import TRUSTED_CUTOFFS, Trust, compute_trust
from forecaster.bars import FIELDS
from forecaster.forecast import OHLCForecast, Provenance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Bars, SeriesKey
    from forecaster.ledger import LedgerRow, SettledSteps
    from forecaster.store import Reader

TRUST_EVERY: Final = 50
"""A replay computes trust at every fiftieth close: a tenth of the cutoffs that trust depends on."""
_PORTION: Final = 512
"""Cutoffs whose forecasts are read at once."""


def read_forecasts(
    reader: Reader, key: SeriesKey, model_name: str, run_id: str, span: tuple[int, int]
) -> Iterator[OHLCForecast]:
    """Yield a model's forecasts of a run with cutoffs in [start, end), UTC ms, oldest first.

    Their provenance holds only model, revision and engine.
    """
    cutoffs = reader.cutoffs(key, run_id)
    cutoffs = cutoffs[(cutoffs >= span[0]) & (cutoffs < span[1])]
    for first in range(0, len(cutoffs), _PORTION):
        portion = cutoffs[first : first + _PORTION]
        rows = reader.history(key, int(portion[0]), int(portion[-1]) + 1, run_id)
        of_model = [row for row in rows if row.model_id.name == model_name]
        for _, of_cutoff in groupby(of_model, key=lambda row: row.cutoff):
            yield _forecast(list(of_cutoff))


class TrustHistory:
    """Trust in a model on a series over time, at step 1, from what had settled by then.

    Trust is computed at each `every`-th close of `bars`, as `Forecaster.trust` would have: from targets that had
    closed, among the last 500 slots, with freshness 1. In between the earlier value stands, so nothing looks ahead.

    Args:
        portions: settled steps of the run, of all models, in the order of cutoffs, as `Reader.settled` yields them.
        bars: of the series, from 256 slots before the first cutoff on.
        model_name: the model's name, without its revision.
        every: number of closes between two values.
    """

    def __init__(self, portions: Iterable[SettledSteps], bars: Bars, model_name: str, every: int = TRUST_EVERY) -> None:
        self._steps = [steps[steps.step_N == 1] for steps in portions]
        self._bars, self._model_name, self._every = bars, model_name, every
        self._computed: dict[int, Trust | None] = {}

    def at(self, cutoff: int) -> Trust | None:
        """Return the last value at or before a cutoff (UTC ms); None while nothing had settled."""
        place = int(np.searchsorted(self._bars.close_time, cutoff, side="right")) - 1
        if place < 0:
            return None
        at = int(self._bars.close_time[place - place % self._every])
        if at not in self._computed:
            self._computed[at] = self._compute(at)
        return self._computed[at]

    def _compute(self, at: int) -> Trust | None:
        key = self._bars.key
        slots = key.trading_calendar.last_opens(key.timeframe, at, TRUSTED_CUTOFFS)
        parts = [steps[_settled(steps, int(slots[0]), at)] for steps in self._steps]
        history = LossHistory(compute_losses(steps, self._bars) for steps in parts if len(steps))
        own = [name for of_key, name in history.pairs if of_key == key and name.name == self._model_name]
        return compute_trust(history, key, own[-1], 1, is_fresh=True) if own else None


def _forecast(rows: Sequence[LedgerRow]) -> OHLCForecast:
    """Make a forecast from its ledger rows; of two revisions of a model, the later one's."""
    head = rows[-1]
    of_model = [row for row in rows if row.model_id == head.model_id]
    raw_FHQ, values_FHQ = (
        np.stack(prices).reshape(-1, len(FIELDS), len(head.quantile_levels)).transpose(1, 0, 2)
        for prices in ([row.raw_Q for row in of_model], [row.values_Q for row in of_model])
    )
    model = head.model_id
    provenance = Provenance(model.name, model.digest, "", "", "", head.engine, "", "", (), "", 0.0)
    about = (head.key, head.cutoff, head.quantile_levels, raw_FHQ, values_FHQ, provenance)
    targets = tuple(row.target_open for row in of_model[:: len(FIELDS)])
    return OHLCForecast(*about, head.issued_at, head.available_at, targets)


def _settled(steps: SettledSteps, since: int, until: int) -> NDArray[np.bool_]:
    """Return whether the target bar closed in (since, until], UTC ms, (N,)."""
    close_N = steps.key.trading_calendar.closes_of(steps.key.timeframe, steps.target_open_N)
    return (close_N > since) & (close_N <= until)
