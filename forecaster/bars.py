"""Series, their bars, and the context that a model sees: checked here once, trusted below.

Shapes: T bars, F fields of `Bars` (open, high, low, close, volume), C the four price fields.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from forecaster.calendars import ALWAYS_OPEN, Calendar, Labels, calendar, is_continuous
from forecaster.errors import Ambiguous, BadPayload, InvalidBars, InvalidContext, MissingBars, NotEnoughBars, utc_text
from forecaster.tables import COLUMNS, FIELDS, Reading
from forecaster.tables.fit import hint
from forecaster.tables.placing import place
from forecaster.timeframe import Timeframe

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from forecaster.tables import Rows, ZoneKind

__all__ = [
    "COLUMNS",
    "FIELDS",
    "HIGHEST_PRICE",
    "NO_TIME",
    "Bars",
    "Context",
    "RejectedRow",
    "SeriesKey",
    "Sifted",
    "close_roundings",
]

HIGHEST_PRICE: Final = 1e15
ROUNDING: Final = 1e-9
"""Prices that differ by a smaller part of them are the same price, rounded twice."""
_FEW_REFUSED: Final = 5
_SHARE_REFUSED: Final = 0.05
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
            raise InvalidContext("symbol", "a unified symbol such as BTC/USDT or SPY/USD", repr(self.symbol))

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
        ohlcv_TF: (T, 5) float64; 0 < low ≤ open, close ≤ high < 1e15, volume ≥ 0, or NaN where it is not known.
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
        ohlcv_TF = np.array(self.ohlcv_TF, np.float64)
        ohlcv_TF[np.isnan(ohlcv_TF[:, 4]), 4] = np.nan  # of all its bit patterns the same one: digests take bytes
        _freeze(self, "ohlcv_TF", ohlcv_TF)
        for name in ("first_seen_at", "revision"):
            _freeze(self, name, np.array(np.broadcast_to(getattr(self, name), n), np.int64))
        rules = _broken_rules(self.key, self.open_time, self.ohlcv_TF)
        rules["open times must rise"] = np.diff(self.open_time, prepend=self.open_time[:1] - 1) <= 0
        row, reason = _first_broken(rules)
        if reason:
            raise InvalidBars(
                self.key, f"{reason}: {utc_text(int(self.open_time[row]))} {self.ohlcv_TF[row].tolist()}", row
            )

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
    def of_rows(cls, key: SeriesKey, source: str, rows: Rows, as_of: int | None = None) -> Sifted:
        """Make bars of the rows of a table that had closed by `as_of` (UTC ms), or of all; the others are told apart.

        Raises:
            BadPayload: when the table shows that its rows are not bars of this series.
            InvalidBars: when more than a few rows are refused: then the table was not understood.
        """
        placed = place(source, key.timeframe, key.calendar, rows, as_of)
        values_TF, rounded = close_roundings(placed.ohlcv_TF)
        other = placed.reasons != ""
        bars, broken = cls.sift(key, placed.opens[~other], values_TF[~other], as_of or 0)
        _check_refused(key, len(bars), broken, placed.opens[~other], rows.zone)
        rejected = [
            *broken,
            *(
                RejectedRow(int(placed.opens[i]), tuple(values_TF[i].tolist()), str(placed.reasons[i]))
                for i in np.flatnonzero(other)
            ),
            *(RejectedRow(NO_TIME, (float("nan"),) * len(COLUMNS), reason, text) for text, reason in rows.refused),
        ]
        if other.any() and other.all():
            raise InvalidBars.refused(key, Counter(map(str, placed.reasons)), len(other))
        if rounded:
            placed.notes.append(f"high or low is moved by a rounding to open or close in {rounded} rows")
        replaced = len(placed.opens) - len(bars) - len(broken) - int(other.sum())
        return Sifted(bars, rejected, replaced, placed.later, tuple(placed.notes), rows.understood, placed.ahead)

    @classmethod
    def from_frame(cls, key: SeriesKey, frame: pd.DataFrame, reading: Reading | None = None) -> Bars:
        """Read a pandas frame, as a file of the same columns would be read: see `docs/bars.md`.

        Times are a column or the index; without a zone they are UTC. What they stand for, `SeriesKey.opens_of` says.
        Of two rows for one time the later one stands; rows without prices are left out. `reading` says what the frame
        leaves open.

        Raises:
            InvalidContext: for a frame that cannot be understood, or leaves open how it is to be read.
            InvalidBars: for a row that breaks a rule.
            UnknownSymbol: for a frame of other symbols.
        """
        from forecaster.tables.frames import frame_table  # noqa: PLC0415 - the caller has a frame, so pandas is there
        from forecaster.tables.reading import read_table, rows_of  # noqa: PLC0415 - the same

        source, reading = "frame", reading or Reading()
        try:
            table = frame_table(frame, source)
            sifted = cls.of_rows(key, source, rows_of(source, read_table(table, reading), key.symbol, reading))
        except Ambiguous as error:
            expected = f"`{error.option}` of Reading to be given ({error.example})"
            raise InvalidContext(source, expected, error.found) from error
        except BadPayload as error:
            raise InvalidContext(source, error.expected, error.found) from error
        for row in sifted.rejected:
            if row.open_time != NO_TIME and np.isnan(row.values[:4]).all():  # noqa: PD011 - no frame; nobody traded
                continue
            raise InvalidBars(key, f"{row.reason}: {row.body or utc_text(row.open_time)} {list(row.values)}")
        return sifted.bars

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
            InvalidContext: for a length below 1, or one that is no whole number.
            MissingBars: when no bar closes at `cutoff`, or it is not among `bars`.
            NotEnoughBars: when fewer than `min_bars` real bars fall into those slots.
        """
        _check_length(length)
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


def _check_length(length: object) -> None:
    """Refuse what is no count of slots."""
    if isinstance(length, bool) or not isinstance(length, Integral) or length < 1:
        raise InvalidContext("length", "a whole number, 1 or more", f"{length!r:.100}")


def close_roundings(ohlcv_TF: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Raise high to open and close, and lower low to them, where they are apart by a rounding; gives how many rows.

    Adjusted prices are rounded one by one: a close may be above its high by the last bit of a float. A row that would
    be no bar all the same, since another of its prices is further off, stays as it is. The array itself is not changed.
    """
    open_, high, low, close = ohlcv_TF[:, :4].T
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    with np.errstate(invalid="ignore", over="ignore"):
        high_ok = (high >= top) | (top - high < ROUNDING * top)
        low_ok = (low <= bottom) | (low - bottom < ROUNDING * bottom)
    rows = high_ok & low_ok & ((high < top) | (low > bottom))
    if not rows.any():
        return ohlcv_TF, 0
    closed_TF = ohlcv_TF.copy()
    closed_TF[rows, 1] = np.maximum(high, top)[rows]
    closed_TF[rows, 2] = np.minimum(low, bottom)[rows]
    return closed_TF, int(rows.sum())


@dataclass(frozen=True)
class Sifted:
    """What came of the rows of one series.

    Args:
        bars: those that are bars.
        rejected: the others, with their reasons.
        replaced: how many rows a later one for the same time replaced.
        later: how many had not closed yet.
        notes: what should be known of them, for people.
        understood: how they were read, for people.
        ahead: at how many times rows open that were still to come.
    """

    bars: Bars
    rejected: list[RejectedRow]
    replaced: int
    later: int
    notes: tuple[str, ...]
    understood: Mapping[str, str]
    ahead: int = 0


def _check_refused(
    key: SeriesKey, bars: int, refused: list[RejectedRow], opens: NDArray[np.int64], zone: ZoneKind
) -> None:
    """Refuse rows of which so many are no bars that they were not understood; rows without any price do not count.

    Raises:
        InvalidBars: with the commonest reason, how often, and what may mend it.
    """
    counted = [row for row in refused if np.nansum(np.abs(row.values[:4])) > 0]  # noqa: PD011 - no frame
    total = len(opens) - len(refused) + len(counted)
    off = key.sessions.closes_of(key.timeframe, opens) < 0
    # Sessions are known to the day: a stock's bars on holidays of its exchange are another exchange's.
    is_elsewhere = key.timeframe.is_daily and not is_continuous(key.calendar) and off.sum() > max(2, 0.01 * total)
    if len(counted) <= max(_FEW_REFUSED, _SHARE_REFUSED * total) and (bars or not refused) and not is_elsewhere:
        return
    reasons = Counter(row.reason for row in counted or refused)
    commonest = reasons.most_common(1)[0][0]
    if commonest.startswith("open time"):
        found = hint(key.timeframe, key.calendar, opens, off, zone)
    else:
        found = "is each column what it is taken for? `columns` (--columns) says which is which"
    raise InvalidBars.refused(key, reasons, max(total, len(refused)), found)


def _freeze(bars: Bars, name: str, values: NDArray[Any]) -> None:
    values.setflags(write=False)
    object.__setattr__(bars, name, values)


def _broken_rules(
    key: SeriesKey, open_time: NDArray[np.int64], ohlcv_TF: NDArray[np.float64]
) -> dict[str, NDArray[np.bool_]]:
    """Each rule of a single bar, with the rows that break it."""
    open_, high, low, close, volume = ohlcv_TF.T
    return {
        "every value must be finite": ~np.isfinite(ohlcv_TF[:, :4]).all(axis=1) | np.isinf(volume),
        "prices must be above 0": ~(low > 0),
        f"prices must be below {HIGHEST_PRICE:g}": ~(high < HIGHEST_PRICE),
        "low must not be above open or close": ~(low <= np.minimum(open_, close)),
        "high must not be below open or close": ~(high >= np.maximum(open_, close)),
        "volume must not be negative": volume < 0,
        f"open time must be on the {key.timeframe} grid of {key.calendar}": (
            key.sessions.closes_of(key.timeframe, open_time) < 0
        ),
    }


def _first_broken(rules: dict[str, NDArray[np.bool_]]) -> tuple[int, str]:
    """Row and reason of the first broken rule, by row; (-1, "") when none is."""
    hits = [(int(np.argmax(rows)), reason) for reason, rows in rules.items() if rows.any()]
    return min(hits, key=lambda hit: hit[0], default=(-1, ""))
