"""Keeping a ledger: how large it is, copies of it, its runs, and what may leave it.

Live forecasts and bars never leave. Whole runs of other doors may: replays, with the bars that are theirs alone, and
single predictions. Their chains are their own.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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
class StoreFacts:
    """What a ledger holds: bytes, rows by table, and the rows of a run."""

    url: str
    schema: int
    bytes: int
    rows: dict[str, int]
    forecasts_by_run: dict[str, int]


@dataclass(frozen=True)
class RunFacts:
    """What a ledger holds of a run.

    Args:
        id: of the run.
        door: which of the three doors it came through.
        started_at: UTC ms at which it ran for the first time.
        plan: JSON of what decided its forecasts; empty for the live run.
        forecasts: how many it made.
        bars: how many versions of bars it alone sees; of the live run, all others.
    """

    id: str
    kind: str
    started_at: int
    plan: str
    forecasts: int
    bars: int


def facts(url: str) -> StoreFacts:
    """Measure a ledger, beside whoever writes it.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when it cannot be read.
    """
    database = Database(url)
    database.close()
    with closing(open_database(url)) as asked:
        rows = {name: int(asked.query(f"SELECT COUNT(*) AS n FROM {name}", {})[0].n) for name in _COUNTED}  # noqa: S608
        by_run = asked.query("SELECT run_id, COUNT(*) AS n FROM forecast GROUP BY run_id ORDER BY run_id", {})
        size = _bytes_of(database.path) if database.path is not None else _bytes_on_server(asked)
    return StoreFacts(database.url, SCHEMA, size, rows, {row.run_id: int(row.n) for row in by_run})


def runs(url: str) -> list[RunFacts]:
    """Give all runs of a ledger, by the time at which they ran.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when it cannot be read.
    """
    with closing(open_database(url)) as asked:
        return [
            RunFacts(row.id, row.kind, int(row.started_at), row.plan, int(row.forecasts), int(row.bars))
            for row in asked.query(_RUNS, {})
        ]


def schema(url: str) -> int:
    """The schema of a ledger.

    Raises:
        LedgerMissing: when there is none.
    """
    with closing(Database(url)) as database:
        if database.path is None:
            found = migrations.schema_in(database)
        else:
            found = sqlite.schema_at(database.path) if database.path.exists() else 0
    if not found:
        raise LedgerMissing(database.url)
    return found


def backup(url: str, to: Path, on_portion: Callable[[int, int], None] = lambda _, __: None) -> None:
    """Copy an SQLite ledger while it is in use, and check the copy.

    `on_portion` hears of every portion how many pages are left, and how many there are.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when it cannot be copied, or is of another database, which has tools of its own.
    """
    database = Database(url)
    database.close()
    if database.path is None:
        raise StoreUnavailable(database.url, "expected an SQLite ledger; use pg_dump for this one")
    copy_ledger(database.path, to, on_portion)


def vacuum(url: str) -> None:
    """Give back the space that deleted rows have left.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when another process writes, or the disk has no room for a copy.
    """
    with _Alone(url) as database, database.faults(), database.engine.connect() as connection:
        if database.is_sqlite:
            connection.connection.execute("VACUUM")  # past SQLAlchemy, which would begin a transaction
        else:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM")


def prune(url: str, before: int, *, dry_run: bool) -> dict[str, int]:
    """Delete the runs that ran before a time (UTC ms), but never the live one; returns their forecasts, by run.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when another process writes.
    """
    if dry_run:
        return {one.id: one.forecasts for one in runs(url) if _is_old(one, before)}
    with _Alone(url) as database:
        old = {one.id: one.forecasts for one in runs(url) if _is_old(one, before)}
        with database.transaction() as connection:
            _delete(connection, list(old))
    return old


def delete_runs(url: str, ids: Sequence[str], *, dry_run: bool = False) -> list[RunFacts]:
    """Delete runs by name, with all that is theirs alone: forecasts, calibration, bars; gives what they held.

    Raises:
        ConfigError: for the live run, and for a run that is not there; nothing is deleted then.
        LedgerMissing: when there is none.
        StoreUnavailable: when another process writes.
    """
    if dry_run:
        return _chosen(runs(url), ids)
    _chosen(runs(url), ids)
    with _Alone(url) as database:
        chosen = _chosen(runs(url), ids)
        with database.transaction() as connection:
            _delete(connection, [one.id for one in chosen])
    return chosen


def _chosen(there: Sequence[RunFacts], ids: Sequence[str]) -> list[RunFacts]:
    known = {one.id: one for one in there if one.id != LIVE}
    for name in ids:
        if name == LIVE:
            raise ConfigError("run", "a replay or a prediction; live forecasts never leave", name)
        if name not in known:
            raise ConfigError("run", f"one of {', '.join(known) or 'none: there is only the live run'}", name)
    return [known[name] for name in dict.fromkeys(ids)]


def _is_old(run: RunFacts, before: int) -> bool:
    return run.id != LIVE and run.started_at < before


class _Alone:
    """A ledger that is there, and that nobody else writes."""

    def __init__(self, url: str) -> None:
        schema(url)
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
    """Delete whole runs; the triggers that forbid it stand aside until the transaction ends."""
    guards = _guards(connection, [table.name for table in t.APPEND_ONLY]) if runs else []
    for drop, _ in guards:
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
    for _, make in guards:
        connection.exec_driver_sql(make)


def _guards(connection: sa.Connection, tables: Sequence[str]) -> list[tuple[str, str]]:
    """How to take away the triggers of tables, and how to put them back."""
    if connection.dialect.name != "sqlite":
        alter = "ALTER TABLE {} {} TRIGGER USER"
        return [(alter.format(name, "DISABLE"), alter.format(name, "ENABLE")) for name in tables]
    query = sa.text("SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger'")
    return [(f"DROP TRIGGER {row.name}", row.sql) for row in connection.execute(query) if row.tbl_name in tables]


def _bytes_of(path: Path) -> int:
    parts = {path.name, f"{path.name}-wal", f"{path.name}-journal"}
    return sum(one.stat().st_size for one in path.parent.iterdir() if one.name in parts)


def _bytes_on_server(asked: Any) -> int:
    return int(asked.query("SELECT pg_database_size(current_database()) AS n", {})[0].n)
