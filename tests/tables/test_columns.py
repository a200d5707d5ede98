"""The role of each column: names in many languages, cells where names are ambiguous, and errors."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from forecaster.errors import Ambiguous, BadPayload, ConfigError
from forecaster.tables import COLUMNS, FIELDS, ParseOptions, Table
from forecaster.tables.column_names import match_field
from forecaster.tables.columns import find_columns, is_bar_header
from forecaster.tables.field_order import check_field_order
from forecaster.tables.symbols import rows_by_symbol

DATES = ["2024-01-02", "2024-01-03", "2024-01-04"]


def make_table(columns: dict[str, list], *, has_header: bool = True, **rest) -> Table:
    """Return a table of text cells, or of cells with their types."""
    cells = pd.DataFrame({place: pd.Series(list(cells)) for place, cells in enumerate(columns.values())})
    cells.index += 2 if has_header else 1
    return Table("bars.csv", list(columns), cells, "line", "csv, utf-8, separated by ,", has_header, **rest)


def make_named(header: str, **cells: list) -> Table:
    """Return a table of dates and prices with this header; `at_0` gives the cells of column 0."""
    names = header.split(",")
    content = {f"{place} {name}": [str(place)] * len(DATES) for place, name in enumerate(names)}
    for place, name in enumerate(names):
        if f"at_{place}" in cells:
            content[f"{place} {name}"] = cells[f"at_{place}"]
    table = make_table(content)
    return Table(table.source, names, table.cells, table.row_unit, table.format)


def make_rows(*rows: tuple) -> Table:
    """Return a table without names."""
    columns = {f"column {place + 1}": list(cells) for place, cells in enumerate(zip(*rows, strict=True))}
    return make_table(columns, has_header=False)


def find(header: str, options: ParseOptions | None = None, at_0=DATES, **cells: list) -> dict[str, object]:
    """Return the names of the columns by field."""
    table = make_named(header, at_0=at_0, **cells)
    columns = find_columns(table, options or ParseOptions())
    names = {"time": [table.names[place] for place in columns.time]}
    return names | {field: table.names[place] for field, place in columns.fields.items()}


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("Date,Open,High,Low,Close,Volume", "Open,High,Low,Close,Volume"),
        ("open_time,open,high,low,close,volume", "open,high,low,close,volume"),
        ("t,o,h,l,c,v", "o,h,l,c,v"),
        ("Time,1. open,2. high,3. low,4. close,5. volume", "1. open,2. high,3. low,4. close,5. volume"),
        ("<DTYYYYMMDD>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>", "<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>"),
        ("Date,Open*,High,Low,Close**,Volume", "Open*,High,Low,Close**,Volume"),
        ("Date,Open (USD),High (USD),Low (USD),Close (USD)", "Open (USD),High (USD),Low (USD),Close (USD)"),
        ("Date,Price,Open,High,Low,Vol.,Change %", "Open,High,Low,Price,Vol."),
        ("Date,Close/Last,Volume,Open,High,Low", "Open,High,Low,Close/Last,Volume"),
        ("Date,Open,High,Low,Last,Change,Settle,Volume", "Open,High,Low,Last,Volume"),
        ("Trade Date,Open,High,Low,Close,Settle", "Open,High,Low,Close"),
        ("Date,Open,High,Low,Close,Adj Close,Volume", "Open,High,Low,Close,Volume"),
        ("Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen", "Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen"),
        ("Data,Ostatnio,Otwarcie,Max.,Min.,Wol.,Zmiana%", "Otwarcie,Max.,Min.,Ostatnio,Wol."),
        ("Datum,Zuletzt,Eröffn.,Hoch,Tief,Vol.,+/- %", "Eröffn.,Hoch,Tief,Zuletzt,Vol."),
        ("Datum,Erster,Hoch,Tief,Schlusskurs,Stuecke,Volumen", "Erster,Hoch,Tief,Schlusskurs"),
        ("Datum,ERÖFFNUNG,Tageshoch,Tagestief,Schluss", "ERÖFFNUNG,Tageshoch,Tagestief,Schluss"),
        ("Date,Dernier,Ouv., Plus Haut,Plus Bas,Vol.,Variation %", "Ouv., Plus Haut,Plus Bas,Dernier,Vol."),
        ("date,ouverture,haut,bas,cloture,volume", "ouverture,haut,bas,cloture,volume"),
        ("Fecha,Último,Apertura,Máximo,Mínimo,Vol.,% var.", "Apertura,Máximo,Mínimo,Último,Vol."),
        ("Data,Último,Abertura,Máxima,Mínima,Vol.,Var%", "Abertura,Máxima,Mínima,Último,Vol."),
        ("Data,Ultimo,Apertura,Massimo,Minimo,Vol.,Var. %", "Apertura,Massimo,Minimo,Ultimo,Vol."),
        ("Datum,Laatste,Open,Hoog,Laag,Vol.,Verschil %", "Open,Hoog,Laag,Laatste,Vol."),
        ("Tarih,Şimdi,Açılış,Yüksek,Düşük,Hac.,Fark %", "Açılış,Yüksek,Düşük,Şimdi,Hac."),
        ("Дата,Цена,Откр.,Макс.,Мин.,Объём,Изм. %", "Откр.,Макс.,Мин.,Цена,Объём"),
        ("日付け,終値,始値,高値,安値,出来高,変化率 %", "始値,高値,安値,終値,出来高"),
        ("날짜,종가,시가,고가,저가,거래량,변동 %", "시가,고가,저가,종가,거래량"),
        ("时间,open_price,high_price,low_price,close_price", "open_price,high_price,low_price,close_price"),
        ("time,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST", "PX_OPEN,PX_HIGH,PX_LOW,PX_LAST"),
        ("time_open,price_open,price_high,price_low,price_close", "price_open,price_high,price_low,price_close"),
        ("index,first,max,min,last", "first,max,min,last"),
        ("time,mid.o,mid.h,mid.l,mid.c,volume", "mid.o,mid.h,mid.l,mid.c,volume"),
        ("date,BidOpen,BidHigh,BidLow,BidClose", "BidOpen,BidHigh,BidLow,BidClose"),
        ("date,adjOpen,adjHigh,adjLow,adjClose,adjVolume", "adjOpen,adjHigh,adjLow,adjClose,adjVolume"),
        ("date,adjOpen,adjHigh,adjLow,adjClose,open,high,low,close", "open,high,low,close"),
    ],
)
def test_column_names_of_exports_are_recognised(header, fields):
    """Case, punctuation, units and accents do not matter."""
    names = find(header)

    assert names.pop("time") == header.split(",")[:1]
    assert [names[field] for field in COLUMNS if field in names] == fields.split(",")
    assert is_bar_header(header.split(","))


@pytest.mark.parametrize(
    "name", ["Prev Close", "open_interest", "52W High", "Change", "Volume USDT", "vwap", "number_of_trades", "ha_close"]
)
def test_names_that_only_contain_a_word_are_not_fields(name):
    assert match_field(name) is None


@pytest.mark.parametrize("names", [["2024-01-02", "1", "2", "3", "4"], ["date", "open", "high"], ["o", "h", "l", "c"]])
def test_other_headers_are_not_bar_headers(names):
    assert not is_bar_header(names)


def test_a_full_name_wins_over_a_letter():
    names = find("open_time,o,h,l,c,open,high,low,close,t")

    assert names == {"time": ["open_time"], "open": "open", "high": "high", "low": "low", "close": "close"}


def test_two_columns_of_one_field_are_rejected_unless_they_are_alike():
    header = "date,open,high,low,Close,close*"

    assert find(header, at_4=["1"] * 3, at_5=["1"] * 3)["close"] == "Close"
    with pytest.raises(Ambiguous, match=r"--columns close=Close.*different cells in columns \['Close', 'close\*'\]"):
        find(header, at_4=["1"] * 3, at_5=["1", "2", "1"])


def test_two_different_volumes_are_ignored():
    """Volume is never a reason for an error."""
    assert "volume" not in find("date,open,high,low,close,Volume (BTC),Volume (USD)")


def test_bid_and_ask_are_rejected():
    bid_and_ask = "o_bid,h_bid,l_bid,c_bid,o_ask,h_ask,l_ask,c_ask"

    with pytest.raises(
        Ambiguous, match=r"--columns open=o_bid,high=h_bid,low=l_bid,close=c_bid.*prices of bid and ask"
    ):
        find(f"date,{bid_and_ask}")
    assert find(f"date,{bid_and_ask},open,high,low,close")["open"] == "open"


def test_an_adjusted_close_beside_other_prices_is_rejected():
    with pytest.raises(Ambiguous, match=r"--columns close=Adj Close.*not adjusted"):
        find("Date,Open,High,Low,Adj Close,Volume")


def test_unknown_price_names_are_rejected_with_the_header():
    with pytest.raises(BadPayload, match=r"columns open, high, low, close and a time.*`columns`.*'Date', 'Alpha'"):
        find("Date,Alpha,Beta")


# Times.

MOMENTS = [f"{date} 09:30" for date in DATES]
CLOCK = ["09:30", "09:35", "09:40"]


@pytest.mark.parametrize(
    ("names", "first", "second", "expected"),
    [
        ("<DATE>,<TIME>", ["2024.01.02"] * 3, ["00:00:00", "01:00:00", "02:00:00"], [0, 1]),
        ("<TIME>,<DATE>", ["000000", "010000", "020000"], ["20240102"] * 3, [1, 0]),
        ("Date,Hour", ["2024-05-01"] * 3, ["0", "1", "2"], [0, 1]),
        ("Date,Hour", ["2024-05-01"] * 3, [0, 1, 2], [0, 1]),
        ("Datum,Uhrzeit", ["02.01.2024"] * 3, CLOCK, [0, 1]),
        ("Date,Time", ["01/02/2024"] * 3, ["9:30 AM", "12:30 PM", "1:30 PM"], [0, 1]),
        ("Date,Time", pd.DatetimeIndex(DATES), [dt.time(9, 30)] * 3, [0, 1]),
        ("Date,Time", ["2024-01-02 00:00:00"] * 3, [930, 935, 940], [0, 1]),
        ("Date,Time", [20240102] * 3, [93000, 93500, 94000], [0, 1]),
        ("Date,Time", ["Mar 25, 2024"] * 3, CLOCK, [0, 1]),
        ("date,timestamp", ["2024-01-02"] * 3, ["1704187800", "1704188100", "1704188400"], [1]),
        ("date,unix", ["2024-01-02"] * 3, ["1704187800", "1704188100", "1704188400"], [1]),
        ("date,unix", DATES, ["1704187800", "1704274200", "1704360600"], [0]),
        ("date,time", MOMENTS, CLOCK, [0]),
        ("date,open_time", DATES, MOMENTS, [1]),
        ("close_time,open_time", MOMENTS, MOMENTS, [1]),
        ("timeOpen,timestamp", MOMENTS, MOMENTS, [0]),
        ("Local time,Gmt time", MOMENTS, MOMENTS, [1]),
        ("Unnamed: 0,date", ["0", "1", "2"], DATES, [1]),
        (",x", DATES, DATES, [0]),
        ("id,x", [1704187800, 1704188100, 1704188400], DATES, [0]),
        ("timestamp,date", ["soon", "now", "then"], DATES, [1]),
        ("timestamp,x", ["soon", "now", "then"], DATES, [0]),
        ("date,day", DATES, ["1", "2", "3"], [0]),
        ("Kline open time,timestamp", ["1704187800000"] * 3, MOMENTS, [0]),
    ],
)
def test_the_time_is_found_by_names_and_cells(names, first, second, expected):
    """Bare dates are joined with a time of day; names of open times come first."""
    table = make_named(f"{names},o,h,l,c", at_0=first, at_1=second)

    assert find_columns(table, ParseOptions()).time == tuple(expected)


EPOCHS = ["1704184200", "1704270600", "1704357000"]  # an hour before the moments, as they are in Berlin


@pytest.mark.parametrize(
    ("names", "first", "second", "expected"),
    [
        ("unix,date", EPOCHS, MOMENTS, 0),
        ("datetime,epoch", MOMENTS, EPOCHS, 1),
        ("open_time,timestamp", MOMENTS, [f"{date}T08:30:00Z" for date in DATES], 1),
        ("open_time,ts", MOMENTS, pd.DatetimeIndex([f"{date} 08:30" for date in DATES]).tz_localize("UTC"), 1),
        ("datetime,time_utc", MOMENTS, [f"{date} 08:30" for date in DATES], 1),
        ("datetime,unix", ["01/02/2024 10:00", "01/03/2024 10:00", "01/04/2024 10:00"], EPOCHS, 1),
        ("open_time,timestamp", MOMENTS, [f"{date} 08:31:07Z" for date in DATES], 0),
        ("open_time,timestamp", EPOCHS, [f"{date} 23:59:59Z" for date in DATES], 0),
        ("datetime,timestamp", MOMENTS, [f"{date} 09:30:00.000" for date in DATES], 1),
        ("open_time,close_time", MOMENTS, EPOCHS, 0),
    ],
)
def test_an_instant_is_preferred_to_a_local_time(names, first, second, expected):
    """Whatever their names; only a column named open time wins over an instant that differs."""
    table = make_named(f"{names},o,h,l,c", at_0=first, at_1=second)

    assert find_columns(table, ParseOptions()).time == (expected,)


def test_an_instant_is_preferred_to_a_local_date_and_time():
    table = make_named("date,time,unix,o,h,l,c", at_0=DATES, at_1=["09:30"] * 3, at_2=EPOCHS)

    assert find_columns(table, ParseOptions()).time == (2,)


@pytest.mark.parametrize(
    ("names", "first", "second"),
    [
        ("datetime,localtime", MOMENTS, [f"{date} 10:30" for date in DATES]),
        ("datetime,unix", MOMENTS, ["1704188107", "1704274505", "1704360901"]),
        (
            "datetime,unix",
            [f"2024-01-02 {hour}:00" for hour in (10, 11, 12)],
            ["1704193200", "1704196800", "1704200400"],
        ),
        ("timestamp,ts", EPOCHS, ["1704184260", "1704270660", "1704357060"]),
    ],
    ids=["two local", "no zone", "perhaps the closes", "two instants"],
)
def test_two_ambiguous_time_columns_are_rejected(names, first, second):
    with pytest.raises(Ambiguous, match=r"`columns` to be set .*different times in columns") as caught:
        find(f"{names},o,h,l,c", at_0=first, at_1=second)

    assert caught.value.option == "columns"
    assert find(
        f"{names},o,h,l,c",
        ParseOptions(columns={"open_time": "ts" if "ts" in names else "datetime"}),
        first,
        at_1=second,
    )


def test_letters_of_different_case_are_different_columns():
    """Binance's streams have the close time as T, and the last trade as L."""
    cells = {"at_0": MOMENTS, "at_1": EPOCHS, "at_4": ["9"] * 3, "at_5": ["1"] * 3}

    assert find("T,t,o,h,L,l,c,v", **cells)["time"] == ["t"]
    assert find("T,t,o,h,L,l,c,v", **cells)["low"] == "l"


def test_close_times_alone_are_rejected():
    with pytest.raises(BadPayload, match="expected a column of open times, found 'close times alone: close_time'"):
        find("close_time,open,high,low,close", at_0=MOMENTS)
    assert is_bar_header(["close_time", "open", "high", "low", "close"])


def test_a_time_of_day_without_a_date_is_rejected():
    with pytest.raises(BadPayload, match="a date beside the time of day in column 'Time'"):
        find("Time,Open,High,Low,Close", at_0=CLOCK)


def test_a_row_number_is_not_a_time():
    with pytest.raises(BadPayload, match="a time such as open_time"):
        find("index,open,high,low,close", at_0=["0", "1", "2"])


# Without names.


@pytest.mark.parametrize(
    ("row", "time", "first"),
    [
        (("2024.01.02", "00:00", "1.1", "1.2", "1.0", "1.15", "88"), (0, 1), 2),
        (("20240102 170000", "1.1", "1.2", "1.0", "1.15", "0"), (0,), 1),
        ((1704067200000, "1.1", "1.2", "1.0", "1.15", "0", 1704070799999, "0", 1), (0,), 1),
        (("2024-01-02", "1.1", "1.2", "1.0", "1.15"), (0,), 1),
        (("20240102", "1200", "1230", "1130", "1215", "500"), (0,), 1),
        (("ABC.US", "D", "20240102", "000000", "1.1", "1.2", "1.0", "1.15", "7", "0"), (2, 3), 4),
    ],
)
def test_columns_without_names_are_placed_by_their_cells(row, time, first):
    columns = find_columns(make_rows(row, row, row), ParseOptions())

    assert columns.time == time
    assert [columns.fields[field] for field in FIELDS] == list(range(first, first + 4))
    assert columns.symbol == (0 if time[0] else None)


@pytest.mark.parametrize("row", [("1.1", "1.2", "1.0", "1.15"), ("5", "2024-01-02", "1", "2", "1", "1", "1")])
def test_rows_without_names_and_without_a_first_time_are_rejected(row):
    with pytest.raises(Ambiguous, match="--columns open_time,open,high,low,close,volume"):
        find_columns(make_rows(row, row), ParseOptions())


def make_prices(count: int = 60) -> np.ndarray:
    """Return open, high, low, close of `count` rows."""
    random = np.random.default_rng(1)
    open_, close = random.uniform(90, 110, (2, count))
    return np.column_stack([open_, np.maximum(open_, close) + 1, np.minimum(open_, close) - 1, close])


def check(ohlc_T4: np.ndarray) -> None:
    """Check hourly rows, the oldest first."""
    times = pd.date_range("2024-01-01", periods=len(ohlc_T4), freq="h").astype(str)
    rows = [(time, *prices, 7.0) for time, prices in zip(times, ohlc_T4.tolist(), strict=True)]
    check_field_order(make_rows(*rows), ohlc_T4, np.arange(1, len(rows) + 1))


def make_walk(count: int = 60) -> np.ndarray:
    """Return prices of which each open is the close before it."""
    prices = make_prices(count)
    prices[1:, 0] = prices[:-1, 3]
    prices[:, 1], prices[:, 2] = prices[:, [0, 3]].max(axis=1) + 1, prices[:, [0, 3]].min(axis=1) - 1
    return prices


@pytest.mark.parametrize("count", [5, 9, 60])
def test_an_open_that_is_the_close_of_the_next_bar_is_rejected(count):
    """High and low fit both orders; a few rows must all agree."""
    right = make_walk(count)

    check(right)
    with pytest.raises(Ambiguous, match="--columns open_time,close,high,low,open,volume"):
        check(right[:, [3, 1, 2, 0]])


def test_few_rows_that_disagree_suggest_no_other_order():
    swapped = make_walk(6)[:, [3, 1, 2, 0]]
    swapped[3] = [100, 120, 80, 119]
    swapped[2, 3], swapped[4, 0] = 100, 119

    check(swapped)
    check(make_walk(4)[:, [3, 1, 2, 0]])


def test_the_suggested_order_distinguishes_open_and_close():
    with pytest.raises(Ambiguous, match="--columns open_time,close,open,high,low,volume"):
        check(make_walk()[:, [3, 0, 1, 2]])


def test_no_order_is_suggested_for_a_volume_among_prices():
    prices = make_walk()
    prices = np.column_stack([np.linspace(9e5, 7e5, len(prices)), prices[:, [3, 1, 2]]])

    with pytest.raises(Ambiguous, match="prices which are not open, high, low, close in line 1'"):
        check(prices)


@pytest.mark.parametrize("order", ["low,high,open,close", "open,close,high,low", "high,low,open,close"])
def test_another_order_of_prices_is_rejected_with_a_suggestion(order):
    prices = make_prices()[:, [FIELDS.index(name) for name in order.split(",")]]

    with pytest.raises(Ambiguous, match=f"--columns open_time,{order},volume.*their order may be"):
        check(prices)


def test_another_order_that_only_some_rows_show_is_rejected():
    """Flat rows, and rows whose open is the high, fit several orders."""
    prices = np.full((50, 4), 100.0)
    prices[7] = [99, 101, 100, 100.5]

    with pytest.raises(Ambiguous, match="line 8"):
        check(prices)


def test_prices_that_fit_no_order_are_rejected():
    random = np.random.default_rng(2)

    with pytest.raises(Ambiguous, match="prices which are not open, high, low, close"):
        check(random.uniform(90, 110, (60, 4)))


def test_the_right_order_holds_in_spite_of_broken_rows_and_roundings():
    prices = make_prices()
    prices[5] = [100, 90, 80, 110]
    prices[6, 3] = prices[6, 1] * (1 + 1e-15)
    prices[7] = np.nan
    check(prices)

    check(np.full((3, 4), 5.0))
    check(np.empty((0, 4)))


# Columns given by the user.


def test_columns_given_by_name():
    """Other columns are found by name."""
    names = find("Date,Open,High,Low,Close,Settle", ParseOptions(columns={"close": "settle"}))

    assert names == {"time": ["Date"], "open": "Open", "high": "High", "low": "Low", "close": "Settle"}


def test_columns_given_by_position():
    given = ("open_time", "low", "high", "open", "close", "-", "volume")

    columns = find_columns(make_rows((1704067200, 1, 4, 2, 3, 9, 5)), ParseOptions(columns=given))

    assert columns.time == (0,)
    assert columns.fields == {"low": 1, "high": 2, "open": 3, "close": 4, "volume": 6}


def test_a_date_and_a_time_given_by_position():
    given = ("time", "date", "open", "high", "low", "close")

    assert find_columns(make_rows(("00:00", "2024.01.02", 1, 4, 2, 3)), ParseOptions(columns=given)).time == (1, 0)


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"close": "Clos"}, BadPayload, r"a column named one of \['Date', 'Open'"),
        ({"shut": "Close"}, ConfigError, "some of open_time, open, high, low, close, volume"),
        (("open_time", "open", "high", "low"), ConfigError, "a place for each of open_time, open, high, low, close"),
        (("open_time", *FIELDS, "volume", "", ""), BadPayload, "at least 8 columns"),
    ],
)
def test_given_columns_that_do_not_fit(columns, error, words):
    with pytest.raises(error, match=words):
        find("Date,Open,High,Low,Close", ParseOptions(columns=columns))


# Symbols.


def make_long(name: str, cells: list, options: ParseOptions | None = None) -> dict[str, list[int]]:
    """Return the rows of each symbol in the column of this name."""
    count = len(cells)
    table = make_table(
        {"date": ["2024-01-02"] * count} | {field: ["1"] * count for field in FIELDS} | {name: cells}, symbol="whole"
    )
    columns = find_columns(table, options or ParseOptions())
    return {symbol: places.tolist() for symbol, places in rows_by_symbol(table, columns).items()}


@pytest.mark.parametrize("name", ["Name", "symbol", "<TICKER>", "Stock", "Pair", "isin", "tic"])
def test_rows_are_split_by_a_column_of_symbols(name):
    assert make_long(name, ["B", "A", "B ", "A"]) == {"B": [0, 2], "A": [1, 3]}


def test_the_symbol_of_all_rows_is_named_too():
    assert make_long("Name", ["A", "A", "A"]) == {"A": [0, 1, 2]}


@pytest.mark.parametrize(
    "cells", [["a", "b", "c"], ["1.5", "2.5", "1.5"], [1.5, 2.5, 1.5], [1, 1, 1], [None, "a", "a"]]
)
def test_an_ambiguous_name_without_repeated_words_is_not_a_symbol(cells):
    """Different in each row, numbers, or mostly empty."""
    assert make_long("Name", cells) == {"whole": [0, 1, 2]}


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("Kod", ["AAA", "AAA", "BBB", "BBB", "BBB"]),
        ("branch", ["BTC/USD", "BTC/USD", "ETH/USD", "ETH/USD"]),
        ("contract", ["ESH4", "ESH4", "ESM4"]),
        ("Series ", ["EQ", "BE", "EQ"]),
    ],
)
def test_a_column_that_may_hold_symbols_is_ambiguous(name, cells):
    """Concatenated files, and contracts of a future."""
    with pytest.raises(Ambiguous, match=r"`symbol_column` to be set .*which may be symbols") as caught:
        make_long(name, cells)

    assert caught.value.option == "symbol_column"
    assert make_long(name, cells, ParseOptions(symbol_column="")) == {"whole": list(range(len(cells)))}
    assert list(make_long(name, cells, ParseOptions(symbol_column=name))) == list(dict.fromkeys(cells))


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("status", ["final", "final", "final", "forming"]),
        ("signal", ["AAA", "AAA", "BBB", "BBB", "AAA", "AAA"]),
        ("month", ["January", "January", "February", "February"]),
        ("half", ["AM", "AM", "PM", "PM"]),
        ("tz", ["EST", "EST", "EDT", "EDT"]),
        ("zone", ["EST", "EST", "EDT", "EDT"]),
        ("week", ["2024-W01", "2024-W01", "2024-W02", "2024-W02"]),
        ("note", ["first try", "first try", "second try", "second try"]),
        ("session_date", ["02-Jan-2024", "02-Jan-2024", "03-Jan-2024", "03-Jan-2024"]),
        ("contract", ["ESH4", "ESH4", "ESH4"]),
        ("size", ["10", "10", "20", "20"]),
        ("flag", [True, True, False, False]),
    ],
)
def test_other_columns_of_words_are_not_symbols(name, cells):
    assert make_long(name, cells) == {"whole": list(range(len(cells)))}


@pytest.mark.parametrize("name", ["interval", "timeframe", "Period", "granularity", "<PER>", "resolution"])
def test_rows_of_several_timeframes_are_rejected(name):
    with pytest.raises(BadPayload, match=r"expected rows of one timeframe, found .1h, 4h in column"):
        make_long(name, ["1h", "1h", "4h", "1h"])
    assert make_long(name, ["1h", "1h"]) == {"whole": [0, 1]}


def test_a_row_counter_is_not_a_timeframe():
    assert make_long("period", [1, 2, 3]) == {"whole": [0, 1, 2]}


def test_the_column_of_symbols_is_given():
    assert make_long("branch", ["A", "B", "A"], ParseOptions(symbol_column="Branch")) == {"A": [0, 2], "B": [1]}
    assert make_long("Name", ["A", "B", "A"], ParseOptions(symbol_column="")) == {"whole": [0, 1, 2]}


def test_a_symbol_is_preferred_to_an_instrument_number():
    table = make_table({name: ["7"] * 2 for name in ("instrument_id", "date", *FIELDS)} | {"symbol": ["A", "B"]})

    assert find_columns(table, ParseOptions()).symbol == len(table.names) - 1


def test_a_row_without_a_symbol_is_rejected_by_its_line():
    with pytest.raises(BadPayload, match="a symbol in column 'ticker' in line 3"):
        make_long("ticker", ["A", " ", "A"])


@pytest.mark.parametrize("form", ["{symbol}:{field}", "{symbol}.{field}", "{field}_{symbol}", "{field} {symbol}"])
def test_symbols_in_wide_format(form):
    names = [form.format(symbol=symbol, field=field) for symbol in ("AAA", "BBB") for field in (*FIELDS, "volume")]

    table = make_named(",".join(["date", *names]), at_0=DATES)
    columns = find_columns(table, ParseOptions())

    assert columns.fields == {}
    assert columns.by_symbol["BBB"] == {field: 6 + place for place, field in enumerate((*FIELDS, "volume"))}
    assert list(rows_by_symbol(table, columns)) == ["AAA", "BBB"]
    assert is_bar_header(table.names)
