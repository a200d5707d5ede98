"""Run the forward pass compiled where that is asked for, and eager from the first fault on.

The eager model is never replaced, so falling back is a change of one attribute: the failed request
is run again on it, and a single warning per process says so. A fault that eager shares is not the
compiler's: it is raised, and compiled code stays in service.
"""

from __future__ import annotations

import os
import threading
import warnings
from typing import TYPE_CHECKING, Literal

import torch

from forecaster.errors import InferenceError

if TYPE_CHECKING:
    from forecaster.model.core import Forward, Missing

CompileMode = Literal["auto", "on", "off"]

_warned = threading.Event()


class CompileFallbackWarning(RuntimeWarning):
    """Compiled code failed and eager took over; shown once per process."""


class GuardedForward:
    """A forward pass with an engine and the reason for it.

    Args:
        eager: the forward pass as it is.
        mode: `on` compiles at the first call; `auto` does so on a CUDA device only; `off` never does.
        device: where the model lives.
    """

    def __init__(self, eager: Forward, mode: CompileMode, device: torch.device) -> None:
        self._eager = eager
        self._compiled: Forward | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()
        if mode == "off":
            self.reason = "compile is off"
        elif mode == "auto" and device.type != "cuda":
            self.reason = "compile is auto, and on a CPU the first compiled forecast would wait for the compiler"
        else:
            self._compiled = torch.compile(eager, fullgraph=True, dynamic=False)
            self.reason = "compiled as one graph without breaks"

    @property
    def engine(self) -> str:
        """`compiled` or `eager`."""
        return "eager" if self._compiled is None else "compiled"

    def __call__(self, context_BT: torch.Tensor, patches: int, missing: Missing) -> torch.Tensor:
        """Give quantiles (B, Q, H) for contexts (B, T) that lack what `missing` says.

        Raises:
            InferenceError: when eager fails as well; the compiler's fault, if any, is chained. Also in a forked
                child, where torch's threads are gone and a call could hang for ever.
            KeyboardInterrupt: at once, also when a compiler's own fault hides it.
        """
        if os.getpid() != self._process:
            raise InferenceError(
                "expected the process that loaded the model, found a fork of it: load it there, or spawn"
            )
        with self._lock, torch.no_grad():
            if self._compiled is None:
                return self._run_eager(context_BT, patches, missing)
            try:
                return self._compiled(context_BT, patches, missing)
            except Exception as error:  # noqa: BLE001 - Dynamo and Inductor raise any type; eager decides whose fault
                _raise_hidden_interrupt(error)
                fault = error
            quantiles_BQH = self._run_eager(context_BT, patches, missing, fault)
            self._fall_back(fault)
            return quantiles_BQH

    def _run_eager(
        self, context_BT: torch.Tensor, patches: int, missing: Missing, fault: Exception | None = None
    ) -> torch.Tensor:
        try:
            return self._eager(context_BT, patches, missing)
        except RuntimeError as error:
            what = f"{tuple(context_BT.shape)}: eager: {error}" + (f"; compiled: {fault}" if fault else "")
            raise InferenceError(what) from (fault or error)

    def _fall_back(self, fault: Exception) -> None:
        self._compiled = None
        self.reason = f"fell back from compiled: {type(fault).__name__}: {_first_line(fault)}"
        if not _warned.is_set():
            _warned.set()
            warnings.warn(f"forecasts run eager from here on; {self.reason}", CompileFallbackWarning, stacklevel=4)


def _raise_hidden_interrupt(error: BaseException) -> None:
    """Raise a KeyboardInterrupt that stands behind `error`: a fault in Dynamo's `finally` can mask it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is None or id(one) in seen:
            continue
        if isinstance(one, KeyboardInterrupt):
            raise one
        seen.add(id(one))
        pending += [one.__context__, one.__cause__]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")[:200]
