"""The configuration: TOML into checked records. The only module that reads the environment.

Paths in a file are relative to that file, the folder of a model and the file of a ledger too. The environment carries
the path of the file (`FORECASTER_CONFIG`), and what systemd tells a service of itself, and nothing else.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic looks at it
import ipaddress
import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from forecaster.bars import SeriesKey
from forecaster.calendars import ALWAYS_OPEN, WEEKDAYS, anchored, canonical
from forecaster.errors import ConfigError, InvalidContext, StoreUnavailable
from forecaster.secret import HIDDEN, Address
from forecaster.tables import Reading
from forecaster.timeframe import Timeframe
from forecaster.urls import MEMORY, is_clear, shown, sqlite_address, url_of, with_path

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ENVIRONMENT_KEY = "FORECASTER_CONFIG"
EMBEDDED = "embedded"
SHORTEST_CONTEXT = 16
COMPILED_FOLDER = Path("~/.cache/forecaster/compiled")

NANO = "nano"
HUB = "hub:"

_ONE_SERIES = "at least one [[series]]"
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_URL = re.compile(r"[\w+]+://")
_CREDENTIAL = re.compile("key|secret|passw|passphrase|token|credential|auth|cookie", re.IGNORECASE)


def _shown_option(value: object) -> object:
    """Give an option of an exchange as it may be shown: without what is named like a credential, or in a URL."""
    if isinstance(value, dict):
        return {name: HIDDEN if _CREDENTIAL.search(name) else _shown_option(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_shown_option(one) for one in value]
    return shown(value) if isinstance(value, str) and "://" in value else value


def _path_not_url(value: object, info: ValidationInfo) -> object:
    """Refuse an address in place of the file that should hold it: a path is shown, an address is a secret."""
    if isinstance(value, str) and "://" in value:
        raise ConfigError(str(info.field_name), "the path of a file that holds it", "an address")
    return value


SecretFile = Annotated[Path, BeforeValidator(_path_not_url)]
"""The path of a file that holds a secret."""


class _Record(BaseModel):
    """Refuse unknown keys; never change after loading; quote no value in an error, since it may be a secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


_R = TypeVar("_R", bound=_Record)


class ExchangeConfig(_Record):
    """One exchange that ccxt knows; public market data only."""

    id: Annotated[str, Field(description="ccxt's name of the exchange, such as `binance` or `kraken`")]
    api_urls: Annotated[
        dict[str, Address] | Address | None,
        Field(description="replaces ccxt's `urls.api`: for a proxy or a loopback exchange"),
    ] = None
    options: Annotated[
        dict[str, object],
        Field(description="ccxt's `options` of that exchange", repr=False),
        PlainSerializer(_shown_option),
    ] = {}
    timeout: Annotated[float, Field(gt=0, le=120, description="seconds that one request may take")] = 10.0
    deadline: Annotated[
        float, Field(gt=0, le=600, description="seconds within which a series must answer, repeated requests included")
    ] = 30.0
    late_after: Annotated[
        float, Field(ge=0, le=600, description="seconds after its close during which a missing bar is still asked for")
    ] = 20.0
    final_after: Annotated[
        float,
        Field(
            ge=0,
            le=600,
            description="seconds after its close until the newest bar counts as final without a later bar",
        ),
    ] = 40.0

    @property
    def revealed_api_urls(self) -> str | dict[str, str] | None:
        """Its `api_urls` with their passwords, to be asked."""
        if isinstance(self.api_urls, dict):
            return {name: url.reveal() for name, url in self.api_urls.items()}
        return None if self.api_urls is None else self.api_urls.reveal()


class SeriesConfig(_Record):
    """One series to forecast."""

    exchange: Annotated[str, Field(description="a name from [exchanges.NAME]; with `file`, any name")]
    symbol: Annotated[str, Field(description="ccxt unified symbol, such as `BTC/USDT`")]
    timeframe: Annotated[str, Field(description="1m, 3m, 5m, 15m, 30m, 1h, 2h, 4h, 6h, 8h, 12h or 1d")]
    calendar: Annotated[str, Field(description="which bars should exist: `24/7`, or a code such as `XNYS`")] = (
        ALWAYS_OPEN
    )
    day_anchor: Annotated[
        str | None,
        Field(
            description="when days of a 24/7 market begin: `16:00` by `timezone`, else UTC; `17:00 America/New_York`"
        ),
    ] = None
    file: Annotated[Path | None, Field(description="csv, Parquet, feather or json, read once, not an exchange")] = None
    timezone: Annotated[
        str | None,
        Field(description="clock of the file's times: `America/New_York`, `+02:00`, `America/New_York+07:00`"),
    ] = None
    columns: Annotated[
        tuple[str, ...] | dict[str, str] | None,
        Field(description='columns of the file: `["open_time", "open", …]` by place, or `{ close = "Last" }` by name'),
    ] = None
    decimal: Annotated[Literal[".", ","] | None, Field(description="the file's sign before decimals")] = None
    dayfirst: Annotated[bool | None, Field(description="whether 01/02/2024 in the file is the first of February")] = (
        None
    )
    symbol_column: Annotated[
        str | None, Field(description="the file's column that tells whose row it is; empty when none does")
    ] = None

    @field_validator("symbol")
    @classmethod
    def _symbol_is_unified(cls, symbol: str) -> str:
        return SeriesKey.of("", symbol, "1d").symbol

    @field_validator("calendar")
    @classmethod
    def _calendar_has_one_name(cls, name: str) -> str:
        return canonical(name)

    @model_validator(mode="after")
    def _options_have_a_file(self) -> SeriesConfig:
        said = [name for name in Reading.names() if getattr(self, name) is not None]
        if self.file is None and said and (said != ["timezone"] or self.day_anchor is None):
            raise ConfigError(f"series {self.symbol}", "`file`, which the keys below are about", ", ".join(said))
        if self.day_anchor is not None and self.calendar not in (ALWAYS_OPEN, WEEKDAYS):
            raise ConfigError("day_anchor", "none: sessions of an exchange begin when it opens", self.day_anchor)
        return self

    @property
    def key(self) -> SeriesKey:
        """The series that this entry names."""
        length, name = Timeframe(self.timeframe), self.calendar
        if name == ALWAYS_OPEN or (name == WEEKDAYS and (self.day_anchor or self.timezone)):
            name = anchored(self.day_anchor, self.timezone, length, name)
        return SeriesKey(self.exchange, self.symbol, length, name)

    @property
    def reading(self) -> Reading:
        """How its file is to be read."""
        return Reading(self.timezone, self.columns, self.decimal, self.dayfirst, self.symbol_column)

    @property
    def place(self) -> tuple[str, Path | None, str]:
        """Where its bars come from: series of one place share a source, those that read a file otherwise do not."""
        return self.exchange, self.file, repr(self.reading)


class ModelConfig(_Record):
    """The model, and what it is asked."""

    id: Annotated[
        str, Field(min_length=1, description="`nano` (bundled), `hub:OWNER/NAME`, or the path of a checkpoint's folder")
    ] = NANO
    revision: Annotated[
        str | None, Field(description="commit of the hub repository, 40 hexadecimal digits; required for a hub id")
    ] = None
    compile: Annotated[
        Literal["auto", "on", "off"],
        Field(description="auto: serve compiled code where it is quicker; on: wherever it is right; off: never"),
    ] = "auto"
    compiler: Annotated[
        Literal["package", "default", "reduce-overhead", "max-autotune"],
        Field(description="package: built in a process of its own and kept; the others: torch.compile's own modes"),
    ] = "package"
    compiled_folder: Annotated[Path, Field(description="where compiled code is kept; yours alone, mode 700")] = (
        COMPILED_FOLDER
    )
    device: Annotated[str, Field(description="`auto`, `cpu` or `cuda`")] = "auto"
    context: Annotated[int, Field(ge=16, le=8192, description="bars that the model sees")] = 256
    min_context: Annotated[
        int, Field(ge=SHORTEST_CONTEXT, description="fewest real bars; a series that has fewer is skipped")
    ] = 64
    horizon: Annotated[int, Field(ge=1, le=1024, description="bars to forecast")] = 5
    baselines: Annotated[tuple[str, ...], Field(description="models recorded beside it; `random_walk` gives skill")] = (
        "random_walk",
    )

    released: Annotated[
        dt.date | None, Field(description="date (UTC) of its release: its training may have seen what is older")
    ] = None
    calibrate: Annotated[bool, Field(description="move its quantiles by how often outcomes fell below them")] = True

    @model_validator(mode="after")
    def _is_consistent(self) -> ModelConfig:
        if self.min_context > self.context:
            raise ConfigError("model.min_context", f"at most context, {self.context}", self.min_context)
        if self.id.startswith(HUB):
            _check_hub(self.id, self.revision)
        elif self.revision is not None and _REPOSITORY.fullmatch(self.id):
            raise ConfigError("model.id", f"{HUB}{self.id}, or no revision for a folder", self.id)
        elif self.revision is not None:
            raise ConfigError("model.revision", f"none, since {self.id} is no hub repository", self.revision)
        return self


class StoreConfig(_Record):
    """Where the ledger is kept."""

    url: Annotated[
        Address, Field(description="`sqlite:///PATH`, `memory:`, or PostgreSQL's URL; a PATH is relative to the file")
    ] = Address("sqlite:///ledger.db")


class DemoConfig(_Record):
    """What `forecaster demo` replays under a sped-up clock."""

    start: Annotated[str, Field(description="date (UTC) of the first cycle")]
    cycles: Annotated[int, Field(ge=1, description="bar closes to run through")] = 250


class DaemonConfig(_Record):
    """How the service works through what is owed."""

    drain_seconds: Annotated[
        float, Field(gt=0, le=600, description="seconds that work in hand may take once the service is told to end")
    ] = 30.0
    requests_at_once: Annotated[
        int, Field(ge=1, le=1024, description="series of one exchange that are asked for at the same time")
    ] = 64
    check_hours: Annotated[
        float,
        Field(ge=0, le=8784, description="hours between two looks whether an SQLite ledger is whole; 0 for never"),
    ] = 24.0


class HealthConfig(_Record):
    """Where the service answers for its health: `/livez`, `/readyz` and `/metrics`."""

    host: Annotated[
        str, Field(description="address to listen on; any but loopback needs a token and a certificate")
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes any that is free")] = 9464
    token_file: Annotated[
        SecretFile | None, Field(description="file with the token that whoever asks must show, 32 characters or more")
    ] = None
    certificate: Annotated[Path | None, Field(description="PEM file with certificate and key, to be asked by TLS")] = (
        None
    )
    hosts: Annotated[
        tuple[str, ...], Field(description="further names under which it may be asked, besides loopback's")
    ] = ()
    stale_bars: Annotated[
        int, Field(ge=1, le=100, description="bars that a series' newest forecast may be behind and still be ready")
    ] = 2

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can ask."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _is_guarded(self) -> HealthConfig:
        missing = [f"health.{name}" for name in ("token_file", "certificate") if getattr(self, name) is None]
        if missing and not self.is_loopback:
            raise ConfigError("health.host", f"127.0.0.1, ::1 or localhost, or {' and '.join(missing)} too", self.host)
        return self


class AlertsConfig(_Record):
    """Whom to tell when something is wrong."""

    webhook_file: Annotated[
        SecretFile | None,
        Field(description="file with the address to which alerts are posted as JSON; a secret, mode 600"),
    ] = None
    apprise_file: Annotated[
        SecretFile | None,
        Field(description="file with apprise's addresses, one on each line; needs the extra `alerts`"),
    ] = None
    repeat_hours: Annotated[
        float, Field(gt=0, le=720, description="hours after which a condition that lasts is told again")
    ] = 6.0
    disk_free_mib: Annotated[int, Field(ge=0, description="MiB that should stay free beside the ledger")] = 1024


class Config(_Record):
    """A whole configuration file."""

    exchanges: dict[str, ExchangeConfig] = {}
    series: tuple[SeriesConfig, ...]
    model: Annotated[ModelConfig, Field(default_factory=ModelConfig)]
    store: Annotated[StoreConfig, Field(default_factory=StoreConfig)]
    demo: DemoConfig | None = None
    daemon: Annotated[DaemonConfig, Field(default_factory=DaemonConfig)]
    health: HealthConfig | None = None
    alerts: AlertsConfig | None = None
    settle_seconds: Annotated[float, Field(ge=0, le=600, description="seconds after a close before bars are asked")] = 5

    @field_validator("series")
    @classmethod
    def _series_are_distinct(cls, series: tuple[SeriesConfig, ...]) -> tuple[SeriesConfig, ...]:
        if not series:
            raise ConfigError("series", _ONE_SERIES, [])
        keys = [one.key for one in series]
        names = [str(key) for key in keys]
        for key in keys:
            if names.count(str(key)) > 1:
                raise ConfigError("series", "each series once", f"{key} twice")
            _ = key.sessions
        return series

    @model_validator(mode="after")
    def _exchanges_are_named(self) -> Config:
        for one in self.series:
            if one.file is None and one.exchange not in self.exchanges:
                raise ConfigError(f"series {one.key}", f"`file`, or a table [exchanges.{one.exchange}]", one.exchange)
        return self


def load_config(path: str | Path) -> Config:
    """Read and check a TOML file, and make its paths absolute; `embedded` is the demo's own.

    The ledger of the demo's own file alone stays relative to the working directory: the file lies in the installed
    package, which nobody may write.

    Raises:
        ConfigError: names the key, what was expected and what was found.
    """
    demo = embedded("config/demo.toml")
    file = demo if str(path) == EMBEDDED else Path(path).expanduser()
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), "a readable TOML file", str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(file), "TOML", str(error)) from error
    try:
        config = _checked(content)
        return _resolve(config, file.resolve().parent, with_ledger=file.resolve() not in _places("config/demo.toml"))
    except ValidationError as error:
        raise faults_of(file, error)[0] from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.key}", error.expected, error.found) from error


def faults_of(file: Path | str, error: ValidationError) -> list[ConfigError]:
    """Give all that pydantic found wrong with a file, in our own words; keys that are missing come last.

    They are often there, and misspelt.
    """
    faults = sorted(error.errors(include_url=False), key=lambda one: one["type"] == "missing")
    return [_fault(file, one) for one in faults]


def absolute_model_id(model_id: str, folder: Path) -> str:
    """Give a model's id that means the same wherever it is read: a path in it is relative to `folder`.

    Raises:
        ConfigError: for `OWNER/NAME` where there is no such folder: it may be meant as a hub repository.
    """
    if model_id == NANO or model_id.startswith(HUB):
        return model_id
    path = _below(folder, Path(model_id), "model.id")
    if _REPOSITORY.fullmatch(model_id) and not path.is_dir():
        expected = f"{HUB}{model_id} with its revision, or the path of a folder, but {path} is none"
        raise ConfigError("model.id", expected, model_id)
    return str(path)


def with_store(config: Config, store: str) -> Config:
    """Give the configuration with another ledger, by its URL or path; relative to the working directory."""
    return config.model_copy(update={"store": _stored(StoreConfig(url=Address(url_of(store))), Path.cwd())})


def default_config_path() -> str:
    """Give the path from the environment, else the embedded configuration."""
    return os.environ.get(ENVIRONMENT_KEY, EMBEDDED)


class ServiceManager(NamedTuple):
    """The socket on which systemd wants to hear of this process, and within how many seconds again and again."""

    address: str | None
    watchdog_seconds: float | None


def service_manager() -> ServiceManager:
    """Give what systemd has put into the environment: sd_notify(3), sd_watchdog_enabled(3); no other's watchdog."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    watched = usec.isdecimal() and int(usec) > 0 and pid == str(os.getpid())
    return ServiceManager(os.environ.get("NOTIFY_SOCKET") or None, int(usec) / 1e6 if watched else None)


def embedded(name: str) -> Path:
    """Find a file that ships with the program, in a checkout or in an installed package."""
    places = _places(name)
    return next((place for place in places if place.exists()), places[-1])


def _places(name: str) -> tuple[Path, Path]:
    """Where a file that ships with the program lies: in an installed package, and in a checkout."""
    package = Path(__file__).resolve().parent
    return package / EMBEDDED / name, package.parent / name


def _checked(content: dict[str, object]) -> Config:
    """Check what a file says; strictly, so that neither a boolean nor a text is a number.

    As JSON, in which pydantic takes a list for a tuple and a text for a path or a date when it is strict.
    """
    return Config.model_validate_json(json.dumps(content, default=str), strict=True)


def _resolve(config: Config, folder: Path, *, with_ledger: bool) -> Config:
    """Make paths absolute, relative to the folder of the file they were read from."""
    placed = {
        "series": tuple(_placed(one, folder) for one in config.series),
        "model": _placed(config.model, folder).model_copy(update={"id": absolute_model_id(config.model.id, folder)}),
        "store": _stored(config.store, folder) if with_ledger else config.store,
        "health": config.health and _placed(config.health, folder),
        "alerts": config.alerts and _placed(config.alerts, folder),
    }
    return config.model_copy(update=placed)


def _stored(store: StoreConfig, folder: Path) -> StoreConfig:
    """Make the path of a ledger absolute, where it is kept in a file."""
    url = store.url.reveal()
    try:
        address = sqlite_address(url)
    except StoreUnavailable as error:
        expected = "sqlite:///PATH, ?timeout=SECONDS or nothing behind it"
        raise ConfigError("store.url", expected, str(store.url)) from error
    if address is None and url != MEMORY and (not _URL.match(url) or not is_clear(url)):
        raise ConfigError("store.url", "sqlite:///PATH, memory: or the URL of a database", str(store.url))
    return store if address is None else StoreConfig(url=Address(with_path(url, folder / address.path)))


def _check_hub(model_id: str, revision: str | None) -> None:
    """Refuse what does not name one commit of one repository: the weights would change under a running service."""
    if not _REPOSITORY.fullmatch(model_id.removeprefix(HUB)):
        raise ConfigError("model.id", f"{HUB}OWNER/NAME", model_id)
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError("model.revision", f"the commit of {model_id}, 40 hexadecimal digits", revision)


def _placed(record: _R, folder: Path) -> _R:
    paths = {name: _below(folder, value, name) for name, value in record if isinstance(value, Path)}
    return record.model_copy(update=paths)


def _below(folder: Path, path: Path, key: str) -> Path:
    """Give a path as it is meant in a file of this folder."""
    try:
        return folder / path.expanduser()
    except RuntimeError as error:
        raise ConfigError(key, "the home folder of a user that there is", str(path)) from error


def _fault(file: Path | str, fault: ErrorDetails) -> ConfigError:
    key = ".".join(str(part) for part in fault["loc"] if "[" not in str(part)) or "file"
    cause = fault.get("ctx", {}).get("error")
    found = fault["input"]
    if {"store", "api_urls", "options"} & set(fault["loc"]) and not isinstance(found, int | float):  # a password?
        found = shown(found) if isinstance(found, str) else type(found).__name__
    expected = fault["msg"].removeprefix("Input should be ")
    if isinstance(cause, InvalidContext):
        expected = cause.expected
    if fault["type"] == "missing":  # what was found is the table around it
        expected, found = _ONE_SERIES if fault["loc"] == ("series",) else "a value", None
    if fault["type"] == "extra_forbidden":
        expected = f"one of {', '.join(_known_keys(fault['loc'][:-1]))}"
        return ConfigError(f"{file}: {key}", expected, fault["loc"][-1])
    return ConfigError(f"{file}: {key}", expected, found)


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    """The keys that the table at `path` may hold."""
    tables: dict[str, type[_Record]] = {
        "exchanges": ExchangeConfig,
        "series": SeriesConfig,
        "model": ModelConfig,
        "store": StoreConfig,
        "demo": DemoConfig,
        "daemon": DaemonConfig,
        "health": HealthConfig,
        "alerts": AlertsConfig,
    }
    table = tables[str(path[0])] if path else Config
    return list(table.model_fields)
