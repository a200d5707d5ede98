"""Looks whether an SQLite ledger is whole while the service runs: once a day, on a thread beside the cycles."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from forecaster.errors import StoreUnavailable
from forecaster.log import get_logger
from forecaster.store.integrity import Wholeness

if TYPE_CHECKING:
    from pathlib import Path

    from forecaster.daemon.health_state import Vitals

DAMAGED: Final = "ledger_damaged"
_PATIENCE_SECONDS: Final = 5.0
_log = get_logger(__name__)


class LedgerCheck:
    """Checks a ledger every so many seconds, the first time after as many.

    The service goes on with a damaged ledger as long as it can write: what it adds meanwhile is what a copy would lack.
    It is not ready, and its next start refuses the ledger.

    Args:
        path: of the ledger.
        seconds: between two checks.
        vitals: hears whether it is damaged.
    """

    def __init__(self, path: Path, seconds: float, vitals: Vitals) -> None:
        self._wholeness = Wholeness(path)
        self._seconds = seconds
        self._vitals = vitals
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, name="ledger-check", daemon=True)

    def start(self) -> None:
        """Begin to check, on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the check in hand, and the thread."""
        self._ending.set()
        self._wholeness.end()
        self._thread.join(_PATIENCE_SECONDS)

    def _live(self) -> None:
        while not self._ending.wait(self._seconds):
            self._run()

    def _run(self) -> None:
        started = time.monotonic()
        try:
            faults, left_out = self._wholeness.look()
        except StoreUnavailable as error:
            _log.warning("ledger.check_failed", reason=str(error))
            return
        seconds = round(time.monotonic() - started, 3)
        if faults:
            _log.error("ledger.damaged", faults=faults, seconds=seconds)
            self._vitals.ledger(DAMAGED, f"{self._wholeness.url}: expected a whole file, found {'; '.join(faults)}")
        elif not self._ending.is_set():
            _log.info("ledger.checked", seconds=seconds, left_out=left_out)
            self._vitals.ledger(DAMAGED, None)
