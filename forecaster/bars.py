"""Series, their bars, and the context that a model sees: checked here once, trusted below.

Shapes: T bars, F fields of `Bars` (open, high, low, close, volume), C the four price fields.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from forecaster.errors import InvalidBars, InvalidContext, MissingBars, NotEnoughBars
from forecaster.sessions import ALWAYS_OPEN, Calendar, Labels, calendar
from forecaster.timeframe import Timeframe

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

FIELDS: Final = ("open", "high", "low", "close")
COLUMNS: Final = (*FIELDS, "volume")
HIGHEST_PRICE: Final = 1e15
NO_TIME: Final = -1
"""The open time of a rejected row that has no usable one."""

_UNIFIED_SYMBOL: Final = re.compile(r"[^\s/:]+/[^\s/:]+(:[^\s/:]+)?")


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """One series: an exchange, a ccxt unified symbol, a timeframe, and the calendar its bars live on.

    Raises:
        InvalidContext: for a symbol that is not unified, such as `BTCUSDT`.
        ConfigError: for an unknown timeframe.
    """

    exchange: str
    symbol: str
    timeframe: Timeframe
    calendar: str = ALWAYS_OPEN

    def __post_init__(self) -> None:
        """Check the symbol."""
        if not _UNIFIED_SYMBOL.fullmatch(self.symbol):
            raise InvalidContext("symbol", "a unified symbol such as BTC/USDT or BTC/USDT:USDT", repr(self.symbol))

    @classmethod
    def of(cls, exchange: str, symbol: str, timeframe: str, calendar: str = ALWAYS_OPEN) -> SeriesKey:
        """Make a key from names alone."""
        return cls(exchange, symbol, Timeframe(timeframe), calendar)

    @property
    def sessions(self) -> Calendar:
        """The calendar itself."""
        return calendar(self.calendar)

    def opens_of(self, times: pd.DatetimeIndex) -> NDArray[np.int64]:
        """Open times (UTC ms) of the bars that a frame labels so; what stands for no bar is not on the grid.

        Times without a zone are UTC. On the calendar of an exchange, the session of a daily bar is that of the date
        which is written, in whatever zone (`Calendar.opens_of_labels`).
        """
        return self.sessions.opens_of_labels(self.timeframe, Labels.of(times))

    def __str__(self) -> str:
        """Name the series as people do: `kraken BTC/USD 1h`."""
        return f"{self.exchange} {self.symbol} {self.timeframe}"


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that is not a bar: where it stood, what it held, why it was refused, and the text it was made of."""

    open_time: int
    values: tuple[float, ...]
    reason: str
    body: str = ""


@dataclass(frozen=True, eq=False)
class Bars:
    """Final bars of one series, oldest first.

    Args:
        key: the series.
        open_time: (T,) int64 UTC ms, rising, each on the calendar's grid.
        ohlcv_TF: (T, 5) float64; 0 < low ≤ open, close ≤ high < 1e15, volume ≥ 0.
        first_seen_at: UTC ms at which these bars became known: one for all, or (T,).
        revision: 0 for a bar's first version, one more for each change: one for all, or (T,).

    Raises:
        InvalidBars: names the first row that breaks a rule. `Bars.sift` keeps the others.
    """

    key: SeriesKey
    open_time: NDArray[np.int64]
    ohlcv_TF: NDArray[np.float64]
    first_seen_at: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    revision: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def __post_init__(self) -> None:
        """Freeze the arrays and check every row."""
        n = len(self.open_time)
        _freeze(self, "open_time", np.array(self.open_time, np.int64))
        if np.shape(self.ohlcv_TF) != (n, len(COLUMNS)):
            raise InvalidContext(f"bars of {self.key}", f"ohlcv of shape {(n, len(COLUMNS))}", np.shape(self.ohlcv_TF))
        _freeze(self, "ohlcv_TF", np.array(self.ohlcv_TF, np.float64))
        for name in ("first_seen_at", "revision"):
            _freeze(self, name, np.array(np.broadcast_to(getattr(self, name), n), np.int64))
        rules = _broken_rules(self.key, self.open_time, self.ohlcv_TF)
        rules["open times must rise"] = np.diff(self.open_time, prepend=self.open_time[:1] - 1) <= 0
        row, reason = _first_broken(rules)
        if reason:
            raise InvalidBars(self.key, row, f"{reason}: {self.open_time[row]} {self.ohlcv_TF[row].tolist()}")

    @classmethod
    def sift(
        cls, key: SeriesKey, open_time: ArrayLike, ohlcv_TF: ArrayLike, first_seen_at: int = 0
    ) -> tuple[Bars, list[RejectedRow]]:
        """Keep the rows that are bars, in order and once each; return the others with their reasons.

        Of two rows with the same open time the later one stands, unless it is broken.
        """
        times = np.asarray(open_time, np.int64).reshape(-1)
        values = np.asarray(ohlcv_TF, np.float64).reshape(len(times), len(COLUMNS))
        rules = _broken_rules(key, times, values)
        broken = np.any(list(rules.values()), axis=0)
        rejected = [
            RejectedRow(int(times[i]), tuple(values[i].tolist()), next(r for r, hit in rules.items() if hit[i]))
            for i in np.flatnonzero(broken)
        ]
        good = np.flatnonzero(~broken)
        _, newest = np.unique(times[good][::-1], return_index=True)
        kept = good[::-1][newest]
        return cls(key, times[kept], values[kept], np.full(1, first_seen_at)), rejected

    @classmethod
    def empty(cls, key: SeriesKey) -> Bars:
        """No bars yet."""
        return cls(key, np.empty(0, np.int64), np.empty((0, len(COLUMNS))))

    @classmethod
    def from_frame(cls, key: SeriesKey, frame: pd.DataFrame) -> Bars:
        """Read a pandas frame: the columns open, high, low, close, optionally volume, indexed by open time.

        What its times stand for, `SeriesKey.opens_of` says.

        Raises:
            InvalidContext: for missing columns or an index without times.
            InvalidBars: for a row that breaks a rule.
        """
        missing = [name for name in FIELDS if name not in frame.columns]
        if missing:
            raise InvalidContext("frame", f"columns {', '.join(FIELDS)}", f"{list(frame.columns)}")
        import pandas as pd  # noqa: PLC0415 - the caller has a frame, so pandas is there

        if not isinstance(frame.index, pd.DatetimeIndex):
            raise InvalidContext("frame", "an index of open times", type(frame.index).__name__)
        try:
            ohlcv = frame.reindex(columns=list(COLUMNS)).to_numpy(np.float64, copy=True)
        except ValueError as error:
            raise InvalidContext("frame", "numbers in every price column", error) from error
        if "volume" not in frame.columns:
            ohlcv[:, 4] = 0.0
        return cls(key, key.opens_of(frame.index), ohlcv)

    @cached_property
    def close_time(self) -> NDArray[np.int64]:
        """(T,) UTC ms."""
        return self.key.sessions.closes_of(self.key.timeframe, self.open_time)

    @property
    def close(self) -> NDArray[np.float64]:
        """(T,) closing prices."""
        return self.ohlcv_TF[:, 3]

    @property
    def frame(self) -> pd.DataFrame:
        """The columns open, high, low, close, volume, indexed by open time (UTC)."""
        import pandas as pd  # noqa: PLC0415 - only who wants a frame pays for pandas

        index = pd.to_datetime(self.open_time, unit="ms", utc=True).rename("open_time")
        return pd.DataFrame(self.ohlcv_TF, index=index, columns=list(COLUMNS))

    def __len__(self) -> int:
        """Count the bars."""
        return len(self.open_time)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Bars:
        """Take some of the bars, by slice, mask or positions."""
        return Bars(self.key, self.open_time[rows], self.ohlcv_TF[rows], self.first_seen_at[rows], self.revision[rows])

    def known_at(self, as_of: int) -> Bars:
        """Give the bars that had closed at `as_of`."""
        return self[: int(np.searchsorted(self.close_time, as_of, side="right"))]


@dataclass(frozen=True, eq=False)
class Context:
    """What a model sees of one series: the last T slots of the calendar's grid up to `cutoff`.

    `ohlc_CT` is (4, T) float64, open, high, low, close; a slot without a bar is NaN, never filled.
    """

    key: SeriesKey
    cutoff: int
    ohlc_CT: NDArray[np.float64]

    @classmethod
    def ending_at(cls, bars: Bars, cutoff: int, length: int, min_bars: int) -> Context:
        """Cut the context of up to `length` slots that ends with the bar which closed at `cutoff`.

        Raises:
            MissingBars: when no bar closes at `cutoff`, or it is not among `bars`.
            NotEnoughBars: when fewer than `min_bars` real bars fall into those slots.
        """
        slots = bars.key.sessions.last_opens(bars.key.timeframe, cutoff, length)
        last = int(np.searchsorted(bars.close_time, cutoff, side="right"))
        if not len(slots) or not last or bars.close_time[last - 1] != cutoff:
            raise MissingBars(bars.key, cutoff, int(bars.close_time[last - 1]) if last else None)
        first = int(np.searchsorted(bars.open_time, slots[0]))
        if last - first < min_bars:
            raise NotEnoughBars(bars.key, min_bars, last - first)
        ohlc_CT = np.full((len(FIELDS), len(slots)), np.nan)
        at = np.searchsorted(slots, bars.open_time[first:last])
        ohlc_CT[:, at] = bars.ohlcv_TF[first:last, : len(FIELDS)].T
        ohlc_CT = ohlc_CT[:, at[0] :]
        ohlc_CT.setflags(write=False)
        return cls(bars.key, cutoff, ohlc_CT)

    @property
    def last_close(self) -> float:
        """Close of the bar that ends at the cutoff."""
        return float(self.ohlc_CT[3, -1])

    @property
    def open_time(self) -> NDArray[np.int64]:
        """(T,) open times of the slots, UTC ms."""
        return self.key.sessions.last_opens(self.key.timeframe, self.cutoff, self.ohlc_CT.shape[1])

    @property
    def missing_share(self) -> float:
        """Share of slots without a bar, 0 to 1."""
        return float(np.isnan(self.ohlc_CT[3]).mean())

    @cached_property
    def sha256(self) -> str:
        """Digest of series, cutoff and every price bit: equal digests saw equal inputs."""
        head = f"{self.key}|{self.key.calendar}|{self.cutoff}|".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.ohlc_CT).tobytes()).hexdigest()

    def target_opens(self, horizon: int) -> NDArray[np.int64]:
        """Open times of the bars that steps 1 to `horizon` stand for, (H,)."""
        return self.key.sessions.next_opens(self.key.timeframe, self.cutoff, horizon)


def _freeze(bars: Bars, name: str, values: NDArray[Any]) -> None:
    values.setflags(write=False)
    object.__setattr__(bars, name, values)


def _broken_rules(
    key: SeriesKey, open_time: NDArray[np.int64], ohlcv_TF: NDArray[np.float64]
) -> dict[str, NDArray[np.bool_]]:
    """Each rule of a single bar, with the rows that break it."""
    open_, high, low, close, volume = ohlcv_TF.T
    return {
        "every value must be finite": ~np.isfinite(ohlcv_TF).all(axis=1),
        "prices must be above 0": ~(low > 0),
        f"prices must be below {HIGHEST_PRICE:g}": ~(high < HIGHEST_PRICE),
        "low must not be above open or close": ~(low <= np.minimum(open_, close)),
        "high must not be below open or close": ~(high >= np.maximum(open_, close)),
        "volume must not be negative": ~(volume >= 0),
        f"open time must be on the {key.timeframe} grid of {key.calendar}": (
            key.sessions.closes_of(key.timeframe, open_time) < 0
        ),
    }


def _first_broken(rules: dict[str, NDArray[np.bool_]]) -> tuple[int, str]:
    """Row and reason of the first broken rule, by row; (-1, "") when none is."""
    hits = [(int(np.argmax(rows)), reason) for reason, rows in rules.items() if rows.any()]
    return min(hits, key=lambda hit: hit[0], default=(-1, ""))
