"""Three doors, one path: the same bars give the same ledger rows, and nothing after a cutoff matters."""

from __future__ import annotations

import numpy as np
import pytest

from forecaster import Bars, Forecaster, MemorySource, MemoryStore
from forecaster.config import Config
from forecaster.model import load_suite
from forecaster.replay import run_replay
from forecaster.replay.replay import ReplayPlan
from forecaster.store import open_store
from tests.builders import make_bars

HORIZON = 6


@pytest.fixture(scope="module")
def config():
    return Config.model_validate(
        {
            "series": [{"exchange": "binance", "symbol": "BTC/USDT", "timeframe": "1h", "file": "unused.csv"}],
            "model": {"id": "nano", "compile": "off", "context": 96, "min_context": 32, "horizon": HORIZON},
            "store": {"url": "memory:"},
        }
    )


@pytest.fixture(scope="module")
def models(config):
    return load_suite(config.model)


@pytest.fixture(scope="module")
def bars():
    return make_bars(count=150)


def make_forecaster(config, models, sources=None, store=None):
    return Forecaster(config, store or MemoryStore(), sources, models)


def ledger(forecaster, key, run_id="live"):
    """The rows of a run without issue time and run: what must not depend on the door."""
    rows = forecaster.store.history(key, 0, 2**62, run_id)
    return [
        (
            row.key,
            row.model_id,
            row.cutoff,
            row.step,
            row.field,
            row.target_open,
            row.engine,
            row.quantile_levels,
            row.raw_Q.tobytes(),
            row.values_Q.tobytes(),
        )
        for row in rows
    ]


def only_run(forecaster, kind):
    (run,) = (run for run in forecaster.store.runs() if run.kind == kind)
    return run.id


@pytest.mark.parametrize("url", ["memory:", "sqlite"])
def test_three_doors_one_ledger(config, models, bars, tmp_path, url):
    """run_cycle, predict and replay at the same cutoff record the same rows."""
    until = bars[:120]
    cutoff = int(until.close_time[-1])

    def store(name):
        return open_store(url if url == "memory:" else f"sqlite:///{tmp_path}/{name}.db")

    live = make_forecaster(config, models, {bars.key: MemorySource([bars])}, store("live"))
    live.run_cycle(bars.key.timeframe, cutoff + 5000)
    strategy = make_forecaster(config, models, store=MemoryStore())
    strategy.predict(until)
    backtest = make_forecaster(config, models, store=store("backtest"))
    run = run_replay(backtest, bars, [cutoff])

    rows = ledger(live, bars.key)

    assert len(rows) == 2 * HORIZON * 4
    assert ledger(strategy, bars.key, only_run(strategy, "predict")) == rows
    assert ledger(backtest, bars.key, run.id) == rows


def test_frame_and_bars_give_one_forecast(config, models, bars):
    """A pandas frame of the same bars is the same input."""
    first = make_forecaster(config, models).predict(bars)
    second = make_forecaster(config, models).predict(bars.frame, key=bars.key)

    assert first.provenance.input_sha256 == second.provenance.input_sha256
    assert np.array_equal(first.raw_FHQ, second.raw_FHQ)


def test_batches_do_not_matter(config, models, bars):
    """Replay in one batch equals replay in many: exactly for the baseline, within float32 for Chronos-2."""
    cutoffs = bars.close_time[40:100].tolist()
    whole, parts = (make_forecaster(config, models) for _ in range(2))
    run = run_replay(whole, bars, cutoffs, plan=ReplayPlan(batch=60))
    run_replay(parts, bars, cutoffs, plan=ReplayPlan(batch=7))
    pairs = zip(
        whole.store.history(bars.key, 0, 2**62, run.id), parts.store.history(bars.key, 0, 2**62, run.id), strict=True
    )

    for one, other in pairs:
        assert (one.model_id, one.cutoff, one.step, one.field) == (
            other.model_id,
            other.cutoff,
            other.step,
            other.field,
        )
        tolerance = 0 if one.model_id.startswith("random_walk") else 1e-5
        np.testing.assert_allclose(one.raw_Q, other.raw_Q, rtol=tolerance)


@pytest.mark.parametrize("perturbation", ["deleted", "times a million", "reversed", "shuffled"])
def test_bars_after_the_cutoff_do_not_matter(config, models, bars, perturbation):
    """Whatever comes after a cutoff, its forecast stays bit-identical."""
    cutoff = int(bars.close_time[99])
    later = bars[100:].ohlcv_TF.copy()
    changed = {
        "deleted": later[:0],
        "times a million": later * 1e6,
        "reversed": later[::-1],
        "shuffled": np.random.default_rng(0).permutation(later),
    }[perturbation]
    other = Bars(
        bars.key,
        bars.open_time[: 100 + len(changed)],
        np.concatenate([bars[:100].ohlcv_TF, changed]),
    )
    ledgers = []
    for given in (bars, other):
        forecaster = make_forecaster(config, models)
        run = run_replay(forecaster, given, [cutoff])
        ledgers.append(ledger(forecaster, bars.key, run.id))

    assert ledgers[0] == ledgers[1]


def test_bars_before_the_cutoff_do_matter(config, models, bars):
    """The comparison above can fail: one changed bar inside the context changes the forecast."""
    values = bars.ohlcv_TF.copy()
    values[99] *= 1.01
    ledgers = []
    for given in (bars, Bars(bars.key, bars.open_time, values)):
        forecaster = make_forecaster(config, models)
        run = run_replay(forecaster, given, [int(bars.close_time[99])])
        ledgers.append(ledger(forecaster, bars.key, run.id))

    assert ledgers[0] != ledgers[1]


def test_repeated_cycle_changes_nothing(config, models, bars):
    forecaster = make_forecaster(config, models, {bars.key: MemorySource([bars])})
    as_of = int(bars.close_time[119]) + 5000
    first = forecaster.run_cycle(bars.key.timeframe, as_of)
    before = ledger(forecaster, bars.key)
    second = forecaster.run_cycle(bars.key.timeframe, as_of)

    assert (len(first.forecasts), len(second.forecasts)) == (1, 0)
    assert ledger(forecaster, bars.key) == before


def test_repeated_replay_adds_nothing(config, models, bars):
    forecaster = make_forecaster(config, models)
    cutoffs = bars.close_time[50:60].tolist()
    run = run_replay(forecaster, bars, cutoffs)
    before = ledger(forecaster, bars.key, run.id)
    run_replay(forecaster, bars, cutoffs)

    assert ledger(forecaster, bars.key, run.id) == before
