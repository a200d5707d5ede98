"""The distance between rows: tables and parts of another timeframe."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.calendars import get_calendar
from forecaster.errors import BadPayload
from forecaster.tables.spacing import check_spacing, find_other_timeframes, infer_timeframe
from forecaster.timeframe import MINUTE_MS, Timeframe
from tests.builders import DAY_MS, HOUR_MS, utc_ms

START = utc_ms("2024-01-01")
ALWAYS = get_calendar("24/7")


def grid(timeframe: str, count: int, start: int = START, name: str = "24/7") -> np.ndarray:
    return get_calendar(name).next_opens(Timeframe(timeframe), start, count)


def weekdays(opens: np.ndarray) -> np.ndarray:
    return opens[(opens // DAY_MS + 3) % 7 < 5]


@pytest.mark.parametrize("calendar_name", ["24/7", "XNYS", "XTKS", "24/7@17:00 America/New_York"])
@pytest.mark.parametrize("timeframe", ["5m", "1h", "2h", "4h", "1d"])
def test_rows_of_their_own_timeframe_pass(calendar_name, timeframe):
    """With random gaps: half of the rows are missing."""
    opens = grid(timeframe, 400, name=calendar_name)
    thinned = opens[np.random.default_rng(0).random(len(opens)) < 0.5]
    length, sessions = Timeframe(timeframe), get_calendar(calendar_name)

    for selected in (opens, thinned, opens[::-1], opens[:3], opens[:1], opens[:0]):
        check_spacing("file", length, sessions, selected)
        assert (find_other_timeframes(length, sessions, selected)[0] == "").all()


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
def test_rows_of_another_timeframe_are_rejected(held, asked, apart, calendar_name):
    """Even if all or some open when a bar of the timeframe does."""
    opens = grid(held, 300, name=calendar_name)

    with pytest.raises(BadPayload, match=f"expected rows {asked} apart, found 'rows {apart} apart'"):
        check_spacing("file", Timeframe(asked), get_calendar(calendar_name), opens)


@pytest.mark.parametrize(
    ("apart_days", "name"), [(7, "1w"), (14, "2w"), (3, "3d"), (30, "1M"), (91, "3M"), (365, "1y")]
)
def test_weeks_and_months_are_rejected_by_name(apart_days, name):
    with pytest.raises(BadPayload, match=f"{name} is not supported"):
        infer_timeframe("file", START + np.arange(60) * apart_days * DAY_MS)


def test_month_ends_are_months():
    months = np.arange("2015-02", "2022-02", dtype="datetime64[M]").astype("datetime64[D]") - 1

    with pytest.raises(BadPayload, match="1M is not supported"):
        infer_timeframe("file", months.astype("datetime64[ms]").astype(np.int64))


@pytest.mark.parametrize("rest", [140, 40, 1000])
@pytest.mark.parametrize("length", [3, 12, 110])
def test_a_coarser_older_part_is_rejected_with_a_note(length, rest):
    """As brokers export it: first days, later hours."""
    days = weekdays(START + np.arange(200) * DAY_MS)[:length]
    hours = grid("4h", 2 * rest, days[-1] + DAY_MS)
    hours = weekdays(hours)[:rest]

    reasons, notes = find_other_timeframes(Timeframe("4h"), ALWAYS, np.concatenate([days, hours]))

    assert (reasons != "").tolist() == [True] * length + [False] * rest
    assert len(notes) == 1
    assert f"{length} rows are 1d apart" in notes[0]
    assert f"4h apart from {np.datetime64(int(hours[0]), 'ms').astype('datetime64[m]')}".replace("T", " ") in notes[0]


@pytest.mark.parametrize("place", ["head", "middle", "tail"])
@pytest.mark.parametrize(("timeframe", "other"), [("1h", 5 * MINUTE_MS), ("1h", 4 * HOUR_MS), ("1d", HOUR_MS)])
def test_a_part_of_another_timeframe_is_rejected_completely(place, timeframe, other):
    """A valid row at its edge may be rejected; a row of another timeframe is never kept."""
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
    reasons, notes = find_other_timeframes(length, ALWAYS, times[first])

    assert (reasons[is_part[first]] != "").all()
    assert (reasons[~is_part[first]] != "").sum() <= 2
    assert len(notes) == 1


def test_a_stray_row_rejects_no_bar():
    """Such as the current price, which some exports append."""
    opens = grid("1h", 50)
    with_stray = np.append(opens, opens[-1] + 17 * MINUTE_MS)

    reasons, notes = find_other_timeframes(Timeframe("1h"), ALWAYS, with_stray)

    assert (reasons == "").all()
    assert notes == []


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_bars_without_trades_are_not_another_timeframe(share):
    """Of 100,000 minutes, hardly a bar is rejected."""
    opens = grid("1m", 100_000)
    kept = opens[np.random.default_rng(7).random(len(opens)) < share]

    reasons, _ = find_other_timeframes(Timeframe("1m"), ALWAYS, kept)

    assert (reasons != "").mean() < 1e-3


def test_the_newest_rows_are_accepted_as_they_are_later():
    """A bar at its close stays one in a replay: a few gaps at the end are not another timeframe."""
    opens = np.append(grid("1h", 200), START + (200 + 2 * np.arange(1, 5)) * HOUR_MS)

    reasons, notes = find_other_timeframes(Timeframe("1h"), ALWAYS, opens)

    assert (reasons == "").all()
    assert notes == []


def test_a_few_rows_closer_than_their_timeframe_are_rejected():
    """Gaps never bring rows closer together."""
    opens = grid("15m", 16)[[0, 1, 3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15]]

    with pytest.raises(BadPayload, match="expected rows 30m apart, found 'rows 15m apart'"):
        check_spacing("file", Timeframe("30m"), ALWAYS, opens)
