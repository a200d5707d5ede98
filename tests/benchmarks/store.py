"""How fast a ledger is, and stays: durable forecasts, `latest` in a strategy's process, settling and scoring.

`python -m tests.benchmarks.store --out growth.png` grows an SQLite ledger to ten million rows (a row is one field of
one step of one forecast) and measures at each power of ten; `--postgres` measures a private PostgreSQL at the first.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from rich.progress import Progress

from forecaster.accuracy.scores import Scores
from forecaster.bars import FIELDS, Bars
from forecaster.cycle.settle import newly_settled_losses
from forecaster.ledger import LIVE, Run
from forecaster.model.chronos2.artifacts import hardware
from forecaster.store.maintenance import ledger_stats
from forecaster.store.sql import SqlStore
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast

if TYPE_CHECKING:
    from forecaster.bars import SeriesKey
    from forecaster.forecast import OHLCForecast

ROOT: Final = Path(__file__).parents[2]
SERIES: Final = 1000
STEPS: Final = 24
KEYS: Final = tuple(make_key(symbol=f"COIN{i}/USDT") for i in range(SERIES))
READER: Final = """
import json, sys, time
from forecaster.bars import SeriesKey
from forecaster.store import open_reader

reader, asked, series = open_reader(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
keys = [SeriesKey("binance", f"COIN{i * 7919 % series}/USDT", "1h") for i in range(asked)]
seconds = []
for key in keys:
    started = time.perf_counter()
    found = reader.latest(key, "nano")
    seconds.append(time.perf_counter() - started)
    assert found.horizon == 24
seconds.sort()
loaded = sorted({"torch", "sqlalchemy"} & set(sys.modules))
print(json.dumps([1000 * seconds[asked // 2], 1000 * seconds[asked * 99 // 100], loaded]))
"""


def batch(number: int) -> list[OHLCForecast]:
    """One forecast for each series; the targets of two batches do not overlap."""
    cutoff = CUTOFF + number * STEPS * HOUR_MS
    one = make_forecast(KEYS[0], cutoff, horizon=STEPS, issued_at=cutoff, seed=number)
    return [dataclasses.replace(one, key=key) for key in KEYS]


def rows_of_a_batch() -> int:
    """How many rows a batch is: fields of steps."""
    return len(KEYS) * STEPS * 4


def outcomes(key: SeriesKey, number: int) -> Bars:
    """The bars that a batch forecast."""
    bars = make_bars(key, count=STEPS, start=CUTOFF + number * STEPS * HOUR_MS)
    return Bars(key, bars.open_time, bars.ohlcv_TF, np.full(1, bars.close_time[-1]))


def measure(store: SqlStore, url: str, number: int) -> dict[str, object]:
    """Write a batch, ask for the newest forecasts, settle the batch and score it."""
    forecasts = batch(number)
    started = time.perf_counter()
    store.add_forecasts(forecasts, LIVE)
    write = time.perf_counter() - started
    bars = [outcomes(key, number) for key in KEYS]
    started = time.perf_counter()
    for one in bars:
        store.add_bars(one)
    arrive, seen = time.perf_counter() - started, int(bars[0].close_time[-1])
    started = time.perf_counter()
    losses = newly_settled_losses(store, seen, since=seen - 1)
    settle = time.perf_counter() - started
    started = time.perf_counter()
    reports = Scores(losses).reports()
    score = time.perf_counter() - started
    size = ledger_stats(url)
    rows = size.rows["forecast_step"] * 4
    found: dict[str, object] = {
        "rows": rows,
        "rows_per_second": round(rows_of_a_batch() / write),
        "bars_arrive_seconds": round(arrive, 2),
        "settled": sum(len(one.steps) for one in losses) * len(FIELDS),
        "reports": len(reports),
        "fetch_delay_seconds": round(settle, 2),
        "score_seconds": round(score, 2),
        "bytes_per_row": round(size.bytes / rows),
    }
    if url.startswith("sqlite"):
        command = [sys.executable, "-c", READER, url, "3000", str(len(KEYS))]
        told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        median, p99, loaded = json.loads(told)
        found |= {"latest_ms_p50": round(median, 3), "latest_ms_p99": round(p99, 3), "loaded": loaded}
    return found


def grow(url: str, sizes: list[int]) -> list[dict[str, object]]:
    """Measure at each size, in rows."""
    found = []
    with closing(SqlStore(url)) as store, Progress() as progress:
        store.add_run(Run(LIVE, LIVE, CUTOFF))
        task, number = progress.add_task("rows", total=max(sizes)), 0
        for size in sizes:
            while (number + 1) * rows_of_a_batch() < size:
                store.add_forecasts(batch(number), LIVE)
                number += 1
                progress.update(task, completed=number * rows_of_a_batch())
            found.append(measure(store, url, number))
            number += 1
            sys.stdout.write(json.dumps(found[-1]) + "\n")
    return found


def plot(found: list[dict[str, object]], out: Path) -> None:
    """Draw how each cost grows."""
    from matplotlib.figure import Figure

    panels = {
        "rows_per_second": "durable rows per second",
        "latest_ms_p99": "latest(), 99th percentile, ms",
        "fetch_delay_seconds": "read and measure 96,000 settled rows, s",
        "score_seconds": "count 96,000 rows, s",
    }
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        axes.plot([one["rows"] for one in found], [one[name] for one in found], "o-")
        axes.set(title=title, xscale="log", xlabel="rows in the ledger")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=120)


def main() -> None:
    """Grow a ledger, and print a line of JSON for each size."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--out", type=Path, help="picture to write")
    parser.add_argument("--postgres", action="store_true")
    plan = parser.parse_args()
    sys.stdout.write(json.dumps({"hardware": hardware("cpu")}) + "\n")
    if plan.postgres:
        from tests.postgres import Cluster

        with Cluster() as cluster:
            grow(cluster.new_database(), plan.sizes[:1])
        return
    with tempfile.TemporaryDirectory() as folder:
        found = grow(f"sqlite:///{folder}/ledger.db", plan.sizes)
    if plan.out is not None:
        plot(found, plan.out)


if __name__ == "__main__":
    main()
