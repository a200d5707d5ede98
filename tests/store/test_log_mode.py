"""The write-ahead log of an SQLite ledger: readers and the writer do not wait for each other, whoever reads."""

from __future__ import annotations

import os
import sqlite3 as own
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forecaster.errors import LeaseLost, StoreUnavailable
from forecaster.ledger import LIVE, Run
from forecaster.store import database, open_reader, sqlite
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite import SqliteFile
from forecaster.store.sqlite_library import connect, sqlite3, wal_is_safe
from tests.builders import make_bars, make_key

pytestmark = pytest.mark.skipif(not wal_is_safe(sqlite3.sqlite_version_info), reason="no sound SQLite on this platform")
ROOT = Path(__file__).parents[2]
NOBODY = 65534
BARS = make_bars(count=200)
COUNT = "SELECT COUNT(*) AS n FROM bar"

KILLED_IN_A_COMMIT = """
import os, signal, sys
from forecaster.store.sql import SqlStore
from tests.builders import make_bars
store = SqlStore(f"sqlite:///{sys.argv[1]}")
store.add_bars(make_bars(count=3))
with store._database.transaction() as connection:
    connection.exec_driver_sql("PRAGMA cache_size = 5")  # so that pages reach the log before the commit does
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999) SELECT * FROM n"
    connection.exec_driver_sql(f"CREATE TABLE half AS {numbers}")
    os.kill(os.getpid(), signal.SIGKILL)
"""
READ_AS_NOBODY = f"""
import os, sys
from pathlib import Path
from forecaster.store.sqlite import SqliteFile
file = SqliteFile(Path(sys.argv[1]))
os.setgid({NOBODY})
os.setuid({NOBODY})
print(file.query("{COUNT}", {{}})[0].n)
"""
READ_WITH_PYTHONS_OWN = f"""
import sqlite3, sys
connection = sqlite3.connect(f"file:{{sys.argv[1]}}?mode=ro", uri=True, isolation_level=None)
for line in sys.stdin:
    print(connection.execute("{COUNT}").fetchone()[0], flush=True)
connection.close()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def store(path):
    """A writer that fails where it would have to wait."""
    with closing(SqlStore(f"sqlite:///{path}?timeout=0")) as store:
        yield store


@pytest.fixture
def transaction(store, path):
    """A reader in the middle of a transaction."""
    add(store, 3)
    with closing(connect(f"{path.as_uri()}?mode=ro")) as reader:
        reader.execute("BEGIN")
        reader.execute(COUNT).fetchone()
        yield reader


def add(store, count):
    """Have so many bars."""
    return store.add_bars(BARS[:count])


def files_of(path):
    return sorted(one.name.removeprefix(path.name) for one in path.parent.iterdir())


def has_log(path):
    return path.read_bytes()[18:20] == b"\2\2"


def python(script, path, **more):
    return subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=False, **more)


def test_reader_in_a_transaction_does_not_stop_the_writer(store, path, transaction):
    """It goes on reading what was there when it began; every commit succeeds, and others see it."""
    written = [add(store, count) for count in range(4, 54)]
    with closing(open_reader(f"sqlite:///{path}")) as other:
        seen = len(other.bars(make_key()))

    assert written == [1] * 50
    assert seen == 53
    assert transaction.execute(COUNT).fetchone() == (3,)


def test_writer_starts_beside_a_reader_of_a_ledger_without_a_log(path):
    """A reader in the middle of a transaction forbids the change; as soon as it ends, the log is there."""
    SqlStore(f"sqlite:///{path}").close()
    with closing(connect(f"{path.as_uri()}?mode=ro")) as reader:
        reader.execute("BEGIN")
        reader.execute(COUNT).fetchone()
        url = f"sqlite:///{path}?timeout=0"
        with pytest.raises(StoreUnavailable, match="locked"), closing(SqlStore(url)):
            pass
        reader.execute("ROLLBACK")
        with closing(SqlStore(url)) as store:
            reader.execute("BEGIN")
            reader.execute(COUNT).fetchone()

            assert add(store, 3) == 3
            assert has_log(path)


def test_log_comes_when_the_reader_that_forbade_it_has_gone(path):
    """It is asked for whenever a connection is used, and nobody waits for it."""
    SqlStore(f"sqlite:///{path}").close()
    with closing(connect(path.as_uri())) as writer, closing(connect(f"{path.as_uri()}?mode=ro")) as reader:
        writer.execute("PRAGMA busy_timeout=7000")
        reader.execute("BEGIN")
        reader.execute(COUNT).fetchone()
        beside = sqlite.keep_log(writer), has_log(path)
        reader.execute("ROLLBACK")
        after = sqlite.keep_log(writer), has_log(path)

        assert (beside, after) == ((False, False), (True, True))
        assert writer.execute("PRAGMA busy_timeout").fetchone() == (7000,)


def test_ledger_that_nobody_has_open_is_one_file(path):
    """Whoever may read it can: there is nothing beside it that is to be made."""
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        add(store, 3)
        while_open = files_of(path), has_log(path)

    assert while_open == (["", "-shm", "-wal", ".lock"], True)
    assert (files_of(path), has_log(path)) == (["", ".lock"], False)


@pytest.mark.parametrize("ends", [("-wal",), ("-shm",), ("-wal", "-shm")])
def test_log_that_is_removed_under_the_writer_is_saved(path, ends):
    """What was in it alone is in the ledger when the writer notices, though it is killed then; the next one goes on."""
    store = SqlStore(f"sqlite:///{path}")
    add(store, 3)
    for end in ends:
        path.with_name(path.name + end).unlink()
    add(store, 5)
    with pytest.raises(LeaseLost, match="its write-ahead log was removed"):
        store.renew()
    as_killed = path.with_name("killed.db")
    as_killed.write_bytes(path.read_bytes())
    store.close()
    with closing(SqlStore(f"sqlite:///{path}")) as again:
        add(again, 7)

    assert bars_of(as_killed) == 5
    assert bars_of(path) == 7


def remove_log(path):
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink()


def test_writer_is_told_of_a_lost_log_that_its_heart_has_noticed(path, monkeypatch):
    """Nothing is acknowledged after that which a kill could undo."""
    monkeypatch.setattr("forecaster.store.lease.LEASE_MS", 300)
    store = SqlStore(f"sqlite:///{path}")
    add(store, 3)
    remove_log(path)
    store._lease._renewer.join(60)
    with pytest.raises(LeaseLost, match="its write-ahead log was removed"):
        add(store, 5)
    written = bars_of(path)
    store.close()

    assert written == 3


def test_lost_log_that_a_transaction_holds_is_saved_when_that_ends(path):
    """Until then the ledger cannot be promised, and that is told each time."""
    store = SqlStore(f"sqlite:///{path}")
    add(store, 3)
    with closing(connect(f"{path.as_uri()}?mode=ro")) as reader:
        reader.isolation_level = None
        reader.execute("BEGIN")
        reader.execute(COUNT).fetchone()
        add(store, 5)
        remove_log(path)
        with pytest.raises(StoreUnavailable, match="saved when no transaction is open"):
            store.renew()
    with pytest.raises(LeaseLost, match="its write-ahead log was removed"):
        store.renew()
    written = bars_of(path)
    store.close()

    assert written == 5


def test_lost_log_is_not_given_up_while_a_connection_has_it(path):
    """That one is busy: what it has is saved at the next look."""
    store = SqlStore(f"sqlite:///{path}")
    add(store, 3)
    with store.transaction(write=False):
        store.bars(make_key())
        remove_log(path)
        with pytest.raises(StoreUnavailable), ThreadPoolExecutor(1) as other:
            other.submit(store._lease._save_removed_log).result()
    with pytest.raises(LeaseLost):
        store.renew()
    written = bars_of(path)
    store.close()

    assert written == 3


def test_ledger_that_is_moved_away_while_it_is_opened_is_not_made_anew(path, monkeypatch):
    """Between the look and the opening: an empty one would stand in its place."""
    store = SqlStore(f"sqlite:///{path}")
    add(store, 3)
    moved = path.with_name("moved.db")
    look = store._database._check_file

    def look_and_move(at):
        look(at)
        path.rename(moved)

    monkeypatch.setattr(store._database, "_check_file", look_and_move)
    with store.transaction(write=False), ThreadPoolExecutor(1) as other, pytest.raises(StoreUnavailable):
        other.submit(store.bars, make_key()).result()
    was_made = path.exists()
    moved.rename(path)
    store.close()
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        assert len(reader.bars(make_key())) == 3
    assert not was_made


def test_log_is_brought_into_the_ledger_each_minute(path, monkeypatch):
    """Somebody may take it for rubbish, and kill the service."""
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        add(store, 3)
        store.renew()
        before = path.read_bytes()
        monkeypatch.setattr(database, "CHECKPOINT_SECONDS", 0.0)
        store.renew()
        as_killed = path.with_name("killed.db")
        as_killed.write_bytes(path.read_bytes())

    assert as_killed.read_bytes() != before
    assert bars_of(as_killed) == 3


def bars_of(path):
    """How many bars are in the file itself, whatever its header says of a log."""
    with closing(own.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        return connection.execute("SELECT COUNT(*) FROM bar").fetchone()[0]


def test_ledger_keeps_its_log_while_others_read(path):
    """They go on, and what was written is there for whoever comes next."""
    store = SqlStore(f"sqlite:///{path}")
    add(store, 3)
    with closing(SqliteFile(path)) as reader:
        reader.query(COUNT, {})
        store.close()

        assert has_log(path)
        assert reader.query(COUNT, {})[0].n == 3
    with closing(open_reader(f"sqlite:///{path}")) as other:
        assert len(other.bars(make_key())) == 3


def test_log_begins_anew_when_the_reader_has_gone(store, path, transaction, monkeypatch):
    """While it reads, the log grows, and a warning says so once; afterwards what was in it has its place."""
    monkeypatch.setattr(database, "LARGE_LOG", 200_000)
    log = path.with_name("ledger.db-wal")
    with capture_logs() as lines:
        for count in range(4, 104):
            add(store, count)
        grown = log.stat().st_size
        transaction.execute("ROLLBACK")
        with closing(connect(f"{path.as_uri()}?mode=rw")) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        for count in range(104, 114):
            add(store, count)

    assert grown > 200_000
    assert [line["event"] for line in lines] == ["ledger.log_large"]
    assert log.stat().st_size == grown  # and has not grown further


def test_log_is_cut_to_its_limit(path, monkeypatch):
    monkeypatch.setattr(sqlite, "LOG_LIMIT", 50_000)
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        add(store, 3)
        with closing(connect(f"{path.as_uri()}?mode=ro")) as reader:
            reader.execute("BEGIN")
            reader.execute(COUNT).fetchone()
            for count in range(4, 54):
                add(store, count)
        grown = path.with_name("ledger.db-wal").stat().st_size
        with closing(connect(f"{path.as_uri()}?mode=rw")) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        add(store, 54)

        assert path.with_name("ledger.db-wal").stat().st_size <= 50_000 < grown


def test_ledger_that_is_put_in_the_place_of_another_has_not_its_log(path, tmp_path):
    """SQLite cannot tell whose log it is, and would mix the two."""
    with closing(SqlStore(f"sqlite:///{tmp_path}/other.db")) as other:
        add(other, 7)
    store = SqlStore(f"sqlite:///{path}")
    add(store, 3)
    with closing(SqliteFile(path)) as reader, capture_logs() as lines:
        before = reader.query(COUNT, {})[0].n
        (tmp_path / "other.db").replace(path)
        foreign = path.read_bytes()
        with pytest.raises(LeaseLost):
            add(store, 9)
        is_same = path.read_bytes() == foreign
        store.close()
        after = reader.query(COUNT, {})[0].n

    assert (before, after) == (3, 7)
    assert is_same
    assert "ledger.replaced" in [line["event"] for line in lines]
    assert path.with_name("ledger.db.replaced-wal").exists()
    with closing(sqlite3.connect(path)) as whole:
        assert whole.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_ledger_that_comes_back_has_its_log(path):
    """What was written last is only in the log when its ledger is moved away; no other is begun beside it."""
    store = SqlStore(f"sqlite:///{path}")
    add(store, 3)
    path.rename(path.with_name("away.db"))
    with suppress(StoreUnavailable, LeaseLost):
        add(store, 9)
    store.close()
    with pytest.raises(StoreUnavailable, match="removed"):
        SqlStore(f"sqlite:///{path}")
    path.with_name("away.db").rename(path)
    with closing(SqlStore(f"sqlite:///{path}")) as back:
        there = len(back.bars(make_key()))

    assert there == 3


def test_old_library_keeps_a_rollback_journal_and_says_what_that_costs(path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    with capture_logs() as lines, closing(SqlStore(f"sqlite:///{path}")) as store:
        add(store, 3)

        assert not has_log(path)
    assert [line["event"] for line in lines] == ["ledger.no_log"]
    assert "makes writes wait" in lines[0]["expected"]


def test_old_library_does_not_write_a_ledger_that_others_have_open_with_a_log(store, path, monkeypatch):
    """Two that write or checkpoint, one without the fix, may destroy it."""
    add(store, 3)
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
    with pytest.raises(sqlite3.OperationalError, match="locked"), closing(connect(f"{path.as_uri()}?mode=rw")) as old:
        sqlite.prepare(old, busy_timeout_ms=0)


def test_log_of_a_dead_writer_is_not_touched_by_an_old_library(path, monkeypatch):
    """Where its index is broken only a connection that may write can mend it, and that one would write the log."""
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        add(store, 3)
        monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))
        with pytest.raises(StoreUnavailable, match="start the service"):
            SqliteFile(path)._recover()
        monkeypatch.undo()


def test_file_at_rest_that_changes_while_it_is_read_is_not_believed(path, monkeypatch):
    """It is read as one that does not change: whether that was so is looked at afterwards."""
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        add(store, 3)
    file = SqliteFile(path)
    unchanged = file._query_read_only(COUNT, {})[0].n
    check = file._check

    def write_meanwhile(*about):
        check(*about)
        with closing(SqlStore(f"sqlite:///{path}")) as store:
            store.add_run(Run(LIVE, LIVE, 0))

    monkeypatch.setattr(file, "_check", write_meanwhile)
    with pytest.raises(StoreUnavailable, match="found one that changed"):
        file._query_read_only(COUNT, {})

    assert unchanged == 3


def test_strategy_that_opens_a_ledger_is_heard_of(store, path):
    """Python tells its audit hooks of connections; so does the bundled library's door."""
    heard, is_on = [], [True]
    sys.addaudithook(lambda event, told: heard.append(told) if is_on and event == "sqlite3.connect" else None)
    with closing(SqliteFile(path)) as reader:
        reader.query(COUNT, {})
    is_on.clear()

    assert heard == [(f"{path.as_uri()}?mode=ro",)]


@pytest.fixture
def open_folder():
    """A folder that everybody may read, and its owner alone may write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(params=["living", "killed in a commit", "stopped", "log gone"])
def ledger_of_another(request, open_folder):
    """A ledger of three bars, whose writer lives, was killed, or has ended."""
    path = open_folder / "ledger.db"
    if request.param in ("living", "stopped"):
        store = SqlStore(f"sqlite:///{path}")
        add(store, 3)
        if request.param == "stopped":
            store.close()
    else:
        python(KILLED_IN_A_COMMIT, path)
    if request.param == "log gone":  # as a tool leaves it that has looked at the ledger
        with closing(sqlite3.connect(path)) as tool:
            tool.execute(COUNT).fetchone()
    yield path
    if request.param == "living":
        store.close()


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_user_who_may_not_write_reads_always(ledger_of_another):
    """And leaves nothing behind."""
    before = files_of(ledger_of_another)
    read = python(READ_AS_NOBODY, ledger_of_another, capture_output=True, text=True)

    assert (read.stdout, read.stderr) == ("3\n", "")
    assert files_of(ledger_of_another) == before


@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_user_who_may_not_write_is_told_what_to_do_about_a_rollback_journal(open_folder):
    """It is what a writer leaves that was killed in a commit and had no log: only who may write can undo it."""
    path = open_folder / "ledger.db"
    script = KILLED_IN_A_COMMIT.replace(
        "store = ", "from forecaster.store import sqlite\nsqlite.keep_log = bool\nstore = "
    )
    python(script, path)
    left = files_of(path)
    read = python(READ_AS_NOBODY, path, capture_output=True, text=True)
    with closing(SqliteFile(path)) as owner:
        owner.query(COUNT, {})
    again = python(READ_AS_NOBODY, path, capture_output=True, text=True)

    assert "-journal" in left
    assert "this user may not write here: start the service, or read as its user once" in read.stderr
    assert again.stdout == "3\n"


@pytest.mark.processes
def test_pythons_own_library_reads_beside_the_writer(store, path):
    """A connection that may only read takes no part in the fault of the log: it neither writes nor checkpoints."""
    add(store, 3)
    with subprocess.Popen(
        [sys.executable, "-c", READ_WITH_PYTHONS_OWN, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        seen = []
        for count in range(4, 24):
            add(store, count)
            print("read", file=reader.stdin, flush=True)
            seen.append(int(reader.stdout.readline()))
        reader.stdin.close()

    assert seen == list(range(4, 24))


@pytest.mark.processes
def test_pythons_own_library_leaves_the_log_of_a_dead_writer(path):
    """The last connection that closes would bring the log into the ledger, could it write."""
    python(KILLED_IN_A_COMMIT, path)
    before = path.read_bytes(), path.with_name("ledger.db-wal").read_bytes()
    read = python(READ_WITH_PYTHONS_OWN, path, input="read\n", capture_output=True, text=True)

    assert read.stdout == "3\n"
    assert (path.read_bytes(), path.with_name("ledger.db-wal").read_bytes()) == before
    assert own.sqlite_version_info >= (3, 22)  # older ones do not read it at all
