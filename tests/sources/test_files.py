"""Files of bars: the columns and dates that people export, and what is said when a file will not do."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecaster.config import Config, SeriesConfig
from forecaster.errors import BadPayload
from forecaster.sources import Fetched, open_source
from forecaster.sources.files import FileSource
from forecaster.store.memory import MemoryStore
from tests.builders import DAY_MS, HOUR_MS, make_bars, make_key, utc_ms

DAILY = make_key(timeframe="1d")
HEADER = "date,open,high,low,close,volume\n"
EVER = utc_ms("2100-01-01")


@pytest.fixture
def fetch(tmp_path):
    """Write a file, fetch all of it."""

    def fetch(content: str | pd.DataFrame, key=DAILY, since=None, as_of=EVER) -> Fetched:
        path = tmp_path / ("bars.csv" if isinstance(content, str) else "bars.parquet")
        if isinstance(content, str):
            path.write_bytes(content.encode())
        else:
            content.to_parquet(path)
        return FileSource(path).fetch(key, since, as_of)

    return fetch


def opened(fetched: Fetched) -> list[str]:
    """Open times, as people write them."""
    return [str(time)[:16].replace("T", " ") for time in fetched.bars.open_time.astype("datetime64[ms]")]


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".parquet", ".pq"])
def test_bars_written_are_bars_read(tmp_path, suffix):
    """To the last bit of every price."""
    bars = make_bars()
    frame = bars.frame * np.array([1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 7])
    path = tmp_path / f"bars{suffix}"
    (frame.to_csv if suffix.lower() == ".csv" else frame.to_parquet)(path)

    fetched = FileSource(path).fetch(bars.key, None, EVER)

    assert fetched.bars.open_time.tolist() == bars.open_time.tolist()
    assert fetched.bars.ohlcv_TF.tolist() == frame.to_numpy().tolist()
    assert fetched.rejected == []


@pytest.mark.parametrize(
    "header",
    [
        "open_time,open,high,low,close,volume",
        "Open Time,Open,High,Low,Close,Volume",
        "TIMESTAMP,OPEN,HIGH,LOW,CLOSE,VOLUME",
        "timestamps,open,high,low,close,volume",
        "datetime,Open,High,Low,Close,Volume",
        "time,o,h,l,c,v",
        "t,O,H,L,C,V",
        ",open,high,low,close,volume",
        '"Date", "Open" ,"High", "Low","Close" ,"Volume" ',
    ],
)
def test_columns_have_many_names(fetch, header):
    fetched = fetch(f"{header}\n2024-01-01,2,4,1,3,5\n")

    assert opened(fetched) == ["2024-01-01 00:00"]
    assert fetched.bars.ohlcv_TF.tolist() == [[2, 4, 1, 3, 5]]


def test_columns_come_in_any_order_among_others(fetch):
    fetched = fetch("symbol,volume_btc,close,Adj Close,low,v,high,open,Date\nBTC,9,3,8,1,5,4,2,2024-01-01\n")

    assert fetched.bars.ohlcv_TF.tolist() == [[2, 4, 1, 3, 5]]


def test_a_whole_name_wins_over_a_letter(fetch):
    fetched = fetch("o,h,l,c,open,high,low,close,t,open_time\n9,9,9,9,2,4,1,3,2020-01-01,2024-01-01\n")

    assert opened(fetched) == ["2024-01-01 00:00"]
    assert fetched.bars.ohlcv_TF.tolist() == [[2, 4, 1, 3, 0]]


def test_volume_may_be_absent(fetch):
    assert fetch("date,open,high,low,close\n2024-01-01,2,4,1,3\n").bars.ohlcv_TF.tolist() == [[2, 4, 1, 3, 0]]


@pytest.mark.parametrize(
    "time",
    [
        "2024-01-02 09:00",
        "2024-01-02T09:00:00",
        "2024-01-02T09:00:00Z",
        "2024-01-02 09:00:00+00:00",
        "2024-01-02T04:00:00-05:00",
        "2024-01-02T14:30:00+05:30",
        "2024-01-02 09:00:00.000000",
        "2024-01-02 09-AM",
        "1704186000",
        "1704186000.0",
        "1704186000000",
        "1704186000000000",
        "1704186000000000000",
    ],
)
def test_a_time_has_many_forms(fetch, time):
    """Text with a zone or, being UTC, without; seconds, milli-, micro- and nanoseconds since the epoch."""
    assert opened(fetch(f"time,o,h,l,c\n{time},2,4,1,3\n", make_key())) == ["2024-01-02 09:00"]


@pytest.mark.parametrize(("hour", "expected"), [("12-AM", "00"), ("01-AM", "01"), ("12-PM", "12"), ("11-PM", "23")])
def test_noon_and_midnight_of_twelve_hour_clocks(fetch, hour, expected):
    fetched = fetch(f"date,open,high,low,close\n2017-07-01 {hour},2,4,1,3\n", make_key())

    assert opened(fetched) == [f"2017-07-01 {expected}:00"]


def test_units_of_epochs_may_change_within_a_file(fetch):
    """Binance's own archives went from milliseconds to microseconds between two months."""
    fetched = fetch("open_time,o,h,l,c\n1735603200000,2,4,1,3\n1735689600000000,2,4,1,3\n")

    assert opened(fetched) == ["2024-12-31 00:00", "2025-01-01 00:00"]


def test_forms_of_dates_may_change_within_a_file(fetch):
    fetched = fetch("date,o,h,l,c\n2024-01-01,2,4,1,3\n2024-01-02T00:00Z,2,4,1,3\n2024-01-03 12-AM,2,4,1,3\n")

    assert opened(fetched) == ["2024-01-01 00:00", "2024-01-02 00:00", "2024-01-03 00:00"]


def test_lines_above_the_header_are_skipped(fetch):
    banner = "All times are UTC,https://example.org\n\nopen, high and low are in USD\n"

    assert opened(fetch(f"{banner}{HEADER}2024-01-01,2,4,1,3,5\n")) == ["2024-01-01 00:00"]


@pytest.mark.parametrize(
    ("before", "between", "after"),
    [("\ufeff", "\n", ""), ("", "\r\n", "\r\n"), ("", "\n\n", "\n\n\n"), ("", ",\n", ",\n")],
    ids=["byte order mark", "CRLF", "blank lines", "a comma at each end"],
)
def test_the_ways_of_programs_that_write_csv(fetch, before, between, after):
    lines = [HEADER.strip(), "2024-01-01,2,4,1,3,5", "2024-01-02,2,4,1,3,5"]

    fetched = fetch(before + between.join(lines) + after)

    assert opened(fetched) == ["2024-01-01 00:00", "2024-01-02 00:00"]


def test_rows_may_run_backwards(fetch):
    fetched = fetch(f"{HEADER}2024-01-03,2,4,1,3,3\n2024-01-02,2,4,1,3,2\n2024-01-01,2,4,1,3,1\n")

    assert opened(fetched) == ["2024-01-01 00:00", "2024-01-02 00:00", "2024-01-03 00:00"]
    assert fetched.bars.ohlcv_TF[:, 4].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("days", "expected"), [((1, 2, 2), [1, 3]), ((2, 2, 1), [3, 1])], ids=["rising", "falling"])
def test_of_two_rows_for_one_time_the_later_written_stands(fetch, days, expected):
    """A file that runs backwards grows at its top."""
    rows = [f"2024-01-0{day},2,4,1,3,{volume}\n" for day, volume in zip(days, (1, 2, 3), strict=True)]

    fetched = fetch(HEADER + "".join(rows))

    assert fetched.bars.ohlcv_TF[:, 4].tolist() == expected


def test_a_date_stands_for_the_open_of_its_session(fetch):
    key = make_key(symbol="SPX/USD", timeframe="1d", calendar="XNYS")

    fetched = fetch(f"{HEADER}2018-11-21,2,4,1,3,5\n2018-11-22,2,4,1,3,5\n2018-11-23,2,4,1,3,5\n", key)

    assert opened(fetched) == ["2018-11-21 14:30", "2018-11-23 14:30"]
    assert [row.open_time for row in fetched.rejected] == [utc_ms("2018-11-22")]


def test_rows_that_are_no_bars_are_returned_with_their_reason(fetch):
    fetched = fetch(f"{HEADER}2024-01-01,2,4,1,3,5\n2024-01-02,2,1,1,3,5\n2024-01-03,2,,1,3,5\n2024-01-04,2\n")

    assert opened(fetched) == ["2024-01-01 00:00"]
    assert [(row.open_time, row.reason) for row in fetched.rejected] == [
        (utc_ms("2024-01-02"), "high must not be below open or close"),
        (utc_ms("2024-01-03"), "every value must be finite"),
        (utc_ms("2024-01-04"), "every value must be finite"),
    ]


@pytest.mark.parametrize("cell", ["", "NaN", "nan", "null", "NULL", "N/A", "NA"])
def test_a_cell_that_says_nothing_is_no_number_and_no_fault_of_the_file(fetch, cell):
    fetched = fetch(f"{HEADER}2024-01-01,2,4,1,{cell},5\n2024-01-02,2,4,1,3,5\n")

    assert opened(fetched) == ["2024-01-02 00:00"]
    assert [row.reason for row in fetched.rejected] == ["every value must be finite"]


def written(tmp_path: Path, count: int = 10) -> tuple[FileSource, np.ndarray]:
    bars = make_bars(count=count)
    bars.frame.to_csv(tmp_path / "bars.csv")
    return FileSource(tmp_path / "bars.csv"), bars.open_time


def test_since_is_included(tmp_path):
    source, opens = written(tmp_path)

    fetched = source.fetch(make_key(), int(opens[4]), EVER)

    assert fetched.bars.open_time.tolist() == opens[4:].tolist()
    assert len(source.fetch(make_key(), int(opens[4]) + 1, EVER).bars) == 5


def test_a_bar_is_given_when_it_has_closed(tmp_path):
    source, opens = written(tmp_path)
    close = int(opens[4]) + HOUR_MS

    counts = [len(source.fetch(make_key(), None, as_of).bars) for as_of in (close - 1, close, close + 1)]

    assert counts == [4, 5, 5]


def test_an_early_close_counts(fetch):
    """A session's date is no license to show it before its close."""
    key = make_key(symbol="SPX/USD", timeframe="1d", calendar="XNYS")
    content = f"{HEADER}2018-11-23,2,4,1,3,5\n"
    close = utc_ms("2018-11-23 18:00")

    assert len(fetch(content, key, as_of=close - 1).bars) == 0
    assert len(fetch(content, key, as_of=close).bars) == 1


def test_first_seen_is_when_it_was_asked_for(tmp_path):
    source, opens = written(tmp_path)
    as_of = int(opens[4])

    assert set(source.fetch(make_key(), None, as_of).bars.first_seen_at.tolist()) == {as_of}


def test_a_span_without_bars_gives_none(tmp_path):
    source, opens = written(tmp_path)

    assert len(source.fetch(make_key(), None, int(opens[0])).bars) == 0
    assert len(source.fetch(make_key(), EVER - DAY_MS, EVER).bars) == 0


@pytest.mark.parametrize(
    ("since", "as_of", "expected"),
    [
        ("2024-01-01", "2024-01-04 12:00", 3),
        ("2024-01-03", "2024-01-04 12:00", 1),
        ("2024-01-01", "2024-01-03 11:00", 1),
        ("2024-01-04", "2024-01-05", 0),
    ],
)
def test_rejected_rows_are_those_of_the_asked_span(fetch, since, as_of, expected):
    """One off the grid, which has no close, is shown once its length has passed."""
    content = f"{HEADER}2024-01-01,2,1,1,3,5\n2024-01-02 12:00,2,4,1,3,5\n2024-01-03 12:00,2,4,1,3,5\n"

    fetched = fetch(content, since=utc_ms(since), as_of=utc_ms(as_of))

    assert len(fetched.rejected) == expected


def test_the_same_question_has_the_same_answer(tmp_path):
    path = tmp_path / "bars.csv"
    path.write_text(f"{HEADER}2024-01-01,2,4,1,3,5\n2024-01-02,2,1,1,3,5\n")
    source = FileSource(path)

    first, second = (source.fetch(DAILY, None, EVER) for _ in range(2))

    assert first.bars.ohlcv_TF.tolist() == second.bars.ohlcv_TF.tolist()
    assert first.rejected == second.rejected != []


def test_the_file_is_read_at_the_first_question_and_kept(tmp_path):
    path = tmp_path / "bars.csv"
    source = FileSource(path)
    path.write_text(f"{HEADER}2024-01-01,2,4,1,3,5\n")

    first = source.fetch(DAILY, None, EVER)
    path.unlink()
    source.close()
    second = source.fetch(DAILY, None, EVER)

    assert opened(first) == opened(second) == ["2024-01-01 00:00"]


def test_a_file_that_was_mended_is_read(tmp_path):
    path = tmp_path / "bars.csv"
    source = FileSource(path)
    with pytest.raises(BadPayload):
        source.fetch(DAILY, None, EVER)

    path.write_text(f"{HEADER}2024-01-01,2,4,1,3,5\n")

    assert len(source.fetch(DAILY, None, EVER).bars) == 1


def test_threads_may_ask_at_once(tmp_path, monkeypatch):
    """And the file is read once for all of them."""
    source, opens = written(tmp_path, 200)
    reads = []
    read_csv = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda *args, **named: reads.append(args) or read_csv(*args, **named))

    with ThreadPoolExecutor(8) as pool:
        fetched = list(pool.map(lambda row: source.fetch(make_key(), int(opens[row]), EVER), range(200)))

    assert [len(one.bars) for one in fetched] == list(range(200, 0, -1))
    assert len(reads) == 1


def test_the_configuration_opens_it(tmp_path):
    (tmp_path / "bars.csv").write_text(f"{HEADER}2024-01-01,2,4,1,3,5\n")
    series = SeriesConfig(exchange="any", symbol="BTC/USD", timeframe="1d", file=tmp_path / "bars.csv")

    source = open_source(Config(series=(series,)), series, MemoryStore())

    assert len(source.fetch(series.key, None, EVER).bars) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER, "expected at least one row of a bar, found 'none'"),
        (f"{HEADER}\n\n", "expected at least one row of a bar, found 'none'"),
        ("", "expected columns open, high, low, close and a time such as open_time, timestamp or date, found []"),
        ("a,b\n1,2\n", "and a time such as open_time, timestamp or date, found ['a', 'b']"),
        ("date,open,high,low\n2024-01-01,2,4,1\n", "found ['date', 'open', 'high', 'low']"),
        ("open,high,low,close\n2,4,1,3\n", "found ['open', 'high', 'low', 'close']"),
        ("Made by hand\ndate,open,high,low\n2024-01-01,2,4,1\n", "found ['date', 'open', 'high', 'low']"),
        (f"{HEADER}2024-01-01,2,4,1,x,5\n", "expected a number for close in line 2, found 'x'"),
        (f"banner\n\n{HEADER}\n2024-01-01,2,4,1,3,5\n\n2024-01-02,2,4,1,3,much\n", "volume in line 7, found 'much'"),
        (f'{HEADER}2024-01-01,2,4,1,3,"1,000"\n', "expected a number for volume in line 2, found '1,000'"),
        (f"{HEADER}2024-01-01,2,4,1,3,5\n,2,4,1,3,5\n", "in s, ms, us or ns in line 3, found nan"),
        (
            f"{HEADER}1/4/1999,2,4,1,3,5\n",
            "expected an ISO date or an epoch in s, ms, us or ns in line 2, found '1/4/1999'",
        ),
        (f"{HEADER}2024-02-30,2,4,1,3,5\n", "in line 2, found '2024-02-30'"),
        (f"{HEADER}20240101,2,4,1,3,5\n", "in line 2, found '20240101'"),
        (f"{HEADER}now,2,4,1,3,5\n", "in line 2, found 'now'"),
        ("date,time,o,h,l,c\n2024-01-01,09:00:00,2,4,1,3\n", "in line 2, found '09:00:00'"),
        ("t,o,h,l,c\n1704186000,2,4,1,3\nlater,2,4,1,3\n1704189600,2,4,1,3\n", "in line 3, found 'later'"),
        (
            f"{HEADER}2024-01-01,2,4,1,3,5\n2024-01-02,2,4,1,3,5,6\n",
            "6 cells in line 3, found '2024-01-02,2,4,1,3,5,6'",
        ),
        (f"{HEADER}2024-01-01,2,4,1,3,5\n2024-01-02,2,4,1,3,5,6,7,8\n", "in line 3, saw 9"),
    ],
)
def test_a_csv_that_will_not_do_is_refused_by_name(fetch, content, expected):
    """With the line, where there is one, counted as editors do."""
    with pytest.raises(BadPayload) as refused:
        fetch(content)

    assert refused.value.source.endswith("bars.csv")
    assert expected in str(refused.value)


PRICES = {"open": [2.0], "high": [4.0], "low": [1.0], "close": [3.0]}


@pytest.mark.parametrize(
    "times",
    [
        pd.to_datetime(["2024-01-02"]),
        pd.to_datetime(["2024-01-02"]).tz_localize("UTC"),
        pd.to_datetime(["2024-01-02 09:00"]).tz_localize("Asia/Tokyo"),
        ["2024-01-02"],
        [dt.date(2024, 1, 2)],
        [1704153600],
        [1704153600000],
    ],
    ids=["naive", "UTC", "zone", "text", "date", "seconds", "milliseconds"],
)
@pytest.mark.parametrize("place", ["column", "index", "nameless index"])
def test_parquet_keeps_times_as_it_likes(fetch, times, place):
    frame = pd.DataFrame(PRICES | {"Date": times})
    if place != "column":
        frame = frame.set_index("Date").rename_axis("Date" if place == "index" else None)

    fetched = fetch(frame)

    assert opened(fetched) == ["2024-01-02 00:00"]
    assert fetched.bars.ohlcv_TF.tolist() == [[2, 4, 1, 3, 0]]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (PRICES, "and a time such as open_time, timestamp or date, found ['open', 'high', 'low', 'close']"),
        (PRICES | {"date": [None]}, "an ISO date or an epoch in s, ms, us or ns in row 0, found None"),
        (PRICES | {"date": ["2024-01-01"], "volume": ["much"]}, "a number for volume in row 0, found 'much'"),
        ({name: [] for name in (*PRICES, "date")}, "expected at least one row of a bar, found 'none'"),
    ],
)
def test_a_parquet_file_that_will_not_do_is_refused_by_name(fetch, columns, expected):
    with pytest.raises(BadPayload) as refused:
        fetch(pd.DataFrame(columns))

    assert expected in str(refused.value)


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "folder.csv", "damaged.parquet", "damaged.csv"])
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, name):
    """Not as a source that may be there later: asking again does not mend a path."""
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and then nothing")
    (tmp_path / "damaged.csv").write_bytes(HEADER.encode() + b"\xff\xfe\x00")

    with pytest.raises(BadPayload, match=r"expected a readable (csv|parquet) file, found") as refused:
        FileSource(tmp_path / name).fetch(DAILY, None, EVER)

    assert refused.value.source == str(tmp_path / name)


@pytest.mark.parametrize("name", ["bars.xlsx", "bars", "bars.gz"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(
        BadPayload, match=r"expected a file that ends in \.csv, \.parquet, \.pq, \.feather, \.json, found '"
    ):
        FileSource(tmp_path / name).fetch(DAILY, None, EVER)


def exported_as(path: Path, frame: pd.DataFrame) -> Path:
    """A file of this frame, in the shape that its name says."""
    epochs = frame.index.astype("datetime64[ms, UTC]").astype(np.int64)
    rows = [[int(time), *values] for time, values in zip(epochs, frame.to_numpy().tolist(), strict=True)]
    named = frame.reset_index().rename(columns={"open_time": "date"})
    if path.name == "feather.feather":  # freqtrade
        named.to_feather(path)
    elif path.name == "rows.json":  # ccxt, freqtrade
        path.write_text(json.dumps(rows))
    elif path.name == "rows.json.gz":
        path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    elif path.name == "records.json":
        path.write_text(json.dumps([dict(zip(("t", "o", "h", "l", "c", "v"), row, strict=True)) for row in rows]))
    elif path.name == "split.json":  # pandas
        path.write_text(json.dumps({"columns": ["timestamp", *frame.columns], "index": [], "data": rows}))
    elif path.name == "headless.csv":  # Binance's archive, in microseconds since 2025
        path.write_text("".join(f"{row[0] * 1000},{','.join(map(repr, row[1:]))},0,0,1,0,0,0\n" for row in rows))
    elif path.name == "packed.csv.gz":
        named.to_csv(path, index=False)
    elif path.name == "yfinance.csv":
        head = "Price,Close,High,Low,Open,Volume\nTicker,SPY,SPY,SPY,SPY,SPY\nDate,,,,,\n"
        lines = (f"{date.date()},{c!r},{h!r},{lo!r},{o!r},{v!r}\n" for date, o, h, lo, c, v in frame.itertuples())
        path.write_text(head + "".join(lines))
    else:  # yfinance, two tickers
        head = (
            "Price,Close,Close,High,High,Low,Low,Open,Open,Volume,Volume\nTicker" + ",SPY,BTC" * 5 + "\nDate" + "," * 10
        )
        columns = [frame[name] for name in ("close", "high", "low", "open", "volume")]
        cells = [",".join(f"1.0,{float(column.iloc[i])!r}" for column in columns) for i in range(len(frame))]
        dates = [str(time.date()) for time in frame.index]
        path.write_text("\n".join([head, *(f"{date},{cell}" for date, cell in zip(dates, cells, strict=True))]))
    return path


@pytest.mark.parametrize(
    "name",
    [
        "feather.feather",
        "rows.json",
        "rows.json.gz",
        "records.json",
        "split.json",
        "headless.csv",
        "packed.csv.gz",
        "yfinance.csv",
        "two tickers.csv",
    ],
)
def test_shapes_that_people_have(tmp_path, name):
    """The same bars, to the last bit, from each of them."""
    bars = make_bars(DAILY, 30)
    source = FileSource(exported_as(tmp_path / name, bars.frame))
    fetched = source.fetch(DAILY, None, EVER)

    assert fetched.bars.open_time.tolist() == bars.open_time.tolist()
    assert fetched.bars.ohlcv_TF.tolist() == bars.ohlcv_TF.tolist()
    assert fetched.rejected == []


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("7", "int"),
        ('{"a": 1}', "dict"),
        ("[[1, 2, 3]]", "open_time"),
        ('[{"time": 1}]', "time"),
        ("[1, 2", "expected a readable json file"),
        ("[]", "expected columns"),
    ],
)
def test_json_that_is_no_table_of_bars(tmp_path, content, found):
    path = tmp_path / "bars.json"
    path.write_text(content)
    with pytest.raises(BadPayload, match=found):
        FileSource(path).fetch(DAILY, None, EVER)


def guess_key(path: Path, *names: str):
    """The one series of a file."""
    (key,) = FileSource(path).guess_keys(*names)
    return key


def exported(folder: Path, key=DAILY, name="BTCUSDT_1d.csv", count=60, start="2024-01-01") -> Path:
    """A file of bars of this key."""
    path = folder / name
    make_bars(key, count, utc_ms(start)).frame.to_csv(path)
    return path


@pytest.mark.parametrize("timeframe", ["1m", "3m", "15m", "1h", "4h", "12h", "1d"])
def test_the_timeframe_is_guessed_from_the_times(tmp_path, timeframe):
    key = make_key(timeframe=timeframe)

    assert guess_key(exported(tmp_path, key, count=3000)) == make_key("file", timeframe=timeframe)


@pytest.mark.parametrize("timeframe", ["5m", "1h", "1d"])
def test_bars_of_new_york_are_told_from_those_of_venues_that_never_close(tmp_path, timeframe):
    """Without a weekend among them too: hours of the night belong to no session."""
    stocks = exported(tmp_path, make_key(timeframe=timeframe, calendar="XNYS"), "AAPL.csv")
    crypto = exported(tmp_path, make_key(timeframe=timeframe), "BTCUSDT.csv", count=100)

    assert guess_key(stocks).calendar == "XNYS"
    assert guess_key(crypto).calendar == "24/7"


def test_rows_in_any_order_and_gaps_do_not_change_the_guess(tmp_path):
    """The commonest distance counts, not the first, and of rows in the order of time."""
    path = tmp_path / "BTCUSDT.csv"
    frame = make_bars(make_key(timeframe="4h"), count=100).frame.iloc[np.r_[0, 2, 5:100]]
    frame.sample(frac=1, random_state=1).to_csv(path)

    assert str(guess_key(path).timeframe) == "4h"


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTCUSDT_1d.csv", "BTC/USDT"),
        ("BTCUSD_1h_coinbase.csv", "BTC/USD"),
        ("ETHBTC-4h.csv", "ETH/BTC"),
        ("btc_usdt_15min.csv", "BTC/USDT"),
        ("1h btc-eur.csv", "BTC/EUR"),
        ("SOL.csv", "SOL/USD"),
        ("USDT.csv", "USDT/USD"),
        ("my own bars.csv", "MY-OWN-BARS/USD"),
        ("1h.csv", "1H/USD"),
        ("_.csv", "FILE/USD"),
    ],
)
def test_the_symbol_is_read_from_the_name(tmp_path, name, symbol):
    assert guess_key(exported(tmp_path, name=name)).symbol == symbol


def test_a_stock_is_not_cut_at_the_letters_of_a_currency(tmp_path):
    """CUSD on New York's calendar is no pair of C and USD."""
    assert guess_key(exported(tmp_path, make_key(timeframe="1d", calendar="XNYS"), "CUSD_1d.csv")).symbol == "CUSD/USD"


def test_what_is_given_is_not_guessed(tmp_path):
    """Not even where the times would fit no timeframe."""
    path = tmp_path / "weekly.csv"
    make_bars(DAILY, 70).frame.iloc[::7].to_csv(path)

    key = guess_key(path, "1d", "XNYS")

    assert (str(key.timeframe), key.calendar) == ("1d", "XNYS")


@pytest.mark.parametrize(("offset", "shown"), [("+08:00", r"UTC\+8"), ("+05:30", r"UTC\+5\.5")])
def test_days_that_begin_in_the_east_need_a_calendar(tmp_path, offset, shown):
    """They are neither New York's nor those of a venue that never closes: a guess would keep no bar, or wrong ones."""
    path = tmp_path / "9999.csv"
    days = pd.bdate_range("2024-01-01", periods=60).strftime("%Y-%m-%d")
    path.write_text(HEADER + "".join(f"{day} 00:00:00{offset},2,4,1,3,5\n" for day in days))
    with pytest.raises(
        BadPayload, match=rf"the calendar to be named .* found 'days that begin at midnight of {shown}'"
    ):
        guess_key(path)

    assert guess_key(path, None, "XHKG").calendar == "XHKG"


def test_midnights_of_new_york_are_its_days(tmp_path):
    """As yfinance writes them, summer and winter."""
    path = tmp_path / "AAPL.csv"
    key = make_key(timeframe="1d", calendar="XNYS")
    frame = make_bars(key, 120, utc_ms("2024-01-02")).frame.tz_convert("America/New_York")
    frame.set_axis(frame.index.normalize().rename("Date")).to_csv(path)

    assert guess_key(path) == make_key("file", "AAPL/USD", "1d", "XNYS")
    assert len(FileSource(path).fetch(guess_key(path), None, EVER).bars) == 120


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["2024-01-01"], "two rows or more, to tell the timeframe, found 1"),
        (["2024-01-01", "2024-01-01"], "two rows or more, to tell the timeframe, found 1"),
        (["2024-01-01", "2024-01-08", "2024-01-15"], "times apart by one of 1m, .* 1d, found '604800 s'"),
        (["2024-01-01 00:00:00", "2024-01-01 00:00:20"], "times apart by one of 1m, .* 1d, found '20 s'"),
        (["2024-01-01 00:00:00", "2024-01-01 00:01:01"], "times apart by whole minutes, found '61 s'"),
        (["2024-01-01 00:00", "2024-01-01 00:07"], "times apart by one of 1m, .* 1d, found '420 s'"),
    ],
    ids=["one row", "one time", "weeks", "seconds", "a minute and a second", "seven minutes"],
)
def test_times_of_no_timeframe_are_refused(tmp_path, rows, message):
    path = tmp_path / "bars.csv"
    path.write_text(HEADER + "".join(f"{row},2,4,1,3,5\n" for row in rows))

    with pytest.raises(BadPayload, match=message):
        guess_key(path)


@pytest.mark.parametrize("symbol", ["SPX", "IXIC"])
def test_bundled_files_are_guessed(symbol):
    path = Path(__file__).resolve().parents[2] / "trainingdata" / f"{symbol}_USD_1d.csv"

    assert guess_key(path) == make_key("file", f"{symbol}/USD", "1d", "XNYS")
