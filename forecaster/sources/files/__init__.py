"""Bars from a file: csv, Parquet, feather or json, of one series or of several side by side.

The file is read once, at the first question, and kept: what is written to it later is not seen. How its cells are read
is left to `tables`, which rows are bars to `Bars.sift`, and what a date stands for to the calendar of the series.
`FileSource.guess_keys` names the series of a file that nobody has described.
"""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.bars import Bars, SeriesKey
from forecaster.errors import BadPayload, ConfigError, UnknownSymbol
from forecaster.sessions import ALWAYS_OPEN, UNWRITTEN, Labels, calendar
from forecaster.sources import Fetched
from forecaster.sources.tables import Rows, read_file
from forecaster.timeframe import DAY_MS, MINUTE_MS, Timeframe

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NEW_YORK: Final = "XNYS"
_HOUR_MS: Final = 60 * MINUTE_MS
_QUOTES: Final = ("USDT", "USDC", "BUSD", "FDUSD", "TUSD", "USD", "EUR", "GBP", "JPY", "BTC", "ETH")
_TIMEFRAME_IN_NAME: Final = re.compile(r"\d+(MIN|[MHDW])|DAILY|HOURLY")


class FileSource:
    """Bars of a file: of its one series, whatever key it is asked for, or of the one of several that the key names.

    Args:
        path: ends in .csv, .parquet, .pq, .feather or .json; a text may be packed, .csv.gz.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._rows: dict[str, Rows] | None = None
        self._reading = Lock()

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Give the bars that open at or after `since` and have closed by `as_of` (UTC ms).

        The same question has the same answer, refused rows included.

        Raises:
            BadPayload: says what was expected and found, and on which line.
            UnknownSymbol: for a symbol that is not among several.
        """
        opens, ohlcv_TF = self._closed(key, as_of)
        asked = opens >= (opens.min(initial=0) if since is None else since)
        return Fetched(*Bars.sift(key, opens[asked], ohlcv_TF[asked], as_of))

    def row_count(self, key: SeriesKey, as_of: int) -> int:
        """Count the rows of a series that had closed by `as_of`, bars or not, each version of one."""
        return len(self._closed(key, as_of)[0])

    def guess_keys(self, timeframe: str | None = None, calendar_name: str | None = None) -> list[SeriesKey]:
        """Guess which series the file holds, from its times and its names: `BTCUSDT_1d.csv` holds `file BTC/USDT 1d`.

        The timeframe is the commonest distance between neighbouring times. The calendar is `24/7` when bars fall
        on weekends, or mostly outside New York's sessions; else `XNYS`. Neither is guessed when it is given.

        Raises:
            BadPayload: for a file that cannot be read, whose times are of no timeframe, or whose days begin at a
                midnight east of Greenwich: its calendar must be given.
            ConfigError: for a given timeframe that is none.
        """
        keys = []
        for name, rows in self._content().items():
            labels = rows.labels[np.unique(rows.labels.instant, return_index=True)[1]]
            length = _guess_timeframe(self._path, labels.instant) if timeframe is None else Timeframe(timeframe)
            sessions = calendar_name or _guess_calendar(self._path, length, labels)
            keys.append(SeriesKey("file", _guess_symbol(name or _stem(self._path), sessions), length, sessions))
        return keys

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _closed(self, key: SeriesKey, as_of: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Open times (T,) and values (T, 5) of the rows that had closed by `as_of`."""
        rows = self._rows_of(key.symbol)
        opens = key.sessions.opens_of_labels(key.timeframe, rows.labels)
        closes = key.sessions.closes_of(key.timeframe, opens)
        # A row off the grid has no close; it is reported once its length has passed.
        closed = np.where(closes < 0, opens + key.timeframe.ms, closes) <= as_of
        return opens[closed], rows.ohlcv_TF[closed]

    def _content(self) -> dict[str, Rows]:
        with self._reading:
            if self._rows is None:
                self._rows = read_file(self._path)
            return self._rows

    def _rows_of(self, symbol: str) -> Rows:
        content = self._content()
        if len(content) == 1:
            return next(iter(content.values()))
        spellings = {symbol, symbol.replace("/", ""), symbol.replace("/", "-"), symbol.partition("/")[0]}
        named = [rows for name, rows in content.items() if name.upper() in {one.upper() for one in spellings}]
        if not named:
            raise UnknownSymbol(str(self._path), symbol, len(content))
        return named[0]


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


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


def _guess_calendar(path: Path, timeframe: Timeframe, labels: Labels) -> str:
    """Tell a stock exchange's bars from those of a venue that never closes."""
    written = np.where(labels.written == UNWRITTEN, labels.instant, labels.written)
    eastern = (written > labels.instant) & (written % DAY_MS == 0)
    if timeframe.is_daily and eastern.mean() > 0.5:  # noqa: PLR2004 - most of them
        hours = (written - labels.instant)[eastern][0] / _HOUR_MS
        expected = "the calendar to be named (--calendar XHKG, say), where days begin neither in New York nor by UTC"
        raise BadPayload(str(path), expected, f"days that begin at midnight of UTC{hours:+g}")
    weekday = (written // DAY_MS + 3) % 7  # the epoch began on a Thursday
    if (weekday > 4).mean() > 0.05:  # noqa: PLR2004 - Saturday and Sunday; a stray row is none of many
        return ALWAYS_OPEN
    sessions = calendar(_NEW_YORK)
    opens = sessions.opens_of_labels(timeframe, labels)
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
