"""Tells systemd how the daemon is: ready, alive, stopping, and in a line what it does.

The protocol of sd_notify(3), a datagram of `NAME=value` lines to a UNIX socket, on a thread that belongs to no organ:
it looks at `Vitals`, and is silent about a daemon that is not alive, so that systemd ends it and starts it again.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Final

from forecaster.daemon.health_state import Phase
from forecaster.log import get_logger

if TYPE_CHECKING:
    from forecaster.config import ServiceManager
    from forecaster.daemon.health_state import Vitals

_log = get_logger(__name__)
_LOOK_SECONDS: Final = 0.5
_MORE_TIME_SECONDS: Final = 60


class Notifier:
    """Tells the service manager, until it is stopped. Does nothing where there is no socket.

    Args:
        vitals: what there is to tell.
        manager: the socket, a path or `@` and an abstract name, and the interval of the watchdog; see
            `config.service_manager`.
    """

    def __init__(self, vitals: Vitals, manager: ServiceManager) -> None:
        self._vitals = vitals
        self._address = manager.address
        self._watchdog_seconds = manager.watchdog_seconds
        self._told: dict[str, str] = {}
        self._sent: dict[str, float] = {}
        self._fault = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Begin to tell, on a thread of its own."""
        if self._address is not None:
            self._thread.start()

    def stop(self) -> None:
        """Tell what is left to tell, and end the thread."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        every = _LOOK_SECONDS if self._watchdog_seconds is None else min(_LOOK_SECONDS, self._watchdog_seconds / 8)
        self._look()
        while not self._ending.wait(every):
            self._look()
        self._tell_changes()

    def _look(self) -> None:
        """Tell what has changed, and at each half of the interval that the daemon is alive, if it is."""
        self._tell_changes()
        if self._vitals.dead():
            return
        if self._watchdog_seconds is not None:
            self._repeat("WATCHDOG=1", self._watchdog_seconds / 2)
        if "READY" not in self._told:  # a standby may wait for months
            self._repeat(f"EXTEND_TIMEOUT_USEC={_MORE_TIME_SECONDS * 1_000_000}", _MORE_TIME_SECONDS / 4)

    def _repeat(self, message: str, seconds: float) -> None:
        """Send it, unless that was done so shortly ago."""
        now = time.monotonic()
        if now - self._sent.get(message, -seconds) >= seconds and self._send(message):
            self._sent[message] = now

    def _tell_changes(self) -> None:
        phase = self._vitals.phase
        self._tell("STATUS", " ".join(self._vitals.summary().split()))
        if phase is Phase.READY:
            self._tell("READY", "1")
        if phase is Phase.STOPPED:  # not while it drains: it may go on with another configuration
            self._tell("STOPPING", "1")

    def _tell(self, name: str, value: str) -> None:
        """Tell it unless it was told already."""
        if self._told.get(name) != value and self._send(f"{name}={value}"):
            self._told[name] = value

    def _send(self, message: str) -> bool:
        """Send one datagram; what cannot be sent is sent again at the next look."""
        address = self._address or ""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(_LOOK_SECONDS)
                channel.sendto(message.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as error:
            if self._fault != str(error):
                _log.warning("notify.failed", error=str(error))
            self._fault = str(error)
            return False
        self._fault = ""
        return True
