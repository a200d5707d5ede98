"""The tables, in SQLAlchemy Core. Times are UTC ms; prices are 64-bit floats; a volume that is not known is null.

series ─┬─ bar            one row per revision of a bar; the bars of a replay have series of their own
        ├─ gap            one row each time a slot was asked for and had no bar
        ├─ quarantine     rows that were refused
        ├─ slot           work owed: one row for each close that is to be forecast
        └─ forecast ─┬── forecast_step    one row per step: all quantiles of its four fields
model ───┘  │         └── delay            one row where the commit came later than `available_at` says
run ────────┘

hold                      one row each time an exchange said not to ask, was probed, or was freed; the newest counts
calibration               what was learned of a model on a series, in a run
lease                     who writes

Only `slot`, `calibration` and `lease` are ever updated; triggers refuse to change or delete a row of the others. People
query views: `forecast_value` has a row per step and field, `newest_bar` the newest revision of each bar, `settled` both
together; all have the names of the series. What makes them all is in `migrations`; here is what the program writes to.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
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
    true,
)

from forecaster.store.records import TENS

metadata = MetaData()

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("exchange", String, nullable=False),
    Column("symbol", String, nullable=False),
    Column("timeframe", String, nullable=False),
    Column("calendar", String, nullable=False),
    Column("run_id", String, nullable=False, server_default="live"),
    UniqueConstraint("exchange", "symbol", "timeframe", "calendar", "run_id", name="series_names"),
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
    Column("volume", Double),
    Column("first_seen_at", BigInteger, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("link", LargeBinary, nullable=False),
    UniqueConstraint("series_id", "seq"),
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
    Column("plan", Text, nullable=False, server_default=""),
)

forecast = Table(
    "forecast",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("run_id", ForeignKey("run.id"), nullable=False),
    Column("cutoff", BigInteger, nullable=False),
    Column("model_id", ForeignKey("model.id"), nullable=False),
    Column("horizon", Integer, nullable=False),
    Column("quantile_levels", Text, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("available_at", BigInteger, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("engine", String, nullable=False),
    Column("provenance", Text, nullable=False),
    Column("payload_sha256", String, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("link", LargeBinary, nullable=False),
    UniqueConstraint("series_id", "run_id", "cutoff", "model_id"),
    UniqueConstraint("series_id", "run_id", "seq"),
    CheckConstraint("available_at >= issued_at", name="forecast_available"),
    CheckConstraint("horizon > 0", name="forecast_horizon"),
)

forecast_step = Table(
    "forecast_step",
    metadata,
    Column("forecast_id", ForeignKey("forecast.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("target_open", BigInteger, nullable=False),
    *(Column(name, Double, nullable=False) for name in TENS),
    Column("raw", LargeBinary, nullable=False),
    Column("repaired", LargeBinary, nullable=False),
    Index("step_target", "series_id", "target_open"),
)

delay = Table(
    "delay",
    metadata,
    Column("forecast_id", ForeignKey("forecast.id"), primary_key=True),
    Column("available_at", BigInteger, nullable=False),
)

slot = Table(
    "slot",
    metadata,
    Column("series_id", ForeignKey("series.id"), primary_key=True),
    Column("cutoff", BigInteger, primary_key=True),
    Column("state", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("leased_until", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint("state IN ('pending', 'leased', 'done', 'failed', 'gap', 'missed')", name="slot_state"),
    Index("slot_owed", "state", "cutoff"),
)

calibration = Table(
    "calibration",
    metadata,
    Column("series_id", ForeignKey("series.id"), primary_key=True),
    Column("run_id", ForeignKey("run.id"), primary_key=True),
    Column("model_id", ForeignKey("model.id"), primary_key=True),
    Column("cutoff", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

lease = Table(
    "lease",
    metadata,
    Column("name", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("locked", Boolean, nullable=False, server_default=true()),
)
