"""An SQLite file: how it is opened to read and to write, and who may write it.

Python's own library alone, so that a process which only reads a ledger starts fast. What is asked is in `reading`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections import namedtuple
from contextlib import closing, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from forecaster.address import sqlite_url
from forecaster.errors import LedgerMissing, SchemaTooNew, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

BUSY_TIMEOUT_MS: Final = 10_000
"""How long a lock is waited for, where the URL says nothing else."""
SCHEMA: Final = 7
"""The newest migration: what a ledger that this program wrote looks like."""

_OF_EVERY_SCHEMA: Final = {"series", "bar", "quarantine", "model", "run", "forecast"}
_LEFT_BEHIND: Final = (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY)
"""A writer died with a journal, or a write-ahead log, that is still to be dealt with."""

_PORTION: Final = 256
"""Pages, 1 MiB, that are copied while others wait: about a millisecond."""
_BEGIN_ANEW: Final = 8
"""How often a copy is begun anew since somebody wrote."""
_COPY_PAUSE_SECONDS: Final = 0.05
_COPY_PATIENCE_SECONDS: Final = 60.0

_WAL_FIXED_IN: Final = ((3, 51, 3), (3, 50, 7), (3, 44, 6))


class SqliteFile:
    """A ledger in a file, opened to be read: by a connection for each thread, which cannot write.

    A thread's connection ends with the thread, and when another file stands in the ledger's place. A file that is not
    there is not made.

    Args:
        path: of the file.
        busy_timeout_ms: how long a lock is waited for; `BUSY_TIMEOUT_MS` when left out.
    """

    def __init__(self, path: Path, busy_timeout_ms: int | None = None) -> None:
        self._path = path.absolute()
        self._url = sqlite_url(self._path)
        self._busy_timeout_ms = BUSY_TIMEOUT_MS if busy_timeout_ms is None else busy_timeout_ms
        self._forget()

    def ask(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Put a question; the lines of the answer have attributes.

        Raises:
            LedgerMissing: when there is no file, or no table in it.
            StoreUnavailable: when the file cannot be read, or an older program wrote it.
            SchemaTooNew: when a newer program wrote it.
        """
        try:
            try:
                return self._connection().execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in _LEFT_BEHIND:
                    raise
            self._recover()
            return self._connection().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(self._url, str(error)) from error

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for one in list(self._open):
                one.close()
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[_Opened] = weakref.WeakSet()
        self._local = threading.local()  # what a thread keeps here goes when the thread ends

    def _recover(self) -> None:
        """Let SQLite undo what a writer that died had begun: only a connection that may write can."""
        address = f"{self._path.as_uri()}?mode=rw"
        try:
            with closing(sqlite3.connect(address, uri=True, timeout=self._busy_timeout_ms / 1000)) as connection:
                connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in (*_LEFT_BEHIND, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise
            what = "expected to undo what a writer that died had begun; this user may not write here"
            raise StoreUnavailable(self._url, f"{what}: start the service, or read as its user once") from error

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection to the file that stands there now."""
        there = self._file()
        found: _Opened | None = getattr(self._local, "opened", None)
        if found is not None and found.file == there:
            return found.connection
        if found is not None:
            found.close()
            del self._local.opened
        if there is None:
            raise LedgerMissing(self._url)
        opened = _Opened(self._checked(there), there)
        with self._lock:
            self._open.add(opened)
        self._local.opened = opened
        return opened.connection

    def _checked(self, file: tuple[int, int]) -> sqlite3.Connection:
        """Open the file, and look whether this program can read it; a connection to one that it cannot is closed."""
        connection = sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout={self._busy_timeout_ms}")
            connection.row_factory = _line
            self._check(connection, file)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection, file: tuple[int, int]) -> None:
        schema = _schema_of(connection)
        if not schema:
            raise LedgerMissing(self._url)  # a writer may be about to make it
        check_schema(self._url, schema)
        if self._file() != file:
            raise StoreUnavailable(self._url, "expected one file, found another that took its place: try again")

    def _file(self) -> tuple[int, int] | None:
        """What tells the file from another of the same name; None when there is none."""
        try:
            there = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreUnavailable(self._url, str(error)) from error
        return there.st_dev, there.st_ino


class _Opened:
    """A connection and its file; it is closed when nobody keeps this any more."""

    def __init__(self, connection: sqlite3.Connection, file: tuple[int, int]) -> None:
        self.connection = connection
        self.file = file
        # A connection refers to itself: left alone it would stay open until the garbage collector comes.
        self.close = weakref.finalize(self, connection.close)


def check_schema(url: str, found: int) -> None:
    """Refuse a ledger that another program wrote.

    Raises:
        SchemaTooNew: a newer one.
        StoreUnavailable: an older one; whoever writes next brings it up to date.
    """
    if found > SCHEMA:
        raise SchemaTooNew(url, SCHEMA, found)
    if found < SCHEMA:
        raise StoreUnavailable(url, f"expected schema {SCHEMA}, found {found}: `forecaster store upgrade` mends that")


def copy(path: Path, to: Path, on_portion: Callable[[int, int], None] = lambda _, __: None) -> None:
    """Copy a ledger while it is in use, and check the copy; what stood at `to` is replaced at the end, or not at all.

    Pages are copied some at a time, and between two portions others write. What they write begins the copy anew; once
    that has happened a few times, what is left is copied at once, and writers wait for it.

    Args:
        path: of the ledger.
        to: file to write.
        on_portion: hears of every portion how many pages are left, and how many there are.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when it cannot be read, the copy cannot be written, or is not whole.
    """
    url = sqlite_url(path.absolute())
    if not path.exists():
        raise LedgerMissing(url)
    unfinished = to.with_name(f"{to.name}.unfinished")
    for one in (to, unfinished):
        _refuse_own(path, one)
    try:
        make_new(unfinished, path.stat().st_mode & 0o666)
        address = f"{path.absolute().as_uri()}?mode=ro"
        with _opened(address) as source, _opened(unfinished.absolute().as_uri()) as target:
            if not _schema_of(source):
                raise LedgerMissing(url)
            _Copying(source, target, on_portion).run()
            (found,) = target.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise StoreUnavailable(sqlite_url(to.absolute()), f"expected a copy that is whole, found {found}")
        unfinished.replace(to)
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(url, f"expected to copy it to {to}: {error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _refuse_own(path: Path, to: Path) -> None:
    """Refuse to copy a ledger onto itself, or onto what belongs to it: what is written meanwhile would be lost."""
    ledger, target = path.resolve(), to.resolve()
    own = {ledger.with_name(f"{ledger.name}{ending}") for ending in ("", "-journal", "-wal", "-shm", ".lock")}
    if target in own or (target.exists() and target.samefile(ledger)):
        raise StoreUnavailable(sqlite_url(ledger), f"expected another file to copy it to, found {to}: it is in use")


def _opened(address: str) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_MS / 1000))


def is_ledger(path: Path) -> bool:
    """Whether a file is a ledger of any schema, and not another program's; a journal beside it may be broken."""
    for more in ("", "&immutable=1"):
        with suppress(sqlite3.Error), _opened(f"{path.absolute().as_uri()}?mode=ro{more}") as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables >= _OF_EVERY_SCHEMA:
                return True
    return False


def make_new(path: Path, mode: int = 0o666) -> None:
    """Make an empty file where nothing or something unfinished stood; a link that was put there is not followed."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode))


class _BegunAnew(Exception):
    """Others wrote too often while pages were copied."""


class _Copying:
    """A copy under way.

    Args:
        source: what is copied.
        target: an empty database.
        on_portion: hears of every portion how many pages are left, and how many there are.
    """

    def __init__(
        self, source: sqlite3.Connection, target: sqlite3.Connection, on_portion: Callable[[int, int], None]
    ) -> None:
        self._source = source
        self._target = target
        self._on_portion = on_portion
        self._left: int | None = None
        self._may_begin_anew = _BEGIN_ANEW
        self._give_up = time.monotonic() + _COPY_PATIENCE_SECONDS

    def run(self) -> None:
        """Copy in portions, and at once when that does not come to an end."""
        if self._source.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            self._source.execute("BEGIN")  # one state of the ledger from here on, and nobody waits for its reader
            self._source.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        try:
            self._source.backup(self._target, pages=_PORTION, progress=self._hear, sleep=_COPY_PAUSE_SECONDS)
        except _BegunAnew:
            self._source.backup(self._target, progress=self._hear, sleep=_COPY_PAUSE_SECONDS)

    def _hear(self, status: int, left: int, pages: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if time.monotonic() > self._give_up:
                msg = f"database is locked, for {_COPY_PATIENCE_SECONDS:.0f} s"
                raise sqlite3.OperationalError(msg)
            return
        self._give_up = time.monotonic() + _COPY_PATIENCE_SECONDS
        is_anew, self._left = self._left is not None and left >= self._left, left
        self._on_portion(left, pages)
        if is_anew and left:
            self._may_begin_anew -= 1
            if self._may_begin_anew == 0:
                raise _BegunAnew


def prepare(connection: sqlite3.Connection, busy_timeout_ms: int | None = None) -> None:
    """Make a connection that writes; write-ahead log only where its reset bug is fixed.

    EXTRA synchronises the folder once a rollback journal is deleted. With FULL a power cut may bring the journal back,
    and what was committed is rolled back (sqlite.org/pragma.html#pragma_synchronous).
    """
    connection.isolation_level = None
    journal = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS if busy_timeout_ms is None else busy_timeout_ms}",
        f"journal_mode={journal}",
        "synchronous=EXTRA",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the WAL-reset fix (sqlite.org/wal.html, section 11)."""
    return version >= _WAL_FIXED_IN[0] or any(fixed <= version < (fixed[0], fixed[1] + 1) for fixed in _WAL_FIXED_IN)


def _schema_of(connection: sqlite3.Connection) -> int:
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "alembic_version" in tables:
        return schema_number(connection.execute("SELECT version_num FROM alembic_version").fetchone())
    return 1 if "schema_version" in tables else 0


def schema_number(row: Sequence[str] | None) -> int:
    """The number of a schema in the row of alembic's table.

    Raises:
        sqlite3.DatabaseError: when another program has written it.
    """
    name = str(row[0]) if row else None
    if name is None or not name.isdecimal():
        raise sqlite3.DatabaseError(f"expected a ledger, found the tables of another program at revision {name}")
    return int(name)


def _line(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Any:
    return _lines_of(tuple(column[0] for column in cursor.description))._make(values)


@lru_cache(maxsize=64)
def _lines_of(names: tuple[str, ...]) -> type[Any]:
    return namedtuple("Line", names)  # noqa: PYI024 - its fields are known only when the answer comes
