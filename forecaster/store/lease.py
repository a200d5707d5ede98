"""Who writes a ledger: one process at a time, known by a lease with an epoch, and fenced when it has lost it.

Two things tell whether the last writer lives. A lock that its death frees at once: `flock` beside an SQLite file, an
advisory lock of PostgreSQL. And the lease in the database, which a thread changes again and again as long as the
process runs: it stands still when the process is stopped, or cut off from the database. Whoever waits watches it by the
monotonic clock, and takes over once it has stood still for `LEASE_MS`; no wall clock has a say. Whoever takes over ends
what the last one has begun, where the database can, and raises the epoch; every write transaction begins by checking
it, so one that wakes up late writes nothing.

A lease belongs to one file: it is lost when that file is removed or replaced. When the file of the lock is removed, its
holder locks the new one at its next write, and a lock that had to be made says nothing about who lives.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import sqlalchemy as sa

from forecaster.clock import now_ms
from forecaster.errors import LeaseLost, StoreTaken, StoreUnavailable
from forecaster.store import migrations
from forecaster.store import schema as t
from forecaster.store.sqlite import SCHEMA, identity
from forecaster.urls import sqlite_url

if TYPE_CHECKING:
    from forecaster.store.database import Database

LEASE_MS: Final = 30_000
WRITER: Final = "writer"
_PATIENCE_SECONDS: Final = 3.0
_POLL_SECONDS: Final = 0.05
_ADVISORY_KEY: Final = 0x0C04_2002
_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.rclone"}
)
_PROLONG: Final = sa.text("""
UPDATE lease SET expires_at = CASE WHEN expires_at < :expires_at THEN :expires_at ELSE expires_at + 1 END,
    locked = :locked
WHERE name = :name AND epoch = :epoch AND owner = :owner""").bindparams(sa.bindparam("locked", type_=sa.Boolean()))
"""Never the same value twice, wherever the writer's clock is set: who watches sees that it changes."""
_GIVEN_BACK: Final = 0


class Watch:
    """How long the lease of a ledger has stood still, as far as this process has looked.

    Between two looks counts at most for a third of a lease: when the watcher itself was stopped, the writer may have
    been stopped with it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: object = None
        self._looked: float | None = None
        self._still_ms = 0.0
        self.changes = 0

    def look(self, row: object) -> float:
        """Compare the lease with what it was at the last look; gives for how many ms it has stood still."""
        with self._lock:
            now = time.monotonic()
            if self._looked is None or row != self._seen:
                self._seen, self._still_ms = row, 0.0
                self.changes += 1
            else:
                self._still_ms += min((now - self._looked) * 1000, LEASE_MS / 3)
            self._looked = now
            return self._still_ms


_watches: defaultdict[str, Watch] = defaultdict(Watch)
"""Of all ledgers that this process waits for: a service that waits tries again and again, and goes on watching."""


class Lock(Protocol):
    """Held by one living process at most."""

    @property
    def is_held(self) -> bool:
        """Whether it was taken, and not given back."""

    @property
    def is_new(self) -> bool:
        """Whether this process made it, so that nobody can have held it before."""

    def try_take(self) -> bool:
        """Take it; False when another holds it."""

    def try_keep(self) -> bool:
        """Take it again where it was lost; False when it cannot be had now."""

    def release(self) -> None:
        """Give it back, if it was taken."""


class Lease:
    """The right to write, taken when it is made, kept by writing. Whoever gets it has today's schema.

    Raises:
        StoreTaken: when another process writes.
        StoreUnavailable: when the database cannot be opened.
        SchemaTooNew: when a newer program wrote it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owner = database.session
        self._lock = lock_of(database)
        self._watch = _watches[database.place]
        self._lost: LeaseLost | None = None
        try:
            self.epoch = self._take_in_time()
            self._file = None if database.path is None else identity(database.path)
            database.is_begun = True
        except BaseException:
            self._lock.release()
            raise
        self._ending = threading.Event()
        self._heart = threading.Thread(target=self._live, name=f"lease of {database.url}", daemon=True)
        self._heart.start()

    def confirm(self, connection: sa.Connection) -> None:
        """Begin a write transaction: prolong the lease, or refuse to write without it.

        Whoever took over from a process that still held the lock, or whose lock was removed, takes it once it is free.

        Raises:
            LeaseLost: when another process has taken over, or another file has taken the place of the ledger.
        """
        if self._lost is not None:
            raise self._lost
        self._refuse_another_file()
        mine = {"name": WRITER, "epoch": self.epoch, "owner": self._owner}
        kept = connection.execute(
            _PROLONG, {"expires_at": now_ms() + LEASE_MS, "locked": self._lock.try_keep(), **mine}
        )
        if kept.rowcount != 1:
            raise LeaseLost(self._database.url, self.epoch)

    def release(self) -> None:
        """Let the next one write at once."""
        self._ending.set()
        self._heart.join()
        mine = (t.lease.c.name == WRITER, t.lease.c.epoch == self.epoch, t.lease.c.owner == self._owner)
        with suppress(StoreUnavailable, LeaseLost):
            self._refuse_another_file()
            with self._database.transaction() as connection:
                connection.execute(t.lease.update().where(*mine).values(expires_at=_GIVEN_BACK))
        self._lock.release()

    def beat(self) -> None:
        """Prolong the lease.

        Raises:
            LeaseLost: when another process has taken over, or the file of the ledger or its log is no longer there.
            StoreUnavailable: when the database cannot be written now, or a log that was removed cannot be saved yet.
        """
        self._refuse_another_file()
        with self._database.transaction() as connection:
            self.confirm(connection)
        self._refuse_lost_log()
        self._database.checkpoint()

    def _refuse_lost_log(self) -> None:
        """Save what a write-ahead log holds that was removed, and end this lease: the next one begins another log."""
        if not self._database.has_lost_log:
            return
        try:
            is_saved = self._database.checkpoint(at_once=True)
        except StoreUnavailable:
            is_saved = not self._database.has_lost_log  # the last connection that was closed has saved it
        if not is_saved:
            reason = "expected its write-ahead log, which was removed; it is saved when no transaction is open any more"
            raise StoreUnavailable(self._database.url, reason)
        raise LeaseLost(self._database.url, self.epoch, "its write-ahead log was removed")

    def _refuse_another_file(self) -> None:
        path = self._database.path
        if path is None:
            return
        there = identity(path)
        if there != self._file:
            what = "its file was removed" if there is None else "another file has taken its place"
            raise LeaseLost(self._database.url, self.epoch, what)

    def _live(self) -> None:
        """Prolong the lease while nothing is written, until it ends or is lost; after a failure, soon again."""
        seconds = LEASE_MS / 3000
        while not self._ending.wait(seconds):
            try:
                self.beat()
            except LeaseLost as error:
                self._lost = error  # whoever writes next is told
                return
            except Exception:  # noqa: BLE001 - the disk is full, or gone for a moment; this thread must go on
                seconds = LEASE_MS / 30_000
            else:
                seconds = LEASE_MS / 3000

    def _take_in_time(self) -> int:
        """Take the lease, waiting a moment for a command that is about to end.

        Who has the lock is the only one that waits: for as long as it takes to see whether the last one, which had no
        lock, lives.
        """
        give_up, changes = time.monotonic() + _PATIENCE_SECONDS, None
        while True:
            try:
                return self._take()
            except StoreTaken:
                changes = self._watch.changes if changes is None else changes
                is_watching = self._lock.is_held and self._watch.changes == changes
                if time.monotonic() >= give_up and not is_watching:
                    raise
            time.sleep(_POLL_SECONDS)

    def _take(self) -> int:
        """Take the lease if the last one has given it back, had the lock, which is free now, or stands still."""
        locked = self._lock.try_take()
        if locked:
            migrations.upgrade(self._database)
        elif migrations.schema_in(self._database) != SCHEMA:
            raise StoreTaken(self._database.url, "expected today's schema; another process has yet to bring it there")
        query = sa.select(t.lease).where(t.lease.c.name == WRITER)
        with self._database.transaction(write=False) as connection:
            last = connection.execute(query).one_or_none()
        self._refuse_living(last, locked=locked)
        with self._database.transaction() as connection:
            if last is not None:
                self._database.cut_off(connection, last.owner)
            if connection.execute(query.with_for_update()).one_or_none() != last:
                raise StoreTaken(self._database.url, "expected to be the only one that writes; another was quicker")
            epoch = 1 if last is None else int(last.epoch) + 1
            row = {"owner": self._owner, "epoch": epoch, "expires_at": now_ms() + LEASE_MS, "locked": locked}
            if last is None:
                connection.execute(t.lease.insert().values(name=WRITER, **row))
            else:
                connection.execute(t.lease.update().where(t.lease.c.name == WRITER).values(row))
        return epoch

    def _refuse_living(self, last: sa.Row[Any] | None, *, locked: bool) -> None:
        """Leave the lease to whoever may be living.

        Who took over from a process that was stopped has no lock until that one wakes: then a free lock says nothing.
        Nor does one that was not there: somebody may have removed the one that is held.
        """
        if last is None:
            if not locked:
                raise StoreTaken(self._database.url, "expected to be the only one that writes; another begins to")
            return
        still_ms = self._watch.look(tuple(last))
        has_died = locked and last.locked and not self._lock.is_new
        if last.expires_at != _GIVEN_BACK and not has_died and still_ms < LEASE_MS:
            expected = f"expected to be the only one that writes; process {last.owner} does"
            raise StoreTaken(self._database.url, f"{expected}: stop it, or use a ledger of your own")


def lock_of(database: Database) -> Lock:
    """The lock that a database's writer holds.

    Raises:
        StoreUnavailable: for a file on a network file system, whose locks cannot be trusted, and for one with several
            names: SQLite has a journal for each name, and two would destroy the ledger.
    """
    if database.path is None:
        return AdvisoryLock(database)
    if database.path.is_file() and (names := database.path.stat().st_nlink) > 1:
        what = f"expected a file with one name, found {names} hard links to it"
        raise StoreUnavailable(
            database.url, f"{what}: stop all that use it, and leave one name, or copy it with `forecaster store backup`"
        )
    kind = _file_system_of(database.path)
    if kind in _NETWORK:
        raise StoreUnavailable(database.url, f"expected a local file system, whose locks hold, found {kind}")
    return FileLock(database.path.with_name(f"{database.path.name}.lock"))


class FileLock:
    """`flock` on a file beside the ledger; the kernel frees it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.is_new = False

    @property
    def is_held(self) -> bool:
        """Whether it was taken, and not given back."""
        return self._file is not None

    def try_take(self) -> bool:
        """Take it; False when another holds it. A file that was removed or replaced is no lock any more."""
        if self._file is not None and self._is_there(self._file):
            return True
        self.release()
        while True:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                return False
            if self._is_there(file):
                self._file = file
                return True
            os.close(file)

    def try_keep(self) -> bool:
        """Take it again where it was lost; False when it cannot be had now."""
        try:
            return self.try_take()
        except StoreUnavailable:
            return False

    def release(self) -> None:
        """Give it back, if it was taken."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with suppress(FileExistsError):
                file = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o644)
                self.is_new = True
                return file
            return os.open(self._path, flags | os.O_CREAT, 0o644)
        except OSError as error:
            what = f"the folder {self._path.parent}" if not self._path.parent.is_dir() else "a file that can be locked"
            raise StoreUnavailable(sqlite_url(self._path.with_suffix("")), f"expected {what}: {error}") from error

    def _is_there(self, file: int) -> bool:
        """Whether an open file is the one that others would lock."""
        held = os.fstat(file)
        return identity(self._path) == (held.st_dev, held.st_ino)


class AdvisoryLock:
    """A lock of PostgreSQL's on a session of its own; the server frees it when the session ends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session: sa.Connection | None = None
        self.is_new = False

    @property
    def is_held(self) -> bool:
        """Whether it was taken, and not given back."""
        return self._session is not None

    def try_take(self) -> bool:
        """Take it; False when another holds it."""
        if self._session is not None:
            return True
        with ExitStack() as opened, self._database.faults():
            session = opened.enter_context(self._database.engine.connect())
            session.execution_options(isolation_level="AUTOCOMMIT")
            if not session.scalar(sa.select(sa.func.pg_try_advisory_lock(_ADVISORY_KEY))):
                return False
            session.detach()
            self._session = session
            opened.pop_all()
        return True

    def try_keep(self) -> bool:
        """Take it again where it was lost."""
        return self.try_take()

    def release(self) -> None:
        """Give it back, if it was taken."""
        if self._session is not None:
            with suppress(sa.exc.SQLAlchemyError):
                self._session.close()
            self._session = None


def _file_system_of(path: Path) -> str:
    """The kind of file system that a path lies on, as the kernel calls it; empty where it does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    places = [(line.split()[1].replace("\\040", " "), line.split()[2]) for line in mounts]
    where = path.absolute()
    holding = [(len(place), kind) for place, kind in places if where.is_relative_to(place)]
    return max(holding, default=(0, ""))[1]
