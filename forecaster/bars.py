"""Series and their final bars. Bars are checked here once, and trusted everywhere else.

Shapes: T bars, F the columns of `Bars`: open, high, low, close, volume.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from forecaster.calendars import ALWAYS_OPEN, Calendar, get_calendar, is_continuous
from forecaster.errors import (
    Ambiguous,
    BadPayload,
    ConfigError,
    InvalidArgument,
    InvalidBars,
    format_time,
)
from forecaster.tables import COLUMNS, FIELDS, ParseOptions
from forecaster.tables.alignment import align_rows
from forecaster.tables.calendar_fit import off_grid_hint
from forecaster.timeframe import Timeframe
from forecaster.zones import Labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from forecaster.tables import Rows, ZoneSource

__all__ = [
    "COLUMNS",
    "FIELDS",
    "MAX_PRICE",
    "NO_TIME",
    "Bars",
    "RejectedRow",
    "SeriesKey",
    "ValidatedRows",
    "fix_rounding",
]

MAX_PRICE: Final = 1e15
ROUNDING_TOLERANCE: Final = 1e-9
"""Relative difference below which two prices are one price, rounded twice."""

_MAX_REJECTED: Final = 5
_MAX_REJECTED_FRACTION: Final = 0.05
NO_TIME: Final = -1
"""Open time of a rejected row without a usable one."""

_UNIFIED_SYMBOL: Final = re.compile(r"[^\s/:]+/[^\s/:]+(:[^\s/:]+)?")


@dataclass(frozen=True, slots=True, init=False)
class SeriesKey:
    """One series: exchange, ccxt unified symbol, timeframe and trading calendar.

    Args:
        exchange: its name in the configuration.
        symbol: a ccxt unified symbol, such as `BTC/USDT`.
        timeframe: a `Timeframe` or its name, such as `1h`.
        calendar: `24/7`, also with an anchor, or a code of exchange_calendars.

    Raises:
        InvalidArgument: for a symbol that is not unified, such as `BTCUSDT`, or an unknown timeframe.
    """

    exchange: str
    symbol: str
    timeframe: Timeframe
    calendar: str = ALWAYS_OPEN

    def __init__(self, exchange: str, symbol: str, timeframe: Timeframe | str, calendar: str = ALWAYS_OPEN) -> None:
        if not _UNIFIED_SYMBOL.fullmatch(symbol):
            raise InvalidArgument("symbol", "a unified symbol such as BTC/USDT or SPY/USD", repr(symbol))
        try:
            timeframe = timeframe if isinstance(timeframe, Timeframe) else Timeframe(timeframe)
        except ConfigError as error:
            raise InvalidArgument("timeframe", error.expected, repr(error.found)) from error
        for name, value in (
            ("exchange", exchange),
            ("symbol", symbol),
            ("timeframe", timeframe),
            ("calendar", calendar),
        ):
            object.__setattr__(self, name, value)

    @property
    def trading_calendar(self) -> Calendar:
        """The calendar object that `calendar` names."""
        return get_calendar(self.calendar)

    def opens_of(self, times: pd.DatetimeIndex) -> NDArray[np.int64]:
        """Return the open times (UTC ms) of bars labelled so; a label of no bar gets a time off the grid.

        Times without a zone are UTC. On an exchange calendar, a daily label is the session of its written date, in
        any zone (`Calendar.opens_of_labels`).
        """
        return self.trading_calendar.opens_of_labels(self.timeframe, Labels.from_index(times))

    def __str__(self) -> str:
        """Return exchange, symbol and timeframe: `kraken BTC/USD 1h`."""
        return f"{self.exchange} {self.symbol} {self.timeframe}"


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that is not a bar: its open time, values, the reason, and the raw text."""

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
        ohlcv_TF: (T, 5) float64; 0 < low ≤ open, close ≤ high < 1e15; volume ≥ 0, or NaN where unknown.
        first_seen_at: UTC ms at which the bars became known: one for all, or (T,).
        revision: 0 for the first version of a bar, 1 for the next: one for all, or (T,).

    Raises:
        InvalidBars: names the first invalid row. `Bars.validate_rows` keeps the valid ones.
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
            raise InvalidArgument(f"bars of {self.key}", f"ohlcv of shape {(n, len(COLUMNS))}", np.shape(self.ohlcv_TF))
        ohlcv_TF = np.array(self.ohlcv_TF, np.float64)
        ohlcv_TF[np.isnan(ohlcv_TF[:, 4]), 4] = np.nan  # one bit pattern of NaN: digests read bytes
        _freeze(self, "ohlcv_TF", ohlcv_TF)
        for name in ("first_seen_at", "revision"):
            _freeze(self, name, np.array(np.broadcast_to(getattr(self, name), n), np.int64))
        violations = _violations(self.key, self.open_time, self.ohlcv_TF)
        violations["open times must rise"] = np.diff(self.open_time, prepend=self.open_time[:1] - 1) <= 0
        row, reason = _first_violation(violations)
        if reason:
            raise InvalidBars(
                self.key, f"{reason}: {format_time(int(self.open_time[row]))} {self.ohlcv_TF[row].tolist()}", row
            )

    @classmethod
    def validate_rows(
        cls, key: SeriesKey, open_time: ArrayLike, ohlcv_TF: ArrayLike, first_seen_at: int = 0
    ) -> tuple[Bars, list[RejectedRow]]:
        """Return the valid rows as bars, sorted and without duplicates, and the other rows with their reasons.

        Of two valid rows with the same open time the later one is kept.
        """
        times = np.asarray(open_time, np.int64).reshape(-1)
        values = np.asarray(ohlcv_TF, np.float64).reshape(len(times), len(COLUMNS))
        violations = _violations(key, times, values)
        is_invalid = np.any(list(violations.values()), axis=0)
        rejected = [
            RejectedRow(int(times[i]), tuple(values[i].tolist()), next(r for r, rows in violations.items() if rows[i]))
            for i in np.flatnonzero(is_invalid)
        ]
        valid = np.flatnonzero(~is_invalid)
        _, last = np.unique(times[valid][::-1], return_index=True)
        kept = valid[::-1][last]
        return cls(key, times[kept], values[kept], np.full(1, first_seen_at)), rejected

    @classmethod
    def empty(cls, key: SeriesKey) -> Bars:
        """Return no bars of a series."""
        return cls(key, np.empty(0, np.int64), np.empty((0, len(COLUMNS))))

    @classmethod
    def from_rows(cls, key: SeriesKey, source: str, rows: Rows, as_of: int | None = None) -> ValidatedRows:
        """Make bars of the table rows that had closed by `as_of` (UTC ms), or of all rows.

        Raises:
            BadPayload: when the table shows that its rows are not bars of this series.
            InvalidBars: when more than a few rows are rejected: the table was misread.
        """
        aligned = align_rows(source, key.timeframe, key.calendar, rows, as_of)
        values_TF, rounded = fix_rounding(aligned.ohlcv_TF)
        is_other = aligned.reasons != ""
        bars, invalid = cls.validate_rows(key, aligned.opens[~is_other], values_TF[~is_other], as_of or 0)
        _check_rejected(key, len(bars), invalid, aligned.opens[~is_other], rows.zone_source)
        other = [
            RejectedRow(int(aligned.opens[i]), tuple(values_TF[i].tolist()), str(aligned.reasons[i]))
            for i in np.flatnonzero(is_other)
        ]
        unreadable = [
            RejectedRow(NO_TIME, (float("nan"),) * len(COLUMNS), reason, text) for text, reason in rows.rejected
        ]
        if other and is_other.all():
            raise InvalidBars.refused(key, Counter(map(str, aligned.reasons)), len(other))
        if rounded:
            aligned.notes.append(f"high or low is moved by a rounding to open or close in {rounded} rows")
        return ValidatedRows(
            bars=bars,
            rejected=[*invalid, *other, *unreadable],
            replaced=len(aligned.opens) - len(bars) - len(invalid) - len(other),
            unclosed=aligned.unclosed,
            notes=tuple(aligned.notes),
            parsed_as=rows.parsed_as,
            future_opens=aligned.future_opens,
        )

    @classmethod
    def from_frame(cls, key: SeriesKey, frame: pd.DataFrame, options: ParseOptions | None = None) -> Bars:
        """Make bars of a pandas frame, read like a file with the same columns: see `docs/bars.md`.

        Times are a column or the index; without a zone they are UTC. `SeriesKey.opens_of` maps them to bars. Of two
        rows for one time the later one is kept; rows without prices are dropped. `options` settles what is ambiguous.

        Raises:
            InvalidArgument: for a frame that cannot be read, or that can be read in more than one way.
            InvalidBars: for an invalid row.
            UnknownSymbol: for a frame of other symbols.
        """
        from forecaster.tables.frames import table_from_frame  # noqa: PLC0415 - the caller has a frame, so pandas is there
        from forecaster.tables.rows import read_table  # noqa: PLC0415 - the same
        from forecaster.tables.symbols import select_rows  # noqa: PLC0415 - the same

        source, options = "frame", options or ParseOptions()
        try:
            table = table_from_frame(frame, source)
            validated = cls.from_rows(key, source, select_rows(source, read_table(table, options), key.symbol, options))
        except Ambiguous as error:
            expected = f"`{error.option}` of ParseOptions to be given ({error.example})"
            raise InvalidArgument(source, expected, error.found) from error
        except BadPayload as error:
            raise InvalidArgument(source, error.expected, error.found) from error
        for row in validated.rejected:
            if row.open_time != NO_TIME and np.isnan(row.values[:4]).all():  # noqa: PD011 - no frame; no trades
                continue
            raise InvalidBars(key, f"{row.reason}: {row.body or format_time(row.open_time)} {list(row.values)}")
        return validated.bars

    @cached_property
    def close_time(self) -> NDArray[np.int64]:
        """Close times, (T,) UTC ms."""
        return self.key.trading_calendar.closes_of(self.key.timeframe, self.open_time)

    @property
    def close(self) -> NDArray[np.float64]:
        """Closing prices, (T,)."""
        return self.ohlcv_TF[:, 3]

    @property
    def frame(self) -> pd.DataFrame:
        """A pandas frame with the columns open, high, low, close, volume, indexed by open time (UTC)."""
        import pandas as pd  # noqa: PLC0415 - optional for callers without frames

        index = pd.to_datetime(self.open_time, unit="ms", utc=True).rename("open_time")
        return pd.DataFrame(self.ohlcv_TF, index=index, columns=list(COLUMNS))

    def __len__(self) -> int:
        """Return the number of bars."""
        return len(self.open_time)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Bars:
        """Select bars by slice, mask or positions."""
        return Bars(self.key, self.open_time[rows], self.ohlcv_TF[rows], self.first_seen_at[rows], self.revision[rows])

    def closed_by(self, as_of: int) -> Bars:
        """Return the bars that close at or before `as_of` (UTC ms)."""
        return self[: int(np.searchsorted(self.close_time, as_of, side="right"))]


def fix_rounding(ohlcv_TF: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Raise high and lower low to open and close where they differ by a rounding; return a copy and the row count.

    Adjusted prices are rounded one by one: a close may be above its high by the last bit of a float. A row that stays
    invalid, since another of its prices is further off, is not changed.
    """
    open_, high, low, close = ohlcv_TF[:, :4].T
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    with np.errstate(invalid="ignore", over="ignore"):
        high_ok = (high >= top) | (top - high < ROUNDING_TOLERANCE * top)
        low_ok = (low <= bottom) | (low - bottom < ROUNDING_TOLERANCE * bottom)
    rows = high_ok & low_ok & ((high < top) | (low > bottom))
    if not rows.any():
        return ohlcv_TF, 0
    fixed_TF = ohlcv_TF.copy()
    fixed_TF[rows, 1] = np.maximum(high, top)[rows]
    fixed_TF[rows, 2] = np.minimum(low, bottom)[rows]
    return fixed_TF, int(rows.sum())


@dataclass(frozen=True)
class ValidatedRows:
    """The rows of a table as bars of one series.

    Args:
        bars: the valid rows.
        rejected: the other rows, with their reasons.
        replaced: number of rows that a later row for the same time replaced.
        unclosed: number of rows whose bar had not closed yet.
        notes: remarks on the table, for messages.
        parsed_as: how the table was read, for messages.
        future_opens: number of open times later than now.
    """

    bars: Bars
    rejected: list[RejectedRow]
    replaced: int
    unclosed: int
    notes: tuple[str, ...]
    parsed_as: Mapping[str, str]
    future_opens: int = 0


def _check_rejected(
    key: SeriesKey, bars: int, rejected: list[RejectedRow], opens: NDArray[np.int64], zone_source: ZoneSource
) -> None:
    """Refuse a table of which too many rows are rejected; rows without any price do not count.

    Raises:
        InvalidBars: with the most common reason, its count, and an option that may help.
    """
    counted = [row for row in rejected if np.nansum(np.abs(row.values[:4])) > 0]  # noqa: PD011 - no frame
    total = len(opens) - len(rejected) + len(counted)
    is_off_grid = key.trading_calendar.closes_of(key.timeframe, opens) < 0
    # Sessions are known to the day: bars on holidays of the exchange are bars of another exchange.
    is_other_exchange = (
        key.timeframe.is_daily and not is_continuous(key.calendar) and is_off_grid.sum() > max(2, 0.01 * total)
    )
    are_few = len(counted) <= max(_MAX_REJECTED, _MAX_REJECTED_FRACTION * total)
    if are_few and (bars or not rejected) and not is_other_exchange:
        return
    reasons = Counter(row.reason for row in counted or rejected)
    if reasons.most_common(1)[0][0].startswith("open time"):
        hint = off_grid_hint(key.timeframe, key.calendar, opens, is_off_grid, zone_source)
    else:
        hint = "is each column what it is taken for? `columns` (--columns) says which is which"
    raise InvalidBars.refused(key, reasons, max(total, len(rejected)), hint)


def _freeze(bars: Bars, name: str, values: NDArray[Any]) -> None:
    values.setflags(write=False)
    object.__setattr__(bars, name, values)


def _violations(
    key: SeriesKey, open_time: NDArray[np.int64], ohlcv_TF: NDArray[np.float64]
) -> dict[str, NDArray[np.bool_]]:
    """Return each rule of a single bar, with a mask of the rows that violate it."""
    open_, high, low, close, volume = ohlcv_TF.T
    return {
        "every value must be finite": ~np.isfinite(ohlcv_TF[:, :4]).all(axis=1) | np.isinf(volume),
        "prices must be above 0": ~(low > 0),
        f"prices must be below {MAX_PRICE:g}": ~(high < MAX_PRICE),
        "low must not be above open or close": ~(low <= np.minimum(open_, close)),
        "high must not be below open or close": ~(high >= np.maximum(open_, close)),
        "volume must not be negative": volume < 0,
        f"open time must be on the {key.timeframe} grid of {key.calendar}": (
            key.trading_calendar.closes_of(key.timeframe, open_time) < 0
        ),
    }


def _first_violation(violations: dict[str, NDArray[np.bool_]]) -> tuple[int, str]:
    """Return the first invalid row and its reason; (-1, "") when there is none."""
    firsts = [(int(np.argmax(rows)), reason) for reason, rows in violations.items() if rows.any()]
    return min(firsts, key=lambda first: first[0], default=(-1, ""))
