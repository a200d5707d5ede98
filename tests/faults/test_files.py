"""A sample of the files of `python -m tests.faults.files`, and faults that its judge must detect."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster.bars import Bars, SeriesKey
from forecaster.calendars import canonical_name, get_calendar
from forecaster.timeframe import Timeframe
from tests.builders import utc_ms
from tests.faults.file_dialects import DIALECTS, Form, number_text, time_texts
from tests.faults.file_faults import FAULTS
from tests.faults.file_truths import EXCHANGES, KINDS, Market, make_market, make_sheet, on_clock, values
from tests.faults.files import FAILURES, Case, Outcome, Verdict, make_case, play, play_numbers

SAMPLE = range(300)


def _case(form, name="24/7", timeframe="15m", symbols=("ABC",), **options):
    """Return a case of 300 bars, not written yet, with these options."""
    sessions = get_calendar(name)
    opens = sessions.next_opens(Timeframe(timeframe), utc_ms("2024-06-03"), 300)
    kind, zone = ("crypto", "Asia/Tokyo") if name == "24/7" else ("exchange", EXCHANGES[name])
    market = Market(kind, name, timeframe, zone, "", opens, sessions.closes_of(Timeframe(timeframe), opens))
    sheet = make_sheet(np.random.default_rng(0), market, symbols, "whole")
    return Case(0, "any", form, sheet, "none", "some", options, "key")


def _true_outcomes(case):
    """Return the true bars of a case."""
    outcomes = []
    for symbol in sorted(case.sheet.true):
        market, true = case.sheet.market, case.sheet.true[symbol]
        key = SeriesKey("file", f"{symbol}/USD", market.timeframe, canonical_name(market.calendar))
        opens = sorted(true)
        rows = [[np.nan if item is None else item for item in next(iter(true[at]))] for at in opens]
        rows_written = sum(row.symbol == symbol for row in case.sheet.rows[: case.last])
        outcomes.append(Outcome(key, Bars(key, np.array(opens), np.array(rows)), rows_written - len(opens)))
    return outcomes


def _read_as_utc(case):
    """Read local times of a case as UTC."""
    [outcome] = _true_outcomes(case)
    key = SeriesKey("file", "ABC/USD", case.sheet.market.timeframe)
    wall, _ = on_clock(outcome.bars.open_time, case.sheet.market.zone)
    return [Outcome(key, Bars(key, wall, outcome.bars.ohlcv_TF), 0)]


@pytest.mark.parametrize("first", SAMPLE[::25])
def test_no_bar_is_wrong_and_no_row_is_lost(first):
    """Each file ends in true bars, or in an error."""
    judged = play_numbers(range(first, first + 25), seed=1, keep=None)

    assert [item for item in judged if item.verdict.kind in FAILURES] == []


def test_every_dialect_market_and_fault_is_among_the_files(tmp_path):
    cases = [make_case(1, number, tmp_path) for number in SAMPLE]

    assert {case.sheet.market.kind for case in cases} == set(KINDS)
    assert {case.fault for case in cases} == set(FAULTS)
    assert len({case.dialect for case in cases}) > 0.9 * len(DIALECTS)
    assert {case.given for case in cases} == {"nothing", "right", "some", "wrong"}
    assert {case.entry for case in cases} == {"guess", "key", "frame"}


def test_a_number_makes_the_same_file_again(tmp_path):
    first, again = (make_case(3, 11, tmp_path).source.read_bytes() for _ in range(2))

    assert first == again


@pytest.mark.parametrize("number", range(25))
def test_the_true_bars_are_right(tmp_path, number):
    """The true bars of the judge follow from the written rows."""
    case = make_case(2, number, tmp_path)

    assert play(case, _true_outcomes).verdict.kind == "understood"


def test_a_zone_that_is_said_and_ignored_is_seen():
    case = _case(Form(zone="local"), "XNYS", timezone="America/New_York")

    assert play(case, _read_as_utc).verdict.kind == "wrong"


def test_sessions_in_local_time_that_are_taken_for_utc_are_seen():
    case = _case(Form(zone="local"), "XNYS")

    assert play(case, _read_as_utc).verdict.kind == "wrong"


def test_what_nobody_can_know_is_counted_apart():
    """Bars of a market that never closes, in a local time that no cell tells of, are taken for UTC."""
    case = _case(Form(zone="local"))

    assert play(case, _read_as_utc).verdict.kind == "undetectable"


def test_a_price_that_differs_by_one_bit_is_seen():
    def read(case):
        [outcome] = _true_outcomes(case)
        cells = outcome.bars.ohlcv_TF.copy()
        cells[3, 1] = np.nextafter(cells[3, 1], np.inf)
        return [outcome._replace(bars=Bars(outcome.key, outcome.bars.open_time, cells))]

    assert play(_case(Form()), read).verdict.kind == "wrong"


def test_a_row_that_is_nowhere_is_seen():
    def read(case):
        [outcome] = _true_outcomes(case)
        return [outcome._replace(bars=outcome.bars[:-1])]

    assert play(_case(Form()), read).verdict.kind == "lost"


def test_a_symbol_that_is_nowhere_is_seen():
    case = _case(Form(symbol_name="Name", places="tohlcvs"), symbols=("ABC", "ZZZ"))

    assert play(case, lambda case: _true_outcomes(case)[:1]).verdict.kind == "lost"


def test_bars_of_another_symbol_are_seen():
    case = _case(Form(symbol_name="Name", places="tohlcvs"), symbols=("ABC", "ZZZ"))

    def read(case):
        first, second = _true_outcomes(case)
        return [first._replace(bars=Bars(first.key, second.bars.open_time, second.bars.ohlcv_TF)), second]

    assert play(case, read).verdict.kind == "wrong"


def test_bars_of_a_timeframe_that_a_file_does_not_have_are_seen():
    def read(case):
        [outcome] = _true_outcomes(case)
        key = SeriesKey("file", "ABC/USD", "5m")
        return [Outcome(key, Bars(key, outcome.bars.open_time, outcome.bars.ohlcv_TF), 0)]

    assert play(_case(Form()), read).verdict.kind == "wrong"


def test_what_is_no_answer_is_a_crash():
    def read(case):
        raise ZeroDivisionError

    assert play(_case(Form()), read).verdict == Verdict("crash", "ZeroDivisionError: ")


def test_half_hours_of_new_york_open_at_half_past_nine_on_its_clock():
    markets = (make_market(np.random.default_rng(seed), "exchange", 60) for seed in range(100))
    market = next(item for item in markets if item.calendar == "XNYS")
    wall, _ = on_clock(market.opens, market.zone)

    assert (wall % 86_400_000).min() == 9.5 * 3_600_000


def test_a_clock_seven_hours_ahead_of_new_york_shows_midnight_when_forex_days_begin():
    opens = np.array([utc_ms("2024-01-01 22:00"), utc_ms("2024-07-01 21:00")])

    wall, _ = on_clock(opens, "America/New_York+07:00")

    assert (wall % 86_400_000).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Form(decimal=",", thousands="."), "12.345,60"),
        (Form(thousands=",", currency="$"), "$12,345.60"),
        (Form(thousands="'"), "12'345.60"),
    ],
)
def test_prices_are_written_by_the_signs_of_a_form(form, text):
    assert number_text(form, "12345.60") == text


@pytest.mark.parametrize(
    ("times", "mark", "text"),
    [
        ("mdy/ pm", "", "03/10/2024 02:30:00 PM"),
        ("dmy. ms", "GMT offset", "10.03.2024 14:30:00.000 GMT-0400"),
        ("month name", "", "Mar 10, 2024"),
        ("compact|hhmmss", "", "20240310|143000"),
        ("epoch s", "", str(utc_ms("2024-03-10 18:30") // 1000)),
    ],
)
def test_times_are_written_by_their_form(times, mark, text):
    wall, offset = np.array([utc_ms("2024-03-10 14:30")]), np.array([-4 * 3_600_000])

    assert time_texts(Form(times=times, mark=mark), wall, offset) == [text]


def test_a_cell_without_a_number_is_not_known():
    assert values(("1", "2", "1", "2", "")) == (1, 2, 1, 2, None)
