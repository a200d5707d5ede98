"""Infer the series of a file: symbol, timeframe and calendar, each with the reason.

A calendar is inferred only if it alone fits. New York must fit with its holidays; a market that never closes must have
weekends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from forecaster.bars import SeriesKey
from forecaster.calendars import ALWAYS_OPEN, WEEKDAYS, anchored_name, canonical_name, get_calendar
from forecaster.errors import Ambiguous
from forecaster.sessions import is_weekend
from forecaster.tables.calendar_fit import (
    FOREIGN_EXCHANGE,
    NEW_YORK,
    check_zone,
    covers_session_opens,
    fits_local_time,
    fraction_on_grid,
    has_session_hours,
    matching_exchanges,
    off_grid_hint,
    session_coverage,
)
from forecaster.tables.spacing import infer_timeframe
from forecaster.tables.symbols import QUOTES, normalize_symbol
from forecaster.timeframe import DAY_MS, Timeframe
from forecaster.zones import UNWRITTEN, Labels, get_clock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from forecaster.tables import ParseOptions, Rows

GivenValues: TypeAlias = tuple[str | None, str | None, str | None]
"""Timeframe, calendar and day anchor; None is inferred."""

_TIMEFRAME_IN_NAME: Final = re.compile(r"\d+(MIN|MINUTES?|HOURS?|DAYS?|[MHDW])|[MHDW]N?\d+|DAILY|HOURLY")
_PAIR_AND_MINUTES: Final = re.compile(r"([A-Z]{6})(?:1|5|15|30|60|240|1440)")  # as MetaTrader 4 names its files
_MAX_STRAY_WEEKENDS: Final = 0.05
_MIN_FIT: Final = 0.995
_MIN_COMPLETE: Final = 0.98
_MIN_COVERAGE: Final = 0.9
_WEEKEND_MS: Final = 47 * 3_600_000
_CALENDARS_START: Final = 631_324_800_000  # 1990-01-03: sessions of exchanges are known from then on
_WORLDWIDE_HOLIDAYS: Final = {"12-25", "01-01"}
_MIN_HOLIDAYS: Final = 3
_MIN_LEAD: Final = 2
_DAY: Final = Timeframe("1d")


@dataclass(frozen=True, slots=True)
class InferredSeries:
    """One series of a file; `reasons` has `symbol`, `spacing` and `calendar`."""

    key: SeriesKey
    reasons: Mapping[str, str]


def infer_from_rows(path: Path, symbol: str, rows: Rows, options: ParseOptions, given: GivenValues) -> InferredSeries:
    """Infer the series of rows; `symbol` is its name in the file. Given values are not inferred.

    Raises:
        Ambiguous: for times that fit no calendar or several.
        BadPayload: for times of no timeframe.
    """
    source, (timeframe_name, calendar_name, anchor) = str(path), given
    timeframe = infer_timeframe(source, rows.labels.instant) if timeframe_name is None else Timeframe(timeframe_name)
    spacing = "the most common distance between times" if timeframe_name is None else "as given"
    if calendar_name is None and anchor is None:
        calendar, reason = _infer_calendar(source, timeframe, rows, options)
    else:
        calendar, reason = canonical_name(calendar_name or ALWAYS_OPEN), "as given"
    if calendar == ALWAYS_OPEN or (calendar == WEEKDAYS and calendar_name is not None and (anchor or options.timezone)):
        calendar = anchored_name(anchor, options.timezone, timeframe, calendar)
    key = SeriesKey(
        "file", _infer_symbol(normalize_symbol(symbol) if symbol else base_name(path), calendar), timeframe, calendar
    )
    symbol_reason = f"{symbol} in the file" if symbol else "the file's name"
    return InferredSeries(key, {"symbol": symbol_reason, "spacing": spacing, "calendar": reason})


def _infer_calendar(source: str, timeframe: Timeframe, rows: Rows, options: ParseOptions) -> tuple[str, str]:
    """Return the calendar that the times fit, and the reason; raise Ambiguous if none or several fit."""
    labels = rows.labels[np.unique(rows.labels.instant, return_index=True)[1]]
    known = labels.instant >= _CALENDARS_START
    labels = labels[known] if known.any() else labels
    if timeframe.is_daily:
        return _infer_daily_calendar(source, labels, is_given=rows.zone_source == "given")
    times, new_york = labels.instant, get_calendar(NEW_YORK)
    is_known = rows.zone_source in ("written", "given") and has_session_hours(timeframe, times)
    is_new_york = fraction_on_grid(timeframe, new_york, times) >= _MIN_FIT and (
        is_known or covers_session_opens(timeframe, NEW_YORK, times)
    )
    if not is_new_york or fits_local_time(timeframe, new_york, labels):
        check_zone(source, timeframe, ALWAYS_OPEN, rows)
    if is_new_york:
        return NEW_YORK, "the times fit the sessions of New York"
    if is_weekend(times).mean() > _MAX_STRAY_WEEKENDS:
        return ALWAYS_OPEN, "there are weekends among the times"
    if _is_foreign_exchange(timeframe, times):
        return FOREIGN_EXCHANGE, "the times are those of the week of foreign exchange"
    local = times if options.timezone is None else labels.written
    if has_session_hours(timeframe, local):
        hint = off_grid_hint(timeframe, NEW_YORK, times, get_calendar(NEW_YORK).closes_of(timeframe, times) < 0)
        found = f"times that keep to weekdays and to a part of the day, and do not fit {NEW_YORK}: {hint}"
        raise Ambiguous(source, "calendar", "its exchange's code, or 24/7", found)
    if _is_complete(timeframe, times) and _has_weekend(times):
        return WEEKDAYS, "the times are those of whole weekdays"
    return ALWAYS_OPEN, "the times are of all hours"


def _is_foreign_exchange(timeframe: Timeframe, times: NDArray[np.int64]) -> bool:
    """Return whether times that span a weekend fill the week of foreign exchange, and no other hours."""
    sessions = get_calendar(FOREIGN_EXCHANGE)
    is_in = (
        fraction_on_grid(timeframe, sessions, times) >= _MIN_FIT
        and session_coverage(timeframe, FOREIGN_EXCHANGE, times) >= _MIN_COVERAGE
    )
    weekend = np.diff(times).max(initial=0) > _WEEKEND_MS
    return bool(is_in and weekend)


def _infer_daily_calendar(source: str, labels: Labels, *, is_given: bool) -> tuple[str, str]:
    """Return the calendar of daily labels; `is_given`: the user gave their time zone."""
    if is_given and _is_foreign_exchange(_DAY, labels.instant):
        return FOREIGN_EXCHANGE, "the days are those of foreign exchange, from 17:00 in New York"
    is_written = labels.written != UNWRITTEN
    written = np.where(is_written, labels.written, labels.instant)
    dates = np.unique(written - written % DAY_MS)
    if is_weekend(dates).mean() > _MAX_STRAY_WEEKENDS:
        return ALWAYS_OPEN, "there are weekends among the days"
    eastern = (written > labels.instant) & (written % DAY_MS == 0)
    if eastern.mean() > 0.5:  # noqa: PLR2004 - most of them
        hours = (written - labels.instant)[eastern][0] / 3_600_000
        shown = {
            name: get_clock(get_calendar(name).zone).to_wall(labels.instant[eastern])
            for name in matching_exchanges(dates)
        }
        names = [name for name, wall in shown.items() if (wall == written[eastern]).mean() >= _MIN_FIT]
        raise _ambiguous_calendar(source, f"days that begin at midnight of UTC{hours:+g}", names)
    new_york = get_calendar(NEW_YORK)
    fits = fraction_on_grid(_DAY, new_york, new_york.opens_of_labels(_DAY, labels)) >= _MIN_FIT
    by_its_clock = is_written & (labels.written != labels.instant)
    at_its_midnight = by_its_clock & (get_clock(new_york.zone).to_wall(labels.instant) == labels.written)
    at_its_open = np.isin(labels.instant, _sessions_between(NEW_YORK, dates))
    if fits and (at_its_midnight | at_its_open).mean() >= _MIN_FIT:
        return NEW_YORK, "the days are those of New York's sessions, by its clock"
    name = _infer_from_dates(source, dates, fits_new_york=fits)
    if name == NEW_YORK:
        return NEW_YORK, "the days are those of New York's sessions, holidays left out"
    if (labels.instant % DAY_MS == 0).all():
        return WEEKDAYS, "the days are all weekdays, New York's holidays too; if they are an exchange's, name it"
    return ALWAYS_OPEN, "the days are all weekdays, by a clock that is not UTC's"


def _infer_from_dates(source: str, dates: NDArray[np.int64], *, fits_new_york: bool) -> str:
    """Return the calendar with the fewest other days: New York or all weekdays; raise Ambiguous unless it alone fits.

    Days that leave out no weekday are all weekdays, even if some exchange had no holiday among them.
    """
    days = np.arange(dates[0], dates[-1] + 1, DAY_MS)
    weekdays, has_weekend = days[~is_weekend(days)], is_weekend(days).any()
    sessions = _sessions_between(NEW_YORK, dates)
    closed, lacking = len(weekdays) - len(sessions), max(0, len(sessions) - len(dates))
    if fits_new_york and not lacking and closed >= _MIN_HOLIDAYS:
        return NEW_YORK
    is_whole = has_weekend and set(_month_days(np.setdiff1d(weekdays, dates))) <= _WORLDWIDE_HOLIDAYS
    if is_whole and not fits_new_york:
        return WEEKDAYS
    fitting = matching_exchanges(dates)
    if fits_new_york:
        fitting[NEW_YORK] = lacking
    if is_whole:
        fitting[WEEKDAYS] = len(weekdays) - len(dates)
    closest = [name for name, others in fitting.items() if others < min(fitting.values()) + _MIN_LEAD]
    if NEW_YORK in closest:  # Toronto has the same bars on common sessions
        opens = get_calendar(NEW_YORK).opens_of_labels(_DAY, Labels(dates, dates))
        same = {name for name in closest if np.isin(opens, _sessions_between(name, dates)).mean() >= _MIN_FIT}
        closest = [name for name in closest if name == NEW_YORK or name not in same or fitting[name] < lacking]
    if closest == [WEEKDAYS] or (closest == [NEW_YORK] and closed):
        return closest[0]
    is_tie = NEW_YORK in closest or WEEKDAYS in closest
    found = "days that fit more than one calendar" if is_tie else "days that fit neither New York nor all weekdays"
    names = sorted(fitting, key=fitting.__getitem__)
    raise _ambiguous_calendar(source, found, names if has_weekend else [ALWAYS_OPEN, *names])


def _month_days(dates: NDArray[np.int64]) -> list[str]:
    return [str(date)[5:] for date in dates.astype("datetime64[ms]").astype("datetime64[D]")]


def _ambiguous_calendar(source: str, found: str, fitting: list[str]) -> Ambiguous:
    """Return the error that names the calendars that fit."""
    suggestion = f"; those of {', '.join(fitting)} would fit" if fitting else ""
    return Ambiguous(source, "calendar", " or ".join(fitting[:3]) or "its exchange's code", found + suggestion)


def _is_complete(timeframe: Timeframe, times: NDArray[np.int64]) -> bool:
    """Return whether times fill nearly all slots of weekdays between the first and the last, and no others."""
    grid = get_calendar(ALWAYS_OPEN).opens_between(timeframe, int(times[0]), int(times[-1]) + 1)
    grid = grid[~is_weekend(grid)]
    return bool(np.isin(times, grid).mean() >= _MIN_FIT and np.isin(grid, times).mean() >= _MIN_COMPLETE)


def _has_weekend(times: NDArray[np.int64]) -> bool:
    days = np.arange(times[0] - times[0] % DAY_MS, times[-1] + 1, DAY_MS)
    return bool(is_weekend(days).any())


def _sessions_between(name: str, dates: NDArray[np.int64]) -> NDArray[np.int64]:
    return get_calendar(name).opens_between(_DAY, int(dates[0]), int(dates[-1]) + DAY_MS)


def base_name(path: Path) -> str:
    """Return the name of a file without its suffixes."""
    return Path(path.stem).stem if path.suffix.lower() in (".gz", ".bz2", ".xz", ".zip") else path.stem


def _infer_symbol(stem: str, calendar_name: str) -> str:
    """Infer base and quote from a name: the words before its timeframe; the default quote is USD."""
    words = re.findall(r"[^\W_]+", stem.upper()) or ["FILE"]
    untimed = [word for word in words if not _TIMEFRAME_IN_NAME.fullmatch(word)] or words
    before = list(takewhile(lambda word: not _TIMEFRAME_IN_NAME.fullmatch(word), words))
    words = before or untimed
    words = [_PAIR_AND_MINUTES.sub(r"\1", words[0]), *words[1:]]
    if len(words) > 1 and words[-1] in QUOTES:
        return f"{'-'.join(words[:-1])}/{words[-1]}"
    joined = "-".join(words)
    quote = next((quote for quote in QUOTES if joined.endswith(quote) and joined != quote), None)
    if quote is None or calendar_name == NEW_YORK:
        return f"{joined}/USD"
    return f"{joined.removesuffix(quote).rstrip('-')}/{quote}"
