"""Options that several commands share, and the names and times that they take."""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import typer

from forecaster.errors import ConfigError, ForecasterError, UnknownSymbol
from forecaster.tables import COLUMNS, ParseOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from forecaster.bars import SeriesKey, ValidatedRows
    from forecaster.config import Config
    from forecaster.sources.files import FileSource, InferredSeries
    from forecaster.sources.summary import FileError

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
_PLACES: Final = ("open_time", *COLUMNS)
_COLUMNS_EXAMPLE: Final = "open_time,open,high,low,close,volume by place, or close=Last,open=First by name"


@dataclass(frozen=True)
class FileOptions:
    """What a command was told of its files; None leaves it to the files.

    Args:
        timeframe: distance between bars, such as `1h`.
        calendar: `24/7` or the code of an exchange.
        day_anchor: time of day at which the bars of a venue that never closes begin.
        parse_options: how their cells are read.
        symbol: of a file that does not say it, or the one that is meant of several.
    """

    timeframe: str | None = None
    calendar: str | None = None
    day_anchor: str | None = None
    parse_options: ParseOptions = field(default_factory=ParseOptions)
    symbol: str | None = None


FILES_AS_THEY_ARE: Final = FileOptions()


class FileSeries(NamedTuple):
    """One series of a file; `name` is the file's, with the symbol where the file holds several."""

    path: Path
    source: FileSource
    inferred: InferredSeries
    name: str


def open_file(path: Path, how: FileOptions) -> list[FileSeries]:
    """Open a file and name its series.

    Raises:
        ForecasterError: for a file that cannot be read, or not without a further option.
    """
    from forecaster.sources.files import FileSource

    source = FileSource(path, how.parse_options)
    guesses = source.infer_series(how.timeframe, how.calendar, how.day_anchor)
    if how.symbol is not None:
        guesses = [_called(path, guesses, how.symbol)]
    names = [path.stem if len(guesses) == 1 else f"{path.stem} {one.key.symbol}" for one in guesses]
    return [FileSeries(path, source, *one) for one in zip(guesses, names, strict=True)]


def _called(path: Path, guesses: list[InferredSeries], symbol: str) -> InferredSeries:
    """Give the one series of a file the name that was said, or take it out of several.

    Raises:
        UnknownSymbol: when none of several is called so.
    """
    from forecaster.bars import SeriesKey

    name = SeriesKey("", symbol, "1d").symbol
    among = {one.key.symbol: one for one in guesses}
    if len(guesses) > 1:
        if name not in among:
            raise UnknownSymbol(str(path), name, among)
        return among[name]
    (guess,) = guesses
    return replace(guess, key=replace(guess.key, symbol=name), reasons={**guess.reasons, "symbol": "as given"})


def for_each_series(files: Iterable[Path], how: FileOptions, work: Callable[[FileSeries], None]) -> list[FileError]:
    """Do `work` with each series of each file; gives what could not be used, after all others have been."""
    from forecaster.sources.summary import FileError

    errors = []
    for path in files:
        try:
            opened = open_file(path, how)
        except ForecasterError as error:
            errors.append(FileError.from_exception(path, error))
            continue
        for one in opened:
            try:
                work(one)
            except ForecasterError as error:
                errors.append(FileError.from_exception(path, error, str(one.inferred.key) if len(opened) > 1 else ""))
    return errors


def read_files(config: Config, keys: Iterable[SeriesKey], as_of: int) -> dict[SeriesKey, ValidatedRows]:
    """Read what files hold of these series at `as_of` (UTC ms); one that cannot be read is not among the answers."""
    from forecaster.replay.histories import HistoryLoader

    in_files = {one.key for one in config.series if one.file is not None}
    with HistoryLoader(config) as histories:
        for key in keys:
            if key in in_files:
                with suppress(ForecasterError):
                    histories.load(key, as_of)
    return histories.from_files


def with_file_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_file_options`, in the place of its parameter `how`, a `FileOptions`."""
    options = inspect.signature(_file_options, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)
    parameters = [one for name, one in own.parameters.items() for one in (options.values() if name == "how" else [one])]

    @wraps(command)
    def run(**given: Any) -> None:
        said = {name: given.pop(name) for name in options}
        command(**given, how=_file_options(**said))

    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _file_options(  # noqa: PLR0913, PLR0917 - one parameter for each option
    timeframe: Annotated[
        str | None, typer.Option(help="Time between bars, such as 1h or 1d. Read from the times if left out.")
    ] = None,
    calendar: Annotated[
        str | None,
        typer.Option(help="24/7, 24/5, or a stock exchange such as XNYS, NASDAQ or XETR. Guessed if left out."),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            help="Clock of times that are written without a zone, such as America/New_York, +02:00, or "
            "America/New_York+07:00 for most MetaTrader brokers. UTC if nothing speaks against it."
        ),
    ] = None,
    day_anchor: Annotated[
        str | None,
        typer.Option(help="Time at which days begin with --calendar 24/7, such as 16:00 or '17:00 America/New_York'."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="What the columns are: by place, as in 'open_time, low, high, open, close' with nothing between two "
            "commas for a column to skip; or by name, as in 'close=Last, open=First'."
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
        typer.Option(help="Name of the column that holds the symbol, such as Name; '' if no column does."),
    ] = None,
    symbol: Annotated[
        str | None,
        typer.Option(help="Symbol as BASE/QUOTE, such as SPY/USD; of several in a file, the one that is meant."),
    ] = None,
) -> FileOptions:
    """Make one record of all options that say how files are read."""
    named = None if columns is None else parse_columns(columns)
    parse_options = ParseOptions(timezone, named, decimal, dayfirst, symbol_column)
    return FileOptions(timeframe, calendar, day_anchor, parse_options, symbol)


def parse_columns(text: str) -> tuple[str, ...] | Mapping[str, str]:
    """Read `--columns`: fields by place, or the name of the column of each field.

    Raises:
        ConfigError: for an unknown field, one that comes twice, or a mixture.
    """
    parts = [part.strip() for part in text.split(",")]
    pairs = [part.partition("=") for part in parts]
    fields = [name.strip() for name, _, _ in pairs if name]
    is_mixed = len({mark for _, mark, _ in pairs}) > 1
    if is_mixed or not fields or len(set(fields)) < len(fields) or not set(fields) <= set(_PLACES):
        raise ConfigError("--columns", f"each once of {', '.join(_PLACES)}: {_COLUMNS_EXAMPLE}", text)
    return {name.strip(): column.strip() for name, _, column in pairs} if "=" in text else tuple(parts)


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
