"""The breaker: when requests go out; a burst of refusals is one incident; a failure affects its own subject."""

import asyncio
import threading
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster import ledger
from forecaster.errors import (
    BadPayload,
    Banned,
    RateLimited,
    SourceUnavailable,
    StoreUnavailable,
    UnknownSymbol,
)
from forecaster.sources.exchange import breaker as module
from forecaster.sources.exchange.breaker import Breaker
from forecaster.store.memory import MemoryStore
from forecaster.timeframe import DAY_MS
from tests.builders import held_until

LIMIT = RateLimited("kraken", "too many")
BAN = Banned("kraken", "a teapot")
OUTAGE = SourceUnavailable("kraken", "down")
SUBJECTS = ("BTC/USD", "ETH/USD", "XRP/USD")
MINUTE_MS, HOUR_MS = 60_000, 3_600_000


class Clock:
    """Both clocks of a machine, moved by hand."""

    def __init__(self):
        self.monotonic = 1_000_000
        self.wall = 1_700_000_000_000

    def pass_(self, ms):
        self.monotonic += ms
        self.wall += ms


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "_monotonic_ms", lambda: clock.monotonic)
    monkeypatch.setattr(module, "now_ms", lambda: clock.wall)
    return clock


def ask(breaker, error=None, subject="BTC/USD"):
    """Send one request about a subject, with this outcome."""

    async def request():
        async with breaker.request(subject):
            if error is not None:
                raise error

    asyncio.run(request())


def fail(breaker, error, times=1, subject="BTC/USD"):
    for _ in range(times):
        with pytest.raises(type(error)):
            ask(breaker, error, subject)


def fail_in_turn(breaker, error, times):
    """Fail a number of requests, about three subjects in turn."""
    for number in range(times):
        fail(breaker, error, subject=SUBJECTS[number % 3])


def is_asked(breaker, subject="BTC/USD"):
    """Whether a request would go out now; it is not answered."""
    try:
        ask(breaker, KeyboardInterrupt(), subject)
    except KeyboardInterrupt:
        return True
    except SourceUnavailable:
        return False
    return True


@pytest.mark.parametrize("error", [LIMIT, BAN])
def test_no_request_before_retry_after(clock, error):
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, type(error)("kraken", "wait", 90.0))
    clock.pass_(89_999)
    early = is_asked(breaker)
    clock.pass_(1)

    assert not early
    assert is_asked(breaker)


def test_refusal_says_how_long_and_why(clock):
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, RateLimited("kraken", "too many", 90.0))
    clock.pass_(30_000)

    with pytest.raises(RateLimited, match=r"not asked for 60\.0 s more: too many") as refused:
        ask(breaker)
    assert refused.value.retry_after == 60.0


@pytest.mark.parametrize(
    ("error", "waits"), [(LIMIT, [10, 20, 40, 80]), (BAN, [120, 240, 480, 960])], ids=["limit", "ban"]
)
def test_without_seconds_the_wait_doubles(clock, error, waits):
    """It starts again after an answer."""
    breaker = Breaker("kraken", MemoryStore())
    found = []
    for _ in waits:
        fail(breaker, error)
        found.append(breaker.seconds_left)
        clock.pass_(round(1000 * found[-1]))
    ask(breaker)
    fail(breaker, error)

    assert found == waits
    assert breaker.seconds_left == waits[0]


def test_waits_are_limited(clock):
    breaker = Breaker("kraken", MemoryStore())
    for _ in range(40):
        fail(breaker, BAN)
        clock.pass_(round(1000 * breaker.seconds_left))
    fail(breaker, BAN)
    longest = breaker.seconds_left
    clock.pass_(round(1000 * longest))
    fail(breaker, RateLimited("kraken", "for ever", 1e12))

    assert longest == 3 * 86_400
    assert breaker.seconds_left == 86_400


def test_one_request_goes_first(clock):
    """After a wait the others follow once it is answered."""
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, LIMIT)
    clock.pass_(10_000)

    async def scene():
        async with in_flight(breaker, None):
            with pytest.raises(RateLimited, match="one request goes first") as refused:
                await Request.begin(breaker)
        return refused.value.retry_after

    wait = asyncio.run(scene())

    assert 0 < wait < 1
    assert is_asked(breaker)


def test_cancelled_trial_lets_the_next_request_go(clock):
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, LIMIT)
    clock.pass_(10_000)
    cut = is_asked(breaker)

    assert cut
    assert is_asked(breaker)


def test_consecutive_failures_pause_the_exchange(clock):
    """Longer each time, ten seconds at most; an answer ends it."""
    breaker = Breaker("kraken", MemoryStore())
    fail_in_turn(breaker, OUTAGE, 4)
    before = breaker.seconds_left
    waits = []
    for number in range(9):
        fail(breaker, BadPayload("kraken", "bars", "a maintenance page"), subject=SUBJECTS[number % 3])
        waits.append(breaker.seconds_left)
        clock.pass_(round(1000 * waits[-1]))
    for subject in SUBJECTS:
        ask(breaker, subject=subject)
    fail_in_turn(breaker, OUTAGE, 4)

    assert before == 0
    assert waits == [1, 2, 4, 8, 10, 10, 10, 10, 10]
    assert is_asked(breaker)


def test_pause_is_not_a_rate_limit(clock):
    """The exchange is down; it has not asked for fewer requests."""
    breaker = Breaker("kraken", MemoryStore())
    fail_in_turn(breaker, OUTAGE, 5)
    with pytest.raises(SourceUnavailable, match=f"not asked for .*{OUTAGE.reason}") as refused:
        ask(breaker)

    assert type(refused.value) is SourceUnavailable


def test_outage_with_retry_after_is_a_hold(clock):
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, SourceUnavailable("kraken", "maintenance", 600.0))

    assert breaker.seconds_left == 600


def test_unknown_symbol_is_an_answer(clock):
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, OUTAGE, 4)
    fail(breaker, UnknownSymbol("kraken", "NO/SUCH", []))
    fail(breaker, OUTAGE, 4)

    assert breaker.seconds_left == 0


@pytest.mark.parametrize("error", [LIMIT, BAN, SourceUnavailable("kraken", "maintenance", 50.0)])
def test_hold_survives_a_restart(clock, error):
    """Another breaker on the same ledger waits for what is left, and then lets one request go first.

    A thousandth longer: the wall clock, by which it must wait, may run slow by half of that while NTP mends it.
    """
    holds = MemoryStore()
    first = Breaker("kraken", holds)
    fail(first, error)
    clock.pass_(3_000)
    left = first.seconds_left
    second, other = Breaker("kraken", holds), Breaker("binance", holds)

    assert left * 1.001 <= second.seconds_left <= left * 1.001 + 0.003
    assert not is_asked(second)
    assert is_asked(other)


def test_pause_does_not_survive_a_restart(clock):
    holds = MemoryStore()
    fail(Breaker("kraken", holds), OUTAGE, 4)

    assert held_until(holds, "kraken") is None


@pytest.mark.parametrize(("set_by", "left"), [(-10 * 365 * DAY_MS, 86_486.402), (10 * 365 * DAY_MS, 0)])
def test_wall_clock_change(clock, set_by, left):
    """It is used only after a restart, within limits."""
    holds = MemoryStore()
    breaker = Breaker("kraken", holds)
    fail(breaker, RateLimited("kraken", "too many", 90.0))
    clock.wall += set_by

    assert breaker.seconds_left == 90
    assert Breaker("kraken", holds).seconds_left == left


class Rows(MemoryStore):
    """A store that counts its rows."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def hold(self, exchange, until, reason, seen_at):
        self.rows.append((until, reason.partition(": ")[2]))
        super().hold(exchange, until, reason, seen_at)


class Request:
    """A request in flight, which ends on demand."""

    def __init__(self, asking):
        self._asking = asking

    @classmethod
    async def begin(cls, breaker, subject="BTC/USD"):
        asking = breaker.request(subject)
        await asking.__aenter__()
        return cls(asking)

    async def end(self, error=None):
        """End it with an answer, or with an error that the caller sees."""
        if error is None:
            await self._asking.__aexit__(None, None, None)
            return
        swallowed = await self._asking.__aexit__(type(error), error, None)

        assert not swallowed


@asynccontextmanager
async def in_flight(breaker, error):
    """A request in flight during a block, with this outcome after it."""
    request = await Request.begin(breaker)
    yield
    await request.end(error)


def burst(breaker, *errors):
    """Requests about three subjects, all in flight at once."""

    async def scene():
        requests = [await Request.begin(breaker, SUBJECTS[number % 3]) for number in range(len(errors))]
        for request, error in zip(requests, errors, strict=True):
            await request.end(error)

    asyncio.run(scene())


@pytest.mark.parametrize("count", [8, 64])
@pytest.mark.parametrize(("error", "wait"), [(LIMIT, 10), (BAN, 120)], ids=["limit", "ban"])
def test_burst_of_refusals_is_one_penalty_and_one_row(clock, error, wait, count):
    """Requests in flight are refused together: one incident; the next one waits twice as long."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    burst(breaker, *[error] * count)
    first = breaker.seconds_left
    clock.pass_(1000 * wait)
    fail(breaker, error)

    assert first == wait
    assert breaker.seconds_left == 2 * wait
    assert len(holds.rows) == 2


def test_refusals_that_name_the_same_time_are_one_row(clock):
    """Answers of a burst arrive some milliseconds apart."""
    holds = Rows()
    breaker = Breaker("kraken", holds)

    async def scene():
        requests = [await Request.begin(breaker) for _ in range(64)]
        for request in requests:
            await request.end(RateLimited("kraken", "wait", 30.0))
            clock.pass_(10)

    asyncio.run(scene())

    assert len(holds.rows) == 1
    assert breaker.seconds_left == 30 - 64 * 0.01


def test_burst_of_failures_is_one_pause(clock):
    breaker = Breaker("kraken", MemoryStore())
    burst(breaker, *[OUTAGE] * 64)

    assert breaker.seconds_left == 1


def test_later_retry_after_in_a_burst_extends_the_hold(clock):
    """It is not counted as a further refusal."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    burst(breaker, LIMIT, RateLimited("kraken", "wait", 90.0), RateLimited("kraken", "wait", 60.0), OUTAGE)
    longer = breaker.seconds_left
    kept = held_until(holds, "kraken") - clock.wall
    clock.pass_(90_000)
    fail(breaker, LIMIT)

    assert (longer, kept) == (90, 90_000)
    assert breaker.seconds_left == 20
    assert len(holds.rows) == 3


def test_ban_in_a_burst_of_limits_is_a_ban(clock):
    """An exchange bans clients that ignore a limit; the wait of the limit is too short then."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    burst(breaker, LIMIT, LIMIT, BAN, BAN, LIMIT)

    assert breaker.seconds_left == 120
    assert len(holds.rows) == 2


@pytest.mark.parametrize("error", [RateLimited, SourceUnavailable], ids=["limit", "outage"])
def test_ban_extended_by_a_milder_refusal_stays_a_ban(clock, error):
    """Otherwise it would be probed too often, and some exchanges extend a ban for every probe."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    longer = error("kraken", "wait", 400.0)
    burst(breaker, BAN, longer, longer)
    (hold,) = holds.holds()

    assert (breaker.seconds_left, len(holds.rows)) == (400, 2)
    assert hold.kind is ledger.BAN


def test_answer_to_an_old_request_does_not_end_a_hold(clock):
    """It was in flight when the exchange refused another request."""
    breaker = Breaker("kraken", MemoryStore())

    async def scene():
        old = [await Request.begin(breaker) for _ in range(2)]
        await old[0].end(LIMIT)
        clock.pass_(10_000)
        first = await Request.begin(breaker)
        await old[1].end()
        with pytest.raises(RateLimited, match="one request goes first"):
            await Request.begin(breaker)
        await first.end(LIMIT)

    asyncio.run(scene())

    assert breaker.seconds_left == 20


@pytest.mark.parametrize("error", [LIMIT, BAN, OUTAGE, KeyboardInterrupt()], ids=lambda error: type(error).__name__)
def test_end_of_an_old_request_does_not_affect_the_trial(clock, error):
    """No second request goes out, and the answer of the trial still counts."""
    holds = Rows()
    breaker = Breaker("kraken", holds)

    async def scene():
        old = [await Request.begin(breaker) for _ in range(2)]
        await old[0].end(LIMIT)
        clock.pass_(200_000)
        first = await Request.begin(breaker)
        await old[1].end(error)
        with pytest.raises(RateLimited, match="one request goes first"):
            await Request.begin(breaker)
        await first.end()

    asyncio.run(scene())

    assert is_asked(breaker)
    assert len(holds.rows) == 1


def test_old_refusal_after_recovery_starts_no_hold(clock):
    breaker = Breaker("kraken", MemoryStore())

    async def scene():
        old = [await Request.begin(breaker) for _ in range(2)]
        await old[0].end(LIMIT)
        clock.pass_(10_000)
        await (await Request.begin(breaker)).end()
        await old[1].end(BAN)

    asyncio.run(scene())

    assert is_asked(breaker)


def test_refusal_during_a_pause_starts_a_hold(clock):
    """After failures, a limit is the first statement of the exchange, and is durable."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    burst(breaker, *[OUTAGE] * 5, LIMIT, LIMIT)

    assert breaker.seconds_left == 10
    assert len(holds.rows) == 1


WAITS = {"limit": (10, 600), "ban": (120, 3 * 86_400)}
OUTCOMES = {"answer": None, "unknown": UnknownSymbol("kraken", "NO/SUCH", []), "limit": LIMIT, "ban": BAN, "cut": None}
STEPS = st.lists(
    st.one_of(
        st.just(("begin",)),
        st.tuples(st.just("end"), st.integers(0, 63), st.sampled_from(sorted(OUTCOMES))),
        st.tuples(st.just("pass"), st.sampled_from([1, 5_000, 60_000, 10_000_000])),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_one_incident_has_one_penalty_in_any_order(steps):
    """One row per incident, then one request at a time; an old answer changes nothing.

    A ban among limits may lengthen the wait of its incident once.
    """
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(module, "_monotonic_ms", lambda: clock.monotonic)
        patch.setattr(module, "now_ms", lambda: clock.wall)
        asyncio.run(Play(clock).play(steps))


class Play:
    """Requests that start and end in any order, compared with a model."""

    def __init__(self, clock):
        self.clock = clock
        self.holds = Rows()
        self.breaker = Breaker("kraken", self.holds)
        self.flying = []
        self.state = self.incidents = 0
        self.closed_by = None
        self.probe_at = 0
        self.trial_at = None

    async def play(self, steps):
        for name, *values in steps:
            if name == "pass":
                self.clock.pass_(*values)
            elif name == "begin":
                await self.begin()
            elif self.flying:
                await self.end(*values)
        await self.breaker.close()

    async def begin(self):
        is_ahead = self.trial_at is not None and self.clock.monotonic - self.trial_at < module.TRIAL_MS
        is_probe = bool(self.breaker.seconds_left) and self.clock.wall >= self.probe_at
        may_go = is_probe or (not self.breaker.seconds_left and not is_ahead)
        try:
            self.flying.append((await Request.begin(self.breaker), self.state))
        except RateLimited:
            went = False
        else:
            went = True
            self.trial_at = None if self.closed_by is None else self.clock.monotonic
        if is_probe:
            self.probe_at = self.probe_after()

        assert went == may_go

    def probe_after(self):
        """When the next probe may go out, if a hold of this length begins now."""
        left = round(1000 * self.breaker.seconds_left)
        return self.clock.wall + (max(6 * HOUR_MS, left // 2) if self.closed_by == "ban" else HOUR_MS)

    async def end(self, which, outcome):
        request, state = self.flying.pop(which % len(self.flying))
        rows, left = len(self.holds.rows), self.breaker.seconds_left
        await request.end(KeyboardInterrupt() if outcome == "cut" else OUTCOMES[outcome])
        new, now_left = len(self.holds.rows) - rows, self.breaker.seconds_left
        is_current = state == self.state
        self.trial_at = None if is_current else self.trial_at
        if outcome in WAITS and is_current and not left:
            first, longest = WAITS[outcome]
            self.closed_by, self.incidents = outcome, self.incidents + 1

            assert (new, now_left) == (1, min(first * 2 ** (self.incidents - 1), longest))
        elif outcome in WAITS and is_current and new:
            first, longest = WAITS[outcome]

            assert (new, now_left) == (1, min(first * 2 ** (self.incidents - 1), longest))
        elif outcome == "ban" and self.closed_by == "limit" and new:
            self.closed_by = "ban"

            assert (new, left < now_left <= 120 * 2 ** (self.incidents - 1)) == (1, True)
        elif outcome in ("answer", "unknown") and is_current:
            self.closed_by, self.incidents = None, 0
            await self.breaker._hold_log.flush()

            assert now_left == 0
            assert len(self.holds.rows) - rows == bool(left)
            new = 0
        else:
            assert (new, now_left) == (0, left)
        if new:
            self.state, self.probe_at, self.trial_at = self.state + 1, self.probe_after(), None


def test_hold_is_durable_before_the_request_ends(clock):
    """A caller that sees the refusal finds it in the store."""
    holds = Rows()
    fail(Breaker("kraken", holds), LIMIT)

    assert held_until(holds, "kraken") == clock.wall + 10_000


@pytest.mark.parametrize("fault", [StoreUnavailable("sqlite:///l.db", "disk is full"), OSError("nobody knows")])
def test_hold_that_cannot_be_written_still_counts(clock, fault):
    """The caller sees the refusal, and the log the failed write."""

    class Broken(MemoryStore):
        def hold(self, *_):
            raise fault

    breaker = Breaker("kraken", Broken())
    with structlog.testing.capture_logs() as logs:
        fail(breaker, LIMIT)

    assert breaker.seconds_left == 10
    assert [(one["event"], one["exchange"]) for one in logs] == [("hold.write_failed", "kraken")]


class Slow(Rows):
    """A store whose writes end on demand."""

    def __init__(self):
        super().__init__()
        self.entered, self.leave = threading.Event(), threading.Event()

    def hold(self, *row):
        self.entered.set()
        assert self.leave.wait(60)
        super().hold(*row)


def test_slow_store_delays_no_other_request(clock):
    """While a hold is written, other requests and exchanges go on."""
    holds = Slow()
    breaker, other = Breaker("kraken", holds), Breaker("binance", holds)

    async def scene():
        requests = [await Request.begin(breaker) for _ in range(2)]
        refused = asyncio.create_task(requests[0].end(LIMIT))
        await asyncio.to_thread(holds.entered.wait, 60)
        await requests[1].end()
        await (await Request.begin(other)).end()
        went_on = not refused.done()
        holds.leave.set()
        await refused
        return went_on

    assert asyncio.run(asyncio.wait_for(scene(), 60))
    assert len(holds.rows) == 1


def test_next_request_waits_until_the_hold_is_durable(clock):
    """Also where the exchange names no time."""
    holds = Slow()
    breaker = Breaker("kraken", holds)

    async def scene():
        request = await Request.begin(breaker)
        refused = asyncio.create_task(request.end(RateLimited("kraken", "a moment", 0.0)))
        await asyncio.to_thread(holds.entered.wait, 60)
        following = asyncio.create_task(Request.begin(breaker))
        for _ in range(10):
            await asyncio.sleep(0)
        waited = not following.done()
        holds.leave.set()
        await refused
        await (await following).end()
        return waited

    assert asyncio.run(asyncio.wait_for(scene(), 60))
    assert len(holds.rows) == 1


def test_holds_are_written_in_order(clock):
    holds = Slow()
    breaker = Breaker("kraken", holds)

    async def scene():
        requests = [await Request.begin(breaker) for _ in range(3)]
        ends = [
            asyncio.create_task(one.end(RateLimited("kraken", str(n), n)))
            for one, n in zip(requests, (10.0, 30.0, 90.0), strict=True)
        ]
        await asyncio.sleep(0)
        holds.leave.set()
        await asyncio.gather(*ends)

    asyncio.run(asyncio.wait_for(scene(), 60))

    assert [reason for _, reason in holds.rows] == ["10.0", "30.0", "90.0"]


def test_request_cancelled_during_a_write_loses_no_hold(clock):
    """A deadline cancels the request; closing waits for the row."""
    holds = Slow()
    breaker = Breaker("kraken", holds)

    async def scene():
        request = await Request.begin(breaker)
        refused = asyncio.create_task(request.end(LIMIT))
        await asyncio.to_thread(holds.entered.wait, 60)
        refused.cancel()
        await asyncio.gather(refused, return_exceptions=True)
        asyncio.get_running_loop().call_later(0.01, holds.leave.set)
        await breaker.close()
        return len(holds.rows)

    assert asyncio.run(asyncio.wait_for(scene(), 60)) == 1
    assert breaker.seconds_left == 10


@pytest.mark.parametrize("told", [float("nan"), float("inf"), -5.0])
def test_invalid_retry_after(told):
    """NaN counts as no value, and other numbers are limited."""
    wait = module._named_wait_ms(RateLimited("x", "slow down", told))

    assert wait is None or 0 <= wait <= ledger.LIMIT.longest_ms


TWENTY = [f"C{number}/USD" for number in range(20)]
FAULT = st.sampled_from([OUTAGE, BadPayload("kraken", "bars", "a page"), SourceUnavailable("kraken", "503", 3600.0)])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 19]), FAULT, st.sampled_from([0, 70_000])), min_size=30))
def test_one_failing_subject_never_pauses_the_exchange(steps):
    """For any order of twenty symbols, and any failure of one of them."""

    async def scene():
        await (await Request.begin(breaker, TWENTY[1])).end()
        for which, error, pause in steps:
            try:
                request = await Request.begin(breaker, TWENTY[which])
            except SourceUnavailable:
                assert which == 0
            else:
                await request.end(None if which else error)
            clock.pass_(pause)

    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(module, "_monotonic_ms", lambda: clock.monotonic)
        patch.setattr(module, "now_ms", lambda: clock.wall)
        holds = Rows()
        breaker = Breaker("kraken", holds)
        asyncio.run(scene())

    assert breaker.seconds_left == 0
    assert holds.rows == []


def test_subject_that_fails_five_times_pauses_alone(clock):
    """Longer each time, ten seconds at most; only its own answer ends it."""
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, OUTAGE, 4)
    before = is_asked(breaker)
    waits = []
    for _ in range(8):
        fail(breaker, OUTAGE)
        ask(breaker, subject="ETH/USD")
        with pytest.raises(SourceUnavailable, match=r"not asked about BTC/USD for .* more: down") as refused:
            ask(breaker)
        waits.append(refused.value.retry_after)
        clock.pass_(round(1000 * waits[-1]))
    ask(breaker)
    fail(breaker, OUTAGE, 4)

    assert before
    assert waits == [1, 2, 4, 8, 10, 10, 10, 10]
    assert is_asked(breaker)


@pytest.mark.parametrize("subjects", [1, 2])
def test_burst_of_failures_of_one_subject_is_one_pause(clock, subjects):
    """Failures in flight when its pause began do not count; two subjects do not stop the others."""
    breaker = Breaker("kraken", MemoryStore())

    async def scene():
        requests = [await Request.begin(breaker, SUBJECTS[number % subjects]) for number in range(64)]
        for request in requests:
            await request.end(OUTAGE)

    asyncio.run(scene())
    with pytest.raises(SourceUnavailable, match=r"not asked about BTC/USD for 1\.0 s"):
        ask(breaker)

    assert breaker.seconds_left == 0
    assert is_asked(breaker, "XRP/USD")


def test_three_failing_subjects_delay_the_others_for_a_second(clock):
    """A pause applies to the failed subjects: another one goes first, and its answer ends the pause."""
    breaker = Breaker("kraken", MemoryStore())
    for _ in range(7):
        fail_in_turn(breaker, OUTAGE, 1)
        for subject in SUBJECTS:
            while is_asked(breaker, subject):
                fail(breaker, OUTAGE, subject=subject)
        clock.pass_(round(1000 * breaker.seconds_left))
    fail_in_turn(breaker, OUTAGE, 1)
    paused = breaker.seconds_left
    early = is_asked(breaker, "LTC/USD")
    clock.pass_(1_000)
    ask(breaker, subject="LTC/USD")

    assert paused == 10
    assert not early
    assert breaker.seconds_left == 0


def test_few_failing_subjects_of_many_do_not_pause_the_exchange(clock):
    """They are requested again and again while the others need nothing."""
    breaker = Breaker("kraken", MemoryStore())
    for number in range(20):
        ask(breaker, subject=f"S{number}/USD")
    for _ in range(10):
        for number in range(8):
            if is_asked(breaker, f"S{number}/USD"):
                fail(breaker, OUTAGE, subject=f"S{number}/USD")
        clock.pass_(500)

    assert breaker.seconds_left == 0
    assert all(is_asked(breaker, f"S{number}/USD") for number in range(8, 20))


def test_trial_that_hangs_is_not_waited_for(clock):
    """Another request goes two seconds later."""
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, LIMIT)
    clock.pass_(10_000)

    async def scene():
        await Request.begin(breaker, "BTC/USD")
        with pytest.raises(RateLimited, match="one request goes first"):
            await Request.begin(breaker, "ETH/USD")
        clock.pass_(module.TRIAL_MS)
        await Request.begin(breaker, "ETH/USD")

    asyncio.run(scene())


def test_outage_of_one_subject_is_its_own(clock):
    """One symbol may be out for hours: it is requested each minute, and the others as usual."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    ask(breaker, subject="ETH/USD")
    fail(breaker, SourceUnavailable("kraken", "503", 31_536_000.0))
    with pytest.raises(SourceUnavailable, match=r"not asked about BTC/USD for 60\.0 s more"):
        ask(breaker)

    assert is_asked(breaker, "ETH/USD")
    assert holds.rows == []


def test_outage_of_the_only_series_is_the_exchanges(clock):
    """Even though its clock answers; the hold is durable."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    ask(breaker, subject="its clock")
    fail(breaker, SourceUnavailable("kraken", "503", 300.0))

    assert (breaker.seconds_left, len(holds.rows)) == (300, 1)


def test_outage_of_two_subjects_is_the_exchanges(clock):
    holds = Rows()
    breaker = Breaker("kraken", holds)
    ask(breaker, subject="XRP/USD")
    for subject in SUBJECTS[:2]:
        fail(breaker, SourceUnavailable("kraken", "503", 300.0), subject=subject)

    assert not is_asked(breaker, "XRP/USD")
    assert (breaker.seconds_left, len(holds.rows)) == (300, 1)


@pytest.mark.parametrize(
    ("error", "longest", "probe"),
    [
        (SourceUnavailable("kraken", "503", 31_536_000.0), 600, 60),
        (RateLimited("kraken", "429", 31_536_000.0), 86_400, 3_600),
        (Banned("kraken", "418", 31_536_000.0), 3 * 86_400, 1.5 * 86_400),
        (Banned("kraken", "418", 30_000.0), 30_000, 21_600),
    ],
    ids=["outage", "limit", "ban", "short ban"],
)
@pytest.mark.parametrize("restart", [False, True])
def test_long_retry_after_is_limited_and_probed(clock, error, longest, probe, restart):
    """Also after a restart; a probe goes out, and its answer ends the hold in the store too."""
    holds = MemoryStore()
    breaker = Breaker("kraken", holds)
    fail(breaker, error)
    left = breaker.seconds_left
    if restart:
        breaker = Breaker("kraken", holds)
    clock.pass_(round(1000 * probe) - 1)
    early = is_asked(breaker)
    clock.pass_(1)
    ask(breaker)

    assert left == longest
    assert not early
    assert is_asked(breaker)
    assert breaker.seconds_left == 0
    assert held_until(holds, "kraken") == clock.wall


def test_no_request_beside_a_probe(clock):
    """They are refused with the time that is left."""
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, RateLimited("kraken", "wait", 7_200.0))
    clock.pass_(HOUR_MS)

    async def scene():
        async with in_flight(breaker, None):
            with pytest.raises(RateLimited, match="wait") as refused:
                await Request.begin(breaker, "ETH/USD")
        return refused.value.retry_after

    assert asyncio.run(scene()) == 3_600


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (RateLimited("kraken", "wait", None), 82_800),
        (OUTAGE, 82_800),
        (SourceUnavailable("kraken", "503", 90.0), 82_800),
        (RateLimited("kraken", "wait", 90.0), 90),
        (RateLimited("kraken", "wait", 86_400.0), 86_400),
        (Banned("kraken", "418", None), 82_800),
        (KeyboardInterrupt(), 82_800),
    ],
    ids=["untold", "fault", "told outage", "shorter", "longer", "ban", "cut short"],
)
def test_refused_probe_keeps_or_replaces_the_hold(clock, error, left):
    """It doubles nothing; the next probe is an hour away."""
    holds = MemoryStore()
    breaker = Breaker("kraken", holds)
    fail(breaker, RateLimited("kraken", "wait", 86_400.0))
    clock.pass_(HOUR_MS)
    fail(breaker, error)
    found, kept = breaker.seconds_left, held_until(holds, "kraken") - clock.wall
    again = is_asked(breaker)
    clock.pass_(round(1000 * found))
    fail(breaker, LIMIT)

    assert (found, kept) == (left, 1000 * left)
    assert not again
    assert breaker.seconds_left in (20, 40)  # as after one refusal before this one, or two that were told


def test_probe_is_recorded_before_it_goes_out(clock):
    """A process that restarts again and again sends no further probe."""
    holds = Rows()
    fail(Breaker("kraken", holds), RateLimited("kraken", "wait", 86_400.0))
    clock.pass_(HOUR_MS)
    asked = [is_asked(Breaker("kraken", holds)) for _ in range(5)]
    clock.pass_(HOUR_MS)
    (hold,) = holds.holds()

    assert asked == [True, False, False, False, False]
    assert is_asked(Breaker("kraken", holds))
    assert hold.since == clock.wall - 2 * HOUR_MS
    assert held_until(holds, "kraken") == clock.wall + 22 * HOUR_MS


@pytest.mark.parametrize("told", [[7_200.0], [3 * 86_400.0], [50_000.0, None]])
def test_ban_is_not_probed_before_half_of_it_has_passed(clock, told):
    """Nor within six hours: some exchanges extend a ban for every request."""
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, Banned("kraken", "418", told[0]))
    probes = []
    while breaker.seconds_left:
        left = breaker.seconds_left
        if is_asked(breaker):
            probes.append(left)
        clock.pass_(10 * MINUTE_MS)

    assert all(later <= max(earlier / 2, earlier - 21_600) for earlier, later in pairwise([told[0], *probes]))
    assert len(probes) <= 5


@pytest.mark.parametrize(
    ("reason", "left"),
    [
        ("BTC/USD: 503 Service Unavailable /0/public/OHLC", 600),
        ("BTC/USD: 429 Too Many Requests /0/public/OHLC", 86_400),
        ("BTC/USD: 418 I'm a teapot /api/v3/klines", 3 * 86_400),
        ("BTC/USD: DDoSProtection: kraken says so", 3 * 86_400),
    ],
)
def test_hold_of_an_older_version_is_limited_too(clock, reason, left):
    """It allowed 30 days, and rows cannot be deleted."""
    holds = MemoryStore()
    holds.hold("kraken", clock.wall + 30 * DAY_MS, reason, clock.wall)
    breaker = Breaker("kraken", holds)
    clock.pass_(round(1001 * left) + 2)

    assert held_until(holds, "kraken") == clock.wall - round(left) - 2
    assert is_asked(breaker)


@pytest.mark.parametrize("error", [LIMIT, BAN, SourceUnavailable("kraken", "503", 500.0)])
def test_lifted_hold_ends_within_a_second(clock, error):
    """One request goes first; the next penalty continues from the last one."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    fail(breaker, error)
    before = is_asked(breaker)
    holds.hold("kraken", clock.wall, "lifted by command", clock.wall)
    clock.pass_(1_000)

    async def scene():
        async with in_flight(breaker, None):
            with pytest.raises(SourceUnavailable, match="one request goes first"):
                await Request.begin(breaker, "ETH/USD")

    asyncio.run(scene())

    assert not before
    assert is_asked(breaker, "ETH/USD")
    assert breaker.seconds_left == 0
    assert len(holds.rows) == 2


def test_store_is_read_once_a_second_during_a_hold_only(clock):
    class Counted(MemoryStore):
        reads = 0

        def holds(self):
            self.reads += 1
            return super().holds()

    holds = Counted()
    breaker = Breaker("kraken", holds)
    for _ in range(50):
        ask(breaker)
    unheld = holds.reads
    fail(breaker, RateLimited("kraken", "wait", 60.0))
    for _ in range(100):
        is_asked(breaker)
        clock.pass_(100)

    assert unheld == 1
    assert holds.reads == 1 + 10


def test_lift_before_a_newer_refusal_does_not_end_its_hold(clock):
    """The store was read while the exchange answered."""

    class Late(Rows):
        def __init__(self):
            super().__init__()
            self.entered, self.leave = threading.Event(), threading.Event()
            self.leave.set()

        def holds(self):
            found = super().holds()
            self.entered.set()
            assert self.leave.wait(60)
            return found

    holds = Late()
    breaker = Breaker("kraken", holds)

    async def scene():
        old = [await Request.begin(breaker) for _ in range(2)]
        await old[0].end(RateLimited("kraken", "wait", 30.0))
        clock.pass_(1_000)
        holds.hold("kraken", clock.wall, "lifted by command", clock.wall)
        holds.entered.clear()
        holds.leave.clear()
        asking = asyncio.create_task(Request.begin(breaker))
        await asyncio.to_thread(holds.entered.wait, 60)
        ended = asyncio.create_task(old[1].end(RateLimited("kraken", "wait", 90.0)))
        await asyncio.sleep(0)
        holds.leave.set()
        await ended
        with pytest.raises(RateLimited):
            await asking

    asyncio.run(asyncio.wait_for(scene(), 60))

    assert breaker.seconds_left == 90
    assert held_until(holds, "kraken") == clock.wall + 90_000


def test_unwritten_hold_is_not_shortened_by_an_older_row(clock):
    """The store has an older, shorter hold."""

    class Full(MemoryStore):
        is_full = False

        def hold(self, *row):
            if self.is_full:
                raise StoreUnavailable("sqlite:///l.db", "disk is full")
            super().hold(*row)

    holds = Full()
    breaker = Breaker("kraken", holds)
    fail(breaker, LIMIT)
    clock.pass_(10_000)
    holds.is_full = True
    fail(breaker, BAN)
    clock.pass_(5_000)

    assert not is_asked(breaker)
    assert breaker.seconds_left == 235


def test_unreadable_store_lifts_no_hold(clock):
    class Broken(MemoryStore):
        is_broken = False

        def holds(self):
            if self.is_broken:
                raise StoreUnavailable("sqlite:///l.db", "disk I/O error")
            return super().holds()

    holds = Broken()
    breaker = Breaker("kraken", holds)
    fail(breaker, LIMIT)
    holds.is_broken = True
    with structlog.testing.capture_logs() as logs:
        asked = is_asked(breaker)

    assert not asked
    assert [one["event"] for one in logs] == ["hold.read_failed"]
