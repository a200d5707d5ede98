"""Check that the bars of each configured series can be fetched from its exchange or read from its file.

Uses the sources of the service, with a temporary store: nothing is kept. The ledger is read for holds only: an exchange
on hold is not contacted.
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
from forecaster.formatting import approximate_duration
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

_THREADS: Final = 32
_MAX_LAG: Final = 3
"""Bars that an exchange may lag behind; more where as many were missing in a row before."""
_WEEKEND_DAYS: Final = 4
"""Number of weekend days without bars from which a market seems to close at weekends."""
_SHOWN_REASONS: Final = 3


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The result of series series.

    Args:
        series: its name.
        ok: whether the service can forecast it, or could when the bars of its file were recent.
        newest_close: UTC ms.
        age_seconds: since the newest close.
        bars: number of bars.
        rejected: number of rejected rows.
        error: what is wrong.
        reasons: number of rejected rows by reason, the most common first.
        notes: remarks.
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
        """The result in series sentence, without the notes."""
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


def probe(config: Config, series: Iterable[SeriesConfig], as_of: int) -> list[ProbeResult]:
    """Get the latest final bars of these series as of `as_of` (UTC ms). Faults are results, never raised."""
    configured = list(series)
    groups: dict[object, list[SeriesConfig]] = {}
    for item in configured:
        groups.setdefault(item.place, []).append(item)
    holds = _holds(config, as_of) if any(item.file is None for item in configured) else {}
    held = [
        _held(item, holds[item.exchange], as_of) for item in configured if item.file is None and item.exchange in holds
    ]
    results = {result.series: result for result in held}
    with ThreadPoolExecutor(_THREADS) as pool:
        to_probe = [group for group in groups.values() if str(group[0].key) not in results]
        futures = [pool.submit(_probe_source, config, group, as_of) for group in to_probe]
        results |= {result.series: result for future in futures for result in future.result()}
    return [results[str(item.key)] for item in configured]


def _holds(config: Config, as_of: int) -> dict[str, Hold]:
    """Return the exchanges on hold, by name; none when the ledger is missing or cannot be read."""
    from forecaster.store import open_reader

    with suppress(StoreError), closing(open_reader(config.store.url.reveal())) as reader:
        return {hold.exchange: hold for hold in reader.holds() if hold.until > as_of}
    return {}


def _held(series: SeriesConfig, hold: Hold, as_of: int) -> ProbeResult:
    """Return the result of a series whose exchange is on hold, with what ends the hold."""
    from forecaster.cli.holds import hold_text
    from forecaster.log import sanitize

    text = f"{hold_text(hold, as_of)}; wait, or run `forecaster holds lift {hold.exchange}`"
    return ProbeResult(str(series.key), ok=False, error=sanitize(text))


def _probe_source(config: Config, group: list[SeriesConfig], as_of: int) -> list[ProbeResult]:
    """Probe all series of series exchange or series file."""
    from forecaster.sources import open_source
    from forecaster.store import open_store

    try:
        source = open_source(config, group[0], open_store("memory:"))
    except ForecasterError as error:
        return [_wrong(series, error) for series in group]
    with closing(source), ThreadPoolExecutor(_THREADS) as pool:
        if group[0].file is None:
            return list(pool.map(lambda series: _probe_series(config, source, series, as_of), group))
        is_alone = len(group) == 1
        return [_probe_file(config, cast("FileSource", source), series, as_of, is_alone=is_alone) for series in group]


def _probe_file(config: Config, source: FileSource, series: SeriesConfig, as_of: int, *, is_alone: bool) -> ProbeResult:
    """Read a series of a file. If the file holds no other, compare it with what would be inferred from the file."""
    try:
        rows = source.validate_rows(series.key, as_of)
    except ForecasterError as error:
        is_number = isinstance(error, BadPayload) and error.expected.startswith("a number")
        note = f"`decimal` is {series.decimal!r}: is that right?"
        return replace(_wrong(series, error), notes=(note,) if is_number and series.decimal else ())
    notes = [*_file_notes(rows, as_of), *unused_keys(series, rows)]
    if is_alone:
        notes += _name_notes(source, series)
    notes += _weekday_notes(rows.bars, partial(_inferred_calendar, source, series) if is_alone else None)
    return _check_bars(config, series, Fetched(rows.bars, rows.rejected), as_of, notes=tuple(notes))


def _probe_series(config: Config, source: BarSource, series: SeriesConfig, as_of: int) -> ProbeResult:
    """Fetch the latest page, as the service does for a new series."""
    try:
        fetched = source.fetch(series.key, None, as_of)
    except ForecasterError as error:
        return _wrong(series, error, inactive=_inactive_market(source, series))
    return _check_bars(
        config, series, fetched, as_of, _inactive_market(source, series), tuple(_weekday_notes(fetched.bars))
    )


def _check_bars(
    config: Config, series: SeriesConfig, fetched: Fetched, as_of: int, inactive: str = "", notes: tuple[str, ...] = ()
) -> ProbeResult:
    """Return the result of a series whose bars were fetched or read."""
    reasons = count_reasons(fetched.rejected)
    fault = fetched.fault or _find_fault(config, series, fetched, as_of)
    if fault is not None:
        return replace(_wrong(series, fault, reasons, inactive), notes=notes)
    bars, newest = fetched.bars, int(fetched.bars.close_time[-1])
    age = (as_of - newest) / 1000
    wrong = inactive or ("stale" if _is_stale(config, series, bars, as_of) else "")
    return ProbeResult(
        series=str(series.key),
        ok=not wrong,
        newest_close=newest,
        age_seconds=age,
        bars=len(bars),
        rejected=sum(reasons.values()),
        error=f"{wrong}: its newest bar closed {_closed(newest, age)}" if wrong else None,
        reasons=reasons,
        notes=notes,
    )


def _wrong(
    series: SeriesConfig, fault: Exception, reasons: Mapping[str, int] | None = None, inactive: str = ""
) -> ProbeResult:
    from forecaster.log import sanitize

    reasons = reasons or {}
    text = sanitize(f"{inactive and f'{inactive}: '}{type(fault).__name__}: {fault}")
    return ProbeResult(str(series.key), ok=False, rejected=sum(reasons.values()), error=text, reasons=reasons)


def _find_fault(config: Config, series: SeriesConfig, fetched: Fetched, as_of: int) -> ForecasterError | None:
    """Return why these bars cannot be forecast; None when they can."""
    from forecaster.sources.exchange.guard import anchor_hint

    key, rejected = series.key, fetched.rejected
    if not len(fetched.bars) and rejected:
        opens = np.array([row.open_time for row in rejected], np.int64)
        return InvalidBars.refused(key, Counter(row.reason for row in rejected), len(rejected), anchor_hint(key, opens))
    if not len(fetched.bars):
        return MissingBars(key, _expected_close(key, as_of), None)
    if series.file is not None and len(fetched.bars) < config.model.min_context:
        return NotEnoughBars(key, config.model.min_context, len(fetched.bars))
    return None


def _inactive_market(source: BarSource, series: SeriesConfig) -> str:
    """Describe a market that its exchange lists as inactive; empty for an active series."""
    if series.file is not None:
        return ""
    from forecaster.sources.exchange.source import ExchangeSource

    is_inactive = isinstance(source, ExchangeSource) and source.is_active(series.key) is False
    return "the market is no longer traded" if is_inactive else ""


def _is_stale(config: Config, series: SeriesConfig, bars: Bars, as_of: int) -> bool:
    """Return whether the latest bar of an exchange lags further behind than pauses in trading explain.

    Only slots of the calendar count.
    """
    if series.file is not None:
        return False
    key, opens = series.key, bars.open_time
    slots = key.trading_calendar.opens_between(key.timeframe, int(opens[0]), int(opens[-1]) + 1)
    longest = int(np.diff(np.searchsorted(slots, opens)).max(initial=0))
    recent = key.trading_calendar.last_opens(key.timeframe, as_of, max(_MAX_LAG, longest) + 1)
    closes, newest = key.trading_calendar.closes_of(key.timeframe, recent), int(bars.close_time[-1])
    late_ms = config.exchanges[series.exchange].late_after * 1000
    return bool(len(closes)) and newest < closes[0] and closes[-1] - newest > late_ms


def _file_notes(rows: ValidatedRows, as_of: int) -> Iterator[str]:
    """Yield remarks on the bars of a file."""
    yield from rows.notes
    if rows.replaced:
        yield f"{rows.replaced:,} rows replaced by later rows of the same time"
    if rows.unclosed:
        yield unclosed_message(rows.unclosed)
    if len(rows.bars) and not is_up_to_date(rows.bars, as_of):
        yield file_end_message(int(rows.bars.close_time[-1]))


def _name_notes(source: FileSource, series: SeriesConfig) -> Iterator[str]:
    """Yield a note when the name of a file contains another symbol."""
    try:
        (inferred,) = source.infer_series(series.timeframe, ALWAYS_OPEN)
    except (ForecasterError, ValueError):  # or several
        return
    symbol, name = inferred.key.symbol, re.sub(r"[\W_]", "", str(series.file and series.file.name).upper())
    is_named = inferred.reasons["symbol"] == "the file's name" and re.sub(r"\W", "", symbol) in name
    if is_named and symbol != series.symbol.partition(":")[0]:
        yield f"`symbol`: the file's name says {symbol}"


def unused_keys(series: SeriesConfig, rows: ValidatedRows | None = None) -> Iterator[str]:
    """Yield a note for each key of a series that has no effect; `rows` are the rows of its file."""
    unused = {name for name in ("day_anchor", "timezone") if series.model_copy(update={name: None}).key == series.key}
    zone = "" if rows is None else rows.parsed_as.get("timezone", "")
    if series.day_anchor is not None and "day_anchor" in unused:
        yield f"`day_anchor` changes nothing: bars of {series.timeframe} open at the same times without it"
    if series.timezone is not None and "timezone" in unused and zone.endswith("is not used"):
        yield f"`timezone` changes nothing: {zone}"
    if series.file is None and series.calendar not in (ALWAYS_OPEN, WEEKDAYS):
        yield f"`calendar` is {series.calendar}: the exchanges of ccxt trade around the clock, 24/7"


def _weekday_notes(bars: Bars, guess: Callable[[], str] | None = None) -> Iterator[str]:
    """Yield a note when a 24/7 market has bars on weekdays only; `guess` names a calendar that fits."""
    if bars.key.calendar.partition("@")[0] != ALWAYS_OPEN or not len(bars):
        return
    first, last = int(bars.open_time[0]), int(bars.open_time[-1])
    days = np.arange(first - first % DAY_MS, last + 1, DAY_MS)
    if is_weekend(days).sum() >= _WEEKEND_DAYS and not is_weekend(bars.open_time).any():
        name = guess() if guess else ""
        yield f"`calendar`: there are bars on weekdays only: is it {name or 'that of an exchange, such as XNYS'}?"


def _inferred_calendar(source: FileSource, series: SeriesConfig) -> str:
    """Return the calendar inferred from a file, other than 24/7; empty for none or several."""
    try:
        (inferred,) = source.infer_series(series.timeframe)
    except (ForecasterError, ValueError):
        return ""
    return inferred.key.calendar if inferred.key.calendar.partition("@")[0] != ALWAYS_OPEN else ""


def _expected_close(key: SeriesKey, as_of: int) -> int:
    return int(
        key.trading_calendar.closes_of(key.timeframe, key.trading_calendar.last_opens(key.timeframe, as_of, 1))[0]
    )


def _closed(time_ms: int, age_seconds: float) -> str:
    """Format a time in the past: `2026-10-20 00:00 UTC, 40d 2h ago`."""
    return f"{format_time(time_ms)}, {approximate_duration(1000 * age_seconds)} ago"
