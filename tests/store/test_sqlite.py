"""An SQLite ledger as it is read, beside who writes it and while it comes and goes; and as it is copied."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from forecaster.errors import ConfigError, LedgerMissing, SchemaTooNew, StoreUnavailable
from forecaster.store import backup, open_reader, sqlite
from forecaster.store.backup import copy_ledger
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite import SCHEMA, SqliteFile
from forecaster.store.sqlite_library import sqlite3
from tests.builders import make_bars, make_key

RELEASED = Path(__file__).parent / "released"
POLLS = 300


def write_ledger(path, count=5):
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_bars(make_bars(count=count))
    return path


@pytest.fixture
def path(tmp_path):
    """A ledger of five bars."""
    return write_ledger(tmp_path / "ledger.db")


@pytest.fixture
def reader(tmp_path):
    with closing(open_reader(f"sqlite:///{tmp_path}/ledger.db")) as reader:
        yield reader


def descriptors(path):
    """How many descriptors of this process are open on a file."""
    found = 0
    for one in Path("/proc/self/fd").iterdir():
        try:
            found += str(one.readlink()).startswith(str(path))
        except FileNotFoundError:  # the one of this look itself
            continue
    return found


def make_empty(path):
    path.touch()


def make_older(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((RELEASED / f"schema-{SCHEMA - 1}.sql").read_text())


def make_newer(path):
    write_ledger(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda _: None, LedgerMissing),
        (make_empty, LedgerMissing),
        (make_older, StoreUnavailable),
        (make_newer, SchemaTooNew),
    ],
    ids=["absent", "empty", "older", "newer"],
)
def test_polls_in_vain_leave_no_descriptor(tmp_path, reader, make, error):
    """A strategy that waits for its ledger may ask every second for months."""
    path = tmp_path / "ledger.db"
    make(path)
    for _ in range(POLLS):
        with pytest.raises(error):
            reader.latest_open(make_key())

    assert descriptors(path) == 0


def test_threads_that_have_ended_leave_no_descriptor(path, reader):
    found = []
    for _ in range(POLLS):
        thread = threading.Thread(target=lambda: found.append(reader.latest_open(make_key())))
        thread.start()
        thread.join()

    assert len(found) == POLLS
    assert None not in found
    assert descriptors(path) == 0


def test_living_thread_has_one_connection(path, reader):
    """However often it asks; when the reader is closed it has none."""
    asked, closed = threading.Barrier(4), threading.Barrier(4)

    def ask():
        for _ in range(10):
            reader.latest_open(make_key())
        asked.wait(60)
        closed.wait(60)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    asked.wait(60)
    while_living = descriptors(path)
    reader.close()
    when_closed = descriptors(path)
    closed.wait(60)
    for thread in threads:
        thread.join()

    assert while_living == 3
    assert when_closed == 0


def test_ledger_that_vanishes_is_missing(path, reader):
    """And is read again once it is back; no file that is gone is kept open."""
    before = len(reader.bars(make_key()))
    path.rename(path.with_name("away"))
    with pytest.raises(LedgerMissing, match=f"sqlite:///{path}: expected a ledger, found none"):
        reader.bars(make_key())
    open_while_away = descriptors(path.parent)
    path.with_name("away").rename(path)

    assert before == len(reader.bars(make_key())) == 5
    assert open_while_away == 0


def test_ledger_that_another_replaces_is_read_anew(path, tmp_path, reader):
    """As when a copy is restored: the old file lives on for who has it open, and is not the ledger any more."""
    before = len(reader.bars(make_key()))
    write_ledger(tmp_path / "copy.db", count=7).replace(path)
    after = len(reader.bars(make_key()))

    assert (before, after) == (5, 7)
    assert descriptors(tmp_path) == 1


def test_ledger_behind_a_link_is_the_one_that_the_link_names_now(path, tmp_path):
    link = tmp_path / "link.db"
    link.symlink_to(path)
    with closing(open_reader(f"sqlite:///{link}")) as reader:
        before = len(reader.bars(make_key()))
        link.unlink()
        link.symlink_to(write_ledger(tmp_path / "other.db", count=7))

        assert (before, len(reader.bars(make_key()))) == (5, 7)


def test_relative_path_stays_where_it_was_opened(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with closing(SqliteFile(Path("ledger.db"))) as file:
        monkeypatch.chdir("/")

        assert file.query("SELECT COUNT(*) AS n FROM bar", {})[0].n == 5


def rows_of(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT COUNT(*) FROM bar").fetchone()[0]


class Writer:
    """Commits a row to a ledger, without patience: it fails where it would have to wait."""

    def __init__(self, path):
        self.commits = 0
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None)

    def write(self, *_):
        self._connection.execute("UPDATE lease SET expires_at = expires_at + 1")
        self.commits += 1

    def close(self):
        self._connection.close()


@pytest.fixture
def writer(path):
    with closing(Writer(path)) as writer:
        yield writer


@pytest.fixture
def _page_by_page(monkeypatch):
    monkeypatch.setattr(backup, "_PAGES_PER_STEP", 1)


@pytest.mark.usefixtures("_page_by_page")
def test_writer_commits_while_a_copy_is_under_way(path, writer, tmp_path):
    """Between two portions nothing is locked."""
    left = []

    def look(now_left, pages):
        left.append((now_left, pages))
        if len(left) == 3:
            writer.write()

    copy_ledger(path, tmp_path / "copy.db", look)

    assert writer.commits == 1
    assert left[2][0] > 0  # it was not done then
    assert len(left) > left[2][1]  # and began anew
    assert rows_of(tmp_path / "copy.db") == 5


@pytest.mark.usefixtures("_page_by_page")
def test_copy_ends_although_others_write_all_the_time(path, writer, tmp_path):
    """It is begun anew some times, and then made at once."""
    portions = []

    def write(left, pages):
        portions.append(left)
        assert len(portions) < 100 * pages
        if left:
            writer.write()

    copy_ledger(path, tmp_path / "copy.db", write)

    assert writer.commits >= backup._MAX_RESTARTS
    assert rows_of(tmp_path / "copy.db") == 5
    assert not list(tmp_path.glob("*.unfinished*"))


@pytest.mark.usefixtures("_page_by_page")
def test_copy_behind_a_write_ahead_log_is_of_one_moment(path, tmp_path):
    """Nobody waits for it, and it is not begun anew."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    with closing(Writer(path)) as writer:
        portions = []

        def write(left, pages):
            portions.append((left, pages))
            writer.write()

        copy_ledger(path, tmp_path / "copy.db", write)
    with closing(sqlite3.connect(path)) as now, closing(sqlite3.connect(tmp_path / "copy.db")) as then:
        query = "SELECT expires_at FROM lease"

        assert now.execute(query).fetchone()[0] == then.execute(query).fetchone()[0] + writer.commits
    assert writer.commits == len(portions) == portions[0][1]


def test_copy_of_a_ledger_that_stays_locked_gives_up(path, tmp_path, monkeypatch):
    """A writer that was stopped in the middle of a commit is not waited for without end."""
    monkeypatch.setattr(backup, "_COPY_TIMEOUT_SECONDS", 0.0)
    monkeypatch.setattr(backup, "_COPY_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as stopped:
        stopped.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="database is locked"):
            copy_ledger(path, tmp_path / "copy.db")

    assert sorted(one.name for one in tmp_path.iterdir()) == ["ledger.db", "ledger.db.lock"]


def test_copy_is_no_more_open_than_its_ledger(path, tmp_path):
    path.chmod(0o600)
    copy_ledger(path, tmp_path / "copy.db")

    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600


def test_copy_of_no_ledger_makes_nothing(tmp_path):
    with pytest.raises(LedgerMissing, match=f"sqlite:///{tmp_path}/none.db"):
        copy_ledger(tmp_path / "none.db", tmp_path / "copy.db")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["", "-journal", "-wal", "-shm", ".lock"])
def test_ledger_is_not_copied_onto_itself(tmp_path, ending):
    """What is written during the copy would be in a file that has no name any more."""
    path = tmp_path / "ledger.db"
    SqlStore(f"sqlite:///{path}").close()
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="expected another file to copy it to"):
        copy_ledger(path, path.with_name(f"{path.name}{ending}"))

    assert path.read_bytes() == before


def test_link_to_a_ledger_is_no_place_for_its_copy(tmp_path):
    path, link, twin = (tmp_path / name for name in ("ledger.db", "link.db", "twin.db"))
    SqlStore(f"sqlite:///{path}").close()
    link.symlink_to(path)
    twin.hardlink_to(path)
    for to in (link, twin):
        with pytest.raises(StoreUnavailable, match="expected another file to copy it to"):
            copy_ledger(path, to)

    assert link.is_symlink()
    assert twin.samefile(path)


def test_two_copies_at_once_are_both_whole(path, tmp_path):
    """Each is made under a name of its own, so what was checked is what is there."""
    others = []

    def begin_another(*_):
        if not others:
            others.append("begun")
            copy_ledger(path, tmp_path / "copy.db")
            others.append(rows_of(tmp_path / "copy.db"))

    copy_ledger(path, tmp_path / "copy.db", begin_another)

    assert others == ["begun", 5]
    assert rows_of(tmp_path / "copy.db") == 5
    assert not list(tmp_path.glob("*.unfinished"))


def test_link_is_no_place_for_a_copy(path, tmp_path):
    """As for all files that are written: else whoever may write to the folder has another file replaced."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "copy.db").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match="expected a file, not a link: name the file itself"):
        copy_ledger(path, tmp_path / "copy.db")

    assert (tmp_path / "copy.db").is_symlink()
    assert (tmp_path / "precious").read_text() == "mine"


def test_folder_in_the_way_of_a_copy_is_named(path, tmp_path):
    (tmp_path / "copy.db").mkdir()
    with pytest.raises(ConfigError, match=r"copy\.db, which is a folder"):
        copy_ledger(path, tmp_path / "copy.db")


@pytest.mark.parametrize("revision", ["3f2a9c11d0aa", None])
def test_tables_of_another_program_are_no_ledger(tmp_path, revision):
    """Whoever reads or writes is told, and nothing is changed."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        if revision:
            connection.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    before = path.read_bytes()
    for use in (lambda url: open_reader(url).runs(), SqlStore):
        with pytest.raises(StoreUnavailable, match=f"tables of another program at revision {revision}"):
            use(f"sqlite:///{path}")

    assert path.read_bytes() == before
