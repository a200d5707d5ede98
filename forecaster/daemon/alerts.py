"""Alerts: looks at what is wrong every few seconds, and tells it once, again while it lasts, and when it is over.

Outside the path of a forecast: it only looks, in a thread of its own, and couriers do the sending. What it has told is
forgotten with the process: what is still wrong after a start is told again.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from forecaster.clock import now_ms
from forecaster.daemon.alert_sender import Courier, open_receivers
from forecaster.daemon.conditions import Alert, Condition
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from forecaster.config import AlertsConfig
    from forecaster.daemon.conditions import State

LOOK_SECONDS: Final = 5.0
BEGINS_AFTER: Final = 3
"""Looks in a row that have found a condition before it is told."""
OVER_AFTER: Final = 12
"""Looks in a row that have not found it before it is over, the first time."""
REMEMBERED: Final = 720
"""Looks for which it is known that a condition was there; so many it may have to be gone before it is over."""

_log = get_logger(__name__)


class Alerts:
    """Tells an operator what is wrong; the log always, and whom the configuration names.

    Args:
        config: whom to tell, and how often again.
        look: gives what is wrong now; quick, and safe to call from another thread.
        counted: called with the kind of each alert and `sent` or `failed`, from other threads.
        now: the wall clock, UTC ms.
        every: seconds between looks.

    Raises:
        ConfigError: when a receiver cannot be opened.
    """

    def __init__(
        self,
        config: AlertsConfig,
        look: Callable[[], list[Condition]],
        counted: Callable[[str, str], None],
        now: Callable[[], int] = now_ms,
        every: float = LOOK_SECONDS,
    ) -> None:
        self._look = look
        self._now = now
        self._every = every
        self._book = Book(max(1, math.ceil(config.repeat_hours * 3600 / every)))
        self._couriers = [Courier(receiver, counted) for receiver in open_receivers(config)]
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._can_look = True

    def start(self) -> None:
        """Begin to look, and to send."""
        for courier in self._couriers:
            courier.start()
        self._thread.start()

    def close(self, within: float = 2.0) -> None:
        """End within so many seconds; what could not be sent by then stays unsent."""
        until = time.monotonic() + within
        self._ends.set()
        if self._thread.ident is not None:
            self._thread.join(within)
        for courier in self._couriers:
            courier.end()
        for courier in self._couriers:
            courier.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while True:
            self._look_once()
            if self._ends.wait(self._every):
                return

    def _look_once(self) -> None:
        """Look, and tell what is to be told; a fault of the looking is told once, and does not end it."""
        try:
            found = self._look()
        except Exception:  # noqa: BLE001 - whatever the looking trips over, alerts go on
            if self._can_look:
                _log.exception("alerts.look_failed")
            self._can_look = False
            return
        self._can_look = True
        for alert in self._book.read(found, self._now()):
            subjects = [one.subject for one in alert.conditions]
            _log.warning("alert.told", state=alert.state, kind=alert.kind, subjects=subjects, since=alert.since)
            for courier in self._couriers:
                courier.bring(alert)


class Book:
    """What was found, and what of it was told; a function of the looks alone.

    A condition is told when three looks in a row have found it, and is over when twelve in a row have not. If it comes
    back within an hour of that, it must be gone for twice as long before it is over again, up to an hour: what comes
    and goes is told a few times, and then as one that lasts. What is to be told of one kind is told together.

    Args:
        repeat: looks after which a condition that lasts is told again.
    """

    def __init__(self, repeat: int) -> None:
        self._repeat = repeat
        self._pages: dict[tuple[str, str], _Page] = {}

    def read(self, found: Iterable[Condition], now: int) -> list[Alert]:
        """Take in one look, made at `now` (UTC ms); gives what is to be told."""
        here = {(one.kind, one.subject): one for one in found}
        for name, condition in here.items():
            self._pages.setdefault(name, _Page(condition, now)).found(condition, now)
        for name in self._pages.keys() - here.keys():
            self._pages[name].gone += 1
            self._pages[name].seen = 0
        alerts = list(_together([(page.told(self._repeat), page) for page in self._pages.values()], now))
        self._pages = {name: page for name, page in self._pages.items() if not page.can_be_forgotten}
        return alerts


@dataclass
class _Page:
    """One condition through the looks: how many in a row found it, or did not; `untold` since it was last told."""

    condition: Condition
    since: int
    seen: int = 0
    gone: int = 0
    is_told: bool = False
    untold: int = 0
    over_after: int = OVER_AFTER
    was_over: bool = False

    def found(self, condition: Condition, now: int) -> None:
        """Note that a look has found it."""
        if not self.seen and not self.is_told:
            self.since = now
        self.condition = condition
        self.seen += 1
        self.gone = 0

    def told(self, repeat: int) -> State | None:
        """What is to be told of it after this look."""
        self.untold += 1
        if not self.is_told and self.seen >= BEGINS_AFTER:
            if self.was_over:
                self.over_after = min(2 * self.over_after, REMEMBERED)
            self.is_told, self.untold = True, 0
            return "began"
        if self.is_told and self.gone >= self.over_after:
            self.is_told, self.was_over = False, True
            return "over"
        if self.is_told and self.seen and self.untold >= repeat:
            self.untold = 0
            return "lasts"
        return None

    @property
    def can_be_forgotten(self) -> bool:
        """Whether nothing depends on its having been there."""
        return not self.is_told and self.gone >= (REMEMBERED + self.over_after if self.was_over else 1)


def trial(now: int) -> Alert:
    """An alert about nothing, to see whether alerts arrive."""
    condition = Condition("test", "alerts", "This is a test. Nothing is wrong: alerts arrive here.")
    return Alert("test", "test", (condition,), now, now)


def _together(told: Iterable[tuple[State | None, _Page]], now: int) -> Iterator[Alert]:
    """One alert for all conditions of a kind of which the same is to be told."""
    pages: dict[tuple[State, str], list[_Page]] = {}
    for state, page in told:
        if state is not None:
            pages.setdefault((state, page.condition.kind), []).append(page)
    for (state, kind), alike in pages.items():
        conditions = tuple(page.condition for page in alike)
        yield Alert(state, kind, conditions, min(page.since for page in alike), now)
