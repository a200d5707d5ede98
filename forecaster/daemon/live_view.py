"""The live terminal view of cycles: each close, the earlier forecast of it, and the forecast of the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

import numpy as np
from rich import box
from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from forecaster.errors import format_time, printable
from forecaster.forecast import interpolate
from forecaster.formatting import MISSING, format_percent, format_price, format_signed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from forecaster.accuracy.scores import Scores
    from forecaster.bars import SeriesKey
    from forecaster.cycle.run import CycleReport
    from forecaster.engine import Forecaster
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import SettledRow

_FRAME_LINES: Final = 7
"""Lines beside the rows: heading, hidden series, progress, and the prompt."""
_LINES_PER_SERIES: Final = 2


class CycleView:
    """Shows each cycle when it completes; a context manager around the run of a daemon.

    Args:
        console: where to show it.
        forecaster: has the latest bars and the name of the model.
        scores: updated by the caller before each `show`.
        cycles: number of cycles to come.
    """

    def __init__(self, console: Console, forecaster: Forecaster, scores: Scores, cycles: int) -> None:
        self._console = console
        self._forecaster = forecaster
        self._scores = scores
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("first cycle", total=cycles)
        self._live = Live(self._progress, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._console.print()

    def show_line(self, line: str) -> None:
        """Show a line of the log above the view."""
        self._console.print(Text.from_ansi(line.rstrip("\n")), soft_wrap=not self._console.is_terminal)

    def show(self, report: CycleReport) -> None:
        """Show the next cycle."""
        self._progress.update(self._task, advance=1, description=format_time(report.as_of))
        self._live.update(Group(self.render(report), self._progress))

    def render(self, report: CycleReport) -> Group:
        """Return the view of a cycle: as many series as fit the height of the terminal."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("series", "close", "its forecast\nand 80%", "next forecast\nand 80%", "skill", "in 80%"):
            table.add_column(name, justify="left" if name == "series" else "right", no_wrap=name != "series")
        earlier = {row.row.key: row for row in next_closes(report, self._forecaster.model_name)}
        fitting = max((self._console.height - _FRAME_LINES) // _LINES_PER_SERIES, 1)
        for forecast in report.forecasts[:fitting]:
            table.add_row(*self._cells(forecast, earlier.get(forecast.key)))
        skipped = [
            Text(printable(f"{key} skipped: {reason}"), style="yellow")
            for key, reason in list(report.skipped.items())[: max(fitting - len(report.forecasts), 0)]
        ]
        hidden = len(report.forecasts) + len(report.skipped) - min(fitting, len(report.forecasts)) - len(skipped)
        more = [Text(f"and {hidden:,} more series")] if hidden else []
        return Group(*([table] if report.forecasts else []), *skipped, *more)

    def _cells(self, forecast: OHLCForecast, earlier: SettledRow | None) -> tuple[Text, ...]:
        key = forecast.key
        last_open = int(key.trading_calendar.last_opens(key.timeframe, forecast.cutoff, 1)[0])
        close = float(self._forecaster.store.bars(key, start=last_open).close[-1])
        lower, upper = forecast.interval(0.8)
        totals = self._scores.total(self._forecaster.model_name, "close", key=key)
        return (
            _series(key),
            Text(format_price(close)),
            _outcome(earlier),
            Text(_interval(lower[0], forecast.median()[0], upper[0])),
            Text(format_signed(totals.skill("absolute_error"))),
            Text(format_percent(totals.coverage(80))),
        )


def next_closes(report: CycleReport, model_name: str) -> Iterator[SettledRow]:
    """Yield the settled closes of step 1 of a model in a cycle."""
    for losses in report.settled:
        steps = losses.steps
        is_model = np.array([model_id.name == model_name for model_id in steps.models])
        chosen = is_model[steps.model_N] & (steps.step_N == 1) & ~steps.late_N
        yield from (row for row in steps[chosen].rows() if row.row.field == "close")


def _series(key: SeriesKey) -> Text:
    """Return the name of a series in two lines."""
    return Text(f"{printable(key.exchange)}\n{printable(f'{key.symbol} {key.timeframe}')}")


def _outcome(row: SettledRow | None) -> Text:
    """Return the earlier forecast: green if the close is inside its interval, else red."""
    if row is None:
        return Text(MISSING)
    lower, median, upper = (float(interpolate(row.row.values_Q, row.row.quantile_levels, q)) for q in (0.1, 0.5, 0.9))
    is_inside = lower <= row.actual <= upper
    return Text(f"{'✓' if is_inside else '✗'} {_interval(lower, median, upper)}", style="green" if is_inside else "red")


def _interval(lower: float, median: float, upper: float) -> str:
    return f"{format_price(median, upper)}\n{format_price(lower, upper)}–{format_price(upper, upper)}"
