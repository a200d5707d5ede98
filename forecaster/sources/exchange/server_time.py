"""What the answers of an exchange say about time: its clock, their dates, and how long to wait."""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_VALID_SECONDS: Final = 3600.0
_VALID_WITHOUT_DATES_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 60.0
_MIN_INTERVAL_SECONDS: Final = 10.0
SECOND_MS: Final = 1000
CLOCK_CHANGE_MS: Final = 2000
"""The difference of two clocks has changed by more than this when one was set, or this machine slept."""


class ExchangeClock:
    """The exchange's time, carried on by this machine's monotonic clock.

    The wall clock of this machine is not used: it may be wrong, or be set. A reported time is late by its time in
    transit, and never early. Where an exchange reports no time, the latest date of its answers is used.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._reported: tuple[int, float] | None = None
        self._date: tuple[int, float] | None = None
        self._differences_before: tuple[int | None, int] | None = None
        self._synchronized_at = float("-inf")
        self._valid_until = float("-inf")

    def observe_date(self, headers: Mapping[str, str]) -> int | None:
        """Record the date of an answer and return it (UTC ms, whole seconds); None when it has none."""
        date = _parse_http_date(headers.get("Date", ""))
        if date is not None:
            self._date = date, time.monotonic()
        return date

    def synchronize(self, reported: int | None, local: int) -> None:
        """Record the time that the exchange reports, or None; `local` is this machine's time (UTC ms)."""
        now = self._synchronized_at = time.monotonic()
        self._reported = None if reported is None else (reported, now)
        self._differences_before = self._differences(local)
        valid = _VALID_SECONDS if self._date is not None else _VALID_WITHOUT_DATES_SECONDS
        self._valid_until = now + (_RETRY_SECONDS if reported is None else valid)

    @property
    def is_synchronized(self) -> bool:
        """Whether the exchange has reported its time, not only dates."""
        return self._reported is not None

    def now(self) -> int | None:
        """Return UTC ms at the exchange: its reported time, else its latest date, else None."""
        reported, date = _carried_on(self._reported), _carried_on(self._date)
        return date if reported is None else reported

    def is_stale(self, local: int) -> bool:
        """Whether to synchronize again: after a while, or when a clock was set. `local` is this machine's UTC ms.

        At once where the reported time has fallen behind: no bar would be final by it.
        """
        changes, now = self._changes(local), time.monotonic()
        has_fallen_behind = any(ms < -CLOCK_CHANGE_MS for ms in changes)
        has_changed = any(abs(ms) > CLOCK_CHANGE_MS for ms in changes)
        is_due = now >= self._synchronized_at + _MIN_INTERVAL_SECONDS
        return now >= self._valid_until or has_fallen_behind or (has_changed and is_due)

    def _changes(self, local: int) -> list[int]:
        """Return by how many ms the reported time has moved against the latest date and this machine's clock."""
        before, now = self._differences_before or (None, None), self._differences(local) or (None, None)
        return [b - a for a, b in zip(before, now, strict=True) if a is not None and b is not None]

    def _differences(self, local: int) -> tuple[int | None, int] | None:
        """Return by how many ms the reported time is ahead of the latest date, and of this machine's clock."""
        reported, date = _carried_on(self._reported), _carried_on(self._date)
        return None if reported is None else (None if date is None else reported - date, reported - local)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3); None without one.

    A date counts from the answer's own date: this machine's clock may be wrong.
    """
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    until, date = _parse_http_date(value), _parse_http_date(headers.get("Date", ""))
    return None if until is None or date is None else max(0.0, (until - date) / 1000)


def _carried_on(observed: tuple[int, float] | None) -> int | None:
    """Return an observed time plus the time since then."""
    return None if observed is None else observed[0] + int((time.monotonic() - observed[1]) * 1000)


def _parse_http_date(text: str) -> int | None:
    """Return UTC ms of a date in a header; None when it is not one."""
    try:
        return round(parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
