"""Online calibration: moves quantiles by how often outcomes fell below them.

Conformal PID control (Angelopoulos, Candès and Tibshirani, 2023, "Conformal PID Control for Time Series Prediction")
of one series and model. Every field, step and level is calibrated on its own. Let x = log(quantile / last close), m the
x of the median, u the mean of |x - m| over the levels of one forecast. The calibrated quantile is

    m + b · (x - m + u · w · g · S / (1 - (S / L)²)).

The error of an outcome at a level is e = level - [outcome < quantile], 0 on average if the quantile is right. S is the
sum of the errors of the level and stays below the limit L. For small S its term is the paper's quantile tracking (P).
That term grows without bound as S approaches L, which is the paper's saturating integral (I). So over n outcomes the
fraction below a quantile is within L · step / n of its level, for any outcomes, until S is clipped at 0.95 L.

The scale b is the paper's scorecaster (D). All levels together estimate the width of the next outcomes, by the gradient
of the pinball loss: `b ← b · (1 + r · Σ e · (x - m) / Σ |x - m|)`. The weight `w = φ(0) / φ(z of the level)` is larger
where outcomes are rare.

A forecast of step h shares all but one of its h bars with the next one, so e counts 1 / h in S. The rate r is divided
by the factor by which overlap widens the variance of a mean square, `1 + 2 Σ (1 - k / h)²`. Errors are those of the
quantile as it would be calibrated now, not as it was issued: a step that settles late is measured with the current
state.

All arithmetic is elementwise on arrays of one shape, so results do not depend on the batch. The state is float32, so
storing it does not round. `forecast.repair` restores the order of quantiles and fields.

Shapes: F fields, H steps, Q quantile levels, T bars. Inside, Q comes first, so that sums over levels have one order.
"""

from __future__ import annotations

import struct
import zlib
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from forecaster.bars import FIELDS
from forecaster.errors import InvalidArgument, format_time

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAIN: Final = 0.01
RATE: Final = 0.1
"""g and r. Larger values adapt faster and cost more where the model was right: now 0.3 % of the pinball loss."""
LIMIT: Final = 25.0
MAX_SUM: Final = 0.95 * LIMIT
SCALE_BOUNDS: Final = (0.25, 4.0)
"""Bounds of b."""
MAX_SHIFT: Final = 2.0
"""No price moves by more than a factor of exp(2)."""
MIN_RATIO: Final = 1e-6
"""Prices below this fraction of the last close, such as negative ones, are calibrated as if they were equal to it."""

_HEADER: Final = struct.Struct("<4sHHHq")
_CHECKSUM: Final = struct.Struct("<I")
_MAGIC: Final = b"OCAL"
_VERSION: Final = 1
_NO_CUTOFF: Final = -(2**63)


class InputBars(NamedTuple):
    """The bars in a model's input: open times (T,), rising, and prices (4, T), NaN in slots without a bar."""

    open_time: NDArray[np.int64]
    ohlc_CT: NDArray[np.float64]


class _Forecast(NamedTuple):
    """What the update needs of a raw forecast."""

    log_QFH: NDArray[np.float32]
    last_close: float


class Calibrator:
    """Calibration state of one series, model and run, and the raw forecasts whose outcomes are pending.

    Args:
        horizon: steps of every forecast.
        levels: quantile levels of every forecast, rising, inside (0, 1).
    """

    def __init__(self, horizon: int, levels: tuple[float, ...]) -> None:
        self.horizon = horizon
        self.levels = levels
        self._cutoff: int | None = None
        self._pending: dict[int, dict[int, _Forecast]] = {}
        shape = (len(FIELDS), horizon)
        self._scale_FH = np.ones(shape, np.float32)
        self._sum_QFH = np.zeros((len(levels), *shape), np.float32)
        self._centre = int(np.abs(np.array(levels) - 0.5).argmin())
        self._level_Q11 = np.array(levels, np.float32)[:, None, None]
        self._gain_Q11 = np.array([GAIN * _rarity(level) for level in levels], np.float32)[:, None, None]
        step_H = np.arange(1, horizon + 1)
        self._weight_H = (1 / step_H).astype(np.float32)
        self._rate_H = (RATE * 3 * step_H / (2 * step_H**2 + 1)).astype(np.float32)

    @property
    def cutoff(self) -> int | None:
        """The latest cutoff (UTC ms); None before the first."""
        return self._cutoff

    def calibrate(
        self,
        cutoff: int,
        target_opens_H: NDArray[np.int64],
        raw_FHQ: NDArray[np.float64],
        last_close: float,
        bars: InputBars,
    ) -> NDArray[np.float64]:
        """Update the state from the outcomes in the input, and return this forecast's calibrated prices, (F, H, Q).

        Each step of an earlier forecast updates the state once, at the first cutoff after its target bar; never if that
        bar is missing then. Repeating the latest cutoff changes nothing and returns the same prices. An earlier cutoff
        changes nothing and returns `raw_FHQ`: the current state was not known then.

        Args:
            cutoff: close time of the last input bar, UTC ms.
            target_opens_H: open times of the target bars, UTC ms.
            raw_FHQ: finite prices of the model.
            last_close: close of the last input bar.
            bars: the input of the model.

        Raises:
            InvalidArgument: for a forecast of another shape.
        """
        self._check(target_opens_H, raw_FHQ)
        if self._cutoff is not None and cutoff < self._cutoff:
            return raw_FHQ
        for target_open in sorted(due for due in self._pending if due < cutoff):
            self._update(self._pending.pop(target_open), _bar_at(target_open, bars))
        self._cutoff = cutoff
        log_QFH = self._enqueue(target_opens_H, raw_FHQ, last_close)
        shift_FHQ = self._shift(*self._spread(log_QFH)).transpose(1, 2, 0)
        return raw_FHQ * np.exp(shift_FHQ.astype(np.float64, order="C"))

    def restore(
        self, cutoff: int, target_opens_H: NDArray[np.int64], raw_FHQ: NDArray[np.float64], last_close: float
    ) -> None:
        """Add a forecast that was calibrated before `to_bytes`, for its outcomes that were still pending then.

        Raises:
            InvalidArgument: for a forecast of another shape, or one from after `self.cutoff`.
        """
        self._check(target_opens_H, raw_FHQ)
        if self._cutoff is None or cutoff > self._cutoff:
            raise InvalidArgument("cutoff", f"one up to {format_time(self._cutoff)}", format_time(cutoff))
        self._enqueue(target_opens_H, raw_FHQ, last_close)

    def to_bytes(self) -> bytes:
        """Serialise the state, exactly, without pending forecasts: those come from the ledger, through `restore`."""
        cutoff = _NO_CUTOFF if self._cutoff is None else self._cutoff
        stored = _HEADER.pack(_MAGIC, _VERSION, self.horizon, len(self.levels), cutoff)
        for part, kind in ((self.levels, "<f8"), (self._scale_FH, "<f4"), (self._sum_QFH, "<f4")):
            stored += np.ascontiguousarray(part, kind).tobytes()
        return stored + _CHECKSUM.pack(zlib.crc32(stored))

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Return the calibrator that `to_bytes` serialised.

        Raises:
            InvalidArgument: for damaged bytes, or bytes of another format.
        """
        if len(stored) < _HEADER.size or stored[:4] != _MAGIC:
            raise InvalidArgument("state of a calibrator", f"bytes that begin with {_MAGIC!r}", stored[:4])
        _, version, horizon, count, cutoff = _HEADER.unpack_from(stored)
        if version != _VERSION:
            raise InvalidArgument("state of a calibrator", f"version {_VERSION}", version)
        if _CHECKSUM.pack(zlib.crc32(stored[: -_CHECKSUM.size])) != stored[-_CHECKSUM.size :]:
            raise InvalidArgument("state of a calibrator", "the bytes that were stored", f"{len(stored)} damaged ones")
        calibrator = cls(horizon, tuple(np.frombuffer(stored, "<f8", count, _HEADER.size).tolist()))
        state = np.frombuffer(stored[_HEADER.size + 8 * count : -_CHECKSUM.size], "<f4").astype(np.float32)
        calibrator._cutoff = None if cutoff == _NO_CUTOFF else cutoff
        calibrator._scale_FH = state[: calibrator._scale_FH.size].reshape(calibrator._scale_FH.shape)
        calibrator._sum_QFH = state[calibrator._scale_FH.size :].reshape(calibrator._sum_QFH.shape)
        return calibrator

    def _check(self, target_opens_H: NDArray[np.int64], raw_FHQ: NDArray[np.float64]) -> None:
        expected = (len(FIELDS), self.horizon, len(self.levels))
        if raw_FHQ.shape != expected or target_opens_H.shape != (self.horizon,):
            raise InvalidArgument("forecast", f"shape {expected}", f"{raw_FHQ.shape}, targets {target_opens_H.shape}")

    def _enqueue(
        self, target_opens_H: NDArray[np.int64], raw_FHQ: NDArray[np.float64], last_close: float
    ) -> NDArray[np.float32]:
        """Keep a forecast for its targets that are not closed at `self.cutoff`; return its quantiles in logs."""
        ratio_QFH = np.maximum(raw_FHQ.transpose(2, 0, 1) / last_close, MIN_RATIO)
        forecast = _Forecast(np.log(np.ascontiguousarray(ratio_QFH)).astype(np.float32), last_close)
        for row, target_open in enumerate(target_opens_H.tolist()):
            if self._cutoff is not None and target_open >= self._cutoff:
                self._pending.setdefault(target_open, {})[row] = forecast
        return forecast.log_QFH

    def _update(self, pending: dict[int, _Forecast], actual_F: NDArray[np.float64]) -> None:
        """Update the state from one bar, for all steps that forecast it; a missing bar (NaN) changes nothing."""
        log_QFH = np.zeros_like(self._sum_QFH)
        close_H = np.full(self.horizon, np.nan)
        for row, forecast in pending.items():
            log_QFH[:, :, row] = forecast.log_QFH[:, :, row]
            close_H[row] = forecast.last_close
        outcome_FH = np.log(actual_F[:, None] / close_H).astype(np.float32)
        away_QFH, total_FH = self._spread(log_QFH)
        calibrated_QFH = log_QFH + self._shift(away_QFH, total_FH)
        # A forecast without spread has no unit; an outcome on its quantile is no error.
        is_error_QFH = (total_FH > 0) & np.isfinite(outcome_FH) & (outcome_FH != calibrated_QFH)
        error_QFH = (self._level_Q11 - (outcome_FH < calibrated_QFH)) * is_error_QFH
        pull_FH = np.add.reduce(error_QFH * away_QFH, axis=0) / np.where(total_FH > 0, total_FH, 1)
        self._scale_FH = np.clip(self._scale_FH * (1 + self._rate_H * pull_FH), *SCALE_BOUNDS)
        self._sum_QFH = np.clip(self._sum_QFH + self._weight_H * error_QFH, -MAX_SUM, MAX_SUM)

    def _spread(self, log_QFH: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the distances from the median, and the sum of their absolute values over the levels."""
        away_QFH = log_QFH - log_QFH[self._centre]
        total_FH: NDArray[np.float32] = np.add.reduce(np.abs(away_QFH), axis=0)
        return away_QFH, total_FH

    def _shift(self, away_QFH: NDArray[np.float32], total_FH: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the shift of each quantile, in logs: the formula of the module, minus x."""
        ratio_QFH = self._sum_QFH / np.float32(LIMIT)
        offset_QFH = self._gain_Q11 * self._sum_QFH / (1 - ratio_QFH * ratio_QFH)
        unit_FH = self._scale_FH * total_FH / np.float32(len(self.levels))
        shift_QFH = (self._scale_FH - 1) * away_QFH + unit_FH * offset_QFH
        bounded_QFH: NDArray[np.float32] = np.clip(shift_QFH, -MAX_SHIFT, MAX_SHIFT)
        return bounded_QFH


def _rarity(level: float) -> float:
    """φ(0) / φ(z of the level): 1 at the median, 15 at 0.01."""
    normal = NormalDist()
    return normal.pdf(0) / normal.pdf(normal.inv_cdf(level))


def _bar_at(open_time: int, bars: InputBars) -> NDArray[np.float64]:
    """Prices of the bar that opened then, (4,); NaN if it is missing."""
    at = int(np.searchsorted(bars.open_time, open_time))
    if at == len(bars.open_time) or bars.open_time[at] != open_time:
        return np.full(len(FIELDS), np.nan)
    return bars.ohlc_CT[:, at]
