"""How long a strategy's whole history takes to be aligned with its forecasts.

`python -m tests.benchmarks.align` prints the best of three in a line of JSON, and ends with 1 when it takes a second.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from forecaster.model.chronos2.artifacts import hardware
from strategies.adapters.align import ForecastQuery, align
from tests.adapters.scene import KEY, forecast_of
from tests.builders import make_bars


def measure(count: int) -> float:
    """Seconds to align so many bars with a forecast at each; best of three, so that a busy machine does not decide."""
    bars = make_bars(KEY, count)
    made = [forecast_of(bars, i, 0, 0) for i in range(count)]
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        align(bars.frame, made, ForecastQuery(), key=KEY)
        taken.append(time.perf_counter() - started)
    return min(taken)


def main() -> None:
    """Align so many bars, and print a record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--bars", type=int, default=20_000)
    bars = parser.parse_args().bars
    seconds = measure(bars)
    sys.stdout.write(json.dumps({"bars": bars, "seconds": round(seconds, 3), "hardware": hardware("cpu")}) + "\n")
    sys.exit(seconds >= 1)


if __name__ == "__main__":
    main()
