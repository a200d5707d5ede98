"""How commands print forecasts and cycles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

from forecaster.cli.printing import print_record, say
from forecaster.cli.text_table import Column, TextTable, text
from forecaster.errors import format_time
from forecaster.formatting import approximate_duration, format_iso, format_minute, format_price

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forecaster.forecast import OHLCForecast

_COVERAGE: Final = 0.8
_MAX_LISTED: Final = 3
"""Number of revised bars that are listed."""


def print_cycle(as_of: int, record: dict[str, object], skipped: Mapping[str, str], *, json_: bool) -> None:
    """Print counts and the series that were skipped, with reasons; end with code 2 when all were.

    Args:
        as_of: UTC ms.
        record: counts; `series` is the number of all series.
        skipped: reasons by series: in the JSON, or a line for each on standard error.
        json_: whether to print JSON.
    """
    if json_:
        print_record({"as_of": as_of} | record | {"skipped": dict(skipped)}, json_=True)
    else:
        print_record({"as_of": format_time(as_of)} | record | {"skipped": len(skipped)}, json_=False)
        for name, reason in skipped.items():
            say(reason if name in reason else f"{name}: {reason}", fg="red", err=True)
    if len(skipped) == record["series"]:
        raise typer.Exit(2)


def print_forecast(forecast: OHLCForecast, now: int | None = None) -> None:
    """Print a forecast as a table: medians of all fields and the 80 % interval of the close, by target bar.

    Args:
        forecast: the forecast.
        now: UTC ms, to print its age and whether it is stale.
    """
    say(f"{forecast.key}  forecast at {format_time(forecast.cutoff)}", bold=True)
    if now is not None:
        age = f"{approximate_duration(forecast.age(now))} old"
        stale = forecast.is_stale(now)
        say(
            f"{age}, stale: its first target bar has closed" if stale else f"{age}, fresh",
            fg="yellow" if stale else None,
        )
    fields = [Column(name, optional=True) for name in ("open", "high", "low")]
    table = TextTable(
        "medians, and the 80% interval of the close",
        [text("bar opens (UTC)"), "close", "80% from", "80% to", *fields],
    )
    lower, upper = forecast.interval(_COVERAGE)
    scale = float(upper.max())
    columns = (forecast.median(), lower, upper, *(forecast.median(name) for name in ("open", "high", "low")))
    for step, target_open in enumerate(forecast.target_opens().tolist()):
        table.add(format_minute(target_open), *(format_price(float(column[step]), scale) for column in columns))
    table.show()
    if forecast.available_at is not None:
        model = forecast.provenance.ledger_id.name
        say(f"model {model}, engine {forecast.engine}, available since {format_time(forecast.available_at)}")
    if forecast.revised:
        say(revised_message(forecast.revised), fg="yellow")


def forecast_record(forecast: OHLCForecast) -> dict[str, object]:
    """Return a forecast as JSON: all fields and quantiles, times in UTC ms and ISO 8601.

    `quantiles` holds, by field and level, one price for each step.
    """
    from forecaster.bars import FIELDS

    key, opens = forecast.key, forecast.target_opens().tolist()
    return {
        "series": str(key),
        "exchange": key.exchange,
        "symbol": key.symbol,
        "timeframe": str(key.timeframe),
        "model": str(forecast.provenance.ledger_id),
        "engine": forecast.engine,
        "cutoff": forecast.cutoff,
        "cutoff_iso": format_iso(forecast.cutoff),
        "issued_at": forecast.issued_at,
        "issued_at_iso": format_iso(forecast.issued_at),
        "available_at": forecast.available_at,
        "available_at_iso": format_iso(forecast.available_at),
        "last_close": forecast.last_close,
        "revised": list(forecast.revised),
        "target_opens": opens,
        "target_opens_iso": [format_iso(time) for time in opens],
        "quantile_levels": list(forecast.quantile_levels),
        "quantiles": {
            field: {str(level): forecast.quantile(level, field).tolist() for level in forecast.quantile_levels}
            for field in FIELDS
        },
    }


def revised_message(open_times: Sequence[int]) -> str:
    """Describe input bars that were revised after the forecast was issued."""
    first = ", ".join(map(format_time, open_times[:_MAX_LISTED]))
    more = len(open_times) - _MAX_LISTED
    listed = f"{first} and {more:,} more" if more > 0 else first
    bars, were = ("1 input bar", "was") if len(open_times) == 1 else (f"{len(open_times):,} input bars", "were")
    return f"do not rely on this forecast: {bars} {were} revised after it was issued: {listed}"
