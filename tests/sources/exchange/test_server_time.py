"""The exchange's clock, the dates of its answers, and Retry-After."""

import asyncio

import pytest

from forecaster.sources.exchange import server_time
from forecaster.sources.exchange.server_time import ExchangeClock, retry_after

DATE = "Mon, 10 Jun 2024 06:00:05 GMT"
DATE_MS = 1_717_999_205_000
LOCAL = DATE_MS + 50_000
"""This machine's time, which is wrong."""


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "Mon, 10 Jun 2024 06:01:05 GMT", "Date": DATE}, 60.0),
        ({"Retry-After": "Mon, 10 Jun 2024 05:01:05 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "Mon, 10 Jun 2024 06:01:05 GMT"}, None),
        ({"Retry-After": "Mon, 10 Jun 2024 06:01:05 GMT", "Date": "yesterday"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "1e9"}, None),
        ({}, None),
    ],
)
def test_seconds_to_wait(headers, seconds):
    """A date counts from the answer's own date, not from this machine's clock."""
    assert retry_after(headers) == seconds


@pytest.fixture
def clock(monkeypatch):
    """An exchange's clock on a machine whose monotonic clock is moved by hand."""
    now = [100.0]
    monkeypatch.setattr(server_time.time, "monotonic", lambda: now[0])

    async def make():
        return ExchangeClock()

    return asyncio.run(make()), now


def test_reported_time_is_carried_on(clock):
    exchange, now = clock
    exchange.synchronize(DATE_MS, LOCAL)
    now[0] += 2.5

    assert (exchange.now(), exchange.is_synchronized) == (DATE_MS + 2_500, True)


@pytest.mark.parametrize(("headers", "hours"), [({"Date": DATE}, 1), ({}, 1 / 60)])
def test_reported_time_expires(clock, headers, hours):
    """An hour; a minute where answers carry no date that would show a change."""
    exchange, now = clock
    exchange.observe_date(headers)
    exchange.synchronize(DATE_MS, LOCAL)
    now[0] += 3600 * hours - 1
    before, now[0] = exchange.is_stale(LOCAL + round(3_600_000 * hours) - 1000), now[0] + 1

    assert (before, exchange.is_stale(LOCAL + round(3_600_000 * hours))) == (False, True)


def test_time_that_has_fallen_behind_is_stale_at_once(clock):
    """This machine slept, or the exchange's clock was set."""
    exchange, _ = clock
    exchange.observe_date({"Date": DATE})
    exchange.synchronize(DATE_MS, LOCAL)
    at_first, slept = exchange.is_stale(LOCAL + 1_900), exchange.is_stale(LOCAL + 2_100)
    exchange.observe_date({"Date": "Mon, 10 Jun 2024 07:00:05 GMT"})

    assert (at_first, slept, exchange.is_stale(LOCAL)) == (False, True, True)


def test_time_that_is_ahead_is_stale_after_ten_seconds(clock):
    """A clock was set back, or a cache sends an old date: no bar is final too early, so it is not urgent."""
    exchange, now = clock
    exchange.observe_date({"Date": DATE})
    exchange.synchronize(DATE_MS, LOCAL)
    too_soon = exchange.is_stale(LOCAL - 60_000)
    now[0] += 10
    set_back = exchange.is_stale(LOCAL + 10_000 - 60_000)
    exchange.observe_date({"Date": DATE})

    assert (too_soon, set_back, exchange.is_stale(LOCAL + 10_000)) == (False, True, True)


def test_constant_difference_is_not_stale(clock):
    """The exchange is behind, or another machine makes its dates."""
    exchange, now = clock
    exchange.observe_date({"Date": DATE})
    exchange.synchronize(DATE_MS + 90_000, LOCAL)
    now[0] += 30
    exchange.observe_date({"Date": "Mon, 10 Jun 2024 06:00:35 GMT"})

    assert not exchange.is_stale(LOCAL + 30_000)


def test_missing_time_is_stale_after_a_minute(clock):
    exchange, now = clock
    exchange.synchronize(None, LOCAL)
    before, now[0] = exchange.is_stale(LOCAL), now[0] + 60

    assert (before, exchange.is_stale(LOCAL), exchange.now(), exchange.is_synchronized) == (False, True, None, False)


def test_date_of_an_answer_is_carried_on(clock):
    """Without a reported time; an invalid date changes nothing."""
    exchange, now = clock
    before = exchange.now()
    observed = exchange.observe_date({"Date": DATE})
    now[0] += 1.5
    others = [exchange.observe_date({"Date": "no date"}), exchange.observe_date({})]

    assert (before, observed, others) == (None, DATE_MS, [None, None])
    assert exchange.now() == DATE_MS + 1_500
