"""The demo: the daemon itself, on embedded bars and a sped-up clock, ending in a report."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from forecaster.accuracy.report.pictures import Chart, Page, draw_charts, write_page
from forecaster.accuracy.scores import Scores
from forecaster.bars import FIELDS
from forecaster.daemon.daemon import Daemon
from forecaster.daemon.live_view import CycleView, next_closes
from forecaster.daemon.scheduler import schedules_of
from forecaster.daemon.time_source import SimulatedClock
from forecaster.errors import ConfigError
from forecaster.log import redirect_lines

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from forecaster.bars import SeriesKey
    from forecaster.cycle.run import CycleReport
    from forecaster.engine import Forecaster
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import SettledRow


@dataclass(frozen=True)
class DemoSummary:
    """What the demo did and found; `settled` counts ledger rows, the scores are of the next bar's close."""

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
    """Runs the scheduled job through a stretch of history and keeps count.

    Raises:
        ConfigError: when the configuration has no [demo].
    """

    def __init__(self, forecaster: Forecaster) -> None:
        if forecaster.config.demo is None:
            raise ConfigError("demo", "a table [demo] with the first date and the number of cycles", None)
        self._forecaster = forecaster
        self._plan = forecaster.config.demo
        self.scores = Scores()
        self._bars = self._forecasts = self._settled = 0
        self._last_reason = ""
        self._next_closes: dict[SeriesKey, list[SettledRow]] = defaultdict(list)
        horizon = forecaster.config.model.horizon
        self._recent: dict[SeriesKey, deque[OHLCForecast]] = defaultdict(lambda: deque(maxlen=horizon + 1))

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

    def write_report(self, summary: DemoSummary, picture: Path, page: Path) -> None:
        """Draw the picture and write the page around it."""
        draw_charts([self._chart(key) for key in self._recent], picture)
        write_page(self._page(summary), picture, page)

    def _count(self, report: CycleReport) -> None:
        self._bars += report.bars_added
        self._forecasts += len(report.forecasts)
        self._settled += report.settled_rows
        for losses in report.settled:
            self.scores.add(losses)
        self._last_reason = next(iter(report.skipped.values()), self._last_reason)
        for forecast in report.forecasts:
            self._recent[forecast.key].append(forecast)
        for one in next_closes(report, self._forecaster.model_name):
            self._next_closes[one.row.key].append(one)

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

    def _chart(self, key: SeriesKey) -> Chart:
        """The newest forecast whose whole horizon has come, and the next-bar forecasts so far."""
        return Chart(self._forecaster.store.bars(key), self._recent[key][0], self._next_closes[key])

    def _page(self, summary: DemoSummary) -> Page:
        model = self._forecaster.models.primary
        return Page(
            title="What was forecast, and what came",
            lead=f"{summary.cycles} bar closes of {', '.join(map(str, self._forecaster.series))}, forecast by "
            f"{model.name} as they closed on a sped-up clock, each before its outcome was known.",
            figures=[
                ("Skill, next close", _signed(summary.skill_close), "against the random walk; above 0 is better"),
                ("Inside 80 % interval", _share(summary.coverage80), "of next closes; 80 % would be exact"),
                ("Mean error, next close", f"{summary.mae_close or 0:,.2f}", "points, absolute, of the median"),
                ("Forecasts", f"{summary.forecasts:,}", f"{summary.settled:,} ledger rows met their bar"),
                ("Engine", summary.engine, summary.engine_reason),
            ],
            reports=[one for one in self.scores.reports() if one.field in FIELDS],
            notes=[
                "Point skill near zero is what honest scoring of prices shows; look at the intervals, high and low."
            ],
        )


def _midnight(date: str) -> int:
    try:
        return round(datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError as error:
        raise ConfigError("demo.start", "a date such as 2017-01-03", date) from error


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
