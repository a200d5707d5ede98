"""Rows and bodies of every kind through the guard and `Bars`, beside a judge that shares no code with them.

`python -m tests.benchmarks.row_storm --rows 1000000` prints how many were accepted, and every disagreement: a crash, a
row that is no bar and was taken for one, a bar that was refused, or an answer that depends on the order of its rows.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import ccxt
import numpy as np
from rich.progress import Progress

from forecaster.bars import SeriesKey
from forecaster.errors import BadPayload
from forecaster.sources.exchange.guard import bars_from_rows, parse_body, parse_rows

if TYPE_CHECKING:
    from collections.abc import Callable

KEY: Final = SeriesKey("binance", "BTC/USDT", "1h")
STEP: Final = KEY.timeframe.ms
START: Final = 1_700_000_000_000 // STEP * STEP
ROWS_OF_A_PAGE: Final = 100

BAD_PRICES: Final[list[Any]] = [
    None, "", "abc", "NaN", "Infinity", "1e400", "-1", "0", "1_0", " 7 ", "1e15", "١", True, False, [], {}, [1], -1, 0,
    1e15, 1e308, -0.0, 10**400, "9" * 500, "0x10", "1,5", "\u0000",
]  # fmt: skip
BAD_TIMES: Final[list[Any]] = [
    None, "", "soon", START + 1, START + STEP // 2, -STEP, 0, 10**18, 2**63, 253_402_300_800_000, [], {}, True, 1.5,
]  # fmt: skip
"""What may stand in place of an open time; 0 is on the grid, and a bar of 1970 is one."""

PIECES: Final = ["[", "]", "{", "}", '"', ",", ":", "1", "-", "null", "NaN", "é", "\\", "\n", "1e999", "<html>", "true"]


parse: Final[Callable[[list[Any]], list[Any]]] = ccxt.binance().parse_ohlcv
"""The parser between the two: ccxt's own."""


def is_bar(raw: list[Any]) -> bool:
    """The judge: whether the first six entries of a raw row, as JSON, are a bar; its volume may be missing."""
    open_time, *values = raw[:6]
    if values[-1] in (None, ""):
        values[-1] = 0
    if isinstance(open_time, bool) or not isinstance(open_time, int) or open_time % STEP or not 0 <= open_time < 2**47:
        return False
    if any(isinstance(value, bool) or not isinstance(value, int | float | str) for value in values):
        return False
    try:
        open_, high, low, close, volume = (float(value) for value in values)
    except (ValueError, OverflowError):
        return False
    texts = [value for value in values if isinstance(value, str)]
    if any(set(text) - set("0123456789.eE+-") for text in texts):
        return False
    finite = all(math.isfinite(value) for value in (open_, high, low, close, volume))
    return finite and 0 < low <= min(open_, close) and max(open_, close) <= high < 1e15 and volume >= 0


def are_closer(rows: list[list[Any]]) -> bool:
    """The judge of a page: whether more of its rows are less than a step apart than are one step apart."""
    numbers = {row[0] for row in rows if isinstance(row[0], int) and not isinstance(row[0], bool)}
    times = sorted(time for time in numbers if 0 <= time < 253_402_300_800_000)
    apart = [after - before for before, after in pairwise(times)]
    return sum(one < STEP for one in apart) > apart.count(STEP)


def make_rows(rng: np.random.Generator, count: int) -> list[list[Any]]:
    """Rows of which about half are bars, some twice, in any order."""
    rows = [_make_row(rng, i) for i in range(count)]
    rows += [list(rows[i]) for i in rng.integers(0, count, count // 10)]
    return [rows[i] for i in rng.permutation(len(rows))]


def make_body(rng: np.random.Generator) -> str:
    """Text that may be JSON, and mostly is not."""
    kind = rng.integers(0, 3)
    if kind == 0:
        return "".join(rng.choice(PIECES, int(rng.integers(0, 40))))
    text = json.dumps([_make_row(rng, i) for i in range(3)])
    at = int(rng.integers(0, len(text)))
    return text[:at] if kind == 1 else text[:at] + str(rng.choice(PIECES)) + text[at + 1 :]


def judge_rows(rng: np.random.Generator, rows: list[list[Any]]) -> list[str]:
    """What the guard gets wrong about a page of rows, in words."""
    expected: dict[int, tuple[float | None, ...]] = {}
    for row in rows:
        if is_bar(row):
            expected[row[0]] = (*map(float, row[1:5]), None if row[5] in (None, "") else float(row[5]))
    try:
        found = _accepted(rows)
    except BadPayload as error:
        is_wrong = expected and not are_closer(rows)
        return [f"refused whole with {len(expected)} bars in it: {error}"] if is_wrong else []
    wrong = [f"accepted {time} {values}" for time, values in found.items() if expected.get(time) != values]
    wrong += [f"refused {time} {expected[time]}" for time in expected.keys() - found.keys()]
    versions = {json.dumps(row): row for row in rows if is_bar(row)}.values()
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    if len({row[0] for row in versions}) == len(versions) and _accepted(shuffled) != found:
        wrong.append("the order of the rows mattered")
    return wrong


def judge_body(text: str) -> list[str]:
    """What the guard gets wrong about a body: it must be parsed as JSON's own reader does, or refused."""
    try:
        answer = parse_body("binance", text)
    except BadPayload:
        return []
    return [] if isinstance(answer, list | dict) else [f"took {text!r} for an answer"]


def main() -> None:
    """Judge so many rows and a tenth as many bodies, and print what was wrong."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    plan = parser.parse_args()
    rng = np.random.default_rng(plan.seed)
    wrong: list[str] = []
    judged = bars = bodies = 0
    with Progress() as progress:
        task = progress.add_task("rows", total=plan.rows)
        while judged < plan.rows:
            rows = make_rows(rng, ROWS_OF_A_PAGE)
            wrong += judge_rows(rng, rows)
            for _ in range(ROWS_OF_A_PAGE // 10):
                wrong += judge_body(make_body(rng))
            judged += len(rows)
            bodies += ROWS_OF_A_PAGE // 10
            bars += sum(map(is_bar, rows))
            progress.update(task, completed=judged)
    for one in wrong[:20]:
        sys.stderr.write(one + "\n")
    sys.stdout.write(json.dumps({"rows": judged, "bars": bars, "bodies": bodies, "wrong": len(wrong)}) + "\n")
    sys.exit(bool(wrong))


def _make_row(rng: np.random.Generator, i: int) -> list[Any]:
    low, high = sorted(rng.uniform(1, 1000, 2).round(4).tolist())
    open_, close = rng.uniform(low, high, 2).tolist()
    values: list[Any] = [open_, high, low, close, round(rng.uniform(0, 10), 3)]
    row: list[Any] = [START + i * STEP, *(repr(one) if rng.random() < 0.5 else one for one in values), 0]
    if rng.random() < 0.5:
        at = int(rng.integers(0, 6))
        choices = BAD_TIMES if at == 0 else BAD_PRICES
        row[at] = choices[int(rng.integers(0, len(choices)))]
    if rng.random() < 0.1:
        row[2], row[3] = row[3], row[2]
    return row


def _accepted(rows: list[list[Any]]) -> dict[int, tuple[float | None, ...]]:
    """What comes through: the page as JSON, its rows paired and read; None for a volume that is not known."""
    answer = parse_body("binance", json.dumps(rows))
    bars = bars_from_rows("binance", KEY, parse_rows("binance", answer, parse), 1).bars
    rows_read = zip(bars.open_time.tolist(), bars.ohlcv_TF.tolist(), strict=True)
    return {time: tuple(None if math.isnan(one) else one for one in values) for time, values in rows_read}


if __name__ == "__main__":
    main()
