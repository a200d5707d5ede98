"""Real builds: a child process with Inductor and g++, torch's own loader, and Dynamo.

What is decided about their results is shown in test_compiled.py, with another compiler. One package of the bundled
model is built for all tests that need one.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from forecaster.forecast import ENGINE_NOISE
from forecaster.model.chronos2 import compilers, faults
from forecaster.model.chronos2.bucket import State
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.faults import CompileFallbackWarning
from tests.model.engines import (
    SHAPE,
    compile_with,
    eager_quantiles,
    equals_eager,
    forecast,
    make_context,
    make_engines,
    package_of,
    settle,
    survives,
    wait_until,
)

pytestmark = pytest.mark.compiler
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint("nano", None, "cpu")


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    """A folder with a package built by the real compiler, checked and timed."""
    folder = tmp_path_factory.mktemp("built")
    folder.chmod(0o700)
    engines = make_engines(checkpoint, folder)
    engines.warm_up([SHAPE])
    engines.close()
    return folder


@pytest.fixture(autouse=True)
def _no_warning_yet(monkeypatch):
    """Reset the one warning of the process."""
    monkeypatch.setattr(faults, "_warned", threading.Event())


def test_one_real_build(checkpoint, built):
    """A restart finds the package: the first forecast is eager, the next compiled, on the same weights."""
    engines = make_engines(checkpoint, built)
    context_BT = make_context()
    first_BQH, first = forecast(engines, context_BT)
    status = settle(engines, state=State.SERVING)
    second_BQH, second = forecast(engines, context_BT)

    assert (first.engine, second.engine) == ("eager", "compiled")
    assert torch.equal(first_BQH, eager_quantiles(checkpoint, context_BT))
    assert equals_eager(checkpoint, second_BQH, context_BT)
    assert not torch.equal(second_BQH, first_BQH)
    assert 0 < status.max_rel_diff < ENGINE_NOISE
    assert engines.status().fallbacks == 0
    assert package_of(built).stat().st_size < (ROOT / "forecaster/model/nano/model.safetensors").stat().st_size


def make_script(tmp_path, text):
    script = tmp_path / "compiler"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    ("text", "warning"),
    [(None, "InvalidCxxCompiler"), ('case "$*" in *wrapper.cpp*) exit 4;; *) exec g++ "$@";; esac', "CppCompileError")],
    ids=["missing", "failing"],
)
def test_compiler_faults(checkpoint, tmp_path, monkeypatch, text, warning):
    """Eager serves and gives the reason; one warning reports it."""
    monkeypatch.setenv("CXX", str(tmp_path / "none") if text is None else make_script(tmp_path, text))
    engines = make_engines(checkpoint, tmp_path / "compiled")
    with pytest.warns(CompileFallbackWarning, match=warning) as caught:
        engines.warm_up([SHAPE])
    actual_BQH, output = forecast(engines, make_context())

    assert len(caught) == 1
    assert output.engine == "eager"
    assert warning in output.reason
    assert torch.equal(actual_BQH, eager_quantiles(checkpoint, make_context()))


def test_a_hanging_compiler_is_killed_with_the_model(checkpoint, tmp_path, monkeypatch):
    """Eager serves meanwhile; unloading kills the child and its processes."""
    seconds, reached = 86_412, tmp_path / "reached"
    monkeypatch.setenv("CXX", make_script(tmp_path, f"touch {reached}\nexec sleep {seconds}"))
    engines = make_engines(checkpoint, tmp_path / "compiled")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(engines.warm_up, [SHAPE])
        wait_until(reached.exists, "the compiler's start")
        actual_BQH, meanwhile = forecast(engines, make_context())
        engines.close()

    assert meanwhile.engine == "eager"
    assert equals_eager(checkpoint, actual_BQH, make_context())
    wait_until(lambda: not list(processes_with(f"sleep\x00{seconds}".encode())), "the compiler's end")


def processes_with(words):
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words in path.read_bytes():
                yield path
        except OSError:
            continue


@pytest.mark.parametrize("wait_s", [0.0, 0.05])
def test_a_process_can_exit_while_code_is_loaded(built, wait_s):
    """Python waits for the thread that loads and checks, and does not crash."""
    code = (
        "import sys, time, torch\n"
        "from forecaster.model.chronos2.checkpoint import load_checkpoint\n"
        "from tests.model.engines import forecast, make_context, make_engines\n"
        "engines = make_engines(load_checkpoint('nano', None, 'cpu'), sys.argv[1])\n"
        "forecast(engines, make_context())\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, built, str(wait_s)], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


# torch.compile's own modes, in this process, with another backend than Inductor.


@pytest.mark.parametrize("compiler", ["default", "reduce-overhead", "max-autotune"])
def test_in_process_modes_are_checked_as_well(checkpoint, tmp_path, monkeypatch, compiler):
    """Each is torch's mode of that name; its code is compared with eager, and serves."""
    modes = []

    def compile_(core, *, fullgraph, dynamic, mode):
        modes.append((mode, fullgraph, dynamic))
        return core

    monkeypatch.setattr(torch, "compile", compile_)
    engines = make_engines(checkpoint, tmp_path / "compiled", compiler=compiler)
    engines.warm_up([SHAPE])
    context_BT = make_context()
    actual_BQH, output = forecast(engines, context_BT)

    assert modes == [(compiler, True, False)]
    assert output.engine == "compiled"
    assert equals_eager(checkpoint, actual_BQH, context_BT)


def test_wrong_in_process_code_does_not_serve(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda core, **_: lambda standard_BT: 1.01 * core(standard_BT))
    engines = make_engines(checkpoint, tmp_path / "compiled", compiler="default")
    survives(engines, checkpoint, warning="of the spread away from eager", state=State.COOLING)


def test_raising_backend(checkpoint, tmp_path, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("backend raised")

    torch._dynamo.reset()
    compile_with(monkeypatch, backend)
    engines = make_engines(checkpoint, tmp_path / "compiled", compiler="default")
    survives(engines, checkpoint, warning="BackendCompilerFailed", state=State.COOLING)


def test_recompile_limit(checkpoint, tmp_path, monkeypatch):
    """The shape past the limit falls back; the one before it stays compiled."""
    torch._dynamo.reset()
    compile_with(monkeypatch, "eager")
    monkeypatch.setattr(compilers, "_RECOMPILE_LIMIT", 1)
    engines = make_engines(checkpoint, tmp_path / "compiled", compiler="default")
    engines.warm_up([SHAPE])
    with pytest.warns(CompileFallbackWarning, match="FailOnRecompileLimitHit"):
        engines.warm_up([SHAPE._replace(rows=16)])
    context_BT = make_context(16)
    actual_BQH, output = forecast(engines, context_BT)

    assert output.engine == "eager"
    assert torch.equal(actual_BQH, eager_quantiles(checkpoint, context_BT))
    assert forecast(engines, make_context())[1].engine == "compiled"
