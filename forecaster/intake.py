"""From sources into the store: what is fetched of a series, what of it is kept, and what is still missing."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import numpy as np

from forecaster.bars import NO_TIME, RejectedRow, SeriesKey
from forecaster.errors import (
    Ambiguous,
    BadPayload,
    BarsError,
    CalendarEnds,
    ConfigError,
    InvalidBars,
    SourceError,
    SourceUnavailable,
    UnknownSymbol,
)
from forecaster.log import get_logger
from forecaster.sources.guard import anchor_hint
from forecaster.stamps import LONGEST_ALLOWANCE_MS, CommitTimes, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from forecaster.sources import BarSource, Fetched
    from forecaster.store import Store

_log = get_logger(__name__)
_BARS_ASKED_AGAIN: Final = 3
_LASTING: Final = (Ambiguous, UnknownSymbol, CalendarEnds, ConfigError)
_ATTEMPTS: Final = 3
_CLOSE_MS: Final = 2_000
_T = TypeVar("_T")


@dataclass
class Skipped:
    """Series that sit out a cycle, by name, with the reason; `given_up` are those that waiting does not mend."""

    reasons: dict[SeriesKey, str] = field(default_factory=dict)
    given_up: set[SeriesKey] = field(default_factory=set)

    def trying(self, keys: Iterable[SeriesKey], step: Callable[[SeriesKey], _T]) -> dict[SeriesKey, _T]:
        """Run `step` for each series that is still in; one that fails by name sits out from here on."""
        done: dict[SeriesKey, _T] = {}
        for key in keys:
            if key in self.reasons:
                continue
            try:
                done[key] = step(key)
            except (SourceError, BarsError, ConfigError) as error:
                self.skip(key, f"{type(error).__name__}: {error}")
                if isinstance(error, _LASTING):
                    self.given_up.add(key)
        return done

    def skip(self, key: SeriesKey, reason: str) -> None:
        """Let a series sit out from here on."""
        self.reasons[key] = reason
        _log.warning("series.skipped", series=str(key), reason=reason)


class Pulled(NamedTuple):
    """How many bars were added, how many seconds sources were waited for, and when the bars were first seen.

    `seen` is the first and the last stamp, UTC ms.
    """

    added: int
    waited_seconds: float
    seen: tuple[int, int]


class _TooLate(Exception):
    """The stamp of what was written has passed before its commit."""


class Intake:
    """Fetches bars, checks what came, and stores it.

    Args:
        store: where bars are kept.
        sources: where those of each series come from.
        context: bars that a model sees: so far back a new series is asked for.
        at_once: how many series are asked for at the same time.
    """

    def __init__(self, store: Store, sources: Mapping[SeriesKey, BarSource], context: int, at_once: int) -> None:
        self._store = store
        self._sources = sources
        self._context = context
        self._at_once = at_once
        self._commits = CommitTimes()
        self._last_seen = 0

    def pull(self, keys: Sequence[SeriesKey], as_of: int, skipped: Skipped, watch: Stopwatch | None = None) -> Pulled:
        """Fetch series side by side, so that none waits for another, and store what has come in one transaction.

        A series whose answer is not there when the next bar has closed sits out. What a long history has beyond its
        first part is asked for after that. Bars are stamped with the time of `watch` (`as_of`, carried on, when left
        out) at which they can be read.
        """
        watch = watch or Stopwatch(as_of)
        if not keys:
            return Pulled(0, 0.0, (watch.now, watch.now))
        with self._store.together(write=False):
            since = {key: self.owed_since(key, self.first_slot(key, as_of)) for key in keys}
        asked_at = time.monotonic()
        give_up = asked_at + max(key.timeframe.ms for key in keys) / 1000
        pool = ThreadPoolExecutor(self._at_once, "intake")
        try:
            asked = {key: pool.submit(self._sources[key].fetch, key, since[key], as_of) for key in keys}
            wait(asked.values(), max(0.0, give_up - time.monotonic()))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        waited = time.monotonic() - asked_at
        answers = {key: partial(_arrived, key, asked[key]) for key in keys}
        before = dict(skipped.reasons), set(skipped.given_up)

        def write(seen_at: int) -> dict[SeriesKey, tuple[int, int]]:
            skipped.reasons, skipped.given_up = dict(before[0]), set(before[1])
            return skipped.trying(keys, lambda key: self._receive(key, since[key], (as_of, seen_at), answers[key]))

        stamps: list[int] = []
        first = self._in_time(watch, write, stamps)
        rest = skipped.trying(
            first, lambda key: sum(new for new, _ in self.parts(key, first[key][1], as_of, watch, stamps))
        )
        added = sum(new for new, _ in first.values()) + sum(rest.values())
        return Pulled(added, waited, (min(stamps), max(stamps)))

    def parts(
        self,
        key: SeriesKey,
        cursor: int,
        as_of: int,
        watch: Stopwatch | None = None,
        stamps: list[int] | None = None,
    ) -> Iterator[tuple[int, int]]:
        """Fetch part by part up to `as_of`: how many bars are new in each, and how far it came.

        `stamps` collects when the bars of each part can be read.
        """
        watch, stamps = watch or Stopwatch(as_of), [] if stamps is None else stamps
        while cursor < as_of:
            receive = partial(self._receive_part, key, cursor, as_of, self._fetched(key, cursor, as_of))
            added, until, fault = self._in_time(watch, receive, stamps)
            if fault is not None:
                raise fault
            cursor = until
            yield added, cursor

    def _receive_part(
        self, key: SeriesKey, cursor: int, as_of: int, fetch: Callable[[], Fetched], seen_at: int
    ) -> tuple[int, int, SourceError | BarsError | None]:
        """Take one part; a fault is given and not raised: what came before it is kept."""
        try:
            return (*self._receive(key, cursor, (as_of, seen_at), fetch), None)
        except (SourceError, BarsError) as error:
            return 0, cursor, error

    def _in_time(self, watch: Stopwatch, write: Callable[[int], _T], stamps: list[int]) -> _T:
        """Write bars in one transaction, with the stamp at which they can be read, which joins `stamps`.

        What takes so long that the stamp has passed before the commit is undone and written again with a later one,
        a second ahead at most.
        """
        for attempt in range(_ATTEMPTS):
            allowance_ms = self._commits.allowance_ms
            seen_at = self._stamp(watch.now + allowance_ms)
            is_last = attempt == _ATTEMPTS - 1 or allowance_ms >= LONGEST_ALLOWANCE_MS
            with suppress(_TooLate):
                with self._commits.measured(), self._store.together():
                    written = write(seen_at)
                    _check_in_time(watch.now, seen_at, is_last=is_last)
                break
        if watch.now > seen_at:
            _log.warning("bars.committed_late", seen_at=seen_at, late_ms=watch.now - seen_at)
        stamps.append(seen_at)
        return written

    def _fetched(self, key: SeriesKey, cursor: int, as_of: int) -> Callable[[], Fetched]:
        """Fetch now; what the source raises is raised when the answer is taken, which keeps a refused body."""
        try:
            answer = self._sources[key].fetch(key, cursor, as_of)
        except SourceError as error:
            return partial(_raise, error)
        return lambda: answer

    def _stamp(self, readable_at: int) -> int:
        """The stamp of bars that can be read at a time: later than the last one, unless the clock was wrong."""
        is_close = readable_at <= self._last_seen < readable_at + _CLOSE_MS
        self._last_seen = self._last_seen + 1 if is_close else readable_at
        return self._last_seen

    def owed_since(self, key: SeriesKey, first: int) -> int:
        """Open time from which on a source is to be asked, so that nothing from `first` on stays missing.

        The newest bars are asked for again: they may have been revised. So is every slot without a bar, until it was
        asked for at two times a bar apart: then nobody traded in it.
        """
        newest = self._store.newest_open(key)
        if newest is None:
            return first
        step = key.timeframe.ms
        missing = self._missing(key, first, newest)
        gaps = self._store.gaps(key, first, newest) if missing else {}
        owed = [open_time for open_time in missing if not _is_settled(gaps.get(open_time, []), step)]
        again: list[int] = key.sessions.last_opens(key.timeframe, newest + step, _BARS_ASKED_AGAIN).tolist()
        return min([*owed[:1], *again[:1], newest])

    def _missing(self, key: SeriesKey, start: int, end: int) -> list[int]:
        """Open times in [start, end) that the calendar expects and the store has not."""
        expected = key.sessions.opens_between(key.timeframe, start, end)
        missing: list[int] = np.setdiff1d(expected, self._store.opens(key, start, end), assume_unique=True).tolist()
        return missing

    def _receive(
        self, key: SeriesKey, since: int, at: tuple[int, int], fetch: Callable[[], Fetched]
    ) -> tuple[int, int]:
        """Take what a source gives: bars, what it refused, and slots where it had nothing.

        `at` is the time as of which it was asked, and that at which the bars can be read. Returns how many bars are
        new, and how far the source was asked.
        """
        as_of, seen_at = at
        try:
            fetched = fetch()
        except BadPayload as error:
            self._store.quarantine(key, [RejectedRow(NO_TIME, (), error.reason, error.body)], as_of)
            raise
        self._store.quarantine(key, fetched.rejected, as_of)
        added = self._store.add_bars(replace(fetched.bars, first_seen_at=np.full(1, seen_at)))
        if len(fetched.bars):
            # Before a series' first bar, only slots that a context can hold are worth a note.
            known_from = min(self._store.oldest_open(key) or 0, self.first_slot(key, as_of))
            answered_from = since if fetched.since is None else fetched.since
            missing = self._missing(key, max(answered_from, known_from), int(fetched.bars.open_time[-1]))
            self._store.add_gaps(key, missing, as_of)
        if fetched.since is not None:
            _log.warning("bars.history_ends", series=str(key), asked_since=since, answered_since=fetched.since)
        if fetched.fault is not None:
            raise fetched.fault
        self._check_newest(key, fetched, as_of)
        return added, as_of if fetched.until is None else fetched.until

    def _check_newest(self, key: SeriesKey, fetched: Fetched, as_of: int) -> None:
        """Say so when the newest bar is missing because rows were refused, and not because it has yet to come.

        Raises:
            InvalidBars: with the commonest reason.
        """
        expected = key.sessions.last_opens(key.timeframe, as_of, 1)
        newest = NO_TIME if (stored := self._store.newest_open(key)) is None else stored
        opens = np.array([row.open_time for row in fetched.rejected], np.int64)
        if fetched.until is not None or not len(opens) or (newest >= expected).all():
            return
        if len(fetched.bars) and (opens <= expected - key.timeframe.ms).all():
            return
        reasons = Counter(row.reason for row in fetched.rejected)
        raise InvalidBars.refused(key, reasons, len(fetched.bars) + len(opens), anchor_hint(key, opens))

    def first_slot(self, key: SeriesKey, as_of: int) -> int:
        """Open time of the oldest bar that a context at `as_of` can hold."""
        opens = key.sessions.last_opens(key.timeframe, as_of, self._context)
        return int(opens[0]) if len(opens) else as_of


def _check_in_time(now: int, seen_at: int, *, is_last: bool) -> None:
    if now > seen_at and not is_last:
        raise _TooLate


def _raise(error: SourceError) -> Fetched:
    raise error


def _arrived(key: SeriesKey, asked: Future[Fetched]) -> Fetched:
    if not asked.done() or asked.cancelled():
        raise SourceUnavailable(key.exchange, f"{key.symbol}: expected its bars before the next one has closed")
    return asked.result()


def _is_settled(asked: list[int], step: int) -> bool:
    """Whether a slot was asked for often enough to say that it has no bar."""
    return bool(asked) and asked[-1] - asked[0] >= step
