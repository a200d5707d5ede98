"""The store on a database: one class for every SQLAlchemy URL, SQLite by default.

Here are transactions and queries; what a row holds is in `rows`, what the tables are in `schema`.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import sqlalchemy as sa

from forecaster.bars import COLUMNS, FIELDS, Bars, RejectedRow, SeriesKey
from forecaster.errors import LedgerConflict, SchemaTooNew, StoreUnavailable
from forecaster.forecast import same_forecast
from forecaster.ledger import LIVE, LedgerRow, Run, SettledRow
from forecaster.store import schema as t
from forecaster.store.rows import (
    bar_row,
    forecast_row,
    ledger_order,
    quarantine_row,
    read_forecast,
    read_rejected,
    read_row,
    value_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from forecaster.forecast import OHLCForecast

_T = TypeVar("_T")
_PORTION = 500
BUSY_TIMEOUT_MS = 10_000
_WAL_FIXED_IN = ((3, 51, 3), (3, 50, 7), (3, 44, 6))


class SqlStore:
    """A `Store` on SQLite (or another database that SQLAlchemy speaks to).

    Raises:
        StoreUnavailable: when the database cannot be opened.
        SchemaTooNew: when a newer program wrote it.
    """

    def __init__(self, url: str) -> None:
        self._url = _without_password(url)
        try:
            self._engine = sa.create_engine(url)
        except (sa.exc.ArgumentError, ImportError, ValueError) as error:
            raise StoreUnavailable(
                self._url, f"expected memory: or a URL such as sqlite:///ledger.db: {error}"
            ) from error
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        with self._transaction() as connection:
            t.metadata.create_all(connection)
            found = connection.scalar(sa.select(sa.func.max(t.schema_version.c.version)))
            if found is None:
                connection.execute(t.schema_version.insert().values(version=t.SCHEMA_VERSION))
            elif found > t.SCHEMA_VERSION:
                raise SchemaTooNew(self._url, t.SCHEMA_VERSION, found)

    def add_bars(self, bars: Bars) -> int:
        """Append bars that are new, and a further revision of those that changed; returns how many rows."""
        if not len(bars):
            return 0
        with self._transaction() as connection:
            series_id = self._series_id(connection, bars.key)
            span = (int(bars.open_time[0]), int(bars.open_time[-1]) + 1)
            known = {row[0]: row for row in connection.execute(_newest_bars(series_id, *span))}
            rows = [bar_row(bars, i, series_id, known.get(int(bars.open_time[i]))) for i in range(len(bars))]
            new = [row for row in rows if row is not None]
            if new:
                connection.execute(t.bar.insert(), new)
        return len(new)

    def bars(self, key: SeriesKey, start: int | None = None, end: int | None = None, as_of: int | None = None) -> Bars:
        """Give the newest revision of every bar whose open_time lies in [start, end), as known at `as_of`."""
        with self._transaction(write=False) as connection:
            query = _newest_bars(self._find_series(connection, key), start, end, as_of)
            rows = connection.execute(query).all()
        if not rows:
            return Bars.empty(key)
        columns = np.array(rows, dtype=np.float64)
        times, seen, revision = (np.array([row[i] for row in rows], np.int64) for i in (0, 6, 7))
        return Bars(key, times, columns[:, 1:6], seen, revision)

    def opens(self, key: SeriesKey, start: int, end: int) -> NDArray[np.int64]:
        """Give the open times in [start, end) of which there is a bar, rising."""
        with self._transaction(write=False) as connection:
            query = (
                sa.select(t.bar.c.open_time).distinct().where(t.bar.c.series_id == self._find_series(connection, key))
            )
            query = query.where(t.bar.c.open_time >= start, t.bar.c.open_time < end).order_by(t.bar.c.open_time)
            return np.array(connection.scalars(query).all(), np.int64)

    def newest_open(self, key: SeriesKey) -> int | None:
        """Open time of the newest bar of a series, None when there is none."""
        return self._open_time(key, sa.func.max(t.bar.c.open_time))

    def oldest_open(self, key: SeriesKey) -> int | None:
        """Open time of the oldest bar of a series, None when there is none."""
        return self._open_time(key, sa.func.min(t.bar.c.open_time))

    def quarantine(self, key: SeriesKey, rows: Sequence[RejectedRow], seen_at: int) -> None:
        """Keep rows that were refused, with their reasons; one that is there already stays as it is."""
        if not rows:
            return
        with self._transaction() as connection:
            series_id = self._series_id(connection, key)
            made = [quarantine_row(row, series_id, seen_at) for row in rows]
            columns = (t.quarantine.c.open_time, t.quarantine.c.row, t.quarantine.c.reason, t.quarantine.c.body)
            query = sa.select(*columns).where(t.quarantine.c.series_id == series_id)
            known: set[tuple[Any, ...]] = set()
            for some in _portions(sorted({row.open_time for row in rows})):
                known.update(map(tuple, connection.execute(query.where(t.quarantine.c.open_time.in_(some)))))
            by_content = {(row["open_time"], row["row"], row["reason"], row["body"]): row for row in made}
            new = [row for content, row in by_content.items() if content not in known]
            if new:
                connection.execute(t.quarantine.insert(), new)

    def rejected(self, key: SeriesKey) -> list[RejectedRow]:
        """Give the rows of a series that were refused, in the order in which they came."""
        columns = (t.quarantine.c[name] for name in ("open_time", "row", "reason", "body"))
        with self._transaction(write=False) as connection:
            where = t.quarantine.c.series_id == self._find_series(connection, key)
            rows = connection.execute(sa.select(*columns).where(where).order_by(t.quarantine.c.id)).all()
        return [read_rejected(row) for row in rows]

    def add_gaps(self, key: SeriesKey, opens: Sequence[int], asked_at: int) -> None:
        """Keep that the bars of these open times were asked for at `asked_at`, and that there were none."""
        if not opens:
            return
        with self._transaction() as connection:
            series_id = self._series_id(connection, key)
            same = (t.gap.c.series_id == series_id, t.gap.c.asked_at == asked_at)
            known = set(connection.scalars(sa.select(t.gap.c.open_time).where(*same)))
            new = [
                {"series_id": series_id, "open_time": one, "asked_at": asked_at} for one in opens if one not in known
            ]
            if new:
                connection.execute(t.gap.insert(), new)

    def gaps(self, key: SeriesKey, start: int, end: int) -> dict[int, list[int]]:
        """Give the open times in [start, end) without a bar, with the times at which each was asked for."""
        filled = sa.exists().where(t.bar.c.series_id == t.gap.c.series_id, t.bar.c.open_time == t.gap.c.open_time)
        with self._transaction(write=False) as connection:
            query = (
                sa.select(t.gap.c.open_time, t.gap.c.asked_at)
                .where(t.gap.c.series_id == self._find_series(connection, key))
                .where(t.gap.c.open_time >= start, t.gap.c.open_time < end, ~filled)
                .order_by(t.gap.c.open_time, t.gap.c.asked_at)
            )
            rows = connection.execute(query).all()
        found: dict[int, list[int]] = {}
        for row in rows:
            found.setdefault(row.open_time, []).append(row.asked_at)
        return found

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Keep that this exchange is not to be asked before `until`."""
        with self._transaction() as connection:
            row = {"exchange": exchange, "until": until, "reason": reason, "seen_at": seen_at}
            connection.execute(t.hold.insert().values(row))

    def held_until(self, exchange: str) -> int | None:
        """Give the latest time before which this exchange is not to be asked; None when there was never one."""
        with self._transaction(write=False) as connection:
            query = sa.select(sa.func.max(t.hold.c.until)).where(t.hold.c.exchange == exchange)
            found: int | None = connection.scalar(query)
        return found

    def add_run(self, run: Run) -> None:
        """Name a run before its forecasts; a run that is known stays as it is."""
        with self._transaction() as connection:
            if connection.scalar(sa.select(t.run.c.id).where(t.run.c.id == run.id)) is None:
                connection.execute(t.run.insert(), [asdict(run)])

    def add_forecasts(self, forecasts: Sequence[OHLCForecast], run_id: str) -> int:
        """Append forecasts in one transaction; returns how many are new.

        One that is there and differs by float32's noise alone, since another engine made it, stays as it is.

        Raises:
            LedgerConflict: when one is there with other numbers; then nothing of the batch is written.
        """
        with self._transaction() as connection:
            series_ids = {key: self._series_id(connection, key) for key in {f.key for f in forecasts}}
            self._add_models(connection, forecasts)
            rows = [forecast_row(one, run_id, series_ids[one.key]) for one in forecasts]
            held = self._known_payloads(connection, [row["id"] for row in rows])
            new: dict[str, OHLCForecast] = {}
            for row, forecast in zip(rows, forecasts, strict=True):
                name, payload = row["id"], row["payload_sha256"]
                if name not in held:
                    new[name] = forecast
                if held.setdefault(name, payload) == payload:
                    continue
                if not same_forecast(new.get(name) or self._read(connection, forecast.key, name), forecast):
                    raise LedgerConflict(name)
            if new:
                connection.execute(
                    t.forecast.insert(), list({row["id"]: row for row in rows if row["id"] in new}.values())
                )
                values = [value for name, forecast in new.items() for value in value_rows(forecast, name)]
                connection.execute(t.forecast_value.insert(), values)
        return len(new)

    def latest(self, key: SeriesKey, model_name: str, run_id: str = LIVE) -> OHLCForecast | None:
        """Give the forecast with the newest cutoff that a model of this name made."""
        with self._transaction(write=False) as connection:
            series_id = self._find_series(connection, key)
            found = connection.execute(
                sa.select(t.forecast.c.id)
                .join(t.model)
                .where(t.forecast.c.series_id == series_id, t.forecast.c.run_id == run_id, t.model.c.name == model_name)
                .order_by(t.forecast.c.cutoff.desc(), t.forecast.c.issued_at.desc())
                .limit(1)
            ).first()
            if found is None:
                return None
            return self._read(connection, key, found.id)

    def history(self, key: SeriesKey, start: int, end: int, run_id: str = LIVE) -> list[LedgerRow]:
        """Give all models' rows whose cutoff lies in [start, end), by cutoff, model, step and field."""
        with self._transaction(write=False) as connection:
            series_id = self._find_series(connection, key)
            query = (
                _ledger_query()
                .where(t.forecast.c.series_id == series_id, t.forecast.c.run_id == run_id)
                .where(t.forecast.c.cutoff >= start, t.forecast.c.cutoff < end)
                .order_by(t.forecast.c.cutoff, t.forecast.c.model_id, t.forecast_value.c.step)
            )
            rows = connection.execute(query).all()
        return sorted((read_row(row) for row in rows), key=ledger_order)

    def settled_rows(self, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledRow]:
        """Give rows whose target bar was first seen in (since, as_of], with the newest revision of it."""
        query = (
            _ledger_query()
            .add_columns(*(t.bar.c[name].label(f"actual_{name}") for name in FIELDS), t.bar.c.revision)
            .join(
                t.bar,
                (t.bar.c.series_id == t.forecast.c.series_id) & (t.bar.c.open_time == t.forecast_value.c.target_open),
            )
            .where(t.forecast.c.run_id == run_id, t.bar.c.first_seen_at <= as_of, t.bar.c.revision == _newest_of(as_of))
        )
        if since is not None:
            query = query.where(t.bar.c.first_seen_at > since)
        with self._transaction(write=False) as connection:
            rows = connection.execute(query).all()
        settled = [SettledRow(read_row(row), float(getattr(row, f"actual_{row.field}")), row.revision) for row in rows]
        return sorted(settled, key=lambda one: ledger_order(one.row))

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[sa.Connection]:
        """One transaction: committed when the block ends, undone when it raises."""
        try:
            with self._engine.connect().execution_options(write=write) as connection, connection.begin():
                yield connection
        except (sa.exc.DBAPIError, sqlite3.Error) as error:
            raise StoreUnavailable(self._url, str(getattr(error, "orig", error))) from error

    def _open_time(self, key: SeriesKey, which: sa.Function[int]) -> int | None:
        with self._transaction(write=False) as connection:
            series_id = self._find_series(connection, key)
            found: int | None = connection.scalar(sa.select(which).where(t.bar.c.series_id == series_id))
        return found

    def _find_series(self, connection: sa.Connection, key: SeriesKey) -> int:
        """Id of a series, -1 when it is not there yet."""
        found: int | None = connection.scalar(
            sa.select(t.series.c.id).where(
                t.series.c.exchange == key.exchange,
                t.series.c.symbol == key.symbol,
                t.series.c.timeframe == str(key.timeframe),
            )
        )
        return -1 if found is None else found

    def _series_id(self, connection: sa.Connection, key: SeriesKey) -> int:
        found = self._find_series(connection, key)
        if found >= 0:
            return found
        row = {
            "exchange": key.exchange,
            "symbol": key.symbol,
            "timeframe": str(key.timeframe),
            "calendar": key.calendar,
        }
        connection.execute(t.series.insert().values(row))
        return self._find_series(connection, key)

    def _add_models(self, connection: sa.Connection, forecasts: Sequence[OHLCForecast]) -> None:
        rows = {f.provenance.ledger_id: f for f in forecasts}
        known = set(connection.scalars(sa.select(t.model.c.id).where(t.model.c.id.in_(rows))))
        new = [
            {
                "id": name,
                "name": f.provenance.model_id,
                "revision": f.provenance.revision,
                "weights_sha256": f.provenance.weights_sha256,
            }
            for name, f in rows.items()
            if name not in known
        ]
        if new:
            connection.execute(t.model.insert(), new)

    def _read(self, connection: sa.Connection, key: SeriesKey, name: str) -> OHLCForecast:
        row = connection.execute(sa.select(t.forecast).where(t.forecast.c.id == name)).one()
        values = sa.select(t.forecast_value).where(t.forecast_value.c.forecast_id == name)
        return read_forecast(key, row, connection.execute(values.order_by(t.forecast_value.c.step)).all())

    def _known_payloads(self, connection: sa.Connection, names: list[str]) -> dict[str, str]:
        known: dict[str, str] = {}
        for some in _portions(names):
            query = sa.select(t.forecast.c.id, t.forecast.c.payload_sha256).where(t.forecast.c.id.in_(some))
            known.update((row.id, row.payload_sha256) for row in connection.execute(query))
        return known


def _portions(names: list[_T]) -> Iterator[list[_T]]:
    """As many as one query names: every SQLite takes so many values."""
    return (names[first : first + _PORTION] for first in range(0, len(names), _PORTION))


def _without_password(url: str) -> str:
    return re.sub(r"(://[^/@]*?):[^/@]*@", r"\1:***@", url)


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    """Full synchronisation; write-ahead log only where SQLite's WAL-reset bug is fixed."""
    del record
    connection.isolation_level = None
    journal = "WAL" if _wal_is_safe(sqlite3.sqlite_version_info) else "DELETE"
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        f"journal_mode={journal}",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    """Take the write lock at once where a transaction will write: no deadlock half-way."""
    writes = connection.get_execution_options().get("write", True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the WAL-reset fix (sqlite.org/wal.html, section 11)."""
    return version >= _WAL_FIXED_IN[0] or any(fixed <= version < (fixed[0], fixed[1] + 1) for fixed in _WAL_FIXED_IN)


def _newest_of(as_of: int | None = None) -> sa.ScalarSelect[Any]:
    """Newest revision of the outer query's bar, as known at `as_of`."""
    other = t.bar.alias("other")
    query = sa.select(sa.func.max(other.c.revision)).where(
        other.c.series_id == t.bar.c.series_id, other.c.open_time == t.bar.c.open_time
    )
    if as_of is not None:
        query = query.where(other.c.first_seen_at <= as_of)
    return query.scalar_subquery()


def _newest_bars(series_id: int, start: int | None, end: int | None, as_of: int | None = None) -> sa.Select[Any]:
    columns = (t.bar.c.open_time, *(t.bar.c[name] for name in COLUMNS), t.bar.c.first_seen_at, t.bar.c.revision)
    query = sa.select(*columns).where(t.bar.c.series_id == series_id, t.bar.c.revision == _newest_of(as_of))
    if start is not None:
        query = query.where(t.bar.c.open_time >= start)
    if end is not None:
        query = query.where(t.bar.c.open_time < end)
    return query.order_by(t.bar.c.open_time)


def _ledger_query() -> sa.Select[Any]:
    return (
        sa.select(
            t.series.c.exchange,
            t.series.c.symbol,
            t.series.c.timeframe,
            t.series.c.calendar,
            t.forecast.c.model_id,
            t.forecast.c.run_id,
            t.forecast.c.cutoff,
            t.forecast.c.issued_at,
            t.forecast.c.available_at,
            t.forecast.c.engine,
            t.forecast_value.c.step,
            t.forecast_value.c.field,
            t.forecast_value.c.target_open,
            t.forecast_value.c.raw,
            t.forecast_value.c.repaired,
            t.forecast.c.quantile_levels,
        )
        .select_from(t.forecast)
        .join(t.forecast_value, t.forecast_value.c.forecast_id == t.forecast.c.id)
        .join(t.series, t.series.c.id == t.forecast.c.series_id)
    )
