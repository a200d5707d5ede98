"""Rows on the grid of a calendar: wrong zones, labels of closes, repeated times; and the option that helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.bars import Bars, SeriesKey
from forecaster.calendars import get_calendar
from forecaster.errors import Ambiguous, BadPayload, InvalidBars
from forecaster.tables import Rows
from forecaster.tables.alignment import align_rows
from forecaster.tables.calendar_fit import matching_exchanges, off_grid_hint
from forecaster.timeframe import MINUTE_MS, Timeframe
from forecaster.zones import Labels, get_clock
from tests.builders import DAY_MS, HOUR_MS, make_bars, make_key, utc_ms

START = utc_ms("2024-01-02")


def grid(timeframe: str, count: int, name: str = "24/7", start: int = START) -> np.ndarray:
    return get_calendar(name).next_opens(Timeframe(timeframe), start, count)


def rows(times: np.ndarray, zone_source="assumed", utc_conflict="", written=None, values=None) -> Rows:
    """Return rows of a random walk at these times."""
    walk = make_bars(make_key(), len(times)).ohlcv_TF if values is None else values
    return Rows(
        Labels(times, times if written is None else written),
        walk,
        np.arange(2, len(times) + 2),
        zone_source=zone_source,
        utc_conflict=utc_conflict,
    )


def align(table_rows: Rows, timeframe: str, name: str = "24/7", as_of: int | None = None):
    return align_rows("bars.csv", Timeframe(timeframe), name, table_rows, as_of)


class TestZones:
    """Times without a zone are UTC, unless something contradicts that."""

    @pytest.mark.parametrize("zone", ["written", "given", "assumed"])
    def test_hours_of_a_continuous_market_pass(self, zone):
        assert len(align(rows(grid("1h", 60), zone), "1h").opens) == 60

    @pytest.mark.parametrize("name", ["24/7", "XNYS", "24/5"])
    @pytest.mark.parametrize("timeframe", ["1h", "1d"])
    def test_broker_times_need_a_timezone(self, name, timeframe):
        """Except for days of an exchange, which dates identify in any zone."""
        table_rows = rows(grid(timeframe, 30, name), "required", written=grid(timeframe, 30, name))
        if (name, timeframe) == ("XNYS", "1d"):
            assert len(align(table_rows, timeframe, name).opens) == 30
            return

        with pytest.raises(Ambiguous) as refused:
            align(table_rows, timeframe, name)

        assert refused.value.option == "timezone"

    def test_days_of_another_zone_are_rejected_on_utc_weekdays(self):
        """Days of `24/5` are UTC days; those of a broker begin at another hour."""
        dates = grid("1d", 30, "24/5")

        with pytest.raises(Ambiguous, match="days that begin at 22:00 UTC") as refused:
            align(rows(dates - 2 * HOUR_MS, "given", written=dates), "1d", "24/5")

        assert refused.value.option == "calendar"

    def test_a_utc_conflict_is_reported(self):
        with pytest.raises(Ambiguous, match="01:00 comes twice") as refused:
            align(rows(grid("1h", 60), utc_conflict="01:00 comes twice"), "1h")

        assert refused.value.option == "timezone"

    @pytest.mark.parametrize("name", ["XNYS", "XTKS", "XETR", "XHKG"])
    @pytest.mark.parametrize("timeframe", ["5m", "1h"])
    @pytest.mark.parametrize("has_calendar", [True, False])
    def test_local_session_times_are_not_utc(self, name, timeframe, has_calendar):
        """With the calendar, and with that of a continuous market."""
        local = get_clock(get_calendar(name).zone).to_wall(grid(timeframe, 200, name))

        with pytest.raises(Ambiguous) as refused:
            align(rows(local), timeframe, name if has_calendar else "24/7")

        assert refused.value.option == "timezone"
        if has_calendar or name == "XNYS":
            assert get_calendar(name).zone in str(refused.value)

    def test_one_day_of_new_york_is_recognised(self):
        local = get_clock("America/New_York").to_wall(grid("5m", 78, "XNYS"))

        with pytest.raises(Ambiguous, match="America/New_York"):
            align(rows(local), "5m")

    @pytest.mark.parametrize("name", ["XNYS", "XTKS", "XETR"])
    def test_sessions_in_utc_pass(self, name):
        assert len(align(rows(grid("5m", 200, name)), "5m", name).opens) == 200

    def test_a_written_zone_is_used(self):
        """A continuous market may have such hours: a note asks about the calendar, and no bar is lost."""
        aligned = align(rows(grid("5m", 200, "XNYS"), "written"), "5m")

        assert len(aligned.opens) == 200
        assert aligned.notes == ["rows keep to a part of the day: is 24/7 their calendar?"]


def local(name: str, timeframe: str, count: int) -> np.ndarray:
    """Return bars of an exchange in local time."""
    return get_clock(get_calendar(name).zone).to_wall(grid(timeframe, count, name))


class TestPartsOfADay:
    """Times without a zone in one part of the day are those of an exchange, and rarely UTC."""

    @pytest.mark.parametrize(
        "wall",
        [
            local("XNYS", "1m", 4000)[np.random.default_rng(0).random(4000) < 0.3],
            local("XETR", "1m", 4000)[np.random.default_rng(1).random(4000) < 0.35],
            local("XTKS", "1m", 4000)[np.random.default_rng(2).random(4000) < 0.35],
            local("XSAU", "5m", 600),
            local("XNYS", "5m", 600) + 10 * HOUR_MS + 30 * MINUTE_MS,
            local("XETR", "5m", 102),
            local("XBOM", "5m", 75),
        ],
        ids=["thin", "thin Frankfurt", "thin Tokyo", "Sunday to Thursday", "over midnight", "a day", "a day of Bombay"],
    )
    def test_they_are_rejected(self, wall):
        with pytest.raises(Ambiguous) as refused:
            align(rows(wall), f"{int(np.diff(np.unique(wall)).min()) // MINUTE_MS}m")

        assert refused.value.option == "timezone"

    def test_an_hour_of_minutes_is_not_a_session(self):
        """Though it lies within New York's session in local time."""
        opens = grid("1m", 60, start=START + 10 * HOUR_MS)

        assert len(align(rows(opens), "1m").opens) == 60

    @pytest.mark.parametrize("name", ["XBOM", "XSHG", "XHKG"])
    def test_other_exchanges_are_not_mistaken_for_new_york(self, name):
        """Though all its times lie within New York's sessions."""
        with pytest.raises(Ambiguous) as refused:
            align(rows(local(name, "5m", 400)), "5m")

        assert "New_York" not in str(refused.value)

    @pytest.mark.parametrize("share", [1, 0.5, 0.1])
    @pytest.mark.parametrize("timeframe", ["1m", "1h", "4h", "12h"])
    def test_a_continuous_market_passes(self, timeframe, share):
        """Also with few trades, and for a few hours over midnight."""
        opens = grid(timeframe, 1500)
        kept = opens[np.random.default_rng(4).random(len(opens)) < share]

        assert len(align(rows(kept), timeframe).opens) == len(kept)
        assert len(align(rows(opens[1200:1290] if timeframe == "1m" else opens[20:26]), timeframe).opens) > 0


class TestCloses:
    """Times of closes are not times of opens."""

    @pytest.mark.parametrize("timeframe", ["5m", "30m", "1h"])
    def test_they_are_rejected(self, timeframe):
        key = make_key(timeframe=timeframe, calendar="XNYS")
        closes = key.trading_calendar.closes_of(key.timeframe, grid(timeframe, 300, "XNYS"))

        with pytest.raises(BadPayload, match="expected times at which bars open, found 'a row at the close of"):
            align(rows(closes, "written"), timeframe, "XNYS")

    def test_an_extra_row_at_the_close_passes(self):
        """Some exports add the closing auction."""
        opens = grid("1h", 70, "XNYS")
        ends = get_calendar("XNYS").closes_of(
            Timeframe("1d"), get_calendar("XNYS").opens_between(Timeframe("1d"), START, int(opens[-1]))
        )

        assert len(align(rows(np.sort(np.append(opens, ends)), "written"), "1h", "XNYS").opens) == 70 + len(ends)


class TestRepeated:
    """Repeated times."""

    def test_a_few_are_revisions(self):
        times = np.append(grid("1h", 60), grid("1h", 3))

        assert len(align(rows(times), "1h").opens) == 63

    def test_many_different_repeats_are_rejected_with_their_lines(self):
        times = np.append(grid("1h", 60), grid("1h", 30))

        with pytest.raises(
            BadPayload, match=r"symbol_column.*30 times with rows that differ, the first 2024-01-02 00:00 UTC in 2, 62"
        ):
            align(rows(times), "1h")

    def test_many_equal_repeats_are_a_file_written_twice(self):
        times, values = grid("1h", 60), make_bars(make_key(), 60).ohlcv_TF

        table_rows = rows(np.append(times, times), values=np.concatenate([values, values]))

        assert Bars.from_rows(make_key(), "bars.csv", table_rows).replaced == 60


class TestTime:
    """Only closed rows are used."""

    def test_one_newer_first_row_does_not_reverse_a_file(self):
        """A correction at the end wins, even with another row above the first."""
        opens, values = grid("1h", 200), make_bars(make_key(), 202).ohlcv_TF.copy()
        times = np.concatenate([[opens[-1] + 1000 * HOUR_MS], opens, [opens[3]]])
        as_of = int(opens[-1]) + HOUR_MS

        whole, without = (
            Bars.from_rows(make_key(), "bars.csv", rows(times[first:], values=values[first:]), as_of)
            for first in (0, 1)
        )

        assert whole.bars.ohlcv_TF.tolist() == without.bars.ohlcv_TF.tolist()
        assert whole.bars.ohlcv_TF[3].tolist() == values[-1].tolist()

    def test_the_upper_row_wins_in_a_file_with_the_newest_first(self):
        opens, values = grid("1h", 50), make_bars(make_key(), 51).ohlcv_TF.copy()
        times = np.append(opens[::-1], opens[7])

        validated = Bars.from_rows(make_key(), "bars.csv", rows(times, values=values))

        assert validated.bars.ohlcv_TF[7].tolist() == values[42].tolist()

    def test_later_rows_change_nothing(self):
        opens = grid("1h", 100)
        later = np.append(opens, opens[-1] + HOUR_MS + np.arange(200) * 5 * MINUTE_MS)
        as_of = int(opens[-1]) + HOUR_MS

        aligned = align(rows(later), "1h", as_of=as_of)

        assert aligned.opens.tolist() == opens.tolist()
        assert (aligned.reasons == "").all()
        assert aligned.unclosed == 200


class TestHistory:
    """Rows before the start of a calendar are rejected with that reason; others are kept."""

    def test_a_history_from_before_the_calendar(self):
        dates = np.arange(np.datetime64("1962-01-02"), np.datetime64("1995-01-01")).astype("datetime64[ms]")
        dates = dates.astype(np.int64)
        key = make_key(timeframe="1d", calendar="XNYS")
        sessions = key.trading_calendar.opens_between(Timeframe("1d"), 0, int(dates[-1]))
        kept = dates[(dates < utc_ms("1990-01-01")) & ((dates // DAY_MS + 3) % 7 < 5)]
        times = np.concatenate([kept, sessions - sessions % DAY_MS])

        validated = Bars.from_rows(key, "bars.csv", rows(times))

        assert validated.bars.open_time.tolist() == sessions.tolist()
        assert {row.reason for row in validated.rejected} == {"open time is before the time for which XNYS is known"}
        assert len(validated.rejected) == len(kept)


class TestRefused:
    """A table with more than a few rejected rows is misread."""

    def test_a_few_rejected_rows_are_reported(self):
        times = grid("1h", 60).copy()
        times[10:13] += MINUTE_MS

        validated = Bars.from_rows(make_key(), "bars.csv", rows(times))

        assert (len(validated.bars), len(validated.rejected)) == (57, 3)

    @pytest.mark.parametrize(("shift", "anchor"), [(16 * HOUR_MS, "16:00"), (6 * HOUR_MS, "06:00")])
    def test_days_off_midnight_name_the_anchor(self, shift, anchor):
        key = make_key(timeframe="1d")

        with pytest.raises(InvalidBars, match=rf"60 of 60 rows .* all rows open at {anchor} UTC: `day_anchor`"):
            Bars.from_rows(key, "bars.csv", rows(grid("1d", 60) + shift))

        anchored = SeriesKey("any", "BTC/USDT", "1d", f"24/7@{anchor}")

        assert len(Bars.from_rows(anchored, "bars.csv", rows(grid("1d", 60) + shift)).bars) == 60

    def test_days_of_a_zone_suggest_it(self):
        """Midnight of Chicago is at 05:00 or 06:00 UTC."""
        opens = get_calendar("24/7@00:00 America/Chicago").next_opens(Timeframe("1d"), START, 200)

        with pytest.raises(InvalidBars, match="--day-anchor '00:00 America/Chicago'"):
            Bars.from_rows(make_key(timeframe="1d"), "bars.csv", rows(opens))

    def test_full_hours_are_distinguished_from_session_hours(self):
        days = np.unique(grid("1d", 30, "XNYS") // DAY_MS) * DAY_MS
        hours = (days[:, np.newaxis] + np.arange(14, 21) * HOUR_MS).ravel()

        with pytest.raises(InvalidBars, match="on the clock's hours, and XNYS counts from the open of a session"):
            Bars.from_rows(make_key(timeframe="1h", calendar="XNYS"), "bars.csv", rows(hours, "written"))

    def test_days_without_sessions_suggest_exchanges_that_fit(self):
        days = grid("1d", 260, "XETR", utc_ms("2023-01-02"))
        days = days - days % DAY_MS

        with pytest.raises(
            InvalidBars, match=r"on which XNYS has no session, such as 2023-01-02.*XETR, XPAR, .* would fit"
        ):
            Bars.from_rows(make_key(timeframe="1d", calendar="XNYS"), "bars.csv", rows(days))

        assert "XETR" in matching_exchanges(days)

    def test_rows_without_prices_do_not_count(self):
        """Holidays without prices do not mean that the table is misread."""
        values = make_bars(make_key(), 60).ohlcv_TF.copy()
        values[10:40, :4] = np.nan

        validated = Bars.from_rows(make_key(), "bars.csv", rows(grid("1h", 60), values=values))

        assert (len(validated.bars), len(validated.rejected)) == (30, 30)

    def test_a_table_without_a_bar_is_rejected(self):
        values = np.full((2, 5), np.nan)

        with pytest.raises(InvalidBars, match="2 of 2 rows are not bars"):
            Bars.from_rows(make_key(), "bars.csv", rows(grid("1h", 2), values=values))


def test_a_hint_needs_something_in_common():
    opens = grid("1h", 60)

    assert off_grid_hint(Timeframe("1h"), "24/7", opens, np.zeros(60, bool)) == ""


def test_the_week_of_foreign_exchange_in_utc_is_utc():
    """New York time fits worse at the edges of the week. In local time, the zone is required."""
    week = "24/5@17:00 America/New_York"
    opens = grid("1h", 360, week)

    assert len(align(rows(opens), "1h", week).opens) == 360
    with pytest.raises(Ambiguous, match="America/New_York"):
        align(rows(get_clock("America/New_York").to_wall(opens)), "1h", week)


def test_a_repeated_hour_in_a_long_file_means_clocks_went_back():
    """Few of the rows, and all within an hour."""
    opens = grid("1m", 4000)
    times = np.append(opens, opens[600:660:4])

    with pytest.raises(BadPayload, match=r"where clocks go back, `timezone`.*15 times with rows that differ"):
        align(rows(times), "1m")

    assert len(align(rows(times, "written"), "1m").opens) == len(times)


def test_a_history_before_its_calendar_is_rejected_as_a_whole():
    with pytest.raises(InvalidBars, match="100 of 100 rows are not bars: open time is before"):
        Bars.from_rows(
            make_key(timeframe="1d"), "bars.csv", rows(utc_ms("1927-12-30") + np.arange(100) * DAY_MS, "written")
        )


def test_unreadable_times_do_not_reject_a_file_that_begins_later():
    """Before its first bar there is none, whatever the file contains."""
    table_rows = replace(rows(grid("1h", 50)), rejected=(("2024-01-02 0x", "no time"),))

    validated = Bars.from_rows(make_key(), "bars.csv", table_rows, START)

    assert (len(validated.bars), validated.unclosed, len(validated.rejected)) == (0, 50, 1)


def test_unclosed_rows_count_for_the_spacing():
    """The first minute is not an hourly bar, though an hour has passed."""
    opens = grid("5m", 24)

    with pytest.raises(BadPayload, match="expected rows 1h apart, found 'rows 5m apart'"):
        align(rows(opens, "written"), "1h", as_of=START + HOUR_MS + 4 * MINUTE_MS)
