"""The commands that prove: code 2 and a name when something is wrong, one JSON object for scripts."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from forecaster.engine import Forecaster
from forecaster.replay.session_labels import TOTAL_CHECKS
from forecaster.sources.files import FileSource
from forecaster.store import open_store
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
from tests.builders import make_bars, make_key
from tests.cli import error_line as refused_by
from tests.cli import forecaster
from tests.replay.leaks import CentredAverage, utc_dates

BARS = make_bars(make_key(exchange="x", symbol="A/B"), count=130)
CONFIG = """
[[series]]
exchange = "x"
symbol = "A/B"
timeframe = "1h"
{origin}
[model]
compile = "off"
context = 48
min_context = 32
horizon = 3
[store]
url = "sqlite:///ledger.db"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a configuration, a file of bars, and a ledger with ten live forecasts of each model."""
    folder = tmp_path_factory.mktemp("made")
    BARS.frame.to_csv(folder / "bars.csv")
    (folder / "forecaster.toml").write_text(CONFIG.format(origin='file = "bars.csv"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with Forecaster.from_config("forecaster.toml") as program:
            for i in range(80, 90):
                program.run_cycle(BARS.key.timeframe, int(BARS.close_time[i]) + 1000)
    return folder


@pytest.fixture
def folder(tmp_path, made, monkeypatch):
    """A copy of it, where the command runs."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prove(*arguments):
    """Run a proof; gives its exit code, and its output or the JSON object in it."""
    done = forecaster("verify", *arguments, "--config", "forecaster.toml")
    return done.returncode, done.record if "--json" in arguments else done.stdout


def error_line(*arguments):
    """Run a proof that cannot be made; gives the last line."""
    return refused_by("verify", *arguments, "--config", "forecaster.toml")


@pytest.mark.parametrize("command", ["lookahead", "parity", "batch"])
def test_help_teaches(command):
    done = forecaster("verify", command, "--help", env={"COLUMNS": "200"})

    assert done.returncode == 0
    assert "Code 2 if" in done.stdout
    for option in ("--config", "--seed", "--json"):
        assert option in done.stdout


def test_lookahead_of_a_file(folder):
    """Nano, the random walk and a strategy, on perturbed copies of the file, which itself is left alone."""
    before = (folder / "bars.csv").read_bytes()
    code, found = prove("lookahead", "--cutoffs", 2, "--strategy", "strategies.quantile_breakout", "--json")

    assert code == 0
    assert (found["ok"], found["failures"]) == (True, [])
    assert found["checked"] == found["identical"] == 10 + TOTAL_CHECKS
    assert found["seconds"] > 0
    assert (folder / "bars.csv").read_bytes() == before


def test_lookahead_of_an_exchange_is_proven_from_the_store_on(folder):
    with closing(open_store("sqlite:///ledger.db")) as store:
        store.add_bars(BARS)
    origin = '[exchanges.x]\nid = "binance"'
    (folder / "forecaster.toml").write_text(CONFIG.replace("{origin}", "") + origin)
    code, found = prove("lookahead", "--cutoffs", 1, "--json")

    assert (code, found["identical"]) == (0, 5 + TOTAL_CHECKS)


def test_lookahead_names_a_source_that_leaks(folder, monkeypatch):
    """In the report for scripts, and for people as a table; the same seed gives the same."""
    fetch = FileSource.fetch

    def smoothed(self, key, since, as_of):
        return CentredAverage(fetch(self, key, None, 2**62).bars).fetch(key, since, as_of)

    monkeypatch.setattr(FileSource, "fetch", smoothed)
    code, found = prove("lookahead", "--cutoffs", 2, "--seed", 3, "--json")
    _, again = prove("lookahead", "--cutoffs", 2, "--seed", 3, "--json")
    _, other = prove("lookahead", "--cutoffs", 2, "--seed", 4, "--json")
    wrong, record = prove("lookahead", "--cutoffs", 2)
    first = found["failures"][0]

    assert (code, wrong) == (2, 2)
    assert (found["ok"], found["checked"]) == (False, 10 + TOTAL_CHECKS)
    assert {one["component"] for one in found["failures"] if one["series"] == "x A/B 1h"} == {"source FileSource"}
    assert list(first) == ["component", "series", "cutoff", "perturbation", "difference"]
    assert first["series"] == "x A/B 1h"
    assert found["failures"] == again["failures"] != other["failures"]
    assert "source FileSource: " in record
    assert "2024-01-0" in record


def test_lookahead_names_labels_that_are_on_the_wrong_session(folder, monkeypatch):
    """A calendar that takes the date of a label once it has become UTC."""
    monkeypatch.setattr("forecaster.sessions.SessionCalendar.opens_of_labels", utc_dates)
    code, found = prove("lookahead", "--cutoffs", 1, "--json")

    assert (code, found["ok"]) == (2, False)
    assert {one["component"] for one in found["failures"]} == {
        "labels: csv of local midnights",
        "labels: csv of midnights at +14:00",
        "labels: Parquet of local midnights",
        "labels: frame of local midnights",
    }


def test_lookahead_stops_a_strategy_that_reads_bars_by_itself(folder):
    file = error_line("lookahead", "--cutoffs", 1, "--strategy", "tests.replay.leaks:file_reader")
    ledger = error_line("lookahead", "--cutoffs", 1, "--strategy", "tests.replay.leaks:ledger_reader")

    assert file.startswith("InvalidArgument: strategy tests.replay.leaks:file_reader")
    assert "bars.csv" in file
    assert ledger.startswith("InvalidArgument: strategy tests.replay.leaks:ledger_reader")
    assert "ledger.db" in ledger


def test_strategy_that_is_not_there(folder):
    assert "--strategy: expected" in error_line("lookahead", "--strategy", "strategies.nowhere")


def test_parity(folder):
    code, found = prove("parity", "--json")
    _, some = prove("parity", "--forecasts", 4, "--json")

    assert (code, found["checked"], found["identical"], found["failures"]) == (0, 30, 30, [])
    assert found["largest_differences"]["nano"] < 1e-4
    assert 4 < some["checked"] <= 8


def test_parity_names_what_was_tampered_with(folder):
    with closing(sqlite3.connect("ledger.db")) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE bar SET high = high + 1 WHERE open_time = ?", (int(BARS.open_time[88]),))
    code, found = prove("parity", "--json")
    wrong, record = prove("parity")

    assert (code, wrong) == (2, 2)
    assert {(one["component"], one["cutoff"]) for one in found["failures"]} == {
        ("input", int(BARS.close_time[88])),
        ("input", int(BARS.close_time[89])),
    }
    assert "input: " in record
    assert "left out: 1 × calibration of x A/B 1h by nano" in record


def test_parity_of_no_ledger(folder):
    """One that is not there, and one in which nothing was forecast."""
    (folder / "ledger.db").unlink()
    missing = error_line("parity")
    SqlStore(f"sqlite:///{folder}/ledger.db").close()

    assert f"store sqlite:///{folder}/ledger.db: expected a ledger, found none" in missing
    assert "store.url: expected a ledger with live forecasts of the configured models" in error_line("parity")


@pytest.mark.processes
def test_batch(folder):
    """Four companies here and one in another process, for two models."""
    code, found = prove("batch", "--contexts", 5, "--threads", 1, "--json")

    assert (code, found["checked"], found["identical"], found["failures"]) == (0, 50, 50, [])
    assert found["largest_differences"]["random_walk"] == 0
    assert found["largest_differences"]["nano"] < 1e-5


def test_batch_names_who_differs(folder, monkeypatch):
    """A tolerance that nothing meets: every batch of every context is reported; the other process is a thread here."""
    monkeypatch.setattr("forecaster.replay.batch_invariance.BATCH_TOLERANCE", -1.0)
    monkeypatch.setattr("forecaster.replay.batch_invariance.thread_pool", ThreadPoolExecutor)
    code, record = prove("batch", "--contexts", 2, "--threads", 1)

    assert code == 2
    assert "1 threads, another process" in record
    assert "model nano: 10 failures" in record
    assert "20 checked, 10 identical, 10 failures" in record
