"""Whose fault it is when the model's code fails, and the one warning that says so.

Only what eager can do on the same input is ever blamed on compiled code; that is decided in `compiled`. Here is what
must be told apart before: a keyboard interrupt, which nothing may swallow, and memory that ran out.
"""

from __future__ import annotations

import threading
import warnings

import torch

_warned = threading.Event()


class CompileFallbackWarning(RuntimeWarning):
    """Compiled code could not be had or failed, and eager serves; shown once per process."""


class WrongAnswer(Exception):
    """Compiled code ran, and its answer is not eager's."""


def raise_hidden_interrupt(error: BaseException) -> None:
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on a CPU, torch says so in the text of a RuntimeError."""
    told = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in told or "can't allocate memory" in told)
    )


def describe(error: BaseException) -> str:
    """Type and first line of a fault, for a reason in one sentence."""
    line = next(iter(str(error).strip().splitlines()), "no message")[:200]
    return line if isinstance(error, WrongAnswer) else f"{type(error).__name__}: {line}"


def warn_once(reason: str, stacklevel: int) -> None:
    """Warn, unless this process has been warned before."""
    if not _warned.is_set():
        _warned.set()
        message = f"forecasts are served eager where compiled code fails: {reason}"
        warnings.warn(message, CompileFallbackWarning, stacklevel=stacklevel + 1)
