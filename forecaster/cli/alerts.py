"""The command that sends a test alert."""

from __future__ import annotations

import typer

from forecaster.cli.options import ConfigOption, JsonOption, resolve_config
from forecaster.cli.printing import log_to_stderr, print_record
from forecaster.errors import ConfigError

alerts_app = typer.Typer(no_args_is_help=True, help="Test whether alerts arrive.")


@alerts_app.callback()
def alerts() -> None:
    """Test whether alerts arrive."""


@alerts_app.command("test")
def send_test_alert(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """Send a test alert to all configured receivers, and show their answers.

    Shows the status of a webhook, or the class of the error, never its address. Each receiver is tried once; the
    service retries for an hour. Exit code 2 when a receiver did not accept it.
    """
    from forecaster.clock import now_ms
    from forecaster.config_file import load_config
    from forecaster.daemon.alert_sender import open_receivers, try_once
    from forecaster.daemon.alerts import make_test_alert

    log_to_stderr(verbose=False)
    settings = load_config(resolve_config(config)).alerts
    receivers = [] if settings is None else open_receivers(settings)
    if not receivers:
        actual = "no such table" if settings is None else "neither"
        raise ConfigError("alerts", "a table [alerts] with webhook_file or apprise_file", actual)
    alert = make_test_alert(now_ms())
    results = {receiver.name: try_once(receiver, alert) for receiver in receivers}
    answers = {name: f"{'sent' if result.sent else 'not sent'}: {result.detail}" for name, result in results.items()}
    print_record({"receivers": answers} if json_ else answers, json_=json_)
    if not all(result.sent for result in results.values()):
        raise typer.Exit(2)
