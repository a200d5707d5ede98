"""Dates and times of day in the ways that people write them; what may be two is refused by the option that tells."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from forecaster.errors import Ambiguous, BadPayload
from forecaster.tables import Reading
from forecaster.tables.dates import read_dates
from tests.builders import utc_ms
from tests.tables.tables import make_table


def read(*columns, dayfirst=None):
    """Read the times of one column, or of two; as texts, and the offsets in hours."""
    table = make_table({f"column {place}": column for place, column in enumerate(columns)})
    return read_dates(table, tuple(range(len(columns))), Reading(dayfirst=dayfirst))


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
def test_a_time_has_many_forms(text, form):
    dates = read([text])

    assert shown(dates) == ["2024-01-25 17:30:00"]
    assert dates.form == form
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
def test_a_remark_behind_a_time_may_be_its_zone(remark):
    assert read([f"2024-01-25 17:30 ({remark})"]).letters == f"2024-01-25 17:30 ({remark})"


@pytest.mark.parametrize("weekday", [" (Thu)", " (Thursday)", "(木)", " (목)"])
def test_a_weekday_behind_a_date_is_no_zone(weekday):
    dates = read([f"2024-01-25{weekday}"])

    assert (shown(dates), dates.letters) == (["2024-01-25 00:00:00"], "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45292", "a date, where the spreadsheet has written the number of a day"),
        (45292.041667, "a date, where the spreadsheet has written the number of a day"),
        ("1.70407E+12", "all digits of an epoch, where a spreadsheet has cut them short,"),
        ("1,70407E+12", "all digits of an epoch, where a spreadsheet has cut them short,"),
    ],
)
def test_what_a_spreadsheet_has_made_of_a_time_is_named(text, expected):
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
def test_dates_that_a_spreadsheet_has_understood_in_part_are_refused(texts, dayfirst):
    """It took the first of February for the second of January, and left the thirteenth as a text."""
    with pytest.raises(BadPayload, match=r"exchanges days and months .* in line 2 and .* in line 3"):
        read(texts, dayfirst=dayfirst)


@pytest.mark.parametrize(
    "texts",
    [["2024-01-02", "2024-01-02 12:00"], ["2024-01-02", "2024/01/02 12:00Z"], ["2024-01-02", "Jan 2, 2024 12:00"]],
)
def test_dates_of_one_order_may_be_written_in_two_ways(texts):
    assert shown(read(texts)) == ["2024-01-02 00:00:00", "2024-01-02 12:00:00"]


@pytest.mark.parametrize("text", ["2567-01-02", "02/13/2567", "1403-01-02 09:00", "2 Jan 0200"])
def test_a_year_of_another_era_is_refused(text):
    """Thailand counts from the Buddha, Iran from the hijra."""
    with pytest.raises(BadPayload, match="a year from 1600 to 2199 in line 2"):
        read([text])


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("year", [-1, 55_969])
def test_a_stamp_of_no_year_of_ours_is_refused_by_its_line(unit, year):
    """Milliseconds that a program has taken for seconds."""
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
def test_what_is_no_time_is_refused_by_its_line(text):
    """Pandas reads `now` from the machine's clock."""
    with pytest.raises(BadPayload, match="an ISO date or an epoch in s, ms, us or ns in line 3, found"):
        read(["2024-01-01", text])


@pytest.mark.parametrize("missing", [None, np.nan, pd.NaT, pd.NA])
def test_a_row_without_a_time_is_refused(missing):
    with pytest.raises(BadPayload, match="in line 3"):
        read(["2024-01-01", missing])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("01/02/24", "a year of four digits"),
        ("24-01-02", "a year of four digits"),
        ("25-Mar-24 09:30", "a year of four digits"),
        ("2024-01-02 24:00", "hours from 00 to 23, as 24:00 does not say which day is meant"),
    ],
)
def test_a_time_that_may_be_two_is_refused_in_words(text, expected):
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
def test_an_epoch_tells_its_unit_by_its_size(epoch):
    dates = read([epoch])

    assert shown(dates) == ["2024-01-02 09:00:00"]
    assert dates.is_epoch.all()


def test_units_of_epochs_may_change_within_a_table():
    assert shown(read(["1735603200000", "1735689600000000"])) == ["2024-12-31 00:00:00", "2025-01-01 00:00:00"]


def test_forms_may_change_within_a_table():
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
def test_digits_that_do_not_are_epochs(start):
    """Some epochs of 2033 are dates by their digits, but never most of a table's."""
    dates = read([str(int(start) + hour * 3600) for hour in range(50)])

    assert dates.is_epoch.all()


def test_a_broken_date_among_digits_makes_them_no_epochs():
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
def test_a_part_above_twelve_tells_days_from_months(cells, expected):
    """Between dots the day comes first by convention."""
    assert shown(read(cells))[0] == f"{expected} 00:00:00"


@pytest.mark.parametrize("by", "/-")
def test_days_that_may_be_months_are_refused(by):
    with pytest.raises(Ambiguous, match=r"--dayfirst.*in line 3, which does not tell the day from the month") as caught:
        read([f"01{by}01{by}2024", f"01{by}02{by}2024"])

    assert caught.value.option == "dayfirst"


@pytest.mark.parametrize(("dayfirst", "expected"), [(True, "2024-02-01"), (False, "2024-01-02")])
@pytest.mark.parametrize("by", "/-.")
def test_what_is_said_tells_days_from_months(by, dayfirst, expected):
    assert shown(read([f"01{by}02{by}2024"], dayfirst=dayfirst)) == [f"{expected} 00:00:00"]


def test_a_date_that_contradicts_what_is_said_is_refused():
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


def test_hours_from_1_to_24_are_refused_in_words():
    with pytest.raises(BadPayload, match="hours from 0 to 23, as 24 does not say which hour is meant in line 3"):
        read(["2024-05-01", "2024-05-02"], ["1", "24"])


@pytest.mark.parametrize("clocks", [[0, 100, 200], [0, 1, 2], [1100, 1200, 1300], ["0", "1", "2"]])
def test_digits_that_may_be_minutes_or_hours_are_refused(clocks):
    """Without their first zeros they are hours of one day, or its first minutes."""
    with pytest.raises(BadPayload, match="times of day with four or six digits, or a column Hour"):
        read([20240501] * 3, clocks)


@pytest.mark.parametrize(
    ("clocks", "expected"),
    [([930, 935, 1000], "09:30"), (["0900", "1000", "1100"], "09:00"), (["09", "10", "11"], "09:00")],
)
def test_digits_of_one_day_may_tell(clocks, expected):
    """Bars are no seconds apart, and a text has kept its zeros."""
    assert shown(read([20240501] * 3, clocks))[0] == f"2024-05-01 {expected}:00"


def test_a_column_of_hours_says_so():
    table = make_table({"Date": ["2024-05-01"] * 2, "Hour": ["0", "1"]})

    assert shown(read_dates(table, (0, 1), Reading()))[1] == "2024-05-01 01:00:00"


def test_a_date_without_its_time_of_day_is_no_midnight():
    with pytest.raises(BadPayload, match="in line 3"):
        read(["2024-05-01", "2024-05-01"], ["09:30", None])


@pytest.mark.parametrize(("zone", "offset"), [(None, None), ("UTC", 0), ("Asia/Tokyo", 9)])
@pytest.mark.parametrize("unit", ["ns", "ms"])
def test_times_of_a_frame_are_taken_as_they_are(zone, offset, unit):
    times = pd.Series(pd.date_range("2024-01-02 09:00", periods=2, freq="h", tz=zone).as_unit(unit))

    dates = read(times)

    assert dates.wall_ms.tolist() == [utc_ms("2024-01-02 09:00"), utc_ms("2024-01-02 10:00")]
    assert np.isnan(dates.offset_ms).all() if offset is None else (dates.offset_ms == offset * 3_600_000).all()


def test_a_missing_time_of_a_frame_is_refused():
    with pytest.raises(BadPayload, match="in line 2"):
        read(pd.Series([pd.NaT, pd.Timestamp("2024-01-01")]))
