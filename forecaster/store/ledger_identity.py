"""Recognise the ledger that a process has served, so that it never writes to another one in its place."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from forecaster.errors import StoreError, StoreUnavailable
from forecaster.store import open_database
from forecaster.store.sqlite import identity
from forecaster.urls import sqlite_path, sqlite_url

if TYPE_CHECKING:
    from pathlib import Path

_LEASE: Final = "SELECT owner, epoch FROM lease WHERE name = 'writer'"


class LedgerIdentity:
    """The identity of the SQLite ledger that this process served last.

    It is the same ledger if its lease names this process, in any file, or if it is the same file and another process
    has acquired its lease since.
    """

    def __init__(self) -> None:
        self.url: str | None = None
        self._owners: set[str] = set()
        self._epoch = 0
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None

    def record(self, url: str, owner: str, epoch: int) -> None:
        """Record the ledger that is served from now on, with the name of this process in its lease."""
        path = sqlite_path(url)
        self.url, self._epoch, self._log = url, epoch, None
        self._file = None if path is None else identity(path)
        self._owners.add(owner)

    def record_log(self) -> None:
        """Record the write-ahead log that the process leaves: it belongs to no other file."""
        path = None if self.url is None else sqlite_path(self.url)
        self._log = None if path is None else _log_of(path)

    def check(self, url: str) -> None:
        """Check that the file is still that ledger; write nothing.

        Raises:
            StoreUnavailable: when it is not.
        """
        path = sqlite_path(url)
        other = self._find_other(path, url) if path is not None and url == self.url else ""
        if path is not None and other:
            expected = f"expected the ledger that was served, found {other}"
            raise StoreUnavailable(
                sqlite_url(path.absolute()),
                f"{expected}: put that ledger back, or restart the service to serve another",
            )

    def _find_other(self, path: Path, url: str) -> str:
        """Describe what is in the place of the ledger; empty when it is the ledger."""
        try:
            status = path.stat()
        except OSError:
            return "no file"
        if not status.st_size:
            return "an empty file"  # not opened: SQLite would delete a log beside it
        is_same_file = (status.st_dev, status.st_ino) == self._file
        if not is_same_file and self._log is not None and _log_of(path) == self._log:
            return "another file beside its write-ahead log"
        try:
            with closing(open_database(url)) as database:
                rows = database.query(_LEASE, {})
        except StoreError as error:
            return f"a file that cannot be read as one ({error})"
        for lease in rows:
            if lease.owner in self._owners or (is_same_file and lease.epoch > self._epoch):
                return ""
        return "another ledger"


def _log_of(path: Path) -> tuple[int, int] | None:
    return identity(path.with_name(f"{path.name}-wal"))
