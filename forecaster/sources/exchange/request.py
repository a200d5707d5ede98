"""One guarded request to an exchange, through ccxt.

ccxt makes addresses and parses rows. The request itself is made here, with limits on its size, time, host and status:
ccxt's own follows redirects, reads any number of bytes and takes a maintenance page for an empty answer. Errors of
ccxt and of the network are mapped to `SourceError` by one table.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp
import ccxt.async_support as ccxt
import yarl

from forecaster.errors import BadPayload, Banned, RateLimited, SourceError, SourceUnavailable, UnknownSymbol, storable
from forecaster.sources.exchange.guard import MAX_BODY_CHARACTERS, Row, check_rows_path, parse_body, parse_rows
from forecaster.sources.exchange.paginator import RateLimiter
from forecaster.sources.exchange.server_time import retry_after
from forecaster.urls import redact_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from forecaster.config import ExchangeConfig
    from forecaster.sources.exchange.breaker import Breaker
    from forecaster.sources.exchange.server_time import ExchangeClock

T = TypeVar("T")

_FIRST_ERROR_STATUS: Final = 400

# The status is more precise than ccxt's class: binance has one class for a ban (418) and a limit (429), and a refused
# country (451) passes for an outage.
_STATUS_KINDS: Final[dict[int, type[SourceUnavailable]]] = {403: Banned, 418: Banned, 429: RateLimited, 451: Banned}

# The first match decides. From ArithmeticError on: what ccxt's parsers raise when an answer is JSON of another shape.
# aiohttp raises RuntimeError for a closed session.
_ERROR_KINDS: Final[dict[type[Exception], type[SourceError]]] = {
    ccxt.BadSymbol: UnknownSymbol,
    ccxt.RateLimitExceeded: RateLimited,
    ccxt.DDoSProtection: RateLimited,
    ccxt.AuthenticationError: Banned,
    ccxt.RestrictedLocation: Banned,
    ccxt.BadResponse: BadPayload,
    ccxt.BaseError: SourceUnavailable,
    aiohttp.ClientError: SourceUnavailable,
    OSError: SourceUnavailable,
    ArithmeticError: BadPayload,
    AssertionError: BadPayload,
    AttributeError: BadPayload,
    LookupError: BadPayload,
    RecursionError: BadPayload,
    TypeError: BadPayload,
    ValueError: BadPayload,
    RuntimeError: SourceUnavailable,
}


@dataclass
class RequestContext:
    """What a call of ccxt is about, and what its last response said.

    Args:
        subject: a symbol, or what else is requested.
        max_bytes: the largest body that is read.
        rows_path: where the body must have a list of rows; None when unknown.
        body: of the last response, its first 64 Ki characters.
        retry_after: of the last response, in seconds.
        date: of the last response (UTC ms).
    """

    subject: str
    max_bytes: int
    rows_path: tuple[str, ...] | None = None
    body: str = ""
    retry_after: float | None = None
    date: int | None = None


_context: ContextVar[RequestContext] = ContextVar("_context")


class ExchangeClient:
    """The ccxt client of one exchange, opened inside the event loop that uses it.

    Args:
        name: of the exchange in the configuration; errors carry it.
        config: its table in the configuration.
        breaker: asked before every request.
        clock: learns the dates of responses.
    """

    def __init__(self, name: str, config: ExchangeConfig, breaker: Breaker, clock: ExchangeClock) -> None:
        self._name = name
        self._config = config
        self._breaker = breaker
        self._clock = clock
        self._limiter = RateLimiter()
        self.ccxt = self._open()
        self._hosts = {yarl.URL(self.ccxt.implode_hostname(url)).host or "" for url in texts_in(self.ccxt.urls["api"])}
        self.unlisted: set[str] = set()
        """Symbols that the exchange refused though its list of markets has them."""

    async def call(self, context: RequestContext, call: Awaitable[T]) -> T:
        """Await a call of ccxt.

        Raises:
            SourceError: for an error of ccxt or of the network.
        """
        token = _context.set(context)
        try:
            return await call
        except tuple(_ERROR_KINDS) as error:
            raise self._map_error(context, error) from error
        finally:
            _context.reset(token)

    async def close(self) -> None:
        """Close the connections."""
        await self.ccxt.close()

    def _open(self) -> Any:
        """Make a ccxt client that sends its requests through `_request`."""
        config = self._config
        client = getattr(ccxt, config.id)({"enableRateLimit": True, "options": dict(config.options)})
        if (addresses := config.revealed_api_urls) is not None:
            client.urls = {**client.urls, "api": _replaced_urls(client.urls["api"], addresses)}
        client.open()

        async def throttle(cost: float | None = None) -> None:
            await self._limiter.wait((1 if cost is None else cost) * client.rateLimit / 1000)

        def parse_ohlcvs(rows: object, market: object = None, *_filters: object) -> list[Row]:
            # ccxt's own fails on rows without a time, and drops rows by `since` and `limit` silently. Here every row
            # goes on to the guard.
            return parse_rows(self._name, rows, lambda row: client.parse_ohlcv(row, market))

        client.fetch, client.throttle, client.parse_ohlcvs = self._request, throttle, parse_ohlcvs
        return client

    async def _request(self, url: str, method: str = "GET", headers: object = None, body: str | None = None) -> object:
        """Send one request in place of ccxt: the only way from this program to an exchange."""
        context = _context.get()
        async with self._breaker.request(context.subject):
            try:
                async with asyncio.timeout(self._config.timeout):
                    return await self._send(context, url, method, headers, body)
            except TimeoutError as error:
                reason = f"{context.subject}: no answer within {self._config.timeout:g} s"
                raise SourceUnavailable(self._name, reason) from error
            except tuple(_ERROR_KINDS) as error:
                raise self._map_error(context, error) from error

    async def _send(self, context: RequestContext, url: str, method: str, headers: object, body: str | None) -> object:
        client, address = self.ccxt, yarl.URL(url, encoded=True)
        if address.host not in self._hosts:
            known = ", ".join(sorted(self._hosts))
            raise SourceUnavailable(self._name, f"expected a request to one of {known}, found {address.host}")
        sent = client.prepare_request_headers(headers)
        content = body.encode() if body else None
        async with client.session.request(
            method, address, data=content, headers=sent, allow_redirects=False
        ) as response:
            context.retry_after = retry_after(response.headers)
            context.date = self._clock.observe_date(response.headers)
            text = (await _read(self._name, response, context.max_bytes)).decode(errors="replace")
        context.body = storable(text[:MAX_BODY_CHARACTERS])
        status, reason = response.status, response.reason or ""
        self._check_status(context, status, f"{status} {reason} {address.path}", response.headers)
        answer = parse_body(self._name, text) if status < _FIRST_ERROR_STATUS else _parse_if_json(self._name, text)
        public_url = str(address.with_user(None))  # ccxt's errors quote it: no password
        client.handle_errors(status, reason, public_url, method, dict(response.headers), text, answer, sent, body)
        client.handle_http_status_code(status, reason, public_url, method, text)
        if status >= _FIRST_ERROR_STATUS:
            raise SourceUnavailable(self._name, f"{context.subject}: {status} {reason}", context.retry_after)
        if context.rows_path is not None:
            check_rows_path(self._name, answer, context.rows_path, context.body)
        return answer

    def _check_status(self, context: RequestContext, status: int, text: str, headers: Mapping[str, str]) -> None:
        """Refuse a redirect, a limit, a ban or an outage, which the status alone decides."""
        if 300 <= status < _FIRST_ERROR_STATUS:  # noqa: PLR2004 - bars from another address are not this exchange's
            expected = f"an answer about {context.subject} and no redirect"
            raise BadPayload(self._name, expected, f"{text} to {redact_url(headers.get('Location', ''))}", context.body)
        kind = _STATUS_KINDS.get(status, SourceUnavailable if status >= 500 else None)  # noqa: PLR2004 - outages
        if kind is not None:
            raise kind(self._name, f"{context.subject}: {text}", context.retry_after)

    def _map_error(self, context: RequestContext, error: Exception) -> SourceError:
        # kraken raises the bare class for a pair that it no longer lists.
        if type(error) is ccxt.ExchangeError:
            self.unlisted.add(context.subject)
        kind = error_kind(type(error))
        text = f"{type(error).__name__}: {error}"
        if kind is UnknownSymbol:
            return UnknownSymbol(self._name, context.subject, self.ccxt.markets or {})
        if kind is BadPayload:
            return BadPayload(self._name, f"an answer about {context.subject}", text, context.body)
        reason = f"{context.subject}: {text:.200}"
        if issubclass(kind, SourceUnavailable):
            return kind(self._name, reason, context.retry_after)
        return kind(self._name, reason)


def error_kind(error: type[Exception]) -> type[SourceError]:
    """Return the `SourceError` for an error class of ccxt or of the network."""
    return next(kind for theirs, kind in _ERROR_KINDS.items() if issubclass(error, theirs))


def texts_in(tree: object) -> list[str]:
    """Return every string in nested dictionaries."""
    if isinstance(tree, dict):
        return [text for branch in tree.values() for text in texts_in(branch)]
    return [tree] if isinstance(tree, str) else []


async def _read(source: str, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read and unpack a body of at most `max_bytes`."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            start = body[:MAX_BODY_CHARACTERS].decode(errors="replace")
            raise BadPayload(source, f"at most {max_bytes} bytes", "more", start)
    return bytes(body)


def _parse_if_json(source: str, text: str) -> object:
    """Parse the body of an error response; None when it is not JSON."""
    try:
        return parse_body(source, text)
    except BadPayload:
        return None


def _replaced_urls(urls: object, configured: str | dict[str, str]) -> object:
    """Return the configured URLs; a single one replaces all of ccxt's."""
    return dict.fromkeys(urls, configured) if isinstance(urls, dict) and isinstance(configured, str) else configured
