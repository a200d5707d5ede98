"""The commands that prove what is claimed of forecasts: no look-ahead, live rows that can be made again, no company."""

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

from forecaster.cli.options import ConfigOption, JsonOption, SeriesOption
from forecaster.cli.printing import (
    log_to_stderr,
    progress_bar,
    say,
)
from forecaster.cli.store import verify_app
from forecaster.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from forecaster.bars import Bars, Context, SeriesKey
    from forecaster.config import Config, SeriesConfig
    from forecaster.engine import Forecaster
    from forecaster.replay.batch_invariance import Failure, OnCheck, ProofReport
    from forecaster.sources import BarSource

__all__ = ["verify_app"]

_SHOWN: Final = 20
SeedOption = Annotated[int, typer.Option(help="Of everything that is drawn: the same seed gives the same report.")]


@verify_app.command("lookahead")
def lookahead(
    config: ConfigOption = None,
    series: SeriesOption = None,
    cutoffs: Annotated[int, typer.Option(min=1, help="Cutoffs in all, shared equally by the series.")] = 1000,
    strategy: Annotated[
        str | None, typer.Option(help="A strategy to prove as well: `package.module` or `package.module:function`.")
    ] = None,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Poison what comes after a cutoff, and see that no bit before it changes: source, store, models, strategy.

    Each cutoff is checked with its later bars deleted, with gaps, a million times as high, shuffled and reversed. A
    series of a file is read from poisoned copies of it; one of an exchange is proven from the store on. Daily labels of
    exchanges east and west are written and read in every form: each must be on the session of its date. Code 2 when
    something looked ahead; the report names it.
    """
    from tempfile import TemporaryDirectory

    from forecaster.cli.strategy import load_strategy
    from forecaster.engine import Forecaster
    from forecaster.replay.batch_invariance import ProofReport, load_models
    from forecaster.replay.label_check import verify_labels
    from forecaster.replay.lookahead import LookaheadPlan, Setting, Subject, shut_in, verify_lookahead

    started = time.perf_counter()
    log_to_stderr(verbose=False)
    report = ProofReport()
    with Forecaster.from_config(config) as forecaster, TemporaryDirectory() as folder:
        settings, keys = forecaster.config, forecaster.chosen(series)
        models = load_models(settings.model)
        decide = None if strategy is None else shut_in(load_strategy(strategy), strategy, _places(settings))
        for key, share in zip(keys, _shares(cutoffs, len(keys)), strict=True):
            one = _entry(settings, key)
            setting = Setting(
                settings,
                _Copies(Path(folder)).open if one.file is not None else _memory,
                lambda _source, _store: Subject(models, decide, strategy or ""),
            )
            plan = LookaheadPlan(cutoffs=share, seed=seed)
            with _progress(str(key)) as on_check:
                report.merge(verify_lookahead(setting, _bars(forecaster, one), plan, on_check))
        with _progress("labels") as on_check:
            report.merge(verify_labels(Path(folder), seed, on_check))
    _conclude(report, seed, time.perf_counter() - started, json_=json_)


@verify_app.command("parity")
def parity(
    config: ConfigOption = None,
    forecasts: Annotated[int, typer.Option(min=1, help="Live forecasts to make again, drawn at random.")] = 200,
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Make live forecasts again from what the ledger has kept: input, the models' numbers, and the calibration.

    Revisions of bars that came later do not count. Nothing is written. Code 2 when something is not what it was, or
    cannot be made again; the report names it.
    """
    from forecaster.config import default_config_path, load_config
    from forecaster.replay.batch_invariance import load_models
    from forecaster.replay.parity import ParityPlan, verify_parity
    from forecaster.store import open_database

    started = time.perf_counter()
    log_to_stderr(verbose=False)
    settings = load_config(config or default_config_path())
    database = open_database(settings.store.url.reveal())
    try:
        with _progress("ledger") as on_check:
            plan = ParityPlan(forecasts, seed)
            report = verify_parity(database, settings, load_models(settings.model), plan, on_check)
    finally:
        database.close()
    _conclude(report, seed, time.perf_counter() - started, json_=json_)


@verify_app.command("batch")
def batch(
    config: ConfigOption = None,
    series: SeriesOption = None,
    contexts: Annotated[int, typer.Option(min=1, help="Contexts in all, drawn at random from the series.")] = 60,
    threads: Annotated[
        list[int], typer.Option(min=1, help="Ask again in a process with so many threads; may be repeated.")
    ] = [1, 2],  # noqa: B006 - typer reads it and does not keep it
    seed: SeedOption = 0,
    json_: JsonOption = False,
) -> None:
    """Ask for forecasts alone and in company, and compare.

    Company is all of them at once, permuted, in small batches, beside strangers, and with other numbers of threads.
    Baselines must be the same to the bit, other models within 1e-5 of the forecast's spread. Code 2 when they are not.
    """
    from functools import partial

    from forecaster.engine import Forecaster
    from forecaster.replay.batch_invariance import ask_elsewhere, load_models, verify_batch

    started = time.perf_counter()
    log_to_stderr(verbose=False)
    with Forecaster.from_config(config) as forecaster:
        model, keys = forecaster.config.model, forecaster.chosen(series)
        shares = zip(keys, _shares(contexts, len(keys)), strict=True)
        drawn = [one for key, share in shares for one in _contexts(forecaster, key, share, seed)]
    elsewhere = {
        f"{n} threads, another process": partial(ask_elsewhere, model, threads=n) for n in dict.fromkeys(threads)
    }
    with _progress("contexts") as on_check:
        models = load_models(model)
        report = verify_batch(models, drawn, model.horizon, seed=seed, elsewhere=elsewhere, on_check=on_check)
    _conclude(report, seed, time.perf_counter() - started, json_=json_)


class _Copies:
    """Files of rows, in a folder.

    Args:
        folder: to write them to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = count()

    def open(self, rows: Bars) -> BarSource:
        """Write rows as a file of bars, and open it as every such file is opened."""
        from forecaster.sources.files import FileSource

        # A file is read at its first question, and two worlds with two sources each wait for theirs at once.
        path = self._folder / f"{next(self._number) % 8}.csv"
        timed = zip(rows.open_time.tolist(), rows.ohlcv_TF.tolist(), strict=True)
        lines = [",".join(map(repr, (opened, *row))) for opened, row in timed]
        path.write_text("\n".join(["open_time,open,high,low,close,volume", *lines, ""]))
        return FileSource(path)


def _memory(rows: Bars) -> BarSource:
    from forecaster.sources.memory import MemorySource

    return MemorySource([rows])


def _entry(config: Config, key: SeriesKey) -> SeriesConfig:
    return next(one for one in config.series if one.key == key)


def _bars(forecaster: Forecaster, one: SeriesConfig) -> Bars:
    """The history of a series: its file's, or what the store has of an exchange's."""
    from forecaster.clock import now_ms
    from forecaster.sources.files import FileSource

    if one.file is None:
        return forecaster.reader.bars(one.key)
    return FileSource(one.file, one.reading).fetch(one.key, None, now_ms()).bars


def _contexts(forecaster: Forecaster, key: SeriesKey, number: int, seed: int) -> list[Context]:
    from forecaster.bars import Context
    from forecaster.replay.lookahead import LookaheadPlan, choose_places

    model = forecaster.config.model
    bars = _bars(forecaster, _entry(forecaster.config, key))
    places = choose_places(bars, model.min_context, LookaheadPlan(number, seed, warm_up=0, later=0))
    return [Context.ending_at(bars, int(bars.close_time[i]), model.context, model.min_context) for i in places]


def _places(config: Config) -> Iterator[Path]:
    """Where bars lie: what a strategy has no business to open."""
    from forecaster.urls import sqlite_path

    ledger = sqlite_path(config.store.url.reveal())
    if ledger is not None:
        yield ledger
    yield from (one.file for one in config.series if one.file is not None)


def _shares(total: int, parts: int) -> list[int]:
    """Divide a number into whole parts, one at least each."""
    return [max(1, total // parts + (i < total % parts)) for i in range(parts)]


@contextmanager
def _progress(name: str) -> Iterator[OnCheck]:
    """Show how far a proof is, on standard error."""
    with progress_bar() as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _conclude(report: ProofReport, seed: int, seconds: float, *, json_: bool) -> None:
    """Print what was found; leave with code 2 when something was wrong, or nothing was checked."""
    if json_:
        failures = [one._asdict() for one in report.failures]
        found = {"ok": report.ok, **asdict(report), "failures": failures, "seed": seed, "seconds": round(seconds, 2)}
        typer.echo(json.dumps(found))
    else:
        _print_report(report, seconds)
    if not report.ok:
        raise typer.Exit(2)


def _print_report(report: ProofReport, seconds: float) -> None:
    if report.failures:
        _print_failures(report.failures)
    for reason, number in report.left_out.items():
        say(f"left out: {number:,} × {reason}")
    for model, share in report.largest.items():
        say(f"largest difference of {model}: {share:.3g} of the spread")
    counts = f"{report.checked:,} checked, {report.identical:,} identical, {len(report.failures):,} failures"
    say(f"{counts}, {seconds:.1f} s", bold=True, fg=None if report.ok else "red")


def _print_failures(failures: Sequence[Failure]) -> None:
    """Print the first failures as a table, and how many there are of each kind."""
    import datetime as dt

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for name in ("what", "series", "cutoff (UTC)", "poison", "difference"):
        table.add_column(name)
    for one in failures[:_SHOWN]:
        at = dt.datetime.fromtimestamp(one.cutoff / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M")
        table.add_row(*map(printable, (one.what, one.series, at, one.poison, one.difference)))
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(table)
    for what, number in Counter(one.what for one in failures).items():
        say(f"{what}: {number:,} failures")
