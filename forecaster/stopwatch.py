"""Timestamps of stored rows: a row is never stamped with a time before it was readable.

`Stopwatch` continues a caller's time, so that lower layers read no clock. `CommitTimes` estimates how long a commit
takes.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORTEST_COMMIT_MS: Final = 25
LONGEST_ALLOWANCE_MS: Final = 1_000
"""The estimate is never longer. A slower commit is corrected after it has ended (table `availability_delay`)."""

_REMEMBERED: Final = 16


class Stopwatch:
    """A time that continues by the performance counter, which is never set.

    Args:
        start: UTC ms at the start.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._began = time.perf_counter()

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since the start."""
        return round((time.perf_counter() - self._began) * 1000)

    @property
    def now(self) -> int:
        """UTC ms."""
        return self._start + self.elapsed_ms


class CommitTimes:
    """Durations of recent commits: how long after its stamp a row may become readable."""

    def __init__(self) -> None:
        self._latest = deque([SHORTEST_COMMIT_MS], maxlen=_REMEMBERED)

    @property
    def allowance_ms(self) -> int:
        """Milliseconds to allow for the next commit: twice the slowest of the last 16, at most one second."""
        return min(2 * max(self._latest), LONGEST_ALLOWANCE_MS)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure a commit."""
        watch = Stopwatch(0)
        try:
            yield
        finally:
            self._latest.append(max(watch.elapsed_ms, SHORTEST_COMMIT_MS))
