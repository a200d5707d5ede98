"""Real ccxt clients of eight exchanges against a loopback exchange."""

import asyncio
import datetime as dt
import ipaddress
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import aiohttp
import numpy as np
import pytest
from ccxt.base.errors import BaseError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from forecaster.bars import Bars, SeriesKey
from forecaster.config import ExchangeConfig
from forecaster.errors import (
    BadPayload,
    Banned,
    ConfigError,
    RateLimited,
    SourceUnavailable,
    UnknownSymbol,
)
from forecaster.sources import Fetched
from forecaster.sources.exchange import source as exchange_source
from forecaster.sources.exchange.paginator import Paginator
from forecaster.sources.exchange.request import error_kind
from forecaster.sources.exchange.source import ExchangeSource
from forecaster.store.memory import MemoryStore
from tests.builders import held_until
from tests.faults import exchange as faults
from tests.faults.exchange import KRAKEN_KEEPS, SPOILED, HandTime, LoopbackExchange, by_hand, closed_port, unhurried
from tests.faults.storm import symbol_of
from tests.faults.venues import VENUES as ALL

HOUR = 3_600_000
AS_OF = 1_717_999_200_000 + 5_000
"""Five seconds after an hour began: the bar before it has closed, its own bar forms."""

VENUES = sorted(ALL)
SYMBOLS = {venue: symbol_of(venue) for venue in VENUES}
PAGES = {venue: ALL[venue].page for venue in VENUES}

KINDS = {
    SourceUnavailable: """
        BaseError ExchangeError ArgumentsRequired BadRequest OperationRejected NoChange MarginModeAlreadySet
        MarketClosed ManualInteractionNeeded InsufficientFunds InvalidAddress AddressPending InvalidOrder
        OrderNotFound OrderNotCached OrderImmediatelyFillable OrderNotFillable DuplicateOrderId
        ContractUnavailable NotSupported InvalidProxySettings ExchangeClosedByUser OperationFailed NetworkError
        ExchangeNotAvailable OnMaintenance InvalidNonce ChecksumError RequestTimeout CancelPending
        UnsubscribeError""",
    RateLimited: "RateLimitExceeded DDoSProtection",
    Banned: "AuthenticationError PermissionDenied AccountNotEnabled AccountSuspended RestrictedLocation",
    BadPayload: "BadResponse NullResponse",
    UnknownSymbol: "BadSymbol",
}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Simulated time: it passes only while sources wait."""
    unhurried(monkeypatch)
    return by_hand(monkeypatch)


@pytest.fixture
def exchange():
    with LoopbackExchange(now=AS_OF) as loopback:
        yield loopback


@pytest.fixture
def open_source():
    """Open sources, and close them when the test ends."""
    opened = []

    def opener(config, holds=None):
        opened.append(ExchangeSource(config.id, config, MemoryStore() if holds is None else holds))
        return opened[-1]

    yield opener
    for source in opened:
        source.close()


@pytest.fixture(params=["binance", "bitstamp", "kraken"])
def venue(request):
    """A plain exchange, one without a time endpoint, and one that keeps only its latest bars."""
    return request.param


@pytest.fixture(params=VENUES)
def every_venue(request):
    return request.param


@pytest.fixture
def source(exchange, venue, open_source):
    return open_source(exchange.config(venue))


@pytest.fixture
def binance(exchange, open_source):
    return open_source(exchange.config("binance"))


def reconfigure(source, config):
    """Change the limits of a source, whether its client is open or not."""
    source._config = config
    if source._opened is not None:
        source._opened._config = config


def make_key(venue, timeframe="1h"):
    return SeriesKey(venue, SYMBOLS[venue], timeframe)


def family(error):
    """A class and all its subclasses."""
    return {error}.union(*(family(child) for child in error.__subclasses__()))


def assert_equal_to_truth(bars, exchange, start, end):
    """Assert that the bars are those that the exchange made in [`start`, `end`)."""
    truth = exchange.rows(bars.key.symbol, bars.key.timeframe.name, start, end)

    assert bars.open_time.tolist() == [row[0] for row in truth]
    assert bars.ohlcv_TF.tolist() == [list(row[1:]) for row in truth]


def test_bars_are_exactly_those_of_the_exchange(exchange, every_venue, open_source):
    """For every exchange, from `since` to the last closed bar, without the forming one."""
    source = open_source(exchange.config(every_venue))
    fetched = source.fetch(make_key(every_venue), AS_OF - 50 * HOUR, AS_OF)

    assert len(fetched.bars) == 49
    assert fetched.rejected == []
    assert set(fetched.bars.first_seen_at) == {AS_OF}
    assert int(fetched.bars.close_time[-1]) == AS_OF - 5_000
    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 50 * HOUR, AS_OF - 5_000)


def test_a_long_history_is_paged(exchange, binance):
    fetched = binance.fetch(make_key("binance"), AS_OF - 2500 * HOUR, AS_OF)

    assert len(exchange.asked("bars")) == 3
    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 2500 * HOUR, AS_OF - 5_000)


def test_paging_continues_past_a_gap_longer_than_a_page(exchange, binance):
    """1,200 bars without trades, more than a page."""
    gap = range(AS_OF - 5_000 - 2000 * HOUR, AS_OF - 5_000 - 800 * HOUR, HOUR)
    exchange.missing.update(gap)

    fetched = binance.fetch(make_key("binance"), AS_OF - 3500 * HOUR, AS_OF)

    assert len(fetched.bars) == 3499 - 1200
    assert fetched.since is None
    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 3500 * HOUR, AS_OF - 5_000)


def test_an_empty_page_is_not_the_last(exchange, venue, source):
    """An exchange that answers by windows returns an empty page in a gap; the next window is requested."""
    exchange.fail_next("empty")

    fetched = source.fetch(make_key(venue), AS_OF - 1500 * HOUR, AS_OF)

    asked_from = AS_OF - 5_000 - 1499 * HOUR + PAGES[venue] * HOUR
    kept_from = AS_OF - KRAKEN_KEEPS * HOUR if venue == "kraken" else asked_from
    if venue != "kucoin":  # one page of which is 1,500 bars
        assert_equal_to_truth(fetched.bars, exchange, max(asked_from, kept_from), AS_OF - 5_000)


def test_an_exchange_that_repeats_a_page_does_not_cause_a_loop(exchange, binance, monkeypatch):
    """Whatever `since` says, it answers with the same ten bars: they are returned once."""
    old = exchange.rows("BTC/USDT", "1h", AS_OF - 2500 * HOUR, AS_OF - 2490 * HOUR)
    monkeypatch.setattr(exchange, "_each_row", lambda *_: iter(old))

    fetched = binance.fetch(make_key("binance"), AS_OF - 2500 * HOUR, AS_OF)

    assert fetched.bars.open_time.tolist() == [row[0] for row in old]
    assert len(exchange.asked("bars")) == 4


def test_kraken_returns_its_latest_bars_when_since_is_too_old(exchange, open_source):
    source = open_source(exchange.config("kraken"))

    fetched = source.fetch(make_key("kraken"), AS_OF - 5000 * HOUR, AS_OF)

    assert len(fetched.bars) == KRAKEN_KEEPS - 1
    assert fetched.since == int(fetched.bars.open_time[0])
    assert_equal_to_truth(fetched.bars, exchange, AS_OF - KRAKEN_KEEPS * HOUR, AS_OF - 5_000)


def test_market_listed_after_since_is_told_from_a_history_that_ends(exchange, binance):
    """A whole page after a gap does not prove it, as long as more bars follow."""
    exchange.missing.update(range(AS_OF - 5_000 - 3000 * HOUR, AS_OF - 5_000 - 1500 * HOUR, HOUR))

    fetched = binance.fetch(make_key("binance"), AS_OF - 2500 * HOUR, AS_OF)

    assert len(fetched.bars) == 1500
    assert fetched.since is None


@pytest.mark.parametrize(("hours", "hole"), [(1000, range(1)), (1099, range(500, 600))], ids=["first slot", "middle"])
def test_gap_within_one_whole_page_is_told_from_a_history_that_ends(exchange, binance, hours, hole):
    """999 bars and the forming one: a whole page up to now, as requested."""
    since = AS_OF - 5_000 - hours * HOUR
    exchange.missing.update(since + slot * HOUR for slot in hole)

    fetched = binance.fetch(make_key("binance"), since, AS_OF)

    assert len(fetched.bars) == 999
    assert fetched.since is None


def test_row_that_has_not_opened_is_rejected(exchange, venue, source):
    """By the exchange's clock; it is reported."""
    exchange.fail_next("future", times=1000)

    fetched = source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF)

    assert [row.reason for row in fetched.rejected] == ["open time must not be later than the exchange's clock"] * 2
    assert len(fetched.bars) == 4


def test_without_since_one_page_is_requested(exchange, every_venue, open_source):
    source = open_source(exchange.config(every_venue))
    fetched = source.fetch(make_key(every_venue), None, AS_OF)

    assert PAGES[every_venue] - 1 <= len(fetched.bars) <= PAGES[every_venue]
    assert len(exchange.asked("bars")) <= 2


def test_since_within_a_bar_starts_with_the_next(venue, source):
    fetched = source.fetch(make_key(venue), AS_OF - 10 * HOUR - 4_999, AS_OF)

    assert int(fetched.bars.open_time[0]) == AS_OF - 5_000 - 9 * HOUR


def test_since_on_the_grid_is_the_first_bar(venue, source):
    fetched = source.fetch(make_key(venue), AS_OF - 5_000 - 9 * HOUR, AS_OF)

    assert int(fetched.bars.open_time[0]) == AS_OF - 5_000 - 9 * HOUR


def test_the_next_fetch_returns_bars_closed_since(exchange, venue, source, clock):
    """One request, and the list of markets is not loaded again."""
    first = source.fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF)
    exchange.now += HOUR
    clock.seconds += HOUR / 1000
    exchange.requests.clear()

    second = source.fetch(make_key(venue), int(first.bars.close_time[-1]), AS_OF + HOUR)

    assert_equal_to_truth(second.bars, exchange, AS_OF - 5_000, AS_OF + HOUR - 5_000)
    assert len(exchange.asked("bars")) == 1
    assert exchange.asked("markets") == []


def test_no_request_when_no_bar_can_have_closed(exchange, venue, source):
    fetched = source.fetch(make_key(venue), AS_OF - 5_000, AS_OF)

    assert len(fetched.bars) == 0
    assert exchange.asked("bars") == []


def test_bars_after_as_of_are_left_out(exchange, venue, source):
    """The exchange is three hours ahead; the caller's time decides."""
    fetched = source.fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF - 3 * HOUR)

    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 20 * HOUR, AS_OF - 5_000 - 3 * HOUR)


def test_a_bar_is_closed_by_the_clock_of_the_exchange(exchange, venue, source):
    """This machine is ten seconds ahead: a bar closed by its clock still forms."""
    exchange.now = AS_OF - 10_000

    fetched = source.fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF)

    assert int(fetched.bars.close_time[-1]) == AS_OF - 5_000 - HOUR
    assert fetched.rejected == []


def test_an_answer_with_an_old_date_is_not_final(exchange, every_venue, open_source, monkeypatch):
    """A cache answers for one symbol: the exchange's time and other dates do not make its bars final."""
    source = open_source(exchange.config(every_venue, final_after=0))
    source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF - HOUR)
    exchange.replica_ms = 90_000
    monkeypatch.setattr(
        faults._Handler, "date_time_string", lambda *_: formatdate((AS_OF - 90_000) / 1000, usegmt=True)
    )
    fetched = source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF)

    assert int(fetched.bars.close_time[-1]) == AS_OF - 5_000 - HOUR
    assert fetched.rejected == []


def test_a_time_request_that_hangs_delays_no_other_series(exchange, open_source, clock):
    """One series requests it, for two seconds at most; dates of answers replace it."""
    exchange.fail_next("delay", at="time", times=100)
    clock.stretch = 0.05
    source = open_source(exchange.config("binance", timeout=100, deadline=30))
    began = clock.seconds
    fetched = source.fetch(make_key("binance"), AS_OF - 20 * HOUR, AS_OF)

    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 20 * HOUR, AS_OF - 5_000)
    assert clock.seconds - began <= 2


@pytest.fixture
def flowing(exchange, clock, monkeypatch):
    """The exchange's clock continues during the wait."""

    async def sleep(seconds):
        exchange.now += round(seconds * 1000)
        await clock.sleep(seconds)

    monkeypatch.setattr(exchange_source.asyncio, "sleep", sleep)


@pytest.mark.parametrize("by", [10_000, 30_000, 120_000])
def test_a_clock_that_is_set_back_counts_at_once(exchange, every_venue, open_source, by):
    """A bar closed by the earlier time still forms."""
    source = open_source(exchange.config(every_venue))
    source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF - HOUR)
    exchange.now = AS_OF - by
    fetched = source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF)

    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 20 * HOUR, AS_OF - 5_000 - HOUR)
    assert fetched.rejected == []


def test_a_clock_that_is_set_back_during_a_wait(exchange, every_venue, open_source, flowing):
    """The bar is returned once it has closed by that clock."""
    source = open_source(exchange.config(every_venue, late_after=60, deadline=30))
    source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF - HOUR)
    exchange.now = AS_OF - 20_000
    fetched = source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF)

    assert exchange.now >= AS_OF - 5_000
    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 20 * HOUR, AS_OF - 5_000)


def test_a_bar_of_an_old_replica_is_not_final(exchange, every_venue, open_source):
    """Time and dates are right, but the bars are half a minute old: the latest one still forms."""
    exchange.replica_ms = 30_000
    source = open_source(exchange.config(every_venue))
    fetched = source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF)

    assert int(fetched.bars.close_time[-1]) == AS_OF - 5_000 - HOUR
    assert fetched.rejected == []


def test_a_bar_of_an_old_replica_is_waited_for(exchange, every_venue, open_source, flowing):
    """Until a later bar is in the answer, or the exchange reports it as final."""
    exchange.replica_ms = 30_000
    source = open_source(exchange.config(every_venue))
    fetched = source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF)

    assert 25_000 <= exchange.now - AS_OF < 40_000
    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 20 * HOUR, AS_OF - 5_000)


@pytest.mark.parametrize("every_venue", [name for name in VENUES if name != "okx"])  # OKX says it of each bar
@pytest.mark.parametrize("final_after", [20, 40])
def test_a_bar_without_later_trades_is_final_after_a_while(exchange, every_venue, open_source, flowing, final_after):
    """No later bar shows that it is final."""
    exchange.missing = {AS_OF - 5_000}
    source = open_source(exchange.config(every_venue, final_after=final_after))
    fetched = source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF)

    assert final_after * 1000 - 5_000 <= exchange.now - AS_OF < final_after * 1000 + 5_000
    assert int(fetched.bars.close_time[-1]) == AS_OF - 5_000


def test_rows_of_the_future_make_no_bar_final(exchange, venue, open_source):
    """They have not opened by the exchange's clock, so they prove nothing."""
    exchange.now = AS_OF - 10_000
    exchange.fail_next("future", times=100)
    fetched = open_source(exchange.config(venue)).fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF)

    assert int(fetched.bars.close_time[-1]) == AS_OF - 5_000 - HOUR


def test_this_machine_may_be_behind(exchange, every_venue, open_source, monkeypatch):
    """Bars closed by its clock are returned; nothing is rejected."""
    monkeypatch.setattr(exchange_source, "now_ms", lambda: AS_OF - 120_000)
    source = open_source(exchange.config(every_venue))
    fetched = source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF - 120_000)

    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 20 * HOUR, AS_OF - 5_000 - HOUR)
    assert fetched.rejected == []
    assert fetched.clock_offset_ms == 120_000


def test_an_exchange_whose_clock_is_far_behind_is_not_waited_for(exchange, venue, open_source, clock, monkeypatch):
    """Its bars come at once, with its clock offset."""
    monkeypatch.setattr(exchange_source, "now_ms", lambda: AS_OF)
    exchange.now = AS_OF - 90_000
    began = clock.seconds
    fetched = open_source(exchange.config(venue, late_after=60)).fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF)

    assert clock.seconds == began
    assert int(fetched.bars.close_time[-1]) == AS_OF - 5_000 - HOUR
    assert fetched.clock_offset_ms == -90_000


def test_the_exchange_time_is_requested_once_an_hour(exchange, venue, source, clock):
    for _ in range(3):
        source.fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF - 1000)
    before = len(exchange.asked("time"))
    clock.seconds += 3601
    source.fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF - 1000)

    times = 0 if venue == "bitstamp" else 1  # it tells the time by the dates of its answers
    assert before == times
    assert len(exchange.asked("time")) == 2 * times


def test_dates_of_answers_replace_a_missing_time_endpoint(exchange, venue, source):
    """It is two minutes behind, by the dates of its answers: the last bar still forms."""
    exchange.now = AS_OF - 120_000
    exchange.fail_next("html", at="time", times=100)

    fetched = source.fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF)

    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 20 * HOUR, AS_OF - 5_000 - HOUR)


FAULTS = {
    "html": BadPayload,
    "null": BadPayload,
    "truncated": BadPayload,
    "nested": BadPayload,
    "oversized": BadPayload,
    "redirect": BadPayload,
    "reset": SourceUnavailable,
    "status": SourceUnavailable,
    "drip": SourceUnavailable,
}
OVERSIZED_LIST = ("oversized", "markets")


STRETCH = HandTime().stretch
SHORT = 0.2
"""Real seconds that a request may take where it is to take too long; others are asked again until they are faster."""


@pytest.fixture
def ready(clock):
    """Wait until the exchange may be asked again."""

    def waited(source):
        clock.seconds += source._breaker.seconds_left + 0.01
        return source

    return waited


@pytest.mark.parametrize(
    ("fault", "endpoint"),
    # A list of markets may be longer than an answer about bars.
    [(fault, endpoint) for fault in FAULTS for endpoint in ("bars", "markets") if (fault, endpoint) != OVERSIZED_LIST],
)
def test_a_fault_has_its_error_and_ends(exchange, binance, ready, clock, fault, endpoint):
    """For all retries within the deadline; redirects are not followed."""
    exchange.fail_next(fault, at=endpoint, times=1000)
    patient = binance._config
    if fault == "drip":
        clock.stretch = 1.0
        reconfigure(binance, patient.model_copy(update={"timeout": SHORT}))

    with pytest.raises(FAULTS[fault], match=r"^binance: ") as caught:
        binance.fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF)
    exchange.recover()
    clock.stretch = STRETCH
    reconfigure(binance, patient)

    assert type(caught.value) is FAULTS[fault]
    assert len(exchange.asked(endpoint)) > 1
    assert len(ready(binance).fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF).bars) == 4
    assert exchange.elsewhere == 0


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_single_fault_is_retried(exchange, open_source, clock, fault):
    """The request is retried a moment later."""
    source = open_source(exchange.config("binance"))
    if fault == "drip":
        clock.stretch = 1.0
        reconfigure(source, exchange.config("binance", timeout=SHORT, deadline=300.0))
    exchange.fail_next(fault)

    assert len(source.fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF).bars) == 4


def test_an_object_instead_of_rows_is_not_an_empty_page(exchange, every_venue, open_source):
    """Most of ccxt's parsers take it for an empty page."""
    source = open_source(exchange.config(every_venue))
    exchange.fail_next("object", times=1000)

    with pytest.raises((BadPayload, SourceUnavailable)):
        source.fetch(make_key(every_venue), AS_OF - 5 * HOUR, AS_OF)


def test_body_of_a_bad_answer_is_kept(exchange, venue, source):
    exchange.fail_next("html", times=1000)

    with pytest.raises(BadPayload) as caught:
        source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF)

    assert caught.value.body.startswith("<html><head><title>Down for maintenance")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, Banned),
        (404, SourceUnavailable),
        (418, Banned),
        (429, RateLimited),
        (451, Banned),
        (500, SourceUnavailable),
        (504, SourceUnavailable),
        (599, SourceUnavailable),
    ],
)
def test_a_status_has_its_error(exchange, venue, open_source, status, error):
    source = open_source(exchange.config(venue))
    exchange.fail_next("status", status=status, times=1000)

    with pytest.raises(error, match=str(status)) as caught:
        source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF)

    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("venue", "status"),
    [("binance", 403), ("binance", 418), ("binance", 429), ("bitstamp", 429), ("kraken", 429), ("binance", 503)],
)
@pytest.mark.parametrize("restart", [False, True])
def test_no_request_before_retry_after(exchange, venue, open_source, ready, status, restart):
    """Neither this service nor a restarted one; afterwards one request returns the bars."""
    holds = MemoryStore()
    source = open_source(exchange.config(venue), holds)
    exchange.fail_next("status", status=status, headers={"Retry-After": "100"})
    with pytest.raises(SourceUnavailable):
        source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF)
    refused_at = exchange.requests[-1].at
    if restart:
        source = open_source(exchange.config(venue), holds)
    with pytest.raises(SourceUnavailable, match="not asked for"):
        source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF)
    before = len(exchange.requests)
    bars = ready(source).fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF).bars

    assert len(bars) == 4
    assert exchange.requests[before - 1].at == refused_at
    assert 100 <= exchange.requests[before].at - refused_at < 101


def test_a_wait_within_the_deadline_is_waited_out(exchange, venue, source, clock):
    exchange.fail_next("status", status=429, headers={"Retry-After": "1"})
    began = clock.seconds

    assert len(source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF).bars) == 4
    assert clock.seconds >= began + 1


@pytest.mark.parametrize("venue", ["binance", "kraken"])
def test_a_ban_of_the_time_request_counts(exchange, venue, source):
    exchange.fail_next("status", status=418, at="time")

    with pytest.raises(Banned):
        source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF)

    assert exchange.asked("bars") == []


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"timeout": SHORT}, "no answer within 0.2 s"),
        ({"deadline": SHORT}, "expected its bars within 0.2 s, no answer yet"),
    ],
    ids=["request", "series"],
)
def test_a_slow_answer_times_out(exchange, binance, ready, clock, limits, reason):
    """At the timeout of each request, and at the deadline of the series during a request."""
    binance.fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF)
    exchange.fail_next("delay", times=1000)
    patient = binance._config
    reconfigure(binance, patient.model_copy(update=limits))
    clock.stretch = 1.0

    with pytest.raises(SourceUnavailable, match=reason):
        binance.fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF)

    exchange.recover()
    clock.stretch = STRETCH
    reconfigure(binance, patient)
    assert len(ready(binance).fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF).bars) == 4


def test_bars_before_a_fault_are_returned(exchange, open_source):
    """Two pages, then an outage: their bars are returned with the error."""
    source = open_source(exchange.config("binance"))
    source.fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF)
    exchange.requests.clear()
    rows = exchange._plain

    def fail_from_the_third(*args):
        if len(exchange.asked("bars")) >= 3:
            exchange.fail_next("status", times=1000)
        return rows(*args)

    exchange._plain = fail_from_the_third
    fetched = source.fetch(make_key("binance"), AS_OF - 3500 * HOUR, AS_OF)

    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 3500 * HOUR, AS_OF - 5_000 - 499 * HOUR)
    assert isinstance(fetched.fault, SourceUnavailable)


def test_a_late_bar_is_requested_until_it_arrives(exchange, every_venue, open_source):
    source = open_source(exchange.config(every_venue, late_after=30))
    exchange.fail_next("late", times=2)

    fetched = source.fetch(make_key(every_venue), AS_OF - 20 * HOUR, AS_OF)

    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 20 * HOUR, AS_OF - 5_000)
    assert len(exchange.asked("bars")) == 3


def test_a_missing_bar_is_given_up_after_late_after(exchange, venue, open_source, clock):
    """The other bars are returned `late_after` seconds after the close."""
    source = open_source(exchange.config(venue, late_after=6))
    exchange.fail_next("late", times=1000)
    began = clock.seconds

    fetched = source.fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF)

    assert int(fetched.bars.close_time[-1]) == AS_OF - 5_000 - HOUR
    assert 0.2 < clock.seconds - began < 2
    assert fetched.fault is None


def test_an_old_missing_bar_is_not_waited_for(exchange, venue, open_source, clock):
    """By the exchange's clock it will not arrive any more."""
    source = open_source(exchange.config(venue, late_after=6))
    source.fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF)
    exchange.now += HOUR
    exchange.fail_next("late", times=1000)
    began = clock.seconds

    source.fetch(make_key(venue), AS_OF - 20 * HOUR, AS_OF)

    assert clock.seconds == began


def test_requests_go_to_the_exchange_only(exchange, every_venue, open_source):
    """A request to another host is refused."""
    source = open_source(exchange.config(every_venue))
    source.fetch(make_key(every_venue), AS_OF - 5 * HOUR, AS_OF)
    exchange.requests.clear()
    client = source._client.ccxt
    sign = client.sign
    client.sign = lambda *args, **more: sign(*args, **more) | {"url": exchange.url.replace("127.0.0.1", "localhost")}

    with pytest.raises(SourceUnavailable, match=r"expected a request to one of .*127\.0\.0\.1.*, found localhost"):
        source.fetch(make_key(every_venue), AS_OF - 5 * HOUR, AS_OF)

    assert exchange.requests == []


def test_invalid_certificate_is_refused(open_source, tmp_path):
    """A self-signed certificate is refused, whatever the options of ccxt say."""
    with LoopbackExchange(AS_OF, certificate=self_signed(tmp_path)) as exchange:
        config = exchange.config("binance")
        source = open_source(config.model_copy(update={"options": {**config.options, "verify": False}}))
        with pytest.raises(SourceUnavailable, match="CertificateError"):
            source.fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF)

    assert exchange.requests == []


def self_signed(folder):
    """A file with a key and a self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    valid = (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 1, 1, tzinfo=dt.UTC))
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), *valid)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.pem").write_bytes(private + certificate.public_bytes(pem))
    return folder / "tls.pem"


def test_closed_port_is_unavailable(open_source):
    url = f"http://127.0.0.1:{closed_port()}"
    source = open_source(ExchangeConfig(id="kraken", api_urls=url, timeout=2, deadline=0.5))

    with pytest.raises(SourceUnavailable, match=r"^kraken: markets: "):
        source.fetch(make_key("kraken"), AS_OF - 5 * HOUR, AS_OF)


def test_invalid_rows_are_rejected_and_the_others_kept(exchange, venue, source):
    exchange.fail_next("spoiled")

    fetched = source.fetch(make_key(venue), AS_OF - 10 * HOUR, AS_OF)

    assert_equal_to_truth(fetched.bars, exchange, AS_OF - (10 - len(SPOILED)) * HOUR, AS_OF - 5_000)
    assert len(fetched.rejected) == len(SPOILED)
    assert sorted(row.open_time for row in fetched.rejected) == [AS_OF - 5_000 - hours * HOUR for hours in (9, 8, 7, 6)]
    assert all(row.reason for row in fetched.rejected)


def test_an_invalid_row_that_still_forms_is_not_reported(exchange, venue, source):
    """It may become a valid bar."""
    exchange.fail_next("spoiled")

    fetched = source.fetch(make_key(venue), AS_OF - 4 * HOUR, AS_OF)

    assert len(fetched.bars) == 0
    assert sorted(row.open_time for row in fetched.rejected) == [AS_OF - 5_000 - hours * HOUR for hours in (3, 2, 1)]


def test_a_symbol_that_is_not_listed_is_unknown(venue, source):
    with pytest.raises(UnknownSymbol, match="expected one of its 3 symbols, found 'DOGE/USDT'; similar: "):
        source.fetch(SeriesKey(venue, "DOGE/USDT", "1h"), None, AS_OF)


def test_a_renamed_symbol_suggests_the_new_one(exchange, binance):
    exchange.symbols.add("MATIC/USDT")
    exchange.rename("MATIC/USDT", "POL/USDT")

    with pytest.raises(UnknownSymbol, match=r"found 'MATIC/USDT'; similar: .*POL/USDT"):
        binance.fetch(SeriesKey("binance", "MATIC/USDT", "1h"), None, AS_OF)


def test_a_market_that_is_no_longer_traded_is_not_active(exchange, binance):
    """Its old bars are still returned."""
    key, other = make_key("binance"), SeriesKey("binance", "ETH/USDT", "1h")
    exchange.halt("BTC/USDT", AS_OF - 40 * 24 * HOUR)
    before = binance.is_active(key)
    fetched = binance.fetch(key, AS_OF - 41 * 24 * HOUR, AS_OF)

    assert before is None
    assert (binance.is_active(key), binance.is_active(other)) == (False, True)
    assert binance.is_active(SeriesKey("binance", "NO/SUCH", "1h")) is None
    assert_equal_to_truth(fetched.bars, exchange, AS_OF - 41 * 24 * HOUR, AS_OF)


def test_rows_without_a_volume(exchange, every_venue, open_source):
    """Their volume is unknown; nothing is rejected."""
    exchange.knows_volume = False
    fetched = open_source(exchange.config(every_venue)).fetch(make_key(every_venue), AS_OF - 50 * HOUR, AS_OF)
    truth = exchange.rows(SYMBOLS[every_venue], "1h", AS_OF - 50 * HOUR, AS_OF - 5_000)

    assert fetched.rejected == []
    assert fetched.bars.open_time.tolist() == [row[0] for row in truth]
    assert fetched.bars.ohlcv_TF[:, :4].tolist() == [list(row[1:5]) for row in truth]
    assert np.isnan(fetched.bars.ohlcv_TF[:, 4]).all()


def test_days_that_begin_at_an_anchor(exchange, venue, open_source):
    """Days of an exchange in Hong Kong begin at 16:00 UTC; none is left out."""
    exchange.days_begin = 16 * HOUR
    source = open_source(exchange.config(venue))
    key = SeriesKey(venue, SYMBOLS[venue], "1d", "24/7@16:00")
    since = int(key.trading_calendar.last_opens(key.timeframe, AS_OF, 30)[0])
    fetched = source.fetch(key, since, AS_OF)

    assert fetched.rejected == []
    assert len(fetched.bars) == 30
    assert_equal_to_truth(fetched.bars, exchange, since, AS_OF - 24 * HOUR)


def test_days_that_begin_at_an_anchor_are_rejected_without_it(exchange, binance):
    """Every row is rejected for the same reason."""
    exchange.days_begin = 16 * HOUR
    fetched = binance.fetch(SeriesKey("binance", "BTC/USDT", "1d"), AS_OF - 30 * 24 * HOUR, AS_OF)

    assert len(fetched.bars) == 0
    assert {row.reason for row in fetched.rejected} == {"open time must be on the 1d grid of 24/7"}
    assert len(fetched.rejected) == 28


def test_a_history_is_paged_across_a_clock_change():
    """Days of New York, page by page: the bar after the 23-hour day is not left out."""
    key = SeriesKey("binance", "BTC/USDT", "1d", "24/7@17:00 America/New_York")
    opens = key.trading_calendar.last_opens(key.timeframe, AS_OF, 400)
    cursors = page_cursors(key, opens, pages=40)

    assert cursors == key.trading_calendar.closes_of(key.timeframe, opens[9::10]).tolist()


def page_cursors(key, opens, pages):
    """The cursor after each of so many pages of equal length."""
    paginator = Paginator(key, AS_OF)
    paginator.start(int(opens[0]) - HOUR)
    cursors = []
    for of_page in np.split(opens, pages):
        paginator.pages.clear()
        assert paginator.has_next(AS_OF)
        paginator.add(Fetched(Bars(key, of_page, np.tile([10.0, 12.0, 9.0, 11.0, 1.0], (len(of_page), 1)))), AS_OF)
        cursors.append(paginator.cursor)
    paginator.pages.clear()
    assert not paginator.has_next(AS_OF)
    return cursors


def test_times_in_microseconds_are_refused_for_one_reason(exchange, binance):
    exchange.per_ms = 1000
    fetched = binance.fetch(make_key("binance"), AS_OF - 128 * HOUR, AS_OF)

    assert len(fetched.bars) == 0
    assert len(fetched.rejected) == 128
    assert {row.reason for row in fetched.rejected} == {"open time must be whole milliseconds, 1970 to 9999"}


def test_minute_rows_are_not_hours(exchange, binance, monkeypatch):
    """An exchange answers with another timeframe: rows at full hours do not become bars."""
    monkeypatch.setattr(exchange, "_found", lambda symbol, asked: exchange.rows(symbol, "1m", asked.start, asked.end))

    with pytest.raises(BadPayload, match="expected rows 1h apart for BTC/USDT, found '1m apart'"):
        binance.fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF)


def test_body_that_is_kept_can_be_stored(exchange, binance, monkeypatch):
    """PostgreSQL accepts no NUL in a text."""
    monkeypatch.setattr(faults, "HTML", "<html>\0</html>")
    exchange.fail_next("html", times=1000)

    with pytest.raises(BadPayload) as caught:
        binance.fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF)

    assert caught.value.body == "<html>\N{REPLACEMENT CHARACTER}</html>"


def test_a_delisted_symbol_fails_alone(exchange, every_venue, open_source, monkeypatch, clock):
    """Some exchanges give no reason. Other symbols are fetched, and this one once it is listed again."""
    monkeypatch.setattr(exchange_source, "MARKETS_RELOAD_SECONDS", 0.0)
    source = open_source(exchange.config(every_venue, deadline=0.4))
    source.fetch(make_key(every_venue), AS_OF - 5 * HOUR, AS_OF)
    exchange.delist(SYMBOLS[every_venue])
    for _ in range(2):
        with pytest.raises((UnknownSymbol, SourceUnavailable)):
            source.fetch(make_key(every_venue), AS_OF - 5 * HOUR, AS_OF)
    others = source.fetch(SeriesKey(every_venue, "ETH/USDT", "1h"), AS_OF - 5 * HOUR, AS_OF).bars
    exchange.symbols.add(SYMBOLS[every_venue])
    clock.seconds += 60  # it alone is paused

    assert len(others) == 4
    assert len(source.fetch(make_key(every_venue), AS_OF - 5 * HOUR, AS_OF).bars) == 4


def test_error_without_a_reason_reloads_the_markets(exchange, open_source, ready, clock):
    """Kraken's words for a pair that it no longer lists fit any fault: the list decides, and is then believed.

    Not more often than every ten minutes, and no other series waits for it.
    """
    source = open_source(exchange.config("kraken", deadline=0.4))
    source.fetch(make_key("kraken"), AS_OF - 5 * HOUR, AS_OF)
    before = len(exchange.asked("markets"))
    exchange.delist(SYMBOLS["kraken"])
    for _ in range(2):
        with pytest.raises(SourceUnavailable):
            ready(source).fetch(make_key("kraken"), AS_OF - 5 * HOUR, AS_OF)
    early = len(exchange.asked("markets"))
    clock.seconds += exchange_source.MARKETS_RELOAD_SECONDS
    for _ in range(3):
        with pytest.raises(UnknownSymbol):
            ready(source).fetch(make_key("kraken"), AS_OF - 5 * HOUR, AS_OF)

    assert early == before

    assert len(exchange.asked("markets")) == 2 * before


def test_an_empty_list_of_markets_is_reloaded(exchange, venue, open_source, ready):
    source = open_source(exchange.config(venue))
    symbols, exchange.symbols = exchange.symbols, set()

    with pytest.raises(BadPayload, match="expected a list of markets"):
        source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF)
    exchange.symbols = symbols

    assert len(ready(source).fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF).bars) == 4


def test_a_timeframe_that_the_exchange_lacks_is_a_config_error(exchange, open_source):
    source = open_source(exchange.config("kraken"))

    with pytest.raises(ConfigError, match=r"timeframe of BTC/USD on kraken: expected one of 1m, 5m, .*found '3m'"):
        source.fetch(make_key("kraken", "3m"), None, AS_OF)


def test_an_exchange_that_ccxt_does_not_know_is_named():
    with pytest.raises(ConfigError, match=r"exchanges.mine.id: .*such as binance.*found 'binanze'"):
        ExchangeSource("mine", ExchangeConfig(id="binanze"), MemoryStore())


@pytest.mark.parametrize("name", ["apiKey", "api_key", "secret", "password", "accessToken", "privateKey"])
@pytest.mark.parametrize("nested", [False, True])
def test_credentials_are_refused_without_being_shown(name, nested):
    options = {"spot": {name: "hunter2"}} if nested else {name: "hunter2"}

    with pytest.raises(ConfigError, match=f"{name}: expected no credentials") as caught:
        ExchangeSource("binance", ExchangeConfig(id="binance", options=options), MemoryStore())

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["maxRetriesOnFailure", "paginate"])
def test_retry_and_paging_options_are_refused(name):
    config = ExchangeConfig(id="binance", options={"fetchOHLCV": {name: 3}})

    with pytest.raises(ConfigError, match=f"{name}: expected no such option"):
        ExchangeSource("binance", config, MemoryStore())


def test_many_threads_may_fetch_at_once(exchange, every_venue, open_source):
    """The list of markets is loaded once, and each thread gets its own bars."""
    source = open_source(exchange.config(every_venue))
    keys = [
        SeriesKey(every_venue, symbol, timeframe) for symbol in sorted(exchange.symbols) for timeframe in ("1h", "5m")
    ]

    with ThreadPoolExecutor(len(keys)) as pool:
        answers = list(pool.map(lambda key: source.fetch(key, AS_OF - 20 * HOUR, AS_OF), keys))

    for key, answer in zip(keys, answers, strict=True):
        assert answer.bars.key == key
        assert_equal_to_truth(answer.bars, exchange, AS_OF - 20 * HOUR, AS_OF - 5_000)
    assert len(exchange.asked("markets")) == {
        "kraken": 2,
        "coinbase": 5,
        "coinbaseexchange": 2,
        "kucoin": 3,
        "bitstamp": 2,
    }.get(every_venue, 1)


def test_closing_ends_a_fetch_in_flight(exchange, venue, source):
    """The waiting thread and a later fetch get an error with the reason."""
    exchange.fail_next("delay", times=1000)
    caught = []

    def fetch():
        try:
            source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF)
        except SourceUnavailable as error:
            caught.append(str(error))

    thread = threading.Thread(target=fetch)
    thread.start()
    while not exchange.asked("bars"):
        time.sleep(0.01)
    source.close()
    thread.join()

    assert caught == [f"{venue}: it was closed while it was asked"]
    with pytest.raises(SourceUnavailable, match="it was closed"):
        source.fetch(make_key(venue), AS_OF - 5 * HOUR, AS_OF)


def test_closing_waits_until_a_hold_is_written(exchange, open_source):
    """A process that ends right after a refusal has recorded it."""
    entered, leave = threading.Event(), threading.Event()

    class Slow(MemoryStore):
        def hold(self, *row):
            entered.set()
            assert leave.wait(60)
            super().hold(*row)

    holds = Slow()
    source = open_source(exchange.config("kraken"), holds)
    exchange.fail_next("status", status=429, headers={"Retry-After": "90"})
    with ThreadPoolExecutor(2) as pool:
        fetched = pool.submit(source.fetch, make_key("kraken"), AS_OF - 5 * HOUR, AS_OF)
        assert entered.wait(60)
        closed = pool.submit(source.close)
        with pytest.raises(SourceUnavailable, match="it was closed"):
            fetched.result(60)
        early = closed.done()
        leave.set()
        closed.result(60)

    assert not early
    assert held_until(holds, "kraken") is not None


def test_a_source_that_never_fetched_closes_without_a_thread(venue):
    before = threading.active_count()
    source = ExchangeSource(venue, ExchangeConfig(id=venue), MemoryStore())

    source.close()
    source.close()

    assert threading.active_count() == before


def test_every_error_of_ccxt_is_mapped():
    """A new class of ccxt fails here until it is mapped."""
    decided = {name: kind for kind, names in KINDS.items() for name in names.split()}

    found = {error.__name__: error_kind(error) for error in family(BaseError)}

    assert found == decided


@pytest.mark.parametrize("error", [asyncio.TimeoutError, aiohttp.ServerDisconnectedError, ConnectionResetError])
def test_network_errors_are_unavailable(error):
    assert error_kind(error) is SourceUnavailable


def test_times_and_prices_have_the_types_of_bars(binance):
    bars = binance.fetch(make_key("binance"), AS_OF - 5 * HOUR, AS_OF).bars

    assert bars.open_time.dtype == np.int64
    assert bars.ohlcv_TF.dtype == np.float64
