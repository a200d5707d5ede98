"""The child process that builds: out of the way, in folders of its own, and gone when its parent is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from forecaster.model.builder import Builder, BuildFailed, Order

ROOT = Path(__file__).parents[2]


def make_order(folder, config=None):
    return Order(config or {}, (4, 64, 1, "nothing", 4), "cpu", 1, str(folder))


def wait_until(there, seconds=20.0):
    until = time.monotonic() + seconds
    while not (found := there()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
    return found


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


def test_fault_of_the_child_is_named(tmp_path):
    """A configuration that is no Chronos-2: the child's own error comes back, and nothing stays behind."""
    with pytest.raises(BuildFailed, match=r"^AssertionError: Not a valid Chronos config"):
        Builder(60.0).build(make_order(tmp_path, {"d_model": 8}))

    assert list(tmp_path.iterdir()) == []


def test_child_dies_with_its_parent(tmp_path):
    """`kill -9` of the parent, which can clean up nothing, leaves no compiler behind."""
    code = (
        "import sys, json\n"
        "from forecaster.model.builder import Builder, Order\n"
        "Builder(600.0).build(Order(**json.loads(sys.argv[1])))\n"
    )
    order = json.dumps(asdict(make_order(tmp_path)))
    hang = {"PYTHONPATH": str(make_slow_torch(tmp_path))}
    with subprocess.Popen([sys.executable, "-c", code, order], cwd=ROOT, env=os.environ | hang) as parent:
        (child,) = wait_until(lambda: children_of(parent.pid))
        wait_until((tmp_path / "importing").exists)
        parent.send_signal(signal.SIGKILL)
        parent.wait()

        wait_until(lambda: not is_running(child))


def make_slow_torch(folder):
    """A package that stands for a long compilation: its import tells how the child runs, and then hangs."""
    package = folder / "path" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "import json, os, tempfile, time\n"
        f"about = dict(nice=os.nice(0), policy=os.sched_getscheduler(0), tmp=tempfile.gettempdir(), **os.environ)\n"
        f"with open({str(folder / 'importing.new')!r}, 'w') as file: json.dump(about, file)\n"
        f"os.rename({str(folder / 'importing.new')!r}, {str(folder / 'importing')!r})\n"
        "time.sleep(600)\n"
    )
    return package.parent


def test_child_steps_back_and_keeps_to_its_folder(tmp_path, monkeypatch):
    """It runs when nobody else wants the processor, and its compiler's caches are where nobody else writes."""
    monkeypatch.setenv("PYTHONPATH", str(make_slow_torch(tmp_path)))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere/else")
    with pytest.raises(BuildFailed, match="within 3 s"):
        Builder(3.0).build(make_order(tmp_path))
    about = json.loads((tmp_path / "importing").read_text())

    assert about["nice"] == 19
    assert about["policy"] == os.SCHED_IDLE
    assert len({about["TORCHINDUCTOR_CACHE_DIR"], about["TRITON_CACHE_DIR"], about["tmp"]}) == 1
    assert Path(about["tmp"]).parent == tmp_path


def test_awaited_child_does_not_step_back(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(make_slow_torch(tmp_path)))
    with pytest.raises(BuildFailed, match="within 3 s"):
        Builder(3.0).build(replace(make_order(tmp_path), awaited=True))

    assert json.loads((tmp_path / "importing").read_text())["policy"] == os.sched_getscheduler(0)


def test_closed_builder_starts_nothing(tmp_path):
    builder = Builder(60.0)
    builder.close()
    with pytest.raises(BuildFailed, match="unloaded"):
        builder.build(make_order(tmp_path))


def test_child_that_dies_before_it_reads_the_order(tmp_path, monkeypatch):
    """The pipe is broken when the order is written, and again when it is closed: only the child's end is told."""

    class Stillborn(subprocess.Popen):
        def __init__(self, _, **kwargs):
            super().__init__([sys.executable, "-c", "raise SystemExit(7)"], **kwargs)
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(subprocess, "Popen", Stillborn)
    with pytest.raises(BuildFailed, match="ended with 7"):
        Builder(60.0).build(make_order(tmp_path))
