"""Sources of bars: the port `BarSource`, and how to open one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from forecaster.bars import Bars, RejectedRow, SeriesKey
    from forecaster.config import Config, SeriesConfig
    from forecaster.errors import SourceError
    from forecaster.sources.exchange.hold_log import HoldStore


@dataclass(frozen=True)
class Fetched:
    """The answer of a source: final bars, and rejected rows with their reasons.

    Args:
        bars: the final bars.
        rejected: the other rows.
        since: open time where the source's history begins, if that is later than requested; earlier bars are unknown.
        until: open time to continue from; None when all was requested.
        fault: an error after a part of the bars had arrived.
        clock_offset_ms: by how much the source's clock is ahead of this machine's; None when it has none.
        may_change: whether the source may answer differently when asked again.
    """

    bars: Bars
    rejected: list[RejectedRow] = field(default_factory=list)
    since: int | None = None
    until: int | None = None
    fault: SourceError | None = None
    clock_offset_ms: int | None = None
    may_change: bool = False


class BarSource(Protocol):
    """A source of final bars. Thread-safe."""

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Return the bars of `key` that open at or after `since` and have closed by `as_of` (UTC ms).

        `since` of None requests a whole file, or the latest page of an exchange. A long history may come in parts:
        continue from `until` while there is one. `first_seen_at` of every bar is `as_of`.

        Raises:
            SourceError: when there is no usable answer; its class says whether to retry.
        """

    def close(self) -> None:
        """Close connections."""


def open_source(config: Config, series: SeriesConfig, holds: HoldStore) -> BarSource:
    """Open the configured source of a series: its `file`, or its exchange.

    `holds` keeps rate limits and bans across restarts.
    """
    if series.file is not None:
        from forecaster.sources.files import FileSource  # noqa: PLC0415 - only files need pandas

        return FileSource(series.file, series.parse_options)
    from forecaster.sources.exchange.source import ExchangeSource  # noqa: PLC0415 - ccxt takes a second to import

    return ExchangeSource(series.exchange, config.exchanges[series.exchange], holds)
