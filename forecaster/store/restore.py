"""Putting a copy in the place of an SQLite ledger: checked first, put there at once, and nothing is deleted."""

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
class Restored:
    """What was put where.

    Args:
        ledger: URL of the ledger.
        copy: URL of the copy.
        rows: how many rows of the copy were checked.
        last_cutoff: UTC ms of its newest live forecast; None when there is none.
        set_aside: where the ledger that was there is now; None when there was none.
    """

    ledger: str
    copy: str
    rows: int
    last_cutoff: int | None
    set_aside: str | None


def restore(
    url: str,
    copy: Path,
    at: int,
    *,
    dry_run: bool = False,
    on_rows: Callable[[int], None] = lambda _: None,
    on_portion: Callable[[int, int], None] = lambda _, __: None,
) -> Restored:
    """Put a copy in the place of a ledger. The ledger that was there is kept beside it, with the time in its name.

    Args:
        url: of the ledger.
        copy: an SQLite ledger of today's schema, which stays as it is.
        at: now, UTC ms.
        dry_run: check the copy, and change nothing; a process may write the ledger meanwhile.
        on_rows: hears how many rows of the copy were checked.
        on_portion: hears of every portion how many pages are left to be copied, and how many there are.

    Raises:
        SchemaTooNew: when a newer program wrote it.
        StoreTaken: when a process writes the ledger.
        StoreUnavailable: when there is no copy, when it is not whole, of an older schema or the ledger itself, or when
            it cannot be put there.
    """
    with closing(Database(url)) as database:
        path = database.path
        if path is None:
            raise StoreUnavailable(database.url, "expected an SQLite ledger; use pg_restore for this one")
        with nullcontext() if dry_run else _locked(database):
            rows, last_cutoff = _check(path, copy, on_rows)
            aside = _aside(path, at)
            set_aside = str(aside) if path.exists() else None
            if not dry_run:
                _put(path, copy, aside, on_portion)
    return Restored(database.url, sqlite_url(copy.absolute()), rows, last_cutoff, set_aside)


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
    """Look whether a copy is whole: its pages, its schema and its chains."""
    url = sqlite_url(copy.absolute())
    if path.exists() and copy.exists() and copy.samefile(path):
        raise StoreUnavailable(url, "expected a copy of the ledger, found the ledger itself")
    with closing(SqliteFile(copy)) as file:
        try:
            found = [row[0] for row in file.query("PRAGMA integrity_check(3)", {})]
        except LedgerMissing:
            raise StoreUnavailable(url, "expected a copy that `forecaster store backup` made, found none") from None
        if found != ["ok"]:
            raise StoreUnavailable(url, f"expected a copy that is whole, found {'; '.join(found)}")
        checked = verify_ledger(file, on_rows)
        if not checked.ok:
            raise StoreUnavailable(url, f"expected a copy that is what was written, found {checked.errors[0]}")
        (newest,) = file.query("SELECT MAX(cutoff) AS cutoff FROM forecast WHERE run_id = 'live'", {})
    return checked.rows, newest.cutoff


def _aside(path: Path, at: int) -> Path:
    time = dt.datetime.fromtimestamp(at / 1000, dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return path.with_name(f"{path.name}.replaced-{time}")


def _put(path: Path, copy: Path, aside: Path, on_portion: Callable[[int, int], None]) -> None:
    """Put the copy there; at every moment there is one ledger or the other, and no log of the one beside the other.

    All that is in the log of the old one is brought into it first. That cannot be done with a file that is damaged; its
    log goes with it.
    """
    if aside.exists():
        raise StoreUnavailable(sqlite_url(path), f"expected no file {aside}: try again in a second")
    staged = temporary_path(path)
    try:
        copy_ledger(copy, staged, on_portion)
        _give_away(staged, path)
        if path.exists():
            sqlite.empty_log(path)
            sqlite.make_one_file(path)
        _move_journals(path, aside)
        if path.exists():
            os.link(path, aside)
        staged.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise StoreUnavailable(sqlite_url(path), f"expected to put {copy} in its place: {error}") from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def _move_journals(path: Path, aside: Path) -> None:
    """Have what is left of the journals of a ledger beside it where it is now: they belong to it alone."""
    for end in ("-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + end).replace(aside.with_name(aside.name + end))


def _give_away(staged: Path, path: Path) -> None:
    """Give a file, and the lock, the owner of the ledger that was there, or of the folder; and the permissions."""
    model = path if path.exists() else path.parent
    there = model.stat()
    if os.geteuid() == 0:
        for one in (staged, path.with_name(f"{path.name}.lock")):
            os.chown(one, there.st_uid, there.st_gid)
    if model.is_file():
        staged.chmod(there.st_mode & 0o777)
