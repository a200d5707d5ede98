"""The daemon: what is queued runs in order, stopping is clean, and its scheduler outlives a fault."""

from __future__ import annotations

import datetime as dt
import threading
import time

import pytest
from apscheduler.jobstores.memory import MemoryJobStore
from apscheduler.triggers.base import BaseTrigger

from forecaster.daemon.clock import SpedUpClock, WallClock
from forecaster.daemon.scheduler import _JOB_DEFAULTS, Daemon, _GuardedScheduler, schedules
from tests.builders import HOUR_MS, make_bars, make_key
from tests.test_engine import make_forecaster


@pytest.fixture
def bars():
    return make_bars(count=120)


def make_daemon(forecaster, start, on_cycle=None):
    return Daemon(forecaster, SpedUpClock(start, schedules(forecaster.config)), on_cycle)


def test_cycles_follow_the_closes(bars):
    """Every close once, in order, with nothing skipped."""
    forecaster = make_forecaster(bars)
    reports = []
    done = make_daemon(forecaster, int(bars.close_time[80]), reports.append).run(cycles=10)

    assert done == 10
    assert [one.as_of for one in reports] == [int(bars.close_time[i]) + 5000 for i in range(80, 90)]
    assert all(len(one.forecasts) == 1 for one in reports)


def test_stop_from_another_thread(bars):
    forecaster = make_forecaster(bars)
    daemon = Daemon(forecaster, WallClock())
    timer = threading.Timer(0.2, daemon.stop)
    timer.start()

    assert daemon.run() == 0
    timer.join()


def test_queue_now_owes_one_cycle_per_timeframe(bars):
    """What closed while nobody was there is forecast at the start."""
    forecaster = make_forecaster(bars)
    clock = SpedUpClock(int(bars.close_time[99]) + 1, schedules(forecaster.config))
    reports = []
    daemon = Daemon(forecaster, clock, reports.append)
    daemon.queue_now()
    daemon.run(cycles=1)

    assert [one.forecasts[0].cutoff for one in reports] == [bars.close_time[99]]


def test_fault_in_a_cycle_ends_the_run(bars):
    """Nothing is swallowed: what is no fault of one series goes up, and the scheduler is shut down."""

    def fail(report):
        msg = "view failed"
        raise RuntimeError(msg)

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="view failed"):
        make_daemon(make_forecaster(bars), int(bars.close_time[80]), fail).run()
    time.sleep(0.2)

    assert threading.active_count() <= before + 1


class BrokenTrigger(BaseTrigger):
    """Raises once inside the scheduler's loop, then fires."""

    def __init__(self):
        self.asked = 0

    def get_next_fire_time(self, previous_fire_time, now):
        self.asked += 1
        if self.asked == 2:
            msg = "injected"
            raise RuntimeError(msg)
        return now + dt.timedelta(seconds=0.05)


def test_scheduler_outlives_a_fault_in_a_trigger(capsys):
    """Unguarded, one exception inside `_process_jobs` would end scheduling in silence."""
    fired = threading.Event()
    scheduler = _GuardedScheduler(job_defaults=_JOB_DEFAULTS, timezone="UTC")
    scheduler.add_job(lambda: None, BrokenTrigger())
    scheduler.start()
    time.sleep(0.3)
    scheduler.add_job(fired.set, "date", run_date=dt.datetime(2020, 1, 1, tzinfo=dt.UTC))

    assert fired.wait(5)
    scheduler.shutdown(wait=False)


def test_jobs_are_kept_in_memory_alone(bars):
    scheduler = _GuardedScheduler(job_defaults=_JOB_DEFAULTS, timezone="UTC")
    scheduler.start(paused=True)

    assert isinstance(scheduler._lookup_jobstore("default"), MemoryJobStore)
    scheduler.shutdown(wait=False)


def test_one_schedule_for_each_timeframe_and_calendar(bars):
    stock = make_bars(make_key(symbol="AAPL/USD", exchange="files"), count=50)

    assert len(schedules(make_forecaster(bars, stock).config)) == 1
    assert schedules(make_forecaster(bars).config)[0].next_due(5000) == HOUR_MS + 5000
