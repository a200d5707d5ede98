"""The thread that owns a model: calls from other threads queue for it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

from forecaster.errors import InferenceError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


class OwnerThread:
    """Runs calls one after the other, without gradients."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._executor = ThreadPoolExecutor(1, "model-owner")

    def run(self, call: Callable[[], _T]) -> _T:
        """Run a call after those queued before, and return its result.

        Raises:
            InferenceError: in a forked child process, where torch's threads do not exist and a call could hang.
        """
        if os.getpid() != self._process:
            raise InferenceError(
                "expected the process that loaded the model, found a fork of it: load it there, or spawn"
            )
        return self._executor.submit(_without_gradients, call).result()

    def close(self) -> None:
        """Accept no further calls, and cancel those queued."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _without_gradients(call: Callable[[], _T]) -> _T:
    with torch.no_grad():
        return call()
