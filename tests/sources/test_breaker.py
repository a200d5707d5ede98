"""The breaker: who may ask, and when; and that a burst of refusals is one incident."""

import asyncio
import threading
from contextlib import asynccontextmanager

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import BadPayload, Banned, RateLimited, SourceUnavailable, StoreUnavailable, UnknownSymbol
from forecaster.sources import breaker as module
from forecaster.sources.breaker import Breaker
from forecaster.store.memory import MemoryStore
from forecaster.timeframe import DAY_MS

LIMIT = RateLimited("kraken", "too many")
BAN = Banned("kraken", "a teapot")
OUTAGE = SourceUnavailable("kraken", "down")


class Clock:
    """Both clocks of a machine, moved by hand; the wall clock may be set apart."""

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


def ask(breaker, error=None):
    """One request that ends so."""

    async def request():
        async with breaker.asking():
            if error is not None:
                raise error

    asyncio.run(request())


def fail(breaker, error, times=1):
    for _ in range(times):
        with pytest.raises(type(error)):
            ask(breaker, error)


def is_asked(breaker):
    """Whether a request would go out now; it is not answered."""
    try:
        ask(breaker, KeyboardInterrupt())
    except KeyboardInterrupt:
        return True
    except SourceUnavailable:
        return False
    return True


@pytest.mark.parametrize("error", [LIMIT, BAN])
def test_nobody_asks_before_the_seconds_that_were_named(clock, error):
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
    """And begins anew after an answer."""
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


def test_waits_have_an_end(clock):
    breaker = Breaker("kraken", MemoryStore())
    for _ in range(40):
        fail(breaker, BAN)
        clock.pass_(round(1000 * breaker.seconds_left))
    fail(breaker, BAN)
    longest = breaker.seconds_left
    clock.pass_(round(1000 * longest))
    fail(breaker, RateLimited("kraken", "for ever", 1e12))

    assert longest == 3 * 86_400
    assert breaker.seconds_left == 30 * 86_400


def test_one_request_goes_first(clock):
    """After a wait nobody else asks until it is answered; then everybody may."""
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


def test_first_request_that_is_cut_short_leaves_its_turn(clock):
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, LIMIT)
    clock.pass_(10_000)
    cut = is_asked(breaker)

    assert cut
    assert is_asked(breaker)


def test_several_faults_in_a_row_pause_everybody(clock):
    """Longer each time, a minute at most; one answer ends it."""
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, OUTAGE, 4)
    before = breaker.seconds_left
    waits = []
    for _ in range(9):
        fail(breaker, BadPayload("kraken", "bars", "a maintenance page"))
        waits.append(breaker.seconds_left)
        clock.pass_(round(1000 * waits[-1]))
    ask(breaker)
    fail(breaker, OUTAGE, 4)

    assert before == 0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert is_asked(breaker)


def test_pause_is_not_called_a_limit(clock):
    """The exchange is down; it has not asked for fewer requests."""
    breaker = Breaker("kraken", MemoryStore())
    fail(breaker, OUTAGE, 5)
    with pytest.raises(SourceUnavailable, match=f"not asked for .*{OUTAGE.reason}") as refused:
        ask(breaker)

    assert type(refused.value) is SourceUnavailable


def test_outage_that_names_its_end_is_waited_out(clock):
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
def test_wait_outlives_the_process(clock, error):
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


def test_pause_of_our_own_does_not_outlive_the_process(clock):
    holds = MemoryStore()
    fail(Breaker("kraken", holds), OUTAGE, 4)

    assert holds.held_until("kraken") is None


@pytest.mark.parametrize(("set_by", "left"), [(-10 * 365 * DAY_MS, 2_594_592.002), (10 * 365 * DAY_MS, 0)])
def test_wall_clock_that_was_set(clock, set_by, left):
    """While we run it takes no part; after a restart it decides, within bounds."""
    holds = MemoryStore()
    breaker = Breaker("kraken", holds)
    fail(breaker, RateLimited("kraken", "too many", 90.0))
    clock.wall += set_by

    assert breaker.seconds_left == 90
    assert Breaker("kraken", holds).seconds_left == left


class Rows(MemoryStore):
    """A store that counts the waits that it keeps."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def hold(self, exchange, until, reason, seen_at):
        self.rows.append((until, reason))
        super().hold(exchange, until, reason, seen_at)


class Request:
    """A request that has begun, and ends when it is told to."""

    def __init__(self, asking):
        self._asking = asking

    @classmethod
    async def begin(cls, breaker):
        asking = breaker.asking()
        await asking.__aenter__()
        return cls(asking)

    async def end(self, error=None):
        """End it: with an answer, or with an error, which comes out at whoever asked."""
        if error is None:
            await self._asking.__aexit__(None, None, None)
            return
        swallowed = await self._asking.__aexit__(type(error), error, None)

        assert not swallowed


@asynccontextmanager
async def in_flight(breaker, error):
    """A request that is in flight during a block, and then ends so."""
    request = await Request.begin(breaker)
    yield
    await request.end(error)


def burst(breaker, *errors):
    """As many requests, all in flight before the first of them ends."""

    async def scene():
        requests = [await Request.begin(breaker) for _ in errors]
        for request, error in zip(requests, errors, strict=True):
            await request.end(error)

    asyncio.run(scene())


@pytest.mark.parametrize("count", [8, 64])
@pytest.mark.parametrize(("error", "wait"), [(LIMIT, 10), (BAN, 120)], ids=["limit", "ban"])
def test_burst_of_refusals_is_one_penalty_and_one_row(clock, error, wait, count):
    """Requests in flight are refused together: that is one incident, and the next one waits twice as long."""
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
    """Answers of one burst come some milliseconds apart."""
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


def test_burst_of_faults_is_one_pause(clock):
    breaker = Breaker("kraken", MemoryStore())
    burst(breaker, *[OUTAGE] * 64)

    assert breaker.seconds_left == 1


def test_later_time_that_a_refusal_of_the_burst_names_is_kept(clock):
    """The exchange has said so; it does not count as a further refusal."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    burst(breaker, LIMIT, RateLimited("kraken", "wait", 90.0), RateLimited("kraken", "wait", 60.0), OUTAGE)
    longer = breaker.seconds_left
    kept = holds.held_until("kraken") - clock.wall
    clock.pass_(90_000)
    fail(breaker, LIMIT)

    assert (longer, kept) == (90, 90_000)
    assert breaker.seconds_left == 20
    assert len(holds.rows) == 3


def test_ban_in_a_burst_of_limits_is_waited_for_as_a_ban(clock):
    """A venue that was asked on after a limit bans; the limit's wait is too short for that."""
    holds = Rows()
    breaker = Breaker("kraken", holds)
    burst(breaker, LIMIT, LIMIT, BAN, BAN, LIMIT)

    assert breaker.seconds_left == 120
    assert len(holds.rows) == 2


def test_answer_to_an_old_request_does_not_open_the_way(clock):
    """A success that was in flight when the exchange refused another says nothing of the time after."""
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
def test_end_of_an_old_request_changes_nothing_of_the_first_one(clock, error):
    """Neither a second request goes beside it, nor does its own answer count less."""
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


def test_old_refusal_after_the_way_is_open_again_closes_nothing(clock):
    breaker = Breaker("kraken", MemoryStore())

    async def scene():
        old = [await Request.begin(breaker) for _ in range(2)]
        await old[0].end(LIMIT)
        clock.pass_(10_000)
        await (await Request.begin(breaker)).end()
        await old[1].end(BAN)

    asyncio.run(scene())

    assert is_asked(breaker)


def test_refusal_during_a_pause_of_our_own_is_a_penalty(clock):
    """Faults paused everybody; a limit that comes then is the first word of the exchange, and outlives the process."""
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
def test_no_order_of_beginnings_and_ends_makes_two_penalties_of_one_incident(steps):
    """One row for each incident; after it one request at a time; and an old answer changes nothing.

    A ban among limits may lengthen the wait of its incident once.
    """
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(module, "_monotonic_ms", lambda: clock.monotonic)
        patch.setattr(module, "now_ms", lambda: clock.wall)
        asyncio.run(Play(clock).play(steps))


class Play:
    """Requests that begin and end in any order, beside a model of what may come of it."""

    def __init__(self, clock):
        self.clock = clock
        self.holds = Rows()
        self.breaker = Breaker("kraken", self.holds)
        self.flying = []
        self.state = self.incidents = 0
        self.closed_by = None

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
        is_ahead = self.closed_by is not None and self.state in [state for _, state in self.flying]
        may_go = not self.breaker.seconds_left and not is_ahead
        try:
            self.flying.append((await Request.begin(self.breaker), self.state))
        except RateLimited:
            went = False
        else:
            went = True

        assert went == may_go

    async def end(self, which, outcome):
        request, state = self.flying.pop(which % len(self.flying))
        rows, left = len(self.holds.rows), self.breaker.seconds_left
        await request.end(KeyboardInterrupt() if outcome == "cut" else OUTCOMES[outcome])
        new, now_left = len(self.holds.rows) - rows, self.breaker.seconds_left
        if outcome in WAITS and state == self.state:
            first, longest = WAITS[outcome]
            self.state, self.closed_by, self.incidents = self.state + 1, outcome, self.incidents + 1

            assert (new, now_left) == (1, max(left, min(first * 2 ** (self.incidents - 1), longest)))
        elif outcome == "ban" and self.closed_by == "limit" and new:
            self.state, self.closed_by = self.state + 1, "ban"

            assert (new, left < now_left <= 120 * 2 ** (self.incidents - 1)) == (1, True)
        else:
            if outcome in ("answer", "unknown") and state == self.state:
                self.closed_by, self.incidents = None, 0

            assert (new, now_left) == (0, left)


def test_wait_stands_before_the_request_has_ended(clock):
    """Whoever hears of a refusal finds it in the store."""
    holds = Rows()
    fail(Breaker("kraken", holds), LIMIT)

    assert holds.held_until("kraken") == clock.wall + 10_000


@pytest.mark.parametrize("fault", [StoreUnavailable("sqlite:///l.db", "disk is full"), OSError("nobody knows")])
def test_wait_that_cannot_be_kept_stands_in_this_process(clock, fault):
    """The series hear of the refusal, not of the store; the log does."""

    class Broken(MemoryStore):
        def hold(self, *_):
            raise fault

    breaker = Breaker("kraken", Broken())
    with structlog.testing.capture_logs() as logs:
        fail(breaker, LIMIT)

    assert breaker.seconds_left == 10
    assert [(one["event"], one["exchange"]) for one in logs] == [("hold.not_written", "kraken")]


class Slow(Rows):
    """A store whose writes last until they may end."""

    def __init__(self):
        super().__init__()
        self.entered, self.leave = threading.Event(), threading.Event()

    def hold(self, *row):
        self.entered.set()
        assert self.leave.wait(60)
        super().hold(*row)


def test_slow_store_holds_up_nobody_else(clock):
    """While a wait is written, the loop goes on: another request ends, and another exchange is asked."""
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


def test_next_request_goes_out_when_the_wait_is_durable(clock):
    """Though the exchange names no time at all."""
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


def test_waits_are_written_in_their_order(clock):
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


def test_request_that_is_cut_short_while_its_wait_is_written_loses_nothing(clock):
    """A deadline may end the request; closing waits for the row."""
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
def test_times_that_are_none_are_no_fault(told):
    """An exchange may say anything: without a number it is as if it had said nothing, and the rest has its bounds."""
    wait = module._told_ms(RateLimited("x", "slow down", told))

    assert wait is None or 0 <= wait <= module.LONGEST_HOLD_MS
