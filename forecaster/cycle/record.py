"""Recording: predictions are calibrated, stamped with their times, and written to the ledger in one transaction.

`issued_at` is the time at which the models were called. `available_at` is a time at which the commit had ended and
readers could have the forecast; it is never earlier.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from forecaster.cycle.calibrate import Calibrations
from forecaster.errors import StoreError
from forecaster.stopwatch import CommitTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from forecaster.cycle.predict import Predictions
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import CalibrationState, Run
    from forecaster.store import Reader, Store


class Recorder:
    """Calibrates forecasts and writes them.

    Args:
        reader: gives the ledger that holds the calibration state.
        is_calibrated: whether the primary model's quantiles are calibrated.
    """

    def __init__(self, reader: Callable[[], Reader], *, is_calibrated: bool) -> None:
        self._calibrations = Calibrations(reader)
        self._is_calibrated = is_calibrated
        self._commits = CommitTimes()

    def record(
        self,
        store: Store,
        predictions: Predictions,
        *,
        issued_at: int | Sequence[int],
        run: Run,
        latency: Callable[[], int] | None = None,
        calibration_run_id: str | None = None,
    ) -> list[OHLCForecast]:
        """Calibrate, stamp and write predictions; return the primary model's, in order.

        Args:
            store: the ledger.
            predictions: what to record.
            issued_at: UTC ms at which the models were called: one for all, or one per context.
            run: the run to which the forecasts belong.
            latency: gives the milliseconds since the models were called. Without it, as in a replay, forecasts count
                as available when they were issued.
            calibration_run_id: the run whose history calibrates the forecasts. When left out: their own, which learns
                from them.
        """
        at = [issued_at] * len(predictions.contexts) if isinstance(issued_at, int) else list(issued_at)
        served, learned = self.served(predictions, run, calibration_run_id)
        promised = 0 if latency is None else latency() + self._commits.allowance_ms
        stamped = stamp(predictions, served, at, promised)
        try:
            with self._commits.measured():
                store.add_run(run)
                store.add_forecasts([forecast for of_model in stamped for forecast in of_model], run.id, learned)
        except StoreError:
            self._calibrations.forget()
            raise
        if latency is not None and latency() > promised:
            stamped = stamp(predictions, served, at, latency() + self._commits.allowance_ms)
            store.delay_availability([forecast for of_model in stamped for forecast in of_model], run.id)
        return stamped[0]

    def served(
        self, predictions: Predictions, run: Run, calibration_run_id: str | None
    ) -> tuple[list[list[NDArray[np.float64]]], list[CalibrationState]]:
        """Return the calibrated prices of each model, and the new calibration state."""
        served = [[forecast.values_FHQ for forecast in of_model] for of_model in predictions.by_model]
        learned: list[CalibrationState] = []
        contexts, primary = predictions.contexts, predictions.by_model[0]
        if self._is_calibrated and calibration_run_id is None:
            served[0], learned = self._calibrations.apply(contexts, primary, run.id)
        elif self._is_calibrated and calibration_run_id is not None:
            served[0] = self._calibrations.look_up(contexts, primary, calibration_run_id)
        return served, learned


def stamp(
    predictions: Predictions,
    served: Sequence[Sequence[NDArray[np.float64]]],
    issued_at: Sequence[int],
    latency_ms: int,
) -> list[list[OHLCForecast]]:
    """Return the forecasts of each model with their served prices, their times, and the last close of their context."""
    about = {
        (context.key, context.cutoff): (time, context.last_close)
        for context, time in zip(predictions.contexts, issued_at, strict=True)
    }
    return [
        [
            _stamped(forecast, values_FHQ, *about[forecast.key, forecast.cutoff], latency_ms)
            for forecast, values_FHQ in zip(of_model, values, strict=True)
        ]
        for of_model, values in zip(predictions.by_model, served, strict=True)
    ]


def _stamped(
    forecast: OHLCForecast, values_FHQ: NDArray[np.float64], issued_at: int, last_close: float, latency_ms: int
) -> OHLCForecast:
    return dataclasses.replace(
        forecast,
        values_FHQ=values_FHQ,
        issued_at=issued_at,
        available_at=issued_at + latency_ms,
        last_close=last_close,
    )
