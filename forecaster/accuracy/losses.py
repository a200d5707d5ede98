"""What each settled step cost: every metric of every case, as columns that `score` adds up and `trace` keeps in time.

A case is one field of one step; beside the four fields stands the bar's range, high - low. What a case has no value
for counts 0, and 0 in the count beside it, so that sums of parts of any size add up to the sums of the whole.

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
SCORED: Final = (*FIELDS, RANGE)
COVERAGES: Final = (0.5, 0.8, 0.9, 0.98)
PIT_BINS: Final = 10
SCALE_BARS: Final = 256
"""How many changes of the close before a cutoff make the scale of its MASE."""

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
"""What is counted of a case. `common_*` and `walk_*` are in units of the last close, over cases that both forecast."""

COUNTS: Final = tuple(
    name for name in COLUMNS if name == "ups" or name.endswith("_n") or name.startswith(("n", "covered", "pit"))
)
"""Those that are whole numbers: parts of them add up bit for bit."""

PLACE: Final = {name: i for i, name in enumerate(COLUMNS)}
_LARGEST_STEP: Final = 1 << 12


@dataclass(frozen=True, eq=False)
class Losses:
    """What the cases of `steps` cost, as they were served and as the model gave them.

    Args:
        steps: whose they are.
        served_NGC: of the prices that strategies got.
        raw_NGC: of the model's own prices, sorted, before any calibration.
        last_close_N: price at the cutoff; NaN where its bar is not there.
        walk_N: place of the random walk's step of the same cutoff and number, as late or as timely, -1 for none.
    """

    steps: SettledSteps
    served_NGC: NDArray[np.float64]
    raw_NGC: NDArray[np.float64]
    last_close_N: NDArray[np.float64]
    walk_N: NDArray[np.int64]

    def __getitem__(self, chosen_N: NDArray[np.bool_]) -> Losses:
        """Give some of the cases, by mask, as they were counted; a walk that is not among them has no place."""
        place_N = np.where(chosen_N, np.cumsum(chosen_N) - 1, -1)
        walk_N = np.where(self.walk_N >= 0, place_N[self.walk_N], -1)[chosen_N]
        rows = (self.served_NGC[chosen_N], self.raw_NGC[chosen_N], self.last_close_N[chosen_N])
        return Losses(self.steps[chosen_N], *rows, walk_N)


def measure(steps: SettledSteps, bars: Bars) -> Losses:
    """Measure settled steps. `bars` are those of the series, from 256 slots before the first cutoff on.

    Nothing but the bars up to a case's cutoff and its own target is looked at.
    """
    (losses,) = measure_all([(steps, bars)])
    return losses


def measure_all(pairs: Sequence[tuple[SettledSteps, Bars]]) -> list[Losses]:
    """Measure the steps of several series as `measure` does, at once: quicker where each has but a few."""
    found: dict[int, Losses] = {}
    for levels in {steps.quantile_levels for steps, _ in pairs}:
        places = [i for i, (steps, _) in enumerate(pairs) if steps.quantile_levels == levels]
        asked = [_Asked.of(*pairs[i]) for i in places]
        columns = ([one.values_NFQ, one.actual_NF, one.last_close_N, one.scale_N] for one in asked)
        terms_NGC = _terms(levels, *map(np.concatenate, zip(*columns, strict=True)))
        ends = np.cumsum([len(one.values_NFQ) for one in asked])[:-1]
        for i, one, own_NGC in zip(places, asked, np.split(terms_NGC, ends), strict=True):
            found[i] = _losses(pairs[i][0], one, own_NGC)
    return [found[i] for i in range(len(pairs))]


class _Asked(NamedTuple):
    """What is measured of some steps: first each as it was served, then those in `changed` as the model gave them."""

    changed: NDArray[np.int64]
    values_NFQ: NDArray[np.float64]
    actual_NF: NDArray[np.float64]
    last_close_N: NDArray[np.float64]
    scale_N: NDArray[np.float64]

    @classmethod
    def of(cls, steps: SettledSteps, bars: Bars) -> Self:
        last_close_N, scale_N = _before(steps.cutoff_N, bars)
        uncalibrated_NFQ = repair(steps.raw_NFQ[:, :, None, :])[:, :, 0]
        changed = np.flatnonzero((uncalibrated_NFQ != steps.values_NFQ).any(axis=(1, 2)))
        every = np.concatenate([np.arange(len(steps)), changed])
        values_NFQ = np.concatenate([steps.values_NFQ, uncalibrated_NFQ[changed]])
        return cls(changed, values_NFQ, steps.actual_NF[every], last_close_N[every], scale_N[every])


def _losses(steps: SettledSteps, asked: _Asked, terms_NGC: NDArray[np.float64]) -> Losses:
    last_close_N, walk_N = asked.last_close_N[: len(steps)], _walks(steps)
    served_NGC = raw_NGC = terms_NGC[: len(steps)]
    if len(asked.changed):
        raw_NGC = served_NGC.copy()
        raw_NGC[asked.changed] = terms_NGC[len(steps) :]
        _compare(raw_NGC, served_NGC, walk_N, last_close_N)
    _compare(served_NGC, served_NGC, walk_N, last_close_N)
    return Losses(steps, served_NGC, raw_NGC, last_close_N, walk_N)


def _before(cutoff_N: NDArray[np.int64], bars: Bars) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Last close and naive scale at each cutoff, (N,) each: NaN where the bar, or any change, is not there."""
    cutoff_U, place_N = np.unique(cutoff_N, return_inverse=True)
    key = bars.key
    first = int(key.trading_calendar.last_opens(key.timeframe, int(cutoff_U[0]), SCALE_BARS + 1)[0])
    opens_T = key.trading_calendar.opens_between(key.timeframe, first, int(cutoff_U[-1]))
    closes_T = np.full(len(opens_T), np.nan)
    known = (bars.open_time >= first) & (bars.open_time < cutoff_U[-1])
    closes_T[np.searchsorted(opens_T, bars.open_time[known])] = bars.close[known]
    last_U = np.searchsorted(key.trading_calendar.closes_of(key.timeframe, opens_T), cutoff_U, side="right") - 1
    place_UT = last_U[:, None] + np.arange(-SCALE_BARS, 1)
    closes_UT = np.where(place_UT >= 0, closes_T[place_UT], np.nan)  # a calendar may begin within them
    return closes_T[last_U][place_N], metrics.naive_scale(closes_UT)[place_N]


def _walks(steps: SettledSteps) -> NDArray[np.int64]:
    """Where the random walk's step of the same cutoff and number stands, (N,), -1 for nowhere."""
    _, cutoff_N = np.unique(steps.cutoff_N, return_inverse=True)
    case_N = 2 * (cutoff_N * _LARGEST_STEP + steps.step_N) + steps.late_N
    of_walk = np.array([model_id.name == RANDOM_WALK for model_id in steps.models])
    walks = np.flatnonzero(of_walk[steps.model_N])
    if not len(walks):
        return np.full(len(steps), -1)
    walks = walks[np.argsort(case_N[walks], kind="stable")]
    found_N = walks[np.minimum(np.searchsorted(case_N[walks], case_N), len(walks) - 1)]
    return np.where(case_N[found_N] == case_N, found_N, -1)


def _terms(
    levels: tuple[float, ...],
    values_NFQ: NDArray[np.float64],
    actual_NF: NDArray[np.float64],
    last_close_N: NDArray[np.float64],
    scale_N: NDArray[np.float64],
) -> NDArray[np.float64]:
    """All columns of all cases but the common ones, (N, G, C)."""
    terms_NGC = np.zeros((len(values_NFQ), len(SCORED), len(COLUMNS)))
    median_NF = interpolate(values_NFQ, levels, 0.5)
    high, low = FIELDS.index("high"), FIELDS.index("low")
    median_NG, actual_NG = (np.column_stack([one, one[:, high] - one[:, low]]) for one in (median_NF, actual_NF))
    _put_points(terms_NGC, median_NG, actual_NG, scale_N)
    _put_quantiles(terms_NGC[:, : len(FIELDS)], values_NFQ, levels, actual_NF)
    _put_direction(terms_NGC[:, : len(FIELDS)], median_NF, actual_NF, last_close_N)
    variance_N, realised_N = (metrics.range_variance(one[:, high], one[:, low]) for one in (median_NF, actual_NF))
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
        terms_NGC[:, :, PLACE[name]] = column_NG
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
        terms_NFC[:, :, PLACE[name]] = column_N.reshape(shape)
    bin_N = np.minimum(metrics.pit(values_NQ, levels_Q, actual_N) * PIT_BINS, PIT_BINS - 1).astype(np.int64)
    np.put_along_axis(terms_NFC, PLACE["pit0"] + bin_N.reshape(*shape, 1), 1.0, axis=2)


def _put_direction(
    terms_NFC: NDArray[np.float64],
    median_NF: NDArray[np.float64],
    actual_NF: NDArray[np.float64],
    last_close_N: NDArray[np.float64],
) -> None:
    right_NF = metrics.direction(median_NF, actual_NF, last_close_N[:, None])
    right_NF = np.where(np.isnan(last_close_N)[:, None], np.nan, right_NF)
    _put(terms_NFC, "direction", right_NF)
    terms_NFC[:, :, PLACE["ups"]] = actual_NF > last_close_N[:, None]


def _put(terms: NDArray[np.float64], name: str, column: NDArray[np.float64], count: str = "") -> None:
    """Put a column that has no value for some cases, and the count of those that have."""
    there = ~np.isnan(column)
    terms[..., PLACE[name]] = np.where(there, column, 0.0)
    terms[..., PLACE[count or f"{name}_n"]] = there


def _compare(
    terms_NGC: NDArray[np.float64],
    served_NGC: NDArray[np.float64],
    walk_N: NDArray[np.int64],
    last_close_N: NDArray[np.float64],
) -> None:
    """Put the common columns of cases that the random walk forecast as well, in units of the last close."""
    common_N = np.flatnonzero((walk_N >= 0) & ~np.isnan(last_close_N))
    unit_N1 = last_close_N[common_N, None]
    terms_NGC[common_N, :, PLACE["common_n"]] = 1.0
    for name in ("absolute_error", "pinball", "crps"):
        own, walk = terms_NGC[common_N, :, PLACE[name]], served_NGC[walk_N[common_N], :, PLACE[name]]
        terms_NGC[common_N, :, PLACE[f"common_{name}"]] = own / unit_N1
        terms_NGC[common_N, :, PLACE[f"walk_{name}"]] = walk / unit_N1
