"""What systemd is told, on a real datagram socket."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest
import structlog

from forecaster.config_file import ServiceManager, service_manager
from forecaster.daemon import notify as module
from forecaster.daemon.health_state import Phase
from forecaster.daemon.notify import Notifier
from tests.builders import make_key
from tests.daemon.test_health_state import Hands, make_health_state, make_report

PATIENCE = 60.0
MORE_TIME = "EXTEND_TIMEOUT_USEC=60000000"


class Systemd:
    """The other side: a bound socket, and what has come to it."""

    def __init__(self, address):
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(0.05)
        self.told: list[str] = []

    def hear(self, until):
        """Listen until a message has come."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up and until not in self.told:
            try:
                self.told.append(self._socket.recv(4096).decode())
            except TimeoutError:
                continue
        return self.told

    def hear_all(self):
        """Listen to what has been sent by now."""
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.told.append(self._socket.recv(4096).decode())
        self._socket.settimeout(0.05)
        return self.told

    def close(self):
        self._socket.close()


class Looks:
    """Counts how often notifiers have looked at what there is to tell."""

    def __init__(self):
        self.count = 0

    def pass_(self, more=3):
        """Wait for some more."""
        before, give_up = self.count, time.monotonic() + PATIENCE
        while self.count < before + more and time.monotonic() < give_up:
            time.sleep(0.002)

        assert self.count >= before + more


@pytest.fixture(autouse=True)
def looks(monkeypatch):
    """Have notifiers look every few milliseconds."""
    looks, look = Looks(), Notifier._check

    def counted(notifier):
        look(notifier)
        looks.count += 1

    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(Notifier, "_check", counted)
    return looks


@pytest.fixture
def clock(monkeypatch):
    """The notifiers' monotonic clock, moved by hand."""
    clock = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


@pytest.fixture(params=["@forecaster-test", "socket"])
def systemd(request, tmp_path, monkeypatch):
    """A listening systemd; its path is relative, since the folder's own may be longer than a socket's name can be."""
    monkeypatch.chdir(tmp_path)
    listening = Systemd(f"{request.param}-{os.getpid()}")
    yield listening
    listening.close()


@pytest.fixture
def notifying(systemd):
    """Give a function that starts a notifier; all are stopped."""
    started = []

    def start(health_state, watchdog_seconds=None):
        started.append(Notifier(health_state, ServiceManager(systemd.address, watchdog_seconds)))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


def test_ready_is_told_once_and_not_before(systemd, notifying, looks):
    health_state = make_health_state(phase=Phase.CATCHING_UP)
    notifying(health_state)
    before = list(systemd.hear(until=MORE_TIME))
    health_state.enter_phase(Phase.READY)
    systemd.hear(until="READY=1")
    health_state.enter_phase(Phase.WAITING)
    looks.pass_()
    health_state.enter_phase(Phase.READY)
    looks.pass_()
    systemd.hear_all()

    assert before[0] == "STATUS=catching_up; 1 series, 0 stale; last cycle: none yet"
    assert "READY=1" not in before
    assert systemd.told.count("READY=1") == 1


def test_a_standby_is_given_more_time(systemd, notifying):
    """Otherwise systemd ends a start that takes long, and this one may take months; with a lost organ it is right."""
    hands = Hands()
    health_state = make_health_state(hands=hands, phase=Phase.WAITING)
    notifying(health_state)

    assert MORE_TIME in systemd.hear(until=MORE_TIME)


@pytest.mark.parametrize("cause", ["dead", "ready"])
def test_nobody_else_is_given_more_time(systemd, notifying, looks, cause):
    hands = Hands()
    health_state = make_health_state(hands=hands, phase=Phase.READY if cause == "ready" else Phase.WAITING)
    if cause == "dead":
        health_state.register("worker", 1)
        hands.seconds += 2
    notifying(health_state)
    looks.pass_()

    assert MORE_TIME not in systemd.hear_all()


def test_the_status_follows_what_happens(systemd, notifying, looks):
    health_state = make_health_state()
    notifying(health_state)
    looks.pass_()
    health_state.record_cycle(make_report(), None, [])
    expected = "STATUS=ready; 1 series, 0 stale; last cycle: kraken 1h as of 2024-01-05 00:00 UTC, 0 forecasts"
    systemd.hear(until=expected)

    assert [one for one in systemd.told if one.startswith("STATUS=")][1:] == [expected]


def test_a_name_cannot_tell_systemd_anything(systemd, notifying, looks):
    """A message is lines of `NAME=value`, so a line break in a value would be a further message."""
    name = "kraken\nSTOPPING=1"
    health_state = make_health_state(make_key(name))
    health_state.record_cycle(make_report(exchange=name), None, [])
    notifying(health_state)
    looks.pass_()

    assert all("\n" not in one for one in systemd.hear_all())
    assert any("kraken STOPPING=1 1h" in one for one in systemd.told)


def test_draining_is_no_end(systemd, notifying, looks):
    """A new configuration drains too; systemd would end for good what says that it stops."""
    health_state = make_health_state(phase=Phase.DRAINING)
    notifier = notifying(health_state)
    looks.pass_()
    while_draining = list(systemd.hear_all())
    health_state.enter_phase(Phase.STOPPED)
    notifier.stop()
    systemd.hear_all()

    assert "STOPPING=1" not in while_draining
    assert systemd.told[-1] == "STOPPING=1"


def test_the_watchdog_is_fed_in_time(systemd, notifying, looks, clock):
    """At each half of the interval, so that one message may be lost."""
    notifying(make_health_state(), watchdog_seconds=8.0)
    fed = []
    for _ in range(8):
        looks.pass_()
        fed.append(systemd.hear_all().count("WATCHDOG=1"))
        clock.seconds += 2.0

    assert fed == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("organ", ["scheduler", "worker"])
def test_the_watchdog_starves_when_an_organ_is_dead(systemd, notifying, looks, clock, organ):
    """However busy the others are; and is fed again if it comes back in time."""
    hands = Hands()
    health_state = make_health_state(hands=hands)
    for one in ("scheduler", "worker"):
        health_state.register(one, 10)
    notifying(health_state, watchdog_seconds=0.2)
    systemd.hear(until="WATCHDOG=1")
    hands.seconds += 11
    health_state.heartbeat({"scheduler": "worker", "worker": "scheduler"}[organ])
    looks.pass_()
    systemd.hear_all().clear()
    clock.seconds += 100
    looks.pass_()
    starving = list(systemd.hear_all())
    health_state.heartbeat(organ)

    assert "WATCHDOG=1" not in starving
    assert "WATCHDOG=1" in systemd.hear(until="WATCHDOG=1")


def test_without_a_watchdog_none_is_fed(systemd, notifying, looks, clock):
    notifying(make_health_state())
    looks.pass_()
    clock.seconds += 100
    looks.pass_()

    assert "WATCHDOG=1" not in systemd.hear_all()


def test_without_a_socket_nothing_is_done():
    before = threading.active_count()
    notifier = Notifier(make_health_state(), ServiceManager(None, 0.2))
    notifier.start()

    assert threading.active_count() == before
    notifier.stop()


def test_a_socket_that_is_not_there_is_told_once_and_tried_again(tmp_path, monkeypatch, looks):
    """The manager itself may be started anew; what it was not told is told then."""
    monkeypatch.chdir(tmp_path)
    notifier = Notifier(make_health_state(), ServiceManager("late", 0.2))
    with structlog.testing.capture_logs() as logs:
        notifier.start()
        looks.pass_()
        late = Systemd("late")
        late.hear(until="READY=1")
        notifier.stop()
    late.close()

    assert [one["event"] for one in logs] == ["notify.failed"]
    assert "READY=1" in late.told


def test_a_socket_that_nobody_reads_holds_nothing_up(systemd, notifying):
    """Datagrams pile up until the kernel takes no more: then each is given up after a moment, and the thread ends."""
    with structlog.testing.capture_logs() as logs:
        notifier = notifying(make_health_state(), watchdog_seconds=0.0001)
        give_up = time.monotonic() + PATIENCE
        while not logs and time.monotonic() < give_up:
            time.sleep(0.002)
        notifier.stop()

    assert logs[0]["event"] == "notify.failed"
    assert not notifier._thread.is_alive()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ServiceManager(None, None)),
        ({"NOTIFY_SOCKET": ""}, ServiceManager(None, None)),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, ServiceManager("/run/systemd/notify", None)),
        ({"WATCHDOG_USEC": "30000000"}, ServiceManager(None, 30.0)),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "own"}, ServiceManager(None, 30.0)),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, ServiceManager(None, None)),
        ({"WATCHDOG_USEC": "0"}, ServiceManager(None, None)),
        ({"WATCHDOG_USEC": "soon"}, ServiceManager(None, None)),
    ],
)
def test_the_environment_says_what_systemd_wants(environment, expected, monkeypatch):
    """A watchdog that waits for another process, as that of our parent, is not ours to feed."""
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, text in environment.items():
        monkeypatch.setenv(name, str(os.getpid()) if text == "own" else text)

    assert service_manager() == expected
