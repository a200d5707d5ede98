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
from tests.model.engines import NEVER_S, ask, make_context, make_engines, survives, wait_until

ROOT = Path(__file__).parents[3]


def make_order(folder, config=None):
    return BuildRequest(config or {}, (4, 64, 1, "nothing", 4), "cpu", 1, str(folder))


def children_of(pid):
    """Processes whose parent is `pid`, by /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == pid:
            found.append(int(path.parent.name))
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def slow_torch(tmp_path, monkeypatch):
    """Stand for a long compilation: a package whose import tells how the child runs, and then hangs."""
    package = tmp_path / "path" / "torch"
    package.mkdir(parents=True)
    told = tmp_path / "importing"
    (package / "__init__.py").write_text(
        "import json, os, tempfile, time\n"
        f"about = dict(nice=os.nice(0), policy=os.sched_getscheduler(0), tmp=tempfile.gettempdir(), **os.environ)\n"
        f"with open({f'{told}.new'!r}, 'w') as file: json.dump(about, file)\n"
        f"os.rename({f'{told}.new'!r}, {str(told)!r})\n"
        "time.sleep(86400)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return told


def closed_while_compiling(order, told):
    """Begin a build, close the builder once the child is at work, and give what the child told of itself."""
    builder = Builder(NEVER_S)
    with ThreadPoolExecutor(1) as pool:
        build = pool.submit(builder.build, order)
        wait_until(told.exists, "the child's work")
        builder.close()
        with pytest.raises(BuildFailed, match="ended with -9"):
            build.result()
    return json.loads(told.read_text())


@pytest.mark.processes
def test_fault_of_the_child_is_named(tmp_path):
    """A configuration that is no Chronos-2: the child's own error comes back, and nothing stays behind."""
    with pytest.raises(BuildFailed, match=r"^(AssertionError|ValidationError): "):
        Builder(NEVER_S).build(make_order(tmp_path, {"d_model": 8}))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.processes
def test_child_dies_with_its_parent(tmp_path, slow_torch):
    """`kill -9` of the parent, which can clean up nothing, leaves no compiler behind."""
    code = (
        "import sys, json\n"
        "from forecaster.model.chronos2.builder import Builder, BuildRequest\n"
        "Builder(600.0).build(BuildRequest(**json.loads(sys.argv[1])))\n"
    )
    order = json.dumps(asdict(make_order(tmp_path)))
    with subprocess.Popen([sys.executable, "-c", code, order], cwd=ROOT) as parent:
        (child,) = wait_until(lambda: children_of(parent.pid), "a child")
        wait_until(slow_torch.exists, "the child's work")
        parent.send_signal(signal.SIGKILL)
        parent.wait()

        wait_until(lambda: not is_running(child), "the child's end")


@pytest.mark.processes
def test_child_steps_back_and_keeps_to_its_folder(tmp_path, slow_torch, monkeypatch):
    """It runs when nobody else wants the processor, and its compiler's caches are where nobody else writes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere/else")
    about = closed_while_compiling(make_order(tmp_path), slow_torch)

    assert about["nice"] == 19
    assert about["policy"] == os.SCHED_IDLE
    assert len({about["TORCHINDUCTOR_CACHE_DIR"], about["TRITON_CACHE_DIR"], about["tmp"]}) == 1
    assert Path(about["tmp"]).parent == tmp_path


@pytest.mark.processes
def test_awaited_child_does_not_step_back(tmp_path, slow_torch):
    about = closed_while_compiling(replace(make_order(tmp_path), awaited=True), slow_torch)

    assert about["policy"] == os.sched_getscheduler(0)


@pytest.mark.processes
def test_child_that_takes_too_long_is_killed(tmp_path, slow_torch):
    """Whatever it is doing by then."""
    builder = Builder(0.5)
    with pytest.raises(BuildFailed, match=r"within 0\.5 s"):
        builder.build(make_order(tmp_path))

    assert builder._child.returncode == -signal.SIGKILL


def test_closed_builder_starts_nothing(tmp_path):
    builder = Builder(NEVER_S)
    builder.close()
    with pytest.raises(BuildFailed, match="unloaded"):
        builder.build(make_order(tmp_path))


@pytest.mark.processes
def test_child_that_dies_before_it_reads_the_order(tmp_path, monkeypatch):
    """The pipe is broken when the order is written, and again when it is closed: only the child's end is told."""

    class Stillborn(subprocess.Popen):
        def __init__(self, _, **kwargs):
            super().__init__([sys.executable, "-c", "raise SystemExit(7)"], **kwargs)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(subprocess, "Popen", Stillborn)
    with pytest.raises(BuildFailed, match="ended with 7"):
        Builder(NEVER_S).build(make_order(tmp_path))


# The same below a model that serves.


@pytest.fixture
def checkpoint(monkeypatch):
    """The bundled model, in a process that has not warned yet."""
    monkeypatch.setattr(faults, "_warned", type(faults._warned)())
    return load_checkpoint("nano", None, "cpu")


def child_of(engines):
    return wait_until(lambda: engines._packages.builder._child, "a child")


@pytest.mark.processes
def test_forecasts_go_on_when_the_child_is_killed(checkpoint, tmp_path):
    engines = make_engines(checkpoint, tmp_path / "compiled")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: os.kill(child_of(engines).pid, signal.SIGKILL))
        survives(engines, checkpoint, warning="ended with -9", state=State.COOLING)


@pytest.mark.processes
def test_unloading_ends_a_build(checkpoint, tmp_path, slow_torch):
    engines = make_engines(checkpoint, tmp_path / "compiled")
    ask(engines, make_context())
    wait_until(slow_torch.exists, "the child's work")
    child = child_of(engines)
    engines.close()

    assert child.wait(NEVER_S) == -signal.SIGKILL
