"""Our forward pass compared with chronos-forecasting's own, on the same weights: the largest difference of each case.

Run: `python -m tests.benchmarks.equality [--size nano|base]`; without `--size`, both. Writes `results/equality.md`
and exits 1 when a case is not equal. tests/model/chronos2/test_core.py uses its contexts, measure and some cases.

The measure. The spread of a row is the range of upstream's forecast of it, over all quantile levels and steps. Rows are
not pooled, since their levels may differ. Two forecasts are equal when the largest difference of each row is at most
`TOLERANCE` of its spread. Where that is below the precision of float32 at the level of the row, prices may differ by
one unit in the last place. (A constant at 1.1e6 has a spread of 1e-5; the next float32 is 0.125 away.) Such rows are
counted and reported. All rows must also be equal in deviations: the outputs before they are multiplied by the row's
deviation and its mean is added.

Shapes: as in `forecaster.model.chronos2.core`.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from forecaster.config import NANO
from forecaster.model.chronos2.architecture import Chronos2
from forecaster.model.chronos2.checkpoint import load_checkpoint
from forecaster.model.chronos2.checkpoint_config import Architecture
from forecaster.model.chronos2.checkpoint_files import NANO_FOLDER
from forecaster.model.chronos2.core import grouped_forward
from forecaster.model.training.pretrain import PATCH, TrainingPlan, build_model
from tests.benchmarks.model_speed import BASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chronos.chronos2 import Chronos2Model

TOLERANCE = 1e-4
RESULT = Path(__file__).parent / "results" / "equality.md"
SIZES = ("nano", "base")
GROUPS = (1, 4, 5)
LEVELS = (1e-6, 1e-3, 1.0, 1e3, 1e6)
CONSTANTS = (7.0, 0.1, 1e-6, 1.1e6, 1_234_567.8)
"""Of the numbers of bars here, float32 has the exact mean of 7.0 at each, of 1.1e6 at all but 8,176, of 0.1 at none."""

PAGE = """\
# Equal to upstream's forward pass, {day}

`{command}`: {seconds:,.0f} s, eager, float32.
{cpu}, {threads} threads, torch {torch}, chronos-forecasting {chronos}.

nano is the bundled checkpoint; base has random weights of amazon/chronos-2's size, seed 0. Upstream is its
`Chronos2Model`, called with `context`, `group_ids` and `num_output_patches`. A row's spread is the largest less the
smallest number of upstream's answer for it, over all levels and steps; a share is that of the worst row, whose spread
is given. *In deviations*: before the row's mean and deviation are put back. *Coarse*: how many rows have a spread of
which 1e-4 is less than one unit in the last place of float32 at the row's level, and the largest difference there, in
such units. Equal: at most 1e-4 in deviations for every row, at most 1e-4 of the spread for every row that is not
coarse, and at most one unit for those that are.

{summary}

| size | group | bars | context | level | horizon | spread | max Δ / spread | in deviations | coarse: units | equal |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}
"""


def nothing_missing(context_BT: torch.Tensor) -> None:
    """Keep every bar."""


def some_bars(context_BT: torch.Tensor) -> None:
    """Lose four bars in a row."""
    context_BT[:, 3:7] = torch.nan


def scattered_bars(context_BT: torch.Tensor) -> None:
    """Lose every seventh bar, at a different offset in each row."""
    rows, bars = context_BT.shape
    context_BT[(torch.arange(bars) + torch.arange(rows)[:, None]) % 7 == 0] = torch.nan


def the_start(context_BT: torch.Tensor) -> None:
    """Start half-way."""
    context_BT[:, : context_BT.shape[1] // 2] = torch.nan


def the_middle(context_BT: torch.Tensor) -> None:
    """Lose the middle third."""
    bars = context_BT.shape[1]
    context_BT[:, bars // 3 : 2 * bars // 3] = torch.nan


def a_whole_patch(context_BT: torch.Tensor) -> None:
    """Lose the patch in the middle; of 16 bars, all."""
    first = context_BT.shape[1] // PATCH // 2 * PATCH
    context_BT[:, first : first + PATCH] = torch.nan


def one_row_late(context_BT: torch.Tensor) -> None:
    """Start the first row of the first group half-way."""
    context_BT[0, : context_BT.shape[1] // 2] = torch.nan


def uneven_rows(context_BT: torch.Tensor) -> None:
    """Start each row later than the one before; the last has one bar."""
    rows, bars = context_BT.shape
    for row in range(rows):
        context_BT[row, : row * (bars - 1) // max(rows - 1, 1)] = torch.nan


def a_whole_row(context_BT: torch.Tensor) -> None:
    """Lose the last row of the last group."""
    context_BT[-1] = torch.nan


def one_row_far_away(context_BT: torch.Tensor) -> None:
    """Multiply the last row of the last group by a million, like a volume."""
    context_BT[-1] *= 1e6


def one_tick(context_BT: torch.Tensor) -> None:
    """Move once, by a ten-thousandth, at the last bar."""
    constant(context_BT)
    context_BT[:, -1] = 1.0001


def constant(context_BT: torch.Tensor) -> None:
    """Never move."""
    context_BT[:] = 1.0


MISSING = (
    nothing_missing,
    some_bars,
    scattered_bars,
    the_start,
    the_middle,
    a_whole_patch,
    one_row_late,
    uneven_rows,
    a_whole_row,
)
KINDS = (*MISSING, one_row_far_away, one_tick)


class Case(NamedTuple):
    """One line of the table: a number of groups of rows, `kind` of context at `level`, `patches` of output."""

    size: str
    group: int
    bars: int
    kind: Callable[[torch.Tensor], None] = nothing_missing
    level: float = 100.0
    patches: int = 1


class Forecast(NamedTuple):
    """Quantiles (B, Q, H), and the same in units of each row's deviation from its mean."""

    prices: torch.Tensor
    deviations: torch.Tensor


class Difference(NamedTuple):
    """Difference of two forecasts.

    Attributes:
        spread: of the row with the largest share.
        share: largest difference over its own row's spread.
        share_in_deviations: the same, before mean and deviation are added.
        coarse_rows: rows where `TOLERANCE` of the spread is less than one unit in the last place of the level.
        share_of_others: `share` without those.
        units: largest difference of those, in units in the last place.
    """

    spread: float
    share: float
    share_in_deviations: float
    coarse_rows: int
    share_of_others: float
    units: float

    @property
    def equal(self) -> bool:
        """Whether every row is within tolerance."""
        return max(self.share_in_deviations, self.share_of_others) <= TOLERANCE and self.units <= 1.0


def random_model(plan: TrainingPlan) -> Chronos2Model:
    """Make a model of the plan's size with random weights with which attention and groups matter.

    Upstream's initial weights are small: attention is a plain average, and the forecasts of different groups differ
    by 0.3 % of their spread. Here scores have a deviation near 1, biases are not 0, norms differ by channel, and
    outputs are in the flat part of sinh, so that no single step dominates the spread.
    """
    torch.manual_seed(plan.seed)
    model = build_model(plan).eval().requires_grad_(requires_grad=False)
    for name, weight in model.named_parameters():
        if name == "shared.weight":
            weight.normal_()
        elif weight.dim() == 2:
            weight.normal_(std=weight.shape[1] ** -0.5)
        elif name.endswith("bias"):
            weight.normal_(std=0.1)
        else:
            weight.uniform_(0.5, 1.5)
        if name.endswith("q.weight"):
            weight.mul_(plan.d_kv**-0.5)
        elif name.startswith("output_patch_embedding"):
            weight.mul_(0.5)
    return model


class Pair(NamedTuple):
    """The same weights in our modules and in upstream's."""

    ours: Chronos2
    upstream: Chronos2Model


def load(size: str) -> Pair:
    """Load the bundled checkpoint with both loaders, or make random weights of the size of amazon/chronos-2."""
    if size == "base":
        return pair_of(random_model(BASE))
    from chronos.chronos2 import Chronos2Model  # it loads transformers

    upstream = Chronos2Model.from_pretrained(NANO_FOLDER).eval().requires_grad_(requires_grad=False)
    return Pair(load_checkpoint(NANO, None, "cpu")[0], upstream)


def pair_of(upstream: Chronos2Model) -> Pair:
    """Put the weights of upstream's model into our modules."""
    ours = Chronos2(Architecture.model_validate(upstream.config.to_dict()))
    ours.load_state_dict(upstream.state_dict())
    return Pair(ours.eval().requires_grad_(requires_grad=False), upstream)


def make_context(
    rows: int, bars: int, kind: Callable[[torch.Tensor], None] = nothing_missing, level: float = 100.0
) -> torch.Tensor:
    """Make random walks (B, T) with a deviation of 1 % around `level`, and apply `kind`."""
    walk = np.random.default_rng([rows, bars]).standard_normal((rows, bars)).cumsum(axis=1)
    walk = (walk - walk.mean(axis=1, keepdims=True)) / walk.std(axis=1, keepdims=True)
    context_BT = torch.from_numpy(1 + 0.01 * walk)
    kind(context_BT)
    return (level * context_BT).float()


@torch.no_grad()
def run_upstream(model: Chronos2Model, context_BT: torch.Tensor, patches: int, group: int) -> Forecast:
    """Run chronos-forecasting's own forward pass."""
    ids_B = torch.arange(len(context_BT)) // group
    return _watched(
        model,
        patches,
        lambda: model(context=context_BT, group_ids=ids_B, num_output_patches=patches).quantile_preds,
    )


@torch.no_grad()
def run_ours(model: Chronos2 | Chronos2Model, context_BT: torch.Tensor, patches: int, group: int) -> Forecast:
    """Run our forward pass."""
    return _watched(model, patches, lambda: grouped_forward(model, context_BT, patches, group))


def _watched(model: Chronos2 | Chronos2Model, patches: int, run: Callable[[], torch.Tensor]) -> Forecast:
    """Run a forward pass, and record the output of the last layer, which both have."""
    outputs: list[torch.Tensor] = []
    with model.output_patch_embedding.register_forward_hook(lambda _layer, _inputs, out: outputs.append(out)):
        prices_BQH = run()
    (output_BNK,) = outputs
    output_BNQp = output_BNK.view(len(output_BNK), patches, -1, PATCH)
    return Forecast(prices_BQH, output_BNQp.transpose(1, 2).flatten(2).sinh())


def compare(ours: Forecast, theirs: Forecast) -> Difference:
    """Measure the difference; upstream's forecast gives the spread."""
    difference_B, spread_B, share_B = _shares(ours.prices, theirs.prices)
    unit_B = torch.from_numpy(np.spacing(theirs.prices.abs().amax(dim=(1, 2)).numpy()))
    coarse_B = unit_B > TOLERANCE * spread_B
    return Difference(
        spread=float(spread_B[share_B.argmax()]),
        share=float(share_B.max()),
        share_in_deviations=float(_shares(ours.deviations, theirs.deviations)[2].max()),
        coarse_rows=int(coarse_B.sum()),
        share_of_others=float(share_B[~coarse_B].max()) if not coarse_B.all() else 0.0,
        units=float((difference_B / unit_B)[coarse_B].max()) if coarse_B.any() else 0.0,
    )


def _shares(ours_BQH: torch.Tensor, theirs_BQH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Largest difference of each row, its spread, and their ratio: 0 where they are equal, inf where one is NaN."""
    difference_B = (ours_BQH - theirs_BQH).abs().amax(dim=(1, 2))
    spread_B = theirs_BQH.amax(dim=(1, 2)) - theirs_BQH.amin(dim=(1, 2))
    share_B = torch.where(difference_B == 0, 0.0, difference_B / spread_B)
    return difference_B, spread_B, share_B.nan_to_num(nan=torch.inf)


def all_cases(size: str) -> Iterator[Case]:
    """All combinations where they are cheap; from 512 bars on the base size, one change at a time."""
    short, horizons = ((16, 48, 256, 512), (1, 2, 3, 4)) if size == "nano" else ((16, 48, 256), (1, 2, 3, 17, 64))
    for group, bars in product(GROUPS, short):
        yield from (Case(size, group, bars, kind) for kind in KINDS)
        yield from (Case(size, group, bars, constant, level) for level in CONSTANTS)
    for group, level, patches in product(GROUPS, LEVELS, horizons):
        yield Case(size, group, 64, level=level, patches=patches)
    for bars in () if size == "nano" else (512, 2048, 8192):
        yield from (Case(size, group, bars) for group in GROUPS if group != 4)
        yield from (Case(size, 4, bars, kind) for kind in KINDS)
        yield from (Case(size, 4, bars, constant, level) for level in CONSTANTS)
        yield from (Case(size, 4, bars, level=level) for level in (LEVELS[0], LEVELS[-1]))
        yield Case(size, 4, bars, patches=64)
    if size == "base":
        yield Case(size, 4, 8176, constant, 1.1e6)


def measure(pair: Pair, case: Case) -> Difference:
    """Run one case: three groups of rows, two for long contexts."""
    rows = case.group * (3 if case.bars <= 512 else 2)
    context_BT = make_context(rows, case.bars, case.kind, case.level)
    ours = run_ours(pair.ours, context_BT, case.patches, case.group)
    return compare(ours, run_upstream(pair.upstream, context_BT, case.patches, case.group))


def main() -> int:
    """Run the cases, write the table, and print the worst cases on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.equality", description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, help="one size only")
    selected = parser.parse_args().size
    cases = [case for size in SIZES if selected in (None, size) for case in all_cases(size)]
    console, pairs, results = Console(stderr=True), {}, []
    started = time.monotonic()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.size}, {case.bars:,} bars")
            if case.size not in pairs:
                pairs = {case.size: load(case.size)}
            results.append((case, measure(pairs[case.size], case)))
            progress.advance(task)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(_page(results, selected, time.monotonic() - started))
    unequal = [case for case, difference in results if not difference.equal]
    console.print(
        _summary(results), *(f"not equal: {_line(case)}" for case in unequal), sep="\n", markup=False, soft_wrap=True
    )
    return 1 if unequal else 0


def _page(results: list[tuple[Case, Difference]], selected: str | None, seconds: float) -> str:
    """Format hardware, summary and one row per case."""
    return PAGE.format(
        day=time.strftime("%Y-%m-%d"),
        command="python -m tests.benchmarks.equality" + (f" --size {selected}" if selected else ""),
        seconds=seconds,
        cpu=next(
            line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
        ),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        chronos=version("chronos-forecasting"),
        summary=_summary(results),
        rows="\n".join(f"| {_line(case)} | {_figures(difference)} |" for case, difference in results),
    )


def _summary(results: list[tuple[Case, Difference]]) -> str:
    """Summarise the worst cases of each size, in three lines."""
    lines = []
    for size in sorted({case.size for case, _ in results}, reverse=True):
        of_size = [(case, difference) for case, difference in results if case.size == size]
        equal = sum(difference.equal for _, difference in of_size)
        lines.append(f"- {size}: {equal} of {len(of_size)} cases equal")
        for words, key in (
            ("max Δ / spread, coarse rows aside", "share_of_others"),
            ("in deviations, all rows", "share_in_deviations"),
        ):
            case, difference = max(of_size, key=lambda result, key=key: getattr(result[1], key))
            lines.append(f"  - worst {words}: {getattr(difference, key):.1e} ({_line(case)})")
        coarse = [difference.units for _, difference in of_size if difference.coarse_rows]
        lines.append(
            f"  - {len(coarse)} cases with coarse rows; largest difference there: {max(coarse, default=0):g} units"
        )
    return "\n".join(lines)


def _line(case: Case) -> str:
    """Format the columns of a case."""
    kind = case.kind.__name__.replace("_", " ")
    level = f"{case.level:.8g}"
    return f"{case.size} | {case.group} | {case.bars:,} | {kind} | {level} | {case.patches * PATCH:,}"


def _figures(difference: Difference) -> str:
    """Format the columns of a difference."""
    coarse = f"{difference.coarse_rows}: {difference.units:g}" if difference.coarse_rows else ""
    shares = f"{difference.share:.1e} | {difference.share_in_deviations:.1e}"
    return f"{difference.spread:.3g} | {shares} | {coarse} | {'yes' if difference.equal else '**no**'}"


if __name__ == "__main__":
    sys.exit(main())
