"""One database through SQLAlchemy: whose file it opens, its transactions, and what it tells of its URL."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import assume, example, given
from hypothesis import strategies as st

from forecaster.errors import LeaseLost, StoreError, StoreUnavailable
from forecaster.store import open_database, open_reader, open_store
from forecaster.store.database import Database
from forecaster.store.sql import SqlStore
from forecaster.urls import sqlite_url
from tests.builders import make_bars, make_key

NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00/", exclude_categories=["Cs"]), min_size=1, max_size=20
)
QUERIES = st.sampled_from(["", "?", "?timeout=20", "?timeout=0.5"])
OTHER = make_key(symbol="ETH/USDT")


@pytest.fixture
def database(tmp_path):
    with closing(Database(f"sqlite:///{tmp_path}/some.db")) as database:
        with database.transaction() as connection:
            connection.exec_driver_sql("CREATE TABLE number (n INTEGER)")
        yield database


def put(connection, n):
    connection.exec_driver_sql("INSERT INTO number VALUES (?)", (n,))


def numbers(database):
    return [row.n for row in database.query("SELECT n FROM number ORDER BY n", {})]


def put_and_fail(database, n):
    with database.thread_transaction(write=True) as connection:
        put(connection, n)
        raise ZeroDivisionError


def opened_by_sqlalchemy(url):
    """The file that SQLAlchemy itself would open."""
    address = sa.make_url(url)
    return Path(address.get_dialect()().create_connect_args(address)[0][0])


@given(
    st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(["", "/"]), st.sampled_from(["bare", "encoded"]), QUERIES
)
@example(["a b.db"], "", "bare", "?timeout=20")
@example(["100%.db"], "/", "encoded", "")
@example(["what?.db"], "", "encoded", "?timeout=20")
@example(["a%20b.db"], "", "encoded", "")
def test_reader_and_writer_open_the_file_that_the_url_names(names, root, how, query):
    """With spaces, percent signs, question marks and a query, relative and absolute: the one that SQLAlchemy opens."""
    path = Path(root, "data", *names)
    bare = str(path).partition("?")[0]
    assume(how == "encoded" or not bare.endswith("/"))
    url = (sqlite_url(path) if how == "encoded" else f"sqlite:///{bare}") + query
    with closing(Database(url)) as writer, closing(open_database(url)) as reader:
        assert writer.path == reader._path.resolve() == opened_by_sqlalchemy(url).resolve()


@pytest.mark.parametrize(
    "name",
    ["z.db", "z.db?timeout=20", "with%20space.db", "with space.db", "100%25.db", "what%3F.db?timeout=1", "./x/../z.db"],
)
def test_what_is_written_is_read_under_the_same_url(tmp_path, monkeypatch, name):
    """Relative to the working folder, and absolute."""
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    for url in (f"sqlite:///{name}", f"sqlite:///{tmp_path}/abs{name.removeprefix('.')}".replace("abs/", "")):
        with closing(open_store(url)) as store:
            store.add_bars(make_bars(count=3))
        with closing(open_reader(url)) as reader:
            assert len(reader.bars(make_key())) == 3


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///z.db?mode=ro",
        "sqlite:///file:z.db?uri=true&mode=ro",
        "sqlite:///z.db?timeout=20&uri=true",
        "sqlite:///z.db?timeout=soon",
        "sqlite:///z.db?timeout=-1",
        "sqlite:///z%00.db",
        "sqlite:///:memory:",
        "sqlite:///",
        "sqlite://",
        "sqlite://host/z.db",
        "nosuchdb:///z.db",
        "z.db",
    ],
)
def test_url_that_is_not_read_by_all_alike_is_refused_by_all(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    for use in (open_store, open_reader, Database):
        with pytest.raises(StoreUnavailable, match=r"expected (sqlite:///PATH|memory: or a URL)"):
            use(url)

    assert list(tmp_path.iterdir()) == []


def test_timeout_of_the_url_counts_for_all(tmp_path):
    url = f"sqlite:///{tmp_path}/z.db?timeout=1.5"
    with closing(SqlStore(url)) as store, closing(open_database(url)) as reader:
        found = [asked.query("PRAGMA busy_timeout", {})[0].timeout for asked in (store._database, reader)]

    assert found == [1500, 1500]


def test_link_to_a_ledger_is_that_ledger(tmp_path):
    """One lock for both names, and the journal beside the file itself."""
    (tmp_path / "there").mkdir()
    link = tmp_path / "ledger.db"
    link.symlink_to(tmp_path / "there" / "ledger.db")
    with closing(SqlStore(f"sqlite:///{link}")) as store:
        store.add_bars(make_bars(count=3))

    assert [one.name for one in tmp_path.iterdir() if not one.is_dir()] == ["ledger.db"]
    assert sorted(os.listdir(tmp_path / "there")) == ["ledger.db", "ledger.db.lock"]  # noqa: PTH208 - names


def test_link_that_leads_in_a_circle_is_refused(tmp_path):
    (tmp_path / "a.db").symlink_to(tmp_path / "b.db")
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")
    for use in (open_store, lambda url: open_reader(url).latest_open(OTHER)):
        with pytest.raises(StoreUnavailable):
            use(f"sqlite:///{tmp_path}/a.db")


def test_ledger_that_is_removed_while_it_is_written(tmp_path):
    """Writes fail, no empty file takes its place, and once it is back the same writer goes on."""
    path, away, bars = tmp_path / "ledger.db", tmp_path / "away", make_bars(count=5)
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_bars(bars[:3])
        path.rename(away)
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="it was removed"):
                store.add_bars(bars[:4])
        made = path.exists()
        away.rename(path)
        added = store.add_bars(bars)

    assert not made
    assert added == 2


def test_ledger_that_another_replaces_while_it_is_written(tmp_path):
    """The writer is not the one of that ledger, and writes nothing to it."""
    path = tmp_path / "ledger.db"
    with closing(SqlStore(f"sqlite:///{tmp_path}/other.db")) as other:
        other.add_bars(make_bars(count=7))
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_bars(make_bars(count=3))
        (tmp_path / "other.db").replace(path)
        with pytest.raises(LeaseLost):
            store.add_bars(make_bars(count=9))
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        assert len(reader.bars(make_key())) == 7


def test_block_in_a_block_is_part_of_it(database):
    """What it wrote is seen in the outer one at once, and kept when that ends."""
    with database.thread_transaction(write=True) as outer:
        put(outer, 1)
        with database.thread_transaction(write=True) as inner:
            put(inner, 2)
        inside = numbers(database)
        still = database.in_thread_transaction
        put(outer, 3)

    assert (inside, still) == ([1, 2], True)
    assert numbers(database) == [1, 2, 3]
    assert not database.in_thread_transaction


def test_reads_in_a_block_that_writes_are_part_of_it(database):
    with database.thread_transaction(write=True) as outer:
        put(outer, 1)
        with database.thread_transaction(write=False) as inner:
            assert inner is outer
            assert numbers(database) == [1]


def test_block_that_raises_is_undone_alone_when_the_outer_one_goes_on(database):
    with database.thread_transaction(write=True) as outer:
        put(outer, 1)
        with pytest.raises(ZeroDivisionError):
            put_and_fail(database, 2)
        put(outer, 3)

    assert numbers(database) == [1, 3]


def test_blocks_that_raise_leave_nothing(database):
    """Neither rows nor a trace on the thread: the next block is one of its own."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), database.thread_transaction(write=True):
            put_and_fail(database, 2)

    assert vars(database._local) == {}
    assert numbers(database) == []
    with database.thread_transaction(write=True) as again:
        put(again, 4)
    assert numbers(database) == [4]


def test_write_in_a_block_that_reads_is_refused(database):
    """It would write without the lease, and wait for its own lock."""
    with database.thread_transaction(write=False):
        for use in (database.thread_transaction, database.transaction):
            with pytest.raises(StoreError, match="expected only reads inside a block of"), use(write=True):
                pass

        assert numbers(database) == []


def test_store_writes_in_nested_blocks(tmp_path):
    """As a store of the ledger does: the lease is confirmed, and all is there in the end."""
    with closing(SqlStore(f"sqlite:///{tmp_path}/ledger.db")) as store:
        with store.transaction():
            store.add_bars(make_bars(count=3))
            with store.transaction():
                store.add_bars(make_bars(OTHER, count=4))
        with store.transaction(write=False):
            with pytest.raises(StoreError, match="expected only reads"):
                store.add_bars(make_bars(count=5))
            found = len(store.bars(make_key())), len(store.bars(OTHER))

    assert found == (3, 4)
