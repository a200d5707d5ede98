"""Rows on a calendar's grid: zones that do not fit, labels that are closes, times that come twice; what may mend it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecaster.bars import Bars, SeriesKey
from forecaster.calendars import Labels, calendar, on_clock
from forecaster.errors import Ambiguous, BadPayload, InvalidBars
from forecaster.tables import Rows
from forecaster.tables.fit import fitting_exchanges, hint
from forecaster.tables.placing import place
from forecaster.timeframe import MINUTE_MS, Timeframe
from tests.builders import DAY_MS, HOUR_MS, make_bars, make_key, utc_ms

START = utc_ms("2024-01-02")


def grid(timeframe: str, count: int, name: str = "24/7", start: int = START) -> np.ndarray:
    return calendar(name).next_opens(Timeframe(timeframe), start, count)


def rows(times: np.ndarray, zone="assumed", doubt="", written=None, values=None) -> Rows:
    """Rows at these times, of prices that walk."""
    walk = make_bars(make_key(), len(times)).ohlcv_TF if values is None else values
    return Rows(
        Labels(times, times if written is None else written), walk, np.arange(2, len(times) + 2), zone=zone, doubt=doubt
    )


def placed(found: Rows, timeframe: str, name: str = "24/7", as_of: int | None = None):
    return place("bars.csv", Timeframe(timeframe), name, found, as_of)


class TestZones:
    """Times without a zone are UTC, unless something speaks against it."""

    @pytest.mark.parametrize("zone", ["written", "said", "assumed"])
    def test_hours_of_a_market_that_never_closes_pass(self, zone):
        assert len(placed(rows(grid("1h", 60), zone), "1h").opens) == 60

    @pytest.mark.parametrize("name", ["24/7", "XNYS", "24/5"])
    @pytest.mark.parametrize("timeframe", ["1h", "1d"])
    def test_those_of_a_broker_must_be_said(self, name, timeframe):
        """All but the days of an exchange, which their dates name whatever the clock."""
        found = rows(grid(timeframe, 30, name), "required", written=grid(timeframe, 30, name))
        if (name, timeframe) == ("XNYS", "1d"):
            assert len(placed(found, timeframe, name).opens) == 30
            return

        with pytest.raises(Ambiguous) as refused:
            placed(found, timeframe, name)

        assert refused.value.option == "timezone"

    def test_days_of_another_clock_are_no_weekdays_of_utc(self):
        """`24/5` has days of UTC; those of a broker begin at another hour."""
        dates = grid("1d", 30, "24/5")

        with pytest.raises(Ambiguous, match="days that begin at 22:00 UTC") as refused:
            placed(rows(dates - 2 * HOUR_MS, "said", written=dates), "1d", "24/5")

        assert refused.value.option == "calendar"

    def test_a_doubt_is_told(self):
        with pytest.raises(Ambiguous, match="01:00 comes twice") as refused:
            placed(rows(grid("1h", 60), doubt="01:00 comes twice"), "1h")

        assert refused.value.option == "timezone"

    @pytest.mark.parametrize("name", ["XNYS", "XTKS", "XETR", "XHKG"])
    @pytest.mark.parametrize("timeframe", ["5m", "1h"])
    @pytest.mark.parametrize("told", [True, False])
    def test_sessions_by_the_exchanges_own_clock_are_no_utc(self, name, timeframe, told):
        """With the calendar, and with that of a market that never closes."""
        local = on_clock(grid(timeframe, 200, name), calendar(name).zone)

        with pytest.raises(Ambiguous) as refused:
            placed(rows(local), timeframe, name if told else "24/7")

        assert refused.value.option == "timezone"
        if told or name == "XNYS":
            assert calendar(name).zone in str(refused.value)

    def test_one_day_of_new_york_is_seen(self):
        local = on_clock(grid("5m", 78, "XNYS"), "America/New_York")

        with pytest.raises(Ambiguous, match="America/New_York"):
            placed(rows(local), "5m")

    @pytest.mark.parametrize("name", ["XNYS", "XTKS", "XETR"])
    def test_sessions_in_utc_pass(self, name):
        assert len(placed(rows(grid("5m", 200, name)), "5m", name).opens) == 200

    def test_a_written_zone_is_believed(self):
        """A market that never closes may have its hours; the calendar is asked about, and no bar is lost."""
        found = placed(rows(grid("5m", 200, "XNYS"), "written"), "5m")

        assert len(found.opens) == 200
        assert found.notes == ["rows keep to a part of the day: is 24/7 their calendar?"]


def local(name: str, timeframe: str, count: int) -> np.ndarray:
    """Bars of an exchange, by its own clock."""
    return on_clock(grid(timeframe, count, name), calendar(name).zone)


class TestPartsOfADay:
    """Times without a zone that keep to a part of the day are an exchange's, and hardly UTC."""

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
    def test_they_are_refused(self, wall):
        with pytest.raises(Ambiguous) as refused:
            placed(rows(wall), f"{int(np.diff(np.unique(wall)).min()) // MINUTE_MS}m")

        assert refused.value.option == "timezone"

    def test_an_hour_of_minutes_is_of_no_exchange(self):
        """Though it lies within New York's session by its own clock."""
        opens = grid("1m", 60, start=START + 10 * HOUR_MS)

        assert len(placed(rows(opens), "1m").opens) == 60

    @pytest.mark.parametrize("name", ["XBOM", "XSHG", "XHKG"])
    def test_no_other_exchange_is_taken_for_new_york(self, name):
        """Though all its times lie within New York's sessions."""
        with pytest.raises(Ambiguous) as refused:
            placed(rows(local(name, "5m", 400)), "5m")

        assert "New_York" not in str(refused.value)

    @pytest.mark.parametrize("share", [1, 0.5, 0.1])
    @pytest.mark.parametrize("timeframe", ["1m", "1h", "4h", "12h"])
    def test_a_market_that_never_closes_is_none(self, timeframe, share):
        """Thinly traded too, and a few hours of it over midnight."""
        opens = grid(timeframe, 1500)
        kept = opens[np.random.default_rng(4).random(len(opens)) < share]

        assert len(placed(rows(kept), timeframe).opens) == len(kept)
        assert len(placed(rows(opens[1200:1290] if timeframe == "1m" else opens[20:26]), timeframe).opens) > 0


class TestCloses:
    """Times of closes are no times of opens."""

    @pytest.mark.parametrize("timeframe", ["5m", "30m", "1h"])
    def test_they_are_refused(self, timeframe):
        key = make_key(timeframe=timeframe, calendar="XNYS")
        closes = key.sessions.closes_of(key.timeframe, grid(timeframe, 300, "XNYS"))

        with pytest.raises(BadPayload, match="expected times at which bars open, found 'a row at the close of"):
            placed(rows(closes, "written"), timeframe, "XNYS")

    def test_a_row_more_at_the_close_is_none_of_them(self):
        """As exports have it that add the closing auction."""
        opens = grid("1h", 70, "XNYS")
        ends = calendar("XNYS").closes_of(
            Timeframe("1d"), calendar("XNYS").opens_between(Timeframe("1d"), START, int(opens[-1]))
        )

        assert len(placed(rows(np.sort(np.append(opens, ends)), "written"), "1h", "XNYS").opens) == 70 + len(ends)


class TestRepeated:
    """Times that come more than once."""

    def test_a_few_are_revisions(self):
        times = np.append(grid("1h", 60), grid("1h", 3))

        assert len(placed(rows(times), "1h").opens) == 63

    def test_many_that_differ_are_refused_with_their_lines(self):
        times = np.append(grid("1h", 60), grid("1h", 30))

        with pytest.raises(
            BadPayload, match=r"symbol_column.*30 times with rows that differ, the first 2024-01-02 00:00 UTC in 2, 62"
        ):
            placed(rows(times), "1h")

    def test_many_that_are_the_same_are_a_file_written_twice(self):
        times, values = grid("1h", 60), make_bars(make_key(), 60).ohlcv_TF

        found = rows(np.append(times, times), values=np.concatenate([values, values]))

        assert Bars.of_rows(make_key(), "bars.csv", found).replaced == 60


class TestTime:
    """Only what had closed is looked at."""

    def test_one_row_on_top_does_not_turn_a_file_around(self):
        """A correction at the end stands, whatever somebody puts above the first row."""
        opens, values = grid("1h", 200), make_bars(make_key(), 202).ohlcv_TF.copy()
        times = np.concatenate([[opens[-1] + 1000 * HOUR_MS], opens, [opens[3]]])
        as_of = int(opens[-1]) + HOUR_MS

        whole, without = (
            Bars.of_rows(make_key(), "bars.csv", rows(times[first:], values=values[first:]), as_of) for first in (0, 1)
        )

        assert whole.bars.ohlcv_TF.tolist() == without.bars.ohlcv_TF.tolist()
        assert whole.bars.ohlcv_TF[3].tolist() == values[-1].tolist()

    def test_a_file_that_runs_backwards_grows_at_its_top(self):
        opens, values = grid("1h", 50), make_bars(make_key(), 51).ohlcv_TF.copy()
        times = np.append(opens[::-1], opens[7])

        sifted = Bars.of_rows(make_key(), "bars.csv", rows(times, values=values))

        assert sifted.bars.ohlcv_TF[7].tolist() == values[42].tolist()

    def test_what_comes_later_changes_nothing(self):
        opens = grid("1h", 100)
        later = np.append(opens, opens[-1] + HOUR_MS + np.arange(200) * 5 * MINUTE_MS)
        as_of = int(opens[-1]) + HOUR_MS

        found = placed(rows(later), "1h", as_of=as_of)

        assert found.opens.tolist() == opens.tolist()
        assert (found.reasons == "").all()
        assert found.later == 200


class TestHistory:
    """What is older than a calendar knows is refused with that reason, and costs no other bar."""

    def test_a_history_from_before_the_calendar(self):
        dates = np.arange(np.datetime64("1962-01-02"), np.datetime64("1995-01-01")).astype("datetime64[ms]")
        dates = dates.astype(np.int64)
        key = make_key(timeframe="1d", calendar="XNYS")
        sessions = key.sessions.opens_between(Timeframe("1d"), 0, int(dates[-1]))
        kept = dates[(dates < utc_ms("1990-01-01")) & ((dates // DAY_MS + 3) % 7 < 5)]
        times = np.concatenate([kept, sessions - sessions % DAY_MS])

        sifted = Bars.of_rows(key, "bars.csv", rows(times))

        assert sifted.bars.open_time.tolist() == sessions.tolist()
        assert {row.reason for row in sifted.rejected} == {"open time is before the time for which XNYS is known"}
        assert len(sifted.rejected) == len(kept)


class TestRefused:
    """A table of which more than a few rows are refused was not understood."""

    def test_a_few_are_told_apart(self):
        times = grid("1h", 60).copy()
        times[10:13] += MINUTE_MS

        sifted = Bars.of_rows(make_key(), "bars.csv", rows(times))

        assert (len(sifted.bars), len(sifted.rejected)) == (57, 3)

    @pytest.mark.parametrize(("shift", "said"), [(16 * HOUR_MS, "16:00"), (6 * HOUR_MS, "06:00")])
    def test_days_off_midnight_name_the_anchor(self, shift, said):
        key = make_key(timeframe="1d")

        with pytest.raises(InvalidBars, match=rf"60 of 60 rows .* all rows open at {said} UTC: `day_anchor`"):
            Bars.of_rows(key, "bars.csv", rows(grid("1d", 60) + shift))

        anchored = SeriesKey.of("any", "BTC/USDT", "1d", f"24/7@{said}")

        assert len(Bars.of_rows(anchored, "bars.csv", rows(grid("1d", 60) + shift)).bars) == 60

    def test_days_of_a_clock_name_it(self):
        """Midnights of Chicago are at 5 and at 6 UTC."""
        opens = calendar("24/7@00:00 America/Chicago").next_opens(Timeframe("1d"), START, 200)

        with pytest.raises(InvalidBars, match="--day-anchor '00:00 America/Chicago'"):
            Bars.of_rows(make_key(timeframe="1d"), "bars.csv", rows(opens))

    def test_hours_of_the_clock_are_told_from_those_of_sessions(self):
        days = np.unique(grid("1d", 30, "XNYS") // DAY_MS) * DAY_MS
        hours = (days[:, np.newaxis] + np.arange(14, 21) * HOUR_MS).ravel()

        with pytest.raises(InvalidBars, match="on the clock's hours, and XNYS counts from the open of a session"):
            Bars.of_rows(make_key(timeframe="1h", calendar="XNYS"), "bars.csv", rows(hours, "written"))

    def test_days_on_which_the_exchange_rests_name_those_that_fit(self):
        days = grid("1d", 260, "XETR", utc_ms("2023-01-02"))
        days = days - days % DAY_MS

        with pytest.raises(
            InvalidBars, match=r"on which XNYS has no session, such as 2023-01-02.*XETR, XPAR, .* would fit"
        ):
            Bars.of_rows(make_key(timeframe="1d", calendar="XNYS"), "bars.csv", rows(days))

        assert "XETR" in fitting_exchanges(days)

    def test_rows_without_prices_do_not_count(self):
        """A holiday that is there without prices is no misunderstanding."""
        values = make_bars(make_key(), 60).ohlcv_TF.copy()
        values[10:40, :4] = np.nan

        sifted = Bars.of_rows(make_key(), "bars.csv", rows(grid("1h", 60), values=values))

        assert (len(sifted.bars), len(sifted.rejected)) == (30, 30)

    def test_all_is_too_much(self):
        values = np.full((2, 5), np.nan)

        with pytest.raises(InvalidBars, match="2 of 2 rows are no bars"):
            Bars.of_rows(make_key(), "bars.csv", rows(grid("1h", 2), values=values))


def test_a_hint_needs_something_in_common():
    opens = grid("1h", 60)

    assert hint(Timeframe("1h"), "24/7", opens, np.zeros(60, bool)) == ""


def test_the_week_of_foreign_exchange_in_utc_is_utc():
    """New York's clock fits worse: at the edges of the week. By its own clock it is asked for."""
    week = "24/5@17:00 America/New_York"
    opens = grid("1h", 360, week)

    assert len(placed(rows(opens), "1h", week).opens) == 360
    with pytest.raises(Ambiguous, match="America/New_York"):
        placed(rows(on_clock(opens, "America/New_York")), "1h", week)


def test_an_hour_that_comes_twice_in_a_long_file_is_a_clock_that_was_put_back():
    """A share of rows that is small, and all of them within an hour."""
    opens = grid("1m", 4000)
    times = np.append(opens, opens[600:660:4])

    with pytest.raises(BadPayload, match=r"where clocks are put back, `timezone`.*15 times with rows that differ"):
        placed(rows(times), "1m")

    assert len(placed(rows(times, "written"), "1m").opens) == len(times)


def test_a_history_that_is_older_than_its_calendar_is_refused_whole():
    with pytest.raises(InvalidBars, match="100 of 100 rows are no bars: open time is before"):
        Bars.of_rows(
            make_key(timeframe="1d"), "bars.csv", rows(utc_ms("1927-12-30") + np.arange(100) * DAY_MS, "written")
        )


def test_rows_whose_time_cannot_be_read_are_no_fault_of_a_file_that_begins_later():
    """As of a time before its first bar there is none, whatever stands in the file."""
    found = replace(rows(grid("1h", 50)), refused=(("2024-01-02 0x", "no time"),))

    sifted = Bars.of_rows(make_key(), "bars.csv", found, START)

    assert (len(sifted.bars), sifted.later, len(sifted.rejected)) == (0, 50, 1)


def test_rows_that_form_tell_how_far_rows_are_apart():
    """The first of minutes is no hour, though an hour has passed since it opened."""
    opens = grid("5m", 24)

    with pytest.raises(BadPayload, match="expected rows 1h apart, found 'rows 5m apart'"):
        placed(rows(opens, "written"), "1h", as_of=START + HOUR_MS + 4 * MINUTE_MS)
