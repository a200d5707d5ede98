"""Which bars should exist: the 24/7 grid, and the sessions of the New York Stock Exchange."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.errors import ConfigError
from forecaster.sessions import ALWAYS_OPEN, Calendar, _open_calendar, _Sessions, _Times, calendar
from forecaster.timeframe import Timeframe
from tests.builders import DAY_MS, HOUR_MS, utc_ms

DAILY = Timeframe("1d")
HOURLY = Timeframe("1h")
ALWAYS = calendar(ALWAYS_OPEN)


def new_york() -> Calendar:
    return calendar("XNYS")


def times(*texts: str) -> np.ndarray:
    return np.array([utc_ms(text) for text in texts], np.int64)


def on(date: str, timeframe: Timeframe = HOURLY) -> tuple[list[str], list[str]]:
    """Opens and closes (UTC) of the bars of one New York session, as clock times."""
    opens = new_york().opens_between(timeframe, utc_ms(date), utc_ms(date) + DAY_MS)
    closes = new_york().closes_of(timeframe, opens)
    return clock(opens), clock(closes)


def clock(ms: np.ndarray) -> list[str]:
    return [str(time)[11:16] for time in ms.astype("datetime64[ms]")]


def test_a_calendar_is_made_once():
    assert calendar("XNYS") is calendar("XNYS")


@pytest.mark.parametrize("name", ["NYSE", "xnys", "24x7", "", "XXXX"])
def test_an_unknown_name_is_refused(name):
    """Aliases too: two names for one calendar would make two series of one."""
    with pytest.raises(ConfigError) as refused:
        calendar(name)

    assert str(refused.value) == (f"calendar: expected 24/7 or an exchange_calendars code such as XNYS, found {name!r}")


@pytest.mark.parametrize("name", ["XNYS", "XLON", "XTKS", "XSHG", "XBOM"])
def test_a_known_name_gives_its_sessions(name):
    """Whatever year the exchange's holidays are known from."""
    opens = calendar(name).opens_between(DAILY, utc_ms("2019-07-01"), utc_ms("2019-07-06"))

    assert len(opens) == 5 - (name == "XNYS")


class Library:
    """Stands for exchange_calendars: three sessions, a day apart, once it has raised its faults."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.asked = []

    def get_calendar(self, name, **span):
        self.asked.append((name, span))
        if self.faults:
            raise self.faults.pop(0)
        opens = times("2018-11-21 14:30", "2018-11-22 14:30", "2018-11-23 14:30") * 1_000_000
        return SimpleNamespace(
            opens_nanos=opens,
            closes_nanos=opens + 3_600_000_000_000,
            sessions_nanos=opens - opens % (DAY_MS * 1_000_000),
        )


@pytest.mark.parametrize("fault", [ValueError("too early"), NotImplementedError("too early")])
@pytest.mark.parametrize(("end", "until"), [(None, {}), ("2030-01-01", {"end": "2030-01-01"})])
def test_a_calendar_is_read_from_1990_or_from_where_it_begins(fault, end, until):
    """Some cannot be computed for years whose holidays are not known."""
    willing, late = Library(), Library(fault)
    for library in (willing, late):
        opened = _open_calendar(library, "XXXX", end)

        assert [one.dtype for one in opened] == [np.int64] * 3
        assert clock(opened.opens) == ["14:30"] * 3
        assert clock(opened.closes) == ["15:30"] * 3
        assert opened.dates.tolist() == times("2018-11-21", "2018-11-22", "2018-11-23").tolist()
    assert willing.asked == [("XXXX", {"start": "1990-01-02"} | until)]
    assert late.asked == [*willing.asked, ("XXXX", until)]


def test_a_calendar_that_cannot_be_computed_is_refused_with_its_reason():
    with pytest.raises(ConfigError) as refused:
        _open_calendar(Library(ValueError("too early"), ValueError("no rules")), "XXXX", None)

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


def test_labels_are_open_times():
    labels = times("2024-01-01", "2024-01-01 13:30")

    assert ALWAYS.opens_of_labels(DAILY, labels).tolist() == labels.tolist()


@settings(derandomize=True, deadline=None)
@given(st.sampled_from(["1m", "15m", "1h", "4h", "1d"]), st.integers(0, utc_ms("2100-01-01")), st.integers(1, 50))
def test_what_closed_and_what_opens_meet(name, now, count):
    """The last bars that closed and the next that open leave between them at most the bar of now."""
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
    """Thanksgiving, a state funeral, Christmas, a Saturday, and two closures that no rule foretold."""
    assert on(date, DAILY) == ([], [])
    assert on(date, HOURLY) == ([], [])


def test_hourly_bars_start_at_the_open_and_the_last_is_half_an_hour():
    opens, closes = on("2018-11-21")

    assert opens == ["14:30", "15:30", "16:30", "17:30", "18:30", "19:30", "20:30"]
    assert closes == ["15:30", "16:30", "17:30", "18:30", "19:30", "20:30", "21:00"]


def test_hourly_bars_of_a_short_day():
    assert on("2018-11-23") == (["14:30", "15:30", "16:30", "17:30"], ["15:30", "16:30", "17:30", "18:00"])


@pytest.mark.parametrize(("name", "count"), [("1m", 390), ("15m", 26), ("30m", 13), ("2h", 4), ("4h", 2), ("12h", 1)])
def test_a_full_session_is_cut_into_so_many(name, count):
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
    with pytest.raises(ConfigError, match=f"sessions after {utc_ms('2018-12-21')}, found 'a calendar that ends at"):
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
    """Of a session as of a market that never closes: what closes at this moment has closed."""
    assert new_york().next_close(HOURLY, utc_ms(after)) == utc_ms(close)
    assert [ALWAYS.next_close(HOURLY, utc_ms("2024-01-01 12:00") + late) for late in (-1, 0, 1)] == [
        utc_ms(f"2024-01-01 {hour}:00") for hour in (12, 13, 13)
    ]


class Reader:
    """Reads a session of an hour at noon of each day from 2024 on: ten, or until a date, but no more than `most`."""

    def __init__(self, most=10_000):
        self.most = most
        self.asked = []

    def __call__(self, end):
        self.asked.append(end)
        days = 10 if end is None else (utc_ms(end) - utc_ms("2024-01-01")) // DAY_MS
        dates = utc_ms("2024-01-01") + DAY_MS * np.arange(min(days, self.most))
        return _Times(dates + 12 * HOUR_MS, dates + 13 * HOUR_MS, dates)


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
def test_sessions_are_read_on_when_their_end_is_near(timeframe, ask, near, far, end):
    """A service that runs for years outlives the sessions that were known at its start: a further year is read."""
    reader = Reader()
    sessions = _Sessions(reader)

    assert list(ask(sessions, timeframe, near[0])) == near[1]
    assert reader.asked == [None]
    assert list(ask(sessions, timeframe, far[0])) == far[1]
    assert reader.asked == [None, end]
    assert list(ask(sessions, timeframe, near[0])) == near[1]
    assert reader.asked == [None, end]


def test_the_last_session_that_is_known_is_one():
    sessions, date = _Sessions(Reader()), LAST_OPEN - 12 * HOUR_MS

    assert sessions.closes_of(HOURLY, np.array([LAST_OPEN, LAST_OPEN + DAY_MS])).tolist() == [LAST_CLOSE, -1]
    assert sessions.opens_of_labels(DAILY, np.array([date, date + DAY_MS])).tolist() == [LAST_OPEN, date + DAY_MS]


def test_the_library_itself_is_read_on():
    fresh = calendar.__wrapped__("XNYS")

    assert fresh.last_opens(DAILY, utc_ms("2038-11-23"), 1).tolist() == [utc_ms("2038-11-22 14:30")]


@pytest.mark.parametrize("timeframe", [DAILY, HOURLY], ids=str)
def test_a_calendar_that_goes_no_further_says_where_it_ends(timeframe):
    """Its last open or close, as it was asked for."""
    for ask, last in (
        (lambda sessions: sessions.next_opens(timeframe, LAST_OPEN, 2), LAST_OPEN),
        (lambda sessions: sessions.next_close(timeframe, LAST_OPEN + HOUR_MS), LAST_CLOSE),
    ):
        with pytest.raises(ConfigError) as refused:
            ask(_Sessions(Reader(most=10)))

        asked = LAST_OPEN if last == LAST_OPEN else LAST_OPEN + HOUR_MS
        assert str(refused.value) == (
            f"calendar: expected sessions after {asked}, found 'a calendar that ends at {last}'"
        )


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
def test_closes_of_marks_what_is_no_session(time):
    """Midnight, the wrong side of daylight saving, a minute late, a Saturday, and years it does not know."""
    assert new_york().closes_of(DAILY, times(time)).tolist() == [-1]


def test_closes_of_no_bars_is_none():
    assert len(new_york().closes_of(HOURLY, times())) == 0


@pytest.mark.parametrize("label", ["2018-11-23", "2018-11-23 14:30", "2018-11-23 13:30", "2018-11-23 18:00"])
def test_a_date_stands_for_the_open_of_its_session(label):
    """So does any hour of that date: files stamp the open, the close, or an open that ignores daylight saving."""
    assert new_york().opens_of_labels(DAILY, times(label)).tolist() == [utc_ms("2018-11-23 14:30")]


def test_a_date_without_a_session_is_left_for_the_grid_to_refuse():
    labels = times("2018-11-22", "2018-11-24", "1950-01-03", "2990-01-03")

    opens = new_york().opens_of_labels(DAILY, labels)

    assert opens.tolist() == labels.tolist()
    assert new_york().closes_of(DAILY, opens).tolist() == [-1] * 4


def test_an_intraday_label_is_an_open_time():
    labels = times("2018-11-23 14:30", "2018-11-23 15:00")

    assert new_york().opens_of_labels(HOURLY, labels).tolist() == labels.tolist()


@pytest.mark.parametrize("name", ["XNYS", "XASX", "CMES"])
def test_an_open_time_stands_for_itself(name):
    """In Sydney and on the futures exchange a session opens on the eve of its date in UTC."""
    opens = calendar(name).opens_between(DAILY, utc_ms("2018-11-01"), utc_ms("2018-12-01"))

    assert calendar(name).opens_of_labels(DAILY, opens).tolist() == opens.tolist()
