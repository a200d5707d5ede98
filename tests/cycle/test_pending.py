"""Work owed: every close ends in a named state, however long nobody ran and whatever the clock did."""

from __future__ import annotations

import dataclasses

import pytest

from forecaster import MemoryStore
from forecaster.cycle.pending import CATCH_UP, claim_due, complete
from forecaster.ledger import LIVE, PendingForecast, Run
from forecaster.store import open_store
from forecaster.timeframe import DAY_MS
from tests.builders import HOUR_MS, make_key, utc_ms
from tests.forecast_builders import make_forecast

KEY = make_key()
START = utc_ms("2024-01-05 00:00")


@pytest.fixture(params=["memory:", "sqlite"])
def store(request, tmp_path):
    if request.param == "memory:":
        yield MemoryStore()
        return
    store = open_store(f"sqlite:///{tmp_path}/ledger.db")
    yield store
    store.close()


def work(store, as_of, *, done=True):
    """One cycle: lease, and end as done or failed."""
    owed = claim_due(store, [KEY], "nano", as_of)
    made = [make_forecast(KEY, slot.cutoff, issued_at=as_of) for slot in owed.by_series[KEY]] if done else []
    if made:
        store.add_run(Run(LIVE, LIVE, as_of))
        store.add_forecasts(made, LIVE)
    complete(store, owed.by_series, made, {} if done else {KEY: "down"}, as_of)
    return owed


def states(store, start=0, end=2**60):
    return {slot.cutoff: slot.state for slot in store.pending_forecasts(KEY, start, end)}


def test_first_cycle_owes_the_newest_close_alone(store):
    owed = work(store, START + 5000)

    assert [slot.cutoff for slot in owed.by_series[KEY]] == [START]
    assert owed.missed == 0


def test_closes_within_the_window_are_caught_up_on(store):
    work(store, START)
    owed = work(store, START + CATCH_UP * HOUR_MS)

    assert [slot.cutoff for slot in owed.by_series[KEY]] == [START + i * HOUR_MS for i in range(1, CATCH_UP + 1)]
    assert owed.missed == 0


@pytest.mark.parametrize("days", [2, 30, 3650])
def test_closes_before_the_window_are_one_slot_that_says_missed(store, days):
    """None is without a name, and ten years are one row."""
    work(store, START)
    owed = work(store, START + days * DAY_MS)
    missed = days * 24 - CATCH_UP
    (span,) = [slot for slot in store.pending_forecasts(KEY, 0, 2**60) if slot.state == "missed"]

    assert owed.missed == missed
    assert (span.cutoff, span.claimed_until) == (START + HOUR_MS, START + missed * HOUR_MS)
    assert span.reason == f"{missed} closes in a row: no process ran"
    assert len(states(store)) == 1 + 1 + CATCH_UP


def test_missed_span_is_told_once(store):
    work(store, START)
    work(store, START + 3 * DAY_MS)
    again = work(store, START + 3 * DAY_MS + HOUR_MS)

    assert again.missed == 0


def test_two_absences_leave_two_spans(store):
    work(store, START)
    work(store, START + 3 * DAY_MS)
    work(store, START + 6 * DAY_MS)
    spans = [slot for slot in store.pending_forecasts(KEY, 0, 2**60) if slot.state == "missed"]
    named = set(states(store))
    for one in spans:
        named |= set(range(one.cutoff, one.claimed_until + 1, HOUR_MS))

    assert len(spans) == 2
    assert named == {START + i * HOUR_MS for i in range(6 * 24 + 1)}


def test_clock_that_jumped_ahead_and_back_loses_no_close(store):
    """What was written down for closes that had not come is worked on when they come."""
    work(store, START)
    work(store, START + 10 * 365 * DAY_MS, done=False)
    for i in range(1, 28):
        work(store, START + i * HOUR_MS)

    assert states(store, START, START + 28 * HOUR_MS) == {START + i * HOUR_MS: "done" for i in range(28)}


def test_absence_after_a_jump_is_recorded(store):
    """A row of the future, left by a jump, does not hide the closes that nobody forecast before it."""
    work(store, START)
    work(store, START + 3 * DAY_MS, done=False)
    work(store, START + 1 * HOUR_MS)
    work(store, START + 3 * DAY_MS + 6 * HOUR_MS)
    named = set(states(store))
    for one in store.pending_forecasts(KEY, 0, 2**60):
        if one.state == "missed":
            named |= set(range(one.cutoff, one.claimed_until + 1, HOUR_MS))

    assert {START + i * HOUR_MS for i in range(79)} <= named


def test_failed_close_is_tried_again(store):
    work(store, START)
    work(store, START + HOUR_MS, done=False)
    owed = work(store, START + HOUR_MS + 60_000)

    assert [(slot.cutoff, slot.attempts) for slot in owed.by_series[KEY]] == [(START + HOUR_MS, 2)]


def test_forecast_that_was_written_by_one_who_died_is_not_made_again(store):
    """Bars may have been revised since, and the same close with other numbers is a conflict."""
    work(store, START)
    owed = claim_due(store, [KEY], "nano", START + HOUR_MS)
    store.add_forecasts([make_forecast(KEY, START + HOUR_MS, issued_at=START + HOUR_MS)], LIVE)
    after = claim_due(store, [KEY], "nano", START + HOUR_MS + 1)

    assert len(owed.by_series[KEY]) == 1
    assert after.by_series == {KEY: []}
    assert states(store)[START + HOUR_MS] == "done"


def test_stock_nights_are_not_missed(store):
    """Only what the calendar expects counts: three weeks of days are fifteen sessions, less a holiday."""
    key = make_key("arch", "SPX/USD", "1d", "XNYS")
    owed = claim_due(store, [key], "nano", utc_ms("2024-01-05 22:00"))
    store.set_pending([dataclasses.replace(slot, state="done") for slot in owed.by_series[key]], START)
    later = claim_due(store, [key], "nano", utc_ms("2024-03-01 22:00"))
    sessions = len(key.trading_calendar.opens_between(key.timeframe, utc_ms("2024-01-06"), utc_ms("2024-03-02")))

    assert later.missed == sessions - CATCH_UP


def test_calendar_without_past_closes_owes_nothing(store):
    key = make_key("arch", "SPX/USD", "1d", "XNYS")

    assert claim_due(store, [key], "nano", utc_ms("1980-01-01")).by_series == {key: []}


def test_slot_before_is_the_newest_of_the_older(store):
    store.set_pending([PendingForecast(KEY, START + i * HOUR_MS) for i in (0, 1, 5)], START)

    assert store.pending_before(KEY, START + 5 * HOUR_MS).cutoff == START + HOUR_MS
    assert store.pending_before(KEY, START) is None
    assert store.pending_before(make_key(symbol="ETH/USDT"), START) is None


def test_work_of_one_who_died_is_ended(store):
    """Begun, killed, and nobody ran for longer than is caught up on: it does not stay begun for ever."""
    work(store, START)
    claim_due(store, [KEY], "nano", START + 3 * HOUR_MS)
    store.add_forecasts([make_forecast(KEY, START + 2 * HOUR_MS, issued_at=START + 3 * HOUR_MS)], LIVE)
    work(store, START + 5 * DAY_MS)

    assert [states(store)[START + i * HOUR_MS] for i in range(4)] == ["done", "failed", "done", "failed"]
    assert "claimed" not in states(store).values()


@pytest.mark.parametrize("hours", [CATCH_UP - 9, CATCH_UP, CATCH_UP + 10, 3 * CATCH_UP])
def test_work_of_one_who_died_is_ended_though_younger_work_is_done(store, hours):
    """A clock that was ten years behind made older closes owed than the first; whoever began them died."""
    work(store, START - 3650 * DAY_MS)
    for i in range(10):
        store.set_pending([PendingForecast(KEY, START + i * HOUR_MS, "done")], START)
    claim_due(store, [KEY], "nano", START + 9 * HOUR_MS)
    assert "claimed" in states(store).values()

    work(store, START + (9 + hours) * HOUR_MS)

    assert "claimed" not in states(store).values()
