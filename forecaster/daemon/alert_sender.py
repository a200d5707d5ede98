"""Send alerts to a webhook or through apprise; each receiver has its own sender.

Addresses are secrets. They are read from files that only their owner can read, and appear in no message, log line or
traceback: a failure is reported by its class, or by the status that came back.
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
from itertools import count
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

MAX_QUEUED: Final = 32
"""Alerts queued for one receiver; the oldest is dropped for a newer one."""
GIVE_UP_AFTER_SECONDS: Final = 3_600.0
"""Seconds after which an alert that a receiver does not accept is dropped."""

_TIMEOUT_SECONDS: Final = 10.0
_MAX_BACKOFF_SECONDS: Final = 60.0
_MAX_BACKOFF_EXPONENT: Final = 20
_MAX_FILE_BYTES: Final = 1 << 16
_RETRYABLE_STATUSES: Final = frozenset({408, 425, 429})

_log = get_logger(__name__)


class SendResult(NamedTuple):
    """Whether a receiver accepted an alert, whether a retry may help, and its answer."""

    sent: bool
    retryable: bool
    detail: str


class Receiver(Protocol):
    """Accepts alerts; `name` identifies it without its address."""

    name: str

    def send(self, alert: Alert) -> SendResult:
        """Send once, and wait for the answer."""


class AlertSender:
    """Sends alerts to one receiver on its own thread, so that no caller waits.

    A failed alert is retried for an hour, with backoff up to a minute. Each alert ends as `sent` or `failed`; so does
    one that was dropped for newer ones.

    Args:
        receiver: where to send.
        on_outcome: called with the kind and the outcome of each alert, on the sender's thread or that of `send`.
        first_wait: seconds before the first retry.
    """

    def __init__(self, receiver: Receiver, on_outcome: Callable[[str, str], None], first_wait: float = 1.0) -> None:
        self._receiver = receiver
        self._on_outcome = on_outcome
        self._first_wait = first_wait
        self._queued: deque[Alert] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"alerts to {receiver.name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def send(self, alert: Alert) -> None:
        """Queue an alert; returns at once."""
        with self._changed:
            dropped = self._queued.popleft() if len(self._queued) >= MAX_QUEUED else None
            self._queued.append(alert)
            self._changed.notify()
        if dropped is not None:
            self._report(dropped, SendResult(sent=False, retryable=False, detail="dropped for newer alerts"))

    def stop(self) -> None:
        """Try each queued alert once more, then end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, within: float) -> None:
        """Wait up to so many seconds for the thread to end."""
        if self._thread.ident is not None:
            self._thread.join(within)

    def _run(self) -> None:
        while (alert := self._next()) is not None:
            self._report(alert, self._send_with_retries(alert))

    def _next(self) -> Alert | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queued or self._stopping)
            return self._queued.popleft() if self._queued else None

    def _send_with_retries(self, alert: Alert) -> SendResult:
        """Try until the alert is accepted, refused for good or too old, or the sender stops."""
        until = time.monotonic() + GIVE_UP_AFTER_SECONDS
        for wait in _backoff_delays(self._first_wait):
            result = try_once(self._receiver, alert)
            if result.sent or not result.retryable or time.monotonic() >= until:
                break
            with self._changed:
                if self._changed.wait_for(lambda: self._stopping, wait):
                    break
        return result

    def _report(self, alert: Alert, result: SendResult) -> None:
        values = {"receiver": self._receiver.name, "state": alert.state, "kind": alert.kind, "detail": result.detail}
        if result.sent:
            _log.info("alert.sent", **values)
        else:
            _log.warning("alert.failed", **values)
        self._on_outcome(alert.kind, "sent" if result.sent else "failed")


class Webhook:
    """Posts alerts as JSON to one URL.

    Args:
        url: http or https.

    Raises:
        ConfigError: for another kind of URL, which is not shown.
    """

    name = "webhook"

    def __init__(self, url: Secret) -> None:
        if not _is_http_url(url.reveal()):
            raise ConfigError("alerts.webhook_file", "a file with one http or https address", "another text")
        self._url = url

    def send(self, alert: Alert) -> SendResult:
        """Post once. The answer is its status; the body is not read."""
        try:
            status = asyncio.run(self._post(alert))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return SendResult(sent=False, retryable=True, detail=type(error).__name__)
        is_success = 200 <= status < 300  # noqa: PLR2004 - the statuses of success
        is_retryable = status >= 500 or status in _RETRYABLE_STATUSES  # noqa: PLR2004 - the statuses of server errors
        return SendResult(is_success, is_retryable, detail=str(status))

    async def _post(self, alert: Alert) -> int:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        # Redirects are refused: the alert must not reach another host.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(self._url.reveal(), json=alert.record(), allow_redirects=False) as response,
        ):
            return response.status


class Apprise:
    """Sends alerts through apprise, to one of its URLs.

    Args:
        url: as apprise writes them, such as `json://HOST/PATH`.
        line: its line number in the file.

    Raises:
        ConfigError: when apprise is not installed, or does not know such a URL.
    """

    def __init__(self, url: Secret, line: int) -> None:
        self.name = f"apprise, line {line}"
        self._apprise = _import_apprise()
        # Apprise's own messages name hosts, and URLs that it cannot parse.
        logging.getLogger("apprise").disabled = True
        asset = self._apprise.AppriseAsset()
        asset.http_redirects = False
        self._target = self._apprise.Apprise(asset=asset)
        if not self._target.add(url.reveal()):
            raise ConfigError("alerts.apprise_file", f"an address that apprise knows in line {line}", "another text")

    def send(self, alert: Alert) -> SendResult:
        """Send once; apprise says only whether it was accepted."""
        kinds = self._apprise.NotifyType
        kind = {"resolved": kinds.SUCCESS, "test": kinds.INFO}.get(alert.state, kinds.WARNING)
        sent = bool(self._target.notify(body=alert.body, title=alert.title, notify_type=kind, body_format="text"))
        return SendResult(sent, retryable=True, detail="accepted" if sent else "not accepted")


def open_receivers(config: AlertsConfig) -> list[Receiver]:
    """Open the configured receivers.

    Raises:
        ConfigError: for a file that cannot be read, that others can read, or that holds no address,
            which is not shown.
    """
    receivers: list[Receiver] = []
    if config.webhook_file is not None:
        urls = _read_secrets("alerts.webhook_file", config.webhook_file)
        if len(urls) != 1:
            raise ConfigError("alerts.webhook_file", "a file with one address", f"one with {len(urls)}")
        receivers += [Webhook(url) for url in urls.values()]
    if config.apprise_file is not None:
        urls = _read_secrets("alerts.apprise_file", config.apprise_file)
        if not urls:
            raise ConfigError("alerts.apprise_file", "a file with one address on each line", "one with none")
        receivers += [Apprise(url, line) for line, url in urls.items()]
    return receivers


def try_once(receiver: Receiver, alert: Alert) -> SendResult:
    """Send an alert once; an exception is reported by its class alone, since its text may hold the address."""
    try:
        return receiver.send(alert)
    except Exception as error:  # noqa: BLE001 - whatever a receiver's library raises, the next alert must go out
        return SendResult(sent=False, retryable=False, detail=type(error).__name__)


def _read_secrets(key: str, path: Path) -> dict[int, Secret]:
    """Read the lines of a file that only its owner can read, by number, without empty lines and comments."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(key, "a file that can be read", str(error)) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(key, "a regular file", str(path))
        if mode & 0o077:
            actual = f"{stat.S_IMODE(mode):o} {path}"
            raise ConfigError(key, "a file of mode 600, which only its owner can read", actual)
        text = os.read(descriptor, _MAX_FILE_BYTES).decode()
    except UnicodeDecodeError:
        raise ConfigError(key, "a file of UTF-8 text", str(path)) from None
    finally:
        os.close(descriptor)
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), 1)}
    return {number: Secret(line) for number, line in lines.items() if line and not line.startswith("#")}


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        return False


def _import_apprise() -> Any:
    try:
        return importlib.import_module("apprise")
    except ImportError as error:
        expected = "apprise to be installed, as by pip install 'forecaster[alerts]'"
        raise ConfigError("alerts.apprise_file", expected, None) from error


def _backoff_delays(first: float) -> Iterator[float]:
    """Seconds to wait, doubling up to a minute."""
    return (min(first * 2 ** min(retry, _MAX_BACKOFF_EXPONENT), _MAX_BACKOFF_SECONDS) for retry in count())
