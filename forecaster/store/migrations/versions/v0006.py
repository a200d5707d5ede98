"""Bars of a replay apart from live ones, what decided a run, commits that came late, and names in every view."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

FIELDS: Final = ("open", "high", "low", "close")
NAMES: Final = ("exchange", "symbol", "timeframe", "calendar")
UNIQUE: Final = (*NAMES, "run_id")

ONE_FIELD: Final = """SELECT n.exchange, n.symbol, n.timeframe, n.calendar, s.forecast_id, f.series_id,
    m.name AS model, f.model_id, f.run_id, f.cutoff, f.issued_at,
    COALESCE(d.available_at, f.available_at) AS available_at, f.late, f.engine, s.step, s.target_open,
    '{field}' AS field, s.{field}_q10 AS q10, s.{field}_q50 AS q50, s.{field}_q90 AS q90
FROM forecast_step s
JOIN forecast f ON f.id = s.forecast_id
JOIN series n ON n.id = f.series_id
JOIN model m ON m.id = f.model_id
LEFT JOIN delay d ON d.forecast_id = f.id"""

VIEWS: Final = {
    "newest_bar": """SELECT n.exchange, n.symbol, n.timeframe, n.calendar, n.run_id, b.*
FROM bar b JOIN series n ON n.id = b.series_id WHERE b.revision =
    (SELECT MAX(o.revision) FROM bar o WHERE o.series_id = b.series_id AND o.open_time = b.open_time)""",
    "forecast_value": "\nUNION ALL ".join(ONE_FIELD.format(field=field) for field in FIELDS),
    "settled": """SELECT v.*, b.revision, b.first_seen_at AS settled_at,
    CASE v.field WHEN 'open' THEN b.open WHEN 'high' THEN b.high WHEN 'low' THEN b.low ELSE b.close END AS actual
FROM forecast_value v
JOIN newest_bar b ON b.series_id = v.series_id AND b.open_time = v.target_open""",
}


def upgrade() -> None:
    """All series that are there belong to the live run, the bars of older replays among them."""
    dialect = op.get_bind().dialect.name
    for view in ("settled", "forecast_value", "newest_bar"):
        op.execute(f"DROP VIEW {view}")
    op.add_column("run", sa.Column("plan", sa.Text, nullable=False, server_default=""))
    if dialect == "sqlite":
        _make_series_again()
    else:
        op.add_column("series", sa.Column("run_id", sa.String, nullable=False, server_default="live"))
        op.drop_constraint("series_exchange_symbol_timeframe_key", "series", type_="unique")
        op.create_unique_constraint("series_names", "series", list(UNIQUE))
    op.create_table(
        "delay",
        sa.Column("forecast_id", sa.Integer, sa.ForeignKey("forecast.id"), primary_key=True),
        sa.Column("available_at", sa.BigInteger, nullable=False),
    )
    for statement in _triggers(dialect):
        op.execute(statement)
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def _make_series_again() -> None:
    """SQLite cannot take a key away from a table. Foreign keys are not enforced during an upgrade."""
    op.create_table(
        "series_6",
        sa.Column("id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.String, nullable=False) for name in NAMES),
        sa.Column("run_id", sa.String, nullable=False, server_default="live"),
        sa.UniqueConstraint(*UNIQUE, name="series_names"),
    )
    op.execute("INSERT INTO series_6 SELECT id, exchange, symbol, timeframe, calendar, 'live' FROM series")
    op.drop_table("series")
    op.rename_table("series_6", "series")


def _triggers(dialect: str) -> list[str]:
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_{deed.lower()} BEFORE {deed} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is only appended to'); END"
            for table in ("series", "delay")
            for deed in ("UPDATE", "DELETE")
        ]
    refuse = "BEFORE UPDATE OR DELETE OR TRUNCATE ON delay FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    return [f"CREATE TRIGGER delay_change {refuse}"]
