"""Forecasts per second beside chronos-forecasting's own pipeline: interleaved, medians, a ratio.

Both get the same contexts and horizon, and give all quantiles of four fields.
Run: `python -m tests.benchmarks.predict`.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from typing import TYPE_CHECKING

import torch
from chronos import Chronos2Pipeline

from forecaster.bars import Context
from forecaster.model.chronos2 import NANO_FOLDER, Chronos2OHLCWrapper
from tests.builders import make_bars

if TYPE_CHECKING:
    from collections.abc import Callable

CONTEXT, HORIZON, ROUNDS = 256, 8, 11


def make_context(seed: int) -> Context:
    """Make the context of one series."""
    bars = make_bars(count=CONTEXT, seed=seed)
    return Context.ending_at(bars, int(bars.close_time[-1]), CONTEXT, CONTEXT)


def seconds(call: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Print one line of JSON per batch size."""
    ours = Chronos2OHLCWrapper.from_pretrained("nano", compile="off")
    theirs = Chronos2Pipeline.from_pretrained(NANO_FOLDER)
    for series in (1, 16, 128):
        contexts = [make_context(seed) for seed in range(series)]
        inputs = [{"target": context.ohlc_CT} for context in contexts]
        calls = {
            "ours": lambda contexts=contexts: ours.predict(contexts, HORIZON),
            "theirs": lambda inputs=inputs: theirs.predict(inputs, prediction_length=HORIZON),
        }
        for call in calls.values():
            call()
        timed = [{name: seconds(call) for name, call in calls.items()} for _ in range(ROUNDS)]
        median = {name: statistics.median(one[name] for one in timed) for name in calls}
        record = {"series": series, **median, "ratio": median["theirs"] / median["ours"]}
        print(json.dumps({key: round(value, 4) for key, value in record.items()}))  # noqa: T201 - its output
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")  # noqa: T201


if __name__ == "__main__":
    main()
