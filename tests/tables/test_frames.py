"""Frames as tables: what becomes a column, what it is called, and whose rows they are."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from forecaster.tables.frames import frame_table, join_levels

DATES = pd.date_range("2024-01-01", periods=2)
FIELDS = ["Open", "High", "Low", "Close", "Volume"]


def make_frame(index=DATES, columns=FIELDS) -> pd.DataFrame:
    """Make a frame of two rows, each cell another number."""
    count = len(columns)
    return pd.DataFrame(np.arange(2.0 * count).reshape(2, count), index=index, columns=columns)


def downloaded(*tickers: str, levels=("Price", "Ticker")) -> pd.DataFrame:
    """A frame as yfinance gives it: columns of two levels."""
    columns = pd.MultiIndex.from_product([FIELDS, tickers], names=["Price", "Ticker"]).reorder_levels(levels)
    return make_frame(DATES.rename("Date"), columns)


def test_cells_stay_what_they_are():
    """A time keeps its zone, a text stays text, and a number is not copied through text."""
    times = DATES.tz_localize("Asia/Tokyo")
    frame = pd.DataFrame(
        {"time": times, "open": [0.1, 2**53 + 1], "date": [dt.date(2024, 1, 1)] * 2, "note": ["a", ""]}
    )

    table = frame_table(frame, "bars.parquet", form="parquet")

    assert table.names == ["time", "open", "date", "note"]
    assert [table.cells[place].tolist() for place in range(4)] == [frame[name].tolist() for name in table.names]
    assert (table.source, table.place, table.form, table.has_header) == ("bars.parquet", "row", "parquet", True)


def test_the_frame_of_the_caller_is_not_changed():
    frame = downloaded("A", "B")
    before = frame.copy()

    frame_table(frame, "the frame")

    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize(
    ("index", "name"),
    [
        (DATES, "timestamp"),
        (DATES.tz_localize("UTC"), "timestamp"),
        (DATES.rename("Date"), "Date"),
        (DATES.to_period("D"), "timestamp"),
        (pd.Index([dt.date(2024, 1, 1), dt.date(2024, 1, 2)]), "timestamp"),
        (pd.Index(["2024-01-01", "2024-01-02"]), "timestamp"),
        (pd.Index([1704067200, 1704153600]), "timestamp"),
        (pd.RangeIndex(1704067200, 1704067320, 60), "timestamp"),
        (pd.Index([20240101, 20240102]), "timestamp"),
        (pd.Index(["AAA", "BBB"]), "symbol"),
    ],
)
def test_an_index_is_the_first_column_and_named_by_what_it_holds(index, name):
    table = frame_table(make_frame(index), "the frame")

    assert table.names == [name, *FIELDS]
    assert table.cells[0].tolist() == (index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index).tolist()
    assert table.cells.index.tolist() == [0, 1]


@pytest.mark.parametrize("index", [pd.RangeIndex(2), pd.RangeIndex(2, name="id"), pd.Index([3, 7])])
def test_an_index_that_counts_rows_is_no_column(index):
    """Also where rows were left out."""
    assert frame_table(make_frame(index), "the frame").names == FIELDS


def test_a_named_index_of_small_numbers_is_a_column():
    """Somebody named it."""
    assert frame_table(make_frame(pd.Index([3, 7], name="hour")), "the frame").names == ["hour", *FIELDS]


@pytest.mark.parametrize(
    ("names", "expected"), [(("symbol", "time"), ["symbol", "time"]), ((None, None), ["symbol", "timestamp"])]
)
def test_levels_of_rows_become_columns(names, expected):
    index = pd.MultiIndex.from_arrays([["BTC/USD", "ETH/USD"], DATES], names=names)

    table = frame_table(make_frame(index), "the frame")

    assert table.names == [*expected, *FIELDS]
    assert table.cells[0].tolist() == ["BTC/USD", "ETH/USD"]


@pytest.mark.parametrize("levels", [("Price", "Ticker"), ("Ticker", "Price")])
@pytest.mark.parametrize("reset", [False, True])
def test_one_ticker_is_the_symbol_of_the_table(levels, reset):
    """In either order of the levels, the date in the index or not."""
    frame = downloaded("ABC", levels=levels)

    table = frame_table(frame.reset_index() if reset else frame, "the frame")

    assert table.names == ["Date", *FIELDS]
    assert table.symbol == "ABC"


@pytest.mark.parametrize("levels", [("Price", "Ticker"), ("Ticker", "Price")])
@pytest.mark.parametrize("reset", [False, True])
def test_several_tickers_stand_in_the_names(levels, reset):
    frame = downloaded("A", "B", levels=levels)

    table = frame_table(frame.reset_index() if reset else frame, "the frame")

    assert table.names == ["Date", *(f"{ticker}:{field}" for field in FIELDS for ticker in "AB")]
    assert table.symbol == ""


def test_levels_that_pandas_wrote_as_text_are_levels():
    """`to_json` makes "('Close', 'ABC')" of them."""
    frame = downloaded("ABC")

    table = frame_table(frame.set_axis([str(name) for name in frame.columns], axis="columns"), "the frame")

    assert (table.names, table.symbol) == (["Date", *FIELDS], "ABC")


def test_levels_of_which_both_name_bars_are_left_to_be_refused():
    """O, H, L and C are tickers, too."""
    assert join_levels([(field, ticker) for field in FIELDS for ticker in "OHLC"])[0][0] == "Open:O"


def test_numbered_columns_are_no_header():
    table = frame_table(make_frame(pd.RangeIndex(2), range(5)), "the frame")

    assert not table.has_header
    assert table.names == ["column 1", "column 2", "column 3", "column 4", "column 5"]


def test_equal_names_are_kept():
    """Which of them is meant is for `columns` to ask."""
    table = frame_table(make_frame(columns=["open", "open"]), "the frame")

    assert table.names == ["timestamp", "open", "open"]
    assert table.cells.to_numpy()[:, 1:].tolist() == [[0, 1], [2, 3]]


def test_an_index_of_a_name_that_is_taken_is_kept_beside_it():
    assert frame_table(make_frame(columns=["timestamp", "close"]), "the frame").names == [
        "level_0",
        "timestamp",
        "close",
    ]


def test_an_empty_frame_is_an_empty_table():
    table = frame_table(pd.DataFrame(), "the frame")

    assert (table.names, len(table.cells)) == ([], 0)
