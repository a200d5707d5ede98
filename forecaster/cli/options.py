"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from forecaster.errors import ConfigError

ConfigOption = Annotated[str | None, typer.Option("--config", "-c", help="TOML file; see config/*.toml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
SeriesOption = Annotated[
    str | None, typer.Option("--series", help="One series as 'EXCHANGE SYMBOL TIMEFRAME'; all when left out.")
]


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
