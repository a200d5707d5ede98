"""Rename tables, columns and a state to the terms of the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from alembic import op

from forecaster.store import schema

if TYPE_CHECKING:
    import sqlalchemy as sa

revision = "0008"
down_revision = "0007"

_COLUMNS: Final = (
    ("run", "door", "kind"),
    ("gap", "asked_at", "requested_at"),
    ("bar", "link", "chain_hash"),
    ("forecast", "link", "chain_hash"),
)
_COPY: Final = """
INSERT INTO pending_forecast (series_id, cutoff, state, epoch, claimed_until, attempts, reason, changed_at)
SELECT series_id, cutoff, CASE state WHEN 'leased' THEN 'claimed' ELSE state END, epoch, leased_until, attempts, reason,
    changed_at
FROM slot"""


def upgrade() -> None:
    """Rename in place; no row that is part of a chain is written again."""
    connection = op.get_bind()
    for view in ("settled", "forecast_value", "newest_bar"):
        op.execute(f"DROP VIEW {view}")
    _drop_triggers(connection)
    for table, old, new in _COLUMNS:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    op.rename_table("delay", "availability_delay")
    schema.pending_forecast.create(connection)
    op.execute(_COPY)
    op.drop_table("slot")
    schema.create_views(connection)
    schema.create_triggers(connection)


def _drop_triggers(connection: sa.Connection) -> None:
    tables = [{"availability_delay": "delay"}.get(table.name, table.name) for table in schema.APPEND_ONLY]
    for table in tables:
        if connection.dialect.name == "sqlite":
            op.execute(f"DROP TRIGGER {table}_update")
            op.execute(f"DROP TRIGGER {table}_delete")
        else:
            op.execute(f"DROP TRIGGER {table}_change ON {table}")
