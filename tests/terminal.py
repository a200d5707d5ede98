"""Runs a command in a pseudo-terminal of a given size and returns what its screen shows.

`python -m tests.terminal --size 80x24 -- forecaster latest` prints what a command showed.
`python -m tests.terminal --screenshots docs/images` draws the screens in the docs.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyte
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HISTORY = 10_000
_SIZE = (80, 40)
_COLOURS = {"brown": "yellow", "default": None}
"""Colours of pyte that rich names otherwise."""


_SCREENSHOTS = {
    "demo": "demo",
    "latest": "latest --series 'arch SPX/USD 1d'",
    "accuracy": "accuracy",
    "replay": "replay --series 'arch SPX/USD 1d' --start 2018-01-01 --end 2019-01-01 --store replays.db",
}
"""Commands on one ledger, in this order; `demo` is drawn while it runs."""
_DEMO_CYCLE = "60/250"


class Recording(NamedTuple):
    """What a command showed.

    Args:
        code: exit code.
        lines: everything that was printed, with what has scrolled away, as plain text.
        frames: screens in the order in which they were shown, as plain text.
        first_output: seconds until the first visible character.
        screen: the last screen of pyte, with colours.
    """

    code: int
    lines: list[str]
    frames: list[list[str]]
    first_output: float
    screen: pyte.HistoryScreen


def record(
    command: Sequence[str],
    size: tuple[int, int],
    *,
    env: Mapping[str, str],
    folder: Path | None = None,
    until: str | None = None,
    timeout: float = 300,
) -> Recording:
    """Run a command in a terminal of `size` (columns, rows), in a folder.

    With `until`, it is ended once the screen shows that text.

    Raises:
        TimeoutError: when it does not end in time.
    """
    columns, rows = size
    screen = pyte.HistoryScreen(columns, rows, history=_HISTORY, ratio=1)
    screen.set_mode(pyte.modes.LNM)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    surroundings = {name: value for name, value in env.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    started, first_output = time.monotonic(), None
    frames: list[list[str]] = []
    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env={**surroundings, "TERM": "xterm-256color"}, cwd=folder
    ) as process:
        os.close(slave)
        while output := _read(master, process, started + timeout):
            stream.feed(output)
            frame = [line.rstrip() for line in screen.display]
            if any(frame):
                first_output = first_output or time.monotonic() - started
                if not frames or frame != frames[-1]:
                    frames.append(frame)
            if until is not None and any(until in line for line in frame):
                process.kill()
                break
        os.close(master)
    above = ["".join(line[column].data for column in range(columns)).rstrip() for line in screen.history.top]
    return Recording(process.returncode, [*above, *(frames[-1] if frames else [])], frames, first_output or 0.0, screen)


def draw(recording: Recording, path: Path, title: str) -> None:
    """Write the last screen as SVG."""
    screen = recording.screen
    last = max((row for row, line in enumerate(screen.display) if line.strip()), default=0)
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        console = Console(record=True, width=screen.columns, file=nothing, force_terminal=True)
        for row in range(last + 1):
            line = Text()
            for column in range(screen.columns):
                cell = screen.buffer[row][column]
                colour = _COLOURS.get(cell.fg, cell.fg)
                line.append(cell.data, f"{'bold ' if cell.bold else ''}{colour or ''}".strip())
            line.rstrip()
            console.print(line, no_wrap=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(path), title=title)


def _read(master: int, process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Return the next output; empty at the end."""
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                return os.read(master, 65_536)
            except OSError:  # how Linux reports that the other side is closed
                return b""
        if process.poll() is not None and not select.select([master], [], [], 0)[0]:
            return b""
    process.kill()
    msg = f"{process.args}: no end in time"
    raise TimeoutError(msg)


def main() -> None:
    """Record a command and print or draw its last screen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="80x24", help="COLUMNSxROWS")
    parser.add_argument("--screenshots", type=Path, help="folder for the screens in the docs")
    parser.add_argument("command", nargs="*")
    arguments = parser.parse_args()
    if arguments.screenshots is not None:
        _draw_screenshots(arguments.screenshots)
        return
    columns, rows = map(int, arguments.size.split("x"))
    recording = record(arguments.command, (columns, rows), env=os.environ)
    sys.stdout.write("\n".join(recording.lines) + "\n")
    sys.stderr.write(f"code {recording.code}, first output after {recording.first_output:.2f} s\n")


def _draw_screenshots(folder: Path) -> None:
    """Draw the commands of the docs at 80 × 40."""
    program = str(Path(sys.executable).with_name("forecaster"))
    environment = {name: value for name, value in os.environ.items() if name != "FORECASTER_CONFIG"}
    with tempfile.TemporaryDirectory() as place:
        for name, command in _SCREENSHOTS.items():
            words, until = [program, *shlex.split(command)], None
            if name == "demo":
                record(words, _SIZE, env=environment, folder=Path(place))
                words, until = [*words, "--out", "running"], _DEMO_CYCLE
            recording = record(words, _SIZE, env=environment, folder=Path(place), until=until)
            draw(recording, folder / f"terminal-{name}.svg", f"forecaster {command}")


if __name__ == "__main__":
    main()
