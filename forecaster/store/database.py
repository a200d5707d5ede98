"""A database through SQLAlchemy, SQLite or PostgreSQL: connections, transactions, mapped errors."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from forecaster.errors import LedgerMissing, StoreError, StoreUnavailable, storable
from forecaster.log import get_logger
from forecaster.store import sqlite
from forecaster.store.sqlite_library import sqlite3
from forecaster.urls import MEMORY, is_unambiguous, redact_text, redact_url, sqlite_address, sqlite_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from forecaster.urls import SqliteAddress

LARGE_LOG: Final = 256 * 2**20
"""Bytes of a write-ahead log above which a warning is logged: a reader holds a transaction open."""
CHECKPOINT_SECONDS: Final = 60.0
"""How often the write-ahead log is checkpointed, in case its file is deleted by mistake."""

_log = get_logger(__name__)

_STATEMENT_TIMEOUT_MS: Final = 30_000
_IDLE_MS: Final = 10_000
"""PostgreSQL terminates a session that is idle in a transaction for this long, which frees its locks."""

_MAX_HOST_LENGTH: Final = 40
"""Characters of the host in a session name; PostgreSQL keeps 63 of the name."""

_TERMINATE: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = :session AND datname = current_database() AND pid <> pg_backend_pid()"""

_POSTGRES: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "options": f"-c statement_timeout={_STATEMENT_TIMEOUT_MS} -c idle_in_transaction_session_timeout={_IDLE_MS}",
}


class _OpenFiles(NamedTuple):
    """The files that a writer has open: ledger, write-ahead log, its index; each as device and inode."""

    file: tuple[int, int] | None = None
    log: tuple[int, int] | None = None
    log_index: tuple[int, int] | None = None

    @classmethod
    def of(cls, file: tuple[int, int] | None, path: Path) -> _OpenFiles:
        """Return the current files of a ledger."""
        return cls(file, *(sqlite.identity(_beside(path, suffix)) for suffix in ("-wal", "-shm")))


class Database:
    """A database; safe to use from several threads. `session` is the name of its connections, in PostgreSQL too.

    Once `is_writer` is set, a missing SQLite file is not created.

    Args:
        url: SQLAlchemy's URL, such as `sqlite:///ledger.db` or `postgresql+psycopg://user@host/name`.

    Raises:
        StoreUnavailable: for a URL that no library here can open.
    """

    def __init__(self, url: str) -> None:
        file = sqlite_address(url)
        self._raw_url = url
        self.path = None if file is None else _real(file.path, url)
        self.url = redact_url(url) if self.path is None else sqlite_url(self.path)
        self.session = f"{socket.gethostname()[:_MAX_HOST_LENGTH]} {os.getpid()} {os.urandom(4).hex()}"
        self.engine = self._server() if file is None or self.path is None else self._file(file, self.path)
        sa.event.listen(self.engine, "before_cursor_execute", _make_storable, retval=True)
        self._local = threading.local()
        self.is_writer = False
        self._has_large_log = False
        self._has_hard_links = False
        self._files = _OpenFiles()
        self._connection_count = 0
        self._count_lock = threading.Lock()
        self._checkpointed_at = time.monotonic()

    @property
    def is_sqlite(self) -> bool:
        """Whether it is an SQLite file."""
        return self.path is not None

    @property
    def identity(self) -> str:
        """A name that is equal for all `Database` objects of this database, and for no other."""
        return self._raw_url if self.path is None else str(self.path)

    @contextmanager
    def thread_transaction(self, *, write: bool) -> Iterator[sa.Connection]:
        """Run all that this thread does in the block as one transaction, its reads too.

        A nested block is part of the outer one: it commits with it, and rolls back when either raises.

        Raises:
            StoreError: for a block that writes inside one that only reads.
        """
        outer = self._thread_connection(write=write)
        if outer is not None:
            with self.faults(), outer.begin_nested() if write else nullcontext():
                yield outer
            return
        with self.transaction(write=write) as connection:
            self._local.transaction = connection, write
            try:
                yield connection
            finally:
                del self._local.transaction

    @property
    def in_thread_transaction(self) -> bool:
        """Whether this thread is in a block of `thread_transaction`."""
        return hasattr(self._local, "transaction")

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sa.Connection]:
        """Begin a transaction, or join the one of this thread: committed at the end, rolled back on an error.

        Raises:
            StoreError: for one that writes inside a block that only reads.
        """
        outer = self._thread_connection(write=write)
        if outer is not None:
            with self.faults():
                yield outer
            return
        with self.faults(), self.engine.connect().execution_options(write=write) as connection, connection.begin():
            yield connection
        if write and self.path is not None:
            self._check_log_size(self.path)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Raise errors of the database as `StoreUnavailable`."""
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error) as error:
            message = str(getattr(error, "orig", error)).strip()
            reason = redact_text(message, self._raw_url)
            # The cause is dropped when its message quotes a password: a traceback would show it.
            raise StoreUnavailable(self.url, reason) from (error if reason == message else None)

    def query(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Run an SQL text with named values; return rows whose columns are attributes."""
        with self.transaction(write=False) as connection:
            return connection.execute(sa.text(sql), values).all()

    def terminate(self, connection: sa.Connection, session: str) -> None:
        """Terminate the connections of another process and their transactions; does nothing in SQLite.

        PostgreSQL waits without limit for a client that was stopped in the middle of a batch, and keeps its locks: no
        timeout of version 15 applies.
        """
        if not self.is_sqlite:
            connection.execute(sa.text(_TERMINATE), {"session": session})

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        if self.path is not None and self.is_writer:
            self._set_aside_log(self.path)
            if sqlite.identity(self.path) == self._files.file:
                sqlite.make_one_file(self.path)
            self.is_writer = False

    def check_hard_links(self) -> None:
        """Warn once when an SQLite file gets a second name: SQLite keeps one journal per name."""
        try:
            names = 1 if self.path is None else self.path.stat().st_nlink
        except OSError:
            names = 1
        if names > 1 and not self._has_hard_links:
            _log.warning("ledger.linked", ledger=self.url, names=names)
        self._has_hard_links = names > 1

    @property
    def has_removed_log(self) -> bool:
        """Whether the write-ahead log of this process, or its index, was removed.

        Commits that are only in the log would be lost, and a process that creates a new index does not see our locks.
        """
        if (
            self.path is None or self._files.log is None or not self._connection_count
        ):  # the last connection removes the log on close
            return False
        return _OpenFiles.of(self._files.file, self.path) != self._files

    def checkpoint(self, *, at_once: bool = False) -> bool:
        """Checkpoint the write-ahead log, once a minute or at once; return whether all of it was copied.

        Uses a connection that has this log open: a new one would start another log.
        """
        is_due = at_once or time.monotonic() - self._checkpointed_at >= CHECKPOINT_SECONDS
        if self._files.log is None or not is_due:
            return True
        self._checkpointed_at = time.monotonic()
        with self.faults(), self.engine.connect() as connection:
            raw: Any = connection.connection
            is_busy, frames, copied = raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return not is_busy and frames == copied

    def _check_log_size(self, path: Path) -> None:
        """Warn once when the write-ahead log grows because a reader prevents its reset."""
        try:
            size = _beside(path, "-wal").stat().st_size
        except OSError:
            size = 0
        is_large = size > LARGE_LOG
        if is_large and not self._has_large_log:
            _log.warning("ledger.log_large", ledger=self.url, bytes=size)
        self._has_large_log = is_large

    def _thread_connection(self, *, write: bool) -> sa.Connection | None:
        """Return the connection of this thread's transaction, or None."""
        if not self.in_thread_transaction:
            return None
        connection: sa.Connection
        connection, writes = self._local.transaction
        if write and not writes:
            msg = f"store {self.url}: expected only reads inside a block of `transaction(write=False)`, found a write"
            raise StoreError(msg)
        return connection

    def _file(self, file: SqliteAddress, path: Path) -> sa.Engine:
        """Return an engine for a file, by its real path: a symbolic link must lead to the same journal and lock."""
        engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), module=sqlite3)
        sa.event.listen(engine, "do_connect", lambda _, __, ___, arguments: self._connect(path, arguments))
        sa.event.listen(engine, "connect", lambda connection, _: sqlite.prepare(connection, file.busy_timeout_ms))
        sa.event.listen(engine, "connect", lambda _, record: record.info.update(file=sqlite.identity(path)))
        sa.event.listen(engine, "connect", lambda *_: self._count(1))
        sa.event.listen(engine, "close", lambda *_: self._count(-1))
        sa.event.listen(engine, "checkout", lambda _, record, __: _check_connection(record.info["file"], path))
        sa.event.listen(engine, "checkout", lambda connection, record, _: self._start_log(connection, record, path))
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _count(self, change: int) -> None:
        with self._count_lock:
            self._connection_count += change

    def _connect(self, path: Path, arguments: dict[str, Any]) -> Any:
        """Open an existing ledger; None lets SQLAlchemy create a new one."""
        self._check_file(path)
        return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, **arguments) if self.is_writer else None

    def _check_file(self, path: Path) -> None:
        """Check that opening does not recreate a removed file: the ledger and its log may be put back."""
        if self.is_writer and self.has_removed_log:
            msg = "unable to open database file: its write-ahead log was removed"
            raise sqlite3.OperationalError(msg)
        if not path.exists() and (self.is_writer or _beside(path, "-wal").exists()):
            msg = "unable to open database file: it was removed"
            raise sqlite3.OperationalError(msg)
        self._set_aside_log(path)

    def _set_aside_log(self, path: Path) -> None:
        """Rename the write-ahead log when another file has taken the place of the ledger: SQLite would mix them."""
        file, log, _ = self._files
        if (
            file is None
            or sqlite.identity(path) in (None, file)
            or log is None
            or log != sqlite.identity(_beside(path, "-wal"))
        ):
            return
        _log.warning("ledger.replaced", ledger=self.url)
        for suffix in ("-shm", "-wal"):
            with suppress(FileNotFoundError):
                _beside(path, suffix).replace(_beside(path, f".replaced{suffix}"))

    def _start_log(self, connection: Any, record: Any, path: Path) -> None:
        """Switch to a write-ahead log once this process is the writer and no reader prevents it."""
        is_ours = self._files.file in (None, record.info["file"])  # another ledger is not changed
        if self.is_writer and is_ours and not record.info.get("has_log"):
            record.info["has_log"] = sqlite.keep_log(connection)
            self._files = _OpenFiles.of(record.info["file"], path)

    def _server(self) -> sa.Engine:
        if self._raw_url == MEMORY:
            raise StoreUnavailable(MEMORY, "expected a ledger that outlives its process")
        options = {"connect_args": _POSTGRES | {"application_name": self.session}, "pool_pre_ping": True}
        expected = "expected memory: or a URL such as sqlite:///ledger.db or postgresql+psycopg://user@host/name"
        if not is_unambiguous(self._raw_url):
            raise StoreUnavailable(
                self.url, f"{expected}, with %40 for @ and %2F for / in it; found one that is ambiguous"
            )
        try:
            return sa.create_engine(sa.make_url(self._raw_url), **options)
        except (sa.exc.NoSuchModuleError, ImportError) as error:
            raise StoreUnavailable(self.url, f"{expected}: {error}") from error
        except (sa.exc.ArgumentError, ValueError):  # they quote the URL with its password
            raise StoreUnavailable(self.url, f"{expected}, found one that cannot be read") from None


def _make_storable(*call: Any) -> tuple[str, Any]:
    """Replace characters that a database cannot store in texts of exchanges, files and users.

    One such text would otherwise fail the whole transaction.
    """
    _, _, statement, values, _, is_many = call
    return statement, list(map(_storable, values)) if is_many else _storable(values)


def _storable(values: Any) -> Any:
    texts = {name for name, value in _items(values) if isinstance(value, str) and storable(value) != value}
    if not texts:
        return values
    stored = {name: storable(value) if name in texts else value for name, value in _items(values)}
    return stored if isinstance(values, dict) else tuple(stored.values())


def _items(values: Any) -> Iterable[tuple[Any, Any]]:
    return values.items() if isinstance(values, dict) else enumerate(values or ())


def _check_connection(file: tuple[int, int] | None, path: Path) -> None:
    """Replace a pooled connection whose file is not the current one."""
    if file != sqlite.identity(path):
        raise sa.exc.DisconnectionError


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}{suffix}")


class ReadDatabase(Database):
    """A database that is read beside its writer, once it has a ledger. Same arguments as `Database`."""

    _has_ledger = False

    def query(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Put a question; the lines of the answer have attributes.

        Raises:
            LedgerMissing: when there are no tables.
            SchemaTooNew: when a newer program wrote it.
        """
        if not self._has_ledger:
            from forecaster.store import migrations  # noqa: PLC0415 - it imports this module

            version = migrations.schema_in(self)
            if not version:
                raise LedgerMissing(self.url)
            sqlite.check_schema(self.url, version)
            self._has_ledger = True
        return super().query(sql, values)


def _real(path: Path, url: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise StoreUnavailable(redact_url(url), f"expected the path of a file: {error}") from error


def _begin_sqlite(connection: sa.Connection) -> None:
    """Acquire the write lock at once for a transaction that writes, so that it cannot deadlock later."""
    writes = connection.get_execution_options().get("write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
