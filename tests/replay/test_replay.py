"""Replay: which cutoffs, what run, and what it leaves in the ledger."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from forecaster import Forecaster
from forecaster.bars import Bars
from forecaster.errors import MissingBars, NotEnoughBars, StoreUnavailable
from forecaster.ledger import Run
from forecaster.replay import replay
from forecaster.replay.replay import ReplayPlan, choose_cutoffs, replay_id
from forecaster.store import open_store
from forecaster.store.memory import MemoryStore
from tests.builders import make_bars
from tests.test_engine import make_forecaster


@pytest.fixture
def bars():
    return make_bars(count=80)


def test_every_usable_cutoff_by_default(bars):
    forecaster = make_forecaster(bars)
    run = replay(forecaster, bars)
    cutoffs = {row.cutoff for row in forecaster.store.history(bars.key, 0, 2**62, run.id)}

    assert sorted(cutoffs) == bars.close_time[31:].tolist()


def test_cutoffs_between_dates(bars):
    start, end = int(bars.close_time[50]), int(bars.close_time[60])

    assert choose_cutoffs(bars, 32, start, end).tolist() == bars.close_time[50:60].tolist()


def test_issued_at_the_cutoff(bars):
    """A replayed forecast is stamped with its own cutoff, not with the day of the replay."""
    forecaster = make_forecaster(bars)
    run = replay(forecaster, bars, bars.close_time[40:45])

    for row in forecaster.store.history(bars.key, 0, 2**62, run.id):
        assert row.issued_at == row.available_at == row.cutoff


def test_replay_never_passes_for_live(bars):
    forecaster = make_forecaster(bars)
    replay(forecaster, bars)

    assert forecaster.store.history(bars.key, 0, 2**62) == []
    assert forecaster.latest("binance", "BTC/USDT", "1h") is None


def test_scores_of_a_replay(bars):
    forecaster = make_forecaster(bars)
    run = replay(forecaster, bars)
    reports = forecaster.accuracy(run_id=run.id)

    assert {one.n for one in reports if one.step == 1} == {80 - 32}


def test_run_is_named_by_the_configuration(bars):
    """Another context is another run, so two replays can never conflict."""
    assert replay_id(make_forecaster(bars)) == replay_id(make_forecaster(bars))
    assert replay_id(make_forecaster(bars)) != replay_id(make_forecaster(bars, context=48))


def test_progress_counts_every_cutoff(bars):
    done = []
    replay(make_forecaster(bars), bars, bars.close_time[40:50], plan=ReplayPlan(batch=4), on_batch=done.append)

    assert done == [4, 4, 2]


def test_cutoff_that_is_no_close(bars):
    with pytest.raises(MissingBars):
        replay(make_forecaster(bars), bars, [int(bars.close_time[40]) + 1])


def test_too_few_bars(bars):
    with pytest.raises(NotEnoughBars):
        replay(make_forecaster(bars), bars[:20])


def keeping(bars, store):
    """A forecaster with a store of one's own."""
    like = make_forecaster(bars)
    return Forecaster(like.config, store, models=like.models)


def test_replay_that_was_stopped_goes_on(bars, tmp_path):
    """What is in its ledger is not asked for again, and the end is that of a replay in one go."""
    whole = make_forecaster(bars)
    at_once = replay(whole, bars, bars.close_time[40:70], plan=ReplayPlan(RUN, batch=4))
    asked = []
    with closing(open_store(f"sqlite:///{tmp_path}/ledger.db")) as store, pytest.raises(KeyboardInterrupt):
        replay(keeping(bars, store), bars, bars.close_time[40:70], plan=PLAN, on_batch=Stop(3))
    with closing(open_store(f"sqlite:///{tmp_path}/ledger.db")) as store:
        before = len(store.cutoffs(bars.key, RUN.id))
        forecaster = keeping(bars, store)
        done = []
        replay(
            forecaster, bars, bars.close_time[40:70], plan=PLAN, on_batch=done.append, ask=Watched(forecaster, asked)
        )
        rows = bits(store.history(bars.key, 0, 2**62, RUN.id))

    assert 0 < before < 30
    assert done[0] == before
    assert sum(done) == 30
    assert len(asked) == 30 - before
    assert rows == bits(whole.store.history(bars.key, 0, 2**62, at_once.id))


RUN = Run("replay-1", "replay", 0)
PLAN = ReplayPlan(RUN, batch=4)


class Stop:
    """Interrupts a replay after so many batches."""

    def __init__(self, batches):
        self.left = batches

    def __call__(self, _):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


class Watched:
    """Asks here, and tells which cutoffs."""

    def __init__(self, forecaster, asked):
        self.forecaster, self.asked = forecaster, asked

    def __call__(self, batches):
        for contexts in batches:
            self.asked += [one.cutoff for one in contexts]
            yield self.forecaster.ask(contexts)


def bits(rows):
    return [
        (row.cutoff, row.model_id, row.step, row.field, row.raw_Q.tobytes(), row.values_Q.tobytes()) for row in rows
    ]


def test_latency_is_told(bars):
    forecaster = make_forecaster(bars)
    run = replay(forecaster, bars, bars.close_time[40:45], plan=ReplayPlan(latency_ms=4_000))

    for row in forecaster.store.history(bars.key, 0, 2**62, run.id):
        assert (row.issued_at, row.available_at) == (row.cutoff, row.cutoff + 4_000)


def test_what_fails_to_be_recorded_stops_the_replay(bars):
    """Nothing more is asked for."""
    forecaster = keeping(bars, Full())
    with pytest.raises(StoreUnavailable, match="no room"):
        replay(forecaster, bars, bars.close_time[40:60], plan=PLAN)


class Full(MemoryStore):
    """A store without room for forecasts."""

    def add_forecasts(self, forecasts, run_id, learned=()):
        raise StoreUnavailable("memory:", "no room")


def test_each_batch_is_recorded_before_the_next_is_asked_for(bars):
    """What is killed loses one batch at most."""
    forecaster = keeping(bars, MemoryStore())
    there = []
    replay(forecaster, bars, bars.close_time[40:52], plan=PLAN, ask=Counting(forecaster, there))

    assert there == [0, 4, 8]


class Counting(Watched):
    """Asks here, and notes how many cutoffs the ledger holds by then."""

    def __call__(self, batches):
        for contexts in batches:
            self.asked.append(len(self.forecaster.store.cutoffs(contexts[0].key, RUN.id)))
            yield self.forecaster.ask(contexts)


def test_bars_as_they_were_known(bars):
    """A close that was revised later is given as it was; one that came late was not there; now both are."""
    hour, revised, late = bars.key.timeframe.ms, 50, 55
    first = bars.ohlcv_TF.copy()
    first[revised, 3] = first[revised, 1]
    seen = bars.close_time + 1_000
    in_time = np.delete(np.arange(80), late)
    store = MemoryStore()
    store.add_bars(Bars(bars.key, bars.open_time[in_time], first[in_time], seen[in_time]))
    store.add_bars(Bars(bars.key, bars.open_time[[late]], bars.ohlcv_TF[[late]], seen[[late]] + 3 * hour))
    store.add_bars(Bars(bars.key, bars.open_time, bars.ohlcv_TF, seen + 10 * hour))
    asked = []
    forecaster = keeping(bars, store)
    plan = ReplayPlan(RUN, known_within_ms=5_000)
    replay(forecaster, bars, bars.close_time[45:75], plan=plan, ask=Contexts(forecaster, asked))
    last = {one.cutoff: one.ohlc_CT for one in asked}

    assert int(bars.close_time[late]) not in last
    at = int(bars.close_time[revised])
    assert last[at][3, -1] == first[revised, 3]
    assert np.isnan(last[int(bars.close_time[late + 1])][3, -2])
    assert last[int(bars.close_time[late + 4])][3, -5] == bars.close[late]
    assert last[int(bars.close_time[revised + 12])][3, -13] == bars.close[revised]


class Contexts(Watched):
    """Asks here, and keeps the contexts."""

    def __call__(self, batches):
        for contexts in batches:
            self.asked += contexts
            yield self.forecaster.ask(contexts)


def test_a_long_list_of_cutoffs_names_its_own_run(bars):
    """Two lists that differ in the middle alone, where a printed array is cut short."""
    forecaster = make_forecaster(bars)
    cutoffs = np.arange(5_000)
    other = np.where(cutoffs == 2_500, 0, cutoffs)

    assert replay_id(forecaster, cutoffs) == replay_id(forecaster, cutoffs.copy())
    assert replay_id(forecaster, cutoffs) != replay_id(forecaster, other)


def test_a_run_begins_with_its_first_cutoff(bars):
    forecaster = make_forecaster(bars)
    run = replay(forecaster, bars, bars.close_time[40:45])

    assert forecaster.store.runs[run.id].started_at == bars.close_time[40]


@pytest.mark.parametrize(("after", "is_there"), [(0, True), (1, False)])
def test_a_late_bar_is_known_from_the_very_moment(bars, after, is_there):
    """Three hours and five seconds behind its close, and asked for what was known five seconds after each cutoff."""
    late, hour = 55, bars.key.timeframe.ms
    seen = bars.close_time.copy()
    seen[late] += 3 * hour + 5_000 + after
    store = MemoryStore()
    store.add_bars(Bars(bars.key, bars.open_time, bars.ohlcv_TF, seen))
    asked = []
    forecaster = keeping(bars, store)
    plan = ReplayPlan(RUN, known_within_ms=5_000)
    replay(forecaster, bars, bars.close_time[45:75], plan=plan, ask=Contexts(forecaster, asked))
    last = {one.cutoff: one.ohlc_CT for one in asked}

    assert np.isnan(last[int(bars.close_time[late + 2])][3, -3])
    assert np.isnan(last[int(bars.close_time[late + 3])][3, -4]) != is_there
    assert last[int(bars.close_time[late + 4])][3, -5] == bars.close[late]
