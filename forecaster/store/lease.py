"""The writer of a ledger: one process at a time, by a lease with an epoch as fencing token.

Two signals show whether the last writer is alive. The first is a lock that its death frees: `flock` beside an SQLite
file, an advisory lock in PostgreSQL. The second is the lease row, which a thread of the writer renews. It stays
unchanged when that process is stopped or cut off from the database. A waiting process watches the row by the monotonic
clock and takes over after `LEASE_MS` without a change; no wall clock is involved. It terminates the connections of the
last writer, where the database can, and increments the epoch. Every write transaction first checks the epoch, so a
writer that wakes up late writes nothing.

A lease belongs to one file and is lost when that file is removed or replaced. When the lock file is removed, its holder
locks the new one at its next write. A lock file that had to be created says nothing about the last writer.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from forecaster.clock import now_ms
from forecaster.errors import LeaseLost, StoreTaken, StoreUnavailable
from forecaster.store import migrations
from forecaster.store import schema as t
from forecaster.store.lock import lock_of
from forecaster.store.sqlite import SCHEMA, identity

if TYPE_CHECKING:
    from forecaster.store.database import Database

LEASE_MS: Final = 30_000
WRITER: Final = "writer"
_ACQUIRE_TIMEOUT_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.05
_RENEW: Final = sa.text("""
UPDATE lease SET expires_at = CASE WHEN expires_at < :expires_at THEN :expires_at ELSE expires_at + 1 END,
    locked = :locked
WHERE name = :name AND epoch = :epoch AND owner = :owner""").bindparams(sa.bindparam("locked", type_=sa.Boolean()))
"""`expires_at` never repeats a value, whatever the clock does: a watcher sees every renewal."""
_RELEASED: Final = 0


class LeaseWatch:
    """How long the lease of a ledger has not changed, as far as this process has observed.

    The time between two observations counts as a third of a lease at most: when the watcher itself was stopped, the
    writer may have been stopped with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._row: object = None
        self._observed_at: float | None = None
        self._unchanged_ms = 0.0
        self.changes = 0

    def observe(self, row: object) -> float:
        """Compare the lease row with the last observation; return for how many ms it has not changed."""
        with self._lock:
            now = time.monotonic()
            if self._observed_at is None or row != self._row:
                self._row, self._unchanged_ms = row, 0.0
                self.changes += 1
            else:
                self._unchanged_ms += min((now - self._observed_at) * 1000, LEASE_MS / 3)
            self._observed_at = now
            return self._unchanged_ms


_watches: defaultdict[str, LeaseWatch] = defaultdict(LeaseWatch)
"""By ledger. A service that waits for a lease retries, and its observations must outlive each attempt."""


class Lease:
    """The exclusive right to write, acquired on construction. The ledger then has the current schema.

    Raises:
        StoreTaken: when another process holds it.
        StoreUnavailable: when the database cannot be opened.
        SchemaTooNew: when a newer program wrote it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owner = database.session
        self._lock = lock_of(database)
        self._watch = _watches[database.identity]
        self._lost: LeaseLost | None = None
        try:
            self.epoch = self._acquire_in_time()
            self._file = None if database.path is None else identity(database.path)
            database.is_writer = True
        except BaseException:
            self._lock.release()
            raise
        self._ending = threading.Event()
        self._renewer = threading.Thread(
            target=self._renew_until_released, name=f"lease of {database.url}", daemon=True
        )
        self._renewer.start()

    def confirm(self, connection: sa.Connection) -> None:
        """Renew the lease at the start of a write transaction.

        A writer that has no lock, since the last one still held it or its file was removed, acquires it once it is
        free.

        Raises:
            LeaseLost: when another process has taken over, or another file has taken the place of the ledger.
        """
        if self._lost is not None:
            raise self._lost
        self._check_file()
        own = {"name": WRITER, "epoch": self.epoch, "owner": self._owner}
        renewed = connection.execute(
            _RENEW, {"expires_at": now_ms() + LEASE_MS, "locked": self._lock.try_reacquire(), **own}
        )
        if renewed.rowcount != 1:
            raise LeaseLost(self._database.url, self.epoch)

    def release(self) -> None:
        """Release the lease, so that another process can acquire it at once."""
        self._ending.set()
        self._renewer.join()
        own = (t.lease.c.name == WRITER, t.lease.c.epoch == self.epoch, t.lease.c.owner == self._owner)
        with suppress(StoreUnavailable, LeaseLost):
            self._check_file()
            with self._database.transaction() as connection:
                connection.execute(t.lease.update().where(*own).values(expires_at=_RELEASED))
        self._lock.release()

    def renew(self) -> None:
        """Renew the lease.

        Raises:
            LeaseLost: when another process has taken over, or the ledger file or its log was removed.
            StoreUnavailable: when the database cannot be written now, or a removed log cannot be saved yet.
        """
        self._check_file()
        with self._database.transaction() as connection:
            self.confirm(connection)
        self._save_removed_log()
        self._database.checkpoint()

    def _save_removed_log(self) -> None:
        """Save the content of a removed write-ahead log, and lose this lease: the next one starts a new log."""
        if not self._database.has_removed_log:
            return
        try:
            is_saved = self._database.checkpoint(at_once=True)
        except StoreUnavailable:
            is_saved = not self._database.has_removed_log  # the last connection saved it when it closed
        if not is_saved:
            reason = "expected its write-ahead log, which was removed; it is saved when no transaction is open"
            raise StoreUnavailable(self._database.url, reason)
        raise LeaseLost(self._database.url, self.epoch, "its write-ahead log was removed")

    def _check_file(self) -> None:
        path = self._database.path
        if path is None:
            return
        current = identity(path)
        if current != self._file:
            what = "its file was removed" if current is None else "another file has taken its place"
            raise LeaseLost(self._database.url, self.epoch, what)

    def _renew_until_released(self) -> None:
        """Renew the lease periodically until it is released or lost; retry soon after a failure."""
        seconds = LEASE_MS / 3000
        while not self._ending.wait(seconds):
            try:
                self.renew()
            except LeaseLost as error:
                self._lost = error  # raised by the next write
                return
            except Exception:  # noqa: BLE001 - such as a full disk; this thread must go on
                seconds = LEASE_MS / 30_000
            else:
                seconds = LEASE_MS / 3000

    def _acquire_in_time(self) -> int:
        """Acquire the lease, waiting a moment for a command that is about to end.

        The holder of the lock waits longer: until it has seen whether a last writer without a lock is alive.
        """
        deadline, changes = time.monotonic() + _ACQUIRE_TIMEOUT_SECONDS, None
        while True:
            try:
                return self._acquire()
            except StoreTaken:
                changes = self._watch.changes if changes is None else changes
                is_watching = self._lock.is_held and self._watch.changes == changes
                if time.monotonic() >= deadline and not is_watching:
                    raise
            time.sleep(_POLL_SECONDS)

    def _acquire(self) -> int:
        """Acquire the lease if it was released, was held with the lock that is free now, or has expired."""
        locked = self._lock.try_acquire()
        if locked:
            migrations.upgrade(self._database)
        elif migrations.schema_in(self._database) != SCHEMA:
            raise StoreTaken(self._database.url, "expected the current schema; another process has yet to upgrade it")
        query = sa.select(t.lease).where(t.lease.c.name == WRITER)
        with self._database.transaction(write=False) as connection:
            last = connection.execute(query).one_or_none()
        self._refuse_alive(last, locked=locked)
        with self._database.transaction() as connection:
            if last is not None:
                self._database.terminate(connection, last.owner)
            if connection.execute(query.with_for_update()).one_or_none() != last:
                raise StoreTaken(self._database.url, "expected to be the only one that writes; another was faster")
            epoch = 1 if last is None else int(last.epoch) + 1
            row = {"owner": self._owner, "epoch": epoch, "expires_at": now_ms() + LEASE_MS, "locked": locked}
            if last is None:
                connection.execute(t.lease.insert().values(name=WRITER, **row))
            else:
                connection.execute(t.lease.update().where(t.lease.c.name == WRITER).values(row))
        return epoch

    def _refuse_alive(self, last: sa.Row[Any] | None, *, locked: bool) -> None:
        """Check that the last writer is not alive.

        A free lock proves that only if that writer held it: one that took over from a stopped process has no lock until
        that process wakes. A lock file that did not exist proves nothing: the held one may have been removed.

        Raises:
            StoreTaken: when it may be alive.
        """
        if last is None:
            if not locked:
                raise StoreTaken(self._database.url, "expected to be the only one that writes; another is about to")
            return
        unchanged_ms = self._watch.observe(tuple(last))
        has_died = locked and last.locked and not self._lock.is_new
        if last.expires_at != _RELEASED and not has_died and unchanged_ms < LEASE_MS:
            expected = f"expected to be the only one that writes; process {last.owner} does"
            raise StoreTaken(self._database.url, f"{expected}: stop it, or use a ledger of your own")
