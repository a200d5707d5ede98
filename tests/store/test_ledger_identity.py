"""The ledger that a process has served is known again, and whatever else stands in its place is told by name."""

from __future__ import annotations

from contextlib import closing

import pytest

from forecaster.errors import StoreUnavailable
from forecaster.store.backup import copy_ledger
from forecaster.store.ledger_identity import LedgerIdentity
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def url(path):
    return f"sqlite:///{path}"


@pytest.fixture
def served(url):
    """A ledger that was served, and left."""
    served = LedgerIdentity()
    with closing(SqlStore(url)) as store:
        served.record(url, store.owner, store.epoch)
    served.record_log()
    return served


def begin_another(path):
    """A ledger at a path, which another process has begun; its lease was taken twice."""
    for _ in range(2):
        SqlStore(f"sqlite:///{path}").close()


def test_nothing_is_known_before_anything_was_served(url):
    LedgerIdentity().check(url)


def test_ledger_that_nobody_touched_is_the_same(served, url):
    served.check(url)


def test_ledger_whose_lease_another_has_taken_is_the_same(served, url):
    """In the same file, and later: a standby, or a command."""
    SqlStore(url).close()
    served.check(url)


def test_ledger_in_the_same_file_that_was_never_ours_is_another(served, url, path):
    """As when a copy was written into it: its lease is of before."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE lease SET owner = 'another'")
    with pytest.raises(StoreUnavailable, match=f"{path}: expected the ledger that was served, found another ledger"):
        served.check(url)


def test_ledger_of_another_address_is_what_is_configured(served, tmp_path):
    """A configuration that names it means it."""
    begin_another(tmp_path / "other.db")
    served.check(f"sqlite:///{tmp_path}/other.db")


def test_file_beside_the_log_of_the_ledger_is_not_opened(served, url, path, tmp_path):
    """A copy of it even: SQLite would mix the two."""
    log = path.with_name("ledger.db-wal")
    log.write_bytes(b"log")
    served.record_log()
    copy_ledger(path, tmp_path / "copy.db")
    (tmp_path / "copy.db").replace(path)
    with pytest.raises(StoreUnavailable, match="found another file beside its write-ahead log"):
        served.check(url)

    assert log.read_bytes() == b"log"


@pytest.mark.parametrize("content", [b"", b"nonsense" * 1000], ids=["empty", "no database"])
def test_file_that_is_no_ledger_stays_as_it_is(served, url, path, content):
    """And so does a log beside it, which SQLite would delete."""
    log = path.with_name("ledger.db-wal")
    path.unlink()
    path.write_bytes(content)
    log.write_bytes(b"log")
    with pytest.raises(StoreUnavailable, match="put that ledger back, or restart the service"):
        served.check(url)

    assert (path.read_bytes(), log.read_bytes()) == (content, b"log")
