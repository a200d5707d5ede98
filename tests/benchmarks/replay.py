"""How fast a replay is, beside chronos-forecasting's own ways, in turns in one run: windows a second.

`python -m tests.benchmarks.replay` forecasts the newest windows of bundled daily bars. A window is a context of 256
bars and a horizon of 8. Ours is the whole path, from bars to a ledger on disk with the model and the random walk in it,
and the model alone; upstream's are a loop of `predict_df`, and `predict` in batches of several sizes, the best of which
counts. `predict` gets the rows that our forward pass gets, reference patch included: without it the same weights make
another forecast. `predict_df` takes no slot behind the last bar, and so makes that other one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress

from forecaster.bars import FIELDS
from forecaster.clock import now_ms
from forecaster.config import Config
from forecaster.context import Context
from forecaster.engine import Forecaster
from forecaster.model.chronos2.artifacts import hardware
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.upstream import to_upstream
from forecaster.replay import run_replay
from forecaster.sources.files import FileSource
from forecaster.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from forecaster.bars import Bars

ROOT: Final = Path(__file__).parents[2]
BARS: Final = 256
HORIZON: Final = 8
LEVELS: Final = [0.01, *np.round(np.arange(0.05, 1, 0.05), 2).tolist(), 0.99]
WARM_UP_SECONDS: Final = 240
UPSTREAM_ROWS: Final = (64, 128, 256, 512, 1024)


class Contest:
    """The same windows, forecast in four ways.

    Args:
        windows: how many; the loop of `predict_df` takes a tenth of them.
        compile_: as in the configuration.
    """

    def __init__(self, windows: int, compile_: str) -> None:
        path = ROOT / "trainingdata" / "SPX_USD_1d.csv"
        source = FileSource(path)
        (key,) = [series.key for series in source.infer_series()]
        self.bars: Bars = source.fetch(key, None, now_ms()).bars
        model = {"context": BARS, "horizon": HORIZON, "compile": compile_}
        series = {"exchange": key.exchange, "symbol": key.symbol, "timeframe": "1d", "calendar": key.calendar}
        self.config = Config.model_validate({"series": [series | {"file": str(path)}], "model": model})
        self.forecaster = Forecaster(self.config)
        self.cutoffs = self.bars.close_time[-windows - HORIZON : -HORIZON]
        self.contexts = [Context.ending_at(self.bars, cutoff, BARS, BARS) for cutoff in self.cutoffs.tolist()]
        from chronos import Chronos2Pipeline  # it loads transformers

        self.upstream = Chronos2Pipeline(to_upstream(load_checkpoint("nano", None, "cpu")[0]))
        rows_of = self.forecaster.models.primary.rows_of
        rows_SCT = np.stack([rows_of(one) for one in self.contexts])
        self.rows_SCT = torch.from_numpy(rows_SCT.astype(np.float32))
        self.share: list[float] = []

    def warm_up(self, *, compiled: bool) -> None:
        """Forecast until the engine that will serve does."""
        model, give_up = self.forecaster.models.primary, time.monotonic() + WARM_UP_SECONDS
        self.model_alone()
        while compiled and model.engine != "compiled" and time.monotonic() < give_up:
            time.sleep(1)
            model.predict(self.contexts[:256], HORIZON)

    def whole_path(self) -> float:
        """Windows a second, from bars to a ledger on disk."""
        model = self.forecaster.models.primary
        with tempfile.TemporaryDirectory() as folder, closing(open_store(f"sqlite:///{folder}/ledger.db")) as store:
            own = Forecaster(self.config, store, models=self.forecaster.models)
            before, started = model.forward_seconds, time.perf_counter()
            run_replay(own, self.bars, self.cutoffs)
            seconds = time.perf_counter() - started
        self.share.append((model.forward_seconds - before) / seconds)
        return len(self.cutoffs) / seconds

    def model_alone(self) -> float:
        """Windows a second of our wrapper, forecasts only."""
        return self._rate(lambda: self.forecaster.models.primary.predict(self.contexts, HORIZON), len(self.contexts))

    def predict(self, rows: int) -> float:
        """Windows a second of upstream's `predict`, so many rows in a batch, forecasts only."""
        return self._rate(
            lambda: self.upstream.predict(self.rows_SCT, prediction_length=HORIZON, batch_size=rows), len(self.contexts)
        )

    def predict_df(self) -> float:
        """Windows a second of a loop of upstream's `predict_df`, one window at a time."""
        days = pd.date_range("2000-01-01", periods=BARS, freq="D")
        some = [
            pd.DataFrame({"item_id": "x", "timestamp": days, **dict(zip(FIELDS, one.ohlc_CT, strict=True))})
            for one in self.contexts[:: max(1, len(self.contexts) // 100)]
        ]

        def loop() -> None:
            for one in some:
                self.upstream.predict_df(
                    one, target=list(FIELDS), prediction_length=HORIZON, quantile_levels=LEVELS, context_length=BARS
                )

        return self._rate(loop, len(some))

    @staticmethod
    def _rate(call: Callable[[], object], windows: int) -> float:
        started = time.perf_counter()
        call()
        return windows / (time.perf_counter() - started)


def contest(windows: int, rounds: int, compile_: str) -> dict[str, object]:
    """Let all run in turns, and compare medians."""
    here = Contest(windows, compile_)
    ways: dict[str, Callable[[], float]] = {
        "whole_path": here.whole_path,
        "model_alone": here.model_alone,
        "predict_df_loop": here.predict_df,
        **{f"predict_{rows}": (lambda rows=rows: here.predict(rows)) for rows in UPSTREAM_ROWS},
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    here.predict(UPSTREAM_ROWS[0])
    here.warm_up(compiled=compile_ == "on")
    with Progress() as progress:
        for _ in progress.track(range(rounds), description="rounds"):
            for name, way in ways.items():
                rates[name].append(way())
    middle = {name: round(median(found), 1) for name, found in rates.items()}
    best = max(middle[f"predict_{rows}"] for rows in UPSTREAM_ROWS)
    return {
        "hardware": hardware("cpu"),
        "windows": windows,
        "rounds": rounds,
        "compile": compile_,
        "engine": here.forecaster.models.primary.engine,
        "windows_per_second": middle,
        "whole_path_over_predict_df_loop": round(middle["whole_path"] / middle["predict_df_loop"], 2),
        "model_alone_over_predict_at_its_best": round(middle["model_alone"] / best, 2),
        "whole_path_over_predict_at_its_best": round(middle["whole_path"] / best, 2),
        "model_share": round(median(here.share[1:] or here.share), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Let all run in turns, and print a record."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--windows", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", default="off", choices=["off", "auto", "on"])
    plan = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(contest(plan.windows, plan.rounds, plan.compile)) + "\n")


if __name__ == "__main__":
    main()
