"""What ties the rows of the ledger together: each carries a digest of itself and of the row before it.

Bars are chained by series, forecasts by series and run, in the order in which they were written. A row that is changed,
left out or put in between breaks the chain from there on. The format is part of every ledger: it never changes.
"""

from __future__ import annotations

import hashlib
import struct
from math import nan
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_BAR: Final = struct.Struct("<qq5dq")


def first_link(*names: str) -> bytes:
    """What stands before the first row of a chain: a digest of whose chain it is."""
    return hashlib.sha256("\x1f".join(names).encode()).digest()


def bar_link(before: bytes, open_time: int, revision: int, ohlcv: Sequence[float | None], first_seen_at: int) -> bytes:
    """The digest of one version of a bar behind `before`; a value that is not known is None, and hashed as NaN."""
    # A database may give -0.0 back as 0.0.
    values = (nan if value is None else value + 0.0 for value in ohlcv)
    packed = _BAR.pack(open_time, revision, *values, first_seen_at)
    return hashlib.sha256(before + packed).digest()


def forecast_link(before: bytes, facts: Iterable[object], payload: bytes) -> bytes:
    """The digest of a forecast behind `before`: of what is known of it, and of all its numbers."""
    head = "\x1f".join(map(str, facts)).encode()
    return hashlib.sha256(b"".join((before, len(head).to_bytes(4, "little"), head, payload))).digest()
