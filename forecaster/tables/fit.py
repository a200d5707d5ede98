"""Whether times fit a calendar: in UTC as they were read, by another clock, or not at all; and what would make them.

Nothing here looks at prices, and nothing is changed: what does not fit is refused with the option that settles it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.calendars import (
    ALWAYS_OPEN,
    UNWRITTEN,
    WEEKDAYS,
    Labels,
    anchored,
    calendar,
    is_continuous,
    is_weekend,
    on_clock,
    on_utc,
)
from forecaster.errors import Ambiguous, BadPayload, utc_text
from forecaster.timeframe import DAY_MS, MINUTE_MS, Timeframe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from forecaster.calendars import Calendar
    from forecaster.tables import Rows, ZoneKind

NEW_YORK: Final = "XNYS"
FOREIGN_EXCHANGE: Final = f"{WEEKDAYS}@17:00 America/New_York"
"""The week of foreign exchange, and of MetaTrader servers that are seven hours ahead of New York."""

_EXCHANGES: Final = (
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
_FEW_MORE: Final = 2
_CLOSED_MS: Final = DAY_MS // 4
_ENOUGH: Final = 40
_HOURS: Final = (  # of exchanges by their own clocks: the first bar opens, and the last one closes, minutes of the day
    *((480, 990), (540, 1050), (540, 1035), (540, 1020), (540, 900), (540, 930), (570, 960), (570, 900)),
    *((555, 930), (600, 960), (600, 1020), (600, 1065), (600, 1095)),
)
_HALF: Final = 0.5


def check_zone(source: str, timeframe: Timeframe, name: str, rows: Rows) -> None:
    """Refuse times without a zone that are not UTC by all that can be seen.

    Args:
        source: what the error calls the table.
        timeframe: of its bars.
        name: of the calendar of its bars.
        rows: of one symbol.

    Raises:
        Ambiguous: names `timezone`, and the clock that the times fit.
    """
    if timeframe.is_daily and name == WEEKDAYS:
        _check_days_of_utc(source, rows.labels)
    if rows.zone in ("written", "said") or (timeframe.is_daily and _is_exchange(name)):
        return
    if rows.zone == "required":
        whose = rows.understood.get("timezone", "").removeprefix("not written: ")
        raise Ambiguous(source, "timezone", _example(whose), f"times whose zone is not written: {whose}")
    if rows.doubt and len(rows.labels):
        zone = re.search(r"(\S+)'s clock", rows.doubt)
        clock = f"{zone[1]}, or UTC if they are" if zone else "its IANA name, such as Asia/Tokyo"
        raise Ambiguous(source, "timezone", clock, f"times without a zone, and {rows.doubt}")
    if timeframe.is_daily or not len(rows.labels):
        return
    _check_sessions(source, timeframe, name, rows.labels)


def check_ends(source: str, timeframe: Timeframe, sessions: Calendar, opens: NDArray[np.int64]) -> None:
    """Refuse times of an exchange's bars that are those of their closes.

    Raises:
        BadPayload: when most sessions have a row at their close, and none at their open.
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


def keeps_to_sessions(timeframe: Timeframe, wall: NDArray[np.int64]) -> bool:
    """Whether times (ms, by any one clock) keep to one part of the day, as those of an exchange do.

    Six hours of the day or more are free of them on all days, and nights lie between most days. Of a single day, it
    is that it begins and ends as those of large exchanges do.
    """
    times = np.unique(wall)
    if timeframe.is_daily or len(times) < 2:  # noqa: PLR2004 - one row says nothing
        return False
    days, of_day = np.unique(times // DAY_MS), np.unique(times % DAY_MS)
    if len(days) == 1:
        span = (int(of_day[0]) // MINUTE_MS, int(of_day[-1] + timeframe.ms) // MINUTE_MS)
        return span in _HOURS and not is_weekend(times[:1])[0] and len(times) * timeframe.ms > _HALF * 6 * _HOUR.ms
    pauses = np.diff(np.append(of_day, of_day[0] + DAY_MS)) - timeframe.ms
    nights = (np.diff(times) > _CLOSED_MS).sum()
    is_enough = len(times) >= min(_ENOUGH, _HALF * len(of_day) * (len(days) - 1))
    return bool(is_enough and pauses.max() >= _CLOSED_MS and nights >= _HALF * (len(days) - 1))


def share_on_grid(timeframe: Timeframe, sessions: Calendar, opens: NDArray[np.int64]) -> float:
    """Share of open times at which a bar of the calendar opens."""
    return float((sessions.closes_of(timeframe, opens) >= 0).mean()) if len(opens) else 0.0


def fits_by_its_clock(timeframe: Timeframe, sessions: Calendar, labels: Labels) -> bool:
    """Whether times that were read as UTC fit an exchange's sessions by the exchange's own clock, at least as well."""
    local = on_utc(labels.written, sessions.zone)
    by_its_clock, as_utc = (share_on_grid(timeframe, sessions, times) for times in (local, labels.instant))
    return not (local == labels.instant).all() and by_its_clock >= max(_MOST, as_utc)


def fills_sessions(timeframe: Timeframe, name: str, opens: NDArray[np.int64]) -> bool:
    """Whether open times are there for the first bar of at least half of the sessions that they span."""
    if timeframe.is_daily or not len(opens):
        return False
    starts = calendar(name).opens_between(_DAY, int(opens.min()) - DAY_MS, int(opens.max()) + 1)
    starts = starts[starts >= opens.min() - DAY_MS // 2]
    return bool(len(starts) and np.isin(starts, opens).mean() >= _HALF)


def fitting_exchanges(dates: NDArray[np.int64]) -> dict[str, int]:
    """Name calendars of large exchanges that have sessions on these dates (midnights, UTC ms), and on few others.

    Returns:
        How many of its sessions each has on others, from the first date to the last.
    """
    found = {}
    for name in _EXCHANGES:
        sessions = calendar(name)
        known = sessions.opens_between(_DAY, int(dates.min()) - DAY_MS, int(dates.max()) + 2 * DAY_MS)
        local = on_clock(known, sessions.zone)
        days = local - local % DAY_MS
        days = days[(days >= dates.min()) & (days <= dates.max())]
        more = len(days) - len(dates)
        if np.isin(dates, days).all() and more <= max(_FEW_MORE, (1 - _MOST) * len(days)):
            found[name] = more
    return found


def hint(
    timeframe: Timeframe, name: str, opens: NDArray[np.int64], refused: NDArray[np.bool_], zone: ZoneKind = "written"
) -> str:
    """Say what rows off the grid have in common, and which option would put them on it; empty when nothing does."""
    off = opens[refused]
    if not len(off):
        return ""
    sessions = calendar(name)
    if is_continuous(name):
        return _anchor_hint(timeframe, name, opens, is_assumed=zone == "assumed")
    if timeframe.is_daily:
        dates = np.unique(off - off % DAY_MS)
        fitting = fitting_exchanges(np.unique(opens - opens % DAY_MS))
        which = f"; {', '.join(fitting)} would fit" if fitting else ""
        first = utc_text(int(dates[0]))[:10]
        return (
            f"they are of days on which {name} has no session, such as {first}: another `calendar` (--calendar){which}?"
        )
    step = min(timeframe.ms, _HOUR.ms)
    starts = sessions.opens_between(_DAY, int(opens.min()) - DAY_MS, int(opens.max()) + 1)
    is_by_hours = len(starts) and (starts % step != 0).mean() > _HALF and (opens % step == 0).mean() >= _MOST
    if is_by_hours:
        start = utc_text(int(starts[0]))
        return f"they are on the clock's hours, and {name} counts from the open of a session, such as {start}"
    return f"they are outside the sessions of {name}: another `timezone` or `calendar`?"


def _example(whose: str) -> str:
    """A clock that times may be of, by what is known of their writer."""
    known = {"HistData": "Etc/GMT+5", "MetaTrader": "America/New_York+07:00"}
    return next((clock for writer, clock in known.items() if writer in whose), "its IANA name, such as Asia/Tokyo")


def _is_exchange(name: str) -> bool:
    """Whether days are sessions, which a date names whatever the clock; those of `24/5` are days of UTC."""
    return not is_continuous(name) and name != WEEKDAYS


def _check_days_of_utc(source: str, labels: Labels) -> None:
    """Refuse days that begin at midnight of another clock, on a calendar whose days are those of UTC."""
    is_date = (labels.written != UNWRITTEN) & (labels.written % DAY_MS == 0)
    elsewhere = labels.instant[is_date & (labels.instant % DAY_MS != 0)]
    if len(elsewhere) > _HALF * len(labels):
        found = f"days that begin at {_clock_time(int(elsewhere[0]) % DAY_MS)} UTC"
        raise Ambiguous(source, "calendar", f"{ALWAYS_OPEN}, with its day anchor", found)


def _check_sessions(source: str, timeframe: Timeframe, name: str, labels: Labels) -> None:
    """Refuse times that are not UTC, since they fit an exchange's sessions by its own clock."""
    if _is_exchange(name):
        sessions = calendar(name)
        if fits_by_its_clock(timeframe, sessions, labels):
            as_utc = share_on_grid(timeframe, sessions, labels.instant) >= _MOST
            found = f"times without a zone that fit the sessions of {name} by its own clock{', and as UTC' * as_utc}"
            raise Ambiguous(source, "timezone", f"{'UTC or ' * as_utc}{sessions.zone}", found)
        return
    new_york = calendar(NEW_YORK)
    local = on_utc(labels.written, new_york.zone)
    is_full = fills_sessions(timeframe, NEW_YORK, local) and covers(timeframe, NEW_YORK, local) >= _NEARLY
    if is_full and share_on_grid(timeframe, new_york, local) >= _NEARLY_ALL:
        too = f"its `calendar` (--calendar {NEW_YORK}) too"
        found = f"times without a zone that fit the sessions of {NEW_YORK} by its own clock: {too}"
        raise Ambiguous(source, "timezone", new_york.zone, found)
    if keeps_to_sessions(timeframe, labels.written):
        times = labels.written % DAY_MS
        first, last = _clock_time(int(times.min())), _clock_time(int(times.max()))
        found = f"times without a zone that keep to a part of the day, from {first} to {last}: those of an exchange"
        raise Ambiguous(source, "timezone", "and its calendar; UTC if that is their zone", found)


def covers(timeframe: Timeframe, name: str, opens: NDArray[np.int64]) -> float:
    """Share of a calendar's bars, in the sessions that open times fall into, that open at one of them."""
    if not len(opens):
        return 0.0
    grid = calendar(name).opens_between(timeframe, int(opens.min()), int(opens.max()) + 1)
    return float(np.isin(grid, opens).mean()) if len(grid) else 0.0


def _anchor_hint(timeframe: Timeframe, name: str, opens: NDArray[np.int64], *, is_assumed: bool) -> str:
    """The anchor at which days would have to begin."""
    if timeframe.ms <= _HOUR.ms:
        return "they do not open at full slots of the day: are the times right?"
    phases, counts = np.unique(opens % timeframe.ms, return_counts=True)
    if counts.max() >= _MOST * counts.sum() and int(phases[0]) % MINUTE_MS == 0:
        anchor = _clock_time(int(phases[np.argmax(counts)]))
        rows = "all rows open at" if timeframe.is_daily else f"rows open every {timeframe} from"
        return f"{rows} {anchor} UTC: `day_anchor` (--day-anchor '{anchor} UTC'){_OR_ZONE * is_assumed}"
    for anchor in (*(f"00:00 {zone}" for zone in _ZONES), "17:00 America/New_York"):
        if share_on_grid(timeframe, calendar(anchored(anchor, None, timeframe)), opens) >= _NEARLY_ALL:
            told = f"`day_anchor` (--day-anchor '{anchor}'){_OR_ZONE * is_assumed}"
            return f"all rows open by the clock of {anchor[6:]}: {told}"
    return "" if name == ALWAYS_OPEN else f"they do not open when days of {name} do"


def _clock_time(ms: int) -> str:
    return f"{ms // 3_600_000:02}:{ms // MINUTE_MS % 60:02}"
