"""What every test shares: a home of its own, and the rules of the default tier, which starts no process."""

from __future__ import annotations

import gc
import logging
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import structlog

from tests.parts import FAST, PARTS

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it for its workers: commands would print for a narrow terminal
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker of pytest-xdist is a core; read when torch is imported
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background so, and programs under test would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

_STARTS = {"multiprocessing.spawn", "subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"}
_started: list[str] | None = None
"""What a test of the default tier has started; None while no such test runs."""


def part_of(item):
    """The part that a test belongs to."""
    marks = {mark.name for mark in item.iter_markers()}
    return next((name for name in PARTS if name in marks), FAST)


def pytest_addoption(parser):
    what = f"--part=NAME runs one of {', '.join([FAST, *PARTS])}; {FAST} is the default, unless -m is given"
    parser.addoption("--part", metavar="NAME", choices=[FAST, *PARTS], help=what)


def pytest_configure(config):
    for name, what in PARTS.items():
        config.addinivalue_line("markers", f"{name}: {what}")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without the garbage collector: almost all that is made stays, and looking through it takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config, items):
    """Leave out what is not of the part that was asked for."""
    asked = config.option.part or (None if config.option.markexpr else FAST)
    if asked:
        kept = {item: part_of(item) == asked for item in items}
        config.hook.pytest_deselected(items=[item for item in items if not kept[item]])
        items[:] = [item for item in items if kept[item]]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A file that skips itself fails too."""
    report = yield
    if report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped, and nothing may be: {collector.nodeid}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """A test that skips itself fails: what it needs is to be installed, or it proves nothing."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, and nothing may be: {report.longrepr[2]}"
    return report


def _refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    if _started is not None and event in _STARTS:
        _started.append(f"{event} {arguments!s:.300}")
        msg = f"{_started[-1]}: a test that starts a process needs the marker of a part, one of {', '.join(PARTS)}"
        raise RuntimeError(msg)


sys.addaudithook(_refuse_processes)


def _spawn(path, *rest):
    """Tell of a process that multiprocessing spawns, which it does without a word."""
    sys.audit("multiprocessing.spawn", path)
    return _spawnv_passfds(path, *rest)


_spawnv_passfds, multiprocessing.util.spawnv_passfds = multiprocessing.util.spawnv_passfds, _spawn


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Watch a test of the default tier, its fixtures included."""
    global _started  # noqa: PLW0603 - an audit hook has no other way to know
    _started = [] if part_of(item) == FAST else None
    try:
        return (yield)
    finally:
        _started = None


@pytest.fixture(autouse=True)
def _starts_no_process():
    """What swallowed the refusal does not hide it."""
    yield

    assert not _started


@pytest.fixture(autouse=True, scope="session")
def _home():
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib")))
        patch.setenv("HOME", home)
        yield


@pytest.fixture(scope="session")
def cluster():
    """A PostgreSQL of our own, for the tests that ask for it."""
    from tests.postgres import Cluster

    with Cluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _quiet():
    """What a command under test configured about logging ends with it, hooks and handlers included."""
    handlers, level = list(logging.root.handlers), logging.root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    for handler in [one for one in logging.root.handlers if one not in handlers]:
        logging.root.removeHandler(handler)
        handler.close()
    logging.root.setLevel(level)
    sys.excepthook, threading.excepthook = hooks
