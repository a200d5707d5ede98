"""Gaps, what an exchange has forbidden, and the text of what was refused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make what is not there: ledgers of that time did not say which of the two they were."""
    inspector = sa.inspect(op.get_bind())
    if "body" not in {column["name"] for column in inspector.get_columns("quarantine")}:
        op.add_column("quarantine", sa.Column("body", sa.Text, nullable=False, server_default=""))
    if not inspector.get_indexes("quarantine"):
        op.create_index("quarantine_place", "quarantine", ["series_id", "open_time"])
    if not inspector.has_table("gap"):
        op.create_table(
            "gap",
            sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), primary_key=True),
            sa.Column("open_time", sa.BigInteger, primary_key=True),
            sa.Column("asked_at", sa.BigInteger, primary_key=True),
        )
    if not inspector.has_table("hold"):
        op.create_table(
            "hold",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("exchange", sa.String, nullable=False),
            sa.Column("until", sa.BigInteger, nullable=False),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("seen_at", sa.BigInteger, nullable=False),
        )
