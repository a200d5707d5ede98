"""Whether `as_of` means as of then: questions asked of a growing ledger, and asked again once it has grown.

Two series are forecast at irregular times, from bars that come late, are revised, or are missing for a while. Beside
them stand predictions by hand and a replay. Questions are put between cycles and in the middle of them (while a source
is waited for, while a model works, before a commit, where the program stands still now and then), as of now or of any
time before, most often as of the very moment of some stamp or a millisecond before it. Each is put again some cycles
later: the answers must have the same bytes.

`python -m tests.faults.as_of --pairs 10000` tells how many differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import heapq
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np
from rich.progress import Progress

from forecaster import Bars, Forecaster
from forecaster.accuracy.report.content import Scope
from forecaster.cli.strategy import _signal
from forecaster.client import report_section
from forecaster.config import Config
from forecaster.errors import BarsError, ConfigError
from forecaster.model import ModelSuite
from forecaster.model.baselines.random_walk import RandomWalk
from forecaster.replay import run_replay
from forecaster.sources import Fetched
from forecaster.store.sql import SqlStore
from strategies.trend import trend
from tests.builders import HOUR_MS, make_bars, make_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from forecaster.bars import SeriesKey
    from forecaster.context import Context
    from forecaster.forecast import OHLCForecast

KEYS: Final = (make_key(symbol="BTC/USDT"), make_key("file", "ES/USD", "1h", "CMES"))
FIRST: Final = 80
_DAY_MS: Final = 24 * HOUR_MS
_SLOW: Final = 0.03
_SLOW_SECONDS: Final = 0.15
"""So often, and for so long, the program stands still where it is asked within its work: longer than it allows for."""


class Asked(NamedTuple):
    """A question: when it comes up again, which it was, as of when, and the digest of its answer."""

    again: int
    number: int
    name: str
    key: SeriesKey
    as_of: int
    answer: str


class NamedWalk(RandomWalk):
    """The random walk under the configured model's name; it lets the test ask while it works."""

    name = "nano"
    at_work: Callable[[], None] = staticmethod(lambda: None)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        """Forecast."""
        self.at_work()
        return super().predict(contexts, horizon)


class Source:
    """Bars that come when they should, or later, and change now and then; all of it decided by the seed."""

    def __init__(self, bars: Sequence[Bars], seed: int, at_work: Callable[[], None]) -> None:
        chance = np.random.default_rng(seed)
        self._bars = {one.key: one for one in bars}
        late = [chance.random(len(one)) < 0.1 for one in bars]
        self._come_at = {
            one.key: one.close_time + np.where(is_late, chance.integers(1, 5, len(one)) * HOUR_MS, 0)
            for one, is_late in zip(bars, late, strict=True)
        }
        self._change_at = {
            one.key: np.where(chance.random(len(one)) < 0.2, one.close_time + 2 * HOUR_MS, 2**62) for one in bars
        }
        self._at_work = at_work

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        """Give the bars that have come by `as_of`, as they are then."""
        self._at_work()
        bars = self._bars[key]
        chosen = (bars.open_time >= (since or 0)) & (self._come_at[key] <= as_of)
        values_TF = bars.ohlcv_TF.copy()
        values_TF[self._change_at[key] <= as_of, 4] += 1.0
        return Fetched(Bars(key, bars.open_time[chosen], values_TF[chosen]), [])

    def close(self) -> None:
        """Nothing is open."""


class AskingStore(SqlStore):
    """A store that lets the test ask before bars and forecasts are committed, and that takes its time now and then."""

    at_work: Callable[[], None] = staticmethod(lambda: None)

    def add_bars(self, *given: object) -> int:
        """Write."""
        self.at_work()
        added = super().add_bars(*given)
        self.at_work()
        return added

    def add_forecasts(self, *batch: object) -> int:
        """Write."""
        self.at_work()
        return super().add_forecasts(*batch)


class Growing:
    """A ledger that grows by a cycle at a time, and the questions that were put to it."""

    def __init__(self, folder: Path, seed: int, cycles: int, forecaster: type[Forecaster] = Forecaster) -> None:
        self._chance = random.Random(seed)  # noqa: S311 - a test, not a secret
        self._bars = [make_bars(key, FIRST + cycles + 30, seed=seed + i) for i, key in enumerate(KEYS)]
        self._model, self._store = NamedWalk(), AskingStore(f"sqlite:///{folder}/ledger.db")
        source = Source(self._bars, seed, self._ask_within)
        config = Config.model_validate({
            "series": [
                {"exchange": one.exchange, "symbol": one.symbol, "timeframe": "1h", "calendar": one.calendar}
                | {"file": "x"}
                for one in KEYS
            ],
            "model": {"context": 64, "min_context": 16, "horizon": 3},
            "store": {"url": f"sqlite:///{folder}/ledger.db"},
        })  # fmt: skip
        models = ModelSuite(self._model, [RandomWalk()])
        self._writer = forecaster(config, self._store, dict.fromkeys(KEYS, source), models)
        self._reader = Forecaster(config, models=models)
        self._began, self._as_of = time.perf_counter(), 0
        self._closes = iter(np.unique(np.concatenate([one.close_time[FIRST:] for one in self._bars])).tolist())
        self._stamps: list[int] = []
        self.asked: list[Asked] = []
        self.cycle = 0
        self.replay = ""
        self.differences: list[str] = []
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
        self._writer.close()

    @property
    def now(self) -> int:
        """The test's own clock, UTC ms; it goes on while the program works."""
        return self._as_of + round((time.perf_counter() - self._began) * 1000)

    def grow(self) -> None:
        """Go on to a later close, and take a cycle; now and then predict by hand, or replay."""
        close = next(self._closes)
        while self._chance.random() < 0.15:  # nobody ran
            close = next(self._closes)
        self._as_of, self._began = close + self._chance.randrange(60_000), time.perf_counter()
        self._model.at_work = self._store.at_work = self._ask_within
        report = self._writer.run_cycle(self._writer.timeframes[0], self._as_of)
        self._model.at_work = self._store.at_work = lambda: None
        self._stamps += [time for one in report.forecasts for time in (one.issued_at or 0, one.available_at or 0)]
        self._stamps += [int(self._store.bars(key).first_seen_at.max(initial=0)) for key in KEYS]
        if self._chance.random() < 0.1:
            self._writer.predict(self._store.bars(KEYS[0]))
        if self.cycle == 1:
            self.replay = run_replay(self._writer, self._bars[0][:FIRST]).id
        self.cycle += 1

    def ask(self, count: int) -> None:
        """Put some questions, and again those whose time has come."""
        for _ in range(count):
            self._put(self._chance.choice(list(QUESTIONS) if self.replay else CHEAP))
        while self.asked and self.asked[0].again <= self.cycle:
            self._compare(heapq.heappop(self.asked))

    def finish(self) -> None:
        """Put all again that were not yet."""
        for one in sorted(self.asked):
            self._compare(one)
        self.asked.clear()

    def _ask_within(self) -> None:
        """While the program is at work."""
        if self._chance.random() < _SLOW:
            time.sleep(_SLOW_SECONDS)
        if self.cycle > 1:
            self._put(self._chance.choice(CHEAP), is_now=True)

    def _put(self, name: str, *, is_now: bool = False) -> None:
        key, as_of = self._chance.choice(KEYS), self.now
        if not is_now and self._stamps and self._chance.random() < 0.8:
            recent = self._stamps[-40:] if self._chance.random() < 0.5 else self._stamps
            as_of = min(as_of, self._chance.choice(recent) - self._chance.randrange(2))
        again = self.cycle + 1 + int(self._chance.expovariate(0.2))
        answer = self._answer(name, key, as_of)
        heapq.heappush(self.asked, Asked(again, len(self.asked) + self.counts.total(), name, key, as_of, answer))

    def _answer(self, name: str, key: SeriesKey, as_of: int) -> str:
        try:
            answer = QUESTIONS[name](self, self._reader, key, as_of)
        except (BarsError, ConfigError) as error:
            answer = f"{type(error).__name__}: {error}"
        return digest_of(answer)

    def _compare(self, one: Asked) -> None:
        self.counts[one.name] += 1
        if self._answer(one.name, one.key, one.as_of) != one.answer:
            self.differences.append(f"{one.name} of {one.key} as of {one.as_of}")


def digest_of(answer: object) -> str:
    """Digest of all that an answer holds, arrays byte by byte."""
    digest = hashlib.sha256()

    def take(part: object) -> None:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        elif dataclasses.is_dataclass(part) and not isinstance(part, type):
            for field in dataclasses.fields(part):
                digest.update(field.name.encode())
                take(getattr(part, field.name))
        elif isinstance(part, dict):
            take(sorted(map(repr, part.items())))
        elif isinstance(part, list | tuple):
            digest.update(f"{len(part)}[".encode())
            for one in part:
                take(one)
        else:
            digest.update(f"{part!r}|".encode())

    take(answer)
    return digest.hexdigest()


QUESTIONS: Final[dict[str, Callable[[Growing, Forecaster, SeriesKey, int], object]]] = {
    "Reader.bars": lambda _, f, key, at: f.reader.bars(key, as_of=at),
    "Reader.settled": lambda _, f, key, at: list(f.reader.settled(key, at)),
    "Reader.settled since": lambda _, f, key, at: list(f.reader.settled(key, at, at - _DAY_MS)),
    "Reader.settled_between": lambda _, f, __, at: f.reader.settled_between(at, at - 3 * HOUR_MS),
    "Forecaster.latest": lambda _, f, key, at: f.latest(key, as_of=at, max_age="any"),
    "Forecaster.history": lambda _, f, key, at: f.history(key, at - _DAY_MS, at, as_of=at),
    "Forecaster.accuracy": lambda _, f, __, at: f.accuracy(as_of=at),
    "Forecaster.accuracy of 1d": lambda _, f, __, at: f.accuracy("1d", as_of=at),
    "Forecaster.accuracy of a replay": lambda g, f, __, at: f.accuracy(as_of=at, run=g.replay),
    "Forecaster.losses": lambda _, f, key, at: list(f.losses(as_of=at, keys=[key])),
    "Forecaster.trust": lambda _, f, key, at: f.trust(key, as_of=at),
    "report": lambda _, f, key, at: report_section(f.reader, key, Scope(f.model_name, "live", at)),
    "signal": lambda _, f, key, at: json.dumps(_signal(f, key, trend, 0.0, at)),
}
"""Every read that takes a time."""

CHEAP: Final = ("Reader.bars", "Forecaster.latest", "Forecaster.history", "Reader.settled")


def play(
    pairs: int, seed: int, folder: Path, forecaster: type[Forecaster] = Forecaster, per_cycle: int = 40
) -> Growing:
    """Grow a ledger until so many questions were put, and put each again."""
    cycles = pairs // per_cycle + 1
    with Growing(folder, seed, 2 * cycles, forecaster) as growing, Progress(transient=True) as progress:
        task = progress.add_task("cycles", total=cycles)
        for _ in range(cycles):
            growing.grow()
            growing.ask(per_cycle)
            progress.advance(task)
        growing.finish()
    return growing


def main() -> None:
    """Play once, and tell what differed."""
    parser = argparse.ArgumentParser(description="Ask a growing ledger as of a time, and again later.")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        growing = play(given.pairs, given.seed, Path(folder))
    record = {"pairs": growing.counts.total(), "cycles": growing.cycle, "differences": len(growing.differences)}
    sys.stdout.write(json.dumps(record | {"by question": dict(sorted(growing.counts.items()))}) + "\n")
    for one in growing.differences[:20]:
        sys.stdout.write(f"{one}\n")
    sys.exit(bool(growing.differences))


if __name__ == "__main__":
    main()
