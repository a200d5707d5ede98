"""Which bars of an answer are final, and which still form or have not opened.

A closed bar may be served as it was before its close. The clock may have been set, or the answer may come from a
replica or a cache that is seconds old. So the answer itself must show that the bar is final.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from forecaster.bars import NO_TIME, RejectedRow
from forecaster.sources import Fetched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from forecaster.bars import SeriesKey
    from forecaster.sources.exchange.guard import Row

_FINAL_FLAGS: Final[dict[str, tuple[int, Mapping[object, bool]]]] = {
    "gate": (7, {"true": True, "false": False}),
    "myokx": (8, {"1": True, "0": False}),
    "okx": (8, {"1": True, "0": False}),
    "okxus": (8, {"1": True, "0": False}),
}
"""Exchanges whose rows say whether they are final: the position of the flag, and its values.

OKX's `confirm` (https://www.okx.com/docs-v5/en/#order-book-trading-market-data-get-candlesticks), and whether the
window of a candlestick is closed at Gate (https://www.gate.com/docs/developers/apiv4/en/#market-k-line-chart).
"""


class AnswerTime(NamedTuple):
    """When an answer was made (UTC ms): at the earliest and at the latest, by the exchange's clock and dates.

    `as_of` is the time as of which bars were requested. An answer is at most `margin_ms` old.
    """

    earliest: int
    latest: int
    as_of: int
    margin_ms: int


def reported_final(exchange_id: str, rows: Sequence[Row]) -> dict[int, bool]:
    """Return by open time (UTC ms) whether the exchange reports a row as final; empty where it has no such flag."""
    if exchange_id not in _FINAL_FLAGS:
        return {}
    position, values = _FINAL_FLAGS[exchange_id]
    flags = {row[0]: row.raw[position] for row in rows if isinstance(row.raw, list) and len(row.raw) > position}
    return {open_time: values[flag] for open_time, flag in flags.items() if flag in values}


def final_bars(page: Fetched, cursor: int, answer_time: AnswerTime, reported: Mapping[int, bool]) -> Fetched:
    """Keep the final bars from the cursor on; reject those that have not opened.

    A bar that has closed by the exchange's clock is final when the exchange reports it so. Without a report it is
    final when the answer has a later bar that has opened, or when its close is `margin_ms` ago.
    """
    bars, key = page.bars, page.bars.key
    opened = int(np.searchsorted(bars.open_time, answer_time.latest, side="right"))
    unopened = [
        RejectedRow(open_time, tuple(values), "open time must not be later than the exchange's clock")
        for open_time, values in zip(bars.open_time[opened:].tolist(), bars.ohlcv_TF[opened:].tolist(), strict=True)
    ]
    closed = bars[:opened].closed_by(min(answer_time.earliest, answer_time.as_of))
    opens = closed.open_time
    has_later_bar = opens < bars.open_time[:opened].max(initial=0)
    is_final = has_later_bar | (closed.close_time + answer_time.margin_ms <= answer_time.earliest)
    for open_time, flag in reported.items():
        is_final[opens == open_time] = flag
    rejected = [row for row in page.rejected if _is_reportable(row, key, cursor, answer_time)]
    return Fetched(closed[is_final & (opens >= cursor)], rejected + unopened)


def _is_reportable(row: RejectedRow, key: SeriesKey, cursor: int, answer_time: AnswerTime) -> bool:
    """Whether to report a rejected row: a bar that still forms may become valid."""
    is_forming = answer_time.earliest - key.timeframe.ms < row.open_time <= answer_time.latest
    return row.open_time == NO_TIME or (row.open_time >= cursor and not is_forming)
