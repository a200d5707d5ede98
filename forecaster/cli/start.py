"""`forecaster start`: writes a configuration for files of bars and makes the first forecast, offline."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from forecaster.cli.bars_printing import print_rejected
from forecaster.cli.forecast_printing import forecast_record, print_forecast
from forecaster.cli.options import INFERRED, FileOptions, JsonOption, open_file, with_file_options
from forecaster.cli.printing import log_to_stderr, say, say_json
from forecaster.errors import Ambiguous, ConfigError, ForecasterError
from forecaster.formatting import option_time
from forecaster.output_files import atomic_write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forecaster.bars import Bars, SeriesKey, ValidatedRows
    from forecaster.cli.options import FileSeries
    from forecaster.forecast import OHLCForecast
    from forecaster.tables import ParseOptions

_CONTEXT: Final = 256
_MIN_CONTEXT: Final = 64
_MIN_REPLAYED: Final = 20
"""Smallest number of cutoffs of a series in the suggested replay."""
_TOTAL_REPLAYED: Final = 200
"""Number of cutoffs in the suggested replay, so that it takes seconds."""
_MAX_PRINTED: Final = 10
"""Number of forecasts that are printed."""
_COMMENTS: Final = {
    "exchange": "a name of your choice: these bars come from a file",
    "symbol": "BASE/QUOTE",
    "timeframe": "time between bars",
    "calendar": "which bars should exist: 24/7, or a stock exchange such as XNYS",
    "day_anchor": "time at which days begin",
    "file": "relative to this file; read once when a command starts",
    "timezone": "zone of times that the file writes without one",
    "columns": "what the file's columns are",
    "decimal": "the file's decimal mark",
    "dayfirst": "whether 01/02/2024 is 1 February",
    "symbol_column": "the file's column with the symbol",
    "id": "the bundled model; or a folder, or hub:OWNER/NAME",
    "compile": "auto: compiled code where it is faster; on; off",
    "context": "bars that the model sees",
    "min_context": "a series with fewer bars is skipped",
    "horizon": "bars to forecast",
    "baselines": "recorded and scored too",
    "url": "the ledger, relative to this file; created by the first command that records",
}


class _SeriesBars(NamedTuple):
    """One series of a file, with its bars."""

    series: FileSeries
    rows: ValidatedRows

    @property
    def key(self) -> SeriesKey:
        return self.series.inferred.key

    @property
    def bars(self) -> Bars:
        return self.rows.bars


@with_file_options
def start(
    files: Annotated[list[Path], typer.Argument(help="csv, Parquet, feather or json; also packed, .gz or .zip.")],
    file_options: FileOptions = INFERRED,
    horizon: Annotated[int, typer.Option(min=1, max=1024, help="Bars to forecast.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Configuration to write.", show_default="NAME.toml beside the first file")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing configuration.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write a configuration for your own files, and forecast the bars after their last ones, offline.

    Example: forecaster start BTCUSDT_1h.csv. Inspect the file first with `forecaster bars inspect`. The options say how
    files are read; they are written into the configuration. Nothing is recorded yet: the last lines show how to replay
    the past, and how to record a forecast. A series with too few bars is left out, with a message.
    """
    from forecaster.clock import now_ms
    from forecaster.config_file import load_config
    from forecaster.engine import Forecaster
    from forecaster.sources.files.inference import base_name

    log_to_stderr(verbose=False)
    target = out or files[0].with_name(f"{base_name(files[0])}.toml")
    if target.exists() and not force:
        raise ConfigError("--out", "a file that does not exist, or --force to overwrite it", str(target))
    if not target.absolute().parent.is_dir():
        raise ConfigError("--out", "a file in an existing folder", str(target))
    now = now_ms()
    ready, skipped = _read(files, file_options, now)
    with atomic_write(target, "--out") as file:
        file.write(_configuration(ready, target, file_options.parse_options, horizon).encode())
        file.flush()
        with Forecaster(load_config(file.name)) as forecaster:
            forecasts = [forecaster.predict(entry.bars) for entry in ready]
    steps = _next_steps(ready, target, now)
    if json_:
        series = [_record(*pair) for pair in zip(ready, forecasts, strict=True)]
        say_json({"config": str(target), "series": series, "skipped": skipped, "next": [*steps]})
        return
    _print(forecasts, target, steps)


def _check_zone(series: FileSeries, rows: ValidatedRows) -> None:
    """Refuse times without a zone that would be in the future if they were UTC.

    Raises:
        Ambiguous: names `timezone`.
    """
    is_assumed = rows.parsed_as.get("timezone", "").startswith("UTC, as no zone")
    if is_assumed and rows.future_opens and not series.inferred.key.timeframe.is_daily:
        found = f"times without a zone, {rows.future_opens} of them in the future if they are UTC"
        raise Ambiguous(series.name, "timezone", "its IANA name, such as Asia/Seoul, or UTC if they are", found)


def _read(files: Sequence[Path], file_options: FileOptions, now: int) -> tuple[list[_SeriesBars], dict[str, str]]:
    """Read all series. Print rejected rows, and series that are left out, with reasons.

    Raises:
        ForecasterError: for a file that cannot be read, or when no series can be forecast.
    """
    ready, failed = [], {}
    for series in [series for path in files for series in open_file(path, file_options)]:
        try:
            rows = series.source.validate_rows(series.inferred.key, now)
            print_rejected(series.name, rows)
            _check_zone(series, rows)
            _context_bars(rows.bars)
            ready.append(_SeriesBars(series, rows))
        except ForecasterError as error:
            failed[series.inferred.key] = error
    if not ready:
        raise next(iter(failed.values()))
    skipped = {str(key): f"{type(error).__name__}: {error}" for key, error in failed.items()}
    for reason in skipped.values():
        say(f"left out: {reason}", fg="yellow", err=True)
    return ready, skipped


def _context_bars(bars: Bars) -> int:
    """Return the number of bars in the context that ends with the last one.

    Raises:
        NotEnoughBars: when they are too few for any model.
    """
    import numpy as np

    from forecaster.config import SHORTEST_CONTEXT
    from forecaster.context import Context
    from forecaster.errors import NotEnoughBars

    if not len(bars):
        raise NotEnoughBars(bars.key, SHORTEST_CONTEXT, 0)
    context = Context.ending_at(bars, int(bars.close_time[-1]), _CONTEXT, SHORTEST_CONTEXT)
    return int(np.isfinite(context.ohlc_CT[-1]).sum())


def _configuration(ready: Sequence[_SeriesBars], target: Path, parse_options: ParseOptions, horizon: int) -> str:
    """Return the configuration as TOML, with a comment beside each key."""
    from forecaster.config import SHORTEST_CONTEXT
    from forecaster.urls import sqlite_url

    fewest = min(_context_bars(entry.bars) for entry in ready)
    model = {
        "id": "nano",
        "compile": "off",
        "context": _CONTEXT,
        "min_context": max(SHORTEST_CONTEXT, min(_MIN_CONTEXT, fewest // 2)),
        "horizon": horizon,
        "baselines": ["random_walk"],
    }
    parts = [
        "# Written by `forecaster start`. After a change: forecaster config check -c FILE",
        *(_table("[[series]]", _series(entry, target, parse_options)) for entry in ready),
        _table("[model]", model),
        _table("[store]", {"url": sqlite_url(Path(f"{target.stem}.db"))}),
    ]
    return "\n\n".join(parts) + "\n"


def _series(entry: _SeriesBars, target: Path, parse_options: ParseOptions) -> dict[str, object]:
    """Return the keys of a series, with the options of its file."""
    from forecaster.calendars import ALWAYS_OPEN, WEEKDAYS, anchored_name

    key, file = entry.key, entry.series.path
    calendar, _, anchor = key.calendar.partition("@")
    has_days = not anchor and calendar in (ALWAYS_OPEN, WEEKDAYS)
    if has_days and anchored_name(None, parse_options.timezone, key.timeframe, calendar) != calendar:
        anchor = "00:00 UTC"
    given = {name: getattr(parse_options, name) for name in parse_options.names()}
    keys = {
        "exchange": key.exchange,
        "symbol": key.symbol,
        "timeframe": str(key.timeframe),
        "calendar": calendar,
        "day_anchor": anchor or None,
        "file": os.path.relpath(file.parent.resolve() / file.name, target.parent.resolve()),
        **given,
    }
    return {name: value for name, value in keys.items() if value is not None}


def _table(head: str, keys: Mapping[str, object]) -> str:
    lines = [f"{f'{name} = {_toml(value)}':44} # {_COMMENTS[name]}" for name, value in keys.items()]
    return "\n".join([head, *lines])


def _toml(value: object) -> str:
    """Format a value as TOML."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(item)}' for name, item in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _next_steps(ready: Sequence[_SeriesBars], target: Path, now: int) -> dict[str, str]:
    """Return suggested commands, with what they do."""
    from forecaster.sources.summary import is_up_to_date

    config = shlex.quote(str(target))
    cutoffs = max(_MIN_REPLAYED, _TOTAL_REPLAYED // len(ready))
    since = option_time(min(int(entry.bars.close_time[-cutoffs:][0]) for entry in ready))[:10]
    steps = {f"forecaster replay -c {config} --since {since}": "forecast the recent past, and score it"}
    if all(is_up_to_date(entry.bars, now) for entry in ready):
        steps[f"forecaster once -c {config}"] = "record a forecast in the ledger, before its outcome"
    else:
        ends = Counter(int(entry.bars.close_time[-1]) for entry in ready)
        date = option_time(ends.most_common(1)[0][0])
        command = f"forecaster once -c {config} --as-of {date}"
        steps[command] = f"record the forecast of {date}, the last one of the file"
    return steps


def _record(entry: _SeriesBars, forecast: OHLCForecast) -> dict[str, object]:
    """Return a series and its forecast as JSON."""
    from forecaster.sources.summary import count_reasons

    return forecast_record(forecast) | {
        "calendar": entry.key.calendar,
        "file": str(entry.series.path),
        "bars": len(entry.bars),
        "rejected": count_reasons(entry.rows.rejected),
        "unclosed": entry.rows.unclosed,
    }


def _print(forecasts: Sequence[OHLCForecast], target: Path, steps: Mapping[str, str]) -> None:
    for forecast in forecasts[:_MAX_PRINTED]:
        print_forecast(forecast)
    if len(forecasts) > _MAX_PRINTED:
        say(f"and {len(forecasts) - _MAX_PRINTED} more series; --json has all")
    say(f"configuration: {target}")
    say("next:")
    for command, purpose in steps.items():
        say(f"  {command}", indent=None)
        say(f"      {purpose}", indent=" " * 6)
