"""Records into rows of the tables, and back: what each column holds.

Quantiles are kept twice: q10, q50 and q90 as columns that people can query, and all levels, raw and
repaired, as little-endian float64 blobs that reproduce the forecast bit by bit.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from forecaster.bars import COLUMNS, FIELDS, Bars, RejectedRow, SeriesKey
from forecaster.errors import InvalidContext
from forecaster.forecast import OHLCForecast, Provenance
from forecaster.ledger import LedgerRow, forecast_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import sqlalchemy as sa
    from numpy.typing import NDArray


def bar_row(bars: Bars, i: int, series_id: int, known: Sequence[Any] | None) -> dict[str, Any] | None:
    """The row to append for bar `i`; None when the newest known revision holds the same values."""
    values = bars.ohlcv_TF[i].tolist()
    if known is not None and list(known[1:6]) == values:
        return None
    revision = 0 if known is None else int(known[7]) + 1
    row = dict(zip(COLUMNS, values, strict=True))
    row |= {"series_id": series_id, "open_time": int(bars.open_time[i])}
    return row | {"revision": revision, "first_seen_at": int(bars.first_seen_at[i])}


def quarantine_row(row: RejectedRow, series_id: int, seen_at: int) -> dict[str, Any]:
    """The row to keep for a row that was refused."""
    return {
        "series_id": series_id,
        "open_time": row.open_time,
        "row": json.dumps(row.values),
        "reason": row.reason,
        "body": row.body,
        "seen_at": seen_at,
    }


def read_rejected(row: sa.Row[Any]) -> RejectedRow:
    """The refused row that `row` holds."""
    return RejectedRow(row.open_time, tuple(json.loads(row.row)), row.reason, row.body)


def forecast_row(forecast: OHLCForecast, run_id: str, series_id: int) -> dict[str, Any]:
    """The row of `forecast`; its payload's digest tells equal numbers from others of the same name.

    Raises:
        InvalidContext: for a forecast that carries no issue time.
    """
    p = forecast.provenance
    if forecast.issued_at is None or forecast.available_at is None:
        raise InvalidContext("forecast", "issued_at and available_at", f"none on {forecast.key}")
    return {
        "id": forecast_id(forecast.key, p.ledger_id, run_id, forecast.cutoff),
        "series_id": series_id,
        "model_id": p.ledger_id,
        "run_id": run_id,
        "cutoff": forecast.cutoff,
        "horizon": forecast.horizon,
        "quantile_levels": json.dumps(forecast.quantile_levels),
        "issued_at": forecast.issued_at,
        "available_at": forecast.available_at,
        "engine": p.engine,
        "provenance": json.dumps(asdict(p)),
        "payload_sha256": hashlib.sha256(np.ascontiguousarray(forecast.raw_FHQ, "<f8").tobytes()).hexdigest(),
    }


def value_rows(forecast: OHLCForecast, name: str) -> Iterator[dict[str, Any]]:
    """The rows of `forecast_value`: one per field and step."""
    tens = {f"q{round(100 * level)}": forecast.quantiles(level) for level in (0.1, 0.5, 0.9)}
    targets = forecast.target_opens().tolist()
    for f, field in enumerate(FIELDS):
        for h, target in enumerate(targets):
            yield {
                "forecast_id": name,
                "step": h + 1,
                "field": field,
                "target_open": target,
                **{column: float(values_FH[f, h]) for column, values_FH in tens.items()},
                "raw": _pack(forecast.raw_FHQ[f, h]),
                "repaired": _pack(forecast.values_FHQ[f, h]),
            }


def read_forecast(key: SeriesKey, row: sa.Row[Any], values: Sequence[sa.Row[Any]]) -> OHLCForecast:
    """Make a forecast again from its row and its values, which come in the order of steps."""
    by_field: dict[str, list[sa.Row[Any]]] = defaultdict(list)
    for value in values:
        by_field[value.field].append(value)
    raw, repaired = (
        np.array([[_unpack(getattr(value, name)) for value in by_field[field]] for field in FIELDS])
        for name in ("raw", "repaired")
    )
    about = json.loads(row.provenance)
    about["batch_shape"] = tuple(about["batch_shape"])
    levels = _levels(row.quantile_levels)
    return OHLCForecast(key, row.cutoff, levels, raw, repaired, Provenance(**about), row.issued_at, row.available_at)


def read_row(row: sa.Row[Any]) -> LedgerRow:
    """Make a ledger row from a line of a query that joins forecast, value and series."""
    return LedgerRow(
        key=_key(row.exchange, row.symbol, row.timeframe, row.calendar),
        model_id=row.model_id,
        run_id=row.run_id,
        cutoff=row.cutoff,
        step=row.step,
        field=row.field,
        target_open=row.target_open,
        issued_at=row.issued_at,
        available_at=row.available_at,
        engine=row.engine,
        quantile_levels=_levels(row.quantile_levels),
        raw_Q=_unpack(row.raw),
        values_Q=_unpack(row.repaired),
    )


def ledger_order(row: LedgerRow) -> tuple[str, int, str, int, int]:
    """Sort by series, cutoff, model, step and field."""
    return (str(row.key), row.cutoff, row.model_id, row.step, FIELDS.index(row.field))


def _pack(values_Q: NDArray[np.float64]) -> bytes:
    return np.ascontiguousarray(values_Q, "<f8").tobytes()


def _unpack(blob: bytes) -> NDArray[np.float64]:
    return np.frombuffer(blob, "<f8")


_key = lru_cache(maxsize=4096)(SeriesKey.of)


@lru_cache(maxsize=64)
def _levels(text: str) -> tuple[float, ...]:
    return tuple(json.loads(text))
