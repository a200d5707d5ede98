"""Forecasts and settled rows with sane defaults; the same arguments give the same values on any machine.

Shapes: N steps, F fields, Q quantile levels, T bars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from forecaster.bars import FIELDS, Bars
from forecaster.forecast import CHRONOS_LEVELS, ModelId, OHLCForecast, Provenance, repair
from forecaster.ledger import LIVE, SettledSteps
from tests.builders import make_key, utc_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from forecaster.bars import SeriesKey
    from forecaster.ledger import SettledRow
    from forecaster.store import Reader

CUTOFF = utc_ms("2024-01-05")
LATENCY_MS = 7
TENS = (0.1, 0.5, 0.9)
AT_CUTOFF = -1


def make_provenance(model: str = "nano", revision: str = "0123456789abcdef", engine: str = "eager") -> Provenance:
    """Make the provenance of a model that nobody ran."""
    return Provenance(
        model_id=model,
        revision=revision,
        weights_sha256="ab" * 32,
        dtype="float32",
        device="cpu",
        engine=engine,
        engine_reason="compiling was switched off",
        input_sha256="cd" * 32,
        batch_shape=(2, 4, 256),
        library_versions="numpy 2.0",
        seconds=0.1 + 0.2,
    )


def make_forecast(  # noqa: PLR0913 - each is what one test or another is about
    key: SeriesKey | None = None,
    cutoff: int = CUTOFF,
    *,
    horizon: int = 3,
    provenance: Provenance | None = None,
    issued_at: int | None = AT_CUTOFF,
    levels: tuple[float, ...] = CHRONOS_LEVELS,
    seed: int = 0,
) -> OHLCForecast:
    """Make a forecast around 40,000 whose raw quantiles cross here and there, so that repair had work."""
    issued_at = cutoff if issued_at == AT_CUTOFF else issued_at
    random = np.random.default_rng(seed)
    field_F11 = np.array([0.0, 60.0, -60.0, 5.0])[:, None, None]
    level_Q = 200 * (np.array(levels) - 0.5)
    raw_FHQ = 40_000 + field_F11 + level_Q + random.normal(0, 8, (4, horizon, len(levels)))
    return OHLCForecast(
        key or make_key(),
        cutoff,
        levels,
        raw_FHQ,
        repair(raw_FHQ),
        provenance or make_provenance(),
        issued_at,
        None if issued_at is None else issued_at + LATENCY_MS,
    )


def make_steps(  # noqa: PLR0913 - each is what one test or another is about
    values: ArrayLike,
    actual: ArrayLike,
    *,
    models: str | Sequence[str] = "nano@1",
    cutoff: ArrayLike = CUTOFF,
    step: ArrayLike = 1,
    late: ArrayLike = False,
    engines: str | Sequence[str] = "eager",
    raw: ArrayLike | None = None,
    levels: tuple[float, ...] = TENS,
    key: SeriesKey | None = None,
    run_id: str = "live",
) -> SettledSteps:
    """Make settled steps of a 24/7 series, in the ledger's order.

    `values` are (Q,), one step, or (N, Q), all fields alike, or (N, F, Q); `actual` one price, (N,) or (N, F). What is
    given once is that of every step.
    """
    key = key or make_key()
    values_NFQ, raw_NFQ = (_by_field(one, 3) for one in (values, values if raw is None else raw))
    given = (models, engines, cutoff, step, late)
    n = max(len(values_NFQ), *map(np.size, given))
    name_N, engine_N, cutoff_N, step_N, late_N = (np.broadcast_to(np.array(one), n) for one in given)
    (models_M, model_N), (engines_E, engine_N) = (np.unique(one, return_inverse=True) for one in (name_N, engine_N))
    made = SettledSteps(
        key=key,
        run_id=run_id,
        quantile_levels=levels,
        models=tuple(map(ModelId, models_M.tolist())),
        engines=tuple(engines_E.tolist()),
        model_N=model_N,
        engine_N=engine_N,
        cutoff_N=cutoff_N,
        step_N=step_N,
        target_open_N=cutoff_N + (step_N - 1) * key.timeframe.ms,
        issued_at_N=cutoff_N,
        available_at_N=cutoff_N + LATENCY_MS,
        late_N=late_N,
        raw_NFQ=np.broadcast_to(raw_NFQ, (n, len(FIELDS), len(levels))),
        values_NFQ=np.broadcast_to(values_NFQ, (n, len(FIELDS), len(levels))),
        actual_NF=np.broadcast_to(_by_field(actual, 2), (n, len(FIELDS))),
        revision_N=np.zeros(n, np.int64),
        seen_at_N=cutoff_N + step_N * key.timeframe.ms,
    )
    return made[np.lexsort((step_N, model_N, cutoff_N))]


def make_past(closes_T: ArrayLike, key: SeriesKey | None = None, cutoff: int = CUTOFF) -> Bars:
    """Make the bars of a 24/7 series that close up to `cutoff`, of these closes; NaN is a slot without a bar."""
    key = key or make_key()
    closes_T = np.asarray(closes_T, np.float64)
    opens_T = cutoff - np.arange(len(closes_T), 0, -1) * key.timeframe.ms
    real_T = ~np.isnan(closes_T)
    return Bars(key, opens_T[real_T], np.tile(closes_T[real_T], (5, 1)).T)


def _by_field(prices: ArrayLike, axes: int) -> np.ndarray:
    """Prices of each step and field: without an axis of steps they are of one, without one of fields of every field."""
    prices = np.asarray(prices, np.float64)
    if prices.ndim < axes - 1:
        prices = prices[None]
    if prices.ndim < axes:
        prices = np.stack([prices] * len(FIELDS), axis=1)
    return prices


def settled_rows(reader: Reader, as_of: int, since: int | None = None, run_id: str = LIVE) -> list[SettledRow]:
    """Return the rows of the steps that settled in (since, as_of]."""
    return [row for steps in reader.settled_between(as_of, since, run_id) for row in steps.rows()]
