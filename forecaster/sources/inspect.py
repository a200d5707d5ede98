"""What a file of bars holds, series by series: how many bars, which slots are missing, what was refused and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from forecaster.sources.files import FileSource, guess_keys

if TYPE_CHECKING:
    from pathlib import Path

    from forecaster.bars import SeriesKey


@dataclass(frozen=True)
class FileFacts:
    """What a file holds of one series. Times are UTC ms, None where there is no bar.

    `gaps` counts slots of the calendar between the first and the last bar that have none; `longest_gap` is the longest
    run of them. `rejected` counts refused rows by reason, `duplicates` rows that a later one for their time replaced.
    """

    file: str
    series: SeriesKey
    bars: int
    first_open: int | None
    last_close: int | None
    gaps: int
    longest_gap: int
    duplicates: int
    rejected: dict[str, int]


def inspect_file(path: Path, as_of: int, timeframe: str | None = None, calendar: str | None = None) -> list[FileFacts]:
    """Read a whole file as it stands at `as_of` (UTC ms), and count.

    Raises:
        BadPayload: for a file that cannot be read, with the line.
    """
    source = FileSource(path)
    return [_count(str(path), source, key, as_of) for key in guess_keys(path, timeframe, calendar)]


def _count(file: str, source: FileSource, key: SeriesKey, as_of: int) -> FileFacts:
    fetched = source.fetch(key, None, as_of)
    bars, refused = fetched.bars, Counter(row.reason for row in fetched.rejected)
    duplicates = source.row_count(key, as_of) - len(bars) - len(fetched.rejected)
    if not len(bars):
        return FileFacts(file, key, 0, None, None, 0, 0, duplicates, dict(refused))
    first, last = int(bars.open_time[0]), int(bars.open_time[-1])
    expected = key.sessions.opens_between(key.timeframe, first, last + 1)
    missing = ~np.isin(expected, bars.open_time)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], ~missing, [True]]))) - 1
    return FileFacts(
        file=file,
        series=key,
        bars=len(bars),
        first_open=first,
        last_close=int(bars.close_time[-1]),
        gaps=int(missing.sum()),
        longest_gap=int(runs.max()),
        duplicates=duplicates,
        rejected=dict(refused),
    )
