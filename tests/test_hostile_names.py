"""Names from outside are text: no control characters reach a terminal, no markup is parsed, JSON keeps them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from forecaster.accuracy.scores import Scores
from forecaster.cli import bars_printing, printing
from forecaster.daemon.live_view import CycleView
from forecaster.sources.summary import BarsSummary
from tests.builders import make_bars, make_key
from tests.cli import forecaster
from tests.test_engine import make_forecaster

HOSTILE = (
    "[red]",
    "[/]",
    "A[/USD]",
    "\x1b]0;x\x07",
    "\x9b31m",
    "<script>alert(1)</script>",
    "'; drop table bar --",
    "one\ntwo",
    "\u202egnp.exe",
    "\u061c\u2066\U000e0041",
)
PLACES = Path(printing.__file__).parent


def harmful(text: str) -> list[str]:
    """Return the control characters in a text."""
    return [char for char in text if not char.isprintable() and char != "\n"]


@pytest.fixture
def shown(capsys):
    """A function that returns what a call prints."""

    def shown(call, *arguments, **options) -> str:
        call(*arguments, **options)
        captured = capsys.readouterr()
        return captured.out + captured.err

    return shown


@pytest.mark.parametrize("name", HOSTILE)
def test_line_shows_a_name_without_control_characters(shown, name):
    text = shown(printing.say, f"series {name}: skipped", fg="red", err=True)

    assert not harmful(text)
    assert text.count("\n") == 1
    assert len(text) == len(f"series {name}: skipped") + 1


def test_tabs_and_ends_of_lines_are_spaces(shown):
    """Errors of libraries have several lines."""
    assert shown(printing.say, "not connected\n\tIs it there?") == "not connected  Is it there?\n"


def test_a_very_long_name_is_cut(shown):
    assert len(shown(printing.say, "x" * 10_000)) < 5_000


@pytest.mark.parametrize("count", [1, 7], ids=["blocks", "table"])
@pytest.mark.parametrize("width", ["40", "200"])
@pytest.mark.parametrize("name", [*HOSTILE, "x" * 10_000])
def test_blocks_and_tables_show_names(shown, monkeypatch, name, count, width):
    monkeypatch.setenv("COLUMNS", width)
    facts = BarsSummary(name, make_key(exchange=name), 0, rejected={name: 1}, parsed_as={"format": name})

    text = shown(bars_printing.print_summaries, [facts] * count)

    assert not harmful(text)
    assert "alert(1)" in text or "script" not in name


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 10_000])
def test_progress_shows_names(name):
    screen = io.StringIO()
    progress = printing.progress_bar()
    progress.add_task(name, total=1)
    Console(file=screen, width=200).print(progress.get_renderable())

    assert not harmful(screen.getvalue())
    assert name[:20] in screen.getvalue() or not name.isprintable()


@pytest.mark.parametrize("name", HOSTILE)
def test_the_live_view_shows_names(name):
    bars = make_bars(make_key(exchange=name), count=120)
    running = make_forecaster(bars)
    report = running.run_cycle(bars.key.timeframe, int(bars.close_time[-1]))
    late = make_bars(make_key(exchange=f"late {name}"), count=120)
    report.skipped[late.key] = f"[/] {name}"
    screen = io.StringIO()
    console = Console(file=screen, width=300, force_terminal=False)

    view = CycleView(console, running, Scores([]), 1)
    console.print(view.render(report))

    assert not harmful(screen.getvalue())
    assert "skipped: [/]" in screen.getvalue()


@pytest.mark.parametrize("name", [one for one in HOSTILE if "/" not in one])
def test_an_error_shows_a_path_and_json_keeps_it(tmp_path, name):
    path = tmp_path / f"{name}.csv"
    path.write_text(name)

    people = forecaster("bars", "inspect", path)
    scripts = forecaster("bars", "inspect", path, "--json")

    assert (people.returncode, scripts.returncode) == (2, 2)
    assert not harmful(people.stderr)
    assert people.stderr.count("\n") == 1
    assert scripts.record["errors"][0]["file"] == str(path)
    assert scripts.stdout.isascii()


def test_commands_print_through_one_place():
    """Only `printing` prints, as it replaces control characters; JSON is ASCII."""
    direct = re.compile(r"typer\.(?:echo|secho)\((?!json\.dumps)|(?<!\.)\bprint\(|\bProgress\(")
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in PLACES.glob("*.py")
        if path.name != "printing.py"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if direct.search(line)
    ]

    assert found == []
