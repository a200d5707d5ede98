"""From sources into the store: what is fetched of a series, what of it is kept, and what is still missing.

Series do not wait for each other: what has come of some is stored and used, while others are still waited for.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeVar

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
    duration_text,
    utc_text,
)
from forecaster.log import get_logger
from forecaster.sources.exchange.guard import anchor_hint
from forecaster.sources.fetch_pool import QUIET_SECONDS, STRAGGLES_AFTER, Answer, Arrivals
from forecaster.sources.plausibility import agree, coarser_ms, compare
from forecaster.stopwatch import LONGEST_ALLOWANCE_MS, CommitTimes, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from forecaster.bars import Bars
    from forecaster.sources import BarSource, Fetched
    from forecaster.store import Store

_log = get_logger(__name__)
BARS_ASKED_AGAIN: Final = 24
"""The fewest stored bars that are asked for again each time: they may have been revised, or been wrong."""

SECOND_ANSWER_AFTER: Final = 3.0
"""Seconds after which a series is asked again whose answer is in doubt."""

WaitsFor = Literal["all", "most", "nobody"]
"""Whose answers are waited for: all; those that do not take long; or nobody's, and what has come is used."""

_PATIENCE: Final[dict[WaitsFor, float]] = {"all": math.inf, "most": STRAGGLES_AFTER, "nobody": 0.0}

_MORE_AFTER_A_FAULT: Final = 4
_MOST_ANSWERS: Final = 4
_BARS_AROUND: Final = 40
_CLOCKS_APART_MS: Final = 2_000
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


@dataclass(frozen=True)
class Pulled:
    """What a round of answers brought.

    Args:
        keys: the series that are through with it, also those that failed.
        again: the series that are asked again, for what is missing still.
        seen: first and last stamp of the bars that were stored, UTC ms.
        added: how many bars are new.
        revised: open times of bars that changed after they were stored, by series.
        revised_forecasts: how many closes had been forecast from such bars.
        doubted: series whose answer waits for a second one.
        clocks: how far (ms) the clock of an exchange is ahead of this machine's, where it tells.
        waited_seconds: how long answers were waited for.
    """

    keys: frozenset[SeriesKey]
    again: frozenset[SeriesKey]
    seen: tuple[int, int]
    added: int = 0
    revised: dict[SeriesKey, Sequence[int]] = field(default_factory=dict)
    revised_forecasts: int = 0
    doubted: frozenset[SeriesKey] = frozenset()
    clocks: dict[str, int] = field(default_factory=dict)
    waited_seconds: float = 0.0

    @property
    def all_keys(self) -> frozenset[SeriesKey]:
        """All series that have had an answer."""
        return self.keys | self.again


class _Weighed(NamedTuple):
    """An answer as it is to be taken, the open times of stored bars that it changes, and whether it is in doubt."""

    answer: Answer
    changed: Sequence[int] = ()
    is_doubted: bool = False


class _Unsure(NamedTuple):
    """From which open time on a series is asked again, and for how many further answers that change nothing."""

    since: int
    left: int


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
        self.arrivals = Arrivals(at_once)
        self._asked_again: dict[SeriesKey, int] = {}
        self._unsure: dict[SeriesKey, _Unsure] = {}
        self._doubted: dict[SeriesKey, list[Bars]] = {}
        self._clocks: dict[str, int] = {}
        self._commits = CommitTimes()
        self._last_seen = 0

    def rounds(
        self, keys: Collection[SeriesKey], as_of: int, skipped: Skipped, watch: Stopwatch, waits_for: WaitsFor = "all"
    ) -> Iterator[Pulled]:
        """Ask for series side by side, and store what has come, some at a time, each in one transaction.

        A series is asked again, and is in a further round, until it was asked as of the newest close, and its answer is
        not in doubt. With "all", one whose answer is not there when the next bar has closed sits out; else it is left
        under way. Bars are stamped with the time of `watch` at which they can be read.
        """
        self._ask(keys, as_of)
        left, patience = set(keys), _PATIENCE[waits_for]
        give_up = time.monotonic() + max((key.timeframe.ms for key in keys), default=0) / 1000
        while left:
            asked_at = time.monotonic()
            answers = self.arrivals.take(left, give_up, patience)
            waited = time.monotonic() - asked_at
            if not answers:
                yield _nothing(watch, waited)
                break
            patience = patience if waits_for == "all" else min(patience, QUIET_SECONDS)
            pulled = self._receive_all(answers, as_of, skipped, watch)
            left -= pulled.keys
            yield replace(pulled, waited_seconds=waited)
        self.arrivals.leave(left)
        if waits_for == "all":
            yield from self._sit_out(left, skipped, watch, "expected its bars before the next one has closed")

    def _sit_out(self, keys: Collection[SeriesKey], skipped: Skipped, watch: Stopwatch, why: str) -> Iterator[Pulled]:
        for key in sorted(keys, key=str):
            skipped.trying([key], partial(raised, SourceUnavailable(key.exchange, f"{key.symbol}: {why}")))
        if keys:
            yield replace(_nothing(watch), keys=frozenset(keys))

    def pull(self, keys: Sequence[SeriesKey], as_of: int, skipped: Skipped) -> int:
        """Ask for series, and store what comes; gives how many bars are new."""
        return sum(pulled.added for pulled in self.rounds(keys, as_of, skipped, Stopwatch(as_of)))

    def _ask(self, keys: Collection[SeriesKey], as_of: int) -> None:
        under_way = self.arrivals.under_way(keys)
        asked = [key for key in keys if key not in under_way]
        with self._store.together(write=False):
            since = {key: self._owed_since(key, as_of) for key in asked}
        for key in asked:
            self.arrivals.ask(key, since[key], as_of, self._fetch)

    def _fetch(self, key: SeriesKey, since: int, as_of: int) -> Fetched:
        if key in self._doubted:
            time.sleep(SECOND_ANSWER_AFTER)
        return self._sources[key].fetch(key, since, as_of)

    def _owed_since(self, key: SeriesKey, as_of: int) -> int:
        again = self._asked_again.get(key, self._context)
        since = self.owed_since(key, self.first_slot(key, as_of), again)
        return min(since, self._unsure[key].since) if key in self._unsure else since

    def take(self, keys: Collection[SeriesKey], as_of: int, skipped: Skipped, watch: Stopwatch) -> Iterator[Pulled]:
        """Store what has come of series since it was last looked, in one transaction, if anything has."""
        answers = self.arrivals.take(keys, time.monotonic())
        if answers:
            pulled = self._receive_all(answers, as_of, skipped, watch)
            self.arrivals.leave(pulled.again)
            yield pulled

    def last(
        self, keys: Collection[SeriesKey], as_of: int, skipped: Skipped, watch: Stopwatch, seconds: float
    ) -> Iterator[Pulled]:
        """Store what still comes of series within so many seconds; the others sit out: nobody will take it."""
        left, give_up = set(keys), time.monotonic() + seconds
        while left and (answers := self.arrivals.take(left, give_up)):
            pulled = self._receive_all(answers, as_of, skipped, watch)
            left -= pulled.keys
            yield pulled
        yield from self._sit_out(left, skipped, watch, "expected its bars before the service stopped")

    def _receive_all(self, answers: Sequence[Answer], as_of: int, skipped: Skipped, watch: Stopwatch) -> Pulled:
        """Store answers, in one transaction, and ask again for what they leave open."""
        with self._store.together(write=False):
            weighed = [self._weigh(answer) for answer in answers]
        taken = {one.answer.key: one for one in weighed if not one.is_doubted}
        before = dict(skipped.reasons), set(skipped.given_up)

        def write(seen_at: int) -> dict[SeriesKey, tuple[int, int]]:
            skipped.reasons, skipped.given_up = dict(before[0]), set(before[1])
            return skipped.trying(taken, lambda key: self._receive(taken[key].answer, seen_at))

        stamps: list[int] = []
        received = self._in_time(watch, write, stamps)
        revised = {key: taken[key].changed for key in received if taken[key].changed}
        marked = sum(self._tell_revised(key, opens) for key, opens in revised.items())
        self._grow(taken, {key: taken[key].changed for key in received})
        parts = {key: until for key, (_, until) in received.items() if until < taken[key].answer.as_of}
        doubted = frozenset(one.answer.key for one in weighed if one.is_doubted)
        again = doubted.union(
            key for key in received if key in parts or _has_closed(key, taken[key].answer.as_of, as_of)
        )
        for key in sorted(again, key=str):
            self.arrivals.ask(key, parts.get(key) or self._owed_since(key, as_of), as_of, self._fetch)
        return Pulled(
            keys=frozenset(taken.keys() - again),
            again=again,
            seen=(min(stamps), max(stamps)),
            added=sum(new for new, _ in received.values()),
            revised=revised,
            revised_forecasts=marked,
            doubted=doubted,
            clocks=self._clocks_of(answers),
        )

    def _tell_revised(self, key: SeriesKey, opens: Sequence[int]) -> int:
        """Tell that bars have changed; gives how many closes of the series had been forecast from them."""
        forecasts = min(int((self._store.cutoffs(key) > opens[0]).sum()), self._context)
        about = {"bars": len(opens), "first": utc_text(opens[0]), "forecasts": forecasts}
        _log.warning("bars.revised", series=str(key), **about)
        return forecasts

    def _weigh(self, answer: Answer) -> _Weighed:
        """Compare an answer with the bars that are stored: which it changes, and whether a second one is to agree."""
        fetched, key = answer.fetched, answer.key
        if fetched is None or not len(fetched.bars):
            return _Weighed(answer)
        start = int(fetched.bars.open_time[0]) - _BARS_AROUND * key.timeframe.ms
        there = self._store.bars(key, start=start, end=int(fetched.bars.open_time[-1]) + 1)
        changed, doubted = compare(fetched.bars, there)
        if not fetched.may_change:
            return _Weighed(answer, changed)
        apart = coarser_ms(fetched.bars, there)
        if apart is not None:
            expected = f"rows {key.timeframe} apart for {key.symbol}, as those that are stored"
            return _Weighed(replace(answer, fetched=None, error=_not_apart(key, expected, apart)))
        first = self._doubted.pop(key, [])
        if not doubted or (first and agree(first[-1], fetched.bars, doubted)):
            return _Weighed(answer, changed)
        if len(first) + 1 >= _MOST_ANSWERS:
            reason = f"{_MOST_ANSWERS} answers differ about the bar at {utc_text(doubted[0])}"
            return _Weighed(replace(answer, fetched=None, error=InvalidBars(key, reason)))
        self._doubted[key] = [*first, fetched.bars]
        _log.warning("bars.doubted", series=str(key), bars=len(doubted), first=utc_text(doubted[0]))
        return _Weighed(answer, changed, is_doubted=True)

    def _grow(self, answered: Collection[SeriesKey], changed: Mapping[SeriesKey, Sequence[int] | None]) -> None:
        """Ask again for more bars of a series after a fault or a revision, and for fewer while nothing happens.

        Bars that have changed are asked for again until many answers have said the same of them: the window does not
        move on past a wrong one.
        """
        for key in answered:
            opens = changed.get(key)
            bars = self._asked_again.get(key, self._context)
            bars = bars * _MORE_AFTER_A_FAULT if opens is None or opens else bars // 2
            self._asked_again[key] = max(BARS_ASKED_AGAIN, min(bars, self._context))
            before = self._unsure.get(key)
            if opens:
                since = opens[0] if before is None else min(before.since, opens[0])
                self._unsure[key] = _Unsure(since, BARS_ASKED_AGAIN)
            elif before is not None and opens is not None:
                self._unsure[key] = before._replace(left=before.left - 1)
                if not before.left:
                    del self._unsure[key]

    def _clocks_of(self, answers: Sequence[Answer]) -> dict[str, int]:
        """How far the clocks of exchanges are ahead; told when it has changed by more than a moment."""
        found = {
            one.key.exchange: one.fetched.clock_ms
            for one in answers
            if one.fetched is not None and one.fetched.clock_ms is not None
        }
        for exchange, ahead_ms in found.items():
            if abs(ahead_ms - self._clocks.get(exchange, 0)) > _CLOCKS_APART_MS:
                _log.warning("exchange.clock_differs", exchange=exchange, ahead_seconds=round(ahead_ms / 1000, 1))
                self._clocks[exchange] = ahead_ms
        return found

    def parts(self, key: SeriesKey, cursor: int, as_of: int) -> Iterator[tuple[int, int]]:
        """Fetch part by part up to `as_of`: how many bars are new in each, and how far it came."""
        watch, stamps = Stopwatch(as_of), list[int]()
        while cursor < as_of:
            answer = self._answer(key, cursor, as_of)
            with self._store.together(write=False):
                weighed = self._weigh(answer)
            if weighed.is_doubted:
                continue
            added, until, fault = self._in_time(watch, partial(self._receive_part, weighed.answer), stamps)
            if fault is not None:
                raise fault
            if weighed.changed:
                self._tell_revised(key, weighed.changed)
            cursor = until
            yield added, cursor

    def _receive_part(self, answer: Answer, seen_at: int) -> tuple[int, int, SourceError | BarsError | None]:
        """Take one part; a fault is given and not raised: what came before it is kept."""
        try:
            return (*self._receive(answer, seen_at), None)
        except (SourceError, BarsError) as error:
            return 0, answer.since, error

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

    def _answer(self, key: SeriesKey, cursor: int, as_of: int) -> Answer:
        """Fetch now; what the source raises is raised when the answer is taken, which keeps a refused body."""
        try:
            return Answer(key, cursor, as_of, self._fetch(key, cursor, as_of))
        except SourceError as error:
            return Answer(key, cursor, as_of, error=error)

    def _stamp(self, readable_at: int) -> int:
        """The stamp of bars that can be read at a time: later than the last one, unless the clock was wrong."""
        is_close = readable_at <= self._last_seen < readable_at + _CLOSE_MS
        self._last_seen = self._last_seen + 1 if is_close else readable_at
        return self._last_seen

    def owed_since(self, key: SeriesKey, first: int, again: int = BARS_ASKED_AGAIN) -> int:
        """Open time from which on a source is to be asked, so that nothing from `first` on stays missing.

        The newest bars, `again` of them, are asked for again: they may have been revised. So is every slot without a
        bar, until it was asked for at two times a bar apart: then nobody traded in it.
        """
        newest = self._store.newest_open(key)
        if newest is None:
            return first
        step = key.timeframe.ms
        missing = self._missing(key, first, newest)
        gaps = self._store.gaps(key, first, newest) if missing else {}
        owed = [open_time for open_time in missing if not _is_settled(gaps.get(open_time, []), step)]
        newest_opens: list[int] = key.sessions.last_opens(key.timeframe, newest + step, again).tolist()
        return min([*owed[:1], *(max(first, one) for one in newest_opens[:1]), newest])

    def _missing(self, key: SeriesKey, start: int, end: int) -> list[int]:
        """Open times in [start, end) that the calendar expects and the store has not."""
        expected = key.sessions.opens_between(key.timeframe, start, end)
        missing: list[int] = np.setdiff1d(expected, self._store.opens(key, start, end), assume_unique=True).tolist()
        return missing

    def _receive(self, answer: Answer, seen_at: int) -> tuple[int, int]:
        """Take what a source gave: bars, what it refused, and slots where it had nothing.

        `seen_at` is the time at which the bars can be read. Returns how many are new, and how far the source was asked.
        """
        key, since, as_of = answer.key, answer.since, answer.as_of
        try:
            fetched = answer.result()
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


def _nothing(watch: Stopwatch, waited: float = 0.0) -> Pulled:
    return Pulled(frozenset(), frozenset(), (watch.now, watch.now), waited_seconds=waited)


def raised(error: SourceError | BarsError, _: object = None) -> None:
    """Raise an error where a step is expected, as of `Skipped.trying`."""
    raise error


def _not_apart(key: SeriesKey, expected: str, apart: int) -> BadPayload:
    return BadPayload(key.exchange, expected, f"{duration_text(apart)} apart")


def _has_closed(key: SeriesKey, asked: int, as_of: int) -> bool:
    """Whether a bar has closed after the time as of which a series was asked."""
    before, now = (key.sessions.last_opens(key.timeframe, at, 1) for at in (asked, as_of))
    return not np.array_equal(before, now)


def _is_settled(asked: list[int], step: int) -> bool:
    """Whether a slot was asked for often enough to say that it has no bar."""
    return bool(asked) and asked[-1] - asked[0] >= step
