"""The commands about the ledger itself: how large it is, copies, what may leave it, and whether it is what it was."""

from __future__ import annotations

import dataclasses
import json
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forecaster.cli.options import ConfigOption, JsonOption, SeriesOption, StoreOption
from forecaster.cli.printing import print_record, progress_bar, say
from forecaster.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

store_app = typer.Typer(no_args_is_help=True, help="Look after the ledger: size, copies, space, schema.")
verify_app = typer.Typer(no_args_is_help=True, help="Prove what is claimed.")

_DAY_MS = 86_400_000


@store_app.command("info")
def info(config: ConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """Measure the ledger: bytes, rows by table, forecasts by run."""
    from forecaster.store.maintenance import facts

    found = facts(_url(config, store))
    if json_:
        typer.echo(json.dumps(dataclasses.asdict(found)))
        return
    print_record({"ledger": found.url, "schema": found.schema, "bytes": f"{found.bytes:,}"}, json_=False)
    print_record({f"rows of {name}": f"{count:,}" for name, count in found.rows.items()}, json_=False)
    print_record({f"run {run}": f"{count:,} forecasts" for run, count in found.forecasts_by_run.items()}, json_=False)


@store_app.command("backup")
def backup(
    out: Annotated[Path, typer.Argument(help="File to write; one that is there is replaced by a copy that is whole.")],
    config: ConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Copy an SQLite ledger while it is in use, and check the copy."""
    from forecaster.store import maintenance as upkeep

    url = _url(config, store)
    with progress_bar() as progress:
        upkeep.backup(url, out, _pages(progress, "copy"))
    print_record({"file": str(out), "bytes": out.stat().st_size}, json_=json_)


@store_app.command("restore")
def restore(
    copy: Annotated[Path, typer.Argument(help="A copy that `store backup` made; it stays as it is.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the copy, and change nothing.")] = False,
    config: ConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a copy of an SQLite ledger, and put it in the place of the ledger. No daemon may run meanwhile.

    The ledger that is there is kept beside it, with the time in its name. --dry-run may be done beside a daemon.
    """
    from forecaster.clock import now_ms
    from forecaster.errors import format_time
    from forecaster.store import restore as restoring

    url = _url(config, store)
    with progress_bar() as progress:
        on_rows, on_portion = _rows(progress, "check"), _pages(progress, "copy")
        done = restoring.restore(url, copy, now_ms(), dry_run=dry_run, on_rows=on_rows, on_portion=on_portion)
    record = dataclasses.asdict(done) | {"dry_run": dry_run}
    print_record(record if json_ else record | {"last_cutoff": format_time(done.last_cutoff)}, json_=json_)
    if not json_:
        say("the copy is whole; nothing was changed" if dry_run else "the copy is the ledger now: start the service")


@store_app.command("vacuum")
def vacuum(config: ConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """Give the space of deleted rows back. No other process may write the ledger meanwhile."""
    from forecaster.store import maintenance as upkeep

    url = _url(config, store)
    before = upkeep.facts(url).bytes
    upkeep.vacuum(url)
    print_record({"bytes_before": before, "bytes_after": upkeep.facts(url).bytes}, json_=json_)


@store_app.command("prune")
def prune(
    older_than: Annotated[str, typer.Option(help="Only those that ran so many days ago, such as 90d.")] = "90d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and delete nothing.")] = False,
    config: ConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Delete old replays and single predictions. Bars and live forecasts always stay.

    The space is reused; `store vacuum` gives it back.
    """
    from forecaster.clock import now_ms
    from forecaster.store import maintenance as upkeep

    if not (older_than.endswith("d") and older_than[:-1].isdigit()):
        raise ConfigError("--older-than", "a number of days such as 90d", older_than)
    runs = upkeep.prune(_url(config, store), now_ms() - int(older_than[:-1]) * _DAY_MS, dry_run=dry_run)
    print_record({"dry_run": dry_run, "runs": len(runs), "forecasts": sum(runs.values())}, json_=json_)


@store_app.command("runs")
def runs(config: ConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """List the runs of the ledger: when each ran, and how many forecasts and bars of its own it has.

    --json adds what decided each run's forecasts.
    """
    from forecaster.errors import format_time
    from forecaster.store import maintenance as upkeep

    found = upkeep.runs(_url(config, store))
    if json_:
        typer.echo(json.dumps({"runs": [dataclasses.asdict(one) for one in found]}))
        return
    for one in found:
        held = f"{one.forecasts:,} forecasts, {one.bars:,} bars"
        say(f"{one.id:32} {one.kind:8} {format_time(one.started_at)}  {held}")


@store_app.command("delete")
def delete(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs, as `store runs` lists them.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and delete nothing.")] = False,
    config: ConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Delete replays and predictions by name, with the bars that they alone see. The live run is refused.

    The space is reused; `store vacuum` gives it back.
    """
    from forecaster.store import maintenance as upkeep

    found = upkeep.delete_runs(_url(config, store), run_ids, dry_run=dry_run)
    held = {"forecasts": sum(one.forecasts for one in found), "bars": sum(one.bars for one in found)}
    print_record({"dry_run": dry_run, "runs": len(found), **held}, json_=json_)


@store_app.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="File to write: .parquet, .feather or .csv.")],
    config: ConfigOption = None,
    store: StoreOption = None,
    series: SeriesOption = None,
    run_id: Annotated[str, typer.Option("--run", help="Which run: `live`, or the id a replay printed.")] = "live",
    json_: JsonOption = False,
) -> None:
    """Write a run's forecasts to a file: a line for each field of each step, all quantiles, and what came."""
    from forecaster.cli.printing import write_frames
    from forecaster.client import check_run
    from forecaster.engine import Forecaster
    from forecaster.export import frames

    with Forecaster.from_config(config, store) as forecaster:
        check_run(forecaster.reader, run_id)
        count = write_frames(frames(forecaster.reader, forecaster.select(series), run_id), out)
    print_record({"run": run_id, "rows": count, "file": str(out)}, json_=json_)


@store_app.command("upgrade")
def upgrade(config: ConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """Bring the ledger to this program's schema, after a copy of it; whoever writes to it does so as well.

    The disk needs room for the copy; and for schema 7, which makes the table of bars anew, for the bars once more.
    """
    from forecaster.store import open_store
    from forecaster.store.maintenance import schema

    url = _url(config, store)
    before = schema(url)  # an error where there is none, rather than a new one
    open_store(url).close()
    print_record({"schema_before": before, "schema": schema(url)}, json_=json_)


@verify_app.command("ledger")
def ledger(config: ConfigOption = None, store: StoreOption = None, json_: JsonOption = False) -> None:
    """Check every row of the ledger: chains, checksums, columns, times, and that nothing refers to what is not there.

    Code 2 when something is wrong. `heads` with --json names the last link of each chain: note them down, and a later
    check can be compared with them.
    """
    from forecaster.store import open_database
    from forecaster.store.verify import count_rows, verify_ledger

    database = open_database(_url(config, store))
    try:
        with progress_bar() as progress:
            task = progress.add_task("ledger", total=count_rows(database))
            found = verify_ledger(database, lambda rows: progress.advance(task, rows))
    finally:
        database.close()
    if json_:
        typer.echo(json.dumps({"ok": found.ok} | dataclasses.asdict(found)))
    else:
        for note in found.notes:
            say(f"note: {note}")
        for error in found.errors:
            say(error, fg="red", err=True)
        say(f"{found.rows:,} rows, {len(found.errors)} errors: {'ok' if found.ok else 'NOT what was written'}")
    if not found.ok:
        raise typer.Exit(2)


def _rows(progress: Progress, name: str) -> Callable[[int], None]:
    """Show how many rows were checked, from the first one on."""
    task = cache(partial(progress.add_task, name, total=None))
    return lambda rows: progress.advance(task(), rows)


def _pages(progress: Progress, name: str) -> Callable[[int, int], None]:
    """Show how many pages of a file were copied, from the first one on."""
    task = cache(partial(progress.add_task, name, total=None))
    return lambda left, pages: progress.update(task(), completed=pages - left, total=pages)


def _url(config: str | None, store: str | None) -> str:
    """The URL of the ledger that is meant: the configured one, unless another is named."""
    from forecaster.config_file import default_config_path, load_config
    from forecaster.urls import ledger_url

    return load_config(config or default_config_path()).store.url.reveal() if store is None else ledger_url(store)
