"""The whole service over thousands of cycles: memory, threads and open files must stay as they are.

`python -m tests.faults.soak --cycles 10000 --out soak.png`. One `forecaster run` against a loopback exchange, on a
clock that runs so fast that several minutes close in a second; what it uses is looked up every few cycles. The first
fifth is warm-up; through the rest goes a straight line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from rich.progress import Progress

from forecaster.clock import now_ms
from tests.faults.account import faults, newest_close
from tests.faults.kill_daemon import last_cycle
from tests.faults.world import MINUTE_MS, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.world import Service

SPEED: Final = 240
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT")
CYCLES_BETWEEN_LOOKS: Final = 20
WARM_UP: Final = 0.2
MOST_GROWTH_MIB: Final = 1.0
"""How much a service may grow from the end of the warm-up on, however long that is."""

LONGEST_CYCLE_SECONDS: Final = 30.0


class Use(NamedTuple):
    """What the service uses after so many cycles."""

    cycles: int
    mib: float
    threads: int
    descriptors: int


def live(world: World, cycles: int, on_look: Callable[[int], None] = lambda _: None) -> tuple[list[Use], list[str]]:
    """Let a service run for so many cycles; gives what it used, and what was wrong in the end."""
    service = world.start(world.write_config(), MALLOC_ARENA_MAX="2")
    service.wait_for("daemon.ready")
    looks: list[Use] = []
    for number in range(CYCLES_BETWEEN_LOOKS, cycles + 1, CYCLES_BETWEEN_LOOKS):
        service.wait_for("cycle.completed", after=number - 1, seconds=LONGEST_CYCLE_SECONDS * CYCLES_BETWEEN_LOOKS)
        looks.append(look(service, number))
        on_look(number)
    service.signal(15)
    code = service.wait()
    wrong = ([f"ended with {code}"] if code else []) + service.failures()
    return looks, wrong + faults(world.url, world.keys, newest_close(last_cycle(service), MINUTE_MS))


def look(service: Service, cycles: int) -> Use:
    """Look up what it uses now."""
    return Use(cycles, service.status("VmRSS") / 1024, service.status("Threads"), service.descriptors())


def slope(looks: Sequence[Use], column: str) -> float:
    """How much a column grows with a thousand cycles, behind the warm-up: least squares."""
    steady = looks[round(len(looks) * WARM_UP) :]
    cycles = [one.cycles for one in steady]
    return float(1000 * np.polyfit(cycles, [getattr(one, column) for one in steady], 1)[0])


def growth(looks: Sequence[Use]) -> list[str]:
    """What has grown, behind the warm-up, more than it may."""
    thousands = looks[-1].cycles * (1 - WARM_UP) / 1000
    allowed = {"mib": MOST_GROWTH_MIB, "threads": 1.0, "descriptors": 1.0}
    grown = {name: slope(looks, name) * thousands for name in allowed}
    return [f"{name} grew by {by:.2f}" for name, by in grown.items() if by > allowed[name]]


def draw(looks: Sequence[Use], out: Path) -> None:
    """Draw what was used over the cycles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    titles = {"mib": "resident memory, MiB", "threads": "threads", "descriptors": "open files"}
    for axes, (column, title) in zip(figure.subplots(3, 1, sharex=True), titles.items(), strict=True):
        axes.plot([one.cycles for one in looks], [getattr(one, column) for one in looks])
        axes.axvspan(0, looks[-1].cycles * WARM_UP, alpha=0.15)
        axes.set(ylabel=title)
        axes.grid(alpha=0.3)
    axes.set(xlabel="cycles; the shaded part is warm-up")
    figure.savefig(out, dpi=120)


def play(cycles: int, speed: int = SPEED) -> tuple[list[Use], list[str]]:
    """Live in a world of one's own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        World(Path(folder), SYMBOLS, now_ms(), speed) as world,
        Progress() as progress,
    ):
        task = progress.add_task("cycles", total=cycles)
        return live(world, cycles, lambda number: progress.update(task, completed=number))


def main() -> None:
    """Run the service for long, and print how much it grew."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--speed", type=int, default=SPEED)
    parser.add_argument("--out", type=Path, help="picture to write")
    plan = parser.parse_args()
    started = time.monotonic()
    looks, wrong = play(plan.cycles, speed=plan.speed)
    wrong += growth(looks)
    if plan.out is not None:
        draw(looks, plan.out)
    record = {
        "cycles": looks[-1].cycles,
        "seconds": round(time.monotonic() - started),
        "mib": round(looks[-1].mib, 1),
        "mib_per_1000_cycles": round(slope(looks, "mib"), 3),
        "threads": [min(one.threads for one in looks), max(one.threads for one in looks)],
        "descriptors": [min(one.descriptors for one in looks), max(one.descriptors for one in looks)],
        "wrong": len(wrong),
        "first_wrong": wrong[:3],
    }
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
