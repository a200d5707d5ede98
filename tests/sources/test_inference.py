"""The inferred symbol, timeframe and calendar of a file.

A calendar is inferred only if it alone fits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from forecaster.calendars import get_calendar as calendar_of
from forecaster.errors import Ambiguous, BadPayload, ConfigError
from forecaster.sources.files import FileSource
from forecaster.tables import ParseOptions
from forecaster.tables.symbols import normalize_symbol
from forecaster.zones import get_clock
from tests.builders import DAY_MS, HOUR_MS, make_bars, make_key, utc_ms

if TYPE_CHECKING:
    from forecaster.bars import SeriesKey

DAILY = make_key(timeframe="1d")
EVER = utc_ms("2100-01-01")


def infer_key(path: Path, *given: str | None, **options: str) -> SeriesKey:
    """Return the inferred key of a file; timeframe, calendar and day anchor may be given."""
    (inferred,) = FileSource(path, ParseOptions(**options)).infer_series(*given)
    return inferred.key


def exported(folder: Path, key=DAILY, name="BTCUSDT_1d.csv", count=60, start="2024-01-01") -> Path:
    """Write a file of bars of this key."""
    path = folder / name
    make_bars(key, count, utc_ms(start)).frame.to_csv(path)
    return path


def dated(folder: Path, times, name="A.csv") -> Path:
    """Write a file of bars at these times."""
    path = folder / name
    path.write_text("date,open,high,low,close\n" + "".join(f"{time},2,4,1,3\n" for time in times))
    return path


def dates_of(name: str, start: str, count: int) -> list[str]:
    """Return the dates of the sessions of a calendar."""
    sessions = calendar_of(name)
    opens = sessions.next_opens(DAILY.timeframe, utc_ms(start), count)
    return [
        str(date) for date in get_clock(sessions.zone).to_wall(opens).astype("datetime64[ms]").astype("datetime64[D]")
    ]


class TestTimeframe:
    """The most common distance between times."""

    @pytest.mark.parametrize("timeframe", ["1m", "3m", "15m", "1h", "4h", "12h", "1d"])
    def test_it_is_inferred_from_the_times(self, tmp_path, timeframe):
        key = make_key(timeframe=timeframe)

        assert infer_key(exported(tmp_path, key, count=3000)) == make_key("file", timeframe=timeframe)

    def test_rows_in_any_order_and_gaps_do_not_change_it(self, tmp_path):
        """Not the first distance; rows are sorted by time."""
        path = tmp_path / "BTCUSDT.csv"
        frame = make_bars(make_key(timeframe="4h"), count=100).frame.iloc[np.r_[0, 2, 5:100]]
        frame.sample(frac=1, random_state=1).to_csv(path)

        assert str(infer_key(path).timeframe) == "4h"

    @pytest.mark.parametrize(
        ("times", "message"),
        [
            (["2024-01-01"], "rows of two times or more, to tell the timeframe, found 1"),
            (["2024-01-01", "2024-01-01"], "rows of two times or more, to tell the timeframe, found 1"),
            (["2024-01-01", "2024-01-08", "2024-01-15"], "rows 7d apart: 1w is not supported"),
            (["2024-01-01", "2024-02-01", "2024-03-01"], "1M is not supported"),
            (["2024-01-01 00:00:00", "2024-01-01 00:00:20"], "times apart by whole minutes, found '20 s'"),
            (["2024-01-01 00:00:00", "2024-01-01 00:01:01"], "times apart by whole minutes, found '61 s'"),
            (["2024-01-01 00:00", "2024-01-01 00:07"], "times apart by one of 1m, .* 1d, found '7m'"),
        ],
        ids=["one row", "one time", "weeks", "months", "seconds", "a minute and a second", "seven minutes"],
    )
    def test_times_of_no_timeframe_are_rejected(self, tmp_path, times, message):
        with pytest.raises(BadPayload, match=message):
            infer_key(dated(tmp_path, times))


class TestSymbol:
    """From the name of the file, or from its content."""

    @pytest.mark.parametrize(
        ("name", "symbol"),
        [
            ("BTCUSDT_1d.csv", "BTC/USDT"),
            ("BTCUSD_1h_coinbase.csv", "BTC/USD"),
            ("ETHBTC-4h.csv", "ETH/BTC"),
            ("btc_usdt_15min.csv", "BTC/USDT"),
            ("1h btc-eur.csv", "BTC/EUR"),
            ("EURUSD_H1.csv", "EUR/USD"),
            ("EURUSD_M15.csv", "EUR/USD"),
            ("BTC-USD_1Hour.csv", "BTC/USD"),
            ("SOL.csv", "SOL/USD"),
            ("USDT.csv", "USDT/USD"),
            ("my own bars.csv", "MY-OWN-BARS/USD"),
            ("1h.csv", "1H/USD"),
            ("_.csv", "FILE/USD"),
        ],
    )
    def test_it_is_read_from_the_name_of_the_file(self, tmp_path, name, symbol):
        assert infer_key(exported(tmp_path, name=name)).symbol == symbol

    @pytest.mark.parametrize(
        ("named", "symbol"),
        [
            ("X:BTCUSD", "BTC/USD"),
            ("XXBTZUSD", "BTC/USD"),
            ("XETHZEUR", "ETH/EUR"),
            ("XBTUSDT", "BTC/USDT"),
            ("BINANCE:BTCUSDT", "BTC/USDT"),
            ("BTC-USD", "BTC/USD"),
            ("btcusdt", "BTC/USDT"),
            ("ABC", "ABC/USD"),
        ],
    )
    def test_names_of_venues_are_pairs(self, tmp_path, named, symbol):
        """The content wins over the name, and the series of that symbol has its bars."""
        path = tmp_path / "export.csv"
        make_bars(DAILY, 60).frame.assign(symbol=named).to_csv(path)

        key = infer_key(path)

        assert key.symbol == symbol
        assert len(FileSource(path).fetch(key, None, EVER).bars) == 60

    def test_venue_specific_parts_are_removed(self):
        assert [normalize_symbol(name) for name in ("X:BTCUSD", "XXBTZUSD", " abc ")] == ["BTCUSD", "BTCUSD", "ABC"]

    def test_a_stock_is_not_cut_at_the_letters_of_a_currency(self, tmp_path):
        """CUSD on New York's calendar is not a pair of C and USD."""
        key = make_key(timeframe="1d", calendar="XNYS")

        assert infer_key(exported(tmp_path, key, "CUSD_1d.csv")).symbol == "CUSD/USD"


class TestCalendarOfDays:
    """Dates fit several exchanges; holidays distinguish them."""

    @pytest.mark.parametrize("symbol", ["SPX", "IXIC"])
    def test_bundled_files_are_of_new_york(self, symbol):
        path = Path(__file__).resolve().parents[2] / "trainingdata" / f"{symbol}_USD_1d.csv"

        assert infer_key(path) == make_key("file", f"{symbol}/USD", "1d", "XNYS")

    def test_new_york_is_recognised_by_its_holidays(self, tmp_path):
        assert infer_key(dated(tmp_path, dates_of("XNYS", "2024-01-02", 60))).calendar == "XNYS"

    def test_dates_between_holidays_fit_more_than_one(self, tmp_path):
        path = dated(tmp_path, dates_of("XNYS", "2024-03-01", 18))

        with pytest.raises(Ambiguous, match=r"more than one calendar; those of XNYS, .*XETR, .*24/5 would fit") as no:
            infer_key(path)

        assert no.value.option == "calendar"
        assert infer_key(path, None, "XNYS").calendar == "XNYS"

    def test_local_times_identify_new_york_without_a_holiday(self, tmp_path):
        """The times of its opens, or its midnights as yfinance writes them, also in summer."""
        key = make_key(timeframe="1d", calendar="XNYS")
        frame = make_bars(key, 18, utc_ms("2024-03-01")).frame
        opens, midnights = tmp_path / "opens.csv", tmp_path / "ABC.csv"
        frame.to_csv(opens)
        local = frame.tz_convert("America/New_York")
        local.set_axis(local.index.normalize().rename("Date")).to_csv(midnights)

        assert infer_key(opens).calendar == "XNYS"
        assert infer_key(midnights) == make_key("file", "ABC/USD", "1d", "XNYS")
        assert len(FileSource(midnights).fetch(infer_key(midnights), None, EVER).bars) == 18

    @pytest.mark.parametrize("name", ["XETR", "XTKS", "XHKG"])
    def test_days_of_another_exchange_need_its_name(self, tmp_path, name):
        """Frankfurt has few holidays, and those of spring are near New York's."""
        path = dated(tmp_path, dates_of(name, "2023-01-02", 250))

        with pytest.raises(Ambiguous, match=f"--calendar {name}.*neither New York nor all weekdays; those of {name}"):
            infer_key(path)

        key = infer_key(path, None, name)
        assert len(FileSource(path).fetch(key, None, EVER).bars) == 250

    @pytest.mark.parametrize("name", ["XETR", "XLON", "XTKS", "XHKG", "XASX", "BVMF", "XSTO"])
    @pytest.mark.parametrize("month", range(1, 13))
    def test_no_part_of_a_year_is_mistaken_for_another_exchange(self, tmp_path, name, month):
        """Also with a missing day."""
        days = dates_of(name, f"2024-{month:02}-01", 40)
        path = dated(tmp_path, days[:month] + days[month + 1 :])

        with pytest.raises(Ambiguous, match=f"[ ,]{name}[ ,]"):
            infer_key(path)

    @pytest.mark.parametrize(
        ("name", "offset", "shown"), [("XHKG", "+08:00", r"UTC\+8"), ("XBOM", "+05:30", r"UTC\+5\.5")]
    )
    def test_days_that_begin_in_the_east_need_a_calendar(self, tmp_path, name, offset, shown):
        """A guess would keep no bar or wrong ones; the error names exchanges that fit."""
        path = dated(tmp_path, (f"{day} 00:00:00{offset}" for day in dates_of(name, "2024-01-01", 60)))

        with pytest.raises(Ambiguous, match=rf"--calendar {name}.* midnight of {shown}; those of {name} would fit"):
            infer_key(path)

        assert infer_key(path, None, name).calendar == name

    def test_all_weekdays_are_24_5(self, tmp_path):
        """Holidays of New York are among them, and no other exchange has a session on each."""
        path = dated(tmp_path, pd.bdate_range("2024-01-01", periods=60).date)

        key = infer_key(path)

        assert key.calendar == "24/5"
        assert len(FileSource(path).fetch(key, None, EVER).bars) == 60

    def test_weekends_mean_a_continuous_market(self, tmp_path):
        assert infer_key(exported(tmp_path)).calendar == "24/7"


class TestCalendarWithinADay:
    """Hours distinguish sessions from a continuous market."""

    @pytest.mark.parametrize("timeframe", ["5m", "1h"])
    def test_bars_of_new_york_are_distinguished_from_continuous_markets(self, tmp_path, timeframe):
        """Also without a weekend: hours of the night are outside sessions."""
        stocks = exported(tmp_path, make_key(timeframe=timeframe, calendar="XNYS"), "ABC.csv")
        crypto = exported(tmp_path, make_key(timeframe=timeframe), "BTCUSDT.csv", count=100)

        assert infer_key(stocks).calendar == "XNYS"
        assert infer_key(crypto).calendar == "24/7"

    def test_hours_of_whole_weekdays_are_24_5(self, tmp_path):
        key = make_key(timeframe="1h", calendar="24/5")

        assert infer_key(exported(tmp_path, key, count=24 * 20)).calendar == "24/5"

    def test_weeks_that_begin_on_sunday_are_those_of_foreign_exchange(self, tmp_path):
        """From Sunday 17:00 to Friday 17:00 in New York; 24/5 has no bars on Sunday."""
        hours = np.arange(utc_ms("2024-01-07 22:00"), utc_ms("2024-02-02 22:00"), HOUR_MS)
        week = (hours - utc_ms("2024-01-07 22:00")) % (7 * DAY_MS)
        path = dated(tmp_path, pd.to_datetime(hours[week < 5 * DAY_MS], unit="ms", utc=True))

        assert infer_key(path).calendar == "24/5@17:00 America/New_York"

    @pytest.mark.parametrize("name", ["XETR", "XTKS"])
    def test_sessions_of_another_exchange_need_its_name(self, tmp_path, name):
        path = exported(tmp_path, make_key(timeframe="1h", calendar=name), "ABC.csv", count=200)

        with pytest.raises(Ambiguous, match="keep to weekdays and to a part of the day, and do not fit XNYS") as no:
            infer_key(path)

        assert no.value.option == "calendar"
        assert infer_key(path, None, name).calendar == name

    def test_local_times_of_new_york_fit_with_the_zone_option(self, tmp_path):
        key = make_key(timeframe="5m", calendar="XNYS")
        local = make_bars(key, 200).frame.tz_convert("America/New_York").tz_localize(None)
        path = tmp_path / "ABC.csv"
        local.to_csv(path)

        with pytest.raises(Ambiguous, match="--timezone America/New_York"):
            infer_key(path)

        assert infer_key(path, timezone="America/New_York").calendar == "XNYS"


class TestGiven:
    """Given values are not inferred."""

    def test_not_even_where_the_times_would_fit_no_timeframe(self, tmp_path):
        path = tmp_path / "weekly.csv"
        make_bars(DAILY, 70).frame.iloc[::7].to_csv(path)

        key = infer_key(path, "1d", "XNYS")

        assert (str(key.timeframe), key.calendar) == ("1d", "XNYS")

    def test_an_exchange_has_many_names(self, tmp_path):
        assert infer_key(exported(tmp_path), None, "NASDAQ").calendar == "XNYS"

    @pytest.mark.parametrize(
        ("anchor", "zone", "calendar"),
        [
            ("16:00", None, "24/7@16:00"),
            ("00:00", None, "24/7"),
            ("17:00 America/New_York", None, "24/7@17:00 America/New_York"),
            ("17:00", "America/New_York", "24/7@17:00 America/New_York"),
        ],
    )
    def test_an_anchor_sets_the_days_of_a_continuous_market(self, tmp_path, anchor, zone, calendar):
        """In the given zone, unless the anchor names one."""
        path = exported(tmp_path, make_key(timeframe="1d", calendar=calendar), count=60)

        key = infer_key(path, None, None, anchor, timezone=zone)

        assert key.calendar == calendar
        assert len(FileSource(path, ParseOptions(timezone=zone)).fetch(key, None, EVER).bars) == 60

    @pytest.mark.parametrize("given", [("7m",), (None, "NOWHERE"), (None, None, "25:00")])
    def test_unknown_values_are_rejected(self, tmp_path, given):
        with pytest.raises(ConfigError):
            infer_key(exported(tmp_path), *given)


def test_each_inferred_value_has_a_reason(tmp_path):
    path = exported(tmp_path)

    (inferred,) = FileSource(path).infer_series()
    (given,) = FileSource(path).infer_series("1d", "24/7")

    assert inferred.reasons == {
        "symbol": "the file's name",
        "spacing": "the most common distance between times",
        "calendar": "there are weekends among the days",
    }
    assert (given.reasons["spacing"], given.reasons["calendar"]) == ("as given", "as given")
