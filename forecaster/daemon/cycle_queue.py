"""What is to be done next: cycles that are due, the most urgent first, and no two of one exchange at once.

It holds what a clock has called for, and nothing that must survive: which forecasts are owed is in the store. So a
cycle that waits stands for all that have become due meanwhile.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from forecaster.timeframe import Timeframe


class Due(NamedTuple):
    """A cycle of one exchange's series of one timeframe, called for at `at` (UTC ms).

    `cause` is why: bars have closed; what sat out is tried again; bars have come that a cycle did not wait for.
    """

    exchange: str
    timeframe: Timeframe
    at: int
    cause: Literal["close", "again", "arrived"] = "close"

    @property
    def name(self) -> tuple[str, Timeframe, str]:
        """What waits at most once."""
        return self.exchange, self.timeframe, self.cause

    @property
    def deadline(self) -> int:
        """When the next bar closes, roughly: from then on this cycle's forecasts are late (UTC ms)."""
        return self.at + self.timeframe.ms


class _Entry(NamedTuple):
    due: Due
    not_before: float


class Agenda:
    """Cycles that wait; at most one of each exchange, timeframe and cause. Safe to use from several threads.

    Args:
        monotonic: seconds of a clock that nobody sets.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, Timeframe, str], _Entry] = {}
        self._busy: set[str] = set()
        self._closed = False

    def put(self, due: Due, after: float = 0.0) -> None:
        """Call for a cycle, in `after` seconds; one that waits already stays the older of both, and the sooner."""
        with self._changed:
            entry = _Entry(due, self._monotonic() + after)
            there = self._waiting.get(due.name, entry)
            older = min(there.due, due, key=lambda one: one.at)
            self._waiting[due.name] = _Entry(older, min(there.not_before, entry.not_before))
            self._changed.notify_all()

    def take(self, timeout: float = 0.0) -> Due | None:
        """Take the cycle whose deadline comes first, of an exchange that nobody is busy with; `done` gives it back.

        Waits for one up to `timeout` seconds; None when there is none, and for everybody once it is closed.
        """
        give_up = self._monotonic() + timeout
        with self._changed:
            while not self._closed:
                ready = self._ready()
                if ready:
                    due = min(ready, key=lambda one: (one.deadline, one.exchange, one.timeframe.ms))
                    del self._waiting[due.name]
                    self._busy.add(due.exchange)
                    return due
                left = give_up - self._monotonic()
                if left <= 0:
                    return None
                self._changed.wait(min(left, self._next_in()))
        return None

    def done(self, due: Due) -> None:
        """Let others be busy with the exchange of a cycle that was taken."""
        with self._changed:
            self._busy.discard(due.exchange)
            self._changed.notify_all()

    def waiting(self) -> int:
        """How many cycles wait."""
        with self._changed:
            return len(self._waiting)

    def unfinished(self) -> int:
        """How many cycles wait or are being worked on."""
        with self._changed:
            return len(self._waiting) + len(self._busy)

    @property
    def is_closed(self) -> bool:
        """Whether it gives nothing more out."""
        return self._closed

    def close(self) -> None:
        """Give nothing more out: what waits is owed, and the store knows it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _ready(self) -> list[Due]:
        now = self._monotonic()
        return [
            due for due, not_before in self._waiting.values() if not_before <= now and due.exchange not in self._busy
        ]

    def _next_in(self) -> float:
        """Seconds until another entry may be taken by time alone."""
        now = self._monotonic()
        ahead = [not_before - now for _, not_before in self._waiting.values() if not_before > now]
        return min(ahead, default=threading.TIMEOUT_MAX)
