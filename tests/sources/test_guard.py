"""Rows of an answer become bars, or are refused by name."""

import json
import math

import numpy as np
import pytest

from forecaster.bars import NO_TIME, SeriesKey
from forecaster.errors import BadPayload
from forecaster.sources.guard import ANY, KEPT_CHARACTERS, check_place, pair_rows, read_body, read_rows

KEY = SeriesKey.of("binance", "BTC/USDT", "1h")
START = 1_718_000_000_000 // KEY.timeframe.ms * KEY.timeframe.ms


def make_row(position=0, **changes):
    row = {
        "open_time": START + position * KEY.timeframe.ms,
        "open": 10,
        "high": 12.5,
        "low": 9,
        "close": 11,
        "volume": 3,
    }
    return list((row | changes).values())


def read(rows):
    return read_rows("binance", KEY, rows, first_seen_at=START + 1)


def test_good_rows_become_bars_bit_for_bit():
    fetched = read([make_row(0), make_row(1, close=10.1)])

    assert fetched.rejected == []
    assert fetched.bars.open_time.tolist() == [START, START + KEY.timeframe.ms]
    assert fetched.bars.ohlcv_TF.tolist() == [[10, 12.5, 9, 11, 3], [10, 12.5, 9, 10.1, 3]]
    assert set(fetched.bars.first_seen_at) == {START + 1}


def test_no_rows_are_no_bars():
    fetched = read([])

    assert len(fetched.bars) == 0
    assert fetched.rejected == []


def test_rows_are_sorted_and_the_later_of_two_versions_stands():
    fetched = read([make_row(1), make_row(0), make_row(1, close=10.5)])

    assert fetched.bars.open_time.tolist() == [START, START + KEY.timeframe.ms]
    assert fetched.bars.close.tolist() == [11, 10.5]


@pytest.mark.parametrize("answer", [None, {}, "text", 7, (make_row(),)], ids=repr)
def test_an_answer_that_is_no_list_is_no_payload(answer):
    with pytest.raises(BadPayload, match=r"binance: expected a list of rows for BTC/USDT, found "):
        read(answer)


@pytest.mark.parametrize("row", [None, {}, "text", [], make_row()[:5], [*make_row(), 1]], ids=repr)
def test_one_row_of_another_shape_spoils_the_answer(row):
    with pytest.raises(BadPayload, match="expected rows of 6 entries for BTC/USDT"):
        read([make_row(), row])


def test_rows_without_a_single_number_are_not_bars():
    """Some of ccxt's parsers make such rows of an HTML page, one for each letter."""
    with pytest.raises(BadPayload, match="expected rows of numbers for BTC/USDT"):
        read([[None] * 6, [None] * 6])


@pytest.mark.parametrize("value", [None, "10", True, [10], 1j], ids=repr)
@pytest.mark.parametrize("name", ["open", "high", "low", "close", "volume"])
def test_a_row_with_something_else_than_a_number_is_refused_alone(name, value):
    fetched = read([make_row(0), make_row(1, **{name: value}), make_row(2)])

    (row,) = fetched.rejected
    assert fetched.bars.open_time.tolist() == [START, START + 2 * KEY.timeframe.ms]
    assert row.open_time == START + KEY.timeframe.ms
    assert row.reason.startswith(f"{name} must be a number, found")
    assert sum(math.isnan(each) for each in row.values) == 1


@pytest.mark.parametrize("time", [None, "1718000000000", START + 0.5, math.nan, math.inf, -1, 10**30], ids=repr)
def test_a_row_without_a_usable_open_time_is_refused_alone(time):
    fetched = read([make_row(0), make_row(1, open_time=time)])

    (row,) = fetched.rejected
    assert fetched.bars.open_time.tolist() == [START]
    assert row.open_time == NO_TIME
    assert row.reason.startswith("open time must be")
    assert row.values == (10, 12.5, 9, 11, 3)


def test_an_open_time_may_come_as_a_whole_float():
    assert read([make_row(open_time=float(START))]).bars.open_time.tolist() == [START]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"open": math.nan}, "every value must be finite"),
        ({"high": 10**400}, "every value must be finite"),
        ({"low": -1}, "prices must be above 0"),
        ({"low": 10.5}, "low must not be above open or close"),
        ({"open_time": START + 60_000}, "open time must be on the 1h grid of 24/7"),
    ],
)
def test_numbers_that_are_no_bar_are_refused_by_the_rule_of_bars(changes, reason):
    fetched = read([make_row(1), make_row(0, **changes)])

    assert [row.reason for row in fetched.rejected] == [reason]
    assert len(fetched.bars) == 1


def test_numbers_of_numpy_are_numbers():
    assert len(read([[np.int64(START), *np.float64([10, 12, 9, 11, 3])]]).bars) == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "expected a JSON list or object, found ''"),
        ("null", "expected a JSON list or object, found 'null'"),
        ('"text"', "expected a JSON list or object"),
        ("<html>Back soon.</html>", "expected a JSON list or object, found '<html>"),
        ("[1, 2", "expected JSON, found"),
        ("[NaN]", "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ("[" * 17 + "]" * 17, "at most 16 deep, found '17 deep'"),
        ("[" * 100_000 + "]" * 100_000, "found '100000 deep'"),
        ("[" + "9" * 5000 + "]", "expected JSON, found"),
    ],
    ids=["nothing", "null", "text", "page", "truncated", "nan", "infinity", "deep", "very deep", "long number"],
)
def test_a_body_that_is_no_answer(text, found):
    with pytest.raises(BadPayload, match=found) as refused:
        read_body("binance", text)

    assert refused.value.body == text[:KEPT_CHARACTERS]


@pytest.mark.parametrize("text", ["[]", " [[1]]", '{"a": "[[[[[[[[[[[[[[[[[[[[["}', r'["\"[[[[[[[[[[[[[[[[[[[[["]'])
def test_a_body_that_is_one(text):
    """Brackets within a text nest nothing."""
    assert read_body("binance", text) == json.loads(text)


@pytest.mark.parametrize(
    ("answer", "path"),
    [([], ()), ({"data": {"ohlc": [1]}}, ("data", "ohlc")), ({"result": {"XBT": [], "last": 1}}, ("result", ANY))],
)
def test_rows_are_where_they_should_be(answer, path):
    check_place("kraken", answer, path, "body")


@pytest.mark.parametrize(
    ("answer", "path"),
    [({"a": 1}, ()), ({"data": []}, ("data", "ohlc")), ({"result": {"last": 1}}, ("result", ANY)), ([], ("data",))],
)
def test_an_answer_without_rows_is_not_an_empty_page(answer, path):
    with pytest.raises(BadPayload, match="expected a list of rows") as refused:
        check_place("kraken", answer, path, "body")

    assert refused.value.body == "body"


def test_a_raw_row_of_another_shape_is_refused_alone():
    """With what it was, whatever the parser would have made of it."""
    raw = [["1", "2", "3"], ["1", "2"], ["1", ["2"], "3"], ["4", "5", "6"]]
    rows = pair_rows("binance", raw, lambda row: [START, *(float(one) for one in row), 1.0, 1.0])

    assert [row.fault for row in rows] == [
        "",
        "expected 3 entries, as most rows have, found 2",
        "expected entries of text or numbers, found ['2']",
        "",
    ]
    assert [row.raw for row in rows] == raw
    assert [row.body for row in read([make_row(), *rows[1:3]]).rejected] == ['["1", "2"]', '["1", ["2"], "3"]']


def test_no_raw_rows_are_no_rows():
    assert pair_rows("binance", None, list) == pair_rows("binance", [], list) == []


def test_letters_are_no_raw_rows():
    with pytest.raises(BadPayload, match="expected a list of rows"):
        pair_rows("binance", list("<html>"), list)


def test_rows_of_another_timeframe_are_refused():
    """Some venues' names of timeframes are wrong: eight hours where four were asked for."""
    with pytest.raises(BadPayload, match=r"expected rows 1h apart for BTC/USDT, found '7200 s apart'"):
        read([make_row(2 * i) for i in range(8)])


def test_rows_of_a_quiet_market_are_not():
    """Few rows, or rows at all distances, say nothing of the timeframe."""
    assert len(read([make_row(2 * i) for i in range(7)]).bars) == 7
    assert len(read([make_row(2 * i) for i in range(8)] + [make_row(19)]).bars) == 9


@pytest.mark.parametrize("entry", ["NaN", "inf", "-Infinity", "1_000", " 7", "\u0667", True])
def test_what_only_python_takes_for_a_number_is_none(entry):
    (row,) = pair_rows("binance", [["1", entry]], list)

    assert row.fault.startswith("expected entries of text or numbers, found ")


@pytest.mark.parametrize("entry", ["7", "7.", ".7", "-7e-3", "+7E10", "", "2024-01-01T00:00:00Z", None, 7, 7.5])
def test_numbers_and_texts_of_json_are_left_to_the_parser(entry):
    (row,) = pair_rows("binance", [["1", entry]], list)

    assert (row.fault, list(row)) == ("", ["1", entry])
