"""Load the bars of a replay: from the file of a series, or from the ledger for a series of an exchange.

Nothing is fetched over the network and nothing is written, so a replay can run beside a daemon.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Self

from forecaster.bars import Bars
from forecaster.errors import ConfigError, LedgerMissing
from forecaster.sources.files import FileSource
from forecaster.store import open_reader

if TYPE_CHECKING:
    from forecaster.bars import SeriesKey, ValidatedRows
    from forecaster.config import Config
    from forecaster.store import Reader


class HistoryLoader:
    """Loads all bars of the configured series; use it in a `with` block.

    Args:
        config: names files and the ledger.

    Attributes:
        from_files: the validated rows of each file that was loaded.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.from_files: dict[SeriesKey, ValidatedRows] = {}
        self._sources: dict[SeriesKey, FileSource] = {}
        files: dict[object, FileSource] = {}
        for series in config.series:
            if series.file is not None:
                source = FileSource(series.file, series.parse_options)
                self._sources[series.key] = files.setdefault(series.place, source)

    @cached_property
    def reader(self) -> Reader:
        """The configured ledger; reading does not disturb its writer."""
        return open_reader(self.config.store.url.reveal())

    def load(self, key: SeriesKey, now: int) -> Bars:
        """Load the bars of a series that have closed by `now` (UTC ms).

        Raises:
            BadPayload: for a file that cannot be read.
            InvalidBars: for a file with too many invalid rows.
            ConfigError: if the ledger has too few bars of an exchange's series.
        """
        source = self._sources.get(key)
        if source is not None:
            self.from_files[key] = source.validate_rows(key, now)
            return self.from_files[key].bars
        try:
            bars = self.reader.bars(key).closed_by(now)
        except LedgerMissing:
            bars = Bars.empty(key)
        if len(bars) < self.config.model.min_context:
            expected = (
                f"{self.config.model.min_context} bars or more in the ledger: run `forecaster pull --since DATE` first"
            )
            raise ConfigError(f"bars of {key}", expected, len(bars))
        return bars

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "reader" in self.__dict__:
            self.reader.close()
