"""Align forecasts with bars: each bar gets the forecast that was made at its close, if it was available in time.

A row holds what was known `decision_lag_ms` after the close of its bar. Later bars and forecasts do not change it.

Shapes: T bars, N forecasts, F fields and H steps of the query, Q quantile levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import numpy as np
import pandas as pd

from forecaster import Bars, OHLCForecast, RunId

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from forecaster import LedgerRow, ModelId, Run, SeriesKey

STATUSES: Final = ("ok", "late", "stale", "missing")
"""The values of `fc_status`; only rows with `ok` have values in the other columns.

`late`: the forecast of this bar was available after the decision. `stale`: there is no forecast of this bar, but one of
an earlier bar. `missing`: there is no forecast up to this bar.
"""

_FIELDS: Final = ("open", "high", "low", "close")
_SLOTS_PER_READ: Final = 512
_LIVE: Final = "live"


class Ledger(Protocol):
    """The part of a ledger that is read; `Forecaster.reader` and `MemoryStore` implement it."""

    def series(self) -> Sequence[SeriesKey]:
        """Return all series."""

    def runs(self) -> Sequence[Run]:
        """Return all recorded runs."""

    def models(self) -> Sequence[ModelId]:
        """Return all models with forecasts."""

    def history(self, key: SeriesKey, start: int, end: int, run_id: str = "live") -> Sequence[LedgerRow]:
        """Return all models' rows with a cutoff (UTC ms) in [start, end)."""


@dataclass(frozen=True, slots=True)
class ForecastQuery:
    """Selects forecasts, and columns of them.

    Args:
        fields: of open, high, low, close.
        levels: quantile levels inside (0, 1); linear between the model's own.
        steps: 1 is the bar after the cutoff.
        model: name of the model, such as `nano`; optional if the ledger has only one.
        run_id: the live run, or a replay; `replay-…+4000ms` is that replay with a latency of 4 s.
        decision_lag_ms: how long after a bar's close the strategy decides.

    Raises:
        ValueError: for values that no forecast has.
    """

    fields: tuple[str, ...] = ("close",)
    levels: tuple[float, ...] = (0.1, 0.5, 0.9)
    steps: tuple[int, ...] = (1,)
    model: str | None = None
    run_id: str = "live"
    decision_lag_ms: int = 10_000

    def __post_init__(self) -> None:
        """Check each."""
        rules = {
            "fields": (set(self.fields) <= set(_FIELDS), f"any of {', '.join(_FIELDS)}", self.fields),
            "levels": (all(0 < level < 1 for level in self.levels), "levels inside (0, 1)", self.levels),
            "steps": (bool(self.steps) and min(self.steps) >= 1, "at least one, all 1 or more", self.steps),
            "decision_lag_ms": (self.decision_lag_ms >= 0, "0 or more", self.decision_lag_ms),
        }
        for name, (holds, expected, value) in rules.items():
            if not holds:
                raise _unexpected(name, expected, value)

    @property
    def read_fields(self) -> list[str]:
        """The fields to read: those of the query, and close for the probability."""
        return [field for field in _FIELDS if field in (*self.fields, "close")]


class _Made(NamedTuple):
    """The part of a forecast that is used."""

    model: str
    cutoff: int
    available_at: int
    levels: tuple[float, ...]
    horizon: int
    values_FHQ: NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class _Known:
    """Forecasts as columns."""

    levels: tuple[float, ...]
    cutoff_N: NDArray[np.int64]
    available_N: NDArray[np.int64]
    values_NFHQ: NDArray[np.float64]


def align(
    bars: Bars | pd.DataFrame,
    forecasts: Ledger | Sequence[OHLCForecast],
    query: ForecastQuery,
    *,
    key: SeriesKey | None = None,
    shift: int = 0,
) -> pd.DataFrame:
    """Add to each bar the latest forecast whose cutoff is its close and which was available in time.

    Args:
        bars: `Bars`, or a frame with a close and the open time of each bar: in the column `date`, else in its index;
            times without a zone are UTC, and a date that is written in any zone is that of its session. All its bars
            have closed.
        forecasts: a ledger, or recorded forecasts in hand.
        query: selects forecasts and columns.
        key: the series of a frame.
        shift: number of rows to move forecasts down, for a framework that acts later than at the close.

    Returns:
        The rows and columns of the frame, and: `fc_close_q10_1` and so on for each field, level and step;
        `fc_prob_up_1` for each step, the probability that its close is above the close of the forecast's own bar;
        `fc_status`, one of `STATUSES`; `fc_available_at` (UTC).

    Raises:
        ValueError: for a frame that does not hold bars of `key`; for a run or a model that the ledger does not know,
            with those that it knows; for forecasts of another series or without what was asked for.
    """
    frame = bars.frame if isinstance(bars, Bars) else bars
    key = bars.key if isinstance(bars, Bars) else key
    if key is None:
        raise _unexpected("key", "the series of the frame", None)
    if shift < 0:
        raise _unexpected("shift", "0 or more rows", shift)
    cutoff_T, price_T = closes_of(frame, key), _closing_prices(frame)
    known = _known(_made(forecasts, key, query, cutoff_T), query)
    at_T, status_T = _match(cutoff_T, known, query.decision_lag_ms)
    at_T, status_T = _lowered(at_T, shift, -1), _lowered(status_T, shift, "missing")
    stamps_T = _gather(known.available_N.astype("datetime64[ms]"), at_T, np.datetime64("NaT"))
    return frame.assign(
        **_prices(known, query, at_T),
        **_probabilities(known, query, at_T, _lowered(price_T, shift, np.nan)),
        fc_status=status_T,
        fc_available_at=pd.DatetimeIndex(stamps_T, tz="UTC"),
    )


def closes_of(frame: pd.DataFrame, key: SeriesKey) -> NDArray[np.int64]:
    """Close times of the bars of a frame, (T,) UTC ms.

    Raises:
        ValueError: when it does not hold bars of `key`.
    """
    times = pd.Index(frame["date"]) if "date" in frame.columns else frame.index
    if not isinstance(times, pd.DatetimeIndex):
        raise _unexpected("frame", "open times in the column date or in the index", times.dtype)
    opens_T = key.opens_of(times)
    closes_T = key.trading_calendar.closes_of(key.timeframe, opens_T)
    if (closes_T < 0).any():
        raise _unexpected("frame", f"bars of {key} on the grid of {key.calendar}", times[closes_T < 0][0])
    if len(opens_T) > 1 and not _has_neighbours(opens_T, key):
        raise _unexpected("frame", f"bars of {key}", "no two that follow each other, as in a longer timeframe")
    return closes_T


def _has_neighbours(opens_T: NDArray[np.int64], key: SeriesKey) -> bool:
    """Return whether any two bars are in adjacent slots."""
    grid = key.trading_calendar.opens_between(key.timeframe, int(opens_T.min()), int(opens_T.max()) + 1)
    return bool((np.diff(np.searchsorted(grid, np.unique(opens_T))) == 1).any())


def _closing_prices(frame: pd.DataFrame) -> NDArray[np.float64]:
    """(T,) closes, of whose column some frameworks write the name with a capital."""
    columns = [name for name in ("close", "Close") if name in frame.columns]
    if not columns:
        raise _unexpected("frame", "a column close", list(frame.columns))
    return frame[columns[0]].to_numpy(np.float64)


def _made(
    forecasts: Ledger | Sequence[OHLCForecast], key: SeriesKey, query: ForecastQuery, cutoff_T: NDArray[np.int64]
) -> Iterable[_Made]:
    """Give the forecasts that may belong to the bars."""
    if isinstance(forecasts, Sequence):
        _check_known("model", query.model, {forecast.provenance.model_id for forecast in forecasts})
        return (_made_of(forecast, key, query) for forecast in forecasts) if len(cutoff_T) else ()
    known = {f"{series} on {series.calendar}" for series in forecasts.series()}
    _check_known("key", f"{key} on {key.calendar}", known)
    _check_run(forecasts, query.run_id)
    _check_known("model", query.model, {model.name for model in forecasts.models()})
    return _made_between(forecasts, key, query, cutoff_T) if len(cutoff_T) else ()


def _check_run(ledger: Ledger, run_id: str) -> None:
    """Refuse a run that the ledger does not have; the live run may not have started."""
    recorded = RunId(run_id).recorded
    known = {str(run.id) for run in ledger.runs()} | {_LIVE}
    if recorded not in known:
        raise _unexpected("run_id", f"one of {', '.join(sorted(known))}", run_id)


def _check_known(what: str, name: str | None, known: set[str]) -> None:
    """Refuse an unknown name; before the first forecast any name is accepted."""
    if name is not None and known and name not in known:
        raise _unexpected(what, f"one of {', '.join(sorted(known))}", name)


def _made_between(ledger: Ledger, key: SeriesKey, query: ForecastQuery, cutoff_T: NDArray[np.int64]) -> Iterator[_Made]:
    """Read the span of the bars in portions: the rows of a year of minutes would fill the memory."""
    start, end = int(cutoff_T.min()), int(cutoff_T.max()) + 1
    portion = _SLOTS_PER_READ * key.timeframe.ms
    for first in range(start, end, portion):
        rows = ledger.history(key, first, min(first + portion, end), query.run_id)
        for _, of_one in groupby(rows, lambda row: (row.cutoff, row.model_id)):
            yield _made_of_rows(list(of_one), query)


def _made_of_rows(rows: list[LedgerRow], query: ForecastQuery) -> _Made:
    first, horizon = rows[0], max(row.step for row in rows)
    values_FHQ = None
    if horizon >= max(query.steps):
        values = {(row.field, row.step): row.values_Q for row in rows}
        values_FHQ = np.array([[values[field, step] for step in query.steps] for field in query.read_fields])
    return _Made(first.model_id.name, first.cutoff, first.available_at, first.quantile_levels, horizon, values_FHQ)


def _made_of(forecast: OHLCForecast, key: SeriesKey, query: ForecastQuery) -> _Made:
    if forecast.key != key:
        raise _unexpected("forecasts", f"those of {key}", forecast.key)
    if forecast.available_at is None:
        raise _unexpected(
            "forecasts", "recorded ones", f"one of {np.datetime64(forecast.cutoff, 'ms')} UTC without available_at"
        )
    values_FHQ = None
    if forecast.horizon >= max(query.steps):
        fields = np.array([_FIELDS.index(field) for field in query.read_fields])
        chosen = np.ix_(fields, np.array(query.steps) - 1)
        values_FHQ = forecast.values_FHQ[chosen]
    return _Made(
        forecast.provenance.model_id,
        forecast.cutoff,
        forecast.available_at,
        forecast.quantile_levels,
        forecast.horizon,
        values_FHQ,
    )


def _known(made: Iterable[_Made], query: ForecastQuery) -> _Known:
    """Put the forecasts of the model into columns, without those that end before the last step of the query.

    Raises:
        ValueError: for several models and none named, if no forecast reaches that step, or for different levels.
    """
    of_model = [forecast for forecast in made if query.model in (None, forecast.model)]
    models = sorted({forecast.model for forecast in of_model})
    if len(models) > 1:
        raise _unexpected("model", f"the name of one of {', '.join(models)}", None)
    whole = [forecast for forecast in of_model if forecast.values_FHQ is not None]
    if of_model and not whole:
        raise _unexpected("steps", f"1 to {max(forecast.horizon for forecast in of_model)}", query.steps)
    levels = {forecast.levels for forecast in whole}
    if len(levels) > 1:
        raise _unexpected("forecasts", "the same quantile levels in all", sorted(levels))
    shape = (len(whole), len(query.read_fields), len(query.steps), -1)
    return _Known(
        levels.pop() if levels else (0.0, 1.0),
        np.array([forecast.cutoff for forecast in whole], np.int64),
        np.array([forecast.available_at for forecast in whole], np.int64),
        np.array([forecast.values_FHQ for forecast in whole], np.float64).reshape(shape)
        if whole
        else np.empty((*shape[:3], 2)),
    )


def _match(cutoff_T: NDArray[np.int64], known: _Known, lag_ms: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the position of each bar's forecast, -1 for none, and its status; (T,) each."""
    order = np.lexsort((known.available_N, known.cutoff_N))
    in_time = order[(known.available_N - known.cutoff_N)[order] <= lag_ms]
    last_T = np.searchsorted(known.cutoff_N[in_time], cutoff_T, side="right") - 1
    at_T = _gather(in_time, last_T, -1)
    has_T = _gather(known.cutoff_N, at_T, -1) == cutoff_T
    late_T = np.isin(cutoff_T, known.cutoff_N)
    status_T = np.select([has_T, late_T, last_T >= 0], STATUSES[:3], STATUSES[3])
    return np.where(has_T, at_T, -1), status_T


def _gather(values_N: NDArray[Any], at_T: NDArray[np.int64], otherwise: object) -> NDArray[Any]:
    """Return the value at each position, or `otherwise` for a negative position; (T, …)."""
    held = np.concatenate([values_N, np.full((1, *values_N.shape[1:]), otherwise, values_N.dtype)])
    return held[at_T]


def _prices(known: _Known, query: ForecastQuery, at_T: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the columns of quantiles."""
    columns = {}
    for field in query.fields:
        for level in query.levels:
            values_NH = _at_level(known.values_NFHQ[:, query.read_fields.index(field)], known.levels, level)
            for h, step in enumerate(query.steps):
                columns[f"fc_{field}_q{100 * level:g}_{step}"] = _gather(values_NH[:, h], at_T, np.nan)
    return columns


def _probabilities(
    known: _Known, query: ForecastQuery, at_T: NDArray[np.int64], price_T: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """Return the columns of probabilities that a close is above the price of the row."""
    close_THQ = _gather(known.values_NFHQ[:, query.read_fields.index("close")], at_T, np.nan)
    return {
        f"fc_prob_up_{step}": _prob_above(price_T, close_THQ[:, h], known.levels) for h, step in enumerate(query.steps)
    }


def _at_level(values_Q: NDArray[np.float64], levels: tuple[float, ...], level: float) -> NDArray[np.float64]:
    """Return the quantile at `level`, as `OHLCForecast.quantile` does, of values whose last axis is Q."""
    if not levels[0] <= level <= levels[-1]:
        raise _unexpected("levels", f"{levels[0]} to {levels[-1]}", level)
    upper = max(int(np.searchsorted(levels, level)), 1)
    weight = (level - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    return (1 - weight) * values_Q[..., upper - 1] + weight * values_Q[..., upper]


def _prob_above(
    price_T: NDArray[np.float64], values_TQ: NDArray[np.float64], levels: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return the probability of a value above each price, (T,), as `OHLCForecast.prob_above` does."""
    count_T = (values_TQ <= price_T[:, None]).sum(axis=1)
    lower_T = np.clip(count_T - 1, 0, len(levels) - 2)
    below_T, above_T = (np.take_along_axis(values_TQ, at[:, None], 1)[:, 0] for at in (lower_T, lower_T + 1))
    level_Q = np.array(levels)
    with np.errstate(divide="ignore", invalid="ignore"):  # equal quantiles, at an end of which the price lies
        slope_T = (level_Q[lower_T + 1] - level_Q[lower_T]) / (above_T - below_T)
        inside_T = slope_T * (price_T - below_T) + level_Q[lower_T]
    found_T = np.where(count_T == 0, level_Q[0], np.where(count_T == len(levels), level_Q[-1], inside_T))
    return np.where(np.isnan(values_TQ[:, 0] + price_T), np.nan, 1.0 - found_T)


def _lowered(values_T: NDArray[Any], rows: int, otherwise: object) -> NDArray[Any]:
    """Move values down by `rows`; the first ones become `otherwise`."""
    rows = min(rows, len(values_T))
    return np.concatenate([np.full(rows, otherwise, values_T.dtype), values_T[: len(values_T) - rows]])


def _unexpected(what: str, expected: str, found: object) -> ValueError:
    return ValueError(f"{what}: expected {expected}, found {found}")
