"""A database through SQLAlchemy, SQLite or PostgreSQL: connections, transactions, and their faults in our words."""

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
from forecaster.urls import MEMORY, is_clear, shown, sqlite_address, sqlite_url, without_secrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from forecaster.urls import SqliteAddress

LARGE_LOG: Final = 256 * 2**20
"""Bytes of a write-ahead log of which somebody should know: a reader holds a transaction open."""
CHECKPOINT_SECONDS: Final = 60.0
"""How old what is in the write-ahead log alone may get: somebody may take it for rubbish."""

_log = get_logger(__name__)

_PATIENCE_MS: Final = 30_000
_IDLE_MS: Final = 10_000
"""A session that stands still within a transaction for so long is cut off, and its locks are free."""

_LONGEST_HOST: Final = 40
"""Characters of the host in a session's name, of which PostgreSQL keeps 63."""

_CUT_OFF: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = :session AND datname = current_database() AND pid <> pg_backend_pid()"""

_POSTGRES: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "options": f"-c statement_timeout={_PATIENCE_MS} -c idle_in_transaction_session_timeout={_IDLE_MS}",
}


class _Used(NamedTuple):
    """Which files a writer has open: the ledger, its write-ahead log and the index of that, each by its identity."""

    file: tuple[int, int] | None = None
    log: tuple[int, int] | None = None
    log_index: tuple[int, int] | None = None

    @classmethod
    def of(cls, file: tuple[int, int] | None, path: Path) -> _Used:
        """Look at the files beside a ledger."""
        return cls(file, *(sqlite.identity(_beside(path, end)) for end in ("-wal", "-shm")))


class Database:
    """One database; safe to use from several threads. `session` names all its connections, to PostgreSQL as well.

    Once `is_begun` is set, an SQLite file is opened and never made.

    Args:
        url: SQLAlchemy's, such as `sqlite:///ledger.db` or `postgresql+psycopg://user@host/name`.

    Raises:
        StoreUnavailable: for an URL that no library here can open.
    """

    def __init__(self, url: str) -> None:
        file = sqlite_address(url)
        self._given = url
        self.path = None if file is None else _real(file.path, url)
        self.url = shown(url) if self.path is None else sqlite_url(self.path)
        self.session = f"{socket.gethostname()[:_LONGEST_HOST]} {os.getpid()} {os.urandom(4).hex()}"
        self.engine = self._server() if file is None or self.path is None else self._file(file, self.path)
        sa.event.listen(self.engine, "before_cursor_execute", _store_any_text, retval=True)
        self._own = threading.local()
        self.is_begun = False
        self._has_large_log = False
        self._has_names = False
        self._used = _Used()
        self._open = 0
        self._counting = threading.Lock()
        self._checkpointed_at = time.monotonic()

    @property
    def is_sqlite(self) -> bool:
        """Whether it is an SQLite file."""
        return self.path is not None

    @property
    def place(self) -> str:
        """The same for all who open this database, and for no other."""
        return self._given if self.path is None else str(self.path)

    @contextmanager
    def together(self, *, write: bool) -> Iterator[sa.Connection]:
        """One transaction of all that this thread does in the block, its reads too.

        A block inside another is a part of it: what it writes is kept when the outer one ends, and undone when either
        raises.

        Raises:
            StoreError: for a block that writes inside one that only reads.
        """
        mine = self._mine(write=write)
        if mine is not None:
            with self.faults(), mine.begin_nested() if write else nullcontext():
                yield mine
            return
        with self.transaction(write=write) as connection:
            self._own.block = connection, write
            try:
                yield connection
            finally:
                del self._own.block

    @property
    def is_together(self) -> bool:
        """Whether this thread is in a block of `together`."""
        return hasattr(self._own, "block")

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sa.Connection]:
        """One transaction, unless it is part of another: committed when the block ends, undone when it raises.

        Raises:
            StoreError: for one that writes inside a block that only reads.
        """
        mine = self._mine(write=write)
        if mine is not None:
            with self.faults():
                yield mine
            return
        with self.faults(), self.engine.connect().execution_options(write=write) as connection, connection.begin():
            yield connection
        if write and self.path is not None:
            self._look_at_log(self.path)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Tell what goes wrong with the database as `StoreUnavailable`."""
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, sqlite3.Error) as error:
            told = str(getattr(error, "orig", error)).strip()
            reason = without_secrets(told, self._given)
            # The cause of a message that quotes a password is left out: a traceback would show it.
            raise StoreUnavailable(self.url, reason) from (error if reason == told else None)

    def ask(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Put a question; the lines of the answer have attributes."""
        with self.transaction(write=False) as connection:
            return connection.execute(sa.text(sql), values).all()

    def cut_off(self, connection: sa.Connection, session: str) -> None:
        """End the connections of another process, and what it has begun with them; SQLite has no way to.

        A process that was stopped in the middle of a batch is waited for by its server without end, locks and all:
        no timeout of PostgreSQL 15 counts there.
        """
        if not self.is_sqlite:
            connection.execute(sa.text(_CUT_OFF), {"session": session})

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        if self.path is not None and self.is_begun:
            self._leave_log(self.path)
            if sqlite.identity(self.path) == self._used.file:
                sqlite.make_one_file(self.path)
            self.is_begun = False

    def look_at_names(self) -> None:
        """Warn once when an SQLite file gets a second name: SQLite has a journal for each."""
        try:
            names = 1 if self.path is None else self.path.stat().st_nlink
        except OSError:
            names = 1
        if names > 1 and not self._has_names:
            _log.warning("ledger.linked", ledger=self.url, names=names)
        self._has_names = names > 1

    @property
    def has_lost_log(self) -> bool:
        """Whether the write-ahead log that this process writes, or its index, was removed.

        What is in the log alone would end with us; and who makes another index does not see our locks.
        """
        if self.path is None or self._used.log is None or not self._open:  # the last connection that closes removes it
            return False
        return _Used.of(self._used.file, self.path) != self._used

    def checkpoint(self, *, at_once: bool = False) -> bool:
        """Bring the write-ahead log into the ledger, each minute or at once; gives whether all of it could be brought.

        Only by a connection that has this log open: a further one would begin another.
        """
        is_due = at_once or time.monotonic() - self._checkpointed_at >= CHECKPOINT_SECONDS
        if self._used.log is None or not is_due:
            return True
        self._checkpointed_at = time.monotonic()
        with self.faults(), self.engine.connect() as connection:
            opened: Any = connection.connection
            is_busy, frames, brought = opened.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return not is_busy and frames == brought

    def _look_at_log(self, path: Path) -> None:
        """Warn once when the write-ahead log grows, since a reader does not let it begin anew."""
        try:
            size = _beside(path, "-wal").stat().st_size
        except OSError:
            size = 0
        is_large = size > LARGE_LOG
        if is_large and not self._has_large_log:
            _log.warning("ledger.log_large", ledger=self.url, bytes=size)
        self._has_large_log = is_large

    def _mine(self, *, write: bool) -> sa.Connection | None:
        """The connection of the block that this thread is in."""
        if not self.is_together:
            return None
        connection: sa.Connection
        connection, writes = self._own.block
        if write and not writes:
            msg = f"store {self.url}: expected only reads inside a block of `together(write=False)`, found a write"
            raise StoreError(msg)
        return connection

    def _file(self, file: SqliteAddress, path: Path) -> sa.Engine:
        """An engine for a file, by its real path: whoever names it by a link must find the same journal and lock."""
        engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), module=sqlite3)
        sa.event.listen(engine, "do_connect", lambda _, __, ___, more: self._opened(path, more))
        sa.event.listen(engine, "connect", lambda connection, _: sqlite.prepare(connection, file.busy_timeout_ms))
        sa.event.listen(engine, "connect", lambda _, record: record.info.update(file=sqlite.identity(path)))
        sa.event.listen(engine, "connect", lambda *_: self._count(1))
        sa.event.listen(engine, "close", lambda *_: self._count(-1))
        sa.event.listen(engine, "checkout", lambda _, record, __: _refuse_old(record.info["file"], path))
        sa.event.listen(engine, "checkout", lambda connection, record, _: self._keep_log(connection, record, path))
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine

    def _count(self, more: int) -> None:
        with self._counting:
            self._open += more

    def _opened(self, path: Path, more: dict[str, Any]) -> Any:
        """Open a ledger that is there; one that is yet to be made is left to SQLAlchemy."""
        self._look_at_file(path)
        return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, **more) if self.is_begun else None

    def _look_at_file(self, path: Path) -> None:
        """Make no file where there was one: a ledger that was removed may come back, and its log with it."""
        if self.is_begun and self.has_lost_log:
            msg = "unable to open database file: its write-ahead log was removed"
            raise sqlite3.OperationalError(msg)
        if not path.exists() and (self.is_begun or _beside(path, "-wal").exists()):
            msg = "unable to open database file: it was removed"
            raise sqlite3.OperationalError(msg)
        self._leave_log(path)

    def _leave_log(self, path: Path) -> None:
        """Set the write-ahead log of this ledger aside when another file has taken its place: SQLite would mix them."""
        file, log, _ = self._used
        if (
            file is None
            or sqlite.identity(path) in (None, file)
            or log is None
            or log != sqlite.identity(_beside(path, "-wal"))
        ):
            return
        _log.warning("ledger.replaced", ledger=self.url)
        for end in ("-shm", "-wal"):
            with suppress(FileNotFoundError):
                _beside(path, end).replace(_beside(path, f".replaced{end}"))

    def _keep_log(self, connection: Any, record: Any, path: Path) -> None:
        """Have a write-ahead log while this process is the writer, as soon as no reader forbids it."""
        is_ours = self._used.file in (None, record.info["file"])  # nothing is changed in another ledger
        if self.is_begun and is_ours and not record.info.get("has_log"):
            record.info["has_log"] = sqlite.keep_log(connection)
            self._used = _Used.of(record.info["file"], path)

    def _server(self) -> sa.Engine:
        if self._given == MEMORY:
            raise StoreUnavailable(MEMORY, "expected a ledger that is kept, found one that ends with its process")
        told = {"connect_args": _POSTGRES | {"application_name": self.session}, "pool_pre_ping": True}
        expected = "expected memory: or a URL such as sqlite:///ledger.db or postgresql+psycopg://user@host/name"
        if not is_clear(self._given):
            raise StoreUnavailable(
                self.url, f"{expected}, with %40 for @ and %2F for / in it; found one that can be read in several ways"
            )
        try:
            return sa.create_engine(sa.make_url(self._given), **told)
        except (sa.exc.NoSuchModuleError, ImportError) as error:
            raise StoreUnavailable(self.url, f"{expected}: {error}") from error
        except (sa.exc.ArgumentError, ValueError):  # which quote the URL, password and all
            raise StoreUnavailable(self.url, f"{expected}, found one that cannot be read") from None


def _store_any_text(*call: Any) -> tuple[str, Any]:
    """Have every text kept, whatever it holds: what no database keeps in a text is replaced.

    Texts come from exchanges, files and users. One that is refused would take everything with it that is written
    beside it.
    """
    _, _, statement, given, _, is_many = call
    return statement, list(map(_storable, given)) if is_many else _storable(given)


def _storable(values: Any) -> Any:
    texts = {name: one for name, one in _named(values) if isinstance(one, str) and storable(one) != one}
    if not texts:
        return values
    kept = {name: storable(one) if name in texts else one for name, one in _named(values)}
    return kept if isinstance(values, dict) else tuple(kept.values())


def _named(values: Any) -> Iterable[tuple[Any, Any]]:
    return values.items() if isinstance(values, dict) else enumerate(values or ())


def _refuse_old(file: tuple[int, int] | None, path: Path) -> None:
    """Have a connection made anew whose file is not the one that stands there now."""
    if file != sqlite.identity(path):
        raise sa.exc.DisconnectionError


def _beside(path: Path, end: str) -> Path:
    return path.with_name(f"{path.name}{end}")


class ReadDatabase(Database):
    """A database that is read beside who writes it, once there is a ledger in it. Parameters as of `Database`."""

    _is_there = False

    def ask(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Put a question; the lines of the answer have attributes.

        Raises:
            LedgerMissing: when there are no tables.
            SchemaTooNew: when a newer program wrote it.
        """
        if not self._is_there:
            from forecaster.store import migrations  # noqa: PLC0415 - it imports what is here

            found = migrations.schema_in(self)
            if not found:
                raise LedgerMissing(self.url)
            sqlite.check_schema(self.url, found)
            self._is_there = True
        return super().ask(sql, values)


def _real(path: Path, url: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise StoreUnavailable(shown(url), f"expected the path of a file: {error}") from error


def _begin_sqlite(connection: sa.Connection) -> None:
    """Take the write lock at once where a transaction will write: no deadlock half-way."""
    writes = connection.get_execution_options().get("write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
