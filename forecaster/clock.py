"""The wall clock, which only the doors read and pass on as `as_of` and `issued_at`."""

from __future__ import annotations

import time


def now_ms() -> int:
    """UTC now, in integer milliseconds."""
    return time.time_ns() // 1_000_000  # noqa: TID251 - the one place
