"""The writes of a ledger, in SQLite and PostgreSQL; each is one transaction that first checks the lease.

The reads are those of `LedgerQueries`. The content of rows is in `records`, the tables are in `schema`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from forecaster.errors import LedgerConflict, StoreUnavailable, format_time
from forecaster.forecast import same_forecast
from forecaster.ledger import LIVE, RunId
from forecaster.log import get_logger
from forecaster.store import schema as t
from forecaster.store.chain import initial_hash
from forecaster.store.database import Database
from forecaster.store.lease import Lease
from forecaster.store.queries import BARS, EVER, STEPS, LedgerQueries, series_names
from forecaster.store.records import (
    Head,
    bar_rows,
    chained,
    check_times,
    forecast_row,
    quarantine_row,
    read_forecast,
    step_rows,
    storable_row,
)
from forecaster.store.sqlite_library import sqlite3, wal_is_safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from forecaster.bars import Bars, RejectedRow, SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import CalibrationState, PendingForecast, Run

_log = get_logger(__name__)
_EXPECTED_SQLITE = "SQLite 3.51.3 or newer; with this one an open transaction of a reader makes writes wait, and fail"
_SET_PENDING = """
INSERT INTO pending_forecast (series_id, cutoff, state, epoch, claimed_until, attempts, reason, changed_at)
VALUES (:series_id, :cutoff, :state, :epoch, :claimed_until, :attempts, :reason, :changed_at)
ON CONFLICT (series_id, cutoff) DO UPDATE SET state = excluded.state, epoch = excluded.epoch,
    claimed_until = excluded.claimed_until, attempts = excluded.attempts, reason = excluded.reason,
    changed_at = excluded.changed_at
WHERE pending_forecast.state <> 'done'"""
_PENDING = ("cutoff", "state", "attempts", "reason", "claimed_until")
_SET_CALIBRATION = """
INSERT INTO calibration (series_id, run_id, model_id, cutoff, state)
VALUES (:series_id, :run_id, :model_id, :cutoff, :state)
ON CONFLICT (series_id, run_id, model_id) DO UPDATE SET cutoff = excluded.cutoff, state = excluded.state"""
_LAST_BAR = "SELECT seq, chain_hash FROM bar WHERE series_id = :series ORDER BY seq DESC LIMIT 1"
_LAST_FORECASTS = sa.text("""
SELECT f.series_id, f.seq, f.chain_hash FROM series n JOIN forecast f ON f.id = (
    SELECT o.id FROM forecast o WHERE o.series_id = n.id AND o.run_id = :run ORDER BY o.seq DESC LIMIT 1
)
WHERE n.id IN :ids""").bindparams(sa.bindparam("ids", expanding=True))
_KNOWN = sa.text("""
SELECT id, series_id, cutoff, model_id, payload_sha256, quantile_levels, provenance, issued_at, available_at
FROM forecast
WHERE series_id IN :ids AND run_id = :run AND cutoff BETWEEN :first AND :last""").bindparams(
    sa.bindparam("ids", expanding=True)
)
_IDS_PER_QUERY = 500
"""Parameters of one query: SQLite allows 32,766, older versions 999."""


class SqlStore(LedgerQueries):
    """A `Store` in a database, the only one in any process until it is closed or loses its lease.

    A ledger with an older schema is upgraded first; an SQLite file is copied before that.

    Raises:
        StoreUnavailable: when the database cannot be opened, or another process writes it.
        SchemaTooNew: when a newer program wrote it.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._ids: dict[tuple[SeriesKey, str], int] = {}
        self._runs: set[str] = set()
        super().__init__(self._database)
        try:
            self._lease = Lease(self._database)
        except BaseException:
            self._database.close()
            raise
        with self._database.transaction(write=False):
            pass  # starts the write-ahead log
        if self._database.is_sqlite and not wal_is_safe(sqlite3.sqlite_version_info):
            _log.warning(
                "ledger.no_log", ledger=self._database.url, found=sqlite3.sqlite_version, expected=_EXPECTED_SQLITE
            )

    @property
    def epoch(self) -> int:
        """How many times the lease has changed hands."""
        return self._lease.epoch

    @property
    def owner(self) -> str:
        """The name of this process in the lease."""
        return self._database.session

    def renew(self) -> None:
        """Renew the lease, as every write does.

        Raises:
            LeaseLost: when another process has taken over, or the ledger file was removed.
        """
        self._lease.renew()
        self._database.check_hard_links()

    def check_integrity(self) -> None:
        """Check the pages and constraints of an SQLite file; PostgreSQL checks its own.

        Raises:
            StoreUnavailable: names the damage.
        """
        if not self._database.is_sqlite:
            return
        faults = [row[0] for row in self._database.query("PRAGMA quick_check(3)", {})]
        if faults != ["ok"]:
            raise StoreUnavailable(
                self._database.url, f"expected a whole file; restore a copy of it: {'; '.join(faults)}"
            )

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[None]:
        """Run all reads and writes of this thread in the block as one transaction."""
        try:
            with self._database.thread_transaction(write=write) as connection:
                if write:
                    self._lease.confirm(connection)
                yield
        except BaseException:
            self._ids.clear()  # series and runs that were added in the block no longer exist
            self._runs.clear()
            raise

    def add_bars(self, bars: Bars, run_id: str = LIVE) -> int:
        """Append new bars, and a further revision of changed ones; return the number of rows."""
        if not len(bars):
            return 0
        with self._writing() as connection:
            series_id = self._series_id(connection, bars.key, run_id)
            span = {"start": int(bars.open_time[0]), "end": int(bars.open_time[-1]) + 1, "as_of": EVER}
            known = {row.open_time: row for row in _query(connection, BARS, series=series_id, **span)}
            last = _query(connection, _LAST_BAR, series=series_id)
            head = Head(*last[0]) if last else _initial_head(bars.key, "bar", *([] if run_id == LIVE else [run_id]))
            rows = bar_rows(bars, series_id, known, head)
            if rows:
                _append(connection, t.bar, rows)
        return len(rows)

    def quarantine(self, key: SeriesKey, rows: Sequence[RejectedRow], seen_at: int) -> None:
        """Append rejected rows with their reasons; known ones are skipped."""
        if not rows:
            return
        with self._writing() as connection:
            series_id = self._series_id(connection, key)
            content = (t.quarantine.c.open_time, t.quarantine.c.row, t.quarantine.c.reason, t.quarantine.c.body)
            rows = list(map(storable_row, rows))
            times = [row.open_time for row in rows]
            in_span = t.quarantine.c.open_time.between(min(times), max(times))
            query = sa.select(*content).where(t.quarantine.c.series_id == series_id, in_span)
            known = set(map(tuple, connection.execute(query)))
            by_content = {
                tuple(row[column.name] for column in content): row
                for row in (quarantine_row(row, series_id, seen_at) for row in rows)
            }
            new = [row for values, row in by_content.items() if values not in known]
            if new:
                connection.execute(t.quarantine.insert(), new)

    def add_gaps(self, key: SeriesKey, opens: Sequence[int], requested_at: int) -> None:
        """Record that bars of these open times were requested at `requested_at` and do not exist."""
        if not opens:
            return
        with self._writing() as connection:
            series_id = self._series_id(connection, key)
            same = (t.gap.c.series_id == series_id, t.gap.c.requested_at == requested_at)
            known = set(connection.scalars(sa.select(t.gap.c.open_time).where(*same)))
            new = [
                {"series_id": series_id, "open_time": open_time, "requested_at": requested_at}
                for open_time in opens
                if open_time not in known
            ]
            if new:
                connection.execute(t.gap.insert(), new)

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Record that no request goes to an exchange before `until`."""
        with self._writing() as connection:
            row = {"exchange": exchange, "until": until, "reason": reason, "seen_at": seen_at}
            connection.execute(t.hold.insert().values(row))

    def add_run(self, run: Run) -> None:
        """Record a run before its forecasts; a known run stays as it is."""
        if run.id in self._runs:
            return
        with self._writing() as connection:
            if connection.scalar(sa.select(t.run.c.id).where(t.run.c.id == run.id)) is None:
                connection.execute(t.run.insert(), [asdict(run)])
        self._runs.add(run.id)

    def add_forecasts(
        self, forecasts: Sequence[OHLCForecast], run_id: str, learned: Sequence[CalibrationState] = ()
    ) -> int:
        """Append forecasts and update calibration in one transaction; return the number of new forecasts.

        A known forecast that differs by float32 noise, since another engine made it, is skipped.

        Raises:
            LedgerConflict: for a known forecast with other numbers; then nothing of the batch is written.
        """
        if not forecasts:
            return 0
        for forecast in forecasts:
            check_times(forecast)
        with self._writing() as connection:
            series = self._series_of_run(connection, {f.key for f in forecasts}, run_id)
            self._add_models(connection, forecasts)
            heads = _heads(connection, series, run_id)
            known = _known(connection, forecasts, series, run_id)
            number = connection.scalar(sa.select(sa.func.max(t.forecast.c.id))) or 0
            rows: list[dict[str, Any]] = []
            steps: list[dict[str, Any]] = []
            for forecast in forecasts:
                row = forecast_row(forecast, run_id, series[forecast.key])
                name = (row["series_id"], row["cutoff"], row["model_id"])
                same_name = known.setdefault(name, forecast)
                if same_name is not forecast:
                    self._check_equal(connection, same_name, forecast, row["payload_sha256"])
                    continue
                number += 1
                row = chained(row, forecast, heads[forecast.key])
                heads[forecast.key] = Head(row["seq"], row["chain_hash"])
                rows.append(row | {"id": number})
                steps += step_rows(forecast, number, row["series_id"])
            if rows:
                _append(connection, t.forecast, rows)
                _append(connection, t.forecast_step, steps)
            if learned:
                places = [{"series_id": series[state.key], "run_id": run_id} for state in learned]
                states = [{name: getattr(state, name) for name in ("model_id", "cutoff", "state")} for state in learned]
                connection.execute(
                    sa.text(_SET_CALIBRATION), [place | state for place, state in zip(places, states, strict=True)]
                )
        return len(rows)

    def delay_availability(self, forecasts: Sequence[OHLCForecast], run_id: str) -> None:
        """Record that these were committed later than stamped: they count as available from `available_at` on."""
        if not forecasts:
            return
        with self._writing() as connection:
            series = self._series_of_run(connection, {f.key for f in forecasts}, run_id)
            known = _known(connection, forecasts, series, run_id)
            rows = [
                {"forecast_id": known[name].id, "available_at": forecast.available_at}
                for forecast in forecasts
                if (name := (series[forecast.key], forecast.cutoff, forecast.provenance.ledger_id)) in known
                and known[name].available_at < (forecast.available_at or 0)
            ]
            query = sa.select(t.availability_delay.c.forecast_id).where(
                t.availability_delay.c.forecast_id.in_([r["forecast_id"] for r in rows])
            )
            delayed = set(connection.scalars(query))
            new = [row for row in rows if row["forecast_id"] not in delayed]
            if new:
                connection.execute(t.availability_delay.insert(), new)

    def set_pending(self, pending: Sequence[PendingForecast], changed_at: int) -> None:
        """Insert or update pending forecasts; one that is done stays done."""
        if not pending:
            return
        with self._writing() as connection:
            rows = [
                {
                    "series_id": self._series_id(connection, row.key),
                    "epoch": self.epoch,
                    "changed_at": changed_at,
                    **{name: getattr(row, name) for name in _PENDING},
                }
                for row in pending
            ]
            connection.execute(sa.text(_SET_PENDING), rows)

    def close(self) -> None:
        """Release the lease and close the database."""
        self._lease.release()
        self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._database.transaction() as connection:
            if not self._database.in_thread_transaction:
                self._lease.confirm(connection)
            yield connection

    def _series(self, key: SeriesKey, run_id: str = LIVE) -> int:
        """Return the id of a series, cached: a writer's ledger does not change under it."""
        name = (key, RunId(run_id).recorded)
        if name not in self._ids:
            series_id = super()._series(key, run_id)
            if series_id < 0:
                return series_id
            self._ids[name] = series_id
        return self._ids[name]

    def _series_id(self, connection: sa.Connection, key: SeriesKey, run_id: str = LIVE) -> int:
        """Return the id of exactly this series of exactly this run, added if it is new."""
        if run_id == LIVE and (key, LIVE) in self._ids:
            return self._ids[key, LIVE]
        series_id = _own_series(connection, {key}, run_id).get(key)
        if series_id is None:
            row = {**series_names(key), "run_id": run_id}
            series_id = connection.scalars(t.series.insert().returning(t.series.c.id), row).one()
            self._ids.pop((key, run_id), None)  # the id of the live series, which was used until now
        return series_id

    def _series_of_run(
        self, connection: sa.Connection, keys: AbstractSet[SeriesKey], run_id: str
    ) -> dict[SeriesKey, int]:
        """Return the ids of the series whose bars settle a run: its own if any, else the live ones, added if new."""
        ids = {key: self._ids[key, run_id] for key in keys if (key, run_id) in self._ids}
        for run in (run_id, LIVE):
            ids |= _own_series(connection, keys - ids.keys(), run)
        ids |= {key: self._series_id(connection, key) for key in keys - ids.keys()}
        return ids

    def _add_models(self, connection: sa.Connection, forecasts: Sequence[OHLCForecast]) -> None:
        provenances = {f.provenance.ledger_id: f.provenance for f in forecasts}
        known = set(connection.scalars(sa.select(t.model.c.id).where(t.model.c.id.in_(provenances))))
        new = [
            {
                "id": name,
                "name": provenance.model_id,
                "revision": provenance.revision,
                "weights_sha256": provenance.weights_sha256,
            }
            for name, provenance in provenances.items()
            if name not in known
        ]
        if new:
            connection.execute(t.model.insert(), new)

    def _check_equal(self, connection: sa.Connection, known: Any, forecast: OHLCForecast, payload: str) -> None:
        """Check that a forecast equals the one of the same name in the ledger or in its own batch."""
        if not isinstance(known, type(forecast)):
            if known.payload_sha256 == payload:
                return
            known = read_forecast(forecast.key, known, _query(connection, STEPS, id=known.id))
        if not same_forecast(known, forecast):
            raise LedgerConflict(f"{forecast.key} {forecast.provenance.ledger_id} at {format_time(forecast.cutoff)}")


def _own_series(connection: sa.Connection, keys: AbstractSet[SeriesKey], run_id: str) -> dict[SeriesKey, int]:
    """Return the ids of those series of a run that exist."""
    if not keys:
        return {}
    columns = (t.series.c.exchange, t.series.c.symbol, t.series.c.timeframe, t.series.c.calendar)
    names = {tuple(series_names(key).values()): key for key in keys}
    query = sa.select(*columns, t.series.c.id).where(t.series.c.run_id == run_id)
    if len(keys) == 1:
        query = query.where(*(column == name for column, name in zip(columns, next(iter(names)), strict=True)))
    return {names[row[:4]]: row.id for row in connection.execute(query) if row[:4] in names}


def _append(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows without SQLAlchemy's type handling, which takes longer than the database."""
    statement, order = _insert(table, connection.dialect, tuple(rows[0]))
    values = list(rows) if order is None else list(map(itemgetter(*order), rows))
    connection.exec_driver_sql(statement, values)


@lru_cache(maxsize=16)
def _insert(table: sa.Table, dialect: sa.Dialect, columns: tuple[str, ...]) -> tuple[str, list[str] | None]:
    """Return the text of an INSERT, and the order of its values if they are positional."""
    compiled = table.insert().compile(dialect=dialect, column_keys=list(columns))
    return str(compiled), compiled.positiontup


def _query(connection: sa.Connection, sql: str, **values: object) -> Sequence[Any]:
    return connection.execute(sa.text(sql), values).all()


def _heads(connection: sa.Connection, series: dict[SeriesKey, int], run_id: str) -> dict[SeriesKey, Head]:
    """Return the head of each series' chain in a run."""
    heads = {}
    for ids in _chunks(list(series.values())):
        for row in connection.execute(_LAST_FORECASTS, {"run": run_id, "ids": ids}):
            heads[row.series_id] = Head(row.seq, row.chain_hash)
    return {key: heads.get(series_id) or _initial_head(key, "forecast", run_id) for key, series_id in series.items()}


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    return (ids[first : first + _IDS_PER_QUERY] for first in range(0, len(ids), _IDS_PER_QUERY))


def _initial_head(key: SeriesKey, kind: str, *more: str) -> Head:
    """Return what precedes the first row of a chain."""
    return Head(0, initial_hash(kind, key.exchange, key.symbol, str(key.timeframe), key.calendar, *more))


def _known(
    connection: sa.Connection, forecasts: Sequence[OHLCForecast], series: dict[SeriesKey, int], run_id: str
) -> dict[tuple[int, int, str], Any]:
    """Return the forecasts of a run that the ledger already has, among the series and cutoffs of a batch."""
    cutoffs = [forecast.cutoff for forecast in forecasts]
    span = {"run": run_id, "first": min(cutoffs), "last": max(cutoffs)}
    known = {}
    for ids in _chunks(list(series.values())):
        rows = connection.execute(_KNOWN, {"ids": ids, **span})
        known.update({(row.series_id, row.cutoff, row.model_id): row for row in rows})
    return known
