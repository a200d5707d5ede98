"""Faults in files of bars: each changes the rows of a sheet, and records which bars are still true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from forecaster.timeframe import MINUTE_MS, Timeframe
from tests.faults.file_truths import COARSER, FINER, Row, Sheet, make_prices, pick

if TYPE_CHECKING:
    from collections.abc import Callable

ORDERS: Final = ("rising", "rising", "rising", "falling", "shuffled")


def gaps(sheet: Sheet, rng: np.random.Generator) -> None:
    """Bars without trades are missing."""
    there = rng.random(len(sheet.rows)) > rng.uniform(0.01, 0.2)
    sheet.rows = [row for row, keep in zip(sheet.rows, there, strict=True) if keep] or sheet.rows
    sheet.trust(sheet.rows)


def repeated(sheet: Sheet, rng: np.random.Generator) -> None:
    """Some rows are repeated."""
    twice = rng.random(len(sheet.rows)) < 0.1
    sheet.rows = [copy for row, again in zip(sheet.rows, twice, strict=True) for copy in [row] * (1 + int(again))]


def revised(sheet: Sheet, rng: np.random.Generator) -> None:
    """One or two rows are repeated with another close in the later row."""
    for _ in range(int(rng.integers(1, 3))):
        at = int(rng.integers(len(sheet.rows)))
        row = sheet.rows[at]
        sheet.rows[at:at] = [row._replace(cells=(*row.cells[:3], pick(rng, [row.cells[0], row.cells[1]]), ""))]
    newest = {(row.symbol, row.open_time): row for row in sheet.rows}
    sheet.trust(list(newest.values()))


def mixed(sheet: Sheet, rng: np.random.Generator) -> None:
    """Rows of another symbol are mixed in, without a symbol column."""
    count = max(6, int(rng.uniform(0.3, 1.0) * len(sheet.rows)))
    places = np.sort(rng.permutation(len(sheet.rows))[:count]).tolist()
    other_rows = [
        sheet.rows[at]._replace(cells=cells) for at, cells in zip(places, make_prices(rng, count, "whole"), strict=True)
    ]
    rows = [
        *sheet.rows,
        *(row for row, at in zip(other_rows, places, strict=True) if row.cells != sheet.rows[at].cells),
    ]
    sheet.rows = rows if rng.random() < 0.5 else sorted(rows, key=lambda row: row.open_time)
    sheet.true = {}


def another_resolution(sheet: Sheet, rng: np.random.Generator) -> None:
    """The first or last rows are of another timeframe; they are fewer than the true ones."""
    market = sheet.market
    foreign = Timeframe(pick(rng, [*COARSER.get(market.timeframe, ()), *FINER.get(market.timeframe, ())])).ms
    grid, symbol = max(foreign, market.step), sheet.rows[0].symbol
    is_head = rng.random() < 0.5
    start = -(-sheet.rows[0].open_time // grid) * grid
    end = (sheet.rows[-1].open_time + market.step) // grid * grid
    rows = [row for row in sheet.rows if (row.open_time >= start if is_head else row.open_time < end)]
    count = int(rng.integers(8, max(9, int(0.8 * len(rows)))))
    first = start - count * foreign if is_head else end
    cells = make_prices(rng, count, "whole")
    times = [first + i * foreign for i in range(count)]
    strangers = [Row(time, time + foreign, time, one, symbol) for time, one in zip(times, cells, strict=True)]
    sheet.rows = sorted([*rows, *strangers], key=lambda row: row.open_time)
    sheet.trust(rows)


def few_off_grid(sheet: Sheet, rng: np.random.Generator) -> None:
    """One row in a hundred is some minutes late."""
    _shift(sheet, rng, rng.permutation(len(sheet.rows))[: max(1, len(sheet.rows) // 100)])


def many_off_grid(sheet: Sheet, rng: np.random.Generator) -> None:
    """A third of the rows is some minutes late."""
    _shift(sheet, rng, np.flatnonzero(rng.random(len(sheet.rows)) < 0.33))


def _shift(sheet: Sheet, rng: np.random.Generator, places: np.ndarray) -> None:
    minutes = sheet.market.step // MINUTE_MS
    bad = set(places.tolist())
    good = [row for i, row in enumerate(sheet.rows) if i not in bad]
    for at in bad:
        row = sheet.rows[at]
        sheet.rows[at] = row._replace(open_time=row.open_time + int(rng.integers(1, minutes)) * MINUTE_MS)
    sheet.trust(good)


def labelled_by_close(sheet: Sheet, rng: np.random.Generator) -> None:
    """Times are closes; the true bars keep their opens."""
    del rng
    sheet.rows = [row._replace(open_time=row.close_time) for row in sheet.rows]


def read_early(sheet: Sheet, rng: np.random.Generator) -> None:
    """Some rows have not closed when the file is read."""
    closes = sorted({row.close_time for row in sheet.rows})
    sheet.as_of = closes[int(rng.integers(len(closes) // 2, len(closes)))] - int(rng.integers(0, 2))
    sheet.trust([row for row in sheet.rows if row.close_time <= sheet.as_of])


def few_broken(sheet: Sheet, rng: np.random.Generator) -> None:
    """One row in fifty is not a bar."""
    _break(sheet, rng, rng.permutation(len(sheet.rows))[: max(1, len(sheet.rows) // 50)])


def many_broken(sheet: Sheet, rng: np.random.Generator) -> None:
    """A third of the rows are not bars."""
    _break(sheet, rng, np.flatnonzero(rng.random(len(sheet.rows)) < 0.33))


def _break(sheet: Sheet, rng: np.random.Generator, places: np.ndarray) -> None:
    bad = set(places.tolist())
    good = [row for i, row in enumerate(sheet.rows) if i not in bad]
    for at in bad:
        open_, high, low, close, volume = sheet.rows[at].cells
        broken = [
            (open_, "0", "0", close, volume),
            (open_, f"-{high}", low, close, volume),
            (open_, high, low, "", volume),
            ("", "", "", "", ""),
            (open_, high, f"9{high}", close, volume),
            (f"9{high}", high, low, close, volume),
        ]
        sheet.rows[at] = sheet.rows[at]._replace(cells=pick(rng, broken))
    sheet.trust(good)


def rounded(sheet: Sheet, rng: np.random.Generator) -> None:
    """Adjusted prices: some closes are above their high by one bit of a number."""
    good = []
    for at, row in enumerate(sheet.rows):
        open_, _, low, close, volume = row.cells
        if float(close) >= float(open_) and rng.random() < 0.5:
            above = repr(float(np.nextafter(float(close), np.inf)))
            sheet.rows[at] = row._replace(cells=(open_, close, low, above, volume))
            row = row._replace(cells=(open_, above, low, above, volume))  # noqa: PLW2901 - what is true of it
        good.append(row)
    sheet.trust(good)


def order(sheet: Sheet, rng: np.random.Generator, way: str, fault: str) -> None:
    """Order the rows for writing; when shuffled, no row of one time is the newer."""
    if way == "falling":
        sheet.rows.reverse()
    if way == "shuffled":
        sheet.rows = [sheet.rows[at] for at in rng.permutation(len(sheet.rows))]
        if fault == "revised":
            sheet.trust(sheet.rows)


FAULTS: Final[dict[str, tuple[float, Callable[[Sheet, np.random.Generator], None] | None]]] = {
    "none": (0.36, None),
    "gaps": (0.1, gaps),
    "repeated": (0.05, repeated),
    "revised": (0.04, revised),
    "mixed symbols": (0.03, mixed),
    "another resolution": (0.06, another_resolution),
    "few off the grid": (0.04, few_off_grid),
    "many off the grid": (0.02, many_off_grid),
    "wrong timeframe": (0.05, None),
    "wrong calendar": (0.02, None),
    "labelled by close": (0.03, labelled_by_close),
    "read early": (0.05, read_early),
    "few broken": (0.04, few_broken),
    "many broken": (0.02, many_broken),
    "rounded": (0.03, rounded),
    "truncated": (0.03, None),
    "garbage line": (0.03, None),
}
"""Weight of each fault, and its change of the rows; other faults are in the bytes or the key."""
