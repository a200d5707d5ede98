"""The command that asks a running service how it is, over its own loopback door."""

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

from forecaster.cli.options import ConfigOption, JsonOption
from forecaster.cli.printing import print_record, say
from forecaster.errors import ConfigError
from forecaster.secret import Secret
from forecaster.urls import redact_url

_SECONDS: Final = 5.0
_LONGEST_ANSWER: Final = 1 << 20
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - asked here, not listened on


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service answers, what it wants to be shown, and the certificate by which it is known."""

    url: SplitResult
    token: Secret | None = None
    certificate: Path | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What a service said of itself; `phase` is None where it was not asked, or did not answer."""

    alive: bool
    ready: bool | None
    phase: str | None
    reasons: list[str]


class _NoAnswer(Exception):
    """Nothing came that is an answer of ours; the message says what did."""


def ask_health(
    config: ConfigOption = None,
    url: Annotated[str | None, typer.Option(help="Where it answers; what [health] says when left out.")] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token; what [health] says if left out.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file: the service's certificate, or that of who signed it.")
    ] = None,
    alive: Annotated[bool, typer.Option("--alive", help="Ask only whether it is alive: a standby is.")] = False,
    json_: JsonOption = False,
) -> None:
    """Ask a running service whether it is alive and ready, and why not.

    Code 0 when it is, 1 when it is alive and not ready, 2 when it is not alive or gives no answer.
    """
    place = _place(url, token_file, certificate) if url else _configured(config, token_file, certificate)
    found = look(place, alive_only=alive)
    if json_:
        typer.echo(json.dumps(asdict(found)))
    else:
        _print(found)
    if not found.alive:
        raise typer.Exit(2)
    if found.ready is False:
        raise typer.Exit(1)


def look(place: Place, *, alive_only: bool = False) -> State:
    """Ask /livez, and then /readyz; no answer is a reason, never an error."""
    try:
        status, text = _ask(place, "/livez")
        if status != HTTPStatus.OK or alive_only:
            is_alive = status == HTTPStatus.OK
            return State(is_alive, None if alive_only else False, None, [] if is_alive else text.splitlines())
        status, text = _ask(place, "/readyz")
        told = json.loads(text)
        reasons = [str(reason) for reason in told["reasons"]]
        return State(alive=True, ready=status == HTTPStatus.OK, phase=str(told["phase"]), reasons=reasons)
    except (ValueError, KeyError, TypeError) as error:
        wrong = f"expected phase and reasons as JSON, found {type(error).__name__}: {error}"
        return State(alive=False, ready=False, phase=None, reasons=[f"{place.url.geturl()}/readyz: {wrong}"])
    except _NoAnswer as error:
        return State(alive=False, ready=None if alive_only else False, phase=None, reasons=[str(error)])


def _ask(place: Place, path: str) -> tuple[int, str]:
    """Get a page; its status is 200 or 503."""
    address = f"{place.url.geturl()}{path}"
    headers = {} if place.token is None else {"Authorization": f"Bearer {place.token.reveal()}"}
    connection = _connection(place)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        status, text = answer.status, answer.read(_LONGEST_ANSWER).decode(errors="replace")
    except ConnectionRefusedError as error:
        raise _NoAnswer(f"no service answers at {place.url.geturl()}") from error
    except (OSError, HTTPException) as error:
        raise _NoAnswer(f"{address}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if status not in {HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE}:
        raise _NoAnswer(f"{address}: expected 200 or 503, found {status} {text.strip():.200}")
    return status, text


def _connection(place: Place) -> HTTPConnection:
    host, port = place.url.hostname or "", place.url.port
    if place.url.scheme == "http":
        return HTTPConnection(host, port, timeout=_SECONDS)
    known_by = ssl.create_default_context(cafile=place.certificate)
    # The certificate itself may be what is trusted; the name in it matters only where a way leads through others.
    known_by.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    known_by.check_hostname = host not in _LOOPBACK
    return HTTPSConnection(host, port, timeout=_SECONDS, context=known_by)


def _configured(config: str | None, token_file: Path | None, certificate: Path | None) -> Place:
    """The place that a configuration names, as this machine reaches it."""
    from forecaster.config_file import default_config_path, load_config

    told = load_config(config or default_config_path()).health
    if told is None:
        raise ConfigError("health", "a table [health] in the configuration, or --url", None)
    host = _EVERYWHERE.get(told.host, told.host)
    scheme = "http" if told.certificate is None else "https"
    address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{told.port}"
    return _place(address, token_file or told.token_file, certificate or told.certificate)


def _place(url: str, token_file: Path | None, certificate: Path | None) -> Place:
    expected = "an address such as http://127.0.0.1:9464"
    try:
        parts = urlsplit(url.rstrip("/"))
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port is not None
    except ValueError as error:
        raise ConfigError("--url", expected, redact_url(url)) from error
    if not usable or parts.path or parts.query or parts.username:
        raise ConfigError("--url", expected, redact_url(url))
    if token_file is None:
        return Place(parts, None, certificate)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise ConfigError("--url", "https, since others could read the token on its way", redact_url(url))
    try:
        return Place(parts, Secret(token_file.read_text(encoding="ascii").strip()), certificate)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--token-file", "a file with the token", str(error)) from error


def _print(found: State) -> None:
    """Show it to people; what came over the wire cannot move their cursor."""
    shown = {None: "not asked", True: "yes", False: "no"}
    print_record({"alive": shown[found.alive], "ready": shown[found.ready], "phase": found.phase or "-"}, json_=False)
    for reason in found.reasons:
        say(f"- {reason}")
