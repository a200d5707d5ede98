"""Export the forecasts of a run as pandas frames, for files and other tools.

Shapes: T bars, F columns of a bar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from forecaster.bars import COLUMNS, FIELDS, NO_TIME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from forecaster.bars import Bars, SeriesKey
    from forecaster.ledger import LedgerRow
    from forecaster.store import Reader

CUTOFFS: Final = 512
"""Cutoffs per frame."""
_TIMES: Final = ("cutoff", "target_open", "issued_at", "available_at")


def frames(reader: Reader, keys: Iterable[SeriesKey], run_id: str) -> Iterator[pd.DataFrame]:
    """Yield a run's rows, some cutoffs per frame: times in UTC, a column for each quantile level such as `q0.1`.

    `actual` is the price of the run's own bar, NaN if there is none yet. A level that a row's model does not forecast
    is NaN. `run` is `run_id`, including a latency.
    """
    for key in keys:
        cutoffs, bars = reader.cutoffs(key, run_id), reader.bars(key, run_id=run_id)
        for first in range(0, len(cutoffs), CUTOFFS):
            last = min(first + CUTOFFS, len(cutoffs)) - 1
            yield _frame(reader.history(key, int(cutoffs[first]), int(cutoffs[last]) + 1, run_id), bars, run_id)


def _frame(rows: Sequence[LedgerRow], bars: Bars, run_id: str) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "exchange": row.key.exchange,
            "symbol": row.key.symbol,
            "timeframe": str(row.key.timeframe),
            "model": str(row.model_id),
            "run": str(run_id),
            "cutoff": row.cutoff,
            "step": row.step,
            "field": row.field,
            "target_open": row.target_open,
            "issued_at": row.issued_at,
            "available_at": row.available_at,
            "late": row.late,
            "engine": row.engine,
            "actual": np.nan,
            **{f"q{level:g}": price for level, price in zip(row.quantile_levels, row.values_Q.tolist(), strict=True)},
        }
        for row in rows
    )
    place = np.searchsorted(bars.open_time, frame["target_open"])
    came = np.append(bars.open_time, NO_TIME)[place] == frame["target_open"]
    price_TF = np.vstack([bars.ohlcv_TF, np.full(len(COLUMNS), np.nan)])
    frame["actual"] = np.where(came, price_TF[place, frame["field"].map(FIELDS.index)], np.nan)
    for name in _TIMES:
        frame[name] = pd.to_datetime(frame[name], unit="ms", utc=True)
    return frame
