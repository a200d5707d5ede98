"""The whole service with late exchange clocks, old replicas, open readers, and a log that is not read."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing, contextmanager
from urllib.request import urlopen

import pytest

from forecaster.store import open_reader
from tests.builders import utc_ms
from tests.faults.account import forecasts, newest_close
from tests.faults.world import MINUTE_MS, ROOT, World, wait_until

pytestmark = pytest.mark.processes
SPEED = 20
QUICK = 60
SYMBOLS = ("BTC/USDT", "ETH/USDT")
CLOSES_UNREAD = 20
MODEL = "nano"
CONTEXT_MS = 64 * MINUTE_MS
TAKES_WHAT_HAS_CLOSED = """
from forecaster.sources import Fetched
from forecaster.sources.exchange import source

def final_bars(page, cursor, answer_time, _):
    closed = page.bars.closed_by(answer_time.as_of)
    return Fetched(closed[closed.open_time >= cursor], page.rejected)

source.final_bars = final_bars
"""
HAS_NO_LOG_OF_WRITES = """
from forecaster.store import sqlite

sqlite.keep_log = lambda _: True
"""
WRITES_ITS_LINES_ITSELF = """
import contextlib
from forecaster import log

log.write_lines_in_background = contextlib.nullcontext
"""
READER = """
import sys
from forecaster.store.sqlite_library import connect

reader = connect(sys.argv[1])
reader.isolation_level = None
reader.execute("BEGIN")
print(*reader.execute("SELECT COUNT(*) FROM forecast").fetchone(), flush=True)
sys.stdin.read()
print(*reader.execute("SELECT COUNT(*) FROM forecast").fetchone(), flush=True)
"""


@contextmanager
def served(tmp_path, fault="", exchange_ahead=0, speed=SPEED):
    """A world and a service in it that is ready."""
    with World(tmp_path, SYMBOLS, utc_ms("2024-05-14 12:30"), speed, fault) as world:
        world.exchange_ahead = exchange_ahead
        service = world.start(world.write_config(health={"port": 0}))
        service.wait_for("daemon.ready")
        yield world, service


def made(world):
    """The model's forecasts: series and cutoff, and when each was made."""
    return {name[:2]: one for name, (one, *_) in forecasts(world.url).items() if name.model == MODEL}


def live(world, closes):
    """Live on until the close after so many is forecast for every series."""
    until = newest_close(world.now(), MINUTE_MS) + closes * MINUTE_MS
    names = [str(key) for key in world.keys]

    def is_forecast():
        newest = dict(sorted(made(world)))
        return all(newest.get(name, 0) >= until for name in names)

    wait_until(is_forecast, f"a forecast of every series at {until} or later")


def wrong_bars(world, key, start, end, as_of=None):
    """Open times of bars that a ledger holds, or held as of a time, and that the exchange has otherwise."""
    with closing(open_reader(world.url)) as reader:
        bars = reader.bars(key, start, end, as_of=as_of)
    true = {at: row for at, *row in world.exchange.rows(key.symbol, "1m", start, end)}
    return [at for at, row in zip(bars.open_time.tolist(), bars.ohlcv_TF.tolist(), strict=True) if row != true[at]]


def unsound(world):
    """Forecasts that saw a bar which the exchange has otherwise in the end: it was not final."""
    keys = {str(key): key for key in world.keys}
    return [
        (series, cutoff)
        for (series, cutoff), one in made(world).items()
        if wrong_bars(world, keys[series], cutoff - CONTEXT_MS, cutoff, one.issued_at)
    ]


def clock_seconds(service):
    """How far the clock of the exchange is ahead, as the service reports it."""
    port = service.wait_for("health.listening")["port"]
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    (sample,) = (line for line in lines if line.startswith("forecaster_exchange_clock_offset_seconds{"))
    return float(sample.split()[-1])


def test_exchange_whose_clock_is_behind_is_forecast_late(tmp_path):
    """Its bars close 90 s after ours would: each is forecast once it has, and flagged as late."""
    with served(tmp_path, exchange_ahead=-90_000) as (world, service):
        before = set(made(world))
        live(world, 2)
        late = [one.late for name, one in made(world).items() if name not in before]
        offset = clock_seconds(service)

    assert len(late) >= 2 * len(SYMBOLS)
    assert all(late)
    assert -100 < offset < -80
    assert service.count("cycle.failed") == 0


def step_back(world):
    world.exchange_ahead = -30_000


def serve_from_replica(world):
    world.exchange.replica_ms = 30_000


def be_well(world):
    world.exchange_ahead = world.exchange.replica_ms = 0


@pytest.mark.parametrize("happens", [step_back, serve_from_replica])
def test_unfinished_bars_are_not_forecast_from(tmp_path, happens):
    """And none of them is in the ledger when all is well again."""
    with served(tmp_path) as (world, service):
        before = set(made(world))
        live(world, 1)
        happens(world)
        live(world, 3)
        be_well(world)
        live(world, 2)
        service.signal(15)
        code = service.wait()
        found = set(made(world)) - before
        wrong = [wrong_bars(world, key, 0, newest_close(world.now(), MINUTE_MS)) for key in world.keys]
        unfinished = unsound(world)

    assert code == 0
    assert len(found) >= 6 * len(SYMBOLS)
    assert unfinished == []
    assert wrong == [[]] * len(SYMBOLS)
    assert service.count("cycle.failed") == 0


@pytest.mark.parametrize("happens", [step_back, serve_from_replica])
def test_forecasts_from_unfinished_bars_would_be_seen(tmp_path, happens):
    with served(tmp_path, TAKES_WHAT_HAS_CLOSED) as (world, _):
        live(world, 1)
        happens(world)
        live(world, 2)
        be_well(world)
        wait_until(lambda: world.exchange.now >= world.now() - 1000, "the exchange's time")
        unfinished = unsound(world)

    assert unfinished != []


@contextmanager
def reading(world):
    """A reader in another process, which holds its transaction open; gives how to end it, which tells what it saw."""
    command = [sys.executable, "-c", READER, f"{world.ledger.as_uri()}?mode=ro"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as reader:
        first = reader.stdout.readline()
        yield lambda: (first, reader.communicate()[0])


def test_reader_that_holds_its_transaction_stops_no_cycle(tmp_path):
    """It sees what was there when it began, and the service writes on."""
    with served(tmp_path) as (world, service):
        live(world, 1)
        with reading(world) as end:
            live(world, 3)
            seen = end()

    assert seen[0] == seen[1]
    assert service.count("cycle.failed") == 0


def test_writer_that_waits_for_a_reader_would_be_seen(tmp_path):
    with served(tmp_path, HAS_NO_LOG_OF_WRITES) as (world, service):
        live(world, 1)
        with reading(world) as end:
            service.wait_for("cycle.failed")
            end()


def test_log_that_nobody_reads_stops_no_forecast(tmp_path):
    """Its pipe is full after some ten lines, and each close has one at least. The service also ends as it is told."""
    with served(tmp_path, speed=QUICK) as (world, service):
        service.leave_unread()
        heard = len(service.text)
        live(world, CLOSES_UNREAD)
        service.signal(15)
        code = service.wait()

    assert code == 0
    assert len(service.text) < heard + CLOSES_UNREAD


def test_forecasts_that_wait_for_a_reader_of_the_log_would_be_seen(tmp_path):
    with served(tmp_path, WRITES_ITS_LINES_ITSELF, speed=QUICK) as (world, service):
        service.leave_unread()
        world.clock.sleep(CLOSES_UNREAD * MINUTE_MS / 1000)
        newest = max(cutoff for _, cutoff in made(world))
        behind = (newest_close(world.now(), MINUTE_MS) - newest) // MINUTE_MS

    assert behind > CLOSES_UNREAD / 3
