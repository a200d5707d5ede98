"""The scheduler: what APScheduler does wrong when it is left to itself, and that ours goes on all the same."""

from __future__ import annotations

import datetime as dt
import threading
import time
from datetime import UTC
from itertools import count, pairwise

import pytest
import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from forecaster.calendars import get_calendar
from forecaster.clock import now_ms
from forecaster.daemon import scheduler as module
from forecaster.daemon.scheduler import Scheduler, _GuardedScheduler, _GuardedTrigger, schedules_of
from forecaster.daemon.time_source import Schedule, WallClock
from forecaster.errors import ConfigError
from forecaster.timeframe import DAY_MS, Timeframe
from tests.builders import make_bars, make_key
from tests.test_engine import make_forecaster

HOURLY = Schedule("binance", Timeframe("1h"), "24/7", 5000)
YEAR_OF_MINUTES = dt.timedelta(days=365)
PATIENCE = 300.0
"""Seconds that only a scheduler that hangs takes."""


class Ticks(BaseTrigger):
    """Fires every `seconds`, and raises when it is asked for the `broken`th time."""

    def __init__(self, seconds=0.05, broken=0):
        self.seconds = seconds
        self.broken = broken
        self.asked = 0

    def get_next_fire_time(self, previous_fire_time, now):
        self.asked += 1
        if self.asked == self.broken:
            msg = "injected"
            raise RuntimeError(msg)
        return now + dt.timedelta(seconds=self.seconds)


class TickClock(WallClock):
    """The wall clock, but everything is due all the time."""

    def __init__(self, broken=0):
        self.triggers = []
        self.broken = broken

    def trigger(self, schedule):
        self.triggers.append(Ticks(broken=self.broken))
        return self.triggers[-1]


class FarClock(WallClock):
    """The wall clock, but nothing is due."""

    def trigger(self, schedule):
        return Ticks(seconds=10**6)


class Asked(BaseTrigger):
    """A trigger that counts how often it is asked."""

    def __init__(self, trigger):
        self.trigger = trigger
        self.asked = 0

    def get_next_fire_time(self, previous_fire_time, now):
        self.asked += 1
        return self.trigger.get_next_fire_time(previous_fire_time, now)


def wait_until(condition):
    give_up = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.005)
    return condition()


class Calls:
    """Counts what a scheduler does; `wait_for` waits for more calls."""

    def __init__(self, clock, call=lambda _: None):
        self.calls, self.turns, self.faults = [], 0, []
        self._more = threading.Condition()
        self._call = call
        self.scheduler = Scheduler([HOURLY], clock, self.called, self.turned, self.faults.append)

    def __enter__(self):
        self.scheduler.start()
        return self

    def __exit__(self, *_):
        self.scheduler.stop()

    def called(self, schedule):
        with self._more:
            self.calls.append(schedule)
            self._more.notify_all()
        self._call(schedule)

    def turned(self):
        self.turns += 1

    def wait_for(self, more):
        with self._more:
            before = len(self.calls)
            return self._more.wait_for(lambda: len(self.calls) >= before + more, PATIENCE)


def at(text):
    return dt.datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def quick(monkeypatch):
    """Have the clock looked at more often than every 5 seconds."""
    monkeypatch.setattr(module, "WAKE_SECONDS", 0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_apscheduler_alone_ends_in_silence_at_a_fault():
    """The control of the next test: one exception in its loop, and nothing is called any more; `running` stays True."""
    called = []
    scheduler = BackgroundScheduler(timezone="UTC")
    scheduler.add_job(called.append, Ticks(broken=3), args=[1], misfire_grace_time=None)
    scheduler.start()
    scheduler._thread.join()
    still_runs = scheduler.running
    scheduler.shutdown()

    assert still_runs
    assert len(called) == 1


def test_fault_in_a_trigger_is_outlived():
    """Pitfall 1: counted, logged, and calls go on."""
    with Calls(TickClock(broken=3)) as calls:
        assert calls.wait_for(5)
        assert [str(condition) for condition in calls.faults] == ["injected"]


DAILY = Schedule("files", Timeframe("1d"), "XNYS", 5000)


class Spoiled(BaseTrigger):
    """A trigger that is asked once in vain, or for ever, after `well` times that went well."""

    def __init__(self, well):
        self.well = well

    def get_next_fire_time(self, previous_fire_time, now):
        self.well -= 1
        if self.well < 0:
            raise ConfigError("calendar", "one that goes on", "XNYS")
        return now


class SpoiledClock(TickClock):
    """The first schedule's trigger fails, from the start or later, or cannot be made."""

    def __init__(self, well):
        super().__init__()
        self.well = well

    def trigger(self, schedule):
        if schedule == HOURLY:
            return super().trigger(schedule)
        if self.well is None:
            raise ConfigError("calendar", "one that can be computed", "XNYS")
        return Spoiled(self.well)


@pytest.mark.parametrize("well", [None, 0, 1, 2], ids=["never made", "at the start", "at the first", "later"])
def test_schedule_whose_trigger_fails_for_good_stops_no_other(well):
    """It is told by its name, and is called for all the same: its cycle says what is wrong."""
    called, faults = [], []
    scheduler = Scheduler([DAILY, HOURLY], SpoiledClock(well), called.append, on_fault=faults.append)
    with structlog.testing.capture_logs() as logs:
        scheduler.start()
        went_on = wait_until(lambda: called.count(HOURLY) >= 5 and DAILY in called)
        scheduler.stop()

    assert went_on
    assert {type(condition) for condition in faults} == {ConfigError}
    assert {event["schedule"] for event in logs if event["event"] == "scheduler.faulted"} == {str(DAILY)}


def test_trigger_that_fails_is_asked_less_and_less_often():
    """Up to once a minute; and after it went well, soon again."""
    trigger, faults = Spoiled(0), []
    guarded = _GuardedTrigger(lambda: trigger, faults.append)
    now = at("2024-01-01")
    waits = [(guarded.get_next_fire_time(None, now) - now).total_seconds() for _ in range(8)]
    trigger.well = 1
    mended = guarded.get_next_fire_time(None, now)

    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert mended == now
    assert (guarded.get_next_fire_time(None, now) - now).total_seconds() == 1
    assert len(faults) == 9


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3)])
def test_call_that_fails_after_a_jump_stops_no_other(quick, monkeypatch, error):
    """After a jump everything is called for; also the second time, when the first has failed."""
    called, faults = [], []

    def call(schedule):
        if schedule == DAILY:
            raise error
        called.append(schedule)

    scheduler = Scheduler([DAILY, HOURLY], FarClock(), call, on_fault=faults.append)
    scheduler.start()
    for times in (1, 2):
        monkeypatch.setattr(module, "now_ms", lambda times=times: now_ms() + times * 3_650 * DAY_MS)

        assert wait_until(lambda times=times: len(called) >= times)
    scheduler.stop()

    assert faults[:2] == [error, error]


def test_fault_in_what_is_reported_of_faults_is_outlived():
    def fail(error):
        raise OSError(error)

    called = []
    scheduler = Scheduler([HOURLY], TickClock(broken=2), called.append, on_fault=fail)
    scheduler.start()
    went_on = wait_until(lambda: len(called) >= 4)
    scheduler.stop()

    assert went_on


def test_fault_in_the_job_store_is_outlived(monkeypatch):
    with Calls(TickClock()) as calls:
        calls.wait_for(1)
        update = MemoryJobStore.update_job
        left = iter([True])

        def fail_once(store, job):
            if next(left, False):
                msg = "store"
                raise OSError(msg)
            return update(store, job)

        monkeypatch.setattr(MemoryJobStore, "update_job", fail_once)

        assert calls.wait_for(3)
        assert [str(condition) for condition in calls.faults] == ["store"]


def test_fault_in_a_call_is_reported_and_outlived():
    """Pitfall 13: APScheduler swallows what a job raises, `SystemExit` too."""
    raised = iter([ValueError("bad"), SystemExit(3)])

    def call(_):
        error = next(raised, None)
        if error is not None:
            raise error

    with Calls(TickClock(), call) as calls:
        assert calls.wait_for(4)
        assert sorted(type(condition).__name__ for condition in calls.faults) == ["SystemExit", "ValueError"]


def test_fault_in_a_listener_is_outlived():
    """Pitfall 15: listeners run inside the loop; one that raises must not end it."""

    def listen(event):
        raise RuntimeError(event)

    with Calls(TickClock()) as calls:
        calls.scheduler._loop.add_listener(listen)

        assert calls.wait_for(4)


def test_fault_in_the_logger_is_outlived(monkeypatch):
    def fail(*_, **__):
        msg = "disk full"
        raise OSError(msg)

    clock = TickClock(broken=3)
    with Calls(clock) as calls:
        monkeypatch.setattr(module, "_log", type("Log", (), {"error": fail, "warning": fail}))

        assert calls.wait_for(5)


def test_calls_pile_up_to_one_and_none_is_dropped_for_being_late():
    """Pitfall 2: by default APScheduler drops work that is a second late."""
    scheduler = _GuardedScheduler(lambda: None, lambda _: None)
    scheduler.start(paused=True)
    job = scheduler.add_job(print, "date", run_date=at("2030-01-01"))
    scheduler.shutdown(wait=False)

    assert (job.misfire_grace_time, job.coalesce, job.max_instances) == (None, True, 1)


def test_clock_set_forward_is_noticed(quick, monkeypatch):
    """Pitfall 3: everything is called for at once, although the loop sleeps until the old time."""
    with Calls(WallClock()) as calls:
        monkeypatch.setattr(module, "now_ms", lambda: now_ms() + 10 * 365 * DAY_MS)

        assert calls.wait_for(1)


def test_clock_set_back_does_not_stop_calls(quick, monkeypatch):
    """Pitfall 4: jobs are made anew, so they wait for the next close of the clock as it is now."""
    with Calls(TickClock()) as calls:
        made = len(calls.scheduler._clock.triggers)
        monkeypatch.setattr(module, "now_ms", lambda: now_ms() - 10 * 365 * DAY_MS)

        assert calls.wait_for(1)
        assert wait_until(lambda: len(calls.scheduler._clock.triggers) > made)


def test_clock_that_is_slewed_is_no_jump(quick, monkeypatch):
    """Less than a jump from look to look, and more than one in all."""
    looks = count()
    monkeypatch.setattr(module, "now_ms", lambda: time.monotonic_ns() // 10**6 + 100 * next(looks))
    with Calls(FarClock()) as calls:
        assert wait_until(lambda: calls.turns > 3 * module.CLOCK_JUMP_MS / 100)
        assert calls.calls == []


def test_year_of_missed_minutes_is_one_call():
    """Pitfall 5: APScheduler asks the trigger for each missed run, with its lock held."""
    trigger = Asked(WallClock().trigger(Schedule("binance", Timeframe("1m"), "24/7", 0)))
    scheduler = _GuardedScheduler(lambda: None, lambda _: None)
    scheduler.start(paused=True)
    job = scheduler.add_job(print, trigger)
    job.modify(next_run_time=at("2024-01-01"))
    trigger.asked = 0
    runs = job._get_run_times(at("2024-01-01") + YEAR_OF_MINUTES)
    scheduler.shutdown(wait=False)

    assert len(runs) == 1
    assert trigger.asked == 1


def test_stopping_waits_for_no_one():
    """Pitfall 8: `shutdown(wait=True)` hangs where a job asks the scheduler; ours do not, and it is not used."""
    entered, leave, left = threading.Event(), threading.Event(), threading.Event()

    def call(_):
        entered.set()
        leave.wait(PATIENCE)
        left.set()

    with Calls(TickClock(), call) as calls:
        assert entered.wait(PATIENCE)
        calls.scheduler.stop()
        waited = left.is_set()
        leave.set()
        calls.scheduler.stop = lambda: None

    assert not waited


def test_calls_run_on_a_pool_of_threads():
    """Pitfall 9: AsyncIOScheduler would cancel them when it ends."""
    scheduler = _GuardedScheduler(lambda: None, lambda _: None)
    scheduler.start(paused=True)

    assert isinstance(scheduler, BackgroundScheduler)
    assert isinstance(scheduler._lookup_executor("default"), ThreadPoolExecutor)
    scheduler.shutdown(wait=False)


def test_thousand_closes_do_not_drift():
    """Pitfall 10: an interval with jitter was 41 minutes off after a thousand minutes."""
    trigger = WallClock().trigger(Schedule("binance", Timeframe("1m"), "24/7", 5000))
    fired = trigger.get_next_fire_time(None, at("2024-01-01"))
    for _ in range(1000):
        fired = trigger.get_next_fire_time(fired, fired + dt.timedelta(milliseconds=300))

    assert fired == at("2024-01-01") + dt.timedelta(minutes=1000, seconds=5)


@pytest.mark.parametrize("day", ["2024-03-10", "2024-11-03"])
def test_daylight_saving_is_unknown(day):
    """Pitfall 11: four hours stay four hours on both days."""
    trigger = WallClock().trigger(Schedule("binance", Timeframe("4h"), "24/7", 0))
    fired = [trigger.get_next_fire_time(None, at(day))]
    fired += [trigger.get_next_fire_time(fired[-1], fired[-1]) for _ in range(1)]
    for _ in range(10):
        fired.append(trigger.get_next_fire_time(fired[-1], fired[-1]))

    assert {later - earlier for earlier, later in pairwise(fired)} == {dt.timedelta(hours=4)}


def test_jobs_are_kept_in_memory_alone():
    """Pitfalls 12 and 14: no crontab is parsed, and nothing is pickled."""
    scheduler = _GuardedScheduler(lambda: None, lambda _: None)
    scheduler.start(paused=True)

    assert isinstance(scheduler._lookup_jobstore("default"), MemoryJobStore)
    assert str(scheduler.timezone) == "UTC"
    scheduler.shutdown(wait=False)


def test_one_job_for_each_exchange_and_timeframe():
    """Pitfall 16: 3,000 jobs at one instant start one after the other, the last 282 ms late."""
    many = [make_bars(make_key(symbol=f"C{i}/USDT"), count=50) for i in range(30)]
    stock = make_bars(make_key(symbol="AAPL/USD", exchange="files"), count=50)

    assert len(schedules_of(make_forecaster(*many).config)) == 1
    assert len(schedules_of(make_forecaster(*many, stock).config)) == 2


def test_wedged_loop_is_known_by_its_turns(quick, monkeypatch):
    """What is watched is progress, and not `running`: a call that holds the loop's lock ends the turns."""
    looks = []
    monkeypatch.setattr(module, "now_ms", lambda: looks.append(1) or now_ms())
    with Calls(TickClock()) as calls:
        calls.wait_for(1)
        with calls.scheduler._loop._jobstores_lock:
            looks.clear()
            assert wait_until(lambda: len(looks) > 10)
            before = calls.turns
            assert wait_until(lambda: len(looks) > 30)
            wedged = calls.turns - before
            running = calls.scheduler._loop.running

    assert (wedged, running) == (0, True)


def test_calendar_is_extended_as_time_goes_on():
    """A process that runs for years does not run out of sessions."""
    newest = get_calendar("XNYS").next_close(Timeframe("1d"), now_ms() + 3 * 365 * DAY_MS)

    assert newest > now_ms() + 3 * 365 * DAY_MS
