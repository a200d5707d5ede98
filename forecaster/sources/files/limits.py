"""Limits on the size of files and on the time to read them.

The size of its input bounds each call of a library; the deadline is checked between calls.
"""

from __future__ import annotations

import time
from typing import Final

from forecaster.errors import BadPayload, SourceUnavailable

MAX_BYTES: Final = 512 << 20
"""Packed and unpacked size of a file. Ten years of minutes are 300 MiB of csv."""

MIN_RATIO_BYTES: Final = 64 << 20
"""Unpacked size up to which the ratio is not checked."""

MAX_UNPACK_RATIO: Final = 100
"""Unpacked over packed size. csv of bars has 4 to 15; a zip bomb has 1,000 (gzip) to 10,000 (xz)."""

MAX_ZIP_FILES: Final = 1_000
"""Files in a zip; one is the table."""

MAX_JSON_DEPTH: Final = 32
"""Nesting of json. Responses of venues have up to 8; Python's parser fails at about 1,000."""

MAX_JSON_VALUES: Final = 20_000_000
"""Values of json, each a Python object: 3 million bars."""

MAX_JSON_TABLES: Final = 5_000
"""Lists of rows in one json, one for each symbol."""

MAX_ROWS: Final = 10_000_000
"""19 years of minutes."""

MAX_COLUMNS: Final = 10_000
"""A thousand symbols side by side have 6,000."""

MAX_CELLS: Final = 100_000_000
"""Rows × columns: 800 MB as numbers."""

MAX_LINE_CHARS: Final = 1 << 20
"""Characters of a line of csv: 100 for each of 10,000 columns."""

MAX_CELL_CHARS: Final = 64 << 10
"""Characters of a text in a column."""

READ_TIMEOUT_SECONDS: Final = 120.0
"""To read and unpack one file. The largest usually take a tenth of it."""


class Deadline:
    """The time by which a file has to be read; `source` is its name."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._at = time.monotonic() + READ_TIMEOUT_SECONDS

    def check(self) -> None:
        """Raise SourceUnavailable after the deadline."""
        if time.monotonic() > self._at:
            expected = f"expected to read the file within {READ_TIMEOUT_SECONDS:g} s"
            reason = f"{expected}, found that it takes longer: use a smaller file"
            raise SourceUnavailable(self._source, reason)


def check_bytes(source: str, size: int) -> None:
    """Raise BadPayload for a size above MAX_BYTES."""
    if size > MAX_BYTES:
        raise BadPayload(source, f"at most {MAX_BYTES >> 20} MiB", f"{size:,} bytes: divide the file")


def check_unpacked(source: str, packed: int, unpacked: int) -> None:
    """Raise BadPayload for an unpacked size above MAX_BYTES, or a ratio above MAX_UNPACK_RATIO."""
    if unpacked > MAX_BYTES:
        raise BadPayload(source, f"at most {MAX_BYTES >> 20} MiB when unpacked", "more: divide the file")
    if unpacked > max(MIN_RATIO_BYTES, MAX_UNPACK_RATIO * packed):
        expected = f"at most {MAX_UNPACK_RATIO} times its {packed:,} bytes when unpacked"
        raise BadPayload(source, expected, "more: unpack the file if it is one of bars")


def check_shape(source: str, rows: int, columns: int) -> None:
    """Raise BadPayload for too many rows, columns or cells."""
    check_count(source, "rows", rows, MAX_ROWS)
    check_count(source, "columns", columns, MAX_COLUMNS)
    check_count(source, "cells", rows * columns, MAX_CELLS)


def check_count(source: str, what: str, count: int, most: int) -> None:
    """Raise BadPayload for a count above its limit."""
    if count > most:
        raise BadPayload(source, f"at most {most:,} {what}", f"{count:,}: divide the file")


def check_text(source: str, what: str, length: int, most: int) -> None:
    """Raise BadPayload for a line or a cell above its length."""
    if length > most:
        raise BadPayload(source, f"{what} of at most {most:,} characters", f"{length:,}")
