"""The demo: the daemon on bundled bars and a simulated clock, and the report at its end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from forecaster.accuracy.scores import Scores
from forecaster.client import report_section
from forecaster.daemon.daemon import Daemon
from forecaster.daemon.live_view import CycleView
from forecaster.daemon.scheduler import schedules_of
from forecaster.daemon.time_source import SimulatedClock
from forecaster.errors import ConfigError
from forecaster.ledger import LIVE
from forecaster.log import redirect_lines

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from forecaster.cycle.run import CycleReport
    from forecaster.engine import Forecaster


@dataclass(frozen=True)
class DemoSummary:
    """Counts and scores of the demo; `settled` counts ledger rows, the scores are of the next bar's close."""

    cycles: int
    bars: int
    forecasts: int
    settled: int
    mae_close: float | None
    skill_close: float | None
    coverage80: float | None
    engine: str
    engine_reason: str
    seconds: float


class Demo:
    """Runs the daemon through a part of history and counts.

    Raises:
        ConfigError: when the configuration has no [demo].
    """

    def __init__(self, forecaster: Forecaster) -> None:
        if forecaster.config.demo is None:
            raise ConfigError("demo", "a table [demo] with the first date and the number of cycles", None)
        self._forecaster = forecaster
        self._plan = forecaster.config.demo
        self.scores = Scores()
        self._bars = self._forecasts = self._settled = self._available_at = 0
        self._last_reason = ""

    def run(self, console: Console) -> DemoSummary:
        """Run all cycles under a live view.

        Raises:
            ConfigError: when no series could be forecast in any cycle, with the last reason.
        """
        started = time.perf_counter()
        clock = SimulatedClock(_midnight(self._plan.start), schedules_of(self._forecaster.config))
        view = CycleView(console, self._forecaster, self.scores, self._plan.cycles)
        with view, redirect_lines(view.show_line):

            def on_cycle(report: CycleReport) -> None:
                self._count(report)
                view.show(report)

            cycles = Daemon(self._forecaster, clock).run(self._plan.cycles, on_cycle)
        if not self._forecasts:
            raise ConfigError("demo", "bars to forecast from in at least one cycle", self._last_reason)
        return self._summary(cycles, time.perf_counter() - started)

    def write_report(self, path: Path) -> None:
        """Write the report, as of the last forecast: the page of `forecaster report`."""
        from forecaster.accuracy.report.content import Scope  # noqa: PLC0415 - plotly is slow to import
        from forecaster.accuracy.report.page import write_report  # noqa: PLC0415 - the same

        scope = Scope(self._forecaster.model_name, LIVE, self._available_at)
        sections = [report_section(self._forecaster.reader, key, scope) for key in self._forecaster.series]
        write_report(sections, scope, path)

    def _count(self, report: CycleReport) -> None:
        self._bars += report.bars_added
        self._forecasts += len(report.forecasts)
        self._settled += report.settled_rows
        for losses in report.settled:
            self.scores.add(losses)
        self._last_reason = next(iter(report.skipped.values()), self._last_reason)
        self._available_at = max([self._available_at, *(forecast.available_at or 0 for forecast in report.forecasts)])

    def _summary(self, cycles: int, seconds: float) -> DemoSummary:
        model = self._forecaster.models.primary
        totals = self.scores.total(model.name, "close")
        return DemoSummary(
            cycles=cycles,
            bars=self._bars,
            forecasts=self._forecasts,
            settled=self._settled,
            mae_close=totals.mae,
            skill_close=totals.skill("absolute_error"),
            coverage80=totals.coverage(80),
            engine=model.engine,
            engine_reason=model.engine_reason,
            seconds=round(seconds, 2),
        )


def _midnight(date: str) -> int:
    try:
        return round(datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise ConfigError("demo.start", "a date such as 2017-01-03", date) from error
