"""The ledger: its two ports, `Reader` and `Store`, and how to open each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from forecaster.ledger import LIVE
from forecaster.urls import MEMORY, sqlite_address

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from forecaster.bars import Bars, RejectedRow, SeriesKey
    from forecaster.forecast import ModelId, OHLCForecast
    from forecaster.ledger import CalibrationState, Hold, LedgerRow, PendingForecast, Run, SettledSteps
    from forecaster.store.queries import QueryRunner


class Reader(Protocol):
    """What can be read from a ledger. Times are UTC ms.

    The bars of a run are the bars that settle it: its own if it has any, else the live ones. All methods raise
    `StoreUnavailable` when the ledger cannot be read.
    """

    def bars(
        self,
        key: SeriesKey,
        start: int | None = None,
        end: int | None = None,
        as_of: int | None = None,
        run_id: str = LIVE,
    ) -> Bars:
        """Return the latest revision of each bar with an open time in [start, end), as known at `as_of`."""

    def open_times(self, key: SeriesKey, start: int, end: int) -> NDArray[np.int64]:
        """Return the open times of live bars in [start, end), ascending."""

    def latest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Return the open time of the latest bar of a series, or None."""

    def earliest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Return the open time of the earliest bar of a series, or None."""

    def rejected_rows(self, key: SeriesKey) -> list[RejectedRow]:
        """Return the rejected rows of a series, in order of arrival."""

    def gaps(self, key: SeriesKey, start: int, end: int) -> dict[int, list[int]]:
        """Return the open times in [start, end) without a bar, each with the times at which it was requested."""

    def holds(self) -> list[Hold]:
        """Return the latest hold of each exchange, by name, also where it has ended or was lifted."""

    def series(self) -> list[SeriesKey]:
        """Return all series of the ledger, those of replays too, by name."""

    def runs(self) -> list[Run]:
        """Return all recorded runs, by start time."""

    def models(self) -> list[ModelId]:
        """Return all models that have forecast, by name."""

    def latest(
        self, key: SeriesKey, model_name: str, run_id: str = LIVE, as_of: int | None = None
    ) -> OHLCForecast | None:
        """Return the forecast with the latest cutoff that this model had made available at `as_of`, or None."""

    def history(
        self, key: SeriesKey, start: int, end: int, run_id: str = LIVE, as_of: int | None = None
    ) -> list[LedgerRow]:
        """Return rows with a cutoff in [start, end) that were available at `as_of`, by cutoff, model, step, field."""

    def settled_between(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledSteps]:
        """Return the steps whose target bar was first seen in (since, as_of], by series.

        The forecast was available at `as_of`; the actual is the latest revision of the bar at `as_of`.
        """

    def settled(
        self, key: SeriesKey, as_of: int, since: int | None = None, run_id: str = LIVE
    ) -> Iterator[SettledSteps]:
        """Yield the same of one series, some cutoffs at a time, to bound memory."""

    def pending_forecasts(self, key: SeriesKey, start: int, end: int) -> list[PendingForecast]:
        """Return the pending forecasts of a series with a cutoff in [start, end), ascending."""

    def pending_before(self, key: SeriesKey, cutoff: int) -> PendingForecast | None:
        """Return the latest pending forecast before `cutoff`, or None."""

    def cutoffs(self, key: SeriesKey, run_id: str = LIVE) -> NDArray[np.int64]:
        """Return the cutoffs of a run's forecasts of a series, ascending."""

    def bar_revisions(self, key: SeriesKey) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return open time, revision and first_seen_at of every revision of every live bar of a series."""

    def revised_open_times(
        self, key: SeriesKey, start: int, end: int, since: int, as_of: int | None = None
    ) -> list[int]:
        """Return the open times in [start, end) of live bars whose prices changed in (since, as_of]."""

    def calibration(self, key: SeriesKey, model_id: str, run_id: str = LIVE) -> CalibrationState | None:
        """Return the calibration state of a model on a series in a run, or None."""

    def close(self) -> None:
        """Close the database."""


class Store(Reader, Protocol):
    """An append-only ledger, opened by the one process that writes it.

    Every write is durable when the call returns. Rows are never changed or deleted; only the states of pending
    forecasts and of calibration are updated. All methods raise `StoreUnavailable` when the database cannot be written,
    and `LeaseLost` when another process has taken over; then nothing of the call was written.
    """

    @property
    def epoch(self) -> int:
        """How many times the lease has changed hands."""

    @property
    def owner(self) -> str:
        """The name of this process in the lease; empty where no other process can write."""

    def renew(self) -> None:
        """Renew the lease, as every write does."""

    def check_integrity(self) -> None:
        """Check that the database is not damaged.

        Raises:
            StoreUnavailable: names the damage.
        """

    def transaction(self, *, write: bool = True) -> AbstractContextManager[None]:
        """Run all reads and writes of this thread in the block as one transaction: all are durable, or none.

        A thousand series then need one commit. Do not wait for anything in a block that writes: it blocks all writers.
        """

    def add_bars(self, bars: Bars, run_id: str = LIVE) -> int:
        """Append new bars, and a further revision of changed ones; return the number of rows.

        The bars of a replay get a series of their own, which only its run sees.
        """

    def quarantine(self, key: SeriesKey, rows: Sequence[RejectedRow], seen_at: int) -> None:
        """Append rejected rows with their reasons; known ones are skipped."""

    def add_gaps(self, key: SeriesKey, opens: Sequence[int], requested_at: int) -> None:
        """Record that bars of these open times were requested at `requested_at` and do not exist."""

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Record that no request goes to an exchange before `until`; the latest hold counts."""

    def add_run(self, run: Run) -> None:
        """Record a run before its forecasts; a known run stays as it is."""

    def add_forecasts(
        self, forecasts: Sequence[OHLCForecast], run_id: str, learned: Sequence[CalibrationState] = ()
    ) -> int:
        """Append forecasts and update calibration in one transaction; return the number of new forecasts.

        A known forecast with equal numbers, or within float32 noise of them, is skipped.

        Raises:
            LedgerConflict: for a known forecast with other numbers; then nothing of the batch is written.
        """

    def delay_availability(self, forecasts: Sequence[OHLCForecast], run_id: str) -> None:
        """Record that these were committed later than stamped: they count as available from `available_at` on."""

    def set_pending(self, pending: Sequence[PendingForecast], changed_at: int) -> None:
        """Insert or update pending forecasts; one that is done stays done."""


def open_store(url: str) -> Store:
    """Open the ledger at `url` to write: `memory:` or an SQLAlchemy URL such as `sqlite:///ledger.db`.

    Raises:
        StoreUnavailable: when it cannot be opened, or another process writes it.
        SchemaTooNew: when a newer program wrote it.
    """
    if url == MEMORY:
        from forecaster.store.memory import MemoryStore  # noqa: PLC0415 - only what the URL needs

        return MemoryStore()
    from forecaster.store.sql import SqlStore  # noqa: PLC0415 - only writers need SQLAlchemy

    return SqlStore(url)


def open_reader(url: str) -> Reader:
    """Open the ledger at `url` to read, beside its writer. An SQLite file is read without SQLAlchemy.

    Raises:
        StoreUnavailable: for a URL that no library here can open. A missing ledger is not an error yet: methods raise
            `LedgerMissing` until it exists.
    """
    if url == MEMORY:
        return open_store(url)
    from forecaster.store.queries import LedgerQueries  # noqa: PLC0415 - only what the URL needs

    return LedgerQueries(open_database(url))


def open_database(url: str) -> QueryRunner:
    """Open the database at `url` to query it in SQL; an SQLite file read-only and without SQLAlchemy.

    Raises:
        StoreUnavailable: for a URL that no library here can open.
    """
    file = sqlite_address(url)
    if file is not None:
        from forecaster.store.sqlite import SqliteFile  # noqa: PLC0415 - only what the URL needs

        return SqliteFile(*file)
    from forecaster.store.database import ReadDatabase  # noqa: PLC0415 - SQLAlchemy is for other databases

    return ReadDatabase(url)
