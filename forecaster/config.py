"""The configuration: TOML into checked records. The only module that reads the environment.

Paths in a file are relative to that file. The environment carries the path of the file
(`FORECASTER_CONFIG`), and what systemd tells a service of itself, and nothing else.
"""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - pydantic looks at it
import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from forecaster.bars import SeriesKey
from forecaster.errors import ConfigError, ForecasterError
from forecaster.sessions import ALWAYS_OPEN

ENVIRONMENT_KEY = "FORECASTER_CONFIG"
EMBEDDED = "embedded"
SHORTEST_CONTEXT = 16
COMPILED_FOLDER = Path("~/.cache/forecaster/compiled")

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


class _Record(BaseModel):
    """Refuse unknown keys; never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_R = TypeVar("_R", bound=_Record)


class ExchangeConfig(_Record):
    """One exchange that ccxt knows; public market data only."""

    id: Annotated[str, Field(description="ccxt's name of the exchange, such as `binance` or `kraken`")]
    api_urls: Annotated[
        str | dict[str, str] | None,
        Field(description="replaces ccxt's `urls.api`: for a proxy or a loopback exchange"),
    ] = None
    options: Annotated[dict[str, object], Field(description="ccxt's `options` of that exchange")] = {}
    timeout: Annotated[float, Field(gt=0, le=120, description="seconds that one request may take")] = 10.0
    deadline: Annotated[
        float, Field(gt=0, le=600, description="seconds that one series may take, waits and repeated requests included")
    ] = 30.0
    late_after: Annotated[
        float, Field(ge=0, le=600, description="seconds after its close for which a bar that is missing is asked for")
    ] = 20.0


class SeriesConfig(_Record):
    """One series to forecast."""

    exchange: Annotated[str, Field(description="a name from [exchanges.NAME]; with `file`, any name")]
    symbol: Annotated[str, Field(description="ccxt unified symbol, such as `BTC/USDT`")]
    timeframe: Annotated[str, Field(description="1m, 3m, 5m, 15m, 30m, 1h, 2h, 4h, 6h, 8h, 12h or 1d")]
    calendar: Annotated[str, Field(description="which bars should exist: `24/7`, or a code such as `XNYS`")] = (
        ALWAYS_OPEN
    )
    file: Annotated[Path | None, Field(description="csv or Parquet to read the bars from, no exchange")] = None

    @property
    def key(self) -> SeriesKey:
        """The series that this entry names."""
        return SeriesKey.of(self.exchange, self.symbol, self.timeframe, self.calendar)


class ModelConfig(_Record):
    """The model, and what it is asked."""

    id: Annotated[str, Field(description="`nano` (bundled), a hub id such as `amazon/chronos-2`, or a folder")] = "nano"
    revision: Annotated[str | None, Field(description="commit of the hub repository; required for a hub id")] = None
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
        int, Field(ge=SHORTEST_CONTEXT, description="real bars without which a series is skipped")
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
        if is_hub_id(self.id) and self.revision is None:
            raise ConfigError("model.revision", f"a commit hash, since {self.id} may change under you", None)
        return self


class StoreConfig(_Record):
    """Where the ledger is kept."""

    url: Annotated[str, Field(description="`sqlite:///PATH` or `memory:`")] = "sqlite:///ledger.db"


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


class HealthConfig(_Record):
    """Where the service answers for its health: `/livez`, `/readyz` and `/metrics`."""

    host: Annotated[
        str, Field(description="address to listen on; any but loopback needs a token and a certificate")
    ] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes any that is free")] = 9464
    token_file: Annotated[
        Path | None, Field(description="file with the token that whoever asks must show, 32 characters or more")
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
        Path | None, Field(description="file with the address to which alerts are posted as JSON; a secret, mode 600")
    ] = None
    apprise_file: Annotated[
        Path | None, Field(description="file with apprise's addresses, one on each line; needs the extra `alerts`")
    ] = None
    repeat_hours: Annotated[
        float, Field(gt=0, le=720, description="hours after which a condition that lasts is told again")
    ] = 6.0
    disk_free_mib: Annotated[int, Field(ge=0, description="MiB that should stay free beside the ledger")] = 1024


class Config(_Record):
    """A whole configuration file."""

    exchanges: dict[str, ExchangeConfig] = {}
    series: Annotated[tuple[SeriesConfig, ...], Field(min_length=1)]
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
                raise ConfigError(f"series {one.key}", f"`file`, or a table [exchanges.{one.exchange}]", None)
        return self


def load_config(path: str | Path) -> Config:
    """Read and check a TOML file; `embedded` is the demo's own.

    Raises:
        ConfigError: names the key, what was expected and what was found.
    """
    file = embedded("config/demo.toml") if str(path) == EMBEDDED else Path(path).expanduser()
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), "a readable TOML file", str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(file), "TOML", str(error)) from error
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        raise _first_fault(file, error) from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.key}", error.expected, error.found) from error
    return _resolve(config, file.resolve().parent)


def is_hub_id(model_id: str) -> bool:
    """Whether a model's id names a hub repository, `owner/name`, and not a folder."""
    return bool(_HUB_ID.fullmatch(model_id)) and not Path(model_id).exists()


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
    package = Path(__file__).resolve().parent
    places = (package / EMBEDDED / name, package.parent / name)
    return next((place for place in places if place.exists()), places[-1])


def _resolve(config: Config, folder: Path) -> Config:
    """Make paths absolute, relative to the folder of the file they were read from."""
    placed = {
        "series": tuple(_placed(one, folder) for one in config.series),
        "model": _placed(config.model, folder),
        "health": config.health and _placed(config.health, folder),
        "alerts": config.alerts and _placed(config.alerts, folder),
    }
    return config.model_copy(update=placed)


def _placed(record: _R, folder: Path) -> _R:
    paths = {name: folder / value.expanduser() for name, value in record if isinstance(value, Path)}
    return record.model_copy(update=paths)


def _first_fault(file: Path, error: ValidationError) -> ConfigError:
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"]) or "file"
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, ForecasterError):
        return ConfigError(f"{file}: {key}", str(cause), fault["input"])
    expected = fault["msg"]
    if fault["type"] == "extra_forbidden":
        expected = f"one of {', '.join(_known_keys(fault['loc'][:-1]))}"
        return ConfigError(f"{file}: {key}", expected, fault["loc"][-1])
    return ConfigError(f"{file}: {key}", expected, fault["input"])


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
