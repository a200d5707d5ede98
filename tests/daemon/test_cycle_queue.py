"""The queue: the most urgent first, no two of one exchange at once, and nothing waits twice."""

from __future__ import annotations

import threading

import pytest

from forecaster.daemon.cycle_queue import CycleQueue, ScheduledCycle
from forecaster.timeframe import Timeframe
from tests.builders import utc_ms

MINUTE, HOUR, DAY = (Timeframe(name) for name in ("1m", "1h", "1d"))
NOON = utc_ms("2024-01-01 12:00")


class Clock:
    """A monotonic clock that stands still."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def queue(clock):
    return CycleQueue(clock)


def test_deadline_decides_and_not_the_order_of_calls(queue):
    """A minute's close cannot wait for a day's."""
    for due in (ScheduledCycle("a", DAY, NOON), ScheduledCycle("b", HOUR, NOON), ScheduledCycle("c", MINUTE, NOON)):
        queue.put(due)

    assert [queue.take().timeframe for _ in range(3)] == [MINUTE, HOUR, DAY]


def test_older_of_two_alike_comes_first(queue):
    queue.put(ScheduledCycle("late", HOUR, NOON))
    queue.put(ScheduledCycle("owed", HOUR, NOON - 1))

    assert queue.take().exchange == "owed"


def test_same_cycle_waits_once_since_it_was_called_for_first(queue):
    queue.put(ScheduledCycle("a", HOUR, NOON))
    queue.put(ScheduledCycle("a", HOUR, NOON + 1))

    assert queue.take() == ScheduledCycle("a", HOUR, NOON)
    assert queue.take() is None


def test_exchange_is_worked_on_by_one_at_a_time(queue):
    """Another exchange's cycle overtakes, however urgent the first one's other timeframe is."""
    for due in (ScheduledCycle("a", HOUR, NOON), ScheduledCycle("a", MINUTE, NOON), ScheduledCycle("b", DAY, NOON)):
        queue.put(due)
    first, second = queue.take(), queue.take()

    assert (first, second) == (ScheduledCycle("a", MINUTE, NOON), ScheduledCycle("b", DAY, NOON))
    assert queue.take() is None
    queue.task_done(first)
    assert queue.take() == ScheduledCycle("a", HOUR, NOON)


def test_cycle_that_is_worked_on_may_be_called_for_again(queue):
    due = ScheduledCycle("a", HOUR, NOON)
    queue.put(due)
    queue.take()
    queue.put(due._replace(scheduled_at=NOON + 1))
    queue.task_done(due)

    assert queue.take().scheduled_at == NOON + 1


def test_later_means_not_before(queue, clock):
    queue.put(ScheduledCycle("a", HOUR, NOON), delay=30)

    assert queue.take() is None
    clock.now += 30
    assert queue.take() == ScheduledCycle("a", HOUR, NOON)


def test_call_makes_a_cycle_sooner_that_was_put_off(queue):
    queue.put(ScheduledCycle("a", HOUR, NOON), delay=3600)
    queue.put(ScheduledCycle("a", HOUR, NOON + 1))

    assert queue.take() == ScheduledCycle("a", HOUR, NOON)


def test_put_wakes_who_waits():
    queue, taken = CycleQueue(), []
    waiting = threading.Thread(target=lambda: taken.append(queue.take(20)))
    waiting.start()
    queue.put(ScheduledCycle("a", HOUR, NOON))
    waiting.join(300)

    assert taken == [ScheduledCycle("a", HOUR, NOON)]


def test_time_wakes_who_waits():
    """Nobody calls when a cycle that was put off becomes due."""
    queue = CycleQueue()
    queue.put(ScheduledCycle("a", HOUR, NOON), delay=0.1)

    assert queue.take(20) == ScheduledCycle("a", HOUR, NOON)


def test_end_of_the_exchange_wakes_who_waits():
    queue, taken = CycleQueue(), []
    queue.put(ScheduledCycle("a", HOUR, NOON))
    first = queue.take()
    queue.put(ScheduledCycle("a", DAY, NOON))
    waiting = threading.Thread(target=lambda: taken.append(queue.take(20)))
    waiting.start()
    queue.task_done(first)
    waiting.join(300)

    assert taken == [ScheduledCycle("a", DAY, NOON)]


def test_closed_agenda_gives_nothing_and_wakes_everybody():
    queue = CycleQueue()
    waiting = [threading.Thread(target=queue.take, args=[20]) for _ in range(3)]
    for one in waiting:
        one.start()
    queue.close()
    for one in waiting:
        one.join(300)
    queue.put(ScheduledCycle("a", HOUR, NOON))

    assert not any(one.is_alive() for one in waiting)
    assert (queue.take(), queue.is_closed, queue.waiting()) == (None, True, 1)


def test_unfinished_counts_what_is_worked_on(queue):
    queue.put(ScheduledCycle("a", HOUR, NOON))
    due = queue.take()

    assert (queue.waiting(), queue.unfinished()) == (0, 1)
    queue.task_done(due)
    assert queue.unfinished() == 0
