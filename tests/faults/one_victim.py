"""The whole service while one symbol of an exchange goes wrong: when do the forecasts of the others come?

`python -m tests.faults.one_victim --series 20 --closes 4`. One `forecaster run` with its default patience, in real time
unless told otherwise, against a loopback exchange that lets one symbol down, scene by scene, for so many closes of a
minute each. The others must be forecast as soon as when all is well, and nobody's close may be left without a word.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from forecaster.clock import now_ms
from forecaster.store import open_reader
from tests.faults.account import Name, faults, forecasts, newest_close
from tests.faults.kill_daemon import last_cycle
from tests.faults.world import MINUTE_MS, World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from forecaster.bars import SeriesKey
    from tests.faults.exchange import LoopbackExchange
    from tests.faults.world import Service

SERIES: Final = 20
CLOSES: Final = 4
ALL_WELL: Final = "all well"
WELL_AGAIN: Final = "all well again"
TURN_MS: Final = 50_000
"""How long after a close a scene ends, and the next one begins."""

SLACK_SECONDS: Final = 0.5
"""How much later than when all is well the others may be forecast."""

MODEL: Final = "nano"
ALWAYS: Final = 1_000_000
OURS: Final = ("timeout", "deadline", "late_after", "final_after")
"""Settings of an exchange for which the defaults of the program are taken."""


def _fall_quiet(exchange: LoopbackExchange, victim: str) -> None:
    exchange.halt(victim, exchange.now // MINUTE_MS * MINUTE_MS)


SCENES: Final[dict[str, Callable[[LoopbackExchange, str], None]]] = {
    ALL_WELL: lambda _exchange, _victim: None,
    "no new bar": _fall_quiet,
    "answers by drops": lambda exchange, victim: exchange.fail_next("drip", times=ALWAYS, symbol=victim),
    "does not answer": lambda exchange, victim: exchange.fail_next("delay", times=ALWAYS, symbol=victim),
    "answers 500": lambda exchange, victim: exchange.fail_next("status", times=ALWAYS, status=500, symbol=victim),
    "unknown": lambda exchange, victim: exchange.delist(victim),
    "a price far off, once": lambda exchange, victim: exchange.fail_next("far", symbol=victim),
    WELL_AGAIN: lambda _exchange, _victim: None,
}


@dataclass
class Forecasts:
    """What a scene brought some series: seconds from close to available of each forecast, late ones and missing ones.

    `reasons` counts what is said of the closes that have no forecast.
    """

    seconds: list[float] = field(default_factory=list)
    late: int = 0
    missing: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def median(self) -> float:
        """In the middle, s; not a number when there is no forecast."""
        return median(self.seconds) if self.seconds else float("nan")

    @property
    def longest(self) -> float:
        """The longest, s; not a number when there is no forecast."""
        return max(self.seconds, default=float("nan"))

    def record(self) -> dict[str, object]:
        """What is printed of it; without a forecast, times are null."""
        figures = {"median": self.median, "max": self.longest}
        rounded = {name: round(figure, 2) if self.seconds else None for name, figure in figures.items()}
        counts = {"forecasts": len(self.seconds), "late": self.late, "missing": self.missing}
        return counts | rounded | ({"reasons": dict(self.reasons)} if self.reasons else {})


class Scene(NamedTuple):
    """What a scene was, the closes in it (UTC ms), and what it brought the others and the victim."""

    name: str
    closes: Sequence[int]
    others: Forecasts
    victim: Forecasts


class Outcome(NamedTuple):
    """All scenes, and what is wrong with the service or its ledger at the end."""

    scenes: list[Scene]
    wrong: list[str]


def play(
    series: int = SERIES,
    closes: int = CLOSES,
    speed: int = 1,
    scenes: Sequence[str] = tuple(SCENES),
    fault: str = "",
    on_close: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Play scenes one after the other in one world.

    Args:
        series: how many there are, of which one is the victim.
        closes: how many each scene takes.
        speed: how many of the world's seconds a real one has.
        scenes: their names.
        fault: for the world.
        on_close: told the scene as each close is over.
    """
    symbols = [f"COIN{i}/USDT" for i in range(series)]
    with tempfile.TemporaryDirectory() as folder, World(Path(folder), symbols, now_ms(), speed, fault) as world:
        keys = world.keys
        service = world.start(world.write_config(exchange=dict.fromkeys(OURS)))
        try:
            service.wait_for("daemon.ready")
            _turn(world)
            windows = [(name, _live(world, keys[0], name, closes, on_close)) for name in scenes]
            wrong = _end(world, service, keys, windows[0][1].start - MINUTE_MS)
        except RuntimeError as error:
            return Outcome([], [str(error)])
        return Outcome([_look(world.url, keys, name, window) for name, window in windows], wrong)


def lost_time(scenes: Sequence[Scene]) -> list[str]:
    """In which scenes the others were forecast later than in the better of those in which all was well."""
    well = [one.others for one in scenes if one.name in (ALL_WELL, WELL_AGAIN) and one.others.seconds]
    if not well:
        return ["no scene in which all is well has a forecast"]
    usual = {"median": min(one.median for one in well), "max": min(one.longest for one in well)}
    found = [(one.name, {"median": one.others.median, "max": one.others.longest}) for one in scenes]
    return [
        f"{scene}: the {what} of the others is {figures[what]:.2f} s, where all is well {usual[what]:.2f} s"
        for scene, figures in found
        for what in usual
        if not figures[what] <= usual[what] + SLACK_SECONDS
    ]


def late_or_missing(scenes: Sequence[Scene]) -> list[str]:
    """In which scenes forecasts of the others were late or missing."""
    return [
        f"{one.name}: of the others {one.others.late} late, {one.others.missing} missing {dict(one.others.reasons)}"
        for one in scenes
        if one.others.late or one.others.missing
    ]


def main() -> None:
    """Let one symbol after another way down, and print what that cost the others."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--series", type=int, default=SERIES)
    parser.add_argument("--closes", type=int, default=CLOSES, help="of each scene")
    parser.add_argument("--speed", type=int, default=1, help="seconds of the world that a real one has")
    parser.add_argument(
        "--scenes", nargs="+", choices=SCENES, default=list(SCENES), help="bars of the last one's victim may be missing"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON in place of the table")
    plan = parser.parse_args()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("begins", total=len(plan.scenes) * plan.closes)

        def on_close(scene: str) -> None:
            progress.update(task, description=scene, advance=1)

        scenes, wrong = play(plan.series, plan.closes, plan.speed, plan.scenes, on_close=on_close)
    wrong += late_or_missing(scenes) + lost_time(scenes)
    record = {
        "series": plan.series,
        "closes": plan.closes,
        "speed": plan.speed,
        "scenes": {one.name: {"others": one.others.record(), "victim": one.victim.record()} for one in scenes},
        "wrong": wrong,
    }
    sys.stdout.write((json.dumps(record) if plan.json else _table(scenes, wrong)) + "\n")
    sys.exit(bool(wrong))


def _turn(world: World) -> None:
    """Wait for the end of a scene: until the newest close is so long ago."""
    world.clock.sleep(((TURN_MS - world.now()) % MINUTE_MS) / 1000)


def _live(world: World, victim: SeriesKey, name: str, closes: int, on_close: Callable[[str], None]) -> range:
    """Live through a scene; gives the closes in it."""
    SCENES[name](world.exchange, victim.symbol)
    first = newest_close(world.now(), MINUTE_MS) + MINUTE_MS
    for number in range(closes):
        end = first + number * MINUTE_MS + TURN_MS
        world.clock.sleep(max(0, end - world.now()) / 1000)
        on_close(name)
    world.exchange.recover()
    world.exchange.halted.clear()
    world.exchange.symbols.add(victim.symbol)
    return range(first, first + closes * MINUTE_MS, MINUTE_MS)


def _end(world: World, service: Service, keys: Sequence[SeriesKey], since: int) -> list[str]:
    """End the service; gives what is wrong with it, its ledger, and the bars in that from a time on (UTC ms)."""
    service.signal(signal.SIGTERM)
    code = service.wait()
    wrong = ([f"ended with {code}"] if code else []) + service.failures()
    until = newest_close(last_cycle(service), MINUTE_MS)
    wrong += faults(world.url, keys, until)
    counts = {key: _wrong_bars(world, key, since, until) for key in keys}
    return wrong + [f"{key}: wrong bars: {count}" for key, count in counts.items() if count]


def _wrong_bars(world: World, key: SeriesKey, start: int, end: int) -> int:
    """How many bars of a series are other in the ledger than at the exchange, or missing from it."""
    with closing(open_reader(world.url)) as reader:
        bars = reader.bars(key, start, end)
    true = world.exchange.rows(key.symbol, "1m", start, end)
    there = np.column_stack([bars.open_time, bars.ohlcv_TF]).tolist()
    return len({row[0] for row in {*true} ^ {tuple(row) for row in there}})


def _look(url: str, keys: Sequence[SeriesKey], name: str, closes: Sequence[int]) -> Scene:
    """Look up what a scene brought the first series, the victim, and the others."""
    made = forecasts(url)
    found = Forecasts(), Forecasts()
    with closing(open_reader(url)) as reader:
        for number, key in enumerate(keys):
            mine = found[number == 0]
            slots = {slot.cutoff: slot for slot in reader.pending_forecasts(key, closes[0], closes[-1] + 1)}
            for cutoff in closes:
                if one := made.get(Name(str(key), cutoff, MODEL)):
                    mine.seconds.append((one[0].available_at - cutoff) / 1000)
                    mine.late += one[0].late
                else:
                    slot = slots.get(cutoff)
                    mine.missing += 1
                    mine.reasons[f"{slot.state}: {slot.reason:.80}" if slot else "no work"] += 1
    return Scene(name, closes, *found)


def _table(scenes: Sequence[Scene], wrong: Sequence[str]) -> str:
    """Write a line for the others and the victim of each scene, and one for each fault."""
    lines = [f"{'scene':22} {'':7} forecasts  median     max  late  missing"]
    for scene in scenes:
        for who, one in (("others", scene.others), ("victim", scene.victim)):
            figures = f"{len(one.seconds):9} {one.median:7.2f} {one.longest:7.2f} {one.late:5} {one.missing:8}"
            lines.append(f"{scene.name:22} {who:7} {figures} {', '.join(one.reasons)}".rstrip())
    return "\n".join([*lines, *(f"wrong: {text}" for text in wrong)])


if __name__ == "__main__":
    main()
