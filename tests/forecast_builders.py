"""Forecasts and settled rows with sane defaults; the same arguments give the same values on any machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from forecaster.forecast import CHRONOS_LEVELS, OHLCForecast, Provenance, repair
from forecaster.ledger import LedgerRow, SettledRow
from tests.builders import make_key, utc_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from forecaster.bars import SeriesKey

CUTOFF = utc_ms("2024-01-05")
LATENCY_MS = 7
TENS = (0.1, 0.5, 0.9)


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
    issued_at: int | None = CUTOFF,
    levels: tuple[float, ...] = CHRONOS_LEVELS,
    seed: int = 0,
) -> OHLCForecast:
    """Make a forecast around 40,000 whose raw quantiles cross here and there, so that repair had work."""
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


def make_settled(  # noqa: PLR0913 - each is what one test or another is about
    values_Q: Sequence[float],
    actual: float,
    *,
    model_id: str = "nano@1",
    cutoff: int = CUTOFF,
    step: int = 1,
    field: str = "close",
    levels: tuple[float, ...] = TENS,
    key: SeriesKey | None = None,
    run_id: str = "live",
) -> SettledRow:
    """Make a ledger row of a 24/7 series with its outcome."""
    key = key or make_key()
    row = LedgerRow(
        key=key,
        model_id=model_id,
        run_id=run_id,
        cutoff=cutoff,
        step=step,
        field=field,
        target_open=cutoff + (step - 1) * key.timeframe.ms,
        issued_at=cutoff,
        available_at=cutoff + LATENCY_MS,
        late=False,
        engine="eager",
        quantile_levels=levels,
        raw_Q=np.array(values_Q, np.float64),
        values_Q=np.array(values_Q, np.float64),
    )
    return SettledRow(row, actual, 0)
