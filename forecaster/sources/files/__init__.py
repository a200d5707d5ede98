"""Bars from a file: csv, Parquet, feather or json, of one series or of several.

The file is read once, at the first question, and kept: what is written to it later is not seen. How its bytes become
cells is left to `load`, what the cells mean to `forecaster.tables`, which rows are bars to `Bars.of_rows`. What a file
that nobody has described holds is guessed by `guess`.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from forecaster.bars import NO_TIME, Bars
from forecaster.errors import BadPayload, ForecasterError
from forecaster.sources import Fetched
from forecaster.sources.files.guess import Guess, guess_series
from forecaster.sources.files.load import load_tables
from forecaster.tables import Reading
from forecaster.tables.reading import read_table, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forecaster.bars import SeriesKey, Sifted
    from forecaster.tables import Rows

__all__ = ["FileSource", "Guess"]


class FileSource:
    """Bars of a file: of the one series that it holds, or of the one of several that the key's symbol names.

    Args:
        path: ends in .csv, .txt, .tsv, .json, .jsonl, .parquet, .pq or .feather; it may be packed: .gz, .bz2 or .xz
            behind that, or .zip.
        reading: how to read what the file leaves open.
    """

    def __init__(self, path: Path, reading: Reading | None = None) -> None:
        self._path = Path(path)
        self._reading = reading or Reading()
        self._rows: dict[str, Rows] | None = None
        self._loading = Lock()
        self._sifted: tuple[SeriesKey, int, Sifted] | None = None

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Give the bars that open at or after `since` and have closed by `as_of` (UTC ms).

        The same question has the same answer, refused rows included; rows whose time cannot be read are told of when
        all is asked for.

        Raises:
            Ambiguous: names the option that says how the file is to be read.
            BadPayload: says what was expected and found, and on which line.
            SourceUnavailable: when the file changes while it is read, or that takes too long.
            InvalidBars: when so many rows are refused that the file was not understood.
            UnknownSymbol: for a symbol that is not in the file.
        """
        sifted = self.sift(key, as_of)
        if since is None:
            return Fetched(sifted.bars, sifted.rejected)
        rejected = [row for row in sifted.rejected if row.open_time != NO_TIME and row.open_time >= since]
        return Fetched(sifted.bars[sifted.bars.open_time >= since], rejected)

    def sift(self, key: SeriesKey, as_of: int) -> Sifted:
        """Tell bars from other rows, of those that had closed by `as_of` (UTC ms); raises what `fetch` does."""
        kept = self._sifted
        if kept is not None and kept[:2] == (key, as_of):
            return kept[2]
        with _named(self._path):
            rows = rows_of(str(self._path), self._content(), key.symbol, self._reading)
            sifted = Bars.of_rows(key, str(self._path), rows, as_of)
        self._sifted = (key, as_of, sifted)
        return sifted

    def guess(
        self, timeframe: str | None = None, calendar: str | None = None, day_anchor: str | None = None
    ) -> list[Guess]:
        """Guess which series the file holds, from its times and its names: `BTCUSDT_1d.csv` holds `file BTC/USDT 1d`.

        What is given is not guessed.

        Raises:
            Ambiguous: for times that fit no calendar, or several: the calendar must be given.
            BadPayload: for a file that cannot be read, or whose times are of no timeframe.
            ConfigError: for a given timeframe, calendar or anchor that is none.
        """
        with _named(self._path):
            return [
                guess_series(self._path, name, rows, self._reading, (timeframe, calendar, day_anchor))
                for name, rows in self._content().items()
            ]

    def guess_keys(self, timeframe: str | None = None, calendar: str | None = None) -> list[SeriesKey]:
        """Guess the series alone; see `guess`."""
        return [one.key for one in self.guess(timeframe, calendar)]

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _content(self) -> dict[str, Rows]:
        with self._loading:
            if self._rows is None:
                self._rows = self._read()
            return self._rows

    def _read(self) -> dict[str, Rows]:
        found: dict[str, Rows] = {}
        for table in load_tables(self._path):
            for symbol, rows in read_table(table, self._reading).items():
                if symbol in found:
                    raise BadPayload(str(self._path), "the rows of each symbol together", f"those of {symbol!r} twice")
                found[symbol] = rows
        return found


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in whatever it makes a library raise: an error that nobody foresaw is this file's alone."""
    try:
        yield
    except ForecasterError:
        raise
    except Exception as error:
        found = f"one that cannot be read: {type(error).__name__}: {error}"
        raise BadPayload(str(path), "a file of bars", found) from error
