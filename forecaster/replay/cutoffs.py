"""Choose the cutoffs of a replay, and the bars that each of them sees.

A cutoff needs its own bar, enough real bars in its context, and `horizon` slots on the calendar after it. Cutoffs that
a replay chooses and that lack one of these are left out and counted; cutoffs that a caller names are refused.

Shapes: T bars, N cutoffs.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.errors import (
    BarNotClosed,
    BarsError,
    ConfigError,
    InvalidArgument,
    MissingBars,
    NotEnoughBars,
    format_time,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Bars, SeriesKey
    from forecaster.config import ModelConfig
    from forecaster.store import Reader

_NEVER: Final = 2**62
_SECOND_MS: Final = 1000


@dataclass(frozen=True, eq=False)
class ReplaySeries:
    """The bars and cutoffs of one series in a replay.

    Args:
        bars: the history; the bars after the last cutoff are the outcomes.
        cutoffs: close times (UTC ms), increasing.
        known: pairs of bars and the cutoffs that see them, in the order of cutoffs; None if all see `bars`.
        left_out: number of cutoffs that were left out, by reason.
    """

    bars: Bars
    cutoffs: NDArray[np.int64]
    known: Sequence[tuple[Bars, NDArray[np.int64]]] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> SeriesKey:
        """The series."""
        return self.bars.key

    @property
    def spans(self) -> Sequence[tuple[Bars, NDArray[np.int64]]]:
        """Pairs of bars and the cutoffs that see them."""
        return [(self.bars, self.cutoffs)] if self.known is None else self.known


def choose_cutoffs(bars: Bars, model: ModelConfig, start: int = 0, end: int = _NEVER, every: int = 1) -> ReplaySeries:
    """Choose every n-th close in [start, end), UTC ms, after the first `min_context` - 1 bars.

    Left out, and counted, are cutoffs with fewer than `min_context` bars in their last `context` slots, and those whose
    horizon lies beyond the recorded end of the calendar.
    """
    first = model.min_context - 1
    inside = first + np.searchsorted(bars.close_time[first:], [start, end])
    places = np.arange(*inside)[::every]
    enough = bars_in_context(bars, model.context)[places] >= model.min_context
    cutoffs = bars.close_time[places[enough]]
    known_targets = _with_targets(bars.key, cutoffs, model.horizon)
    left_out = {
        f"fewer than {model.min_context} bars among their last {model.context} slots": int((~enough).sum()),
        f"their calendar ends before {model.horizon} bars": len(cutoffs) - known_targets,
    }
    return ReplaySeries(bars, cutoffs[:known_targets], left_out=_counted(left_out))


def check_cutoffs(bars: Bars, model: ModelConfig, cutoffs: Sequence[int] | NDArray[np.int64]) -> ReplaySeries:
    """Check the cutoffs that a caller names.

    Raises:
        InvalidArgument: for cutoffs that do not increase.
        MissingBars: for a cutoff that is not a close of `bars`.
        NotEnoughBars: for a cutoff with fewer than `min_context` bars in its last `context` slots.
    """
    cutoffs_N = np.asarray(cutoffs, np.int64)
    if (np.diff(cutoffs_N) <= 0).any():
        raise InvalidArgument("cutoffs", "close times that rise", [format_time(cutoff) for cutoff in cutoffs_N[:3]])
    missing_N = cutoffs_N[~np.isin(cutoffs_N, bars.close_time)]
    if len(missing_N):
        raise MissingBars(bars.key, int(missing_N[0]), int(bars.close_time[-1]) if len(bars) else None)
    count_N = bars_in_context(bars, model.context)[np.searchsorted(bars.close_time, cutoffs_N)]
    short = np.flatnonzero(count_N < model.min_context)
    if len(short):
        at = short[0]
        raise NotEnoughBars(bars.key, model.min_context, int(count_N[at]), int(cutoffs_N[at]))
    return ReplaySeries(bars, cutoffs_N)


def bars_as_known(series: ReplaySeries, reader: Reader, within_ms: int, model: ModelConfig) -> ReplaySeries:
    """Give each cutoff the bars of the live series as they were known `within_ms` after it.

    Left out, and counted, are cutoffs whose own bar, or `min_context` bars, were not known by then.
    """
    key, cutoffs_N = series.key, series.cutoffs
    open_time, revision, seen_at = reader.bar_revisions(key)
    closes = key.trading_calendar.closes_of(key.timeframe, open_time)
    changes = np.unique(seen_at[(revision > 0) | (seen_at > closes + within_ms)])
    spans, unknown, short = [], 0, 0
    for start, end in pairwise([0, *changes.tolist(), _NEVER]):
        inside_N = cutoffs_N[(cutoffs_N + within_ms >= start) & (cutoffs_N + within_ms < end)]
        if not len(inside_N):
            continue
        slots = key.trading_calendar.last_opens(key.timeframe, int(inside_N[0]), model.context)
        bars = reader.bars(key, int(min(slots, default=inside_N[0])), int(inside_N[-1]), as_of=end - 1)
        known_N = inside_N[np.isin(inside_N, bars.close_time)]
        count_T = bars_in_context(bars, model.context)
        enough_N = count_T[np.searchsorted(bars.close_time, known_N)] >= model.min_context
        spans.append((bars, known_N[enough_N]))
        unknown += len(inside_N) - len(known_N)
        short += int((~enough_N).sum())
    within = f"known within {within_ms / _SECOND_MS:g} s"
    reasons = {f"their bar was not {within}": unknown, f"fewer than {model.min_context} bars {within}": short}
    kept_N = np.concatenate([np.empty(0, np.int64), *(kept_N for _, kept_N in spans)])
    return replace(series, cutoffs=kept_N, known=spans, left_out={**series.left_out, **_counted(reasons)})


def check_closed(bars: Bars, now: int) -> None:
    """Refuse bars that have not closed: neither a cutoff nor an outcome may lie in the future.

    Raises:
        BarNotClosed: names the first one.
    """
    closed = len(bars.closed_by(now))
    if closed < len(bars):
        raise BarNotClosed(bars.key, int(bars.close_time[closed]), now)


def bars_in_context(bars: Bars, context: int) -> NDArray[np.int64]:
    """Count the real bars among the last `context` slots up to each bar, itself included, (T,)."""
    if not len(bars):
        return np.empty(0, np.int64)
    first, last = int(bars.open_time[0]), int(bars.open_time[-1])
    slots = bars.key.trading_calendar.opens_between(bars.key.timeframe, first, last + 1)
    slot_T = np.searchsorted(slots, bars.open_time)
    return np.arange(len(bars)) + 1 - np.searchsorted(slot_T, slot_T - context, side="right")


def _with_targets(key: SeriesKey, cutoffs: NDArray[np.int64], horizon: int) -> int:
    """Count the cutoffs, from the first on, whose whole horizon lies on the calendar."""

    def lacks(cutoff: int) -> bool:
        try:
            key.trading_calendar.next_opens(key.timeframe, cutoff, horizon)
        except (BarsError, ConfigError):
            return True
        return False

    if not len(cutoffs) or not lacks(int(cutoffs[-1])):
        return len(cutoffs)
    return bisect_left(cutoffs.tolist(), 1, key=lambda cutoff: int(lacks(cutoff)))


def _counted(reasons: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in reasons.items() if count}
