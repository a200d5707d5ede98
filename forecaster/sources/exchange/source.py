"""Bars of an exchange: pages, repeated requests, and what is final by the exchange's own clock.

`request` sends one request, `guard` turns rows into bars, and `breaker` decides whether the exchange may be asked.
Public bars need no credentials: a configuration with credentials is refused.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from forecaster.clock import now_ms
from forecaster.errors import (
    BadPayload,
    Banned,
    ConfigError,
    RateLimited,
    SourceError,
    SourceUnavailable,
    UnknownSymbol,
)
from forecaster.sources.exchange.breaker import Breaker
from forecaster.sources.exchange.config_check import check_exchange
from forecaster.sources.exchange.event_loop import EventLoopThread
from forecaster.sources.exchange.finality import AnswerTime, final_bars, reported_final
from forecaster.sources.exchange.guard import MAX_BYTES, ROWS_PATHS, bars_from_rows
from forecaster.sources.exchange.paginator import DEFAULT_PAGE_SIZE, Paginator, Retry, backoff_delays
from forecaster.sources.exchange.request import ExchangeClient, RequestContext
from forecaster.sources.exchange.server_time import CLOCK_CHANGE_MS, SECOND_MS, ExchangeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from forecaster.bars import SeriesKey
    from forecaster.config import ExchangeConfig
    from forecaster.sources import Fetched
    from forecaster.sources.exchange.hold_log import HoldStore

MARKETS_RELOAD_SECONDS: Final = 600.0
"""The list of markets is loaded again for a symbol that it lacks, after this time at the earliest."""

_TIME_TIMEOUT_SECONDS: Final = 2.0
"""Timeout of a request for the exchange's time. The dates of its answers are a substitute."""

_MAX_MARKETS_BYTES: Final = 64 << 20


class ExchangeSource:
    """Bars of one exchange: one ccxt client, on one event loop, in one daemon thread.

    The thread starts with the first fetch. Several threads may fetch at once; they share the exchange's rate limit.

    Args:
        name: of the exchange in the configuration; errors carry it.
        config: its table in the configuration.
        holds: keeps rate limits and bans across restarts.

    Raises:
        ConfigError: for an exchange that ccxt does not know, or an option that is not supported.
    """

    def __init__(self, name: str, config: ExchangeConfig, holds: HoldStore) -> None:
        for error in check_exchange(name, config):
            raise error
        self._name = name
        self._config = config
        self._thread = EventLoopThread(name)
        self._breaker = Breaker(name, holds)
        self._clock = ExchangeClock()
        self._opened: ExchangeClient | None = None
        self._markets_loaded_at = 0.0

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Return bars that open at or after `since`, and have closed by `as_of` and by the exchange's clock (UTC ms).

        `since` of None requests one page back from `as_of`. An exchange that keeps only its latest bars, such as
        kraken, returns those.

        Failed requests are repeated, with random growing delays, until the exchange's `deadline`. A missing latest bar
        is requested until `late_after` seconds after its close. One that is not final yet is requested until it is,
        `final_after` seconds after its close at the latest.

        Raises:
            SourceError: when nothing arrived.
            ConfigError: for a timeframe that the exchange does not have.
        """
        return self._thread.run(self._fetch(key, since, as_of))

    def is_active(self, key: SeriesKey) -> bool | None:
        """Whether the exchange trades a symbol, by the list of markets loaded last; None when unknown."""
        markets = (self._opened and self._opened.ccxt.markets) or {}
        active = markets.get(key.symbol, {}).get("active")
        return active if isinstance(active, bool) else None

    def close(self) -> None:
        """Close the connections; a fetch that is in flight, or comes later, raises SourceUnavailable."""
        self._thread.close(self._close)

    @property
    def _client(self) -> ExchangeClient:
        """The client; opened on the event loop."""
        if self._opened is None:
            self._opened = ExchangeClient(self._name, self._config, self._breaker, self._clock)
        return self._opened

    async def _close(self) -> None:
        await self._breaker.close()
        if self._opened is not None:
            await self._opened.close()

    async def _fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        paginator = Paginator(key, as_of)
        try:
            await self._fetch_pages(paginator, since)
        except SourceError as error:
            if not paginator.pages:
                raise
            paginator.fault = error
        now = self._clock.now()
        return paginator.fetched(None if now is None else now - now_ms())

    async def _fetch_pages(self, paginator: Paginator, since: int | None) -> None:
        """Fetch the bars from `since` on, and the latest one until it is final or late."""
        key = paginator.key
        async with self._deadline(paginator) as retry:
            await retry.call(lambda: self._check_listed(key))
        paginator.page_size = self._client.ccxt.feature_value(key.symbol, "fetchOHLCV", "limit") or DEFAULT_PAGE_SIZE
        one_page = paginator.as_of - paginator.page_size * key.timeframe.ms
        paginator.start(max(0, one_page) if since is None else since)
        await self._fetch_round(paginator)
        if not paginator.is_done and self._clock.is_stale(now_ms()):  # by the date of the answer
            paginator.start_round()
            await self._fetch_round(paginator)
        for delay in backoff_delays():
            if paginator.is_done or not self._waits_for_latest(paginator, delay):
                return
            await asyncio.sleep(delay)
            paginator.start_round()
            await self._fetch_round(paginator)

    async def _fetch_round(self, paginator: Paginator) -> None:
        """Fetch what has closed and has not arrived yet."""
        async with self._deadline(paginator) as retry:
            now = await retry.call(self._exchange_now) or paginator.as_of
            closed_by = min(paginator.as_of, now)
            # ccxt's own `paginate` skips ahead, and then begins too late without an error.
            while paginator.has_next(closed_by):
                page = await retry.call(lambda: self._fetch_page(paginator))
                if not paginator.add(page, closed_by):
                    return

    def _waits_for_latest(self, paginator: Paginator, delay: float) -> bool:
        """Whether the latest bar may arrive, or become final, soon enough to wait for it.

        It may not when it closes much later by the exchange's clock: that clock is slow.
        """
        config = self._config
        since_close = paginator.now + (paginator.clock_offset_ms or 0) + round(delay * 1000) - paginator.expected_close
        limit = max(config.late_after, config.final_after + delay) if paginator.is_forming else config.late_after
        return -config.deadline * 1000 <= since_close < limit * 1000

    @asynccontextmanager
    async def _deadline(self, paginator: Paginator) -> AsyncIterator[Retry]:
        """Limit a round of requests to the deadline.

        Raises:
            SourceUnavailable: or the last error, when it has passed.
        """
        retry = Retry(self._config.deadline)
        try:
            async with asyncio.timeout(self._config.deadline):
                yield retry
        except TimeoutError as error:
            expected = f"expected its bars within {self._config.deadline:g} s, no answer yet"
            raise retry.last_error or SourceUnavailable(self._name, f"{paginator.key.symbol}: {expected}") from error

    async def _fetch_page(self, paginator: Paginator) -> Fetched:
        # `limit` is always a whole page. A smaller one is dangerous where `since` is ignored: of its latest 720 bars,
        # kraken's client then returns the oldest `limit`.
        key, cursor = paginator.key, paginator.cursor
        call = self._client.ccxt.fetch_ohlcv(key.symbol, key.timeframe.name, cursor, paginator.page_size)
        context = RequestContext(key.symbol, MAX_BYTES, ROWS_PATHS.get(self._config.id))
        rows = await self._client.call(context, call)
        try:
            page = bars_from_rows(self._name, key, rows, paginator.as_of)
        except BadPayload as error:
            error.body = error.body or context.body
            raise
        paginator.is_forming = bool((page.bars.open_time == paginator.expected_open).any())
        answer_time = self._answer_time(paginator, context.date)
        return final_bars(page, cursor, answer_time, reported_final(self._config.id, rows))

    def _answer_time(self, paginator: Paginator, date: int | None) -> AnswerTime:
        """Return when an answer was made, by the exchange's time and by the answer's date, which has whole seconds.

        The earlier one decides what has closed: a clock may have been set back, or a cache may have answered.
        """
        reported = self._clock.now() if self._clock.is_synchronized else None
        dated = None if date is None else date + SECOND_MS
        times = [moment for moment in (reported, dated) if moment is not None] or [paginator.now]
        if paginator.clock_offset_ms is None:
            is_consistent = reported is not None and (date is None or abs(reported - date) <= CLOCK_CHANGE_MS)
            newest = reported if is_consistent else date
            paginator.clock_offset_ms = 0 if newest is None else newest - paginator.now
        return AnswerTime(min(times), max(times), paginator.as_of, round(self._config.final_after * 1000))

    async def _check_listed(self, key: SeriesKey) -> None:
        client, unlisted = self._client.ccxt, self._client.unlisted
        # ccxt keeps a list of markets once loaded, even an empty one.
        is_old = time.monotonic() - self._markets_loaded_at >= MARKETS_RELOAD_SECONDS
        is_unlisted = key.symbol in unlisted or key.symbol not in (client.markets or {})
        if not client.markets or (is_unlisted and is_old):
            context = RequestContext("markets", _MAX_MARKETS_BYTES)
            await self._client.call(context, client.load_markets(client.markets is not None))
            self._markets_loaded_at = time.monotonic()
            unlisted.discard(key.symbol)
        if not client.markets:
            raise BadPayload(self._name, "a list of markets", "none")
        if key.symbol not in client.markets:
            raise UnknownSymbol(self._name, key.symbol, client.markets)
        timeframes = client.timeframes or {}
        if key.timeframe.name not in timeframes:
            setting = f"timeframe of {key.symbol} on {self._name}"
            raise ConfigError(setting, f"one of {', '.join(timeframes)}", key.timeframe.name)

    async def _exchange_now(self) -> int | None:
        """Return the exchange's time, or None when it reports none. One series requests it; the others do not wait."""
        if not self._clock.lock.locked():
            async with self._clock.lock:
                if self._clock.is_stale(now_ms()):
                    self._clock.synchronize(await self._fetch_time(), now_ms())
        return self._clock.now() if self._clock.is_synchronized else None

    async def _fetch_time(self) -> int | None:
        client = self._client
        if client.ccxt.has.get("fetchTime") is not True:
            return None
        try:
            async with asyncio.timeout(_TIME_TIMEOUT_SECONDS):
                reported = await client.call(RequestContext("its clock", MAX_BYTES), client.ccxt.fetch_time())
        except (RateLimited, Banned):
            raise
        except (SourceError, TimeoutError):
            return None  # if the exchange is down, the request for bars fails
        return reported if isinstance(reported, int) else None
