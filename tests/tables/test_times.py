"""Times of tables as instants: whose clock it is, and what the table, its header or its form says of that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forecaster.calendars import UNWRITTEN
from forecaster.errors import Ambiguous, BadPayload, ConfigError
from forecaster.tables import Reading
from forecaster.tables.dates import read_dates
from forecaster.tables.times import read_times, times_of
from tests.builders import utc_ms
from tests.tables.tables import make_table

NOON = "2024-01-02 12:00"


def read(*cells, name="time", said=None, **table):
    """Read one column of times."""
    return read_times(make_table({name: list(cells)}, **table), (0,), Reading(timezone=said))


def instants(times):
    return [
        str(np.datetime64(int(instant), "ms").astype("datetime64[m]")).replace("T", " ")
        for instant in times.labels.instant
    ]


def test_times_without_a_zone_are_taken_for_utc():
    times = read(NOON)

    assert (times.zone, times.zone_text) == ("assumed", "UTC, as no zone is written")
    assert times.form == "YYYY-MM-DD HH:MM"
    assert times.labels.instant.tolist() == times.labels.written.tolist() == [utc_ms(NOON)]
    assert times.doubt == ""


def test_an_offset_is_the_zone_and_the_written_time_is_kept():
    times = read("2024-07-01 00:00:00-04:00", "2024-12-02 00:00:00-05:00")

    assert (times.zone, times.zone_text) == ("written", "written: -05:00 and -04:00")
    assert instants(times) == ["2024-07-01 04:00", "2024-12-02 05:00"]
    assert times.labels.written.tolist() == [utc_ms("2024-07-01"), utc_ms("2024-12-02")]


@pytest.mark.parametrize("said", [None, "UTC", "Asia/Tokyo"])
def test_an_offset_that_is_written_wins_over_what_is_said(said):
    times = read(f"{NOON} UTC", said=said)

    assert times.zone == "written"
    assert instants(times) == [NOON]


@pytest.mark.parametrize("cell", ["2024-01-02 12:00-05:00", "20240102 12:00:00 US/Eastern"])
@pytest.mark.parametrize("said", ["America/New_York", "Asia/Tokyo"])
def test_a_clock_that_is_said_beside_another_one_is_named(cell, said):
    """It is not used, and people see that; the one of the table says nothing new."""
    times = read(cell, said=said)

    assert times.zone_text.endswith("; Asia/Tokyo, as said, is not used") == (said == "Asia/Tokyo")
    assert instants(times) == ["2024-01-02 17:00"]


@pytest.mark.parametrize(("said", "expected"), [(None, NOON), ("Asia/Tokyo", "2024-01-02 03:00")])
def test_beside_offsets_a_time_without_is_of_the_said_clock(said, expected):
    times = read(NOON, f"{NOON}Z", said=said)

    assert times.zone == "written"
    assert times.zone_text == f"written: UTC; {said or 'UTC'} where nothing is written"
    assert instants(times) == [expected, NOON]


@pytest.mark.parametrize(
    ("said", "unused"), [(None, ""), ("UTC", ""), ("Asia/Tokyo", "; Asia/Tokyo, as said, is not used")]
)
def test_an_epoch_has_no_written_date(said, unused):
    times = read("1704196800", said=said)

    assert (times.zone, times.zone_text, times.form) == ("written", f"UTC, as epochs are{unused}", "epoch")
    assert instants(times) == [NOON]
    assert times.labels.written.tolist() == [UNWRITTEN]


@pytest.mark.parametrize(
    ("said", "expected"),
    [("America/New_York", "17:00"), ("+02:00", "10:00"), ("America/New_York+07:00", "10:00"), ("UTC", "12:00")],
)
def test_a_clock_that_is_said_is_used(said, expected):
    times = read(NOON, said=said)

    assert (times.zone, times.zone_text) == ("said", f"{said}, as said")
    assert instants(times) == [f"2024-01-02 {expected}"]
    assert times.labels.written.tolist() == [utc_ms(NOON)]


def test_a_clock_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="timezone"):
        read(NOON, said="New York")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Gmt time", "12:00"),
        ("time_utc", "12:00"),
        ("Date (UTC)", "12:00"),
        ("Time (UTC+2)", "10:00"),
        ("Date GMT-05:00", "17:00"),
        ("time (America/New_York)", "17:00"),
        ("Time (UTC + 5)", "07:00"),
        ("Time (UTC\u22125)", "17:00"),
    ],
)
def test_a_header_tells_the_clock(name, expected):
    times = read(NOON, name=name)

    assert times.zone == "written"
    assert instants(times) == [f"2024-01-02 {expected}"]
    assert name in times.zone_text


@pytest.mark.parametrize("name", ["date/time", "timestamp", "Date", "utility", "gmtx"])
def test_other_headers_tell_none(name):
    assert read(NOON, name=name).zone == "assumed"


@pytest.mark.parametrize(
    "name",
    [
        "Local time",
        "local_time",
        "Time (EET)",
        "Date (ET)",
        "Broker time",
        "Date (not UTC)",
        "Time (Beijing)",
        "time_est",
    ],
)
def test_a_header_of_a_clock_without_its_place_needs_a_zone(name):
    assert read(NOON, name=name).zone == "required"
    assert read(NOON, name=name, said="Europe/Athens").zone == "said"


@pytest.mark.parametrize(
    ("timezone", "zone"), [("US/Eastern", "written"), ("UTC", "written"), ("EST", "required"), ("here", "required")]
)
def test_a_table_says_its_zone_as_a_whole(timezone, zone):
    """Of letters such as EST a source means the summer time of a place, or none."""
    times = read(NOON, timezone=timezone)

    assert times.zone == zone
    assert timezone in times.zone_text


@pytest.mark.parametrize("name", ["timezone", "tz", "UTC_offset"])
@pytest.mark.parametrize("clock", ["America/New_York", -5, "-05:00", "UTC-5", -18_000])
def test_a_column_of_zones_tells_the_clock(name, clock):
    times = read_times(make_table({"time": [NOON, NOON], name: [clock, clock]}), (0,), Reading())

    assert times.zone == "written"
    assert times.zone_text.endswith(f"as the column `{name}` says")
    assert instants(times)[0] == "2024-01-02 17:00"


@pytest.mark.parametrize("zones", [["EST", "EST"], ["UTC", ""], [-5, -4], ["UTC", None], [-300, -300], ["x", "x"]])
def test_a_column_of_several_zones_needs_one(zones):
    table = make_table({"time": [NOON, NOON], "timezone": zones})

    assert read_times(table, (0,), Reading()).zone == "required"
    assert read_times(table, (0,), Reading(timezone="UTC")).zone == "said"


def test_a_column_of_zones_is_not_read_where_times_have_theirs():
    """Epochs, and a header that says more of its own times."""
    by_epoch = make_table({"time": ["1704196800"], "gmtoffset": [-5]})
    by_header = make_table({"time_utc": [NOON], "timezone": ["America/New_York"], "empty tz": [None], "tz": [None]})

    assert instants(read_times(by_epoch, (0,), Reading())) == [NOON]
    assert instants(read_times(by_header, (0,), Reading())) == [NOON]


def test_letters_of_a_zone_are_refused_until_a_zone_is_said():
    with pytest.raises(Ambiguous, match="timezone") as caught:
        read(f"{NOON} EST")

    assert caught.value.option == "timezone"
    assert instants(read(f"{NOON} EST", said="America/New_York")) == ["2024-01-02 17:00"]


def test_a_zone_behind_each_time_is_the_zone():
    times = read("20240102 12:00:00 US/Eastern", "20240702 12:00:00 US/Eastern")

    assert (times.zone, times.zone_text) == ("written", "written: US/Eastern")
    assert instants(times) == ["2024-01-02 17:00", "2024-07-02 16:00"]


@pytest.mark.parametrize(
    "cells", [[f"{NOON} US/Eastern", NOON], [f"{NOON} US/Eastern", f"{NOON} Asia/Tokyo"], [f"{NOON} Foo/Bar"]]
)
def test_zones_behind_times_are_one_and_there(cells):
    with pytest.raises(BadPayload):
        read(*cells)


@pytest.mark.parametrize(
    "table",
    [
        {"columns": {"Date": ["2024.01.02"]}},
        {"columns": {"<DATE>": ["2024.01.02"], "<TIME>": ["12:00:00"]}},
        {"columns": {"<DATE>": ["20240102"], "<TIME>": ["120000"], "<TICKVOL>": ["1"]}},
        {"columns": {"column 1": ["2024.01.02"], "column 2": ["12:00"]}, "has_header": False},
        {"columns": {"column 1": ["20240102 120000"]}, "has_header": False},
    ],
)
def test_programs_that_write_local_times_need_a_zone(table):
    """MetaTrader and HistData; days as well, as the day of a broker's clock is no other's."""
    made = make_table(**table)
    places = tuple(range(min(2, len(made.names))))

    assert read_times(made, places, Reading()).zone == "required"
    assert read_times(made, places, Reading(timezone="-05:00")).zone == "said"


@pytest.mark.parametrize("beside", ["spread", "real_volume"])
@pytest.mark.parametrize("time", ["1704196800", NOON])
def test_what_metatrader_gives_a_program_is_of_the_clock_of_its_server(time, beside):
    """Its epochs are that clock's times, and no instants."""
    table = make_table({"time": [time], "tick_volume": [1], beside: [1]})

    assert read_times(table, (0,), Reading()).zone == "required"

    said = read_times(table, (0,), Reading(timezone="+02:00"))

    assert (said.zone, instants(said)) == ("said", ["2024-01-02 10:00"])
    assert said.labels.written.tolist() == [utc_ms(NOON)]


def test_a_count_of_ticks_alone_is_of_any_program():
    table = make_table({"time": [NOON], "tick_volume": [1]})

    assert read_times(table, (0,), Reading()).zone == "assumed"


@pytest.mark.parametrize(("time", "zone"), [("090000", "required"), ("000000", "assumed")])
def test_times_in_pointed_brackets_are_local(time, zone):
    """Finam and Stooq; their days have no clock."""
    table = make_table({"<TICKER>": ["A"] * 2, "<DATE>": ["20240102", "20240103"], "<TIME>": [time] * 2})

    assert read_times(table, (1, 2), Reading()).zone == zone


@pytest.mark.parametrize(("cell", "zone"), [("2024.01.02", "assumed"), ("2024.01.02 09:00", "required")])
@pytest.mark.parametrize("name", ["날짜", "日期", "日付"])
def test_dotted_days_of_east_asia_are_no_brokers(cell, zone, name):
    assert read(cell, name=name).zone == zone


def test_other_compact_times_are_of_no_such_program():
    assert read("20240102 120000").zone == "assumed"
    assert read("20240102", has_header=False).zone == "assumed"


def test_a_time_that_its_clock_leaves_out_is_refused_by_its_line():
    with pytest.raises(BadPayload, match="a time that the clock of America/New_York shows in line 3"):
        read("2024-03-10 01:30", "2024-03-10 02:30", said="America/New_York")


def test_a_day_may_begin_after_a_midnight_that_is_left_out():
    assert instants(read("2024-03-09", "2024-03-10", said="America/Havana")) == ["2024-03-09 05:00", "2024-03-10 05:00"]


def test_dates_of_a_whole_table_are_read_before_its_symbols():
    """One symbol's dates tell days from months for another's."""
    table = make_table({"date": ["13/01/2024", "02/01/2024"], "symbol": ["A", "B"]})
    dates = read_dates(table, (0,), Reading())

    part = replace(table, cells=table.cells.iloc[[1]])

    assert instants(times_of(part, (0,), dates[np.array([1])], Reading())) == ["2024-01-02 00:00"]


def test_a_time_that_comes_twice_is_told_by_its_position():
    times = read(
        "2024-11-03 00:00Z", "2024-11-03 00:30", "2024-11-03 01:30", "2024-11-03 02:00", said="America/New_York"
    )

    assert list(times.unreadable) == [2]
    assert "01:30 comes twice" in times.unreadable[2]


@pytest.mark.parametrize("zone", ["US/Eastern", "UTC"])
def test_times_of_a_frame_keep_their_zone(zone):
    stamps = pd.Series(pd.date_range("2024-01-02", periods=2, freq="D", tz=zone))

    times = read_times(make_table({"index": stamps}), (0,), Reading(timezone="Asia/Tokyo"))

    assert times.zone == "written"
    assert times.labels.instant.tolist() == [stamp.value // 1_000_000 for stamp in stamps]
    assert times.labels.written.tolist() == [utc_ms("2024-01-02"), utc_ms("2024-01-03")]
