"""Options that several commands share, and the names and times that they take."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Final

import typer

from forecaster.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

ConfigOption = Annotated[str | None, typer.Option("--config", "-c", help="TOML file; see config/*.toml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
SeriesOption = Annotated[
    str | None, typer.Option("--series", help="One series as 'EXCHANGE SYMBOL TIMEFRAME'; all when left out.")
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="Another ledger than the configured one, such as replays.db: a path or a URL."),
]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", help="As known at this time (UTC, ISO 8601); now if left out.")
]
RunOption = Annotated[str, typer.Option("--run", help="Which run: `live`, or the id a replay printed.")]

_LISTED: Final = 20
"""How many known names a message lists."""


def utc_ms(text: str | None, default: int) -> int:
    """UTC ms of a date or time; one without a zone is UTC."""
    import datetime as dt

    if text is None:
        return default
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError("time", "a date or time such as 2017-01-03 or 2017-01-03T21:00", text) from error
    return round((when if when.tzinfo else when.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def as_of_ms(text: str | None, now: int) -> int:
    """UTC ms of `--as-of`; now when it is left out.

    Raises:
        ConfigError: for a time that is still to come: the same question would get another answer later.
    """
    time = utc_ms(text, now)
    if time > now:
        raise ConfigError("--as-of", "a time that has passed", text)
    return time


def check_name(option: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that nobody knows; the message lists the known ones, the most similar first.

    Raises:
        ConfigError: when `name` is not among `known`.
    """
    if name not in known:
        raise ConfigError(option, f"one of {listed(name, known)}", name)


def listed(name: str, known: Collection[str]) -> str:
    """The known names as a list for people: those that are similar to `name` first, at most 20."""
    similar = get_close_matches(name, known, n=3)
    names = [*similar, *sorted(set(known) - set(similar))]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
