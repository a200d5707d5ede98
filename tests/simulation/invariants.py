"""What must hold after every step of a simulation, whatever went wrong in it.

The watch looks at the ledger through a connection of its own, past the program under test, and remembers what that
program has acknowledged. Each broken promise is one record with its name.

Shapes: C price fields.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from forecaster.bars import FIELDS, SeriesKey
from forecaster.context import Context
from forecaster.cycle.pending import CATCH_UP
from forecaster.errors import BarsError
from forecaster.ledger import LIVE
from forecaster.store import open_database, open_reader
from forecaster.store.sqlite_library import sqlite3
from forecaster.store.verify import verify_ledger
from forecaster.timeframe import DAY_MS
from tests.simulation.faults import EVERYTHING
from tests.simulation.world import CONTEXT, HORIZON, KEYS, MIN_CONTEXT, MODEL, World

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from forecaster.cycle.run import CycleReport
    from forecaster.engine import Forecaster
    from forecaster.forecast import OHLCForecast
    from forecaster.store import Reader

ENDED: Final = ("done", "failed", "gap", "missed")
_CYCLES_AN_HOUR: Final = 100
_ALLOWED_MS: Final = 5_000
"""By how much a forecast may be stamped later than now: what is allowed for the commit of its bars, and for its own."""

_BY_NAME: Final = {(key.exchange, key.symbol, str(key.timeframe)): key for key in KEYS}
_FORECASTS: Final = """
SELECT f.id, s.exchange, s.symbol, s.timeframe, f.model_id, f.cutoff, f.issued_at,
    COALESCE(d.available_at, f.available_at), f.late, f.provenance
FROM forecast f JOIN series s ON s.id = f.series_id LEFT JOIN availability_delay d ON d.forecast_id = f.id
WHERE f.id > ? ORDER BY f.id"""
_STEPS: Final = "SELECT raw, repaired, target_open FROM forecast_step WHERE forecast_id = ? ORDER BY step"
_SLOTS: Final = """
SELECT o.cutoff, o.state, o.reason, o.changed_at, o.claimed_until FROM pending_forecast o
JOIN series s ON s.id = o.series_id
WHERE s.exchange = ? AND s.symbol = ? AND s.timeframe = ? AND o.cutoff >= ? ORDER BY o.cutoff"""


class Broken(NamedTuple):
    """A promise that was not kept: its name, when by true time, and what was found."""

    name: str
    at: int
    found: str


class Row(NamedTuple):
    """What the ledger says of one forecast; `digest` is of all its numbers and times."""

    key: SeriesKey
    model: str
    cutoff: int
    issued_at: int
    available_at: int
    is_late: bool
    input_sha256: str
    digest: str


class Watch:
    """Looks at a world and its ledger, step by step.

    Args:
        world: whose.
    """

    def __init__(self, world: World) -> None:
        self.broken: list[Broken] = []
        self.rows: dict[int, Row] = {}
        self._world = world
        self._last = 0
        self._acknowledged: dict[tuple[SeriesKey, str, int], str] = {}
        self._unseen: dict[tuple[SeriesKey, str, int], None] = {}
        self._names: dict[tuple[SeriesKey, str, int], int] = {}
        self._asked: dict[tuple[SeriesKey, int], int] = {}
        self._last_asked = 0
        self._first_close: dict[SeriesKey, int] = {}
        self._cycles: dict[int, int] = defaultdict(int)
        self._connection: sqlite3.Connection | None = None
        world.on_asked = self.on_asked
        world.on_acknowledged = self.on_acknowledged

    def begin(self) -> None:
        """A cycle begins: what it asks and writes from here on is its own."""
        self._asked.clear()
        self._count_cycle()

    def on_asked(self, model: str, contexts: Sequence[Context]) -> None:
        """A model sees contexts: they hold nothing that the exchange had not given by then."""
        clock = self._world.clock
        for one in contexts:
            self._asked.setdefault((one.key, one.cutoff), clock.wall)
            told = self._world.truth[one.key].explains(one.open_time, one.ohlc_CT, clock.now)
            closes = one.key.trading_calendar.closes_of(one.key.timeframe, one.open_time[-1:])
            if not told or closes[0] != one.cutoff:
                self._break("leak", f"{one.key} at {one.cutoff}: {model} saw what nobody had told yet")
        self._last_asked = clock.wall

    def on_acknowledged(self, forecasts: Iterable[OHLCForecast], run_id: str) -> None:
        """The store has said that these are written."""
        for one in forecasts if run_id == LIVE else ():
            name = (one.key, one.provenance.ledger_id, one.cutoff)
            if name not in self._names and name not in self._acknowledged:
                self._acknowledged[name] = _digest_of(one)
                self._unseen[name] = None

    def look(self) -> None:
        """Look at what is new in the ledger."""
        wall = self._world.clock.wall
        for number, row in self._read(self._last):
            self._judge(number, row, wall)
            name = (row.key, row.model, row.cutoff)
            self.rows[number] = row
            self._last = number
            self._names.setdefault(name, number)
            self._first_close.setdefault(row.key, row.cutoff)
            self._unseen.pop(name, None)
        ((count,),) = self._ask("SELECT COUNT(*) FROM forecast")
        if count != len(self.rows):
            self._break("lost", f"{len(self.rows) - count} forecasts are gone")
        for key, model, cutoff in self._unseen:
            self._break("lost", f"{key} {model} at {cutoff} was acknowledged, and is not there")
        self._unseen.clear()

    def after_cycle(self, report: CycleReport) -> None:
        """A cycle was completed: its series have their slots in a named state, and the healthy ones their forecasts."""
        self.look()
        keys = [key for key in KEYS if key.timeframe == report.timeframe and report.exchange in (None, key.exchange)]
        for key in keys:
            opens = key.trading_calendar.last_opens(key.timeframe, report.as_of, CATCH_UP)
            closes = key.trading_calendar.closes_of(key.timeframe, opens)
            slots = {row[0]: row for row in self._slots(key, int(closes[0]))}
            self._judge_slots(key, closes.tolist(), slots, report.as_of)
            self._judge_isolation(key, int(opens[-1]), slots.get(int(closes[-1])), report)
        self._judge_report(report)

    def after_failure(self, exchange: str, error: Exception) -> None:
        """A cycle ended by a fault: one that is a series' own must not."""
        self.look()
        if type(error).__name__ not in {"StoreUnavailable", "LeaseLost"}:
            self._break("not isolated", f"{exchange}: the whole cycle failed: {type(error).__name__}: {error}")

    def at_the_end(self, forecaster: Forecaster) -> None:
        """Nothing is left to do: look at everything."""
        self.look()
        again = dict(self._read(0))
        changed = [number for number, row in self.rows.items() if again.get(number) != row]
        if changed:
            self._break("changed", f"{len(changed)} forecasts, the first {self.rows[changed[0]]}")
        # Where the wall clock was ahead for a while, bars are dated ahead, and are not known by when they were used.
        with closing(open_reader(self._world.url)) as reader:
            for row in () if self._world.faults.of("wall") else self.rows.values():
                self._judge_input(reader, row)
        for key in KEYS:
            self._judge_all_slots(key)
        self._judge_accuracy(forecaster)
        with closing(open_database(self._world.url)) as database:
            for error in verify_ledger(database).errors[:5]:
                self._break("chain", error)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _judge(self, number: int, row: Row, wall: int) -> None:
        """Judge a forecast that was written since the last look."""
        about = f"{row.key} {row.model} at {row.cutoff}, issued {row.issued_at}"
        if (row.key, row.model, row.cutoff) in self._names:
            self._break("doubled", f"{about}: row {number} and {self._names[row.key, row.model, row.cutoff]}")
        asked = self._asked.get((row.key, row.cutoff))
        if asked is None or row.issued_at < max(row.cutoff, asked):
            self._break("backdated", f"{about}: asked at {asked}")
        if row.available_at < max(row.issued_at, self._last_asked):
            self._break("available early", f"{about}: available {row.available_at}, last asked {self._last_asked}")
        now = max(wall, self._world.clock.now)  # a clock that is behind is known
        if max(row.issued_at, row.available_at) > now + _ALLOWED_MS:
            self._break("ahead", f"{about}: available {row.available_at}, now {wall}")
        if row.is_late != (row.issued_at >= _first_target_close(row)):
            self._break("late flag", f"{about}: late {row.is_late}")
        acknowledged = self._acknowledged.get((row.key, row.model, row.cutoff))
        if acknowledged not in (None, row.digest):
            self._break("changed", f"{about}: is not what was acknowledged")

    def _judge_slots(self, key: SeriesKey, closes: list[int], slots: dict[int, Any], as_of: int) -> None:
        """The last closes of a series, behind a completed cycle."""
        for cutoff, state, reason, changed_at, _ in slots.values():
            if cutoff not in closes:
                continue
            if state not in ENDED or (state == "failed" and not reason):
                self._break("slot without a state", f"{key} at {cutoff}: {state} {reason!r}")
            if state == "failed" and changed_at != as_of:
                self._break("not retried", f"{key} at {cutoff}: failed at {changed_at}, now {as_of}: {reason}")
            if state == "done" and not self._is_forecast(key, cutoff):
                self._break("lost", f"{key} at {cutoff}: its slot is done, and there is no forecast")
        first = self._first_close.get(key)
        if first is not None and (absent := [one for one in closes if one >= first and one not in slots]):
            self._break("slot without a state", f"{key}: no slot for {len(absent)} closes from {absent[0]} on")

    def _judge_isolation(self, key: SeriesKey, newest: int, slot: Any, report: CycleReport) -> None:
        """A series with which nothing was wrong has its forecast, whatever was wrong with others."""
        world, asked = self._world, self._world.asked.get(key)
        if asked is None or asked.at != world.clock.began or asked.newest != newest:
            return
        faults = [world.faults.at("model", EVERYTHING, at) for at in (asked.at, world.clock.now)]
        faults += [world.faults.at("sick", str(key), at) for at in (asked.at, world.clock.now)]
        reason = report.skipped.get(key, "")
        if not any(faults) and not reason.startswith("NotEnoughBars") and (slot is None or slot[1] != "done"):
            self._break("not isolated", f"{key}: its bar came, and it has no forecast: {slot} {reason}")

    def _judge_report(self, report: CycleReport) -> None:
        for one in report.forecasts:
            if not self._is_forecast(one.key, one.cutoff):
                self._break("lost", f"{one.key} at {one.cutoff}: reported, and not in the ledger")
        late = sum(int(one.steps.late_N.sum()) for one in report.settled)
        settled = sum(len(one.steps) for one in report.settled)
        if report.settled_rows != (settled - late) * len(FIELDS):
            self._break("accuracy", f"{report.settled_rows} rows settled, {settled} steps of which {late} late")

    def _judge_input(self, reader: Reader, row: Row) -> None:
        """What a forecast was made from can be had again: the bars as they were known when it was issued."""
        key = row.key
        start = int(key.trading_calendar.last_opens(key.timeframe, row.cutoff, CONTEXT)[0])
        bars = reader.bars(key, start, row.cutoff, row.issued_at)
        try:
            found = Context.ending_at(bars, row.cutoff, CONTEXT, MIN_CONTEXT).sha256
        except BarsError as error:
            found = str(error)
        if found != row.input_sha256:
            self._break("input", f"{key} {row.model} at {row.cutoff}, issued {row.issued_at}: {found}")

    def _judge_all_slots(self, key: SeriesKey) -> None:
        """Every close since the first that was served is in a named state, or in a span that was missed."""
        rows = self._slots(key, -(2**62))
        for cutoff, state, reason, _, _ in rows:
            if state not in ENDED:
                self._break("slot without a state", f"{key} at {cutoff}: {state} {reason!r} at the end")
        if key not in self._first_close:
            return
        wall, first = self._world.clock.wall, self._first_close[key]
        opens = key.trading_calendar.opens_between(key.timeframe, first - DAY_MS, wall)
        closes = key.trading_calendar.closes_of(key.timeframe, opens)
        closes = closes[(closes >= first) & (closes <= wall)].tolist()
        states = {row[0]: row[1] for row in rows}
        spans = [(row[0], row[4]) for row in rows if row[1] == "missed"]
        absent = [one for one in closes if one not in states and not any(a <= one <= b for a, b in spans)]
        if absent:
            self._break("slot without a state", f"{key}: nothing about {len(absent)} closes from {absent[0]} on")
        jumps = len(self._world.faults.of("wall"))
        if sum(row[0] >= first for row in rows) > len(closes) + jumps * 2 * (CATCH_UP + 1):
            self._break("slots grew", f"{key}: {len(rows)} slots for {len(closes)} closes")

    def _judge_accuracy(self, forecaster: Forecaster) -> None:
        """Count again, forecast by forecast, and compare with what the program says."""
        wall = self._world.clock.wall
        bars = {(row[0], row[1], row[2], row[3]): row[4:] for row in self._ask(_NEWEST_BARS, wall)}
        errors: dict[tuple[SeriesKey, str, int, str], list[float]] = defaultdict(list)
        for number, row in self.rows.items():
            if row.is_late or row.available_at > wall:
                continue
            for h, (raw, repaired, target) in enumerate(self._ask(_STEPS, number)):
                came = bars.get((row.key.exchange, row.key.symbol, str(row.key.timeframe), target))
                if came is not None:
                    values_CQ = np.frombuffer(repaired or raw, "<f8").reshape(len(FIELDS), -1)
                    for c, field in enumerate(FIELDS):
                        errors[row.key, row.model, h + 1, field].append(abs(values_CQ[c, 1] - came[c]))
        told = {
            (one.key, one.model_id, one.step, one.field): one
            for one in forecaster.accuracy(as_of=wall)
            if one.field in FIELDS
        }
        for name in sorted(errors.keys() | told.keys(), key=str):
            counted, one = errors.get(name, []), told.get(name)
            if one is None or one.n != len(counted) or not np.isclose(one.mae, np.mean(counted), rtol=1e-9, atol=0):
                found = None if one is None else (one.n, one.mae)
                self._break("accuracy", f"{name}: counted {len(counted)} {np.mean(counted or [0])}, told {found}")

    def _count_cycle(self) -> None:
        """No storm: so many cycles within an hour of true time, restarts included, and no more."""
        hour = self._world.clock.now // 3_600_000
        self._cycles[hour] += 1
        if self._cycles[hour] == _CYCLES_AN_HOUR + 1:
            self._break("storm", f"more than {_CYCLES_AN_HOUR} cycles within an hour")

    def _is_forecast(self, key: SeriesKey, cutoff: int) -> bool:
        return (key, f"{MODEL}@1", cutoff) in self._names

    def _read(self, after: int) -> Iterable[tuple[int, Row]]:
        for number, *name, model, cutoff, issued, available, late, about in self._ask(_FORECASTS, after):
            steps = self._ask(_STEPS, number)
            payload = b"".join(raw + (repaired or raw) for raw, repaired, _ in steps)
            digest = _digest(payload, issued, available)
            sha256 = json.loads(about)["input_sha256"]
            yield number, Row(_BY_NAME[tuple(name)], model, cutoff, issued, available, bool(late), sha256, digest)

    def _slots(self, key: SeriesKey, since: int) -> list[Any]:
        return self._ask(_SLOTS, key.exchange, key.symbol, str(key.timeframe), since)

    def _ask(self, sql: str, *values: object) -> list[Any]:
        if self._connection is None:
            self._connection = sqlite3.connect(self._world.path, isolation_level=None)
        return self._connection.execute(sql, values).fetchall()

    def _break(self, name: str, found: str) -> None:
        broken = Broken(name, self._world.clock.now, found)
        self._world.tell("BROKEN", promise=name, found=found)
        self.broken.append(broken)


_NEWEST_BARS: Final = """
SELECT s.exchange, s.symbol, s.timeframe, b.open_time, b.open, b.high, b.low, b.close
FROM bar b JOIN series s ON s.id = b.series_id
WHERE b.first_seen_at <= ? ORDER BY b.open_time, b.revision"""


def _first_target_close(row: Row) -> int:
    opens = row.key.trading_calendar.next_opens(row.key.timeframe, row.cutoff, HORIZON)
    return int(row.key.trading_calendar.closes_of(row.key.timeframe, opens[:1])[0])


def _digest_of(made: OHLCForecast) -> str:
    by_step = (made.raw_FHQ.transpose(1, 0, 2), made.values_FHQ.transpose(1, 0, 2))
    payload = b"".join(
        np.ascontiguousarray(raw, "<f8").tobytes() + np.ascontiguousarray(repaired, "<f8").tobytes()
        for raw, repaired in zip(*by_step, strict=True)
    )
    return _digest(payload, made.issued_at or 0, made.available_at or 0)


def _digest(payload: bytes, *times: int) -> str:
    return hashlib.sha256(payload + repr(times).encode()).hexdigest()[:16]
