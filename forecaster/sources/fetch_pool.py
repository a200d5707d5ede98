"""Asking for the bars of many series at once: answers are taken as they come, and nobody waits for the slowest.

Each question has a thread of its own, so one that hangs holds up no other. Questions that have been under way for a
while stay so, while what has come is used; whoever asks for their series again is given the answer that is coming.
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

STRAGGLES_AFTER: Final = 2.0
"""Seconds after which a question no longer counts among those that are put at once, and is not waited for."""

QUIET_SECONDS: Final = 0.25
"""When no answer has come for so long, those that have are taken."""

MOST_UNDER_WAY: Final = 256
"""Questions to one exchange."""

_IDLE_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Answer:
    """What a source gave, or raised, to a question about the bars of one series.

    Args:
        key: the series.
        since: open time from which on it was asked.
        as_of: UTC ms as of which it was asked.
        fetched: what came; None where it raised.
        error: what it raised.
    """

    key: SeriesKey
    since: int
    as_of: int
    fetched: Fetched | None = None
    error: BaseException | None = None

    def result(self) -> Fetched:
        """Give what came, or raise what the source raised."""
        if self.fetched is None:
            assert self.error is not None  # noqa: S101 - one of the two is there
            raise self.error
        return self.fetched


@dataclass(frozen=True)
class _Question:
    key: SeriesKey
    since: int
    as_of: int
    ask: Callable[[SeriesKey, int, int], Fetched]


@dataclass
class _Lane:
    """The questions to one exchange: those that wait for their turn, and when the others began (monotonic seconds)."""

    waiting: dict[SeriesKey, _Question] = field(default_factory=dict)
    begun: dict[SeriesKey, float] = field(default_factory=dict)


class Arrivals:
    """Questions that are under way, and answers that nobody has taken yet. Safe to use from several threads.

    Args:
        at_once: how many questions are put to one exchange at the same time, but for those that take long.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._changed = threading.Condition()
        self._lanes: defaultdict[str, _Lane] = defaultdict(_Lane)
        self._come: dict[SeriesKey, tuple[Answer, float]] = {}
        self._left: set[SeriesKey] = set()
        self._works: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._idle = 0
        self.on_straggler: Callable[[SeriesKey], None] = lambda _: None
        """Called, on some thread, when an answer has come that was left under way."""

    def ask(self, key: SeriesKey, since: int, as_of: int, ask: Callable[[SeriesKey, int, int], Fetched]) -> None:
        """Put a question about a series about which none is under way."""
        with self._changed:
            self._left.discard(key)
            self._lanes[key.exchange].waiting[key] = _Question(key, since, as_of, ask)
            self._pump(key.exchange)

    def leave(self, keys: Collection[SeriesKey]) -> None:
        """Wait no longer for answers about series: `on_straggler` hears when one has come."""
        with self._changed:
            self._left |= self._unfinished(keys)
            come = set(keys) & self._come.keys()
        for key in come:
            self.on_straggler(key)

    def under_way(self, keys: Collection[SeriesKey]) -> set[SeriesKey]:
        """Those of the series about which a question waits, is under way, or has an answer that nobody took."""
        with self._changed:
            return self._unfinished(keys) | (set(keys) & self._come.keys())

    def arrived(self, keys: Collection[SeriesKey]) -> list[SeriesKey]:
        """Those of the series whose answer has come and was not taken."""
        with self._changed:
            return [key for key in keys if key in self._come]

    def take(self, keys: Collection[SeriesKey], give_up: float, leave_after: float = math.inf) -> list[Answer]:
        """Wait for answers about series, and take those that have come; none when nothing is left to wait for.

        They are taken together when all have come, or when none came for a moment. Until `give_up` (monotonic seconds)
        questions are waited for, but for those that have been under way for `leave_after` seconds.
        """
        keys = set(keys)
        with self._changed:
            while not self._is_over(keys, give_up, leave_after):
                self._changed.wait(self._pause(keys, give_up))
                for exchange in {key.exchange for key in keys}:
                    self._pump(exchange)
            return [self._come.pop(key)[0] for key in list(self._come) if key in keys]

    def _is_over(self, keys: set[SeriesKey], give_up: float, leave_after: float) -> bool:
        """Whether what has come is to be taken now, or nothing more is to be waited for."""
        now, open_ = time.monotonic(), self._unfinished(keys)
        if not open_ or now >= give_up:
            return True
        came = [at for key, (_, at) in self._come.items() if key in keys]
        if came:
            return now - max(came) >= QUIET_SECONDS or now - min(came) >= STRAGGLES_AFTER
        return all(now - self._begun(key, now) >= leave_after for key in open_)

    def _begun(self, key: SeriesKey, now: float) -> float:
        """When a question began: now, where its turn comes; long ago, where so many hang that it does not."""
        begun = self._lanes[key.exchange].begun
        return begun.get(key, -math.inf if len(begun) >= MOST_UNDER_WAY else now)

    def _pause(self, keys: Collection[SeriesKey], give_up: float) -> float:
        """Seconds after which to look again though nothing has changed."""
        has_come = any(key in self._come for key in keys)
        return max(0.0, min(QUIET_SECONDS if has_come else STRAGGLES_AFTER / 4, give_up - time.monotonic()))

    def _unfinished(self, keys: Collection[SeriesKey]) -> set[SeriesKey]:
        lanes = self._lanes
        return {key for key in keys if key in lanes[key.exchange].begun or key in lanes[key.exchange].waiting}

    def _pump(self, exchange: str) -> None:
        """Put questions to an exchange that wait, as many as may be put at once."""
        lane, now = self._lanes[exchange], time.monotonic()
        fresh = sum(now - at < STRAGGLES_AFTER for at in lane.begun.values())
        while lane.waiting and fresh < self._at_once and len(lane.begun) < MOST_UNDER_WAY:
            key = next(iter(lane.waiting))
            question = lane.waiting.pop(key)
            lane.begun[key] = now
            fresh += 1
            try:
                self._start(partial(self._answer, question))
            except RuntimeError as error:  # no thread can be had
                reason = f"{key.symbol}: expected a thread to ask on: {error}"
                self._take_in(question, None, SourceUnavailable(exchange, reason))

    def _start(self, work: Callable[[], None]) -> None:
        """Do something on a thread that is idle, or on a further one; with the lock in hand."""
        if self._idle:
            self._idle -= 1
            self._works.put(work)
        else:
            threading.Thread(target=self._serve, args=[work], name="arrivals", daemon=True).start()

    def _serve(self, work: Callable[[], None]) -> None:
        """Do one thing after another, until there is none for a while."""
        while True:
            work()
            with self._changed:
                self._idle += 1
            try:
                work = self._works.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._changed:
                    if self._works.empty():
                        self._idle -= 1
                        return
                work = self._works.get()

    def _answer(self, question: _Question) -> None:
        fetched, error = None, None
        try:
            fetched = question.ask(question.key, question.since, question.as_of)
        except BaseException as raised:  # noqa: BLE001 - it is raised where the answer is taken
            error = raised
        with self._changed:
            self._take_in(question, fetched, error)
            self._pump(question.key.exchange)
            was_left = question.key in self._left
            self._left.discard(question.key)
        if was_left:
            self.on_straggler(question.key)

    def _take_in(self, question: _Question, fetched: Fetched | None, error: BaseException | None) -> None:
        """Keep an answer until somebody takes it; with the lock in hand."""
        self._lanes[question.key.exchange].begun.pop(question.key, None)
        answer = Answer(question.key, question.since, question.as_of, fetched, error)
        self._come[question.key] = answer, time.monotonic()
        self._changed.notify_all()
