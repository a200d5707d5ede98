"""Files as a source of bars: spans, closes, symbols and rejected rows."""

from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forecaster.config import Config, SeriesConfig
from forecaster.errors import BadPayload, UnknownSymbol
from forecaster.sources import Fetched, open_source
from forecaster.sources.files import FileSource
from forecaster.store.memory import MemoryStore
from forecaster.tables import ParseOptions
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
    """Return open times as text."""
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


def test_rows_may_run_backwards(fetch):
    fetched = fetch(f"{HEADER}2024-01-03,2,4,1,3,3\n2024-01-02,2,4,1,3,2\n2024-01-01,2,4,1,3,1\n")

    assert opened(fetched) == ["2024-01-01 00:00", "2024-01-02 00:00", "2024-01-03 00:00"]
    assert fetched.bars.ohlcv_TF[:, 4].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("days", "expected"), [((1, 2, 2), [1, 3]), ((2, 2, 1), [3, 1])], ids=["rising", "falling"])
def test_the_later_row_of_one_time_wins(fetch, days, expected):
    """In a file with the newest first, the upper row wins."""
    rows = [f"2024-01-0{day},2,4,1,3,{volume}\n" for day, volume in zip(days, (1, 2, 3), strict=True)]

    fetched = fetch(HEADER + "".join(rows))

    assert fetched.bars.ohlcv_TF[:, 4].tolist() == expected


def test_a_date_stands_for_the_open_of_its_session(fetch):
    key = make_key(symbol="SPX/USD", timeframe="1d", calendar="XNYS")

    fetched = fetch(f"{HEADER}2018-11-21,2,4,1,3,5\n2018-11-22,2,4,1,3,5\n2018-11-23,2,4,1,3,5\n", key)

    assert opened(fetched) == ["2018-11-21 14:30", "2018-11-23 14:30"]
    assert [row.open_time for row in fetched.rejected] == [utc_ms("2018-11-22")]


def test_rejected_rows_are_returned_with_their_reason(fetch):
    fetched = fetch(f"{HEADER}2024-01-01,2,4,1,3,5\n2024-01-02,2,1,1,3,5\n2024-01-03,2,,1,3,5\n2024-01-04,2\n")

    assert opened(fetched) == ["2024-01-01 00:00"]
    assert [(row.open_time, row.reason) for row in fetched.rejected] == [
        (utc_ms("2024-01-02"), "high must not be below open or close"),
        (utc_ms("2024-01-03"), "every value must be finite"),
        (utc_ms("2024-01-04"), "every value must be finite"),
    ]


def written(tmp_path: Path, count: int = 10) -> tuple[FileSource, np.ndarray]:
    bars = make_bars(count=count)
    bars.frame.to_csv(tmp_path / "bars.csv")
    return FileSource(tmp_path / "bars.csv"), bars.open_time


def test_since_is_included(tmp_path):
    source, opens = written(tmp_path)

    fetched = source.fetch(make_key(), int(opens[4]), EVER)

    assert fetched.bars.open_time.tolist() == opens[4:].tolist()
    assert len(source.fetch(make_key(), int(opens[4]) + 1, EVER).bars) == 5


def test_a_bar_is_returned_once_it_has_closed(tmp_path):
    source, opens = written(tmp_path)
    close = int(opens[4]) + HOUR_MS

    counts = [len(source.fetch(make_key(), None, as_of).bars) for as_of in (close - 1, close, close + 1)]

    assert counts == [4, 5, 5]


def test_an_early_close_counts(fetch):
    """A session is not returned before its close."""
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
def test_rejected_rows_are_those_of_the_span(fetch, since, as_of, expected):
    """A row off the grid is returned once its length has passed."""
    good = "".join(f"2023-12-{day},2,4,1,3,5\n" for day in range(10, 31))
    content = f"{HEADER}{good}2024-01-01,2,1,1,3,5\n2024-01-02 12:00,2,4,1,3,5\n2024-01-03 12:00,2,4,1,3,5\n"

    fetched = fetch(content, since=utc_ms(since), as_of=utc_ms(as_of))

    assert len(fetched.rejected) == expected


def test_the_same_call_returns_the_same_bars(tmp_path):
    path = tmp_path / "bars.csv"
    path.write_text(f"{HEADER}2024-01-01,2,4,1,3,5\n2024-01-02,2,1,1,3,5\n")
    source = FileSource(path)

    first, second = (source.fetch(DAILY, None, EVER) for _ in range(2))

    assert first.bars.ohlcv_TF.tolist() == second.bars.ohlcv_TF.tolist()
    assert first.rejected == second.rejected != []


def test_the_file_is_read_at_the_first_call_and_kept(tmp_path):
    path = tmp_path / "bars.csv"
    source = FileSource(path)
    path.write_text(f"{HEADER}2024-01-01,2,4,1,3,5\n")

    first = source.fetch(DAILY, None, EVER)
    path.unlink()
    source.close()
    second = source.fetch(DAILY, None, EVER)

    assert opened(first) == opened(second) == ["2024-01-01 00:00"]


def test_a_repaired_file_is_read(tmp_path):
    path = tmp_path / "bars.csv"
    source = FileSource(path)
    with pytest.raises(BadPayload):
        source.fetch(DAILY, None, EVER)

    path.write_text(f"{HEADER}2024-01-01,2,4,1,3,5\n")

    assert len(source.fetch(DAILY, None, EVER).bars) == 1


def test_threads_may_fetch_at_once(tmp_path, monkeypatch):
    """The file is read only once."""
    source, opens = written(tmp_path, 200)
    reads = []
    read_csv = pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda *args, **named: reads.append(args) or read_csv(*args, **named))

    with ThreadPoolExecutor(8) as pool:
        fetched = list(pool.map(lambda row: source.fetch(make_key(), int(opens[row]), EVER), range(200)))

    assert [len(result.bars) for result in fetched] == list(range(200, 0, -1))
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
        ("a,b\n1,2\n", "expected columns open, high, low, close and a time"),
        (f"banner\n\n{HEADER}\n2024-01-01,2,4,1,3,5\n\n2024-01-02,2,4,1,3,much\n", "volume in line 7, found 'much'"),
        (f"{HEADER}2024-01-01,2,4,1,3,5\n,2,4,1,3,5\n", "an ISO date or an epoch in s, ms, us or ns in line 3, found"),
        (pd.DataFrame({"date": ["soon"], "o": 2, "h": 4, "l": 1, "c": 3}), "or ns in row 0, found 'soon'"),
    ],
    ids=["no row", "other columns", "a word for a number", "no time", "a frame"],
)
def test_an_unusable_file_is_rejected_by_name(fetch, content, expected):
    """With the line or row number."""
    with pytest.raises(BadPayload) as refused:
        fetch(content)

    assert Path(refused.value.source).stem == "bars"
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
def test_parquet_times_of_any_type_are_read(fetch, times, place):
    frame = pd.DataFrame(PRICES | {"Date": times})
    if place != "column":
        frame = frame.set_index("Date").rename_axis("Date" if place == "index" else None)

    fetched = fetch(frame)

    assert opened(fetched) == ["2024-01-02 00:00"]
    assert fetched.bars.ohlcv_TF[:, :4].tolist() == [[2, 4, 1, 3]]
    assert np.isnan(fetched.bars.ohlcv_TF[:, 4]).all()


def exported_as(path: Path, frame: pd.DataFrame) -> Path:
    """Write a frame in the format of the suffix."""
    if path.name == "freqtrade.feather":
        frame.reset_index().rename(columns={"open_time": "date"}).to_feather(path)
    elif path.name == "ccxt.json":
        epochs = frame.index.astype("datetime64[ms, UTC]").astype(np.int64).tolist()
        path.write_text(json.dumps([[time, *row] for time, row in zip(epochs, frame.to_numpy().tolist(), strict=True)]))
    else:  # yfinance, of two tickers, one of which began later
        tickers = {"SPY": frame.assign(**dict.fromkeys(frame.columns, np.nan)), "BTC": frame}
        tickers["SPY"].iloc[10:] = 1.0
        wide = pd.concat(tickers, axis=1, names=["Ticker", "Price"]).swaplevel(axis=1)
        wide.set_axis(frame.index.date, axis=0).rename_axis("Date").rename(columns=str.capitalize, level=0).to_csv(path)
    return path


@pytest.mark.parametrize("name", ["freqtrade.feather", "ccxt.json", "yfinance.csv"])
def test_common_file_structures(tmp_path, name):
    """The same bars, to the last bit."""
    bars = make_bars(DAILY, 30)

    fetched = FileSource(exported_as(tmp_path / name, bars.frame)).fetch(DAILY, None, EVER)

    assert fetched.bars.open_time.tolist() == bars.open_time.tolist()
    assert fetched.bars.ohlcv_TF.tolist() == bars.ohlcv_TF.tolist()
    assert fetched.rejected == []


def test_symbols_in_wide_format_may_begin_later(tmp_path):
    source = FileSource(exported_as(tmp_path / "yfinance.csv", make_bars(DAILY, 30).frame))

    fetched = source.fetch(make_key("any", "SPY/USD", "1d"), None, EVER)

    assert len(fetched.bars) == 20
    assert fetched.rejected == []


@pytest.fixture
def named(tmp_path):
    """Write and open a file of bars with these symbol names; the volume is their position."""

    def named(*names: str, **options) -> FileSource:
        frames = [make_bars(DAILY, 3).frame.assign(volume=place, symbol=name) for place, name in enumerate(names)]
        pd.concat(frames).to_csv(tmp_path / "bars.csv")
        return FileSource(tmp_path / "bars.csv", ParseOptions(**options))

    return named


@pytest.mark.parametrize(
    ("names", "symbol", "place"),
    [
        (["BTCUSD"], "BTC/USD", 0),
        (["BTCUSD"], "BTC/USDT", 0),
        (["BTC-USDT"], "BTC/USD", 0),
        (["XXBTZUSD"], "BTC/USD", 0),
        (["X:ETHUSD"], "ETH/USDT:USDT", 0),
        (["ETHBTC", "BTCUSDT"], "BTC/USDT", 1),
        (["BTC/USD", "BTC/EUR"], "BTC/EUR", 1),
        (["ABC.US", "XYZ.US"], "XYZ/USD", 1),
        (["XYZ.L", "L"], "L/USD", 1),
        (["BRK.B", "B"], "B/USD", 1),
        (["BRK.B", "B"], "BRK-B/USD", 0),
        (["ABC.US", "ABC.DE"], "ABC-DE/EUR", 1),
    ],
)
def test_names_of_venues_are_recognised(named, names, symbol, place):
    """The dollar has many names; a full name wins over a part."""
    fetched = named(*names).fetch(make_key("any", symbol, "1d"), None, EVER)

    assert fetched.bars.ohlcv_TF[:, 4].tolist() == [place] * 3


@pytest.mark.parametrize(
    ("names", "symbol"),
    [
        (["SPY"], "BTC/USDT"),
        (["BTCUSD"], "BTC/EUR"),
        (["BTCUSD"], "BTC/ETH"),
        (["BTC/USD", "ETH/USD"], "BTC/USDT"),
        (["ABC.US", "ABC.DE"], "ABC/USD"),
    ],
)
def test_a_missing_symbol_is_rejected(named, names, symbol):
    with pytest.raises(UnknownSymbol, match=f"expected one of its {len(names)} symbols, found '{symbol}'; similar"):
        named(*names).fetch(make_key("any", symbol, "1d"), None, EVER)


def test_a_column_without_symbols_is_ignored_by_option(named):
    fetched = named("spot", symbol_column="").fetch(DAILY, None, EVER)

    assert len(fetched.bars) == 3
