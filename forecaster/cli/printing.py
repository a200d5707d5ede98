"""How commands show what they did: results on standard output, the log on standard error."""

from __future__ import annotations

import datetime as dt
import json
import math
import shutil
import textwrap
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal

import typer

from forecaster.errors import ConfigError, format_duration, format_time, printable
from forecaster.output_files import atomic_write
from forecaster.tables import FIELDS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    import pandas as pd
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn
    from rich.table import Table

    from forecaster.accuracy.assess import Assessment
    from forecaster.accuracy.scores import Scores
    from forecaster.accuracy.trust import Verdict
    from forecaster.bars import SeriesKey, ValidatedRows
    from forecaster.cli.evaluation import EvaluationReport, SeriesResult
    from forecaster.doctor import Finding
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import AccuracyReport
    from forecaster.sources.summary import BarsSummary, FileError

_WIDTH_OF_A_FILE: Final = 160
_WIDTH_OF_A_BLOCK: Final = 100
_UNLIMITED: Final = 1_000_000
_INDENT: Final = 15
"""Columns before the texts of a block."""
_FIXED_SPACE: Final = "\N{NO-BREAK SPACE}"
_DIGITS: Final = 7
"""Of a price that is forecast."""
_MOST_BLOCKS: Final = 5
"""How many series are described at length; more of them make a table."""

_MOST_NAMED: Final = 3
"""How many revised bars are named."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\n")
"""How cells begin that spreadsheets run, as OWASP lists them."""

SKIPPED: Final = frozenset({"series.skipped"})
"""Events of the log that `print_cycle` tells."""


def log_to_stderr(*, verbose: bool = True, without: frozenset[str] = frozenset()) -> None:
    """Set up the log; only warnings and worse unless `verbose`, and no events of the names `without`."""
    from forecaster.log import configure_logging

    configure_logging(verbose=verbose, without=without)


def print_record(record: Mapping[str, object], *, json_: bool) -> None:
    """Print a record as one line of JSON, or line by line for people."""
    if json_:
        say_json(dict(record))
        return
    for name, value in record.items():
        say(f"{name:20} {value}")


def print_cycle(as_of: int, record: dict[str, object], skipped: dict[str, str], *, json_: bool) -> None:
    """Print what was done to so many `series`, and why some were skipped; end with code 2 when all were.

    Scripts find the reasons in the JSON, people in a line for each series on standard error.
    """
    if json_:
        print_record({"as_of": as_of} | record | {"skipped": skipped}, json_=True)
    else:
        print_record({"as_of": format_time(as_of)} | record | {"skipped": len(skipped)}, json_=False)
        for name, reason in skipped.items():
            say(reason if name in reason else f"{name}: {reason}", fg="red", err=True)
    if len(skipped) == record["series"]:
        raise typer.Exit(2)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print what was looked at, one line each, and a line for each note; on a terminal a long line is wrapped."""
    width = _width(_UNLIMITED)
    for one in findings:
        lines = [("ok" if one.ok else "WRONG", one.finding), *(("note", text) for text in one.notes)]
        for kind, text in lines:
            line = printable(f"{kind:5}  {one.subject}: {text}")
            colour = {"WRONG": "red", "note": "yellow"}.get(kind)
            for part in _wrapped(line, width, " " * 7):
                say(part, fg=colour)


def write_frames(frames: Iterable[pd.DataFrame], out: Path) -> int:
    """Write frames of the same columns to one file, of the kind that its name ends in; returns how many lines.

    The file appears when it is whole.

    Raises:
        ConfigError: for another ending.
    """
    writers = {".parquet": _write_parquet, ".feather": _write_feather, ".csv": _write_csv}
    if out.suffix not in writers:
        raise ConfigError("out", "a file that ends in .parquet, .feather or .csv", str(out))
    with atomic_write(out) as file:
        return writers[out.suffix](frames, file)


def _write_parquet(frames: Iterable[pd.DataFrame], out: IO[bytes]) -> int:
    import pyarrow.parquet as pq

    return _write_tables(frames, out, pq.ParquetWriter)


def _write_feather(frames: Iterable[pd.DataFrame], out: IO[bytes]) -> int:
    import pyarrow as pa

    return _write_tables(frames, out, pa.ipc.new_file)


def _write_tables(frames: Iterable[pd.DataFrame], out: IO[bytes], opened: Callable[[IO[bytes], Any], Any]) -> int:
    """Write frames as tables of one schema, that of the first; a file of no lines where there is none."""
    import pyarrow as pa

    count, writer = 0, None
    for frame in frames:
        table = pa.Table.from_pandas(frame, preserve_index=False)
        writer = writer or opened(out, table.schema)
        writer.write_table(table.cast(writer.schema) if hasattr(writer, "schema") else table)
        count += len(frame)
    if writer is None:
        writer = opened(out, pa.schema([]))
    writer.close()
    return count


def _write_csv(frames: Iterable[pd.DataFrame], out: IO[bytes]) -> int:
    """Write lines of text; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    count = 0
    for frame in frames:
        texts = frame.select_dtypes(["object", "string"]).map(_as_text)
        out.write(frame.assign(**texts).to_csv(index=False, header=not count).encode())
        count += len(frame)
    return count


def _as_text(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    cell = cell.replace("\r", " ")  # which the csv writer does not quote: what follows it would be a line
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def say(text: object = "", *, fg: str | None = None, bold: bool | None = None, err: bool = False) -> None:
    """Print one line for people, whatever is in the text."""
    typer.secho(printable(text), fg=fg, bold=bold, err=err)


def say_json(record: object) -> None:
    """Print one line for scripts: characters beyond ASCII are escaped."""
    typer.echo(json.dumps(record))


def progress_bar(*columns: ProgressColumn, transient: bool = False) -> Progress:
    """Give progress bars on standard error whose names are shown as they are; `columns` in place of the usual ones."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    shown = columns or (BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(_name_column(), *shown, console=Console(stderr=True), transient=transient)


def _name_column() -> ProgressColumn:
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Name(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(printable(task.description))

    return Name()


def option_time(time_ms: int) -> str:
    """Give a time as options take it: a date, with the time of day where that is not midnight (UTC)."""
    when = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    return when.strftime("%Y-%m-%d" if when.time() == dt.time() else "%Y-%m-%dT%H:%M")


def end_text(last_close: int) -> str:
    """Say when a file ends (UTC ms) that has no bar for today's forecast, and what can be made of it."""
    when = option_time(last_close)
    return (
        f"the file ends on {format_time(last_close)}: no forecast today; "
        f"`--as-of {when}` gives its last one, `forecaster replay` its past"
    )


def leave_with_errors(errors: Sequence[FileError], *, json_: bool) -> None:
    """End with code 2 if files cannot be used, and name them to people: scripts have them in the JSON."""
    for one in () if json_ else errors:
        place = " ".join(part for part in (one.file, one.series) if part not in one.reason)
        say(f"{place}: {one.reason}" if place else one.reason, fg="red", err=True)
    if errors:
        raise typer.Exit(2)


def print_refused(name: str, sifted: ValidatedRows) -> None:
    """Say on standard error what a file holds of a series that is not used, and why."""
    from forecaster.sources.summary import count_reasons

    rows = len(sifted.bars) + sifted.replaced + len(sifted.rejected)
    if sifted.rejected:
        text = f"{name}: {len(sifted.rejected):,} of {rows:,} rows are refused"
        print_reasons(text, count_reasons(sifted.rejected))
    if sifted.unclosed:
        say(f"{name}: {unclosed_text(sifted.unclosed)}", fg="yellow", err=True)


def print_files(read: Mapping[SeriesKey, ValidatedRows], as_of: int) -> None:
    """Say on standard error what of files is not used, and which of them end before the newest bar of `as_of`.

    Series that end at the same time share a line.
    """
    from forecaster.sources.summary import is_up_to_date

    ends: dict[str, list[str]] = {}
    for key, sifted in read.items():
        print_refused(str(key), sifted)
        if len(sifted.bars) and not is_up_to_date(sifted.bars, as_of):
            ends.setdefault(end_text(int(sifted.bars.close_time[-1])), []).append(str(key))
    for text, names in ends.items():
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        say(f"{names[0]}{more}: {text}", fg="yellow", err=True)


def refused_of(read: Mapping[SeriesKey, ValidatedRows]) -> dict[str, object]:
    """What of files is not used, and why, for scripts."""
    from forecaster.sources.summary import count_reasons

    return {
        "rejected": {str(key): count_reasons(one.rejected) for key, one in read.items() if one.rejected},
        "unclosed": {str(key): one.unclosed for key, one in read.items() if one.unclosed},
    }


def print_reasons(text: str, reasons: Mapping[str, int]) -> None:
    """Print on standard error how many rows are refused, and why."""
    why = "; ".join(f"{count:,} × {reason}" for reason, count in reasons.items())
    say(f"{text}: {why}", fg="yellow", err=True)


def revised_text(open_times: Sequence[int]) -> str:
    """Say which bars behind a forecast were revised after it was made."""
    first = ", ".join(map(format_time, open_times[:_MOST_NAMED]))
    more = len(open_times) - _MOST_NAMED
    named = f"{first} and {more:,} more" if more > 0 else first
    bars, were = ("1 bar", "was") if len(open_times) == 1 else (f"{len(open_times):,} bars", "were")
    return f"{bars} behind this forecast {were} revised later; do not rely on it: {named}"


def left_text(ms: int) -> str:
    """Write how much time is left, in its two largest units: `1d 3h`, `59m 40s`."""
    return " ".join(format_duration(ms // 1000 * 1000).split()[:2])


def print_facts(found: Sequence[BarsSummary]) -> None:
    """Print what files or the store hold: a block for each series, or for each file and a table where they are many."""
    if len(found) <= _MOST_BLOCKS:
        for one in found:
            _print_block(Path(one.source).name, _facts_lines(one))
        return
    files = {one.source: one.parsed_as for one in found if one.parsed_as}
    if len(files) <= _MOST_BLOCKS:
        for place, parsed_as in files.items():
            _print_block(Path(place).name, parsed_as.items())
    else:
        say("--json says how each file is read, as do fewer files")
    _print_facts_table(found)


def _facts_lines(one: BarsSummary) -> list[tuple[str, str]]:
    """What is known of a series, as names and texts; a name that is empty goes on with the one above it."""
    key, reasons = one.series, one.reasons
    lines = [("series", _because(f"{key.exchange} {key.symbol}", reasons.get("symbol"))), *one.parsed_as.items()]
    lines += [
        ("timeframe", _because(str(key.timeframe), reasons.get("spacing"))),
        ("calendar", _because(key.calendar, reasons.get("calendar"))),
        ("bars", f"{one.bars:,}"),
    ]
    if one.first_open is not None and one.last_close is not None:
        lines += [("from", format_time(one.first_open)), ("to", format_time(one.last_close))]
    longest = f" slots without a bar, {one.longest_gap:,} in a row at most" if one.gaps else ""
    lines += [("gaps", f"{one.gaps:,}{longest}"), ("revised", f"{one.revised:,}")]
    lines += [("refused", f"{sum(one.rejected.values()):,}")]
    lines += [("", f"{count:,} × {reason}") for reason, count in one.rejected.items()]
    return lines + [("note", text) for text in _remarks(one)]


def _remarks(one: BarsSummary) -> list[str]:
    """What a reader of a file should know beside the counts."""
    remarks = [*one.notes]
    if one.unclosed:
        remarks.append(unclosed_text(one.unclosed))
    if not one.is_up_to_date and one.last_close is not None:
        remarks.append(end_text(one.last_close))
    return remarks


def _print_facts_table(found: Sequence[BarsSummary]) -> None:
    """Print one line for each series, and below it why rows were refused."""
    table = _table(
        "a gap is a slot without a bar; the longest run of them is in brackets",
        ("place", "series", "calendar", "bars", "from", "to", "gaps", "refused"),
        left={"place", "series", "calendar"},
        folded={"place", "series"},
    )
    for one in found:
        series = (Path(one.source).name, f"{one.series.symbol} {one.series.timeframe}", one.series.calendar)
        gaps = f"{one.gaps} ({one.longest_gap})" if one.gaps else "0"
        counts = (f"{one.bars:,}", _day(one.first_open), _day(one.last_close), gaps, f"{sum(one.rejected.values()):,}")
        _add(table, *series, *counts)
    _print(table)
    said = [
        (Path(one.source).name, text, one.series.symbol)
        for one in found
        for text in (*(f"{count:,} × {reason}" for reason, count in one.rejected.items()), *_remarks(one))
    ]
    alike = Counter((place, text) for place, text, _ in said)
    for (place, text), symbol in {(place, text): symbol for place, text, symbol in said}.items():
        count = alike[place, text]
        say(f"{place} {symbol if count == 1 else f'({count:,} series)'}: {text}")


def _print_block(title: str, lines: Iterable[tuple[str, str]]) -> None:
    """Print names and texts side by side under a title; a long text goes on below itself."""
    say(title, bold=True)
    width = max(min(_console().width, _WIDTH_OF_A_BLOCK) - _INDENT, _INDENT)
    for name, text in lines:
        rows = _wrapped(printable(text), width)
        for head, row in zip_longest((printable(name),), rows, fillvalue=""):
            say(f"  {head:{_INDENT - 2}}{row}")


def _because(value: str, reason: str | None) -> str:
    return f"{value} ({reason})" if reason else value


def unclosed_text(count: int) -> str:
    """Say that rows of a file had not closed yet."""
    return f"{count:,} {'row' if count == 1 else 'rows'} had not closed yet: left out"


def print_forecast(forecast: OHLCForecast, levels: Sequence[float]) -> None:
    """Print a forecast as a table: for each target bar, quantiles of its prices."""
    say(f"{forecast.key}: after the bar that closed at {format_time(forecast.cutoff)}", bold=True)
    table = _table(
        "",
        ("bar opens (UTC)", "price", *(f"{level:.0%}" for level in levels)),
        left={"bar opens (UTC)", "price"},
    )
    by_level = [forecast.quantiles(level) for level in levels]
    decimals = max(0, _DIGITS - 1 - math.floor(math.log10(by_level[-1].max())))
    for step, opened in enumerate(forecast.target_opens().tolist()):
        for place, field in enumerate(FIELDS):
            prices = (f"{of_level[place, step]:.{decimals}f}" for of_level in by_level)
            _add(table, "" if place else _minute(opened), field, *prices)
    _print(table)


def print_scores(scores: Scores) -> None:
    """Print how the next bar was forecast."""
    print_reports([one for one in scores.reports() if one.step == 1])


def print_reports(reports: Sequence[AccuracyReport]) -> None:
    """Print accuracy as a table, one line for each report."""
    skills = ("skill MAE", "skill CRPS")
    table = _table(
        "accuracy, losses in price; skill is 1 - loss / the random walk's",
        ("series", "model", "step", "field", "n", "MAE", "MASE", "CRPS", *skills, "50%", "80%", "98%"),
        left={"series", "model", "field"},
    )
    for one in reports:
        where = (str(one.key), one.model_id.name, str(one.step), one.field)
        losses = (f"{one.mae:.4g}", *(_number(loss) for loss in (one.mase, one.crps)))
        known = one.skill_mae is None and one.n_common > 0
        gained = ("known" if known else _signed(skill) for skill in (one.skill_mae, one.skill_crps))
        inside = (_percent(share) for share in (one.coverage50, one.coverage80, one.coverage98))
        _add(table, *where, str(one.n), *losses, *gained, *inside)
    _print(table)
    if any(one.skill_mae is None and one.n_common for one in reports):
        say("known: the price is the last close, so no skill can be told")


def print_verdicts(verdicts: Sequence[Verdict], found: Assessment, era: str = "all") -> None:
    """Print what the past proves, one line for each series and model, served and as the model gave it.

    A star stands before models that no other surely beats on their series.
    """
    references = ", ".join(dict.fromkeys(one.reference.replace("_", " ") for one in verdicts))
    table = _table(
        f"{'' if era == 'all' else f'{era}: '}pinball loss beside the {references}; skill above 0 is better; "
        "* no other model is surely better",
        ("series", "model", "form", "cutoffs", "skill", "95% interval", "in 80%", "verdict"),
        left={"series", "model", "form", "verdict"},
    )
    for one in verdicts:
        name = one.model_id.name
        star = "*" if one.variant == "served" and one.model_id in found.model_confidence_set[one.key] else " "
        interval = "–" if one.lower is None or one.upper is None else f"{one.lower:+.3f} to {one.upper:+.3f}"
        inside = _percent(found.coverage80[one.key, one.model_id, one.variant])
        words = "" if name == one.reference and one.variant == "served" else one.summary
        _add(table, str(one.key), f"{star} {name}", one.variant, str(one.n), _signed(one.skill), interval, inside, words)
    _print(table)


def print_evaluation(report: EvaluationReport, *, steps: bool) -> None:
    """Print how a model did on each file as tables, and below them what it comes to."""
    table = _table(
        f"{report.model}: losses over those of baselines; below 1 is better",
        ("series", "bars", "cutoffs", "pinball", "p", "close MAE", "p", "invalid"),
        left={"series", "bars"},
    )
    for one in report.series:
        ratios = (_number(one.pinball_ratio), _number(one.pinball_p), _number(one.mae_close_ratio))
        invalid = f"{one.invalid_before_repair:.1%}"
        _add(table, one.name, one.timeframe, str(one.cutoffs), *ratios, _number(one.mae_close_p), invalid)
    _print(table)
    _print_coverage(report)
    if steps:
        for one in report.series:
            _print_steps(one)
    say(
        "pinball: over the filtered historical simulation's; close MAE: over the random walk's; p: Diebold-Mariano, "
        "two-sided; invalid: forecast bars that are impossible before they are repaired"
    )
    say(report.verdict, bold=True)


def _print_coverage(report: EvaluationReport) -> None:
    table = _table(
        "outcomes inside central intervals",
        ("series", "field", "in 50%", "in 80%", "in 90%", "in 98%"),
        left={"series", "field"},
    )
    for one in report.series:
        widths = (one.coverage50, one.coverage80, one.coverage90, one.coverage98)
        for field in one.coverage50:
            _add(table, one.name, field, *(f"{inside[field]:.1%}" for inside in widths))
    _print(table)


def _print_steps(result: SeriesResult) -> None:
    table = _table(
        f"{result.name} by field and step: losses in units of the last close",
        ("field", "step", "pinball", "ratio", "p", "MAE", "ratio", "in 50%", "in 80%", "in 90%", "in 98%"),
        left={"field"},
    )
    for one in result.steps:
        losses = (f"{one.pinball:.3g}", _number(one.pinball_ratio), _number(one.pinball_p))
        errors = (f"{one.mae:.3g}", _number(one.mae_ratio))
        inside = (one.coverage50, one.coverage80, one.coverage90, one.coverage98)
        _add(table, one.field, str(one.step), *losses, *errors, *(f"{share:.1%}" for share in inside))
    _print(table)


def _day(time_ms: int | None) -> str:
    return "–" if time_ms is None else dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).strftime("%Y-%m-%d")


def _minute(time_ms: int) -> str:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M")


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _table(title: str, columns: Collection[str], left: Collection[str], folded: Collection[str] = ()) -> Table:
    """Make a table whose columns hold numbers, but those of `left`; those of `folded` may take several lines."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=printable(title) or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False
    )
    for name in columns:
        justify: Literal["left", "right"] = "left" if name in left else "right"
        table.add_column(name, justify=justify, no_wrap=name not in folded, overflow="fold")
    return table


def _add(table: Table, *cells: object) -> None:
    """Add a row, whatever is in its cells."""
    table.add_row(*map(printable, cells))


def _print(table: Table) -> None:
    """Print a table; where it is wider than the terminal, its rows as blocks."""
    from rich.measure import Measurement

    console = _console()
    if Measurement.get(console, console.options.update(width=_UNLIMITED), table).minimum <= console.width:
        console.print(table)
        return
    for line in (*_wrapped(str(table.title or ""), console.width), *_as_blocks(table, console.width)):
        say(line)


def _as_blocks(table: Table, width: int) -> Iterator[str]:
    """Write each row as its names, and below them its numbers, each beside the name of its column."""
    for row in zip(*(column.cells for column in table.columns), strict=True):
        texts: list[str] = []
        figures: list[str] = []
        for column, cell in zip(table.columns, map(str, row), strict=True):
            if column.justify == "left":
                texts.append(cell)
            else:
                figures.append(f"{column.header} {cell}".replace(" ", _FIXED_SPACE))
        yield from _wrapped("  ".join(texts), width, "  ")
        for line in _wrapped(f"  {'  '.join(figures)}", width, "  "):
            yield line.replace(_FIXED_SPACE, " ")


def _console() -> Console:
    """Give what prints tables: brackets in them are no markup, and a file is wide."""
    from rich.console import Console

    return Console(markup=False, emoji=False, width=_width(_WIDTH_OF_A_FILE))


def _width(of_a_file: int) -> int:
    """Columns of the terminal, or what COLUMNS says; `of_a_file` where neither is there."""
    return shutil.get_terminal_size((of_a_file, 24)).columns


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text at its spaces into lines; later ones are indented, and a long word stays whole."""
    lines = textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return lines or [""]
