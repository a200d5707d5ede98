"""Calibration of forecasts as they are recorded: each series of a run learns from its own past.

A calibrator sees the bars of the model's context and nothing else. So a forecast depends on the past alone, for live
forecasts, predictions and replays of any batch size. Calibrators stay in memory between calls. After a restart they are
restored from the ledger, where their state is written in the same transaction as the forecasts.

Shapes: F fields, H steps, Q quantile levels.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from forecaster.accuracy.calibration import Calibrator, InputBars
from forecaster.bars import FIELDS
from forecaster.errors import InvalidArgument, LedgerMissing
from forecaster.forecast import repair
from forecaster.ledger import CalibrationState
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.context import Context
    from forecaster.forecast import OHLCForecast
    from forecaster.store import Reader

_log = get_logger(__name__)


class Calibrations:
    """The calibrators of all runs and series.

    Args:
        reader: gives the ledger that holds the calibration state.
    """

    def __init__(self, reader: Callable[[], Reader]) -> None:
        self._reader = reader
        self._known: dict[tuple[str, SeriesKey, str], Calibrator] = {}

    def apply(
        self, contexts: Sequence[Context], forecasts: Sequence[OHLCForecast], run_id: str
    ) -> tuple[list[NDArray[np.float64]], list[CalibrationState]]:
        """Learn from the bars of the contexts, in the order of cutoffs, and calibrate their forecasts.

        Returns the prices to serve, (F, H, Q) for each forecast, and the new calibration state.
        """
        served, used = [forecast.raw_FHQ for forecast in forecasts], {}
        for i in sorted(range(len(forecasts)), key=lambda i: forecasts[i].cutoff):
            forecast = forecasts[i]
            name = (run_id, forecast.key, forecast.provenance.ledger_id)
            if name not in self._known or not _fits(self._known[name], forecast):
                self._known[name] = self._restore(forecast, run_id)
            used[name] = self._known[name]
            served[i] = _calibrated(used[name], contexts[i], forecast)
        repaired = list(repair(np.stack(served))) if served else []
        return repaired, [
            CalibrationState(key, model_id, calibrator.cutoff or 0, calibrator.to_bytes())
            for (_, key, model_id), calibrator in used.items()
        ]

    def look_up(
        self, contexts: Sequence[Context], forecasts: Sequence[OHLCForecast], run_id: str
    ) -> list[NDArray[np.float64]]:
        """Calibrate forecasts by the state of another run, without learning."""
        pairs = zip(contexts, forecasts, strict=True)
        return [repair(_calibrated(self._restore(forecast, run_id), context, forecast)) for context, forecast in pairs]

    def forget(self) -> None:
        """Drop all calibrators, to be restored from the ledger: their last state may not have been written."""
        self._known.clear()

    def _restore(self, like: OHLCForecast, run_id: str) -> Calibrator:
        """Return the calibrator of a forecast's series and model from the ledger, or a new one."""
        reader, model_id = self._reader(), like.provenance.ledger_id
        fresh = Calibrator(like.horizon, like.quantile_levels)
        try:
            stored = reader.calibration(like.key, model_id, run_id)
        except LedgerMissing:  # a prediction needs no ledger
            return fresh
        if stored is None:
            return fresh
        try:
            calibrator = Calibrator.from_bytes(stored.state)
        except InvalidArgument as error:  # the state can be learned again; a missed forecast cannot be repeated
            _log.warning("calibration.lost", series=str(like.key), model=model_id, run=run_id, reason=str(error))
            return fresh
        if not _fits(calibrator, like):
            return fresh
        key = like.key
        start = int(key.trading_calendar.last_opens(key.timeframe, stored.cutoff, like.horizon)[0])
        bars = reader.bars(
            key, int(key.trading_calendar.last_opens(key.timeframe, start, 1)[0]), stored.cutoff, run_id=run_id
        )
        closes = dict(zip(bars.close_time.tolist(), bars.close.tolist(), strict=True))
        by_cutoff = defaultdict(list)
        for row in reader.history(key, start, stored.cutoff + 1, run_id):
            if row.model_id == model_id and row.cutoff in closes:
                by_cutoff[row.cutoff].append(row)
        for cutoff, rows in by_cutoff.items():
            raw_FHQ = np.stack([row.raw_Q for row in rows]).reshape(like.horizon, len(FIELDS), -1).transpose(1, 0, 2)
            calibrator.restore(
                cutoff, np.array([row.target_open for row in rows[:: len(FIELDS)]]), raw_FHQ, closes[cutoff]
            )
        return calibrator


def _fits(calibrator: Calibrator, forecast: OHLCForecast) -> bool:
    return (calibrator.horizon, calibrator.levels) == (forecast.horizon, forecast.quantile_levels)


def _calibrated(calibrator: Calibrator, context: Context, forecast: OHLCForecast) -> NDArray[np.float64]:
    """Return calibrated prices (F, H, Q), before repair."""
    seen = InputBars(context.open_time, context.ohlc_CT)
    return calibrator.calibrate(context.cutoff, forecast.target_opens(), forecast.raw_FHQ, context.last_close, seen)
