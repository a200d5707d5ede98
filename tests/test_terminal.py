"""What people see in a terminal: commands at 80 × 24 and 120 × 40, with nothing cut and no broken frame."""

from __future__ import annotations

import os
import re

import pytest

from tests.cli import PROGRAM
from tests.terminal import draw, record

pytestmark = pytest.mark.processes

SIZES = {"80x24": (80, 24), "120x40": (120, 40)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The ledger of a demo that is long enough for verdicts."""
    path = tmp_path_factory.mktemp("terminal")
    run(path, (80, 24), "demo", "--cycles", "60")
    return path


def run(folder, size, *arguments):
    """Run a command in a terminal, in a folder with the ledger of the demo."""
    environment = {**os.environ, "HOME": str(folder)}
    environment.pop("FORECASTER_CONFIG", None)
    return record([PROGRAM, *arguments], size, env=environment, folder=folder)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_demo(tmp_path, size):
    """The first line within seconds; then one view that grows no taller than the terminal; nothing torn."""
    done = run(tmp_path, size, "demo", "--cycles", "8")
    views = [frame for frame in done.frames if any("next forecast" in line for line in frame)]

    assert done.code == 0
    assert done.frames[0][0] == "using the embedded demo configuration"
    assert len(views) >= 4
    for frame in views:
        text = "\n".join(frame)
        assert text.count("next forecast") == 1
        assert len(re.findall(r" \d/8 ", text)) <= 1
        assert "…" not in text.replace("loading the model …", "")
    assert "8/8" in "\n".join(done.lines)
    assert sum("next forecast" in line for line in done.lines) == 1


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_latest(folder, size):
    done = run(folder, size, "latest")
    rows = [line for line in done.lines if line.startswith("2017-")]

    assert done.code == 0
    assert "bar opens (UTC)      close  80% from    80% to      open      high       low" in done.lines
    assert len(rows) == 20
    assert all(len(row.split()) == 8 for row in rows)
    assert any("stale" in line for line in done.lines)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_accuracy(folder, size):
    """Skill and verdict stand in each row, whole."""
    done = run(folder, size, "accuracy")
    text = " ".join(" ".join(done.lines).split())

    assert done.code == 0
    assert "skill" in text
    assert "verdict" in text
    assert sum("nano" in line and ("+0." in line or "-0." in line) for line in done.lines) >= 4
    assert "(p" in text
    assert "…" not in text


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_replay(folder, size):
    done = run(folder, size, "replay", "--start", "2018-01-01", "--end", "2018-03-01", "--store", "replays.db")
    text = "\n".join(done.lines)

    assert done.code == 0
    assert "skill MAE" in " ".join(text.split())
    assert "cutoffs_per_second" in text
    assert "…" not in text


def test_screen_is_drawn(folder, tmp_path):
    done = run(folder, (80, 24), "latest")
    draw(done, tmp_path / "latest.svg", "forecaster latest")

    assert (tmp_path / "latest.svg").read_text(encoding="utf-8").startswith("<svg")
