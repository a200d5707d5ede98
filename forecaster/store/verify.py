"""Verify a ledger row by row: hash chains, checksums, quantile columns, times and references.

Each chain starts from the names of its series, so nothing in the ledger has to be trusted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from forecaster.bars import COLUMNS, SeriesKey
from forecaster.calendars import ALWAYS_OPEN
from forecaster.errors import ForecasterError, format_time
from forecaster.ledger import LIVE
from forecaster.store.chain import bar_hash, forecast_hash, initial_hash
from forecaster.store.queries import STEPS
from forecaster.store.records import CHAINED, QUERYABLE_QUANTILES, payloads, read_forecast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from forecaster.store.queries import QueryRunner

_ROWS_PER_QUERY: Final = 1000
_BARS: Final = "SELECT * FROM bar WHERE series_id = :series AND seq > :after ORDER BY seq LIMIT :limit"
_FORECASTS: Final = """
SELECT * FROM forecast WHERE series_id = :series AND run_id = :run AND seq > :after ORDER BY seq LIMIT :limit"""
_ALL_STEPS: Final = STEPS.replace("SELECT", f"SELECT step, series_id, {', '.join(QUERYABLE_QUANTILES)},")
_ORPHANS: Final = {
    "forecast_step without its forecast": """
        SELECT COUNT(*) AS n FROM forecast_step s LEFT JOIN forecast f ON f.id = s.forecast_id WHERE f.id IS NULL""",
    "forecast without its model": """
        SELECT COUNT(*) AS n FROM forecast f LEFT JOIN model m ON m.id = f.model_id WHERE m.id IS NULL""",
    "forecast without its run": """
        SELECT COUNT(*) AS n FROM forecast f LEFT JOIN run r ON r.id = f.run_id WHERE r.id IS NULL""",
    "forecast without its series": """
        SELECT COUNT(*) AS n FROM forecast f LEFT JOIN series s ON s.id = f.series_id WHERE s.id IS NULL""",
    "series without its run": """
        SELECT COUNT(*) AS n FROM series s LEFT JOIN run r ON r.id = s.run_id
        WHERE r.id IS NULL AND s.run_id <> 'live'""",
    "forecast on the bars of another run": """
        SELECT COUNT(*) AS n FROM forecast f JOIN series s ON s.id = f.series_id
        WHERE s.run_id <> 'live' AND s.run_id <> f.run_id""",
    "forecast_step on the bars of another series than its forecast": """
        SELECT COUNT(*) AS n FROM forecast_step s JOIN forecast f ON f.id = s.forecast_id
        WHERE s.series_id <> f.series_id""",
    "availability_delay without its forecast": """
        SELECT COUNT(*) AS n FROM availability_delay d LEFT JOIN forecast f ON f.id = d.forecast_id
        WHERE f.id IS NULL""",
    "availability_delay that ends before its forecast was available": """
        SELECT COUNT(*) AS n FROM availability_delay d JOIN forecast f ON f.id = d.forecast_id
        WHERE d.available_at < f.available_at""",
    "bar without its series": """
        SELECT COUNT(*) AS n FROM bar b LEFT JOIN series s ON s.id = b.series_id WHERE s.id IS NULL""",
}


@dataclass
class LedgerCheck:
    """The result of a verification.

    Args:
        rows: how many bars and forecasts were read.
        errors: what is wrong.
        notes: what is no error but may surprise, such as a changed calendar.
        heads: the last hash of each chain. Compared with a later check they show that no end was cut off, which a chain
            by itself cannot show.
    """

    rows: int = 0
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.errors


def verify_ledger(database: QueryRunner, on_rows: Callable[[int], None] = lambda _: None) -> LedgerCheck:
    """Check a whole ledger. `on_rows` is called with the number of rows after each query.

    Raises:
        LedgerMissing: when there is none.
        StoreUnavailable: when it cannot be read.
    """
    check = LedgerCheck()
    all_series = database.query("SELECT * FROM series ORDER BY id", {})
    for series in all_series:
        try:
            key = SeriesKey(series.exchange, series.symbol, series.timeframe, series.calendar)
        except (ForecasterError, ValueError) as error:
            names = f"{series.exchange} {series.symbol} {series.timeframe} {series.calendar}"
            check.errors.append(f"{names}: invalid series: {error}")
            continue
        chain = _Chain(database, series.id, key, series.run_id, _name_of(series, all_series))
        _check_bars(chain, check, on_rows)
        runs = "SELECT DISTINCT run_id FROM forecast WHERE series_id = :series ORDER BY run_id"
        for run in database.query(runs, {"series": series.id}):
            _check_forecasts(chain, run.run_id, check, on_rows)
    for what, query in _ORPHANS.items():
        count = database.query(query, {})
        if count[0].n:
            check.errors.append(f"{count[0].n} × {what}")
    return check


def count_rows(database: QueryRunner) -> int:
    """Return how many rows `verify_ledger` reads."""
    query = "SELECT (SELECT COUNT(*) FROM bar) + (SELECT COUNT(*) FROM forecast) AS n"
    counted = database.query(query, {})
    return int(counted[0].n)


@dataclass(frozen=True)
class _Chain:
    """A series with its chains; `run` is the run of its bars."""

    database: QueryRunner
    id: int
    key: SeriesKey
    run: str
    name: str

    def first(self, kind: str, *more: str) -> bytes:
        """Return what precedes the first row."""
        key = self.key
        return initial_hash(kind, key.exchange, key.symbol, str(key.timeframe), key.calendar, *more)


def _name_of(series: Any, all_series: Sequence[Any]) -> str:
    """Return the name of a series, with its calendar where another one has the same name."""
    same_name = [other for other in all_series if _name_parts(other) == _name_parts(series)]
    name = f"{series.exchange} {series.symbol} {series.timeframe}"
    return f"{name} on {series.calendar}" if len({other.calendar for other in same_name}) > 1 else name


def _name_parts(series: Any) -> tuple[str, ...]:
    return series.exchange, series.symbol, series.timeframe


def _check_bars(chain: _Chain, check: LedgerCheck, on_rows: Callable[[int], None]) -> None:
    name, own = (chain.name, ()) if chain.run == LIVE else (f"{chain.name} of run {chain.run}", (chain.run,))
    last_hash, seq = chain.first("bar", *own), 0
    for row in _each(chain.database, _BARS, {"series": chain.id}, on_rows):
        values = [getattr(row, column) for column in COLUMNS]
        expected = bar_hash(last_hash, row.open_time, row.revision, values, row.first_seen_at)
        seq = _check_place(f"{name} bar of {_when(row.open_time)} revision {row.revision}", row, seq, expected, check)
        last_hash = bytes(row.chain_hash)
        check.rows += 1
    if seq:
        check.heads[f"{chain.name} bars" if chain.run == LIVE else f"{chain.name} bars of {chain.run}"] = (
            last_hash.hex()
        )


def _check_forecasts(chain: _Chain, run: str, check: LedgerCheck, on_rows: Callable[[int], None]) -> None:
    last_hash, seq, lost = chain.first("forecast", run), 0, 0
    for row in _each(chain.database, _FORECASTS, {"series": chain.id, "run": run}, on_rows):
        name = f"{chain.name} {row.model_id} of run {run} at {_when(row.cutoff)}"
        steps = chain.database.query(_ALL_STEPS, {"id": row.id})
        facts = [bool(row.late) if column == "late" else getattr(row, column) for column in CHAINED]
        seq = _check_place(name, row, seq, forecast_hash(last_hash, facts, b"".join(payloads(steps))), check)
        last_hash = bytes(row.chain_hash)
        check.errors += [f"{name}: {fault}" for fault in _faults(chain.key, row, steps)]
        lost += _has_lost_targets(chain.key, row, steps)
        check.rows += 1
    if lost:
        count = "1 forecast has" if lost == 1 else f"{lost} forecasts have"
        where = f"{chain.key} on {chain.key.calendar}"
        check.notes.append(f"{where}: {count} targets that its calendar no longer has")
    if seq:
        check.heads[f"{chain.name} forecasts of {run}"] = last_hash.hex()


def _check_place(name: str, row: Any, before: int, expected: bytes, check: LedgerCheck) -> int:
    """Check the number and the hash of a row."""
    if row.seq != before + 1:
        check.errors.append(f"{name}: expected to be row {before + 1} of its chain, is {row.seq}")
    if bytes(row.chain_hash) != expected:
        check.errors.append(f"{name}: is not what was written, or does not follow what was written before it")
    return int(row.seq)


def _faults(key: SeriesKey, row: Any, steps: Any) -> Iterator[str]:
    """Yield what is wrong with a forecast by itself."""
    if [step.step for step in steps] != list(range(1, row.horizon + 1)):
        yield f"expected steps 1 to {row.horizon}, found {[step.step for step in steps]}"
        return
    try:
        forecast = read_forecast(key, row, steps)
        targets = key.trading_calendar.next_opens(key.timeframe, row.cutoff, row.horizon).tolist()
    except (ForecasterError, ValueError, TypeError, KeyError) as error:
        yield f"cannot be read: {error}"
        return
    if hashlib.sha256(np.ascontiguousarray(forecast.raw_FHQ, "<f8").tobytes()).hexdigest() != row.payload_sha256:
        yield "its numbers do not fit their checksum"
    is_lost = _has_lost_targets(key, row, steps)
    if targets != [step.target_open for step in steps] and not is_lost:
        yield "its targets are not the bars after its cutoff"
    quantiles = (
        np.stack([forecast.quantiles(level) for level in (0.1, 0.5, 0.9)], axis=1).reshape(-1, forecast.horizon).T
    )
    if quantiles.tolist() != [[getattr(step, column) for column in QUERYABLE_QUANTILES] for step in steps]:
        yield "the columns q10, q50 and q90 do not fit its quantiles"
    if bool(row.late) != forecast.is_late and not is_lost:
        times = f"issued at {_when(row.issued_at)}, after a cutoff of {_when(row.cutoff)}"
        yield f"expected late to be {forecast.is_late}: {times}"
    if not row.cutoff <= row.issued_at <= row.available_at:
        found = ", ".join(map(_when, (row.cutoff, row.issued_at, row.available_at)))
        yield f"expected cutoff ≤ issued ≤ available, found {found}"


def _when(time: Any) -> str:
    """Format a time; a value that is not an integer is shown as it is."""
    return format_time(time, exact=True) if isinstance(time, int) else repr(time)


def _has_lost_targets(key: SeriesKey, row: Any, steps: Any) -> bool:
    """Whether the calendar no longer has some targets, and the others are as expected."""
    targets = np.array([step.target_open for step in steps], np.int64)
    if key.calendar == ALWAYS_OPEN or not len(targets) or (np.diff(targets) <= 0).any():
        return False
    try:
        kept = targets[key.trading_calendar.closes_of(key.timeframe, targets) >= 0]
        expected = key.trading_calendar.next_opens(key.timeframe, row.cutoff, len(kept))
    except ForecasterError:  # `_faults` has reported it
        return False
    return len(kept) < len(targets) and bool(targets[0] >= row.cutoff) and np.array_equal(kept, expected)


def _each(database: QueryRunner, sql: str, values: dict[str, object], on_rows: Callable[[int], None]) -> Iterator[Any]:
    after = 0
    while True:
        rows = database.query(sql, {**values, "after": after, "limit": _ROWS_PER_QUERY})
        yield from rows
        on_rows(len(rows))
        if len(rows) < _ROWS_PER_QUERY:
            return
        after = rows[-1].seq
