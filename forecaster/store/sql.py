"""The store on a database that this process writes: one class for SQLite and PostgreSQL.

Here are the writes, each in one transaction that begins with the lease; the reads are `Reading`'s. What a row holds is
in `rows`, what the tables are in `schema`, how they came to be in `migrations`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from forecaster.errors import LedgerConflict, StoreUnavailable, utc_text
from forecaster.forecast import same_forecast
from forecaster.ledger import LIVE, RunId
from forecaster.log import get_logger
from forecaster.store import queries as reading
from forecaster.store import schema as t
from forecaster.store.chain import first_link
from forecaster.store.database import Database
from forecaster.store.lease import Lease
from forecaster.store.queries import EVER, Reading, series_names
from forecaster.store.records import (
    Head,
    bar_rows,
    check_times,
    forecast_row,
    kept,
    linked,
    quarantine_row,
    read_forecast,
    step_rows,
)
from forecaster.store.sqlite_library import sqlite3, wal_is_safe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from forecaster.bars import Bars, RejectedRow, SeriesKey
    from forecaster.forecast import OHLCForecast
    from forecaster.ledger import CalibrationState, Run, Slot

_log = get_logger(__name__)
_WAL = "SQLite 3.51.3 or newer; with this one a reader that holds a transaction open makes writes wait, and fail"
_SET_SLOT = """
INSERT INTO slot (series_id, cutoff, state, epoch, leased_until, attempts, reason, changed_at)
VALUES (:series_id, :cutoff, :state, :epoch, :leased_until, :attempts, :reason, :changed_at)
ON CONFLICT (series_id, cutoff) DO UPDATE SET state = excluded.state, epoch = excluded.epoch,
    leased_until = excluded.leased_until, attempts = excluded.attempts, reason = excluded.reason,
    changed_at = excluded.changed_at
WHERE slot.state <> 'done'"""
_LEARN = """
INSERT INTO calibration (series_id, run_id, model_id, cutoff, state)
VALUES (:series_id, :run_id, :model_id, :cutoff, :state)
ON CONFLICT (series_id, run_id, model_id) DO UPDATE SET cutoff = excluded.cutoff, state = excluded.state"""
_LAST_BAR = "SELECT seq, link FROM bar WHERE series_id = :series ORDER BY seq DESC LIMIT 1"
_LAST_FORECASTS = sa.text("""
SELECT f.series_id, f.seq, f.link FROM series n JOIN forecast f ON f.id = (
    SELECT o.id FROM forecast o WHERE o.series_id = n.id AND o.run_id = :run ORDER BY o.seq DESC LIMIT 1
)
WHERE n.id IN :some""").bindparams(sa.bindparam("some", expanding=True))
_KNOWN = sa.text("""
SELECT id, series_id, cutoff, model_id, payload_sha256, quantile_levels, provenance, issued_at, available_at
FROM forecast
WHERE series_id IN :some AND run_id = :run AND cutoff BETWEEN :first AND :last""").bindparams(
    sa.bindparam("some", expanding=True)
)
_SOME = 500
"""How many values one query asks for: SQLite takes 32,766 at most, older ones 999."""


class SqlStore(Reading):
    """A `Store` that writes. It is the only one, in any process, until it is closed or loses its lease.

    A ledger that an older program wrote is brought up to date first, behind a copy of it (SQLite).

    Raises:
        StoreUnavailable: when the database cannot be opened, or another process writes it.
        SchemaTooNew: when a newer program wrote it.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._ids: dict[tuple[SeriesKey, str], int] = {}
        self._runs: set[str] = set()
        super().__init__(self._database)
        try:
            self._lease = Lease(self._database)
        except BaseException:
            self._database.close()
            raise
        with self._database.transaction(write=False):
            pass  # from now on there is a write-ahead log
        if self._database.is_sqlite and not wal_is_safe(sqlite3.sqlite_version_info):
            _log.warning("ledger.no_log", ledger=self._database.url, found=sqlite3.sqlite_version, expected=_WAL)

    @property
    def epoch(self) -> int:
        """How often the right to write this ledger has changed hands."""
        return self._lease.epoch

    @property
    def owner(self) -> str:
        """What the lease calls this process."""
        return self._database.session

    def renew(self) -> None:
        """Keep the right to write, as every write does.

        Raises:
            LeaseLost: when another process has taken over, or the file of the ledger is no longer there.
        """
        self._lease.beat()
        self._database.look_at_names()

    def check(self) -> None:
        """Look whether an SQLite file is whole: its pages, and each row's place. PostgreSQL looks after its own.

        Raises:
            StoreUnavailable: says what is broken.
        """
        if not self._database.is_sqlite:
            return
        found = [row[0] for row in self._database.ask("PRAGMA quick_check(3)", {})]
        if found != ["ok"]:
            raise StoreUnavailable(
                self._database.url, f"expected a whole file; restore a copy of it: {'; '.join(found)}"
            )

    @contextmanager
    def together(self, *, write: bool = True) -> Iterator[None]:
        """Have what this thread does in the block in one transaction: kept as a whole when it ends, or not at all."""
        try:
            with self._database.together(write=write) as connection:
                if write:
                    self._lease.confirm(connection)
                yield
        except BaseException:
            self._ids.clear()  # a series or a run that was added in the block is not there
            self._runs.clear()
            raise

    def add_bars(self, bars: Bars, run_id: str = LIVE) -> int:
        """Append bars that are new, and a further revision of those that changed; returns how many rows.

        Those of a replay have a series of their own, which its run alone sees.
        """
        if not len(bars):
            return 0
        with self._writing() as connection:
            series_id = self._series_id(connection, bars.key, run_id)
            span = {"start": int(bars.open_time[0]), "end": int(bars.open_time[-1]) + 1, "as_of": EVER}
            known = {row.open_time: row for row in _ask(connection, reading.BARS, series=series_id, **span)}
            last = _ask(connection, _LAST_BAR, series=series_id)
            head = Head(*last[0]) if last else _before(bars.key, "bar", *([] if run_id == LIVE else [run_id]))
            rows = bar_rows(bars, series_id, known, head)
            if rows:
                _append(connection, t.bar, rows)
        return len(rows)

    def quarantine(self, key: SeriesKey, rows: Sequence[RejectedRow], seen_at: int) -> None:
        """Keep rows that were refused, with their reasons; one that is there already stays as it is."""
        if not rows:
            return
        with self._writing() as connection:
            series_id = self._series_id(connection, key)
            content = (t.quarantine.c.open_time, t.quarantine.c.row, t.quarantine.c.reason, t.quarantine.c.body)
            rows = list(map(kept, rows))
            times = [row.open_time for row in rows]
            around = t.quarantine.c.open_time.between(min(times), max(times))
            query = sa.select(*content).where(t.quarantine.c.series_id == series_id, around)
            known = set(map(tuple, connection.execute(query)))
            made = [quarantine_row(row, series_id, seen_at) for row in rows]
            new = {tuple(row[column.name] for column in content): row for row in made}
            if new.keys() - known:
                connection.execute(t.quarantine.insert(), [new[one] for one in new if one not in known])

    def add_gaps(self, key: SeriesKey, opens: Sequence[int], asked_at: int) -> None:
        """Keep that the bars of these open times were asked for at `asked_at`, and that there were none."""
        if not opens:
            return
        with self._writing() as connection:
            series_id = self._series_id(connection, key)
            same = (t.gap.c.series_id == series_id, t.gap.c.asked_at == asked_at)
            known = set(connection.scalars(sa.select(t.gap.c.open_time).where(*same)))
            new = [
                {"series_id": series_id, "open_time": one, "asked_at": asked_at} for one in opens if one not in known
            ]
            if new:
                connection.execute(t.gap.insert(), new)

    def hold(self, exchange: str, until: int, reason: str, seen_at: int) -> None:
        """Keep that this exchange is not to be asked before `until`."""
        with self._writing() as connection:
            row = {"exchange": exchange, "until": until, "reason": reason, "seen_at": seen_at}
            connection.execute(t.hold.insert().values(row))

    def add_run(self, run: Run) -> None:
        """Name a run before its forecasts; a run that is known stays as it is."""
        if run.id in self._runs:
            return
        with self._writing() as connection:
            if connection.scalar(sa.select(t.run.c.id).where(t.run.c.id == run.id)) is None:
                connection.execute(t.run.insert(), [asdict(run)])
        self._runs.add(run.id)

    def add_forecasts(
        self, forecasts: Sequence[OHLCForecast], run_id: str, learned: Sequence[CalibrationState] = ()
    ) -> int:
        """Append forecasts and what was learned by them, in one transaction; returns how many forecasts are new.

        One that is there and differs by float32's noise alone, since another engine made it, stays as it is.

        Raises:
            LedgerConflict: when one is there with other numbers; then nothing of the batch is written.
        """
        if not forecasts:
            return 0
        for forecast in forecasts:
            check_times(forecast)
        with self._writing() as connection:
            series = self._series_of_run(connection, {f.key for f in forecasts}, run_id)
            self._add_models(connection, forecasts)
            heads = _heads(connection, series, run_id)
            known = _known(connection, forecasts, series, run_id)
            number = connection.scalar(sa.select(sa.func.max(t.forecast.c.id))) or 0
            rows: list[dict[str, Any]] = []
            steps: list[dict[str, Any]] = []
            for forecast in forecasts:
                row = forecast_row(forecast, run_id, series[forecast.key])
                name = (row["series_id"], row["cutoff"], row["model_id"])
                there = known.setdefault(name, forecast)
                if there is not forecast:
                    self._refuse_other(connection, there, forecast, row["payload_sha256"])
                    continue
                number += 1
                row = linked(row, forecast, heads[forecast.key])
                heads[forecast.key] = Head(row["seq"], row["link"])
                rows.append(row | {"id": number})
                steps += step_rows(forecast, number, row["series_id"])
            if rows:
                _append(connection, t.forecast, rows)
                _append(connection, t.forecast_step, steps)
            if learned:
                places = [{"series_id": series[one.key], "run_id": run_id} for one in learned]
                states = [{name: getattr(one, name) for name in ("model_id", "cutoff", "state")} for one in learned]
                connection.execute(
                    sa.text(_LEARN), [place | state for place, state in zip(places, states, strict=True)]
                )
        return len(rows)

    def postpone(self, forecasts: Sequence[OHLCForecast], run_id: str) -> None:
        """Keep that these were committed later than they were stamped: they count as there from `available_at` on."""
        if not forecasts:
            return
        with self._writing() as connection:
            series = self._series_of_run(connection, {f.key for f in forecasts}, run_id)
            known = _known(connection, forecasts, series, run_id)
            rows = [
                {"forecast_id": known[name].id, "available_at": one.available_at}
                for one in forecasts
                if (name := (series[one.key], one.cutoff, one.provenance.ledger_id)) in known
                and known[name].available_at < (one.available_at or 0)
            ]
            there = sa.select(t.delay.c.forecast_id).where(t.delay.c.forecast_id.in_([r["forecast_id"] for r in rows]))
            delayed = set(connection.scalars(there))
            new = [row for row in rows if row["forecast_id"] not in delayed]
            if new:
                connection.execute(t.delay.insert(), new)

    def set_slots(self, slots: Sequence[Slot], changed_at: int) -> None:
        """Keep the state of work; a slot that is done stays done."""
        if not slots:
            return
        with self._writing() as connection:
            rows = [
                {
                    "series_id": self._series_id(connection, one.key),
                    "epoch": self.epoch,
                    "changed_at": changed_at,
                    **{name: getattr(one, name) for name in ("cutoff", "state", "attempts", "reason", "leased_until")},
                }
                for one in slots
            ]
            connection.execute(sa.text(_SET_SLOT), rows)

    def close(self) -> None:
        """Let the next one write, and let go of the database."""
        self._lease.release()
        self._database.close()

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._database.transaction() as connection:
            if not self._database.is_together:
                self._lease.confirm(connection)
            yield connection

    def _series(self, key: SeriesKey, run_id: str = LIVE) -> int:
        """Id of a series, asked for once: whoever writes knows that the ledger is the same one."""
        name = (key, RunId(run_id).recorded)
        if name not in self._ids:
            found = super()._series(key, run_id)
            if found < 0:
                return found
            self._ids[name] = found
        return self._ids[name]

    def _series_id(self, connection: sa.Connection, key: SeriesKey, run_id: str = LIVE) -> int:
        """Id of exactly this series of exactly this run, which is added if it is new."""
        if run_id == LIVE and (key, LIVE) in self._ids:
            return self._ids[key, LIVE]
        found = _own_series(connection, {key}, run_id).get(key)
        if found is None:
            row = {**series_names(key), "run_id": run_id}
            found = connection.scalars(t.series.insert().returning(t.series.c.id), row).one()
            self._ids.pop((key, run_id), None)  # until now the live one stood for it
        return found

    def _series_of_run(
        self, connection: sa.Connection, keys: AbstractSet[SeriesKey], run_id: str
    ) -> dict[SeriesKey, int]:
        """Ids of the series whose bars settle a run: its own where it has any, else the live ones, added if new."""
        found = {key: self._ids[key, run_id] for key in keys if (key, run_id) in self._ids}
        for run in (run_id, LIVE):
            found |= _own_series(connection, keys - found.keys(), run)
        found |= {key: self._series_id(connection, key) for key in keys - found.keys()}
        return found

    def _add_models(self, connection: sa.Connection, forecasts: Sequence[OHLCForecast]) -> None:
        made = {f.provenance.ledger_id: f.provenance for f in forecasts}
        known = set(connection.scalars(sa.select(t.model.c.id).where(t.model.c.id.in_(made))))
        new = [
            {"id": name, "name": one.model_id, "revision": one.revision, "weights_sha256": one.weights_sha256}
            for name, one in made.items()
            if name not in known
        ]
        if new:
            connection.execute(t.model.insert(), new)

    def _refuse_other(self, connection: sa.Connection, there: Any, forecast: OHLCForecast, payload: str) -> None:
        """Let a forecast pass that is in the ledger, or in its own batch, already."""
        if not isinstance(there, type(forecast)):
            if there.payload_sha256 == payload:
                return
            there = read_forecast(forecast.key, there, _ask(connection, reading.STEPS, id=there.id))
        if not same_forecast(there, forecast):
            raise LedgerConflict(f"{forecast.key} {forecast.provenance.ledger_id} at {utc_text(forecast.cutoff)}")


def _own_series(connection: sa.Connection, keys: AbstractSet[SeriesKey], run_id: str) -> dict[SeriesKey, int]:
    """Ids of the series of a run, of those that are there."""
    if not keys:
        return {}
    columns = (t.series.c.exchange, t.series.c.symbol, t.series.c.timeframe, t.series.c.calendar)
    names = {tuple(series_names(key).values()): key for key in keys}
    query = sa.select(*columns, t.series.c.id).where(t.series.c.run_id == run_id)
    if len(keys) == 1:
        query = query.where(*(column == name for column, name in zip(columns, next(iter(names)), strict=True)))
    return {names[row[:4]]: row.id for row in connection.execute(query) if row[:4] in names}


def _append(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows past SQLAlchemy's handling of types, which takes longer than the database does."""
    statement, order = _insert(table, connection.dialect, tuple(rows[0]))
    given = list(rows) if order is None else list(map(itemgetter(*order), rows))
    connection.exec_driver_sql(statement, given)


@lru_cache(maxsize=16)
def _insert(table: sa.Table, dialect: sa.Dialect, columns: tuple[str, ...]) -> tuple[str, list[str] | None]:
    """The text of an INSERT, and the order of its values where they have no names."""
    compiled = table.insert().compile(dialect=dialect, column_keys=list(columns))
    return str(compiled), compiled.positiontup


def _ask(connection: sa.Connection, sql: str, **values: object) -> Sequence[Any]:
    return connection.execute(sa.text(sql), values).all()


def _heads(connection: sa.Connection, series: dict[SeriesKey, int], run_id: str) -> dict[SeriesKey, Head]:
    """The last link of each series' chain in a run."""
    found = {}
    for some in _portions(list(series.values())):
        for row in connection.execute(_LAST_FORECASTS, {"run": run_id, "some": some}):
            found[row.series_id] = Head(row.seq, row.link)
    return {key: found.get(series_id) or _before(key, "forecast", run_id) for key, series_id in series.items()}


def _portions(ids: list[int]) -> Iterator[list[int]]:
    return (ids[first : first + _SOME] for first in range(0, len(ids), _SOME))


def _before(key: SeriesKey, kind: str, *more: str) -> Head:
    """What stands before the first row of a series."""
    return Head(0, first_link(kind, key.exchange, key.symbol, str(key.timeframe), key.calendar, *more))


def _known(
    connection: sa.Connection, forecasts: Sequence[OHLCForecast], series: dict[SeriesKey, int], run_id: str
) -> dict[tuple[int, int, str], Any]:
    """The forecasts of a run that are in the ledger, among the series and cutoffs of a batch."""
    cutoffs = [one.cutoff for one in forecasts]
    given = {"run": run_id, "first": min(cutoffs), "last": max(cutoffs)}
    found = {}
    for some in _portions(list(series.values())):
        rows = connection.execute(_KNOWN, {"some": some, **given})
        found.update({(row.series_id, row.cutoff, row.model_id): row for row in rows})
    return found
