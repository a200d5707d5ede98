"""The tiers of the suite: `fast` is what people run, each further part needs processes, compilers or other programs.

`python -m tests.parts` (`make test-all`) runs them one after the other and ends with one line; it goes on where a part
fails, and then ends with code 1. A test has the part whose marker it carries, and is `fast` without one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parent.parent
FAST = "fast"
PARTS = {
    "adapters": "freqtrade, nautilus_trader and backtesting.py, each in an environment of its own",
    "wheel": "builds the wheel, installs it, and runs what is in it",
    "ray": "replays on Ray",
    "browser": "pages in Chromium",
    "postgres": "the store on PostgreSQL",
    "gpu": "needs a CUDA device",
    "docs": "runs what README and docs print",
    "training": "trains and tunes models",
    "compiler": "builds code with Inductor",
    "processes": "starts processes: commands, services, writers that are killed",
}
"""What each part is. A test with the markers of two has the one that stands first."""
ADAPTERS = ("freqtrade", "nautilus", "backtesting_py")
WORKERS = {"compiler": 1, "training": 1, "wheel": 1, "ray": 1, "adapters": 0, "postgres": 1}


class Outcome(NamedTuple):
    """A part that was run."""

    name: str
    passed: int
    failed: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether tests were run, and all passed."""
        return self.passed > 0 and not self.failed

    def __str__(self) -> str:
        """Write a line of the table."""
        verdict = "ok" if self.ok else "FAILED"
        return f"{self.name:10} {verdict:6} {self.passed:6,} passed {self.failed:4,} failed {self.seconds:8.0f} s"


def run_part(name: str, arguments: Sequence[str]) -> Outcome:
    """Run a part; gives how many tests passed and failed. A test that was skipped, or a run that broke, failed."""
    started = time.monotonic()
    passed = failed = 0
    for command in _commands(name):
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            code = subprocess.run([*command, f"--junit-xml={report}", *arguments], cwd=ROOT, check=False).returncode
            suites = ET.parse(report).getroot() if report.exists() else []  # noqa: S314 - pytest wrote it
            ran, bad = (sum(int(suite.get(key, 0)) for suite in suites for key in keys) for keys in _COUNTS)
        passed += ran - bad
        failed += bad or code not in {0, _NOTHING_RAN}
    return Outcome(name, passed, failed, time.monotonic() - started)


_COUNTS = (("tests",), ("failures", "errors", "skipped"))
_NOTHING_RAN = 5


def _commands(name: str) -> Iterator[list[str]]:
    """Install what a part needs; gives the commands that run it."""
    options = ["-m", "pytest", "-q", "--durations=5", f"--part={name}"]
    if name == "adapters":
        for framework in ADAPTERS:
            _make(f".venv-adapters/{framework}/installed")
            yield [f".venv-adapters/{framework}/bin/python", *options, f"tests/adapters/test_{framework}.py"]
        return
    if name == "ray":
        _make(".venv/ray-installed")
    yield [sys.executable, *options, "-n", str(WORKERS.get(name, os.cpu_count() or 1))]


def _make(target: str) -> None:
    subprocess.run(["make", target], cwd=ROOT, check=True)  # noqa: S607 - the one on the path


def parse(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Give the parts that a command line names, all but `gpu` when it names none, and what is for pytest."""
    known = [FAST, *PARTS]
    listed = "\n".join(f"  {name:10} {what}" for name, what in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.parts",
        description=__doc__,
        epilog=f"parts:\n  {FAST:10} everything else, in this process\n{listed}\n\nwhat follows -- goes to pytest",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="*", help="all of them but gpu, if none is named")
    end = words.index("--") if "--" in words else len(words)
    given = parser.parse_args(words[:end])
    unknown = sorted(set(given.part) - set(known))
    if unknown:
        parser.error(f"expected any of {', '.join(known)}, found {', '.join(unknown)}")
    return given.part or [name for name in known if name != "gpu"], list(words[end + 1 :])


def main() -> None:
    """Run parts and say how each ended."""
    parts, arguments = parse(sys.argv[1:])
    outcomes = []
    for name in parts:
        outcomes.append(run_part(name, arguments))
        sys.stdout.write(f"{outcomes[-1]}\n")
        sys.stdout.flush()
    minutes = sum(one.seconds for one in outcomes) / 60
    passed, failed = sum(one.passed for one in outcomes), sum(one.failed for one in outcomes)
    lines = "\n".join(map(str, outcomes))
    sys.stdout.write(f"\n{lines}\n{len(outcomes)} parts: {passed:,} passed, {failed:,} failed, {minutes:.1f} min\n")
    if not all(one.ok for one in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
