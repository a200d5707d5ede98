"""What people install: a wheel with all that it needs, which runs from an empty folder without the checkout.

Dependencies are those of the environment that runs the tests, so that nothing large is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel
ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
NEEDED = [
    *(f"forecaster/embedded/config/{path.name}" for path in (ROOT / "config").glob("*.toml")),
    *(f"forecaster/embedded/trainingdata/{path.name}" for path in (ROOT / "trainingdata").glob("*.csv")),
    "forecaster/py.typed",
    *(f"forecaster/model/nano/{name}" for name in ("config.json", "model.safetensors", "MODEL_CARD.md")),
    *(str(path.relative_to(ROOT)) for path in (ROOT / "strategies").rglob("*.py")),
]


def run(*command, cwd):
    """Run a program that sees neither the checkout nor settings of whoever runs the tests."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FORECASTER", "PYTHON"))}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs of an environment with the wheel in it; the other packages are added behind it."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    run(*PIP, "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return folder / "bin"


def test_wheel_has_all_that_is_needed(wheel):
    """Settings, bars, weights and strategies come with it; tests and what was built do not."""
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())

    assert sorted(set(NEEDED) - names) == []
    assert len(NEEDED) > 10
    assert [name for name in names if name.startswith("tests/") or "__pycache__" in name] == []


def test_programs_are_those_of_the_wheel(installed, tmp_path):
    """And not of the checkout, which the environment that runs the tests has installed."""
    program = "import forecaster, strategies.trend; print(forecaster.__file__, strategies.trend.__file__, sep='\\n')"
    found = run(installed / "python", "-c", program, cwd=tmp_path).splitlines()

    assert len(found) == 2
    assert all(Path(one).is_relative_to(installed.parent) for one in found)


def test_installed_program_runs_in_an_empty_folder(installed, tmp_path):
    """Help, the embedded configuration, and a demo that forecasts, records and settles."""
    program = installed / "forecaster"
    helped = run(program, "--help", cwd=tmp_path)
    checked = json.loads(run(program, "config", "check", "--json", cwd=tmp_path))
    shown = json.loads(run(program, "demo", "--cycles", "2", "--json", cwd=tmp_path).splitlines()[-1])

    assert "demo" in helped
    assert (checked["ok"], checked["config"]) == (True, "embedded")
    assert shown["cycles"] == 2
    assert shown["forecasts"] > 0
    assert (tmp_path / "demo-report.html").exists()
