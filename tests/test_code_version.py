"""The version of the code: every module that computes a forecast counts, and no other."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

import forecaster
from forecaster import code_version as code
from forecaster.code_version import DECIDING, LIBRARIES, code_digest

PACKAGE = Path(forecaster.__file__).parent
FORECAST_MODULES = (
    "cycle/predict.py",
    "cycle/calibrate.py",
    "model/chronos2/wrapper.py",
    "model/baselines/__init__.py",
)
NAMES_ONLY = {
    "arguments.py",
    "urls.py",
    "config.py",
    "config_file.py",
    "errors.py",
    "forecast_chart.py",
    "ledger.py",
    "model/chronos2/checkpoint_files.py",
    "secret.py",
    "output_files.py",
}
"""Imported by the others, but they compute no number."""
COMPILER = {
    f"model/chronos2/{name}.py"
    for name in (
        "artifacts",
        "bucket",
        "builder",
        "compiled",
        "compilers",
        "faults",
        "owner",
        "private_folder",
        "promotion",
    )
}
"""Its output is compared with eager."""
READING = "tables/"
"""Reading files and frames; the digest of a run covers the bars."""


def imported_by(name):
    """Files of the package that a file imports, also in functions, but not for types only."""
    todo, found = [ast.parse((PACKAGE / name).read_text())], set()
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module.startswith("forecaster"):
            base = node.module.replace(".", "/").removeprefix("forecaster").lstrip("/")
            found |= {f"{base}.py", *(f"{base}/{one.name}.py" for one in node.names)}
        todo += ast.iter_child_nodes(node)
    return {one for one in found if (PACKAGE / one).is_file()}


@pytest.fixture
def package(tmp_path):
    """A copy of the files that count."""
    for name in DECIDING:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / name, tmp_path / name)
    return tmp_path


def test_every_module_behind_a_forecast_counts():
    """Every module that prediction and calibration import counts, or is listed as computing no number."""
    todo, reached = list(FORECAST_MODULES), set()
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += imported_by(name)

    counted = {name for name in reached if not name.startswith(READING)}

    assert counted - NAMES_ONLY - COMPILER == set(DECIDING)
    assert reached >= NAMES_ONLY | COMPILER


@pytest.mark.parametrize("name", DECIDING)
def test_a_change_of_a_module_is_another_version(package, name):
    before = code._digest_of(package, ())
    with (package / name).open("a") as file:
        file.write("\n")

    assert code._digest_of(package, ()) != before


def test_modules_that_change_places_are_another_version(package):
    before = code._digest_of(package, ())
    (package / "bars.py").rename(package / "aside.py")
    (package / "forecast.py").rename(package / "bars.py")
    (package / "aside.py").rename(package / "forecast.py")

    assert code._digest_of(package, ()) != before


def test_another_library_is_another_version(package):
    versions = tuple(f"{name} 1" for name in LIBRARIES)
    others = [tuple("numpy 2" if one == name else one for one in versions) for name in versions]

    assert len({code._digest_of(package, one) for one in (versions, *others)}) == len(LIBRARIES) + 1


def test_version_of_the_package_itself(package):
    """What a replay is named by: a sha256, and the same in every process."""
    versions = tuple(f"{name} {code._version(name)}" for name in LIBRARIES)

    assert code_digest() == code._digest_of(package, versions)
    assert len(code_digest()) == 64
    assert not any(one.endswith(" none") for one in versions)


def test_library_that_is_not_installed_has_no_version():
    assert code._version("no-such-library") == "none"
