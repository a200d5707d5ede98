"""What a configuration finds at its exchanges and in its files: the newest bars of each series, or the fault by name.

The same sources as the service's, with a store that ends with the command: nothing is kept. The ledger is read for
holds alone: an exchange that may not be asked now is not asked.
"""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from forecaster.calendars import ALWAYS_OPEN, WEEKDAYS
from forecaster.cli.bars_printing import file_end_message, unclosed_message
from forecaster.errors import (
    BadPayload,
    ForecasterError,
    InvalidBars,
    MissingBars,
    NotEnoughBars,
    StoreError,
    format_time,
)
from forecaster.sessions import is_weekend
from forecaster.sources import Fetched
from forecaster.sources.summary import count_reasons, is_up_to_date
from forecaster.timeframe import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from forecaster.bars import Bars, SeriesKey, ValidatedRows
    from forecaster.config import Config, SeriesConfig
    from forecaster.ledger import Hold
    from forecaster.sources import BarSource
    from forecaster.sources.files import FileSource

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
        """What came, in one sentence; the notes are not in it."""
        if self.error is not None:
            text = self.error
        else:
            text = f"{self.bars:,} bars, the newest closed {_closed(self.newest_close or 0, self.age_seconds or 0)}"
        if self.rejected:
            shown = [f"{count:,} × {reason}" for reason, count in self.reasons.items()]
            more = len(shown) - _SHOWN_REASONS
            shown = shown[:_SHOWN_REASONS] + ([f"and {more} more reasons"] if more > 0 else [])
            text += f", {self.rejected:,} rows rejected ({'; '.join(shown)})"
        return text


def probe(config: Config, series: Iterable[SeriesConfig], as_of: int) -> list[Probed]:
    """Ask for the newest final bars of these series, as things stand at `as_of` (UTC ms).

    Whatever is wrong with a series is told of it, and not raised.
    """
    asked = list(series)
    places: dict[object, list[SeriesConfig]] = {}
    for one in asked:
        places.setdefault(one.place, []).append(one)
    holds = _holds(config, as_of) if any(one.file is None for one in asked) else {}
    held = [_held(one, holds[one.exchange], as_of) for one in asked if one.file is None and one.exchange in holds]
    found = {one.series: one for one in held}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        free = [alike for alike in places.values() if str(alike[0].key) not in found]
        answers = [pool.submit(_probe_place, config, alike, as_of) for alike in free]
        found |= {one.series: one for answer in answers for one in answer.result()}
    return [found[str(one.key)] for one in asked]


def _holds(config: Config, as_of: int) -> dict[str, Hold]:
    """The exchanges that may not be asked now, as the ledger says; none where it cannot be read, or is not there."""
    from forecaster.store import open_reader

    with suppress(StoreError), closing(open_reader(config.store.url.reveal())) as reader:
        return {one.exchange: one for one in reader.holds() if one.until > as_of}
    return {}


def _held(one: SeriesConfig, hold: Hold, as_of: int) -> Probed:
    """Say of a series that its exchange is on hold, and what ends that."""
    from forecaster.cli.holds import hold_text
    from forecaster.log import sanitize

    text = f"{hold_text(hold, as_of)}; wait, or run `forecaster holds lift {hold.exchange}`"
    return Probed(str(one.key), ok=False, error=sanitize(text))


def _probe_place(config: Config, alike: list[SeriesConfig], as_of: int) -> list[Probed]:
    """Ask one exchange, or read one file, for all its series."""
    from forecaster.sources import open_source
    from forecaster.store import open_store

    try:
        source = open_source(config, alike[0], open_store("memory:"))
    except ForecasterError as error:
        return [_wrong(one, error) for one in alike]
    with closing(source), ThreadPoolExecutor(_AT_ONCE) as pool:
        if alike[0].file is None:
            return list(pool.map(lambda one: _probe_series(config, source, one, as_of), alike))
        is_alone = len(alike) == 1
        return [_probe_file(config, cast("FileSource", source), one, as_of, is_alone=is_alone) for one in alike]


def _probe_file(config: Config, source: FileSource, one: SeriesConfig, as_of: int, *, is_alone: bool) -> Probed:
    """Read a series of a file; one that is alone in its file is compared with what the file would be taken for."""
    try:
        sifted = source.validate_rows(one.key, as_of)
    except ForecasterError as error:
        is_number = isinstance(error, BadPayload) and error.expected.startswith("a number")
        doubt = f"`decimal` is {one.decimal!r}: is that right?"
        return replace(_wrong(one, error), notes=(doubt,) if is_number and one.decimal else ())
    notes = [*_file_notes(sifted, as_of), *idle_keys(one, sifted)]
    if is_alone:
        notes += _name_notes(source, one)
    notes += _weekday_notes(sifted.bars, partial(_guessed_calendar, source, one) if is_alone else None)
    return _judged(config, one, Fetched(sifted.bars, sifted.rejected), as_of, notes=tuple(notes))


def _probe_series(config: Config, source: BarSource, one: SeriesConfig, as_of: int) -> Probed:
    """Ask for the newest page, as the service does when it knows nothing of a series yet."""
    try:
        fetched = source.fetch(one.key, None, as_of)
    except ForecasterError as error:
        return _wrong(one, error, halted=_halted(source, one))
    return _judged(config, one, fetched, as_of, _halted(source, one), tuple(_weekday_notes(fetched.bars)))


def _judged(
    config: Config, one: SeriesConfig, fetched: Fetched, as_of: int, halted: str = "", notes: tuple[str, ...] = ()
) -> Probed:
    """Say what came of a series whose bars could be had."""
    reasons = count_reasons(fetched.rejected)
    fault = fetched.fault or _lack(config, one, fetched, as_of)
    if fault is not None:
        return replace(_wrong(one, fault, reasons, halted), notes=notes)
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
        notes=notes,
    )


def _wrong(one: SeriesConfig, fault: Exception, reasons: Mapping[str, int] | None = None, halted: str = "") -> Probed:
    from forecaster.log import sanitize

    reasons = reasons or {}
    text = sanitize(f"{halted and f'{halted}: '}{type(fault).__name__}: {fault}")
    return Probed(str(one.key), ok=False, rejected=sum(reasons.values()), error=text, reasons=reasons)


def _lack(config: Config, one: SeriesConfig, fetched: Fetched, as_of: int) -> ForecasterError | None:
    """Why no forecast can be made of what arrived; None when one can."""
    from forecaster.sources.exchange.guard import anchor_hint

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
    from forecaster.sources.exchange.source import ExchangeSource

    is_halted = isinstance(source, ExchangeSource) and source.is_active(one.key) is False
    return "the market is no longer traded" if is_halted else ""


def _is_stale(config: Config, one: SeriesConfig, bars: Bars, as_of: int) -> bool:
    """Whether the newest bar of an exchange is further behind than a market without trades explains.

    Bars are counted by the calendar: a market that is closed is not behind.
    """
    if one.file is not None:
        return False
    key, opens = one.key, bars.open_time
    slots = key.trading_calendar.opens_between(key.timeframe, int(opens[0]), int(opens[-1]) + 1)
    longest = int(np.diff(np.searchsorted(slots, opens)).max(initial=0))
    recent = key.trading_calendar.last_opens(key.timeframe, as_of, max(_BEHIND, longest) + 1)
    closes, newest = key.trading_calendar.closes_of(key.timeframe, recent), int(bars.close_time[-1])
    late_ms = config.exchanges[one.exchange].late_after * 1000
    return bool(len(closes)) and newest < closes[0] and closes[-1] - newest > late_ms


def _file_notes(sifted: ValidatedRows, as_of: int) -> Iterator[str]:
    """What should be known of the bars of a file."""
    yield from sifted.notes
    if sifted.replaced:
        yield f"{sifted.replaced:,} rows replaced by later rows of the same time"
    if sifted.unclosed:
        yield unclosed_message(sifted.unclosed)
    if len(sifted.bars) and not is_up_to_date(sifted.bars, as_of):
        yield file_end_message(int(sifted.bars.close_time[-1]))


def _name_notes(source: FileSource, one: SeriesConfig) -> Iterator[str]:
    """Say so when the name of a file says another symbol."""
    try:
        (guess,) = source.infer_series(one.timeframe, ALWAYS_OPEN)
    except (ForecasterError, ValueError):  # or several
        return
    said, name = guess.key.symbol, re.sub(r"[\W_]", "", str(one.file and one.file.name).upper())
    is_named = guess.reasons["symbol"] == "the file's name" and re.sub(r"\W", "", said) in name
    if is_named and said != one.symbol.partition(":")[0]:
        yield f"`symbol`: the file's name says {said}"


def idle_keys(one: SeriesConfig, sifted: ValidatedRows | None = None) -> Iterator[str]:
    """Name the keys of a series that change nothing; `sifted` is what its file holds."""
    idle = {name for name in ("day_anchor", "timezone") if one.model_copy(update={name: None}).key == one.key}
    zone = "" if sifted is None else sifted.parsed_as.get("timezone", "")
    if one.day_anchor is not None and "day_anchor" in idle:
        yield f"`day_anchor` changes nothing: bars of {one.timeframe} open at the same times without it"
    if one.timezone is not None and "timezone" in idle and zone.endswith("is not used"):
        yield f"`timezone` changes nothing: {zone}"
    if one.file is None and one.calendar not in (ALWAYS_OPEN, WEEKDAYS):
        yield f"`calendar` is {one.calendar}: the exchanges of ccxt trade around the clock, 24/7"


def _weekday_notes(bars: Bars, guess: Callable[[], str] | None = None) -> Iterator[str]:
    """Say so when bars of a market that never closes keep to weekdays; `guess` names a calendar that fits."""
    if bars.key.calendar.partition("@")[0] != ALWAYS_OPEN or not len(bars):
        return
    first, last = int(bars.open_time[0]), int(bars.open_time[-1])
    days = np.arange(first - first % DAY_MS, last + 1, DAY_MS)
    if is_weekend(days).sum() >= _WEEKEND_DAYS and not is_weekend(bars.open_time).any():
        name = guess() if guess else ""
        yield f"`calendar`: the rows keep to weekdays: is it {name or 'that of an exchange, such as XNYS'}?"


def _guessed_calendar(source: FileSource, one: SeriesConfig) -> str:
    """The calendar that a file would be taken for, other than 24/7; empty when there is none, or more than one."""
    try:
        (guess,) = source.infer_series(one.timeframe)
    except (ForecasterError, ValueError):
        return ""
    return guess.key.calendar if guess.key.calendar.partition("@")[0] != ALWAYS_OPEN else ""


def _expected_close(key: SeriesKey, as_of: int) -> int:
    return int(
        key.trading_calendar.closes_of(key.timeframe, key.trading_calendar.last_opens(key.timeframe, as_of, 1))[0]
    )


def _closed(time_ms: int, age_seconds: float) -> str:
    """Write a time that has passed for people: `2026-10-20 00:00 UTC, 40 days ago`."""
    least, unit, name = next((one for one in _AGES if age_seconds >= one[0]), (0, 1, "s"))
    del least
    return f"{format_time(time_ms)}, {age_seconds // unit:,.0f} {name} ago"
