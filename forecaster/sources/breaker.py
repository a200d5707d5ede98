"""When an exchange may be asked: not while it has told us to wait, and one question at a time after that.

Knows answers by their errors, and times; nothing of HTTP or of bars. What an exchange has forbidden is written to
`Holds` before anything else happens, so that a process that dies waits after its restart as well.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from forecaster.clock import now_ms
from forecaster.errors import Banned, RateLimited, SourceError, SourceUnavailable, UnknownSymbol
from forecaster.timeframe import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_HOLD_MS: Final = 30 * DAY_MS
FIRST_LIMIT_MS: Final = 10_000
FIRST_BAN_MS: Final = 120_000
FIRST_PAUSE_MS: Final = 1_000
LONGEST_LIMIT_MS: Final = 600_000
LONGEST_BAN_MS: Final = 3 * DAY_MS
LONGEST_PAUSE_MS: Final = 60_000
FAULTS_BEFORE_PAUSE: Final = 5
_ONE_AT_A_TIME_SECONDS: Final = 0.25
_ROUNDING_MS: Final = 2


class Holds(Protocol):
    """Remembers until when an exchange may not be asked; what it was told is durable when the call returns."""

    def held_until(self, exchange: str) -> int | None:
        """UTC ms before which this exchange is not to be asked; None when there is no such time."""

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Keep that this exchange is not to be asked before `until` (UTC ms), as known at `seen_at`."""


class Breaker:
    """Stands before every request to one exchange.

    A limit or a ban (429, 418, 403, 451) closes the way for as long as the exchange says; where it does not say,
    for twice as long each time. So does a run of other faults, for a minute at most. Behind such a time a single
    request goes first, and the others follow once it has been answered.

    Args:
        exchange: its name in the configuration.
        holds: where waits are kept across restarts.
    """

    def __init__(self, exchange: str, holds: Holds) -> None:
        self._exchange = exchange
        self._holds = holds
        self._faults = 0
        self._refusals = 0
        self._reason = "told before this start"
        self._kind: type[SourceUnavailable] = RateLimited
        self._trying = False
        self._until = _monotonic_ms()
        kept = holds.held_until(exchange)
        if kept is not None:
            self._until += _safely(min(max(0, kept - now_ms()), LONGEST_HOLD_MS))
        self._is_open = kept is None

    @property
    def seconds_left(self) -> float:
        """How long the exchange may not be asked, 0 when it may."""
        return max(0, self._until - _monotonic_ms()) / 1000

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Wrap one request: refuse it while the way is closed, and learn from how it ends.

        Raises:
            RateLimited: instead of asking, with the seconds to wait; SourceUnavailable, while it pauses after faults.
        """
        self._let_pass()
        try:
            yield
        except (RateLimited, Banned) as error:
            self._refused(error)
            raise
        except UnknownSymbol:
            self._answered()
            raise
        except SourceError as error:
            self._failed(error)
            raise
        except BaseException:
            self._trying = False  # cut short by us: nothing was learned
            raise
        else:
            self._answered()

    def _let_pass(self) -> None:
        left = self.seconds_left
        if left:
            raise self._kind(self._exchange, f"not asked for {left:.1f} s more: {self._reason}", left)
        if not self._is_open:
            if self._trying:
                reason = f"one request goes first, to see whether it answers again: {self._reason}"
                raise self._kind(self._exchange, reason, _ONE_AT_A_TIME_SECONDS)
            self._trying = True

    def _answered(self) -> None:
        self._faults = self._refusals = 0
        self._is_open, self._trying = True, False

    def _refused(self, error: RateLimited | Banned) -> None:
        """Close for as long as told, or for twice as long as the last time."""
        first, longest = (
            (FIRST_BAN_MS, LONGEST_BAN_MS) if isinstance(error, Banned) else (FIRST_LIMIT_MS, LONGEST_LIMIT_MS)
        )
        told = None if error.retry_after is None else round(error.retry_after * 1000)
        wait = min(first << min(self._refusals, 20), longest) if told is None else min(told, LONGEST_HOLD_MS)
        self._refusals += 1
        self._hold(wait, error)

    def _failed(self, error: SourceError) -> None:
        """Close for a moment once several requests in a row have failed, and at each failure from then on."""
        self._faults += 1
        self._trying = False
        told = error.retry_after if isinstance(error, SourceUnavailable) else None
        if told is not None:
            self._hold(min(round(told * 1000), LONGEST_HOLD_MS), error)
        elif self._faults >= FAULTS_BEFORE_PAUSE:
            self._close(min(FIRST_PAUSE_MS << min(self._faults - FAULTS_BEFORE_PAUSE, 20), LONGEST_PAUSE_MS), error)

    def _hold(self, wait_ms: int, error: SourceError) -> None:
        """Close, and write it down for whoever runs after this process."""
        self._close(wait_ms, error)
        now = now_ms()
        self._holds.hold(self._exchange, now + wait_ms, error.reason, now)

    def _close(self, wait_ms: int, error: SourceError) -> None:
        self._is_open, self._trying = False, False
        self._reason = error.reason
        self._kind = RateLimited if isinstance(error, RateLimited | Banned) else SourceUnavailable
        self._until = max(self._until, _monotonic_ms() + wait_ms)


def _safely(wait_ms: int) -> int:
    """A little longer than a wait by the wall clock: NTP may stretch that clock by half a thousandth while it lasts."""
    return wait_ms + wait_ms // 1000 + _ROUNDING_MS if wait_ms else 0


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
