"""Times to write down: what is stored must not be stamped with a time at which it could not be read yet.

`Stopwatch` carries the time of a door on, so that nothing below reads a clock. `CommitTimes` says how long after a
stamp a commit may end.
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
"""A commit that stands still for longer is made up for when it has ended, and not feared from then on."""

_REMEMBERED: Final = 16


class Stopwatch:
    """A door's time, carried on by the performance counter; nobody sets it.

    Args:
        start: UTC ms at which it begins.
    """

    def __init__(self, start: int) -> None:
        self._start = start
        self._began = time.perf_counter()

    @property
    def elapsed_ms(self) -> int:
        """Milliseconds since it began."""
        return round((time.perf_counter() - self._began) * 1000)

    @property
    def now(self) -> int:
        """UTC ms."""
        return self._start + self.elapsed_ms


class CommitTimes:
    """How long commits have taken lately, and so how long after a stamp what is written may become readable."""

    def __init__(self) -> None:
        self._latest = deque([SHORTEST_COMMIT_MS], maxlen=_REMEMBERED)

    @property
    def allowance_ms(self) -> int:
        """Milliseconds to allow for the next one: twice the slowest of the last 16, a second at most."""
        return min(2 * max(self._latest), LONGEST_ALLOWANCE_MS)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure one."""
        watch = Stopwatch(0)
        try:
            yield
        finally:
            self._latest.append(max(watch.elapsed_ms, SHORTEST_COMMIT_MS))
