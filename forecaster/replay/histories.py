"""Where a replay has its bars from: the file of a series, or what the ledger has of an exchange's.

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
    from forecaster.bars import SeriesKey, Sifted
    from forecaster.config import Config
    from forecaster.store import Reader


class Histories:
    """All bars of the configured series; use it in a `with` block. What is read of files is kept in `read`.

    Args:
        config: names files and the ledger.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.read: dict[SeriesKey, Sifted] = {}
        self._sources: dict[SeriesKey, FileSource] = {}
        files: dict[object, FileSource] = {}
        for one in config.series:
            if one.file is not None:
                self._sources[one.key] = files.setdefault(one.place, FileSource(one.file, one.reading))

    @cached_property
    def reader(self) -> Reader:
        """The configured ledger, to be read beside whoever writes it."""
        return open_reader(self.config.store.url.reveal())

    def of(self, key: SeriesKey, now: int) -> Bars:
        """Give the bars of a series that have closed by now (UTC ms).

        Raises:
            BadPayload: for a file that cannot be read.
            InvalidBars: for a file of which too many rows are refused.
            ConfigError: when the ledger has too few bars of an exchange's series.
        """
        source = self._sources.get(key)
        if source is not None:
            self.read[key] = source.sift(key, now)
            return self.read[key].bars
        try:
            bars = self.reader.bars(key).known_at(now)
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
