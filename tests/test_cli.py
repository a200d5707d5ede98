"""The command line: exit codes, one clear line for a mistake, JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from typer.main import get_command

from forecaster import Forecaster, __version__
from forecaster.cli import app
from forecaster.cli.evaluation import EvaluationReport, SeriesResult, StepResult, report_of
from forecaster.cli.evaluation_printing import print_evaluation
from forecaster.cli.forecast_printing import revised_message
from forecaster.cli.model import model_train
from forecaster.clock import now_ms
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER
from forecaster.model.training.pretrain import TrainingPlan
from forecaster.sources.summary import FileError
from forecaster.store import open_store
from forecaster.store.sqlite_library import sqlite3
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.cli import PROGRAM, error_line, forecaster, run_json
from tests.faults.exchange import LoopbackExchange, closed_port, unhurried


@pytest.fixture
def bars_file(tmp_path):
    path = tmp_path / "bars.csv"
    make_bars(make_key(exchange="x", symbol="A/B"), count=120).frame.to_csv(path)
    return path


@pytest.fixture
def config(tmp_path, bars_file):
    """A series from a file, a ledger beside it."""
    path = tmp_path / "forecaster.toml"
    path.write_text(
        f'[[series]]\nexchange = "x"\nsymbol = "A/B"\ntimeframe = "1h"\nfile = "{bars_file}"\n'
        f'[model]\ncontext = 64\nmin_context = 32\nhorizon = 3\ncompile = "off"\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    return path


def exchange_config(tmp_path, exchange, symbol="BTC/USDT"):
    path = tmp_path / "exchange.toml"
    urls = exchange.config("binance").revealed_api_urls
    path.write_text(
        '[exchanges.binance]\nid = "binance"\ntimeout = 100\ndeadline = 300\n'
        + "".join(f"api_urls.{name} = {json.dumps(url)}\n" for name, url in urls.items())
        + 'options.fetchMarkets.types = ["spot"]\n'
        + f'[[series]]\nexchange = "binance"\nsymbol = "{symbol}"\ntimeframe = "1m"\n'
        + '[model]\ncontext = 64\nmin_context = 32\nhorizon = 3\ncompile = "off"\n'
        + f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    return path


def commands(group=None, *names):
    """Yield every command with its words."""
    for name, command in (group or get_command(app)).commands.items():
        yield from commands(command, *names, name) if hasattr(command, "commands") else [((*names, name), command)]


def test_help_teaches():
    """Each help has a text, and explains each option."""
    assert len(list(commands())) > 25
    for words, command in [((), None), *commands()]:
        done = forecaster(*words, "--help")

        assert done.returncode == 0, words
        assert len(done.stdout.splitlines()) > 6, words
        assert all(one.help for one in (command.params if command else []) if one.name != "help"), words


def test_help_shows_every_word(monkeypatch):
    """Brackets are no markup: nothing that a help text says is lost."""
    monkeypatch.setenv("COLUMNS", "400")
    for words, command in commands():
        shown = forecaster(*words, "--help").stdout
        texts = [command.help, *(parameter.help or "" for parameter in command.params)]
        said = {word.strip("`*.,:;()'") for text in texts for word in text.split()}

        assert {word for word in said if word not in shown} == set(), words


def test_version():
    done = forecaster("--version")

    assert (done.returncode, done.stdout) == (0, f"forecaster {__version__}\n")


def test_configuration_in_use_is_named(config):
    """On standard error, unless --config names it."""
    asked = ("config", "show")
    named = forecaster(*asked, "--config", config)
    of_environment = forecaster(*asked, env={"FORECASTER_CONFIG": str(config)})
    embedded = forecaster(*asked, env={"FORECASTER_CONFIG": None})

    assert named.stderr == ""
    assert of_environment.stderr == f"configuration: {config}\n"
    assert embedded.stderr == "using the embedded demo configuration; pass --config for your own\n"


def test_training_repeats_the_bundled_model_by_default():
    """The defaults are those that trained `nano`."""
    parameters = inspect.signature(model_train).parameters
    plan = json.loads((NANO_FOLDER / "training.json").read_text())["plan"]

    assert {name: parameters[name].default for name in ("steps", "seed")} == {
        "steps": plan["steps"],
        "seed": plan["seed"],
    }
    assert dataclasses.asdict(TrainingPlan()) == plan


@pytest.mark.parametrize("command", ["once", "pull"])
def test_exchange_that_is_not_there(tmp_path, monkeypatch, command):
    """The only series is skipped, with code 2; the reason is in the JSON, or in one line on standard error."""
    unhurried(monkeypatch)
    path = tmp_path / "unreachable.toml"
    path.write_text(
        f'[exchanges.binance]\nid = "binance"\napi_urls.public = "http://127.0.0.1:{closed_port()}/api/v3"\n'
        'deadline = 0.2\noptions.fetchMarkets.types = ["spot"]\n'
        '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1m"\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    done = forecaster(command, "--config", path, "--json")
    shown = forecaster(command, "--config", path)

    assert done.returncode == 2
    assert done.record["skipped"]["binance BTC/USDT 1m"].startswith("SourceUnavailable: binance")
    assert done.stderr == ""
    assert len(shown.stderr.splitlines()) == 1
    assert shown.stderr.startswith("binance BTC/USDT 1m: SourceUnavailable: binance")


@pytest.mark.parametrize("command", ["once", "pull"])
def test_reason_is_printed_once(config, bars_file, command):
    """On standard error; the record counts skipped series."""
    bars_file.write_text("when,what\n1,2\n")
    done = forecaster(command, "--config", config)

    assert done.returncode == 2
    assert (done.stdout + done.stderr).count("BadPayload") == 1
    assert done.stderr.startswith("x A/B 1h: BadPayload: ")
    assert [line.split() for line in done.stdout.splitlines()][-1] == ["skipped", "1"]


END = (
    "the file ends on 2024-01-06 00:00 UTC, so it has no current forecast; for the last one use `--as-of 2024-01-06`, "
    "for the past `forecaster replay`"
)


@pytest.mark.parametrize("stored", [False, True], ids=["new ledger", "bars stored"])
@pytest.mark.parametrize("command", ["once", "pull"])
def test_file_that_has_ended(config, command, stored):
    """A message names the commands that help, with and without bars in the ledger."""
    if stored:
        run_json("once", "--config", config, "--as-of", "2024-01-06", "--json")
    done = forecaster(command, "--config", config)
    for_scripts = forecaster(command, "--config", config, "--json")

    assert f"x A/B 1h: {END}" in done.stderr.splitlines()
    assert END in for_scripts.stderr
    assert set(for_scripts.record) >= {"as_of", "series", "skipped"}


def test_pull_fetches_stored_bars_again_on_demand(config):
    """Only then are revised bars of the file stored. It needs --since."""
    pull = ("pull", "--config", config, "--since", "2024-01-01", "--json")
    run_json(*pull)
    file = next(config.parent.glob("*.csv"))
    lines = file.read_text().splitlines()
    head, *prices = lines[5].split(",")
    lines[5] = ",".join([head, *(str(float(price) * 1.0001) for price in prices)])
    file.write_text("\n".join(lines) + "\n")
    as_usual, refetched = run_json(*pull)["bars_added"], run_json(*pull, "--refetch")["bars_added"]

    assert (as_usual, refetched) == (0, 1)
    assert "--refetch: expected --since with it" in error_line("pull", "--config", config, "--refetch")


def test_pull_says_how_many_bars_of_a_file_are_stored(config):
    """Older bars are not stored; the option that stores them is named."""
    first = forecaster("pull", "--config", config)
    run_json("pull", "--config", config, "--since", "2024-01-01", "--json")
    again = forecaster("pull", "--config", config)

    assert "x A/B 1h: 0 of the file's 120 bars are stored; `--since 2024-01-01` stores all" in first.stderr
    assert "stored" not in again.stderr


@pytest.mark.parametrize("command", ["once", "pull"])
def test_file_of_rows_that_are_still_to_come(config, bars_file, command):
    """They are counted as not closed yet."""
    start = now_ms() // HOUR_MS * HOUR_MS + HOUR_MS
    make_bars(make_key(), count=30, start=start).frame.to_csv(bars_file)
    done = forecaster(command, "--config", config)

    assert "x A/B 1h: 30 rows left out: not closed yet" in done.stderr
    assert "ends on" not in done.stderr


@pytest.mark.parametrize("command", ["once", "pull"])
def test_time_of_a_cycle_is_a_date_for_people(config, command):
    """In JSON it is in milliseconds."""
    shown = forecaster(command, "--config", config).stdout.splitlines()[0].split(maxsplit=1)
    record = forecaster(command, "--config", config, "--json").record

    assert shown[0] == "as_of"
    assert shown[1].endswith(" UTC")
    assert record["as_of"] > utc_ms("2024-01-01")


def test_latest_for_people_fits_a_narrow_terminal(config):
    """A row per target bar, with age and staleness; a series without a forecast is named."""
    run_json("once", "--config", config, "--as-of", "2024-01-06", "--json")
    lines = forecaster("latest", "--config", config).stdout.splitlines()
    before = forecaster("latest", "--config", config, "--as-of", "2024-01-05").stdout

    assert lines[0] == "x A/B 1h  forecast at 2024-01-06 00:00 UTC"
    assert lines[1].endswith(" old, stale: its first target bar has closed")
    heads = [head.strip() for head in lines[3].split("  ") if head.strip()]
    assert heads == ["bar opens (UTC)", "close", "80% from", "80% to", "open", "high", "low"]
    assert [line[:16] for line in lines[5:8]] == [f"2024-01-06 0{hour}:00" for hour in range(3)]
    assert lines[-1].startswith("model nano, engine eager, available since 2")
    assert max(map(len, lines)) <= 80
    assert before == "x A/B 1h  no forecast yet\n"


def test_latest_for_scripts_has_everything(config):
    """All fields, steps and quantiles; times in milliseconds and as ISO 8601."""
    run_json("once", "--config", config, "--as-of", "2024-01-06", "--json")
    (shown,) = run_json("latest", "--config", config, "--json")["forecasts"]
    with Forecaster.from_config(config) as engine:
        forecast = engine.latest("x A/B 1h", max_age="any")

    assert (shown["cutoff"], shown["cutoff_iso"]) == (utc_ms("2024-01-06"), "2024-01-06T00:00:00Z")
    assert shown["target_opens"] == forecast.target_opens().tolist()
    assert shown["target_opens_iso"][0] == "2024-01-06T00:00:00Z"
    assert shown["stale"]
    assert shown["age_seconds"] > 0
    assert shown["last_close"] == forecast.last_close
    for place, field in enumerate(("open", "high", "low", "close")):
        quantiles_QH = [shown["quantiles"][field][str(level)] for level in shown["quantile_levels"]]
        assert quantiles_QH == forecast.values_FHQ[place].T.tolist()


def test_latest_is_printed_again_when_there_is_a_new_forecast(config, monkeypatch):
    """Until Ctrl-C, which is no error."""
    run_json("once", "--config", config, "--as-of", "2024-01-05", "--json")
    steps = iter([lambda: None, lambda: run_json("once", "--config", config, "--as-of", "2024-01-06", "--json")])

    def sleep(seconds):
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(sys.modules["forecaster.cli.latest"], "time", SimpleNamespace(sleep=sleep))
    done = forecaster("latest", "--watch", "--config", config)

    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if "forecast at" in line] == [
        "x A/B 1h  forecast at 2024-01-05 00:00 UTC",
        "x A/B 1h  forecast at 2024-01-06 00:00 UTC",
    ]
    assert "--watch: expected no --as-of" in error_line("latest", "--watch", "--as-of", "2024-01-05", "-c", config)


def test_latest_names_the_bar_that_was_revised(config, bars_file):
    run_json("once", "--config", config, "--as-of", "2024-01-06", "--json")
    before = forecaster("latest", "--config", config).stdout
    bars = pd.read_csv(bars_file)
    bars.loc[len(bars) - 1, "high"] *= 1.0001
    bars.to_csv(bars_file, index=False)
    run_json("pull", "--config", config, "--json")

    said = "do not rely on this forecast: 1 input bar was revised after it was issued: 2024-01-05 23:00 UTC"
    assert "revised" not in before
    assert forecaster("latest", "--config", config).stdout.splitlines()[-1] == said


def test_many_revised_bars_are_counted():
    first = utc_ms("2024-01-05")
    text = revised_message([first + hour * HOUR_MS for hour in range(5)])

    named = "2024-01-05 00:00 UTC, 2024-01-05 01:00 UTC, 2024-01-05 02:00 UTC and 2 more"
    assert text == f"do not rely on this forecast: 5 input bars were revised after it was issued: {named}"


def test_paragraphs_of_help_are_not_broken_in_a_sentence(monkeypatch):
    """Each line ends where the next word does not fit."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.strip() for line in forecaster("start", "--help").stdout.splitlines()]
    paragraph = lines[lines.index("") + 1 :]
    start = next(i for i, line in enumerate(paragraph) if line.startswith("Example:"))
    text = paragraph[start : paragraph.index("", start)]

    assert all(len(f"{line} {after.split()[0]}") > 78 for line, after in itertools.pairwise(text))


def test_once_and_once_more(tmp_path, monkeypatch):
    """`once` pulls, forecasts and records, and catches up on the close in between.

    Asked for years later, every one of these forecasts is late: kept, and not counted.
    """
    unhurried(monkeypatch)
    with LoopbackExchange(now=utc_ms("2024-03-01 12:00:05")) as exchange:
        path = exchange_config(tmp_path, exchange)
        first = run_json("once", "--config", path, "--as-of", "2024-03-01T12:00:05", "--json")
        exchange.now += 120_000
        second = run_json("once", "--config", path, "--as-of", "2024-03-01T12:02:05Z", "--json")
    latest = run_json("latest", "--config", path, "--json")
    scores = run_json("accuracy", "--config", path, "--json")
    for_people = forecaster("accuracy", "--config", path).stdout

    counts = {"as_of", "series", "bars_added", "forecasts", "settled", "skipped"}
    assert set(first) == counts | {"rejected", "unclosed"}
    assert (first["series"], first["forecasts"], first["settled"]) == (1, 1, 0)
    assert (second["bars_added"], second["forecasts"]) == (2, 2)
    assert latest["forecasts"][0]["cutoff"] == utc_ms("2024-03-01 12:02")
    assert second["settled"] == 0
    assert scores["reports"] == []
    assert for_people == "run live: no forecast has settled yet; 2 late ones do not count\n"


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_service_runs_until_it_is_stopped(tmp_path, number):
    """It catches up on missed closes, and exits cleanly."""
    # The exchange is ahead: a minute that ends while the daemon loads its model has its bar.
    with LoopbackExchange(now=now_ms() + 600_000) as exchange:
        path = exchange_config(tmp_path, exchange)
        with subprocess.Popen([PROGRAM, "run", "--config", path], stderr=subprocess.PIPE, text=True) as daemon:
            events = []
            for line in daemon.stderr:
                if line.startswith("{"):
                    events.append(json.loads(line))
                if events and events[-1]["event"] == "cycle.completed":
                    break
            daemon.send_signal(number)
            rest = daemon.stderr.read()
            code = daemon.wait()

    assert code == 0
    assert events[-1]["forecasts"] == 1
    assert "daemon.stopped" in rest
    assert "Traceback" not in rest


def test_replay_reports_as_json(config):
    report = run_json("replay", "--config", config, "--every", 5, "--json")

    assert report["cutoffs"] == len(range(31, 120, 5))
    assert report["cutoffs_per_second"] > 0
    assert 0 <= report["coverage80"] <= 1


def test_replay_between_dates(config):
    report = run_json("replay", "--config", config, "--start", "2024-01-03", "--end", "2024-01-04", "--json")

    assert report["cutoffs"] == 24


def test_pull_keeps_bars(config):
    """All that the file has; a second time there is nothing new."""
    first = run_json("pull", "--since", "2024-01-01", "--config", config, "--json")
    second = run_json("pull", "--since", "2024-01-01", "--config", config, "--json")

    assert (first["series"], first["skipped"]) == (1, {})
    assert (first["bars_added"], second["bars_added"]) == (120, 0)


def test_doctor_finds_nothing_wrong(config):
    run_json("pull", "--config", config, "--json")
    report = run_json("doctor", "--config", config, "--json")

    assert report["ok"]
    assert {one["subject"] for one in report["findings"]} >= {"machine", "configuration", "ledger", "model"}


def test_doctor_finds_missing_weights(config):
    config.write_text(config.read_text().replace("[model]", '[model]\nid = "./nowhere"'))
    done = forecaster("doctor", "--config", config)

    assert done.returncode == 2
    assert "WRONG" in done.stdout
    assert "ModelLoadError" in done.stdout


def test_config_check_and_show(config):
    checked = run_json("config", "check", "--config", config, "--json")
    shown = json.loads(forecaster("config", "show", "--config", config).stdout)

    assert checked["series"] == ["x A/B 1h"]
    assert shown["model"]["horizon"] == 3


def test_config_comes_from_the_environment(config):
    """Where no `--config` is given; without either, it is the embedded one."""
    named = forecaster("config", "check", "--json", env={"FORECASTER_CONFIG": str(config)})
    none = forecaster("config", "check", "--json", env={"FORECASTER_CONFIG": None})

    assert named.record["config"] == str(config)
    assert none.record["config"] == "embedded"


MISTAKES = {
    "unknown key": (("config", "check"), lambda text: text + "colour = 1\n", "expected one of"),
    "broken TOML": (("config", "check"), lambda text: text + "[[\n", "expected TOML"),
    "timeframe": (("config", "check"), lambda text: text.replace('"1h"', '"1w"'), "expected one of 1m"),
    "calendar": (
        ("once",),
        lambda text: text.replace('timeframe = "1h"', 'timeframe = "1h"\ncalendar = "NOPE"'),
        "expected 24/7 or",
    ),
    "weights": (("once",), lambda text: text.replace("[model]", '[model]\nid = "./nowhere"'), "ModelLoadError"),
    "baseline": (
        ("once",),
        lambda text: text.replace("[model]", '[model]\nbaselines = ["crystal_ball"]'),
        "any of random_walk",
    ),
    "store": (("once",), lambda text: text.replace("ledger.db", "no/such/folder/ledger.db"), "StoreUnavailable"),
    "store URL": (("latest",), lambda text: text.replace("sqlite:///", "nosuchdb:///"), "StoreUnavailable"),
    "missing csv": (("pull",), lambda text: text.replace("bars.csv", "nowhere.csv"), "BadPayload"),
    "series": (("latest", "--series", "a b c"), lambda text: text, "expected one of x A/B 1h"),
    "date": (("replay", "--start", "soon"), lambda text: text, "expected a date or time"),
    "empty range": (("replay", "--start", "2030-01-01"), lambda text: text, "a cutoff from 2030-01-01"),
    "window": (("accuracy", "--window", "month"), lambda text: text, "such as 30d"),
    "no demo": (("demo",), lambda text: text, "demo: expected a table"),
}


NEED_A_LEDGER = {"window"}
"""What is wrong shows when there is something to read."""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_and_code_2(config, mistake):
    """Each names what was expected and found."""
    arguments, change, expected = MISTAKES[mistake]
    if mistake in NEED_A_LEDGER:
        run_json("pull", "--config", config, "--json")
    config.write_text(change(config.read_text()))

    assert expected in error_line(*arguments, "--config", config, cwd=config.parent)


@pytest.mark.processes
def test_the_program_itself(config):
    """As it is installed: code 0 and JSON; code 2 and one line, without a traceback, for a mistake."""
    command = [PROGRAM, "config", "check", "--json", "--config", config]
    well = subprocess.run(command, capture_output=True, text=True, check=False)
    config.write_text(config.read_text() + "colour = 1\n")
    wrong = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (well.returncode, wrong.returncode) == (0, 2)
    assert json.loads(well.stdout)["ok"]
    assert wrong.stdout == ""
    assert wrong.stderr.startswith("ConfigError: ")
    assert len(wrong.stderr.splitlines()) == 1


def test_missing_config_file(tmp_path):
    path = tmp_path / "nowhere.toml"

    assert f"{path}: expected a readable TOML file" in error_line("once", "--config", path)


@pytest.mark.parametrize(
    ("content", "found"),
    [("when,what\n1,2\n", "open"), ("", "expected"), ("\x00\x01\x02", "expected")],
    ids=["columns", "empty", "binary"],
)
def test_unusable_csv_is_named(config, bars_file, content, found):
    bars_file.write_text(content)
    line = error_line("pull", "--config", config)

    assert line.startswith("x A/B 1h: BadPayload: ")
    assert found in line
    assert str(bars_file) in line


def test_demo_refuses_a_ledger_that_is_not_its_own(config, tmp_path):
    """A demo starts with an empty ledger; it does not replace a ledger of a configuration."""
    ledger = tmp_path / "ledger.db"
    ledger.write_bytes(b"precious")
    config.write_text(config.read_text().replace(f"{tmp_path}/", "") + '[demo]\nstart = "2024-01-03"\n')

    assert "a ledger that does not exist yet" in error_line("demo", "--config", config, "--out", tmp_path)
    assert ledger.read_bytes() == b"precious"


@pytest.mark.parametrize(("start", "reason"), [("2024-01-01", "NotEnoughBars"), ("2025-06-01", "MissingBars")])
def test_demo_without_bars_is_named(config, tmp_path, start, reason):
    """A stretch before or after the file's bars: the last reason, and no report."""
    config.write_text(config.read_text() + f'[demo]\nstart = "{start}"\ncycles = 3\n')

    assert reason in error_line("demo", "--config", config, "--out", tmp_path / "out")
    assert not (tmp_path / "out" / "demo-report.html").exists()


def test_shortest_demo_twice(tmp_path):
    """One close, nothing settled yet: still a report. The second demo begins with an empty ledger again."""
    first, second = (run_json("demo", "--cycles", 1, "--out", tmp_path, "--json") for _ in range(2))

    assert (first["cycles"], first["forecasts"], first["settled"], first["skill_close"]) == (1, 2, 0, None)
    assert second | {"seconds": 0} == first | {"seconds": 0}
    assert (tmp_path / "demo-report.html").stat().st_size > 0


OWN = ("demo-ledger.db", "demo-ledger.db-journal", "demo-ledger.db-wal", "demo-ledger.db-shm")
OF_OTHERS = ("demo-ledger.db.bak", "demo-ledger.db.schema-5", "demo-ledger.db2", "demo-ledger.db-wal.copy", "notes.db")


def test_demo_removes_its_own_ledger_and_nothing_else(tmp_path, monkeypatch):
    """What SQLite keeps beside it goes with it; copies stay, and so does the file of the lock."""
    for name in (*OWN[1:], *OF_OTHERS, "demo-ledger.db.lock"):
        (tmp_path / name).write_text("planted")
    with contextlib.closing(sqlite3.connect(tmp_path / "own.db")) as connection:
        for table in ("series", "bar", "quarantine", "model", "run", "forecast"):
            connection.execute(f"CREATE TABLE {table} (id INTEGER)")
    (tmp_path / "own.db").rename(tmp_path / OWN[0])
    lock = (tmp_path / "demo-ledger.db.lock").stat().st_ino
    run_json("demo", "--cycles", 1, "--out", tmp_path, "--json")

    assert [name for name in OWN if (tmp_path / name).exists()] == ["demo-ledger.db"]
    assert (tmp_path / "demo-ledger.db").read_bytes().startswith(b"SQLite format 3")
    assert [(tmp_path / name).read_text() for name in OF_OTHERS] == ["planted"] * len(OF_OTHERS)
    assert (tmp_path / "demo-ledger.db.lock").stat().st_ino == lock


@pytest.mark.parametrize("kind", ["text", "another program's"])
def test_demo_leaves_a_file_of_somebody_else_alone(tmp_path, kind):
    """That has the name of its ledger by chance."""
    path = tmp_path / OWN[0]
    if kind == "text":
        path.write_text("precious")
    else:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE photos (name TEXT)")
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("CREATE TABLE schema_version (version INTEGER)")
    before = path.read_bytes()
    words = error_line("demo", "--cycles", 1, "--out", tmp_path)

    assert "--out: expected a folder where demo-ledger.db is a ledger, or does not exist" in words
    assert path.read_bytes() == before


def test_demo_refuses_a_ledger_that_a_process_writes(tmp_path):
    """By name, with nothing removed: neither the ledger nor the lock of a living writer."""
    path = tmp_path / "demo-ledger.db"
    with contextlib.closing(open_store(f"sqlite:///{path}")) as other:
        before = sorted((one.name, one.stat().st_ino) for one in tmp_path.iterdir())
        line = error_line("demo", "--cycles", 1, "--out", tmp_path, "--json")
        after = sorted((one.name, one.stat().st_ino) for one in tmp_path.iterdir())
        other.renew()

    assert line.startswith(f"StoreTaken: store sqlite:///{path}: expected a demo ledger that no process writes")
    assert after == before


def test_demo_refuses_what_it_cannot_remove(tmp_path):
    (tmp_path / "demo-ledger.db").mkdir()

    assert "expected a file that can be removed" in error_line("demo", "--cycles", 1, "--out", tmp_path)


def test_demo_of_a_configuration_keeps_its_ledger_in_the_folder(config, tmp_path):
    """Wherever the configured ledger lies: that one is not touched."""
    (tmp_path / "ledger.db").write_bytes(b"precious")
    config.write_text(config.read_text() + '[demo]\nstart = "2024-01-03"\ncycles = 1\n')
    run_json("demo", "--config", config, "--out", tmp_path / "out", "--json")

    assert (tmp_path / "ledger.db").read_bytes() == b"precious"
    assert (tmp_path / "out" / "ledger.db").exists()


@pytest.mark.compiler
@pytest.mark.filterwarnings(
    "ignore::forecaster.model.chronos2.faults.CompileFallbackWarning"
)  # each process warns once
def test_compile_that_fails_says_why(config, tmp_path, monkeypatch):
    """Without a C++ compiler: code 2, the fault by name, and the shape that the configuration needs."""
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    config.write_text(config.read_text().replace('compile = "off"\n', ""))
    done = forecaster("model", "compile", "--config", config, "--json")
    (bucket,) = done.record["buckets"]

    assert done.returncode == 2
    assert (bucket["rows"], bucket["bars"], bucket["engine"]) == (4, 80, "eager")
    assert "InvalidCxxCompiler" in bucket["faults"][0]


def test_compile_where_it_is_off(config):
    assert "model.compile: expected auto or on" in error_line("model", "compile", "--config", config)


EVAL = ("model", "eval", "--cutoffs", 10, "--horizon", 2, "--context", 32)


def test_evaluation_reports_as_json(bars_file):
    """One line with what was asked, the ratios, and every field and step; quantiles of wider intervals hold more."""
    report = run_json(*EVAL, bars_file, "--json")
    (one,) = report["series"]

    assert set(report) == {"model", "series", "mean_pinball_ratio", "errors"}
    assert (one["name"], one["cutoffs"], one["timeframe"], one["calendar"]) == ("bars", 10, "1h", "24/7")
    assert one["pinball_ratio"] == report["mean_pinball_ratio"] > 0
    assert one["mae_close_ratio"] > 0
    assert 0 <= one["invalid_before_repair"] <= 1
    for field in ("open", "high", "low", "close"):
        shares = [one[f"coverage{width}"][field] for width in (50, 80, 90, 98)]
        assert shares == sorted(shares)
    assert [(row["field"], row["step"]) for row in one["steps"][:3]] == [("open", 1), ("open", 2), ("high", 1)]
    assert len(one["steps"]) == 8
    assert (report["model"], report["errors"]) == ("nano", [])


def test_evaluation_is_reproducible_and_keeps_to_dates(bars_file):
    """Asked twice the same; the first cutoff is not before `--start`, the last is before `--end`."""
    dates = ("--start", "2024-01-04", "--end", "2024-01-05")
    (first,) = run_json(*EVAL, bars_file, *dates, "--json")["series"]
    (second,) = run_json(*EVAL, bars_file, *dates, "--json")["series"]

    assert (first["start"], first["end"]) == ("2024-01-04", "2024-01-04")
    assert first == second


def test_evaluation_goes_on_after_a_file_that_cannot_be_read(bars_file, tmp_path):
    """The bad files are named, in the JSON too; the good one is scored; the code is 2."""
    (tmp_path / "broken.csv").write_text("when,what\n1,2\n")
    make_bars(count=20).frame.to_csv(tmp_path / "short.csv")
    done = forecaster(*EVAL, tmp_path / "broken.csv", tmp_path / "short.csv", bars_file, "--json")
    report = done.record

    assert done.returncode == 2
    assert [one["name"] for one in report["series"]] == ["bars"]
    assert [one["file"] for one in report["errors"]] == [str(tmp_path / "broken.csv"), str(tmp_path / "short.csv")]
    assert [one["reason"].partition(":")[0] for one in report["errors"]] == ["BadPayload", "NotEnoughBars"]
    assert report["errors"][0]["reason"].startswith(f"BadPayload: {tmp_path / 'broken.csv'}: ")


def test_evaluation_of_a_configured_model(config, bars_file):
    """Context and weights come from the configuration, what is asked on the command line goes before it."""
    config.write_text(config.read_text().replace("[model]", '[model]\nid = "./nowhere"'))
    missing = error_line("model", "eval", bars_file, "--config", config)
    done = forecaster(
        "model", "eval", bars_file, "--config", config, "--model", "nano", "--cutoffs", 10, "--horizon", 2
    )

    assert "ModelLoadError" in missing
    assert done.returncode == 0, done.stderr
    assert "nano: losses divided by those of a baseline" in done.stdout


def made_result(name="BTC", ratio=0.9, p=0.01):
    shares = {"open": 0.5, "high": 0.51, "low": 0.52, "close": 0.53}
    step = StepResult("close", 1, 0.0123, ratio, p, 0.0345, 1.01, 0.49, 0.79, 0.89, 0.97)
    return SeriesResult(
        name=name,
        cutoffs=200,
        start="2020-01-01",
        end="2024-01-01",
        timeframe="1h",
        calendar="24/7",
        rejected=0,
        reasons={},
        unclosed=0,
        pinball_ratio=ratio,
        pinball_p=p,
        pinball_ratio_walk=0.8,
        mae_close_ratio=None,
        mae_close_p=0.456,
        coverage50=shares,
        coverage80=shares,
        coverage90=shares,
        coverage98=shares,
        invalid_before_repair=0.125,
        steps=[step],
    )


def test_evaluation_as_tables(capsys):
    """A line for each series, four for its coverage, and with `--steps` one for each field and step."""
    report = report_of("nano", [made_result()], [])
    print_evaluation(report, steps=False)
    brief = capsys.readouterr().out
    print_evaluation(report, steps=True)
    full = capsys.readouterr().out

    rows = [line.split() for line in full.splitlines()]
    assert ["BTC", "1h", "200", "0.900", "0.010", "–", "0.456", "12.5%"] in rows
    assert ["BTC", "low", "52.0%", "52.0%", "52.0%", "52.0%"] in rows
    assert ["close", "1", "0.0123", "0.900", "0.010", "0.0345", "1.010", "49.0%", "79.0%", "89.0%", "97.0%"] in rows
    assert "0.0123" not in brief
    assert brief.endswith(f"{report.verdict}\n")


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ([], "no series was evaluated"),
        ([made_result(ratio=None, p=1.0)], "no series was evaluated"),
        (
            [made_result(), made_result(ratio=0.8, p=0.06), made_result(ratio=1.0, p=None)],
            (
                "nano: 10.0% lower pinball loss than the filtered historical simulation, on 3 series: "
                "significantly better on 1, significantly worse on 0, no significant difference on 2 (p < 0.05)"
            ),
        ),
        (
            [made_result(ratio=1.2)],
            (
                "nano: 20.0% higher pinball loss than the filtered historical simulation, on 1 series: "
                "significantly better on 0, significantly worse on 1, no significant difference on 0 (p < 0.05)"
            ),
        ),
    ],
    ids=["no file", "no ratio", "better", "worse"],
)
def test_the_verdict_in_words(results, verdict):
    assert report_of("nano", results, []).verdict == verdict


def test_the_mean_ratio_leaves_out_series_without_one():
    report = report_of("nano", [made_result(ratio=None), made_result(ratio=0.8)], [FileError("a.csv", "why")])

    assert isinstance(report, EvaluationReport)
    assert report.mean_pinball_ratio == 0.8
