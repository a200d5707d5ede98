"""Which rows of an answer are final bars."""

from __future__ import annotations

import pytest

from forecaster.bars import RejectedRow
from forecaster.sources import Fetched
from forecaster.sources.exchange.finality import Clocks, final_rows, said_final
from forecaster.sources.exchange.guard import Row
from tests.builders import HOUR_MS, make_bars, make_key

BARS = make_bars(make_key(), count=5)
OPENS = BARS.open_time.tolist()
LAST_CLOSE = int(BARS.close_time[-1])
MARGIN = 40_000


def finals(earliest, latest=None, said=None, bars=BARS, rejected=()):
    clocks = Clocks(earliest, earliest if latest is None else latest, 2**60, MARGIN)
    return final_rows(Fetched(bars, list(rejected)), 0, clocks, said or {})


@pytest.mark.parametrize(
    ("past", "count"), [(-HOUR_MS - 1, 3), (-HOUR_MS, 4), (-1, 4), (0, 4), (MARGIN - 1, 4), (MARGIN, 5)]
)
def test_newest_row_is_final_when_its_close_is_a_margin_past(past, count):
    """The others have a later one beside them, and have closed."""
    found = finals(LAST_CLOSE + past)

    assert found.bars.open_time.tolist() == OPENS[:count]
    assert found.rejected == [] or past < -HOUR_MS


def test_row_that_has_not_begun_is_refused_and_makes_nothing_final():
    found = finals(OPENS[3] + 1)

    assert found.bars.open_time.tolist() == OPENS[:3]
    assert [(row.open_time, row.reason) for row in found.rejected] == [
        (OPENS[4], "open time must not be later than the exchange's clock")
    ]


def test_clocks_that_differ_refuse_nothing_and_make_nothing_final():
    """By the earlier one the last two have not begun; by the later one all have closed."""
    found = finals(OPENS[3] - 1, LAST_CLOSE + HOUR_MS)

    assert found.bars.open_time.tolist() == OPENS[:2]
    assert found.rejected == []


@pytest.mark.parametrize(
    ("said", "count"),
    [({OPENS[4]: True}, 5), ({OPENS[4]: False, OPENS[3]: False}, 3), ({OPENS[4]: False, OPENS[3]: True}, 4)],
)
def test_word_of_the_venue_counts(said, count):
    """Also where a later row is served, or none is."""
    assert len(finals(LAST_CLOSE + 1_000, said=said).bars) == count


def test_word_of_the_venue_does_not_close_a_bar():
    assert len(finals(LAST_CLOSE - 1, said={OPENS[4]: True}).bars) == 4


def test_word_of_the_venue_outlasts_the_margin():
    assert len(finals(LAST_CLOSE + HOUR_MS, said={OPENS[4]: False}).bars) == 4


@pytest.mark.parametrize(("at", "kept"), [(LAST_CLOSE, False), (LAST_CLOSE - HOUR_MS, True)])
def test_refused_row_that_still_forms_is_not_reported(at, kept):
    row = RejectedRow(at, (0.0,) * 5, "prices must be above 0")

    assert finals(LAST_CLOSE + 1_000, rejected=[row]).rejected == [row] * kept


@pytest.mark.parametrize(
    ("exchange", "raw", "said"),
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
def test_what_venues_say(exchange, raw, said):
    assert said_final(exchange, [Row([1, 2.0, 3.0, 4.0, 5.0, 6.0], raw)]) == said
