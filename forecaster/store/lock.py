"""The lock of a ledger's writer, which the system frees when its process ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import sqlalchemy as sa

from forecaster.errors import StoreUnavailable
from forecaster.store.sqlite import identity
from forecaster.urls import sqlite_url

if TYPE_CHECKING:
    from forecaster.store.database import Database

_ADVISORY_KEY: Final = 0x0C04_2002
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs", "fuse.rclone"}
)


class Lock(Protocol):
    """A lock that at most one running process holds."""

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""

    @property
    def is_new(self) -> bool:
        """Whether this process created it, so that no other can have held it before."""

    def try_acquire(self) -> bool:
        """Acquire it; False when another process holds it."""

    def try_reacquire(self) -> bool:
        """Acquire it again if it was lost; False when that fails now."""

    def release(self) -> None:
        """Release it, if it is held."""


def lock_of(database: Database) -> Lock:
    """Return the lock that the writer of a database holds.

    Raises:
        StoreUnavailable: for a file on a network file system, where locks are unreliable, and for a file with several
            hard links: SQLite keeps one journal per name, and two would destroy the ledger.
    """
    if database.path is None:
        return AdvisoryLock(database)
    if database.path.is_file() and (names := database.path.stat().st_nlink) > 1:
        what = f"expected a file with one name, found {names} hard links to it"
        raise StoreUnavailable(
            database.url,
            f"{what}: stop all programs that use it, and keep one name, or copy it with `forecaster store backup`",
        )
    kind = _file_system_of(database.path)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StoreUnavailable(database.url, f"expected a local file system, whose locks hold, found {kind}")
    return FileLock(database.path.with_name(f"{database.path.name}.lock"))


class FileLock:
    """`flock` on a file beside the ledger; the kernel frees it when the process ends, also by `kill -9`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self.is_new = False

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""
        return self._file is not None

    def try_acquire(self) -> bool:
        """Acquire it; False when another process holds it. A removed or replaced file no longer counts as the lock."""
        if self._file is not None and self._is_current(self._file):
            return True
        self.release()
        while True:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(file)
                return False
            if self._is_current(file):
                self._file = file
                return True
            os.close(file)

    def try_reacquire(self) -> bool:
        """Acquire it again if it was lost; False when that fails now."""
        try:
            return self.try_acquire()
        except StoreUnavailable:
            return False

    def release(self) -> None:
        """Release it, if it is held."""
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

    def _is_current(self, file: int) -> bool:
        """Whether an open file is the one that other processes would lock."""
        held = os.fstat(file)
        return identity(self._path) == (held.st_dev, held.st_ino)


class AdvisoryLock:
    """An advisory lock of PostgreSQL in a session of its own; the server frees it when the session ends."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session: sa.Connection | None = None
        self.is_new = False

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""
        return self._session is not None

    def try_acquire(self) -> bool:
        """Acquire it; False when another process holds it."""
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

    def try_reacquire(self) -> bool:
        """Acquire it again if it was lost."""
        return self.try_acquire()

    def release(self) -> None:
        """Release it, if it is held."""
        if self._session is not None:
            with suppress(sa.exc.SQLAlchemyError):
                self._session.close()
            self._session = None


def _file_system_of(path: Path) -> str:
    """Return the kernel's name of the file system of a path, empty when unknown."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    places = [(line.split()[1].replace("\\040", " "), line.split()[2]) for line in mounts]
    where = path.absolute()
    holding = [(len(place), kind) for place, kind in places if where.is_relative_to(place)]
    return max(holding, default=(0, ""))[1]
