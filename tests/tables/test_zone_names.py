"""Zones in headers, banners and cells: used if settled, never ignored."""

from __future__ import annotations

import pytest

from forecaster.tables.zone_names import mentions_zone, parse_clock, parse_zone_cell


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("UTC", "UTC"),
        ("Gmt time", "UTC"),
        ("time_utc", "UTC"),
        ("all times are UTC", "UTC"),
        ("London (UTC)", "UTC"),
        ("Time(UTC+8)", "+08:00"),
        ("Time (UTC + 5)", "+05:00"),
        ("Time (GMT +1)", "+01:00"),
        ("GMT+2 Time", "+02:00"),
        ("Time (UTC\u22125)", "-05:00"),
        ("Time (UTC\u20135)", "-05:00"),
        ("Time (UTC-0500)", "-05:00"),
        ("Time (UTC+5.5)", "+05:30"),
        ("Time (UTC+05.30)", "+05:30"),
        ("Time (UTC+5:45)", "+05:45"),
        ("time_utc+8", "+08:00"),
        ("Time (UTC/GMT +8 hours)", "+08:00"),
        ("time (+05:30)", "+05:30"),
        ("Time [US/Eastern]", "US/Eastern"),
        ("time (Europe/Berlin, CET)", "Europe/Berlin"),
        ("Local time (Asia/Tokyo)", "Asia/Tokyo"),
        ("Time (Etc/GMT+5)", "Etc/GMT+5"),
        ("time America/New_York+07:00", "America/New_York+07:00"),
    ],
)
def test_a_zone_is_parsed(text, name):
    clock = parse_clock(text)

    assert clock is not None
    assert clock.name == name
    assert mentions_zone(text)


@pytest.mark.parametrize(
    "text",
    [
        "Date (not UTC)",
        "Time (UTC+1/+2)",
        "Time (UTC+15)",
        "Time (UTC-300)",
        "Time (UTC+5.1)",
        "(UTC-05:00) Eastern Time",
        "Time (CET/UTC+1)",
        "Time (Europe/Berlin or Europe/London)",
        "Local time (GMT+2)",
        "Time (ET)",
        "Time - EST",
        "date_et",
        "Time (Eastern)",
        "Time (New York)",
        "Time (Beijing)",
        "Time (UK)",
        "Time(KST)",
        "Time (BRT)",
        "Date - Sydney",
        "candle_date_time_kst",
        "Exchange time",
        "Datetime (Local)",
    ],
)
def test_an_unsettled_zone_is_mentioned(text):
    """An offset beside a place is unsettled: the place may have another one in summer."""
    assert mentions_zone(text)
    assert parse_clock(text) is None


@pytest.mark.parametrize(
    "name",
    [
        "time",
        "Open time",
        "date/time",
        "Date and Time",
        "Datum/Uhrzeit",
        "Fecha y hora",
        "Date (YYYY-MM-DD)",
        "Datum (TT.MM.JJJJ)",
        "Дата (ДД.ММ.ГГГГ)",
        "timestamp (s)",
        "open_time_ms",
        "Time (5 min)",
        "Exchange Date",
        "日期",
        "<DATE>",
        "ts_event",
        "Unnamed: 0",
        "when",
        "utility",
        "gmtx",
        "",
    ],
)
def test_units_and_date_formats_are_not_zones(name):
    assert not mentions_zone(name)
    assert parse_clock(name) is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("America/New_York", "America/New_York"),
        ("Japan", "Japan"),
        ("EST5EDT", "EST5EDT"),
        ("0", "+00:00"),
        ("5.5", "+05:30"),
        ("-5.0", "-05:00"),
        ("-0500", "-05:00"),
        ("-18000", "-05:00"),
        ("19800.0", "+05:30"),
        ("UTC+2", "+02:00"),
    ],
)
def test_a_cell_is_a_zone(text, name):
    clock = parse_zone_cell(text)

    assert clock is not None
    assert clock.name == name


@pytest.mark.parametrize(
    "text", ["", "EST", "CET", "Eastern", "here", "-300", "300", "60000", "5.1", "nan", "inf", "-5, -4"]
)
def test_other_cells_are_not_zones(text):
    """Abbreviations are ambiguous, and so is the sign of minutes."""
    assert parse_zone_cell(text) is None
