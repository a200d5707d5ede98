"""A replay on Ray is the replay without it: the same rows, each once, also when a worker is killed midway."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from forecaster import Forecaster
from forecaster.bars import FIELDS
from forecaster.config import Config
from forecaster.context import Context
from forecaster.errors import ConfigError
from forecaster.forecast import same_forecast
from forecaster.replay import run_replay
from forecaster.replay.ray import RayWorkers
from forecaster.replay.replay import ReplayPlan
from forecaster.store import open_store
from forecaster.store.memory import MemoryStore
from forecaster.store.verify import verify_ledger
from tests.builders import make_bars

pytestmark = pytest.mark.ray
BARS = make_bars(count=220)
CUTOFFS = BARS.close_time[100:200]
PLAN = ReplayPlan(batch=10)


@pytest.fixture(scope="module")
def config():
    return Config.model_validate(
        {
            "series": [{"exchange": "binance", "symbol": "BTC/USDT", "timeframe": "1h", "file": "unused.csv"}],
            "model": {"context": 64, "min_context": 32, "horizon": 4, "compile": "off"},
        }
    )


@pytest.fixture(scope="module")
def alone(config):
    """The forecasts of a replay in this process."""
    forecaster = Forecaster(config, MemoryStore())
    return forecasts(forecaster, run_replay(forecaster, BARS, CUTOFFS, plan=PLAN))


@pytest.fixture(scope="module")
def session():
    """A session of Ray that these tests have begun, with room for a few workers on any machine."""
    import ray  # an extra, which changes sys.excepthook

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def workers(config, session):
    with RayWorkers(config, 2) as workers:
        yield workers


def forecasts(forecaster, run):
    """By model and cutoff."""
    made = forecaster.store._of_run(run.id)
    return {(one.provenance.model_id, one.cutoff): one for one in made}


def assert_same(found, alone):
    assert found.keys() == alone.keys()
    for name, one in alone.items():
        assert same_forecast(one, found[name]), name
        if name[0] == "random_walk":
            assert one.raw_FHQ.tobytes() == found[name].raw_FHQ.tobytes()


def test_two_workers_give_what_one_process_gives(config, alone, workers):
    """Bit for bit for the baseline, within the engines' tolerance for the model."""
    forecaster = Forecaster(config, MemoryStore())
    found = forecasts(forecaster, run_replay(forecaster, BARS, CUTOFFS, plan=PLAN, predictor=workers))

    assert_same(found, alone)
    served = [abs(one.values_FHQ - found[name].values_FHQ).max() / np.ptp(one.raw_FHQ) for name, one in alone.items()]
    assert max(served) < 1e-4


def test_worker_that_is_killed_loses_nothing(config, alone, workers, tmp_path):
    """Ray starts it again, and asks again; each forecast is in the ledger once."""
    killed = []

    def kill(_):
        if not killed:
            killed.append(workers.pids()[0])
            os.kill(killed[0], signal.SIGKILL)

    with closing(open_store(f"sqlite:///{tmp_path}/ledger.db")) as store:
        forecaster = Forecaster(config, store)
        run = run_replay(forecaster, BARS, CUTOFFS, plan=PLAN, on_batch=kill, predictor=workers)
        rows = store.history(BARS.key, 0, 2**62, run.id)
        counted = store._query("SELECT COUNT(*) AS n FROM forecast", {})[0].n
        errors = verify_ledger(store._asked).errors

    assert killed
    assert killed[0] not in workers.pids()
    assert counted == 2 * len(CUTOFFS) == len(alone)
    assert sorted({row.cutoff for row in rows}) == CUTOFFS.tolist()
    walk = {name[1]: one for name, one in alone.items() if name[0] == "random_walk"}
    assert all(
        row.raw_Q.tobytes() == walk[row.cutoff].raw_FHQ[FIELDS.index(row.field), row.step - 1].tobytes()
        for row in rows
        if row.model_id.startswith("random_walk")
    )
    assert errors == []


def test_all_workers_work(config, workers):
    """Each has loaded the model: a worker that is never asked has no torch in its memory."""
    run_replay(Forecaster(config, MemoryStore()), BARS, CUTOFFS[:40], plan=PLAN, predictor=workers)
    pids = workers.pids()

    assert len(set(pids)) == 2
    assert ["libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in pids] == [True, True]


def test_ray_that_somebody_else_has_begun_goes_on(config, session, workers):
    """The workers of the block end with it; those of others, their answers and Ray itself stay."""
    before = workers.pids()
    with RayWorkers(config, 1) as own:
        (pid,) = own.pids()
        there = Path(f"/proc/{pid}").exists()
    ended = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and time.monotonic() < ended:
        time.sleep(0.1)

    assert there
    assert not Path(f"/proc/{pid}").exists()
    assert session.is_initialized()
    assert workers.pids() == before


def test_an_address_beside_a_session_is_refused(config, workers):
    """It may be of another cluster than the one that this process is connected to."""
    with pytest.raises(ConfigError, match="address: expected none"), RayWorkers(config, 1, "ray://elsewhere:10001"):
        pass


def test_workers_are_named_as_what_they_load(config, workers):
    """Without loading it here."""
    answers = next(workers([[Context.ending_at(BARS, int(CUTOFFS[0]), 64, 32)]]))

    assert workers.model_ids == [made[0].provenance.ledger_id for made in answers.made]


def test_few_batches_are_cut_ahead(workers):
    """Two for each worker: a year of contexts is never in memory at once."""
    cut = []

    def batches():
        for cutoff in CUTOFFS[:12].tolist():
            cut.append(cutoff)
            yield [Context.ending_at(BARS, cutoff, 64, 32)]

    ahead = [len(cut) - i for i, _ in enumerate(workers(batches()))]

    assert ahead == [4] * 9 + [3, 2, 1]


def test_driver_loads_no_model(config, workers):
    """What records needs none."""
    forecaster = Forecaster(config, MemoryStore())
    run_replay(forecaster, BARS, CUTOFFS[:10], plan=PLAN, predictor=workers)

    assert "models" not in forecaster.__dict__
