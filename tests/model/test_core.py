"""The grouped forward pass is chronos-forecasting's own, for every kind of batch, as one graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from chronos.chronos2 import Chronos2Model

from forecaster.model.chronos2 import NANO_FOLDER
from forecaster.model.core import Missing, grouped_forward

PATCH = 16
TOLERANCE = 1e-4
"""Largest difference as a share of the forecast's 80 % interval, in the median over steps."""


@pytest.fixture(scope="module")
def model():
    return Chronos2Model.from_pretrained(NANO_FOLDER).eval().requires_grad_(requires_grad=False)


def nothing_missing(context_BT):
    pass


def some_bars(context_BT):
    context_BT[:, 3:7] = torch.nan


def the_start(context_BT):
    context_BT[:, : context_BT.shape[1] // 2] = torch.nan


def a_whole_patch(context_BT):
    context_BT[:, PATCH : 2 * PATCH] = torch.nan


def one_row_late(context_BT):
    """Only the first row of the first group starts half-way."""
    context_BT[0, : context_BT.shape[1] // 2] = torch.nan


def a_whole_row(context_BT):
    context_BT[-1] = torch.nan


def constant(context_BT):
    context_BT[:] = 7.0


KINDS = [nothing_missing, some_bars, the_start, a_whole_patch, one_row_late, a_whole_row, constant]


def make_context(rows, bars, kind=nothing_missing, level=100.0):
    noise = np.random.default_rng(bars).standard_normal((rows, bars)).cumsum(axis=1)
    context_BT = torch.from_numpy(level * (1 + 0.01 * noise)).float()
    kind(context_BT)
    return context_BT


def ask_upstream(model, context_BT, patches, group):
    ids_B = torch.arange(len(context_BT)) // group
    return model(context=context_BT, group_ids=ids_B, num_output_patches=patches).quantile_preds


def ask_ours(model, context_BT, patches, group):
    return grouped_forward(model, group)(context_BT, patches, Missing.of(context_BT, PATCH))


def difference(ours_BQH, theirs_BQH):
    """Largest difference over the 80 % interval of its own row."""
    spread_B = (theirs_BQH[:, 18] - theirs_BQH[:, 2]).median(dim=1).values
    return float(((ours_BQH - theirs_BQH).abs().amax(dim=(1, 2)) / spread_B).max())


@pytest.mark.parametrize("group", [1, 4, 5])
@pytest.mark.parametrize("bars", [16, 48, 256, 512])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_equal_to_upstream(model, group, bars, kind):
    context_BT = make_context(3 * group, bars, kind)

    assert difference(ask_ours(model, context_BT, 1, group), ask_upstream(model, context_BT, 1, group)) < TOLERANCE


@pytest.mark.parametrize("patches", [1, 2, 3, 4])
@pytest.mark.parametrize("level", [1e-6, 1.0, 1e6])
def test_equal_at_every_horizon_and_level(model, patches, level):
    context_BT = make_context(8, 128, level=level)

    assert difference(ask_ours(model, context_BT, patches, 4), ask_upstream(model, context_BT, patches, 4)) < TOLERANCE


def test_comparison_can_fail(model):
    """Another group size is another model, and the comparison sees it."""
    context_BT = make_context(20, 64)

    assert difference(ask_ours(model, context_BT, 1, 5), ask_upstream(model, context_BT, 1, 4)) > TOLERANCE


def test_upstream_ignores_unknown_future_covariates(model):
    """NaN covariates, as upstream's pipeline passes, and none at all: the same, bit by bit."""
    context_BT = make_context(4, 64)
    unknown = torch.full((4, PATCH), torch.nan)
    ids_B = torch.zeros(4, dtype=torch.long)
    passed = model(context=context_BT, group_ids=ids_B, future_covariates=unknown, num_output_patches=1)

    assert torch.equal(passed.quantile_preds, ask_upstream(model, context_BT, 1, 4))


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        (nothing_missing, Missing.NOTHING),
        (some_bars, Missing.BARS),
        (the_start, Missing.PATCHES),
        (one_row_late, Missing.PATCHES),
    ],
    ids=lambda value: getattr(value, "__name__", value.name if isinstance(value, Missing) else None),
)
def test_batches_are_told_apart_on_the_host(kind, missing):
    assert Missing.of(make_context(4, 64, kind), PATCH) is missing


@pytest.mark.parametrize("missing", Missing)
def test_tracing_reports_no_graph_break(model, missing):
    forward = grouped_forward(model)
    explanation = torch._dynamo.explain(forward)(make_context(8, 64), 1, missing)

    assert (explanation.graph_count, explanation.graph_break_count) == (1, 0)


def test_memory_does_not_grow_with_the_square_of_the_batch(model):
    """No tensor of a batch of 512 rows is more than eight times its largest for 64 rows."""

    def largest(rows):
        sizes = []

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                sizes.extend(one.numel() for one in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(one))
                return out

        with Watch():
            ask_ours(model, make_context(rows, 64, the_start), 1, 4)
        return max(sizes)

    assert largest(512) <= 8 * largest(64)
