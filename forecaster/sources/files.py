"""Bars from a csv or Parquet file of one series, with the column names and dates that people export.

The file is read once, at the first question, and kept: what is written to it later is not seen. Which
rows are bars is left to `Bars.sift`, and what a date stands for to the calendar of the series. `guess_key`
names the series of a file that nobody has described.

Shapes: T rows of the file, F fields of `Bars` (open, high, low, close, volume).
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import pyarrow as pa

from forecaster.bars import COLUMNS, FIELDS, Bars, SeriesKey
from forecaster.errors import BadPayload, ConfigError
from forecaster.sessions import ALWAYS_OPEN, calendar
from forecaster.sources import Fetched
from forecaster.timeframe import DAY_MS, MINUTE_MS, Timeframe

if TYPE_CHECKING:
    from numpy.typing import NDArray

# In order of trust: a column that says "open" wins over one that may be the bare date of the same row.
_TIME_NAMES: Final = ("open_time", "timestamp", "timestamps", "datetime", "time", "date", "t", "index", "")
_LONGEST_BANNER: Final = 20
_EXPECTED_COLUMNS: Final = f"columns {', '.join(FIELDS)} and a time such as open_time, timestamp or date"
_EXPECTED_TIME: Final = "an ISO date or an epoch in s, ms, us or ns"
_EXPORTED_HOUR: Final = "%Y-%m-%d %I-%p"  # CryptoDataDownload's 2017-07-01 09-AM

_NEW_YORK: Final = "XNYS"
_QUOTES: Final = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USD", "EUR", "GBP", "JPY", "BTC", "ETH")
_TIMEFRAME_IN_NAME: Final = re.compile(r"\d+(MIN|[MHDW])|DAILY|HOURLY")

# Epochs from 1973 on, told apart by their size; each unit spans a factor of 1,000.
_SMALLEST_EPOCH: Final = 1e8
_PER_MS: Final = ((1e11, 1e-3), (1e14, 1.0), (1e17, 1e3), (1e20, 1e6))


class FileSource:
    """Bars of the one series that a csv or Parquet file holds, whatever key it is asked for.

    Args:
        path: ends in .csv, .parquet or .pq.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._rows: _Rows | None = None
        self._reading = Lock()

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Give the bars that open at or after `since` and have closed by `as_of` (UTC ms).

        The same question has the same answer, refused rows included.

        Raises:
            BadPayload: says what was expected and found, and on which line.
        """
        rows = self._read_once()
        opens = key.sessions.opens_of_labels(key.timeframe, rows.label)
        closes = key.sessions.closes_of(key.timeframe, opens)
        # A row off the grid has no close; it is reported once its length has passed.
        asked = np.where(closes < 0, opens + key.timeframe.ms, closes) <= as_of
        if since is not None:
            asked &= opens >= since
        return Fetched(*Bars.sift(key, opens[asked], rows.ohlcv_TF[asked], as_of))

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _read_once(self) -> _Rows:
        with self._reading:
            if self._rows is None:
                self._rows = _read(self._path)
            return self._rows


def guess_key(path: Path, timeframe: str | None = None, calendar_name: str | None = None) -> SeriesKey:
    """Guess which series a file holds, from its times and its name: `BTCUSDT_1d.csv` holds `file BTC/USDT 1d`.

    The timeframe is the commonest distance between neighbouring times. The calendar is `24/7` when bars fall
    on weekends, or mostly outside New York's sessions; else `XNYS`. Neither is guessed when it is given.

    Raises:
        BadPayload: for a file that cannot be read, or whose times are of no timeframe.
        ConfigError: for a given timeframe that is none.
    """
    label = np.unique(_read(path).label)
    length = _guess_timeframe(path, label) if timeframe is None else Timeframe(timeframe)
    sessions = calendar_name or _guess_calendar(length, label)
    return SeriesKey("file", _guess_symbol(path.stem, sessions), length, sessions)


def _guess_timeframe(path: Path, label: NDArray[np.int64]) -> Timeframe:
    """Name the commonest distance between neighbours of rising times."""
    distances, counts = np.unique(np.diff(label), return_counts=True)
    if not len(distances):
        raise BadPayload(str(path), "two rows or more, to tell the timeframe", len(label))
    commonest = int(distances[np.argmax(counts)])
    minutes = commonest // MINUTE_MS
    name = "1d" if commonest == DAY_MS else f"{minutes}m" if minutes % 60 else f"{minutes // 60}h"
    try:
        timeframe = Timeframe(name)
    except ConfigError as error:
        raise BadPayload(str(path), f"times apart by {error.expected}", f"{commonest / 1000:g} s") from error
    if timeframe.ms != commonest:
        raise BadPayload(str(path), "times apart by whole minutes", f"{commonest / 1000:g} s")
    return timeframe


def _guess_calendar(timeframe: Timeframe, label: NDArray[np.int64]) -> str:
    """Tell a stock exchange's bars from those of a venue that never closes."""
    weekday = (label // DAY_MS + 3) % 7  # the epoch began on a Thursday
    if (weekday > 4).mean() > 0.05:  # noqa: PLR2004 - Saturday and Sunday; a stray row is none of many
        return ALWAYS_OPEN
    sessions = calendar(_NEW_YORK)
    opens = sessions.opens_of_labels(timeframe, label)
    on_grid = (sessions.closes_of(timeframe, opens) >= 0).mean()
    return _NEW_YORK if on_grid > 0.5 else ALWAYS_OPEN  # noqa: PLR2004 - most of them


def _guess_symbol(stem: str, calendar_name: str) -> str:
    """Read base and quote from a file's name: the words before its timeframe; a quote that is not named is USD."""
    words = re.findall(r"[^\W_]+", stem.upper()) or ["FILE"]
    untimed = [word for word in words if not _TIMEFRAME_IN_NAME.fullmatch(word)] or words
    before = list(takewhile(lambda word: not _TIMEFRAME_IN_NAME.fullmatch(word), words))
    words = before or untimed
    if len(words) > 1 and words[-1] in _QUOTES:
        return f"{'-'.join(words[:-1])}/{words[-1]}"
    one = "-".join(words)
    quote = next((quote for quote in _QUOTES if one.endswith(quote) and one != quote), None)
    if quote is None or calendar_name != ALWAYS_OPEN:
        return f"{one}/USD"
    return f"{one.removesuffix(quote).rstrip('-')}/{quote}"


@dataclass(frozen=True)
class _Rows:
    """What a file holds, in the direction of time: (T,) UTC ms as labelled, and (T, 5) values."""

    label: NDArray[np.int64]
    ohlcv_TF: NDArray[np.float64]


@dataclass(frozen=True)
class _Table:
    """A file as it stands: the position of each column, its cells, and what people call a row of it."""

    path: Path
    columns: dict[str, int]
    cells: pd.DataFrame
    place: str

    def fault(self, expected: str, row: int, found: object) -> BadPayload:
        """Make the error for one cell; `row` is a position in `cells`."""
        return BadPayload(str(self.path), f"{expected} in {self.place} {self.cells.index[row]}", found)


def _read(path: Path) -> _Rows:
    """Read a whole file."""
    table = _load(path)
    if table.cells.empty:
        raise BadPayload(str(path), "at least one row of a bar", "none")
    label = _times(table)
    ohlcv_TF = np.zeros((len(label), len(COLUMNS)))
    for field, name in enumerate(COLUMNS):
        if name in table.columns:
            ohlcv_TF[:, field] = _numbers(table, name)
    # A file that runs backwards grows at its top, and of two rows for one time the later written stands.
    direction = slice(None, None, -1 if label[0] > label[-1] else 1)
    return _Rows(label[direction], ohlcv_TF[direction])


def _load(path: Path) -> _Table:
    """Load a file by its suffix."""
    loaders = {".csv": _load_csv, ".parquet": _load_parquet, ".pq": _load_parquet}
    load = loaders.get(path.suffix.lower())
    if load is None:
        raise BadPayload(str(path), f"a file that ends in {', '.join(loaders)}", path.suffix)
    try:
        return load(path)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise BadPayload(str(path), "a readable csv or Parquet file", str(error)) from error


def _load_csv(path: Path) -> _Table:
    """Load every cell as text: how a number is read is then ours, and no release of pandas changes it."""
    names, header_line = _find_header(path)
    width = len(names)
    # One column more than there should be is read: pandas would cut a row that is too long in silence.
    cells = pd.read_csv(
        path,
        header=None,
        names=list(range(width + 1)),
        index_col=False,
        dtype=str,
        encoding="utf-8-sig",
        skiprows=header_line,
        skip_blank_lines=False,
        skipinitialspace=True,
    )
    cells.index += header_line + 1
    table = _Table(path, _find_columns(names), cells.dropna(how="all"), "line")
    overlong = table.cells[width].notna().to_numpy()
    if overlong.any():
        row, expected = int(np.argmax(overlong)), f"{width} cells"
        raise table.fault(expected, row, ",".join(table.cells.iloc[row].astype(str)))
    return table


def _find_header(path: Path) -> tuple[list[str], int]:
    """Find the names of the columns and the number of the line they stand on, below any banner."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(islice(csv.reader(file, skipinitialspace=True), _LONGEST_BANNER))
    for number, names in enumerate(lines, start=1):
        if _find_columns(names):
            return names, number
    # The longest line is what its author took for the header.
    raise BadPayload(str(path), _EXPECTED_COLUMNS, max(lines, key=len, default=[]))


def _load_parquet(path: Path) -> _Table:
    """Load the columns, and the index where it was given one."""
    frame = pd.read_parquet(path)
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    names = [str(name) for name in frame.columns]
    columns = _find_columns(names)
    if not columns:
        raise BadPayload(str(path), _EXPECTED_COLUMNS, names)
    return _Table(path, columns, frame.set_axis(range(len(names)), axis="columns"), "row")


def _find_columns(names: list[str]) -> dict[str, int]:
    """Find the position of the time and of each field; nothing unless time and prices are all there."""
    plain = ["_".join(name.lower().split()) for name in names]
    wanted = {"time": _TIME_NAMES} | {field: (field, field[0]) for field in COLUMNS}
    found = {
        what: plain.index(next(name for name in spellings if name in plain))
        for what, spellings in wanted.items()
        if not set(spellings).isdisjoint(plain)
    }
    return found if {"time", *FIELDS} <= found.keys() else {}


def _numbers(table: _Table, name: str) -> NDArray[np.float64]:
    """Give a column of numbers; an empty cell is NaN."""
    cells = table.cells[table.columns[name]]
    try:
        return cells.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        row = next(row for row, cell in enumerate(cells) if not _is_number(cell))
        expected = f"a number for {name}"
        raise table.fault(expected, row, cells.iloc[row]) from None


def _is_number(cell: object) -> bool:
    try:
        float(cell)  # type: ignore[arg-type] # whether it will do is the question
    except (TypeError, ValueError):
        return False
    return True


def _times(table: _Table) -> NDArray[np.int64]:
    """Give the column of times in UTC ms."""
    cells = table.cells[table.columns["time"]]
    times = cells if pd.api.types.is_datetime64_any_dtype(cells) else _parsed(cells)
    bad = times.isna().to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise table.fault(_EXPECTED_TIME, row, cells.iloc[row])
    return _utc_ms(times)


def _parsed(cells: pd.Series) -> pd.Series:
    """Read epochs or texts as times; NaT where a cell is neither."""
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if np.isfinite(numbers).mean() > 0.5:  # noqa: PLR2004 - one broken cell does not make epochs texts
        return _from_epochs(numbers)
    text = cells.astype(str)
    text = text.where(text.str[:1].str.isdigit())  # pandas reads "now" and "today" from the clock
    times = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
    return times.fillna(pd.to_datetime(text, utc=True, format=_EXPORTED_HOUR, errors="coerce"))


def _from_epochs(numbers: NDArray[np.float64]) -> pd.Series:
    """Read each epoch by its own size: exports have changed their unit between two rows."""
    ms = np.full(len(numbers), np.nan)
    for below, per_ms in reversed(_PER_MS):
        ms = np.where(numbers < below, numbers / per_ms, ms)
    ms[~(numbers >= _SMALLEST_EPOCH)] = np.nan
    return pd.Series(pd.to_datetime(np.round(ms), unit="ms", utc=True))


def _utc_ms(times: pd.Series) -> NDArray[np.int64]:
    """Drop the time zone for UTC; a time without one is UTC already."""
    naive = times if times.dt.tz is None else times.dt.tz_convert("UTC").dt.tz_localize(None)
    return naive.to_numpy().astype("datetime64[ms]").astype(np.int64)
