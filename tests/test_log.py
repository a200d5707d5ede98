"""Logging, as a program sees it: nothing on import, lines that hold, secrets hidden, nobody stopped by it."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.log import (
    configure_logging,
    get_logger,
    log_uncaught_exceptions,
    redirect_lines,
    sanitize,
    sanitize_event,
    write_lines_in_background,
)
from forecaster.log.redaction import HIDDEN, MAX_LINE_CHARACTERS, MAX_VALUE_CHARACTERS
from forecaster.log.sink import LogSink

ROOT = Path(__file__).parents[1]
START = """
import structlog
from forecaster.log import configure_logging, get_logger
configure_logging()
log = get_logger("forecaster.test")
"""


class Shown(io.StringIO):
    """A standard error that keeps what is written to it."""

    def __init__(self, *, is_terminal=False):
        super().__init__()
        self.isatty = lambda: is_terminal

    @property
    def lines(self):
        return self.getvalue().splitlines()

    @property
    def events(self):
        """What was logged: every line must be JSON."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def shown(monkeypatch):
    """Standard error away from a terminal, with the log set up."""
    return set_up(monkeypatch)


@pytest.fixture
def on_terminal(monkeypatch):
    """Standard error on a terminal, with the log set up."""
    return set_up(monkeypatch, is_terminal=True)


@pytest.fixture(params=[False, True], ids=["JSON", "terminal"])
def either(request, monkeypatch):
    """The one, and the other."""
    return set_up(monkeypatch, is_terminal=request.param)


def set_up(monkeypatch, *, is_terminal=False, **how):
    stream = Shown(is_terminal=is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(**how)
    return stream


log = get_logger("forecaster.test")


def ours():
    """The handlers that setting up has added."""
    return [one for one in logging.root.handlers if type(one).__module__ == "forecaster.log"]


@pytest.fixture(autouse=True)
def _set_up_by_nobody():
    """Each test finds the log as if no test had set it up before: tests/conftest.py takes that back."""
    assert ours() == []
    assert not structlog.is_configured()
    assert sys.excepthook is sys.__excepthook__


def handed(*record):
    """Give a library's record to the handler of ours alone; pytest's own cannot show it."""
    (handler,) = ours()
    handler.handle(logging.LogRecord("sqlalchemy.pool", logging.ERROR, "", 0, *record, None))


def throw(error):
    raise error


def run(program: str, *, code: int = 0) -> str:
    """Standard error of a program that is not on a terminal."""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    return done.stderr


@pytest.mark.processes
def test_nothing_is_configured_on_import():
    """A library that logs as it likes would take that choice from the program that uses it."""
    program = (
        "import logging, warnings, structlog\n"
        "before = warnings.showwarning, logging.root.level\n"
        "import forecaster, forecaster.log, forecaster.config, forecaster.store, forecaster.daemon.scheduler\n"
        "assert not structlog.is_configured()\n"
        "assert logging.root.handlers == []\n"
        "assert before == (warnings.showwarning, logging.root.level)\n"
    )

    assert run(program) == ""


@pytest.mark.processes
def test_who_imports_us_hears_warnings_only():
    """On standard error, as of any library that uses Python's logging; what is not heard is not even made to text."""
    program = """
from forecaster.log import get_logger
log = get_logger("forecaster.test")
class Loud:
    def __repr__(self):
        print("made to text")
log.info("bars.fetched", rows=Loud())
log.bind(series="BTC/USD").warning("100% skipped", token="geheim", reason="a\\nb")
"""

    assert run(program) == "100% skipped series='BTC/USD' token='[hidden]' reason='a\\\\nb'\n"


def test_who_imports_us_says_what_is_logged_and_how():
    """By Python's own means: the level of one logger, a handler with a format, and the exception as it was."""
    stream = Shown()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(name)s|%(levelname)s|%(message)s"))
    theirs = logging.getLogger("forecaster.test")
    theirs.addHandler(handler)
    theirs.setLevel(logging.DEBUG)
    try:
        log.debug("bars.fetched", rows=3)
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            log.exception("cycle.failed")
    finally:
        theirs.removeHandler(handler)
        theirs.setLevel(logging.NOTSET)
    first, second, *trace = stream.lines

    assert first == "forecaster.test|DEBUG|bars.fetched rows=3"
    assert second == "forecaster.test|ERROR|cycle.failed"
    assert trace[-1] == "ZeroDivisionError: division by zero"


def test_logger_made_before_the_setup_follows_it(monkeypatch):
    """Modules make theirs when they are imported, before the command line says how to log."""
    log = get_logger("forecaster.test")
    shown = set_up(monkeypatch)
    log.info("bars.fetched", rows=3)

    assert shown.events[0]["rows"] == 3


def test_logs_can_be_captured():
    """By structlog's own means, as its users do."""
    with structlog.testing.capture_logs() as logs:
        log.info("bars.fetched", rows=3)

    assert logs == [{"event": "bars.fetched", "rows": 3, "log_level": "info"}]


def test_lines_are_json_away_from_a_terminal(shown):
    """One per event, with its level, its time in UTC, and values under their own names."""
    log.info("bars.fetched", series="kraken BTC/USD 1h", rows=3)
    (event,) = shown.events

    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "bars.fetched", "level": "info", "series": "kraken BTC/USD 1h", "rows": 3}


def test_setting_up_again_tells_everything_once(monkeypatch):
    """A reload may do it."""
    shown = set_up(monkeypatch)
    configure_logging()
    log.info("one")
    logging.getLogger("ccxt").error("two")

    assert [event["event"] for event in shown.events] == ["one", "two"]


def test_records_of_others_are_json_too(shown):
    """A collector that reads JSON lines must not choke on a library's warning."""
    theirs = logging.getLogger("apscheduler.scheduler")
    theirs.warning("missed by %d s", 3)
    theirs.info("x")
    (event,) = shown.events

    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "missed by 3 s", "level": "warning", "logger": "apscheduler.scheduler"}


def test_warnings_of_python_are_json_too(shown):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)  # pytest keeps warnings for itself, until it is asked again
        logging.captureWarnings(capture=True)
        warnings.warn("old", stacklevel=1)
    (event,) = shown.events

    assert (event["level"], event["logger"]) == ("warning", "py.warnings")
    assert "UserWarning: old" in event["event"]


def test_setting_up_takes_warnings_of_python_over(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        shown = set_up(monkeypatch)
        warnings.warn("old", stacklevel=1)
        logging.captureWarnings(capture=False)

    assert [event["logger"] for event in shown.events] == ["py.warnings"]


def test_a_live_display_shows_lines_in_place_of_the_stream(shown):
    """Ours and those of libraries; afterwards they are written again."""
    kept = []
    with redirect_lines(kept.append):
        log.warning("ours")
        logging.getLogger("apscheduler.scheduler").warning("theirs")
    meanwhile = shown.getvalue()
    log.warning("after")

    assert [json.loads(line)["event"] for line in kept] == ["ours", "theirs"]
    assert meanwhile == ""
    assert [event["event"] for event in shown.events] == ["after"]


def test_a_live_display_that_fails_stops_no_one(shown):
    """Whatever it raises; the lines that it lost are counted, and told as soon as a line can be shown."""
    kept, faults = [], [KeyError("markup"), BrokenPipeError()]

    def show(line):
        if faults:
            raise faults.pop()
        kept.extend(line.splitlines())

    with redirect_lines(show):
        for name in ("one", "two", "three"):
            log.warning(name)
    lost, three = map(json.loads, kept)

    assert (lost["event"], lost["lines"]) == ("log.lines_lost", 2)
    assert three["event"] == "three"


def test_record_of_others_is_as_harmless_as_ours(shown):
    """Its text, its exception, and arguments that do not fit."""
    theirs = logging.getLogger("sqlalchemy.pool")
    theirs.warning('lost postgresql://bot:geheim@db/ledger\n{"event": "forged"}')
    handed("%d rows", ("x",))
    try:
        throw(ValueError("token=geheim"))
    except ValueError:
        theirs.exception("reset failed")
    lost, rows, failed = shown.events

    assert "geheim" not in shown.getvalue()
    assert lost["event"].startswith("lost postgresql://[hidden]@db/ledger\\n")
    assert rows["event"] == "%d rows"
    assert failed["exception"][0]["exc_value"] == "token=[hidden]"


def test_only_warnings_unless_verbose(monkeypatch):
    shown = set_up(monkeypatch, verbose=False)
    log.info("bars.fetched")
    log.warning("series.skipped")

    assert [event["event"] for event in shown.events] == ["series.skipped"]


def test_event_that_is_left_out(monkeypatch):
    shown = set_up(monkeypatch, without=frozenset({"series.skipped"}))
    log.warning("series.skipped")
    log.warning("baseline.failed")

    assert [event["event"] for event in shown.events] == ["baseline.failed"]


def test_what_was_bound_is_on_every_line(shown):
    """On those of libraries too, as it is bound for whatever happens in a cycle."""
    with structlog.contextvars.bound_contextvars(cycle="1h"):
        log.info("one")
        logging.getLogger("ccxt").warning("two")
    log.info("three")

    assert [event.get("cycle") for event in shown.events] == ["1h", "1h", None]


def fail():
    balance = "geheim"
    raise RuntimeError("no luck" if balance else "")


def log_a_failure():
    try:
        fail()
    except RuntimeError:
        log.exception("cycle.failed", timeframe="1h")


def test_a_traceback_shows_no_local_variables(shown):
    """They may hold balances and keys; nor does it show source, which may hold them as well."""
    log_a_failure()
    (event,) = shown.events

    assert event["event"] == "cycle.failed"
    assert event["exception"][0]["exc_value"] == "no luck"
    assert [frame["name"] for frame in event["exception"][0]["frames"]] == ["log_a_failure", "fail"]
    assert "geheim" not in shown.getvalue()
    assert "raise RuntimeError" not in shown.getvalue()


def test_a_terminal_shows_lines_for_people(on_terminal):
    """With the traceback below, and no local variables here either."""
    log_a_failure()
    log.info("login.done", password="geheim")  # noqa: S106 - nobody's
    text = on_terminal.getvalue()

    assert "cycle.failed" in text
    assert "    RuntimeError: no luck\n" in text
    assert "in fail\n" in text
    assert "[hidden]" in text
    assert "geheim" not in text
    assert '{"' not in text


@pytest.mark.processes
@pytest.mark.parametrize("is_terminal", [False, True], ids=["pipe", "terminal"])
def test_a_real_standard_error(is_terminal):
    """A program of its own: lines for people on a terminal, JSON on a pipe."""
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    program = START + 'log.info("login.done", password="geheim")\n'
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # the other end of a terminal is closed
            pass
    os.close(ours)

    assert running.returncode == 0
    assert shown.startswith(b'{"') != is_terminal
    assert b"login.done" in shown
    assert b"geheim" not in shown


FORGED = "BTC\r\n2026-01-01 [info] order.filled\x1b[2J\u2028{}\x85\x07\u202egnorw\x00"


def test_no_text_can_forge_a_line(either):
    """Neither as a value, a key, an event, an exception with its cause, its notes and its group, nor from a library."""
    log.info("series.skipped", reason=FORGED, rows=[{FORGED: FORGED}], **{FORGED: 1})
    log.info(FORGED)
    logging.getLogger("ccxt").warning(FORGED)
    try:
        try:
            throw(ValueError(FORGED))
        except ValueError as error:
            error.add_note(FORGED)
            raise ExceptionGroup(FORGED, [RuntimeError(FORGED)]) from error
    except ExceptionGroup:
        log.exception("cycle.failed")
    lines = [line for line in either.getvalue().split("\n") if line]
    plain = [line.replace("\x1b", "") for line in lines]
    starts = [line for line in plain if not line.startswith("    ")]

    assert len(starts) == 4
    assert not [line for line in plain if line.lstrip().startswith("2026-01-01")]
    assert not set("\r\u2028\x85\x07\u202e\x00") & set("".join(lines))
    assert "\x1b[2J" not in either.getvalue()
    assert "order.filled" in either.getvalue()


def test_traceback_of_a_terminal_names_causes_notes_and_groups(on_terminal):
    try:
        try:
            throw(ValueError("inner"))
        except ValueError as error:
            error.add_note("a note")
            raise ExceptionGroup("several", [RuntimeError("one of them")]) from error
    except ExceptionGroup:
        try:
            throw(KeyError("while handling"))
        except KeyError:
            log.exception("cycle.failed")
    told = [line.rstrip() for line in on_terminal.lines[1:] if "File" not in line]

    assert told == [
        "    KeyError: 'while handling'",
        "    raised while handling ExceptionGroup: several (1 sub-exception)",
        "        RuntimeError: one of them",
        "    caused by ValueError: inner",
        "      a note",
    ]


def test_an_exception_that_is_its_own_cause_has_an_end(shown):
    error = ValueError("round")
    error.__cause__ = error
    log.error("cycle.failed", exc_info=error)
    (event,) = shown.events

    assert [one["exc_value"] for one in event["exception"]] == ["round"]


def test_secrets_are_hidden_in_what_is_written(shown):
    log.bind(token="geheim").info("login.done", api_key="geheim", user="bot")  # noqa: S106 - nobody's

    assert "geheim" not in shown.getvalue()
    assert shown.events[0]["user"] == "bot"


@pytest.mark.parametrize(
    "key",
    [
        "secret",
        "token",
        "password",
        "passwd",
        "passphrase",
        "apikey",
        "apiKey",
        "api_key",
        "API_KEY",
        "X-MBX-APIKEY",
        "private_key",
        "Authorization",
        "Set-Cookie",
        "auth",
        "client_secret",
        "exchange_password",
        "x_token",
        "tokens",
        "webhook",
        "signature",
    ],
)
def test_a_key_named_like_a_secret_is_hidden(key):
    """Whatever stands under it, but for a number of tokens."""
    for value in ("geheim", b"geheim", ["geheim"], {"a": "geheim"}, 1234):
        expected = 1234 if (key, value) == ("tokens", 1234) else HIDDEN

        assert sanitize_event({key: value, "event": "e"}) == {"event": "e", key: expected}


def test_another_key_is_shown():
    others = dict.fromkeys(["series", "event", "key", "seconds", "as_of", "engine", "token_file", "author"], "plain")

    assert sanitize_event(others) == others


def test_a_secret_at_any_depth_is_hidden():
    """Headers and options of an exchange come as dictionaries, in lists and by themselves."""
    event = {"tries": [({"headers": {"Authorization": "geheim", "Accept": "json"}},), {"x": [{"apiKey": "geheim"}]}]}

    hidden = sanitize_event(event)

    assert hidden["tries"] == [[{"headers": {"Authorization": HIDDEN, "Accept": "json"}}], {"x": [{"apiKey": HIDDEN}]}]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at postgresql://bot:geheim@db:5432/ledger?x=1", "at postgresql://[hidden]@db:5432/ledger?x=1"),
        ("at postgresql://bot:ge/heim@db/ledger", "at postgresql://[hidden]@db/ledger"),
        ("at postgresql://bot:ge@heim@db/ledger", "at postgresql://[hidden]@db/ledger"),
        ("at postgresql://bot:ge?he#im@db/ledger", "at postgresql://[hidden]@db/ledger"),
        ("at https://geheim@example.org/a", "at https://[hidden]@example.org/a"),
        ("GET /ohlc?symbol=X&token=geheim&limit=5", "GET /ohlc?symbol=X&token=[hidden]&limit=5"),
        ("GET /ohlc?key=geheim&limit=5", "GET /ohlc?key=[hidden]&limit=5"),
        ("{'apiKey': 'geheim', 'limit': 5}", "{'apiKey': [hidden], 'limit': 5}"),
        ('{"secret":"geh eim","limit":5}', '{"secret":[hidden],"limit":5}'),
        (r"body {\"secret\": \"geheim\", \"limit\": 5}", r"body {\"secret\": [hidden]\", \"limit\": 5}"),
        ("token=b'geheim' failed", "token=[hidden] failed"),
        ("api_key: geheim failed", "api_key: [hidden] failed"),
        ("client_secret = geheim;", "client_secret = [hidden];"),
        ("Authorization: Bearer geheim", "Authorization: [hidden]"),
        ("{'Authorization': 'Basic geheim', 'Accept': 'x'}", "{'Authorization': '[hidden]', 'Accept': 'x'}"),
        ("('Authorization', 'Basic geheim')", "('Authorization', '[hidden]')"),
        ("refused bearer geheim1234 today", "refused bearer [hidden] today"),
        ("Set-Cookie: session=geheim; path=/", "Set-Cookie: [hidden]"),
    ],
)
def test_a_secret_in_a_text_is_hidden(text, shown):
    """Addresses, queries, JSON, headers and settings, as they stand in what libraries say."""
    assert sanitize(text) == shown
    assert "geheim" not in sanitize(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:9464/metrics",
        "https://api.kraken.com/0/public/OHLC?pair=XBTUSD&since=0",
        "a@b.example asked at http://host:8080/x",
        "health.token_file: expected a file of mode 600, found '644'",
        "SourceUnavailable: kraken: BTC/USD: no answer within 10 s",
        "Zürich, 12 €: 80 % – läuft",
    ],
)
def test_another_text_stays_as_it_is(text):
    assert sanitize(text) == text


@given(st.text(max_size=200), st.from_regex(r"[A-Za-z0-9]{12,40}", fullmatch=True))
@settings(max_examples=200, deadline=None)
def test_a_secret_stays_hidden_in_any_company(text, secret):
    """Around it anything may stand; a query and an address are still what they are."""
    for shape in (urlencode({"token": secret}), f'"apiKey": "{secret}"', f"redis://:{secret}@cache/0"):
        assert secret not in sanitize(f"{text} {shape} {text}", 10_000)


@given(st.recursive(st.none() | st.text() | st.floats() | st.integers() | st.binary(), st.lists, max_leaves=20))
@settings(max_examples=200, deadline=None)
def test_any_value_makes_one_line(value):
    """Of plain characters, that reads back as JSON without NaN."""
    line = LogSink(io.StringIO()).render(None, "", {"event": "e", "value": value, str(value): 1})

    assert line.isascii()
    assert line.isprintable()
    json.loads(line, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.float64(1.5), 1.5),
        (np.int64(3), 3),
        (np.float32("inf"), "inf"),
        (2**63, 2**63),
        (10**500, f"an integer of {(10**500).bit_length()} bits"),
        ((1, None, True), [1, None, True]),
        ({1: {2: 3}}, {"1": {"2": 3}}),
        (b"\n", "b'\\\\n'".replace("\\\\", "\\")),
    ],
)
def test_a_value_is_what_json_has_for_it(value, shown):
    assert sanitize_event({"value": value})["value"] == shown


def test_lengths_are_bounded():
    """Of a value, of all of them together, and of how deep they nest; the event itself is always told."""
    deep = [1]
    for _ in range(100_000):
        deep = [deep]
    event = {"x": ["y" * 100_000] * 100_000, "deep": deep, "many": dict.fromkeys(range(10**6)), "event": "e"}
    line = LogSink(io.StringIO()).render(None, "", event)
    one = sanitize_event({"x": "y" * 100_000})["x"]

    assert json.loads(line)["event"] == "e"
    assert len(line) < 2 * MAX_LINE_CHARACTERS
    assert one == "y" * (MAX_VALUE_CHARACTERS - 1) + "…"
    assert len(json.dumps(sanitize_event({"deep": deep}))) < 100


@pytest.mark.parametrize(
    "text", ["://" * 9000, "token=" * 9000, "://a:" * 9000, '"secret": "' * 5000, "bearer " * 9000]
)
def test_a_text_that_is_made_to_be_slow_is_not(text):
    """An exchange chooses its error texts; a cycle must not wait for their being logged.

    Eight times the text takes about eight times the work, and not sixty-four times.
    """

    def work(length):
        spent = []
        for _ in range(7):
            started = time.process_time()
            sanitize(text[:length])
            spent.append(time.process_time() - started)
        return min(spent)

    assert work(16_000) < 24 * work(2_000)


class Broken:
    """What cannot be shown."""

    def __repr__(self):
        raise KeyError("x")

    __str__ = __repr__


class Fault(Exception):
    """One that has no text."""

    def __str__(self):
        raise KeyError("x")


def test_what_cannot_be_shown_does_not_stop_callers(either):
    """A value, a key, an exception, arguments of a library, and a name that the lines for people keep to themselves."""
    log.info("one", value=Broken(), rows=[Broken()])
    log.info("two", value={Broken(): 1})
    log.error("three", exc_info=Fault())
    handed("four %s", (Broken(),))
    log.info("five", stack=5)
    log.info("six", exc_info=(1, 2))
    log.info("seven", exc_info=True)  # noqa: LOG014 - this is the case

    for name in ("one", "two", "three", "four", "five", "six", "seven"):
        assert name in either.getvalue()
    assert "<a Broken that cannot be shown>" in either.getvalue()


class Full(io.StringIO):
    """A stream on a disk that is full, until it is told otherwise."""

    fault: Exception | None = OSError(28, "No space left on device")

    def write(self, text: str) -> int:
        if self.fault is not None:
            raise self.fault
        return super().write(text)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), ValueError("I/O operation on closed file")])
def test_lines_that_were_lost_are_counted_and_told(fault):
    """By the first line that can be written, and once."""
    stream = Full()
    stream.fault = fault
    sink = LogSink(stream)
    for _ in range(3):
        sink.write("lost\n")
    stream.fault = None
    sink.write("one\n")
    sink.write("two\n")
    told, *rest = stream.getvalue().splitlines()

    assert json.loads(told) | {"timestamp": ""} == {
        "timestamp": "",
        "level": "warning",
        "event": "log.lines_lost",
        "lines": 3,
    }
    assert rest == ["one", "two"]


@pytest.mark.processes
def test_full_disk_stops_no_one():
    """Ours and theirs; what the kernel refuses is not kept back to be written twice."""
    program = START.replace(
        "configure_logging()", 'import sys; sys.stderr = open("/dev/full", "w"); configure_logging()'
    )
    program += 'import logging\nlog.info("one")\nlogging.getLogger("ccxt").error("two")\nsys.stdout.write("")\n'

    assert run(program) == ""


@pytest.mark.processes
def test_standard_error_that_is_closed_gives_its_number_to_no_log():
    """The next file that opens gets the number 2: a ledger with log lines in it would be a damaged one."""
    program = """
import os, tempfile
os.close(2)
with tempfile.TemporaryFile("w+b", buffering=0) as ledger:
    assert ledger.fileno() == 2
    log.info("bars.fetched")
    import logging; logging.getLogger("ccxt").error("theirs")
    assert os.fstat(2).st_size == 0
"""

    assert [json.loads(line)["event"] for line in run(START + program).splitlines()] == ["bars.fetched", "theirs"]


@pytest.mark.processes
def test_program_without_standard_error_runs(tmp_path):
    """As under a supervisor that closes it."""
    program = START + 'log.info("one")\nopen("done", "w").close()\n'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = ["/bin/sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False)

    assert done.returncode == 0
    assert (tmp_path / "done").exists()


def test_half_a_line_does_not_spoil_the_next(monkeypatch, tmp_path):
    """A disk may fill in the middle of one."""
    with (tmp_path / "log").open("w") as stream:
        sink = LogSink(stream)
        room, write = [4], os.write

        def write_what_fits(descriptor, content):
            if not room[0]:
                raise OSError(28, "No space left on device")
            written = write(descriptor, content[: room[0]])
            room[0] -= written
            return written

        monkeypatch.setattr(os, "write", write_what_fits)
        sink.write("first\n")
        room[0] = 10_000
        sink.write("second\n")
        sink.close()
    half, told, whole = (tmp_path / "log").read_text().splitlines()

    assert (half, json.loads(told)["lines"], whole) == ("firs", 1, "second")


@pytest.mark.processes
def test_crash_is_one_line_without_secrets():
    """Of the program and of a thread; leaving on purpose is none."""
    program = """
import threading
from forecaster.log import log_uncaught_exceptions
log_uncaught_exceptions()
def fail(error):
    raise error
for error in (ValueError("postgresql://bot:geheim@db"), SystemExit(3)):
    thread = threading.Thread(target=fail, args=(error,), name="worker")
    thread.start()
    thread.join()
fail(RuntimeError("token=geheim"))
"""
    text = run(START + program, code=1)
    of_thread, of_program = [json.loads(line) for line in text.splitlines()]

    assert "geheim" not in text
    assert (of_thread["event"], of_thread["thread"], of_thread["level"]) == ("thread.failed", "worker", "critical")
    assert of_thread["exception"][0]["exc_type"] == "ValueError"
    assert (of_program["event"], of_program["exception"][0]["exc_type"]) == ("program.failed", "RuntimeError")
    assert of_program["exception"][0]["frames"][-1]["name"] == "fail"


def test_ctrl_c_is_no_crash(monkeypatch, shown):
    """It ends a program as Python ends it: no event is made of it; anything else is one."""
    seen = []
    monkeypatch.setattr(sys, "__excepthook__", lambda *raised: seen.append(raised[0]))
    log_uncaught_exceptions()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    before = list(shown.events)
    sys.excepthook(ValueError, ValueError("bad"), None)

    assert seen == [KeyboardInterrupt]
    assert before == []
    assert [event["event"] for event in shown.events] == ["program.failed"]


class Watched(dict):
    """An environment that notes who reads what."""

    def __init__(self, values):
        super().__init__(values)
        self.asked = []

    def __getitem__(self, name):
        self.asked.append(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.asked.append(name)
        return super().get(name, default)

    def __contains__(self, name):
        self.asked.append(name)
        return super().__contains__(name)


@pytest.mark.parametrize("is_terminal", [False, True], ids=["JSON", "terminal"])
def test_no_setting_of_the_environment_changes_the_log(monkeypatch, is_terminal):
    """The environment carries the path of the configuration, and nothing else."""
    environment = Watched({"LOG_LEVEL": "DEBUG", "FORCE_COLOR": "1", "NO_COLOR": "1"})
    monkeypatch.setattr(os, "environ", environment)
    shown = set_up(monkeypatch, is_terminal=is_terminal)
    log.info("bars.fetched", rows=3)
    log_a_failure()

    assert "bars.fetched" in shown.getvalue()
    assert environment.asked == []


class Pipe:
    """Standard error into a pipe of 4 KiB, that somebody reads or not."""

    def __init__(self, monkeypatch):
        self.reading, writing = os.pipe()
        self.lines = os.fdopen(self.reading, "rb")
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        self.stream = os.fdopen(writing, "w")
        monkeypatch.setattr(sys, "stderr", self.stream)
        configure_logging()

    def events(self, until):
        """Read line by line; gives the events up to the first of this name."""
        events = []
        while not events or events[-1]["event"] != until:
            events.append(json.loads(self.lines.readline()))
        return events

    def close(self):
        self.lines.close()
        self.stream.close()


@pytest.fixture
def pipe(monkeypatch):
    made = Pipe(monkeypatch)
    yield made
    made.close()
    for one in ours():
        one.sink.close()


def test_pipe_that_no_one_reads_stops_nobody(pipe, monkeypatch):
    """Lines beyond those that may wait are counted, a library's too: each line is written, in order, or counted."""
    monkeypatch.setattr("forecaster.log.sink.FLUSH_SECONDS", 0.0)
    with write_lines_in_background():
        threads = [threading.Thread(target=log_many, args=[f"thread.{i}"]) for i in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    first = pipe.events("log.lines_lost")
    lost = first.pop()["lines"]
    waiting = [pipe.lines.readline() for _ in range(4 * 2 * MANY - lost - len(first))]
    told = first + [json.loads(line) for line in waiting]
    log.info("over")

    assert lost > 0
    assert [event["event"] for event in pipe.events("over")] == ["over"]
    for i in range(4):
        numbers = [event["number"] for event in told if event["event"] == f"thread.{i}"]
        assert numbers == sorted(numbers)


MANY = 1_500


def log_many(event):
    for number in range(MANY):
        log.info(event, number=number)
        logging.getLogger("ccxt").error("theirs")


def test_lines_that_wait_are_written_at_the_end(pipe):
    """The end of the block waits for them, and they keep their order."""
    reader = ThreadPoolExecutor(1)
    read = reader.submit(pipe.events, "over")
    with write_lines_in_background():
        for number in range(500):
            log.info("one", number=number)
        log.info("over")
    logging.shutdown([weakref.ref(one) for one in ours()])
    events = read.result()
    reader.shutdown()

    assert [event["number"] for event in events[:-1]] == list(range(500))


def test_handler_of_a_signal_may_log_while_a_line_is_written(pipe):
    """In the thread that logs, at any point of it."""
    left = iter(range(200))

    def handle(*_):
        log.info("signal")
        if next(left, None) is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0005)

    before = signal.signal(signal.SIGALRM, handle)
    try:
        with write_lines_in_background(), ThreadPoolExecutor(1) as reader:
            read = reader.submit(pipe.events, "over")
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            for _ in range(1_000):
                log.info("line")
            signal.setitimer(signal.ITIMER_REAL, 0)
            log.info("over")
            events = read.result()
    finally:
        signal.signal(signal.SIGALRM, before)

    assert len([event for event in events if event["event"] == "line"]) == 1_000
    assert "signal" in {event["event"] for event in events}


@pytest.mark.processes
def test_fork_logs_by_itself():
    """It has neither the thread nor the lock of its parent."""
    program = """
import os
from forecaster.log import write_lines_in_background
with write_lines_in_background():
    log.info("parent")
    if os.fork() == 0:
        log.info("child")
        os._exit(0)
    os.wait()
    log.info("parent")
"""

    assert sorted(json.loads(line)["event"] for line in run(START + program).splitlines()) == [
        "child",
        "parent",
        "parent",
    ]


@pytest.mark.processes
def test_program_whose_lines_no_one_reads_ends():
    """A crash is told if somebody reads it, and the program ends within a moment in any case."""
    program = START + (
        "from forecaster.log import write_lines_in_background, log_uncaught_exceptions\n"
        "log_uncaught_exceptions()\n"
        "with write_lines_in_background():\n"
        "    for _ in range(5_000): log.info('one')\n"
        "    raise RuntimeError('nobody knows')\n"
    )
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=writing) as unread:
        code = unread.wait()
    os.close(reading)
    os.close(writing)
    told = [json.loads(line) for line in run(program, code=1).splitlines()]

    assert code == 1
    assert told[-1]["event"] == "program.failed"
