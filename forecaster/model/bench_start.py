"""A fresh process: how long until its first forecast, and until compiled code serves.

The parent calls `start`; the child is `python -m forecaster.model.bench_start`. The bars that are forecast are made
here too, so that both see the same.

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

from forecaster.bars import Bars, Context, SeriesKey
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
    """What a fresh process is asked for: load a model, forecast one series, perhaps until compiled code serves."""

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
    """What it measured, in seconds.

    Attributes:
        process_s: from its start to its first forecast.
        first_s: from the loaded model to its first forecast.
        compiled_s: from the loaded model to its first forecast by compiled code; None when there was none.
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
        restart_to_compiled_s: from the loaded model to the first forecast by compiled code, where its package is kept;
            None where none is.
        restart_mode: compile mode of those; `on` where eager is quicker, so that `auto` would serve eager.
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
        """What `auto` costs the first forecast."""
        return self.auto_s / self.off_s


def time_starts(cold: Start, warm: Start | None, pairs: int, advance: Callable[[float], object]) -> StartTimes:
    """Time fresh processes: `pairs` as `cold` says with compile off and `auto`, and a few as `warm` says.

    `advance` is told of each process's share of all.

    Raises:
        InferenceError: when one ended without a forecast.
    """
    modes: tuple[CompileMode, CompileMode] = ("off", "auto")
    restarts = [] if warm is None else [warm] * _RESTARTS
    with tempfile.TemporaryDirectory() as empty:
        asked = [replace(cold, mode=mode, folder=empty) for mode in modes] * pairs + restarts
        done: list[Started] = []
        for one in asked:
            done.append(start(one))
            advance(1 / len(asked))
    off, auto, again = done[: 2 * pairs : 2], done[1 : 2 * pairs : 2], done[2 * pairs :]
    compiled_s = [one.compiled_s for one in again if one.compiled_s is not None]
    return StartTimes(
        pairs=pairs,
        off_s=median(one.first_s for one in off),
        auto_s=median(one.first_s for one in auto),
        process_off_s=median(one.process_s for one in off),
        process_auto_s=median(one.process_s for one in auto),
        restart_to_compiled_s=median(compiled_s) if len(compiled_s) == _RESTARTS else None,
        restart_mode=None if warm is None else warm.mode,
    )


def start(asked: Start) -> Started:
    """Time one fresh process.

    Raises:
        InferenceError: when it ended without a forecast.
    """
    order = [json.dumps(asdict(asked)), str(time.monotonic())]  # a clock that all processes share
    child = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "forecaster.model.bench_start", *order],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise InferenceError(f"a fresh process ended with {child.returncode}: {child.stderr.strip()[-300:]}")
    return Started(**json.loads(child.stdout.splitlines()[-1]))


def simulate_bars(series: int, bars: int) -> list[Bars]:
    """Simulate hourly bars, random walks from 100 on, of which none is missing; the same at every call."""
    made: list[Bars] = []
    for i in range(series):
        rng = np.random.default_rng([i, bars])
        close_T = 100 * np.exp(rng.normal(0, 0.005, bars).cumsum())
        open_T = np.concatenate([[100.0], close_T[:-1]])
        above_T, below_T = np.exp(rng.exponential(0.002, (2, bars)))
        high_T, low_T = np.maximum(open_T, close_T) * above_T, np.minimum(open_T, close_T) / below_T
        key = SeriesKey.of("simulated", f"S{i}/USD", "1h")
        open_time = key.sessions.next_opens(key.timeframe, _FIRST_OPEN, bars)
        made.append(Bars(key, open_time, np.stack([open_T, high_T, low_T, close_T, np.ones(bars)], axis=1)))
    return made


def contexts_of(bars: Sequence[Bars]) -> list[Context]:
    """Give all the bars of each series as its context."""
    return [Context.ending_at(one, int(one.close_time[-1]), len(one), len(one)) for one in bars]


def main() -> None:
    """Do what the first argument asks for; the last line printed is what was measured."""
    asked, spawned = Start(**json.loads(sys.argv[1])), float(sys.argv[2])
    contexts = contexts_of(simulate_bars(1, asked.bars))
    settings = CompileSettings(asked.mode, asked.compiler, Path(asked.folder))
    wrapper = Chronos2OHLCWrapper.from_pretrained(
        asked.model_id, revision=asked.revision, compile=settings, device=asked.device
    )
    loaded = time.monotonic()
    wrapper.predict(contexts, HORIZON)
    first = time.monotonic()
    compiled_s = None
    while asked.until_compiled and compiled_s is None and time.monotonic() < loaded + _LONGEST_WAIT_S:
        forecast = wrapper.predict(contexts, HORIZON)[0]
        if forecast.engine == "compiled":
            compiled_s = time.monotonic() - loaded
    print(json.dumps(asdict(Started(first - spawned, first - loaded, compiled_s))))  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
