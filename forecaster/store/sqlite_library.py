"""The SQLite library: Python's own if its write-ahead log is safe, else that of the package pysqlite3.

A process uses one library for all connections to a ledger. Two libraries do not see each other's locks, and closing a
file in one frees the locks of the other (sqlite.org/howtocorrupt.html, section 2.2.1).
"""

from __future__ import annotations

import sqlite3 as own
import sys
from typing import TYPE_CHECKING, Final

__all__ = ["connect", "sqlite3", "wal_is_safe"]

_FIXED_IN: Final = ((3, 51, 3), (3, 50, 7), (3, 44, 6))


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the WAL-reset fix (sqlite.org/wal.html, section 11)."""
    return version >= _FIXED_IN[0] or any(fixed <= version < (fixed[0], fixed[1] + 1) for fixed in _FIXED_IN)


if TYPE_CHECKING:
    import sqlite3
elif wal_is_safe(own.sqlite_version_info):
    sqlite3 = own
else:
    try:
        from pysqlite3 import dbapi2 as sqlite3
    except ImportError:  # there is no wheel for every platform
        sqlite3 = own


def connect(address: str, *, seconds: float = 0.0, check_same_thread: bool = True) -> sqlite3.Connection:
    """Open an address such as `file:///ledger.db?mode=ro`.

    Args:
        address: a URI of SQLite.
        seconds: how long to wait for a lock.
        check_same_thread: refuse use by other threads.
    """
    if sqlite3 is not own:
        sys.audit("sqlite3.connect", address)  # as Python's own library does
    return sqlite3.connect(address, uri=True, timeout=seconds, check_same_thread=check_same_thread)
