"""The grouped forward pass is chronos-forecasting's own, for every kind of batch, as one graph.

Contexts and measure are those of `tests.benchmarks.equality`, which tells what counts as equal, and runs the whole grid
at full size. Here are the edges of each dimension, and the pairs of dimensions that have code in common.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from forecaster.model.chronos2.checkpoint_config import Architecture
from forecaster.model.chronos2.core import SMALLEST_SCALE, Core, Missing, Shape, standardise
from forecaster.model.training.pretrain import PATCH, TrainingPlan, build_model
from tests.benchmarks.equality import (
    CONSTANTS,
    KINDS,
    Case,
    Forecast,
    a_whole_patch,
    a_whole_row,
    compare,
    constant,
    load,
    make_context,
    measure,
    nothing_missing,
    one_row_far_away,
    one_row_late,
    one_tick,
    pair_of,
    random_model,
    run_ours,
    run_upstream,
    scattered_bars,
    some_bars,
    the_middle,
    the_start,
    uneven_rows,
)

WIDE = TrainingPlan(
    context_length=8192,
    reference_patch=False,
    output_patches=64,
    d_model=64,
    d_kv=16,
    d_ff=128,
    num_layers=2,
    num_heads=4,
)
"""As much context and horizon as amazon/chronos-2 has, in a small model."""
SHALLOW = dataclasses.replace(WIDE, num_layers=1)
"""For upstream's own graph breaks, before its layers."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """On a busy machine two threads wait for each other: these small batches took seven times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def nano():
    return load("nano")


@pytest.fixture(scope="module")
def wide():
    return pair_of(random_model(WIDE))


def unknown_future(rows):
    """What upstream's pipeline passes when there are no covariates."""
    return {
        "context": make_context(rows, 64),
        "group_ids": torch.zeros(rows, dtype=torch.long),
        "future_covariates": torch.full((rows, PATCH), torch.nan),
        "num_output_patches": 1,
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_checkpoint_equals_upstream(nano, kind):
    """Every kind of context, of several patches."""
    assert measure(nano, Case("nano", 4, 48, kind)).equal


@pytest.mark.parametrize("group", [1, 5])
@pytest.mark.parametrize(
    "kind",
    [nothing_missing, one_row_late, uneven_rows, a_whole_row, one_row_far_away],
    ids=lambda kind: kind.__name__,
)
def test_groups_of_another_size_equal_upstream(nano, group, kind):
    """With different rows: a group of one attends to itself only, one of five is masked by row."""
    assert measure(nano, Case("nano", group, 48, kind)).equal


@pytest.mark.parametrize(
    ("bars", "kind"),
    [
        (16, nothing_missing),
        (16, the_start),
        (16, a_whole_patch),
        (16, one_tick),
        (512, nothing_missing),
        (512, scattered_bars),
        (512, the_middle),
    ],
)
def test_shortest_and_longest_context_equal_upstream(nano, bars, kind):
    """One patch, which may be missing, and as many as in training."""
    assert measure(nano, Case("nano", 4, bars, kind)).equal


@pytest.mark.parametrize(
    ("group", "bars", "kind"),
    [
        (4, 8192, nothing_missing),
        (4, 8192, the_middle),
        (4, 8192, uneven_rows),
        (1, 272, the_start),
        (5, 272, one_row_late),
    ],
)
def test_long_contexts_equal_upstream(wide, group, bars, kind):
    assert measure(wide, Case("wide", group, bars, kind)).equal


@pytest.mark.parametrize("level", CONSTANTS)
def test_constants_equal_upstream(nano, level):
    """The deviation of such a row is 0 or rounding error."""
    differences = {bars: measure(nano, Case("nano", 4, bars, constant, level)) for bars in (16, 48, 512)}

    assert [bars for bars, difference in differences.items() if not difference.equal] == []


def test_long_constant_equals_upstream(wide):
    """With 8,176 bars at 1.1e6, float32 does not hold the exact mean, as it does for all other lengths."""
    assert measure(wide, Case("wide", 4, 8176, constant, 1.1e6)).equal


@pytest.mark.parametrize(
    ("patches", "level", "group"), [(1, 1e-6, 4), (1, 1e6, 4), (2, 1e6, 1), (3, 1.0, 4), (4, 1e-6, 5)]
)
def test_checkpoint_equals_upstream_at_every_horizon_and_level(nano, patches, level, group):
    assert measure(nano, Case("nano", group, 128, level=level, patches=patches)).equal


@pytest.mark.parametrize(
    ("patches", "bars", "kind"),
    [
        (64, 16, nothing_missing),
        (64, 16, one_row_late),
        (17, 512, scattered_bars),
        (64, 512, one_row_late),
        (64, 8192, nothing_missing),
    ],
)
def test_long_horizons_equal_upstream(wide, patches, bars, kind):
    """Longer than the context, as long, and shorter."""
    assert measure(wide, Case("wide", 4, bars, kind, patches=patches)).equal


@pytest.mark.parametrize(
    ("kind", "level"),
    [*((kind, 100.0) for kind in KINDS), *((constant, level) for level in CONSTANTS)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_rows_are_standardised_as_in_upstream_bit_for_bit(nano, kind, level):
    """So that rows whose spread is hidden by their level have upstream's mean and deviation too."""
    for bars in (16, 48, 512, 8176, 8192):
        context_BT = make_context(5, bars, kind, level)
        standard_BT, loc_B1, scale_B1 = standardise(context_BT)
        ours, theirs = (standard_BT.arcsinh(), (loc_B1, scale_B1)), nano.upstream.instance_norm(context_BT)

        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("level", "exact"), [(7.0, True), (0.1, False)])
def test_constants_have_a_mean_that_float32_holds_or_not(level, exact):
    """If it does not, the row's deviation is rounding error."""
    _, _, scale_B1 = standardise(make_context(1, 48, constant, level))

    assert (float(scale_B1) == pytest.approx(SMALLEST_SCALE)) is exact


@pytest.mark.parametrize("model", ["nano", "wide"])
def test_comparison_sees_another_group_size(request, model):
    pair, context_BT = request.getfixturevalue(model), make_context(20, 64)
    difference = compare(run_ours(pair.ours, context_BT, 1, 5), run_upstream(pair.upstream, context_BT, 1, 4))

    assert not difference.equal
    assert difference.share > 0.01


@pytest.mark.parametrize("layer", [0, 1], ids=["time", "group"])
def test_comparison_sees_attention_that_is_a_plain_average(wide, layer):
    """Attention matters with the random weights."""
    flat = copy.deepcopy(wide.ours)
    for block in flat.encoder.block:
        block.layer[layer].self_attention.q.weight.zero_()
    context_BT = make_context(8, 512)
    difference = compare(run_ours(flat, context_BT, 1, 4), run_upstream(wide.upstream, context_BT, 1, 4))

    assert not difference.equal
    assert difference.share > 0.01


def test_comparison_sees_what_the_level_hides(nano):
    """Two models' forecasts of a constant at 1.1e6 are equal in float32, but the comparison detects the difference."""
    other = copy.deepcopy(nano.ours)
    other.output_patch_embedding.output_layer.bias.mul_(1.01)
    context_BT = make_context(4, 64, constant, 1.1e6)
    difference = compare(run_ours(other, context_BT, 1, 4), run_upstream(nano.upstream, context_BT, 1, 4))

    assert difference.share == 0.0
    assert not difference.equal


@pytest.mark.parametrize(
    ("level", "spread", "step", "equal"),
    [
        (1.0, 1.0, 0.5e-4, True),
        (1.0, 1.0, 2e-4, False),
        (1e6, 0.0, 0.0625, True),
        (1e6, 0.0, 0.125, False),
        (1.0, 1.0, torch.nan, False),
    ],
)
def test_comparison_has_a_limit_for_each_row(level, spread, step, equal):
    """1e-4 of the row's own spread, whatever the others'; one unit in the last place where that is finer."""
    theirs_BQH = torch.stack([torch.linspace(0, 1e9, 21), level + torch.linspace(0, spread, 21)])[:, :, None]
    ours_BQH = theirs_BQH.clone()
    ours_BQH[1, 3] += step
    deviations_BQH = torch.zeros(2, 21, 1)
    difference = compare(Forecast(ours_BQH, deviations_BQH), Forecast(theirs_BQH, deviations_BQH))

    assert difference.equal is equal


@pytest.mark.parametrize("model", ["nano", "wide"])
def test_ordinary_checkpoints_are_supported(request, model):
    ours, _ = request.getfixturevalue(model)

    assert ours.config.unsupported is None


@pytest.mark.parametrize(
    ("setting", "value", "word"),
    [("use_reg_token", False, "REG"), ("use_arcsinh", False, "arcsinh"), ("input_patch_stride", 8, "stride 8")],
)
def test_unsupported_checkpoint_has_a_reason(setting, value, word):
    config = build_model(WIDE).config
    config.chronos_config[setting] = value

    assert word in Architecture.model_validate(config.to_dict()).unsupported


def test_upstream_ignores_unknown_future_covariates(nano):
    """NaN covariates, as upstream's pipeline passes, and none at all: the same, bit for bit."""
    asked = unknown_future(4)

    assert torch.equal(
        nano.upstream(**asked).quantile_preds, run_upstream(nano.upstream, asked["context"], 1, 4).prices
    )


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        (nothing_missing, Missing.NOTHING),
        (some_bars, Missing.BARS),
        (scattered_bars, Missing.BARS),
        (the_start, Missing.PATCHES),
        (one_row_late, Missing.PATCHES),
        (a_whole_row, Missing.PATCHES),
    ],
    ids=lambda value: getattr(value, "__name__", value.name if isinstance(value, Missing) else None),
)
def test_missing_values_are_detected_on_the_host(kind, missing):
    assert Missing.of(make_context(4, 64, kind), PATCH) is missing


@pytest.mark.compiler
@pytest.mark.parametrize("missing", Missing)
def test_tracing_reports_no_graph_break(nano, missing):
    explanation = torch._dynamo.explain(Core(nano.ours, Shape(8, 64, 1, missing)))(standardise(make_context(8, 64))[0])

    assert (explanation.graph_count, explanation.graph_break_count) == (1, 0)


@pytest.mark.compiler
def test_upstream_breaks_its_graph_at_the_check_of_future_covariates():
    """The one data-dependent branch on the way: a check that cannot fire where no mask is given."""
    with torch.no_grad():
        explanation = torch._dynamo.explain(random_model(SHALLOW))(**unknown_future(4))

    assert {reason.user_stack[-1].name for reason in explanation.break_reasons} == {"_prepare_patched_future"}


@pytest.mark.parametrize(("ask", "grows"), [(run_ours, False), (run_upstream, True)], ids=["ours", "upstream"])
def test_memory_grows_with_the_square_of_the_batch_only_in_upstream(nano, ask, grows):
    """No tensor of a batch of 1,024 rows is more than sixteen times its largest for 64 rows; upstream's is."""
    model = nano.ours if ask is run_ours else nano.upstream

    def largest(rows):
        sizes = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                tensors = out if isinstance(out, tuple) else (out,)
                sizes.extend(one.untyped_storage().nbytes() for one in tensors if torch.is_tensor(one))
                return out

        with Watch():
            ask(model, make_context(rows, 64, the_start), 1, 4)
        return max(sizes)

    assert (largest(1024) > 16 * largest(64)) is grows
