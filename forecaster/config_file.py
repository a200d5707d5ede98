"""Reading a configuration file: TOML into checked records, with absolute paths. The only reader of the environment.

Paths in a file are relative to that file, including the folder of a model and the file of a ledger. The environment
holds the path of the file (`FORECASTER_CONFIG`) and what systemd says to a service, and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from pydantic import ValidationError

from forecaster.config import (
    HUB,
    NANO,
    ONE_SERIES,
    REPOSITORY,
    AlertsConfig,
    Config,
    DaemonConfig,
    DemoConfig,
    ExchangeConfig,
    HealthConfig,
    ModelConfig,
    Record,
    SeriesConfig,
    StoreConfig,
)
from forecaster.errors import ConfigError, InvalidArgument, StoreUnavailable
from forecaster.secret import SecretUrl
from forecaster.urls import MEMORY, is_unambiguous, ledger_url, redact_url, sqlite_address, with_path

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

ENVIRONMENT_KEY: Final = "FORECASTER_CONFIG"
EMBEDDED: Final = "embedded"

_URL: Final = re.compile(r"[\w+]+://")
_R = TypeVar("_R", bound=Record)


def load_config(path: str | Path) -> Config:
    """Read and check a TOML file, and make its paths absolute; `embedded` is the demo configuration.

    The ledger path of the embedded configuration stays relative to the working directory: the installed package is
    read-only.

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
    """Convert the errors of pydantic; missing keys come last, since they are often only misspelt."""
    details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] == "missing")
    return [_fault(file, detail) for detail in details]


def absolute_model_id(model_id: str, folder: Path) -> str:
    """Return a model id with an absolute path; a relative one is relative to `folder`.

    Raises:
        ConfigError: for `OWNER/NAME` where there is no such folder: it may be meant as a hub repository.
    """
    if model_id == NANO or model_id.startswith(HUB):
        return model_id
    path = _below(folder, Path(model_id), "model.id")
    if REPOSITORY.fullmatch(model_id) and not path.is_dir():
        expected = f"{HUB}{model_id} with its revision, or the path of a folder, but {path} is none"
        raise ConfigError("model.id", expected, model_id)
    return str(path)


def with_store(config: Config, store: str) -> Config:
    """Return the configuration with another ledger, by URL or path relative to the working directory."""
    return config.model_copy(update={"store": _stored(StoreConfig(url=SecretUrl(ledger_url(store))), Path.cwd())})


def default_config_path() -> str:
    """Return the path from the environment, else the embedded configuration."""
    return os.environ.get(ENVIRONMENT_KEY, EMBEDDED)


class ServiceManager(NamedTuple):
    """The notification socket of systemd, and the interval of its watchdog."""

    address: str | None
    watchdog_seconds: float | None


def service_manager() -> ServiceManager:
    """Read the environment variables of systemd: sd_notify(3), sd_watchdog_enabled(3)."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
    watched = usec.isdecimal() and int(usec) > 0 and pid == str(os.getpid())
    return ServiceManager(os.environ.get("NOTIFY_SOCKET") or None, int(usec) / 1e6 if watched else None)


def embedded(name: str) -> Path:
    """Return the path of a file that ships with the program, in a checkout or an installed package."""
    places = _places(name)
    return next((place for place in places if place.exists()), places[-1])


def _places(name: str) -> tuple[Path, Path]:
    """Return the path of a file that ships with the program: in an installed package, and in a checkout."""
    package = Path(__file__).resolve().parent
    return package / EMBEDDED / name, package.parent / name


def _checked(content: dict[str, object]) -> Config:
    """Check the content of a file, strictly: a boolean or a text is no number.

    Converted to JSON first: in strict mode, pydantic accepts lists for tuples and texts for paths only from JSON.
    """
    return Config.model_validate_json(json.dumps(content, default=str), strict=True)


def _resolve(config: Config, folder: Path, *, with_ledger: bool) -> Config:
    """Make paths absolute, relative to the folder of the file."""
    placed = {
        "series": tuple(_placed(series, folder) for series in config.series),
        "model": _placed(config.model, folder).model_copy(update={"id": absolute_model_id(config.model.id, folder)}),
        "store": _stored(config.store, folder) if with_ledger else config.store,
        "health": config.health and _placed(config.health, folder),
        "alerts": config.alerts and _placed(config.alerts, folder),
    }
    return config.model_copy(update=placed)


def _stored(store: StoreConfig, folder: Path) -> StoreConfig:
    """Make the path of an SQLite ledger absolute."""
    url = store.url.reveal()
    try:
        address = sqlite_address(url)
    except StoreUnavailable as error:
        expected = "sqlite:///PATH, followed by ?timeout=SECONDS or nothing"
        raise ConfigError("store.url", expected, str(store.url)) from error
    if address is None and url != MEMORY and (not _URL.match(url) or not is_unambiguous(url)):
        raise ConfigError("store.url", "sqlite:///PATH, memory: or the URL of a database", str(store.url))
    return store if address is None else StoreConfig(url=SecretUrl(with_path(url, folder / address.path)))


def _placed(record: _R, folder: Path) -> _R:
    paths = {name: _below(folder, value, name) for name, value in record if isinstance(value, Path)}
    return record.model_copy(update=paths)


def _below(folder: Path, path: Path, key: str) -> Path:
    """Return a path relative to this folder, with the home folder expanded."""
    try:
        return folder / path.expanduser()
    except RuntimeError as error:
        raise ConfigError(key, "the home folder of an existing user", str(path)) from error


def _fault(file: Path | str, fault: ErrorDetails) -> ConfigError:
    key = ".".join(str(part) for part in fault["loc"] if "[" not in str(part)) or "file"
    cause = fault.get("ctx", {}).get("error")
    value = fault["input"]
    if {"store", "api_urls", "options"} & set(fault["loc"]) and not isinstance(value, int | float):  # a password?
        value = redact_url(value) if isinstance(value, str) else type(value).__name__
    expected = fault["msg"].removeprefix("Input should be ")
    if isinstance(cause, InvalidArgument):
        expected = cause.expected
    if fault["type"] == "missing":  # what was value is the table around it
        expected, value = ONE_SERIES if fault["loc"] == ("series",) else "a value", None
    if fault["type"] == "extra_forbidden":
        expected = f"one of {', '.join(_known_keys(fault['loc'][:-1]))}"
        return ConfigError(f"{file}: {key}", expected, fault["loc"][-1])
    return ConfigError(f"{file}: {key}", expected, value)


def _known_keys(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys of the table at `path`."""
    tables: dict[str, type[Record]] = {
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
