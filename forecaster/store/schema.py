"""The tables, in SQLAlchemy Core. Times are UTC ms; prices are 64-bit floats; nothing is ever updated.

series ─┬─ bar            one row per revision of a bar
        ├─ gap            one row each time a slot was asked for and had no bar
        ├─ quarantine     rows that were refused
        └─ forecast ──── forecast_value    one row per step and field
model ───┘  │
run ────────┘

hold                      one row each time an exchange said not to ask
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 1

metadata = MetaData()

schema_version = Table("schema_version", metadata, Column("version", Integer, primary_key=True, autoincrement=False))

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("exchange", String, nullable=False),
    Column("symbol", String, nullable=False),
    Column("timeframe", String, nullable=False),
    Column("calendar", String, nullable=False),
    UniqueConstraint("exchange", "symbol", "timeframe"),
)

bar = Table(
    "bar",
    metadata,
    Column("series_id", ForeignKey("series.id"), primary_key=True),
    Column("open_time", BigInteger, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("open", Double, nullable=False),
    Column("high", Double, nullable=False),
    Column("low", Double, nullable=False),
    Column("close", Double, nullable=False),
    Column("volume", Double, nullable=False),
    Column("first_seen_at", BigInteger, nullable=False),
    CheckConstraint("0 < low AND low <= open AND low <= close", name="bar_low"),
    CheckConstraint("high >= open AND high >= close AND high < 1e15", name="bar_high"),
    CheckConstraint("volume >= 0", name="bar_volume"),
    Index("bar_seen", "first_seen_at"),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("open_time", BigInteger, nullable=False),
    Column("row", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Index("quarantine_place", "series_id", "open_time"),
)

gap = Table(
    "gap",
    metadata,
    Column("series_id", ForeignKey("series.id"), primary_key=True),
    Column("open_time", BigInteger, primary_key=True),
    Column("asked_at", BigInteger, primary_key=True),
)

hold = Table(
    "hold",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("exchange", String, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

model = Table(
    "model",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("revision", String, nullable=False),
    Column("weights_sha256", String, nullable=False),
)

run = Table(
    "run",
    metadata,
    Column("id", String, primary_key=True),
    Column("door", String, nullable=False),
    Column("started_at", BigInteger, nullable=False),
)

forecast = Table(
    "forecast",
    metadata,
    Column("id", String, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("model_id", ForeignKey("model.id"), nullable=False),
    Column("run_id", ForeignKey("run.id"), nullable=False),
    Column("cutoff", BigInteger, nullable=False),
    Column("horizon", Integer, nullable=False),
    Column("quantile_levels", Text, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("available_at", BigInteger, nullable=False),
    Column("engine", String, nullable=False),
    Column("provenance", Text, nullable=False),
    Column("payload_sha256", String, nullable=False),
    UniqueConstraint("series_id", "model_id", "run_id", "cutoff"),
    Index("forecast_newest", "series_id", "run_id", "cutoff"),
)

forecast_value = Table(
    "forecast_value",
    metadata,
    Column("forecast_id", ForeignKey("forecast.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("field", String, primary_key=True),
    Column("target_open", BigInteger, nullable=False),
    Column("q10", Double, nullable=False),
    Column("q50", Double, nullable=False),
    Column("q90", Double, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("repaired", LargeBinary, nullable=False),
    Index("value_target", "target_open"),
)
