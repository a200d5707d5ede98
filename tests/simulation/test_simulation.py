"""The simulation: what it promises holds in a few short worlds, and a fault that is planted is caught by name."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import subprocess
import sys
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
import structlog

from forecaster import Bars, Forecaster
from forecaster.accuracy.scores import Scores
from forecaster.context import Context
from forecaster.cycle.record import Recorder
from forecaster.cycle.run import CycleRunner
from forecaster.daemon.service_run import ServiceRun
from forecaster.errors import InferenceError, StoreUnavailable
from forecaster.ledger import Run
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
from forecaster.timeframe import DAY_MS
from tests.builders import HOUR_MS
from tests.simulation.faults import Faults, Rates
from tests.simulation.play import Parts, play
from tests.simulation.world import KEYS, START, Clock, ShakyStore, Truth, World

SPAN = (START, START + 90 * DAY_MS)
BUSY = Rates(
    outage=40, ban=40, clock=20, sick=40, baseline=60, model=40, slow=20, wall=120, rival=100,
    late=0.05, revised=0.05, missing=0.02, garbage=0.05, store=0.005, kill=0.0005,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _silent():
    """What counts is in the world's own log."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def test_nothing_is_broken():
    """A short world with all that can go wrong, each at a rate of its own."""
    outcome = play(0, 1)

    assert outcome.broken == []
    assert outcome.forecasts > 150


@pytest.mark.processes  # whose time it takes
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_broken_in_longer_worlds(seed):
    outcome = play(seed, 2)

    assert outcome.broken == []
    assert outcome.forecasts > 300


@pytest.mark.processes  # whose time it takes
def test_much_goes_wrong_at_once_and_nothing_is_broken():
    """A simulation in which nothing happens proves nothing: every kind of fault is in the log."""
    outcome = play(10, 1, BUSY)
    log = "\n".join(outcome.log)

    assert outcome.broken == []
    assert [word for word in EVENTS if word not in log] == []
    assert outcome.starts > 3
    assert outcome.late > 0


EVENTS = (
    "no answer within 10 s", "418", "html", "MissingBars", "failed_baselines={'random_walk'", "nano: broken",
    "NonFiniteForecast",
    "where=before", "where=within", "where=behind", "error=Killed", "error=StoreUnavailable", "error=LeaseLost",
    "frozen", "woken", " wall begins=True",
)  # fmt: skip


def test_in_a_calm_world_every_forecast_is_on_time():
    """With nothing wrong there is one forecast for each close, by each of two models, and none is late."""
    outcome = play(0, 0.5, Rates())
    until = START + DAY_MS // 2
    closes = sum(
        len(
            key.trading_calendar.closes_of(
                key.timeframe, key.trading_calendar.opens_between(key.timeframe, START, until)
            )
        )
        for key in KEYS
        if key.calendar == "24/7"
    )

    assert (outcome.broken, outcome.late, outcome.failed, outcome.starts) == ([], 0, 0, 1)
    assert outcome.forecasts >= 2 * closes


def test_same_seed_gives_the_same_log():
    """Byte for byte; another seed gives another log."""
    first, again, other = (play(seed, 0.2) for seed in (1, 1, 2))

    assert again.log == first.log
    assert other.digest != first.digest


@pytest.mark.processes
def test_same_seed_gives_the_same_log_in_another_process():
    """With other hashes of its strings."""
    command = "from tests.simulation.play import hush, play; hush(); print(play(1, 0.5).digest)"
    again = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True, env=_environment("77")
    )

    assert again.stdout.strip() == play(1, 0.5).digest


@pytest.mark.processes
def test_command_prints_a_record():
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "2", "--days", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment("0"))
    record = json.loads(done.stdout)

    assert (done.returncode, record["worlds"], record["broken"]) == (0, 2, {})


def test_windows_of_a_kind_do_not_overlap():
    faults = Faults(3, Rates(outage=30, wall=30), {"outage": ["alpha", "beta"]}, SPAN)
    alpha = [one for one in faults.of("outage") if one.subject == "alpha"]

    assert len(alpha) > 20
    assert all(before.end <= after.start for before, after in pairwise(alpha))
    assert faults.at("outage", "alpha", alpha[3].start) == alpha[3]
    assert faults.at("outage", "alpha", alpha[3].end) != alpha[3]


def test_rates_of_a_seed_stay():
    assert Rates.drawn(5) == Rates.drawn(5) != Rates.drawn(6)
    assert Rates.drawn(5).only("kill") == Rates(kill=Rates.drawn(5).kill)


def test_truth_is_told_when_it_is_known():
    """A bar forms, closes, comes late, and may be corrected: at each time the exchange gives what was known then."""
    truth = Truth(0, KEYS[0], Rates(late=0.3, revised=0.3), START + 30 * DAY_MS)
    at = int(np.flatnonzero(truth.is_revised_T & (truth.available_T > truth.close_T))[3])
    open_, close = int(truth.open_T[at]), int(truth.close_T[at])
    forming, late, first, revised = (
        dict(zip(*(one.tolist() for one in truth.served(time, open_)), strict=True)).get(open_)
        for time in (close - 1, close, int(truth.available_T[at]), int(truth.revised_at_T[at]))
    )

    assert forming == truth.values_TF[at, [0, 0, 0, 0, 4]].tolist()
    assert late is None
    assert first == truth.values_TF[at].tolist()
    assert revised == truth.revised_TF[at].tolist() != first


def test_truth_explains_nothing_that_it_has_not_told():
    truth = Truth(0, KEYS[0], Rates(), START + 30 * DAY_MS)
    opens, ohlc_CT = truth.open_T[5:9], truth.values_TF[5:9, :4].T
    known = int(truth.available_T[8])

    assert truth.explains(opens, ohlc_CT, known)
    assert not truth.explains(opens, ohlc_CT, known - 1)
    assert not truth.explains(opens, ohlc_CT * 1.01, known)
    assert not truth.explains(opens + 1, ohlc_CT, known)


def test_clock_waits_for_what_was_asked_side_by_side():
    """The slowest answer counts, once."""
    clock = Clock(START)
    for ms in (300, 700, 500):
        clock.reach(START + ms)
    before = clock.now
    seconds = clock.seconds()

    assert (before, seconds) == (START, (START + 700) / 1000)


@pytest.mark.processes  # whose time it takes
def test_bars_that_come_late_are_asked_for_before_the_next_close():
    """The daemon's own retries are played: with half of the bars late there are far more cycles than closes."""
    calm, late = (play(0, 1, rates) for rates in (Rates(), Rates(late=0.5)))

    assert late.broken == []
    assert late.cycles > 3 * calm.cycles
    assert late.forecasts > 0.8 * calm.forecasts


def test_store_fails_before_within_and_behind_its_commit(tmp_path):
    """What fails before or within leaves nothing; what fails behind is all there, and the caller does not know."""
    world = World(0, 1, tmp_path, Rates(store=1.0))
    store = ShakyStore(world, SqlStore(world.url))
    found = set()
    for i in range(40):
        try:
            store.add_run(Run(f"run {i}", "test", i))
            is_told = True
        except StoreUnavailable:
            is_told = False
        found.add((world.log[-1].partition("where=")[2].split()[0], is_told, _has_run(world.path, f"run {i}")))
    store.die()

    assert found - {("within", True, True)} == {
        ("before", False, False),
        ("within", False, False),
        ("behind", False, True),
    }


def test_process_that_died_leaves_its_ledger_to_the_next(tmp_path):
    """At once, though nobody gave the lease back."""
    world = World(0, 1, tmp_path, Rates())
    for _ in range(3):
        store = ShakyStore(world, SqlStore(world.url))
        epoch = store._store.epoch
        store.die()

    assert epoch == 3


def _has_run(path, name):
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("SELECT COUNT(*) FROM run WHERE id = ?", [name]).fetchone()[0])


class Forgetful(SqlStore):
    """Says that it has written what it has not."""

    def add_forecasts(self, forecasts, run_id, learned=()):
        return super().add_forecasts(forecasts[:-1], run_id, learned) + 1


class Unguarded(SqlStore):
    """Has lost the triggers that forbid changes."""

    def __init__(self, url):
        super().__init__(url)
        with self._database.transaction() as connection:
            for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")


class Tampering(Unguarded):
    """Changes what it wrote a while ago."""

    def add_forecasts(self, forecasts, run_id, learned=()):
        with self._writing() as connection:
            connection.exec_driver_sql("UPDATE forecast SET available_at = available_at + 1 WHERE id = 5")
        return super().add_forecasts(forecasts, run_id, learned)


class Doubling(SqlStore):
    """Has lost its unique keys, and writes a forecast again."""

    def __init__(self, url):
        super().__init__(url)
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.executescript("""
                PRAGMA legacy_alter_table = ON; PRAGMA foreign_keys = OFF;
                CREATE TABLE other AS SELECT * FROM forecast;
                DROP TABLE forecast; ALTER TABLE other RENAME TO forecast; CREATE UNIQUE INDEX one ON forecast (id);""")
        connection.close()

    def add_forecasts(self, forecasts, run_id, learned=()):
        added = super().add_forecasts(forecasts, run_id, learned)
        with self._writing() as connection:
            names = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(forecast)")][1:]
            connection.exec_driver_sql(
                f"INSERT INTO forecast SELECT id + 1, {', '.join(names)} FROM forecast ORDER BY id DESC LIMIT 1"  # noqa: S608 - our own names
            )
        return added


class Unflagged(Unguarded):
    """Takes what is late for timely."""

    def add_forecasts(self, forecasts, run_id, learned=()):
        added = super().add_forecasts(forecasts, run_id, learned)
        with self._writing() as connection:
            connection.exec_driver_sql("UPDATE forecast SET late = 0 WHERE late")
        return added


class Redated(SqlStore):
    """Dates bars an hour after it got them."""

    def add_bars(self, bars):
        later = Bars(bars.key, bars.open_time, bars.ohlcv_TF, bars.first_seen_at + HOUR_MS, bars.revision)
        return super().add_bars(later)


class Unlinked(Unguarded):
    """Changes a bar behind the back of its chain."""

    def add_forecasts(self, forecasts, run_id, learned=()):
        with self._writing() as connection:
            connection.exec_driver_sql("UPDATE bar SET volume = 0 WHERE rowid = (SELECT MIN(rowid) FROM bar)")
        return super().add_forecasts(forecasts, run_id, learned)


class Stateless(SqlStore):
    """Does not write down that work has failed."""

    def set_pending(self, slots, changed_at):
        super().set_pending([one for one in slots if one.state != "failed"], changed_at)


class Resigned(SqlStore):
    """Takes what has failed for a gap, so that nobody tries again."""

    def pending_forecasts(self, key, start, end):
        found = super().pending_forecasts(key, start, end)
        return [dataclasses.replace(one, state="gap") if one.state == "failed" else one for one in found]


class Growing(SqlStore):
    """Writes down a slot too many each time."""

    def set_pending(self, slots, changed_at):
        more = [dataclasses.replace(one, cutoff=one.cutoff + 1, state="gap") for one in slots]
        super().set_pending([*slots, *more], changed_at)


def recording(recorder):
    """A forecaster that records by another recorder."""

    class Recording(Forecaster):
        @functools.cached_property
        def _recorder(self):
            return recorder(lambda: self.reader, is_calibrated=self.config.model.calibrate)

    return Recording


class Backdating(Recorder):
    """Stamps forecasts with the close that they were made for."""

    def record(self, store, predictions, *, issued_at, **about):
        return super().record(store, predictions, issued_at=[one.cutoff for one in predictions.contexts], **about)


class Instant(Recorder):
    """Takes no note of the time that models take."""

    def record(self, store, predictions, *, latency, **about):
        return super().record(store, predictions, latency=lambda: 0, **about)


class Ahead(Recorder):
    """Promises forecasts for a time to come."""

    def record(self, store, predictions, *, issued_at, **about):
        return super().record(store, predictions, issued_at=[time + 60_000 for time in issued_at], **about)


class PeekingRunner(CycleRunner):
    """Forecasts what was missed from the bars that came after it."""

    def _contexts_of(self, claimed):
        built = super()._contexts_of(claimed)
        newest = built.contexts[-1] if built.contexts else None
        lengths = [min(one.ohlc_CT.shape[1], newest.ohlc_CT.shape[1]) for one in built.contexts]
        peeked = [
            Context(one.key, one.cutoff, newest.ohlc_CT[:, -length:])
            for one, length in zip(built.contexts, lengths, strict=True)
        ]
        return built._replace(contexts=peeked)


class Peeking(Forecaster):
    """Runs cycles that peek."""

    @functools.cached_property
    def _runner(self):
        return PeekingRunner(self.config, self.store, self._ingestor, self.models, self._recorder)


class Fragile(Forecaster):
    """Ends a cycle where one series cannot be forecast."""

    def run_cycle(self, timeframe, as_of, started_at=None, exchange=None):
        report = super().run_cycle(timeframe, as_of, started_at, exchange)
        if any("Forecast: " in reason for reason in report.skipped.values()):
            raise InferenceError(str(report.skipped))
        return report


class Flattering(Forecaster):
    """Counts late forecasts, and not the others."""

    def accuracy(self, window=None, as_of=None, run="live"):
        return Scores(self.losses(window, as_of, run)).reports(late=True)


class Impatient(ServiceRun):
    """Tries again at once."""

    def _retry_seconds(self, cycle):
        return 1.0


PLANTED = {
    "lost": (Parts(store=Forgetful), Rates(), 0.2),
    "changed": (Parts(store=Tampering), Rates(), 0.2),
    "doubled": (Parts(store=Doubling), Rates(), 0.2),
    "late flag": (Parts(store=Unflagged), Rates(slow=400), 0.6),
    "input": (Parts(store=Redated), Rates(), 0.2),
    "chain": (Parts(store=Unlinked), Rates(), 0.2),
    "slot without a state": (Parts(store=Stateless), Rates(outage=400), 0.6),
    "not retried": (Parts(store=Resigned), Rates(outage=400), 0.6),
    "slots grew": (Parts(store=Growing), Rates(), 0.3),
    "backdated": (Parts(forecaster=recording(Backdating)), Rates(), 0.2),
    "available early": (Parts(forecaster=recording(Instant)), Rates(), 0.2),
    "ahead": (Parts(forecaster=recording(Ahead)), Rates(), 0.2),
    "leak": (Parts(forecaster=Peeking), Rates(outage=400), 0.6),
    "not isolated": (Parts(forecaster=Fragile), Rates(sick=200), 0.4),
    "accuracy": (Parts(forecaster=Flattering), Rates(), 0.3),
    "storm": (Parts(service_run=Impatient), Rates(outage=400), 0.2),
}


LONG = ("leak", "not isolated", "late flag")
"""What shows in a world that takes seconds."""


@pytest.mark.parametrize(
    "promise", [pytest.param(one, marks=pytest.mark.processes if one in LONG else ()) for one in PLANTED]
)
def test_planted_fault_is_caught_by_name(promise):
    """Each in a copy of the real component, in a world where it can show; the component itself breaks nothing there."""
    parts, rates, days = PLANTED[promise]

    assert promise in {one.name for one in play(3, days, rates, parts).broken}
    assert _broken_by_the_sound(rates, days) == []


@functools.cache
def _broken_by_the_sound(rates, days):
    return play(3, days, rates).broken


def _environment(hashes):
    return os.environ | {"PYTHONHASHSEED": hashes}
