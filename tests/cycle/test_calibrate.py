"""What was served was calibrated by the past alone, whichever door asked, and a restart changes no bit of it."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest
import structlog

from forecaster import Forecaster, MemorySource, MemoryStore
from forecaster.bars import Bars
from forecaster.config import Config
from forecaster.context import Context
from forecaster.errors import StoreUnavailable
from forecaster.forecast import repair
from forecaster.ledger import LIVE, Run
from forecaster.model import ModelSuite
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.replay import run_replay
from forecaster.replay.replay import ReplayPlan
from forecaster.store import open_store
from tests.builders import make_bars

HORIZON = 6
BARS = make_bars(count=160)
KEY = BARS.key
HOUR = KEY.timeframe


def make_forecaster(store=None, **model):
    """Forecasts by the random walk, under the name of a model."""
    config = Config.model_validate(
        {
            "series": [{"exchange": "binance", "symbol": "BTC/USDT", "timeframe": "1h", "file": "unused.csv"}],
            "model": {"context": 64, "min_context": 16, "horizon": HORIZON} | model,
        }
    )
    return Forecaster(config, store or MemoryStore(), {KEY: MemorySource([BARS])}, ModelSuite(RandomWalk()))


def context_at(i):
    return Context.ending_at(BARS, int(BARS.close_time[i]), 64, 16)


def cycles(forecaster, first, last):
    """What cycle after cycle served."""
    return [forecaster.run_cycle(HOUR, int(BARS.close_time[i]) + 1).forecasts[-1] for i in range(first, last)]


def bits(forecasts):
    return [one.values_FHQ.tobytes() for one in forecasts]


def test_what_was_learned_moves_what_is_served():
    """The first forecast is the model's own; later ones are not, and the model's own stays beside them."""
    served = cycles(make_forecaster(), 60, 100)

    assert served[0].values_FHQ.tolist() == repair(served[0].raw_FHQ).tolist()
    assert (served[-1].values_FHQ != repair(served[-1].raw_FHQ)).any()
    assert served[-1].uncalibrated.values_FHQ.tolist() == repair(served[-1].raw_FHQ).tolist()
    assert served[-1].uncalibrated.raw_FHQ.tobytes() == served[-1].raw_FHQ.tobytes()


def test_switched_off_it_serves_what_the_model_gave():
    served = cycles(make_forecaster(calibrate=False), 60, 70)

    assert all(one.values_FHQ.tolist() == repair(one.raw_FHQ).tolist() for one in served)


@pytest.mark.parametrize("batch", [1, 7, 256])
def test_replay_is_calibrated_as_live_was(batch):
    """Cutoff by cutoff, or all at once."""
    live = cycles(make_forecaster(), 60, 120)
    forecaster = make_forecaster()
    run = run_replay(forecaster, BARS, BARS.close_time[60:120], plan=ReplayPlan(batch=batch))
    again = [forecaster.store.history(KEY, one.cutoff, one.cutoff + 1, run.id) for one in live]

    assert [b"".join(row.values_Q.tobytes() for row in rows) for rows in again] == [
        one.values_FHQ.transpose(1, 0, 2).tobytes() for one in live
    ]


@pytest.mark.parametrize("at", [61, 64, 75])
def test_restart_changes_nothing(tmp_path, at):
    """State and forecasts that wait for their outcomes come back from the ledger."""
    whole = cycles(make_forecaster(), 60, 80)
    url = f"sqlite:///{tmp_path}/ledger.db"
    with closing(open_store(url)) as store:
        before = cycles(make_forecaster(store), 60, at)
    with closing(open_store(url)) as store:
        after = cycles(make_forecaster(store), at, 80)

    assert bits(before + after) == bits(whole)


def test_contexts_may_come_in_any_order():
    contexts = [context_at(i) for i in range(60, 90)]
    run = Run("replay-1", "replay", 0)
    in_order = make_forecaster().forecast(contexts, issued_at=[one.cutoff for one in contexts], run=run)
    backwards = make_forecaster().forecast(contexts[::-1], issued_at=[one.cutoff for one in contexts[::-1]], run=run)

    assert bits(backwards[::-1]) == bits(in_order)


def test_what_could_not_be_written_was_not_learned():
    """The disk is full for a moment: the forecast is made again, as if nothing had been."""
    whole = cycles(make_forecaster(), 60, 80)
    store = FullAt(70)
    forecaster = make_forecaster(store)
    served = cycles(forecaster, 60, 70)
    with pytest.raises(StoreUnavailable):
        cycles(forecaster, 70, 71)

    assert bits(served + cycles(forecaster, 70, 80)) == bits(whole)


class FullAt(MemoryStore):
    """A store without room for the first batch of one cutoff."""

    def __init__(self, i):
        super().__init__()
        self._cutoff = int(BARS.close_time[i])

    def add_forecasts(self, forecasts, run_id, learned=()):
        if forecasts[0].cutoff == self._cutoff:
            self._cutoff = -1
            raise StoreUnavailable("memory:", "no room")
        return super().add_forecasts(forecasts, run_id, learned)


def test_past_cutoff_is_not_calibrated_by_its_future():
    forecaster = make_forecaster()
    cycles(forecaster, 60, 100)
    context = context_at(50)
    (late,) = forecaster.forecast([context], issued_at=int(BARS.close_time[100]))

    assert late.values_FHQ.tolist() == repair(late.raw_FHQ).tolist()


def test_newest_cutoff_again_gives_the_same():
    """A cycle that is repeated is a no-op, calibration included."""
    forecaster = make_forecaster()
    served = cycles(forecaster, 60, 100)[-1]
    (again,) = forecaster.forecast([context_at(99)], issued_at=served.issued_at)

    assert again.values_FHQ.tobytes() == served.values_FHQ.tobytes()


def test_prediction_uses_what_live_has_learned_and_teaches_nothing():
    forecaster = make_forecaster()
    served = cycles(forecaster, 60, 100)
    predicted = forecaster.predict(BARS[36:101])
    after = forecaster.run_cycle(HOUR, int(BARS.close_time[100]) + 1).forecasts[-1]
    whole = cycles(make_forecaster(), 60, 101)

    assert predicted.values_FHQ.tobytes() == whole[-1].values_FHQ.tobytes()
    assert bits([*served, after]) == bits(whole)
    assert (predicted.values_FHQ != repair(predicted.raw_FHQ)).any()


def test_another_horizon_begins_anew():
    """What was learned is by step; the first forecasts of a new horizon are the model's own."""
    store = MemoryStore()
    cycles(make_forecaster(store), 60, 90)
    longer = cycles(make_forecaster(store, horizon=HORIZON + 1), 90, 92)

    assert longer[0].values_FHQ.tolist() == repair(longer[0].raw_FHQ).tolist()


def test_bars_after_a_cutoff_do_not_matter():
    changed = BARS.ohlcv_TF.copy()
    changed[100:, :4] *= 3
    other = Bars(KEY, BARS.open_time, changed, BARS.first_seen_at)
    first, second = make_forecaster(), make_forecaster()
    cutoffs = BARS.close_time[60:100]
    one = run_replay(first, BARS, cutoffs)
    another = run_replay(second, other, cutoffs)

    assert [row.values_Q.tobytes() for row in first.store.history(KEY, 0, 2**62, one.id)] == [
        row.values_Q.tobytes() for row in second.store.history(KEY, 0, 2**62, another.id)
    ]


def test_damaged_state_costs_no_forecast():
    """What was learned is lost, by name in the log; the next forecast is the model's own, and learning begins anew."""
    store = MemoryStore()
    before = cycles(make_forecaster(store), 60, 90)[-1]
    name = (KEY, before.provenance.ledger_id, LIVE)
    store._learned[name] = dataclasses.replace(store._learned[name], state=b"OCAL and then nothing")
    with structlog.testing.capture_logs() as logs:
        after = cycles(make_forecaster(store), 90, 100)

    assert [one["event"] for one in logs].count("calibration.lost") == 1
    assert after[0].values_FHQ.tolist() == repair(after[0].raw_FHQ).tolist()
    assert (after[-1].values_FHQ != repair(after[-1].raw_FHQ)).any()


def test_state_is_in_the_ledger_with_the_forecast(tmp_path):
    """Of the newest cutoff, and one for each run."""
    with closing(open_store(f"sqlite:///{tmp_path}/ledger.db")) as store:
        forecaster = make_forecaster(store)
        served = cycles(forecaster, 60, 65)
        state = store.calibration(KEY, served[0].provenance.ledger_id, LIVE)

        assert state.cutoff == served[-1].cutoff
        assert store.calibration(KEY, served[0].provenance.ledger_id, "replay-1") is None
        assert np.frombuffer(state.state[:4], "S4")[0] == b"OCAL"
