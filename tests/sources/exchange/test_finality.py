"""Which bars of an answer are final."""

from __future__ import annotations

import pytest

from forecaster.bars import RejectedRow
from forecaster.sources import Fetched
from forecaster.sources.exchange.finality import AnswerTime, final_bars, reported_final
from forecaster.sources.exchange.guard import Row
from tests.builders import HOUR_MS, make_bars, make_key

BARS = make_bars(make_key(), count=5)
OPENS = BARS.open_time.tolist()
LAST_CLOSE = int(BARS.close_time[-1])
MARGIN = 40_000


def finals(earliest, latest=None, reported=None, bars=BARS, rejected=()):
    answer_time = AnswerTime(earliest, earliest if latest is None else latest, 2**60, MARGIN)
    return final_bars(Fetched(bars, list(rejected)), 0, answer_time, reported or {})


@pytest.mark.parametrize(
    ("past", "count"), [(-HOUR_MS - 1, 3), (-HOUR_MS, 4), (-1, 4), (0, 4), (MARGIN - 1, 4), (MARGIN, 5)]
)
def test_latest_row_is_final_a_margin_after_its_close(past, count):
    """The others have closed, and have a later row."""
    fetched = finals(LAST_CLOSE + past)

    assert fetched.bars.open_time.tolist() == OPENS[:count]
    assert fetched.rejected == [] or past < -HOUR_MS


def test_row_that_has_not_opened_is_rejected_and_makes_nothing_final():
    fetched = finals(OPENS[3] + 1)

    assert fetched.bars.open_time.tolist() == OPENS[:3]
    assert [(row.open_time, row.reason) for row in fetched.rejected] == [
        (OPENS[4], "open time must not be later than the exchange's clock")
    ]


def test_clocks_that_differ_reject_nothing_and_make_nothing_final():
    """By the earlier clock the last two have not opened; by the later one all have closed."""
    fetched = finals(OPENS[3] - 1, LAST_CLOSE + HOUR_MS)

    assert fetched.bars.open_time.tolist() == OPENS[:2]
    assert fetched.rejected == []


@pytest.mark.parametrize(
    ("reported", "count"),
    [({OPENS[4]: True}, 5), ({OPENS[4]: False, OPENS[3]: False}, 3), ({OPENS[4]: False, OPENS[3]: True}, 4)],
)
def test_reported_finality_counts(reported, count):
    """With and without a later row."""
    assert len(finals(LAST_CLOSE + 1_000, reported=reported).bars) == count


def test_reported_final_bar_must_have_closed():
    assert len(finals(LAST_CLOSE - 1, reported={OPENS[4]: True}).bars) == 4


def test_bar_reported_open_is_not_final_after_the_margin():
    assert len(finals(LAST_CLOSE + HOUR_MS, reported={OPENS[4]: False}).bars) == 4


@pytest.mark.parametrize(("at", "kept"), [(LAST_CLOSE, False), (LAST_CLOSE - HOUR_MS, True)])
def test_rejected_row_that_still_forms_is_not_reported(at, kept):
    row = RejectedRow(at, (0.0,) * 5, "prices must be above 0")

    assert finals(LAST_CLOSE + 1_000, rejected=[row]).rejected == [row] * kept


@pytest.mark.parametrize(
    ("exchange", "raw", "reported"),
    [
        ("okx", ["1", "2", "3", "4", "5", "6", "7", "8", "1"], {1: True}),
        ("okx", ["1", "2", "3", "4", "5", "6", "7", "8", "0"], {1: False}),
        ("okx", ["1", "2", "3", "4", "5", "6", "7", "8", "?"], {}),
        ("okx", ["1", "2", "3", "4", "5", "6"], {}),
        ("okx", {"ts": "1"}, {}),
        ("gate", ["1", "2", "3", "4", "5", "6", "7", "true"], {1: True}),
        ("gate", ["1", "2", "3", "4", "5", "6", "7", "false"], {1: False}),
        ("binance", ["1", "2", "3", "4", "5", "6", "7", "8", "1"], {}),
    ],
)
def test_final_flags_of_exchanges(exchange, raw, reported):
    assert reported_final(exchange, [Row([1, 2.0, 3.0, 4.0, 5.0, 6.0], raw)]) == reported
