"""Ledgers of every supported schema open with the same content, and no upgrade stops half-way."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from forecaster.errors import StoreUnavailable
from forecaster.ledger import Run
from forecaster.store import migrations, open_database, open_reader
from forecaster.store.database import Database
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite import OLDEST_SCHEMA, SCHEMA
from forecaster.store.sqlite_library import sqlite3
from forecaster.store.verify import verify_ledger
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast

RELEASED = sorted((Path(__file__).parent / "released").glob("schema-*.sql"))
SPX = make_key("arch", "SPX/USD", "1d", "XNYS")
HEADS = {
    "binance BTC/USDT 1h bars": "ca5c826825a34b0c8eaa01bf09bba444f2b15f1efdc15bbd2f54e465b4198989",
    "binance BTC/USDT 1h forecasts of live": "18eebb2c56a90e9cd19ef24416bbdd89a085eca6a8706581555784342626e145",
    "arch SPX/USD 1d forecasts of replay-1": "c69cfb8798293b57be07d64443d4d60e0d45bb8d5f9c0936a45e71020a26d2db",
    "binance BTC/USDT 1h bars of replay-2": "dc759206f52b17b0f1d7c84cdf19d22545362afd50ce52167a519d43cf83e3a5",
    "binance BTC/USDT 1h forecasts of replay-2": "b20a88aae3e871dd798422270ae74ec76f29e6f94163904b42a3d57249d15b5f",
}
"""The heads that the program which wrote the fixture printed."""


@pytest.fixture(params=RELEASED, ids=lambda path: path.stem)
def ledger(request, tmp_path):
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(request.param.read_text(encoding="utf-8"))
    return path


def schema_of(path):
    database = Database(f"sqlite:///{path}")
    with closing(database), database.transaction(write=False) as connection:
        return migrations.schema_of(connection)


def shape(path):
    """Columns in order, keys, indexes, views and triggers, whatever the spelling of their SQL."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute(
            "SELECT type, name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        ).fetchall()
        tables = [name for kind, name, _ in names if kind == "table"]
        columns = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in tables}
        keys = {name: sorted(connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()) for name in tables}
        return sorted(names), columns, keys


def assert_holds_what_it_held(path):
    bars = make_bars(count=5, start=CUTOFF - 2 * HOUR_MS)
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        stored = reader.bars(bars.key)
        live = reader.history(bars.key, 0, 2**60)
        walk = reader.latest(bars.key, "random_walk")
        late = reader.latest(bars.key, "nano")
        stock = reader.latest(SPX, "nano", "replay-1")
        rejected = reader.rejected_rows(bars.key)
        pending = reader.pending_forecasts(bars.key, 0, 2**60)
        gaps = reader.gaps(bars.key, 0, 2**60)
        runs = reader.runs()
        calibration = reader.calibration(bars.key, "nano@0123456789ab", "replay-2")
        own = reader.bars(bars.key, run_id="replay-2")

    assert stored.open_time.tolist() == bars.open_time.tolist()
    assert stored.revision.tolist() == [0, 0, 0, 1, 0]
    assert stored.first_seen_at.tolist() == [CUTOFF + 5] * 3 + [CUTOFF + 9] * 2
    assert stored.ohlcv_TF[:, :4].tolist() == bars.ohlcv_TF[:, :4].tolist()
    assert [(row.cutoff, row.late) for row in live[::12]] == [
        (CUTOFF, False),
        (CUTOFF, False),
        (CUTOFF + HOUR_MS, True),
    ]
    assert walk.raw_FHQ.tobytes() == make_forecast(seed=1).raw_FHQ.tobytes()
    assert walk.values_FHQ.tobytes() == make_forecast(seed=1).values_FHQ.tobytes()
    assert late.raw_FHQ.tobytes() == make_forecast(seed=2, horizon=2).raw_FHQ.tobytes()
    assert stock.quantile_levels == (0.1, 0.5, 0.9)
    assert [row.reason for row in rejected] == ["prices must be above 0"]
    assert [(one.state, one.attempts, one.reason, one.claimed_until - CUTOFF) for one in pending] == [
        ("done", 0, "", 0),
        ("claimed", 1, "", 1),
        ("failed", 2, "no answer", 2),
        ("missed", 3, "", 3),
        ("gap", 4, "", 4),
        ("pending", 5, "", 5),
    ]
    assert gaps == {
        CUTOFF - 3 * HOUR_MS: [CUTOFF + 5, CUTOFF + 9],
        CUTOFF + 5 * HOUR_MS: [CUTOFF + 9],
    }
    assert runs == [
        Run("live", "live", CUTOFF, ""),
        Run("replay-1", "replay", CUTOFF + 1, ""),
        Run("replay-2", "replay", CUTOFF + 2, '{"horizon": 2}'),
    ]
    assert calibration.state == b"\x01\x02"
    assert len(own) == 2
    assert late.available_at == CUTOFF + 2 * HOUR_MS + 5007
    with closing(open_database(f"sqlite:///{path}")) as database:
        check = verify_ledger(database)
    assert check.errors == []
    assert check.rows == 8 + 5
    assert check.heads == HEADS


def test_there_is_a_ledger_of_every_older_schema():
    assert [int(path.stem.removeprefix("schema-")) for path in RELEASED] == list(range(OLDEST_SCHEMA, SCHEMA))


def test_ledger_that_is_too_old_is_refused(ledger):
    """By the writer and by readers, and nothing is changed."""
    with closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0006'")
    before = ledger.read_bytes()
    with closing(open_reader(f"sqlite:///{ledger}")) as reader:
        for use in (lambda: reader.latest_open(SPX), lambda: SqlStore(f"sqlite:///{ledger}")):
            with pytest.raises(StoreUnavailable, match=r"expected schema 7 or newer, found 6.*start a new ledger"):
                use()

    assert ledger.read_bytes() == before


def test_released_ledger_opens(ledger):
    """Written on after that, and checked row by row."""
    with closing(SqlStore(f"sqlite:///{ledger}")) as store:
        assert store.add_bars(make_bars(count=5, start=CUTOFF - 2 * HOUR_MS)[:3]) == 0
        assert store.add_forecasts([make_forecast()], "live") == 0
        assert_holds_what_it_held(ledger)
        assert (
            store.add_forecasts([make_forecast(cutoff=CUTOFF + 7_200_000, issued_at=CUTOFF + 7_200_000)], "live") == 1
        )
    with closing(open_database(f"sqlite:///{ledger}")) as database:
        assert verify_ledger(database).errors == []


def test_released_ledger_looks_like_a_new_one(ledger, tmp_path):
    SqlStore(f"sqlite:///{ledger}").close()
    SqlStore(f"sqlite:///{tmp_path}/new.db").close()

    assert shape(ledger) == shape(tmp_path / "new.db")


def test_ledger_is_copied_before_it_is_changed(ledger):
    """The copy is what the older program can go on with."""
    before, shape_before = schema_of(ledger), shape(ledger)
    SqlStore(f"sqlite:///{ledger}").close()
    copy = ledger.with_name(f"ledger.db.schema-{before}")

    assert (schema_of(copy), shape(copy)) == (before, shape_before)


def test_reader_does_not_change_an_older_ledger(ledger):
    before = ledger.read_bytes()
    with closing(open_reader(f"sqlite:///{ledger}")) as reader, pytest.raises(StoreUnavailable, match="store upgrade"):
        reader.latest_open(SPX)

    assert ledger.read_bytes() == before


def upgrade_up_to(url, statement, end):
    """Upgrade, and call `end` in place of a statement; gives how many there were before it."""
    database, counted = Database(url), [0]

    def count(*_):
        counted[0] += 1
        if counted[0] == statement:
            end()

    sa.event.listen(database.engine, "before_cursor_execute", count)
    with closing(database):
        migrations.upgrade(database)
    return counted[0]


@pytest.fixture(params=RELEASED, ids=lambda path: path.stem)
def older(request, tmp_path):
    """A ledger to upgrade, and the statements that this takes."""
    path = tmp_path / "ledger.db"
    for file in (path, tmp_path / "counted.db"):
        with closing(sqlite3.connect(file)) as connection:
            connection.executescript(request.param.read_text(encoding="utf-8"))
    return path, upgrade_up_to(f"sqlite:///{tmp_path}/counted.db", 0, None)


SHARES = [0.0, 0.3, 0.6, 0.9, 1.0]
"""How far the upgrade is when it ends: before the first statement, within, and before the last."""


@pytest.mark.processes
@pytest.mark.parametrize("share", SHARES)
def test_upgrade_that_is_killed_leaves_the_older_schema(older, share):
    """And the next one finishes it."""
    ledger, statements = older
    before = schema_of(ledger)
    child = os.fork()
    if not child:
        try:
            statement = 1 + round(share * (statements - 1))
            upgrade_up_to(f"sqlite:///{ledger}", statement, lambda: os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert schema_of(ledger) == before
    SqlStore(f"sqlite:///{ledger}").close()
    assert_holds_what_it_held(ledger)


@pytest.mark.parametrize("share", SHARES)
def test_upgrade_that_fails_leaves_the_older_schema(older, share):
    """As at a full disk: nothing of it stays, and the next one finishes it."""
    ledger, statements = older
    before, copied = schema_of(ledger), shape(ledger)

    def fail():
        msg = "injected"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="injected"):
        upgrade_up_to(f"sqlite:///{ledger}", 1 + round(share * (statements - 1)), fail)

    assert (schema_of(ledger), shape(ledger)) == (before, copied)
    SqlStore(f"sqlite:///{ledger}").close()
    assert_holds_what_it_held(ledger)


def test_upgrade_without_room_for_a_copy_changes_nothing(ledger, monkeypatch):
    before = ledger.read_bytes()
    monkeypatch.setattr(migrations, "copy_ledger", _no_room)
    with pytest.raises(StoreUnavailable, match="no room"):
        SqlStore(f"sqlite:///{ledger}")

    assert ledger.read_bytes() == before


def _no_room(path, to):
    raise StoreUnavailable(str(path), f"no room for {shutil.os.fspath(to)}")
