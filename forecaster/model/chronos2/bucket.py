"""A batch shape: which engine serves it, why, and its measured times.

Shapes: B rows, T bars, Q quantile levels, H steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import torch

from forecaster.forecast import ENGINE_NOISE
from forecaster.model.chronos2.core import Core, Missing, Shape
from forecaster.model.chronos2.faults import WrongAnswer

SMALLEST_SPREAD = 1e-6
PROBE_SEEDS = (1, 2)

Run = Callable[[torch.Tensor], torch.Tensor]


class State(Enum):
    """State of a bucket; only `SERVING` runs compiled code."""

    EAGER = "eager"
    BUILDING = "building"
    SERVING = "serving"
    SLOWER = "slower"
    COOLING = "cooling"


@dataclass
class Bucket:
    """A shape with its two engines. Only the thread that owns the model changes it.

    Attributes:
        eager: the forward pass, not compiled.
        compiled: checked compiled code, while `state` is SERVING.
        searched: whether the stored packages have been searched.
        eager_spent: seconds spent in eager calls so far.
        eager_s: seconds of one eager call of all `shape.rows`, where measured.
        compiled_s: the same of compiled code.
        difference: largest difference from eager seen in checks, as a share of the forecast's spread.
        cool_downs: number of times that it was taken out of service.
        retry_at: monotonic seconds before which a COOLING bucket is not tried again.
    """

    shape: Shape
    eager: Core
    reason: str
    state: State = State.EAGER
    compiled: Run | None = None
    searched: bool = False
    eager_spent: float = 0.0
    eager_s: float | None = None
    compiled_s: float | None = None
    difference: float | None = None
    eager_calls: int = 0
    compiled_calls: int = 0
    samples: int = 0
    faults: list[str] = field(default_factory=list)
    cool_downs: int = 0
    retry_at: float = 0.0

    def compiled_for(self, rows: int) -> Run | None:
        """Return compiled code where it serves and is faster for this many rows; it always runs the full shape."""
        if self.state is not State.SERVING:
            return None
        if self.eager_s is None or self.compiled_s is None or rows == self.shape.rows:
            return self.compiled
        return self.compiled if self.compiled_s < self.eager_s * rows / self.shape.rows else None

    def compare(self, eager_BQH: torch.Tensor, compiled_BQH: torch.Tensor) -> WrongAnswer | None:
        """Compare compiled code with eager; return the fault if they differ by over ENGINE_NOISE of a row's spread."""
        if compiled_BQH.shape != eager_BQH.shape:
            return WrongAnswer(
                f"compiled code returned shape {tuple(compiled_BQH.shape)}, not {tuple(eager_BQH.shape)}"
            )
        spread_B = (eager_BQH.amax(dim=(1, 2)) - eager_BQH.amin(dim=(1, 2))).clamp(min=SMALLEST_SPREAD)
        difference = float(((compiled_BQH - eager_BQH).abs().amax(dim=(1, 2)) / spread_B).max())
        if difference <= ENGINE_NOISE:
            self.difference = max(difference, self.difference or 0.0)
            return None
        return WrongAnswer(f"compiled code is {difference:.2g} of the spread away from eager, allowed {ENGINE_NOISE:g}")

    def status(self) -> BucketStatus:
        """Describe the current state."""
        return BucketStatus(
            rows=self.shape.rows,
            bars=self.shape.bars,
            patches=self.shape.patches,
            group=self.shape.group,
            missing=self.shape.missing.value,
            engine="compiled" if self.state is State.SERVING else "eager",
            state=self.state.value,
            reason=self.reason,
            eager_calls=self.eager_calls,
            compiled_calls=self.compiled_calls,
            samples=self.samples,
            faults=tuple(self.faults),
            eager_s=self.eager_s,
            compiled_s=self.compiled_s,
            max_rel_diff=self.difference,
        )


@dataclass(frozen=True)
class BucketStatus:
    """The engine of one shape. Times are medians of one call, in seconds; `max_rel_diff` is relative to the spread."""

    rows: int
    bars: int
    patches: int
    group: int
    missing: str
    engine: str
    state: str
    reason: str
    eager_calls: int
    compiled_calls: int
    samples: int
    faults: tuple[str, ...]
    eager_s: float | None
    compiled_s: float | None
    max_rel_diff: float | None


def bucket_rows(rows: int, group: int) -> int:
    """Round up to a number of groups with at most three significant bits: 1 to 8, 10, 12, 14, 16, 20, …, 28.

    Few sizes are compiled, and no batch is padded by more than a quarter.
    """
    groups = -(-rows // group)
    return -(-groups // fine_step(groups)) * fine_step(groups) * group


def fine_step(count: int) -> int:
    """Return the distance between numbers near `count` that have at most three significant bits."""
    return 1 << max(0, count.bit_length() - 3)


def padded(standard_BT: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Pad to the shape's rows with copies of the last group, which do not affect the others."""
    copies = (shape.rows - len(standard_BT)) // shape.group
    return torch.cat([standard_BT, standard_BT[-shape.group :].repeat(copies, 1)]) if copies else standard_BT


def probe(shape: Shape, seed: int, patch: int) -> torch.Tensor:
    """Return a standardised batch to check compiled code with: random walks, heavy tails, a step, one constant row."""
    generator = torch.Generator().manual_seed(seed)
    standard_BT = torch.randn(shape.rows, shape.bars, generator=generator).cumsum(dim=1)
    standard_BT += torch.randn(shape.rows, shape.bars, generator=generator) ** 3
    standard_BT[shape.rows // 2, shape.bars // 2 :] += 30.0
    standard_BT = (standard_BT - standard_BT.mean(dim=1, keepdim=True)) / standard_BT.std(dim=1, keepdim=True)
    standard_BT[0] = 0.0
    if shape.missing is not Missing.NOTHING:
        standard_BT[:: shape.group, : patch // 2] = torch.nan
    if shape.missing is Missing.PATCHES:
        standard_BT[-1, : max(patch, shape.bars // 2 // patch * patch)] = torch.nan
    return standard_BT
