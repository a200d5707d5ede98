"""A joint open/high/low/close forecast as a set of quantiles, and its provenance.

Shapes: F fields (open, high, low, close), H steps, Q quantile levels.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import FIELDS, SeriesKey
from forecaster.errors import InvalidArgument, NonFiniteForecast, format_time, storable

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

ENGINE_NOISE = 1e-4
"""Largest accepted difference between two engines on one input, as a fraction of the forecast's spread."""
CHRONOS_LEVELS = (0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99)


class ModelId(str):
    """The identity of a model: its name in the configuration, and a digest of what ran.

    Written `name@digest`, as stored in the ledger. A name may contain `@`; a digest never does.
    """

    __slots__ = ()

    @classmethod
    def of(cls, name: str, digest: str) -> ModelId:
        """Build an identity from a name and the first 12 characters of a digest."""
        return cls(storable(f"{name}@{digest[:12]}"))

    @property
    def name(self) -> str:
        """The name in the configuration."""
        return self.rpartition("@")[0]

    @property
    def digest(self) -> str:
        """The first characters of the digest of what ran. For a baseline: the version of its code."""
        return self.rpartition("@")[2]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which model, input and engine produced a forecast: enough to reproduce it."""

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
        """The identity of this model in the ledger."""
        return ModelId.of(self.model_id, self.revision)


@dataclass(frozen=True, eq=False, repr=False)
class OHLCForecast:
    """Quantiles of the next H bars of one series, as seen at `cutoff`.

    `forecast.close` (and `.open`, `.high`, `.low`) is a view of one field.

    Args:
        key: the series.
        cutoff: close of the last bar seen, UTC ms.
        quantile_levels: (Q,) increasing, inside (0, 1).
        raw_FHQ: prices as predicted by the model.
        values_FHQ: prices after `repair`: increasing over levels, low ≤ open, close ≤ high at every level.
        provenance: which model made it, from which input.
        issued_at: UTC ms at which the model was called; None until the forecast is recorded.
        available_at: UTC ms from which a reader could have had it; None until it is recorded.
        targets: open times (UTC ms) of the H target bars, as stored in the ledger; from the calendar when left out.
        revised: open times (UTC ms) of input bars whose prices were revised after `issued_at`. Filled by
            `LedgerClient.latest`.
        last_close: close of the last bar seen; None where it is not known.

    Raises:
        NonFiniteForecast: for NaN or infinity.
        InvalidArgument: for shapes or an order that break the rules above.
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
    last_close: float | None = None

    def __post_init__(self) -> None:
        """Check shapes, finiteness and order."""
        object.__setattr__(self, "raw_FHQ", _frozen(self.raw_FHQ))
        object.__setattr__(self, "values_FHQ", _frozen(self.values_FHQ))
        if not _increase(self.quantile_levels):
            raise InvalidArgument("quantile_levels", "levels that increase inside (0, 1)", self.quantile_levels)
        expected = (len(FIELDS), *self.raw_FHQ.shape[1:2], len(self.quantile_levels))
        if self.raw_FHQ.shape != expected or self.values_FHQ.shape != expected:
            raise InvalidArgument("forecast", f"shape {expected}", f"{self.raw_FHQ.shape} and {self.values_FHQ.shape}")
        if not (np.isfinite(self.raw_FHQ).all() and np.isfinite(self.values_FHQ).all()):
            raise NonFiniteForecast(self.key, self.cutoff)
        if (self.values_FHQ[:, :, 1:] < self.values_FHQ[:, :, :-1]).any():
            raise InvalidArgument("forecast", "quantiles that increase with their level", "decreasing ones")
        _, high_HQ, low_HQ, _ = self.values_FHQ
        if not ((low_HQ <= self.values_FHQ) & (self.values_FHQ <= high_HQ)).all():
            raise InvalidArgument("forecast", "low ≤ open, close ≤ high at every level", "fields that cross")

    def __repr__(self) -> str:
        """One line: series, cutoff, horizon, and the close of the first step."""
        text = f"<OHLCForecast {self.key} at {format_time(self.cutoff)}: {self.horizon} steps, close"
        levels = self.quantile_levels
        if levels[0] <= 0.1 and levels[-1] >= 0.9:  # noqa: PLR2004 - the 80 % interval
            lower, median, upper = (self.quantile(level)[0] for level in (0.1, 0.5, 0.9))
            return f"{text} {median:.6g} (80 % {lower:.6g} to {upper:.6g}) at {format_time(self.target_time())}>"
        return f"{text} at {format_time(self.target_time())}>"

    def _repr_html_(self) -> str:
        """Return a small chart of the close for notebooks: median, 50 % and 80 % interval per step, as SVG."""
        from forecaster.forecast_chart import svg  # noqa: PLC0415 - notebooks only

        return svg(self)

    @property
    def horizon(self) -> int:
        """Number of steps."""
        return int(self.raw_FHQ.shape[1])

    @property
    def is_late(self) -> bool:
        """Whether it was issued after its first target bar had closed."""
        return self.issued_at is not None and self.is_stale(self.issued_at)

    @property
    def engine(self) -> str:
        """`compiled` or `eager` for Chronos-2, `numpy` for a baseline."""
        return self.provenance.engine

    @property
    def repairs(self) -> int:
        """Number of raw values that `repair` changed."""
        return int((self.raw_FHQ != repair(self.raw_FHQ)).sum())

    @property
    def uncalibrated(self) -> OHLCForecast:
        """The forecast before calibration, repaired."""
        return replace(self, values_FHQ=repair(self.raw_FHQ))

    @property
    def open(self) -> FieldForecast:
        """The forecast of the open."""
        return FieldForecast(self, "open")

    @property
    def high(self) -> FieldForecast:
        """The forecast of the high."""
        return FieldForecast(self, "high")

    @property
    def low(self) -> FieldForecast:
        """The forecast of the low."""
        return FieldForecast(self, "low")

    @property
    def close(self) -> FieldForecast:
        """The forecast of the close."""
        return FieldForecast(self, "close")

    def quantile(self, level: float, field: str = "close") -> NDArray[np.float64]:
        """Return the price of `field` at quantile `level`, (H,); linear between the model's levels.

        Raises:
            InvalidArgument: for an unknown field, or a level outside the outermost ones.
        """
        return interpolate(self.values_FHQ[_position(field)], self.quantile_levels, level)

    def quantiles(self, level: float) -> NDArray[np.float64]:
        """Return the prices of all fields at quantile `level`, (F, H)."""
        return interpolate(self.values_FHQ, self.quantile_levels, level)

    def median(self, field: str = "close") -> NDArray[np.float64]:
        """Return the 0.5 quantile of `field`, (H,)."""
        return self.quantile(0.5, field)

    def interval(self, coverage: float, field: str = "close") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and upper price of the central interval with this `coverage`, (H,) each."""
        if not 0 <= coverage < 1:
            raise InvalidArgument("coverage", "0 or more, below 1", coverage)
        tail = round((1 - coverage) / 2, 12)
        return self.quantile(tail, field), self.quantile(round(1 - tail, 12), field)

    def prob_above(self, price: float, field: str = "close", step: int = 1) -> float:
        """Return the probability that `field` of step `step` is strictly above `price`.

        Linear between the quantiles. Where several levels share one price, their probability lies on that price, not
        above it. Beyond the outermost quantiles the distribution is unknown: the result stays within
        [1 - last level, 1 - first level].

        Raises:
            InvalidArgument: for a price that is no number, an unknown field, or a step outside the horizon.
        """
        if math.isnan(price):
            raise InvalidArgument("price", "a number", price)
        values_Q, levels = self.values_FHQ[_position(field), self._row(step)], self.quantile_levels
        upper = int(np.searchsorted(values_Q, price, side="right"))
        if upper in (0, len(levels)):
            return 1.0 - levels[max(upper - 1, 0)]
        below, above = values_Q[upper - 1], values_Q[upper]
        slope = (levels[upper] - levels[upper - 1]) / (above - below)
        return 1.0 - float(slope * (price - below) + levels[upper - 1])

    def target_time(self, step: int = 1) -> int:
        """Return the open time (UTC ms) of the target bar of `step`."""
        return int(self.target_opens()[self._row(step)])

    def target_opens(self) -> NDArray[np.int64]:
        """Return the open times (UTC ms) of all target bars, (H,)."""
        return _targets(self.key, self.cutoff, self.horizon, self.targets)[0]

    def age(self, now: int) -> int:
        """Return the milliseconds from the cutoff to `now` (UTC ms)."""
        return now - self.cutoff

    def is_stale(self, now: int) -> bool:
        """Return whether the first target bar has closed by `now` (UTC ms): a newer forecast should exist."""
        return now >= _targets(self.key, self.cutoff, self.horizon, self.targets)[1]

    @property
    def frame(self) -> pd.DataFrame:
        """One row per target bar, indexed by its open time (UTC); columns are (field, level)."""
        import pandas as pd  # noqa: PLC0415 - keep `import forecaster` light

        columns = pd.MultiIndex.from_product([FIELDS, self.quantile_levels], names=["field", "level"])
        index = pd.to_datetime(self.target_opens(), unit="ms", utc=True).rename("target_open")
        return pd.DataFrame(self.values_FHQ.transpose(1, 0, 2).reshape(self.horizon, -1), index=index, columns=columns)

    def _row(self, step: int) -> int:
        if not 1 <= step <= self.horizon:
            raise InvalidArgument("step", f"1 to {self.horizon}", step)
        return step - 1


@dataclass(frozen=True)
class FieldForecast:
    """One field of a forecast, such as `forecast.close`.

    Args:
        forecast: the whole forecast.
        field: open, high, low or close.
    """

    forecast: OHLCForecast
    field: str

    @property
    def median(self) -> NDArray[np.float64]:
        """The 0.5 quantile, (H,)."""
        return self.forecast.median(self.field)

    def quantile(self, level: float) -> NDArray[np.float64]:
        """Return the price at quantile `level`, (H,). See `OHLCForecast.quantile`."""
        return self.forecast.quantile(level, self.field)

    def interval(self, coverage: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bounds of the central interval, (H,) each. See `OHLCForecast.interval`."""
        return self.forecast.interval(coverage, self.field)

    def prob_above(self, price: float, step: int = 1) -> float:
        """Return the probability of a value above `price`. See `OHLCForecast.prob_above`."""
        return self.forecast.prob_above(price, self.field, step)


def _frozen(prices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a read-only copy; an array that is read-only already is not copied."""
    is_array = isinstance(prices, np.ndarray) and prices.dtype == np.float64
    if is_array and prices.base is None and not prices.flags.writeable:
        return prices
    copy = np.array(prices, np.float64)
    copy.setflags(write=False)
    return copy


@lru_cache(maxsize=4096)
def _targets(key: SeriesKey, cutoff: int, horizon: int, given: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    """Return the open times of the target bars, (H,), and the close of the first; cached for all models of a cutoff."""
    sessions = key.trading_calendar
    opens_H = np.array(given, np.int64) if given else sessions.next_opens(key.timeframe, cutoff, horizon)
    opens_H.setflags(write=False)
    close = int(sessions.closes_of(key.timeframe, opens_H[:1])[0])
    return opens_H, close if close >= 0 else sessions.next_close(key.timeframe, int(opens_H[0]))


@lru_cache(maxsize=64)
def _increase(levels: tuple[float, ...]) -> bool:
    """Return whether levels increase inside (0, 1)."""
    return all(lower < upper for lower, upper in pairwise((0.0, *levels, 1.0)))


def same_forecast(first: OHLCForecast, second: OHLCForecast) -> bool:
    """Return whether two forecasts of the same input differ by float32 noise alone (engine, batch)."""
    if first.provenance.input_sha256 != second.provenance.input_sha256 or first.raw_FHQ.shape != second.raw_FHQ.shape:
        return False
    spread_F11 = np.ptp(first.raw_FHQ, axis=(1, 2))[:, None, None]
    return bool((np.abs(first.raw_FHQ - second.raw_FHQ) <= ENGINE_NOISE * spread_F11).all())


def interpolate(values_Q: NDArray[np.float64], levels: tuple[float, ...], level: float) -> NDArray[np.float64]:
    """Return the quantile at `level` of values whose last axis is Q, linear between the two neighbouring levels.

    Raises:
        InvalidArgument: for a level outside the outermost ones.
    """
    if not levels[0] <= level <= levels[-1]:
        raise InvalidArgument("level", f"{levels[0]} to {levels[-1]}", level)
    upper = bisect_left(levels, level)
    below: NDArray[np.float64] = values_Q[..., max(upper - 1, 0)]
    above: NDArray[np.float64] = values_Q[..., upper]
    if levels[upper] == level:
        return above
    weight = (level - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    return (1 - weight) * below + weight * above


def repair(raw_FHQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make quantiles increase with their level and fields consistent: low ≤ open, close ≤ high.

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
        raise InvalidArgument("field", f"one of {', '.join(FIELDS)}", repr(field))
    return FIELDS.index(field)
