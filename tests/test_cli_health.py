"""`forecaster health` beside a real door, and beside what is none."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing, contextmanager

import pytest

from forecaster.cli import health
from forecaster.config import Config, HealthConfig
from forecaster.daemon.health_server import HealthServer
from forecaster.daemon.health_state import HealthState, Phase
from tests.builders import HOUR_MS, make_key, utc_ms
from tests.certificates import certificate_of
from tests.cli import error_line, forecaster

KEY = make_key()
NOW = utc_ms("2024-01-01") + HOUR_MS // 2
TOKEN = "0123456789abcdef" * 4


def ask(*arguments):
    """Run the command."""
    return forecaster("health", *arguments)


@contextmanager
def door(phase=Phase.READY, cutoff=NOW - HOUR_MS // 2, monotonic=time.monotonic, **settings):
    """A service's own door; gives its health_state and its port."""
    series = [{"exchange": KEY.exchange, "symbol": KEY.symbol, "timeframe": "1h", "file": "bars.csv"}]
    health_state = HealthState(Config.model_validate({"series": series}), now=lambda: NOW, monotonic=monotonic)
    health_state.enter_phase(phase)
    health_state.record_latest_forecast(KEY, cutoff)
    answering = HealthServer(HealthConfig(**{"port": 0, **settings}), health_state)
    answering.start()
    try:
        yield health_state, answering.address[1]
    finally:
        answering.stop()


@contextmanager
def stranger(answer):
    """Something else at that port: it answers every request with these bytes, or is silent for None."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        held = []

        def serve():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                held.append(connection)
                if answer is not None:
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def http(body, status="200 OK"):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body.encode())}\r\nConnection: close\r\n\r\n{body}".encode()


def test_a_service_that_is_ready():
    with door() as (_, port):
        done = ask("--url", f"http://127.0.0.1:{port}", "--json")

    assert done.returncode == 0
    assert done.record == {"alive": True, "ready": True, "phase": "ready", "reasons": []}


def test_a_service_that_is_not_ready():
    """Code 1, and each reason."""
    with door(Phase.CATCHING_UP, cutoff=NOW - 10 * HOUR_MS) as (_, port):
        done = ask("--url", f"http://127.0.0.1:{port}")

    assert done.returncode == 1
    assert "ready                no" in done.stdout
    assert "- phase: catching_up" in done.stdout
    assert f"- {KEY}: latest forecast" in done.stdout


def test_a_service_that_is_not_alive():
    """Code 2, and the part that hangs; whether it is ready is not asked any more."""
    clock = [0.0]
    with door(monotonic=lambda: clock[0]) as (health_state, port):
        health_state.register("worker 0", 60)
        clock[0] = 61
        done = ask("--url", f"http://127.0.0.1:{port}", "--json")

    assert done.returncode == 2
    assert (done.record["alive"], done.record["ready"], done.record["phase"]) == (False, False, None)
    assert done.record["reasons"] == ["worker 0: no progress for 61 s, expected within 60 s"]


def test_a_standby_is_alive():
    """What Docker asks: a standby must not be ended."""
    with door(Phase.WAITING) as (_, port):
        done = ask("--url", f"http://127.0.0.1:{port}", "--alive", "--json")

    assert done.returncode == 0
    assert done.record == {"alive": True, "ready": None, "phase": None, "reasons": []}


def test_no_one_is_there():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    done = ask("--url", f"http://127.0.0.1:{port}", "--alive")

    assert done.returncode == 2
    assert f"- no service responds at http://127.0.0.1:{port}\n" in done.stdout


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"\x00\x01 no HTTP\r\n", "/livez: BadStatusLine"),
        (http("<html>moved</html>", "302 Found"), "/livez: expected 200 or 503, found 302 <html>moved</html>"),
        (http("ok"), "/readyz: expected phase and reasons as JSON, found JSONDecodeError"),
        (http('{"ready": true}'), "/readyz: expected phase and reasons as JSON, found KeyError"),
        (http('["ready"]'), "/readyz: expected phase and reasons as JSON, found TypeError"),
        (None, "/livez: TimeoutError"),
    ],
    ids=["no HTTP", "redirect", "no JSON", "other JSON", "a list", "silence"],
)
def test_something_else_is_there(answer, said, monkeypatch):
    """Code 2, and what came."""
    if answer is None:
        monkeypatch.setattr(health, "_TIMEOUT_SECONDS", 0.2)
    with stranger(answer) as port:
        done = ask("--url", f"http://127.0.0.1:{port}")

    assert done.returncode == 2
    assert said in done.stdout


def test_reasons_cannot_move_the_cursor():
    """What an exchange answered may stand in a reason."""
    with stranger(http("series: \x1b[2J\u202eforged\nother", "503 Service Unavailable")) as port:
        done = ask("--url", f"http://127.0.0.1:{port}")

    assert done.returncode == 2
    assert "- series: \ufffd[2J\ufffdforged\n- other\n" in done.stdout


def write_config(folder, port, more=""):
    path = folder / "live.toml"
    path.write_text(
        '[[series]]\nexchange = "a"\nsymbol = "A/B"\ntimeframe = "1h"\nfile = "bars.csv"\n'
        f"[health]\nport = {port}\n{more}"
    )
    return path


def write_secret(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_the_configuration_says_where(tmp_path):
    token = write_secret(tmp_path, "token", f"{TOKEN}\n")
    with door(token_file=token) as (_, port):
        done = ask("--config", write_config(tmp_path, port, f'token_file = "{token}"'))

    assert done.returncode == 0


def test_a_configuration_without_health(tmp_path):
    path = write_config(tmp_path, 1)
    path.write_text(path.read_text().partition("[health]")[0])

    assert "a table [health]" in error_line("health", "--config", path)


def test_a_wrong_token_is_reported(tmp_path):
    token = write_secret(tmp_path, "token", TOKEN)
    other = write_secret(tmp_path, "other", TOKEN[::-1])
    with door(token_file=token) as (_, port):
        done = ask("--url", f"http://127.0.0.1:{port}", "--token-file", other)

    assert done.returncode == 2
    assert "/readyz: expected 200 or 503, found 401" in done.stdout
    assert TOKEN[::-1] not in done.stdout


@pytest.mark.parametrize("issuer", [None, "somebody"], ids=["its own", "signed"])
def test_over_tls_from_the_configuration(tmp_path, issuer):
    """A service that listens everywhere is asked over loopback, and known by its certificate, whose name is another."""
    token = write_secret(tmp_path, "token", TOKEN)
    pem = write_secret(tmp_path, "health.pem", certificate_of("trader.example", issuer=issuer))
    guarded = f'host = "0.0.0.0"\ntoken_file = "{token}"\ncertificate = "{pem}"'
    with door(host="0.0.0.0", token_file=token, certificate=pem) as (_, port):  # noqa: S104 - this is the case
        done = ask("--config", write_config(tmp_path, port, guarded))

    assert done.returncode == 0


def test_another_certificate_is_refused(tmp_path):
    pem = write_secret(tmp_path, "health.pem", certificate_of("trader.example"))
    other = write_secret(tmp_path, "other.pem", certificate_of("trader.example"))
    with door(certificate=pem) as (_, port):
        done = ask("--url", f"https://127.0.0.1:{port}", "--certificate", other)

    assert done.returncode == 2
    assert "CERTIFICATE_VERIFY_FAILED" in done.stdout


def test_a_token_is_not_sent_in_the_clear(tmp_path):
    token = write_secret(tmp_path, "token", TOKEN)
    line = error_line("health", "--url", "http://trader.example:9464", "--token-file", token)

    assert "https, since others could read the token" in line


@pytest.mark.parametrize(
    "url", ["127.0.0.1:9464", "ftp://127.0.0.1:1", "http://127.0.0.1", "http://a:b@127.0.0.1:1", "http://[::1]:port"]
)
def test_an_address_is_checked(url):
    assert "an address such as http://127.0.0.1:9464" in error_line("health", "--url", url)


def test_a_token_file_is_checked(tmp_path):
    line = error_line("health", "--url", "http://127.0.0.1:9464", "--token-file", tmp_path / "none")

    assert "a file with the token" in line
