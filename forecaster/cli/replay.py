"""`forecaster replay`: forecast history by the live path, score it, export it, backtest a strategy on it."""

from __future__ import annotations

import dataclasses
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from forecaster.cli.accuracy_printing import print_scores
from forecaster.cli.bars_printing import print_rejected, unused_rows
from forecaster.cli.frame_files import write_frames
from forecaster.cli.options import ConfigOption, JsonOption, SeriesOption, StoreOption, resolve_config, utc_ms
from forecaster.cli.printing import log_to_stderr, print_record, progress_bar, say
from forecaster.cli.strategy import TradePlan, load_strategy, print_trades, trade_replay
from forecaster.errors import ConfigError, StoreTaken, format_time
from forecaster.output_files import check_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.progress import Progress

    from forecaster.accuracy.scores import Scores
    from forecaster.bars import SeriesKey
    from forecaster.engine import Forecaster
    from forecaster.replay.cutoffs import ReplaySeries
    from forecaster.replay.histories import HistoryLoader
    from forecaster.replay.replay import ReplayPlan
    from forecaster.replay.strategy import TradingRules

_SECONDS: Final = 1000
_KINDS: Final = (".parquet", ".feather", ".csv")
_IN_PRICE: Final = {"mae_close"}


def replay(  # noqa: PLR0913, PLR0917 - one parameter for each option
    config: ConfigOption = None,
    series: SeriesOption = None,
    start: Annotated[
        str | None, typer.Option("--start", "--since", help="First cutoff, a date (UTC).", show_default="the first bar")
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="End of the cutoffs, a date (UTC), excluded.", show_default="now")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th cutoff.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Cutoffs per batch of the model.")] = 256,
    latency: Annotated[float, typer.Option(min=0, help="Seconds from a cutoff until its forecast is available.")] = 0.0,
    known_within: Annotated[
        float | None,
        typer.Option(min=0, help="Use the bars known so many seconds after each cutoff.", show_default="as known now"),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Number of Ray processes that forecast; 0: this process.")] = 0,
    address: Annotated[str | None, typer.Option(help="Address of a Ray cluster, such as ray://host:10001.")] = None,
    out: Annotated[Path | None, typer.Option(help="Export forecasts and actuals: .parquet, .feather or .csv.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Backtest this strategy, such as strategies.trend.")] = None,
    fee_bps: Annotated[float, typer.Option(min=0, help="Fee of a trade, in basis points.")] = 10.0,
    slippage_bps: Annotated[float, typer.Option(min=0, help="Slippage of a trade, in basis points.")] = 2.0,
    max_weight: Annotated[float, typer.Option(help="Largest position, as a fraction of the equity.")] = 1.0,
    long_only: Annotated[bool, typer.Option("--long-only", help="No short positions.")] = False,
    close_after: Annotated[
        int | None, typer.Option(help="Close the position after so many bars without a forecast.", show_default="never")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page about the backtest, .html.")] = None,
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Forecast from every cutoff in history, thousands per batch, and score the forecasts under a run of their own.

    Replays are resumable and idempotent: the run is identified by its bars, models, settings, cutoffs and code. Its
    bars and forecasts enter no live series. With --store it is recorded in another ledger, so it can run beside a
    daemon. A cutoff sees nothing from after it: `forecaster verify lookahead` tests that.

    Rejected rows of files are counted on standard error. In the JSON, `cutoffs` are those of the run, of which
    `cutoffs_added` are new; the rate is of the new ones. `left_out` counts cutoffs that could not be forecast,
    `rejected` the rejected rows of files, and `unclosed` the rows that had not closed.
    """
    from forecaster.accuracy.scores import Scores
    from forecaster.clock import now_ms
    from forecaster.config_file import load_config
    from forecaster.engine import Forecaster
    from forecaster.export import frames
    from forecaster.replay.histories import HistoryLoader
    from forecaster.replay.replay import ReplayPlan
    from forecaster.replay.strategy import TradingRules

    log_to_stderr(verbose=False)
    started, now = time.perf_counter(), now_ms()
    span = (utc_ms(start, 0), utc_ms(end, now))
    within = None if known_within is None else round(known_within * _SECONDS)
    if address is not None and not workers:
        raise ConfigError("--address", "--workers as well: the number of processes", address)
    _check_files({"--out": out, "--page": page})
    rules = TradingRules(fee_bps, slippage_bps, max_weight, shorting=not long_only, close_after=close_after)
    trading = _trade_plan(strategy, rules, span, page)
    configured = load_config(resolve_config(config))
    with Forecaster.from_config(config, store) as forecaster, HistoryLoader(configured) as histories:
        keys = forecaster.select(series)
        selected = [_choose(histories, key, (start, end), every, now) for key in keys]
        _check_span(selected, (start, end))
        known_from = None if store is None or within is None else histories.reader
        plan = ReplayPlan(None, batch, round(latency * _SECONDS), within, known_from, now)
        prepared = _prepare(forecaster, selected, plan, is_apart=store is not None)
        run_id, added = _replay(forecaster, prepared, plan, workers, address)
        keys = [each.key for each in prepared if len(each.cutoffs)]
        seconds, count = time.perf_counter() - started, _count_cutoffs(forecaster, keys, run_id)
        scores = Scores(forecaster.losses(as_of=now, run=run_id, keys=keys))
        figures = {str(key): _figures(scores, forecaster.model_name, key) for key in keys}
        record = {"run": run_id, **_joined(figures)}
        if out is not None:
            write_frames(frames(forecaster.reader, keys, run_id), out)
            record["file"] = str(out)
        backtest = None if trading is None else trade_replay(forecaster, keys, run_id, trading, now)
        share = None if workers else _model_share(forecaster, seconds)
    record |= _throughput(count, added, seconds) | {"model_share": share}
    left_out = {str(each.key): dict(each.left_out) for each in prepared if each.left_out}
    if json_:
        record |= {"series": figures, "left_out": left_out, **unused_rows(histories.from_files)}
        print_record(record if backtest is None else record | {"strategy": backtest}, json_=True)
        return
    print_scores(scores)
    if backtest is not None:
        print_trades(backtest)
    _print_left_out(left_out)
    print_record(record, json_=False)
    if len(keys) > 1:
        say("figures of several series are their means; mae_close, in price, has none")


def _replay(
    forecaster: Forecaster, prepared: Sequence[ReplaySeries], plan: ReplayPlan, workers: int, address: str | None
) -> tuple[str, int]:
    """Forecast and record, here or in workers, and show the progress; return the run and the number of new cutoffs."""
    from contextlib import nullcontext

    from forecaster.replay.ray import RayWorkers
    from forecaster.replay.replay import replay_all

    workers_or_none = RayWorkers(forecaster.config, workers, address) if workers else nullcontext()
    with workers_or_none as predictor, _progress() as progress:
        advance = _Advance(progress, {each.key: len(each.cutoffs) for each in prepared})
        run = replay_all(forecaster, prepared, plan=plan, on_batch=advance, predictor=predictor)
    return str(run.id), advance.added


def _throughput(cutoffs: int, added: int, seconds: float) -> dict[str, object]:
    """Return amounts, time, rate and memory."""
    return {
        "cutoffs": cutoffs,
        "cutoffs_added": added,
        "seconds": round(seconds, 2),
        "cutoffs_per_second": round(added / seconds, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _check_files(files: Mapping[str, Path | None]) -> None:
    """Refuse files that cannot be written, before hours of work."""
    for option, path in files.items():
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(option, "a file in an existing folder", str(path))
        if path is not None:
            check_target(path, option)
    out = files["--out"]
    if out is not None and out.suffix not in _KINDS:
        raise ConfigError("--out", f"a file that ends in {', '.join(_KINDS)}", str(out))


def _trade_plan(
    strategy: str | None, rules: TradingRules, span: tuple[int, int], page: Path | None
) -> TradePlan | None:
    """Return the strategy and its rules; an unknown strategy is refused before the work."""
    if strategy is not None:
        load_strategy(strategy)
        return TradePlan(strategy, rules, span, page)
    if page is not None:
        raise ConfigError("--page", "--strategy as well: the strategy whose trades it shows", str(page))
    return None


def _choose(
    histories: HistoryLoader, key: SeriesKey, dates: tuple[str | None, str | None], every: int, now: int
) -> ReplaySeries:
    """Load the history of a series and choose every n-th cutoff between two dates; report rejected rows of its file."""
    from forecaster.replay.cutoffs import choose_cutoffs

    bars = histories.load(key, now)
    if key in histories.from_files:
        print_rejected(str(key), histories.from_files[key])
    span = (utc_ms(dates[0], 0), utc_ms(dates[1], now))
    series = choose_cutoffs(bars, histories.config.model, *span, every)
    if len(series.cutoffs) or series.left_out:
        return series
    fewest = histories.config.model.min_context
    if len(bars) < fewest:
        why = f"{len(bars):,} bars; a forecast needs {fewest}"
    else:
        first, last = (format_time(int(bars.close_time[at])) for at in (fewest - 1, -1))
        why = f"its cutoffs are from {first} to {last}"
    return dataclasses.replace(series, left_out={why: 0})


def _check_span(chosen: Sequence[ReplaySeries], dates: tuple[str | None, str | None]) -> None:
    """Refuse a span in which no series has a cutoff.

    Raises:
        ConfigError: says why.
    """
    if not any(len(each.cutoffs) for each in chosen):
        counted = [(each.key, text, count) for each in chosen for text, count in each.left_out.items()]
        why = "; ".join(f"{key}: {f'{count} left out: ' if count else ''}{text}" for key, text, count in counted)
        span = [f" {word} {date}" for word, date in zip(("from", "before"), dates, strict=True) if date is not None]
        raise ConfigError("replay", f"a cutoff{' and'.join(span)}", why)


def _prepare(
    forecaster: Forecaster, chosen: Sequence[ReplaySeries], plan: ReplayPlan, *, is_apart: bool
) -> list[ReplaySeries]:
    """Open the ledger for writing, and look up what was known at each cutoff if the plan asks for it.

    Raises:
        StoreTaken: if another process writes it; the message names `--store`.
    """
    from forecaster.replay.replay import prepare

    try:
        _ = forecaster.store
    except StoreTaken as error:
        if not is_apart:
            error.args = (f"{error}; or add --store replays.db to record into another ledger",)
        raise
    prepared = [prepare(forecaster, each, plan) for each in chosen]
    if not any(len(each.cutoffs) for each in prepared):
        within = (plan.known_within_ms or 0) / _SECONDS
        raise ConfigError("--known-within", "bars that were known so soon", f"none within {within} s")
    return prepared


def _count_cutoffs(forecaster: Forecaster, keys: Sequence[SeriesKey], run_id: str) -> int:
    """Count the cutoffs of a run."""
    return sum(len(forecaster.reader.cutoffs(key, run_id)) for key in keys)


def _figures(scores: Scores, model_name: str, key: SeriesKey) -> dict[str, float | None]:
    """Return the figures of the run on a series: of the next close, and of the distribution over all steps.

    `skill_crps` leaves out fields that are known in advance, such as the open of a market without pauses.
    """
    close = scores.total(model_name, "close", key=key)
    return {
        "mae_close": close.mae,
        "mase_close": close.mean("scaled_error", "scaled_n"),
        "skill_close": close.skill("absolute_error"),
        "skill_crps": scores.total_unknown_fields(model_name, key).skill("crps"),
        "coverage80": close.coverage(80),
    }


def _joined(figures: Mapping[str, Mapping[str, float | None]]) -> dict[str, object]:
    """Return the means over series, each counting once; a loss in price only for a single series."""
    joined: dict[str, object] = {}
    for name in next(iter(figures.values())):
        known = [value for of_series in figures.values() if (value := of_series[name]) is not None]
        comparable = len(figures) == 1 or name not in _IN_PRICE
        joined[name] = sum(known) / len(known) if known and comparable else None
    return joined


def _print_left_out(left_out: Mapping[str, Mapping[str, int]]) -> None:
    for key, reasons in left_out.items():
        for reason, count in reasons.items():
            say(f"{key}: {f'{count} cutoffs left out: ' if count else ''}{reason}")


class _Advance:
    """Shows progress, rate and remaining time of each series; counts new cutoffs."""

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
    """Return the share of the time in the model's forward pass; None for a model that does not measure it."""
    from forecaster.model import CompilableModel

    model = forecaster.models.primary
    return round(model.forward_seconds / seconds, 3) if isinstance(model, CompilableModel) else None
