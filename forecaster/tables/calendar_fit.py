"""Check whether times fit a calendar: as UTC, in another time zone, or not at all; and suggest the option that helps.

Prices are not used, and nothing is changed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.calendars import ALWAYS_OPEN, WEEKDAYS, anchored_name, get_calendar, is_continuous
from forecaster.errors import Ambiguous, BadPayload, format_time
from forecaster.sessions import is_weekend
from forecaster.timeframe import DAY_MS, MINUTE_MS, Timeframe
from forecaster.zones import UNWRITTEN, Labels, get_clock, wall_to_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.calendars import Calendar
    from forecaster.tables import Rows, ZoneSource

NEW_YORK: Final = "XNYS"
FOREIGN_EXCHANGE: Final = f"{WEEKDAYS}@17:00 America/New_York"
"""The week of foreign exchange, and of MetaTrader servers that are seven hours ahead of New York."""

_LARGE_EXCHANGES: Final = (
    *(NEW_YORK, "XTSE", "XETR", "XLON", "XPAR", "XAMS", "XMIL", "XMAD", "XSWX", "XSTO", "XWAR", "XWBO", "XTKS", "XHKG"),
    *("XSHG", "XTAI", "XBOM", "XASX", "BVMF"),
)
_ZONES: Final = (
    *("America/Chicago", "America/New_York", "America/Los_Angeles", "Europe/London", "Europe/Berlin", "Europe/Athens"),
    *("Asia/Kolkata", "Asia/Shanghai", "Asia/Tokyo", "Australia/Sydney"),
)
_OR_ZONE: Final = "; or `timezone`, if the times are not UTC's"
_DAY: Final = Timeframe("1d")
_HOUR: Final = Timeframe("1h")
_NEARLY_ALL: Final = 0.995
_NEARLY: Final = 0.9
_MOST: Final = 0.95
_MAX_OTHER_DAYS: Final = 2
_CLOSED_MS: Final = DAY_MS // 4
_MIN_TIMES: Final = 40
_SESSION_HOURS: Final = (  # of exchanges, in minutes of the local day: open of the first bar, close of the last
    *((480, 990), (540, 1050), (540, 1035), (540, 1020), (540, 900), (540, 930), (570, 960), (570, 900)),
    *((555, 930), (600, 960), (600, 1020), (600, 1065), (600, 1095)),
)
_HALF: Final = 0.5


def check_zone(source: str, timeframe: Timeframe, name: str, rows: Rows) -> None:
    """Check that times without a zone may be UTC.

    Args:
        source: name of the table in errors.
        timeframe: of its bars.
        name: of the calendar of its bars.
        rows: of one symbol.

    Raises:
        Ambiguous: if they are not UTC; names `timezone`, and the zone that fits.
    """
    if timeframe.is_daily and name == WEEKDAYS:
        _check_utc_days(source, rows.labels)
    if rows.zone_source in ("written", "given") or (timeframe.is_daily and _is_exchange(name)):
        return
    if rows.zone_source == "required":
        program = rows.parsed_as.get("timezone", "").removeprefix("not written: ")
        raise Ambiguous(source, "timezone", _example_zone(program), f"times whose zone is not written: {program}")
    if rows.utc_conflict and len(rows.labels):
        zone = re.search(r"(\S+)'s clock", rows.utc_conflict)
        clock = f"{zone[1]}, or UTC if they are" if zone else "its IANA name, such as Asia/Tokyo"
        raise Ambiguous(source, "timezone", clock, f"times without a zone, and {rows.utc_conflict}")
    if timeframe.is_daily or not len(rows.labels):
        return
    _check_sessions(source, timeframe, name, rows.labels)


def check_labels_are_opens(source: str, timeframe: Timeframe, sessions: Calendar, opens: NDArray[np.int64]) -> None:
    """Check that an exchange's bars are labelled by their opens.

    Raises:
        BadPayload: if most sessions have a row at their close, and none at their open.
    """
    if timeframe.is_daily or not len(opens):
        return
    starts = sessions.opens_between(_DAY, int(opens.min()) - DAY_MS, int(opens.max()) + 1)
    ends = sessions.closes_of(_DAY, starts)
    at_start, at_end = np.isin(starts, opens), np.isin(ends, opens) & ~np.isin(ends, starts)
    if (
        len(starts)
        and at_end.sum() > _HALF * (at_start | at_end).sum()
        and (at_start & at_end).sum() <= at_end.sum() / 2
    ):
        found = f"a row at the close of {int(at_end.sum())} sessions, and none at the open"
        raise BadPayload(source, "times at which bars open", found)


def has_session_hours(timeframe: Timeframe, wall: NDArray[np.int64]) -> bool:
    """Return whether local times (ms) keep to one part of the day, as those of an exchange do.

    At least six hours of the day are without times on all days, and such a night follows most days. A single day must
    begin and end as sessions of large exchanges do.
    """
    times = np.unique(wall)
    if timeframe.is_daily or len(times) < 2:  # noqa: PLR2004 - one row says nothing
        return False
    days, of_day = np.unique(times // DAY_MS), np.unique(times % DAY_MS)
    if len(days) == 1:
        span = (int(of_day[0]) // MINUTE_MS, int(of_day[-1] + timeframe.ms) // MINUTE_MS)
        return (
            span in _SESSION_HOURS and not is_weekend(times[:1])[0] and len(times) * timeframe.ms > _HALF * 6 * _HOUR.ms
        )
    pauses = np.diff(np.append(of_day, of_day[0] + DAY_MS)) - timeframe.ms
    nights = (np.diff(times) > _CLOSED_MS).sum()
    is_enough = len(times) >= min(_MIN_TIMES, _HALF * len(of_day) * (len(days) - 1))
    return bool(is_enough and pauses.max() >= _CLOSED_MS and nights >= _HALF * (len(days) - 1))


def fraction_on_grid(timeframe: Timeframe, sessions: Calendar, opens: NDArray[np.int64]) -> float:
    """Return the fraction of open times at which a bar of the calendar opens."""
    return float((sessions.closes_of(timeframe, opens) >= 0).mean()) if len(opens) else 0.0


def fits_local_time(timeframe: Timeframe, sessions: Calendar, labels: Labels) -> bool:
    """Return whether times read as UTC fit an exchange's sessions in local time at least as well as in UTC."""
    local = wall_to_utc(labels.written, sessions.zone)
    by_its_clock, as_utc = (fraction_on_grid(timeframe, sessions, times) for times in (local, labels.instant))
    return not (local == labels.instant).all() and by_its_clock >= max(_MOST, as_utc)


def covers_session_opens(timeframe: Timeframe, name: str, opens: NDArray[np.int64]) -> bool:
    """Return whether open times include the first bar of at least half of the sessions that they span."""
    if timeframe.is_daily or not len(opens):
        return False
    starts = get_calendar(name).opens_between(_DAY, int(opens.min()) - DAY_MS, int(opens.max()) + 1)
    starts = starts[starts >= opens.min() - DAY_MS // 2]
    return bool(len(starts) and np.isin(starts, opens).mean() >= _HALF)


def matching_exchanges(dates: NDArray[np.int64]) -> dict[str, int]:
    """Return large exchanges that have sessions on all these dates (midnights, UTC ms), and on few others.

    Returns:
        By calendar name, the number of other sessions from the first date to the last.
    """
    matches = {}
    for name in _LARGE_EXCHANGES:
        sessions = get_calendar(name)
        opens = sessions.opens_between(_DAY, int(dates.min()) - DAY_MS, int(dates.max()) + 2 * DAY_MS)
        local = get_clock(sessions.zone).to_wall(opens)
        days = local - local % DAY_MS
        days = days[(days >= dates.min()) & (days <= dates.max())]
        others = len(days) - len(dates)
        if np.isin(dates, days).all() and others <= max(_MAX_OTHER_DAYS, (1 - _MOST) * len(days)):
            matches[name] = others
    return matches


def off_grid_hint(
    timeframe: Timeframe,
    name: str,
    opens: NDArray[np.int64],
    refused: NDArray[np.bool_],
    zone_source: ZoneSource = "written",
) -> str:
    """Return what rows off the grid have in common, and which option may help; empty if nothing is found."""
    off = opens[refused]
    if not len(off):
        return ""
    sessions = get_calendar(name)
    if is_continuous(name):
        return _anchor_hint(timeframe, name, opens, is_assumed=zone_source == "assumed")
    if timeframe.is_daily:
        dates = np.unique(off - off % DAY_MS)
        fitting = matching_exchanges(np.unique(opens - opens % DAY_MS))
        suggestion = f"; {', '.join(fitting)} would fit" if fitting else ""
        first = format_time(int(dates[0]))[:10]
        closed = f"they are of days on which {name} has no session, such as {first}"
        return f"{closed}: another `calendar` (--calendar){suggestion}?"
    step = min(timeframe.ms, _HOUR.ms)
    starts = sessions.opens_between(_DAY, int(opens.min()) - DAY_MS, int(opens.max()) + 1)
    is_by_hours = len(starts) and (starts % step != 0).mean() > _HALF and (opens % step == 0).mean() >= _MOST
    if is_by_hours:
        start = format_time(int(starts[0]))
        return f"they are on the clock's hours, and {name} counts from the open of a session, such as {start}"
    return f"they are outside the sessions of {name}: another `timezone` or `calendar`?"


def _example_zone(program: str) -> str:
    """Return an example of a time zone, by the program that wrote the table."""
    examples = {"HistData": "Etc/GMT+5", "MetaTrader": "America/New_York+07:00"}
    return next((clock for writer, clock in examples.items() if writer in program), "its IANA name, such as Asia/Tokyo")


def _is_exchange(name: str) -> bool:
    """Return whether days are sessions, identified by their dates in any zone; those of `24/5` are UTC days."""
    return not is_continuous(name) and name != WEEKDAYS


def _check_utc_days(source: str, labels: Labels) -> None:
    """Raise Ambiguous for days that begin at midnight of another zone, on a calendar of UTC days."""
    is_date = (labels.written != UNWRITTEN) & (labels.written % DAY_MS == 0)
    elsewhere = labels.instant[is_date & (labels.instant % DAY_MS != 0)]
    if len(elsewhere) > _HALF * len(labels):
        found = f"days that begin at {_format_clock(int(elsewhere[0]) % DAY_MS)} UTC"
        raise Ambiguous(source, "calendar", f"{ALWAYS_OPEN}, with its day anchor", found)


def _check_sessions(source: str, timeframe: Timeframe, name: str, labels: Labels) -> None:
    """Raise Ambiguous for times that are not UTC, since they fit an exchange's sessions in local time."""
    if _is_exchange(name):
        sessions = get_calendar(name)
        if fits_local_time(timeframe, sessions, labels):
            as_utc = fraction_on_grid(timeframe, sessions, labels.instant) >= _MOST
            found = f"times without a zone that fit the sessions of {name} by its own clock{', and as UTC' * as_utc}"
            raise Ambiguous(source, "timezone", f"{'UTC or ' * as_utc}{sessions.zone}", found)
        return
    new_york = get_calendar(NEW_YORK)
    local = wall_to_utc(labels.written, new_york.zone)
    is_full = (
        covers_session_opens(timeframe, NEW_YORK, local) and session_coverage(timeframe, NEW_YORK, local) >= _NEARLY
    )
    if is_full and fraction_on_grid(timeframe, new_york, local) >= _NEARLY_ALL:
        advice = f"its `calendar` (--calendar {NEW_YORK}) too"
        found = f"times without a zone that fit the sessions of {NEW_YORK} by its own clock: {advice}"
        raise Ambiguous(source, "timezone", new_york.zone, found)
    if has_session_hours(timeframe, labels.written):
        times = labels.written % DAY_MS
        first, last = _format_clock(int(times.min())), _format_clock(int(times.max()))
        found = f"times without a zone that keep to a part of the day, from {first} to {last}: those of an exchange"
        raise Ambiguous(source, "timezone", "and its calendar; UTC if that is their zone", found)


def session_coverage(timeframe: Timeframe, name: str, opens: NDArray[np.int64]) -> float:
    """Return the fraction of a calendar's bars that are among open times, over the span of these."""
    if not len(opens):
        return 0.0
    grid = get_calendar(name).opens_between(timeframe, int(opens.min()), int(opens.max()) + 1)
    return float(np.isin(grid, opens).mean()) if len(grid) else 0.0


def _anchor_hint(timeframe: Timeframe, name: str, opens: NDArray[np.int64], *, is_assumed: bool) -> str:
    """Return a hint with the day anchor that fits."""
    if timeframe.ms <= _HOUR.ms:
        return "they do not open at full slots of the day: are the times right?"
    phases, counts = np.unique(opens % timeframe.ms, return_counts=True)
    if counts.max() >= _MOST * counts.sum() and int(phases[0]) % MINUTE_MS == 0:
        anchor = _format_clock(int(phases[np.argmax(counts)]))
        rows = "all rows open at" if timeframe.is_daily else f"rows open every {timeframe} from"
        return f"{rows} {anchor} UTC: `day_anchor` (--day-anchor '{anchor} UTC'){_OR_ZONE * is_assumed}"
    for anchor in (*(f"00:00 {zone}" for zone in _ZONES), "17:00 America/New_York"):
        if fraction_on_grid(timeframe, get_calendar(anchored_name(anchor, None, timeframe)), opens) >= _NEARLY_ALL:
            hint = f"`day_anchor` (--day-anchor '{anchor}'){_OR_ZONE * is_assumed}"
            return f"all rows open by the clock of {anchor[6:]}: {hint}"
    return "" if name == ALWAYS_OPEN else f"they do not open when days of {name} do"


def _format_clock(ms: int) -> str:
    return f"{ms // 3_600_000:02}:{ms // MINUTE_MS % 60:02}"
