"""The model's own commands: train one, evaluate it, and prepare its compiled code."""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from forecaster.cli.bars_printing import print_rejected
from forecaster.cli.evaluation_printing import print_evaluation
from forecaster.cli.options import (
    INFERRED,
    ConfigOption,
    FileOptions,
    FileSeries,
    JsonOption,
    for_each_series,
    resolve_config,
    utc_ms,
    with_file_options,
)
from forecaster.cli.printing import exit_with_errors, log_to_stderr, print_record, progress_bar, say, say_json
from forecaster.cli.tuning import tuning_app
from forecaster.errors import ConfigError

if TYPE_CHECKING:
    from forecaster.config import ModelConfig

model_app = typer.Typer(no_args_is_help=True, help="Train, evaluate, fine-tune or compile a model.")
model_app.add_typer(tuning_app)


@model_app.command("train")
def model_train(
    out: Annotated[Path, typer.Option(help="Folder for weights, losses and state; training resumes from it.")],
    steps: Annotated[int, typer.Option(min=1, help="Batches; the learning rate falls after the first tenth.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of initial weights and batches.")] = 0,
) -> None:
    """Train a small Chronos-2 on simulated bars. Stopping and resuming does not change the result.

    The defaults reproduce the bundled model: 50 minutes on two cores; a GPU is used if there is one. Weights and
    loss.csv are written every 200 batches. Before the learning rate falls, --steps may be changed.
    """
    from forecaster.model.training.pretrain import TrainingPlan, train

    log_to_stderr(verbose=False)
    with progress_bar() as progress:
        task = progress.add_task("training", total=steps)

        def on_step(step: int, loss: float) -> None:
            progress.update(task, completed=step + 1, description=f"training, loss {loss:.3f}")

        train(TrainingPlan(seed=seed, steps=steps), out, on_step)
    say(f"model: {out}")


@model_app.command("eval")
@with_file_options
def model_eval(  # noqa: PLR0913, PLR0917 - one parameter for each option
    files: Annotated[list[Path], typer.Argument(help="csv, Parquet, feather or json files of bars.")],
    model: Annotated[
        str | None, typer.Option(help="nano, a folder, or hub:OWNER/NAME.", show_default="as configured, else nano")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of hub:OWNER/NAME.")] = None,
    cutoffs: Annotated[int, typer.Option(min=10, help="Cutoffs per file, evenly spaced.")] = 200,
    horizon: Annotated[int, typer.Option(min=1, max=1024, help="Bars to forecast at each cutoff.")] = 8,
    context: Annotated[
        int | None, typer.Option(min=16, max=8192, help="Bars the model sees.", show_default="as configured, else 256")
    ] = None,
    start: Annotated[str | None, typer.Option(help="First cutoff (UTC).", show_default="the first bar")] = None,
    end: Annotated[str | None, typer.Option(help="End of the cutoffs (UTC), excluded.", show_default="now")] = None,
    file_options: FileOptions = INFERRED,
    compile_: Annotated[
        Literal["auto", "on", "off"], typer.Option("--compile", help="off gives the same numbers on every run.")
    ] = "off",
    steps: Annotated[bool, typer.Option("--steps", help="Also print every field and step.")] = False,
    config: Annotated[str | None, typer.Option("--config", "-c", help="TOML file with the model.")] = None,
    json_: JsonOption = False,
) -> None:
    """Forecast at cutoffs in files of bars, and compare a model with strong baselines.

    The pinball loss, over all levels, fields and steps, is divided by that of a filtered historical simulation. The
    absolute error of the close is divided by that of the random walk. Below 1 the model is better. p is the p-value
    of the Diebold-Mariano test. The model sees --context bars, the baselines 500.

    Files and series that cannot be evaluated are named; the others are evaluated. The exit code is then 2.
    """
    from forecaster.cli.evaluation import SeriesResult, evaluate_series, report_of
    from forecaster.clock import now_ms
    from forecaster.model import load_model
    from forecaster.replay.evaluate import EvaluationPlan

    log_to_stderr(verbose=False)
    settings = _evaluated_model(config, {"id": model, "revision": revision, "context": context, "compile": compile_})
    now = now_ms()
    plan = EvaluationPlan(cutoffs, horizon, settings.context, utc_ms(start, 0), utc_ms(end, now), settings.min_context)
    loaded = load_model(settings)
    series: list[SeriesResult] = []
    with progress_bar() as progress:

        def evaluate(file_series: FileSeries) -> None:
            rows = file_series.source.validate_rows(file_series.inferred.key, now)
            print_rejected(file_series.name, rows)
            task = progress.add_task(file_series.name, total=cutoffs)
            result = evaluate_series(rows, loaded, plan, partial(progress.advance, task))
            series.append(dataclasses.replace(result, name=file_series.name))
            progress.update(task, total=result.cutoffs)

        errors = for_each_series(files, file_options, evaluate)
    report = report_of(settings.id, series, errors)
    if json_:
        say_json(dataclasses.asdict(report))
    else:
        print_evaluation(report, steps=steps)
    exit_with_errors(errors, json_=json_)


@model_app.command("compile")
def model_compile(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """Build, verify and benchmark the compiled code for a configuration now, so that the service finds it.

    One build per number of series that are forecast together without gaps, 20 to 60 s each. Existing builds are only
    verified. Exit code 2: a build failed; forecasts are then eager.
    """
    from forecaster.config_file import load_config
    from forecaster.model import load_model

    log_to_stderr(verbose=False)
    settings = load_config(resolve_config(config))
    if settings.model.compile == "off":
        raise ConfigError("model.compile", "auto or on", settings.model.compile)
    counts = Counter(series.timeframe for series in settings.series)
    calls = [(count, settings.model.context, settings.model.horizon) for count in counts.values()]
    model = load_model(settings.model)
    with progress_bar() as progress:
        task = progress.add_task("compiling", total=len(model.batch_shapes(calls)))
        model.warm_up(calls, partial(progress.advance, task))
    buckets = model.status().buckets
    if json_:
        say_json({"buckets": [dataclasses.asdict(bucket) for bucket in buckets]})
    else:
        for bucket in buckets:
            shape = f"{bucket.rows} × {bucket.bars}"
            print_record({"rows × bars": shape, bucket.engine: bucket.reason}, json_=False)
    if any(bucket.faults for bucket in buckets):
        raise typer.Exit(2)


def _evaluated_model(config: str | None, given: dict[str, str | int | None]) -> ModelConfig:
    """Return the settings of the model: those given, else those configured, else the defaults."""
    from forecaster.config import ModelConfig
    from forecaster.config_file import absolute_model_id, load_config

    base = ModelConfig() if config is None else load_config(config).model
    changes = {name: value for name, value in given.items() if value is not None}
    if isinstance(model := changes.get("id"), str):
        changes["id"] = absolute_model_id(model, Path.cwd())
    if "id" in changes and "revision" not in changes:
        base = base.model_copy(update={"revision": None})  # of another model
    context = changes.get("context", base.context)
    return ModelConfig.model_validate(base.model_dump() | {"min_context": min(base.min_context, context)} | changes)
