"""`model finetune` and `model info`: a model of one's own, and what any checkpoint is."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from forecaster.cli.options import FILES_AS_THEY_ARE, FileOptions, JsonOption, open_file, with_file_options
from forecaster.cli.printing import (
    log_to_stderr,
    print_record,
    print_refused,
    progress_bar,
    say,
)
from forecaster.errors import ConfigError, InvalidContext, NonFiniteForecast
from forecaster.output_files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress

    from forecaster.bars import Bars
    from forecaster.replay.compare import Comparison
    from forecaster.replay.evaluate import Evaluation, EvaluationPlan

REJECTED = "rejected"
REPORT = "report.json"
TRAINING_SHARE = 0.7
FEWEST_BARS = 64

tuning_app = typer.Typer()


@dataclasses.dataclass(frozen=True)
class SeriesTuning:
    """One file: what was trained on, and the comparison on bars behind all training."""

    file: str
    series: str
    calendar: str
    trained_bars: int
    trained_until: str
    first_cutoff: str
    last_cutoff: str
    comparison: Comparison


@dataclasses.dataclass(frozen=True)
class TuningReport:
    """What a fine-tuning came to: whether it is offered, where it lies, and why."""

    model: str
    offered: bool
    folder: str
    verdict: str
    baselines: str
    comparison: Comparison
    series: list[SeriesTuning]


@tuning_app.command("finetune")
@with_file_options
def model_finetune(  # noqa: PLR0913, PLR0917 - one parameter for each option
    files: Annotated[list[Path], typer.Argument(help="csv, Parquet, feather or json files, one series each.")],
    out: Annotated[Path, typer.Option(help="New or empty folder for the model and its report.")],
    model: Annotated[str, typer.Option(help="What to start from: nano, a folder, or hub:OWNER/NAME.")] = "nano",
    revision: Annotated[str | None, typer.Option(help="Commit of hub:OWNER/NAME.")] = None,
    mode: Annotated[
        Literal["full", "lora"],
        typer.Option(help="full: every weight. lora: low-rank additions, merged; needs the extra `lora`."),
    ] = "full",
    steps: Annotated[int, typer.Option(min=1, help="Steps of 32 windows each.")] = 500,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the first step; one that suits the mode when left out.")
    ] = None,
    context: Annotated[int, typer.Option(min=16, max=8192, help="Bars that the model sees.")] = 256,
    horizon: Annotated[int, typer.Option(min=1, max=1024, help="Bars that it learns to forecast.")] = 8,
    train_until: Annotated[
        dt.datetime | None, typer.Option(help="Train on bars closed by then (UTC); 70 % of each file when left out.")
    ] = None,
    cutoffs: Annotated[int, typer.Option(min=10, help="How many to compare at for each file.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Decides which windows are drawn, and in which order.")] = 0,
    how: FileOptions = FILES_AS_THEY_ARE,
    json_: JsonOption = False,
) -> None:
    """Fine-tune a model on your own bars, and offer it only where it is surely better than before.

    It trains on the older bars of each file. Then it and the original forecast from the same cutoffs behind the
    newest bar trained on, of whichever file, and pinball losses decide: it is offered, in --out, if it lost less
    with p below 0.05 (Diebold-Mariano); else it is kept in --out/rejected. --out/report.json says which, and why.
    Either way the code is 0.

    p holds for one try. Settings that were chosen by it have to prove themselves on bars that came later.
    """
    from forecaster.clock import now_ms
    from forecaster.model.training.finetune import FinetunePlan, finetune, require_empty
    from forecaster.replay.compare import compare
    from forecaster.replay.evaluate import EvaluationPlan

    log_to_stderr(verbose=False)
    plan = FinetunePlan(mode, steps, learning_rate, context=context, horizon=horizon, seed=seed)
    require_empty(out)
    histories = [_read(file, how, now_ms(), train_until) for file in files]
    # Markets move together: no file is compared at a time that another was trained on.
    behind = max(int(one.older.close_time[-1]) for one in histories)
    comparing = EvaluationPlan(cutoffs, horizon, context, behind, min_context=min(context, FEWEST_BARS))
    _check_cutoffs(histories, comparing)
    with progress_bar() as progress:
        before = _evaluate((model, revision), histories, comparing, progress)
        compare(before, before)  # refuses here what could not be compared after the work
        on_step = _show_steps(progress, steps)
        folder = finetune(model, [one.older for one in histories], plan, out / REJECTED, on_step, revision)
        try:
            after = _evaluate((str(folder), None), histories, comparing, progress)
        except NonFiniteForecast as error:
            expected = f"one whose model, kept in {folder}, makes finite forecasts"
            raise ConfigError("--learning-rate", expected, str(error)) from error
    report = _conclude(model, out, histories, before, after)
    write_text(json.dumps(dataclasses.asdict(report), indent=2) + "\n", out / REPORT)
    if json_:
        typer.echo(json.dumps(dataclasses.asdict(report)))
    else:
        _print(report)


@tuning_app.command("info")
def model_info(
    model: Annotated[str, typer.Argument(help="nano, or the folder of a checkpoint.")],
    json_: JsonOption = False,
) -> None:
    """Say what a checkpoint is: architecture, limits, weights, and how it was made.

    It is loaded as a server would: a folder that is damaged, or not a Chronos-2 that can be served here, ends
    with code 2 and the reason. `sums` tells whether the files are those that SHA256SUMS names.
    """
    from forecaster.model.chronos2.describe import describe

    facts = describe(model)
    record = dataclasses.asdict(facts)
    if not json_:
        levels = ", ".join(f"{level:g}" for level in facts.quantile_levels)
        record["quantile_levels"] = f"{len(facts.quantile_levels)}: {levels}"
        record |= {name: f"{record[name]:,}" for name in ("parameters", "weights_bytes")}
        record |= record.pop("made_by") or {}
    print_record(record, json_=json_)


class _History(NamedTuple):
    """The bars of a file, and the older ones to train on."""

    file: Path
    bars: Bars
    older: Bars


def _read(file: Path, how: FileOptions, as_of: int, until: dt.datetime | None) -> _History:
    """Read a file, say what was refused of it, and take the older bars apart."""
    found = open_file(file, how)
    if len(found) > 1:
        raise ConfigError("file", "bars of one series", ", ".join(one.guess.key.symbol for one in found))
    sifted = found[0].source.sift(found[0].guess.key, as_of)
    bars = sifted.bars
    print_refused(str(file), sifted)
    if until is None:
        older = bars[: int(len(bars) * TRAINING_SHARE)]
    else:
        older = bars.known_at(round(until.replace(tzinfo=dt.UTC).timestamp() * 1000))
    if not len(older):
        raise ConfigError("--train-until", f"a time behind some bars of {file}", until and until.isoformat())
    return _History(file, bars, older)


def _check_cutoffs(histories: Sequence[_History], plan: EvaluationPlan) -> None:
    """Refuse a file that leaves too little to compare at, before any work is done."""
    from forecaster.replay.evaluate import choose_spread_cutoffs

    for one in histories:
        try:
            choose_spread_cutoffs(one.bars, plan)
        except InvalidContext as error:
            expected = f"a time that leaves bars of {one.file} behind the newest trained on, of whichever file"
            raise ConfigError("--train-until", expected, str(error)) from error


def _evaluate(
    model: tuple[str, str | None], histories: Sequence[_History], plan: EvaluationPlan, progress: Progress
) -> list[Evaluation]:
    """Forecast every file with a model and its revision; cutoffs depend on bars and plan alone."""
    from forecaster.config import ModelConfig
    from forecaster.model import load_model
    from forecaster.replay.evaluate import evaluate

    name, revision = model
    loaded = load_model(ModelConfig(id=name, revision=revision, compile="off"))
    task = progress.add_task(f"{name} forecasts", total=None)
    made = [evaluate([loaded], one.bars, plan, partial(progress.advance, task)) for one in histories]
    progress.update(task, total=sum(len(one.cutoffs_N) for one in made))
    return made


def _show_steps(progress: Progress, steps: int) -> Callable[[int, float], None]:
    """What to call after each step."""
    task = progress.add_task("tuning", total=steps)

    def on_step(step: int, loss: float) -> None:
        progress.update(task, completed=step + 1, description=f"tuning, loss {loss:.3f}")

    return on_step


def _conclude(
    model: str,
    out: Path,
    histories: Sequence[_History],
    before: Sequence[Evaluation],
    after: Sequence[Evaluation],
) -> TuningReport:
    """Compare, move the weights to `out` where they win, and say why."""
    from forecaster.model.training.finetune import PUBLISHED
    from forecaster.replay.compare import compare

    found = compare(after, before)
    folder = out / REJECTED
    if found.wins:
        for name in PUBLISHED:
            (folder / name).rename(out / name)
        folder.rmdir()
        folder = out
    return TuningReport(
        model=model,
        offered=found.wins,
        folder=str(folder),
        verdict=_verdict(model, folder, found),
        baselines=_beside_baselines(model, found),
        comparison=found,
        series=[_about(*one) for one in zip(histories, before, after, strict=True)],
    )


def _about(history: _History, before: Evaluation, after: Evaluation) -> SeriesTuning:
    from forecaster.replay.compare import compare

    return SeriesTuning(
        file=str(history.file),
        series=str(history.bars.key),
        calendar=history.bars.key.calendar,
        trained_bars=len(history.older),
        trained_until=_iso(int(history.older.close_time[-1])),
        first_cutoff=_iso(int(after.cutoffs_N[0])),
        last_cutoff=_iso(int(after.cutoffs_N[-1])),
        comparison=compare([after], [before]),
    )


def _verdict(model: str, folder: Path, found: Comparison) -> str:
    """Say whether to use it, and why."""
    figures = f"pinball {found.ratio:.3f} of it (p = {found.p_value:.2g}) at {found.cutoffs} cutoffs"
    if found.wins:
        return f'better than {model}: {figures}. Use it: set model.id = "{folder.absolute()}"'
    luck = " by more than luck" if found.ratio < 1 else ""
    return f"no better than {model}{luck}: {figures}: not offered, kept in {folder}"


def _beside_baselines(model: str, found: Comparison) -> str:
    """Say which baseline has been beaten, and by whom; beaten by neither is no skill."""
    by = {(True, True): "both", (True, False): "the tuned model alone", (False, True): f"{model} alone"}
    beaten = []
    for name, ratio in found.to_baselines.items():
        other = found.original_to_baselines[name]
        winners = (ratio is not None and ratio < 1, other is not None and other < 1)
        beaten.append(f"{name} is beaten by {by.get(winners, 'neither')}")
    return "; ".join(beaten)


def _print(report: TuningReport) -> None:
    """Print each file, then what all come to."""
    for one in report.series:
        trained = f"{one.trained_bars:,} bars until {one.trained_until}"
        compared = f"{one.comparison.cutoffs} cutoffs, {one.first_cutoff} to {one.last_cutoff}"
        named = {"file": one.file, "series": f"{one.series} {one.calendar}", "trained on": trained}
        print_record(named | {"compared at": compared} | _ratios(report.model, one.comparison), json_=False)
        say()
    if len(report.series) > 1:
        print_record({"all files": ""} | _ratios(report.model, report.comparison), json_=False)
    say(report.baselines)
    say(report.verdict, bold=True)


def _ratios(model: str, found: Comparison) -> dict[str, str]:
    """Pinball losses over others, below 1 is better, under names for people."""
    rows = {f"tuned / {model}": f"{found.ratio:.3f} (p = {found.p_value:.2g})"}
    for name, ratio in found.to_baselines.items():
        other = found.original_to_baselines[name]
        rows[name] = f"tuned {_number(ratio)} of it, {model} {_number(other)}"
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _iso(time_ms: int) -> str:
    return dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M")
