"""What a bench measured: one record for each load, one for all of it, and what it comes to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from forecaster.model.chronos2.core import OHLC_GROUP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.model.bench_start import StartTimes


class Load(NamedTuple):
    """How much one call forecasts: rows, four of each series, and bars of context."""

    rows: int
    bars: int

    @property
    def series(self) -> int:
        """Series, of four rows each."""
        return self.rows // OHLC_GROUP

    def __str__(self) -> str:
        """Name it: `1,024 × 64`."""
        return f"{self.rows:,} × {self.bars}"


FIRST, LONG, FEW, MANY = LOADS = (Load(4, 512), Load(64, 512), Load(64, 64), Load(1024, 64))
"""What is measured; fresh processes forecast FIRST, and growth is from FEW to MANY."""


@dataclass(frozen=True)
class CaseTimes:
    """One load: seconds of one call, medians of `rounds`.

    Attributes:
        size: which model.
        rows: series times four.
        bars: of context.
        rounds: how often each was timed.
        upstream_s: chronos-forecasting's pipeline, all rows in one batch.
        upstream_best_s: the same at the quickest of UPSTREAM_BATCHES; None where `rows` is not more than the smallest.
        upstream_best_rows: rows in those batches.
        eager_s: our wrapper, nothing compiled.
        compiled_s: our wrapper with compiled code; None where that did not serve every series.
        engine: `compiled` where it did, else `eager`.
        reason: why that engine.
        max_rel_diff: largest difference of any engine's quantile to upstream's, as a share of its row's spread.
        batch_overhead: `predict_ohlc_batch` over the bare forward pass, both eager, the same rows in the same batches;
            None below 64 rows.
    """

    size: str
    rows: int
    bars: int
    rounds: int
    upstream_s: float
    upstream_best_s: float | None
    upstream_best_rows: int | None
    eager_s: float
    compiled_s: float | None
    engine: str
    reason: str
    max_rel_diff: float
    batch_overhead: float | None


@dataclass(frozen=True)
class BenchReport:
    """All that was measured.

    Attributes:
        hardware: processor or GPU, and cores.
        threads: that torch uses.
        versions: of the libraries that numbers depend on.
        weights_sha256: digest of the weights.
        horizon: bars that every call forecasts.
        cases: one for each of LOADS.
        growth: seconds per series at MANY over those at FEW, of the engine that serves.
        growth_eager: the same, eager.
        growth_compiled: the same, compiled; None where compiled code did not serve both.
        batch_overhead: the largest of the cases.
        starts: fresh processes; None where none was started.
        recommendation: which setting of `compile`, and who is quickest where.
    """

    hardware: str
    threads: int
    versions: str
    weights_sha256: str
    horizon: int
    cases: tuple[CaseTimes, ...]
    growth: float
    growth_eager: float
    growth_compiled: float | None
    batch_overhead: float
    starts: StartTimes | None
    recommendation: str


def recommend(cases: Sequence[CaseTimes]) -> str:
    """Say in one sentence which setting of `compile` to take, and who is quickest where."""
    quickest: dict[str, list[str]] = defaultdict(list)
    for one in cases:
        upstream_s = min(one.upstream_s, one.upstream_best_s or inf)
        seconds = {"compiled": one.compiled_s or inf, "eager": one.eager_s, "chronos-forecasting": upstream_s}
        quickest[min(seconds, key=seconds.__getitem__)].append(str(Load(one.rows, one.bars)))
    where = "; ".join(f"{name} at {', '.join(loads)}" for name, loads in quickest.items())
    gains = [one.eager_s / one.compiled_s for one in cases if one.compiled_s is not None]
    if not gains:
        return f"No compiled code served ({cases[0].reason}); quickest (rows × bars): {where}."
    return f'Set compile = "{"auto" if max(gains) > 1 else "off"}"; quickest (rows × bars): {where}.'
