"""The whole service, killed at random moments again and again: what it acknowledged must be there, once.

`python -m tests.faults.kill_daemon --kills 500`. Each life is `forecaster run` against a loopback exchange, on a clock
that runs fast; it ends by SIGKILL while it starts, while it catches up, or in the middle of its cycles. Now and then
nobody runs for a while. After the last start every close since the first must be forecast or named.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.progress import Progress

from forecaster.clock import now_ms
from forecaster.store import open_database
from forecaster.store.verify import verify_ledger
from tests.faults.account import Made, Name, faults, forecasts, lost, newest_close
from tests.faults.world import MINUTE_MS, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.world import Service

SYMBOLS: Final = ("BTC/USDT", "ETH/USDT", "BTC/USD")
SPEED: Final = 60
KILLED_AT_THE_START: Final = 0.4
"""The share of lives that end while they begin, and not behind their first cycle."""

LONGEST_START: Final = 7.0
LONGEST_LIFE: Final = 3.0
NOBODY_RUNS: Final = 0.1
LONGEST_PAUSE_MS: Final = 120 * MINUTE_MS
KILLS_BETWEEN_CHECKS: Final = 25


@dataclass
class Killed:
    """What came of the kills in one world."""

    kills: int = 0
    before_first_cycle: int = 0
    forecasts: int = 0
    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)


def play(kills: int, seed: int, fault: str = "", on_kill: Callable[[], None] = lambda: None) -> Killed:
    """Kill so often in one world, then let the service recover, and look; `fault` is for the world."""
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    found = Killed()
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), SYMBOLS, now_ms(), SPEED, fault) as world:
        config, known = world.write_config(), dict[Name, list[Made]]()
        for kill in range(kills):
            known = _live_and_die(world, config, chance, known, found)
            if kill % KILLS_BETWEEN_CHECKS == 0 and world.ledger.exists():
                found.wrong += _damage(world.url)
            found.wrong = [text if text.startswith("kill ") else f"kill {kill}: {text}" for text in found.wrong]
            on_kill()
        try:
            found.wrong += recover(world, config)
        except RuntimeError as error:
            found.wrong.append(str(error))
        found.forecasts = len(forecasts(world.url))
    return found


def recover(world: World, config: Path) -> list[str]:
    """Start once more, let it catch up, end it, and give all that is wrong then."""
    service = world.start(config)
    service.wait_for("daemon.ready")
    service.wait_for("cycle.completed", after=service.count("cycle.completed") + 1)
    service.signal(signal.SIGTERM)
    code, until = service.wait(), newest_close(last_cycle(service), MINUTE_MS)
    return ([f"ended with {code}"] if code else []) + service.failures() + faults(world.url, world.keys, until)


def last_cycle(service: Service) -> int:
    """The time as of which the newest cycle of all series ran that a service completed, UTC ms."""
    cycles = [one for one in service.events if one["event"] == "cycle.completed"]
    most = max(int(one["series"]) for one in cycles)
    return max(int(one["as_of"]) for one in cycles if int(one["series"]) == most)


def main() -> None:
    """Kill the service again and again, and print what was lost."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--worlds", type=int, default=2, help="services that are killed side by side")
    parser.add_argument("--seed", type=int, default=0)
    plan = parser.parse_args()
    started = time.monotonic()
    shares = [plan.kills // plan.worlds + (i < plan.kills % plan.worlds) for i in range(plan.worlds)]
    with Progress() as progress, ThreadPoolExecutor(plan.worlds) as pool:
        task = progress.add_task("kills", total=plan.kills)
        asked = [
            pool.submit(play, share, plan.seed + i, on_kill=lambda: progress.advance(task))
            for i, share in enumerate(shares)
            if share
        ]
        worlds = [one.result() for one in asked]
    wrong = [text for one in worlds for text in one.wrong]
    record = {
        "kills": sum(one.kills for one in worlds),
        "before_first_cycle": sum(one.before_first_cycle for one in worlds),
        "forecasts": sum(one.forecasts for one in worlds),
        "acknowledged": sum(one.acknowledged for one in worlds),
        "speed": SPEED,
        "seconds": round(time.monotonic() - started),
        "wrong": len(wrong),
        "first_wrong": wrong[:3],
    }
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(wrong))


def _live_and_die(
    world: World, config: Path, chance: random.Random, known: dict[Name, list[Made]], found: Killed
) -> dict[Name, list[Made]]:
    """Let a service live for a while and kill it; gives the forecasts that are there then."""
    if chance.random() < NOBODY_RUNS:
        world.sleep_through(chance.randrange(LONGEST_PAUSE_MS))
    born, service = world.clock.machine(), world.start(config)
    if chance.random() >= KILLED_AT_THE_START:
        service.wait_for("cycle.completed")
        time.sleep(chance.uniform(0, LONGEST_LIFE))
    else:
        time.sleep(chance.uniform(0, LONGEST_START))
    read = forecasts(world.url) if world.ledger.exists() else {}
    if not service.is_running:
        found.wrong.append(f"ended by itself: {service.text[-3:]}")
    service.kill()
    found.wrong += service.failures()
    found.kills += 1
    found.before_first_cycle += not service.count("cycle.completed")
    after = forecasts(world.url) if world.ledger.exists() else {}
    found.acknowledged += len(set(read) - set(known))
    found.wrong += lost(known | read, after)
    found.wrong += [
        f"{name} is backdated"
        for name, (made, *_) in after.items()
        if name not in known and not born <= made.issued_at <= made.available_at <= world.clock.machine()
    ]
    return after


def _damage(url: str) -> list[str]:
    with closing(open_database(url)) as database:
        return list(verify_ledger(database).errors)


if __name__ == "__main__":
    main()
