"""The identity of a replay: the same inputs are the same run, and any other input is another run or refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from forecaster import Forecaster
from forecaster.bars import Bars
from forecaster.context import Context
from forecaster.errors import ConfigError, InvalidArgument
from forecaster.ledger import Run
from forecaster.model import ModelSuite
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.replay import ReplayPlan, run_replay
from forecaster.replay.cutoffs import choose_cutoffs
from forecaster.replay.replay import replay_all
from forecaster.store.memory import MemoryStore
from tests.builders import make_bars, make_key
from tests.test_engine import NamedWalk, make_config, make_forecaster

BARS = make_bars(count=80)
CUTOFFS = BARS.close_time[40:50]


def changed(column, factor=1.0, volume=0.0):
    """The bars with one of them changed: a price of the last one but one, or its volume."""
    ohlcv_TF = BARS.ohlcv_TF.copy()
    ohlcv_TF[-2, column] *= factor
    ohlcv_TF[-2, 4] += volume
    return Bars(BARS.key, BARS.open_time, ohlcv_TF)


class OtherWeights(NamedWalk):
    """The same name, and other numbers behind it."""

    version = "other"

    @property
    def id(self):
        return type(super().id).of(self.name, "other")

    def predict(self, contexts, horizon):
        return [relabelled(one, "other", 1.1) for one in super().predict(contexts, horizon)]


def relabelled(forecast, revision, factor):
    import dataclasses

    provenance = dataclasses.replace(forecast.provenance, revision=revision)
    prices = {"raw_FHQ": forecast.raw_FHQ * factor, "values_FHQ": forecast.values_FHQ * factor}
    return dataclasses.replace(forecast, provenance=provenance, **prices)


def forecaster_with(store, models=None, **model):
    like = make_forecaster(BARS, models=models, **model)
    return Forecaster(like.config, store, models=like.models)


def replayed(store, bars=BARS, cutoffs=CUTOFFS, models=None, plan=None, **model):
    return run_replay(forecaster_with(store, models, **model), bars, cutoffs, plan=plan)


OTHER = {
    "a price": {"bars": changed(3, 1 - 1e-9)},
    "a volume": {"bars": changed(4, volume=1.0)},
    "fewer outcomes": {"bars": BARS[:-1]},
    "a cutoff": {"cutoffs": CUTOFFS[:-1]},
    "weights": {"models": ModelSuite(OtherWeights(), [RandomWalk()])},
    "a baseline": {"models": ModelSuite(NamedWalk())},
    "context": {"context": 48},
    "min_context": {"min_context": 40},
    "horizon": {"horizon": 2},
    "calibration": {"calibrate": False},
    "what was known": {"plan": ReplayPlan(known_within_ms=10**12)},
}
SAME = {
    "nothing": {},
    "the batch": {"plan": ReplayPlan(batch=3)},
    "the day": {"plan": ReplayPlan(started_at=int(BARS.close_time[-1]))},
    "the compiler": {"compile": "off"},
    "the device": {"device": "cpu"},
    "when the bars were seen": {"bars": Bars(BARS.key, BARS.open_time, BARS.ohlcv_TF, BARS.close_time + 5)},
}


@pytest.mark.parametrize("what", OTHER)
def test_another_input_is_another_run(what):
    store = MemoryStore()
    store.add_bars(Bars(BARS.key, BARS.open_time, BARS.ohlcv_TF, BARS.close_time))
    first, second = replayed(store), replayed(store, **OTHER[what])

    assert first.id != second.id
    assert len(store.runs()) == 2
    assert len(store.history(BARS.key, 0, 2**62, second.id)) > 0


@pytest.mark.parametrize("what", SAME)
def test_the_same_input_is_the_same_run(what):
    """And adds nothing."""
    store = MemoryStore()
    first = replayed(store)
    rows = len(store.history(BARS.key, 0, 2**62, first.id))
    second = replayed(store, **SAME[what])

    assert second == first
    assert store.runs() == [first]
    assert len(store.history(BARS.key, 0, 2**62, first.id)) == rows


def test_what_was_known_is_part_of_it():
    """One bar was first seen with another close, and corrected an hour later; all else is equal."""
    hour, plan = BARS.key.timeframe.ms, ReplayPlan(known_within_ms=5_000)
    ids = []
    for factor in (1.0, 0.9995):
        first = BARS.ohlcv_TF.copy()
        first[45, 2] *= factor
        store = MemoryStore()
        store.add_bars(Bars(BARS.key, BARS.open_time, first, BARS.close_time + 1_000))
        store.add_bars(Bars(BARS.key, BARS.open_time, BARS.ohlcv_TF, BARS.close_time + hour))
        ids.append([replayed(store, plan=plan).id, replayed(store).id])

    assert ids[0][0] != ids[1][0]
    assert ids[0][1] == ids[1][1]


def test_the_code_is_part_of_it(monkeypatch):
    store = MemoryStore()
    first = replayed(store)
    monkeypatch.setattr("forecaster.replay.run_identity.code_digest", lambda: "another")

    assert replayed(store).id != first.id


def test_two_lists_of_cutoffs_that_differ_in_the_middle():
    """Where a printed array is cut short."""
    bars = make_bars(count=1_300)
    cutoffs = bars.close_time[40:1_240]
    forecaster = make_forecaster(bars)
    ids = [run_replay(forecaster, bars, one).id for one in (cutoffs, cutoffs.copy(), np.delete(cutoffs, 600))]

    assert ids[0] == ids[1] != ids[2]


def test_doubled_prices_are_not_scored_by_forecasts_of_the_others():
    """The same configuration and cutoffs: the error of the second run is twice that of the first."""
    store = MemoryStore()
    double = Bars(BARS.key, BARS.open_time, BARS.ohlcv_TF * 2)
    maes = []
    for bars in (BARS, double):
        forecaster = forecaster_with(store)
        reports = forecaster.accuracy(run=run_replay(forecaster, bars, CUTOFFS).id)
        maes.append({(one.model_id, one.step, one.field): one.mae for one in reports})

    assert maes[0].keys() == maes[1].keys()
    for name, mae in maes[0].items():
        assert maes[1][name] == pytest.approx(2 * mae, abs=1e-9), name


MINE = ReplayPlan(Run("replay-mine", "replay", 0))
REFUSED = {
    "a price": "other bars of binance BTC/USDT 1h",
    "a cutoff": "other cutoffs of binance BTC/USDT 1h",
    "weights": "other models",
    "horizon": "other settings",
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_named_run_is_not_gone_on_with(what):
    """The run is named, and what differs; nothing was added."""
    store = MemoryStore()
    replayed(store, plan=MINE)
    rows = len(store.history(BARS.key, 0, 2**62, "replay-mine"))
    with pytest.raises(ConfigError, match="replay-mine is in the ledger already") as refusal:
        replayed(store, plan=MINE, **OTHER[what])

    assert REFUSED[what] in str(refusal.value)
    assert len(store.history(BARS.key, 0, 2**62, "replay-mine")) == rows
    assert len(store.runs()) == 1


def test_a_named_run_whose_plan_nobody_wrote():
    """As older ledgers have them: whether it is the same cannot be told."""
    store = MemoryStore()
    store.add_run(Run("replay-mine", "replay", 0))
    with pytest.raises(ConfigError, match="its plan was not recorded"):
        replayed(store, plan=MINE)


@pytest.mark.parametrize("name", ["live", "replay-mine+4000ms"])
def test_a_name_that_no_replay_takes(name):
    store = MemoryStore()
    with pytest.raises(ConfigError, match="run: expected an id of its own"):
        replayed(store, plan=ReplayPlan(Run(name, "replay", 0)))

    assert store.runs() == []


def test_the_plan_says_what_it_was_made_of():
    store = MemoryStore()
    run = replayed(store)
    plan = json.loads(store.runs()[0].plan)
    (series,) = plan["series"].values()

    assert run.plan == store.runs()[0].plan
    assert plan["models"] == [NamedWalk().id, RandomWalk().id]
    assert plan["settings"] == {"calibrate": True, "context": 64, "horizon": 3, "min_context": 32}
    assert (series["bar_count"], series["cutoff_count"]) == (80, 10)
    assert (series["first_open"], series["last_open"]) == (BARS.open_time[0], BARS.open_time[-1])
    assert plan["code"]


def test_several_series_are_one_run():
    """Named by all of them."""
    other = make_bars(make_key(symbol="ETH/USDT"), count=60, seed=1)
    config = make_config(BARS.key, other.key)
    store = MemoryStore()
    forecaster = Forecaster(config, store, models=ModelSuite(NamedWalk(), [RandomWalk()]))
    chosen = [choose_cutoffs(one, config.model) for one in (BARS, other)]
    done = []
    run = replay_all(forecaster, chosen, on_batch=lambda key, count, new: done.append((key, count, new)))
    again = replay_all(forecaster, chosen, on_batch=lambda key, count, new: done.append((key, count, new)))

    assert again == run
    assert run.id != run_replay(forecaster, BARS).id
    assert done == [(BARS.key, 49, 49), (other.key, 29, 29), (BARS.key, 49, 0), (other.key, 29, 0)]


class Elsewhere:
    """Claims to have the models of `forecaster`, and uses others."""

    def __init__(self, forecaster, others):
        self.model_ids = [one.id for one in forecaster.models]
        self.others = others

    def __call__(self, batches):
        for contexts in batches:
            assert isinstance(contexts[0], Context)
            yield self.others.predict_contexts(contexts)


def test_answers_of_other_weights_are_refused():
    """As a worker with another checkpoint of the same name would give them."""
    store = MemoryStore()
    forecaster = forecaster_with(store)
    others = forecaster_with(MemoryStore(), models=ModelSuite(OtherWeights(), [RandomWalk()]))
    with pytest.raises(InvalidArgument, match=r"models of run replay-.*: expected nano@.*, found nano@other"):
        run_replay(forecaster, BARS, CUTOFFS, predictor=Elsewhere(forecaster, others))

    assert len(store.cutoffs(BARS.key, store.runs()[0].id)) == 0
