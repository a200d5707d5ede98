"""How commands print: results on standard output, messages on standard error. Everything printed goes through here."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import TYPE_CHECKING, Final

import typer

from forecaster.errors import printable
from forecaster.formatting import format_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.progress import Progress, ProgressColumn

    from forecaster.doctor import Finding
    from forecaster.sources.summary import FileError

_FILE_WIDTH: Final = 160
_UNLIMITED: Final = 1_000_000
_NAME_WIDTH: Final = 20

SKIP_EVENTS: Final = frozenset({"series.skipped"})
"""Log events that `print_cycle` reports itself."""


def log_to_stderr(*, verbose: bool = True, without: frozenset[str] = frozenset()) -> None:
    """Set up the log on standard error.

    Args:
        verbose: whether to log more than warnings and errors.
        without: names of events that are left out.
    """
    from forecaster.log import configure_logging

    configure_logging(verbose=verbose, without=without)


def say(
    text: object = "", *, fg: str | None = None, bold: bool | None = None, err: bool = False, indent: str | None = ""
) -> None:
    """Print a line for people, wrapped on a terminal; control characters in it are replaced.

    Args:
        text: the line.
        fg: colour.
        bold: whether it is bold.
        err: whether to print on standard error.
        indent: before the lines that follow the first one; None to wrap nothing, as in commands.
    """
    line = printable(text)
    for part in [line] if indent is None else wrapped(line, terminal_width(_UNLIMITED), indent):
        typer.secho(part, fg=fg, bold=bold, err=err)


def say_json(record: object) -> None:
    """Print one line of JSON, in ASCII."""
    typer.echo(json.dumps(record))


def print_record(record: Mapping[str, object], *, json_: bool) -> None:
    """Print a record as one line of JSON, or as a name and a value per line."""
    if json_:
        say_json(dict(record))
        return
    for name, value in record.items():
        say(f"{name:{_NAME_WIDTH}} {format_value(value)}", indent=" " * (_NAME_WIDTH + 1))


def print_findings(findings: Iterable[Finding]) -> None:
    """Print a line for each finding and each of its notes."""
    for finding in findings:
        lines = [("ok" if finding.ok else "WRONG", finding.finding), *(("note", note) for note in finding.notes)]
        for kind, text in lines:
            colour = {"WRONG": "red", "note": "yellow"}.get(kind)
            say(f"{kind:5}  {finding.subject}: {text}", fg=colour, indent=" " * 7)


def exit_with_errors(errors: Sequence[FileError], *, json_: bool) -> None:
    """End with code 2 if files cannot be used. Print the errors, unless they are in the JSON."""
    for error in () if json_ else errors:
        place = " ".join(part for part in (error.file, error.series) if part not in error.reason)
        say(f"{place}: {error.reason}" if place else error.reason, fg="red", err=True)
    if errors:
        raise typer.Exit(2)


def progress_bar(*columns: ProgressColumn, transient: bool = False) -> Progress:
    """Make progress bars on standard error.

    Args:
        columns: columns after the name, in place of bar, percentage and time left.
        transient: whether the bars disappear at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    shown = columns or (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(_name_column(), *shown, console=Console(stderr=True), transient=transient)


def _name_column() -> ProgressColumn:
    """Make a column that shows names as they are, without markup."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Name(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(printable(task.description))

    return Name()


def terminal_width(of_a_file: int = _FILE_WIDTH) -> int:
    """Return the columns of the terminal, or what COLUMNS says; `of_a_file` when neither is known."""
    return shutil.get_terminal_size((of_a_file, 24)).columns


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text at its spaces into lines. Later ones are indented; a long word stays whole."""
    lines = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return lines or [""]
