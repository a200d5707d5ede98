"""What an answer says about time."""

import asyncio

import pytest

from forecaster.sources import exchange_clock
from forecaster.sources.exchange_clock import ExchangeClock, retry_after

DATE = "Mon, 10 Jun 2024 06:00:05 GMT"
DATE_MS = 1_717_999_205_000


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
    exchange.set(DATE_MS)
    now[0] += 2.5

    assert exchange.now() == DATE_MS + 2_500


def test_time_is_asked_for_again_after_an_hour_or_when_it_lags(clock):
    exchange, now = clock
    exchange.set(DATE_MS)
    fresh = exchange.is_stale(DATE_MS), exchange.is_stale(DATE_MS + 1)
    now[0] += 3600

    assert fresh == (False, True)
    assert exchange.is_stale(DATE_MS)


def test_untold_time_is_asked_for_again_after_a_minute(clock):
    exchange, now = clock
    exchange.set(None)
    before, now[0] = exchange.is_stale(DATE_MS), now[0] + 60

    assert (before, exchange.is_stale(DATE_MS), exchange.now()) == (False, True, None)


def test_date_of_an_answer_goes_on(clock):
    """One that is none changes nothing."""
    exchange, now = clock
    before = exchange.dated()
    exchange.hear({"Date": DATE})
    now[0] += 1.5
    exchange.hear({"Date": "no date"})
    exchange.hear({})

    assert before is None
    assert exchange.dated() == DATE_MS + 1_500
