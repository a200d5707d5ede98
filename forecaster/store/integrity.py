"""Looks whether an SQLite ledger is whole, beside who writes it, and can be interrupted.

A connection that may not write at all would leave CHECK constraints out: SQLite does not read them then. So it is one
that may, and is told not to. One table is looked at after another. With a rollback journal a commit waits for that,
so a table gets `LONGEST_WAIT` there, and is left out when that is not enough.
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

LONGEST_WAIT: Final = 5.0
"""Seconds that a commit may wait: less than the time after which it fails."""

_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
_MOST_FAULTS: Final = 3
_STEPS: Final = 1_000
"""Steps of SQLite's between two looks at the time."""


class Found(NamedTuple):
    """What is wrong, up to three faults of each table, and the tables for which there was no time."""

    faults: list[str]
    left_out: list[str]


class Wholeness:
    """One look at a ledger after another, each with a connection of its own.

    Args:
        path: of the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self.url = sqlite_url(self._path)
        self._is_ended = False

    def look(self) -> Found:
        """Look at each table; at no further one once it was ended.

        Raises:
            StoreUnavailable: when the file cannot be opened or read now.
        """
        found = Found([], [])
        try:
            address = f"{self._path.as_uri()}?mode=rw"
            with closing(connect(address, seconds=BUSY_TIMEOUT_MS / 1000)) as connection:
                connection.execute("PRAGMA query_only=ON")
                self._look_at_all(connection, found)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise StoreUnavailable(self.url, str(error)) from error
            found.faults.append(str(error))
        return found

    def end(self) -> None:
        """End the look that is under way, and begin no other."""
        self._is_ended = True

    def _look_at_all(self, connection: sqlite3.Connection, found: Found) -> None:
        blocks_writers = connection.execute("PRAGMA journal_mode").fetchone() != ("wal",)
        for (table,) in connection.execute(_TABLES).fetchall():
            if self._is_ended:
                return
            faults = self._faults_of(connection, table, LONGEST_WAIT if blocks_writers else math.inf)
            if faults is None:
                found.left_out.append(table)
            else:
                found.faults.extend(faults)

    def _faults_of(self, connection: sqlite3.Connection, table: str, seconds: float) -> list[str] | None:
        """What is wrong with a table; None when that was not known in time."""
        give_up = time.monotonic() + seconds
        connection.set_progress_handler(lambda: self._is_ended or time.monotonic() > give_up, _STEPS)
        try:
            lines = connection.execute(f'PRAGMA quick_check("{table}")').fetchall()
        except sqlite3.OperationalError as error:
            if str(error) == "interrupted":
                return None
            raise
        return [line for (line,) in lines[:_MOST_FAULTS] if line != "ok"]
