"""Bars and forecasts as plain records, to make nautilus_trader's objects from.

Its backtests deliver an object at `ts_init`: a bar at its close, a forecast when it was available. Times are integer
nanoseconds, UTC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from strategies.adapters.align import align, closes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from forecaster import OHLCForecast, SeriesKey
    from strategies.adapters.align import ForecastQuery, Ledger

_NANOS_PER_MS: Final = 1_000_000
_PRICES: Final = ["open", "high", "low", "close", "volume"]
_ABOUT: Final = ("fc_status", "fc_available_at")


def bar_records(frame: pd.DataFrame, key: SeriesKey) -> list[dict[str, Any]]:
    """Return a record for each bar: open, high, low, close, volume, and its close time as `ts_event` and `ts_init`.

    An unknown volume stays NaN.

    Args:
        frame: those columns, and the open time of each bar: in the column `date`, else in its index.
        key: the series.

    Raises:
        ValueError: for a frame that does not hold bars of `key`.
    """
    closes_T = closes_of(frame, key) * _NANOS_PER_MS
    return _records(frame[_PRICES].assign(ts_event=closes_T, ts_init=closes_T))


def forecast_records(
    frame: pd.DataFrame, key: SeriesKey, forecasts: Ledger | Sequence[OHLCForecast], query: ForecastQuery
) -> list[dict[str, Any]]:
    """Return a record for each forecast that was available in time, with the columns of `align`.

    `ts_event` is its cutoff, `ts_init` the time at which it was available.

    Raises:
        ValueError: as `align` does.
    """
    aligned = align(frame, forecasts, query, key=key).assign(ts_event=closes_of(frame, key) * _NANOS_PER_MS)
    usable = aligned[aligned["fc_status"] == "ok"]
    available_at = usable["fc_available_at"].dt.tz_localize(None).to_numpy().astype("datetime64[ns]")
    columns = [name for name in aligned if str(name).startswith("fc_") and name not in _ABOUT]
    return _records(usable[["ts_event", *columns]].assign(ts_init=available_at.astype("int64")))


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    columns = {str(name): frame[name].tolist() for name in frame}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
