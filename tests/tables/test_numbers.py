"""Cells as prices and volumes: exact, strict, and rejected if a comma is ambiguous."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecaster.errors import Ambiguous, BadPayload
from forecaster.tables import COLUMNS, ParseOptions
from forecaster.tables.numbers import read_numbers
from tests.tables.tables import make_table

GERMAN = "csv, utf-8, separated by ;"


def read(close, decimal=None, **table):
    """Read one column of prices."""
    numbers = read_numbers(make_table({"close": close}, **table), {"close": 0}, ParseOptions(decimal=decimal))
    return numbers.ohlcv_TF[:, COLUMNS.index("close")].tolist()


def read_volume(volume):
    numbers = read_numbers(
        make_table({"close": ["1.5"] * len(volume), "volume": volume}), {"close": 0, "volume": 1}, ParseOptions()
    )
    return numbers.ohlcv_TF[:, COLUMNS.index("volume")].tolist()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_exact_to_the_last_bit(value):
    assert read([repr(value)]) == [value]


@given(st.integers(0, 10**9), st.integers(1, 6), st.sampled_from([",", "'", " ", "\u00a0", "\u202f", "’"]))
def test_thousands_with_a_decimal_point_equal_the_plain_number(whole, places, by):
    """The second cell shows the sign if the first does not."""
    plain = f"{whole}.{'7' * places}"
    spelled = f"{whole:,}".replace(",", by) + plain[len(str(whole)) :]

    assert read([spelled, "0.5"]) == [float(plain), 0.5]


@given(st.integers(0, 10**9), st.integers(1, 6), st.sampled_from([".", "'", " ", "\u00a0"]))
def test_thousands_with_a_decimal_comma_equal_the_plain_number(whole, places, by):
    plain = f"{whole}.{'7' * places}"
    spelled = f"{whole:,}".replace(",", by) + plain[len(str(whole)) :].replace(".", ",")

    assert read([spelled, "0,5"]) == [float(plain), 0.5]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1.234", "2.5"], [1.234, 2.5]),
        (["145.123", "146.000"], [145.123, 146.0]),
        (["1.234", "0.999", "1"], [1.234, 0.999, 1.0]),
        (["1.234", "1234"], [1.234, 1234.0]),
        (["2430,0", "2426,98", "8817"], [2430.0, 2426.98, 8817.0]),
        (["1,234", "2,345.5"], [1234.0, 2345.5]),
        (["1.234,5", "2.345"], [1234.5, 2345.0]),
        (["1,234,567", "1,234"], [1234567.0, 1234.0]),
        (["1.234.567", "1.234"], [1234567.0, 1234.0]),
        (["0,123"], [0.123]),
        (["1234,567"], [1234.567]),
        (["1 234,567"], [1234.567]),
        (["1,23,456.5"], [123456.5]),
        (["1'234", "1'165"], [1234.0, 1165.0]),
        (["1'165", "2.5"], [1165.0, 2.5]),
        (["$1,234.50", "-$2", "$-3", "4.5 €", "USD 5", "−6", "+7"], [1234.5, -2.0, -3.0, 4.5, 5.0, -6.0, 7.0]),
        (["₩1,234.0", "Rs. 2", "Rs 3", "4 KRW"], [1234.0, 2.0, 3.0, 4.0]),
        (["1e-7", "1E5", "2.5e+03"], [1e-7, 1e5, 2500.0]),
        ([".5", "1."], [0.5, 1.0]),
    ],
)
def test_cells_show_the_decimal_sign(cells, values):
    assert read(cells) == values


@pytest.mark.parametrize(
    "cell",
    ["", " ", "-", "--", "—", "NaN", "nan", "null", "NULL", "None", "N/A", "NA", "#N/A", ".", None, np.nan, pd.NA],
)
def test_markers_of_missing_values_are_missing(cell):
    values = read(["1.5", cell])

    assert values[0] == 1.5
    assert np.isnan(values[1])
    assert np.isnan(read_volume(["2", cell])[1])


@pytest.mark.parametrize(
    "cell",
    [
        "much",
        "1_000",
        "inf",
        "-inf",
        "1e999",
        "5%",
        "(5)",
        "1.2K",
        "1,2,3",
        "12.34.5",
        "٣",
        "1 2",
        "--5",
        "0x10",
        "1\ud800",
        True,
        [1],
    ],
)
def test_other_text_is_rejected_with_its_line(cell):
    with pytest.raises(BadPayload, match="expected a number for close in line 3, found"):
        read(["1.5", cell])


def test_volumes_may_have_suffixes():
    assert read_volume(["86.30M", "1.2K", "3B", "0.5T", "1.07 m", "-"])[:5] == [86.3e6, 1200.0, 3e9, 5e11, 1.07e6]
    assert read_volume(["1.2Bn", "2mn", "3.5 Cr"]) == [1.2e9, 2e6, 3.5e7]


@pytest.mark.parametrize("cells", [["-1", "5"], [-1, 5], ["-1.0", "5"]])
def test_a_volume_of_minus_one_is_unknown(cells):
    """Interactive Brokers writes it for bid and ask bars."""
    volume = read_volume(pd.Series(cells))

    assert np.isnan(volume[0])
    assert volume[1] == 5


def test_a_word_is_not_a_volume():
    with pytest.raises(BadPayload, match="a number for volume in line 3"):
        read_volume(["1", "much"])


@pytest.mark.parametrize("cells", [["1,234", "2,345"], ["1,234", "1.234"], ["120", "8,817"]])
def test_an_ambiguous_comma_is_rejected(cells):
    with pytest.raises(Ambiguous, match=r"--decimal .* in line \d, which may have decimals or thousands") as caught:
        read(cells)

    assert caught.value.option == "decimal"


@pytest.mark.parametrize("cells", [["998", "1.002"], ["12.345", "", "7"], ["1.002", "-998"]])
def test_a_point_may_separate_thousands_if_other_prices_are_whole(cells):
    """Prices that cross 1,000 look so, in any language of the header."""
    with pytest.raises(Ambiguous, match=r"`decimal` to be set .* beside .*: a point before thousands\?") as caught:
        read(cells)

    assert caught.value.option == "decimal"
    assert np.nan_to_num(read(cells, ","))[0] in {998, 12345, 1002}


@pytest.mark.parametrize("cells", [["110'165", "110'000"], ["99’312"], ["110'165", "98"]])
def test_32nds_of_a_point_are_not_thousands(cells):
    """Bond futures are quoted this way."""
    with pytest.raises(BadPayload, match=r"prices in decimals, found .* in line 2, which may be 32nds of a point"):
        read(cells)


@pytest.mark.parametrize("dtype", ["str", object])
def test_a_column_of_plain_numbers_is_read_at_once_and_as_exactly(dtype):
    cells = ["1.", "+2.5", "1e5", "0.1", "12345678901234567", "-0.0", "4.9e-324"]

    assert read(pd.Series(cells, dtype=dtype)) == list(map(float, cells))


@pytest.mark.parametrize("dtype", ["str", object])
def test_a_plain_number_that_is_too_large_is_rejected(dtype):
    with pytest.raises(BadPayload, match="a number for close in line 3"):
        read(pd.Series(["1.5", "1e999"], dtype=dtype))


@pytest.mark.parametrize(
    "table",
    [
        {"form": GERMAN},
        {"columns": {"close": 0, "Datum": ["2024-01-02"]}},
        {"columns": {"close": 0, "date": ["02.01.2024"]}},
    ],
)
def test_an_ambiguous_dot_is_rejected_where_decimal_commas_are_usual(table):
    columns = {name: ["145.123"] if cells == 0 else cells for name, cells in table.get("columns", {"close": 0}).items()}
    made = make_table(columns, form=table.get("form", "csv"))

    with pytest.raises(Ambiguous, match="decimal"):
        read_numbers(made, {"close": 0}, ParseOptions())


@pytest.mark.parametrize("form", ["csv, utf-8, separated by ,", GERMAN])
def test_a_compact_time_implies_decimal_points(form):
    """Prices of yen have three decimals, and HistData separates cells by semicolons."""
    table = make_table({"1": ["20240102 170000"], "2": ["145.123"]}, form=form, has_header=False)

    assert read_numbers(table, {"close": 1}, ParseOptions()).ohlcv_TF[0, 3] == 145.123


@pytest.mark.parametrize(("decimal", "values"), [(".", [1234.0, 2.345]), (",", [1.234, 2345.0])])
def test_the_decimal_option_settles_it(decimal, values):
    assert read(["1,234", "2.345"], decimal) == values


@pytest.mark.parametrize(("decimal", "cell"), [(".", "2,5"), (",", "2.5")])
def test_a_cell_that_contradicts_the_decimal_option_is_rejected(decimal, cell):
    with pytest.raises(BadPayload, match="a number for close in line 3"):
        read(["1", cell], decimal)


def test_cells_that_contradict_each_other_are_named():
    with pytest.raises(BadPayload, match=r"one sign before decimals, found '1\.234,5 in line 2, 1,234\.5 in line 3'"):
        read(["1.234,5", "1,234.5"])


def test_one_column_shows_the_sign_of_all():
    table = make_table({"close": ["1,234"], "volume": ["86.30M"]})

    numbers = read_numbers(table, {"close": 0, "volume": 1}, ParseOptions())

    assert numbers.ohlcv_TF[0, 3:].tolist() == [1234.0, 86.3e6]
    assert numbers.decimal_text == "."


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, 2]),
        pd.Series([1.0, 2.0], dtype="float32"),
        pd.Series([1, 2], dtype="Int64"),
        pd.Series([1, "2"], dtype=object),
        pd.Series([Decimal(1), Decimal(2)]),
        pd.Series(["1", "2"], dtype="category"),
        pd.Series(["1", "2"], dtype="string"),
    ],
)
def test_cells_of_a_frame_may_have_any_numeric_type(column):
    assert read(column) == [1.0, 2.0]


@pytest.mark.parametrize(
    "column",
    [pd.Series([True, False]), pd.Series(pd.to_datetime(["2024-01-02"])), pd.Series([1j])],
)
def test_other_types_are_not_numbers(column):
    with pytest.raises(BadPayload, match="a number for close in line 2"):
        read(column)


def test_a_missing_column_is_unknown():
    ohlcv_TF = read_numbers(make_table({"open": ["1"]}), {"open": 0}, ParseOptions()).ohlcv_TF

    assert np.isnan(ohlcv_TF[0]).tolist() == [False, True, True, True, True]


def test_the_cells_of_a_frame_are_unchanged():
    table = make_table({"close": ["1.5", None, " - "]})

    read_numbers(table, {"close": 0}, ParseOptions())

    assert table.cells[0].tolist() == ["1.5", None, " - "]
