"""Compare the stylised facts of simulated bars with those of real bars.

Run: `python -m tests.benchmarks.stylised_facts [--series 400] [--seed 0] [--date YYYY-MM-DD]`. Writes
docs/stylised_facts.md and docs/stylised_facts.png. Real bars are the bundled indices before 2014 and, if the folder
exists, files of `../shared/trainingdata`. They are read as the service reads them: invalid rows are rejected, and a
missing bar is NaN. All are cut into pieces of 1,000 bars, the length of a simulated series, because correlation and
kurtosis depend on the length.

A fact is one number of one series. The value of a file is the median of its pieces.

Shapes: S series or pieces, C prices (open, high, low, close), T bars, K facts, R real files, Q quantiles.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from rich.console import Console

from forecaster.bars import FIELDS, SeriesKey
from forecaster.model.training.synthetic import simulate_ohlc
from forecaster.sources.files import FileSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from numpy.typing import NDArray

    from forecaster.bars import Bars

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "trainingdata"
SHARED = ROOT.parent / "shared" / "trainingdata"
PAGE_FILE = ROOT / "docs" / "stylised_facts.md"
PICTURE = ROOT / "docs" / "stylised_facts.png"
BARS = 1_000
MIN_PIECE = 500
BATCH = 50
NO_LIMIT = 2**62
BEFORE_2014 = int(np.datetime64("2014-01-01", "ms").astype(np.int64))
SAME_PRICE = 1e-9
"""Relative difference below which two prices are equal: a logarithm and back loses the last digits."""
MIN_PAIRS = 30

SHORT_LAGS = (1, 2, 3, 4, 5)
LONG_LAGS = (1, 2, 5, 10, 20, 50, 100)
CYCLES = (5, 7, 24)
LEVELS = (0.01, 0.05, 0.25, 0.50, 0.75, 0.95, 0.99)

_INK, _FAINT, _SIMULATED, _MISS = "#1f2430", "#9aa1ad", "#c3c9d4", "#e0142f"
_COLOURS = {
    "index 1d": "#3b6fb6",
    "stock 1d": "#2d7a57",
    "stock 1h": "#7fb539",
    "crypto 1d": "#b45a3c",
    "crypto 1h": "#e0a030",
}
_PANELS_IN_A_ROW = 6
_ROW = 0.14
_AS_IT_IS = (np.asarray, np.asarray)
_SQUARE_ROOTS = (lambda x: np.sign(x) * np.sqrt(np.abs(x)), lambda x: x * np.abs(x))

PAGE = """\
# Simulated and real bars{date}

Written by `{command}`, seed {seed}.

{n_series:,} series of {bars:,} bars, simulated by `forecaster/model/training/synthetic.py`, are compared with real
bars. Real bars are cut into pieces of the same length. The last piece of a file may be shorter; it is left out below
{shortest:,} bars.
Files are read as the service reads them: rows off the exchange's calendar are rejected, and missing bars stay missing.
The value of a file is the median of its pieces.
{skipped}
| Real bars | File | From | To | Bars | Pieces |
|---|---|---|---|---|---|
{files}

**Bold**: the value of the file lies outside the middle 98 % of the simulated series. *Pieces outside*: the number of
real pieces outside. If the simulator drew every market, about {expected:.0f} of {n_pieces} would lie outside by chance.

{summary}

![Distributions over simulated series, and the real files in them](stylised_facts.png)

How to read the picture:

- A histogram shows the simulated series. The bars below it show their middle 50 and 90 %.
- A mark is a file, and a tick is one of its pieces. A red ring marks a file outside the middle 98 %.
- A value beyond the limits of a panel is drawn at its edge.
- Shades behind curves are the middle 50, 90 and 98 % of simulated series at each lag. The dotted line is their median.
- Kurtosis, shares and seasons are on a square-root scale.

{tables}
Definitions:

- A return is log(close / previous close), a range is log(high / low), a body is log(close / open), and a gap is
  log(open / previous close). σ is a standard deviation.
- An acf is Pearson's correlation over the pairs in which both values are known.
- *Return with later log range* shows leverage where it is negative. A flat bar has no log range.
- *σ of its change in 20 bars*: the change from the mean of 20 log ranges to the mean of the next 20.
- Parkinson's volatility is √(mean squared range / 4 ln 2).
- The variance ratio is the variance of moves over 8 bars, divided by 8 times the variance of returns.
- Prices that differ by less than a billionth of the price are equal.
- The share of a season is the adjusted R² of the mean log range by position in a cycle, or 0 where that is negative.
  Positions are counted in bars of the calendar, so a short session shifts them.
"""


@dataclass(frozen=True)
class Series:
    """Prices of one series, (4, T), and values that several facts use, each (T,), NaN where unknown."""

    ohlc_CT: NDArray[np.float64]

    @cached_property
    def returns(self) -> NDArray[np.float64]:
        """Log of close over the previous close."""
        return _log_ratio(self.ohlc_CT[3], _previous(self.ohlc_CT[3]))

    @cached_property
    def squares(self) -> NDArray[np.float64]:
        """Squared returns."""
        return self.returns**2

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """Absolute returns."""
        return np.abs(self.returns)

    @cached_property
    def gaps(self) -> NDArray[np.float64]:
        """Log of open over the previous close."""
        return _log_ratio(self.ohlc_CT[0], _previous(self.ohlc_CT[3]))

    @cached_property
    def bodies(self) -> NDArray[np.float64]:
        """Log of close over open."""
        return _log_ratio(self.ohlc_CT[3], self.ohlc_CT[0])

    @cached_property
    def ranges(self) -> NDArray[np.float64]:
        """Log of high over low."""
        return _log_ratio(self.ohlc_CT[1], self.ohlc_CT[2])

    @cached_property
    def log_ranges(self) -> NDArray[np.float64]:
        """Log of the range; NaN for a flat bar."""
        return np.log(np.where(self.ranges > SAME_PRICE, self.ranges, np.nan))


class Fact(NamedTuple):
    """One number of a series; facts of one name with several lags form a curve."""

    group: str
    name: str
    measure: Callable[[Series], float]
    lag: int | None = None

    def __str__(self) -> str:
        """Return the name with its lag."""
        return self.name if self.lag is None else f"{self.name}, lag {self.lag}"


class RealFile(NamedTuple):
    """A file of bars: folder, name, series, and the time (UTC ms) before which a bar must have closed."""

    folder: Path
    name: str
    key: SeriesKey
    until: int = NO_LIMIT

    @property
    def label(self) -> str:
        """Return the heading of its column."""
        return f"{self.key.symbol.split('/')[0]} {self.key.timeframe}"


REAL_FILES = (
    RealFile(BUNDLED, "SPX_USD_1d.csv", SeriesKey("index", "SPX/USD", "1d", "XNYS"), BEFORE_2014),
    RealFile(BUNDLED, "IXIC_USD_1d.csv", SeriesKey("index", "IXIC/USD", "1d", "XNYS"), BEFORE_2014),
    RealFile(SHARED, "AAPL_1d.csv", SeriesKey("stock", "AAPL/USD", "1d", "XNYS")),
    RealFile(SHARED, "MSTR_1d.csv", SeriesKey("stock", "MSTR/USD", "1d", "XNYS")),
    RealFile(SHARED, "AAPL_1h.csv", SeriesKey("stock", "AAPL/USD", "1h", "XNYS")),
    RealFile(SHARED, "NVDA_1h.csv", SeriesKey("stock", "NVDA/USD", "1h", "XNYS")),
    RealFile(SHARED, "BTCUSDT_1d.csv", SeriesKey("crypto", "BTC/USDT", "1d")),
    RealFile(SHARED, "ETHUSDT_1d.csv", SeriesKey("crypto", "ETH/USDT", "1d")),
    RealFile(SHARED, "SUIUSDT_1d.csv", SeriesKey("crypto", "SUI/USDT", "1d")),
    RealFile(SHARED, "BTCUSD_1h_coinbase.csv", SeriesKey("crypto", "BTC/USD", "1h")),
)


def correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return Pearson's correlation of the known pairs; NaN for few pairs or a constant."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < MIN_PAIRS:
        return np.nan
    x, y = x - x.mean(), y - y.mean()
    return _ratio(float(x @ y), float(np.sqrt((x @ x) * (y @ y))))


def autocorrelation(x_T: NDArray[np.float64], lag: int) -> float:
    """Return the correlation with the value `lag` bars before."""
    return correlation(x_T[:-lag], x_T[lag:])


def deviation(x_T: NDArray[np.float64]) -> float:
    """Return the standard deviation; NaN with fewer than two known values."""
    x = x_T[np.isfinite(x_T)]
    return float(x.std()) if len(x) > 1 else np.nan


def standard_moment(x_T: NDArray[np.float64], order: int) -> float:
    """Return a central moment in units of the standard deviation: 3 is the skew, 4 the kurtosis."""
    deviations = x_T - np.nanmean(x_T)
    return _ratio(float(np.nanmean(deviations**order)), float(np.nanmean(deviations**2) ** (order / 2)))


def tail(x_T: NDArray[np.float64], level: float) -> float:
    """Return a quantile in standard deviations."""
    return _ratio(float(np.nanquantile(x_T, level)), deviation(x_T))


def variance_ratio(returns_T: NDArray[np.float64], bars: int) -> float:
    """Return the variance of moves over `bars` bars, over that of independent returns (Lo and MacKinlay 1988)."""
    moves = np.lib.stride_tricks.sliding_window_view(returns_T, bars).sum(axis=1)
    return _ratio(float(np.nanvar(moves)), bars * float(np.nanvar(returns_T)))


def parkinson(ranges_T: NDArray[np.float64]) -> float:
    """Return the volatility per bar by ranges (Parkinson 1980), exact for a continuously observed random walk."""
    return float(np.sqrt(np.nanmean(ranges_T**2) / (4 * np.log(2))))


def share_of(hit_T: NDArray[np.bool_], known_T: NDArray[np.float64]) -> float:
    """Return the share of hits among the bars where `known_T` is a number."""
    known = np.isfinite(known_T)
    return _ratio(float(np.count_nonzero(hit_T & known)), float(np.count_nonzero(known)))


def slow_change(x_T: NDArray[np.float64], bars: int) -> float:
    """Return the deviation of the change from the mean of `bars` bars to the mean of the next `bars`."""
    windows = np.lib.stride_tricks.sliding_window_view(x_T, bars)
    known = np.isfinite(windows)
    counts = known.sum(axis=1)
    sums = np.where(known, windows, 0.0).sum(axis=1)
    means = np.where(2 * counts >= bars, sums / np.maximum(counts, 1), np.nan)
    return deviation(means[bars:] - means[:-bars])


def season_share(x_T: NDArray[np.float64], cycle: int) -> float:
    """Return the share of variance that the position in a cycle of `cycle` bars explains, 0 to 1.

    It is the adjusted R² of the means by position, at least 0; the plain R² is above 0 by chance.
    """
    known = np.isfinite(x_T)
    x, at = x_T[known], (np.arange(len(x_T)) % cycle)[known]
    if len(x) < MIN_PAIRS + cycle:
        return np.nan
    counts = np.bincount(at, minlength=cycle)
    means = np.bincount(at, weights=x, minlength=cycle) / np.maximum(counts, 1)
    left = _ratio(float(((x - means[at]) ** 2).sum()), float(((x - x.mean()) ** 2).sum()))
    return 1 - min(1.0, left * (len(x) - 1) / (len(x) - cycle)) if left >= 0 else np.nan


def _log_ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(above / below)


def _previous(x_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the value of the previous bar."""
    return np.concatenate([[np.nan], x_T[:-1]])


def _same(x_T: NDArray[np.float64], y_T: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.abs(x_T - y_T) <= SAME_PRICE * np.abs(y_T)


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else np.nan


def _at_high_or_low(series: Series, field: int) -> NDArray[np.bool_]:
    """Return whether the open or close of a bar is its high or low."""
    price = series.ohlc_CT[field]
    return _same(price, series.ohlc_CT[1]) | _same(price, series.ohlc_CT[2])


def _curve(group: str, name: str, lags: tuple[int, ...], measure: Callable[[Series, int], float]) -> list[Fact]:
    return [Fact(group, name, partial(measure, lag=lag), lag) for lag in lags]


RETURNS, VOLATILITY, RANGES, SHARES, SEASONS = (
    "Returns",
    "Volatility",
    "Ranges and gaps",
    "Equal prices",
    "Seasons of the log range",
)
_NARROW = {SHARES, SEASONS, "excess kurtosis"}
FACTS = (
    Fact(RETURNS, "excess kurtosis", lambda series: standard_moment(series.returns, 4) - 3),
    Fact(RETURNS, "skew", lambda series: standard_moment(series.returns, 3)),
    Fact(RETURNS, "1 % quantile / σ", lambda series: tail(series.returns, 0.01)),
    Fact(RETURNS, "99 % quantile / σ", lambda series: tail(series.returns, 0.99)),
    Fact(RETURNS, "variance ratio of 8 bars", lambda series: variance_ratio(series.returns, 8)),
    *_curve(RETURNS, "acf of returns", SHORT_LAGS, lambda series, lag: autocorrelation(series.returns, lag)),
    *_curve(VOLATILITY, "acf of squared returns", LONG_LAGS, lambda series, lag: autocorrelation(series.squares, lag)),
    *_curve(VOLATILITY, "acf of absolute returns", LONG_LAGS, lambda series, lag: autocorrelation(series.sizes, lag)),
    *_curve(VOLATILITY, "acf of log range", LONG_LAGS, lambda series, lag: autocorrelation(series.log_ranges, lag)),
    *_curve(
        VOLATILITY,
        "return with later log range",
        SHORT_LAGS,
        lambda series, lag: correlation(series.returns[:-lag], series.log_ranges[lag:]),
    ),
    Fact(VOLATILITY, "σ of log range", lambda series: deviation(series.log_ranges)),
    Fact(VOLATILITY, "σ of its change in 20 bars", lambda series: slow_change(series.log_ranges, 20)),
    Fact(
        RANGES,
        "mean range / σ of returns",
        lambda series: _ratio(float(np.nanmean(series.ranges)), deviation(series.returns)),
    ),
    Fact(
        RANGES,
        "Parkinson / σ of returns",
        lambda series: _ratio(parkinson(series.ranges), deviation(series.returns)),
    ),
    Fact(
        RANGES,
        "mean range / σ of bodies",
        lambda series: _ratio(float(np.nanmean(series.ranges)), deviation(series.bodies)),
    ),
    Fact(
        RANGES,
        "Parkinson / σ of bodies",
        lambda series: _ratio(parkinson(series.ranges), deviation(series.bodies)),
    ),
    Fact(
        RANGES,
        "σ of gaps / σ of returns",
        lambda series: _ratio(deviation(series.gaps), deviation(series.returns)),
    ),
    Fact(
        RANGES,
        "mean body / range",
        lambda series: (
            float(np.nanmean(np.abs(series.bodies) / np.exp(series.log_ranges)))
            if np.isfinite(series.log_ranges).any()
            else np.nan
        ),
    ),
    Fact(SHARES, "open is the close before", lambda series: share_of(np.abs(series.gaps) <= SAME_PRICE, series.gaps)),
    Fact(
        SHARES,
        "close is the close before",
        lambda series: share_of(np.abs(series.returns) <= SAME_PRICE, series.returns),
    ),
    Fact(SHARES, "close is the open", lambda series: share_of(np.abs(series.bodies) <= SAME_PRICE, series.bodies)),
    Fact(SHARES, "flat: high is low", lambda series: share_of(series.ranges <= SAME_PRICE, series.ranges)),
    Fact(SHARES, "open is high or low", lambda series: share_of(_at_high_or_low(series, 0), series.ranges)),
    Fact(SHARES, "close is high or low", lambda series: share_of(_at_high_or_low(series, 3), series.ranges)),
    Fact(
        SHARES,
        "open and close are the ends",
        lambda series: share_of(series.ranges - np.abs(series.bodies) <= SAME_PRICE, series.ranges),
    ),
    *(
        Fact(
            SEASONS,
            f"share explained, cycle of {cycle}",
            partial(lambda series, n: season_share(series.log_ranges, n), n=cycle),
        )
        for cycle in CYCLES
    ),
    Fact(SEASONS, "share explained, strongest", lambda series: max(season_share(series.log_ranges, n) for n in CYCLES)),
)


@dataclass(frozen=True)
class Comparison:
    """The facts of simulated series (S, K), and of the pieces of each real file (S, K)."""

    simulated_SK: NDArray[np.float64]
    files: Sequence[RealFile]
    bars: Sequence[Bars]
    pieces: Sequence[NDArray[np.float64]]

    @cached_property
    def quantiles_QK(self) -> NDArray[np.float64]:
        """Quantiles of the simulated series at `LEVELS`."""
        return np.nanquantile(self.simulated_SK, LEVELS, axis=0)

    @cached_property
    def real_RK(self) -> NDArray[np.float64]:
        """The value of each file: the median of its pieces."""
        return np.array([np.nanmedian(pieces_SK, axis=0) for pieces_SK in self.pieces])

    def is_outside(self, values_SK: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return whether values lie outside the first and the last of `LEVELS`."""
        low_K, *_, high_K = self.quantiles_QK
        return (values_SK < low_K) | (values_SK > high_K)


def compare(simulated: Sequence[Series], files: Sequence[RealFile]) -> Comparison:
    """Measure simulated series and real files."""
    bars_of_files = [read(file) for file in files]
    pieces = [measure(split(to_grid(bars))) for bars in bars_of_files]
    return Comparison(measure(simulated), files, bars_of_files, pieces)


def read(file: RealFile) -> Bars:
    """Read a file as the service does."""
    return FileSource(file.folder / file.name).fetch(file.key, None, file.until).bars


def to_grid(bars: Bars) -> NDArray[np.float64]:
    """Return prices for every open of the calendar from first to last bar, (4, T); NaN without a bar."""
    slots = bars.key.trading_calendar.opens_between(
        bars.key.timeframe, int(bars.open_time[0]), int(bars.open_time[-1]) + 1
    )
    ohlc_CT = np.full((len(FIELDS), len(slots)), np.nan)
    ohlc_CT[:, np.searchsorted(slots, bars.open_time)] = bars.ohlcv_TF[:, : len(FIELDS)].T
    return ohlc_CT


def split(ohlc_CT: NDArray[np.float64]) -> list[Series]:
    """Split into pieces of `BARS`; a remainder below `MIN_PIECE` is left out."""
    return [Series(ohlc_CT[:, first : first + BARS]) for first in range(0, ohlc_CT.shape[1] - MIN_PIECE + 1, BARS)]


def simulate(n_series: int, seed: int) -> list[Series]:
    """Simulate series with the generator of the bundled checkpoint's training."""
    rng = np.random.default_rng(seed)
    sizes = [min(BATCH, n_series - first) for first in range(0, n_series, BATCH)]
    return [Series(ohlc_CT) for size in sizes for ohlc_CT in simulate_ohlc(rng, size, BARS)]


def measure(all_series: Sequence[Series]) -> NDArray[np.float64]:
    """Return every fact of every series, (S, K)."""
    return np.array([[fact.measure(series) for fact in FACTS] for series in all_series])


def main() -> int:
    """Measure, write page and picture, and report values outside on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.stylised_facts", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--series", type=int, default=400, help="number of simulated series (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default 0)")
    parser.add_argument("--date", help="date in the heading; none without it")
    arguments = parser.parse_args()
    files = [file for file in REAL_FILES if (file.folder / file.name).is_file()]
    comparison = compare(simulate(arguments.series, arguments.seed), files)
    command = shlex.join(["python", "-m", "tests.benchmarks.stylised_facts", *sys.argv[1:]])
    PAGE_FILE.write_text(write_page(comparison, command, arguments.seed, arguments.date), encoding="utf-8")
    draw(comparison, PICTURE)
    lines = (_skipped(comparison), *_outside_lines(comparison), _summary(comparison))
    Console(stderr=True).print(*filter(None, lines), sep="\n", markup=False, highlight=False, soft_wrap=True)
    return 0


def write_page(comparison: Comparison, command: str, seed: int, date: str | None) -> str:
    """Write the page: what was compared, and a table for each group of facts."""
    n_pieces = sum(map(len, comparison.pieces))
    return PAGE.format(
        date=f", {date}" if date else "",
        command=command,
        seed=seed,
        n_series=len(comparison.simulated_SK),
        bars=BARS,
        shortest=MIN_PIECE,
        n_pieces=n_pieces,
        expected=n_pieces * (LEVELS[0] + 1 - LEVELS[-1]),
        skipped="".join(f"\n{line}\n" for line in filter(None, [_skipped(comparison)])),
        files="\n".join(map(_file_row, comparison.files, comparison.bars, comparison.pieces)),
        summary=_summary(comparison),
        tables="\n".join(_table(comparison, group) for group in dict.fromkeys(fact.group for fact in FACTS)),
    )


def _skipped(comparison: Comparison) -> str:
    """Name the real files that are missing, or return an empty text."""
    names = [file.name for file in REAL_FILES if file not in comparison.files]
    return f"Skipped, because the file is missing: {', '.join(names)}." if names else ""


def _summary(comparison: Comparison) -> str:
    """Count the values outside in one sentence."""
    outside_RK = comparison.is_outside(comparison.real_RK)
    facts = np.count_nonzero(outside_RK.any(axis=0))
    counts = f"{np.count_nonzero(outside_RK)} of {outside_RK.size}"
    return f"{counts} values of files lie outside the middle 98 %, in {facts} of {len(FACTS)} facts."


def _outside_lines(comparison: Comparison) -> list[str]:
    """Name the files outside, fact by fact."""
    outside_KR = comparison.is_outside(comparison.real_RK).T
    return [
        f"outside: {fact}: "
        + ", ".join(
            f"{comparison.files[r].label} {_number(comparison.real_RK[r, k])}" for r in np.flatnonzero(outside_KR[k])
        )
        + f"; simulated {_number(comparison.quantiles_QK[0, k])} to {_number(comparison.quantiles_QK[-1, k])}"
        for k, fact in enumerate(FACTS)
        if outside_KR[k].any()
    ]


def _file_row(file: RealFile, bars: Bars, pieces_SK: NDArray[np.float64]) -> str:
    first, last = (str(np.datetime64(int(bars.open_time[at]), "ms").astype("datetime64[D]")) for at in (0, -1))
    return f"| {file.label} | {file.name} | {first} | {last} | {len(bars):,} | {len(pieces_SK)} |"


def _table(comparison: Comparison, group: str) -> str:
    """Write the table of a group: quantiles of the simulated series, files, and number of pieces outside."""
    head = [
        group,
        *(f"{level * 100:.0f} %" for level in LEVELS[1:-1]),
        *(file.label for file in comparison.files),
        "Pieces outside",
    ]
    rows = [_table_row(comparison, k) for k, fact in enumerate(FACTS) if fact.group == group]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * (len(head) - 1)], *rows)) + "\n"


def _table_row(comparison: Comparison, k: int) -> list[str]:
    real_R = comparison.real_RK[:, k]
    marks_R = ["**" if outside else "" for outside in comparison.is_outside(comparison.real_RK)[:, k]]
    return [
        str(FACTS[k]),
        *map(_number, comparison.quantiles_QK[1:-1, k]),
        *(f"{mark}{_number(value)}{mark}" for mark, value in zip(marks_R, real_R, strict=True)),
        str(np.count_nonzero(comparison.is_outside(np.concatenate(comparison.pieces))[:, k])),
    ]


def _number(value: float) -> str:
    """Three digits or so; a zero has no sign."""
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "−")


def draw(comparison: Comparison, path: Path) -> None:
    """Draw the curves in a row, and below them a panel for each single number."""
    curves = list(dict.fromkeys(fact.name for fact in FACTS if fact.lag is not None))
    numbers = [k for k, fact in enumerate(FACTS) if fact.lag is None]
    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": _FAINT}
    rows = -(-len(numbers) // _PANELS_IN_A_ROW)
    with mpl.rc_context(style):
        figure = Figure(figsize=(16, 3.6 + 2.7 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        above, below = figure.subfigures(2, 1, height_ratios=(3.3, 2.7 * rows))
        for axes, name in zip(above.subplots(1, len(curves)), curves, strict=True):
            _draw_curve(axes, comparison, name)
        _draw_legend(above, comparison)
        panels = below.subplots(rows, _PANELS_IN_A_ROW).flat
        for axes, k in zip(panels, numbers, strict=False):
            _draw_number(axes, comparison, k)
        for axes in list(panels)[len(numbers) :]:
            axes.set_axis_off()
        figure.get_layout_engine().set(w_pad=0.09, h_pad=0.09)
        figure.savefig(path, dpi=110)


def _draw_legend(figure: SubFigure, comparison: Comparison) -> None:
    simulated = Line2D([], [], color=_SIMULATED, linewidth=6, label="simulated")
    lines = [
        Line2D([], [], color=_COLOURS[_family(file)], marker=marker, markersize=6, label=file.label)
        for file, marker in zip(comparison.files, _markers(comparison.files), strict=True)
    ]
    figure.legend(handles=[simulated, *lines], loc="outside upper center", ncols=len(lines) + 1, frameon=False)


def _draw_curve(axes: Axes, comparison: Comparison, name: str) -> None:
    """Shade the simulated quantiles over the lags, and draw a line for each file."""
    at = [k for k, fact in enumerate(FACTS) if fact.name == name]
    x = np.arange(len(at))
    quantiles = comparison.quantiles_QK[:, at]
    for step, alpha in enumerate((0.3, 0.45, 0.6)):
        axes.fill_between(x, quantiles[step], quantiles[-1 - step], color=_SIMULATED, alpha=alpha, linewidth=0)
    axes.plot(x, quantiles[len(LEVELS) // 2], color=_INK, linewidth=1, linestyle=":")
    for file, marker, real_K in zip(comparison.files, _markers(comparison.files), comparison.real_RK, strict=True):
        axes.plot(x, real_K[at], color=_COLOURS[_family(file)], marker=marker, markersize=4, linewidth=0.9)
        missed = comparison.is_outside(real_K)[at]
        axes.scatter(x[missed], real_K[at][missed], s=46, facecolors="none", edgecolors=_MISS, linewidths=1.3, zorder=3)
    axes.axhline(0, color=_FAINT, linewidth=0.6)
    axes.set_xticks(x, [str(FACTS[k].lag) for k in at])
    axes.set_xlabel("lag in bars", color=_INK)
    axes.set_title(name, loc="left", fontsize=9.5)
    axes.tick_params(colors=_INK, length=2)


def _draw_number(axes: Axes, comparison: Comparison, k: int) -> None:
    """Draw a histogram of the simulated series over their middle, and the files below it, a row for each."""
    scale, unscale = _SQUARE_ROOTS if FACTS[k].group in _NARROW or FACTS[k].name in _NARROW else _AS_IT_IS
    quantiles_Q, real_R = scale(comparison.quantiles_QK[:, k]), scale(comparison.real_RK[:, k])
    ends = np.array([*quantiles_Q[[0, -1]], *real_R])
    margin = 0.04 * np.ptp(ends) or 0.04
    low, high = ends.min() - margin, ends.max() + margin
    simulated_S = scale(comparison.simulated_SK[:, k])
    heights, edges = np.histogram(np.clip(simulated_S[np.isfinite(simulated_S)], low, high), 36, (low, high))
    axes.stairs(heights / heights.max(), edges, fill=True, color=_SIMULATED, alpha=0.8)
    for step, width in ((1, 1.5), (2, 4.0)):
        axes.plot(quantiles_Q[[step, -1 - step]], [-0.09, -0.09], color=_INK, linewidth=width, solid_capstyle="butt")
    missed_R = comparison.is_outside(comparison.real_RK)[:, k]
    for r, (file, marker) in enumerate(zip(comparison.files, _markers(comparison.files), strict=True)):
        y, colour = -0.24 - _ROW * r, _COLOURS[_family(file)]
        pieces_S = np.clip(scale(comparison.pieces[r][:, k]), low, high)
        axes.scatter(pieces_S, np.full(len(pieces_S), y), marker="|", s=20, color=colour, alpha=0.45)
        edge, width = (_MISS, 1.4) if missed_R[r] else ("white", 0.5)
        axes.scatter(real_R[r], y, marker=marker, s=26, color=colour, edgecolors=edge, linewidths=width, zorder=3)
    axes.set(xlim=(low, high), ylim=(-0.24 - _ROW * len(comparison.files), 1.05), yticks=[])
    axes.spines["left"].set_visible(False)
    _label_numbers(axes, unscale(low), unscale(high), scale)
    axes.set_title(FACTS[k].name, loc="left", fontsize=9.5)
    axes.tick_params(colors=_INK, length=2)


def _label_numbers(axes: Axes, low: float, high: float, scale: Callable[[float], float]) -> None:
    """Put round numbers under a panel; on the scale of square roots, those that are not too close."""
    if scale is _AS_IT_IS[0]:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return
    ticks: list[float] = []
    fine = () if high > 1.5 else (0.001, 0.01, 0.05, 0.1, 0.2, 0.5)
    for tick in (0, *fine, 1, 5, 10, 20, 50, 100, 200):
        is_apart = not ticks or scale(tick) - scale(ticks[-1]) > 0.11 * (scale(high) - scale(low))
        if low <= tick <= high and is_apart:
            ticks.append(tick)
    axes.set_xticks([float(scale(tick)) for tick in ticks], [f"{tick:g}" for tick in ticks])


def _family(file: RealFile) -> str:
    """Return the group of files with the same colour: market and timeframe."""
    return f"{file.key.exchange} {file.key.timeframe}"


def _markers(files: Sequence[RealFile]) -> list[str]:
    """Return a marker for each file, different within its family."""
    families = [_family(file) for file in files]
    return ["os^D"[families[:at].count(family)] for at, family in enumerate(families)]


if __name__ == "__main__":
    sys.exit(main())
