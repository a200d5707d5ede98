"""The commands about holds: list them, and lift one."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from forecaster.cli.options import JsonOption, OptionalConfigOption, StoreOption, check_name, resolve_config
from forecaster.cli.printing import say, say_json
from forecaster.cli.store import configured_url
from forecaster.formatting import approximate_duration

if TYPE_CHECKING:
    from forecaster.ledger import Hold

holds_app = typer.Typer()


@holds_app.callback(invoke_without_command=True)
def holds(
    context: typer.Context, config: OptionalConfigOption = None, store: StoreOption = None, json_: JsonOption = False
) -> None:
    """List exchanges on hold because they refused requests: until when, why, and the next probe.

    During a hold, a probe request is sent every minute after an outage, and every hour after a rate limit. After a
    ban it is sent when half of the remaining time has passed, and at least 6 hours apart. An answer ends the hold.
    `forecaster holds lift EXCHANGE` ends it at once.
    """
    if context.invoked_subcommand is not None:
        return
    from forecaster.clock import now_ms

    now = now_ms()
    _, latest = _holds(config, store)
    active = [hold for hold in latest.values() if hold.until > now]
    if json_:
        say_json({"holds": [_record(hold, now) for hold in active]})
        return
    for hold in active:
        say(hold_text(hold, now))
        say(f"  {_more_text(hold)}")
    if not active:
        say("none")


@holds_app.command("lift")
def lift(
    exchange: Annotated[str, typer.Argument(help="Name of the exchange in the configuration.")],
    config: OptionalConfigOption = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Lift the hold of one exchange. The service may keep running: it sends its next request to the exchange.

    One request goes first; the others follow once it is answered. Some exchanges extend a ban for every request during
    it: lift a ban only when you know that it is over.
    """
    from forecaster.clock import now_ms
    from forecaster.config_file import load_config
    from forecaster.store import holds as store_holds

    now = now_ms()
    url, known = _holds(config, store)
    check_name("EXCHANGE", exchange, {*load_config(resolve_config(config, quiet=True)).exchanges, *known})
    hold = known.get(exchange)
    is_held = hold is not None and hold.until > now
    if is_held:
        store_holds.lift(url, exchange, now)
    if json_:
        say_json({"exchange": exchange, "lifted": is_held})
    else:
        say(f"{exchange}: hold lifted; one request goes first" if is_held else f"{exchange} is not on hold")


def _holds(config: str | None, store: str | None) -> tuple[str, dict[str, Hold]]:
    """Return the URL of the ledger, and the latest hold of each exchange in it."""
    from forecaster.store import open_reader

    url = configured_url(config, store)
    with closing(open_reader(url)) as reader:
        return url, {hold.exchange: hold for hold in reader.holds()}


def hold_text(hold: Hold, now: int) -> str:
    """Describe until when an exchange is on hold, and why."""
    from forecaster.errors import format_time
    from forecaster.ledger import LIMIT

    kind, reason = hold.kind, hold.reason.removeprefix(f"{hold.kind.name}: ")
    left = f"on hold until {format_time(hold.until)} ({approximate_duration(hold.until - now)} left)"
    return f"{hold.exchange}: {left}, {'rate limit' if kind is LIMIT else kind.name}: {reason}"


def _more_text(hold: Hold) -> str:
    """Describe since when, and what ends it."""
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
