"""The command line: each command parses, calls, prints. Mistakes and faults end with code 2 and one clear line."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from forecaster.cli.accuracy import accuracy, report
from forecaster.cli.accuracy_printing import print_scores
from forecaster.cli.alerts import alerts_app
from forecaster.cli.bars import bars_app, pull
from forecaster.cli.bars_printing import print_files, unused_rows
from forecaster.cli.forecast_printing import print_cycle, print_forecast, revised_message
from forecaster.cli.health import ask_health
from forecaster.cli.holds import holds_app
from forecaster.cli.model import model_app
from forecaster.cli.options import AsOfOption, ConfigOption, JsonOption, SeriesOption, StoreOption, as_of_ms, read_files
from forecaster.cli.printing import SKIP_EVENTS, log_to_stderr, print_findings, print_record, say
from forecaster.cli.proofs import verify_app
from forecaster.cli.replay import replay
from forecaster.cli.start import start
from forecaster.cli.store import store_app
from forecaster.cli.strategy import live_signal
from forecaster.errors import ConfigError, ForecasterError, StoreTaken, StoreUnavailable, format_time
from forecaster.urls import sqlite_path, sqlite_url, with_path

if TYPE_CHECKING:
    from forecaster.bars import SeriesKey
    from forecaster.forecast import OHLCForecast


class _Commands(TyperGroup):
    """The commands; a named error of any of them prints one line and ends with code 2."""

    def invoke(self, ctx: Any) -> Any:  # as typer has them
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except ForecasterError as error:
            lines = f"{type(error).__name__}: {error}".split("\n")
            for line in lines:
                say(line, fg="red", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    name="forecaster",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Forecast open, high, low and close at every bar close; record it before the outcome, score it after.\n\n"
    "`forecaster demo` shows it on bundled bars, `forecaster start FILE` on your own. Without --config, every other "
    "command reads the file that FORECASTER_CONFIG names, else the embedded demo configuration.",
)
config_app = typer.Typer(no_args_is_help=True, help="Check or show a configuration file.")
app.add_typer(config_app, name="config")
app.add_typer(bars_app, name="bars")
app.command()(start)
app.command()(pull)
app.command()(accuracy)
app.command()(report)
app.command()(replay)
app.command("health")(ask_health)
app.command("signal")(live_signal)
app.add_typer(alerts_app, name="alerts")
app.add_typer(holds_app, name="holds")
app.add_typer(model_app, name="model")
app.add_typer(store_app, name="store")
app.add_typer(verify_app, name="verify")


def main() -> None:
    """Run the command line."""
    app()


@app.command()
def demo(
    config: ConfigOption = None,
    cycles: Annotated[int | None, typer.Option(min=1, help="Bar closes to run through.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the ledger and the report.")] = Path(),
    json_: JsonOption = False,
) -> None:
    """Watch the whole service run on bundled bars and a sped-up clock, offline.

    Ends with a table and demo-report.html, the page of `forecaster report`. In the JSON, `settled` counts ledger rows (one
    per model, step and field) whose bar has come; the scores are of the next bar's close.
    """
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
        show = Demo(forecaster)
        summary = show.run(Console(stderr=True))
        page = out / "demo-report.html"
        show.write_report(page)
        if not json_:
            print_scores(show.scores)
    say(f"report: {page}", err=json_)
    print_record(dataclasses.asdict(summary), json_=json_)


@app.command()
def run(config: ConfigOption = None) -> None:
    """Run the daemon: a cycle at every bar close, until SIGTERM or Ctrl-C.

    It first catches up on closes that nobody forecast. Where another process writes the ledger it waits, and takes
    over when that one ends. SIGTERM and Ctrl-C let the cycles in hand finish; a second one leaves at once, with code 1.
    SIGHUP has the configuration read again.
    """
    from forecaster.config_file import default_config_path
    from forecaster.daemon.service import Service
    from forecaster.log import log_uncaught_exceptions

    log_to_stderr()
    log_uncaught_exceptions()
    Service(config or default_config_path()).run()


@app.command()
def once(
    config: ConfigOption = None,
    as_of: Annotated[
        str | None, typer.Option(help="As things stood at this time (UTC, ISO 8601); now if left out.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Run one cycle of every timeframe, and leave.

    Exchanges are asked for their newest final bars, forecasts are recorded, and whatever met its bar
    settles. `settled` counts ledger rows, `skipped` the series that were skipped: the reasons are on standard error, or
    in the JSON by series. There `rejected` counts refused rows of files by reason, and `unclosed` rows that had not closed
    yet.
    A file that has ended is told, with the --as-of that gives its last forecast. Code 2 when every series was skipped.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    log_to_stderr(verbose=False, without=SKIP_EVENTS)
    now = now_ms()
    until = as_of_ms(as_of, now)
    with Forecaster.from_config(config) as forecaster:
        reports = [forecaster.run_cycle(timeframe, until, started_at=now) for timeframe in forecaster.timeframes]
        read = read_files(forecaster.config, forecaster.series, until)
    skipped = {str(key): reason for one in reports for key, reason in one.skipped.items()}
    record = {
        "series": sum(one.series for one in reports),
        "bars_added": sum(one.bars_added for one in reports),
        "forecasts": sum(len(one.forecasts) for one in reports),
        "settled": sum(one.settled_rows for one in reports),
    }
    print_files(read, until)
    print_cycle(until, record | (unused_rows(read) if json_ else {}), skipped, json_=json_)


@app.command()
def latest(
    config: ConfigOption = None,
    series: SeriesOption = None,
    as_of: AsOfOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Read the newest forecast of each series from the ledger: no network, no model."""
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    until = None if as_of is None else as_of_ms(as_of, now_ms())
    with Forecaster.from_config(config, store) as forecaster:
        names = {key: (key.exchange, key.symbol, str(key.timeframe)) for key in forecaster.select(series)}
        found = {key: forecaster.latest(name, as_of=until) for key, name in names.items()}
    if json_:
        typer.echo(json.dumps({"forecasts": [_describe(*one) for one in found.items()]}))
        return
    for key, forecast in found.items():
        if forecast is None:
            say(f"{key}: no forecast")
        else:
            print_forecast(forecast, (0.1, 0.5, 0.9))
            say(f"available since {format_time(forecast.available_at)}, engine {forecast.engine}")
            if forecast.revised:
                say(revised_message(forecast.revised), fg="yellow")


@app.command()
def doctor(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """Check this machine and a configuration: versions, model, ledger, one forecast. Code 2 if something is wrong."""
    from forecaster.doctor import examine

    findings = examine(config)
    if not json_:
        print_findings(findings)
    wrong = [one.subject for one in findings if not one.ok]
    if json_:
        typer.echo(json.dumps({"ok": not wrong, "findings": [dataclasses.asdict(one) for one in findings]}))
    if wrong:
        raise typer.Exit(2)


@config_app.command("check")
def config_check(
    config: ConfigOption = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Ask each exchange for its markets and the newest bars of each series.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Check a configuration: model, baselines, exchanges, files of bars, ledger and secrets. Code 2 for any fault.

    All faults are listed, one a line. Nothing is stored, and no exchange is asked.

    With --probe, each exchange is asked for the newest bars of its series. A series is wrong when there are none, when
    they are stale, or when the market is no longer traded. An exchange that has refused this address is not asked
    before its hold is over, or lifted: `forecaster holds`.
    """
    from forecaster.cli.check import check_and_leave
    from forecaster.config_file import default_config_path

    check_and_leave(config or default_config_path(), ask=probe, json_=json_)


@config_app.command("show")
def config_show(config: ConfigOption = None) -> None:
    """Print a configuration with all its defaults, as JSON."""
    from forecaster.config_file import default_config_path, load_config

    typer.echo(json.dumps(load_config(config or default_config_path()).model_dump(mode="json"), indent=2))


def _demo_ledger(url: str, out: Path, *, replace: bool) -> str:
    """Give the URL of the ledger in `out` that a demo begins: an own older one is replaced, another's is left alone.

    Raises:
        ConfigError: when there is one that is not the demo's own.
        StoreTaken: when a process writes the demo's own.
    """
    configured = sqlite_path(url)
    if configured is None:
        return url
    path = out.absolute() / configured.name
    if replace:
        _remove_ledger(path)
    elif path.exists():
        raise ConfigError("store.url", "a ledger that does not exist yet, since a demo starts from none", str(path))
    return with_path(url, path)


def _remove_ledger(path: Path) -> None:
    """Remove a ledger and what SQLite keeps beside it, and nothing else: copies and the file of its lock stay."""
    from forecaster.store.database import Database
    from forecaster.store.lock import lock_of
    from forecaster.store.sqlite import is_ledger

    if path.is_file() and path.stat().st_size and not is_ledger(path):
        raise ConfigError("--out", f"a folder without a {path.name} of something else", str(path))
    with closing(Database(sqlite_url(path))) as database:
        lock = lock_of(database)
        if not lock.try_acquire():
            expected = "expected a demo's ledger that no process writes; stop the one that does, or use another --out"
            raise StoreTaken(database.url, expected)
        try:
            for ending in ("", "-journal", "-wal", "-shm"):
                path.with_name(f"{path.name}{ending}").unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(database.url, f"expected a file that can be removed: {error}") from error
        finally:
            lock.release()


def _describe(key: SeriesKey, forecast: OHLCForecast | None) -> dict[str, object]:
    """What a person or a script wants of the newest forecast of a series."""
    if forecast is None:
        return {"series": str(key), "cutoff": None}
    lower, upper = forecast.interval(0.8)
    return {
        "series": str(key),
        "cutoff": forecast.cutoff,
        "revised": list(forecast.revised),
        "available_at": forecast.available_at,
        "engine": forecast.engine,
        "close_q10": lower.tolist(),
        "close_q50": forecast.median().tolist(),
        "close_q90": upper.tolist(),
    }
