"""A scheduled integrity check of an SQLite ledger while the service runs, on its own thread."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from forecaster.errors import StoreUnavailable
from forecaster.log import get_logger
from forecaster.store.integrity import IntegrityChecker

if TYPE_CHECKING:
    from pathlib import Path

    from forecaster.daemon.health_state import HealthState

DAMAGED: Final = "ledger_damaged"
_STOP_SECONDS: Final = 5.0
_log = get_logger(__name__)


class LedgerCheck:
    """Checks a ledger every `seconds`, the first time after `seconds`.

    With a damaged ledger the service is not ready and refuses to start again, but keeps writing while it can: these
    rows would be missing from a backup.

    Args:
        path: path of the ledger.
        seconds: interval between checks.
        health: receives the result.
    """

    def __init__(self, path: Path, seconds: float, health: HealthState) -> None:
        self._checker = IntegrityChecker(path)
        self._seconds = seconds
        self._health = health
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-check", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop a running check and the thread."""
        self._stopping.set()
        self._checker.stop()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            self._check()

    def _check(self) -> None:
        started = time.monotonic()
        try:
            faults, skipped_tables = self._checker.check()
        except StoreUnavailable as error:
            _log.warning("ledger.check_failed", reason=str(error))
            return
        seconds = round(time.monotonic() - started, 3)
        if faults:
            _log.error("ledger.damaged", faults=faults, seconds=seconds)
            reason = f"{self._checker.url}: expected an undamaged file, found {'; '.join(faults)}"
            self._health.set_ledger_fault(DAMAGED, reason)
        elif not self._stopping.is_set():
            _log.info("ledger.checked", seconds=seconds, skipped_tables=skipped_tables)
            self._health.set_ledger_fault(DAMAGED, None)
