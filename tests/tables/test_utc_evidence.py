"""Evidence against UTC: daylight saving changes, and data that only looks like them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forecaster.tables import ParseOptions
from forecaster.tables.times import read_times
from tests.tables.tables import make_table

ZONES = ["America/New_York", "Europe/London", "Europe/Berlin", "Europe/Athens", "Australia/Sydney", "Pacific/Auckland"]


def find_conflict(times, closes=None):
    """Return the conflict of local times with UTC."""
    texts = pd.DatetimeIndex(times).tz_localize(None).strftime("%Y-%m-%d %H:%M").tolist()
    table = make_table({"time": texts, "close": range(len(texts)) if closes is None else closes})
    times_read = read_times(table, (0,), ParseOptions())

    assert times_read.zone_source == "assumed"
    return times_read.utc_conflict


def local(zone, start, end, freq):
    return pd.date_range(start, end, freq=freq, tz=zone)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("freq", ["h", "30min"])
@pytest.mark.parametrize("keeps_twins", [True, False])
def test_a_year_with_daylight_saving_is_recognised(zone, freq, keeps_twins):
    """With the repeated hour, and without it."""
    times = local(zone, "2024-01-05", "2024-12-28", freq).tz_localize(None)

    assert find_conflict(times if keeps_twins else times.unique()).endswith(f"as on {zone}'s clock")


def test_a_repeated_hour_is_reported_with_its_date():
    times = local("America/New_York", "2024-11-03", "2024-11-03 04:00", "min")

    assert find_conflict(times) == "01:00 to 01:59 of 2024-11-03 come twice, as on America/New_York's clock"


def test_a_missing_hour_is_reported_with_its_date():
    times = local("Europe/Berlin", "2024-03-30", "2024-04-02", "h")

    assert find_conflict(times) == "02:00 to 02:59 of 2024-03-31 are missing, as on Europe/Berlin's clock"


def test_a_broker_that_follows_new_york_is_recognised():
    times = local("America/New_York", "2024-03-08", "2024-03-12", "h").tz_localize(None) + pd.Timedelta(hours=7)

    assert find_conflict(times).endswith("as on America/New_York+07:00's clock")


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
@pytest.mark.parametrize("freq", ["1min", "h", "4h", "D"])
def test_a_zone_without_daylight_saving_has_no_conflict(zone, freq):
    assert find_conflict(local(zone, "2024-01-05", "2024-01-07" if freq == "1min" else "2024-12-28", freq)) == ""


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_gaps_are_no_conflict(seed):
    """Outages of an hour each, also at a daylight saving change."""
    random = np.random.default_rng(seed)
    times = pd.date_range("2023-07-01", "2024-06-30", freq="h")
    lost = random.choice(len(times), 12, replace=False)
    lost = np.append(lost, times.get_loc("2024-03-10 02:00"))

    assert find_conflict(times.delete(lost)) == ""


def test_one_row_at_a_nonexistent_hour_means_utc():
    times = pd.date_range("2023-03-01", "2024-03-31", freq="h")

    assert find_conflict(times.delete(times.get_loc("2024-03-10 02:00"))) == ""


def test_repeated_times_elsewhere_are_no_conflict():
    """Concatenated symbols, or rows appended again."""
    times = pd.date_range("2024-11-01", "2024-11-05", freq="h")

    assert find_conflict(times.append(times)) == ""


def test_equal_rows_are_duplicates():
    times = pd.date_range("2024-11-01", "2024-11-05", freq="h")
    at = times.get_loc("2024-11-03 01:00")
    twice = times.insert(at, times[at])

    assert find_conflict(twice, [0] * len(twice)) == ""


def test_weekends_are_no_conflict():
    """Currencies are not traded when clocks change."""
    times = pd.date_range("2024-01-01", "2024-12-31", freq="h", tz="UTC")
    monday = (times.tz_convert("America/New_York").tz_localize(None) + pd.Timedelta(hours=7)).day_of_week

    assert find_conflict(times[monday < 5]) == ""


def test_weeks_of_a_broker_are_a_conflict():
    """From Monday to Friday midnight; no market trades so in UTC."""
    times = pd.date_range("2024-01-01", "2024-02-28", freq="h")

    assert find_conflict(times[times.day_of_week < 5]).startswith("the week begins at 00:00 of 2024-01-08")


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Asia/Tehran", "2022-03-10"),
        ("America/Santiago", "2024-08-20"),
        ("Africa/Cairo", "2024-04-10"),
        ("Australia/Lord_Howe", "2024-09-20"),
        ("Antarctica/Troll", "2024-03-15"),
        ("America/Caracas", "2016-04-20"),
        ("Asia/Pyongyang", "2018-04-20"),
        ("Pacific/Apia", "2011-12-20"),
    ],
)
def test_any_zone_whose_clocks_go_forward_is_recognised(zone, start):
    """By the missing time, if no other row is missing; also for midnights."""
    conflict = find_conflict(local(zone, start, pd.Timestamp(start) + pd.Timedelta(days=40), "15min"))

    assert "are missing, as on" in conflict


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Europe/Moscow", "2014-10-15"),
        ("America/Sao_Paulo", "2018-02-05"),
        ("Asia/Pyongyang", "2015-08-01"),
        ("Australia/Lord_Howe", "2024-03-20"),
        ("America/Scoresbysund", "2023-10-15"),
        ("Africa/Casablanca", "2024-03-01"),
    ],
)
def test_any_zone_whose_clocks_go_back_is_recognised(zone, start):
    conflict = find_conflict(local(zone, start, pd.Timestamp(start) + pd.Timedelta(days=30), "10min"))

    assert "come twice, as on" in conflict


@pytest.mark.parametrize(("first", "minutes"), [("03:00", 60), ("14:30", 30)])
def test_a_repeated_hour_of_an_unknown_zone_is_reported(first, minutes):
    times = pd.date_range("2024-06-01", "2024-06-20", freq="5min")
    again = pd.date_range(f"2024-06-11 {first}", periods=minutes // 5, freq="5min")

    conflict = find_conflict(times.append(again).sort_values())

    assert conflict.startswith(f"{first} to ")
    assert conflict.endswith("of 2024-06-11 come twice, as on a clock that is put back")


@pytest.mark.parametrize(
    "again",
    [
        pd.date_range("2024-06-11 03:00", periods=7, freq="5min"),
        pd.date_range("2024-06-11 03:10", periods=12, freq="5min"),
        pd.DatetimeIndex(["2024-06-11 03:00"]),
    ],
    ids=["35 minutes", "from 03:10", "a row"],
)
def test_rows_fetched_again_are_no_conflict(again):
    times = pd.date_range("2024-06-01", "2024-06-20", freq="5min")

    assert find_conflict(times.append(again)) == ""


@pytest.mark.parametrize(
    ("zone", "first"), [("Asia/Seoul", "09:00"), ("Asia/Shanghai", "08:00"), ("America/New_York", "20:00")]
)
def test_days_that_begin_at_midnight_utc_name_a_zone(zone, first):
    times = pd.date_range("2024-03-12", "2024-04-20", freq="D", tz="UTC").tz_convert(zone)

    assert find_conflict(times) == f"days begin at {first}, which is midnight UTC on {zone}'s clock"


def test_days_that_begin_elsewhere_are_no_conflict():
    assert find_conflict(pd.date_range("2024-01-01 16:07", periods=50, freq="D")) == ""


def test_daily_sessions_are_no_conflict():
    times = pd.date_range("2024-03-01", "2024-04-15", freq="5min")

    assert find_conflict(times[(times.day_of_week < 5) & (times.hour >= 14) & (times.hour < 21)]) == ""


@pytest.mark.parametrize("count", [1, 2])
def test_few_rows_are_no_conflict(count):
    assert find_conflict(pd.date_range("2024-01-01 01:00", periods=count, freq="h")) == ""
