"""An SQLite file: how it is read, and how the writer opens and closes it.

This module does not import SQLAlchemy, so that a process which only reads a ledger starts fast. The queries are in
`queries`. The writer keeps a write-ahead log, so that it and its readers do not block each other. A ledger that no
process has open is a single file, which a user without write permission can read.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import namedtuple
from contextlib import closing, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from forecaster.errors import LedgerMissing, SchemaTooNew, StoreUnavailable, storable
from forecaster.store.sqlite_library import connect, sqlite3, wal_is_safe
from forecaster.urls import sqlite_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BUSY_TIMEOUT_MS: Final = 10_000
"""How long to wait for a lock, unless the URL says otherwise."""
SCHEMA: Final = 8
"""The schema that this program writes: the latest migration."""
OLDEST_SCHEMA: Final = 7
"""The oldest schema that can be upgraded."""

_TABLES_OF_EVERY_SCHEMA: Final = {"series", "bar", "quarantine", "model", "run", "forecast"}
_MAY_NOT_WRITE: Final = ("readonly database", "unable to open database file")
"""Messages of SQLite when a read needs a write first; pysqlite3 does not expose error codes."""
LOG_LIMIT: Final = 64 * 2**20
"""Bytes of a write-ahead log that stay on disk after a checkpoint."""

_DAMAGE: Final = ("malformed", "not a database")
"""Messages of SQLite for a file that it cannot read to the end."""
JOURNALS: Final = ("-journal", "-wal")


class SqliteFile:
    """A ledger in a file, opened read-only, with one connection per thread.

    A connection is closed when its thread ends, or when another file takes the place of the ledger. A missing file is
    not created.

    Args:
        path: of the file.
        busy_timeout_ms: how long to wait for a lock, `BUSY_TIMEOUT_MS` by default.
    """

    def __init__(self, path: Path, busy_timeout_ms: int | None = None) -> None:
        self._path = path.absolute()
        self._url = sqlite_url(self._path)
        self._log_path = f"{self._path}-wal"
        self._busy_timeout_ms = BUSY_TIMEOUT_MS if busy_timeout_ms is None else busy_timeout_ms
        self._reset()

    def query(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Run an SQL text with named values; return rows whose columns are attributes.

        Raises:
            LedgerMissing: when there is no file, or it has no tables.
            StoreUnavailable: when the file cannot be read, or an older program wrote it.
            SchemaTooNew: when a newer program wrote it.
        """
        values = {name: storable(value) if isinstance(value, str) else value for name, value in values.items()}
        try:
            try:
                return self._connection().execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if not _may_not_write(error):
                    raise
            if self._state()[1]:
                self._recover()
                return self._connection().execute(sql, values).fetchall()
            return self._query_read_only(sql, values)
        except sqlite3.Error as error:
            raise StoreUnavailable(self._url, str(error)) from error

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for opened_connection in list(self._open):
                opened_connection.close()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[_Opened] = weakref.WeakSet()
        self._local = threading.local()  # freed when the thread ends

    def _query_read_only(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Query a ledger that no process has open, when this user may not create the files of its write-ahead log.

        SQLite assumes that the file does not change (`immutable`); that is checked afterwards.
        """
        before = self._state()
        with closing(connect(f"{self._path.as_uri()}?mode=ro&immutable=1")) as connection:
            connection.row_factory = _row
            self._check(connection, self._file())
            rows = connection.execute(sql, values).fetchall()
        if before[1] or self._state() != before:
            raise StoreUnavailable(
                self._url, "expected a ledger that no process writes, found one that changed: try again"
            )
        return rows

    def _state(self) -> tuple[tuple[int, ...], list[str]]:
        """Return what changes with every write of the file, and which journals are beside it."""
        status = self._path.stat()
        beside = [suffix for suffix in JOURNALS if self._path.with_name(self._path.name + suffix).exists()]
        return (status.st_ino, status.st_size, status.st_mtime_ns), beside

    def _recover(self) -> None:
        """Let SQLite roll back the transaction of a writer that died: only a read-write connection can."""
        what = "expected to roll back the transaction of a writer that died"
        if "-wal" in self._state()[1] and not wal_is_safe(sqlite3.sqlite_version_info):
            raise StoreUnavailable(self._url, f"{what}; SQLite {sqlite3.sqlite_version} may not: start the service")
        address = f"{self._path.as_uri()}?mode=rw"
        try:
            with closing(connect(address, seconds=self._busy_timeout_ms / 1000)) as connection:
                connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if not _may_not_write(error):
                raise
            reason = f"{what}; this user may not write here: start the service, or read as its user once"
            raise StoreUnavailable(self._url, reason) from error

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection to the current file."""
        file = self._file()
        files = file, self._log_file()
        known: _Opened | None = getattr(self._local, "opened", None)
        if known is not None and known.files == files:
            return known.connection
        if known is not None:
            known.close()
            del self._local.opened
        if file is None:
            raise LedgerMissing(self._url)
        new = _Opened(self._checked(file), files)
        with self._lock:
            self._open.add(new)
        self._local.opened = new
        return new.connection

    def _checked(self, file: tuple[int, int]) -> sqlite3.Connection:
        """Open the file and check its schema; the connection is closed on any error."""
        connection = connect(f"{self._path.as_uri()}?mode=ro", check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout={self._busy_timeout_ms}")
            connection.row_factory = _row
            self._check(connection, file)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection, file: tuple[int, int] | None) -> None:
        schema = schema_of(connection)
        if not schema:
            raise LedgerMissing(self._url)  # a writer may be about to create it
        check_schema(self._url, schema)
        if self._file() != file:
            raise StoreUnavailable(self._url, "expected one file, found another that took its place: try again")

    def _file(self) -> tuple[int, int] | None:
        """Return the identity of the current file, None when there is none."""
        try:
            status = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreUnavailable(self._url, str(error)) from error
        return status.st_dev, status.st_ino

    def _log_file(self) -> int | None:
        """Return the inode of the write-ahead log, None when there is none."""
        try:
            return os.stat(self._log_path).st_ino  # noqa: PTH116 - with every query
        except OSError:
            return None


class _Opened:
    """A connection with its file and write-ahead log; it is closed when this object is freed."""

    def __init__(self, connection: sqlite3.Connection, files: object) -> None:
        self.connection = connection
        self.files = files
        # A connection refers to itself: without this it stays open until the garbage collector runs.
        self.close = weakref.finalize(self, connection.close)


def identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, None when there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_schema(url: str, version: int) -> None:
    """Check that a ledger has the current schema.

    Raises:
        SchemaTooNew: for a newer one.
        StoreUnavailable: for an older one; the next writer upgrades it.
    """
    check_upgradable(url, version)
    if version < SCHEMA:
        raise StoreUnavailable(
            url, f"expected schema {SCHEMA}, found {version}: run `forecaster store upgrade --store {url}`"
        )


def check_upgradable(url: str, version: int) -> None:
    """Check that a ledger has the current schema, or one that can be upgraded; 0 is a ledger that is yet to be created.

    Raises:
        SchemaTooNew: for a newer one.
        StoreUnavailable: for one that is too old.
    """
    if version > SCHEMA:
        raise SchemaTooNew(url, SCHEMA, version)
    if 0 < version < OLDEST_SCHEMA:
        expected = f"expected schema {OLDEST_SCHEMA} or newer, found {version}"
        raise StoreUnavailable(url, f"{expected}, of an unreleased version: move it away and start a new ledger")


def opened(address: str) -> closing[sqlite3.Connection]:
    """Open an address of SQLite for a `with` block."""
    return closing(connect(address, seconds=BUSY_TIMEOUT_MS / 1000))


def _may_not_write(error: sqlite3.OperationalError) -> bool:
    return any(text in str(error) for text in _MAY_NOT_WRITE)


def is_ledger(path: Path) -> bool:
    """Whether a file is a ledger of any schema; a journal beside it may be damaged."""
    for option in ("", "&immutable=1"):
        with suppress(sqlite3.Error), opened(f"{path.absolute().as_uri()}?mode=ro{option}") as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables >= _TABLES_OF_EVERY_SCHEMA:
                return True
    return False


def prepare(connection: sqlite3.Connection, busy_timeout_ms: int | None = None) -> None:
    """Set up a connection that writes.

    EXTRA syncs the folder after a rollback journal is deleted. With FULL, a power cut may bring the journal back and
    roll back what was committed (sqlite.org/pragma.html#pragma_synchronous). With a write-ahead log both sync the log
    at every commit.
    """
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS if busy_timeout_ms is None else busy_timeout_ms}",
        "synchronous=EXTRA",
        "foreign_keys=ON",
        f"journal_size_limit={LOG_LIMIT}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    if not wal_is_safe(sqlite3.sqlite_version_info):
        connection.execute("PRAGMA journal_mode=DELETE")


def keep_log(connection: sqlite3.Connection) -> bool:
    """Switch to a write-ahead log if this SQLite's is safe; False while a reader prevents the change."""
    if not wal_is_safe(sqlite3.sqlite_version_info):
        return True
    (timeout,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout=0")
    try:
        (journal,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # creates the file of the log
    except sqlite3.OperationalError:
        return False
    else:
        return bool(journal == "wal")
    finally:
        connection.execute(f"PRAGMA busy_timeout={timeout}")


def make_one_file(path: Path) -> None:
    """Checkpoint the write-ahead log and remove it, unless others have the ledger open.

    Without a writer, a user without write permission to the folder cannot read a ledger that has a log.
    """
    with suppress(sqlite3.Error), closing(connect(f"{path.as_uri()}?mode=rw")) as connection:
        connection.execute("PRAGMA synchronous=EXTRA")
        connection.execute("PRAGMA journal_mode=DELETE")


def empty_log(path: Path) -> None:
    """Checkpoint all of the write-ahead log, also while readers have the ledger open.

    Nothing is done for a damaged file.

    Raises:
        StoreUnavailable: when a reader holds a transaction open.
    """
    url = sqlite_url(path)
    try:
        with opened(f"{path.as_uri()}?mode=rw") as connection:
            (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return
        raise StoreUnavailable(url, f"expected to checkpoint its write-ahead log: {error}") from error
    if is_busy:
        raise StoreUnavailable(url, "expected no open transaction of a reader: end the program that holds it")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error of SQLite means that the file is damaged."""
    return any(message in str(error) for message in _DAMAGE)


def schema_at(path: Path) -> int:
    """Return the schema of a ledger in a file, 0 when there is none.

    Raises:
        StoreUnavailable: when it cannot be read.
    """
    try:
        with opened(f"{path.as_uri()}?mode=ro") as connection:
            return schema_of(connection)
    except sqlite3.Error as error:
        raise StoreUnavailable(sqlite_url(path), str(error)) from error


def schema_of(connection: sqlite3.Connection) -> int:
    """Return the schema of a ledger, 0 when there is none."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "alembic_version" not in tables:
        return 0
    return schema_number(connection.execute("SELECT version_num FROM alembic_version").fetchone())


def schema_number(row: Sequence[str] | None) -> int:
    """Return the schema in the row of Alembic's table.

    Raises:
        sqlite3.DatabaseError: when another program wrote it.
    """
    name = str(row[0]) if row else None
    if name is None or not name.isdecimal():
        raise sqlite3.DatabaseError(f"expected a ledger, found the tables of another program at revision {name}")
    return int(name)


def _row(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Any:
    return _row_type(tuple(column[0] for column in cursor.description))._make(values)


@lru_cache(maxsize=64)
def _row_type(names: tuple[str, ...]) -> type[Any]:
    return namedtuple("Row", names)  # noqa: PYI024 - its fields are those of a query
