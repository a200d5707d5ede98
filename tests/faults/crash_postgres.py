"""A PostgreSQL that crashes, and connections that are cut while they commit: what was acknowledged is there, once.

`python -m tests.faults.crash_postgres --cycles 300` stops a private server with `pg_ctl -m immediate` at random moments
of a writer's life, and in every other cycle cuts the writer's connection just after COMMIT was sent.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from rich.progress import track

from forecaster.errors import StoreError, StoreUnavailable
from forecaster.ledger import LIVE, Run
from forecaster.store import open_database
from forecaster.store.sql import SqlStore
from forecaster.store.verify import verify_ledger
from tests.faults.kill_writer import KEYS, bars_of, forecasts_of
from tests.forecast_builders import CUTOFF
from tests.postgres import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_LIFE: Final = 0.4


class Writer(threading.Thread):
    """Writes batch after batch, each again until it is acknowledged, through one crash after another."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.store = SqlStore(url)
        self.store.add_run(Run(LIVE, LIVE, CUTOFF))
        self.acknowledged = 0
        self.refused = 0
        self.ending = threading.Event()
        self.broken: list[str] = []

    def run(self) -> None:
        """Write until it is told to end."""
        while not self.ending.is_set():
            try:
                self.store.add_bars(bars_of(self.acknowledged))
                self.store.add_forecasts(forecasts_of(self.acknowledged), LIVE)
            except StoreUnavailable:
                self.refused += 1
                time.sleep(0.02)
            except StoreError as error:
                self.broken.append(f"{type(error).__name__}: {error}")
                return
            else:
                self.acknowledged += 1


@contextmanager
def cut_after_commit(store: SqlStore) -> Iterator[list[int]]:
    """Cut each connection once it has sent COMMIT and before it hears of the answer."""
    dialect: Any = store._database.engine.dialect
    commit, cut = dialect.do_commit, []

    def commit_and_lose(connection: Any) -> None:
        session = getattr(connection, "dbapi_connection", connection)
        session.pgconn.send_query(b"COMMIT")
        session.pgconn.flush()
        time.sleep(0.01)
        cut.append(1)
        session.close()
        raise dialect.dbapi.OperationalError("the connection is gone")

    dialect.do_commit = commit_and_lose
    try:
        yield cut
    finally:
        dialect.do_commit = commit


def _wait_for(cut: list[int]) -> None:
    """Give a busy machine time for one commit at least."""
    give_up = time.monotonic() + 5
    while not cut and time.monotonic() < give_up:
        time.sleep(0.05)


def crash(cycles: int, seed: int) -> dict[str, object]:
    """Crash and cut so often, and count."""
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    cuts = 0
    with Cluster() as cluster:
        url = cluster.new_database()
        writer = Writer(url)
        writer.start()
        for cycle in track(range(cycles), "crashes"):
            time.sleep(chance.uniform(0, LONGEST_LIFE))
            if cycle % 2:
                with cut_after_commit(writer.store) as cut:
                    _wait_for(cut)
                cuts += len(cut)
            else:
                cluster.stop("immediate")
                cluster.start()
        time.sleep(1)
        writer.ending.set()
        writer.join()
        with suppress(StoreError):
            writer.store.close()
        with closing(open_database(url)) as database:
            wrong = writer.broken + verify_ledger(database).errors
            rows = "SELECT COUNT(*) AS n, COUNT(DISTINCT (series_id, cutoff)) AS d FROM forecast"
            found = database.query(rows, {})[0]
        if found.n < writer.acknowledged * len(KEYS):
            wrong.append(f"{writer.acknowledged * len(KEYS) - found.n} acknowledged forecasts are lost")
        if found.n != found.d:
            wrong.append(f"{found.n - found.d} forecasts are there twice")
    return {
        "cycles": cycles,
        "acknowledged": writer.acknowledged,
        "refused": writer.refused,
        "cut_after_commit": cuts,
        "wrong": len(wrong),
        "first_wrong": wrong[:3],
    }


def main() -> None:
    """Crash a server again and again, and print what was lost."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cycles", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    plan = parser.parse_args()
    record = crash(plan.cycles, plan.seed)
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(record["wrong"]))


if __name__ == "__main__":
    main()
