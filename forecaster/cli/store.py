"""The commands about the ledger: size, copies, runs, schema and verification."""

from __future__ import annotations

import dataclasses
import json
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forecaster.cli.options import JsonOption, OptionalConfigOption, SeriesOption, StoreOption, resolve_config
from forecaster.cli.printing import print_record, progress_bar, say
from forecaster.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

store_app = typer.Typer(no_args_is_help=True, help="Maintain the ledger: size, copies, runs, schema.")
verify_app = typer.Typer(no_args_is_help=True, help="Verify the ledger, models and strategies.")

_DAY_MS = 86_400_000


@store_app.command("info")
def info(config: OptionalConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """Measure the ledger: bytes, rows by table, forecasts by run."""
    from forecaster.store.maintenance import ledger_stats

    stats = ledger_stats(configured_url(config, store))
    if json_:
        typer.echo(json.dumps(dataclasses.asdict(stats)))
        return
    print_record({"ledger": stats.url, "schema": stats.schema, "bytes": f"{stats.bytes:,}"}, json_=False)
    print_record({f"rows of {name}": f"{count:,}" for name, count in stats.rows.items()}, json_=False)
    print_record({f"run {run}": f"{count:,} forecasts" for run, count in stats.forecasts_by_run.items()}, json_=False)


@store_app.command("backup")
def backup(
    out: Annotated[Path, typer.Argument(help="File to write. An existing file is replaced once the copy is checked.")],
    config: OptionalConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Copy an SQLite ledger while it is in use, and check the copy."""
    from forecaster.store import maintenance

    url = configured_url(config, store)
    with progress_bar() as progress:
        maintenance.backup(url, out, _pages(progress, "copy"))
    print_record({"file": str(out), "bytes": out.stat().st_size}, json_=json_)


@store_app.command("restore")
def restore(
    copy: Annotated[Path, typer.Argument(help="A copy made by `store backup`; it is not changed.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the copy.")] = False,
    config: OptionalConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Replace an SQLite ledger by a checked copy. Stop the service first.

    The replaced ledger is kept beside it, with the time in its name. --dry-run works while the service runs.
    """
    from forecaster.clock import now_ms
    from forecaster.errors import format_time
    from forecaster.store import restore as restore_module

    url = configured_url(config, store)
    with progress_bar() as progress:
        on_rows, on_progress = _rows(progress, "check"), _pages(progress, "copy")
        result = restore_module.restore(url, copy, now_ms(), dry_run=dry_run, on_rows=on_rows, on_progress=on_progress)
    record = dataclasses.asdict(result) | {"dry_run": dry_run}
    print_record(record if json_ else record | {"last_cutoff": format_time(result.last_cutoff)}, json_=json_)
    if not json_:
        say(
            "the copy is undamaged; nothing was changed" if dry_run else "the copy is the ledger now: start the service"
        )


@store_app.command("vacuum")
def vacuum(config: OptionalConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """Return the space of deleted rows to the file system. Stop the service first."""
    from forecaster.store import maintenance

    url = configured_url(config, store)
    before = maintenance.ledger_stats(url).bytes
    maintenance.vacuum(url)
    print_record({"bytes_before": before, "bytes_after": maintenance.ledger_stats(url).bytes}, json_=json_)


@store_app.command("prune")
def prune(
    older_than: Annotated[str, typer.Option(help="Delete runs that started longer ago than this, in days.")] = "90d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, but delete nothing.")] = False,
    config: OptionalConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Delete old replays and predictions. Live bars and forecasts always stay.

    The space is reused; `store vacuum` returns it to the file system.
    """
    from forecaster.clock import now_ms
    from forecaster.store import maintenance

    if not (older_than.endswith("d") and older_than[:-1].isdigit()):
        raise ConfigError("--older-than", "a number of days such as 90d", older_than)
    runs = maintenance.prune(configured_url(config, store), now_ms() - int(older_than[:-1]) * _DAY_MS, dry_run=dry_run)
    print_record({"dry_run": dry_run, "runs": len(runs), "forecasts": sum(runs.values())}, json_=json_)


@store_app.command("runs")
def runs(config: OptionalConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """List the runs of the ledger: kind, start time, number of forecasts and of own bars.

    --json adds the plan of each run: what determines its forecasts.
    """
    from forecaster.errors import format_time
    from forecaster.store import maintenance

    stats = maintenance.runs(configured_url(config, store))
    if json_:
        typer.echo(json.dumps({"runs": [dataclasses.asdict(run) for run in stats]}))
        return
    width = max((len(run.id) for run in stats), default=0)
    for run in stats:
        rows = f"{run.forecasts:,} forecasts, {run.bars:,} bars"
        say(f"{run.id:{width}} {run.kind:8} {format_time(run.started_at)}  {rows}")


@store_app.command("delete")
def delete(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs, as `store runs` lists them.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, but delete nothing.")] = False,
    config: OptionalConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Delete replays and predictions by id, with their own bars. The live run is refused.

    The space is reused; `store vacuum` returns it to the file system.
    """
    from forecaster.store import maintenance

    deleted = maintenance.delete_runs(configured_url(config, store), run_ids, dry_run=dry_run)
    rows = {"forecasts": sum(run.forecasts for run in deleted), "bars": sum(run.bars for run in deleted)}
    print_record({"dry_run": dry_run, "runs": len(deleted), **rows}, json_=json_)


@store_app.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="File to write: .parquet, .feather or .csv.")],
    config: OptionalConfigOption = None,
    store: StoreOption = None,
    series: SeriesOption = None,
    run_id: Annotated[str, typer.Option("--run", help="Which run: `live`, or the id a replay printed.")] = "live",
    json_: JsonOption = False,
) -> None:
    """Write a run's forecasts to a file: a row per field and step, with all quantiles and the actual."""
    from forecaster.cli.frame_files import write_frames
    from forecaster.client import check_run
    from forecaster.engine import Forecaster
    from forecaster.export import frames

    with Forecaster.from_config(resolve_config(config), store) as forecaster:
        check_run(forecaster.reader, run_id)
        count = write_frames(frames(forecaster.reader, forecaster.select(series), run_id), out)
    print_record({"run": run_id, "rows": count, "file": str(out)}, json_=json_)


@store_app.command("upgrade")
def upgrade(config: OptionalConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """Upgrade the ledger to the schema of this program; every writer does so as well.

    An SQLite ledger is copied first, so the disk needs room for the copy.
    """
    from forecaster.store import open_store
    from forecaster.store.maintenance import schema_version

    url = configured_url(config, store)
    before = schema_version(url)  # raises for a missing ledger; `open_store` would create one
    open_store(url).close()
    print_record({"schema_before": before, "schema": schema_version(url)}, json_=json_)


@verify_app.command("ledger")
def ledger(config: OptionalConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """Verify every row of the ledger: hash chains, checksums, columns, times and references.

    Exit code 2 on any error. `heads` with --json is the last hash of each chain: keep them to compare with a later
    check, which then detects rows cut off the end.
    """
    from forecaster.store import open_database
    from forecaster.store.verify import count_rows, verify_ledger

    database = open_database(configured_url(config, store))
    try:
        with progress_bar() as progress:
            task = progress.add_task("ledger", total=count_rows(database))
            check = verify_ledger(database, lambda rows: progress.advance(task, rows))
    finally:
        database.close()
    if json_:
        typer.echo(json.dumps({"ok": check.ok} | dataclasses.asdict(check)))
    else:
        for note in check.notes:
            say(f"note: {note}")
        for error in check.errors:
            say(error, fg="red", err=True)
        say(f"{check.rows:,} rows, {len(check.errors)} errors: {'ok' if check.ok else 'the ledger was changed'}")
    if not check.ok:
        raise typer.Exit(2)


def _rows(progress: Progress, name: str) -> Callable[[int], None]:
    """Return a callback that shows how many rows were checked; the bar appears with the first call."""
    task = cache(partial(progress.add_task, name, total=None))
    return lambda rows: progress.advance(task(), rows)


def _pages(progress: Progress, name: str) -> Callable[[int, int], None]:
    """Return a callback that shows how many pages were copied; the bar appears with the first call."""
    task = cache(partial(progress.add_task, name, total=None))
    return lambda left, pages: progress.update(task(), completed=pages - left, total=pages)


def configured_url(config: str | None, store: str | None) -> str:
    """Return the URL of the ledger: that of --store if given, else the configured one."""
    from forecaster.config_file import load_config
    from forecaster.urls import ledger_url

    return ledger_url(store) if store is not None else load_config(resolve_config(config)).store.url.reveal()
