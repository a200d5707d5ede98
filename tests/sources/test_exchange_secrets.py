"""An exchange behind a proxy that takes a password: no fault shows it."""

from __future__ import annotations

import threading
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from forecaster.config import ExchangeConfig
from forecaster.errors import ConfigError, SourceError
from forecaster.secret import SecretUrl
from forecaster.sources.exchange.source import ExchangeSource
from forecaster.store.memory import MemoryStore
from tests.builders import make_key
from tests.faults.exchange import closed_port

SECRET = "geheim"  # noqa: S105 - it opens nothing
HOUR = 3_600_000
AS_OF = 1_717_999_200_000 + 5_000


@contextmanager
def proxy(status, head):
    """Answer every request like this; gives the port, and what was authorised."""
    authorised = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            authorised.append(self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in head.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port, authorised
        finally:
            server.shutdown()
            thread.join()


def fault_of(url):
    """The fault of asking kraken at this address, with its causes as a traceback shows them."""
    config = ExchangeConfig(id="kraken", api_urls=SecretUrl(url), timeout=2, deadline=0.3)
    source = ExchangeSource("kraken", config, MemoryStore())
    try:
        with pytest.raises(SourceError) as raised:
            source.fetch(make_key("kraken"), AS_OF - 5 * HOUR, AS_OF)
    finally:
        source.close()
    return str(raised.value), "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(
    ("status", "head"),
    [
        (302, {"Location": f"https://me:{SECRET}@elsewhere/login?token={SECRET}"}),
        (302, {"Location": f"/login?next=/&token={SECRET}"}),
        (302, {}),
        (401, {}),
        (503, {"Retry-After": "1"}),
    ],
)
def test_no_refusal_shows_a_password(status, head):
    """Neither that of the configuration, which is sent, nor one in the address of a redirect."""
    with proxy(status, head) as (port, authorised):
        said, trace = fault_of(f"http://me:{SECRET}@127.0.0.1:{port}/api")

    assert SECRET not in said + trace
    assert set(authorised) == {"Basic bWU6Z2VoZWlt"}


def test_nobody_listening_shows_no_password():
    said, trace = fault_of(f"http://me:{SECRET}@127.0.0.1:{closed_port()}/api")

    assert SECRET not in said + trace


@pytest.mark.parametrize("url", [f"http://me:{SECRET}@[::1/api", f"me:{SECRET}@proxy/api", f"ftp://me:{SECRET}@h/"])
def test_an_address_that_is_none_is_refused_without_its_password(url):
    with pytest.raises(ConfigError, match="expected addresses such as") as refused:
        ExchangeSource("kraken", ExchangeConfig(id="kraken", api_urls=SecretUrl(url)), MemoryStore())

    assert SECRET not in str(refused.value)
