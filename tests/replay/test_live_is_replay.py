"""A run of the daemon, on its sped-up clock, and the replay of its bars: the same rows."""

from __future__ import annotations

import pytest
from rich.console import Console

from forecaster import Forecaster
from forecaster.config_file import load_config
from forecaster.daemon.demo import Demo
from forecaster.forecast import ENGINE_NOISE
from forecaster.replay import ReplayPlan, run_replay
from forecaster.store.memory import MemoryStore

CYCLES = 25


@pytest.fixture(scope="module")
def config():
    """The demo's, without the compiler: an engine that takes over half-way changes bits too."""
    found = load_config("embedded")
    model = found.model.model_copy(update={"compile": "off"})
    demo = found.demo.model_copy(update={"cycles": CYCLES})
    return found.model_copy(update={"model": model, "demo": demo})


@pytest.fixture(scope="module")
def live(config):
    forecaster = Forecaster(config, MemoryStore())
    Demo(forecaster).run(Console(quiet=True))
    return forecaster


def rows(forecaster, key, run_id="live"):
    """What must not depend on the door."""
    return {
        (row.model_id, row.cutoff, row.step, row.field): (row.target_open, row.raw_Q, row.values_Q)
        for row in forecaster.store.history(key, 0, 2**62, run_id)
    }


def test_ledger_of_a_demo_is_that_of_its_replay(config, live):
    """Raw and served. Rows of the model in another batch differ by float32's noise at most, baselines by nothing."""
    replayed = Forecaster(config, MemoryStore(), models=live.models)
    counted = 0
    for key in live.series:
        bars = live.store.bars(key)
        run = run_replay(replayed, bars, live.store.cutoffs(key), plan=ReplayPlan(batch=7))
        there, again = rows(live, key), rows(replayed, key, run.id)
        assert there.keys() == again.keys()
        for name, (target, raw_Q, values_Q) in there.items():
            other_target, other_Q, served_Q = again[name]
            noise = ENGINE_NOISE * (raw_Q[-1] - raw_Q[0]) if name[0].startswith("nano") else 0.0
            assert target == other_target
            assert abs(raw_Q - other_Q).max() <= noise
            assert abs(values_Q - served_Q).max() <= 2 * noise
            counted += 1

    assert counted == 2 * CYCLES * 2 * config.model.horizon * 4
