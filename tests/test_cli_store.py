"""The commands about the ledger: size, copies, space, schema, and whether it is what it was."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from forecaster import doctor
from forecaster.clock import now_ms
from forecaster.ledger import LIVE, CalibrationState, Run
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite import OLDEST_SCHEMA, SCHEMA
from forecaster.store.sqlite_library import sqlite3
from tests import cli
from tests.builders import make_bars, make_key
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
def error_line(config):
    """Run a command on the ledger that ends with code 2; gives its last line."""
    return lambda *arguments: cli.error_line(*arguments, "--config", config)


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


@pytest.mark.parametrize(
    "command",
    [
        ("store", "info"),
        ("store", "backup", "copy.db"),
        ("store", "vacuum"),
        ("store", "prune"),
        ("store", "prune", "--dry-run"),
        ("store", "runs"),
        ("store", "delete", "replay-1"),
        ("store", "export", "out.csv"),
        ("store", "upgrade"),
        ("verify", "ledger"),
        ("latest",),
        ("accuracy",),
        ("bars", "show"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("is_empty", [False, True], ids=["absent", "empty"])
def test_ledger_that_is_not_there_is_an_error(error_line, tmp_path, monkeypatch, command, is_empty):
    """With its absolute path and what to do; and none is made, as a path with a slip in it would else."""
    monkeypatch.chdir(tmp_path)
    if is_empty:
        (tmp_path / "ledger.db").touch()
    before = sorted(tmp_path.iterdir())
    record = error_line(*command)

    assert f"sqlite:///{tmp_path}/ledger.db: expected a ledger, found none: if there was one, it was moved" in record
    assert sorted(tmp_path.iterdir()) == before


def test_doctor_misses_a_ledger_that_is_not_there(config, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_forecast_once", lambda _: "not asked here")
    found = {one.subject: one for one in doctor.examine(str(config))}

    assert not found["ledger"].ok
    assert f"LedgerMissing: store sqlite:///{tmp_path}/ledger.db: expected a ledger" in found["ledger"].finding


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


def test_backup_that_fails_leaves_the_last(error_line, tmp_path):
    out = tmp_path / "copy.db"
    out.write_text("an older copy")
    (tmp_path / "ledger.db").write_text("no database, and long enough to tell")

    assert "expected to copy it" in error_line("store", "backup", out)
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
    assert "expected an undamaged copy" in said
    assert out.read_text() == "an older copy"
    assert not list(tmp_path.glob("*.unfinished"))


def test_restore_puts_a_copy_in_place_and_keeps_the_ledger(ledger, forecaster, tmp_path):
    """Checked first: with --dry-run that is all."""
    forecaster("store", "backup", tmp_path / "copy.db", "--json")
    with closing(SqlStore(f"sqlite:///{ledger}")) as store:
        store.add_bars(make_bars(count=9)[5:])
    _, _, dry = forecaster("store", "restore", tmp_path / "copy.db", "--dry-run", "--json")
    _, _, still = forecaster("store", "info", "--json")
    code, _, done = forecaster("store", "restore", tmp_path / "copy.db", "--json")
    _, _, after = forecaster("store", "info", "--json")
    verified, _, _ = forecaster("verify", "ledger", "--json")

    assert (dry["dry_run"], still["rows"]["bar"]) == (True, 9)
    assert (code, after["rows"]["bar"], verified) == (0, 5, 0)
    assert done["ledger"] == f"sqlite:///{ledger}"
    assert Path(done["previous_ledger"]).name.startswith("ledger.db.replaced-")
    assert Path(done["previous_ledger"]).exists()


def test_restore_tells_people_what_it_did(ledger, forecaster, tmp_path):
    forecaster("store", "backup", tmp_path / "copy.db")
    code, said, _ = forecaster("store", "restore", tmp_path / "copy.db")

    assert code == 0
    for line in ("ledger ", "copy ", "rows ", "last_cutoff ", "previous_ledger ", "dry_run "):
        assert f"\n{line}" in f"\n{said}"
    assert "\nthe copy is the ledger now: start the service\n" in said
    assert (
        "the copy is undamaged; nothing was changed"
        in forecaster("store", "restore", tmp_path / "copy.db", "--dry-run")[1]
    )


def test_restore_of_nothing_is_one_line(ledger, forecaster, tmp_path):
    """Without bars of a progress that did not begin, and without the advice to start a service."""
    code, said, _ = forecaster("store", "restore", tmp_path / "copy.db")

    assert code == 2
    assert said.strip().endswith("copy.db: expected a copy that `forecaster store backup` made, found none")
    assert len(said.strip().splitlines()) == 1


def test_restore_leaves_a_ledger_that_is_written(ledger, error_line, tmp_path, forecaster):
    forecaster("store", "backup", tmp_path / "copy.db")
    with closing(SqlStore(f"sqlite:///{ledger}")):
        assert "expected a ledger that no process writes: stop the daemon first" in error_line(
            "store", "restore", tmp_path / "copy.db"
        )


@pytest.mark.parametrize("name", ["ledger.db?timeout=30", "my%20ledger.db", "a%3Fb.db"])
def test_readers_and_the_writer_have_one_file_for_a_url(tmp_path, name):
    """Whatever the URL holds beside the path, and however the path is written."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1h"\nfile = "none.csv"\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/{name}"\n'
    )
    missing = cli.error_line("verify", "ledger", "--config", config)
    with closing(SqlStore(f"sqlite:///{tmp_path}/{name}")) as store:
        store.add_bars(make_bars(count=5))
        path = store._database.path
    verified = cli.forecaster("verify", "ledger", "--config", config, "--json")
    record = cli.forecaster("store", "info", "--config", config, "--json")

    assert f"{tmp_path}/" in missing
    assert "expected a ledger, found none" in missing
    assert (verified.returncode, verified.record["rows"]) == (0, 5)
    assert record.record["rows"]["bar"] == 5
    assert path.parent == tmp_path
    assert [one for one in tmp_path.iterdir() if one.suffix == ".db"] == [path]


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
    with closing(sqlite3.connect(ledger)) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("DELETE FROM run")


def test_runs_of_late_are_not_pruned(ledger, forecaster):
    _, _, pruned = forecaster("store", "prune", "--older-than", "36500d", "--json")

    assert pruned["runs"] == 0


@pytest.fixture
def replays(ledger):
    """Beside it two replays with bars of their own, made now, and a prediction of long ago that is late."""
    own = make_bars(count=7, seed=3)
    with closing(SqlStore(f"sqlite:///{ledger}")) as store:
        for number in (2, 3):
            store.add_run(Run(f"replay-{number}", "replay", now_ms(), f'{{"bars": {number}}}'))
            store.add_bars(own, f"replay-{number}")
            store.add_forecasts([make_forecast()], f"replay-{number}", [learned()])
        store.add_run(Run("predict-1", "predict", CUTOFF))
        store.add_forecasts([make_forecast()], "predict-1")
        with store._database.transaction() as connection:
            connection.exec_driver_sql(
                "INSERT INTO availability_delay SELECT id, available_at + 5 FROM forecast WHERE run_id <> 'live'"
            )
    return ledger


def learned():
    return CalibrationState(make_key(), make_forecast().provenance.ledger_id, CUTOFF, b"state")


def test_runs_are_listed(replays, forecaster):
    """By the time at which they ran, with what decided them."""
    _, _, found = forecaster("store", "runs", "--json")
    _, output, _ = forecaster("store", "runs")
    by_id = {one["id"]: one for one in found["runs"]}

    assert [one["id"] for one in found["runs"]][-2:] == ["replay-2", "replay-3"]
    assert (by_id["live"]["forecasts"], by_id["live"]["bars"]) == (1, 5)
    assert (by_id["replay-2"]["forecasts"], by_id["replay-2"]["bars"]) == (1, 7)
    assert by_id["replay-2"]["plan"] == '{"bars": 2}'
    assert "predict-1" in output
    assert "2024-01-05 00:00 UTC  1 forecasts, 0 bars" in output


def rows(path):
    """How many rows there are by table, and whose."""
    with closing(sqlite3.connect(path)) as connection:
        return {
            "run": dict(connection.execute("SELECT id, 1 FROM run").fetchall()),
            "forecast": dict(connection.execute("SELECT run_id, COUNT(*) FROM forecast GROUP BY 1").fetchall()),
            "calibration": dict(connection.execute("SELECT run_id, 1 FROM calibration").fetchall()),
            "bar": dict(
                connection.execute(
                    "SELECT s.run_id, COUNT(*) FROM bar JOIN series s ON s.id = series_id GROUP BY 1"
                ).fetchall()
            ),
            "forecast_step": connection.execute("SELECT COUNT(*) FROM forecast_step").fetchone()[0],
            "availability_delay": connection.execute("SELECT COUNT(*) FROM availability_delay").fetchone()[0],
            "series": connection.execute("SELECT COUNT(*) FROM series").fetchone()[0],
        }


def test_replay_is_deleted_with_all_that_is_its_own(replays, forecaster):
    """And nothing else; the guards stand again, and the ledger is what it was."""
    _, _, counted = forecaster("store", "delete", "replay-2", "--dry-run", "--json")
    before = rows(replays)
    _, _, deleted = forecaster("store", "delete", "replay-2", "predict-1", "--json")
    after = rows(replays)
    code, _, verified = forecaster("verify", "ledger", "--json")

    assert counted == {"dry_run": True, "runs": 1, "forecasts": 1, "bars": 7}
    assert before["bar"] == {"live": 5, "replay-2": 7, "replay-3": 7}
    assert deleted == {"dry_run": False, "runs": 2, "forecasts": 2, "bars": 7}
    assert after == {
        "run": {"live": 1, "replay-1": 1, "replay-3": 1},
        "forecast": {"live": 1, "replay-1": 1, "replay-3": 1},
        "calibration": {"replay-3": 1},
        "bar": {"live": 5, "replay-3": 7},
        "forecast_step": before["forecast_step"] // 5 * 3,
        "availability_delay": before["availability_delay"] - 2,
        "series": before["series"] - 1,
    }
    assert (code, verified["ok"]) == (0, True)
    for table in ("run", "forecast", "forecast_step", "bar", "series", "availability_delay"):
        with (
            closing(sqlite3.connect(replays)) as connection,
            pytest.raises(sqlite3.IntegrityError, match="append-only"),
        ):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608


@pytest.mark.parametrize(
    ("names", "error"),
    [
        (["replay-2", "replay-9"], "expected one of predict-1, replay-1, replay-2, replay-3, found 'replay-9'"),
        (["replay-2", "live"], "live forecasts are never deleted"),
        (["replay-2+4000ms"], "found 'replay-2+4000ms'"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_run_that_cannot_be_deleted_is_refused_by_name(replays, error_line, names, error, more):
    """And then nothing is deleted."""
    before = rows(replays)

    assert error in error_line("store", "delete", *names, *more)
    assert rows(replays) == before


def test_prune_goes_by_when_a_run_ran(replays, forecaster):
    """And not by the time that it is about: a replay of long ago that was made now stays."""
    _, _, pruned = forecaster("store", "prune", "--json")

    assert pruned["runs"] == 2
    assert sorted(rows(replays)["run"]) == ["live", "replay-2", "replay-3"]


def test_prune_counts_beside_a_writer(replays, forecaster):
    """Who counts deletes nothing, and needs no lease."""
    with closing(SqlStore(f"sqlite:///{replays}")):
        code, _, counted = forecaster("store", "prune", "--dry-run", "--json")

    assert (code, counted["runs"]) == (0, 2)


@pytest.mark.parametrize("as_url", [False, True], ids=["path", "URL"])
def test_other_ledger_is_named_by_path_or_url(ledger, config, tmp_path, as_url):
    """As for a replay of its own; the configured one is not touched, and need not be there."""
    ledger.rename(tmp_path / "replays.db")
    other = f"sqlite:///{tmp_path}/replays.db" if as_url else "replays.db"
    commands = (
        ("store", "info"),
        ("store", "runs"),
        ("store", "export", "out.csv"),
        ("store", "backup", "copy.db"),
        ("store", "prune", "--dry-run"),
        ("store", "delete", "replay-1"),
        ("store", "upgrade"),
        ("store", "vacuum"),
        ("verify", "ledger"),
    )
    for command in commands:
        done = cli.forecaster(*command, "--config", config, "--store", other, "--json", cwd=tmp_path)

        assert done.returncode == 0, done.stderr
    assert not ledger.exists()


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
    assert close["q0.01"].tolist() == made.quantile(0.01).tolist()
    assert close.actual.tolist()[:2] == bars.close.tolist()
    assert close.actual.isna().tolist() == [False, False, True]
    assert pd.to_datetime(close.cutoff).iloc[0] == pd.Timestamp("2024-01-05", tz="UTC")
    assert frame.model.unique().tolist() == ["nano@0123456789ab"]


def test_export_follows_no_link_that_was_put_in_its_way(ledger, forecaster, tmp_path):
    """Else whoever may write to the folder has another file of ours overwritten."""
    precious = tmp_path / "precious"
    for name in ("out.csv", "out.parquet", "out.feather"):
        precious.write_text("mine")
        (tmp_path / f"{name}.unfinished").symlink_to(precious)
        _, _, record = forecaster("store", "export", tmp_path / name, "--json")

        assert precious.read_text() == "mine"
        assert record["rows"] == 12
        assert not (tmp_path / name).is_symlink()


def test_export_of_nothing_is_an_empty_file(forecaster, tmp_path):
    SqlStore(f"sqlite:///{tmp_path}/ledger.db").close()
    _, _, record = forecaster("store", "export", tmp_path / "out.parquet", "--json")

    assert record["rows"] == 0
    assert pd.read_parquet(tmp_path / "out.parquet").empty


def test_age_must_be_days(ledger, error_line):
    assert "--older-than: expected a number of days" in error_line("store", "prune", "--older-than", "soon")


def test_upgrade(forecaster, error_line, tmp_path):
    """An older ledger is not read as if it were current; the error names the command to run."""
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection:
        connection.executescript((RELEASED / f"schema-{OLDEST_SCHEMA}.sql").read_text())
    error = error_line("verify", "ledger")
    _, _, upgraded = forecaster("store", "upgrade", "--json")
    code, _, verified = forecaster("verify", "ledger", "--json")

    assert "forecaster store upgrade" in error
    assert upgraded == {"schema_before": OLDEST_SCHEMA, "schema": SCHEMA}
    assert (code, verified["ok"]) == (0, True)


def test_verify_tells_what_is_wrong(ledger, forecaster):
    code, output, _ = forecaster("verify", "ledger")
    tamper(ledger, "UPDATE bar SET close = close + 0.01 WHERE seq = 3")
    wrong, result, _ = forecaster("verify", "ledger")
    _, _, record = forecaster("verify", "ledger", "--json")

    assert code == 0
    assert "7 rows, 0 errors: ok" in output
    assert wrong == 2
    assert "the ledger was changed" in result
    assert (record["ok"], record["rows"], len(record["errors"])) == (False, 7, 1)
