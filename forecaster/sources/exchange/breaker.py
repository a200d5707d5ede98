"""A circuit breaker: when an exchange may be asked.

It knows errors and times, nothing of HTTP or bars. A request is about a subject, such as a symbol.

- A failure (a timeout, a 5xx, an answer that is not bars) counts for its subject. Five in a row pause that subject
  alone. The exchange pauses when five requests in a row have failed, about three subjects or more.
- A limit or a ban counts for the exchange: no request goes out until it ends. So does an outage that names its end,
  once two subjects were told so. Such a hold is written to the `HoldStore` before the next request, so a process that
  restarts waits too. Holds that others write count as well: `forecaster holds lift` ends a hold.
- During a hold one request goes out now and then, a probe: `Hold.probe_at` says when. It is recorded first, so
  restarts send no further probes. Its answer ends the hold.

Every request belongs to the generation in which it started. When an exchange refuses one of many requests in flight, it
refuses the others too: that is one incident with one penalty. So the outcome of a request from an older generation
changes nothing. It can only extend the wait: when it names a later time (`Retry-After`), or is a ban where only a limit
was known.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.clock import now_ms
from forecaster.errors import Banned, RateLimited, SourceError, SourceUnavailable, UnknownSymbol
from forecaster.ledger import BAN, LIMIT, OUTAGE, Hold, HoldKind
from forecaster.sources.exchange.hold_log import HoldLog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from forecaster.sources.exchange.hold_log import HoldStore

FIRST_LIMIT_MS: Final = 10_000
FIRST_BAN_MS: Final = 120_000
FIRST_PAUSE_MS: Final = 1_000
MAX_LIMIT_MS: Final = 600_000
MAX_PAUSE_MS: Final = 10_000
MAX_SUBJECT_PAUSE_MS: Final = 60_000
"""Longest pause of one subject that the exchange names."""

TRIAL_MS: Final = 2_000
"""How long one request goes alone, to test whether the exchange answers again; its own subject may hang."""

FAILURES_BEFORE_PAUSE: Final = 5
SUBJECTS_BEFORE_PAUSE: Final = 3
SUBJECTS_BEFORE_HOLD: Final = 2
MIN_EXTENSION_MS: Final = 1_000
"""The wait is extended only by more than this: `Retry-After` is in seconds."""
READ_INTERVAL_MS: Final = 1_000
"""How often the store is read during a hold, while requests are wanted."""

_NO_SERIES: Final = frozenset({"its clock", "markets"})
"""Subjects that are not series: an exchange without bars may still report its time."""

_TRIAL_RETRY_SECONDS: Final = 0.25
_ROUNDING_MS: Final = 2


class _Permit(NamedTuple):
    """A request that may go out: its subject, its generation, and when it started."""

    subject: str
    generation: int
    started_at: int


@dataclass
class _SubjectFailures:
    """Consecutive failures of one subject, and the pauses after them."""

    count: int = 0
    pauses: int = 0
    until: int = 0
    reason: str = ""


class Breaker:
    """Guards every request to one exchange. To be used on one event loop.

    A limit or a ban (429, 418, 403, 451) stops requests for as long as the exchange says, within the bounds of its
    `HoldKind`. Where it does not say, each wait is twice as long as the last one. After a wait one request goes first,
    and the others follow once it is answered.

    Args:
        exchange: its name in the configuration.
        holds: keeps holds across restarts.
    """

    def __init__(self, exchange: str, holds: HoldStore) -> None:
        self._exchange = exchange
        self._generation = 0
        self._subjects: dict[str, _SubjectFailures] = {}
        self._requested: set[str] = set()
        self._failing: set[str] = set()
        self._in_outage: set[str] = set()
        self._failures = self._pauses = self._refusals = 0
        self._incident_at: int | None = None
        self._reason = ""
        self._kind: HoldKind | None = None
        self._is_tripped = False
        self._is_trial_running = False
        self._trial_at = 0
        self._until = self._others_until = self._probe_at = self._read_at = _monotonic_ms()
        self._reading = asyncio.Lock()
        self._hold: Hold | None = None
        self._hold_log = HoldLog(exchange, holds)
        if self._hold_log.stored is not None:
            self._adopt(self._hold_log.stored)

    @property
    def seconds_left(self) -> float:
        """How long the exchange may not be asked, 0 when it may; a probe may go out earlier."""
        return max(0, self._until - _monotonic_ms()) / 1000

    @asynccontextmanager
    async def request(self, subject: str) -> AsyncIterator[None]:
        """Guard one request about a subject, and learn from its outcome.

        Raises:
            RateLimited: during a hold, with the seconds to wait; SourceUnavailable, during a pause after failures.
        """
        permit = await self._admit(subject)
        try:
            await self._hold_log.flush()  # a probe is recorded before it goes out
            yield
        except (RateLimited, Banned) as error:
            self._on_refusal(error, permit)
            await self._hold_log.flush()
            raise
        except UnknownSymbol:
            await self._on_answer(permit)
            raise
        except SourceError as error:
            self._on_failure(error, permit)
            await self._hold_log.flush()
            raise
        except BaseException:
            if permit.generation == self._generation:
                self._is_trial_running = False  # cancelled here: nothing was learned
            raise
        else:
            await self._on_answer(permit)

    async def close(self) -> None:
        """Wait until all holds are durable."""
        await self._hold_log.close()

    async def _admit(self, subject: str) -> _Permit:
        """Permit one request, once the latest hold is durable."""
        await self._read_newer_hold()
        self._check_permitted(subject)
        while self._hold_log.is_writing:
            await self._hold_log.flush()
            self._check_permitted(subject)
        self._requested |= {subject} - _NO_SERIES
        self._is_trial_running, self._trial_at = self._is_tripped, _monotonic_ms()
        if self._is_held and self._hold is not None:
            self._append(replace(self._hold, seen_at=now_ms(), since=None))  # records the probe
        return _Permit(subject, self._generation, _monotonic_ms())

    @property
    def _is_held(self) -> bool:
        """Whether a hold lasts; a pause after failures is not a hold."""
        return self._kind is not None and self._until > _monotonic_ms()

    def _check_permitted(self, subject: str) -> None:
        now, failures = _monotonic_ms(), self._subjects.get(subject)
        is_pause = self._kind in (None, OUTAGE)
        error = SourceUnavailable if is_pause else RateLimited
        # A pause is about the subjects that failed: another one may show soon that the exchange answers.
        until = self._until if self._kind is not None or subject in self._failing else self._others_until
        if until > now and not (self._is_held and now >= self._probe_at):
            left = (until - now) / 1000
            raise error(self._exchange, f"not asked for {left:.1f} s more: {self._reason}", left)
        if failures is not None and failures.until > now:
            left = (failures.until - now) / 1000
            reason = f"not asked about {subject} for {left:.1f} s more: {failures.reason}"
            raise SourceUnavailable(self._exchange, reason, left)
        if self._is_trial_running and now - self._trial_at < TRIAL_MS:
            reason = f"one request goes first, to see whether it answers again: {self._reason}"
            raise error(self._exchange, reason, _TRIAL_RETRY_SECONDS)

    async def _on_answer(self, permit: _Permit) -> None:
        """Reset the breaker, and record the end of a hold."""
        failures = self._subjects.get(permit.subject)
        if failures is not None and permit.started_at >= failures.until:
            del self._subjects[permit.subject]
        if permit.generation != self._generation:
            return
        was_held = self._is_held
        if was_held:
            self._record(0, "answered again")
        self._until = min(self._until, _monotonic_ms())
        self._failures = self._pauses = self._refusals = 0
        self._is_tripped, self._is_trial_running, self._incident_at = False, False, None
        self._in_outage.clear()
        self._failing.clear()
        if was_held:
            await self._hold_log.flush()

    def _on_refusal(self, error: RateLimited | Banned, permit: _Permit) -> None:
        """Hold for as long as the exchange says, or twice as long as last time: once per incident."""
        now, named = _monotonic_ms(), _named_wait_ms(error)
        is_current = permit.generation == self._generation
        is_paused = self._is_tripped and self._incident_at is None and not self._is_held
        if is_current and self._is_held:
            self._on_probe_refusal(error, named)
        elif is_current or is_paused:
            wait = _default_wait_ms(error, self._refusals) if named is None else named
            self._refusals += 1
            self._incident_at = now
            self._start_hold(max(self._until, now + wait), _hold_kind(error), error)
        elif named is not None:
            self._extend(now + named, error)
        elif self._incident_at is not None:
            self._extend(self._incident_at + _default_wait_ms(error, self._refusals - 1), error)

    def _on_probe_refusal(self, error: RateLimited | Banned, named: int | None) -> None:
        """Replace the hold by what the exchange says now; where it names no time, keep the hold."""
        self._is_trial_running = False
        if named is not None:
            self._incident_at = _monotonic_ms()
            self._start_hold(self._incident_at + named, _hold_kind(error), error)
        else:
            self._extend(_monotonic_ms() + _default_wait_ms(error, max(0, self._refusals - 1)), error)

    def _on_failure(self, error: SourceError, permit: _Permit) -> None:
        """Count a failure for its subject, and for the exchange where other subjects fail too."""
        now, named = _monotonic_ms(), _named_wait_ms(error)
        self._count_failure(error, named, permit)
        is_current, is_probe = permit.generation == self._generation, self._is_held
        if is_current:
            self._is_trial_running = False
        if named is not None and self._is_exchange_outage(permit.subject):
            self._hold_for_outage(now + named, error, is_probe=is_current and is_probe)
        if permit.generation == self._generation and not is_probe:
            self._failures += 1
            self._failing.add(permit.subject)
            # Failing subjects are requested again and again while others need nothing: a few do not speak for all.
            needed = max(SUBJECTS_BEFORE_PAUSE, len(self._requested | self._failing) / 2)
            if self._failures >= FAILURES_BEFORE_PAUSE and len(self._failing) >= needed:
                self._pause(error)

    def _count_failure(self, error: SourceError, named: int | None, permit: _Permit) -> None:
        """Pause a subject after some failures in a row, and after each further one; at once where a time was named."""
        now, failures = _monotonic_ms(), self._subjects.setdefault(permit.subject, _SubjectFailures())
        if permit.started_at < failures.until:
            return  # it was in flight when the pause began
        failures.count += 1
        failures.reason = error.reason
        wait = min(named or 0, MAX_SUBJECT_PAUSE_MS)
        if failures.count >= FAILURES_BEFORE_PAUSE:
            wait = max(wait, _pause_ms(failures.pauses))
            failures.pauses += 1
        failures.until = now + wait

    def _is_exchange_outage(self, subject: str) -> bool:
        """Whether an outage that names its end is the exchange's: two subjects have it, or only one is requested."""
        self._in_outage.add(subject)
        return len(self._in_outage) >= SUBJECTS_BEFORE_HOLD or self._requested <= {subject}

    def _hold_for_outage(self, until: int, error: SourceError, *, is_probe: bool) -> None:
        """Hold until the named end. A hold of another kind, or by an older request, can only be extended."""
        self._in_outage.clear()  # a further hold needs two subjects again: one of them may be out for long
        self._subjects.clear()
        if is_probe and self._kind is OUTAGE:
            self._start_hold(until, OUTAGE, error)
        else:
            self._extend(until, error)

    def _pause(self, error: SourceError) -> None:
        """Pause briefly: the exchange answers no request."""
        now = _monotonic_ms()
        self._others_until = now + FIRST_PAUSE_MS
        self._trip(max(self._until, now + _pause_ms(self._pauses)), None, error.reason)
        self._pauses += 1

    def _extend(self, until: int, error: SourceError) -> None:
        """Move the end of the wait if it is clearly later; the most severe kind stays."""
        if until >= max(self._until, _monotonic_ms()) + MIN_EXTENSION_MS:
            kind = _hold_kind(error)
            self._start_hold(until, max(kind, self._kind or kind) if self._is_held else kind, error)

    def _start_hold(self, until: int, kind: HoldKind, error: SourceError) -> None:
        self._trip(until, kind, error.reason)
        self._record(until - _monotonic_ms(), f"{kind.name}: {error.reason}")

    def _trip(self, until: int, kind: HoldKind | None, reason: str) -> None:
        """Stop requests until a time, and begin a new generation."""
        self._generation += 1
        self._is_tripped, self._is_trial_running = True, False
        self._reason, self._kind, self._until = reason, kind, until

    def _adopt(self, hold: Hold) -> None:
        """Apply a hold of the store: of an earlier run, or of a command."""
        now = now_ms()
        left = min(max(0, hold.until - now), hold.kind.longest_ms)
        self._hold = hold
        self._trip(_monotonic_ms() + _with_margin(left), hold.kind, hold.reason)
        self._schedule_probe(hold, now)

    def _schedule_probe(self, hold: Hold, now: int) -> None:
        """Set when a probe may go out; a wall clock that was set back delays it once."""
        wait = min(max(0, hold.probe_at - now), hold.probe_at - hold.seen_at)
        self._probe_at = _monotonic_ms() + wait

    def _record(self, wait: int, reason: str) -> None:
        """Record a hold that ends in `wait` ms."""
        now = now_ms()
        self._append(Hold(self._exchange, now + wait, reason, now))

    def _append(self, hold: Hold) -> None:
        self._hold = hold
        self._schedule_probe(hold, hold.seen_at)
        self._hold_log.append(hold)

    async def _read_newer_hold(self) -> None:
        """During a hold, apply a newer one of the store; concurrent requests wait for that."""
        if not self._is_held:
            return
        async with self._reading:
            if not self._is_held or _monotonic_ms() < self._read_at:
                return
            self._read_at = _monotonic_ms() + READ_INTERVAL_MS
            generation = self._generation
            newer = await self._hold_log.read_newer()
            if newer is not None and generation == self._generation:  # else the exchange has answered since
                self._adopt(newer)


def _hold_kind(error: SourceError) -> HoldKind:
    """Return the kind of hold that an error means for the exchange."""
    return BAN if isinstance(error, Banned) else LIMIT if isinstance(error, RateLimited) else OUTAGE


def _named_wait_ms(error: SourceError) -> int | None:
    """Return how long the exchange says to wait, within the bounds of the kind; None where it does not say."""
    seconds = error.retry_after if isinstance(error, SourceUnavailable) else None
    if seconds is None or isnan(seconds):
        return None
    return round(min(max(0.0, seconds * 1000), _hold_kind(error).longest_ms))


def _default_wait_ms(error: RateLimited | Banned, refusals: int) -> int:
    """Return how long to wait after a number of earlier refusals, where the exchange does not say."""
    is_ban = isinstance(error, Banned)
    first, longest = (FIRST_BAN_MS, BAN.longest_ms) if is_ban else (FIRST_LIMIT_MS, MAX_LIMIT_MS)
    return min(first << min(refusals, 20), longest)


def _pause_ms(pauses: int) -> int:
    """Return how long to pause after a number of earlier pauses."""
    return min(FIRST_PAUSE_MS << min(pauses, 20), MAX_PAUSE_MS)


def _with_margin(wait_ms: int) -> int:
    """Lengthen a wait by the wall clock a little: NTP may stretch that clock by half a thousandth meanwhile."""
    return wait_ms + wait_ms // 1000 + _ROUNDING_MS if wait_ms else 0


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
