"""Frames as tables: columns, names and symbols."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from forecaster.bars import Bars
from forecaster.errors import BadPayload, ForecasterError, InvalidArgument
from forecaster.tables import ParseOptions
from forecaster.tables.frames import join_levels, table_from_frame
from forecaster.tables.rows import read_table
from tests.builders import make_key

DATES = pd.date_range("2024-01-01", periods=2)
FIELDS = ["Open", "High", "Low", "Close", "Volume"]


def make_frame(index=DATES, columns=FIELDS) -> pd.DataFrame:
    """Return a frame of two rows with different numbers."""
    count = len(columns)
    return pd.DataFrame(np.arange(2.0 * count).reshape(2, count), index=index, columns=columns)


def downloaded(*tickers: str, levels=("Price", "Ticker")) -> pd.DataFrame:
    """Return a frame as yfinance does, with two column levels."""
    columns = pd.MultiIndex.from_product([FIELDS, tickers], names=["Price", "Ticker"]).reorder_levels(levels)
    return make_frame(DATES.rename("Date"), columns)


def test_cells_keep_their_types():
    """A time keeps its zone, a text stays text, and a number is not copied through text."""
    times = DATES.tz_localize("Asia/Tokyo")
    frame = pd.DataFrame(
        {"time": times, "open": [0.1, 2**53 + 1], "date": [dt.date(2024, 1, 1)] * 2, "note": ["a", ""]}
    )

    table = table_from_frame(frame, "bars.parquet", file_format="parquet")

    assert table.names == ["time", "open", "date", "note"]
    assert [table.cells[place].tolist() for place in range(4)] == [frame[name].tolist() for name in table.names]
    assert (table.source, table.row_unit, table.format, table.has_header) == ("bars.parquet", "row", "parquet", True)


def test_the_frame_of_the_caller_is_unchanged():
    frame = downloaded("A", "B")
    before = frame.copy()

    table_from_frame(frame, "the frame")

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
def test_an_index_is_the_first_column_named_by_its_content(index, name):
    table = table_from_frame(make_frame(index), "the frame")

    assert table.names == [name, *FIELDS]
    assert table.cells[0].tolist() == (index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index).tolist()
    assert table.cells.index.tolist() == [0, 1]


@pytest.mark.parametrize("index", [pd.RangeIndex(2), pd.RangeIndex(2, name="id"), pd.Index([3, 7])])
def test_an_index_that_counts_rows_is_no_column(index):
    """Also if rows were left out."""
    assert table_from_frame(make_frame(index), "the frame").names == FIELDS


def test_a_named_index_of_small_numbers_is_a_column():
    """It has a name."""
    assert table_from_frame(make_frame(pd.Index([3, 7], name="hour")), "the frame").names == ["hour", *FIELDS]


@pytest.mark.parametrize(
    ("names", "expected"), [(("symbol", "time"), ["symbol", "time"]), ((None, None), ["symbol", "timestamp"])]
)
def test_levels_of_rows_become_columns(names, expected):
    index = pd.MultiIndex.from_arrays([["BTC/USD", "ETH/USD"], DATES], names=names)

    table = table_from_frame(make_frame(index), "the frame")

    assert table.names == [*expected, *FIELDS]
    assert table.cells[0].tolist() == ["BTC/USD", "ETH/USD"]


@pytest.mark.parametrize("levels", [("Price", "Ticker"), ("Ticker", "Price")])
@pytest.mark.parametrize("reset", [False, True])
def test_one_ticker_is_the_symbol_of_the_table(levels, reset):
    """In either order of the levels, the date in the index or not."""
    frame = downloaded("ABC", levels=levels)

    table = table_from_frame(frame.reset_index() if reset else frame, "the frame")

    assert table.names == ["Date", *FIELDS]
    assert table.symbol == "ABC"


@pytest.mark.parametrize("levels", [("Price", "Ticker"), ("Ticker", "Price")])
@pytest.mark.parametrize("reset", [False, True])
def test_several_tickers_are_part_of_the_names(levels, reset):
    frame = downloaded("A", "B", levels=levels)

    table = table_from_frame(frame.reset_index() if reset else frame, "the frame")

    assert table.names == ["Date", *(f"{ticker}:{field}" for field in FIELDS for ticker in "AB")]
    assert table.symbol == ""


def test_levels_that_pandas_wrote_as_text_are_levels():
    """`to_json` writes them as "('Close', 'ABC')"."""
    frame = downloaded("ABC")

    table = table_from_frame(frame.set_axis([str(name) for name in frame.columns], axis="columns"), "the frame")

    assert (table.names, table.symbol) == (["Date", *FIELDS], "ABC")


def test_two_levels_of_field_names_are_left_unresolved():
    """O, H, L and C are tickers as well."""
    assert join_levels([(field, ticker) for field in FIELDS for ticker in "OHLC"])[0][0] == "Open:O"


def test_numbered_columns_are_no_header():
    table = table_from_frame(make_frame(pd.RangeIndex(2), range(5)), "the frame")

    assert not table.has_header
    assert table.names == ["column 1", "column 2", "column 3", "column 4", "column 5"]


def test_equal_names_are_kept():
    """`columns` raises the error."""
    table = table_from_frame(make_frame(columns=["open", "open"]), "the frame")

    assert table.names == ["timestamp", "open", "open"]
    assert table.cells.to_numpy()[:, 1:].tolist() == [[0, 1], [2, 3]]


def test_an_index_of_a_name_that_is_taken_is_kept_beside_it():
    assert table_from_frame(make_frame(columns=["timestamp", "close"]), "the frame").names == [
        "level_0",
        "timestamp",
        "close",
    ]


def test_an_empty_frame_is_an_empty_table():
    table = table_from_frame(pd.DataFrame(), "the frame")

    assert (table.names, len(table.cells)) == ([], 0)


@pytest.mark.parametrize("what", [None, np.ones((2, 5)), pd.Series([1.0]), make_frame().to_records(), [[1, 2]]])
def test_other_types_are_rejected(what):
    with pytest.raises(InvalidArgument, match=f"expected a pandas DataFrame, found {type(what).__name__}"):
        Bars.from_frame(make_key("any", "BTC/USD", "1d"), what)


ODD_CELLS = (
    *(None, np.nan, pd.NaT, pd.NA, "x", "", b"1", True, 1j, [1], {"a": 1}, (1, 2), set(), object(), "\ud800", "\0"),
    *(Decimal("sNaN"), Decimal("NaN"), Decimal("1e999"), float("inf"), 10**400, -1, 0, np.float16(1), np.str_("1")),
    *(pd.Period("2024-01"), pd.Interval(0, 1), pd.Timedelta("1h"), dt.timedelta(1), np.datetime64("NaT"), range(3)),
    *(dt.date(2024, 1, 1), dt.time(1), dt.datetime(9999, 12, 31), pd.Timestamp("2024-01-01", tz="Asia/Tokyo")),  # noqa: DTZ001 - as people have them
)
ODD_COLUMNS = (
    lambda cells: cells.astype("category"),
    lambda cells: cells.astype(str).astype("category"),
    lambda cells: cells.map(lambda cell: Decimal(repr(cell)) if isinstance(cell, float) else cell),
    lambda cells: cells.index.to_series() % 2 == 0,
    lambda cells: cells.index.to_series() + 1j,
    lambda cells: pd.Series(pd.period_range("2024", periods=len(cells), freq="h")),
    lambda cells: pd.Series(pd.interval_range(0, len(cells))),
    lambda cells: pd.Series(pd.to_timedelta(range(len(cells)), unit="h")),
    lambda cells: pd.Series(pd.arrays.SparseArray(np.arange(len(cells)) * 1.5)),
    lambda cells: pd.Series([pd.NA] * len(cells), dtype="Int64"),
    lambda cells: pd.Series([True] * len(cells), dtype="boolean"),
    lambda cells: pd.Series([[1]] * len(cells), dtype=pd.ArrowDtype(pa.list_(pa.int64()))),
    lambda cells: pd.Series([Decimal(1)] * len(cells), dtype=pd.ArrowDtype(pa.decimal128(9, 2))),
    lambda cells: pd.Series([dt.date(2024, 1, 1)] * len(cells), dtype="date32[pyarrow]"),
    lambda cells: pd.Series(cells.index * 10**16),
    lambda cells: pd.Series(pd.date_range("2024", periods=len(cells), freq="h", tz="US/Eastern")),
)


def break_column(frame: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    """Put odd cells into a column, replace it by an odd one, or make it the index."""
    name = frame.columns[random.integers(len(frame.columns))]
    cells = frame[name].reset_index(drop=True)
    if random.random() < 0.5:
        cells = ODD_COLUMNS[random.integers(len(ODD_COLUMNS))](cells)
    else:
        is_odd = random.random(len(cells)) < random.choice([0.1, 1])
        odd = [ODD_CELLS[place] for place in random.integers(len(ODD_CELLS), size=len(cells))]
        cells = pd.Series(
            [odd_cell if use else cell for cell, odd_cell, use in zip(cells, odd, is_odd, strict=True)], dtype=object
        )
    name = name if random.random() < 0.8 else str(random.choice(["symbol", "complete", "contract", "interval", "Kod"]))
    if random.random() < 0.1:
        return frame.set_axis(pd.Index(cells), axis="index")
    return frame.assign(**{name: cells.array})


@pytest.mark.parametrize("seed", range(60))
def test_a_frame_of_odd_cells_is_read_or_rejected(seed):
    """No other error is raised."""
    random = np.random.default_rng(seed)
    prices = 100 + random.random(8)
    ohlcv = {"open": prices, "high": prices + 1, "low": prices - 1, "close": prices, "volume": prices}
    frame = pd.DataFrame({"time": pd.date_range("2024-01-01", periods=8, tz=random.choice([None, "UTC"]))} | ohlcv)
    for _ in range(random.integers(1, 3)):
        frame = break_column(frame, random)

    try:
        bars = Bars.from_frame(make_key("any", "BTC/USD", "1d"), frame)
    except ForecasterError:
        return

    assert np.isin(bars.close, prices).all()


def test_timestamps_of_an_impossible_year_with_a_zone_are_rejected_with_their_row():
    """Nanoseconds declared as microseconds."""
    times = pd.Series(np.array([1_704_067_200_000_000_000, 1_704_070_800_000_000_000]).astype("datetime64[us]"))
    frame = pd.DataFrame({"time": times.dt.tz_localize("UTC"), "open": 1.0, "high": 2.0, "low": 1.0, "close": 1.5})

    with pytest.raises(BadPayload, match="expected a year from 1600 to 2199 in row 0"):
        read_table(table_from_frame(frame, "frame"), ParseOptions())
