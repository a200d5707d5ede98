"""Chains and triggers that show what was done to a ledger, late forecasts, one row for each step, and work owed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import op

from forecaster.bars import SeriesKey
from forecaster.store.chain import bar_link, first_link, forecast_link

if TYPE_CHECKING:
    from collections.abc import Iterator

revision = "0003"
down_revision = "0002"

FIELDS = ("open", "high", "low", "close")
COLUMNS = (*FIELDS, "volume")
TENS = tuple(f"{field}_q{level}" for field in FIELDS for level in (10, 50, 90))
CHAINED = ("cutoff", "model_id", "horizon", "quantile_levels", "issued_at", "available_at")
APPENDED = ("series", "bar", "gap", "quarantine", "hold", "model", "run", "forecast", "forecast_step")

ONE_FIELD = """SELECT s.forecast_id, f.series_id, f.model_id, f.run_id, f.cutoff, f.issued_at, f.available_at, f.late,
    f.engine, s.step, s.target_open, '{field}' AS field,
    s.{field}_q10 AS q10, s.{field}_q50 AS q50, s.{field}_q90 AS q90
FROM forecast_step s JOIN forecast f ON f.id = s.forecast_id"""

VIEWS = {
    "newest_bar": """SELECT * FROM bar b WHERE revision =
    (SELECT MAX(o.revision) FROM bar o WHERE o.series_id = b.series_id AND o.open_time = b.open_time)""",
    "forecast_value": "\nUNION ALL ".join(ONE_FIELD.format(field=field) for field in FIELDS),
    "settled": """SELECT n.exchange, n.symbol, n.timeframe, v.*, b.revision, b.first_seen_at AS settled_at,
    CASE v.field WHEN 'open' THEN b.open WHEN 'high' THEN b.high WHEN 'low' THEN b.low ELSE b.close END AS actual
FROM forecast_value v
JOIN newest_bar b ON b.series_id = v.series_id AND b.open_time = v.target_open
JOIN series n ON n.id = v.series_id""",
}

REFUSE = """CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is only appended to', TG_TABLE_NAME; END $$"""


def upgrade() -> None:
    """Chain what is there in the order in which it was written, as far as that is known: by time."""
    connection = op.get_bind()
    for table in ("bar", "forecast", "forecast_value"):
        op.rename_table(table, f"{table}_2")
    _make_tables()
    series = {row.id: row for row in connection.execute(sa.text("SELECT * FROM series"))}
    for row in series.values():
        _chain_bars(connection, row)
    _chain_forecasts(connection, series)
    for table in ("forecast_value", "forecast", "bar"):
        op.drop_table(f"{table}_2")
    op.create_index("bar_seen", "bar", ["first_seen_at"])
    op.create_index("step_target", "forecast_step", ["series_id", "target_open"])
    op.create_index("slot_owed", "slot", ["state", "cutoff"])
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")
    for statement in _triggers(connection.dialect.name):
        op.execute(statement)


def _make_tables() -> None:
    op.create_table(
        "bar",
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), primary_key=True),
        sa.Column("open_time", sa.BigInteger, primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.Double, nullable=False) for name in COLUMNS),
        sa.Column("first_seen_at", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("link", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("series_id", "seq"),
        sa.CheckConstraint("0 < low AND low <= open AND low <= close", name="bar_low"),
        sa.CheckConstraint("high >= open AND high >= close AND high < 1e15", name="bar_high"),
        sa.CheckConstraint("volume >= 0", name="bar_volume"),
    )
    op.create_table(
        "forecast",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), nullable=False),
        sa.Column("run_id", sa.String, sa.ForeignKey("run.id"), nullable=False),
        sa.Column("cutoff", sa.BigInteger, nullable=False),
        sa.Column("model_id", sa.String, sa.ForeignKey("model.id"), nullable=False),
        sa.Column("horizon", sa.Integer, nullable=False),
        sa.Column("quantile_levels", sa.Text, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("available_at", sa.BigInteger, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("engine", sa.String, nullable=False),
        sa.Column("provenance", sa.Text, nullable=False),
        sa.Column("payload_sha256", sa.String, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("link", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("series_id", "run_id", "cutoff", "model_id"),
        sa.UniqueConstraint("series_id", "run_id", "seq"),
        sa.CheckConstraint("available_at >= issued_at", name="forecast_available"),
        sa.CheckConstraint("horizon > 0", name="forecast_horizon"),
    )
    op.create_table(
        "forecast_step",
        sa.Column("forecast_id", sa.Integer, sa.ForeignKey("forecast.id"), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True),
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), nullable=False),
        sa.Column("target_open", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Double, nullable=False) for name in TENS),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("repaired", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "slot",
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), primary_key=True),
        sa.Column("cutoff", sa.BigInteger, primary_key=True),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("leased_until", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("state IN ('pending', 'leased', 'done', 'failed', 'gap')", name="slot_state"),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )


def _chain_bars(connection: sa.Connection, series: Any) -> None:
    link = first_link("bar", series.exchange, series.symbol, series.timeframe, series.calendar)
    rows = []
    query = "SELECT * FROM bar_2 WHERE series_id = :series ORDER BY first_seen_at, open_time, revision"
    for seq, old in enumerate(connection.execute(sa.text(query), {"series": series.id}), start=1):
        values = [getattr(old, name) for name in COLUMNS]
        link = bar_link(link, old.open_time, old.revision, values, old.first_seen_at)
        rows.append({**old._asdict(), "seq": seq, "link": link})
    if rows:
        connection.execute(_insert("bar", rows[0]), rows)


def _chain_forecasts(connection: sa.Connection, series: dict[int, Any]) -> None:
    heads: dict[tuple[int, str], tuple[int, bytes]] = {}
    query = "SELECT * FROM forecast_2 ORDER BY issued_at, series_id, cutoff, model_id"
    for number, old in enumerate(connection.execute(sa.text(query)).all(), start=1):
        of = series[old.series_id]
        names = (of.exchange, of.symbol, of.timeframe, of.calendar)
        seq, link = heads.get((of.id, old.run_id)) or (0, first_link("forecast", *names, old.run_id))
        steps = list(_steps(connection, old.id))
        key = SeriesKey.of(*names)
        closes = key.sessions.closes_of(key.timeframe, key.sessions.next_opens(key.timeframe, old.cutoff, 1))
        late = old.issued_at >= int(closes[0])
        facts = [*(getattr(old, name) for name in CHAINED), late, old.engine, old.provenance]
        payload = b"".join(step["raw"] for step in steps) + b"".join(step["repaired"] for step in steps)
        heads[of.id, old.run_id] = seq + 1, forecast_link(link, facts, payload)
        row = {**old._asdict(), "id": number, "late": late, "seq": seq + 1, "link": heads[of.id, old.run_id][1]}
        connection.execute(_insert("forecast", row), row)
        rows = [
            step
            | {"forecast_id": number, "series_id": of.id}
            | {"repaired": b"" if step["repaired"] == step["raw"] else step["repaired"]}
            for step in steps
        ]
        connection.execute(_insert("forecast_step", rows[0]), rows)


def _steps(connection: sa.Connection, name: str) -> Iterator[dict[str, Any]]:
    """The steps of a forecast of the older schema, in which each field had a row."""
    query = "SELECT * FROM forecast_value_2 WHERE forecast_id = :name ORDER BY step"
    by_step: dict[int, dict[str, Any]] = {}
    for row in connection.execute(sa.text(query), {"name": name}):
        by_step.setdefault(row.step, {})[row.field] = row
    for step, rows in by_step.items():
        tens = {f"{field}_{name}": getattr(rows[field], name) for field in FIELDS for name in ("q10", "q50", "q90")}
        blobs = {name: b"".join(getattr(rows[field], name) for field in FIELDS) for name in ("raw", "repaired")}
        yield {"step": step, "target_open": rows["open"].target_open, **tens, **blobs}


def _insert(table: str, row: dict[str, Any]) -> sa.TextClause:
    return sa.text(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(f':{name}' for name in row)})")  # noqa: S608 - our own names


def _triggers(dialect: str) -> list[str]:
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_{deed.lower()} BEFORE {deed} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is only appended to'); END"
            for table in APPENDED
            for deed in ("UPDATE", "DELETE")
        ]
    return [
        REFUSE,
        *(
            f"CREATE TRIGGER {table}_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
            for table in APPENDED
        ),
    ]
