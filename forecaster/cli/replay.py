"""`forecaster replay`: history through the same path, scored, exported, traded on."""

from __future__ import annotations

import dataclasses
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from forecaster.cli.options import ConfigOption, JsonOption, SeriesOption, StoreOption, utc_ms
from forecaster.cli.printing import (
    log_to_stderr,
    print_record,
    print_refused,
    print_scores,
    progress_bar,
    refused_of,
    say,
    write_frames,
)
from forecaster.cli.strategy import TradePlan, load_strategy, print_trades, trade_replay
from forecaster.errors import ConfigError, StoreTaken, utc_text
from forecaster.output_files import check_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.progress import Progress

    from forecaster.accuracy.scores import Scores
    from forecaster.bars import SeriesKey
    from forecaster.engine import Forecaster
    from forecaster.replay.cutoffs import Chosen
    from forecaster.replay.histories import Histories
    from forecaster.replay.replay import ReplayPlan
    from forecaster.replay.strategy import Rules

_SECONDS: Final = 1000
_KINDS: Final = (".parquet", ".feather", ".csv")
_IN_PRICE: Final = {"mae_close"}


def replay(  # noqa: PLR0913, PLR0917 - one parameter for each option
    config: ConfigOption = None,
    series: SeriesOption = None,
    start: Annotated[
        str | None, typer.Option("--start", "--since", help="First cutoff, a date (UTC), such as 2024-01-31.")
    ] = None,
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
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Forecast from every cutoff in history, thousands per batch, and score it under a run of its own.

    The run is named by its bars, models, settings, cutoffs and code: the same call goes on where it was when it is
    stopped, and adds nothing when it is repeated. Its bars and forecasts enter no live series. With --store, it is
    recorded in a ledger of its own, so it can run beside a daemon. Nothing that a cutoff sees is from after it:
    `forecaster verify lookahead` proves that.

    Rows of files that are refused are counted on standard error. In the JSON, `windows` are the cutoffs of the run, of
    which `windows_added` are new, and the rate is of those; `left_out` counts cutoffs that could not be forecast from,
    `rejected` rows of files that were refused, and `later` rows that had not closed yet.
    """
    from forecaster.accuracy.scores import Scores
    from forecaster.clock import now_ms
    from forecaster.config import default_config_path, load_config
    from forecaster.engine import Forecaster
    from forecaster.export import frames
    from forecaster.replay.histories import Histories
    from forecaster.replay.replay import ReplayPlan
    from forecaster.replay.strategy import Rules

    log_to_stderr(verbose=False)
    started, now = time.perf_counter(), now_ms()
    span = (utc_ms(start, 0), utc_ms(end, now))
    within = None if known_within is None else round(known_within * _SECONDS)
    if address is not None and not workers:
        raise ConfigError("--address", "--workers beside it: how many processes there", address)
    _check_files({"--out": out, "--page": page, "--png": png})
    rules = Rules(fee_bps, slippage_bps, max_share, shorting=not long_only, close_after=close_after)
    trading = _trade_plan(strategy, rules, span, page, png)
    configured = load_config(config or default_config_path())
    with Forecaster.from_config(config, store) as forecaster, Histories(configured) as histories:
        keys = forecaster.chosen(series)
        chosen = [_choose(histories, key, (start, end), every, now) for key in keys]
        _check_span(chosen, (start, end))
        known_from = None if store is None or within is None else histories.reader
        plan = ReplayPlan(None, batch, round(latency * _SECONDS), within, known_from, now)
        prepared = _prepare(forecaster, chosen, plan, is_apart=store is not None)
        run_id, added = _replay(forecaster, prepared, plan, workers, address)
        keys = [one.key for one in prepared if len(one.cutoffs)]
        seconds, windows = time.perf_counter() - started, _windows(forecaster, keys, run_id)
        scores = Scores(forecaster.losses(as_of=now, run_id=run_id, keys=keys))
        figures = {str(key): _figures(scores, forecaster.model_name, key) for key in keys}
        record = {"run": run_id, **_joined(figures)}
        if out is not None:
            write_frames(frames(forecaster.reader, keys, run_id), out)
            record["file"] = str(out)
        traded = None if trading is None else trade_replay(forecaster, keys, run_id, trading, now)
        share = None if workers else _model_share(forecaster, seconds)
    record |= _pace(windows, added, seconds) | {"model_share": share}
    left_out = {str(one.key): dict(one.left_out) for one in prepared if one.left_out}
    if json_:
        record |= {"series": figures, "left_out": left_out, **refused_of(histories.read)}
        print_record(record if traded is None else record | {"strategy": traded}, json_=True)
        return
    print_scores(scores)
    if traded is not None:
        print_trades(traded)
    _print_left_out(left_out)
    print_record(record, json_=False)
    if len(keys) > 1:
        say("each figure of several series is the mean of theirs; a loss in price has none")


def _replay(
    forecaster: Forecaster, prepared: Sequence[Chosen], plan: ReplayPlan, workers: int, address: str | None
) -> tuple[str, int]:
    """Forecast and record, here or in workers, and show how far it has come; gives the run and how many are new."""
    from contextlib import nullcontext

    from forecaster.replay.ray import Workers
    from forecaster.replay.replay import replay_all

    asker = Workers(forecaster.config, workers, address) if workers else nullcontext()
    with asker as ask, _progress() as progress:
        advance = _Advance(progress, {one.key: len(one.cutoffs) for one in prepared})
        run = replay_all(forecaster, prepared, plan=plan, on_batch=advance, ask=ask)
    return str(run.id), advance.added


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
        if path is not None:
            check_target(path, option)
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


def _choose(histories: Histories, key: SeriesKey, dates: tuple[str | None, str | None], every: int, now: int) -> Chosen:
    """The history of a series that has closed by now, and every n-th cutoff between two dates.

    Says what of a file was refused: before the work, not after it.
    """
    from forecaster.replay.cutoffs import choose_cutoffs

    bars = histories.of(key, now)
    if key in histories.read:
        print_refused(str(key), histories.read[key])
    span = (utc_ms(dates[0], 0), utc_ms(dates[1], now))
    chosen = choose_cutoffs(bars, histories.config.model, *span, every)
    if len(chosen.cutoffs) or chosen.left_out:
        return chosen
    fewest = histories.config.model.min_context
    if len(bars) < fewest:
        why = f"{len(bars):,} bars, of {fewest} that a forecast needs"
    else:
        first, last = (utc_text(int(bars.close_time[at])) for at in (fewest - 1, -1))
        why = f"its cutoffs are from {first} to {last}"
    return dataclasses.replace(chosen, left_out={why: 0})


def _check_span(chosen: Sequence[Chosen], dates: tuple[str | None, str | None]) -> None:
    """Refuse a span in which no series has a cutoff.

    Raises:
        ConfigError: says why.
    """
    if not any(len(one.cutoffs) for one in chosen):
        counted = [(one.key, text, count) for one in chosen for text, count in one.left_out.items()]
        why = "; ".join(f"{key}: {f'{count} left out: ' if count else ''}{text}" for key, text, count in counted)
        span = [f" {word} {date}" for word, date in zip(("from", "before"), dates, strict=True) if date is not None]
        raise ConfigError("replay", f"a cutoff{' and'.join(span)}", why)


def _prepare(forecaster: Forecaster, chosen: Sequence[Chosen], plan: ReplayPlan, *, is_apart: bool) -> list[Chosen]:
    """Open the ledger to write, and see what was known at each cutoff, where that is asked for.

    Raises:
        StoreTaken: when another process writes it; says how a replay can live apart from it.
    """
    from forecaster.replay.replay import prepare

    try:
        _ = forecaster.store
    except StoreTaken as error:
        if not is_apart:
            error.args = (f"{error}; or add --store replays.db: a replay can have a ledger of its own",)
        raise
    prepared = [prepare(forecaster, one, plan) for one in chosen]
    if not any(len(one.cutoffs) for one in prepared):
        within = (plan.known_within_ms or 0) / _SECONDS
        raise ConfigError("--known-within", "bars that were there so soon", f"none within {within} s")
    return prepared


def _windows(forecaster: Forecaster, keys: Sequence[SeriesKey], run_id: str) -> int:
    """How many cutoffs a run has forecast."""
    return sum(len(forecaster.reader.cutoffs(key, run_id)) for key in keys)


def _figures(scores: Scores, model_name: str, key: SeriesKey) -> dict[str, float | None]:
    """What the run came to on a series: the next close, and the distribution over all steps.

    `skill_crps` leaves out fields that are known in advance, such as the open of a market without pauses.
    """
    close = scores.total(model_name, "close", key=key)
    return {
        "mae_close": close.mae,
        "mase_close": close.mean("scaled_error", "scaled_n"),
        "skill_close": close.skill("absolute_error"),
        "skill_crps": scores.uncertain(model_name, key).skill("crps"),
        "coverage80": close.coverage(80),
    }


def _joined(figures: Mapping[str, Mapping[str, float | None]]) -> dict[str, object]:
    """Figures over all series: means over series, each counting once; a loss in price is told of a single one alone."""
    joined: dict[str, object] = {}
    for name in next(iter(figures.values())):
        known = [value for one in figures.values() if (value := one[name]) is not None]
        comparable = len(figures) == 1 or name not in _IN_PRICE
        joined[name] = sum(known) / len(known) if known and comparable else None
    return joined


def _print_left_out(left_out: Mapping[str, Mapping[str, int]]) -> None:
    for key, reasons in left_out.items():
        for reason, count in reasons.items():
            say(f"{key}: {f'{count} cutoffs left out: ' if count else ''}{reason}")


class _Advance:
    """Shows how far each series has come, at what rate, and how long it will take; counts cutoffs that are new."""

    def __init__(self, progress: Progress, totals: Mapping[SeriesKey, int]) -> None:
        self._progress = progress
        self._tasks = {key: progress.add_task(str(key), total=total, rate="") for key, total in totals.items()}
        self._started, self._done = time.perf_counter(), 0
        self.added = 0

    def __call__(self, key: SeriesKey, count: int, new: int) -> None:
        self._done += count
        self.added += new
        rate = self._done / max(time.perf_counter() - self._started, 1e-9)
        self._progress.update(self._tasks[key], advance=count, rate=f"{rate:,.0f}/s")


def _progress() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    return progress_bar(BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())


def _model_share(forecaster: Forecaster, seconds: float) -> float | None:
    """Share of the time that was spent in the model's forward pass; None for a model that does not measure it."""
    spent = getattr(forecaster.models[0], "forward_seconds", None)
    return None if spent is None else round(spent / seconds, 3)
