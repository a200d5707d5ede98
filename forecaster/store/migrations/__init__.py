"""From any schema that was ever released to today's: one file per step, in `versions`.

New ledgers take the same path from nothing. All steps run inside one transaction: a process that is killed in them
leaves the schema that was there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from forecaster.errors import SchemaTooNew
from forecaster.store.sqlite import SCHEMA, copy, schema_number

if TYPE_CHECKING:
    from forecaster.store.database import Database


def upgrade(database: Database, to: str = "head") -> int:
    """Bring a ledger to a schema, today's unless told; returns the one that it had, 0 for none.

    An SQLite ledger is copied first, to `ledger.db.schema-N` beside it.

    Raises:
        SchemaTooNew: when a newer program wrote it.
        StoreUnavailable: when it cannot be copied or written.
    """
    found = schema_in(database)
    if found > SCHEMA:
        raise SchemaTooNew(database.url, SCHEMA, found)
    if found == SCHEMA:
        return found
    from alembic import command  # noqa: PLC0415 - only for a ledger that is not up to date
    from alembic.config import Config  # noqa: PLC0415

    if found and database.path is not None:
        copy(database.path, database.path.with_name(f"{database.path.name}.schema-{found}"))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with database.faults(), database.engine.connect() as connection:
        if database.is_sqlite:  # some steps make a table again that others refer to; it cannot be set in a transaction
            connection.connection.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                config.attributes["connection"] = connection
                command.upgrade(config, to)
        finally:
            if database.is_sqlite:
                connection.connection.execute("PRAGMA foreign_keys=ON")
    return found


def schema_in(database: Database) -> int:
    """The schema of a ledger, 0 when there is none yet."""
    with database.transaction(write=False) as connection:
        return schema_of(connection)


def schema_of(connection: sa.Connection) -> int:
    """The schema of a ledger, 0 when there is none yet."""
    inspector = sa.inspect(connection)
    if inspector.has_table("alembic_version"):
        return schema_number(connection.execute(sa.text("SELECT version_num FROM alembic_version")).one_or_none())
    return 1 if inspector.has_table("schema_version") else 0
