"""The child process that builds: out of the way, in folders of its own, and gone when its parent is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from forecaster.model.chronos2 import faults
from forecaster.model.chronos2.bucket import State
from forecaster.model.chronos2.builder import Builder, BuildFailed, BuildRequest
from forecaster.model.chronos2.checkpoint import load_checkpoint
from tests.model.engines import NEVER_S, forecast, make_context, make_engines, survives, wait_until

ROOT = Path(__file__).parents[3]


def make_request(folder, config=None):
    return BuildRequest(config or {}, (4, 64, 1, "nothing", 4), "cpu", 1, str(folder))


def children_of(pid):
    """Return the processes whose parent is `pid`, from /proc."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == pid:
            children.append(int(path.parent.name))
    return children


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def slow_torch(tmp_path, monkeypatch):
    """Replace torch by a package whose import records how the child runs, and then hangs."""
    package = tmp_path / "path" / "torch"
    package.mkdir(parents=True)
    record = tmp_path / "importing"
    (package / "__init__.py").write_text(
        "import json, os, tempfile, time\n"
        f"facts = dict(nice=os.nice(0), policy=os.sched_getscheduler(0), tmp=tempfile.gettempdir(), **os.environ)\n"
        f"with open({f'{record}.new'!r}, 'w') as file: json.dump(facts, file)\n"
        f"os.rename({f'{record}.new'!r}, {str(record)!r})\n"
        "time.sleep(86400)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return record


def closed_while_compiling(request, record):
    """Start a build, close the builder once the child works, and return what the child recorded."""
    builder = Builder(NEVER_S)
    with ThreadPoolExecutor(1) as pool:
        build = pool.submit(builder.build, request)
        wait_until(record.exists, "the child's work")
        builder.close()
        with pytest.raises(BuildFailed, match="ended with -9"):
            build.result()
    return json.loads(record.read_text())


@pytest.mark.processes
def test_fault_of_the_child_is_named(tmp_path):
    """For a configuration that is not a Chronos-2, the child's error is raised, and no file is left."""
    with pytest.raises(BuildFailed, match=r"^(AssertionError|ValidationError): "):
        Builder(NEVER_S).build(make_request(tmp_path, {"d_model": 8}))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_child_dies_with_its_parent(tmp_path, slow_torch):
    """`kill -9` of the parent leaves no compiler running."""
    code = (
        "import sys, json\n"
        "from forecaster.model.chronos2.builder import Builder, BuildRequest\n"
        "Builder(600.0).build(BuildRequest(**json.loads(sys.argv[1])))\n"
    )
    request = json.dumps(asdict(make_request(tmp_path)))
    with subprocess.Popen([sys.executable, "-c", code, request], cwd=ROOT) as parent:
        (child,) = wait_until(lambda: children_of(parent.pid), "a child")
        wait_until(slow_torch.exists, "the child's work")
        parent.send_signal(signal.SIGKILL)
        parent.wait()

        wait_until(lambda: not is_running(child), "the child's end")


@pytest.mark.processes
def test_child_has_lowest_priority_and_its_own_caches(tmp_path, slow_torch, monkeypatch):
    """It runs on idle processor time, and its compiler caches are in its own folder."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere/else")
    facts = closed_while_compiling(make_request(tmp_path), slow_torch)

    assert facts["nice"] == 19
    assert facts["policy"] == os.SCHED_IDLE
    assert len({facts["TORCHINDUCTOR_CACHE_DIR"], facts["TRITON_CACHE_DIR"], facts["tmp"]}) == 1
    assert Path(facts["tmp"]).parent == tmp_path


@pytest.mark.processes
def test_awaited_child_has_normal_priority(tmp_path, slow_torch):
    facts = closed_while_compiling(replace(make_request(tmp_path), awaited=True), slow_torch)

    assert facts["policy"] == os.sched_getscheduler(0)


@pytest.mark.processes
def test_child_that_takes_too_long_is_killed(tmp_path, slow_torch):
    """Also while it imports torch."""
    builder = Builder(0.5)
    with pytest.raises(BuildFailed, match=r"within 0\.5 s"):
        builder.build(make_request(tmp_path))

    assert builder._child.returncode == -signal.SIGKILL


def test_closed_builder_starts_nothing(tmp_path):
    builder = Builder(NEVER_S)
    builder.close()
    with pytest.raises(BuildFailed, match="unloaded"):
        builder.build(make_request(tmp_path))


@pytest.mark.processes
def test_child_that_exits_before_it_reads_the_request(tmp_path, monkeypatch):
    """The pipe breaks when the request is written, and when it is closed: only the exit code is reported."""

    class Stillborn(subprocess.Popen):
        def __init__(self, _, **kwargs):
            super().__init__([sys.executable, "-c", "raise SystemExit(7)"], **kwargs)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(subprocess, "Popen", Stillborn)
    with pytest.raises(BuildFailed, match="ended with 7"):
        Builder(NEVER_S).build(make_request(tmp_path))


# The same in a model that serves.


@pytest.fixture
def checkpoint(monkeypatch):
    """The bundled model, with the one warning of the process reset."""
    monkeypatch.setattr(faults, "_warned", type(faults._warned)())
    return load_checkpoint("nano", None, "cpu")


def child_of(engines):
    return wait_until(lambda: engines._packages.builder._child, "a child")


@pytest.mark.processes
def test_forecasts_continue_when_the_child_is_killed(checkpoint, tmp_path):
    engines = make_engines(checkpoint, tmp_path / "compiled")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: os.kill(child_of(engines).pid, signal.SIGKILL))
        survives(engines, checkpoint, warning="ended with -9", state=State.COOLING)


@pytest.mark.processes
def test_unloading_kills_a_build(checkpoint, tmp_path, slow_torch):
    engines = make_engines(checkpoint, tmp_path / "compiled")
    forecast(engines, make_context())
    wait_until(slow_torch.exists, "the child's work")
    child = child_of(engines)
    engines.close()

    assert child.wait(NEVER_S) == -signal.SIGKILL
