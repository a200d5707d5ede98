"""A copy in the place of a ledger: whole, at once, and beside it the ledger that was there."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from forecaster.errors import SchemaTooNew, StoreTaken, StoreUnavailable
from forecaster.ledger import LIVE, Run
from forecaster.store import lease, open_reader, sqlite
from forecaster.store.backup import copy_ledger
from forecaster.store.restore import restore
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
from forecaster.store.verify import verify_ledger
from tests.builders import make_bars, make_key, utc_ms
from tests.forecast_builders import CUTOFF, make_forecast

NOW = utc_ms("2024-05-06")
ASIDE = "ledger.db.replaced-20240506T000000Z"
BARS = make_bars(count=20)


@pytest.fixture
def path(tmp_path):
    """A ledger of seven bars."""
    path = tmp_path / "ledger.db"
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_run(Run(LIVE, LIVE, CUTOFF))
        store.add_bars(BARS[:5])
        store.add_forecasts([make_forecast()], LIVE)
    return path


@pytest.fixture
def backup(path, tmp_path):
    """A copy of when it had five."""
    (tmp_path / "backups").mkdir()
    copy_ledger(path, tmp_path / "backups" / "copy.db")
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_bars(BARS[:7])
    return tmp_path / "backups" / "copy.db"


def bars_in(path):
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        return len(reader.bars(make_key()))


def change(path, statement):
    with closing(sqlite3.connect(path)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)


def state_of(folder):
    """What is in a folder, but the lock, which every look takes."""
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.is_file() and one.suffix != ".lock"}


def test_copy_takes_the_place_and_the_ledger_is_kept(path, backup, tmp_path):
    path.chmod(0o640)
    done = restore(f"sqlite:///{path}", backup, NOW)

    assert (bars_in(path), bars_in(tmp_path / ASIDE), bars_in(backup)) == (5, 7, 5)
    assert (done.ledger, done.previous_ledger, done.last_cutoff) == (f"sqlite:///{path}", str(tmp_path / ASIDE), CUTOFF)
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(state_of(tmp_path)) == ["ledger.db", ASIDE]


def test_service_goes_on_with_the_copy(path, backup):
    restore(f"sqlite:///{path}", backup, NOW)
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        added = store.add_bars(BARS[:9])

    assert added == 4


def test_reader_reads_the_copy_from_then_on(path, backup):
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        before = len(reader.bars(make_key()))
        restore(f"sqlite:///{path}", backup, NOW)

        assert (before, len(reader.bars(make_key()))) == (7, 5)


def test_log_of_the_ledger_that_was_there_goes_with_it(path, backup, tmp_path):
    """As when its writer was killed: beside the copy it would be mixed with it."""
    store = SqlStore(f"sqlite:///{path}")
    store.add_bars(BARS[:9])
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        reader.bars(make_key())
        store.close()  # but a reader has it open, so that the log stays
        assert path.with_name("ledger.db-wal").stat().st_size
        restore(f"sqlite:///{path}", backup, NOW)

    assert bars_in(path) == 5
    assert bars_in(tmp_path / ASIDE) == 9
    assert f"{ASIDE}-wal" in state_of(tmp_path)


def test_ledger_of_a_dead_writer_is_kept_as_one_file(path, backup, tmp_path):
    """So that whoever may not write the folder can read it."""
    kill_writer_of(path)
    restore(f"sqlite:///{path}", backup, NOW)

    assert (tmp_path / ASIDE).read_bytes()[18:20] == b"\1\1"
    assert sorted(state_of(tmp_path)) == ["ledger.db", ASIDE]
    assert bars_in(tmp_path / ASIDE) == 9


def kill_writer_of(path):
    """Leave a ledger of nine bars as a writer does that is killed: two of them are in the log."""
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_bars(BARS[:9])
        found = {end: path.with_name(path.name + end).read_bytes() for end in ("", "-wal")}
    for end, content in found.items():
        path.with_name(path.name + end).write_bytes(content)


def test_ledger_whose_log_a_reader_holds_stays(path, backup, tmp_path, monkeypatch):
    """A reader in a transaction does not let the log into the ledger, and without it the ledger would lose commits."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 10)
    kill_writer_of(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM bar").fetchone()
        with pytest.raises(StoreUnavailable, match="expected no open transaction of a reader"):
            restore(f"sqlite:///{path}", backup, NOW)

    assert bars_in(path) == 9
    assert [one for one in state_of(tmp_path) if "replaced" in one or "unfinished" in one] == []


def test_journal_of_a_ledger_that_is_gone_is_set_aside(path, backup, tmp_path):
    path.unlink()
    (tmp_path / "ledger.db-journal").write_bytes(b"left")
    done = restore(f"sqlite:///{path}", backup, NOW)

    assert done.previous_ledger is None
    assert bars_in(path) == 5
    assert (tmp_path / f"{ASIDE}-journal").read_bytes() == b"left"


def test_ledger_that_is_damaged_is_replaced_and_kept(path, backup, tmp_path):
    path.write_bytes(b"damaged" * 1000)
    restore(f"sqlite:///{path}", backup, NOW)

    assert bars_in(path) == 5
    assert (tmp_path / ASIDE).read_bytes() == b"damaged" * 1000


def test_ledger_that_is_written_is_not_replaced(path, backup, tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "_ACQUIRE_TIMEOUT_SECONDS", 0.1)
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        with pytest.raises(StoreTaken, match="stop the daemon first"):
            restore(f"sqlite:///{path}", backup, NOW)

        assert store.add_bars(BARS[:9]) == 2
    assert not (tmp_path / ASIDE).exists()


def test_dry_run_checks_and_changes_nothing(path, backup, tmp_path):
    """Nobody need stop for it, and it makes no lock."""
    path.with_name("ledger.db.lock").unlink()
    before = sorted(tmp_path.iterdir()), state_of(tmp_path)
    done = restore(f"sqlite:///{path}", backup, NOW, dry_run=True)
    after = sorted(tmp_path.iterdir()), state_of(tmp_path)
    with closing(SqlStore(f"sqlite:///{path}")):
        beside = restore(f"sqlite:///{path}", backup, NOW, dry_run=True)

    assert (done.rows > 0, done.previous_ledger) == (True, str(tmp_path / ASIDE))
    assert after == before
    assert beside == done


def forge(path):
    change(path, "UPDATE bar SET close = close * 1.0001 WHERE seq = 3")


def age(path):
    change(path, "UPDATE alembic_version SET version_num = '0007'")


def hasten(path):
    change(path, "UPDATE alembic_version SET version_num = '9999'")


def damage(path):
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 40] = bytes(4096 * 37)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (forge, StoreUnavailable, "expected a copy that passes `verify ledger`"),
        (age, StoreUnavailable, "expected schema 8, found 7"),
        (hasten, SchemaTooNew, "found 9999"),
        (damage, StoreUnavailable, "expected an undamaged copy|malformed"),
        (os.remove, StoreUnavailable, "copy.db: expected a copy that `forecaster store backup` made, found none"),
    ],
    ids=["forged", "older", "newer", "damaged", "absent"],
)
def test_copy_that_is_not_whole_replaces_nothing(path, backup, tmp_path, spoil, error, said):
    spoil(backup)
    before = state_of(tmp_path)
    with pytest.raises(error, match=said):
        restore(f"sqlite:///{path}", backup, NOW)

    assert state_of(tmp_path) == before


def test_ledger_is_no_copy_of_itself(path, tmp_path):
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(StoreUnavailable, match="found the ledger itself"):
        restore(f"sqlite:///{path}", tmp_path / "link.db", NOW)


@pytest.mark.parametrize("moment", ["replace", "link"])
def test_restore_that_is_cut_short_leaves_one_ledger_or_the_other(path, backup, monkeypatch, moment):
    """With all commits, although a reader keeps the log; and it may be done again."""
    kill_writer_of(path)
    reader = sqlite3.connect(path)
    reader.execute("SELECT COUNT(*) FROM bar").fetchone()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, moment, fail)
        with pytest.raises(StoreUnavailable, match="No space left"):
            restore(f"sqlite:///{path}", backup, NOW)
        while_broken = bars_in(path)
    restore(f"sqlite:///{path}", backup, NOW + 1000)
    reader.close()

    assert (while_broken, bars_in(path)) == (9, 5)


def test_copy_keeps_no_log_and_can_be_read_as_it_is(path, tmp_path):
    """Although the ledger has one: a copy is one file."""
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_bars(BARS[:9])
        copy_ledger(path, tmp_path / "copy.db")

    assert (tmp_path / "copy.db").read_bytes()[18:20] == b"\1\1"
    assert bars_in(tmp_path / "copy.db") == 9
    assert not list(tmp_path.glob("copy.db-*"))
    with closing(open_reader(f"sqlite:///{tmp_path}/copy.db")) as reader:
        assert verify_ledger(reader._runner).ok


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
@pytest.mark.parametrize("is_there", [True, False], ids=["a ledger", "a folder"])
def test_restore_by_root_leaves_the_ledger_to_its_owner(path, backup, tmp_path, is_there):
    """Else the service could not open it, or its lock."""
    if is_there:
        os.chown(path, 65534, 65534)
    else:
        path.unlink()
        path.with_name("ledger.db.lock").unlink()
        os.chown(tmp_path, 65534, 65534)
    restore(f"sqlite:///{path}", backup, NOW)

    assert {one.stat().st_uid for one in (path, path.with_name("ledger.db.lock"))} == {65534}
