"""Which stored bars are requested again, and when an answer must be confirmed by a second one.

An exchange may revise a bar, or serve a wrong one. So the latest stored bars are requested again with each new one,
more of them after a fault or a revision. An implausible answer is stored only once a second answer confirms it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from forecaster.errors import BadPayload, InvalidBars, format_duration, format_time
from forecaster.log import get_logger
from forecaster.sources.plausibility import coarser_ms, confirms, find_changes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from forecaster.bars import Bars, SeriesKey
    from forecaster.sources.fetch_pool import FetchOutcome
    from forecaster.store import Store

_log = get_logger(__name__)

REFETCHED_BARS: Final = 24
"""The fewest stored bars that are requested again each time."""

_GROWTH_AFTER_FAULT: Final = 4
_MOST_ANSWERS: Final = 4
_BARS_AROUND: Final = 40


class CheckedAnswer(NamedTuple):
    """An answer, the open times of stored bars that it changes, and whether a second answer must confirm it."""

    answer: FetchOutcome
    changed: Sequence[int] = ()
    is_unconfirmed: bool = False


class _Watched(NamedTuple):
    """A revised bar: the series is requested from `since` until `left` more answers change nothing."""

    since: int
    left: int


class Refetch:
    """Decides from where a series is requested, and whether its answer is stored.

    Args:
        store: the stored bars.
        context: number of bars that a model sees: a new series is requested this far back.
    """

    def __init__(self, store: Store, context: int) -> None:
        self._store = store
        self._context = context
        self._bars: dict[SeriesKey, int] = {}
        self._watched: dict[SeriesKey, _Watched] = {}
        self._unconfirmed: dict[SeriesKey, list[Bars]] = {}

    def is_unconfirmed(self, key: SeriesKey) -> bool:
        """Return whether the last answer of a series waits to be confirmed."""
        return key in self._unconfirmed

    def since(self, key: SeriesKey, as_of: int) -> int:
        """Return the open time from which a series is requested at `as_of`."""
        bars = self._bars.get(key, self._context)
        since = self.resume_from(key, self.first_slot(key, as_of), bars)
        return min(since, self._watched[key].since) if key in self._watched else since

    def resume_from(self, key: SeriesKey, first: int, bars: int = REFETCHED_BARS) -> int:
        """Return the open time from which to request a series, so that nothing from `first` on stays missing.

        Includes the latest `bars` stored bars, which may have been revised, and every expected bar that is missing. A
        missing bar is requested until it was absent at two times one bar apart: then it is a gap.
        """
        newest = self._store.latest_open(key)
        if newest is None:
            return first
        step = key.timeframe.ms
        missing = self.missing(key, first, newest)
        gaps = self._store.gaps(key, first, newest) if missing else {}
        pending = [open_time for open_time in missing if not _is_gap(gaps.get(open_time, []), step)]
        latest: list[int] = key.trading_calendar.last_opens(key.timeframe, newest + step, bars).tolist()
        return min([*pending[:1], *(max(first, open_time) for open_time in latest[:1]), newest])

    def missing(self, key: SeriesKey, start: int, end: int) -> list[int]:
        """Return the open times in [start, end) that the calendar expects and the store has not."""
        expected = key.trading_calendar.opens_between(key.timeframe, start, end)
        missing: list[int] = np.setdiff1d(
            expected, self._store.open_times(key, start, end), assume_unique=True
        ).tolist()
        return missing

    def first_slot(self, key: SeriesKey, as_of: int) -> int:
        """Return the open time of the oldest bar that a context at `as_of` can hold."""
        opens = key.trading_calendar.last_opens(key.timeframe, as_of, self._context)
        return int(opens[0]) if len(opens) else as_of

    def check(self, answer: FetchOutcome) -> CheckedAnswer:
        """Compare an answer with the stored bars: which of them it changes, and whether it must be confirmed."""
        fetched, key = answer.fetched, answer.key
        if fetched is None or not len(fetched.bars):
            return CheckedAnswer(answer)
        start = int(fetched.bars.open_time[0]) - _BARS_AROUND * key.timeframe.ms
        stored = self._store.bars(key, start=start, end=int(fetched.bars.open_time[-1]) + 1)
        changed, implausible = find_changes(fetched.bars, stored)
        if not fetched.may_change:
            return CheckedAnswer(answer, changed)
        spacing_ms = coarser_ms(fetched.bars, stored)
        if spacing_ms is not None:
            expected = f"rows {key.timeframe} apart for {key.symbol}, as those that are stored"
            error = BadPayload(key.exchange, expected, f"{format_duration(spacing_ms)} apart")
            return CheckedAnswer(replace(answer, fetched=None, error=error))
        earlier = self._unconfirmed.pop(key, [])
        if not implausible or (earlier and confirms(earlier[-1], fetched.bars, implausible)):
            return CheckedAnswer(answer, changed)
        if len(earlier) + 1 >= _MOST_ANSWERS:
            reason = f"{_MOST_ANSWERS} answers differ about the bar at {format_time(implausible[0])}"
            return CheckedAnswer(replace(answer, fetched=None, error=InvalidBars(key, reason)))
        self._unconfirmed[key] = [*earlier, fetched.bars]
        _log.warning("bars.unconfirmed", series=str(key), bars=len(implausible), first=format_time(implausible[0]))
        return CheckedAnswer(answer, changed, is_unconfirmed=True)

    def update(self, answered: Collection[SeriesKey], changed: Mapping[SeriesKey, Sequence[int] | None]) -> None:
        """Request more bars of a series after a fault or a revision, and fewer while nothing changes.

        Revised bars are requested until `REFETCHED_BARS` answers agree on them. A series that is not in `changed`
        failed.
        """
        for key in answered:
            opens = changed.get(key)
            bars = self._bars.get(key, self._context)
            bars = bars * _GROWTH_AFTER_FAULT if opens is None or opens else bars // 2
            self._bars[key] = max(REFETCHED_BARS, min(bars, self._context))
            watched = self._watched.get(key)
            if opens:
                since = opens[0] if watched is None else min(watched.since, opens[0])
                self._watched[key] = _Watched(since, REFETCHED_BARS)
            elif watched is not None and opens is not None:
                self._watched[key] = watched._replace(left=watched.left - 1)
                if not watched.left:
                    del self._watched[key]


def _is_gap(requested_at: list[int], step: int) -> bool:
    """Return whether a missing bar was requested often enough to be a gap."""
    return bool(requested_at) and requested_at[-1] - requested_at[0] >= step
