"""How eight exchanges ask and answer: just enough of each for ccxt's own client of it.

A venue turns a request for bars into what was asked, and rows into the JSON that it would send. It holds no bars, no
clock and no faults; those are the loopback exchange's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol

from forecaster.timeframe import Timeframe

Endpoint = Literal["bars", "markets", "time"]
Row = tuple[Any, Any, Any, Any, Any, Any]
"""Open time (UTC ms), open, high, low, close, volume; a fault may have put anything in their places."""

TIMEFRAMES: Final = {Timeframe(name).ms: name for name in ("1m", "5m", "15m", "30m", "1h", "6h", "1d")}


class Asked(NamedTuple):
    """Which bars a request is for: those that open in [start, end), the first or the newest `limit` of them."""

    market: str
    step: int
    start: int
    end: int
    limit: int
    newest: bool = False


class Venue(Protocol):
    """One exchange's words."""

    id: str
    page: int
    options: ClassVar[dict[str, object]]
    newest_first: bool

    def api_urls(self, url: str) -> dict[str, str]:
        """What replaces ccxt's addresses."""

    def endpoint(self, path: str) -> Endpoint | None:
        """What a path is for."""

    def market(self, symbol: str) -> str:
        """The venue's own name of a symbol."""

    def markets(self, path: str, symbols: list[str]) -> object:
        """The list of markets, or what else is read with it."""

    def time(self, now: int) -> object:
        """The clock."""

    def asked(self, path: str, query: dict[str, str], now: int) -> Asked:
        """What a request for bars asks for."""

    def row(self, row: Row, step: int) -> object:
        """One bar."""

    def answer(self, market: str, rows: list[object]) -> object:
        """The whole answer."""

    def unknown(self) -> tuple[int, object]:
        """Status and body for a market that is not listed."""


class Binance:
    """Ascending rows from a start; prices as text."""

    id = "binance"
    page = 1000
    options: ClassVar[dict[str, object]] = {"fetchMarkets": {"types": ["spot"]}}
    newest_first = False

    def api_urls(self, url: str) -> dict[str, str]:
        return {"public": url + "/api/v3"}

    def endpoint(self, path: str) -> Endpoint | None:
        return {"/api/v3/exchangeInfo": "markets", "/api/v3/klines": "bars", "/api/v3/time": "time"}.get(path)

    def market(self, symbol: str) -> str:
        return symbol.replace("/", "")

    def markets(self, path: str, symbols: list[str]) -> object:
        del path
        return {
            "symbols": [
                {"symbol": self.market(one), "status": "TRADING", "baseAsset": base, "quoteAsset": quote, "filters": []}
                for one in symbols
                for base, quote in [one.split("/")]
            ]
        }

    def time(self, now: int) -> object:
        return {"serverTime": now}

    def asked(self, path: str, query: dict[str, str], now: int) -> Asked:
        del path
        step, limit = Timeframe(query["interval"]).ms, min(int(query.get("limit", "500")), self.page)
        end = int(query.get("endTime", now)) + 1
        return Asked(query["symbol"], step, int(query.get("startTime", end - limit * step)), end, limit)

    def row(self, row: Row, step: int) -> object:
        close_time = row[0] + step - 1 if isinstance(row[0], int) else None
        return [row[0], *map(text, row[1:]), close_time, "0", 1, "0", "0", "0"]

    def answer(self, market: str, rows: list[object]) -> object:
        del market
        return rows

    def unknown(self) -> tuple[int, object]:
        return 400, {"code": -1121, "msg": "Invalid symbol."}


class Kraken:
    """Its newest 720 bars, whatever was asked; times in seconds."""

    id = "kraken"
    page = 720
    options: ClassVar[dict[str, object]] = {}
    newest_first = False
    assets: Final = {"BTC": "XXBT", "ETH": "XETH", "USD": "ZUSD"}

    def api_urls(self, url: str) -> dict[str, str]:
        return {"public": url}

    def endpoint(self, path: str) -> Endpoint | None:
        return {
            "/0/public/Assets": "markets",
            "/0/public/AssetPairs": "markets",
            "/0/public/OHLC": "bars",
            "/0/public/Time": "time",
        }.get(path)

    def market(self, symbol: str) -> str:
        return "".join(self.assets.get(asset, asset) for asset in symbol.split("/"))

    def markets(self, path: str, symbols: list[str]) -> object:
        # ccxt takes the currencies from the pairs if there are none.
        return _kraken({} if path.endswith("Assets") else {self.market(one): self._pair(one) for one in symbols})

    def time(self, now: int) -> object:
        return _kraken({"unixtime": now // 1000})

    def asked(self, path: str, query: dict[str, str], now: int) -> Asked:
        del path
        step = int(query.get("interval", "1")) * 60_000
        # Only the newest bars are kept, whatever `since` says; those at `since` itself are left out.
        start = max(int(query.get("since", "0")) * 1000 + 1, now - self.page * step + 1)
        return Asked(query["pair"], step, start, now + 1, self.page)

    def row(self, row: Row, step: int) -> object:
        del step
        open_, high, low, close, volume = map(text, row[1:])
        return [seconds(row[0]), open_, high, low, close, close, volume, 1]

    def answer(self, market: str, rows: list[object]) -> object:
        return _kraken({market: rows, "last": 0})

    def unknown(self) -> tuple[int, object]:
        return 200, {"error": ["EQuery:Unknown asset pair"]}

    def _pair(self, symbol: str) -> dict[str, object]:
        base, quote = symbol.split("/")
        return {
            "altname": base + quote,
            "wsname": symbol,
            "base": self.assets.get(base, base),
            "quote": self.assets.get(quote, quote),
            "pair_decimals": 2,
            "lot_decimals": 8,
            "status": "online",
        }


class Coinbase:
    """Objects, newest first, in windows of 300."""

    id = "coinbase"
    page = 300
    options: ClassVar[dict[str, object]] = {}
    newest_first = True
    names: Final = {
        "ONE_MINUTE": "1m",
        "FIVE_MINUTE": "5m",
        "FIFTEEN_MINUTE": "15m",
        "THIRTY_MINUTE": "30m",
        "ONE_HOUR": "1h",
        "SIX_HOUR": "6h",
        "ONE_DAY": "1d",
    }

    def api_urls(self, url: str) -> dict[str, str]:
        return {"rest": url}

    def endpoint(self, path: str) -> Endpoint | None:
        if path.startswith("/api/v3/") and path.endswith("/candles"):
            return "bars"
        if path == "/v2/time":
            return "time"
        return "markets" if path.startswith(("/v2/", "/api/v3/brokerage/market/products")) else None

    def market(self, symbol: str) -> str:
        return symbol.replace("/", "-")

    def markets(self, path: str, symbols: list[str]) -> object:
        if path.startswith("/v2/exchange-rates"):
            return {"data": {"currency": "USD", "rates": {}}}
        if path.startswith("/v2/"):
            return {"data": []}
        products = [
            {
                "product_id": self.market(one),
                "base_currency_id": base,
                "quote_currency_id": quote,
                "product_type": "SPOT",
                "base_increment": "0.00000001",
                "quote_increment": "0.01",
                "price_increment": "0.01",
                "base_min_size": "0.0001",
                "quote_min_size": "1",
                "status": "online",
            }
            for one in symbols
            for base, quote in [one.split("/")]
        ]
        return {"products": products, "num_products": len(products)}

    def time(self, now: int) -> object:
        return {"data": {"epoch": now // 1000, "iso": "unread"}}

    def asked(self, path: str, query: dict[str, str], now: int) -> Asked:
        del now
        step = Timeframe(self.names[query["granularity"]]).ms
        start, end = int(query["start"]) * 1000, int(query["end"]) * 1000
        return Asked(path.split("/")[-2], step, start, end, self.page)

    def row(self, row: Row, step: int) -> object:
        del step
        names = ("start", "open", "high", "low", "close", "volume")
        values = (text(seconds(row[0])), *map(text, row[1:]))
        return dict(zip(names, values, strict=True))

    def answer(self, market: str, rows: list[object]) -> object:
        del market
        return {"candles": rows}

    def unknown(self) -> tuple[int, object]:
        return 404, {"error": "NOT_FOUND", "error_details": "valid product_id is required", "message": "not found"}


class CoinbaseExchange:
    """Lists with low and high before open, newest first; ISO times."""

    id = "coinbaseexchange"
    page = 300
    options: ClassVar[dict[str, object]] = {}
    newest_first = True

    def api_urls(self, url: str) -> dict[str, str]:
        return {"public": url}

    def endpoint(self, path: str) -> Endpoint | None:
        if path.startswith("/products/"):
            return "bars"
        return {"/currencies": "markets", "/products": "markets", "/time": "time"}.get(path)

    def market(self, symbol: str) -> str:
        return symbol.replace("/", "-")

    def markets(self, path: str, symbols: list[str]) -> object:
        if path == "/currencies":
            return []
        return [
            {
                "id": self.market(one),
                "base_currency": base,
                "quote_currency": quote,
                "base_increment": "0.00000001",
                "quote_increment": "0.01",
                "min_market_funds": "1",
                "status": "online",
                "trading_disabled": False,
            }
            for one in symbols
            for base, quote in [one.split("/")]
        ]

    def time(self, now: int) -> object:
        return {"epoch": now / 1000, "iso": "unread"}

    def asked(self, path: str, query: dict[str, str], now: int) -> Asked:
        del now
        start, end = (_iso_ms(query[name]) for name in ("start", "end"))
        return Asked(path.split("/")[-2], int(query["granularity"]) * 1000, start, end + 1, self.page)

    def row(self, row: Row, step: int) -> object:
        del step
        open_time, open_, high, low, close, volume = row
        return [seconds(open_time), low, high, open_, close, volume]

    def answer(self, market: str, rows: list[object]) -> object:
        del market
        return rows

    def unknown(self) -> tuple[int, object]:
        return 404, {"message": "NotFound"}


class Okx:
    """Newest first; both ends of a window are excluded."""

    id = "okx"
    page = 300
    options: ClassVar[dict[str, object]] = {"fetchMarkets": {"types": ["spot"]}}
    newest_first = True

    def api_urls(self, url: str) -> dict[str, str]:
        return {"rest": url}

    def endpoint(self, path: str) -> Endpoint | None:
        if path in ("/api/v5/market/candles", "/api/v5/market/history-candles"):
            return "bars"
        if path == "/api/v5/public/time":
            return "time"
        return "markets" if path == "/api/v5/public/instruments" else None

    def market(self, symbol: str) -> str:
        return symbol.replace("/", "-")

    def markets(self, path: str, symbols: list[str]) -> object:
        del path
        return _okx(
            [
                {
                    "instId": self.market(one),
                    "instType": "SPOT",
                    "baseCcy": base,
                    "quoteCcy": quote,
                    "state": "live",
                    "tickSz": "0.01",
                    "lotSz": "0.0001",
                    "minSz": "0.0001",
                }
                for one in symbols
                for base, quote in [one.split("/")]
            ]
        )

    def time(self, now: int) -> object:
        return _okx([{"ts": str(now)}])

    def asked(self, path: str, query: dict[str, str], now: int) -> Asked:
        del path
        step = Timeframe(query["bar"].replace("utc", "").lower() if query["bar"] != "1M" else "1d").ms
        limit = min(int(query.get("limit", "100")), self.page)
        end = int(query.get("after", now + 1))
        start = int(query["before"]) + 1 if "before" in query else end - limit * step
        return Asked(query["instId"], step, start, end, limit, newest=True)

    def row(self, row: Row, step: int) -> object:
        del step
        return [text(row[0]), *map(text, row[1:]), "0", "0", "1"]

    def confirmed(self, row: Any, step: int, now: int) -> object:
        """The row, which says whether it is final at a time (UTC ms)."""
        opened = row[0] if isinstance(row, list) and row else None
        forms = isinstance(opened, str) and opened.isdigit() and int(opened) + step > now
        return [*row[:-1], "0"] if forms else row

    def answer(self, market: str, rows: list[object]) -> object:
        del market
        return _okx(rows)

    def unknown(self) -> tuple[int, object]:
        return 200, {"code": "51001", "msg": "Instrument ID does not exist.", "data": []}


class Bybit:
    """Newest first, in an envelope."""

    id = "bybit"
    page = 1000
    options: ClassVar[dict[str, object]] = {"fetchMarkets": {"types": ["spot"]}}
    newest_first = True

    def api_urls(self, url: str) -> dict[str, str]:
        return {"public": url}

    def endpoint(self, path: str) -> Endpoint | None:
        return {
            "/v5/market/instruments-info": "markets",
            "/v5/market/kline": "bars",
            "/v5/market/time": "time",
        }.get(path)

    def market(self, symbol: str) -> str:
        return symbol.replace("/", "")

    def markets(self, path: str, symbols: list[str]) -> object:
        del path
        listed = [
            {
                "symbol": self.market(one),
                "baseCoin": base,
                "quoteCoin": quote,
                "status": "Trading",
                "lotSizeFilter": {"basePrecision": "0.0001", "minOrderQty": "0.0001"},
                "priceFilter": {"tickSize": "0.01"},
            }
            for one in symbols
            for base, quote in [one.split("/")]
        ]
        return _bybit({"category": "spot", "list": listed})

    def time(self, now: int) -> object:
        return _bybit({"timeSecond": str(now // 1000)}, now)

    def asked(self, path: str, query: dict[str, str], now: int) -> Asked:
        del path
        interval = query["interval"]
        step = Timeframe("1d").ms if interval == "D" else int(interval) * 60_000
        limit = min(int(query.get("limit", "200")), self.page)
        start = int(query.get("start", now - limit * step))
        return Asked(query["symbol"], step, start, int(query.get("end", now)) + 1, limit)

    def row(self, row: Row, step: int) -> object:
        del step
        return [text(row[0]), *map(text, row[1:]), "0"]

    def answer(self, market: str, rows: list[object]) -> object:
        return _bybit({"category": "spot", "symbol": market, "list": rows})

    def unknown(self) -> tuple[int, object]:
        return 200, {"retCode": 10001, "retMsg": "Not supported symbols", "result": {}, "time": 0}


class Kucoin:
    """Newest first, the close before high and low."""

    id = "kucoin"
    page = 1500
    options: ClassVar[dict[str, object]] = {"fetchMarkets": {"types": ["spot"], "fetchTickersFees": True}}
    newest_first = True

    def api_urls(self, url: str) -> dict[str, str]:
        return {"public": url}

    def endpoint(self, path: str) -> Endpoint | None:
        return {
            "/api/v3/currencies": "markets",
            "/api/v2/symbols": "markets",
            "/api/v1/market/allTickers": "markets",
            "/api/v1/market/candles": "bars",
            "/api/v1/timestamp": "time",
        }.get(path)

    def market(self, symbol: str) -> str:
        return symbol.replace("/", "-")

    def markets(self, path: str, symbols: list[str]) -> object:
        if path.endswith("allTickers"):
            return _kucoin({"time": 0, "ticker": []})
        if path.endswith("currencies"):
            return _kucoin([])
        return _kucoin(
            [
                {
                    "symbol": self.market(one),
                    "name": self.market(one),
                    "baseCurrency": base,
                    "quoteCurrency": quote,
                    "baseIncrement": "0.0001",
                    "quoteIncrement": "0.01",
                    "priceIncrement": "0.01",
                    "baseMinSize": "0.0001",
                    "quoteMinSize": "1",
                    "enableTrading": True,
                }
                for one in symbols
                for base, quote in [one.split("/")]
            ]
        )

    def time(self, now: int) -> object:
        return _kucoin(now)

    def asked(self, path: str, query: dict[str, str], now: int) -> Asked:
        del path
        step = Timeframe(query["type"].replace("min", "m").replace("hour", "h").replace("day", "d")).ms
        start, end = int(query.get("startAt", "0")) * 1000, int(query.get("endAt", now // 1000)) * 1000
        return Asked(query["symbol"], step, start, end, self.page, newest=True)

    def row(self, row: Row, step: int) -> object:
        del step
        open_, high, low, close, volume = map(text, row[1:])
        return [text(seconds(row[0])), open_, close, high, low, volume, "0"]

    def answer(self, market: str, rows: list[object]) -> object:
        del market
        return _kucoin(rows)

    def unknown(self) -> tuple[int, object]:
        return 200, {"code": "400100", "msg": "This pair is not provided at present"}


class Bitstamp:
    """Objects; its clock is the date of its answers."""

    id = "bitstamp"
    page = 1000
    options: ClassVar[dict[str, object]] = {"fetchMarkets": {"expires": -1}}  # ccxt keeps them for a second
    newest_first = False

    def api_urls(self, url: str) -> dict[str, str]:
        return {"public": url + "/api"}

    def endpoint(self, path: str) -> Endpoint | None:
        if path.startswith("/api/v2/ohlc/"):
            return "bars"
        return "markets" if path in ("/api/v2/markets/", "/api/v2/currencies/") else None

    def market(self, symbol: str) -> str:
        return symbol.replace("/", "").lower()

    def markets(self, path: str, symbols: list[str]) -> object:
        if path.endswith("currencies/"):
            return []
        return [
            {
                "name": one,
                "description": f"{base} / {quote}",
                "market_symbol": self.market(one),
                "base_currency": base,
                "counter_currency": quote,
                "base_decimals": 8,
                "counter_decimals": 2,
                "minimum_order_value": "10.00",
                "trading": "Enabled",
                "market_type": "SPOT",
            }
            for one in symbols
            for base, quote in [one.split("/")]
        ]

    def time(self, now: int) -> object:
        raise NotImplementedError  # it tells the time by the date of its answers alone

    def asked(self, path: str, query: dict[str, str], now: int) -> Asked:
        step, limit = int(query["step"]) * 1000, int(query.get("limit", str(self.page)))
        end = int(query.get("end", now // 1000)) * 1000 + 1
        start = int(query.get("start", 0)) * 1000
        return Asked(path.rstrip("/").split("/")[-1], step, start, end, limit, newest=True)

    def row(self, row: Row, step: int) -> object:
        del step
        names = ("timestamp", "open", "high", "low", "close", "volume")
        return dict(zip(names, (text(seconds(row[0])), *map(text, row[1:])), strict=True))

    def answer(self, market: str, rows: list[object]) -> object:
        return {"data": {"pair": market, "ohlc": rows}}

    def unknown(self) -> tuple[int, object]:
        return 404, {"status": "error", "reason": "Invalid currency pair", "code": "API0004"}


VENUES: Final[dict[str, Venue]] = {
    venue.id: venue
    for venue in (Binance(), Kraken(), Coinbase(), CoinbaseExchange(), Okx(), Bybit(), Kucoin(), Bitstamp())
}


def text(value: object) -> object:
    """A number as most venues write it; a fault's null or text as it is."""
    return repr(value) if isinstance(value, int | float) else value


def seconds(open_time: Any) -> object:
    """An open time in seconds; off the whole second it keeps its fraction."""
    if not isinstance(open_time, int):
        return open_time
    return open_time // 1000 if open_time % 1000 == 0 else open_time / 1000


def _kraken(result: object) -> object:
    return {"error": [], "result": result}


def _okx(rows: list[Any]) -> object:
    return {"code": "0", "msg": "", "data": rows}


def _bybit(result: object, now: int = 0) -> object:
    return {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": now}


def _kucoin(content: object) -> object:
    return {"code": "200000", "data": content}


def _iso_ms(when: str) -> int:
    return round(datetime.fromisoformat(when).timestamp() * 1000)
