"""The holds of one exchange, kept durable: a process that restarts waits too."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from forecaster.log import get_logger

if TYPE_CHECKING:
    from forecaster.ledger import Hold

_log = get_logger(__name__)


class HoldStore(Protocol):
    """Keeps until when an exchange may not be asked; durable when a call returns."""

    def holds(self) -> list[Hold]:
        """Return the latest hold of each exchange, also where it has ended or was lifted."""

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Record that no request goes to an exchange before `until` (UTC ms), as known at `seen_at`."""


class HoldLog:
    """Reads and writes the holds of one exchange, on its own thread, one call after the other.

    Args:
        exchange: its name in the configuration.
        store: where holds are kept.
    """

    def __init__(self, exchange: str, store: HoldStore) -> None:
        self._exchange = exchange
        self._store = store
        self._executor = ThreadPoolExecutor(1, f"holds of {exchange}")
        self._writing: asyncio.Future[None] | None = None
        self.stored = self._latest()
        """The latest hold that is known to be in the store."""

    @property
    def is_writing(self) -> bool:
        """Whether a hold is not durable yet."""
        return self._writing is not None and not self._writing.done()

    def append(self, hold: Hold) -> None:
        """Start to write a hold. If that fails, the hold still counts in this process."""
        self._writing = asyncio.get_running_loop().run_in_executor(self._executor, self._write, hold)

    async def flush(self) -> None:
        """Wait until the latest hold is durable; then those before it are, too."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing])

    async def read_newer(self) -> Hold | None:
        """Return the latest hold if it is new here, such as one that a command has written."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read_newer)

    async def close(self) -> None:
        """Flush, and stop the thread."""
        await self.flush()
        self._executor.shutdown(wait=False)

    def _write(self, hold: Hold) -> None:
        try:
            self._store.hold(hold.exchange, hold.until, hold.reason, hold.seen_at)
        except Exception:  # noqa: BLE001 - a store that fails must not fail the series
            _log.exception("hold.write_failed", exchange=hold.exchange, until=hold.until)
        else:
            self.stored = hold

    def _read_newer(self) -> Hold | None:
        try:
            latest = self._latest()
        except Exception:  # noqa: BLE001 - the hold known here still counts
            _log.exception("hold.read_failed", exchange=self._exchange)
            return None
        if latest == self.stored:
            return None
        self.stored = latest
        return latest

    def _latest(self) -> Hold | None:
        return next((hold for hold in self._store.holds() if hold.exchange == self._exchange), None)
