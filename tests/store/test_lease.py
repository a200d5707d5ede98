"""One writer at a time, and what becomes of one that was taken for dead."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from forecaster.errors import LeaseLost, SchemaTooNew, StoreTaken, StoreUnavailable
from forecaster.store import lease
from forecaster.store.database import Database
from forecaster.store.sql import SqlStore
from tests.builders import make_bars

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
HOLD = """
import sys
from forecaster.store.sql import SqlStore
store = SqlStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
store.close()
"""


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(lease, "_PATIENCE_SECONDS", 0.0)


@pytest.fixture
def other(url):
    """Another process that writes."""
    command = [sys.executable, "-c", HOLD, url]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def row_of(url):
    """What the ledger says of its lease."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=PATIENCE)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT * FROM lease").fetchone()


def wait_until(condition):
    """Wait for the thread that prolongs a lease; only one that hangs takes long."""
    give_up = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.005)
    return condition()


class Clock:
    """The wall clock of this process, moved by hand."""

    def __init__(self):
        self.ahead = 0

    def now(self):
        return 1_700_000_000_000 + self.ahead


@pytest.fixture
def quick(monkeypatch):
    """Have the lease prolonged every few milliseconds."""
    monkeypatch.setattr(lease, "LEASE_MS", 30)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(lease, "now_ms", clock.now)
    return clock


@pytest.mark.processes
def test_second_process_is_refused_by_name(url, other):
    with pytest.raises(StoreUnavailable, match=f"expected to be the only one that writes; process .* {other.pid} "):
        SqlStore(url)


def test_writer_that_ended_makes_room_at_once(url):
    SqlStore(url).close()
    with closing(SqlStore(url)) as store:
        assert store.epoch == 2


@pytest.mark.processes
def test_process_that_was_killed_makes_room_at_once(url, other):
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with closing(SqlStore(url)) as store:
        assert store.epoch == 2


def test_process_that_stands_still_is_fenced(url, clock):
    """It holds its lock, but its lease has run out: another takes over, and what it writes later is refused."""
    bars = make_bars(count=5)
    with closing(SqlStore(url)) as first:
        first.add_bars(bars[:3])
        clock.ahead += lease.LEASE_MS + 1
        with closing(SqlStore(url)) as second:
            with pytest.raises(LeaseLost, match="epoch 1"):
                first.add_bars(bars[:4])
            with pytest.raises(LeaseLost):
                first.renew()
            added = second.add_bars(bars)

            assert second.epoch == 2
            assert added == 2


def test_process_that_writes_nothing_keeps_the_lease(url, clock, quick):
    """As long as it runs: an hourly service is idle for most of an hour."""
    with closing(SqlStore(url)) as first:
        for _ in range(3):
            clock.ahead += lease.LEASE_MS - 1
            assert wait_until(lambda: row_of(url)["expires_at"] == clock.now() + lease.LEASE_MS)
        with pytest.raises(StoreUnavailable, match="the only one"):
            SqlStore(url)
        first.renew()


def test_heart_stops_with_the_store(url):
    before = threading.active_count()
    SqlStore(url).close()

    assert threading.active_count() == before


def test_leader_takes_the_lock_that_the_last_one_held(url, clock, quick):
    """So that its own death is seen at once, and nobody else takes it for dead."""
    with closing(SqlStore(url)) as first:
        first._lease._ending.set()  # it stands still
        first._lease._heart.join()
        clock.ahead += lease.LEASE_MS + 1
        with closing(SqlStore(url)) as second:
            assert not row_of(url)["locked"]
            first.close()
            assert wait_until(lambda: row_of(url)["locked"])
            with pytest.raises(StoreUnavailable, match="the only one"):
                SqlStore(url)
            second.renew()


def test_writing_keeps_the_lease(url, clock):
    with closing(SqlStore(url)) as first:
        for _ in range(3):
            clock.ahead += lease.LEASE_MS - 1
            first.renew()
        clock.ahead += lease.LEASE_MS - 1
        with pytest.raises(StoreUnavailable, match="the only one"):
            SqlStore(url)


@pytest.mark.parametrize("years", [10, -10])
def test_clock_that_jumps_lets_no_two_write(url, clock, years):
    """Ten years on, another may take over, and the first is fenced; ten years back, it must wait for the lock."""
    with closing(SqlStore(url)) as first:
        clock.ahead += years * 365 * 86_400_000
        if years < 0:
            with pytest.raises(StoreUnavailable, match="the only one"):
                SqlStore(url)
            assert first.add_bars(make_bars(count=3)) == 3
            return
        with closing(SqlStore(url)) as second:
            assert second.add_bars(make_bars(count=3)) == 3
            with pytest.raises(LeaseLost):
                first.add_bars(make_bars(count=4))


def test_lease_that_was_lost_is_not_given_back(url, clock):
    """Closing the one that lost it changes nothing for the one that has it."""
    first = SqlStore(url)
    clock.ahead += lease.LEASE_MS + 1
    with closing(SqlStore(url)) as second:
        first.close()

        second.renew()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_network_file_system_is_refused(url, monkeypatch, kind):
    monkeypatch.setattr(lease, "_file_system_of", lambda _: kind)

    with pytest.raises(StoreUnavailable, match=f"expected a local file system, whose locks hold, found {kind}"):
        SqlStore(url)


def test_file_system_is_that_of_the_deepest_mount(monkeypatch, tmp_path):
    mounts = "/dev/a / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/b /data/with\\040space xfs rw 0 0\n"
    monkeypatch.setattr(lease.Path, "read_text", lambda *_, **__: mounts)
    found = [
        lease._file_system_of(Path(one)) for one in ("/home/l.db", "/data/l.db", "/data/with space/l.db", "/database/x")
    ]

    assert found == ["ext4", "nfs4", "xfs", "ext4"]


def test_ledger_that_cannot_be_opened_leaves_no_lock(url):
    """Whoever mends it may write it, in the same process too."""
    SqlStore(url).close()
    database = Database(url)
    with closing(database), database.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew):
        SqlStore(url)
    taken = lease.FileLock(Path(url.removeprefix("sqlite:///") + ".lock"))

    assert taken.try_take()
    taken.release()


def test_leader_without_the_lock_is_not_taken_for_dead(url, clock):
    """Who took over from one that stood still has no lock yet; the one that wakes gives back its own."""
    first = SqlStore(url)
    clock.ahead += lease.LEASE_MS + 1
    with closing(SqlStore(url)) as second:
        first.close()
        with pytest.raises(StoreTaken, match="the only one"):
            SqlStore(url)
        second.renew()

        assert second.epoch == 2


def test_ledger_that_another_is_about_to_lead_is_not_taken(url):
    """Two that start at once: the one without the lock waits, although no lease is there yet."""
    SqlStore(url).close()
    database = Database(url)
    with closing(database):
        with database.transaction() as connection:
            connection.exec_driver_sql("DELETE FROM lease")
        lock = lease.lock_of(database)
        lock.try_take()
        with pytest.raises(StoreTaken, match="another begins to"):
            SqlStore(url)
        lock.release()
