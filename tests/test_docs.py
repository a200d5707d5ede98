"""What the documents say is what the program does: README blocks run, config keys and targets exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from forecaster.config import (
    AlertsConfig,
    Config,
    DaemonConfig,
    DemoConfig,
    ExchangeConfig,
    HealthConfig,
    ModelConfig,
    SeriesConfig,
    StoreConfig,
    load_config,
)
from tests.cli import forecaster

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands(program):
    lines = (line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines())
    return [shlex.split(line) for line in lines if line.startswith(program)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader would stand: the repository's files at hand, a short demo behind them."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "config").symlink_to(ROOT / "config")
    (folder / "trainingdata").symlink_to(ROOT / "trainingdata")
    run(folder, ["demo", "--cycles", "14"])
    return folder


def run(folder, arguments):
    """Run a command there; gives what it printed."""
    done = forecaster(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(folder, *arguments):
    """Run Python there, in a process of its own; gives what it printed."""
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.docs
def test_readme_python_runs(folder):
    """All blocks in order, as one session of a reader."""
    assert run_python(folder, "-c", "\n".join(blocks("python")))


@pytest.mark.docs
@pytest.mark.parametrize("arguments", [line[1:] for line in commands("forecaster")], ids=shlex.join)
def test_readme_commands_run(folder, arguments):
    """Each runs as printed, but what takes long: the daemon's config is checked, the demo is cut short.

    The bench explains itself here; tests/test_cli.py runs one.
    """
    if arguments[0] == "run":
        arguments = ["config", "check", *arguments[1:]]
    if arguments[0] == "bench":
        arguments = [*arguments, "--help"]
    if arguments[0] == "demo":
        arguments = [*arguments, "--cycles", "1", "--out", "elsewhere"]

    assert run(folder, arguments)


@pytest.mark.docs
@pytest.mark.parametrize("arguments", [line[1:] for line in commands("python -m")], ids=shlex.join)
def test_readme_modules_run(arguments):
    assert run_python(ROOT, *arguments)


@pytest.mark.docs
@pytest.mark.parametrize("name", ["accuracy", "replay", "strategies"])
def test_pages_run(folder, name):
    """Their blocks in order, as one session of a reader, and their commands on the demo's ledger."""
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    lines = re.findall(r"^forecaster ([^#\n]*)", page, re.MULTILINE)
    run_python(folder, "-c", PAGES_BEGIN + code)

    assert lines
    for line in lines:
        assert run(folder, shlex.split(line))


PAGES_BEGIN = "from forecaster import Forecaster\nforecaster = Forecaster.from_config('config/demo.toml')\n"


def test_readme_names_real_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {line[1] for line in commands("make")}

    assert targets >= {"run", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_readme_maps_real_files():
    paths = re.findall(r"^\| `([\w./]+)` \|", README, re.MULTILINE)

    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path


def test_pictures_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize(
    ("name", "record"),
    [
        *(("live", one) for one in (ExchangeConfig, SeriesConfig, ModelConfig, StoreConfig, DemoConfig)),
        *(("service", one) for one in (DaemonConfig, HealthConfig, AlertsConfig)),
    ],
)
def test_every_config_key_is_explained(name, record):
    """Each key stands in its example with a comment, or is a table of it."""
    example = (ROOT / "config" / f"{name}.example.toml").read_text(encoding="utf-8")
    check_keys(record, example)


def test_every_config_table_is_explained():
    examples = [(ROOT / "config" / f"{name}.example.toml").read_text(encoding="utf-8") for name in ("live", "service")]
    check_keys(Config, "".join(examples))


def check_keys(record, example):
    for key in record.model_fields:
        assert re.search(rf"^(# )?{key}(\.\w+)* = .*#|^#? ?\[+{key}[\].]", example, re.MULTILINE), key


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.toml")), ids=lambda path: path.name)
def test_shipped_configurations_load(path):
    assert load_config(path).series


def test_live_example_names_the_published_model():
    model = load_config(ROOT / "config" / "live.example.toml").model

    assert (model.id, model.revision) == ("amazon/chronos-2", "29ec3766d36d6f73f0696f85560a422f50e8498c")
