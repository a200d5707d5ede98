"""The commands about accuracy: verdicts and scores, and the report."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forecaster.cli.accuracy_printing import print_reports, print_verdicts
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
from forecaster.cli.printing import log_to_stderr, print_record, progress_bar, say, say_json
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
_NO_END = 2**62


def accuracy(  # noqa: PLR0913, PLR0917 - one parameter for each option
    config: ConfigOption = None,
    series: SeriesOption = None,
    window: Annotated[str | None, typer.Option(help="Only what settled in the last days, such as 30d.")] = None,
    as_of: AsOfOption = None,
    field: Annotated[str | None, typer.Option(help="Only open, high, low or close.")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="Only this step.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model, such as nano or random_walk.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="Compare with this model, such as garch. Default: the random walk.")
    ] = None,
    detail: Annotated[bool, typer.Option("--detail", help="Print every step and field as well.")] = False,
    rescore_: Annotated[
        bool, typer.Option("--rescore", help="Check the scores: compute each cutoff alone; code 2 if they differ.")
    ] = False,
    run_id: RunOption = "live",
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Compare the forecasts with the random walk: skill, significance and coverage of settled forecasts.

    `served` are the prices that strategies got, `raw` those before calibration, if calibration changed them. Late
    forecasts do not count. If the configuration has the release date of the model, forecasts from before it are listed
    separately: its training may have seen those bars. A series that the reference model has not forecast gets no
    verdict. --json has every metric of every series, model, step and field.
    """
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    query = AccuracyQuery(as_of_ms(as_of, now_ms()), run_id, window, field, step, model, reference, rescore=rescore_)
    with Forecaster.from_config(config, store) as forecaster:
        result = _compute(forecaster, forecaster.select(series), query)
    if json_:
        _print_json(result, query)
    else:
        _print_result(result, query, detail=detail)
    if (result.difference or 0.0) > _ROUNDING:
        raise typer.Exit(2)


@dataclasses.dataclass(frozen=True)
class AccuracyQuery:
    """Which scores are wanted; None means all. `rescore` checks them by another computation."""

    as_of: int
    run_id: str = "live"
    window: str | None = None
    field: str | None = None
    step: int | None = None
    model: str | None = None
    reference: str | None = None
    rescore: bool = False

    def __post_init__(self) -> None:
        """Check what needs no ledger."""
        from forecaster.bars import FIELDS

        if self.field is not None:
            check_name("--field", self.field, FIELDS)


@dataclasses.dataclass(frozen=True)
class AccuracyResult:
    """Scores by period: before and since the release of the model, or all.

    Args:
        assessments: everything.
        verdicts: those that were asked for.
        reports: those that were asked for.
        without_reference: series that the reference model has not forecast.
        difference: of `--rescore`.
        late: number of cutoffs with late forecasts, counted only when there are no reports.
    """

    assessments: dict[str, Assessment]
    verdicts: dict[str, list[Verdict]]
    reports: dict[str, list[AccuracyReport]]
    without_reference: list[SeriesKey]
    difference: float | None
    late: int = 0


def _compute(forecaster: Forecaster, keys: list[SeriesKey], query: AccuracyQuery) -> AccuracyResult:
    """Compute scores and verdicts.

    Raises:
        ConfigError: for an unknown run, model or step.
    """
    from forecaster.accuracy.assess import assess
    from forecaster.accuracy.scores import Scores
    from forecaster.client import window_start
    from forecaster.cycle.settle import rescore, with_cutoffs

    _check_models(forecaster, {"--model": query.model, "--reference": query.reference})
    assessments = {
        period: assess(
            with_cutoffs(forecaster.losses(query.window, query.as_of, query.run_id, keys), *span),
            query.field,
            query.step,
            query.reference,
        )
        for period, span in _periods(forecaster.config.model.released).items()
    }
    _check_step(assessments, query.step, forecaster.config.model.horizon)
    difference = None
    if query.rescore:
        since = window_start(query.window, query.as_of)
        again = rescore(forecaster.reader, keys, query.as_of, since, query.run_id)
        total = Scores.combine(assessment.scores for assessment in assessments.values())
        difference = total.max_difference(again)
    selected = {period: _select(assessment, query) for period, assessment in assessments.items()}
    reports_by_period = {period: reports for period, (_, reports) in selected.items()}
    return AccuracyResult(
        assessments,
        {period: verdicts for period, (verdicts, _) in selected.items()},
        reports_by_period,
        _without_reference(assessments, query.reference),
        difference,
        0 if any(reports_by_period.values()) else _count_late(forecaster, keys, query),
    )


def _count_late(forecaster: Forecaster, keys: list[SeriesKey], query: AccuracyQuery) -> int:
    """Count the cutoffs whose forecasts settled, but were issued after their target bar had closed."""
    late: set[tuple[SeriesKey, int]] = set()
    for losses in forecaster.losses(query.window, query.as_of, query.run_id, keys):
        steps = losses.steps[losses.steps.late_N]
        models = [steps.models[place] for place in steps.model_N.tolist()]
        cutoffs = zip(models, steps.cutoff_N.tolist(), strict=True)
        late |= {(steps.key, cutoff) for model, cutoff in cutoffs if query.model in (None, model.name)}
    return len(late)


def _check_models(forecaster: Forecaster, options: Mapping[str, str | None]) -> None:
    """Refuse the names, by option, of models that are neither in the ledger nor configured."""
    recorded = {model_id.name for model_id in forecaster.reader.models()}
    known = {*recorded, forecaster.model_name, *forecaster.config.model.baselines}
    for option, name in options.items():
        if name is not None:
            check_name(option, name, known)


def _check_step(assessments: dict[str, Assessment], step: int | None, horizon: int) -> None:
    """Refuse a step that is beyond the configured horizon and that of every settled forecast."""
    steps = [report.step for assessment in assessments.values() for report in assessment.scores.reports()]
    last = max([horizon, *steps])
    if step is not None and step > last:
        raise ConfigError("--step", f"1 to {last}", step)


def _without_reference(assessments: dict[str, Assessment], reference: str | None) -> list[SeriesKey]:
    """List the series that the reference model has not forecast."""
    if reference is None:
        return []
    compared = {verdict.key for assessment in assessments.values() for verdict in assessment.verdicts}
    keys = dict.fromkeys(key for assessment in assessments.values() for key in assessment.model_confidence_set)
    return [key for key in keys if key not in compared]


def _print_json(result: AccuracyResult, query: AccuracyQuery) -> None:
    """Print every metric as one JSON object."""
    tables = {
        name: [
            {**dataclasses.asdict(row), "key": str(row.key), "period": period}
            for period, rows in by_period.items()
            for row in rows
        ]
        for name, by_period in (("verdicts", result.verdicts), ("reports", result.reports))
    }
    header: dict[str, object] = {"run": query.run_id, "as_of": query.as_of}
    missing = [str(key) for key in result.without_reference]
    say_json({**header, **tables, "series_without_reference": missing, "rescore_difference": result.difference})


def _print_result(result: AccuracyResult, query: AccuracyQuery, *, detail: bool) -> None:
    """Print tables for people."""
    if not any(result.reports.values()):
        model = "" if query.model is None else f" of {query.model}"
        late = f"; {result.late:,} late ones do not count" if result.late else ""
        say(f"run {query.run_id}: no forecast{model} has settled yet{late}")
        return
    for period, reports in result.reports.items():
        if result.verdicts[period]:
            print_verdicts(result.verdicts[period], result.assessments[period], period)
        if detail and reports:
            print_reports(reports)
    for key in result.without_reference:
        say(f"{key}: no verdict: no forecast of {query.reference} has settled")
    if result.difference is not None:
        say(f"rescored, each cutoff alone: largest relative difference of a sum {result.difference:.1e}")


def _periods(released: dt.date | None) -> dict[str, tuple[int, int]]:
    """Return the periods that are listed separately, with their cutoffs (UTC ms)."""
    if released is None:
        return {"all": (0, _NO_END)}
    at = utc_ms(released.isoformat(), 0)
    return {"since the release": (at, _NO_END), "before the release": (0, at)}


def _select(assessment: Assessment, query: AccuracyQuery) -> tuple[list[Verdict], list[AccuracyReport]]:
    """Select the verdicts and reports of the query."""
    verdicts = [verdict for verdict in assessment.verdicts if query.model in (None, verdict.model_id.name)]
    reports = [
        report
        for report in assessment.scores.reports()
        if query.model in (None, report.model_id.name)
        and query.step in (None, report.step)
        and query.field in (None, report.field)
    ]
    return verdicts, reports


def report(  # noqa: PLR0913, PLR0917 - one parameter for each option
    config: ConfigOption = None,
    series: SeriesOption = None,
    window: Annotated[str | None, typer.Option(help="Only what settled in the last days, such as 30d.")] = None,
    as_of: AsOfOption = None,
    model: Annotated[str | None, typer.Option(help="The model to report on. Default: the configured one.")] = None,
    out: Annotated[Path, typer.Option(help="The file to write; an existing one is replaced.")] = Path("report.html"),
    run_id: RunOption = "live",
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Write the forecasts and their outcomes as one HTML file, which needs no network.

    Per series: verdict, skill, coverage and trust; fan charts over the bars; skill by step, reliability, coverage and
    skill over time, latency, worst misses, every score. Late forecasts do not count. The page says how many live
    forecasts were available in time, and what a replay does not prove.
    """
    from forecaster.accuracy.report.page import write_report
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    log_to_stderr(verbose=False)
    started = time.perf_counter()
    until = as_of_ms(as_of, now_ms())
    with Forecaster.from_config(config, store) as forecaster:
        scope = _scope(forecaster, model, run_id, window, until)
        sections = list(_sections(forecaster.reader, forecaster.select(series), scope))
        url = str(forecaster.config.store.url)
    if all(section.latest is None and section.evidence is None for section in sections):
        raise StoreUnavailable(url, f"expected forecasts of {scope.model_name} in run {run_id!r}, found none")
    size = write_report(sections, scope, out)
    evidence = [section.evidence for section in sections if section.evidence is not None]
    record = {
        "report": str(out),
        "bytes": size,
        "series": len(sections),
        "settled_forecasts": sum(scores.service.forecasts for scores in evidence),
        "seconds": round(time.perf_counter() - started, 2),
    }
    print_record(record, json_=json_)


def _scope(forecaster: Forecaster, model: str | None, run_id: str, window: str | None, until: int) -> Scope:
    """Return the scope of a report.

    Raises:
        ConfigError: for an unknown run or model.
    """
    from forecaster.accuracy.report.content import Scope
    from forecaster.client import check_run, window_start
    from forecaster.ledger import LIVE, RunId

    check_run(forecaster.reader, run_id)
    _check_models(forecaster, {"--model": model})
    recorded = RunId(run_id).recorded
    kind = next((run.kind for run in forecaster.reader.runs() if run.id == recorded), LIVE)
    return Scope(model or forecaster.model_name, run_id, until, window_start(window, until), kind)


def _sections(reader: Reader, keys: list[SeriesKey], scope: Scope) -> Iterator[SeriesSection]:
    """Build the section of each series under a progress bar over its bars."""
    from forecaster.client import report_section

    with progress_bar(transient=True) as progress:
        for key in keys:
            first, last = (open_of(key, scope.run_id) or 0 for open_of in (reader.earliest_open, reader.latest_open))
            task = progress.add_task(str(key), total=max(last - first, 1))
            yield report_section(reader, key, scope, partial(_follow, progress, task, first))
            progress.update(task, completed=max(last - first, 1))


def _follow(progress: Progress, task: TaskID, first: int, losses: Losses) -> None:
    progress.update(task, completed=int(losses.steps.cutoff_N[-1]) - first)
