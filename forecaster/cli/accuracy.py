"""The commands about how good forecasts were."""

from __future__ import annotations

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forecaster.cli.options import (
    AsOfOption,
    ConfigOption,
    JsonOption,
    RunOption,
    SeriesOption,
    StoreOption,
    as_of_ms,
    check_name,
    utc_ms,
)
from forecaster.cli.printing import (
    log_to_stderr,
    print_record,
    print_reports,
    print_verdicts,
    progress_bar,
    say,
)
from forecaster.errors import ConfigError, StoreUnavailable

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping

    from rich.progress import Progress, TaskID

    from forecaster.accuracy.assess import Assessment
    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.report.content import Scope, SeriesSection
    from forecaster.accuracy.trust import Verdict
    from forecaster.bars import SeriesKey
    from forecaster.engine import Forecaster
    from forecaster.ledger import AccuracyReport
    from forecaster.store import Reader

_ROUNDING = 1e-12
_EVER = 2**62


def accuracy(  # noqa: PLR0913, PLR0917 - one parameter for each option
    config: ConfigOption = None,
    series: SeriesOption = None,
    window: Annotated[str | None, typer.Option(help="Only what settled in the last days, such as 30d.")] = None,
    as_of: AsOfOption = None,
    field: Annotated[str | None, typer.Option(help="Only open, high, low or close.")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="Only this step.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model, such as nano or random_walk.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Compare with this model, such as garch, and not with the random walk.")
    ] = None,
    detail: Annotated[bool, typer.Option("--detail", help="Every step and field, and not the verdicts alone.")] = False,
    rebuild_: Annotated[
        bool, typer.Option("--rescore", help="Score each cutoff alone as well; code 2 unless that gives the same.")
    ] = False,
    run_id: RunOption = "live",
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Say whether the forecasts help: verdicts beside the random walk, from settled rows of the ledger alone.

    `served` is what strategies got, `raw` the model's own prices before calibration, where that made a difference. Late
    forecasts do not count. Where the configuration says when the model was released, what is older, which its training
    may have seen, is told apart. A series that the rival has not forecast gets no verdict, and is named. --json has
    every metric of every series, model, step and field.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    asked = Asked(as_of_ms(as_of, now_ms()), run_id, window, field, step, model, reference, check=rebuild_)
    with Forecaster.from_config(config, store) as forecaster:
        answer = _assess(forecaster, forecaster.select(series), asked)
    if json_:
        _print_json(answer, asked)
    else:
        _print_answer(answer, asked, detail=detail)
    if (answer.difference or 0.0) > _ROUNDING:
        raise typer.Exit(2)


@dataclasses.dataclass(frozen=True)
class Asked:
    """Which scores are wanted. None, where it may stand, is all of them; `check` scores them in another way too."""

    as_of: int
    run_id: str = "live"
    window: str | None = None
    field: str | None = None
    step: int | None = None
    model: str | None = None
    reference: str | None = None
    check: bool = False

    def __post_init__(self) -> None:
        """Check what no ledger is needed for."""
        from forecaster.bars import FIELDS

        if self.field is not None:
            check_name("--field", self.field, FIELDS)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was asked for, by era: all sums, the chosen verdicts and reports. `without_rival` has no verdicts."""

    found: dict[str, Assessment]
    verdicts: dict[str, list[Verdict]]
    reports: dict[str, list[AccuracyReport]]
    without_rival: list[SeriesKey]
    difference: float | None


def _assess(forecaster: Forecaster, keys: list[SeriesKey], asked: Asked) -> Answer:
    """Score and judge what was asked for.

    Raises:
        ConfigError: for a run, a model, a rival or a step that nobody knows.
    """
    from forecaster.accuracy.assess import assess
    from forecaster.accuracy.scores import Scores
    from forecaster.client import window_start
    from forecaster.cycle.settle import rescore, with_cutoffs

    _check_models(forecaster, {"--model": asked.model, "--reference": asked.reference})
    found = {
        era: assess(
            with_cutoffs(forecaster.losses(asked.window, asked.as_of, asked.run_id, keys), *span),
            asked.field,
            asked.step,
            asked.reference,
        )
        for era, span in _eras(forecaster.config.model.released).items()
    }
    _check_step(found, asked.step, forecaster.config.model.horizon)
    difference = None
    if asked.check:
        since = window_start(asked.window, asked.as_of)
        again = rescore(forecaster.reader, keys, asked.as_of, since, asked.run_id)
        difference = Scores.combine(one.scores for one in found.values()).max_difference(again)
    chosen = {era: _choose(one, asked) for era, one in found.items()}
    return Answer(
        found,
        {era: verdicts for era, (verdicts, _) in chosen.items()},
        {era: reports for era, (_, reports) in chosen.items()},
        _without_rival(found, asked.reference),
        difference,
    )


def _check_models(forecaster: Forecaster, asked: Mapping[str, str | None]) -> None:
    """Refuse names, by option, of models that have neither forecast nor are configured."""
    there = {one.name for one in forecaster.reader.models()}
    known = {*there, forecaster.model_name, *forecaster.config.model.baselines}
    for option, name in asked.items():
        if name is not None:
            check_name(option, name, known)


def _check_step(found: dict[str, Assessment], step: int | None, horizon: int) -> None:
    """Refuse a step beyond the configured horizon that no settled forecast has."""
    last = max([horizon, *(one.step for era in found.values() for one in era.scores.reports())])
    if step is not None and step > last:
        raise ConfigError("--step", f"1 to {last}", step)


def _without_rival(found: dict[str, Assessment], reference: str | None) -> list[SeriesKey]:
    """The series on which models were judged, and the rival was not among them."""
    if reference is None:
        return []
    there = {one.key for era in found.values() for one in era.verdicts}
    return [key for key in dict.fromkeys(key for era in found.values() for key in era.model_confidence_set) if key not in there]


def _print_json(answer: Answer, asked: Asked) -> None:
    """Print every metric as one JSON object."""
    told = {
        name: [
            {**dataclasses.asdict(one), "key": str(one.key), "period": era} for era, some in by_era.items() for one in some
        ]
        for name, by_era in (("verdicts", answer.verdicts), ("reports", answer.reports))
    }
    about: dict[str, object] = {"run": asked.run_id, "as_of": asked.as_of}
    missing = [str(key) for key in answer.without_rival]
    typer.echo(json.dumps({**about, **told, "series_without_reference": missing, "rescore_difference": answer.difference}))


def _print_answer(answer: Answer, asked: Asked, *, detail: bool) -> None:
    """Print tables for people."""
    if not any(answer.reports.values()):
        whose = "nothing" if asked.model is None else f"nothing of {asked.model}"
        say(f"run {asked.run_id}: {whose} has settled yet")
        return
    for era, reports in answer.reports.items():
        if answer.verdicts[era]:
            print_verdicts(answer.verdicts[era], answer.found[era], era)
        if detail and reports:
            print_reports(reports)
    for key in answer.without_rival:
        say(f"{key}: no verdict, since no forecast of {asked.reference} has settled on it")
    if answer.difference is not None:
        size = f"{answer.difference:.1e}"
        say(f"scored again, each cutoff alone: the largest relative difference of a sum is {size}")


def _eras(released: dt.date | None) -> dict[str, tuple[int, int]]:
    """What is told apart, with its cutoffs, UTC ms: since the model's release, and before it."""
    if released is None:
        return {"all": (0, _EVER)}
    at = utc_ms(released.isoformat(), 0)
    return {"since the release": (at, _EVER), "before the release": (0, at)}


def _choose(found: Assessment, asked: Asked) -> tuple[list[Verdict], list[AccuracyReport]]:
    """What was asked for."""
    verdicts = [one for one in found.verdicts if asked.model in (None, one.model_id.name)]
    reports = [one for one in found.scores.reports() if asked.model in (None, one.model_id.name)]
    return verdicts, [one for one in reports if asked.step in (None, one.step) and asked.field in (None, one.field)]


def report(  # noqa: PLR0913, PLR0917 - one parameter for each option
    config: ConfigOption = None,
    series: SeriesOption = None,
    window: Annotated[str | None, typer.Option(help="Only what settled in the last days, such as 30d.")] = None,
    as_of: AsOfOption = None,
    model: Annotated[str | None, typer.Option(help="The model it is about; the configured one if left out.")] = None,
    out: Annotated[Path, typer.Option(help="The file to write; one that is there is replaced.")] = Path("report.html"),
    png: Annotated[Path | None, typer.Option(help="Folder for the same figures as PNGs.")] = None,
    run_id: RunOption = "live",
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Write what was forecast and what came of it as one HTML file, which needs no network.

    Per series: verdict, skill, coverage and trust; the newest forecasts over their bars; skill by step, reliability,
    coverage and skill over time, latency, the worst misses, every score. Late forecasts do not count. The page says
    how many live forecasts were there in time, and of a replay what it does not prove.
    """
    from forecaster.accuracy.report.page import write_report
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    log_to_stderr(verbose=False)
    started = time.perf_counter()
    until = as_of_ms(as_of, now_ms())
    with Forecaster.from_config(config, store) as forecaster:
        scope = _scope(forecaster, model, run_id, window, until)
        found = list(_sections(forecaster.reader, forecaster.select(series), scope))
        url = str(forecaster.config.store.url)
    if all(one.newest is None and one.evidence is None for one in found):
        raise StoreUnavailable(url, f"expected forecasts of {scope.model_name} in run {run_id!r}, found none")
    size = write_report(found, scope, out)
    pictures: list[Path] = []
    if png is not None:
        from forecaster.accuracy.report.pictures import draw_pictures

        pictures = draw_pictures(found, png)
    record = {
        "report": str(out),
        "bytes": size,
        "series": len(found),
        "settled_forecasts": sum(one.evidence.service.forecasts for one in found if one.evidence is not None),
        "pictures": [str(path) for path in pictures],
        "seconds": round(time.perf_counter() - started, 2),
    }
    print_record(record, json_=json_)


def _scope(forecaster: Forecaster, model: str | None, run_id: str, window: str | None, until: int) -> Scope:
    """What a report is about.

    Raises:
        ConfigError: for a run or a model that nobody knows.
    """
    from forecaster.accuracy.report.content import Scope
    from forecaster.client import check_run, window_start
    from forecaster.ledger import LIVE, RunId

    check_run(forecaster.reader, run_id)
    _check_models(forecaster, {"--model": model})
    recorded = RunId(run_id).recorded
    kind = next((one.kind for one in forecaster.reader.runs() if one.id == recorded), LIVE)
    return Scope(model or forecaster.model_name, run_id, until, window_start(window, until), kind)


def _sections(reader: Reader, keys: list[SeriesKey], scope: Scope) -> Iterator[SeriesSection]:
    """Gather each series under a progress bar, which follows its bars through time."""
    from forecaster.client import report_section

    with progress_bar(transient=True) as progress:
        for key in keys:
            first, last = (open_of(key, scope.run_id) or 0 for open_of in (reader.earliest_open, reader.latest_open))
            task = progress.add_task(str(key), total=max(last - first, 1))
            yield report_section(reader, key, scope, partial(_follow, progress, task, first))
            progress.update(task, completed=max(last - first, 1))


def _follow(progress: Progress, task: TaskID, first: int, losses: Losses) -> None:
    progress.update(task, completed=int(losses.steps.cutoff_N[-1]) - first)
