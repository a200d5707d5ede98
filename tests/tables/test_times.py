"""Times as instants: the zone from the table, its header or its format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from forecaster.errors import Ambiguous, BadPayload, ConfigError
from forecaster.tables import ParseOptions
from forecaster.tables.dates import read_dates
from forecaster.tables.times import read_times, to_instants
from forecaster.zones import UNWRITTEN
from tests.builders import utc_ms
from tests.tables.tables import make_table

NOON = "2024-01-02 12:00"


def read(*cells, name="time", given=None, **table):
    """Read one column of times."""
    return read_times(make_table({name: list(cells)}, **table), (0,), ParseOptions(timezone=given))


def instants(times):
    return [
        str(np.datetime64(int(instant), "ms").astype("datetime64[m]")).replace("T", " ")
        for instant in times.labels.instant
    ]


def test_times_without_a_zone_are_utc():
    times = read(NOON)

    assert (times.zone_source, times.zone_text) == ("assumed", "UTC, as no zone is written")
    assert times.format == "YYYY-MM-DD HH:MM"
    assert times.labels.instant.tolist() == times.labels.written.tolist() == [utc_ms(NOON)]
    assert times.utc_conflict == ""


def test_an_offset_is_applied_and_the_written_time_is_kept():
    times = read("2024-07-01 00:00:00-04:00", "2024-12-02 00:00:00-05:00")

    assert (times.zone_source, times.zone_text) == ("written", "written: -05:00 and -04:00")
    assert instants(times) == ["2024-07-01 04:00", "2024-12-02 05:00"]
    assert times.labels.written.tolist() == [utc_ms("2024-07-01"), utc_ms("2024-12-02")]


@pytest.mark.parametrize("given", [None, "UTC", "Asia/Tokyo"])
def test_a_written_offset_wins_over_the_option(given):
    times = read(f"{NOON} UTC", given=given)

    assert times.zone_source == "written"
    assert instants(times) == [NOON]


@pytest.mark.parametrize("cell", ["2024-01-02 12:00-05:00", "20240102 12:00:00 US/Eastern"])
@pytest.mark.parametrize("given", ["America/New_York", "Asia/Tokyo"])
def test_an_unused_zone_option_is_reported(cell, given):
    """The table has its own zone; a note says that the option is not used."""
    times = read(cell, given=given)

    assert times.zone_text.endswith("; Asia/Tokyo, as given, is not used") == (given == "Asia/Tokyo")
    assert instants(times) == ["2024-01-02 17:00"]


@pytest.mark.parametrize(("given", "expected"), [(None, NOON), ("Asia/Tokyo", "2024-01-02 03:00")])
def test_beside_offsets_a_time_without_one_uses_the_option(given, expected):
    times = read(NOON, f"{NOON}Z", given=given)

    assert times.zone_source == "written"
    assert times.zone_text == f"written: UTC; {given or 'UTC'} where nothing is written"
    assert instants(times) == [expected, NOON]


@pytest.mark.parametrize(
    ("given", "unused"), [(None, ""), ("UTC", ""), ("Asia/Tokyo", "; Asia/Tokyo, as given, is not used")]
)
def test_an_epoch_has_no_written_date(given, unused):
    times = read("1704196800", given=given)

    assert (times.zone_source, times.zone_text, times.format) == ("written", f"UTC, as epochs are{unused}", "epoch")
    assert instants(times) == [NOON]
    assert times.labels.written.tolist() == [UNWRITTEN]


@pytest.mark.parametrize(
    ("given", "expected"),
    [("America/New_York", "17:00"), ("+02:00", "10:00"), ("America/New_York+07:00", "10:00"), ("UTC", "12:00")],
)
def test_the_zone_option_is_used(given, expected):
    times = read(NOON, given=given)

    assert (times.zone_source, times.zone_text) == ("given", f"{given}, as given")
    assert instants(times) == [f"2024-01-02 {expected}"]
    assert times.labels.written.tolist() == [utc_ms(NOON)]


def test_an_unknown_zone_is_rejected():
    with pytest.raises(ConfigError, match="timezone"):
        read(NOON, given="New York")


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
def test_a_header_names_the_zone(name, expected):
    times = read(NOON, name=name)

    assert times.zone_source == "written"
    assert instants(times) == [f"2024-01-02 {expected}"]
    assert name in times.zone_text


@pytest.mark.parametrize("name", ["date/time", "timestamp", "Date", "utility", "gmtx"])
def test_other_headers_name_no_zone(name):
    assert read(NOON, name=name).zone_source == "assumed"


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
def test_a_header_with_an_unknown_zone_needs_the_option(name):
    assert read(NOON, name=name).zone_source == "required"
    assert read(NOON, name=name, given="Europe/Athens").zone_source == "given"


@pytest.mark.parametrize(
    ("timezone", "zone"), [("US/Eastern", "written"), ("UTC", "written"), ("EST", "required"), ("here", "required")]
)
def test_a_table_may_name_its_zone(timezone, zone):
    """Abbreviations such as EST may include daylight saving time or not."""
    times = read(NOON, timezone=timezone)

    assert times.zone_source == zone
    assert timezone in times.zone_text


@pytest.mark.parametrize("name", ["timezone", "tz", "UTC_offset"])
@pytest.mark.parametrize("clock", ["America/New_York", -5, "-05:00", "UTC-5", -18_000])
def test_a_column_of_zones_names_the_zone(name, clock):
    times = read_times(make_table({"time": [NOON, NOON], name: [clock, clock]}), (0,), ParseOptions())

    assert times.zone_source == "written"
    assert times.zone_text.endswith(f"as the column `{name}` says")
    assert instants(times)[0] == "2024-01-02 17:00"


@pytest.mark.parametrize("zones", [["EST", "EST"], ["UTC", ""], [-5, -4], ["UTC", None], [-300, -300], ["x", "x"]])
def test_a_column_of_several_zones_needs_the_option(zones):
    table = make_table({"time": [NOON, NOON], "timezone": zones})

    assert read_times(table, (0,), ParseOptions()).zone_source == "required"
    assert read_times(table, (0,), ParseOptions(timezone="UTC")).zone_source == "given"


def test_a_column_of_zones_is_ignored_if_times_have_zones():
    """Epochs, and a header with a zone."""
    by_epoch = make_table({"time": ["1704196800"], "gmtoffset": [-5]})
    by_header = make_table({"time_utc": [NOON], "timezone": ["America/New_York"], "empty tz": [None], "tz": [None]})

    assert instants(read_times(by_epoch, (0,), ParseOptions())) == [NOON]
    assert instants(read_times(by_header, (0,), ParseOptions())) == [NOON]


def test_a_zone_abbreviation_needs_the_option():
    with pytest.raises(Ambiguous, match="timezone") as caught:
        read(f"{NOON} EST")

    assert caught.value.option == "timezone"
    assert instants(read(f"{NOON} EST", given="America/New_York")) == ["2024-01-02 17:00"]


def test_a_zone_after_each_time_is_used():
    times = read("20240102 12:00:00 US/Eastern", "20240702 12:00:00 US/Eastern")

    assert (times.zone_source, times.zone_text) == ("written", "written: US/Eastern")
    assert instants(times) == ["2024-01-02 17:00", "2024-07-02 16:00"]


@pytest.mark.parametrize(
    "cells", [[f"{NOON} US/Eastern", NOON], [f"{NOON} US/Eastern", f"{NOON} Asia/Tokyo"], [f"{NOON} Foo/Bar"]]
)
def test_all_times_need_the_same_zone(cells):
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
    """MetaTrader and HistData, also for days, which begin at the broker's midnight."""
    made = make_table(**table)
    places = tuple(range(min(2, len(made.names))))

    assert read_times(made, places, ParseOptions()).zone_source == "required"
    assert read_times(made, places, ParseOptions(timezone="-05:00")).zone_source == "given"


@pytest.mark.parametrize("beside", ["spread", "real_volume"])
@pytest.mark.parametrize("time", ["1704196800", NOON])
def test_epochs_of_metatrader_are_server_times(time, beside):
    """Its epochs are local times, not instants."""
    table = make_table({"time": [time], "tick_volume": [1], beside: [1]})

    assert read_times(table, (0,), ParseOptions()).zone_source == "required"

    given = read_times(table, (0,), ParseOptions(timezone="+02:00"))

    assert (given.zone_source, instants(given)) == ("given", ["2024-01-02 10:00"])
    assert given.labels.written.tolist() == [utc_ms(NOON)]


def test_a_tick_count_alone_is_not_metatrader():
    table = make_table({"time": [NOON], "tick_volume": [1]})

    assert read_times(table, (0,), ParseOptions()).zone_source == "assumed"


@pytest.mark.parametrize(("time", "zone"), [("090000", "required"), ("000000", "assumed")])
def test_times_in_pointed_brackets_are_local(time, zone):
    """Finam and Stooq; days need no zone."""
    table = make_table({"<TICKER>": ["A"] * 2, "<DATE>": ["20240102", "20240103"], "<TIME>": [time] * 2})

    assert read_times(table, (1, 2), ParseOptions()).zone_source == zone


@pytest.mark.parametrize(("cell", "zone"), [("2024.01.02", "assumed"), ("2024.01.02 09:00", "required")])
@pytest.mark.parametrize("name", ["날짜", "日期", "日付"])
def test_dotted_dates_of_east_asia_are_not_a_brokers(cell, zone, name):
    assert read(cell, name=name).zone_source == zone


def test_other_compact_times_are_utc():
    assert read("20240102 120000").zone_source == "assumed"
    assert read("20240102", has_header=False).zone_source == "assumed"


def test_a_nonexistent_time_is_rejected_with_its_line():
    with pytest.raises(BadPayload, match="a time that exists in America/New_York in line 3"):
        read("2024-03-10 01:30", "2024-03-10 02:30", given="America/New_York")


def test_a_day_may_begin_after_a_nonexistent_midnight():
    assert instants(read("2024-03-09", "2024-03-10", given="America/Havana")) == [
        "2024-03-09 05:00",
        "2024-03-10 05:00",
    ]


def test_dates_of_a_whole_table_are_read_before_its_symbols():
    """The dates of one symbol settle day and month of the others."""
    table = make_table({"date": ["13/01/2024", "02/01/2024"], "symbol": ["A", "B"]})
    dates = read_dates(table, (0,), ParseOptions())

    part = replace(table, cells=table.cells.iloc[[1]])

    assert instants(to_instants(part, (0,), dates[np.array([1])], ParseOptions())) == ["2024-01-02 00:00"]


def test_an_ambiguous_time_is_reported_by_position():
    times = read(
        "2024-11-03 00:00Z", "2024-11-03 00:30", "2024-11-03 01:30", "2024-11-03 02:00", given="America/New_York"
    )

    assert list(times.unreadable) == [2]
    assert "01:30 occurs twice" in times.unreadable[2]


@pytest.mark.parametrize("zone", ["US/Eastern", "UTC"])
def test_times_of_a_frame_keep_their_zone(zone):
    stamps = pd.Series(pd.date_range("2024-01-02", periods=2, freq="D", tz=zone))

    times = read_times(make_table({"index": stamps}), (0,), ParseOptions(timezone="Asia/Tokyo"))

    assert times.zone_source == "written"
    assert times.labels.instant.tolist() == [stamp.value // 1_000_000 for stamp in stamps]
    assert times.labels.written.tolist() == [utc_ms("2024-01-02"), utc_ms("2024-01-03")]
