"""From sources into the store: bars are fetched, checked and stored, series by series.

Series do not wait for each other: bars that have arrived are stored and used while others are still fetched.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import numpy as np

from forecaster.bars import NO_TIME, RejectedRow, SeriesKey
from forecaster.cycle.refetch import CheckedAnswer, Refetch
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
    format_time,
)
from forecaster.log import get_logger
from forecaster.sources.exchange.guard import anchor_hint
from forecaster.sources.fetch_pool import QUIET_SECONDS, STRAGGLER_SECONDS, FetchOutcome, FetchPool
from forecaster.stopwatch import LONGEST_ALLOWANCE_MS, CommitTimes, Stopwatch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from forecaster.sources import BarSource, Fetched
    from forecaster.store import Store

_log = get_logger(__name__)

SECOND_ANSWER_AFTER: Final = 3.0
"""Seconds after which a series is requested again whose answer must be confirmed."""

WaitPolicy = Literal["all", "most", "none"]
"""Which answers are waited for: all; those that do not take long; or none, and what has arrived is used."""

_PATIENCE: Final[dict[WaitPolicy, float]] = {"all": math.inf, "most": STRAGGLER_SECONDS, "none": 0.0}

_CLOCK_CHANGE_MS: Final = 2_000
_PERMANENT: Final = (Ambiguous, UnknownSymbol, CalendarEnds, ConfigError)
_ATTEMPTS: Final = 3
_CLOSE_MS: Final = 2_000
_T = TypeVar("_T")


@dataclass
class SkippedSeries:
    """Series that are left out of a cycle, with the reason; retrying does not help those in `permanent`."""

    reasons: dict[SeriesKey, str] = field(default_factory=dict)
    permanent: set[SeriesKey] = field(default_factory=set)

    def attempt(self, keys: Iterable[SeriesKey], step: Callable[[SeriesKey], _T]) -> dict[SeriesKey, _T]:
        """Run `step` for each series that is not skipped; skip a series whose step raises one of our errors."""
        results: dict[SeriesKey, _T] = {}
        for key in keys:
            if key in self.reasons:
                continue
            try:
                results[key] = step(key)
            except (SourceError, BarsError, ConfigError) as error:
                self.fail(key, error)
        return results

    def fail(self, key: SeriesKey, error: SourceError | BarsError | ConfigError) -> None:
        """Skip a series because of an error."""
        self.skip(key, f"{type(error).__name__}: {error}")
        if isinstance(error, _PERMANENT):
            self.permanent.add(key)

    def skip(self, key: SeriesKey, reason: str) -> None:
        """Skip a series from here on."""
        self.reasons[key] = reason
        _log.warning("series.skipped", series=str(key), reason=reason)


@dataclass(frozen=True)
class IngestResult:
    """What one round of answers brought.

    Args:
        keys: series that are complete, including those that failed.
        again: series that are requested again, for bars that are still missing.
        seen: first and last `first_seen_at` of the bars that were stored, UTC ms.
        added: number of new bars.
        revised: open times of bars that changed after they were stored, by series.
        revised_forecasts: number of cutoffs that had been forecast from such bars.
        unconfirmed: series whose answer must be confirmed by a second one.
        exchange_clock_offsets_ms: how far the clock of an exchange is ahead of this machine's, where it is known.
        waited_seconds: how long answers were waited for.
    """

    keys: frozenset[SeriesKey]
    again: frozenset[SeriesKey]
    seen: tuple[int, int]
    added: int = 0
    revised: dict[SeriesKey, Sequence[int]] = field(default_factory=dict)
    revised_forecasts: int = 0
    unconfirmed: frozenset[SeriesKey] = frozenset()
    exchange_clock_offsets_ms: dict[str, int] = field(default_factory=dict)
    waited_seconds: float = 0.0

    @property
    def all_keys(self) -> frozenset[SeriesKey]:
        """All series that have had an answer."""
        return self.keys | self.again


class _StampTooEarly(Exception):
    """The stamp of the written bars passed before their commit."""


class BarIngestor:
    """Fetches bars, checks and stores them.

    Args:
        store: where bars are stored.
        sources: the source of each series.
        context: number of bars that a model sees: a new series is requested this far back.
        at_once: number of series that are fetched concurrently.
    """

    def __init__(self, store: Store, sources: Mapping[SeriesKey, BarSource], context: int, at_once: int) -> None:
        self._store = store
        self._sources = sources
        self._context = context
        self._refetch = Refetch(store, context)
        self.fetch_pool = FetchPool(at_once)
        self._clocks: dict[str, int] = {}
        self._commits = CommitTimes()
        self._last_stamp = 0

    def rounds(
        self,
        keys: Collection[SeriesKey],
        as_of: int,
        skipped: SkippedSeries,
        watch: Stopwatch,
        waits_for: WaitPolicy = "all",
    ) -> Iterator[IngestResult]:
        """Fetch series concurrently, and store what has arrived, round by round, each in one transaction.

        A series is requested again, and appears in a further round, until its answer covers the latest close and is
        confirmed. With "all", a series without an answer when the next bar has closed is skipped; otherwise it stays
        in flight. Bars are stamped with the time of `watch` at which they become readable.
        """
        self._request(keys, as_of)
        left, patience = set(keys), _PATIENCE[waits_for]
        give_up = time.monotonic() + max((key.timeframe.ms for key in keys), default=0) / 1000
        while left:
            started = time.monotonic()
            answers = self.fetch_pool.collect(left, give_up, patience)
            waited = time.monotonic() - started
            if not answers:
                yield _empty(watch, waited)
                break
            patience = patience if waits_for == "all" else min(patience, QUIET_SECONDS)
            result = self._ingest_all(answers, as_of, skipped, watch)
            left -= result.keys
            yield replace(result, waited_seconds=waited)
        self.fetch_pool.detach(left)
        if waits_for == "all":
            yield from self._skip(left, skipped, watch, "expected its bars before the next one has closed")

    def _skip(
        self, keys: Collection[SeriesKey], skipped: SkippedSeries, watch: Stopwatch, reason: str
    ) -> Iterator[IngestResult]:
        for key in sorted(keys, key=str):
            skipped.fail(key, SourceUnavailable(key.exchange, f"{key.symbol}: {reason}"))
        if keys:
            yield replace(_empty(watch), keys=frozenset(keys))

    def pull(self, keys: Sequence[SeriesKey], as_of: int, skipped: SkippedSeries) -> int:
        """Fetch and store bars of series; return the number of new bars."""
        return sum(result.added for result in self.rounds(keys, as_of, skipped, Stopwatch(as_of)))

    def _request(self, keys: Collection[SeriesKey], as_of: int) -> None:
        in_flight = self.fetch_pool.in_flight(keys)
        requested = [key for key in keys if key not in in_flight]
        with self._store.transaction(write=False):
            since = {key: self._refetch.since(key, as_of) for key in requested}
        for key in requested:
            self.fetch_pool.submit(key, since[key], as_of, self._fetch)

    def _fetch(self, key: SeriesKey, since: int, as_of: int) -> Fetched:
        if self._refetch.is_unconfirmed(key):
            time.sleep(SECOND_ANSWER_AFTER)
        return self._sources[key].fetch(key, since, as_of)

    def take(
        self, keys: Collection[SeriesKey], as_of: int, skipped: SkippedSeries, watch: Stopwatch
    ) -> Iterator[IngestResult]:
        """Store answers that have arrived in the meantime, in one transaction, if there are any."""
        answers = self.fetch_pool.collect(keys, time.monotonic())
        if answers:
            result = self._ingest_all(answers, as_of, skipped, watch)
            self.fetch_pool.detach(result.again)
            yield result

    def drain(
        self, keys: Collection[SeriesKey], as_of: int, skipped: SkippedSeries, watch: Stopwatch, seconds: float
    ) -> Iterator[IngestResult]:
        """Store answers that arrive within so many seconds; skip the other series."""
        left, give_up = set(keys), time.monotonic() + seconds
        while left and (answers := self.fetch_pool.collect(left, give_up)):
            result = self._ingest_all(answers, as_of, skipped, watch)
            left -= result.keys
            yield result
        yield from self._skip(left, skipped, watch, "expected its bars before the service stopped")

    def _ingest_all(
        self, answers: Sequence[FetchOutcome], as_of: int, skipped: SkippedSeries, watch: Stopwatch
    ) -> IngestResult:
        """Store answers, in one transaction, and request again what they leave open."""
        with self._store.transaction(write=False):
            checked = [self._refetch.check(answer) for answer in answers]
        accepted = {answer.answer.key: answer for answer in checked if not answer.is_unconfirmed}
        before = dict(skipped.reasons), set(skipped.permanent)

        def write(seen_at: int) -> dict[SeriesKey, tuple[int, int]]:
            skipped.reasons, skipped.permanent = dict(before[0]), set(before[1])
            return skipped.attempt(accepted, lambda key: self._ingest(accepted[key].answer, seen_at))

        stamps: list[int] = []
        stored = self._write_in_time(watch, write, stamps)
        revised = {key: accepted[key].changed for key in stored if accepted[key].changed}
        forecasts = sum(self._log_revised(key, opens) for key, opens in revised.items())
        self._refetch.update(accepted, {key: accepted[key].changed for key in stored})
        unconfirmed = frozenset(answer.answer.key for answer in checked if answer.is_unconfirmed)
        again = unconfirmed | self._request_again(stored, accepted, unconfirmed, as_of)
        return IngestResult(
            keys=frozenset(accepted.keys() - again),
            again=again,
            seen=(min(stamps), max(stamps)),
            added=sum(added for added, _ in stored.values()),
            revised=revised,
            revised_forecasts=forecasts,
            unconfirmed=unconfirmed,
            exchange_clock_offsets_ms=self._clock_offsets(answers),
        )

    def _request_again(
        self,
        stored: Mapping[SeriesKey, tuple[int, int]],
        accepted: Mapping[SeriesKey, CheckedAnswer],
        unconfirmed: frozenset[SeriesKey],
        as_of: int,
    ) -> frozenset[SeriesKey]:
        """Request series whose answer was a part, is older than the latest close, or must be confirmed."""
        parts = {key: until for key, (_, until) in stored.items() if until < accepted[key].answer.as_of}
        outdated = {key for key in stored if key in parts or _has_closed(key, accepted[key].answer.as_of, as_of)}
        again = unconfirmed | outdated
        for key in sorted(again, key=str):
            self.fetch_pool.submit(key, parts.get(key) or self._refetch.since(key, as_of), as_of, self._fetch)
        return again

    def _log_revised(self, key: SeriesKey, opens: Sequence[int]) -> int:
        """Log revised bars; return how many cutoffs of the series had been forecast from them."""
        forecasts = min(int((self._store.cutoffs(key) > opens[0]).sum()), self._context)
        values = {"bars": len(opens), "first": format_time(opens[0]), "forecasts": forecasts}
        _log.warning("bars.revised", series=str(key), **values)
        return forecasts

    def _clock_offsets(self, answers: Sequence[FetchOutcome]) -> dict[str, int]:
        """Return how far the clocks of exchanges are ahead (ms); log a change."""
        offsets = {
            answer.key.exchange: answer.fetched.clock_offset_ms
            for answer in answers
            if answer.fetched is not None and answer.fetched.clock_offset_ms is not None
        }
        for exchange, ahead_ms in offsets.items():
            if abs(ahead_ms - self._clocks.get(exchange, 0)) > _CLOCK_CHANGE_MS:
                _log.warning("exchange.clock_differs", exchange=exchange, ahead_seconds=round(ahead_ms / 1000, 1))
                self._clocks[exchange] = ahead_ms
        return offsets

    def backfill(self, key: SeriesKey, since: int, as_of: int, *, again: bool) -> Iterator[tuple[int, int]]:
        """Fetch a history part by part; yield the number of new bars of each part, and how far it came (UTC ms).

        Starts at the first missing bar after `since`; with `again`, at `since`, so that stored bars are checked too.
        """
        cursor = since if again else max(since, self._refetch.resume_from(key, since))
        watch, stamps = Stopwatch(as_of), list[int]()
        while cursor < as_of:
            answer = self._answer(key, cursor, as_of)
            with self._store.transaction(write=False):
                checked = self._refetch.check(answer)
            if checked.is_unconfirmed:
                continue
            added, until, fault = self._write_in_time(watch, partial(self._ingest_part, checked.answer), stamps)
            if fault is not None:
                raise fault
            if checked.changed:
                self._log_revised(key, checked.changed)
            cursor = until
            yield added, cursor

    def _ingest_part(self, answer: FetchOutcome, seen_at: int) -> tuple[int, int, SourceError | BarsError | None]:
        """Store one part; an error is returned, so that the transaction keeps what arrived before it."""
        try:
            return (*self._ingest(answer, seen_at), None)
        except (SourceError, BarsError) as error:
            return 0, answer.since, error

    def _write_in_time(self, watch: Stopwatch, write: Callable[[int], _T], stamps: list[int]) -> _T:
        """Write bars in one transaction, with the stamp at which they become readable; append it to `stamps`.

        A write whose stamp has passed before its commit is undone and repeated with a later stamp, at most one second
        ahead.
        """
        for attempt in range(_ATTEMPTS):
            allowance_ms = self._commits.allowance_ms
            seen_at = self._next_stamp(watch.now + allowance_ms)
            is_last = attempt == _ATTEMPTS - 1 or allowance_ms >= LONGEST_ALLOWANCE_MS
            with suppress(_StampTooEarly):
                with self._commits.measured(), self._store.transaction():
                    written = write(seen_at)
                    _check_stamp(watch.now, seen_at, is_last=is_last)
                break
        if watch.now > seen_at:
            _log.warning("bars.committed_late", seen_at=seen_at, late_ms=watch.now - seen_at)
        stamps.append(seen_at)
        return written

    def _answer(self, key: SeriesKey, cursor: int, as_of: int) -> FetchOutcome:
        """Fetch now; an error of the source becomes part of the answer, so that a refused body is stored."""
        try:
            return FetchOutcome(key, cursor, as_of, self._fetch(key, cursor, as_of))
        except SourceError as error:
            return FetchOutcome(key, cursor, as_of, error=error)

    def _next_stamp(self, readable_at: int) -> int:
        """Return the stamp of bars that become readable at a time: later than the last, unless the clock was set."""
        is_close = readable_at <= self._last_stamp < readable_at + _CLOSE_MS
        self._last_stamp = self._last_stamp + 1 if is_close else readable_at
        return self._last_stamp

    def _ingest(self, answer: FetchOutcome, seen_at: int) -> tuple[int, int]:
        """Store the bars of an answer, its rejected rows, and the slots that it left empty.

        `seen_at` is the time at which the bars become readable. Returns the number of new bars, and how far the source
        was requested.
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
            # Before the first bar of a series, only slots that a context can hold are noted.
            known_from = min(self._store.earliest_open(key) or 0, self._refetch.first_slot(key, as_of))
            answered_from = since if fetched.since is None else fetched.since
            end = int(fetched.bars.open_time[-1])
            self._store.add_gaps(key, self._refetch.missing(key, max(answered_from, known_from), end), as_of)
        if fetched.since is not None:
            _log.warning("bars.history_ends", series=str(key), asked_since=since, answered_since=fetched.since)
        if fetched.fault is not None:
            raise fetched.fault
        self._check_latest(key, fetched, as_of)
        return added, as_of if fetched.until is None else fetched.until

    def _check_latest(self, key: SeriesKey, fetched: Fetched, as_of: int) -> None:
        """Raise when the latest bar is missing because rows were rejected.

        Raises:
            InvalidBars: with the most frequent reason.
        """
        expected = key.trading_calendar.last_opens(key.timeframe, as_of, 1)
        newest = NO_TIME if (stored := self._store.latest_open(key)) is None else stored
        opens = np.array([row.open_time for row in fetched.rejected], np.int64)
        if fetched.until is not None or not len(opens) or (newest >= expected).all():
            return
        if len(fetched.bars) and (opens <= expected - key.timeframe.ms).all():
            return
        reasons = Counter(row.reason for row in fetched.rejected)
        raise InvalidBars.refused(key, reasons, len(fetched.bars) + len(opens), anchor_hint(key, opens))

    def first_slot(self, key: SeriesKey, as_of: int) -> int:
        """Return the open time of the oldest bar that a context at `as_of` can hold."""
        return self._refetch.first_slot(key, as_of)


def _check_stamp(now: int, seen_at: int, *, is_last: bool) -> None:
    if now > seen_at and not is_last:
        raise _StampTooEarly


def _empty(watch: Stopwatch, waited: float = 0.0) -> IngestResult:
    return IngestResult(frozenset(), frozenset(), (watch.now, watch.now), waited_seconds=waited)


def _has_closed(key: SeriesKey, requested_at: int, as_of: int) -> bool:
    """Return whether a bar has closed after the time as of which a series was requested."""
    before, now = (key.trading_calendar.last_opens(key.timeframe, at, 1) for at in (requested_at, as_of))
    return not np.array_equal(before, now)
