"""Where bars come from: the port, and the one way to open it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from forecaster.bars import Bars, RejectedRow, SeriesKey
    from forecaster.config import Config, SeriesConfig
    from forecaster.errors import SourceError
    from forecaster.sources.exchange.breaker import Holds


@dataclass(frozen=True)
class Fetched:
    """An answer: the final bars, and the rows that were refused with their reasons.

    `since` is how far back the source goes, where that is not as far as it was asked: whether there were bars before
    is not known. `until` is how far the source was asked, an open time that was not; None when it was asked for all.
    `fault` is what kept the answer from being whole; what stands here arrived before it. `clock_ms` is how far the
    source's own clock is ahead of this machine's, None where it has none. `may_change` says that the
    source may answer otherwise when it is asked again.
    """

    bars: Bars
    rejected: list[RejectedRow] = field(default_factory=list)
    since: int | None = None
    until: int | None = None
    fault: SourceError | None = None
    clock_ms: int | None = None
    may_change: bool = False


class BarSource(Protocol):
    """Gives final bars. Safe to call from several threads."""

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Give the bars of `key` that open at or after `since` and have closed by `as_of` (UTC ms).

        `since` of None asks for all that a file has, or for the newest page of an exchange. A long history may come
        in parts: ask again from `until` on while there is one. `first_seen_at` of every bar is `as_of`.

        Raises:
            SourceError: when there is no usable answer; its kind says whether to ask again.
        """

    def close(self) -> None:
        """Let go of connections."""


def open_source(config: Config, series: SeriesConfig, holds: Holds) -> BarSource:
    """Open the source that the configuration names for a series: its `file`, or its exchange.

    `holds` remembers until when an exchange may not be asked.
    """
    if series.file is not None:
        from forecaster.sources.files import FileSource  # noqa: PLC0415 - pandas only for who reads files

        return FileSource(series.file, series.parse_options)
    from forecaster.sources.exchange.source import ExchangeSource  # noqa: PLC0415 - ccxt takes a second to import

    return ExchangeSource(series.exchange, config.exchanges[series.exchange], holds)
