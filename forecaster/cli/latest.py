"""`forecaster latest`: the latest forecast of each series, once or as it changes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from forecaster.cli.forecast_printing import forecast_record, print_forecast
from forecaster.cli.options import AsOfOption, ConfigOption, JsonOption, SeriesOption, StoreOption, as_of_ms
from forecaster.cli.printing import say, say_json
from forecaster.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forecaster.bars import SeriesKey
    from forecaster.engine import Forecaster
    from forecaster.forecast import OHLCForecast

_POLL_SECONDS: Final = 1.0
_MINUTE_MS: Final = 60_000


def latest(
    config: ConfigOption = None,
    series: SeriesOption = None,
    as_of: AsOfOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print again after each new forecast; Ctrl-C ends it.")
    ] = False,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Print the latest forecast of each series from the ledger: no network, no model.

    A row per target bar: median and 80% interval of the close, then medians of open, high and low. A forecast is stale
    once its first target bar has closed. --json has all fields and quantiles.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    if watch and as_of is not None:
        raise ConfigError("--watch", "no --as-of with it", as_of)
    until = None if as_of is None else as_of_ms(as_of, now_ms())
    with Forecaster.from_config(config, store) as forecaster:
        keys = forecaster.select(series)
        if watch:
            _watch(forecaster, keys, json_=json_)
        else:
            _print(_read(forecaster, keys, until), now_ms() if until is None else until, json_=json_)


def _watch(forecaster: Forecaster, keys: Sequence[SeriesKey], *, json_: bool) -> None:
    """Print the forecasts, and again when one is new or becomes stale; on a terminal also each minute, for the age."""
    from rich.console import Console

    from forecaster.clock import now_ms

    is_screen = sys.stdout.isatty() and not json_
    printed = None
    try:
        while True:
            now, forecasts = now_ms(), _read(forecaster, keys, None)
            state = [(forecast.cutoff, forecast.is_stale(now)) if forecast else None for forecast in forecasts.values()]
            current = (state, now // _MINUTE_MS if is_screen else 0)
            if current != printed:
                if is_screen:
                    Console().clear()
                _print(forecasts, now, json_=json_)
                printed = current
            time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt:
        return


def _read(forecaster: Forecaster, keys: Sequence[SeriesKey], as_of: int | None) -> dict[SeriesKey, OHLCForecast | None]:
    return {key: forecaster.latest(key, as_of=as_of, max_age="any") for key in keys}


def _print(forecasts: Mapping[SeriesKey, OHLCForecast | None], now: int, *, json_: bool) -> None:
    if json_:
        say_json({"forecasts": [_record(key, forecast, now) for key, forecast in forecasts.items()]})
        return
    for key, forecast in forecasts.items():
        if forecast is None:
            say(f"{key}  no forecast yet")
        else:
            print_forecast(forecast, now)


def _record(key: SeriesKey, forecast: OHLCForecast | None, now: int) -> dict[str, object]:
    if forecast is None:
        return {"series": str(key), "cutoff": None}
    return forecast_record(forecast) | {"age_seconds": forecast.age(now) / 1000, "stale": forecast.is_stale(now)}
