"""The command line in this process: what a command prints, and the code that it ends with."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from typer.testing import CliRunner

from forecaster.cli import app

PROGRAM: Final = str(Path(sys.executable).with_name("forecaster"))
"""The command as it is installed, for tests that need a process."""


class Done(NamedTuple):
    """A command that ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def record(self) -> Any:
        """What it printed for scripts: its last line, as JSON."""
        return json.loads(self.stdout.splitlines()[-1])


def forecaster(*arguments: object, cwd: Path | None = None, env: dict[str, str | None] | None = None) -> Done:
    """Run a command in a folder; None in `env` takes a variable away. What it did not foresee is raised here."""
    with contextlib.chdir(cwd or Path.cwd()):
        result = CliRunner().invoke(app, list(map(str, arguments)), env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def told(*arguments: object, cwd: Path | None = None) -> Any:
    """Run a command that must succeed; gives its JSON."""
    done = forecaster(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.record


def refused(*arguments: object, cwd: Path | None = None) -> str:
    """Run a command that must end with code 2; gives its last line for people."""
    done = forecaster(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    return [line for line in done.stderr.splitlines() if not line.startswith("{")][-1]
