"""What the report shows of one series: gathered from its losses, its newest forecast and its bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from forecaster.accuracy.report.content import Fan, Gathering, Scene, Section

if TYPE_CHECKING:
    from collections.abc import Iterable

    from forecaster.accuracy.losses import Losses
    from forecaster.accuracy.report.content import Scope
    from forecaster.accuracy.trust import Trust
    from forecaster.bars import SeriesKey
    from forecaster.store import Reader

BARS_BEFORE: Final = 40
"""Number of bars that are shown before a fan."""


def build_section(
    reader: Reader, key: SeriesKey, scope: Scope, losses: Iterable[Losses], trust: Trust | None
) -> Section:
    """Gather what the report shows of a series.

    Args:
        reader: the ledger.
        key: the series.
        scope: model, run and time.
        losses: what settled of the series.
        trust: in the live forecasts; None for a replay.
    """
    gathering = Gathering(scope.model_name)
    for portion in losses:
        gathering.add(portion)
    newest = reader.latest(key, scope.model_name, scope.run_id, scope.as_of)
    fans = {"The newest forecast whose whole horizon has settled": gathering.fan}
    fans["The newest forecast"] = None if newest is None else Fan.of(newest)
    scenes = tuple(_scene(reader, key, title, fan, scope) for title, fan in fans.items() if fan is not None)
    return Section(key, newest, trust, gathering.evidence(key), scenes)


def _scene(reader: Reader, key: SeriesKey, title: str, fan: Fan, scope: Scope) -> Scene:
    start = int(key.trading_calendar.last_opens(key.timeframe, fan.cutoff, BARS_BEFORE)[0])
    end = int(fan.target_open_H[-1]) + 1
    return Scene(title, fan, reader.bars(key, start, end, scope.as_of, scope.run_id))
