"""The service: one path of start, whatever came before; and one bad thing that does not end the others.

Here it runs in the tests' own process, and gets its signals there. Whole processes are killed, stopped and starved in
tests/faults.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import closing, contextmanager

import pytest
import structlog

from forecaster.cycle.record import Recorder
from forecaster.daemon import service as module
from forecaster.daemon import service_run
from forecaster.daemon.cycle_queue import CycleQueue, ScheduledCycle
from forecaster.daemon.health_state import HealthState, Phase
from forecaster.daemon.service import Service
from forecaster.daemon.service_run import ServiceRun
from forecaster.daemon.time_source import WallClock
from forecaster.engine import Forecaster
from forecaster.errors import (
    ConfigError,
    InvalidBars,
    ModelLoadError,
    SourceUnavailable,
    StoreUnavailable,
    UnknownSymbol,
)
from forecaster.model import ModelSuite
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.sources.files import FileSource
from forecaster.store import open_reader, open_store
from forecaster.store.backup import copy_ledger
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
from forecaster.timeframe import Timeframe
from tests.builders import HOUR_MS, make_bars, make_key, utc_ms
from tests.test_bulkhead import Venue, closes
from tests.test_bulkhead import make_forecaster as make_bulkhead
from tests.test_engine import make_forecaster

CLOSE = utc_ms("2024-05-14 12:00")
PATIENCE = 300.0
"""Seconds that only a service that hangs takes."""

SERIES = """
[[series]]
exchange = "{exchange}"
symbol = "A/B"
timeframe = "1h"
file = "bars.csv"
"""


class Standing(WallClock):
    """A clock that stands still, half an hour behind a close."""

    def now(self):
        return CLOSE + HOUR_MS // 2

    def due(self, schedule, pending):
        return self.now()


class Home:
    """A folder with bars up to the last close, a configuration, and a ledger."""

    def __init__(self, folder):
        self.folder = folder
        self.path = folder / "live.toml"
        self.url = f"sqlite:///{folder}/ledger.db"
        bars = make_bars(make_key("one", "A/B"), count=120, start=CLOSE - 120 * HOUR_MS)
        bars.frame.to_csv(folder / "bars.csv")
        self.write("one", "two")

    def write(self, *exchanges, more=""):
        series = "".join(SERIES.format(exchange=one) for one in exchanges)
        model = '[model]\nid = "nano"\ncompile = "off"\ncontext = 64\nmin_context = 32\nhorizon = 3\n'
        self.path.write_text(f'{more}{series}{model}[store]\nurl = "{self.url}"\n')

    def cutoffs(self, exchange):
        with closing(open_reader(self.url)) as reader:
            return reader.cutoffs(make_key(exchange, "A/B")).tolist()

    def slots(self, exchange):
        with closing(open_reader(self.url)) as reader:
            return [(slot.state, slot.reason) for slot in reader.pending_forecasts(make_key(exchange, "A/B"), 0, 2**60)]


class Watch:
    """What a service logs, until it has ended; `until` waits for an event."""

    def __init__(self, logs):
        self.logs = logs
        self.ended = threading.Event()

    def of(self, event):
        return [one for one in list(self.logs) if one["event"] == event]

    def until(self, event, times=1):
        return self.until_true(lambda: len(self.of(event)) >= times)

    def until_true(self, condition):
        give_up = time.monotonic() + PATIENCE
        while not condition() and time.monotonic() < give_up and not self.ended.is_set():
            time.sleep(0.01)
        return condition()


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(service_run, "_TAKE_SECONDS", 0.05)
    monkeypatch.setattr("forecaster.store.lease._ACQUIRE_TIMEOUT_SECONDS", 0.1)


@pytest.fixture
def walks(monkeypatch):
    """The random walk in place of the model, under its name: loading takes no time."""

    class Walk(RandomWalk):
        name = "nano"

    monkeypatch.setattr("forecaster.engine.load_suite", lambda _: ModelSuite(Walk()))


@pytest.fixture
def looks(monkeypatch):
    """How often the main thread of a service has looked for orders, as a list of one number."""
    beat, count = HealthState.heartbeat, [0]

    def counted(health_state, component):
        count[0] += component == "main"
        beat(health_state, component)

    monkeypatch.setattr(HealthState, "heartbeat", counted)
    return count


@contextmanager
def acting(act):
    """Run `act` with a watch on another thread while the service runs in this one; its faults come out here."""
    faults = []
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGHUP)}
    with structlog.testing.capture_logs() as logs:
        watch = Watch(logs)

        def run():
            try:
                act(watch)
            except BaseException as error:  # noqa: BLE001 - the main thread shall raise it
                faults.append(error)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield watch
        finally:
            watch.ended.set()
            thread.join()
            for number, called in before.items():
                signal.signal(number, called)
    if faults:
        raise faults[0]


def serve(home, act):
    """Serve, until `act` has ended; gives what was logged."""
    with acting(act) as watch:
        Service(str(home.path), Standing()).run()
    return watch


def test_start_catches_up_before_it_is_ready(home, walks):
    """Lease, check, catch-up, readiness last; and the newest close is forecast."""
    watch = serve(home, lambda watch: watch.until("daemon.ready"))
    order = [event["event"] for event in watch.logs]
    wanted = ["lease.acquired", "ledger.checked", "daemon.started", "catch_up.started", "catch_up.completed"]
    wanted += ["daemon.ready", "daemon.draining", "daemon.stopped"]

    assert [one for one in order if one in wanted] == wanted
    assert home.cutoffs("one") == home.cutoffs("two") == [CLOSE]


def test_restart_makes_nothing_twice(home, walks):
    for _ in range(2):
        serve(home, lambda watch: watch.until("daemon.ready"))

    assert len(home.cutoffs("one")) == 1
    assert home.slots("one") == [("done", "")]


def test_ledger_with_a_damaged_row_is_not_served(home, walks):
    """The check at the start ends the service, and says what to do."""
    serve(home, lambda watch: watch.until("daemon.ready"))
    with closing(sqlite3.connect(home.folder / "ledger.db")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        connection.execute("INSERT INTO pending_forecast VALUES (1, 1, 'lost', 0, 0, 0, '', 0)")

    with pytest.raises(StoreUnavailable, match="expected a whole file; restore a copy of it"):
        serve(home, lambda watch: watch.until("daemon.ready"))


def test_standby_waits_for_the_ledger(home, walks, looks):
    """It does not end because another writes, is not ready, and takes over when the other ends."""
    other = open_store(home.url)

    def act(watch):
        assert watch.until("lease.waiting")
        told = looks[0]
        assert watch.until_true(lambda: looks[0] > told + 3)
        assert not watch.of("lease.acquired")
        other.close()
        assert watch.until("daemon.ready")

    assert len(serve(home, act).of("lease.waiting")) == 1


def test_standby_can_be_stopped(home, walks):
    with closing(open_store(home.url)):
        watch = serve(home, lambda watch: watch.until("lease.waiting"))

    assert watch.of("daemon.stopped")


def test_lost_lease_is_noticed_and_waited_for(home, walks, monkeypatch):
    """Whoever was stopped too long writes nothing more, closes its ledger, and begins anew as a standby."""
    monkeypatch.setattr(service_run, "MIN_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(service_run, "RETRIES_PER_BAR", 10**9)
    (home.folder / "bars.csv").unlink()  # so there is always something to write

    def act(watch):
        assert watch.until("daemon.ready")
        with closing(sqlite3.connect(home.folder / "ledger.db")) as other, other:
            other.execute("UPDATE lease SET owner = 'another', epoch = epoch + 1, expires_at = 0")
        assert watch.until("daemon.ready", 2)

    watch = serve(home, act)

    assert len(watch.of("lease.lost")) >= 1
    assert [event["epoch"] for event in watch.of("lease.acquired")] == [1, 3]


def test_idle_service_notices_that_another_has_taken_over(home, walks, monkeypatch):
    """Nothing is to be written for an hour, and the lease is looked at all the same."""
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.1)

    def act(watch):
        assert watch.until("daemon.ready")
        with closing(sqlite3.connect(home.folder / "ledger.db")) as other, other:
            other.execute("UPDATE lease SET owner = 'another', epoch = epoch + 1, expires_at = 0")
        assert watch.until("daemon.ready", 2)

    assert len(serve(home, act).of("lease.lost")) == 1


@pytest.fixture
def watchful(monkeypatch):
    """The ledger is looked at ten times a second; gives the health_state of the service."""
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.1)
    made, make = [], HealthState.__init__

    def keep(health_state, *given):
        make(health_state, *given)
        made.append(health_state)

    monkeypatch.setattr(HealthState, "__init__", keep)
    return made


def held(health_state):
    """What the metric says of the lease."""
    return [
        line for line in health_state.metrics_text().decode().splitlines() if line.startswith("forecaster_lease_held ")
    ]


def faults_of(health_state):
    """Why the service is not ready, as far as its ledger goes; by today's clock all series of these tests are stale."""
    return [one for one in health_state.not_ready_reasons() if one.startswith("ledger_")]


def sever(home, what):
    """Take the ledger away; gives what brings it back."""
    ledger, aside = home.folder / "ledgers" / "ledger.db", home.folder / "aside"
    if what == "folder":
        return ledger.parent.rename(aside), lambda: aside.rename(ledger.parent)
    aside.mkdir()
    names = [ledger] if what == "file" else sorted(ledger.parent.glob("ledger.db*"))
    for one in names:
        one.rename(aside / one.name)
    return aside, lambda: [(aside / one.name).rename(one) for one in reversed(names)]


@pytest.mark.parametrize("what", ["file", "files", "folder"])
def test_ledger_that_is_moved_away_is_noticed_and_waited_for(home, walks, watchful, what):
    """The service is not ready meanwhile, says where the ledger was, makes no other, and goes on when it is back."""
    (home.folder / "ledgers").mkdir()
    home.url = f"sqlite:///{home.folder}/ledgers/ledger.db"
    home.write("one", "two")
    found = {}

    def act(watch):
        assert watch.until("daemon.ready")
        (health_state,) = watchful
        _, bring_back = sever(home, what)
        assert watch.until("lease.waiting")
        assert watch.until_true(lambda: health_state.phase is Phase.WAITING)
        found["held"], found["dead"], found["reasons"] = (
            held(health_state),
            health_state.unhealthy(),
            faults_of(health_state),
        )
        found["told"] = [condition for condition in health_state.conditions() if condition.kind == "ledger_unavailable"]
        found["there"] = (home.folder / "ledgers" / "ledger.db").exists()
        bring_back()
        assert watch.until("daemon.ready", 2)
        assert faults_of(health_state) == []

    watch = serve(home, act)

    assert (found["held"], found["dead"], found["there"]) == (["forecaster_lease_held 0.0"], [], False)
    assert [condition.severity for condition in found["told"]] == ["critical"]
    assert f"{home.folder}/ledgers/ledger.db" in found["told"][0].text
    assert len(found["reasons"]) == 1
    assert [event["epoch"] for event in watch.of("lease.acquired")] == [1, 2]
    assert home.cutoffs("one") == [CLOSE]


def empty(path, _):
    path.touch()


def foreign(path, other):
    other.replace(path)


def no_database(path, _):
    path.write_bytes(b"nonsense" * 1000)


@pytest.mark.parametrize(
    ("put", "found"),
    [
        (empty, "found an empty file"),
        (foreign, "found another ledger"),
        (no_database, "found a file that cannot be read as one"),
    ],
)
def test_other_file_in_the_place_of_the_ledger_is_not_written(home, walks, watchful, looks, put, found):
    """The service waits, says what stands there and what to do, and goes on with all its forecasts once it is back."""
    ledger, old = home.folder / "ledger.db", home.folder / "old.db"
    open_store(f"sqlite:///{home.folder}/other.db").close()
    told = {}

    def act(watch):
        assert watch.until("daemon.ready")
        (health_state,) = watchful
        ledger.rename(old)
        put(ledger, home.folder / "other.db")
        before = ledger.read_bytes()
        assert watch.until("lease.waiting")
        looked = looks[0]
        assert watch.until_true(lambda: looks[0] > looked + 3)
        told["same"] = ledger.read_bytes() == before
        told["texts"] = [
            condition.text for condition in health_state.conditions() if condition.kind == "ledger_unavailable"
        ]
        old.replace(ledger)
        assert watch.until("daemon.ready", 2)
        assert faults_of(health_state) == []

    watch = serve(home, act)

    assert told["same"]
    assert [found in one and "put that ledger back, or restart the service" in one for one in told["texts"]] == [True]
    assert [event["epoch"] for event in watch.of("lease.acquired")] == [1, 2]
    assert home.cutoffs("one") == [CLOSE]


def test_copy_of_the_ledger_is_taken_up_in_its_place(home, walks, watchful):
    """It is known by the lease in it, which this process had."""
    ledger, copied = home.folder / "ledger.db", home.folder / "copy.db"

    def act(watch):
        assert watch.until("daemon.ready")
        copy_ledger(ledger, copied)
        copied.replace(ledger)
        assert watch.until("daemon.ready", 2)

    watch = serve(home, act)

    assert not watch.of("lease.waiting")
    assert [event["epoch"] for event in watch.of("lease.acquired")] == [1, 2]
    assert len(watch.of("ledger.checked")) == 2
    assert home.cutoffs("one") == [CLOSE]


def test_second_name_of_the_ledger_is_reported_once(home, walks, watchful, looks):
    """The service goes on: as long as nobody opens that name, there is one journal."""

    def act(watch):
        assert watch.until("daemon.ready")
        (home.folder / "twin.db").hardlink_to(home.folder / "ledger.db")
        assert watch.until("ledger.linked")
        looked = looks[0]
        assert watch.until_true(lambda: looks[0] > looked + 5)

    watch = serve(home, act)

    assert [event["names"] for event in watch.of("ledger.linked")] == [2]
    assert len(watch.of("lease.acquired")) == 1


def test_new_stint_after_a_sound_look_has_no_damaged_ledger(home, walks, watchful):
    """What was found before is over, since the start has looked."""

    def act(watch):
        assert watch.until("daemon.ready")
        (health_state,) = watchful
        health_state.set_ledger_fault("ledger_damaged", "expected a whole file")
        os.kill(os.getpid(), signal.SIGHUP)
        assert watch.until("daemon.ready", 2)
        assert faults_of(health_state) == []

    serve(home, act)


def test_ledger_that_cannot_be_written_ends_readiness(home, walks, watchful, monkeypatch):
    """Until it can be: a full disk, or a folder without rights, is no reason to begin anew."""
    fault = [StoreUnavailable("sqlite:////l.db", "database or disk is full")]
    renew = SqlStore.renew

    def fail(store):
        if fault:
            raise fault[0]
        renew(store)

    def act(watch):
        assert watch.until("daemon.ready")
        (health_state,) = watchful
        monkeypatch.setattr(SqlStore, "renew", fail)
        assert watch.until_true(lambda: any("disk is full" in condition for condition in faults_of(health_state)))
        fault.clear()
        assert watch.until_true(lambda: faults_of(health_state) == [])

    assert len(serve(home, act).of("lease.acquired")) == 1


def test_ledger_is_checked_on_a_schedule(home, walks, watchful):
    """Beside the cycles; damage that it finds is told until a look finds none, and the service goes on."""
    home.write("one", "two", more=f"daemon.check_hours = {0.05 / 3600}\n")

    def act(watch):
        assert watch.until("ledger.checked", 3)
        (health_state,) = watchful
        with closing(sqlite3.connect(home.folder / "ledger.db", timeout=PATIENCE)) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints=ON")
            connection.execute("INSERT INTO pending_forecast VALUES (1, 1, 'lost', 0, 0, 0, '', 0)")
        assert watch.until("ledger.damaged")
        assert watch.until_true(
            lambda: any("CHECK constraint failed" in condition for condition in faults_of(health_state))
        )
        assert health_state.unhealthy() == []
        with closing(sqlite3.connect(home.folder / "ledger.db", timeout=PATIENCE)) as connection, connection:
            connection.execute("DELETE FROM pending_forecast WHERE state = 'lost'")
        assert watch.until_true(lambda: faults_of(health_state) == [])

    watch = serve(home, act)

    assert not watch.of("ledger.check_failed")
    assert watch.of("daemon.stopped")


def test_hangup_reads_the_configuration_again(home, walks):
    def act(watch):
        assert watch.until("daemon.ready")
        home.write("one", "two", "three")
        os.kill(os.getpid(), signal.SIGHUP)
        assert watch.until("daemon.ready", 2)

    watch = serve(home, act)

    assert [event["series"] for event in watch.of("daemon.ready")] == [2, 3]
    assert len(home.cutoffs("three")) == 1


@pytest.mark.parametrize("broken", ["nonsense", "fetch_delay_seconds = -1\n"])
def test_bad_configuration_is_refused_and_the_old_one_goes_on(home, walks, looks, broken):
    def act(watch):
        assert watch.until("daemon.ready")
        home.path.write_text(broken)
        os.kill(os.getpid(), signal.SIGHUP)
        assert watch.until("config.refused")
        told = looks[0]
        assert watch.until_true(lambda: looks[0] > told + 3)

    watch = serve(home, act)

    assert len(watch.of("daemon.ready")) == 1
    assert not watch.of("config.reloaded")


def test_configuration_that_cannot_be_served_is_taken_back(home, walks):
    """A port that is taken shows only when it is opened: the service goes on as before."""
    with closing(listening()) as taken:

        def act(watch):
            assert watch.until("daemon.ready")
            home.write("one", more=f"[health]\nport = {taken.getsockname()[1]}\n")
            os.kill(os.getpid(), signal.SIGHUP)
            assert watch.until("daemon.ready", 2)

        watch = serve(home, act)

    assert len(watch.of("config.refused")) == 1
    assert [event["series"] for event in watch.of("daemon.ready")] == [2, 2]


def listening():
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return server


def test_exchange_that_fails_does_not_delay_another(home, walks, monkeypatch):
    """An exception that nobody knows ends the cycle of its exchange alone, and is tried again."""
    monkeypatch.setattr(service_run, "MIN_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(service_run, "RETRIES_PER_BAR", 10**9)
    fetch, left = FileSource.fetch, [2]

    def fail_for_one(source, key, since, as_of):
        if key.exchange == "one" and left[0]:
            left[0] -= 1
            msg = "nobody knows"
            raise RuntimeError(msg)
        return fetch(source, key, since, as_of)

    monkeypatch.setattr(FileSource, "fetch", fail_for_one)

    def act(watch):
        assert watch.until("daemon.ready")
        assert watch.until_true(lambda: len(home.cutoffs("one")))

    watch = serve(home, act)

    assert {event["exchange"] for event in watch.of("cycle.failed")} == {"one"}
    assert left == [0]
    assert len(home.cutoffs("one")) == len(home.cutoffs("two")) == 1


def test_series_that_sat_out_is_asked_for_again_before_the_next_close(home, walks, monkeypatch):
    """An hour is long for a fault of a second."""
    monkeypatch.setattr(service_run, "MIN_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(service_run, "RETRIES_PER_BAR", 10**9)
    content = (home.folder / "bars.csv").read_text()
    (home.folder / "bars.csv").unlink()

    def act(watch):
        assert watch.until("catch_up.completed")
        (home.folder / "bars.csv").write_text(content)
        assert watch.until_true(lambda: len(home.cutoffs("one")))

    serve(home, act)

    assert len(home.cutoffs("one")) == 1


def failing(monkeypatch, faults):
    """Sources of these exchanges fail so, each time; gives how often each was asked."""
    asked = dict.fromkeys(faults, 0)

    def fetch(_, key, since, as_of):
        asked[key.exchange] += 1
        raise faults[key.exchange]

    monkeypatch.setattr(FileSource, "fetch", fetch)
    return asked


def test_series_that_waiting_does_not_mend_is_not_asked_for_again(home, walks, monkeypatch):
    """A symbol that nobody lists sits out until the next close; an outage beside it is tried again."""
    monkeypatch.setattr(service_run, "MIN_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(service_run, "RETRIES_PER_BAR", 10**9)
    asked = failing(monkeypatch, {"one": UnknownSymbol("one", "A/B", ["C/D"]), "two": SourceUnavailable("two", "down")})

    def act(watch):
        assert watch.until("daemon.ready")
        assert watch.until_true(lambda: asked["two"] > 5)

    serve(home, act)

    assert asked["one"] == 1


def test_cycle_that_the_configuration_makes_fail_is_not_tried_again(home, walks, monkeypatch):
    """A timeframe that the exchange has not is no matter of time; an outage of unknown kind beside it may be."""
    monkeypatch.setattr(service_run, "MIN_RETRY_SECONDS", 0.02)
    monkeypatch.setattr(service_run, "RETRIES_PER_BAR", 10**9)
    asked = failing(monkeypatch, {"one": ConfigError("timeframe", "one of 1m", "1h"), "two": RuntimeError("unknown")})

    def act(watch):
        assert watch.until("daemon.ready")
        assert watch.until_true(lambda: asked["two"] > 5)

    serve(home, act)

    assert asked["one"] == 1


def test_series_whose_rows_cannot_be_read_stops_no_start(home, walks, monkeypatch):
    """A ledger may hold what today's calendar refuses: that series is told of, and all are served."""
    serve(home, lambda watch: watch.until("daemon.ready"))
    latest = Forecaster.latest

    def read(forecaster, series, **options):
        if series.exchange == "one":
            raise InvalidBars("one A/B 1h", "not on the calendar's grid", 0)
        return latest(forecaster, series, **options)

    monkeypatch.setattr(Forecaster, "latest", read)
    watch = serve(home, lambda watch: watch.until("daemon.ready"))

    assert [event["series"] for event in watch.of("ledger.read_failed")] == ["one A/B 1h"]
    assert len(watch.of("daemon.ready")) == 1


def test_series_whose_trust_cannot_be_told_stops_no_service(home, walks, monkeypatch):
    monkeypatch.setattr(module, "_CHECK_SECONDS", 0.05)
    trust, looked = Forecaster.trust, []

    def judge(forecaster, series):
        looked.append(series.exchange)
        if series.exchange == "one":
            raise InvalidBars("one A/B 1h", "not on the calendar's grid", 0)
        return trust(forecaster, series)

    monkeypatch.setattr(Forecaster, "trust", judge)
    watch = serve(home, lambda watch: watch.until_true(lambda: looked.count("two") >= 2))

    assert {event["series"] for event in watch.of("ledger.read_failed")} == {"one A/B 1h"}
    assert looked.count("two") >= 2


@pytest.mark.parametrize(("more", "loads"), [("", 1), ("[model.unknown]\n", 1), ("horizon", 2)])
def test_models_are_kept_until_their_table_changes(home, monkeypatch, more, loads):
    """Weights take seconds to load: a configuration that changes series, or is refused, keeps them."""
    loaded = []

    class Walk(RandomWalk):
        name = "nano"

    monkeypatch.setattr("forecaster.engine.load_suite", lambda config: loaded.append(config) or ModelSuite(Walk()))

    def act(watch):
        assert watch.until("daemon.ready")
        home.write("one", "three")
        text = home.path.read_text()
        home.path.write_text(text.replace("horizon = 3", "horizon = 2") if more == "horizon" else text + more)
        os.kill(os.getpid(), signal.SIGHUP)
        assert watch.until("config.refused") if "unknown" in more else watch.until("daemon.ready", 2)

    serve(home, act)

    assert len(loaded) == loads
    assert loaded[-1].horizon == (2 if more == "horizon" else 3)


class Hand:
    """Seconds of a clock that is moved by hand."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.mark.parametrize(
    ("timeframe", "waits"),
    [("1m", [2, 4, 8, 15, 15]), ("1h", [2, 4, 8, 16, 32, 64, 128, 150, 150])],
)
def test_cycle_that_fails_is_tried_later_each_time(walks, timeframe, waits):
    """But 24 times a bar, though not more than every 15 s; and soon again after a cycle that went well."""
    hand, due = Hand(), ScheduledCycle("binance", Timeframe(timeframe), CLOSE)
    forecaster = make_forecaster(make_bars(make_key(timeframe=timeframe), count=120))
    run = ServiceRun(forecaster, Standing(), HealthState(forecaster.config))
    run._daemon.queue = CycleQueue(hand)

    def wait(end):
        end()
        begun = hand.seconds
        while run._daemon.queue.take() is None:
            hand.seconds += 0.5
        run._daemon.queue.task_done(due)
        return hand.seconds - begun

    fault = RuntimeError("nobody knows")
    found = [wait(lambda: run._on_failed(due, fault)) for _ in waits]
    run._on_completed(due, forecaster.run_cycle(Timeframe(timeframe), CLOSE - 50 * HOUR_MS))
    again = wait(lambda: run._on_failed(due, fault))

    assert found == waits
    assert again == 2


def test_hold_that_ends_has_its_series_tried_again_at_once():
    """Though a day's bars would be tried again in an hour only; other exchanges wait their turn."""
    day, hand, now = Timeframe("1d"), Hand(), [CLOSE]
    forecaster = make_forecaster(make_bars(make_key(timeframe="1d"), count=120))
    clock = Standing()
    clock.now = lambda: now[0]
    run = ServiceRun(forecaster, clock, HealthState(forecaster.config))
    run._daemon.queue = CycleQueue(hand)
    report = forecaster.run_cycle(day, CLOSE - 500 * 24 * HOUR_MS)
    run._on_completed(ScheduledCycle("binance", day, CLOSE), report)
    forecaster.store.hold("binance", CLOSE + 30_000, "outage: 503", CLOSE)
    taken = []
    for seconds in (0, 20, 40):
        now[0] = CLOSE + seconds * 1000
        run._retry_released_exchanges()
        taken.append(run._daemon.queue.take())

    assert report.skipped
    assert taken == [None, None, ScheduledCycle("binance", day, CLOSE, "retry")]


def test_damaged_ledger_is_not_served(home, walks):
    with closing(open_store(home.url)):
        pass
    content = bytearray((home.folder / "ledger.db").read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = os.urandom(64)
    (home.folder / "ledger.db").write_bytes(content)

    with pytest.raises(StoreUnavailable):
        Service(str(home.path)).run()


def test_first_start_with_a_bad_configuration_ends(home):
    home.path.write_text("fetch_delay_seconds = -1\n")
    with pytest.raises(ConfigError):
        Service(str(home.path)).run()


def test_first_start_without_a_model_ends(home):
    home.path.write_text(home.path.read_text().replace('"nano"', f'"{home.folder}/nowhere"'))
    with pytest.raises(ModelLoadError):
        Service(str(home.path)).run()


def test_ledger_that_no_one_can_open_ends_the_first_start(home, walks):
    home.url = "nonsense://"
    home.write("one")
    with pytest.raises(StoreUnavailable, match="URL"):
        Service(str(home.path)).run()


def test_draining_waits_for_the_running_cycle(home, walks, monkeypatch):
    """What was begun is stored, and told so."""
    home.write("one", "two", more=f"daemon.drain_seconds = {PATIENCE}\n")
    begun, draining = threading.Event(), threading.Event()
    record, enter = Recorder.record, HealthState.enter_phase

    def slowly(*given, **named):
        begun.set()
        assert draining.wait(PATIENCE)
        return record(*given, **named)

    def tell(health_state, phase):
        enter(health_state, phase)
        if phase is Phase.DRAINING:
            draining.set()

    monkeypatch.setattr(Recorder, "record", slowly)
    monkeypatch.setattr(HealthState, "enter_phase", tell)
    watch = serve(home, lambda _: begun.wait(PATIENCE))

    assert len(watch.of("cycle.completed")) >= 1
    assert not watch.of("daemon.drain_timed_out")
    assert home.cutoffs("one") or home.cutoffs("two")


def test_draining_does_not_wait_for_ever(home, walks, monkeypatch):
    """The service has ended while a cycle still hangs."""
    begun, leave, left = threading.Event(), threading.Event(), threading.Event()
    fetch = FileSource.fetch

    def hang(source, key, since, as_of):
        begun.set()
        leave.wait(PATIENCE)
        left.set()
        return fetch(source, key, since, as_of)

    monkeypatch.setattr(FileSource, "fetch", hang)
    home.write("one", more="daemon.drain_seconds = 0.1\n")
    watch = serve(home, lambda _: begun.wait(PATIENCE))
    hung = not left.is_set()
    leave.set()
    for worker in [one for one in threading.enumerate() if one.name.startswith("worker-")]:
        worker.join()

    assert watch.of("daemon.drain_timed_out")
    assert watch.of("daemon.stopped")
    assert hung


def test_series_that_is_under_way_at_a_stop_is_logged(monkeypatch):
    """Nobody asks any more what it waited for: its close is owed, and the ledger says why it was not forecast."""
    monkeypatch.setattr("forecaster.cycle.ingest._PATIENCE", {"all": PATIENCE, "most": 0.1, "none": 0.0})
    run_last = Forecaster.run_last
    monkeypatch.setattr(Forecaster, "run_last", lambda forecaster, as_of: run_last(forecaster, as_of, seconds=0.0))
    hanging, venue = make_key(symbol="SLOW/USDT"), Venue()
    venue.gates[hanging] = threading.Event()
    forecaster = make_bulkhead(venue, make_key(), hanging)
    with ServiceRun(forecaster, At(closes(99)), HealthState(forecaster.config)) as run:
        run.catch_up()
        give_up = time.monotonic() + PATIENCE
        while not run.has_caught_up and time.monotonic() < give_up:
            time.sleep(0.01)
    found = [
        slot
        for key in (make_key(), hanging)
        for slot in forecaster.store.pending_forecasts(key, closes(99), closes(100))
    ]
    venue.gates[hanging].set()

    assert [slot.state for slot in found] == ["done", "failed"]
    assert "before the service stopped" in found[1].reason


def test_fault_of_what_is_finished_last_spoils_no_stop(home, walks, monkeypatch):
    """The service ends as it does else, and its lease is given back."""

    def fail(*_):
        msg = "nobody knows"
        raise RuntimeError(msg)

    monkeypatch.setattr(Forecaster, "run_last", fail)
    watch = serve(home, lambda watch: watch.until("daemon.ready"))

    assert watch.of("daemon.last_cycle_failed")
    assert watch.of("daemon.stopped")


class At(WallClock):
    """A clock that stands still at a time."""

    def __init__(self, at):
        self.at = at

    def now(self):
        return self.at

    def due(self, schedule, pending):
        return self.at
