"""Results of `model_speed`: times of each load, the report and its text."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from forecaster.model.chronos2.core import OHLC_GROUP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.process_start import StartTimes


class Load(NamedTuple):
    """Size of case call: rows, four for each series, and bars of context."""

    rows: int
    bars: int

    @property
    def series(self) -> int:
        """Number of series."""
        return self.rows // OHLC_GROUP

    def __str__(self) -> str:
        """Return rows × bars: `1,024 × 64`."""
        return f"{self.rows:,} × {self.bars}"


FIRST, LONG, FEW, MANY = LOADS = (Load(4, 512), Load(64, 512), Load(64, 64), Load(1024, 64))
"""The loads measured; fresh processes forecast FIRST, and growth is from FEW to MANY."""


@dataclass(frozen=True)
class CaseTimes:
    """One load: seconds of case call, medians of `rounds`.

    Attributes:
        size: which model.
        rows: series times four.
        bars: of context.
        rounds: number of times that each was timed.
        upstream_s: chronos-forecasting's pipeline, all rows in case batch.
        upstream_best_s: the same at the fastest of UPSTREAM_BATCHES; None where `rows` is at most the smallest.
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
    """Everything measured.

    Attributes:
        hardware: processor or GPU, and cores.
        threads: that torch uses.
        versions: of the libraries that numbers depend on.
        weights_sha256: digest of the weights.
        horizon: bars that every call forecasts.
        cases: case for each of LOADS.
        growth: seconds per series at MANY over those at FEW, of the engine that serves.
        growth_eager: the same, eager.
        growth_compiled: the same, compiled; None where compiled code did not serve both.
        batch_overhead: the largest of the cases.
        starts: fresh processes; None where none was started.
        recommendation: the setting of `compile` to use, and the fastest engine of each load.
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
    """Recommend a setting of `compile`, and name the fastest engine of each load."""
    fastest: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        upstream_s = min(case.upstream_s, case.upstream_best_s or inf)
        seconds = {"compiled": case.compiled_s or inf, "eager": case.eager_s, "chronos-forecasting": upstream_s}
        fastest[min(seconds, key=seconds.__getitem__)].append(str(Load(case.rows, case.bars)))
    where = "; ".join(f"{name} at {', '.join(loads)}" for name, loads in fastest.items())
    gains = [case.eager_s / case.compiled_s for case in cases if case.compiled_s is not None]
    if not gains:
        return f"No compiled code served ({cases[0].reason}); fastest (rows × bars): {where}."
    return f'Set compile = "{"auto" if max(gains) > 1 else "off"}"; fastest (rows × bars): {where}.'


def format_report(report: BenchReport) -> str:
    """Format times next to upstream's as a table, with the conclusions below it."""
    columns = "{:>8} {:>8} {:>5} {:>8} {:>9} {:>9} {:>6} {:>9} {:>6} {:>9}"
    lines = ["milliseconds; x: upstream's time, in batches of that many rows, over ours"]
    lines.append(
        columns.format("model", "rows", "bars", "batch", "upstream", "eager", "x", "compiled", "x", "max diff")
    )
    for case in report.cases:
        upstream = {case.rows: case.upstream_s}
        if case.upstream_best_rows is not None and case.upstream_best_s is not None:
            upstream.setdefault(case.upstream_best_rows, case.upstream_best_s)
        for rows, seconds in upstream.items():
            ours = [text for own in (case.eager_s, case.compiled_s) for text in _time_and_ratio(own, seconds)]
            size = (case.size, f"{case.rows:,}", case.bars, f"{rows:,}", f"{1e3 * seconds:.4g}")
            lines.append(columns.format(*size, *ours, f"{case.max_rel_diff:.0e}"))
    lines += [
        f"eager, not compiled: {reason}" for reason in {c.reason: 0 for c in report.cases if c.compiled_s is None}
    ]
    lines.append(f"a row among 1,024 takes {report.growth:.2f} times as long as among 64")
    lines.append(f"the wrapper takes at most {report.batch_overhead:.3f} times as long as the bare model")
    starts = report.starts
    if starts is not None:
        auto_ms, off_ms, ratio = 1e3 * starts.auto_s, 1e3 * starts.off_s, starts.first_forecast_ratio
        lines.append(
            f"first forecast of a process: {auto_ms:.4g} ms with auto, {off_ms:.4g} ms with off: {ratio:.2f} x"
        )
        if starts.restart_to_compiled_s is not None:
            seconds = starts.restart_to_compiled_s
            lines.append(f"restart with compile = {starts.restart_mode}: compiled code serves after {seconds:.2f} s")
    lines += [f"{report.hardware}, {report.threads} threads, {report.versions}", report.recommendation]
    return "\n".join(lines)


def _time_and_ratio(seconds: float | None, upstream_s: float) -> tuple[str, str]:
    return ("-", "-") if seconds is None else (f"{1e3 * seconds:.4g}", f"{upstream_s / seconds:.2f}")
