"""The wall clock, which only the doors read and pass on as `as_of` and `issued_at`; and how a time is written."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """UTC now, in integer milliseconds."""
    return time.time_ns() // 1_000_000  # noqa: TID251 - the one place


def utc_text(time_ms: int) -> str:
    """Write a time (UTC ms) as people read it: `2024-05-14 12:30:00Z`."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
