"""Time from the start of a process to its first forecast, and to its first forecast by compiled code.

The parent calls `start`; the child is `python -m tests.benchmarks.process_start`. Both simulate the same bars here.

Shapes: T bars.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import Bars, SeriesKey
from forecaster.context import Context
from forecaster.errors import InferenceError
from forecaster.model.chronos2.compilers import CompileMode, Compiler, CompileSettings
from forecaster.model.chronos2.wrapper import Chronos2OHLCWrapper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HORIZON = 16
"""Bars to forecast: one output patch of Chronos-2."""
_FIRST_OPEN = 1_704_067_200_000
_RESTARTS, _LONGEST_WAIT_S = 3, 60.0


@dataclass(frozen=True)
class Start:
    """Request to a fresh process: load a model, forecast one series, optionally until compiled code serves."""

    model_id: str
    revision: str | None
    device: str
    mode: CompileMode
    compiler: Compiler
    bars: int
    folder: str = ""
    until_compiled: bool = False


@dataclass(frozen=True)
class Started:
    """Times of one process, in seconds.

    Attributes:
        process_s: from its start to its first forecast.
        first_s: from the loaded model to its first forecast.
        compiled_s: from the loaded model to its first forecast by compiled code; None if there was none.
    """

    process_s: float
    first_s: float
    compiled_s: float | None


@dataclass(frozen=True)
class StartTimes:
    """Medians over fresh processes that forecast one series, in seconds.

    Attributes:
        pairs: processes with compile off, and as many with `auto` and no package for the shape, in turns.
        off_s: from the loaded model to the first forecast, compile off.
        auto_s: the same with `auto`.
        process_off_s: from the start of the process to the first forecast, compile off.
        process_auto_s: the same with `auto`.
        restart_to_compiled_s: from the loaded model to the first compiled forecast, where its package is cached;
            None where it is not.
        restart_mode: compile mode of those; `on` where eager is faster, so that `auto` would serve eager.
    """

    pairs: int
    off_s: float
    auto_s: float
    process_off_s: float
    process_auto_s: float
    restart_to_compiled_s: float | None
    restart_mode: CompileMode | None

    @property
    def first_forecast_ratio(self) -> float:
        """Time of the first forecast with `auto` over that with compile off."""
        return self.auto_s / self.off_s


def time_starts(cold: Start, warm: Start | None, pairs: int, advance: Callable[[float], object]) -> StartTimes:
    """Time fresh processes: `pairs` of `cold` with compile off and `auto`, and three of `warm`.

    `advance` is called with the share of each process.

    Raises:
        InferenceError: when a process ended without a forecast.
    """
    modes: tuple[CompileMode, CompileMode] = ("off", "auto")
    restarts = [] if warm is None else [warm] * _RESTARTS
    with tempfile.TemporaryDirectory() as empty:
        requests = [replace(cold, mode=mode, folder=empty) for mode in modes] * pairs + restarts
        done: list[Started] = []
        for request in requests:
            done.append(start(request))
            advance(1 / len(requests))
    off, auto, again = done[: 2 * pairs : 2], done[1 : 2 * pairs : 2], done[2 * pairs :]
    compiled_s = [times.compiled_s for times in again if times.compiled_s is not None]
    return StartTimes(
        pairs=pairs,
        off_s=median(times.first_s for times in off),
        auto_s=median(times.first_s for times in auto),
        process_off_s=median(times.process_s for times in off),
        process_auto_s=median(times.process_s for times in auto),
        restart_to_compiled_s=median(compiled_s) if len(compiled_s) == _RESTARTS else None,
        restart_mode=None if warm is None else warm.mode,
    )


def start(request: Start) -> Started:
    """Time one fresh process.

    Raises:
        InferenceError: when it ended without a forecast.
    """
    arguments = [json.dumps(asdict(request)), str(time.monotonic())]  # a clock that all processes share
    child = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.process_start", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise InferenceError(f"a fresh process ended with {child.returncode}: {child.stderr.strip()[-300:]}")
    return Started(**json.loads(child.stdout.splitlines()[-1]))


def simulate_bars(series: int, bars: int) -> list[Bars]:
    """Simulate hourly bars without gaps, random walks that start at 100; the same at every call."""
    simulated: list[Bars] = []
    for i in range(series):
        rng = np.random.default_rng([i, bars])
        close_T = 100 * np.exp(rng.normal(0, 0.005, bars).cumsum())
        open_T = np.concatenate([[100.0], close_T[:-1]])
        above_T, below_T = np.exp(rng.exponential(0.002, (2, bars)))
        high_T, low_T = np.maximum(open_T, close_T) * above_T, np.minimum(open_T, close_T) / below_T
        key = SeriesKey("simulated", f"S{i}/USD", "1h")
        open_time = key.trading_calendar.next_opens(key.timeframe, _FIRST_OPEN, bars)
        simulated.append(Bars(key, open_time, np.stack([open_T, high_T, low_T, close_T, np.ones(bars)], axis=1)))
    return simulated


def contexts_of(bars: Sequence[Bars]) -> list[Context]:
    """Return all bars of each series as its context."""
    return [Context.ending_at(series, int(series.close_time[-1]), len(series), len(series)) for series in bars]


def main() -> None:
    """Run the request given as JSON; the last line printed is the result."""
    request, spawned = Start(**json.loads(sys.argv[1])), float(sys.argv[2])
    contexts = contexts_of(simulate_bars(1, request.bars))
    settings = CompileSettings(request.mode, request.compiler, Path(request.folder))
    wrapper = Chronos2OHLCWrapper.from_pretrained(
        request.model_id, revision=request.revision, compile=settings, device=request.device
    )
    loaded = time.monotonic()
    wrapper.predict(contexts, HORIZON)
    first = time.monotonic()
    compiled_s = None
    while request.until_compiled and compiled_s is None and time.monotonic() < loaded + _LONGEST_WAIT_S:
        forecast = wrapper.predict(contexts, HORIZON)[0]
        if forecast.engine == "compiled":
            compiled_s = time.monotonic() - loaded
    print(json.dumps(asdict(Started(first - spawned, first - loaded, compiled_s))))  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
