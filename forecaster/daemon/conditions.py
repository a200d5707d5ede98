"""What an operator should be told: a condition as it is found and worded, and an alert as it is told.

Whether and when something is told is left to `alerts`, and the way to whoever reads it to `receivers`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from forecaster.errors import utc_text
from forecaster.log import harmless

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forecaster.bars import SeriesKey
    from forecaster.ledger import Hold
    from forecaster.model.chronos2.compiled import ModelStatus

State: TypeAlias = Literal["began", "lasts", "over", "test"]
"""What is told: a condition began, it lasts, it is over; or that this is a test."""

PAGE: Final = "docs/operations.md"
WHAT_TO_DO: Final = {
    "stale_series": "Look for series.skipped in the log: it says whether exchange, bars or this machine is late.",
    "ban": "`forecaster holds` lists them. Do not restart to get round one, it is kept: use fewer series, or wait.",
    "fallback": "Forecasts go on, by the slower engine. `forecaster model compile` says what is wrong.",
    "revised": "Do not rely on the forecasts that were made from these bars: `forecaster latest` marks them.",
    "drift": "Trade less on it until `forecaster accuracy` shows skill and coverage as they were.",
    "no_skill": "Do not trade on it. `forecaster accuracy` shows since when.",
    "disk": "Free space beside the ledger, or `forecaster store prune`: without space nothing is recorded.",
    "ledger_unavailable": "Put the ledger back, or make its folder writable: the service waits, and writes no other.",
    "ledger_damaged": "Stop the service, keep the file, restore a copy. `forecaster verify ledger` says what is sound.",
    "failing_cycle": "Read cycle.failed in the log. Nothing is recorded until it succeeds; then it is caught up on.",
    "not_alive": "Restart the service unless its watchdog does, and keep the log.",
}
"""What helps against each kind of condition, in a sentence; the page has more."""

_MOST_NAMED: Final = 3
_MOST_TOLD: Final = 10
_LONGEST_TEXT: Final = 400
_NAMED_IN_TEXT: Final = 5
LONGEST_REASON: Final = 300


class Condition(NamedTuple):
    """Something that is wrong now, named by its kind and what it is about.

    `kind` is one of a few words (`stale_series`, `ban`, …), each a heading of docs/operations.md; `subject` is a
    series, an exchange or a part of the service; `text` a sentence about it; `severity` is `warning` or `critical`.
    """

    kind: str
    subject: str
    text: str
    severity: str = "warning"


@dataclass(frozen=True, slots=True)
class Alert:
    """What is told of conditions of one kind: that they began, that they last, or that they are over.

    `since` is when the first of them was found, `at` when this is told, both UTC ms.
    """

    state: State
    kind: str
    conditions: tuple[Condition, ...]
    since: int
    at: int

    @property
    def severity(self) -> str:
        """That of the worst of them."""
        return "critical" if any(one.severity == "critical" for one in self.conditions) else "warning"

    @property
    def title(self) -> str:
        """One line: how bad, what, and about whom."""
        subjects = self._listed([one.subject for one in self.conditions[:_MOST_NAMED]], ", ")
        word = {"began": self.severity, "lasts": f"{self.severity}, lasts"}.get(self.state, self.state)
        return harmless(f"forecaster: {word}: {self.kind}: {subjects}", _LONGEST_TEXT)

    @property
    def body(self) -> str:
        """What is wrong, since when, and what to do; of harmless lines."""
        told = self._listed([harmless(one.text, _LONGEST_TEXT) for one in self.conditions[:_MOST_TOLD]], "\n")
        if self.state == "over":
            return f"{told}\nThis was so since {utc_text(self.since)}, and is over at {utc_text(self.at)}."
        if self.state == "test":
            return told
        advice = WHAT_TO_DO.get(self.kind, "")
        return f"{told}\nSince {utc_text(self.since)}.\n{advice} See {PAGE}#{self.kind}".strip()

    def record(self) -> dict[str, object]:
        """What a program that receives alerts wants; `text` is what chats show."""
        return {
            "state": self.state,
            "kind": self.kind,
            "severity": self.severity,
            "subjects": [harmless(one.subject, _LONGEST_TEXT) for one in self.conditions],
            "since": utc_text(self.since),
            "at": utc_text(self.at),
            "title": self.title,
            "text": f"{self.title}\n{self.body}",
        }

    def _listed(self, first: list[str], between: str) -> str:
        left = len(self.conditions) - len(first)
        return between.join(first + [f"and {left} more"] * bool(left))


def by_place(
    kind: str, what: str, series: Iterable[tuple[SeriesKey, str]], severity: str = "warning"
) -> list[Condition]:
    """One condition for each exchange and timeframe, however many series it is about: a venue that fails takes all."""
    groups: dict[str, list[str]] = defaultdict(list)
    for key, words in series:
        groups[f"{key.exchange} {key.timeframe}"].append(words)
    found = []
    for place, all_words in groups.items():
        more = f"; and {len(all_words) - _NAMED_IN_TEXT} more" if len(all_words) > _NAMED_IN_TEXT else ""
        text = f"{what}, {len(all_words)} series: {'; '.join(all_words[:_NAMED_IN_TEXT])}{more}"
        found.append(Condition(kind, place, text, severity))
    return found


def failing(place: tuple[str, str], times: int, since: int, reason: str) -> Condition:
    """Say that so many cycles of an exchange and timeframe have failed in a row, `since` in UTC ms."""
    text = f"{times} cycles failed in a row, since {utc_text(since)}, the last with {reason}"
    return Condition("failing_cycle", " ".join(place), text, "critical")


def banned(hold: Hold) -> Condition:
    """Say until when an exchange wants not to be asked, and why."""
    text = f"{hold.exchange} must not be asked until {utc_text(hold.until)}: {hold.reason[:LONGEST_REASON]}"
    return Condition("ban", hold.exchange, text)


def resting(forward: ModelStatus) -> list[Condition]:
    """Whether compiled code was taken out of service, and is not tried yet."""
    cooling = [one for one in forward.buckets if one.state == "cooling"]
    if not cooling:
        return []
    shapes = f"{len(cooling)} of {len(forward.buckets)} shapes"
    return [Condition("fallback", "model", f"eager serves {shapes}: {cooling[0].reason[:LONGEST_REASON]}")]


def plain(condition: Condition) -> Condition:
    """The same on one line, without anything that a terminal would obey: names and reasons come from outside."""
    subject, text = (
        "".join(one if one.isprintable() else " " for one in words) for words in (condition.subject, condition.text)
    )
    return condition._replace(subject=subject, text=text)
