"""Two processes that write one ledger, of which one is stopped past its lease and woken: it must write nothing more.

`python -m tests.faults.two_writers --rounds 200`. In each round the one that has the lease is stopped (SIGSTOP), at a
random moment of its writing; the other takes over and writes; then the first is woken, and tries to go on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from rich.progress import track

from forecaster.store import open_database
from forecaster.store.sqlite_library import sqlite3
from forecaster.store.verify import verify_ledger

ROOT: Final = Path(__file__).parents[2]
LEASE_MS: Final = 400
CARELESS: Final = """
from contextlib import suppress
from forecaster.errors import LeaseLost
from forecaster.store.lease import Lease

confirm = Lease.confirm

def write_on(lease, connection):
    with suppress(LeaseLost):
        confirm(lease, connection)

Lease.confirm = write_on
"""
"""A fault: who writes does not ask whether it still has the lease."""

WRITER: Final = """
import sys
from forecaster.errors import LeaseLost, StoreUnavailable
from forecaster.ledger import LIVE, Run
from forecaster.store import database, lease
from forecaster.store.sql import SqlStore
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast

lease.LEASE_MS = int(sys.argv[2])
key = make_key(symbol=sys.argv[3])
lease._ACQUIRE_TIMEOUT_SECONDS = 60
print("ready", flush=True)
database._POSTGRES["options"] = "-c statement_timeout=1000 -c idle_in_transaction_session_timeout=1000"
batch = 0

def write_while_leading():
    global batch
    store = SqlStore(sys.argv[1])
    print(f"leads {store.epoch}", flush=True)
    store.add_run(Run(LIVE, LIVE, CUTOFF))
    while True:
        at = CUTOFF + batch * HOUR_MS
        try:
            store.add_bars(make_bars(key, count=1, start=at, seed=batch))
            store.add_forecasts([make_forecast(key, at, horizon=2, issued_at=at, levels=(0.1, 0.5, 0.9))], LIVE)
        except LeaseLost:
            store.close()
            print("lost", flush=True)
            return
        except StoreUnavailable:
            continue  # cut off in a transaction: it is tried again
        batch += 1
        print("wrote", flush=True)

for _ in sys.stdin:
    while True:
        try:
            write_while_leading()
        except StoreUnavailable as error:
            print("refused", error, flush=True)
        else:
            break
"""


class Writer:
    """A process that writes bars and forecasts of a series of its own, as long as it has the lease."""

    def __init__(self, url: str, symbol: str, fault: str = "") -> None:
        self.symbol = symbol
        command = [sys.executable, "-c", f"{fault}\n{WRITER}", url, str(LEASE_MS), symbol]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.hear("ready")

    def begin(self) -> None:
        """Let it try to lead, and go on writing."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")

    def hear(self, word: str) -> list[str]:
        """Read what it tells, up to a line that begins with `word`; gives that line's words."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line.split()
        msg = f"expected {word} of a writer, it has ended"
        raise RuntimeError(msg)

    def signal(self, number: int) -> None:
        """Stop or wake it; one that is stopped stands still when this returns."""
        os.kill(self._process.pid, number)
        if number == signal.SIGSTOP:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def end(self) -> None:
        """Let it go."""
        with self._process as process:
            process.kill()


def fence(url: str, rounds: int, seed: int, fault: str = "") -> dict[str, object]:
    """Stop and wake so often, and count what came of a stale epoch; `fault` is Python that the writers run first."""
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    leader, other = writers = Writer(url, "ONE/USDT", fault), Writer(url, "TWO/USDT", fault)
    watchdog = threading.Timer(60 + 10 * rounds, lambda: [one.signal(signal.SIGKILL) for one in writers])
    watchdog.start()
    leader.begin()
    epoch = int(leader.hear("leads")[1])
    stale = held = 0
    takeovers = []
    for _ in track(range(rounds), "rounds"):
        leader.hear("wrote")
        time.sleep(chance.uniform(0, 0.1))
        leader.signal(signal.SIGSTOP)
        while _is_locked(url):  # it was stopped with the database's own lock: nobody can write until it goes on
            held += 1
            leader.signal(signal.SIGCONT)
            time.sleep(chance.uniform(0, 0.01))
            leader.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        other.begin()
        newer = int(other.hear("leads")[1])
        takeovers.append(time.monotonic() - stopped)
        before = _count(url, leader.symbol)
        other.hear("wrote")
        leader.signal(signal.SIGCONT)
        leader.hear("lost")
        stale += _count(url, leader.symbol) - before + (newer <= epoch)
        leader, other, epoch = other, leader, newer
    watchdog.cancel()
    for one in writers:
        one.end()
    with closing(open_database(url)) as database:
        wrong = verify_ledger(database).errors
    return {
        "rounds": rounds,
        "stale_rows": stale,
        "stopped_with_the_lock": held,
        "longest_takeover": round(max(takeovers), 2),
        "lease_seconds": LEASE_MS / 1000,
        "wrong": len(wrong),
        "first_wrong": wrong[:3],
    }


def main() -> None:
    """Stop and wake two writers in turn, and print what the stale one wrote."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgres", action="store_true", help="on a private PostgreSQL, and not on SQLite")
    plan = parser.parse_args()
    if plan.postgres:
        from tests.postgres import Cluster

        with Cluster() as cluster:
            record = fence(cluster.new_database(), plan.rounds, plan.seed)
    else:
        with tempfile.TemporaryDirectory() as folder:
            record = fence(f"sqlite:///{folder}/ledger.db", plan.rounds, plan.seed)
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(record["stale_rows"] or record["wrong"]))


def _count(url: str, symbol: str) -> int:
    """How many rows there are of a series."""
    query = """
        SELECT (SELECT COUNT(*) FROM bar WHERE series_id = s.id)
            + (SELECT COUNT(*) FROM forecast WHERE series_id = s.id) AS n
        FROM series s WHERE symbol = :symbol"""
    with closing(open_database(url)) as database:
        return sum(int(row.n) for row in database.query(query, {"symbol": symbol}))


def _is_locked(url: str) -> bool:
    """Whether a process that stands still, in a transaction or while it reads, keeps SQLite from being written."""
    if not url.startswith("sqlite:///"):
        return False
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0.05, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


if __name__ == "__main__":
    main()
