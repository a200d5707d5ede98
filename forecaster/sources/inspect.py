"""What a file or a store holds of each series: how many bars, which slots are missing, what was refused and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from forecaster.sources.files import FileSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from forecaster.bars import Bars, RejectedRow, SeriesKey


@dataclass(frozen=True)
class BarFacts:
    """What is known of the bars of one series. Times are UTC ms, None where there is no bar.

    `place` is a file's path, or an exchange whose bars are stored. `gaps` counts slots of the calendar between the
    first and the last bar that have none; `longest_gap` is the longest run of them. `replaced` counts versions of bars
    that a later one replaced, `rejected` refused rows by reason.
    """

    place: str
    series: SeriesKey
    bars: int
    first_open: int | None
    last_close: int | None
    gaps: int
    longest_gap: int
    replaced: int
    rejected: dict[str, int]


def inspect_file(path: Path, as_of: int, timeframe: str | None = None, calendar: str | None = None) -> list[BarFacts]:
    """Read a whole file as it stands at `as_of` (UTC ms), and count.

    Raises:
        BadPayload: for a file that cannot be read, with the line.
    """
    source, found = FileSource(path), []
    for key in source.guess_keys(timeframe, calendar):
        fetched = source.fetch(key, None, as_of)
        replaced = source.row_count(key, as_of) - len(fetched.bars) - len(fetched.rejected)
        found.append(count_bars(str(path), fetched.bars, fetched.rejected, replaced))
    return found


def count_bars(place: str, bars: Bars, rejected: Sequence[RejectedRow], replaced: int) -> BarFacts:
    """Count the bars of one series, and what was refused beside them."""
    key, reasons = bars.key, dict(Counter(row.reason for row in rejected))
    if not len(bars):
        return BarFacts(place, key, 0, None, None, 0, 0, replaced, reasons)
    first, last = int(bars.open_time[0]), int(bars.open_time[-1])
    expected = key.sessions.opens_between(key.timeframe, first, last + 1)
    missing = ~np.isin(expected, bars.open_time)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], ~missing, [True]]))) - 1
    return BarFacts(
        place=place,
        series=key,
        bars=len(bars),
        first_open=first,
        last_close=int(bars.close_time[-1]),
        gaps=int(missing.sum()),
        longest_gap=int(runs.max()),
        replaced=replaced,
        rejected=reasons,
    )
