"""Where bars, forecasts and runs are kept: the two ports, and the one way to open each."""

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
    from forecaster.ledger import CalibrationState, Hold, LedgerRow, Run, SettledRow, SettledSteps, Slot
    from forecaster.store.queries import Asked


class Reader(Protocol):
    """What a ledger tells. Times are UTC ms; all methods raise `StoreUnavailable` when it cannot be read."""

    def bars(
        self,
        key: SeriesKey,
        start: int | None = None,
        end: int | None = None,
        as_of: int | None = None,
        run_id: str = LIVE,
    ) -> Bars:
        """Give the newest revision of every bar whose open_time lies in [start, end), as known at `as_of`.

        They are those that settle the run: its own where it has any, else the live ones; so in all methods.
        """

    def opens(self, key: SeriesKey, start: int, end: int) -> NDArray[np.int64]:
        """Give the open times in [start, end) of which there is a live bar, rising."""

    def newest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Open time of the newest bar of a series, None when there is none."""

    def oldest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Open time of the oldest bar of a series, None when there is none."""

    def rejected(self, key: SeriesKey) -> list[RejectedRow]:
        """Give the rows of a series that were refused, in the order in which they came."""

    def gaps(self, key: SeriesKey, start: int, end: int) -> dict[int, list[int]]:
        """Give the open times in [start, end) without a bar, with the times at which each was asked for."""

    def holds(self) -> list[Hold]:
        """Give the newest hold of each exchange, by name, also where it has ended or was lifted."""

    def held_until(self, exchange: str) -> int | None:
        """Give the time before which this exchange is not to be asked; None when there was never one."""

    def series(self) -> list[SeriesKey]:
        """Give all series that are in the ledger, those of replays too, by name."""

    def runs(self) -> list[Run]:
        """Give all runs that were recorded, by the time at which they ran."""

    def models(self) -> list[ModelId]:
        """Give all models that have forecast, by name."""

    def latest(
        self, key: SeriesKey, model_name: str, run_id: str = LIVE, as_of: int | None = None
    ) -> OHLCForecast | None:
        """Give the forecast with the newest cutoff that a model of this name made and that was there at `as_of`."""

    def history(
        self, key: SeriesKey, start: int, end: int, run_id: str = LIVE, as_of: int | None = None
    ) -> list[LedgerRow]:
        """Give the rows, by cutoff, model, step and field, that were there at `as_of` with a cutoff in [start, end)."""

    def settled_rows(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledRow]:
        """Give rows that were there at `as_of` and whose target bar was first seen in (since, as_of].

        The outcome is the newest revision of that bar at `as_of`.
        """

    def arrived(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledSteps]:
        """Give the steps whose target bar was first seen in (since, as_of], by series."""

    def settled(
        self, key: SeriesKey, as_of: int, since: int | None = None, run_id: str = LIVE
    ) -> Iterator[SettledSteps]:
        """Give the same of one series, some cutoffs at a time, however many there are."""

    def slots(self, key: SeriesKey, start: int, end: int) -> list[Slot]:
        """Give the work of a series whose cutoff lies in [start, end), oldest first."""

    def slot_before(self, key: SeriesKey, cutoff: int) -> Slot | None:
        """Give the newest work of a series before `cutoff`; None when there is none."""

    def cutoffs(self, key: SeriesKey, run_id: str = LIVE) -> NDArray[np.int64]:
        """Give the cutoffs that a run has forecast of a series, rising."""

    def versions(self, key: SeriesKey) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Give open time, revision and first_seen_at of every version of every live bar of a series."""

    def revised(self, key: SeriesKey, start: int, end: int, since: int, as_of: int | None = None) -> list[int]:
        """Give the open times in [start, end) of live bars whose prices changed in (since, as_of]."""

    def calibration(self, key: SeriesKey, model_id: str, run_id: str = LIVE) -> CalibrationState | None:
        """Give what was last learned of a model on a series in a run; None before the first forecast."""

    def close(self) -> None:
        """Let go of the database."""


class Store(Reader, Protocol):
    """Append-only memory of the service, for the one process that writes it.

    Every write is durable when the call returns. Nothing that was written is changed or deleted, but the states of
    slots and of calibration. All methods raise `StoreUnavailable` when the database cannot be written, and `LeaseLost`
    when another process has taken over; then nothing of the call was kept.
    """

    @property
    def epoch(self) -> int:
        """How often the right to write has changed hands."""

    @property
    def owner(self) -> str:
        """What the lease calls this process; empty where no other can write."""

    def renew(self) -> None:
        """Keep the right to write, as every write does."""

    def check(self) -> None:
        """Look whether what is stored is whole.

        Raises:
            StoreUnavailable: says what is broken.
        """

    def together(self, *, write: bool = True) -> AbstractContextManager[None]:
        """Have what this thread does in a block in one transaction: durable when the block ends, all of it or nothing.

        What is done for a thousand series then takes one commit. Nothing that waits belongs into a block that writes:
        nobody else can write meanwhile.
        """

    def add_bars(self, bars: Bars, run_id: str = LIVE) -> int:
        """Append bars that are new, and a further revision of those that changed; returns how many rows.

        Those of a replay have a series of their own, which its run alone sees.
        """

    def quarantine(self, key: SeriesKey, rows: Sequence[RejectedRow], seen_at: int) -> None:
        """Keep rows that were refused, with their reasons; one that is there already stays as it is."""

    def add_gaps(self, key: SeriesKey, opens: Sequence[int], asked_at: int) -> None:
        """Keep that the bars of these open times were asked for at `asked_at`, and that there were none."""

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Keep that this exchange is not to be asked before `until`; its newest row is the one that counts."""

    def add_run(self, run: Run) -> None:
        """Name a run before its forecasts; a run that is known stays as it is."""

    def add_forecasts(
        self, forecasts: Sequence[OHLCForecast], run_id: str, learned: Sequence[CalibrationState] = ()
    ) -> int:
        """Append forecasts and what was learned by them, in one transaction; returns how many forecasts are new.

        A forecast that is in the ledger with the same numbers is left alone.

        Raises:
            LedgerConflict: when it is there with other numbers; then nothing of the batch is written.
        """

    def postpone(self, forecasts: Sequence[OHLCForecast], run_id: str) -> None:
        """Keep that these were committed later than they were stamped: they count as there from `available_at` on."""

    def set_slots(self, slots: Sequence[Slot], changed_at: int) -> None:
        """Keep the state of work; a slot that is done stays done."""


def open_store(url: str) -> Store:
    """Open the store at `url` to write it: `memory:` or an SQLAlchemy URL such as `sqlite:///ledger.db`.

    Raises:
        StoreUnavailable: when it cannot be opened, or another process writes it.
        SchemaTooNew: when a newer program wrote it.
    """
    if url == MEMORY:
        from forecaster.store.memory import MemoryStore  # noqa: PLC0415 - only what the URL asks for

        return MemoryStore()
    from forecaster.store.sql import SqlStore  # noqa: PLC0415 - SQLAlchemy is for who writes

    return SqlStore(url)


def open_reader(url: str) -> Reader:
    """Open the store at `url` to read it, beside whoever writes it. An SQLite file is read without SQLAlchemy.

    Raises:
        StoreUnavailable: for a URL that no library here can open. A ledger that is not there is one to every question:
            `LedgerMissing`, until somebody has begun it.
    """
    if url == MEMORY:
        return open_store(url)
    from forecaster.store.queries import Reading  # noqa: PLC0415 - only what the URL asks for

    return Reading(open_database(url))


def open_database(url: str) -> Asked:
    """Open the database at `url` to be asked in SQL; an SQLite file without SQLAlchemy, and so that nobody can write.

    Raises:
        StoreUnavailable: for a URL that no library here can open.
    """
    file = sqlite_address(url)
    if file is not None:
        from forecaster.store.sqlite import SqliteFile  # noqa: PLC0415 - only what the URL asks for

        return SqliteFile(*file)
    from forecaster.store.database import ReadDatabase  # noqa: PLC0415 - SQLAlchemy is for other databases

    return ReadDatabase(url)
