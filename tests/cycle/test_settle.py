"""What a ledger says of its own forecasts: read, measured and judged, from a store to verdicts and trust."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest

from forecaster.accuracy.assess import assess
from forecaster.accuracy.loss_series import LossHistory
from forecaster.accuracy.losses import compute_losses
from forecaster.accuracy.scores import RAW, SERVED, Scores
from forecaster.accuracy.trust import compute_trust, compute_verdict
from forecaster.bars import Bars
from forecaster.client import trust_in, window_start
from forecaster.context import Context
from forecaster.cycle.settle import newly_settled_losses, rescore, settled_losses
from forecaster.errors import ConfigError
from forecaster.forecast import repair
from forecaster.ledger import LIVE, Run
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.store import open_store
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.forecast_builders import make_provenance

KEY = make_key()
ETHER = make_key(symbol="ETH/USDT")
START = utc_ms("2024-01-01")
FIRST, HORIZON = 300, 3
MODEL, WALK = "nano@1", "random_walk@1"
EVER = 2**60


@functools.cache
def all_bars(key=KEY, count=400):
    """Bars that were each seen at their close."""
    bars = make_bars(key, count, START, seed=len(str(key)))
    return Bars(key, bars.open_time, bars.ohlcv_TF, bars.close_time)


def forecasts(bars, i, model="nano@1", sharper=0.7, calibrated=1.0):
    """What a model that looks ahead a little, and the walk, say after bar `i`."""
    name, _, revision = model.partition("@")
    cutoff = int(bars.close_time[i])
    (walk,) = RandomWalk().predict([Context.ending_at(bars, cutoff, 64, 32)], HORIZON)
    walk = dataclasses.replace(walk, issued_at=cutoff, available_at=cutoff + 7)
    came_FH = bars.ohlcv_TF[i + 1 : i + 1 + HORIZON, :4].T
    raw_FHQ = sharper * walk.raw_FHQ + (1 - sharper) * came_FH[:, :, None]
    by = make_provenance(name, revision)
    values_FHQ = repair(calibrated * raw_FHQ)
    return [dataclasses.replace(walk, raw_FHQ=raw_FHQ, values_FHQ=values_FHQ, provenance=by), walk]


def fill(store, keys=(KEY,), cutoffs=range(FIRST, FIRST + 80), **about):
    store.add_run(Run(LIVE, LIVE, START))
    for key in keys:
        bars = all_bars(key)
        store.add_bars(bars)
        store.add_forecasts([one for i in cutoffs for one in forecasts(bars, i, **about)], LIVE)
    return store


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    opened = open_store("memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/ledger.db")
    yield opened
    opened.close()


def arrays(losses):
    return [
        (one.served_NGC.tobytes(), one.raw_NGC.tobytes(), one.last_close_N.tobytes(), one.walk_N.tobytes())
        for one in losses
    ]


def test_losses_are_those_of_what_settled(store):
    """On all bars, or on those alone that are read for them: the same, bit by bit."""
    fill(store)
    losses = list(settled_losses(store, [KEY], EVER))

    assert arrays(losses) == arrays(compute_losses(steps, all_bars()) for steps in store.settled(KEY, EVER))
    assert sum(len(one.steps) for one in losses) == 80 * HORIZON * 2


def test_series_come_one_after_the_other(store):
    fill(store, (KEY, ETHER))

    for keys in ([ETHER, KEY], [KEY]):
        found = [(keys.index(one.steps.key), int(one.steps.cutoff_N[0])) for one in settled_losses(store, keys, EVER)]

        assert found == sorted(found)
        assert {i for i, _ in found} == set(range(len(keys)))


def test_what_arrived_is_what_one_close_settles(store):
    """Of each series and model, the steps of several cutoffs that were about one bar."""
    fill(store, (KEY, ETHER), range(FIRST, FIRST + 24))
    close = int(all_bars().close_time[FIRST + 20])
    losses = newly_settled_losses(store, close, since=close - 1)

    assert {one.steps.key for one in losses} == {KEY, ETHER}
    for one in losses:
        assert set(one.steps.target_open_N.tolist()) == {close - HOUR_MS}
        assert sorted(one.steps.step_N.tolist()) == [1, 1, 2, 2, 3, 3]
        assert (one.walk_N >= 0).all()
    closes = all_bars().close_time[FIRST : FIRST + 24 + HORIZON].tolist()
    grown = Scores(one for at in closes for one in arrived_at(store, at))
    assert Scores(settled_losses(store, [KEY, ETHER], EVER)).max_difference(grown) <= 1e-12


def arrived_at(store, close):
    return newly_settled_losses(store, close, since=close - 1)


@pytest.mark.parametrize("place", [0, 17, 79])
@pytest.mark.parametrize("change", ["gone", "a million times"])
def test_scores_know_nothing_past_a_forecast(place, change):
    """With all bars that closed after a forecast could be had gone, but for its targets, its losses are the same.

    Bit by bit; the same where every later bar, that is no target, stands at a million times its price.
    """
    bars = all_bars()
    cutoff = int(bars.close_time[FIRST + place])
    made = forecasts(bars, FIRST + place)
    targets = np.isin(bars.open_time, made[0].target_opens())
    later = (bars.close_time > made[0].available_at) & ~targets
    moved = np.where(later[:, None], 1e6, 1.0) * bars.ohlcv_TF
    other = bars[~later] if change == "gone" else Bars(KEY, bars.open_time, moved, bars.first_seen_at)
    found = []
    for known in (bars, other):
        store = fill(open_store("memory:"), cutoffs=())
        store._bars.clear()
        store.add_bars(known)
        store.add_forecasts(made, LIVE)
        found.append(arrays(settled_losses(store, [KEY], EVER)))

    assert later.any()
    assert cutoff < made[0].available_at
    assert found[0] == found[1] != []


def test_a_revised_target_is_scored_anew(store):
    """As of later with its new price, as of earlier with the old one, and once in either."""
    fill(store, cutoffs=[FIRST])
    bars = all_bars()[FIRST + 1 : FIRST + 2]
    values = bars.ohlcv_TF.copy()
    values[0, 1:4] = [values[0, 1] + 1, values[0, 2], values[0, 2]]
    revised_at = int(bars.close_time[0]) + 50 * HOUR_MS
    store.add_bars(Bars(KEY, bars.open_time, values, np.full(1, revised_at)))
    median = forecasts(all_bars(), FIRST)[0].median("close")[0]

    for as_of, since, close in (
        (revised_at - 1, None, bars.close[0]),
        (revised_at, None, values[0, 3]),
        (revised_at, revised_at - 1, values[0, 3]),
    ):
        total = Scores(settled_losses(store, [KEY], as_of, since)).total("nano", "close", 1)
        assert (total.n, total.mae) == (1, abs(close - median))
    assert list(settled_losses(store, [KEY], revised_at + 5, revised_at)) == []


def test_a_revised_cutoff_is_the_unit_from_then_on(store):
    """As of earlier the last close is what it was: a score of the past does not change."""
    fill(store, cutoffs=[FIRST])
    bars = all_bars()[FIRST : FIRST + 1]
    values = bars.ohlcv_TF.copy()
    values[0, 3] = values[0, 2]
    revised_at = int(bars.close_time[0]) + 50 * HOUR_MS
    store.add_bars(Bars(KEY, bars.open_time, values, np.full(1, revised_at)))
    (before,) = settled_losses(store, [KEY], revised_at - 1)
    (after,) = settled_losses(store, [KEY], revised_at)

    assert set(before.last_close_N.tolist()) == {bars.close[0]}
    assert set(after.last_close_N.tolist()) == {values[0, 3]} != {bars.close[0]}


def test_a_run_is_assessed(store):
    """A model that peeks is better than the walk on each series; the walk is not better than itself."""
    found = assess(settled_losses(fill(store, (KEY, ETHER)), [KEY, ETHER], EVER))
    verdicts = {(one.key, one.model_id): one for one in found.verdicts}

    assert list(verdicts) == [(key, model_id) for key in (KEY, ETHER) for model_id in (MODEL, WALK)]
    for key in (KEY, ETHER):
        assert verdicts[key, MODEL].skill == pytest.approx(0.3, abs=0.001)
        assert verdicts[key, MODEL].summary == "significantly better than the random walk (p < 0.001)"
        assert (verdicts[key, WALK].skill, verdicts[key, WALK].n) == (0.0, 80)
        assert found.model_confidence_set[key] == {MODEL}
    assert {one.variant for one in found.verdicts} == {SERVED}
    assert found.scores.max_difference(Scores(settled_losses(store, [KEY, ETHER], EVER))) == 0.0


@pytest.mark.parametrize(("field", "step"), [("high", None), (None, 2), ("low", 3)])
def test_a_verdict_is_of_what_was_asked_for(store, field, step):
    """And so is the coverage beside it."""
    losses = list(settled_losses(fill(store), [KEY], EVER))
    found = assess(losses, field, step)
    expected = compute_verdict(LossHistory(losses), (KEY, MODEL), SERVED, field, step)

    assert found.verdicts[0] == expected
    assert found.coverage80[KEY, MODEL, SERVED] == Scores(losses).total("nano", field, step).coverage(80)


def test_calibration_is_judged_beside_the_model_itself(store):
    """Where it made a difference: served is a thousandth off, and that is worse than what the model gave."""
    found = assess(settled_losses(fill(store, calibrated=1.01), [KEY], EVER))
    skills = {(one.model_id, one.variant): one.skill for one in found.verdicts}

    assert list(skills) == [(MODEL, SERVED), (MODEL, RAW), (WALK, SERVED)]
    assert skills[MODEL, RAW] == pytest.approx(0.3, abs=0.001)
    assert skills[MODEL, SERVED] < skills[MODEL, RAW]
    assert found.coverage80[KEY, MODEL, SERVED] != found.coverage80[KEY, MODEL, RAW]


def test_a_rival_is_another_model(store):
    """Against itself a model has no skill, and against it the walk has less."""
    found = assess(settled_losses(fill(store), [KEY], EVER), reference="nano")
    skills = {one.model_id: (one.skill, one.reference) for one in found.verdicts}

    assert skills[MODEL] == (0.0, "nano")
    assert skills[WALK][0] == pytest.approx(1 - 1 / 0.7, abs=0.005)


def test_series_that_the_rival_has_not_forecast_has_no_verdict(store):
    """It is not compared with another model in its place."""
    found = assess(settled_losses(fill(store), [KEY], EVER), reference="garch")

    assert found.verdicts == []
    assert list(found.model_confidence_set) == [KEY]
    assert found.scores.reports()


def test_newest_revision_of_a_rival_counts(store):
    fill(store)
    for i in range(FIRST + 80, FIRST + 90):
        store.add_forecasts(forecasts(all_bars(), i, model="nano@2"), LIVE)
    found = assess(settled_losses(store, [KEY], EVER), reference="nano")
    skills = {one.model_id: one.skill for one in found.verdicts}

    assert skills["nano@2"] == 0.0
    assert skills[MODEL] != 0.0


def test_nothing_is_assessed(store):
    found = assess(settled_losses(store, [KEY], EVER))

    assert (found.verdicts, found.coverage80, found.scores.reports()) == ([], {}, [])


@pytest.mark.parametrize("in_time", [0, 40])
def test_late_forecasts_are_not_judged(store, in_time):
    """Their name is there, and no case of theirs, nor do they count for the coverage of those that were in time."""
    store = fill(store, cutoffs=range(FIRST, FIRST + in_time))
    bars = all_bars()
    late = [
        dataclasses.replace(one, issued_at=one.cutoff + 9 * HOUR_MS, available_at=one.cutoff + 9 * HOUR_MS)
        for i in range(FIRST + 40, FIRST + 60)
        for one in forecasts(bars, i, calibrated=1.1)
    ]
    store.add_forecasts(late, LIVE)
    found = assess(settled_losses(store, [KEY], EVER))

    assert {one.n for one in found.verdicts} == {in_time}
    assert found.coverage80[KEY, MODEL, SERVED] == found.scores.total("nano", step=None).coverage(80)
    assert len(found.scores.reports(late=True)) == 2 * HORIZON * 5
    assert len(found.scores.reports()) == (2 * HORIZON * 5 if in_time else 0)


@pytest.mark.parametrize("calibrated", [1.0, 1.01])
def test_scores_can_be_rebuilt(store, calibrated):
    """Each cutoff read and measured alone, the last first: counts bit for bit, sums within 1e-12."""
    fill(store, (KEY, ETHER), range(FIRST, FIRST + 30), calibrated=calibrated)
    for since in (None, int(all_bars().close_time[FIRST + 12])):
        whole = assess(settled_losses(store, [KEY, ETHER], EVER, since)).scores

        assert whole.max_difference(rescore(store, [KEY, ETHER], EVER, since)) <= 1e-12
        assert rescore(store, [KEY], EVER, since).max_difference(whole) == float("inf")


def as_of(i=FIRST + 79):
    """When the bar `i` had closed, and the forecast made then could be read."""
    return int(all_bars().close_time[i]) + 10


def test_trust_of_a_ledger_is_that_of_its_traces(store):
    """Live, at a step, of the newest forecast's model; fresh until the next bar has closed."""
    fill(store)
    found = trust_in(store, KEY, "nano", 2, as_of())
    traces = LossHistory(settled_losses(store, [KEY], as_of()))

    assert found == compute_trust(traces, KEY, MODEL, 2, is_fresh=True)
    assert found.value > 0.9
    assert (found.verdict.n, found.verdict.step) == (78, 2)
    assert trust_in(store, KEY, "nano", 2, as_of(FIRST + 80) - 11).freshness == 1.0
    assert trust_in(store, KEY, "nano", 2, as_of(FIRST + 80)).freshness == 0.0


def test_without_a_past_there_is_no_trust(store):
    """No forecast, none of that name, none that has settled yet."""
    empty = trust_in(store, KEY, "nano", 1, as_of())
    fill(store, cutoffs=[FIRST])

    assert empty is None
    assert trust_in(store, KEY, "nobody", 1, as_of()) is None
    assert trust_in(store, KEY, "nano", 1, as_of(FIRST)) is None
    assert trust_in(store, KEY, "nano", 1, as_of(FIRST + 1)).value == 0.0


def test_trust_is_in_the_revision_that_forecast_last(store):
    """What an older one did says nothing of it."""
    fill(store)
    made = forecasts(all_bars(), FIRST + 80, model="nano@2")
    store.add_forecasts(made, LIVE)

    assert trust_in(store, KEY, "nano", 1, as_of(FIRST + 80)) is None
    assert trust_in(store, KEY, "nano", 1, as_of(FIRST + 81)).verdict.model_id == "nano@2"
    assert trust_in(store, KEY, "nano", 1, as_of(FIRST + 81)).verdict.n == 1


def test_trust_looks_at_the_newest_500_bars(monkeypatch):
    """What settled before them is forgotten."""
    store = fill(open_store("memory:"))
    monkeypatch.setattr("forecaster.client.TRUSTED_CUTOFFS", 20)

    assert trust_in(store, KEY, "nano", 1, as_of()).verdict.n == 20


def test_window_begins_so_many_days_before():
    assert window_start("3d", 10 * 24 * HOUR_MS) == 7 * 24 * HOUR_MS
    assert window_start(None, 5) is None
    with pytest.raises(ConfigError, match="a number of days such as 30d"):
        window_start("30", 0)
