"""Maintenance of a ledger: its size, copies, runs, and deletion of runs.

Live forecasts and live bars are never deleted. Whole runs of another kind can be: replays, with their own bars, and
predictions. Their chains are separate.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from forecaster.errors import ConfigError, LedgerMissing, StoreUnavailable
from forecaster.ledger import LIVE
from forecaster.store import migrations, open_database, sqlite
from forecaster.store import schema as t
from forecaster.store.backup import copy_ledger
from forecaster.store.database import Database
from forecaster.store.lease import Lease
from forecaster.store.sqlite import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from forecaster.store.queries import QueryRunner

_COUNTED: Final = (
    "series",
    "bar",
    "gap",
    "quarantine",
    "hold",
    "model",
    "run",
    "forecast",
    "forecast_step",
    "availability_delay",
    "pending_forecast",
    "calibration",
)
_RUNS: Final = """
SELECT r.id, r.kind, r.started_at, r.plan,
    (SELECT COUNT(*) FROM forecast f WHERE f.run_id = r.id) AS forecasts,
    (SELECT COUNT(*) FROM bar b JOIN series n ON n.id = b.series_id WHERE n.run_id = r.id) AS bars
FROM run r ORDER BY r.started_at, r.id"""
_OF_FORECASTS: Final = (t.forecast_step.c.forecast_id, t.availability_delay.c.forecast_id)
_OF_SERIES: Final = (t.bar, t.gap, t.quarantine, t.pending_forecast)


@dataclass(frozen=True)
class LedgerStats:
    """The size of a ledger: bytes, rows by table, forecasts by run."""

    url: str
    schema: int
    bytes: int
    rows: dict[str, int]
    forecasts_by_run: dict[str, int]


@dataclass(frozen=True)
class RunStats:
    """The size of a run.

    Args:
        id: of the run.
        kind: live, replay or predict.
        started_at: UTC ms at which it first ran.
        plan: JSON of what determines its forecasts; empty for the live run.
        forecasts: number of its forecasts.
        bars: number of revisions of its own bars; for the live run, of all live bars.
    """

    id: str
    kind: str
    started_at: int
    plan: str
    forecasts: int
    bars: int


def ledger_stats(url: str) -> LedgerStats:
    """Measure a ledger, also while it is written.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when it cannot be read.
    """
    database = Database(url)
    database.close()
    with closing(open_database(url)) as reader:
        rows = {name: int(reader.query(f"SELECT COUNT(*) AS n FROM {name}", {})[0].n) for name in _COUNTED}  # noqa: S608
        by_run = reader.query("SELECT run_id, COUNT(*) AS n FROM forecast GROUP BY run_id ORDER BY run_id", {})
        size = _bytes_of(database.path) if database.path is not None else _bytes_on_server(reader)
    return LedgerStats(database.url, SCHEMA, size, rows, {row.run_id: int(row.n) for row in by_run})


def runs(url: str) -> list[RunStats]:
    """Return all runs of a ledger, by start time.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when it cannot be read.
    """
    with closing(open_database(url)) as reader:
        return [
            RunStats(row.id, row.kind, int(row.started_at), row.plan, int(row.forecasts), int(row.bars))
            for row in reader.query(_RUNS, {})
        ]


def schema_version(url: str) -> int:
    """Return the schema of a ledger.

    Raises:
        LedgerMissing: when there is none.
    """
    with closing(Database(url)) as database:
        if database.path is None:
            version = migrations.schema_in(database)
        else:
            version = sqlite.schema_at(database.path) if database.path.exists() else 0
    if not version:
        raise LedgerMissing(database.url)
    return version


def backup(url: str, to: Path, on_progress: Callable[[int, int], None] = lambda _, __: None) -> None:
    """Copy an SQLite ledger while it is in use, and check the copy.

    `on_progress` is called after every step with the number of pages left, and of all pages.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when it cannot be copied, or is not an SQLite file.
    """
    database = Database(url)
    database.close()
    if database.path is None:
        raise StoreUnavailable(database.url, "expected an SQLite ledger; use pg_dump for this one")
    copy_ledger(database.path, to, on_progress)


def vacuum(url: str) -> None:
    """Return the space of deleted rows to the file system.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when another process writes, or the disk has no room for a copy.
    """
    with _ExclusiveDatabase(url) as database, database.faults(), database.engine.connect() as connection:
        if database.is_sqlite:
            connection.connection.execute("VACUUM")  # directly, since SQLAlchemy would begin a transaction
        else:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM")


def prune(url: str, before: int, *, dry_run: bool) -> dict[str, int]:
    """Delete the runs that started before a time (UTC ms), except the live one; return their forecasts by run.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when another process writes.
    """
    if dry_run:
        return {run.id: run.forecasts for run in runs(url) if _is_old(run, before)}
    with _ExclusiveDatabase(url) as database:
        old = {run.id: run.forecasts for run in runs(url) if _is_old(run, before)}
        with database.transaction() as connection:
            _delete(connection, list(old))
    return old


def delete_runs(url: str, ids: Sequence[str], *, dry_run: bool = False) -> list[RunStats]:
    """Delete runs by id, with their forecasts, calibration and own bars; return what they held.

    Raises:
        ConfigError: for the live run or an unknown one; then nothing is deleted.
        LedgerMissing: when there is none.
        StoreUnavailable: when another process writes.
    """
    if dry_run:
        return _chosen(runs(url), ids)
    _chosen(runs(url), ids)
    with _ExclusiveDatabase(url) as database:
        chosen = _chosen(runs(url), ids)
        with database.transaction() as connection:
            _delete(connection, [run.id for run in chosen])
    return chosen


def _chosen(all_runs: Sequence[RunStats], ids: Sequence[str]) -> list[RunStats]:
    known = {run.id: run for run in all_runs if run.id != LIVE}
    for name in ids:
        if name == LIVE:
            raise ConfigError("run", "a replay or a prediction; live forecasts are never deleted", name)
        if name not in known:
            raise ConfigError("run", f"one of {', '.join(known) or 'none: there is only the live run'}", name)
    return [known[name] for name in dict.fromkeys(ids)]


def _is_old(run: RunStats, before: int) -> bool:
    return run.id != LIVE and run.started_at < before


class _ExclusiveDatabase:
    """An existing ledger, with its lease held."""

    def __init__(self, url: str) -> None:
        schema_version(url)
        self._database = Database(url)
        try:
            self._lease = Lease(self._database)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Database:
        return self._database

    def __exit__(self, *_: object) -> None:
        self._lease.release()
        self._database.close()


def _delete(connection: sa.Connection, runs: Sequence[str]) -> None:
    """Delete whole runs; the triggers that forbid it are dropped until the transaction ends."""
    triggers = _triggers(connection, [table.name for table in t.APPEND_ONLY]) if runs else []
    for drop, _ in triggers:
        connection.exec_driver_sql(drop)
    for run in runs:
        forecasts = sa.select(t.forecast.c.id).where(t.forecast.c.run_id == run)
        for column in _OF_FORECASTS:
            connection.execute(sa.delete(column.table).where(column.in_(forecasts)))
        connection.execute(t.calibration.delete().where(t.calibration.c.run_id == run))
        connection.execute(t.forecast.delete().where(t.forecast.c.run_id == run))
        own = sa.select(t.series.c.id).where(t.series.c.run_id == run)
        for table in _OF_SERIES:
            connection.execute(table.delete().where(table.c.series_id.in_(own)))
        connection.execute(t.series.delete().where(t.series.c.run_id == run))
        connection.execute(t.run.delete().where(t.run.c.id == run))
    for _, create in triggers:
        connection.exec_driver_sql(create)


def _triggers(connection: sa.Connection, tables: Sequence[str]) -> list[tuple[str, str]]:
    """Return the statements that drop and create each trigger of these tables."""
    if connection.dialect.name != "sqlite":
        alter = "ALTER TABLE {} {} TRIGGER USER"
        return [(alter.format(name, "DISABLE"), alter.format(name, "ENABLE")) for name in tables]
    query = sa.text("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
    return [(f"DROP TRIGGER {row.name}", row.sql) for row in connection.execute(query) if row.tbl_name in tables]


def _bytes_of(path: Path) -> int:
    names = {path.name, f"{path.name}-wal", f"{path.name}-journal"}
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.name in names)


def _bytes_on_server(reader: QueryRunner) -> int:
    return int(reader.query("SELECT pg_database_size(current_database()) AS n", {})[0].n)
