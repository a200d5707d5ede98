"""A joint open/high/low/close forecast as a set of quantiles, and where it came from.

Shapes: F fields (open, high, low, close), H steps, Q quantile levels.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import FIELDS, SeriesKey
from forecaster.errors import InvalidContext, NonFiniteForecast, storable

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

ENGINE_NOISE = 1e-4
"""Largest difference between two engines on one input, as a share of the forecast's spread: no compiled code that
differs by more is served."""
CHRONOS_LEVELS = (0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99)


class ModelId(str):
    """The identity of a model: the name that the configuration gives it, and a digest of what ran.

    Written `name@digest`, as the ledger keeps it. A name may hold `@`; a digest never does.
    """

    __slots__ = ()

    @classmethod
    def of(cls, name: str, digest: str) -> ModelId:
        """Make one; of a digest, 12 characters are enough to tell two models apart."""
        return cls(storable(f"{name}@{digest[:12]}"))

    @property
    def name(self) -> str:
        """What the configuration calls it."""
        return self.rpartition("@")[0]

    @property
    def digest(self) -> str:
        """The first characters of the digest of what ran; of a baseline, the version of its code."""
        return self.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who made a forecast, on what, and how: enough to tell two forecasts apart and to make one again."""

    model_id: str
    revision: str
    weights_sha256: str
    dtype: str
    device: str
    engine: str
    engine_reason: str
    input_sha256: str
    batch_shape: tuple[int, ...]
    library_versions: str
    seconds: float

    @property
    def ledger_id(self) -> ModelId:
        """What the ledger calls this model: its name, and the digest of what ran."""
        return ModelId.of(self.model_id, self.revision)


@dataclass(frozen=True, eq=False)
class OHLCForecast:
    """Quantiles of the next H bars of one series, as seen at `cutoff`.

    Args:
        key: the series.
        cutoff: close of the last bar seen, UTC ms.
        quantile_levels: (Q,) rising, inside (0, 1).
        raw_FHQ: prices as the model gave them.
        values_FHQ: prices after `repair`: rising over levels, low ≤ open, close ≤ high at every level.
        provenance: who made it.
        issued_at: UTC ms at which it was asked for; None until it is recorded.
        available_at: UTC ms from which a reader could have had it; None until it is recorded.
        targets: open times (UTC ms) of the H target bars, as the ledger has them; the calendar's when left out.
        revised: open times (UTC ms) of the bars that it was made from and whose prices have changed since it was
            issued: it was made from wrong ones. `Forecaster.latest` fills it.

    Raises:
        NonFiniteForecast: for NaN or infinity.
        InvalidContext: for shapes or an order that break the rules above.
    """

    key: SeriesKey
    cutoff: int
    quantile_levels: tuple[float, ...]
    raw_FHQ: NDArray[np.float64]
    values_FHQ: NDArray[np.float64]
    provenance: Provenance
    issued_at: int | None = None
    available_at: int | None = None
    targets: tuple[int, ...] = ()
    revised: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes, finiteness and order."""
        object.__setattr__(self, "raw_FHQ", _frozen(self.raw_FHQ))
        object.__setattr__(self, "values_FHQ", _frozen(self.values_FHQ))
        if not _rise(self.quantile_levels):
            raise InvalidContext("quantile_levels", "levels that rise inside (0, 1)", self.quantile_levels)
        expected = (len(FIELDS), *self.raw_FHQ.shape[1:2], len(self.quantile_levels))
        if self.raw_FHQ.shape != expected or self.values_FHQ.shape != expected:
            raise InvalidContext("forecast", f"shape {expected}", f"{self.raw_FHQ.shape} and {self.values_FHQ.shape}")
        if not (np.isfinite(self.raw_FHQ).all() and np.isfinite(self.values_FHQ).all()):
            raise NonFiniteForecast(self.key, self.cutoff)
        if (self.values_FHQ[:, :, 1:] < self.values_FHQ[:, :, :-1]).any():
            raise InvalidContext("forecast", "quantiles that rise with their level", "falling ones")
        _, high_HQ, low_HQ, _ = self.values_FHQ
        if not ((low_HQ <= self.values_FHQ) & (self.values_FHQ <= high_HQ)).all():
            raise InvalidContext("forecast", "low ≤ open, close ≤ high at every level", "fields that cross")

    @property
    def horizon(self) -> int:
        """Number of steps."""
        return int(self.raw_FHQ.shape[1])

    @property
    def is_late(self) -> bool:
        """Whether it was asked for when the first bar that it forecasts had closed."""
        return self.issued_at is not None and self.is_stale(self.issued_at)

    @property
    def engine(self) -> str:
        """`compiled` or `eager` for Chronos-2, `numpy` for a baseline."""
        return self.provenance.engine

    @property
    def repairs(self) -> int:
        """How many of the raw values `repair` had to move."""
        return int((self.raw_FHQ != repair(self.raw_FHQ)).sum())

    @property
    def uncalibrated(self) -> OHLCForecast:
        """The same forecast as the model gave it, before calibration; repaired, as every forecast is."""
        return replace(self, values_FHQ=repair(self.raw_FHQ))

    def quantile(self, field: str, level: float) -> NDArray[np.float64]:
        """Price of `field` at quantile `level`, (H,); linear between the model's own levels.

        Raises:
            InvalidContext: for an unknown field, or a level outside the outermost ones.
        """
        return interpolate(self.values_FHQ[_position(field)], self.quantile_levels, level)

    def quantiles(self, level: float) -> NDArray[np.float64]:
        """Prices of all fields at quantile `level`, (F, H)."""
        return interpolate(self.values_FHQ, self.quantile_levels, level)

    def median(self, field: str = "close") -> NDArray[np.float64]:
        """Give the 0.5 quantile of `field`, (H,)."""
        return self.quantile(field, 0.5)

    def interval(self, coverage: float, field: str = "close") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper price of the central interval that should hold `coverage` of the outcomes, (H,) each."""
        if not 0 <= coverage < 1:
            raise InvalidContext("coverage", "0 or more, below 1", coverage)
        tail = round((1 - coverage) / 2, 12)
        return self.quantile(field, tail), self.quantile(field, round(1 - tail, 12))

    def prob_above(self, level: float, step: int = 1, field: str = "close") -> float:
        """Probability that `field` of step `step` lies above the price `level`.

        Linear between the quantiles. Past the outermost ones the model says nothing, so the answer
        never leaves [1 - last level, 1 - first level].
        """
        values_Q = self.values_FHQ[_position(field), self._row(step)]
        return 1.0 - float(np.interp(level, values_Q, self.quantile_levels))

    def target_time(self, step: int = 1) -> int:
        """Open time (UTC ms) of the bar that `step` stands for."""
        return int(self.target_opens()[self._row(step)])

    def target_opens(self) -> NDArray[np.int64]:
        """Open times (UTC ms) of all target bars, (H,); a calendar that changes later does not change them."""
        return _targets(self.key, self.cutoff, self.horizon, self.targets)[0]

    def age(self, now: int) -> int:
        """Milliseconds from the cutoff to `now` (UTC ms)."""
        return now - self.cutoff

    def is_stale(self, now: int) -> bool:
        """Whether the first target bar has closed by `now` (UTC ms): a newer forecast should exist."""
        return now >= _targets(self.key, self.cutoff, self.horizon, self.targets)[1]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per target bar, indexed by its open time (UTC); columns are (field, level)."""
        import pandas as pd  # noqa: PLC0415 - only who wants a frame pays for pandas

        columns = pd.MultiIndex.from_product([FIELDS, self.quantile_levels], names=["field", "level"])
        index = pd.to_datetime(self.target_opens(), unit="ms", utc=True).rename("target_open")
        return pd.DataFrame(self.values_FHQ.transpose(1, 0, 2).reshape(self.horizon, -1), index=index, columns=columns)

    def _row(self, step: int) -> int:
        if not 1 <= step <= self.horizon:
            raise InvalidContext("step", f"1 to {self.horizon}", step)
        return step - 1


def _frozen(prices: NDArray[np.float64]) -> NDArray[np.float64]:
    """A copy that nobody can change; what nobody can change already, as another forecast's prices, is not copied."""
    is_array = isinstance(prices, np.ndarray) and prices.dtype == np.float64
    if is_array and prices.base is None and not prices.flags.writeable:
        return prices
    copy = np.array(prices, np.float64)
    copy.setflags(write=False)
    return copy


@lru_cache(maxsize=4096)
def _targets(key: SeriesKey, cutoff: int, horizon: int, given: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    """Open times of the target bars, (H,), and the close of the first; all models that forecast a cutoff share them."""
    sessions = key.sessions
    opens_H = np.array(given, np.int64) if given else sessions.next_opens(key.timeframe, cutoff, horizon)
    opens_H.setflags(write=False)
    close = int(sessions.closes_of(key.timeframe, opens_H[:1])[0])
    return opens_H, close if close >= 0 else sessions.next_close(key.timeframe, int(opens_H[0]))


@lru_cache(maxsize=64)
def _rise(levels: tuple[float, ...]) -> bool:
    """Whether levels rise inside (0, 1)."""
    return all(lower < upper for lower, upper in pairwise((0.0, *levels, 1.0)))


def same_forecast(one: OHLCForecast, other: OHLCForecast) -> bool:
    """Whether two forecasts of the same input differ by no more than engines and batches do, in float32."""
    if one.provenance.input_sha256 != other.provenance.input_sha256 or one.raw_FHQ.shape != other.raw_FHQ.shape:
        return False
    spread_F11 = np.ptp(one.raw_FHQ, axis=(1, 2))[:, None, None]
    return bool((np.abs(one.raw_FHQ - other.raw_FHQ) <= ENGINE_NOISE * spread_F11).all())


def interpolate(values_Q: NDArray[np.float64], levels: tuple[float, ...], level: float) -> NDArray[np.float64]:
    """Give the quantile at `level` of values whose last axis is Q, linear between the two levels around it.

    Raises:
        InvalidContext: for a level outside the outermost ones.
    """
    if not levels[0] <= level <= levels[-1]:
        raise InvalidContext("level", f"{levels[0]} to {levels[-1]}", level)
    upper = bisect_left(levels, level)
    below: NDArray[np.float64] = values_Q[..., max(upper - 1, 0)]
    above: NDArray[np.float64] = values_Q[..., upper]
    if levels[upper] == level:
        return above
    weight = (level - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    return (1 - weight) * below + weight * above


def repair(raw_FHQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make quantiles rise with their level and fields agree: low ≤ open, close ≤ high.

    Sorting quantiles never raises the pinball loss (Chernozhukov, Fernández-Val and Galichon, 2010,
    "Quantile and Probability Curves Without Crossing"). Leading axes before F are batch axes.
    """
    values = np.sort(raw_FHQ, axis=-1)
    open_, high, low, close = np.moveaxis(values, -3, 0)
    np.maximum(high, np.maximum(open_, close), out=high)
    np.minimum(low, np.minimum(open_, close), out=low)
    return values


def _position(field: str) -> int:
    if field not in FIELDS:
        raise InvalidContext("field", f"one of {', '.join(FIELDS)}", repr(field))
    return FIELDS.index(field)
