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
        self.messages: list[str] = []

    def receive(self, until):
        """Listen until a message has come."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up and until not in self.messages:
            try:
                self.messages.append(self._socket.recv(4096).decode())
            except TimeoutError:
                continue
        return self.messages

    def receive_all(self):
        """Listen to what has been sent by now."""
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.messages.append(self._socket.recv(4096).decode())
        self._socket.settimeout(0.05)
        return self.messages

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


def test_ready_is_reported_once_and_not_before(systemd, notifying, looks):
    health_state = make_health_state(phase=Phase.CATCHING_UP)
    notifying(health_state)
    before = list(systemd.receive(until=MORE_TIME))
    health_state.enter_phase(Phase.READY)
    systemd.receive(until="READY=1")
    health_state.enter_phase(Phase.WAITING)
    looks.pass_()
    health_state.enter_phase(Phase.READY)
    looks.pass_()
    systemd.receive_all()

    assert before[0] == "STATUS=catching_up; 1 series, 0 stale; last cycle: none yet"
    assert "READY=1" not in before
    assert systemd.messages.count("READY=1") == 1


def test_a_standby_is_given_more_time(systemd, notifying):
    """Otherwise systemd would end a long start, and a standby may wait for months; a stuck component ends it."""
    hands = Hands()
    health_state = make_health_state(hands=hands, phase=Phase.WAITING)
    notifying(health_state)

    assert MORE_TIME in systemd.receive(until=MORE_TIME)


@pytest.mark.parametrize("cause", ["dead", "ready"])
def test_no_one_else_is_given_more_time(systemd, notifying, looks, cause):
    hands = Hands()
    health_state = make_health_state(hands=hands, phase=Phase.READY if cause == "ready" else Phase.WAITING)
    if cause == "dead":
        health_state.register("worker", 1)
        hands.seconds += 2
    notifying(health_state)
    looks.pass_()

    assert MORE_TIME not in systemd.receive_all()


def test_the_status_follows_what_happens(systemd, notifying, looks):
    health_state = make_health_state()
    notifying(health_state)
    looks.pass_()
    health_state.record_cycle(make_report(), None, [])
    expected = "STATUS=ready; 1 series, 0 stale; last cycle: kraken 1h as of 2024-01-05 00:00 UTC, 0 forecasts"
    systemd.receive(until=expected)

    assert [one for one in systemd.messages if one.startswith("STATUS=")][1:] == [expected]


def test_a_name_cannot_inject_a_message(systemd, notifying, looks):
    """A message is lines of `NAME=value`, so a line break in a value would be a further message."""
    name = "kraken\nSTOPPING=1"
    health_state = make_health_state(make_key(name))
    health_state.record_cycle(make_report(exchange=name), None, [])
    notifying(health_state)
    looks.pass_()

    assert all("\n" not in one for one in systemd.receive_all())
    assert any("kraken STOPPING=1 1h" in one for one in systemd.messages)


def test_draining_is_not_reported_as_stopping(systemd, notifying, looks):
    """A new configuration drains too; systemd would end for good what says that it stops."""
    health_state = make_health_state(phase=Phase.DRAINING)
    notifier = notifying(health_state)
    looks.pass_()
    while_draining = list(systemd.receive_all())
    health_state.enter_phase(Phase.STOPPED)
    notifier.stop()
    systemd.receive_all()

    assert "STOPPING=1" not in while_draining
    assert systemd.messages[-1] == "STOPPING=1"


def test_the_watchdog_is_fed_in_time(systemd, notifying, looks, clock):
    """At each half of the interval, so that one message may be lost."""
    notifying(make_health_state(), watchdog_seconds=8.0)
    fed = []
    for _ in range(8):
        looks.pass_()
        fed.append(systemd.receive_all().count("WATCHDOG=1"))
        clock.seconds += 2.0

    assert fed == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("component", ["scheduler", "worker"])
def test_the_watchdog_starves_when_a_component_is_stuck(systemd, notifying, looks, clock, component):
    """However busy the others are; and is fed again if it comes back in time."""
    hands = Hands()
    health_state = make_health_state(hands=hands)
    for one in ("scheduler", "worker"):
        health_state.register(one, 10)
    notifying(health_state, watchdog_seconds=0.2)
    systemd.receive(until="WATCHDOG=1")
    hands.seconds += 11
    health_state.heartbeat({"scheduler": "worker", "worker": "scheduler"}[component])
    looks.pass_()
    systemd.receive_all().clear()
    clock.seconds += 100
    looks.pass_()
    starving = list(systemd.receive_all())
    health_state.heartbeat(component)

    assert "WATCHDOG=1" not in starving
    assert "WATCHDOG=1" in systemd.receive(until="WATCHDOG=1")


def test_without_a_watchdog_none_is_fed(systemd, notifying, looks, clock):
    notifying(make_health_state())
    looks.pass_()
    clock.seconds += 100
    looks.pass_()

    assert "WATCHDOG=1" not in systemd.receive_all()


def test_without_a_socket_nothing_is_done():
    before = threading.active_count()
    notifier = Notifier(make_health_state(), ServiceManager(None, 0.2))
    notifier.start()

    assert threading.active_count() == before
    notifier.stop()


def test_a_socket_that_is_not_there_is_reported_once_and_tried_again(tmp_path, monkeypatch, looks):
    """The manager itself may be started anew; what it was not told is told then."""
    monkeypatch.chdir(tmp_path)
    notifier = Notifier(make_health_state(), ServiceManager("late", 0.2))
    with structlog.testing.capture_logs() as logs:
        notifier.start()
        looks.pass_()
        late = Systemd("late")
        late.receive(until="READY=1")
        notifier.stop()
    late.close()

    assert [event["event"] for event in logs] == ["notify.failed"]
    assert "READY=1" in late.messages


def test_a_socket_that_no_one_reads_holds_nothing_up(systemd, notifying):
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
