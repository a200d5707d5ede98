"""The command that queries the health endpoint of a running service."""

from __future__ import annotations

import json
import ssl
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

import typer

from forecaster.cli.options import JsonOption, OptionalConfigOption
from forecaster.cli.printing import print_record, say
from forecaster.errors import ConfigError
from forecaster.secret import Secret
from forecaster.urls import redact_url

_TIMEOUT_SECONDS: Final = 5.0
_MAX_RESPONSE_BYTES: Final = 1 << 20
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_LOOPBACK_OF_WILDCARD: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - a client


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a service, its token, and the certificate that is trusted."""

    url: SplitResult
    token: Secret | None = None
    certificate: Path | None = None


@dataclass(frozen=True, slots=True)
class State:
    """The health of a service; `ready` and `phase` are None when not queried or without a response."""

    alive: bool
    ready: bool | None
    phase: str | None
    reasons: list[str]


class _NoResponseError(Exception):
    """There was no response, or not one of the service; the message says what happened."""


def ask_health(
    config: OptionalConfigOption = None,
    url: Annotated[str | None, typer.Option(help="Address of the service.", show_default="as in table health")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token.", show_default="as in table health")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM file: certificate of the service or its issuer.", show_default="as in table health"),
    ] = None,
    alive: Annotated[bool, typer.Option("--alive", help="Only check whether it is alive: a standby is.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show whether a running service is alive and ready, and why not.

    Exit code 0: alive and ready. 1: alive and not ready. 2: not alive, or no response.
    """
    endpoint = _endpoint(url, token_file, certificate) if url else _configured(config, token_file, certificate)
    state = query(endpoint, alive_only=alive)
    if json_:
        typer.echo(json.dumps(asdict(state)))
    else:
        _print(state)
    if not state.alive:
        raise typer.Exit(2)
    if state.ready is False:
        raise typer.Exit(1)


def query(endpoint: Endpoint, *, alive_only: bool = False) -> State:
    """Query /livez, then /readyz; a missing response is a reason, never an exception."""
    try:
        status, text = _get(endpoint, "/livez")
        if status != HTTPStatus.OK or alive_only:
            is_alive = status == HTTPStatus.OK
            return State(is_alive, None if alive_only else False, None, [] if is_alive else text.splitlines())
        status, text = _get(endpoint, "/readyz")
        record = json.loads(text)
        reasons = [str(reason) for reason in record["reasons"]]
        return State(alive=True, ready=status == HTTPStatus.OK, phase=str(record["phase"]), reasons=reasons)
    except (ValueError, KeyError, TypeError) as error:
        fault = f"expected phase and reasons as JSON, found {type(error).__name__}: {error}"
        return State(alive=False, ready=False, phase=None, reasons=[f"{endpoint.url.geturl()}/readyz: {fault}"])
    except _NoResponseError as error:
        return State(alive=False, ready=None if alive_only else False, phase=None, reasons=[str(error)])


def _get(endpoint: Endpoint, path: str) -> tuple[int, str]:
    """Get a page; its status is 200 or 503."""
    address = f"{endpoint.url.geturl()}{path}"
    headers = {} if endpoint.token is None else {"Authorization": f"Bearer {endpoint.token.reveal()}"}
    connection = _connection(endpoint)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        status, text = response.status, response.read(_MAX_RESPONSE_BYTES).decode(errors="replace")
    except ConnectionRefusedError as error:
        raise _NoResponseError(f"no service responds at {endpoint.url.geturl()}") from error
    except (OSError, HTTPException) as error:
        raise _NoResponseError(f"{address}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if status not in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}:
        raise _NoResponseError(f"{address}: expected 200 or 503, found {status} {text.strip():.200}")
    return status, text


def _connection(endpoint: Endpoint) -> HTTPConnection:
    host, port = endpoint.url.hostname or "", endpoint.url.port
    if endpoint.url.scheme == "http":
        return HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    context = ssl.create_default_context(cafile=endpoint.certificate)
    # The certificate itself may be trusted. On loopback its host name does not matter.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = host not in _LOOPBACK
    return HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=context)


def _configured(config: str | None, token_file: Path | None, certificate: Path | None) -> Endpoint:
    """The endpoint of a configuration, as this machine reaches it."""
    from forecaster.config_file import default_config_path, load_config

    health = load_config(config or default_config_path()).health
    if health is None:
        raise ConfigError("health", "a table [health] in the configuration, or --url", None)
    host = _LOOPBACK_OF_WILDCARD.get(health.host, health.host)
    scheme = "http" if health.certificate is None else "https"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{health.port}"
    return _endpoint(address, token_file or health.token_file, certificate or health.certificate)


def _endpoint(url: str, token_file: Path | None, certificate: Path | None) -> Endpoint:
    expected = "an address such as http://127.0.0.1:9464"
    try:
        parts = urlsplit(url.rstrip("/"))
        is_valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port is not None
    except ValueError as error:
        raise ConfigError("--url", expected, redact_url(url)) from error
    if not is_valid or parts.path or parts.query or parts.username:
        raise ConfigError("--url", expected, redact_url(url))
    if token_file is None:
        return Endpoint(parts, None, certificate)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigError("--url", "https, since others could read the token on its way", redact_url(url))
    try:
        return Endpoint(parts, Secret(token_file.read_text(encoding="ascii").strip()), certificate)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--token-file", "a file with the token", str(error)) from error


def _print(state: State) -> None:
    """Print the state; `say` removes control characters of the response."""
    words = {None: "not checked", True: "yes", False: "no"}
    print_record({"alive": words[state.alive], "ready": words[state.ready], "phase": state.phase or "-"}, json_=False)
    for reason in state.reasons:
        say(f"- {reason}")
