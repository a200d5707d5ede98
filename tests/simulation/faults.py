"""What goes wrong in a simulated month, and when: drawn before it begins, from the seed alone."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.timeframe import DAY_MS, MINUTE_MS
from tests.builders import HOUR_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

YEARS_10: Final = 3650 * DAY_MS
EVERYTHING: Final = "everything"
"""The subject of faults that strike the whole process."""

_SHARE_ABSENT: Final = 0.3
"""The share of seeds in which a kind of fault does not occur at all."""


@dataclass(frozen=True)
class Rates:
    """How often each thing goes wrong: the first ones in times a month, the others as a share of bars or calls."""

    outage: float = 0.0
    ban: float = 0.0
    clock: float = 0.0
    sick: float = 0.0
    baseline: float = 0.0
    model: float = 0.0
    slow: float = 0.0
    down: float = 0.0
    wall: float = 0.0
    rival: float = 0.0
    late: float = 0.0
    revised: float = 0.0
    missing: float = 0.0
    garbage: float = 0.0
    store: float = 0.0
    kill: float = 0.0

    @classmethod
    def drawn(cls, seed: int) -> Rates:
        """The rates of a seed; some things never go wrong in it."""
        chance = random.Random(f"{seed} rates")  # noqa: S311 - a world, not a secret
        most = {one.name: _MOST[one.name] for one in fields(cls)}
        return cls(
            **{name: 0.0 if chance.random() < _SHARE_ABSENT else chance.uniform(0, top) for name, top in most.items()}
        )

    def only(self, *names: str) -> Rates:
        """These rates as they are, all others 0."""
        return replace(self, **{one.name: 0.0 for one in fields(self) if one.name not in names})


_MOST: Final = {
    "outage": 2.5, "ban": 3, "clock": 3, "sick": 0.2, "baseline": 3, "model": 2, "slow": 4, "down": 3, "wall": 3,
    "rival": 2, "late": 0.015, "revised": 0.03, "missing": 0.005, "garbage": 0.02, "store": 4e-4, "kill": 3e-4,
}  # fmt: skip


class Window(NamedTuple):
    """A stretch of time in which something is wrong with a subject; `size` says how much."""

    kind: str
    subject: str
    start: int
    end: int
    size: float


class _Shape(NamedTuple):
    """How long a kind of fault lasts, and how large it is: from, to; both drawn by their logarithm."""

    shortest: float
    longest: float
    smallest: float = 1.0
    largest: float = 1.0
    is_signed: bool = False


_SHAPES: Final = {
    "outage": _Shape(5 * MINUTE_MS, 2 * DAY_MS),
    "ban": _Shape(2 * MINUTE_MS, DAY_MS / 2),
    "clock": _Shape(10 * MINUTE_MS, DAY_MS, 1_000, 2 * HOUR_MS, is_signed=True),
    "sick": _Shape(HOUR_MS, 2 * DAY_MS, is_signed=True),
    "baseline": _Shape(HOUR_MS, DAY_MS),
    "model": _Shape(10 * MINUTE_MS, 6 * HOUR_MS),
    "slow": _Shape(HOUR_MS, DAY_MS, MINUTE_MS, 3 * HOUR_MS),
    "down": _Shape(2 * MINUTE_MS, 10 * DAY_MS),
    "wall": _Shape(10_000, 8 * HOUR_MS),
    "rival": _Shape(MINUTE_MS, 2 * HOUR_MS),
}
_JUMPS: Final = (*(HOUR_MS, -HOUR_MS, DAY_MS, -DAY_MS) * 4, YEARS_10, -YEARS_10)


class Faults:
    """All windows of a simulated stretch of time; those of one kind and subject do not overlap.

    Args:
        seed: of the world.
        rates: how often each kind occurs.
        subjects: of each kind that has several: exchanges, series, baselines.
        span: UTC ms from and to which.
    """

    def __init__(self, seed: int, rates: Rates, subjects: dict[str, Sequence[str]], span: tuple[int, int]) -> None:
        self._windows: dict[tuple[str, str], list[Window]] = defaultdict(list)
        for kind in _SHAPES:
            chance = random.Random(f"{seed} {kind}")  # noqa: S311 - a world, not a secret
            for subject in subjects.get(kind, [EVERYTHING]):
                self._windows[kind, subject] = _windows(chance, (kind, subject), getattr(rates, kind), span)

    def at(self, kind: str, subject: str, time: int) -> Window | None:
        """What is wrong with a subject in this way now, if it is."""
        windows = self._windows[kind, subject]
        place = bisect_right(windows, time, key=lambda one: one.start) - 1
        return windows[place] if place >= 0 and time < windows[place].end else None

    def of(self, *kinds: str) -> list[Window]:
        """All windows of some kinds, in the order of their beginnings."""
        found = [one for (kind, _), windows in self._windows.items() if kind in kinds for one in windows]
        return sorted(found, key=lambda one: one.start)


def _windows(chance: random.Random, name: tuple[str, str], a_month: float, span: tuple[int, int]) -> list[Window]:
    """The windows of one kind and subject: beginnings at random, ends before the next begins."""
    found: list[Window] = []
    at = float(span[0])
    while a_month:
        at += chance.expovariate(a_month / (30 * DAY_MS))
        shape = _SHAPES[name[0]]
        lasts, size = (
            lower * (upper / lower) ** chance.random()
            for lower, upper in ((shape.shortest, shape.longest), (shape.smallest, shape.largest))
        )
        if shape.is_signed and chance.random() < 1 / 2:
            size = -size
        if name[0] == "wall":
            size = chance.choice(_JUMPS)
        if at >= span[1]:
            return found
        found.append(Window(*name, round(at), round(min(at + lasts, span[1])), size))
        at += lasts
    return found
