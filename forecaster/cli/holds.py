"""The commands about exchanges that are on hold: which they are, and how to ask them again."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from forecaster.cli.options import ConfigOption, JsonOption, StoreOption, check_name
from forecaster.cli.printing import left_text, say, say_json

if TYPE_CHECKING:
    from forecaster.ledger import Hold

holds_app = typer.Typer()


@holds_app.callback(invoke_without_command=True)
def holds(
    context: typer.Context, config: ConfigOption = None, store: StoreOption = None, json_: JsonOption = False
) -> None:
    """List exchanges that are on hold because they refused requests: until when, why, and the next probe.

    During a hold, one request goes out from time to time, a probe: every minute after an outage, every hour after a
    rate limit; after a ban when half of what is left has passed, at the earliest after 6 hours. An answer to it ends
    the hold. `forecaster holds lift EXCHANGE` ends it at once.
    """
    if context.invoked_subcommand is not None:
        return
    from forecaster.clock import now_ms

    now = now_ms()
    _, known = _holds(config, store)
    found = [one for one in known.values() if one.until > now]
    if json_:
        say_json({"holds": [_record(one, now) for one in found]})
        return
    for one in found:
        say(hold_text(one, now))
        say(f"  {_more_text(one)}")
    if not found:
        say("none")


@holds_app.command("lift")
def lift(
    exchange: Annotated[str, typer.Argument(help="Name of the exchange in the configuration.")],
    config: ConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Lift the hold of one exchange. A running service need not be stopped: its next request to the exchange goes out.

    One request goes first, the others follow once it has been answered. Some exchanges lengthen a ban for every request
    that is made during it: lift one only when you know that it is over.
    """
    from forecaster.clock import now_ms
    from forecaster.config_file import default_config_path, load_config
    from forecaster.store.holds import lift as lift_in

    now = now_ms()
    url, known = _holds(config, store)
    check_name("EXCHANGE", exchange, {*load_config(config or default_config_path()).exchanges, *known})
    hold = known.get(exchange)
    is_held = hold is not None and hold.until > now
    if is_held:
        lift_in(url, exchange, now)
    if json_:
        say_json({"exchange": exchange, "lifted": is_held})
    else:
        say(f"{exchange}: hold lifted; one request goes first" if is_held else f"{exchange} is not on hold")


def _holds(config: str | None, store: str | None) -> tuple[str, dict[str, Hold]]:
    """The URL of the ledger, and the newest hold of each exchange in it."""
    from forecaster.config_file import default_config_path, load_config
    from forecaster.store import open_reader
    from forecaster.urls import ledger_url

    url = load_config(config or default_config_path()).store.url.reveal() if store is None else ledger_url(store)
    with closing(open_reader(url)) as reader:
        return url, {one.exchange: one for one in reader.holds()}


def hold_text(hold: Hold, now: int) -> str:
    """Say until when an exchange is on hold, and why."""
    from forecaster.errors import format_time
    from forecaster.ledger import LIMIT

    kind, reason = hold.kind, hold.reason.removeprefix(f"{hold.kind.name}: ")
    left = f"on hold until {format_time(hold.until)} ({left_text(hold.until - now)} left)"
    return f"{hold.exchange}: {left}, {'rate limit' if kind is LIMIT else kind.name}: {reason}"


def _more_text(hold: Hold) -> str:
    """Say since when, and what ends it."""
    from forecaster.errors import format_time

    probe = f"next probe from {format_time(hold.probe_at)} on" if hold.probe_at < hold.until else "no probe before that"
    since = format_time(hold.seen_at if hold.since is None else hold.since)
    return f"since {since}, {probe}; `forecaster holds lift {hold.exchange}` ends it"


def _record(hold: Hold, now: int) -> dict[str, object]:
    return {
        "exchange": hold.exchange,
        "kind": hold.kind.name,
        "until": hold.until,
        "seconds_left": (hold.until - now) / 1000,
        "reason": hold.reason,
        "since": hold.seen_at if hold.since is None else hold.since,
        "probe_at": hold.probe_at if hold.probe_at < hold.until else None,
    }
