"""Everything that can go wrong at an exchange, at each of eight, and what must hold throughout.

One case: a fresh service against a loopback exchange, a fault for a while, then none. `python -m tests.faults.storm
--seeds 20` plays every fault at every venue and prints what was broken; the tests play a few of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise, product
from typing import Final, NamedTuple, get_args

import numpy as np
import structlog
from rich.progress import track

from forecaster.config import Config
from forecaster.engine import Forecaster
from forecaster.sources.exchange import source as exchange_source
from forecaster.sources.exchange.breaker import MAX_LIMIT_MS, MAX_PAUSE_MS
from forecaster.sources.exchange.paginator import RateLimiter
from forecaster.sources.exchange.source import ExchangeSource
from forecaster.store.memory import MemoryStore
from forecaster.timeframe import Timeframe
from tests.faults.exchange import AnswerFault, Kind, LoopbackExchange, RowFault
from tests.faults.venues import VENUES

HOUR: Final = Timeframe("1h")
NOW: Final = 1_717_999_200_000 + 5_000
CONTEXT: Final = 64
DEADLINE: Final = 0.8
SLACK: Final = 0.5
STATUSES: Final = (403, 404, 418, 429, 451, 500, 502, 503, 504, 599)
"""What the fault `status` answers with, each by its own name."""

FAULTS: Final = (
    *(kind for kind in (*get_args(AnswerFault), *get_args(RowFault)) if kind != "status"),
    *(f"status {status}" for status in STATUSES),
    "revised",
    "gap",
    "delisted",
    "clock behind",
    "clock ahead",
    "markets html",
    "time html",
)
RETRY_AFTER: Final = 1


class Case(NamedTuple):
    """One fault at one venue."""

    venue: str
    fault: str
    seed: int


class Outcome(NamedTuple):
    """What one case did, and which promises it broke."""

    case: Case
    requests: int
    seconds: float
    rejected: int
    broken: list[str]


def symbol_of(venue: str) -> str:
    """A market that the venue lists."""
    return "BTC/USD" if venue in ("kraken", "coinbase", "coinbaseexchange", "bitstamp") else "BTC/USDT"


def play(case: Case, slack: float = SLACK) -> Outcome:
    """Play a fault, end it, and look at what is stored; `slack` is how much longer than told a pull may take."""
    rng = np.random.default_rng([case.seed, FAULTS.index(case.fault)])
    with LoopbackExchange(now=NOW) as exchange:
        one = _Play(case, exchange, rng, slack)
        try:
            return one.run()
        finally:
            one.close()


class _Play:
    """One service, one exchange, one fault."""

    def __init__(self, case: Case, exchange: LoopbackExchange, rng: np.random.Generator, slack: float) -> None:
        self.case = case
        self.slack = slack
        self.exchange = exchange
        self.rng = rng
        self.store = MemoryStore()
        self.broken: list[str] = []
        self.seconds = 0.0
        self.symbol = symbol_of(case.venue)
        exchange_config = exchange.config(case.venue, deadline=DEADLINE, timeout=0.3, final_after=0.2)
        self.config = Config.model_validate(
            {
                "exchanges": {case.venue: exchange_config.model_dump()},
                "series": [{"exchange": case.venue, "symbol": self.symbol, "timeframe": "1h"}],
                "model": {"context": CONTEXT, "min_context": 16},
                "store": {"url": "memory:"},
            }
        )
        self.service = self._start()

    def run(self) -> Outcome:
        """Before, during and after the fault."""
        if self.rng.random() < 0.5:  # half of the services have been running before
            self.pull()
            self.exchange.now += HOUR.ms * int(self.rng.integers(1, 5))
        begun, settled = len(self.exchange.requests), self._begin()
        for _ in range(int(self.rng.integers(1, 3))):
            self.pull()
        self._check_retry_after(begun)
        if self.rng.random() < 0.5:  # and half are killed
            self._kill()
            self.pull()
            self._check_retry_after(begun)
        self._end(settled)
        self._recover()
        self.check_stored()
        return Outcome(
            self.case,
            len(self.exchange.requests),
            self.seconds,
            len(self.store.rejected_rows(self.service.series[0])),
            self.broken,
        )

    def close(self) -> None:
        """Close the connections."""
        self._source.close()

    def pull(self) -> None:
        """Ask once; in time, whatever happens."""
        started = time.monotonic()
        self.service.pull(self.service.series, self.exchange.now)
        self.seconds = max(self.seconds, time.monotonic() - started)
        if time.monotonic() - started > DEADLINE + self.slack:
            self.broken.append(f"took {time.monotonic() - started:.2f} s")

    def check_stored(self) -> None:
        """Every final bar of the context is there as it was made, and nothing else is."""
        key, now = self.service.series[0], self.exchange.now
        bars = self.store.bars(key)
        truth = self.exchange.rows(self.symbol, "1h", now // HOUR.ms * HOUR.ms - CONTEXT * HOUR.ms, now)[:-1]
        invalid = {tuple(row) for row in np.column_stack([bars.open_time, bars.ohlcv_TF]).tolist()} - {
            tuple(map(float, row)) for row in self.exchange.rows(self.symbol, "1h", 0, now)[:-1]
        }
        missing = {row[0] for row in truth} - set(bars.open_time.tolist())
        if invalid:
            self.broken.append(f"{len(invalid)} stored bars that never were, such as {min(invalid)}")
        if missing:
            self.broken.append(f"{len(missing)} of {len(truth)} bars are missing")
        if self.exchange.elsewhere:
            self.broken.append(f"{self.exchange.elsewhere} requests followed a redirect")

    def _start(self) -> Forecaster:
        self._source = ExchangeSource(self.case.venue, self.config.exchanges[self.case.venue], self.store)
        return Forecaster(self.config, self.store, {self.config.series[0].key: self._source})

    def _kill(self) -> None:
        """A new process on the same store; the old one gets no chance to say anything."""
        self.close()
        self.service = self._start()

    def _begin(self) -> int:
        """Let it go wrong."""
        exchange, fault = self.exchange, self.case.fault
        newest = exchange.now // HOUR.ms * HOUR.ms - HOUR.ms
        if fault.startswith("status "):
            status = int(fault.split()[1])
            headers = {"Retry-After": str(RETRY_AFTER)} if status in (403, 418, 429, 451, 503) else {}
            exchange.fail_next("status", times=10_000, status=status, headers=headers)
        elif fault == "revised":
            exchange.revised[newest - HOUR.ms * int(self.rng.integers(0, 3))] = 60_500.0
        elif fault == "gap":
            exchange.missing.update(newest - HOUR.ms * self.rng.integers(1, CONTEXT, 5))
        elif fault == "delisted":
            exchange.delist(self.symbol)
        elif fault.startswith("clock "):
            exchange.now += 90_000 * (1 if fault.endswith("ahead") else -1)
        elif fault.endswith(" html"):
            exchange.fail_next("html", times=10_000, at="markets" if fault.startswith("markets") else "time")
        else:
            kind: Kind = fault  # type: ignore[assignment]  # FAULTS is made of their names
            exchange.fail_next(kind, times=int(self.rng.integers(1, 8)))
        return exchange.now

    def _end(self, begun_at: int) -> None:
        """Let it go right again, an hour later."""
        self.exchange.recover()
        self.exchange.symbols.add(self.symbol)
        if self.case.fault == "gap":
            self.exchange.missing.clear()
        if self.case.fault.startswith("clock "):
            self.exchange.now = begun_at // HOUR.ms * HOUR.ms + HOUR.ms + 5_000
        self.exchange.now += HOUR.ms

    def _recover(self) -> None:
        """The cycles after it: one is enough, but for what the exchange told us to wait, and the pause of a symbol."""
        give_up = time.monotonic() + (MAX_PAUSE_MS + MAX_LIMIT_MS * self.case.fault.startswith("status")) / 1000
        while self.service.pull(self.service.series, self.exchange.now)[1] and time.monotonic() < give_up:
            time.sleep(0.1)
        for _ in range(2):
            self.pull()
            self.exchange.now += HOUR.ms
        self.pull()

    def _check_retry_after(self, begun: int) -> None:
        """After a refusal that named a time, none came before that time."""
        if self.case.fault not in ("status 403", "status 418", "status 429", "status 451", "status 503"):
            return
        times = [request.at for request in self.exchange.requests[begun:] if request.endpoint == "bars"]
        early = sum(after - before < RETRY_AFTER for before, after in pairwise(times))
        if early:
            self.broken.append(f"{early} requests before Retry-After had passed")


def main() -> None:
    """Play every fault at every venue, and print what was broken."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--venues", nargs="+", default=list(VENUES), choices=list(VENUES))
    parser.add_argument("--faults", nargs="+", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--processes", type=int, default=8)
    plan = parser.parse_args()
    cases = [Case(*one) for one in product(plan.venues, plan.faults, range(plan.seeds))]
    with ProcessPoolExecutor(plan.processes, initializer=hurry) as pool:
        outcomes = list(track(pool.map(play, cases), "faults", len(cases)))
    broken = [one for one in outcomes if one.broken]
    for one in broken:
        sys.stderr.write(f"{one.case}: {'; '.join(one.broken)}\n")
    record = {
        "cases": len(outcomes),
        "broken": len(broken),
        "requests": sum(one.requests for one in outcomes),
        "rejected": sum(one.rejected for one in outcomes),
        "slowest_pull": round(max(one.seconds for one in outcomes), 2),
        "promises": dict(Counter(text.split()[-1] for one in broken for text in one.broken)),
    }
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(broken))


def hurry() -> None:
    """Let no request wait for the venue's rate limit, and no unknown symbol for the next list of markets."""

    async def pass_on(_self: object, _seconds: float) -> None:
        pass

    RateLimiter.wait = pass_on  # type: ignore[method-assign]
    exchange_source.MARKETS_RELOAD_SECONDS = 0.0  # type: ignore[misc]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


if __name__ == "__main__":
    main()
