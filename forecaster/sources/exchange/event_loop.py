"""An event loop in a thread, between clients that live on a loop and callers that do not."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

from forecaster.errors import SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class EventLoopThread:
    """An event loop in a daemon thread, started with the first call.

    Args:
        name: of the source; errors carry it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, and wait for its result."""
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise SourceUnavailable(self._name, "it was closed")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._started_loop())
        try:
            return future.result()
        except CancelledError as error:
            raise SourceUnavailable(self._name, "it was closed while it was asked") from error

    def close(self, cleanup: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancel what runs, run `cleanup`, and stop the thread. Idempotent."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        if self._loop is None or self._thread is None:
            return
        asyncio.run_coroutine_threadsafe(_shut_down(cleanup), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _started_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name=f"exchange {self._name}", daemon=True)
            self._thread.start()
        return self._loop


async def _shut_down(cleanup: Callable[[], Coroutine[Any, Any, None]]) -> None:
    running = asyncio.all_tasks() - {asyncio.current_task()}
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await cleanup()
