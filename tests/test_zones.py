"""Clocks: their names, the hours that come twice, and those that they leave out."""

from __future__ import annotations

import datetime as dt
import zlib
import zoneinfo

import numpy as np
import pandas as pd
import pytest

from forecaster.errors import ConfigError
from forecaster.zones import get_clock
from tests.builders import DAY_MS, HOUR_MS, utc_ms

NEW_YORK = "America/New_York"
ZONES = sorted(zoneinfo.available_timezones() - {"Factory", "localtime", "posixrules"})
JUMPING = [
    NEW_YORK,
    "Europe/London",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "America/Havana",
    "America/New_York+07:00",
]


def walls(*times):
    return np.array([utc_ms(time) for time in times])


def read(name, *times):
    """Give instants as texts, None where the clock does not tell."""
    instants, unreadable = get_clock(name).to_utc(walls(*times))
    shown = [str(np.datetime64(int(instant), "ms").astype("datetime64[m]")).replace("T", " ") for instant in instants]
    return [None if row in unreadable else text for row, text in enumerate(shown)]


@pytest.mark.parametrize(
    ("name", "shown", "ahead"),
    [
        ("UTC", "UTC", 0),
        ("z", "UTC", 0),
        ("america/new_york", NEW_YORK, -4),
        ("America/New_York+07:00", "America/New_York+07:00", 3),
        ("America/New_York+7", "America/New_York+07:00", 3),
        ("+02:00", "+02:00", 2),
        ("-0330", "-03:30", -3.5),
        ("GMT+2", "+02:00", 2),
        ("UTC-5", "-05:00", -5),
        ("Etc/GMT+5", "Etc/GMT+5", -5),
        ("EST5EDT", "EST5EDT", -4),
    ],
)
def test_a_clock_comes_by_its_name(name, shown, ahead):
    """A name of IANA's wins over a name and a shift, which is added to what the clock of the name shows."""
    found = get_clock(name)

    assert found.name == shown
    assert found.to_wall(walls("2024-07-01")) - walls("2024-07-01") == ahead * HOUR_MS


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("New York", NEW_YORK),
        ("Amerika/New_York", NEW_YORK),
        ("Berlin", "Europe/Berlin"),
        ("Europe/Berlin+99", "Europe/Berlin"),
    ],
)
def test_near_names_are_shown(name, near):
    with pytest.raises(ConfigError, match=rf"timezone: expected an IANA name .* \(near: {near}\), found '"):
        get_clock(name)


@pytest.mark.parametrize("name", ["", "EDT", "+25", "America", "localtime", "../UTC", "a\0b", "Factory"])
def test_other_names_are_refused(name):
    """The clock of a machine is none: it would be another one elsewhere."""
    with pytest.raises(ConfigError, match="timezone"):
        get_clock(name)


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Europe/London", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia"]
)
def test_a_clock_shows_what_pandas_says(zone):
    instants = np.random.default_rng(0).integers(utc_ms("1920-01-01"), utc_ms("2060-01-01"), 2000)

    expected = pd.DatetimeIndex(instants.astype("datetime64[ms]"), tz="UTC").tz_convert(zone).tz_localize(None)

    assert (get_clock(zone).to_wall(instants).astype("datetime64[ms]") == expected.to_numpy()).all()


def some_seconds(name):
    """Give random seconds of three years between 1971 and 2037, ten of each; other years for each name."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    for year in random.choice(np.arange(1971, 2038), 3, replace=False):
        yield np.sort(utc_ms(f"{year}-01-01") + 1000 * random.integers(0, 365 * 86_400, 10))


@pytest.mark.parametrize("letter", sorted({name[0] for name in ZONES}))
def test_every_zone_is_read_in_both_directions(letter):
    """In years without a jump too: offsets have changed since 1970."""
    for name in (one for one in ZONES if one[0] == letter):
        found = get_clock(name)
        for instants in some_seconds(name):
            shown = [dt.datetime.fromtimestamp(time / 1000, zoneinfo.ZoneInfo(name)) for time in instants.tolist()]
            is_once = [one.utcoffset() == one.replace(fold=1 - one.fold).utcoffset() for one in shown]
            wall = found.to_wall(instants)

            assert wall.tolist() == [utc_ms(one.replace(tzinfo=None).isoformat()) for one in shown], name
            assert (found.to_utc(wall)[0][is_once] == instants[is_once]).all(), name


@pytest.mark.parametrize("year", [-5000, 1, 9999, 200_000])
@pytest.mark.parametrize("name", [NEW_YORK, "Asia/Singapore"])
def test_a_year_that_no_calendar_has_is_read_as_its_neighbours(name, year):
    times = np.array([f"{year:05}-06-01"], "datetime64[ms]").astype(np.int64)

    found = get_clock(name)

    assert found.to_wall(found.to_utc(times)[0]) == times


@pytest.mark.parametrize("step", [1, 5, 15, 30, 60, 120, 180, 360, 720])
@pytest.mark.parametrize("name", JUMPING)
@pytest.mark.parametrize("direction", [1, -1])
def test_rows_without_a_gap_are_read_back(name, step, direction):
    """Also over the hours that come twice, in files that run backwards as well."""
    instants = np.concatenate(
        [
            np.arange(utc_ms(f"2024-{month:02}-01"), utc_ms(f"2024-{month + 1:02}-10"), step * 60_000)
            for month in (3, 10)
        ]
    )[::direction]
    found = get_clock(name)

    read_back, unreadable = found.to_utc(found.to_wall(instants))

    assert (read_back == instants).all()
    assert not unreadable


def test_a_pass_may_have_gaps():
    """One time of the hour that comes in both passes shows that there are two."""
    times = ["00:30", "00:45", "01:00", "01:15", "01:45", "01:00", "01:30", "02:00", "02:15"]

    assert read(NEW_YORK, *(f"2024-11-03 {time}" for time in times))[2:7] == [
        "2024-11-03 05:00",
        "2024-11-03 05:15",
        "2024-11-03 05:45",
        "2024-11-03 06:00",
        "2024-11-03 06:30",
    ]


@pytest.mark.parametrize(
    "times",
    [
        ["00:00", "01:00", "02:00", "03:00"],
        ["00:30", "01:00", "01:30", "02:00"],
        ["00:00", "01:00", "01:00", "01:00", "02:00"],
        ["00:30", "01:00", "01:00", "01:30", "01:30", "02:00"],
        ["00:00", "00:00", "01:00", "01:00", "02:00", "02:00"],
        ["03:00", "01:00", "01:00", "02:00"],
        ["00:30", "01:00", "01:30", "01:15", "02:00"],
        ["01:00", "01:00"],
        ["01:00"],
    ],
    ids=["once", "one pass", "thrice", "sorted", "every row twice", "disorder", "one pass in disorder", "alone", "one"],
)
def test_a_time_that_comes_twice_is_not_guessed(times):
    """Once where it should come twice, thrice, or in rows whose order tells nothing."""
    found = read(NEW_YORK, *(f"2024-11-03 {time}" for time in times))

    assert [instant is None for instant in found] == [time.startswith("01") for time in times]


@pytest.mark.parametrize("kept", [0.2, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_bars_of_an_hour_with_gaps_are_no_longer_ones(seed, kept):
    """The distance of most rows is two hours and more, and still nothing tells the hour that comes twice."""
    instants = np.arange(utc_ms("2024-10-20"), utc_ms("2024-11-15"), HOUR_MS)
    instants = instants[np.random.default_rng(seed).random(len(instants)) < kept]
    instants = np.unique(np.append(instants, utc_ms("2024-11-03 06:00")))
    instants = instants[instants != utc_ms("2024-11-03 05:00")]
    found = get_clock(NEW_YORK)

    read_back, unreadable = found.to_utc(found.to_wall(instants))

    assert len(unreadable) == 1
    assert (np.delete(read_back, list(unreadable)) == np.delete(instants, list(unreadable))).all()


def test_few_rows_tell_no_step():
    times = ["02 21:00", "02 23:00", "03 01:00", "03 02:00", "03 04:00", "03 06:00"]

    assert read(NEW_YORK, *(f"2024-11-{time}" for time in times))[2] is None


def test_the_reason_says_which_time():
    _, unreadable = get_clock(NEW_YORK).to_utc(walls("2024-11-03 00:30", "2024-11-03 01:30", "2024-11-03 02:30"))

    assert unreadable == {1: "01:30 occurs twice on this clock, and the row does not say which"}


@pytest.mark.parametrize("step", [2 * HOUR_MS, 4 * HOUR_MS, DAY_MS])
def test_the_first_is_meant_where_rows_are_farther_apart_than_the_jump(step):
    times = utc_ms("2024-11-03 01:00") + step * np.arange(-5, 6)

    instants, unreadable = get_clock(NEW_YORK).to_utc(times)

    assert instants[5] == utc_ms("2024-11-03 05:00")
    assert not unreadable


def test_at_the_end_of_a_file_distances_tell_nothing():
    """Bars of four hours from 01:00 on may be on the clock's hours, or on those of UTC after the jump."""
    assert read(NEW_YORK, "2024-11-03 01:00", "2024-11-03 05:00", "2024-11-03 09:00")[0] is None
    assert read("America/Havana", "2024-11-02", "2024-11-03")[1] == "2024-11-03 04:00"


def test_a_time_that_is_left_out_is_told():
    times = walls("2024-03-10 01:59", "2024-03-10 02:00", "2024-03-10 02:59", "2024-03-10 03:00")

    assert get_clock(NEW_YORK).nonexistent(times).tolist() == [False, True, True, False]


def test_a_midnight_that_is_left_out_is_the_first_moment_after():
    assert read("America/Havana", "2024-03-10") == ["2024-03-10 05:00"]


def test_no_times_are_no_instants():
    instants, unreadable = get_clock(NEW_YORK).to_utc(np.array([], np.int64))

    assert len(instants) == len(unreadable) == 0
