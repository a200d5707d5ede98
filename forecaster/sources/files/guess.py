"""What a file holds that nobody has described: symbol, timeframe and calendar, each with the reason.

A calendar is guessed only where one alone fits. New York's must fit with its holidays; a market that never closes must
have weekends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from forecaster.bars import SeriesKey
from forecaster.calendars import (
    ALWAYS_OPEN,
    UNWRITTEN,
    WEEKDAYS,
    Labels,
    anchored,
    calendar,
    canonical,
    is_weekend,
    on_clock,
)
from forecaster.errors import Ambiguous
from forecaster.tables.fit import (
    FOREIGN_EXCHANGE,
    NEW_YORK,
    check_zone,
    covers,
    fills_sessions,
    fits_by_its_clock,
    fitting_exchanges,
    hint,
    keeps_to_sessions,
    share_on_grid,
)
from forecaster.tables.reading import QUOTES, plain_symbol
from forecaster.tables.spacing import guess_timeframe
from forecaster.timeframe import DAY_MS, Timeframe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from forecaster.tables import Reading, Rows

Said: TypeAlias = tuple[str | None, str | None, str | None]
"""Timeframe, calendar and day anchor, as they were given."""

_TIMEFRAME_IN_NAME: Final = re.compile(r"\d+(MIN|MINUTES?|HOURS?|DAYS?|[MHDW])|[MHDW]N?\d+|DAILY|HOURLY")
_PAIR_AND_MINUTES: Final = re.compile(r"([A-Z]{6})(?:1|5|15|30|60|240|1440)")  # as MetaTrader 4 names its files
_STRAY_WEEKENDS: Final = 0.05
_FITS: Final = 0.995
_COMPLETE: Final = 0.98
_FILLS: Final = 0.9
_WEEKEND_MS: Final = 47 * 3_600_000
_KNOWN_SINCE: Final = 631_324_800_000  # 1990-01-03: sessions of exchanges are known from then on
_RESTS_EVERYWHERE: Final = {"12-25", "01-01"}
_TELLING: Final = 3
_CLEARLY: Final = 2
_DAY: Final = Timeframe("1d")


@dataclass(frozen=True, slots=True)
class Guess:
    """One series of a file, and why: `reasons` has `symbol`, `spacing` and `calendar`."""

    key: SeriesKey
    reasons: Mapping[str, str]


def guess_series(path: Path, symbol: str, rows: Rows, reading: Reading, said: Said) -> Guess:
    """Guess the series of rows, called so in the file; what is said is not guessed.

    Raises:
        Ambiguous: for times that fit no calendar, or several.
        BadPayload: for times of no timeframe.
    """
    source, (name, code, anchor) = str(path), said
    length = guess_timeframe(source, rows.labels.instant) if name is None else Timeframe(name)
    spacing = "the commonest distance between times" if name is None else "as said"
    if code is None and anchor is None:
        where, why = _guess_calendar(source, length, rows, reading)
    else:
        where, why = canonical(code or ALWAYS_OPEN), "as said"
    if where == ALWAYS_OPEN or (where == WEEKDAYS and code is not None and (anchor or reading.timezone)):
        where = anchored(anchor, reading.timezone, length, where)
    key = SeriesKey("file", _guess_symbol(plain_symbol(symbol) if symbol else stem_of(path), where), length, where)
    named = f"{symbol} in the file" if symbol else "the file's name"
    return Guess(key, {"symbol": named, "spacing": spacing, "calendar": why})


def _guess_calendar(source: str, timeframe: Timeframe, rows: Rows, reading: Reading) -> tuple[str, str]:
    """Name the calendar that the times fit, and say why.

    Raises:
        Ambiguous: when none fits, or more than one.
    """
    labels = rows.labels[np.unique(rows.labels.instant, return_index=True)[1]]
    known = labels.instant >= _KNOWN_SINCE
    labels = labels[known] if known.any() else labels
    if timeframe.is_daily:
        return _guess_of_days(source, labels, is_said=rows.zone == "said")
    times, new_york = labels.instant, calendar(NEW_YORK)
    is_known = rows.zone in ("written", "said") and keeps_to_sessions(timeframe, times)
    is_new_york = share_on_grid(timeframe, new_york, times) >= _FITS and (
        is_known or fills_sessions(timeframe, NEW_YORK, times)
    )
    if not is_new_york or fits_by_its_clock(timeframe, new_york, labels):
        check_zone(source, timeframe, ALWAYS_OPEN, rows)
    if is_new_york:
        return NEW_YORK, "the times fit the sessions of New York"
    if is_weekend(times).mean() > _STRAY_WEEKENDS:
        return ALWAYS_OPEN, "there are weekends among the times"
    if _is_foreign_exchange(timeframe, times):
        return FOREIGN_EXCHANGE, "the times are those of the week of foreign exchange"
    local = times if reading.timezone is None else labels.written
    if keeps_to_sessions(timeframe, local):
        why = hint(timeframe, NEW_YORK, times, calendar(NEW_YORK).closes_of(timeframe, times) < 0)
        found = f"times that keep to weekdays and to a part of the day, and do not fit {NEW_YORK}: {why}"
        raise Ambiguous(source, "calendar", "its exchange's code, or 24/7", found)
    if _is_complete(timeframe, times) and _has_weekend(times):
        return WEEKDAYS, "the times are those of whole weekdays"
    return ALWAYS_OPEN, "the times are of all hours"


def _is_foreign_exchange(timeframe: Timeframe, times: NDArray[np.int64]) -> bool:
    """Whether times over a weekend or more fill its week, and no other hour."""
    sessions = calendar(FOREIGN_EXCHANGE)
    is_in = share_on_grid(timeframe, sessions, times) >= _FITS and covers(timeframe, FOREIGN_EXCHANGE, times) >= _FILLS
    weekend = np.diff(times).max(initial=0) > _WEEKEND_MS
    return bool(is_in and weekend)


def _guess_of_days(source: str, labels: Labels, *, is_said: bool) -> tuple[str, str]:
    """Name the calendar of daily labels; `is_said`: by a clock that was named."""
    if is_said and _is_foreign_exchange(_DAY, labels.instant):
        return FOREIGN_EXCHANGE, "the days are those of foreign exchange, from 17:00 in New York"
    is_written = labels.written != UNWRITTEN
    written = np.where(is_written, labels.written, labels.instant)
    dates = np.unique(written - written % DAY_MS)
    if is_weekend(dates).mean() > _STRAY_WEEKENDS:
        return ALWAYS_OPEN, "there are weekends among the days"
    eastern = (written > labels.instant) & (written % DAY_MS == 0)
    if eastern.mean() > 0.5:  # noqa: PLR2004 - most of them
        hours = (written - labels.instant)[eastern][0] / 3_600_000
        shown = {name: on_clock(labels.instant[eastern], calendar(name).zone) for name in fitting_exchanges(dates)}
        names = [name for name, wall in shown.items() if (wall == written[eastern]).mean() >= _FITS]
        raise _unsettled(source, f"days that begin at midnight of UTC{hours:+g}", names)
    new_york = calendar(NEW_YORK)
    fits = share_on_grid(_DAY, new_york, new_york.opens_of_labels(_DAY, labels)) >= _FITS
    by_its_clock = is_written & (labels.written != labels.instant)
    at_its_midnight = by_its_clock & (on_clock(labels.instant, new_york.zone) == labels.written)
    at_its_open = np.isin(labels.instant, _sessions_between(NEW_YORK, dates))
    if fits and (at_its_midnight | at_its_open).mean() >= _FITS:
        return NEW_YORK, "the days are those of New York's sessions, by its clock"
    name = _guess_of_dates(source, dates, fits_new_york=fits)
    if name == NEW_YORK:
        return NEW_YORK, "the days are those of New York's sessions, holidays left out"
    if (labels.instant % DAY_MS == 0).all():
        return WEEKDAYS, "the days are all weekdays, New York's holidays too; if they are an exchange's, name it"
    return ALWAYS_OPEN, "the days are all weekdays, by a clock that is not UTC's"


def _guess_of_dates(source: str, dates: NDArray[np.int64], *, fits_new_york: bool) -> str:
    """Name the calendar that has the fewest days more than these: New York's or all weekdays, where one alone does.

    Days that leave out no weekday are all weekdays, though some exchange may have had no holiday among them.

    Raises:
        Ambiguous: when it is another exchange's, or several have.
    """
    days = np.arange(dates[0], dates[-1] + 1, DAY_MS)
    weekdays, has_weekend = days[~is_weekend(days)], is_weekend(days).any()
    sessions = _sessions_between(NEW_YORK, dates)
    closed, lacking = len(weekdays) - len(sessions), max(0, len(sessions) - len(dates))
    if fits_new_york and not lacking and closed >= _TELLING:
        return NEW_YORK
    is_whole = has_weekend and set(_month_days(np.setdiff1d(weekdays, dates))) <= _RESTS_EVERYWHERE
    if is_whole and not fits_new_york:
        return WEEKDAYS
    fitting = fitting_exchanges(dates)
    if fits_new_york:
        fitting[NEW_YORK] = lacking
    if is_whole:
        fitting[WEEKDAYS] = len(weekdays) - len(dates)
    closest = [name for name, more in fitting.items() if more < min(fitting.values()) + _CLEARLY]
    if NEW_YORK in closest:  # Toronto's bars are the same, on days on which both have one
        opens = calendar(NEW_YORK).opens_of_labels(_DAY, Labels(dates, dates))
        same = {name for name in closest if np.isin(opens, _sessions_between(name, dates)).mean() >= _FITS}
        closest = [name for name in closest if name == NEW_YORK or name not in same or fitting[name] < lacking]
    if closest == [WEEKDAYS] or (closest == [NEW_YORK] and closed):
        return closest[0]
    is_tie = NEW_YORK in closest or WEEKDAYS in closest
    found = "days that fit more than one calendar" if is_tie else "days that fit neither New York nor all weekdays"
    names = sorted(fitting, key=fitting.__getitem__)
    raise _unsettled(source, found, names if has_weekend else [ALWAYS_OPEN, *names])


def _month_days(dates: NDArray[np.int64]) -> list[str]:
    return [str(date)[5:] for date in dates.astype("datetime64[ms]").astype("datetime64[D]")]


def _unsettled(source: str, found: str, fitting: list[str]) -> Ambiguous:
    """Make the error that names calendars which would fit."""
    told = f"; those of {', '.join(fitting)} would fit" if fitting else ""
    return Ambiguous(source, "calendar", " or ".join(fitting[:3]) or "its exchange's code", found + told)


def _is_complete(timeframe: Timeframe, times: NDArray[np.int64]) -> bool:
    """Whether nearly every slot of weekdays between the first time and the last has one, and no time is elsewhere."""
    grid = calendar(ALWAYS_OPEN).opens_between(timeframe, int(times[0]), int(times[-1]) + 1)
    grid = grid[~is_weekend(grid)]
    return bool(np.isin(times, grid).mean() >= _FITS and np.isin(grid, times).mean() >= _COMPLETE)


def _has_weekend(times: NDArray[np.int64]) -> bool:
    days = np.arange(times[0] - times[0] % DAY_MS, times[-1] + 1, DAY_MS)
    return bool(is_weekend(days).any())


def _sessions_between(name: str, dates: NDArray[np.int64]) -> NDArray[np.int64]:
    return calendar(name).opens_between(_DAY, int(dates[0]), int(dates[-1]) + DAY_MS)


def stem_of(path: Path) -> str:
    """Give the name of a file without its endings."""
    return Path(path.stem).stem if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zip") else path.stem


def _guess_symbol(stem: str, calendar_name: str) -> str:
    """Read base and quote from a name: the words before its timeframe; a quote that is not named is USD."""
    words = re.findall(r"[^\W_]+", stem.upper()) or ["FILE"]
    untimed = [word for word in words if not _TIMEFRAME_IN_NAME.fullmatch(word)] or words
    before = list(takewhile(lambda word: not _TIMEFRAME_IN_NAME.fullmatch(word), words))
    words = before or untimed
    words = [_PAIR_AND_MINUTES.sub(r"\1", words[0]), *words[1:]]
    if len(words) > 1 and words[-1] in QUOTES:
        return f"{'-'.join(words[:-1])}/{words[-1]}"
    one = "-".join(words)
    quote = next((quote for quote in QUOTES if one.endswith(quote) and one != quote), None)
    if quote is None or calendar_name == NEW_YORK:
        return f"{one}/USD"
    return f"{one.removesuffix(quote).rstrip('-')}/{quote}"
