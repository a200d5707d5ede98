"""When an exchange may be asked: not while it has told us to wait, and one question at a time after that.

Knows answers by their errors, and times; nothing of HTTP or of bars. What an exchange has forbidden is written to
`Holds` before the next request goes out, so that a process that dies waits after its restart as well.

A request belongs to the state under which it began. Many may be in flight when an exchange refuses one; the others are
refused too, and that is one incident with one penalty. So an answer to a request that began before the newest change
of state opens nothing, counts nothing and doubles nothing. It can only lengthen the wait, in two cases: it names a
later time itself (`Retry-After`), or it is a ban where only a limit was known.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from math import isnan
from typing import TYPE_CHECKING, Final, Protocol

from forecaster.clock import now_ms
from forecaster.errors import Banned, RateLimited, SourceError, SourceUnavailable, UnknownSymbol
from forecaster.log import get_logger
from forecaster.timeframe import DAY_MS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LONGEST_HOLD_MS: Final = 30 * DAY_MS
FIRST_LIMIT_MS: Final = 10_000
FIRST_BAN_MS: Final = 120_000
FIRST_PAUSE_MS: Final = 1_000
LONGEST_LIMIT_MS: Final = 600_000
LONGEST_BAN_MS: Final = 3 * DAY_MS
LONGEST_PAUSE_MS: Final = 60_000
FAULTS_BEFORE_PAUSE: Final = 5
LENGTHENED_FROM_MS: Final = 1_000
"""By how much a time must be later than the one that is known, to lengthen the wait: `Retry-After` is in seconds."""

_ONE_AT_A_TIME_SECONDS: Final = 0.25
_ROUNDING_MS: Final = 2
_log = get_logger(__name__)


class Holds(Protocol):
    """Remembers until when an exchange may not be asked; what it was told is durable when the call returns."""

    def held_until(self, exchange: str) -> int | None:
        """UTC ms before which this exchange is not to be asked; None when there is no such time."""

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Keep that this exchange is not to be asked before `until` (UTC ms), as known at `seen_at`."""


class Breaker:
    """Stands before every request to one exchange; used on one event loop.

    A limit or a ban (429, 418, 403, 451) closes the way for as long as the exchange says; where it does not say,
    for twice as long each time. So does a run of other faults, for a minute at most. After such a time a single
    request goes first, and the others follow once it has been answered.

    Args:
        exchange: its name in the configuration.
        holds: where waits are kept across restarts; written on a thread of its own, one wait after the other.
    """

    def __init__(self, exchange: str, holds: Holds) -> None:
        self._exchange = exchange
        self._holds = holds
        self._state = 0
        self._faults = 0
        self._refusals = 0
        self._incident_at: int | None = None
        self._reason = "told before this start"
        self._kind: type[SourceUnavailable] = RateLimited
        self._trying = False
        self._writer = ThreadPoolExecutor(1, f"holds of {exchange}")
        self._writing: asyncio.Future[None] | None = None
        self._until = _monotonic_ms()
        kept = holds.held_until(exchange)
        if kept is not None:
            self._until += _safely(min(max(0, kept - now_ms()), LONGEST_HOLD_MS))
        self._is_open = kept is None

    @property
    def seconds_left(self) -> float:
        """How long the exchange may not be asked, 0 when it may."""
        return max(0, self._until - _monotonic_ms()) / 1000

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Wrap one request: refuse it while the way is closed, and learn from how it ends.

        Raises:
            RateLimited: instead of asking, with the seconds to wait; SourceUnavailable, while it pauses after faults.
        """
        state = await self._turn()
        try:
            yield
        except (RateLimited, Banned) as error:
            self._refused(error, state)
            await self._written()
            raise
        except UnknownSymbol:
            self._answered(state)
            raise
        except SourceError as error:
            self._failed(error, state)
            await self._written()
            raise
        except BaseException:
            if state == self._state:
                self._trying = False  # cut short by us: nothing was learned
            raise
        else:
            self._answered(state)

    async def close(self) -> None:
        """Wait until what is being written is durable."""
        await self._written()
        self._writer.shutdown(wait=False)

    async def _turn(self) -> int:
        """Let one request go, once the newest wait is durable; gives the state under which it begins."""
        self._let_pass()
        while self._writing is not None and not self._writing.done():
            await self._written()
            self._let_pass()
        self._trying = not self._is_open
        return self._state

    def _let_pass(self) -> None:
        left = self.seconds_left
        if left:
            raise self._kind(self._exchange, f"not asked for {left:.1f} s more: {self._reason}", left)
        if self._trying:
            reason = f"one request goes first, to see whether it answers again: {self._reason}"
            raise self._kind(self._exchange, reason, _ONE_AT_A_TIME_SECONDS)

    def _answered(self, state: int) -> None:
        if state != self._state:
            return
        self._faults = self._refusals = 0
        self._is_open, self._trying, self._incident_at = True, False, None

    def _refused(self, error: RateLimited | Banned, state: int) -> None:
        """Close for as long as told, or for twice as long as the last time: once for an incident."""
        now, told = _monotonic_ms(), _told_ms(error)
        is_paused = not self._is_open and self._incident_at is None
        if state == self._state or is_paused:
            wait = _untold_ms(error, self._refusals) if told is None else told
            self._refusals += 1
            self._incident_at = now
            self._hold(now + wait, error)
        elif told is not None:
            self._lengthen(now + told, error)
        elif self._incident_at is not None:
            self._lengthen(self._incident_at + _untold_ms(error, self._refusals - 1), error)

    def _failed(self, error: SourceError, state: int) -> None:
        """Close for a moment once several requests in a row have failed, and at each failure from then on."""
        now, told = _monotonic_ms(), _told_ms(error)
        if state != self._state:
            if told is not None:
                self._lengthen(now + told, error)
            return
        self._faults += 1
        self._trying = False
        if told is not None:
            self._hold(now + told, error)
        elif self._faults >= FAULTS_BEFORE_PAUSE:
            wait = min(FIRST_PAUSE_MS << min(self._faults - FAULTS_BEFORE_PAUSE, 20), LONGEST_PAUSE_MS)
            self._close(now + wait, error)

    def _lengthen(self, until: int, error: SourceError) -> None:
        """Move the end of the wait, where this is clearly later than what is known."""
        if until >= max(self._until, _monotonic_ms()) + LENGTHENED_FROM_MS:
            self._hold(until, error)

    def _hold(self, until: int, error: SourceError) -> None:
        """Close, and have it written down for whoever runs after this process."""
        self._close(until, error)
        now = now_ms()
        row = (self._exchange, now + until - _monotonic_ms(), error.reason, now)
        self._writing = asyncio.get_running_loop().run_in_executor(self._writer, self._write, *row)

    def _close(self, until: int, error: SourceError) -> None:
        self._state += 1
        self._is_open, self._trying = False, False
        self._reason = error.reason
        self._kind = RateLimited if isinstance(error, RateLimited | Banned) else SourceUnavailable
        self._until = max(self._until, until)

    def _write(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Keep a wait; one that cannot be kept stands in this process, and fails nobody."""
        try:
            self._holds.hold(exchange, until, reason, seen_at)
        except Exception:  # noqa: BLE001 - whatever the store trips over, the exchange is not asked meanwhile
            _log.exception("hold.not_written", exchange=exchange, until=until)

    async def _written(self) -> None:
        """Wait until the newest wait is durable; the waits before it are then durable too."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])


def _told_ms(error: SourceError) -> int | None:
    """How long an exchange says to wait; None where it does not say."""
    told = error.retry_after if isinstance(error, SourceUnavailable) else None
    return None if told is None or isnan(told) else round(min(max(0.0, told * 1000), LONGEST_HOLD_MS))


def _untold_ms(error: RateLimited | Banned, refusals: int) -> int:
    """How long to wait after so many refusals before this one, where the exchange does not say."""
    is_ban = isinstance(error, Banned)
    first, longest = (FIRST_BAN_MS, LONGEST_BAN_MS) if is_ban else (FIRST_LIMIT_MS, LONGEST_LIMIT_MS)
    return min(first << min(refusals, 20), longest)


def _safely(wait_ms: int) -> int:
    """A little longer than a wait by the wall clock: NTP may stretch that clock by half a thousandth while it lasts."""
    return wait_ms + wait_ms // 1000 + _ROUNDING_MS if wait_ms else 0


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
