"""Logging, as a program of its own sees it: nothing on import, secrets hidden, JSON unless on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from forecaster.log import hide_secrets

ROOT = Path(__file__).parents[1]
START = """
import structlog
from forecaster.log import configure_logging
configure_logging()
log = structlog.get_logger()
"""
FAULT = """
def fail():
    balance = "geheim"
    raise RuntimeError("no luck")
try:
    fail()
except RuntimeError:
    log.exception("cycle.failed", timeframe="1h")
"""


def run(program: str) -> str:
    """Standard error of a program that is not on a terminal."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    return done.stderr


def run_on_terminal(program: str) -> str:
    """Standard error of a program that is on a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdin=theirs, stderr=theirs) as running:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    assert running.returncode == 0, shown.decode()
    return shown.decode()


def events(program: str) -> list[dict]:
    """What was logged: every line must be JSON."""
    return [json.loads(line) for line in run(START + program).splitlines()]


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


def test_lines_are_json_away_from_a_terminal():
    """One per event, with its level, its time in UTC, and values under their own names."""
    (event,) = events('log.info("bars.fetched", series="kraken BTC/USD 1h", rows=3)')

    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "bars.fetched", "level": "info", "series": "kraken BTC/USD 1h", "rows": 3}


def test_records_of_others_are_json_too():
    """A collector that reads JSON lines must not choke on a library's warning."""
    program = (
        "import logging, warnings\n"
        'logging.getLogger("apscheduler").warning("missed by %d s", 3)\n'
        'warnings.warn("old", stacklevel=1)\n'
    )

    lines = events(program)

    assert [one["level"] for one in lines] == ["warning", "warning"]
    assert "missed by 3 s" in lines[0]["event"]


def test_only_warnings_unless_verbose():
    lines = run(
        START.replace("configure_logging()", "configure_logging(verbose=False)")
        + 'log.info("bars.fetched")\nlog.warning("series.skipped")\n'
    ).splitlines()

    assert [json.loads(line)["event"] for line in lines] == ["series.skipped"]


def test_what_was_bound_is_on_every_line():
    program = """
with structlog.contextvars.bound_contextvars(cycle="1h"):
    log.info("one")
    log.info("two")
log.info("three")
"""

    assert [one.get("cycle") for one in events(program)] == ["1h", "1h", None]


def test_a_traceback_shows_no_local_variables():
    """They may hold balances and keys."""
    text = run(START + FAULT)
    (event,) = [json.loads(line) for line in text.splitlines()]

    assert event["event"] == "cycle.failed"
    assert event["exception"][0]["exc_value"] == "no luck"
    assert [frame["name"] for frame in event["exception"][0]["frames"]] == ["<module>", "fail"]
    assert "geheim" not in text


def test_a_terminal_shows_lines_for_people():
    """With the traceback as Python writes it, and no local variables here either."""
    shown = run_on_terminal(START + FAULT + 'log.info("login.done", password="geheim")\n')

    assert "cycle.failed" in shown
    assert "RuntimeError: no luck" in shown
    assert "[hidden]" in shown
    assert "geheim" not in shown
    assert '{"' not in shown


def test_secrets_are_hidden_in_what_is_written():
    text = run(START + 'log.bind(token="geheim").info("login.done", api_key="geheim", user="bot")\n')

    assert "geheim" not in text
    assert json.loads(text)["user"] == "bot"


@pytest.mark.parametrize(
    "key",
    [
        "secret",
        "token",
        "password",
        "passwd",
        "apikey",
        "apiKey",
        "api_key",
        "API_KEY",
        "Authorization",
        "client_secret",
        "exchange_password",
        "x_token",
    ],
)
def test_a_key_named_like_a_secret_is_hidden(key):
    assert hide_secrets(None, "info", {key: "geheim", "event": "e"}) == {key: "[hidden]", "event": "e"}


@pytest.mark.parametrize("key", ["series", "event", "key", "seconds", "as_of", "engine"])
def test_another_key_is_shown(key):
    assert hide_secrets(None, "info", {key: "plain"}) == {key: "plain"}


def test_a_secret_inside_a_value_is_hidden():
    """Headers and options of an exchange come as dictionaries."""
    event = {"event": "request.failed", "headers": {"Authorization": "geheim", "Accept": "json"}}

    hidden = hide_secrets(None, "info", event)

    assert hidden["headers"] == {"Authorization": "[hidden]", "Accept": "json"}
