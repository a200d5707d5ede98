"""Files of bars as people export them, read into times and numbers: which cells they are, and how each is read.

Whether rows are bars, and what a date stands for, is left to `files`; a date is kept as it is written. Nothing is
guessed of a cell: what is no time or no number is refused by its line.

Shapes: T rows of a file, F fields of `Bars` (open, high, low, close, volume).
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather

from forecaster.bars import COLUMNS, FIELDS
from forecaster.errors import BadPayload
from forecaster.sessions import Labels
from forecaster.timeframe import MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

# In order of trust: a column that says "open" wins over one that may be the bare date of the same row.
_TIME_NAMES: Final = ("open_time", "timestamp", "timestamps", "datetime", "time", "date", "t", "index", "unix", "")
_NAMES_BY_PLACE: Final = ("open_time", *COLUMNS)
_ONE_OF_SEVERAL: Final = re.compile(r"(?P<symbol>.+)[:.|](?P<field>open|high|low|close|volume)")
_LONGEST_BANNER: Final = 20
_EXPECTED_COLUMNS: Final = f"columns {', '.join(FIELDS)} and a time such as open_time, timestamp or date"
_EXPECTED_TIME: Final = "an ISO date or an epoch in s, ms, us or ns"
_EXPORTED_HOUR: Final = "%Y-%m-%d %I-%p"  # CryptoDataDownload's 2017-07-01 09-AM
_OFFSET: Final = r"([+-]\d\d(?::?\d\d)?)$"
_DATE_LENGTH: Final = len("2024-01-02")

# Epochs from 1973 on, told apart by their size; each unit spans a factor of 1,000.
_SMALLEST_EPOCH: Final = 1e8
_PER_MS: Final = ((1e11, 1e-3), (1e14, 1.0), (1e17, 1e3), (1e20, 1e6))


@dataclass(frozen=True)
class Rows:
    """What a file holds of one symbol, in the direction of time: T labels, and (T, 5) values."""

    labels: Labels
    ohlcv_TF: NDArray[np.float64]


@dataclass(frozen=True)
class _Table:
    """A file as it stands: the names of its columns, its cells, and what people call a row of it."""

    path: Path
    names: list[str]
    cells: pd.DataFrame
    place: str

    def fault(self, expected: str, row: int, found: object) -> BadPayload:
        """Make the error for one cell; `row` is a position in `cells`."""
        return BadPayload(str(self.path), f"{expected} in {self.place} {self.cells.index[row]}", found)


def read_file(path: Path) -> dict[str, Rows]:
    """Read a whole file: its rows by symbol, whose name is empty where the file holds one series.

    Raises:
        BadPayload: says what was expected and found, and on which line.
    """
    table = _load(path)
    if table.cells.empty:
        raise BadPayload(str(path), "at least one row of a bar", "none")
    columns = _find_columns(table.names)
    labels = _labels(table, next(iter(columns.values()))["time"])
    # A file that runs backwards grows at its top, and of two rows for one time the later written stands.
    direction = slice(None, None, -1 if labels.instant[0] > labels.instant[-1] else 1)
    found = {}
    for symbol, places in columns.items():
        ohlcv_TF = np.zeros((len(labels), len(COLUMNS)))
        for field, name in enumerate(COLUMNS):
            if name in places:
                ohlcv_TF[:, field] = _numbers(table, name, places[name])
        # Beside others a symbol has no bar where all its cells are empty.
        is_empty = np.isnan(ohlcv_TF[:, : len(FIELDS)]).all(axis=1)
        there = np.flatnonzero(~is_empty) if symbol else np.arange(len(labels))
        found[symbol] = Rows(labels[there][direction], ohlcv_TF[there][direction])
    return found


def _load(path: Path) -> _Table:
    """Load a file by its suffix; .gz may follow that of a text."""
    suffixes = [one.lower() for one in path.suffixes]
    kind = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])
    load = _LOADERS.get(kind)
    if load is None:
        raise BadPayload(str(path), f"a file that ends in {', '.join(_LOADERS)}", path.suffix)
    try:
        return load(path)
    except (OSError, ValueError, EOFError, csv.Error, pa.ArrowException) as error:
        raise BadPayload(str(path), f"a readable {kind.removeprefix('.')} file", str(error)) from error


def _open_text(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _load_csv(path: Path) -> _Table:
    """Load every cell as text: how a number is read is then ours, and no release of pandas changes it."""
    names, header_line = _find_header(path)
    width = len(names)
    # One column more than there should be is read: pandas would cut a row that is too long in silence.
    with _open_text(path) as file:
        cells = pd.read_csv(
            file,
            header=None,
            names=list(range(width + 1)),
            index_col=False,
            dtype=str,
            skiprows=header_line,
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    cells.index += header_line + 1
    table = _Table(path, names, cells.dropna(how="all"), "line")
    overlong = table.cells[width].notna().to_numpy()
    if overlong.any():
        row, expected = int(np.argmax(overlong)), f"{width} cells"
        raise table.fault(expected, row, ",".join(table.cells.iloc[row].astype(str)))
    return table


def _find_header(path: Path) -> tuple[list[str], int]:
    """Find the names of the columns and the number of the line they stand on, below any banner."""
    with _open_text(path) as file:
        lines = list(islice(csv.reader(file, skipinitialspace=True), _LONGEST_BANNER))
    if [line[0] for line in lines[:3] if line] == ["Price", "Ticker", "Date"]:  # yfinance
        several = len(set(lines[1][1:])) > 1
        names = zip(lines[0][1:], lines[1][1:], strict=False)
        return ["Date", *(f"{ticker}:{field}" if several else field for field, ticker in names)], 3
    for number, names_ in enumerate(lines, start=1):
        if _find_columns(names_):
            return names_, number
    if lines and len(lines[0]) >= len(_NAMES_BY_PLACE) and all(map(_is_number, lines[0])):  # ccxt, Binance's archive
        return [*_NAMES_BY_PLACE, *(f"unnamed {i}" for i in range(len(lines[0]) - len(_NAMES_BY_PLACE)))], 0
    # The longest line is what its author took for the header.
    raise BadPayload(str(path), _EXPECTED_COLUMNS, max(lines, key=len, default=[]))


def _load_json(path: Path) -> _Table:
    """Load a list of rows as ccxt and freqtrade write it, a list of objects, or pandas' columns and data."""
    with _open_text(path) as file:
        content: Any = json.load(file)
    if isinstance(content, dict) and {"columns", "data"} <= content.keys():
        frame = pd.DataFrame(content["data"], columns=content["columns"])
    elif isinstance(content, list) and all(isinstance(row, dict) for row in content):
        frame = pd.DataFrame(content)
    elif isinstance(content, list) and all(isinstance(row, list) for row in content):
        frame = pd.DataFrame(content)
        frame.columns = pd.Index([*_NAMES_BY_PLACE, *map(str, range(len(frame.columns)))][: len(frame.columns)])
    else:
        raise BadPayload(str(path), "a list of rows or of objects, or columns and data", type(content).__name__)
    return _framed(path, frame)


def _load_parquet(path: Path) -> _Table:
    return _framed(path, pd.read_parquet(path))


def _load_feather(path: Path) -> _Table:
    return _framed(path, pyarrow.feather.read_feather(path))


def _framed(path: Path, frame: pd.DataFrame) -> _Table:
    """Make a table of a frame's columns, and of its index where it was given one."""
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    names = [str(name) for name in frame.columns]
    if not _find_columns(names):
        raise BadPayload(str(path), _EXPECTED_COLUMNS, names)
    return _Table(path, names, frame.set_axis(range(len(names)), axis="columns"), "row")


_LOADERS: Final[dict[str, Callable[[Path], _Table]]] = {
    ".csv": _load_csv,
    ".parquet": _load_parquet,
    ".pq": _load_parquet,
    ".feather": _load_feather,
    ".json": _load_json,
}


def _find_columns(names: list[str]) -> dict[str, dict[str, int]]:
    """Find the position of the time and of each field, by symbol; nothing unless time and prices are all there."""
    plain = ["_".join(name.lower().split()) for name in names]
    time = next((plain.index(name) for name in _TIME_NAMES if name in plain), None)
    if time is None:
        return {}
    spelled = {field: next((plain.index(one) for one in (field, field[0]) if one in plain), -1) for field in COLUMNS}
    alone = {"time": time} | {field: place for field, place in spelled.items() if place >= 0}
    if set(FIELDS) <= alone.keys():
        return {"": alone}
    several: dict[str, dict[str, int]] = {}
    for place, name in enumerate(names):
        found = _ONE_OF_SEVERAL.fullmatch(name.strip().lower())
        if found:
            symbol = name.strip()[: len(found["symbol"])]
            several.setdefault(symbol, {"time": time})[found["field"]] = place
    return {symbol: places for symbol, places in several.items() if set(FIELDS) <= places.keys()}


def _numbers(table: _Table, name: str, place: int) -> NDArray[np.float64]:
    """Give a column of numbers; an empty cell is NaN."""
    cells = table.cells[place]
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


def _labels(table: _Table, place: int) -> Labels:
    """Give the column of times."""
    cells = table.cells[place]
    if pd.api.types.is_datetime64_any_dtype(cells):
        return Labels.of(pd.DatetimeIndex(_whole(table, cells, cells)))
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if np.isfinite(numbers).mean() > 0.5:  # noqa: PLR2004 - one broken cell does not make epochs texts
        ms = _whole(table, cells, _from_epochs(numbers))
        return Labels.of_epochs(ms.to_numpy().astype(np.int64))
    text = cells.astype(str).str.strip()
    offset = _offsets(text)
    times = pd.DatetimeIndex(_whole(table, cells, _from_texts(text).mask(np.isnan(offset))))
    instant = Labels.of(times).instant
    return Labels(instant, instant + offset.astype(np.int64))


def _whole(table: _Table, cells: pd.Series, times: pd.Series) -> pd.Series:
    """Give the times, unless one of the cells is none."""
    bad = times.isna().to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise table.fault(_EXPECTED_TIME, row, cells.iloc[row])
    return times


def _from_texts(text: pd.Series) -> pd.Series:
    """Read texts as times; NaT where one is none."""
    text = text.where(text.str[:1].str.isdigit())  # pandas reads "now" and "today" from the clock
    times = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
    return times.fillna(pd.to_datetime(text, utc=True, format=_EXPORTED_HOUR, errors="coerce"))


def _offsets(text: pd.Series) -> NDArray[np.float64]:
    """How far the written times are ahead of UTC, in ms: 0 where no offset is written, NaN where it cannot be read.

    pandas reads more than one way to write an offset; what we cannot read as well has no written date.
    """
    offset = np.zeros(len(text))
    behind = text.str[_DATE_LENGTH:]  # a date has hyphens of its own
    signed = behind.str.contains(r"[+-]\s*\d").to_numpy(bool)
    if signed.any():
        codes, endings = pd.factorize(behind[signed].str.extract(_OFFSET, expand=False))
        offset[signed] = np.array([*map(_offset_ms, endings), np.nan])[codes]  # code -1: it is none of ours
    return offset


def _offset_ms(offset: str) -> int:
    """The length of an offset such as +09:00, +0530 or -05."""
    digits = offset[1:].replace(":", "").ljust(4, "0")
    minutes = 60 * int(digits[:2]) + int(digits[2:])
    return (-1 if offset[0] == "-" else 1) * minutes * MINUTE_MS


def _from_epochs(numbers: NDArray[np.float64]) -> pd.Series:
    """Read each epoch by its own size, in ms: exports have changed their unit between two rows. NaN for none."""
    ms = np.full(len(numbers), np.nan)
    for below, per_ms in reversed(_PER_MS):
        ms = np.where(numbers < below, numbers / per_ms, ms)
    ms[~(numbers >= _SMALLEST_EPOCH)] = np.nan
    return pd.Series(np.round(ms))
