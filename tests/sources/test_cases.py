"""Common files and frames: all bars are read, or the file is rejected with a reason."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest

from forecaster.bars import Bars, SeriesKey, ValidatedRows
from forecaster.errors import Ambiguous, BadPayload, InvalidArgument, InvalidBars, SourceError, UnknownSymbol
from forecaster.sources.files import FileSource
from forecaster.tables import COLUMNS, FIELDS, ParseOptions
from tests.builders import HOUR_MS, make_key, utc_ms

EVER = utc_ms("2100-01-01")
HOURS = pd.date_range("2024-01-01", periods=60, freq="h")
DAYS = pd.date_range("2024-01-01", periods=120, freq="D")
COUNT = 60
NAMES = "open,high,low,close,volume"


def make_rows(count: int = COUNT, start: float = 2430.0, digits: int = 2) -> list[list[float]]:
    """Return a random walk: open, high, low, close and volume of each row."""
    random = np.random.default_rng(count)
    close = (start * np.exp(np.cumsum(random.normal(0, 0.004, count)))).round(digits)
    open_ = np.concatenate([[start], close[:-1]])[:count]
    high = np.maximum(open_, close) + (start * random.uniform(1e-4, 2e-3, count)).round(digits)
    low = np.minimum(open_, close) - (start * random.uniform(1e-4, 2e-3, count)).round(digits)
    return np.column_stack([open_, high, low, close, random.integers(1, 9000, count)]).round(digits).tolist()


def make_csv(header: str, times, rows: list[list[object]], mark: str = ",") -> str:
    """Return a csv text: an optional header, then time and cells of each row."""
    lines = [mark.join(map(str, [time, *row])) for time, row in zip(times, rows, strict=True)]
    return "\n".join([*([header] if header else []), *lines, ""])


@pytest.fixture
def source(tmp_path):
    """Write a file and open it with these options."""

    def source(content: str | bytes | pd.DataFrame, name: str = "BTCUSDT.csv", **options) -> FileSource:
        path = tmp_path / name
        if isinstance(content, pd.DataFrame):
            content.to_parquet(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return FileSource(path, ParseOptions(**options))

    return source


def inspect(source: FileSource, **given: str) -> ValidatedRows:
    """Read the inferred series of a file, as `bars inspect` does."""
    (inferred,) = source.infer_series(**given)
    return source.validate_rows(inferred.key, EVER)


def read(source: FileSource, timeframe: str = "1h", calendar: str = "24/7", symbol: str = "BTC/USDT") -> ValidatedRows:
    return source.validate_rows(make_key("any", symbol, timeframe, calendar), EVER)


def opens(bars: Bars) -> list[str]:
    """Return open times as text."""
    return [str(time)[:16].replace("T", " ") for time in bars.open_time.astype("datetime64[ms]")]


# Dialects.

FX = make_rows(start=1.1, digits=5)
GMT_HOURS = pd.date_range("2024-01-02", periods=COUNT, freq="h")
GMT_DAYS = pd.date_range("2024-01-02", periods=COUNT, freq="D")
WEEKDAYS = pd.bdate_range("2024-01-02", periods=COUNT)
BTC = make_rows()


MT5 = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>"
MT5_ROWS = [[*row, 0, 2] for row in FX]
LOCAL = {
    "mt4": ("EURUSD60.csv", make_csv("", GMT_HOURS.strftime("%Y.%m.%d,%H:%M"), FX)),
    "mt5": ("EURUSD_H1.csv", make_csv(MT5, GMT_HOURS.strftime("%Y.%m.%d\t%H:%M:%S"), MT5_ROWS, "\t")),
    "mt5 in utf-16": (
        "EURUSD_H1.csv",
        make_csv(MT5, GMT_HOURS.strftime("%Y.%m.%d\t%H:%M:%S"), MT5_ROWS, "\t").encode("utf-16"),
    ),
    "histdata": (
        "EURUSD_M1.csv",
        make_csv("", pd.date_range("2024-01-02 17:00", periods=COUNT, freq="min").strftime("%Y%m%d %H%M%S"), FX, ";"),
    ),
}


@pytest.mark.parametrize("name", LOCAL)
def test_local_times_of_trading_programs_need_a_zone(source, name):
    """MetaTrader writes broker time, HistData New York's winter time."""
    path, text = LOCAL[name]

    with pytest.raises(Ambiguous, match="--timezone") as refused:
        inspect(source(text, path))
    assert refused.value.option == "timezone"

    validated = inspect(source(text, path, timezone="EST"))
    first = "2024-01-02 22:00" if name == "histdata" else "2024-01-02 05:00"
    assert (len(validated.bars), opens(validated.bars)[0], validated.rejected) == (COUNT, first, [])
    assert validated.bars.ohlcv_TF[:, :4].tolist() == [row[:4] for row in FX]


DIALECTS = {
    "stooq, Polish": (
        "btc_d.csv",
        make_csv("Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen", GMT_DAYS.date, BTC),
    ),
    "stooq, database": (
        "abc.csv",
        make_csv(
            "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>",
            (f"ABC.US,D,{day}000000" for day in GMT_DAYS.strftime("%Y%m%d,")),
            [[*row, 0] for row in BTC],
        ),
    ),
    "bigquery": ("btc.csv", make_csv(f"time,{NAMES}", (f"{day} UTC" for day in GMT_DAYS.strftime("%Y-%m-%d %X")), BTC)),
    "dukascopy": (
        "BTCUSD_H1.csv",
        make_csv("Gmt time,Open,High,Low,Close,Volume", GMT_HOURS.strftime("%d.%m.%Y %H:%M:%S.000"), BTC),
    ),
    "semicolons": (
        "btc.csv",
        make_csv(
            "Datum;Open;High;Low;Close;Volume",
            GMT_DAYS.strftime("%d.%m.%Y"),
            [[str(value).replace(".", ",") for value in row] for row in BTC],
            ";",
        ),
    ),
    "investing, newest first": (
        "btc.csv",
        "\ufeff"
        + make_csv(
            '"Date","Price","Open","High","Low","Vol.","Change %"',
            GMT_DAYS[::-1].strftime('"%m/%d/%Y"'),
            [
                [*(f'"{price:,.2f}"' for price in (c, o, h, low)), f'"{v / 100:.2f}M"', '"0.11%"']
                for o, h, low, c, v in BTC[::-1]
            ],
        ),
    ),
    "nasdaq, newest first": (
        "btc.csv",
        make_csv(
            "Date,Close/Last,Volume,Open,High,Low",
            GMT_DAYS[::-1].strftime("%m/%d/%Y"),
            [[f"${c}", f"{v:.0f}", f"${o}", f"${h}", f"${low}"] for o, h, low, c, v in BTC[::-1]],
        ),
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_unambiguous_dialects_are_read(source, name):
    path, text = DIALECTS[name]

    validated = inspect(source(text, path))

    assert (len(validated.bars), validated.rejected, validated.replaced, validated.unclosed) == (COUNT, [], 0, 0)
    assert opens(validated.bars)[0] == "2024-01-02 00:00"
    assert validated.bars.ohlcv_TF[:, :4].tolist() == [row[:4] for row in BTC]


# Shapes of json.

EPOCHS = [int(time.timestamp()) for time in HOURS]
ALPACA = [
    {"t": f"{time.isoformat()}Z", "o": o, "h": h, "l": low, "c": c, "v": v, "n": 3, "vw": c}
    for time, (o, h, low, c, v) in zip(HOURS, BTC, strict=True)
]
SHAPES = {
    "alpaca": {"bars": {"BTC/USD": ALPACA}, "next_page_token": None},
    "polygon": {
        "ticker": "X:BTCUSD",
        "resultsCount": COUNT,
        "results": [{**row, "t": 1000 * time} for row, time in zip(ALPACA, EPOCHS, strict=True)],
    },
    "kraken": {
        "error": [],
        "result": {
            "XXBTZUSD": [
                [time, *map(str, row[:4]), str(row[3]), str(row[4]), 7] for time, row in zip(EPOCHS, BTC, strict=True)
            ],
            "last": EPOCHS[-1],
        },
    },
    "pandas": {
        name: {f"{time}000": value for time, value in zip(EPOCHS, values, strict=True)}
        for name, values in zip(COLUMNS, zip(*BTC, strict=True), strict=True)
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_json(source, name):
    validated = inspect(source(json.dumps(SHAPES[name]), "btc.json"))

    assert (len(validated.bars), opens(validated.bars)[0], validated.rejected) == (COUNT, "2024-01-01 00:00", [])
    assert validated.bars.ohlcv_TF.tolist() == BTC


def test_json_of_one_object_a_line(source):
    lines = [
        json.dumps(dict(zip(["time", *COLUMNS], [time, *row], strict=True)))
        for time, row in zip(EPOCHS, BTC, strict=True)
    ]

    validated = inspect(source("\n".join(lines), "btc.json"))

    assert (len(validated.bars), opens(validated.bars)[0]) == (COUNT, "2024-01-01 00:00")


def test_an_archive_of_one_file(source):
    """Binance's archive: twelve unnamed columns, microseconds, in a zip file."""
    rows = [f"{1_000_000 * time},{','.join(map(str, row))},0,0,0,0,0,0" for time, row in zip(EPOCHS, BTC, strict=True)]
    single, double = io.BytesIO(), io.BytesIO()
    for packed, members in ((single, ["BTCUSDT-1h.csv"]), (double, ["a.csv", "b.csv"])):
        with zipfile.ZipFile(packed, "w") as archive:
            for member in members:
                archive.writestr(member, "\n".join(rows))

    validated = inspect(source(single.getvalue(), "BTCUSDT-1h-2024-01.zip"))

    assert (len(validated.bars), opens(validated.bars)[0], validated.rejected) == (COUNT, "2024-01-01 00:00", [])
    with pytest.raises(BadPayload, match=r"a\.csv.*b\.csv"):
        inspect(source(double.getvalue(), "BTCUSDT.zip"))


# Columns.


@pytest.mark.parametrize(
    ("order", "rows"), [("low,high,open,close", [2, 1, 0, 3]), ("open,close,high,low", [0, 3, 1, 2])]
)
def test_rows_without_names_in_another_order_are_rejected(source, order, rows):
    """Coinbase's and Bitfinex's: newest first."""
    content = [[time, *(row[place] for place in rows), row[4]] for time, row in zip(EPOCHS, BTC, strict=True)]

    with pytest.raises(Ambiguous, match=f"--columns open_time,{order},volume"):
        inspect(source(json.dumps(content[::-1]), "BTC-USD_1h.json"))

    columns = ("open_time", *order.split(","), "volume")
    assert inspect(source(json.dumps(content[::-1]), "btc.json", columns=columns)).bars.ohlcv_TF.tolist() == BTC


def test_a_date_and_an_hour_are_joined(source):
    hours = pd.date_range("2024-05-01", periods=168, freq="h")
    times = [f"{time:%Y-%m-%d},{time.hour}" for time in hours]

    validated = inspect(source(make_csv("Date,Hour,Open,High,Low,Close,Volume", times, make_rows(168))))

    assert (len(validated.bars), validated.replaced, validated.rejected) == (168, 0, [])
    assert opens(validated.bars)[-1] == "2024-05-07 23:00"


@pytest.mark.parametrize("empty", ["", "NaN", "-", "null", "N/A"])
def test_an_unknown_volume_rejects_no_bar(source, empty):
    rows = [[*row[:4], empty] for row in BTC]

    validated = inspect(source(make_csv(f"time,{NAMES}", EPOCHS, rows), "TVC_INDEX, 60.csv"))

    assert (len(validated.bars), validated.rejected) == (COUNT, [])
    assert np.isnan(validated.bars.ohlcv_TF[:, 4]).all()


def test_a_volume_of_null_in_rows_of_json(source):
    rows = [[time, *map(str, row[:4]), None, time] for time, row in zip(EPOCHS, BTC, strict=True)]

    validated = inspect(source(json.dumps(rows), "klines.json"))

    assert len(validated.bars) == COUNT
    assert np.isnan(validated.bars.ohlcv_TF[:, 4]).all()


def test_several_symbols_in_one_file(source):
    """Two series, separated by a column; other symbols are an error."""
    days = pd.bdate_range("2023-03-01", periods=104)
    days = days[~days.isin(pd.to_datetime(["2023-04-07", "2023-05-29", "2023-06-19", "2023-07-04"]))]
    both = [("AAA", days, make_rows(len(days), 45)), ("ZZZ", days[10:], make_rows(len(days) - 10, 160))]
    lines = [
        ",".join([f"{day:%Y-%m-%d}", *map(str, row), name])
        for name, dates, rows in both
        for day, row in zip(dates, rows, strict=True)
    ]
    stocks = source("\n".join([f"date,{NAMES},Name", *lines]), "all_stocks.csv")

    guessed = [guess.key for guess in stocks.infer_series()]
    bars = {symbol: read(stocks, "1d", "XNYS", f"{symbol}/USD").bars for symbol in ("AAA", "ZZZ")}

    assert [(key.symbol, key.calendar) for key in guessed] == [("AAA/USD", "XNYS"), ("ZZZ/USD", "XNYS")]
    for name, dates, rows in both:
        assert len(bars[name]) == len(dates)
        assert bars[name].ohlcv_TF.tolist() == rows
    with pytest.raises(UnknownSymbol):
        read(stocks, "1d", "XNYS", "BBB/USD")


def test_prices_within_rounding_are_bars(source):
    """Adjusted prices: the close is above the high by the last bit."""
    rows = make_rows(120, 54.8)
    for row in rows[::4]:
        row[1] = max(row[0], row[3])
        row[3] = float(np.nextafter(row[1], np.inf))

    validated = read(source(make_csv(f"Date,{NAMES}", DAYS.date, rows)), "1d")

    assert (len(validated.bars), validated.rejected) == (120, [])
    assert any("rounding" in note for note in validated.notes)


# Times.


@pytest.mark.parametrize(("form", "frequency", "timeframe"), [("%Y%m%d%H%M%S", "D", "1d"), ("%Y%m%d%H%M", "h", "1h")])
def test_compact_digits_are_dates(source, form, frequency, timeframe):
    times = pd.date_range("2024-01-01", periods=120, freq=frequency)

    validated = inspect(source(make_csv(f"timestamp,{NAMES}", times.strftime(form), make_rows(120))))

    assert (str(validated.bars.key.timeframe), len(validated.bars), validated.rejected, validated.unclosed) == (
        timeframe,
        120,
        [],
        0,
    )
    assert opens(validated.bars)[0] == "2024-01-01 00:00"


def test_rows_that_have_not_closed_are_counted(source):
    content = make_csv(f"time,{NAMES}", HOURS, BTC)

    validated = source(content).validate_rows(make_key(), EPOCHS[50] * 1000)

    assert (len(validated.bars), validated.unclosed) == (50, 10)


@pytest.mark.parametrize("hour", [6, 16])
def test_days_that_begin_at_another_hour_need_the_anchor(source, hour):
    text = make_csv(f"timestamp,{NAMES}", (f"{day:%Y-%m-%d} {hour:02}:00:00+00:00" for day in DAYS), make_rows(120))

    with pytest.raises((SourceError, InvalidBars), match=rf"{hour:02}:00.*day.anchor|day.anchor.*{hour:02}:00"):
        inspect(source(text))

    validated = inspect(source(text), day_anchor=f"{hour:02}:00")
    assert (len(validated.bars), validated.bars.key.calendar, validated.rejected) == (120, f"24/7@{hour:02}:00", [])
    assert opens(validated.bars)[0] == f"2024-01-01 {hour:02}:00"


def test_a_repeated_hour_needs_a_zone(source):
    """Minutes of a night in which New York's clocks go back."""
    times = pd.date_range("2024-11-03 04:00", periods=300, freq="min", tz="UTC").tz_convert("America/New_York")
    text = make_csv(f"time,{NAMES}", times.strftime("%Y-%m-%d %H:%M:%S"), make_rows(300, 68000.0))

    with pytest.raises(Ambiguous, match="--timezone"):
        inspect(source(text))

    validated = inspect(source(text, timezone="America/New_York"))
    assert (len(validated.bars), validated.replaced, validated.rejected) == (300, 0, [])
    assert (opens(validated.bars)[0], opens(validated.bars)[-1]) == ("2024-11-03 04:00", "2024-11-03 08:59")


def test_local_times_of_new_york_need_a_zone(source):
    """Over the start of daylight saving time."""
    days = ["2025-03-06", "2025-03-07", "2025-03-10", "2025-03-11"]
    times = [time for day in days for time in pd.date_range(f"{day} 09:30", periods=78, freq="5min")]
    text = make_csv(f"datetime,{NAMES}", times, make_rows(312, 570.0))

    with pytest.raises(Ambiguous, match="--timezone"):
        inspect(source(text, "SPY_5min.csv"))
    with pytest.raises(Ambiguous, match="--timezone America/New_York"):
        inspect(source(text, "SPY_5min.csv"), calendar="XNYS")

    validated = inspect(source(text, "SPY_5min.csv", timezone="America/New_York"), calendar="XNYS")
    assert (len(validated.bars), validated.rejected) == (312, [])
    assert opens(validated.bars)[0] == "2025-03-06 14:30"
    assert opens(validated.bars)[156] == "2025-03-10 13:30"


# Calendars.


def make_days(start: str, end: str, *holidays: str) -> pd.DatetimeIndex:
    """Return weekdays without holidays."""
    days = pd.bdate_range(start, end)
    return days[~days.isin(pd.to_datetime(list(holidays)))]


GERMAN = make_days(
    *("2023-01-02", "2024-01-08"),
    *("2023-04-07", "2023-04-10", "2023-05-01", "2023-12-25", "2023-12-26", "2024-01-01"),
)
CHINESE = make_days(
    *("2023-01-03", "2023-06-30"),
    *("2023-01-23", "2023-01-24", "2023-01-25", "2023-04-05", "2023-04-07", "2023-04-10"),
    *("2023-05-01", "2023-05-26", "2023-06-22"),
)


def test_weekdays_with_holidays_that_are_not_new_york_s_need_the_calendar(source):
    text = make_csv(f"Date,{NAMES}", GERMAN.date, make_rows(len(GERMAN), 190.0))

    with pytest.raises(Ambiguous, match="--calendar"):
        inspect(source(text, "ABC.DE_1d.csv"))

    validated = inspect(source(text, "ABC.DE_1d.csv"), calendar="XFRA")
    assert (len(validated.bars), validated.rejected) == (260, [])


def test_midnights_of_hong_kong_are_sessions_of_their_dates(source):
    text = make_csv(
        f"Date,{NAMES}", (f"{day:%Y-%m-%d} 00:00:00+08:00" for day in CHINESE), make_rows(len(CHINESE), 30.0)
    )

    with pytest.raises(Ambiguous, match="--calendar"):
        inspect(source(text, "9999.HK_1d.csv"))

    validated = inspect(source(text, "9999.HK_1d.csv"), calendar="XHKG")
    assert (len(validated.bars), validated.rejected) == (120, [])
    assert opens(validated.bars)[0] == "2023-01-03 01:30"


def test_full_hours_are_distinguished_from_session_hours(source):
    days = make_days("2024-01-02", "2024-03-06", "2024-01-15", "2024-02-19")
    times = [f"{day:%Y-%m-%d}T{hour}:00:00Z" for day in days for hour in range(14, 21)]
    text = make_csv(f"timestamp,{NAMES}", times, make_rows(len(times), 185.0))

    with pytest.raises(Ambiguous, match="on the clock's hours, and XNYS counts from the open"):
        inspect(source(text, "ABC_1Hour.csv"))
    with pytest.raises(InvalidBars, match="on the clock's hours, and XNYS counts from the open"):
        inspect(source(text, "ABC_1Hour.csv"), calendar="XNYS")


# Timeframes.


def test_a_change_of_timeframe_is_reported(source):
    days = pd.bdate_range("2000-03-01", periods=110)
    four_hours = pd.date_range("2000-08-02", periods=140 * 2, freq="4h")
    four_hours = four_hours[four_hours.day_of_week < 5][:140]
    times = days.append(four_hours)
    text = make_csv("time,open,high,low,close,tick_volume", times, make_rows(len(times), 0.93, 5))

    validated = read(source(text, "EURUSD_H4.csv"), "4h")

    assert (len(validated.bars), len(validated.rejected)) == (140, 110)
    assert {"4h" in row.reason for row in validated.rejected} == {True}
    assert any("2000-08-02" in note for note in validated.notes)


@pytest.mark.parametrize("timeframe", ["4h", "1d", "15m"])
def test_rows_of_another_timeframe_are_rejected(source, timeframe):
    times = pd.date_range("2025-01-01", periods=288, freq="h")

    with pytest.raises(SourceError, match=rf"1h.*{timeframe}|{timeframe}.*1h"):
        read(source(make_csv(f"timestamp,{NAMES}", times, make_rows(288))), timeframe)


@pytest.mark.parametrize(
    ("times", "name"),
    [
        (pd.date_range("2021-01-04", periods=120, freq="7D"), "1w"),
        (pd.date_range("2021-01-07", periods=120, freq="7D"), "1w"),
        (pd.date_range("2015-01-31", periods=120, freq="ME"), "1M"),
    ],
)
def test_weeks_and_months_are_rejected_by_name(source, times, name):
    with pytest.raises(SourceError, match=f"{name} is not supported"):
        inspect(source(make_csv(f",{NAMES}", times.date, make_rows(120, 33000.0))))


# Frames.


def make_yfinance() -> pd.DataFrame:
    """Return a frame as yfinance does: two column levels, New York sessions in UTC."""
    times = [
        time for day in ("2025-07-16", "2025-07-17") for time in pd.date_range(f"{day} 13:30", periods=78, freq="5min")
    ]
    frame = pd.DataFrame(make_rows(156, 171.0), columns=[name.capitalize() for name in COLUMNS])
    frame.index = pd.DatetimeIndex(times, tz="UTC", name="Datetime")
    frame.columns = pd.MultiIndex.from_product([frame.columns, ["ABC"]], names=["Price", "Ticker"])
    return frame


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_yfinance_within_a_day(source, suffix):
    frame = make_yfinance()

    validated = inspect(source(frame.to_csv() if suffix == "csv" else frame, f"ABC_5m.{suffix}"))

    assert (str(validated.bars.key), validated.bars.key.calendar) == ("file ABC/USD 5m", "XNYS")
    assert (len(validated.bars), validated.rejected) == (156, [])
    assert validated.bars.ohlcv_TF.tolist() == frame.to_numpy().tolist()


INDEX = pd.date_range("2025-01-01", periods=40, freq="h", tz="UTC")
PLAIN = pd.DataFrame(make_rows(40), columns=list(COLUMNS), index=INDEX)
CAPITALS = PLAIN.rename(columns=str.capitalize)
FRAMES = {
    "freqtrade": PLAIN.rename_axis("date").reset_index(),
    "yfinance, history": CAPITALS,
    "yfinance, download": CAPITALS.set_axis(pd.MultiIndex.from_product([CAPITALS, ["BTC-USD"]]), axis="columns"),
    "newest first": PLAIN[::-1],
}
KEY = SeriesKey("any", "BTC/USDT", "1h")


@pytest.mark.parametrize("name", FRAMES)
def test_frames_as_libraries_give_them(name):
    bars = Bars.from_frame(KEY, FRAMES[name])

    assert (len(bars), int(bars.open_time[0])) == (40, utc_ms("2025-01-01"))
    assert bars.ohlcv_TF.tolist() == PLAIN.to_numpy().tolist()


def test_a_frame_without_known_volume():
    bars = Bars.from_frame(KEY, PLAIN.assign(volume=np.nan))

    assert bars.ohlcv_TF[:, :4].tolist() == PLAIN[list(FIELDS)].to_numpy().tolist()
    assert np.isnan(bars.ohlcv_TF[:, 4]).all()


def test_a_frame_of_another_timeframe_is_rejected():
    days = PLAIN.set_axis(pd.date_range("2024-01-01", periods=40, tz="UTC"))

    with pytest.raises((InvalidArgument, SourceError), match="1h"):
        Bars.from_frame(KEY, days)


def test_hours_of_a_frame_are_an_hour_long():
    assert set(np.diff(Bars.from_frame(KEY, PLAIN).open_time)) == {HOUR_MS}
