"""The records of the ledger: what was forecast, what came, and how good it was.

`LedgerRow` and `SettledRow` are facts and are never changed; `AccuracyReport` is derived from them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forecaster.errors import InvalidContext

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
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

    `raw_Q` and `values_Q` are (Q,) prices at `quantile_levels`, before and after repair. `late` when the forecast was
    asked for after its first bar had closed.
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
    late: bool
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
class Slot:
    """Work owed: the forecast of one series at one cutoff, and how far it has come.

    `pending` waits for its turn, `leased` is being worked on until `leased_until` (UTC ms), `done` has its forecast,
    `failed` has none for `reason`, and in a `gap` there is no bar to forecast from.
    """

    key: SeriesKey
    cutoff: int
    state: str = "pending"
    attempts: int = 0
    reason: str = ""
    leased_until: int = 0


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


def to_frame(rows: Sequence[LedgerRow], settled: Sequence[SettledRow] = ()) -> pd.DataFrame:
    """Give ledger rows as a pandas frame: one line each, times as UTC, a column for each quantile level such as `q0.1`.

    `actual` is the price that came, for rows that are among `settled`; NaN for the others. A level that a row's model
    does not give is NaN.
    """
    import pandas as pd  # noqa: PLC0415 - only who wants a frame pays for pandas

    came = {_case(one.row): one.actual for one in settled}
    frame = pd.DataFrame(
        {
            "exchange": row.key.exchange,
            "symbol": row.key.symbol,
            "timeframe": str(row.key.timeframe),
            "model": row.model_id,
            "run": row.run_id,
            "cutoff": row.cutoff,
            "step": row.step,
            "field": row.field,
            "target_open": row.target_open,
            "issued_at": row.issued_at,
            "available_at": row.available_at,
            "late": row.late,
            "engine": row.engine,
            "actual": came.get(_case(row), float("nan")),
            **{f"q{level:g}": price for level, price in zip(row.quantile_levels, row.values_Q.tolist(), strict=True)},
        }
        for row in rows
    )
    for name in ("cutoff", "target_open", "issued_at", "available_at"):
        if name in frame:
            frame[name] = pd.to_datetime(frame[name], unit="ms", utc=True)
    return frame


def _case(row: LedgerRow) -> tuple[SeriesKey, str, str, int, int, str]:
    return row.key, row.model_id, row.run_id, row.cutoff, row.step, row.field
