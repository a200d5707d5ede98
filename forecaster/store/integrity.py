"""Check an SQLite ledger for damage, beside its writer; a check can be interrupted.

SQLite skips CHECK constraints on a read-only connection, so the connection is read-write with `query_only`. Tables are
checked one by one. With a rollback journal commits wait for the check of a table. A table that takes longer than
`MAX_COMMIT_DELAY_SECONDS` is then skipped.
"""

from __future__ import annotations

import math
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.errors import StoreUnavailable
from forecaster.store.sqlite import BUSY_TIMEOUT_MS, is_damage
from forecaster.store.sqlite_library import connect, sqlite3
from forecaster.urls import sqlite_url

if TYPE_CHECKING:
    from pathlib import Path

MAX_COMMIT_DELAY_SECONDS: Final = 5.0
"""How long a commit may wait: less than the lock timeout."""

_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
_MAX_FAULTS: Final = 3
_INSTRUCTIONS: Final = 1_000
"""Instructions of SQLite between two checks of the time."""


class IntegrityResult(NamedTuple):
    """Up to three faults of each table, and the tables for which there was no time."""

    faults: list[str]
    skipped_tables: list[str]


class IntegrityChecker:
    """Checks a ledger, each time with a new connection.

    Args:
        path: of the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.url = sqlite_url(self._path)
        self._is_stopped = False

    def check(self) -> IntegrityResult:
        """Check each table, until `stop` is called.

        Raises:
            StoreUnavailable: when the file cannot be opened or read now.
        """
        result = IntegrityResult([], [])
        try:
            address = f"{self._path.as_uri()}?mode=rw"
            with closing(connect(address, seconds=BUSY_TIMEOUT_MS / 1000)) as connection:
                connection.execute("PRAGMA query_only=ON")
                self._check_tables(connection, result)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise StoreUnavailable(self.url, str(error)) from error
            result.faults.append(str(error))
        return result

    def stop(self) -> None:
        """Interrupt a running check, and start no other."""
        self._is_stopped = True

    def _check_tables(self, connection: sqlite3.Connection, result: IntegrityResult) -> None:
        blocks_writers = connection.execute("PRAGMA journal_mode").fetchone() != ("wal",)
        for (table,) in connection.execute(_TABLES).fetchall():
            if self._is_stopped:
                return
            faults = self._faults_of(connection, table, MAX_COMMIT_DELAY_SECONDS if blocks_writers else math.inf)
            if faults is None:
                result.skipped_tables.append(table)
            else:
                result.faults.extend(faults)

    def _faults_of(self, connection: sqlite3.Connection, table: str, seconds: float) -> list[str] | None:
        """Return the faults of a table, None when the time was not enough."""
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: self._is_stopped or time.monotonic() > deadline, _INSTRUCTIONS)
        try:
            lines = connection.execute(f'PRAGMA quick_check("{table}")').fetchall()
        except sqlite3.OperationalError as error:
            if str(error) == "interrupted":
                return None
            raise
        return [line for (line,) in lines[:_MAX_FAULTS] if line != "ok"]
