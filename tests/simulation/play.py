"""A service lives through its world: it starts, works, dies and is started again, and is watched all the while.

`python -m tests.simulation --seeds 300 --days 30 --processes 2` plays seed after seed and prints what was broken;
`--seed 7` plays one again and shows its log. The seed decides everything: the same one gives the same log.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog
from rich.console import Console
from rich.progress import track

from forecaster.daemon.cycle_queue import CycleQueue
from forecaster.daemon.health_state import HealthState
from forecaster.daemon.scheduler import schedules_of
from forecaster.daemon.service_run import ServiceRun
from forecaster.engine import Forecaster
from forecaster.errors import LeaseLost, StoreError, StoreTaken, StoreUnavailable
from forecaster.store.sql import SqlStore
from tests.simulation.faults import Rates, Window
from tests.simulation.invariants import Broken, Watch
from tests.simulation.world import KEYS, WRITES, Killed, ShakySource, ShakyStore, World, moment, simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apscheduler.triggers.base import BaseTrigger

    from forecaster.bars import SeriesKey
    from forecaster.cycle.run import CycleReport
    from forecaster.daemon.cycle_queue import ScheduledCycle
    from forecaster.daemon.time_source import Schedule
    from forecaster.sources import BarSource
    from tests.simulation.world import Clock

EXCHANGES: Final = tuple(sorted({key.exchange for key in KEYS}))
_NEVER: Final = 2**62
_RESTART_MS: Final = 5_000
_RIVAL_LOOKS_MS: Final = 5_000
_ENOUGH: Final = 100
"""So many broken promises end a world early."""

_TMPFS: Final = Path("/dev/shm")  # noqa: S108 - a ledger for each world, in a folder of its own


class Parts(NamedTuple):
    """The components under test; a test plants a fault in a copy of one."""

    forecaster: type[Forecaster] = Forecaster
    store: type[SqlStore] = SqlStore
    service_run: type[ServiceRun] = ServiceRun


class Outcome(NamedTuple):
    """What became of one world."""

    seed: int
    cycles: int
    failed: int
    forecasts: int
    late: int
    starts: int
    requests: int
    broken: list[Broken]
    log: list[str]

    @property
    def digest(self) -> str:
        """Of the log, byte for byte."""
        return hashlib.sha256("\n".join(self.log).encode()).hexdigest()


def play(seed: int, days: float, rates: Rates | None = None, parts: Parts | None = None) -> Outcome:
    """Play one world to its end.

    Args:
        seed: of all that is random.
        days: how long it lasts.
        rates: how often things go wrong; drawn from the seed when left out.
        parts: the components; the program's own when left out.
    """
    with tempfile.TemporaryDirectory(dir=_TMPFS if _TMPFS.is_dir() else None) as folder:
        return Play(World(seed, days, Path(folder), rates), parts or Parts()).run()


class Life:
    """One process, from the ordinary start on. What APScheduler and threads do in it, `Play` does, in order.

    Args:
        world: in which it lives.
        store: the ledger, which it has just opened.
        parts: the components.
    """

    def __init__(self, world: World, store: ShakyStore, parts: Parts) -> None:
        self.store = store
        sources = {exchange: ShakySource(world, exchange) for exchange in EXCHANGES}
        given: dict[SeriesKey, BarSource] = {key: sources[key.exchange] for key in KEYS}
        self.forecaster = parts.forecaster(world.config, store, given, world.models())
        clock = world.clock
        health_state = HealthState(world.config, lambda: clock.wall, lambda: clock.now / 1000)
        store.check_integrity()
        self.service_run = parts.service_run(self.forecaster, MachineClock(clock), health_state)
        self.daemon = self.service_run._daemon
        self.queue = self.daemon.queue = CycleQueue(lambda: clock.now / 1000)
        self.busy: dict[ScheduledCycle, int] = {}
        self._schedules = schedules_of(world.config)
        self.next_due: dict[Schedule, int] = {}
        self.plan(clock.wall)

    def plan(self, wall: int) -> None:
        """Begin anew, as at a start and when the clock has jumped: everything is called for, and closes from now on."""
        self.next_due = {one: one.next_due(wall) for one in self._schedules}
        self.daemon.enqueue_all()

    def call(self, wall: int) -> None:
        """Call for what is due."""
        for schedule, due in self.next_due.items():
            if due <= wall:
                self.daemon._enqueue(schedule)
                self.next_due[schedule] = schedule.next_due(wall)

    def free(self, at: int) -> None:
        """Let go of what is done by now."""
        for due in [due for due, until in self.busy.items() if until <= at]:
            self.busy.pop(due)
            self.queue.task_done(due)


class MachineClock:
    """The wall clock of the simulated machine, as the daemon sees it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> int:
        return self._clock.wall

    def trigger(self, schedule: Schedule) -> BaseTrigger:
        raise NotImplementedError

    def due(self, schedule: Schedule, pending: int) -> int | None:
        return self._clock.wall


class Play:
    """One world, and the lives that a service has in it."""

    def __init__(self, world: World, parts: Parts) -> None:
        self._world = world
        self._clock = world.clock
        self._parts = parts
        self._watch = Watch(world)
        self._life: Life | None = None
        self._start_at = world.clock.now
        self._edges = self._all_edges()
        self._rival: Window | None = None
        self._count: Counter[str] = Counter()
        world.on_call = self._on_call

    def run(self) -> Outcome:
        """Live through the world."""
        try:
            with simulated(self._clock):
                while (at := self._next_event()) < self._world.end and len(self._watch.broken) < _ENOUGH:
                    self._step(at)
                self._finish()
        finally:
            self._watch.close()
            if self._life is not None:
                self._life.store.die()
        rows = self._watch.rows.values()
        return Outcome(
            seed=self._world.seed,
            cycles=self._count["cycles"],
            failed=self._count["failed"],
            forecasts=len(rows),
            late=sum(row.is_late for row in rows),
            starts=self._count["starts"],
            requests=self._world.requests,
            broken=self._watch.broken,
            log=self._world.log,
        )

    def _all_edges(self) -> list[tuple[int, bool, Window]]:
        """When what strikes the whole machine begins and ends, the last first."""
        windows = self._world.faults.of("down", "wall", "rival")
        edges = [(one.start, True, one) for one in windows] + [(one.end, False, one) for one in windows]
        return sorted(edges, reverse=True)

    def _next_event(self) -> int:
        """True time of what happens next."""
        times = [self._edges[-1][0] if self._edges else _NEVER]
        if self._life is None:
            return min(*times, self._start_at)
        times += [due - self._clock.offset for due in self._life.next_due.values()]
        times += self._life.busy.values()
        times.append(self._clock.began + ceil(min(self._life.queue._next_in() * 1000, _NEVER / 2)))
        return max(self._clock.began, min(times))

    def _step(self, at: int) -> None:
        """Let happen what happens at this time: faults, a start, closes, and work for who is free."""
        self._clock.begin(at)
        while self._edges and self._edges[-1][0] <= at:
            self._strike(*self._edges.pop()[1:])
        if self._life is None and at >= self._start_at:
            self._start()
        if self._life is not None:
            self._life.free(at)
            self._life.call(self._clock.wall)
        while self._life is not None and (due := self._life.queue.take()) is not None:
            self._work(self._life, due)
            self._clock.begin(at)

    def _strike(self, begins: bool, window: Window) -> None:  # noqa: FBT001 - an edge has two sides
        """Let a fault of the machine begin or end."""
        if window.kind == "rival":
            self._rival = window if begins else self._rival
            return
        self._world.tell(window.kind, begins=begins, size=round(window.size))
        if window.kind == "wall":
            self._clock.offset = round(window.size) if begins else 0
            if self._life is not None:
                self._life.plan(self._clock.wall)
        elif begins and self._life is not None:
            self._end(self._life, window.end, is_killed=window.start % 2 == 0)
        elif begins:
            self._start_at = max(self._start_at, window.end)

    def _start(self) -> Life | None:
        """The ordinary start: the same at first, after an end, and after a crash."""
        self._count["starts"] += 1
        self._world.tell("start")
        store = ShakyStore(self._world, self._parts.store(self._world.url))
        try:
            self._life = Life(self._world, store, self._parts)
        except (Killed, StoreError) as error:
            self._world.tell("start.failed", error=type(error).__name__)
            store.die()
            self._start_at = self._clock.now + _RESTART_MS
        return self._life

    def _work(self, life: Life, due: ScheduledCycle) -> None:
        """Run one cycle, and see what comes of it."""
        self._count["cycles"] += 1
        self._watch.begin()
        try:
            report = life.daemon.run_cycle(due)
            life.service_run._on_completed(due, report)
        except Killed:
            self._watch.look()
            delay = self._world.chance("restart", self._clock.now)
            long = delay.random() < 1 / 5
            self._end(life, self._clock.now + round(1e8 ** delay.uniform(0.45, 1.1 if long else 0.5)), is_killed=True)
        except LeaseLost as error:
            self._fail(due, error)
            self._end(life, self._clock.now + _RESTART_MS, is_killed=False)
        except Exception as error:  # noqa: BLE001 - as the daemon's own door
            self._fail(due, error)
            life.service_run._on_failed(due, error)
        else:
            self._watch.after_cycle(report)
            self._tell(due, report)
        life.busy[due] = self._clock.now

    def _fail(self, due: ScheduledCycle, error: Exception) -> None:
        self._count["failed"] += 1
        self._world.tell("cycle.failed", exchange=due.exchange, timeframe=due.timeframe, error=type(error).__name__)
        self._watch.after_failure(due.exchange, error)

    def _tell(self, due: ScheduledCycle, report: CycleReport) -> None:
        """A line about a cycle, with a digest of what it forecast."""
        made = hashlib.sha256()
        for one in report.forecasts:
            made.update(
                f"{one.key} {one.cutoff} {one.issued_at} {one.available_at}".encode() + one.values_FHQ.tobytes()
            )
        self._world.tell(
            "cycle",
            exchange=due.exchange,
            timeframe=due.timeframe,
            as_of=report.as_of,
            bars=report.bars_added,
            forecasts=len(report.forecasts),
            late=sum(one.is_late for one in report.forecasts),
            made=made.hexdigest()[:16],
            settled=report.settled_rows,
            missed=report.missed,
            skipped={str(key): reason for key, reason in report.skipped.items()},
            failed_baselines=report.failed_baselines,
        )

    def _end(self, life: Life, until: int, *, is_killed: bool) -> None:
        """End a process, and let nobody run until a time."""
        self._world.tell("end", killed=is_killed, until=until)
        if is_killed:
            life.store.die()
        else:
            life.store.close()
        if life is self._life:
            self._life, self._start_at = None, until

    def _on_call(self, store: ShakyStore, name: str) -> None:
        """Freeze the process in the middle of its work, if it is time, and let another take over."""
        if self._rival is None or name not in WRITES or self._life is None or store is not self._life.store:
            return
        window, self._rival = self._rival, None
        self._world.tell("frozen", before=name, ms=window.end - window.start)
        woken_at = self._clock.now + window.end - window.start
        store = self._take_over(woken_at)
        if store is None:
            return
        try:
            self._work_off(Life(self._world, store, self._parts))
            store.close()
        except (Killed, StoreError) as error:
            self._world.tell("rival.ended", error=type(error).__name__)
            store.die()
        self._world.tell("woken")

    def _take_over(self, until: int) -> ShakyStore | None:
        """Have another process try for the ledger, as a standby does, while the first one is frozen."""
        store = None
        while store is None and self._clock.now < until:
            self._clock.spend(min(_RIVAL_LOOKS_MS, until - self._clock.now))
            try:
                store = ShakyStore(self._world, self._parts.store(self._world.url))
            except StoreUnavailable as error:
                self._world.tell("rival.refused", reason=type(error).__name__)
                if not isinstance(error, StoreTaken):
                    break
        self._clock.spend(max(0, until - self._clock.now))
        return store

    def _finish(self) -> None:
        """With no more faults, work until nothing is owed, and look at everything."""
        self._world.rates = Rates()
        self._rival = None
        self._edges = []
        self._clock.offset = 0
        busy = () if self._life is None else self._life.busy.values()
        self._clock.begin(max(self._clock.now, self._world.end, self._start_at, *busy))
        life = self._life or self._start()
        if life is None:
            return
        for _ in range(2):
            life.daemon.enqueue_all()
            self._work_off(life)
        self._watch.at_the_end(life.forecaster)

    def _work_off(self, life: Life) -> None:
        """Work until nothing waits that is due."""
        life.free(_NEVER)
        while (due := life.queue.take()) is not None:
            self._clock.begin(self._clock.now)
            self._work(life, due)
            life.free(_NEVER)


def main() -> None:
    """Play many worlds, and print what was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first one")
    parser.add_argument("--seed", type=int, help="play this one alone, and print its log")
    parser.add_argument("--days", type=float, default=30.0, help="of market time in each")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--logs", type=Path, help="folder for the logs of the worlds in which something was broken")
    plan = parser.parse_args()
    started = time.perf_counter()
    if plan.seed is not None:
        hush()
        outcomes = [_shown(play(plan.seed, plan.days), plan.logs)]
        sys.stdout.write("\n".join(outcomes[0].log) + "\n")
    else:
        seeds = range(plan.first, plan.first + plan.seeds)
        outcomes = sorted(_shown(one, plan.logs) for one in _play_all(seeds, plan.days, plan.processes))
    record = _record(outcomes) | {"days": plan.days, "seconds": round(time.perf_counter() - started, 1)}
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(record["broken"]))


def hush() -> None:
    """Let the program log to nobody: what counts is in the world's own log."""
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def _play_all(seeds: range, days: float, processes: int) -> Iterator[Outcome]:
    with ProcessPoolExecutor(processes, initializer=hush) as pool:
        asked = [pool.submit(partial(play, seed, days)) for seed in seeds]
        for one in track(as_completed(asked), "worlds", len(asked), console=Console(stderr=True)):
            yield one.result()


def _shown(outcome: Outcome, logs: Path | None) -> Outcome:
    """Say at once what was broken in a world, and keep its log."""
    for broken in outcome.broken:
        sys.stderr.write(f"seed {outcome.seed} at {moment(broken.at)}: {broken.name}: {broken.found}\n")
    if outcome.broken and logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"{outcome.seed}.log").write_text("\n".join(outcome.log) + "\n")
    return outcome


def _record(outcomes: list[Outcome]) -> dict[str, object]:
    counts = {name: sum(getattr(one, name) for one in outcomes) for name in Outcome._fields[1:7]}
    broken = Counter(name for one in outcomes for name in {broken.name for broken in one.broken})
    seeds = {name: [one.seed for one in outcomes if name in {b.name for b in one.broken}][:10] for name in broken}
    return {"worlds": len(outcomes), **counts, "broken": dict(broken), "seeds": seeds}
