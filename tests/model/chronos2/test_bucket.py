"""Buckets: sizes, padding, and the probes that check compiled code."""

from __future__ import annotations

import pytest
import torch

from forecaster.forecast import ENGINE_NOISE
from forecaster.model.chronos2.bucket import Bucket, State, bucket_rows, padded, probe
from forecaster.model.chronos2.core import Missing, Shape

SHAPE = Shape(8, 64, 1)


def make_bucket():
    return Bucket(SHAPE, eager=torch.nn.Identity(), reason="")


def make_answer():
    return torch.arange(8 * 21 * 16.0).reshape(8, 21, 16)


@pytest.mark.parametrize("group", [1, 4, 5])
def test_few_sizes_are_compiled(group):
    """Each number of groups is rounded up to one of them; none is padded by more than a quarter."""
    kept = {bucket_rows(groups * group, group) for groups in range(1, 1025)}

    assert len(kept) == 36
    for groups in range(1, 1025):
        rows = bucket_rows(groups * group, group)
        assert groups * group <= rows <= 1.25 * groups * group
        assert bucket_rows(rows, group) == rows


def test_a_part_of_a_group_counts_as_one():
    assert bucket_rows(5, 4) == 8


def test_padding_repeats_the_last_group():
    standard_BT = torch.arange(4 * 2.0).reshape(4, 2)
    full_BT = padded(standard_BT, Shape(12, 2, 1))

    assert torch.equal(full_BT, standard_BT.repeat(3, 1))
    assert padded(standard_BT, Shape(4, 2, 1)) is standard_BT


@pytest.mark.parametrize("missing", Missing)
@pytest.mark.parametrize("bars", [16, 64, 512])
def test_probes_have_their_shape(missing, bars):
    shape = Shape(8, bars, 1, missing)
    standard_BT = probe(shape, 1, 16)

    assert standard_BT.shape == (8, bars)
    assert Missing.of(standard_BT, 16) is missing
    assert not standard_BT.isinf().any()
    assert not torch.equal(standard_BT.nan_to_num(), probe(shape, 2, 16).nan_to_num())


@pytest.mark.parametrize(("noises", "equal"), [(0.5, True), (2.0, False), (float("nan"), False), (float("inf"), False)])
def test_one_element_decides(noises, equal):
    """The tolerance is relative to the spread of the element's own row."""
    expected_BQH, found_BQH = make_answer(), make_answer()
    spread = float(expected_BQH[5].max() - expected_BQH[5].min())
    found_BQH[5, 3, 7] += noises * ENGINE_NOISE * spread
    bucket = make_bucket()
    fault = bucket.compare(expected_BQH, found_BQH)

    assert (fault is None) == equal
    assert (bucket.difference is not None) == equal


def test_compiled_code_serves_only_in_state_serving():
    bucket = make_bucket()
    bucket.compiled = torch.nn.Identity()

    assert bucket.compiled_for(8) is None
    bucket.state = State.SERVING
    assert bucket.compiled_for(8) is bucket.compiled
