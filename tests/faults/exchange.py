"""A loopback exchange: enough of binance and of kraken for a real ccxt client, and faults on request.

Its bars are a function of symbol, timeframe and open time, so a test can ask for the truth; its clock
stands still until a test moves it. It says nothing about what a client should make of its answers.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

import ccxt.async_support as ccxt

from forecaster.config import ExchangeConfig
from forecaster.timeframe import DAY_MS, Timeframe

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

Kind = Literal["status", "html", "null", "object", "truncated", "delay", "reset", "redirect", "empty", "bad_rows"]
Endpoint = Literal["bars", "markets", "time"]
Row = tuple[int, float, float, float, float, float]

BASE_PRICES: Final = {"BTC/USDT": 60_000.0, "ETH/USDT": 3_000.0, "BTC/USD": 59_000.0}
HTML: Final = "<html><head><title>Down for maintenance</title></head><body>Back soon.</body></html>"
KRAKEN_KEEPS: Final = 720
SPOILED: Final = ("oops", None, "NaN", "-1")
"""What `bad_rows` puts in place of the open price, one value in each of an answer's first rows."""

_ENDPOINTS: Final[dict[str, tuple[str, Endpoint]]] = {
    "/api/v3/exchangeInfo": ("binance", "markets"),
    "/api/v3/klines": ("binance", "bars"),
    "/api/v3/time": ("binance", "time"),
    "/0/public/Assets": ("kraken", "markets"),
    "/0/public/AssetPairs": ("kraken", "markets"),
    "/0/public/OHLC": ("kraken", "bars"),
    "/0/public/Time": ("kraken", "time"),
}
_KRAKEN_ASSETS: Final = {"BTC": "XXBT", "ETH": "XETH", "USD": "ZUSD"}


class Request(NamedTuple):
    """What a client asked."""

    endpoint: str
    path: str
    query: dict[str, str]


@dataclass
class Fault:
    """One thing to go wrong, for the next `times` requests to one endpoint."""

    kind: Kind
    at: Endpoint
    times: int
    status: int
    headers: dict[str, str]


@dataclass
class Answer:
    """What goes back on the wire."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class LoopbackExchange:
    """An exchange on 127.0.0.1, to be used in a `with` block.

    Args:
        now: its clock, UTC ms; assign to `exchange.now` to move it. The bar that contains it still forms.
        listed_at: UTC ms of the first bar of every symbol; a thousand days before `now` unless given.
    """

    def __init__(self, now: int, listed_at: int | None = None) -> None:
        self.now = now
        self.listed_at = now - 1000 * DAY_MS if listed_at is None else listed_at
        self.requests: list[Request] = []
        self.symbols = set(BASE_PRICES)
        self.missing: set[int] = set()
        self.closing = threading.Event()
        self._faults: list[Fault] = []
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def config(self, exchange_id: Literal["binance", "kraken"], timeout: float = 5.0) -> ExchangeConfig:
        """Make the configuration that sends ccxt's client of this exchange here."""
        if exchange_id == "kraken":
            return ExchangeConfig(id="kraken", api_urls={"public": self.url}, timeout=timeout)
        options: dict[str, object] = {"fetchMarkets": {"types": ["spot"]}}
        return ExchangeConfig(id="binance", api_urls={"public": self.url + "/api/v3"}, options=options, timeout=timeout)

    def fail_next(
        self,
        kind: Kind,
        *,
        times: int = 1,
        at: Endpoint = "bars",
        status: int = 503,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Let something go wrong with the next `times` requests to an endpoint."""
        self._faults.append(Fault(kind, at, times, status, headers or {}))

    def delist(self, symbol: str) -> None:
        """Take a symbol off the market lists, and answer requests for its bars with the venue's error."""
        self.symbols.discard(symbol)

    def asked(self, endpoint: Endpoint) -> list[dict[str, str]]:
        """The queries to one endpoint, in order."""
        return [request.query for request in self.requests if request.endpoint == endpoint]

    def rows(self, symbol: str, timeframe: str, start: int, end: int) -> list[Row]:
        """The truth: every bar that opens in [start, end) and exists by now, the forming one included."""
        return list(self._each_row(symbol, timeframe, start, end))

    def answer(self, path: str, query: dict[str, str]) -> Answer | None:
        """Answer a request; None means that the connection is to be cut."""
        venue, endpoint = _ENDPOINTS.get(path, ("", ""))
        self.requests.append(Request(endpoint, path, query))
        if not endpoint:
            return Answer(HTML, 404)
        fault = self._next_fault(endpoint)
        if fault is None:
            return self._plain(venue, endpoint, query)
        if fault.kind in ("empty", "bad_rows"):
            return self._plain(venue, endpoint, query, fault.kind)
        if fault.kind == "truncated":
            plain = self._plain(venue, endpoint, query)
            return Answer(plain.body[: len(plain.body) // 2], plain.status)
        return self._broken(fault)

    def _each_row(self, symbol: str, timeframe: str, start: int, end: int) -> Iterator[Row]:
        step = Timeframe(timeframe).ms
        first = -(-max(start, self.listed_at) // step) * step
        opens = range(first, min(end, self.now + 1), step)
        return (self._bar(symbol, step, at) for at in opens if at not in self.missing)

    def _bar(self, symbol: str, step: int, open_time: int) -> Row:
        close_time = open_time + step
        until = min(close_time, self.now)
        open_, close = _price(symbol, open_time), _price(symbol, until)
        high, low = round(max(open_, close) * 1.001, 2), round(min(open_, close) * 0.999, 2)
        volume = round((10 + open_time // step % 101) * (until - open_time) / step, 3)
        return open_time, open_, high, low, close, volume

    def _next_fault(self, endpoint: str) -> Fault | None:
        fault = next((one for one in self._faults if one.at == endpoint), None)
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
            return Answer("", 302, {"Location": "http://127.0.0.1:9/elsewhere"})
        return Answer({"html": HTML, "null": "null", "object": '{"a": 1}'}[fault.kind])

    def _plain(self, venue: str, endpoint: str, query: dict[str, str], fault: Kind | None = None) -> Answer:
        make = {
            ("binance", "markets"): self._binance_markets,
            ("binance", "bars"): self._binance_bars,
            ("kraken", "markets"): self._kraken_markets,
            ("kraken", "bars"): self._kraken_bars,
        }
        if endpoint == "time":
            now = {"serverTime": self.now} if venue == "binance" else _kraken({"unixtime": self.now // 1000})
            return Answer(json.dumps(now))
        return make[venue, endpoint](query, fault)

    def _binance_markets(self, _query: dict[str, str], _fault: Kind | None) -> Answer:
        symbols = [
            {
                "symbol": symbol.replace("/", ""),
                "status": "TRADING",
                "baseAsset": symbol.split("/")[0],
                "quoteAsset": symbol.split("/")[1],
                "filters": [],
            }
            for symbol in sorted(self.symbols)
        ]
        return Answer(json.dumps({"symbols": symbols}))

    def _binance_bars(self, query: dict[str, str], fault: Kind | None) -> Answer:
        symbol = {symbol.replace("/", ""): symbol for symbol in self.symbols}.get(query["symbol"])
        if symbol is None:
            return Answer('{"code": -1121, "msg": "Invalid symbol."}', 400)
        limit = min(int(query.get("limit", "500")), 1000)
        end = int(query.get("endTime", self.now)) + 1
        step = Timeframe(query["interval"]).ms
        start = int(query.get("startTime", end - limit * step))
        rows = islice(self._each_row(symbol, query["interval"], start, end), limit)
        return Answer(json.dumps(_faulty([_binance_row(row, step) for row in rows], fault)))

    def _kraken_markets(self, _query: dict[str, str], _fault: Kind | None) -> Answer:
        # Assets and AssetPairs share this: ccxt takes the currencies from the pairs if there are none.
        pairs = {_kraken_id(symbol): _kraken_pair(symbol) for symbol in sorted(self.symbols)}
        assets_asked = self.requests[-1].path.endswith("Assets")
        return Answer(json.dumps(_kraken({} if assets_asked else pairs)))

    def _kraken_bars(self, query: dict[str, str], fault: Kind | None) -> Answer:
        symbol = {_kraken_id(symbol): symbol for symbol in self.symbols}.get(query["pair"])
        if symbol is None:
            return Answer('{"error": ["EQuery:Unknown asset pair"]}')
        step = int(query.get("interval", "1")) * 60_000
        timeframe = next(name for name in ("1m", "5m", "15m", "30m", "1h", "4h", "1d") if Timeframe(name).ms == step)
        # Only the newest bars are kept, whatever `since` says; those at `since` itself are left out.
        since = max(int(query.get("since", "0")) * 1000 + 1, self.now - KRAKEN_KEEPS * step + 1)
        rows = [_kraken_row(row) for row in self.rows(symbol, timeframe, since, self.now + 1)]
        last = rows[-1][0] if rows else 0
        return Answer(json.dumps(_kraken({_kraken_id(symbol): _faulty(rows, fault), "last": last})))


def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ccxt's clients neither wait between requests nor after closing: on loopback both are idle time."""

    async def pass_on(_self: object, _cost: object = None) -> None:
        pass

    monkeypatch.setattr(ccxt.Exchange, "throttle", pass_on)
    monkeypatch.setattr(ccxt.Exchange, "timeout_on_exit", 0)


def closed_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _price(symbol: str, at: int) -> float:
    """A smooth path with two periods, about two hours and half a day."""
    return round(BASE_PRICES[symbol] * (1 + 0.005 * math.sin(at / 1.1e6) + 0.02 * math.sin(at / 7.3e6)), 2)


def _faulty(rows: list[list[Any]], fault: Kind | None) -> list[list[Any]]:
    if fault == "empty":
        return []
    if fault == "bad_rows":
        for row, value in zip(rows, SPOILED, strict=False):
            row[1] = value
    return rows


def _binance_row(row: Row, step: int) -> list[Any]:
    open_time, *ohlcv = row
    return [open_time, *(repr(value) for value in ohlcv), open_time + step - 1, "0", 1, "0", "0", "0"]


def _kraken_row(row: Row) -> list[Any]:
    open_time, open_, high, low, close, volume = row
    return [open_time // 1000, repr(open_), repr(high), repr(low), repr(close), repr(close), repr(volume), 1]


def _kraken(result: dict[str, Any]) -> dict[str, Any]:
    return {"error": [], "result": result}


def _kraken_id(symbol: str) -> str:
    return "".join(_KRAKEN_ASSETS.get(asset, asset) for asset in symbol.split("/"))


def _kraken_pair(symbol: str) -> dict[str, Any]:
    base, quote = symbol.split("/")
    return {
        "altname": base + quote,
        "wsname": symbol,
        "base": _KRAKEN_ASSETS.get(base, base),
        "quote": _KRAKEN_ASSETS.get(quote, quote),
        "pair_decimals": 2,
        "lot_decimals": 8,
        "status": "online",
    }


class _Server(ThreadingHTTPServer):
    """One thread for each request, none of which holds up the end of the program."""

    def __init__(self, exchange: LoopbackExchange) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exchange = exchange

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that have gone away, which is what some faults are for."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Puts the exchange's answers on the wire."""

    server: _Server

    def do_GET(self) -> None:
        """Answer, or cut the connection with a reset."""
        address = urlsplit(self.path)
        answer = self.server.exchange.answer(address.path, dict(parse_qsl(address.query)))
        if answer is None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        body = answer.body.encode()
        self.send_response(answer.status)
        for name, text in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: `exchange.requests` is the log."""
