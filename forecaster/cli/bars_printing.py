"""How commands print what files and the store hold."""

from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Final

from forecaster.cli.printing import say, terminal_width, wrapped
from forecaster.cli.text_table import TextTable, text
from forecaster.errors import format_time, printable
from forecaster.formatting import format_date, option_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from forecaster.bars import SeriesKey, ValidatedRows
    from forecaster.sources.summary import BarsSummary

_BLOCK_WIDTH: Final = 100
_INDENT: Final = 15
_MAX_BLOCKS: Final = 5
"""Number of series that are printed as blocks; more are printed as a table."""


def print_summaries(summaries: Sequence[BarsSummary]) -> None:
    """Print what files or the store hold: a block for each series; of many, a block for each file and a table."""
    if len(summaries) <= _MAX_BLOCKS:
        for summary in summaries:
            _print_block(Path(summary.source).name, _summary_lines(summary))
        return
    files = {summary.source: summary.parsed_as for summary in summaries if summary.parsed_as}
    if len(files) <= _MAX_BLOCKS:
        for source, parsed_as in files.items():
            _print_block(Path(source).name, parsed_as.items())
    else:
        say(f"for how a file is read, pass --json, or at most {_MAX_BLOCKS} files")
    _print_summary_table(summaries)


def print_rejected(name: str, rows: ValidatedRows) -> None:
    """Print on standard error which rows of a series in a file are not used, and why."""
    from forecaster.sources.summary import count_reasons

    total = len(rows.bars) + rows.replaced + len(rows.rejected)
    if rows.rejected:
        why = "; ".join(f"{count:,} × {reason}" for reason, count in count_reasons(rows.rejected).items())
        say(f"{name}: {len(rows.rejected):,} of {total:,} rows rejected: {why}", fg="yellow", err=True)
    if rows.unclosed:
        say(f"{name}: {unclosed_message(rows.unclosed)}", fg="yellow", err=True)


def print_files(rows_by_key: Mapping[SeriesKey, ValidatedRows], as_of: int) -> None:
    """Print on standard error which rows of files are not used, and which files end before `as_of` (UTC ms).

    Series that end at the same time share a line.
    """
    from forecaster.sources.summary import is_up_to_date

    ended: dict[str, list[str]] = {}
    for key, rows in rows_by_key.items():
        print_rejected(str(key), rows)
        if len(rows.bars) and not is_up_to_date(rows.bars, as_of):
            ended.setdefault(file_end_message(int(rows.bars.close_time[-1])), []).append(str(key))
    for message, names in ended.items():
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        say(f"{names[0]}{more}: {message}", fg="yellow", err=True)


def unused_rows(rows_by_key: Mapping[SeriesKey, ValidatedRows]) -> dict[str, object]:
    """Return the rows of files that are not used as JSON: `rejected` by series and reason, `unclosed` by series."""
    from forecaster.sources.summary import count_reasons

    return {
        "rejected": {str(key): count_reasons(rows.rejected) for key, rows in rows_by_key.items() if rows.rejected},
        "unclosed": {str(key): rows.unclosed for key, rows in rows_by_key.items() if rows.unclosed},
    }


def file_end_message(last_close: int) -> str:
    """Describe a file that ended at `last_close` (UTC ms), and the commands that use it."""
    when = option_time(last_close)
    return (
        f"the file ends on {format_time(last_close)}, so it has no current forecast; "
        f"for the last one use `--as-of {when}`, for the past `forecaster replay`"
    )


def unclosed_message(count: int) -> str:
    """Describe rows of a file that had not closed yet."""
    return f"{count:,} {'row' if count == 1 else 'rows'} left out: not closed yet"


def _summary_lines(summary: BarsSummary) -> list[tuple[str, str]]:
    """Return names and texts; an empty name continues the one above it."""
    key, reasons = summary.series, summary.reasons
    lines = [
        ("series", _with_reason(f"{key.exchange} {key.symbol}", reasons.get("symbol"))),
        *summary.parsed_as.items(),
    ]
    lines += [
        ("timeframe", _with_reason(str(key.timeframe), reasons.get("spacing"))),
        ("calendar", _with_reason(key.calendar, reasons.get("calendar"))),
        ("bars", f"{summary.bars:,}"),
    ]
    if summary.first_open is not None and summary.last_close is not None:
        lines += [("from", format_time(summary.first_open)), ("to", format_time(summary.last_close))]
    longest = f" slots without a bar, at most {summary.longest_gap:,} in a row" if summary.gaps else ""
    lines += [("gaps", f"{summary.gaps:,}{longest}"), ("revised", f"{summary.revised:,}")]
    lines += [("rejected", f"{sum(summary.rejected.values()):,}")]
    lines += [("", f"{count:,} × {reason}") for reason, count in summary.rejected.items()]
    return lines + [("note", note) for note in _notes(summary)]


def _notes(summary: BarsSummary) -> list[str]:
    notes = [*summary.notes]
    if summary.unclosed:
        notes.append(unclosed_message(summary.unclosed))
    if not summary.is_up_to_date and summary.last_close is not None:
        notes.append(file_end_message(summary.last_close))
    return notes


def _print_summary_table(summaries: Sequence[BarsSummary]) -> None:
    """Print one line for each series, then the reasons of rejected rows and the notes."""
    table = TextTable(
        "gaps are slots without a bar; the longest run of them is in brackets",
        [
            text("file", wraps=True),
            text("series", wraps=True),
            text("calendar", optional=True),
            "bars",
            "from",
            "to",
            "gaps",
            "rejected",
        ],
    )
    for summary in summaries:
        key = summary.series
        gaps = f"{summary.gaps} ({summary.longest_gap})" if summary.gaps else "0"
        counts = (f"{summary.bars:,}", format_date(summary.first_open), format_date(summary.last_close), gaps)
        rejected = f"{sum(summary.rejected.values()):,}"
        table.add(Path(summary.source).name, f"{key.symbol} {key.timeframe}", key.calendar, *counts, rejected)
    table.show()
    remarks = [
        (Path(summary.source).name, remark, summary.series.symbol)
        for summary in summaries
        for remark in (*(f"{count:,} × {reason}" for reason, count in summary.rejected.items()), *_notes(summary))
    ]
    counts_by_remark = Counter((source, remark) for source, remark, _ in remarks)
    symbols = {(source, remark): symbol for source, remark, symbol in remarks}
    for (source, remark), count in counts_by_remark.items():
        say(f"{source} {symbols[source, remark] if count == 1 else f'({count:,} series)'}: {remark}")


def _print_block(title: str, lines: Iterable[tuple[str, str]]) -> None:
    """Print names and texts side by side under a title."""
    say(title, bold=True)
    width = max(min(terminal_width(), _BLOCK_WIDTH) - _INDENT, _INDENT)
    for name, line in lines:
        rows = wrapped(printable(line), width)
        for head, row in zip_longest((printable(name),), rows, fillvalue=""):
            say(f"  {head:{_INDENT - 2}}{row}")


def _with_reason(value: str, reason: str | None) -> str:
    return f"{value} ({reason})" if reason else value
