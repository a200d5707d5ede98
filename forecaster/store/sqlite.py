"""An SQLite file: how it is opened to read and to write, and who may write it.

Python's own library alone, so that a process which only reads a ledger starts fast. What is asked is in `reading`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import namedtuple
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from forecaster.errors import SchemaTooNew, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

BUSY_TIMEOUT_MS: Final = 10_000
SCHEMA: Final = 5
"""The newest migration: what a ledger that this program wrote looks like."""

_LEFT_BEHIND: Final = (sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY)
"""A writer died with a journal, or a write-ahead log, that is still to be dealt with."""

_WAL_FIXED_IN: Final = ((3, 51, 3), (3, 50, 7), (3, 44, 6))


class SqliteFile:
    """A ledger in a file, opened to be read: by a connection for each thread, which cannot write.

    A file that is not there yet holds nothing; it is not made.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    def ask(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Put a question; the lines of the answer have attributes.

        Raises:
            StoreUnavailable: when the file cannot be read, or an older program wrote it.
            SchemaTooNew: when a newer program wrote it.
        """
        try:
            try:
                return self._lines(sql, values)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in _LEFT_BEHIND:
                    raise
            self._recover()
            return self._lines(sql, values)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"sqlite:///{self._path}", str(error)) from error

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._open:
                connection.close()
            self._open.clear()
            self._local = threading.local()

    def _lines(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        connection = self._connection()
        return [] if connection is None else connection.execute(sql, values).fetchall()

    def _recover(self) -> None:
        """Let SQLite undo what a writer that died had begun: only a connection that may write can."""
        address = f"{self._path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_MS / 1000)) as connection:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()

    def _connection(self) -> sqlite3.Connection | None:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is not None or not self._path.exists():
            return found
        connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        with self._lock:
            self._open.append(connection)
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.row_factory = _line
        schema = _schema_of(connection)
        if not schema:
            return None  # a writer is about to make it
        check_schema(f"sqlite:///{self._path}", schema)
        self._local.connection = connection
        return connection


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


def copy(path: Path, to: Path) -> None:
    """Copy a ledger while it is in use, and check the copy; what stood at `to` is replaced at the end, or not at all.

    Raises:
        StoreUnavailable: when it cannot be read, the copy cannot be written, or is not whole.
    """
    unfinished = to.with_name(f"{to.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(unfinished)) as target:
            source.backup(target)
            (found,) = target.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise StoreUnavailable(f"sqlite:///{to}", f"expected a copy that is whole, found {found}")
        unfinished.replace(to)
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"sqlite:///{path}", f"expected to copy it to {to}: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def prepare(connection: sqlite3.Connection) -> None:
    """Make a connection that writes; write-ahead log only where its reset bug is fixed.

    EXTRA synchronises the folder once a rollback journal is deleted. With FULL a power cut may bring the journal back,
    and what was committed is rolled back (sqlite.org/pragma.html#pragma_synchronous).
    """
    connection.isolation_level = None
    journal = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        f"journal_mode={journal}",
        "synchronous=EXTRA",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the WAL-reset fix (sqlite.org/wal.html, section 11)."""
    return version >= _WAL_FIXED_IN[0] or any(fixed <= version < (fixed[0], fixed[1] + 1) for fixed in _WAL_FIXED_IN)


def _schema_of(connection: sqlite3.Connection) -> int:
    tables = {row.name for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "alembic_version" in tables:
        return int(connection.execute("SELECT version_num FROM alembic_version").fetchone().version_num)
    return 1 if "schema_version" in tables else 0


def _line(cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Any:
    return _lines_of(tuple(column[0] for column in cursor.description))._make(values)


@lru_cache(maxsize=64)
def _lines_of(names: tuple[str, ...]) -> type[Any]:
    return namedtuple("Line", names)  # noqa: PYI024 - its fields are known only when the answer comes
