"""One writer at a time, and what becomes of one that was taken for dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import event

from forecaster.errors import LeaseLost, SchemaTooNew, StoreTaken, StoreUnavailable
from forecaster.store import lease
from forecaster.store import lock as lock_module
from forecaster.store.database import Database
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
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
    monkeypatch.setattr(lease, "_ACQUIRE_TIMEOUT_SECONDS", 0.0)


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


class Clocks:
    """The clocks of this process, moved by hand: wall clock and monotonic one."""

    def __init__(self):
        self.wall_ms = 1_700_000_000_000
        self.seconds = 1000.0
        self.during_sleep = lambda: None

    def now_ms(self):
        return self.wall_ms

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        """Nobody waits: time has passed, and the others have done what they do."""
        self.seconds += seconds
        self.wall_ms += round(1000 * seconds)
        self.during_sleep()


@pytest.fixture
def quick(monkeypatch):
    """Have the lease prolonged every few milliseconds."""
    monkeypatch.setattr(lease, "LEASE_MS", 30)


@pytest.fixture
def clocks(monkeypatch):
    """Clocks by hand; between two looks at a lease lies a second."""
    clocks = Clocks()
    monkeypatch.setattr(lease, "now_ms", clocks.now_ms)
    monkeypatch.setattr(lease, "time", clocks)
    monkeypatch.setattr(lease, "_POLL_SECONDS", 1.0)
    return clocks


@pytest.fixture
def patient(monkeypatch):
    """Have a second writer wait as long as a service does."""
    monkeypatch.setattr(lease, "_ACQUIRE_TIMEOUT_SECONDS", 40.0)


def keep_alive(store, clocks):
    """Have a writer do what its thread does: prolong its lease every ten seconds, by the clock of the test."""
    beaten = [clocks.seconds]

    def live():
        if clocks.seconds - beaten[0] >= lease.LEASE_MS / 3000:
            beaten[0] = clocks.seconds
            store.renew()

    clocks.during_sleep = live


def stop(store):
    """Have a writer stand still, with its lock."""
    store._lease._ending.set()
    store._lease._renewer.join()


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


@pytest.mark.usefixtures("patient")
def test_process_that_stands_still_is_fenced(url, clocks):
    """It holds its lock, and its lease stands still: another takes over, and what it writes later is refused."""
    bars = make_bars(count=5)
    with closing(SqlStore(url)) as first:
        first.add_bars(bars[:3])
        stop(first)
        with closing(SqlStore(url)) as second:
            with pytest.raises(LeaseLost, match="epoch 1"):
                first.add_bars(bars[:4])
            with pytest.raises(LeaseLost):
                first.renew()
            added = second.add_bars(bars)

            assert second.epoch == 2
            assert added == 2


@pytest.mark.usefixtures("quick")
def test_process_that_writes_nothing_keeps_the_lease(url):
    """As long as it runs: an hourly service is idle for most of an hour."""
    with closing(SqlStore(url)) as first:
        for _ in range(3):
            before = row_of(url)["expires_at"]
            assert wait_until(lambda: row_of(url)["expires_at"] > before)  # noqa: B023 - it is waited for at once
        first.renew()


def test_process_that_cannot_prolong_its_lease_tries_again(url, quick, monkeypatch):
    """Whatever the failure: a thread that ended with it would let a living writer be taken for dead."""
    with closing(SqlStore(url)) as first:
        renew, failures = first._lease.renew, [StoreUnavailable(url, "full"), OSError("gone"), RuntimeError("odd")]

        def fail_at_first():
            if failures:
                raise failures.pop()
            renew()

        monkeypatch.setattr(first._lease, "renew", fail_at_first)

        assert wait_until(lambda: not failures)
        before = row_of(url)["expires_at"]
        assert wait_until(lambda: row_of(url)["expires_at"] > before)


def test_heart_stops_with_the_store(url):
    before = threading.active_count()
    SqlStore(url).close()

    assert threading.active_count() == before


@pytest.mark.usefixtures("patient")
def test_leader_takes_the_lock_that_the_last_one_held(url, clocks):
    """So that its own death is seen at once, and nobody else takes it for dead."""
    with closing(SqlStore(url)) as first:
        stop(first)
        with closing(SqlStore(url)) as second:
            before = row_of(url)["locked"]
            first.close()
            second._lease.renew()

            assert (before, row_of(url)["locked"]) == (0, 1)
            keep_alive(second, clocks)
            with pytest.raises(StoreUnavailable, match="the only one"):
                SqlStore(url)
            second.renew()


SKEWS = [31_000, -31_000, 10 * 365 * 86_400_000, -10 * 365 * 86_400_000]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("skew_ms", SKEWS)
def test_wall_clock_takes_the_lease_from_no_living_writer(url, clocks, skew_ms):
    """The clock of who waits is ahead or behind, or both are set at once: what counts is whether the lease changes."""
    with closing(SqlStore(url)) as first:
        keep_alive(first, clocks)
        live, writers = clocks.during_sleep, [0]

        def live_by_another_clock():
            clocks.wall_ms -= skew_ms
            live()
            clocks.wall_ms += skew_ms

        clocks.during_sleep = live_by_another_clock
        clocks.wall_ms += skew_ms
        for _ in range(3):
            with pytest.raises(StoreTaken, match="the only one"):
                SqlStore(url)
            writers[0] += 1
        added = first.add_bars(make_bars(count=3))

        assert (writers[0], added, row_of(url)["epoch"]) == (3, 3, 1)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("skew_ms", SKEWS)
def test_writer_whose_clock_is_set_keeps_the_lease(url, clocks, skew_ms):
    """Back as well: its lease changes all the same."""
    with closing(SqlStore(url)) as first:
        keep_alive(first, clocks)
        clocks.wall_ms += skew_ms
        with pytest.raises(StoreTaken, match="the only one"):
            SqlStore(url)
        clocks.wall_ms -= skew_ms
        with pytest.raises(StoreTaken, match="the only one"):
            SqlStore(url)
        first.renew()

        assert row_of(url)["epoch"] == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("skew_ms", [0, *SKEWS])
def test_writer_that_was_stopped_is_taken_over_after_about_a_lease(url, clocks, skew_ms):
    """Neither sooner nor much later, wherever its clock was."""
    with closing(SqlStore(url)) as first:
        clocks.sleep(3600)
        first.renew()
        stop(first)
        clocks.wall_ms += skew_ms
        stopped = clocks.seconds
        with closing(SqlStore(url)) as second:
            assert second.epoch == 2
            assert lease.LEASE_MS / 1000 <= clocks.seconds - stopped <= lease.LEASE_MS / 1000 + 2


def test_command_with_little_patience_takes_over_from_nobody(url, clocks):
    """It has not watched for long enough to know, even if the writer was stopped hours ago."""
    with closing(SqlStore(url)) as first:
        stop(first)
        clocks.sleep(7200)
        with pytest.raises(StoreTaken, match="the only one"):
            SqlStore(url)


def test_service_that_tries_again_and_again_goes_on_watching(url, clocks, monkeypatch):
    """Each of its attempts is short; together they are as long as a lease."""
    monkeypatch.setattr(lease, "_ACQUIRE_TIMEOUT_SECONDS", 3.0)
    with closing(SqlStore(url)) as first:
        stop(first)
        stopped, attempts = clocks.seconds, 0
        while row_of(url)["epoch"] == 1 and attempts < 30:
            attempts += 1
            try:
                SqlStore(url).close()
            except StoreTaken:
                clocks.sleep(1)

        assert row_of(url)["epoch"] == 2
        assert attempts > 3
        assert clocks.seconds - stopped <= lease.LEASE_MS / 1000 + 2


@pytest.mark.usefixtures("patient")
def test_standby_that_was_stopped_as_well_begins_to_watch_anew(url, clocks):
    """As when a machine stands still: who wakes first does not take the other for dead."""
    with closing(SqlStore(url)) as first:
        keep_alive(first, clocks)
        live = clocks.during_sleep

        def freeze():
            clocks.seconds += 600
            clocks.during_sleep = live

        clocks.during_sleep = freeze
        with pytest.raises(StoreTaken, match="the only one"):
            SqlStore(url)
        first.renew()


def test_writing_keeps_the_lease(url, clocks, monkeypatch):
    """Of one whose thread has ended: each write changes it."""
    monkeypatch.setattr(lease, "_ACQUIRE_TIMEOUT_SECONDS", 40.0)
    with closing(SqlStore(url)) as first:
        stop(first)
        clocks.during_sleep = first.renew
        with pytest.raises(StoreUnavailable, match="the only one"):
            SqlStore(url)


def test_waiting_blocks_no_writer(url, clocks, monkeypatch):
    """Who waits only reads: it never holds the lock that a commit needs."""
    with closing(SqlStore(url)) as first:
        keep_alive(first, clocks)
        statements = []
        create = Database._file

        def watched(database, file, path):
            engine = create(database, file, path)
            event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
            return engine

        monkeypatch.setattr(Database, "_file", watched)
        with pytest.raises(StoreTaken):
            SqlStore(url)

        assert "BEGIN" in statements
        assert not [one for one in statements if one != "BEGIN" and not one.startswith(("SELECT", "PRAGMA"))]


@pytest.mark.usefixtures("patient")
def test_lease_that_was_lost_is_not_given_back(url, clocks):
    """Closing the one that lost it changes nothing for the one that has it."""
    first = SqlStore(url)
    stop(first)
    with closing(SqlStore(url)) as second:
        first.close()

        second.renew()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_network_file_system_is_refused(url, monkeypatch, kind):
    monkeypatch.setattr(lock_module, "_file_system_of", lambda _: kind)

    with pytest.raises(StoreUnavailable, match=f"expected a local file system, whose locks hold, found {kind}"):
        SqlStore(url)


def test_file_system_is_that_of_the_deepest_mount(monkeypatch, tmp_path):
    mounts = "/dev/a / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/b /data/with\\040space xfs rw 0 0\n"
    monkeypatch.setattr(lock_module.Path, "read_text", lambda *_, **__: mounts)
    found = [
        lock_module._file_system_of(Path(one))
        for one in ("/home/l.db", "/data/l.db", "/data/with space/l.db", "/database/x")
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
    taken = lock_module.FileLock(Path(url.removeprefix("sqlite:///") + ".lock"))

    assert taken.try_acquire()
    taken.release()


@pytest.mark.usefixtures("patient")
def test_leader_without_the_lock_is_not_taken_for_dead(url, clocks):
    """Who took over from one that stood still has no lock yet; the one that wakes gives back its own."""
    first = SqlStore(url)
    stop(first)
    with closing(SqlStore(url)) as second:
        first.close()
        keep_alive(second, clocks)
        with pytest.raises(StoreTaken, match="the only one"):
            SqlStore(url)
        second.renew()

        assert second.epoch == 2


def test_leader_without_the_lock_that_has_died_is_followed(url, clocks):
    """By a command as well, whose patience is short: who holds the lock alone watches until it knows."""
    first = SqlStore(url)
    stop(first)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lease, "_ACQUIRE_TIMEOUT_SECONDS", 40.0)
        second = SqlStore(url)
    stop(second)
    first.close()
    with closing(SqlStore(url)) as third:
        assert third.epoch == 3
    second._database.close()


def test_ledger_that_another_is_about_to_lead_is_not_taken(url):
    """Two that start at once: the one without the lock waits, although no lease is there yet."""
    SqlStore(url).close()
    database = Database(url)
    with closing(database):
        with database.transaction() as connection:
            connection.exec_driver_sql("DELETE FROM lease")
        lock = lock_module.lock_of(database)
        lock.try_acquire()
        with pytest.raises(StoreTaken, match="another is about to"):
            SqlStore(url)
        lock.release()


def test_lock_that_is_removed_is_taken_anew(url):
    """At the next write: the file that others would lock is the one that is held."""
    path = Path(url.removeprefix("sqlite:///") + ".lock")
    with closing(SqlStore(url)) as store:
        path.unlink()
        store.renew()

        assert not lock_module.FileLock(path).try_acquire()
        assert row_of(url)["locked"] == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("replace", [False, True], ids=["removed", "replaced"])
def test_writer_whose_lock_is_gone_is_not_taken_for_dead(url, clocks, replace):
    """A second writer finds a lock that nobody holds, and sees that the lease lives."""
    path = Path(url.removeprefix("sqlite:///") + ".lock")
    with closing(SqlStore(url)) as first:
        keep_alive(first, clocks)
        path.unlink()
        if replace:
            path.with_suffix(".new").touch()
            path.with_suffix(".new").rename(path)
            first.renew()
        for _ in range(3):
            with pytest.raises(StoreTaken, match="the only one"):
                SqlStore(url)
        first.renew()

        assert first.epoch == row_of(url)["epoch"] == 1
        assert row_of(url)["locked"] == 1


def test_lock_that_is_replaced_while_it_is_taken_is_tried_again(tmp_path, monkeypatch):
    """Else two would hold a lock of the same name."""
    path, flock, opened = tmp_path / "lock", lock_module.fcntl.flock, []

    def replace_first(file, how):
        if not opened:
            path.unlink()
            path.touch()
        opened.append(file)
        flock(file, how)

    monkeypatch.setattr(lock_module.fcntl, "flock", replace_first)
    lock = lock_module.FileLock(path)

    assert lock.try_acquire()
    assert len(opened) == 2
    assert not lock_module.FileLock(path).try_acquire()
    lock.release()


def test_ledger_with_two_names_is_refused(url, tmp_path):
    """SQLite keeps a journal for each name: two writers would destroy the ledger."""
    with closing(SqlStore(url)) as store:
        twin = tmp_path / "twin.db"
        twin.hardlink_to(tmp_path / "ledger.db")
        for name in (url, f"sqlite:///{twin}"):
            with pytest.raises(StoreUnavailable, match="expected a file with one name, found 2 hard links"):
                SqlStore(name)
        store.renew()


def test_ledger_by_a_symbolic_link_is_the_same(url, tmp_path):
    """It has one lock, by its real path."""
    with closing(SqlStore(url)):
        link = tmp_path / "elsewhere" / "l.db"
        link.parent.mkdir()
        link.symlink_to(tmp_path / "ledger.db")
        with pytest.raises(StoreTaken, match="the only one"):
            SqlStore(f"sqlite:///{link}")

    assert [one.name for one in link.parent.iterdir()] == ["l.db"]


@pytest.mark.parametrize("what", ["removed", "moved", "replaced", "restored", "folder"])
def test_lease_is_lost_with_its_file(tmp_path, what):
    """The next look says so, and nothing is written to another file that stands there."""
    folder = tmp_path / "ledgers"
    folder.mkdir()
    path, aside = folder / "ledger.db", tmp_path / "aside.db"
    url = f"sqlite:///{path}"
    with closing(SqlStore(url)) as store:
        store.add_bars(make_bars(count=5))
        before = None
        if what == "removed":
            path.unlink()
        elif what == "moved":
            path.rename(aside)
        elif what == "folder":
            folder.rename(tmp_path / "aside")
        else:
            if what == "restored":
                backup(path, aside)
            else:
                SqlStore(f"sqlite:///{aside}").close()
            aside.replace(path)
            before = content_of(path)
        for act in (store.renew, lambda: store.add_bars(make_bars(count=9))):
            with pytest.raises((LeaseLost, StoreUnavailable)):
                act()
        with pytest.raises(LeaseLost, match="its file was removed" if before is None else "another file has taken"):
            store.renew()

    assert before == (content_of(path) if path.exists() else None)


def content_of(path):
    with closing(sqlite3.connect(path)) as connection:
        asked = ("SELECT * FROM lease", "SELECT * FROM series", "SELECT * FROM bar")
        return [connection.execute(one).fetchall() for one in asked]


def backup(path, to):
    """Copy a ledger that is in use."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def test_ledger_that_comes_back_is_written_again(url, tmp_path):
    """A file that was away for a moment is the same one."""
    path = tmp_path / "ledger.db"
    with closing(SqlStore(url)) as store:
        path.rename(tmp_path / "aside.db")
        with pytest.raises(LeaseLost, match="its file was removed"):
            store.renew()
        (tmp_path / "aside.db").rename(path)
        store.renew()

        assert store.add_bars(make_bars(count=5)) == 5
