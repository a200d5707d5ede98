"""The live terminal view of cycles: the bar that closed, what had been forecast for it, and what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np
from rich import box
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from forecaster.errors import printable
from forecaster.forecast import interpolate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from forecaster.accuracy.scores import Scores
    from forecaster.bars import SeriesKey
    from forecaster.cycle.run import CycleReport
    from forecaster.engine import Forecaster
    from forecaster.ledger import SettledRow


class CycleView:
    """Shows each cycle as it completes; a context manager around the daemon's run.

    Args:
        console: where to show it.
        forecaster: for the newest bars and the name of the model.
        scores: grown by the caller before each `show`.
        cycles: how many cycles there will be.
    """

    def __init__(self, console: Console, forecaster: Forecaster, scores: Scores, cycles: int) -> None:
        self._forecaster = forecaster
        self._scores = scores
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("loading the model", total=cycles)
        self._live = Live(self._progress, console=console, refresh_per_second=8)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._progress.console.print()

    def show_line(self, line: str) -> None:
        """Show a line of the log above the table: whatever else writes to a terminal tears the live view."""
        self._progress.console.print(Text.from_ansi(line.rstrip("\n")), soft_wrap=True)

    def show(self, report: CycleReport) -> None:
        """Show one more cycle."""
        self._progress.update(self._task, advance=1, description=f"cycle of {_when(report.as_of)}")
        self._live.update(Group(self._table(report), self._progress))

    def _table(self, report: CycleReport) -> Table:
        table = Table(
            title="each close, what had been forecast for it, and the next",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
        )
        for name in ("series", "close", "forecast, 80 %", "next, 80 %", "skill", "in 80%"):
            table.add_column(name, justify="left" if name == "series" else "right", no_wrap=True)
        met = {one.row.key: one for one in next_closes(report, self._forecaster.model_name)}
        for forecast in report.forecasts:
            lower, upper = forecast.interval(0.8)
            close = self._forecaster.store.bars(forecast.key, start=_open_of_last(forecast.key, forecast.cutoff)).close
            table.add_row(
                Text(printable(forecast.key)),
                f"{close[-1]:,.6g}",
                _outcome(met.get(forecast.key)),
                _interval(lower[0], forecast.median()[0], upper[0]),
                *self._standing(forecast.key),
            )
        for key, reason in report.skipped.items():
            table.add_row(Text(printable(key)), Text(printable(f"skipped: {reason}"), style="yellow"))
        return table

    def _standing(self, key: SeriesKey) -> tuple[str, str]:
        """Running skill and coverage of the next close."""
        totals = self._scores.total(self._forecaster.model_name, "close", key=key)
        skill, coverage = totals.skill("absolute_error"), totals.coverage(80)
        return "–" if skill is None else f"{skill:+.2f}", "–" if coverage is None else f"{coverage:.0%}"


def next_closes(report: CycleReport, model_name: str) -> Iterator[SettledRow]:
    """The headline of what a cycle settled: the close of step 1 by the model itself, for each series."""
    for losses in report.settled:
        steps = losses.steps
        of_model = np.array([name.name == model_name for name in steps.models])
        chosen = of_model[steps.model_N] & (steps.step_N == 1) & ~steps.late_N
        yield from (one for one in steps[chosen].rows() if one.row.field == "close")


def _outcome(one: SettledRow | None) -> Text:
    """What had been forecast: green where the close came inside the interval, red where not."""
    if one is None:
        return Text("–")
    lower, middle, upper = (float(interpolate(one.row.values_Q, one.row.quantile_levels, q)) for q in (0.1, 0.5, 0.9))
    inside = lower <= one.actual <= upper
    return Text(f"{'✓' if inside else '✗'} {_interval(lower, middle, upper)}", style="green" if inside else "red")


def _interval(lower: float, middle: float, upper: float) -> str:
    return f"{middle:,.5g}\n{lower:,.5g}–{upper:,.5g}"


def _open_of_last(key: SeriesKey, cutoff: int) -> int:
    return int(key.trading_calendar.last_opens(key.timeframe, cutoff, 1)[0])


def _when(time_ms: int) -> str:
    return str(np.datetime64(time_ms, "ms").astype("datetime64[m]")).replace("T", " ") + " UTC"
