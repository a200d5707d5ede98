"""Bars of an exchange, through ccxt: pages, the exchange's own clock, and its errors in our words.

Only this module knows ccxt. Whether rows are bars is left to `guard` and `Bars`; when to ask again
after an error is left to the caller, so nothing here retries; only aiohttp asks once more, at once,
when a connection was cut. Public bars need no credentials: a configuration that carries some
is refused.
"""

from __future__ import annotations

import asyncio
import time
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiohttp
import ccxt.async_support as ccxt
import numpy as np

from forecaster.bars import Bars, RejectedRow
from forecaster.errors import (
    BadPayload,
    Banned,
    ConfigError,
    RateLimited,
    SourceError,
    SourceUnavailable,
    UnknownSymbol,
)
from forecaster.sources import Fetched
from forecaster.sources.guard import NO_TIME, read_rows
from forecaster.sources.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from forecaster.bars import SeriesKey
    from forecaster.config import ExchangeConfig

T = TypeVar("T")

_UNKNOWN_PAGE: Final = 500
_CLOCK_GOOD_FOR: Final = 3600.0
_CLOCK_RETRIED_AFTER: Final = 60.0
_CREDENTIALS: Final = ("apikey", "secret", "password", "passphrase", "token", "privatekey")

# The status says it better than the class that ccxt picks: binance calls a ban (418) and a limit
# (429) by one name, and a refused country (451) passes for an outage.
_STATUSES: Final = {
    403: ccxt.PermissionDenied,
    418: ccxt.PermissionDenied,
    429: ccxt.RateLimitExceeded,
    451: ccxt.RestrictedLocation,
}

# The first line that fits decides. The last six are what ccxt's parsers trip over when an answer is
# JSON of another shape.
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
    AttributeError: BadPayload,
    LookupError: BadPayload,
    RecursionError: BadPayload,
    TypeError: BadPayload,
    ValueError: BadPayload,
}


class ExchangeSource:
    """Bars of one exchange: one ccxt client, on one event loop, in one daemon thread.

    The thread starts with the first fetch. Any number of threads may fetch at once.

    Args:
        name: how the configuration calls this exchange; errors carry it.
        config: its table in the configuration.

    Raises:
        ConfigError: for an exchange that ccxt does not know, or for credentials among the options.
    """

    def __init__(self, name: str, config: ExchangeConfig) -> None:
        _check(name, config)
        self._name = name
        self._config = config
        self._worker = Worker(name)
        self._clock = _ExchangeClock()
        self._client: Any = None
        self._markets_in_doubt = False

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Give the bars that open at or after `since` and have closed by `as_of` and by the exchange's clock (UTC ms).

        `since` of None asks for as many bars back from `as_of` as one page of the exchange holds. An
        exchange that keeps only its newest bars, as kraken does, answers with those.

        Raises:
            SourceError: as its kind says; nothing was retried.
            ConfigError: for a timeframe that the exchange does not have.
        """
        return self._worker.run(self._fetch(key, since, as_of))

    def close(self) -> None:
        """Close the connections; a fetch that is under way, or comes later, raises SourceUnavailable."""
        self._worker.close(self._close_client)

    async def _fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        if self._client is None:
            self._client = _open_client(self._config)
        await self._check_listed(key)
        # The clock is read before the rows are asked for: read after them, it could call a bar
        # closed that was still forming in the answer.
        closed_by = min(as_of, await self._exchange_now(as_of))
        pages = await self._pages(key, since, as_of, closed_by)
        rejected = [row for page in pages for row in page.rejected]
        return Fetched(_joined(key, [page.bars for page in pages], as_of), rejected)

    async def _check_listed(self, key: SeriesKey) -> None:
        client = self._client
        # ccxt keeps the list that it once loaded, even an empty one.
        anew = self._markets_in_doubt or (client.markets is not None and not client.markets)
        await self._ask(key.symbol, client.load_markets(anew))
        self._markets_in_doubt = False
        if not client.markets:
            raise BadPayload(self._name, "a list of markets", "none")
        if key.symbol not in client.markets:
            raise UnknownSymbol(self._name, key.symbol, len(client.markets))
        timeframes = client.timeframes or {}
        if key.timeframe.name not in timeframes:
            setting = f"timeframe of {key.symbol} on {self._name}"
            raise ConfigError(setting, f"one of {', '.join(timeframes)}", key.timeframe.name)

    async def _exchange_now(self, as_of: int) -> int:
        """The exchange's time, or `as_of` when the exchange does not tell it."""
        async with self._clock.lock:
            if self._clock.is_stale(as_of):
                self._clock.set(await self._told_time())
            return as_of if (now := self._clock.now()) is None else now

    async def _told_time(self) -> int | None:
        if self._client.has.get("fetchTime") is not True:
            return None
        try:
            told = await self._ask("its clock", self._client.fetch_time())
        except (RateLimited, Banned):
            raise
        except SourceError:
            return None  # `as_of` alone decides then; if the exchange is down, asking for bars says so
        return told if isinstance(told, int) else None

    async def _pages(self, key: SeriesKey, since: int | None, as_of: int, closed_by: int) -> list[Fetched]:
        """Walk from `since` to `closed_by`, one page after another.

        ccxt's own `paginate` is not used: it skips ahead, and then begins too late without an error.
        """
        step = key.timeframe.ms
        limit = self._client.feature_value(key.symbol, "fetchOHLCV", "limit") or _UNKNOWN_PAGE
        start = since if since is not None else max(0, as_of - limit * step)
        cursor = -(-start // step) * step
        pages = []
        while cursor + step <= closed_by:
            # `limit` is always the venue's whole page. A smaller one is dangerous where `since` is
            # not honoured: of its newest 720 bars, kraken's client then gives the oldest `limit`.
            call = self._client.fetch_ohlcv(key.symbol, key.timeframe.name, cursor, limit)
            page = read_rows(self._name, key, await self._ask(key.symbol, call), as_of)
            pages.append(_trimmed(page, cursor, closed_by))
            # Bars before the cursor are gone, so every page moves on: past its last bar, or, within
            # a gap, past the window that was asked for.
            bars = pages[-1].bars
            cursor = int(bars.open_time[-1]) + step if len(bars) else cursor + limit * step
        return pages

    async def _ask(self, subject: str, call: Awaitable[T]) -> T:
        """Await a call of ccxt; its errors come out in our words."""
        try:
            return await call
        except tuple(_KINDS) as error:
            # kraken refuses a pair that it no longer lists by this class, which says nothing.
            self._markets_in_doubt |= type(error) is ccxt.ExchangeError
            raise self._in_our_words(subject, error) from error

    def _in_our_words(self, subject: str, error: Exception) -> SourceError:
        kind = kind_of(type(error))
        found = f"{type(error).__name__}: {error}"
        if kind is UnknownSymbol:
            return UnknownSymbol(self._name, subject, len(self._client.markets or {}))
        if kind is BadPayload:
            return BadPayload(self._name, f"an answer about {subject}", found)
        if kind is RateLimited:
            # Nothing ran on this loop since the error was raised, so these are its headers.
            return RateLimited(self._name, f"{subject}: {found:.200}", _retry_after(self._client.last_response_headers))
        return kind(self._name, f"{subject}: {found:.200}")

    async def _close_client(self) -> None:
        if self._client is not None:
            await self._client.close()


def kind_of(error: type[Exception]) -> type[SourceError]:
    """Give our kind of an error of ccxt or of the network under it: the one table."""
    return next(kind for theirs, kind in _KINDS.items() if issubclass(error, theirs))


def _check(name: str, config: ExchangeConfig) -> None:
    table = f"exchanges.{name}"
    if config.id not in ccxt.exchanges:
        near = ", ".join(get_close_matches(config.id, ccxt.exchanges)) or "binance"
        raise ConfigError(table + ".id", f"an exchange that ccxt knows, such as {near}", config.id)
    for path in _option_paths(config.options):
        letters = "".join(filter(str.isalnum, path[-1].lower()))
        if any(word in letters for word in _CREDENTIALS):
            # Only the name: a message must not carry the secret into a log.
            raise ConfigError(
                ".".join((table, "options", *path)), "no credentials, since public bars need none", path[-1]
            )


def _option_paths(options: Mapping[str, object]) -> list[tuple[str, ...]]:
    """The path of every option, nested ones included."""
    paths: list[tuple[str, ...]] = []
    for name, option in options.items():
        paths.append((str(name),))
        if isinstance(option, dict):
            paths.extend((str(name), *path) for path in _option_paths(option))
    return paths


def _open_client(config: ExchangeConfig) -> Any:
    """Make the client, inside the loop that it will run on."""
    client = getattr(ccxt, config.id)(
        {"enableRateLimit": True, "timeout": round(config.timeout * 1000), "options": dict(config.options)}
    )
    if config.api_urls is not None:
        client.urls = {**client.urls, "api": _api_urls(client.urls["api"], config.api_urls)}
    client.open()
    client.session.trace_configs.append(_no_redirects())
    _tighten(client, config.timeout)
    return client


def _api_urls(theirs: object, ours: str | dict[str, str]) -> object:
    """The replaced addresses; one address stands for all that the exchange has."""
    return dict.fromkeys(theirs, ours) if isinstance(theirs, dict) and isinstance(ours, str) else ours


def _no_redirects() -> aiohttp.TraceConfig:
    """A watcher that stops at a redirect: bars from another address are not this exchange's."""

    async def refuse(_session: object, _context: object, redirect: aiohttp.TraceRequestRedirectParams) -> None:
        redirect.response.close()
        found = redirect.response.headers.get("Location")
        msg = f"expected an answer from {redirect.url.host}, found a redirect to {found}"
        raise ccxt.BadResponse(msg)

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(refuse)
    trace.freeze()
    return trace


def _tighten(client: Any, timeout: float) -> None:
    """Replace the three places of a client where a bad answer would pass for bars."""
    fetch, read_error = client.fetch, client.handle_errors

    async def request(url: str, method: str = "GET", headers: object = None, body: object = None) -> object:
        # The wait for ccxt's throttle lies outside, so this is the time of the request alone.
        async with asyncio.timeout(timeout):
            answer = await fetch(url, method, headers, body)
        if not isinstance(answer, dict | list):
            msg = f"expected JSON, found {answer!r:.120}"
            raise ccxt.BadResponse(msg)
        return answer

    def read_status(status: int, reason: str, url: str, *rest: object) -> None:
        if status in _STATUSES:
            msg = f"{status} {reason} {url}"
            raise _STATUSES[status](msg)
        read_error(status, reason, url, *rest)
        if status >= 500:  # noqa: PLR2004 - ccxt lists most of them, and takes the others for success
            msg = f"{status} {reason} {url}"
            raise ccxt.ExchangeNotAvailable(msg)

    def parse_rows(rows: object, market: object = None, *_filters: object) -> list[object]:
        # ccxt's own sorts rows that have no time, and fails, and drops rows by `since` and `limit`
        # without a word; here every row goes on to the guard.
        if rows is not None and not (isinstance(rows, list) and all(isinstance(row, dict | list) for row in rows)):
            msg = f"expected a list of rows, found {rows!r:.120}"
            raise ccxt.BadResponse(msg)
        return [client.parse_ohlcv(row, market) for row in rows or []]

    client.fetch, client.handle_errors, client.parse_ohlcvs = request, read_status, parse_rows


def _trimmed(page: Fetched, cursor: int, closed_by: int) -> Fetched:
    """Leave out what opens before the cursor, and what is not final yet."""
    bars = page.bars.known_at(closed_by)
    bars = bars[int(np.searchsorted(bars.open_time, cursor)) :]
    return Fetched(bars, [row for row in page.rejected if _is_due(row, page.bars.key, cursor, closed_by)])


def _is_due(row: RejectedRow, key: SeriesKey, cursor: int, closed_by: int) -> bool:
    """Whether a refused row is to be reported: a bar that still forms may yet become a good one."""
    forms = closed_by - key.timeframe.ms < row.open_time <= closed_by
    return row.open_time == NO_TIME or (row.open_time >= cursor and not forms)


def _joined(key: SeriesKey, pages: list[Bars], as_of: int) -> Bars:
    if not pages:
        return Bars.empty(key)
    times = np.concatenate([bars.open_time for bars in pages])
    return Bars(key, times, np.concatenate([bars.ohlcv_TF for bars in pages]), np.full(1, as_of))


def _retry_after(headers: Mapping[str, str] | None) -> float | None:
    """The seconds of a Retry-After header; its other form, a date, is not read."""
    told = {name.lower(): text for name, text in (headers or {}).items()}.get("retry-after", "")
    return float(told) if told.isdecimal() else None


class _ExchangeClock:
    """The exchange's time, carried on by this machine's monotonic clock.

    The local wall clock takes no part: it may be wrong, or be set while we run. A told time is as old
    as its way here, so the reckoned time is late by that, and never early.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._told: int | None = None
        self._told_at = 0.0
        self._good_until = float("-inf")

    def set(self, told: int | None) -> None:
        """Take what the exchange told just now; None when it did not."""
        self._told = told
        self._told_at = time.monotonic()
        self._good_until = self._told_at + (_CLOCK_RETRIED_AFTER if told is None else _CLOCK_GOOD_FOR)

    def now(self) -> int | None:
        """UTC ms at the exchange, or None when it is not known."""
        return None if self._told is None else self._told + int((time.monotonic() - self._told_at) * 1000)

    def is_stale(self, as_of: int) -> bool:
        """Whether to ask anew: it has been a while, or the reckoning lags, as after this machine slept."""
        now = self.now()
        return time.monotonic() >= self._good_until or (now is not None and now < as_of)
