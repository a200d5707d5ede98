"""A queue of due cycles: most urgent first, never two cycles of one exchange at the same time.

The queue holds nothing that must survive a restart: pending forecasts are derived from the store. So one queued cycle
covers every close that has passed since it was queued.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecaster.timeframe import Timeframe


class ScheduledCycle(NamedTuple):
    """A cycle over one exchange's series of one timeframe, scheduled at `scheduled_at` (UTC ms).

    `cause` is `close` (bars have closed), `retry` (failed or skipped series are tried again) or `arrival` (bars have
    arrived that an earlier cycle did not wait for).
    """

    exchange: str
    timeframe: Timeframe
    scheduled_at: int
    cause: Literal["close", "retry", "arrival"] = "close"

    @property
    def key(self) -> tuple[str, Timeframe, str]:
        """Exchange, timeframe and cause: at most one cycle of each is queued."""
        return self.exchange, self.timeframe, self.cause

    @property
    def deadline(self) -> int:
        """Approximate close of the next bar (UTC ms); later forecasts are late."""
        return self.scheduled_at + self.timeframe.ms


class _Entry(NamedTuple):
    cycle: ScheduledCycle
    not_before: float


class CycleQueue:
    """Queued cycles, at most one for each exchange, timeframe and cause. Thread-safe.

    Args:
        monotonic: monotonic clock in seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._entries: dict[tuple[str, Timeframe, str], _Entry] = {}
        self._busy: set[str] = set()
        self._closed = False

    def put(self, cycle: ScheduledCycle, delay: float = 0.0) -> None:
        """Queue a cycle for `delay` seconds from now. A queued duplicate keeps the earlier times of both."""
        with self._changed:
            entry = _Entry(cycle, self._monotonic() + delay)
            queued = self._entries.get(cycle.key, entry)
            earlier = min(queued.cycle, cycle, key=lambda entry: entry.scheduled_at)
            self._entries[cycle.key] = _Entry(earlier, min(queued.not_before, entry.not_before))
            self._changed.notify_all()

    def take(self, timeout: float = 0.0) -> ScheduledCycle | None:
        """Take the cycle with the earliest deadline among exchanges that are not busy; call `task_done` afterwards.

        Waits up to `timeout` seconds. Returns None when there is none in time, and always after `close`.
        """
        until = self._monotonic() + timeout
        with self._changed:
            while not self._closed:
                ready = self._ready()
                if ready:
                    cycle = min(ready, key=lambda entry: (entry.deadline, entry.exchange, entry.timeframe.ms))
                    del self._entries[cycle.key]
                    self._busy.add(cycle.exchange)
                    return cycle
                remaining = until - self._monotonic()
                if remaining <= 0:
                    return None
                self._changed.wait(min(remaining, self._next_in()))
        return None

    def task_done(self, cycle: ScheduledCycle) -> None:
        """Mark the exchange of a taken cycle as free."""
        with self._changed:
            self._busy.discard(cycle.exchange)
            self._changed.notify_all()

    def waiting(self) -> int:
        """Count the queued cycles."""
        with self._changed:
            return len(self._entries)

    def unfinished(self) -> int:
        """Count the cycles that are queued or running."""
        with self._changed:
            return len(self._entries) + len(self._busy)

    @property
    def is_closed(self) -> bool:
        """Whether the queue was closed."""
        return self._closed

    def close(self) -> None:
        """Stop handing out cycles. Their forecasts stay pending in the store."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ready(self) -> list[ScheduledCycle]:
        now = self._monotonic()
        return [
            entry.cycle
            for entry in self._entries.values()
            if entry.not_before <= now and entry.cycle.exchange not in self._busy
        ]

    def _next_in(self) -> float:
        """Seconds until the next delayed entry becomes ready."""
        now = self._monotonic()
        delays = [entry.not_before - now for entry in self._entries.values() if entry.not_before > now]
        return min(delays, default=threading.TIMEOUT_MAX)
