"""What the model is worth on real bars: raw and calibrated, beside every baseline, with verdicts.

`python -m tests.benchmarks.accuracy FILE…` replays the newest cutoffs of each file, one after the other as they would
have come, and prints a table in Markdown; `--json` a line for each verdict.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.progress import Progress

from forecaster.accuracy.assess import assess
from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.scores import RAW, SERVED
from forecaster.accuracy.trust import compute_verdict, model_confidence_set
from forecaster.clock import now_ms
from forecaster.config import Config
from forecaster.cycle.settle import settled_losses
from forecaster.engine import Forecaster
from forecaster.forecast import ModelId
from forecaster.replay import run_replay
from forecaster.sources.files import FileSource
from forecaster.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from forecaster.accuracy.trust import Verdict
    from forecaster.bars import SeriesKey

BASELINES: Final = ("random_walk", "filtered_historical_simulation", "garch", "har_range")
NAMES: Final = {BASELINES[0]: "random walk", BASELINES[1]: "simulation", BASELINES[2]: "GARCH", BASELINES[3]: "HAR"}
_EVER: Final = 2**62


def replayed(path: Path, plan: argparse.Namespace, progress: Progress) -> Iterator[tuple[SeriesKey, MemoryStore, str]]:
    """Replay the newest cutoffs of each series of a file, and give the store and the run."""
    source = FileSource(path)
    for key in [series.key for series in source.infer_series()]:
        bars = source.fetch(key, None, now_ms()).bars
        model = {"context": plan.context, "horizon": plan.horizon, "compile": "off", "baselines": list(BASELINES)}
        series = {"exchange": key.exchange, "symbol": key.symbol, "timeframe": str(key.timeframe), "file": str(path)}
        config = Config.model_validate({"series": [series | {"calendar": key.calendar}], "model": model})
        forecaster = Forecaster(config, MemoryStore())
        cutoffs = bars.close_time[plan.context :][-plan.cutoffs :]
        task = progress.add_task(f"{path.stem} {key.symbol}", total=len(cutoffs))
        run = run_replay(forecaster, bars, cutoffs, on_batch=lambda n, task=task: progress.advance(task, n))
        yield key, forecaster.store, run.id


def verdicts(key: SeriesKey, store: MemoryStore, run_id: str) -> tuple[list[Verdict], dict[str, float | None], str]:
    """The model against each baseline, served and raw; its coverage by variant; the model confidence set."""
    losses = list(settled_losses(store, [key], _EVER, run_id=run_id))
    history, assessment = LossHistory(losses), assess(losses)
    ids = {model_id.name: model_id for _, model_id in history.pairs}
    nano = ids["nano"]
    made = [
        compute_verdict(history, (key, nano), variant, reference=ids[name])
        for variant in (SERVED, RAW)
        for name in BASELINES
    ]
    coverage = {variant: assessment.coverage80[key, nano, variant] for variant in (SERVED, RAW)}
    best = ", ".join(sorted(NAMES.get(ModelId(one).name, "nano") for one in model_confidence_set(history, key)))
    return made, coverage, best


def row(name: str, variant: str, made: list[Verdict], coverage: float | None, best: str) -> str:
    """A line of the table: skill against each baseline, in bold if it is significant."""
    cells = []
    for one in made:
        sure = one.p_value is not None and one.p_value < 0.05
        cells.append(f"**{one.skill:+.3f}**" if sure else f"{one.skill:+.3f}")
    label = "calibrated" if variant == SERVED else "raw"
    return f"| {name} | {label} | {made[0].n} | {' | '.join(cells)} | {coverage:.1%} | {best} |"


def main() -> None:
    """Replay the newest cutoffs of each file, and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--cutoffs", type=int, default=1000, help="of each series, the newest (1000)")
    parser.add_argument("--context", type=int, default=512, help="bars that all models see (512)")
    parser.add_argument("--horizon", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    plan = parser.parse_args()
    lines = []
    from rich.console import Console

    with Progress(console=Console(stderr=True)) as progress:
        for path in plan.files:
            for key, store, run_id in replayed(path, plan, progress):
                made, coverage, best = verdicts(key, store, run_id)
                name = f"{key.symbol} {key.timeframe}"
                if plan.json:
                    for one in made:
                        told = dataclasses.asdict(one) | {
                            "key": name,
                            "file": path.name,
                            "coverage80": coverage[one.variant],
                        }
                        sys.stdout.write(json.dumps(told) + "\n")
                        sys.stdout.flush()
                for variant in (SERVED, RAW):
                    of_form = [one for one in made if one.variant == variant]
                    lines.append(row(name, variant, of_form, coverage[variant], best if variant == SERVED else ""))
    heads = " | ".join(NAMES[name] for name in BASELINES)
    sys.stdout.write(f"| series | prices | cutoffs | {heads} | in 80 % | confidence set |\n|---|---|---|{'---|' * 6}\n")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
