"""What a run's ledger gives to trading: its forecasts again, and how far they could be trusted at each cutoff.

Shapes: F fields, H steps, Q quantile levels, N settled steps.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.accuracy.loss_series import Traces
from forecaster.accuracy.losses import measure
from forecaster.accuracy.trust import TRUSTED_CUTOFFS, Trust, trust
from forecaster.bars import FIELDS
from forecaster.forecast import OHLCForecast, Provenance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Bars, SeriesKey
    from forecaster.ledger import LedgerRow, SettledSteps
    from forecaster.store import Reader

TRUST_EVERY: Final = 50
"""A replay judges trust anew at each fiftieth close: a tenth of the cutoffs that it looks at."""
_PORTION: Final = 512
"""Cutoffs whose forecasts are read at once."""


def recorded(
    reader: Reader, key: SeriesKey, model_name: str, run_id: str, span: tuple[int, int]
) -> Iterator[OHLCForecast]:
    """Read a model's forecasts of a run whose cutoff lies in [start, end), UTC ms, oldest first, some at a time.

    Of their provenance only model, revision and engine are known.
    """
    cutoffs = reader.cutoffs(key, run_id)
    cutoffs = cutoffs[(cutoffs >= span[0]) & (cutoffs < span[1])]
    for first in range(0, len(cutoffs), _PORTION):
        portion = cutoffs[first : first + _PORTION]
        rows = reader.history(key, int(portion[0]), int(portion[-1]) + 1, run_id)
        of_model = [row for row in rows if row.model_id.name == model_name]
        for _, some in groupby(of_model, key=lambda row: row.cutoff):
            yield _forecast(list(some))


class Trusted:
    """How far a model could be trusted on a series over time, at step 1, by what had settled by then.

    Trust is judged at each `every`-th close of `bars`. There it is what `Forecaster.trust` would have said: of targets
    that had closed, those among the last 500 slots, with freshness 1. Between two of them the older one stands, so
    nothing looks ahead.

    Args:
        portions: settled steps of the run, of all models, in the order of cutoffs, as `Reader.settled` gives them.
        bars: of the series, from 256 slots before the first cutoff on.
        model_name: the model's name, without its revision.
        every: closes from one judgement to the next.
    """

    def __init__(self, portions: Iterable[SettledSteps], bars: Bars, model_name: str, every: int = TRUST_EVERY) -> None:
        self._steps = [one[one.step_N == 1] for one in portions]
        self._bars, self._model_name, self._every = bars, model_name, every
        self._judged: dict[int, Trust | None] = {}

    def at(self, cutoff: int) -> Trust | None:
        """What was judged last at or before a cutoff (UTC ms); None while nothing had settled."""
        place = int(np.searchsorted(self._bars.close_time, cutoff, side="right")) - 1
        if place < 0:
            return None
        at = int(self._bars.close_time[place - place % self._every])
        if at not in self._judged:
            self._judged[at] = self._judge(at)
        return self._judged[at]

    def _judge(self, at: int) -> Trust | None:
        key = self._bars.key
        slots = key.sessions.last_opens(key.timeframe, at, TRUSTED_CUTOFFS)
        parts = [one[_settled(one, int(slots[0]), at)] for one in self._steps]
        traces = Traces(measure(one, self._bars) for one in parts if len(one))
        own = [name for of, name in traces.names if of == key and name.name == self._model_name]
        return trust(traces, key, own[-1], 1, is_fresh=True) if own else None


def _forecast(rows: Sequence[LedgerRow]) -> OHLCForecast:
    """A forecast from its ledger rows; of two revisions of a model, the last one's."""
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
    """Whether the target bar closed in (since, until], UTC ms, (N,)."""
    close_N = steps.key.sessions.closes_of(steps.key.timeframe, steps.target_open_N)
    return (close_N > since) & (close_N <= until)
