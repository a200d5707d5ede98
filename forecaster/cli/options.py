"""Options that several commands share, and how their names, times and files are read."""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import typer

from forecaster.cli.printing import say
from forecaster.errors import ConfigError, ForecasterError, UnknownSymbol
from forecaster.tables import COLUMNS, ParseOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from forecaster.bars import SeriesKey, ValidatedRows
    from forecaster.config import Config
    from forecaster.sources.files import FileSource, InferredSeries
    from forecaster.sources.summary import FileError


def resolve_config(config: str | None, *, quiet: bool = False) -> str:
    """Return the configuration file of a command; without --config, say on standard error which one is used.

    Args:
        config: what --config says.
        quiet: whether to say so only of the embedded demo configuration.
    """
    from forecaster.config_file import EMBEDDED, default_config_path

    if config is not None:
        return config
    path = default_config_path()
    if path == EMBEDDED:
        say("using the embedded demo configuration; pass --config for your own", err=True)
    elif not quiet:
        say(f"configuration: {path}", err=True)
    return path


def _resolve(context: typer.Context, config: str | None) -> str | None:
    return config if context.resilient_parsing else resolve_config(config)


_CONFIG_HELP: Final = "TOML file; see config/*.toml."
_CONFIG_DEFAULT: Final = "FORECASTER_CONFIG, else the embedded demo"
ConfigOption = Annotated[
    str | None,
    typer.Option("--config", "-c", help=_CONFIG_HELP, show_default=_CONFIG_DEFAULT, callback=_resolve),
]
OptionalConfigOption = Annotated[
    str | None, typer.Option("--config", "-c", help=_CONFIG_HELP, show_default=_CONFIG_DEFAULT)
]
"""For commands that may not need it: they call `resolve_config` when they do."""
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
SeriesOption = Annotated[
    str | None, typer.Option("--series", help="One series, as 'EXCHANGE SYMBOL TIMEFRAME'.", show_default="all series")
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help="Path or URL of a ledger, such as replays.db.", show_default="as configured"),
]
AsOfOption = Annotated[
    str | None, typer.Option("--as-of", help="As known at this time (UTC, ISO 8601).", show_default="now")
]
RunOption = Annotated[str, typer.Option("--run", help="`live`, or the id of a replay.")]

_LISTED: Final = 20
"""Number of known names in a message."""
_PLACES: Final = ("open_time", *COLUMNS)
_COLUMNS_EXAMPLE: Final = "open_time,open,high,low,close,volume by place, or close=Last,open=First by name"


@dataclass(frozen=True)
class FileOptions:
    """How a command reads its files; None means: infer it from the file.

    Args:
        timeframe: distance between bars, such as `1h`.
        calendar: `24/7` or the code of an exchange.
        day_anchor: time at which days of a market that never closes begin.
        parse_options: how cells are parsed.
        symbol: the symbol of a file without one, or one of several in a file.
    """

    timeframe: str | None = None
    calendar: str | None = None
    day_anchor: str | None = None
    parse_options: ParseOptions = field(default_factory=ParseOptions)
    symbol: str | None = None


INFERRED: Final = FileOptions()


class FileSeries(NamedTuple):
    """One series of a file. `name` is that of the file, with the symbol where the file holds several."""

    path: Path
    source: FileSource
    inferred: InferredSeries
    name: str


def open_file(path: Path, file_options: FileOptions) -> list[FileSeries]:
    """Open a file and infer its series.

    Raises:
        ForecasterError: for a file that cannot be read, or needs another option.
    """
    from forecaster.sources.files import FileSource

    source = FileSource(path, file_options.parse_options)
    inferred = source.infer_series(file_options.timeframe, file_options.calendar, file_options.day_anchor)
    if file_options.symbol is not None:
        inferred = [_with_symbol(path, inferred, file_options.symbol)]
    names = [path.stem if len(inferred) == 1 else f"{path.stem} {series.key.symbol}" for series in inferred]
    return [FileSeries(path, source, series, name) for series, name in zip(inferred, names, strict=True)]


def _with_symbol(path: Path, inferred: list[InferredSeries], symbol: str) -> InferredSeries:
    """Name the only series of a file `symbol`, or choose the series of that symbol.

    Raises:
        UnknownSymbol: when the file holds several series, and none has that symbol.
    """
    from forecaster.bars import SeriesKey

    name = SeriesKey("", symbol, "1d").symbol
    by_symbol = {series.key.symbol: series for series in inferred}
    if len(inferred) > 1:
        if name not in by_symbol:
            raise UnknownSymbol(str(path), name, by_symbol)
        return by_symbol[name]
    (series,) = inferred
    return replace(series, key=replace(series.key, symbol=name), reasons={**series.reasons, "symbol": "as given"})


def for_each_series(
    files: Iterable[Path], file_options: FileOptions, work: Callable[[FileSeries], None]
) -> list[FileError]:
    """Call `work` with each series of each file. Return the errors of those that cannot be used."""
    from forecaster.sources.summary import FileError

    errors = []
    for path in files:
        try:
            opened = open_file(path, file_options)
        except ForecasterError as error:
            errors.append(FileError.from_exception(path, error))
            continue
        for series in opened:
            try:
                work(series)
            except ForecasterError as error:
                name = str(series.inferred.key) if len(opened) > 1 else ""
                errors.append(FileError.from_exception(path, error, name))
    return errors


def read_files(config: Config, keys: Iterable[SeriesKey], as_of: int) -> dict[SeriesKey, ValidatedRows]:
    """Read these series from their files as of `as_of` (UTC ms). Files that cannot be read are left out."""
    from forecaster.replay.histories import HistoryLoader

    in_files = {series.key for series in config.series if series.file is not None}
    with HistoryLoader(config) as histories:
        for key in keys:
            if key in in_files:
                with suppress(ForecasterError):
                    histories.load(key, as_of)
    return histories.from_files


def with_file_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `file_options` of a command by the options of `_file_options`."""
    options = inspect.signature(_file_options, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.parameters.items():
        parameters += options.values() if name == "file_options" else [parameter]

    @wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in options}
        command(**arguments, file_options=_file_options(**given))

    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _file_options(  # noqa: PLR0913, PLR0917 - one parameter for each option
    timeframe: Annotated[
        str | None, typer.Option(help="Time between bars, such as 1h or 1d.", show_default="from the times")
    ] = None,
    calendar: Annotated[
        str | None,
        typer.Option(
            help="24/7, 24/5, or a stock exchange such as XNYS, NASDAQ or XETR.", show_default="from the times"
        ),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            help="Zone of times that are written without one, such as America/New_York, +02:00, or "
            "America/New_York+07:00 for most MetaTrader brokers.",
            show_default="UTC, unless the file contradicts it",
        ),
    ] = None,
    day_anchor: Annotated[
        str | None,
        typer.Option(help="Time at which days begin with --calendar 24/7, such as 16:00 or '17:00 America/New_York'."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="What the columns are. In order: 'open_time, low, high, open, close', with nothing between two "
            "commas to skip a column. Or by name: 'close=Last, open=First'.",
            show_default="from the header",
        ),
    ] = None,
    decimal: Annotated[
        Literal[".", ","] | None, typer.Option(help="Decimal mark: `,` reads 1.234,5 as 1234.5.")
    ] = None,
    dayfirst: Annotated[
        bool | None,
        typer.Option("--dayfirst/--no-dayfirst", help="Whether 01/02/2024 is 1 February or January 2."),
    ] = None,
    symbol_column: Annotated[
        str | None,
        typer.Option(help="Name of the column with the symbol, such as Name; '' for none."),
    ] = None,
    symbol: Annotated[
        str | None,
        typer.Option(help="Symbol as BASE/QUOTE, such as SPY/USD; chooses one of several in a file."),
    ] = None,
) -> FileOptions:
    """Collect the options for reading files."""
    parsed_columns = None if columns is None else parse_columns(columns)
    parse_options = ParseOptions(timezone, parsed_columns, decimal, dayfirst, symbol_column)
    return FileOptions(timeframe, calendar, day_anchor, parse_options, symbol)


def parse_columns(text: str) -> tuple[str, ...] | Mapping[str, str]:
    """Parse `--columns`: fields in order, or the name of the column of each field.

    Raises:
        ConfigError: for an unknown field, a repeated field, or a mixture of both forms.
    """
    parts = [part.strip() for part in text.split(",")]
    pairs = [part.partition("=") for part in parts]
    fields = [name.strip() for name, _, _ in pairs if name]
    is_mixed = len({mark for _, mark, _ in pairs}) > 1
    if is_mixed or not fields or len(set(fields)) < len(fields) or not set(fields) <= set(_PLACES):
        raise ConfigError("--columns", f"each once of {', '.join(_PLACES)}: {_COLUMNS_EXAMPLE}", text)
    return {name.strip(): column.strip() for name, _, column in pairs} if "=" in text else tuple(parts)


def utc_ms(text: str | None, default: int) -> int:
    """Return a date or time as UTC ms. Without a zone, it is UTC."""
    import datetime as dt

    if text is None:
        return default
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError("time", "a date or time such as 2017-01-03 or 2017-01-03T21:00", text) from error
    return round((when if when.tzinfo else when.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def as_of_ms(text: str | None, now: int) -> int:
    """Return `--as-of` as UTC ms; now when it is left out.

    Raises:
        ConfigError: for a time in the future: the same command would print something else later.
    """
    time = utc_ms(text, now)
    if time > now:
        raise ConfigError("--as-of", "a time that has passed", text)
    return time


def check_name(option: str, name: str, known: Collection[str]) -> None:
    """Check that a name is known. The message lists known names, the most similar first.

    Raises:
        ConfigError: when `name` is not among `known`.
    """
    if name not in known:
        raise ConfigError(option, f"one of {listed(name, known)}", name)


def listed(name: str, known: Collection[str]) -> str:
    """List at most 20 known names, those similar to `name` first."""
    similar = get_close_matches(name, known, n=3)
    names = [*similar, *sorted(set(known) - set(similar))]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
