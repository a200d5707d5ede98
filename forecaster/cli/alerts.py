"""The command that sends a test alert, to see whether alerts arrive."""

from __future__ import annotations

import typer

from forecaster.cli.options import ConfigOption, JsonOption
from forecaster.cli.printing import log_to_stderr, print_record
from forecaster.errors import ConfigError

alerts_app = typer.Typer(no_args_is_help=True, help="Tell an operator what is wrong: try whether that arrives.")


@alerts_app.callback()
def alerts() -> None:
    """Tell an operator what is wrong: try whether that arrives."""


@alerts_app.command("test")
def try_alerts(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """Send a test alert to everybody whom the table `alerts` names, and say what came back.

    A webhook answers with a status, or the class of the fault is told; its address is never shown. Each is tried once;
    the service tries again for an hour. Code 2 when one did not take it.
    """
    from forecaster.clock import now_ms
    from forecaster.config_file import default_config_path, load_config
    from forecaster.daemon.alert_sender import open_receivers, try_once
    from forecaster.daemon.alerts import make_test_alert

    log_to_stderr(verbose=False)
    settings = load_config(config or default_config_path()).alerts
    receivers = [] if settings is None else open_receivers(settings)
    if not receivers:
        found = "no such table" if settings is None else "neither"
        raise ConfigError("alerts", "a table [alerts] with webhook_file or apprise_file", found)
    alert = make_test_alert(now_ms())
    replies = {receiver.name: try_once(receiver, alert) for receiver in receivers}
    said = {name: f"{'sent' if reply.sent else 'not sent'}: {reply.detail}" for name, reply in replies.items()}
    print_record({"receivers": said} if json_ else said, json_=json_)
    if not all(reply.sent for reply in replies.values()):
        raise typer.Exit(2)
