"""This machine's eager and compiled times beside chronos-forecasting's own pipeline, all with one model object.

Whoever is compared takes turns, round by round, so that a machine that slows down slows all alike; a time is the
median of its rounds. Fresh processes are timed in `bench_start`.

Shapes: S series, C the four price fields, B = 4·S rows, T bars, Q quantile levels, H steps.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np
import torch

from forecaster.config import absolute_model_id
from forecaster.model.bench_report import FEW, FIRST, LOADS, MANY, BenchReport, CaseTimes, Load, recommend
from forecaster.model.bench_start import HORIZON, Start, StartTimes, contexts_of, simulate_bars, time_starts
from forecaster.model.chronos2.artifacts import ArtifactKey, Artifacts, hardware
from forecaster.model.chronos2.checkpoint import library_versions, load_checkpoint
from forecaster.model.chronos2.checkpoint_config import checkpoint_digest
from forecaster.model.chronos2.compilers import CompileMode, CompileSettings
from forecaster.model.chronos2.core import OHLC_GROUP, grouped_forward
from forecaster.model.chronos2.private_folder import ArtifactsRefused
from forecaster.model.chronos2.upstream import to_upstream, upstream_versions
from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper
from forecaster.model.training.pretrain import TrainingPlan, build_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Bars, Context
    from forecaster.config import ModelConfig
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
_REST_S = 6 * 3600.0
_PAIRS = 7
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class BenchPlan:
    """What to measure.

    Attributes:
        model: which checkpoint, on which device.
        compile: how compiled code is had; nothing compiled is measured where it is `off`.
        size: `nano` measures `model`, by default nano; `base` random weights of amazon/chronos-2's size.
        quick: take the fewest rounds, and start no fresh process.
    """

    model: ModelConfig
    compile: CompileSettings
    size: Size = "nano"
    quick: bool = False

    @property
    def name(self) -> str:
        """What a case is told to be of: the configured model, or `base`."""
        return self.model.id if self.size == "nano" else self.size


def run(plan: BenchPlan, show: Callable[[str, float, float], object]) -> BenchReport:
    """Measure as planned; compiled code that is not kept yet is built first.

    `show(what, done, total)` is called with what is going on, and how many of the steps are done.

    Raises:
        ModelLoadError: when the configured model cannot be loaded.
        InferenceError: when a fresh process ends without a forecast.
    """
    with ExitStack() as stack:
        show("loading the model", 0, 1)
        cold = _cold_start(plan, stack)
        contest = _Contest(plan, cold, show)
        stack.callback(contest.unload)
        contest.warm_up()
        cases = tuple(contest.measure(load) for load in LOADS)
        growth = contest.measure_growth()
        starts = None if plan.quick else contest.measure_starts(cold)
    return BenchReport(
        hardware=contest.hardware,
        threads=torch.get_num_threads(),
        versions=upstream_versions(),
        weights_sha256=contest.weights_sha256,
        horizon=HORIZON,
        cases=cases,
        growth=growth.get("compiled", growth["eager"]),
        growth_eager=growth["eager"],
        growth_compiled=growth.get("compiled"),
        batch_overhead=max(one.batch_overhead for one in cases if one.batch_overhead is not None),
        starts=starts,
        recommendation=recommend(cases),
    )


class _Given(NamedTuple):
    """The same bars in each form that somebody wants; `rows_BT` are float32, less the last value of each row."""

    bars: list[Bars]
    contexts: list[Context]
    rows_SCT: NDArray[np.float64]
    rows_BT: torch.Tensor

    @classmethod
    def of(cls, load: Load, wrapper: Chronos2OHLCWrapper) -> _Given:
        """Simulate them; upstream and the bare core are given the rows that `wrapper` makes of its contexts."""
        bars = simulate_bars(load.series, load.bars)
        contexts = contexts_of(bars)
        rows_SCT = np.stack([wrapper.rows_of(one) for one in contexts])
        rows_BT = (rows_SCT - rows_SCT[:, :, -1:]).reshape(load.rows, -1)
        return cls(bars, contexts, rows_SCT, torch.from_numpy(rows_BT).float())


class _Steps:
    """Tell `show` how far the bench has come."""

    def __init__(self, show: Callable[[str, float, float], object], total: float) -> None:
        self._show, self._total = show, total
        self._what, self._done = "", 0.0

    def begin(self, what: str) -> None:
        """Say what is going on from now on."""
        self._what = what
        self.advance(0.0)

    def advance(self, steps: float = 1.0) -> None:
        """Say that it is done, or a part of it."""
        self._done += steps
        self._show(self._what, self._done, self._total)


class _Contest:
    """One model object, asked by upstream's pipeline, by an eager wrapper and by one with compiled code."""

    def __init__(self, plan: BenchPlan, cold: Start, show: Callable[[str, float, float], object]) -> None:
        self._plan = plan
        self._model, self.weights_sha256 = load_checkpoint(cold.model_id, cold.revision, cold.device)
        # A shape that failed rests till the end: a build in the middle would be measured with the others.
        settings = {"eager": CompileSettings("off"), "compiled": replace(plan.compile, rest_s=_REST_S)}
        self._wrappers = {
            engine: Chronos2OHLCWrapper(self._model, cold.model_id, self.weights_sha256, one)
            for engine, one in settings.items()
        }
        from chronos import Chronos2Pipeline  # noqa: PLC0415 - it loads transformers

        self._upstream = Chronos2Pipeline(to_upstream(self._model))
        self._cases: dict[Load, CaseTimes] = {}
        builds = len(self._wrappers["compiled"].batch_shapes(_calls_of(*LOADS)))
        self._steps = _Steps(show, builds + len(LOADS) + (1 if plan.quick else 2))

    @property
    def hardware(self) -> str:
        """Processor or GPU, and how many cores there are."""
        return f"{hardware(self._model.device.type)}, {os.cpu_count()} cores"

    def unload(self) -> None:
        """Let go of the model."""
        for wrapper in self._wrappers.values():
            wrapper.unload()

    def warm_up(self) -> None:
        """Have compiled code built, checked and timed, where compile is not off."""
        self._steps.begin("building compiled code")
        self._wrappers["compiled"].warm_up(_calls_of(*LOADS), self._steps.advance)

    def measure(self, load: Load) -> CaseTimes:
        """Measure one load: how far the answers are apart, then times, in turns."""
        self._steps.begin(f"{load.rows:,} rows of {load.bars} bars")
        compiled = self._wrappers["compiled"]
        given = _Given.of(load, compiled)
        started = time.perf_counter()
        upstream_SCQH = np.stack([one.numpy() for one in self._ask_upstream(given, load.rows)])
        answers = {name: one.predict(given.contexts, HORIZON) for name, one in self._wrappers.items()}
        rounds = self._count_rounds(time.perf_counter() - started)
        engine, reason = _who_served(answers["compiled"])
        best, fallbacks = self._best_batch(given, load), compiled.status().fallbacks
        seconds = _interleave(self._calls(given, load, best, engine), rounds, self._steps.advance)
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
            max_rel_diff=max(_difference(one, upstream_SCQH) for one in answers.values()),
            batch_overhead=seconds["batch"] / seconds["core"] if "core" in seconds else None,
        )
        return case

    def measure_growth(self) -> dict[str, float]:
        """Seconds per series at MANY over those at FEW, of each engine that served both."""
        self._steps.begin(f"growth from {FEW.rows} to {MANY.rows:,} rows")
        served = {self._cases[load].engine for load in (FEW, MANY)}
        engines = ["eager", "compiled"] if served == {"compiled"} else ["eager"]
        calls = {
            (engine, load): partial(self._wrappers[engine].predict, contexts, HORIZON)
            for load, contexts in ((load, contexts_of(simulate_bars(load.series, load.bars))) for load in (FEW, MANY))
            for engine in engines
        }
        a_round_s = len(engines) * sum(self._cases[load].eager_s for load in (FEW, MANY))
        seconds = _interleave(calls, self._count_rounds(a_round_s), self._steps.advance)
        return {engine: seconds[engine, MANY] / seconds[engine, FEW] * FEW.series / MANY.series for engine in engines}

    def measure_starts(self, cold: Start) -> StartTimes:
        """Time fresh processes: without any package, and with the one that FIRST needs."""
        self._steps.begin("fresh processes")
        mode = self._mode_that_serves(FIRST)
        folder = str(self._plan.compile.folder.expanduser().resolve())
        warm = None if mode is None else replace(cold, mode=mode, folder=folder, until_compiled=True)
        return time_starts(cold, warm, _PAIRS, self._steps.advance)

    def _mode_that_serves(self, load: Load) -> CompileMode | None:
        """The mode with which a fresh process will serve what is kept for this load; None where nothing is."""
        settings = self._plan.compile
        if settings.mode == "off" or settings.compiler != "package":
            return None
        (shape,) = self._wrappers["compiled"].batch_shapes(_calls_of(load))
        digest = checkpoint_digest(self.weights_sha256, self._model.config)
        key = ArtifactKey.of(digest, library_versions(), self._model.device, shape)
        try:
            kept = Artifacts(settings.folder).find(key)
        except ArtifactsRefused:
            return None
        if kept is None or kept[1].eager_s is None or kept[1].compiled_s is None:
            return None
        return "auto" if kept[1].compiled_s < kept[1].eager_s else "on"

    def _calls(self, given: _Given, load: Load, best: int | None, engine: str) -> dict[str, Callable[[], object]]:
        """Who takes part, in the order of their turns."""
        eager = self._wrappers["eager"]
        calls: dict[str, Callable[[], object]] = {"upstream": partial(self._ask_upstream, given, load.rows)}
        if best is not None:
            calls["upstream_best"] = partial(self._ask_upstream, given, best)
        calls["eager"] = partial(eager.predict, given.contexts, HORIZON)
        if engine == "compiled":
            calls["compiled"] = partial(self._wrappers["compiled"].predict, given.contexts, HORIZON)
        if load.rows >= UPSTREAM_BATCHES[0]:
            most = max(shape.rows for shape in eager.batch_shapes(_calls_of(load)))
            calls["batch"] = partial(eager.predict_ohlc_batch, given.bars, HORIZON, load.bars)
            calls["core"] = partial(self._ask_core, given.rows_BT, most)
        return calls

    def _ask_upstream(self, given: _Given, rows: int) -> list[torch.Tensor]:
        answers: list[torch.Tensor] = self._upstream.predict(given.rows_SCT, prediction_length=HORIZON, batch_size=rows)
        return answers

    def _ask_core(self, rows_BT: torch.Tensor, most: int) -> None:
        """Run the bare forward pass, `most` rows at a time."""
        patches = -(-HORIZON // self._wrappers["eager"].patch)
        with torch.no_grad():
            for some_BT in torch.split(rows_BT.to(self._model.device), most):
                grouped_forward(self._model, some_BT, patches, OHLC_GROUP).cpu()

    def _best_batch(self, given: _Given, load: Load) -> int | None:
        """Rows at a time with which upstream is quickest; None where all fit the smallest batch."""
        if load.rows <= UPSTREAM_BATCHES[0]:
            return None
        calls = {rows: partial(self._ask_upstream, given, rows) for rows in UPSTREAM_BATCHES if rows <= load.rows}
        seconds = _interleave(calls, 1 if self._plan.quick else 2)
        return min(seconds, key=seconds.__getitem__)

    def _count_rounds(self, a_round_s: float) -> int:
        """How many rounds to take: odd, 3 where they are slow, else at least 5."""
        if self._plan.quick or a_round_s > _SLOW_ROUND_S:
            return 3
        return max(5, min(_MOST_ROUNDS, int(_ROUNDS_S / a_round_s) | 1))


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
    """Series, bars and horizon, as the wrapper wants them."""
    return [(load.series, load.bars, HORIZON) for load in loads]


def _interleave(
    calls: Mapping[_Key, Callable[[], object]], rounds: int, advance: Callable[[float], object] = float
) -> dict[_Key, float]:
    """Median seconds of each call, all called in turn, `rounds` times; `advance` is told of each round's share."""
    taken: dict[_Key, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - started)
        advance(1 / rounds)
    return {name: median(seconds) for name, seconds in taken.items()}


def _who_served(forecasts: Sequence[OHLCForecast]) -> tuple[str, str]:
    """`compiled`, or `eager` where one of the forecasts was, with the reason."""
    eager = [one for one in forecasts if one.engine != "compiled"]
    return ("eager" if eager else "compiled"), [*eager, *forecasts][0].provenance.engine_reason


def _difference(forecasts: Sequence[OHLCForecast], upstream_SCQH: NDArray[np.float32]) -> float:
    """Largest difference of a quantile, as a share of the spread of upstream's answer for its row."""
    ours_SCQH = np.stack([one.raw_FHQ for one in forecasts]).transpose(0, 1, 3, 2)
    share_SC = np.abs(ours_SCQH - upstream_SCQH).max(axis=(2, 3)) / np.ptp(upstream_SCQH, axis=(2, 3))
    return float(share_SC.max())
