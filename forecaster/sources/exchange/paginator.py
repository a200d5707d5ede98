"""Paging through the bars of one series, repeating failed requests, and keeping a rate limit."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from random import SystemRandom
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from forecaster.bars import Bars
from forecaster.errors import Banned, SourceError, SourceUnavailable, UnknownSymbol
from forecaster.sources import Fetched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from forecaster.bars import SeriesKey

T = TypeVar("T")

DEFAULT_PAGE_SIZE: Final = 500
PAGES_PER_PART: Final = 10
_FIRST_DELAY: Final = 0.25
_MAX_DELAY: Final = 8.0
_RANDOM: Final = SystemRandom()


class Paginator:
    """The pages of one series: how far they go, and what has arrived.

    `expected_open` is the open time of the latest bar that should exist. `is_forming` says whether the last answer had
    it, final or not. `clock_offset_ms` is by how much the exchange's clock was ahead of `now` at the first answer.
    """

    def __init__(self, key: SeriesKey, as_of: int) -> None:
        self.key = key
        self.as_of = as_of
        self.page_size = DEFAULT_PAGE_SIZE
        self.cursor = 0
        self.pages: list[Fetched] = []
        self.fault: SourceError | None = None
        self.is_forming = False
        self.clock_offset_ms: int | None = None
        self._started_at = time.monotonic()
        self._since: int | None = None
        self._latest_open = -1
        self._pages_before = 0
        self.expected_open = int(key.trading_calendar.last_opens(key.timeframe, as_of, 1)[0])

    @property
    def now(self) -> int:
        """UTC ms: `as_of` plus the time since then."""
        return self.as_of + round((time.monotonic() - self._started_at) * 1000)

    @property
    def expected_close(self) -> int:
        """Close time of the latest bar that should exist."""
        return int(self.key.trading_calendar.closes_of(self.key.timeframe, np.array([self.expected_open]))[0])

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to wait for: the latest bar arrived or was not requested, or this part is full."""
        return self._latest_open >= self.expected_open or self.cursor > self.expected_open or self._is_full

    @property
    def _is_full(self) -> bool:
        return len(self.pages) - self._pages_before >= PAGES_PER_PART

    def start(self, since: int) -> None:
        """Start at the first slot at or after `since`."""
        self.cursor = int(self.key.trading_calendar.next_opens(self.key.timeframe, since, 1)[0])

    def start_round(self) -> None:
        """Start a further round of requests, for a late bar."""
        self._pages_before = len(self.pages)

    def has_next(self, closed_by: int) -> bool:
        """Whether a bar at the cursor can have closed."""
        latest = self.key.trading_calendar.last_opens(self.key.timeframe, closed_by, 1)
        return not self._is_full and bool((latest >= self.cursor).any())

    def add(self, page: Fetched, closed_by: int) -> bool:
        """Add a page and move past its last bar; return False when the latest page is still empty."""
        if not self.pages and self._ignores_cursor(page, closed_by):
            self._since = int(page.bars.open_time[0])
        self.pages.append(page)
        if len(page.bars):
            self._latest_open = int(page.bars.open_time[-1])
            self.cursor = int(page.bars.close_time[-1])
            return True
        next_page = self.cursor + self.page_size * self.key.timeframe.ms
        if next_page >= closed_by:
            return False
        self.cursor = next_page  # a page without trades
        return True

    def fetched(self, clock_offset_ms: int | None) -> Fetched:
        """Return all that arrived, each bar and each rejected row once."""
        pages = [page.bars for page in self.pages]
        times = np.concatenate([bars.open_time for bars in pages]) if pages else np.empty(0, np.int64)
        bars = Bars.empty(self.key)
        if len(times):
            bars = Bars(self.key, times, np.concatenate([page.ohlcv_TF for page in pages]), np.full(1, self.as_of))
        rejected = {str(row): row for page in self.pages for row in page.rejected}
        until = self.cursor if self._is_full else None
        return Fetched(bars, list(rejected.values()), self._since, until, self.fault, clock_offset_ms, may_change=True)

    def _ignores_cursor(self, page: Fetched, closed_by: int) -> bool:
        """Whether the exchange ignored the cursor: a whole page up to now, with a hole before it.

        kraken, which keeps its latest 720 bars, answers so, and exchanges that do not read `since`.
        """
        step, whole = self.key.timeframe.ms, self.page_size - 2  # bars that form or are not final were left out
        if not len(page.bars) or len(page.bars) + len(page.rejected) < whole:
            return False
        first, last = int(page.bars.open_time[0]), int(page.bars.open_time[-1])
        return first > self.cursor and last + 3 * step > closed_by and last - self.cursor > self.page_size * step


class Retry:
    """Repeats failed calls after random growing delays, for so many seconds in all.

    Full jitter: Brooker, 2015, "Exponential Backoff and Jitter".
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self.last_error: SourceError | None = None

    async def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await `function()` until it succeeds, or until the next delay would pass the deadline.

        Raises:
            SourceError: the last one. UnknownSymbol and Banned are not retried.
        """
        attempt = 0
        while True:
            try:
                return await function()
            except (UnknownSymbol, Banned):
                raise
            except SourceError as error:
                self.last_error = error
                retry_after = error.retry_after if isinstance(error, SourceUnavailable) else None
                delay = _RANDOM.uniform(0, min(_MAX_DELAY, _FIRST_DELAY * 2**attempt)) + (retry_after or 0)
                if time.monotonic() + delay >= self._deadline:
                    raise
            attempt += 1
            await asyncio.sleep(delay)


class RateLimiter:
    """The rate limit of one exchange: requests start apart, first come, first served.

    It uses the monotonic clock; ccxt's own stands still for years when the wall clock is set back.
    """

    def __init__(self) -> None:
        self._next_start = 0.0

    async def wait(self, seconds: float) -> None:
        """Wait for the start of a request that uses so many seconds of the limit."""
        now = time.monotonic()
        start = max(self._next_start, now)
        self._next_start = start + seconds
        if start > now:
            await asyncio.sleep(start - now)


def backoff_delays() -> Iterator[float]:
    """Yield the seconds between requests for a late bar."""
    for attempt in count():
        yield _RANDOM.uniform(0.5, 1) * min(_MAX_DELAY, 2 * _FIRST_DELAY * 2**attempt)
