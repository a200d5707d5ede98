"""`model finetune` and `model info`: fine-tune a model, and describe a checkpoint."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from forecaster.cli.bars_printing import print_rejected
from forecaster.cli.options import INFERRED, FileOptions, JsonOption, open_file, with_file_options
from forecaster.cli.printing import log_to_stderr, print_record, progress_bar, say
from forecaster.errors import ConfigError, InvalidArgument, NonFiniteForecast
from forecaster.formatting import format_decimal, format_minute
from forecaster.output_files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.progress import Progress

    from forecaster.bars import Bars
    from forecaster.replay.compare import Comparison
    from forecaster.replay.evaluate import Evaluation, EvaluationPlan

REJECTED = "rejected"
REPORT = "report.json"
TRAINING_FRACTION = 0.7
MIN_BARS = 64

tuning_app = typer.Typer()


@dataclasses.dataclass(frozen=True)
class SeriesTuning:
    """One file: the training span, and the comparison on bars after all training."""

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
    """Result of a fine-tuning: whether it is accepted, where it is, and why."""

    model: str
    accepted: bool
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
    model: Annotated[str, typer.Option(help="Model to start from: nano, a folder, or hub:OWNER/NAME.")] = "nano",
    revision: Annotated[str | None, typer.Option(help="Commit of hub:OWNER/NAME.")] = None,
    mode: Annotated[
        Literal["full", "lora"],
        typer.Option(help="full: every weight. lora: low-rank additions, merged; needs the extra `lora`."),
    ] = "full",
    steps: Annotated[int, typer.Option(min=1, help="Steps of 32 windows each.")] = 500,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of the first step. Default: by mode.")
    ] = None,
    context: Annotated[int, typer.Option(min=16, max=8192, help="Bars that the model sees.")] = 256,
    horizon: Annotated[int, typer.Option(min=1, max=1024, help="Bars that it learns to forecast.")] = 8,
    train_until: Annotated[
        dt.datetime | None, typer.Option(help="Train on bars closed by then (UTC). Default: 70 % of each file.")
    ] = None,
    cutoffs: Annotated[int, typer.Option(min=10, help="Number of cutoffs for the comparison, per file.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training windows and their order.")] = 0,
    file_options: FileOptions = INFERRED,
    json_: JsonOption = False,
) -> None:
    """Fine-tune a model on your own bars, and accept it only if it is significantly better than the original.

    It trains on the older bars of each file. Then both models forecast from the same cutoffs after the last training
    bar of any file. It is accepted, in --out, if its pinball loss is lower with p < 0.05 (Diebold-Mariano); otherwise
    it is kept in --out/rejected. --out/report.json has the reason. The exit code is 0 in both cases.

    p is valid for one attempt. If you choose settings by it, test them again on later bars.
    """
    from forecaster.clock import now_ms
    from forecaster.model.training.finetune import FinetunePlan, finetune, require_empty
    from forecaster.replay.compare import compare
    from forecaster.replay.evaluate import EvaluationPlan

    log_to_stderr(verbose=False)
    plan = FinetunePlan(mode, steps, learning_rate, context=context, horizon=horizon, seed=seed)
    require_empty(out)
    histories = [_read(file, file_options, now_ms(), train_until) for file in files]
    # Series move together: no file is compared at a time that another was trained on.
    trained_until = max(int(history.older.close_time[-1]) for history in histories)
    comparing = EvaluationPlan(cutoffs, horizon, context, trained_until, min_context=min(context, MIN_BARS))
    _check_cutoffs(histories, comparing)
    with progress_bar() as progress:
        before = _evaluate((model, revision), histories, comparing, progress)
        compare(before, before)  # refuse before the training what cannot be compared after it
        on_step = _show_steps(progress, steps)
        folder = finetune(model, [history.older for history in histories], plan, out / REJECTED, on_step, revision)
        try:
            after = _evaluate((str(folder), None), histories, comparing, progress)
        except NonFiniteForecast as error:
            expected = f"a rate whose model makes finite forecasts; this one is kept in {folder}"
            raise ConfigError("--learning-rate", expected, str(error)) from error
    report = _finish(model, out, histories, before, after)
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
    """Describe a checkpoint: architecture, limits, weights, and how it was made.

    It is loaded as a server would load it. A folder that is damaged, or that cannot be served here, ends with code 2
    and the reason. `sums` says whether the files match SHA256SUMS.
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
    """The bars of a file, and the older ones for training."""

    file: Path
    bars: Bars
    older: Bars


def _read(file: Path, file_options: FileOptions, as_of: int, until: dt.datetime | None) -> _History:
    """Read a file, report its invalid rows, and separate the older bars."""
    series = open_file(file, file_options)
    if len(series) > 1:
        raise ConfigError("file", "bars of one series", ", ".join(each.inferred.key.symbol for each in series))
    rows = series[0].source.validate_rows(series[0].inferred.key, as_of)
    bars = rows.bars
    print_rejected(str(file), rows)
    if until is None:
        older = bars[: int(len(bars) * TRAINING_FRACTION)]
    else:
        older = bars.closed_by(round(until.replace(tzinfo=dt.UTC).timestamp() * 1000))
    if not len(older):
        raise ConfigError("--train-until", f"a time after some bars of {file}", until and until.isoformat())
    return _History(file, bars, older)


def _check_cutoffs(histories: Sequence[_History], plan: EvaluationPlan) -> None:
    """Refuse a file with too few cutoffs for the comparison, before the training."""
    from forecaster.replay.evaluate import choose_spread_cutoffs

    for history in histories:
        try:
            choose_spread_cutoffs(history.bars, plan)
        except InvalidArgument as error:
            expected = f"a time that leaves bars of {history.file} after the last training bar of any file"
            raise ConfigError("--train-until", expected, str(error)) from error


def _evaluate(
    model: tuple[str, str | None], histories: Sequence[_History], plan: EvaluationPlan, progress: Progress
) -> list[Evaluation]:
    """Evaluate a model, given by name and revision, on every file; cutoffs depend only on bars and plan."""
    from forecaster.config import ModelConfig
    from forecaster.model import load_model
    from forecaster.replay.evaluate import evaluate

    name, revision = model
    loaded = load_model(ModelConfig(id=name, revision=revision, compile="off"))
    task = progress.add_task(f"{name} forecasts", total=None)
    advance = partial(progress.advance, task)
    evaluations = [evaluate(loaded, history.bars, plan, advance) for history in histories]
    progress.update(task, total=sum(len(evaluation.cutoffs_N) for evaluation in evaluations))
    return evaluations


def _show_steps(progress: Progress, steps: int) -> Callable[[int, float], None]:
    """Return the callback of each step."""
    task = progress.add_task("tuning", total=steps)

    def on_step(step: int, loss: float) -> None:
        progress.update(task, completed=step + 1, description=f"tuning, loss {loss:.3f}")

    return on_step


def _finish(
    model: str,
    out: Path,
    histories: Sequence[_History],
    before: Sequence[Evaluation],
    after: Sequence[Evaluation],
) -> TuningReport:
    """Compare, move accepted weights to `out`, and report."""
    from forecaster.model.training.finetune import PUBLISHED
    from forecaster.replay.compare import compare

    comparison = compare(after, before)
    folder = out / REJECTED
    if comparison.is_better:
        for name in PUBLISHED:
            (folder / name).rename(out / name)
        folder.rmdir()
        folder = out
    return TuningReport(
        model=model,
        accepted=comparison.is_better,
        folder=str(folder),
        verdict=_verdict(model, folder, comparison),
        baselines=_compare_baselines(model, comparison),
        comparison=comparison,
        series=[_describe(*rows) for rows in zip(histories, before, after, strict=True)],
    )


def _describe(history: _History, before: Evaluation, after: Evaluation) -> SeriesTuning:
    from forecaster.replay.compare import compare

    return SeriesTuning(
        file=str(history.file),
        series=str(history.bars.key),
        calendar=history.bars.key.calendar,
        trained_bars=len(history.older),
        trained_until=format_minute(int(history.older.close_time[-1])),
        first_cutoff=format_minute(int(after.cutoffs_N[0])),
        last_cutoff=format_minute(int(after.cutoffs_N[-1])),
        comparison=compare([after], [before]),
    )


def _verdict(model: str, folder: Path, comparison: Comparison) -> str:
    """Say whether to use it, and why."""
    figures = f"pinball ratio {comparison.ratio:.3f} (p = {comparison.p_value:.2g}) at {comparison.cutoffs} cutoffs"
    if comparison.is_better:
        return f'significantly better than {model}: {figures}. Use it: set model.id = "{folder.absolute()}"'
    return f"not significantly better than {model}: {figures}. Not accepted; kept in {folder}"


def _compare_baselines(model: str, comparison: Comparison) -> str:
    """Say which model beats which baseline; one that beats none has no skill."""
    words = {(True, True): "both", (True, False): "the tuned model only", (False, True): f"{model} only"}
    sentences = []
    for name, ratio in comparison.to_baselines.items():
        original = comparison.original_to_baselines[name]
        better = (ratio is not None and ratio < 1, original is not None and original < 1)
        sentences.append(f"lower loss than {name}: {words.get(better, 'neither')}")
    return "; ".join(sentences)


def _print(report: TuningReport) -> None:
    """Print each file, then all files."""
    for tuning in report.series:
        trained = f"{tuning.trained_bars:,} bars until {tuning.trained_until}"
        compared = f"{tuning.comparison.cutoffs} cutoffs, {tuning.first_cutoff} to {tuning.last_cutoff}"
        named = {"file": tuning.file, "series": f"{tuning.series} {tuning.calendar}", "trained on": trained}
        print_record(named | {"compared at": compared} | _ratios(report.model, tuning.comparison), json_=False)
        say()
    if len(report.series) > 1:
        print_record({"all files": ""} | _ratios(report.model, report.comparison), json_=False)
    say(report.baselines)
    say(report.verdict, bold=True)


def _ratios(model: str, comparison: Comparison) -> dict[str, str]:
    """Format the ratios of pinball losses; below 1 is better."""
    rows = {f"tuned / {model}": f"{comparison.ratio:.3f} (p = {comparison.p_value:.2g})"}
    for name, ratio in comparison.to_baselines.items():
        original = comparison.original_to_baselines[name]
        rows[f"ratio to {name}"] = f"tuned {format_decimal(ratio)}, {model} {format_decimal(original)}"
    return rows
