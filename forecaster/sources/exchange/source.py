"""Bars of an exchange, through ccxt: pages, the exchange's own clock, and its errors in our words.

Only this module knows ccxt. ccxt makes addresses and reads rows; the request itself is made here, so that its size, its
time, its host and its status are ours to judge. Whether rows are bars is left to `guard` and `Bars`, whether to ask at
all to `breaker`. Public bars need no credentials: a configuration that carries some is refused.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp
import ccxt.async_support as ccxt
import yarl

from forecaster.clock import now_ms
from forecaster.errors import (
    BadPayload,
    Banned,
    ConfigError,
    RateLimited,
    SourceError,
    SourceUnavailable,
    UnknownSymbol,
    storable,
)
from forecaster.sources.exchange.breaker import Breaker
from forecaster.sources.exchange.event_loop import Worker
from forecaster.sources.exchange.finality import Clocks, final_rows, said_final
from forecaster.sources.exchange.guard import (
    KEPT_CHARACTERS,
    MOST_BYTES,
    ROWS_AT,
    Row,
    check_place,
    pair_rows,
    read_body,
    read_rows,
)
from forecaster.sources.exchange.paginator import UNKNOWN_PAGE, Pace, Patience, Walk, growing_waits
from forecaster.sources.exchange.server_time import MOVED_MS, SECOND_MS, ExchangeClock, retry_after
from forecaster.urls import redact_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping

    from forecaster.bars import SeriesKey
    from forecaster.config import ExchangeConfig
    from forecaster.sources import Fetched
    from forecaster.sources.exchange.breaker import Holds

T = TypeVar("T")

_FIRST_FAULT: Final = 400
MARKETS_READ_AGAIN_AFTER: Final = 600.0
"""Seconds after which the list of markets is read again for a symbol that it lacks."""

_CLOCK_SECONDS: Final = 2.0
"""How long the exchange's time is waited for: the dates of its answers do as well."""

_MOST_BYTES_OF_MARKETS: Final = 64 << 20
_CREDENTIALS: Final = ("apikey", "secret", "password", "passphrase", "token", "privatekey")
_ASKS_AGAIN: Final = ("maxretriesonfailure", "maxretriesonfailuredelay", "paginate")

# The status says it better than the class that ccxt picks: binance calls a ban (418) and a limit
# (429) by one name, and a refused country (451) passes for an outage.
_STATUSES: Final[dict[int, type[SourceUnavailable]]] = {403: Banned, 418: Banned, 429: RateLimited, 451: Banned}

# The first line that fits decides. From ArithmeticError on, they are what ccxt's parsers trip over when an answer is
# JSON of another shape; a RuntimeError is what aiohttp says of a session that is gone.
_KINDS: Final[dict[type[Exception], type[SourceError]]] = {
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
class _Question:
    """What one call of ccxt is about; the requests that it leads to find it in `_question`, and leave their answer."""

    subject: str
    most_bytes: int
    rows_at: tuple[str, ...] | None = None
    body: str = ""
    retry_after: float | None = None
    date: int | None = None


_question: ContextVar[_Question] = ContextVar("_question")


class ExchangeSource:
    """Bars of one exchange: one ccxt client, on one event loop, in one daemon thread.

    The thread starts with the first fetch. Any number of threads may fetch at once; their requests keep the
    exchange's rate limit together.

    Args:
        name: how the configuration calls this exchange; errors carry it.
        config: its table in the configuration.
        holds: remembers until when the exchange may not be asked.

    Raises:
        ConfigError: for an exchange that ccxt does not know, or for options that this module cannot answer for.
    """

    def __init__(self, name: str, config: ExchangeConfig, holds: Holds) -> None:
        for fault in exchange_faults(name, config):
            raise fault
        self._name = name
        self._config = config
        self._worker = Worker(name)
        self._breaker = Breaker(name, holds)
        self._pace = Pace()
        self._clock = ExchangeClock()
        self._client: Any = None
        self._hosts: set[str] = set()
        self._unlisted: set[str] = set()
        self._markets_read_at = 0.0

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Give the bars that open at or after `since` and have closed by `as_of` and by the exchange's clock (UTC ms).

        `since` of None asks for as many bars back from `as_of` as one page of the exchange holds. An
        exchange that keeps only its newest bars, as kraken does, answers with those.

        What fails is asked again, after a random wait that grows, until the exchange's `deadline`. A bar that should
        be there and is not is asked for until `late_after` seconds behind its close; one that is there and not yet
        final, until it is: `final_after` seconds behind its close at the latest.

        Raises:
            SourceError: as its kind says, when nothing arrived.
            ConfigError: for a timeframe that the exchange does not have.
        """
        return self._worker.run(self._fetch(key, since, as_of))

    def is_active(self, key: SeriesKey) -> bool | None:
        """Whether the exchange still trades a symbol, as far as the list of markets said that was read last."""
        markets = getattr(self._client, "markets", None) or {}
        active = markets.get(key.symbol, {}).get("active")
        return active if isinstance(active, bool) else None

    def close(self) -> None:
        """Close the connections; a fetch that is under way, or comes later, raises SourceUnavailable."""
        self._worker.close(self._close_client)

    async def _fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        walk = Walk(self._name, key, as_of)
        try:
            await self._walk(walk, since)
        except SourceError as error:
            if not walk.pages:
                raise
            walk.fault = error
        now = self._clock.now()
        return walk.fetched(None if now is None else now - now_ms())

    async def _walk(self, walk: Walk, since: int | None) -> None:
        """Ask for the bars from `since` on, page by page, and for the newest until it is final or late."""
        key = walk.key
        async with self._in_time(walk) as patience:
            await patience.with_(lambda: self._check_listed(key))
        walk.limit = self._client.feature_value(key.symbol, "fetchOHLCV", "limit") or UNKNOWN_PAGE
        walk.begin(max(0, walk.as_of - walk.limit * key.timeframe.ms) if since is None else since)
        await self._round(walk)
        if not walk.is_done and self._clock.is_stale(now_ms()):  # by the date of the answer
            walk.ask_again()
            await self._round(walk)
        for wait in growing_waits():
            if walk.is_done or not self._waits_for(walk, wait):
                return
            await asyncio.sleep(wait)
            walk.ask_again()
            await self._round(walk)

    async def _round(self, walk: Walk) -> None:
        """Ask for what has closed and is not there yet."""
        async with self._in_time(walk) as patience:
            now = await patience.with_(self._exchange_now) or walk.as_of
            await self._pages(walk, min(walk.as_of, now), patience)

    def _waits_for(self, walk: Walk, wait: float) -> bool:
        """Whether the newest bar may yet come, or become final, so soon that it is waited for.

        Not where it has not closed by the exchange's clock, and will not before long: that clock is behind.
        """
        config, behind = self._config, walk.now + (walk.ahead or 0) + round(wait * 1000) - walk.expected_close
        patience = max(config.late_after, config.final_after + wait) if walk.is_forming else config.late_after
        return -config.deadline * 1000 <= behind < patience * 1000

    @asynccontextmanager
    async def _in_time(self, walk: Walk) -> AsyncIterator[Patience]:
        """Give the patience for one round of questions, which ends with the deadline.

        Raises:
            SourceUnavailable: or what failed last, when there is no answer by then.
        """
        patience = Patience(self._config.deadline)
        try:
            async with asyncio.timeout(self._config.deadline):
                yield patience
        except TimeoutError as error:
            expected = f"expected its bars within {self._config.deadline:g} s, no answer yet"
            raise patience.last or SourceUnavailable(self._name, f"{walk.key.symbol}: {expected}") from error

    async def _pages(self, walk: Walk, closed_by: int, patience: Patience) -> None:
        """Walk on to `closed_by`, one page after another, as far as one part of a long history goes.

        ccxt's own `paginate` is not used: it skips ahead, and then begins too late without an error.
        """
        while walk.goes_on(closed_by):
            page = await patience.with_(lambda: self._page(walk))
            if not walk.add(page, closed_by):
                return

    async def _page(self, walk: Walk) -> Fetched:
        # `limit` is always the venue's whole page. A smaller one is dangerous where `since` is not
        # honoured: of its newest 720 bars, kraken's client then gives the oldest `limit`.
        key, cursor = walk.key, walk.cursor
        call = self._client.fetch_ohlcv(key.symbol, key.timeframe.name, cursor, walk.limit)
        question = _Question(key.symbol, MOST_BYTES, ROWS_AT.get(self._config.id))
        rows = await self._ask(question, call)
        try:
            page = read_rows(self._name, key, rows, walk.as_of)
        except BadPayload as error:
            error.body = error.body or question.body
            raise
        walk.is_forming = bool((page.bars.open_time == walk.expected_open).any())
        clocks = self._clocks(walk, question.date)
        return final_rows(page, cursor, clocks, said_final(self._config.id, rows))

    def _clocks(self, walk: Walk, date: int | None) -> Clocks:
        """When an answer was made: by the exchange's time, and by the answer's own date, which is cut to seconds.

        The earlier of the two counts for what has closed: a clock may have stepped back, a cache may have answered.
        """
        told = self._clock.now() if self._clock.is_told else None
        dated = None if date is None else date + SECOND_MS
        known = [one for one in (told, dated) if one is not None] or [walk.now]
        if walk.ahead is None:
            is_told = told is not None and (date is None or abs(told - date) <= MOVED_MS)
            newest = told if is_told else date  # where the two are apart, the answer's own
            walk.ahead = 0 if newest is None else newest - walk.now
        return Clocks(min(known), max(known), walk.as_of, round(self._config.final_after * 1000))

    async def _check_listed(self, key: SeriesKey) -> None:
        if self._client is None:
            self._client = self._open_client()
        client = self._client
        # ccxt keeps the list that it once loaded, even an empty one.
        is_old = time.monotonic() - self._markets_read_at >= MARKETS_READ_AGAIN_AFTER
        is_unlisted = key.symbol in self._unlisted or key.symbol not in (client.markets or {})
        if not client.markets or (is_unlisted and is_old):
            question = _Question("markets", _MOST_BYTES_OF_MARKETS)
            await self._ask(question, client.load_markets(client.markets is not None))
            self._markets_read_at = time.monotonic()
            self._unlisted.discard(key.symbol)
        if not client.markets:
            raise BadPayload(self._name, "a list of markets", "none")
        if key.symbol not in client.markets:
            raise UnknownSymbol(self._name, key.symbol, client.markets)
        timeframes = client.timeframes or {}
        if key.timeframe.name not in timeframes:
            setting = f"timeframe of {key.symbol} on {self._name}"
            raise ConfigError(setting, f"one of {', '.join(timeframes)}", key.timeframe.name)

    async def _exchange_now(self) -> int | None:
        """The exchange's time, or None when it does not tell it. One series asks for it; no other waits for that."""
        if not self._clock.lock.locked():
            async with self._clock.lock:
                if self._clock.is_stale(now_ms()):
                    self._clock.set(await self._told_time(), now_ms())
        return self._clock.now() if self._clock.is_told else None

    async def _told_time(self) -> int | None:
        if self._client.has.get("fetchTime") is not True:
            return None
        try:
            async with asyncio.timeout(_CLOCK_SECONDS):
                told = await self._ask(_Question("its clock", MOST_BYTES), self._client.fetch_time())
        except (RateLimited, Banned):
            raise
        except (SourceError, TimeoutError):
            return None  # if the exchange is down, asking for bars says so
        return told if isinstance(told, int) else None

    async def _ask(self, question: _Question, call: Awaitable[T]) -> T:
        """Await a call of ccxt; its errors come out in our words."""
        token = _question.set(question)
        try:
            return await call
        except tuple(_KINDS) as error:
            raise self._in_our_words(question, error) from error
        finally:
            _question.reset(token)

    def _in_our_words(self, question: _Question, error: Exception) -> SourceError:
        # kraken refuses a pair that it no longer lists by this class, which says nothing.
        if type(error) is ccxt.ExchangeError:
            self._unlisted.add(question.subject)
        kind = kind_of(type(error))
        found = f"{type(error).__name__}: {error}"
        if kind is UnknownSymbol:
            return UnknownSymbol(self._name, question.subject, self._client.markets or {})
        if kind is BadPayload:
            return BadPayload(self._name, f"an answer about {question.subject}", found, question.body)
        reason = f"{question.subject}: {found:.200}"
        if issubclass(kind, SourceUnavailable):
            return kind(self._name, reason, question.retry_after)
        return kind(self._name, reason)

    async def _request(self, url: str, method: str = "GET", headers: object = None, body: str | None = None) -> object:
        """Make one request in ccxt's place: the only way out of this program to an exchange."""
        question = _question.get()
        async with self._breaker.asking(question.subject):
            try:
                async with asyncio.timeout(self._config.timeout):
                    return await self._send(question, url, method, headers, body)
            except TimeoutError as error:
                reason = f"{question.subject}: no answer within {self._config.timeout:g} s"
                raise SourceUnavailable(self._name, reason) from error
            except tuple(_KINDS) as error:
                raise self._in_our_words(question, error) from error

    async def _send(self, question: _Question, url: str, method: str, headers: object, body: str | None) -> object:
        client, address = self._client, yarl.URL(url, encoded=True)
        if address.host not in self._hosts:
            known = ", ".join(sorted(self._hosts))
            raise SourceUnavailable(self._name, f"expected a request to one of {known}, found {address.host}")
        sent = client.prepare_request_headers(headers)
        data = body.encode() if body else None
        async with client.session.request(method, address, data=data, headers=sent, allow_redirects=False) as response:
            question.retry_after = retry_after(response.headers)
            question.date = self._clock.hear(response.headers)
            text = (await _read(self._name, response, question.most_bytes)).decode(errors="replace")
        question.body = storable(text[:KEPT_CHARACTERS])
        status, reason = response.status, response.reason or ""
        self._check_status(question, status, f"{status} {reason} {address.path}", response.headers)
        answer = read_body(self._name, text) if status < _FIRST_FAULT else _read_if_json(self._name, text)
        place = str(address.with_user(None))  # which ccxt's errors quote: without a password
        client.handle_errors(status, reason, place, method, dict(response.headers), text, answer, sent, body)
        client.handle_http_status_code(status, reason, place, method, text)
        if status >= _FIRST_FAULT:
            raise SourceUnavailable(self._name, f"{question.subject}: {status} {reason}", question.retry_after)
        if question.rows_at is not None:
            check_place(self._name, answer, question.rows_at, question.body)
        return answer

    def _check_status(self, question: _Question, status: int, found: str, headers: Mapping[str, str]) -> None:
        """Refuse what the status alone decides: a redirect, a limit, a ban, an outage."""
        if 300 <= status < _FIRST_FAULT:  # noqa: PLR2004 - redirects: bars from another address are not this exchange's
            expected = f"an answer about {question.subject} and no redirect"
            raise BadPayload(self._name, expected, f"{found} to {redact_url(headers.get('Location', ''))}", question.body)
        kind = _STATUSES.get(status, SourceUnavailable if status >= 500 else None)  # noqa: PLR2004 - outages
        if kind is not None:
            raise kind(self._name, f"{question.subject}: {found}", question.retry_after)

    def _open_client(self) -> Any:
        """Make the client, inside the loop that it will run on, with our request in place of its own."""
        config = self._config
        client = getattr(ccxt, config.id)({"enableRateLimit": True, "options": dict(config.options)})
        if (addresses := config.revealed_api_urls) is not None:
            client.urls = {**client.urls, "api": _api_urls(client.urls["api"], addresses)}
        client.open()
        self._hosts = {yarl.URL(client.implode_hostname(url)).host or "" for url in _texts(client.urls["api"])}

        async def throttle(cost: float | None = None) -> None:
            await self._pace.wait((1 if cost is None else cost) * client.rateLimit / 1000)

        def parse_rows(rows: object, market: object = None, *_filters: object) -> list[Row]:
            # ccxt's own sorts rows that have no time, and fails, and drops rows by `since` and `limit`
            # without a word; here every row goes on to the guard.
            return pair_rows(self._name, rows, lambda row: client.parse_ohlcv(row, market))

        client.fetch, client.throttle, client.parse_ohlcvs = self._request, throttle, parse_rows
        return client

    async def _close_client(self) -> None:
        await self._breaker.close()
        if self._client is not None:
            await self._client.close()


def kind_of(error: type[Exception]) -> type[SourceError]:
    """Give our kind of an error of ccxt or of the network under it: the one table."""
    return next(kind for theirs, kind in _KINDS.items() if issubclass(error, theirs))


async def _read(source: str, response: aiohttp.ClientResponse, most: int) -> bytes:
    """Read a body of at most so many bytes, unpacked."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise BadPayload(source, f"at most {most} bytes", "more", body[:KEPT_CHARACTERS].decode(errors="replace"))
    return bytes(body)


def _read_if_json(source: str, text: str) -> object:
    """The answer beside a status that tells of a fault: its error code, where it has one."""
    try:
        return read_body(source, text)
    except BadPayload:
        return None


def exchange_faults(name: str, config: ExchangeConfig) -> Iterator[ConfigError]:
    """Find everything in an exchange's table of the configuration that can be known to be wrong without asking it."""
    table = f"exchanges.{name}"
    if config.id not in ccxt.exchanges:
        near = ", ".join(near_exchanges(config.id))
        yield ConfigError(table + ".id", f"an exchange that ccxt knows, such as {near}", config.id)
    for url in _texts(config.revealed_api_urls):
        if not _is_web_address(url):
            yield ConfigError(table + ".api_urls", "addresses such as https://api.binance.com/api/v3", redact_url(url))
    for path in _option_paths(config.options):
        letters = "".join(filter(str.isalnum, path[-1].lower()))
        setting = ".".join((table, "options", *path))
        if any(word in letters for word in _CREDENTIALS):
            # Only the name: a message must not carry the secret into a log.
            yield ConfigError(setting, "no credentials, since public bars need none", path[-1])
        elif letters in _ASKS_AGAIN:
            yield ConfigError(setting, "no such option, since requests are repeated and paged here", path[-1])


def near_exchanges(name: str) -> list[str]:
    """Name exchanges that ccxt knows and whose names are like this one; one as an example where none is."""
    return get_close_matches(name, ccxt.exchanges) or ["binance"]


def timeframes_of(exchange_id: str) -> list[str]:
    """Name the timeframes that ccxt knows an exchange to have, without asking it; none where it does not know."""
    return list(getattr(ccxt, exchange_id)().timeframes or {})


def _is_web_address(url: str) -> bool:
    try:
        address = yarl.URL(url, encoded=True)
    except ValueError:
        return False
    return address.scheme in ("http", "https") and bool(address.host)


def _option_paths(options: Mapping[str, object]) -> list[tuple[str, ...]]:
    """The path of every option, nested ones included."""
    paths: list[tuple[str, ...]] = []
    for name, option in options.items():
        paths.append((str(name),))
        if isinstance(option, dict):
            paths.extend((str(name), *path) for path in _option_paths(option))
    return paths


def _api_urls(theirs: object, ours: str | dict[str, str]) -> object:
    """The replaced addresses; one address stands for all that the exchange has."""
    return dict.fromkeys(theirs, ours) if isinstance(theirs, dict) and isinstance(ours, str) else ours


def _texts(tree: object) -> list[str]:
    """Every text in nested dictionaries."""
    if isinstance(tree, dict):
        return [text for branch in tree.values() for text in _texts(branch)]
    return [tree] if isinstance(tree, str) else []
