"""Alerts: what is told and when, and receivers that misbehave, on loopback."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.config import AlertsConfig
from forecaster.daemon import alert_sender as receivers
from forecaster.daemon.alert_sender import MAX_QUEUED, AlertSender, SendResult, Webhook, open_receivers, try_once
from forecaster.daemon.alerts import (
    FIRING_AFTER,
    REMEMBERED_CHECKS,
    RESOLVED_AFTER,
    AlertManager,
    AlertStates,
    make_test_alert,
)
from forecaster.daemon.conditions import REMEDIES, Alert, Condition
from forecaster.errors import ConfigError
from forecaster.secret import Secret
from tests.builders import utc_ms
from tests.cli import error_line, forecaster
from tests.faults.exchange import closed_port

ROOT = Path(__file__).parents[2]
SECRET = "xoxb-geheim"  # noqa: S105 - nobody's
STALE = Condition("stale_series", "kraken BTC/USD 1h", "the newest forecast is 3 bars old")
DISK = Condition("disk", "ledger", "12 MiB are free", "critical")
START = utc_ms("2024-05-01")


def reported(states, checks, every=1):
    """Return (check, state, kind) of each alert over checks, each a list of conditions."""
    return [
        (check, alert.state, alert.kind)
        for check, found in enumerate(checks, 1)
        for alert in states.update(found, START + check * every)
    ]


def test_condition_is_reported_once_and_when_resolved():
    """After three checks with it, and twelve without it."""
    checks = [[STALE]] * 50 + [[]] * 50

    assert reported(AlertStates(1000), checks) == [(3, "firing", "stale_series"), (62, "resolved", "stale_series")]


def test_condition_that_lasts_is_reported_again():
    """After every `repeat` checks; not while it is absent."""
    checks = [[STALE]] * 23 + [[]] * 11 + [[STALE]] * 5

    assert reported(AlertStates(10), checks) == [
        (3, "firing", "stale_series"),
        (13, "repeated", "stale_series"),
        (23, "repeated", "stale_series"),
        (35, "repeated", "stale_series"),
    ]


@pytest.mark.parametrize(
    "checks",
    [[[STALE], [STALE], []] * 100, [[STALE], []] * 100, [[]] * 100],
    ids=["two of three", "every other", "never"],
)
def test_condition_that_never_lasts_is_not_reported(checks):
    """It must be present in three checks in a row."""
    assert reported(AlertStates(10), checks) == []


def test_condition_that_is_gone_for_a_moment_lasts():
    checks = [[STALE]] * 3 + ([[]] * (RESOLVED_AFTER - 1) + [[STALE]]) * 20

    assert reported(AlertStates(10**6), checks) == [(3, "firing", "stale_series")]


def test_condition_that_comes_and_goes_is_reported_a_few_times():
    """A day of 15 s present and 5 minutes absent: the required absence doubles until it is never reached."""
    checks = ([[STALE]] * FIRING_AFTER + [[]] * 60) * 274
    states = [state for _, state, _ in reported(AlertStates(10**6), checks)]

    assert states == ["firing", "resolved"] * 3 + ["firing"]


def test_condition_that_comes_back_late_is_reported_as_at_first():
    """A condition absent for an hour is forgotten."""
    episode = [[STALE]] * FIRING_AFTER + [[]] * (REMEMBERED_CHECKS + 2 * RESOLVED_AFTER)
    checks = [check for _ in range(3) for check in episode]
    places = [place for place, state, _ in reported(AlertStates(10**6), checks) if state == "resolved"]

    assert [place % len(episode) for place in places] == [FIRING_AFTER + RESOLVED_AFTER] * 3


def test_resolved_conditions_are_forgotten():
    """Resolved conditions leave nothing in memory."""
    states = AlertStates(10)
    for place in range(100):
        states.update([Condition("stale_series", str(place), "x")], START)
    for _ in range(REMEMBERED_CHECKS * 2):
        states.update([], START)

    assert states._tracked == {}


def test_conditions_of_one_kind_are_reported_together():
    """When an exchange is down, one message tells of all its series."""
    series = [STALE._replace(subject=f"kraken {i}") for i in range(200)]
    states = AlertStates(1000)
    alerts = [alert for _ in range(3) for alert in states.update([*series, DISK], START)]

    assert [(alert.kind, len(alert.conditions), alert.severity) for alert in alerts] == [
        ("stale_series", 200, "warning"),
        ("disk", 1, "critical"),
    ]


def test_times_of_an_alert():
    """Since the first look of those that found it; later the same, though it was gone for a moment; the newest text."""
    states = AlertStates(5)
    checks = [[STALE], [], *[[STALE._replace(text=f"{i} bars old")] if i != 4 else [] for i in range(9)]]
    alerts = [alert for check, found in enumerate(checks) for alert in states.update(found, START + check * 5000)]
    began, lasts = alerts

    assert (began.since, began.at) == (START + 10_000, START + 20_000)
    assert (lasts.since, lasts.at) == (START + 10_000, START + 45_000)
    assert lasts.conditions[0].text == "7 bars old"


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_what_is_reported_alternates(found, repeat):
    """It begins before it lasts or is over, and is over at most as often as it began."""
    states = [
        state for _, state, _ in reported(AlertStates(repeat), [[STALE] if condition else [] for condition in found])
    ]
    without = [state for state in states if state != "repeated"]

    assert without == ["firing", "resolved"] * (len(without) // 2) + ["firing"] * (len(without) % 2)
    assert "repeated" not in states[:1]


def test_text_says_what_since_when_and_what_to_do():
    alert = Alert("firing", "disk", (DISK,), START, START + 15_000)

    assert alert.title == "forecaster: critical: disk: ledger"
    assert alert.body == (
        "12 MiB are free\nSince 2024-05-01 00:00 UTC.\n"
        "Free space beside the ledger, or run `forecaster store prune`: without space nothing is recorded. "
        "See docs/operations.md#disk"
    )
    assert alert.record() == {
        "state": "firing",
        "kind": "disk",
        "severity": "critical",
        "subjects": ["ledger"],
        "since": "2024-05-01 00:00 UTC",
        "at": "2024-05-01 00:00:15 UTC",
        "title": alert.title,
        "text": f"{alert.title}\n{alert.body}",
    }


def test_text_of_what_is_over():
    alert = Alert("resolved", "disk", (DISK,), START, START + 3_600_000)

    assert alert.title == "forecaster: resolved: disk: ledger"
    assert alert.body.endswith("Started 2024-05-01 00:00 UTC, resolved 2024-05-01 01:00 UTC.")


def test_text_has_an_end_and_no_line_of_others():
    """An exchange's error text is in it: it may be long, hold an escape, or a secret."""
    hostile = STALE._replace(subject="x\nforged", text="token=geheim\x1b[2J\n" + "y" * 10_000)
    alert = Alert("firing", "stale_series", (hostile,) * 300, START, START)
    text = alert.record()["text"]

    assert len(text) < 8_000
    assert "geheim" not in text
    assert "forged" not in text.splitlines()
    assert "\x1b" not in text
    assert "and 290 more" in text


def test_each_kind_has_advice():
    """Those of the contract with who finds them."""
    kinds = {"stale_series", "ban", "fallback", "drift", "no_skill", "disk", "failing_cycle", "not_alive"}
    kinds |= {"ledger_unavailable", "ledger_damaged", "revised"}

    assert set(REMEDIES) == kinds


class Inbox:
    """A receiver on loopback; `answer` says how it misbehaves, `got` what was posted."""

    def __init__(self):
        self.answer = "200"
        self.got = []
        self.closing = threading.Event()
        self.arrived = threading.Semaphore(0)

    def posts(self, count, within=300.0):
        """Wait for so many posts."""
        until = time.monotonic() + within
        for _ in range(count):
            assert self.arrived.acquire(timeout=max(0.0, until - time.monotonic())), f"{len(self.got)} posts"
        return self.got


@contextmanager
def listening(inbox):
    """Let it listen; gives its address, with a secret in it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.got.append((self.path, json.loads(body)))
            inbox.arrived.release()
            if inbox.answer == "hang":
                inbox.closing.wait()
            if inbox.answer in ("hang", "close"):
                self.close_connection = True
                return
            if inbox.answer == "garbage":
                self.wfile.write(b"\x00\xff" * 1000)
                self.close_connection = True
                return
            if inbox.answer == "drip":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while not inbox.closing.wait(0.1):
                    self.wfile.write(b"X-A: b\r\n")
                return
            status, _, location = inbox.answer.partition(" ")
            self.send_response(int(status))
            if location:
                self.send_header("Location", location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/services/{SECRET}?x=1"
    finally:
        inbox.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def inbox():
    return Inbox()


@pytest.fixture
def address(inbox):
    with listening(inbox) as address:
        yield address


@pytest.fixture
def hasty(monkeypatch):
    """Do not wait ten seconds for a receiver that hangs."""
    monkeypatch.setattr(receivers, "_TIMEOUT_SECONDS", 0.3)


@pytest.fixture
def secret_file(tmp_path):
    """Give a function that writes a file that only we can read."""

    def write(text, mode=0o600, name="address"):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    return write


def test_webhook_posts_json(inbox, address):
    reply = Webhook(Secret(address)).send(make_test_alert(START))

    assert reply == SendResult(sent=True, retryable=False, detail="200")
    assert inbox.got == [(f"/services/{SECRET}?x=1", make_test_alert(START).record())]


@pytest.mark.parametrize(
    ("answer", "said", "retryable"),
    [
        ("500", "500", True),
        ("429", "429", True),
        ("404", "404", False),
        ("302 http://127.0.0.1:1/elsewhere", "302", False),
        ("close", "ServerDisconnectedError", True),
        ("garbage", "ClientResponseError", True),
    ],
)
def test_webhook_that_misbehaves(inbox, address, answer, said, retryable):
    """Says what came without where, and whether to try again; a redirect is not followed."""
    inbox.answer = answer
    reply = Webhook(Secret(address)).send(make_test_alert(START))

    assert reply == SendResult(sent=False, retryable=retryable, detail=said)
    assert len(inbox.got) == 1


@pytest.mark.parametrize("answer", ["hang", "drip"])
@pytest.mark.usefixtures("hasty")
def test_webhook_that_never_ends(inbox, address, answer):
    """It is given up, though bytes may come all the time, and tried again later."""
    inbox.answer = answer

    assert Webhook(Secret(address)).send(make_test_alert(START)) == SendResult(
        sent=False, retryable=True, detail="TimeoutError"
    )


def test_webhook_where_no_one_listens():
    reply = Webhook(Secret(f"http://127.0.0.1:{closed_port()}/{SECRET}")).send(make_test_alert(START))

    assert reply == SendResult(sent=False, retryable=True, detail="ClientConnectorError")


class Scripted:
    """A receiver that answers as it is told, and keeps what it was sent."""

    name = "scripted"

    def __init__(self, *replies):
        self.replies = list(replies)
        self.got = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def send(self, alert):
        assert self.may_answer.wait(300)
        self.got.append(alert)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply


OK = SendResult(sent=True, retryable=False, detail="200")
DOWN = SendResult(sent=False, retryable=True, detail="503")
GONE = SendResult(sent=False, retryable=False, detail="404")


@contextmanager
def running_sender(receiver, first_wait=0.01):
    """A sender to a receiver, and how its alerts ended."""
    ends = []
    sender = AlertSender(receiver, lambda *end: ends.append(end), first_wait)
    sender.start()
    try:
        yield sender, ends
    finally:
        receiver.may_answer.set()
        sender.stop()
        sender.join(300)


def until_true(condition, within=300.0):
    end = time.monotonic() + within
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize(
    ("replies", "tries", "end"),
    [
        ([OK], 1, "sent"),
        ([DOWN, DOWN, DOWN, OK], 4, "sent"),
        ([DOWN, GONE], 2, "failed"),
        ([ValueError(f"http://x/{SECRET}")], 1, "failed"),
    ],
    ids=["accepted", "taken later", "refused", "raises"],
)
def test_courier_tries_until_it_is_decided(replies, tries, end):
    receiver = Scripted(*replies)
    with structlog.testing.capture_logs() as logs, running_sender(receiver) as (sender, ends):
        sender.send(make_test_alert(START))
        until_true(lambda: ends)

    assert ends == [("test", end)]
    assert len(receiver.got) == tries
    assert [one["event"] for one in logs if one.get("receiver") == receiver.name] == [f"alert.{end}"]
    assert SECRET not in str(logs)


def test_courier_waits_longer_each_time():
    """Twice as long as before: 0.05, 0.1 and 0.2 s."""
    receiver = Scripted(DOWN, DOWN, DOWN, OK)
    started = time.monotonic()
    with running_sender(receiver, 0.05) as (sender, ends):
        sender.send(make_test_alert(START))
        until_true(lambda: ends)

    assert time.monotonic() - started >= 0.35


def test_waits_grow_to_a_minute():
    waits = receivers._backoff_delays(1.0)

    assert [next(waits) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_alert_that_no_one_takes_is_given_up(monkeypatch):
    monkeypatch.setattr(receivers, "GIVE_UP_AFTER_SECONDS", 0.1)
    with running_sender(Scripted(DOWN)) as (sender, ends):
        sender.send(make_test_alert(START))
        until_true(lambda: ends)

    assert ends == [("test", "failed")]


def test_whoever_brings_never_waits_and_the_oldest_is_dropped():
    """One is with the receiver, which hangs; of the others the newest stay. Each one's end is counted."""
    receiver = Scripted(OK)
    receiver.may_answer.clear()
    alerts = [Alert("firing", str(i), (STALE,), START, START) for i in range(MAX_QUEUED + 11)]
    with running_sender(receiver) as (sender, ends):
        sender.send(alerts[0])
        until_true(lambda: not sender._queued)
        for alert in alerts[1:]:
            sender.send(alert)
        dropped = list(ends)
        receiver.may_answer.set()
        until_true(lambda: len(ends) == len(alerts))

    assert dropped == [(str(i), "failed") for i in range(1, 11)]
    assert [alert.kind for alert in receiver.got] == ["0", *(str(i) for i in range(11, MAX_QUEUED + 11))]


def test_courier_that_ends_tries_what_waits_once_more():
    """Without the hour between; so what went wrong last is told, if it can be."""
    receiver = Scripted(DOWN)
    with running_sender(receiver, 3600.0) as (sender, ends):
        for _ in range(3):
            sender.send(make_test_alert(START))
        until_true(lambda: receiver.got)
        sender.stop()
        sender.join(300)

    assert len(receiver.got) == 3
    assert ends == [("test", "failed")] * 3


@contextmanager
def alerting(config, check, every=0.01):
    """Alerts at work, and how they ended."""
    ends = []
    alerts = AlertManager(config, check, lambda *end: ends.append(end), now=lambda: START, every=every)
    alerts.start()
    try:
        yield ends
    finally:
        alerts.close(300)


def test_condition_is_posted_when_it_begins_lasts_and_ends(inbox, address, secret_file):
    """Through the whole of it: a thread that checks, a sender, and a server."""
    here = [[STALE]]
    config = AlertsConfig(webhook_file=secret_file(f"# for the bots\n\n{address}\n"), repeat_hours=0.5 / 3600)
    with alerting(config, lambda: here[0]) as ends:
        inbox.posts(2)
        here[0] = []
        until_true(lambda: inbox.got[-1][1]["state"] == "resolved")

    states = [post["state"] for _, post in inbox.got]
    assert (states[0], set(states[1:-1]), states[-1]) == ("firing", {"repeated"}, "resolved")
    assert ends == [("stale_series", "sent")] * len(states)


@pytest.mark.parametrize("answer", ["hang", "500", "close", "drip"])
def test_receiver_that_misbehaves_hurts_no_one(inbox, address, secret_file, monkeypatch, answer):
    """The looking goes on while the sending hangs, and so does whoever ends it: here nothing else would."""
    monkeypatch.setattr(receivers, "_TIMEOUT_SECONDS", 10_000.0)
    inbox.answer = answer
    checks = []

    def check():
        checks.append(None)
        return [STALE, DISK]

    alerts = AlertManager(AlertsConfig(webhook_file=secret_file(address)), check, lambda *_: None, every=0.02)
    alerts.start()
    inbox.posts(1)
    before = len(checks)
    until_true(lambda: len(checks) > before + 10)
    alerts.close(0.2)
    still_open = not inbox.closing.is_set()
    inbox.closing.set()

    assert still_open


def test_looking_that_fails_is_reported_once_and_goes_on(inbox, address, secret_file):
    fails, checks = [True], []

    def check():
        checks.append(None)
        if fails[0]:
            raise ValueError("no")
        return [STALE]

    with structlog.testing.capture_logs() as logs, alerting(AlertsConfig(webhook_file=secret_file(address)), check):
        until_true(lambda: len(checks) > 5)
        fails[0] = False
        inbox.posts(1)

    assert [event["event"] for event in logs][:2] == ["alerts.check_failed", "alert.fired"]


def test_log_tells_though_no_one_is_named():
    with structlog.testing.capture_logs() as logs, alerting(AlertsConfig(), lambda: [STALE]):
        until_true(lambda: logs)

    assert logs[0] == {
        "event": "alert.fired",
        "log_level": "warning",
        "state": "firing",
        "kind": "stale_series",
        "subjects": ["kraken BTC/USD 1h"],
        "since": START,
    }


def test_alerts_that_never_began_can_be_closed(secret_file, address):
    AlertManager(AlertsConfig(webhook_file=secret_file(address)), list, lambda *_: None).close()


def refusal(config):
    """Why receivers cannot be opened; the address is nowhere in it, nor in its causes."""
    with pytest.raises(ConfigError) as raised:
        open_receivers(config)
    error = raised.value
    while error is not None:
        assert "geheim" not in f"{error!r} {getattr(error, 'object', '')!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return str(raised.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610])
def test_file_that_others_can_read_is_refused(secret_file, mode):
    path = secret_file(f"https://example.org/{SECRET}", mode)

    assert refusal(AlertsConfig(webhook_file=path)) == (
        f"alerts.webhook_file: expected a file of mode 600, which only its owner can read, found '{mode:o} {path}'"
    )
    assert refusal(AlertsConfig(apprise_file=path)).startswith("alerts.apprise_file: expected a file of mode 600")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a file with one address, found 'one with 0'"),
        (f"https://a/{SECRET}\nhttps://b/{SECRET}", "expected a file with one address, found 'one with 2'"),
        (f"ftp://example.org/{SECRET}", "expected a file with one http or https address, found 'another text'"),
        (f"https:///{SECRET}", "expected a file with one http or https address"),
        (f"https://a:b:c/{SECRET}", "expected a file with one http or https address"),
        (f"https://a\x07/{SECRET}", "expected a file with one http or https address"),
        (f"https://[::1/{SECRET}", "expected a file with one http or https address"),
        (SECRET, "expected a file with one http or https address"),
    ],
)
def test_file_without_a_web_address_is_refused(secret_file, text, expected):
    """Without showing what it holds."""
    assert expected in refusal(AlertsConfig(webhook_file=secret_file(text)))


def test_file_that_is_none_is_refused(tmp_path):
    """Nothing there, a folder, a pipe that nobody writes, bytes that are no text."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    binary = tmp_path / "binary"
    binary.write_bytes(b"geheim\xff\xfe")
    binary.chmod(0o600)

    assert "expected a file that can be read" in refusal(AlertsConfig(webhook_file=tmp_path / "nowhere"))
    assert "expected a regular file" in refusal(AlertsConfig(webhook_file=tmp_path))
    assert "expected a regular file" in refusal(AlertsConfig(webhook_file=tmp_path / "pipe"))
    assert "expected a file of UTF-8 text" in refusal(AlertsConfig(webhook_file=binary))


def test_nothing_named_is_no_one():
    assert open_receivers(AlertsConfig()) == []


def apprise_address(address):
    """The same server, as apprise writes it."""
    return address.replace("http://", "json://")


@pytest.fixture
def apprise():
    """Import it without its warnings; leave its log as it was."""
    import apprise as library

    with warnings.catch_warnings(action="ignore"):  # of what its plugins import, once
        library.Apprise().add("json://127.0.0.1")
    log = logging.getLogger("apprise")
    before = log.disabled
    yield
    log.disabled = before


@pytest.mark.usefixtures("apprise")
def test_apprise_sends_to_each_of_its_addresses(inbox, address, secret_file):
    """Each line by a sender of its own, so that one that is down does not double what others get."""
    text = f"# two\n{apprise_address(address)}\n\n{apprise_address(address)}\n"
    found = open_receivers(AlertsConfig(apprise_file=secret_file(text)))
    replies = [receiver.send(make_test_alert(START)) for receiver in found]
    alert = make_test_alert(START)

    assert [receiver.name for receiver in found] == ["apprise, line 2", "apprise, line 4"]
    assert replies == [SendResult(sent=True, retryable=True, detail="accepted")] * 2
    assert [(post["title"], post["message"]) for _, post in inbox.got] == [(alert.title, alert.body)] * 2


@pytest.mark.parametrize("answer", ["500", "close", "307 /elsewhere"])
@pytest.mark.usefixtures("apprise")
def test_apprise_that_fails_tells_no_address(inbox, address, secret_file, caplog, answer):
    """Apprise's own log names hosts: it is silenced. A redirect is not followed."""
    inbox.answer = answer
    (receiver,) = open_receivers(AlertsConfig(apprise_file=secret_file(apprise_address(address))))
    with caplog.at_level(logging.DEBUG, "apprise"):
        reply = receiver.send(make_test_alert(START))

    assert reply == SendResult(sent=False, retryable=True, detail="not accepted")
    assert len(inbox.got) == 1
    assert [one for one in caplog.records if one.name == "apprise"] == []


@pytest.mark.usefixtures("apprise")
def test_address_that_apprise_does_not_know_is_named_by_its_line(secret_file, caplog):
    path = secret_file(f"json://127.0.0.1/a\ngarble://{SECRET}\n")
    with caplog.at_level(logging.DEBUG):
        message = refusal(AlertsConfig(apprise_file=path))

    assert message == "alerts.apprise_file: expected an address that apprise knows in line 2, found 'another text'"
    assert SECRET not in caplog.text


def test_file_of_apprise_without_an_address(secret_file):
    assert "expected a file with one address on each line" in refusal(
        AlertsConfig(apprise_file=secret_file("# none\n"))
    )


def test_apprise_that_is_not_installed_is_reported(secret_file, monkeypatch):
    """By the extra to install; the webhook works without it."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    both = AlertsConfig(
        webhook_file=secret_file("https://example.org/x"),
        apprise_file=secret_file("json://127.0.0.1/a", name="apprise"),
    )

    assert "expected apprise to be installed, as by pip install 'forecaster[alerts]'" in refusal(both)
    assert len(open_receivers(both.model_copy(update={"apprise_file": None}))) == 1


def test_fault_of_any_kind_is_reported_by_its_class():
    assert try_once(Scripted(RuntimeError(SECRET)), make_test_alert(START)) == SendResult(
        sent=False, retryable=False, detail="RuntimeError"
    )


@pytest.mark.processes
def test_address_is_in_nothing_that_is_written(inbox, address, secret_file, tmp_path):
    """A program of its own, with every logger at its most talkative; a receiver that fails, and one that is gone."""
    inbox.answer = "500"
    apprise_file = secret_file(f"json://127.0.0.1:{closed_port()}/{SECRET}", name="apprise")
    program = f"""
import logging, sys
from forecaster.log import configure_logging, log_uncaught_exceptions
from forecaster.config import AlertsConfig
from forecaster.daemon.alerts import AlertManager
from forecaster.daemon.conditions import Condition
configure_logging(); log_uncaught_exceptions()
logging.root.setLevel(logging.DEBUG)
config = AlertsConfig(webhook_file={str(secret_file(address))!r}, apprise_file={str(apprise_file)!r})
alerts = AlertManager(config, lambda: [Condition("disk", "ledger", "full")], lambda *_: None, every=0.01)
alerts.start(); sys.stdin.readline(); alerts.close(60)
"""
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        inbox.posts(1)
        said, logged = running.communicate("\n")

    assert running.returncode == 0, logged
    assert "alert.fired" in logged
    assert "alert.failed" in logged
    assert "geheim" not in logged + said


def config_with(tmp_path, **files):
    path = tmp_path / "bots.toml"
    keys = "".join(f'{name} = "{file}"\n' for name, file in files.items())
    path.write_text(
        '[[series]]\nexchange = "x"\nsymbol = "A/B"\ntimeframe = "1h"\nfile = "bars.csv"\n'
        + (f"[alerts]\n{keys}" if files else "")
    )
    return path


def try_alerts(path, *arguments):
    return forecaster("alerts", "test", "--config", path, *arguments)


def test_test_alert_arrives(inbox, address, secret_file, tmp_path):
    """Relative to the configuration; it says what came back, and not from where."""
    secret_file(address)
    done = try_alerts(config_with(tmp_path, webhook_file="address"))
    (post,) = inbox.got

    assert done.returncode == 0
    assert done.stdout.split() == ["webhook", "sent:", "200"]
    assert post[1]["state"] == "test"
    assert "Nothing is wrong" in post[1]["text"]


@pytest.mark.usefixtures("apprise")
def test_test_alert_that_does_not_arrive(inbox, address, secret_file, tmp_path):
    """Code 2, and all are tried."""
    inbox.answer = "404"
    gone = secret_file(f"json://127.0.0.1:{closed_port()}/{SECRET}", name="apprise")
    done = try_alerts(config_with(tmp_path, webhook_file=secret_file(address), apprise_file=gone), "--json")

    assert done.returncode == 2
    assert done.record == {"receivers": {"webhook": "not sent: 404", "apprise, line 1": "not sent: not accepted"}}
    assert "geheim" not in done.stdout + done.stderr


def test_test_alert_without_a_receiver(tmp_path):
    path = config_with(tmp_path)
    lines = [error_line("alerts", "test", "--config", path)]
    path.write_text(f"{path.read_text()}[alerts]\n")
    lines.append(error_line("alerts", "test", "--config", path))

    expected = "ConfigError: alerts: expected a table [alerts] with webhook_file or apprise_file, found "
    assert lines == [f"{expected}'no such table'", f"{expected}'neither'"]


def test_sending_uses_no_proxy_of_the_environment(inbox, address, monkeypatch):
    """The environment carries the path of the configuration, and nothing else."""
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{nobody.getsockname()[1]}")

        assert Webhook(Secret(address)).send(make_test_alert(START)).sent
