"""The reads of a ledger: SQL queries, and their rows as records.

This module needs no database library: `SqliteFile` runs the queries with SQLite's own, which a strategy can import
quickly, `Database` with SQLAlchemy. The SQL is valid in SQLite and PostgreSQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np

from forecaster.bars import Bars, RejectedRow, SeriesKey
from forecaster.forecast import ModelId
from forecaster.ledger import LIVE, CalibrationState, Hold, LedgerRow, PendingForecast, Run, RunId, SettledSteps
from forecaster.store.records import (
    CUTOFFS_PER_QUERY,
    ledger_order,
    read_bars,
    read_forecast,
    read_rejected,
    read_rows,
    read_steps,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from forecaster.forecast import OHLCForecast

EVER: Final = 2**62
"""A time after every time in a ledger."""

SERIES: Final = """
SELECT id FROM series
WHERE exchange = :exchange AND symbol = :symbol AND timeframe = :timeframe AND calendar = :calendar
    AND (run_id = :run OR run_id = 'live' AND EXISTS (SELECT 1 FROM run WHERE id = :run))
ORDER BY CASE run_id WHEN 'live' THEN 1 ELSE 0 END LIMIT 1"""
"""The series whose bars settle a run: its own if it has one, else the live one."""

BARS: Final = """
SELECT open_time, open, high, low, close, volume, first_seen_at, revision
FROM bar
WHERE series_id = :series AND open_time >= :start AND open_time < :end AND first_seen_at <= :as_of
ORDER BY open_time, revision"""
"""All revisions of bars, the latest of each last."""

AVAILABLE: Final = "COALESCE(d.available_at, f.available_at) + :latency"
"""When a reader could first have had a forecast: after its commit, plus the latency in the run id."""

STEPS: Final = "SELECT target_open, raw, repaired FROM forecast_step WHERE forecast_id = :id ORDER BY step"

_LATEST: Final = f"""
SELECT f.id, f.cutoff, f.quantile_levels, f.issued_at, {AVAILABLE} AS available_at, f.provenance
FROM forecast f JOIN model m ON m.id = f.model_id LEFT JOIN availability_delay d ON d.forecast_id = f.id
WHERE f.series_id = :series AND f.run_id = :run AND m.name = :model AND {AVAILABLE} <= :as_of
ORDER BY f.cutoff DESC, f.issued_at DESC LIMIT 1"""  # noqa: S608 - constants only
_INDEX: Final = """
SELECT id, seq, cutoff, model_id, late FROM forecast WHERE series_id = :series AND run_id = :run ORDER BY seq"""
_BY_ID: Final = "SELECT cutoff, quantile_levels, issued_at, available_at, provenance FROM forecast WHERE id = :id"
_OPEN_TIMES: Final = """
SELECT DISTINCT open_time FROM bar
WHERE series_id = :series AND open_time >= :start AND open_time < :end
ORDER BY open_time"""
_LATEST_OPEN: Final = "SELECT MAX(open_time) AS open_time FROM bar WHERE series_id = :series"
_EARLIEST_OPEN: Final = "SELECT MIN(open_time) AS open_time FROM bar WHERE series_id = :series"
_REJECTED: Final = 'SELECT open_time, "row", reason, body FROM quarantine WHERE series_id = :series ORDER BY id'
_GAPS: Final = """
SELECT open_time, requested_at FROM gap g
WHERE series_id = :series AND open_time >= :start AND open_time < :end
    AND NOT EXISTS (SELECT 1 FROM bar b WHERE b.series_id = g.series_id AND b.open_time = g.open_time)
ORDER BY open_time, requested_at"""
_PENDING: Final = """
SELECT cutoff, state, attempts, reason, claimed_until FROM pending_forecast
WHERE series_id = :series AND cutoff >= :start AND cutoff < :end
ORDER BY cutoff"""
_PENDING_BEFORE: Final = """
SELECT cutoff, state, attempts, reason, claimed_until FROM pending_forecast
WHERE series_id = :series AND cutoff < :cutoff
ORDER BY cutoff DESC LIMIT 1"""
_ALL_CUTOFFS: Final = """
SELECT DISTINCT cutoff FROM forecast WHERE series_id = :series AND run_id = :run ORDER BY cutoff"""
_VERSIONS: Final = """
SELECT open_time, revision, first_seen_at FROM bar WHERE series_id = :series ORDER BY open_time, revision"""
_REVISED: Final = """
SELECT DISTINCT b.open_time FROM bar b
JOIN bar o ON o.series_id = b.series_id AND o.open_time = b.open_time AND o.revision = b.revision - 1
WHERE b.series_id = :series AND b.open_time >= :start AND b.open_time < :end
    AND b.revision > 0 AND b.first_seen_at > :since AND b.first_seen_at <= :as_of
    AND (b.open <> o.open OR b.high <> o.high OR b.low <> o.low OR b.close <> o.close)
ORDER BY b.open_time"""
_CALIBRATION: Final = """
SELECT cutoff, state FROM calibration WHERE series_id = :series AND run_id = :run AND model_id = :model"""
_HOLDS: Final = """
SELECT h.exchange, h.until, h.reason, h.seen_at, (
    SELECT MIN(f.seen_at) FROM hold f WHERE f.exchange = h.exchange AND f.until = h.until AND f.reason = h.reason
) AS since
FROM hold h WHERE h.id IN (SELECT MAX(id) FROM hold GROUP BY exchange)
ORDER BY h.exchange"""
"""The latest by id, the order of insertion: after a clock was ahead once, its row would stay the latest by time."""

_STEP: Final = f"""
SELECT n.exchange, n.symbol, n.timeframe, n.calendar, f.model_id, f.run_id, f.cutoff, f.issued_at,
    {AVAILABLE} AS available_at, f.late, f.engine, f.quantile_levels, s.step, s.target_open, s.raw, s.repaired"""
_HISTORY: Final = f"""{_STEP}
FROM forecast f
JOIN forecast_step s ON s.forecast_id = f.id
JOIN series n ON n.id = f.series_id
LEFT JOIN availability_delay d ON d.forecast_id = f.id
WHERE f.series_id = :series AND f.run_id = :run AND f.cutoff >= :start AND f.cutoff < :end
    AND {AVAILABLE} <= :as_of"""
_SETTLED_BETWEEN: Final = f"""b.first_seen_at > :since AND b.first_seen_at <= :as_of AND f.run_id = :run
AND {AVAILABLE} <= :as_of AND b.revision = (
    SELECT MAX(o.revision) FROM bar o
    WHERE o.series_id = b.series_id AND o.open_time = b.open_time AND o.first_seen_at <= :as_of
)"""  # noqa: S608 - constants only
# Join from the few new bars to the steps that they settle: a ledger may hold years of steps.
_FROM_BARS: Final = """
FROM bar b
JOIN forecast_step s ON s.series_id = b.series_id AND s.target_open = b.open_time
JOIN forecast f ON f.id = s.forecast_id
JOIN series n ON n.id = f.series_id
LEFT JOIN availability_delay d ON d.forecast_id = f.id"""
_ALL_SETTLED: Final = (
    f"{_STEP}, b.open, b.high, b.low, b.close, b.revision, b.first_seen_at {_FROM_BARS} WHERE {_SETTLED_BETWEEN}"
)
_SERIES_SETTLED: Final = f"""{_STEP}, b.open, b.high, b.low, b.close, b.revision, b.first_seen_at
FROM forecast f
JOIN forecast_step s ON s.forecast_id = f.id
JOIN series n ON n.id = f.series_id
JOIN bar b ON b.series_id = s.series_id AND b.open_time = s.target_open
LEFT JOIN availability_delay d ON d.forecast_id = f.id
WHERE f.series_id = :series AND f.cutoff >= :start AND f.cutoff < :end AND {_SETTLED_BETWEEN}"""
_CUTOFFS: Final = """
SELECT MIN(cutoff) AS first, MAX(cutoff) AS last FROM forecast WHERE series_id = :series AND run_id = :run"""
_CUTOFFS_SINCE: Final = f"""
SELECT MIN(f.cutoff) AS first, MAX(f.cutoff) AS last {_FROM_BARS} WHERE f.series_id = :series AND {_SETTLED_BETWEEN}"""
_ALL_SERIES: Final = """
SELECT DISTINCT exchange, symbol, timeframe, calendar FROM series ORDER BY exchange, symbol, timeframe, calendar"""
_RUNS: Final = "SELECT id, kind, started_at, plan FROM run ORDER BY started_at, id"
_MODELS: Final = "SELECT id FROM model ORDER BY id"


class IndexedForecast(NamedTuple):
    """A forecast's id in the database, its place in its chain, and what it is about."""

    id: int
    seq: int
    cutoff: int
    model_id: str
    late: bool


class QueryRunner(Protocol):
    """A database that runs read queries."""

    def query(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Run an SQL text with named values; return rows whose columns are attributes."""

    def close(self) -> None:
        """Close the database."""


class LedgerQueries:
    """The methods of `Reader`, by SQL."""

    def __init__(self, database: QueryRunner) -> None:
        self._runner = database
        self._query = database.query

    def bars(
        self,
        key: SeriesKey,
        start: int | None = None,
        end: int | None = None,
        as_of: int | None = None,
        run_id: str = LIVE,
    ) -> Bars:
        """Return the latest revision of each bar with an open time in [start, end), as known at `as_of`.

        Bars that the calendar no longer has are left out, with a warning.
        """
        span = {"start": -EVER if start is None else start, "end": EVER if end is None else end}
        known = EVER if as_of is None else as_of
        rows = self._query(BARS, {"series": self._series(key, run_id), "as_of": known, **span})
        if not rows:
            return Bars.empty(key)
        *columns, seen, revision = zip(*rows, strict=True)
        times, ohlcv_TF = np.array(columns[0]), np.array(columns[1:], np.float64).T  # None, of a volume, is NaN
        newest = np.append(times[1:] > times[:-1], True)
        return read_bars(key, times[newest], ohlcv_TF[newest], np.array(seen)[newest], np.array(revision)[newest])

    def open_times(self, key: SeriesKey, start: int, end: int) -> NDArray[np.int64]:
        """Return the open times of live bars in [start, end), ascending."""
        rows = self._query(_OPEN_TIMES, {"series": self._series(key), "start": start, "end": end})
        return np.array([row.open_time for row in rows], np.int64)

    def latest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Return the open time of the latest bar of a series, or None."""
        return self._open_time(_LATEST_OPEN, key, run_id)

    def earliest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Return the open time of the earliest bar of a series, or None."""
        return self._open_time(_EARLIEST_OPEN, key, run_id)

    def rejected_rows(self, key: SeriesKey) -> list[RejectedRow]:
        """Return the rejected rows of a series, in order of arrival."""
        return [read_rejected(row) for row in self._query(_REJECTED, {"series": self._series(key)})]

    def gaps(self, key: SeriesKey, start: int, end: int) -> dict[int, list[int]]:
        """Return the open times in [start, end) without a bar, each with the times at which it was requested."""
        requests: dict[int, list[int]] = {}
        for row in self._query(_GAPS, {"series": self._series(key), "start": start, "end": end}):
            requests.setdefault(row.open_time, []).append(row.requested_at)
        return requests

    def holds(self) -> list[Hold]:
        """Return the latest hold of each exchange, by name, also where it has ended."""
        return [Hold(*row) for row in self._query(_HOLDS, {})]

    def series(self) -> list[SeriesKey]:
        """Return all series of the ledger, those of replays too, by name."""
        return [SeriesKey(*row) for row in self._query(_ALL_SERIES, {})]

    def runs(self) -> list[Run]:
        """Return all recorded runs, by start time."""
        return [Run(row.id, row.kind, row.started_at, row.plan) for row in self._query(_RUNS, {})]

    def models(self) -> list[ModelId]:
        """Return all models that have forecast, by name."""
        return [ModelId(row.id) for row in self._query(_MODELS, {})]

    def latest(
        self, key: SeriesKey, model_name: str, run_id: str = LIVE, as_of: int | None = None
    ) -> OHLCForecast | None:
        """Return the forecast with the latest cutoff that this model had made available at `as_of`, or None."""
        rows = self._query(_LATEST, {"model": model_name, "as_of": _or_ever(as_of), **self._of(key, run_id)})
        return read_forecast(key, rows[0], self._query(STEPS, {"id": rows[0].id})) if rows else None

    def history(
        self, key: SeriesKey, start: int, end: int, run_id: str = LIVE, as_of: int | None = None
    ) -> list[LedgerRow]:
        """Return rows with a cutoff in [start, end) that were available at `as_of`, by cutoff, model, step, field."""
        values = {"start": start, "end": end, "as_of": _or_ever(as_of), **self._of(key, run_id)}
        return [row for step in sorted(self._query(_HISTORY, values), key=ledger_order) for row in read_rows(step)]

    def settled_between(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledSteps]:
        """Return the steps whose target bar was first seen in (since, as_of], by series."""
        values = {"as_of": as_of, "since": -EVER if since is None else since, **_run(run_id)}
        return list(read_steps(sorted(self._query(_ALL_SETTLED, values), key=ledger_order)))

    def settled(
        self, key: SeriesKey, as_of: int, since: int | None = None, run_id: str = LIVE
    ) -> Iterator[SettledSteps]:
        """Yield the same of one series, some cutoffs at a time."""
        values = {"as_of": as_of, "since": -EVER if since is None else since, **self._of(key, run_id)}
        (cutoffs,) = self._query(_CUTOFFS if since is None else _CUTOFFS_SINCE, values)
        if cutoffs.first is None:
            return
        span = CUTOFFS_PER_QUERY * key.timeframe.ms
        for start in range(cutoffs.first - cutoffs.first % span, cutoffs.last + 1, span):
            rows = self._query(_SERIES_SETTLED, {**values, "start": start, "end": start + span})
            yield from read_steps(sorted(rows, key=ledger_order))

    def cutoffs(self, key: SeriesKey, run_id: str = LIVE) -> NDArray[np.int64]:
        """Return the cutoffs of a run's forecasts of a series, ascending."""
        rows = self._query(_ALL_CUTOFFS, self._of(key, run_id))
        return np.array([row.cutoff for row in rows], np.int64)

    def bar_revisions(self, key: SeriesKey) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return open time, revision and first_seen_at of every revision of every live bar of a series."""
        rows = self._query(_VERSIONS, {"series": self._series(key)})
        open_time, revision, seen_at = np.array([tuple(row) for row in rows], np.int64).reshape(-1, 3).T
        return open_time, revision, seen_at

    def revised_open_times(
        self, key: SeriesKey, start: int, end: int, since: int, as_of: int | None = None
    ) -> list[int]:
        """Return the open times in [start, end) of live bars whose prices changed in (since, as_of]."""
        span = {"start": start, "end": end, "since": since, "as_of": _or_ever(as_of)}
        return [row.open_time for row in self._query(_REVISED, {"series": self._series(key), **span})]

    def calibration(self, key: SeriesKey, model_id: str, run_id: str = LIVE) -> CalibrationState | None:
        """Return the calibration state of a model on a series in a run, or None."""
        rows = self._query(_CALIBRATION, {"model": model_id, **self._of(key, run_id)})
        return CalibrationState(key, model_id, rows[0].cutoff, bytes(rows[0].state)) if rows else None

    def forecast_index(self, key: SeriesKey, run_id: str = LIVE) -> list[IndexedForecast]:
        """Return all forecasts of a series in a run, in order of insertion."""
        return [IndexedForecast(*row) for row in self._query(_INDEX, self._of(key, run_id))]

    def forecast_by_id(self, key: SeriesKey, forecast_id: int) -> OHLCForecast:
        """Return one forecast of a series, as it was stored."""
        (row,) = self._query(_BY_ID, {"id": forecast_id})
        return read_forecast(key, row, self._query(STEPS, {"id": forecast_id}))

    def pending_forecasts(self, key: SeriesKey, start: int, end: int) -> list[PendingForecast]:
        """Return the pending forecasts of a series with a cutoff in [start, end), ascending."""
        rows = self._query(_PENDING, {"series": self._series(key), "start": start, "end": end})
        return [
            PendingForecast(key, row.cutoff, row.state, row.attempts, row.reason, row.claimed_until) for row in rows
        ]

    def pending_before(self, key: SeriesKey, cutoff: int) -> PendingForecast | None:
        """Return the latest pending forecast before `cutoff`, or None."""
        rows = self._query(_PENDING_BEFORE, {"series": self._series(key), "cutoff": cutoff})
        return PendingForecast(key, rows[0].cutoff, *rows[0][1:]) if rows else None

    def close(self) -> None:
        """Close the database."""
        self._runner.close()

    def _open_time(self, sql: str, key: SeriesKey, run_id: str) -> int | None:
        rows = self._query(sql, {"series": self._series(key, run_id)})
        return rows[0].open_time if rows else None

    def _of(self, key: SeriesKey, run_id: str) -> dict[str, object]:
        """Return the values of a query about one series in a run."""
        return {"series": self._series(key, run_id), **_run(run_id)}

    def _series(self, key: SeriesKey, run_id: str = LIVE) -> int:
        """Return the id of the series whose bars settle a run, -1 when there is none yet."""
        rows = self._query(SERIES, {**series_names(key), "run": RunId(run_id).recorded})
        return int(rows[0].id) if rows else -1


def series_names(key: SeriesKey) -> dict[str, str]:
    """Return the columns that name a series."""
    return {
        "exchange": key.exchange,
        "symbol": key.symbol,
        "timeframe": str(key.timeframe),
        "calendar": key.calendar,
    }


def _run(run_id: str) -> dict[str, object]:
    return {"run": RunId(run_id).recorded, "latency": RunId(run_id).latency_ms}


def _or_ever(as_of: int | None) -> int:
    return EVER if as_of is None else as_of
