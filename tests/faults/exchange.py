"""A loopback exchange: eight venues for real ccxt clients, an own clock, a log of hits, and faults on request.

Its bars are a function of symbol, timeframe and open time, so a test can ask for the truth; its clock
stands still until a test moves it. It says nothing about what a client should make of its answers.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import ssl
import struct
import sys
import threading
import time
import zlib
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

import ccxt.async_support as ccxt

from forecaster.config import ExchangeConfig
from forecaster.sources.exchange import breaker, paginator, request
from forecaster.sources.exchange import server_time as exchange_clock
from forecaster.sources.exchange import source as exchange_source
from forecaster.sources.exchange.paginator import RateLimiter
from forecaster.timeframe import DAY_MS, Timeframe
from tests.faults.venues import TIMEFRAMES, VENUES, Asked, Endpoint, Okx, Row, Venue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    import pytest

AnswerFault = Literal[
    "status", "html", "null", "object", "truncated", "nested", "oversized", "drip", "delay", "reset", "redirect"
]
RowFault = Literal[
    "empty",
    "spoiled",
    "nulls",
    "nan",
    "infinite",
    "nested_entry",
    "short_rows",
    "duplicates",
    "unsorted",
    "off_grid",
    "future",
    "negative",
    "zero",
    "inverted",
    "late",
]
Kind = AnswerFault | RowFault | Literal["far"]
"""What may go wrong; `far` is a price that is far off, in the newest bar that has closed."""

BASE_PRICES: Final = {"BTC/USDT": 60_000.0, "ETH/USDT": 3_000.0, "BTC/USD": 59_000.0}
HTML: Final = "<html><head><title>Down for maintenance</title></head><body>Back soon.</body></html>"
KRAKEN_KEEPS: Final = VENUES["kraken"].page
OVERSIZED: Final = (4 << 20) + 1
SPOILED: Final = ("oops", None, "NaN", "-1")
"""What `spoiled` puts in place of the open price, one value in each of an answer's first rows."""


class Request(NamedTuple):
    """What a client asked, and when by the monotonic clock."""

    endpoint: str
    path: str
    query: dict[str, str]
    at: float


@dataclass
class Fault:
    """One thing to go wrong, for the next `times` requests to one endpoint, or for bars of one `symbol`."""

    kind: Kind
    at: Endpoint
    times: int
    status: int
    headers: dict[str, str]
    symbol: str | None = None


@dataclass
class Answer:
    """What goes back on the wire; `pause` is in seconds, before each byte."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0


class LoopbackExchange:
    """An exchange on 127.0.0.1, to be used in a `with` block.

    Args:
        now: its clock, UTC ms; assign to `exchange.now` to move it. The bar that contains it still forms.
        listed_at: UTC ms of the first bar of every symbol; a thousand days before `now` unless given.
        certificate: a file with a key and a certificate, for an exchange that listens by TLS.

    A test may assign how the exchange is: `replica_ms` is how old the bars are that it serves; `days_begin` is when its
    days do, ms after midnight of UTC; `knows_volume` whether it tells a volume; `per_ms` how many units of its times
    make a millisecond, a thousand for microseconds.
    """

    def __init__(self, now: int, listed_at: int | None = None, certificate: Path | None = None) -> None:
        self.now = now
        self.listed_at = now - 1000 * DAY_MS if listed_at is None else listed_at
        self.requests: list[Request] = []
        self.symbols = set(BASE_PRICES)
        self.missing: set[int] = set()
        self.revised: dict[int, float] = {}
        self.halted: dict[str, int] = {}
        self.replica_ms = 0
        self.days_begin = 0
        self.knows_volume = True
        self.per_ms = 1
        self.elsewhere = 0
        self.closing = threading.Event()
        self._faults: list[Fault] = []
        self._server = _Server(self, certificate)
        self._scheme = "http" if certificate is None else "https"
        self._other = _Server(self)
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            for server in (self._server, self._other)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        for server in (self._server, self._other):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def config(self, exchange_id: str, **settings: float) -> ExchangeConfig:
        """Make the configuration that sends ccxt's client of this exchange here; impatient, unless `settings` say."""
        venue = VENUES[exchange_id]
        impatient = {"timeout": 5.0, "deadline": 2.0, "late_after": 0.0}
        return ExchangeConfig(
            id=exchange_id, api_urls=venue.api_urls(self.url), options=venue.options, **(impatient | settings)
        )

    def fail_next(
        self,
        kind: Kind,
        *,
        times: int = 1,
        at: Endpoint = "bars",
        status: int = 503,
        headers: dict[str, str] | None = None,
        symbol: str | None = None,
    ) -> None:
        """Let something go wrong with the next `times` requests to an endpoint; of bars, with those of a `symbol`."""
        self._faults.append(Fault(kind, at, times, status, headers or {}, symbol))

    def recover(self) -> None:
        """Let nothing go wrong from here on."""
        self._faults.clear()

    def delist(self, symbol: str) -> None:
        """Take a symbol off the market lists, and answer requests for its bars with the venue's error."""
        self.symbols.discard(symbol)

    def halt(self, symbol: str, at: int) -> None:
        """Stop trading a symbol at a time, and keep it on the market list, with the status that says so (Binance)."""
        self.halted[symbol] = at

    def rename(self, symbol: str, name: str) -> None:
        """List a symbol by another name."""
        self.delist(symbol)
        self.symbols.add(name)

    def asked(self, endpoint: Endpoint) -> list[dict[str, str]]:
        """The queries to one endpoint, in order."""
        return [request.query for request in self.requests if request.endpoint == endpoint]

    def rows(self, symbol: str, timeframe: str, start: int, end: int) -> list[Row]:
        """The truth: every bar that opens in [start, end) and exists by now, the forming one included."""
        return list(self._each_row(symbol, timeframe, start, end))

    def answer(self, path: str, query: dict[str, str]) -> Answer | None:
        """Answer a request; None means that the connection is to be cut."""
        venue = next((one for one in VENUES.values() if one.endpoint(path)), None)
        endpoint = venue.endpoint(path) if venue else None
        self.requests.append(Request(endpoint or "", path, query, time.monotonic()))
        if venue is None or endpoint is None:
            return Answer(HTML, 404)
        market = venue.asked(path, query, self.now).market if endpoint == "bars" else None
        fault = self._next_fault(endpoint, lambda symbol: venue.market(symbol) == market)
        spoil = _ROW_FAULTS.get(fault.kind, _as_it_is) if fault else _as_it_is
        if fault is None or fault.kind in _ROW_FAULTS:
            return self._plain(venue, endpoint, path, query, spoil)
        if fault.kind == "truncated":
            plain = self._plain(venue, endpoint, path, query, spoil)
            return Answer(plain.body[: len(plain.body) // 2], plain.status)
        return self._broken(fault)

    @property
    def _served(self) -> int:
        """UTC ms as of which bars are served."""
        return self.now - self.replica_ms

    def _each_row(self, symbol: str, timeframe: str, start: int, end: int) -> Iterator[Row]:
        step = Timeframe(timeframe).ms
        phase = self.days_begin % step
        first = -(-(max(start, self.listed_at) - phase) // step) * step + phase
        opens = range(first, min(end, self._served + 1, self.halted.get(symbol, end)), step)
        return (self._bar(symbol, step, at) for at in opens if at not in self.missing)

    def _bar(self, symbol: str, step: int, open_time: int) -> Row:
        close_time = open_time + step
        until = min(close_time, self._served)
        open_, close = _price(symbol, open_time), self.revised.get(open_time, _price(symbol, until))
        high, low = round(max(open_, close) * 1.001, 2), round(min(open_, close) * 0.999, 2)
        volume = round((10 + open_time // step % 101) * (until - open_time) / step, 3)
        return open_time, open_, high, low, close, volume

    def _next_fault(self, endpoint: str, is_asked: Callable[[str], bool]) -> Fault | None:
        """The fault of a request, which uses it up; `is_asked` says whether the request is about a symbol."""
        of_symbol = (one for one in self._faults if one.symbol is None or is_asked(one.symbol))
        fault = next((one for one in of_symbol if one.at == endpoint), None)
        if fault is not None:
            fault.times -= 1
            if fault.times == 0:
                self._faults.remove(fault)
        return fault

    def _broken(self, fault: Fault) -> Answer | None:
        if fault.kind == "delay":
            self.closing.wait(30)
        if fault.kind in ("delay", "reset"):
            return None
        if fault.kind == "status":
            return Answer(HTML, fault.status, fault.headers)
        if fault.kind == "redirect":
            return Answer("", 302, {"Location": f"http://127.0.0.1:{self._other.server_port}/elsewhere"})
        if fault.kind == "drip":
            return Answer("[" + " " * 1000 + "]", pause=0.1)
        bodies = {"html": HTML, "null": "null", "object": '{"a": 1}', "nested": "[" * 100_000 + "]" * 100_000}
        return Answer(bodies.get(fault.kind, "[" + " " * OVERSIZED + "]"))

    def _plain(
        self, venue: Venue, endpoint: Endpoint, path: str, query: dict[str, str], spoil: Callable[..., list[Any]]
    ) -> Answer:
        if endpoint == "time":
            return Answer(json.dumps(venue.time(self.now)))
        if endpoint == "markets":
            return Answer(json.dumps(self._with_halted(venue, venue.markets(path, sorted(self.symbols)))))
        asked = venue.asked(path, query, self.now)
        symbol = {venue.market(symbol): symbol for symbol in self.symbols}.get(asked.market)
        if symbol is None:
            status, content = venue.unknown()
            return Answer(json.dumps(content), status)
        found = [self._odd(row) for row in self._found(symbol, asked)]
        rows = [venue.row(row, asked.step) for row in spoil(found, asked.step, self.now)]
        if isinstance(venue, Okx):
            rows = [venue.confirmed(row, asked.step, self._served) for row in rows]
        if spoil is _short_rows:
            rows = [row if i % 2 else _shortened(row) for i, row in enumerate(rows)]
        return Answer(json.dumps(venue.answer(asked.market, rows[:: -1 if venue.newest_first else 1])))

    def _odd(self, row: Row) -> Row:
        """A row as this exchange writes it."""
        return (row[0] * self.per_ms, *row[1:5], row[5] if self.knows_volume else None)

    def _with_halted(self, venue: Venue, markets: Any) -> object:
        for one in markets["symbols"] if self.halted else []:
            if one["symbol"] in map(venue.market, self.halted):
                one["status"] = "BREAK"
        return markets

    def _found(self, symbol: str, asked: Asked) -> list[Row]:
        rows = self._each_row(symbol, TIMEFRAMES[asked.step], asked.start, asked.end)
        return list(rows)[-asked.limit :] if asked.newest else list(islice(rows, asked.limit))


def _price(symbol: str, at: int) -> float:
    """A smooth path with two periods, about two hours and half a day."""
    base = BASE_PRICES.get(symbol) or 10.0 + zlib.crc32(symbol.encode()) % 1000
    return round(base * (1 + 0.005 * math.sin(at / 1.1e6) + 0.02 * math.sin(at / 7.3e6)), 2)


def _as_it_is(rows: list[Row], _step: int, _now: int) -> list[Row]:
    return rows


def _put(at: int, value: object) -> Callable[[list[Row], int, int], list[Any]]:
    """A fault that puts a value into one place of every second row."""

    def spoil(rows: list[Row], _step: int, _now: int) -> list[Any]:
        return [(*row[:at], value, *row[at + 1 :]) if i % 2 == 0 else row for i, row in enumerate(rows)]

    return spoil


def _spoiled(rows: list[Row], _step: int, _now: int) -> list[Any]:
    return [(row[0], SPOILED[i], *row[2:]) if i < len(SPOILED) else row for i, row in enumerate(rows)]


def _short_rows(rows: list[Row], _step: int, _now: int) -> list[Row]:
    return rows


def _shortened(row: Any) -> Any:
    return row[:-1] if isinstance(row, list) else dict(list(row.items())[:-1])


def _off_grid(rows: list[Row], step: int, _now: int) -> list[Any]:
    return [(row[0] + step // 3 // 1000 * 1000, *row[1:]) if i % 2 == 0 else row for i, row in enumerate(rows)]


def _future(rows: list[Row], step: int, now: int) -> list[Row]:
    """Two rows more, of the next hour and of thirty years ahead."""
    ahead = [now // step * step + step, (now + 30 * 365 * DAY_MS) // step * step]
    return rows + [(at, *row[1:]) for at in ahead for row in rows[-1:]]


def _inverted(rows: list[Row], _step: int, _now: int) -> list[Any]:
    return [
        (t, o, low, high, c, v) if i % 2 == 0 else (t, o, high, low, c, v)
        for i, (t, o, high, low, c, v) in enumerate(rows)
    ]


def _far(rows: list[Row], step: int, now: int) -> list[Row]:
    """The newest bar that has closed closes half as high again as it did."""
    newest = max((row[0] for row in rows if row[0] + step <= now), default=None)
    return [(t, o, 1.5 * h, low, 1.5 * c, v) if t == newest else (t, o, h, low, c, v) for t, o, h, low, c, v in rows]


_ROW_FAULTS: Final[dict[str, Callable[[list[Row], int, int], list[Any]]]] = {
    "empty": lambda _rows, _step, _now: [],
    "spoiled": _spoiled,
    "nulls": lambda rows, _step, _now: [(None,) * 6 for _ in rows],
    "nan": _put(4, "NaN"),
    "infinite": _put(2, "1e400"),
    "nested_entry": _put(3, [1]),
    "short_rows": _short_rows,
    "duplicates": lambda rows, _step, _now: [row for row in rows for _ in range(2)],
    "unsorted": lambda rows, _step, _now: rows[1::2] + rows[::2],
    "off_grid": _off_grid,
    "future": _future,
    "negative": _put(3, -1.0),
    "zero": _put(1, 0.0),
    "inverted": _inverted,
    "late": lambda rows, step, now: [row for row in rows if row[0] < now // step * step - step],
    "far": _far,
}


def closed_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Server(ThreadingHTTPServer):
    """One thread for each request, none of which holds up the end of the program."""

    request_queue_size = 1024

    def __init__(self, exchange: LoopbackExchange, certificate: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.exchange = exchange

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that have gone away, which is what some faults are for."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Puts the exchange's answers on the wire."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer, or cut the connection with a reset."""
        exchange, address = self.server.exchange, urlsplit(self.path)
        if address.path == "/elsewhere":
            exchange.elsewhere += 1
        answer = exchange.answer(address.path, dict(parse_qsl(address.query)))
        if answer is None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        body = answer.body.encode()
        self.send_response(answer.status)
        for name, text in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not answer.pause:
            self.wfile.write(body)
            return
        for byte in body:
            if exchange.closing.wait(answer.pause):
                return
            self.wfile.write(bytes([byte]))

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The date by the exchange's own clock."""
        return formatdate(self.server.exchange.now / 1000 if timestamp is None else timestamp, usegmt=True)

    def log_message(self, *_: object) -> None:
        """Say nothing: `exchange.requests` is the log."""


class HandTime:
    """The time of sources and of what the loopback exchange writes down, which passes by waiting alone.

    Waits are as long as on average, end at once, and clocks are then so much further; a limit that they reach is over.
    In real time a limit is `stretch` times as long: so a machine under load makes no request late, unless that is
    what a test is about.
    """

    def __init__(self) -> None:
        self.seconds = 1_000_000.0
        self.stretch = 100.0
        self._limits: ContextVar[tuple[tuple[float, asyncio.Timeout], ...]] = ContextVar("limits", default=())

    def monotonic(self) -> float:
        """Seconds of a clock that nobody sets."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Wait: others go on, and the time is over, or that of a limit is."""
        until, limit = min(self._limits.get(), default=(math.inf, None), key=lambda one: one[0])
        if limit is not None and until < self.seconds + seconds:
            self.seconds = max(self.seconds, until)
            limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()
        self.seconds += seconds
        await asyncio.sleep(0)

    @asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Limit what is done within."""
        until = self.seconds + seconds
        async with asyncio.timeout(seconds * self.stretch) as limit:
            token = self._limits.set((*self._limits.get(), (until, limit)))
            try:
                yield
            finally:
                self._limits.reset(token)


def by_hand(monkeypatch: pytest.MonkeyPatch) -> HandTime:
    """Let sources wait by a clock that their waits alone move."""
    hand = HandTime()
    for module in (paginator, exchange_source, exchange_clock, sys.modules[__name__]):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=hand.monotonic))
    monkeypatch.setattr(paginator, "_RANDOM", SimpleNamespace(uniform=lambda least, most: (least + most) / 2))
    changed = SimpleNamespace(**{**vars(asyncio), "sleep": hand.sleep, "timeout": hand.timeout})
    for module in (paginator, request, exchange_source):
        monkeypatch.setattr(module, "asyncio", changed)
    monkeypatch.setattr(breaker, "_monotonic_ms", lambda: round(hand.seconds * 1000))
    monkeypatch.setattr(breaker, "now_ms", lambda: round(hand.seconds * 1000))
    return hand


def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sources neither pace their requests nor linger after closing: on loopback both are idle time."""

    async def pass_on(_self: object, _seconds: float) -> None:
        pass

    monkeypatch.setattr(RateLimiter, "wait", pass_on)
    monkeypatch.setattr(ccxt.Exchange, "timeout_on_exit", 0)
