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
_RETRIED_AFTER: Final = 60.0


class ExchangeClock:
    """The exchange's time, carried on by this machine's monotonic clock.

    The local wall clock takes no part: it may be wrong, or be set while we run. A told time is as old
    as its way here, so the reckoned time is late by that, and never early.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._told: int | None = None
        self._told_at = 0.0
        self._good_until = float("-inf")
        self._date: tuple[int, float] | None = None

    def hear(self, headers: Mapping[str, str]) -> None:
        """Note the date that an answer carries, in whole seconds."""
        date = _http_date(headers.get("Date", ""))
        if date is not None:
            self._date = date, time.monotonic()

    def dated(self) -> int | None:
        """UTC ms by the date of the last answer, for an exchange that tells no other time."""
        return None if self._date is None else self._date[0] + int((time.monotonic() - self._date[1]) * 1000)

    def set(self, told: int | None) -> None:
        """Take what the exchange told just now; None when it did not."""
        self._told = told
        self._told_at = time.monotonic()
        self._good_until = self._told_at + (_RETRIED_AFTER if told is None else _GOOD_FOR)

    def now(self) -> int | None:
        """UTC ms at the exchange, or None when it is not known."""
        return None if self._told is None else self._told + int((time.monotonic() - self._told_at) * 1000)

    def is_stale(self, as_of: int) -> bool:
        """Whether to ask anew: it has been a while, or the reckoning lags, as after this machine slept."""
        now = self.now()
        return time.monotonic() >= self._good_until or (now is not None and now < as_of)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds of a Retry-After header (RFC 9110, 10.2.3); None when there is none.

    It may name a time instead, which counts from the answer's own date: this machine's clock may be wrong.
    """
    told = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", told):
        return float(told)
    at, date = _http_date(told), _http_date(headers.get("Date", ""))
    return None if at is None or date is None else max(0.0, (at - date) / 1000)


def _http_date(text: str) -> int | None:
    """UTC ms of a date in a header; None when it is none."""
    try:
        return round(parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
