"""What a configuration finds at its exchanges and in its files: the newest bars of each series, or the fault by name.

The same sources as the service's, with a store that ends with the command: nothing is kept, the ledger is not opened.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.cli.printing import option_time
from forecaster.errors import ForecasterError, InvalidBars, MissingBars, NotEnoughBars, utc_text
from forecaster.sessions import is_continuous
from forecaster.sources.inspect import count_reasons
from forecaster.tables.fit import is_weekend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from forecaster.bars import Bars, SeriesKey
    from forecaster.config import Config, SeriesConfig
    from forecaster.sources import BarSource, Fetched

_AT_ONCE: Final = 32
_BEHIND: Final = 3
"""Bars that the newest one of an exchange may be behind; more where as many were missing in a row before."""
_WEEKEND_DAYS: Final = 4
"""Days of weekends on which there would have been bars of a market that never closes."""
_SHOWN_REASONS: Final = 3
_DAY_SECONDS: Final = 86_400
_AGES: Final = ((2 * _DAY_SECONDS, _DAY_SECONDS, "days"), (7_200, 3_600, "hours"), (120, 60, "minutes"))


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of one series.

    Args:
        series: its name.
        ok: whether the service can forecast it, or could have when the bars of its file were new.
        newest_close: UTC ms.
        age_seconds: since the newest close.
        bars: how many there are.
        rejected: rows that were refused.
        error: what is wrong.
        reasons: refused rows by reason, the commonest first.
        notes: what else should be known of it.
    """

    series: str
    ok: bool
    newest_close: int | None = None
    age_seconds: float | None = None
    bars: int = 0
    rejected: int = 0
    error: str | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def finding(self) -> str:
        """All of it in one sentence."""
        if self.error is not None:
            text = self.error
        else:
            text = f"{self.bars:,} bars, the newest closed {_closed(self.newest_close or 0, self.age_seconds or 0)}"
        if self.rejected:
            shown = [f"{count:,} × {reason}" for reason, count in self.reasons.items()]
            more = len(shown) - _SHOWN_REASONS
            shown = shown[:_SHOWN_REASONS] + ([f"and {more} more reasons"] if more > 0 else [])
            text += f", {self.rejected:,} rows rejected ({'; '.join(shown)})"
        return "; ".join([text, *self.notes])


def probe(config: Config, series: Iterable[SeriesConfig], as_of: int) -> list[Probed]:
    """Ask for the newest final bars of these series, as things stand at `as_of` (UTC ms).

    Whatever is wrong with a series is told of it, and not raised.
    """
    asked = list(series)
    places: dict[tuple[str, str], list[SeriesConfig]] = {}
    for one in asked:
        place = (one.exchange, "") if one.file is None else (str(one.file), repr(one.reading))
        places.setdefault(place, []).append(one)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = [pool.submit(_probe_place, config, alike, as_of) for alike in places.values()]
        found = {one.series: one for answer in answers for one in answer.result()}
    return [found[str(one.key)] for one in asked]


def _probe_place(config: Config, alike: list[SeriesConfig], as_of: int) -> list[Probed]:
    """Ask one exchange, or read one file, for all its series."""
    from forecaster.sources import open_source
    from forecaster.store import open_store

    try:
        source = open_source(config, alike[0], open_store("memory:"))
    except ForecasterError as error:
        return [_wrong(one, error) for one in alike]
    with closing(source), ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda one: _probe_series(config, source, one, as_of), alike))


def _probe_series(config: Config, source: BarSource, one: SeriesConfig, as_of: int) -> Probed:
    """Ask for the newest page, as the service does when it knows nothing of a series yet."""
    try:
        fetched = source.fetch(one.key, None, as_of)
    except ForecasterError as error:
        return _wrong(one, error, halted=_halted(source, one))
    reasons, halted = count_reasons(fetched.rejected), _halted(source, one)
    fault = fetched.fault or _lack(config, one, fetched, as_of)
    if fault is not None:
        return _wrong(one, fault, reasons, halted)
    bars, newest = fetched.bars, int(fetched.bars.close_time[-1])
    age = (as_of - newest) / 1000
    wrong = halted or ("stale" if _is_stale(config, one, bars, as_of) else "")
    return Probed(
        series=str(one.key),
        ok=not wrong,
        newest_close=newest,
        age_seconds=age,
        bars=len(bars),
        rejected=sum(reasons.values()),
        error=f"{wrong}: its newest bar closed {_closed(newest, age)}" if wrong else None,
        reasons=reasons,
        notes=(*_file_notes(source, one, as_of), *_weekday_notes(bars)),
    )


def _wrong(one: SeriesConfig, fault: Exception, reasons: Mapping[str, int] | None = None, halted: str = "") -> Probed:
    from forecaster.log import harmless

    reasons = reasons or {}
    text = harmless(f"{halted and f'{halted}: '}{type(fault).__name__}: {fault}")
    return Probed(str(one.key), ok=False, rejected=sum(reasons.values()), error=text, reasons=reasons)


def _lack(config: Config, one: SeriesConfig, fetched: Fetched, as_of: int) -> ForecasterError | None:
    """Why no forecast can be made of what arrived; None when one can."""
    from forecaster.sources.guard import anchor_hint

    key, refused = one.key, fetched.rejected
    if not len(fetched.bars) and refused:
        opens = np.array([row.open_time for row in refused], np.int64)
        return InvalidBars.refused(key, Counter(row.reason for row in refused), len(refused), anchor_hint(key, opens))
    if not len(fetched.bars):
        return MissingBars(key, _expected_close(key, as_of), None)
    if one.file is not None and len(fetched.bars) < config.model.min_context:
        return NotEnoughBars(key, config.model.min_context, len(fetched.bars))
    return None


def _halted(source: BarSource, one: SeriesConfig) -> str:
    """Say so when an exchange lists a market as one that is not traded."""
    if one.file is not None:
        return ""
    from forecaster.sources.exchange import ExchangeSource

    is_halted = isinstance(source, ExchangeSource) and source.is_active(one.key) is False
    return "the market is no longer traded" if is_halted else ""


def _is_stale(config: Config, one: SeriesConfig, bars: Bars, as_of: int) -> bool:
    """Whether the newest bar of an exchange is further behind than a market without trades explains.

    Bars are counted by the calendar: a market that is closed is not behind.
    """
    if one.file is not None:
        return False
    key, opens = one.key, bars.open_time
    slots = key.sessions.opens_between(key.timeframe, int(opens[0]), int(opens[-1]) + 1)
    longest = int(np.diff(np.searchsorted(slots, opens)).max(initial=0))
    recent = key.sessions.last_opens(key.timeframe, as_of, max(_BEHIND, longest) + 1)
    closes, newest = key.sessions.closes_of(key.timeframe, recent), int(bars.close_time[-1])
    late_ms = config.exchanges[one.exchange].late_after * 1000
    return bool(len(closes)) and newest < closes[0] and closes[-1] - newest > late_ms


def _file_notes(source: BarSource, one: SeriesConfig, as_of: int) -> Iterator[str]:
    """What should be known of the bars of a file."""
    if one.file is None:
        return
    from forecaster.sources.files import FileSource

    if isinstance(source, FileSource):
        sifted = source.sift(one.key, as_of)
        yield from sifted.notes
        if sifted.replaced:
            yield f"{sifted.replaced:,} rows replaced by later rows of the same time"
        if sifted.later:
            yield f"{sifted.later:,} rows have not closed yet, and are left out"
        newest = int(sifted.bars.close_time[-1])
        if newest < _expected_close(one.key, as_of):
            when = option_time(newest)
            yield f"ends on {when}: no forecast today; `forecaster once --as-of {when}` or `forecaster replay`"


def _weekday_notes(bars: Bars) -> Iterator[str]:
    """Say so when days of a market that never closes have no bar on any weekend."""
    key, opens = bars.key, bars.open_time
    if not key.timeframe.is_daily or not is_continuous(key.calendar):
        return
    slots = key.sessions.opens_between(key.timeframe, int(opens[0]), int(opens[-1]) + 1)
    if is_weekend(slots).sum() >= _WEEKEND_DAYS and not is_weekend(opens).any():
        yield "no bar on a weekend: if a stock exchange trades it, set `calendar`, such as XNYS"


def _expected_close(key: SeriesKey, as_of: int) -> int:
    return int(key.sessions.closes_of(key.timeframe, key.sessions.last_opens(key.timeframe, as_of, 1))[0])


def _closed(time_ms: int, age_seconds: float) -> str:
    """Write a time that has passed for people: `2026-10-20 00:00 UTC, 40 days ago`."""
    least, unit, name = next((one for one in _AGES if age_seconds >= one[0]), (0, 1, "s"))
    del least
    return f"{utc_text(time_ms)}, {age_seconds // unit:,.0f} {name} ago"
