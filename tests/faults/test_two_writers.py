"""A writer that was stopped past its lease writes nothing when it wakes."""

from __future__ import annotations

import pytest

from tests.faults.two_writers import CARELESS, fence

pytestmark = pytest.mark.processes
ROUNDS = 3
TELLS_IT_HAS_LOST = """
import sys
from forecaster.store.sqlite_library import sqlite3

behind = 0

def tell(word, flush=True):
    global mine, behind
    if word.startswith("leads"):
        mine = int(word.split()[1])
    sys.stdout.write(f"{word}\\n")
    if word == "wrote":
        with sqlite3.connect(sys.argv[1].removeprefix("sqlite:///"), timeout=60) as connection:
            behind += connection.execute("SELECT epoch FROM lease").fetchone() != (mine,)
        if behind == 2:
            sys.stdout.write("lost\\n")
    sys.stdout.flush()

print = tell
"""
"""So that the harness looks once the careless writer has written behind the other's epoch: it tells of two batches,
since the first may have been written before it was stopped."""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return request.getfixturevalue("cluster").new_database()


def test_stale_writer_is_fenced(url):
    found = fence(url, ROUNDS, seed=0)

    assert (found["rounds"], found["stale_rows"], found["first_wrong"]) == (ROUNDS, 0, [])


def test_stale_rows_would_be_seen(tmp_path):
    """Of a writer that does not ask whether it still has the lease: it writes on when it wakes."""
    found = fence(f"sqlite:///{tmp_path}/ledger.db", 1, seed=0, fault=CARELESS + TELLS_IT_HAS_LOST)

    assert found["stale_rows"] > 0
