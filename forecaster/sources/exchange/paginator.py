"""Walking through the bars of one series page by page: how far, what has arrived, how long to wait and ask again.

Knows nothing of an exchange but that its answers are `Fetched`.
"""

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

UNKNOWN_PAGE: Final = 500
PAGES_OF_A_PART: Final = 10
_FIRST_WAIT: Final = 0.25
_LONGEST_WAIT: Final = 8.0
_RANDOM: Final = SystemRandom()


class Walk:
    """How far the bars of one series have been asked for, and what has arrived.

    `expected_open` is the open time of the newest bar that should exist; `is_forming` says whether the last answer had
    it, final or not, and `ahead` how far (ms) the exchange's clock was ahead of `now` at the first answer.
    """

    def __init__(self, source: str, key: SeriesKey, as_of: int) -> None:
        self.key = key
        self.as_of = as_of
        self.limit = UNKNOWN_PAGE
        self.cursor = 0
        self.pages: list[Fetched] = []
        self.fault: SourceError | None = None
        self.is_forming = False
        self.ahead: int | None = None
        self._source = source
        self._asked_at = time.monotonic()
        self._since: int | None = None
        self._newest = -1
        self._pages_before = 0
        self.expected_open = int(key.trading_calendar.last_opens(key.timeframe, as_of, 1)[0])

    @property
    def now(self) -> int:
        """UTC ms: the time as of which it was asked, carried on."""
        return self.as_of + round((time.monotonic() - self._asked_at) * 1000)

    @property
    def expected_close(self) -> int:
        """Close of the newest bar that should exist."""
        return int(self.key.trading_calendar.closes_of(self.key.timeframe, np.array([self.expected_open]))[0])

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to wait for: the newest bar is there or was not asked for, or this part is over."""
        return self._newest >= self.expected_open or self.cursor > self.expected_open or self._is_long

    @property
    def _is_long(self) -> bool:
        return len(self.pages) - self._pages_before >= PAGES_OF_A_PART

    def begin(self, since: int) -> None:
        """Start at the first slot at or after `since`."""
        self.cursor = int(self.key.trading_calendar.next_opens(self.key.timeframe, since, 1)[0])

    def ask_again(self) -> None:
        """Begin a further round of questions, for a bar that is late."""
        self._pages_before = len(self.pages)

    def goes_on(self, closed_by: int) -> bool:
        """Whether a bar at the cursor can have closed."""
        newest = self.key.trading_calendar.last_opens(self.key.timeframe, closed_by, 1)
        return not self._is_long and bool((newest >= self.cursor).any())

    def add(self, page: Fetched, closed_by: int) -> bool:
        """Take in a page, and move on past its last bar; False when the newest window is still empty."""
        if not self.pages and self._is_newest_page(page, closed_by):
            self._since = int(page.bars.open_time[0])
        self.pages.append(page)
        if len(page.bars):
            self._newest = int(page.bars.open_time[-1])
            self.cursor = int(page.bars.close_time[-1])
            return True
        beyond = self.cursor + self.limit * self.key.timeframe.ms
        if beyond >= closed_by:
            return False
        self.cursor = beyond  # a window in which nobody traded
        return True

    def fetched(self, clock_ms: int | None) -> Fetched:
        """All that arrived, each bar and each refused row once; `clock_ms` is how far the exchange's clock is ahead."""
        pages = [page.bars for page in self.pages]
        times = np.concatenate([bars.open_time for bars in pages]) if pages else np.empty(0, np.int64)
        bars = Bars.empty(self.key)
        if len(times):
            bars = Bars(self.key, times, np.concatenate([one.ohlcv_TF for one in pages]), np.full(1, self.as_of))
        rejected = {str(row): row for page in self.pages for row in page.rejected}
        until = self.cursor if self._is_long else None
        return Fetched(bars, list(rejected.values()), self._since, until, self.fault, clock_ms, may_change=True)

    def _is_newest_page(self, page: Fetched, closed_by: int) -> bool:
        """Whether the exchange took no notice of the cursor: a whole page, behind a hole, and up to now.

        So kraken answers, which keeps its newest 720 bars, and others that do not read `since`.
        """
        step, whole = self.key.timeframe.ms, self.limit - 2  # what still forms, or is not final, was left out
        if not len(page.bars) or len(page.bars) + len(page.rejected) < whole:
            return False
        first, last = int(page.bars.open_time[0]), int(page.bars.open_time[-1])
        return first > self.cursor and last + 3 * step > closed_by and last - self.cursor > self.limit * step


class Patience:
    """Asks again what failed, after random waits that grow, as long as there is time.

    Full jitter: Brooker, 2015, "Exponential Backoff and Jitter".
    """

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self.last: SourceError | None = None

    async def with_(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await what `call` makes until it succeeds, or until a further wait would outlast the time."""
        attempt = 0
        while True:
            try:
                return await call()
            except (UnknownSymbol, Banned):
                raise
            except SourceError as error:
                self.last = error
                told = error.retry_after if isinstance(error, SourceUnavailable) else None
                wait = _RANDOM.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt))
                wait += told or 0
                if time.monotonic() + wait >= self._until:
                    raise
            attempt += 1
            await asyncio.sleep(wait)


class Pace:
    """The rate limit of one exchange: requests start apart, in the order in which they were wanted.

    Kept by the monotonic clock; ccxt's own would stand still for years when the wall clock is set back.
    """

    def __init__(self) -> None:
        self._next = 0.0

    async def wait(self, seconds: float) -> None:
        """Wait for the turn of a request that takes so many seconds of the limit."""
        now = time.monotonic()
        turn = max(self._next, now)
        self._next = turn + seconds
        if turn > now:
            await asyncio.sleep(turn - now)


def growing_waits() -> Iterator[float]:
    """Seconds between questions for a bar that is late."""
    for attempt in count():
        yield _RANDOM.uniform(0.5, 1) * min(_LONGEST_WAIT, 2 * _FIRST_WAIT * 2**attempt)
