"""How long it takes to get bars from a loopback exchange that runs in a process of its own.

`python -m tests.benchmarks.bar_sources` polls a thousand series at one bar close, alone and beside an exchange that
does not answer, and fetches 100,000 one-minute bars into a ledger on disk, once undisturbed and once killed ten times.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from forecaster.clock import now_ms
from forecaster.config import Config
from forecaster.engine import Forecaster
from forecaster.model.chronos2.artifacts import hardware
from forecaster.timeframe import DAY_MS, MINUTE_MS
from tests.faults.exchange import LoopbackExchange
from tests.faults.storm import hurry
from tests.faults.venues import VENUES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

HOUR_MS: Final = 60 * MINUTE_MS
KILLS: Final = 10


class Remote:
    """A loopback exchange in another process; `ask` runs a line of Python there, with `exchange` at hand."""

    def __init__(self, url: str, pipe: Connection) -> None:
        self.url = url
        self._pipe = pipe

    def ask(self, line: str) -> Any:
        """Run it, and give what it returns."""
        self._pipe.send(line)
        return self._pipe.recv()


@contextmanager
def remote_exchange(now: int, symbols: int = 0, listed_at: int | None = None) -> Iterator[Remote]:
    """Start an exchange, with so many markets more."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, now, symbols, listed_at))
    process.start()
    try:
        yield Remote(ours.recv(), ours)
    finally:
        ours.send(None)
        process.join()


def poll(series: int, silent: int, *, paced: bool) -> dict[str, object]:
    """One close of `series` series, beside `silent` ones of an exchange that does not answer."""
    now = now_ms() // HOUR_MS * HOUR_MS + 5_000
    with remote_exchange(now, series) as good, remote_exchange(now, silent) as bad, tempfile.TemporaryDirectory() as at:
        config = Config.model_validate(
            {
                "exchanges": {
                    "binance": _exchange("binance", good.url, deadline=60.0),
                    "bybit": _exchange("bybit", bad.url, deadline=5.0),
                },
                "series": [
                    {"exchange": name, "symbol": f"COIN{i}/USDT", "timeframe": "1h"}
                    for name, count in (("binance", series), ("bybit", silent))
                    for i in range(count)
                ],
                "model": {"context": 64, "min_context": 16},
                "store": {"url": f"sqlite:///{at}/ledger.db"},
            }
        )
        if not paced:
            hurry()
        with Forecaster(config) as forecaster:
            forecaster.pull(forecaster.series, now)
            good.ask(f"exchange.__setattr__('now', {now + HOUR_MS})")
            bad.ask(f"exchange.__setattr__('now', {now + HOUR_MS})")
            bad.ask("exchange.fail_next('delay', times=10**6)")
            before = good.ask("len(exchange.requests)")
            memory, started = _rss_mb(), time.perf_counter()
            added, skipped = forecaster.pull(forecaster.series, now + HOUR_MS)
            seconds = time.perf_counter() - started
            return {
                "series": series,
                "silent": silent,
                "paced": paced,
                "seconds": round(seconds, 2),
                "bars_added": added,
                "skipped": len(skipped),
                "requests": good.ask("len(exchange.requests)") - before,
                "rss_mb": _rss_mb(),
                "rss_grown_mb": round(_rss_mb() - memory, 1),
            }


def backfill(bars: int, kills: int) -> dict[str, object]:
    """Fetch so many one-minute bars by the command line, killed so often on the way."""
    now = now_ms()
    listed_at = now // MINUTE_MS * MINUTE_MS - bars * MINUTE_MS
    with remote_exchange(now, listed_at=listed_at) as exchange, tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "live.toml"
        config.write_text(
            f'[exchanges.binance]\nid = "binance"\napi_urls.public = "{exchange.url}/api/v3"\nlate_after = 0\n'
            'options.fetchMarkets.types = ["spot"]\n'
            '[[series]]\nexchange = "binance"\nsymbol = "BTC/USDT"\ntimeframe = "1m"\n'
            f'[model]\ncontext = 64\n[store]\nurl = "sqlite:///{folder}/ledger.db"\n'
        )
        ledger, started = Path(folder) / "ledger.db", time.perf_counter()
        for kill in range(kills):
            with _start_pull(config, listed_at) as process:
                _wait_for_rows(ledger, (kill + 1) * bars // (kills + 2), process)
                os.killpg(process.pid, signal.SIGKILL)
        last = _start_pull(config, listed_at)
        output, _ = last.communicate()
        seconds = time.perf_counter() - started
        truth = exchange.ask(f"exchange.rows('BTC/USDT', '1m', {listed_at}, {now})")
        rows = _stored(ledger)
        return {
            "bars": len(rows),
            "kills": kills,
            "seconds": round(seconds, 1),
            "bars_per_second": round(len(rows) / seconds),
            "requests": exchange.ask("len(exchange.requests)"),
            "equal_to_truth": rows == [tuple(row) for row in truth if row[0] + MINUTE_MS <= now],
            "last": json.loads(output.splitlines()[-1]),
        }


def main() -> None:
    """Run all, and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--series", type=int, default=1000)
    parser.add_argument("--bars", type=int, default=100_000)
    plan = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    sys.stdout.write(json.dumps({"hardware": hardware("cpu")}) + "\n")
    for silent, paced in ((0, True), (0, False), (plan.series // 2, False)):
        sys.stdout.write(json.dumps(poll(plan.series, silent, paced=paced)) + "\n")
    for kills in (0, KILLS):
        sys.stdout.write(json.dumps(backfill(plan.bars, kills)) + "\n")


def _serve(pipe: Connection, now: int, symbols: int, listed_at: int | None) -> None:
    with LoopbackExchange(now, listed_at or now - 400 * DAY_MS) as exchange:
        exchange.symbols |= {f"COIN{i}/USDT" for i in range(symbols)}
        pipe.send(exchange.url)
        while (line := pipe.recv()) is not None:
            pipe.send(eval(line, {"exchange": exchange}))  # noqa: S307 - our own lines


def _exchange(venue: str, url: str, deadline: float) -> dict[str, object]:
    return {
        "id": venue,
        "api_urls": VENUES[venue].api_urls(url),
        "options": VENUES[venue].options,
        "deadline": deadline,
        "late_after": 0.0,
    }


def _start_pull(config: Path, since: int) -> subprocess.Popen[str]:
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since / 1000))
    command = [sys.executable, "-c", "from forecaster.cli import main; main()", "pull", "--since", date]
    return subprocess.Popen(
        [*command, "-c", str(config), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _wait_for_rows(ledger: Path, rows: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None:
        time.sleep(0.02)
        try:
            if len(_stored(ledger)) >= rows:
                return
        except sqlite3.Error:
            continue


def _stored(ledger: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
        return connection.execute(
            "SELECT open_time, open, high, low, close, volume FROM bar ORDER BY open_time, revision"
        ).fetchall()


def _rss_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    main()
