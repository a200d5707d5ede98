"""The model's own commands: train one, evaluate it, and prepare its compiled code."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
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
    with_file_options,
)
from forecaster.cli.printing import exit_with_errors, log_to_stderr, print_record, progress_bar, say
from forecaster.cli.tuning import tuning_app
from forecaster.errors import ConfigError

if TYPE_CHECKING:
    from forecaster.config import ModelConfig

model_app = typer.Typer(no_args_is_help=True, help="Train a model; evaluate it; prepare its compiled code.")
model_app.add_typer(tuning_app)


@model_app.command("train")
def model_train(
    out: Annotated[Path, typer.Option(help="Folder for weights, losses and state; resumed when it holds some.")],
    steps: Annotated[int, typer.Option(min=1, help="Batches; the learning rate falls after the first tenth.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Decides initial weights and every batch.")] = 0,
) -> None:
    """Train a small Chronos-2 on simulated bars; stop and resume at will, the result is the same.

    The defaults train the bundled model again: 50 minutes on two cores, on a GPU where there is one.
    Weights and loss.csv are written every 200 batches. Until the learning rate falls, --steps may change.
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
        str | None, typer.Option(help="nano, a folder, or hub:OWNER/NAME; the configured one, nano by default.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of hub:OWNER/NAME.")] = None,
    cutoffs: Annotated[int, typer.Option(min=10, help="How many for each file, spread evenly over it.")] = 200,
    horizon: Annotated[int, typer.Option(min=1, max=1024, help="Bars to forecast from each.")] = 8,
    context: Annotated[
        int | None, typer.Option(min=16, max=8192, help="Bars the model sees; the configured number, 256 by default.")
    ] = None,
    start: Annotated[dt.datetime | None, typer.Option(help="First cutoff (UTC).")] = None,
    end: Annotated[dt.datetime | None, typer.Option(help="Last cutoff (UTC), not included.")] = None,
    how: FileOptions = INFERRED,
    compile_: Annotated[
        Literal["auto", "on", "off"], typer.Option("--compile", help="off: the same numbers on every run.")
    ] = "off",
    steps: Annotated[bool, typer.Option("--steps", help="Print every field and step too.")] = False,
    config: ConfigOption = None,
    json_: JsonOption = False,
) -> None:
    """Forecast from cutoffs spread over files of bars, and score a model beside baselines that are hard to beat.

    Pinball loss, over all levels, fields and steps, is divided by that of a filtered historical simulation, the
    close's absolute error by the random walk's: below 1 the model is better. p says how likely so large a
    difference is by luck alone (Diebold-Mariano). The model sees --context bars, the baselines 500.

    A file, or one series of it, that cannot be evaluated is named, the others are evaluated, and the code is 2.
    """
    from forecaster.cli.evaluation import SeriesResult, evaluate_series, report_of
    from forecaster.clock import now_ms
    from forecaster.model import load_model
    from forecaster.replay.evaluate import EvaluationPlan

    log_to_stderr(verbose=False)
    settings = _to_evaluate(config, {"id": model, "revision": revision, "context": context, "compile": compile_})
    now = now_ms()
    plan = EvaluationPlan(
        cutoffs, horizon, settings.context, _utc_ms(start, 0), _utc_ms(end, now), settings.min_context
    )
    loaded = load_model(settings)
    series: list[SeriesResult] = []
    with progress_bar() as progress:

        def evaluate_one(one: FileSeries) -> None:
            sifted = one.source.validate_rows(one.inferred.key, now)
            print_rejected(one.name, sifted)
            task = progress.add_task(one.name, total=cutoffs)
            result = evaluate_series(sifted, loaded, plan, partial(progress.advance, task))
            series.append(dataclasses.replace(result, name=one.name))
            progress.update(task, total=result.cutoffs)

        errors = for_each_series(files, how, evaluate_one)
    report = report_of(settings.id, series, errors)
    if json_:
        typer.echo(json.dumps(dataclasses.asdict(report)))
    else:
        print_evaluation(report, steps=steps)
    exit_with_errors(errors, json_=json_)


@model_app.command("compile")
def model_compile(config: ConfigOption = None, json_: JsonOption = False) -> None:
    """Build, check and time compiled code for a configuration's series now, so that the daemon finds it.

    One piece for each number of series that are forecast together, as long as none has gaps; 20 to 60 s each.
    What is kept already is only checked. Code 2 when a piece failed; forecasts are then eager, and nothing is lost.
    """
    from forecaster.config_file import default_config_path, load_config
    from forecaster.model import load_model

    log_to_stderr(verbose=False)
    settings = load_config(config or default_config_path())
    if settings.model.compile == "off":
        raise ConfigError("model.compile", "auto or on, to compile at all", settings.model.compile)
    counts = Counter(one.timeframe for one in settings.series)
    calls = [(series, settings.model.context, settings.model.horizon) for series in counts.values()]
    model = load_model(settings.model)
    with progress_bar() as progress:
        task = progress.add_task("compiling", total=len(model.batch_shapes(calls)))
        model.warm_up(calls, partial(progress.advance, task))
    buckets = model.status().buckets
    if json_:
        typer.echo(json.dumps({"buckets": [dataclasses.asdict(one) for one in buckets]}))
    else:
        for one in buckets:
            print_record({"rows × bars": f"{one.rows} × {one.bars}", one.engine: one.reason}, json_=False)
    if any(one.faults for one in buckets):
        raise typer.Exit(2)


def _to_evaluate(config: str | None, given: dict[str, str | int | None]) -> ModelConfig:
    """The model to evaluate: what is given, else what the configuration says, else the defaults."""
    from forecaster.config import ModelConfig
    from forecaster.config_file import absolute_model_id, load_config

    base = ModelConfig() if config is None else load_config(config).model
    changes = {name: value for name, value in given.items() if value is not None}
    if isinstance(model := changes.get("id"), str):
        changes["id"] = absolute_model_id(model, Path.cwd())
    if "id" in changes and "revision" not in changes:
        base = base.model_copy(update={"revision": None})  # it was another model's
    context = changes.get("context", base.context)
    return ModelConfig.model_validate(base.model_dump() | {"min_context": min(base.min_context, context)} | changes)


def _utc_ms(when: dt.datetime | None, default: int) -> int:
    return default if when is None else round(when.replace(tzinfo=dt.UTC).timestamp() * 1000)
