"""Times that are taken for UTC: evidence of a clock that jumps, and everything that looks like it and is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from forecaster.tables import Reading
from forecaster.tables.times import read_times
from tests.tables.tables import make_table

ZONES = ["America/New_York", "Europe/London", "Europe/Berlin", "Europe/Athens", "Australia/Sydney", "Pacific/Auckland"]


def doubt(times, closes=None):
    """Give what speaks against UTC of wall times."""
    texts = pd.DatetimeIndex(times).tz_localize(None).strftime("%Y-%m-%d %H:%M").tolist()
    table = make_table({"time": texts, "close": range(len(texts)) if closes is None else closes})
    found = read_times(table, (0,), Reading())

    assert found.zone == "assumed"
    return found.doubt


def local(zone, start, end, freq):
    return pd.date_range(start, end, freq=freq, tz=zone)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("freq", ["h", "30min"])
@pytest.mark.parametrize("keeps_twins", [True, False])
def test_a_year_of_a_clock_that_jumps_is_known(zone, freq, keeps_twins):
    """With the hour that comes twice, and without what a program took for duplicates."""
    times = local(zone, "2024-01-05", "2024-12-28", freq).tz_localize(None)

    assert doubt(times if keeps_twins else times.unique()).endswith(f"as on {zone}'s clock")


def test_an_hour_that_comes_twice_is_told_by_its_date():
    times = local("America/New_York", "2024-11-03", "2024-11-03 04:00", "min")

    assert doubt(times) == "01:00 to 01:59 of 2024-11-03 come twice, as on America/New_York's clock"


def test_an_hour_that_is_missing_is_told_by_its_date():
    times = local("Europe/Berlin", "2024-03-30", "2024-04-02", "h")

    assert doubt(times) == "02:00 to 02:59 of 2024-03-31 are missing, as on Europe/Berlin's clock"


def test_a_broker_that_follows_new_york_is_known():
    times = local("America/New_York", "2024-03-08", "2024-03-12", "h").tz_localize(None) + pd.Timedelta(hours=7)

    assert doubt(times).endswith("as on America/New_York+07:00's clock")


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
@pytest.mark.parametrize("freq", ["1min", "h", "4h", "D"])
def test_a_clock_that_does_not_jump_raises_none(zone, freq):
    assert doubt(local(zone, "2024-01-05", "2024-01-07" if freq == "1min" else "2024-12-28", freq)) == ""


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_gaps_raise_none(seed):
    """Outages of an exchange, of an hour each; also just where a clock jumps."""
    random = np.random.default_rng(seed)
    times = pd.date_range("2023-07-01", "2024-06-30", freq="h")
    lost = random.choice(len(times), 12, replace=False)
    lost = np.append(lost, times.get_loc("2024-03-10 02:00"))

    assert doubt(times.delete(lost)) == ""


def test_one_row_at_an_hour_that_clocks_leave_out_speaks_for_utc():
    times = pd.date_range("2023-03-01", "2024-03-31", freq="h")

    assert doubt(times.delete(times.get_loc("2024-03-10 02:00"))) == ""


def test_times_that_come_twice_elsewhere_too_raise_none():
    """Symbols below each other, or rows that were appended again."""
    times = pd.date_range("2024-11-01", "2024-11-05", freq="h")

    assert doubt(times.append(times)) == ""


def test_rows_that_are_alike_are_a_duplicate():
    times = pd.date_range("2024-11-01", "2024-11-05", freq="h")
    at = times.get_loc("2024-11-03 01:00")
    twice = times.insert(at, times[at])

    assert doubt(twice, [0] * len(twice)) == ""


def test_weekends_raise_none():
    """Trade in currencies rests when clocks jump."""
    times = pd.date_range("2024-01-01", "2024-12-31", freq="h")

    assert doubt(times[times.day_of_week < 5]) == ""


def test_sessions_of_a_day_raise_none():
    times = pd.date_range("2024-03-01", "2024-04-15", freq="5min")

    assert doubt(times[(times.day_of_week < 5) & (times.hour >= 14) & (times.hour < 21)]) == ""


@pytest.mark.parametrize("count", [1, 2])
def test_few_rows_raise_none(count):
    assert doubt(pd.date_range("2024-01-01 01:00", periods=count, freq="h")) == ""
