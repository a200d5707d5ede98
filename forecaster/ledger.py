"""The records of the ledger: what was forecast, what came, and how good it was.

`LedgerRow` and `SettledRow` are facts and are never changed; `AccuracyReport` is derived from them.
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
    """The identity of a run: the door that made it, and a digest of all that decided its forecasts.

    `replay-1f2e3d4c5b6a` names the forecasts of a replay. `replay-1f2e3d4c5b6a+4000ms` names the same forecasts as if
    each had been available 4 s later: nothing is forecast or stored again.
    """

    __slots__ = ()

    @classmethod
    def of(cls, kind: str, *parts: object) -> RunId:
        """Name a run by its door and the digest of `parts`, each by its text."""
        digest = hashlib.sha256("\0".join(map(str, parts)).encode())
        return cls(f"{kind}-{digest.hexdigest()[:12]}")

    def delayed(self, latency_ms: int) -> RunId:
        """The same forecasts, each available `latency_ms` after it was issued."""
        return RunId(f"{self.recorded}+{latency_ms}ms") if latency_ms else RunId(self.recorded)

    @property
    def recorded(self) -> str:
        """The id under which the forecasts were recorded."""
        return self._split()[0]

    @property
    def latency_ms(self) -> int:
        """By how much their `available_at` is moved when they are read."""
        return int(self._split()[1] or 0)

    def _split(self) -> tuple[str, str]:
        recorded, plus, latency = self.rpartition("+")
        number = latency.removesuffix("ms")
        is_delayed = bool(plus) and latency.endswith("ms") and number.isdecimal()
        return (recorded, number) if is_delayed else (str(self), "")


@dataclass(frozen=True, slots=True)
class Run:
    """A body of forecasts that are judged together: the live service, one replay, one prediction.

    Args:
        id: see `RunId`.
        door: `live`, `replay` or `predict`.
        started_at: UTC ms at which it ran for the first time.
        plan: JSON of what decided its forecasts (digests of bars, models and code, settings); empty for the live run.
    """

    id: str
    kind: str
    started_at: int
    plan: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class LedgerRow:
    """One field of one step of one forecast; unique on (key, model_id, run_id, cutoff, step, field).

    `raw_Q` and `values_Q` are (Q,) prices at `quantile_levels`, before and after repair. `late` when the forecast was
    asked for after its first bar had closed.
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
    """A ledger row and the price that came: `actual` is the field of the final target bar."""

    row: LedgerRow
    actual: float
    revision: int


@dataclass(frozen=True, eq=False)
class SettledSteps:
    """Settled rows of one series and run as columns, for who counts millions: N steps of forecasts, four fields each.

    Ordered by cutoff, model and step. `model_N` and `engine_N` are places in `models` and `engines`. Prices are those
    of `LedgerRow`; `actual_NF` are the target bar's, in the order of `FIELDS`, of its revision `revision_N`.

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
        """Give some of the steps, by mask or places."""
        columns = {one.name: getattr(self, one.name)[chosen] for one in fields(self) if "_N" in one.name}
        return replace(self, **columns)

    def rows(self) -> Iterator[SettledRow]:
        """Give them one by one: four for each step."""
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
    """Work owed: the forecast of one series at one cutoff, and how far it has come.

    `pending` waits for its turn, `claimed` is being worked on until `claimed_until` (UTC ms), `done` has its forecast,
    `failed` has none for `reason`, and in a `gap` there is no bar to forecast from. `missed` stands for all closes from
    this one to `claimed_until` that passed while nobody ran, too long ago to be caught up on.
    """

    key: SeriesKey
    cutoff: int
    state: str = "pending"
    attempts: int = 0
    reason: str = ""
    claimed_until: int = 0


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """What was learned of a model on a series by `cutoff` (UTC ms): bytes of an `accuracy.calibration.Calibrator`."""

    key: SeriesKey
    model_id: str
    cutoff: int
    state: bytes


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """How good one model was on one series, step and field, over `n` settled rows.

    `field` is one of the four, or `range`, high - low, which has no quantiles of its own. What cannot be said of the
    rows is None.

    Args:
        mae: mean absolute error of the median, in price; `rmse` the root of its mean square; `bias` the mean of
            median - actual; `log_*` the same in log-return, for `range` in log range.
        mase: MAE over the mean absolute change of the close within 256 bars before the cutoff.
        pinball: mean over the levels, in price; `crps` twice its integral over them; `wql` as a share of the price.
        interval_score80: of the central 80 % interval, in price; `width80` its width.
        coverage80: share of outcomes inside the central 80 % interval; so for 50, 90 and 98.
        pit: share of outcomes in each tenth of the probability integral transform; all 0.1 where it is true.
        direction: share of moves from the last close on whose side the median was; `direction_majority` is what always
            saying the more frequent one would have given.
        qlike: loss of the variance that the forecast range stands for, of `range` alone.
        n_common: rows that the random walk forecast as well; `skill_*` is 1 - loss / its loss on them, each in units of
            the last close.
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
        """Refuse a report about nothing."""
        if self.n <= 0:
            raise InvalidArgument("report", "at least one settled row", self.n)


class HoldKind(NamedTuple):
    """What an exchange means when it refuses requests. A limit is worse than an outage, a ban is worse than a limit.

    Args:
        longest_ms: no hold of this kind lasts longer, whatever the exchange says.
        probe_ms: while a hold lasts, one request goes out this often.
        name: in the ledger, before the reason of a hold.
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
    """Until when an exchange is not to be asked: the newest row of it that the ledger has.

    A hold that has ended, or was lifted, has an `until` that has passed. An older program wrote holds of up to 30 days:
    `until` is never later than the longest hold of the kind, counted from `seen_at`.

    Args:
        exchange: its name in the configuration.
        until: UTC ms.
        reason: what the exchange said, after the kind of the hold.
        seen_at: UTC ms at which it said so, or of the newest probe since.
        since: UTC ms at which it said so first; `seen_at` when left out.
    """

    exchange: str
    until: int
    reason: str
    seen_at: int
    since: int | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Bound the time by the kind."""
        object.__setattr__(self, "until", min(self.until, self.seen_at + self.kind.longest_ms))

    @property
    def kind(self) -> HoldKind:
        """What the reason begins with, else what its status means, else a ban, with which nothing is risked."""
        begin, status = self.reason.partition(": ")[0], _STATUS.search(self.reason)
        return _KINDS[begin if begin in _KINDS else (status and status.lastgroup) or BAN.name]

    @property
    def probe_at(self) -> int:
        """UTC ms from which one request may go out, though the hold lasts.

        Some exchanges lengthen a ban for every request that is made during it. So a ban is probed when half of what is
        left of it has passed, and never within 6 hours of the last request.
        """
        told = (self.until - self.seen_at) // 2 if self.kind is BAN else 0
        return self.seen_at + max(self.kind.probe_ms, told)
