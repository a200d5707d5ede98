"""The commands about how good forecasts were."""

from __future__ import annotations

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forecaster.cli.options import ConfigOption, JsonOption, SeriesOption, utc_ms
from forecaster.cli.printing import log_to_stderr, print_record, print_reports, print_verdicts
from forecaster.errors import ConfigError, StoreUnavailable

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

    from rich.progress import Progress, TaskID

    from forecaster.accuracy.content import Scope, Section
    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.trust import Verdict
    from forecaster.assess import Assessment
    from forecaster.bars import SeriesKey
    from forecaster.ledger import AccuracyReport
    from forecaster.store import Reader

_ROUNDING = 1e-12
_EVER = 2**62


def accuracy(  # noqa: PLR0913, PLR0917 - one parameter for each option
    config: ConfigOption = None,
    series: SeriesOption = None,
    window: Annotated[str | None, typer.Option(help="Only what settled in the last days, such as 30d.")] = None,
    field: Annotated[str | None, typer.Option(help="Only open, high, low or close.")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="Only this step.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model, such as nano or random_walk.")] = None,
    rival: Annotated[
        str | None, typer.Option(help="Compare with this model, such as garch, and not with the random walk.")
    ] = None,
    detail: Annotated[bool, typer.Option("--detail", help="Every step and field, and not the verdicts alone.")] = False,
    rebuild_: Annotated[
        bool, typer.Option("--rebuild", help="Score each cutoff alone as well; code 2 unless that gives the same.")
    ] = False,
    run_id: Annotated[str, typer.Option("--run", help="Which run: `live`, or the id a replay printed.")] = "live",
    json_: JsonOption = False,
) -> None:
    """Say whether the forecasts help: verdicts beside the random walk, from settled rows of the ledger alone.

    `served` is what strategies got, `raw` the model's own prices before calibration, where that made a difference. Late
    forecasts do not count. Where the configuration says when the model was released, what is older, which its training
    may have seen, is told apart. --json has every metric of every series, model, step and field.
    """
    from forecaster.accuracy.score import Scores
    from forecaster.assess import assess, rebuild, start_of, with_cutoffs
    from forecaster.bars import FIELDS
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    if field is not None and field not in FIELDS:
        raise ConfigError("--field", f"one of {', '.join(FIELDS)}", field)
    now = now_ms()
    with Forecaster.from_config(config) as forecaster:
        keys = forecaster.chosen(series)
        found = {
            era: assess(with_cutoffs(forecaster.losses(window, now, run_id, keys), *span), field, step, rival)
            for era, span in _eras(forecaster.config.model.released).items()
        }
        difference = None
        if rebuild_:
            again = rebuild(forecaster.reader, keys, now, start_of(window, now), run_id)
            difference = Scores.together(one.scores for one in found.values()).difference(again)
    chosen = {era: _choose(one, model, field, step) for era, one in found.items()}
    if json_:
        told = {
            name: [
                {**dataclasses.asdict(one), "key": str(one.key), "era": era}
                for era, records in chosen.items()
                for one in records[i]
            ]
            for i, name in enumerate(("verdicts", "reports"))
        }
        typer.echo(json.dumps({"run": run_id, **told, "rebuilt_difference": difference}))
    elif not any(reports for _, reports in chosen.values()):
        typer.echo(f"run {run_id}: nothing has settled yet")
    else:
        for era, (verdicts, reports) in chosen.items():
            if reports:
                print_verdicts(verdicts, found[era], era)
            if detail and reports:
                print_reports(reports)
        if difference is not None:
            typer.echo(f"scored again, each cutoff alone: the largest relative difference of a sum is {difference:.1e}")
    if (difference or 0.0) > _ROUNDING:
        raise typer.Exit(2)


def _eras(released: dt.date | None) -> dict[str, tuple[int, int]]:
    """What is told apart, with its cutoffs, UTC ms: since the model's release, and before it."""
    if released is None:
        return {"all": (0, _EVER)}
    at = utc_ms(released.isoformat(), 0)
    return {"since the release": (at, _EVER), "before the release": (0, at)}


def _choose(
    found: Assessment, model: str | None, field: str | None, step: int | None
) -> tuple[list[Verdict], list[AccuracyReport]]:
    """What was asked for."""
    verdicts = [one for one in found.verdicts if model in (None, one.model_id.partition("@")[0])]
    reports = [one for one in found.scores.reports() if model in (None, one.model_id.partition("@")[0])]
    return verdicts, [one for one in reports if step in (None, one.step) and field in (None, one.field)]


def report(  # noqa: PLR0913, PLR0917 - one parameter for each option
    config: ConfigOption = None,
    series: SeriesOption = None,
    window: Annotated[str | None, typer.Option(help="Only what settled in the last days, such as 30d.")] = None,
    as_of: Annotated[
        str | None, typer.Option(help="As things stood at this time (UTC, ISO 8601); now if left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write; one that is there is replaced.")] = Path("report.html"),
    png: Annotated[Path | None, typer.Option(help="Folder for the same figures as PNGs.")] = None,
    run_id: Annotated[str, typer.Option("--run", help="Which run: `live`, or the id a replay printed.")] = "live",
    json_: JsonOption = False,
) -> None:
    """Write what was forecast and what came of it as one HTML file, which needs no network.

    Per series: verdict, skill, coverage and trust; the newest forecasts over their bars; skill by step, reliability,
    coverage and skill over time, latency, the worst misses, every score. Late forecasts do not count.
    """
    from forecaster.accuracy.content import Scope
    from forecaster.accuracy.page import write_report
    from forecaster.assess import start_of
    from forecaster.clock import now_ms
    from forecaster.engine import Forecaster

    log_to_stderr(verbose=False)
    started = time.perf_counter()
    until = utc_ms(as_of, now_ms())
    with Forecaster.from_config(config) as forecaster:
        scope = Scope(forecaster.model_name, run_id, until, start_of(window, until))
        found = list(_sections(forecaster.reader, forecaster.chosen(series), scope))
        url = forecaster.config.store.url
    if all(one.newest is None and one.evidence is None for one in found):
        raise StoreUnavailable(url, f"expected forecasts of {scope.model_name} in run {run_id!r}, found none")
    size = write_report(found, scope, out)
    pictures: list[Path] = []
    if png is not None:
        from forecaster.accuracy.report import draw_pictures

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


def _sections(reader: Reader, keys: list[SeriesKey], scope: Scope) -> Iterator[Section]:
    """Gather each series under a progress bar, which follows its bars through time."""
    from rich.console import Console
    from rich.progress import Progress

    from forecaster.assess import section

    with Progress(console=Console(stderr=True), transient=True) as progress:
        for key in keys:
            first, last = reader.oldest_open(key) or 0, reader.newest_open(key) or 0
            task = progress.add_task(str(key), total=max(last - first, 1))
            yield section(reader, key, scope, partial(_follow, progress, task, first))
            progress.update(task, completed=max(last - first, 1))


def _follow(progress: Progress, task: TaskID, first: int, losses: Losses) -> None:
    progress.update(task, completed=int(losses.steps.cutoff_N[-1]) - first)
