"""Clocks: names, ambiguous times, and nonexistent times."""

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
    """Return instants as texts, None where unread."""
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
def test_get_clock(name, shown, ahead):
    """An IANA name has priority over a name and a shift, which is added to the wall time."""
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
def test_similar_names_are_listed(name, near):
    with pytest.raises(ConfigError, match=rf"timezone: expected an IANA name .* \(near: {near}\), found '"):
        get_clock(name)


@pytest.mark.parametrize("name", ["", "EDT", "+25", "America", "localtime", "../UTC", "a\0b", "Factory"])
def test_other_names_are_refused(name):
    """The zone of a machine is refused: it differs elsewhere."""
    with pytest.raises(ConfigError, match="timezone"):
        get_clock(name)


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Europe/London", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia"]
)
def test_wall_times_are_those_of_pandas(zone):
    instants = np.random.default_rng(0).integers(utc_ms("1920-01-01"), utc_ms("2060-01-01"), 2000)

    expected = pd.DatetimeIndex(instants.astype("datetime64[ms]"), tz="UTC").tz_convert(zone).tz_localize(None)

    assert (get_clock(zone).to_wall(instants).astype("datetime64[ms]") == expected.to_numpy()).all()


def some_seconds(name):
    """Ten random seconds of each of three years between 1971 and 2037."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    for year in random.choice(np.arange(1971, 2038), 3, replace=False):
        yield np.sort(utc_ms(f"{year}-01-01") + 1000 * random.integers(0, 365 * 86_400, 10))


@pytest.mark.parametrize("letter", sorted({name[0] for name in ZONES}))
def test_every_zone_converts_both_ways(letter):
    """Also in years without a transition."""
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
def test_a_year_out_of_range_has_the_nearest_offset(name, year):
    times = np.array([f"{year:05}-06-01"], "datetime64[ms]").astype(np.int64)

    found = get_clock(name)

    assert found.to_wall(found.to_utc(times)[0]) == times


@pytest.mark.parametrize("step", [1, 5, 15, 30, 60, 120, 180, 360, 720])
@pytest.mark.parametrize("name", JUMPING)
@pytest.mark.parametrize("direction", [1, -1])
def test_rows_without_a_gap_round_trip(name, step, direction):
    """Also across ambiguous hours, and newest first."""
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
    """One time that occurs in both passes proves that there are two."""
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
def test_an_ambiguous_time_is_not_guessed(times):
    """Once, three times, or in rows without a clear order."""
    found = read(NEW_YORK, *(f"2024-11-03 {time}" for time in times))

    assert [instant is None for instant in found] == [time.startswith("01") for time in times]


@pytest.mark.parametrize("kept", [0.2, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_hourly_bars_with_gaps_are_not_longer_bars(seed, kept):
    """Most rows are two hours apart or more, and the ambiguous hour stays unread."""
    instants = np.arange(utc_ms("2024-10-20"), utc_ms("2024-11-15"), HOUR_MS)
    instants = instants[np.random.default_rng(seed).random(len(instants)) < kept]
    instants = np.unique(np.append(instants, utc_ms("2024-11-03 06:00")))
    instants = instants[instants != utc_ms("2024-11-03 05:00")]
    found = get_clock(NEW_YORK)

    read_back, unreadable = found.to_utc(found.to_wall(instants))

    assert len(unreadable) == 1
    assert (np.delete(read_back, list(unreadable)) == np.delete(instants, list(unreadable))).all()


def test_few_rows_have_no_step():
    times = ["02 21:00", "02 23:00", "03 01:00", "03 02:00", "03 04:00", "03 06:00"]

    assert read(NEW_YORK, *(f"2024-11-{time}" for time in times))[2] is None


def test_the_reason_says_which_time():
    _, unreadable = get_clock(NEW_YORK).to_utc(walls("2024-11-03 00:30", "2024-11-03 01:30", "2024-11-03 02:30"))

    assert unreadable == {1: "01:30 occurs twice on this clock, and the row does not say which"}


@pytest.mark.parametrize("step", [2 * HOUR_MS, 4 * HOUR_MS, DAY_MS])
def test_the_first_instant_is_meant_where_rows_are_far_apart(step):
    times = utc_ms("2024-11-03 01:00") + step * np.arange(-5, 6)

    instants, unreadable = get_clock(NEW_YORK).to_utc(times)

    assert instants[5] == utc_ms("2024-11-03 05:00")
    assert not unreadable


def test_distances_do_not_decide_at_the_end_of_a_file():
    """Bars of four hours from 01:00 on may follow the clock, or UTC after the transition."""
    assert read(NEW_YORK, "2024-11-03 01:00", "2024-11-03 05:00", "2024-11-03 09:00")[0] is None
    assert read("America/Havana", "2024-11-02", "2024-11-03")[1] == "2024-11-03 04:00"


def test_nonexistent_times():
    times = walls("2024-03-10 01:59", "2024-03-10 02:00", "2024-03-10 02:59", "2024-03-10 03:00")

    assert get_clock(NEW_YORK).nonexistent(times).tolist() == [False, True, True, False]


def test_a_nonexistent_midnight_is_the_transition():
    assert read("America/Havana", "2024-03-10") == ["2024-03-10 05:00"]


def test_no_times():
    instants, unreadable = get_clock(NEW_YORK).to_utc(np.array([], np.int64))

    assert len(instants) == len(unreadable) == 0
