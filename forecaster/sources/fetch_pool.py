"""Concurrent fetches of many series: outcomes are collected as they complete, and no series waits for the slowest.

Each fetch has its own thread, so one that hangs delays no other. A slow fetch stays in flight while the others are
used; its outcome is collected when its series is asked for again.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from forecaster.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from forecaster.bars import SeriesKey
    from forecaster.sources import Fetched

STRAGGLER_SECONDS: Final = 2.0
"""Seconds after which a fetch no longer counts towards the concurrent ones, and is not waited for."""

QUIET_SECONDS: Final = 0.25
"""Completed fetches are collected when no other has completed for so long."""

MAX_IN_FLIGHT: Final = 256
"""Fetches from one exchange."""

_IDLE_SECONDS: Final = 30.0


@dataclass(frozen=True)
class FetchOutcome:
    """What a source returned, or raised, for one series.

    Args:
        key: the series.
        since: open time from which bars were requested (UTC ms).
        as_of: time as of which they were requested (UTC ms).
        fetched: what the source returned; None when it raised.
        error: what it raised.
    """

    key: SeriesKey
    since: int
    as_of: int
    fetched: Fetched | None = None
    error: BaseException | None = None

    def result(self) -> Fetched:
        """Return what the source returned, or raise what it raised."""
        if self.fetched is None:
            assert self.error is not None  # noqa: S101 - one of the two is set
            raise self.error
        return self.fetched


@dataclass(frozen=True)
class _Request:
    key: SeriesKey
    since: int
    as_of: int
    fetch: Callable[[SeriesKey, int, int], Fetched]


@dataclass
class _ExchangeQueue:
    """The fetches from one exchange: queued ones, and when the others started (monotonic seconds)."""

    queued: dict[SeriesKey, _Request] = field(default_factory=dict)
    started: dict[SeriesKey, float] = field(default_factory=dict)


class FetchPool:
    """Fetches in flight, and outcomes that are not collected yet. Thread-safe.

    Args:
        max_concurrent: concurrent fetches from one exchange, stragglers not counted.
    """

    def __init__(self, max_concurrent: int) -> None:
        self._max_concurrent = max_concurrent
        self._changed = threading.Condition()
        self._exchanges: defaultdict[str, _ExchangeQueue] = defaultdict(_ExchangeQueue)
        self._completed: dict[SeriesKey, tuple[FetchOutcome, float]] = {}
        self._detached: set[SeriesKey] = set()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle_threads = 0
        self.on_straggler: Callable[[SeriesKey], None] = lambda _: None
        """Called, on some thread, when a detached fetch completes."""

    def submit(self, key: SeriesKey, since: int, as_of: int, fetch: Callable[[SeriesKey, int, int], Fetched]) -> None:
        """Fetch the bars of a series that is not in flight."""
        with self._changed:
            self._detached.discard(key)
            self._exchanges[key.exchange].queued[key] = _Request(key, since, as_of, fetch)
            self._start_queued(key.exchange)

    def detach(self, keys: Collection[SeriesKey]) -> None:
        """Stop waiting for series: `on_straggler` is called when one completes."""
        with self._changed:
            self._detached |= self._unfinished(keys)
            completed = set(keys) & self._completed.keys()
        for key in completed:
            self.on_straggler(key)

    def in_flight(self, keys: Collection[SeriesKey]) -> set[SeriesKey]:
        """Return the series whose fetch is queued, running, or not collected."""
        with self._changed:
            return self._unfinished(keys) | (set(keys) & self._completed.keys())

    def completed(self, keys: Collection[SeriesKey]) -> list[SeriesKey]:
        """Return the series whose outcome can be collected."""
        with self._changed:
            return [key for key in keys if key in self._completed]

    def collect(
        self, keys: Collection[SeriesKey], deadline: float, detach_after: float = math.inf
    ) -> list[FetchOutcome]:
        """Wait for outcomes of series and return them; an empty list when there is nothing left to wait for.

        Returns when all have completed, or none has for `QUIET_SECONDS`. Waits until `deadline` (monotonic seconds)
        at the latest, and only for fetches that have run for less than `detach_after` seconds.
        """
        keys = set(keys)
        with self._changed:
            while not self._is_ready(keys, deadline, detach_after):
                self._changed.wait(self._poll_seconds(keys, deadline))
                for exchange in {key.exchange for key in keys}:
                    self._start_queued(exchange)
            return [self._completed.pop(key)[0] for key in list(self._completed) if key in keys]

    def _is_ready(self, keys: set[SeriesKey], deadline: float, detach_after: float) -> bool:
        """Whether to collect now."""
        now, unfinished = time.monotonic(), self._unfinished(keys)
        if not unfinished or now >= deadline:
            return True
        completed_at = [at for key, (_, at) in self._completed.items() if key in keys]
        if completed_at:
            return now - max(completed_at) >= QUIET_SECONDS or now - min(completed_at) >= STRAGGLER_SECONDS
        return all(now - self._started_at(key, now) >= detach_after for key in unfinished)

    def _started_at(self, key: SeriesKey, now: float) -> float:
        """Return when a fetch started; now for one that will start soon, long ago where too many hang."""
        started = self._exchanges[key.exchange].started
        return started.get(key, -math.inf if len(started) >= MAX_IN_FLIGHT else now)

    def _poll_seconds(self, keys: Collection[SeriesKey], deadline: float) -> float:
        """Return after how many seconds to check again without a change."""
        has_completed = any(key in self._completed for key in keys)
        return max(0.0, min(QUIET_SECONDS if has_completed else STRAGGLER_SECONDS / 4, deadline - time.monotonic()))

    def _unfinished(self, keys: Collection[SeriesKey]) -> set[SeriesKey]:
        exchanges = self._exchanges
        return {key for key in keys if key in exchanges[key.exchange].started or key in exchanges[key.exchange].queued}

    def _start_queued(self, exchange: str) -> None:
        """Start queued fetches from an exchange, as far as its limits allow."""
        fetches, now = self._exchanges[exchange], time.monotonic()
        running = sum(now - at < STRAGGLER_SECONDS for at in fetches.started.values())
        while fetches.queued and running < self._max_concurrent and len(fetches.started) < MAX_IN_FLIGHT:
            key = next(iter(fetches.queued))
            request = fetches.queued.pop(key)
            fetches.started[key] = now
            running += 1
            try:
                self._run(partial(self._fetch, request))
            except RuntimeError as error:  # no thread available
                reason = f"{key.symbol}: expected a thread to ask on: {error}"
                self._complete(request, None, SourceUnavailable(exchange, reason))

    def _run(self, work: Callable[[], None]) -> None:
        """Run work on an idle thread, or on a new one; the lock is held."""
        if self._idle_threads:
            self._idle_threads -= 1
            self._work.put(work)
        else:
            threading.Thread(target=self._serve, args=[work], name="fetch", daemon=True).start()

    def _serve(self, work: Callable[[], None]) -> None:
        """Run work until there is none for `_IDLE_SECONDS`."""
        while True:
            work()
            with self._changed:
                self._idle_threads += 1
            try:
                work = self._work.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._changed:
                    if self._work.empty():
                        self._idle_threads -= 1
                        return
                work = self._work.get()

    def _fetch(self, request: _Request) -> None:
        fetched, error = None, None
        try:
            fetched = request.fetch(request.key, request.since, request.as_of)
        except BaseException as raised:  # noqa: BLE001 - raised again by `FetchOutcome.result`
            error = raised
        with self._changed:
            self._complete(request, fetched, error)
            self._start_queued(request.key.exchange)
            was_detached = request.key in self._detached
            self._detached.discard(request.key)
        if was_detached:
            self.on_straggler(request.key)

    def _complete(self, request: _Request, fetched: Fetched | None, error: BaseException | None) -> None:
        """Store an outcome until it is collected; the lock is held."""
        self._exchanges[request.key.exchange].started.pop(request.key, None)
        outcome = FetchOutcome(request.key, request.since, request.as_of, fetched, error)
        self._completed[request.key] = outcome, time.monotonic()
        self._changed.notify_all()
