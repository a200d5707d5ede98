"""The ledger that a process has served, to be known again: it writes to no other one that stands in its place."""

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


class Served:
    """What a process knows of the SQLite ledger that it served last.

    The same ledger is one whose lease names this process, in whatever file, or one in the same file whose lease another
    process has taken since.
    """

    def __init__(self) -> None:
        self.url: str | None = None
        self._owners: set[str] = set()
        self._epoch = 0
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None

    def note(self, url: str, owner: str, epoch: int) -> None:
        """Note the ledger that is served from now on, and what its lease calls this process."""
        path = sqlite_path(url)
        self.url, self._epoch, self._log = url, epoch, None
        self._file = None if path is None else identity(path)
        self._owners.add(owner)

    def leave(self) -> None:
        """Note the write-ahead log that is left behind: it belongs to no other file."""
        path = None if self.url is None else sqlite_path(self.url)
        self._log = None if path is None else _log_of(path)

    def refuse_another(self, url: str) -> None:
        """Look what stands in the place of the ledger, and write nothing.

        Raises:
            StoreUnavailable: when it is not that ledger.
        """
        path = sqlite_path(url)
        found = self._other(path, url) if path is not None and url == self.url else ""
        if path is not None and found:
            expected = f"expected the ledger that was served, found {found}"
            raise StoreUnavailable(
                sqlite_url(path.absolute()),
                f"{expected}: put that ledger back, or restart the service to serve another",
            )

    def _other(self, path: Path, url: str) -> str:
        """What stands there in place of the ledger; empty when it is the ledger."""
        try:
            there = path.stat()
        except OSError:
            return "no file"
        if not there.st_size:
            return "an empty file"  # which nobody opens: SQLite would delete a log beside it
        is_same_file = (there.st_dev, there.st_ino) == self._file
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
