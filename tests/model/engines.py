"""Engines on the bundled model, and a compiler that needs neither a process nor Inductor."""

from __future__ import annotations

import copy
import itertools
import json
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from forecaster.forecast import ENGINE_NOISE
from forecaster.model.chronos2.bucket import State
from forecaster.model.chronos2.builder import PACKAGE, Builder
from forecaster.model.chronos2.checkpoint import library_versions
from forecaster.model.chronos2.compiled import Engines
from forecaster.model.chronos2.compilers import CompileSettings
from forecaster.model.chronos2.core import Core, Missing, Shape, grouped_forward
from forecaster.model.chronos2.faults import CompileFallbackWarning

ROWS, BARS, GROUP = 8, 64, 4
SHAPE = Shape(ROWS, BARS, 1)
NEVER_S = 500.0
"""How long to wait for what must happen."""


class Toolchain:
    """Builds and loads packages in this process: the place of the child process, and of torch's loader.

    A package is a shape and the number of its build, as text. Loaded, it runs the forward pass on the weights that it
    is bound to, as compiled code does. What it did not build goes to torch's own loader.

    Args:
        model: whose forward pass it runs.

    Attributes:
        fault: raised by each build, where there is one.
        spoil: what loaded code goes through, `spoil(run)`.
        loaded: the packages that were loaded.
    """

    builds = itertools.count()

    def __init__(self, model):
        self._skeleton = copy.deepcopy(model).to("meta")
        self._torch_loader = torch._C._aoti.AOTIModelPackageLoader
        self.fault, self.spoil, self.loaded = None, lambda run: run, []

    def install(self, patch):
        """Take the place of child process and loader until `patch` is undone."""
        patch.setattr(Builder, "_build_once", lambda _, order: self.build(order))
        patch.setattr(torch._C._aoti, "AOTIModelPackageLoader", self.load)

    def build(self, order):
        if self.fault is not None:
            raise self.fault
        package = Path(order.folder) / PACKAGE
        package.write_text(json.dumps({"shape": order.shape, "build": next(self.builds)}, indent=1))
        return package

    def load(self, path, *arguments):
        try:
            about = json.loads(Path(path).read_text())
        except ValueError:
            return self._torch_loader(path, *arguments)
        self.loaded.append(about)
        rows, bars, patches, missing, group = about["shape"]
        return _Code(Core(self._skeleton, Shape(rows, bars, patches, Missing(missing), group)), self.spoil)


class _Code:
    """What a loader of torch is: code that waits for its weights."""

    def __init__(self, core, spoil):
        self._core, self._spoil = core, spoil

    def get_constant_fqns(self):
        return [name for name, _ in (*self._core.named_parameters(), *self._core.named_buffers())]

    def load_constants(self, weights, **_):
        self._run = self._spoil(lambda standard_BT: functional_call(self._core, weights, (standard_BT,)))

    def boxed_run(self, inputs):
        return [self._run(*inputs)]


def make_engines(checkpoint, folder, mode="on", **settings):
    model, weights_sha256 = checkpoint
    return Engines(model, weights_sha256, library_versions(), CompileSettings(mode, folder=Path(folder), **settings))


def make_context(rows=ROWS, seed=0):
    return torch.randn(rows, BARS, generator=torch.Generator().manual_seed(seed)).cumsum(dim=1)


def package_of(folder):
    (package,) = folder.glob("*.pt2")
    return package


def eager_answer(checkpoint, context_BT):
    with torch.no_grad():
        return grouped_forward(checkpoint[0], context_BT, 1, GROUP)


def ask(engines, context_BT):
    """Ask as the wrapper does; every answer there is, in one tensor."""
    answers = engines(context_BT, 1, GROUP)
    return torch.cat([one.quantiles_BQH for one in answers]), answers[0]


def is_eagers(checkpoint, found_BQH, context_BT):
    expected_BQH = eager_answer(checkpoint, context_BT)
    spread_B = expected_BQH.amax(dim=(1, 2)) - expected_BQH.amin(dim=(1, 2))
    return bool(((found_BQH - expected_BQH).abs().amax(dim=(1, 2)) <= ENGINE_NOISE * spread_B).all())


def wait_until(there, what="it"):
    """Wait for something, as long as it takes; give it."""
    until = time.monotonic() + NEVER_S
    while not (found := there()):
        if time.monotonic() > until:
            pytest.fail(f"{what} did not happen")
        time.sleep(0.01)
    return found


def settle(engines, *, state, shape=SHAPE):
    """Wait until a bucket has reached `state`; its status."""

    def reached():
        (found,) = (one for one in engines.status().buckets if one.missing == shape.missing.value)
        return found if found.state == state.value else None

    return wait_until(reached, f"{state}, with {engines.status().buckets},")


def survives(engines, checkpoint, *, warning, state):
    """Forecasts before, during and after the fault are all eager's, and exactly one warning tells of it."""
    contexts = [make_context(seed=seed) for seed in range(3)]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        answers = [ask(engines, contexts[0])]
        status = settle(engines, state=state)
        answers += [ask(engines, context_BT) for context_BT in contexts[1:]]
    told = [str(one.message) for one in seen if issubclass(one.category, CompileFallbackWarning)]

    for (found_BQH, _), context_BT in zip(answers, contexts, strict=True):
        assert is_eagers(checkpoint, found_BQH, context_BT)
    assert len(told) == 1
    assert warning in told[0]
    assert any(warning in fault for fault in status.faults)
    return status


def serve(engines):
    """Ask once, as a service's first forecast does, and wait until compiled code serves."""
    ask(engines, make_context())
    return settle(engines, state=State.SERVING)


def compile_with(monkeypatch, backend):
    """Let torch.compile run on another backend than Inductor: Dynamo is the real one."""
    monkeypatch.setattr(
        torch,
        "compile",
        lambda core, fullgraph, dynamic, mode: torch._dynamo.optimize(backend, nopython=fullgraph, dynamic=dynamic)(
            core
        ),
    )
