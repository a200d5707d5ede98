"""When an exchange may be asked: not while it has told us to wait, and one question at a time after that.

Knows answers by their errors, and times; nothing of HTTP or of bars. A request is about a subject, such as a symbol.

- A fault (a timeout, a 5xx, an answer that is not bars) belongs to its subject. Five in a row pause that subject and no
  other one. The exchange pauses when five requests in a row have failed, of three subjects or more.
- A limit or a ban belongs to the exchange: nobody asks until it is over. So does an outage that names its end, once two
  subjects have been told so. Such a hold is written to `Holds` before the next request goes out: a process that dies
  waits after its restart as well. What others write there counts too: `forecaster holds lift` ends a hold.
- While a hold lasts, one request goes out now and then, a probe: `Hold.probe_at` says when. It is written down before
  that, so restarts make no further probes. Its answer ends the hold.

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
from dataclasses import dataclass, replace
from math import isnan
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from forecaster.clock import now_ms
from forecaster.errors import Banned, RateLimited, SourceError, SourceUnavailable, UnknownSymbol
from forecaster.ledger import BAN, LIMIT, OUTAGE, Hold, HoldKind
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIRST_LIMIT_MS: Final = 10_000
FIRST_BAN_MS: Final = 120_000
FIRST_PAUSE_MS: Final = 1_000
LONGEST_LIMIT_MS: Final = 600_000
LONGEST_PAUSE_MS: Final = 10_000
LONGEST_TOLD_MS: Final = 60_000
"""Of one subject that names an end by itself."""

TRIAL_MS: Final = 2_000
"""How long one request goes alone, to see whether the exchange answers again; it may be about what hangs."""

FAULTS_BEFORE_PAUSE: Final = 5
SUBJECTS_BEFORE_PAUSE: Final = 3
SUBJECTS_BEFORE_HOLD: Final = 2
LENGTHENED_FROM_MS: Final = 1_000
"""By how much a time must be later than the one that is known, to lengthen the wait: `Retry-After` is in seconds."""
READ_AGAIN_AFTER_MS: Final = 1_000
"""How often the store is read for what others have written, while a hold lasts and somebody wants to ask."""

_NO_SERIES: Final = frozenset({"its clock", "markets"})
"""Subjects that say nothing of bars: an exchange whose bars are out may well tell the time."""

_ONE_AT_A_TIME_SECONDS: Final = 0.25
_ROUNDING_MS: Final = 2
_log = get_logger(__name__)


class Holds(Protocol):
    """Remembers until when an exchange may not be asked; what it was told is durable when the call returns."""

    def holds(self) -> list[Hold]:
        """Give the newest hold of each exchange, also where it has ended or was lifted."""

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Keep that this exchange is not to be asked before `until` (UTC ms), as known at `seen_at`."""


class _Turn(NamedTuple):
    """A request that may go out: what it is about, the state under which it began, and when."""

    subject: str
    state: int
    began: int


@dataclass
class _Faults:
    """Faults in a row of one subject, and the pauses that followed."""

    count: int = 0
    pauses: int = 0
    until: int = 0
    reason: str = ""


class Breaker:
    """Stands before every request to one exchange; used on one event loop.

    A limit or a ban (429, 418, 403, 451) closes the way for as long as the exchange says, within the bounds of
    `HoldKind`; where it does not say, for twice as long each time. After such a time a single request goes first, and
    the others follow once it has been answered.

    Args:
        exchange: its name in the configuration.
        holds: where waits are kept across restarts; used on a thread of its own, one call after the other.
    """

    def __init__(self, exchange: str, holds: Holds) -> None:
        self._exchange = exchange
        self._holds = holds
        self._state = 0
        self._subjects: dict[str, _Faults] = {}
        self._asked: set[str] = set()
        self._told: set[str] = set()
        self._failing: set[str] = set()
        self._faults = self._pauses = self._refusals = 0
        self._incident_at: int | None = None
        self._reason = ""
        self._kind: HoldKind | None = None
        self._trying = False
        self._tried_at = 0
        self._is_open = True
        self._until = self._others_until = self._probe_at = self._read_at = _monotonic_ms()
        self._writer = ThreadPoolExecutor(1, f"holds of {exchange}")
        self._writing: asyncio.Future[None] | None = None
        self._reading = asyncio.Lock()
        self._row: Hold | None = None
        self._known = self._newest()
        if self._known is not None:
            self._adopt(self._known)

    @property
    def seconds_left(self) -> float:
        """How long the exchange may not be asked, 0 when it may; a probe may go out before."""
        return max(0, self._until - _monotonic_ms()) / 1000

    @asynccontextmanager
    async def asking(self, subject: str) -> AsyncIterator[None]:
        """Wrap one request about a subject: refuse it while the way is closed, and learn from how it ends.

        Raises:
            RateLimited: instead of asking, with the seconds to wait; SourceUnavailable, while it pauses after faults.
        """
        turn = await self._turn(subject)
        try:
            await self._written()  # a probe is durable before it goes out
            yield
        except (RateLimited, Banned) as error:
            self._refused(error, turn)
            await self._written()
            raise
        except UnknownSymbol:
            await self._answered(turn)
            raise
        except SourceError as error:
            self._failed(error, turn)
            await self._written()
            raise
        except BaseException:
            if turn.state == self._state:
                self._trying = False  # cut short by us: nothing was learned
            raise
        else:
            await self._answered(turn)

    async def close(self) -> None:
        """Wait until what is being written is durable."""
        await self._written()
        self._writer.shutdown(wait=False)

    async def _turn(self, subject: str) -> _Turn:
        """Let one request go, once the newest wait is durable."""
        await self._read()
        self._let_pass(subject)
        while self._writing is not None and not self._writing.done():
            await self._written()
            self._let_pass(subject)
        self._asked |= {subject} - _NO_SERIES
        self._trying, self._tried_at = not self._is_open, _monotonic_ms()
        if self._is_held:
            self._note_probe()
        return _Turn(subject, self._state, _monotonic_ms())

    @property
    def _is_held(self) -> bool:
        """Whether the exchange has said not to ask now; a pause after faults is no hold."""
        return self._kind is not None and self._until > _monotonic_ms()

    def _let_pass(self, subject: str) -> None:
        now, faults = _monotonic_ms(), self._subjects.get(subject)
        is_pause = self._kind in (None, OUTAGE)
        error = SourceUnavailable if is_pause else RateLimited
        # A pause is about the subjects that failed: another one may show soon that the exchange answers.
        until = self._until if self._kind is not None or subject in self._failing else self._others_until
        if until > now and not (self._is_held and now >= self._probe_at):
            left = (until - now) / 1000
            raise error(self._exchange, f"not asked for {left:.1f} s more: {self._reason}", left)
        if faults is not None and faults.until > now:
            left = (faults.until - now) / 1000
            reason = f"not asked about {subject} for {left:.1f} s more: {faults.reason}"
            raise SourceUnavailable(self._exchange, reason, left)
        if self._trying and now - self._tried_at < TRIAL_MS:
            reason = f"one request goes first, to see whether it answers again: {self._reason}"
            raise error(self._exchange, reason, _ONE_AT_A_TIME_SECONDS)

    async def _answered(self, turn: _Turn) -> None:
        """Open the way; the end of a hold is written down."""
        faults = self._subjects.get(turn.subject)
        if faults is not None and turn.began >= faults.until:
            del self._subjects[turn.subject]
        if turn.state != self._state:
            return
        was_held = self._is_held
        if was_held:
            self._write_down(0, "answered again")
        self._until = min(self._until, _monotonic_ms())
        self._faults = self._pauses = self._refusals = 0
        self._is_open, self._trying, self._incident_at = True, False, None
        self._told.clear()
        self._failing.clear()
        if was_held:
            await self._written()

    def _refused(self, error: RateLimited | Banned, turn: _Turn) -> None:
        """Close for as long as told, or for twice as long as the last time: once for an incident."""
        now, told = _monotonic_ms(), _told_ms(error)
        is_paused = not self._is_open and self._incident_at is None and not self._is_held
        is_probe = turn.state == self._state and self._is_held
        if is_probe:
            self._refused_probe(error, told)
        elif turn.state == self._state or is_paused:
            wait = _untold_ms(error, self._refusals) if told is None else told
            self._refusals += 1
            self._incident_at = now
            self._hold(max(self._until, now + wait), _kind_of(error), error)
        elif told is not None:
            self._lengthen(now + told, error)
        elif self._incident_at is not None:
            self._lengthen(self._incident_at + _untold_ms(error, self._refusals - 1), error)

    def _refused_probe(self, error: RateLimited | Banned, told: int | None) -> None:
        """Take what the exchange says now for what holds; where it names no time, the hold stays."""
        self._trying = False
        if told is not None:
            self._incident_at = _monotonic_ms()
            self._hold(self._incident_at + told, _kind_of(error), error)
        else:
            self._lengthen(_monotonic_ms() + _untold_ms(error, max(0, self._refusals - 1)), error)

    def _failed(self, error: SourceError, turn: _Turn) -> None:
        """Count a fault for its subject, and for the exchange where others fail as well."""
        now, told = _monotonic_ms(), _told_ms(error)
        self._count(error, told, turn)
        is_current, is_probe = turn.state == self._state, self._is_held
        if is_current:
            self._trying = False
        if told is not None and self._is_said_by_all(turn.subject):
            self._hold_outage(now + told, error, is_probe=is_current and is_probe)
        if turn.state == self._state and not is_probe:
            self._faults += 1
            self._failing.add(turn.subject)
            # Those that fail are asked again and again while the others have nothing to ask: a few say nothing of all.
            most = max(SUBJECTS_BEFORE_PAUSE, len(self._asked | self._failing) / 2)
            if self._faults >= FAULTS_BEFORE_PAUSE and len(self._failing) >= most:
                self._pause(error)

    def _count(self, error: SourceError, told: int | None, turn: _Turn) -> None:
        """Pause one subject: after some faults in a row, and at each fault from then on; at once where it was told."""
        now, faults = _monotonic_ms(), self._subjects.setdefault(turn.subject, _Faults())
        if turn.began < faults.until:
            return  # it was in flight when the pause began
        faults.count += 1
        faults.reason = error.reason
        wait = min(told or 0, LONGEST_TOLD_MS)
        if faults.count >= FAULTS_BEFORE_PAUSE:
            wait = max(wait, _pause_ms(faults.pauses))
            faults.pauses += 1
        faults.until = now + wait

    def _is_said_by_all(self, subject: str) -> bool:
        """Whether an outage that names its end is the exchange's: two subjects were told so, or only one is asked."""
        self._told.add(subject)
        return len(self._told) >= SUBJECTS_BEFORE_HOLD or self._asked <= {subject}

    def _hold_outage(self, until: int, error: SourceError, *, is_probe: bool) -> None:
        """Close for as long as told; a hold of another kind, and a request of before, can only be lengthened."""
        self._told.clear()  # a further hold needs two subjects again: one of them may be out for long
        self._subjects.clear()
        if is_probe and self._kind is OUTAGE:
            self._hold(until, OUTAGE, error)
        else:
            self._lengthen(until, error)

    def _pause(self, error: SourceError) -> None:
        """Close for a moment: the exchange does not answer, whatever it is asked about."""
        now = _monotonic_ms()
        self._others_until = now + FIRST_PAUSE_MS
        self._close(max(self._until, now + _pause_ms(self._pauses)), None, error.reason)
        self._pauses += 1

    def _lengthen(self, until: int, error: SourceError) -> None:
        """Move the end of the wait, where this is clearly later than what is known; the worst kind stays."""
        if until >= max(self._until, _monotonic_ms()) + LENGTHENED_FROM_MS:
            kind = _kind_of(error)
            self._hold(until, max(kind, self._kind or kind) if self._is_held else kind, error)

    def _hold(self, until: int, kind: HoldKind, error: SourceError) -> None:
        """Close, and have it written down for whoever runs after this process."""
        self._close(until, kind, error.reason)
        self._write_down(until - _monotonic_ms(), f"{kind.name}: {error.reason}")

    def _close(self, until: int, kind: HoldKind | None, reason: str) -> None:
        self._state += 1
        self._is_open, self._trying = False, False
        self._reason, self._kind, self._until = reason, kind, until

    def _adopt(self, hold: Hold) -> None:
        """Let a row of the store hold from now on: of a run before this one, or of a command."""
        now = now_ms()
        left = min(max(0, hold.until - now), hold.kind.longest_ms)
        self._row = hold
        self._close(_monotonic_ms() + _safely(left), hold.kind, hold.reason)
        self._set_probe(hold, now)

    def _set_probe(self, hold: Hold, now: int) -> None:
        """Set when one request may go out though the hold lasts; a wall clock that was set back delays it once."""
        wait = min(max(0, hold.probe_at - now), hold.probe_at - hold.seen_at)
        self._probe_at = _monotonic_ms() + wait

    def _note_probe(self) -> None:
        """Have it written down that a probe goes out, as a further row of the same hold."""
        if self._row is not None:
            self._append(replace(self._row, seen_at=now_ms(), since=None))

    def _write_down(self, wait: int, reason: str) -> None:
        now = now_ms()
        self._append(Hold(self._exchange, now + wait, reason, now))

    def _append(self, hold: Hold) -> None:
        self._row = hold
        self._set_probe(hold, hold.seen_at)
        self._writing = asyncio.get_running_loop().run_in_executor(self._writer, self._write, hold)

    def _write(self, hold: Hold) -> None:
        """Keep a wait; one that cannot be kept stands in this process, and fails nobody."""
        try:
            self._holds.hold(hold.exchange, hold.until, hold.reason, hold.seen_at)
        except Exception:  # noqa: BLE001 - whatever the store trips over, the exchange is not asked meanwhile
            _log.exception("hold.not_written", exchange=hold.exchange, until=hold.until)
        else:
            self._known = hold

    async def _written(self) -> None:
        """Wait until the newest wait is durable; the waits before it are then durable too."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])

    async def _read(self) -> None:
        """While a hold lasts, see whether somebody else has written a newer row; who asks meanwhile waits for that."""
        if not self._is_held:
            return
        async with self._reading:
            if not self._is_held or _monotonic_ms() < self._read_at:
                return
            self._read_at = _monotonic_ms() + READ_AGAIN_AFTER_MS
            state = self._state
            news = await asyncio.get_running_loop().run_in_executor(self._writer, self._read_news)
            if news is not None and state == self._state:  # else the exchange has said something newer
                self._adopt(news)

    def _read_news(self) -> Hold | None:
        """The newest row, where it is none that is known here."""
        try:
            newest = self._newest()
        except Exception:  # noqa: BLE001 - what is known here holds
            _log.exception("hold.not_read", exchange=self._exchange)
            return None
        if newest == self._known:
            return None
        self._known = newest
        return newest

    def _newest(self) -> Hold | None:
        return next((one for one in self._holds.holds() if one.exchange == self._exchange), None)


def _kind_of(error: SourceError) -> HoldKind:
    """What an error means for the exchange as a whole."""
    return BAN if isinstance(error, Banned) else LIMIT if isinstance(error, RateLimited) else OUTAGE


def _told_ms(error: SourceError) -> int | None:
    """How long an exchange says to wait, within the bounds of its kind; None where it does not say."""
    told = error.retry_after if isinstance(error, SourceUnavailable) else None
    return None if told is None or isnan(told) else round(min(max(0.0, told * 1000), _kind_of(error).longest_ms))


def _untold_ms(error: RateLimited | Banned, refusals: int) -> int:
    """How long to wait after so many refusals before this one, where the exchange does not say."""
    is_ban = isinstance(error, Banned)
    first, longest = (FIRST_BAN_MS, BAN.longest_ms) if is_ban else (FIRST_LIMIT_MS, LONGEST_LIMIT_MS)
    return min(first << min(refusals, 20), longest)


def _pause_ms(pauses: int) -> int:
    """How long to pause after faults, after so many pauses before this one."""
    return min(FIRST_PAUSE_MS << min(pauses, 20), LONGEST_PAUSE_MS)


def _safely(wait_ms: int) -> int:
    """A little longer than a wait by the wall clock: NTP may stretch that clock by half a thousandth while it lasts."""
    return wait_ms + wait_ms // 1000 + _ROUNDING_MS if wait_ms else 0


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000
