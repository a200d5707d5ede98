"""The records of the ledger: forecasts, actuals, runs, pending work and scores.

`LedgerRow` and `SettledRow` never change; `AccuracyReport` is derived from them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from forecaster.bars import FIELDS
from forecaster.errors import InvalidArgument
from forecaster.timeframe import DAY_MS, MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from forecaster.bars import SeriesKey
    from forecaster.forecast import ModelId

LIVE = "live"


class RunId(str):
    """The identity of a run: its kind, and a digest of everything that decided its forecasts.

    `replay-1f2e3d4c5b6a` is a replay. `replay-1f2e3d4c5b6a+4000ms` is the same replay, read as if each forecast had
    been available 4 s later.
    """

    __slots__ = ()

    @classmethod
    def of(cls, kind: str, *parts: object) -> RunId:
        """Build the id of a run from its kind and a digest of the texts of `parts`."""
        digest = hashlib.sha256("\0".join(map(str, parts)).encode())
        return cls(f"{kind}-{digest.hexdigest()[:12]}")

    def delayed(self, latency_ms: int) -> RunId:
        """Return the id of the same forecasts, each available `latency_ms` after it was issued."""
        return RunId(f"{self.recorded}+{latency_ms}ms") if latency_ms else RunId(self.recorded)

    @property
    def recorded(self) -> str:
        """The id under which the forecasts were recorded."""
        return self._split()[0]

    @property
    def latency_ms(self) -> int:
        """Milliseconds by which `available_at` is delayed when the forecasts are read."""
        return int(self._split()[1] or 0)

    def _split(self) -> tuple[str, str]:
        recorded, plus, latency = self.rpartition("+")
        number = latency.removesuffix("ms")
        is_delayed = bool(plus) and latency.endswith("ms") and number.isdecimal()
        return (recorded, number) if is_delayed else (str(self), "")


@dataclass(frozen=True, slots=True)
class Run:
    """Forecasts that belong together: the live service, one replay, one prediction.

    Args:
        id: see `RunId`.
        kind: `live`, `replay` or `predict`.
        started_at: UTC ms of the first start.
        plan: JSON of everything that decided its forecasts: digests of bars, models and code, settings. Empty for the
            live run.
    """

    id: str
    kind: str
    started_at: int
    plan: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class LedgerRow:
    """One field of one step of one forecast; unique on (key, model_id, run_id, cutoff, step, field).

    `raw_Q` and `values_Q` are (Q,) prices at `quantile_levels`, as predicted and as served. `late` means that the
    forecast was issued after its first target bar had closed.
    """

    key: SeriesKey
    model_id: ModelId
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
    """A ledger row and its actual: the same field of the final target bar."""

    row: LedgerRow
    actual: float
    revision: int


@dataclass(frozen=True, eq=False)
class SettledSteps:
    """Settled rows of one series and run as columns: N steps of forecasts, four fields each.

    Ordered by cutoff, model and step. `model_N` and `engine_N` are indices into `models` and `engines`. `actual_NF` has
    the prices of the target bar, in the order of `FIELDS`, of its revision `revision_N`.

    Shapes: N steps, F fields, Q quantile levels.
    """

    key: SeriesKey
    run_id: str
    quantile_levels: tuple[float, ...]
    models: tuple[ModelId, ...]
    engines: tuple[str, ...]
    model_N: NDArray[np.int64]
    engine_N: NDArray[np.int64]
    cutoff_N: NDArray[np.int64]
    step_N: NDArray[np.int64]
    target_open_N: NDArray[np.int64]
    issued_at_N: NDArray[np.int64]
    available_at_N: NDArray[np.int64]
    late_N: NDArray[np.bool_]
    raw_NFQ: NDArray[np.float64]
    values_NFQ: NDArray[np.float64]
    actual_NF: NDArray[np.float64]
    revision_N: NDArray[np.int64]
    seen_at_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.step_N)

    def __getitem__(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> SettledSteps:
        """Select steps by mask or index."""
        columns = {column.name: getattr(self, column.name)[chosen] for column in fields(self) if "_N" in column.name}
        return replace(self, **columns)

    def rows(self) -> Iterator[SettledRow]:
        """Yield the rows: four for each step."""
        for i in range(len(self)):
            for f, field in enumerate(FIELDS):
                row = LedgerRow(
                    key=self.key,
                    model_id=self.models[self.model_N[i]],
                    run_id=self.run_id,
                    cutoff=int(self.cutoff_N[i]),
                    step=int(self.step_N[i]),
                    field=field,
                    target_open=int(self.target_open_N[i]),
                    issued_at=int(self.issued_at_N[i]),
                    available_at=int(self.available_at_N[i]),
                    late=bool(self.late_N[i]),
                    engine=self.engines[self.engine_N[i]],
                    quantile_levels=self.quantile_levels,
                    raw_Q=self.raw_NFQ[i, f],
                    values_Q=self.values_NFQ[i, f],
                )
                yield SettledRow(row, float(self.actual_NF[i, f]), int(self.revision_N[i]))


@dataclass(frozen=True, slots=True)
class PendingForecast:
    """The forecast of one series at one cutoff that is due, and its state.

    `pending`: not started. `claimed`: in progress until `claimed_until` (UTC ms). `done`: recorded. `failed`: not
    possible, for `reason`. `gap`: no bar to forecast from. `missed`: all closes from this one to `claimed_until` passed
    while no process ran, too long ago to catch up on.
    """

    key: SeriesKey
    cutoff: int
    state: str = "pending"
    attempts: int = 0
    reason: str = ""
    claimed_until: int = 0


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """The calibration of a model on a series at `cutoff` (UTC ms): bytes of an `accuracy.calibration.Calibrator`."""

    key: SeriesKey
    model_id: str
    cutoff: int
    state: bytes


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """Scores of one model on one series, step and field, over `n` settled rows.

    `field` is open, high, low, close, or `range` (high - low), which has no quantiles. A score that is undefined is
    None.

    Args:
        mae: mean absolute error of the median, in price; `rmse` the root of its mean square; `bias` the mean of
            median - actual; `log_*` the same in log-return, for `range` in log range.
        mase: MAE divided by the mean absolute change of the close in the 256 bars before the cutoff.
        pinball: mean over the levels, in price; `crps` twice its integral over them; `wql` relative to the price.
        interval_score80: of the central 80 % interval, in price; `width80` its width.
        coverage80: share of outcomes inside the central 80 % interval; also 50, 90 and 98.
        pit: share of outcomes in each tenth of the probability integral transform; 0.1 each if calibrated.
        direction: share of moves from the last close whose sign the median had; `direction_majority` is the share of
            the more frequent sign.
        qlike: QLIKE loss of the variance implied by the forecast range; of `range` alone.
        n_common: rows that the random walk has forecast too; `skill_*` is 1 - loss / its loss on these rows, in units
            of the last close.
    """

    key: SeriesKey
    model_id: ModelId
    step: int
    field: str
    n: int
    mae: float
    rmse: float
    bias: float
    log_rmse: float | None
    log_bias: float | None
    mase: float | None
    pinball: float | None
    wql: float | None
    crps: float | None
    interval_score80: float | None
    width80: float | None
    coverage50: float | None
    coverage80: float | None
    coverage90: float | None
    coverage98: float | None
    pit: tuple[float, ...]
    direction: float | None
    direction_majority: float | None
    qlike: float | None
    n_common: int
    skill_mae: float | None
    skill_pinball: float | None
    skill_crps: float | None

    def __post_init__(self) -> None:
        """Refuse a report without rows."""
        if self.n <= 0:
            raise InvalidArgument("report", "at least one settled row", self.n)


class HoldKind(NamedTuple):
    """Why an exchange refuses requests, in order of severity: outage, rate limit, ban.

    Args:
        longest_ms: the longest hold of this kind, whatever the exchange says.
        probe_ms: interval of probe requests during a hold.
        name: prefix of the reason in the ledger.
    """

    longest_ms: int
    probe_ms: int
    name: str


_HOUR_MS: Final = 60 * MINUTE_MS
OUTAGE: Final = HoldKind(10 * MINUTE_MS, MINUTE_MS, "outage")
LIMIT: Final = HoldKind(DAY_MS, _HOUR_MS, "limit")
BAN: Final = HoldKind(3 * DAY_MS, 6 * _HOUR_MS, "ban")
_KINDS: Final = {kind.name: kind for kind in (OUTAGE, LIMIT, BAN)}
_STATUS: Final = re.compile(r": .*?\b(?:(?P<ban>403|418|451)|(?P<limit>429)|(?P<outage>5\d\d))\b")


@dataclass(frozen=True, slots=True)
class Hold:
    """A time during which an exchange must not be asked: the latest row of the exchange in the ledger.

    A hold that has ended, or was lifted, has an `until` in the past. `until` is limited by the kind of the hold.

    Args:
        exchange: its name in the configuration.
        until: UTC ms.
        reason: kind of the hold, and what the exchange said.
        seen_at: UTC ms of the refusal, or of the latest probe.
        since: UTC ms of the first refusal; `seen_at` when left out.
    """

    exchange: str
    until: int
    reason: str
    seen_at: int
    since: int | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Limit the time by the kind."""
        object.__setattr__(self, "until", min(self.until, self.seen_at + self.kind.longest_ms))

    @property
    def kind(self) -> HoldKind:
        """The kind in the reason, else from its status, else a ban, the safest."""
        begin, status = self.reason.partition(": ")[0], _STATUS.search(self.reason)
        return _KINDS[begin if begin in _KINDS else (status and status.lastgroup) or BAN.name]

    @property
    def probe_at(self) -> int:
        """UTC ms from which one probe request may be sent during the hold.

        Some exchanges extend a ban with every request. So a ban is probed after half of its remaining time, and at
        least 6 hours after the last request.
        """
        half_ms = (self.until - self.seen_at) // 2 if self.kind is BAN else 0
        return self.seen_at + max(self.kind.probe_ms, half_ms)
