"""A database through SQLAlchemy, SQLite or PostgreSQL: connections, transactions, and their faults in our words."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from forecaster.errors import StoreUnavailable
from forecaster.store import sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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


class Database:
    """One database; safe to use from several threads. `session` names all its connections, to PostgreSQL as well.

    Args:
        url: SQLAlchemy's, such as `sqlite:///ledger.db` or `postgresql+psycopg://user@host/name`.

    Raises:
        StoreUnavailable: for an URL that no library here can open.
    """

    def __init__(self, url: str) -> None:
        self.url = re.sub(r"(://[^/@]*?):[^/@]*@", r"\1:***@", url)
        self.session = f"{socket.gethostname()[:_LONGEST_HOST]} {os.getpid()} {os.urandom(4).hex()}"
        try:
            address = sa.make_url(url)
            self.is_sqlite = address.get_backend_name() == "sqlite"
            told = {"connect_args": _POSTGRES | {"application_name": self.session}, "pool_pre_ping": True}
            settings = {} if self.is_sqlite else told
            self.engine = sa.create_engine(address, **settings)
        except (sa.exc.ArgumentError, ImportError, ValueError) as error:
            expected = "expected memory: or a URL such as sqlite:///ledger.db or postgresql+psycopg://user@host/name"
            raise StoreUnavailable(self.url, f"{expected}: {error}") from error
        self._own = threading.local()
        self.path = Path(address.database or "") if self.is_sqlite else None
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", lambda connection, _: sqlite.prepare(connection))
            sa.event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def together(self, *, write: bool) -> Iterator[sa.Connection]:
        """One transaction of all that this thread does in the block, its reads too."""
        with self.transaction(write=write) as connection:
            self._own.connection = connection
            try:
                yield connection
            finally:
                del self._own.connection

    @property
    def is_together(self) -> bool:
        """Whether this thread is in a block of `together`."""
        return hasattr(self._own, "connection")

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sa.Connection]:
        """One transaction, unless it is part of another: committed when the block ends, undone when it raises."""
        mine: sa.Connection | None = getattr(self._own, "connection", None)
        if mine is not None:
            with self.faults():
                yield mine
            return
        with self.faults(), self.engine.connect().execution_options(write=write) as connection, connection.begin():
            yield connection

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Tell what goes wrong with the database as `StoreUnavailable`."""
        try:
            yield
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            raise StoreUnavailable(self.url, str(getattr(error, "orig", error)).strip()) from error

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


def _begin_sqlite(connection: sa.Connection) -> None:
    """Take the write lock at once where a transaction will write: no deadlock half-way."""
    writes = connection.get_execution_options().get("write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
