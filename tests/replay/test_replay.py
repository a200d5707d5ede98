"""Replay: which cutoffs, what run, and what it leaves in the ledger."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from forecaster import Forecaster
from forecaster.bars import Bars
from forecaster.errors import BarNotClosed, InvalidArgument, MissingBars, NotEnoughBars, StoreUnavailable, format_time
from forecaster.ledger import Run, RunId
from forecaster.replay import ReplayPlan, run_replay
from forecaster.store import maintenance, open_store
from forecaster.store.memory import MemoryStore
from tests.builders import DAY_MS, make_bars
from tests.test_engine import make_forecaster


@pytest.fixture
def bars():
    return make_bars(count=80)


def test_every_usable_cutoff_by_default(bars):
    forecaster = make_forecaster(bars)
    run = run_replay(forecaster, bars)
    cutoffs = {row.cutoff for row in forecaster.store.history(bars.key, 0, 2**62, run.id)}

    assert sorted(cutoffs) == bars.close_time[31:].tolist()


def test_issued_at_the_cutoff(bars):
    """A replayed forecast is stamped with its own cutoff, not with the day of the replay."""
    forecaster = make_forecaster(bars)
    run = run_replay(forecaster, bars, bars.close_time[40:45])

    for row in forecaster.store.history(bars.key, 0, 2**62, run.id):
        assert row.issued_at == row.available_at == row.cutoff


def test_replay_never_passes_for_live(bars):
    forecaster = make_forecaster(bars)
    run_replay(forecaster, bars)

    assert forecaster.store.history(bars.key, 0, 2**62) == []
    assert forecaster.latest(("binance", "BTC/USDT", "1h")) is None


def test_scores_of_a_replay(bars):
    forecaster = make_forecaster(bars)
    run = run_replay(forecaster, bars)
    reports = forecaster.accuracy(run=run.id)

    assert {one.n for one in reports if one.step == 1} == {80 - 32}


def test_progress_counts_every_cutoff(bars):
    done = []
    run_replay(make_forecaster(bars), bars, bars.close_time[40:50], plan=ReplayPlan(batch=4), on_batch=done.append)

    assert done == [4, 4, 2]


def test_cutoff_that_is_no_close(bars):
    with pytest.raises(MissingBars):
        run_replay(make_forecaster(bars), bars, [int(bars.close_time[40]) + 1])


def test_too_few_bars(bars):
    with pytest.raises(NotEnoughBars):
        run_replay(make_forecaster(bars), bars[:20])


def test_a_cutoff_with_too_few_bars_is_named_before_anything_is_written(bars):
    forecaster = make_forecaster(bars)
    early = int(bars.close_time[20])
    with pytest.raises(
        NotEnoughBars, match=f"expected at least 32 bars in the context of cutoff {format_time(early)}, found 21"
    ):
        run_replay(forecaster, bars, [early, int(bars.close_time[50])])

    assert forecaster.store.runs() == []


def test_a_bar_that_has_not_closed_is_refused(bars):
    """Neither a cutoff nor an outcome lies in the future; the same bars a moment later are a replay."""
    forecaster = make_forecaster(bars)
    last = int(bars.close_time[-1])
    with pytest.raises(
        BarNotClosed, match=f"closed by {format_time(last - 1)}, the last one closes at {format_time(last)}"
    ):
        run_replay(forecaster, bars, bars.close_time[40:45], plan=ReplayPlan(started_at=last - 1))

    assert forecaster.store.runs() == []
    assert run_replay(forecaster, bars, bars.close_time[40:45], plan=ReplayPlan(started_at=last)).started_at == last


URLS = ["memory:", "sqlite"]


def opened(url, folder):
    return open_store(url if url == "memory:" else f"sqlite:///{folder}/ledger.db")


@pytest.mark.parametrize("url", URLS)
def test_no_bar_enters_a_live_series(bars, tmp_path, url):
    """Bars of other prices, in the same slots: the live series stays as it was, as known now and at any time."""
    other = Bars(bars.key, bars.open_time, bars.ohlcv_TF * 2)
    times = [int(bars.close_time[i]) + 1_000 for i in (30, 60, 79)]
    with closing(opened(url, tmp_path)) as store:
        store.add_bars(Bars(bars.key, bars.open_time[:70], bars.ohlcv_TF[:70], bars.close_time[:70] + 1_000))
        before = [all_of(store.bars(bars.key, as_of=as_of)) for as_of in [*times, None]]
        versions = [one.tolist() for one in store.bar_revisions(bars.key)]
        run_replay(keeping(other, store), other, other.close_time[40:45])

        assert [all_of(store.bars(bars.key, as_of=as_of)) for as_of in [*times, None]] == before
        assert [one.tolist() for one in store.bar_revisions(bars.key)] == versions
        assert store.latest_open(bars.key) == bars.open_time[69]


@pytest.mark.parametrize("url", URLS)
def test_a_replay_settles_against_its_own_bars(bars, tmp_path, url):
    """Twice the prices beside the live ones: losses are those of a ledger that has nothing else."""
    other = Bars(bars.key, bars.open_time, bars.ohlcv_TF * 2)
    alone = make_forecaster(other)
    expected = alone.accuracy(run=run_replay(alone, other).id)
    with closing(opened(url, tmp_path)) as store:
        store.add_bars(bars)
        forecaster = keeping(other, store)
        reports = forecaster.accuracy(run=run_replay(forecaster, other).id)

    assert [(one.step, one.field, one.n, one.mae) for one in reports] == [
        (one.step, one.field, one.n, one.mae) for one in expected
    ]


@pytest.mark.parametrize("url", URLS)
def test_a_time_within_the_replay(bars, tmp_path, url):
    """Its bars are known since their close, so what had settled by then is what had closed by then."""
    with closing(opened(url, tmp_path)) as store:
        forecaster = keeping(bars, store)
        run = run_replay(forecaster, bars, bars.close_time[40:60])
        at = int(bars.close_time[50])
        known = store.bars(bars.key, as_of=at, run_id=run.id)
        (settled,) = store.settled(bars.key, at, run_id=run.id)

    assert known.open_time.tolist() == bars.open_time[:51].tolist()
    assert known.first_seen_at.tolist() == bars.close_time[:51].tolist()
    assert settled.target_open_N.max() == bars.open_time[50]
    assert len(settled) == 2 * (8 * 3 + 2 + 1)


def all_of(bars):
    columns = (bars.open_time, bars.ohlcv_TF, bars.first_seen_at, bars.revision)
    return [one.tolist() for one in columns]


def keeping(bars, store):
    """A forecaster with a store of one's own."""
    like = make_forecaster(bars)
    return Forecaster(like.config, store, models=like.models)


def test_replay_that_was_stopped_goes_on(bars, tmp_path):
    """What is in its ledger is not asked for again, and the end is that of a replay in one go."""
    whole = make_forecaster(bars)
    at_once = run_replay(whole, bars, bars.close_time[40:70], plan=ReplayPlan(RUN, batch=4))
    asked = []
    with closing(open_store(f"sqlite:///{tmp_path}/ledger.db")) as store, pytest.raises(KeyboardInterrupt):
        run_replay(keeping(bars, store), bars, bars.close_time[40:70], plan=PLAN, on_batch=Stop(3))
    with closing(open_store(f"sqlite:///{tmp_path}/ledger.db")) as store:
        before = len(store.cutoffs(bars.key, RUN.id))
        forecaster = keeping(bars, store)
        done = []
        run_replay(
            forecaster,
            bars,
            bars.close_time[40:70],
            plan=PLAN,
            on_batch=done.append,
            predictor=Watched(forecaster, asked),
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
        self.model_ids = [one.id for one in forecaster.models]

    def __call__(self, batches):
        for contexts in batches:
            self.asked += [one.cutoff for one in contexts]
            yield self.forecaster.predict_contexts(contexts)


def bits(rows):
    return [
        (row.cutoff, row.model_id, row.step, row.field, row.raw_Q.tobytes(), row.values_Q.tobytes()) for row in rows
    ]


@pytest.mark.parametrize("url", URLS)
def test_a_latency_moves_times_and_adds_nothing(bars, tmp_path, url):
    """No forecast is asked for or stored again: the same rows, each there four seconds later."""
    cutoffs, asked = bars.close_time[40:45], []
    with closing(opened(url, tmp_path)) as store:
        forecaster = keeping(bars, store)
        at_once = run_replay(forecaster, bars, cutoffs)
        later = run_replay(
            forecaster, bars, cutoffs, plan=ReplayPlan(latency_ms=4_000), predictor=Watched(forecaster, asked)
        )
        rows = [store.history(bars.key, 0, 2**62, run.id) for run in (at_once, later)]
        runs = [run.id for run in store.runs()]
        before = store.history(bars.key, 0, 2**62, later.id, as_of=int(cutoffs[0]) + 3_999)

    assert asked == []
    assert runs == [at_once.id]
    assert later.id == RunId(at_once.id).delayed(4_000) == f"{at_once.id}+4000ms"
    assert bits(rows[0]) == bits(rows[1])
    assert {row.available_at - row.issued_at for row in rows[0]} == {0}
    assert {row.available_at - row.issued_at for row in rows[1]} == {4_000}
    assert before == []


def test_what_fails_to_be_recorded_stops_the_replay(bars):
    """Nothing more is asked for."""
    forecaster = keeping(bars, Full())
    with pytest.raises(StoreUnavailable, match="no room"):
        run_replay(forecaster, bars, bars.close_time[40:60], plan=PLAN)


class Full(MemoryStore):
    """A store without room for forecasts."""

    def add_forecasts(self, forecasts, run_id, learned=()):
        raise StoreUnavailable("memory:", "no room")


def test_each_batch_is_recorded_before_the_next_is_asked_for(bars):
    """What is killed loses one batch at most."""
    forecaster = keeping(bars, MemoryStore())
    there = []
    run_replay(forecaster, bars, bars.close_time[40:52], plan=PLAN, predictor=Counting(forecaster, there))

    assert there == [0, 4, 8]


class Counting(Watched):
    """Forecasts here, and counts the cutoffs in the ledger before each batch."""

    def __call__(self, batches):
        for contexts in batches:
            self.asked.append(len(self.forecaster.store.cutoffs(contexts[0].key, RUN.id)))
            yield self.forecaster.predict_contexts(contexts)


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
    run_replay(forecaster, bars, bars.close_time[45:75], plan=plan, predictor=Contexts(forecaster, asked))
    last = {one.cutoff: one.ohlc_CT for one in asked}

    assert int(bars.close_time[late]) not in last
    at = int(bars.close_time[revised])
    assert last[at][3, -1] == first[revised, 3]
    assert np.isnan(last[int(bars.close_time[late + 1])][3, -2])
    assert last[int(bars.close_time[late + 4])][3, -5] == bars.close[late]
    assert last[int(bars.close_time[revised + 12])][3, -13] == bars.close[revised]


class Contexts(Watched):
    """Forecasts here, and keeps the contexts."""

    def __call__(self, batches):
        for contexts in batches:
            self.asked += contexts
            yield self.forecaster.predict_contexts(contexts)


def test_known_in_another_ledger(bars):
    """What a replay is recorded to need not have seen the bars come."""
    live = MemoryStore()
    live.add_bars(Bars(bars.key, bars.open_time, bars.ohlcv_TF, bars.close_time + np.where(np.arange(80) % 2, 1, 0)))
    forecaster = make_forecaster(bars)
    run = run_replay(forecaster, bars, bars.close_time[40:50], plan=ReplayPlan(known_within_ms=0, known_from=live))

    assert forecaster.store.cutoffs(bars.key, run.id).tolist() == bars.close_time[40:50:2].tolist()


def test_too_few_bars_were_known(bars):
    """A backlog came at once: cutoffs with fewer bars than the model needs are left out, and do not end the replay."""
    store = MemoryStore()
    seen = bars.close_time.copy()
    seen[:30] = bars.close_time[60]
    store.add_bars(Bars(bars.key, bars.open_time, bars.ohlcv_TF, seen))
    forecaster = keeping(bars, store)
    run = run_replay(forecaster, bars, bars.close_time[40:], plan=ReplayPlan(known_within_ms=0))

    assert store.cutoffs(bars.key, run.id).tolist() == bars.close_time[60:].tolist()


def test_a_run_began_when_it_ran(bars, monkeypatch):
    """Not with its first cutoff, and not again when it is repeated."""
    forecaster = make_forecaster(bars)
    ran = int(bars.close_time[-1]) + 1_000 * DAY_MS
    monkeypatch.setattr(sys.modules["forecaster.replay.replay"], "now_ms", iter([ran, ran + 5]).__next__)
    runs = [run_replay(forecaster, bars, bars.close_time[40:45]) for _ in range(2)]

    assert [run.started_at for run in runs] == [ran, ran]
    assert [run.started_at for run in forecaster.store.runs()] == [ran]


def test_pruning_keeps_a_replay_of_today(bars, tmp_path):
    """Of bars that are years old; and deletes one of 91 days ago."""
    today = int(bars.close_time[-1]) + 1_000 * DAY_MS
    with closing(opened("sqlite", tmp_path)) as store:
        forecaster = keeping(bars, store)
        runs = [
            run_replay(forecaster, bars, bars.close_time[i : i + 2], plan=ReplayPlan(started_at=today - days * DAY_MS))
            for i, days in ((40, 0), (50, 91))
        ]
    pruned = maintenance.prune(f"sqlite:///{tmp_path}/ledger.db", today - 90 * DAY_MS, dry_run=False)

    assert pruned == {runs[1].id: 4}


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
    run_replay(forecaster, bars, bars.close_time[45:75], plan=plan, predictor=Contexts(forecaster, asked))
    last = {one.cutoff: one.ohlc_CT for one in asked}

    assert np.isnan(last[int(bars.close_time[late + 2])][3, -3])
    assert np.isnan(last[int(bars.close_time[late + 3])][3, -4]) != is_there
    assert last[int(bars.close_time[late + 4])][3, -5] == bars.close[late]


@pytest.mark.parametrize("wrong", [{"latency_ms": -5}, {"known_within_ms": -5}, {"batch": 0}, {"batch": 4.0}])
def test_plans_that_cannot_be_are_refused(wrong):
    """Times that run backwards, batches of nothing, and what is no whole number."""
    ((name, value),) = wrong.items()
    with pytest.raises(InvalidArgument, match=f"{name}: expected .* or more, found {value}"):
        ReplayPlan(**wrong)


def test_a_replay_of_nothing_is_refused():
    """No run without a forecast is left behind."""
    bars = make_bars(count=100)
    forecaster = make_forecaster(bars)
    forecaster.store.add_bars(replace(bars, first_seen_at=bars.close_time + DAY_MS))
    with pytest.raises(InvalidArgument, match="expected a cutoff of some series, whose bar was known in time"):
        run_replay(forecaster, bars, plan=ReplayPlan(known_within_ms=1000))

    assert forecaster.store.runs() == []
