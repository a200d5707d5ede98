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
"""Seconds to wait for an event that must happen."""


class Toolchain:
    """Builds and loads packages in this process, instead of the child process and torch's loader.

    A package is a shape and the number of its build, as text. When loaded, it runs the forward pass on the weights it
    is given, as compiled code does. Files that it did not build go to torch's own loader.

    Args:
        model: whose forward pass it runs.

    Attributes:
        fault: raised by each build, if set.
        spoil: wrapper of loaded code, `spoil(run)`.
        loaded: the packages that were loaded.
    """

    builds = itertools.count()

    def __init__(self, model):
        self._skeleton = copy.deepcopy(model).to("meta")
        self._torch_loader = torch._C._aoti.AOTIModelPackageLoader
        self.fault, self.spoil, self.loaded = None, lambda run: run, []

    def install(self, patch):
        """Replace child process and loader until `patch` is undone."""
        patch.setattr(Builder, "_build_once", lambda _, request: self.build(request))
        patch.setattr(torch._C._aoti, "AOTIModelPackageLoader", self.load)

    def build(self, request):
        if self.fault is not None:
            raise self.fault
        package = Path(request.folder) / PACKAGE
        package.write_text(json.dumps({"shape": request.shape, "build": next(self.builds)}, indent=1))
        return package

    def load(self, path, *arguments):
        try:
            record = json.loads(Path(path).read_text())
        except ValueError:
            return self._torch_loader(path, *arguments)
        self.loaded.append(record)
        rows, bars, patches, missing, group = record["shape"]
        return _Code(Core(self._skeleton, Shape(rows, bars, patches, Missing(missing), group)), self.spoil)


class _Code:
    """A loader as in torch: code without its weights."""

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


def eager_quantiles(checkpoint, context_BT):
    with torch.no_grad():
        return grouped_forward(checkpoint[0], context_BT, 1, GROUP)


def forecast(engines, context_BT):
    """Call as the wrapper does; return all quantiles in one tensor, and the first output."""
    outputs = engines(context_BT, 1, GROUP)
    return torch.cat([output.quantiles_BQH for output in outputs]), outputs[0]


def equals_eager(checkpoint, actual_BQH, context_BT):
    expected_BQH = eager_quantiles(checkpoint, context_BT)
    spread_B = expected_BQH.amax(dim=(1, 2)) - expected_BQH.amin(dim=(1, 2))
    return bool(((actual_BQH - expected_BQH).abs().amax(dim=(1, 2)) <= ENGINE_NOISE * spread_B).all())


def wait_until(condition, what="the condition"):
    """Wait until `condition()` is true, and return its value."""
    until = time.monotonic() + NEVER_S
    while not (value := condition()):
        if time.monotonic() > until:
            pytest.fail(f"{what} did not happen")
        time.sleep(0.01)
    return value


def settle(engines, *, state, shape=SHAPE):
    """Wait until a bucket has reached `state`, and return its status."""

    def reached():
        (status,) = (bucket for bucket in engines.status().buckets if bucket.missing == shape.missing.value)
        return status if status.state == state.value else None

    return wait_until(reached, f"{state}, with {engines.status().buckets},")


def survives(engines, checkpoint, *, warning, state):
    """Forecasts before, during and after the fault equal eager's, and exactly one warning reports it."""
    contexts = [make_context(seed=seed) for seed in range(3)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs = [forecast(engines, contexts[0])]
        status = settle(engines, state=state)
        outputs += [forecast(engines, context_BT) for context_BT in contexts[1:]]
    messages = [str(entry.message) for entry in caught if issubclass(entry.category, CompileFallbackWarning)]

    for (actual_BQH, _), context_BT in zip(outputs, contexts, strict=True):
        assert equals_eager(checkpoint, actual_BQH, context_BT)
    assert len(messages) == 1
    assert warning in messages[0]
    assert any(warning in fault for fault in status.faults)
    return status


def serve(engines):
    """Forecast once, as a service does first, and wait until compiled code serves."""
    forecast(engines, make_context())
    return settle(engines, state=State.SERVING)


def compile_with(monkeypatch, backend):
    """Make torch.compile use another backend than Inductor, with the real Dynamo."""
    monkeypatch.setattr(
        torch,
        "compile",
        lambda core, fullgraph, dynamic, mode: torch._dynamo.optimize(backend, nopython=fullgraph, dynamic=dynamic)(
            core
        ),
    )
