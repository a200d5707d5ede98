"""Which parts a command line runs, and which part a test belongs to."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.parts import FAST, PARTS, Outcome, parse

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("words", "parts", "rest"),
    [
        ([], [FAST, *(name for name in PARTS if name != "gpu")], []),
        (["docs", "wheel", "--", "-k", "kill"], ["docs", "wheel"], ["-k", "kill"]),
        (["--", "-x"], [FAST, *(name for name in PARTS if name != "gpu")], ["-x"]),
    ],
    ids=["all", "some", "all, an option"],
)
def test_parts_of_a_command_line(words, parts, rest):
    assert (sorted(parse(words)[0]), parse(words)[1]) == (sorted(parts), rest)


def test_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        parse(["doc"])

    assert "expected any of fast, " in capsys.readouterr().err


@pytest.mark.parametrize(("passed", "failed", "ok"), [(3, 0, True), (3, 1, False), (0, 0, False)])
def test_a_part_is_well_only_if_tests_ran(passed, failed, ok):
    assert Outcome("docs", passed, failed, 1.0).ok is ok


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run([sys.executable, "-c", ""], check=True),
        lambda: os.system("true"),  # noqa: S605, S607 - it is refused
        lambda: os.fork() or os._exit(0),
        lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
    ],
    ids=["subprocess", "system", "fork", "multiprocessing"],
)
def test_fast_test_that_starts_a_process_is_refused(start, refusals):
    with pytest.raises(RuntimeError, match="needs the marker of a part"):
        start()

    assert len(refusals) == 1


@pytest.fixture
def refusals():
    """What was refused; it counts no longer when the test is over."""
    yield conftest._started
    conftest._started.clear()


def test_targets_of_mutants_exist():
    """Read as text: mutmut and libcst are not installed with the others."""
    text = (ROOT / "tests" / "mutants.py").read_text(encoding="utf-8")
    modules = re.findall(r'Target\(\s*"([\w.]+)"', text)
    tests = re.findall(r'"(tests/[\w/]+\.py)"', text)

    assert [name for name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []
    assert [path for path in tests if not (ROOT / path).exists()] == []
    assert (len(modules) > 8, len(tests) > 6) == (True, True)
