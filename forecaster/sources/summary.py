"""What a file or a store holds of each series: how many bars, which slots are missing, what was refused and why."""

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
    """What is known of the bars of one series. Times are UTC ms, None where there is no bar.

    Args:
        place: a file's path, or an exchange whose bars are stored.
        series: which series.
        bars: how many there are.
        first_open: of the first bar.
        last_close: of the last bar.
        gaps: slots of the calendar between the first and the last bar that have none.
        longest_gap: the longest run of them.
        revised: older versions of bars, which a later row or answer has revised.
        rejected: refused rows, by reason.
        unclosed: rows of a file that had not closed yet.
        is_current: whether no further bar has closed since the last one.
        parsed_as: how a file was read: `format`, `columns`, `times`, `timezone`, …
        reasons: why a file is taken for this series: `spacing`, `calendar`, `symbol`.
        notes: what else a reader of a file should know.
    """

    place: str
    series: SeriesKey
    bars: int
    first_open: int | None = None
    last_close: int | None = None
    gaps: int = 0
    longest_gap: int = 0
    revised: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    unclosed: int = 0
    is_current: bool = True
    parsed_as: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileError:
    """A file that cannot be used: why, and the option that settles it; `series` where it is one of several in it."""

    file: str
    reason: str
    option: str = ""
    series: str = ""

    @classmethod
    def from_exception(cls, file: object, error: Exception, series: str = "") -> Self:
        """Tell what was raised."""
        return cls(str(file), f"{type(error).__name__}: {error}", getattr(error, "option", ""), series)


def summarize_file(place: str, source: FileSource, guess: InferredSeries, as_of: int) -> BarsSummary:
    """Count what a file holds of one series as it stands at `as_of` (UTC ms).

    Raises:
        SourceError: for a file that cannot be read.
        InvalidBars: when too many of its rows are refused.
    """
    sifted = source.validate_rows(guess.key, as_of)
    facts = summarize_bars(place, sifted.bars, sifted.rejected, sifted.replaced)
    return replace(
        facts,
        unclosed=sifted.unclosed,
        is_current=is_up_to_date(sifted.bars, as_of),
        parsed_as=dict(sifted.parsed_as),
        reasons=dict(guess.reasons),
        notes=tuple(sifted.notes),
    )


def summarize_bars(place: str, bars: Bars, rejected: Iterable[RejectedRow], revised: int) -> BarsSummary:
    """Count the bars of one series, and what was refused beside them."""
    key, reasons = bars.key, count_reasons(rejected)
    if not len(bars):
        return BarsSummary(place, key, 0, revised=revised, rejected=reasons)
    first, last = int(bars.open_time[0]), int(bars.open_time[-1])
    expected = key.trading_calendar.opens_between(key.timeframe, first, last + 1)
    missing = ~np.isin(expected, bars.open_time)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], ~missing, [True]]))) - 1
    return BarsSummary(
        place=place,
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
    """Whether no further bar has closed by `as_of` (UTC ms), by the calendar."""
    if not len(bars):
        return True
    last, key = int(bars.close_time[-1]), bars.key
    try:
        return key.trading_calendar.next_close(key.timeframe, last) > as_of
    except CalendarEnds:
        return True


def count_reasons(rejected: Iterable[RejectedRow]) -> dict[str, int]:
    """Count refused rows by reason, the commonest first."""
    return dict(Counter(row.reason for row in rejected).most_common())
