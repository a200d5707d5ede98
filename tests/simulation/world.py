"""The seeded world of a simulation: its clocks, what its exchanges serve, and doubles of the ports that fail.

The doubles stand where the real program meets the world: a source for an exchange, a model around a baseline, a store
around `SqlStore`. All that is random comes from the seed and the name of the occasion, so neither the order of threads
nor the machine has a say.

Shapes: C price fields, F fields of `Bars`, T bars.
"""

from __future__ import annotations

import dataclasses
import random
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from unittest.mock import patch

import numpy as np
import sqlalchemy as sa

from forecaster import engine
from forecaster.bars import Bars, SeriesKey
from forecaster.config import Config
from forecaster.cycle import ingest as intake
from forecaster.errors import BadPayload, Banned, InferenceError, NonFiniteForecast, SourceUnavailable, StoreUnavailable
from forecaster.forecast import ModelId, OHLCForecast
from forecaster.model import ModelSuite, load_baselines
from forecaster.sources import Fetched, fetch_pool
from forecaster.store import lease
from forecaster.store.sqlite import SqliteFile
from forecaster.store.sqlite_library import sqlite3
from forecaster.timeframe import DAY_MS
from tests.builders import HOUR_MS, utc_ms
from tests.simulation.faults import EVERYTHING, Faults, Rates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from forecaster.context import Context
    from forecaster.model import Model
    from forecaster.store.sql import SqlStore

START: Final = utc_ms("2026-03-02")
"""Six days before American clocks are put forward."""

CONTEXT: Final = 32
MIN_CONTEXT: Final = 16
HORIZON: Final = 2
MODEL: Final = "nano"
BASELINES: Final = ("random_walk",)
_KEPT_LEVELS: Final = (2, 10, 18)
_LATE_MS: Final = 120_000
"""The least that a late bar is late; the most is 150 times as much."""

_FETCH_DEADLINE_MS: Final = 30_000
WRITES: Final = ("add_bars", "quarantine", "add_gaps", "hold", "add_run", "add_forecasts", "set_pending", "transaction")

WRITE_MS: Final = 1
READ_MS: Final = 1
"""How long a call of the store takes."""

KEYS: Final = tuple(
    SeriesKey(exchange, f"{base}/USD", timeframe, calendar)
    for exchange, timeframe, calendar, names in (
        ("alpha", "1h", "24/7", "AB"),
        ("alpha", "4h", "24/7", "ABC"),
        ("alpha", "1d", "24/7", "ABC"),
        ("alpha", "1d", "XNYS", "MN"),
        ("beta", "1h", "24/7", "A"),
        ("beta", "4h", "24/7", "ABC"),
        ("beta", "4h", "XNYS", "M"),
        ("beta", "1d", "24/7", "AB"),
        ("beta", "1d", "XNYS", "MNO"),
    )
    for base in names
)


class Killed(BaseException):
    """The process ends here, as by SIGKILL: nothing of it goes on."""


class Clock:
    """True time, the machine's wall clock, which may be wrong, and the time that work takes.

    What is asked side by side only tells when it will be done; time goes on when the answers are waited for.
    """

    def __init__(self, now: int) -> None:
        self.now = now
        self.offset = 0
        self.began = now
        self._reached = now

    @property
    def wall(self) -> int:
        """UTC ms by the machine's clock."""
        return self.now + self.offset

    def begin(self, at: int) -> None:
        """Go to a time, back as well: another worker begins there."""
        self.now = self.began = self._reached = at

    def spend(self, ms: float) -> None:
        """Let work take so long."""
        self.now = max(self.now, self._reached) + round(ms)

    def reach(self, at: int) -> None:
        """Say that something will be done at this time; whoever measures next has waited for it."""
        self._reached = max(self._reached, at)

    def seconds(self) -> float:
        """What stands in for the performance counter."""
        self.spend(0)
        return self.now / 1000


class Truth:
    """What happened in one series: its bars, when each could first be had, and which were corrected, and when."""

    def __init__(self, seed: int, key: SeriesKey, rates: Rates, end: int) -> None:
        random_ = np.random.default_rng([seed, KEYS.index(key)])
        sessions, step = key.trading_calendar, key.timeframe.ms
        first = int(sessions.last_opens(key.timeframe, START, CONTEXT + 8)[0])
        self.open_T = sessions.opens_between(key.timeframe, first, end)
        self.close_T = sessions.closes_of(key.timeframe, self.open_T)
        n = len(self.open_T)
        self.values_TF = _prices(random_, n)
        self.traded_T = random_.random(n) >= rates.missing
        is_late_T = random_.random(n) < rates.late
        self.available_T = self.close_T + is_late_T * (_LATE_MS * np.exp(random_.uniform(0, 5, n))).astype(np.int64)
        self.is_revised_T = random_.random(n) < rates.revised
        self.revised_TF = np.where(self.is_revised_T[:, None], self.values_TF * 1.001, self.values_TF).round(4)
        self.revised_at_T = self.available_T + (step * np.exp(random_.uniform(-3, 1, n))).astype(np.int64)

    def served(self, now: int, since: int) -> tuple[np.ndarray, np.ndarray]:
        """What the exchange gives at a time: open times (T,) and values (T, F); the last bar may still form."""
        chosen = self.traded_T & (self.open_T >= since) & (self.open_T <= now)
        chosen &= (self.available_T <= now) | (self.close_T > now)
        at = np.flatnonzero(chosen)
        values_TF = np.where((self.revised_at_T[at] <= now)[:, None], self.revised_TF[at], self.values_TF[at])
        forms = self.close_T[at] > now
        values_TF[forms] = values_TF[forms][:, [0, 0, 0, 0, 4]]
        return self.open_T[at], values_TF

    def explains(self, open_T: np.ndarray, ohlc_CT: np.ndarray, now: int) -> bool:
        """Whether every price is one that the exchange had given by now; a slot without one is no lie."""
        at = np.searchsorted(self.open_T, open_T)
        if (at >= len(self.open_T)).any() or (self.open_T[at] != open_T).any():
            return False
        first, revised = (one[at, :4].T for one in (self.values_TF, self.revised_TF))
        good_T = np.isnan(ohlc_CT).all(axis=0)
        good_T |= (ohlc_CT == first).all(axis=0) & (self.available_T[at] <= now)
        good_T |= (ohlc_CT == revised).all(axis=0) & (self.revised_at_T[at] <= now)
        good_T |= (ohlc_CT == first[:1]).all(axis=0) & (open_T <= now)  # while it formed
        return bool(good_T.all())


class Asked(NamedTuple):
    """One question to a source: when, by true time, and whether it was answered in full, up to which open time."""

    at: int
    newest: int | None


class World:
    """Everything around one simulated service. One seed, one world.

    Args:
        seed: of all that is random.
        days: how long it lasts.
        folder: where the ledger lies.
        rates: how often things go wrong; drawn from the seed when left out.
    """

    def __init__(self, seed: int, days: float, folder: Path, rates: Rates | None = None) -> None:
        self.seed = seed
        self.end = START + round(days * DAY_MS)
        self.rates = Rates.drawn(seed) if rates is None else rates
        self.clock = Clock(START)
        self.path = folder / "ledger.db"
        self.truth = {key: Truth(seed, key, self.rates, self.end + 30 * DAY_MS) for key in KEYS}
        exchanges = sorted({key.exchange for key in KEYS})
        subjects: dict[str, Sequence[str]] = dict.fromkeys(("outage", "ban", "clock", "slow"), exchanges)
        subjects |= {"sick": [str(key) for key in KEYS], "baseline": BASELINES}
        self.faults = Faults(seed, self.rates, subjects, (START + 2 * HOUR_MS, self.end))
        self.dice = self.chance("dice")
        self.asked: dict[SeriesKey, Asked] = {}
        self.requests = 0
        self.log: list[str] = []
        self.config = _config(seed, self.url)
        self.on_asked: Callable[[str, Sequence[Context]], None] = lambda _, __: None
        self.on_acknowledged: Callable[[Sequence[OHLCForecast], str], None] = lambda _, __: None
        self.on_call: Callable[[ShakyStore, str], None] = lambda _, __: None

    @property
    def url(self) -> str:
        """The ledger's."""
        return f"sqlite:///{self.path}"

    def chance(self, *names: object) -> random.Random:
        """Randomness of one occasion, whatever else happens."""
        return random.Random(" ".join(map(str, (self.seed, *names))))  # noqa: S311 - a world, not a secret

    def tell(self, event: str, **facts: object) -> None:
        """Write a line of the log; it holds nothing but what the seed decides."""
        said = " ".join(f"{name}={value}" for name, value in facts.items()).replace(str(self.path.parent), "")
        self.log.append(f"{moment(self.clock.now)} {event} {said}")

    def models(self) -> ModelSuite:
        """The model, a random walk under its name, and the baselines; all of them may fail."""
        known = load_baselines(self.config.model)
        return ModelSuite(ShakyModel(self, known[0], MODEL), [ShakyModel(self, one) for one in known])


class ShakySource:
    """An exchange behind a guarded client: slow, down, banning, late, wrong about the time, or giving rubbish."""

    def __init__(self, world: World, exchange: str) -> None:
        self._world = world
        self._exchange = exchange
        self._attempts: dict[tuple[SeriesKey, int], int] = {}

    def fetch(self, key: SeriesKey, since: int | None, as_of: int) -> Fetched:
        world, began = self._world, self._world.clock.began
        attempt = self._attempts[key, began] = self._attempts.get((key, began), 0) + 1
        chance = world.chance("fetch", key, began, attempt)
        world.clock.reach(began + attempt * chance.randrange(50, 600))
        world.requests += 1
        world.asked[key] = Asked(began, None)
        if chance.random() < world.rates.kill:
            raise Killed
        self._refuse(key, began, chance)
        opens, values_TF = world.truth[key].served(began, 0 if since is None else since)
        wrong = world.faults.at("clock", self._exchange, began)
        closed_by = min(as_of, began + (round(wrong.size) if wrong else 0))
        closed = key.trading_calendar.closes_of(key.timeframe, opens) <= closed_by
        opens, values_TF = opens[closed], values_TF[closed]
        world.asked[key] = Asked(began, int(opens[-1]) if len(opens) else None)
        if chance.random() < world.rates.garbage:
            opens, values_TF = _with_rubbish(opens, values_TF, chance)
        return Fetched(*Bars.validate_rows(key, opens, values_TF, as_of))

    def close(self) -> None:
        pass

    def _refuse(self, key: SeriesKey, now: int, chance: random.Random) -> None:
        """Answer with an error where the world says so."""
        world = self._world
        if world.faults.at("outage", self._exchange, now):
            world.clock.reach(now + _FETCH_DEADLINE_MS)
            raise SourceUnavailable(self._exchange, f"{key.symbol}: no answer within 10 s")
        if (ban := world.faults.at("ban", self._exchange, now)) is not None:
            raise Banned(self._exchange, f"{key.symbol}: 418", (ban.end - now) / 1000)
        if chance.random() < world.rates.garbage:
            raise BadPayload(self._exchange, "rows", "<html>", "<html>maintenance</html>")


class ShakyModel:
    """A baseline, under its own name or another, that fails when the world says so; with three quantile levels."""

    engine = "numpy"
    engine_reason = "a closed formula"

    def __init__(self, world: World, model: Model, name: str | None = None) -> None:
        self.name = name or model.name
        self._world = world
        self._model = model
        self._said = name or ""

    @property
    def id(self) -> ModelId:
        return ModelId.of(self.name, self._model.id.digest)

    def predict(self, contexts: Sequence[Context], horizon: int) -> list[OHLCForecast]:
        world, now = self._world, self._world.clock.now
        world.on_asked(self.name, contexts)
        for exchange in sorted({one.key.exchange for one in contexts}):
            slow = world.faults.at("slow", exchange, now) if self._said else None
            world.clock.spend(world.dice.randrange(100, 2000) + (slow.size if slow else 0))
        if world.dice.random() < world.rates.kill * len(contexts):
            raise Killed
        subject, kind = (EVERYTHING, "model") if self._said else (self.name, "baseline")
        if world.faults.at(kind, subject, now):
            raise InferenceError(f"{self.name}: broken")
        for one in contexts if self._said else ():
            if (sick := world.faults.at("sick", str(one.key), now)) is not None:
                raise NonFiniteForecast(one.key, one.cutoff) if sick.size < 0 else InferenceError(f"{one.key}: broken")
        return [self._renamed(one) for one in self._model.predict(contexts, horizon)]

    def _renamed(self, made: OHLCForecast) -> OHLCForecast:
        levels = tuple(made.quantile_levels[i] for i in _KEPT_LEVELS)
        raw_FHQ, values_FHQ = made.raw_FHQ[:, :, _KEPT_LEVELS], made.values_FHQ[:, :, _KEPT_LEVELS]
        about = dataclasses.replace(made.provenance, model_id=self.name)
        return OHLCForecast(made.key, made.cutoff, levels, raw_FHQ, values_FHQ, about)


class ShakyStore:
    """A store whose database fails, and in which the process dies: before a call, within it, or behind its COMMIT."""

    def __init__(self, world: World, store: SqlStore) -> None:
        self._world = world
        self._store = store
        self._fuse: tuple[int, BaseException] | None = None
        store._lease._ending.set()  # no thread of ours: the lease is kept by writing
        self._is_together = False
        self._reader = SqliteFile(world.path)  # reads need no SQLAlchemy, and are ten times as fast without
        store._query = self._reader.query
        sa.event.listen(store._database.engine, "before_cursor_execute", self._burn)

    def __getattr__(self, name: str) -> Any:
        return partial(self._call, name)

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        """One transaction for a whole block that writes; what is read in it is read through it."""
        if not write:
            self._begin("read", ("before",))
            yield
            return
        fault = self._begin("transaction", ("before", "behind"))
        self._store._query, self._is_together = self._store._database.query, True
        try:
            with self._store.transaction():
                yield
        finally:
            self._store._query, self._is_together = self._reader.query, False
        if fault is not None:  # all is done, and the caller does not know it
            raise fault

    def die(self) -> None:
        """Do what the kernel does with a process that is gone: its locks are free, its transactions undone."""
        self._reader.close()
        self._store._database.close()
        self._store._lease._lock.release()

    def close(self) -> None:
        """Let go of everything, as at an end in order."""
        self._reader.close()
        self._store.close()

    def _call(self, name: str, *given: Any, **named: Any) -> Any:
        fault = self._begin(name, ("before", "within", "behind") if name in WRITES else ("before",))
        try:
            answer = getattr(self._store, name)(*given, **named)
        finally:
            self._fuse = None
        if fault is not None:  # all is done, and the caller does not know it
            raise fault
        if name == "add_forecasts":
            self._world.on_acknowledged(given[0], given[1])
        return answer

    def _begin(self, name: str, places: Sequence[str]) -> BaseException | None:
        """Draw what goes wrong in a call: raise it, set a fuse for it, or return what to raise when all is done."""
        world = self._world
        world.clock.spend(WRITE_MS if name in WRITES else READ_MS)
        if not self._is_together:  # else the frozen process would hold the database's lock
            world.on_call(self, name)
        which = world.dice.random()
        kill, refuse = world.rates.kill, world.rates.store
        if which >= kill + refuse:
            return None
        fault: BaseException = Killed() if which < kill else StoreUnavailable(world.url, "disk I/O error")
        where = world.dice.choice(places)
        world.tell("fault", call=name, where=where, error=type(fault).__name__)
        if where == "before":
            raise fault
        if where == "within":
            inside = fault if which < kill else sqlite3.OperationalError("disk I/O error")
            self._fuse = (world.dice.randrange(1, 6), inside)
        return fault if where == "behind" else None

    def _burn(self, *_: object) -> None:
        """Count the statements of a call down to the one that fails."""
        if self._fuse is not None:
            left, fault = self._fuse
            self._fuse = (left - 1, fault)
            if left <= 1:
                self._fuse = None
                raise fault


@contextmanager
def simulated(clock: Clock) -> Iterator[None]:
    """Let the program read the world's clocks wherever it reads its own."""
    stopwatch = SimpleNamespace(
        perf_counter=clock.seconds, monotonic=clock.seconds, sleep=lambda seconds: clock.spend(seconds * 1000)
    )
    still = SimpleNamespace(perf_counter=lambda: 0.0)
    places: list[AbstractContextManager[object]] = [
        patch("forecaster.stopwatch.time", stopwatch),
        patch.object(engine, "now_ms", lambda: clock.wall),
        patch.object(intake, "time", stopwatch),
        patch.object(fetch_pool, "time", stopwatch),
        patch.object(fetch_pool.FetchPool, "_run", lambda _, work: work()),  # at once, so that the order never changes
        patch.object(lease, "now_ms", lambda: clock.wall),
        patch.object(lease, "time", stopwatch),
        patch("forecaster.client.now_ms", lambda: clock.wall),
        patch("forecaster.model.baselines.random_walk.time", still),
        patch("forecaster.model.baselines.historical_simulation.time", still),
        patch("forecaster.model.baselines.returns.time", still),
    ]
    with ExitStack() as stack:
        for one in places:
            stack.enter_context(one)
        yield


def _config(seed: int, url: str) -> Config:
    names = {key.exchange: {"id": "binance"} for key in KEYS}
    series = [
        {"exchange": key.exchange, "symbol": key.symbol, "timeframe": str(key.timeframe), "calendar": key.calendar}
        for key in KEYS
    ]
    model = {"context": CONTEXT, "min_context": MIN_CONTEXT, "horizon": HORIZON, "baselines": BASELINES}
    # Half of the worlds calibrate: what was learned must survive as the forecasts do.
    model["calibrate"] = seed % 2 == 0
    return Config.model_validate({"exchanges": names, "series": series, "model": model, "store": {"url": url}})


def moment(time: int) -> str:
    """UTC ms as people read it."""
    return datetime.fromtimestamp(time / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _prices(random_: np.random.Generator, n: int) -> np.ndarray:
    """A random walk as bars, (T, F)."""
    close = 100 * np.exp(np.cumsum(random_.normal(0, 0.01, n)))
    open_ = np.concatenate([[100.0], close[:-1]]) * np.exp(random_.normal(0, 0.001, n))
    high = np.maximum(open_, close) * np.exp(random_.exponential(0.004, n))
    low = np.minimum(open_, close) * np.exp(-random_.exponential(0.004, n))
    return np.column_stack([open_, high, low, close, random_.uniform(1, 1000, n)]).round(4)


def _with_rubbish(opens: np.ndarray, values_TF: np.ndarray, chance: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """An answer with a row in it that is no bar: each kind in turn."""
    row = [100.0, 101.0, 99.0, 100.0, 1.0]
    at = chance.randrange(5)
    row[at] = chance.choice((float("nan"), -1.0, float("inf")))
    if at == len(row) - 1 and np.isnan(row[at]):  # a volume may be unknown
        row[at] = float("inf")
    time = int(opens[-1]) if len(opens) and chance.random() < 1 / 2 else chance.randrange(2**41)
    return np.append(opens, time), np.vstack([values_TF, row])
