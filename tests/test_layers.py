"""The arrows between modules: import-linter's contracts in pyproject.toml, and what no contract can say."""

from __future__ import annotations

import tomllib
from pathlib import Path

import grimp
import pytest
from importlinter import configuration
from importlinter.application.use_cases import lint_imports

configuration.configure()
ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "pyproject.toml"
CLOCK = "forecaster.clock"
CLOCK_READERS = (
    "forecaster.cli",
    "forecaster.daemon",
    "forecaster.client",
    "forecaster.engine",
    "forecaster.replay.replay",
    "forecaster.sources.exchange.breaker",
    "forecaster.sources.exchange.source",
    "forecaster.store.lease",
)


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph(
        "forecaster", "strategies", exclude_type_checking_imports=True, include_external_packages=True, cache_dir=None
    )


def test_contracts_are_kept(capsys):
    kept = lint_imports(str(CONFIG), cache_dir=None, no_logo=True)

    assert kept, capsys.readouterr().out


def is_in(module, packages):
    return any(f"{module}.".startswith(f"{package}.") for package in packages)


def test_only_doors_read_the_clock(graph):
    readers = graph.find_modules_that_directly_import(CLOCK)

    assert {one for one in readers if not is_in(one, CLOCK_READERS)} == set()
    assert readers


def test_strategies_know_public_names_only(graph):
    """What they import is the package itself, and so what it gives away."""
    arrows = {
        (module, known)
        for module in graph.modules
        if is_in(module, ["strategies"])
        for known in graph.find_modules_directly_imported_by(module)
        if is_in(known, ["forecaster"])
    }

    assert {arrow for arrow in arrows if arrow[1] != "forecaster"} == set()
    assert arrows


def test_the_package_root_is_for_others(graph):
    """No module of the package imports it whole, and it imports none before a name is used."""
    assert {one for one in graph.find_modules_that_directly_import("forecaster") if is_in(one, ["forecaster"])} == set()
    assert {one for one in graph.find_modules_directly_imported_by("forecaster") if is_in(one, ["forecaster"])} == set()


# That the contracts would be broken.


def renamed(value):
    """The configuration of a package `planted`, with strategies of its own."""
    if isinstance(value, dict):
        return {key: renamed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [renamed(one) for one in value]
    if not isinstance(value, str):
        return value
    return value.replace("forecaster", "planted") if value != "strategies" else "planted_strategies"


def as_toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    return f'"{value}"'


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A package with all modules that the contracts name, of which those import a library that are its home."""
    options = renamed(tomllib.loads(CONFIG.read_text())["tool"]["importlinter"])
    contracts = options.pop("contracts")
    lines = ["[tool.importlinter]", *(f"{key} = {as_toml(value)}" for key, value in options.items())]
    for contract in contracts:
        lines += ["[[tool.importlinter.contracts]]", *(f"{key} = {as_toml(value)}" for key, value in contract.items())]
    (tmp_path / "contracts.toml").write_text("\n".join(lines))
    (layers,) = (one["layers"] for one in contracts if one["type"] == "layers")
    for name in (part.strip() for layer in layers for part in layer.split("|")):
        write(tmp_path, f"planted.{name}", "")
    write(tmp_path, "planted_strategies.trend", "")
    for contract in contracts:
        for library in contract.get("protected_modules", []):
            write(tmp_path, contract["allowed_importers"][0] + f".with_{library}", f"import {library}")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder, module, text):
    """Write a module, in packages down to it."""
    *parents, name = module.split(".")
    for depth in range(1, len(parents) + 1):
        folder.joinpath(*parents[:depth]).mkdir(exist_ok=True)
        folder.joinpath(*parents[:depth], "__init__.py").touch()
        folder.joinpath(*parents[:depth]).with_suffix(".py").unlink(missing_ok=True)
    folder.joinpath(*parents, f"{name}.py").write_text(text)


@pytest.fixture
def check(planted, capsys):
    """Check the planted package; how many contracts were kept and broken, as import-linter tells."""

    def check():
        lint_imports(str(planted / "contracts.toml"), cache_dir=None, no_logo=True)
        return capsys.readouterr().out.partition("Contracts: ")[2].partition(".")[0]

    return check


def test_the_planted_package_keeps_all_contracts(check):
    assert check() == "8 kept, 0 broken"


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("planted.timeframe", "import planted.engine"),
        ("planted.store.sql", "from planted.model import load"),
        ("planted.ask", "def late():\n    from planted.slots import owed"),
        ("planted.config", "import planted.log"),
        ("planted.nowhere", ""),
        ("planted.engine", "import torch"),
        ("planted.sources.files", "from ccxt import binance"),
        ("planted.accuracy.score", "import sqlalchemy.orm"),
        ("planted.cli", "import apscheduler"),
        ("planted.daemon.service", "from planted_strategies import trend"),
    ],
    ids=[
        "up",
        "across",
        "across in a function",
        "log",
        "no layer",
        "torch",
        "ccxt",
        "sqlalchemy",
        "apscheduler",
        "out",
    ],
)
def test_a_wrong_arrow_breaks_a_contract(planted, check, module, text):
    write(planted, module, text)

    assert check() == "7 kept, 1 broken"


def test_a_cycle_inside_a_package_breaks_a_contract(planted, check):
    write(planted, "planted.store.one", "import planted.store.other")
    write(planted, "planted.store.other", "import planted.store.one")

    assert check() == "7 kept, 1 broken"


def test_an_arrow_for_type_checkers_is_none(planted, check):
    imports = "if TYPE_CHECKING:\n    import planted.engine"
    write(planted, "planted.timeframe", f"from typing import TYPE_CHECKING\n{imports}")

    assert check() == "8 kept, 0 broken"
