"""An SQLite file: how it is opened to read and to write, how it is left, and how it is copied.

Without SQLAlchemy, so that a process which only reads a ledger starts fast. What is asked is in `reading`.
A writer keeps a write-ahead log, so that readers and the writer do not wait for each other; a ledger that nobody has
open is one file, which a user who may not write can read.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import namedtuple
from contextlib import closing, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from forecaster.errors import LedgerMissing, SchemaTooNew, StoreUnavailable, storable
from forecaster.output_files import check_target, keep_name, unfinished_name
from forecaster.store.sqlite_library import connect, sqlite3, wal_is_safe
from forecaster.urls import sqlite_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

BUSY_TIMEOUT_MS: Final = 10_000
"""How long a lock is waited for, where the URL says nothing else."""
SCHEMA: Final = 7
"""The newest migration: what a ledger that this program wrote looks like."""

_OF_EVERY_SCHEMA: Final = {"series", "bar", "quarantine", "model", "run", "forecast"}
_MAY_NOT_WRITE: Final = ("readonly database", "unable to open database file")
"""What SQLite says when a read needs a write first; pysqlite3 does not give the codes of its errors."""
LOG_LIMIT: Final = 64 * 2**20
"""Bytes that a write-ahead log keeps on the disk once it has been copied into the ledger."""

_DAMAGE: Final = ("malformed", "not a database")
"""What SQLite says of a file that it cannot even read through."""
_JOURNALS: Final = ("-journal", "-wal")

_PORTION: Final = 256
"""Pages, 1 MiB, that are copied while others wait: about a millisecond."""
_BEGIN_ANEW: Final = 8
"""How often a copy is begun anew since somebody wrote."""
_COPY_PAUSE_SECONDS: Final = 0.05
_COPY_PATIENCE_SECONDS: Final = 60.0


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
        self._log_path = f"{self._path}-wal"
        self._busy_timeout_ms = BUSY_TIMEOUT_MS if busy_timeout_ms is None else busy_timeout_ms
        self._forget()

    def ask(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Put a question; the lines of the answer have attributes.

        Raises:
            LedgerMissing: when there is no file, or no table in it.
            StoreUnavailable: when the file cannot be read, or an older program wrote it.
            SchemaTooNew: when a newer program wrote it.
        """
        values = {name: storable(one) if isinstance(one, str) else one for name, one in values.items()}
        try:
            try:
                return self._connection().execute(sql, values).fetchall()
            except sqlite3.OperationalError as error:
                if not _may_not_write(error):
                    raise
            if self._state()[1]:
                self._recover()
                return self._connection().execute(sql, values).fetchall()
            return self._ask_at_rest(sql, values)
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

    def _ask_at_rest(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Read a ledger that nobody has open, where this user may not make the files that its write-ahead log needs.

        SQLite takes the file for one that does not change (`immutable`). Whether that was so is looked at afterwards.
        """
        before = self._state()
        with closing(connect(f"{self._path.as_uri()}?mode=ro&immutable=1")) as connection:
            connection.row_factory = _line
            self._check(connection, self._file())
            found = connection.execute(sql, values).fetchall()
        if before[1] or self._state() != before:
            raise StoreUnavailable(self._url, "expected a ledger that nobody writes, found one that changed: try again")
        return found

    def _state(self) -> tuple[tuple[int, ...], list[str]]:
        """What changes when somebody writes the file, and the names of the journals beside it."""
        there = self._path.stat()
        beside = [end for end in _JOURNALS if self._path.with_name(self._path.name + end).exists()]
        return (there.st_ino, there.st_size, there.st_mtime_ns), beside

    def _recover(self) -> None:
        """Let SQLite undo what a writer that died had begun: only a connection that may write can."""
        what = "expected to undo what a writer that died had begun"
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
        """This thread's connection to the file that stands there now."""
        there = self._file()
        files = there, self._log_file()
        found: _Opened | None = getattr(self._local, "opened", None)
        if found is not None and found.files == files:
            return found.connection
        if found is not None:
            found.close()
            del self._local.opened
        if there is None:
            raise LedgerMissing(self._url)
        opened = _Opened(self._checked(there), files)
        with self._lock:
            self._open.add(opened)
        self._local.opened = opened
        return opened.connection

    def _checked(self, file: tuple[int, int]) -> sqlite3.Connection:
        """Open the file, and look whether this program can read it; a connection to one that it cannot is closed."""
        connection = connect(f"{self._path.as_uri()}?mode=ro", check_same_thread=False)
        try:
            connection.execute(f"PRAGMA busy_timeout={self._busy_timeout_ms}")
            connection.row_factory = _line
            self._check(connection, file)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection, file: tuple[int, int] | None) -> None:
        schema = _schema_of(connection)
        if not schema:
            raise LedgerMissing(self._url)  # a writer may be about to make it
        check_schema(self._url, schema)
        if self._file() != file:
            raise StoreUnavailable(self._url, "expected one file, found another that took its place: try again")

    def _file(self) -> tuple[int, int] | None:
        """The identity of the file that stands there now; None when there is none."""
        try:
            there = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreUnavailable(self._url, str(error)) from error
        return there.st_dev, there.st_ino

    def _log_file(self) -> int | None:
        """What tells the write-ahead log from another; None when there is none."""
        try:
            return os.stat(self._log_path).st_ino  # noqa: PTH116 - at every question
        except OSError:
            return None


class _Opened:
    """A connection, its file and its write-ahead log; it is closed when nobody keeps this any more."""

    def __init__(self, connection: sqlite3.Connection, files: object) -> None:
        self.connection = connection
        self.files = files
        # A connection refers to itself: left alone it would stay open until the garbage collector comes.
        self.close = weakref.finalize(self, connection.close)


def identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None when there is none."""
    try:
        there = path.stat()
    except OSError:
        return None
    return there.st_dev, there.st_ino


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

    The copy has a name of its own until then, so that two may be made at once.

    Pages are copied some at a time, and between two portions others write. What they write begins the copy anew; once
    that has happened a few times, what is left is copied at once, and writers wait for it.

    Args:
        path: of the ledger.
        to: file to write.
        on_portion: hears of every portion how many pages are left, and how many there are.

    Raises:
        LedgerMissing: when there is none.
        ConfigError: when `to` is a link, a folder or a device.
        StoreUnavailable: when it cannot be read, the copy cannot be written, or is not whole.
    """
    url = sqlite_url(path.absolute())
    if not path.exists():
        raise LedgerMissing(url)
    _refuse_own(path, to)
    unfinished = unfinished_name(to)
    try:
        check_target(to, "out")
        _make_new(unfinished, path.stat().st_mode & 0o666)
        address = f"{path.absolute().as_uri()}?mode=ro"
        with _opened(address) as source, _opened(unfinished.absolute().as_uri()) as target:
            if not _schema_of(source):
                raise LedgerMissing(url)
            _Copying(source, target, on_portion).run()
            target.execute("PRAGMA journal_mode=DELETE")  # one file, whatever its ledger is
            (found,) = target.execute("PRAGMA integrity_check").fetchone()
        if found != "ok":
            raise StoreUnavailable(sqlite_url(to.absolute()), f"expected a copy that is whole, found {found}")
        unfinished.replace(to)
        keep_name(to.parent)
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(url, f"expected to copy it to {to}: {error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _refuse_own(path: Path, to: Path) -> None:
    """Refuse to copy a ledger onto itself, or onto what belongs to it: what is written meanwhile would be lost."""
    ledger, target = path.resolve(), to.resolve()
    own = {ledger.with_name(f"{ledger.name}{ending}") for ending in ("", *_JOURNALS, "-shm", ".lock")}
    if target in own or (target.exists() and target.samefile(ledger)):
        raise StoreUnavailable(sqlite_url(ledger), f"expected another file to copy it to, found {to}: it is in use")


def _opened(address: str) -> closing[sqlite3.Connection]:
    return closing(connect(address, seconds=BUSY_TIMEOUT_MS / 1000))


def _may_not_write(error: sqlite3.OperationalError) -> bool:
    return any(text in str(error) for text in _MAY_NOT_WRITE)


def is_ledger(path: Path) -> bool:
    """Whether a file is a ledger of any schema, and not another program's; a journal beside it may be broken."""
    for more in ("", "&immutable=1"):
        with suppress(sqlite3.Error), _opened(f"{path.absolute().as_uri()}?mode=ro{more}") as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables >= _OF_EVERY_SCHEMA:
                return True
    return False


def _make_new(path: Path, mode: int) -> None:
    """Make an empty file where there is nothing."""
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
    """Make a connection that writes.

    EXTRA synchronises the folder once a rollback journal is deleted. With FULL a power cut may bring the journal back,
    and what was committed is rolled back (sqlite.org/pragma.html#pragma_synchronous). With a write-ahead log both
    synchronise the log at every commit.
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
    """Have a write-ahead log from now on, where the library's is sound; False while a reader forbids the change."""
    if not wal_is_safe(sqlite3.sqlite_version_info):
        return True
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout=0")
    try:
        (journal,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()  # now the file of the log is there
    except sqlite3.OperationalError:
        return False
    else:
        return bool(journal == "wal")
    finally:
        connection.execute(f"PRAGMA busy_timeout={patience}")


def make_one_file(path: Path) -> None:
    """Bring the write-ahead log into the ledger and have none, unless others have it open.

    A user who may not write to the folder could not read a ledger that has a log and nobody who writes it.
    """
    with suppress(sqlite3.Error), closing(connect(f"{path.as_uri()}?mode=rw")) as connection:
        connection.execute("PRAGMA synchronous=EXTRA")
        connection.execute("PRAGMA journal_mode=DELETE")


def empty_log(path: Path) -> None:
    """Bring all of the write-ahead log into the ledger, also while others have it open to read.

    Raises:
        StoreUnavailable: when one of them holds a transaction open. Of a file that is damaged nothing is brought in.
    """
    url = sqlite_url(path)
    try:
        with _opened(f"{path.as_uri()}?mode=rw") as connection:
            (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return
        raise StoreUnavailable(url, f"expected to bring its write-ahead log into it: {error}") from error
    if is_busy:
        raise StoreUnavailable(url, "expected that nobody reads it meanwhile: end what holds a transaction open")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether SQLite says that it cannot even read a file through."""
    return any(words in str(error) for words in _DAMAGE)


def schema_at(path: Path) -> int:
    """The schema of a ledger in a file, 0 when there is none.

    Raises:
        StoreUnavailable: when it cannot be read.
    """
    try:
        with _opened(f"{path.as_uri()}?mode=ro") as connection:
            return _schema_of(connection)
    except sqlite3.Error as error:
        raise StoreUnavailable(sqlite_url(path), str(error)) from error


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
