"""Copies of an SQLite ledger, made while it is in use."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from forecaster.errors import LedgerMissing, StoreUnavailable
from forecaster.output_files import check_target, sync_directory, temporary_path
from forecaster.store.sqlite import JOURNALS, opened, schema_of
from forecaster.store.sqlite_library import sqlite3
from forecaster.urls import sqlite_url

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PAGES_PER_STEP: Final = 256
"""1 MiB, copied while others wait: about a millisecond."""
_MAX_RESTARTS: Final = 8
"""How often a copy restarts because of a write."""
_COPY_PAUSE_SECONDS: Final = 0.05
_COPY_TIMEOUT_SECONDS: Final = 60.0


def copy_ledger(path: Path, to: Path, on_progress: Callable[[int, int], None] = lambda _, __: None) -> None:
    """Copy a ledger while it is in use, check the copy, and then replace `to`, atomically.

    The copy has a temporary name until then, so that two copies may run at once.

    Pages are copied in steps, and other processes may write between two steps. Without a write-ahead log a write
    restarts the copy. After a few restarts all pages are copied in one step, and writers wait.

    Args:
        path: of the ledger.
        to: file to write.
        on_progress: called after every step with the number of pages left, and of all pages.

    Raises:
        LedgerMissing: when there is none.
        ConfigError: when `to` is a link, a folder or a device.
        StoreUnavailable: when it cannot be read, or the copy cannot be written or is damaged.
    """
    url = sqlite_url(path.absolute())
    if not path.exists():
        raise LedgerMissing(url)
    _check_destination(path, to)
    unfinished = temporary_path(to)
    try:
        check_target(to, "out")
        _create(unfinished, path.stat().st_mode & 0o666)
        address = f"{path.absolute().as_uri()}?mode=ro"
        with opened(address) as source, opened(unfinished.absolute().as_uri()) as target:
            if not schema_of(source):
                raise LedgerMissing(url)
            _Copy(source, target, on_progress).run()
            target.execute("PRAGMA journal_mode=DELETE")  # one file, whatever its ledger is
            (result,) = target.execute("PRAGMA integrity_check").fetchone()
        if result != "ok":
            raise StoreUnavailable(sqlite_url(to.absolute()), f"expected an undamaged copy, found {result}")
        unfinished.replace(to)
        sync_directory(to.parent)
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(url, f"expected to copy it to {to}: {error}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _check_destination(path: Path, to: Path) -> None:
    """Check that a copy would not replace the ledger or one of its files: writes meanwhile would be lost."""
    ledger, target = path.resolve(), to.resolve()
    own = {ledger.with_name(f"{ledger.name}{suffix}") for suffix in ("", *JOURNALS, "-shm", ".lock")}
    if target in own or (target.exists() and target.samefile(ledger)):
        raise StoreUnavailable(sqlite_url(ledger), f"expected another file to copy it to, found {to}: it is in use")


def _create(path: Path, mode: int) -> None:
    """Create an empty file; an existing one is an error."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode))


class _TooManyRestarts(Exception):
    """Other processes wrote too often during the copy."""


class _Copy:
    """One copy of a database.

    Args:
        source: database to copy.
        target: an empty database.
        on_progress: called after every step with the number of pages left, and of all pages.
    """

    def __init__(
        self, source: sqlite3.Connection, target: sqlite3.Connection, on_progress: Callable[[int, int], None]
    ) -> None:
        self._source = source
        self._target = target
        self._on_progress = on_progress
        self._left: int | None = None
        self._restarts_left = _MAX_RESTARTS
        self._deadline = time.monotonic() + _COPY_TIMEOUT_SECONDS

    def run(self) -> None:
        """Copy in steps, or in one step after too many restarts."""
        if self._source.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            self._source.execute("BEGIN")  # a snapshot, which blocks no writer
            self._source.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        try:
            self._source.backup(self._target, pages=_PAGES_PER_STEP, progress=self._on_step, sleep=_COPY_PAUSE_SECONDS)
        except _TooManyRestarts:
            self._source.backup(self._target, progress=self._on_step, sleep=_COPY_PAUSE_SECONDS)

    def _on_step(self, status: int, left: int, pages: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if time.monotonic() > self._deadline:
                msg = f"database is locked, for {_COPY_TIMEOUT_SECONDS:.0f} s"
                raise sqlite3.OperationalError(msg)
            return
        self._deadline = time.monotonic() + _COPY_TIMEOUT_SECONDS
        is_restart, self._left = self._left is not None and left >= self._left, left
        self._on_progress(left, pages)
        if is_restart and left:
            self._restarts_left -= 1
            if self._restarts_left == 0:
                raise _TooManyRestarts
