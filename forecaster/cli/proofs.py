"""`forecaster verify`: test for look-ahead bias, reproduce live forecasts, test batch invariance."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from forecaster.cli.options import ConfigOption, JsonOption, SeriesOption, resolve_config
from forecaster.cli.printing import log_to_stderr, progress_bar, say
from forecaster.cli.store import verify_app
from forecaster.cli.text_table import TextTable, text
from forecaster.formatting import format_minute

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forecaster.bars import Bars, SeriesKey
    from forecaster.config import Config, SeriesConfig
    from forecaster.context import Context
    from forecaster.engine import Forecaster
    from forecaster.replay.batch_invariance import Failure, OnProgress, VerificationReport
    from forecaster.sources import BarSource

__all__ = ["verify_app"]

_SHOWN: Final = 20
SeedOption = Annotated[int, typer.Option(help="Seed of all random draws; the same seed gives the same report.")]


@verify_app.command("lookahead")
def lookahead(
    config: ConfigOption = None,
    series: SeriesOption = None,
    cutoffs: Annotated[int, typer.Option(min=1, help="Number of cutoffs, divided equally among the series.")] = 1000,
    strategy: Annotated[
        str | None, typer.Option(help="A strategy to test as well: `package.module` or `package.module:function`.")
    ] = None,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Test models, data and strategy for look-ahead bias: perturb the bars after a cutoff and compare every bit before.

    Each cutoff is checked with its later bars deleted, with gaps, a million times as high, shuffled, and reversed. A
    series of a file is read from perturbed copies of the file; a series of an exchange is tested from the store on.
    Labels of daily bars are written and read in every format, and each must be on the session of its date. Code 2 if
    something looked ahead; the report names it.
    """
    from tempfile import TemporaryDirectory

    from forecaster.cli.strategy import load_strategy
    from forecaster.engine import Forecaster
    from forecaster.replay.batch_invariance import VerificationReport, load_models
    from forecaster.replay.lookahead import LookaheadPlan, LookaheadSetup, Subject, forbid_files, verify_lookahead
    from forecaster.replay.session_labels import verify_labels

    started = time.perf_counter()
    log_to_stderr(verbose=False)
    report = VerificationReport()
    with Forecaster.from_config(config) as forecaster, TemporaryDirectory() as folder:
        settings, keys = forecaster.config, forecaster.select(series)
        models = load_models(settings.model)
        decide = None if strategy is None else forbid_files(load_strategy(strategy), strategy, _bar_files(settings))
        for key, share in zip(keys, _shares(cutoffs, len(keys)), strict=True):
            entry = _entry(settings, key)
            setup = LookaheadSetup(
                settings,
                _Copies(Path(folder)).open if entry.file is not None else _memory,
                lambda _source, _store: Subject(models, decide, strategy or ""),
            )
            plan = LookaheadPlan(cutoffs=share, seed=seed)
            with _progress(str(key)) as on_progress:
                report.merge(verify_lookahead(setup, _bars(forecaster, entry), plan, on_progress))
        with _progress("labels") as on_progress:
            report.merge(verify_labels(Path(folder), seed, on_progress))
    _finish(report, seed, time.perf_counter() - started, json_=json_)


@verify_app.command("parity")
def parity(
    config: ConfigOption = None,
    forecasts: Annotated[
        int, typer.Option(min=1, help="Number of live forecasts to reproduce, drawn at random.")
    ] = 200,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Reproduce live forecasts from the ledger: the input, the models' numbers, and the calibration.

    Later revisions of bars do not count. Nothing is written. Code 2 if something differs or cannot be reproduced; the
    report names it.
    """
    from forecaster.config_file import load_config
    from forecaster.replay.batch_invariance import load_models
    from forecaster.replay.parity import ParityPlan, verify_parity
    from forecaster.store import open_database

    started = time.perf_counter()
    log_to_stderr(verbose=False)
    settings = load_config(resolve_config(config))
    database = open_database(settings.store.url.reveal())
    try:
        with _progress("ledger") as on_progress:
            plan = ParityPlan(forecasts, seed)
            report = verify_parity(database, settings, load_models(settings.model), plan, on_progress)
    finally:
        database.close()
    _finish(report, seed, time.perf_counter() - started, json_=json_)


@verify_app.command("batch")
def batch(
    config: ConfigOption = None,
    series: SeriesOption = None,
    contexts: Annotated[int, typer.Option(min=1, help="Number of contexts, drawn at random from the series.")] = 60,
    threads: Annotated[
        list[int], typer.Option(min=1, help="Repeat in a process with so many threads; may be given several times.")
    ] = [1, 2],  # noqa: B006 - typer reads it and does not keep it
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Test that a forecast does not depend on its batch: forecast each context alone and in batches, and compare.

    The batches are all contexts at once, permuted, in small batches, with distractors, and with other numbers of
    threads. Baselines must be equal to the bit, other models within 1e-5 of the forecast's spread. Code 2 if not.
    """
    from functools import partial

    from forecaster.engine import Forecaster
    from forecaster.replay.batch_invariance import load_models, predict_in_subprocess, verify_batch

    started = time.perf_counter()
    log_to_stderr(verbose=False)
    with Forecaster.from_config(config) as forecaster:
        model, keys = forecaster.config.model, forecaster.select(series)
        shares = zip(keys, _shares(contexts, len(keys)), strict=True)
        drawn = [context for key, share in shares for context in _contexts(forecaster, key, share, seed)]
    extra = {
        f"{n} threads, another process": partial(predict_in_subprocess, model, threads=n)
        for n in dict.fromkeys(threads)
    }
    with _progress("contexts") as on_progress:
        models = load_models(model)
        report = verify_batch(models, drawn, model.horizon, seed=seed, extra=extra, on_progress=on_progress)
    _finish(report, seed, time.perf_counter() - started, json_=json_)


class _Copies:
    """Writes rows as files of a folder.

    Args:
        folder: for the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = count()

    def open(self, rows: Bars) -> BarSource:
        """Write rows as a file of bars and open it as a source."""
        from forecaster.sources.files import FileSource

        # A file is read when it is first used, and two scenarios have two sources each at the same time.
        path = self._folder / f"{next(self._number) % 8}.csv"
        timed = zip(rows.open_time.tolist(), rows.ohlcv_TF.tolist(), strict=True)
        lines = [",".join(map(repr, (opened, *row))) for opened, row in timed]
        path.write_text("\n".join(["open_time,open,high,low,close,volume", *lines, ""]))
        return FileSource(path)


def _memory(rows: Bars) -> BarSource:
    from forecaster.sources.memory import MemorySource

    return MemorySource([rows])


def _entry(config: Config, key: SeriesKey) -> SeriesConfig:
    return next(entry for entry in config.series if entry.key == key)


def _bars(forecaster: Forecaster, series: SeriesConfig) -> Bars:
    """Load the history of a series: from its file, or from the store for a series of an exchange."""
    from forecaster.clock import now_ms
    from forecaster.sources.files import FileSource

    if series.file is None:
        return forecaster.reader.bars(series.key)
    return FileSource(series.file, series.parse_options).fetch(series.key, None, now_ms()).bars


def _contexts(forecaster: Forecaster, key: SeriesKey, number: int, seed: int) -> list[Context]:
    from forecaster.context import Context
    from forecaster.replay.lookahead import LookaheadPlan, draw_positions

    model = forecaster.config.model
    bars = _bars(forecaster, _entry(forecaster.config, key))
    positions = draw_positions(bars, model.min_context, LookaheadPlan(number, seed, warm_up=0, bars_after=0))
    return [Context.ending_at(bars, int(bars.close_time[i]), model.context, model.min_context) for i in positions]


def _bar_files(config: Config) -> Iterator[Path]:
    """Yield the ledger and the files of bars, which a strategy must not open."""
    from forecaster.urls import sqlite_path

    ledger = sqlite_path(config.store.url.reveal())
    if ledger is not None:
        yield ledger
    yield from (entry.file for entry in config.series if entry.file is not None)


def _shares(total: int, parts: int) -> list[int]:
    """Divide a number into whole parts, one at least each."""
    return [max(1, total // parts + (i < total % parts)) for i in range(parts)]


@contextmanager
def _progress(name: str) -> Iterator[OnProgress]:
    """Show the progress on standard error."""
    with progress_bar() as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _finish(report: VerificationReport, seed: int, seconds: float, *, json_: bool) -> None:
    """Print the report; exit with code 2 if something differs, or nothing was checked."""
    if json_:
        failures = [failure._asdict() for failure in report.failures]
        record = {"ok": report.ok, **asdict(report), "failures": failures, "seed": seed, "seconds": round(seconds, 2)}
        typer.echo(json.dumps(record))
    else:
        _print_report(report, seconds)
    if not report.ok:
        raise typer.Exit(2)


def _print_report(report: VerificationReport, seconds: float) -> None:
    if report.failures:
        _print_failures(report.failures)
    for reason, number in report.left_out.items():
        say(f"left out: {number:,} × {reason}")
    for model, share in report.largest_differences.items():
        say(f"largest difference of {model}: {share:.3g} of the spread")
    counts = f"{report.checked:,} checked, {report.identical:,} identical, {len(report.failures):,} failures"
    say(f"{counts}, {seconds:.1f} s", bold=True, fg=None if report.ok else "red")


def _print_failures(failures: Sequence[Failure]) -> None:
    """Print the first failures as a table, and how many there are of each kind."""
    table = TextTable(
        "",
        [
            text("component"),
            text("series"),
            text("cutoff (UTC)"),
            text("perturbation", wraps=True),
            text("difference", wraps=True),
        ],
    )
    for failure in failures[:_SHOWN]:
        cutoff = format_minute(failure.cutoff)
        table.add(failure.component, failure.series, cutoff, failure.perturbation, failure.difference)
    table.show()
    for component, number in Counter(failure.component for failure in failures).items():
        say(f"{component}: {number:,} failures")
