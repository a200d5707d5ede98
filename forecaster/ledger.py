"""The records of the ledger: what was forecast, what came, and how good it was.

`LedgerRow` and `SettledRow` are facts and are never changed; `AccuracyReport` is derived from them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecaster.errors import InvalidContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey

LIVE = "live"


@dataclass(frozen=True, slots=True)
class Run:
    """A body of forecasts that are judged together: the live service, one replay, one experiment."""

    id: str
    door: str
    started_at: int


@dataclass(frozen=True, slots=True, eq=False)
class LedgerRow:
    """One field of one step of one forecast; unique on (key, model_id, run_id, cutoff, step, field).

    `raw_Q` and `values_Q` are (Q,) prices at `quantile_levels`, before and after repair.
    """

    key: SeriesKey
    model_id: str
    run_id: str
    cutoff: int
    step: int
    field: str
    target_open: int
    issued_at: int
    available_at: int
    engine: str
    quantile_levels: tuple[float, ...]
    raw_Q: NDArray[np.float64]
    values_Q: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SettledRow:
    """A ledger row and the price that came: `actual` is the field of the final target bar."""

    row: LedgerRow
    actual: float
    revision: int


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """How good one model was on one series, step and field, over `n` settled rows.

    `mae` and `width80` are in price; `pinball` is the mean over levels, in price; `coverage80` is the
    share of outcomes inside the central 80 % interval; `skill_*` is 1 - loss / loss of the random walk
    on the common cases, None when there are none.
    """

    key: SeriesKey
    model_id: str
    step: int
    field: str
    n: int
    mae: float
    pinball: float
    coverage80: float
    width80: float
    skill_mae: float | None
    skill_pinball: float | None

    def __post_init__(self) -> None:
        """Refuse a report about nothing."""
        if self.n <= 0:
            raise InvalidContext("report", "at least one settled row", self.n)


def forecast_id(key: SeriesKey, model_id: str, run_id: str, cutoff: int) -> str:
    """Name a forecast by its natural key: the same forecast always has the same id."""
    parts = (key.exchange, key.symbol, str(key.timeframe), model_id, run_id, str(cutoff))
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]
