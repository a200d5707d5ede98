"""A service that an exchange tells to wait is killed and started again: it must still wait.

`python -m tests.faults.kills --seeds 20` kills real processes at every venue and prints what was broken; the tests
kill one. The exchange is in this process, so what it logs outlives the service.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.progress import track

from forecaster.clock import now_ms
from tests.faults.exchange import LoopbackExchange
from tests.faults.storm import symbol_of
from tests.faults.venues import VENUES

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY_AFTER: Final = 6
STATUSES: Final = (403, 418, 429, 451, 503)


class Outcome(NamedTuple):
    """What one kill led to: how long the service waited, in seconds, and what it stored in the end."""

    venue: str
    status: int
    waited: float
    bars: int

    @property
    def broken(self) -> list[str]:
        """The promises that it broke."""
        early = [f"asked again after {self.waited:.2f} s of {RETRY_AFTER}"] if self.waited < RETRY_AFTER else []
        return early + ([] if self.bars else ["no bars in the end"])


def play(venue: str, status: int) -> Outcome:
    """Refuse a service once, kill it when it knows, and start it again until it has its bars."""
    with LoopbackExchange(now=now_ms()) as exchange, tempfile.TemporaryDirectory() as folder:
        config, ledger = Path(folder) / "live.toml", Path(folder) / "ledger.db"
        config.write_text(_toml(exchange, venue, ledger))
        exchange.fail_next("status", status=status, headers={"Retry-After": str(RETRY_AFTER)})
        with _pulling(config) as first:
            _wait_for_hold(ledger, first)
            with suppress(ProcessLookupError):  # a banned one may have ended by itself
                os.killpg(first.pid, signal.SIGKILL)
        refused = len(exchange.requests)
        bars, tried_until = 0, time.monotonic() + 60
        while not bars and time.monotonic() < tried_until:
            with _pulling(config) as again:
                again.wait()
            bars = _count(ledger, "bar")
        times = [request.at for request in exchange.requests]
        waited = times[refused] - times[refused - 1] if len(times) > refused else 0.0
        return Outcome(venue, status, waited, bars)


def main() -> None:
    """Kill at every venue, each status in turn, and print what was broken."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=6)
    plan = parser.parse_args()
    cases = [(venue, STATUSES[seed % len(STATUSES)]) for venue, seed in product(VENUES, range(plan.seeds))]
    with ThreadPoolExecutor(plan.threads) as pool:
        outcomes = list(track(pool.map(play, *zip(*cases, strict=True)), "kills", len(cases)))
    broken = [one for one in outcomes if one.broken]
    for one in broken:
        sys.stderr.write(f"{one.venue} {one.status}: {'; '.join(one.broken)}\n")
    waits = [one.waited for one in outcomes]
    record = {"kills": len(outcomes), "broken": len(broken), "shortest_wait": min(waits), "longest_wait": max(waits)}
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(broken))


def _toml(exchange: LoopbackExchange, venue: str, ledger: Path) -> str:
    config = exchange.config(venue)
    urls, options = (json.dumps(one).replace('": ', '" = ') for one in (config.revealed_api_urls, config.options))
    return (
        f'[exchanges.{venue}]\nid = "{venue}"\napi_urls = {urls}\noptions = {options}\n'
        "timeout = 5\ndeadline = 20\nlate_after = 0\n"
        f'[[series]]\nexchange = "{venue}"\nsymbol = "{symbol_of(venue)}"\ntimeframe = "1h"\n'
        f'[model]\ncontext = 64\n[store]\nurl = "sqlite:///{ledger}"\n'
    )


@contextmanager
def _pulling(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", "from forecaster.cli import main; main()", "pull", "-c", str(config)]
    silent = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=silent, stderr=silent, start_new_session=True) as process:
        yield process


def _wait_for_hold(ledger: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not _count(ledger, "hold"):
        time.sleep(0.002)


def _count(ledger: Path, table: str) -> int:
    """Rows of a table; 0 as long as there is no ledger."""
    try:
        with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
            return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608 - our own names
    except sqlite3.Error:
        return 0


if __name__ == "__main__":
    main()
