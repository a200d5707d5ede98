"""The command line. Each command parses, calls and prints. Errors end with exit code 2 and one clear line."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from forecaster.cli.accuracy import accuracy, report
from forecaster.cli.alerts import alerts_app
from forecaster.cli.bars import bars_app, pull
from forecaster.cli.config import config_app, doctor
from forecaster.cli.demo import demo
from forecaster.cli.health import ask_health
from forecaster.cli.holds import holds_app
from forecaster.cli.latest import latest
from forecaster.cli.model import model_app
from forecaster.cli.printing import say
from forecaster.cli.proofs import verify_app
from forecaster.cli.replay import replay
from forecaster.cli.service import once, run
from forecaster.cli.start import start
from forecaster.cli.store import store_app
from forecaster.cli.strategy import live_signal
from forecaster.errors import ForecasterError


class _Commands(TyperGroup):
    """The commands. A ForecasterError of any of them is printed and ends with exit code 2."""

    def invoke(self, ctx: Any) -> Any:  # the types of typer
        """Run a command."""
        try:
            return super().invoke(ctx)
        except ForecasterError as error:
            for line in f"{type(error).__name__}: {error}".split("\n"):
                say(line, fg="red", err=True)
            raise typer.Exit(2) from error


app = typer.Typer(
    name="forecaster",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command()(demo)
app.command()(start)
app.command()(run)
app.command()(once)
app.command()(latest)
app.command("signal")(live_signal)
app.command()(accuracy)
app.command()(report)
app.command()(replay)
app.command()(pull)
app.add_typer(bars_app, name="bars")
app.add_typer(config_app, name="config")
app.command()(doctor)
app.command("health")(ask_health)
app.add_typer(alerts_app, name="alerts")
app.add_typer(holds_app, name="holds")
app.add_typer(model_app, name="model")
app.add_typer(store_app, name="store")
app.add_typer(verify_app, name="verify")


def _print_version(requested: bool) -> None:  # noqa: FBT001 - typer's signature of a callback
    if requested:
        from importlib.metadata import version

        say(f"forecaster {version('forecaster')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Forecast open, high, low and close at every bar close; record it before the outcome, score it after.

    `forecaster demo` shows it on bundled bars, `forecaster start FILE` on your own. Without --config, all other
    commands read the file in FORECASTER_CONFIG, else the embedded demo configuration.
    """


def main() -> None:
    """Run the command line."""
    app()
