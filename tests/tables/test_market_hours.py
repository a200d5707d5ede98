"""Market hours of New York, weeks and daily breaks, as shown in other zones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forecaster.tables.market_hours import find_hours_conflict
from forecaster.zones import get_clock
from tests.builders import HOUR_MS

NEW_YORK = "America/New_York"
ELSEWHERE = [
    NEW_YORK,
    "America/Chicago",
    "America/New_York+07:00",
    "Europe/Moscow",
    "Asia/Kolkata",
    "Asia/Tokyo",
    "Australia/Sydney",
]


def traded(start, end, freq="h", *, has_breaks=False):
    """Return the instants of bars of currencies, or of futures with a daily break of one hour."""
    times = pd.date_range(start, end, freq=freq, tz="UTC", inclusive="left").tz_convert(NEW_YORK)
    day, hour = times.day_of_week, times.hour
    is_open = (day < 4) | ((day == 4) & (hour < 17)) | ((day == 6) & (hour >= 17 + has_breaks))
    return times[is_open & ~((hour == 17) & has_breaks)].as_unit("ms").asi8


def find_conflict(instants, name="UTC", step=HOUR_MS):
    return find_hours_conflict(np.unique(get_clock(name).to_wall(instants)), step)


SPANS = pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2024-01-03", "2024-01-12"),
        ("2024-02-20", "2024-04-20"),
        ("2024-06-05", "2024-12-24"),
        ("2022-01-05", "2024-03-01"),
    ],
)


@SPANS
@pytest.mark.parametrize("has_breaks", [False, True])
def test_utc_has_no_conflict(start, end, has_breaks):
    """Also over daylight saving changes of New York."""
    assert find_conflict(traded(start, end, has_breaks=has_breaks)) == ""


@SPANS
@pytest.mark.parametrize("has_breaks", [False, True])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_another_zone_is_recognised_by_the_first_hour_of_the_week(start, end, has_breaks, name):
    assert find_conflict(traded(start, end, has_breaks=has_breaks), name).startswith("the week begins at ")


@pytest.mark.parametrize("name", [NEW_YORK, "America/Chicago", "America/New_York+07:00", "Asia/Tokyo"])
@pytest.mark.parametrize("has_breaks", [False, True])
def test_the_zone_is_named(name, has_breaks):
    assert find_conflict(traded("2024-02-20", "2024-06-20", has_breaks=has_breaks), name).endswith(
        f", as on {name}'s clock"
    )


@pytest.mark.parametrize("name", ["Europe/London", "Europe/Berlin", "Europe/Athens"])
def test_a_european_zone_is_recognised_over_a_spring(name):
    """There the week begins an hour earlier for three weeks."""
    assert find_conflict(traded("2024-01-20", "2024-06-20"), name)


def test_a_week_that_begins_at_one_time_all_year_is_not_utc():
    instants = traded("2024-02-20", "2024-04-20")
    wall = np.unique(get_clock(NEW_YORK).to_wall(instants)) + 5 * HOUR_MS

    assert find_hours_conflict(wall, HOUR_MS).startswith("the week begins at 22:00 on both sides of 2024-03-10")


def test_broker_days_are_recognised():
    times = pd.date_range("2024-05-06", "2024-05-25", freq="h")
    times = times[times.day_of_week < 5].as_unit("ms").asi8

    assert (
        find_hours_conflict(times, HOUR_MS)
        == "the week begins at 00:00 of 2024-05-13, as on America/New_York+07:00's clock"
    )


def test_a_daily_break_is_enough():
    """In a file without a weekend."""
    instants = traded("2024-01-08 12:00", "2024-01-12 12:00", "5min", has_breaks=True)

    assert find_conflict(instants, NEW_YORK, HOUR_MS // 12) == (
        "an hour without rows ends at 18:00 of 2024-01-08, as on America/New_York's clock"
    )
    assert find_conflict(instants, "UTC", HOUR_MS // 12) == ""


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["UTC", "Asia/Tokyo"])
def test_a_continuous_market_has_no_conflict(seed, name):
    """With gaps of an hour, and of a weekend."""
    times = pd.date_range("2024-01-01", "2024-04-30", freq="h").as_unit("ms").asi8
    times = times[np.random.default_rng(seed).random(len(times)) > 0.04]
    times = np.concatenate([times[:500], times[546:]])

    assert find_conflict(times, name) == ""


@pytest.mark.parametrize(("first", "last"), [(0, 6), (8, 17), (14, 21)])
def test_sessions_of_an_exchange_have_no_conflict(first, last):
    times = pd.date_range("2024-02-01", "2024-04-30", freq="h")
    times = times[(times.day_of_week < 5) & (times.hour >= first) & (times.hour < last)]

    assert find_conflict(times.as_unit("ms").asi8) == ""


def test_a_longer_weekend_has_no_conflict():
    """Eurex trades from 01:00 to 22:00 in Berlin."""
    times = pd.date_range("2024-02-01", "2024-04-30", freq="h", tz="Europe/Berlin")
    times = times[(times.day_of_week < 5) & (times.hour >= 1) & (times.hour < 22)]

    assert find_conflict(times.as_unit("ms").asi8) == ""


@pytest.mark.parametrize("step", [6, 12, 24])
def test_bars_of_many_hours_have_no_conflict(step):
    assert find_conflict(traded("2024-02-20", "2024-04-20", f"{step}h"), NEW_YORK, step * HOUR_MS) == ""
