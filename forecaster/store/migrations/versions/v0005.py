"""Work that nobody did while nobody ran, `missed`; and whether who has the lease has the lock as well."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_STATES = "state IN ('pending', 'leased', 'done', 'failed', 'gap', 'missed')"


def upgrade() -> None:
    """Allow one state more, for which SQLite makes the table again; whoever wrote until now had the lock."""
    op.add_column("lease", sa.Column("locked", sa.Boolean, nullable=False, server_default=sa.true()))
    with op.batch_alter_table("slot") as slot:
        slot.drop_constraint("slot_state", type_="check")
        slot.create_check_constraint("slot_state", _STATES)
