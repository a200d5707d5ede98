"""A world's clock is one for all processes in it, and a service in it is the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from forecaster.config_file import load_config
from forecaster.timeframe import DAY_MS
from tests.builders import utc_ms
from tests.faults.world import Clock, World, compile_clock, wait_until

START = utc_ms("2024-03-01 12:00")
SPEED = 60
TELLS_WAITS = """
import asyncio, json, queue, threading, time
def taken(wait):
    started = time.monotonic()
    wait()
    return time.monotonic() - started
lock, changed = threading.Lock(), threading.Condition()
lock.acquire()
def until():
    with changed:
        changed.wait(60)
waits = {
    "sleep": lambda: time.sleep(60),
    "event": lambda: threading.Event().wait(60),
    "lock": lambda: lock.acquire(timeout=60),
    "condition": until,
    "loop": lambda: asyncio.run(asyncio.sleep(60)),
}
print(json.dumps({name: taken(wait) for name, wait in waits.items()}))
"""
TELLS_TIME = """
import datetime, json, sys, time
for _ in sys.stdin:
    now = datetime.datetime.now(datetime.UTC).timestamp()
    walls = [time.time_ns() // 10**6, round(now * 1000), int(time.time() * 1000)]
    print(json.dumps([*walls, time.monotonic()]), flush=True)
"""


UNSHORTENED_SECONDS = 300
"""What the five waits would take if nobody made them shorter."""


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path / "clock", START, SPEED)


@pytest.fixture
def environment(clock, tmp_path):
    return os.environ | {"LD_PRELOAD": str(compile_clock(tmp_path)), "FAKE_CLOCK": str(clock.file)}


@pytest.mark.processes
def test_waits_are_as_much_shorter_as_clocks_are_faster(environment):
    """A minute of any kind of wait is a minute by the process's clock, and a second of ours."""
    started = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-c", TELLS_WAITS], env=environment, check=True, capture_output=True, text=True
    )
    taken = time.monotonic() - started
    waits = json.loads(told.stdout)

    assert set(waits) == {"sleep", "event", "lock", "condition", "loop"}
    assert all(60 <= seconds < 60 * SPEED for seconds in waits.values()), waits
    assert 5 <= taken < UNSHORTENED_SECONDS / 2


@pytest.mark.processes
def test_wall_clock_jumps_and_the_monotonic_one_does_not(clock, environment):
    command = [sys.executable, "-c", TELLS_TIME]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1) as asked:

        def ask():
            """What it tells, between two looks at the clock here."""
            before = clock.machine()
            asked.stdin.write("\n")
            told = json.loads(asked.stdout.readline())
            return before, told, clock.machine()

        before, told, after = ask()
        clock.ahead = -3650 * DAY_MS
        before_jumped, told_jumped, after_jumped = ask()
        asked.stdin.close()

    assert all(before - 1 <= one <= after + 1 for one in told[:3])
    assert all(before_jumped - 1 <= one <= after_jumped + 1 for one in told_jumped[:3])
    assert after_jumped < before
    assert 0 <= told_jumped[3] - told[3] <= (after_jumped + 3650 * DAY_MS - before) / 1000


def test_clock_of_a_world_runs_so_much_faster(tmp_path):
    started = time.monotonic()
    clock = Clock(tmp_path / "clock", START, SPEED)
    made = time.monotonic()
    time.sleep(0.01)
    asked = time.monotonic()
    now = clock.now()
    told = time.monotonic()

    assert (asked - made) * 1000 * SPEED - 1 <= now - START <= (told - started) * 1000 * SPEED


def test_clock_of_a_world_is_the_machines_unless_it_is_ahead(clock):
    looks = [clock.now(), clock.machine(), clock.now()]
    clock.ahead = 90_000
    ahead = [clock.now(), clock.machine() - 90_000, clock.now()]

    assert looks == sorted(looks)
    assert clock.ahead == 90_000
    assert ahead == sorted(ahead)


def test_exchange_keeps_the_time_of_the_world(tmp_path):
    """Also through a sleep, which the machine's clock shows as a jump."""
    with World(tmp_path, ["BTC/USDT"], START, SPEED) as world:
        asked = world.clock.machine()
        wait_until(lambda: world.exchange.now >= asked, "the time of the world")
        before = world.exchange.now - world.clock.machine()
        world.sleep_through(DAY_MS)
        asked = world.clock.machine()
        wait_until(lambda: world.exchange.now >= asked, "the time behind the sleep")
        behind = world.exchange.now - world.clock.machine()

    assert asked > START + DAY_MS
    assert before <= 0
    assert behind <= 0


def test_configuration_of_a_world_is_one(tmp_path):
    with World(tmp_path, ["BTC/USDT", "ETH/USDT"], START) as world:
        config = load_config(world.write_config(daemon={"drain_seconds": 7.0}, exchange={"deadline": 9.0}))

    assert [str(one.key) for one in config.series] == ["binance BTC/USDT 1m", "binance ETH/USDT 1m"]
    assert (config.daemon.drain_seconds, config.exchanges["binance"].deadline) == (7.0, 9.0)
    assert config.exchanges["binance"].revealed_api_urls == {"public": world.exchange.url + "/api/v3"}
    assert config.store.url.reveal() == f"sqlite:///{tmp_path}/ledger.db"


@pytest.mark.processes
def test_service_that_ends_is_told_of(tmp_path):
    """With what it said last, so that a harness's record says why."""
    with World(tmp_path, [], START) as world:
        service = world.start(tmp_path / "none.toml")
        with pytest.raises(RuntimeError, match=r"expected daemon.ready.*ended with 2.*none.toml"):
            service.wait_for("daemon.ready")

    assert not service.is_running
    assert service.events == []


@pytest.mark.processes
def test_fault_runs_before_the_program(tmp_path):
    with World(tmp_path, [], START, fault="raise SystemExit(7)") as world:
        assert world.start(tmp_path / "none.toml").wait() == 7


def test_wait_ends():
    with pytest.raises(RuntimeError, match="expected a wonder within 0 s"):
        wait_until(lambda: False, "a wonder", 0)
