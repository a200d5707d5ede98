"""Losses: every metric of every settled case, as columns. `scores` sums them, `loss_series` keeps them in time order.

A case is one field of one step; the fifth field is the bar's range, high - low. A metric without a value for a case is
0, and so is its count column; sums of parts therefore add up to the sums of the whole.

Shapes: N steps, F fields, G fields and the range, Q quantile levels, C columns, U cutoffs, T bars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from forecaster.accuracy import metrics
from forecaster.bars import FIELDS
from forecaster.forecast import interpolate, repair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from forecaster.bars import Bars
    from forecaster.ledger import SettledSteps

RANDOM_WALK: Final = "random_walk"
RANGE: Final = "range"
SCORED_FIELDS: Final = (*FIELDS, RANGE)
COVERAGES: Final = (0.5, 0.8, 0.9, 0.98)
PIT_BINS: Final = 10
MASE_SCALE_BARS: Final = 256
"""Number of changes of the close before a cutoff that its MASE is scaled by."""

COLUMNS: Final = (
    "n", "absolute_error", "squared_error", "error",
    "log_n", "log_absolute_error", "log_squared_error", "log_error",
    "scaled_n", "scaled_error", "absolute_actual",
    "quantile_n", "pinball", "crps", "interval_score80", "width80",
    *(f"covered{100 * coverage:g}" for coverage in COVERAGES),
    *(f"pit{i}" for i in range(PIT_BINS)),
    "direction_n", "direction", "ups", "qlike_n", "qlike",
    "common_n", "common_absolute_error", "common_pinball", "common_crps",
    "walk_absolute_error", "walk_pinball", "walk_crps",
)  # fmt: skip
"""Columns of a case. `common_*` (own) and `walk_*` are in units of the last close, over cases that both forecast."""

COUNT_COLUMNS: Final = tuple(
    name for name in COLUMNS if name == "ups" or name.endswith("_n") or name.startswith(("n", "covered", "pit"))
)
"""Columns of whole numbers: their sums are exact."""

COLUMN_INDEX: Final = {name: i for i, name in enumerate(COLUMNS)}
_LARGEST_STEP: Final = 1 << 12


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of settled steps, as served and raw.

    Args:
        steps: the settled steps.
        served_NGC: columns of the prices as served.
        raw_NGC: columns of the prices before calibration, sorted.
        last_close_N: close at the cutoff; NaN where its bar is missing.
        walk_N: position of the random walk's step with the same cutoff, step and lateness; -1 for none.
    """

    steps: SettledSteps
    served_NGC: NDArray[np.float64]
    raw_NGC: NDArray[np.float64]
    last_close_N: NDArray[np.float64]
    walk_N: NDArray[np.int64]

    def __getitem__(self, chosen_N: NDArray[np.bool_]) -> Losses:
        """Select cases by mask."""
        position_N = np.where(chosen_N, np.cumsum(chosen_N) - 1, -1)
        walk_N = np.where(self.walk_N >= 0, position_N[self.walk_N], -1)[chosen_N]
        rows = (self.served_NGC[chosen_N], self.raw_NGC[chosen_N], self.last_close_N[chosen_N])
        return Losses(self.steps[chosen_N], *rows, walk_N)


def compute_losses(steps: SettledSteps, bars: Bars) -> Losses:
    """Compute the losses of settled steps. A case depends on the bars up to its cutoff, and on its own target.

    Args:
        steps: settled steps of one series.
        bars: of that series, from 256 slots before the first cutoff on.
    """
    (losses,) = compute_losses_batch([(steps, bars)])
    return losses


def compute_losses_batch(pairs: Sequence[tuple[SettledSteps, Bars]]) -> list[Losses]:
    """Compute the losses of several series at once: faster than `compute_losses` where each has few steps."""
    losses: dict[int, Losses] = {}
    for levels in {steps.quantile_levels for steps, _ in pairs}:
        positions = [i for i, (steps, _) in enumerate(pairs) if steps.quantile_levels == levels]
        inputs = [_Inputs.prepare(*pairs[i]) for i in positions]
        columns = ([cases.values_NFQ, cases.actual_NF, cases.last_close_N, cases.scale_N] for cases in inputs)
        terms_NGC = _terms(levels, *map(np.concatenate, zip(*columns, strict=True)))
        ends = np.cumsum([len(cases.values_NFQ) for cases in inputs])[:-1]
        for i, cases, own_NGC in zip(positions, inputs, np.split(terms_NGC, ends), strict=True):
            losses[i] = _losses(pairs[i][0], cases, own_NGC)
    return [losses[i] for i in range(len(pairs))]


def uncalibrated_prices(steps: SettledSteps, chosen: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float64]:
    """Return the prices before calibration, sorted, (N, F, Q), of the steps at the positions `chosen`."""
    sorted_NFQ: NDArray[np.float64] = repair(steps.raw_NFQ[chosen][:, :, None, :])[:, :, 0]
    return sorted_NFQ


class _Inputs(NamedTuple):
    """The cases to compute: each step as served, then the steps in `changed` before calibration."""

    changed: NDArray[np.int64]
    values_NFQ: NDArray[np.float64]
    actual_NF: NDArray[np.float64]
    last_close_N: NDArray[np.float64]
    scale_N: NDArray[np.float64]

    @classmethod
    def prepare(cls, steps: SettledSteps, bars: Bars) -> Self:
        last_close_N, scale_N = _closes_and_scales(steps.cutoff_N, bars)
        uncalibrated_NFQ = uncalibrated_prices(steps)
        changed = np.flatnonzero((uncalibrated_NFQ != steps.values_NFQ).any(axis=(1, 2)))
        case = np.concatenate([np.arange(len(steps)), changed])
        values_NFQ = np.concatenate([steps.values_NFQ, uncalibrated_NFQ[changed]])
        return cls(changed, values_NFQ, steps.actual_NF[case], last_close_N[case], scale_N[case])


def _losses(steps: SettledSteps, inputs: _Inputs, terms_NGC: NDArray[np.float64]) -> Losses:
    last_close_N, walk_N = inputs.last_close_N[: len(steps)], _walk_positions(steps)
    served_NGC = raw_NGC = terms_NGC[: len(steps)]
    if len(inputs.changed):
        raw_NGC = served_NGC.copy()
        raw_NGC[inputs.changed] = terms_NGC[len(steps) :]
        _put_common(raw_NGC, served_NGC, walk_N, last_close_N)
    _put_common(served_NGC, served_NGC, walk_N, last_close_N)
    return Losses(steps, served_NGC, raw_NGC, last_close_N, walk_N)


def _closes_and_scales(cutoff_N: NDArray[np.int64], bars: Bars) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Last close and naive scale at each cutoff, (N,) each: NaN where the bar, or every change, is missing."""
    cutoff_U, position_N = np.unique(cutoff_N, return_inverse=True)
    key = bars.key
    first = int(key.trading_calendar.last_opens(key.timeframe, int(cutoff_U[0]), MASE_SCALE_BARS + 1)[0])
    opens_T = key.trading_calendar.opens_between(key.timeframe, first, int(cutoff_U[-1]))
    closes_T = np.full(len(opens_T), np.nan)
    known = (bars.open_time >= first) & (bars.open_time < cutoff_U[-1])
    closes_T[np.searchsorted(opens_T, bars.open_time[known])] = bars.close[known]
    last_U = np.searchsorted(key.trading_calendar.closes_of(key.timeframe, opens_T), cutoff_U, side="right") - 1
    position_UT = last_U[:, None] + np.arange(-MASE_SCALE_BARS, 1)
    closes_UT = np.where(position_UT >= 0, closes_T[position_UT], np.nan)  # a calendar may begin within them
    return closes_T[last_U][position_N], metrics.naive_scale(closes_UT)[position_N]


def _walk_positions(steps: SettledSteps) -> NDArray[np.int64]:
    """Position of the random walk's step with the same cutoff, step and lateness, (N,); -1 for none."""
    _, cutoff_N = np.unique(steps.cutoff_N, return_inverse=True)
    case_N = 2 * (cutoff_N * _LARGEST_STEP + steps.step_N) + steps.late_N
    is_walk = np.array([model_id.name == RANDOM_WALK for model_id in steps.models])
    walks = np.flatnonzero(is_walk[steps.model_N])
    if not len(walks):
        return np.full(len(steps), -1)
    walks = walks[np.argsort(case_N[walks], kind="stable")]
    nearest_N = walks[np.minimum(np.searchsorted(case_N[walks], case_N), len(walks) - 1)]
    return np.where(case_N[nearest_N] == case_N, nearest_N, -1)


def _terms(
    levels: tuple[float, ...],
    values_NFQ: NDArray[np.float64],
    actual_NF: NDArray[np.float64],
    last_close_N: NDArray[np.float64],
    scale_N: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Compute all columns but the common ones, (N, G, C)."""
    terms_NGC = np.zeros((len(values_NFQ), len(SCORED_FIELDS), len(COLUMNS)))
    median_NF = interpolate(values_NFQ, levels, 0.5)
    high, low = FIELDS.index("high"), FIELDS.index("low")
    median_NG, actual_NG = (
        np.column_stack([price_NF, price_NF[:, high] - price_NF[:, low]]) for price_NF in (median_NF, actual_NF)
    )
    _put_points(terms_NGC, median_NG, actual_NG, scale_N)
    _put_quantiles(terms_NGC[:, : len(FIELDS)], values_NFQ, levels, actual_NF)
    _put_direction(terms_NGC[:, : len(FIELDS)], median_NF, actual_NF, last_close_N)
    variance_N, realised_N = (
        metrics.range_variance(price_NF[:, high], price_NF[:, low]) for price_NF in (median_NF, actual_NF)
    )
    _put(terms_NGC[:, -1], "qlike", metrics.qlike(variance_N, realised_N))
    return terms_NGC


def _put_points(
    terms_NGC: NDArray[np.float64],
    median_NG: NDArray[np.float64],
    actual_NG: NDArray[np.float64],
    scale_N: NDArray[np.float64],
) -> None:
    columns = {
        "n": np.ones_like(median_NG),
        "absolute_error": metrics.absolute_error(median_NG, actual_NG),
        "squared_error": metrics.squared_error(median_NG, actual_NG),
        "error": metrics.error(median_NG, actual_NG),
        "absolute_actual": np.abs(actual_NG),
    }
    for name, column_NG in columns.items():
        terms_NGC[:, :, COLUMN_INDEX[name]] = column_NG
    log_NG = metrics.log_error(median_NG, actual_NG)
    _put(terms_NGC, "log_error", log_NG, count="log_n")
    _put(terms_NGC, "log_absolute_error", np.abs(log_NG), count="log_n")
    _put(terms_NGC, "log_squared_error", np.square(log_NG), count="log_n")
    _put(terms_NGC, "scaled_error", metrics.scaled_error(median_NG, actual_NG, scale_N[:, None]), count="scaled_n")


def _put_quantiles(
    terms_NFC: NDArray[np.float64],
    values_NFQ: NDArray[np.float64],
    levels: tuple[float, ...],
    actual_NF: NDArray[np.float64],
) -> None:
    shape, levels_Q = terms_NFC.shape[:2], np.array(levels)
    values_NQ, actual_N = values_NFQ.reshape(-1, len(levels)), actual_NF.reshape(-1)
    by_level_NQ = metrics.pinball_by_level(values_NQ, levels_Q, actual_N)
    columns = {
        "quantile_n": np.ones(len(actual_N)),
        "pinball": by_level_NQ.mean(axis=1),
        "crps": metrics.crps(by_level_NQ, levels_Q),
    }
    for coverage in COVERAGES:
        tail = round((1 - coverage) / 2, 12)
        if not levels[0] <= tail <= 1 - tail <= levels[-1]:
            columns[f"covered{100 * coverage:g}"] = np.full(len(actual_N), np.nan)
            continue
        lower_N, upper_N = (interpolate(values_NQ, levels, level) for level in (tail, round(1 - tail, 12)))
        columns[f"covered{100 * coverage:g}"] = metrics.covered(lower_N, upper_N, actual_N).astype(np.float64)
        if coverage == 0.8:  # noqa: PLR2004 - the interval whose score and width are reported
            columns["interval_score80"] = metrics.interval_score(lower_N, upper_N, actual_N, coverage)
            columns["width80"] = metrics.width(lower_N, upper_N)
    for name, column_N in columns.items():
        terms_NFC[:, :, COLUMN_INDEX[name]] = column_N.reshape(shape)
    bin_N = np.minimum(metrics.pit(values_NQ, levels_Q, actual_N) * PIT_BINS, PIT_BINS - 1).astype(np.int64)
    np.put_along_axis(terms_NFC, COLUMN_INDEX["pit0"] + bin_N.reshape(*shape, 1), 1.0, axis=2)


def _put_direction(
    terms_NFC: NDArray[np.float64],
    median_NF: NDArray[np.float64],
    actual_NF: NDArray[np.float64],
    last_close_N: NDArray[np.float64],
) -> None:
    hit_NF = metrics.direction(median_NF, actual_NF, last_close_N[:, None])
    hit_NF = np.where(np.isnan(last_close_N)[:, None], np.nan, hit_NF)
    _put(terms_NFC, "direction", hit_NF)
    terms_NFC[:, :, COLUMN_INDEX["ups"]] = actual_NF > last_close_N[:, None]


def _put(terms: NDArray[np.float64], name: str, column: NDArray[np.float64], count: str = "") -> None:
    """Set a column that is NaN for some cases, and its count column."""
    is_known = ~np.isnan(column)
    terms[..., COLUMN_INDEX[name]] = np.where(is_known, column, 0.0)
    terms[..., COLUMN_INDEX[count or f"{name}_n"]] = is_known


def _put_common(
    terms_NGC: NDArray[np.float64],
    served_NGC: NDArray[np.float64],
    walk_N: NDArray[np.int64],
    last_close_N: NDArray[np.float64],
) -> None:
    """Set the common columns of cases that the random walk forecast too, in units of the last close."""
    common_N = np.flatnonzero((walk_N >= 0) & ~np.isnan(last_close_N))
    unit_N1 = last_close_N[common_N, None]
    terms_NGC[common_N, :, COLUMN_INDEX["common_n"]] = 1.0
    for name in ("absolute_error", "pinball", "crps"):
        own, walk = terms_NGC[common_N, :, COLUMN_INDEX[name]], served_NGC[walk_N[common_N], :, COLUMN_INDEX[name]]
        terms_NGC[common_N, :, COLUMN_INDEX[f"common_{name}"]] = own / unit_N1
        terms_NGC[common_N, :, COLUMN_INDEX[f"walk_{name}"]] = walk / unit_N1
