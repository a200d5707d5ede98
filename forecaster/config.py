"""The configuration as checked records. `config_file` reads them from TOML."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic looks at it
import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
    model_validator,
)

from forecaster.bars import SeriesKey
from forecaster.calendars import ALWAYS_OPEN, WEEKDAYS, anchored_name, canonical_name
from forecaster.errors import ConfigError
from forecaster.secret import HIDDEN, SecretUrl
from forecaster.tables import ParseOptions
from forecaster.timeframe import Timeframe
from forecaster.urls import redact_url

SHORTEST_CONTEXT = 16
COMPILED_FOLDER = Path("~/.cache/forecaster/compiled")

NANO = "nano"
HUB = "hub:"

ONE_SERIES = "at least one [[series]]"
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_CREDENTIAL = re.compile("key|secret|passw|passphrase|token|credential|auth|cookie", re.IGNORECASE)


def _shown_option(value: object) -> object:
    """Return an option of an exchange with credentials hidden, for printing."""
    if isinstance(value, dict):
        return {name: HIDDEN if _CREDENTIAL.search(name) else _shown_option(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shown_option(item) for item in value]
    return redact_url(value) if isinstance(value, str) and "://" in value else value


def _path_not_url(value: object, field: ValidationInfo) -> object:
    """Refuse a URL in place of the file that should contain it: the path is printed, and a URL is a secret."""
    if isinstance(value, str) and "://" in value:
        raise ConfigError(str(field.field_name), "the path of a file that holds it", "an address")
    return value


SecretFile = Annotated[Path, BeforeValidator(_path_not_url)]
"""The path of a file that contains a secret."""


class Record(BaseModel):
    """A frozen record without unknown keys. Its errors quote no values, which may be secrets."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ExchangeConfig(Record):
    """An exchange of ccxt. Only public market data is requested."""

    id: Annotated[str, Field(description="name of the exchange in ccxt, such as `binance` or `kraken`")]
    api_urls: Annotated[
        dict[str, SecretUrl] | SecretUrl | None,
        Field(description="replaces ccxt's `urls.api`, for a proxy or a test exchange"),
    ] = None
    options: Annotated[
        dict[str, object],
        Field(description="ccxt's `options` of the exchange", repr=False),
        PlainSerializer(_shown_option),
    ] = {}
    timeout: Annotated[float, Field(gt=0, le=120, description="timeout of one request, in seconds")] = 10.0
    deadline: Annotated[
        float, Field(gt=0, le=600, description="seconds in which a series must be fetched, including retries")
    ] = 30.0
    late_after: Annotated[
        float, Field(ge=0, le=600, description="seconds after the close during which a missing bar is requested again")
    ] = 20.0
    final_after: Annotated[
        float,
        Field(
            ge=0,
            le=600,
            description="seconds after its close at which the latest bar counts as final without a later bar",
        ),
    ] = 40.0

    @property
    def revealed_api_urls(self) -> str | dict[str, str] | None:
        """`api_urls` with their passwords, for requests."""
        if isinstance(self.api_urls, dict):
            return {name: url.reveal() for name, url in self.api_urls.items()}
        return None if self.api_urls is None else self.api_urls.reveal()


class SeriesConfig(Record):
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
            description="start of the day of a 24/7 market: `16:00` (`timezone`, else UTC), `17:00 America/New_York`"
        ),
    ] = None
    file: Annotated[
        Path | None,
        Field(description="read bars once from a csv, Parquet, feather or json file, instead of an exchange"),
    ] = None
    timezone: Annotated[
        str | None,
        Field(description="time zone of the file: `America/New_York`, `+02:00`, or shifted: `America/New_York+07:00`"),
    ] = None
    columns: Annotated[
        tuple[str, ...] | dict[str, str] | None,
        Field(
            description='columns of the file, by position `["open_time", "open", …]` or by name `{ close = "Last" }`'
        ),
    ] = None
    decimal: Annotated[Literal[".", ","] | None, Field(description="decimal sign of the file")] = None
    dayfirst: Annotated[bool | None, Field(description="whether 01/02/2024 in the file is 1 February")] = None
    symbol_column: Annotated[
        str | None, Field(description="column of the file with the symbol of each row; empty when there is none")
    ] = None

    @field_validator("symbol")
    @classmethod
    def _symbol_is_unified(cls, symbol: str) -> str:
        return SeriesKey("", symbol, "1d").symbol

    @field_validator("calendar")
    @classmethod
    def _calendar_has_one_name(cls, name: str) -> str:
        return canonical_name(name)

    @model_validator(mode="after")
    def _options_have_a_file(self) -> SeriesConfig:
        said = [name for name in ParseOptions.names() if getattr(self, name) is not None]
        if self.file is None and said and (said != ["timezone"] or self.day_anchor is None):
            raise ConfigError(f"series {self.symbol}", "`file`, which the keys below are about", ", ".join(said))
        if self.day_anchor is not None and self.calendar not in (ALWAYS_OPEN, WEEKDAYS):
            raise ConfigError("day_anchor", "none: sessions of an exchange begin when it opens", self.day_anchor)
        return self

    @property
    def key(self) -> SeriesKey:
        """The key of the series."""
        length, name = Timeframe(self.timeframe), self.calendar
        if name == ALWAYS_OPEN or (name == WEEKDAYS and (self.day_anchor or self.timezone)):
            name = anchored_name(self.day_anchor, self.timezone, length, name)
        return SeriesKey(self.exchange, self.symbol, length, name)

    @property
    def parse_options(self) -> ParseOptions:
        """Options for reading the file."""
        return ParseOptions(self.timezone, self.columns, self.decimal, self.dayfirst, self.symbol_column)

    @property
    def place(self) -> tuple[str, Path | None, str]:
        """The source of its bars. Series with equal places share a source."""
        return self.exchange, self.file, repr(self.parse_options)


class ModelConfig(Record):
    """The primary model and its baselines."""

    id: Annotated[
        str, Field(min_length=1, description="`nano` (bundled), `hub:OWNER/NAME`, or the folder of a checkpoint")
    ] = NANO
    revision: Annotated[
        str | None, Field(description="commit of the hub repository, 40 hexadecimal digits; required for a hub id")
    ] = None
    compile: Annotated[
        Literal["auto", "on", "off"],
        Field(
            description="use compiled code: `auto` where it is faster, `on` wherever its numbers are right, `off` never"
        ),
    ] = "auto"
    compiler: Annotated[
        Literal["package", "default", "reduce-overhead", "max-autotune"],
        Field(description="`package`: built in a separate process and cached; others: modes of torch.compile"),
    ] = "package"
    compiled_folder: Annotated[Path, Field(description="cache of compiled code; must belong to you, mode 700")] = (
        COMPILED_FOLDER
    )
    device: Annotated[str, Field(description="`auto`, `cpu` or `cuda`")] = "auto"
    context: Annotated[int, Field(ge=16, le=8192, description="number of bars that the model sees")] = 256
    min_context: Annotated[
        int, Field(ge=SHORTEST_CONTEXT, description="fewest bars in a context; a series with fewer is skipped")
    ] = 64
    horizon: Annotated[int, Field(ge=1, le=1024, description="number of bars to forecast")] = 5
    baselines: Annotated[
        tuple[str, ...], Field(description="models that are recorded for comparison; skill needs `random_walk`")
    ] = ("random_walk",)

    released: Annotated[
        dt.date | None,
        Field(description="release date (UTC): training data may include older bars, so they are reported apart"),
    ] = None
    calibrate: Annotated[bool, Field(description="calibrate quantiles by past outcomes")] = True

    @model_validator(mode="after")
    def _is_consistent(self) -> ModelConfig:
        if self.min_context > self.context:
            raise ConfigError("model.min_context", f"at most context, {self.context}", self.min_context)
        if self.id.startswith(HUB):
            _check_hub(self.id, self.revision)
        elif self.revision is not None and REPOSITORY.fullmatch(self.id):
            raise ConfigError("model.id", f"{HUB}{self.id}, or no revision for a folder", self.id)
        elif self.revision is not None:
            raise ConfigError("model.revision", f"none, since {self.id} is no hub repository", self.revision)
        return self


class StoreConfig(Record):
    """Where the ledger is kept."""

    url: Annotated[
        SecretUrl,
        Field(description="`sqlite:///PATH` (relative to this file), `memory:`, or the URL of a PostgreSQL database"),
    ] = SecretUrl("sqlite:///ledger.db")


class DemoConfig(Record):
    """The period that `forecaster demo` runs through on a fast clock."""

    start: Annotated[str, Field(description="date (UTC) of the first cycle")]
    cycles: Annotated[int, Field(ge=1, description="number of bar closes")] = 250


class DaemonConfig(Record):
    """How the service works."""

    drain_seconds: Annotated[
        float, Field(gt=0, le=600, description="seconds in which running work may finish when the service stops")
    ] = 30.0
    requests_at_once: Annotated[
        int, Field(ge=1, le=1024, description="series of one exchange that are fetched concurrently")
    ] = 64
    check_hours: Annotated[
        float,
        Field(ge=0, le=8784, description="hours between integrity checks of an SQLite ledger; 0 for never"),
    ] = 24.0


class HealthConfig(Record):
    """The HTTP server of `/livez`, `/readyz` and `/metrics`."""

    host: Annotated[str, Field(description="address to listen on; all but loopback need a token and a certificate")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 for a free one")] = 9464
    token_file: Annotated[
        SecretFile | None, Field(description="file with the bearer token of requests, 32 characters or more")
    ] = None
    certificate: Annotated[Path | None, Field(description="PEM file with certificate and key, for TLS")] = None
    hosts: Annotated[tuple[str, ...], Field(description="host names that requests may use, besides loopback")] = ()
    stale_bars: Annotated[
        int,
        Field(
            ge=1, le=100, description="bars that the latest forecast of a series may be behind while `/readyz` is ready"
        ),
    ] = 2

    @property
    def is_loopback(self) -> bool:
        """Whether the server listens on loopback only."""
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


class AlertsConfig(Record):
    """Where alerts are sent."""

    webhook_file: Annotated[
        SecretFile | None,
        Field(description="file with the webhook URL to which alerts are posted as JSON; a secret, mode 600"),
    ] = None
    apprise_file: Annotated[
        SecretFile | None,
        Field(description="file with apprise URLs, one per line; needs the extra `alerts`"),
    ] = None
    repeat_hours: Annotated[
        float, Field(gt=0, le=720, description="hours after which an alert that is still firing is repeated")
    ] = 6.0
    disk_free_mib: Annotated[
        int, Field(ge=0, description="alert when less disk space is free beside the ledger, in MiB")
    ] = 1024


class Config(Record):
    """A whole configuration file."""

    exchanges: dict[str, ExchangeConfig] = {}
    series: tuple[SeriesConfig, ...]
    model: Annotated[ModelConfig, Field(default_factory=ModelConfig)]
    store: Annotated[StoreConfig, Field(default_factory=StoreConfig)]
    demo: DemoConfig | None = None
    daemon: Annotated[DaemonConfig, Field(default_factory=DaemonConfig)]
    health: HealthConfig | None = None
    alerts: AlertsConfig | None = None
    fetch_delay_seconds: Annotated[
        float, Field(ge=0, le=600, description="seconds after a close before bars are requested")
    ] = 5

    @field_validator("series")
    @classmethod
    def _series_are_distinct(cls, series: tuple[SeriesConfig, ...]) -> tuple[SeriesConfig, ...]:
        if not series:
            raise ConfigError("series", ONE_SERIES, [])
        keys = [entry.key for entry in series]
        names = [str(key) for key in keys]
        for key in keys:
            if names.count(str(key)) > 1:
                raise ConfigError("series", "each series once", f"{key} twice")
            _ = key.trading_calendar
        return series

    @model_validator(mode="after")
    def _exchanges_are_named(self) -> Config:
        for series in self.series:
            if series.file is None and series.exchange not in self.exchanges:
                expected = f"`file`, or a table [exchanges.{series.exchange}]"
                raise ConfigError(f"series {series.key}", expected, series.exchange)
        return self


def _check_hub(model_id: str, revision: str | None) -> None:
    """Refuse an id that does not name one commit of one repository: the weights could change."""
    if not REPOSITORY.fullmatch(model_id.removeprefix(HUB)):
        raise ConfigError("model.id", f"{HUB}OWNER/NAME", model_id)
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError("model.revision", f"the commit of {model_id}, 40 hexadecimal digits", revision)
