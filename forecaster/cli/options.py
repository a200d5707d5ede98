"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigOption = Annotated[str | None, typer.Option("--config", "-c", help="TOML file; see config/*.toml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
SeriesOption = Annotated[
    str | None, typer.Option("--series", help="One series as 'EXCHANGE SYMBOL TIMEFRAME'; all when left out.")
]
