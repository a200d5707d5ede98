"""Series, bars and contexts: each rule of a bar, and what a model sees."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.bars import COLUMNS, MAX_PRICE, ROUNDING_TOLERANCE, Bars, SeriesKey, fix_rounding
from forecaster.context import Context
from forecaster.errors import InvalidArgument, InvalidBars, MissingBars, NotEnoughBars
from forecaster.timeframe import Timeframe
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms

GOOD = (100.0, 110.0, 90.0, 105.0, 7.0)
START = utc_ms("2024-01-01")

BROKEN = {
    "nan": ((100.0, 110.0, 90.0, np.nan, 7.0), "every value must be finite"),
    "infinite": ((100.0, np.inf, 90.0, 105.0, 7.0), "every value must be finite"),
    "infinite volume": ((100.0, 110.0, 90.0, 105.0, np.inf), "every value must be finite"),
    "zero": ((100.0, 110.0, 0.0, 105.0, 7.0), "prices must be above 0"),
    "negative": ((-100.0, 110.0, -100.0, 105.0, 7.0), "prices must be above 0"),
    "too high": ((100.0, MAX_PRICE, 90.0, 105.0, 7.0), "prices must be below 1e+15"),
    "low above open": ((100.0, 110.0, 101.0, 105.0, 7.0), "low must not be above open or close"),
    "low above close": ((100.0, 110.0, 90.0, 89.0, 7.0), "low must not be above open or close"),
    "high below open": ((111.0, 110.0, 90.0, 105.0, 7.0), "high must not be below open or close"),
    "high below close": ((100.0, 110.0, 90.0, 111.0, 7.0), "high must not be below open or close"),
    "negative volume": ((100.0, 110.0, 90.0, 105.0, -0.1), "volume must not be negative"),
}


def hours(*numbers: int) -> list[int]:
    return [START + number * HOUR_MS for number in numbers]


@pytest.mark.parametrize("symbol", ["BTC/USDT", "BTC/USDT:USDT", "1000SHIB/USDT", "BTC/USD:BTC-240628", "SPX/USD"])
def test_a_unified_symbol_is_accepted(symbol):
    assert make_key(symbol=symbol).symbol == symbol


@pytest.mark.parametrize("symbol", ["BTCUSDT", "BTC-USDT", "BTC/", "/USDT", "BTC/USDT/X", "BTC /USDT", "BTC/USDT:", ""])
def test_another_symbol_is_refused(symbol):
    with pytest.raises(InvalidArgument) as refused:
        make_key(symbol=symbol)

    assert str(refused.value) == (f"symbol: expected a unified symbol such as BTC/USDT or SPY/USD, found {symbol!r}")


def test_an_unknown_timeframe_is_refused():
    with pytest.raises(InvalidArgument, match=r"^timeframe: expected one of 1m, .*, found '1w'$"):
        make_key(timeframe="1w")


def test_a_timeframe_may_be_a_string_or_a_timeframe():
    key = SeriesKey("binance", "BTC/USDT", Timeframe("1h"))

    assert key == SeriesKey("binance", "BTC/USDT", "1h")
    assert key.timeframe == Timeframe("1h")
    assert dataclasses.replace(key, symbol="ETH/USDT") == SeriesKey("binance", "ETH/USDT", "1h")
    assert pickle.loads(pickle.dumps(key)) == key  # noqa: S301 - our own bytes


def test_the_text_of_a_series():
    assert str(make_key("kraken", "BTC/USD", "1h")) == "kraken BTC/USD 1h"


def test_equal_names_are_one_series():
    assert make_key() == make_key()
    assert len({make_key(), make_key(), make_key(timeframe="4h"), make_key(calendar="XNYS")}) == 3


def test_a_key_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_key().symbol = "ETH/USDT"


@pytest.mark.parametrize(("row", "reason"), BROKEN.values(), ids=BROKEN)
def test_an_invalid_row_is_refused_with_its_reason(row, reason):
    """The message names the series, the row and the rule."""
    with pytest.raises(InvalidBars) as refused:
        Bars(make_key(), hours(0, 1, 2), [GOOD, row, GOOD])

    assert refused.value.row == 1
    assert refused.value.reason.startswith(reason)
    assert str(refused.value).startswith(f"binance BTC/USDT 1h: row 1: {reason}: 2024-01-01 01:00 UTC [")


@pytest.mark.parametrize("shape", [(2, 4), (2, 6), (1, 5), (3, 5), (10,)], ids=str)
def test_prices_of_another_shape_are_refused(shape):
    with pytest.raises(InvalidArgument) as refused:
        Bars(make_key(), hours(0, 1), np.full(shape, 100.0))

    assert str(refused.value) == f"bars of binance BTC/USDT 1h: expected ohlcv of shape (2, 5), found {shape}"


@pytest.mark.parametrize("second", [1, 0], ids=["again", "earlier"])
def test_open_times_must_rise(second):
    with pytest.raises(InvalidBars, match="row 1: open times must rise"):
        Bars(make_key(), hours(1, second), [GOOD, GOOD])


def test_an_open_time_must_be_on_the_grid():
    with pytest.raises(InvalidBars, match="row 1: open time must be on the 1h grid of 24/7"):
        Bars(make_key(), [START, START + HOUR_MS + 1], [GOOD, GOOD])


def test_a_stock_has_no_bar_on_a_holiday():
    key = make_key(symbol="SPX/USD", timeframe="1d", calendar="XNYS")

    with pytest.raises(InvalidBars, match="on the 1d grid of XNYS"):
        Bars(key, [utc_ms("2018-11-22 14:30")], [GOOD])


def test_the_first_invalid_row_is_named():
    """By its position, for every rule."""
    negative_volume, nan = BROKEN["negative volume"][0], BROKEN["nan"][0]

    with pytest.raises(InvalidBars, match="row 1: volume"):
        Bars(make_key(), hours(0, 1, 2), [GOOD, negative_volume, nan])


def test_the_first_rule_that_a_row_breaks_is_named():
    """In the order of the rules, as in `validate_rows`."""
    row = (111.0, 110.0, 0.0, 105.0, -1.0)
    _, rejected = Bars.validate_rows(make_key(), hours(0), [row])

    with pytest.raises(InvalidBars, match="row 0: prices must be above 0"):
        Bars(make_key(), hours(0), [row])
    assert rejected[0].reason == "prices must be above 0"


def test_a_bar_that_closes_at_the_epoch_is_a_bar():
    assert Bars(make_key(), [-HOUR_MS], [GOOD]).close_time.tolist() == [0]


@pytest.mark.parametrize(
    "row",
    [(5.0, 5.0, 5.0, 5.0, 0.0), (90.0, 110.0, 90.0, 110.0, 1.0), (1e-12, 1e-12, 1e-12, 1e-12, 1e-9)],
    ids=["flat without volume", "open is low and close is high", "tiny"],
)
def test_limits_are_inclusive(row):
    assert Bars(make_key(), [START], [row]).ohlcv_TF.tolist() == [list(row)]


def test_a_volume_may_be_unknown():
    """NaN is a valid volume; infinite and negative ones are not."""
    unknown = (*GOOD[:4], np.nan)

    bars, rejected = Bars.validate_rows(make_key(), hours(0, 1), [GOOD, unknown])

    assert Bars(make_key(), hours(0, 1), [GOOD, unknown]).ohlcv_TF[:, 4].tolist() == pytest.approx(
        [7.0, np.nan], nan_ok=True
    )
    assert np.isnan(bars.ohlcv_TF[:, 4]).tolist() == [False, True]
    assert rejected == []


def test_an_unknown_volume_is_always_the_same_bits():
    """A float has many NaNs, and digests read bytes."""
    nans = np.array([0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8000000000001], np.uint64).view(np.float64)
    ohlcv_TF = np.array([GOOD] * 3)
    ohlcv_TF[:, 4] = nans

    bars = Bars(make_key(), hours(0, 1, 2), ohlcv_TF)

    assert len(set(ohlcv_TF[:, 4].view(np.uint64).tolist())) == 3
    assert bars.ohlcv_TF[:, 4].tobytes() == np.full(3, np.nan).tobytes()


def test_a_context_of_bars_without_volume_is_the_same():
    """No forecast uses the volume."""
    bars = make_bars(count=30)
    ohlcv_TF = bars.ohlcv_TF.copy()
    ohlcv_TF[:, 4] = np.nan
    unknown = Bars(bars.key, bars.open_time, ohlcv_TF)

    contexts = [Context.ending_at(one, int(one.close_time[-1]), 20, 2) for one in (bars, unknown)]

    assert contexts[0].sha256 == contexts[1].sha256


prices = st.floats(1e-14, 8e14)
apart = st.floats(-3 * ROUNDING_TOLERANCE, 3 * ROUNDING_TOLERANCE)


@st.composite
def rows_apart(draw):
    """A row whose high and low are moved by about a rounding."""
    first, second, volume = draw(prices), draw(prices), draw(st.sampled_from([0.0, 7.0, np.nan]))
    top, bottom = max(first, second), min(first, second)
    return first, top * (1 + draw(apart)), bottom * (1 + draw(apart)), second, volume


@settings(derandomize=True, deadline=None)
@given(st.lists(rows_apart(), min_size=1, max_size=20))
def test_prices_that_differ_by_a_rounding_are_fixed(rows):
    """High becomes the higher of open and close where it is lower by less than a rounding; low likewise."""
    closed_TF, count = fix_rounding(np.array(rows))

    changed = 0
    for row, closed in zip(rows, closed_TF.tolist(), strict=True):
        open_, high, low, close, volume = row
        top, bottom = max(open_, close), min(open_, close)
        too_far = top - high >= ROUNDING_TOLERANCE * top or low - bottom >= ROUNDING_TOLERANCE * bottom
        expected = row if too_far else (open_, max(high, top), min(low, bottom), close, volume)
        changed += expected != row
        assert closed == pytest.approx(list(expected), rel=0, abs=0, nan_ok=True)
        assert too_far or closed[2] <= bottom <= top <= closed[1]
    assert count == changed


@settings(derandomize=True, deadline=None)
@given(st.lists(rows_apart(), min_size=1, max_size=20))
def test_fixing_roundings_is_idempotent(rows):
    once_TF, _ = fix_rounding(np.array(rows))

    again_TF, count = fix_rounding(once_TF)

    assert again_TF is once_TF
    assert count == 0


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(*[st.floats(width=64)] * 5), min_size=1, max_size=10))
def test_only_roundings_are_fixed(rows):
    """Open, close, volume and every price further off stay, for all numbers, NaN and infinity too."""
    before_TF = np.array(rows)

    after_TF, count = fix_rounding(before_TF.copy())

    assert after_TF[:, [0, 3, 4]].tobytes() == before_TF[:, [0, 3, 4]].tobytes()
    moved = (after_TF.view(np.int64) != before_TF.view(np.int64)).any(axis=1)
    assert int(moved.sum()) == count
    assert np.allclose(after_TF[moved], before_TF[moved], rtol=ROUNDING_TOLERANCE, atol=0, equal_nan=True)


def test_bars_without_roundings_are_the_same_array():
    """A copy takes time."""
    ohlcv_TF = make_bars().ohlcv_TF

    assert fix_rounding(ohlcv_TF) == (ohlcv_TF, 0)


def test_the_array_with_roundings_is_not_changed():
    above = np.nextafter(110.0, 111.0)
    ohlcv_TF = np.array([GOOD, (100.0, 110.0, 90.0, above, 7.0), (np.nextafter(90.0, 0.0), 110.0, 90.0, 105.0, 7.0)])
    before = ohlcv_TF.copy()

    closed_TF, count = fix_rounding(ohlcv_TF)

    assert count == 2
    assert closed_TF[1].tolist() == [100.0, above, 90.0, above, 7.0]
    assert closed_TF[2, 2] == np.nextafter(90.0, 0.0)
    assert ohlcv_TF.tolist() == before.tolist()
    assert len(Bars(make_key(), hours(0, 1, 2), closed_TF)) == 3


@pytest.mark.parametrize(
    "row",
    [
        (100.0, 110.0, 90.0, 110.0 * (1 + 2e-9), 7.0),
        (90.0 * (1 - 2e-9), 110.0, 90.0, 105.0, 7.0),
        (np.nextafter(90.0, 0.0), 110.0, 90.0, 111.0, 7.0),
    ],
    ids=["high", "low", "one of both"],
)
def test_larger_differences_are_refused(row):
    ohlcv_TF = np.array([row])

    closed_TF, count = fix_rounding(ohlcv_TF)

    assert closed_TF is ohlcv_TF
    assert count == 0
    with pytest.raises(InvalidBars, match="must not be"):
        Bars(make_key(), hours(0), closed_TF)


def test_gaps_are_allowed():
    assert len(Bars(make_key(), hours(0, 5), [GOOD, GOOD])) == 2


def test_empty_bars():
    empty = Bars.empty(make_key())

    assert len(empty) == len(empty.close_time) == len(empty.frame) == len(empty.closed_by(2**60)) == 0
    assert (empty.open_time.shape, empty.ohlcv_TF.shape) == ((0,), (0, 5))


def test_bars_cannot_be_changed():
    bars = make_bars()

    for array in (bars.open_time, bars.ohlcv_TF, bars.first_seen_at, bars.revision):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_bars_do_not_share_memory_with_the_caller():
    """A later change of the caller's array would not be checked."""
    times, values = np.array(hours(0, 1)), np.array([GOOD, GOOD])
    bars = Bars(make_key(), times, values)

    times[0], values[0] = 0, -1.0

    assert bars.open_time.tolist() == hours(0, 1)
    assert bars.ohlcv_TF.tolist() == [list(GOOD), list(GOOD)]


def test_bars_convert_numbers_to_their_dtypes():
    """Times as floats and prices as integers, as in files: the digest and the ledger read bytes."""
    ones = np.ones(2)
    bars = Bars(make_key(), np.array(hours(0, 1), np.float64), np.full((2, 5), 100), ones, ones)

    assert [one.dtype for one in (bars.open_time, bars.first_seen_at, bars.revision)] == [np.int64] * 3
    assert bars.ohlcv_TF.dtype == np.float64
    assert bars.first_seen_at.tolist() == bars.revision.tolist() == [1, 1]


def test_first_seen_at_is_0_by_default():
    sifted, _ = Bars.validate_rows(make_key(), hours(0), [GOOD])

    assert sifted.first_seen_at.tolist() == Bars(make_key(), hours(0), [GOOD]).first_seen_at.tolist() == [0]


def test_close_times_are_those_of_the_calendar():
    key = make_key(symbol="SPX/USD", timeframe="1d", calendar="XNYS")

    bars = make_bars(key, count=2, start=utc_ms("2018-11-21"))

    assert bars.close_time.tolist() == [utc_ms("2018-11-21 21:00"), utc_ms("2018-11-23 18:00")]


def test_close_is_the_fourth_column():
    bars = Bars(make_key(), hours(0), [GOOD])

    assert COLUMNS.index("close") == 3
    assert bars.close.tolist() == [105.0]


def test_a_single_first_seen_at_applies_to_all_bars():
    bars = Bars(make_key(), hours(0, 1), [GOOD, GOOD], np.full(1, 42))

    assert bars.first_seen_at.tolist() == [42, 42]
    assert bars.revision.tolist() == [0, 0]


def test_closed_by():
    bars = make_bars(count=5)
    close = int(bars.close_time[2])

    assert [len(bars.closed_by(time)) for time in (0, close - 1, close, close + 1, 2**60)] == [0, 2, 3, 3, 5]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(slice(1, 3), [1, 2]), (np.array([0, 3]), [0, 3]), (np.array([True, False, False, True]), [0, 3])],
    ids=["slice", "positions", "mask"],
)
def test_selection(rows, expected):
    whole = Bars(make_key(), hours(0, 1, 2, 3), [GOOD] * 4, np.arange(4), np.arange(4) + 10)

    some = whole[rows]

    assert some.open_time.tolist() == hours(*expected)
    assert some.first_seen_at.tolist() == expected
    assert some.revision.tolist() == [10 + row for row in expected]


def test_bars_cannot_be_reversed():
    with pytest.raises(InvalidBars, match="open times must rise"):
        make_bars(count=3)[::-1]


def test_validate_rows_keeps_valid_rows_and_gives_reasons_for_the_others():
    rows = [GOOD, *(row for row, _ in BROKEN.values()), GOOD]

    bars, rejected = Bars.validate_rows(make_key(), hours(*range(len(rows))), rows, first_seen_at=42)

    assert bars.open_time.tolist() == hours(0, len(rows) - 1)
    assert bars.first_seen_at.tolist() == [42, 42]
    assert [row.reason for row in rejected] == [reason for _, reason in BROKEN.values()]
    assert [row.open_time for row in rejected] == hours(*range(1, len(rows) - 1))


def test_a_rejected_row_shows_what_it_held():
    _, rejected = Bars.validate_rows(make_key(), [START + 1], [GOOD])

    assert rejected[0].open_time == START + 1
    assert rejected[0].values == GOOD  # noqa: PD011 - a row of ours, not of pandas
    assert rejected[0].reason == "open time must be on the 1h grid of 24/7"


def test_validate_rows_rejects_a_missing_price():
    """Exchanges answer with null for an unknown price."""
    bars, rejected = Bars.validate_rows(make_key(), hours(0, 1), [GOOD, (100.0, None, 90.0, 105.0, 7.0)])

    assert bars.open_time.tolist() == hours(0)
    assert [row.reason for row in rejected] == ["every value must be finite"]


def test_validate_rows_sorts_rows():
    bars, rejected = Bars.validate_rows(make_key(), hours(2, 0, 1), [GOOD, (*GOOD[:4], 0.0), (*GOOD[:4], 1.0)])

    assert bars.open_time.tolist() == hours(0, 1, 2)
    assert bars.ohlcv_TF[:, 4].tolist() == [0.0, 1.0, 7.0]
    assert rejected == []


def test_validate_rows_keeps_the_later_of_two_rows_of_one_time():
    bars, rejected = Bars.validate_rows(make_key(), hours(0, 1, 0), [GOOD, GOOD, (*GOOD[:4], 8.0)])

    assert bars.open_time.tolist() == hours(0, 1)
    assert bars.ohlcv_TF[:, 4].tolist() == [8.0, 7.0]
    assert rejected == []


def test_validate_rows_does_not_replace_a_valid_row_by_an_invalid_one():
    bars, rejected = Bars.validate_rows(make_key(), hours(0, 0), [GOOD, BROKEN["zero"][0]])

    assert bars.ohlcv_TF.tolist() == [list(GOOD)]
    assert [row.reason for row in rejected] == ["prices must be above 0"]


def test_validate_rows_of_no_rows():
    bars, rejected = Bars.validate_rows(make_key(), [], [])

    assert (len(bars), rejected) == (0, [])


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from([GOOD, *(row for row, _ in BROKEN.values())])), max_size=30)
)
def test_validate_rows_keeps_replaces_or_rejects_every_row(rows):
    """`Bars` accepts the rows that are kept, and every row is accounted for."""
    bars, rejected = Bars.validate_rows(make_key(), hours(*(hour for hour, _ in rows)), [row for _, row in rows])

    assert set(bars.open_time.tolist()) == {START + hour * HOUR_MS for hour, row in rows if row is GOOD}
    assert len(rejected) == sum(row is not GOOD for _, row in rows)
    assert len(Bars(bars.key, bars.open_time, bars.ohlcv_TF)) == len(bars)


def test_frame_round_trip():
    bars = make_bars()

    back = Bars.from_frame(bars.key, bars.frame)

    assert list(bars.frame.columns) == list(COLUMNS)
    assert (str(bars.frame.index.tz), bars.frame.index.name) == ("UTC", "open_time")
    assert back.open_time.tolist() == bars.open_time.tolist()
    assert back.ohlcv_TF.tolist() == bars.ohlcv_TF.tolist()


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_frame_times_without_a_zone_are_utc(zone):
    bars = make_bars(count=3)
    naive = bars.frame.tz_localize(None)

    frame = naive if zone is None else bars.frame.tz_convert(zone)

    assert Bars.from_frame(bars.key, frame).open_time.tolist() == bars.open_time.tolist()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_all_units_of_an_index(unit):
    bars = make_bars(count=3)
    frame = bars.frame.set_axis(bars.frame.index.as_unit(unit))

    assert Bars.from_frame(bars.key, frame).open_time.tolist() == bars.open_time.tolist()


def test_frame_columns_by_name_with_optional_volume():
    frame = make_bars(count=3).frame

    bars = Bars.from_frame(make_key(), frame[["close", "low", "open", "high"]])

    assert bars.ohlcv_TF[:, :4].tolist() == frame.iloc[:, :4].to_numpy().tolist()
    assert np.isnan(bars.ohlcv_TF[:, 4]).all()


def test_the_frame_of_the_caller_is_not_changed():
    frame = make_bars(count=3).frame
    before = frame.copy(deep=True)

    Bars.from_frame(make_key(), frame)

    pd.testing.assert_frame_equal(frame, before)


def test_a_session_date_is_its_open():
    key = make_key(symbol="SPX/USD", timeframe="1d", calendar="XNYS")
    frame = pd.DataFrame([GOOD], columns=list(COLUMNS), index=pd.to_datetime(["2018-11-23"]))

    assert Bars.from_frame(key, frame).open_time.tolist() == [utc_ms("2018-11-23 14:30")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda frame: frame.drop(columns="low"),
            r"expected columns open, high, low, close .*, found \['open_time', 'open', 'high', 'close', 'volume'\]",
        ),
        (
            lambda frame: frame.reset_index(drop=True),
            r"expected .* a time .*, found \['open', 'high', 'low', 'close', 'volume'\]",
        ),
        (
            lambda frame: frame.astype(object).replace({"high": frame["high"].iloc[1]}, "much"),
            "expected a number for high in row 1, found '?much'?",
        ),
    ],
    ids=["without a column", "without times", "with words"],
)
def test_a_frame_that_is_not_bars_is_refused(change, message):
    with pytest.raises(InvalidArgument) as refused:
        Bars.from_frame(make_key(), change(make_bars(count=3).frame))

    assert re.fullmatch(f"frame: {message}", str(refused.value))


def test_a_frame_with_a_missing_value_is_refused():
    frame = make_bars(count=3).frame
    frame.iloc[1, 0] = np.nan

    with pytest.raises(InvalidBars, match="every value must be finite: 2024-01-01 01:00 UTC"):
        Bars.from_frame(make_key(), frame)


def test_a_context_is_the_last_slots_up_to_the_cutoff():
    bars = make_bars(count=50)
    cutoff = int(bars.close_time[29])

    context = Context.ending_at(bars, cutoff, length=10, min_bars=2)

    assert context.cutoff == cutoff
    assert context.ohlc_CT.dtype == np.float64
    assert context.ohlc_CT.tolist() == bars.ohlcv_TF[20:30, :4].T.tolist()
    assert context.open_time.tolist() == bars.open_time[20:30].tolist()
    assert context.last_close == bars.close[29]
    assert not np.isnan(context.ohlc_CT).any()


def test_a_missing_bar_is_nan_in_its_slot_of_the_context():
    """It is not filled, and the bars beside it stay in their slots."""
    bars = make_bars(count=10)
    holes = [3, 4, 7]

    context = Context.ending_at(bars[np.delete(np.arange(10), holes)], int(bars.close_time[9]), 10, 2)

    expected = bars.ohlcv_TF[:, :4].T.copy()
    expected[:, holes] = np.nan
    np.testing.assert_array_equal(context.ohlc_CT, expected)
    assert np.isnan(context.ohlc_CT).mean() == pytest.approx(0.3)


def test_a_context_begins_with_the_first_bar():
    bars = make_bars(count=5)

    context = Context.ending_at(bars, int(bars.close_time[-1]), length=100, min_bars=2)

    assert context.ohlc_CT.shape == (4, 5)


def test_a_context_cannot_be_changed():
    """Models share it."""
    with pytest.raises(ValueError, match="read-only"):
        Context.ending_at(make_bars(count=5), START + 5 * HOUR_MS, 5, 2).ohlc_CT[0, 0] = 1.0


def test_a_gap_at_the_start_of_a_context_is_cut_off():
    bars = make_bars(count=10)

    context = Context.ending_at(bars[np.delete(np.arange(10), [2, 3])], int(bars.close_time[9]), 8, 2)

    assert context.ohlc_CT.tolist() == bars.ohlcv_TF[4:, :4].T.tolist()


def test_a_weekend_is_no_gap_in_sessions():
    key = make_key(symbol="SPX/USD", timeframe="1d", calendar="XNYS")
    bars = make_bars(key, count=30, start=utc_ms("2018-11-01"))

    context = Context.ending_at(bars, utc_ms("2018-11-23 18:00"), length=10, min_bars=10)

    assert context.ohlc_CT.shape == (4, 10)
    assert not np.isnan(context.ohlc_CT).any()


def test_the_bar_of_the_cutoff_must_be_there():
    bars = make_bars(count=10)
    newest = int(bars.close_time[-1])

    with pytest.raises(MissingBars) as refused:
        Context.ending_at(bars, newest + HOUR_MS, length=5, min_bars=2)

    assert refused.value.cutoff == newest + HOUR_MS
    assert str(refused.value) == (
        "binance BTC/USDT 1h: expected a bar that closes at 2024-01-01 11:00 UTC, "
        "the newest closes at 2024-01-01 10:00 UTC"
    )


def test_a_gap_at_the_cutoff_is_a_missing_bar_despite_later_bars():
    bars = make_bars(count=10)

    with pytest.raises(MissingBars, match="the newest closes at 2024-01-01 05:00 UTC"):
        Context.ending_at(bars[np.delete(np.arange(10), 5)], int(bars.close_time[5]), length=5, min_bars=2)


@pytest.mark.parametrize("cutoff", ["2023-12-31", "2024-01-01"])
def test_nothing_before_the_cutoff_is_a_missing_bar(cutoff):
    with pytest.raises(MissingBars, match="there are none"):
        Context.ending_at(make_bars(), utc_ms(cutoff), length=5, min_bars=2)


def test_no_bars_at_all_is_a_missing_bar():
    with pytest.raises(MissingBars, match="there are none"):
        Context.ending_at(Bars.empty(make_key()), START, length=5, min_bars=2)


def test_a_cutoff_before_the_first_session_is_a_missing_bar():
    key = make_key(symbol="SPX/USD", timeframe="1d", calendar="XNYS")

    with pytest.raises(MissingBars):
        Context.ending_at(make_bars(key), utc_ms("1980-01-01"), length=5, min_bars=2)


@pytest.mark.parametrize("minutes", [1, 30, 59])
def test_a_cutoff_at_which_no_bar_closes_is_a_missing_bar(minutes):
    """Otherwise step 1 of the forecast would be off by one bar."""
    bars = make_bars(count=10)

    with pytest.raises(MissingBars):
        Context.ending_at(bars, int(bars.close_time[5]) + minutes * 60_000, length=5, min_bars=2)


@pytest.mark.parametrize("length", [0, -1, 2.0, True, "8", None])
def test_invalid_length_is_refused(length):
    bars = make_bars(count=10)

    with pytest.raises(InvalidArgument, match=r"length: expected (a whole number, )?1 or more, found"):
        Context.ending_at(bars, int(bars.close_time[5]), length, min_bars=2)


def test_numpy_integer_as_length():
    bars = make_bars(count=10)

    assert Context.ending_at(bars, int(bars.close_time[5]), np.int64(3), min_bars=2).ohlc_CT.shape == (4, 3)


def test_too_few_real_bars_are_refused():
    """Slots without a bar do not count."""
    bars = make_bars(count=10)[np.array([0, 1, 2, 9])]

    with pytest.raises(NotEnoughBars) as refused:
        Context.ending_at(bars, int(bars.close_time[-1]), length=8, min_bars=3)

    assert (refused.value.needed, refused.value.found) == (3, 2)
    assert str(refused.value).startswith("binance BTC/USDT 1h: ")
    assert len(Context.ending_at(bars, int(bars.close_time[-1]), 8, min_bars=2).ohlc_CT[0]) == 8


def test_target_opens_follow_the_cutoff():
    bars = make_bars(count=10)
    context = Context.ending_at(bars, int(bars.close_time[5]), length=5, min_bars=2)

    assert context.target_opens(3).tolist() == bars.open_time[6:9].tolist()


def test_target_opens_are_sessions():
    key = make_key(symbol="SPX/USD", timeframe="1h", calendar="XNYS")
    bars = make_bars(key, count=30, start=utc_ms("2018-11-19"))
    context = Context.ending_at(bars, utc_ms("2018-11-21 21:00"), length=5, min_bars=2)

    assert context.target_opens(5).tolist() == [
        utc_ms(time)
        for time in (
            "2018-11-23 14:30",
            "2018-11-23 15:30",
            "2018-11-23 16:30",
            "2018-11-23 17:30",
            "2018-11-26 14:30",
        )
    ]


def test_contexts_have_different_digests():
    bars, other = make_bars(count=20), make_bars(make_key(symbol="ETH/USDT"), count=20)
    changed = Bars(bars.key, bars.open_time, bars.ohlcv_TF * np.array([1, 1, 1 - 1e-15, 1, 1]))
    cutoff = int(bars.close_time[-1])

    digests = [
        Context.ending_at(bars, cutoff, 10, 2).sha256,
        Context.ending_at(other, cutoff, 10, 2).sha256,
        Context.ending_at(changed, cutoff, 10, 2).sha256,
        Context.ending_at(bars, cutoff, 9, 2).sha256,
        Context.ending_at(bars, cutoff - HOUR_MS, 10, 2).sha256,
    ]

    assert len(set(digests)) == 5
    assert Context.ending_at(make_bars(count=20), cutoff, 10, 2).sha256 == digests[0]


def test_digest_is_stable():
    """It is stored in ledgers, so it must not change."""
    bars = make_bars(count=20)
    cutoff = int(bars.close_time[-1])
    seen = f"binance BTC/USDT 1h|24/7|{cutoff}|".encode() + bars.ohlcv_TF[:, :4].T.tobytes()

    assert Context.ending_at(bars, cutoff, 20, 2).sha256 == hashlib.sha256(seen).hexdigest()


@settings(derandomize=True, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(5, 59),
    st.integers(1, 40),
    st.lists(st.integers(0, 59), max_size=20),
    st.sampled_from([("1h", "24/7"), ("1h", "XNYS"), ("1d", "XNYS"), ("1d", "24/7")]),
)
def test_bars_after_the_cutoff_change_nothing(seed, last, length, holes, grid):
    """The model sees the same bits whether later bars exist, are missing or have other prices."""
    key = make_key(symbol="SPX/USD", timeframe=grid[0], calendar=grid[1])
    whole, other = make_bars(key, 60, seed=seed), make_bars(key, 60, seed=seed + 1)
    cutoff = int(whole.close_time[last])
    kept = np.array([row == last or row not in holes for row in range(60)])
    later = np.arange(60) > last
    futures = [
        whole[kept],
        whole[kept & ~later],
        Bars(key, whole.open_time, np.where(later[:, None], other.ohlcv_TF, whole.ohlcv_TF))[kept | later],
    ]

    contexts = [Context.ending_at(bars, cutoff, length, min_bars=1) for bars in futures]

    assert len({context.sha256 for context in contexts}) == 1
    assert len({context.ohlc_CT.tobytes() for context in contexts}) == 1
    assert contexts[0].last_close == whole.close[last]
