"""The door at which a supervisor, a load balancer and Prometheus ask: `/livez`, `/readyz` and `/metrics`.

Answers are made from `Vitals` alone. The door is a small one on purpose: GET and HEAD, one request for each connection,
a head of 8 KiB, 16 connections at a time, 5 seconds each. When more come, the oldest gives way: who asks properly is
answered in milliseconds, and whoever is slow has had the most time.

Names are checked against DNS rebinding: a page in a browser can make it ask here under a name of its own, but not
under ours.
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
    from forecaster.daemon.health_state import Vitals

_log = get_logger(__name__)
SHORTEST_TOKEN: Final = 32
LONGEST_HEAD: Final = 8192
MOST_CONNECTIONS: Final = 16
PATIENCE_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.1
_LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]]+)(:[0-9]+)?", re.IGNORECASE)
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"


class _Answer(NamedTuple):
    """What goes back; `header` is one more, where there is one."""

    status: int
    body: bytes
    content_type: str = _TEXT
    header: tuple[str, str] | None = None


class Health:
    """Answers for a daemon's health, on a thread of its own.

    Args:
        config: where to listen, and who may ask.
        vitals: what there is to tell.

    Raises:
        ConfigError: for a token or a certificate that cannot be used.
    """

    def __init__(self, config: HealthConfig, vitals: Vitals) -> None:
        self._host = "127.0.0.1" if config.host == "localhost" else config.host  # whatever a name service says
        self._port = config.port
        self._vitals = vitals
        self._token = None if config.token_file is None else read_token(config.token_file)
        self._tls = None if config.certificate is None else read_certificate(config.certificate)
        self._hosts = {*_LOOPBACK_NAMES, config.host.lower(), f"[{config.host}]", *map(str.lower, config.hosts)}
        self._server: _Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Address and port; the port that was found free, once it is started."""
        if self._server is None:
            return self._host, self._port
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Begin to answer.

        Raises:
            ConfigError: when it cannot listen there.
        """
        try:
            self._server = _Server((self._host, self._port), self)
        except OSError as error:
            found = f"{self._host}:{self._port}: {error}"
            raise ConfigError("health.port", "an address of this machine, and a port that is free", found) from error
        self._server.start()
        _log.info("health.listening", host=self.address[0], port=self.address[1], tls=self._tls is not None)

    def stop(self) -> None:
        """Cut what is open, and leave no thread behind."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def wrapped(self, connection: socket.socket) -> socket.socket:
        """The connection as it is to be read; TLS begins with the first byte, on the thread that reads it."""
        if self._tls is None:
            return connection
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def answer(self, method: str, path: str, hosts: list[str], authorization: str) -> _Answer:
        """Answer one request. `/livez` alone may be asked without the token: it tells nothing but organs."""
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return _Answer(421, b"not served under this name\n")
        if method not in {"GET", "HEAD"}:
            return _Answer(405, b"GET or HEAD\n", header=("Allow", "GET, HEAD"))
        place = path.partition("?")[0]
        if place == "/livez":
            return self._livez()
        if place not in {"/readyz", "/metrics"}:
            return _Answer(404, b"/livez, /readyz or /metrics\n")
        if not self._may_ask(authorization):
            return _Answer(401, b"a token is needed\n", header=("WWW-Authenticate", "Bearer"))
        return self._readyz() if place == "/readyz" else _Answer(200, self._vitals.exposition(), CONTENT_TYPE)

    def _livez(self) -> _Answer:
        reasons = self._vitals.dead()
        return _Answer(503 if reasons else 200, "".join(f"{one}\n" for one in reasons or ["ok"]).encode())

    def _readyz(self) -> _Answer:
        phase, reasons = self._vitals.phase, self._vitals.unready()
        record = {"ready": not reasons, "phase": phase, "reasons": reasons}
        return _Answer(503 if reasons else 200, f"{json.dumps(record)}\n".encode(), _JSON)

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        return found is not None and found[1].lower() in self._hosts

    def _may_ask(self, authorization: str) -> bool:
        if self._token is None:
            return True
        scheme, _, shown = authorization.partition(" ")
        is_right = hmac.compare_digest(shown.strip().encode(errors="replace"), self._token.reveal().encode())
        return is_right and scheme.lower() == "bearer"


class _Server(socketserver.ThreadingTCPServer):
    """A thread for each connection, of which there are never more than `MOST_CONNECTIONS`.

    Not `http.server.ThreadingHTTPServer`, which asks the name service for its own name before it listens.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], health: Health) -> None:
        self.health = health
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_SECONDS,), name="health", daemon=True)
        super().__init__(address, _Handler)

    def start(self) -> None:
        """Accept connections, on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Cut all connections; returns once their threads have ended."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        self._cut_older_than(0)
        give_up = time.monotonic() + PATIENCE_SECONDS
        for _ in range(MOST_CONNECTIONS):
            self._places.acquire(timeout=max(0.0, give_up - time.monotonic()))

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        connection, peer = super().get_request()
        connection.settimeout(PATIENCE_SECONDS)
        return self.health.wrapped(connection), peer

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread; when there are too many, the oldest connection gives way."""
        if not self._places.acquire(blocking=False):
            self._cut_oldest()
            if not self._places.acquire(timeout=_POLL_SECONDS):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be had
            self.shutdown_request(request)
            self._places.release()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, and give its place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; from here on nobody cuts it, since its number may soon be another's."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut connections that have had their time: a timeout alone begins anew with every byte."""
        self._cut_older_than(PATIENCE_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong, unless it was the other side that went away."""
        del request, client_address
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("health.failed")

    def _cut_older_than(self, seconds: float) -> None:
        now = time.monotonic()
        with self._lock:
            for connection in [one for one, since in self._open.items() if now - since >= seconds]:
                _cut(connection)

    def _cut_oldest(self) -> None:
        with self._lock:
            for connection in list(self._open)[:1]:
                _cut(connection)


class _Handler(BaseHTTPRequestHandler):
    """Reads one request, within bounds, and writes the answer."""

    server: _Server

    def handle(self) -> None:
        """Read a head, and answer it."""
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        head = self._read_head()
        if not head:
            return
        self.rfile = io.BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        self.command = ""
        if len(head) > LONGEST_HEAD:
            self.send_error(431)
        elif self.parse_request():
            hosts, authorization = self.headers.get_all("Host", []), self.headers.get("Authorization", "")
            self._write(self.server.health.answer(self.command, self.path, hosts, authorization))

    def _read_head(self) -> bytes:
        """Everything up to the empty line, or a little more than may be; nothing where it does not end."""
        head = b""
        while len(head) <= LONGEST_HEAD:
            part: bytes = self.request.recv(4096)
            head += part
            if b"\r\n\r\n" in head or b"\n\n" in head:
                return head
            if not part:
                return b""
        return head

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what the parser refuses, without a word of the request in it."""
        del message, explain
        self.request_version = self.protocol_version  # before it is parsed, it would be HTTP/0.9, which has no status
        self._write(_Answer(code, f"{self.responses.get(code, ('refused',))[0]}\n".encode()))

    def _write(self, answer: _Answer) -> None:
        self.send_response_only(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if answer.header is not None:
            self.send_header(*answer.header)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing: who asks is no event of the daemon."""


def _cut(connection: socket.socket) -> None:
    """End a connection whose thread may be reading it: the thread sees the end, and closes it."""
    with suppress(OSError):  # it may have ended by itself
        socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not TLS's own, which would take its state away


def read_token(file: Path) -> Secret:
    """Read a token that nobody else can read.

    Raises:
        ConfigError: for a file that is not there, that others can read, or that holds another kind of text.
    """
    try:
        with file.open("rb") as content:
            _refuse_open("health.token_file", file, os.fstat(content.fileno()).st_mode)
            token = content.read(LONGEST_HEAD).strip()
    except OSError as error:
        raise ConfigError("health.token_file", "a file that can be read", str(error)) from error
    if len(token) < SHORTEST_TOKEN or not re.fullmatch(rb"[!-~]+", token):
        expected = f"{SHORTEST_TOKEN} printable characters or more, such as `openssl rand -hex 32` gives"
        raise ConfigError("health.token_file", expected, f"{len(token)} characters in {file}")
    return Secret(token.decode())


def _refuse_open(key: str, file: Path, mode: int) -> None:
    """Refuse a file that others can read.

    Raises:
        ConfigError: when they can.
    """
    if mode & 0o077:
        raise ConfigError(key, f"a file for its owner alone: chmod 600 {file}", f"mode {stat.S_IMODE(mode):o}")


def read_certificate(file: Path) -> ssl.SSLContext:
    """Read a certificate and its key, which nobody else can read.

    Raises:
        ConfigError: for a file that others can read, or that holds no such two.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        _refuse_open("health.certificate", file, file.stat().st_mode)
        context.load_cert_chain(file)
    except (OSError, ssl.SSLError) as error:
        expected = "a PEM file with a certificate and its key"
        raise ConfigError("health.certificate", expected, f"{file}: {error}") from error
    return context
