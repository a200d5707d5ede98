"""Five hundred series of one exchange at bars of a minute: is every bar forecast in time, and where the time goes.

`python -m tests.benchmarks.many_series --minutes 60`. The real service against a loopback exchange, which takes its
share of the processor, on a clock that may run fast: its seconds are told, so a faster one is a slower machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.progress import Progress

from forecaster.clock import now_ms
from forecaster.model.chronos2.artifacts import hardware
from tests.faults.account import faults, forecasts, newest_close
from tests.faults.kill_daemon import last_cycle
from tests.faults.world import MINUTE_MS, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.account import Made, Name

SPEED: Final = 1
SERIES: Final = 500


def measure(
    world: World, minutes: int, model: dict[str, object], on_cycle: Callable[[int], None] = lambda _: None
) -> dict[str, object]:
    """Let the service run for so many bars behind its start, and measure."""
    service = world.start(world.write_config(model=model))
    service.wait_for("daemon.ready", seconds=300)
    begun, patience = service.count("cycle.completed"), 4 * 60 / world.clock.speed + 60
    first = newest_close(world.now(), MINUTE_MS) + MINUTE_MS
    for number in range(minutes):
        service.wait_for("cycle.completed", after=begun + number, seconds=patience)
        on_cycle(number + 1)
    service.signal(15)
    code, cycles = service.wait(), [one for one in service.events if one["event"] == "cycle.completed"][begun:]
    until = newest_close(last_cycle(service), MINUTE_MS)
    wrong = ([f"ended with {code}"] if code else []) + faults(world.url, world.keys, until)
    found = summary(forecasts(world.url), cycles, (first, until))
    expected = len(world.keys) * ((until - first) // MINUTE_MS + 1)
    return found | {
        "bars": expected,
        "unforecast": expected - int(found["forecasts"]),
        "wrong": len(wrong),
        "first_wrong": wrong[:3],
    }


def summary(made: dict[Name, list[Made]], cycles: list[dict[str, Any]], span: tuple[int, int]) -> dict[str, Any]:
    """What became of the closes in a span, both ends included: how late, and where a cycle's time went.

    An exchange's rate limit alone makes a cycle wait for ten seconds: `not_the_model` is a share of the rest.
    """
    first, until = span
    waits = [
        (one.available_at - name.cutoff) / 1000
        for name, (one, *_) in made.items()
        if name.model == "nano" and first <= name.cutoff <= until
    ]
    late = sum(one.late for name, (one, *_) in made.items() if name.model == "nano" and first <= name.cutoff <= until)
    parts = ("seconds", "waited_seconds", "model_seconds")
    seconds, waited, model = (sum(float(one[name]) for one in cycles) for name in parts)
    p50, p99 = np.percentile(waits, [50, 99]) if waits else (float("nan"), float("nan"))
    return {
        "cycles": len(cycles),
        "forecasts": len(waits),
        "late": late,
        "skipped": sum(len(one["skipped"]) for one in cycles),
        "close_to_stored_p50": round(float(p50), 2),
        "close_to_stored_p99": round(float(p99), 2),
        "cycle_seconds": round(seconds / max(1, len(cycles)), 2),
        "waited_seconds": round(waited / max(1, len(cycles)), 2),
        "model_seconds": round(model / max(1, len(cycles)), 2),
        "not_the_model": round(1 - model / (seconds - waited), 3) if seconds else None,
    }


def play(minutes: int, series: int, speed: int = SPEED, **model: object) -> dict[str, object]:
    """Measure in a world of one's own."""
    symbols = [f"COIN{i}/USDT" for i in range(series)]
    with (
        tempfile.TemporaryDirectory() as folder,
        World(Path(folder), symbols, now_ms(), speed) as world,
        Progress() as progress,
    ):
        task = progress.add_task("minutes", total=minutes)
        return measure(world, minutes, model, lambda number: progress.update(task, completed=number))


def main() -> None:
    """Run many series for a while, and print a line of JSON; ends with 1 when a bar was late or not forecast."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--minutes", type=int, default=5)
    parser.add_argument("--series", type=int, default=SERIES)
    parser.add_argument("--speed", type=int, default=SPEED)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--horizon", type=int, default=5)
    parser.add_argument("--compile", choices=["off", "auto"], default="off")
    plan = parser.parse_args()
    model = {"context": plan.context, "horizon": plan.horizon, "compile": plan.compile}
    found = play(plan.minutes, plan.series, plan.speed, **model)
    record = {"series": plan.series, "minutes": plan.minutes, "speed": plan.speed} | model | found
    sys.stdout.write(json.dumps(record | {"hardware": hardware("cpu")}) + "\n")
    sys.exit(bool(found["late"] or found["unforecast"] or found["wrong"]))


if __name__ == "__main__":
    main()
