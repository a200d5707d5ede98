"""Bars from a file: csv, Parquet, feather or json, of one series or of several.

The file is read once, at the first call, and kept: later changes are not seen. `load` turns bytes into cells,
`forecaster.tables` cells into rows, `Bars.from_rows` rows into bars. `inference` infers the series of a file.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from forecaster.bars import NO_TIME, Bars
from forecaster.errors import BadPayload, ForecasterError
from forecaster.sources import Fetched
from forecaster.sources.files.inference import InferredSeries, infer_from_rows
from forecaster.sources.files.load import load_tables
from forecaster.tables import ParseOptions
from forecaster.tables.rows import read_table
from forecaster.tables.symbols import select_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forecaster.bars import SeriesKey, ValidatedRows
    from forecaster.tables import Rows

__all__ = ["FileSource", "InferredSeries"]


class FileSource:
    """Bars of a file with one series, or with several of which the key names one.

    Args:
        path: ends in .csv, .txt, .tsv, .json, .jsonl, .parquet, .pq or .feather; compressed files end in .gz, .bz2, .xz
            after that, or in .zip.
        options: how to read what the file leaves open.
    """

    def __init__(self, path: Path, options: ParseOptions | None = None) -> None:
        self._path = Path(path)
        self._options = options or ParseOptions()
        self._rows: dict[str, Rows] | None = None
        self._lock = Lock()
        self._validated: tuple[SeriesKey, int, ValidatedRows] | None = None

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Return the bars that open at or after `since` and have closed by `as_of` (UTC ms), and rejected rows.

        The same call returns the same result. Rows without a readable time are returned only if `since` is None.

        Raises:
            Ambiguous: if an option is needed; names it.
            BadPayload: for a file that cannot be read; names the line.
            SourceUnavailable: if the file changes while it is read, or reading takes too long.
            InvalidBars: if too many rows are rejected, so that the file is probably misread.
            UnknownSymbol: for a symbol that is not in the file.
        """
        validated = self.validate_rows(key, as_of)
        if since is None:
            return Fetched(validated.bars, validated.rejected)
        rejected = [row for row in validated.rejected if row.open_time != NO_TIME and row.open_time >= since]
        return Fetched(validated.bars[validated.bars.open_time >= since], rejected)

    def validate_rows(self, key: SeriesKey, as_of: int) -> ValidatedRows:
        """Divide the rows closed by `as_of` (UTC ms) into bars and rejected rows. Raises as `fetch`."""
        cached = self._validated
        if cached is not None and cached[:2] == (key, as_of):
            return cached[2]
        with _name_errors(self._path):
            rows = select_rows(str(self._path), self._rows_by_symbol(), key.symbol, self._options)
            validated = Bars.from_rows(key, str(self._path), rows, as_of)
        self._validated = (key, as_of, validated)
        return validated

    def infer_series(
        self, timeframe: str | None = None, calendar: str | None = None, day_anchor: str | None = None
    ) -> list[InferredSeries]:
        """Infer the series of the file from its times and names: `BTCUSDT_1d.csv` holds `file BTC/USDT 1d`.

        Given values are not inferred.

        Raises:
            Ambiguous: for times that fit no calendar or several; give the calendar.
            BadPayload: for a file that cannot be read, or times of no timeframe.
            ConfigError: for an unknown timeframe, calendar or anchor.
        """
        with _name_errors(self._path):
            return [
                infer_from_rows(self._path, name, rows, self._options, (timeframe, calendar, day_anchor))
                for name, rows in self._rows_by_symbol().items()
            ]

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _rows_by_symbol(self) -> dict[str, Rows]:
        with self._lock:
            if self._rows is None:
                self._rows = self._read()
            return self._rows

    def _read(self) -> dict[str, Rows]:
        by_symbol: dict[str, Rows] = {}
        for table in load_tables(self._path):
            for symbol, rows in read_table(table, self._options).items():
                if symbol in by_symbol:
                    raise BadPayload(str(self._path), "the rows of each symbol together", f"those of {symbol!r} twice")
                by_symbol[symbol] = rows
        return by_symbol


@contextmanager
def _name_errors(path: Path) -> Iterator[None]:
    """Convert any error of a library to BadPayload with the name of the file."""
    try:
        yield
    except ForecasterError:
        raise
    except Exception as error:
        found = f"one that cannot be read: {type(error).__name__}: {error}"
        raise BadPayload(str(path), "a file of bars", found) from error
