"""A ledger that was touched says so, and where."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from forecaster.ledger import LIVE, Run
from forecaster.store import open_database
from forecaster.store.sql import SqlStore
from forecaster.store.verify import count_rows, verify_ledger
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast, make_provenance

WALK = make_provenance("random_walk", "1", "numpy")


@pytest.fixture
def path(tmp_path):
    """Two series of bars, one of them revised, and forecasts of two models and two runs."""
    path = tmp_path / "ledger.db"
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        for run in (LIVE, "replay-1"):
            store.add_run(Run(run, run, CUTOFF))
        store.add_bars(make_bars(count=5))
        store.add_bars(make_bars(count=5, seed=1))
        store.add_bars(make_bars(make_key(symbol="ETH/USDT"), count=3))
        for hour in range(3):
            at = CUTOFF + hour * HOUR_MS
            made = [
                make_forecast(cutoff=at, issued_at=at, seed=hour),
                make_forecast(cutoff=at, issued_at=at, provenance=WALK),
            ]
            store.add_forecasts(made, LIVE)
        store.add_forecasts([make_forecast(issued_at=CUTOFF + HOUR_MS)], "replay-1")
    return path


def tamper(path, *statements):
    """Change the file as somebody would who knows SQL, and that there are triggers."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)


def check(path):
    with closing(open_database(f"sqlite:///{path}")) as database:
        return verify_ledger(database)


def test_ledger_that_nobody_touched_is_what_it_was(path):
    with closing(open_database(f"sqlite:///{path}")) as database:
        rows = count_rows(database)
    found = check(path)

    assert found.ok
    assert found.errors == []
    assert found.rows == rows == 13 + 7
    assert sorted(found.heads) == [
        "binance BTC/USDT 1h bars",
        "binance BTC/USDT 1h forecasts of live",
        "binance BTC/USDT 1h forecasts of replay-1",
        "binance ETH/USDT 1h bars",
    ]


def test_nothing_is_wrong_with_a_ledger_that_is_not_there(tmp_path):
    found = check(tmp_path / "none.db")

    assert (found.ok, found.rows) == (True, 0)


BAR = "UPDATE bar SET {} WHERE series_id = 1 AND seq = 4"
FORECAST = "UPDATE forecast SET {} WHERE id = 3"
STEP = "UPDATE forecast_step SET {} WHERE forecast_id = 3 AND step = 2"
TAMPERED = {
    "price": (BAR.format("close = close + 0.01"), "is not what was written"),
    "first seen": (BAR.format("first_seen_at = 77"), "is not what was written"),
    "bar deleted": ("DELETE FROM bar WHERE series_id = 1 AND seq = 4", "expected to be row 4 of its chain, is 5"),
    "revision deleted": ("DELETE FROM bar WHERE series_id = 1 AND seq = 1", "expected to be row 1 of its chain, is 2"),
    "issued earlier": (FORECAST.format("issued_at = issued_at - 1"), "expected cutoff ≤ issued ≤ available"),
    "issued later": (FORECAST.format("issued_at = issued_at + 1"), "is not what was written"),
    "moved": (FORECAST.format(f"cutoff = cutoff + {50 * HOUR_MS}"), "its targets are not the bars behind its cutoff"),
    "other model": (FORECAST.format("model_id = 'random_walk@1', cutoff = cutoff + 1"), "is not what was written"),
    "provenance": (FORECAST.format("provenance = replace(provenance, 'eager', 'magic')"), "is not what was written"),
    "late": ("UPDATE forecast SET late = 1 WHERE id = 3", "expected late to be False"),
    "not late": ("UPDATE forecast SET late = 0 WHERE run_id = 'replay-1'", "expected late to be True"),
    "checksum": (FORECAST.format("payload_sha256 = 'abc'"), "its numbers do not fit their checksum"),
    "column": (STEP.format("close_q50 = close_q50 * 1.001"), "the columns q10, q50 and q90 do not fit"),
    "numbers": (STEP.format("raw = repaired"), "its numbers do not fit their checksum"),
    "damaged": (STEP.format("raw = x'00'"), "cannot be read"),
    "step deleted": (
        "DELETE FROM forecast_step WHERE forecast_id = 3 AND step = 2",
        "expected steps 1 to 3, found [1, 3]",
    ),
    "forecast deleted": ("DELETE FROM forecast WHERE id = 3", "forecast_step without its forecast"),
    "links swapped": (
        "UPDATE forecast SET link = (SELECT link FROM forecast WHERE id = 4) WHERE id = 3",
        "is not what was written",
    ),
}


@pytest.mark.parametrize(("statement", "error"), TAMPERED.values(), ids=TAMPERED)
def test_what_was_done_is_found(path, statement, error):
    tamper(path, statement)
    found = check(path)

    assert not found.ok
    assert any(error in text for text in found.errors), found.errors


def test_every_row_of_a_cut_chain_but_the_end_is_missed(path):
    """A chain cannot show that its end is gone; its head, noted down before, can."""
    before = check(path).heads
    tamper(path, "DELETE FROM bar WHERE series_id = 1 AND seq = (SELECT MAX(seq) FROM bar WHERE series_id = 1)")
    found = check(path)

    assert found.ok
    assert found.heads["binance BTC/USDT 1h bars"] != before["binance BTC/USDT 1h bars"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE bar SET close = close",
        "DELETE FROM forecast",
        "UPDATE forecast_step SET close_q50 = 1",
        "DELETE FROM run",
        "DELETE FROM quarantine",
        "UPDATE series SET symbol = 'X/Y'",
    ],
)
def test_tables_refuse_to_be_changed(path, statement):
    """Whoever asks; only who takes the triggers away first can."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO quarantine VALUES (1, 1, 0, '[]', 'x', '', 0)")
        with pytest.raises(sqlite3.IntegrityError, match="is only appended to"):
            connection.execute(statement)
