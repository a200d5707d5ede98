"""Report to systemd over sd_notify(3): ready, alive, stopping, and a status line.

The thread belongs to no component. It reads `HealthState` and stays silent while the daemon is not alive, so that
systemd restarts it.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from forecaster.daemon.health_state import Phase
from forecaster.log import get_logger

if TYPE_CHECKING:
    from forecaster.config_file import ServiceManager
    from forecaster.daemon.health_state import HealthState

_log = get_logger(__name__)
_CHECK_SECONDS: Final = 0.5
_EXTEND_SECONDS: Final = 60


class Notifier:
    """Reports to the service manager until stopped. Does nothing without a socket.

    Args:
        health: what to report.
        manager: the socket, a path or `@` and an abstract name, and the interval of the watchdog; see
            `config.service_manager`.
    """

    def __init__(self, health: HealthState, manager: ServiceManager) -> None:
        self._health = health
        self._address = manager.address
        self._watchdog_seconds = manager.watchdog_seconds
        self._reported: dict[str, str] = {}
        self._sent_at: dict[str, float] = {}
        self._last_error = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        if self._address is not None:
            self._thread.start()

    def stop(self) -> None:
        """Report the last changes, and end the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        every = _CHECK_SECONDS if self._watchdog_seconds is None else min(_CHECK_SECONDS, self._watchdog_seconds / 8)
        self._check()
        while not self._stopping.wait(every):
            self._check()
        self._report_changes()

    def _check(self) -> None:
        """Report changes, and twice per watchdog interval that the daemon is alive, if it is."""
        self._report_changes()
        if self._health.unhealthy():
            return
        if self._watchdog_seconds is not None:
            self._send_every(self._watchdog_seconds / 2, "WATCHDOG=1")
        if "READY" not in self._reported:  # a standby may wait for months
            self._send_every(_EXTEND_SECONDS / 4, f"EXTEND_TIMEOUT_USEC={_EXTEND_SECONDS * 1_000_000}")

    def _send_every(self, seconds: float, message: str) -> None:
        """Send a message unless it was sent less than `seconds` ago."""
        now = time.monotonic()
        if now - self._sent_at.get(message, -seconds) >= seconds and self._send(message):
            self._sent_at[message] = now

    def _report_changes(self) -> None:
        phase = self._health.phase
        self._report("STATUS", " ".join(self._health.summary().split()))
        if phase is Phase.READY:
            self._report("READY", "1")
        if phase is Phase.STOPPED:  # not while draining: a reload drains too
            self._report("STOPPING", "1")

    def _report(self, name: str, value: str) -> None:
        """Send a value unless it was the last one sent."""
        if self._reported.get(name) != value and self._send(f"{name}={value}"):
            self._reported[name] = value

    def _send(self, message: str) -> bool:
        """Send one datagram; after a failure the next check sends it again."""
        address = self._address or ""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(_CHECK_SECONDS)
                channel.sendto(message.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as error:
            if self._last_error != str(error):
                _log.warning("notify.failed", error=str(error))
            self._last_error = str(error)
            return False
        self._last_error = ""
        return True
