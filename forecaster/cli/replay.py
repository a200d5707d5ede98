"""`forecaster replay`: history through the same path, scored, exported, traded on."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from forecaster.cli.options import ConfigOption, JsonOption, SeriesOption, utc_ms
from forecaster.cli.printing import log_to_stderr, print_record, print_scores, write_frames
from forecaster.cli.strategy import TradePlan, load_strategy, print_trades, trade_replay
from forecaster.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console
    from rich.progress import Progress

    from forecaster.accuracy.score import Scores
    from forecaster.bars import Bars, SeriesKey
    from forecaster.engine import Forecaster
    from forecaster.replay.decide import Rules

_SECONDS: Final = 1000
_KINDS: Final = (".parquet", ".feather", ".csv")


def replay(  # noqa: PLR0913, PLR0917 - one parameter for each option
    config: ConfigOption = None,
    series: SeriesOption = None,
    start: Annotated[str | None, typer.Option(help="First cutoff, a date (UTC).")] = None,
    end: Annotated[str | None, typer.Option(help="Last cutoff, a date (UTC), not included.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th cutoff.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Cutoffs that go through the model at once.")] = 256,
    latency: Annotated[float, typer.Option(min=0, help="Seconds from a cutoff until its forecast is there.")] = 0.0,
    known_within: Annotated[
        float | None,
        typer.Option(
            min=0, help="Bars as they were known so many seconds after each cutoff; as they are now if left out."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Forecast in so many processes by Ray; 0: in this one.")] = 0,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster, such as ray://host:10001.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the forecasts, and what came: .parquet, .feather or .csv.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Let it trade on the forecasts, such as strategies.trend.")
    ] = None,
    fee_bps: Annotated[float, typer.Option(min=0, help="Fee of a trade, in hundredths of a percent.")] = 10.0,
    slippage_bps: Annotated[float, typer.Option(min=0, help="Slippage against you, in the same.")] = 2.0,
    max_share: Annotated[float, typer.Option(help="Largest share of the equity that is held, above 0.")] = 1.0,
    long_only: Annotated[bool, typer.Option("--long-only", help="Never hold less than nothing.")] = False,
    close_after: Annotated[
        int | None, typer.Option(help="Close the position after so many bars without a forecast; kept if left out.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Page about the trades to write, .html.")] = None,
    png: Annotated[Path | None, typer.Option(help="The same as one picture, .png.")] = None,
    json_: JsonOption = False,
) -> None:
    """Forecast from every cutoff in history, thousands per batch, and score it under a run of its own.

    The same call goes on where it was when it is stopped, and adds nothing when it is repeated. Nothing that a cutoff
    sees is from after it: `forecaster verify lookahead` proves that. In the JSON, `windows` are the cutoffs of the run,
    of which `windows_added` are new, and the rate is of those.
    """
    from contextlib import nullcontext

    from rich.console import Console

    from forecaster.accuracy.score import Scores
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster
    from forecaster.export import frames
    from forecaster.ledger import Run
    from forecaster.replay.decide import Rules
    from forecaster.replay.ray import Workers
    from forecaster.replay.replay import ReplayPlan, replay_id
    from forecaster.replay.replay import replay as run_replay

    log_to_stderr(verbose=False)
    started, now = time.perf_counter(), now_ms()
    span = (utc_ms(start, 0), utc_ms(end, now))
    within = None if known_within is None else round(known_within * _SECONDS)
    if address is not None and not workers:
        raise ConfigError("--address", "--workers beside it: how many processes there", address)
    _check_files({"--out": out, "--page": page, "--png": png})
    rules = Rules(fee_bps, slippage_bps, max_share, shorting=not long_only, close_after=close_after)
    trading = _trade_plan(strategy, rules, span, page, png)
    with Forecaster.from_config(config) as forecaster:
        keys = forecaster.chosen(series)
        chosen = {key: _history(forecaster, key, (start, end), every, now) for key in keys}
        about = (start, end, every, latency, known_within, *keys)
        run = Run(replay_id(forecaster, *about), "replay", int(min(cutoffs[0] for _, cutoffs in chosen.values())))
        plan = ReplayPlan(run, batch, round(latency * _SECONDS), within)
        before = _windows(forecaster, keys, run.id)
        with (
            Workers(forecaster.config, workers, address) if workers else nullcontext() as ask,
            _progress(Console(stderr=True)) as progress,
        ):
            for key, (bars, cutoffs) in chosen.items():
                advance = _Advance(progress, str(key), len(cutoffs))
                run_replay(forecaster, bars, cutoffs, plan=plan, on_batch=advance, ask=ask)
        seconds, windows = time.perf_counter() - started, _windows(forecaster, keys, run.id)
        if not windows:
            raise ConfigError("--known-within", "bars that were there so soon", f"none within {known_within} s")
        scores = Scores(forecaster.losses(as_of=now, run_id=run.id, keys=keys))
        record = _accuracy(scores, forecaster.model_name, run.id)
        if out is not None:
            write_frames(frames(forecaster.reader, keys, run.id), out)
            record["file"] = str(out)
        traded = None if trading is None else trade_replay(forecaster, keys, run.id, trading, now)
        share = None if workers else _model_share(forecaster, seconds)
    record |= _pace(windows, windows - before, seconds) | {"model_share": share}
    if json_:
        print_record(record if traded is None else record | {"strategy": traded}, json_=True)
        return
    print_scores(scores)
    if traded is not None:
        print_trades(traded)
    print_record(record, json_=False)


def _pace(windows: int, added: int, seconds: float) -> dict[str, object]:
    """How much was done, how quickly, and in how much memory."""
    return {
        "windows": windows,
        "windows_added": added,
        "seconds": round(seconds, 2),
        "windows_per_second": round(added / seconds, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _check_files(files: Mapping[str, Path | None]) -> None:
    """Refuse files that could not be written: better now than after hours of work."""
    for option, path in files.items():
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(option, "a file in a folder that is there", str(path))
    out = files["--out"]
    if out is not None and out.suffix not in _KINDS:
        raise ConfigError("--out", f"a file that ends in {', '.join(_KINDS)}", str(out))


def _trade_plan(
    strategy: str | None, rules: Rules, span: tuple[int, int], page: Path | None, png: Path | None
) -> TradePlan | None:
    """Who trades; a slip in its name is told now as well."""
    if strategy is not None:
        load_strategy(strategy)
        return TradePlan(strategy, rules, span, page, png)
    for option, path in (("--page", page), ("--png", png)):
        if path is not None:
            raise ConfigError(option, "--strategy beside it: whose trades it shows", str(path))
    return None


def _history(
    forecaster: Forecaster, key: SeriesKey, dates: tuple[str | None, str | None], every: int, now: int
) -> tuple[Bars, NDArray[np.int64]]:
    """All bars of a series, and every n-th cutoff between two dates."""
    from forecaster.replay.replay import choose_cutoffs

    bars = forecaster.all_bars(key, now)
    span = (utc_ms(dates[0], 0), utc_ms(dates[1], now))
    cutoffs = choose_cutoffs(bars, forecaster.config.model.min_context, *span)[::every]
    if not len(cutoffs):
        raise ConfigError("--start, --end", f"a cutoff of {key} between them", f"{dates[0]} to {dates[1]}")
    return bars, cutoffs


def _windows(forecaster: Forecaster, keys: Sequence[SeriesKey], run_id: str) -> int:
    """How many cutoffs a run has forecast."""
    return sum(len(forecaster.reader.cutoffs(key, run_id)) for key in keys)


def _accuracy(scores: Scores, model_name: str, run_id: str) -> dict[str, object]:
    """What the run came to: the next close, and the distribution over all steps."""
    totals = scores.total(model_name, "close")
    return {
        "run": run_id,
        "mae_close": totals.mae,
        "skill_close": totals.skill("absolute_error"),
        "skill_crps": scores.total(model_name, step=None).skill("crps"),
        "coverage80": totals.coverage(80),
    }


class _Advance:
    """Shows how far a series has come, at what rate, and how long it will take."""

    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=total, rate="")
        self._started, self._done = time.perf_counter(), 0

    def __call__(self, count: int) -> None:
        self._done += count
        rate = self._done / max(time.perf_counter() - self._started, 1e-9)
        self._progress.update(self._task, advance=count, rate=f"{rate:,.0f}/s")


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    return Progress(*columns, TimeRemainingColumn(), console=console)


def _model_share(forecaster: Forecaster, seconds: float) -> float | None:
    """Share of the time that was spent in the model's forward pass; None for a model that does not measure it."""
    spent = getattr(forecaster.models[0], "forward_seconds", None)
    return None if spent is None else round(spent / seconds, 3)
