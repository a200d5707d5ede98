"""A writer that was stopped past its lease writes nothing when it wakes."""

from __future__ import annotations

import pytest

from tests.faults import two_writers
from tests.faults.two_writers import fence

ROUNDS = 5


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return request.getfixturevalue("cluster").new_database()


def test_stale_writer_is_fenced(url):
    found = fence(url, ROUNDS, seed=0)

    assert (found["stale_rows"], found["first_wrong"]) == (0, [])
    assert found["longest_takeover"] < 5


CARELESS = """
import time
lease.Lease.confirm = lambda *_: None
woken_at = time.monotonic()

def tell(word, **_):
    global woken_at
    before, woken_at = woken_at, time.monotonic()
    sys.stdout.write(f"{word}\\n")
    if word == "wrote" and woken_at - before > 0.38:  # it stood still for a lease, 0.4 s
        sys.stdout.write("lost\\n")
    sys.stdout.flush()

print = tell
print("ready")
"""


def test_stale_rows_would_be_seen(tmp_path, monkeypatch):
    """Of a writer that does not ask whether it still has the lease: it writes on when it wakes."""
    monkeypatch.setattr(two_writers, "WRITER", two_writers.WRITER.replace('print("ready", flush=True)', CARELESS))

    assert fence(f"sqlite:///{tmp_path}/ledger.db", 1, seed=0)["stale_rows"] > 0
