"""A sample of what `make soak` does at length, and that it would see a loss."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from forecaster.ledger import LIVE, Run
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
from tests.faults import kill_writer
from tests.faults.kill_writer import bars_of, check_whole, forecasts_of, look
from tests.forecast_builders import CUTOFF

CYCLES = 30


@pytest.mark.processes
def test_killed_writer_loses_nothing(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["kill_writer", "--cycles", str(CYCLES)])
    with pytest.raises(SystemExit) as ended:
        kill_writer.main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert ended.value.code == 0, record
    assert record["cycles"] == CYCLES
    assert record["acknowledged"] > 0


@pytest.fixture
def ledger(tmp_path):
    """Two batches."""
    path = tmp_path / "ledger.db"
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_run(Run(LIVE, LIVE, CUTOFF))
        for batch in range(2):
            store.add_bars(bars_of(batch))
            store.add_forecasts(forecasts_of(batch), LIVE)
    return path


def test_whole_ledger_has_nothing_wrong(ledger):
    assert look(ledger, 2) == (2, [])
    assert look(ledger, 1) == (2, [])
    assert check_whole(ledger) == []


@pytest.mark.parametrize(
    ("statement", "wrong"),
    [
        ("DELETE FROM forecast WHERE id > 3", "1 acknowledged batches are lost"),
        ("DELETE FROM forecast WHERE id = 5", "a batch is there in part"),
        ("DELETE FROM forecast_step WHERE forecast_id = 5 AND step = 1", "a batch is there in part"),
        ("DELETE FROM bar", "0 bars beside 2 batches"),
    ],
)
def test_loss_would_be_seen(ledger, statement, wrong):
    with closing(sqlite3.connect(ledger)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)

    assert any(wrong in text for text in look(ledger, 2)[1])


def test_ledger_that_is_gone_would_be_seen(tmp_path):
    assert look(tmp_path / "none.db", 1) == (0, ["no ledger"])
