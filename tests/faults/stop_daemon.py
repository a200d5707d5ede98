"""The whole service, stopped or reloaded in the middle of its work.

`python -m tests.faults.stop_daemon --rounds 50`. A round is one case: SIGTERM at a random moment under load, while it
starts, or while an exchange does not answer; a second one; SIGHUP with a configuration that is good, or that is not.
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
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.progress import track

from forecaster.clock import now_ms
from tests.faults.account import faults, forecasts, lost, newest_close
from tests.faults.kill_daemon import last_cycle
from tests.faults.world import MINUTE_MS, World, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.world import Service

SPEED: Final = 10
SERIES: Final = 40
DRAIN_SECONDS: Final = 30.0
AT_ONCE_SECONDS: Final = 1.0
"""Real seconds within which a second signal ends it."""

ENDED_WITHIN_SECONDS: Final = 10.0
"""Seconds of the world, of which a real one is ten, that the service may take to stop what is no cycle."""

SETTLE_MS: Final = 5_000
LOADED_MS: Final = 12_000
"""How long, behind a close, work is in hand."""


class Outcome(NamedTuple):
    """What one case came to: seconds of the world that the end took, and what was wrong."""

    case: str
    seconds: float
    wrong: list[str]


class Play:
    """One service under load in a world of its own."""

    def __init__(self, world: World, chance: random.Random, patience: float = 1.0) -> None:
        self.world = world
        self.chance = chance
        self.patience = patience
        self.config = world.write_config(daemon={"drain_seconds": DRAIN_SECONDS})
        self.service = world.start(self.config)
        self.wrong: list[str] = []

    def under_load(self) -> float:
        """SIGTERM while a cycle is likely under way."""
        self._be_ready()
        self._wait_for_load()
        return self._end()

    def while_starting(self) -> float:
        """SIGTERM while it loads its model or catches up."""
        self.service.wait_for("lease.acquired")
        time.sleep(self.chance.uniform(0, 3))
        return self._end(SPEED * DRAIN_SECONDS)

    def while_waiting(self) -> float:
        """SIGTERM while an exchange keeps it waiting for longer than it may take."""
        self._be_ready()
        self._hang()
        return self._end()

    def twice(self) -> float:
        """A second SIGTERM while the first is waited for."""
        self._be_ready()
        self._hang()
        self.service.signal(signal.SIGTERM)
        self.service.wait_for("daemon.draining")
        began = time.monotonic()
        self.service.signal(signal.SIGTERM)
        self._expect(1, self.service.wait())
        taken = time.monotonic() - began
        if taken > AT_ONCE_SECONDS * self.patience:
            self.wrong.append(f"a second SIGTERM took {taken:.1f} real s")
        self.world.exchange.recover()
        return taken * SPEED

    def reloaded(self) -> float:
        """SIGHUP with a series more, which is then forecast."""
        self._be_ready()
        self.world.exchange.symbols.add("MORE/USDT")
        self.world.write_config(daemon={"drain_seconds": DRAIN_SECONDS})
        self.service.signal(signal.SIGHUP)
        self.service.wait_for("config.reloaded")
        name = "binance MORE/USDT 1m"
        wait_until(lambda: any(one.series == name for one in forecasts(self.world.url)), f"a forecast of {name}")
        self._wait_for_load()
        return self._end()

    def refused(self) -> float:
        """SIGHUP with a file that is no configuration: it goes on as it was."""
        self._be_ready()
        self.config.write_text(self.config.read_text().replace("[daemon]", "[demon]"))
        self.service.signal(signal.SIGHUP)
        refusal = self.service.wait_for("config.refused")
        if "demon" not in json.dumps(refusal):
            self.wrong.append(f"the refusal does not name the key: {refusal}")
        self.service.wait_for("cycle.completed", after=self.service.count("cycle.completed") + 1)
        return self._end()

    def _be_ready(self) -> None:
        self.service.wait_for("daemon.ready")
        self.service.wait_for("cycle.completed", after=self.service.count("cycle.completed"))

    def _wait_for_load(self) -> None:
        """Wait for a random moment at which work is in hand."""
        into, moment = self.world.now() % MINUTE_MS, self.chance.randrange(SETTLE_MS, SETTLE_MS + LOADED_MS)
        self.world.clock.sleep(((moment - into) % MINUTE_MS) / 1000)

    def _hang(self) -> None:
        """Stop the exchange from answering, and wait until a request waits."""
        asked = len(self.world.exchange.asked("bars"))
        self.world.exchange.fail_next("delay", times=10_000)
        wait_until(lambda: len(self.world.exchange.asked("bars")) > asked, "a request")

    def _end(self, allowed: float = DRAIN_SECONDS) -> float:
        """Tell it to end; gives the seconds of the world that it took. A model that loads takes its real time."""
        before = forecasts(self.world.url) if self.world.ledger.exists() else {}
        began = time.monotonic()
        self.service.signal(signal.SIGTERM)
        self.service.wait_for("daemon.stopped")
        taken = (time.monotonic() - began) * SPEED
        self._expect(0, self.service.wait())
        if taken > allowed + ENDED_WITHIN_SECONDS * self.patience:
            self.wrong.append(f"took {taken:.0f} s, {allowed:g} are allowed")
        if self.world.ledger.exists():
            self.wrong += lost(before, forecasts(self.world.url))
        return taken

    def _expect(self, code: int, found: int) -> None:
        if found != code:
            self.wrong.append(f"ended with {found} and not {code}: {self.service.text[-3:]}")

    def look(self) -> None:
        """Start again, end at peace, and look at what is stored."""
        config = self.world.write_config(daemon={"drain_seconds": DRAIN_SECONDS})
        again = self.world.start(config)
        again.wait_for("daemon.ready")
        again.wait_for("cycle.completed", after=again.count("cycle.completed"))
        again.signal(signal.SIGTERM)
        self._expect_of(again)
        self.wrong += faults(self.world.url, self.world.keys, newest_close(last_cycle(again), MINUTE_MS))

    def _expect_of(self, again: Service) -> None:
        if code := again.wait():
            self.wrong.append(f"the next one ended with {code}: {again.text[-3:]}")


CASES: Final[dict[str, Callable[[Play], float]]] = {
    "under load": Play.under_load,
    "while starting": Play.while_starting,
    "while waiting": Play.while_waiting,
    "twice": Play.twice,
    "reloaded": Play.reloaded,
    "refused": Play.refused,
}


def play(case: str, seed: int, series: int = SERIES, fault: str = "", patience: float = 1.0) -> Outcome:
    """Play one case in a world of its own.

    Args:
        case: one of `CASES`.
        seed: of its moments.
        series: how many are forecast.
        fault: for the world.
        patience: how many times as long as on an idle machine an end may take.
    """
    symbols = [f"COIN{i}/USDT" for i in range(series)]
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), symbols, now_ms(), SPEED, fault) as world:
        one = Play(world, random.Random(seed), patience)  # noqa: S311 - moments, not secrets
        try:
            seconds = CASES[case](one)
            one.look()
        except RuntimeError as error:
            return Outcome(case, 0.0, [*one.wrong, str(error)])
        return Outcome(case, seconds, one.wrong)


def main() -> None:
    """Play the cases in turn, and print which promises were broken."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=len(CASES))
    parser.add_argument("--series", type=int, default=SERIES)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    plan = parser.parse_args()
    cases = [plan.cases[i % len(plan.cases)] for i in range(plan.rounds)]
    outcomes = [play(case, plan.seed + i, plan.series) for i, case in enumerate(track(cases, "rounds"))]
    longest = Counter[str]()
    for one in outcomes:
        longest[one.case] = max(longest[one.case], round(one.seconds))
    wrong = [f"{one.case}: {text}" for one in outcomes for text in one.wrong]
    record = {"rounds": len(outcomes), "longest_seconds": longest, "wrong": len(wrong), "first_wrong": wrong[:3]}
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
