"""Keeping a ledger: how large it is, copies of it, and what may leave it.

Live forecasts and bars never leave. Whole runs of other doors may: replays and single predictions, whose chains are
their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from forecaster.errors import StoreUnavailable
from forecaster.ledger import LIVE
from forecaster.store import migrations, sqlite
from forecaster.store import schema as t
from forecaster.store.database import Database
from forecaster.store.lease import Lease
from forecaster.store.sqlite import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
    "slot",
    "calibration",
)


@dataclass(frozen=True)
class StoreFacts:
    """What a ledger holds: bytes, rows by table, and the rows of a run."""

    url: str
    schema: int
    bytes: int
    rows: dict[str, int]
    forecasts_by_run: dict[str, int]


def facts(url: str) -> StoreFacts:
    """Measure a ledger, beside whoever writes it.

    Raises:
        StoreUnavailable: when there is none, or it cannot be read.
    """
    database = Database(url)
    try:
        found = schema(url)
        if found != SCHEMA:
            raise StoreUnavailable(database.url, f"expected a ledger of schema {SCHEMA}, found {found or 'none'}")
        with database.transaction(write=False) as connection:
            counted = {name: sa.select(sa.func.count()).select_from(t.metadata.tables[name]) for name in _COUNTED}
            rows = {name: int(connection.scalar(query) or 0) for name, query in counted.items()}
            by_run = sa.select(t.forecast.c.run_id, sa.func.count()).group_by(t.forecast.c.run_id)
            forecasts = {run: int(count) for run, count in connection.execute(by_run.order_by(t.forecast.c.run_id))}
            size = _bytes(connection, database.path)
        return StoreFacts(database.url, found, size, rows, forecasts)
    finally:
        database.close()


def schema(url: str) -> int:
    """The schema of a ledger, 0 when there is none yet."""
    database = Database(url)
    try:
        if database.path is not None and not database.path.exists():
            return 0
        with database.transaction(write=False) as connection:
            return migrations.schema_of(connection)
    finally:
        database.close()


def backup(url: str, to: Path) -> None:
    """Copy an SQLite ledger while it is in use, and check the copy.

    Raises:
        StoreUnavailable: when it cannot be copied, or is of another database, which has tools of its own.
    """
    database = Database(url)
    database.close()
    if database.path is None:
        raise StoreUnavailable(database.url, "expected an SQLite ledger; use pg_dump for this one")
    sqlite.copy(database.path, to)


def vacuum(url: str) -> None:
    """Give back the space that deleted rows have left.

    Raises:
        StoreUnavailable: when another process writes, or the disk has no room for a copy.
    """
    with _Alone(url) as database, database.engine.connect() as connection:
        if database.is_sqlite:
            connection.connection.execute("VACUUM")  # past SQLAlchemy, which would begin a transaction
        else:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM")


def prune(url: str, before: int, *, dry_run: bool) -> dict[str, int]:
    """Delete the runs that began before a time (UTC ms), but never the live one; returns their forecasts, by run.

    Raises:
        StoreUnavailable: when another process writes.
    """
    with _Alone(url) as database, database.transaction() as connection:
        old = sa.select(t.run.c.id).where(t.run.c.id != LIVE, t.run.c.started_at < before).order_by(t.run.c.id)
        runs = list(connection.scalars(old))
        counted = sa.select(sa.func.count()).select_from(t.forecast)
        found = {run: int(connection.scalar(counted.where(t.forecast.c.run_id == run)) or 0) for run in runs}
        if not dry_run:
            _delete(connection, runs)
    return found


class _Alone:
    """A ledger that nobody else writes."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._lease = Lease(self._database)

    def __enter__(self) -> Database:
        return self._database

    def __exit__(self, *_: object) -> None:
        self._lease.release()
        self._database.close()


def _delete(connection: sa.Connection, runs: Sequence[str]) -> None:
    """Delete whole runs; the triggers that forbid it stand aside until the transaction ends."""
    tables = ("forecast_step", "forecast", "run")
    guards = _guards(connection, tables)
    for drop, _ in guards:
        connection.exec_driver_sql(drop)
    for run in runs:
        ids = sa.select(t.forecast.c.id).where(t.forecast.c.run_id == run)
        connection.execute(t.forecast_step.delete().where(t.forecast_step.c.forecast_id.in_(ids)))
        connection.execute(t.forecast.delete().where(t.forecast.c.run_id == run))
        connection.execute(t.calibration.delete().where(t.calibration.c.run_id == run))
        connection.execute(t.run.delete().where(t.run.c.id == run))
    for _, make in guards:
        connection.exec_driver_sql(make)


def _guards(connection: sa.Connection, tables: Sequence[str]) -> list[tuple[str, str]]:
    """How to take away the triggers of tables, and how to put them back."""
    if connection.dialect.name != "sqlite":
        alter = "ALTER TABLE {} {} TRIGGER USER"
        return [(alter.format(name, "DISABLE"), alter.format(name, "ENABLE")) for name in tables]
    query = sa.text("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
    return [(f"DROP TRIGGER {row.name}", row.sql) for row in connection.execute(query) if row.tbl_name in tables]


def _bytes(connection: sa.Connection, path: Path | None) -> int:
    if path is not None:
        return sum(one.stat().st_size for one in path.parent.glob(f"{path.name}*") if one.name in _parts(path))
    size: Any = connection.scalar(sa.text("SELECT pg_database_size(current_database())"))
    return int(size)


def _parts(path: Path) -> set[str]:
    return {path.name, f"{path.name}-wal", f"{path.name}-journal"}
