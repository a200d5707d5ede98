"""Bars whose volume is not known: null."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

COLUMNS: Final = "series_id, open_time, revision, open, high, low, close, volume, first_seen_at, seq, link"
VIEWS: Final = ("newest_bar", "settled")
"""Those that read bars, the first one before the second, which reads it."""


def upgrade() -> None:
    """Every volume that is there stays: a 0 may have been no trade, or a file without the column."""
    if op.get_bind().dialect.name == "sqlite":
        _make_bar_again()
    else:
        op.alter_column("bar", "volume", nullable=True)


def _make_bar_again() -> None:
    """SQLite cannot let a column be null later on. Rows are copied by the database, which keeps few in memory."""
    connection = op.get_bind()
    query = sa.text("SELECT name, sql FROM sqlite_master WHERE name IN :names OR type = 'trigger' AND tbl_name = 'bar'")
    rows = connection.execute(query.bindparams(sa.bindparam("names", VIEWS, expanding=True)))
    made = {row.name: row.sql for row in rows}
    for view in reversed(VIEWS):
        op.execute(f"DROP VIEW {view}")
    _make_table("bar_7")
    op.execute(f"INSERT INTO bar_7 ({COLUMNS}) SELECT {COLUMNS} FROM bar ORDER BY rowid")  # noqa: S608 - our own text
    op.drop_table("bar")
    op.rename_table("bar_7", "bar")
    op.create_index("bar_seen", "bar", ["first_seen_at"])
    for name in (*VIEWS, *sorted(made.keys() - set(VIEWS))):
        op.execute(made[name])


def _make_table(name: str) -> None:
    op.create_table(
        name,
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), primary_key=True),
        sa.Column("open_time", sa.BigInteger, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        *(sa.Column(price, sa.Double, nullable=False) for price in ("open", "high", "low", "close")),
        sa.Column("volume", sa.Double),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("link", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("series_id", "seq"),
        sa.CheckConstraint("0 < low AND low <= open AND low <= close", name="bar_low"),
        sa.CheckConstraint("high >= open AND high >= close AND high < 1e15", name="bar_high"),
        sa.CheckConstraint("volume >= 0", name="bar_volume"),
    )
