"""The commands about bars: look into files and into the store, fetch years of history, write what is stored."""

from __future__ import annotations

import dataclasses
import json
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
    JsonOption,
    SeriesOption,
    for_each_series,
    read_files,
    utc_ms,
    with_file_options,
)
from forecaster.cli.printing import SKIP_EVENTS, exit_with_errors, log_to_stderr, print_record, progress_bar, say
from forecaster.errors import ConfigError
from forecaster.formatting import approximate_duration, option_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.progress import Progress

    from forecaster.bars import SeriesKey, ValidatedRows
    from forecaster.engine import Forecaster
    from forecaster.sources.summary import BarsSummary

bars_app = typer.Typer(no_args_is_help=True, help="Look into files of bars and into the store; export.")


@bars_app.command("inspect")
@with_file_options
def inspect(
    files: Annotated[list[Path], typer.Argument(help="csv, Parquet, feather or json; also packed, .gz or .zip.")],
    how: FileOptions = INFERRED,
    json_: JsonOption = False,
) -> None:
    """Say how files are read and what they hold: bars, gaps, and rows that are refused, with the reasons.

    A gap is a slot of the calendar without a bar: usually nobody traded. Refused rows never reach the store. A file
    that cannot be read is named with the line, or with the option that settles how to read it, and the code is 2.

    Then `forecaster start` with the same files and options writes a configuration and makes the first forecast.
    """
    from forecaster.clock import now_ms
    from forecaster.sources.summary import summarize_file

    now = now_ms()
    found: list[BarsSummary] = []
    errors = for_each_series(
        files, how, lambda one: found.append(summarize_file(str(one.path), one.source, one.inferred, now))
    )
    if json_:
        records = [dataclasses.asdict(one) for one in errors]
        typer.echo(json.dumps({"series": [_record(one) for one in found], "errors": records}))
    else:
        print_summaries(found)
    exit_with_errors(errors, json_=json_)


@bars_app.command("show")
def show(config: ConfigOption = None, series: SeriesOption = None, json_: JsonOption = False) -> None:
    """Count what is stored: bars, gaps between them, bars that were revised, and rows that were refused.

    Also tells why rows were refused, and for how long an exchange is on hold.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster
    from forecaster.sources.summary import summarize_bars

    now = now_ms()
    with Forecaster.from_config(config) as forecaster:
        keys = forecaster.select(series)
        found = []
        for key in keys:
            bars = forecaster.reader.bars(key)
            rejected = forecaster.reader.rejected_rows(key)
            found.append(summarize_bars(key.exchange, bars, rejected, int(bars.revision.sum())))
        exchanges = {key.exchange for key in keys}
        until = {hold.exchange: hold.until for hold in forecaster.reader.holds() if hold.exchange in exchanges}
    held = {exchange: time for exchange, time in until.items() if time > now}
    if json_:
        typer.echo(json.dumps({"series": [_record(one) for one in found], "held_until": held}))
        return
    print_summaries(found)
    for exchange, time in held.items():
        say(f"{exchange}: on hold for {approximate_duration(time - now)}; see `forecaster holds`")


@bars_app.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="File to write: .parquet, .csv or .feather.")],
    config: ConfigOption = None,
    series: SeriesOption = None,
    json_: JsonOption = False,
) -> None:
    """Write the stored bars of one series, the newest revision of each, to a file that reads back as it was."""
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
        str | None, typer.Option(help="Fetch the history from this date (UTC) on; what is stored is not asked again.")
    ] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="With --since: ask again for stored bars too; those that differ are revised.")
    ] = False,
    series: SeriesOption = None,
    json_: JsonOption = False,
) -> None:
    """Fetch, check and store the bars after the newest stored one, or years of them; no forecast.

    With --since, each part of the history is durable before the next is asked for: a run that was stopped goes on where
    it was, and the exchange's rate limit is kept. `skipped` counts the series that could not be had: why, is told on
    standard error, or in the JSON by series. Code 2 when that is every series.

    Without --since, only the newest bars that a forecast needs are stored. Rows of files that are refused, and files
    that have ended, are told on standard error.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    log_to_stderr(verbose=False, without=SKIP_EVENTS)
    if anew and since is None:
        raise ConfigError("--anew", "--since with it: from when on", None)
    as_of = now_ms()
    with Forecaster.from_config(config) as forecaster:
        keys = forecaster.select(series)
        if since is None:
            added, skipped = forecaster.pull(keys, as_of)
        else:
            with progress_bar() as progress:
                backfill = partial(forecaster.backfill, anew=anew)
                added, skipped = _backfill(backfill, keys, (utc_ms(since, 0), as_of), progress)
        read = read_files(forecaster.config, keys, as_of)
        if since is None:
            _print_unstored(forecaster, read)
    print_files(read, as_of)
    reasons = {str(key): reason for key, reason in skipped.items()}
    print_cycle(as_of, {"series": len(keys), "bars_added": added}, reasons, json_=json_)


def _print_unstored(forecaster: Forecaster, read: Mapping[SeriesKey, ValidatedRows]) -> None:
    """Say which files have older bars that are not stored, since no forecast of today needs them."""
    for key, sifted in read.items():
        bars = sifted.bars
        stored = len(forecaster.reader.bars(key)) if len(bars) else 0
        if stored < len(bars):
            since = option_time(int(bars.open_time[0]))[:10]
            text = f"{key}: {stored:,} of the file's {len(bars):,} bars are stored: `--since {since}` stores all"
            say(text, fg="yellow", err=True)


def _backfill(
    backfill: Callable[[SeriesKey, int, int], Iterator[tuple[int, int]]],
    keys: list[SeriesKey],
    span: tuple[int, int],
    progress: Progress,
) -> tuple[int, dict[SeriesKey, str]]:
    """Fetch the history of each series, one after the other."""
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


def _record(facts: BarsSummary) -> dict[str, object]:
    """What a script wants to know of one series."""
    return dataclasses.asdict(facts) | {"series": str(facts.series), "calendar": facts.series.calendar}
