"""The agenda: the most urgent first, no two of one exchange at once, and nothing waits twice."""

from __future__ import annotations

import threading

import pytest

from forecaster.daemon.cycle_queue import Agenda, Due
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
def agenda(clock):
    return Agenda(clock)


def test_deadline_decides_and_not_the_order_of_calls(agenda):
    """A minute's close cannot wait for a day's."""
    for due in (Due("a", DAY, NOON), Due("b", HOUR, NOON), Due("c", MINUTE, NOON)):
        agenda.put(due)

    assert [agenda.take().timeframe for _ in range(3)] == [MINUTE, HOUR, DAY]


def test_older_of_two_alike_comes_first(agenda):
    agenda.put(Due("late", HOUR, NOON))
    agenda.put(Due("owed", HOUR, NOON - 1))

    assert agenda.take().exchange == "owed"


def test_same_cycle_waits_once_since_it_was_called_for_first(agenda):
    agenda.put(Due("a", HOUR, NOON))
    agenda.put(Due("a", HOUR, NOON + 1))

    assert agenda.take() == Due("a", HOUR, NOON)
    assert agenda.take() is None


def test_exchange_is_worked_on_by_one_at_a_time(agenda):
    """Another exchange's cycle overtakes, however urgent the first one's other timeframe is."""
    for due in (Due("a", HOUR, NOON), Due("a", MINUTE, NOON), Due("b", DAY, NOON)):
        agenda.put(due)
    first, second = agenda.take(), agenda.take()

    assert (first, second) == (Due("a", MINUTE, NOON), Due("b", DAY, NOON))
    assert agenda.take() is None
    agenda.done(first)
    assert agenda.take() == Due("a", HOUR, NOON)


def test_cycle_that_is_worked_on_may_be_called_for_again(agenda):
    due = Due("a", HOUR, NOON)
    agenda.put(due)
    agenda.take()
    agenda.put(due._replace(at=NOON + 1))
    agenda.done(due)

    assert agenda.take().at == NOON + 1


def test_later_means_not_before(agenda, clock):
    agenda.put(Due("a", HOUR, NOON), after=30)

    assert agenda.take() is None
    clock.now += 30
    assert agenda.take() == Due("a", HOUR, NOON)


def test_call_makes_a_cycle_sooner_that_was_put_off(agenda):
    agenda.put(Due("a", HOUR, NOON), after=3600)
    agenda.put(Due("a", HOUR, NOON + 1))

    assert agenda.take() == Due("a", HOUR, NOON)


def test_put_wakes_who_waits():
    agenda, taken = Agenda(), []
    waiting = threading.Thread(target=lambda: taken.append(agenda.take(20)))
    waiting.start()
    agenda.put(Due("a", HOUR, NOON))
    waiting.join(300)

    assert taken == [Due("a", HOUR, NOON)]


def test_time_wakes_who_waits():
    """Nobody calls when a cycle that was put off becomes due."""
    agenda = Agenda()
    agenda.put(Due("a", HOUR, NOON), after=0.1)

    assert agenda.take(20) == Due("a", HOUR, NOON)


def test_end_of_the_exchange_wakes_who_waits():
    agenda, taken = Agenda(), []
    agenda.put(Due("a", HOUR, NOON))
    first = agenda.take()
    agenda.put(Due("a", DAY, NOON))
    waiting = threading.Thread(target=lambda: taken.append(agenda.take(20)))
    waiting.start()
    agenda.done(first)
    waiting.join(300)

    assert taken == [Due("a", DAY, NOON)]


def test_closed_agenda_gives_nothing_and_wakes_everybody():
    agenda = Agenda()
    waiting = [threading.Thread(target=agenda.take, args=[20]) for _ in range(3)]
    for one in waiting:
        one.start()
    agenda.close()
    for one in waiting:
        one.join(300)
    agenda.put(Due("a", HOUR, NOON))

    assert not any(one.is_alive() for one in waiting)
    assert (agenda.take(), agenda.is_closed, agenda.waiting()) == (None, True, 1)


def test_unfinished_counts_what_is_worked_on(agenda):
    agenda.put(Due("a", HOUR, NOON))
    due = agenda.take()

    assert (agenda.waiting(), agenda.unfinished()) == (0, 1)
    agenda.done(due)
    assert agenda.unfinished() == 0
