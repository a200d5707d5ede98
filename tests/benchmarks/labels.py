"""Daily labels of every calendar, written in every zone: on which session each lands, beside the library's own table.

`python -m tests.benchmarks.labels` prints how many labels were read, how many stand for nothing, and every one that
stands for another session than the date which is written. The judge takes sessions from exchange_calendars itself, and
shares no code with `forecaster.calendars`.

A label is a midnight at each whole hour from UTC-12 to UTC+14 and at each other offset that a place has had, or in a
zone with its changes to and from daylight saving time; a time of day; an epoch. Every day of the years is one, whether
there is a session or not. Midnights are read from frames and from csv files. Each label is judged on its own: a file of
so many labels that stand for nothing would be refused as a whole.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import exchange_calendars
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress

from forecaster.bars import SeriesKey
from forecaster.errors import ConfigError
from forecaster.sources.files.load import load_tables
from forecaster.tables import ParseOptions
from forecaster.tables.rows import read_table
from forecaster.zones import UNWRITTEN, Labels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.tables import Rows

OFFSETS: Final = (
    *(60 * hours for hours in range(-12, 15)),
    *(-570, -210, -150, 210, 270, 330, 345, 390, 525, 570, 630, 765, 825),
)
"""Minutes ahead of UTC."""

ZONES: Final = (
    *("America/New_York", "America/Santiago", "America/Sao_Paulo", "Atlantic/Azores", "Europe/London", "Europe/Berlin"),
    *("Asia/Beirut", "Asia/Tokyo", "Asia/Hong_Kong", "Australia/Lord_Howe", "Australia/Sydney", "Pacific/Auckland"),
)
HOURS: Final = (1, 5, 9, 13, 15, 16, 20, 23)


@dataclass
class Found:
    """How many labels were read, how many stand for nothing although their date has a session, and the wrong ones."""

    labels: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str, opens: NDArray[np.int64], expected: NDArray[np.int64], times: pd.DatetimeIndex) -> None:
        """Compare the open times that were found with those of the written dates; -1 is none."""
        self.labels += len(opens)
        self.refused += int(((opens < 0) & (expected >= 0)).sum())
        self.wrong += [f"{what}: {times[i]}" for i in np.flatnonzero((opens >= 0) & (opens != expected))]


@dataclass(frozen=True)
class Judge:
    """The sessions of a calendar as the library has them.

    Args:
        dates: every date of some years.
        opens: when the session of each opens, UTC ms; -1 where there is none.
        around: the opens of these years and of the days before and after.
        zone: that of the exchange's own clock.
    """

    key: SeriesKey
    dates: pd.DatetimeIndex
    opens: NDArray[np.int64]
    around: NDArray[np.int64]
    zone: dt.tzinfo

    @classmethod
    def of(cls, name: str, first_year: int, years: int) -> Judge:
        """Ask the library."""
        first, last = f"{first_year}-01-01", f"{first_year + years - 1}-12-31"
        with warnings.catch_warnings(action="ignore"):
            known = exchange_calendars.get_calendar(name, end=f"{first_year + years}-01-31")
            opened = known.schedule["open"].dt.tz_localize(None).astype("datetime64[ms]")
        dates = pd.date_range(first, last, unit="ms")
        at = opened.reindex(dates)
        ms = np.where(at.isna(), -1, at.to_numpy().astype(np.int64))
        return cls(SeriesKey("file", "A/USD", "1d", name), dates, ms, opened.to_numpy().astype(np.int64), known.tz)


def landed(key: SeriesKey, times: pd.DatetimeIndex | Labels) -> NDArray[np.int64]:
    """The open times of the bars that labels stand for in the program; -1 for none."""
    sessions = key.trading_calendar
    if isinstance(times, pd.DatetimeIndex):
        opens = key.opens_of(times)
    else:
        opens = sessions.opens_of_labels(key.timeframe, times)
    return np.where(sessions.closes_of(key.timeframe, opens) >= 0, opens, -1)


def read_rows(path: Path) -> Rows:
    """The rows of a file of one series, of which none is judged yet."""
    (table,) = load_tables(path)
    (rows,) = read_table(table, ParseOptions()).values()
    return rows


def check(judge: Judge, offsets: Sequence[int], zones: Sequence[str], folder: Path) -> Found:
    """Read every kind of label of one calendar."""
    found = Found()
    for zone in [*(dt.timezone(dt.timedelta(minutes=one)) for one in offsets), *zones, judge.zone]:
        midnights = judge.dates.tz_localize(
            zone, ambiguous=np.ones(len(judge.dates), bool), nonexistent="shift_forward"
        )
        found.add(f"{judge.key.calendar} frame", landed(judge.key, midnights), judge.opens, midnights)
        _check_file(judge, midnights, folder, found)
    for minutes in offsets:
        for hour in HOURS:
            _check_hour(judge, judge.dates.tz_localize(dt.timezone(dt.timedelta(minutes=minutes))), hour, found)
    _check_epochs(judge, found)
    return found


def _check_file(judge: Judge, times: pd.DatetimeIndex, folder: Path, found: Found) -> None:
    """Read the labels from a csv file; a row knows its line."""
    path = folder / "bars.csv"
    path.write_text("date,open,high,low,close\n" + "".join(f"{time},2,4,1,3\n" for time in times))
    rows = read_rows(path)
    opens = np.full(len(times), -1)
    opens[rows.lines - 2] = landed(judge.key, rows.labels)
    found.add(f"{judge.key.calendar} csv", opens, judge.opens, times)


def _check_hour(judge: Judge, midnights: pd.DatetimeIndex, hour: int, found: Found) -> None:
    """A time of day may be a session's open time; else it is of its date, or of none."""
    times = midnights + pd.Timedelta(hours=hour)
    instant = times.tz_convert(None).to_numpy().astype("datetime64[ms]").astype(np.int64)
    expected = np.where(np.isin(instant, judge.around), instant, judge.opens)
    found.add(f"{judge.key.calendar} {hour}:00", landed(judge.key, times), expected, times)


def _check_epochs(judge: Judge, found: Found) -> None:
    """Of a session: its open, its date's midnight by UTC and by the exchange's own clock."""
    there = judge.opens >= 0
    opens, dates = judge.opens[there], judge.dates[there]
    local = dates.tz_localize(judge.zone, ambiguous=np.ones(len(dates), bool), nonexistent="shift_forward")
    for times in (pd.to_datetime(opens, unit="ms"), dates, local.tz_convert(None)):
        instant = times.to_numpy().astype("datetime64[ms]").astype(np.int64)
        epochs = Labels(instant, np.full(len(instant), UNWRITTEN))
        found.add(f"{judge.key.calendar} epoch", landed(judge.key, epochs), opens, times)


def computable(names: Sequence[str]) -> Iterator[str]:
    """The calendars that the library can compute; 24/7 is our own."""
    for name in names:
        try:
            if name != "24/7":
                SeriesKey("file", "A/USD", "1d", name).trading_calendar  # noqa: B018 - whether it can be had is the question
                yield name
        except ConfigError as error:
            sys.stderr.write(f"left out: {error}\n")


def main() -> int:
    """Read labels of every calendar in every zone, and say which stand for a wrong session."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("calendar", nargs="*", help="all that can be computed, if none is named")
    parser.add_argument("--first-year", type=int, default=2021)
    parser.add_argument("--years", type=int, default=5)
    options = parser.parse_args()
    started, total, wrong = time.monotonic(), Found(), []
    names = list(computable(options.calendar or exchange_calendars.get_calendar_names(include_aliases=False)))
    with Progress(console=Console(stderr=True)) as progress, tempfile.TemporaryDirectory() as folder:
        for name in progress.track(names, description="calendars"):
            found = check(Judge.of(name, options.first_year, options.years), OFFSETS, ZONES, Path(folder))
            total.labels, total.refused = total.labels + found.labels, total.refused + found.refused
            wrong += found.wrong
    for one in wrong[:50]:
        sys.stdout.write(f"wrong: {one}\n")
    seconds = round(time.monotonic() - started, 1)
    record = {"calendars": len(names), "labels": total.labels, "refused": total.refused, "wrong": len(wrong)}
    sys.stdout.write(json.dumps(record | {"seconds": seconds}) + "\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
