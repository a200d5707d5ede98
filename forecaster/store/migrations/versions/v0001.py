"""Bars, quarantine and forecasts: the first ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables, but for those of a ledger that knows its schema by a table of its own."""
    if sa.inspect(op.get_bind()).has_table("schema_version"):
        op.drop_table("schema_version")
        return
    op.create_table(
        "series",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("exchange", sa.String, nullable=False),
        sa.Column("symbol", sa.String, nullable=False),
        sa.Column("timeframe", sa.String, nullable=False),
        sa.Column("calendar", sa.String, nullable=False),
        sa.UniqueConstraint("exchange", "symbol", "timeframe"),
    )
    op.create_table(
        "bar",
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), primary_key=True),
        sa.Column("open_time", sa.BigInteger, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("open", "high", "low", "close", "volume")),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("0 < low AND low <= open AND low <= close", name="bar_low"),
        sa.CheckConstraint("high >= open AND high >= close AND high < 1e15", name="bar_high"),
        sa.CheckConstraint("volume >= 0", name="bar_volume"),
    )
    op.create_index("bar_seen", "bar", ["first_seen_at"])
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), nullable=False),
        sa.Column("open_time", sa.BigInteger, nullable=False),
        sa.Column("row", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "model",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("revision", sa.String, nullable=False),
        sa.Column("weights_sha256", sa.String, nullable=False),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("door", sa.String, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "forecast",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), nullable=False),
        sa.Column("model_id", sa.String, sa.ForeignKey("model.id"), nullable=False),
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id"), nullable=False),
        sa.Column("cutoff", sa.BigInteger, nullable=False),
        sa.Column("horizon", sa.Integer, nullable=False),
        sa.Column("quantile_levels", sa.Text, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("available_at", sa.BigInteger, nullable=False),
        sa.Column("engine", sa.String, nullable=False),
        sa.Column("provenance", sa.Text, nullable=False),
        sa.Column("payload_sha256", sa.String, nullable=False),
        sa.UniqueConstraint("series_id", "model_id", "run_id", "cutoff"),
    )
    op.create_index("forecast_newest", "forecast", ["series_id", "run_id", "cutoff"])
    op.create_table(
        "forecast_value",
        sa.Column("forecast_id", sa.String, sa.ForeignKey("forecast.id"), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("field", sa.String, primary_key=True),
        sa.Column("target_open", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Double, nullable=False) for name in ("q10", "q50", "q90")),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("repaired", sa.LargeBinary, nullable=False),
    )
    op.create_index("value_target", "forecast_value", ["target_open"])
