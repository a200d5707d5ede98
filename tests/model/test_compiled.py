"""The compiler is a guest: its faults cost nothing but speed, and are never blamed on the wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from forecaster.errors import InferenceError
from forecaster.model import compiled
from forecaster.model.compiled import CompileFallbackWarning, GuardedForward
from forecaster.model.core import Missing

CPU = torch.device("cpu")
CONTEXT_BT = torch.arange(8.0).reshape(4, 2)


@pytest.fixture(autouse=True)
def _first_in_this_process():
    """Each test sees a process that has not warned yet."""
    before = compiled._warned.is_set()
    compiled._warned.clear()
    yield
    if before:
        compiled._warned.set()


def double(context_BT, patches, missing=Missing.NOTHING):
    return context_BT * 2 * patches


def make_guarded(fault=None, eager=double):
    """A forward whose compiled half raises `fault`: the place where a compiler's faults come out."""
    guarded = GuardedForward(eager, "off", CPU)

    def broken(context_BT, patches, missing):
        raise fault

    guarded._compiled = broken
    guarded.reason = "compiled as one graph without breaks"
    return guarded


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("Inductor failed"),
        AssertionError("-834735604272579/1000000000000000"),
        UnboundLocalError("cannot access local variable 'tracer_output'"),
        torch._dynamo.exc.TorchDynamoException("unsupported"),
        torch._dynamo.exc.FailOnRecompileLimitHit("too many shapes"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_failed_request_is_run_again_on_eager(fault):
    guarded = make_guarded(fault)
    with pytest.warns(CompileFallbackWarning, match=type(fault).__name__):
        answer = guarded(CONTEXT_BT, 1, Missing.NOTHING)

    assert torch.equal(answer, double(CONTEXT_BT, 1))
    assert guarded.engine == "eager"
    assert type(fault).__name__ in guarded.reason


def test_one_warning_per_process():
    """A second wrapper that falls back records it without a further warning."""
    with pytest.warns(CompileFallbackWarning):
        make_guarded(RuntimeError("first"))(CONTEXT_BT, 1, Missing.NOTHING)
    other = make_guarded(RuntimeError("second"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other(CONTEXT_BT, 1, Missing.NOTHING)

    assert other.engine == "eager"
    assert "second" in other.reason


def test_compiled_is_not_asked_again():
    guarded = make_guarded(RuntimeError("once"))
    with pytest.warns(CompileFallbackWarning):
        guarded(CONTEXT_BT, 1, Missing.NOTHING)
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        assert torch.equal(guarded(CONTEXT_BT, 2, Missing.NOTHING), double(CONTEXT_BT, 2))


def test_keyboard_interrupt_goes_through_at_once():
    guarded = make_guarded(KeyboardInterrupt(), eager=lambda *_: pytest.fail("eager was asked"))
    with pytest.raises(KeyboardInterrupt):
        guarded(CONTEXT_BT, 1, Missing.NOTHING)

    assert guarded.engine == "compiled"


@pytest.mark.parametrize("link", ["__context__", "__cause__"])
def test_hidden_keyboard_interrupt_goes_through(link):
    """A fault raised in a `finally` while Ctrl-C was on its way up does not swallow it."""
    outer = RuntimeError("outer")
    middle = UnboundLocalError("tracer_output")
    setattr(outer, link, middle)
    setattr(middle, link, KeyboardInterrupt())
    guarded = make_guarded(outer, eager=lambda *_: pytest.fail("eager was asked"))
    with pytest.raises(KeyboardInterrupt):
        guarded(CONTEXT_BT, 1, Missing.NOTHING)


def test_fault_of_both_engines_is_not_the_compilers():
    """Where eager fails on the same input, the error is raised, both faults are told, compiled stays in service."""

    def broken_eager(context_BT, patches, missing):
        msg = "shape mismatch"
        raise RuntimeError(msg)

    fault = RuntimeError("compiled failed")
    guarded = make_guarded(fault, broken_eager)
    with pytest.raises(InferenceError, match=r"shape mismatch.*compiled failed") as raised:
        guarded(CONTEXT_BT, 1, Missing.NOTHING)

    assert raised.value.__cause__ is fault
    assert guarded.engine == "compiled"


def test_calls_never_overlap():
    """Compiled code is not safe for threads, so one call runs at a time."""
    inside, most = [], []

    def watched(context_BT, patches, missing):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()
        return context_BT

    guarded = GuardedForward(watched, "off", CPU)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: guarded(CONTEXT_BT, 1, Missing.NOTHING), range(24)))

    assert most == [1] * 24


@pytest.mark.parametrize(("mode", "reason"), [("off", "compile is off"), ("auto", "on a CPU")])
def test_eager_says_why(mode, reason):
    guarded = GuardedForward(double, mode, CPU)

    assert guarded.engine == "eager"
    assert reason in guarded.reason


def test_missing_compiler_is_survived(tmp_path):
    """The real torch.compile in a process without a C++ compiler: Inductor's own error, one warning, then eager."""
    code = (
        "import torch\n"
        "from forecaster.model.compiled import GuardedForward\n"
        "guarded = GuardedForward(lambda x, n, _: torch.sin(x) * n, 'on', torch.device('cpu'))\n"
        "x = torch.arange(8.0)\n"
        "assert torch.equal(guarded(x, 3, None), torch.sin(x) * 3)\n"
        "print(guarded.engine, guarded.reason)\n"
    )
    environment = os.environ | {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )

    assert done.stdout.startswith("eager fell back from compiled: InductorError")
    assert done.stderr.count("CompileFallbackWarning") == 1
