"""The daemon: what is called for runs in order, stopping is clean, and a fault of the caller goes up."""

from __future__ import annotations

import threading

import pytest

from forecaster.daemon.daemon import Daemon
from forecaster.daemon.scheduler import schedules_of
from forecaster.daemon.time_source import SimulatedClock
from tests.builders import HOUR_MS, make_bars
from tests.daemon.test_scheduler import FarClock, wait_until
from tests.test_engine import make_forecaster


@pytest.fixture
def bars():
    return make_bars(count=120)


def make_daemon(forecaster, start):
    return Daemon(forecaster, SimulatedClock(start, schedules_of(forecaster.config)))


def test_cycles_follow_the_closes(bars):
    """Every close once, in order, with nothing skipped."""
    reports = []
    done = make_daemon(make_forecaster(bars), int(bars.close_time[80])).run(10, reports.append)

    assert done == 10
    assert [report.as_of for report in reports] == [int(bars.close_time[i]) + 5000 for i in range(80, 90)]
    assert all(len(report.forecasts) == 1 for report in reports)


def test_stop_from_another_thread(bars):
    daemon = Daemon(make_forecaster(bars), FarClock())
    timer = threading.Timer(0.1, daemon.stop)
    timer.start()

    assert daemon.run() == 0
    timer.join()


def test_owe_all_calls_for_one_cycle_of_everything(bars):
    """What closed while nobody was there is forecast at the start."""
    reports = []
    daemon = make_daemon(make_forecaster(bars), int(bars.close_time[99]) + 1)
    dues = daemon.enqueue_all()
    daemon.run(1, reports.append)

    assert [(due.exchange, str(due.timeframe)) for due in dues] == [("binance", "1h")]
    assert [report.forecasts[0].cutoff for report in reports] == [bars.close_time[99]]


def test_fault_of_the_caller_ends_the_run(bars):
    """Nothing is swallowed, and the scheduler is shut down."""

    def fail(report):
        raise RuntimeError(report)

    before = threading.active_count()
    with pytest.raises(RuntimeError):
        make_daemon(make_forecaster(bars), int(bars.close_time[80])).run(None, fail)

    assert wait_until(lambda: threading.active_count() <= before + 1)


def test_schedule_is_settled_after_the_close(bars):
    assert schedules_of(make_forecaster(bars).config)[0].next_due(5000) == HOUR_MS + 5000
