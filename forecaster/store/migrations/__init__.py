"""Bring a ledger to the current schema: one step per file in `versions`; a new ledger is created at once.

All steps run in one transaction. A process that is killed leaves the schema unchanged.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from forecaster.store import schema
from forecaster.store.backup import copy_ledger
from forecaster.store.sqlite import SCHEMA, check_upgradable, schema_number

if TYPE_CHECKING:
    from forecaster.store.database import Database


def upgrade(database: Database) -> int:
    """Create a ledger or bring it to the current schema; return the schema it had, 0 for none.

    An SQLite ledger is copied first, to `ledger.db.schema-N` beside it.

    Raises:
        SchemaTooNew: when a newer program wrote it.
        StoreUnavailable: when it is older than `OLDEST_SCHEMA`, or cannot be copied or written.
    """
    version = schema_in(database)
    if version == SCHEMA:
        return version
    check_upgradable(database.url, version)
    from alembic import command  # noqa: PLC0415 - only for a ledger that is not up to date
    from alembic.config import Config  # noqa: PLC0415

    if version and database.path is not None:
        copy_ledger(database.path, database.path.with_name(f"{database.path.name}.schema-{version}"))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with database.faults(), database.engine.connect() as connection, connection.begin():
        config.attributes["connection"] = connection
        if version:
            command.upgrade(config, "head")
        else:
            schema.create(connection)
            command.stamp(config, "head")
    return version


def schema_in(database: Database) -> int:
    """Return the schema of a ledger, 0 when there is none yet."""
    with database.transaction(write=False) as connection:
        return schema_of(connection)


def schema_of(connection: sa.Connection) -> int:
    """Return the schema of a ledger, 0 when there is none yet."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return 0
    return schema_number(connection.execute(sa.text("SELECT version_num FROM alembic_version")).one_or_none())
