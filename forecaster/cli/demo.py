"""`forecaster demo`: the whole service on bundled bars and a simulated clock."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from forecaster.cli.accuracy_printing import print_scores
from forecaster.cli.options import JsonOption, OptionalConfigOption
from forecaster.cli.printing import log_to_stderr, print_record, say
from forecaster.errors import ConfigError, StoreTaken, StoreUnavailable
from forecaster.urls import sqlite_path, sqlite_url, with_path


def demo(
    config: OptionalConfigOption = None,
    cycles: Annotated[
        int | None, typer.Option(min=1, help="Bar closes to run through.", show_default="as configured")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the ledger and the report.")] = Path(),
    json_: JsonOption = False,
) -> None:
    """Watch the whole service run on bundled bars and a simulated clock, offline.

    Prints the accuracy and writes demo-report.html, the page of `forecaster report`. In the JSON, `settled` counts
    ledger rows (one per model, step and field) whose target bar has closed. The scores are those of step 1.
    """
    if config is None:
        say("using the embedded demo configuration", err=True)
    say("loading the model …", err=True)
    from rich.console import Console

    from forecaster.config_file import EMBEDDED, load_config, with_store
    from forecaster.daemon.demo import Demo
    from forecaster.engine import Forecaster

    log_to_stderr(verbose=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("--out", "a folder, or a name for a new one", f"{out}: {error.strerror}") from error
    settings = load_config(config or EMBEDDED)
    if cycles is not None and settings.demo is not None:
        settings = settings.model_copy(update={"demo": settings.demo.model_copy(update={"cycles": cycles})})
    ledger = _demo_ledger(settings.store.url.reveal(), out, replace=config is None)
    with Forecaster(with_store(settings, ledger)) as forecaster:
        run = Demo(forecaster)
        summary = run.run(Console(stderr=True))
        page = out / "demo-report.html"
        run.write_report(page)
        if not json_:
            print_scores(run.scores)
    say(f"report: {page}", err=json_)
    print_record(dataclasses.asdict(summary), json_=json_)


def _demo_ledger(url: str, out: Path, *, replace: bool) -> str:
    """Return the URL of a new ledger in `out`. An older one of the demo is replaced, any other is kept.

    Raises:
        ConfigError: when there is a ledger that is not the demo's.
        StoreTaken: when a process writes the demo's ledger.
    """
    configured = sqlite_path(url)
    if configured is None:
        return url
    path = out.absolute() / configured.name
    if replace:
        _remove_ledger(path)
    elif path.exists():
        raise ConfigError("store.url", "a ledger that does not exist yet: a demo starts with an empty one", str(path))
    return with_path(url, path)


def _remove_ledger(path: Path) -> None:
    """Remove a ledger and the files that SQLite keeps beside it. Backups and the lock file stay."""
    from forecaster.store.database import Database
    from forecaster.store.lock import lock_of
    from forecaster.store.sqlite import is_ledger

    if path.is_file() and path.stat().st_size and not is_ledger(path):
        raise ConfigError("--out", f"a folder where {path.name} is a ledger, or does not exist", str(path))
    with closing(Database(sqlite_url(path))) as database:
        lock = lock_of(database)
        if not lock.try_acquire():
            expected = "expected a demo ledger that no process writes; stop that process, or use another --out"
            raise StoreTaken(database.url, expected)
        try:
            for ending in ("", "-journal", "-wal", "-shm"):
                path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(database.url, f"expected a file that can be removed: {error}") from error
        finally:
            lock.release()
