"""Runs commands in this process: what they print, and their exit code."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from typer.testing import CliRunner

from forecaster.cli import app

PROGRAM: Final = str(Path(sys.executable).with_name("forecaster"))
"""Path of the installed command, for tests that need a process."""


class Done(NamedTuple):
    """The result of a command."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def record(self) -> Any:
        """Its last line, parsed as JSON."""
        return json.loads(self.stdout.splitlines()[-1])


def forecaster(*arguments: object, cwd: Path | None = None, env: dict[str, str | None] | None = None) -> Done:
    """Run a command in a folder. None in `env` removes a variable. Unexpected exceptions are raised."""
    with contextlib.chdir(cwd or Path.cwd()):
        result = CliRunner().invoke(app, list(map(str, arguments)), env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def run_json(*arguments: object, cwd: Path | None = None) -> Any:
    """Run a command that must succeed; return its JSON."""
    done = forecaster(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.record


def error_line(*arguments: object, cwd: Path | None = None) -> str:
    """Run a command that must end with code 2; return its last line on standard error that is no log line."""
    done = forecaster(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    return [line for line in done.stderr.splitlines() if not line.startswith("{")][-1]
