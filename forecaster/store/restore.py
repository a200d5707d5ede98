"""Restore an SQLite ledger from a copy: checked first, replaced atomically; nothing is deleted."""

from __future__ import annotations

import datetime as dt
import os
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecaster.errors import LedgerMissing, StoreTaken, StoreUnavailable
from forecaster.output_files import sync_directory, temporary_path
from forecaster.store import sqlite
from forecaster.store.backup import copy_ledger
from forecaster.store.database import Database
from forecaster.store.lock import lock_of
from forecaster.store.sqlite import SqliteFile
from forecaster.store.verify import verify_ledger
from forecaster.urls import sqlite_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class RestoreResult:
    """The result of a restore.

    Args:
        ledger: URL of the ledger.
        copy: URL of the copy.
        rows: number of rows of the copy that were checked.
        last_cutoff: UTC ms of its latest live forecast, or None.
        previous_ledger: path to which the replaced ledger was moved, or None.
    """

    ledger: str
    copy: str
    rows: int
    last_cutoff: int | None
    previous_ledger: str | None


def restore(
    url: str,
    copy: Path,
    at: int,
    *,
    dry_run: bool = False,
    on_rows: Callable[[int], None] = lambda _: None,
    on_progress: Callable[[int, int], None] = lambda _, __: None,
) -> RestoreResult:
    """Replace a ledger by a copy. The replaced ledger is kept beside it, with the time in its name.

    Args:
        url: of the ledger.
        copy: an SQLite ledger of the current schema; it is not changed.
        at: now, UTC ms.
        dry_run: only check the copy; a process may write the ledger meanwhile.
        on_rows: called with the number of checked rows after each query.
        on_progress: called after every step with the number of pages left, and of all pages.

    Raises:
        SchemaTooNew: when a newer program wrote it.
        StoreTaken: when a process writes the ledger.
        StoreUnavailable: when the copy is missing, damaged, of an older schema or the ledger itself, or cannot be
            written.
    """
    with closing(Database(url)) as database:
        path = database.path
        if path is None:
            raise StoreUnavailable(database.url, "expected an SQLite ledger; use pg_restore for this one")
        with nullcontext() if dry_run else _locked(database):
            rows, last_cutoff = _check(path, copy, on_rows)
            replaced = _replaced_path(path, at)
            previous_ledger = str(replaced) if path.exists() else None
            if not dry_run:
                _replace(path, copy, replaced, on_progress)
    return RestoreResult(database.url, sqlite_url(copy.absolute()), rows, last_cutoff, previous_ledger)


@contextmanager
def _locked(database: Database) -> Iterator[None]:
    lock = lock_of(database)
    if not lock.try_acquire():
        raise StoreTaken(database.url, "expected a ledger that no process writes: stop the daemon first")
    try:
        yield
    finally:
        lock.release()


def _check(path: Path, copy: Path, on_rows: Callable[[int], None]) -> tuple[int, int | None]:
    """Check the pages, the schema and the chains of a copy; return its rows and its last live cutoff."""
    url = sqlite_url(copy.absolute())
    if path.exists() and copy.exists() and copy.samefile(path):
        raise StoreUnavailable(url, "expected a copy of the ledger, found the ledger itself")
    with closing(SqliteFile(copy)) as file:
        try:
            faults = [row[0] for row in file.query("PRAGMA integrity_check(3)", {})]
        except LedgerMissing:
            raise StoreUnavailable(url, "expected a copy that `forecaster store backup` made, found none") from None
        if faults != ["ok"]:
            raise StoreUnavailable(url, f"expected an undamaged copy, found {'; '.join(faults)}")
        checked = verify_ledger(file, on_rows)
        if not checked.ok:
            raise StoreUnavailable(url, f"expected a copy that passes `verify ledger`, found {checked.errors[0]}")
        (latest,) = file.query("SELECT MAX(cutoff) AS cutoff FROM forecast WHERE run_id = 'live'", {})
    return checked.rows, latest.cutoff


def _replaced_path(path: Path, at: int) -> Path:
    time = dt.datetime.fromtimestamp(at / 1000, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return path.with_name(f"{path.name}.replaced-{time}")


def _replace(path: Path, copy: Path, replaced: Path, on_progress: Callable[[int, int], None]) -> None:
    """Replace the ledger atomically, without ever leaving the log of one file beside the other.

    The log of the old ledger is checkpointed first. That is impossible for a damaged file; its log moves with it.
    """
    if replaced.exists():
        raise StoreUnavailable(sqlite_url(path), f"expected no file {replaced}: try again in a second")
    staged = temporary_path(path)
    try:
        copy_ledger(copy, staged, on_progress)
        _copy_owner(staged, path)
        if path.exists():
            sqlite.empty_log(path)
            sqlite.make_one_file(path)
        _move_journals(path, replaced)
        if path.exists():
            os.link(path, replaced)
        staged.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise StoreUnavailable(sqlite_url(path), f"expected to replace it by {copy}: {error}") from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def _move_journals(path: Path, replaced: Path) -> None:
    """Move the remaining journals of a ledger with it: they belong to it alone."""
    for suffix in ("-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(replaced.with_name(replaced.name + suffix))


def _copy_owner(staged: Path, path: Path) -> None:
    """Copy owner and permissions of the replaced ledger, or the owner of the folder, to the new file and the lock."""
    source = path if path.exists() else path.parent
    status = source.stat()
    if os.geteuid() == 0:
        for file in (staged, path.with_name(f"{path.name}.lock")):
            os.chown(file, status.st_uid, status.st_gid)
    if source.is_file():
        staged.chmod(status.st_mode & 0o777)
