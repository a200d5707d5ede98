"""True bars, and rows made of them, for the files of `tests.faults.files`.

Times come from the calendars, from whole steps since the epoch, or from days on the clock of a zone. Prices are whole
numbers of their last digit, so that each has one plain text.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from forecaster.calendars import canonical_name, get_calendar
from forecaster.timeframe import DAY_MS, MINUTE_MS, Timeframe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

HOUR_MS: Final = 60 * MINUTE_MS
EXCHANGES: Final = {
    "XNYS": "America/New_York",
    "NASDAQ": "America/New_York",
    "XETR": "Europe/Berlin",
    "XLON": "Europe/London",
    "XTKS": "Asia/Tokyo",
    "XHKG": "Asia/Hong_Kong",
    "XASX": "Australia/Sydney",
}
"""Calendars of exchanges, and the clocks of these."""

ANCHORS: Final = (
    ("16:00", "UTC"),
    ("06:00", "UTC"),
    ("00:00", "America/Chicago"),
    ("00:00", "Europe/Athens"),
    ("17:00", "America/New_York"),
)
KINDS: Final = ("crypto", "anchored", "exchange", "exchange daily", "24/5", "Sunday to Friday")
COARSER: Final = {"5m": ("1h",), "15m": ("1h", "4h"), "1h": ("4h", "1d"), "4h": ("1d",)}
FINER: Final = {"15m": ("5m",), "1h": ("15m", "5m"), "4h": ("1h",), "1d": ("4h", "1h")}
FIRST_YEAR: Final = 2015
LAST_YEAR: Final = 2025


class Row(NamedTuple):
    """A row before it is written: when its bar opens and closes, the date of its session, and its plain texts."""

    open_time: int
    close_time: int
    date: int
    cells: tuple[str, ...]
    symbol: str


@dataclass(frozen=True)
class Market:
    """When bars open: the calendar as a key names it, the clock of the venue, and the anchor of its days."""

    kind: str
    calendar: str
    timeframe: str
    zone: str
    anchor: str
    opens: NDArray[np.int64]
    closes: NDArray[np.int64]

    @property
    def step(self) -> int:
        """Length of a bar in ms."""
        return Timeframe(self.timeframe).ms

    @property
    def is_daily(self) -> bool:
        """Whether one bar is a day or a session."""
        return self.timeframe == "1d"

    @property
    def has_sessions(self) -> bool:
        """Whether a daily bar stands for the date of a session."""
        return self.kind.startswith(("exchange", "24/5"))


@dataclass
class Sheet:
    """Rows in the order of the file, and which bars they make.

    Args:
        market: of the bars.
        rows: as they will be written.
        true: by symbol and open time, the values that the bar may have.
        as_of: when it is read.
    """

    market: Market
    rows: list[Row]
    true: dict[str, dict[int, set[tuple[float, ...]]]] = field(default_factory=dict)
    as_of: int = 0

    def trust(self, rows: Sequence[Row]) -> None:
        """Set the true bars to those of these rows."""
        self.true = {}
        for row in rows:
            self.true.setdefault(row.symbol, {}).setdefault(row.open_time, set()).add(values(row.cells))


def values(cells: tuple[str, ...]) -> tuple[float, ...]:
    """Give the numbers of plain texts; NaN, which equals nothing, is None."""
    return tuple(float(cell) if cell else None for cell in cells)


def pick(rng: np.random.Generator, choices: Sequence):
    """Return a random item."""
    return choices[int(rng.integers(len(choices)))]


@cache
def jumps() -> tuple[int, ...]:
    """Return midnights before daylight saving changes, UTC ms."""
    found = []
    for zone in ("America/New_York", "Europe/Berlin", "Australia/Sydney"):
        day = dt.datetime(FIRST_YEAR, 1, 2, 12, tzinfo=dt.UTC)
        before = day.astimezone(ZoneInfo(zone)).utcoffset()
        while day.year <= LAST_YEAR - 1:
            day += dt.timedelta(days=1)
            after = day.astimezone(ZoneInfo(zone)).utcoffset()
            if after != before:
                found.append(int(day.timestamp() * 1000) - DAY_MS // 2)
            before = after
    return tuple(found)


def make_market(rng: np.random.Generator, kind: str, count: int) -> Market:
    """Make `count` open times of a market, often around a day on which clocks jump."""
    first = int(rng.integers(_ms(FIRST_YEAR), _ms(LAST_YEAR)))
    if kind == "crypto":
        timeframe = str(rng.choice(["1m", "5m", "15m", "30m", "1h", "4h", "1d"]))
        step = Timeframe(timeframe).ms
        first = _near_jump(rng, first, step, count) // step * step
        opens = first + step * np.arange(count)
        zone = str(rng.choice(["UTC", "America/New_York", "Europe/Berlin", "Asia/Tokyo", "Australia/Sydney"]))
        return Market(kind, "24/7", timeframe, zone, "", opens, opens + step)
    if kind == "anchored":
        return _days(kind, first // DAY_MS, count, *pick(rng, ANCHORS))
    if kind == "Sunday to Friday":
        return _forex(rng, first, count)
    name = "24/5" if kind == "24/5" else pick(rng, list(EXCHANGES))
    timeframe = str(rng.choice(["5m", "15m", "30m", "1h"]))
    timeframe = "1d" if kind == "exchange daily" or (kind == "24/5" and rng.random() < 0.3) else timeframe
    step, sessions = Timeframe(timeframe).ms, get_calendar(canonical_name(name))
    first = _near_jump(rng, first, step if timeframe == "1d" else 3 * step, count)
    opens = sessions.next_opens(Timeframe(timeframe), first, count)
    closes = sessions.closes_of(Timeframe(timeframe), opens)
    return Market(kind, name, timeframe, EXCHANGES.get(name, "UTC"), "", opens, closes)


def _near_jump(rng: np.random.Generator, first: int, step: int, count: int) -> int:
    return pick(rng, jumps()) - int(rng.integers(count)) * step if rng.random() < 0.35 else first


def _days(kind: str, first: int, count: int, anchor: str, zone: str) -> Market:
    """Days that begin at an anchor on a clock, from a day since the epoch on."""
    instants = np.array([_instant(first + i, anchor, zone) for i in range(count + 1)])
    clock = "" if zone == "UTC" else f" {zone}"
    return Market(kind, f"24/7@{anchor}{clock}", "1d", zone, anchor + clock, instants[:-1], instants[1:])


def _forex(rng: np.random.Generator, first: int, count: int) -> Market:
    """Bars from Sunday to Friday, 17:00 in New York."""
    zone, timeframe = "America/New_York", str(rng.choice(["1m", "5m", "15m", "1h", "1d"]))
    if timeframe == "1d":
        market = _days("Sunday to Friday", first // DAY_MS, 2 * count, "17:00", zone)
    else:
        step = Timeframe(timeframe).ms
        opens = _near_jump(rng, first, step, count) // step * step + step * np.arange(4 * count + 3 * DAY_MS // step)
        market = Market("Sunday to Friday", "24/7", timeframe, zone, "", opens, opens + step)
    wall, _ = on_clock(market.opens, f"{zone}+07:00")
    weekday = np.flatnonzero((wall // DAY_MS + 3) % 7 < 5)[:count]
    return Market(
        market.kind, market.calendar, timeframe, zone, market.anchor, market.opens[weekday], market.closes[weekday]
    )


def _instant(day: int, anchor: str, zone: str) -> int:
    hour, minute = map(int, anchor.split(":"))
    date = dt.date(1970, 1, 1) + dt.timedelta(days=day)
    local = dt.datetime(date.year, date.month, date.day, hour, minute, tzinfo=ZoneInfo(zone))
    return int(local.timestamp()) * 1000


def _ms(year: int) -> int:
    return int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp()) * 1000


def on_clock(instants: NDArray[np.int64], clock: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return local times and offsets of instants, in ms; `NAME+07:00` is ahead of NAME."""
    name, _, shift = clock.partition("+") if not clock.startswith("Etc/") else (clock, "", "")
    ahead = int(shift[:2]) * HOUR_MS if shift else 0
    zone = ZoneInfo(name)
    offsets = [
        int(dt.datetime.fromtimestamp(one / 1000, zone).utcoffset().total_seconds()) * 1000 for one in instants.tolist()
    ]
    offset = np.array(offsets, np.int64) + ahead
    return instants + offset, offset


def make_sheet(rng: np.random.Generator, market: Market, symbols: Sequence[str], volume: str) -> Sheet:
    """Make rows of each symbol for all bars of a market, in the order of time."""
    zone = market.zone if market.has_sessions else "UTC"
    dates = (on_clock(market.opens, zone)[0] // DAY_MS * DAY_MS).tolist()
    opens, closes = market.opens.tolist(), market.closes.tolist()
    rows: list[Row] = []
    for symbol in symbols:
        cells = make_prices(rng, len(opens), volume)
        rows += [Row(*row, symbol) for row in zip(opens, closes, dates, cells, strict=True)]
    rows.sort(key=lambda row: row.open_time)
    sheet = Sheet(market, rows)
    sheet.trust(rows)
    return sheet


def make_prices(rng: np.random.Generator, count: int, volume: str) -> list[tuple[str, ...]]:
    """Make texts of a random walk: open, high, low, close, volume."""
    crosses = rng.random() < 0.25
    level = 10.0 ** rng.uniform(-8, 6) * 9 if not crosses else rng.uniform(940, 1060)
    least = max(0, 3 - int(np.floor(np.log10(level)))) if not crosses else 0
    decimals = least + int(rng.integers(0, 4))
    unit = level * 10.0**decimals
    step = max(1.0, unit * 10.0 ** rng.uniform(-4, -2))
    close = np.maximum(np.rint(unit + np.cumsum(rng.normal(0, step, count))), 3).astype(np.int64)
    open_ = np.concatenate([close[:1], close[:-1]]) + (rng.integers(-1, 2, count) if rng.random() < 0.5 else 0)
    spread = np.rint(rng.exponential(step, (2, count))).astype(np.int64)
    open_ = np.maximum(open_, 2)
    flat = rng.random(count) < pick(rng, [0.0, 0.0, 0.02, 0.3])
    open_, spread = np.where(flat, close, open_), np.where(flat, 0, spread)
    high = np.maximum(open_, close) + spread[0]
    low = np.maximum(np.minimum(open_, close) - spread[1], 1)
    fixed = rng.random() < 0.5
    texts = [[_text(one, decimals, fixed=fixed) for one in field.tolist()] for field in (open_, high, low, close)]
    return list(zip(*texts, _volumes(rng, count, volume), strict=True))


def _volumes(rng: np.random.Generator, count: int, volume: str) -> list[str]:
    if volume == "lacking":
        return [""] * count
    if volume == "zero":
        return ["0"] * count
    if volume == "decimal":
        return [_text(one, 3, fixed=False) for one in rng.integers(1, 10**8, count).tolist()]
    if volume == "large":
        return [str(one) for one in (rng.integers(10, 90_000, count) * 10_000).tolist()]
    cells = [str(one) for one in rng.integers(0, 10 ** int(rng.integers(3, 8)), count).tolist()]
    if volume == "partly":
        cells = ["" if unknown else cell for cell, unknown in zip(cells, rng.random(count) < 0.3, strict=True)]
    return cells


def _text(number: int, decimals: int, *, fixed: bool) -> str:
    """Write a whole number of the last digit with a point."""
    if not decimals:
        return str(number)
    whole, part = divmod(number, 10**decimals)
    tail = f"{part:0{decimals}d}" if fixed else f"{part:0{decimals}d}".rstrip("0")
    return f"{whole}.{tail}" if tail else str(whole)
