"""Rows of an answer become bars, or are rejected with a reason."""

import json
import math

import numpy as np
import pytest

from forecaster.bars import NO_TIME, SeriesKey
from forecaster.errors import BadPayload
from forecaster.sources.exchange.guard import (
    ANY_KEY,
    MAX_BODY_CHARACTERS,
    Row,
    anchor_hint,
    bars_from_rows,
    check_rows_path,
    parse_body,
    parse_rows,
)
from forecaster.timeframe import Timeframe
from tests.builders import HOUR_MS, utc_ms

KEY = SeriesKey("binance", "BTC/USDT", "1h")
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


def read(rows, key=KEY):
    return bars_from_rows("binance", key, rows, first_seen_at=START + 1)


def test_valid_rows_become_bars_bit_for_bit():
    fetched = read([make_row(0), make_row(1, close=10.1)])

    assert fetched.rejected == []
    assert fetched.bars.open_time.tolist() == [START, START + KEY.timeframe.ms]
    assert fetched.bars.ohlcv_TF.tolist() == [[10, 12.5, 9, 11, 3], [10, 12.5, 9, 10.1, 3]]
    assert set(fetched.bars.first_seen_at) == {START + 1}


def test_no_rows_are_no_bars():
    fetched = read([])

    assert len(fetched.bars) == 0
    assert fetched.rejected == []


def test_rows_are_sorted_and_the_later_version_is_kept():
    fetched = read([make_row(1), make_row(0), make_row(1, close=10.5)])

    assert fetched.bars.open_time.tolist() == [START, START + KEY.timeframe.ms]
    assert fetched.bars.close.tolist() == [11, 10.5]


@pytest.mark.parametrize("answer", [None, {}, "text", 7, (make_row(),)], ids=repr)
def test_an_answer_that_is_not_a_list_is_refused(answer):
    with pytest.raises(BadPayload, match=r"binance: expected a list of rows for BTC/USDT, found "):
        read(answer)


@pytest.mark.parametrize("row", [None, {}, "text", [], make_row()[:5], [*make_row(), 1]], ids=repr)
def test_an_answer_with_a_row_of_another_shape_is_refused(row):
    with pytest.raises(BadPayload, match="expected rows of 6 entries for BTC/USDT"):
        read([make_row(), row])


def test_rows_without_a_single_number_are_not_bars():
    """Some of ccxt's parsers make such rows of an HTML page, one for each letter."""
    with pytest.raises(BadPayload, match="expected rows of numbers for BTC/USDT"):
        read([[None] * 6, [None] * 6])


NO_NUMBERS = [None, "", "10", True, [10], 1j]
EMPTY_VOLUMES = [("volume", None), ("volume", "")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name} {value!r}")
        for name in ("open", "high", "low", "close", "volume")
        for value in NO_NUMBERS
        if (name, value) not in EMPTY_VOLUMES
    ],
)
def test_a_row_with_a_non_number_is_rejected_alone(name, value):
    fetched = read([make_row(0), make_row(1, **{name: value}), make_row(2)])

    (row,) = fetched.rejected
    assert fetched.bars.open_time.tolist() == [START, START + 2 * KEY.timeframe.ms]
    assert row.open_time == START + KEY.timeframe.ms
    assert row.reason == f"{name} must be a number"
    assert sum(math.isnan(each) for each in row.values) == 1


@pytest.mark.parametrize("time", [None, "1718000000000", START + 0.5, math.nan, math.inf, -1, 10**30], ids=repr)
def test_a_row_without_a_valid_open_time_is_rejected_alone(time):
    fetched = read([make_row(0), make_row(1, open_time=time)])

    (row,) = fetched.rejected
    assert fetched.bars.open_time.tolist() == [START]
    assert row.open_time == NO_TIME
    assert row.reason in ("open time must be a number", "open time must be whole milliseconds, 1970 to 9999")
    assert row.values == (10, 12.5, 9, 11, 3)


def test_an_open_time_may_be_a_whole_float():
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
def test_numbers_that_are_not_a_bar_are_rejected_by_a_rule_of_bars(changes, reason):
    fetched = read([make_row(1), make_row(2), make_row(0, **changes)])

    assert [row.reason for row in fetched.rejected] == [reason]
    assert len(fetched.bars) == 2


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
        ("[NaN]", "NaN is not a number in JSON"),
        ("[-Infinity]", "-Infinity is not a number in JSON"),
        ("[" * 17 + "]" * 17, "at most 16 deep, found '17 deep'"),
        ("[" * 100_000 + "]" * 100_000, "found '100000 deep'"),
        ("[" + "9" * 5000 + "]", "expected JSON, found"),
    ],
    ids=["nothing", "null", "text", "page", "truncated", "nan", "infinity", "deep", "very deep", "long number"],
)
def test_an_invalid_body(text, found):
    with pytest.raises(BadPayload, match=found) as refused:
        parse_body("binance", text)

    assert refused.value.body == text[:MAX_BODY_CHARACTERS]


@pytest.mark.parametrize("text", ["[]", " [[1]]", '{"a": "[[[[[[[[[[[[[[[[[[[[["}', r'["\"[[[[[[[[[[[[[[[[[[[[["]'])
def test_a_valid_body(text):
    """Brackets in a string do not count as depth."""
    assert parse_body("binance", text) == json.loads(text)


@pytest.mark.parametrize(
    ("answer", "path"),
    [([], ()), ({"data": {"ohlc": [1]}}, ("data", "ohlc")), ({"result": {"XBT": [], "last": 1}}, ("result", ANY_KEY))],
)
def test_rows_path(answer, path):
    check_rows_path("kraken", answer, path, "body")


@pytest.mark.parametrize(
    ("answer", "path"),
    [({"a": 1}, ()), ({"data": []}, ("data", "ohlc")), ({"result": {"last": 1}}, ("result", ANY_KEY)), ([], ("data",))],
)
def test_an_answer_without_rows_is_not_an_empty_page(answer, path):
    with pytest.raises(BadPayload, match="expected a list of rows") as refused:
        check_rows_path("kraken", answer, path, "body")

    assert refused.value.body == "body"


def test_a_raw_row_of_another_length_is_rejected_alone():
    """With its raw text, without being parsed."""
    raw = [["1", "2", "3"], ["1", "2"], ["1", ["2"], "3"], ["4", "5", "6"]]
    rows = parse_rows("binance", raw, lambda row: [START, *(float(one) for one in row), 1.0, 1.0])

    assert [row.fault for row in rows] == [
        "",
        "a row must have as many entries as most rows",
        "every entry must be a text or a number",
        "",
    ]
    assert [row.raw for row in rows] == raw
    assert [row.body for row in read([make_row(), *rows[1:3]]).rejected] == ['["1", "2"]', '["1", ["2"], "3"]']


def test_no_raw_rows_are_no_rows():
    assert parse_rows("binance", None, list) == parse_rows("binance", [], list) == []


def test_letters_are_not_rows():
    with pytest.raises(BadPayload, match="expected a list of rows"):
        parse_rows("binance", list("<html>"), list)


@pytest.mark.parametrize(("name", "values"), EMPTY_VOLUMES, ids=repr)
def test_a_row_without_a_volume_is_a_bar(name, values):
    """The volume is unknown, the prices are known."""
    fetched = read([make_row(0), make_row(1, **{name: values})])

    assert fetched.rejected == []
    assert fetched.bars.close.tolist() == [11, 11]
    assert np.isnan(fetched.bars.ohlcv_TF[:, 4]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (["1", None], ""),
        (["1", ""], ""),
        ({"close": "1"}, ""),
        (["1", "many"], "volume must be a number"),
        (["1", "1,5"], "volume must be a number"),
    ],
    ids=repr,
)
def test_a_volume_that_is_present_must_be_a_number(raw, fault):
    """Ccxt's parsers return None for null, for an empty text and for what they cannot read."""
    (row,) = parse_rows("binance", [raw], lambda _: [*make_row()[:5], None])

    assert row.fault == fault


FAULTS = {
    "microseconds": lambda i: make_row(open_time=(START + i * KEY.timeframe.ms) * 1000),
    "times as text": lambda i: make_row(open_time=str(START + i)),
    "prices as text": lambda i: make_row(i, close=str(10 + i)),
    "odd entries": lambda i: Row(make_row(i), [i], "every entry must be a text or a number"),
    "high below low": lambda i: make_row(i, high=1 + i / 1000),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_equal_faults_have_equal_reasons(fault):
    """A reason has no values, so that it can be counted."""
    fetched = read([FAULTS[fault](i) for i in range(128)])

    assert len(fetched.bars) == 0
    assert len(fetched.rejected) == 128
    assert len({row.reason for row in fetched.rejected}) == 1


def test_rows_of_another_timeframe_are_refused():
    """Some exchanges name timeframes wrongly: eight hours instead of four."""
    with pytest.raises(BadPayload, match=r"expected rows 1h apart for BTC/USDT, found '2h apart'"):
        read([make_row(2 * i) for i in range(8)])


@pytest.mark.parametrize("calendar", ["24/7", "24/7@16:00", "24/7@17:00 America/New_York", "XNYS"])
@pytest.mark.parametrize(("timeframe", "found"), [("1m", "1m"), ("15m", "15m"), ("1h", "1h")])
@pytest.mark.parametrize("count", [2, 5, 500])
def test_rows_closer_than_the_timeframe_are_refused(calendar, timeframe, found, count):
    """Also where some are on the grid, and where they are few: 1m rows are not 4h bars."""
    key = SeriesKey("binance", "BTC/USDT", "4h", calendar)
    start, step = int(key.trading_calendar.next_opens(key.timeframe, START, 1)[0]), Timeframe(timeframe).ms
    rows = [make_row(open_time=start + i * step) for i in range(count)]

    with pytest.raises(BadPayload, match=f"expected rows 4h apart for BTC/USDT, found '{found} apart'"):
        read(rows, key)


def test_rows_of_a_shorter_timeframe_are_refused_in_a_quiet_market():
    """Minutes with trades, about an hour apart, are not hours."""
    minutes = np.unique(np.random.default_rng(0).integers(0, 100 * 60, 150))

    with pytest.raises(BadPayload, match="expected rows 1h apart"):
        read([make_row(open_time=START + int(minute) * 60_000) for minute in minutes])


def test_rows_across_a_clock_change():
    """Days that begin at 17:00 in New York: one has 23 hours."""
    key = SeriesKey("binance", "BTC/USDT", "1d", "24/7@17:00 America/New_York")
    opens = key.trading_calendar.next_opens(key.timeframe, utc_ms("2024-03-09 22:00"), 3)
    fetched = read([make_row(open_time=int(time)) for time in opens[:2]], key)

    assert np.diff(opens).tolist() == [23 * HOUR_MS, 24 * HOUR_MS]
    assert len(fetched.bars) == 2


def test_one_row_within_a_bar_is_rejected_alone():
    """Some exchanges label the forming bar with the time of the answer."""
    fetched = read([make_row(0), make_row(1), make_row(open_time=START + HOUR_MS + 7)])

    assert fetched.bars.open_time.tolist() == [START, START + HOUR_MS]
    assert [row.reason for row in fetched.rejected] == ["open time must be on the 1h grid of 24/7"]


@pytest.mark.parametrize(
    ("timeframe", "opens", "hint"),
    [
        ("1d", [utc_ms("2024-01-01 16:00"), utc_ms("2024-01-02 16:00"), NO_TIME], "all rows open at 16:00 UTC"),
        ("4h", [utc_ms("2024-01-01 02:00"), utc_ms("2024-01-01 22:00")], "rows open every 4h from 02:00 UTC"),
        ("1d", [utc_ms("2024-01-01"), utc_ms("2024-01-02")], ""),
        ("1d", [NO_TIME, NO_TIME], ""),
        ("1d", [], ""),
    ],
    ids=["days", "four hours", "on the grid", "no times", "no rows"],
)
def test_anchor_hint_for_rows_off_the_grid(timeframe, opens, hint):
    """What they have in common, with the option that settles it."""
    told = anchor_hint(SeriesKey("binance", "BTC/USDT", timeframe), np.array(opens, np.int64))

    assert told.startswith(hint)
    assert ("`day_anchor`" in told) == bool(hint)


def test_no_anchor_hint_for_sessions():
    assert anchor_hint(SeriesKey("x", "A/USD", "1d", "XNYS"), np.array([utc_ms("2024-01-02 16:00")])) == ""


def test_rows_of_a_quiet_market_are_accepted():
    """Few rows, or uneven ones, do not show a timeframe."""
    assert len(read([make_row(2 * i) for i in range(7)]).bars) == 7
    assert len(read([make_row(2 * i) for i in range(8)] + [make_row(19)]).bars) == 9


@pytest.mark.parametrize("entry", ["NaN", "inf", "-Infinity", "1_000", " 7", "\u0667", True])
def test_numbers_for_python_only_are_unreadable(entry):
    (row,) = parse_rows("binance", [["1", entry]], list)

    assert row.fault == "every entry must be a text or a number"


@pytest.mark.parametrize("entry", ["7", "7.", ".7", "-7e-3", "+7E10", "", "2024-01-01T00:00:00Z", None, 7, 7.5])
def test_numbers_and_texts_of_json_are_left_to_the_parser(entry):
    (row,) = parse_rows("binance", [["1", entry]], list)

    assert (row.fault, list(row)) == ("", ["1", entry])
