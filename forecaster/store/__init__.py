"""Where bars, forecasts and runs are kept: the port, and the one way to open it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from forecaster.ledger import LIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from forecaster.bars import Bars, RejectedRow, SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import LedgerRow, Run, SettledRow


class Store(Protocol):
    """Append-only memory of the service. Every write is durable when the call returns.

    Times are UTC ms. Nothing that was written is changed or deleted. All methods raise
    `StoreUnavailable` when the database cannot be read or written.
    """

    def add_bars(self, bars: Bars) -> int:
        """Append bars that are new, and a further revision of those that changed; returns how many rows."""

    def bars(self, key: SeriesKey, start: int | None = None, end: int | None = None, as_of: int | None = None) -> Bars:
        """Give the newest revision of every bar whose open_time lies in [start, end), as known at `as_of`."""

    def opens(self, key: SeriesKey, start: int, end: int) -> NDArray[np.int64]:
        """Give the open times in [start, end) of which there is a bar, rising."""

    def newest_open(self, key: SeriesKey) -> int | None:
        """Open time of the newest bar of a series, None when there is none."""

    def oldest_open(self, key: SeriesKey) -> int | None:
        """Open time of the oldest bar of a series, None when there is none."""

    def quarantine(self, key: SeriesKey, rows: Sequence[RejectedRow], seen_at: int) -> None:
        """Keep rows that were refused, with their reasons; one that is there already stays as it is."""

    def rejected(self, key: SeriesKey) -> list[RejectedRow]:
        """Give the rows of a series that were refused, in the order in which they came."""

    def add_gaps(self, key: SeriesKey, opens: Sequence[int], asked_at: int) -> None:
        """Keep that the bars of these open times were asked for at `asked_at`, and that there were none."""

    def gaps(self, key: SeriesKey, start: int, end: int) -> dict[int, list[int]]:
        """Give the open times in [start, end) without a bar, with the times at which each was asked for."""

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Keep that this exchange is not to be asked before `until`."""

    def held_until(self, exchange: str) -> int | None:
        """Give the latest time before which this exchange is not to be asked; None when there was never one."""

    def add_run(self, run: Run) -> None:
        """Name a run before its forecasts; a run that is known stays as it is."""

    def add_forecasts(self, forecasts: Sequence[OHLCForecast], run_id: str) -> int:
        """Append forecasts in one transaction; returns how many are new.

        A forecast that is in the ledger with the same numbers is left alone.

        Raises:
            LedgerConflict: when it is there with other numbers; then nothing of the batch is written.
        """

    def latest(self, key: SeriesKey, model_name: str, run_id: str = LIVE) -> OHLCForecast | None:
        """Give the forecast with the newest cutoff that a model of this name made."""

    def history(self, key: SeriesKey, start: int, end: int, run_id: str = LIVE) -> list[LedgerRow]:
        """Give all models' rows whose cutoff lies in [start, end), by cutoff, model, step and field."""

    def settled_rows(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledRow]:
        """Give rows whose target bar was first seen in (since, as_of], with the newest revision of it."""

    def close(self) -> None:
        """Let go of the database."""


def open_store(url: str) -> Store:
    """Open the store at `url`: `memory:` or an SQLAlchemy URL such as `sqlite:///ledger.db`.

    Raises:
        StoreUnavailable: when it cannot be opened.
        SchemaTooNew: when a newer program wrote it.
    """
    if url == "memory:":
        from forecaster.store.memory import MemoryStore  # noqa: PLC0415 - only what the URL asks for

        return MemoryStore()
    from forecaster.store.sql import SqlStore  # noqa: PLC0415 - SQLAlchemy is for who uses a database

    return SqlStore(url)
