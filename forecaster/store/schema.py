"""The tables, views and triggers of a ledger, in SQLAlchemy Core. Times are UTC ms; prices are 64-bit floats.

series ─┬─ bar                 one row per revision of a bar; a replay has series of its own; an unknown volume is null
        ├─ gap                 one row per request that returned no bar for an open time
        ├─ quarantine          rejected rows
        ├─ pending_forecast    one row per close to forecast, with its state
        └─ forecast ─┬── forecast_step            one row per step: all quantiles of its four fields
model ───┘  │         └── availability_delay       one row where the commit came later than `available_at`
run ────────┘

hold                           one row per change of an exchange's hold; the latest row counts
calibration                    calibration state of a model on a series, in a run
lease                          the process that may write

Only `pending_forecast`, `calibration` and `lease` are updated; triggers reject updates and deletes in all other tables.
The views are for queries by hand. They carry the names of the series: `forecast_value` has one row per step and field,
`latest_bar` the latest revision of each bar, `settled` joins both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
    text,
    true,
)

from forecaster.bars import FIELDS
from forecaster.store.records import QUERYABLE_QUANTILES

if TYPE_CHECKING:
    from sqlalchemy import Connection

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
    Column("chain_hash", LargeBinary, nullable=False),
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
    Column("seen_at", BigInteger, nullable=False),
    Column("body", Text, nullable=False, server_default=""),
    Index("quarantine_place", "series_id", "open_time"),
)

gap = Table(
    "gap",
    metadata,
    Column("series_id", ForeignKey("series.id"), primary_key=True),
    Column("open_time", BigInteger, primary_key=True),
    Column("requested_at", BigInteger, primary_key=True),
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
    Column("kind", String, nullable=False),
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
    Column("chain_hash", LargeBinary, nullable=False),
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
    *(Column(name, Double, nullable=False) for name in QUERYABLE_QUANTILES),
    Column("raw", LargeBinary, nullable=False),
    Column("repaired", LargeBinary, nullable=False),
    Index("step_target", "series_id", "target_open"),
)

availability_delay = Table(
    "availability_delay",
    metadata,
    Column("forecast_id", ForeignKey("forecast.id"), primary_key=True),
    Column("available_at", BigInteger, nullable=False),
)

pending_forecast = Table(
    "pending_forecast",
    metadata,
    Column("series_id", ForeignKey("series.id"), primary_key=True),
    Column("cutoff", BigInteger, primary_key=True),
    Column("state", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("claimed_until", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    CheckConstraint("state IN ('pending', 'claimed', 'done', 'failed', 'gap', 'missed')", name="pending_state"),
    Index("pending_cutoff", "state", "cutoff"),
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

APPEND_ONLY: Final = (
    series, bar, gap, quarantine, hold, model, run, forecast, forecast_step, availability_delay,
)  # fmt: skip

_FIELD_VALUES: Final = """SELECT n.exchange, n.symbol, n.timeframe, n.calendar, s.forecast_id, f.series_id,
    m.name AS model, f.model_id, f.run_id, f.cutoff, f.issued_at,
    COALESCE(d.available_at, f.available_at) AS available_at, f.late, f.engine, s.step, s.target_open,
    '{field}' AS field, s.{field}_q10 AS q10, s.{field}_q50 AS q50, s.{field}_q90 AS q90
FROM forecast_step s
JOIN forecast f ON f.id = s.forecast_id
JOIN series n ON n.id = f.series_id
JOIN model m ON m.id = f.model_id
LEFT JOIN availability_delay d ON d.forecast_id = f.id"""

VIEWS: Final = {
    "latest_bar": """SELECT n.exchange, n.symbol, n.timeframe, n.calendar, n.run_id, b.*
FROM bar b JOIN series n ON n.id = b.series_id WHERE b.revision =
    (SELECT MAX(o.revision) FROM bar o WHERE o.series_id = b.series_id AND o.open_time = b.open_time)""",
    "forecast_value": "\nUNION ALL ".join(_FIELD_VALUES.format(field=field) for field in FIELDS),
    "settled": """SELECT v.*, b.revision, b.first_seen_at AS settled_at,
    CASE v.field WHEN 'open' THEN b.open WHEN 'high' THEN b.high WHEN 'low' THEN b.low ELSE b.close END AS actual
FROM forecast_value v
JOIN latest_bar b ON b.series_id = v.series_id AND b.open_time = v.target_open""",
}
"""The views by name. `settled` reads the two before it."""

_REFUSE_CHANGE: Final = """CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"""


def create(connection: Connection) -> None:
    """Create everything in an empty database."""
    metadata.create_all(connection, checkfirst=False)
    create_views(connection)
    create_triggers(connection)


def create_views(connection: Connection) -> None:
    """Create the views."""
    for name, query in VIEWS.items():
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")


def create_triggers(connection: Connection) -> None:
    """Create the triggers that keep tables append-only."""
    if connection.dialect.name != "sqlite":
        connection.execute(text(_REFUSE_CHANGE))
    for table in APPEND_ONLY:
        for statement in _triggers(table.name, connection.dialect.name):
            connection.exec_driver_sql(statement)


def _triggers(table: str, dialect: str) -> list[str]:
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_{change.lower()} BEFORE {change} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for change in ("UPDATE", "DELETE")
        ]
    refuse = "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    return [f"CREATE TRIGGER {table}_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} {refuse}"]
