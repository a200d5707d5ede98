"""The commands about the ledger: size, copies, space, schema, and whether it is what it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from forecaster.ledger import LIVE, Run
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite import SCHEMA
from tests import cli
from tests.builders import make_bars
from tests.forecast_builders import CUTOFF, make_forecast

RELEASED = Path(__file__).parent / "store" / "released"


@pytest.fixture
def ledger(tmp_path):
    """Five bars, a live forecast, and one of a replay of long ago."""
    path = tmp_path / "ledger.db"
    with closing(SqlStore(f"sqlite:///{path}")) as store:
        store.add_run(Run(LIVE, LIVE, CUTOFF))
        store.add_run(Run("replay-1", "replay", CUTOFF))
        store.add_bars(make_bars(count=5))
        store.add_forecasts([make_forecast()], LIVE)
        store.add_forecasts([make_forecast()], "replay-1")
    return path


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(
        '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\nfile = "none.csv"\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    return path


@pytest.fixture
def forecaster(config):
    """Run a command on the ledger; gives its exit code, its output, and its JSON where it is asked for that."""

    def run(*arguments):
        done = cli.forecaster(*arguments, "--config", config)
        return done.returncode, done.stdout + done.stderr, done.record if "--json" in arguments else None

    return run


@pytest.fixture
def refused(config):
    """Run a command on the ledger that ends with code 2; gives its last line."""
    return lambda *arguments: cli.refused(*arguments, "--config", config)


def tamper(path, statement):
    with closing(sqlite3.connect(path)) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement)


def test_info(ledger, forecaster):
    code, _, found = forecaster("store", "info", "--json")
    _, output, _ = forecaster("store", "info")

    assert code == 0
    assert found["rows"]["bar"] == 5
    assert found["forecasts_by_run"] == {"live": 1, "replay-1": 1}
    assert found["bytes"] == ledger.stat().st_size
    assert "1 forecasts" in output


def test_info_of_no_ledger(refused):
    assert "found none" in refused("store", "info")


def test_backup_is_whole_and_replaces_the_last(ledger, forecaster, tmp_path):
    """While somebody writes."""
    out = tmp_path / "copy.db"
    out.write_text("an older copy")
    with closing(SqlStore(f"sqlite:///{ledger}")) as store:
        forecaster("store", "backup", out, "--json")
        store.add_bars(make_bars(count=9)[5:])
    with closing(sqlite3.connect(out)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT COUNT(*) FROM bar").fetchone() == (5,)
    assert not list(tmp_path.glob("*.unfinished"))


def test_backup_that_fails_leaves_the_last(refused, tmp_path):
    out = tmp_path / "copy.db"
    out.write_text("an older copy")

    assert "expected to copy it" in refused("store", "backup", out)
    assert out.read_text() == "an older copy"


def test_damaged_ledger_does_not_replace_a_good_copy(ledger, forecaster, tmp_path):
    """An index that has lost its entries: the pages can be copied, the copy is not whole."""
    out = tmp_path / "copy.db"
    out.write_text("an older copy")
    with closing(sqlite3.connect(ledger)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'bar_seen'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with ledger.open("r+b") as file:
        file.seek((page - 1) * size + size // 2)
        file.write(bytes(size // 2))
    code, said, _ = forecaster("store", "backup", out)

    assert code == 2
    assert "expected a copy that is whole" in said
    assert out.read_text() == "an older copy"
    assert not list(tmp_path.glob("*.unfinished"))


def test_prune_counts_first_and_never_touches_live(ledger, forecaster):
    _, _, counted = forecaster("store", "prune", "--dry-run", "--json")
    _, _, still = forecaster("store", "info", "--json")
    _, _, pruned = forecaster("store", "prune", "--json")
    _, _, left = forecaster("store", "info", "--json")
    _, _, vacuumed = forecaster("store", "vacuum", "--json")
    code, _, verified = forecaster("verify", "ledger", "--json")

    assert (counted["forecasts"], pruned["forecasts"]) == (1, 1)
    assert still["forecasts_by_run"] == {"live": 1, "replay-1": 1}
    assert left["forecasts_by_run"] == {"live": 1}
    assert vacuumed["bytes_after"] <= vacuumed["bytes_before"]
    assert (code, verified["ok"]) == (0, True)
    with closing(sqlite3.connect(ledger)) as connection, pytest.raises(sqlite3.IntegrityError, match="only appended"):
        connection.execute("DELETE FROM run")


def test_runs_of_late_are_not_pruned(ledger, forecaster):
    _, _, pruned = forecaster("store", "prune", "--older-than", "36500d", "--json")

    assert pruned["runs"] == 0


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.feather"])
def test_export_holds_every_quantile_and_what_came(ledger, forecaster, tmp_path, name):
    with closing(SqlStore(f"sqlite:///{ledger}")) as store:
        store.add_bars(make_bars(count=2, start=CUTOFF))
    _, _, record = forecaster("store", "export", tmp_path / name, "--json")
    read = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".feather": pd.read_feather}[Path(name).suffix]
    frame = read(tmp_path / name)
    close = frame[frame.field == "close"]
    made, bars = make_forecast(), make_bars(count=2, start=CUTOFF)

    assert record["rows"] == len(frame) == 12
    assert close["q0.5"].tolist() == made.median().tolist()
    assert close["q0.01"].tolist() == made.quantile("close", 0.01).tolist()
    assert close.actual.tolist()[:2] == bars.close.tolist()
    assert close.actual.isna().tolist() == [False, False, True]
    assert pd.to_datetime(close.cutoff).iloc[0] == pd.Timestamp("2024-01-05", tz="UTC")
    assert frame.model.unique().tolist() == ["nano@0123456789ab"]


def test_export_of_nothing_is_an_empty_file(forecaster, tmp_path):
    _, _, record = forecaster("store", "export", tmp_path / "out.parquet", "--json")

    assert record["rows"] == 0
    assert pd.read_parquet(tmp_path / "out.parquet").empty


def test_age_must_be_days(ledger, refused):
    assert "--older-than: expected a number of days" in refused("store", "prune", "--older-than", "soon")


@pytest.mark.parametrize("schema", range(1, SCHEMA))
def test_upgrade(forecaster, refused, tmp_path, schema):
    """An older ledger is not read as if it were today's; the command that mends it is named.

    The first two did not say which of them they were.
    """
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.executescript((RELEASED / f"schema-{schema}.sql").read_text())
    stopped = refused("verify", "ledger")
    _, _, upgraded = forecaster("store", "upgrade", "--json")
    code, _, verified = forecaster("verify", "ledger", "--json")

    assert "forecaster store upgrade" in stopped
    assert upgraded == {"schema_before": schema if schema > 2 else 1, "schema": SCHEMA}
    assert (code, verified["ok"]) == (0, True)


def test_verify_tells_what_is_wrong(ledger, forecaster):
    code, output, _ = forecaster("verify", "ledger")
    tamper(ledger, "UPDATE bar SET close = close + 0.01 WHERE seq = 3")
    wrong, told, _ = forecaster("verify", "ledger")
    _, _, record = forecaster("verify", "ledger", "--json")

    assert code == 0
    assert "7 rows, 0 errors: ok" in output
    assert wrong == 2
    assert "NOT what was written" in told
    assert (record["ok"], record["rows"], len(record["errors"])) == (False, 7, 1)
