"""Dates and times of day in many formats; ambiguous ones name the option."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from forecaster.errors import Ambiguous, BadPayload
from forecaster.tables import ParseOptions
from forecaster.tables.dates import read_dates
from tests.builders import utc_ms
from tests.tables.tables import make_table


def read(*columns, dayfirst=None):
    """Read the times of one column or two."""
    table = make_table({f"column {place}": column for place, column in enumerate(columns)})
    return read_dates(table, tuple(range(len(columns))), ParseOptions(dayfirst=dayfirst))


def shown(dates):
    return [str(np.datetime64(int(wall), "ms")).replace("T", " ").removesuffix(".000") for wall in dates.wall_ms]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("2024-01-25 17:30", "YYYY-MM-DD HH:MM"),
        ("2024-01-25T17:30:00", "YYYY-MM-DDTHH:MM:SS"),
        ("2024-01-25 17:30:00.000000", "YYYY-MM-DD HH:MM:SS.ffffff"),
        ("2024/1/25 17:30", "YYYY/M/DD HH:MM"),
        ("2024.01.25 17:30", "YYYY.MM.DD HH:MM"),
        ("25.01.2024 17:30:00.000", "DD.MM.YYYY HH:MM:SS.fff"),
        ("25/01/2024 17:30", "DD/MM/YYYY HH:MM"),
        ("01/25/2024 5:30 PM", "MM/DD/YYYY H:MM PM"),
        ("25-01-2024  17:30", "DD-MM-YYYY HH:MM"),
        ("Jan 25, 2024 17:30", "MMM DD, YYYY HH:MM"),
        ("January 25, 2024, 5:30 p.m.", "MMMMMMM DD, YYYY, H:MM p.m."),
        ("25-Jan-2024 17:30", "DD-MMM-YYYY HH:MM"),
        ("25 jan 2024 17:30", "DD MMM YYYY HH:MM"),
        ("Thu, 25 Jan 2024 17:30:00", "Thu, DD MMM YYYY HH:MM:SS"),
        ("202401251730", "YYYYMMDDHHMM"),
        ("20240125173000", "YYYYMMDDHHMMSS"),
        ("20240125173000000", "YYYYMMDDHHMMSSfff"),
        ("20240125 173000", "YYYYMMDD HHMMSS"),
        ("20240125 17:30", "YYYYMMDD HH:MM"),
        ("20240125T1730", "YYYYMMDDTHHMM"),
        ("2024-01-25 5:30\u202fPM", "YYYY-MM-DD H:MM PM"),
        ("20240125-17:30:00", "YYYYMMDD-HH:MM:SS"),
        ("2024. 01. 25. 17:30", "YYYY. MM. DD. HH:MM"),
        ("2024年1月25日 17:30", "YYYY年M月DD日 HH:MM"),
        ("2024년 1월 25일 17:30", "YYYY년 M월 DD일 HH:MM"),
    ],
)
def test_times_have_many_formats(text, form):
    dates = read([text])

    assert shown(dates) == ["2024-01-25 17:30:00"]
    assert dates.format == form
    assert np.isnan(dates.offset_ms).all()


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("2024-01-25 17:30Z", 0),
        ("2024-01-25 17:30:00 UTC", 0),
        ("2024-01-25 17:30 GMT", 0),
        ("2024-01-25T17:30:00-05:00", -5),
        ("2024-01-25 17:30+0530", 5.5),
        ("2024-01-25 17:30 -05", -5),
        ("25.01.2024 17:30:00.000 GMT+0100", 1),
        ("Thu Jan 25 2024 17:30:00 GMT+0100 (Central European Standard Time)", 1),
        ("20240125T173000Z", 0),
        ("2024-01-25 17:30 (UTC-05:00)", -5),
        ("2024-01-25 17:30 UTC + 5", 5),
        ("2024-01-25 17:30 UTC +0530", 5.5),
        ("2024-01-25 17:30 UTC\u22125", -5),
        ("2024-01-25 17:30\u201305:00", -5),
        ("2024-01-25T17:30:00-05:00[America/New_York]", -5),
    ],
)
def test_an_offset_is_kept_beside_the_written_time(text, hours):
    dates = read([text])

    assert shown(dates) == ["2024-01-25 17:30:00"]
    assert dates.offset_ms / 3_600_000 == hours


@pytest.mark.parametrize("remark", ["EST", "Eastern time", "New York"])
def test_a_remark_after_a_time_may_be_its_zone(remark):
    assert read([f"2024-01-25 17:30 ({remark})"]).abbreviation == f"2024-01-25 17:30 ({remark})"


@pytest.mark.parametrize("weekday", [" (Thu)", " (Thursday)", "(木)", " (목)"])
def test_a_weekday_after_a_date_is_not_a_zone(weekday):
    dates = read([f"2024-01-25{weekday}"])

    assert (shown(dates), dates.abbreviation) == (["2024-01-25 00:00:00"], "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45292", "a date, not the day number of a spreadsheet"),
        (45292.041667, "a date, not the day number of a spreadsheet"),
        ("1.70407E+12", "all digits of an epoch, not a number rounded by a spreadsheet,"),
        ("1,70407E+12", "all digits of an epoch, not a number rounded by a spreadsheet,"),
    ],
)
def test_times_damaged_by_a_spreadsheet_are_named(text, expected):
    with pytest.raises(BadPayload, match=f"{expected} in line 2"):
        read([text])


@pytest.mark.parametrize(
    "texts",
    [
        ["2023-02-01 00:00:00", "13/01/2023"],
        ["13/01/2023", "2023-02-01"],
        [pd.Timestamp("2023-02-01"), "13.01.2023"],
        ["20230201", "13-01-2023"],
    ],
)
@pytest.mark.parametrize("dayfirst", [None, True])
def test_dates_partly_converted_by_a_spreadsheet_are_rejected(texts, dayfirst):
    """It read 1 February as 2 January, and left the 13th as text."""
    with pytest.raises(BadPayload, match=r"swapped day and month in some.* in line 2 and .* in line 3"):
        read(texts, dayfirst=dayfirst)


@pytest.mark.parametrize(
    "texts",
    [["2024-01-02", "2024-01-02 12:00"], ["2024-01-02", "2024/01/02 12:00Z"], ["2024-01-02", "Jan 2, 2024 12:00"]],
)
def test_dates_of_one_order_may_have_two_formats(texts):
    assert shown(read(texts)) == ["2024-01-02 00:00:00", "2024-01-02 12:00:00"]


@pytest.mark.parametrize("text", ["2567-01-02", "02/13/2567", "1403-01-02 09:00", "2 Jan 0200"])
def test_a_year_of_another_calendar_is_rejected(text):
    """The Thai and the Persian calendar."""
    with pytest.raises(BadPayload, match="a year from 1600 to 2199 in line 2"):
        read([text])


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("year", [-1, 55_969])
def test_a_timestamp_of_an_impossible_year_is_rejected_with_its_line(unit, year):
    """Milliseconds read as seconds."""
    stamps = pd.Series(np.array(["2024-01-02", f"{year:05}-09-28"], f"datetime64[{unit}]"))

    with pytest.raises(BadPayload, match="a year from 1600 to 2199 in line 3"):
        read(stamps)


@pytest.mark.parametrize(
    ("hour", "expected"),
    [
        ("12-AM", "00"),
        ("01-AM", "01"),
        ("12-PM", "12"),
        ("11-PM", "23"),
        ("12 AM", "00"),
        ("12:00 PM", "12"),
        ("0:00 AM", "00"),
    ],
)
def test_noon_and_midnight_of_twelve_hour_clocks(hour, expected):
    assert shown(read([f"2017-07-01 {hour}"])) == [f"2017-07-01 {expected}:00:00"]


@pytest.mark.parametrize(
    "text",
    [
        "now",
        "today",
        "",
        "2024-13-01",
        "2024-02-30",
        "2024-01-02 25:00",
        "2024-01-02 09:60",
        "2024-01-02 13-PM",
        "0:30 PM",
        "2024",
        "2024-01",
        "٢٠٢٤-01-02",
        "2024-01-02 09:00+99:00",
        "0000-01-01",
        "99999999999999",
        "1\x00",
        "\ud800",
    ],
)
def test_other_text_is_rejected_with_its_line(text):
    """`pandas` reads `now` from the system clock."""
    with pytest.raises(BadPayload, match="an ISO date or an epoch in s, ms, us or ns in line 3, found"):
        read(["2024-01-01", text])


@pytest.mark.parametrize("missing", [None, np.nan, pd.NaT, pd.NA])
def test_a_row_without_a_time_is_rejected(missing):
    with pytest.raises(BadPayload, match="in line 3"):
        read(["2024-01-01", missing])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("01/02/24", "a year of four digits"),
        ("24-01-02", "a year of four digits"),
        ("25-Mar-24 09:30", "a year of four digits"),
        ("2024-01-02 24:00", "hours from 00 to 23"),
    ],
)
def test_an_ambiguous_time_is_rejected_with_a_reason(text, expected):
    with pytest.raises(BadPayload, match=f"{expected} in line 2"):
        read([text])


@pytest.mark.parametrize(
    "epoch",
    [
        "1704186000",
        "1704186000.0",
        "1704186000000",
        "1704186000000000",
        "1704186000000000000",
        "1.704186e9",
        "1.704186E9",
        1704186000,
        1704186000.0,
        1.704186e18,
    ],
)
def test_the_size_of_an_epoch_shows_its_unit(epoch):
    dates = read([epoch])

    assert shown(dates) == ["2024-01-02 09:00:00"]
    assert dates.is_epoch.all()


def test_units_of_epochs_may_change_within_a_table():
    assert shown(read(["1735603200000", "1735689600000000"])) == ["2024-12-31 00:00:00", "2025-01-01 00:00:00"]


def test_formats_may_change_within_a_table():
    assert shown(read(["2024-01-01", "2024-01-02T00:00Z", "2024-01-03 12-AM", "1704326400"]))[1:] == [
        "2024-01-02 00:00:00",
        "2024-01-03 00:00:00",
        "2024-01-04 00:00:00",
    ]


@pytest.mark.parametrize("kind", [str, int, float, "Int64"])
@pytest.mark.parametrize("form", ["%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"])
def test_digits_that_read_as_dates_are_dates(form, kind):
    """As text, and as the numbers of a frame."""
    times = pd.date_range("2024-01-30", periods=4, freq="D")
    cells = pd.Series(times.strftime(form)).astype(kind if kind is str else "int64").astype(kind)

    assert shown(read(cells)) == [str(time) for time in times]


@pytest.mark.parametrize(
    "start", ["1704067200", "1893456000", "2000000000", "946684800000", "1704067200000", "1704067200000000"]
)
def test_other_digits_are_epochs(start):
    """Some epochs of 2033 look like dates, but never most of a table."""
    dates = read([str(int(start) + hour * 3600) for hour in range(50)])

    assert dates.is_epoch.all()


def test_a_broken_date_does_not_turn_digits_into_epochs():
    with pytest.raises(BadPayload, match="in line 3, found '202413010000'"):
        read(["202401010000", "202413010000", "202401010200"])


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["01/02/2024", "13/02/2024"], "2024-02-01"),
        (["01/02/2024", "02/13/2024"], "2024-01-02"),
        (["01-02-2024", "02-13-2024"], "2024-01-02"),
        (["01.02.2024"], "2024-02-01"),
        (["01.02.2024", "02.13.2024"], "2024-01-02"),
        (["02/02/2024"], "2024-02-02"),
    ],
)
def test_a_number_above_twelve_is_the_day(cells, expected):
    """With dots, the day comes first by convention."""
    assert shown(read(cells))[0] == f"{expected} 00:00:00"


@pytest.mark.parametrize("by", "/-")
def test_ambiguous_days_and_months_are_rejected(by):
    with pytest.raises(Ambiguous, match=r"--dayfirst.*in line 3, which does not tell the day from the month") as caught:
        read([f"01{by}01{by}2024", f"01{by}02{by}2024"])

    assert caught.value.option == "dayfirst"


@pytest.mark.parametrize(("dayfirst", "expected"), [(True, "2024-02-01"), (False, "2024-01-02")])
@pytest.mark.parametrize("by", "/-.")
def test_dayfirst_settles_days_and_months(by, dayfirst, expected):
    assert shown(read([f"01{by}02{by}2024"], dayfirst=dayfirst)) == [f"{expected} 00:00:00"]


def test_a_date_that_contradicts_dayfirst_is_rejected():
    with pytest.raises(BadPayload, match="a month before its day in line 3, found '13/02/2024'"):
        read(["01/02/2024", "13/02/2024"], dayfirst=False)


@pytest.mark.parametrize("by", "/.")
def test_dates_that_contradict_each_other_are_named(by):
    with pytest.raises(
        BadPayload, match=r"days and months in one order, found '13.01.2024 in line 2, 01.13.2024 in line 3"
    ):
        read([f"13{by}01{by}2024", f"01{by}13{by}2024"])


@pytest.mark.parametrize(
    ("days", "clocks", "expected"),
    [
        (["2024-05-01"], ["09:30"], "09:30:00"),
        (["05/01/2024", "05/13/2024"], ["9:30 AM", "4 PM"], "09:30:00"),
        (["20240501"], ["093000"], "09:30:00"),
        ([20240501, 20240502], [93000, 100000], "09:30:00"),
        ([20240501, 20240502], [930, 1000], "09:30:00"),
        (["2024-05-01", "2024-05-02"], ["0", "23"], "00:00:00"),
        (["2024.05.01"], ["00:00"], "00:00:00"),
        ([dt.date(2024, 5, 1)], [dt.time(9, 30)], "09:30:00"),
        (["2024-05-01 00:00:00"], ["09:30:00"], "09:30:00"),
        (["2024-05-01"], [pd.Timedelta(hours=9)], "09:00:00"),
        (pd.Series(pd.to_datetime(["2024-05-01"])), ["09:30"], "09:30:00"),
    ],
)
def test_a_date_and_its_time_of_day_are_joined(days, clocks, expected):
    assert shown(read(days, clocks))[0] == f"2024-05-01 {expected}"


def test_hours_from_1_to_24_are_rejected():
    with pytest.raises(BadPayload, match="hours from 0 to 23 in line 3"):
        read(["2024-05-01", "2024-05-02"], ["1", "24"])


@pytest.mark.parametrize("clocks", [[0, 100, 200], [0, 1, 2], [1100, 1200, 1300], ["0", "1", "2"]])
def test_digits_that_may_be_minutes_or_hours_are_rejected(clocks):
    """Without leading zeros they are hours or minutes of the day."""
    with pytest.raises(BadPayload, match="times of day with four or six digits, or a column Hour"):
        read([20240501] * 3, clocks)


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [([930, 935, 1000], "09:30"), (["0900", "1000", "1100"], "09:00"), (["09", "10", "11"], "09:00")],
)
def test_digits_of_one_day_may_be_unambiguous(clocks, expected):
    """Bars are not seconds apart, and text keeps its zeros."""
    assert shown(read([20240501] * 3, clocks))[0] == f"2024-05-01 {expected}:00"


def test_a_column_named_hour_holds_hours():
    table = make_table({"Date": ["2024-05-01"] * 2, "Hour": ["0", "1"]})

    assert shown(read_dates(table, (0, 1), ParseOptions()))[1] == "2024-05-01 01:00:00"


def test_a_date_without_a_time_of_day_is_not_midnight():
    with pytest.raises(BadPayload, match="in line 3"):
        read(["2024-05-01", "2024-05-01"], ["09:30", None])


@pytest.mark.parametrize(("zone", "offset"), [(None, None), ("UTC", 0), ("Asia/Tokyo", 9)])
@pytest.mark.parametrize("unit", ["ns", "ms"])
def test_times_of_a_frame_are_unchanged(zone, offset, unit):
    times = pd.Series(pd.date_range("2024-01-02 09:00", periods=2, freq="h", tz=zone).as_unit(unit))

    dates = read(times)

    assert dates.wall_ms.tolist() == [utc_ms("2024-01-02 09:00"), utc_ms("2024-01-02 10:00")]
    assert np.isnan(dates.offset_ms).all() if offset is None else (dates.offset_ms == offset * 3_600_000).all()


def test_a_missing_time_of_a_frame_is_rejected():
    with pytest.raises(BadPayload, match="in line 2"):
        read(pd.Series([pd.NaT, pd.Timestamp("2024-01-01")]))
