"""When closes are due, on the wall clock and on the one that never waits."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
import structlog
from apscheduler.triggers.interval import IntervalTrigger
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.clock import now_ms
from forecaster.daemon.scheduler import Scheduler
from forecaster.daemon.time_source import Schedule, SimulatedClock, WallClock
from forecaster.errors import CalendarEnds
from forecaster.timeframe import DAY_MS, Timeframe
from tests.builders import utc_ms

SETTLE_MS = 5000
NEW_YORK = ZoneInfo("America/New_York")


def make_schedule(timeframe: str = "1h", calendar: str = "24/7", fetch_delay_ms: int = SETTLE_MS) -> Schedule:
    return Schedule("binance", Timeframe(timeframe), calendar, fetch_delay_ms)


def shown(time: int) -> str:
    return datetime.fromtimestamp(time / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def fire_times(schedule: Schedule, start: str, count: int) -> list[str]:
    """When the wall clock's trigger fires, one after the other."""
    trigger = WallClock().trigger(schedule)
    times = [trigger.get_next_fire_time(None, datetime.fromisoformat(start).replace(tzinfo=UTC))]
    while len(times) < count:
        times.append(trigger.get_next_fire_time(times[-1], times[-1]))
    return [time.strftime("%Y-%m-%d %H:%M:%S") for time in times]


def drain(clock: SimulatedClock, schedules: list[Schedule], count: int) -> list[tuple[str, str]]:
    """The next cycles, as a daemon gets them that asks every schedule again and again, with nothing pending."""
    cycles = []
    for schedule in itertools.cycle(schedules):
        as_of = clock.due(schedule, 0)
        if as_of is not None:
            cycles.append((str(schedule.timeframe), shown(as_of)))
        if len(cycles) == count:
            return cycles
    return cycles


@pytest.mark.parametrize(
    ("after", "due"),
    [
        ("2024-01-01 10:00:00", "2024-01-01 10:00:05"),
        ("2024-01-01 10:00:04", "2024-01-01 10:00:05"),
        ("2024-01-01 10:00:05", "2024-01-01 11:00:05"),
        ("2024-01-01 10:30:00", "2024-01-01 11:00:05"),
        ("2023-12-31 23:59:59", "2024-01-01 00:00:05"),
    ],
)
def test_a_cycle_is_due_shortly_after_the_close(after, due):
    """A close whose bars have not settled yet is still ahead, and a due time is never its own successor."""
    assert shown(make_schedule().next_due(utc_ms(after))) == due


def test_without_settling_the_close_itself_is_due():
    schedule = make_schedule(fetch_delay_ms=0)

    assert schedule.next_due(utc_ms("2024-01-01 10:00") - 1) == utc_ms("2024-01-01 10:00")
    assert schedule.next_due(utc_ms("2024-01-01 10:00")) == utc_ms("2024-01-01 11:00")


@pytest.mark.parametrize(
    ("after", "due"),
    [
        ("2018-11-20 12:00:00", "2018-11-20 21:00:05"),
        ("2018-11-21 21:00:05", "2018-11-23 18:00:05"),
        ("2018-11-23 18:00:04", "2018-11-23 18:00:05"),
        ("2018-11-23 18:00:05", "2018-11-26 21:00:05"),
        ("2018-03-09 21:00:05", "2018-03-12 20:00:05"),
        ("2018-11-02 20:00:05", "2018-11-05 21:00:05"),
    ],
    ids=["day", "holiday", "early close", "weekend", "summer time", "winter time"],
)
def test_a_cycle_of_stocks_is_due_after_its_session(after, due):
    assert shown(make_schedule("1d", "XNYS").next_due(utc_ms(after))) == due


def test_intraday_cycles_of_stocks_end_with_the_session():
    """On a short day the last hour is the last half hour, and the next close is on Monday."""
    schedule = make_schedule("1h", "XNYS")

    assert fire_times(schedule, "2018-11-23 16:30:05", 4) == [
        "2018-11-23 17:30:05",
        "2018-11-23 18:00:05",
        "2018-11-26 15:30:05",
        "2018-11-26 16:30:05",
    ]


def test_the_wall_clock_fires_at_every_close():
    assert fire_times(make_schedule("4h"), "2024-01-01 03:59:59", 4) == [
        "2024-01-01 04:00:05",
        "2024-01-01 08:00:05",
        "2024-01-01 12:00:05",
        "2024-01-01 16:00:05",
    ]


@pytest.mark.parametrize("day", ["2024-03-10", "2024-11-03"], ids=["spring", "autumn"])
def test_daylight_saving_neither_skips_nor_repeats_an_hour(day):
    """As a trigger that counts on a local clock would, in the night when New York's clocks change."""
    times = fire_times(make_schedule(), f"{day} 03:30:00", 8)

    assert times == [f"{day} {hour:02}:00:05" for hour in range(4, 12)]


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    st.sampled_from(["1m", "15m", "1h", "1d"]),
    st.sampled_from(["24/7", "XNYS"]),
    st.integers(0, 600_000),
    st.integers(utc_ms("2000-01-01"), utc_ms("2020-01-01")),
    st.sampled_from([UTC, NEW_YORK]),
)
def test_the_trigger_fires_strictly_later_than_before(timeframe, calendar, fetch_delay_ms, previous, zone):
    """In whatever zone it is asked: the same close twice would be a cycle twice, one left out would be none."""
    schedule = make_schedule(timeframe, calendar, fetch_delay_ms)
    trigger = WallClock().trigger(schedule)
    before = datetime.fromtimestamp(previous / 1000, zone)

    first = trigger.get_next_fire_time(before, before)
    second = trigger.get_next_fire_time(first.astimezone(zone), first)

    assert before < first < second
    assert round(first.timestamp() * 1000) == schedule.next_due(previous)
    assert round(second.timestamp() * 1000) == schedule.next_due(schedule.next_due(previous))


def test_the_trigger_does_not_make_up_for_what_it_missed():
    """A machine that slept is called once, at the next close: what is owed is in the ledger."""
    trigger = WallClock().trigger(make_schedule())
    before = datetime(2024, 1, 1, 10, 0, 5, tzinfo=UTC)
    now = datetime(2024, 1, 1, 15, 30, tzinfo=UTC)

    assert trigger.get_next_fire_time(before, now) == datetime(2024, 1, 1, 16, 0, 5, tzinfo=UTC)
    assert trigger.get_next_fire_time(now, before) == datetime(2024, 1, 1, 16, 0, 5, tzinfo=UTC)
    assert trigger.get_next_fire_time(None, now) == datetime(2024, 1, 1, 16, 0, 5, tzinfo=UTC)


def test_a_trigger_answers_in_utc():
    trigger = WallClock().trigger(make_schedule())

    assert trigger.get_next_fire_time(None, datetime(2024, 1, 1, 5, tzinfo=NEW_YORK)).tzinfo is UTC


def test_a_trigger_names_its_schedule():
    assert str(WallClock().trigger(make_schedule("1d", "XNYS"))) == "close[binance 1d XNYS]"


@pytest.mark.parametrize("pending", [0, 7])
def test_on_the_wall_clock_a_cycle_is_as_of_now(pending):
    """It finds the newest close by itself, however late it is."""
    before = now_ms()

    as_of = WallClock().due(make_schedule(), pending)

    assert before <= as_of <= now_ms()


def test_sped_up_time_jumps_from_close_to_close():
    schedule = make_schedule()

    cycles = drain(SimulatedClock(utc_ms("2024-01-01 00:30"), [schedule]), [schedule], 3)

    assert cycles == [("1h", "2024-01-01 01:00:05"), ("1h", "2024-01-01 02:00:05"), ("1h", "2024-01-01 03:00:05")]


def test_sped_up_stocks_jump_holidays_and_weekends():
    schedule = make_schedule("1d", "XNYS", 0)

    cycles = drain(SimulatedClock(utc_ms("2018-11-21"), [schedule]), [schedule], 3)

    assert [time for _, time in cycles] == ["2018-11-21 21:00:00", "2018-11-23 18:00:00", "2018-11-26 21:00:00"]


def test_closes_of_two_schedules_come_in_the_order_of_time():
    """Whichever is asked first; where both close at once, both come, and neither twice."""
    hourly, slow = make_schedule("1h"), make_schedule("2h")
    expected = [("1h", "01"), ("1h", "02"), ("2h", "02"), ("1h", "03"), ("1h", "04"), ("2h", "04"), ("1h", "05")]

    for asked in ([hourly, slow], [slow, hourly]):
        cycles = drain(SimulatedClock(utc_ms("2024-01-01 00:30"), asked), asked, 7)

        assert sorted(cycles, key=lambda one: (one[1], one[0])) == sorted(
            [(name, f"2024-01-01 {hour}:00:05") for name, hour in expected], key=lambda one: (one[1], one[0])
        )
        assert [time for _, time in cycles] == sorted(time for _, time in cycles)


def test_a_calendar_that_ends_holds_up_no_other_schedule(monkeypatch):
    """Its last close comes; from then on sped-up time goes on with the others."""
    hourly, stocks = make_schedule("1h"), make_schedule("1d", "XSHG")
    end, next_due = utc_ms("2024-01-02 07:30"), Schedule.next_due

    def until_the_end(schedule, after):
        if schedule == stocks and after > end - DAY_MS:
            raise CalendarEnds("XSHG", after, end)
        return next_due(schedule, after)

    monkeypatch.setattr(Schedule, "next_due", until_the_end)
    cycles = drain(SimulatedClock(utc_ms("2024-01-01 00:00"), [stocks, hourly]), [stocks, hourly], 60)

    assert [time for name, time in cycles if name == "1d"] == ["2024-01-02 07:00:05"]
    assert cycles[-1] == ("1h", "2024-01-03 10:00:05")


def test_a_schedule_waits_for_the_earlier_close_of_another():
    hourly, stocks = make_schedule("1h"), make_schedule("1d", "XNYS")
    clock = SimulatedClock(utc_ms("2018-11-23 16:30"), [hourly, stocks])

    assert clock.due(stocks, 0) is None
    assert shown(clock.due(hourly, 0)) == "2018-11-23 17:00:05"
    assert shown(clock.due(stocks, 0)) == "2018-11-23 18:00:05"
    assert clock.due(stocks, 0) is None
    assert shown(clock.due(hourly, 0)) == "2018-11-23 18:00:05"


def test_time_stands_still_while_work_is_pending():
    """Otherwise a slow model would forecast with bars it could not have had."""
    schedule = make_schedule()
    clock = SimulatedClock(utc_ms("2024-01-01 00:30"), [schedule])

    assert clock.due(schedule, 1) is None
    assert clock.now() == utc_ms("2024-01-01 00:30")
    assert clock.due(schedule, 0) == clock.now() == utc_ms("2024-01-01 01:00:05")
    assert clock.due(schedule, 2) is None
    assert clock.now() == utc_ms("2024-01-01 01:00:05")


def test_a_sped_up_trigger_asks_again_at_once():
    """In real time, a few hundredths of a second later, whatever the timeframe."""
    schedule = make_schedule("1d")
    trigger = SimulatedClock(utc_ms("2024-01-01 00:30"), [schedule]).trigger(schedule)
    before = datetime.fromtimestamp(now_ms() / 1000, UTC)

    assert (trigger.get_next_fire_time(before, before) - before).total_seconds() < 0.1


def test_a_schedule_whose_calendar_ends_fires_no_more():
    """Shanghai's sessions are recorded to the end of 2026: the last close fires, then nothing, with one warning."""
    trigger = WallClock().trigger(make_schedule("1d", "XSHG"))
    before = datetime(2026, 12, 31, 6, 59, tzinfo=UTC)
    with structlog.testing.capture_logs() as logs:
        last = trigger.get_next_fire_time(None, before)

        assert last == datetime(2026, 12, 31, 7, 0, 5, tzinfo=UTC)
        assert logs == []

        after = trigger.get_next_fire_time(last, last)

    assert after is None
    (told,) = logs
    assert (told["event"], told["log_level"]) == ("schedule.ended", "warning")
    assert "calendar XSHG" in told["reason"]
    assert "upgrade exchange_calendars" in told["reason"]


def test_scheduler_outlives_a_schedule_whose_calendar_ends():
    """A calendar that has ended before now is no fault of the scheduler's; the other schedule is called for."""
    ended, living = Schedule("sse", Timeframe("1d"), "XSHG", -(10**12)), make_schedule("1m")
    called, twice, faults = [], threading.Event(), []

    def call(schedule):
        called.append(schedule)
        if len(called) > 1:
            twice.set()

    scheduler = Scheduler([ended, living], OneIsQuick(living), call, on_fault=faults.append)
    scheduler.start()
    try:
        assert twice.wait(30)
    finally:
        scheduler.stop()

    assert faults == []
    assert set(called) == {living}


class OneIsQuick(WallClock):
    """Real time, but for one schedule that is due every few milliseconds."""

    def __init__(self, quick):
        self.quick = quick

    def trigger(self, schedule):
        return IntervalTrigger(seconds=0.01, timezone=UTC) if schedule == self.quick else super().trigger(schedule)


def test_sped_up_time_goes_on_without_a_calendar_that_ends():
    """The close of the others comes next, and of it alone."""
    ended, living = make_schedule("1d", "XSHG", 0), make_schedule("1d", fetch_delay_ms=0)
    clock = SimulatedClock(utc_ms("2026-12-30 12:00"), [ended, living])

    cycles = [(str(one.calendar), clock.due(one, 0)) for _ in range(3) for one in (ended, living)]

    assert [(name, shown(at)[:10]) for name, at in cycles if at] == [
        ("24/7", "2026-12-31"),
        ("XSHG", "2026-12-31"),
        ("24/7", "2027-01-01"),
        ("24/7", "2027-01-02"),
    ]
    assert SimulatedClock(utc_ms("2027-02-01"), [ended]).due(ended, 0) is None


def test_schedules_that_are_equal_are_one():
    """They stand in dictionaries, one job each."""
    assert {make_schedule(), make_schedule()} == {make_schedule()}
