"""How often verdicts on simulated losses are wrong, beside how often they say that they may be.

`python -m tests.benchmarks.significance` draws thousands of pairs of forecasters for each length and overlap, prints a
line of JSON for each, and ends with 1 where a share lies outside of what is promised. The tests of significance do the
same for a few of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from rich.progress import Progress

from forecaster.accuracy.significance import confidence_set, diebold_mariano, min_cases, skill_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

RUNS: Final = 2000


class Proof(NamedTuple):
    """What is counted over runs of one kind, and the shares that are as promised."""

    name: str
    n: int
    ahead: int
    share: Callable[[int], float]
    least: float
    most: float


def overlapping(random: np.random.Generator, ahead: int, n: int, runs: int = 1) -> NDArray[np.float64]:
    """Values as forecasts `ahead` bars ahead leave them: each shares all but one of its terms with the next."""
    sums = random.normal(size=(runs, n + ahead)).cumsum(axis=1)
    return sums[:, ahead:] - sums[:, :-ahead]


def equal_losses(ahead: int, n: int, models: int = 2, seed: int = 7, runs: int = RUNS) -> NDArray[np.float64]:
    """Absolute errors of equally good forecasters, (models, runs, n), of which a half of each variance is common."""
    random = np.random.default_rng(seed)
    common = overlapping(random, ahead, n, runs)
    return np.stack([np.abs(common + overlapping(random, ahead, n, runs)) for _ in range(models)])


def false_alarms(ahead: int, n: int, runs: int, *, errors: bool = False) -> float:
    """Share of runs in which equally good forecasters are told apart, at 5 %; of plain errors, or of losses."""
    losses = equal_losses(ahead, n, runs=runs)
    if errors:
        losses = overlapping(np.random.default_rng(7), ahead, n, runs)[None] * np.array([1, 0])[:, None, None]
    return float(np.mean([diebold_mariano(*pair, ahead - 1).p_value < 0.05 for pair in losses.swapaxes(0, 1)]))


def intervals_that_hold(ahead: int, n: int, runs: int) -> float:
    """Share of runs in which the interval holds a true skill of exactly 0.1, at 95 %."""
    losses = equal_losses(ahead, n, runs=runs) * np.array([0.9, 1])[:, None, None]
    made = np.array([skill_interval(*pair, ahead - 1) for pair in losses.swapaxes(0, 1)])
    return float(((made[:, 0] <= 0.1) & (made[:, 1] >= 0.1)).mean())


def whole_sets(ahead: int, n: int, runs: int) -> float:
    """Share of runs in which none of three equally good models is left out, at 10 %."""
    losses = equal_losses(ahead, n, models=3, runs=runs).swapaxes(0, 1)
    return float(np.mean([len(confidence_set(dict(zip("abc", one, strict=True)), ahead - 1)) == 3 for one in losses]))


def proofs() -> Iterator[Proof]:
    """Every length with every overlap, and the fewest cases that a verdict is given on."""
    for ahead, n, errors in product((1, 4, 24), (250, 1000), (False, True)):
        name = "false alarms of errors" if errors else "false alarms of losses"
        yield Proof(
            name, n, ahead, lambda runs, a=ahead, n=n, e=errors: false_alarms(a, n, runs, errors=e), 0.035, 0.065
        )
    for ahead in (1, 4, 24):
        n = min_cases(ahead - 1)
        yield Proof("false alarms", n, ahead, lambda runs, a=ahead, n=n: false_alarms(a, n, runs), 0.03, 0.07)
    for ahead, n in ((1, 30), (1, 250), (4, 250), (24, 250), (24, 1000)):
        yield Proof("interval", n, ahead, lambda runs, a=ahead, n=n: intervals_that_hold(a, n, runs), 0.93, 0.97)
    for ahead in (1, 4, 24):
        yield Proof("whole set", 250, ahead, lambda runs, a=ahead: whole_sets(a, 250, runs), 0.88, 0.95)


def main() -> None:
    """Count, and print a line of JSON for each proof; ends with 1 where a share is not as promised."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    runs, wrong = parser.parse_args().runs, 0
    with Progress() as progress:
        for proof in progress.track(list(proofs()), description="proofs"):
            share = proof.share(runs)
            wrong += not proof.least < share < proof.most
            record = {"proof": proof.name, "cases": proof.n, "ahead": proof.ahead, "runs": runs, "share": share}
            sys.stdout.write(json.dumps(record | {"least": proof.least, "most": proof.most}) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
