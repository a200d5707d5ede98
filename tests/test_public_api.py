"""The public names, and what importing them costs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import tomllib
from contextlib import closing
from dataclasses import make_dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

import forecaster
from forecaster import errors
from forecaster.bars import Bars
from forecaster.errors import ForecasterError
from forecaster.ledger import LIVE, Run
from forecaster.store.sql import SqlStore
from tests.accuracy.report.test_page import BEFORE, make_lognormal
from tests.builders import make_bars, make_key

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ccxt", "sqlalchemy", "pandas", "chronos", "transformers", "apscheduler", "matplotlib", "numpy")
NEVER_FOR_READING = ("torch", "transformers", "chronos", "ccxt", "apscheduler", "matplotlib")
COUNTING = """
import json, sys
from importlib.util import source_from_cache

opened, before = set(), set(sys.modules)


def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        opened.add(source_from_cache(arguments[0]) if arguments[0].endswith(".pyc") else arguments[0])


sys.addaudithook(note)
try:
    exec(sys.argv.pop(1))
except SystemExit:
    pass
print(json.dumps([sorted(set(sys.modules) - before), sorted(opened)]))
"""


def count(code, *arguments):
    """Run code in a process of its own; gives the modules that it loaded and the files that it opened."""
    command = [sys.executable, "-c", COUNTING, code, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return map(set, json.loads(done.stdout.splitlines()[-1]))


def is_documented(cls):
    """Whether somebody wrote what a class is; a record without a docstring has one that only repeats its fields."""
    return bool(cls.__doc__) and not cls.__doc__.startswith(f"{cls.__name__}(")


def test_all_is_sorted_and_whole():
    assert forecaster.__all__ == sorted([*forecaster._MODULE_OF, "__version__"])


def test_every_error_is_public():
    classes = dict(inspect.getmembers(errors, inspect.isclass))

    assert {name for name, one in classes.items() if issubclass(one, ForecasterError)} <= set(forecaster.__all__)


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert forecaster.__version__ == project["version"]


@pytest.mark.parametrize("name", forecaster._MODULE_OF)
def test_name_can_be_imported(name):
    assert getattr(forecaster, name).__name__ == name


@pytest.mark.parametrize("name", [name for name in forecaster.__all__ if name[0].isupper()])
def test_name_is_documented(name):
    assert is_documented(getattr(forecaster, name))


@pytest.mark.parametrize(
    "cls",
    [
        make_dataclass("Record", ["x"]),
        NamedTuple("Pair", [("x", int), ("y", int)]),
        type("Heir", (forecaster.Bars,), {}),
    ],
    ids=["dataclass", "named tuple", "heir"],
)
def test_docstring_that_nobody_wrote_is_none(cls):
    """What Python makes of a record's fields, and what stands at a base class."""
    assert not is_documented(cls)


def test_unknown_name():
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = forecaster.Nonsense


@pytest.mark.processes
def test_import_is_light():
    """`import forecaster` loads none of the heavy libraries: a few modules of Python's own, from a few files."""
    modules, files = count("import forecaster")

    assert not modules & set(HEAVY)
    assert len(modules) < 50
    assert len(files) < 50


@pytest.mark.processes
def test_help_is_light():
    """`forecaster --help` loads what parses and what prints."""
    modules, files = count("from forecaster.cli import main; main()", "--help")

    assert "forecaster.cli" in modules
    assert not modules & set(HEAVY)
    assert len(modules) < 400
    assert len(files) < 400


@pytest.fixture
def config(tmp_path):
    """A ledger of forty forecasts, and bars in a file."""
    key = make_key("x", "A/B")
    bars = make_bars(key, BEFORE + 40)
    bars.frame.to_csv(tmp_path / "bars.csv")
    bars = Bars(key, bars.open_time, bars.ohlcv_TF, bars.close_time)
    made = [
        make_lognormal(key, bars, i, bars.close[BEFORE + i], (1, 1), name)
        for i in range(40)
        for name in ("nano", "random_walk")
    ]
    with closing(SqlStore(f"sqlite:///{tmp_path}/ledger.db")) as store:
        store.add_run(Run(LIVE, LIVE, 0))
        store.add_bars(bars)
        store.add_forecasts(made, LIVE)
    path = tmp_path / "config.toml"
    path.write_text(
        '[[series]]\nexchange = "x"\nsymbol = "A/B"\ntimeframe = "1h"\nfile = "bars.csv"\n'
        f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
    )
    return path


@pytest.mark.processes
def test_reading_needs_no_model_and_no_exchange(config):
    """Neither a command that only reads nor a strategy that asks for the newest forecast loads torch or ccxt.

    One process runs them all, and looks at what is loaded after each.
    """
    reads = ["latest", "accuracy", "bars show", "store info", "verify ledger", "signal --strategy strategies.trend"]
    commands = [[*one.split(), "--config", str(config)] for one in [*reads, "config check", "config show"]]
    commands += [["report", "--help"], ["store", "export", str(config.parent / "out.csv"), "--config", str(config)]]
    commands += [["bars", "inspect", str(config.parent / "bars.csv")], ["health", "--url", "http://127.0.0.1:1"]]
    code = f"""
import json, sys
from forecaster import Forecaster
with Forecaster.from_config({str(config)!r}) as reading:
    assert reading.latest(("x", "A/B", "1h"), max_age="any") is not None
from tests.cli import forecaster
for command in {commands!r}:
    done = forecaster(*command)
    loaded = [name for name in {NEVER_FOR_READING!r} if name in sys.modules]
    print(json.dumps([" ".join(command[:2]), done.returncode, loaded]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0, done.stderr
    assert [name for name, _, loaded in found if loaded] == []
    assert [name for name, code, _ in found if code] == ["health --url"]
    assert len(found) == len(commands)
