"""What a cycle of each baseline costs: a thousand simulated series, one cutoff after the other.

`python -m tests.benchmarks.baselines` prints a line of JSON for each baseline: seconds of the first cycle, in which all
parameters are estimated, and the mean and largest of the following ones. `import_seconds` is what loading its library
takes, once, before the first.

Shapes: S series, C price fields, T slots.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.console import Console
from rich.progress import track

from forecaster.context import Context
from forecaster.model.baselines.garch import Garch
from forecaster.model.baselines.har import HarRange
from forecaster.model.baselines.historical_simulation import FilteredHistoricalSimulation
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.model.chronos2.artifacts import hardware
from forecaster.model.training.synthetic import simulate_ohlc
from tests.builders import HOUR_MS, make_key, utc_ms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.model import Model

START: Final = utc_ms("2024-01-01")
MODELS: Final = (RandomWalk, FilteredHistoricalSimulation, HarRange, Garch)
MOST_MISSING: Final = 0.2


def contexts_of(prices_SCT: NDArray[np.float64], length: int, cycle: int) -> list[Context]:
    """One context of each series whose last bar came, at the cutoff of this cycle."""
    end = length + cycle
    return [
        Context(make_key(symbol=f"COIN{number}/USDT"), START + end * HOUR_MS, prices_CT[:, cycle:end])
        for number, prices_CT in enumerate(prices_SCT)
        if not np.isnan(prices_CT[3, end - 1])
    ]


def load(model: Model, horizon: int) -> float:
    """Forecast a series that is in no cycle; seconds, most of which are imports."""
    prices_CT = np.ones((4, 200)) * np.linspace(1, 2, 200)
    started = time.perf_counter()
    model.predict([Context(make_key(symbol="LOAD/USDT"), START, prices_CT)], horizon)
    return time.perf_counter() - started


def measure(model: Model, prices_SCT: NDArray[np.float64], length: int, horizon: int) -> dict[str, object]:
    """Ask for one cycle after the other."""
    seconds, import_seconds, forecasts = [], load(model, horizon), 0
    cycles = range(prices_SCT.shape[2] - length + 1)
    for cycle in track(cycles, model.name, console=Console(stderr=True)):
        contexts = contexts_of(prices_SCT, length, cycle)
        started = time.perf_counter()
        forecasts += len(model.predict(contexts, horizon))
        seconds.append(time.perf_counter() - started)
    return {
        "baseline": model.name,
        "forecasts": forecasts,
        "import_seconds": round(import_seconds, 2),
        "first_cycle_seconds": round(seconds[0], 2),
        "mean_cycle_seconds": round(float(np.mean(seconds[1:])), 2),
        "longest_cycle_seconds": round(max(seconds[1:]), 2),
    }


def main() -> None:
    """Measure cycles of each baseline, and print a line of JSON for it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--context", type=int, default=512, help="slots that the baselines see")
    parser.add_argument("--horizon", type=int, default=12)
    parser.add_argument("--cycles", type=int, default=8, help="cycles after the first")
    parser.add_argument("--seed", type=int, default=0)
    plan = parser.parse_args()
    sys.stdout.write(json.dumps({"hardware": hardware("cpu"), **vars(plan)}) + "\n")
    prices_SCT = simulate_ohlc(np.random.default_rng(plan.seed), plan.series, plan.context + plan.cycles)
    prices_SCT = prices_SCT[np.isnan(prices_SCT[:, 3]).mean(axis=1) < MOST_MISSING]
    for model in MODELS:
        sys.stdout.write(json.dumps(measure(model(), prices_SCT, plan.context, plan.horizon)) + "\n")


if __name__ == "__main__":
    main()
