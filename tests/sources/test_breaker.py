"""The breaker: who may ask, and when."""

import pytest

from forecaster.errors import BadPayload, Banned, RateLimited, SourceUnavailable, UnknownSymbol
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
    with breaker.asking():
        if error is not None:
            raise error


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
    with breaker.asking(), pytest.raises(RateLimited, match="one request goes first") as refused:
        ask(breaker)

    assert 0 < refused.value.retry_after < 1
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
    fail(breaker, UnknownSymbol("kraken", "NO/SUCH", 3))
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


def test_wait_is_kept_before_anybody_hears_of_it(clock):
    """A store that cannot write is heard of; the wait stands in this process."""

    class Broken(MemoryStore):
        def hold(self, *_):
            raise OSError("disk full")

    breaker = Breaker("kraken", Broken())
    with pytest.raises(OSError, match="disk full"):
        ask(breaker, LIMIT)

    assert breaker.seconds_left == 10
