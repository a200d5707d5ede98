"""What online calibration mends, what it costs where nothing was wrong, and how fast it is.

Run: `python -m tests.benchmarks.calibration [FILES...]`; prints tables. Simulated walks have a known truth; raw
forecasts of the files (the bundled indices when left out) are those of filtered historical simulation and of the
random walk. Pinball losses are relative to the raw ones, of log prices for walks and of price / last close for files;
below 1 calibration paid.

Shapes: N cutoffs, F walks (in place of the four fields), T bars, H steps, Q quantile levels, L levels by name.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from forecaster.accuracy import metrics
from forecaster.accuracy.calibration import Calibrator, InputBars
from forecaster.bars import FIELDS
from forecaster.context import Context
from forecaster.forecast import CHRONOS_LEVELS, repair
from forecaster.model.baselines import create_baseline
from forecaster.model.chronos2.artifacts import hardware
from forecaster.sources.files import FileSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from forecaster.bars import Bars

BUNDLED: Final = Path(__file__).parents[2] / "trainingdata"
LEVELS_Q: Final = np.array(CHRONOS_LEVELS)
SPREAD: Final = 0.01
"""Standard deviation of one move of a simulated walk."""
SEEDS: Final = 5
HORIZON: Final = 8
CONTEXT: Final = 512
MOST_CUTOFFS: Final = 1500
FOREVER: Final = 2**62

DRAWS: Final[dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]]] = {
    "normal": lambda random, shape: random.normal(size=shape),
    "Student t(4)": lambda random, shape: random.standard_t(4, size=shape) / np.sqrt(2),
    "exponential": lambda random, shape: random.exponential(size=shape) - 1,
}
"""Moves with mean 0 and variance 1."""


class Played(NamedTuple):
    """Outcomes, raw and calibrated quantiles of N cutoffs, in logs from the last close or as shares of it."""

    outcome_NFH: NDArray[np.float64]
    raw_NFHQ: NDArray[np.float64]
    calibrated_NFHQ: NDArray[np.float64]


def normal_quantiles(horizon: int) -> NDArray[np.float64]:
    """Quantiles of the sum of 1 to H normal moves, (H, Q)."""
    quantiles_HQ: NDArray[np.float64] = np.sqrt(np.arange(1, horizon + 1))[:, None] * stats.norm.ppf(LEVELS_Q)
    return quantiles_HQ


def quantiles(moves: str, horizon: int) -> NDArray[np.float64]:
    """Quantiles of the sum of 1 to H moves, (H, Q): exact, or of 400,000 draws."""
    if moves == "normal":
        return normal_quantiles(horizon)
    drawn = DRAWS[moves](np.random.default_rng(99), (400_000, horizon))
    quantiles_HQ: NDArray[np.float64] = np.quantile(np.cumsum(drawn, axis=1), LEVELS_Q, axis=0).T
    return quantiles_HQ


def play(moves_FT: NDArray[np.float64], raw_HQ: NDArray[np.float64]) -> Played:
    """Forecast four walks with `moves_FT` by the same quantiles at every cutoff, and calibrate them as they go.

    Prices are relative to one last close, so that walks that have nothing in common can stand in for fields.
    """
    horizon, count = len(raw_HQ), moves_FT.shape[1] - len(raw_HQ)
    walk_FT = np.concatenate([np.zeros((len(FIELDS), 1)), np.cumsum(SPREAD * moves_FT, axis=1)], axis=1)
    opens = 10 * np.arange(walk_FT.shape[1])
    calibrator = Calibrator(horizon, CHRONOS_LEVELS)
    raw_FHQ = np.broadcast_to(SPREAD * raw_HQ, (len(FIELDS), *raw_HQ.shape))
    outcome_NFH = np.empty((count, len(FIELDS), horizon))
    calibrated_NFHQ = np.empty((count, *raw_FHQ.shape))
    for at in range(count):
        here_F11 = walk_FT[:, at, None, None]
        seen = InputBars(opens[max(at - 1, 0) : at + 1], np.exp(walk_FT[:, max(at - 1, 0) : at + 1]))
        targets_H = opens[at + 1 : at + 1 + horizon]
        prices_FHQ = calibrator.calibrate(10 * (at + 1), targets_H, np.exp(here_F11 + raw_FHQ), 1.0, seen)
        calibrated_NFHQ[at] = np.sort(np.log(prices_FHQ) - here_F11, axis=-1)
        outcome_NFH[at] = walk_FT[:, at + 1 : at + 1 + horizon] - here_F11[:, 0]
    return Played(outcome_NFH, np.broadcast_to(raw_FHQ, calibrated_NFHQ.shape), calibrated_NFHQ)


def play_seeds(moves: str, raw_HQ: NDArray[np.float64], volatility_T: NDArray[np.float64]) -> Played:
    """Play four walks for each seed, side by side; as many bars as `volatility_T` has."""
    shape = (len(FIELDS), len(volatility_T))
    each = [play(DRAWS[moves](np.random.default_rng(seed), shape) * volatility_T, raw_HQ) for seed in range(SEEDS)]
    return Played(*(np.concatenate(parts, axis=1) for parts in zip(*each, strict=True)))


def losses(outcome_NFH: NDArray[np.float64], values_NFHQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pinball loss, mean over the levels, (N, F, H)."""
    flat = metrics.pinball(values_NFHQ.reshape(-1, len(LEVELS_Q)), LEVELS_Q, outcome_NFH.ravel())
    return flat.reshape(outcome_NFH.shape)


def coverage(outcome_NFH: NDArray[np.float64], values_NFHQ: NDArray[np.float64], first: int = 2) -> NDArray[np.float64]:
    """Whether outcomes lie between the `first` level and its mirror image, (N, F, H): 0 for 98 %, 2 for 80 %."""
    return metrics.covered(values_NFHQ[..., first], values_NFHQ[..., -1 - first], outcome_NFH).astype(np.float64)


def loss_ratio(played: Played) -> NDArray[np.float64]:
    """Mean pinball loss of calibrated forecasts over that of the raw ones, (F, H); 1 where those made no error."""
    raw_FH, made_FH = (np.nanmean(losses(played.outcome_NFH, values), axis=0) for values in played[1:])
    ratio_FH: NDArray[np.float64] = np.divide(made_FH, raw_FH, out=np.ones_like(raw_FH), where=raw_FH > 0)
    return ratio_FH


def level_gap(outcome_NFH: NDArray[np.float64], values_NFHQ: NDArray[np.float64]) -> float:
    """Mean distance of the share of outcomes at or below a quantile from its level, over fields, steps and levels."""
    known_NFH1 = np.isfinite(outcome_NFH)[..., None]
    share_FHQ = ((outcome_NFH[..., None] <= values_NFHQ) & known_NFH1).sum(axis=0) / known_NFH1.sum(axis=0)
    return float(np.abs(share_FHQ - LEVELS_Q).mean())


def wrong_widths() -> Table:
    """Print how soon the 80 % interval is right when the raw one is not, one step ahead."""
    table = _table("Coverage of the 80 % interval, step 1", "raw", "raw", "rows 1-200", "201-400", "201-1200")
    steady_T, right_HQ = np.ones(1201), normal_quantiles(1)
    later_T = np.repeat([1.0, 2.0], [1200, 1201])
    for name, raw_HQ, volatility_T, since in (
        ("spread × 0.6", 0.6 * right_HQ, steady_T, 0),
        ("spread × 1.4", 1.4 * right_HQ, steady_T, 0),
        ("volatility doubles", right_HQ, later_T, 1200),
        ("volatility halves", right_HQ, 1 / later_T, 1200),
    ):
        played = play_seeds("normal", raw_HQ, volatility_T)
        raw_N, made_N = (coverage(played.outcome_NFH, values)[since:].mean(axis=(1, 2)) for values in played[1:])
        parts = (raw_N, made_N[:200], made_N[200:400], made_N[200:])
        table.add_row(name, *(f"{part.mean():.3f}" for part in parts))
    return table


def right_already() -> Table:
    """Print what calibration costs where the raw quantiles are the true ones."""
    steps = [1, 2, 4, HORIZON]
    table = _table("Pinball loss, raw = truth", "moves", "rows", *(f"step {step}: mean, worst walk" for step in steps))
    for moves in ("normal", "Student t(4)"):
        played = play_seeds(moves, quantiles(moves, HORIZON), np.ones(2000 + HORIZON))
        for rows in (500, 2000):
            ratio_FH = loss_ratio(Played(*(part[:rows] for part in played)))
            cells = (f"{ratio_FH[:, step - 1].mean():.4f}, {ratio_FH[:, step - 1].max():.4f}" for step in steps)
            table.add_row(moves, str(rows), *cells)
    return table


def wrong_shapes() -> Table:
    """Print what becomes of a bias, of tails and of a skew that the raw quantiles do not have."""
    heads = ("80 % interval", "98 % interval", "98 % after 400", "below 10 %", "below the median")
    table = _table("1,200 rows, raw → calibrated", "raw, moves", "step", "pinball loss", *heads)
    normal_HQ = normal_quantiles(HORIZON)
    for name, moves, raw_HQ in (
        ("0.5 too high, normal", "normal", normal_HQ + 0.5),
        ("normal, Student t(4)", "Student t(4)", normal_HQ),
        ("Student t(4), normal", "normal", quantiles("Student t(4)", HORIZON)),
        ("normal, exponential", "exponential", normal_HQ),
        ("spread × 0.6, normal", "normal", 0.6 * normal_HQ),
    ):
        played = play_seeds(moves, raw_HQ, np.ones(1200 + HORIZON))
        for step in (1, HORIZON):
            one = Played(
                played.outcome_NFH[:, :, step - 1 : step], *(part[:, :, step - 1 : step] for part in played[1:])
            )
            pairs = [_shares(one.outcome_NFH, values) for values in one[1:]]
            cells = (f"{raw:.3f} → {made:.3f}" for raw, made in zip(*pairs, strict=True))
            table.add_row(name, str(step), f"{loss_ratio(one).mean():.4f}", *cells)
    return table


def _shares(outcome_NFH: NDArray[np.float64], values_NFHQ: NDArray[np.float64]) -> list[float]:
    wide_NFH = coverage(outcome_NFH, values_NFHQ, 0)
    below = [float((outcome_NFH < values_NFHQ[..., at]).mean()) for at in (2, 10)]
    return [
        float(coverage(outcome_NFH, values_NFHQ).mean()),
        float(wide_NFH.mean()),
        float(wide_NFH[400:].mean()),
        *below,
    ]


def play_file(bars: Bars, model_name: str) -> Played:
    """Forecast the last cutoffs of real bars by a baseline, and calibrate as they come; in shares of the last close."""
    cutoffs = bars.close_time[CONTEXT:-HORIZON][-MOST_CUTOFFS:].tolist()
    model, calibrator = create_baseline(model_name), Calibrator(HORIZON, CHRONOS_LEVELS)
    parts: list[tuple[NDArray[np.float64], ...]] = []
    for cutoff in cutoffs:
        context = Context.ending_at(bars, cutoff, CONTEXT, CONTEXT // 2)
        forecast = model.predict([context], HORIZON)[0]
        end = int(np.searchsorted(bars.open_time, cutoff))
        seen = InputBars(bars.open_time[end - CONTEXT : end], bars.ohlcv_TF[end - CONTEXT : end, : len(FIELDS)].T)
        targets_H = forecast.target_opens()
        made_FHQ = repair(calibrator.calibrate(cutoff, targets_H, forecast.raw_FHQ, context.last_close, seen))
        at = np.minimum(np.searchsorted(bars.open_time, targets_H), len(bars) - 1)
        known_H = bars.open_time[at] == targets_H
        outcome_FH = np.where(known_H, bars.ohlcv_TF[at, : len(FIELDS)].T, np.nan)
        parts.append(tuple(part / context.last_close for part in (outcome_FH, forecast.values_FHQ, made_FHQ)))
    return Played(*(np.stack(part) for part in zip(*parts, strict=True)))


def real_bars(paths: list[Path], model_name: str) -> Table:
    """Print what calibration does for a baseline on real bars; the level gap is that of all fields and steps."""
    heads = ("cutoffs", *(f"{field}, step 1" for field in FIELDS), f"close, step {HORIZON}", "high, low, close")
    table = _table(f"Pinball loss, {model_name}", "file", *heads, "80 % of close", "level gap")
    every = []
    for path in paths:
        source = FileSource(path)
        for key in [series.key for series in source.infer_series()]:
            played = play_file(source.fetch(key, None, FOREVER).bars, model_name)
            ratio_FH = loss_ratio(played)
            every.append(ratio_FH[1:].mean())
            shown = [*ratio_FH[:, 0], ratio_FH[3, -1], every[-1]]
            known_NH = np.isfinite(played.outcome_NFH[:, 3])
            inside = [coverage(played.outcome_NFH, values)[:, 3][known_NH].mean() for values in played[1:]]
            gaps = [level_gap(played.outcome_NFH, values) for values in played[1:]]
            cells = [*(f"{one:.4f}" for one in shown), *(f"{a:.4f} → {b:.4f}" for a, b in (inside, gaps))]
            table.add_row(path.stem, str(len(played.raw_NFHQ)), *cells)
    table.add_row("mean", *[""] * (len(heads) - 1), f"{np.mean(every):.4f}", "", "")
    return table


def cost() -> Table:
    """Print how long one call takes, and how large the stored state is."""
    table = _table("Cost of one call", "steps", "microseconds, median", "99th percentile", "bytes stored")
    random = np.random.default_rng(0)
    for horizon in (HORIZON, 24):
        calibrator = Calibrator(horizon, CHRONOS_LEVELS)
        raw = [100 * np.exp(np.sort(random.normal(0, SPREAD, (len(FIELDS), horizon, 21)))) for _ in range(50)]
        opens, prices_FT = 10 * np.arange(3000), 100 * np.exp(random.normal(0, SPREAD, (len(FIELDS), 3000)))
        taken = []
        for at in range(CONTEXT, 2500):
            seen = InputBars(opens[at - CONTEXT : at], prices_FT[:, at - CONTEXT : at])
            started = time.perf_counter()
            calibrator.calibrate(10 * at, opens[at : at + horizon], raw[at % 50], 100.0, seen)
            taken.append(1e6 * (time.perf_counter() - started))
        times = (f"{np.quantile(taken, level):.0f}" for level in (0.5, 0.99))
        table.add_row(str(horizon), *times, str(len(calibrator.to_bytes())))
    return table


def _table(title: str, *heads: str) -> Table:
    return Table(*heads, title=title, title_justify="left")


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("files", type=Path, nargs="*", default=sorted(BUNDLED.glob("*.csv")))
    parser.add_argument("--files-only", action="store_true", help="no simulated walks")
    asked = parser.parse_args()
    console = Console(width=160)
    console.print(hardware("cpu"))
    if not asked.files_only:
        console.print(cost(), wrong_widths(), right_already(), wrong_shapes())
    for name in ("filtered_historical_simulation", "random_walk"):
        console.print(real_bars(asked.files, name))


if __name__ == "__main__":
    main()
