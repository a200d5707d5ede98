"""Build the section of the report for one series, from its losses, its latest forecast and its bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from forecaster.accuracy.report.content import ChartPanel, FanChart, SeriesSection
from forecaster.accuracy.report.evidence import ReportBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.report.content import Scope
    from forecaster.accuracy.trust import Trust
    from forecaster.bars import SeriesKey
    from forecaster.store import Reader

BARS_BEFORE_CUTOFF: Final = 40
"""Number of bars in a chart before the cutoff."""


def build_section(
    reader: Reader, key: SeriesKey, scope: Scope, losses: Iterable[Losses], trust: Trust | None
) -> SeriesSection:
    """Gather what the report shows of a series.

    Args:
        reader: the ledger.
        key: the series.
        scope: model, run and time.
        losses: what settled of the series, in the order of cutoffs.
        trust: in the live forecasts; None for a replay.
    """
    builder = ReportBuilder(scope.model_name)
    for portion in losses:
        builder.add(portion)
    latest = reader.latest(key, scope.model_name, scope.run_id, scope.as_of)
    fans = {
        "Latest forecast with all outcomes": builder.fan,
        "Latest forecast": None if latest is None else FanChart.from_forecast(latest),
    }
    panels = tuple(_panel(reader, key, title, fan, scope) for title, fan in fans.items() if fan is not None)
    return SeriesSection(key, latest, trust, builder.evidence(key), panels)


def _panel(reader: Reader, key: SeriesKey, title: str, fan: FanChart, scope: Scope) -> ChartPanel:
    start = int(key.trading_calendar.last_opens(key.timeframe, fan.cutoff, BARS_BEFORE_CUTOFF)[0])
    end = int(fan.target_open_H[-1]) + 1
    return ChartPanel(title, fan, reader.bars(key, start, end, scope.as_of, scope.run_id))
