"""From a table to rows: rejected rows, symbols and row order."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import pytest

from forecaster.errors import Ambiguous, BadPayload, UnknownSymbol
from forecaster.tables import ParseOptions, Table, numbers
from forecaster.tables.rows import read_table
from forecaster.tables.symbols import select_rows

COUNT = 12
WALK = [100.0, 103.0, 101.0, 105.0, 104.0, 108.0, 107.0, 111.0, 110.0, 114.0, 113.0, 117.0, 116.0]
DAYS = [f"2024-01-{day:02}" for day in range(1, COUNT + 1)]
BARS = {
    "date": DAYS,
    "open": [f"{price}" for price in WALK[:-1]],
    "high": [f"{max(pair) + 1}" for pair in pairwise(WALK)],
    "low": [f"{min(pair) - 1}" for pair in pairwise(WALK)],
    "close": [f"{price}" for price in WALK[1:]],
}


def make_table(columns: dict[str, list], *, has_header: bool = True) -> Table:
    """Return a table of text, as from csv."""
    cells = pd.DataFrame(dict(enumerate(columns.values())))
    cells.index += 1 + has_header
    return Table("a.csv", list(columns), cells, "line", "csv", has_header)


def read(columns: dict[str, list], options: ParseOptions | None = None, **rest):
    """Read the rows of one symbol."""
    return next(iter(read_table(make_table(columns, **rest), options or ParseOptions()).values()))


def with_row(place: int, *row: str | None) -> dict[str, list]:
    """Insert a row among the bars."""
    return {name: [*cells[:place], cell, *cells[place:]] for (name, cells), cell in zip(BARS.items(), row, strict=True)}


@pytest.mark.parametrize(
    ("place", "row"),
    [
        (COUNT, ("Downloaded from Barchart.com as of 01-02-2024 03:04pm CST", None, None, None, None)),
        (COUNT, ("Total", None, None, None, None)),
        (COUNT, (None, "-", "-", "-", "n/a")),
        (0, (None, "USD", "USD", "USD", "USD")),
        (5, ("date", "open", "high", "low", "close")),
    ],
    ids=["footer", "total", "nothing", "units", "header"],
)
@pytest.mark.parametrize("dtype", ["str", object])
def test_only_a_row_with_neither_a_time_nor_a_price_is_rejected(place, row, dtype):
    columns = {name: pd.Series(cells, dtype=dtype) for name, cells in with_row(place, *row).items()}

    rows = read(columns)

    assert rows.ohlcv_TF[:, 0].tolist() == WALK[:-1]
    assert rows.rejected == ((str(columns["date"][place]), "the row has neither a time nor a price"),)


@pytest.mark.parametrize(
    "row", [("Total", "1", "1", "1", "1"), ("2024-13-45", None, None, None, None), ("As of 2024-01-02", *[None] * 4)]
)
def test_a_row_with_a_time_or_a_price_is_not_a_footer(row):
    with pytest.raises(BadPayload):
        read(with_row(COUNT, *row))


def test_a_time_without_prices_stays_a_row():
    assert len(read(with_row(COUNT, "2024-01-13", None, None, None, None)).lines) == COUNT + 1


def test_a_table_of_words_is_rejected():
    with pytest.raises(BadPayload, match="rows that can be read, found '3 of 3 not: the row has neither"):
        read({name: ["word"] * 3 for name in BARS})


def test_line_numbers_of_other_rows_are_unchanged():
    assert read(with_row(5, *BARS)).lines.tolist() == [*range(2, 7), *range(8, COUNT + 3)]


@pytest.mark.parametrize(
    ("name", "forming", "final"),
    [
        ("closed", "false", "true"),
        ("is_closed", "False", "True"),
        ("x", "false", "true"),
        ("isFinal", "0", "1"),
        ("completed", "no", "yes"),
        ("incomplete", "true", "false"),
        ("Partial", "1", "0"),
    ],
)
def test_an_unfinished_row_is_rejected(name, forming, final):
    rows = read(BARS | {name: [final] * (COUNT - 1) + [forming]})

    assert rows.rejected == (("2024-01-12", "the row says that its bar is not complete"),)


def test_a_numeric_column_x_is_not_a_flag():
    assert read(BARS | {"x": ["1"] * (COUNT - 1) + ["0"]}).rejected == ()


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m.%Y"])
@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("count", [6, COUNT])
def test_prices_in_another_order_are_rejected_in_any_time_format(form, step, count):
    """Close, high, low, open: only the order of times shows it."""
    days = [pd.Timestamp(day).strftime(form) for day in DAYS]
    columns = {name: cells[:count][::step] for name, cells in (BARS | {"date": days}).items()}
    swapped = {name: columns[name] for name in ("date", "close", "high", "low", "open")}

    assert len(read(columns, has_header=False).lines) == count
    with pytest.raises(Ambiguous, match="--columns open_time,close,high,low,open"):
        read(swapped, has_header=False)


def test_the_order_of_prices_is_checked_by_symbol():
    """Rows of several symbols alternate."""
    columns = {
        name: [cell for cell in BARS[name] for _ in range(3)] for name in ("date", "close", "high", "low", "open")
    }
    table = make_table({"symbol": [f"{letter}A" for letter in "ABC"] * COUNT} | columns, has_header=False)

    with pytest.raises(Ambiguous, match="close,high,low,open"):
        read_table(table, ParseOptions())


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ({"close": "open", "open": "close"}, "open = close, high = high, low = low, close = open, as given"),
        (None, "open = open, high = high, low = low, close = close"),
    ],
)
def test_given_columns_are_reported(columns, shown):
    assert read(BARS, ParseOptions(columns=columns)).parsed_as["columns"].endswith(shown)


@pytest.mark.parametrize(
    ("names", "symbol", "name"),
    [
        (["ABC.US", "XYZ.US"], "ABC/USD", "ABC.US"),
        (["SH.600000", "SZ.000001"], "600000/CNY", "SH.600000"),
        (["BINANCE:BTCUSDT", "BINANCE:ETHUSDT"], "BTC/USDT", "BINANCE:BTCUSDT"),
        (["BRK.B", "AAPL"], "BRK-B/USD", "BRK.B"),
        (["BRK.B", "AAPL"], "BRK/USD", "BRK.B"),
    ],
)
def test_a_symbol_is_the_name_before_a_dot(names, symbol, name):
    rows = dict.fromkeys(names)

    assert select_rows("a.csv", rows | {name: "it"}, symbol, ParseOptions()) == "it"


@pytest.mark.parametrize("symbol", ["B/USD", "A/USD", "US/USD"])
def test_the_suffix_after_a_dot_is_not_a_symbol(symbol):
    with pytest.raises(UnknownSymbol):
        select_rows("a.csv", dict.fromkeys(["BRK.B", "AAPL.US"]), symbol, ParseOptions())


def test_a_symbol_in_wide_format_reads_its_own_columns(monkeypatch):
    """The time is linear in the number of symbols."""
    widths = []

    def spelled(table, places):
        widths.append(table.cells.shape[1])
        return False

    monkeypatch.setattr(numbers, "_suggests_decimal_comma", spelled)
    beside = {f"S{number}:{name}": BARS[name] for number in range(50) for name in ("open", "high", "low", "close")}
    by_symbol = read_table(make_table({"date": BARS["date"], **beside, "note": ["x"] * COUNT}), ParseOptions())

    assert list(by_symbol) == [f"S{number}" for number in range(50)]
    assert set(widths) == {6}
    assert by_symbol["S49"].ohlcv_TF[:, 3].tolist() == WALK[1:]
    assert (
        by_symbol["S49"].parsed_as["columns"]
        == "open_time = date, open = S49:open, high = S49:high, low = S49:low, close = S49:close"
    )
