"""The arrows between modules point strictly downwards, and each heavy library has one home."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = {
    "errors": 0,
    "timeframe": 0,
    "clock": 0,
    "bars": 1,
    "config": 1,
    "log": 1,
    "sessions": 1,
    "forecast": 2,
    "ledger": 3,
    "sources": 4,
    "model": 4,
    "store": 4,
    "accuracy": 4,
    "assess": 5,
    "calibrate": 5,
    "export": 5,
    "ask": 5,
    "intake": 5,
    "slots": 5,
    "engine": 6,
    "replay": 7,
    "daemon": 7,
    "doctor": 7,
    "cli": 8,
}
# Inside one level: sessions before bars before config.
PEERS = {("bars", "sessions"), ("config", "bars"), ("config", "sessions"), ("timeframe", "errors")}
HOMES = {
    "torch": ("forecaster/model/",),
    "chronos": ("forecaster/model/",),
    "transformers": ("forecaster/model/",),
    "ccxt": ("forecaster/sources/exchange.py",),
    "sqlalchemy": ("forecaster/store/",),
    "apscheduler": ("forecaster/daemon/",),
}
CLOCK_READERS = {
    "forecaster/cli/",
    "forecaster/daemon/",
    "forecaster/engine.py",
    "forecaster/sources/breaker.py",
    "forecaster/store/lease.py",
}
MODULES = sorted(ROOT.glob("forecaster/**/*.py"))


def imports_of(path: Path, *, lazy: bool = True) -> list[str]:
    """Every module that a file imports, inside functions too if `lazy`; those for type checkers alone are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[str] = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.FunctionDef) and not lazy:
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        pending += ast.iter_child_nodes(node)
    return found


def part_of(module: str) -> str:
    """`forecaster.store.sql.SqlStore` is part of `store`."""
    return module.split(".")[1]


def own_part(path: Path) -> str:
    parts = path.relative_to(ROOT / "forecaster").parts
    return parts[0].removesuffix(".py")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_arrows_point_downwards(path):
    """A module knows only levels below its own, or the parts of its own package."""
    own = own_part(path)
    if own == "__init__":
        assert all(not name.startswith("forecaster.") for name in imports_of(path))
        return
    for name in imports_of(path):
        if not name.startswith("forecaster."):
            continue
        other = part_of(name)

        assert other in LEVELS, f"{relative(path)} imports the package root or an unknown part: {name}"
        assert other == own or LEVELS[other] < LEVELS[own] or (own, other) in PEERS, f"{relative(path)} → {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_heavy_libraries_stay_home(path):
    for name in imports_of(path):
        homes = HOMES.get(name.split(".")[0])

        assert homes is None or relative(path).startswith(homes), f"{relative(path)} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_doors_read_the_clock(path):
    reads = any(name.startswith("forecaster.clock") for name in imports_of(path))

    assert not reads or relative(path).startswith(tuple(CLOCK_READERS))


@pytest.mark.parametrize("path", sorted(ROOT.glob("strategies/**/*.py")), ids=relative)
def test_strategies_know_public_names_only(path):
    for name in imports_of(path):
        assert not name.startswith("forecaster.") or name.count(".") == 1, f"{relative(path)} → {name}"


def test_forecaster_never_imports_strategies():
    assert not [relative(path) for path in MODULES for name in imports_of(path) if name.startswith("strategies")]


def test_import_cycles():
    """Modules can be put in an order in which each imports only earlier ones."""
    graph = {module_name(path): {to_module(name) for name in imports_of(path, lazy=False)} for path in MODULES}
    done: set[str] = set()
    while True:
        ready = {name for name, needs in graph.items() if name not in done and not (needs & graph.keys()) - done}
        if not ready:
            break
        done |= ready

    assert set(graph) == done, f"in a cycle: {sorted(set(graph) - done)}"


def module_name(path: Path) -> str:
    return relative(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def to_module(name: str) -> str:
    """The module behind `module.attribute` or `module`."""
    known = {module_name(path) for path in MODULES}
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name
