"""A ledger that was touched says so, and where."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from forecaster.bars import Bars
from forecaster.errors import LedgerMissing
from forecaster.ledger import LIVE, Run
from forecaster.store import open_database
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
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


def test_ledger_that_is_not_there_is_missing(tmp_path):
    """Nothing would be wrong with it: a path with a slip in it must not look like a proof."""
    (tmp_path / "empty.db").touch()
    for name in ("none.db", "empty.db"):
        with pytest.raises(LedgerMissing, match=f"sqlite:///{tmp_path}/{name}: expected a ledger, found none"):
            check(tmp_path / name)


@pytest.fixture
def replayed(path):
    """The same, with a replay that has bars of its own, and a commit that came late."""
    late = make_forecast(cutoff=CUTOFF + 9 * HOUR_MS, issued_at=CUTOFF + 9 * HOUR_MS)
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_run(Run("replay-2", "replay", CUTOFF))
        store.add_bars(make_bars(count=4, seed=2), "replay-2")
        store.add_forecasts([make_forecast()], "replay-2")
        store.add_bars(make_bars(make_key(calendar="XNYS"), count=2))
        store.add_forecasts([late], LIVE)
        with store._database.transaction() as connection:
            connection.exec_driver_sql(
                "INSERT INTO availability_delay SELECT id, available_at + 5 FROM forecast WHERE cutoff = ?",
                (late.cutoff,),
            )
    return path


def test_replay_with_bars_of_its_own_is_what_it_was(replayed):
    """Its chains begin with its own name, and each chain has a head of its own."""
    found = check(replayed)

    assert found.errors == []
    assert found.rows == 13 + 7 + 4 + 1 + 2 + 1
    assert sorted(found.heads) == [
        "binance BTC/USDT 1h on 24/7 bars",
        "binance BTC/USDT 1h on 24/7 bars of replay-2",
        "binance BTC/USDT 1h on 24/7 forecasts of live",
        "binance BTC/USDT 1h on 24/7 forecasts of replay-1",
        "binance BTC/USDT 1h on 24/7 forecasts of replay-2",
        "binance BTC/USDT 1h on XNYS bars",
        "binance ETH/USDT 1h bars",
    ]


MISPLACED = {
    "bars given to the live run": (
        "UPDATE series SET run_id = 'live', exchange = 'x' WHERE run_id = 'replay-2'",
        "is not what was written",
    ),
    "bars of a run that is not there": ("UPDATE series SET run_id = 'x' WHERE run_id = 'replay-2'", "without its run"),
    "forecast on another run's bars": (
        "UPDATE forecast SET run_id = 'replay-1', seq = 99 WHERE run_id = 'replay-2'",
        "1 × forecast on the bars of another run",
    ),
    "steps on another series": (
        "UPDATE forecast_step SET series_id = 2 WHERE forecast_id = 1",
        "3 × forecast_step on the bars of another series than its forecast",
    ),
    "commit before it was stamped": (
        "UPDATE availability_delay SET available_at = (SELECT available_at - 1 FROM forecast WHERE id = forecast_id)",
        "1 × availability_delay that ends before",
    ),
    "delay of nothing": (
        "INSERT INTO availability_delay VALUES (999, 0)",
        "1 × availability_delay without its forecast",
    ),
    "cutoff after it was issued": (
        "UPDATE forecast SET issued_at = cutoff - 1 WHERE run_id = 'replay-2'",
        "expected cutoff ≤ issued ≤ available",
    ),
    "no calendar": (
        "UPDATE series SET calendar = 'X???' WHERE run_id = 'replay-2'",
        "cannot be read: calendar: expected",
    ),
    "no timeframe": ("UPDATE series SET timeframe = 'soon' WHERE run_id = 'replay-2'", "soon 24/7: invalid series"),
}


@pytest.mark.parametrize(("statement", "error"), MISPLACED.values(), ids=MISPLACED)
def test_what_stands_in_the_wrong_place_is_found(replayed, statement, error):
    tamper(replayed, statement)
    found = check(replayed)

    assert any(error in text for text in found.errors), found.errors


BAR = "UPDATE bar SET {} WHERE series_id = 1 AND seq = 4"
FORECAST = "UPDATE forecast SET {} WHERE id = 3"
STEP = "UPDATE forecast_step SET {} WHERE forecast_id = 3 AND step = 2"
TAMPERED = {
    "price": (BAR.format("close = close + 0.01"), "is not what was written"),
    "volume": (BAR.format("volume = NULL"), "is not what was written"),
    "first seen": (BAR.format("first_seen_at = 77"), "is not what was written"),
    "bar deleted": ("DELETE FROM bar WHERE series_id = 1 AND seq = 4", "expected to be row 4 of its chain, is 5"),
    "revision deleted": ("DELETE FROM bar WHERE series_id = 1 AND seq = 1", "expected to be row 1 of its chain, is 2"),
    "issued earlier": (
        FORECAST.format("issued_at = issued_at - 1"),
        "expected cutoff ≤ issued ≤ available, found 2024-",
    ),
    "cutoff of letters": (FORECAST.format("cutoff = 'noon'"), "at 'noon': cannot be read"),
    "issued later": (FORECAST.format("issued_at = issued_at + 1"), "is not what was written"),
    "moved": (FORECAST.format(f"cutoff = cutoff + {50 * HOUR_MS}"), "its targets are not the bars after its cutoff"),
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
        "UPDATE forecast SET chain_hash = (SELECT chain_hash FROM forecast WHERE id = 4) WHERE id = 3",
        "is not what was written",
    ),
}


@pytest.mark.parametrize(("statement", "error"), TAMPERED.values(), ids=TAMPERED)
def test_what_was_done_is_found(path, statement, error):
    tamper(path, statement)
    found = check(path)

    assert not found.ok
    assert any(error in text for text in found.errors), found.errors


def test_volume_that_was_not_known_is_part_of_the_chain(tmp_path):
    """A null is what was written, and no number in its place is."""
    path, bars = tmp_path / "ledger.db", make_bars(count=3)
    ohlcv_TF = bars.ohlcv_TF.copy()
    ohlcv_TF[:, 4] = np.nan
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_bars(Bars(bars.key, bars.open_time, ohlcv_TF))
    before = check(path)
    tamper(path, "UPDATE bar SET volume = 0 WHERE seq = 2")
    after = check(path)

    assert before.ok
    assert before.rows == 3
    assert len(after.errors) == 1
    assert "is not what was written" in after.errors[0]


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
        with pytest.raises(sqlite3.IntegrityError, match="is append-only"):
            connection.execute(statement)
