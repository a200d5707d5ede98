"""What can be read from a ledger: the questions as SQL, the answers as records.

Knows no database library: `SqliteFile` asks through SQLite's own, which is light enough for a strategy's process, and
`SqlStore` through SQLAlchemy. The SQL is what SQLite and PostgreSQL both understand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from forecaster.bars import Bars, RejectedRow, SeriesKey
from forecaster.forecast import ModelId
from forecaster.ledger import LIVE, CalibrationState, Hold, LedgerRow, Run, RunId, SettledRow, SettledSteps, Slot
from forecaster.store.records import (
    PORTION,
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
"""Later than every time in a ledger."""

SERIES: Final = """
SELECT id FROM series
WHERE exchange = :exchange AND symbol = :symbol AND timeframe = :timeframe AND calendar = :calendar
    AND (run_id = :run OR run_id = 'live' AND EXISTS (SELECT 1 FROM run WHERE id = :run))
ORDER BY CASE run_id WHEN 'live' THEN 1 ELSE 0 END LIMIT 1"""
"""The series whose bars settle a run: its own where it has any, else the live one."""

BARS: Final = """
SELECT open_time, open, high, low, close, volume, first_seen_at, revision
FROM bar
WHERE series_id = :series AND open_time >= :start AND open_time < :end AND first_seen_at <= :as_of
ORDER BY open_time, revision"""
"""All revisions of bars: of each, the last one counts."""

AVAILABLE: Final = "COALESCE(d.available_at, f.available_at) + :latency"
"""When a reader could have had a forecast: not before its commit, and as much later as the run id says."""

STEPS: Final = "SELECT target_open, raw, repaired FROM forecast_step WHERE forecast_id = :id ORDER BY step"

_LATEST: Final = f"""
SELECT f.id, f.cutoff, f.quantile_levels, f.issued_at, {AVAILABLE} AS available_at, f.provenance
FROM forecast f JOIN model m ON m.id = f.model_id LEFT JOIN delay d ON d.forecast_id = f.id
WHERE f.series_id = :series AND f.run_id = :run AND m.name = :model AND {AVAILABLE} <= :as_of
ORDER BY f.cutoff DESC, f.issued_at DESC LIMIT 1"""  # noqa: S608 - our own text
_OPENS: Final = """
SELECT DISTINCT open_time FROM bar
WHERE series_id = :series AND open_time >= :start AND open_time < :end
ORDER BY open_time"""
_NEWEST: Final = "SELECT MAX(open_time) AS open_time FROM bar WHERE series_id = :series"
_OLDEST: Final = "SELECT MIN(open_time) AS open_time FROM bar WHERE series_id = :series"
_REJECTED: Final = 'SELECT open_time, "row", reason, body FROM quarantine WHERE series_id = :series ORDER BY id'
_GAPS: Final = """
SELECT open_time, asked_at FROM gap g
WHERE series_id = :series AND open_time >= :start AND open_time < :end
    AND NOT EXISTS (SELECT 1 FROM bar b WHERE b.series_id = g.series_id AND b.open_time = g.open_time)
ORDER BY open_time, asked_at"""
_SLOTS: Final = """
SELECT cutoff, state, attempts, reason, leased_until FROM slot
WHERE series_id = :series AND cutoff >= :start AND cutoff < :end
ORDER BY cutoff"""
_SLOT_BEFORE: Final = """
SELECT cutoff, state, attempts, reason, leased_until FROM slot
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
"""The newest by id, the order of appending: a clock that was ahead once would make its row the newest for ever."""

_STEP: Final = f"""
SELECT n.exchange, n.symbol, n.timeframe, n.calendar, f.model_id, f.run_id, f.cutoff, f.issued_at,
    {AVAILABLE} AS available_at, f.late, f.engine, f.quantile_levels, s.step, s.target_open, s.raw, s.repaired"""
_HISTORY: Final = f"""{_STEP}
FROM forecast f
JOIN forecast_step s ON s.forecast_id = f.id
JOIN series n ON n.id = f.series_id
LEFT JOIN delay d ON d.forecast_id = f.id
WHERE f.series_id = :series AND f.run_id = :run AND f.cutoff >= :start AND f.cutoff < :end
    AND {AVAILABLE} <= :as_of"""
_CAME: Final = f"""b.first_seen_at > :since AND b.first_seen_at <= :as_of AND f.run_id = :run
AND {AVAILABLE} <= :as_of AND b.revision = (
    SELECT MAX(o.revision) FROM bar o
    WHERE o.series_id = b.series_id AND o.open_time = b.open_time AND o.first_seen_at <= :as_of
)"""  # noqa: S608 - our own text
# From the bars that came to the steps that they settle: a ledger may hold years of steps.
_FROM_BARS: Final = """
FROM bar b
JOIN forecast_step s ON s.series_id = b.series_id AND s.target_open = b.open_time
JOIN forecast f ON f.id = s.forecast_id
JOIN series n ON n.id = f.series_id
LEFT JOIN delay d ON d.forecast_id = f.id"""
_SETTLED: Final = f"{_STEP}, b.open, b.high, b.low, b.close, b.revision, b.first_seen_at {_FROM_BARS} WHERE {_CAME}"
_OF_SERIES: Final = f"""{_STEP}, b.open, b.high, b.low, b.close, b.revision, b.first_seen_at
FROM forecast f
JOIN forecast_step s ON s.forecast_id = f.id
JOIN series n ON n.id = f.series_id
JOIN bar b ON b.series_id = s.series_id AND b.open_time = s.target_open
LEFT JOIN delay d ON d.forecast_id = f.id
WHERE f.series_id = :series AND f.cutoff >= :start AND f.cutoff < :end AND {_CAME}"""
_CUTOFFS: Final = """
SELECT MIN(cutoff) AS oldest, MAX(cutoff) AS newest FROM forecast WHERE series_id = :series AND run_id = :run"""
_CUTOFFS_SINCE: Final = f"""
SELECT MIN(f.cutoff) AS oldest, MAX(f.cutoff) AS newest {_FROM_BARS} WHERE f.series_id = :series AND {_CAME}"""
_ALL_SERIES: Final = """
SELECT DISTINCT exchange, symbol, timeframe, calendar FROM series ORDER BY exchange, symbol, timeframe, calendar"""
_RUNS: Final = "SELECT id, door, started_at, plan FROM run ORDER BY started_at, id"
_MODELS: Final = "SELECT id FROM model ORDER BY id"


class Asked(Protocol):
    """A database that can be asked."""

    def ask(self, sql: str, values: Mapping[str, object]) -> Sequence[Any]:
        """Put an SQL text with named values; gives lines whose columns are attributes."""

    def close(self) -> None:
        """Let go of it."""


class Reading:
    """The questions of `Reader`."""

    def __init__(self, database: Asked) -> None:
        self._asked = database
        self._ask = database.ask

    def bars(
        self,
        key: SeriesKey,
        start: int | None = None,
        end: int | None = None,
        as_of: int | None = None,
        run_id: str = LIVE,
    ) -> Bars:
        """Give the newest revision of every bar whose open_time lies in [start, end), as known at `as_of`.

        A bar of a slot that the calendar no longer has is left out, with a warning.
        """
        span = {"start": -EVER if start is None else start, "end": EVER if end is None else end}
        known = EVER if as_of is None else as_of
        rows = self._ask(BARS, {"series": self._series(key, run_id), "as_of": known, **span})
        if not rows:
            return Bars.empty(key)
        *columns, seen, revision = zip(*rows, strict=True)
        times, ohlcv_TF = np.array(columns[0]), np.array(columns[1:], np.float64).T  # None, of a volume, is NaN
        newest = np.append(times[1:] > times[:-1], True)
        return read_bars(key, times[newest], ohlcv_TF[newest], np.array(seen)[newest], np.array(revision)[newest])

    def opens(self, key: SeriesKey, start: int, end: int) -> NDArray[np.int64]:
        """Give the open times in [start, end) of which there is a live bar, rising."""
        rows = self._ask(_OPENS, {"series": self._series(key), "start": start, "end": end})
        return np.array([row.open_time for row in rows], np.int64)

    def newest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Open time of the newest bar of a series, None when there is none."""
        return self._open_time(_NEWEST, key, run_id)

    def oldest_open(self, key: SeriesKey, run_id: str = LIVE) -> int | None:
        """Open time of the oldest bar of a series, None when there is none."""
        return self._open_time(_OLDEST, key, run_id)

    def rejected(self, key: SeriesKey) -> list[RejectedRow]:
        """Give the rows of a series that were refused, in the order in which they came."""
        return [read_rejected(row) for row in self._ask(_REJECTED, {"series": self._series(key)})]

    def gaps(self, key: SeriesKey, start: int, end: int) -> dict[int, list[int]]:
        """Give the open times in [start, end) without a bar, with the times at which each was asked for."""
        found: dict[int, list[int]] = {}
        for row in self._ask(_GAPS, {"series": self._series(key), "start": start, "end": end}):
            found.setdefault(row.open_time, []).append(row.asked_at)
        return found

    def holds(self) -> list[Hold]:
        """Give the newest hold of each exchange, by name, also where it has ended."""
        return [Hold(*row) for row in self._ask(_HOLDS, {})]

    def held_until(self, exchange: str) -> int | None:
        """Give the time before which this exchange is not to be asked; None when there was never one."""
        return next((one.until for one in self.holds() if one.exchange == exchange), None)

    def series(self) -> list[SeriesKey]:
        """Give all series that are in the ledger, those of replays too, by name."""
        return [SeriesKey.of(*row) for row in self._ask(_ALL_SERIES, {})]

    def runs(self) -> list[Run]:
        """Give all runs that were recorded, by the time at which they ran."""
        return [Run(row.id, row.door, row.started_at, row.plan) for row in self._ask(_RUNS, {})]

    def models(self) -> list[ModelId]:
        """Give all models that have forecast, by name."""
        return [ModelId(row.id) for row in self._ask(_MODELS, {})]

    def latest(
        self, key: SeriesKey, model_name: str, run_id: str = LIVE, as_of: int | None = None
    ) -> OHLCForecast | None:
        """Give the forecast with the newest cutoff that a model of this name made and that was there at `as_of`."""
        rows = self._ask(_LATEST, {"model": model_name, "as_of": _or_ever(as_of), **self._of(key, run_id)})
        return read_forecast(key, rows[0], self._ask(STEPS, {"id": rows[0].id})) if rows else None

    def history(
        self, key: SeriesKey, start: int, end: int, run_id: str = LIVE, as_of: int | None = None
    ) -> list[LedgerRow]:
        """Give the rows, by cutoff, model, step and field, that were there at `as_of` with a cutoff in [start, end)."""
        values = {"start": start, "end": end, "as_of": _or_ever(as_of), **self._of(key, run_id)}
        return [row for line in sorted(self._ask(_HISTORY, values), key=ledger_order) for row in read_rows(line)]

    def settled_rows(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledRow]:
        """Give rows whose target bar was first seen in (since, as_of], with the newest revision of it."""
        return [row for steps in self.arrived(as_of, since, run_id) for row in steps.rows()]

    def arrived(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledSteps]:
        """Give the steps whose target bar was first seen in (since, as_of], by series."""
        values = {"as_of": as_of, "since": -EVER if since is None else since, **_run(run_id)}
        return list(read_steps(sorted(self._ask(_SETTLED, values), key=ledger_order)))

    def settled(
        self, key: SeriesKey, as_of: int, since: int | None = None, run_id: str = LIVE
    ) -> Iterator[SettledSteps]:
        """Give the same of one series, some cutoffs at a time, however many there are."""
        values = {"as_of": as_of, "since": -EVER if since is None else since, **self._of(key, run_id)}
        (found,) = self._ask(_CUTOFFS if since is None else _CUTOFFS_SINCE, values) or [None]
        if found is None or found.oldest is None:
            return
        portion = PORTION * key.timeframe.ms
        for start in range(found.oldest - found.oldest % portion, found.newest + 1, portion):
            lines = self._ask(_OF_SERIES, {**values, "start": start, "end": start + portion})
            yield from read_steps(sorted(lines, key=ledger_order))

    def cutoffs(self, key: SeriesKey, run_id: str = LIVE) -> NDArray[np.int64]:
        """Give the cutoffs that a run has forecast of a series, rising."""
        rows = self._ask(_ALL_CUTOFFS, self._of(key, run_id))
        return np.array([row.cutoff for row in rows], np.int64)

    def versions(self, key: SeriesKey) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Give open time, revision and first_seen_at of every version of every live bar of a series."""
        rows = self._ask(_VERSIONS, {"series": self._series(key)})
        open_time, revision, seen_at = np.array([tuple(row) for row in rows], np.int64).reshape(-1, 3).T
        return open_time, revision, seen_at

    def revised(self, key: SeriesKey, start: int, end: int, since: int, as_of: int | None = None) -> list[int]:
        """Give the open times in [start, end) of live bars whose prices changed in (since, as_of]."""
        span = {"start": start, "end": end, "since": since, "as_of": _or_ever(as_of)}
        return [row.open_time for row in self._ask(_REVISED, {"series": self._series(key), **span})]

    def calibration(self, key: SeriesKey, model_id: str, run_id: str = LIVE) -> CalibrationState | None:
        """Give what was last learned of a model on a series in a run; None before the first forecast."""
        rows = self._ask(_CALIBRATION, {"model": model_id, **self._of(key, run_id)})
        return CalibrationState(key, model_id, rows[0].cutoff, bytes(rows[0].state)) if rows else None

    def slots(self, key: SeriesKey, start: int, end: int) -> list[Slot]:
        """Give the work of a series whose cutoff lies in [start, end), oldest first."""
        rows = self._ask(_SLOTS, {"series": self._series(key), "start": start, "end": end})
        return [Slot(key, row.cutoff, row.state, row.attempts, row.reason, row.leased_until) for row in rows]

    def slot_before(self, key: SeriesKey, cutoff: int) -> Slot | None:
        """Give the newest work of a series before `cutoff`; None when there is none."""
        rows = self._ask(_SLOT_BEFORE, {"series": self._series(key), "cutoff": cutoff})
        return Slot(key, rows[0].cutoff, *rows[0][1:]) if rows else None

    def close(self) -> None:
        """Let go of the database."""
        self._asked.close()

    def _open_time(self, which: str, key: SeriesKey, run_id: str) -> int | None:
        rows = self._ask(which, {"series": self._series(key, run_id)})
        return rows[0].open_time if rows else None

    def _of(self, key: SeriesKey, run_id: str) -> dict[str, object]:
        """What a question about one series in a run names."""
        return {"series": self._series(key, run_id), **_run(run_id)}

    def _series(self, key: SeriesKey, run_id: str = LIVE) -> int:
        """Id of the series whose bars settle a run, -1 when it is not there yet."""
        rows = self._ask(SERIES, {**series_names(key), "run": RunId(run_id).recorded})
        return int(rows[0].id) if rows else -1


def series_names(key: SeriesKey) -> dict[str, str]:
    """What the ledger calls a series."""
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
