"""How much of a file is read: more than any file of bars that people keep, and no more than a machine can bear.

What one call of a library does is bounded by the size of its input; between such calls there is a deadline.
"""

from __future__ import annotations

import time
from typing import Final

from forecaster.errors import BadPayload, SourceUnavailable

MOST_BYTES: Final = 512 << 20
"""Of a file, and of what is packed in it: ten years of minutes are 300 MiB of csv."""

FREE_BYTES: Final = 64 << 20
"""What may be unpacked whatever the ratio."""

MOST_RATIO: Final = 100
"""Unpacked over packed, beyond FREE_BYTES: csv of bars has 4 to 15; a bomb has 1,000 (gzip) to 10,000 (xz)."""

MOST_MEMBERS: Final = 1_000
"""Files in a zip, one of which is the table."""

DEEPEST: Final = 32
"""Lists and objects of json in each other: answers of venues have up to 8; Python's parser fails at some 1,000."""

MOST_VALUES: Final = 20_000_000
"""Values of json, each of which is an object of Python: 3 million bars."""

MOST_TABLES: Final = 5_000
"""Lists of rows in one json, each of a symbol."""

MOST_ROWS: Final = 10_000_000
"""19 years of minutes."""

MOST_COLUMNS: Final = 10_000
"""A thousand symbols side by side have 6,000."""

MOST_CELLS: Final = 100_000_000
"""Rows × columns: 800 MB as numbers."""

LONGEST_LINE: Final = 1 << 20
"""Characters of a line of csv: 100 for each of 10,000 columns."""

LONGEST_CELL: Final = 64 << 10
"""Characters of a text in a column."""

READ_SECONDS: Final = 120.0
"""To read and unpack one file; a tenth is usual for the largest."""


class Deadline:
    """The time by which a file has to be read.

    Args:
        source: the file.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = time.monotonic() + READ_SECONDS

    def check(self) -> None:
        """Raise when it has passed.

        Raises:
            SourceUnavailable: names the file.
        """
        if time.monotonic() > self._at:
            reason = (
                f"expected to read the file within {READ_SECONDS:g} s, found that it takes longer: use a smaller file"
            )
            raise SourceUnavailable(self._source, reason)


def check_bytes(source: str, size: int) -> None:
    """Refuse what is larger than MOST_BYTES.

    Raises:
        BadPayload: says how large.
    """
    if size > MOST_BYTES:
        raise BadPayload(source, f"at most {MOST_BYTES >> 20} MiB", f"{size:,} bytes: divide the file")


def check_unpacked(source: str, packed: int, unpacked: int) -> None:
    """Refuse what grows too large, or too many times its size.

    Raises:
        BadPayload: names the bound.
    """
    if unpacked > MOST_BYTES:
        raise BadPayload(source, f"at most {MOST_BYTES >> 20} MiB when unpacked", "more: divide the file")
    if unpacked > max(FREE_BYTES, MOST_RATIO * packed):
        expected = f"at most {MOST_RATIO} times its {packed:,} bytes when unpacked"
        raise BadPayload(source, expected, "more: unpack the file if it is one of bars")


def check_shape(source: str, rows: int, columns: int) -> None:
    """Refuse a table that is too large.

    Raises:
        BadPayload: names the bound.
    """
    check_count(source, "rows", rows, MOST_ROWS)
    check_count(source, "columns", columns, MOST_COLUMNS)
    check_count(source, "cells", rows * columns, MOST_CELLS)


def check_count(source: str, what: str, count: int, most: int) -> None:
    """Refuse too many of something.

    Raises:
        BadPayload: says how many.
    """
    if count > most:
        raise BadPayload(source, f"at most {most:,} {what}", f"{count:,}: divide the file")


def check_text(source: str, what: str, length: int, most: int) -> None:
    """Refuse a line or a cell that is too long.

    Raises:
        BadPayload: says how long.
    """
    if length > most:
        raise BadPayload(source, f"{what} of at most {most:,} characters", f"{length:,}")
