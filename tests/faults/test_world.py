"""A world's clock is one for all processes in it, and a service in it is the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from forecaster.config import load_config
from forecaster.timeframe import DAY_MS
from tests.builders import utc_ms
from tests.faults.world import Clock, World, break_package, compile_clock, wait_until

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


@pytest.fixture
def clock(tmp_path):
    return Clock(tmp_path / "clock", START, SPEED)


@pytest.fixture
def environment(clock, tmp_path):
    return os.environ | {"LD_PRELOAD": str(compile_clock(tmp_path)), "FAKE_CLOCK": str(clock.file)}


def test_waits_are_as_much_shorter_as_clocks_are_faster(environment):
    """A minute of any kind of wait is a minute by the process's clock, and a second of ours."""
    started = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-c", TELLS_WAITS], env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    taken = time.monotonic() - started
    waits = json.loads(told.stdout)

    assert set(waits) == {"sleep", "event", "lock", "condition", "loop"}
    assert all(60 <= seconds < 120 for seconds in waits.values()), waits
    assert 5 <= taken < 15


def test_wall_clock_jumps_and_the_monotonic_one_does_not(clock, environment):
    command = [sys.executable, "-c", TELLS_TIME]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1) as asked:

        def ask():
            asked.stdin.write("\n")
            return json.loads(asked.stdout.readline())

        before, true = ask(), clock.now()
        clock.ahead = -3650 * DAY_MS
        behind, machine = ask(), clock.machine()
        asked.stdin.close()

    assert all(abs(one - true) < 10_000 for one in before[:3])
    assert all(abs(one - machine) < 10_000 for one in behind[:3])
    assert machine < true - 3649 * DAY_MS
    assert 0 <= behind[3] - before[3] < 10


def test_clock_of_a_world_is_the_machines_unless_it_is_ahead(clock):
    assert 0 <= clock.now() - START < 10_000
    assert clock.ahead == 0

    clock.ahead = 90_000

    assert clock.ahead == 90_000
    assert 90_000 <= clock.machine() - clock.now() + 1000 < 95_000


def test_exchange_keeps_the_time_of_the_world(tmp_path):
    """Also through a sleep, which the machine's clock shows as a jump."""
    with World(tmp_path, ["BTC/USDT"], START, SPEED) as world:
        wait_until(lambda: world.exchange.now > START + 30_000, "half a minute", 5)
        before = abs(world.exchange.now - world.clock.machine())
        world.sleep_through(DAY_MS)
        wait_until(lambda: world.exchange.now > START + DAY_MS, "a day", 5)
        behind = abs(world.exchange.now - world.clock.machine())

    assert before < 10_000
    assert behind < 10_000


def test_configuration_of_a_world_is_one(tmp_path):
    with World(tmp_path, ["BTC/USDT", "ETH/USDT"], START) as world:
        config = load_config(world.write_config(daemon={"drain_seconds": 7.0}, exchange={"deadline": 9.0}))

    assert [str(one.key) for one in config.series] == ["binance BTC/USDT 1m", "binance ETH/USDT 1m"]
    assert (config.daemon.drain_seconds, config.exchanges["binance"].deadline) == (7.0, 9.0)
    assert config.exchanges["binance"].api_urls == {"public": world.exchange.url + "/api/v3"}
    assert config.store.url == f"sqlite:///{tmp_path}/ledger.db"


def test_service_that_ends_is_told_of(tmp_path):
    """With what it said last, so that a harness's record says why."""
    with World(tmp_path, [], START) as world:
        service = world.start(tmp_path / "none.toml")
        with pytest.raises(RuntimeError, match=r"expected daemon.ready.*ended with 2.*none.toml"):
            service.hear("daemon.ready")

    assert not service.is_running
    assert service.events == []


def test_package_is_broken_in_one_place_or_not_at_all(tmp_path):
    broken = break_package(tmp_path, "clock.py", "time.time_ns()", "0")

    assert "return 0 // 1_000_000" in (broken / "forecaster" / "clock.py").read_text(encoding="utf-8")
    with pytest.raises(RuntimeError, match="found it 0 times"):
        break_package(tmp_path / "again", "clock.py", "not there", "0")


def test_wait_ends():
    with pytest.raises(RuntimeError, match="expected a wonder within 0 s"):
        wait_until(lambda: False, "a wonder", 0)
