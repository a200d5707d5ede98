"""Conditions that an operator should know about, and the alerts made from them.

`alerts` decides when an alert is sent, `alert_sender` sends it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from forecaster.errors import format_time
from forecaster.log import sanitize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forecaster.bars import SeriesKey
    from forecaster.ledger import Hold
    from forecaster.model.chronos2.compiled import ModelStatus

State: TypeAlias = Literal["firing", "repeated", "resolved", "test"]
"""An alert says that conditions started, still last, or ended; or that it is a test."""

PAGE: Final = "docs/operations.md"
REMEDIES: Final = {
    "stale_series": "Look for series.skipped in the log: it says whether exchange, bars or this machine is late.",
    "ban": "`forecaster holds` lists them. A restart does not end a hold: use fewer series, or wait.",
    "fallback": "Forecasts continue on the slower engine. `forecaster model compile` says what is wrong.",
    "revised": "Do not rely on the forecasts made from these bars: `forecaster latest` marks them.",
    "drift": "Trade less on it until `forecaster accuracy` shows skill and coverage as before.",
    "no_skill": "Do not trade on it. `forecaster accuracy` shows since when.",
    "disk": "Free space beside the ledger, or run `forecaster store prune`: without space nothing is recorded.",
    "ledger_unavailable": "Put the ledger back, or make its folder writable: the service waits and writes no other.",
    "ledger_damaged": "Stop the service, keep the file, restore a copy. `forecaster verify ledger` shows the damage.",
    "failing_cycle": "Read cycle.failed in the log. Nothing is recorded until a cycle succeeds; then it catches up.",
    "not_alive": "Restart the service unless its watchdog does, and keep the log.",
}
"""What to do about each kind of condition, in a sentence; the page has more."""

MAX_REASON_CHARACTERS: Final = 300
_MAX_TEXT_CHARACTERS: Final = 400
_MAX_SUBJECTS_IN_TITLE: Final = 3
_MAX_CONDITIONS_IN_BODY: Final = 10
_MAX_SERIES_IN_TEXT: Final = 5


class Condition(NamedTuple):
    """Something that is wrong now, identified by kind and subject.

    `kind` is a heading of docs/operations.md (`stale_series`, `ban`, …); `subject` is a series, an exchange or a part
    of the service; `text` is a sentence about it; `severity` is `warning` or `critical`.
    """

    kind: str
    subject: str
    text: str
    severity: str = "warning"


@dataclass(frozen=True, slots=True)
class Alert:
    """A message about conditions of one kind that are firing, repeated or resolved.

    `since` is the start of the first condition, `at` the time of this alert, both in UTC ms.
    """

    state: State
    kind: str
    conditions: tuple[Condition, ...]
    since: int
    at: int

    @property
    def severity(self) -> str:
        """The highest severity of its conditions."""
        return "critical" if any(condition.severity == "critical" for condition in self.conditions) else "warning"

    @property
    def title(self) -> str:
        """State or severity, kind and subjects, in one line."""
        subjects = self._join([condition.subject for condition in self.conditions[:_MAX_SUBJECTS_IN_TITLE]], ", ")
        word = {"firing": self.severity, "repeated": f"{self.severity}, repeated"}.get(self.state, self.state)
        return sanitize(f"forecaster: {word}: {self.kind}: {subjects}", _MAX_TEXT_CHARACTERS)

    @property
    def body(self) -> str:
        """What is wrong, since when, and what to do; without control characters."""
        first = self.conditions[:_MAX_CONDITIONS_IN_BODY]
        text = self._join([sanitize(condition.text, _MAX_TEXT_CHARACTERS) for condition in first], "\n")
        if self.state == "resolved":
            return f"{text}\nStarted {format_time(self.since)}, resolved {format_time(self.at)}."
        if self.state == "test":
            return text
        remedy = REMEDIES.get(self.kind, "")
        return f"{text}\nSince {format_time(self.since)}.\n{remedy} See {PAGE}#{self.kind}".strip()

    def record(self) -> dict[str, object]:
        """Return the alert for programs, as JSON values; `text` is for chats."""
        return {
            "state": self.state,
            "kind": self.kind,
            "severity": self.severity,
            "subjects": [sanitize(condition.subject, _MAX_TEXT_CHARACTERS) for condition in self.conditions],
            "since": format_time(self.since),
            "at": format_time(self.at),
            "title": self.title,
            "text": f"{self.title}\n{self.body}",
        }

    def _join(self, first: list[str], separator: str) -> str:
        more = len(self.conditions) - len(first)
        return separator.join(first + [f"and {more} more"] * bool(more))


def by_group(
    kind: str, problem: str, series: Iterable[tuple[SeriesKey, str]], severity: str = "warning"
) -> list[Condition]:
    """Return one condition for each exchange and timeframe: when an exchange fails, all its series do."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key, text in series:
        groups[f"{key.exchange} {key.timeframe}"].append(text)
    conditions = []
    for group, texts in groups.items():
        more = f"; and {len(texts) - _MAX_SERIES_IN_TEXT} more" if len(texts) > _MAX_SERIES_IN_TEXT else ""
        text = f"{problem}, {len(texts)} series: {'; '.join(texts[:_MAX_SERIES_IN_TEXT])}{more}"
        conditions.append(Condition(kind, group, text, severity))
    return conditions


def failing_cycle(labels: tuple[str, str], times: int, since: int, reason: str) -> Condition:
    """Say how many cycles of an exchange and timeframe have failed in a row since `since` (UTC ms)."""
    text = f"{times} cycles failed in a row, since {format_time(since)}, the last with {reason}"
    return Condition("failing_cycle", " ".join(labels), text, "critical")


def ban(hold: Hold) -> Condition:
    """Say until when an exchange refuses requests, and why."""
    text = f"{hold.exchange} must not be asked until {format_time(hold.until)}: {hold.reason[:MAX_REASON_CHARACTERS]}"
    return Condition("ban", hold.exchange, text)


def fallback(status: ModelStatus) -> list[Condition]:
    """Say which batch shapes have lost their compiled code for now."""
    cooling = [bucket for bucket in status.buckets if bucket.state == "cooling"]
    if not cooling:
        return []
    shapes = f"{len(cooling)} of {len(status.buckets)} shapes"
    return [Condition("fallback", "model", f"eager serves {shapes}: {cooling[0].reason[:MAX_REASON_CHARACTERS]}")]


def sanitized(condition: Condition) -> Condition:
    """Return it on one line, without terminal escapes: names and reasons come from outside."""
    subject, text = (
        "".join(character if character.isprintable() else " " for character in words)
        for words in (condition.subject, condition.text)
    )
    return condition._replace(subject=subject, text=text)
