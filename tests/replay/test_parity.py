"""Parity: what the ledger holds can be made again from it, and what was tampered with is found by name."""

from __future__ import annotations

import dataclasses
import shutil
from contextlib import closing

import numpy as np
import pytest

from forecaster.bars import Bars
from forecaster.engine import Forecaster
from forecaster.errors import ConfigError
from forecaster.forecast import repair
from forecaster.model import ModelSuite
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.replay.parity import ParityPlan, verify_parity
from forecaster.sources.memory import MemorySource
from forecaster.store import open_database, open_store
from forecaster.store.sqlite_library import sqlite3
from tests.builders import HOUR_MS, make_bars
from tests.replay.leaks import NamedWalk, moved
from tests.test_engine import make_config

BARS = make_bars(count=120)
KEY = BARS.key
_STEP = """
SELECT raw, repaired FROM forecast_step
WHERE forecast_id = (SELECT id FROM forecast WHERE cutoff = ? AND model_id LIKE ?) AND step = 1"""
_CHANGE = """
UPDATE forecast_step SET raw = ?, repaired = ?
WHERE forecast_id = (SELECT id FROM forecast WHERE cutoff = ? AND model_id LIKE ?) AND step = 1"""
ALL = ParityPlan(forecasts=10_000)
CYCLES = (*range(60, 80), 85, *range(86, 90))
"""Places of the bars at whose close a cycle runs: five closes were missed, and caught up on."""


class Eager(NamedWalk):
    """A model that says of itself that it has float32's noise."""

    engine = "eager"

    def __init__(self, factor=1.0):
        self._factor = factor

    def predict(self, contexts, horizon):
        return [moved(one, self._factor) for one in super().predict(contexts, horizon)]


def live(url, places=CYCLES, models=None, bars=BARS, **model):
    """Run live cycles as a daemon does, and leave."""
    source = MemorySource([bars])
    with closing(open_store(url)) as store:
        program = Forecaster(
            make_config(KEY, **model), store, {KEY: source}, models or ModelSuite(NamedWalk(), [RandomWalk()])
        )
        for i in places:
            program.run_cycle(KEY.timeframe, int(bars.close_time[i]) + 1000)


def prove(url, plan=ALL, models=None, on_progress=None, **model):
    with closing(open_database(url)) as database:
        given = (database, make_config(KEY, **model), models or ModelSuite(NamedWalk(), [RandomWalk()]), plan)
        return verify_parity(*given) if on_progress is None else verify_parity(*given, on_progress)


def tamper(url, statement, *values):
    """Change a ledger behind its triggers."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        assert connection.execute(statement, values).rowcount > 0


def change_prices(url, column, place, model, change):
    """Change all prices of the first step of the forecast at the close of the bar at `place`."""
    values = (int(BARS.close_time[place]), f"{model}@%")
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        raw, repaired = connection.execute(_STEP, values).fetchone()
    there = {"raw": raw, "repaired": repaired}
    there[column] = change(np.frombuffer(there[column] or raw, "<f8")).tobytes()
    tamper(url, _CHANGE, *there.values(), *values)


def blamed(report):
    return [(one.component, one.cutoff) for one in report.failures]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file of a ledger, which nobody changes."""
    path = tmp_path_factory.mktemp("whole") / "ledger.db"
    live(f"sqlite:///{path}")
    return path


@pytest.fixture
def ledger(whole, tmp_path):
    """A copy of it, which may be changed."""
    return f"sqlite:///{shutil.copy(whole, tmp_path / 'ledger.db')}"


def test_everything_can_be_made_again(ledger):
    """Of thirty closes each: the model, its calibration, and the random walk; five of them late."""
    report = prove(ledger)

    assert (report.checked, report.identical, report.failures, report.left_out) == (90, 90, [], {})
    assert report.largest_differences == {"nano": 0.0, "random_walk": 0.0}
    assert report.ok


class AtHome(NamedWalk):
    """A model whose name holds the sign that divides an id."""

    name = "models/nano@2024"


def test_a_model_with_an_at_in_its_name(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    live(url, models=ModelSuite(AtHome(), [RandomWalk()]))
    report = prove(url, models=ModelSuite(AtHome(), [RandomWalk()]))

    assert (report.checked, report.identical, report.left_out) == (90, 90, {})


def test_without_calibration(tmp_path):
    """What was served is compared with what is configured."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    live(url, range(60, 75), calibrate=False)
    as_it_was, calibrated = (prove(url, calibrate=calibrate) for calibrate in (False, True))

    assert as_it_was.ok
    assert not calibrated.ok
    assert {one.component for one in calibrated.failures} == {"calibration of nano"}


def test_late_ones_are_among_the_drawn(ledger, monkeypatch):
    """A quarter, though they are a sixth; and they say that they are late where they fail."""
    tamper(ledger, "UPDATE bar SET volume = volume, close = low")
    report = prove(ledger, ParityPlan(forecasts=16))
    late = {one.cutoff for one in report.failures if one.perturbation == "recomputed, late"}

    assert {one.component for one in report.failures} == {"input"}
    assert len([one for one in report.failures if one.perturbation == "recomputed, late"]) >= 4
    assert late <= set(BARS.close_time[80:85].tolist())


def test_changed_raw_price_is_found(ledger):
    """In the model's own numbers, and in the calibration that had begun with others; what follows is not blamed."""
    change_prices(ledger, "raw", 70, "nano", lambda prices: prices * 1.0001)
    report = prove(ledger)
    cutoff = int(BARS.close_time[70])

    assert blamed(report) == [("model nano", cutoff), ("calibration of nano", cutoff)]
    assert sum(report.left_out.values()) == 19
    assert (report.checked, report.identical) == (90 - 19, 90 - 19 - 2)


def test_least_change_of_a_price_is_found(ledger):
    """One bit of one price of a model in numpy."""

    def next_float(prices):
        return np.append(np.nextafter(prices[:1], np.inf), prices[1:])

    change_prices(ledger, "raw", 70, "random_walk", next_float)

    assert ("model random_walk", int(BARS.close_time[70])) in blamed(prove(ledger))


@pytest.mark.parametrize(("model", "what"), [("nano", "calibration of nano"), ("random_walk", "repair of random_walk")])
def test_changed_price_that_was_served_is_found(ledger, model, what):
    change_prices(ledger, "repaired", 75, model, lambda prices: prices * 1.01)

    assert blamed(prove(ledger)) == [(what, int(BARS.close_time[75]))]


def test_prices_that_are_no_forecast_are_found(ledger):
    change_prices(ledger, "repaired", 75, "random_walk", lambda prices: prices[::-1])
    report = prove(ledger)

    assert blamed(report) == [("row", int(BARS.close_time[75]))]
    assert "cannot be read" in report.failures[0].difference


def test_change_before_what_was_drawn_is_found(ledger):
    """The calibration of a late forecast rests on all before it."""
    change_prices(ledger, "repaired", 62, "nano", lambda prices: prices * 1.01)
    reports = [prove(ledger, ParityPlan(forecasts=5, seed=seed)) for seed in range(2)]

    assert [blamed(one) for one in reports] == [[("calibration of nano", int(BARS.close_time[62]))]] * 2


def test_bar_that_was_revised_later_is_not_blamed(ledger):
    """Forecasts saw the first revision, and only those are judged that saw it."""
    revised = BARS[65:70]
    values = revised.ohlcv_TF * 1.5
    with closing(open_store(ledger)) as store:
        store.add_bars(Bars(KEY, revised.open_time, values, np.full(1, int(BARS.close_time[119]))))

    assert prove(ledger).failures == []


def test_revision_that_came_in_between_is_seen_from_then_on(tmp_path):
    """The cycle after it was given the newer one."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    changed = np.array(BARS.ohlcv_TF)
    changed[79, :4] *= 1.001
    live(url, range(60, 80))
    live(url, range(80, 90), bars=Bars(KEY, BARS.open_time, changed))
    with closing(open_store(url)) as store:
        assert store.bars(KEY).revision.max() == 1

    assert prove(url).failures == []


def test_bar_that_was_changed_in_place_is_blamed(ledger):
    """As the input of all that saw it, by name; and not of those before."""
    tamper(ledger, "UPDATE bar SET close = close + 0.01 WHERE open_time = ?", int(BARS.open_time[85]))
    report = prove(ledger)

    assert {one.component for one in report.failures} == {"input"}
    assert {one.cutoff for one in report.failures} == set(BARS.close_time[85:90].tolist())
    assert "expected digest" in report.failures[0].difference


def test_bar_that_is_gone_is_named(ledger):
    tamper(ledger, "DELETE FROM bar WHERE open_time = ?", int(BARS.open_time[89]))
    report = prove(ledger)

    assert {one.cutoff for one in report.failures} == {int(BARS.close_time[89])}
    assert "expected a bar that closes at" in report.failures[0].difference


def test_restart_is_no_difference(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    live(url, range(60, 70))
    live(url, range(70, 75))

    assert prove(url).identical == 45


def test_another_horizon_begins_anew(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    live(url, range(60, 70))
    live(url, range(70, 80), horizon=4)

    assert prove(url).identical == 60


def test_noise_of_an_engine_is_no_difference(tmp_path):
    """1e-4 of the spread; a numpy model has none."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    live(url, range(60, 65), ModelSuite(Eager()))
    (near, far) = (prove(url, models=ModelSuite(Eager(factor))) for factor in (1 + 1e-8, 1.001))

    assert near.failures == []
    assert 0 < near.largest_differences["nano"] < 1e-4
    assert {one.component for one in far.failures} == {"model nano"}


def test_numbers_of_another_numpy_may_differ_by_noise(tmp_path):
    """Its functions round differently; what was made by another version is compared as another engine is."""

    class Older(NamedWalk):
        def predict(self, contexts, horizon):
            made = [moved(one, 1 + 1e-15) for one in super().predict(contexts, horizon)]
            return [
                dataclasses.replace(one, provenance=dataclasses.replace(one.provenance, library_versions="numpy 1.0"))
                for one in made
            ]

    url = f"sqlite:///{tmp_path}/ledger.db"
    live(url, range(60, 65), ModelSuite(Older()))
    far = ModelSuite(type("Far", (Eager,), {"engine": "numpy"})(1.001))

    assert prove(url, models=ModelSuite(NamedWalk())).failures == []
    assert prove(url, models=far).failures[0].difference.endswith("; numpy 1.0 had made it")


def test_models_and_weights_that_are_not_configured_are_left_out(ledger):
    class Retrained(NamedWalk):
        def predict(self, contexts, horizon):
            made = super().predict(contexts, horizon)
            about = [dataclasses.replace(one.provenance, revision="2") for one in made]
            return [dataclasses.replace(one, provenance=p) for one, p in zip(made, about, strict=True)]

    report = prove(ledger, models=ModelSuite(Retrained()))

    assert report.left_out == {
        "model random_walk@1 is not configured": 30,
        "weights of nano@1 are not configured": 30,
    }
    assert (report.checked, report.identical) == (30, 30)


def test_ledger_without_forecasts(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    with closing(open_store(url)) as store:
        store.add_bars(BARS)
    with pytest.raises(ConfigError, match="live forecasts of the configured models"):
        prove(url)


def test_other_context_than_then_is_named(ledger):
    report = prove(ledger, context=48)

    assert {one.component for one in report.failures} == {"input"}
    assert "of the 48 slots known at" in report.failures[0].difference


def test_seed_decides_what_is_drawn(ledger):
    change_prices(ledger, "raw", 70, "random_walk", lambda prices: prices * 1.01)
    plans = [ParityPlan(forecasts=30, seed=seed) for seed in (0, 0, 1, 2, 3)]
    again, *first = [prove(ledger, plan) for plan in plans]
    found = {bool(one.failures) for one in first}

    assert first[0] == again
    assert found == {True, False}
    assert all(30 < one.checked <= 60 for one in first)
    assert len({one.checked for one in first}) > 1


def test_progress_ends_at_the_whole(ledger):
    heard = []
    prove(ledger, on_progress=lambda done, total: heard.append((done, total)))

    assert heard[0] == (60, 90)
    assert heard[-1] == (90, 90)
    assert heard == sorted(heard)


def test_served_is_what_repair_gives(ledger):
    """The oracle of the tests above: nothing of the random walk was calibrated."""
    with closing(open_store(ledger)) as store:
        rows = [row for row in store.history(KEY, 0, 2**62) if row.model_id == "random_walk@1"]
        raw_FHQ = np.stack([row.raw_Q for row in rows[:12]]).reshape(3, 4, -1).transpose(1, 0, 2)
        values_FHQ = np.stack([row.values_Q for row in rows[:12]]).reshape(3, 4, -1).transpose(1, 0, 2)

    assert values_FHQ.tolist() == repair(raw_FHQ).tolist()
    assert rows[0].issued_at - rows[0].cutoff < HOUR_MS
