"""Online calibration: quantiles moved by how often outcomes fell below them, once those outcomes are known.

Conformal PID control (Angelopoulos, Candès and Tibshirani, 2023, "Conformal PID Control for Time Series Prediction")
of one series and model: every field, step and level learns by itself. With x = log(quantile / last close), m the x of
the median and u the mean of |x - m| over the levels of one forecast, a calibrated quantile is

    m + b · (x - m + u · w · g · S / (1 - (S / L)²)).

An outcome's error at a level is e = level - [outcome < quantile], 0 on average where the quantile is right. S is the
sum of the level's errors and never reaches the limit L: where S is small its term is the paper's quantile tracking (P),
and what it gives grows without bound towards L, which is the paper's saturating integral (I). Over n outcomes the share
below a quantile is thus within L · step / n of its level, whatever the outcomes do, until S is held at 0.95 L. b is the
paper's scorecaster (D): all levels together tell how wide the next outcomes will be, by the gradient of the pinball
loss, b ← b · (1 + r · Σ e · (x - m) / Σ |x - m|). w = φ(0) / φ(z of the level) makes a miss count for more where
outcomes are rare.

Forecasts of step h share all but one of their h bars with the next, so one outcome tells less: e counts 1 / h in S, and
r is divided by the factor by which overlap widens the variance of a mean square, 1 + 2 Σ (1 - k / h)².
Errors are those of the quantile as it would be calibrated now, not as it was when it was issued: a step that is settled
late is not blamed for what was learned since.

Every number is made by elementwise arithmetic on arrays of one shape: no batch and no neighbour changes a bit. What is
learned is float32, so that storing it rounds nothing. Order of quantiles and fields is left to `forecast.repair`.

Shapes: F fields, H steps, Q quantile levels, T bars. Inside, Q leads: sums over levels then have one order.
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
"""g and r. Larger ones mend sooner, and cost more where nothing was wrong: now 0.3 % of the pinball loss."""
LIMIT: Final = 25.0
HELD_AT: Final = 0.95 * LIMIT
SCALES: Final = (0.25, 4.0)
"""Between these b is kept."""
FARTHEST: Final = 2.0
"""No price is moved by more than a factor of exp(2), however wide a forecast is."""
LEAST_RATIO: Final = 1e-6
"""Prices below this share of the last close are calibrated as if they were there: a model may give one below 0."""

_HEADER: Final = struct.Struct("<4sHHHq")
_CHECKSUM: Final = struct.Struct("<I")
_MAGIC: Final = b"OCAL"
_VERSION: Final = 1
_NEVER: Final = -(2**63)


class Seen(NamedTuple):
    """The bars that a model was shown: open times (T,), rising, and (4, T) prices, NaN in slots without a bar."""

    open_time: NDArray[np.int64]
    ohlc_CT: NDArray[np.float64]


class _Forecast(NamedTuple):
    """What is needed of a raw forecast to learn from its outcomes."""

    log_QFH: NDArray[np.float32]
    last_close: float


class Calibrator:
    """What was learned of one series, model and run, and the raw forecasts that wait for their outcomes.

    Args:
        horizon: steps of every forecast.
        levels: quantile levels of every forecast, rising, inside (0, 1).
    """

    def __init__(self, horizon: int, levels: tuple[float, ...]) -> None:
        self.horizon = horizon
        self.levels = levels
        self._cutoff: int | None = None
        self._waiting: dict[int, dict[int, _Forecast]] = {}
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
        """The newest cutoff (UTC ms) that it has seen; None before the first."""
        return self._cutoff

    def calibrate(
        self,
        cutoff: int,
        target_opens_H: NDArray[np.int64],
        raw_FHQ: NDArray[np.float64],
        last_close: float,
        seen: Seen,
    ) -> NDArray[np.float64]:
        """Learn from the outcomes among the bars seen, and give this forecast's calibrated prices, (F, H, Q).

        Each step of an earlier forecast is learned from once, at the first cutoff after its target bar; where that bar
        is not there then, never. The newest cutoff again changes nothing and gives the same. An older one changes
        nothing and gets `raw_FHQ` itself: what was learned by now was not known then.

        Args:
            cutoff: close of the last bar seen, UTC ms.
            target_opens_H: open times of the bars that the steps stand for.
            raw_FHQ: finite prices as the model gave them.
            last_close: close of the last bar seen.
            seen: the bars that the model was shown.

        Raises:
            InvalidArgument: for a forecast of another shape.
        """
        self._check(target_opens_H, raw_FHQ)
        if self._cutoff is not None and cutoff < self._cutoff:
            return raw_FHQ
        for target_open in sorted(due for due in self._waiting if due < cutoff):
            self._settle(self._waiting.pop(target_open), _bar_at(target_open, seen))
        self._cutoff = cutoff
        log_QFH = self._wait(target_opens_H, raw_FHQ, last_close)
        moved_FHQ = self._correction(*self._spread(log_QFH)).transpose(1, 2, 0)
        return raw_FHQ * np.exp(moved_FHQ.astype(np.float64, order="C"))

    def restore(
        self, cutoff: int, target_opens_H: NDArray[np.int64], raw_FHQ: NDArray[np.float64], last_close: float
    ) -> None:
        """Let a forecast that was calibrated before `to_bytes` wait again for the outcomes it had not met by then.

        Raises:
            InvalidArgument: for a forecast of another shape, or one from after `self.cutoff`.
        """
        self._check(target_opens_H, raw_FHQ)
        if self._cutoff is None or cutoff > self._cutoff:
            raise InvalidArgument("cutoff", f"one up to {format_time(self._cutoff)}", format_time(cutoff))
        self._wait(target_opens_H, raw_FHQ, last_close)

    def to_bytes(self) -> bytes:
        """Store what was learned, exactly; the forecasts that wait are left to the ledger and `restore`."""
        cutoff = _NEVER if self._cutoff is None else self._cutoff
        stored = _HEADER.pack(_MAGIC, _VERSION, self.horizon, len(self.levels), cutoff)
        for part, kind in ((self.levels, "<f8"), (self._scale_FH, "<f4"), (self._sum_QFH, "<f4")):
            stored += np.ascontiguousarray(part, kind).tobytes()
        return stored + _CHECKSUM.pack(zlib.crc32(stored))

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Make a calibrator of what `to_bytes` gave.

        Raises:
            InvalidArgument: for damaged bytes, or those of something else.
        """
        if len(stored) < _HEADER.size or stored[:4] != _MAGIC:
            raise InvalidArgument("state of a calibrator", f"bytes that begin with {_MAGIC!r}", stored[:4])
        _, version, horizon, count, cutoff = _HEADER.unpack_from(stored)
        if version != _VERSION:
            raise InvalidArgument("state of a calibrator", f"version {_VERSION}", version)
        if _CHECKSUM.pack(zlib.crc32(stored[: -_CHECKSUM.size])) != stored[-_CHECKSUM.size :]:
            raise InvalidArgument("state of a calibrator", "the bytes that were stored", f"{len(stored)} damaged ones")
        made = cls(horizon, tuple(np.frombuffer(stored, "<f8", count, _HEADER.size).tolist()))
        learned = np.frombuffer(stored[_HEADER.size + 8 * count : -_CHECKSUM.size], "<f4").astype(np.float32)
        made._cutoff = None if cutoff == _NEVER else cutoff
        made._scale_FH = learned[: made._scale_FH.size].reshape(made._scale_FH.shape)
        made._sum_QFH = learned[made._scale_FH.size :].reshape(made._sum_QFH.shape)
        return made

    def _check(self, target_opens_H: NDArray[np.int64], raw_FHQ: NDArray[np.float64]) -> None:
        expected = (len(FIELDS), self.horizon, len(self.levels))
        if raw_FHQ.shape != expected or target_opens_H.shape != (self.horizon,):
            raise InvalidArgument("forecast", f"shape {expected}", f"{raw_FHQ.shape}, targets {target_opens_H.shape}")

    def _wait(
        self, target_opens_H: NDArray[np.int64], raw_FHQ: NDArray[np.float64], last_close: float
    ) -> NDArray[np.float32]:
        """Keep a forecast for the targets that have not closed by `self.cutoff`; returns its quantiles in logs."""
        ratio_QFH = np.maximum(raw_FHQ.transpose(2, 0, 1) / last_close, LEAST_RATIO)
        one = _Forecast(np.log(np.ascontiguousarray(ratio_QFH)).astype(np.float32), last_close)
        for row, target_open in enumerate(target_opens_H.tolist()):
            if self._cutoff is not None and target_open >= self._cutoff:
                self._waiting.setdefault(target_open, {})[row] = one
        return one.log_QFH

    def _settle(self, waiting: dict[int, _Forecast], actual_F: NDArray[np.float64]) -> None:
        """Learn from one bar, for all steps that waited for it; a bar that is missing (NaN) teaches nothing."""
        log_QFH = np.zeros_like(self._sum_QFH)
        close_H = np.full(self.horizon, np.nan)
        for row, one in waiting.items():
            log_QFH[:, :, row] = one.log_QFH[:, :, row]
            close_H[row] = one.last_close
        outcome_FH = np.log(actual_F[:, None] / close_H).astype(np.float32)
        away_QFH, total_FH = self._spread(log_QFH)
        calibrated_QFH = log_QFH + self._correction(away_QFH, total_FH)
        # A forecast without spread has no unit to learn in; an outcome on its quantile is no evidence against it.
        counts_QFH = (total_FH > 0) & np.isfinite(outcome_FH) & (outcome_FH != calibrated_QFH)
        error_QFH = (self._level_Q11 - (outcome_FH < calibrated_QFH)) * counts_QFH
        pull_FH = np.add.reduce(error_QFH * away_QFH, axis=0) / np.where(total_FH > 0, total_FH, 1)
        self._scale_FH = np.clip(self._scale_FH * (1 + self._rate_H * pull_FH), *SCALES)
        self._sum_QFH = np.clip(self._sum_QFH + self._weight_H * error_QFH, -HELD_AT, HELD_AT)

    def _spread(self, log_QFH: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Give distances from the median, and the sum of their sizes over the levels."""
        away_QFH = log_QFH - log_QFH[self._centre]
        total_FH: NDArray[np.float32] = np.add.reduce(np.abs(away_QFH), axis=0)
        return away_QFH, total_FH

    def _correction(self, away_QFH: NDArray[np.float32], total_FH: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far each quantile is to be moved, in logs: the formula of the module, less x."""
        share_QFH = self._sum_QFH / np.float32(LIMIT)
        offset_QFH = self._gain_Q11 * self._sum_QFH / (1 - share_QFH * share_QFH)
        unit_FH = self._scale_FH * total_FH / np.float32(len(self.levels))
        moved_QFH = (self._scale_FH - 1) * away_QFH + unit_FH * offset_QFH
        bounded_QFH: NDArray[np.float32] = np.clip(moved_QFH, -FARTHEST, FARTHEST)
        return bounded_QFH


def _rarity(level: float) -> float:
    """φ(0) / φ(z of the level): 1 at the median, 15 at 0.01."""
    normal = NormalDist()
    return normal.pdf(0) / normal.pdf(normal.inv_cdf(level))


def _bar_at(open_time: int, seen: Seen) -> NDArray[np.float64]:
    """Prices of the bar that opened then, (4,); NaN where it is not among those seen."""
    at = int(np.searchsorted(seen.open_time, open_time))
    if at == len(seen.open_time) or seen.open_time[at] != open_time:
        return np.full(len(FIELDS), np.nan)
    return seen.ohlc_CT[:, at]
