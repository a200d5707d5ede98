"""The health door: what it answers, whom it answers, and that nobody can hold it up."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import ssl
import threading
import time

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from forecaster.config import HealthConfig
from forecaster.config_file import load_config
from forecaster.daemon import health_server
from forecaster.daemon.health_server import HealthServer
from forecaster.daemon.health_state import HealthState, Phase
from forecaster.errors import ConfigError
from tests.builders import HOUR_MS
from tests.daemon.test_health_state import Hands, make_config, make_health_state
from tests.daemon.test_scheduler import wait_until
from tests.sources.exchange.test_source import self_signed

TOKEN = "0123456789abcdef" * 2
BEARER = {"Authorization": f"Bearer {TOKEN}"}
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE = 60.0
"""Seconds that a client waits here; the door itself waits longer, unless a test says otherwise."""


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch):
    """Let no machine under load cut a connection, and no stop wait for the next look."""
    monkeypatch.setattr(health_server, "CONNECTION_TIMEOUT_SECONDS", 3 * PATIENCE)
    monkeypatch.setattr(health_server, "_POLL_SECONDS", 0.005)


@pytest.fixture
def opened():
    """Give a function that starts a door on a free port of loopback; all are stopped."""
    started = []

    def start(health_state=None, **config):
        config = HealthConfig(**{"port": 0} | config)
        started.append(HealthServer(config, health_state or make_health_state()))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


def ask(health, path, method="GET", headers=None, tls=None):
    """Ask as a client does; gives status, headers and body."""
    host, port = health.address
    if tls is None:
        client = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    else:
        client = http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=tls)
    with contextlib.closing(client):
        client.request(method, path, headers=headers or {})
        answer = client.getresponse()
        return answer.status, answer.headers, answer.read()


def ask_raw(health, request):
    """Send bytes, and give all that comes back until the other side is done."""
    with socket.create_connection(health.address, timeout=PATIENCE) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                answer += part
        return answer


def status_of(answer):
    return int(answer.split()[1])


def server_threads():
    """Those that run a method of the door's server; other servers of this process have theirs."""
    owners = ((thread, getattr(getattr(thread, "_target", None), "__self__", None)) for thread in threading.enumerate())
    return [one for one, owner in owners if isinstance(owner, health_server._Server)]


def test_alive():
    """Nothing is expected of anybody yet."""
    health = HealthServer(HealthConfig(port=0), make_health_state(phase=Phase.STARTING))
    health.start()
    status, _, body = ask(health, "/livez")
    health.stop()

    assert (status, body) == (200, b"ok\n")


def test_not_alive(opened):
    """A scheduler that is wedged while the worker beats: 503, with one reason a line."""
    hands = Hands()
    health_state = make_health_state(hands=hands)
    for component in ("scheduler", "sender", "worker"):
        health_state.register(component, 30)
    hands.seconds += 31
    health_state.heartbeat("worker")

    assert ask(opened(health_state), "/livez")[::2] == (
        503,
        b"scheduler: no progress for 31 s, expected within 30 s\nsender: no progress for 31 s, expected within 30 s\n",
    )


def test_ready(opened):
    status, headers, body = ask(opened(), "/readyz")

    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"ready": True, "phase": "ready", "reasons": []}


def test_not_ready(opened):
    hands = Hands()
    health_state = make_health_state(hands=hands, phase=Phase.CATCHING_UP)
    hands.now += 10 * HOUR_MS
    status, _, body = ask(opened(health_state), "/readyz")
    record = json.loads(body)

    assert status == 503
    assert (record["ready"], record["phase"]) == (False, "catching_up")
    assert record["reasons"] == health_state.not_ready_reasons()
    assert len(record["reasons"]) == 2


def test_metrics_are_what_prometheus_reads(opened):
    status, headers, body = ask(opened(), "/metrics")

    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "forecaster_ready" in {metric.name for metric in text_string_to_metric_families(body.decode())}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/livez?verbose=1"])
def test_head_is_get_without_the_body(opened, path):
    health = opened()
    asked, only = (
        ask_raw(health, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()) for method in ("GET", "HEAD")
    )
    head, _, body = asked.partition(b"\r\n\r\n")

    assert only == head + b"\r\n\r\n"
    assert f"Content-Length: {len(body)}\r\n".encode() in head
    assert body


@pytest.mark.parametrize("path", ["/", "/livez/", "/LIVEZ", "/metrics/../livez", "http://evil/livez", "*"])
def test_there_is_nothing_else(opened, path):
    assert status_of(ask_raw(opened(), f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())) == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "QUIT"])
def test_nothing_can_be_done_here(opened, method):
    answer = ask_raw(opened(), f"{method} /livez HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    assert status_of(answer) == 405
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


def test_answers_tell_nothing_of_the_program_and_are_not_kept(opened):
    health = opened()
    for path, method in (("/livez", "GET"), ("/nothing", "GET"), ("/livez", "POST")):
        _, headers, _ = ask(health, path, method)
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in headers
    for request in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 9000):
        assert b"python" not in ask_raw(health, request).lower()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LocalHost:9464", "127.0.0.1:1", "[::1]", "[::1]:9464", "metrics.example.org:443"],
)
def test_names_that_are_ours(opened, host):
    assert ask(opened(hosts=["Metrics.example.org"]), "/livez", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example.org", "localhost.evil.org", "127.0.0.1.evil.org", "localhost:x", "a@localhost", "", "::1", "[::2]"],
)
def test_other_names_are_refused(opened, host):
    """A page in a browser can have its own name lead to loopback, but it cannot ask under ours."""
    health = opened()

    assert [ask(health, path, headers={"Host": host})[0] for path in ("/livez", "/readyz", "/metrics")] == [421] * 3


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nHost: evil\r\n"])
def test_one_name_is_needed(opened, hosts):
    assert status_of(ask_raw(opened(), f"GET /livez HTTP/1.1\r\n{hosts}\r\n".encode())) == 421


def test_a_token_opens_what_reports_series(opened, token_file):
    health = opened(token_file=token_file)

    assert [ask(health, path)[0] for path in ("/livez", "/readyz", "/metrics")] == [200, 401, 401]
    assert [ask(health, path, headers=BEARER)[0] for path in ("/livez", "/readyz", "/metrics")] == [200, 200, 200]
    assert ask(health, "/readyz")[1]["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "shown",
    [
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}0",
        f"Bearer {TOKEN[::-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer \xe9",
    ],
)
def test_a_wrong_token_opens_nothing(opened, token_file, shown):
    headers = {"Authorization": shown}

    assert [ask(opened(token_file=token_file), path, headers=headers)[0] for path in ("/readyz", "/metrics")] == [
        401
    ] * 2


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        (TOKEN, 0o644, "a file for its owner alone: chmod 600"),
        (TOKEN, 0o640, "a file for its owner alone: chmod 600"),
        (TOKEN[:31], 0o600, "32 printable characters or more"),
        (f"{TOKEN} {TOKEN}", 0o600, "32 printable characters or more"),
        ("\xe9" * 32, 0o600, "32 printable characters or more"),
        (None, 0o600, "a file that can be read"),
    ],
    ids=["everybody", "group", "short", "two", "not ascii", "none"],
)
def test_a_token_that_cannot_be_used_is_refused(tmp_path, content, mode, expected):
    """With what to do; the token itself is not in the message."""
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        HealthServer(HealthConfig(token_file=file), make_health_state())

    assert refused.value.key == "health.token_file"
    assert expected in str(refused.value)
    assert TOKEN[:8] not in str(refused.value)


def test_a_certificate_whose_key_others_can_read_is_refused(tmp_path):
    file = tmp_path / "tls.pem"
    file.touch(0o640)
    with pytest.raises(ConfigError, match="a file for its owner alone: chmod 600 ") as refused:
        HealthServer(HealthConfig(certificate=file), make_health_state())

    assert refused.value.key == "health.certificate"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "", "localhost.example.org"])  # noqa: S104
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, "health.token_file and health.certificate too"),
        ({"token_file": "token"}, "or health.certificate too"),
        ({"certificate": "tls.pem"}, "or health.token_file too"),
    ],
    ids=["nothing", "token", "certificate"],
)
def test_other_machines_may_not_ask_without_token_and_certificate(host, given, missing):
    with pytest.raises(ConfigError) as refused:
        HealthConfig(host=host, **given)

    assert refused.value.key == "health.host"
    assert missing in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_this_machine_may_ask(host):
    assert HealthConfig(host=host).is_loopback


def test_paths_are_beside_the_file_they_are_named_in(tmp_path):
    file = tmp_path / "live.toml"
    file.write_text(
        '[health]\nhost = "0.0.0.0"\ntoken_file = "token"\ncertificate = "/etc/tls.pem"\n'
        '[[series]]\nexchange = "files"\nsymbol = "BTC/USD"\ntimeframe = "1h"\nfile = "bars.csv"\n'
    )
    health = load_config(file).health

    assert (health.token_file, str(health.certificate)) == (tmp_path / "token", "/etc/tls.pem")


def test_an_open_door_that_is_not_guarded_is_refused_with_the_file(tmp_path):
    file = tmp_path / "live.toml"
    file.write_text(
        '[health]\nhost = "0.0.0.0"\n'
        '[[series]]\nexchange = "files"\nsymbol = "BTC/USD"\ntimeframe = "1h"\nfile = "bars.csv"\n'
    )
    with pytest.raises(ConfigError, match=r"live\.toml: health\.host: expected 127\.0\.0\.1.*found '0\.0\.0\.0'"):
        load_config(file)


def key_file(folder):
    """A certificate for this machine and its key, which nobody else can read."""
    pem = self_signed(folder)
    pem.chmod(0o600)
    return pem


def test_by_tls(opened, tmp_path, token_file):
    """On all addresses, with a certificate that a client can check; who does not speak TLS gets nothing."""
    pem = key_file(tmp_path)
    health = opened(host="0.0.0.0", token_file=token_file, certificate=pem)  # noqa: S104 - the point
    health_on_loopback = type("Where", (), {"address": ("127.0.0.1", health.address[1])})
    trusting = ssl.create_default_context(cafile=pem)
    plain = ask_raw(health_on_loopback, GET)
    asked = [ask(health_on_loopback, path, headers=BEARER, tls=trusting)[0] for path in ("/livez", "/readyz")]

    assert b"HTTP" not in plain
    assert asked == [200, 200]
    assert ask(health_on_loopback, "/readyz", tls=trusting)[0] == 401


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_of_today(opened, tmp_path, version):
    pem = key_file(tmp_path)
    trusting = ssl.create_default_context(cafile=pem)
    trusting.minimum_version = trusting.maximum_version = version

    assert ask(opened(certificate=pem), "/livez", tls=trusting)[0] == 200


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"])
def test_a_certificate_that_cannot_be_used_is_refused(tmp_path, content):
    file = tmp_path / "tls.pem"
    if content is not None:
        file.touch(0o600)
        file.write_text(content)
    with pytest.raises(ConfigError, match="a PEM file with a certificate and its key"):
        HealthServer(HealthConfig(certificate=file), make_health_state())


def test_a_port_that_is_taken_is_refused(opened):
    """As where two services of one machine share a configuration."""
    _, port = opened().address
    second = HealthServer(HealthConfig(port=port), make_health_state())
    with pytest.raises(ConfigError, match=rf"health\.port: .* free, found '127\.0\.0\.1:{port}: "):
        second.start()
    second.stop()


def test_localhost_is_not_looked_up(opened, monkeypatch):
    """Whoever answers for names must not decide where the door is."""

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(socket, "getfqdn", fail)
    monkeypatch.setattr(socket, "getaddrinfo", fail)

    assert HealthServer(HealthConfig(host="localhost", port=1), make_health_state()).address == ("127.0.0.1", 1)
    assert opened(host="localhost").address[0] == "127.0.0.1"


def test_by_the_newer_protocol(opened):
    """Where the machine has it at all."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        with pytest.raises(ConfigError, match=r"health\.port"):
            opened(host="::1")
        return

    assert ask(opened(host="::1"), "/livez", headers={"Host": "[::1]"})[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        b"A" * 100_000,
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * 101 + b"\r\n",
    ],
    ids=["line", "header", "nonsense", "headers"],
)
def test_a_head_is_bounded(opened, request_):
    """Whoever goes on is answered, or cut off, long before its time is over."""
    health = opened()
    answer = ask_raw(health, request_)

    assert answer == b"" or status_of(answer) == 431  # what was not read may reset the connection first
    assert ask(health, "/livez")[0] == 200


def test_a_head_of_all_that_may_be_is_read(opened):
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "
    request = head + b"a" * (health_server.MAX_HEAD_BYTES - len(head) - 4) + b"\r\n\r\n"

    assert status_of(ask_raw(opened(), request)) == 200
    assert len(request) == health_server.MAX_HEAD_BYTES


def test_a_head_in_pieces_is_read(opened):
    """The empty line itself may come in two parts."""
    with socket.create_connection(opened().address, timeout=PATIENCE) as connection:
        for part in (GET[:5], GET[5:-3], GET[-3:-1], GET[-1:]):
            connection.sendall(part)
            time.sleep(0.02)

        assert connection.recv(100).startswith(b"HTTP/1.0 200 ")


def test_one_request_for_each_connection(opened):
    """What is sent behind the first is not looked at."""
    assert ask_raw(opened(), GET + GET).count(b"HTTP/1.0") == 1


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_slow_clients_do_not_stop_the_others(opened, monkeypatch, tmp_path, tls):
    """Four times as many as there is room for, each a byte now and then: who asks does not wait until they are done."""
    pem = key_file(tmp_path)
    health = opened(certificate=pem) if tls else opened()
    monkeypatch.setattr(
        health_server, "_POLL_SECONDS", PATIENCE
    )  # which is also how long the oldest may take to give way
    trusting = ssl.create_default_context(cafile=pem) if tls else None
    slow = [socket.create_connection(health.address) for _ in range(4 * health_server.MAX_CONNECTIONS)]
    for i in range(5):
        for one in slow:
            with contextlib.suppress(OSError):
                one.sendall(b"\x16" if tls and not i else b"G")
        assert ask(health, "/livez", tls=trusting)[0] == 200
    for one in slow:
        one.close()

    assert len(server_threads()) <= health_server.MAX_CONNECTIONS + 1


def test_a_slow_client_has_its_time_and_no_more(opened, monkeypatch):
    """A byte now and then keeps a connection busy, but does not prolong it."""
    monkeypatch.setattr(health_server, "CONNECTION_TIMEOUT_SECONDS", 0.3)
    health = opened()
    started = time.monotonic()
    with socket.create_connection(health.address, timeout=PATIENCE) as connection:

        def is_cut_off():
            try:
                connection.sendall(b"G")
            except OSError:
                return True
            return False

        assert wait_until(is_cut_off)
        assert time.monotonic() - started >= 0.3


def test_who_reads_nothing_holds_no_one_up(opened, monkeypatch):
    """An answer larger than all buffers on the way, that nobody takes."""
    monkeypatch.setattr(health_server, "CONNECTION_TIMEOUT_SECONDS", 0.3)
    health_state = make_health_state()
    asked = threading.Event()
    monkeypatch.setattr(health_state, "metrics_text", lambda: asked.set() or b"#\n" * 20_000_000)
    health = opened(health_state)
    with socket.create_connection(health.address) as connection:
        connection.sendall(GET.replace(b"/livez", b"/metrics"))
        assert wait_until(asked.is_set)
        assert wait_until(lambda: [thread.name for thread in server_threads()] == ["health"])
    monkeypatch.setattr(health_server, "CONNECTION_TIMEOUT_SECONDS", 3 * PATIENCE)
    assert ask(health, "/livez")[0] == 200


def test_stopping_leaves_no_thread_and_no_port(opened):
    """Also while somebody is being waited for."""
    before = server_threads()
    health = HealthServer(HealthConfig(port=0), make_health_state())
    health.start()
    address = health.address
    with socket.create_connection(address, timeout=PATIENCE) as waiting:
        waiting.sendall(b"GET")
        assert wait_until(lambda: len(server_threads()) == len(before) + 2)
        health.stop()

        assert waiting.recv(10) == b""
    assert wait_until(lambda: server_threads() == before)
    assert opened(port=address[1]).address == address
    health.stop()


def test_a_fault_of_ours_is_logged_and_costs_one_answer(opened):
    """The probe that meets it is not answered, which is an answer too."""

    def fail():
        msg = "injected"
        raise RuntimeError(msg)

    health_state = HealthState(make_config(), fail)
    health = opened(health_state)
    with structlog.testing.capture_logs() as logs, pytest.raises(http.client.RemoteDisconnected):
        ask(health, "/readyz")

    assert [event["event"] for event in logs] == ["health.failed"]
    assert ask(health, "/livez")[0] == 200


def test_who_goes_away_is_no_event(opened):
    health = opened()
    with structlog.testing.capture_logs() as logs:
        for request in (b"", b"GET /met", GET):
            connection = socket.create_connection(health.address)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # ends with a reset
            connection.sendall(request)
            connection.close()
        assert ask(health, "/livez")[0] == 200

    assert logs == []


def random_request(dice):
    """Something between a request and noise."""
    words = [b"GET", b"HEAD", b"POST", b"\0", b"\xff\xfe", b"G" * 300, b""]
    paths = [b"/livez", b"/readyz", b"/metrics", b"/%2e%2e/", b"/" + b"%" * 500, b"*", b"\r", b"//"]
    versions = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.99999999999", b"", b"\x16\x03\x01"]
    headers = [
        *[b"Host: localhost"] * 6,
        b"Host: evil",
        b"Content-Length: -1",
        b"Transfer-Encoding: chunked",
        b": :",
        b"\0",
    ]
    headers += [
        b"Expect: 100-continue",
        b"Authorization: Bearer \xff",
        b" folded",
        b"X: " + b"a" * 1000,
        b"Range: bytes=0-",
    ]
    line = b" ".join([dice.choice(words), dice.choice(paths), dice.choice(versions)])
    head = b"\r\n".join([line, *dice.choices(headers, k=dice.randrange(1, 5))])
    noise = bytes(dice.randrange(256) for _ in range(dice.randrange(60)))
    return dice.choice([head + b"\r\n\r\n", head + b"\n\n" + noise, noise, head, noise + b"\r\n\r\n", head[:7]])


def test_random_requests(opened):
    """The door still answers, no thread is left, and nothing was worth a word in the log."""
    dice = random.Random(11)  # noqa: S311 - no secret
    health = opened()
    statuses = set()
    with structlog.testing.capture_logs() as logs:
        for _ in range(1000):
            with socket.create_connection(health.address, timeout=PATIENCE) as connection, contextlib.suppress(OSError):
                connection.sendall(random_request(dice))
                connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(65536)
                statuses |= {status_of(answer)} if answer.startswith(b"HTTP/") else set()
        assert ask(health, "/livez")[0] == 200
        assert wait_until(lambda: [thread.name for thread in server_threads()] == ["health"])

    assert logs == []
    assert {200, 400, 404, 405, 421} <= statuses <= {200, 400, 404, 405, 414, 421, 431, 505}
