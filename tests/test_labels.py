"""What the labels of daily bars stand for: the session of the date that is written, in files and in frames.

All offsets, zones and years: `python -m tests.benchmarks.labels`; here is a sample.
"""

from __future__ import annotations

import json
from datetime import timedelta, timezone

import numpy as np
import pandas as pd
import pytest

from forecaster.bars import COLUMNS, Bars
from forecaster.errors import BadPayload, InvalidBars
from forecaster.sources.files import FileSource
from forecaster.timeframe import Timeframe
from forecaster.zones import UNWRITTEN, Labels
from strategies.adapters.align import closes_of
from tests.benchmarks import labels
from tests.benchmarks.labels import OFFSETS, ZONES, Judge, check, landed, read_rows
from tests.builders import make_bars, make_key, utc_ms
from tests.replay.leaks import utc_dates

DAILY = Timeframe("1d")
EVER = utc_ms("2999-01-01")
BAR = [2.0, 4.0, 1.0, 3.0, 5.0]
DRAWN = np.random.default_rng(7).choice(["BVMF", "CMES", "IEPA", "XBOM", "XSAU", "XSGO", "XTAI", "us_futures"], 2)


def frame_of(*times, zone=None) -> pd.DataFrame:
    index = pd.DatetimeIndex(times)
    return pd.DataFrame([BAR] * len(times), index.tz_localize(zone) if zone else index, list(COLUMNS))


def key_of(name: str, timeframe: str = "1d"):
    return make_key("file", "A/USD", timeframe, name)


def written(opens) -> list[str]:
    """Open times, as people write them."""
    return [str(time)[:16].replace("T", " ") for time in opens.astype("datetime64[ms]")]


def read(tmp_path, name, *stamps, timeframe="1d"):
    """Open times of the labels of a csv file that stand for a bar, and how many stand for none; each on its own."""
    path = tmp_path / "bars.csv"
    path.write_text("date,open,high,low,close,volume\n" + "".join(f"{label},2,4,1,3,5\n" for label in stamps))
    opens = landed(key_of(name, timeframe), read_rows(path).labels)
    return written(opens[opens >= 0]), int((opens < 0).sum())


@pytest.mark.parametrize("name", ["XNYS", "XTKS", "XHKG", "XETR", "XLON", "XASX", "XNZE", *DRAWN])
def test_a_label_is_on_the_session_of_its_written_date(tmp_path, name):
    """Of a year, in frames, files, epochs and at times of day: nothing stands for another session."""
    found = check(Judge.of(name, 2024, 1), OFFSETS[::6] + OFFSETS[-4::2], ZONES[::6], tmp_path)

    assert found.wrong == []
    assert found.labels > 30_000


@pytest.mark.parametrize("fault", [False, True], ids=["honest", "by UTC"])
def test_the_grid_of_all_labels(monkeypatch, capsys, fault):
    """The module that reads all of them counts, and names those on a wrong session with code 1."""
    monkeypatch.setattr(labels, "OFFSETS", (540,))
    monkeypatch.setattr(labels, "ZONES", ())
    monkeypatch.setattr("sys.argv", ["labels", "XTKS", "24/7", "--years", "1"])
    if fault:
        monkeypatch.setattr("forecaster.sessions.SessionCalendar.opens_of_labels", utc_dates)

    code = labels.main()
    *told, record = capsys.readouterr().out.splitlines()
    counted = json.loads(record)

    assert (code, counted["calendars"], counted["wrong"] > 0) == (int(fault), 1, fault)
    assert counted["labels"] > 4_000
    assert ("wrong: XTKS frame: 2021-01-05 00:00:00+09:00" in told) is fault


@pytest.mark.parametrize(
    ("name", "label", "open_"),
    [
        ("XTKS", "2024-05-14 00:00:00+09:00", "2024-05-14 00:00"),
        ("XHKG", "2023-01-03 00:00:00+08:00", "2023-01-03 01:30"),
        ("XETR", "2024-05-14T00:00:00+02:00", "2024-05-14 07:00"),
        ("XLON", "2024-05-14 00:00:00 +0100", "2024-05-14 07:00"),
        ("XLON", "2024-01-16 00:00:00+00", "2024-01-16 08:00"),
        ("XNYS", "2024-05-14 00:00:00-04:00", "2024-05-14 13:30"),
        ("XNZE", "2024-05-14 00:00+12:00", "2024-05-13 22:00"),
        ("XASX", "2024-01-16 00:00+1100", "2024-01-15 23:00"),
        ("XBOM", "20240514T000000+0530", "2024-05-14 03:45"),
        ("XTKS", "2024-05-14", "2024-05-14 00:00"),
        ("XTKS", "2024-05-14 00:00:00", "2024-05-14 00:00"),
        ("XTKS", "2024-05-14 12-AM", "2024-05-14 00:00"),
        ("XNYS", "2024-05-14 00:00+14:00", "2024-05-14 13:30"),
        ("XNYS", "2024-01-09 00:00+09:30", "2024-01-09 14:30"),
    ],
)
def test_a_midnight_in_a_file(tmp_path, name, label, open_):
    """However its offset is written; the last one is the very instant at which the session before it opens."""
    assert read(tmp_path, name, label) == ([open_], 0)


def test_a_column_across_daylight_saving(tmp_path):
    """Frankfurt's offset is another one after Easter 2024; a Friday without a session is no bar of Thursday's."""
    stamps = ["2024-03-28 00:00:00+01:00", "2024-03-29 00:00:00+01:00", "2024-04-02 00:00:00+02:00"]

    assert read(tmp_path, "XETR", *stamps) == (["2024-03-28 08:00", "2024-04-02 07:00"], 1)


@pytest.mark.parametrize("suffix", ["parquet", "feather"])
@pytest.mark.parametrize("kind", ["zone", "objects"])
def test_a_column_with_a_zone(tmp_path, suffix, kind):
    """As yfinance has it, and as columns of mixed offsets are kept."""
    times = pd.DatetimeIndex(["2024-05-13", "2024-05-14", "2024-05-15"], tz="Asia/Tokyo")
    frame = frame_of(*times).rename_axis("Date").reset_index()
    if kind == "objects":
        frame["Date"] = frame["Date"].astype(str)
    path = tmp_path / f"bars.{suffix}"
    getattr(frame, f"to_{suffix}")(path)

    fetched = FileSource(path).fetch(key_of("XTKS"), None, EVER)

    assert written(fetched.bars.open_time) == ["2024-05-13 00:00", "2024-05-14 00:00", "2024-05-15 00:00"]


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("XTKS", "Asia/Tokyo"),
        ("XHKG", "Asia/Hong_Kong"),
        ("XETR", "Europe/Berlin"),
        ("XMIL", "Europe/Rome"),
        ("XNYS", "America/New_York"),
        ("XASX", "Australia/Sydney"),
    ],
)
def test_a_frame_of_local_midnights(name, zone):
    """A replay of yfinance's frames knows each session when it closes, not one earlier."""
    sessions = make_bars(key_of(name), 120, utc_ms("2024-02-01"))
    dates = pd.DatetimeIndex(sessions.open_time.astype("datetime64[ms]"), tz="UTC").tz_convert(zone)
    frame = sessions.frame.set_index(dates.normalize())

    assert Bars.from_frame(sessions.key, frame).open_time.tolist() == sessions.open_time.tolist()
    assert closes_of(frame, sessions.key).tolist() == sessions.close_time.tolist()
    assert closes_of(frame.reset_index(names="date"), sessions.key).tolist() == sessions.close_time.tolist()


@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo", "America/New_York", "Australia/Sydney"])
@pytest.mark.parametrize("name", ["XNYS", "XASX", "CMES", "XTKS"])
def test_open_times_stand_for_themselves(name, zone):
    """In whatever zone a frame shows them; in Sydney and on the futures exchange they are on the eve of their dates."""
    bars = make_bars(key_of(name), 40, utc_ms("2018-11-01"))
    frame = bars.frame.tz_localize(None) if zone is None else bars.frame.tz_convert(zone)

    assert Bars.from_frame(bars.key, frame).open_time.tolist() == bars.open_time.tolist()


@pytest.mark.parametrize("label", ["2018-11-23", "2018-11-23 14:30", "2018-11-23 13:30", "2018-11-23 18:00:00-05:00"])
def test_a_time_of_day_is_of_its_written_date(tmp_path, label):
    """Files stamp the open, the close, or an open that ignores daylight saving."""
    assert read(tmp_path, "XNYS", label) == (["2018-11-23 14:30"], 0)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("XTKS", "2024-05-13 15:00:00"),
        ("XTKS", "2024-05-13T15:00:00Z"),
        ("XHKG", "2024-05-13 16:00:00+00:00"),
        ("XETR", "2024-05-13 22:00:00+00:00"),
        ("XNYS", "2024-05-13 20:00:00-04:00"),
        ("XASX", "2024-05-13 14:00:00"),
    ],
)
def test_a_label_with_two_dates_is_refused(tmp_path, name, label):
    """Midnight on the exchange's clock, or of UTC, in another zone: what is written may be the eve of the session."""
    assert read(tmp_path, name, label) == ([], 1)
    with pytest.raises(InvalidBars, match=f"open time must be on the 1d grid of {name}"):
        Bars.from_frame(key_of(name), frame_of(pd.Timestamp(label)))


@pytest.mark.parametrize(
    ("name", "epoch", "open_"),
    [
        ("XTKS", "2024-05-13 15:00", "2024-05-14 00:00"),
        ("XHKG", "2024-05-13 16:00", "2024-05-14 01:30"),
        ("XETR", "2024-05-13 22:00", "2024-05-14 07:00"),
        ("XNYS", "2024-05-14 04:00", "2024-05-14 13:30"),
        ("XNYS", "2024-05-14 00:00", "2024-05-14 13:30"),
        ("XNYS", "2024-05-14 13:30", "2024-05-14 13:30"),
        ("XASX", "2024-01-15 23:00", "2024-01-15 23:00"),
        ("XNYS", "2024-05-14 20:00", None),
        ("XTKS", "2024-05-14 06:00", None),
    ],
)
def test_an_epoch_has_no_written_date(tmp_path, name, epoch, open_):
    """It is an open time, a midnight of the exchange or a midnight of UTC; a close or another time is none of them."""
    ms = utc_ms(epoch)
    for label in (ms // 1000, ms, ms * 1000):
        assert read(tmp_path, name, label) == (([open_], 0) if open_ else ([], 1))


@pytest.mark.parametrize("date", ["2018-11-22", "2018-11-24", "1950-01-03", "2150-01-03"])
@pytest.mark.parametrize("ending", ["", " 00:00+09:30", " 18:00"])
def test_a_date_without_a_session_is_no_bar(tmp_path, date, ending):
    """A holiday, a Saturday, and years that are not known; half past nine east of Greenwich its midnight is an open."""
    assert read(tmp_path, "XNYS", date + ending) == ([], 1)


def test_a_day_of_a_venue_that_never_closes_begins_at_midnight_of_utc(tmp_path):
    """A day that is cut elsewhere is another bar, and is refused."""
    stamps = ["2024-05-14 00:00:00+09:00", "2024-05-14", "2024-05-15 02:00:00+02:00"]

    assert read(tmp_path, "24/7", *stamps) == (["2024-05-14 00:00", "2024-05-15 00:00"], 1)
    with pytest.raises(InvalidBars, match="on the 1d grid of 24/7"):
        Bars.from_frame(key_of("24/7"), frame_of("2024-05-14", zone="Asia/Tokyo"))


@pytest.mark.parametrize("name", ["XTKS", "24/7"])
def test_an_intraday_label_is_an_instant(tmp_path, name):
    assert read(tmp_path, name, "2024-05-14 09:00:00+09:00", timeframe="1h") == (["2024-05-14 00:00"], 0)


def test_labels_are_taken_from_times_as_they_are_written():
    eastern = Labels.from_index(pd.DatetimeIndex(["2024-05-14"], tz=timezone(timedelta(hours=9))))
    naive = Labels.from_index(pd.DatetimeIndex(["2024-05-14"]))
    epoch = Labels(np.array([utc_ms("2024-05-14")]), np.array([UNWRITTEN]))

    assert (eastern.instant.tolist(), eastern.written.tolist()) == (
        [utc_ms("2024-05-13 15:00")],
        [utc_ms("2024-05-14")],
    )
    assert naive.instant.tolist() == naive.written.tolist() == epoch.instant.tolist() == eastern.written.tolist()
    assert epoch.written.tolist() == [UNWRITTEN]
    assert [len(one) for one in (eastern, epoch[:0])] == [1, 0]


@pytest.mark.parametrize("offset", ["+08:0", " +0800x", "+08:00:30", "+25:00", "+080", "+08:75", "+15:00"])
def test_an_offset_that_is_not_read_is_refused(tmp_path, offset):
    """Pandas reads more of them: the date would be taken from UTC, a session early."""
    with pytest.raises(BadPayload, match="expected an ISO date or an epoch"):
        read(tmp_path, "XTKS", f"2024-01-10 00:00:00{offset}")


@pytest.mark.parametrize("offset", ["+08:00 ", " +08:00", "+0800", "+08", "+8", "+8:00"])
def test_the_ways_to_write_an_offset_are_one(tmp_path, offset):
    assert read(tmp_path, "XTKS", f"2024-01-10 00:00:00{offset}") == (["2024-01-10 00:00"], 0)


@pytest.mark.parametrize(
    ("calendar", "stands_for"),
    [("XNYS", 1), ("XLON", 1), ("XTKS", 0), ("XKRX", 0), ("XASX", 0), ("XNZE", 0), ("XHKG", 0)],
)
def test_a_time_of_day_without_a_zone_is_read_as_utc(tmp_path, calendar, stands_for):
    """In the east it may be the close of one session, or the evening before another: it is refused, and not guessed."""
    session = key_of(calendar).opens_of(pd.DatetimeIndex(["2024-01-10"]))

    assert read(tmp_path, calendar, "2024-01-10 16:10:00") == (written(session)[:stands_for], 1 - stands_for)


@pytest.mark.parametrize(
    ("calendar", "label"),
    [("XTKS", "2024-01-10T23:45:00Z"), ("XNZE", "2020-12-23T23:45:00Z"), ("XASX", "2024-01-09T22:30Z")],
)
def test_a_time_of_day_on_two_dates_is_refused(calendar, label):
    """The date that is written, and the date on the exchange's own clock: neither is guessed."""
    key = make_key("file", "A/USD", "1d", calendar)
    opens = key.opens_of(pd.DatetimeIndex([label]))

    assert key.trading_calendar.closes_of(key.timeframe, opens).tolist() == [-1]
