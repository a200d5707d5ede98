"""Summaries of the bars of a series, in a file or in the store: counts, gaps, rejected rows with reasons."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from forecaster.errors import CalendarEnds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from forecaster.bars import Bars, RejectedRow, SeriesKey
    from forecaster.sources.files import FileSource, InferredSeries


@dataclass(frozen=True)
class BarsSummary:
    """Summary of the bars of one series. Times are UTC ms, None without bars.

    Args:
        source: the path of a file, or the exchange of stored bars.
        series: the series.
        bars: number of bars.
        first_open: open time of the first bar.
        last_close: close time of the last bar.
        gaps: slots of the calendar without a bar, between the first and the last one.
        longest_gap: the longest run of such slots.
        revised: number of replaced versions of bars.
        rejected: number of rejected rows, by reason.
        unclosed: rows of a file that had not closed yet.
        is_up_to_date: whether no bar has closed since the last one.
        parsed_as: how a file was read: `format`, `columns`, `times`, `timezone`, …
        reasons: why a file is taken for this series: `spacing`, `calendar`, `symbol`.
        notes: remarks on the file, for messages.
    """

    source: str
    series: SeriesKey
    bars: int
    first_open: int | None = None
    last_close: int | None = None
    gaps: int = 0
    longest_gap: int = 0
    revised: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    unclosed: int = 0
    is_up_to_date: bool = True
    parsed_as: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileError:
    """Why a file cannot be used, and the option that settles it; `series` where the file holds several."""

    file: str
    reason: str
    option: str = ""
    series: str = ""

    @classmethod
    def from_exception(cls, file: object, error: Exception, series: str = "") -> Self:
        """Make an error record from an exception."""
        return cls(str(file), f"{type(error).__name__}: {error}", getattr(error, "option", ""), series)


def summarize_file(path: str, source: FileSource, guess: InferredSeries, as_of: int) -> BarsSummary:
    """Summarize one series of a file, as of `as_of` (UTC ms).

    Raises:
        SourceError: for a file that cannot be read.
        InvalidBars: when too many of its rows are rejected.
    """
    validated = source.validate_rows(guess.key, as_of)
    summary = summarize_bars(path, validated.bars, validated.rejected, validated.replaced)
    return replace(
        summary,
        unclosed=validated.unclosed,
        is_up_to_date=is_up_to_date(validated.bars, as_of),
        parsed_as=dict(validated.parsed_as),
        reasons=dict(guess.reasons),
        notes=tuple(validated.notes),
    )


def summarize_bars(source: str, bars: Bars, rejected: Iterable[RejectedRow], revised: int) -> BarsSummary:
    """Summarize the bars of one series and its rejected rows."""
    key, reasons = bars.key, count_reasons(rejected)
    if not len(bars):
        return BarsSummary(source, key, 0, revised=revised, rejected=reasons)
    first, last = int(bars.open_time[0]), int(bars.open_time[-1])
    expected = key.trading_calendar.opens_between(key.timeframe, first, last + 1)
    missing = ~np.isin(expected, bars.open_time)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], ~missing, [True]]))) - 1
    return BarsSummary(
        source=source,
        series=key,
        bars=len(bars),
        first_open=first,
        last_close=int(bars.close_time[-1]),
        gaps=int(missing.sum()),
        longest_gap=int(runs.max()),
        revised=revised,
        rejected=reasons,
    )


def is_up_to_date(bars: Bars, as_of: int) -> bool:
    """Whether no bar after the last one has closed by `as_of` (UTC ms)."""
    if not len(bars):
        return True
    last, key = int(bars.close_time[-1]), bars.key
    try:
        return key.trading_calendar.next_close(key.timeframe, last) > as_of
    except CalendarEnds:
        return True


def count_reasons(rejected: Iterable[RejectedRow]) -> dict[str, int]:
    """Count rejected rows by reason, the most common first."""
    return dict(Counter(row.reason for row in rejected).most_common())
