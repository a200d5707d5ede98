"""Which rows of an answer are final bars, and which may still change or have not even begun.

A bar whose time is over by a clock may still be served as it was before: the clock may have stepped, or the answer may
come from a replica or a cache that is seconds old. So what is served beside it, or after its close, must say so.
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

_SAYS_AT: Final[dict[str, tuple[int, Mapping[object, bool]]]] = {
    "gate": (7, {"true": True, "false": False}),
    "myokx": (8, {"1": True, "0": False}),
    "okx": (8, {"1": True, "0": False}),
    "okxus": (8, {"1": True, "0": False}),
}
"""Venues that say of each row whether it is final: at which place, and what each value means.

OKX's `confirm` (https://www.okx.com/docs-v5/en/#order-book-trading-market-data-get-candlesticks), and whether the
window of a candlestick is closed at Gate (https://www.gate.com/docs/developers/apiv4/en/#market-k-line-chart).
"""


class Clocks(NamedTuple):
    """When an answer was made, UTC ms: at the earliest and at the latest by what its exchange tells.

    `as_of` is the time as of which it was asked; `margin_ms` how far behind a close the clocks must be, so that an
    answer which is as old as this would be final still.
    """

    earliest: int
    latest: int
    as_of: int
    margin_ms: int


def said_final(exchange_id: str, rows: Sequence[Row]) -> dict[int, bool]:
    """What the venue itself says of rows: whether that which opens at a time (UTC ms) is final."""
    if exchange_id not in _SAYS_AT:
        return {}
    place, meaning = _SAYS_AT[exchange_id]
    said = {row[0]: row.raw[place] for row in rows if isinstance(row.raw, list) and len(row.raw) > place}
    return {open_time: meaning[word] for open_time, word in said.items() if word in meaning}


def final_rows(page: Fetched, cursor: int, clocks: Clocks, said: Mapping[int, bool]) -> Fetched:
    """Keep the final bars from the cursor on; refuse what has not begun.

    A bar that has closed by the exchange's clock is final when the venue says so; when it says nothing, and a later row
    that has begun is served in the same answer, or the clock is past the close by a margin.
    """
    bars, key = page.bars, page.bars.key
    begun = int(np.searchsorted(bars.open_time, clocks.latest, side="right"))
    ahead = [
        RejectedRow(open_time, tuple(values), "open time must not be later than the exchange's clock")
        for open_time, values in zip(bars.open_time[begun:].tolist(), bars.ohlcv_TF[begun:].tolist(), strict=True)
    ]
    closed = bars[:begun].closed_by(min(clocks.earliest, clocks.as_of))
    opens = closed.open_time
    is_final = (opens < bars.open_time[:begun].max(initial=0)) | (
        closed.close_time + clocks.margin_ms <= clocks.earliest
    )
    for open_time, word in said.items():
        is_final[opens == open_time] = word
    rejected = [row for row in page.rejected if _is_due(row, key, cursor, clocks)]
    return Fetched(closed[is_final & (opens >= cursor)], rejected + ahead)


def _is_due(row: RejectedRow, key: SeriesKey, cursor: int, clocks: Clocks) -> bool:
    """Whether a refused row is to be reported: a bar that still forms may yet become a good one."""
    forms = clocks.earliest - key.timeframe.ms < row.open_time <= clocks.latest
    return row.open_time == NO_TIME or (row.open_time >= cursor and not forms)
