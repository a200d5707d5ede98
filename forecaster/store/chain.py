"""The hash chains of the ledger: each row carries a hash of itself and of the row before it.

Bars are chained by series, forecasts by series and run, in order of insertion. A changed, missing or added row breaks
the chain from there on. The format is part of every ledger and never changes.
"""

from __future__ import annotations

import hashlib
import struct
from math import nan
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_BAR: Final = struct.Struct("<qq5dq")


def initial_hash(*names: str) -> bytes:
    """Return what precedes the first row of a chain: a hash of the names of the chain."""
    return hashlib.sha256("\x1f".join(names).encode()).digest()


def bar_hash(before: bytes, open_time: int, revision: int, ohlcv: Sequence[float | None], first_seen_at: int) -> bytes:
    """Return the hash of a revision of a bar after `before`; an unknown value is None, hashed as NaN."""
    # A database may return -0.0 as 0.0.
    values = (nan if value is None else value + 0.0 for value in ohlcv)
    packed = _BAR.pack(open_time, revision, *values, first_seen_at)
    return hashlib.sha256(before + packed).digest()


def forecast_hash(before: bytes, facts: Iterable[object], payload: bytes) -> bytes:
    """Return the hash of a forecast after `before`: of its facts and all its numbers."""
    head = "\x1f".join(map(str, facts)).encode()
    return hashlib.sha256(b"".join((before, len(head).to_bytes(4, "little"), head, payload))).digest()
