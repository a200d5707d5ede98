"""Faults of compiled code: their types and descriptions, and the one warning of a process.

A fault counts against compiled code only if eager succeeds on the same input (`compiled`). Keyboard interrupts and
exhausted memory are detected first: they are never faults of compiled code.
"""

from __future__ import annotations

import threading
import warnings

import torch

_warned = threading.Event()


class CompileFallbackWarning(RuntimeWarning):
    """Compiled code could not be built or failed, and eager serves; shown once per process."""


class WrongAnswer(Exception):
    """Compiled code ran, but its result differs from eager's."""


def raise_hidden_interrupt(error: BaseException) -> None:
    """Raise the KeyboardInterrupt in the chain of `error`: a fault in Dynamo's `finally` can hide it."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        linked = pending.pop()
        if linked is None or id(linked) in seen:
            continue
        if isinstance(linked, KeyboardInterrupt):
            raise linked
        seen.add(id(linked))
        pending += [linked.__context__, linked.__cause__]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out; on a CPU, only the text of torch's RuntimeError shows it."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def describe(error: BaseException) -> str:
    """Return the type and the first line of a fault."""
    line = next(iter(str(error).strip().splitlines()), "no message")[:200]
    return line if isinstance(error, WrongAnswer) else f"{type(error).__name__}: {line}"


def warn_once(reason: str, stacklevel: int) -> None:
    """Warn, unless this process has warned before."""
    if not _warned.is_set():
        _warned.set()
        message = f"compiled code failed, eager serves its forecasts: {reason}"
        warnings.warn(message, CompileFallbackWarning, stacklevel=stacklevel + 1)
