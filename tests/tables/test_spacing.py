"""How far rows are apart: tables of another timeframe, and parts of one."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.calendars import calendar
from forecaster.errors import BadPayload
from forecaster.tables.spacing import check_spacing, guess_timeframe, other_timeframes
from forecaster.timeframe import MINUTE_MS, Timeframe
from tests.builders import DAY_MS, HOUR_MS, utc_ms

START = utc_ms("2024-01-01")
ALWAYS = calendar("24/7")


def grid(timeframe: str, count: int, start: int = START, name: str = "24/7") -> np.ndarray:
    return calendar(name).next_opens(Timeframe(timeframe), start, count)


def weekdays(opens: np.ndarray) -> np.ndarray:
    return opens[(opens // DAY_MS + 3) % 7 < 5]


@pytest.mark.parametrize("calendar_name", ["24/7", "XNYS", "XTKS", "24/7@17:00 America/New_York"])
@pytest.mark.parametrize("timeframe", ["5m", "1h", "2h", "4h", "1d"])
def test_rows_of_their_own_timeframe_pass(calendar_name, timeframe):
    """With gaps too: half of them are missing, at random."""
    opens = grid(timeframe, 400, name=calendar_name)
    thinned = opens[np.random.default_rng(0).random(len(opens)) < 0.5]
    length, sessions = Timeframe(timeframe), calendar(calendar_name)

    for some in (opens, thinned, opens[::-1], opens[:3], opens[:1], opens[:0]):
        check_spacing("file", length, sessions, some)
        assert (other_timeframes(length, sessions, some)[0] == "").all()


@pytest.mark.parametrize(
    ("held", "asked", "apart"),
    [
        ("1h", "4h", "1h"),
        ("1h", "1d", "1h"),
        ("1h", "15m", "1h"),
        ("1d", "1h", "1d"),
        ("1m", "3m", "1m"),
        ("4h", "5m", "4h"),
    ],
)
@pytest.mark.parametrize("calendar_name", ["24/7", "XNYS"])
def test_rows_of_another_timeframe_are_refused(held, asked, apart, calendar_name):
    """Though each of them, or some, open when a bar of the timeframe does."""
    opens = grid(held, 300, name=calendar_name)

    with pytest.raises(BadPayload, match=f"expected rows {asked} apart, found 'rows {apart} apart'"):
        check_spacing("file", Timeframe(asked), calendar(calendar_name), opens)


@pytest.mark.parametrize(
    ("apart_days", "name"), [(7, "1w"), (14, "2w"), (3, "3d"), (30, "1M"), (91, "3M"), (365, "1y")]
)
def test_weeks_and_months_are_refused_in_those_words(apart_days, name):
    with pytest.raises(BadPayload, match=f"{name} is not supported"):
        guess_timeframe("file", START + np.arange(60) * apart_days * DAY_MS)


def test_ends_of_months_are_months():
    months = np.arange("2015-02", "2022-02", dtype="datetime64[M]").astype("datetime64[D]") - 1

    with pytest.raises(BadPayload, match="1M is not supported"):
        guess_timeframe("file", months.astype("datetime64[ms]").astype(np.int64))


@pytest.mark.parametrize("rest", [140, 40, 1000])
@pytest.mark.parametrize("length", [3, 12, 110])
def test_an_older_part_that_is_coarser_is_refused_and_told_of(length, rest):
    """As brokers have it: days first, hours from some day on."""
    days = weekdays(START + np.arange(200) * DAY_MS)[:length]
    hours = grid("4h", 2 * rest, days[-1] + DAY_MS)
    hours = weekdays(hours)[:rest]

    reasons, notes = other_timeframes(Timeframe("4h"), ALWAYS, np.concatenate([days, hours]))

    assert (reasons != "").tolist() == [True] * length + [False] * rest
    assert len(notes) == 1
    assert f"{length} rows are 1d apart" in notes[0]
    assert f"4h apart from {np.datetime64(int(hours[0]), 'ms').astype('datetime64[m]')}".replace("T", " ") in notes[0]


@pytest.mark.parametrize("place", ["head", "middle", "tail"])
@pytest.mark.parametrize(("timeframe", "other"), [("1h", 5 * MINUTE_MS), ("1h", 4 * HOUR_MS), ("1d", HOUR_MS)])
def test_no_row_of_a_part_of_another_timeframe_is_left(place, timeframe, other):
    """A good row at its edge may go with it; one of another timeframe never stays."""
    length = Timeframe(timeframe)
    opens, part, t = [], [], START
    for kind in {"head": "pg", "middle": "gpg", "tail": "gp"}[place]:
        step, count = (other, 40) if kind == "p" else (length.ms, 200)
        times = -(-t // length.ms) * length.ms + np.arange(count) * step
        opens.append(times)
        part.append(np.full(count, kind == "p"))
        t = int(times[-1]) + step
    is_part, times = np.concatenate(part), np.concatenate(opens)
    _, first = np.unique(times, return_index=True)
    reasons, notes = other_timeframes(length, ALWAYS, times[first])

    assert (reasons[is_part[first]] != "").all()
    assert (reasons[~is_part[first]] != "").sum() <= 2
    assert len(notes) == 1


def test_a_stray_row_costs_no_bar():
    """Such as the price of this moment, which some exports append."""
    opens = grid("1h", 50)
    with_stray = np.append(opens, opens[-1] + 17 * MINUTE_MS)

    reasons, notes = other_timeframes(Timeframe("1h"), ALWAYS, with_stray)

    assert (reasons == "").all()
    assert notes == []


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_bars_that_nobody_traded_are_no_other_timeframe(share):
    """Of a hundred thousand minutes, hardly a bar is refused."""
    opens = grid("1m", 100_000)
    kept = opens[np.random.default_rng(7).random(len(opens)) < share]

    reasons, _ = other_timeframes(Timeframe("1m"), ALWAYS, kept)

    assert (reasons != "").mean() < 1e-3


def test_the_newest_rows_are_judged_as_later_rows_will_find_them():
    """What is a bar at its close is one in a replay: a few holes at the end are no other timeframe."""
    opens = np.append(grid("1h", 200), START + (200 + 2 * np.arange(1, 5)) * HOUR_MS)

    reasons, notes = other_timeframes(Timeframe("1h"), ALWAYS, opens)

    assert (reasons == "").all()
    assert notes == []


def test_a_few_rows_that_are_closer_than_their_timeframe_are_refused():
    """Gaps make no row come sooner."""
    opens = grid("15m", 16)[[0, 1, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15]]

    with pytest.raises(BadPayload, match="expected rows 30m apart, found 'rows 15m apart'"):
        check_spacing("file", Timeframe("30m"), ALWAYS, opens)
