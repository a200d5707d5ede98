"""Calibrating what a model forecasts as it is recorded: each series of a run by what its own past has taught.

A calibrator sees the bars that the model is shown and nothing else, so a forecast depends on the past alone, whichever
door asks for it, and however many cutoffs are asked for at once. Between calls it is kept; after a restart it is read
from the ledger, where its state is written in the same transaction as the forecasts.

Shapes: F fields, H steps, Q quantile levels.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from forecaster.accuracy.calibration import Calibrator, Seen
from forecaster.bars import FIELDS
from forecaster.errors import InvalidContext, LedgerMissing
from forecaster.forecast import repair
from forecaster.ledger import CalibrationState
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Context, SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.store import Reader


_log = get_logger(__name__)


class Calibrations:
    """The calibrators of all runs and series that are being forecast.

    Args:
        reader: gives the ledger that holds what was learned before.
    """

    def __init__(self, reader: Callable[[], Reader]) -> None:
        self._reader = reader
        self._known: dict[tuple[str, SeriesKey, str], Calibrator] = {}

    def apply(
        self, contexts: Sequence[Context], made: Sequence[OHLCForecast], run_id: str
    ) -> tuple[list[NDArray[np.float64]], list[CalibrationState]]:
        """Learn from the bars of the contexts, in the order of cutoffs, and calibrate the forecasts made from them.

        Returns the prices to serve, (F, H, Q) for each forecast, and what has been learned, for the ledger.
        """
        served, touched = [one.raw_FHQ for one in made], {}
        for i in sorted(range(len(made)), key=lambda i: made[i].cutoff):
            one = made[i]
            name = (run_id, one.key, one.provenance.ledger_id)
            if name not in self._known or not _fits(self._known[name], one):
                self._known[name] = self._read(one, run_id)
            touched[name] = self._known[name]
            served[i] = _calibrated(touched[name], contexts[i], one)
        repaired = list(repair(np.stack(served))) if served else []
        return repaired, [
            CalibrationState(key, model_id, one.cutoff or 0, one.to_bytes())
            for (_, key, model_id), one in touched.items()
        ]

    def look_up(
        self, contexts: Sequence[Context], made: Sequence[OHLCForecast], run_id: str
    ) -> list[NDArray[np.float64]]:
        """Calibrate forecasts by what another run has learned, and learn nothing."""
        pairs = zip(contexts, made, strict=True)
        return [repair(_calibrated(self._read(one, run_id), context, one)) for context, one in pairs]

    def forget(self) -> None:
        """Read everything from the ledger again: what was learned last may not have been written."""
        self._known.clear()

    def _read(self, like: OHLCForecast, run_id: str) -> Calibrator:
        """The calibrator of a forecast's series and model as the ledger knows it, a new one where it does not."""
        reader, model_id = self._reader(), like.provenance.ledger_id
        fresh = Calibrator(like.horizon, like.quantile_levels)
        try:
            stored = reader.calibration(like.key, model_id, run_id)
        except LedgerMissing:  # a prediction by hand needs none
            return fresh
        if stored is None:
            return fresh
        try:
            found = Calibrator.from_bytes(stored.state)
        except InvalidContext as error:  # it can be learned again; a forecast that is not made cannot be made up for
            _log.warning("calibration.lost", series=str(like.key), model=model_id, run=run_id, reason=str(error))
            return fresh
        if not _fits(found, like):
            return fresh
        key = like.key
        start = int(key.sessions.last_opens(key.timeframe, stored.cutoff, like.horizon)[0])
        bars = reader.bars(key, int(key.sessions.last_opens(key.timeframe, start, 1)[0]), stored.cutoff, run_id=run_id)
        closes = dict(zip(bars.close_time.tolist(), bars.close.tolist(), strict=True))
        by_cutoff = defaultdict(list)
        for row in reader.history(key, start, stored.cutoff + 1, run_id):
            if row.model_id == model_id and row.cutoff in closes:
                by_cutoff[row.cutoff].append(row)
        for cutoff, rows in by_cutoff.items():
            raw_FHQ = np.stack([row.raw_Q for row in rows]).reshape(like.horizon, len(FIELDS), -1).transpose(1, 0, 2)
            found.restore(cutoff, np.array([row.target_open for row in rows[:: len(FIELDS)]]), raw_FHQ, closes[cutoff])
        return found


def _fits(calibrator: Calibrator, forecast: OHLCForecast) -> bool:
    return (calibrator.horizon, calibrator.levels) == (forecast.horizon, forecast.quantile_levels)


def _calibrated(calibrator: Calibrator, context: Context, forecast: OHLCForecast) -> NDArray[np.float64]:
    """Calibrated prices (F, H, Q), before they are repaired."""
    seen = Seen(context.open_time, context.ohlc_CT)
    return calibrator.calibrate(context.cutoff, forecast.target_opens(), forecast.raw_FHQ, context.last_close, seen)
