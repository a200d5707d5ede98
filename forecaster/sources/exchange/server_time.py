"""What an answer of an exchange says about time: its clock, its dates, and how long to wait."""

from __future__ import annotations

import asyncio
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_GOOD_FOR: Final = 3600.0
_GOOD_WITHOUT_DATES: Final = 60.0
_RETRIED_AFTER: Final = 60.0
_SOONEST: Final = 10.0
SECOND_MS: Final = 1000
MOVED_MS: Final = 2000
"""Two clocks whose difference has changed by more: one of them was set, or this machine slept."""


class ExchangeClock:
    """The exchange's time, carried on by this machine's monotonic clock.

    The local wall clock takes no part: it may be wrong, or be set while we run. A told time is as old
    as its way here, so the reckoned time is late by that, and never early. Answers have dates; of an exchange that
    tells no time, the newest one stands for it.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._told: tuple[int, float] | None = None
        self._date: tuple[int, float] | None = None
        self._apart: tuple[int | None, int] | None = None
        self._asked_at = float("-inf")
        self._good_until = float("-inf")

    def hear(self, headers: Mapping[str, str]) -> int | None:
        """Note the date that an answer carries, in whole seconds, and give it; None when it carries none."""
        date = _http_date(headers.get("Date", ""))
        if date is not None:
            self._date = date, time.monotonic()
        return date

    def set(self, told: int | None, here: int) -> None:
        """Take what the exchange told just now, None when it did not; it is `here` by this machine (UTC ms)."""
        now = self._asked_at = time.monotonic()
        self._told = None if told is None else (told, now)
        self._apart = self._differences(here)
        good_for = _GOOD_FOR if self._date is not None else _GOOD_WITHOUT_DATES
        self._good_until = now + (_RETRIED_AFTER if told is None else good_for)

    @property
    def is_told(self) -> bool:
        """Whether the exchange has told its time, and not only dates."""
        return self._told is not None

    def now(self) -> int | None:
        """UTC ms at the exchange, or None when it is not known: its time, or else its newest date."""
        told, date = _carried(self._told), _carried(self._date)
        return date if told is None else told

    def is_stale(self, here: int) -> bool:
        """Whether to ask anew: it has been a while, or a clock has moved since. `here` is by this machine (UTC ms).

        At once where the told time has fallen behind, since nothing is final by it then.
        """
        moved, now = self._moved(here), time.monotonic()
        has_fallen_behind = any(ms < -MOVED_MS for ms in moved)
        has_moved = any(abs(ms) > MOVED_MS for ms in moved)
        return now >= self._good_until or has_fallen_behind or (has_moved and now >= self._asked_at + _SOONEST)

    def _moved(self, here: int) -> list[int]:
        """By how much (ms) the told time has moved against the newest date, and against this machine's clock."""
        before, now = self._apart or (None, None), self._differences(here) or (None, None)
        return [b - a for a, b in zip(before, now, strict=True) if a is not None and b is not None]

    def _differences(self, here: int) -> tuple[int | None, int] | None:
        """How far (ms) the told time is ahead of the newest date, and of this machine's clock."""
        told, date = _carried(self._told), _carried(self._date)
        return None if told is None else (None if date is None else told - date, told - here)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, 10.2.3); None when there is none.

    It may name a time instead, which counts from the answer's own date: this machine's clock may be wrong.
    """
    told = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", told):
        return float(told)
    at, date = _http_date(told), _http_date(headers.get("Date", ""))
    return None if at is None or date is None else max(0.0, (at - date) / 1000)


def _carried(at: tuple[int, float] | None) -> int | None:
    """A time and when it was heard, as it is by now."""
    return None if at is None else at[0] + int((time.monotonic() - at[1]) * 1000)


def _http_date(text: str) -> int | None:
    """UTC ms of a date in a header; None when it is none."""
    try:
        return round(parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
