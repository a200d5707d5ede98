"""The store without a disk: for tests, for strategies under test, and for a quick look.

It keeps the contract of `Store` but durability: what it holds ends with the process.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from forecaster.bars import Bars, SeriesKey
from forecaster.errors import LedgerConflict, StoreUnavailable, utc_text
from forecaster.forecast import same_forecast
from forecaster.ledger import LIVE, CalibrationState, Hold, LedgerRow, Run, RunId, SettledRow, SettledSteps, Slot
from forecaster.store.queries import EVER, series_names
from forecaster.store.records import (
    PORTION,
    bar_values,
    check_times,
    forecast_row,
    is_revised,
    kept,
    ledger_order,
    read_bars,
    read_rows,
    read_steps,
    step_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import RejectedRow
    from forecaster.forecast import ModelId, OHLCForecast
    from forecaster.store.records import BarValues

_Name: TypeAlias = "tuple[SeriesKey, ModelId, int]"
_Revisions: TypeAlias = "dict[int, list[tuple[BarValues, int]]]"


class _Block(threading.local):
    """What one thread has changed in blocks of `together`: tables, names, and what was there before."""

    def __init__(self) -> None:
        self.depth = 0
        self.before: list[tuple[dict[Any, Any], object, Any]] = []


class MemoryStore:
    """A `Store` in dictionaries."""

    def __init__(self) -> None:
        self._bars: dict[tuple[SeriesKey, str], _Revisions] = {}
        self._forecasts: dict[str, dict[_Name, OHLCForecast]] = {}
        self._gaps: dict[SeriesKey, dict[int, list[int]]] = {}
        self._holds: dict[str, list[Hold]] = {}
        self._slots: dict[SeriesKey, dict[int, Slot]] = {}
        self._learned: dict[tuple[SeriesKey, str, str], CalibrationState] = {}
        self._rejected: dict[SeriesKey, dict[str, RejectedRow]] = {}
        self._runs: dict[str, Run] = {}
        self._block = _Block()

    @property
    def epoch(self) -> int:
        """Nobody else can write."""
        return 1

    @property
    def owner(self) -> str:
        """Nobody else can write."""
        return ""

    def renew(self) -> None:
        """Nobody else can write."""

    def check(self) -> None:
        """Nothing can be broken."""

    @contextmanager
    def together(self, *, write: bool = True) -> Iterator[None]:
        """Have what this thread does in a block undone when it raises; nothing is durable here."""
        del write
        begun = len(self._block.before)
        self._block.depth += 1
        try:
            yield
        except BaseException:
            for table, name, value in reversed(self._block.before[begun:]):
                table.pop(name, None)
                if value is not None:
                    table[name] = value
            del self._block.before[begun:]
            raise
        finally:
            self._block.depth -= 1
            if not self._block.depth:
                self._block.before.clear()

    def _keep(self, table: dict[Any, Any], name: object) -> None:
        """Remember what a table has under a name, before a block changes it."""
        if self._block.depth:
            value = table.get(name)
            self._block.before.append((table, name, list(value) if isinstance(value, list) else value))

    def add_bars(self, bars: Bars, run_id: str = LIVE) -> int:
        """Append bars that are new, and a further revision of those that changed; returns how many rows."""
        known = self._bars.setdefault((bars.key, run_id), {}) if len(bars) else {}
        added = 0
        for open_time, values, seen in zip(
            bars.open_time.tolist(), bar_values(bars), bars.first_seen_at.tolist(), strict=True
        ):
            self._keep(known, open_time)
            revisions = known.setdefault(open_time, [])
            if not revisions or is_revised(revisions[-1][0], values):
                revisions.append((values, seen))
                added += 1
        return added

    def bars(
        self,
        key: SeriesKey,
        start: int | None = None,
        end: int | None = None,
        as_of: int | None = None,
        run_id: str = LIVE,
    ) -> Bars:
        """Give the newest revision of every bar whose open_time lies in [start, end), as known at `as_of`."""
        known = {
            time: [one for one in revisions if as_of is None or one[1] <= as_of]
            for time, revisions in sorted(self._revisions(key, run_id).items())
            if (start is None or time >= start) and (end is None or time < end)
        }
        newest = {time: (*revisions[-1], len(revisions) - 1) for time, revisions in known.items() if revisions}
        if not newest:
            return Bars.empty(key)
        values, seen, revision = zip(*newest.values(), strict=True)
        return read_bars(key, np.array(list(newest)), np.array(values, np.float64), np.array(seen), np.array(revision))

    def opens(self, key: SeriesKey, start: int, end: int) -> NDArray[np.int64]:
        """Give the open times in [start, end) of which there is a live bar, rising."""
        return np.array(sorted(time for time in self._revisions(key, LIVE) if start <= time < end), np.int64)

    def newest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Open time of the newest bar of a series, None when there is none."""
        return max(self._revisions(key, run_id), default=None)

    def oldest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Open time of the oldest bar of a series, None when there is none."""
        return min(self._revisions(key, run_id), default=None)

    def quarantine(self, key: SeriesKey, rows: Sequence[RejectedRow], seen_at: int) -> None:
        """Keep rows that were refused, with their reasons; one that is there already stays as it is."""
        del seen_at
        held = self._rejected.setdefault(key, {})
        for row in map(kept, rows):
            self._keep(held, str(row))
            held.setdefault(str(row), row)

    def rejected(self, key: SeriesKey) -> list[RejectedRow]:
        """Give the rows of a series that were refused, in the order in which they came."""
        return list(self._rejected.get(key, {}).values())

    def add_gaps(self, key: SeriesKey, opens: Sequence[int], asked_at: int) -> None:
        """Keep that the bars of these open times were asked for at `asked_at`, and that there were none."""
        known = self._gaps.setdefault(key, {})
        for open_time in opens:
            self._keep(known, open_time)
            asked = known.setdefault(open_time, [])
            if asked_at not in asked:
                asked.append(asked_at)

    def gaps(self, key: SeriesKey, start: int, end: int) -> dict[int, list[int]]:
        """Give the open times in [start, end) without a bar, with the times at which each was asked for."""
        found, bars = self._gaps.get(key, {}), self._revisions(key, LIVE)
        return {time: sorted(found[time]) for time in sorted(found) if start <= time < end and time not in bars}

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Keep that this exchange is not to be asked before `until`."""
        self._keep(self._holds, exchange)
        self._holds.setdefault(exchange, []).append(Hold(exchange, until, reason, seen_at))

    def holds(self) -> list[Hold]:
        """Give the newest hold of each exchange, by name, also where it has ended."""
        newest = [rows[-1] for _, rows in sorted(self._holds.items())]
        return [replace(one, since=min(row.seen_at for row in self._alike(one))) for one in newest]

    def held_until(self, exchange: str) -> int | None:
        """Give the time before which this exchange is not to be asked; None when there was never one."""
        return next((one.until for one in self.holds() if one.exchange == exchange), None)

    def add_run(self, run: Run) -> None:
        """Name a run before its forecasts; a run that is known stays as it is."""
        self._keep(self._runs, run.id)
        self._runs.setdefault(run.id, run)

    def add_forecasts(
        self, forecasts: Sequence[OHLCForecast], run_id: str, learned: Sequence[CalibrationState] = ()
    ) -> int:
        """Append forecasts and what was learned by them, all or none; returns how many forecasts are new.

        Raises:
            LedgerConflict: when one is there with other numbers, by more than float32's noise.
        """
        if run_id not in self._runs:
            raise StoreUnavailable("memory:", f"expected a run named by add_run, found {run_id!r}")
        known = self._forecasts.setdefault(run_id, {})
        new: dict[_Name, OHLCForecast] = {}
        for forecast in forecasts:
            check_times(forecast)
            name = _name(forecast)
            there = known.get(name) or new.setdefault(name, forecast)
            if not same_forecast(there, forecast):
                raise LedgerConflict(f"{forecast.key} {forecast.provenance.ledger_id} at {utc_text(forecast.cutoff)}")
        for name, forecast in new.items():
            self._keep(known, name)
            known[name] = forecast
        for one in learned:
            self._keep(self._learned, (one.key, one.model_id, run_id))
        self._learned.update({(one.key, one.model_id, run_id): one for one in learned})
        return len(new)

    def postpone(self, forecasts: Sequence[OHLCForecast], run_id: str) -> None:
        """Keep that these were committed later than they were stamped: they count as there from `available_at` on."""
        known = self._forecasts.get(run_id, {})
        for one in forecasts:
            there = known.get(_name(one))
            if there is not None and (there.available_at or 0) < (one.available_at or 0):
                self._keep(known, _name(one))
                known[_name(one)] = replace(there, available_at=one.available_at)

    def series(self) -> list[SeriesKey]:
        """Give all series that are in the ledger, those of replays too, by name."""
        keys = {key for (key, _), of_series in self._bars.items() if of_series} | {
            key for of_run in self._forecasts.values() for key, _, _ in of_run
        }
        return sorted(keys, key=lambda key: (key.exchange, key.symbol, str(key.timeframe), key.calendar))

    def runs(self) -> list[Run]:
        """Give all runs that were recorded, by the time at which they ran."""
        return sorted(self._runs.values(), key=lambda run: (run.started_at, run.id))

    def models(self) -> list[ModelId]:
        """Give all models that have forecast, by name."""
        return sorted({one.provenance.ledger_id for of_run in self._forecasts.values() for one in of_run.values()})

    def cutoffs(self, key: SeriesKey, run_id: str = LIVE) -> NDArray[np.int64]:
        """Give the cutoffs that a run has forecast of a series, rising."""
        return np.unique(np.array([one.cutoff for one in self._of_run(run_id) if one.key == key], np.int64))

    def versions(self, key: SeriesKey) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Give open time, revision and first_seen_at of every version of every bar of a series."""
        rows = [
            (open_time, revision, seen_at)
            for open_time, versions in sorted(self._revisions(key, LIVE).items())
            for revision, (_, seen_at) in enumerate(versions)
        ]
        open_time, revision, seen_at = np.array(rows, np.int64).reshape(-1, 3).T
        return open_time, revision, seen_at

    def revised(self, key: SeriesKey, start: int, end: int, since: int, as_of: int | None = None) -> list[int]:
        """Give the open times in [start, end) of live bars whose prices changed in (since, as_of]."""
        until = EVER if as_of is None else as_of
        return [
            open_time
            for open_time, versions in sorted(self._revisions(key, LIVE).items())
            if start <= open_time < end
            and any(
                since < seen_at <= until and values[:4] != before[:4]
                for (before, _), (values, seen_at) in pairwise(versions)
            )
        ]

    def calibration(self, key: SeriesKey, model_id: str, run_id: str = LIVE) -> CalibrationState | None:
        """Give what was last learned of a model on a series in a run; None before the first forecast."""
        return self._learned.get((key, model_id, RunId(run_id).recorded))

    def latest(
        self, key: SeriesKey, model_name: str, run_id: str = LIVE, as_of: int | None = None
    ) -> OHLCForecast | None:
        """Give the forecast with the newest cutoff that a model of this name made and that was there at `as_of`."""
        made = (f for f in self._of_run(run_id, as_of) if f.key == key and f.provenance.model_id == model_name)
        return max(made, key=lambda f: (f.cutoff, f.issued_at), default=None)

    def history(
        self, key: SeriesKey, start: int, end: int, run_id: str = LIVE, as_of: int | None = None
    ) -> list[LedgerRow]:
        """Give the rows, by cutoff, model, step and field, that were there at `as_of` with a cutoff in [start, end)."""
        made = [f for f in self._of_run(run_id, as_of) if f.key == key and start <= f.cutoff < end]
        return [row for line in sorted(_lines(made, run_id), key=ledger_order) for row in read_rows(line)]

    def settled_rows(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledRow]:
        """Give rows whose target bar was first seen in (since, as_of], with the newest revision of it."""
        return [row for steps in self.arrived(as_of, since, run_id) for row in steps.rows()]

    def arrived(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledSteps]:
        """Give the steps whose target bar was first seen in (since, as_of], by series."""
        return list(self._settle(self._of_run(run_id, as_of), run_id, as_of, since))

    def settled(
        self, key: SeriesKey, as_of: int, since: int | None = None, run_id: str = LIVE
    ) -> Iterator[SettledSteps]:
        """Give the same of one series, some cutoffs at a time."""
        portion = PORTION * key.timeframe.ms
        made = sorted((one for one in self._of_run(run_id, as_of) if one.key == key), key=lambda one: one.cutoff)
        for _, some in groupby(made, key=lambda one: one.cutoff // portion):
            yield from self._settle(list(some), run_id, as_of, since)

    def set_slots(self, slots: Sequence[Slot], changed_at: int) -> None:
        """Keep the state of work; a slot that is done stays done."""
        del changed_at
        for one in slots:
            there = self._slots.setdefault(one.key, {})
            self._keep(there, one.cutoff)
            if one.cutoff not in there or there[one.cutoff].state != "done":
                there[one.cutoff] = one

    def slots(self, key: SeriesKey, start: int, end: int) -> list[Slot]:
        """Give the work of a series whose cutoff lies in [start, end), oldest first."""
        known = self._slots.get(key, {})
        return [known[cutoff] for cutoff in sorted(known) if start <= cutoff < end]

    def slot_before(self, key: SeriesKey, cutoff: int) -> Slot | None:
        """Give the newest work of a series before `cutoff`; None when there is none."""
        known = self._slots.get(key, {})
        return max(
            (slot for slot in known.values() if slot.cutoff < cutoff), key=lambda slot: slot.cutoff, default=None
        )

    def close(self) -> None:
        """Nothing to let go of."""

    def _alike(self, hold: Hold) -> list[Hold]:
        """The rows of a hold: the first one, and one for each probe."""
        rows = self._holds[hold.exchange]
        return [one for one in rows if (one.until, one.reason) == (hold.until, hold.reason)]

    def _of_run(self, run_id: str, as_of: int | None = None) -> list[OHLCForecast]:
        """The forecasts of a run that were there at `as_of`, with the latency that its id names."""
        latency = RunId(run_id).latency_ms
        made = self._forecasts.get(RunId(run_id).recorded, {}).values()
        moved = (replace(f, available_at=(f.available_at or 0) + latency) for f in made) if latency else made
        return [f for f in moved if as_of is None or (f.available_at or 0) <= as_of]

    def _revisions(self, key: SeriesKey, run_id: str) -> _Revisions:
        """All versions of the bars that settle a run: its own where it has any, else the live ones."""
        recorded = RunId(run_id).recorded
        shared = LIVE if recorded in self._runs else recorded
        return self._bars.get((key, recorded)) or self._bars.get((key, shared), {})

    def _settle(
        self, made: Sequence[OHLCForecast], run_id: str, as_of: int, since: int | None
    ) -> Iterator[SettledSteps]:
        lines = []
        for line in sorted(_lines(made, run_id), key=ledger_order):
            key = SeriesKey.of(line.exchange, line.symbol, line.timeframe, line.calendar)
            revisions = self._revisions(key, run_id).get(line.target_open, [])
            seen = [i for i, (_, first_seen_at) in enumerate(revisions) if first_seen_at <= as_of]
            if seen and (since is None or revisions[seen[-1]][1] > since):
                (open_, high, low, close, *_), at = revisions[seen[-1]]
                lines.append(
                    line._replace(open=open_, high=high, low=low, close=close, revision=seen[-1], first_seen_at=at)
                )
        return read_steps(lines)


def _name(forecast: OHLCForecast) -> _Name:
    return forecast.key, forecast.provenance.ledger_id, forecast.cutoff


class _Line(NamedTuple):
    """A step of a forecast, and its outcome, as a database would give them."""

    exchange: str
    symbol: str
    timeframe: str
    calendar: str
    model_id: str
    run_id: str
    cutoff: int
    issued_at: int
    available_at: int
    late: bool
    engine: str
    quantile_levels: str
    step: int
    target_open: int
    raw: bytes
    repaired: bytes
    open: float = 0.0
    high: float = 0.0
    low: float = 0.0
    close: float = 0.0
    revision: int = 0
    first_seen_at: int = 0


def _lines(made: Sequence[OHLCForecast], run_id: str) -> Iterator[_Line]:
    for forecast in made:
        row = forecast_row(forecast, run_id, 0) | series_names(forecast.key)
        for step in step_rows(forecast, 0, 0):
            yield _Line(**{name: (row | step)[name] for name in _Line._fields if name in row or name in step})
