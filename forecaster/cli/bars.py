"""The commands about bars: inspect files and the store, fetch history, export."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forecaster.cli.bars_printing import print_files, print_summaries
from forecaster.cli.forecast_printing import print_cycle
from forecaster.cli.frame_files import write_frames
from forecaster.cli.options import (
    INFERRED,
    ConfigOption,
    FileOptions,
    FileSeries,
    JsonOption,
    SeriesOption,
    for_each_series,
    read_files,
    utc_ms,
    with_file_options,
)
from forecaster.cli.printing import (
    SKIP_EVENTS,
    exit_with_errors,
    log_to_stderr,
    print_record,
    progress_bar,
    say,
    say_json,
)
from forecaster.errors import ConfigError
from forecaster.formatting import approximate_duration, option_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.progress import Progress

    from forecaster.bars import SeriesKey, ValidatedRows
    from forecaster.engine import Forecaster
    from forecaster.sources.summary import BarsSummary

bars_app = typer.Typer(no_args_is_help=True, help="Inspect files of bars and the store; export bars.")


@bars_app.command("inspect")
@with_file_options
def inspect(
    files: Annotated[list[Path], typer.Argument(help="csv, Parquet, feather or json; also packed, .gz or .zip.")],
    file_options: FileOptions = INFERRED,
    json_: JsonOption = False,
) -> None:
    """Show how files are read and what they hold: bars, gaps, and rejected rows with reasons.

    A gap is a slot of the calendar without a bar: usually there were no trades. Rejected rows are never stored. For a
    file that cannot be read, the error names the line, or the option that is missing; the exit code is 2.

    `forecaster start` with the same files and options then writes a configuration and makes the first forecast.
    """
    from forecaster.clock import now_ms
    from forecaster.sources.summary import summarize_file

    now = now_ms()
    summaries: list[BarsSummary] = []

    def summarize(series: FileSeries) -> None:
        summaries.append(summarize_file(str(series.path), series.source, series.inferred, now))

    errors = for_each_series(files, file_options, summarize)
    if json_:
        records = [dataclasses.asdict(error) for error in errors]
        say_json({"series": [_record(summary) for summary in summaries], "errors": records})
    else:
        print_summaries(summaries)
    exit_with_errors(errors, json_=json_)


@bars_app.command("show")
def show(config: ConfigOption = None, series: SeriesOption = None, json_: JsonOption = False) -> None:
    """Show what is stored: bars, gaps, revised bars, and rejected rows with reasons; also holds of exchanges."""
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster
    from forecaster.sources.summary import summarize_bars

    now = now_ms()
    with Forecaster.from_config(config) as forecaster:
        keys = forecaster.select(series)
        summaries = []
        for key in keys:
            bars = forecaster.reader.bars(key)
            rejected = forecaster.reader.rejected_rows(key)
            summaries.append(summarize_bars(key.exchange, bars, rejected, int(bars.revision.sum())))
        exchanges = {key.exchange for key in keys}
        until = {hold.exchange: hold.until for hold in forecaster.reader.holds() if hold.exchange in exchanges}
    held = {exchange: time for exchange, time in until.items() if time > now}
    if json_:
        say_json({"series": [_record(summary) for summary in summaries], "held_until": held})
        return
    print_summaries(summaries)
    for exchange, time in held.items():
        say(f"{exchange}: on hold for {approximate_duration(time - now)}; see `forecaster holds`")


@bars_app.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="File to write: .parquet, .csv or .feather.")],
    config: ConfigOption = None,
    series: SeriesOption = None,
    json_: JsonOption = False,
) -> None:
    """Write the stored bars of a series, the latest revision of each, to a file that `forecaster` can read again."""
    from forecaster.engine import Forecaster

    with Forecaster.from_config(config) as forecaster:
        keys = forecaster.select(series)
        if len(keys) != 1:
            raise ConfigError("--series", f"one of {', '.join(map(str, keys))}", series)
        bars = forecaster.reader.bars(keys[0])
    write_frames([bars.frame.reset_index()], out)
    print_record({"series": str(keys[0]), "bars": len(bars), "file": str(out)}, json_=json_)


def pull(
    config: ConfigOption = None,
    since: Annotated[
        str | None, typer.Option(help="Fetch the history from this date (UTC).", show_default="latest bars only")
    ] = None,
    refetch: Annotated[
        bool, typer.Option("--refetch", help="With --since: also fetch stored bars; those that differ are revised.")
    ] = False,
    series: SeriesOption = None,
    json_: JsonOption = False,
) -> None:
    """Fetch, check and store bars: the latest ones, or years of them. Makes no forecast.

    With --since, each part of the history is stored before the next is requested. A command that was stopped continues
    where it was. Rate limits of exchanges are honoured.

    Without --since, only the latest bars that a forecast needs are stored.

    `skipped` counts series without new bars because of an error. The reasons are on standard error, or in the JSON by
    series. Standard error also names rejected rows and files that have ended. Exit code 2: every series was skipped.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    log_to_stderr(verbose=False, without=SKIP_EVENTS)
    if refetch and since is None:
        raise ConfigError("--refetch", "--since with it", None)
    as_of = now_ms()
    with Forecaster.from_config(config) as forecaster:
        keys = forecaster.select(series)
        if since is None:
            added, skipped = forecaster.pull(keys, as_of)
        else:
            with progress_bar() as progress:
                backfill = partial(forecaster.backfill, refetch=refetch)
                added, skipped = _backfill(backfill, keys, (utc_ms(since, 0), as_of), progress)
        rows_by_key = read_files(forecaster.config, keys, as_of)
        if since is None:
            _print_unstored(forecaster, rows_by_key)
    print_files(rows_by_key, as_of)
    reasons = {str(key): reason for key, reason in skipped.items()}
    print_cycle(as_of, {"series": len(keys), "bars_added": added}, reasons, json_=json_)


def _print_unstored(forecaster: Forecaster, rows_by_key: Mapping[SeriesKey, ValidatedRows]) -> None:
    """Print which files have older bars that are not stored, as no current forecast needs them."""
    for key, rows in rows_by_key.items():
        bars = rows.bars
        stored = len(forecaster.reader.bars(key)) if len(bars) else 0
        if stored < len(bars):
            since = option_time(int(bars.open_time[0]))[:10]
            text = f"{key}: {stored:,} of the file's {len(bars):,} bars are stored; `--since {since}` stores all"
            say(text, fg="yellow", err=True)


def _backfill(
    backfill: Callable[[SeriesKey, int, int], Iterator[tuple[int, int]]],
    keys: list[SeriesKey],
    span: tuple[int, int],
    progress: Progress,
) -> tuple[int, dict[SeriesKey, str]]:
    """Fetch the history of each series in turn. Return the number of new rows, and reasons of skipped series."""
    from forecaster.errors import BarsError, SourceError

    added, skipped = 0, {}
    for key in keys:
        task = progress.add_task(str(key), total=span[1] - span[0])
        try:
            for new, reached in backfill(key, *span):
                added += new
                progress.update(task, completed=reached - span[0])
        except (SourceError, BarsError) as error:
            skipped[key] = f"{type(error).__name__}: {error}"
    return added, skipped


def _record(summary: BarsSummary) -> dict[str, object]:
    return dataclasses.asdict(summary) | {"series": str(summary.series), "calendar": summary.series.calendar}
