"""A `Store` in memory, for tests, for strategies under test and for replays that need no ledger."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from forecaster.bars import Bars, SeriesKey
from forecaster.errors import LedgerConflict, StoreUnavailable, format_time
from forecaster.forecast import same_forecast
from forecaster.ledger import (
    LIVE,
    CalibrationState,
    Hold,
    LedgerRow,
    PendingForecast,
    Run,
    RunId,
    SettledSteps,
)
from forecaster.store.queries import EVER, series_names
from forecaster.store.records import (
    CUTOFFS_PER_QUERY,
    bar_values,
    check_times,
    forecast_row,
    is_revised,
    ledger_order,
    read_bars,
    read_rows,
    read_steps,
    step_rows,
    storable_row,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.bars import RejectedRow
    from forecaster.forecast import ModelId, OHLCForecast
    from forecaster.store.records import BarValues

_Name: TypeAlias = "tuple[SeriesKey, ModelId, int]"
_Revisions: TypeAlias = "dict[int, list[tuple[BarValues, int]]]"


class _Undo(threading.local):
    """What one thread has changed in its transaction: table, name and previous value of each change."""

    def __init__(self) -> None:
        self.depth = 0
        self.changes: list[tuple[dict[Any, Any], object, Any]] = []


class MemoryStore:
    """A `Store` in dictionaries; it ends with its process."""

    def __init__(self) -> None:
        self._bars: dict[tuple[SeriesKey, str], _Revisions] = {}
        self._forecasts: dict[str, dict[_Name, OHLCForecast]] = {}
        self._gaps: dict[SeriesKey, dict[int, list[int]]] = {}
        self._holds: dict[str, list[Hold]] = {}
        self._pending: dict[SeriesKey, dict[int, PendingForecast]] = {}
        self._learned: dict[tuple[SeriesKey, str, str], CalibrationState] = {}
        self._rejected: dict[SeriesKey, dict[str, RejectedRow]] = {}
        self._runs: dict[str, Run] = {}
        self._undo = _Undo()

    @property
    def epoch(self) -> int:
        """Always 1: no other process can write."""
        return 1

    @property
    def owner(self) -> str:
        """Empty: no other process can write."""
        return ""

    def renew(self) -> None:
        """Do nothing: no other process can write."""

    def check_integrity(self) -> None:
        """Do nothing: there is no file."""

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        """Undo all changes of this thread in the block when it raises."""
        del write
        start = len(self._undo.changes)
        self._undo.depth += 1
        try:
            yield
        except BaseException:
            for table, name, value in reversed(self._undo.changes[start:]):
                table.pop(name, None)
                if value is not None:
                    table[name] = value
            del self._undo.changes[start:]
            raise
        finally:
            self._undo.depth -= 1
            if not self._undo.depth:
                self._undo.changes.clear()

    def _remember(self, table: dict[Any, Any], name: object) -> None:
        """Remember the value of a name before a transaction changes it."""
        if self._undo.depth:
            value = table.get(name)
            self._undo.changes.append((table, name, list(value) if isinstance(value, list) else value))

    def add_bars(self, bars: Bars, run_id: str = LIVE) -> int:
        """Append new bars, and a further revision of changed ones; return the number of rows."""
        known = self._bars.setdefault((bars.key, run_id), {}) if len(bars) else {}
        added = 0
        for open_time, values, seen in zip(
            bars.open_time.tolist(), bar_values(bars), bars.first_seen_at.tolist(), strict=True
        ):
            self._remember(known, open_time)
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
        """Return the latest revision of each bar with an open time in [start, end), as known at `as_of`."""
        known = {
            time: [(values, seen_at) for values, seen_at in revisions if as_of is None or seen_at <= as_of]
            for time, revisions in sorted(self._revisions(key, run_id).items())
            if (start is None or time >= start) and (end is None or time < end)
        }
        latest = {time: (*revisions[-1], len(revisions) - 1) for time, revisions in known.items() if revisions}
        if not latest:
            return Bars.empty(key)
        values, seen, revision = zip(*latest.values(), strict=True)
        return read_bars(key, np.array(list(latest)), np.array(values, np.float64), np.array(seen), np.array(revision))

    def open_times(self, key: SeriesKey, start: int, end: int) -> NDArray[np.int64]:
        """Return the open times of live bars in [start, end), ascending."""
        return np.array(sorted(time for time in self._revisions(key, LIVE) if start <= time < end), np.int64)

    def latest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Return the open time of the latest bar of a series, or None."""
        return max(self._revisions(key, run_id), default=None)

    def earliest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Return the open time of the earliest bar of a series, or None."""
        return min(self._revisions(key, run_id), default=None)

    def quarantine(self, key: SeriesKey, rows: Sequence[RejectedRow], seen_at: int) -> None:
        """Append rejected rows with their reasons; known ones are skipped."""
        del seen_at
        known = self._rejected.setdefault(key, {})
        for row in map(storable_row, rows):
            self._remember(known, str(row))
            known.setdefault(str(row), row)

    def rejected_rows(self, key: SeriesKey) -> list[RejectedRow]:
        """Return the rejected rows of a series, in order of arrival."""
        return list(self._rejected.get(key, {}).values())

    def add_gaps(self, key: SeriesKey, opens: Sequence[int], requested_at: int) -> None:
        """Record that bars of these open times were requested at `requested_at` and do not exist."""
        known = self._gaps.setdefault(key, {})
        for open_time in opens:
            self._remember(known, open_time)
            requests = known.setdefault(open_time, [])
            if requested_at not in requests:
                requests.append(requested_at)

    def gaps(self, key: SeriesKey, start: int, end: int) -> dict[int, list[int]]:
        """Return the open times in [start, end) without a bar, each with the times at which it was requested."""
        requests, bars = self._gaps.get(key, {}), self._revisions(key, LIVE)
        return {time: sorted(requests[time]) for time in sorted(requests) if start <= time < end and time not in bars}

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Record that no request goes to an exchange before `until`."""
        self._remember(self._holds, exchange)
        self._holds.setdefault(exchange, []).append(Hold(exchange, until, reason, seen_at))

    def holds(self) -> list[Hold]:
        """Return the latest hold of each exchange, by name, also where it has ended."""
        latest = [rows[-1] for _, rows in sorted(self._holds.items())]
        return [replace(hold, since=min(row.seen_at for row in self._alike(hold))) for hold in latest]

    def add_run(self, run: Run) -> None:
        """Record a run before its forecasts; a known run stays as it is."""
        self._remember(self._runs, run.id)
        self._runs.setdefault(run.id, run)

    def add_forecasts(
        self, forecasts: Sequence[OHLCForecast], run_id: str, learned: Sequence[CalibrationState] = ()
    ) -> int:
        """Append forecasts and update calibration, all or none; return the number of new forecasts.

        Raises:
            LedgerConflict: for a known forecast with other numbers, beyond float32 noise.
        """
        if run_id not in self._runs:
            raise StoreUnavailable("memory:", f"expected a run named by add_run, found {run_id!r}")
        known = self._forecasts.setdefault(run_id, {})
        new: dict[_Name, OHLCForecast] = {}
        for forecast in forecasts:
            check_times(forecast)
            name = _name(forecast)
            same_name = known.get(name) or new.setdefault(name, forecast)
            if not same_forecast(same_name, forecast):
                raise LedgerConflict(
                    f"{forecast.key} {forecast.provenance.ledger_id} at {format_time(forecast.cutoff)}"
                )
        for name, forecast in new.items():
            self._remember(known, name)
            known[name] = forecast
        for state in learned:
            self._remember(self._learned, (state.key, state.model_id, run_id))
        self._learned.update({(state.key, state.model_id, run_id): state for state in learned})
        return len(new)

    def delay_availability(self, forecasts: Sequence[OHLCForecast], run_id: str) -> None:
        """Record that these were committed later than stamped: they count as available from `available_at` on."""
        known = self._forecasts.get(run_id, {})
        for forecast in forecasts:
            there = known.get(_name(forecast))
            if there is not None and (there.available_at or 0) < (forecast.available_at or 0):
                self._remember(known, _name(forecast))
                known[_name(forecast)] = replace(there, available_at=forecast.available_at)

    def series(self) -> list[SeriesKey]:
        """Return all series of the ledger, those of replays too, by name."""
        keys = {key for (key, _), of_series in self._bars.items() if of_series} | {
            key for of_run in self._forecasts.values() for key, _, _ in of_run
        }
        return sorted(keys, key=lambda key: (key.exchange, key.symbol, str(key.timeframe), key.calendar))

    def runs(self) -> list[Run]:
        """Return all recorded runs, by start time."""
        return sorted(self._runs.values(), key=lambda run: (run.started_at, run.id))

    def models(self) -> list[ModelId]:
        """Return all models that have forecast, by name."""
        return sorted(
            {forecast.provenance.ledger_id for of_run in self._forecasts.values() for forecast in of_run.values()}
        )

    def cutoffs(self, key: SeriesKey, run_id: str = LIVE) -> NDArray[np.int64]:
        """Return the cutoffs of a run's forecasts of a series, ascending."""
        return np.unique(
            np.array([forecast.cutoff for forecast in self._of_run(run_id) if forecast.key == key], np.int64)
        )

    def bar_revisions(self, key: SeriesKey) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return open time, revision and first_seen_at of every revision of every live bar of a series."""
        rows = [
            (open_time, revision, seen_at)
            for open_time, versions in sorted(self._revisions(key, LIVE).items())
            for revision, (_, seen_at) in enumerate(versions)
        ]
        open_time, revision, seen_at = np.array(rows, np.int64).reshape(-1, 3).T
        return open_time, revision, seen_at

    def revised_open_times(
        self, key: SeriesKey, start: int, end: int, since: int, as_of: int | None = None
    ) -> list[int]:
        """Return the open times in [start, end) of live bars whose prices changed in (since, as_of]."""
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
        """Return the calibration state of a model on a series in a run, or None."""
        return self._learned.get((key, model_id, RunId(run_id).recorded))

    def latest(
        self, key: SeriesKey, model_name: str, run_id: str = LIVE, as_of: int | None = None
    ) -> OHLCForecast | None:
        """Return the forecast with the latest cutoff that this model had made available at `as_of`, or None."""
        forecasts = (f for f in self._of_run(run_id, as_of) if f.key == key and f.provenance.model_id == model_name)
        return max(forecasts, key=lambda f: (f.cutoff, f.issued_at), default=None)

    def history(
        self, key: SeriesKey, start: int, end: int, run_id: str = LIVE, as_of: int | None = None
    ) -> list[LedgerRow]:
        """Return rows with a cutoff in [start, end) that were available at `as_of`, by cutoff, model, step, field."""
        forecasts = [f for f in self._of_run(run_id, as_of) if f.key == key and start <= f.cutoff < end]
        return [row for step in sorted(_joined_steps(forecasts, run_id), key=ledger_order) for row in read_rows(step)]

    def settled_between(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledSteps]:
        """Return the steps whose target bar was first seen in (since, as_of], by series."""
        return list(self._settle(self._of_run(run_id, as_of), run_id, as_of, since))

    def settled(
        self, key: SeriesKey, as_of: int, since: int | None = None, run_id: str = LIVE
    ) -> Iterator[SettledSteps]:
        """Yield the same of one series, some cutoffs at a time."""
        span = CUTOFFS_PER_QUERY * key.timeframe.ms
        forecasts = sorted(
            (forecast for forecast in self._of_run(run_id, as_of) if forecast.key == key),
            key=lambda forecast: forecast.cutoff,
        )
        for _, group in groupby(forecasts, key=lambda forecast: forecast.cutoff // span):
            yield from self._settle(list(group), run_id, as_of, since)

    def set_pending(self, pending: Sequence[PendingForecast], changed_at: int) -> None:
        """Insert or update pending forecasts; one that is done stays done."""
        del changed_at
        for row in pending:
            known = self._pending.setdefault(row.key, {})
            self._remember(known, row.cutoff)
            if row.cutoff not in known or known[row.cutoff].state != "done":
                known[row.cutoff] = row

    def pending_forecasts(self, key: SeriesKey, start: int, end: int) -> list[PendingForecast]:
        """Return the pending forecasts of a series with a cutoff in [start, end), ascending."""
        known = self._pending.get(key, {})
        return [known[cutoff] for cutoff in sorted(known) if start <= cutoff < end]

    def pending_before(self, key: SeriesKey, cutoff: int) -> PendingForecast | None:
        """Return the latest pending forecast before `cutoff`, or None."""
        known = self._pending.get(key, {})
        return max((row for row in known.values() if row.cutoff < cutoff), key=lambda row: row.cutoff, default=None)

    def close(self) -> None:
        """Do nothing: there is no database."""

    def _alike(self, hold: Hold) -> list[Hold]:
        """Return the rows of a hold: the first one, and one per probe."""
        rows = self._holds[hold.exchange]
        return [row for row in rows if (row.until, row.reason) == (hold.until, hold.reason)]

    def _of_run(self, run_id: str, as_of: int | None = None) -> list[OHLCForecast]:
        """Return the forecasts of a run that were available at `as_of`, with the latency in its id."""
        latency = RunId(run_id).latency_ms
        forecasts = self._forecasts.get(RunId(run_id).recorded, {}).values()
        delayed = (
            (replace(f, available_at=(f.available_at or 0) + latency) for f in forecasts) if latency else forecasts
        )
        return [f for f in delayed if as_of is None or (f.available_at or 0) <= as_of]

    def _revisions(self, key: SeriesKey, run_id: str) -> _Revisions:
        """Return all revisions of the bars that settle a run: its own if any, else the live ones."""
        recorded = RunId(run_id).recorded
        shared = LIVE if recorded in self._runs else recorded
        return self._bars.get((key, recorded)) or self._bars.get((key, shared), {})

    def _settle(
        self, forecasts: Sequence[OHLCForecast], run_id: str, as_of: int, since: int | None
    ) -> Iterator[SettledSteps]:
        settled = []
        for step in sorted(_joined_steps(forecasts, run_id), key=ledger_order):
            key = SeriesKey(step.exchange, step.symbol, step.timeframe, step.calendar)
            revisions = self._revisions(key, run_id).get(step.target_open, [])
            seen = [i for i, (_, first_seen_at) in enumerate(revisions) if first_seen_at <= as_of]
            if seen and (since is None or revisions[seen[-1]][1] > since):
                (open_, high, low, close, *_), at = revisions[seen[-1]]
                settled.append(
                    step._replace(open=open_, high=high, low=low, close=close, revision=seen[-1], first_seen_at=at)
                )
        return read_steps(settled)


def _name(forecast: OHLCForecast) -> _Name:
    return forecast.key, forecast.provenance.ledger_id, forecast.cutoff


class _JoinedStep(NamedTuple):
    """A step of a forecast and its actual, as a query would return them."""

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


def _joined_steps(forecasts: Sequence[OHLCForecast], run_id: str) -> Iterator[_JoinedStep]:
    for forecast in forecasts:
        row = forecast_row(forecast, run_id, 0) | series_names(forecast.key)
        for step in step_rows(forecast, 0, 0):
            yield _JoinedStep(
                **{name: (row | step)[name] for name in _JoinedStep._fields if name in row or name in step}
            )
