"""What an answer says about time."""

import asyncio

import pytest

from forecaster.sources.exchange import server_time as exchange_clock
from forecaster.sources.exchange.server_time import ExchangeClock, retry_after

DATE = "Mon, 10 Jun 2024 06:00:05 GMT"
DATE_MS = 1_717_999_205_000
HERE = DATE_MS + 50_000
"""This machine's clock, which is wrong."""


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
    """A date counts from the answer's own: this machine's clock takes no part."""
    assert retry_after(headers) == seconds


@pytest.fixture
def clock(monkeypatch):
    """An exchange's clock on a machine whose monotonic clock is moved by hand."""
    now = [100.0]
    monkeypatch.setattr(exchange_clock.time, "monotonic", lambda: now[0])

    async def make():
        return ExchangeClock()

    return asyncio.run(make()), now


def test_told_time_goes_on(clock):
    exchange, now = clock
    exchange.set(DATE_MS, HERE)
    now[0] += 2.5

    assert (exchange.now(), exchange.is_told) == (DATE_MS + 2_500, True)


@pytest.mark.parametrize(("headers", "hours"), [({"Date": DATE}, 1), ({}, 1 / 60)])
def test_time_is_asked_for_again_after_a_while(clock, headers, hours):
    """An hour; a minute where answers carry no date that would show a change."""
    exchange, now = clock
    exchange.hear(headers)
    exchange.set(DATE_MS, HERE)
    now[0] += 3600 * hours - 1
    before, now[0] = exchange.is_stale(HERE + round(3_600_000 * hours) - 1000), now[0] + 1

    assert (before, exchange.is_stale(HERE + round(3_600_000 * hours))) == (False, True)


def test_time_is_asked_for_again_when_it_has_fallen_behind(clock):
    """This machine slept, and its monotonic clock stood still; or a date says that the exchange's clock was set."""
    exchange, _ = clock
    exchange.hear({"Date": DATE})
    exchange.set(DATE_MS, HERE)
    at_first, slept = exchange.is_stale(HERE + 1_900), exchange.is_stale(HERE + 2_100)
    exchange.hear({"Date": "Mon, 10 Jun 2024 07:00:05 GMT"})

    assert (at_first, slept, exchange.is_stale(HERE)) == (False, True, True)


def test_time_that_is_ahead_of_others_is_asked_for_again_after_a_while(clock):
    """A clock was set back, or a cache gives an old date: nothing is final too early by these, so not each second."""
    exchange, now = clock
    exchange.hear({"Date": DATE})
    exchange.set(DATE_MS, HERE)
    too_soon = exchange.is_stale(HERE - 60_000)
    now[0] += 10
    set_back = exchange.is_stale(HERE + 10_000 - 60_000)
    exchange.hear({"Date": DATE})

    assert (too_soon, set_back, exchange.is_stale(HERE + 10_000)) == (False, True, True)


def test_difference_that_stays_is_not_asked_about(clock):
    """Of an exchange that is behind, or whose dates another machine makes."""
    exchange, now = clock
    exchange.hear({"Date": DATE})
    exchange.set(DATE_MS + 90_000, HERE)
    now[0] += 30
    exchange.hear({"Date": "Mon, 10 Jun 2024 06:00:35 GMT"})

    assert not exchange.is_stale(HERE + 30_000)


def test_untold_time_is_asked_for_again_after_a_minute(clock):
    exchange, now = clock
    exchange.set(None, HERE)
    before, now[0] = exchange.is_stale(HERE), now[0] + 60

    assert (before, exchange.is_stale(HERE), exchange.now(), exchange.is_told) == (False, True, None, False)


def test_date_of_an_answer_goes_on(clock):
    """Where no time is told; one that is none changes nothing."""
    exchange, now = clock
    before = exchange.now()
    heard = exchange.hear({"Date": DATE})
    now[0] += 1.5
    others = [exchange.hear({"Date": "no date"}), exchange.hear({})]

    assert (before, heard, others) == (None, DATE_MS, [None, None])
    assert exchange.now() == DATE_MS + 1_500
