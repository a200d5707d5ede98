"""`forecaster start`: from files of bars to a configuration and the first forecast, without a network."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from forecaster.cli.bars_printing import print_rejected
from forecaster.cli.forecast_printing import print_forecast
from forecaster.cli.options import INFERRED, FileOptions, JsonOption, open_file, with_file_options
from forecaster.cli.printing import log_to_stderr, say
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
_REPLAYED: Final = (20, 200)
"""Fewest cutoffs of a series in the proposed replay, and cutoffs in all: a first impression after seconds of work."""
_SHOWN: Final = 10
"""How many forecasts are printed."""
_LEVELS: Final = (0.1, 0.5, 0.9)
_COMMENTS: Final = {
    "exchange": "a name of your choice: these bars come from a file",
    "symbol": "BASE/QUOTE",
    "timeframe": "time between bars",
    "calendar": "which bars should exist: 24/7, or a stock exchange such as XNYS",
    "day_anchor": "time at which days begin",
    "file": "relative to this file; read once when a command starts",
    "timezone": "clock of times that the file writes without a zone",
    "columns": "what the file's columns are",
    "decimal": "the file's decimal mark",
    "dayfirst": "whether 01/02/2024 is 1 February",
    "symbol_column": "the file's column that holds the symbol",
    "id": "the bundled model; or a folder, or hub:OWNER/NAME",
    "compile": "auto: compiled code where it is faster; on; off",
    "context": "bars that the model sees",
    "min_context": "fewest real bars; a series that has fewer is skipped",
    "horizon": "bars to forecast",
    "baselines": "recorded and scored beside it",
    "url": "the ledger, relative to this file; the first command that records makes it",
}


class _Ready(NamedTuple):
    """One series of a file, with its bars."""

    series: FileSeries
    sifted: ValidatedRows

    @property
    def key(self) -> SeriesKey:
        return self.series.inferred.key

    @property
    def bars(self) -> Bars:
        return self.sifted.bars


@with_file_options
def start(
    files: Annotated[list[Path], typer.Argument(help="csv, Parquet, feather or json; also packed, .gz or .zip.")],
    how: FileOptions = INFERRED,
    horizon: Annotated[int, typer.Option(min=1, max=1024, help="Bars to forecast.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Configuration to write; NAME.toml beside the first file if left out.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the configuration that is there.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write a configuration for your own files, and forecast what follows their last bars. No network is used.

    Such as: forecaster start BTCUSDT_1h.csv. Look at the file with `forecaster bars inspect` first. The options say how
    files are read, and are written into the configuration. Nothing is recorded yet: the last lines say how to replay
    the past, and how to record a forecast. A series with too few bars is named and left out.
    """
    from forecaster.clock import now_ms
    from forecaster.config_file import load_config
    from forecaster.engine import Forecaster
    from forecaster.sources.files.inference import base_name

    log_to_stderr(verbose=False)
    target = out or files[0].with_name(f"{base_name(files[0])}.toml")
    if target.exists() and not force:
        raise ConfigError("--out", "a name that is free, or --force to overwrite the file", str(target))
    if not target.absolute().parent.is_dir():
        raise ConfigError("--out", "a file in a folder that is there", str(target))
    now = now_ms()
    ready, skipped = _read(files, how, now)
    with atomic_write(target, "--out") as file:
        file.write(_configuration(ready, target, how.parse_options, horizon).encode())
        file.flush()
        with Forecaster(load_config(file.name)) as forecaster:
            forecasts = [forecaster.predict(one.bars) for one in ready]
    steps = _next_steps(ready, target, now)
    if json_:
        series = [_record(*one) for one in zip(ready, forecasts, strict=True)]
        typer.echo(json.dumps({"config": str(target), "series": series, "skipped": skipped, "next": [*steps]}))
        return
    _print(forecasts, target, steps)


def _check_clock(one: FileSeries, sifted: ValidatedRows) -> None:
    """Refuse times that are taken for UTC, and are still to come: the newest bars would stand at other times.

    Raises:
        Ambiguous: names `timezone`.
    """
    is_assumed = sifted.parsed_as.get("timezone", "").startswith("UTC, as no zone")
    if is_assumed and sifted.future_opens and not one.inferred.key.timeframe.is_daily:
        found = f"times without a zone, {sifted.future_opens} of which are still to come if they are UTC"
        raise Ambiguous(one.name, "timezone", "its IANA name, such as Asia/Seoul, or UTC if they are", found)


def _read(files: Sequence[Path], how: FileOptions, now: int) -> tuple[list[_Ready], dict[str, str]]:
    """Read all series, say what was refused of each, and which are left out, and why.

    Raises:
        ForecasterError: for a file that cannot be read, or when no series can be forecast.
    """
    ready, failed = [], {}
    for one in [one for path in files for one in open_file(path, how)]:
        try:
            sifted = one.source.validate_rows(one.inferred.key, now)
            print_rejected(one.name, sifted)
            _check_clock(one, sifted)
            _real_bars(sifted.bars)
            ready.append(_Ready(one, sifted))
        except ForecasterError as error:
            failed[one.inferred.key] = error
    if not ready:
        raise next(iter(failed.values()))
    skipped = {str(key): f"{type(error).__name__}: {error}" for key, error in failed.items()}
    for reason in skipped.values():
        say(f"left out: {reason}", fg="yellow", err=True)
    return ready, skipped


def _real_bars(bars: Bars) -> int:
    """Count the bars in the context of the last one.

    Raises:
        NotEnoughBars: when they are fewer than any model takes.
    """
    import numpy as np

    from forecaster.config import SHORTEST_CONTEXT
    from forecaster.context import Context
    from forecaster.errors import NotEnoughBars

    if not len(bars):
        raise NotEnoughBars(bars.key, SHORTEST_CONTEXT, 0)
    context = Context.ending_at(bars, int(bars.close_time[-1]), _CONTEXT, SHORTEST_CONTEXT)
    return int(np.isfinite(context.ohlc_CT[-1]).sum())


def _configuration(ready: Sequence[_Ready], target: Path, parse_options: ParseOptions, horizon: int) -> str:
    """Write the configuration as TOML, a comment beside each key."""
    from forecaster.config import SHORTEST_CONTEXT
    from forecaster.urls import sqlite_url

    fewest = min(_real_bars(one.bars) for one in ready)
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
        *(_table("[[series]]", _series(one, target, parse_options)) for one in ready),
        _table("[model]", model),
        _table("[store]", {"url": sqlite_url(Path(f"{target.stem}.db"))}),
    ]
    return "\n\n".join(parts) + "\n"


def _series(one: _Ready, target: Path, parse_options: ParseOptions) -> dict[str, object]:
    """The keys of a series; what was said of its file among them."""
    from forecaster.calendars import ALWAYS_OPEN, WEEKDAYS, anchored_name

    key, file = one.key, one.series.path
    calendar, _, anchor = key.calendar.partition("@")
    has_days = not anchor and calendar in (ALWAYS_OPEN, WEEKDAYS)
    if has_days and anchored_name(None, parse_options.timezone, key.timeframe, calendar) != calendar:
        anchor = "00:00 UTC"
    said = {name: getattr(parse_options, name) for name in parse_options.names()}
    keys = {
        "exchange": key.exchange,
        "symbol": key.symbol,
        "timeframe": str(key.timeframe),
        "calendar": calendar,
        "day_anchor": anchor or None,
        "file": os.path.relpath(file.parent.resolve() / file.name, target.parent.resolve()),
        **said,
    }
    return {name: value for name, value in keys.items() if value is not None}


def _table(head: str, keys: Mapping[str, object]) -> str:
    lines = [f"{f'{name} = {_toml(value)}':44} # {_COMMENTS[name]}" for name, value in keys.items()]
    return "\n".join([head, *lines])


def _toml(value: object) -> str:
    """Write a value as TOML does."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(one)}' for name, one in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _next_steps(ready: Sequence[_Ready], target: Path, now: int) -> dict[str, str]:
    """Commands that fit the files, with what they do."""
    from forecaster.sources.summary import is_up_to_date

    config = shlex.quote(str(target))
    fewest, total = _REPLAYED
    cutoffs = max(fewest, total // len(ready))
    since = option_time(min(int(one.bars.close_time[-cutoffs:][0]) for one in ready))[:10]
    steps = {f"forecaster replay -c {config} --since {since}": "forecast the recent past again, and score it"}
    if all(is_up_to_date(one.bars, now) for one in ready):
        steps[f"forecaster once -c {config}"] = "record a forecast in the ledger, before its outcome"
    else:
        ends = Counter(int(one.bars.close_time[-1]) for one in ready)
        date = option_time(ends.most_common(1)[0][0])
        steps[f"forecaster once -c {config} --as-of {date}"] = (
            f"record the forecast of {date}, the file's last: today has none"
        )
    return steps


def _record(one: _Ready, forecast: OHLCForecast) -> dict[str, object]:
    """What a script wants to know of a series and its forecast: quantiles by field and level, one price each step."""
    from forecaster.bars import FIELDS
    from forecaster.sources.summary import count_reasons

    quantiles = {field: {str(level): forecast.quantile(level, field).tolist() for level in _LEVELS} for field in FIELDS}
    return {
        "series": str(one.key),
        "calendar": one.key.calendar,
        "file": str(one.series.path),
        "bars": len(one.bars),
        "rejected": count_reasons(one.sifted.rejected),
        "unclosed": one.sifted.unclosed,
        "cutoff": forecast.cutoff,
        "target_opens": forecast.target_opens().tolist(),
        "quantiles": quantiles,
    }


def _print(forecasts: Sequence[OHLCForecast], target: Path, steps: Mapping[str, str]) -> None:
    for forecast in forecasts[:_SHOWN]:
        print_forecast(forecast, _LEVELS)
    if len(forecasts) > _SHOWN:
        say(f"and {len(forecasts) - _SHOWN} series more: --json has all")
    say(f"configuration: {target}")
    say("next:")
    for command, purpose in steps.items():
        say(f"  {command}")
        say(f"      {purpose}")
