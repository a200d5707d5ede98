"""Convert records to rows of the tables, and back.

Quantiles are stored twice. The columns q10, q50 and q90 of each field are for queries. The columns `raw` and `repaired`
hold all levels as little-endian float64 in the order field, level, and reproduce the forecast bit by bit; `repaired` is
empty when it equals `raw`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import fields, replace
from functools import lru_cache
from math import isnan
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from forecaster.bars import COLUMNS, FIELDS, Bars, RejectedRow, SeriesKey
from forecaster.errors import InvalidArgument, format_time, storable
from forecaster.forecast import ModelId, OHLCForecast, Provenance
from forecaster.ledger import LedgerRow, SettledSteps
from forecaster.log import get_logger
from forecaster.store.chain import bar_hash, forecast_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Row = Any
    """A row of a query result; its columns are attributes."""
    BarValues: TypeAlias = tuple[float, float, float, float, float | None]
    """Open, high, low, close and volume of a bar."""

QUERYABLE_QUANTILES: Final = tuple(f"{field}_q{level}" for field in FIELDS for level in (10, 50, 90))
"""The columns of `forecast_step` with single quantiles."""

_STEP_COLUMNS: Final = ("forecast_id", "series_id", "step", "target_open", *QUERYABLE_QUANTILES, "raw", "repaired")

CUTOFFS_PER_QUERY: Final = 128
"""How many timeframes of cutoffs one query of settled steps covers."""

_log = get_logger(__name__)
_WARNED: Final[set[SeriesKey]] = set()
"""Series for which this process has warned that bars are left out."""

_PROVENANCE: Final = tuple(field.name for field in fields(Provenance))
CHAINED: Final = (
    "cutoff", "model_id", "horizon", "quantile_levels", "issued_at", "available_at", "late", "engine", "provenance",
)  # fmt: skip


class Head(NamedTuple):
    """The last row of a chain: its number, from 1, and its hash."""

    seq: int
    chain_hash: bytes


def bar_values(bars: Bars) -> list[BarValues]:
    """Return the values of each bar as stored; an unknown volume is None, which unlike NaN equals itself."""
    rows = bars.ohlcv_TF.tolist()
    return [(open_, high, low, close, None if isnan(volume) else volume) for open_, high, low, close, volume in rows]


def is_revised(known: BarValues, values: BarValues) -> bool:
    """Whether a bar differs from the stored one; an unknown new volume is no difference."""
    return known[:4] != values[:4] or values[4] not in (None, known[4])


def bar_rows(bars: Bars, series_id: int, known: Mapping[int, Row], head: Head) -> list[dict[str, Any]]:
    """Return the rows to append after `head`: new bars, and bars that differ from their latest known revision."""
    rows = []
    for open_time, values, seen in zip(
        bars.open_time.tolist(), bar_values(bars), bars.first_seen_at.tolist(), strict=True
    ):
        last = known.get(open_time)
        if last is not None and not is_revised((last.open, last.high, last.low, last.close, last.volume), values):
            continue
        revision = 0 if last is None else last.revision + 1
        head = Head(head.seq + 1, bar_hash(head.chain_hash, open_time, revision, values, seen))
        row = dict(zip(COLUMNS, values, strict=True))
        row |= {"series_id": series_id, "open_time": open_time, "revision": revision, "first_seen_at": seen}
        rows.append(row | head._asdict())
    return rows


def read_bars(key: SeriesKey, open_time: NDArray[np.int64], ohlcv_TF: NDArray[np.float64], *more: Any) -> Bars:
    """Make `Bars` of stored columns, without bars that the calendar no longer has.

    A newer exchange_calendars may know of a closure or of other hours. One warning counts what is left out. `more` is
    first_seen_at and revision.
    """
    is_on_calendar = key.trading_calendar.closes_of(key.timeframe, open_time) >= 0
    if not is_on_calendar.all() and key not in _WARNED:
        _WARNED.add(key)
        left_out = int((~is_on_calendar).sum())
        _log.warning("bars.off_calendar", series=str(key), calendar=key.calendar, bars=left_out)
    return Bars(key, *(column[is_on_calendar] for column in (open_time, ohlcv_TF, *more)))


def storable_row(row: RejectedRow) -> RejectedRow:
    """Return a rejected row with texts that every database can store."""
    return replace(row, reason=storable(row.reason), body=storable(row.body))


def quarantine_row(row: RejectedRow, series_id: int, seen_at: int) -> dict[str, Any]:
    """Return the row of `quarantine` for a rejected row."""
    return {
        "series_id": series_id,
        "open_time": row.open_time,
        "row": json.dumps(row.values),
        "reason": row.reason,
        "body": row.body,
        "seen_at": seen_at,
    }


def read_rejected(row: Row) -> RejectedRow:
    """Return the rejected row of a row of `quarantine`."""
    return RejectedRow(row.open_time, tuple(json.loads(row.row)), row.reason, row.body)


def check_times(forecast: OHLCForecast) -> None:
    """Check the times of a forecast.

    Raises:
        InvalidArgument: unless cutoff ≤ issued_at ≤ available_at, all given.
    """
    issued, available = forecast.issued_at, forecast.available_at
    if issued is None or available is None:
        raise InvalidArgument("forecast", "issued_at and available_at", f"none on {forecast.key}")
    if not forecast.cutoff <= issued <= available:
        found = ", ".join(format_time(time, exact=True) for time in (forecast.cutoff, issued, available))
        raise InvalidArgument("forecast", "cutoff ≤ issued_at ≤ available_at", f"{found} on {forecast.key}")


def forecast_row(forecast: OHLCForecast, run_id: str, series_id: int) -> dict[str, Any]:
    """Return the row of `forecast` without its place in the chain; the digest of the payload identifies its numbers."""
    p = forecast.provenance
    return {
        "series_id": series_id,
        "run_id": run_id,
        "cutoff": forecast.cutoff,
        "model_id": p.ledger_id,
        "horizon": forecast.horizon,
        "quantile_levels": _text_of(forecast.quantile_levels),
        "issued_at": forecast.issued_at,
        "available_at": forecast.available_at,
        "late": forecast.is_late,
        "engine": p.engine,
        "provenance": json.dumps({name: getattr(p, name) for name in _PROVENANCE}),
        "payload_sha256": hashlib.sha256(np.ascontiguousarray(forecast.raw_FHQ, "<f8").tobytes()).hexdigest(),
    }


def chained(row: dict[str, Any], forecast: OHLCForecast, head: Head) -> dict[str, Any]:
    """Return the row of a forecast at its place in the chain, after `head`."""
    facts = [row[name] for name in CHAINED]
    chain_hash = forecast_hash(head.chain_hash, facts, _payload(forecast.raw_FHQ) + _payload(forecast.values_FHQ))
    return row | Head(head.seq + 1, chain_hash)._asdict()


def step_rows(forecast: OHLCForecast, forecast_id: int, series_id: int) -> list[dict[str, Any]]:
    """Return the rows of `forecast_step`, one per step, in the order of `_STEP_COLUMNS`."""
    quantiles_CH = np.stack([forecast.quantiles(level) for level in (0.1, 0.5, 0.9)], axis=1).reshape(
        -1, forecast.horizon
    )
    raw, values = _by_step(forecast.raw_FHQ), _by_step(forecast.values_FHQ)
    repaired = [b"" if of_step == of_raw else of_step for of_step, of_raw in zip(values, raw, strict=True)]
    steps = range(1, forecast.horizon + 1)
    columns = (steps, forecast.target_opens().tolist(), *quantiles_CH.tolist(), raw, repaired)
    return [
        dict(zip(_STEP_COLUMNS, (forecast_id, series_id, *step), strict=True)) for step in zip(*columns, strict=True)
    ]


def read_forecast(key: SeriesKey, row: Row, steps: Sequence[Row]) -> OHLCForecast:
    """Rebuild a forecast from its row and its steps, in order."""
    levels = _levels(row.quantile_levels)
    raw, repaired = (_unpack(payload, levels) for payload in payloads(steps))
    provenance = json.loads(row.provenance)
    provenance["batch_shape"] = tuple(provenance["batch_shape"])
    times = (row.issued_at, row.available_at, tuple(step.target_open for step in steps))
    return OHLCForecast(key, row.cutoff, levels, raw, repaired, Provenance(**provenance), *times)


def payloads(steps: Sequence[Row]) -> tuple[bytes, bytes]:
    """Return all prices of a forecast, raw and repaired, from its steps."""
    return b"".join(step.raw for step in steps), b"".join(step.repaired or step.raw for step in steps)


def read_rows(row: Row) -> list[LedgerRow]:
    """Make the four ledger rows of a step from a row that joins forecast, step and series."""
    key, levels = _key(row.exchange, row.symbol, row.timeframe, row.calendar), _levels(row.quantile_levels)
    raw_FQ = np.frombuffer(row.raw, "<f8").reshape(len(FIELDS), -1)
    values_FQ = np.frombuffer(row.repaired, "<f8").reshape(len(FIELDS), -1) if row.repaired else raw_FQ
    name: tuple[Any, ...] = (key, ModelId(row.model_id), row.run_id, row.cutoff, row.step)
    about: tuple[Any, ...] = (row.target_open, row.issued_at, row.available_at, bool(row.late), row.engine, levels)
    rows: list[tuple[Any, ...]] = [
        (*name, field, *about, raw_Q, values_Q)
        for field, raw_Q, values_Q in zip(FIELDS, raw_FQ, values_FQ, strict=True)
    ]
    return [LedgerRow(*values) for values in rows]


def read_steps(rows: Iterable[Row]) -> Iterator[SettledSteps]:
    """Make columns of rows in `ledger_order`: one record per series and set of quantile levels."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.exchange, row.symbol, row.timeframe, row.calendar, row.run_id, row.quantile_levels].append(row)
    for (*names, run_id, quantile_levels), steps in groups.items():
        yield _columns(_key(*names), run_id, _levels(quantile_levels), steps)


def _columns(key: SeriesKey, run_id: str, levels: tuple[float, ...], rows: Sequence[Row]) -> SettledSteps:
    columns = dict(zip(rows[0]._fields, zip(*rows, strict=True), strict=True))
    models, model_N = _factorize(columns["model_id"])
    engines, engine_N = _factorize(columns["engine"])
    shape = (len(rows), len(FIELDS), len(levels))
    repaired = (step or raw for raw, step in zip(columns["raw"], columns["repaired"], strict=True))
    names = ("cutoff", "step", "target_open", "issued_at", "available_at", "late", "revision", "first_seen_at")
    cutoff, step, target, issued, available, late, revision, seen = (
        np.array(columns[name], np.int64) for name in names
    )
    return SettledSteps(
        key=key,
        run_id=run_id,
        quantile_levels=levels,
        models=tuple(map(ModelId, models)),
        engines=engines,
        model_N=model_N,
        engine_N=engine_N,
        cutoff_N=cutoff,
        step_N=step,
        target_open_N=target,
        issued_at_N=issued,
        available_at_N=available,
        late_N=late.astype(bool),
        raw_NFQ=np.frombuffer(b"".join(columns["raw"]), "<f8").reshape(shape),
        values_NFQ=np.frombuffer(b"".join(repaired), "<f8").reshape(shape),
        actual_NF=np.column_stack([columns[field] for field in FIELDS]),
        revision_N=revision,
        seen_at_N=seen,
    )


def _factorize(names: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the distinct names, and the index of each name in them."""
    place: dict[str, int] = {}
    places_N = np.array([place.setdefault(name, len(place)) for name in names], np.int64)
    return tuple(place), places_N


def ledger_order(row: Row) -> tuple[str, int, str, int]:
    """Return the sort key of a row: series, cutoff, model, step."""
    return (f"{row.exchange} {row.symbol} {row.timeframe}", row.cutoff, row.model_id, row.step)


def _payload(prices_FHQ: NDArray[np.float64]) -> bytes:
    """Return all prices, step by step."""
    return np.ascontiguousarray(prices_FHQ.transpose(1, 0, 2), "<f8").tobytes()


def _by_step(prices_FHQ: NDArray[np.float64]) -> list[bytes]:
    payload, horizon = _payload(prices_FHQ), prices_FHQ.shape[1]
    size = len(payload) // horizon
    return [payload[h * size : (h + 1) * size] for h in range(horizon)]


def _unpack(payload: bytes, levels: tuple[float, ...]) -> NDArray[np.float64]:
    """Return prices of shape (F, H, Q)."""
    return np.frombuffer(payload, "<f8").reshape(-1, len(FIELDS), len(levels)).transpose(1, 0, 2)


_key = lru_cache(maxsize=4096)(SeriesKey)


@lru_cache(maxsize=64)
def _text_of(levels: tuple[float, ...]) -> str:
    return json.dumps(levels)


@lru_cache(maxsize=64)
def _levels(text: str) -> tuple[float, ...]:
    return tuple(json.loads(text))
