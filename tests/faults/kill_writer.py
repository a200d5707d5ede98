"""A writer that is killed at random moments, again and again: what it acknowledged must be there, once.

`python -m tests.faults.kill_writer --cycles 10000`, or `make soak`. Each cycle forks a writer, which writes batch after
batch and tells of each by a byte once the call has returned; the parent kills it after a random time and looks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.progress import track

from forecaster.ledger import LIVE, Run
from forecaster.store import open_database
from forecaster.store.sql import SqlStore
from forecaster.store.sqlite_library import sqlite3
from forecaster.store.verify import verify_ledger
from tests.builders import HOUR_MS, make_bars, make_key
from tests.forecast_builders import CUTOFF, make_forecast

if TYPE_CHECKING:
    from forecaster.bars import Bars
    from forecaster.forecast import OHLCForecast

KEYS: Final = tuple(make_key(symbol=f"{name}/USDT") for name in ("BTC", "ETH", "SOL"))
HORIZON: Final = 2
LONGEST_LIFE: Final = 0.1
KILLED_AT_THE_START: Final = 0.2
"""The share of writers that are killed while they open the ledger, and not while they write."""

CYCLES_OF_A_LEDGER: Final = 500
CYCLES_BETWEEN_CHECKS: Final = 25


def bars_of(batch: int) -> Bars:
    """The bar of the first series that closes at the batch's cutoff."""
    return make_bars(KEYS[0], count=1, start=CUTOFF + (batch - 1) * HOUR_MS, seed=batch)


def forecasts_of(batch: int) -> list[OHLCForecast]:
    """One forecast for each series."""
    at = CUTOFF + batch * HOUR_MS
    return [make_forecast(key, at, horizon=HORIZON, issued_at=at, levels=(0.1, 0.5, 0.9), seed=batch) for key in KEYS]


def write_for_ever(url: str, first: int, tell: int) -> None:
    """Write batches from `first` on; a byte on `tell` when the ledger is open, and for each that is durable."""
    store = SqlStore(url)
    store.add_run(Run(LIVE, LIVE, CUTOFF))
    os.write(tell, b".")
    for batch in range(first, 2**31):
        store.add_bars(bars_of(batch))
        store.add_forecasts(forecasts_of(batch), LIVE)
        os.write(tell, b".")


def kill_once(url: str, first: int, seconds: float, *, at_the_start: bool) -> int:
    """Let a writer begin with batch `first`, kill it after so many seconds, and give how many it acknowledged.

    The seconds count from when it has the ledger open, unless it is to be killed at the start.
    """
    ours, theirs = os.pipe()
    writer = os.fork()
    if not writer:
        try:
            write_for_ever(url, first, theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as told:
        opened = 0 if at_the_start else len(told.read(1))
        time.sleep(seconds)
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        return max(0, opened + len(told.read()) - 1)


def look(path: Path, acknowledged: int) -> tuple[int, list[str]]:
    """How many batches are there whole, and what is wrong with them."""
    if not path.exists():
        return 0, ["no ledger"] if acknowledged else []
    with closing(sqlite3.connect(path)) as connection:
        try:
            query = "SELECT COUNT(*), COUNT(DISTINCT series_id || ' ' || cutoff) FROM forecast"
            forecasts, distinct = connection.execute(query).fetchone()
            (steps,) = connection.execute("SELECT COUNT(*) FROM forecast_step").fetchone()
            (bars,) = connection.execute("SELECT COUNT(*) FROM bar").fetchone()
        except sqlite3.OperationalError as error:
            return 0, [str(error)] if acknowledged or "no such table" not in str(error) else []
    there, wrong = forecasts // len(KEYS), []
    if there < acknowledged:
        wrong.append(f"{acknowledged - there} acknowledged batches are lost")
    if forecasts % len(KEYS) or steps != forecasts * HORIZON:
        wrong.append(f"a batch is there in part: {forecasts} forecasts, {steps} steps")
    if distinct != forecasts:
        wrong.append(f"{forecasts - distinct} forecasts are there twice")
    if bars not in {there, there + 1}:
        wrong.append(f"{bars} bars beside {there} batches")
    return there, wrong


def check_whole(path: Path) -> list[str]:
    """What the database and the ledger's own check find."""
    with closing(sqlite3.connect(path)) as connection:
        found = [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
    with closing(open_database(f"sqlite:///{path}")) as database:
        return found + verify_ledger(database).errors


def soak(cycles: int, seed: int, folder: Path) -> dict[str, object]:
    """Kill so often, and count."""
    chance = random.Random(seed)  # noqa: S311 - moments, not secrets
    acknowledged = kept = acknowledged_of_all = 0
    wrong: list[str] = []
    path = folder / "ledger.db"
    for cycle in track(range(cycles), "kills"):
        if cycle % CYCLES_OF_A_LEDGER == 0:
            path, acknowledged, kept = folder / f"ledger-{cycle}.db", 0, 0
        life, at_the_start = chance.uniform(0, LONGEST_LIFE), chance.random() < KILLED_AT_THE_START
        told = kill_once(f"sqlite:///{path}", kept, life, at_the_start=at_the_start)
        acknowledged, acknowledged_of_all = kept + told, acknowledged_of_all + told
        kept, found = look(path, acknowledged)
        if cycle % CYCLES_BETWEEN_CHECKS == 0 and kept:
            found += check_whole(path)
        wrong += [f"cycle {cycle}: {text}" for text in found]
        if (cycle + 1) % CYCLES_OF_A_LEDGER == 0 or cycle + 1 == cycles:
            wrong += check_whole(path)
            path.unlink()
    return {"cycles": cycles, "acknowledged": acknowledged_of_all, "wrong": len(wrong), "first_wrong": wrong[:3]}


def main() -> None:
    """Kill a writer again and again, and print what was lost."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    plan = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        SqlStore(f"sqlite:///{folder}/first.db").close()  # what it imports, every fork has
        record = soak(plan.cycles, plan.seed, Path(folder))
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(record["wrong"]))


if __name__ == "__main__":
    main()
