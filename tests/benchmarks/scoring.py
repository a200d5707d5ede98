"""How fast accuracy is told: from the steps of an SQLite ledger to reports and verdicts.

`python -m tests.benchmarks.scoring --out scoring.png` grows a ledger of ten series to ten million settled rows (a row
is one field of one step of one forecast; a model whose prices are calibrated, and the random walk). At each power of
ten a process of its own reads, measures and counts them all, with and without the traces that verdicts need, and tells
the time and the most memory that it took. `--close` measures one close of a thousand series instead: what a cycle
waits for.
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

from rich.progress import Progress

from forecaster.accuracy.losses import MASE_SCALE_BARS
from forecaster.accuracy.scores import Scores
from forecaster.bars import FIELDS, Bars
from forecaster.cycle.settle import newly_settled_losses
from forecaster.forecast import OHLCForecast, repair
from forecaster.ledger import LIVE, Run
from forecaster.model.chronos2.artifacts import hardware
from forecaster.store.sql import SqlStore
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast, make_provenance

if TYPE_CHECKING:
    from forecaster.bars import SeriesKey

ROOT: Final = Path(__file__).parents[2]
STEPS: Final = 24
SERIES: Final = tuple(make_key(symbol=f"COIN{i}/USDT") for i in range(10))
MANY_SERIES: Final = tuple(make_key(symbol=f"COIN{i}/USDT") for i in range(1000))
MODELS: Final = (make_provenance("nano"), make_provenance("random_walk", "1", "numpy"))
FORECASTS_AT_ONCE: Final = 2_000
# Not ru_maxrss, which begins with what the parent had.
SCORER: Final = """
import json, re, sys, time
from pathlib import Path
from forecaster.accuracy.scores import Scores
from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.trust import compute_verdict
from forecaster.cycle.settle import settled_losses
from forecaster.bars import SeriesKey
from forecaster.store import open_reader

reader, traced = open_reader(sys.argv[1]), bool(int(sys.argv[2]))
keys = [SeriesKey("binance", symbol, "1h") for symbol in sys.argv[3:]]
started = time.perf_counter()
scores, traces = Scores(), LossHistory()
for losses in settled_losses(reader, keys, 2**61):
    scores.add(losses)
    if traced:
        traces.add(losses)
reports = scores.reports()
verdicts = [compute_verdict(traces, name) for name in traces.pairs]
seconds = time.perf_counter() - started
rows = sum(one.n for one in reports if one.field != "range")
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps([rows, seconds, peak, len(reports), len(verdicts)]))
"""


def forecasts(key: SeriesKey, cutoff: int, horizon: int = STEPS) -> list[OHLCForecast]:
    """What both models say at a cutoff; the first one's prices are not those that it gave."""
    made = [
        make_forecast(key, cutoff, horizon=horizon, provenance=by, issued_at=cutoff, seed=cutoff // HOUR_MS % 50)
        for by in MODELS
    ]
    made[0] = dataclasses.replace(made[0], values_FHQ=repair(made[0].raw_FHQ * 1.0001))
    return made


def outcomes(key: SeriesKey, first: int, count: int) -> Bars:
    """Bars from one open time (UTC ms) on, each seen at its close."""
    bars = make_bars(key, count=count, start=first)
    return Bars(key, bars.open_time, bars.ohlcv_TF, bars.close_time)


def cutoffs_of(rows: int) -> int:
    """At how many cutoffs all series are forecast in so many rows."""
    return -(-rows // (len(SERIES) * len(MODELS) * STEPS * len(FIELDS)))


def compute_losses(url: str) -> list[dict[str, object]]:
    """Score all that a ledger holds, without traces and with them, each in a process of its own."""
    found: list[dict[str, object]] = []
    for traced in (False, True):
        command = [sys.executable, "-c", SCORER, url, str(int(traced)), *(key.symbol for key in SERIES)]
        told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        rows, seconds, peak, reports, verdicts = json.loads(told)
        found.append(
            {
                "rows": rows,
                "traces": traced,
                "seconds": round(seconds, 2),
                "rows_per_second": round(rows / seconds),
                "peak_mib": round(peak),
                "reports": reports,
                "verdicts": verdicts,
            }
        )
    return found


def grow(url: str, sizes: list[int]) -> list[dict[str, object]]:
    """Measure at each size, in rows."""
    found = []
    done = 0
    with closing(SqlStore(url)) as store, Progress(disable=not sys.stderr.isatty()) as progress:
        store.add_run(Run(LIVE, LIVE, CUTOFF))
        first = CUTOFF - (MASE_SCALE_BARS + 1) * HOUR_MS
        for key in SERIES:
            store.add_bars(outcomes(key, first, MASE_SCALE_BARS + 1 + cutoffs_of(max(sizes)) + STEPS))
        task = progress.add_task("cutoffs", total=cutoffs_of(max(sizes)))
        for size in sizes:
            while done < cutoffs_of(size):
                some = range(done, min(done + FORECASTS_AT_ONCE // (2 * len(SERIES)), cutoffs_of(size)))
                made = [one for i in some for key in SERIES for one in forecasts(key, CUTOFF + i * HOUR_MS)]
                store.add_forecasts(made, LIVE)
                done = some[-1] + 1
                progress.update(task, completed=done)
            for one in compute_losses(url):
                found.append(one)
                sys.stdout.write(json.dumps(one) + "\n")
                sys.stdout.flush()
    return found


def measure_close(url: str, keys: tuple[SeriesKey, ...]) -> dict[str, object]:
    """Forecast every bar of a day, and score what its last close settles: each step once, of both models."""
    close = CUTOFF + STEPS * HOUR_MS
    with closing(SqlStore(url)) as store:
        store.add_run(Run(LIVE, LIVE, CUTOFF))
        for key in keys:
            store.add_bars(outcomes(key, CUTOFF - (MASE_SCALE_BARS + 1) * HOUR_MS, MASE_SCALE_BARS + 1 + STEPS))
            owed = [(CUTOFF + i * HOUR_MS, STEPS - i) for i in range(STEPS)]
            store.add_forecasts([one for cutoff, steps in owed for one in forecasts(key, cutoff, steps)], LIVE)
        started, busy = time.perf_counter(), time.process_time()
        losses = newly_settled_losses(store, close, since=close - 1)
        measured = time.perf_counter() - started
        scores = Scores(losses)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
    return {
        "series": len(keys),
        "rows": sum(len(one.steps) for one in losses) * len(FIELDS),
        "reports": len(scores.reports()),
        "measure_seconds": round(measured, 3),
        "count_seconds": round(seconds - measured, 3),
        "seconds": round(seconds, 3),
        "cpu_seconds": round(busy, 3),
    }


def plot(found: list[dict[str, object]], out: Path) -> None:
    """Draw how time and memory grow."""
    from matplotlib.figure import Figure

    panels = {"seconds": "seconds to score all rows", "peak_mib": "most memory, MiB"}
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, 2).flat, panels.items(), strict=True):
        for traced, label in ((False, "reports"), (True, "reports and verdicts")):
            shown = [one for one in found if one["traces"] == traced]
            axes.plot([one["rows"] for one in shown], [one[name] for one in shown], "o-", label=label)
        axes.set(title=title, xscale="log", xlabel="settled rows", yscale="log" if name == "seconds" else "linear")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(out, dpi=120)


def main() -> None:
    """Score ledgers of growing size, or one close, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--out", type=Path, help="picture to write")
    parser.add_argument("--close", action="store_true", help="one close of a thousand series instead")
    plan = parser.parse_args()
    sys.stdout.write(json.dumps({"hardware": hardware("cpu")}) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.db"
        if plan.close:
            sys.stdout.write(json.dumps(measure_close(url, MANY_SERIES)) + "\n")
            return
        found = grow(url, plan.sizes)
    if plan.out is not None:
        plot(found, plan.out)


if __name__ == "__main__":
    main()
