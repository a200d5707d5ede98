"""The health endpoint for supervisors, load balancers and Prometheus: `/livez`, `/readyz` and `/metrics`.

Answers come from `HealthState` alone. The server is small on purpose: GET and HEAD, one request per connection, a head
of 8 KiB, 16 connections at a time, 5 seconds each. A further connection closes the oldest one: a proper request is
answered in milliseconds, so the oldest is the slowest.

The host name is checked against DNS rebinding: a web page can make a browser send requests here, but only under its
own host name.
"""

from __future__ import annotations

import hmac
import io
import json
import os
import re
import socket
import socketserver
import ssl
import stat
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.daemon.prometheus import CONTENT_TYPE
from forecaster.errors import ConfigError
from forecaster.log import get_logger
from forecaster.secret import Secret

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from forecaster.config import HealthConfig
    from forecaster.daemon.health_state import HealthState

_log = get_logger(__name__)
MIN_TOKEN_CHARACTERS: Final = 32
MAX_HEAD_BYTES: Final = 8192
MAX_CONNECTIONS: Final = 16
CONNECTION_TIMEOUT_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.1
_LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]]+)(:[0-9]+)?", re.IGNORECASE)
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"


class _Response(NamedTuple):
    """A response; `header` is an additional header."""

    status: int
    body: bytes
    content_type: str = _TEXT
    header: tuple[str, str] | None = None


class HealthServer:
    """Serves a daemon's health on its own thread.

    Args:
        config: where to listen, and the token and certificate.
        health: what to serve.

    Raises:
        ConfigError: for an unusable token or certificate.
    """

    def __init__(self, config: HealthConfig, health: HealthState) -> None:
        self._host = "127.0.0.1" if config.host == "localhost" else config.host  # without a name service
        self._port = config.port
        self._health = health
        self._token = None if config.token_file is None else read_token(config.token_file)
        self._tls = None if config.certificate is None else read_certificate(config.certificate)
        self._hosts = {*_LOOPBACK_NAMES, config.host.lower(), f"[{config.host}]", *map(str.lower, config.hosts)}
        self._server: _Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Address and port; after `start` with port 0, the port that was chosen."""
        if self._server is None:
            return self._host, self._port
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Start serving.

        Raises:
            ConfigError: when the address or port cannot be used.
        """
        try:
            self._server = _Server((self._host, self._port), self)
        except OSError as error:
            actual = f"{self._host}:{self._port}: {error}"
            raise ConfigError("health.port", "an address of this machine, and a port that is free", actual) from error
        self._server.start()
        _log.info("health.listening", host=self.address[0], port=self.address[1], tls=self._tls is not None)

    def stop(self) -> None:
        """Close all connections and end all threads."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def wrap_tls(self, connection: socket.socket) -> socket.socket:
        """Wrap a connection in TLS if configured; the handshake happens on the thread that reads."""
        if self._tls is None:
            return connection
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def respond(self, method: str, path: str, hosts: list[str], authorization: str) -> _Response:
        """Respond to one request. `/livez` alone needs no token: it names only components."""
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return _Response(421, b"not served under this name\n")
        if method not in {"GET", "HEAD"}:
            return _Response(405, b"GET or HEAD\n", header=("Allow", "GET, HEAD"))
        page = path.partition("?")[0]
        if page == "/livez":
            return self._livez()
        if page not in {"/readyz", "/metrics"}:
            return _Response(404, b"/livez, /readyz or /metrics\n")
        if not self._is_authorized(authorization):
            return _Response(401, b"a token is needed\n", header=("WWW-Authenticate", "Bearer"))
        return self._readyz() if page == "/readyz" else _Response(200, self._health.metrics_text(), CONTENT_TYPE)

    def _livez(self) -> _Response:
        reasons = self._health.unhealthy()
        return _Response(503 if reasons else 200, "".join(f"{line}\n" for line in reasons or ["ok"]).encode())

    def _readyz(self) -> _Response:
        phase, reasons = self._health.phase, self._health.not_ready_reasons()
        record = {"ready": not reasons, "phase": phase, "reasons": reasons}
        return _Response(503 if reasons else 200, f"{json.dumps(record)}\n".encode(), _JSON)

    def _is_ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        return match is not None and match[1].lower() in self._hosts

    def _is_authorized(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, token = authorization.partition(" ")
        is_correct = hmac.compare_digest(token.strip().encode(errors="replace"), self._token.reveal().encode())
        return is_correct and scheme.lower() == "bearer"


class _Server(socketserver.ThreadingTCPServer):
    """A thread for each connection, at most `MAX_CONNECTIONS` of them.

    Not `http.server.ThreadingHTTPServer`, which looks up its own host name before it listens.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], endpoint: HealthServer) -> None:
        self.endpoint = endpoint
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_SECONDS,), name="health", daemon=True)
        super().__init__(address, _Handler)

    def start(self) -> None:
        """Accept connections on its own thread."""
        self._thread.start()

    def stop(self) -> None:
        """Close all connections; return once their threads have ended."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        self._close_older_than(0)
        until = time.monotonic() + CONNECTION_TIMEOUT_SECONDS
        for _ in range(MAX_CONNECTIONS):
            self._slots.acquire(timeout=max(0.0, until - time.monotonic()))

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, peer = super().get_request()
        connection.settimeout(CONNECTION_TIMEOUT_SECONDS)
        return self.endpoint.wrap_tls(connection), peer

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on its own thread; when there are too many, close the oldest."""
        if not self._slots.acquire(blocking=False):
            self._close_oldest()
            if not self._slots.acquire(timeout=_POLL_SECONDS):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self.shutdown_request(request)
            self._slots.release()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, then free its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection, and forget it first: its file descriptor may be reused."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections whose time is over: a socket timeout alone restarts with every byte."""
        self._close_older_than(CONNECTION_TIMEOUT_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an exception, unless the client closed the connection."""
        del request, client_address
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("health.failed")

    def _close_older_than(self, seconds: float) -> None:
        now = time.monotonic()
        with self._lock:
            for connection in [each for each, since in self._open.items() if now - since >= seconds]:
                _shut_down(connection)

    def _close_oldest(self) -> None:
        with self._lock:
            for connection in list(self._open)[:1]:
                _shut_down(connection)


class _Handler(BaseHTTPRequestHandler):
    """Reads one bounded request and writes the response."""

    server: _Server

    def handle(self) -> None:
        """Read a head and respond to it."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        head = self._read_head()
        if not head:
            return
        self.rfile = io.BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        self.command = ""
        if len(head) > MAX_HEAD_BYTES:
            self.send_error(431)
        elif self.parse_request():
            hosts, authorization = self.headers.get_all("Host", []), self.headers.get("Authorization", "")
            self._write(self.server.endpoint.respond(self.command, self.path, hosts, authorization))

    def _read_head(self) -> bytes:
        """Read up to the empty line or just over the limit; empty bytes when the connection ends first."""
        head = b""
        while len(head) <= MAX_HEAD_BYTES:
            chunk: bytes = self.request.recv(4096)
            head += chunk
            if b"\r\n\r\n" in head or b"\n\n" in head:
                return head
            if not chunk:
                return b""
        return head

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Respond to a request that the parser refuses, without quoting it."""
        del message, explain
        self.request_version = self.protocol_version  # before it is parsed, it would be HTTP/0.9, which has no status
        self._write(_Response(code, f"{self.responses.get(code, ('refused',))[0]}\n".encode()))

    def _write(self, response: _Response) -> None:
        self.send_response_only(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if response.header is not None:
            self.send_header(*response.header)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def log_message(self, *_: object) -> None:
        """Log nothing: requests are no events of the daemon."""


def _shut_down(connection: socket.socket) -> None:
    """Shut down a connection whose thread may be reading it: the thread sees the end and closes it."""
    with suppress(OSError):  # the client may have closed it
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not the method of SSLSocket, which would drop its state


def read_token(file: Path) -> Secret:
    """Read a token from a file that only its owner can read.

    Raises:
        ConfigError: for a file that is missing, that others can read, or that holds no valid token.
    """
    try:
        with file.open("rb") as content:
            _refuse_readable_by_others("health.token_file", file, os.fstat(content.fileno()).st_mode)
            token = content.read(MAX_HEAD_BYTES).strip()
    except OSError as error:
        raise ConfigError("health.token_file", "a file that can be read", str(error)) from error
    if len(token) < MIN_TOKEN_CHARACTERS or not re.fullmatch(rb"[!-~]+", token):
        expected = f"{MIN_TOKEN_CHARACTERS} printable characters or more, such as `openssl rand -hex 32` gives"
        raise ConfigError("health.token_file", expected, f"{len(token)} characters in {file}")
    return Secret(token.decode())


def _refuse_readable_by_others(key: str, file: Path, mode: int) -> None:
    """Refuse a file that others can read.

    Raises:
        ConfigError: when they can.
    """
    if mode & 0o077:
        raise ConfigError(key, f"a file for its owner alone: chmod 600 {file}", f"mode {stat.S_IMODE(mode):o}")


def read_certificate(file: Path) -> ssl.SSLContext:
    """Read a certificate and its key from a file that only its owner can read.

    Raises:
        ConfigError: for a file that others can read, or that lacks one of them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        _refuse_readable_by_others("health.certificate", file, file.stat().st_mode)
        context.load_cert_chain(file)
    except (OSError, ssl.SSLError) as error:
        expected = "a PEM file with a certificate and its key"
        raise ConfigError("health.certificate", expected, f"{file}: {error}") from error
    return context
