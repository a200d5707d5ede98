"""Eager and compiled times on this machine, compared with chronos-forecasting's own pipeline on the same model object.

    python -m tests.benchmarks.model_speed [--size base] [--compile on|auto|off] [--quick] [--json]

The engines run in turns, round by round, so that a machine that slows down affects all of them. A time is the median
of its rounds. Fresh processes are timed in `process_start`. Leave the machine idle: other work changes the times.
nano takes about 3 minutes, base about 8, and the first run up to a minute more for each of 5 builds.

Shapes: S series, C the four price fields, B = 4·S rows, T bars, Q quantile levels, H steps.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np
import torch

from forecaster.config_file import absolute_model_id, default_config_path, load_config
from forecaster.model.chronos2.artifacts import ArtifactKey, Artifacts, hardware
from forecaster.model.chronos2.checkpoint import library_versions, load_checkpoint
from forecaster.model.chronos2.checkpoint_config import checkpoint_digest
from forecaster.model.chronos2.compilers import CompileMode, CompileSettings
from forecaster.model.chronos2.core import OHLC_GROUP, grouped_forward
from forecaster.model.chronos2.private_folder import ArtifactsRefused
from forecaster.model.chronos2.upstream import to_upstream, upstream_versions
from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper
from forecaster.model.training.pretrain import TrainingPlan, build_model
from tests.benchmarks.model_speed_report import (
    FEW,
    FIRST,
    LOADS,
    MANY,
    BenchReport,
    CaseTimes,
    Load,
    format_report,
    recommend,
)
from tests.benchmarks.process_start import HORIZON, Start, StartTimes, contexts_of, simulate_bars, time_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Bars
    from forecaster.config import ModelConfig
    from forecaster.context import Context
    from forecaster.forecast import OHLCForecast

Size = Literal["nano", "base"]
BASE = TrainingPlan(
    context_length=8192,
    reference_patch=False,
    output_patches=64,
    d_model=768,
    d_kv=64,
    d_ff=3072,
    num_layers=12,
    num_heads=12,
)
"""The size of amazon/chronos-2."""
UPSTREAM_BATCHES = (64, 128, 256, 512, 1024)
_ROUNDS_S, _SLOW_ROUND_S, _MOST_ROUNDS = 20.0, 12.0, 51
_COOL_DOWN_S = 6 * 3600.0
_PAIRS = 7
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class BenchPlan:
    """What to measure.

    Attributes:
        model: which checkpoint, on which device.
        compile: how code is compiled; `off` measures eager only.
        size: `nano` measures `model`, by default nano; `base` random weights of amazon/chronos-2's size.
        quick: run the fewest rounds, and start no fresh process.
    """

    model: ModelConfig
    compile: CompileSettings
    size: Size = "nano"
    quick: bool = False

    @property
    def name(self) -> str:
        """The configured model, or `base`."""
        return self.model.id if self.size == "nano" else self.size


def run(plan: BenchPlan, show: Callable[[str, float, float], object]) -> BenchReport:
    """Run the benchmark; compiled code that is not cached yet is built first.

    `show(activity, done, total)` is called with the current activity and the number of completed steps.

    Raises:
        ModelLoadError: when the configured model cannot be loaded.
        InferenceError: when a fresh process ends without a forecast.
    """
    with ExitStack() as stack:
        show("loading the model", 0, 1)
        cold = _cold_start(plan, stack)
        benchmark = _Benchmark(plan, cold, show)
        stack.callback(benchmark.unload)
        benchmark.warm_up()
        cases = tuple(benchmark.measure(load) for load in LOADS)
        growth = benchmark.measure_growth()
        starts = None if plan.quick else benchmark.measure_starts(cold)
    return BenchReport(
        hardware=benchmark.hardware,
        threads=torch.get_num_threads(),
        versions=upstream_versions(),
        weights_sha256=benchmark.weights_sha256,
        horizon=HORIZON,
        cases=cases,
        growth=growth.get("compiled", growth["eager"]),
        growth_eager=growth["eager"],
        growth_compiled=growth.get("compiled"),
        batch_overhead=max(case.batch_overhead for case in cases if case.batch_overhead is not None),
        starts=starts,
        recommendation=recommend(cases),
    )


class _Inputs(NamedTuple):
    """The same bars in the form that each engine takes; `rows_BT` are float32, less the last value of each row."""

    bars: list[Bars]
    contexts: list[Context]
    rows_SCT: NDArray[np.float64]
    rows_BT: torch.Tensor

    @classmethod
    def of(cls, load: Load, wrapper: Chronos2OHLCWrapper) -> _Inputs:
        """Simulate bars; upstream and the bare core get the rows that `wrapper` makes of its contexts."""
        bars = simulate_bars(load.series, load.bars)
        contexts = contexts_of(bars)
        rows_SCT = np.stack([wrapper.rows_of(context) for context in contexts])
        rows_BT = (rows_SCT - rows_SCT[:, :, -1:]).reshape(load.rows, -1)
        return cls(bars, contexts, rows_SCT, torch.from_numpy(rows_BT).float())


class _Progress:
    """Report progress to `show`."""

    def __init__(self, show: Callable[[str, float, float], object], total: float) -> None:
        self._show, self._total = show, total
        self._activity, self._done = "", 0.0

    def start(self, activity: str) -> None:
        """Report the activity that starts now."""
        self._activity = activity
        self.advance(0.0)

    def advance(self, steps: float = 1.0) -> None:
        """Report that many further steps as done."""
        self._done += steps
        self._show(self._activity, self._done, self._total)


class _Benchmark:
    """One model object, run by upstream's pipeline, by an eager wrapper and by one with compiled code."""

    def __init__(self, plan: BenchPlan, cold: Start, show: Callable[[str, float, float], object]) -> None:
        self._plan = plan
        self._model, self.weights_sha256 = load_checkpoint(cold.model_id, cold.revision, cold.device)
        # A failed shape is not built again before the end: the build would slow down what is measured.
        settings = {"eager": CompileSettings("off"), "compiled": replace(plan.compile, cool_down_s=_COOL_DOWN_S)}
        self._wrappers = {
            engine: Chronos2OHLCWrapper(self._model, cold.model_id, self.weights_sha256, compiler)
            for engine, compiler in settings.items()
        }
        from chronos import Chronos2Pipeline

        self._upstream = Chronos2Pipeline(to_upstream(self._model))
        self._cases: dict[Load, CaseTimes] = {}
        builds = len(self._wrappers["compiled"].batch_shapes(_calls_of(*LOADS)))
        self._progress = _Progress(show, builds + len(LOADS) + (1 if plan.quick else 2))

    @property
    def hardware(self) -> str:
        """Processor or GPU, and number of cores."""
        return f"{hardware(self._model.device.type)}, {os.cpu_count()} cores"

    def unload(self) -> None:
        """Unload the model."""
        for wrapper in self._wrappers.values():
            wrapper.unload()

    def warm_up(self) -> None:
        """Build, check and time compiled code, unless compile is off."""
        self._progress.start("building compiled code")
        self._wrappers["compiled"].warm_up(_calls_of(*LOADS), self._progress.advance)

    def measure(self, load: Load) -> CaseTimes:
        """Measure one load: the differences between the engines, then times, in turns."""
        self._progress.start(f"{load.rows:,} rows of {load.bars} bars")
        compiled = self._wrappers["compiled"]
        inputs = _Inputs.of(load, compiled)
        started = time.perf_counter()
        upstream_SCQH = np.stack([quantiles.numpy() for quantiles in self._predict_upstream(inputs, load.rows)])
        forecasts = {name: wrapper.predict(inputs.contexts, HORIZON) for name, wrapper in self._wrappers.items()}
        rounds = self._count_rounds(time.perf_counter() - started)
        engine, reason = _serving_engine(forecasts["compiled"])
        best, fallbacks = self._best_batch(inputs, load), compiled.status().fallbacks
        seconds = _interleave(self._calls(inputs, load, best, engine), rounds, self._progress.advance)
        if compiled.status().fallbacks > fallbacks:
            engine, reason = "eager", compiled.engine_reason
        self._cases[load] = case = CaseTimes(
            size=self._plan.name,
            rows=load.rows,
            bars=load.bars,
            rounds=rounds,
            upstream_s=seconds["upstream"],
            upstream_best_s=seconds.get("upstream_best"),
            upstream_best_rows=best,
            eager_s=seconds["eager"],
            compiled_s=seconds.get("compiled") if engine == "compiled" else None,
            engine=engine,
            reason=reason,
            max_rel_diff=max(_difference(ours, upstream_SCQH) for ours in forecasts.values()),
            batch_overhead=seconds["batch"] / seconds["core"] if "core" in seconds else None,
        )
        return case

    def measure_growth(self) -> dict[str, float]:
        """Seconds per series at MANY over those at FEW, of each engine that served both."""
        self._progress.start(f"growth from {FEW.rows} to {MANY.rows:,} rows")
        served = {self._cases[load].engine for load in (FEW, MANY)}
        engines = ["eager", "compiled"] if served == {"compiled"} else ["eager"]
        calls = {
            (engine, load): partial(self._wrappers[engine].predict, contexts, HORIZON)
            for load, contexts in ((load, contexts_of(simulate_bars(load.series, load.bars))) for load in (FEW, MANY))
            for engine in engines
        }
        round_s = len(engines) * sum(self._cases[load].eager_s for load in (FEW, MANY))
        seconds = _interleave(calls, self._count_rounds(round_s), self._progress.advance)
        return {engine: seconds[engine, MANY] / seconds[engine, FEW] * FEW.series / MANY.series for engine in engines}

    def measure_starts(self, cold: Start) -> StartTimes:
        """Time fresh processes: without any package, and with the one that FIRST needs."""
        self._progress.start("fresh processes")
        mode = self._mode_that_serves(FIRST)
        folder = str(self._plan.compile.folder.expanduser().resolve())
        warm = None if mode is None else replace(cold, mode=mode, folder=folder, until_compiled=True)
        return time_starts(cold, warm, _PAIRS, self._progress.advance)

    def _mode_that_serves(self, load: Load) -> CompileMode | None:
        """The compile mode with which a fresh process serves the cached code of this load; None without cached code."""
        settings = self._plan.compile
        if settings.mode == "off" or settings.compiler != "package":
            return None
        (shape,) = self._wrappers["compiled"].batch_shapes(_calls_of(load))
        digest = checkpoint_digest(self.weights_sha256, self._model.config)
        key = ArtifactKey.of(digest, library_versions(), self._model.device, shape)
        try:
            cached = Artifacts(settings.folder).find(key)
        except ArtifactsRefused:
            return None
        if cached is None or cached[1].eager_s is None or cached[1].compiled_s is None:
            return None
        return "auto" if cached[1].compiled_s < cached[1].eager_s else "on"

    def _calls(self, inputs: _Inputs, load: Load, best: int | None, engine: str) -> dict[str, Callable[[], object]]:
        """The calls to time, in the order of their turns."""
        eager = self._wrappers["eager"]
        calls: dict[str, Callable[[], object]] = {"upstream": partial(self._predict_upstream, inputs, load.rows)}
        if best is not None:
            calls["upstream_best"] = partial(self._predict_upstream, inputs, best)
        calls["eager"] = partial(eager.predict, inputs.contexts, HORIZON)
        if engine == "compiled":
            calls["compiled"] = partial(self._wrappers["compiled"].predict, inputs.contexts, HORIZON)
        if load.rows >= UPSTREAM_BATCHES[0]:
            most = max(shape.rows for shape in eager.batch_shapes(_calls_of(load)))
            calls["batch"] = partial(eager.predict_ohlc_batch, inputs.bars, HORIZON, load.bars)
            calls["core"] = partial(self._run_core, inputs.rows_BT, most)
        return calls

    def _predict_upstream(self, inputs: _Inputs, rows: int) -> list[torch.Tensor]:
        quantiles: list[torch.Tensor] = self._upstream.predict(
            inputs.rows_SCT, prediction_length=HORIZON, batch_size=rows
        )
        return quantiles

    def _run_core(self, rows_BT: torch.Tensor, most: int) -> None:
        """Run the bare forward pass, `most` rows at a time."""
        patches = -(-HORIZON // self._wrappers["eager"].patch)
        with torch.no_grad():
            for batch_BT in torch.split(rows_BT.to(self._model.device), most):
                grouped_forward(self._model, batch_BT, patches, OHLC_GROUP).cpu()

    def _best_batch(self, inputs: _Inputs, load: Load) -> int | None:
        """Rows per batch with which upstream is fastest; None where all fit the smallest batch."""
        if load.rows <= UPSTREAM_BATCHES[0]:
            return None
        calls = {rows: partial(self._predict_upstream, inputs, rows) for rows in UPSTREAM_BATCHES if rows <= load.rows}
        seconds = _interleave(calls, 1 if self._plan.quick else 2)
        return min(seconds, key=seconds.__getitem__)

    def _count_rounds(self, round_s: float) -> int:
        """Number of rounds: odd, 3 where a round is slow, else at least 5."""
        if self._plan.quick or round_s > _SLOW_ROUND_S:
            return 3
        return max(5, min(_MOST_ROUNDS, int(_ROUNDS_S / round_s) | 1))


def _cold_start(plan: BenchPlan, stack: ExitStack) -> Start:
    """Name the model for this process and for fresh ones; random weights are in a folder that the stack removes."""
    model_id, revision = plan.model.id, plan.model.revision
    if plan.size == "base":
        model_id, revision = stack.enter_context(tempfile.TemporaryDirectory()), None
        torch.manual_seed(0)
        build_model(BASE).save_pretrained(model_id)
    else:
        model_id = absolute_model_id(model_id, Path.cwd())
    return Start(model_id, revision, plan.model.device, "off", plan.compile.compiler, FIRST.bars)


def _calls_of(*loads: Load) -> list[tuple[int, int, int]]:
    """Series, bars and horizon of each load, as `warm_up` takes them."""
    return [(load.series, load.bars, HORIZON) for load in loads]


def _interleave(
    calls: Mapping[_Key, Callable[[], object]], rounds: int, advance: Callable[[float], object] = float
) -> dict[_Key, float]:
    """Median seconds of each call, called in turns, `rounds` times; `advance` gets the share of each round."""
    taken: dict[_Key, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
        advance(1 / rounds)
    return {name: median(seconds) for name, seconds in taken.items()}


def _serving_engine(forecasts: Sequence[OHLCForecast]) -> tuple[str, str]:
    """`compiled`, or `eager` if any forecast was, with the reason."""
    eager = [forecast for forecast in forecasts if forecast.engine != "compiled"]
    return ("eager" if eager else "compiled"), [*eager, *forecasts][0].provenance.engine_reason


def _difference(forecasts: Sequence[OHLCForecast], upstream_SCQH: NDArray[np.float32]) -> float:
    """Largest difference of a quantile, as a share of the spread of upstream's quantiles of its row."""
    ours_SCQH = np.stack([forecast.raw_FHQ for forecast in forecasts]).transpose(0, 1, 3, 2)
    share_SC = np.abs(ours_SCQH - upstream_SCQH).max(axis=(2, 3)) / np.ptp(upstream_SCQH, axis=(2, 3))
    return float(share_SC.max())


def main() -> int:
    """Measure the speed of the model on this machine."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.model_speed", description=main.__doc__)
    parser.add_argument("--config", help="TOML file; its [model] section is used. Default: the embedded one.")
    parser.add_argument("--size", choices=("nano", "base"), default="nano", help="base: random weights, full size.")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="on", help="auto: only what is faster.")
    parser.add_argument("--folder", type=Path, help="Folder of compiled code. Default: the configured one.")
    parser.add_argument("--quick", action="store_true", help="Fewest rounds, nothing compiled, no fresh process.")
    parser.add_argument("--json", action="store_true", help="Print one line of JSON instead of a table.")
    args = parser.parse_args()
    model = load_config(args.config or default_config_path()).model
    mode: CompileMode = "off" if args.quick else args.compile
    settings = CompileSettings(mode, model.compiler, args.folder or model.compiled_folder)
    plan = BenchPlan(model, settings, args.size, args.quick)
    report = run(plan, lambda what, done, total: sys.stderr.write(f"{done:.1f}/{total:.0f} {what}\n"))
    ratio = None if report.starts is None else report.starts.first_forecast_ratio
    record = asdict(report) | {"first_forecast_ratio": ratio}
    sys.stdout.write(f"{json.dumps(record) if args.json else format_report(report)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
