"""The whole service while the machine's clock jumps: no close without a word, no storm, and on time again behind it.

`python -m tests.faults.clocks [--scenes ...]`. In some scenes the machine alone is wrong, and right again later; in
others it was suspended, and the exchange's time has gone on; in others nothing jumps but what local time is called.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich.progress import track

from tests.builders import utc_ms
from tests.faults.account import faults, forecasts, newest_close
from tests.faults.world import MINUTE_MS, World, wait_until

if TYPE_CHECKING:
    from tests.faults.world import Service

SPEED: Final = 30
SYMBOLS: Final = ("BTC/USDT", "ETH/USDT")
HOUR_MS: Final = 60 * MINUTE_MS
DECADE_MS: Final = 3_653 * 24 * HOUR_MS
ON_TIME_AGAIN_BARS: Final = 10
"""How many bars behind its last jump it may need until a whole cycle is on time."""

CYCLES_OF_A_BAR: Final = 2 + len(SYMBOLS)
"""One for the close, one for what is tried again, and one for each series that is waited for apart."""

CYCLES_OF_A_JUMP: Final = 3
REQUESTS_OF_A_BAR: Final = 12
"""For each series: it may ask every few seconds for a bar that it has reason to expect."""

REQUESTS_OF_A_START: Final = 40
DEADLINE_SECONDS: Final = 60.0


class Step(NamedTuple):
    """Something that happens to the clocks, and how many bars are then lived through."""

    machine: int = 0
    everybody: int = 0
    bars: float = 4.0


class Scene(NamedTuple):
    """When and where it begins, and what happens."""

    start: str
    steps: tuple[Step, ...]
    zone: str = "UTC"


_NEW_YORK: Final = "America/New_York"
SCENES: Final = {
    "an hour ahead": Scene("2024-05-14 12:30", (Step(machine=HOUR_MS), Step(machine=-HOUR_MS))),
    "an hour behind": Scene("2024-05-14 12:30", (Step(machine=-HOUR_MS), Step(machine=HOUR_MS))),
    "ten years ahead": Scene("2024-05-14 12:30", (Step(machine=DECADE_MS), Step(machine=-DECADE_MS))),
    "ten years behind": Scene("2024-05-14 12:30", (Step(machine=-DECADE_MS), Step(machine=DECADE_MS))),
    "an hour asleep": Scene("2024-05-14 12:30", (Step(everybody=HOUR_MS),)),
    "ten days asleep": Scene("2024-05-14 12:30", (Step(everybody=240 * HOUR_MS),)),
    "a minute to and fro": Scene("2024-05-14 12:30", (Step(MINUTE_MS, bars=1), Step(-MINUTE_MS, bars=1)) * 3),
    "spring forward": Scene("2024-03-10 06:55", (Step(bars=10),), _NEW_YORK),
    "fall back": Scene("2024-11-03 05:55", (Step(bars=10),), _NEW_YORK),
    "fall back, an hour ahead": Scene("2024-11-03 05:55", (Step(HOUR_MS), Step(-HOUR_MS)), _NEW_YORK),
    "leap day": Scene("2024-02-28 23:55", (Step(bars=10),)),
    "behind the leap day": Scene("2024-02-29 23:55", (Step(bars=10),)),
}


class Outcome(NamedTuple):
    """What a scene came to."""

    scene: str
    requests: int
    cycles: int
    wrong: list[str]


def play(name: str, fault: str = "") -> Outcome:
    """Let a service live through a scene, and look at what it did and stored; `fault` is for its world."""
    scene = SCENES[name]
    with tempfile.TemporaryDirectory() as folder:
        start = utc_ms(scene.start)
        with World(Path(folder), SYMBOLS, start, SPEED, fault) as world:
            service = world.start(world.write_config(exchange={"deadline": DEADLINE_SECONDS}), TZ=scene.zone)
            try:
                wrong = _live(world, service, scene)
            except RuntimeError as error:
                wrong = [str(error)]
            requests, cycles = len(world.exchange.requests), service.count("cycle.completed")
            return Outcome(name, requests, cycles, wrong)


def main() -> None:
    """Play the scenes, and print what was broken."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    plan = parser.parse_args()
    outcomes = [play(name) for name in track(plan.scenes, "scenes")]
    wrong = [f"{one.scene}: {text}" for one in outcomes for text in one.wrong]
    record = {
        "scenes": len(outcomes),
        "most_requests": max(one.requests for one in outcomes),
        "most_cycles": max(one.cycles for one in outcomes),
        "wrong": len(wrong),
        "first_wrong": wrong[:3],
    }
    sys.stdout.write(json.dumps(record) + "\n")
    sys.exit(bool(wrong))


def _live(world: World, service: Service, scene: Scene) -> list[str]:
    """Live through all steps, be on time again, end, and give what was wrong."""
    service.wait_for("daemon.ready")
    for step in scene.steps:
        world.sleep_through(step.everybody)
        world.clock.ahead += step.machine
        world.clock.sleep(step.bars * MINUTE_MS / 1000)
        if not service.is_running:
            return [f"ended by itself: {service.text[-3:]}"]
    _be_on_time(world, service, ON_TIME_AGAIN_BARS)
    lived = (world.clock.now() - utc_ms(scene.start)) / MINUTE_MS
    newest = newest_close(world.now(), MINUTE_MS) - MINUTE_MS
    service.signal(15)
    code = service.wait()
    wrong = ([f"ended with {code}"] if code else []) + service.failures()
    cycles = service.count("cycle.completed") + service.count("cycle.failed")
    wrong += storms(cycles, len(world.exchange.requests), lived, len(scene.steps))
    wrong += _untimely(world, utc_ms(scene.start))
    return wrong + faults(world.url, world.keys, newest)


def _be_on_time(world: World, service: Service, bars: int) -> None:
    """Wait for a cycle that forecasts the exchange's newest close of every series before the next one."""

    def is_on_time(one: dict[str, Any]) -> bool:
        if one["event"] != "cycle.completed" or abs(int(one["as_of"]) - world.now()) > MINUTE_MS:
            return False
        return int(one["forecasts"]) - int(one["late"]) >= len(SYMBOLS)

    heard, seconds = len(service.events), bars * MINUTE_MS / 1000 / SPEED
    wait_until(lambda: any(map(is_on_time, service.events[heard:])), "a cycle on time", seconds + 8)


def storms(cycles: int, requests: int, lived: float, jumps: int) -> list[str]:
    """Whether a service did more than the bars and jumps that it lived through can explain."""
    most = CYCLES_OF_A_BAR * lived + CYCLES_OF_A_JUMP * (jumps + 1)
    wrong = [f"{cycles} cycles in {lived:.0f} bars"] if cycles > most else []
    allowed = REQUESTS_OF_A_BAR * len(SYMBOLS) * lived + REQUESTS_OF_A_START
    return wrong + ([f"{requests} requests in {lived:.0f} bars"] if requests > allowed else [])


def _untimely(world: World, began: int) -> list[str]:
    """Forecasts that pass for timely and are not: of bars to come, or of closes from before there was a service."""
    timely = [name for name, (one, *_) in forecasts(world.url).items() if not one.late]
    wrong = [f"{name} is of a time to come" for name in timely if name.cutoff > world.now()]
    return wrong + [f"{name} passes for timely" for name in timely if name.cutoff < began - MINUTE_MS]


if __name__ == "__main__":
    main()
