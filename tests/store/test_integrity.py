"""A look at a ledger beside its writer: it finds what is broken, blocks nobody for long, and can be ended."""

from __future__ import annotations

import os
import threading
from contextlib import closing

import pytest

from forecaster.errors import StoreUnavailable
from forecaster.store import integrity as wholeness
from forecaster.store.integrity import IntegrityChecker
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
from tests.builders import make_bars

PATIENCE = 300.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def store(path):
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_bars(make_bars(count=500))
        yield store


def test_whole_ledger_has_no_faults(path, store):
    assert IntegrityChecker(path).check() == ([], [])


def test_row_that_breaks_a_constraint_is_found(path, store):
    """Beside the writer. A connection that is opened to read only would not see it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        connection.execute("INSERT INTO pending_forecast VALUES (1, 1, 'lost', 0, 0, 0, '', 0)")

    assert IntegrityChecker(path).check() == (["CHECK constraint failed in pending_forecast"], [])


def test_look_may_not_write(path, store, monkeypatch):
    """Its connection is one that could, and is told not to."""
    refused = []

    class Writing(sqlite3.Connection):
        def execute(self, sql, *values):
            if "quick_check" in sql and not refused:
                try:
                    super().execute("UPDATE lease SET epoch = epoch + 1")
                except sqlite3.OperationalError as error:
                    refused.append(str(error))
            return super().execute(sql, *values)

    monkeypatch.setattr(
        wholeness, "connect", lambda at, seconds: sqlite3.connect(at, uri=True, timeout=seconds, factory=Writing)
    )
    found = IntegrityChecker(path).check()

    assert refused == ["attempt to write a readonly database"]
    assert found == ([], [])


def test_broken_pages_are_found(path, store):
    store.close()
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(content)

    assert IntegrityChecker(path).check().faults


@pytest.mark.parametrize("content", [b"", b"nonsense" * 1000])
def test_file_that_is_no_ledger_is_not_made_one(path, content):
    path.write_bytes(content)
    found = IntegrityChecker(path).check()

    assert found == ([] if not content else ["file is not a database"], [])
    assert path.read_bytes() == content


def test_missing_file_is_not_made(path):
    with pytest.raises(StoreUnavailable, match="unable to open"):
        IntegrityChecker(path).check()

    assert not path.exists()


def test_look_that_takes_long_lets_a_commit_through(path, store, monkeypatch):
    """With a rollback journal: each table that takes too long is left out."""
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    monkeypatch.setattr(wholeness, "MAX_COMMIT_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(wholeness, "connect", slow_connect)
    faults, skipped_tables = IntegrityChecker(path).check()

    assert faults == []
    assert "bar" in skipped_tables


def test_look_can_be_ended(path, store, monkeypatch):
    """In the middle of a table; no other is looked at."""
    begun = threading.Event()
    monkeypatch.setattr(wholeness, "connect", lambda *given, **named: slow_connect(*given, begun=begun, **named))
    checker = IntegrityChecker(path)
    found = []
    thread = threading.Thread(target=lambda: found.append(checker.check()))
    thread.start()
    assert begun.wait(PATIENCE)
    checker.stop()
    thread.join(PATIENCE)

    assert len(found[0].skipped_tables) == 1


class Slow(sqlite3.Connection):
    """A connection whose checks take without end, until they are interrupted."""

    begun = threading.Event()

    def execute(self, sql, *values):
        if "quick_check" not in sql:
            return super().execute(sql, *values)
        self.begun.set()
        return super().execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT COUNT(*) FROM n")


def slow_connect(address, *, seconds, begun=None):
    made = sqlite3.connect(address, uri=True, timeout=seconds, factory=Slow)
    made.begun = begun or threading.Event()
    return made
