"""Five services on one ledger: one leads; when it is stopped another takes over, and when it wakes it writes nothing.

`python -m tests.faults.standby --rounds 20 [--postgres]`. In each round the leader is stopped (SIGSTOP) at a random
moment and stands still until another has completed a cycle; then it is woken, and must become a standby.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.progress import track

from forecaster.clock import now_ms
from forecaster.store import open_database
from forecaster.store.lease import LEASE_MS
from tests.faults.account import faults, newest_close
from tests.faults.kill_daemon import last_cycle
from tests.faults.two_writers import _is_locked
from tests.faults.world import MINUTE_MS, World, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.faults.world import Service

SPEED: Final = 4
SERVICES: Final = 5
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT")
TAKEN_WITHIN_MS: Final = LEASE_MS + 5_000
WATCHED_MS: Final = 20_000
"""How long behind its waking a service is watched: a beat of the lease's heart, and more."""

_OLD_ROWS: Final = """
SELECT 'forecast ' || id AS row FROM forecast WHERE issued_at <= :stopped
UNION ALL SELECT 'bar ' || series_id || ' ' || open_time || ' ' || revision FROM bar WHERE first_seen_at <= :stopped
UNION ALL SELECT 'pending_forecast ' || series_id || ' ' || cutoff || ' ' || state || ' ' || changed_at
FROM pending_forecast
WHERE epoch <= :epoch"""


@dataclass
class Found:
    """What the rounds came to; times in seconds of the world."""

    takeovers: list[float] = field(default_factory=list)
    stale_rows: int = 0
    stopped_with_the_lock: int = 0
    taken_back: int = 0
    wrong: list[str] = field(default_factory=list)


class Crowd:
    """Services on one ledger, of which one leads."""

    def __init__(self, world: World, count: int) -> None:
        self.world = world
        config = world.write_config()
        self.services = [world.start(config) for _ in range(count)]
        wait_until(lambda: any(one.count("daemon.ready") for one in self.services), "a leader")
        self.leader = next(one for one in self.services if one.count("daemon.ready"))
        for one in self.others():
            one.wait_for("lease.waiting")

    def others(self) -> list[Service]:
        """All but the one that leads."""
        return [one for one in self.services if one is not self.leader]

    def taken(self) -> Counter[int]:
        """How often each has taken the lease, by its process."""
        return Counter({one.pid: one.count("lease.acquired") for one in self.services})

    def wait_for_leader(self, among: Iterable[Service], before: Counter[int], seconds: float) -> Service:
        """Wait until one of them takes the lease once more than before."""
        wait_until(lambda: any(self.taken()[one.pid] > before[one.pid] for one in among), "a leader", seconds)
        return next(one for one in among if one.count("lease.acquired") > before[one.pid])

    def epoch(self) -> int:
        """The number of leaders that there have been."""
        return int(self.ask("SELECT epoch FROM lease WHERE name = 'writer'", {})[0].epoch)

    def ask(self, query: str, values: dict[str, object]) -> list[Any]:
        """Put a question to the ledger."""
        with closing(open_database(self.world.url)) as database:
            return list(database.query(query, values))


def take_turns(world: World, rounds: int, services: int, seed: int, within_ms: int = TAKEN_WITHIN_MS) -> Found:
    """Stop and wake so often, and count what came of a stale epoch."""
    chance, found = random.Random(seed), Found()  # noqa: S311 - moments, not secrets
    crowd = Crowd(world, services)
    for number in track(range(rounds), "rounds"):
        try:
            _turn(crowd, chance, found, within_ms)
        except RuntimeError as error:
            found.wrong.append(f"round {number}: {error}")
            return found
    for one in crowd.services:
        one.signal(signal.SIGTERM)
    found.wrong += [f"one ended with {code}" for one in crowd.services if (code := one.wait())]
    found.wrong += faults(world.url, world.keys, newest_close(last_cycle(crowd.leader), MINUTE_MS))
    return found


def play(
    rounds: int,
    seed: int,
    services: int = SERVICES,
    fault: str = "",
    *,
    within_ms: int = TAKEN_WITHIN_MS,
    postgres: bool = False,
) -> Found:
    """Make a world, on SQLite or a private PostgreSQL, and take turns in it.

    Args:
        rounds: how often a leader is stopped.
        seed: of the moments.
        services: how many there are.
        fault: for the world.
        within_ms: how long, in the world's time, the ledger may be without a leader.
        postgres: on PostgreSQL, and not on SQLite.
    """
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        world = opened.enter_context(World(folder, SYMBOLS, now_ms(), SPEED, fault))
        if postgres:
            from tests.postgres import Cluster

            world.url = opened.enter_context(Cluster()).new_database()
        return take_turns(world, rounds, services, seed, within_ms)


def main() -> None:
    """Stop and wake leaders in turn, and print what the stale ones wrote."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--services", type=int, default=SERVICES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgres", action="store_true", help="on a private PostgreSQL, and not on SQLite")
    plan = parser.parse_args()
    found = play(plan.rounds, plan.seed, plan.services, postgres=plan.postgres)
    record = {
        "rounds": len(found.takeovers),
        "longest_takeover": round(max(found.takeovers, default=0), 1),
        "lease_seconds": LEASE_MS / 1000,
        "stale_rows": found.stale_rows,
        "stopped_with_the_lock": found.stopped_with_the_lock,
        "taken_back": found.taken_back,
        "wrong": len(found.wrong),
        "first_wrong": found.wrong[:3],
    }
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(found.stale_rows or found.wrong))


def _turn(crowd: Crowd, chance: random.Random, found: Found, within_ms: int) -> None:
    """Stop the leader, let another take over, wake the first, and look at what it does."""
    world, old = crowd.world, crowd.leader
    world.clock.sleep(chance.uniform(0, 60))
    found.stopped_with_the_lock += _stop(old, world.url, chance)
    stopped, epoch, before = world.now(), crowd.epoch(), crowd.taken()
    caught_up = {one.pid: one.count("catch_up.completed") for one in crowd.services}
    crowd.leader = crowd.wait_for_leader(crowd.others(), before, max(10 * TAKEN_WITHIN_MS, within_ms) / 1000 / SPEED)
    taken = world.now() - stopped
    found.takeovers.append(taken / 1000)
    if taken > within_ms:
        found.wrong.append(f"taken over after {taken / 1000:.1f} s")
    crowd.leader.wait_for("catch_up.completed", after=caught_up[crowd.leader.pid])
    waited, newer = old.count("lease.waiting"), crowd.epoch()
    there = _old_rows(crowd, stopped, epoch)
    old.signal(signal.SIGCONT)
    stale: set[str] = set()

    def has_shown() -> bool:
        stale.update(_old_rows(crowd, stopped, epoch) - there)
        return bool(stale) or old.count("lease.waiting") > waited or crowd.epoch() != newer

    wait_until(has_shown, "a standby that waits")
    world.clock.sleep(WATCHED_MS / 1000)
    found.stale_rows += len(stale | (_old_rows(crowd, stopped, epoch) - there))
    if crowd.epoch() != newer:
        found.taken_back += 1
        found.wrong.append("the lease was taken from a running leader")
        crowd.leader = max(crowd.services, key=_led_last)


def _stop(service: Service, url: str, chance: random.Random) -> int:
    """Stop it, and not while it has the database's own lock, which would block all writers; return how often it had."""
    held = 0
    service.signal(signal.SIGSTOP)
    while _is_locked(url):
        held += 1
        service.signal(signal.SIGCONT)
        time.sleep(chance.uniform(0, 0.01))
        service.signal(signal.SIGSTOP)
    return held


def _old_rows(crowd: Crowd, stopped: int, epoch: int) -> set[str]:
    """What the leader that was stopped has written; what others write is younger, or has a higher epoch."""
    return {str(one.row) for one in crowd.ask(_OLD_ROWS, {"stopped": stopped, "epoch": epoch})}


def _led_last(service: Service) -> int:
    """The number of its last term as the leader."""
    return max((int(one["epoch"]) for one in service.events if one["event"] == "lease.acquired"), default=0)


if __name__ == "__main__":
    main()
