"""Alerts: check the conditions every few seconds, and report each when it starts, while it lasts, and when it ends.

Alerts are independent of forecasting: they only read the health state, on their own thread. Their state is not stored:
after a restart, a lasting condition fires again.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from forecaster.clock import now_ms
from forecaster.daemon.alert_sender import AlertSender, open_receivers
from forecaster.daemon.conditions import Alert, Condition
from forecaster.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from forecaster.config import AlertsConfig
    from forecaster.daemon.conditions import State

CHECK_SECONDS: Final = 5.0
FIRING_AFTER: Final = 3
"""Consecutive checks with a condition before it fires."""
RESOLVED_AFTER: Final = 12
"""Consecutive checks without a condition before it is resolved, the first time."""
REMEMBERED_CHECKS: Final = 720
"""Checks for which a resolved condition is remembered; also the maximum of `resolved_after`."""

_log = get_logger(__name__)


class AlertManager:
    """Reports conditions to the log, and to the configured receivers.

    Args:
        config: the receivers, and the interval of repeated alerts.
        current_conditions: returns what is wrong now; quick and thread-safe.
        on_outcome: called with the kind of each alert and `sent` or `failed`, from other threads.
        now: the wall clock in UTC ms.
        every: seconds between checks.

    Raises:
        ConfigError: when a receiver cannot be opened.
    """

    def __init__(
        self,
        config: AlertsConfig,
        current_conditions: Callable[[], list[Condition]],
        on_outcome: Callable[[str, str], None],
        now: Callable[[], int] = now_ms,
        every: float = CHECK_SECONDS,
    ) -> None:
        self._current_conditions = current_conditions
        self._now = now
        self._every = every
        self._states = AlertStates(max(1, math.ceil(config.repeat_hours * 3600 / every)))
        self._senders = [AlertSender(receiver, on_outcome) for receiver in open_receivers(config)]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._check_failed = False

    def start(self) -> None:
        """Start checking and sending."""
        for sender in self._senders:
            sender.start()
        self._thread.start()

    def close(self, within: float = 2.0) -> None:
        """Stop within so many seconds; alerts that could not be sent by then are lost."""
        until = time.monotonic() + within
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(within)
        for sender in self._senders:
            sender.stop()
        for sender in self._senders:
            sender.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        while True:
            self._check()
            if self._stopping.wait(self._every):
                return

    def _check(self) -> None:
        """Check once. A check that raises is logged once, and the next check is made all the same."""
        try:
            conditions = self._current_conditions()
        except Exception:  # noqa: BLE001 - alerts must go on
            if not self._check_failed:
                _log.exception("alerts.check_failed")
            self._check_failed = True
            return
        self._check_failed = False
        for alert in self._states.update(conditions, self._now()):
            subjects = [condition.subject for condition in alert.conditions]
            _log.warning("alert.fired", state=alert.state, kind=alert.kind, subjects=subjects, since=alert.since)
            for sender in self._senders:
                sender.send(alert)


class AlertStates:
    """The states of all conditions; a function of the checks alone.

    A condition fires after three checks in a row with it, and is resolved after twelve without it. If it comes back
    within an hour, the number of checks without it doubles before it is resolved again, up to an hour. So a flapping
    condition is reported a few times, then as one that lasts. Conditions of one kind share an alert.

    Args:
        repeat: checks after which a lasting condition is repeated.
    """

    def __init__(self, repeat: int) -> None:
        self._repeat = repeat
        self._tracked: dict[tuple[str, str], _Tracked] = {}

    def update(self, conditions: Iterable[Condition], now: int) -> list[Alert]:
        """Take the conditions of one check at `now` (UTC ms); return the alerts to send."""
        active = {(condition.kind, condition.subject): condition for condition in conditions}
        for name, condition in active.items():
            self._tracked.setdefault(name, _Tracked(condition, now)).mark_present(condition, now)
        for name in self._tracked.keys() - active.keys():
            self._tracked[name].mark_absent()
        alerts = list(
            _grouped([(tracked.next_state(self._repeat), tracked) for tracked in self._tracked.values()], now)
        )
        self._tracked = {name: tracked for name, tracked in self._tracked.items() if not tracked.is_forgettable}
        return alerts


@dataclass
class _Tracked:
    """One condition: consecutive checks with it and without it, and checks since it was last reported."""

    condition: Condition
    since: int
    present: int = 0
    absent: int = 0
    is_firing: bool = False
    unreported: int = 0
    resolved_after: int = RESOLVED_AFTER
    was_resolved: bool = False

    def mark_present(self, condition: Condition, now: int) -> None:
        """Count a check with the condition."""
        if not self.present and not self.is_firing:
            self.since = now
        self.condition = condition
        self.present += 1
        self.absent = 0

    def mark_absent(self) -> None:
        """Count a check without the condition."""
        self.absent += 1
        self.present = 0

    def next_state(self, repeat: int) -> State | None:
        """Return the state to report after this check, or None."""
        self.unreported += 1
        if not self.is_firing and self.present >= FIRING_AFTER:
            if self.was_resolved:
                self.resolved_after = min(2 * self.resolved_after, REMEMBERED_CHECKS)
            self.is_firing, self.unreported = True, 0
            return "firing"
        if self.is_firing and self.absent >= self.resolved_after:
            self.is_firing, self.was_resolved = False, True
            return "resolved"
        if self.is_firing and self.present and self.unreported >= repeat:
            self.unreported = 0
            return "repeated"
        return None

    @property
    def is_forgettable(self) -> bool:
        """Whether the condition has been absent for so long that its history has no effect."""
        needed = REMEMBERED_CHECKS + self.resolved_after if self.was_resolved else 1
        return not self.is_firing and self.absent >= needed


def make_test_alert(now: int) -> Alert:
    """Return an alert that tests whether alerts arrive."""
    condition = Condition("test", "alerts", "This is a test. Nothing is wrong: alerts arrive here.")
    return Alert("test", "test", (condition,), now, now)


def _grouped(changes: Iterable[tuple[State | None, _Tracked]], now: int) -> Iterator[Alert]:
    """Yield one alert for all conditions of the same kind and state."""
    groups: dict[tuple[State, str], list[_Tracked]] = {}
    for state, tracked in changes:
        if state is not None:
            groups.setdefault((state, tracked.condition.kind), []).append(tracked)
    for (state, kind), group in groups.items():
        conditions = tuple(tracked.condition for tracked in group)
        yield Alert(state, kind, conditions, min(tracked.since for tracked in group), now)
