"""Where alerts go: a webhook, and whatever apprise knows; each receiver has a courier of its own.

Addresses are secrets. They come from files that only their owner can read, and stand in no message, log or traceback of
ours: what is told of a failure is its class, or the status that came back.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import stat
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp

from forecaster.errors import ConfigError
from forecaster.log import get_logger
from forecaster.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from forecaster.config import AlertsConfig
    from forecaster.daemon.conditions import Alert

MOST_WAITING: Final = 32
"""Alerts that wait for one receiver; one more, and the oldest is dropped."""
GIVEN_UP_AFTER: Final = 3_600.0
"""Seconds for which one alert is brought to a receiver that does not take it."""

_SECONDS: Final = 10.0
_LONGEST_WAIT: Final = 60.0
_LONGEST_FILE: Final = 1 << 16
_TRIED_AGAIN: Final = frozenset({408, 425, 429})

_log = get_logger(__name__)


class Reply(NamedTuple):
    """What came of one try: whether it was taken, whether another try may help, and what was answered."""

    sent: bool
    may_repeat: bool
    said: str


class Receiver(Protocol):
    """Takes alerts; `name` says which it is without telling where."""

    name: str

    def send(self, alert: Alert) -> Reply:
        """Try once, and wait for the answer."""


class Courier:
    """Brings alerts to one receiver, in a thread of its own: nobody waits for it.

    What is not taken is brought again, after waits that grow to a minute, for an hour. Each alert ends as `sent` or
    `failed`, also one that was dropped for newer ones.

    Args:
        receiver: who takes them.
        counted: called with the kind of each alert and how it ended, in the courier's thread or in that of `bring`.
        first_wait: seconds before the second try.
    """

    def __init__(self, receiver: Receiver, counted: Callable[[str, str], None], first_wait: float = 1.0) -> None:
        self._receiver = receiver
        self._counted = counted
        self._first_wait = first_wait
        self._waiting: deque[Alert] = deque()
        self._changed = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._run, name=f"alerts to {receiver.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def bring(self, alert: Alert) -> None:
        """Take an alert to be brought; returns at once."""
        with self._changed:
            dropped = self._waiting.popleft() if len(self._waiting) >= MOST_WAITING else None
            self._waiting.append(alert)
            self._changed.notify()
        if dropped is not None:
            self._ended(dropped, Reply(sent=False, may_repeat=False, said="dropped for newer ones"))

    def end(self) -> None:
        """Try what waits once more, without waits between, and then end the thread."""
        with self._changed:
            self._ends = True
            self._changed.notify()

    def join(self, within: float) -> None:
        """Wait until the thread has ended, for so many seconds."""
        if self._thread.ident is not None:
            self._thread.join(within)

    def _run(self) -> None:
        while (alert := self._next()) is not None:
            self._ended(alert, self._brought(alert))

    def _next(self) -> Alert | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends)
            return self._waiting.popleft() if self._waiting else None

    def _brought(self, alert: Alert) -> Reply:
        """Try until it is taken, refused for good, too old, or we are to end."""
        until = time.monotonic() + GIVEN_UP_AFTER
        for wait in _growing(self._first_wait):
            reply = try_once(self._receiver, alert)
            if reply.sent or not reply.may_repeat or time.monotonic() >= until:
                break
            with self._changed:
                if self._changed.wait_for(lambda: self._ends, wait):
                    break
        return reply

    def _ended(self, alert: Alert, reply: Reply) -> None:
        said = {"receiver": self._receiver.name, "state": alert.state, "kind": alert.kind, "said": reply.said}
        if reply.sent:
            _log.info("alert.sent", **said)
        else:
            _log.warning("alert.failed", **said)
        self._counted(alert.kind, "sent" if reply.sent else "failed")


class Webhook:
    """Posts alerts as JSON to one address.

    Args:
        address: http or https.

    Raises:
        ConfigError: for another address, without showing it.
    """

    name = "webhook"

    def __init__(self, address: Secret) -> None:
        if not _is_web_address(address.reveal()):
            raise ConfigError("alerts.webhook_file", "a file with one http or https address", "another text")
        self._address = address

    def send(self, alert: Alert) -> Reply:
        """Post once; an answer is its status, and whatever comes behind that is not read."""
        try:
            status = asyncio.run(self._post(alert))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return Reply(sent=False, may_repeat=True, said=type(error).__name__)
        taken = 200 <= status < 300  # noqa: PLR2004 - the statuses of success
        return Reply(taken, may_repeat=status >= 500 or status in _TRIED_AGAIN, said=str(status))  # noqa: PLR2004

    async def _post(self, alert: Alert) -> int:
        limit = aiohttp.ClientTimeout(total=_SECONDS)
        # A redirect is refused: what an address stands for, nobody else is to be told.
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(self._address.reveal(), json=alert.record(), allow_redirects=False) as response,
        ):
            return response.status


class Apprise:
    """Sends alerts through apprise, to one of its addresses.

    Args:
        address: as apprise writes them, such as `json://HOST/PATH`.
        line: where it stands in its file.

    Raises:
        ConfigError: when apprise is not installed, or does not know such an address.
    """

    def __init__(self, address: Secret, line: int) -> None:
        self.name = f"apprise, line {line}"
        self._apprise = _imported_apprise()
        # Its own messages name hosts, and addresses that it cannot read whole.
        logging.getLogger("apprise").disabled = True
        asset = self._apprise.AppriseAsset()
        asset.http_redirects = False
        self._target = self._apprise.Apprise(asset=asset)
        if not self._target.add(address.reveal()):
            raise ConfigError("alerts.apprise_file", f"an address that apprise knows in line {line}", "another text")

    def send(self, alert: Alert) -> Reply:
        """Send once; apprise says no more than whether it was taken."""
        kinds = self._apprise.NotifyType
        kind = {"over": kinds.SUCCESS, "test": kinds.INFO}.get(alert.state, kinds.WARNING)
        taken = bool(self._target.notify(body=alert.body, title=alert.title, notify_type=kind, body_format="text"))
        return Reply(taken, may_repeat=True, said="taken" if taken else "not taken")


def open_receivers(config: AlertsConfig) -> list[Receiver]:
    """Open what the configuration names.

    Raises:
        ConfigError: for a file that cannot be read, that others can read, or that holds no address,
            which is not shown.
    """
    found: list[Receiver] = []
    if config.webhook_file is not None:
        addresses = _read_secret("alerts.webhook_file", config.webhook_file)
        if len(addresses) != 1:
            raise ConfigError("alerts.webhook_file", "a file with one address", f"one with {len(addresses)}")
        found += [Webhook(address) for address in addresses.values()]
    if config.apprise_file is not None:
        addresses = _read_secret("alerts.apprise_file", config.apprise_file)
        if not addresses:
            raise ConfigError("alerts.apprise_file", "a file with one address on each line", "one with none")
        found += [Apprise(address, line) for line, address in addresses.items()]
    return found


def try_once(receiver: Receiver, alert: Alert) -> Reply:
    """Send an alert once; a fault is told by its class alone, since its text may hold the address."""
    try:
        return receiver.send(alert)
    except Exception as error:  # noqa: BLE001 - whatever a receiver's library raises, the next alert goes out
        return Reply(sent=False, may_repeat=False, said=type(error).__name__)


def _read_secret(key: str, path: Path) -> dict[int, Secret]:
    """The lines of a file that only its owner can read, by their number; empty ones and comments are none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(key, "a file that can be read", str(error)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(key, "a regular file", str(path))
        if mode & 0o077:
            found = f"{stat.S_IMODE(mode):o} {path}"
            raise ConfigError(key, "a file of mode 600, which only its owner can read", found)
        lines = os.read(descriptor, _LONGEST_FILE).decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError(key, "a file of UTF-8 text", str(path)) from None
    finally:
        os.close(descriptor)
    told = {i: line.strip() for i, line in enumerate(lines, 1)}
    return {i: Secret(line) for i, line in told.items() if line and not line.startswith("#")}


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and address.isprintable()
    except ValueError:
        return False


def _imported_apprise() -> Any:
    try:
        return importlib.import_module("apprise")
    except ImportError as error:
        expected = "apprise to be installed, as by pip install 'forecaster[alerts]'"
        raise ConfigError("alerts.apprise_file", expected, None) from error


def _growing(first: float) -> Iterator[float]:
    """Seconds to wait, each twice the one before, up to a minute."""
    wait = first
    while True:
        yield min(wait, _LONGEST_WAIT)
        wait = min(2 * wait, _LONGEST_WAIT)
