"""Which cutoffs a replay chooses by itself, and which it leaves out and counts."""

from __future__ import annotations

import exchange_calendars
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecaster.bars import Bars
from forecaster.config import ModelConfig
from forecaster.context import Context
from forecaster.errors import BarsError, InvalidArgument, MissingBars
from forecaster.replay import run_replay
from forecaster.replay.cutoffs import bars_as_known, bars_in_context, check_cutoffs, choose_cutoffs
from forecaster.store.memory import MemoryStore
from tests.builders import DAY_MS, make_bars, make_key, utc_ms
from tests.test_engine import make_forecaster

BARS = make_bars(count=200)
MODEL = ModelConfig(context=64, min_context=32, horizon=3)


def without(bars, *gaps):
    """The bars without those at some places."""
    kept = np.ones(len(bars), bool)
    for first, last in gaps:
        kept[first:last] = False
    return bars[kept]


def test_cutoffs_between_dates():
    start, end = int(BARS.close_time[50]), int(BARS.close_time[60])

    assert choose_cutoffs(BARS, MODEL, start, end).cutoffs.tolist() == BARS.close_time[50:60].tolist()


def test_the_first_bars_are_no_cutoffs():
    """They are before the first one, and not left out."""
    chosen = choose_cutoffs(BARS, MODEL)

    assert chosen.cutoffs.tolist() == BARS.close_time[31:].tolist()
    assert chosen.left_out == {}


def test_a_long_gap_leaves_cutoffs_out():
    """Behind 60 missing slots, 31 cutoffs have too few bars among their last 64 slots; the others are forecast."""
    bars = without(BARS, (80, 140))
    chosen = choose_cutoffs(bars, MODEL)
    forecaster = make_forecaster(bars)
    run = run_replay(forecaster, bars)

    assert chosen.left_out == {"fewer than 32 bars among their last 64 slots": 31}
    assert forecaster.store.cutoffs(bars.key, run.id).tolist() == chosen.cutoffs.tolist()
    assert len(chosen.cutoffs) == 200 - 60 - 31 - 31


def test_every_nth_is_counted_before_any_is_left_out():
    """A gap moves no cutoff behind it."""
    bars = without(BARS, (80, 140))
    every = choose_cutoffs(bars, MODEL, every=7)

    assert set(every.cutoffs.tolist()) == set(bars.close_time[31::7].tolist()) & set(
        choose_cutoffs(bars, MODEL).cutoffs.tolist()
    )


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 0.9), calendar=st.sampled_from(["24/7", "XNYS"]))
def test_chosen_are_those_of_which_a_context_can_be_cut(seed, share, calendar):
    """Of any history with holes, on either kind of calendar; the others are counted."""
    random = np.random.default_rng(seed)
    bars = make_bars(make_key(calendar=calendar), count=160, start=utc_ms("2024-03-01"))
    bars = bars[random.random(160) >= share * (np.arange(160) // 40 % 2)]
    model = ModelConfig(context=48, min_context=24, horizon=2)
    chosen = choose_cutoffs(bars, model)
    able = []
    for cutoff in bars.close_time[23:].tolist():
        try:
            Context.ending_at(bars, cutoff, 48, 24)
        except BarsError:
            continue
        able.append(cutoff)

    assert chosen.cutoffs.tolist() == able
    assert sum(chosen.left_out.values()) == max(0, len(bars) - 23) - len(able)


def test_bars_in_context():
    bars = without(BARS[:8], (2, 4))

    assert bars_in_context(bars, 3).tolist() == [1, 2, 1, 2, 3, 3]
    assert bars_in_context(bars[:0], 3).tolist() == []


def test_where_the_calendar_ends():
    """Shanghai's is recorded to the end of a year: cutoffs whose horizon lies beyond it are left out and counted."""
    key = make_key("yahoo", "600000/CNY", "1d", "XSHG")
    end = exchange_calendars.get_calendar("XSHG").bound_max().value // 10**6 + DAY_MS
    sessions = len(key.trading_calendar.opens_between(key.timeframe, end - 100 * DAY_MS, end))
    bars = make_bars(key, count=sessions - 1, start=end - 100 * DAY_MS)
    chosen = {n: choose_cutoffs(bars, ModelConfig(context=64, min_context=32, horizon=n)) for n in (1, 2, 10)}

    assert chosen[1].left_out == {}
    assert chosen[2].left_out == {"their calendar ends before 2 bars": 1}
    assert chosen[10].left_out == {"their calendar ends before 10 bars": 9}
    assert chosen[10].cutoffs.tolist() == bars.close_time[31:-9].tolist()


@pytest.mark.parametrize(
    ("cutoffs", "error"),
    [([int(BARS.close_time[40]) + 1], MissingBars), (BARS.close_time[[50, 40]], InvalidArgument)],
    ids=["no close", "falling"],
)
def test_named_cutoffs_that_cannot_be(cutoffs, error):
    with pytest.raises(error):
        check_cutoffs(BARS, MODEL, cutoffs)


def test_what_was_not_known_is_counted():
    """A backlog of 100 bars came at once, and one later bar late: each cutoff that lacks them by its reason."""
    seen = BARS.close_time + 1_000
    seen[:100] = BARS.close_time[149] + 1
    seen[180] += 10_000
    store = MemoryStore()
    store.add_bars(Bars(BARS.key, BARS.open_time, BARS.ohlcv_TF, seen))
    chosen = bars_as_known(check_cutoffs(BARS, MODEL, BARS.close_time[90:190]), store, 5_000, MODEL)
    kept = [*range(131, 180), *range(181, 190)]

    assert chosen.left_out == {"their bar was not known within 5 s": 11, "fewer than 32 bars known within 5 s": 31}
    assert chosen.cutoffs.tolist() == BARS.close_time[kept].tolist()
