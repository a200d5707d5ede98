"""Which bars should exist: the 24/7 grid, and the sessions of stock exchanges. What labels stand for: test_labels."""

from __future__ import annotations

import datetime as dt
import warnings
from types import SimpleNamespace

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.calendars import ALWAYS_OPEN, Calendar, anchored_name, canonical_name, get_calendar
from forecaster.errors import CalendarEnds, ConfigError, format_time
from forecaster.sessions import SessionCalendar, SessionTable, load_sessions
from forecaster.timeframe import Timeframe
from forecaster.zones import Labels, get_clock
from tests.builders import DAY_MS, HOUR_MS, utc_ms

DAILY = Timeframe("1d")
HOURLY = Timeframe("1h")
ALWAYS = get_calendar(ALWAYS_OPEN)


def new_york() -> Calendar:
    return get_calendar("XNYS")


def times(*texts: str) -> np.ndarray:
    return np.array([utc_ms(text) for text in texts], np.int64)


def on(date: str, timeframe: Timeframe = HOURLY, name: str = "XNYS") -> tuple[list[str], list[str]]:
    """Opens and closes (UTC) of the bars of one session, as clock times."""
    opens = get_calendar(name).opens_between(timeframe, utc_ms(date), utc_ms(date) + DAY_MS)
    closes = get_calendar(name).closes_of(timeframe, opens)
    return clock(opens), clock(closes)


def clock(ms: np.ndarray) -> list[str]:
    return [str(time)[11:16] for time in ms.astype("datetime64[ms]")]


def test_a_calendar_is_made_once():
    assert get_calendar("XNYS") is get_calendar("XNYS")


@pytest.mark.parametrize("name", ["24x7", "", "XXXX", "XNYX"])
def test_an_unknown_name_is_refused(name):
    """With similar names, if there are any."""
    with pytest.raises(ConfigError, match=r"calendar: expected 24/7 or an exchange_calendars code such as ") as refused:
        get_calendar(name)

    assert refused.value.found == name


@pytest.mark.parametrize(
    ("alias", "name"), [("NYSE", "XNYS"), ("NASDAQ", "XNYS"), ("XNAS", "XNYS"), ("xnys", "XNYS"), ("LSE", "XLON")]
)
def test_an_alias_is_refused_with_the_canonical_name(alias, name):
    """Two names of one calendar would make one series two."""
    with pytest.raises(ConfigError, match=f"expected {name}, which is the name of that calendar here"):
        get_calendar(alias)

    assert canonical_name(alias) == name


@pytest.mark.parametrize(
    ("anchor", "zone", "timeframe", "name"),
    [
        (None, None, "1d", "24/7"),
        ("16:00", None, "1d", "24/7@16:00"),
        ("16:00", None, "4h", "24/7"),
        ("16:00", None, "1m", "24/7"),
        ("18:00", "UTC", "4h", "24/7@18:00"),
        (None, "Europe/Athens", "1d", "24/7@00:00 Europe/Athens"),
        (None, "Europe/Athens", "1h", "24/7"),
        (None, "Asia/Kolkata", "1h", "24/7@00:00 Asia/Kolkata"),
        (None, "Asia/Kolkata", "30m", "24/7"),
        ("0:00", "+02:00", "1d", "24/7@22:00"),
        ("0:00", "America/New_York+07:00", "1d", "24/7@17:00 America/New_York"),
        ("17:00 America/New_York", "Europe/Athens", "4h", "24/7@17:00 America/New_York"),
        ("6:00", "Etc/UTC", "1d", "24/7@06:00"),
    ],
)
def test_an_anchor_names_the_calendar_that_it_moves(anchor, zone, timeframe, name):
    """An anchor that moves no bar is left out: one grid has one name."""
    assert anchored_name(anchor, zone, Timeframe(timeframe)) == name


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("24/7@24:00", "day_anchor"),
        ("24/7@noon", "day_anchor"),
        ("24/7@1:00 Mars/Base", "timezone"),
        ("24/7@1:00 +x", "timezone"),
    ],
)
def test_an_invalid_anchor_is_refused(name, key):
    with pytest.raises(ConfigError) as refused:
        get_calendar(name)

    assert refused.value.key == key


ANCHORS = ("24/7@16:00", "24/7@17:00 America/New_York", "24/7@00:00 Asia/Kolkata", "24/7@00:00 Europe/Athens")


@pytest.mark.parametrize("name", ANCHORS)
@pytest.mark.parametrize("timeframe", ["1m", "1h", "2h", "4h", "12h", "1d"])
def test_an_anchored_grid_has_no_gap(name, timeframe):
    """Each bar closes when the next one opens, across both clock changes; days begin at the anchor."""
    sessions, length = get_calendar(name), Timeframe(timeframe)
    start, end = utc_ms("2024-03-08"), utc_ms("2024-11-06")
    start = start if timeframe != "1m" else utc_ms("2024-11-02")
    opens = sessions.opens_between(length, start, end)
    closes = sessions.closes_of(length, opens)

    assert closes[:-1].tolist() == opens[1:].tolist()
    assert np.diff(opens).min() >= length.ms - HOUR_MS
    assert sessions.next_opens(length, start, 5).tolist() == opens[:5].tolist()
    assert sessions.last_opens(length, int(closes[-1]), 5).tolist() == opens[-5:].tolist()
    assert sessions.last_opens(length, int(closes[-1]) - 1, 1).tolist() == opens[-2:-1].tolist()
    assert sessions.next_close(length, int(opens[7])) == closes[7]
    assert sessions.closes_of(length, opens + 1).tolist() == [-1] * len(opens)
    if timeframe == "1d":
        anchor = name.partition("@")[2][:5]
        assert set(clock(get_clock(sessions.zone).to_wall(opens))) == {anchor}


FOREIGN_EXCHANGE = "24/5@17:00 America/New_York"


@pytest.mark.parametrize("timeframe", ["1m", "1h", "4h", "1d"])
def test_the_week_of_foreign_exchange(timeframe):
    """From Sunday to Friday, 17:00 in New York; on Sunday 2024-03-10 clocks were put forward."""
    sessions, length = get_calendar(FOREIGN_EXCHANGE), Timeframe(timeframe)
    opens = sessions.opens_between(length, utc_ms("2024-03-04"), utc_ms("2024-03-18"))
    closes = sessions.closes_of(length, opens)
    breaks = np.flatnonzero(closes[:-1] != opens[1:])

    assert [str(time) for time in closes[breaks].astype("datetime64[ms]").astype("datetime64[m]")] == [
        "2024-03-08T22:00",
        "2024-03-15T21:00",
    ]
    assert [str(time) for time in opens[breaks + 1].astype("datetime64[ms]").astype("datetime64[m]")] == [
        "2024-03-10T21:00",
        "2024-03-17T21:00",
    ]


def test_a_date_of_foreign_exchange_is_the_day_that_ends_on_it():
    """Monday's bar opens on Sunday; a Saturday has none."""
    days = times("2024-01-08", "2024-01-13")

    opens = get_calendar(FOREIGN_EXCHANGE).opens_of_labels(DAILY, Labels(days, days))

    assert opens[0] == utc_ms("2024-01-07 22:00")
    assert get_calendar(FOREIGN_EXCHANGE).closes_of(DAILY, opens).tolist() == [utc_ms("2024-01-08 22:00"), -1]


@pytest.mark.parametrize("timeframe", ["1m", "5m", "1h", "1d"])
@pytest.mark.parametrize("name", ["XNYS", "XTKS", FOREIGN_EXCHANGE])
def test_bars_do_not_depend_on_the_order_of_calls(name, timeframe):
    """Bars are cut from the sessions requested; neither order nor number of calls matters."""
    length = Timeframe(timeframe)
    start, end = utc_ms("2019-02-01"), utc_ms("2019-03-20")
    whole = get_calendar.__wrapped__(name).opens_between(length, start, end)
    asked = get_calendar.__wrapped__(name)
    rng = np.random.default_rng(3)
    for at in rng.integers(len(whole) // 2, len(whole) - 1, 20).tolist():
        count = int(rng.integers(1, len(whole) // 2))
        close = int(asked.closes_of(length, whole[at : at + 1])[0])

        assert asked.last_opens(length, close, count).tolist() == whole[at + 1 - count : at + 1].tolist()
        assert asked.next_opens(length, int(whole[at - count]), count).tolist() == whole[at - count : at].tolist()
        assert asked.next_close(length, int(whole[at])) == close
        assert asked.opens_between(length, int(whole[at - count]), int(whole[at])).tolist() == (
            whole[at - count : at].tolist()
        )


def test_a_bare_date_is_a_day_of_the_anchor_zone():
    """Where days begin at midnight there; with another anchor two days would be possible."""
    day = times("2024-07-01")
    labels = Labels(day, day)

    athens = get_calendar("24/7@00:00 Europe/Athens").opens_of_labels(DAILY, labels)
    evening = get_calendar("24/7@16:00").opens_of_labels(DAILY, labels)

    assert athens.tolist() == times("2024-06-30 21:00").tolist()
    assert get_calendar("24/7@16:00").closes_of(DAILY, evening).tolist() == [-1]


@pytest.mark.parametrize("name", ["XNYS", "XLON", "XTKS", "XSHG", "XBOM"])
def test_a_known_name_gives_its_sessions(name):
    """For any first year of the record."""
    opens = get_calendar(name).opens_between(DAILY, utc_ms("2019-07-01"), utc_ms("2019-07-06"))

    assert len(opens) == 5 - (name == "XNYS")


class Library:
    """A stub of exchange_calendars: three sessions, one a day, recorded between bounds."""

    def __init__(self, first, last, fault):
        self.first, self.last, self.fault = first, last, fault
        self.asked = []

    def get_calendar(self, name, start=None, end=None):
        self.asked.append((name, start, end))
        if (self.first and start and start < self.first) or (self.last and end and end > self.last):
            raise self.fault
        opens = times("2018-11-21 14:30", "2018-11-22 14:30", "2018-11-23 14:30") * 1_000_000
        return SimpleNamespace(
            opens_nanos=opens,
            closes_nanos=opens + 3_600_000_000_000,
            sessions_nanos=opens - opens % (DAY_MS * 1_000_000),
            break_starts_nanos=np.full(3, np.iinfo(np.int64).min),
            break_ends_nanos=np.full(3, np.iinfo(np.int64).min),
            tz=dt.UTC,
            bound_min=lambda: self.first and dt.datetime.fromisoformat(self.first),
            bound_max=lambda: self.last and dt.datetime.fromisoformat(self.last),
        )


@pytest.mark.parametrize("fault", [ValueError("too early"), NotImplementedError("too early")])
@pytest.mark.parametrize(
    ("first", "start"), [(None, "1990-01-02"), ("1960-01-01", "1990-01-02"), ("1997-01-01", "1997-01-01")]
)
@pytest.mark.parametrize(
    ("last", "end", "until"),
    [
        (None, None, None),
        ("2026-12-31", None, None),
        (None, "2030-01-01", "2030-01-01"),
        ("2049-12-31", "2030-01-01", "2030-01-01"),
        ("2026-12-31", "2030-01-01", "2026-12-31"),
    ],
)
def test_a_calendar_is_read_as_far_as_it_is_recorded(fault, first, start, last, end, until):
    """From 1990 or the start of the record, independent of today, never past its end."""
    library = Library(first, last, fault)

    opened = load_sessions(library, "XXXX", end)

    assert [one.dtype for one in opened[:5]] == [np.int64] * 5
    assert clock(opened.opens) == ["14:30"] * 3
    assert clock(opened.closes) == ["15:30"] * 3
    assert opened.dates.tolist() == times("2018-11-21", "2018-11-22", "2018-11-23").tolist()
    assert library.asked[-1] == ("XXXX", start, until)


@pytest.mark.parametrize(
    ("name", "first"), [("XTKS", "1997-01-06"), ("XBOM", "1997-01-01"), ("XSHG", "1990-12-03"), ("XSAU", "2021-01-03")]
)
def test_the_first_session_does_not_depend_on_today(name, first):
    """By default the library begins 20 years before today."""
    date = get_calendar(name).opens_between(DAILY, 0, utc_ms("2021-02-01"))[0].astype("datetime64[ms]").astype("<M8[D]")

    assert str(date) == first


def test_a_calendar_that_cannot_be_computed_is_refused_with_its_reason():
    class Unruly:
        def get_calendar(self, name, **span):
            raise ValueError("no rules")

    with pytest.raises(ConfigError) as refused:
        load_sessions(Unruly(), "XXXX", None)

    assert str(refused.value) == "calendar: expected one that exchange_calendars can compute, found 'XXXX: no rules'"
    assert str(refused.value.__cause__) == "no rules"


def test_opens_between_includes_the_start_and_not_the_end():
    opens = ALWAYS.opens_between(HOURLY, utc_ms("2024-01-01 09:00"), utc_ms("2024-01-01 12:00"))

    assert opens.dtype == np.int64
    assert clock(opens) == ["09:00", "10:00", "11:00"]


def test_opens_between_begins_at_the_next_slot():
    opens = ALWAYS.opens_between(HOURLY, utc_ms("2024-01-01 09:01"), utc_ms("2024-01-01 11:01"))

    assert clock(opens) == ["10:00", "11:00"]


@pytest.mark.parametrize("end", ["2024-01-01 09:00", "2024-01-01 08:00"])
def test_an_empty_span_has_no_bars(end):
    assert len(ALWAYS.opens_between(HOURLY, utc_ms("2024-01-01 09:00"), utc_ms(end))) == 0


def test_last_opens_ends_with_the_bar_that_closed():
    assert clock(ALWAYS.last_opens(HOURLY, utc_ms("2024-01-01 12:00"), 2)) == ["10:00", "11:00"]


def test_last_opens_leaves_out_the_bar_that_has_not_closed():
    assert clock(ALWAYS.last_opens(HOURLY, utc_ms("2024-01-01 12:00") - 1, 2)) == ["09:00", "10:00"]


def test_next_opens_begins_with_the_bar_that_opens_now():
    assert clock(ALWAYS.next_opens(HOURLY, utc_ms("2024-01-01 12:00"), 2)) == ["12:00", "13:00"]
    assert clock(ALWAYS.next_opens(HOURLY, utc_ms("2024-01-01 12:00") + 1, 2)) == ["13:00", "14:00"]


def test_closes_of_marks_what_is_off_the_grid():
    opens = times("2024-01-01 12:00", "2024-01-01 12:30")

    assert ALWAYS.closes_of(HOURLY, opens).tolist() == [utc_ms("2024-01-01 13:00"), -1]


def test_daylight_saving_does_not_move_the_grid():
    days = ALWAYS.opens_between(DAILY, utc_ms("2024-03-09"), utc_ms("2024-03-12"))

    assert np.diff(days).tolist() == [DAY_MS, DAY_MS]


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(["1m", "15m", "1h", "4h", "1d"]), st.integers(0, utc_ms("2100-01-01")), st.integers(1, 50))
def test_last_and_next_opens_meet(name, now, count):
    """Between the last closed bars and the next ones there is at most the current bar."""
    timeframe = Timeframe(name)
    past = ALWAYS.last_opens(timeframe, now, count)
    future = ALWAYS.next_opens(timeframe, now, count)

    assert len(past) == len(future) == count
    assert ALWAYS.closes_of(timeframe, past)[-1] <= now <= future[0]
    assert future[0] - past[-1] == timeframe.ms * (1 if now % timeframe.ms == 0 else 2)


@pytest.mark.parametrize(
    ("date", "opened", "closed"),
    [
        ("2018-11-21", "14:30", "21:00"),
        ("2018-11-23", "14:30", "18:00"),
        ("2018-07-03", "13:30", "17:00"),
        ("2018-12-24", "14:30", "18:00"),
        ("2018-03-09", "14:30", "21:00"),
        ("2018-03-12", "13:30", "20:00"),
        ("2018-11-02", "13:30", "20:00"),
        ("2018-11-05", "14:30", "21:00"),
    ],
    ids=lambda text: text.replace(":", ""),
)
def test_a_daily_bar_is_its_session(date, opened, closed):
    """Short days end at 13:00 in New York, and daylight saving moves the hours in UTC."""
    assert on(date, DAILY) == ([opened], [closed])


@pytest.mark.parametrize("date", ["2018-11-22", "2018-12-05", "2018-12-25", "2018-11-24", "2001-09-11", "2012-10-29"])
def test_a_day_without_a_session_has_no_bars(date):
    """Thanksgiving, a state funeral, Christmas, a Saturday, and two ad hoc closures."""
    assert on(date, DAILY) == ([], [])
    assert on(date, HOURLY) == ([], [])


def test_hourly_bars_start_at_the_open_and_the_last_is_half_an_hour():
    opens, closes = on("2018-11-21")

    assert opens == ["14:30", "15:30", "16:30", "17:30", "18:30", "19:30", "20:30"]
    assert closes == ["15:30", "16:30", "17:30", "18:30", "19:30", "20:30", "21:00"]


def test_hourly_bars_of_a_short_day():
    assert on("2018-11-23") == (["14:30", "15:30", "16:30", "17:30"], ["15:30", "16:30", "17:30", "18:00"])


@pytest.mark.parametrize(("name", "count"), [("1m", 390), ("15m", 26), ("30m", 13), ("2h", 4), ("4h", 2), ("12h", 1)])
def test_number_of_bars_of_a_full_session(name, count):
    opens, closes = on("2018-11-21", Timeframe(name))

    assert len(opens) == count
    assert (opens[0], closes[-1]) == ("14:30", "21:00")
    assert opens[1:] == closes[:-1]


def test_the_whole_grid_is_rising_and_never_overlaps():
    opens = new_york().opens_between(HOURLY, utc_ms("2000-01-01"), utc_ms("2020-01-01"))
    closes = new_york().closes_of(HOURLY, opens)

    assert (closes > opens).all()
    assert (closes - opens <= HOUR_MS).all()
    assert (opens[1:] >= closes[:-1]).all()


def test_a_year_has_its_sessions():
    counts = [
        len(new_york().opens_between(DAILY, utc_ms(f"{year}-01-01"), utc_ms(f"{year + 1}-01-01")))
        for year in (2001, 2012, 2018, 2020)
    ]

    assert counts == [248, 250, 251, 253]


def test_last_opens_waits_for_the_early_close():
    """The session's own close counts, not the usual hour."""
    before = new_york().last_opens(DAILY, utc_ms("2018-11-23 18:00") - 1, 1)
    after = new_york().last_opens(DAILY, utc_ms("2018-11-23 18:00"), 1)

    assert before.tolist() == [utc_ms("2018-11-21 14:30")]
    assert after.tolist() == [utc_ms("2018-11-23 14:30")]


def test_last_opens_waits_for_the_last_half_hour():
    last = new_york().last_opens(HOURLY, utc_ms("2018-11-21 21:00"), 2)

    assert clock(last) == ["19:30", "20:30"]


def test_last_opens_gives_fewer_where_the_calendar_begins():
    first = new_york().opens_between(DAILY, 0, utc_ms("1990-01-06"))

    assert new_york().last_opens(DAILY, utc_ms("1990-01-06"), 100).tolist() == first.tolist()


def test_next_opens_skips_the_weekend_and_the_holiday():
    opens = new_york().next_opens(DAILY, utc_ms("2018-12-21 21:00"), 3)

    assert opens.tolist() == times("2018-12-24 14:30", "2018-12-26 14:30", "2018-12-27 14:30").tolist()


def test_next_opens_says_where_the_calendar_ends():
    with pytest.raises(CalendarEnds, match="XNYS: expected sessions after 2018-12-21 00:00 UTC, its last one closes"):
        new_york().next_opens(DAILY, utc_ms("2018-12-21"), 100_000)


@pytest.mark.parametrize(
    ("after", "close"),
    [
        ("2018-11-21 20:59", "2018-11-21 21:00"),
        ("2018-11-21 21:00", "2018-11-23 15:30"),
        ("2018-11-23 17:45", "2018-11-23 18:00"),
    ],
)
def test_the_next_close_is_later_than_now(after, close):
    """A bar that closes at this moment has closed."""
    assert new_york().next_close(HOURLY, utc_ms(after)) == utc_ms(close)
    assert [ALWAYS.next_close(HOURLY, utc_ms("2024-01-01 12:00") + late) for late in (-1, 0, 1)] == [
        utc_ms(f"2024-01-01 {hour}:00") for hour in (12, 13, 13)
    ]


class Reader:
    """Loads one-hour sessions at noon from 2024 on: ten, or until a date, at most `most`."""

    def __init__(self, most=10_000):
        self.most = most
        self.asked = []

    def __call__(self, end):
        self.asked.append(end)
        days = 10 if end is None else (utc_ms(end) - utc_ms("2024-01-01")) // DAY_MS
        dates = utc_ms("2024-01-01") + DAY_MS * np.arange(min(days, self.most))
        return sessions_of(dates)


def sessions_of(dates):
    """A session of an hour at noon of each date, without a break."""
    none = np.full(len(dates), -DAY_MS)
    return SessionTable(dates + 12 * HOUR_MS, dates + 13 * HOUR_MS, dates, none, none, "UTC")


LAST_OPEN, LAST_CLOSE = utc_ms("2024-01-10 12:00"), utc_ms("2024-01-10 13:00")


@pytest.mark.parametrize("timeframe", [DAILY, HOURLY], ids=str)
@pytest.mark.parametrize(
    ("ask", "near", "far", "end"),
    [
        (
            lambda sessions, timeframe, time: sessions.last_opens(timeframe, time, 1),
            (LAST_CLOSE, [LAST_OPEN]),
            (LAST_CLOSE + 1, [LAST_OPEN]),
            "2025-01-10",
        ),
        (
            lambda sessions, timeframe, time: sessions.next_opens(timeframe, time, 2),
            (LAST_OPEN - DAY_MS, [LAST_OPEN - DAY_MS, LAST_OPEN]),
            (LAST_OPEN, [LAST_OPEN, LAST_OPEN + DAY_MS]),
            "2025-01-10",
        ),
        (
            lambda sessions, timeframe, time: [sessions.next_close(timeframe, time)],
            (LAST_CLOSE - 1, [LAST_CLOSE]),
            (LAST_CLOSE, [LAST_CLOSE + DAY_MS]),
            "2025-01-10",
        ),
    ],
    ids=["last opens", "next opens", "next close"],
)
def test_sessions_are_extended_near_their_end(timeframe, ask, near, far, end):
    """In a service that runs for years, a further year is loaded."""
    reader = Reader()
    sessions = SessionCalendar("XXXX", reader)

    assert list(ask(sessions, timeframe, near[0])) == near[1]
    assert reader.asked == [None]
    assert list(ask(sessions, timeframe, far[0])) == far[1]
    assert reader.asked == [None, end]
    assert list(ask(sessions, timeframe, near[0])) == near[1]
    assert reader.asked == [None, end]


def test_the_last_session_that_is_known_is_one():
    sessions = SessionCalendar("XXXX", Reader())

    assert sessions.closes_of(HOURLY, np.array([LAST_OPEN, LAST_OPEN + DAY_MS])).tolist() == [LAST_CLOSE, -1]


def test_sessions_of_the_library_are_extended():
    fresh = get_calendar.__wrapped__("XNYS")

    assert fresh.last_opens(DAILY, utc_ms("2038-11-23"), 1).tolist() == [utc_ms("2038-11-22 14:30")]


def test_time_far_beyond_the_loaded_sessions():
    """Sessions are loaded up to that time, not only one year further."""
    sessions = SessionCalendar("XXXX", Reader())

    assert sessions.next_opens(DAILY, LAST_OPEN + 1000 * DAY_MS, 2).tolist() == [
        LAST_OPEN + days * DAY_MS for days in (1000, 1001)
    ]


@pytest.mark.parametrize("timeframe", [DAILY, HOURLY], ids=str)
def test_calendar_ends_names_the_last_close(timeframe):
    """In every call; it is loaded to its end once."""
    reader = Reader(most=10)
    sessions = SessionCalendar("XXXX", reader)
    for _ in range(3):
        for ask, asked in (
            (lambda: sessions.next_opens(timeframe, LAST_OPEN, 2), LAST_OPEN),
            (lambda: sessions.next_close(timeframe, LAST_CLOSE), LAST_CLOSE),
        ):
            with pytest.raises(CalendarEnds) as refused:
                ask()

            assert str(refused.value) == (
                f"calendar XXXX: expected sessions after {format_time(asked)}, "
                f"its last one closes at {format_time(LAST_CLOSE)}: upgrade exchange_calendars"
            )
    assert sessions.last_opens(timeframe, LAST_CLOSE + 400 * DAY_MS, 1).tolist() == [LAST_OPEN]
    assert len(reader.asked) == 2


@pytest.mark.parametrize("name", ["XSHG", "XBOM", "XSES"])
def test_times_before_the_end_of_a_record_are_known(name):
    """They are recorded to the end of 2026: ten days ahead are known until the middle of December."""
    fresh = get_calendar.__wrapped__(name)
    known = fresh.next_opens(DAILY, utc_ms("2026-12-14"), 10)

    assert len(known) == 10
    for _ in range(2):
        with pytest.raises(CalendarEnds, match=f"calendar {name}: .* upgrade exchange_calendars"):
            fresh.next_opens(DAILY, utc_ms("2026-12-24"), 10)
        with pytest.raises(CalendarEnds):
            fresh.next_close(DAILY, utc_ms("2026-12-31 23:00"))
    assert fresh.next_opens(DAILY, utc_ms("2026-12-14"), 10).tolist() == known.tolist()
    assert len(fresh.last_opens(DAILY, utc_ms("2027-01-20"), 30)) == 30


def test_a_session_around_its_lunch_break():
    """Tokyo: the afternoon begins at 12:30, and the hour before the break has half an hour."""
    opens, closes = on("2024-05-14", name="XTKS")

    assert opens == ["00:00", "01:00", "02:00", "03:30", "04:30", "05:30"]
    assert closes == ["01:00", "02:00", "02:30", "04:30", "05:30", "06:00"]
    assert on("2024-05-14", DAILY, "XTKS") == (["00:00"], ["06:00"])


@pytest.mark.parametrize(
    ("name", "date", "count"),
    [("XTKS", "2024-05-14", 60), ("XHKG", "2024-05-14", 66), ("XHKG", "2024-12-24", 30), ("XSHG", "2024-05-14", 48)],
)
def test_no_bars_during_the_lunch_break(name, date, count):
    """Slots of five minutes; on a half day Hong Kong does not reopen."""
    opens = get_calendar(name).opens_between(Timeframe("5m"), utc_ms(date), utc_ms(date) + DAY_MS)

    assert len(opens) == count


@pytest.mark.parametrize("name", ["XTKS", "XHKG", "XSHG", "XNYS"])
@pytest.mark.parametrize("timeframe", ["5m", "1h", "4h"])
def test_bars_fill_exactly_the_trading_hours(name, timeframe):
    """In 2023 and 2024, half days included."""
    with warnings.catch_warnings(action="ignore"):  # the library on a newer pandas
        days = exchange_calendars.get_calendar(name, start="2023-01-01", end="2024-12-31").schedule
    opens = get_calendar(name).opens_between(Timeframe(timeframe), utc_ms("2023-01-01"), utc_ms("2025-01-01"))
    closes = get_calendar(name).closes_of(Timeframe(timeframe), opens)
    spans = [
        (start.value // 10**6, end.value // 10**6)
        for day in days.itertuples()
        for start, end in [
            (day.open, day.break_start if day.break_start is not pd.NaT else day.close),
            (day.break_end, day.close),
        ]
        if start is not pd.NaT
    ]
    starts, ends = np.array(spans).T
    at = np.searchsorted(starts, opens, side="right") - 1

    assert (closes <= ends[at]).all()
    assert (closes > opens).all()
    assert (closes - opens).sum() == (ends - starts).sum()


@pytest.mark.parametrize(
    ("pause", "opens", "closes"),
    [
        (("13:00", "14:00"), ["12:00", "14:00", "15:00"], ["13:00", "15:00", "15:30"]),
        (("12:30", "13:30"), ["12:00", "13:30", "14:30"], ["12:30", "14:30", "15:30"]),
        (("15:00", "15:30"), ["12:00", "13:00", "14:00"], ["13:00", "14:00", "15:00"]),
        (("15:30", "16:00"), ["12:00", "13:00", "14:00", "15:00"], ["13:00", "14:00", "15:00", "15:30"]),
        (("16:00", "17:00"), ["12:00", "13:00", "14:00", "15:00"], ["13:00", "14:00", "15:00", "15:30"]),
    ],
    ids=["on the hour", "within an hour", "to the close", "from the close", "after the close"],
)
def test_a_break_may_lie_anywhere(pause, opens, closes):
    """Of a session from 12:00 to 15:30, also with an early close."""
    date = utc_ms("2024-01-02")
    marks = (np.array([utc_ms(f"2024-01-02 {time}")]) for time in ("12:00", "15:30", "00:00", *pause))
    sessions = SessionCalendar("XXXX", lambda _: SessionTable(*marks, zone="UTC"))
    found = sessions.opens_between(HOURLY, date, date + DAY_MS)

    assert clock(found) == opens
    assert clock(sessions.closes_of(HOURLY, found)) == closes


@pytest.mark.parametrize(
    "time",
    [
        "2018-11-23",
        "2018-11-23 13:30",
        "2018-11-23 14:31",
        "2018-11-24 14:30",
        "1950-01-03 14:30",
        "2990-01-03 14:30",
    ],
)
def test_closes_of_a_time_without_a_session(time):
    """Midnight, the wrong side of daylight saving, a minute late, a Saturday, and years it does not know."""
    assert new_york().closes_of(DAILY, times(time)).tolist() == [-1]


def test_closes_of_no_bars():
    assert len(new_york().closes_of(HOURLY, times())) == 0
